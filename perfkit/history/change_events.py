"""Events: the changes of all metrics and services that came together, between which runs and commits.

Noise puts the place of a small change several runs off.  So each change has a range of runs in which it may have
happened (a likelihood ratio), and changes whose places cannot be told apart are one event.

`HistoryAnalysis` is one history with its levels and events.  `detect_changes` looks at many of them, whose series are
segmented in this process, in several, or on Dask; its `DetectedChanges` are what ``perfkit changes`` shows, and what a
trend and its document are made of.  The alerts of a comparison are the same events.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from operator import methodcaller
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from perfkit.history.confounders import environment_changes, in_one_mix, service_changes
from perfkit.history.events import NEAR, Event, HistoryChange, MetricChange, Series, ServiceChange, unit_questions
from perfkit.history.timeline import Timeline, load_timeline
from perfkit.model.codec import encode
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.executors import parallel_map
from perfkit.model.records import SHORT_NAMES, Metric
from perfkit.stats.changepoints import Drift, Segmentation, segment, segment_many
from perfkit.stats.season import WeekdayPattern, days_since_1970, seasonal_trend, weekday_pattern, why_no_pattern
from perfkit.stats.summary import Floats

if TYPE_CHECKING:
    from perfkit.history.commits import Attribution
    from perfkit.runs.store import RunStore
    from perfkit.stats.sequential import Alarm

# The likelihood ratio of the true place of a step against the likeliest one is at most x with (1 - exp(-x / 2))^2
# (Eo & Morley 2015, doi:10.3982/QE186).  Of the many series of an event not one in a hundred shall stand apart
_RATIO = -2.0 * math.log(1.0 - math.sqrt(0.999))
FAR = 12  # runs beyond which two changes of which nothing but their size is known are never one
REACHES = 2.0  # by which such a place may be off at most: of the many series one in twenty is beyond its reach
# With 95 % a step of d standard deviations is found within 11 / d^2 runs of its place (Bai 1997,
# doi:10.1162/003465397557132)
_BAI = 11.0
LEAST_VALUES = 4  # of a series in which a change can be found at all
CHUNK = 40_000  # values that travel together: some 60 ms of work
# Values that each process must get: some 3 s of work (600,000 values a second), against 0.7 s of CPU to start one.
# Where the cores are busy otherwise, a second process does not pay at all
WORTH_A_PROCESS = 2_000_000
OnProgress = Callable[[int, int], None]
Attribute = Callable[[HistoryChange], "Attribution"]
Task = tuple[Floats, float]  # values of a series, shape ``(n_runs,)``, and the chance of a false alarm in it


def possible_places(values: Floats, segmentation: Segmentation, number: int) -> tuple[int, int]:
    """The first and the last index at which a change may as well have been.

    Parameters
    ----------
    values
        Of the series, shape ``(n_runs,)``, ``NaN`` where there is none.
    segmentation
        What the series is made of; its outliers take no part, and its correlation widens the range.
    number
        Of the change.
    """
    edges = [0, *(change.index for change in segmentation.changes), len(values)]
    begin, at, end = edges[number : number + 3]
    kept = np.setdiff1d(np.arange(begin, end)[~np.isnan(values[begin:end])], segmentation.outliers)
    if kept.size < LEAST_VALUES:
        return at, at
    # What two levels leave of the squares, for each place of the step: from the second value to the last
    plain = np.log(values[kept]) if (values[kept] > 0).all() else values[kept]
    centred, n = plain - plain.mean(), kept.size
    sums, first = np.cumsum(centred)[:-1], np.arange(1, n)
    left = np.maximum(np.sum(centred**2) - sums**2 / first - sums**2 / (n - first), 0.0)
    own = min(max(int(np.searchsorted(kept, at)), 1), kept.size - 1) - 1
    variance = left[own] / (kept.size - 2)
    if variance <= 0.0:
        return at, at
    widened = (1.0 + segmentation.correlation) / (1.0 - segmentation.correlation)
    possible = np.nonzero((left - left[own]) / variance / widened <= _RATIO)[0]
    return min(at, int(kept[possible[0] + 1])), max(at, int(kept[possible[-1] + 1]))


def in_order(changes: Iterable[HistoryChange]) -> tuple[HistoryChange, ...]:
    """By their place in the history; of one place, levels come before services."""
    return tuple(sorted(changes, key=lambda change: (change.index, isinstance(change, ServiceChange))))


def shared_alpha(timeline: Timeline, alpha: float) -> float:
    """The part of ``alpha`` that each series of a scenario gets; those too short for any change take no part."""
    able = sum(np.count_nonzero(~np.isnan(values)) >= LEAST_VALUES for values in timeline.series.values())
    return alpha / max(int(able), 1)


def metric_changes(timeline: Timeline, key: Series, segmentation: Segmentation) -> Iterator[MetricChange]:
    """The changes of one series, oldest first, in the units in which its runs were measured."""
    values = timeline.series[key]
    edges = [0, *(change.index for change in segmentation.changes), len(timeline)]
    lengths = [max(int(np.count_nonzero(~np.isnan(values[begin:end]))), 1) for begin, end in pairwise(edges)]
    for number, change in enumerate(segmentation.changes):
        reach, width = NEAR, change.ci_high - change.ci_low
        if math.isfinite(width) and width > 0.0 and math.isfinite(change.change_pct):
            error = width / (2.0 * float(ndtri(0.975)))
            distance = abs(change.change_pct / error) * math.sqrt(1.0 / lengths[number] + 1.0 / lengths[number + 1])
            reach = math.ceil(reach_of(distance))
        places = possible_places(values, segmentation, number)
        yield MetricChange(*key, timeline.unscale(key, change, change.index), reach, places)


def reach_of(distance: float) -> float:
    """By how many runs the place of a step may be off (95 %) whose levels lie that many standard deviations apart."""
    return min((math.sqrt(_BAI) / distance) ** 2, FAR) if distance > math.sqrt(_BAI / FAR) else FAR


def held_worsenings(events: Sequence[Event]) -> tuple[Event, ...]:
    """Events for the worse that are the newest of a series, whatever happened to other series since; oldest first."""
    newest = {item.key: event for event in events for item in event.changes}
    worse = ((event, item) for event in events for item in event.changes if item.is_worse)
    return tuple(dict.fromkeys(event for event, item in worse if newest[item.key] is event))


def group(timeline: Timeline, *batches: Sequence[MetricChange]) -> tuple[Event, ...]:
    """Movements of all series at about one place are one event; its place is the one that most of them agree on.

    Strongest first, each joins the nearest event from whose place its own cannot be told, or begins one; one that
    joined before a nearer event began goes to that one.  What is near to a member but not to the strongest is an event
    of its own, so that chains do not grow; and a series joins an event once, so that up and down again is never one.

    Of several batches the later ones became known later: they join events or begin new ones, and rearrange nothing.
    """
    cores: list[_Core] = []
    for batch in batches:
        ranked = sorted(batch, key=_strength)
        leaders = [core.leader for core in _gathered(ranked, cores)[len(cores) :]]
        cores = _gathered(ranked, [*cores, *map(_Core.begun, leaders)])
    places = [_place(core.members) for core in cores]
    if len(set(places)) < len(places):  # events need names of their own
        places = [core.leader.change.index for core in cores]
    mix = service_changes(timeline) if cores else ()
    events = [_event(timeline, at, tuple(core.members), places, mix) for at, core in zip(places, cores, strict=True)]
    return tuple(sorted(events, key=lambda event: event.index))


def _gathered(ranked: Sequence[MetricChange], begun: Sequence[_Core]) -> list[_Core]:
    """Events that have begun, with those of the movements that fit; the others begin events, in order."""
    cores = [_Core(core.leader, [*core.members], {*core.series}) for core in begun]
    leaders = {id(core.leader) for core in begun}
    for item in ranked:
        if id(item) in leaders:
            continue
        fit = [core for core in cores if core.takes(item)]
        if fit:
            min(fit, key=methodcaller("distance", item)).add(item)
        else:
            cores.append(_Core.begun(item))
    return cores


@dataclass(slots=True)
class _Core:
    """An event that grows around its strongest movement."""

    leader: MetricChange
    members: list[MetricChange]
    series: set[Series]

    @classmethod
    def begun(cls, item: MetricChange) -> _Core:
        return cls(item, [item], {item.key})

    def distance(self, item: MetricChange) -> int:
        return abs(item.change.index - self.leader.change.index)

    def takes(self, item: MetricChange) -> bool:
        if item.key in self.series:
            return False
        if item.index_range is None:
            return self.distance(item) <= min(max(NEAR, REACHES * item.reach + self.leader.reach), FAR)
        first, last = item.index_range
        around = max(NEAR, self.leader.reach)
        return self.distance(item) <= NEAR or first - around <= self.leader.change.index <= last + around

    def add(self, item: MetricChange) -> None:
        self.members.append(item)
        self.series.add(item.key)


def _strength(item: MetricChange) -> tuple[float, int, int, str, str]:
    return item.change.p_value, item.reach, item.change.index, item.service, item.metric.value


def _place(core: Sequence[MetricChange]) -> int:
    """Median of the places, each counted the more the surer it is."""
    ranked = sorted(core, key=lambda item: item.change.index)
    counts = np.cumsum([1.0 / max(item.reach, 1) for item in ranked])
    return ranked[int(np.searchsorted(counts, counts[-1] / 2.0))].change.index


def _event(
    timeline: Timeline,
    at: int,
    movements: tuple[MetricChange, ...],
    places: Sequence[int],
    mix: Sequence[ServiceChange],
) -> Event:
    reach = max(NEAR, min(item.reach for item in movements))
    around = range(max(at - reach, 0), min(at + reach + 1, len(timeline)))
    own = [i for i in around if abs(i - at) <= min(abs(i - place) for place in places)]
    after = timeline.runs[at]
    return Event(
        after.run_id,
        timeline.scenario,
        at,
        timeline.runs[_last_before(timeline, at, movements)],
        after,
        movements,
        tuple(timeline.runs[i].run_id for i in own),
        (
            *environment_changes(timeline, at, reach),
            *(text for change in mix if abs(change.index - at) <= reach for text in change.brief),
            *unit_questions(movements),
        ),
    )


def _last_before(timeline: Timeline, at: int, movements: Sequence[MetricChange]) -> int:
    """The last run before a place in which any series that moved right there has a value."""
    there = [item.key for item in movements if item.change.index == at]
    measured = [np.nonzero(~np.isnan(timeline.series[key][:at]))[0] for key in there if key in timeline.series]
    last = [int(places[-1]) for places in measured if places.size]
    return max(last, default=max(at - 1, 0))


@dataclass(frozen=True, slots=True)
class Level:
    """The runs from ``begin`` up to and without ``end``, on one level; ``drift`` where they move steadily instead."""

    begin: int
    end: int
    value: float
    runs: int  # that have a value
    drift: Drift | None = None


class HistoryAnalysis:
    """A timeline with its levels and events; each part is computed when it is first asked for, and kept.

    Monitor, gate, baselines and reports are handed it, so that nothing of a history is computed twice.

    Parameters
    ----------
    timeline
        The runs, as they were measured.
    alpha
        Chance that a history in which nothing changed shows any event; its series share it.
    segmentations
        Those that were computed already, of `usual` under `series_alpha`.
    """

    def __init__(
        self, timeline: Timeline, alpha: float = 0.01, segmentations: Mapping[Series, Segmentation] | None = None
    ) -> None:
        self.timeline = timeline
        self.alpha = alpha
        self._segmentations = dict(segmentations or {})
        self.alarms: dict[tuple[Series, ...], Mapping[Series, tuple[tuple[Alarm, ...], int]]] = {}  # of the monitor

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

    @property
    def validity(self) -> set[tuple[str, bool]]:
        """Each run, and whether it is fit to be judged."""
        return {(moment.run_id, moment.valid) for moment in self.timeline.runs}

    @cached_property
    def aligned(self) -> Timeline:
        """The timeline with every throughput as if all runs had one mix of services; see `in_one_mix`."""
        return in_one_mix(self.timeline)

    @cached_property
    def patterns(self) -> Mapping[Series, WeekdayPattern]:
        """Of the series that have one: the weekday pattern of the whole history."""
        days = days_since_1970(self.timeline.times)
        if why_no_pattern(days):
            return {}
        found = {key: weekday_pattern(values, days) for key, values in self.aligned.series.items()}
        shown = {key: pattern for key, pattern in found.items() if pattern is not None}
        return {key: seasonal_trend(self.aligned.series[key], days, pattern) for key, pattern in shown.items()}

    @cached_property
    def usual(self) -> Timeline:
        """`aligned` with every series as if all runs were of one weekday, the usual one; levels are found in it."""
        days = days_since_1970(self.timeline.times)
        usual = {key: self.aligned.series[key] / pattern.at(days) for key, pattern in self.patterns.items()}
        return replace(self.aligned, series={**self.aligned.series, **usual}) if usual else self.aligned

    @cached_property
    def series_alpha(self) -> float:
        """The part of alpha that each series gets."""
        return shared_alpha(self.aligned, self.alpha)

    def segmentation(self, key: Series) -> Segmentation:
        """Levels, outliers and drifts of one series, in the unit of `usual`."""
        if key not in self._segmentations:
            self._segmentations[key] = segment(self.usual.series[key], alpha=self.series_alpha)
        return self._segmentations[key]

    @property
    def segmentations(self) -> Mapping[Series, Segmentation]:
        """Those of all series."""
        if missing := self.missing:
            found = segment_many([(self.usual.series[key], self.series_alpha) for key in missing])
            self._segmentations.update(zip(missing, found, strict=True))
        return {key: self._segmentations[key] for key in self.aligned.series}

    @property
    def missing(self) -> tuple[Series, ...]:
        """The series that were not segmented yet."""
        return tuple(key for key in self.aligned.series if key not in self._segmentations)

    def keep(self, key: Series, segmentation: Segmentation) -> None:
        """Take over a segmentation that was computed elsewhere, of `usual` under `series_alpha`."""
        self._segmentations[key] = segmentation

    def levels(self, key: Series) -> Iterator[Level]:
        """The levels of one series, oldest first; one that lasts through a change of the mix has a part in each mix."""
        aligned, segmentation = self.aligned, self.segmentation(key)
        measured, scale = ~np.isnan(aligned.series[key]), aligned.scale.get(key)
        edges = [0, *(change.index for change in segmentation.changes), len(aligned)]
        for (begin, end), level in zip(pairwise(edges), segmentation.levels, strict=True):
            drift = next((item for item in segmentation.drifts if begin <= item.begin and item.end <= end), None)
            runs = [i for i in range(begin, end) if measured[i]]
            mixes = [] if scale is None else [b for a, b in pairwise(runs) if scale[a] != scale[b]]
            for first, last in pairwise([begin, *mixes, end]):
                runs = [i for i in range(first, last) if measured[i]]
                factor = aligned.scale_at(key, runs[0]) if runs else 1.0
                part = aligned.unscale(key, drift, runs[0]) if drift is not None and last == end and runs else None
                yield Level(first, last, level / factor, len(runs), part)

    def changes_of(self, key: Series) -> tuple[MetricChange, ...]:
        """The changes of one series, oldest first, in the units in which its runs were measured."""
        return tuple(metric_changes(self.usual, key, self.segmentation(key)))

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Changes of all series, grouped by where they happened; oldest first."""
        return group(self.aligned, [change for key in self.segmentations for change in self.changes_of(key)])

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
        size += len(task[0])
    worthwhile = max(min(os.cpu_count() or 1, sum(len(values) for values, _ in tasks) // WORTH_A_PROCESS), 1)
    done = 0

    def count(result: Sequence[Segmentation]) -> None:
        nonlocal done
        done += len(result)
        if on_progress is not None:
            on_progress(done, len(tasks))

    processes = min(jobs or worthwhile, max(len(chunks), 1))
    results = parallel_map(segment_many, chunks, jobs=processes, scheduler=scheduler, on_result=count)
    return [item for result in results for item in result]


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
        # By hand and not by the codec: nearly all keys are computed, from the timeline and for this reader
        runs = self.timeline.runs
        return {
            "scenario": self.scenario,
            "labels": dict(self.timeline.labels),
            "alpha": self.alpha,
            "runs": len(runs),
            "invalid": self.invalid,
            "first_run": runs[0].run_id if runs else None,
            "last_run": runs[-1].run_id if runs else None,
            "series": self.series,
            "events": [
                {
                    **event.to_dict(),
                    "acknowledged": isinstance(event, Event) and any(map(event.answers_to, acknowledged)),
                    **({"commits": encode(attribute(event))} if attribute is not None else {}),
                }
                for event in in_order((*self.events, *self.services_changed))
            ],
            "outliers": [
                {
                    "run": runs[at].run_id,
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
                    "first_run": runs[drift.begin].run_id,
                    "last_run": runs[drift.end - 1].run_id,
                    "before": drift.before,
                    "after": drift.after,
                }
                for (service, metric), drift in self.drifts
            ],
        }


def stored_timelines(
    store: RunStore,
    scenarios: Sequence[str] = (),
    *,
    ab_tests: bool = False,
    labels: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Timeline, ...]:
    """The histories of these scenarios of a store, or of all of them, by name; of A/B tests only if asked for.

    With labels, only the runs that have all of them, and the scenarios that have such runs.

    Raises
    ------
    SettingsError
        The store has no run, or none of such a scenario; names the nearest.
    """
    frame = store.runs()
    if labels:
        frame = frame[frame["id"].isin(store.labelled(labels))]
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
    names = dict.fromkeys(scenarios or usual)
    return tuple(load_timeline(store, name, ab_tests=ab_tests, labels=labels) for name in names)


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
    tasks = [(history.usual.series[key], history.series_alpha) for history, key in missing]
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
