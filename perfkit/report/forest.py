"""The forest plot of a comparison: every effect with its interval, its tolerance and its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.figure import Panels, axis, sentence
from perfkit.report.formatting import (
    NEUTRAL_COLOUR,
    SHORT_METRICS,
    TOLERANCE_COLOUR,
    VERDICT_COLOURS,
    VERDICT_MARKERS,
    VERDICT_WORDS,
    finding_text,
    format_change,
    format_interval,
    format_value,
    label,
    shorten,
)

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
    drawn = Panels([""] * len(panels), row=0, own_x=True)
    for verdict in Verdict:
        if any(finding.verdict is verdict for finding in comparison.findings):
            stroke = {"width": 2, "color": VERDICT_COLOURS[verdict]}
            marker = {"symbol": VERDICT_MARKERS[verdict], "size": 11, "color": VERDICT_COLOURS[verdict], "line": stroke}
            drawn.legend(VERDICT_WORDS[verdict], mode="markers", marker=marker)
    if any(finding.tolerance is not None for finding in comparison.findings):
        square = {"symbol": "square", "size": 12, "color": TOLERANCE_COLOUR, "opacity": 0.4}
        drawn.legend("tolerance", mode="markers", marker=square)
    if any(finding.change is None for finding in comparison.findings):
        drawn.legend(
            "no estimate", mode="markers", marker={"symbol": "line-ns-open", "size": 11, "color": NEUTRAL_COLOUR}
        )
    total = sum(panel.lines for panel in panels) + 2.4 * (len(panels) - 1)
    top = 1.0
    for index, panel in enumerate(panels):
        bottom = max(0.0, top - panel.lines / total)
        _draw(drawn, panel, index, [bottom, top])
        top = bottom - 2.4 / total
    return drawn.figure(
        _alt(comparison.findings),
        height=round(total * _ROW) + 118,
        margin={"l": 68, "r": 92, "t": 68, "b": 50},
        # A legend of entries as wide as this has two columns on a telephone, and so at most three rows.
        legend={"entrywidth": 108, "entrywidthmode": "pixels"},
    )


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


def _draw(drawn: Panels, panel: _Panel, index: int, domain: list[float]) -> None:
    """The rows of one panel: names, tolerances, intervals and marks; those of a verdict are one group of the legend."""
    x, y = f"x{axis(index)}", f"y{axis(index)}"
    drawn.axis(
        x,
        range=[-panel.reach, panel.reach],
        anchor=y,
        title={"text": _TITLES[panel.unit]},
        ticksuffix="" if panel.unit == "pp" else " %",
        nticks=7,
        zeroline=True,
    )
    drawn.axis(
        y,
        domain=domain,
        range=[panel.lines - 0.7, -0.7],
        tickvals=[row.y for row in panel.rows],
        ticktext=[SHORT_METRICS.get(row.finding.metric, row.finding.metric) for row in panel.rows],
        showgrid=False,
        zeroline=False,
        fixedrange=True,
        automargin=False,
        ticklabelstandoff=8,
    )
    for service, at in panel.headers:
        place = {"x": 0, "xref": "paper", "xshift": -64, "xanchor": "left", "y": at, "yref": y}
        drawn.text(f"<b>{label(service, 44)}</b>", font={"size": 13}, **place)
    for row in panel.rows:
        beside = format_change(row.finding).replace(" (from zero)", "")
        drawn.text(beside, x=1, xref="paper", xshift=6, xanchor="left", y=row.y, yref=y)
        limit = row.finding.tolerance
        if limit is not None:
            end = min(limit, panel.reach) * Metric(row.finding.metric).worse
            place = {"xref": x, "yref": y, "y0": row.y - 0.36, "y1": row.y + 0.36, "x1": end, "layer": "below"}
            drawn.shape(type="rect", x0=0, line={"width": 0}, fillcolor=TOLERANCE_COLOUR, opacity=0.16, **place)
            if limit <= panel.reach:
                drawn.shape(type="line", x0=end, line={"color": TOLERANCE_COLOUR, "width": 2}, **place)
    for verdict in dict.fromkeys(row.finding.verdict for row in panel.rows):
        rows = [row for row in panel.rows if row.finding.verdict is verdict]
        colour, group = VERDICT_COLOURS[verdict], {"legendgroup": VERDICT_WORDS[verdict], "showlegend": False}
        xs: list[float | None] = []
        ys: list[float | None] = []
        for row in rows:
            low, high = row.finding.ci_low, row.finding.ci_high
            if low is not None and high is not None:
                xs += [max(low, -panel.reach), min(high, panel.reach), None]
                ys += [row.y, row.y, None]
        drawn.add(index, x=xs, y=ys, mode="lines", line={"color": colour, "width": 2.5}, hoverinfo="skip", **group)
        changes = [row.finding.change for row in rows]
        drawn.add(
            index,
            x=[0.0 if change is None else max(-panel.reach, min(panel.reach, change)) for change in changes],
            y=[row.y for row in rows],
            mode="markers",
            marker={
                "symbol": ["line-ns-open" if change is None else VERDICT_MARKERS[verdict] for change in changes],
                "size": 11,
                "color": colour,
                "line": {"width": 2, "color": colour},
            },
            hovertext=[_hover(row.finding) for row in rows],
            hoverinfo="text",
            cliponaxis=False,
            **group,
        )
        ends = [(row, end, side) for row in rows for side, end in ((-1, row.finding.ci_low), (1, row.finding.ci_high))]
        beyond = [(row, side) for row, end, side in ends if end is not None and end * side > panel.reach]
        if beyond:
            symbols = ["triangle-right" if side > 0 else "triangle-left" for _, side in beyond]
            drawn.add(
                index,
                x=[side * panel.reach for _, side in beyond],
                y=[row.y for row, _ in beyond],
                mode="markers",
                marker={"symbol": symbols, "size": 9, "color": colour},
                hoverinfo="skip",
                cliponaxis=False,
                **group,
            )


def _hover(finding: Finding) -> str:
    lines = [
        f"<b>{label(finding.label, 60)}</b> · {Metric(finding.metric).title}",
        f"{finding_text(finding)}: {format_change(finding)} {format_interval(finding)}",
        f"{format_value(finding.metric, finding.baseline)} → {format_value(finding.metric, finding.candidate)}",
    ]
    if finding.limit:
        lines.append(f"tolerance: {label(finding.limit)}")
    if finding.min_detectable is not None:
        lines.append(f"these runs could show {finding.min_detectable:.3g} {finding.change_unit}")
    return "<br>".join(lines)


def _alt(findings: Sequence[Finding]) -> str:
    counts = [(verdict, sum(finding.verdict is verdict for finding in findings)) for verdict in Verdict]
    summary = ", ".join(f"{count} {VERDICT_WORDS[verdict]}" for verdict, count in counts if count)
    bad = [
        f"{shorten(finding.label, 60)} {Metric(finding.metric).title} {format_change(finding)}"
        for finding in findings
        if finding.verdict is Verdict.REGRESSION
    ]
    listed = f" Regressions: {'; '.join(bad[:5])}." if bad else ""
    return f"Effects with intervals for {len(findings)} findings: {summary}.{listed} The table below has every number."
