"""The first process of a load container: takes a job from standard input and runs Locust under it.

Standard output carries the recorder's progress and nothing else; what Locust and the locustfile say goes to standard
error.  When standard input ends, whoever ordered the run is gone, and the run ends too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from perfkit.loadgen import environment
from perfkit.loadgen.container import FACTS, RESULTS
from perfkit.loadgen.locust_command import ORDERLY_END_S, RECORDER, without_locust_settings
from perfkit.model.installation import VERSION


def main() -> int:
    """Run Locust as ordered and return its exit code, 128 + N if a signal N ended it."""
    job = _read_job()
    facts = {"environment": environment.environment_fingerprint(), "versions": environment.versions()}
    try:
        folder = Path(RESULTS) / "source"
        folder.mkdir(exist_ok=True)
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"perfkit: the run folder cannot be written from the container: {error}") from error
    with _locust(job) as locust:
        threading.Thread(target=_end_when_abandoned, args=(locust,), daemon=True).start()
        code = locust.wait()
    return code if code >= 0 else 128 - code


def _read_job() -> Mapping[str, Any]:
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: nobody may hold it when Python ends
        line = stdin.readline()
    if not line:
        raise SystemExit("perfkit: no job came in. This program is started by: perfkit run --docker")
    job: Mapping[str, Any] = json.loads(line)
    if job["perfkit"] != VERSION:
        raise SystemExit(f"perfkit: the image has perfkit {VERSION}, its caller {job['perfkit']}")
    if not Path(job["locustfile"]).exists():
        raise SystemExit(
            "perfkit: the locustfile did not come into the container; an engine on another machine (DOCKER_HOST) "
            "cannot mount folders of this one"
        )
    return job


def _locust(job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start Locust, which is asked to end by the signals that come here."""
    progress = os.dup(1)
    files = f"{RECORDER},{job['locustfile']}"
    locust = subprocess.Popen(
        [sys.executable, "-P", "-m", "locust", "-f", files, *job["options"]],
        stdin=subprocess.DEVNULL,
        stdout=2,
        env={**without_locust_settings(os.environ), **job["environment"], "PERFKIT_PROGRESS_FD": str(progress)},
        pass_fds=(progress,),
        start_new_session=True,
    )

    def hand_on(number: int, _: FrameType | None) -> None:
        locust.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    os.close(progress)
    os.dup2(2, 1)  # the pipe of progress ends with Locust
    return locust


def _end_when_abandoned(locust: subprocess.Popen[bytes]) -> None:
    """Ask Locust to end when standard input does, and insist."""
    while os.read(0, 4096):
        pass
    locust.send_signal(signal.SIGINT)
    time.sleep(ORDERLY_END_S)
    locust.kill()


if __name__ == "__main__":
    sys.exit(main())
