"""Figures of runs: how response times are distributed, what happened over time, how single runs compare.

Pure functions from runs to a `plotly.graph_objects.Figure`; where there is nothing to draw, the figure says why.
`perfkit.report.plot` offers them to analysts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from perfkit.model.records import Metric, Run, service_names
from perfkit.report.figure import (
    BEYOND,
    MOST_SERVICES,
    Panels,
    axis,
    bin_width,
    log_density,
    log_edges,
    log_ticks,
    points,
    pooled,
    quantiles,
    requests_of_all,
    rounded,
    sentence,
    sides,
    spread,
    time_series,
    whole_bins,
)
from perfkit.report.formatting import SHORT_METRICS, format_number, format_value, label, shorten

if TYPE_CHECKING:
    import pandas as pd

NO_REQUESTS = (
    "These runs were read from summaries: the single requests were not kept, so there is no distribution to draw. "
    "Runs that perfkit makes or imports from request logs have one."
)
_BINS = 80
_ROWS = {1: 340, 2: 260, 3: 210, 4: 190}  # pixels per panel
_TICKS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)


def latency_distribution(
    baseline: Sequence[Run], candidate: Sequence[Run] = (), *, services: Sequence[str] | None = None
) -> go.Figure:
    """The latencies of each service on a log axis: both sides over one another, one panel per service.

    The line is the median over runs of the share of requests per bin, the band goes from the lowest to the highest run:
    where the bands part, the sides differ by more than runs of one side do.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return sentence(NO_REQUESTS)
    titles = [f"<b>{label(name, 44)}</b>" for name in names]
    panels = Panels(titles, row=124 if len(names) <= 4 else 78, gap=30)
    samples = [sample for name in names for sample in requests_of_all((*baseline, *candidate), name)]
    edges = log_edges(samples, points(len(names), _BINS))
    x = rounded(np.sqrt(edges[:-1] * edges[1:]))
    for index, name in enumerate(names):
        for side in sides(baseline, candidate):
            if densities := [log_density(sample, edges) for sample in requests_of_all(side.runs, name)]:
                low, middle, high = spread(densities)
                panels.band(side, x, low, high, index)
                hover = f"{side.name}: %{{y:.2g}} % of requests near %{{x:.3g}} ms<extra></extra>"
                panels.line(side, x, middle, index, hovertemplate=hover)
    panels.every_y(showticklabels=False, showgrid=False, rangemode="tozero", zeroline=True, fixedrange=True)
    panels.axis("x", type="log", title={"text": "response time (log scale)"}, **log_ticks(*edges[[0, -1]].tolist()))
    return panels.figure(
        f"Distribution of response times on a log axis, one panel each for {_listed(names)}; bands: spread over runs."
    )


def _drawable(baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str] | None) -> tuple[str, ...]:
    names = services if services is not None else service_names(baseline, candidate)
    return tuple(name for name in names if requests_of_all((*baseline, *candidate), name))[:MOST_SERVICES]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shorten(name) for name in names[:6]) + (", …" if len(names) > 6 else "")


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
    chosen_one = len(names) > 4  # services are chosen one at a time, in one panel
    levels = 1.0 - 10.0 ** -np.linspace(np.log10(1 / 0.95), 3.0, points(len(names), 60))
    x = rounded(-np.log10(1.0 - levels))
    if chosen_one:
        panels = Panels([""], row=340, top=92)
    else:
        titles = [f"<b>{label(name, 44)}</b>" for name in names]
        panels = Panels(titles, row=_ROWS[len(names)], gap=50, own_x=True)
    for index, name in enumerate(names):
        panel = 0 if chosen_one else index
        panels.service = name
        for side in sides(baseline, candidate):
            samples = requests_of_all(side.runs, name)
            if not samples:
                continue
            low, _, high = spread([quantiles(sample, levels, beyond=3) for sample in samples])
            in_each = np.all([len(sample.ordered_ms) * (1 - levels) >= 3 for sample in samples], axis=0)
            panels.band(side, x, np.where(in_each, low, np.nan), np.where(in_each, high, np.nan), panel)
            panels.line(
                side,
                x,
                quantiles(pooled(samples), levels, beyond=BEYOND),
                panel,
                customdata=rounded(levels * 100),
                hovertemplate=f"{side.name}: p%{{customdata}} = %{{y:.4g}} ms<extra></extra>",
            )
    last = len(panels.titles) - 1
    for panel in range(len(panels.titles)):
        drawn = names if chosen_one else names[panel : panel + 1]
        together = [pooled(requests_of_all((*baseline, *candidate), name)) for name in drawn]
        ends = np.vstack([np.quantile(sample.ordered_ms, [0.05, 0.999]) for sample in together])
        extent = max(float(ends[:, 0].min()), 1e-3) / 1.15, max(float(ends[:, 1].max()), 2e-3) * 1.15
        panels.axis(
            f"x{axis(panel)}",
            range=[0.0, 3.06],
            tickvals=[float(-np.log10(1 - level)) for level in _TICKS],
            ticktext=[f"p{format_number(level * 100).rstrip('0').rstrip('.')}" for level in _TICKS],
            anchor=f"y{axis(panel)}",
            title={"text": "percentile of requests (stretched towards the tail)"} if panel == last else {},
            zeroline=False,
        )
        reach = {"autorange": True} if chosen_one else {"range": [float(np.log10(end)) for end in extent]}
        panels.axis(f"y{axis(panel)}", type="log", **reach, **log_ticks(*extent))
    return panels.figure(
        f"Response time against percentile up to p99.9 for {_listed(names)}; the line ends where too few requests lie "
        "above.",
        names if chosen_one else (),
    )


_SERIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "rps": ("throughput, requests per second", "%{y:.3g}/s"),
        "p50": ("median latency, ms", "%{y:.4g} ms"),
        "p95": ("p95 latency, ms", "%{y:.4g} ms"),
        "errors": ("failed requests, %", "%{y:.2g} %"),
    }
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_HUES = ("#2b7fd4", "#d1480a", "#0b8f6b", "#8b5fbf", "#a8760c")


def run_timeline(
    baseline: Sequence[Run], candidate: Sequence[Run] = (), *, services: Sequence[str] | None = None
) -> go.Figure:
    """Throughput, latency and errors over the time since a run began; one service at a time.

    The line is the median over the runs of a side at that second of the run, the band goes from the lowest to the
    highest run.
    """
    names = _drawable(baseline, candidate, services)
    if not names:
        return sentence(
            "There is no time series to draw: the single requests of these runs were not kept. "
            "Runs that perfkit makes or imports from request logs have one."
        )
    panels = Panels([title for title, _ in _SERIES.values()], row=112, top=92 if len(names) > 1 else 56)
    for name in names:
        panels.service = name
        width = bin_width(requests_of_all((*baseline, *candidate), name), points(len(names), 60))
        for side in sides(baseline, candidate):
            samples = requests_of_all(side.runs, name)
            if not samples:
                continue
            length = whole_bins(samples, width)
            series = [time_series(sample, width, length) for sample in samples]
            x = [round((i + 0.5) * width, 1) for i in range(length)]
            for index, (key, (_, number)) in enumerate(_SERIES.items()):
                low, middle, high = spread([values[key] for values in series])
                panels.band(side, x, low, high, index)
                panels.line(side, x, middle, index, hovertemplate=f"{side.name} {number}<extra></extra>")
    panels.every_y(rangemode="tozero", nticks=4)
    panels.axis("x", title={"text": "seconds since the run began"}, rangemode="tozero", zeroline=False)
    panels.axis("x", unifiedhovertitle={"text": "%{x} s after the run began"})
    more = f" and {len(names) - 1} more services to choose from" if len(names) > 1 else ""
    return panels.figure(
        "Throughput, median and p95 latency and errors over the time since the run began, for "
        f"{shorten(names[0])}{more}.",
        names,
        hovermode="x unified",
    )


