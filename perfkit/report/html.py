"""What a cell of a notebook shows besides a figure: pieces of escaped HTML, and the tables in them.

perfkit's own report has one style sheet for the whole page.  Everywhere else (JupyterLab, a stock nbconvert, mail) the
style is inlined, with colours that can be read on a light and on a dark page, because a front end keeps no style sheet.
The kernel of a report imports this module at its start (`show_as_report`), so it is light.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from perfkit.model.codec import dump_json, encode
from perfkit.model.errors import SettingsError
from perfkit.model.files import atomic_write
from perfkit.model.records import Verdict
from perfkit.report.formatting import CANDIDATE_COLOUR, VERDICT_COLOURS, VERDICT_SYMBOLS, clean

if TYPE_CHECKING:
    import jinja2

    from perfkit.report.findings import Column, Row

PLOTLY = "application/vnd.plotly.v1+json"  # the type under which a cell's output holds a figure
EMPTY = "pk-quiet pk-empty"  # classes of an output that has nothing to show: the report leaves its section out
CANNOT_SAY = "~ cannot be said from these runs."
Options = ParamSpec("Options")
Shown = TypeVar("Shown")


@dataclass(frozen=True, slots=True)
class Html:
    """A piece of finished, escaped HTML, with the same in plain words for a terminal."""

    html: str
    text: str = ""

    def _repr_html_(self) -> str:
        return inlined(self.html)

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perfkit.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template of ``perfkit/report/templates``; every value is escaped."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _style() -> str:
    return render("inline.css", colours=VERDICT_COLOURS)


def inlined(html: str) -> str:
    """The piece with its style in ``style`` attributes, and without its classes' style sheet."""
    import css_inline

    inliner = css_inline.CSSInliner(load_remote_stylesheets=False)
    piece: str = inliner.inline_fragment(f'<div class="pk">{html}</div>', _style())
    return piece


def note(text: str) -> Html:
    """One remark."""
    from markupsafe import escape

    return Html(f'<p class="pk-note">{escape(text)}</p>', text=text)


def empty(text: str) -> Html:
    """A remark that there is nothing to show: the report leaves its section out."""
    from markupsafe import escape

    return Html(f'<p class="{EMPTY}">{escape(clean(text))}</p>', text=text)


