"""How a scenario went: each metric of each service over its runs, with its levels, events, spikes and drift.

The change points of many series: on one core, on all of this machine, or on a Dask cluster, with the same result.

The levels of a series over its runs, in the units in which the runs were measured.

What a scenario's history shows: its events, and beside them outliers and drifts, which are no events.

The courses that a message draws: of the series that tell most of what happened, the newest runs, as plain values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import stdtrit

from perfkit.history.acknowledgements import Acknowledgement, match
from perfkit.history.change_events import (
    Event,
    Happened,
    Series,
    events_of,
    find_events,
    held_worsenings,
    in_order,
    shared_alpha,
    unscaled,
)
from perfkit.history.commits import Attribution
from perfkit.history.monitor import ScenarioWatch
from perfkit.history.service_mix import ServiceChange, in_one_mix, service_changes
from perfkit.history.timeline import Moment, Timeline, load_timeline
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.executors import parallel_map
from perfkit.model.records import SHORT_NAMES, Metric
from perfkit.runs.store import RunStore
from perfkit.stats.changepoints import Drift, Segmentation, segment
from perfkit.stats.summary import Floats

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
        As `perfkit.model.executors.open_executor`.
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
class Stretch:
    """The runs from ``begin`` up to and without ``end``, on one level; ``drift`` where they move steadily instead."""

    begin: int
    end: int
    value: float
    runs: int  # that have a value
    drift: Drift | None = None


def stretches(aligned: Timeline, key: Series, found: Segmentation) -> Iterator[Stretch]:
    """The levels of one series, oldest first; one that lasts through a change of the mix has a part in each mix.

    ``found`` was found in ``aligned``, which is `in_one_mix`.
    """
    edges = [0, *(change.index for change in found.changes), len(aligned)]
    for (begin, end), level in zip(pairwise(edges), found.levels, strict=True):
        drift = next((item for item in found.drifts if begin <= item.begin and item.end <= end), None)
        for first, last in pairwise(_edges_of_mixes(aligned, key, begin, end)):
            runs = [i for i in range(first, last) if not np.isnan(aligned.series[key][i])]
            factor = aligned.scale_at(key, runs[0]) if runs else 1.0
            part = drift if last == end else None
            if part is not None and factor != 1.0:
                part = replace(part, before=part.before / factor, after=part.after / factor)
            yield Stretch(first, last, level / factor, len(runs), part)


def _edges_of_mixes(aligned: Timeline, key: Series, begin: int, end: int) -> list[int]:
    """Where the factor of a series changes within a stretch, with both ends of the stretch."""
    scale = aligned.scale.get(key)
    if scale is None:
        return [begin, end]
    known = [i for i in range(begin, end) if not np.isnan(aligned.series[key][i])]
    return [begin, *(b for a, b in pairwise(known) if scale[a] != scale[b]), end]


Attribute = Callable[[Happened], Attribution]


@dataclass(frozen=True, slots=True)
class DetectedChanges:
    """A scenario's history with all that was found in it.

    Parameters
    ----------
    segmentations
        By service and metric; those that were asked for.
    events
        Oldest first, with those of their movements that were asked for.  They were looked for in all series.
    series
        How many were looked at.
    services
        Services that ended or began, oldest first.
    """

    timeline: Timeline
    segmentations: Mapping[Series, Segmentation]
    events: tuple[Event, ...]
    alpha: float
    series: int
    services: tuple[ServiceChange, ...] = ()

    @property
    def scenario(self) -> str:
        return self.timeline.scenario

    @property
    def invalid(self) -> int:
        """How many runs are unfit to be judged."""
        return sum(not moment.valid for moment in self.timeline.moments)

    @property
    def worsenings(self) -> tuple[Event, ...]:
        """See `held_worsenings`."""
        return held_worsenings(self.events)

    @property
    def outliers(self) -> Mapping[int, tuple[Series, ...]]:
        """Index of each strange run to the series in which it is strange, oldest first."""
        found: dict[int, list[Series]] = {}
        for key, segmentation in self.segmentations.items():
            for at in segmentation.outliers:
                found.setdefault(at, []).append(key)
        return {at: tuple(found[at]) for at in sorted(found)}

    @property
    def drifts(self) -> tuple[tuple[Series, Drift], ...]:
        """Series that moved steadily for a while."""
        return tuple((key, drift) for key, found in self.segmentations.items() for drift in found.drifts)

    def to_dict(self, attribute: Attribute, silenced: Collection[str] = ()) -> dict[str, Any]:
        """Plain JSON values; ``silenced`` holds ids of events that are known or intended."""
        moments = self.timeline.moments
        return {
            "scenario": self.scenario,
            "runs": len(moments),
            "invalid": self.invalid,
            "first_run": moments[0].run_id if moments else None,
            "last_run": moments[-1].run_id if moments else None,
            "series": self.series,
            "events": [
                {
                    **event.to_dict(),
                    "acknowledged": isinstance(event, Event) and any(map(event.answers_to, silenced)),
                    "commits": attribute(event).to_dict(),
                }
                for event in in_order((*self.events, *self.services))
            ],
            "outliers": list(self._outliers()),
            "drifts": list(self._drifts()),
        }

    def _outliers(self) -> Iterator[dict[str, Any]]:
        for at, keys in self.outliers.items():
            of = [
                {"service": service, "metric": metric.value, "value": self.timeline.measured((service, metric), at)}
                for service, metric in keys
            ]
            yield {"run": self.timeline.moments[at].run_id, "index": at, "series": of}

    def _drifts(self) -> Iterator[dict[str, Any]]:
        for (service, metric), drift in self.drifts:
            first, last = (self.timeline.moments[at].run_id for at in (drift.begin, drift.end - 1))
            scale = self.timeline.scale_at((service, metric), drift.end - 1)
            levels = {"before": drift.before / scale, "after": drift.after / scale}
            yield {"service": service, "metric": metric.value, "first_run": first, "last_run": last, **levels}


def stored_timelines(store: RunStore, scenarios: Sequence[str] = (), *, ab_tests: bool = False) -> tuple[Timeline, ...]:
    """The histories of these scenarios of a store, or of all of them, by name; of A/B tests only if asked for.

    Raises
    ------
    SettingsError
        The store has no run, or none of such a scenario; names the nearest.
    """
    frame = store.runs()
    known = sorted(set(frame["scenario"]))
    usual = known if ab_tests else sorted(set(frame["scenario"][~frame["ab_test"].astype(bool)]))
    if not known:
        raise SettingsError(f"{store.url}: has no runs yet; `perfkit run SCENARIO` makes one")
    if not usual:
        raise SettingsError(f"{store.url}: has runs of A/B tests only, which are in no history unless asked for")
    for name in scenarios:
        if name not in known:
            near = did_you_mean(name, known)
            raise SettingsError(f"{store.url}: no runs of the scenario {name!r}{near}; there are {', '.join(known)}")
    return tuple(load_timeline(store, name, ab_tests=ab_tests) for name in dict.fromkeys(scenarios or usual))


def detect_changes(
    timelines: Sequence[Timeline],
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
    services, metrics
        Show only these; metrics by name or as people say it (``p95``).  Events are looked for in all series in any
        case, so that they are the same whatever is shown.
    alpha
        Chance that the history of one scenario in which nothing changed shows any event.
    jobs, scheduler, on_progress
        See `scan`, which raises what it says.

    Raises
    ------
    SettingsError
        No history has such a service; there is no such metric, or no run could tell it.
    """
    _refuse_unknown(timelines, services)
    chosen = [_metric(name) for name in metrics]
    _refuse_untold(timelines, services, chosen)
    each = {timeline.scenario: shared_alpha(timeline, alpha) for timeline in timelines}
    aligned = [in_one_mix(line) for line in timelines]
    tasks = [Task(values, each[line.scenario]) for line in aligned for values in line.series.values()]
    found = iter(segment_all(tasks, jobs=jobs, scheduler=scheduler, on_progress=on_progress))
    return tuple(_survey(line, {key: next(found) for key in line.series}, services, chosen, alpha) for line in aligned)


