"""`perfkit changes`: the changes of many histories, whose series are segmented in this process, in several, or on Dask.

`DetectedChanges` is also what a trend and its document are made of; the alerts of a comparison are the same events.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.history.change_events import HistoryAnalysis, HistoryChange, in_order
from perfkit.history.commits import Attribution
from perfkit.history.confounders import ServiceChange
from perfkit.history.events import Event, Series
from perfkit.history.timeline import Timeline, load_timeline
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.executors import parallel_map
from perfkit.model.records import SHORT_NAMES, Metric
from perfkit.runs.store import RunStore
from perfkit.stats.changepoints import Drift, Segmentation, segment
from perfkit.stats.summary import Floats

Attribute = Callable[[HistoryChange], Attribution]
CHUNK = 40_000  # values that travel together: some 60 ms of work
# Values that each process must get: some 3 s of work (600,000 values a second), against 0.7 s of CPU to start one.
# Where the cores are busy otherwise, a second process does not pay at all
WORTH_A_PROCESS = 2_000_000
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Task:
    """One series to be segmented: values, shape ``(n_runs,)``, and the chance of a false alarm in it."""

    values: Floats
    alpha: float


def segment_all(
    tasks: Sequence[Task],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    on_progress: OnProgress | None = None,
) -> list[Segmentation]:
    """The segmentation of every series, in the order given; the same to the last bit wherever it is computed.

    Parameters
    ----------
    jobs
        Processes on this machine; ``None`` takes as many as pay.
    scheduler
        Address of a Dask scheduler, such as ``tcp://10.0.0.5:8786``, whose workers have perfkit; instead of `jobs`.
    on_progress
        Called with how many series are done, and how many there are.

    Raises
    ------
    MissingExtra, SettingsError, HistoryError
        As `perfkit.model.executors.parallel_map`.
    """
    chunks: list[list[Task]] = []
    size = CHUNK
    for task in tasks:
        if size >= CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append(task)
        size += len(task.values)
    worthwhile = max(min(os.cpu_count() or 1, sum(len(task.values) for task in tasks) // WORTH_A_PROCESS), 1)
    done = 0

    def count(result: Sequence[Segmentation]) -> None:
        nonlocal done
        done += len(result)
        if on_progress is not None:
            on_progress(done, len(tasks))

    processes = min(jobs or worthwhile, max(len(chunks), 1))
    results = parallel_map(segment_chunk, chunks, jobs=processes, scheduler=scheduler, on_result=count)
    return [item for result in results for item in result]


def segment_chunk(chunk: Sequence[Task]) -> list[Segmentation]:
    """The segmentations of some series, in one process."""
    return [segment(task.values, alpha=task.alpha) for task in chunk]


@dataclass(frozen=True, slots=True)
class DetectedChanges:
    """What changed in a history, in the series that were asked for.

    Parameters
    ----------
    segmentations
        By service and metric.
    events
        Oldest first, with those of their metric changes that were asked for.  They were looked for in all series.
    services_changed
        Services that ended or began, oldest first.
    """

    history: HistoryAnalysis
    segmentations: Mapping[Series, Segmentation]
    events: tuple[Event, ...]
    services_changed: tuple[ServiceChange, ...] = ()

    @property
    def scenario(self) -> str:
        """Whose history it is."""
        return self.history.scenario

    @property
    def timeline(self) -> Timeline:
        """Its runs, as they were measured."""
        return self.history.timeline

    @property
    def alpha(self) -> float:
        """Chance that a history in which nothing changed shows any event."""
        return self.history.alpha

    @property
    def series(self) -> int:
        """How many series were looked at."""
        return len(self.timeline.series)

    @property
    def invalid(self) -> int:
        """How many runs are unfit to be judged."""
        return self.history.invalid

    @property
    def outliers(self) -> Mapping[int, tuple[Series, ...]]:
        """Index of each outlier run to the series in which it is one, oldest first."""
        series: dict[int, list[Series]] = {}
        for key, segmentation in self.segmentations.items():
            for at in segmentation.outliers:
                series.setdefault(at, []).append(key)
        return {at: tuple(series[at]) for at in sorted(series)}

    @property
    def drifts(self) -> tuple[tuple[Series, Drift], ...]:
        """Series that moved steadily for a while, in the units in which the runs were measured."""
        return tuple(
            (key, self.history.aligned.unscale(key, drift, drift.end - 1))
            for key, segmentation in self.segmentations.items()
            for drift in segmentation.drifts
        )

    def to_dict(self, acknowledged: Collection[str] = (), attribute: Attribute | None = None) -> dict[str, Any]:
        """The part that the documents ``perfkit.changes/1`` and ``perfkit.trend/1`` have in common.

        ``acknowledged`` holds ids of events that are known or intended; with ``attribute`` each event has its commits.
        """
        moments = self.timeline.runs
        return {
            "scenario": self.scenario,
            "alpha": self.alpha,
            "runs": len(moments),
            "invalid": self.invalid,
            "first_run": moments[0].run_id if moments else None,
            "last_run": moments[-1].run_id if moments else None,
            "series": self.series,
            "events": [
                {
                    **event.to_dict(),
                    "acknowledged": isinstance(event, Event) and any(map(event.answers_to, acknowledged)),
                    **({"commits": attribute(event).to_dict()} if attribute is not None else {}),
                }
                for event in in_order((*self.events, *self.services_changed))
            ],
            "outliers": [
                {
                    "run": moments[at].run_id,
                    "index": at,
                    "series": [
                        {
                            "service": service,
                            "metric": metric.value,
                            "value": float(self.timeline.series[service, metric][at]),
                        }
                        for service, metric in keys
                    ],
                }
                for at, keys in self.outliers.items()
            ],
            "drifts": [
                {
                    "service": service,
                    "metric": metric.value,
                    "first_run": moments[drift.begin].run_id,
                    "last_run": moments[drift.end - 1].run_id,
                    "before": drift.before,
                    "after": drift.after,
                }
                for (service, metric), drift in self.drifts
            ],
        }


def stored_timelines(store: RunStore, scenarios: Sequence[str] = (), *, ab_tests: bool = False) -> tuple[Timeline, ...]:
    """The histories of these scenarios of a store, or of all of them, by name; of A/B tests only if asked for.

    Raises
    ------
    SettingsError
        The store has no run, or none of such a scenario; names the nearest.
    """
    frame = store.runs()
    stored = sorted(set(frame["scenario"]))
    usual = stored if ab_tests else sorted(set(frame["scenario"][~frame["ab_test"].astype(bool)]))
    if not stored:
        raise SettingsError(f"{store.url}: has no runs yet; `perfkit run SCENARIO` makes one")
    if not usual:
        raise SettingsError(f"{store.url}: has runs of A/B tests only, which are in no history unless asked for")
    for name in scenarios:
        if name not in stored:
            near = did_you_mean(name, stored)
            raise SettingsError(f"{store.url}: no runs of the scenario {name!r}{near}; there are {', '.join(stored)}")
    return tuple(load_timeline(store, name, ab_tests=ab_tests) for name in dict.fromkeys(scenarios or usual))


def detect_changes(
    timelines: Sequence[Timeline | HistoryAnalysis],
    *,
    services: Collection[str] = (),
    metrics: Collection[str] = (),
    alpha: float = 0.01,
    jobs: int | None = None,
    scheduler: str | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[DetectedChanges, ...]:
    """Look at every series of every history.

    Parameters
    ----------
    timelines
        The histories; one that is analysed already keeps its alpha.
    services, metrics
        Show only these; metrics by name or in short (``p95``).  Events are looked for in all series in any case, so
        that they are the same whatever is shown.
    alpha
        Chance that the history of one scenario in which nothing changed shows any event.
    jobs, scheduler, on_progress
        See `segment_all`, which raises what it says.

    Raises
    ------
    SettingsError
        No history has such a service; there is no such metric, or no run could tell it.
    """
    histories = [item if isinstance(item, HistoryAnalysis) else HistoryAnalysis(item, alpha) for item in timelines]
    names = list(dict.fromkeys(name for history in histories for name in history.timeline.services))
    for name in services:
        if name not in names:
            there = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise SettingsError(
                f"service {name!r}: is in no history that is looked at{did_you_mean(name, names)}; "
                f"there are {there or 'none'}"
            )
    chosen = [_metric(name) for name in metrics]
    measured = {key for history in histories for key in history.timeline.series}
    for metric in chosen:  # what is shown of a metric that no run could tell would read as if nothing had changed
        if not any(of is metric and (not services or service in services) for service, of in measured):
            metrics_measured = [of.value for of in Metric if any(of is other for _, other in measured)]
            whose = ", ".join(services) or "any service"
            raise SettingsError(
                f"no run could tell {metric.value} of {whose}; there are {', '.join(metrics_measured) or 'no metrics'}"
            )
    missing = [(history, key) for history in histories for key in history.missing]
    tasks = [Task(history.aligned.series[key], history.series_alpha) for history, key in missing]
    segmentations = segment_all(tasks, jobs=jobs, scheduler=scheduler, on_progress=on_progress)
    for (history, key), segmentation in zip(missing, segmentations, strict=True):
        history.keep(key, segmentation)
    return tuple(_shown(history, services, chosen) for history in histories)


def _metric(text: str) -> Metric:
    try:
        return Metric(text.lower())
    except ValueError as error:
        names = (*SHORT_NAMES, Metric.RPS.value)
        near = did_you_mean(text.lower(), names)
        raise SettingsError(f"unknown metric {text!r}{near}; known are {', '.join(names)}") from error


def _shown(history: HistoryAnalysis, services: Collection[str], metrics: Collection[Metric]) -> DetectedChanges:
    """The changes of a history in these services and metrics; of all where none is named."""
    shown = {
        key: segmentation
        for key, segmentation in history.segmentations.items()
        if (not services or key[0] in services) and (not metrics or key[1] in metrics)
    }
    narrowed = [(event, [item for item in event.changes if item.key in shown]) for event in history.events]
    return DetectedChanges(
        history,
        shown,
        tuple(replace(event, changes=tuple(items)) for event, items in narrowed if items),
        tuple(
            change
            for change in history.services_changed
            if not services or not {*change.ended, *change.began}.isdisjoint(services)
        ),
    )
