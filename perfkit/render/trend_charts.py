"""A history as a chart: every metric of one service over its runs, with what was found in it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go

from perfkit.history.events import Event, Movement
from perfkit.history.stretches import Stretch
from perfkit.history.timeline import Moment
from perfkit.history.trend import Course, Trend
from perfkit.model import Metric, Verdict
from perfkit.render.drawing import Drawing
from perfkit.render.page import Note
from perfkit.render.panels import EVERY, MOST_SERVICES, Stack, axis, selector
from perfkit.render.series import rounded
from perfkit.render.theme import (
    CANDIDATE_COLOUR,
    NEUTRAL_COLOUR,
    VERDICT_COLOURS,
    label,
    layout,
    shorten,
)
from perfkit.render.trend import KIND_COLOURS, KIND_SYMBOLS, commit_text, day, outliers

MOST_POINTS = 40_000  # of all services together: a report of 6 MB has room for them; tests/test_trend.py measures it
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
