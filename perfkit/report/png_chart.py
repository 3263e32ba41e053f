"""Charts for e-mail, as PNG: drawn by matplotlib, without a browser.

Mail readers put images on light and dark pages, and some invert colours: these bring their own light card.  There are
two: the history of a series with its levels (see ``courses`` of `perfkit.history.trend`), and the effects of a
comparison with their intervals beside the tolerances.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    SHORT_METRICS,
    TOLERANCE_COLOUR,
    VERDICT_COLOURS,
    VERDICT_WORDS,
    effects_reach,
    format_change,
    format_interval,
    format_value,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CHARTS = 3
MOST_EFFECTS = 10
WIDTH = 500  # CSS pixels; drawn finer
_DPI = 168
_INCH = 96.0  # CSS pixels
_PLOT = 150  # CSS pixels: height of a history
_ROW, _LEFT, _RIGHT, _BELOW = 25, 112, 76, 52  # CSS pixels, of a panel of effects
_CARD, _INK, _SOFT, _GRID = "#fbfbfa", "#24292f", "#5d6570", "#dfe2e6"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _GRID,
    "axes.facecolor": _CARD,
    "figure.facecolor": _CARD,
    "xtick.color": _SOFT,
    "ytick.color": _INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "axes.unicode_minus": False,
}
_MARKS: Mapping[Verdict, str] = {
    Verdict.REGRESSION: "X",
    Verdict.IMPROVEMENT: "*",
    Verdict.NO_CHANGE: "o",
    Verdict.INCONCLUSIVE: "D",
    Verdict.INVALID: "s",
}


@dataclass(frozen=True, slots=True)
class PngChart:
    """A chart: PNG bytes, their size in CSS pixels, and in words what they show."""

    png: bytes
    width: int
    height: int
    alt: str


def charts_of(
    document: Mapping[str, Any], comparison: Comparison | None, most: int = MOST_CHARTS
) -> tuple[PngChart, ...]:
    """The charts of a result, at most so many; none where it holds nothing that could be drawn."""
    history = document.get("history", {}) if comparison is not None else document
    series = [one for one in history.get("courses", ()) if any(value is not None for value in one["values"])]
    charts: list[Callable[[], PngChart]] = [partial(history_chart, one) for one in series]
    effects = most_decisive(comparison.findings) if comparison is not None else ()
    if effects and comparison is not None:
        charts.insert(1, partial(effects_chart, effects, len(comparison.findings)))
    return tuple(draw() for draw in charts[:most])


def _png(height: int, alt: str, draw: Callable[[Figure], None]) -> PngChart:
    """What ``draw`` draws on an empty card of that height in CSS pixels."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # names in scripts that the font lacks: boxes do
        figure = Figure(figsize=(WIDTH / _INCH, height / _INCH), dpi=_DPI)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches=None, metadata={"Software": None})
    return PngChart(buffer.getvalue(), WIDTH, height, alt)


def _tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Lines behind the marks along one axis, and no frame."""
    axes.grid(axis=grid, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def history_chart(series: Mapping[str, Any]) -> PngChart:
    """Runs as dots, levels as lines, the newest level in the colour of the change that led to it."""
    metric, values, levels = Metric(series["metric"]), series["values"], series["levels"]
    change = " → ".join(format_value(metric, level["value"]) for level in levels[-2:])
    title = f"{shorten(series['service'], 30)}, {metric.title}: {change}"
    height = _PLOT + 62

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((58 / WIDTH, 30 / height, (WIDTH - 58 - 14) / WIDTH, _PLOT / height))
        figure.text(10 / WIDTH, 1 - 18 / height, title, weight="bold", va="center")
        xs = [i for i, value in enumerate(values) if value is not None]
        axes.plot(xs, [values[i] for i in xs], "o", color="#8b95a1", markersize=3.2, markeredgewidth=0)
        for number, level in enumerate(levels):
            begin, end = max(level["begin"] - series["first_index"], 0), level["end"] - series["first_index"]
            colour = CANDIDATE_COLOUR if number == len(levels) - 1 else _SOFT
            if number and number == len(levels) - 1:
                worse = (level["value"] - levels[number - 1]["value"]) * metric.worse > 0
                colour = VERDICT_COLOURS[Verdict.REGRESSION if worse else Verdict.IMPROVEMENT]
            axes.plot(
                [begin - 0.5, end - 0.5], [level["value"]] * 2, color=colour, linewidth=2.6, solid_capstyle="butt"
            )
            if number:
                axes.axvline(begin - 0.5, color=colour, linewidth=0.8, linestyle=(0, (3, 3)))
        low, high = min(values[i] for i in xs), max(values[i] for i in xs)
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_xlim(-1.0, len(values))
        axes.set_ylim(0.0 if metric is Metric.ERROR_RATE else low - margin, high + margin)  # most error rates are zero
        _date_ticks(axes, series["started_at"])
        axes.set_ylabel(metric.unit, fontsize=9)
        axes.tick_params(length=0, labelsize=8.5)
        _tidy(axes, "y")

    runs = sum(value is not None for value in values)
    return _png(height, f"Chart of {runs} runs, newest right, with their levels. {title}.", draw)


def _date_ticks(axes: Axes, started_at: Sequence[str | None]) -> None:
    """At most five days below the runs, times where all are of one day; numbers of runs where no time is known."""
    ticks = range(0, len(started_at), max(math.ceil(len(started_at) / 5), 1))
    times = [datetime.fromisoformat(text) if (text := started_at[i]) else None for i in ticks]
    one_day = len({at.date() for at in times if at is not None}) == 1 < len(times)
    form = "{0:%H:%M}" if one_day else "{0.day} {0:%b}"
    axes.set_xticks(
        list(ticks), [form.format(at) if at else f"run {i + 1}" for i, at in zip(ticks, times, strict=True)]
    )


def most_decisive(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that can be drawn, changes first, then those nearest to one; in the order of the table."""
    drawable = [f for f in findings if f.change is not None and not f.objective and not math.isnan(f.change)]
    ranked = sorted(
        drawable,
        key=lambda f: (
            f.verdict not in (Verdict.REGRESSION, Verdict.IMPROVEMENT),
            f.verdict is not Verdict.REGRESSION,
            f.p_adjusted if f.p_adjusted is not None else 2.0,
        ),
    )[:MOST_EFFECTS]
    return tuple(finding for finding in drawable if finding in ranked)


