"""The chart of the verdict: every effect with its interval, its tolerance and its verdict.

How latencies are distributed: the density on a log axis, and the percentile curve to p99.9.

What happened over time: within runs (time course) and from run to run.

Closed and open model side by side: how long requests took from when they were due, and from when they were sent.

The charts of perfkit: pure functions from runs or a comparison to a plotly figure.

Each returns a `plotly.graph_objects.Figure`, or a `Note` which says why there is nothing to draw, never an empty plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from perfkit.model.records import Comparison, Finding, Metric, Run, Verdict
from perfkit.report.figure import (
    BEYOND,
    MOST_SERVICES,
    Drawing,
    Floats,
    Side,
    Stack,
    axis,
    band,
    bin_width,
    course,
    line,
    log_density,
    log_edges,
    log_ticks,
    points,
    pooled,
    quantiles,
    requests_of_all,
    rounded,
    selector,
    sentence,
    service_names,
    sides,
    spread,
    whole_bins,
)
from perfkit.report.formatting import (
    NEUTRAL_COLOUR,
    SHORT_METRICS,
    TOLERANCE_COLOUR,
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_MARKERS,
    VERDICT_WORDS,
    finding_text,
    format_change,
    format_interval,
    format_number,
    format_value,
    label,
    layout,
    shorten,
)
from perfkit.report.html import Html, render

if TYPE_CHECKING:
    import pandas as pd

NO_REQUESTS = (
    "These runs were read from summaries: the single requests were not kept, so there is no distribution to draw. "
    "Runs that perfkit makes or imports from request logs have one."
)
_BINS = 80
_ROWS = {1: 340, 2: 260, 3: 210, 4: 190}  # pixels per panel
_TICKS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)


def latency_overlay(
    baseline: Sequence[Run], candidate: Sequence[Run] = (), *, services: Sequence[str] | None = None
) -> go.Figure:
    """The latencies of each service on a log axis: both sides over one another, one panel per service.

    The line is the median over runs of the share of requests per bin, the band goes from the lowest to the highest run:
    where the bands part, the sides differ by more than runs of one side do.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return sentence(NO_REQUESTS)
    stack = Stack(rows=len(names), row=124 if len(names) <= 4 else 78, gap=30)
    samples = [sample for name in names for sample in requests_of_all((*baseline, *candidate), name)]
    edges = log_edges(samples, points(len(names), _BINS))
    drawing = Drawing()
    for index, name in enumerate(names):
        stack.title(drawing, index, f"<b>{label(name, 44)}</b>")
        for side in sides(baseline, candidate):
            _density(drawing, side, name, index, edges)
        drawing.arrange(
            **{
                f"yaxis{axis(index)}": {
                    "domain": stack.domain(index),
                    "showticklabels": False,
                    "showgrid": False,
                    "rangemode": "tozero",
                    "zeroline": True,
                    "fixedrange": True,
                    "anchor": "x",
                }
            }
        )
    ticks = {"type": "log", "anchor": f"y{axis(len(names) - 1)}", **log_ticks(float(edges[0]), float(edges[-1]))}
    drawing.arrange(**layout(stack.height, _overlay_alt(names), margin=_margin(stack), dragmode=False))
    drawing.arrange(xaxis={**ticks, "title": {"text": "response time (log scale)"}, "fixedrange": True})
    return drawing.figure()


def _drawable(baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str] | None) -> tuple[str, ...]:
    wanted = services if services is not None else service_names(baseline, candidate)
    return tuple(name for name in wanted if requests_of_all((*baseline, *candidate), name))[:MOST_SERVICES]


def _margin(stack: Stack) -> dict[str, int]:
    return {"l": 56, "r": 14, "t": stack.top, "b": stack.bottom}


