"""A comparison, and live progress, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.render.theme import (
    clean,
    format_change,
    format_interval,
    format_p,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.render.words import detectable, headlines, limit_text, next_step, settle_short

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
        console.print(findings_table(comparison))
    for note in dict.fromkeys((*_notes(comparison), *comparison.warnings)):
        console.print(Text(f"! {clean(note)}", style="yellow"))
    console.print(Text(f"Next: {next_step(comparison)}"))


def _sides(comparison: Comparison) -> str:
    counts = [len(side.runs) for side in (comparison.baseline, comparison.candidate)]
    nouns = ["run" if count == 1 else "runs" for count in counts]
    rule = "fixed limits, no statistics" if comparison.rule == "threshold" else f"alpha {comparison.alpha:g}"
    return f"({counts[0]} baseline {nouns[0]}, {counts[1]} candidate {nouns[1]}; rule {comparison.rule}: {rule})"


def findings_table(comparison: Comparison) -> Table:
    """All findings, one row each; narrow terminals fold long names."""
    from rich.table import Table
    from rich.text import Text

    evidence = comparison.rule == "evidence"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("service", "metric"):
        table.add_column(title, overflow="fold")
    for title in ("baseline", "candidate", "change", *_extra_titles(comparison)):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("verdict")
    for finding in comparison.findings:
        cells = [shorten(finding.service), Metric(finding.metric).title, *_numbers(finding, evidence=evidence)]
        verdict = Text(verdict_text(finding.verdict), style=STYLES[finding.verdict])
        table.add_row(*(Text(cell) for cell in cells), verdict)
    return table


def _extra_titles(comparison: Comparison) -> tuple[str, ...]:
    level = f"{comparison.confidence * 100:g} % interval"
    return (level, "p", "tolerance", "detectable", "to settle") if comparison.rule == "evidence" else ("limit",)


def _numbers(finding: Finding, *, evidence: bool) -> list[str]:
    values = [format_value(finding.metric, value) for value in (finding.baseline, finding.candidate)]
    if not evidence:
        return [*values, format_change(finding), finding.limit]
    more = [
        format_interval(finding),
        format_p(finding.p_adjusted),
        limit_text(finding),
        detectable(finding),
        settle_short(finding),
    ]
    return [*values, format_change(finding), *more]


def _notes(comparison: Comparison) -> list[str]:
    """Warnings of single findings; those that the whole comparison gives as well are not repeated."""
    return [
        f"{finding.service}, {Metric(finding.metric).title}: {warning}"
        for finding in comparison.findings
        for warning in finding.warnings
        if warning not in comparison.warnings
    ]
