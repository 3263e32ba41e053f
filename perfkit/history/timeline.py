"""The runs of one scenario in time order, with each metric of each service as a series over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from perfkit.model import Metric, Run
from perfkit.stats.summary import Floats
from perfkit.store import RunStore

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """One run, as a history names it; ``commit`` and ``branch`` are empty where unknown."""

    run_id: str
    started_at: datetime | None
    valid: bool
    commit: str = ""
    branch: str = ""
    source: str = ""
    why_invalid: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A scenario's runs, oldest first.

    ``series`` maps (service, metric) to one value per run, shape ``(n_runs,)``, ``NaN`` where the run is invalid or
    cannot say; ``errors`` likewise to standard errors within the runs.
    """

    scenario: str
    moments: tuple[Moment, ...]
    series: Mapping[tuple[str, Metric], Floats]
    errors: Mapping[tuple[str, Metric], Floats]

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def services(self) -> tuple[str, ...]:
        """Names of all services, in the order in which they first appeared."""
        return tuple(dict.fromkeys(service for service, _ in self.series))


def timeline_of(scenario: str, runs: Iterable[Run]) -> Timeline:
    """Arrange the runs of a scenario in time; those of other scenarios are left out, invalid ones have no values."""
    own = sorted(
        (run for run in runs if run.scenario == scenario), key=lambda run: (run.started_at or _LONG_AGO, run.id)
    )
    names = list(dict.fromkeys(service for run in own if run.validity.ok for service in run.services))
    series: dict[tuple[str, Metric], Floats] = {}
    errors: dict[tuple[str, Metric], Floats] = {}
    for service in names:
        every = [run.services.get(service) if run.validity.ok else None for run in own]
        for metric in Metric:
            values = np.array([_known(stats.value(metric) if stats else None) for stats in every])
            if not np.isnan(values).all():
                series[service, metric] = values
                errors[service, metric] = np.array(
                    [_known(stats.standard_error(metric) if stats else None) for stats in every]
                )
    return Timeline(scenario, tuple(map(_moment, own)), series, errors)


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _moment(run: Run) -> Moment:
    bad = run.validity.problems[0] if not run.validity.ok else None
    why = f"{bad.name}: {bad.value}" if bad is not None else ""
    git = run.git
    return Moment(
        run.id, run.started_at, run.validity.ok, git.get("commit", ""), git.get("branch", ""), run.source or "", why
    )


def load_timeline(store: RunStore, scenario: str) -> Timeline:
    """The timeline of a scenario from a store's index, without reading each run.

    It is what `timeline_of` makes of the runs themselves; runs in quarantine are invalid.

    Raises
    ------
    StoreError
        The store has no run of that scenario.
    """
    known = store.series(scenario)
    facts = zip(
        known.run_ids, known.started_at, known.valid, known.commits, known.branches, known.why_invalid, strict=True
    )
    moments = tuple(
        Moment(run_id, started_at, valid, commit, branch, store.place.where(run_id), why)
        for run_id, started_at, valid, commit, branch, why in facts
    )
    return Timeline(scenario, moments, known.values, known.errors)