def _density(drawing: Drawing, side: Side, service: str, index: int, edges: Floats) -> None:
    samples = requests_of_all(side.runs, service)
    if not samples:
        return
    centres = np.sqrt(edges[:-1] * edges[1:])
    low, middle, high = spread([log_density(sample, edges) for sample in samples])
    where = {"yaxis": f"y{axis(index)}"}
    x = rounded(centres)
    band(drawing, side, x, low, high, **where)
    hover = f"{side.name}: %{{y:.2g}} % of requests near %{{x:.3g}} ms<extra></extra>"
    line(drawing, side, x, middle, hovertemplate=hover, showlegend=index == 0, legendgroup=side.name, **where)


def _overlay_alt(names: Sequence[str]) -> str:
    listed = ", ".join(shorten(name) for name in names[:6]) + (", …" if len(names) > 6 else "")
    return f"Distribution of response times on a log axis, one panel each for {listed}; bands: spread over runs."


def percentile_curve(
    baseline: Sequence[Run], candidate: Sequence[Run] = (), *, services: Sequence[str] | None = None
) -> go.Figure:
    """Latency against percentile to p99.9; the axis is stretched towards the tail.

    The line is drawn from all requests of a side, and ends where fewer than 10 requests lie above; the band goes from
    the lowest to the highest run, and ends where a single run has fewer than 3 above.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return sentence(NO_REQUESTS)
    one_by_one = len(names) > 4
    levels = 1.0 - 10.0 ** -np.linspace(np.log10(1 / 0.95), 3.0, points(len(names), 60))
    stack = Stack(rows=1, row=340, top=92) if one_by_one else Stack(rows=len(names), row=_ROWS[len(names)], gap=50)
    drawing, owners = Drawing(), list[str]()
    for index, name in enumerate(names):
        panel = 0 if one_by_one else index
        for side in sides(baseline, candidate):
            _percentiles(drawing, side, name, levels, panel)
            owners += [name] * (len(drawing.traces) - len(owners))
        if not one_by_one:
            stack.title(drawing, panel, f"<b>{label(name, 44)}</b>")
    for panel in range(stack.rows):
        shown = names if one_by_one else names[panel : panel + 1]
        _percentile_axes(drawing, stack, panel, _extent(baseline, candidate, shown))
    drawing.arrange(**layout(stack.height, _percentile_alt(names), margin=_margin(stack), dragmode=False))
    if one_by_one:
        selector(drawing, names, owners, stack)
        drawing.arrange(yaxis={"autorange": True})
    return drawing.figure()


def _percentiles(drawing: Drawing, side: Side, service: str, levels: Floats, panel: int) -> None:
    samples = requests_of_all(side.runs, service)
    if not samples:
        return
    x = rounded(-np.log10(1.0 - levels))
    where = {"xaxis": f"x{axis(panel)}", "yaxis": f"y{axis(panel)}"}
    low, _, high = spread([quantiles(sample, levels, beyond=3) for sample in samples])
    every = np.all([len(sample.ordered_ms) * (1 - levels) >= 3 for sample in samples], axis=0)
    band(drawing, side, x, np.where(every, low, np.nan), np.where(every, high, np.nan), **where)
    together = pooled(samples)
    hover = f"{side.name}: p%{{customdata}} = %{{y:.4g}} ms<extra></extra>"
    line(
        drawing,
        side,
        x,
        quantiles(together, levels, beyond=BEYOND),
        customdata=rounded(levels * 100),
        hovertemplate=hover,
        showlegend=panel == 0,
        legendgroup=side.name,
        **where,
    )


def _extent(baseline: Sequence[Run], candidate: Sequence[Run], names: Sequence[str]) -> tuple[float, float]:
    samples = [pooled(requests_of_all((*baseline, *candidate), name)) for name in names]
    levels = np.array([0.05, 0.999])
    edges = np.vstack([np.quantile(sample.ordered_ms, levels) for sample in samples])
    return max(float(edges[:, 0].min()), 1e-3) / 1.15, max(float(edges[:, 1].max()), 2e-3) * 1.15


def _percentile_axes(drawing: Drawing, stack: Stack, panel: int, extent: tuple[float, float]) -> None:
    x, y = f"xaxis{axis(panel)}", f"yaxis{axis(panel)}"
    last = panel == stack.rows - 1
    drawing.arrange(
        **{
            x: {
                "range": [0.0, 3.06],
                "tickvals": [float(-np.log10(1 - level)) for level in _TICKS],
                "ticktext": [f"p{format_number(level * 100).rstrip('0').rstrip('.')}" for level in _TICKS],
                "anchor": f"y{axis(panel)}",
                "title": {"text": "percentile of requests (stretched towards the tail)"} if last else {},
                "zeroline": False,
                "fixedrange": True,
            },
            y: {
                "domain": stack.domain(panel),
                "type": "log",
                "range": [float(np.log10(value)) for value in extent],
                "anchor": f"x{axis(panel)}",
                "fixedrange": True,
                **log_ticks(*extent),
            },
        }
    )


def _percentile_alt(names: Sequence[str]) -> str:
    listed = ", ".join(shorten(name) for name in names[:6]) + (", …" if len(names) > 6 else "")
    return f"Response time against percentile up to p99.9 for {listed}; the line ends where too few requests lie above."


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
) -> go.Figure:
    """Throughput, latency and errors over the time since a run began; one service at a time.

    The line is the median over the runs of a side at that second of the run, the band goes from the lowest to the
    highest run.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return sentence(
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
) -> go.Figure:
    """One dot per run and metric, in the order in which the runs were made; one service at a time."""
    wanted = services if services is not None else service_names(baseline, candidate)
    measured = {name for run in (*baseline, *candidate) for name in run.services}
    names = tuple(name for name in wanted if name in measured)[:MOST_SERVICES]
    shown = [m for m in map(Metric, metrics) if any(_values(r, n, m) for r in (*baseline, *candidate) for n in names)]
    if not names or not shown:
        return sentence("There is nothing to draw: these runs hold none of the metrics asked for.")
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


