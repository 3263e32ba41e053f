"""The runs of one scenario in time order, with each metric of each service as a series over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np

from perfkit.history.events import RunReference
from perfkit.model.records import Check, Metric, Run, Severity, Validity, environment_of
from perfkit.runs.requests import new_name
from perfkit.runs.store import RunStore
from perfkit.runs.validity import in_future, misdated
from perfkit.stats.summary import Floats

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A scenario's runs, oldest first.

    ``series`` maps (service, metric) to one value per run, shape ``(n_runs,)``, ``NaN`` where the run is invalid or
    cannot say; ``errors`` likewise to standard errors within the runs.  ``counts`` maps services to requests per run:
    0 where a valid run has none, ``NaN`` where a run is invalid or its number is not known; services whose counts
    nobody knows may be absent.  ``scale`` holds the factors by which values of a series were multiplied, where they
    were (see `perfkit.history.confounders.in_one_mix`).
    """

    scenario: str
    runs: tuple[RunReference, ...]
    series: Mapping[tuple[str, Metric], Floats]
    errors: Mapping[tuple[str, Metric], Floats]
    counts: Mapping[str, Floats] = field(default_factory=dict)
    scale: Mapping[tuple[str, Metric], Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.runs)

    def part(self, runs: Sequence[int]) -> Timeline:
        """The timeline of some of its runs, by index in order."""
        at = list(runs)
        parts = [
            {key: values[at] for key, values in every.items() if not np.isnan(values[at]).all()}
            for every in (self.series, self.errors)
        ]
        counts = {name: values[at] for name, values in self.counts.items()}
        scale = {key: values[at] for key, values in self.scale.items()}
        return Timeline(self.scenario, tuple(self.runs[i] for i in at), parts[0], parts[1], counts, scale)

    def unscaled(self) -> Timeline:
        """The timeline with its values as they were measured."""
        series = {key: v / self.scale[key] if key in self.scale else v for key, v in self.series.items()}
        return replace(self, series=series, scale={})

    def scale_at(self, key: tuple[str, Metric], run: int) -> float:
        """The factor of a series at one run; 1 where it has none."""
        return float(self.scale[key][run]) if key in self.scale else 1.0

    def measured(self, key: tuple[str, Metric], run: int) -> float:
        """A value as it was measured."""
        return float(self.series[key][run]) / self.scale_at(key, run)

    @property
    def services(self) -> tuple[str, ...]:
        """Names of all services, in the order in which they first appeared."""
        return tuple(dict.fromkeys(service for service, _ in self.series))


def timeline_of(scenario: str, runs: Iterable[Run]) -> Timeline:
    """Arrange the runs of a scenario in time; those of other scenarios are left out, invalid ones have no values."""
    own = sorted(
        (run for run in runs if run.scenario == scenario), key=lambda run: (run.started_at or _LONG_AGO, run.id)
    )
    own = _without_future(own)
    names = list(dict.fromkeys(service for run in own if run.validity.ok for service in run.services))
    series: dict[tuple[str, Metric], Floats] = {}
    errors: dict[tuple[str, Metric], Floats] = {}
    counts = {name: np.array([_count(run, name) for run in own]) for name in names}
    for service in names:
        every = [run.services.get(service) if run.validity.ok else None for run in own]
        for metric in Metric:
            values = np.array([_known(stats.value(metric) if stats else None) for stats in every])
            if not np.isnan(values).all():
                series[service, metric] = values
                errors[service, metric] = np.array(
                    [_known(stats.standard_error(metric) if stats else None) for stats in every]
                )
    return Timeline(scenario, tuple(map(_moment, own)), series, errors, counts)


def _without_future(runs: Sequence[Run]) -> list[Run]:
    """Runs that are dated in the future are unfit for a history: nobody knows their place in it."""
    now = datetime.now(UTC)
    late = in_future([run.started_at for run in runs], now)
    check = Check("clock", None, None, Severity.INVALID)
    return [
        replace(run, validity=Validity((replace(check, value=misdated(run.started_at, now)), *run.validity.checks)))
        if is_late
        else run
        for run, is_late in zip(runs, late, strict=True)
    ]


def _count(run: Run, service: str) -> float:
    """Requests of a service in a run."""
    if not run.validity.ok:
        return float("nan")
    stats = run.services.get(service)
    return 0.0 if stats is None else _known(stats.count)


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _moment(run: Run) -> RunReference:
    bad = run.validity.problems[0] if not run.validity.ok else None
    why = "" if bad is None else str(bad.value) if bad.name == "clock" else f"{bad.name}: {bad.value}"
    git = run.git
    return RunReference(
        run.id,
        run.started_at,
        run.validity.ok,
        git.get("commit", ""),
        git.get("branch", ""),
        run.source or "",
        why,
        tuple(sorted(environment_of(run).items())),
    )


def under_names(timeline: Timeline, names: Mapping[str, str]) -> Timeline:
    """The timeline with the series of each old name in those of the name that its service has now.

    Where runs have both, the value of the name that it has now counts, and requests are added up.
    """
    now = {service: new_name(service, names) for service in (*timeline.services, *timeline.counts)}
    if all(service == name for service, name in now.items()):
        return timeline
    series: dict[tuple[str, Metric], Floats] = {}
    errors: dict[tuple[str, Metric], Floats] = {}
    ordered = sorted(timeline.series, key=lambda key: now[key[0]] != key[0])  # the names of today first
    for service, metric in ordered:
        key = now[service], metric
        for merged, every in ((series, timeline.series), (errors, timeline.errors)):
            own = every.get((service, metric))
            if own is not None:
                merged[key] = np.where(np.isnan(merged[key]), own, merged[key]) if key in merged else own
    counts: dict[str, Floats] = {}
    for service, own in timeline.counts.items():
        name = now[service]
        counts[name] = counts[name] + own if name in counts else own
    return replace(timeline, series=series, errors=errors, counts=counts)


def load_timeline(
    store: RunStore, scenario: str, *, ab_tests: bool = False, service_names: Mapping[str, str] = MappingProxyType({})
) -> Timeline:
    """The timeline of a scenario from a store's index, under the names that services have now; reads no single run.

    It is what `timeline_of` makes of the runs themselves; runs in quarantine are invalid.  Runs of A/B tests are
    left out unless ``ab_tests`` asks for them: they were made in pairs, beside another build.

    Raises
    ------
    StoreError
        The store has no run of that scenario.
    """
    known = store.series(scenario, ab_tests=ab_tests)
    facts = zip(
        known.run_ids,
        known.started_at,
        known.valid,
        known.commits,
        known.branches,
        known.why_invalid,
        known.environments,
        strict=True,
    )
    moments = tuple(
        RunReference(run_id, started_at, valid, commit, branch, store.backend.where(run_id), why, environment)
        for run_id, started_at, valid, commit, branch, why, environment in facts
    )
    timeline = Timeline(scenario, moments, known.values, known.errors, known.counts)
    return under_names(timeline, service_names)
