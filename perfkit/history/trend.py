"""The trend of a scenario: each metric of each service over its runs, with its levels, events, outliers and drift.

A message shows excerpts of it: of the series that tell most of what happened, the newest runs, as plain values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import stdtrit

from perfkit.history.acknowledgements import Acknowledgement, match
from perfkit.history.change_events import unscaled
from perfkit.history.changes import DetectedChanges, detect_changes
from perfkit.history.context import HistoryAnalysis
from perfkit.history.events import Event, RunReference, Series
from perfkit.history.monitor import ScenarioWatch
from perfkit.history.service_mix import ServiceChange
from perfkit.history.timeline import Timeline
from perfkit.model.records import Metric
from perfkit.stats.changepoints import Drift, Segmentation
from perfkit.stats.summary import Floats

MOST_SHOWN = 1_000  # runs: more dots than that are one grey cloud
KEY_METRICS = (Metric.AVG, Metric.P95, Metric.ERROR_RATE, Metric.RPS)  # those that gate by default
MOST_COURSES = 3  # series in a message
MOST_RUNS = 200  # of each


@dataclass(frozen=True, slots=True)
class Stretch:
    """The runs from ``begin`` up to and without ``end``, on one level; ``drift`` where they move steadily instead."""

    begin: int
    end: int
    value: float
    runs: int  # that have a value
    drift: Drift | None = None


def stretches(history: HistoryAnalysis, key: Series) -> Iterator[Stretch]:
    """The levels of one series, oldest first; one that lasts through a change of the mix has a part in each mix."""
    aligned, segmentation = history.aligned, history.segmentation(key)
    measured, scale = ~np.isnan(aligned.series[key]), aligned.scale.get(key)
    edges = [0, *(change.index for change in segmentation.changes), len(aligned)]
    for (begin, end), level in zip(pairwise(edges), segmentation.levels, strict=True):
        drift = next((item for item in segmentation.drifts if begin <= item.begin and item.end <= end), None)
        runs = [i for i in range(begin, end) if measured[i]]
        mixes = [] if scale is None else [b for a, b in pairwise(runs) if scale[a] != scale[b]]
        for first, last in pairwise([begin, *mixes, end]):
            runs = [i for i in range(first, last) if measured[i]]
            factor = aligned.scale_at(key, runs[0]) if runs else 1.0
            part = drift if last == end else None
            if part is not None and factor != 1.0:
                part = replace(part, before=part.before / factor, after=part.after / factor)
            yield Stretch(first, last, level / factor, len(runs), part)


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
    changes
        Events, services that ended or began, and levels, of what was asked for.
    courses
        One per service and metric that was asked for, most telling services first.
    acknowledged
        Ids of events that are known or intended, with who said why.
    first
        Index of the first run that is shown.
    metric
        The one metric that was asked for, else ``None``.
    watch
        What watching the scenario run after run came to; ``None`` where nobody asked.
    """

    changes: DetectedChanges
    courses: tuple[Course, ...]
    acknowledged: Mapping[str, str]
    first: int
    metric: Metric | None = None
    watch: ScenarioWatch | None = None

    @property
    def timeline(self) -> Timeline:
        """Its runs, as they were measured."""
        return self.changes.timeline

    @property
    def alpha(self) -> float:
        """Chance that a history in which nothing changed shows any event."""
        return self.changes.alpha

    @property
    def events(self) -> tuple[Event, ...]:
        """Those in which what is shown moved, oldest first; looked for in the whole history and in all its series."""
        return self.changes.events

    @property
    def services_changed(self) -> tuple[ServiceChange, ...]:
        """Services that ended or began, oldest first."""
        return self.changes.services_changed

    @property
    def runs(self) -> tuple[RunReference, ...]:
        """All runs, oldest first."""
        return self.timeline.runs

    @property
    def store(self) -> str | None:
        """Where its runs are kept; ``None`` where they are in no store."""
        newest = self.runs[-1] if self.runs else None
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
            "store": self.store,
            **self.changes.to_dict(self.acknowledged),
            "levels": [course.to_dict() for course in self.courses],
            "courses": excerpts(self),
            "watch": self.watch.to_dict() if self.watch is not None else None,
        }


