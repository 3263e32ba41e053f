"""perfkit: did this build get slower, and can I believe the answer?

The public names below are imported on first use, so that ``import perfkit`` and ``perfkit --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.errors import (
        DeliveryError,
        HistoryError,
        LoadError,
        LoadStopped,
        MissingExtra,
        NotComparable,
        NotStored,
        PerfkitError,
        ReadError,
        RenderError,
        SettingsError,
        StoreError,
        UnknownFormat,
        UnsetVariable,
    )
    from perfkit.load_profile import LoadProfile
    from perfkit.model import Comparison, Finding, Metric, Run, ServiceStats, Validity, Verdict
    from perfkit.policy import Policy
    from perfkit.readers import read_run, run_from_requests
    from perfkit.stats.changepoints import ChangePoint, find_change_points
    from perfkit.stats.watch import Watch, watch_history
    from perfkit.store import RunStore
    from perfkit.workflow import compare

__version__ = "0.1.0"

_HOMES = {
    "perfkit.errors": (
        "DeliveryError",
        "HistoryError",
        "LoadError",
        "LoadStopped",
        "MissingExtra",
        "NotComparable",
        "NotStored",
        "PerfkitError",
        "ReadError",
        "RenderError",
        "SettingsError",
        "StoreError",
        "UnknownFormat",
        "UnsetVariable",
    ),
    "perfkit.load_profile": ("LoadProfile",),
    "perfkit.model": (
        "Comparison",
        "Finding",
        "Metric",
        "Run",
        "ServiceStats",
        "Validity",
        "Verdict",
    ),
    "perfkit.policy": ("Policy",),
    "perfkit.readers": ("read_run", "run_from_requests"),
    "perfkit.stats.changepoints": ("ChangePoint", "find_change_points"),
    "perfkit.stats.watch": ("Watch", "watch_history"),
    "perfkit.store": ("RunStore",),
    "perfkit.workflow": ("compare",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ChangePoint",
    "Comparison",
    "DeliveryError",
    "Finding",
    "HistoryError",
    "LoadError",
    "LoadProfile",
    "LoadStopped",
    "Metric",
    "MissingExtra",
    "NotComparable",
    "NotStored",
    "PerfkitError",
    "Policy",
    "ReadError",
    "RenderError",
    "Run",
    "RunStore",
    "ServiceStats",
    "SettingsError",
    "StoreError",
    "UnknownFormat",
    "UnsetVariable",
    "Validity",
    "Verdict",
    "Watch",
    "__version__",
    "compare",
    "find_change_points",
    "read_run",
    "run_from_requests",
    "watch_history",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'perfkit' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