def detectable(frame: pd.DataFrame) -> go.Figure:
    """The smallest change that a comparison could show, against the number of runs on each side.

    ``frame`` has the columns ``service``, ``metric``, ``runs_per_side``, ``min_detectable`` and ``change_unit``.
    Error rates have a panel of their own, in percentage points.
    """
    frame = frame[np.isfinite(frame["min_detectable"].to_numpy(dtype=float))] if len(frame) else frame
    if not len(frame):
        return sentence("The smallest detectable change is not known: these runs do not say how much runs differ.")
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


MOST_RUNS = 24
QUANTILES = (0.5, 0.95, 0.99, 1.0)
COLUMNS = ("median", "p95", "p99", "longest")
CLOSED = (
    "All of these runs are of the closed model: a user waits for its answer before it asks again, so a target that "
    "stands still is asked less, and few requests meet the pause. --rate starts requests on a schedule instead."
)
OPEN = (
    "Response time counts from when a request was due, service time from when it was sent. Where users wait for "
    "answers (the closed model) nothing is due, and only the time since the send is known."
)


def response_times(baseline: Sequence[Run], candidate: Sequence[Run] = ()) -> Html:
    """A row per run with response times over all services, and one with service times where there was a schedule."""
    runs = [*baseline, *candidate]
    rows = [row for run in runs[:MOST_RUNS] for row in _rows(run)]
    note = OPEN if any(run.profile.is_open for run in runs) else CLOSED
    left_out = max(len(runs) - MOST_RUNS, 0)
    html = render("responses.html.j2", rows=rows, columns=COLUMNS, note=note, left_out=left_out)
    return Html(html, text=note)


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    requests = run.requests()
    if requests is None or not len(requests):
        return
    responses = requests["response_time_ms"].to_numpy(dtype=float)
    late = next((check.value for check in run.validity.checks if check.name == "late_arrivals"), None)
    facts = {"run": run.id, "load": run.profile.describe(), "requests": f"{responses.size:,}"}
    shown = f"{format_number(float(late))} %" if isinstance(late, int | float) else UNKNOWN
    what = "response" if run.profile.is_open else "service"
    yield {**facts, "what": what, "cells": _cells(responses), "late": shown}
    if run.profile.is_open and "service_time_ms" in requests:
        own = requests["service_time_ms"].to_numpy(dtype=float, na_value=np.nan)
        own = np.where(np.isfinite(own), own, responses)
        yield {"run": "", "load": "", "requests": "", "what": "service", "cells": _cells(own), "late": ""}


