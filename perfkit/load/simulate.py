"""Load tests of the demo services without load: the same users, queues and luck, computed instead of waited for.

A user calls a service, waits for the answer, thinks for 0.1 to 0.4 s and calls again, as in ``demo_locustfile.py``.
A service is a queue, first come first served, in front of a limited number of workers.  What HTTP and the load
generator add (about 1 ms a request) is left out.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from heapq import heapreplace
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.config import BUILT_IN_LOCUSTFILE, Scenario
from perfkit.document import dump_json, slug
from perfkit.errors import LoadError, SettingsError, StoreError, did_you_mean
from perfkit.load.locust_files import ENDINGS, write_locust_files
from perfkit.load.service_model import BODY_BYTES, MODELS, Change, draws, finish
from perfkit.whole_file import write_whole

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "PERFKIT_DEMO_WEIGHTS"
THINK_S = (0.1, 0.4)  # as demo_locustfile.py
DEFAULT_SPAWN_RATE = 1.0  # Locust's own


@dataclass(frozen=True, slots=True)
class SimulatedFiles:
    """What `simulate_files` wrote: the prefix of all names, Locust's four files, and the normalised metrics."""

    prefix: Path
    files: tuple[Path, ...]
    metrics: Path


def simulate_files(
    scenario: Scenario,
    seed: int,
    folder: Path,
    *,
    started_at: datetime | None = None,
    changes: Mapping[str, Change] | None = None,
    run_to_run_pct: float = 2.0,
) -> SimulatedFiles:
    """Simulate a load test and write what Locust would have written, and its metrics as JSON.

    The names are ``load_results_<scenario>_<YYYYmmdd_HHMMSS>`` (UTC) with ``_stats.csv``, ``_stats_history.csv``,
    ``_failures.csv``, ``_exceptions.csv`` and ``.json``.  The same seed and `started_at` give the same bytes.

    Parameters
    ----------
    scenario, seed, changes, run_to_run_pct
        As for `simulate_requests`.
    folder
        Created when it is missing.
    started_at
        Begin of the run, aware, without its fraction of a second: Locust's history counts whole seconds.  None: now.

    Raises
    ------
    SettingsError
        The scenario cannot be simulated.
    LoadError
        No request ended within the run's time, or Locust's writer failed.
    StoreError
        The folder cannot be written, or holds a run of that name.  Nothing that looks like a run is left behind.
    """
    started = _begin(started_at).replace(microsecond=0)
    frame = simulate_requests(scenario, seed, started_at=started, changes=changes, run_to_run_pct=run_to_run_pct)
    if frame.empty:
        raise LoadError(f"scenario {scenario.name!r}: no request ended in {scenario.duration_s:g} s; simulate longer")
    prefix = folder / f"load_results_{slug(scenario.name)}_{started:%Y%m%d_%H%M%S}"
    try:
        _refuse_existing(prefix)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".simulated-") as partial:
            _write(Path(partial) / prefix.name, frame, started.timestamp(), _users(scenario))
            files = _publish(Path(partial), prefix)
    except OSError as error:
        raise StoreError(f"{folder}: the files could not be written: {error.strerror or error}") from error
    return SimulatedFiles(prefix, files[:-1], files[-1])


def _begin(started_at: datetime | None) -> datetime:
    begin = started_at or datetime.now(UTC)
    if begin.tzinfo is None:
        raise ValueError(f"started_at must be an aware time, such as one with tzinfo=UTC, not {begin!r}")
    return begin.astimezone(UTC)


def _write(prefix: Path, frame: pd.DataFrame, started_s: float, users: list[int]) -> None:
    from perfkit.readers import read_run
    from perfkit.readers.metrics_json import pooled_metrics

    write_locust_files(prefix, frame, started_s, users)
    metrics = pooled_metrics([read_run(Path(f"{prefix}_stats.csv"))])
    write_whole(Path(f"{prefix}.json"), dump_json(metrics))


def _targets(prefix: Path) -> tuple[Path, ...]:
    return tuple(Path(f"{prefix}{ending}") for ending in (*ENDINGS, ".json"))


def _refuse_existing(prefix: Path) -> None:
    for target in _targets(prefix):
        if target.exists():
            raise StoreError(f"{target}: exists already and is kept; remove it, or choose another folder")


def _publish(partial: Path, prefix: Path) -> tuple[Path, ...]:
    """Give the files their names: all of them, or none."""
    _refuse_existing(prefix)  # a second simulation may have been quicker
    with ExitStack() as undo:
        for target in _targets(prefix):
            (partial / target.name).rename(target)
            undo.callback(target.unlink)
        undo.pop_all()
    return _targets(prefix)


def simulate_requests(
    scenario: Scenario,
    seed: int,
    *,
    started_at: datetime | None = None,
    changes: Mapping[str, Change] | None = None,
    run_to_run_pct: float = 2.0,
) -> pd.DataFrame:
    """The requests of one load test.

    Parameters
    ----------
    scenario
        One of the demo services' scenarios; its users, spawn rate, duration and weights count.
    seed
        The same seed gives the same requests.  With other `changes`, users and services meet the same luck.
    started_at
        Begin of the run, aware; None: now.
    changes
        Service name -> how it differs from its model.
    run_to_run_pct
        Standard deviation, in percent (0 to 100), of a factor on all service times of a service, drawn once per run.

    Returns
    -------
    DataFrame
        In order of their start: ``start`` (seconds since the epoch), ``service``, ``response_time_ms``, ``failed``,
        ``response_bytes``.  As with plain Locust, a request that has not ended when the time is over is not counted.

    Raises
    ------
    SettingsError
        The scenario cannot be simulated: it runs its user's own locustfile, or its weights or load profile are missing.
    ValueError
        A change is for a service that is not called; `run_to_run_pct` is out of range; `started_at` has no zone.
    """
    import pandas as pd

    begin_s = _begin(started_at).timestamp()
    weights = _weights(scenario)
    queues = _queues(weights, seed, changes or {}, run_to_run_pct)
    calls = _calls(queues, list(weights.values()), _spawn_times(scenario), seed, _load(scenario)[1])
    types = {"start": "float64", "service": "str", "response_time_ms": "float64", "failed": "bool"}
    frame = pd.DataFrame(list(calls), columns=list(types)).astype(types)  # an empty frame has no types of its own
    return frame.assign(start=frame["start"] + begin_s, response_bytes=BODY_BYTES)


