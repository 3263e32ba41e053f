"""The courses that a message draws: of the series that tell most of what happened, the newest runs, as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perfkit.history.events import Event, Series, shared_alpha
from perfkit.history.service_mix import in_one_mix
from perfkit.history.stretches import Stretch, stretches
from perfkit.history.timeline import Timeline
from perfkit.stats.changepoints import segment

if TYPE_CHECKING:
    from perfkit.history.trend import Trend
    from perfkit.history.watching import ScenarioWatch

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


def heard_courses(timeline: Timeline, watch: ScenarioWatch) -> list[dict[str, Any]]:
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