def _cells(times_ms: Any) -> list[str]:
    return [format_value(Metric.AVG, float(value)) for value in np.quantile(times_ms, QUANTILES)]


_ROW = 24  # pixels
MOST_FOREST_SERVICES = 15  # all are in the table
_TITLES = {"%": "change in percent of the baseline", "pp": "change in percentage points"}


@dataclass(frozen=True, slots=True)
class _Row:
    finding: Finding
    y: float


@dataclass(frozen=True, slots=True)
class _Panel:
    """The findings of one change unit: they share an axis."""

    unit: str
    rows: tuple[_Row, ...]
    headers: tuple[tuple[str, float], ...]
    reach: float  # the axis goes from -reach to +reach
    lines: float  # height in rows


def forest(comparison: Comparison) -> go.Figure:
    """Every effect with its interval: left of zero is less than the baseline, right of it more.

    Percent and percentage points have a panel each.  The tolerance is the shaded stretch on the worse side of each row:
    a regression's mark lies beyond it, *no regression* has its whole interval short of its end.  An arrow says that an
    interval goes on beyond the axis.  A finding without an estimate has a row which says so.
    """
    telling = _most_telling(comparison.findings)
    panels = [panel for unit in ("%", "pp") if (panel := _panel(comparison.findings, unit, telling)) is not None]
    if not panels:
        return sentence("There is no effect to draw: no metric of any service was compared.")
    drawing = Drawing()
    total = sum(panel.lines for panel in panels) + 2.4 * (len(panels) - 1)
    top = 1.0
    for number, panel in enumerate(panels, start=1):
        bottom = max(0.0, top - panel.lines / total)
        _draw(drawing, panel, "" if number == 1 else str(number), (bottom, top))
        top = bottom - 2.4 / total
    _legend(drawing, comparison.findings)
    height = round(total * _ROW) + 118
    drawing.arrange(**layout(height, _alt(comparison.findings), margin=_MARGIN, legend=_LEGEND, dragmode=False))
    return drawing.figure()


# A legend of entries as wide as this has two columns on a telephone, and so at most three rows.
_LEGEND = {"entrywidth": 108, "entrywidthmode": "pixels"}
_MARGIN = {"l": 68, "r": 92, "t": 68, "b": 50}


def _most_telling(findings: Sequence[Finding]) -> frozenset[str]:
    """The services to draw: those with a verdict of change, then those nearest to one; nobody reads a hundred."""
    nearest: dict[str, tuple[bool, float]] = {}
    for finding in findings:
        rank = (
            finding.verdict not in (Verdict.REGRESSION, Verdict.IMPROVEMENT),
            finding.p_value if finding.p_value is not None else math.inf,
        )
        nearest[finding.label] = min(nearest.get(finding.label, rank), rank)
    return frozenset(sorted(nearest, key=lambda name: nearest[name])[:MOST_FOREST_SERVICES])


def _panel(findings: Sequence[Finding], unit: str, telling: frozenset[str]) -> _Panel | None:
    every = [finding for finding in findings if finding.change_unit == unit]
    mine = [finding for finding in every if finding.label in telling]
    if not mine:
        return None
    rows: list[_Row] = []
    headers: list[tuple[str, float]] = []
    y = 0.0
    for service in dict.fromkeys(finding.label for finding in mine):
        headers.append((service, y))
        for finding in (f for f in mine if f.label == service):
            y += 1.0
            rows.append(_Row(finding, y))
        y += 1.25
    more = len({finding.label for finding in every} - telling)
    if more:
        headers.append((f"{more} quieter {'service is' if more == 1 else 'services are'} in the table", y))
        y += 1.0
    return _Panel(unit, tuple(rows), tuple(headers), _reach(mine), lines=y + 0.3)


