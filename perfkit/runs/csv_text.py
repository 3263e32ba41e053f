"""CSV as load-test tools write it, and as spreadsheets and editors write it again.

A spreadsheet changes the separator (and may name it in a first line ``sep=;``), the encoding (UTF-16), the line ends (a
lone carriage return), and writes decimals with a comma.  What has one meaning is read; the rest is refused by cell.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.model.errors import ReadError

SEPARATORS = ",;\t|"
HEAD_BYTES = 8192  # enough for a header line in any encoding
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEP_LINE = re.compile(r"\s*\"?sep=(.)\"?[^\S\n]*(?:\n|$)", re.IGNORECASE)
_WITH_COMMA = re.compile(r"-?[\d.\s]*\d,\d+(?:[eE][+-]?\d+)?")  # 23,4 and 1.234,5
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # 1,234 and 1,234.5
_DATE = re.compile(r"(?i)\d{1,2}[./-]\s?(?:\d{1,2}|[a-z]{3})\w*[./-]?(?:\s?\d{2,4})?|[a-z]{3}\.?[ -]\d{2}")


@dataclass(frozen=True, slots=True)
class Line:
    """One record: the number of the line on which it ends, and its cells."""

    number: int
    cells: list[str]


def decoded(content: bytes) -> str:
    """The text of a file, with line ends as ``\\n``; bytes that its encoding does not have are replaced.

    Names in the wild hold bytes of other encodings: a replacement character is better than losing the file.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:HEAD_BYTES]:  # UTF-16 of a program that writes no mark
        odd, even = content[1:HEAD_BYTES:2].count(0), content[:HEAD_BYTES:2].count(0)
        encoding = "utf-16-le" if odd >= even else "utf-16-be"
    text = content.decode(encoding or "utf-8", "replace").replace("\r\r\n", "\n").replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def header_of(path: Path) -> list[str]:
    """The titles of the first line, lower case and without white space around; empty for what is no table."""
    with path.open("rb") as file:
        text = decoded(file.read(HEAD_BYTES))
    body, separator = _separated(text)
    try:
        return _titles(next(csv.reader([body.split("\n", 1)[0]], delimiter=separator), []))
    except csv.Error:
        return []


def _titles(cells: Sequence[str]) -> list[str]:
    return [title.strip().lower() for title in cells]


def _separated(text: str) -> tuple[str, str]:
    """The text from its header on, and the separator: as ``sep=`` says, else the one that the header has most of."""
    said = _SEP_LINE.match(text)
    if said is not None:
        return text[said.end() :], said[1]
    head = text.lstrip("\n").split("\n", 1)[0]
    return text, max(SEPARATORS, key=head.count)


def read_table(path: Path, texts: Collection[str]) -> Iterator[Line]:
    """The lines of a table that are not empty, the header first; numbers have a decimal point.

    Parameters
    ----------
    texts
        Titles (lower case) of columns that hold text, in which a comma is no decimal comma.

    Raises
    ------
    ReadError
        It is no table, or has numbers that can be read in two ways.  Names file and line.
    """
    body, separator = _separated(decoded(path.read_bytes()))
    skipped = 1 if _SEP_LINE.match(decoded(path.read_bytes()[:64])) else 0
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator)
    lines: list[Line] = []
    try:
        lines += (Line(reader.line_num + skipped, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise ReadError(f"{path}: line {reader.line_num + skipped}: {error}") from error
    if lines:
        yield from _with_points(path, _without_empty_ends(lines), texts)


def _without_empty_ends(lines: list[Line]) -> list[Line]:
    """Without the empty columns that spreadsheets add on the right."""
    width = len("".join("x" if cell.strip() else " " for cell in lines[0].cells).rstrip())
    return [
        Line(line.number, line.cells[:width]) if not any(map(str.strip, line.cells[width:])) else line for line in lines
    ]


def _with_points(path: Path, lines: list[Line], texts: Collection[str]) -> Iterator[Line]:
    """The lines with a point for each decimal comma, and no separators of thousands."""
    kept = {at for at, title in enumerate(_titles(lines[0].cells)) if title in texts}
    numeric = [(line, cell.strip()) for line in lines[1:] for at, cell in enumerate(line.cells) if at not in kept]
    commas = [
        (line, cell)
        for line, cell in numeric
        if "," in cell and (_WITH_COMMA.fullmatch(cell) or _GROUPED.fullmatch(cell))
    ]
    if not commas:
        yield from lines
        return
    grouped = [cell for _, cell in commas if _GROUPED.fullmatch(cell)]
    points = [cell for _, cell in numeric if re.fullmatch(r"-?\d+\.\d+", cell)]
    is_decimal = len(grouped) < len(commas)
    if is_decimal and any(not re.fullmatch(r"-?\d{1,3}(?:\.\d{3})+", cell) for cell in points):
        line, cell = next((line, cell) for line, cell in commas if not _GROUPED.fullmatch(cell))
        raise ReadError(
            f"{path}: line {line.number}: {cell!r} has a decimal comma, {points[0]!r} a decimal point; "
            "save the file again as the tool wrote it"
        )
    if not is_decimal and not points:
        line, cell = commas[0]
        raise ReadError(
            f"{path}: line {line.number}: {cell!r} may have a decimal comma or a separator of thousands; "
            "save the file again as the tool wrote it"
        )
    for line in lines[:1]:
        yield line
    for line in lines[1:]:
        yield Line(
            line.number,
            [cell if at in kept else _with_point(cell, is_decimal=is_decimal) for at, cell in enumerate(line.cells)],
        )


def _with_point(cell: str, *, is_decimal: bool) -> str:
    text = cell.strip()
    if is_decimal and re.fullmatch(r"-?[\d.\s,]+(?:[eE][+-]?\d+)?", text):
        return re.sub(r"[.\s]", "", text).replace(",", ".")
    return text.replace(",", "") if not is_decimal and _GROUPED.fullmatch(text) else cell


def spoilt_by_spreadsheet(text: str) -> str:
    """What may have happened to a cell that is no number, as the end of a sentence; empty where nothing is known."""
    if _DATE.fullmatch(text.strip()):
        return "; a spreadsheet takes such numbers for dates: use the file as the tool wrote it"
    if text.strip().startswith("#"):
        return "; a spreadsheet writes this for what it could not show: use the file as the tool wrote it"
    return ""