def trend_of(
    history: HistoryAnalysis | Timeline,
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
        Show only these; ``metric`` by its name or in short (``p95``).
    last
        Show only so many of the newest runs, `MOST_SHOWN` when ``None``; what is known of them comes from all.
    acknowledged
        Ids of events that are known or intended, with who said why; see `acknowledged_events`.
    alpha
        Chance that a history in which nothing changed shows any event; a history that is analysed already has its own.
    watch
        What watching it came to, to stand in the result.

    Raises
    ------
    SettingsError
        There is no such service or metric, or no run could tell it.
    """
    services, metrics = ([name] if name is not None else [] for name in (service, metric))
    (changes,) = detect_changes([history], services=services, metrics=metrics, alpha=alpha, jobs=1)
    timeline, aligned = changes.timeline, changes.history.aligned
    courses = []
    for key, segmentation in changes.segmentations.items():
        measured = replace(
            segmentation, changes=tuple(unscaled(aligned, key, change) for change in segmentation.changes)
        )
        levels = tuple(stretches(changes.history, key))
        courses.append(Course(*key, timeline.series[key], timeline.errors[key], measured, levels))
    first = max(len(timeline) - (last or MOST_SHOWN), 0)
    only = courses[0].metric if metric is not None and courses else None
    trend = Trend(changes, tuple(courses), acknowledged, first, only, watch)

    # Services with worse news come first, then better news, then drift, then the rest
    order: dict[str, tuple[float, ...]] = {}
    for place, name in enumerate(trend.services):
        drifts = any(course.now.drift is not None for course in courses if course.service == name)
        order[name] = (2.0 if drifts else 3.0, place)
    for item in (change for event in trend.shown_events if not trend.is_known(event) for change in event.changes):
        rank = (0.0 if item.is_worse else 1.0, item.change.p_value, -abs(item.change.change_pct))
        order[item.service] = min(order[item.service], rank)
    return replace(trend, courses=tuple(sorted(courses, key=lambda course: order[course.service])))


def acknowledged_events(
    history: HistoryAnalysis, acknowledgements: Sequence[Acknowledgement], today: date
) -> dict[str, str]:
    """Ids of the events of a history that are acknowledged on that day, with who said why."""
    own = [item for item in acknowledgements if item.scenario == history.scenario]
    covered = match(history.events, history.run_ids, own, today) if own else {}
    return {event_id: item.describe() for event_id, item in covered.items()}


def excerpts(trend: Trend) -> list[dict[str, Any]]:
    """At most `MOST_COURSES` series: those that lead alerts that hold, then the newest events, then the first.

    ``values`` has one number per run, ``null`` where it has none; ``begin`` of a level and ``first_index`` count runs
    from the oldest of the history.
    """
    levels = {(course.service, course.metric): course.stretches for course in trend.courses}
    alerted = _alerted(trend.watch) if trend.watch is not None else []
    named = {service for service, _ in alerted}  # the same event, whichever of its metrics leads here
    events = [event for event in reversed(trend.shown_events) if not trend.is_known(event)]
    telling = [*alerted, *(key for key in map(_lead, events) if key[0] not in named)] or list(levels)[:1]
    keys = [key for key in dict.fromkeys(telling) if key in levels][:MOST_COURSES]
    return [_excerpt(trend.timeline, key, levels[key]) for key in keys]


def alert_excerpts(history: HistoryAnalysis, watch: ScenarioWatch) -> list[dict[str, Any]]:
    """The same of the alerts that hold; empty where there are none."""
    keys = [key for key in dict.fromkeys(_alerted(watch)) if key in history.timeline.series][:MOST_COURSES]
    return [_excerpt(history.timeline, key, tuple(stretches(history, key))) for key in keys]


def _alerted(watch: ScenarioWatch) -> Sequence[Series]:
    """The leading series of each alert that holds and that nobody acknowledged, the newest first."""
    holding = [alert for alert in watch.alerts if alert.holds and alert.acknowledgement is None]
    return [_lead(alert.event) for alert in sorted(holding, key=lambda alert: alert.runs_ago)]


def _lead(event: Event) -> Series:
    """The series that changed most clearly, for the worse where there is one."""
    first = next((item for item in event.changes if item.is_worse), event.changes[0])
    return first.service, first.metric


def _excerpt(timeline: Timeline, key: Series, levels: Sequence[Stretch]) -> dict[str, Any]:
    first = max(len(timeline) - MOST_RUNS, 0)
    moments = timeline.runs[first:]
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
