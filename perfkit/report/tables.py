"""The tables and words of a report, as escaped HTML that any notebook front end can show.

`html_table` draws every table: columns, groups of rows, and numbered notes below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfkit.analysis.baseline import BaselineLevel, BaselineSummary
from perfkit.analysis.capacity import Capacity
from perfkit.model.records import Check, Comparison, Metric, Run, Severity, Verdict, service_names
from perfkit.report import findings
from perfkit.report.findings import Column
from perfkit.report.formatting import (
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    format_number,
    format_value,
    verdict_text,
)
from perfkit.report.html import Html, render
from perfkit.report.sentences import headlines, next_step

MOST_VALUES = 3
CANNOT_SAY = "~ cannot be said from these runs."


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell; its text is escaped, and one symbol may stand before it.

    Parameters
    ----------
    notes
        Numbers of notes below the table.
    mark
        What a star behind it means.
    """

    text: str
    css: str = ""
    strong: bool = False
    code: bool = False
    symbol: str = ""
    link: str = ""
    tag: str = ""
    mark: str = ""
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HtmlRow:
    """The cells of a row by the name of their column; plain text where a cell is nothing else."""

    cells: Mapping[str, Cell | str]
    css: str = ""


@dataclass(frozen=True, slots=True)
class Footnotes:
    """Texts that cells refer to by number, in the order in which they were first needed."""

    texts: list[str] = field(default_factory=list)

    def numbers(self, texts: Sequence[str]) -> tuple[int, ...]:
        """The numbers of these texts; empty ones have none."""
        for text in texts:
            if text and text not in self.texts:
                self.texts.append(text)
        return tuple(self.texts.index(text) + 1 for text in dict.fromkeys(texts) if text)


def html_table(
    label: str,
    columns: Sequence[Column],
    groups: Mapping[str, Sequence[HtmlRow]],
    *,
    below: str = "",
    footnotes: Footnotes | None = None,
    anchor: str = "note",
    verdicts: bool = False,
    empty: str = "",
) -> str:
    """A table as HTML.

    Parameters
    ----------
    label
        What it is, for people who cannot see it.
    groups
        Rows below the name of their group, or below nothing for the empty name.
    below
        One sentence below it.
    anchor
        Begins the names of its notes, which must be unique on a page.
    verdicts
        Whether its rows are coloured by verdict.
    empty
        What stands there instead when it has no rows.
    """
    rows = {
        group: [
            {
                "css": row.css,
                "cells": {name: cell if isinstance(cell, Cell) else Cell(cell) for name, cell in row.cells.items()},
            }
            for row in members
        ]
        for group, members in groups.items()
        if members
    }
    return render(
        "table.html.j2",
        label=label,
        columns=columns,
        groups=rows,
        below=below,
        notes=footnotes.texts if footnotes is not None else (),
        anchor=anchor,
        verdicts=verdicts,
        empty=empty,
    )


def warnings_list(subject: Comparison | Capacity | BaselineSummary | Sequence[Run]) -> Html:
    """What to know before believing the result: warnings of the comparison, and every check that did not pass."""
    sides: list[tuple[str, Sequence[Run]]] = []
    warnings: tuple[str, ...] = ()
    checks: list[tuple[str, Check]] = []
    if isinstance(subject, Comparison):
        sides += [("baseline", subject.baseline.runs), ("candidate", subject.candidate.runs)]
        warnings = subject.warnings
        # Those of single runs stand with their run, below
        of_both = [check for check in subject.checks if not check.name.startswith("run_")]
        checks += [("both sides", check) for check in of_both if check.severity is not Severity.OK]
    elif isinstance(subject, Capacity):
        sides += [("baseline" if subject.candidate else "run", subject.runs), ("candidate", subject.candidate)]
        warnings = subject.warnings
    elif isinstance(subject, BaselineSummary):
        sides.append(("run", subject.runs))
        warnings = subject.warnings
    else:
        sides.append(("run", subject))
    checks += [(f"{side} {run.id}", check) for side, runs in sides for run in runs for check in run.validity.problems]
    columns = (
        Column("check", "check"),
        Column("means", "means"),
        Column("value", "value", right=True),
        Column("limit", "limit", right=True),
        Column("of", "of"),
        Column("advice", "what to do"),
    )
    rows = [
        HtmlRow(
            {
                "check": check.name,
                "means": "⊘ unfit" if check.severity is Severity.INVALID else "! warning",
                "value": _check_value(check.value),
                "limit": _check_value(check.limit),
                "of": subject_of_check,
                "advice": Cell(check.advice, css="pk-wide"),
            }
        )
        for subject_of_check, check in checks
    ]
    from markupsafe import Markup  # finished tables, escaped already

    runs = [run for _, members in sides for run in members]
    html = render(
        "warnings.html.j2",
        warnings=warnings,
        checks=Markup(html_table("checks that did not pass", columns, {"": rows})),
        all_checks=Markup(_all_checks(runs)),
        runs=len(runs),
        is_clean=not warnings and not checks,
    )
    return Html(html, text="\n".join(warnings))


