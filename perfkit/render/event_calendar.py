"""The events of a history on a calendar: months that flow into as many columns as the page is wide."""

from __future__ import annotations

from calendar import Calendar, month_name
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from perfkit.history.events import Event
from perfkit.history.trend import Trend
from perfkit.model import Verdict
from perfkit.render.page import Html, render
from perfkit.render.theme import VERDICT_SYMBOLS
from perfkit.render.trend import KIND_SYMBOLS, headline

MOST_MONTHS = 24
KNOWN = VERDICT_SYMBOLS[Verdict.NO_CHANGE]  # of an event that was acknowledged
UNFIT = VERDICT_SYMBOLS[Verdict.INVALID]


@dataclass(slots=True)
class _Day:
    runs: Counter[bool] = field(default_factory=Counter)  # valid or not -> how many
    events: list[Event] = field(default_factory=list)


def trend_calendar(trend: Trend) -> Html:
    """When there were runs, and when something happened; an event leads to its row in the table."""
    days = _days(trend)
    if not days:
        text = "The runs do not say when they were made, so there is no calendar."
        return Html(render("note.html.j2", text=text), text=text)
    months = _months(min(days), max(days))
    shown = months[-MOST_MONTHS:]
    rows = [
        {
            "name": f"{month_name[month]} {year}",
            "weeks": [
                [_cell(day, days.get(day), trend) if day.month == month else None for day in week]
                for week in Calendar().monthdatescalendar(year, month)
            ],
        }
        for year, month in shown
    ]
    html = render("trend_calendar.html.j2", months=rows, hidden=len(months) - len(shown), known=KNOWN, unfit=UNFIT)
    return Html(html, text=f"{len(shown)} months")


def _days(trend: Trend) -> dict[date, _Day]:
    days: dict[date, _Day] = defaultdict(_Day)
    for moment in trend.moments[trend.first :]:
        if moment.started_at is not None:
            days[moment.started_at.date()].runs[moment.valid] += 1
    for event in trend.shown_events:
        if event.first_after.started_at is not None:
            days[event.first_after.started_at.date()].events.append(event)
    return days


def _months(first: date, last: date) -> list[tuple[int, int]]:
    def every() -> Iterator[tuple[int, int]]:
        for number in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
            yield number // 12, number % 12 + 1

    return list(every())


def _cell(day: date, of: _Day | None, trend: Trend) -> dict[str, Any]:
    """Number or symbol of a day, its kind, what it says under the mouse, and the row that it leads to."""
    name = f"{day.day} {day:%b %Y}"
    if of is None:
        return {"text": str(day.day), "kind": "none", "says": f"{name}: no run", "leads_to": None}
    runs, bad = sum(of.runs.values()), of.runs[False]
    counted = f"{name}: {runs} run{'s' if runs != 1 else ''}" + (f", {bad} invalid" if bad else "")
    news = next((event for event in reversed(of.events) if not trend.is_known(event)), None)
    event = news or (of.events[-1] if of.events else None)
    if event is None:
        unfit = bad == runs
        return {"text": UNFIT if unfit else str(day.day), "kind": "unfit" if unfit else "runs"} | {
            "says": counted,
            "leads_to": None,
        }
    said = " ".join(headline(item) for item in of.events)
    return {
        "text": KIND_SYMBOLS[event.kind] if news else KNOWN,
        "kind": event.kind if news else "known",
        "says": f"{counted}. {said}",
        "leads_to": event.index,
    }
