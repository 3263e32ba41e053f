"""What happened over time: within runs (time course) and from run to run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from perfkit.model import Metric, Run
from perfkit.render.distributions import _drawable, _margin
from perfkit.render.drawing import Drawing
from perfkit.render.page import Note
from perfkit.render.panels import MOST_SERVICES, Side, Stack, axis, band, line, points, selector, sides
from perfkit.render.series import bin_width, course, requests_of_all, rounded, service_names, spread, whole_bins
from perfkit.render.theme import SHORT_METRICS, format_value, label, layout, shorten

if TYPE_CHECKING:
    import pandas as pd

_COURSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "rps": ("throughput, requests per second", "%{y:.3g}/s"),
        "p50": ("median latency, ms", "%{y:.4g} ms"),
        "p95": ("p95 latency, ms", "%{y:.4g} ms"),
        "errors": ("failed requests, %", "%{y:.2g} %"),
    }
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_HUES = ("#2b7fd4", "#d1480a", "#0b8f6b", "#8b5fbf", "#a8760c")


def time_course(
    baseline: Sequence[Run], candidate: Sequence[Run] = (), *, services: Sequence[str] | None = None
) -> go.Figure | Note:
    """Throughput, latency and errors over the time since a run began; one service at a time.

    The line is the median over the runs of a side at that second of the run, the band goes from the lowest to the
    highest run.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return Note(
            "There is no time course to draw: the single requests of these runs were not kept. "
            "Runs that perfkit makes or imports from request logs have one."
        )
    stack = Stack(rows=len(_COURSES), row=112, gap=34, top=92 if len(names) > 1 else 56)
    drawing, owners = Drawing(), list[str]()
    for name in names:
        every = requests_of_all((*baseline, *candidate), name)
        width = bin_width(every, points(len(names), 60))
        for side in sides(baseline, candidate):
            _course(drawing, side, name, width)
            owners += [name] * (len(drawing.traces) - len(owners))
    for index, (title, _) in enumerate(_COURSES.values()):
        stack.title(drawing, index, title)
        _course_axes(drawing, stack, index)
    alt = (
        f"Throughput, median and p95 latency and errors over the time since the run began, for {shorten(names[0])}"
        f"{f' and {len(names) - 1} more services to choose from' if len(names) > 1 else ''}."
    )
    drawing.arrange(**layout(stack.height, alt, margin=_margin(stack), hovermode="x unified", dragmode=False))
    drawing.arrange(xaxis={"unifiedhovertitle": {"text": "%{x} s after the run began"}})
    selector(drawing, names, owners, stack)
    return drawing.figure()


def _course(drawing: Drawing, side: Side, service: str, width: int) -> None:
    samples = requests_of_all(side.runs, service)
    if not samples:
        return
    length = whole_bins(samples, width)
    courses = [course(sample, width, length) for sample in samples]
    x = [round((i + 0.5) * width, 1) for i in range(length)]
    for index, (key, (_, number)) in enumerate(_COURSES.items()):
        where = {"xaxis": "x", "yaxis": f"y{axis(index)}"}
        low, middle, high = spread([values[key] for values in courses])
        band(drawing, side, x, low, high, **where)
        line(
            drawing,
            side,
            x,
            middle,
            hovertemplate=f"{side.name} {number}<extra></extra>",
            showlegend=index == 0,
            legendgroup=side.name,
            **where,
        )


def _course_axes(drawing: Drawing, stack: Stack, index: int) -> None:
    drawing.arrange(
        **{
            f"yaxis{axis(index)}": {
                "domain": stack.domain(index),
                "anchor": "x",
                "rangemode": "tozero",
                "nticks": 4,
                "fixedrange": True,
            },
            "xaxis": {
                "title": {"text": "seconds since the run began"},
                "anchor": f"y{axis(stack.rows - 1)}",
                "rangemode": "tozero",
                "fixedrange": True,
                "zeroline": False,
            },
        }
    )


def run_values(
    baseline: Sequence[Run],
    candidate: Sequence[Run] = (),
    *,
    services: Sequence[str] | None = None,
    metrics: Sequence[str] = (Metric.AVG, Metric.P95, Metric.ERROR_RATE, Metric.RPS),
) -> go.Figure | Note:
    """One dot per run and metric, in the order in which the runs were made; one service at a time."""
    wanted = services if services is not None else service_names(baseline, candidate)
    measured = {name for run in (*baseline, *candidate) for name in run.services}
    names = tuple(name for name in wanted if name in measured)[:MOST_SERVICES]
    shown = [m for m in map(Metric, metrics) if any(_values(r, n, m) for r in (*baseline, *candidate) for n in names)]
    if not names or not shown:
        return Note("There is nothing to draw: these runs hold none of the metrics asked for.")
    order = {id(run): place for place, run in enumerate(sorted((*baseline, *candidate), key=_time_of), start=1)}
    stack = Stack(rows=len(shown), row=96, gap=34, top=92 if len(names) > 1 else 56)
    drawing, owners = Drawing(), list[str]()
    for name in names:
        for index, metric in enumerate(shown):
            for side in sides(baseline, candidate):
                _dots(drawing, side, name, metric, index, order)
                owners += [name] * (len(drawing.traces) - len(owners))
    for index, metric in enumerate(shown):
        stack.title(drawing, index, f"{metric.title}, {metric.unit}")
        _course_axes(drawing, stack, index)
    alt = f"One dot per run in time order for {', '.join(metric.title for metric in shown)} of {shorten(names[0])}."
    drawing.arrange(**layout(stack.height, alt, margin=_margin(stack), dragmode=False))
    step = max(1, math.ceil(len(order) / 12))
    drawing.arrange(xaxis={"title": {"text": "run, in time order"}, "dtick": step, "range": [0.4, len(order) + 0.6]})
    for index, metric in enumerate(shown):
        drawing.arrange(**{f"yaxis{axis(index)}": {"rangemode": "tozero" if metric is Metric.ERROR_RATE else "normal"}})
    selector(drawing, names, owners, stack)
    return drawing.figure()


