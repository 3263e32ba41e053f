"""What is computed from the runs of a history, each part once: index -> runs -> timeline -> segmentation -> events.

`HistoryAnalysis` holds one timeline under one alpha; monitor, gate, baselines, outlier runs and reports are handed
it and ask for the parts that they need.  `HistoryContext` is where the runs of a store come from: it reads
each of them once, and keeps the analysis of every set of runs that was asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.history.change_events import group, held_worsenings, metric_changes, shared_alpha
from perfkit.history.events import Event, MetricChange, Series
from perfkit.history.service_mix import ServiceChange, in_one_mix, service_changes
from perfkit.history.timeline import Timeline, timeline_of
from perfkit.model.errors import ReadError, leave_out
from perfkit.model.records import Run
from perfkit.model.serialization import CHANGED
from perfkit.runs.collection import in_time
from perfkit.runs.index import CHANGED_SINCE
from perfkit.runs.requests import renamed_runs
from perfkit.runs.store import RunStore
from perfkit.stats.changepoints import Drift, Segmentation, segment

if TYPE_CHECKING:
    import pandas as pd


class HistoryAnalysis:
    """A timeline with its levels and events; each part is computed when it is first asked for, and kept.

    Parameters
    ----------
    timeline
        The runs, as they were measured.
    alpha
        Chance that a history in which nothing changed shows any event; its series share it.
    segmentations
        Those that were computed already, of `aligned` under `series_alpha`.
    """

    def __init__(
        self, timeline: Timeline, alpha: float = 0.01, segmentations: Mapping[Series, Segmentation] | None = None
    ) -> None:
        self.timeline = timeline
        self.alpha = alpha
        self._segmentations = dict(segmentations or {})

    @property
    def scenario(self) -> str:
        """Whose history it is."""
        return self.timeline.scenario

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Of all runs, oldest first."""
        return tuple(moment.run_id for moment in self.timeline.runs)

    @property
    def invalid(self) -> int:
        """How many runs are unfit to be judged."""
        return sum(not moment.valid for moment in self.timeline.runs)

    @cached_property
    def aligned(self) -> Timeline:
        """The timeline with every throughput as if all runs had one mix of services; see `in_one_mix`."""
        return in_one_mix(self.timeline)

    @cached_property
    def series_alpha(self) -> float:
        """The part of alpha that each series gets."""
        return shared_alpha(self.aligned, self.alpha)

    def segmentation(self, key: Series) -> Segmentation:
        """Levels, outliers and drifts of one series, in the unit of `aligned`."""
        if key not in self._segmentations:
            self._segmentations[key] = segment(self.aligned.series[key], alpha=self.series_alpha)
        return self._segmentations[key]

    @property
    def segmentations(self) -> Mapping[Series, Segmentation]:
        """Those of all series."""
        return {key: self.segmentation(key) for key in self.aligned.series}

    @property
    def missing(self) -> tuple[Series, ...]:
        """The series that were not segmented yet."""
        return tuple(key for key in self.aligned.series if key not in self._segmentations)

    def keep(self, key: Series, segmentation: Segmentation) -> None:
        """Take over a segmentation that was computed elsewhere, of `aligned` under `series_alpha`."""
        self._segmentations[key] = segmentation

    def unscaled_drift(self, key: Series, drift: Drift) -> Drift:
        """A drift of `aligned` in the units in which its last run was measured."""
        factor = self.aligned.scale_at(key, drift.end - 1)
        return replace(drift, before=drift.before / factor, after=drift.after / factor)

    def changes_of(self, key: Series) -> tuple[MetricChange, ...]:
        """The changes of one series, oldest first, in the units in which its runs were measured."""
        return tuple(metric_changes(self.aligned, key, self.segmentation(key)))

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Changes of all series, grouped by where they happened; oldest first."""
        return group(self.aligned, [change for key in self.aligned.series for change in self.changes_of(key)])

    @property
    def worsenings(self) -> tuple[Event, ...]:
        """See `held_worsenings`."""
        return held_worsenings(self.events)

    @cached_property
    def services_changed(self) -> tuple[ServiceChange, ...]:
        """Services that ended or began, oldest first."""
        return service_changes(self.timeline, self.alpha)


def find_events(timeline: Timeline, *, alpha: float = 0.01) -> tuple[Event, ...]:
    """The events of a history, oldest first; see `HistoryAnalysis.events`."""
    return HistoryAnalysis(timeline, alpha).events


@dataclass(frozen=True)
class HistoryContext:
    """The runs of a store, and what is known beside them; each run is read once, and the index is asked once.

    Parameters
    ----------
    baselines
        Folder of the pinned baselines.
    repository
        A folder of the checkout that the selector ``merge-base`` asks.
    candidates
        Runs that are to be judged: never chosen, nor are runs that began after the first of them chosen as newest.
    service_names
        Names that services have now, see `Policy`; all runs are read under these.
    alpha
        Chance that a history in which nothing changed shows any change: that of the policy.
    """

    store: RunStore
    baselines: Path = Path("data/baselines")
    repository: Path = field(default_factory=Path)
    candidates: tuple[Run, ...] = ()
    service_names: Mapping[str, str] = field(default_factory=dict)
    alpha: float = 0.01
    _runs: dict[tuple[str, bool], tuple[Run, ...]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _damaged: dict[str, tuple[str, ...]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _analyses: dict[tuple[str, ...], HistoryAnalysis] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per run of the store, oldest first; see `RunStore.runs`."""
        return self.store.runs()

    @property
    def scenarios(self) -> list[str]:
        """Names of all scenarios that the store has runs of."""
        return list(dict.fromkeys(self.index["scenario"]))

    def runs_of(self, scenario: str, *, ab_tests: bool = False) -> tuple[Run, ...]:
        """All runs of a scenario, oldest first, but those that `left_out` names; of A/B tests only if asked for."""
        if (scenario, ab_tests) not in self._runs:
            rows = self.index[self.index["scenario"] == scenario]
            runs, damaged = [], []
            for run_id in rows["id"] if ab_tests else rows["id"][~rows["ab_test"].astype(bool)]:
                try:
                    runs.append(self.store.get(run_id))
                except ReadError as error:  # damaged since it was listed
                    damaged.append(f"{run_id} is left out: {error}")
                    leave_out(damaged[-1])
            self._damaged[scenario] = tuple(damaged)
            self._runs[scenario, ab_tests] = in_time(renamed_runs(runs, self.service_names))
        return self._runs[scenario, ab_tests]

    def left_out(self, scenario: str) -> tuple[str, ...]:
        """A sentence for each damaged run of a scenario: it cannot be read, or was changed after it was stored."""
        changed = [
            f"{run.id} is left out: {CHANGED_SINCE}"
            for run in self.runs_of(scenario)
            if any(check.name == CHANGED for check in run.validity.problems)
        ]
        return (*self.store.left_out(scenario), *self._damaged[scenario], *changed)

    def analysis(self, runs: Sequence[Run]) -> HistoryAnalysis:
        """The analysis of some runs of one scenario, of which there must be one at least."""
        ids = tuple(run.id for run in runs)
        if ids not in self._analyses:
            self._analyses[ids] = HistoryAnalysis(timeline_of(runs[0].scenario, runs), self.alpha)
        return self._analyses[ids]

    @property
    def until(self) -> datetime | None:
        """When the first candidate began; ``None`` where unknown."""
        times = [run.started_at for run in self.candidates if run.started_at is not None]
        return min(times) if len(times) == len(self.candidates) and times else None

    @property
    def now(self) -> datetime:
        """The time at which a baseline's age is judged: that of the candidates, else the present; never the future."""
        present = datetime.now(UTC)
        return min(self.until or present, present)