def _refuse_unknown(timelines: Sequence[Timeline], services: Collection[str]) -> None:
    known = list(dict.fromkeys(name for line in timelines for name in line.services))
    for name in services:
        if name not in known:
            there = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            raise SettingsError(
                f"service {name!r}: is in no history that is looked at{did_you_mean(name, known)}; "
                f"there are {there or 'none'}"
            )


def _refuse_untold(timelines: Sequence[Timeline], services: Collection[str], metrics: Sequence[Metric]) -> None:
    """What is shown of a metric that no run could tell would read as if nothing had changed."""
    known = {key for line in timelines for key in line.series}
    for metric in metrics:
        if not any(of is metric and (not services or service in services) for service, of in known):
            there = [of.value for of in Metric if any(of is other for _, other in known)]
            whose = ", ".join(services) or "any service"
            raise SettingsError(
                f"no run could tell {metric.value} of {whose}; there are {', '.join(there) or 'no metrics'}"
            )


def _metric(text: str) -> Metric:
    try:
        return Metric(text.lower())
    except ValueError as error:
        known = (*SHORT_NAMES, Metric.RPS.value)
        near = did_you_mean(text.lower(), known)
        raise SettingsError(f"unknown metric {text!r}{near}; known are {', '.join(known)}") from error


def _survey(
    timeline: Timeline,
    every: Mapping[Series, Segmentation],
    services: Collection[str],
    metrics: Collection[Metric],
    alpha: float,
) -> DetectedChanges:
    wanted = {key for key in every if (not services or key[0] in services) and (not metrics or key[1] in metrics)}
    events = []
    for event in events_of(timeline, every):
        own = tuple(item for item in event.movements if (item.service, item.metric) in wanted)
        if own:
            events.append(replace(event, movements=own))
    shown = {key: found for key, found in every.items() if key in wanted}
    mix = tuple(
        change
        for change in service_changes(timeline, alpha)
        if not services or not {*change.ended, *change.began}.isdisjoint(services)
    )
    return DetectedChanges(timeline, shown, tuple(events), alpha, len(every), mix)


