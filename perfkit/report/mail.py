"""A message as the body of an e-mail: HTML without script, style sheet or remote images, and the same as plain text.

Its tables are those of the notebooks, with the style inlined; its charts are PNG, drawn by matplotlib without browser.
Mail readers put images on light and dark pages, and some invert colours: charts bring their own light card.  There are
two: the history of a series with its levels (see ``courses`` of `perfkit.history.trend`), and the effects of a
comparison with their intervals beside the tolerances.

Several messages make a digest.  The body stays below `LARGEST` bytes: tables are cut first, then whole results.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.findings import Row, Table
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    SHORT_METRICS,
    TOLERANCE_COLOUR,
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    and_more,
    clean,
    effects_reach,
    format_change,
    format_interval,
    format_value,
    shorten,
)
from perfkit.report.html import Cell, HtmlRow, html_table, render
from perfkit.report.message import NAME, Message

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 100_000  # bytes of HTML: some mail readers cut what is longer
LONGEST_SUBJECT = 120
MOST_ROWS = 24  # of the tables of a single result
MOST_QUIET = 12  # rows, where nothing changed
MOST_QUIET_DETAILS = 5  # of objectives and errors
MOST_ROWS_EACH = 8  # of the tables of each of several results
MOST_WHOLE = 20  # results of a digest that are shown whole; the rest are one line each
MOST_BRIEF = 100  # that are named at all
# Regressions first, then what could not be judged or made
_ORDER = (Verdict.REGRESSION, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.IMPROVEMENT, Verdict.NO_CHANGE)
_FEWER = (1.0, 0.5, 0.2, 0.0)  # parts of the rows to try until the body is small enough


@dataclass(frozen=True, slots=True)
class Mail:
    """Subject and body; ``charts`` by their content id, as the HTML names them."""

    subject: str
    html: str
    text: str
    charts: Mapping[str, PngChart]


@dataclass(frozen=True, slots=True)
class _Section:
    """One message of the e-mail."""

    message: Message
    charts: Mapping[str, PngChart]
    colour: str

    @property
    def name(self) -> str:
        return shorten(self.message.scenario, NAME) or "a load test"


def mail_of(messages: Sequence[Message], quiet: Sequence[str] = ()) -> Mail:
    """The e-mail with these messages, the worst first.

    ``quiet`` names scenarios in which there is nothing new, for a digest.
    """
    if not messages:
        raise ValueError("messages: at least one, got none")
    sections: list[_Section] = []
    left = MOST_CHARTS
    for number, message in enumerate(
        sorted(messages, key=lambda item: _ORDER.index(item.verdict) if item.verdict in _ORDER else 1), start=1
    ):
        most = left if len(messages) == 1 else min(left, 1)
        result = message.result
        if message.verdict is Verdict.INVALID:  # numbers that nobody should believe are not mailed
            message, result = replace(message, tables=()), None
        charts = charts_of(result.document, result.comparison, most) if result is not None else ()
        left -= len(charts)
        named = {f"chart{number}-{i}@perfkit": chart for i, chart in enumerate(charts, start=1)}
        colour = VERDICT_COLOURS[message.verdict if isinstance(message.verdict, Verdict) else Verdict.INVALID]
        sections.append(_Section(message.brief(), named, colour))
    names = tuple(shorten(name, NAME) for name in quiet)
    all_charts = {cid: chart for section in sections for cid, chart in section.charts.items()}
    return Mail(_subject(sections), _html(sections, names), _text(sections, names), all_charts)


def subject_line(text: str) -> str:
    """The beginning, which says most, on one line."""
    line = clean(text)
    return line if len(line) <= LONGEST_SUBJECT else f"{line[: LONGEST_SUBJECT - 1].rstrip()}…"


def _subject(sections: Sequence[_Section]) -> str:
    """Verdict, load test and what happened; of several: how many of each verdict."""
    first = sections[0]
    if len(sections) == 1:
        return subject_line(f"{first.message.title}: {first.name}: {first.message.lead}")
    titles = [section.message.title for section in sections]
    counts = ", ".join(f"{titles.count(title)} {title}" for title in dict.fromkeys(titles))
    return subject_line(f"{counts} of {len(sections)} load tests: {', '.join(section.name for section in sections)}")


def _html(sections: Sequence[_Section], quiet: Sequence[str]) -> str:
    import css_inline
    from markupsafe import Markup

    most = MOST_ROWS if len(sections) == 1 else MOST_ROWS_EACH
    inliner = css_inline.CSSInliner(keep_style_tags=False, load_remote_stylesheets=False)
    for part in _FEWER:
        whole = sections[: MOST_WHOLE if part else 5]
        page = render(
            "mail.html.j2",
            title=_subject(sections),
            sections=whole,
            brief=sections[len(whole) : MOST_BRIEF],
            briefer=max(len(sections) - MOST_BRIEF, 0),
            quiet=quiet[:MOST_WHOLE],
            quieter=max(len(quiet) - MOST_WHOLE, 0),
            most_rows=int(most * part),
            table_of=lambda table, most: Markup(_table(table, most)),
            detail_of=lambda table, most: Markup(
                _stacked(table, rows := _detail_rows(table, most), _more_details(table, rows))
            ),
            symbols=VERDICT_SYMBOLS,
            colours=VERDICT_COLOURS,
        )
        html: str = inliner.inline(page)
        if len(html.encode()) <= LARGEST:
            break
    return html


def _text(sections: Sequence[_Section], quiet: Sequence[str]) -> str:
    most = MOST_ROWS if len(sections) == 1 else MOST_ROWS_EACH
    blocks = ["\n".join(_lines(section, most)) for section in sections[:MOST_WHOLE]]
    brief = sections[MOST_WHOLE:MOST_BRIEF]
    if brief:
        lines = (f"* {section.name}: {section.message.title}. {section.message.lead}" for section in brief)
        blocks.append("\n".join(map(_wrapped, lines)))
    if len(sections) > MOST_BRIEF:
        blocks.append(f"And {len(sections) - MOST_BRIEF} more load tests.")
    if quiet:
        blocks.append(_wrapped(f"Nothing new: {', '.join(quiet[:MOST_WHOLE])}{and_more(len(quiet) - MOST_WHOLE)}."))
    return f"\n\n{'-' * 72}\n\n".join(blocks) + "\n\n-- \nSent by perfkit.\n"


def _lines(section: _Section, most: int) -> Iterator[str]:
    message = section.message
    yield from (f"{message.title.upper()}: {section.name}", *message.sides, "")
    for statement in message.statements:
        tag = f"[{statement.tag}] " if statement.tag else ""
        yield from (_wrapped(f"* {tag}{text}") for text in statement.texts)
        if statement.between:
            yield _wrapped(f"  {statement.between}")
        yield from (_wrapped(f"  - {line}", indent="    ") for line in statement.commits)
        for what, command in statement.commands:
            yield from (f"  {what}:", f"    {command}")
    yield from ("", _wrapped(f"Next: {message.next_step}", indent=""))
    for table in message.tables:  # as a list: mail readers show plain text in proportional type
        rows = _rows(table, most // len(message.tables))
        yield ""
        interval = "".join(f" [{column.title}]" for column in table.chosen(["interval"]))
        yield f"{table.title or 'Effects'} (change{interval}, before -> after, tolerance):"
        for cells in map(_cells, rows):
            change = f"{cells['change']} {cells['interval']}".rstrip()
            limit = f", tolerance {cells['tolerance']}" if cells["tolerance"] else ""
            what = f"{cells['verdict']}: {cells['service']}, {cells['metric']}"
            yield _wrapped(f"{what}: {change}, {cells['before']} -> {cells['after']}{limit}", indent="    ")
        if table.total > len(rows):
            yield _left_out(table, rows)
    for detail in message.details:
        yield ""
        yield _wrapped(f"{detail.title}: {detail.sentence}")
        rows = _detail_rows(detail.table, most)
        yield from (_wrapped(f"  - {row.line}", indent="    ") for row in rows)
        yield from (f"  {text}" for text in [_more_details(detail.table, rows)] if text)
    yield from (_wrapped(f"! {text}") for text in message.warnings)
    if message.location.words:
        yield from ("", message.location.words)
        yield from ([message.location.link] if message.location.link else [])
    for what, command in message.commands:
        yield from ("", f"{what}:", f"    {command}")
    yield from ("", _wrapped(message.basis, indent=""))


def _rows(table: Table, most: int) -> Sequence[Row]:
    """What changed or is open, the first of it; all alike where nothing is."""
    return [row for row in table.rows if row.verdict is not Verdict.NO_CHANGE][:most] or table.rows[
        : min(most, MOST_QUIET)
    ]


def _left_out(table: Table, rows: Sequence[Row]) -> str:
    """How many rows are not here, and what they are."""
    rest, kinds = table.total - len(rows), {row.verdict for row in table.rows if row not in rows}
    what = "effects" if not rows else "more, all without regression," if kinds == {Verdict.NO_CHANGE} else "more"
    return f"{rest:,} {what} are in the report and in the result file."


def _table(table: Table, most: int) -> str:
    rows = _rows(table, most)
    # A heading for each of many services would make it twice as long
    grouped = 2 * len({row.cells["service"] for row in rows}) <= len(rows)
    return _stacked(table, rows, _left_out(table, rows) if table.total > len(rows) else "", grouped=grouped)


def _stacked(table: Table, rows: Sequence[Row], rest: str, *, grouped: bool = False) -> str:
    """A table as HTML, narrow enough for a telephone: two lines in a cell, or services above their metrics."""
    columns = [("metric", "metric", ""), *table.stacked[1:]] if grouped else table.stacked
    all_cells = list(map(_cells, rows))
    groups: dict[str, list[HtmlRow]] = {}
    for row, cells in zip(rows, all_cells, strict=True):
        line = []
        for number, (title, above, below) in enumerate(columns):
            css = "" if title.startswith(">") else "wrapped" if number else "" if grouped else "broken"
            text, symbol = cells[above], ""
            if above == "verdict":
                symbol, text, css = text[0], text[2:], f"pk-v pk-{row.verdict.value} wrapped"
            strong = above == "change" or (above == "changed" and row.verdict is not Verdict.NO_CHANGE)
            line.append(Cell(text, css=css, symbol=symbol, strong=strong, below=cells.get(below, "")))
        group = cells["service"] if grouped else ""
        groups.setdefault(group, []).append(HtmlRow(line, css=f"pk-row-{row.verdict.value}"))
    titles = [
        title if any(cells.get(below) for cells in all_cells) else title.partition(",")[0]
        for title, _, below in columns
    ]
    return html_table(table.title or "effects", titles, groups, below=rest, verdicts=True, empty=rest)


def _detail_rows(table: Table, most: int) -> Sequence[Row]:
    """What is exceeded, open, new or more, which comes first, and a few of the others."""
    return table.rows[
        : min(most, max(MOST_QUIET_DETAILS, sum(row.verdict is not Verdict.NO_CHANGE for row in table.rows)))
    ]


def _more_details(table: Table, rows: Sequence[Row]) -> str:
    return f"{table.total - len(rows)} more are in the report." if table.total > len(rows) else ""


def _cells(row: Row) -> dict[str, str]:
    """Cells with short names; empty instead of ``~`` where a line has no room to say that nothing is known."""
    cells = {
        name: "" if text == UNKNOWN and name in ("interval", "tolerance") else text for name, text in row.cells.items()
    }
    names = {name: shorten(cells[name], NAME) for name in ("service", "name") if name in cells}
    return cells | names | {"tolerance": clean(cells.get("tolerance", ""))}


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, 76, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# Charts --------------------------------------------------------------------------------------------------------------

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
    named = "; ".join(f"{shorten(f.label, 40)} {f.title} {format_change(f)} {format_interval(f)}" for f in worst)
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
