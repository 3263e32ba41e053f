"""The runs of one scenario in time order, with each metric of each service as a series over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfkit.history.events import RunReference, Series
from perfkit.model.errors import NotStored
from perfkit.model.records import Check, Metric, Run, Severity, Validity, environment_of, standard_errors_of, values_of
from perfkit.runs.collection import in_time, labels_text
from perfkit.runs.requests import new_name
from perfkit.runs.validity import in_future, misdated
from perfkit.stats.changepoints import ChangePoint, Drift
from perfkit.stats.summary import Floats

if TYPE_CHECKING:
    from perfkit.runs.store import RunStore

Step = TypeVar("Step", ChangePoint, Drift)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A scenario's runs, oldest first; arrays have one value per run, shape ``(n_runs,)``."""

    scenario: str
    runs: tuple[RunReference, ...]
    series: Mapping[Series, Floats]  # ``NaN`` where the run is invalid or cannot say
    errors: Mapping[Series, Floats]  # standard errors within the runs, likewise
    # requests; 0 where a valid run has none, ``NaN`` where not known; a service may be absent
    counts: Mapping[str, Floats] = field(default_factory=dict)
    # factors by which values were multiplied, see `in_one_mix`
    scale: Mapping[Series, Floats] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)  # that runs must have to be in it

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def times(self) -> NDArray[np.datetime64]:
        """When each run started, UTC, shape ``(n_runs,)``; ``NaT`` where that is not known."""
        starts = [None if run.started_at is None else run.started_at.astimezone(UTC) for run in self.runs]
        return np.array([at and at.replace(tzinfo=None) for at in starts], "datetime64[ms]")

    def part(self, runs: Sequence[int]) -> Timeline:
        """The timeline of some of its runs, by index in order."""
        at = np.array(runs, dtype=np.intp)
        series, errors = (
            {key: values[at] for key, values in of_all.items() if not np.isnan(values[at]).all()}
            for of_all in (self.series, self.errors)
        )
        counts = {name: values[at] for name, values in self.counts.items()}
        scale = {key: values[at] for key, values in self.scale.items()}
        return Timeline(self.scenario, tuple(self.runs[i] for i in at), series, errors, counts, scale, self.labels)

    def scale_at(self, key: Series, run: int) -> float:
        """The factor of a series at one run; 1 where it has none."""
        return float(self.scale[key][run]) if key in self.scale else 1.0

    def unscale(self, key: Series, step: Step, run: int) -> Step:
        """A step or drift of a series with its levels as they were measured at a run."""
        factor = self.scale_at(key, run)
        return replace(step, before=step.before / factor, after=step.after / factor)

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(service for service, _ in self.series))


def timeline_of(scenario: str, runs: Iterable[Run]) -> Timeline:
    """Arrange the runs of a scenario in time; those of other scenarios are left out, invalid ones have no values."""
    ordered = in_time(run for run in runs if run.scenario == scenario)
    now = datetime.now(UTC)
    late = in_future([run.started_at for run in ordered], now)
    ordered = tuple(_misdated(run, now) if is_late else run for run, is_late in zip(ordered, late, strict=True))
    names = dict.fromkeys(service for run in ordered if run.validity.ok for service in run.services)
    series: dict[Series, Floats] = {}
    errors: dict[Series, Floats] = {}
    counts: dict[str, Floats] = {}
    unknown, no_requests = np.full(len(ordered), np.nan), np.where([run.validity.ok for run in ordered], 0.0, np.nan)
    for service in names:
        at = [number for number, run in enumerate(ordered) if run.validity.ok and service in run.services]
        stats = [ordered[number].services[service] for number in at]
        counts[service] = _spread([item.count for item in stats], at, no_requests)
        for metric in Metric:
            values = _spread(values_of(stats, metric), at, unknown)
            if not np.isnan(values).all():
                series[service, metric] = values
                errors[service, metric] = _spread(standard_errors_of(stats, metric), at, unknown)
    return Timeline(scenario, tuple(map(_reference, ordered)), series, errors, counts)


def _spread(values: Sequence[float | None], runs: Sequence[int], otherwise: Floats) -> Floats:
    """Values of some runs as one per run; ``None`` becomes ``NaN``."""
    of_runs = otherwise.copy()
    of_runs[runs] = np.array(values, dtype=float)
    return of_runs


def _misdated(run: Run, now: datetime) -> Run:
    """The run as unfit for a history: of one that is dated in the future nobody knows the place in it."""
    check = Check("clock", misdated(run.started_at, now), None, Severity.INVALID)
    return replace(run, validity=Validity((check, *run.validity.checks)))


def _reference(run: Run) -> RunReference:
    bad = run.validity.problems[0] if not run.validity.ok else None
    return RunReference(
        run.id,
        run.started_at,
        run.validity.ok,
        run.git.get("commit", ""),
        run.git.get("branch", ""),
        run.source or "",
        "" if bad is None else str(bad.value) if bad.name == "clock" else f"{bad.name}: {bad.value}",
        tuple(sorted(environment_of(run).items())),
    )


def under_names(timeline: Timeline, names: Mapping[str, str]) -> Timeline:
    """The timeline under the names that services have now; where runs have old and new, the new counts."""
    now = {service: new_name(service, names) for service in (*timeline.services, *timeline.counts)}
    if all(service == name for service, name in now.items()):
        return timeline
    series: dict[Series, Floats] = {}
    errors: dict[Series, Floats] = {}
    for key in sorted(timeline.series, key=lambda key: now[key[0]] != key[0]):  # the names of today first
        new_key = now[key[0]], key[1]
        for merged, measured in ((series, timeline.series), (errors, timeline.errors)):
            if (values := measured.get(key)) is not None:
                older = merged.get(new_key, values)
                merged[new_key] = np.where(np.isnan(older), values, older)
    counts: dict[str, Floats] = {}
    for service, requests in timeline.counts.items():
        counts[now[service]] = counts.get(now[service], 0.0) + requests
    return replace(timeline, series=series, errors=errors, counts=counts)


def load_timeline(
    store: RunStore,
    scenario: str,
    *,
    ab_tests: bool = False,
    service_names: Mapping[str, str] = MappingProxyType({}),
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Timeline:
    """The timeline of a scenario from a store's index, under the names that services have now; reads no single run.

    It is what `timeline_of` makes of the runs themselves; runs in quarantine are invalid.  Runs of A/B tests are left
    out unless ``ab_tests`` asks for them: they were made in pairs, beside another build.  With ``labels``, only the
    runs that have all of them.  ``StoreError``: the store has no run of that scenario, or none with these labels.
    """
    stored = store.series(scenario, ab_tests=ab_tests)
    facts = zip(
        stored.run_ids,
        stored.started_at,
        stored.valid,
        stored.commits,
        stored.branches,
        map(store.backend.where, stored.run_ids),
        stored.why_invalid,
        stored.environments,
        strict=True,
    )
    runs = tuple(RunReference(*fact) for fact in facts)
    timeline = Timeline(scenario, runs, stored.values, stored.errors, stored.counts, labels=labels)
    if labels:
        labelled = set(store.labelled(labels))
        timeline = timeline.part([i for i, run in enumerate(runs) if run.run_id in labelled])
        if not timeline.runs:
            raise NotStored(f"{store.url}: no run in the history of {scenario!r} is labelled {labels_text(labels)}")
    return under_names(timeline, service_names)