def _all_checks(runs: Sequence[Run]) -> str:
    """Every check that was made, one row each, over all runs: passed ones too, so that one sees what was checked."""
    by_name: dict[str, list[Check]] = {}
    for run in runs:
        for check in run.validity.checks:
            by_name.setdefault(check.name, []).append(check)
    rows = []
    for name, checks in by_name.items():
        bad = [check for check in checks if check.severity is not Severity.OK]
        numbers = [float(check.value) for check in checks if isinstance(check.value, int | float)]
        texts = list(dict.fromkeys(_check_value(check.value) for check in checks))
        values = " / ".join(texts[:MOST_VALUES]) + (" / ..." if len(texts) > MOST_VALUES else "")
        if len(numbers) == len(checks) and len(set(numbers)) > 1:
            values = f"{format_number(min(numbers))} to {format_number(max(numbers))}"
        limits = list(dict.fromkeys(_check_value(check.limit) for check in checks))
        worst = max(
            (check.severity for check in bad),
            default=Severity.OK,
            key=(Severity.OK, Severity.WARN, Severity.INVALID).index,
        )
        symbol = {Severity.OK: "✓", Severity.WARN: "!", Severity.INVALID: "⊘"}[worst]
        passed = f"{symbol} {len(checks) - len(bad)} of {len(checks)}"
        limit = " / ".join(limits[:MOST_VALUES])
        rows.append(HtmlRow({"check": name, "passed": passed, "values": values, "limit": limit}))
    columns = (
        Column("check", "check"),
        Column("passed", "passed"),
        Column("values", "values", right=True),
        Column("limit", "limit", right=True),
    )
    return html_table("every check of the runs", columns, {"": rows})


def _check_value(value: float | str | None) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else format_number(float(value))


def worst_first(comparison: Comparison) -> tuple[str, ...]:
    """The services of a comparison: first those with a regression, then an improvement, then an open question."""
    order = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE, Verdict.INVALID)
    ranked = sorted(comparison.findings, key=lambda finding: order.index(finding.verdict))
    names = dict.fromkeys(finding.service for finding in ranked)
    return tuple(dict.fromkeys([*names, *service_names(comparison.baseline.runs, comparison.candidate.runs)]))


def verdict_banner(comparison: Comparison, title: str | None = None) -> Html:
    """The answer: verdict, one sentence per service that changed, and what to do next."""
    verdict, texts = comparison.verdict, headlines(comparison)
    counts = [(VERDICT_WORDS[v], len(comparison.by_verdict(v))) for v in Verdict]
    reasons = [text for text in comparison.warnings if clean(text) not in " ".join(texts)]
    html = render(
        "banner.html.j2",
        title=clean(title) if title else "",
        verdict=verdict.value,
        word=VERDICT_WORDS[verdict],
        symbol=VERDICT_SYMBOLS[verdict],
        colour=VERDICT_COLOURS[verdict],
        # No line ends between a number and its unit
        sentences=[re.sub(r"(?<=\d) (?=%|pp\b)", "\N{NO-BREAK SPACE}", text) for text in texts],
        reasons=reasons if verdict is Verdict.INVALID else (),
        next_step=next_step(comparison),
        runs=(len(comparison.baseline.runs), len(comparison.candidate.runs)),
        counts=[f"{count} {word}" for word, count in counts if count],
        rule=comparison.rule,
        alpha=f"{comparison.alpha:g}",
        confidence=f"{comparison.confidence * 100:g}",
    )
    return Html(html, text="\n".join([verdict_text(verdict), *texts, next_step(comparison)]))


def findings_table(comparison: Comparison) -> Html:
    """Every number of every finding, grouped by service; notes below carry the warnings."""
    table, footnotes = findings.findings_table(comparison), Footnotes()
    names = ("metric", "verdict", "change", "interval", "before", "after", "tolerance", "p", "mde", "settle")
    columns = [column for name in names for column in table.columns if column.name == name]
    groups: dict[str, list[HtmlRow]] = {}
    for row in table.rows:
        mark = "gating: the overall result is no regression only if this metric is shown to be within its tolerance"
        cells: dict[str, Cell | str] = {
            **row.cells,
            "metric": Cell(row.cells["metric"], mark=mark if row.gating else "", notes=footnotes.numbers(row.warnings)),
            "verdict": verdict_cell(row.verdict, row.cells["verdict"][2:]),
            "change": Cell(row.cells["change"], strong=True),
        }
        groups.setdefault(row.cells["service"], []).append(HtmlRow(cells, css=f"pk-row-{row.verdict.value}"))
    html = html_table(
        "findings",
        columns,
        groups,
        below=(
            '* gating: the overall result is "no regression" only if this metric is shown to be within its tolerance. '
            f"MDE: minimum detectable effect. {CANNOT_SAY}"
        ),
        footnotes=footnotes,
        verdicts=True,
        empty="There are no findings: no metric of any service could be compared.",
    )
    return Html(html, text=f"{len(comparison.findings)} findings")


