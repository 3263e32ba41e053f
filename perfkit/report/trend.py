"""A history in words and tables: where it stands, what happened to it and when, and which runs are worth a look.

Links of a trend report: to run folders beside it, and to commits where a repository's address is given.

The events of a history on a calendar: months that flow into as many columns as the page is wide.

A history as a chart: every metric of one service over its runs, with what was found in it.

All services of a history on one sheet: a row for each, all on one scale, most telling first.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from calendar import Calendar, month_name
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import plotly.graph_objects as go

from perfkit.config.toml_table import url_parts
from perfkit.history.change_events import Event, Happened, Movement, held_worsenings, in_order
from perfkit.history.service_mix import ServiceChange, missing_services
from perfkit.history.timeline import Moment
from perfkit.history.trend import KEY_METRICS, Course, Stretch, Trend
from perfkit.model.errors import SettingsError
from perfkit.model.records import Metric, Verdict
from perfkit.report.figure import EVERY, MOST_SERVICES, Drawing, Floats, Stack, axis, rounded, selector
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    NEUTRAL_COLOUR,
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    clean,
    format_number,
    format_p,
    format_signed,
    format_value,
    label,
    layout,
    shorten,
)
from perfkit.report.html import Html, Note, render

PLACE = "{commit}"


@dataclass(frozen=True, slots=True)
class Links:
    """Where links lead; ``beside`` is the folder of the report, ``commit_url`` has gone through `read_commit_url`."""

    beside: Path
    commit_url: str | None = None

    def run(self, moment: Moment) -> str | None:
        """The run's folder, relative to the report; ``None`` where it is not on this machine.

        Everything but letters, digits and ``_.-~/`` is quoted, so that no name can be an address of its own.
        """
        folder = Path(moment.source)
        if not moment.source or "://" in moment.source or not folder.is_dir():
            return None
        try:
            relative = os.path.relpath(folder.resolve(), self.beside.resolve())
        except ValueError:  # another drive
            return None
        return quote(Path(relative).as_posix()) + "/"

    def commit(self, moment: Moment) -> str | None:
        """The address of the run's commit, or ``None`` where either is not known."""
        if not self.commit_url or not moment.commit:
            return None
        return self.commit_url.replace(PLACE, quote(moment.commit, safe=""))


def trend_links(result: str | Path, commit_url: str | None = None) -> Links:
    """Links of the report that stands beside the file ``result``."""
    return Links(Path(result).absolute().parent, read_commit_url(commit_url))


def read_commit_url(text: str | None) -> str | None:
    """A template such as ``https://git.example/team/api/commit/{commit}``; ``None`` and empty are none.

    Raises
    ------
    SettingsError
        It is not an address of http or https, or has no place for the commit behind its host.
    """
    if not text:
        return None
    parts = url_parts(text)
    wrong = "write one such as https://git.example/team/api/commit/{commit}"
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"commit URL {text!r}: is not an address of http or https; {wrong}")
    if "@" in parts.netloc:
        raise SettingsError(f"commit URL {text!r}: names a user, whom every reader of the report would see; {wrong}")
    if text.count(PLACE) != 1 or PLACE in parts.netloc or re.search(r"[\s\"'<>\\^`|\x00-\x1f\x7f]", text):
        raise SettingsError(f"commit URL {text!r}: must have {PLACE} once behind the host, and no spaces; {wrong}")
    return text


MOST_NAMED = 3  # series in a remark
MOST_MOVEMENTS = 8  # of one event in the table
MOST_EVENTS = 60
MOST_LEVELS = 15  # services in the table of levels
MOST_RUNS = 60  # in the table of runs
NEWEST = 10  # runs that are always in it
LONGEST = 120  # characters of a name in a table
LONGEST_HEADLINE = 400  # with what else changed at the place
SERVICES_SYMBOL = "⇄"
LEAST = 4  # valid runs without which nothing can be said

KIND_WORDS: Mapping[str, str] = {"regression": "got worse", "improvement": "got better", "mixed": "changed"}
KIND_VERDICTS = {"regression": Verdict.REGRESSION, "improvement": Verdict.IMPROVEMENT, "mixed": Verdict.INCONCLUSIVE}
KIND_SYMBOLS = {kind: VERDICT_SYMBOLS[verdict] for kind, verdict in KIND_VERDICTS.items()} | {"mixed": "±"}
KIND_COLOURS = {kind: VERDICT_COLOURS[verdict] for kind, verdict in KIND_VERDICTS.items()}


def day(moment: Moment) -> str:
    """``12 Oct 2026``; ``~`` for a run whose time is not known."""
    at = moment.started_at
    return f"{at.day} {at:%b %Y}" if at is not None else UNKNOWN


def commit_text(moment: Moment) -> str:
    """What fits beside a date; empty where unknown."""
    return clean(moment.commit)[:10]