def _reach(findings: Sequence[Finding]) -> float:
    """Far enough for every estimate and tolerance and most interval ends; one wild interval must not flatten all."""
    changes = [abs(f.change) for f in findings if f.change is not None and math.isfinite(f.change)]
    limits = [f.tolerance for f in findings if f.tolerance is not None]
    bounds = [(f.ci_low, f.ci_high) for f in findings if f.ci_low is not None and f.ci_high is not None]
    ends = sorted(end for low, high in bounds if math.isfinite(end := max(abs(low), abs(high))))
    most = ends[min(len(ends) - 1, int(0.85 * len(ends)))] if ends else 0.0
    return 1.12 * max(*changes, *limits, most, 1e-3, 1e-3)


def _draw(drawing: Drawing, panel: _Panel, axis: str, domain: tuple[float, float]) -> None:
    x, y = f"x{axis}", f"y{axis}"
    drawing.arrange(
        **{
            f"xaxis{axis}": {
                "range": [-panel.reach, panel.reach],
                "anchor": y,
                "title": {"text": _TITLES[panel.unit]},
                "ticksuffix": "" if panel.unit == "pp" else " %",
                "nticks": 7,
                "fixedrange": True,
                "zeroline": True,
            },
            f"yaxis{axis}": {
                "domain": list(domain),
                "anchor": x,
                "range": [panel.lines - 0.7, -0.7],
                "tickvals": [row.y for row in panel.rows],
                "ticktext": [SHORT_METRICS.get(row.finding.metric, row.finding.metric) for row in panel.rows],
                "showgrid": False,
                "zeroline": False,
                "fixedrange": True,
                "automargin": False,
                "ticklabelstandoff": 8,
            },
        }
    )
    for service, at in panel.headers:
        text = f"<b>{label(service, 44)}</b>"
        drawing.text(x=0, xref="paper", xshift=-64, xanchor="left", y=at, yref=y, text=text, font={"size": 13})
    for row in panel.rows:
        drawing.text(x=1, xref="paper", xshift=6, xanchor="left", y=row.y, yref=y, text=_beside(row.finding))
    _tolerances(drawing, panel, x, y)
    _intervals(drawing, panel, x, y)
    _marks(drawing, panel, x, y)


def _beside(finding: Finding) -> str:
    return format_change(finding).replace(" (from zero)", "")


def _tolerances(drawing: Drawing, panel: _Panel, x: str, y: str) -> None:
    for row in panel.rows:
        limit = row.finding.tolerance
        if limit is None:
            continue
        end = min(limit, panel.reach) * Metric(row.finding.metric).worse
        place = {"xref": x, "yref": y, "y0": row.y - 0.36, "y1": row.y + 0.36, "x1": end, "layer": "below"}
        drawing.shape(type="rect", x0=0, line={"width": 0}, fillcolor=TOLERANCE_COLOUR, opacity=0.16, **place)
        if limit <= panel.reach:
            drawing.shape(type="line", x0=end, line={"color": TOLERANCE_COLOUR, "width": 2}, **place)


def _intervals(drawing: Drawing, panel: _Panel, x: str, y: str) -> None:
    for verdict in dict.fromkeys(row.finding.verdict for row in panel.rows):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for row in panel.rows:
            low, high = row.finding.ci_low, row.finding.ci_high
            if row.finding.verdict is verdict and low is not None and high is not None:
                xs += [max(low, -panel.reach), min(high, panel.reach), None]
                ys += [row.y, row.y, None]
        line = {"color": VERDICT_COLOURS[verdict], "width": 2.5}
        drawing.scatter(x=xs, y=ys, mode="lines", line=line, xaxis=x, yaxis=y, hoverinfo="skip", showlegend=False)


