"""The chart of the verdict: every effect with its interval, its tolerance and its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.render.drawing import Drawing
from perfkit.render.page import Note
from perfkit.render.theme import (
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
    layout,
    shorten,
)

_ROW = 24  # pixels
MOST_SERVICES = 15  # all are in the table
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


def forest(comparison: Comparison) -> go.Figure | Note:
    """Every effect with its interval: left of zero is less than the baseline, right of it more.

    Percent and percentage points have a panel each.  The tolerance is the shaded stretch on the worse side of each row:
    a regression's mark lies beyond it, *no regression* has its whole interval short of its end.  An arrow says that an
    interval goes on beyond the axis.  A finding without an estimate has a row which says so.
    """
    telling = _most_telling(comparison.findings)
    panels = [panel for unit in ("%", "pp") if (panel := _panel(comparison.findings, unit, telling)) is not None]
    if not panels:
        return Note("There is no effect to draw: no metric of any service was compared.")
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
        nearest[finding.service] = min(nearest.get(finding.service, rank), rank)
    return frozenset(sorted(nearest, key=lambda name: nearest[name])[:MOST_SERVICES])


def _panel(findings: Sequence[Finding], unit: str, telling: frozenset[str]) -> _Panel | None:
    every = [finding for finding in findings if finding.change_unit == unit]
    mine = [finding for finding in every if finding.service in telling]
    if not mine:
        return None
    rows: list[_Row] = []
    headers: list[tuple[str, float]] = []
    y = 0.0
    for service in dict.fromkeys(finding.service for finding in mine):
        headers.append((service, y))
        for finding in (f for f in mine if f.service == service):
            y += 1.0
            rows.append(_Row(finding, y))
        y += 1.25
    more = len({finding.service for finding in every} - telling)
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
        f"<b>{label(finding.service, 60)}</b> · {_title(finding)}",
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
    return f"{shorten(finding.service, 60)} {_title(finding)}"
