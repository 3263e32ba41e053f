"""The body of an e-mail: HTML that needs neither script, style sheet nor pictures, and the same as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfkit.model import Verdict
from perfkit.render.effect_tables import MOST_ROWS, Row, Table, row_verdict
from perfkit.render.mail_charts import MOST_PICTURES, pictures_of
from perfkit.render.notice import Happening, Notice, Telling, notice_of
from perfkit.render.page import render
from perfkit.render.picture import Picture
from perfkit.render.theme import VERDICT_COLOURS, VERDICT_SYMBOLS, clean, shorten

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
