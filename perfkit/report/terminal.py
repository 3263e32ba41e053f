"""A comparison, and one run, as text for a terminal; how any table fits into one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from perfkit.model.records import Comparison, Metric, Run, Verdict
from perfkit.report.findings import Column, Row, Table, count_text, findings_table
from perfkit.report.formatting import clean, format_value, shorten, verdict_text
from perfkit.report.sentences import footnotes, headlines, next_step

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table as RichTable

VERDICT_WIDTH = 16  # on a narrow terminal: "✓ no regression," and what its interval adds on the next line
STYLES = {
    Verdict.REGRESSION: "bold red",
    Verdict.IMPROVEMENT: "green",
    Verdict.NO_CHANGE: "default",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.INVALID: "magenta",
}
_NO_WIDTHS: Mapping[str, int] = MappingProxyType({})


def draw_table(
    table: Table,
    console: Console,
    *,
    wrapped: Collection[str] = ("service",),
    narrow_widths: Mapping[str, int] = _NO_WIDTHS,
) -> RichTable:
    """All rows; on a narrow terminal the columns that matter least are left out.

    Parameters
    ----------
    wrapped
        Columns whose text may take several lines.
    narrow_widths
        The largest width of columns on a narrow terminal.
    """
    unlimited = console.options.update_width(10_000)  # measured in the real width, nothing is ever too wide
    columns: Sequence[Column] = table.columns
    narrow = sorted({column.importance for column in columns} - {9})
    for step in (None, *([0] if narrow_widths else []), *narrow):
        columns = [column for column in columns if column.importance != step]
        drawn = _drawn(table.rows, columns, 2, wrapped, _NO_WIDTHS if step is None else narrow_widths)
        if console.measure(drawn, options=unlimited).maximum <= console.width:
            return drawn
    return _drawn(table.rows, columns, 1, wrapped, narrow_widths)


def _drawn(
    rows: Sequence[Row], columns: Sequence[Column], gap: int, wrapped: Collection[str], widths: Mapping[str, int]
) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, pad_edge=False, collapse_padding=True, padding=(0, gap), header_style="bold")
    for column in columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.name not in wrapped and column.name not in widths,
            overflow="fold" if column.name in wrapped else "ellipsis",
            min_width=8 if column.name in wrapped else None,
            max_width=widths.get(column.name),
        )
    for row in rows:
        texts = [row.cells[column.name] for column in columns]
        styles = [STYLES[row.verdict] if column.name in ("verdict", "event") else "" for column in columns]
        drawn.add_row(*(Text(text, style=style) for text, style in zip(texts, styles, strict=True)))
    return drawn


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Verdict first, then the table, then warnings and what to do."""
    from rich.text import Text

    sides = [
        count_text(len(side.runs), f"{name} run")
        for name, side in (("baseline", comparison.baseline), ("candidate", comparison.candidate))
    ]
    rule = "fixed limits, no statistics" if comparison.rule == "threshold" else f"alpha {comparison.alpha:.3g}"
    basis = f"({sides[0]}, {sides[1]}; rule {comparison.rule}: {rule})"
    console.print(Text(verdict_text(comparison.verdict), style=STYLES[comparison.verdict]), basis)
    for text in headlines(comparison):
        console.print(Text(text))
    if comparison.findings:
        console.print(comparison_table(comparison, console))
    for line in comparison.history.lines if comparison.history is not None else ():
        console.print(Text(f"History: {clean(line)}"))
    for note in footnotes(comparison):
        console.print(Text(f"! {clean(note)}", style="yellow"))
    console.print(Text(f"Next: {next_step(comparison)}"))


def comparison_table(comparison: Comparison, console: Console) -> RichTable:
    """All findings, one row each; a service is named in its first row."""
    table, rows, above = findings_table(comparison), [], None
    for row in table.rows:
        service = row.cells["service"]
        cells = {
            **row.cells,
            "service": "" if service == above else shorten(service),
            "metric": row.cells["metric_short"],
            "tolerance": clean(row.cells["tolerance"]),
        }
        rows.append(Row(cells, row.verdict))
        above = service
    shown = Table(table.columns, tuple(rows), table.total)
    return draw_table(shown, console, narrow_widths={"verdict": VERDICT_WIDTH})


def run_page(run: Run) -> Group:
    """What the run was, what its checks found, and a table of its services."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold")
    for title in ("requests", "failures", *(metric.value.removesuffix("_latency_ms") for metric in Metric)):
        table.add_column(title, justify="right")
    for name, stats in run.services.items():
        counts = ["~" if number is None else f"{number:,}" for number in (stats.count, stats.failures)]
        table.add_row(Text(clean(name)), *counts, *(format_value(metric, stats.value(metric)) for metric in Metric))
    facts = [Text(f"{name}: {clean(value)}") for name, value in _facts(run)]
    return Group(Text(clean(run.id), style="bold"), *facts, Text(""), table)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "scenario", run.scenario
    yield "started", run.started_at.isoformat(timespec="seconds") if run.started_at else "not known"
    yield "load", run.profile.describe()
    if run.duration_s is not None:
        yield "length", f"{run.duration_s:.1f} s"
    yield "tool", run.tool
    if run.target:
        yield "target", run.target
    for title, texts in (("git", run.git), ("labels", run.labels), ("environment", run.environment)):
        if texts:
            yield title, ", ".join(f"{name} {value}" for name, value in texts.items())
    yield "requests", "kept" if run.load_requests is not None else "summary only"
    yield "valid", "yes" if run.validity.ok else "no"
    for check in run.validity.problems:
        yield f"  {check.severity}", f"{check.name}: {check.value} (limit {check.limit}). {check.advice}"
