"""How a scenario went: each metric of each service over its runs, with its levels, events, spikes and drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import stdtrit

from perfkit.history.acknowledged import Acknowledgement, match
from perfkit.history.events import Event, Series, find_events, in_order, unscaled
from perfkit.history.excerpt import excerpts
from perfkit.history.service_mix import ServiceChange
from perfkit.history.stretches import Stretch, stretches
from perfkit.history.survey import survey
from perfkit.history.timeline import Moment, Timeline
from perfkit.history.watching import ScenarioWatch
from perfkit.model import Metric
from perfkit.stats.changepoints import Segmentation
from perfkit.stats.summary import Floats

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
    (found,) = survey([timeline], services=services, metrics=metrics, alpha=alpha, jobs=1)
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
