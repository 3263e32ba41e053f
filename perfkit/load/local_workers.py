"""Worker processes on the machine of the master, started by the master itself, so that they end with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


class LocalWorkers:
    """Processes of Locust that connect to the master in this process; they write to its log."""

    def __init__(self, count: int, locustfiles: str, host: str, port: int, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-P", "-m", "locust", "-f", locustfiles, "--worker"]
        address = ["--master-host", host, "--master-port", str(port), *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "PERFKIT_LOCAL_WORKERS"}
        self._processes: Sequence[subprocess.Popen[bytes]] = [
            subprocess.Popen([*command, *address], stdin=subprocess.DEVNULL, env=environment) for _ in range(count)
        ]

    @property
    def dead(self) -> int:
        """How many have ended."""
        return sum(process.poll() is not None for process in self._processes)

    def end(self) -> None:
        """End those that did not end when they were told to."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