def verdict_cell(verdict: Verdict, words: str) -> Cell:
    """A verdict with its symbol, in its colour."""
    return Cell(words, css=f"pk-v pk-{verdict.value}", symbol=VERDICT_SYMBOLS[verdict])


def levels_table(levels: BaselineSummary) -> Html:
    """What is normal: every level with its intervals, grouped by service."""
    columns = (
        Column("metric", "metric"),
        Column("level", "level", right=True),
        Column("interval", "95 % interval", right=True),
        Column("next", "next run expected in", right=True),
        Column("variation", "run-to-run variation", right=True),
        Column("range", "lowest – highest run", right=True),
    )
    groups: dict[str, list[HtmlRow]] = {}
    for level in levels.levels:
        groups.setdefault(level.service, []).append(HtmlRow(_level_cells(level)))
    runs = len(levels.runs)
    html = html_table(
        "levels with intervals",
        columns,
        groups,
        below=f"From {runs} run{'s' if runs != 1 else ''}; each run counts as one observation. {CANNOT_SAY}",
        empty="No metric is known in every run, so no level can be given.",
    )
    return Html(html, text=f"{len(levels.levels)} levels")


def _level_cells(level: BaselineLevel) -> dict[str, Cell | str]:
    def between(low: float | None, high: float | None) -> str:
        return UNKNOWN if low is None or high is None else f"{format_number(low)} – {format_number(high)}"

    return {
        "metric": Metric(level.metric).title,
        "level": Cell(format_value(level.metric, level.value), strong=True),
        "interval": between(level.low, level.high),
        "next": between(level.next_low, level.next_high),
        "variation": UNKNOWN if level.variation_pct is None else f"{level.variation_pct:.1f} %",
        "range": between(level.lowest, level.highest),
    }


def runs_table(baseline: Sequence[Run], candidate: Sequence[Run] = ()) -> Html:
    """Where the numbers come from: every run, then load, environment and versions of both sides, differences marked."""
    sides = {name: tuple(runs) for name, runs in (("baseline", baseline), ("candidate", candidate)) if runs}
    facts = {name: dict(_facts(runs)) for name, runs in sides.items()}
    fact_rows = []
    for key in dict.fromkeys(key for side in facts.values() for key in side):
        values = {name: facts[name].get(key, UNKNOWN) for name in sides}
        differs = len(set(values.values())) > 1
        cells: dict[str, Cell | str] = {name: Cell(text, css="pk-wide") for name, text in values.items()}
        cells["what"] = Cell(key, tag="differs" if differs else "")
        fact_rows.append(HtmlRow(cells, css="pk-differs" if differs else ""))
    fact_columns = (Column("what", "what"), *(Column(name, name) for name in sides))
    columns = (
        Column("run", "run"),
        Column("side", "side"),
        Column("started", "started (UTC)"),
        Column("length", "length", right=True),
        Column("requests", "requests", right=True),
        Column("valid", "valid"),
    )
    rows = [HtmlRow(_run_cells(name, run)) for name, members in sides.items() for run in members]
    html = html_table("load and environment", fact_columns, {"": fact_rows}) + html_table("runs", columns, {"": rows})
    return Html(html, text=f"{len(rows)} runs")


def _run_cells(side: str, run: Run) -> dict[str, Cell | str]:
    problems = len(run.validity.problems)
    warnings = f", {problems} warning{'s' if problems != 1 else ''}" if problems else ""
    started = run.started_at.strftime("%Y-%m-%d %H:%M:%S") if run.started_at else UNKNOWN
    return {
        "run": Cell(run.id, code=True),
        "side": side,
        "started": Cell(started, css="pk-nowrap"),
        "length": f"{run.duration_s:.0f} s" if run.duration_s is not None else UNKNOWN,
        "requests": UNKNOWN if run.request_count is None else f"{run.request_count:,}",
        "valid": f"{'✓ yes' if run.validity.ok else '⊘ no'}{warnings}",
    }


def _facts(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """What the runs of one side were made with; several values are listed, so that a mixture shows."""

    def each(values: Sequence[object]) -> str:
        return ", ".join(dict.fromkeys(clean(value) for value in values if value not in (None, ""))) or UNKNOWN

    yield "scenario", each([run.scenario for run in runs])
    yield "load", each([run.profile.describe() for run in runs])
    yield "target", each([run.target for run in runs])
    yield "tool", each([run.tool for run in runs])
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = (
        ("", [run.versions for run in runs]),
        ("git ", [run.git for run in runs]),
        ("", [run.environment for run in runs]),
        ("label ", [run.labels for run in runs]),
    )
    for title, members in tables:
        for key in dict.fromkeys(key for table in members for key in table):
            yield f"{title}{key}", each([table.get(key, "") for table in members])
