"""Requests -> the files that ``locust --csv PREFIX`` would have written for them.

Locust's own classes write them, so headers, order of columns and number formats are those of the installed version.
Importing Locust patches sockets and threads of the whole process (gevent), so it happens in a child process: this file,
run as a program, with all that it needs on standard input.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EXIT_DISK = 74  # EX_IOERR: the child could not write; the reason is on its standard output
ENDINGS = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_stats.csv")  # without the last it is not a set


def write_locust_files(prefix: Path, frame: pd.DataFrame, started_s: float, users: Sequence[int]) -> tuple[Path, ...]:
    """Write ``PREFIX_stats.csv`` and its companions into a folder that exists; returns the four files as in `ENDINGS`.

    ``frame`` has a row per request, in any order: ``start`` (seconds since the epoch), ``service``,
    ``response_time_ms``, ``failed``, ``response_bytes``; Locust counts a request when it ends.  ``users`` run 0, 1, 2
    ... seconds after ``started_s`` (since the epoch): one row of the history each.  ``StoreError`` when they cannot be
    written, ``LoadError`` when Locust's writer fails.
    """
    from perfkit.model.errors import LoadError, StoreError

    # epoch seconds as floats are exact to 0.2 us: a request that ends with the run must not end after it
    end_s = (frame["start"] + frame["response_time_ms"] / 1000).clip(upper=started_s + len(users) - 1)
    ended = frame.assign(end_s=end_s).sort_values("end_s", kind="stable")
    columns = ("end_s", "service", "response_time_ms", "failed", "response_bytes")
    requests = list(zip(*(ended[name].tolist() for name in columns), strict=True))
    child = subprocess.run(
        [sys.executable, "-P", __file__],
        input=pickle.dumps((str(prefix), started_s, [int(count) for count in users], requests)),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the child imports what we import
    )
    if child.returncode == EXIT_DISK:
        raise StoreError(f"{prefix.parent}: cannot be written: {child.stdout.decode(errors='replace').strip()}")
    if child.returncode != 0:
        words = "\n  ".join(child.stderr.decode(errors="replace").splitlines()[-5:])
        raise LoadError(f"{prefix}: Locust's CSV writer failed with exit code {child.returncode}:\n  {words}")
    return tuple(Path(f"{prefix}{ending}") for ending in ENDINGS)


class _Clock:
    """Locust's clock: time passes only while Locust sleeps, and brings the requests that ended meanwhile."""

    def __init__(self, started_s: float, users: list[int], requests: list[tuple[Any, ...]]) -> None:
        self.started_s, self.users, self.left = started_s, users, requests[::-1]
        self.now_s, self.elapsed_s = started_s, 0
        self.environment: Any = None
        self.error: Exception | None = None

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: int) -> None:
        self.elapsed_s += seconds
        if self.elapsed_s >= len(self.users):
            raise StopIteration
        until_s = self.started_s + self.elapsed_s
        while self.left and self.left[-1][0] <= until_s:
            self.now_s, service, response_time_ms, failed, size = self.left.pop()
            self.environment.stats.log_request("GET", service, response_time_ms, size)
            if failed:
                self.environment.stats.log_error("GET", service, self.error)
        self.now_s = until_s
        self.environment.runner.user_count = self.users[self.elapsed_s]


def main() -> int:
    """Let Locust's endless CSV loop run through the time that standard input describes; returns the exit code."""
    import locust.stats
    from locust.contrib.fasthttp import LocustBadStatusCode

    prefix, started_s, users, requests = pickle.load(sys.stdin.buffer)
    clock = locust.stats.time = locust.stats.gevent = _Clock(started_s, users, requests)
    clock.error = LocustBadStatusCode(None, code=500)  # what a FastHttpUser makes of status 500
    runner = SimpleNamespace(user_count=users[0], exceptions={})
    clock.environment = SimpleNamespace(stats=locust.stats.RequestStats(), runner=runner)
    try:
        percentiles = locust.stats.PERCENTILES_TO_REPORT
        writer = locust.stats.StatsCSVFileWriter(clock.environment, percentiles, prefix, full_history=False)
        try:
            writer.stats_writer()
        except StopIteration:  # the end of the time
            writer.close_files()
    except OSError as error:
        sys.stdout.write(error.strerror or str(error))
        return EXIT_DISK
    return 0


if __name__ == "__main__":
    sys.exit(main())
