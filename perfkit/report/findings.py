"""The findings table, described once: its columns, what each cell says, and which rows come first.

Terminal, Markdown, HTML, mail and issue draw the same `Table`, each in its own way: an outlet picks columns by name,
leaves out the least important ones where there is no room, shortens names, and escapes them for its markup.  Cells
hold names from outside (services, limits) as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perfkit.history.events import MetricChange
from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.formatting import (
    SHORT_METRICS,
    UNKNOWN,
    finding_text,
    format_change,
    format_interval,
    format_p,
    format_signed,
    format_value,
    verdict_text,
)

WORST_FIRST = (Verdict.REGRESSION, Verdict.INVALID, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    right
        Whether it holds numbers, which are aligned at the right.
    importance
        Where there is no room, columns go in order of importance, the least first; those with 9 always stay.
    hint
        What its title means, for places that can show it on demand.
    """

    name: str
    title: str
    right: bool = False
    importance: int = 9
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the text of each cell by the name of its column; ``UNKNOWN`` where nothing can be said."""

    cells: Mapping[str, str]
    verdict: Verdict
    gating: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; ``total`` is the number of rows that there are, of which these are the first."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: int
    title: str = ""

    def column_title(self, name: str) -> str:
        """The title of a column; of one that the table does not have, its name."""
        return next((column.title for column in self.columns if column.name == name), name)


def findings_table(comparison: Comparison, *, ranked: bool = False, title: str = "") -> Table:
    """Every finding of a comparison, in its order, or ``ranked``: the one that decides most first."""
    findings = worst_first(comparison.findings) if ranked else comparison.findings
    numbers = [Column("before", "baseline", right=True), Column("after", "candidate", right=True)]
    numbers.append(Column("change", "change", right=True))
    if comparison.rule == "threshold":
        numbers.append(Column("tolerance", "limit", right=True))
    else:
        mde = "minimum detectable effect: the smallest worsening that these runs could have shown"
        numbers += [
            Column("interval", f"{comparison.confidence * 100:g} % interval", right=True),
            Column("p", "adjusted p", right=True, importance=2, hint="adjusted for the number of findings"),
            Column("tolerance", "tolerance", right=True, importance=4, hint="largest worsening that is accepted"),
            Column("mde", "MDE", right=True, importance=1, hint=mde),
            Column("settle", "to settle", right=True, importance=3, hint="further runs on each side"),
        ]
    names = (Column("service", "service"), Column("metric", "metric"))
    columns = (*names, *numbers, Column("verdict", "verdict"))
    return Table(columns, tuple(map(finding_row, findings)), len(findings), title)


def finding_row(finding: Finding) -> Row:
    """What every outlet says of a finding."""
    cells = {
        "service": finding.label,
        "metric": Metric(finding.metric).title,
        "metric_short": SHORT_METRICS.get(finding.metric, finding.metric),
        "before": format_value(finding.metric, finding.baseline),
        "after": format_value(finding.metric, finding.candidate),
        "change": format_change(finding),
        "interval": format_interval(finding),
        "p": format_p(finding.p_adjusted),
        "tolerance": limit_text(finding) or UNKNOWN,
        "mde": mde_text(finding),
        "settle": settle_short(finding),
        "verdict": finding_text(finding),
    }
    return Row(cells, finding.verdict, finding.gating, finding.warnings)


def changes_table(items: Iterable[MetricChange], *, title: str = "") -> Table:
    """The metric changes of events: what is known of each without a comparison."""
    columns = (
        Column("service", "service"),
        Column("metric", "metric"),
        Column("before", "before", right=True, importance=1),
        Column("after", "after", right=True, importance=2),
        Column("change", "change", right=True),
        Column("interval", "95 % interval", right=True),
        Column("p", "p", right=True, importance=4, hint="chance of such a change in a history without any"),
        Column("verdict", "verdict"),
    )
    rows = tuple(map(change_row, items))
    return Table(columns, rows, len(rows), title)


def change_row(item: MetricChange) -> Row:
    """What every outlet says of a metric change."""
    unit = item.metric.change_unit
    size = format_signed(item.size, unit)
    ends = [format_signed(end, unit) for end in (item.size_low, item.size_high)]
    verdict = Verdict.REGRESSION if item.is_worse else Verdict.IMPROVEMENT
    cells = {
        "service": item.service,
        "metric": item.metric.title,
        "metric_short": SHORT_METRICS[item.metric.value],
        "before": format_value(item.metric, item.change.before),
        "after": format_value(item.metric, item.change.after),
        "change": f"{size} {unit}{' (from zero)' if size.endswith('∞') else ''}",
        "interval": UNKNOWN if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]",
        "p": format_p(item.change.p_value),
        "verdict": verdict_text(verdict),
    }
    return Row(cells, verdict)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By verdict, gating metrics first, the strongest evidence first; equals stay in their order."""

    def rank(finding: Finding) -> tuple[int, bool, float]:
        p_value = 2.0 if finding.p_adjusted is None else finding.p_adjusted
        return WORST_FIRST.index(finding.verdict), not finding.gating, p_value

    return tuple(sorted(findings, key=rank))


def limit_text(finding: Finding) -> str:
    """The tolerance, as a signed change in the unit that is judged: ``+5 %``, ``-30 %``, ``+0.5 pp``."""
    if finding.tolerance is None or finding.objective:
        return finding.limit
    sign = "-" if Metric(finding.metric).worse < 0 else "+"
    return f"{sign}{finding.tolerance:.3g} {finding.change_unit}"


def mde_text(finding: Finding) -> str:
    """The minimum detectable effect: ``5.2 %``; ``~`` when unknown."""
    if finding.min_detectable is None:
        return UNKNOWN
    return f"{format_signed(finding.min_detectable, finding.change_unit).lstrip('+')} {finding.change_unit}"


def settle(finding: Finding) -> str:
    """What would settle an inconclusive finding; empty for any other."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return ""
    parts = []
    if finding.requests_needed:
        parts.append(f"{finding.requests_needed:,} requests on each side")
    if finding.runs_needed:
        parts.append(f"{count_text(finding.runs_needed, 'further run')} on each side")
    return " or ".join(parts)


def settle_short(finding: Finding) -> str:
    """`settle` for a table cell: ``+29 runs``; ``~`` where more runs would not settle it; empty for a verdict."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return ""
    return f"+{count_text(finding.runs_needed, 'run')}" if finding.runs_needed else UNKNOWN


def count_text(count: int, noun: str) -> str:
    """``1 run``, ``3 runs``, ``1,200 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
