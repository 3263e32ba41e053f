"""A comparison, and live progress, as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from perfkit.model import Comparison, Finding, Verdict
from perfkit.render.theme import (
    SHORT_METRICS,
    clean,
    finding_text,
    format_change,
    format_interval,
    format_p,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.render.words import detectable, footnotes, headlines, limit_text, next_step, settle_short

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LEFT_OUT = ("detectable", "p", "to settle", "tolerance")  # on a narrow terminal, in this order
VERDICT_WIDTH = 16  # on a narrow terminal: "✓ no regression," and what its interval adds on the next line
STYLES = {
    Verdict.REGRESSION: "bold red",
    Verdict.IMPROVEMENT: "green",
    Verdict.NO_CHANGE: "default",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.INVALID: "magenta",
}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Verdict first, then the table, then warnings and what to do."""
    from rich.text import Text

    console.print(Text(f"{verdict_text(comparison.verdict)}", style=STYLES[comparison.verdict]), _sides(comparison))
    for text in headlines(comparison):
        console.print(Text(text))
    if comparison.findings:
        console.print(findings_table(comparison, console))
    for line in comparison.history.lines if comparison.history is not None else ():
        console.print(Text(f"History: {clean(line)}"))
    for note in footnotes(comparison):
        console.print(Text(f"! {clean(note)}", style="yellow"))
    console.print(Text(f"Next: {next_step(comparison)}"))


def _sides(comparison: Comparison) -> str:
    counts = [len(side.runs) for side in (comparison.baseline, comparison.candidate)]
    nouns = ["run" if count == 1 else "runs" for count in counts]
    rule = "fixed limits, no statistics" if comparison.rule == "threshold" else f"alpha {comparison.alpha:.3g}"
    return f"({counts[0]} baseline {nouns[0]}, {counts[1]} candidate {nouns[1]}; rule {comparison.rule}: {rule})"


def findings_table(comparison: Comparison, console: Console) -> Table:
    """All findings, one row each; on a narrow terminal the columns that matter least are left out."""
    unlimited = console.options.update_width(10_000)  # measured in the real width, nothing is ever too wide
    columns = _columns(comparison)
    for title in (None, "", *LEFT_OUT):
        columns.pop(title or "", None)
        table = _table(comparison, columns, gap=2, verdict_width=None if title is None else VERDICT_WIDTH)
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    return _table(comparison, columns, gap=1, verdict_width=VERDICT_WIDTH)


def _columns(comparison: Comparison) -> dict[str, Callable[[Finding], str]]:
    """Title of each column of numbers -> what it says of a finding."""
    columns: dict[str, Callable[[Finding], str]] = {
        "baseline": lambda finding: format_value(finding.metric, finding.baseline),
        "candidate": lambda finding: format_value(finding.metric, finding.candidate),
        "change": format_change,
    }
    if comparison.rule == "threshold":
        return {**columns, "limit": lambda finding: finding.limit}
    return {
        **columns,
        f"{comparison.confidence * 100:g} % interval": format_interval,
        "p": lambda finding: format_p(finding.p_adjusted),
        "tolerance": limit_text,
        "detectable": detectable,
        "to settle": settle_short,
    }


def _table(
    comparison: Comparison, columns: Mapping[str, Callable[[Finding], str]], gap: int, verdict_width: int | None
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, collapse_padding=True, padding=(0, gap), header_style="bold")
    table.add_column("service", overflow="fold", min_width=8)
    table.add_column("metric", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", max_width=verdict_width, no_wrap=verdict_width is None)
    above = None
    for finding in comparison.findings:
        service = "" if finding.service == above else shorten(finding.service)
        above = finding.service
        metric = SHORT_METRICS.get(finding.metric, finding.metric)
        verdict = Text(finding_text(finding), style=STYLES[finding.verdict])
        table.add_row(*map(Text, (service, metric, *(cell(finding) for cell in columns.values()))), verdict)
    return table