def _time_of(run: Run) -> float:
    return run.started_at.timestamp() if run.started_at else 0.0


def _values(run: Run, service: str, metric: Metric) -> tuple[float, ...]:
    stats = run.services.get(service)
    value = stats.value(metric) if stats else None
    return () if value is None else (value,)


def _dots(drawing: Drawing, side: Side, service: str, metric: Metric, index: int, order: Mapping[int, int]) -> None:
    points = [(order[id(run)], value, run) for run in side.runs for value in _values(run, service, metric)]
    marker = {
        "size": 9,
        "color": side.colour,
        "symbol": "circle" if side.name == "baseline" else "diamond",
        "line": {"width": 1, "color": "rgba(255,255,255,0.7)"},
    }
    drawing.scatter(
        x=[place for place, _, _ in points],
        y=rounded([value for _, value, _ in points], 5),
        mode="markers",
        marker=marker,
        cliponaxis=False,
        name=side.name,
        legendgroup=side.name,
        showlegend=index == 0,
        hovertext=[f"{side.name} {label(run.id, 48)}<br>{format_value(metric, value)}" for _, value, run in points],
        hoverinfo="text",
        xaxis="x",
        yaxis=f"y{axis(index)}",
    )
    if points:
        middle = float(np.median([value for _, value, _ in points]))
        drawing.scatter(
            x=[min(p for p, _, _ in points) - 0.3, max(p for p, _, _ in points) + 0.3],
            y=rounded([middle, middle], 5),
            mode="lines",
            line={"color": side.colour, "width": 1.5, "dash": side.dash},
            hoverinfo="skip",
            showlegend=False,
            xaxis="x",
            yaxis=f"y{axis(index)}",
        )


def detectable(frame: pd.DataFrame) -> go.Figure | Note:
    """The smallest change that a comparison could show, against the number of runs on each side.

    ``frame`` has the columns ``service``, ``metric``, ``runs_per_side``, ``min_detectable`` and ``change_unit``.
    Error rates have a panel of their own, in percentage points.
    """
    frame = frame[np.isfinite(frame["min_detectable"].to_numpy(dtype=float))] if len(frame) else frame
    if not len(frame):
        return Note("The smallest detectable change is not known: these runs do not say how much runs differ.")
    units = [unit for unit in ("%", "pp") if (frame["change_unit"] == unit).any()]
    names = tuple(dict.fromkeys(str(name) for name in frame["service"]))[:MOST_SERVICES]
    stack = Stack(rows=len(units), row=210 if len(units) > 1 else 280, gap=34, top=112 if len(names) > 1 else 76)
    drawing, owners = Drawing(), list[str]()
    for name in names:
        for index, unit in enumerate(units):
            mine = frame[(frame["service"] == name) & (frame["change_unit"] == unit)]
            for number, (metric, curve) in enumerate(mine.groupby("metric", sort=False)):
                _curve(drawing, curve, str(metric), unit, index, number)
                owners.append(name)
    titles = {
        "%": "smallest detectable change, percent",
        "pp": "error rate: smallest detectable change, percentage points",
    }
    for index, unit in enumerate(units):
        stack.title(drawing, index, titles[unit])
        _course_axes(drawing, stack, index)
    alt = f"Smallest detectable change against runs on each side, for {shorten(names[0])}: it falls as runs are added."
    drawing.arrange(**layout(stack.height, alt, margin=_margin(stack), dragmode=False))
    drawing.arrange(xaxis={"title": {"text": "runs on each side"}, "dtick": 1, "rangemode": "normal"})
    drawing.arrange(legend={"entrywidth": 45, "entrywidthmode": "pixels"})
    selector(drawing, names, owners, stack, below=48)
    return drawing.figure()


def _curve(drawing: Drawing, curve: pd.DataFrame, metric: str, unit: str, index: int, number: int) -> None:
    title = Metric(metric).title
    drawing.scatter(
        x=[int(value) for value in curve["runs_per_side"]],
        y=rounded(curve["min_detectable"], 3),
        mode="lines+markers",
        line={"color": _HUES[number % len(_HUES)], "dash": _DASHES[number % len(_DASHES)], "width": 2},
        marker={"size": 6},
        name=SHORT_METRICS.get(metric, metric),
        showlegend=unit == "%" or number > 0,
        hovertemplate=f"{title}: %{{x}} runs can show %{{y:.3g}} {unit}<extra></extra>",
        xaxis="x",
        yaxis=f"y{axis(index)}",
    )
