"""Figures over load: throughput and latency against it, and the change between two builds at each load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from perfkit.analysis.capacity import Capacity, ServiceCapacity
from perfkit.config.policy import Objective
from perfkit.model.records import Metric
from perfkit.report.figure import Panels, Side, rounded, sentence, sides
from perfkit.report.formatting import CANDIDATE_COLOUR, NEUTRAL_COLOUR, TOLERANCE_COLOUR, format_load, shorten
from perfkit.stats.capacity import FOUND, Estimate, scalability_at

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
    rows = _rows(capacity)
    top = 152 if len(capacity.services) > 1 else 116
    panels = Panels([title for _, title in rows], row=230, gap=44, top=top)
    for service in capacity.services:
        panels.service = service
        for side, curve in zip(sides(capacity.runs, capacity.candidate), capacity.of(service), strict=True):
            _curve(panels, side, curve, rows, alone=not capacity.candidate)
            _throughput_marks(panels, side, curve)
            _slo_marks(panels, side, curve, rows, capacity.slo_objective)
    panels.every_y(rangemode="tozero", nticks=5)
    panels.axis("x", title={"text": f"load, {capacity.load_unit}"}, rangemode="tozero")
    first = capacity.curves[0]
    return panels.figure(
        f"Throughput and latency against load ({capacity.load_unit}) of {shorten(first.service)}: "
        f"knee at {format_load(first.knee.value, capacity.load_unit)}.",
        capacity.services,
        below=86,
        legend={"entrywidth": 100, "entrywidthmode": "pixels"},
    )


def _rows(capacity: Capacity) -> list[tuple[str, str]]:
    """Field of a point, and title, of each panel; errors only where there are any."""
    metric = capacity.slo_objective.metric if capacity.slo_objective is not None else Metric.P95
    latency = metric if metric in _LATENCIES else Metric.P95
    rows = [("throughput", "throughput, requests per second"), (_LATENCIES[latency], f"{latency.title}, ms")]
    failures = any(point.error_rate_pct for curve in capacity.curves for point in curve.line)
    if failures or metric is Metric.ERROR_RATE:
        rows.append(("error_rate_pct", "failed requests, %"))
    return rows


def _curve(panels: Panels, side: Side, curve: ServiceCapacity, rows: Sequence[tuple[str, str]], *, alone: bool) -> None:
    step = max(1, len(curve.points) // MOST_POINTS)
    name = "all runs" if alone else side.name
    for index, (field, _) in enumerate(rows):
        known = [point for point in curve.points[::step] if getattr(point, field) is not None]
        panels.add(
            index,
            x=rounded([point.load for point in known]),
            y=rounded([getattr(point, field) for point in known]),
            mode="markers",
            marker={"size": 5, "color": side.colour, "opacity": 0.38, "symbol": _SYMBOLS[side.name]},
            hoverinfo="skip",
            legendgroup=side.name,
            showlegend=False,
        )
        line = [point for point in curve.line if getattr(point, field) is not None]
        panels.add(
            index,
            x=rounded([point.load for point in line]),
            y=rounded([getattr(point, field) for point in line]),
            mode="lines",
            line={"color": side.colour, "width": 2.4, "dash": side.dash},
            name=name,
            legendgroup=side.name,
            showlegend=index == 0,
            hovertemplate=f"{name}: %{{y:.4g}} at load %{{x:.3g}}<extra></extra>",
        )


def _throughput_marks(panels: Panels, side: Side, curve: ServiceCapacity) -> None:
    """The scalability law as a thin line, and the knee with its interval."""
    law, top = curve.scalability, max(point.throughput for point in curve.points)
    highest = max(point.load for point in curve.points)
    if None not in (law.lam.value, law.sigma.value, law.kappa.value) and law.highest_load >= 0.99 * highest:
        load = np.linspace(1.0, highest, 60)
        values = scalability_at(load, law.lam.value or 0.0, law.sigma.value or 0.0, law.kappa.value or 0.0)
        panels.add(
            0,
            x=rounded(load),
            y=rounded(values),
            mode="lines",
            line={"color": NEUTRAL_COLOUR if side.name == "baseline" else side.colour, "width": 1.2, "dash": "dot"},
            name="scalability law",
            legendgroup="law",
            showlegend=side.dash == "solid",
            hovertemplate=f"scalability law, {side.name}: %{{y:.4g}}/s at load %{{x:.3g}}<extra></extra>",
        )
    _span(panels, side, curve.knee, top, "knee", 0)


def _slo_marks(
    panels: Panels,
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
    values = [getattr(point, rows[index][0]) or 0.0 for point in curve.line]
    _span(panels, side, curve.limit, max(*values, slo.amount, 0.0), "SLO holds up to", index)
    if side.dash != "solid":
        return
    panels.add(
        index,
        x=[0, max(point.load for point in curve.points)],
        y=[slo.amount, slo.amount],
        mode="lines",
        line={"color": TOLERANCE_COLOUR, "width": 1.6, "dash": "dash"},
        name="SLO",
        hovertemplate=f"SLO: {slo.amount:g} {slo.metric.unit}<extra></extra>",
    )


def _span(panels: Panels, side: Side, estimate: Estimate, top: float, name: str, index: int) -> None:
    """An interval of load as a shaded stretch, its estimate as a line in the middle."""
    if estimate.status != FOUND or estimate.value is None or estimate.low is None or estimate.high is None:
        return
    low, high = estimate.low, min(estimate.high, estimate.value * 2)
    panels.add(
        index,
        x=rounded([low, low, high, high]),
        y=[0, *rounded([top, top]), 0],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=side.band,
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
    )
    panels.add(
        index,
        x=rounded([estimate.value] * 9),
        y=rounded(np.linspace(0.0, top, 9)),
        mode="lines",
        line={"color": side.colour, "width": 1.6, "dash": "dashdot"},
        name=name,
        legendgroup=name,
        showlegend=side.dash == "solid",
        hovertemplate=f"{side.name}, {name} %{{x:.3g}} [{low:.3g}, {high:.3g}]<extra></extra>",
    )


def changes_by_load(capacity: Capacity) -> go.Figure:
    """Candidate against baseline in percent at each load, with 95 % intervals; one service at a time."""
    if not capacity.at_load:
        build = "There is one build only" if not capacity.candidate else "The builds have no load in common"
        return sentence(f"{build}, so there is no change to draw.")
    services = tuple(dict.fromkeys(level.service for level in capacity.at_load))
    shown = [metric for metric in _CHANGES if any(level.metric == metric for level in capacity.at_load)]
    titles = [f"{metric.title}: change in percent at equal load" for metric in shown]
    panels = Panels(titles, row=120, gap=40, top=84 if len(services) > 1 else 40)
    for service in services:
        panels.service = service
        for index, metric in enumerate(shown):
            levels = [at for at in capacity.at_load if at.service == service and at.metric == metric]
            panels.add(
                index,
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
                hovertemplate="%{y:+.3g} % at load %{x:.3g}<br>%{customdata[0]:.4g} → %{customdata[1]:.4g}"
                "<extra></extra>",
                showlegend=False,
            )
    panels.every_y(rangemode="tozero", nticks=5, zeroline=True, zerolinewidth=2)
    panels.axis("x", title={"text": f"load, {capacity.load_unit}"}, rangemode="tozero")
    alt = f"Change of latency and throughput at each load, candidate against baseline, for {shorten(services[0])}."
    return panels.figure(alt, services, below=18)
