"""The effects of a comparison as a picture: each with its interval, beside what is accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfkit.model import Finding, Metric, Verdict
from perfkit.render.picture import CARD, SOFT, WIDTH, Picture, drawn_picture, tidy
from perfkit.render.theme import (
    SHORT_METRICS,
    TOLERANCE_COLOUR,
    VERDICT_COLOURS,
    VERDICT_WORDS,
    format_change,
    format_interval,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_EFFECTS = 10
_ROW, _LEFT, _RIGHT, _BELOW = 25, 112, 76, 52  # CSS pixels
_MARKS: Mapping[Verdict, str] = {
    Verdict.REGRESSION: "X",
    Verdict.IMPROVEMENT: "*",
    Verdict.NO_CHANGE: "o",
    Verdict.INCONCLUSIVE: "D",
    Verdict.INVALID: "s",
}


def most_telling(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that can be drawn, changes first, then those nearest to one; in the order of the table."""
    able = [one for one in findings if one.change is not None and not one.objective and not math.isnan(one.change)]
    ranked = sorted(
        able,
        key=lambda f: (
            f.verdict not in (Verdict.REGRESSION, Verdict.IMPROVEMENT),
            f.verdict is not Verdict.REGRESSION,
            f.p_adjusted if f.p_adjusted is not None else 2.0,
        ),
    )[:MOST_EFFECTS]
    return tuple(one for one in able if one in ranked)


def effects_picture(findings: tuple[Finding, ...], total: int) -> Picture:
    """These effects, of ``total`` that there are; percent and percentage points have a panel each."""
    units = [unit for unit in ("%", "pp") if any(one.change_unit == unit for one in findings)]
    panels = [tuple(one for one in findings if one.change_unit == unit) for unit in units]
    heights = [_ROW * _lines(panel) for panel in panels]
    height = sum(heights) + _BELOW * len(panels) + 40

    def draw(figure: Figure) -> None:
        top = 12.0
        for unit, panel, tall in zip(units, panels, heights, strict=True):
            place = (_LEFT / WIDTH, 1 - (top + tall) / height, (WIDTH - _LEFT - _RIGHT) / WIDTH, tall / height)
            _draw_effects(figure.add_axes(place), unit, panel)
            top += tall + _BELOW
        _legend(figure, findings, height)

    return drawn_picture(height, _effects_alt(findings, total), draw)


def _lines(panel: Sequence[Finding]) -> int:
    return len(panel) + len({one.service for one in panel})


def _draw_effects(axes: Axes, unit: str, panel: Sequence[Finding]) -> None:
    reach, y, ticks, names = _reach(panel), 0.0, [], []
    axes.set_xlim(-reach, reach)
    axes.set_ylim(_lines(panel) - 0.4, -0.6)
    axes.axvline(0.0, color=SOFT, linewidth=0.8)
    for service in dict.fromkeys(one.service for one in panel):
        left = (10 - _LEFT) / (WIDTH - _LEFT - _RIGHT)
        axes.text(left, y, shorten(service, 44), transform=_across(axes), weight="bold", va="center")
        for finding in (one for one in panel if one.service == service):
            y += 1.0
            ticks.append(y)
            names.append(SHORT_METRICS.get(finding.metric, finding.metric))
            _draw_effect(axes, finding, y, reach)
        y += 1.0
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0, labelsize=9)
    tidy(axes, "x")
    words = {"%": "change in percent of the baseline", "pp": "change in percentage points"}
    axes.set_xlabel(words[unit], fontsize=9)


def _across(axes: Axes) -> Any:
    """Places by the width of the panel, and by row."""
    return axes.get_yaxis_transform()


def _draw_effect(axes: Axes, finding: Finding, y: float, reach: float) -> None:
    colour = VERDICT_COLOURS[finding.verdict]
    if finding.tolerance is not None:
        end = min(finding.tolerance, reach) * Metric(finding.metric).worse
        axes.fill_between([0.0, end], y - 0.38, y + 0.38, color=TOLERANCE_COLOUR, alpha=0.17, linewidth=0)
    if finding.ci_low is not None and finding.ci_high is not None:
        ends = [max(finding.ci_low, -reach), min(finding.ci_high, reach)]
        axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    at = max(-reach, min(reach, finding.change or 0.0))
    axes.plot([at], [y], _MARKS[finding.verdict], color=colour, markersize=7, markeredgecolor=CARD, clip_on=False)
    change = format_change(finding).replace(" (from zero)", "")
    axes.text(1.03, y, change, transform=_across(axes), va="center", fontsize=9)


def _reach(panel: Sequence[Finding]) -> float:
    """Far enough for every estimate and tolerance and most interval ends; one wild interval must not flatten all."""
    sizes = [abs(f.change) for f in panel if f.change is not None and math.isfinite(f.change)]
    limits = [f.tolerance for f in panel if f.tolerance is not None]
    bounds = [max(abs(f.ci_low), abs(f.ci_high)) for f in panel if f.ci_low is not None and f.ci_high is not None]
    ends = sorted(end for end in bounds if math.isfinite(end))
    most = ends[min(len(ends) - 1, int(0.85 * len(ends)))] if ends else 0.0
    return 1.1 * max([*sizes, *limits, most, 1e-3])


def _legend(figure: Figure, findings: Sequence[Finding], height: int) -> None:
    """What each mark and the shaded stretch mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = [
        Line2D(
            [], [], marker=_MARKS[verdict], color=VERDICT_COLOURS[verdict], linestyle="", label=VERDICT_WORDS[verdict]
        )
        for verdict in Verdict
        if any(one.verdict is verdict for one in findings)
    ]
    if any(one.tolerance is not None for one in findings):
        marks.append(Patch(color=TOLERANCE_COLOUR, alpha=0.3, linewidth=0, label="accepted"))
    figure.legend(
        handles=marks,
        loc="lower left",
        bbox_to_anchor=(0.0, 4 / height),
        ncols=len(marks),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
        columnspacing=1.0,
        borderaxespad=0.0,
    )


def _effects_alt(findings: Sequence[Finding], total: int) -> str:
    shown = f"{len(findings)} of {total}" if total > len(findings) else f"{total}"
    worst = [one for one in findings if one.verdict is Verdict.REGRESSION][:3]
    named = "; ".join(
        f"{shorten(one.service, 40)} {Metric(one.metric).title} {format_change(one)} {format_interval(one)}"
        for one in worst
    )
    return f"Chart of {shown} effects with their intervals beside what is accepted. {named}".strip()
