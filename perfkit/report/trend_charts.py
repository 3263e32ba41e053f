"""The history of a scenario as figures: every metric of one service over its runs, and all services on one sheet."""

from __future__ import annotations

import math
import textwrap
from calendar import day_abbr
from datetime import date, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from perfkit.model.records import Metric, Verdict
from perfkit.report.figure import EVERY, MOST_SERVICES, Floats, Panels, axis, rounded, sentence
from perfkit.report.findings import size_text
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    EVENT_COLOURS,
    EVENT_SYMBOLS,
    EVENT_WORDS,
    NEUTRAL_COLOUR,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    and_more,
    commit_text,
    count_text,
    format_day,
    format_number,
    format_value,
    label,
    shorten,
)
from perfkit.report.trend import by_day

if TYPE_CHECKING:
    from perfkit.history.events import RunReference
    from perfkit.history.trend import History, MetricTrend

MOST_POINTS = 40_000  # of all services together: a report of 6 MB has room for them; test_trend.py measures it
FEW = 150  # runs: more have smaller marks
MOST_LINES = 40  # events that are drawn through all panels
_RUN = "rgba(43,127,212,0.30)"  # the line that joins runs: `CANDIDATE_COLOUR`, faint
_BAND = "rgba(128,136,150,0.20)"
_STEPS: dict[str, dict[str, str]] = {
    "got worse": {"symbol": "triangle-up", "color": VERDICT_COLOURS[Verdict.REGRESSION]},
    "got better": {"symbol": "triangle-down", "color": VERDICT_COLOURS[Verdict.IMPROVEMENT]},
}
_INVALID = {"color": VERDICT_COLOURS[Verdict.INVALID], "symbol": "circle-x-open"}
_OUTLIER = {"color": NEUTRAL_COLOUR, "symbol": "circle-open", "size": 12, "line": {"width": 1.6}}
_MARKS = {"regression": "x", "improvement": "star", "mixed": "diamond"}


def trend_chart(trend: History) -> go.Figure:
    """Value per run with the levels between changes, outliers, drift, events and invalid runs; one service at a time.

    Panels share the axis of runs, so that one hover tells commit, date and every value of a run with its interval.  An
    entry of the legend stands for all its marks: a click on it hides them.
    """
    if not trend.metric_trends:
        return sentence("There is nothing to draw: no valid run measured anything.")
    names, metrics = drawn_services(trend), trend.metrics
    titles = [f"{metric.title}, {metric.unit}" for metric in metrics]
    top = 152 if len(names) > 1 else 104
    panels = Panels(titles, row=104 if len(metrics) > 1 else 240, gap=36, top=top, bottom=52, strip=16)
    _strip(panels, trend)
    _legend(panels, trend)
    for name in names:
        panels.service = name
        for index, metric in enumerate(metrics):
            course = trend.metric_trend(name, metric)
            if course is not None:
                _course(panels, course, trend, index)
    panels.service = EVERY
    position = {"xref": "paper", "xanchor": "left", "xshift": -46, "yref": "paper", "yanchor": "bottom", "yshift": 6}
    panels.text("runs and events", x=0, y=1, font={"size": 12}, **position)
    for index, metric in enumerate(metrics):
        rangemode = "tozero" if metric is Metric.ERROR_RATE else "normal"
        panels.axis(f"y{axis(index)}", nticks=4, zeroline=False, rangemode=rangemode)
    panels.axis(f"y{axis(len(metrics))}", range=[-1, 1], fixedrange=True)
    tick_texts = ticks(trend)
    panels.axis(
        "x",  # runs at equal distances, with dates at some of them
        range=[trend.first + 0.3, len(trend.runs) + 0.7],
        zeroline=False,
        showgrid=False,
        tickvals=[i + 1 for i in tick_texts],
        ticktext=[tick_texts[i] for i in tick_texts],
        title={"text": "one step per run, oldest first"},
        unifiedhovertitle={"text": "run %{x}"},
    )
    # Behind all panels: invalid runs as grey bands, events as thin lines
    upright = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    unfit = [i for i in range(trend.first, len(trend.runs)) if not trend.runs[i].valid]
    for _, group in groupby(enumerate(unfit), lambda pair: pair[1] - pair[0]):
        band = [i for _, i in group]
        panels.shape(type="rect", x0=band[0] + 0.5, x1=band[-1] + 1.5, fillcolor=_BAND, line={"width": 0}, **upright)
    strokes = [
        (event.index, "dot", NEUTRAL_COLOUR if trend.is_acknowledged(event) else EVENT_COLOURS[event.kind])
        for event in trend.shown_events[-MOST_LINES:]
    ]
    strokes += [(change.index, "dash", NEUTRAL_COLOUR) for change in trend.shown_services_changed[-MOST_LINES:]]
    for i, dash, colour in strokes:
        line = {"width": 1, "dash": dash, "color": colour}
        panels.shape(type="line", x0=i + 0.5, x1=i + 0.5, line=line, **upright)
    return panels.figure(
        f"History of {shorten(names[0])}: {', '.join(metric.title for metric in metrics)} over "
        f"{len(trend.runs) - trend.first} runs, with {len(trend.shown_events)} events.",
        names,
        below=84,
        hovermode="x unified",
        hoversubplots="axis",
        legend={"entrywidth": 88, "entrywidthmode": "pixels"},
    )


