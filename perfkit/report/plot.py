"""``perfkit.plot``: every figure as a function, and the ``.plot`` accessors through which objects offer them.

Each function takes an object of the public API and always returns a `plotly.graph_objects.Figure` that can be shown,
zoomed, restyled (``figure.update_layout(...)``) and saved.  Where there is nothing to draw, the figure says why.
"""

from __future__ import annotations

import math
import textwrap
from calendar import day_abbr
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from perfkit.analysis.baseline import BaselineSummary
from perfkit.analysis.capacity import Capacity, ServiceCapacity
from perfkit.analysis.power import detectable
from perfkit.config.policy import Policy
from perfkit.model.errors import did_you_mean
from perfkit.model.records import Comparison, Finding, Metric, Run, Verdict, service_names
from perfkit.report.figure import (
    BEYOND,
    EVERY,
    MOST_BINS,
    MOST_SERVICES,
    Floats,
    Panels,
    Side,
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
from perfkit.report.findings import services_worst_first, sides_of, size_text
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    EVENT_COLOURS,
    EVENT_SYMBOLS,
    EVENT_WORDS,
    KEY_METRICS,
    NEUTRAL_COLOUR,
    SHORT_METRICS,
    TOLERANCE_COLOUR,
    VERDICT_COLOURS,
    VERDICT_MARKERS,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    and_more,
    commit_text,
    count_text,
    effects_reach,
    finding_text,
    format_change,
    format_day,
    format_interval,
    format_load,
    format_number,
    format_value,
    label,
    shorten,
)
from perfkit.report.html import Accessor, of_subject
from perfkit.report.trend import by_day
from perfkit.stats.capacity import FOUND, Estimate, scalability_at

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from perfkit.history.events import RunReference
    from perfkit.history.trend import History, MetricTrend

Measured = Comparison | BaselineSummary | Capacity | Run | Sequence[Run]
Services = str | Sequence[str] | None

__all__ = [
    "calendar",
    "changes_by_load",
    "detectable_change",
    "forest",
    "latency",
    "load",
    "percentiles",
    "runs",
    "services",
    "timeline",
    "trend",
]

NO_REQUESTS = (
    "These runs were read from summaries: the single requests were not kept, so there is no distribution and no time "
    "series to draw. Runs that perfkit makes or imports from request logs have one."
)
MOST_FOREST_ROWS = 24  # of services whose effects are drawn; all are in the table
FEWEST_FOREST_SERVICES = 3
MOST_LATENCY_PANELS = 8  # services with a distribution each, the worst first; the percentiles have more to choose from
MOST_WINDOWS = 400  # drawn per side; more are one grey cloud
_BINS = 80
_ROWS = {1: 340, 2: 260, 3: 210, 4: 190}  # pixels per panel
_FOREST_ROW = 24  # pixels
_TICKS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_SERIES = {
    "rps": ("throughput, requests per second", "%{y:.3g}/s"),
    "p50": ("median latency, ms", "%{y:.4g} ms"),
    "p95": ("p95 latency, ms", "%{y:.4g} ms"),
    "errors": ("failed requests, %", "%{y:.2g} %"),
}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_HUES = ("#2b7fd4", "#d1480a", "#0b8f6b", "#8b5fbf", "#a8760c")
_SYMBOLS = {"baseline": "circle", "candidate": "diamond"}
_LATENCIES = {Metric.AVG: "avg_ms", Metric.P50: "p50_ms", Metric.P95: "p95_ms", Metric.P99: "p99_ms"}

# Runs ----------------------------------------------------------------------------------------------------------------


def latency(measured: Measured, candidate: Sequence[Run] = (), *, service: Services = None) -> go.Figure:
    """How response times are distributed: one panel per service, on a log axis.

    The line is the median over runs, the band goes from the lowest to the highest run: where the bands of two sides
    part, the sides differ by more than runs of one side do.

    Parameters
    ----------
    measured
        A comparison, runs, or a baseline; with ``candidate``, runs to draw over it.
    service
        A service, or several; all of them when ``None``.
    """
    before, after, names = _drawable(measured, candidate, service)
    names = names[:MOST_LATENCY_PANELS]
    if not names:
        return sentence(NO_REQUESTS)
    titles = [f"<b>{label(name, 44)}</b>" for name in names]
    panels = Panels(titles, row=124 if len(names) <= 4 else 78, gap=30)
    samples = [sample for name in names for sample in requests_of_all((*before, *after), name)]
    edges = log_edges(samples, points(len(names), _BINS))
    x = rounded(np.sqrt(edges[:-1] * edges[1:]))
    for index, name in enumerate(names):
        for side in sides(before, after):
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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shorten(name) for name in names[:6]) + (", …" if len(names) > 6 else "")


