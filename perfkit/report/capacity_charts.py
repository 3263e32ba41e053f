"""Figures over load: throughput and latency against it, and the change between two builds at each load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from perfkit.analysis.capacity import AtLoad, Capacity, ServiceCapacity
from perfkit.config.policy import Objective
from perfkit.model.records import Metric
from perfkit.report.capacity import format_load
from perfkit.report.charts import _margin
from perfkit.report.figure import Drawing, Side, Stack, axis, rounded, selector, sentence, sides
from perfkit.report.formatting import CANDIDATE_COLOUR, NEUTRAL_COLOUR, TOLERANCE_COLOUR, layout, shorten
from perfkit.stats.capacity import FOUND, Estimate
from perfkit.stats.load_curve import scalability_at

MOST_POINTS = 400  # windows drawn per side; more are one grey cloud
_LATENCIES = {Metric.AVG: "avg_ms", Metric.P50: "p50_ms", Metric.P95: "p95_ms", Metric.P99: "p99_ms"}
_SYMBOLS = {"baseline": "circle", "candidate": "diamond"}
_CHANGES = (Metric.AVG, Metric.P95, Metric.RPS)


def load_curves(capacity: Capacity) -> go.Figure:
    """Throughput, latency and errors against load; one service at a time.

    Marks are the windows of each run, the line is all runs of a side together.  Beside throughput the Universal
    Scalability Law and the knee with its interval are drawn, beside latency (or errors) the SLO and the load up to
    which it holds.
    """
    rows = _panels(capacity)
    stack = Stack(rows=len(rows), row=230, gap=44, top=152 if len(capacity.services) > 1 else 116)
    drawing, owners = Drawing(), list[str]()
    drawn = sides(capacity.runs, capacity.candidate)
    for service in capacity.services:
        for side, curve in zip(drawn, capacity.of(service), strict=True):
            _curve(drawing, side, curve, rows, alone=not capacity.candidate)
            _throughput_marks(drawing, side, curve)
            _slo_marks(drawing, side, curve, rows, capacity.slo_objective)
            owners += [service] * (len(drawing.traces) - len(owners))
    for index, (_, title) in enumerate(rows):
        stack.title(drawing, index, title)
        _axes(drawing, stack, index)
    first = capacity.curves[0]
    alt = (
        f"Throughput and latency against load ({capacity.load_unit}) of {shorten(first.service)}: "
        f"knee at {format_load(first.knee.value, capacity.load_unit)}."
    )
    drawing.arrange(**layout(stack.height, alt, margin=_margin(stack), hovermode="closest", dragmode=False))
    drawing.arrange(xaxis={"title": {"text": f"load, {capacity.load_unit}"}})
    drawing.arrange(legend={"entrywidth": 100, "entrywidthmode": "pixels"})
    selector(drawing, capacity.services, owners, stack, below=86)
    return drawing.figure()


def _panels(capacity: Capacity) -> list[tuple[str, str]]:
    """Field of a point, and title, of each panel; errors only where there are any."""
    metric = capacity.slo_objective.metric if capacity.slo_objective is not None else Metric.P95
    latency = metric if metric in _LATENCIES else Metric.P95
    rows = [("throughput", "throughput, requests per second"), (_LATENCIES[latency], f"{latency.title}, ms")]
    failures = any(point.error_rate_pct for curve in capacity.curves for point in curve.line)
    if failures or metric is Metric.ERROR_RATE:
        rows.append(("error_rate_pct", "failed requests, %"))
    return rows


def _curve(
    drawing: Drawing, side: Side, curve: ServiceCapacity, rows: Sequence[tuple[str, str]], *, alone: bool
) -> None:
    step = max(1, len(curve.points) // MOST_POINTS)
    name = "all runs" if alone else side.name
    for index, (field, _) in enumerate(rows):
        where = {"xaxis": "x", "yaxis": f"y{axis(index)}"}
        known = [point for point in curve.points[::step] if getattr(point, field) is not None]
        drawing.scatter(
            x=rounded([point.load for point in known]),
            y=rounded([getattr(point, field) for point in known]),
            mode="markers",
            marker={"size": 5, "color": side.colour, "opacity": 0.38, "symbol": _SYMBOLS[side.name]},
            hoverinfo="skip",
            showlegend=False,
            **where,
        )
        line = [point for point in curve.line if getattr(point, field) is not None]
        drawing.scatter(
            x=rounded([point.load for point in line]),
            y=rounded([getattr(point, field) for point in line]),
            mode="lines",
            line={"color": side.colour, "width": 2.4, "dash": side.dash},
            name=name,
            legendgroup=side.name,
            showlegend=index == 0,
            hovertemplate=f"{name}: %{{y:.4g}} at load %{{x:.3g}}<extra></extra>",
            **where,
        )


def _throughput_marks(drawing: Drawing, side: Side, curve: ServiceCapacity) -> None:
    """The scalability law as a thin line, and the knee with its interval."""
    law, top = curve.scalability, max(point.throughput for point in curve.points)
    where = {"xaxis": "x", "yaxis": "y"}
    highest = max(point.load for point in curve.points)
    if None not in (law.lam.value, law.sigma.value, law.kappa.value) and law.highest_load >= 0.99 * highest:
        load = np.linspace(1.0, highest, 60)
        values = scalability_at(load, law.lam.value or 0.0, law.sigma.value or 0.0, law.kappa.value or 0.0)
        drawing.scatter(
            x=rounded(load),
            y=rounded(values),
            mode="lines",
            line={"color": NEUTRAL_COLOUR if side.name == "baseline" else side.colour, "width": 1.2, "dash": "dot"},
            name="scalability law",
            legendgroup="law",
            showlegend=side.dash == "solid",
            hovertemplate=f"scalability law, {side.name}: %{{y:.4g}}/s at load %{{x:.3g}}<extra></extra>",
            **where,
        )
    _span(drawing, side, curve.knee, top, "knee", side.dash == "solid", where)


def _slo_marks(
    drawing: Drawing,
    side: Side,
    curve: ServiceCapacity,
    rows: Sequence[tuple[str, str]],
    slo: Objective | None,
) -> None:
    """The limit as a horizontal line, and the load up to which it holds with its interval."""
    field = None if slo is None else "error_rate_pct" if slo.metric is Metric.ERROR_RATE else _LATENCIES.get(slo.metric)
    index = next((number for number, (name, _) in enumerate(rows) if name == field), None)
    if slo is None or index is None:
        return
    where = {"xaxis": "x", "yaxis": f"y{axis(index)}"}
    values = [getattr(point, rows[index][0]) or 0.0 for point in curve.line]
    _span(drawing, side, curve.limit, max(*values, slo.amount, 0.0), "SLO holds up to", side.dash == "solid", where)
    if side.dash != "solid":
        return
    drawing.scatter(
        x=[0, max(point.load for point in curve.points)],
        y=[slo.amount, slo.amount],
        mode="lines",
        line={"color": TOLERANCE_COLOUR, "width": 1.6, "dash": "dash"},
        name="SLO",
        hovertemplate=f"SLO: {slo.amount:g} {slo.metric.unit}<extra></extra>",
        **where,
    )


def _span(
    drawing: Drawing, side: Side, estimate: Estimate, top: float, name: str, in_legend: bool, where: dict[str, Any]
) -> None:
    """An interval of load as a shaded stretch, its estimate as a line in the middle."""
    if estimate.status != FOUND or estimate.value is None or estimate.low is None or estimate.high is None:
        return
    low, high = estimate.low, min(estimate.high, estimate.value * 2)
    drawing.scatter(
        x=rounded([low, low, high, high]),
        y=[0, *rounded([top, top]), 0],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=side.band,
        hoverinfo="skip",
        showlegend=False,
        **where,
    )
    drawing.scatter(
        x=rounded([estimate.value] * 9),
        y=rounded(np.linspace(0.0, top, 9)),
        mode="lines",
        line={"color": side.colour, "width": 1.6, "dash": "dashdot"},
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        hovertemplate=f"{side.name}, {name} %{{x:.3g}} [{low:.3g}, {high:.3g}]<extra></extra>",
        **where,
    )


def _axes(drawing: Drawing, stack: Stack, index: int) -> None:
    plain = {"rangemode": "tozero", "fixedrange": True}
    vertical = {"domain": stack.domain(index), "anchor": "x", "nticks": 5, **plain}
    drawing.arrange(**{f"yaxis{axis(index)}": vertical, "xaxis": {"anchor": f"y{axis(stack.rows - 1)}", **plain}})


def changes_by_load(capacity: Capacity) -> go.Figure:
    """Candidate against baseline in percent at each load, with 95 % intervals; one service at a time."""
    if not capacity.at_load:
        build = "There is one build only" if not capacity.candidate else "The builds have no load in common"
        return sentence(f"{build}, so there is no change to draw.")
    services = tuple(dict.fromkeys(level.service for level in capacity.at_load))
    shown = [metric for metric in _CHANGES if any(level.metric == metric for level in capacity.at_load)]
    stack = Stack(rows=len(shown), row=120, gap=40, top=84 if len(services) > 1 else 40)
    drawing, owners = Drawing(), list[str]()
    for service in services:
        for index, metric in enumerate(shown):
            mine = [level for level in capacity.at_load if level.service == service and level.metric == metric]
            _draw_changes(drawing, mine, index)
            owners += [service] * (len(drawing.traces) - len(owners))
    for index, metric in enumerate(shown):
        stack.title(drawing, index, f"{metric.title}: change in percent at equal load")
        _axes(drawing, stack, index)
        drawing.arrange(**{f"yaxis{axis(index)}": {"zeroline": True, "zerolinewidth": 2}})
    alt = f"Change of latency and throughput at each load, candidate against baseline, for {shorten(services[0])}."
    drawing.arrange(**layout(stack.height, alt, margin=_margin(stack), hovermode="closest", dragmode=False))
    drawing.arrange(xaxis={"title": {"text": f"load, {capacity.load_unit}"}})
    selector(drawing, services, owners, stack, below=18)
    return drawing.figure()


def _draw_changes(drawing: Drawing, levels: Sequence[AtLoad], index: int) -> None:
    drawing.scatter(
        x=rounded([level.load for level in levels]),
        y=rounded([level.change_pct for level in levels]),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": rounded([level.ci_high - level.change_pct for level in levels]),
            "arrayminus": rounded([level.change_pct - level.ci_low for level in levels]),
            "thickness": 1.4,
            "width": 3,
        },
        mode="markers",
        marker={"size": 7, "color": CANDIDATE_COLOUR},
        customdata=[[level.baseline, level.candidate] for level in levels],
        hovertemplate="%{y:+.3g} % at load %{x:.3g}<br>%{customdata[0]:.4g} → %{customdata[1]:.4g}<extra></extra>",
        showlegend=False,
        xaxis="x",
        yaxis=f"y{axis(index)}",
    )