def size(movement: Movement) -> str:
    """The change in percent; of the error rate in percentage points."""
    unit = movement.metric.change_unit
    return f"{format_signed(movement.size, unit)}\N{NO-BREAK SPACE}{unit}"


def size_interval(movement: Movement) -> str:
    """The 95 % interval of `size`; ``~`` when unknown."""
    ends = [format_signed(end, movement.metric.change_unit) for end in (movement.size_low, movement.size_high)]
    return UNKNOWN if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]"


def headline(event: Event, limit: int = LONGEST_HEADLINE) -> str:
    """What happened in one sentence, harmless and of bounded length."""
    items = tuple(replace(item, service=shorten(item.service, 60)) for item in event.movements)
    return shorten(replace(event, movements=items).headline, limit)


def event_place(event: Event, trend: Trend) -> str:
    """Between which runs and commits: ``between run 38 (30 Oct 2026, 1ab2) and run 39 (31 Oct 2026, 3cd4)``."""
    before = next(i for i in range(event.index, -1, -1) if trend.moments[i].run_id == event.last_before.run_id)
    return f"between {_run_text(event.last_before, before)} and {_run_text(event.first_after, event.index)}"


def _run_text(moment: Moment, index: int) -> str:
    known = [part for part in (day(moment) if moment.started_at else "", commit_text(moment)) if part]
    return f"run {index + 1}" + (f" ({', '.join(known)})" if known else "")


def stability(course: Course, trend: Trend) -> str:
    """``stable for 22 runs since 1 Nov 2026``, or how it drifts."""
    now = course.now
    since = "" if now.begin == 0 else f" since {day(trend.moments[now.begin])}"
    if now.drift is not None:
        signed = format_signed(now.drift.change_pct, "%")
        return f"drifting, {signed}\N{NO-BREAK SPACE}% over {now.runs} runs{since}"
    gone = "" if course.last_seen + 1 >= _last_valid(trend) else f", last seen {day(trend.moments[course.last_seen])}"
    return f"stable for {now.runs} run{'s' if now.runs != 1 else ''}{since}{gone}"


def _last_valid(trend: Trend) -> int:
    """One more than the index of the newest valid run."""
    return max((i + 1 for i, moment in enumerate(trend.moments) if moment.valid), default=0)


def level_text(course: Course) -> str:
    """``39.4 ms [38.9, 40.0]``; where it drifts, its end."""
    if course.now.drift is not None:
        return format_value(course.metric, course.now.drift.after)
    return f"{format_value(course.metric, course.now.value)} {interval_text(course)}".removesuffix(f" {UNKNOWN}")


def interval_text(course: Course) -> str:
    """The interval of the newest level; ``~`` when unknown."""
    found = course.interval
    return UNKNOWN if found is None else f"[{format_number(found[0])}, {format_number(found[1])}]"


def trend_banner(trend: Trend, title: str | None = None) -> Html:
    """The answer: since when it is as it is, how it stands, and the newest event."""
    news = _news(trend)
    word, kind = _headline(trend, news)
    sentences = [clean(sentence) for sentence in _sentences(trend, news)]
    html = render(
        "trend_banner.html.j2",
        title=clean(title) if title else "",
        kind=kind or "trend",
        symbol=KIND_SYMBOLS.get(kind, ""),
        colour=KIND_COLOURS.get(kind, CANDIDATE_COLOUR),
        word=word,
        sentences=sentences,
        basis=_basis(trend),
        alpha=f"{trend.alpha:g}",
    )
    return Html(html, text="\n".join([word, *sentences]))


def _news(trend: Trend) -> Event | None:
    """The newest event that nobody acknowledged; one that made worse what is worse still comes before any other."""
    unknown = [event for event in trend.events if not trend.is_known(event)]
    held = [event for event in held_worsenings(trend.events) if event in unknown]
    return next(reversed(held or unknown), None)


def _headline(trend: Trend, news: Event | None) -> tuple[str, str]:
    valid = sum(moment.valid for moment in trend.moments)
    if valid < LEAST:
        return f"{valid} valid run{'s' if valid != 1 else ''}: too few to tell", ""
    if news is not None:
        word = {"regression": "worse", "improvement": "better", "mixed": "changed"}[news.kind]
        return f"{word} since {day(news.first_after)}", news.kind
    drifting = sum(course.now.drift is not None for course in trend.courses if course.metric in KEY_METRICS)
    if drifting:
        return "drifting", ""
    if gone := missing_services(trend.services_changed):
        return f"service{'s' if len(gone) > 1 else ''} gone since {day(gone[-1][1].first_after)}", ""
    settled = max((event.index for event in trend.events), default=0)
    return f"no news in {sum(moment.valid for moment in trend.moments[settled:])} runs", ""