MOST_COURSES = 3
MOST_RUNS = 200


def excerpts(trend: Trend) -> list[dict[str, Any]]:
    """At most `MOST_COURSES` courses: those that lead what was heard and holds, then the newest events, then the first.

    ``values`` has one number per run, ``null`` where it has none; ``begin`` of a level and ``first_index`` count runs
    from the oldest of the history.
    """
    found = {(course.service, course.metric): course.stretches for course in trend.courses}
    news = [event for event in trend.shown_events if not trend.is_known(event)]
    heard = _heard(trend.watch) if trend.watch is not None else []
    named = {service for service, _ in heard}  # the same event, whichever of its metrics leads here
    others = [key for key in map(_lead, reversed(news)) if key[0] not in named]
    telling = [*heard, *others] or list(found)[:1]
    wanted = [key for key in dict.fromkeys(telling) if key in found][:MOST_COURSES]
    return [_excerpt(trend.timeline, key, found[key]) for key in wanted]


def alert_excerpts(timeline: Timeline, watch: ScenarioWatch) -> list[dict[str, Any]]:
    """The same of what watching heard and holds; empty where that is nothing."""
    each, aligned = shared_alpha(timeline, watch.alpha), in_one_mix(timeline)
    wanted = [key for key in dict.fromkeys(_heard(watch)) if key in timeline.series][:MOST_COURSES]
    found = {key: segment(aligned.series[key], alpha=each) for key in wanted}
    return [_excerpt(timeline, key, tuple(stretches(aligned, key, found[key]))) for key in wanted]


def _heard(watch: ScenarioWatch) -> Sequence[Series]:
    """The leading series of each alert that nobody acknowledged, the newest first."""
    holding = [alert for alert in watch.alerts if alert.holds and alert.acknowledgement is None]
    return [_lead(alert.event) for alert in sorted(holding, key=lambda alert: alert.runs_ago)]


def _lead(event: Event) -> Series:
    """The strongest movement, for the worse where there is one."""
    worse = [item for item in event.movements if item.is_worse]
    first = (worse or list(event.movements))[0]
    return first.service, first.metric


def _excerpt(timeline: Timeline, key: Series, levels: Sequence[Stretch]) -> dict[str, Any]:
    first = max(len(timeline) - MOST_RUNS, 0)
    moments = timeline.moments[first:]
    return {
        "service": key[0],
        "metric": key[1].value,
        "first_index": first,
        "started_at": [one.started_at.isoformat() if one.started_at is not None else None for one in moments],
        "values": [None if math.isnan(value) else float(value) for value in timeline.series[key][first:]],
        "levels": [
            {"begin": level.begin, "end": level.end, "value": float(level.value)}
            for level in levels
            if level.end > first
        ],
    }