def drawn_services(trend: History) -> tuple[str, ...]:
    """The most telling services, as many as a report has room for."""
    points = max((len(trend.runs) - trend.first) * len(trend.metrics), 1)
    return trend.services[: max(1, min(MOST_SERVICES, MOST_POINTS // points))]


def _strip(panels: Panels, trend: History) -> None:
    """One mark per run above the panels; its hover says which run it is, once for all of them."""
    shown = range(trend.first, len(trend.runs))
    events, unusual = {event.index: event for event in trend.events}, trend.outliers
    marks: list[tuple[str, str, int]] = []
    texts = []
    for i in shown:
        run, event, far = trend.runs[i], events.get(i), unusual.get(i, [])
        lines = [run_name(run)]
        mark = (NEUTRAL_COLOUR, "line-ns-open", 6)
        if not run.valid:
            mark = (_INVALID["color"], _INVALID["symbol"], 9)
            lines.append(f"invalid, left out: {label(run.why_invalid or 'unfit', 60)}")
        if event is not None:
            mark, prefix = (EVENT_COLOURS[event.kind], _MARKS[event.kind], 12), ""
            if trend.is_acknowledged(event):
                mark, prefix = (NEUTRAL_COLOUR, f"{_MARKS[event.kind]}-open", 12), "acknowledged, "
            lines.append(f"{EVENT_SYMBOLS[event.kind]} {prefix}{_wrapped(event.headline)}")
        if far:
            name = f"{shorten(far[0][0])} {far[0][1].title}"
            lines.append(f"outlier: {label(name, 44)}{and_more(len(far) - 1)}")
        marks.append(mark)
        texts.append("<br>".join(lines))
    colours, symbols, sizes = zip(*marks, strict=True)
    stroke = {"width": 1.2, "color": colours}
    panels.add(
        len(trend.metrics),
        x0=trend.first + 1,
        dx=1,
        y=[0] * len(shown),
        mode="markers",
        marker={"color": colours, "symbol": symbols, "size": sizes, "line": stroke, "opacity": 1},
        cliponaxis=False,
        showlegend=False,
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )


def _wrapped(text: str, width: int = 44) -> str:
    """A sentence for a hover box on a telephone."""
    return "<br>".join(label(line, 2 * width) for line in textwrap.wrap(shorten(text, 3 * width), width))


def run_name(moment: RunReference, between: str = ", ") -> str:
    """``1 Nov 2026 03:02, commit 1ab2c3d4e5, main``, harmless for plotly; ``between`` stands behind the time."""
    at = moment.started_at
    time = f"{format_day(moment)} {at:%H:%M}" if at is not None else "time unknown"
    commit = [f"commit {label(commit_text(moment))}"] if moment.commit else []
    branch = [label(moment.branch, 24)] if moment.branch else []
    return between.join([time, ", ".join([*commit, *branch])]).removesuffix(between)


def _legend(panels: Panels, trend: History) -> None:
    """What marks mean, whatever service is seen."""
    segmentations = [course.segmentation for course in trend.metric_trends]
    line: dict[str, Any] = {"color": NEUTRAL_COLOUR, "width": 2.6}
    changed = any(segmentation.changes for segmentation in segmentations)
    entries: list[tuple[str, bool, dict[str, Any]]] = [
        ("run", True, {"marker": {"color": CANDIDATE_COLOUR, "size": 6}}),
        ("level", True, {"line": line}),
        *((name, changed, {"marker": {**mark, "size": 11}}) for name, mark in _STEPS.items()),
        ("outlier", any(segmentation.outliers for segmentation in segmentations), {"marker": _OUTLIER}),
        ("drift", any(segmentation.drifts for segmentation in segmentations), {"line": {**line, "dash": "dash"}}),
        ("invalid", not all(run.valid for run in trend.runs[trend.first :]), {"marker": {**_INVALID, "size": 9}}),
        (
            "acknowledged",
            any(map(trend.is_acknowledged, trend.shown_events)),
            {"marker": {"color": NEUTRAL_COLOUR, "symbol": "x-open", "size": 9}},
        ),
    ]
    for name, is_shown, style in entries:
        if is_shown:
            panels.legend(name, mode="lines" if "line" in style else "markers", **style)


def _course(panels: Panels, course: MetricTrend, trend: History, index: int) -> None:
    """One metric of one service: its levels and drifts, a mark per run, its changes and outliers."""
    # Only a run's own value is told under the mouse: marks of its neighbours would be told with it
    marks: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}
    values = course.values[trend.first :]
    for name, dash, drifts in (("level", "solid", False), ("drift", "dash", True)):
        stretches = [part for part in course.levels if (part.drift is not None) is drifts and part.end > trend.first]
        if stretches:
            xs: list[float | None] = []
            ys: list[float | None] = []
            for item in stretches:  # half a run longer on either side, a gap between each two
                begin, end, ends = max(item.begin, trend.first), item.end, (item.value, item.value)
                if item.drift is not None:
                    slope = (item.drift.after - item.drift.before) / max(item.drift.end - 1 - item.drift.begin, 1)
                    begin, end = max(item.drift.begin, trend.first), item.drift.end
                    ends = (item.drift.after - slope * (end - 1 - begin), item.drift.after)
                xs += [begin + 0.5, end + 0.5, None]
                ys += [*rounded(ends), None]
            line = {"color": NEUTRAL_COLOUR, "width": 2.6, "dash": dash}
            panels.add(index, x=xs, y=ys, mode="lines", line=line, legendgroup=name, **marks)
    panels.add(
        index,
        x0=trend.first + 1,
        dx=1,
        y=rounded(values),
        customdata=half_intervals(course, trend.first),
        mode="lines+markers",
        line={"color": _RUN, "width": 1},
        marker={"color": CANDIDATE_COLOUR, "size": 5 if len(values) <= FEW else 3},
        hovertemplate=f"{value_hover(course.metric, 'y', 'customdata')}<extra></extra>",
        legendgroup="run",
        showlegend=False,
    )
    for name, mark in _STEPS.items():
        steps = [
            item.change
            for item in course.changes
            if item.is_worse is (name == "got worse") and item.change.index >= trend.first
        ]
        if steps:
            panels.add(
                index,
                x=[change.index + 1 for change in steps],
                y=rounded([change.after for change in steps]),
                mode="markers",
                marker={**mark, "size": 11},
                legendgroup=name,
                **marks,
            )
    far = [i for i in course.segmentation.outliers if i >= trend.first]
    if far:
        x, y = [i + 1 for i in far], rounded(course.values[far])
        panels.add(index, x=x, y=y, mode="markers", marker=_OUTLIER, legendgroup="outlier", **marks)


def half_intervals(course: MetricTrend, first: int) -> list[float | str]:
    """Half of the 95 % interval of each run's own value, from within the run; ``?`` where it is not known.

    Requests of which none failed tell no scatter: that is not known either, and no interval of width 0.
    """
    errors = (error if math.isfinite(error) and error > 0.0 else None for error in course.errors[first:])
    return [float(f"{1.96 * error:.2g}") if error is not None else "?" for error in errors]


def value_hover(metric: Metric, value: str, reach: str) -> str:
    """A line of a hover box: ``p95 latency 147 ± 1.2 ms``, from the named parts of a trace."""
    unit = {"1/s": "/s"}.get(metric.unit, f" {metric.unit}")
    return f"{metric.title} %{{{value}}} ± %{{{reach}}}{unit}"


def ticks(trend: History, most: int = 5) -> dict[int, str]:
    """A few runs at about equal distances, by index, with their date; where it is not known, their number."""
    first, count = trend.first, len(trend.runs)
    indices = np.unique(np.linspace(first, count - 1, min(most, count - first)).round().astype(int)).tolist()
    dates = {i: trend.runs[i].started_at for i in indices}
    return {i: f"run {i + 1}" if at is None else f"{at.day} {at:%b}<br>{at:%Y}" for i, at in dates.items()}


MOST_ROWS = 60
ROW, TOP, BOTTOM = 50, 40, 52  # pixels
UNITS = 200  # of height in a row: whole numbers are short, and a report of 6 MB has little room for numbers
MIDDLE, HALF = -40, 56  # of the line in its row, from the middle of the row; the name stands above it
MOST_SHEET_POINTS = 20_000  # of all services together
LEAST_ROW_PCT, MOST_ROW_PCT = 2.0, 100.0  # percent, or percentage points, that half a row may stand for
GROUND = "rgba(128,136,150,0.09)"


def trend_sheet(trend: History) -> go.Figure:
    """One metric of every service, each around its newest level; half a row is as many percent for all of them."""
    # The metric that was asked for, else p95 latency, else the first that is known
    metric = trend.metric or (Metric.P95 if Metric.P95 in trend.metrics else next(iter(trend.metrics), None))
    all_courses = [trend.metric_trend(name, metric) for name in trend.services] if metric is not None else []
    most = max(2, min(MOST_ROWS, MOST_SHEET_POINTS // max(len(trend.runs) - trend.first, 1)))
    courses = [course for course in all_courses if course is not None][:most]
    if metric is None or len(courses) < 2:
        return sentence("There are no two services to be set side by side.", is_empty=len(trend.services) == 1)
    parts = [_around_level(course, course.values[trend.first :]) for course in courses]
    sizes = np.abs(np.concatenate(parts))
    sizes = sizes[np.isfinite(sizes)]  # nearly every value has room, single spikes are cut off
    scale = float(np.clip(np.quantile(sizes, 0.985) if sizes.size else LEAST_ROW_PCT, LEAST_ROW_PCT, MOST_ROW_PCT))
    runs = [f"run {i + 1}, {run_name(trend.runs[i], '<br>')}" for i in range(trend.first, len(trend.runs))]
    panels = Panels([""], row=ROW * len(courses), top=TOP, bottom=BOTTOM)
    for row, (course, part) in enumerate(zip(courses, parts, strict=True)):
        if row % 2 == 0:
            area = {"y0": (0.5 - row) * UNITS, "y1": (-0.5 - row) * UNITS, "yref": "y"}
            area |= {"x0": 0, "x1": 1, "xref": "paper", "layer": "below"}
            panels.shape(type="rect", fillcolor=GROUND, line={"width": 0}, **area)
        _sheet_row(panels, course, trend, part, scale, row, runs)
    unit = "pp" if metric is Metric.ERROR_RATE else "%"
    title = f"{metric.title}; row height: ±{format_number(round(scale, 1))} {unit}"
    panels.text(title, x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=8)
    tick_texts = ticks(trend)
    beside = len(runs) / 2000.0  # the hover of a run that has a tick would tell the tick's text instead of the run
    panels.axis(
        "x",
        type="category",
        categoryorder="array",
        categoryarray=runs,
        range=[-0.7, len(runs) - 0.3],
        tickvals=[i - trend.first + beside for i in tick_texts],
        ticktext=list(tick_texts.values()),
        showgrid=False,
        title={"text": "one step per run, oldest first"},
    )
    panels.axis("y", range=[(0.5 - len(courses)) * UNITS, 0.5 * UNITS], visible=False, fixedrange=True)
    alt = f"{metric.title} of {len(courses)} services over {len(runs)} runs, most telling first."
    margin = {"l": 6, "r": 6, "t": TOP, "b": BOTTOM}
    return panels.figure(alt, margin=margin, showlegend=False)


def _around_level(course: MetricTrend, values: Floats) -> Floats:
    """Differences from the newest level, in percent of it; of error rates in percentage points."""
    level = course.level
    if course.metric is Metric.ERROR_RATE:
        return values - level
    differences: Floats = 100.0 * (values / level - 1.0) if level > 0 else np.full(values.shape, np.nan)
    return differences


def _sheet_row(
    panels: Panels, course: MetricTrend, trend: History, part: Floats, scale: float, row: int, runs: list[str]
) -> None:
    """One service: its values as a thin line, its levels as bold ones, the newest in the colour of the last change.

    Its name stands at the left, the newest level and the change that led to it at the right.
    """

    def heights(values: Floats) -> Floats:
        pixels: Floats = np.round(MIDDLE - UNITS * row + HALF * np.clip(values / scale, -1.0, 1.0))
        return pixels

    says = value_hover(course.metric, "customdata", "text")
    panels.add(
        x0=runs[0],
        dx=1,
        y=[int(y) if np.isfinite(y) else None for y in heights(part)],
        customdata=rounded(course.values[trend.first :]),
        text=half_intervals(course, trend.first),
        mode="lines+markers",
        line={"width": 1, "color": "rgba(43,127,212,0.45)"},
        marker={"size": 2.5, "color": CANDIDATE_COLOUR},
        hovertemplate=f"{label(course.service)}<br>%{{x}}<br>{says}<extra></extra>",
    )
    last = course.changes[-1] if course.changes and course.changes[-1].change.index >= trend.first else None
    verdict = Verdict.REGRESSION if last is not None and last.is_worse else Verdict.IMPROVEMENT
    for stretch in course.levels:
        if stretch.end > trend.first:
            drift = stretch.drift
            ends = (stretch.value, stretch.value) if drift is None else (drift.before, drift.after)
            newest = stretch is course.now and last is not None
            panels.add(
                x=[runs[max(stretch.begin - trend.first, 0)], runs[stretch.end - 1 - trend.first]],
                y=heights(_around_level(course, np.array(ends))).tolist(),
                mode="lines",
                line={"width": 2.4, "color": VERDICT_COLOURS[verdict] if newest else NEUTRAL_COLOUR},
                hoverinfo="skip",
            )
    position = {"xref": "paper", "y": (0.5 - row) * UNITS, "yref": "y", "yanchor": "top", "font": {"size": 11.5}}
    panels.text(label(course.service, 26), x=0, xanchor="left", align="left", **position)
    text = format_value(course.metric, course.level)
    if last is not None:
        text += f", {VERDICT_SYMBOLS[verdict]} {size_text(last)}"
    panels.text(text, x=1, xanchor="right", align="right", **position)


_DAY_PX = 16  # of a week's row on the calendar


def trend_days(trend: History) -> go.Figure:
    """A square per day with runs, weeks from left to right; days on which an event began have its colour and symbol."""
    days, events = by_day(trend)
    if not days:
        return sentence("The runs do not say when they were made, so there is no calendar.")
    kinds: dict[str, list[date]] = {}
    for day_of, runs in days.items():
        happened = events.get(day_of, [])
        news = [event for event in happened if not trend.is_acknowledged(event)]
        valid = any(trend.runs[i].valid for i in runs)
        kind = EVENT_WORDS[news[-1].kind] if news else "acknowledged" if happened else "runs" if valid else "invalid"
        kinds.setdefault(kind, []).append(day_of)
    panels = Panels([""], row=7 * _DAY_PX, top=62, bottom=40)
    styles = {
        "runs": ("square", "rgba(43,127,212,0.45)"),
        "invalid": ("circle-x-open", _INVALID["color"]),
        "acknowledged": ("diamond-open", NEUTRAL_COLOUR),
        **{EVENT_WORDS[kind]: (_MARKS[kind], EVENT_COLOURS[kind]) for kind in EVENT_WORDS},
    }
    for kind, (symbol, colour) in styles.items():
        shown = kinds.get(kind, [])
        if not shown:
            continue
        texts = []
        for day_of in shown:
            lines = [f"{day_of.day} {day_of:%b %Y}: {count_text(len(days[day_of]), 'run')}"]
            lines += [_wrapped(event.headline) for event in events.get(day_of, [])]
            texts.append("<br>".join(lines))
        panels.add(
            x=[(day_of - timedelta(days=day_of.weekday())).isoformat() for day_of in shown],
            y=[day_of.weekday() for day_of in shown],
            mode="markers",
            marker={"symbol": symbol, "size": 11, "color": colour},
            name=kind,
            text=texts,
            hovertemplate="%{text}<extra></extra>",
        )
    panels.axis(
        "y", tickvals=list(range(7)), ticktext=list(day_abbr), range=[6.6, -0.6], showgrid=False, zeroline=False
    )
    panels.axis("x", type="date", showgrid=False, zeroline=False)
    if (max(days) - min(days)).days < 60:  # few weeks would lie far apart
        first, last = min(days) - timedelta(days=14), min(days) + timedelta(days=180)
        panels.axis("x", range=[first.isoformat(), last.isoformat()])
    return panels.figure(
        f"Calendar from {min(days)} to {max(days)}: {len(days)} days with runs, {len(trend.shown_events)} events.",
        margin={"l": 44, "r": 14, "t": 62, "b": 40},
    )