def run_values(
    baseline: Sequence[Run],
    candidate: Sequence[Run] = (),
    *,
    services: Sequence[str] | None = None,
    metrics: Sequence[str] = (Metric.AVG, Metric.P95, Metric.ERROR_RATE, Metric.RPS),
) -> go.Figure:
    """One mark per run and metric, in the order in which the runs were made; one service at a time."""
    runs = (*baseline, *candidate)
    names = services if services is not None else service_names(baseline, candidate)
    names = tuple(name for name in names if any(name in run.services for run in runs))[:MOST_SERVICES]
    shown = [m for m in map(Metric, metrics) if any(_value(run, name, m) is not None for run in runs for name in names)]
    if not names or not shown:
        return sentence("There is nothing to draw: these runs hold none of the metrics asked for.")
    in_time = sorted(runs, key=lambda run: run.started_at.timestamp() if run.started_at else 0.0)
    order = {id(run): number for number, run in enumerate(in_time, start=1)}
    panels = Panels([f"{metric.title}, {metric.unit}" for metric in shown], row=96, top=92 if len(names) > 1 else 56)
    for name in names:
        panels.service = name
        for index, metric in enumerate(shown):
            for side in sides(baseline, candidate):
                marks = [
                    (order[id(run)], value, run)
                    for run in side.runs
                    if (value := _value(run, name, metric)) is not None
                ]
                panels.add(
                    index,
                    x=[number for number, _, _ in marks],
                    y=rounded([value for _, value, _ in marks], 5),
                    mode="markers",
                    marker={
                        "size": 9,
                        "color": side.colour,
                        "symbol": "circle" if side.name == "baseline" else "diamond",
                        "line": {"width": 1, "color": "rgba(255,255,255,0.7)"},
                    },
                    cliponaxis=False,
                    name=side.name,
                    legendgroup=side.name,
                    showlegend=index == 0,
                    hovertext=[
                        f"{side.name} {label(run.id, 48)}<br>{format_value(metric, value)}" for _, value, run in marks
                    ],
                    hoverinfo="text",
                )
                if marks:
                    numbers, middle = [number for number, _, _ in marks], float(np.median([v for _, v, _ in marks]))
                    panels.add(
                        index,
                        x=[min(numbers) - 0.3, max(numbers) + 0.3],
                        y=rounded([middle, middle], 5),
                        mode="lines",
                        line={"color": side.colour, "width": 1.5, "dash": side.dash},
                        hoverinfo="skip",
                        legendgroup=side.name,
                        showlegend=False,
                    )
    for index, metric in enumerate(shown):
        panels.axis(f"y{axis(index)}", nticks=4, rangemode="tozero" if metric is Metric.ERROR_RATE else "normal")
    step, limits = max(1, math.ceil(len(order) / 12)), [0.4, len(order) + 0.6]
    panels.axis("x", title={"text": "run, in time order"}, dtick=step, range=limits, zeroline=False)
    titles = ", ".join(metric.title for metric in shown)
    return panels.figure(f"One mark per run in time order for {titles} of {shorten(names[0])}.", names)


def _value(run: Run, service: str, metric: Metric) -> float | None:
    stats = run.services.get(service)
    return stats.value(metric) if stats is not None else None


def detectable(frame: pd.DataFrame) -> go.Figure:
    """The smallest change that a comparison could show, against the number of runs on each side.

    ``frame`` has the columns ``service``, ``metric``, ``runs_per_side``, ``min_detectable`` and ``change_unit``.
    Error rates have a panel of their own, in percentage points.
    """
    frame = frame[np.isfinite(frame["min_detectable"].to_numpy(dtype=float))] if len(frame) else frame
    if not len(frame):
        return sentence("The minimum detectable effect is not known: these runs do not say how much runs differ.")
    titles = {
        "%": "smallest detectable change, percent",
        "pp": "error rate: smallest detectable change, percentage points",
    }
    units = [unit for unit in titles if (frame["change_unit"] == unit).any()]
    names = tuple(dict.fromkeys(str(name) for name in frame["service"]))[:MOST_SERVICES]
    height, top = 210 if len(units) > 1 else 280, 112 if len(names) > 1 else 76
    panels = Panels([titles[unit] for unit in units], row=height, top=top)
    for name in names:
        panels.service = name
        for index, unit in enumerate(units):
            mine = frame[(frame["service"] == name) & (frame["change_unit"] == unit)]
            for number, (metric, curve) in enumerate(mine.groupby("metric", sort=False)):
                title = Metric(str(metric)).title
                panels.add(
                    index,
                    x=[int(value) for value in curve["runs_per_side"]],
                    y=rounded(curve["min_detectable"], 3),
                    mode="lines+markers",
                    line={"color": _HUES[number % len(_HUES)], "dash": _DASHES[number % len(_DASHES)], "width": 2},
                    marker={"size": 6},
                    name=SHORT_METRICS.get(str(metric), str(metric)),
                    showlegend=unit == "%" or number > 0,
                    hovertemplate=f"{title}: %{{x}} runs can show %{{y:.3g}} {unit}<extra></extra>",
                )
    panels.every_y(rangemode="tozero", nticks=4)
    panels.axis("x", title={"text": "runs on each side"}, dtick=1, zeroline=False)
    return panels.figure(
        f"Smallest detectable change against runs on each side, for {shorten(names[0])}: it falls as runs are added.",
        names,
        below=48,
        legend={"entrywidth": 45, "entrywidthmode": "pixels"},
    )
