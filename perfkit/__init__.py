"""perfkit: did this build get slower, and can I believe the answer?

The public names below are imported on first use, so that ``import perfkit`` and ``perfkit --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.analysis.compare import compare
    from perfkit.config.policy import Policy
    from perfkit.model.errors import (
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
    from perfkit.model.load_profile import LoadProfile
    from perfkit.model.records import Comparison, Finding, Metric, Run, ServiceStats, Validity, Verdict
    from perfkit.runs.read import read_run
    from perfkit.runs.requests import run_from_requests
    from perfkit.runs.store import RunStore
    from perfkit.stats.changepoints import ChangePoint, find_change_points
    from perfkit.stats.sequential import Watch, watch_history

_HOMES = {
    "perfkit.model.installation": ("VERSION",),
    "perfkit.analysis.compare": ("compare",),
    "perfkit.config.policy": ("Policy",),
    "perfkit.model.errors": (
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
    "perfkit.model.load_profile": ("LoadProfile",),
    "perfkit.model.records": (
        "Comparison",
        "Finding",
        "Metric",
        "Run",
        "ServiceStats",
        "Validity",
        "Verdict",
    ),
    "perfkit.runs.read": ("read_run",),
    "perfkit.runs.requests": ("run_from_requests",),
    "perfkit.runs.store": ("RunStore",),
    "perfkit.stats.changepoints": (
        "ChangePoint",
        "find_change_points",
    ),
    "perfkit.stats.sequential": (
        "Watch",
        "watch_history",
    ),
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
    if name == "__version__":
        name = "VERSION"
    if name not in _HOME_OF:
        raise AttributeError(f"module 'perfkit' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
