"""The courses that a message draws: of the series that tell most of what happened, the newest runs, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from perfkit.history.events import Event, Series

if TYPE_CHECKING:
    from perfkit.history.trend import Course, Trend

MOST_COURSES = 3
MOST_RUNS = 200


def excerpts(trend: Trend) -> list[dict[str, Any]]:
    """At most `MOST_COURSES` courses: those that lead what was heard and holds, then the newest events, then the first.

    ``values`` has one number per run, ``null`` where it has none; ``begin`` of a level and ``first_index`` count runs
    from the oldest of the history.
    """
    series = list(dict.fromkeys(_telling(trend)))
    courses = [course for key in series if (course := trend.course(*key)) is not None]
    return [_excerpt(trend, course) for course in courses[:MOST_COURSES]]


def _telling(trend: Trend) -> Iterator[Series]:
    alerts = trend.watch.alerts if trend.watch is not None else ()
    heard = [alert for alert in alerts if alert.holds and alert.acknowledgement is None]
    yield from (_lead(alert.event) for alert in sorted(heard, key=lambda alert: alert.runs_ago))
    news = [event for event in trend.shown_events if not trend.is_known(event)]
    yield from (_lead(event) for event in reversed(news))
    if not heard and not news:
        yield from ((course.service, course.metric) for course in trend.courses[:1])


def _lead(event: Event) -> Series:
    """The strongest movement, for the worse where there is one."""
    worse = [item for item in event.movements if item.is_worse]
    first = (worse or list(event.movements))[0]
    return first.service, first.metric


def _excerpt(trend: Trend, course: Course) -> dict[str, Any]:
    first = max(len(trend.moments) - MOST_RUNS, 0)
    levels = [part for part in course.stretches if part.end > first]
    moments = trend.moments[first:]
    return {
        "service": course.service,
        "metric": course.metric.value,
        "first_index": first,
        "started_at": [one.started_at.isoformat() if one.started_at is not None else None for one in moments],
        "values": [None if math.isnan(value) else float(value) for value in course.values[first:]],
        "levels": [{"begin": part.begin, "end": part.end, "value": part.value} for part in levels],
    }