def _sentences(trend: Trend, news: Event | None) -> Iterator[str]:
    """What the headline is about, the newest event, then the levels of the most telling service."""
    if news is not None and news is not trend.events[-1]:
        yield f"{headline(news)} It came {event_place(news, trend)}."
    if trend.events:
        event = trend.events[-1]
        known = ", acknowledged" if trend.is_known(event) else ""
        yield f"Newest event{known}: {headline(event)} It came {event_place(event, trend)}."
    elif trend.courses:
        yield "No level changed by more than chance explains."
    for name, change in missing_services(trend.services_changed)[:MOST_NAMED]:
        yield f"{shorten(name, 60)} is gone: no requests since {day(change.first_after)}."
    wanted = (trend.metric,) if trend.metric else KEY_METRICS
    if trend.services:
        name = trend.services[0]
        for metric in wanted:
            course = trend.course(name, metric)
            if course is not None:
                yield f"{shorten(name, 60)}, {metric.title}: {level_text(course)}, {stability(course, trend)}."


def _basis(trend: Trend) -> str:
    runs, bad = len(trend.moments), sum(not moment.valid for moment in trend.moments)
    since = f", since {day(trend.moments[0])}" if trend.moments and trend.moments[0].started_at else ""
    parts = [f"{runs:,} run{'s' if runs != 1 else ''} of {shorten(trend.timeline.scenario)}{since}"]
    parts.append(f"{bad} invalid" if bad else "all valid")
    if trend.first:
        parts.append(f"the newest {runs - trend.first:,} are shown")
    services = len(trend.services)
    parts.append(f"{services} service{'s' if services != 1 else ''}, most telling first")
    return "; ".join(parts) + "."


def trend_levels(trend: Trend) -> Html:
    """Where each service stands: the newest level with interval, since when, and what runs differ by."""
    services = trend.services[:MOST_LEVELS]
    wanted = (trend.metric,) if trend.metric else KEY_METRICS
    groups = [
        (
            shorten(name, LONGEST),
            [_level_cells(course, trend) for metric in wanted if (course := trend.course(name, metric)) is not None],
        )
        for name in services
    ]
    html = render("trend_levels.html.j2", groups=groups, hidden=len(trend.services) - len(services))
    return Html(html, text=f"{sum(len(rows) for _, rows in groups)} levels")


def _level_cells(course: Course, trend: Trend) -> dict[str, Any]:
    change = course.segmentation.changes[-1] if course.segmentation.changes else None
    movement = Movement(course.service, course.metric, change) if change is not None else None
    drift, noise = course.now.drift, course.segmentation.noise_sd
    level = drift.after if drift is not None else course.now.value
    return {
        "metric": course.metric.title,
        "level": format_value(course.metric, level),
        "interval": interval_text(course),
        "stable": stability(course, trend),
        "change": size(movement) if movement is not None else "",
        "kind": ("regression" if movement.is_worse else "improvement") if movement is not None else "",
        "noise": f"{100.0 * noise / level:.2g} %" if level > 0 and course.metric is not Metric.ERROR_RATE else "",
    }


def trend_events(trend: Trend, links: Links) -> Html:
    """Every event, newest first: what moved by how much, or which services changed, between which runs and commits."""
    shown = in_order((*trend.shown_events, *trend.shown_services_changed))[::-1]
    rows = [_event_cells(event, trend, links) for event in shown[:MOST_EVENTS]]
    html = render("trend_events.html.j2", events=rows, hidden=len(shown) - len(rows))
    return Html(html, text=f"{len(shown)} events")


def _event_cells(event: Happened, trend: Trend, links: Links) -> dict[str, Any]:
    if isinstance(event, ServiceChange):
        return _service_cells(event, links)
    return {
        "anchor": event.index,
        "kind": event.kind,
        "symbol": KIND_SYMBOLS[event.kind],
        "word": KIND_WORDS[event.kind],
        "day": day(event.first_after),
        "headline": headline(event),
        "acknowledged": trend.is_known(event),
        "why_known": shorten(trend.why_known(event), 200),
        "sides": [run_cells(moment, links) for moment in (event.last_before, event.first_after)],
        "movements": [_movement_cells(item) for item in event.movements[:MOST_MOVEMENTS]],
        "more": max(len(event.movements) - MOST_MOVEMENTS, 0),
    }


def _service_cells(change: ServiceChange, links: Links) -> dict[str, Any]:
    return {
        "anchor": f"services-{change.index}",
        "kind": "mixed",
        "symbol": SERVICES_SYMBOL,
        "word": "services changed",
        "day": day(change.first_after),
        "headline": shorten(change.headline, LONGEST_HEADLINE),
        "acknowledged": False,
        "why_known": "",
        "more": 0,
        "sides": [run_cells(moment, links) for moment in (change.last_before, change.first_after)],
        "movements": [],
    }