def percentiles(measured: Measured, candidate: Sequence[Run] = (), *, service: Services = None) -> go.Figure:
    """Response time against percentile to p99.9, stretched towards the tail; parameters as of `latency`."""
    before, after, names = _drawable(measured, candidate, service)
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
        for side in sides(before, after):
            samples = requests_of_all(side.runs, name)
            if not samples:
                continue
            low, _, high = spread([quantiles(sample.latencies, levels, beyond=3) for sample in samples])
            in_each = np.all([sample.latencies.total * (1 - levels) >= 3 for sample in samples], axis=0)
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
        together = [pooled(requests_of_all((*before, *after), name)) for name in drawn]
        ends = np.vstack([latencies.quantiles([0.05, 0.999]) for latencies in together])
        extent = max(float(ends[:, 0].min()), 1e-3) / 1.15, max(float(ends[:, 1].max()), 2e-3) * 1.15
        panels.axis(
            f"x{axis(panel)}",
            range=[0.0, 3.06],
            tickvals=[float(-np.log10(1 - level)) for level in _TICKS],
            ticktext=[f"p{format_number(level * 100).rstrip('0').rstrip('.')}" for level in _TICKS],
            anchor=f"y{axis(panel)}",
            title={"text": "percentile (stretched towards the tail)"} if panel == last else {},
            zeroline=False,
        )
        reach = {"autorange": True} if chosen_one else {"range": [float(np.log10(end)) for end in extent]}
        panels.axis(f"y{axis(panel)}", type="log", **reach, **log_ticks(*extent))
    return panels.figure(
        f"Response time against percentile up to p99.9 for {_listed(names)}; the line ends where too few requests lie "
        "above.",
        names if chosen_one else (),
    )


def timeline(measured: Measured, candidate: Sequence[Run] = (), *, service: Services = None) -> go.Figure:
    """Throughput, response times and error rate over the seconds since a run began; parameters as of `latency`."""
    before, after, names = _drawable(measured, candidate, service)
    if not names:
        return sentence(NO_REQUESTS)
    panels = Panels([title for title, _ in _SERIES.values()], row=112, top=92 if len(names) > 1 else 56)
    for name in names:
        panels.service = name
        width = bin_width(requests_of_all((*before, *after), name), points(len(names), MOST_BINS))
        for side in sides(before, after):
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


