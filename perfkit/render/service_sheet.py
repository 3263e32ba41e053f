"""All services of a history on one sheet: a row for each, all on one scale, most telling first."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from perfkit.history.events import Movement
from perfkit.history.trend import Course, Trend
from perfkit.model import Metric, Verdict
from perfkit.render.drawing import Drawing
from perfkit.render.page import Note
from perfkit.render.series import Floats, rounded
from perfkit.render.theme import (
    CANDIDATE_COLOUR,
    NEUTRAL_COLOUR,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    format_number,
    format_value,
    label,
    layout,
)
from perfkit.render.trend import size
from perfkit.render.trend_charts import reaches, run_name, says_value, ticks

MOST_ROWS = 60
ROW, TOP, BOTTOM = 50, 40, 52  # pixels
UNITS = 200  # of height in a row: whole numbers are short, and a report of 6 MB has little room for numbers
MIDDLE, HALF = -40, 56  # of the line in its row, from the middle of the row; the name stands above it
MOST_POINTS = 20_000  # of all services together
LEAST, MOST = 2.0, 100.0  # percent, or percentage points, that half a row may stand for
GROUND = "rgba(128,136,150,0.09)"


def trend_sheet(trend: Trend) -> go.Figure | Note:
    """One metric of every service, each around its newest level; half a row is as many percent for all of them."""
    metric = sheet_metric(trend)
    found = [trend.course(name, metric) for name in trend.services] if metric is not None else []
    most = max(2, min(MOST_ROWS, MOST_POINTS // max(len(trend.moments) - trend.first, 1)))
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
    return float(np.clip(np.quantile(every, 0.985) if every.size else LEAST, LEAST, MOST))


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
