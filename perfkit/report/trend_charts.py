"""The history of a scenario as figures: every metric of one service over its runs, and all services on one sheet."""

from __future__ import annotations

import math
import textwrap
from calendar import day_abbr
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go

from perfkit.history.change_events import Event, Movement
from perfkit.history.timeline import Moment
from perfkit.history.trend import Course, Stretch, Trend
from perfkit.model.records import Metric, Verdict
from perfkit.report.figure import EVERY, MOST_SERVICES, Drawing, Floats, Stack, axis, rounded, selector, sentence
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    NEUTRAL_COLOUR,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    format_number,
    format_value,
    label,
    layout,
    shorten,
)
from perfkit.report.trend import KIND_COLOURS, KIND_SYMBOLS, KIND_WORDS, commit_text, day, outliers, size

MOST_POINTS = 40_000  # of all services together: a report of 6 MB has room for them; test_trend.py measures it
FEW = 150  # runs: more have smaller marks
MOST_LINES = 40  # events that are drawn through all panels
_WORSE, _BETTER = VERDICT_COLOURS[Verdict.REGRESSION], VERDICT_COLOURS[Verdict.IMPROVEMENT]
_UNFIT = VERDICT_COLOURS[Verdict.INVALID]
_RUN = "rgba(43,127,212,0.30)"  # the line that joins runs: `CANDIDATE_COLOUR`, faint
_BAND = "rgba(128,136,150,0.20)"
_MARKS = {"regression": "x", "improvement": "star", "mixed": "diamond"}


def trend_chart(trend: Trend) -> go.Figure:
    """Value per run with the levels between changes, spikes, drift, events and invalid runs; one service at a time.

    Panels share the axis of runs, so that one hover tells commit, date and every value of a run with its interval.
    """
    if not trend.courses:
        return sentence("There is nothing to draw: no valid run measured anything.")
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


def trend_sheet(trend: Trend) -> go.Figure:
    """One metric of every service, each around its newest level; half a row is as many percent for all of them."""
    metric = sheet_metric(trend)
    found = [trend.course(name, metric) for name in trend.services] if metric is not None else []
    most = max(2, min(MOST_ROWS, MOST_SHEET_POINTS // max(len(trend.moments) - trend.first, 1)))
    courses = [course for course in found if course is not None][:most]
    if metric is None or len(courses) < 2:
        return sentence("There are no two services to be set side by side.")
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


_DAY_PX = 16  # of a week's row on the calendar


def trend_days(trend: Trend) -> go.Figure:
    """A square per day with runs, weeks from left to right; days on which an event began have its colour and symbol."""
    days: dict[date, list[int]] = {}
    for i, moment in enumerate(trend.moments[trend.first :], start=trend.first):
        if moment.started_at is not None:
            days.setdefault(moment.started_at.date(), []).append(i)
    if not days:
        return sentence("The runs do not say when they were made, so there is no calendar.")
    events: dict[date, list[Event]] = {}
    for event in trend.shown_events:
        if event.first_after.started_at is not None:
            events.setdefault(event.first_after.started_at.date(), []).append(event)
    kinds: dict[str, list[date]] = {}
    for day_of, runs in days.items():
        happened = events.get(day_of, [])
        news = [event for event in happened if not trend.is_known(event)]
        valid = any(trend.moments[i].valid for i in runs)
        kind = KIND_WORDS[news[-1].kind] if news else "acknowledged" if happened else "runs" if valid else "invalid"
        kinds.setdefault(kind, []).append(day_of)
    drawing = Drawing()
    styles = {
        "runs": ("square", "rgba(43,127,212,0.45)"),
        "invalid": ("circle-x-open", _UNFIT),
        "acknowledged": ("diamond-open", NEUTRAL_COLOUR),
        **{KIND_WORDS[kind]: (_MARKS[kind], KIND_COLOURS[kind]) for kind in KIND_WORDS},
    }
    for kind, (symbol, colour) in styles.items():
        shown = kinds.get(kind, [])
        if not shown:
            continue
        texts = []
        for day_of in shown:
            count = len(days[day_of])
            lines = [f"{day_of.day} {day_of:%b %Y}: {count} run{'s' if count != 1 else ''}"]
            lines += [_wrapped(event.headline) for event in events.get(day_of, [])]
            texts.append("<br>".join(lines))
        drawing.scatter(
            x=[(day_of - timedelta(days=day_of.weekday())).isoformat() for day_of in shown],
            y=[day_of.weekday() for day_of in shown],
            mode="markers",
            marker={"symbol": symbol, "size": 11, "color": colour},
            name=kind,
            text=texts,
            hovertemplate="%{text}<extra></extra>",
        )
    alt = f"Calendar from {min(days)} to {max(days)}: {len(days)} days with runs, {len(trend.shown_events)} events."
    drawing.arrange(**layout(7 * _DAY_PX + 120, alt, margin={"l": 44, "r": 14, "t": 62, "b": 40}))
    weekdays = {"tickvals": list(range(7)), "ticktext": list(day_abbr), "range": [6.6, -0.6], "showgrid": False}
    weeks = {"type": "date", "showgrid": False, "zeroline": False}
    if (max(days) - min(days)).days < 60:  # few weeks would lie far apart
        first, last = min(days) - timedelta(days=14), max(min(days) + timedelta(days=180), max(days))
        weeks["range"] = [first.isoformat(), last.isoformat()]
    drawing.arrange(xaxis=weeks, yaxis=weekdays | {"zeroline": False})
    return drawing.figure()
