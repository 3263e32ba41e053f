"""How latencies are distributed: the density on a log axis, and the percentile curve to p99.9."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from perfkit.model import Run
from perfkit.render.drawing import Drawing
from perfkit.render.page import Note
from perfkit.render.panels import MOST_SERVICES, Side, Stack, axis, band, line, log_ticks, points, selector, sides
from perfkit.render.series import (
    BEYOND,
    Floats,
    log_density,
    log_edges,
    pooled,
    quantiles,
    requests_of_all,
    rounded,
    service_names,
    spread,
)
from perfkit.render.theme import format_number, label, layout, shorten

NO_REQUESTS = (
    "These runs were read from summaries: the single requests were not kept, so there is no distribution to draw. "
    "Runs that perfkit makes or imports from request logs have one."
)
_BINS = 80
_ROWS = {1: 340, 2: 260, 3: 210, 4: 190}  # pixels per panel
_TICKS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)


def latency_overlay(
    baseline: Sequence[Run], candidate: Sequence[Run] = (), *, services: Sequence[str] | None = None
) -> go.Figure | Note:
    """The latencies of each service on a log axis: both sides over one another, one panel per service.

    The line is the median over runs of the share of requests per bin, the band goes from the lowest to the highest run:
    where the bands part, the sides differ by more than runs of one side do.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return Note(NO_REQUESTS)
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
) -> go.Figure | Note:
    """Latency against percentile to p99.9; the axis is stretched towards the tail.

    The line is drawn from all requests of a side, and ends where fewer than 10 requests lie above; the band goes from
    the lowest to the highest run, and ends where a single run has fewer than 3 above.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return Note(NO_REQUESTS)
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
