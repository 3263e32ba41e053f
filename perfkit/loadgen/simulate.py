"""Load tests of the demo services without load: the same users, queues and luck, computed instead of waited for.

A user calls a service, waits for the response, thinks for 0.1 to 0.4 s and calls again, as in ``demo_locustfile.py``.
A service is a queue, first come first served, in front of a limited number of workers.  What HTTP and the load
generator add (about 1 ms a request) is left out.

`simulate_files` writes what Locust would have written; `simulate_history` writes many runs with a known truth, on which
a statistical promise can be tested.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from heapq import heapreplace
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.config.settings import BUILT_IN_LOCUSTFILE, Scenario
from perfkit.loadgen.demo_services import BODY_BYTES, MODELS, Change, completion_time, draw_requests
from perfkit.loadgen.locust_file_writer import ENDINGS, write_locust_files
from perfkit.model.codec import dump_json
from perfkit.model.errors import LoadError, SettingsError, StoreError, did_you_mean, refusals
from perfkit.model.files import atomic_write
from perfkit.model.serialization import slug
from perfkit.runs.requests import run_from_requests
from perfkit.runs.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "PERFKIT_DEMO_WEIGHTS"
THINK_S = (0.1, 0.4)  # as demo_locustfile.py
DEFAULT_SPAWN_RATE = 1.0  # Locust's own


def simulate_files(
    scenario: Scenario,
    seed: int,
    folder: Path,
    *,
    started_at: datetime | None = None,
    changes: Mapping[str, Change] | None = None,
) -> tuple[Path, ...]:
    """Simulate a load test and write what Locust would have written, and its metrics as JSON.

    The names are ``load_results_<scenario>_<YYYYmmdd_HHMMSS>`` (UTC) with `ENDINGS`, in whose order they are returned,
    and ``.json``.  The same seed and `started_at` (of which whole seconds count) give the same bytes.  Parameters and
    errors are those of `simulate_requests`; further ``LoadError`` when no request ended within the run's time or
    Locust's writer failed, ``StoreError`` when the folder cannot be written or holds a run of that name.  Nothing that
    looks like a run is left behind then.
    """
    from perfkit.runs.metrics_json import pooled_metrics
    from perfkit.runs.read import read_run

    started = _begin(started_at).replace(microsecond=0)
    frame = simulate_requests(scenario, seed, started_at=started, changes=changes)
    if frame.empty:
        raise LoadError(f"scenario {scenario.name!r}: no request ended in {scenario.duration_s:g} s; simulate longer")
    prefix = folder / f"load_results_{slug(scenario.name)}_{started:%Y%m%d_%H%M%S}"
    with refusals(f"{folder}: the files could not be written"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".simulated-") as partial:
            unpublished = Path(partial) / prefix.name
            write_locust_files(unpublished, frame, started.timestamp(), users_per_second(scenario))
            metrics = pooled_metrics([read_run(Path(f"{unpublished}_stats.csv"))])
            atomic_write(Path(f"{unpublished}.json"), dump_json(metrics))
            return publish(Path(partial), prefix)


def _begin(started_at: datetime | None) -> datetime:
    begin = started_at or datetime.now(UTC)
    if begin.tzinfo is None:
        raise ValueError(f"started_at must be an aware time, such as one with tzinfo=UTC, not {begin!r}")
    return begin.astimezone(UTC)


def publish(partial: Path, prefix: Path) -> tuple[Path, ...]:
    """Give the files of a simulation their names: all of them, or none; ``StoreError`` when one of them exists."""
    paths = tuple(Path(f"{prefix}{ending}") for ending in (*ENDINGS, ".json"))
    if taken := next(filter(Path.exists, paths), None):
        raise StoreError(f"{taken}: exists already and is kept; remove it, or choose another folder")
    with ExitStack() as undo:
        for path in paths:
            (partial / path.name).rename(path)
            undo.callback(path.unlink)
        undo.pop_all()
    return paths


def simulate_requests(
    scenario: Scenario,
    seed: int,
    *,
    started_at: datetime | None = None,
    changes: Mapping[str, Change] | None = None,
    run_to_run_pct: float = 2.0,
) -> pd.DataFrame:
    """The requests of one load test, in order of their start.

    Columns: ``start`` (seconds since the epoch), ``service``, ``response_time_ms``, ``failed``, ``response_bytes``.  As
    with plain Locust, a request that has not ended when the time is over is not counted.

    The same seed gives the same requests; with other ``changes`` (of services, by name), users and services meet the
    same luck.  ``started_at`` is aware; None: now.  ``run_to_run_pct`` is the standard deviation, in percent (0 to
    100), of a factor on all service times of a service, drawn once per run.

    ``SettingsError`` for a scenario that cannot be simulated: it runs its user's own locustfile, or its weights or load
    profile are missing.  ``ValueError`` for a change of a service that is not called, or a value out of range.
    """
    import pandas as pd

    weights, changes = service_weights(scenario), changes or {}
    if unknown := set(changes) - set(weights):
        raise ValueError(f"changes must be for {', '.join(weights)}, not {', '.join(sorted(unknown))}")
    if not 0 <= run_to_run_pct <= 100:
        raise ValueError(f"run_to_run_pct must be from 0 to 100, not {run_to_run_pct!r}")
    begin_s, duration_s, spawned = _begin(started_at).timestamp(), scenario.duration_s or 0.0, spawn_times(scenario)
    queues = []
    for name in weights:
        factor = math.exp(random.Random(f"{seed} {name} run").gauss(0.0, run_to_run_pct / 100))
        queues.append(_Queue(name, seed, changes.get(name, Change()), factor))
    minds = [random.Random(f"{seed} user {user}") for user in range(len(spawned))]
    bounds = list(itertools.accumulate(weights.values()))
    waking = [(at_s, user) for user, at_s in enumerate(spawned)]  # sorted, hence a heap
    rows = []
    while (now_s := waking[0][0]) < duration_s:
        user = waking[0][1]
        queue = queues[bisect.bisect_right(bounds, minds[user].random() * bounds[-1])]
        end_s, failed = queue.answer(now_s)
        heapreplace(waking, (end_s + minds[user].uniform(*THINK_S), user))
        if end_s <= duration_s:
            rows.append((now_s, queue.name, 1000 * (end_s - now_s), failed))
    types = {"start": "float64", "service": "str", "response_time_ms": "float64", "failed": "bool"}
    frame = pd.DataFrame(rows, columns=list(types)).astype(types)  # an empty frame has no types of its own
    return frame.assign(start=frame["start"] + begin_s, response_bytes=BODY_BYTES)


class _Queue:
    """A service: requests wait, first come first served, for one of its workers."""

    __slots__ = ("_free", "_luck", "_stall", "name")

    def __init__(self, name: str, seed: int, change: Change, factor: float) -> None:
        model = replace(MODELS[name], median_ms=MODELS[name].median_ms * factor)
        self.name = name
        self._luck = draw_requests(model, change, seed)
        self._stall = (change.stall_at_s, change.stall_at_s + change.stall_s)
        self._free = [0.0] * model.workers  # a heap: when each worker is free, in seconds after the begin

    def answer(self, arrival_s: float) -> tuple[float, bool]:
        """When a request ends and whether it failed; arrivals must come in order of time."""
        seconds, failed = next(self._luck)
        end_s = completion_time(max(arrival_s, self._free[0]), seconds, *self._stall)
        heapreplace(self._free, end_s)
        return end_s, failed


def service_weights(scenario: Scenario) -> dict[str, float]:
    """Service -> how often it is called, in proportion; ``SettingsError`` when a scenario cannot be simulated."""
    where = f"scenario {scenario.name!r}"
    if scenario.locustfile != BUILT_IN_LOCUSTFILE or not scenario.environment.get(WEIGHTS):
        reason = f"only scenarios with the built-in locustfile and {WEIGHTS} in their environment can be"
        raise SettingsError(f"{where}: cannot be simulated: nothing is known about the services it calls; {reason}")
    weights = {}
    for entry in filter(None, scenario.environment[WEIGHTS].split(",")):
        name, _, text = entry.partition("=")
        if name not in MODELS:
            hint = f"{did_you_mean(name, MODELS)}; known are {', '.join(MODELS)}"
            raise SettingsError(f"{where}: {WEIGHTS}: unknown service {name!r}{hint}")
        try:
            weights[name] = float(text)
        except ValueError:
            weights[name] = math.nan
        if not 0 <= weights[name] < math.inf:
            raise SettingsError(f"{where}: {WEIGHTS}: {name}: expected a number >= 0, got {text!r}")
    if not sum(weights.values()) > 0:
        raise SettingsError(f"{where}: {WEIGHTS}: at least one weight must be above 0")
    if scenario.users is None or scenario.duration_s is None:
        raise SettingsError(f"{where}: cannot be simulated without users and duration; give both")
    return weights


def spawn_times(scenario: Scenario) -> list[float]:
    """Seconds after the begin at which each user starts: in bursts, as Locust's dispatcher does it."""
    rate = scenario.spawn_rate or DEFAULT_SPAWN_RATE
    burst = max(1, math.floor(rate))
    return [user // burst * burst / rate for user in range(scenario.users or 0)]


def users_per_second(scenario: Scenario) -> list[int]:
    """Users that run 0, 1, 2 ... seconds after the begin; Locust writes its first row before it starts any."""
    spawned = spawn_times(scenario)
    return [bisect.bisect_left(spawned, second) for second in range(math.ceil(scenario.duration_s or 0.0) + 1)]


TOOL = "perfkit simulate"
PAUSE_S = 60.0  # between the end of one run and the beginning of the next


@dataclass(frozen=True, slots=True)
class SimulatedHistory:
    """How runs differ that nothing but chance sets apart, and where more than chance does.

    Each service has a level of its own in every run, on the log scale: a wave with the standard deviation
    `variation_pct` and the correlation `autocorrelation` between neighbouring runs, plus drift, plus outliers.
    """

    runs: int  # how many, at least 1
    variation_pct: float = 2.0  # standard deviation between runs, percent, 0 to 100
    autocorrelation: float = 0.0  # of the levels of neighbouring runs (AR(1)), -1 < value < 1
    outlier_pct: float = 0.0  # of the runs, in which
    outlier_factor: float = 1.3  # service times are multiplied by this
    drift_pct: float = 0.0  # change of service times from the first run to the last, percent, above -90
    changes: Mapping[str, Change] = field(default_factory=dict)  # service -> what changes about it,
    change_at: int = 0  # from the run with this number (from 0) on

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
        level, factors = waves.gauss(0.0, 1.0), []
        for number in range(self.runs):
            if number:
                level = self.autocorrelation * level + innovation * waves.gauss(0.0, 1.0)
            drift = math.log1p(self.drift_pct / 100) * number / max(self.runs - 1, 1)
            is_outlier = 100 * outliers.random() < self.outlier_pct
            shift = math.log(self.outlier_factor) if is_outlier else 0.0
            factors.append(math.exp(level * self.variation_pct / 100 + drift + shift))
        return tuple(factors)


def simulate_history(
    scenario: Scenario,
    seed: int,
    history: SimulatedHistory,
    store: RunStore,
    *,
    started_at: datetime | None = None,
) -> tuple[str, ...]:
    """Write run folders with every request; the same seed and beginning give the same measurements.

    ``started_at`` is when the first run begins, aware; None: so that the last has just ended.  Returns the run ids,
    oldest first; raises as `simulate_requests`.
    """
    step = timedelta(seconds=(scenario.duration_s or 0.0) + PAUSE_S)
    begin = started_at or datetime.now(UTC).replace(microsecond=0) - history.runs * step
    names = [name for name, weight in service_weights(scenario).items() if weight > 0]
    if unknown := history.changes.keys() - set(names):
        raise ValueError(f"changes: {', '.join(sorted(unknown))}: not called here; called are {', '.join(names)}")
    factors = {name: history.factors(name, seed) for name in names}
    ids = []
    for number in range(history.runs):
        is_changed = bool(history.changes) and number >= history.change_at
        changes = {}
        for name in names:
            change = history.changes.get(name, Change()) if is_changed else Change()
            slower_pct = 100.0 * ((1.0 + change.slower_pct / 100.0) * factors[name][number] - 1.0)
            changes[name] = replace(change, slower_pct=slower_pct)
        at = begin + number * step
        frame = simulate_requests(scenario, seed * 100_003 + number, started_at=at, changes=changes, run_to_run_pct=0.0)
        truth = {"changed": "yes"} if is_changed else {}
        run = run_from_requests(frame, scenario=scenario.name, **truth)
        ids.append(store.add(replace(run, tool=TOOL, profile=scenario.profile)))
    return tuple(ids)
