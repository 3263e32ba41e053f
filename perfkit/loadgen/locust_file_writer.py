"""Requests -> the files that ``locust --csv PREFIX`` would have written for them.

Locust's own classes write them, so headers, order of columns and number formats are those of the installed version.
Importing Locust patches sockets and threads of the whole process (gevent), so it happens in a child process, which is
given everything by one Arrow stream on standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from perfkit.model.errors import LoadError, StoreError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

EXIT_DISK = 74  # EX_IOERR: the child could not write; the reason is on its standard output
ENDINGS = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_stats.csv")  # without the last it is not a set
COLUMNS = ("end_s", "service", "response_time_ms", "failed", "response_bytes")
_METADATA = b"perfkit"


def write_locust_files(prefix: Path, frame: pd.DataFrame, started_s: float, users: Sequence[int]) -> tuple[Path, ...]:
    """Write ``PREFIX_stats.csv`` and its companions.

    Parameters
    ----------
    prefix
        Folder, which must exist, and beginning of the names.
    frame
        One row per request: ``start`` (seconds since the epoch), ``service``, ``response_time_ms``, ``failed``,
        ``response_bytes``.  Any order; Locust counts a request when it ends.
    started_s
        Begin of the run, in seconds since the epoch.
    users
        Users that run 0, 1, 2 ... seconds after the begin; one row of the history each.

    Returns
    -------
    tuple of Path
        The four files, in the order of `ENDINGS`.

    Raises
    ------
    StoreError
        They could not be written (disk full, no permission).
    LoadError
        Locust's writer failed; with its last words.
    """
    metadata = {"prefix": str(prefix), "started_s": started_s, "users": [int(count) for count in users]}
    last_s = started_s + len(users) - 1
    child = subprocess.run(
        [sys.executable, "-P", "-m", "perfkit.loadgen.locust_file_writer"],
        input=_stream(frame, last_s, metadata),
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


def _stream(frame: pd.DataFrame, last_s: float, metadata: Any) -> Any:
    """The requests in the order in which they end, and the metadata, as an Arrow stream."""
    import numpy as np
    import pyarrow as pa

    # epoch seconds as floats are exact to 0.2 us: a request that ends with the run must not end after it
    end_s = np.minimum(frame["start"].to_numpy() + frame["response_time_ms"].to_numpy() / 1000, last_s)
    order = np.argsort(end_s, kind="stable")
    columns = [end_s[order], *(frame[name].to_numpy()[order] for name in COLUMNS[1:])]
    table = pa.table(dict(zip(COLUMNS, columns, strict=True)))
    table = table.replace_schema_metadata({_METADATA: json.dumps(metadata).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


class _EndOfTime(Exception):
    """The simulated time has come to its end."""


class _Replay:
    """Locust's clock: time passes only while Locust sleeps, and brings the requests that ended meanwhile."""

    def __init__(self, started_s: float, users: Sequence[int], table: pa.Table) -> None:
        self.started_s, self.users = started_s, users
        self.now_s, self.elapsed_s = started_s, 0
        self.left = list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))[::-1]
        self.environment: Any = None
        self.error: Exception | None = None

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: int) -> None:
        self.elapsed_s += seconds
        if self.elapsed_s >= len(self.users):
            raise _EndOfTime
        until_s = self.started_s + self.elapsed_s
        while self.left and self.left[-1][0] <= until_s:
            self.now_s, service, response_time_ms, failed, size = self.left.pop()
            self.environment.stats.log_request("GET", service, response_time_ms, size)
            if failed:
                self.environment.stats.log_error("GET", service, self.error)
        self.now_s = until_s
        self.environment.runner.user_count = self.users[self.elapsed_s]


def _write(prefix: str, replay: _Replay) -> None:
    """Let Locust's endless CSV loop run through the simulated time."""
    import locust.stats
    from locust.contrib.fasthttp import LocustBadStatusCode

    locust.stats.time = locust.stats.gevent = replay
    replay.error = LocustBadStatusCode(None, code=500)  # what a FastHttpUser makes of status 500
    runner = SimpleNamespace(user_count=replay.users[0], exceptions={})
    replay.environment = SimpleNamespace(stats=locust.stats.RequestStats(), runner=runner)
    percentiles = locust.stats.PERCENTILES_TO_REPORT
    writer = locust.stats.StatsCSVFileWriter(replay.environment, percentiles, prefix, full_history=False)
    try:
        writer.stats_writer()
    except _EndOfTime:
        writer.close_files()


def main() -> int:
    """Read an Arrow stream from standard input and write the files that it asks for; returns the exit code."""
    import pyarrow as pa

    with pa.ipc.open_stream(sys.stdin.buffer) as stream:
        table = stream.read_all()
    metadata = json.loads(table.schema.metadata[_METADATA])
    try:
        _write(metadata["prefix"], _Replay(metadata["started_s"], metadata["users"], table))
    except OSError as error:
        sys.stdout.write(error.strerror or str(error))
        return EXIT_DISK
    return 0


if __name__ == "__main__":
    sys.exit(main())
