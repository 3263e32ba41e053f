"""Where a run happened: machine and versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def environment_fingerprint() -> dict[str, str]:
    """The facts of this machine that make runs comparable: no name, no address, nothing secret."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def versions() -> dict[str, str]:
    """Versions of what took part in the measurement."""
    return {name: metadata.version(name) for name in ("perfkit", "locust", "gevent", "geventhttpclient")}