def _marks(drawing: Drawing, panel: _Panel, x: str, y: str) -> None:
    rows = panel.rows
    verdicts = [row.finding.verdict for row in rows]
    common: dict[str, Any] = {"mode": "markers", "xaxis": x, "yaxis": y, "showlegend": False}
    drawing.scatter(
        x=[_position(row.finding, panel.reach) for row in rows],
        y=[row.y for row in rows],
        marker={
            "symbol": [_symbol(row.finding) for row in rows],
            "size": 11,
            "color": [VERDICT_COLOURS[verdict] for verdict in verdicts],
            "line": {"width": 2, "color": [VERDICT_COLOURS[verdict] for verdict in verdicts]},
        },
        hovertext=[_hover(row.finding) for row in rows],
        hoverinfo="text",
        cliponaxis=False,
        **common,
    )
    beyond = [(row, side) for row in rows for side in (-1, 1) if _goes_on(row.finding, side, panel.reach)]
    if beyond:
        drawing.scatter(
            x=[side * panel.reach for _, side in beyond],
            y=[row.y for row, _ in beyond],
            marker={
                "symbol": ["triangle-right" if side > 0 else "triangle-left" for _, side in beyond],
                "size": 9,
                "color": [VERDICT_COLOURS[row.finding.verdict] for row, _ in beyond],
            },
            hoverinfo="skip",
            cliponaxis=False,
            **common,
        )


def _position(finding: Finding, reach: float) -> float:
    return 0.0 if finding.change is None else max(-reach, min(reach, finding.change))


def _symbol(finding: Finding) -> str:
    return "line-ns-open" if finding.change is None else VERDICT_MARKERS[finding.verdict]


def _goes_on(finding: Finding, side: int, reach: float) -> bool:
    end = finding.ci_high if side > 0 else finding.ci_low
    return end is not None and end * side > reach


def _hover(finding: Finding) -> str:
    lines = [
        f"<b>{label(finding.label, 60)}</b> · {_title(finding)}",
        f"{finding_text(finding)}: {format_change(finding)} {format_interval(finding)}",
        f"{format_value(finding.metric, finding.baseline)} → {format_value(finding.metric, finding.candidate)}",
    ]
    if finding.limit:
        lines.append(f"accepted: {label(finding.limit)}")
    if finding.min_detectable is not None:
        lines.append(f"these runs could show {finding.min_detectable:.3g} {finding.change_unit}")
    return "<br>".join(lines)


def _title(finding: Finding) -> str:
    return Metric(finding.metric).title


def _legend(drawing: Drawing, findings: Sequence[Finding]) -> None:
    """Empty traces: what each symbol means, only for what occurs, plus the tolerance."""
    for verdict in Verdict:
        if any(finding.verdict is verdict for finding in findings):
            colour = VERDICT_COLOURS[verdict]
            marker = {
                "symbol": VERDICT_MARKERS[verdict],
                "size": 11,
                "color": colour,
                "line": {"width": 2, "color": colour},
            }
            drawing.scatter(x=[None], y=[None], mode="markers", marker=marker, name=VERDICT_WORDS[verdict])
    if any(finding.tolerance is not None for finding in findings):
        square = {"symbol": "square", "size": 12, "color": TOLERANCE_COLOUR, "opacity": 0.4}
        drawing.scatter(x=[None], y=[None], mode="markers", marker=square, name="accepted")
    if any(finding.change is None for finding in findings):
        stroke = {"symbol": "line-ns-open", "size": 11, "color": NEUTRAL_COLOUR}
        drawing.scatter(x=[None], y=[None], mode="markers", marker=stroke, name="no estimate")


def _alt(findings: Sequence[Finding]) -> str:
    counts = [(verdict, sum(finding.verdict is verdict for finding in findings)) for verdict in Verdict]
    summary = ", ".join(f"{count} {VERDICT_WORDS[verdict]}" for verdict, count in counts if count)
    bad = [f"{_name(f)} {format_change(f)}" for f in findings if f.verdict is Verdict.REGRESSION][:5]
    listed = f" Regressions: {'; '.join(bad)}." if bad else ""
    return f"Effects with intervals for {len(findings)} findings: {summary}.{listed} The table below has every number."


def _name(finding: Finding) -> str:
    return f"{shorten(finding.label, 60)} {_title(finding)}"


__all__ = ["detectable", "forest", "latency_overlay", "percentile_curve", "run_values", "time_course"]