def services_of(scenario: Scenario) -> tuple[str, ...]:
    """The services that a simulation of the scenario calls; ``SettingsError`` when it cannot be simulated."""
    return tuple(name for name, weight in _weights(scenario).items() if weight > 0)


def _weights(scenario: Scenario) -> dict[str, float]:
    """Service -> how often it is called, in proportion."""
    place = f"scenario {scenario.name!r}"
    if scenario.locustfile != BUILT_IN_LOCUSTFILE or not scenario.environment.get(WEIGHTS):
        reason = f"only scenarios with the built-in locustfile and {WEIGHTS} in their environment can be"
        raise SettingsError(f"{place}: cannot be simulated: nothing is known about the services it calls; {reason}")
    weights = {}
    for item in filter(None, scenario.environment[WEIGHTS].split(",")):
        name, _, text = item.partition("=")
        if name not in MODELS:
            known = f"{did_you_mean(name, MODELS)}; known are {', '.join(MODELS)}"
            raise SettingsError(f"{place}: {WEIGHTS}: unknown service {name!r}{known}")
        weights[name] = _weight(text, f"{place}: {WEIGHTS}: {name}")
    if not sum(weights.values()) > 0:
        raise SettingsError(f"{place}: {WEIGHTS}: at least one weight must be above 0")
    return weights


def _weight(text: str, place: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise SettingsError(f"{place}: expected a number >= 0, got {text!r}")
    return weight


def _load(scenario: Scenario) -> tuple[int, float]:
    if scenario.users is None or scenario.duration_s is None:
        raise SettingsError(f"scenario {scenario.name!r}: cannot be simulated without users and duration; give both")
    return scenario.users, scenario.duration_s


def _spawn_times(scenario: Scenario) -> list[float]:
    """Seconds after the begin at which each user starts: in bursts, as Locust's dispatcher does it."""
    users, _ = _load(scenario)
    rate = scenario.spawn_rate or DEFAULT_SPAWN_RATE
    burst = max(1, math.floor(rate))
    return [user // burst * burst / rate for user in range(users)]


def _users(scenario: Scenario) -> list[int]:
    """Users that run 0, 1, 2 ... seconds after the begin; Locust writes its first row before it starts any."""
    _, duration_s = _load(scenario)
    spawned = _spawn_times(scenario)
    return [bisect.bisect_left(spawned, second) for second in range(math.ceil(duration_s) + 1)]


class _Queue:
    """A service: requests wait, first come first served, for one of its workers."""

    __slots__ = ("_free", "_luck", "_stall", "name")

    def __init__(self, name: str, seed: int, change: Change, factor: float) -> None:
        model = replace(MODELS[name], median_ms=MODELS[name].median_ms * factor)
        self.name = name
        self._luck = draws(model, change, seed)
        self._stall = (change.stall_at_s, change.stall_at_s + change.stall_s)
        self._free = [0.0] * model.workers  # a heap: when each worker is free, in seconds after the begin

    def answer(self, arrival_s: float) -> tuple[float, bool]:
        """When a request ends and whether it failed; arrivals must come in order of time."""
        seconds, failed = next(self._luck)
        end_s = finish(max(arrival_s, self._free[0]), seconds, *self._stall)
        heapreplace(self._free, end_s)
        return end_s, failed


def _queues(weights: Mapping[str, float], seed: int, changes: Mapping[str, Change], noise_pct: float) -> list[_Queue]:
    if unknown := set(changes) - set(weights):
        raise ValueError(f"changes must be for {', '.join(weights)}, not {', '.join(sorted(unknown))}")
    if not 0 <= noise_pct <= 100:
        raise ValueError(f"run_to_run_pct must be from 0 to 100, not {noise_pct!r}")
    factors = {name: math.exp(random.Random(f"{seed} {name} run").gauss(0.0, noise_pct / 100)) for name in weights}
    return [_Queue(name, seed, changes.get(name, Change()), factors[name]) for name in weights]


def _calls(
    queues: list[_Queue], weights: list[float], spawned: list[float], seed: int, duration_s: float
) -> Iterator[tuple[float, str, float, bool]]:
    """Start in seconds after the begin, service, response time in ms, failed; of each request that ends in time."""
    minds = [random.Random(f"{seed} user {user}") for user in range(len(spawned))]
    bounds = list(itertools.accumulate(weights))
    waking = [(at_s, user) for user, at_s in enumerate(spawned)]  # sorted, hence a heap
    while (now_s := waking[0][0]) < duration_s:
        user = waking[0][1]
        queue = queues[bisect.bisect_right(bounds, minds[user].random() * bounds[-1])]
        end_s, failed = queue.answer(now_s)
        heapreplace(waking, (end_s + minds[user].uniform(*THINK_S), user))
        if end_s <= duration_s:
            yield now_s, queue.name, 1000 * (end_s - now_s), failed