def banner(
    word: str,
    sentences: Sequence[str],
    basis: str,
    *,
    verdict: Verdict | None = None,
    kind: str = "",
    colour: str = CANDIDATE_COLOUR,
    symbol: str = "",
    title: str | None = None,
    reasons: Sequence[str] = (),
    next_step: str = "",
    label: str = "answer",
    text: str = "",
) -> Html:
    """An answer: a few large words, sentences, what to do next, and what it rests on.

    ``kind`` ends the name of its class of style; this, colour and symbol are those of the verdict where there is one.
    ``label`` says what it is to people who cannot see it, ``text`` what a terminal shows instead of ``word``.
    """
    if verdict is not None:
        kind, colour, symbol = verdict.value, VERDICT_COLOURS[verdict], VERDICT_SYMBOLS[verdict]
    html = render(
        "banner.html.j2",
        word=word,
        # No line ends between a number and its unit
        sentences=[re.sub(r"(?<=\d) (?=%|pp\b)", "\N{NO-BREAK SPACE}", sentence) for sentence in sentences],
        basis=basis,
        kind=kind,
        label=label,
        colour=colour,
        symbol=symbol,
        title=title or "",
        reasons=reasons,
        next_step=next_step,
    )
    return Html(html, text="\n".join(part for part in (text or word, *sentences, next_step) if part))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table; its text is escaped, and one symbol may stand before it."""

    text: str
    css: str = ""
    strong: bool = False
    code: bool = False
    symbol: str = ""
    link: str = ""
    tag: str = ""
    mark: str = ""  # what a star behind it means
    notes: Sequence[str] = ()  # texts of notes below the table; empty ones have none
    below: str = ""  # a second line


@dataclass(frozen=True, slots=True)
class HtmlRow:
    """The cells of a row; plain text where a cell is nothing else."""

    cells: Sequence[Cell | str]
    css: str = ""


def html_table(
    label: str,
    columns: Sequence[str | Column],
    rows: Sequence[HtmlRow | Sequence[Cell | str]] | Mapping[str, Sequence[HtmlRow | Sequence[Cell | str]]],
    *,
    below: str = "",
    anchor: str = "note",
    verdicts: bool = False,
    empty: str = "",
) -> str:
    """A table as HTML, ``below`` it a sentence; ``empty`` stands there instead when it has no rows.

    ``label`` says what it is to people who cannot see it.  Columns whose titles begin with ``>`` are aligned right.
    Rows may be those below the name of each group; with ``verdicts`` they are coloured.  ``anchor`` begins the
    names of its notes, which must be unique on a page.
    """
    plain = [
        {"title": one.lstrip(">"), "right": one.startswith(">"), "hint": ""} if isinstance(one, str) else one
        for one in columns
    ]
    groups: dict[str, list[tuple[str, list[Cell]]]] = {}
    notes: dict[str, int] = {}  # in the order in which they are first needed
    for group, members in (rows if isinstance(rows, Mapping) else {"": rows}).items():
        for row in members:
            of = row if isinstance(row, HtmlRow) else HtmlRow(row)
            cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in of.cells]
            for text in (text for cell in cells for text in cell.notes if text):
                notes.setdefault(text, len(notes) + 1)
            groups.setdefault(group, []).append((of.css, cells))
    return render(
        "table.html.j2",
        label=label,
        columns=plain,
        groups=groups,
        below=below,
        notes=notes,
        anchor=anchor,
        verdicts=verdicts,
        empty=empty,
    )


def verdict_row(row: Row, names: Sequence[str], mark: str = "") -> HtmlRow:
    """A judged row: its verdict in colour, its warnings as notes; ``mark`` is what a star behind a gating one means."""
    cells: dict[str, Cell | str] = {
        **row.cells,
        "metric": Cell(row.cells["metric"], mark=mark if row.gating else "", notes=row.warnings),
        "verdict": Cell(row.cells["verdict"][2:], css=f"pk-v pk-{row.verdict.value}", symbol=row.cells["verdict"][0]),
        "change": Cell(row.cells["change"], strong=True),
    }
    return HtmlRow([cells[name] for name in names], css=f"pk-row-{row.verdict.value}")


class Accessor:
    """The figures or tables of one object; `of_subject` makes methods of the functions that draw them."""

    def __init__(self, subject: Any) -> None:
        self.subject = subject

    def __repr__(self) -> str:
        names = [name for name in dir(self) if not name.startswith("_") and name != "subject"]
        return f"{(type(self).__doc__ or '').split()[0].lower()}: {', '.join(f'.{name}()' for name in names)}"


def of_subject(
    function: Callable[Concatenate[Any, Options], Shown],
) -> Callable[Concatenate[Accessor, Options], Shown]:
    """A method of an `Accessor` that hands its object to the function, first of all."""

    @wraps(function)
    def method(accessor: Accessor, /, *values: Options.args, **options: Options.kwargs) -> Shown:
        return function(accessor.subject, *values, **options)

    signature = inspect.signature(function)
    first, *others = signature.parameters.values()
    itself = first.replace(name="self", annotation=first.empty)
    method.__signature__ = signature.replace(parameters=[itself, *others])  # type: ignore[attr-defined]
    return method


def show_as_report() -> None:
    """Make this kernel hand out figures as data and pieces of HTML without inlined style, as the report needs them.

    The report draws figures with one embedded plotly.js; what plotly itself chooses inside papermill is a renderer
    whose figures nbconvert drops.  `perfkit.report.notebook` calls this when a kernel starts; nobody else needs to.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        formatters = shell.display_formatter
        formatters.ipython_display_formatter.for_type_by_name("plotly.graph_objs._figure", "Figure", _publish)
        formatters.formatters["text/html"].for_type(Html, lambda piece: piece.html)


def _publish(figure: Any) -> None:
    # plotly's own renderer of this kind first imports nbformat, for its version number: 0.5 to 2 s per notebook.
    from IPython.display import publish_display_data

    meta = figure.layout.meta or {}
    text = meta.get("note")
    if text is not None and not figure.data:
        bundle = {"text/html": (empty if meta.get("empty") else note)(text).html, "text/plain": text}
    else:
        is_of_perfkit = type(figure).__module__.startswith("perfkit.")
        bundle = (
            figure._repr_mimebundle_()
            if is_of_perfkit
            else {PLOTLY: json.loads(figure.to_json()), "text/plain": "chart"}
        )
    publish_display_data(bundle)  # type: ignore[no-untyped-call]


def write_result(result: Any, path: str | Path) -> None:
    """Write a result as JSON: an object with ``to_dict()``, or a mapping.  What is infinite or unknown is ``null``."""
    if not isinstance(path, str | Path):
        raise SettingsError(f"result: expected the path of a file, got {path!r}")
    document = result if isinstance(result, Mapping) else result.to_dict()
    atomic_write(Path(path), dump_json(encode(document)))
