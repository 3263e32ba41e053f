"""The body of an e-mail: HTML that needs neither script, style sheet nor pictures, and the same as plain text.

Pictures for messages, as PNG and drawn without a browser.

Mail readers put pictures on light and dark pages and some turn colours round: these bring their own light card.

The course of a series over its runs as a picture, with its levels; see `perfkit.history.trend`.

The effects of a comparison as a picture: each with its interval, beside what is accepted.

Which charts a message shows.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    format_change,
    format_interval,
    format_value,
    shorten,
)
from perfkit.report.html import render
from perfkit.report.message import MOST_ROWS, Happening, Notice, Row, Table, Telling, notice_of, row_verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 500  # CSS pixels; drawn finer
_DPI = 168
_INCH = 96.0  # CSS pixels
CARD, INK, SOFT, GRID = "#fbfbfa", "#24292f", "#5d6570", "#dfe2e6"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.facecolor": CARD,
    "figure.facecolor": CARD,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "axes.unicode_minus": False,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart: PNG bytes, their size in CSS pixels, and in words what they show."""

    png: bytes
    width: int
    height: int
    alt: str


def drawn_picture(height: int, alt: str, draw: Callable[[Figure], None]) -> Picture:
    """What ``draw`` draws on an empty card of that height in CSS pixels."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # names in scripts that the font lacks: boxes do
        figure = Figure(figsize=(WIDTH / _INCH, height / _INCH), dpi=_DPI)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches=None, metadata={"Software": None})
    return Picture(buffer.getvalue(), WIDTH, height, alt)


def tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Lines behind the marks along one axis, and no frame."""
    axes.grid(axis=grid, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


_PLOT = 150  # CSS pixels


def course_picture(course: Mapping[str, Any]) -> Picture:
    """Runs as dots, levels as lines, the newest level in the colour of what led to it."""
    height = _PLOT + 62
    return drawn_picture(height, _course_alt(course), lambda figure: _draw_course(figure, course, height))


def _draw_course(figure: Figure, course: Mapping[str, Any], height: int) -> None:
    metric, values = Metric(course["metric"]), course["values"]
    axes = figure.add_axes((58 / WIDTH, 30 / height, (WIDTH - 58 - 14) / WIDTH, _PLOT / height))
    figure.text(10 / WIDTH, 1 - 18 / height, _course_title(course), weight="bold", va="center")
    xs = [i for i, value in enumerate(values) if value is not None]
    axes.plot(xs, [values[i] for i in xs], "o", color="#8b95a1", markersize=3.2, markeredgewidth=0)
    last = len(course["levels"]) - 1
    for number, (begin, end, value) in enumerate(_levels(course)):
        colour = _level_colour(course, number) if number == last else SOFT
        axes.plot([begin - 0.5, end - 0.5], [value, value], color=colour, linewidth=2.6, solid_capstyle="butt")
        if number:
            axes.axvline(begin - 0.5, color=colour, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlim(-1.0, len(values))
    axes.set_ylim(*_range([values[i] for i in xs], metric))
    _days(axes, course["started_at"])
    axes.set_ylabel(metric.unit, fontsize=9)
    axes.tick_params(length=0, labelsize=8.5)
    tidy(axes, "y")


def _levels(course: Mapping[str, Any]) -> Iterator[tuple[int, int, float]]:
    """By place in the picture."""
    first = course["first_index"]
    for part in course["levels"]:
        yield max(part["begin"] - first, 0), part["end"] - first, part["value"]


def _level_colour(course: Mapping[str, Any], number: int) -> str:
    if number == 0:
        return CANDIDATE_COLOUR
    before, after = (course["levels"][i]["value"] for i in (number - 1, number))
    worse = (after - before) * Metric(course["metric"]).worse > 0
    return VERDICT_COLOURS[Verdict.REGRESSION if worse else Verdict.IMPROVEMENT]


def _range(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """All values; from zero for error rates, where most are."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if metric is Metric.ERROR_RATE else low - room), high + room


def _days(axes: Axes, started_at: Sequence[str | None]) -> None:
    """At most five days below the runs, times where all are of one day; numbers of runs where no time is known."""
    step = max(math.ceil(len(started_at) / 5), 1)
    places = range(0, len(started_at), step)
    times = [datetime.fromisoformat(text) if (text := started_at[i]) else None for i in places]
    one_day = len({at.date() for at in times if at is not None}) == 1 < len(times)
    form = "{0:%H:%M}" if one_day else "{0.day} {0:%b}"
    axes.set_xticks(
        list(places), [form.format(at) if at else f"run {i + 1}" for i, at in zip(places, times, strict=True)]
    )


def _course_title(course: Mapping[str, Any]) -> str:
    levels = [part["value"] for part in course["levels"]]
    metric = course["metric"]
    change = " → ".join(format_value(metric, value) for value in levels[-2:])
    return f"{shorten(course['service'], 30)}, {Metric(metric).title}: {change}"


def _course_alt(course: Mapping[str, Any]) -> str:
    runs = sum(value is not None for value in course["values"])
    return f"Chart of {runs} runs, newest right, with their levels. {_course_title(course)}."


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
    heights = [_ROW * _panel_rows(panel) for panel in panels]
    height = sum(heights) + _BELOW * len(panels) + 40

    def draw(figure: Figure) -> None:
        top = 12.0
        for unit, panel, tall in zip(units, panels, heights, strict=True):
            place = (_LEFT / WIDTH, 1 - (top + tall) / height, (WIDTH - _LEFT - _RIGHT) / WIDTH, tall / height)
            _draw_effects(figure.add_axes(place), unit, panel)
            top += tall + _BELOW
        _legend(figure, findings, height)

    return drawn_picture(height, _effects_alt(findings, total), draw)


def _panel_rows(panel: Sequence[Finding]) -> int:
    return len(panel) + len({one.label for one in panel})


def _draw_effects(axes: Axes, unit: str, panel: Sequence[Finding]) -> None:
    reach, y, ticks, names = _reach(panel), 0.0, [], []
    axes.set_xlim(-reach, reach)
    axes.set_ylim(_panel_rows(panel) - 0.4, -0.6)
    axes.axvline(0.0, color=SOFT, linewidth=0.8)
    for service in dict.fromkeys(one.label for one in panel):
        left = (10 - _LEFT) / (WIDTH - _LEFT - _RIGHT)
        axes.text(left, y, shorten(service, 44), transform=_across(axes), weight="bold", va="center")
        for finding in (one for one in panel if one.label == service):
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
        f"{shorten(one.label, 40)} {Metric(one.metric).title} {format_change(one)} {format_interval(one)}"
        for one in worst
    )
    return f"Chart of {shown} effects with their intervals beside what is accepted. {named}".strip()


MOST_PICTURES = 3


def pictures_of(
    document: Mapping[str, Any], comparison: Comparison | None, most: int = MOST_PICTURES
) -> tuple[Picture, ...]:
    """The charts of a result, at most so many; none where it holds nothing that could be drawn."""
    history = document.get("history", {}) if comparison is not None else document
    courses = [one for one in history.get("courses", ()) if any(value is not None for value in one["values"])]
    drawn = [partial(course_picture, one) for one in courses]
    effects = most_telling(comparison.findings) if comparison is not None else ()
    if effects and comparison is not None:
        drawn.insert(1, partial(effects_picture, effects, len(comparison.findings)))
    return tuple(draw() for draw in drawn[:most])


LARGEST = 100_000  # bytes of HTML: some mail readers cut what is longer
LONGEST_SUBJECT = 120
MOST_ROWS_EACH = 8  # in the table of each of several results
MOST_WHOLE = 20  # results of a digest that are told; the rest are one line each
MOST_BRIEF = 100  # that are named at all
_FEWER = (1.0, 0.5, 0.2, 0.0)  # parts of the rows to try until the body is small enough


@dataclass(frozen=True, slots=True)
class Mail:
    """What a message says; ``pictures`` by their content id, as the HTML names them."""

    subject: str
    html: str
    text: str
    pictures: dict[str, Picture]


@dataclass(frozen=True, slots=True)
class _Section:
    """One result of the message."""

    notice: Notice
    pictures: dict[str, Picture]
    colour: str


def mail_of(tellings: Sequence[Telling], quiet: Sequence[str] = ()) -> Mail:
    """The message that tells these results, the worst first.

    ``quiet`` names scenarios of which there is nothing to tell, for a digest.
    """
    if not tellings:
        raise ValueError("tellings: at least one result, got none")
    sections = _sections(tellings)
    names = tuple(shorten(name, 60) for name in quiet)
    pictures = {cid: picture for one in sections for cid, picture in one.pictures.items()}
    return Mail(_subject(sections), _html(sections, names), _text(sections, names), pictures)


def _sections(tellings: Sequence[Telling]) -> tuple[_Section, ...]:
    noted = sorted(((notice_of(one), one) for one in tellings), key=lambda pair: _URGENCY[pair[0].verdict])
    sections: list[_Section] = []
    room = MOST_PICTURES
    for number, (notice, telling) in enumerate(noted):
        wanted = room if len(noted) == 1 else min(room, 1)
        drawn = pictures_of(telling.result.document, telling.result.comparison, wanted)
        room -= len(drawn)
        cids = {f"chart{number + 1}-{i + 1}@perfkit": picture for i, picture in enumerate(drawn)}
        sections.append(_Section(notice, cids, VERDICT_COLOURS[notice.verdict]))
    return tuple(sections)


_URGENCY = {
    verdict: place
    for place, verdict in enumerate(
        (Verdict.REGRESSION, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.IMPROVEMENT, Verdict.NO_CHANGE)
    )
}


def _subject(sections: Sequence[_Section]) -> str:
    """Verdict, load test and what happened; of several: how many of each verdict."""
    first = sections[0].notice
    if len(sections) == 1:
        return _cut(f"{first.title}: {first.scenario}: {first.lead}")
    titles = [section.notice.title for section in sections]
    counts = ", ".join(f"{titles.count(title)} {title}" for title in dict.fromkeys(titles))
    return _cut(f"{counts} of {len(sections)} load tests: {', '.join(one.notice.scenario for one in sections)}")


def _cut(text: str) -> str:
    """The beginning, which says most."""
    line = clean(text)
    return line if len(line) <= LONGEST_SUBJECT else f"{line[: LONGEST_SUBJECT - 1].rstrip()}…"


def _html(sections: Sequence[_Section], quiet: Sequence[str]) -> str:
    import css_inline

    most = MOST_ROWS if len(sections) == 1 else MOST_ROWS_EACH
    inliner = css_inline.CSSInliner(keep_style_tags=False, load_remote_stylesheets=False)
    for part in _FEWER:
        whole = sections[: MOST_WHOLE if part else 5]
        page = render(
            "mail.html.j2",
            title=_subject(sections),
            sections=whole,
            brief=[one.notice for one in sections[len(whole) : MOST_BRIEF]],
            briefer=max(len(sections) - MOST_BRIEF, 0),
            quiet=quiet[:MOST_WHOLE],
            quieter=max(len(quiet) - MOST_WHOLE, 0),
            most_rows=int(most * part),
            verdict_of=row_verdict,
            symbols=VERDICT_SYMBOLS,
            colours=VERDICT_COLOURS,
        )
        html: str = inliner.inline(page)
        if len(html.encode()) <= LARGEST:
            break
    return html


def _text(sections: Sequence[_Section], quiet: Sequence[str]) -> str:
    most = MOST_ROWS if len(sections) == 1 else MOST_ROWS_EACH
    blocks = ["\n".join(_lines(one.notice, most)) for one in sections[:MOST_WHOLE]]
    brief = [one.notice for one in sections[MOST_WHOLE:MOST_BRIEF]]
    if brief:
        blocks.append("\n".join(_wrapped(f"* {one.scenario}: {one.title}. {one.lead}") for one in brief))
    if len(sections) > MOST_BRIEF:
        blocks.append(f"And {len(sections) - MOST_BRIEF} more load tests.")
    if quiet:
        more = f" and {len(quiet) - MOST_WHOLE} more" if len(quiet) > MOST_WHOLE else ""
        blocks.append(_wrapped(f"Nothing new: {', '.join(quiet[:MOST_WHOLE])}{more}."))
    return f"\n\n{'-' * 72}\n\n".join(blocks) + "\n\n-- \nSent by perfkit.\n"


def _lines(notice: Notice, most: int) -> Iterator[str]:
    yield f"{notice.title.upper()}: {notice.scenario}"
    yield ""
    for one in notice.happenings:
        yield from _happening(one)
    if notice.hidden:
        yield f"And {notice.hidden} more events, in the report."
    yield from (_wrapped(f"* {text}") for text in notice.remarks)
    yield ""
    yield _wrapped(f"Next: {notice.next_step}", indent="")
    for table in notice.tables:
        yield from _table(table, most // len(notice.tables))
    yield from (_wrapped(f"! {text}") for text in notice.warnings)
    if notice.place.words:
        yield ""
        yield notice.place.words
        yield from ([notice.place.link] if notice.place.link else [])
    for what, command in notice.commands:
        yield from ("", f"{what}:", f"    {command}")
    yield from ("", _wrapped(notice.basis, indent=""))


def _happening(one: Happening) -> Iterator[str]:
    tag = f"[{one.tag}] " if one.tag else ""
    yield from (_wrapped(f"* {tag}{text}") for text in one.texts)
    if one.between:
        yield _wrapped(f"  {one.between}", indent="  ")
    yield from (_wrapped(f"  - {line}", indent="    ") for line in one.commits)
    for what, command in one.commands:
        yield f"  {what}:"
        yield f"    {command}"


def _table(table: Table, most: int) -> Iterator[str]:
    yield ""
    yield f"{table.title or 'Effects'} (change [{table.level}], before -> after, accepted):"
    yield from map(_row, table.rows[:most])
    if table.total > most:
        yield f"... and {table.total - most} more, in the report and the result file."


def _row(row: Row) -> str:
    change = f"{row.change} {row.interval}".rstrip()
    limit = f", accepted {row.tolerance}" if row.tolerance else ""
    text = f"{row_verdict(row)}: {row.service}, {row.metric}: {change}, {row.before} -> {row.after}{limit}"
    return _wrapped(text, indent="    ")


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, 76, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