MOST_SHOWN = 1_000  # runs: more dots than that are one grey cloud
KEY_METRICS = (Metric.AVG, Metric.P95, Metric.ERROR_RATE, Metric.RPS)  # those that gate by default


@dataclass(frozen=True, slots=True)
class Course:
    """One metric of one service over the runs of a timeline, in the metric's unit; ``stretches`` is never empty."""

    service: str
    metric: Metric
    values: Floats
    errors: Floats
    segmentation: Segmentation
    stretches: tuple[Stretch, ...]

    @property
    def now(self) -> Stretch:
        """The newest stretch."""
        return self.stretches[-1]

    @property
    def last_seen(self) -> int:
        """Index of the newest run that has a value."""
        return int(np.nonzero(~np.isnan(self.values))[0][-1])

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the newest level; ``None`` in a drift, and where runs show no noise to go by.

        Student's t with the noise of the whole history, widened by the correlation of neighbouring runs; on the log
        scale where all values are positive, as the levels.
        """
        plain = self.values[~np.isnan(self.values)]
        found = self.segmentation
        if self.now.drift is not None or plain.size < 3 or found.noise_sd == 0.0:
            return None
        widened = (1.0 + found.correlation) / (1.0 - found.correlation) / self.now.runs
        reach = float(stdtrit(max(plain.size - len(self.stretches), 1), 0.975)) * found.noise_sd * float(widened**0.5)
        if (plain > 0).all():
            factor = float(np.exp(reach / self.now.value))
            return self.now.value / factor, self.now.value * factor
        return max(self.now.value - reach, min(0.0, float(plain.min()))), self.now.value + reach

    def to_dict(self) -> dict[str, Any]:
        """The newest level, and what is no level: outliers and drifts, by index of run."""
        low, high = self.interval or (None, None)
        return {
            "service": self.service,
            "metric": self.metric.value,
            "level": self.now.value,
            "ci_low": low,
            "ci_high": high,
            "since_index": self.now.begin,
            "runs": self.now.runs,
            "outliers": list(self.segmentation.outliers),
            "drifts": [
                {**asdict(stretch.drift), "change_pct": stretch.drift.change_pct}
                for stretch in self.stretches
                if stretch.drift is not None
            ],
        }


@dataclass(frozen=True, slots=True)
class Trend:
    """The history of a scenario, ready to be shown.

    Parameters
    ----------
    courses
        One per service and metric that was asked for, most telling services first.
    events
        Those in which what is shown moved, oldest first, with these movements.  They were looked for in the whole
        history and in all of its series, whatever is shown.
    acknowledged
        Names of events that are known or intended, with who said why.
    first
        Index of the first run that is shown.
    services_changed
        Services that ended or began, oldest first.
    metric
        The one metric that was asked for, else ``None``.
    watch
        What watching the scenario run after run came to; ``None`` where nobody asked.
    """

    timeline: Timeline
    courses: tuple[Course, ...]
    events: tuple[Event, ...]
    acknowledged: Mapping[str, str]
    first: int
    alpha: float
    metric: Metric | None = None
    watch: ScenarioWatch | None = None
    services_changed: tuple[ServiceChange, ...] = ()

    @property
    def moments(self) -> tuple[Moment, ...]:
        """All runs, oldest first."""
        return self.timeline.moments

    @property
    def store(self) -> str | None:
        """Where its runs are kept; ``None`` where they are in no store."""
        newest = self.moments[-1] if self.moments else None
        if newest is None or not newest.source.endswith(f"/{newest.run_id}"):
            return None
        return newest.source[: -len(newest.run_id) - 1]

    @property
    def services(self) -> tuple[str, ...]:
        """What is shown, most telling first."""
        return tuple(dict.fromkeys(course.service for course in self.courses))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is shown, in the usual order."""
        shown = {course.metric for course in self.courses}
        return tuple(metric for metric in Metric if metric in shown)

    @property
    def shown_events(self) -> tuple[Event, ...]:
        """The events among the runs that are shown."""
        return tuple(event for event in self.events if event.index >= self.first)

    @property
    def shown_services_changed(self) -> tuple[ServiceChange, ...]:
        """The services that ended or began among the runs that are shown."""
        return tuple(change for change in self.services_changed if change.index >= self.first)

    def is_known(self, event: Event) -> bool:
        """Whether the event was acknowledged."""
        return any(map(event.answers_to, self.acknowledged))

    def why_known(self, event: Event) -> str:
        """Who acknowledged it, and why; empty where nobody did, or did not say."""
        return next((why for name, why in self.acknowledged.items() if event.answers_to(name)), "")

    def course(self, service: str, metric: Metric) -> Course | None:
        """One series, or ``None`` where no run could tell."""
        return next((c for c in self.courses if c.service == service and c.metric is metric), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.trend/1``."""
        return {
            "schema": "perfkit.trend/1",
            "scenario": self.timeline.scenario,
            "store": self.store,
            "alpha": self.alpha,
            "runs": len(self.moments),
            "invalid": sum(not moment.valid for moment in self.moments),
            "first_run": self.moments[0].run_id if self.moments else None,
            "last_run": self.moments[-1].run_id if self.moments else None,
            "events": [
                {**event.to_dict(), "acknowledged": isinstance(event, Event) and self.is_known(event)}
                for event in in_order((*self.events, *self.services_changed))
            ],
            "levels": [course.to_dict() for course in self.courses],
            "courses": excerpts(self),
            "watch": self.watch.to_dict() if self.watch is not None else None,
        }


def trend_of(
    timeline: Timeline,
    *,
    service: str | None = None,
    metric: str | None = None,
    last: int | None = None,
    acknowledged: Mapping[str, str] = MappingProxyType({}),
    alpha: float = 0.01,
    watch: ScenarioWatch | None = None,
) -> Trend:
    """Levels, events, outliers and drift of a history.

    Parameters
    ----------
    service, metric
        Show only these; ``metric`` by its name or as people say it (``p95``).
    last
        Show only so many of the newest runs, `MOST_SHOWN` when ``None``; what is known of them comes from all.
    acknowledged
        Ids of events that are known or intended, with who said why; see `known_events`.
    alpha
        Chance that a history in which nothing changed shows any event.
    watch
        What watching it came to, to stand in the result.

    Raises
    ------
    SettingsError
        There is no such service or metric, or no run could tell it.
    """
    services, metrics = ([name] if name is not None else [] for name in (service, metric))
    (found,) = detect_changes([timeline], services=services, metrics=metrics, alpha=alpha, jobs=1)
    wanted = found.segmentations
    only = next(iter(wanted))[1] if metric is not None and wanted else None
    first = max(len(timeline) - (last or MOST_SHOWN), 0)
    courses = tuple(_course(timeline, found.timeline, key, wanted[key]) for key in wanted)
    trend = Trend(timeline, courses, found.events, acknowledged, first, alpha, only, watch, found.services)
    order = _telling(trend)
    return replace(trend, courses=tuple(sorted(courses, key=lambda course: order[course.service])))


def known_events(
    timeline: Timeline, known: Sequence[Acknowledgement], today: date, *, alpha: float = 0.01
) -> dict[str, str]:
    """Ids of the events of a history that are acknowledged on that day, with who said why."""
    own = [one for one in known if one.scenario == timeline.scenario]
    events = find_events(timeline, alpha=alpha) if own else ()
    found = match(events, [moment.run_id for moment in timeline.moments], own, today)
    return {event_id: one.describe() for event_id, one in found.items()}


def _course(timeline: Timeline, aligned: Timeline, key: Series, found: Segmentation) -> Course:
    levels = tuple(stretches(aligned, key, found))
    measured = replace(found, changes=tuple(unscaled(aligned, key, change) for change in found.changes))
    return Course(*key, timeline.series[key], timeline.errors[key], measured, levels)


def _telling(trend: Trend) -> dict[str, tuple[float, ...]]:
    """A key to sort services by: news that are worse come first, then better ones, then drift, then the rest."""
    order: dict[str, tuple[float, ...]] = {}
    for place, service in enumerate(trend.services):
        drifts = any(course.now.drift is not None for course in trend.courses if course.service == service)
        order[service] = (2.0 if drifts else 3.0, place)
    news = [event for event in trend.shown_events if not trend.is_known(event)]
    for item in (movement for event in news for movement in event.movements):
        key = (0.0 if item.is_worse else 1.0, item.change.p_value, -abs(item.change.change_pct))
        order[item.service] = min(order[item.service], key)
    return order
