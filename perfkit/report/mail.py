"""A message as the body of an e-mail: HTML without script, style sheet or remote images, and the same as plain text.

Its tables are those of the notebooks, with the style inlined.

Several messages make a digest.  The body stays below `LARGEST` bytes: tables are cut first, then whole results.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from perfkit.model.records import Verdict
from perfkit.report.findings import Row, Table
from perfkit.report.formatting import UNKNOWN, VERDICT_COLOURS, VERDICT_SYMBOLS, and_more, clean, shorten
from perfkit.report.html import Cell, HtmlRow, html_table, render
from perfkit.report.message import NAME, Message
from perfkit.report.png_chart import MOST_CHARTS, PngChart, charts_of

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