def effects_chart(findings: tuple[Finding, ...], total: int) -> PngChart:
    """These effects, of ``total`` that there are; percent and percentage points have a panel each."""
    units = [unit for unit in ("%", "pp") if any(finding.change_unit == unit for finding in findings)]
    panels = [[finding for finding in findings if finding.change_unit == unit] for unit in units]
    heights = [_ROW * (len(panel) + len({finding.label for finding in panel})) for panel in panels]
    height = sum(heights) + _BELOW * len(panels) + 40

    def draw(figure: Figure) -> None:
        top = 12.0
        for unit, panel, tall in zip(units, panels, heights, strict=True):
            box = (_LEFT / WIDTH, 1 - (top + tall) / height, (WIDTH - _LEFT - _RIGHT) / WIDTH, tall / height)
            _draw_panel(figure.add_axes(box), unit, panel, rows=tall // _ROW)
            top += tall + _BELOW
        _legend(figure, findings, height)

    worst = [finding for finding in findings if finding.verdict is Verdict.REGRESSION][:3]
    named = "; ".join(
        f"{shorten(f.label, 40)} {Metric(f.metric).title} {format_change(f)} {format_interval(f)}" for f in worst
    )
    shown = f"{len(findings)} of {total}" if total > len(findings) else f"{total}"
    return _png(height, f"Chart of {shown} effects with their intervals beside the tolerances. {named}".strip(), draw)


def _draw_panel(axes: Axes, unit: str, panel: Sequence[Finding], rows: int) -> None:
    """Effects of one unit, below the name of their service."""
    reach = 1.1 * effects_reach(panel)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.axvline(0.0, color=_SOFT, linewidth=0.8)
    across: Any = axes.get_yaxis_transform()  # by the width of the panel, and by row
    y, ticks = 0.0, {}
    for service in dict.fromkeys(finding.label for finding in panel):
        left = (10 - _LEFT) / (WIDTH - _LEFT - _RIGHT)
        axes.text(left, y, shorten(service, 44), transform=across, weight="bold", va="center")
        for finding in (one for one in panel if one.label == service):
            y += 1.0
            ticks[y] = SHORT_METRICS.get(finding.metric, finding.metric)
            colour = VERDICT_COLOURS[finding.verdict]
            if finding.tolerance is not None:
                end = min(finding.tolerance, reach) * Metric(finding.metric).worse
                shade: Any = {"color": TOLERANCE_COLOUR, "alpha": 0.17, "linewidth": 0}
                axes.fill_between([0.0, end], y - 0.38, y + 0.38, **shade)
            if finding.ci_low is not None and finding.ci_high is not None:
                ends = [max(finding.ci_low, -reach), min(finding.ci_high, reach)]
                axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
            at = max(-reach, min(reach, finding.change or 0.0))
            mark: Any = {
                "markersize": 10 if finding.verdict is Verdict.IMPROVEMENT else 7,
                "markeredgecolor": _CARD,
                "clip_on": False,
            }
            axes.plot([at], [y], _MARKS[finding.verdict], color=colour, **mark)
            change = format_change(finding).replace(" (from zero)", "")
            axes.text(1.03, y, change, transform=across, va="center", fontsize=9)
        y += 1.0
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(length=0, labelsize=9)
    _tidy(axes, "x")
    axes.set_xlabel({"%": "change in percent of the baseline", "pp": "change in percentage points"}[unit], fontsize=9)


def _legend(figure: Figure, findings: Sequence[Finding], height: int) -> None:
    """What each mark and the shaded stretch mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    verdicts = [verdict for verdict in Verdict if any(finding.verdict is verdict for finding in findings)]
    marks: list[Any] = [
        Line2D([], [], marker=_MARKS[one], color=VERDICT_COLOURS[one], linestyle="", label=VERDICT_WORDS[one])
        for one in verdicts
    ]
    if any(finding.tolerance is not None for finding in findings):
        marks.append(Patch(color=TOLERANCE_COLOUR, alpha=0.3, linewidth=0, label="tolerance"))
    figure.legend(
        handles=marks,
        loc="lower left",
        bbox_to_anchor=(0.0, 4 / height),
        ncols=len(marks),
        frameon=False,
        fontsize=8,
        handlelength=1.3,  # five verdicts and the tolerance fit beside each other
        handletextpad=0.2,
        columnspacing=0.8,
        borderaxespad=0.0,
    )