def _movement_cells(item: Movement) -> dict[str, Any]:
    return {
        "service": shorten(item.service, LONGEST),
        "metric": item.metric.title,
        "kind": "regression" if item.is_worse else "improvement",
        "before": format_value(item.metric, item.change.before),
        "after": format_value(item.metric, item.change.after),
        "change": size(item),
        "interval": size_interval(item),
        "p": format_p(item.change.p_value),
    }


def run_cells(moment: Moment, links: Links) -> dict[str, Any]:
    """A run as tables name it, with its links."""
    at = moment.started_at
    return {
        "run": shorten(moment.run_id, LONGEST),
        "run_link": links.run(moment),
        "started": f"{at:%Y-%m-%d %H:%M}" if at is not None else UNKNOWN,
        "commit": commit_text(moment) or UNKNOWN,
        "commit_link": links.commit(moment),
        "branch": shorten(moment.branch, 30),
    }


def trend_runs(trend: Trend, links: Links) -> Html:
    """The newest runs and those that stand out: invalid, far from their level, first of a new one; newest first."""
    notes = _notes(trend)
    count = len(trend.moments)
    wanted = sorted({*notes, *range(max(count - NEWEST, trend.first), count)}, reverse=True)
    rows = [
        {
            **run_cells(trend.moments[i], links),
            "number": i + 1,
            "notes": notes.get(i, []),
            "valid": trend.moments[i].valid,
        }
        for i in wanted[:MOST_RUNS]
    ]
    html = render("trend_runs.html.j2", rows=rows, hidden=len(wanted) - len(rows))
    return Html(html, text=f"{len(rows)} runs")


def _notes(trend: Trend) -> dict[int, list[str]]:
    """What there is to say of single runs, by index."""
    notes: dict[int, list[str]] = {}
    for i, moment in enumerate(trend.moments):
        if i >= trend.first and not moment.valid:
            notes.setdefault(i, []).append(f"invalid: {moment.why_invalid or 'unfit'}")
    for event in trend.shown_events:
        known = ", acknowledged" if trend.is_known(event) else ""
        notes.setdefault(event.index, []).append(f"{KIND_WORDS[event.kind]} from here on{known}")
    for change in trend.shown_services_changed:
        notes.setdefault(change.index, []).append(shorten("; ".join(change.brief), 200).replace(" here", ""))
    for i, names in outliers(trend).items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        notes.setdefault(i, []).append(f"far from its level: {', '.join(names[:MOST_NAMED])}{more}")
    return notes


def outliers(trend: Trend) -> dict[int, list[str]]:
    """Single strange runs, by index, with the series in which they are."""
    found: dict[int, list[str]] = {}
    for course in trend.courses:
        for i in course.segmentation.outliers:
            if i >= trend.first:
                found.setdefault(i, []).append(f"{shorten(course.service)} {course.metric.title}")
    return found


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


MOST_POINTS = 40_000  # of all services together: a report of 6 MB has room for them; test_trend.py measures it
FEW = 150  # runs: more have smaller marks
MOST_LINES = 40  # events that are drawn through all panels
_WORSE, _BETTER = VERDICT_COLOURS[Verdict.REGRESSION], VERDICT_COLOURS[Verdict.IMPROVEMENT]
_UNFIT = VERDICT_COLOURS[Verdict.INVALID]
_RUN = "rgba(43,127,212,0.30)"  # the line that joins runs: `CANDIDATE_COLOUR`, faint
_BAND = "rgba(128,136,150,0.20)"
_MARKS = {"regression": "x", "improvement": "star", "mixed": "diamond"}


def trend_chart(trend: Trend) -> go.Figure | Note:
    """Value per run with the levels between changes, spikes, drift, events and invalid runs; one service at a time.

    Panels share the axis of runs, so that one hover tells commit, date and every value of a run with its interval.
    """
    if not trend.courses:
        return Note("There is nothing to draw: no valid run measured anything.")
    names, metrics = drawn_services(trend), trend.metrics
    many = len(names) > 1
    stack = Stack(
        rows=len(metrics), row=104 if len(metrics) > 1 else 240, gap=36, top=152 if many else 104, bottom=52, head=16
    )
    drawing, owners = Drawing(), list[str]()
    _strip(drawing, trend, len(metrics))
    _legend(drawing, trend)
    owners += [EVERY] * len(drawing.traces)
    for name in names:
        for index, metric in enumerate(metrics):
            course = trend.course(name, metric)
            if course is not None:
                _course(drawing, course, trend, index)
        owners += [name] * (len(drawing.traces) - len(owners))
    _strip_title(drawing)
    for index, metric in enumerate(metrics):
        stack.title(drawing, index, f"{metric.title}, {metric.unit}")
        _axis(drawing, stack, index, tozero=metric is Metric.ERROR_RATE)
    _surroundings(drawing, trend)
    alt = (
        f"History of {shorten(names[0])}: {', '.join(metric.title for metric in metrics)} over "
        f"{len(trend.moments) - trend.first} runs, with {len(trend.shown_events)} events."
    )
    margin = {"l": 56, "r": 14, "t": stack.top, "b": stack.bottom}
    drawing.arrange(**layout(stack.height, alt, margin=margin, hovermode="x unified", hoversubplots="axis"))
    drawing.arrange(dragmode=False, legend={"entrywidth": 88, "entrywidthmode": "pixels"})
    drawing.arrange(xaxis=_runs_axis(trend) | {"anchor": f"y{axis(len(metrics) - 1)}"})
    strip = {"domain": stack.strip, "anchor": "x", "visible": False, "range": [-1, 1], "fixedrange": True}
    drawing.arrange(**{f"yaxis{axis(len(metrics))}": strip})
    selector(drawing, names, owners, stack, below=84)
    return drawing.figure()


