"""Many simulated runs with a known truth, as run folders: what a statistical promise can be tested against."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from perfkit.config import Scenario
from perfkit.load.service_model import Change
from perfkit.load.simulate import services_of, simulate_requests
from perfkit.model import Run
from perfkit.readers.requests_frame import run_from_requests
from perfkit.store import RunStore

TOOL = "perfkit simulate"
PAUSE_S = 60.0  # between the end of one run and the beginning of the next


@dataclass(frozen=True, slots=True)
class SimulatedHistory:
    """How runs differ that nothing but chance sets apart, and where more than chance does.

    Each service has a level of its own in every run, on the log scale: a wave with the standard deviation
    `variation_pct` and the correlation `autocorrelation` between neighbouring runs, plus drift, plus outliers.

    Parameters
    ----------
    runs
        How many, at least 1.
    variation_pct
        Standard deviation between runs, percent, 0 to 100.
    autocorrelation
        Of the levels of neighbouring runs (AR(1)), -1 < value < 1.
    outlier_pct, outlier_factor
        Percent of the runs (0 to 100) in which service times are multiplied by the factor (> 0).
    drift_pct
        Change of service times from the first run to the last, percent, above -90.
    changes, change_at
        Service -> what changes about it, from the run with this number (from 0) on.
    """

    runs: int
    variation_pct: float = 2.0
    autocorrelation: float = 0.0
    outlier_pct: float = 0.0
    outlier_factor: float = 1.3
    drift_pct: float = 0.0
    changes: Mapping[str, Change] = field(default_factory=dict)
    change_at: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "runs": (1, 100_000),
            "variation_pct": (0, 100),
            "autocorrelation": (-0.99, 0.99),
            "outlier_pct": (0, 100),
            "outlier_factor": (0.1, 100),
            "drift_pct": (-90, 1000),
            "change_at": (0, 100_000),
        }
        for name, (low, high) in allowed.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: must be from {low:g} to {high:g}, got {value!r}")

    def factors(self, service: str, seed: int) -> tuple[float, ...]:
        """Of all service times of a service, one per run; 1 is the model's own level."""
        waves, outliers = (random.Random(f"{seed} {service} {of}") for of in ("wave", "outlier"))
        innovation = math.sqrt(1.0 - self.autocorrelation**2)
        level, found = waves.gauss(0.0, 1.0), []
        for number in range(self.runs):
            if number:
                level = self.autocorrelation * level + innovation * waves.gauss(0.0, 1.0)
            drift = math.log1p(self.drift_pct / 100) * number / max(self.runs - 1, 1)
            is_outlier = 100 * outliers.random() < self.outlier_pct
            shift = math.log(self.outlier_factor) if is_outlier else 0.0
            found.append(math.exp(level * self.variation_pct / 100 + drift + shift))
        return tuple(found)


def simulate_history(
    scenario: Scenario,
    seed: int,
    history: SimulatedHistory,
    store: RunStore,
    *,
    started_at: datetime | None = None,
    labels: Mapping[str, str] | None = None,
    on_run: Callable[[Run], None] | None = None,
) -> tuple[str, ...]:
    """Write run folders with every request; the same seed and beginning give the same measurements.

    Parameters
    ----------
    started_at
        Begin of the first run, aware; None: so that the last has just ended.
    on_run
        Called with each run when it is in the store.

    Returns
    -------
    tuple of str
        Run ids, oldest first.

    Raises
    ------
    SettingsError
        The scenario cannot be simulated.
    ValueError
        A change is for a service that is not called.
    """
    step = timedelta(seconds=(scenario.duration_s or 0.0) + PAUSE_S)
    begin = started_at or datetime.now(UTC).replace(microsecond=0) - history.runs * step
    names = services_of(scenario)
    if unknown := history.changes.keys() - set(names):
        raise ValueError(f"changes: {', '.join(sorted(unknown))}: not called here; called are {', '.join(names)}")
    factors = {name: history.factors(name, seed) for name in names}
    ids = []
    for number in range(history.runs):
        changes = {name: _change(history, name, number, factors[name][number]) for name in names}
        at = begin + number * step
        frame = simulate_requests(scenario, seed * 100_003 + number, started_at=at, changes=changes, run_to_run_pct=0.0)
        told = {**(labels or {}), **({"changed": "yes"} if history.changes and number >= history.change_at else {})}
        run = run_from_requests(frame, scenario=scenario.name, **told)
        run = replace(run, tool=TOOL, profile=scenario.profile)
        ids.append(store.add(run))
        if on_run is not None:
            on_run(run)
    return tuple(ids)


def _change(history: SimulatedHistory, name: str, number: int, factor: float) -> Change:
    injected = history.changes.get(name, Change()) if number >= history.change_at else Change()
    slower = 100.0 * ((1.0 + injected.slower_pct / 100.0) * factor - 1.0)
    return replace(injected, slower_pct=slower)