def runs(
    measured: Measured,
    candidate: Sequence[Run] = (),
    *,
    service: Services = None,
    metric: str | Sequence[str] = KEY_METRICS,
) -> go.Figure:
    """One mark per run, in the order in which the runs were made; parameters as of `latency`.

    Parameters
    ----------
    metric
        A metric or several, in short too: ``p95``, ``avg``, ``errors``, ``rps``.
    """

    def value_of(run: Run, service: str, metric: Metric) -> float | None:
        stats = run.services.get(service)
        return stats.value(metric) if stats is not None else None

    metrics = [Metric(name) for name in ([metric] if isinstance(metric, str) else metric)]
    before, after = sides_of(measured, candidate)
    names = _services(measured, candidate, service)
    runs = (*before, *after)
    names = tuple(name for name in names if any(name in run.services for run in runs))[:MOST_SERVICES]
    shown = [m for m in metrics if any(value_of(run, name, m) is not None for run in runs for name in names)]
    if not names or not shown:
        return sentence("There is nothing to draw: these runs hold none of the metrics asked for.")
    in_time = sorted(runs, key=lambda run: run.started_at.timestamp() if run.started_at else 0.0)
    order = {id(run): number for number, run in enumerate(in_time, start=1)}
    panels = Panels([f"{metric.title}, {metric.unit}" for metric in shown], row=96, top=92 if len(names) > 1 else 56)
    for name in names:
        panels.service = name
        for index, metric in enumerate(shown):
            for side in sides(before, after):
                marks = [
                    (order[id(run)], value, run)
                    for run in side.runs
                    if (value := value_of(run, name, metric)) is not None
                ]
                panels.add(
                    index,
                    x=[number for number, _, _ in marks],
                    y=rounded([value for _, value, _ in marks], 5),
                    mode="markers",
                    marker={
                        "size": 9,
                        "color": side.colour,
                        "symbol": _SYMBOLS[side.name],
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


def detectable_change(
    measured: Measured, *, service: Services = None, policy: Policy | None = None, most: int = 10
) -> go.Figure:
    """The smallest change that 1 to ``most`` runs on each side can show, from the noise of the runs at hand.

    Error rates have a panel of their own, in percentage points.
    """
    frame = detectable(
        sides_of(measured, ())[0],
        policy=policy or (measured.policy if isinstance(measured, BaselineSummary) else None),
        most=most,
    )
    if service is not None:
        frame = frame[frame["service"].isin(_chosen(service, tuple(frame["service"].unique())))]
    frame = frame[np.isfinite(frame["min_detectable"].to_numpy(dtype=float))] if len(frame) else frame
    if not len(frame):
        return sentence("The minimum detectable effect is not known: these runs do not say how much runs differ.")
    titles = {
        "%": "smallest detectable change, % (log scale)",
        "pp": "the same of the error rate, pp (log scale)",
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
    for index, unit in enumerate(units):  # on a log axis an average of 2 % and a p99.9 of 60 % are read alike
        values = frame.loc[frame["service"].isin(names) & (frame["change_unit"] == unit), "min_detectable"]
        low, high = max(float(values.min()), 1e-3) / 1.15, max(float(values.max()), 2e-3) * 1.15
        ticks = log_ticks(low, high)
        ticks["ticktext"] = [f"{value:.3g} {unit}" for value in ticks["tickvals"]]
        ends = [math.log10(low), math.log10(high)]
        panels.axis(f"y{axis(index)}", type="log", range=ends, zeroline=False, **ticks)
    panels.axis("x", title={"text": "runs on each side"}, dtick=1, zeroline=False)
    return panels.figure(
        f"Smallest detectable change against runs on each side, for {shorten(names[0])}: it falls as runs are added.",
        names,
        below=48,
        legend={"entrywidth": 45, "entrywidthmode": "pixels"},
    )


# Comparisons ---------------------------------------------------------------------------------------------------------


def forest(comparison: Comparison, *, service: Services = None) -> go.Figure:
    """Every effect of a comparison with its interval, its tolerance and its verdict.

    Left of zero is less than the baseline, right of it more; percent and percentage points have a panel each.  The
    tolerance is the shaded stretch on the worse side: a regression's mark lies beyond it, *no regression* has its whole
    interval short of its end.  An arrow says that an interval goes on beyond the axis.

    Parameters
    ----------
    service
        A service, or several; ``None`` draws those nearest to a verdict of change.
    """
    if service is not None:
        names = _chosen(service, tuple(dict.fromkeys(finding.service for finding in comparison.findings)))
        comparison = replace(comparison, findings=tuple(f for f in comparison.findings if f.service in names))
    # Absolute limits are no effects: they have a table, and stand here only where nothing else was compared
    findings = tuple(f for f in comparison.findings if not f.objective) or comparison.findings
    services = services_worst_first(findings)  # as the table has them
    labels: list[str] = []
    drawn = 0
    for name, members in services.items():
        drawn += len(members)
        if len(labels) < FEWEST_FOREST_SERVICES or drawn <= MOST_FOREST_ROWS:
            labels.append(name)
    findings = tuple(finding for members in services.values() for finding in members)
    by_unit = {unit: [finding for finding in findings if finding.change_unit == unit] for unit in ("%", "pp")}
    parts = [part for of in by_unit.values() if (part := [f for f in of if f.label in labels])]
    if not parts:
        return sentence("There is no effect to draw: no metric of any service was compared.")
    panels = Panels([""] * len(parts), row=0, own_x=True)
    for verdict in Verdict:
        if any(finding.verdict is verdict for finding in findings):
            stroke = {"width": 2, "color": VERDICT_COLOURS[verdict]}
            marker = {"symbol": VERDICT_MARKERS[verdict], "size": 11, "color": VERDICT_COLOURS[verdict], "line": stroke}
            panels.legend(VERDICT_WORDS[verdict], mode="markers", marker=marker)
    if any(finding.tolerance is not None for finding in findings):
        square = {"symbol": "square", "size": 12, "color": TOLERANCE_COLOUR, "opacity": 0.4}
        panels.legend("tolerance", mode="markers", marker=square)
    if any(finding.change is None for finding in findings):
        stroke = {"symbol": "line-ns-open", "size": 11, "color": NEUTRAL_COLOUR}
        panels.legend("no estimate", mode="markers", marker=stroke)
    lines = []
    for index, part in enumerate(parts):
        hidden = len({finding.label for finding in by_unit[part[0].change_unit]} - set(labels))
        lines.append(_forest_panel(panels, index, part, hidden))
    total = sum(lines) + 2.4 * (len(parts) - 1)
    top = 1.0
    for index, rows in enumerate(lines):
        bottom = max(0.0, top - rows / total)
        panels.axis(f"y{axis(index)}", domain=[bottom, top])
        top = bottom - 2.4 / total
    counts = [(verdict, sum(finding.verdict is verdict for finding in findings)) for verdict in Verdict]
    summary = ", ".join(f"{count} {VERDICT_WORDS[verdict]}" for verdict, count in counts if count)
    bad = [
        f"{shorten(finding.label, 60)} {finding.title} {format_change(finding)}"
        for finding in comparison.by_verdict(Verdict.REGRESSION)[:5]
    ]
    listed = f" Regressions: {'; '.join(bad)}." if bad else ""
    return panels.figure(
        f"Effects with intervals for {len(findings)} findings: {summary}.{listed} The table below has every number.",
        height=round(total * _FOREST_ROW) + 118,
        margin={"l": 68, "r": 92, "t": 68, "b": 50},
        # A legend of entries as wide as this has two columns on a telephone, and so at most three rows.
        legend={"entrywidth": 108, "entrywidthmode": "pixels"},
    )


def _forest_panel(panels: Panels, index: int, findings: Sequence[Finding], hidden: int) -> float:
    """The effects of one unit below the names of their services; its height in rows."""
    headers: list[tuple[str, float]] = []
    rows: list[tuple[Finding, float]] = []
    lines = 0.0
    for service in dict.fromkeys(finding.label for finding in findings):
        headers.append((service, lines))
        for finding in (f for f in findings if f.label == service):
            lines += 1.0
            rows.append((finding, lines))
        lines += 1.25
    if hidden:
        headers.append((f"{hidden} quieter {'service is' if hidden == 1 else 'services are'} in the table", lines))
        lines += 1.0
    lines += 0.3
    unit, reach = findings[0].change_unit, 1.12 * effects_reach(findings)
    x, y = f"x{axis(index)}", f"y{axis(index)}"
    panels.axis(
        x,
        range=[-reach, reach],
        anchor=y,
        title={"text": {"%": "change in percent of the baseline", "pp": "change in percentage points"}[unit]},
        ticksuffix="" if unit == "pp" else " %",
        nticks=7,
        zeroline=True,
    )
    panels.axis(
        y,
        range=[lines - 0.7, -0.7],
        tickvals=[at for _, at in rows],
        ticktext=[SHORT_METRICS.get(finding.metric, finding.metric) for finding, _ in rows],
        showgrid=False,
        zeroline=False,
        fixedrange=True,
        automargin=False,
        ticklabelstandoff=8,
    )
    for service, at in headers:
        position = {"x": 0, "xref": "paper", "xshift": -64, "xanchor": "left", "y": at, "yref": y}
        panels.text(f"<b>{label(service, 44)}</b>", font={"size": 13}, **position)
    for finding, at in rows:
        beside = format_change(finding).replace(" (from zero)", "")
        panels.text(beside, x=1, xref="paper", xshift=6, xanchor="left", y=at, yref=y)
        if finding.tolerance is not None:
            end = min(finding.tolerance, reach) * Metric(finding.metric).worse
            position = {"xref": x, "yref": y, "y0": at - 0.36, "y1": at + 0.36, "x1": end, "layer": "below"}
            panels.shape(type="rect", x0=0, line={"width": 0}, fillcolor=TOLERANCE_COLOUR, opacity=0.16, **position)
            if finding.tolerance <= reach:
                panels.shape(type="line", x0=end, line={"color": TOLERANCE_COLOUR, "width": 2}, **position)
    for verdict in dict.fromkeys(finding.verdict for finding, _ in rows):
        _effects(panels, index, verdict, [row for row in rows if row[0].verdict is verdict], reach)
    return lines


def _effects(panels: Panels, index: int, verdict: Verdict, rows: Sequence[tuple[Finding, float]], reach: float) -> None:
    """Intervals, estimates, and arrows where an interval goes on: one group of the legend."""
    colour, group = VERDICT_COLOURS[verdict], {"legendgroup": VERDICT_WORDS[verdict], "showlegend": False}
    xs: list[float | None] = []
    ys: list[float | None] = []
    beyond: list[tuple[float, int]] = []
    for finding, at in rows:
        low, high = finding.ci_low, finding.ci_high
        if low is not None and high is not None:
            xs += [max(low, -reach), min(high, reach), None]
            ys += [at, at, None]
        beyond += [(at, side) for side, end in ((-1, low), (1, high)) if end is not None and end * side > reach]
    panels.add(index, x=xs, y=ys, mode="lines", line={"color": colour, "width": 2.5}, hoverinfo="skip", **group)
    changes = [finding.change for finding, _ in rows]
    panels.add(
        index,
        x=[0.0 if change is None else max(-reach, min(reach, change)) for change in changes],
        y=[at for _, at in rows],
        mode="markers",
        marker={
            "symbol": ["line-ns-open" if change is None else VERDICT_MARKERS[verdict] for change in changes],
            "size": 11,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
        hovertext=[_effect_hover(finding) for finding, _ in rows],
        hoverinfo="text",
        cliponaxis=False,
        **group,
    )
    if beyond:
        symbols = ["triangle-right" if side > 0 else "triangle-left" for _, side in beyond]
        panels.add(
            index,
            x=[side * reach for _, side in beyond],
            y=[at for at, _ in beyond],
            mode="markers",
            marker={"symbol": symbols, "size": 9, "color": colour},
            hoverinfo="skip",
            cliponaxis=False,
            **group,
        )


def _effect_hover(finding: Finding) -> str:
    lines = [
        f"<b>{label(finding.label, 60)}</b> · {finding.title}",
        f"{finding_text(finding)}: {format_change(finding)} {format_interval(finding)}",
        f"{format_value(finding.metric, finding.baseline)} → {format_value(finding.metric, finding.candidate)}",
    ]
    if finding.limit:
        lines.append(f"tolerance: {label(finding.limit)}")
    if finding.min_detectable is not None:
        lines.append(f"these runs could show {finding.min_detectable:.3g} {finding.change_unit}")
    return "<br>".join(lines)


# Capacity ------------------------------------------------------------------------------------------------------------


def load(capacity: Capacity, *, service: Services = None) -> go.Figure:
    """Throughput, response time and errors against load, with the knee and the load up to which the objective holds.

    Marks are the windows of each run, the line is all runs of a side together.  Beside throughput stands the Universal
    Scalability Law.
    """
    if service is not None:
        names = _chosen(service, capacity.services)
        capacity = replace(capacity, curves=tuple(curve for curve in capacity.curves if curve.service in names))
    slo = capacity.slo_objective
    metric = slo.metric if slo is not None else Metric.P95
    latency = metric if metric in _LATENCIES else Metric.P95
    rows = {"throughput": "throughput, requests per second", _LATENCIES[latency]: f"{latency.title}, ms"}
    failures = any(point.error_rate_pct for curve in capacity.curves for point in curve.line)
    if failures or metric is Metric.ERROR_RATE:  # errors only where there are any
        rows["error_rate_pct"] = "failed requests, %"
    panels = Panels(list(rows.values()), row=230, gap=44, top=152 if len(capacity.services) > 1 else 116)
    for service in capacity.services:
        panels.service = service
        for side, curve in zip(sides(capacity.runs, capacity.candidate), capacity.of(service), strict=True):
            name = side.name if capacity.candidate else "all runs"
            for index, field in enumerate(rows):
                _load_curve(panels, side, curve, field, index, name)
            _scalability(panels, side, curve)
            field = "error_rate_pct" if metric is Metric.ERROR_RATE else _LATENCIES.get(metric, "")
            if slo is not None and field in rows:
                index = list(rows).index(field)
                top = max(*(getattr(point, field) or 0.0 for point in curve.line), slo.amount, 0.0)
                _span(panels, side, curve.limit, top, "SLO holds up to", index)
                if side.dash == "solid":
                    panels.add(
                        index,
                        x=[0, max(point.load for point in curve.points)],
                        y=[slo.amount, slo.amount],
                        mode="lines",
                        line={"color": TOLERANCE_COLOUR, "width": 1.6, "dash": "dash"},
                        name="SLO",
                        hovertemplate=f"SLO: {slo.amount:g} {slo.metric.unit}<extra></extra>",
                    )
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


def _load_curve(panels: Panels, side: Side, curve: ServiceCapacity, field: str, index: int, name: str) -> None:
    """One quantity against load: windows as marks, all runs of the side as a line."""
    windows = [p for p in curve.points[:: max(1, len(curve.points) // MOST_WINDOWS)] if getattr(p, field) is not None]
    panels.add(
        index,
        x=rounded([point.load for point in windows]),
        y=rounded([getattr(point, field) for point in windows]),
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


def _scalability(panels: Panels, side: Side, curve: ServiceCapacity) -> None:
    """The scalability law as a thin line beside throughput, and the knee with its interval."""
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


def changes_by_load(capacity: Capacity, *, service: Services = None) -> go.Figure:
    """Candidate against baseline at each load, in percent, with 95 % intervals."""
    if service is not None:
        names = _chosen(service, capacity.services)
        capacity = replace(capacity, at_load=tuple(level for level in capacity.at_load if level.service in names))
    if not capacity.at_load:
        build = "There is one build only" if not capacity.candidate else "The builds have no load in common"
        return sentence(f"{build}, so there is no change to draw.", is_empty=not capacity.candidate)
    services = tuple(dict.fromkeys(level.service for level in capacity.at_load))
    shown = [
        metric
        for metric in (Metric.AVG, Metric.P95, Metric.RPS)
        if any(level.metric == metric for level in capacity.at_load)
    ]
    titles = [f"{metric.title}: change in percent at equal load" for metric in shown]
    panels = Panels(titles, row=120, gap=40, top=84 if len(services) > 1 else 40)
    for service in services:
        panels.service = service
        for index, metric in enumerate(shown):
            levels = [at for at in capacity.at_load if at.service == service and at.metric == metric]
            panels.add(  # the intervals
                index,
                x=rounded([load for level in levels for load in (level.load, level.load, math.nan)]),
                y=rounded([end for level in levels for end in (level.ci_low, level.ci_high, math.nan)]),
                mode="lines",
                line={"color": CANDIDATE_COLOUR, "width": 1.4},
                hoverinfo="skip",
                showlegend=False,
            )
            panels.add(
                index,
                x=rounded([level.load for level in levels]),
                y=rounded([level.change_pct for level in levels]),
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


# Histories -----------------------------------------------------------------------------------------------------------

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


def trend(history: History, *, service: Services = None, metric: str | None = None) -> go.Figure:
    """Every metric over the runs of a history, with its levels, events, outliers and invalid runs.

    Panels share the axis of runs, so that one hover tells commit, date and every value of a run with its interval.  An
    entry of the legend stands for all its marks: a click on it hides them.

    Parameters
    ----------
    service
        A service, or several to choose from; the most telling ones when ``None``.
    metric
        One metric, in short too; all when ``None``.
    """
    history = _part(history, service, metric)
    if not history.metric_trends:
        return sentence("There is nothing to draw: no valid run measured anything.")
    names, metrics = _drawn_services(history), history.metrics
    titles = [f"{metric.title}, {metric.unit}" for metric in metrics]
    top = 152 if len(names) > 1 else 104
    panels = Panels(titles, row=104 if len(metrics) > 1 else 240, gap=36, top=top, bottom=52, strip=16)
    _strip(panels, history)
    _trend_legend(panels, history)
    for name in names:
        panels.service = name
        for index, metric in enumerate(metrics):
            course = history.metric_trend(name, metric)
            if course is not None:
                _metric_course(panels, course, history, index)
    panels.service = EVERY
    position = {"xref": "paper", "xanchor": "left", "xshift": -46, "yref": "paper", "yanchor": "bottom", "yshift": 6}
    panels.text("runs and events", x=0, y=1, font={"size": 12}, **position)
    for index, metric in enumerate(metrics):
        rangemode = "tozero" if metric is Metric.ERROR_RATE else "normal"
        panels.axis(f"y{axis(index)}", nticks=4, zeroline=False, rangemode=rangemode)
    panels.axis(f"y{axis(len(metrics))}", range=[-1, 1], fixedrange=True)
    tick_texts = _ticks(history)
    panels.axis(
        "x",  # runs at equal distances, with dates at some of them
        range=[history.first + 0.3, len(history.runs) + 0.7],
        zeroline=False,
        showgrid=False,
        tickvals=[i + 1 for i in tick_texts],
        ticktext=[tick_texts[i] for i in tick_texts],
        title={"text": "one step per run, oldest first"},
        unifiedhovertitle={"text": "run %{x}"},
    )
    # Behind all panels: invalid runs as grey bands, events as thin lines
    upright = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    unfit = [i for i in range(history.first, len(history.runs)) if not history.runs[i].valid]
    for _, group in groupby(enumerate(unfit), lambda pair: pair[1] - pair[0]):
        band = [i for _, i in group]
        panels.shape(type="rect", x0=band[0] + 0.5, x1=band[-1] + 1.5, fillcolor=_BAND, line={"width": 0}, **upright)
    strokes = [
        (event.index, "dot", NEUTRAL_COLOUR if history.is_acknowledged(event) else EVENT_COLOURS[event.kind])
        for event in history.shown_events[-MOST_LINES:]
    ]
    strokes += [(change.index, "dash", NEUTRAL_COLOUR) for change in history.shown_services_changed[-MOST_LINES:]]
    for i, dash, colour in strokes:
        line = {"width": 1, "dash": dash, "color": colour}
        panels.shape(type="line", x0=i + 0.5, x1=i + 0.5, line=line, **upright)
    return panels.figure(
        f"History of {shorten(names[0])}: {', '.join(metric.title for metric in metrics)} over "
        f"{len(history.runs) - history.first} runs, with {len(history.shown_events)} events.",
        names,
        below=84,
        hovermode="x unified",
        hoversubplots="axis",
        legend={"entrywidth": 88, "entrywidthmode": "pixels"},
    )


def _drawn_services(history: History) -> tuple[str, ...]:
    """The most telling services, as many as a report has room for."""
    points = max((len(history.runs) - history.first) * len(history.metrics), 1)
    return history.services[: max(1, min(MOST_SERVICES, MOST_POINTS // points))]


def _strip(panels: Panels, history: History) -> None:
    """One mark per run above the panels; its hover says which run it is, once for all of them."""
    shown = range(history.first, len(history.runs))
    events, unusual = {event.index: event for event in history.events}, history.outliers
    marks: list[tuple[str, str, int]] = []
    texts = []
    for i in shown:
        run, event, far = history.runs[i], events.get(i), unusual.get(i, [])
        lines = [_run_name(run)]
        mark = (NEUTRAL_COLOUR, "line-ns-open", 6)
        if not run.valid:
            mark = (_INVALID["color"], _INVALID["symbol"], 9)
            lines.append(f"invalid, left out: {label(run.why_invalid or 'unfit', 60)}")
        if event is not None:
            mark, prefix = (EVENT_COLOURS[event.kind], _MARKS[event.kind], 12), ""
            if history.is_acknowledged(event):
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
        len(history.metrics),
        x0=history.first + 1,
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


def _run_name(moment: RunReference, between: str = ", ") -> str:
    """``1 Nov 2026 03:02, commit 1ab2c3d4e5, main``, harmless for plotly; ``between`` stands behind the time."""
    at = moment.started_at
    time = f"{format_day(moment)} {at:%H:%M}" if at is not None else "time unknown"
    commit = [f"commit {label(commit_text(moment))}"] if moment.commit else []
    branch = [label(moment.branch, 24)] if moment.branch else []
    return between.join([time, ", ".join([*commit, *branch])]).removesuffix(between)


def _trend_legend(panels: Panels, history: History) -> None:
    """What marks mean, whatever service is seen."""
    segmentations = [course.segmentation for course in history.metric_trends]
    line: dict[str, Any] = {"color": NEUTRAL_COLOUR, "width": 2.6}
    changed = any(segmentation.changes for segmentation in segmentations)
    entries: list[tuple[str, bool, dict[str, Any]]] = [
        ("run", True, {"marker": {"color": CANDIDATE_COLOUR, "size": 6}}),
        ("level", True, {"line": line}),
        *((name, changed, {"marker": {**mark, "size": 11}}) for name, mark in _STEPS.items()),
        ("outlier", any(segmentation.outliers for segmentation in segmentations), {"marker": _OUTLIER}),
        ("drift", any(segmentation.drifts for segmentation in segmentations), {"line": {**line, "dash": "dash"}}),
        ("invalid", not all(run.valid for run in history.runs[history.first :]), {"marker": {**_INVALID, "size": 9}}),
        (
            "acknowledged",
            any(map(history.is_acknowledged, history.shown_events)),
            {"marker": {"color": NEUTRAL_COLOUR, "symbol": "x-open", "size": 9}},
        ),
    ]
    for name, is_shown, style in entries:
        if is_shown:
            panels.legend(name, mode="lines" if "line" in style else "markers", **style)


def _metric_course(panels: Panels, course: MetricTrend, history: History, index: int) -> None:
    """One metric of one service: its levels and drifts, a mark per run, its changes and outliers."""
    # Only a run's own value is told under the mouse: marks of its neighbours would be told with it
    marks: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}
    values = course.values[history.first :]
    for name, dash, drifts in (("level", "solid", False), ("drift", "dash", True)):
        stretches = [part for part in course.levels if (part.drift is not None) is drifts and part.end > history.first]
        if stretches:
            xs: list[float | None] = []
            ys: list[float | None] = []
            for item in stretches:  # half a run longer on either side, a gap between each two
                begin, end, ends = max(item.begin, history.first), item.end, (item.value, item.value)
                if item.drift is not None:
                    slope = (item.drift.after - item.drift.before) / max(item.drift.end - 1 - item.drift.begin, 1)
                    begin, end = max(item.drift.begin, history.first), item.drift.end
                    ends = (item.drift.after - slope * (end - 1 - begin), item.drift.after)
                xs += [begin + 0.5, end + 0.5, None]
                ys += [*rounded(ends), None]
            line = {"color": NEUTRAL_COLOUR, "width": 2.6, "dash": dash}
            panels.add(index, x=xs, y=ys, mode="lines", line=line, legendgroup=name, **marks)
    panels.add(
        index,
        x0=history.first + 1,
        dx=1,
        y=rounded(values),
        customdata=_half_intervals(course, history.first),
        mode="lines+markers",
        line={"color": _RUN, "width": 1},
        marker={"color": CANDIDATE_COLOUR, "size": 5 if len(values) <= FEW else 3},
        hovertemplate=f"{_value_hover(course.metric, 'y', 'customdata')}<extra></extra>",
        legendgroup="run",
        showlegend=False,
    )
    for name, mark in _STEPS.items():
        steps = [
            item.change
            for item in course.changes
            if item.is_worse is (name == "got worse") and item.change.index >= history.first
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
    far = [i for i in course.segmentation.outliers if i >= history.first]
    if far:
        x, y = [i + 1 for i in far], rounded(course.values[far])
        panels.add(index, x=x, y=y, mode="markers", marker=_OUTLIER, legendgroup="outlier", **marks)


def _half_intervals(course: MetricTrend, first: int) -> list[float | str]:
    """Half of the 95 % interval of each run's own value, from within the run; ``?`` where it is not known.

    Requests of which none failed tell no scatter: that is not known either, and no interval of width 0.
    """
    errors = (error if math.isfinite(error) and error > 0.0 else None for error in course.errors[first:])
    return [float(f"{1.96 * error:.2g}") if error is not None else "?" for error in errors]


def _value_hover(metric: Metric, value: str, reach: str) -> str:
    """A line of a hover box: ``p95 latency 147 ± 1.2 ms``, from the named parts of a trace."""
    unit = {"1/s": "/s"}.get(metric.unit, f" {metric.unit}")
    return f"{metric.title} %{{{value}}} ± %{{{reach}}}{unit}"


def _ticks(history: History, most: int = 5) -> dict[int, str]:
    """A few runs at about equal distances, by index, with their date; where it is not known, their number."""
    first, count = history.first, len(history.runs)
    indices = np.unique(np.linspace(first, count - 1, min(most, count - first)).round().astype(int)).tolist()
    dates = {i: history.runs[i].started_at for i in indices}
    return {i: f"run {i + 1}" if at is None else f"{at.day} {at:%b}<br>{at:%Y}" for i, at in dates.items()}


MOST_ROWS = 60
ROW, TOP, BOTTOM = 50, 40, 52  # pixels
UNITS = 200  # of height in a row: whole numbers are short, and a report of 6 MB has little room for numbers
MIDDLE, HALF = -40, 56  # of the line in its row, from the middle of the row; the name stands above it
MOST_SHEET_POINTS = 20_000  # of all services together
LEAST_ROW_PCT, MOST_ROW_PCT = 2.0, 100.0  # percent, or percentage points, that half a row may stand for
GROUND = "rgba(128,136,150,0.09)"


def services(history: History, *, metric: str | None = None) -> go.Figure:
    """One metric of every service over the runs, all around their newest level and on one scale."""
    history = _part(history, None, metric)
    # The metric that was asked for, else p95 latency, else the first that is known
    measure = history.metric or (Metric.P95 if Metric.P95 in history.metrics else next(iter(history.metrics), None))
    all_courses = [history.metric_trend(name, measure) for name in history.services] if measure is not None else []
    most = max(2, min(MOST_ROWS, MOST_SHEET_POINTS // max(len(history.runs) - history.first, 1)))
    courses = [course for course in all_courses if course is not None][:most]
    if measure is None or len(courses) < 2:
        return sentence("There are no two services to be set side by side.", is_empty=len(history.services) == 1)
    parts = [_around_level(course, course.values[history.first :]) for course in courses]
    sizes = np.abs(np.concatenate(parts))
    sizes = sizes[np.isfinite(sizes)]  # nearly every value has room, single spikes are cut off
    scale = float(np.clip(np.quantile(sizes, 0.985) if sizes.size else LEAST_ROW_PCT, LEAST_ROW_PCT, MOST_ROW_PCT))
    runs = [f"run {i + 1}, {_run_name(history.runs[i], '<br>')}" for i in range(history.first, len(history.runs))]
    panels = Panels([""], row=ROW * len(courses), top=TOP, bottom=BOTTOM)
    for row, (course, part) in enumerate(zip(courses, parts, strict=True)):
        if row % 2 == 0:
            area = {"y0": (0.5 - row) * UNITS, "y1": (-0.5 - row) * UNITS, "yref": "y"}
            area |= {"x0": 0, "x1": 1, "xref": "paper", "layer": "below"}
            panels.shape(type="rect", fillcolor=GROUND, line={"width": 0}, **area)
        _sheet_row(panels, course, history, part, scale, row, runs)
    unit = "pp" if measure is Metric.ERROR_RATE else "%"
    title = f"{measure.title}; row height: ±{format_number(round(scale, 1))} {unit}"
    panels.text(title, x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=8)
    tick_texts = _ticks(history)
    beside = len(runs) / 2000.0  # the hover of a run that has a tick would tell the tick's text instead of the run
    panels.axis(
        "x",
        type="category",
        categoryorder="array",
        categoryarray=runs,
        range=[-0.7, len(runs) - 0.3],
        tickvals=[i - history.first + beside for i in tick_texts],
        ticktext=list(tick_texts.values()),
        showgrid=False,
        title={"text": "one step per run, oldest first"},
    )
    panels.axis("y", range=[(0.5 - len(courses)) * UNITS, 0.5 * UNITS], visible=False, fixedrange=True)
    alt = f"{measure.title} of {len(courses)} services over {len(runs)} runs, most telling first."
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
    panels: Panels, course: MetricTrend, history: History, part: Floats, scale: float, row: int, runs: list[str]
) -> None:
    """One service: its values as a thin line, its levels as bold ones, the newest in the colour of the last change.

    Its name stands at the left, the newest level and the change that led to it at the right.
    """

    def heights(values: Floats) -> Floats:
        pixels: Floats = np.round(MIDDLE - UNITS * row + HALF * np.clip(values / scale, -1.0, 1.0))
        return pixels

    says = _value_hover(course.metric, "customdata", "text")
    panels.add(
        x0=runs[0],
        dx=1,
        y=[int(y) if np.isfinite(y) else None for y in heights(part)],
        customdata=rounded(course.values[history.first :]),
        text=_half_intervals(course, history.first),
        mode="lines+markers",
        line={"width": 1, "color": "rgba(43,127,212,0.45)"},
        marker={"size": 2.5, "color": CANDIDATE_COLOUR},
        hovertemplate=f"{label(course.service)}<br>%{{x}}<br>{says}<extra></extra>",
    )
    last = course.changes[-1] if course.changes and course.changes[-1].change.index >= history.first else None
    verdict = Verdict.REGRESSION if last is not None and last.is_worse else Verdict.IMPROVEMENT
    for stretch in course.levels:
        if stretch.end > history.first:
            drift = stretch.drift
            ends = (stretch.value, stretch.value) if drift is None else (drift.before, drift.after)
            newest = stretch is course.now and last is not None
            panels.add(
                x=[runs[max(stretch.begin - history.first, 0)], runs[stretch.end - 1 - history.first]],
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


def calendar(history: History) -> go.Figure:
    """A square per day with runs, weeks from left to right; days on which an event began have its colour and symbol."""
    days, events = by_day(history)
    if not days:
        return sentence("The runs do not say when they were made, so there is no calendar.")
    kinds: dict[str, list[date]] = {}
    for day_of, runs in days.items():
        happened = events.get(day_of, [])
        unacknowledged = [event for event in happened if not history.is_acknowledged(event)]
        valid = any(history.runs[i].valid for i in runs)
        otherwise = "acknowledged" if happened else "runs" if valid else "invalid"
        kind = EVENT_WORDS[unacknowledged[-1].kind] if unacknowledged else otherwise
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
        f"Calendar from {min(days)} to {max(days)}: {len(days)} days with runs, {len(history.shown_events)} events.",
        margin={"l": 44, "r": 14, "t": 62, "b": 40},
    )


# What objects offer --------------------------------------------------------------------------------------------------


def _drawable(
    measured: Measured, candidate: Sequence[Run], service: Services
) -> tuple[Sequence[Run], Sequence[Run], tuple[str, ...]]:
    """Both sides, and the services of which requests can be drawn."""
    before, after = sides_of(measured, candidate)
    names = (name for name in _services(measured, candidate, service) if requests_of_all((*before, *after), name))
    return before, after, tuple(names)[:MOST_SERVICES]


def _services(measured: Measured, candidate: Sequence[Run], service: Services) -> tuple[str, ...]:
    """The services that are asked for; of a comparison those with a regression first, then with an improvement."""
    names = service_names(*sides_of(measured, candidate))
    if isinstance(measured, Comparison):
        order = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE, Verdict.INVALID)
        ranked = sorted(measured.findings, key=lambda finding: order.index(finding.verdict))
        names = tuple(dict.fromkeys([*(finding.service for finding in ranked), *names]))
    return names if service is None else _chosen(service, names)


def _chosen(service: str | Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The services, each of which must be among ``names``; ``ValueError`` names the nearest."""
    chosen = (service,) if isinstance(service, str) else tuple(service)
    for name in chosen:
        if name not in names:
            there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"service: {name!r} is not among these{did_you_mean(name, names)}; there are {there}")
    return chosen


def _part(history: History, service: Services, metric: str | None) -> History:
    shown = history.metric_trends
    if service is not None:
        shown = tuple(c for name in _chosen(service, history.services) for c in shown if c.service == name)
    if metric is None:
        return replace(history, metric_trends=shown)
    only = Metric(metric)
    return replace(history, metric_trends=tuple(c for c in shown if c.metric is only), metric=only)


class RunsPlots(Accessor):
    """Figures of runs: ``runs.plot.latency()``."""

    latency = of_subject(latency)
    percentiles = of_subject(percentiles)
    timeline = of_subject(timeline)
    runs = of_subject(runs)


class ComparisonPlots(RunsPlots):
    """Figures of a comparison: ``comparison.plot.forest()``."""

    forest = of_subject(forest)


class BaselinePlots(RunsPlots):
    """Figures of a baseline: ``perfkit.baseline("shop@rolling").plot.latency()``."""

    detectable_change = of_subject(detectable_change)


class HistoryPlots(Accessor):
    """Figures of a history: ``history.plot.trend()``."""

    trend = of_subject(trend)
    services = of_subject(services)
    calendar = of_subject(calendar)


class CapacityPlots(Accessor):
    """Figures over load: ``perfkit.capacity(...).plot.load()``."""

    load = of_subject(load)
    changes_by_load = of_subject(changes_by_load)