def drawn_services(trend: Trend) -> tuple[str, ...]:
    """The most telling services, as many as a report has room for."""
    points = max((len(trend.moments) - trend.first) * len(trend.metrics), 1)
    return trend.services[: max(1, min(MOST_SERVICES, MOST_POINTS // points))]


def _strip(drawing: Drawing, trend: Trend, index: int) -> None:
    """One mark per run above the panels; its hover says which run it is, once for all of them."""
    shown = range(trend.first, len(trend.moments))
    events, strays = {event.index: event for event in trend.events}, outliers(trend)
    colours, symbols, sizes = zip(*(_strip_mark(trend, i, events.get(i)) for i in shown), strict=True)
    drawing.scatter(
        x0=trend.first + 1,
        dx=1,
        y=[0] * len(shown),
        mode="markers",
        marker={
            "color": colours,
            "symbol": symbols,
            "size": sizes,
            "line": {"width": 1.2, "color": colours},
            "opacity": 1,
        },
        cliponaxis=False,
        showlegend=False,
        text=[_run_says(trend, i, events.get(i), strays.get(i, [])) for i in shown],
        hovertemplate="%{text}<extra></extra>",
        xaxis="x",
        yaxis=f"y{axis(index)}",
    )


def _strip_title(drawing: Drawing) -> None:
    where = {"xref": "paper", "xanchor": "left", "xshift": -46, "yref": "paper", "yanchor": "bottom", "yshift": 6}
    drawing.text(x=0, y=1, text="runs and events", font={"size": 12}, **where)


def _strip_mark(trend: Trend, i: int, event: Event | None) -> tuple[str, str, int]:
    """Colour, symbol and size of a run's mark."""
    if event is None:
        return (NEUTRAL_COLOUR, "line-ns-open", 6) if trend.moments[i].valid else (_UNFIT, "circle-x-open", 9)
    if trend.is_known(event):
        return NEUTRAL_COLOUR, f"{_MARKS[event.kind]}-open", 12
    return KIND_COLOURS[event.kind], _MARKS[event.kind], 12


def _run_says(trend: Trend, i: int, event: Event | None, strays: Sequence[str]) -> str:
    moment = trend.moments[i]
    lines = [run_name(moment)]
    if not moment.valid:
        lines.append(f"invalid, left out: {label(moment.why_invalid or 'unfit', 60)}")
    if event is not None:
        known = "acknowledged, " if trend.is_known(event) else ""
        lines.append(f"{KIND_SYMBOLS[event.kind]} {known}{_wrapped(event.headline)}")
    if strays:
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        lines.append(f"stray: {label(strays[0], 44)}{more}")
    return "<br>".join(lines)


def _wrapped(text: str, width: int = 44) -> str:
    """A sentence for a hover box on a telephone."""
    lines = textwrap.wrap(shorten(text, 3 * width), width)
    return "<br>".join(label(line, 2 * width) for line in lines)


def run_name(moment: Moment, between: str = ", ") -> str:
    """``1 Nov 2026 03:02, commit 1ab2c3d4e5, main``, harmless for plotly; ``between`` stands behind the time."""
    at = moment.started_at
    time = f"{day(moment)} {at:%H:%M}" if at is not None else "time unknown"
    commit = [f"commit {label(commit_text(moment))}"] if moment.commit else []
    branch = [label(moment.branch, 24)] if moment.branch else []
    return between.join([time, ", ".join([*commit, *branch])]).removesuffix(between)


def _legend(drawing: Drawing, trend: Trend) -> None:
    """What marks mean, whatever service is seen."""
    invalid = any(not moment.valid for moment in trend.moments[trend.first :])
    found = [course.segmentation for course in trend.courses]
    entries: list[tuple[str, bool, dict[str, Any]]] = [
        ("run", True, {"mode": "markers", "marker": {"color": CANDIDATE_COLOUR, "size": 6}}),
        ("level", True, {"mode": "lines", "line": {"color": NEUTRAL_COLOUR, "width": 2.6}}),
        ("got worse", any(item.changes for item in found), {"mode": "markers", "marker": _change_mark(worse=True)}),
        ("got better", any(item.changes for item in found), {"mode": "markers", "marker": _change_mark(worse=False)}),
        ("stray run", any(item.outliers for item in found), {"mode": "markers", "marker": _STRAY}),
        ("drift", any(item.drifts for item in found), {"mode": "lines", "line": _DRIFT}),
        ("invalid", invalid, {"mode": "markers", "marker": {"color": _UNFIT, "symbol": "circle-x-open", "size": 9}}),
        (
            "acknowledged",
            any(trend.is_known(event) for event in trend.shown_events),
            {"mode": "markers", "marker": {"color": NEUTRAL_COLOUR, "symbol": "x-open", "size": 9}},
        ),
    ]
    for name, wanted, style in entries:
        if wanted:
            drawing.scatter(x=[None], y=[None], name=name, hoverinfo="skip", **style)


_STRAY = {"color": NEUTRAL_COLOUR, "symbol": "circle-open", "size": 12, "line": {"width": 1.6}}
_DRIFT = {"color": NEUTRAL_COLOUR, "width": 2.6, "dash": "dash"}


def _change_mark(*, worse: bool) -> dict[str, Any]:
    return {"color": _WORSE if worse else _BETTER, "symbol": "triangle-up" if worse else "triangle-down", "size": 11}


def _course(drawing: Drawing, course: Course, trend: Trend, index: int) -> None:
    # Only a run's own value is told under the mouse: marks of its neighbours would be told with it
    where = {"xaxis": "x", "yaxis": f"y{axis(index)}", "showlegend": False}
    marks = {"hoverinfo": "skip", **where}
    values = course.values[trend.first :]
    for dash, stretches in (("solid", False), ("dash", True)):
        own = [item for item in course.stretches if (item.drift is not None) is stretches and item.end > trend.first]
        if own:
            xs, ys = _lines(own, trend.first)
            line = {"color": NEUTRAL_COLOUR, "width": 2.6, "dash": dash}
            drawing.scatter(x=xs, y=ys, mode="lines", line=line, **marks)
    drawing.scatter(
        x0=trend.first + 1,
        dx=1,
        y=rounded(values),
        customdata=reaches(course, trend.first),
        mode="lines+markers",
        line={"color": _RUN, "width": 1},
        marker={"color": CANDIDATE_COLOUR, "size": 5 if len(values) <= FEW else 3},
        hovertemplate=f"{says_value(course.metric, 'y', 'customdata')}<extra></extra>",
        **where,
    )
    _changes(drawing, course, trend, marks)
    strays = [i for i in course.segmentation.outliers if i >= trend.first]
    if strays:
        at = [i + 1 for i in strays]
        drawing.scatter(x=at, y=rounded(course.values[strays]), mode="markers", marker=_STRAY, **marks)


def reaches(course: Course, first: int) -> list[float | str]:
    """Half of the 95 % interval of each run's own value, from within the run; ``?`` where it is not known.

    Requests of which none failed tell no scatter: that is not known either, and no interval of width 0.
    """
    known = (error if math.isfinite(error) and error > 0.0 else None for error in course.errors[first:])
    return [float(f"{1.96 * error:.2g}") if error is not None else "?" for error in known]


def says_value(metric: Metric, value: str, reach: str) -> str:
    """A line of a hover box: ``p95 latency 147 ± 1.2 ms``, from the named parts of a trace."""
    unit = {"1/s": "/s"}.get(metric.unit, f" {metric.unit}")
    return f"{metric.title} %{{{value}}} ± %{{{reach}}}{unit}"


def _lines(stretches: Sequence[Stretch], first: int) -> tuple[list[float | None], list[float | None]]:
    """Levels, half a run longer on either side, and the lines of drifts; a gap between each two."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for item in stretches:
        begin, end = max(item.begin, first), item.end
        ends = (item.value, item.value)
        if item.drift is not None:
            slope = (item.drift.after - item.drift.before) / max(item.drift.end - 1 - item.drift.begin, 1)
            begin, end = max(item.drift.begin, first), item.drift.end
            ends = (item.drift.after - slope * (end - 1 - begin), item.drift.after)
        xs += [begin + 0.5, end + 0.5, None]
        ys += [*rounded(ends), None]
    return xs, ys


def _changes(drawing: Drawing, course: Course, trend: Trend, marks: dict[str, Any]) -> None:
    for worse in (True, False):
        found = [Movement(course.service, course.metric, change) for change in course.segmentation.changes]
        own = [item.change for item in found if item.is_worse is worse and item.change.index >= trend.first]
        if own:
            drawing.scatter(
                x=[change.index + 1 for change in own],
                y=rounded([change.after for change in own]),
                mode="markers",
                marker=_change_mark(worse=worse),
                **marks,
            )


def _axis(drawing: Drawing, stack: Stack, index: int, *, tozero: bool) -> None:
    vertical = {"domain": stack.domain(index), "anchor": "x", "nticks": 4, "fixedrange": True, "zeroline": False}
    drawing.arrange(**{f"yaxis{axis(index)}": vertical | {"rangemode": "tozero" if tozero else "normal"}})


def _runs_axis(trend: Trend) -> dict[str, Any]:
    """Runs at equal distances, with dates at some of them."""
    places = ticks(trend)
    return {
        "range": [trend.first + 0.3, len(trend.moments) + 0.7],
        "fixedrange": True,
        "zeroline": False,
        "showgrid": False,
        "tickvals": [i + 1 for i in places],
        "ticktext": [places[i] for i in places],
        "title": {"text": "one step per run, oldest first"},
        "unifiedhovertitle": {"text": "run %{x}"},
    }


def ticks(trend: Trend, most: int = 5) -> dict[int, str]:
    """A few runs at about equal distances, by index, with their date; where it is not known, their number."""
    first, count = trend.first, len(trend.moments)
    places = np.unique(np.linspace(first, count - 1, min(most, count - first)).round().astype(int)).tolist()
    return {i: _tick(trend.moments[i]) or f"run {i + 1}" for i in places}


def _tick(moment: Moment) -> str:
    at = moment.started_at
    return f"{at.day} {at:%b}<br>{at:%Y}" if at is not None else ""


def _surroundings(drawing: Drawing, trend: Trend) -> None:
    """Behind all panels: invalid runs as grey bands, events as thin lines."""
    places = [i for i in range(trend.first, len(trend.moments)) if not trend.moments[i].valid]
    for _, group in groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
        own = [i for _, i in group]
        _upright(drawing, type="rect", x0=own[0] + 0.5, x1=own[-1] + 1.5, fillcolor=_BAND, line={"width": 0})
    for event in trend.shown_events[-MOST_LINES:]:
        known = trend.is_known(event)
        line = {"width": 1, "dash": "dot", "color": NEUTRAL_COLOUR if known else KIND_COLOURS[event.kind]}
        _upright(drawing, type="line", x0=event.index + 0.5, x1=event.index + 0.5, line=line)
    for change in trend.shown_services_changed[-MOST_LINES:]:
        line = {"width": 1, "dash": "dash", "color": NEUTRAL_COLOUR}
        _upright(drawing, type="line", x0=change.index + 0.5, x1=change.index + 0.5, line=line)


def _upright(drawing: Drawing, **shape: Any) -> None:
    drawing.shape(xref="x", yref="paper", y0=0, y1=1, layer="below", **shape)


MOST_ROWS = 60
ROW, TOP, BOTTOM = 50, 40, 52  # pixels
UNITS = 200  # of height in a row: whole numbers are short, and a report of 6 MB has little room for numbers
MIDDLE, HALF = -40, 56  # of the line in its row, from the middle of the row; the name stands above it
MOST_SHEET_POINTS = 20_000  # of all services together
LEAST_ROW_PCT, MOST_ROW_PCT = 2.0, 100.0  # percent, or percentage points, that half a row may stand for
GROUND = "rgba(128,136,150,0.09)"


def trend_sheet(trend: Trend) -> go.Figure | Note:
    """One metric of every service, each around its newest level; half a row is as many percent for all of them."""
    metric = sheet_metric(trend)
    found = [trend.course(name, metric) for name in trend.services] if metric is not None else []
    most = max(2, min(MOST_ROWS, MOST_SHEET_POINTS // max(len(trend.moments) - trend.first, 1)))
    courses = [course for course in found if course is not None][:most]
    if metric is None or len(courses) < 2:
        return Note("There are no two services to be set side by side.")
    parts = [_around_level(course, course.values[trend.first :]) for course in courses]
    scale = _scale(parts)
    runs = [f"run {i + 1}, {run_name(trend.moments[i], '<br>')}" for i in range(trend.first, len(trend.moments))]
    drawing = Drawing()
    for row, (course, part) in enumerate(zip(courses, parts, strict=True)):
        _line(drawing, course, trend, _height(part, scale, row), runs)
        _levels(drawing, course, trend, scale, row, runs)
        _words(drawing, course, trend, row)
    _frame(drawing, trend, metric, scale, runs, len(courses))
    return drawing.figure()


def sheet_metric(trend: Trend) -> Metric | None:
    """The metric that was asked for, else p95 latency, else the first that is known."""
    return trend.metric or (Metric.P95 if Metric.P95 in trend.metrics else next(iter(trend.metrics), None))


def _level(course: Course) -> float:
    return course.now.drift.after if course.now.drift is not None else course.now.value


def _around_level(course: Course, values: Floats) -> Floats:
    """Differences from the newest level, in percent of it; of error rates in percentage points."""
    level = _level(course)
    if course.metric is Metric.ERROR_RATE:
        return values - level
    found: Floats = 100.0 * (values / level - 1.0) if level > 0 else np.full(values.shape, np.nan)
    return found


def _scale(parts: list[Floats]) -> float:
    """What half a row stands for: nearly every value has room, single spikes are cut off."""
    every = np.abs(np.concatenate(parts))
    every = every[np.isfinite(every)]
    return float(np.clip(np.quantile(every, 0.985) if every.size else LEAST_ROW_PCT, LEAST_ROW_PCT, MOST_ROW_PCT))


def _height(part: Floats, scale: float, row: int) -> Floats:
    height: Floats = np.round(MIDDLE - UNITS * row + HALF * np.clip(part / scale, -1.0, 1.0))
    return height


def _line(drawing: Drawing, course: Course, trend: Trend, height: Floats, runs: list[str]) -> None:
    says = says_value(course.metric, "customdata", "text")
    drawing.scatter(
        x0=runs[0],
        dx=1,
        y=[int(y) if np.isfinite(y) else None for y in height],
        customdata=rounded(course.values[trend.first :]),
        text=reaches(course, trend.first),
        mode="lines+markers",
        line={"width": 1, "color": "rgba(43,127,212,0.45)"},
        marker={"size": 2.5, "color": CANDIDATE_COLOUR},
        hovertemplate=f"{label(course.service)}<br>%{{x}}<br>{says}<extra></extra>",
    )


def _newest_change(course: Course, first: int) -> Movement | None:
    """The change that led to the newest level, if it is among the runs that are shown."""
    changes = course.segmentation.changes
    shown = bool(changes) and changes[-1].index >= first
    return Movement(course.service, course.metric, changes[-1]) if shown else None


def _levels(drawing: Drawing, course: Course, trend: Trend, scale: float, row: int, runs: list[str]) -> None:
    """The levels as bold lines, the newest in the colour of the change that led to it."""
    change = _newest_change(course, trend.first)
    news = VERDICT_COLOURS[_verdict(change)] if change is not None else NEUTRAL_COLOUR
    for item in course.stretches:
        if item.end > trend.first:
            ends = (item.value, item.value) if item.drift is None else (item.drift.before, item.drift.after)
            drawing.scatter(
                x=[runs[max(item.begin - trend.first, 0)], runs[item.end - 1 - trend.first]],
                y=_height(_around_level(course, np.array(ends)), scale, row).tolist(),
                mode="lines",
                line={"width": 2.4, "color": news if item is course.now else NEUTRAL_COLOUR},
                hoverinfo="skip",
            )


def _verdict(change: Movement) -> Verdict:
    return Verdict.REGRESSION if change.is_worse else Verdict.IMPROVEMENT


def _words(drawing: Drawing, course: Course, trend: Trend, row: int) -> None:
    """Name at the left, newest level and the change that led to it at the right."""
    where = {"xref": "paper", "y": (0.5 - row) * UNITS, "yref": "y", "yanchor": "top", "font": {"size": 11.5}}
    drawing.text(x=0, xanchor="left", align="left", text=label(course.service, 26), **where)
    change = _newest_change(course, trend.first)
    text = format_value(course.metric, _level(course))
    if change is not None:
        text += f", {VERDICT_SYMBOLS[_verdict(change)]} {size(change)}"
    drawing.text(x=1, xanchor="right", align="right", text=text, **where)


def _frame(drawing: Drawing, trend: Trend, metric: Metric, scale: float, runs: list[str], rows: int) -> None:
    for row in range(0, rows, 2):
        band = {"y0": (0.5 - row) * UNITS, "y1": (-0.5 - row) * UNITS, "yref": "y", "x0": 0, "x1": 1, "xref": "paper"}
        drawing.shape(type="rect", fillcolor=GROUND, line={"width": 0}, layer="below", **band)
    unit = "pp" if metric is Metric.ERROR_RATE else "%"
    margin = {"l": 6, "r": 6, "t": TOP, "b": BOTTOM}
    alt = f"{metric.title} of {rows} services over {len(runs)} runs, most telling first."
    drawing.arrange(**layout(ROW * rows + TOP + BOTTOM, alt, margin=margin, dragmode=False, showlegend=False))
    title = f"{metric.title}; half a row is {format_number(round(scale, 1))} {unit}"
    drawing.text(x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=8, text=title)
    places = ticks(trend)
    beside = len(runs) / 2000.0  # the hover of a run that has a tick would tell the tick's text instead of the run
    drawing.arrange(
        xaxis={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": runs,
            "range": [-0.7, len(runs) - 0.3],
            "tickvals": [i - trend.first + beside for i in places],
            "ticktext": list(places.values()),
            "showgrid": False,
            "fixedrange": True,
            "title": {"text": "one step per run, oldest first"},
        },
        yaxis={"range": [(0.5 - rows) * UNITS, 0.5 * UNITS], "visible": False, "fixedrange": True},
    )
