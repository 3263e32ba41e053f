"""The words and tables of a report, as escaped HTML that any notebook front end can show.

What to know of the runs before believing them: warnings, failed checks, and every check that was made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from perfkit.analysis.baseline import BaselineLevel, BaselineSummary
from perfkit.analysis.capacity import Capacity
from perfkit.model.records import Check, Comparison, Finding, Metric, Run, Severity, Verdict
from perfkit.report.figure import service_names
from perfkit.report.findings import limit_text, mde_text, settle_short
from perfkit.report.formatting import (
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    finding_word,
    format_change,
    format_interval,
    format_number,
    format_p,
    format_value,
    verdict_text,
)
from perfkit.report.html import Html, render
from perfkit.report.sentences import headlines, next_step

MOST_VALUES = 3


def warnings_list(subject: Comparison | Capacity | BaselineSummary | Sequence[Run]) -> Html:
    """What to know before believing the result: warnings of the comparison, and every check that did not pass."""
    sides: list[tuple[str, Sequence[Run]]] = []
    warnings: tuple[str, ...] = ()
    checks: list[tuple[str, Check]] = []
    if isinstance(subject, Comparison):
        sides += [("baseline", subject.baseline.runs), ("candidate", subject.candidate.runs)]
        warnings = subject.warnings
        # Those of single runs are told with their run, below
        own = [check for check in subject.checks if not check.name.startswith("run_")]
        checks += [("", check) for check in own if check.severity is not Severity.OK]
    elif isinstance(subject, Capacity):
        sides += [("baseline" if subject.candidate else "run", subject.runs), ("candidate", subject.candidate)]
        warnings = subject.warnings
    elif isinstance(subject, BaselineSummary):
        sides.append(("run", subject.runs))
        warnings = subject.warnings
    else:
        sides.append(("run", subject))
    checks += [(f"{side} {run.id}", check) for side, runs in sides for run in runs for check in run.validity.problems]
    rows = [
        {"place": place, "name": check.name, "severity": check.severity.value, "advice": check.advice}
        | {"value": _plain(check.value), "limit": _plain(check.limit)}
        for place, check in checks
    ]
    every = [run for _, runs in sides for run in runs]
    html = render("warnings.html.j2", warnings=warnings, checks=rows, all_checks=_over_runs(every), runs=len(every))
    return Html(html, text="\n".join(warnings))


def _over_runs(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Every check that was made, one row each, over all runs: passed ones too, so that one sees what was looked at."""
    made: dict[str, list[Check]] = {}
    for run in runs:
        for check in run.validity.checks:
            made.setdefault(check.name, []).append(check)
    return [_over(name, checks) for name, checks in made.items()]


def _over(name: str, checks: Sequence[Check]) -> dict[str, str]:
    bad = [check for check in checks if check.severity is not Severity.OK]
    numbers = [float(check.value) for check in checks if isinstance(check.value, int | float)]
    texts = dict.fromkeys(_plain(check.value) for check in checks)
    values = " / ".join(list(texts)[:MOST_VALUES]) + (" / ..." if len(texts) > MOST_VALUES else "")
    if len(numbers) == len(checks) and len(set(numbers)) > 1:
        values = f"{format_number(min(numbers))} to {format_number(max(numbers))}"
    limits = dict.fromkeys(_plain(check.limit) for check in checks)
    return {
        "name": name,
        "values": values,
        "limit": " / ".join(list(limits)[:MOST_VALUES]),
        "passed": f"{len(checks) - len(bad)} of {len(checks)}",
        "severity": max((check.severity.value for check in bad), default="ok", key=["ok", "warn", "invalid"].index),
    }


def _plain(value: float | str | None) -> str:
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
    verdict = comparison.verdict
    counts = [(VERDICT_WORDS[v], len(comparison.by_verdict(v))) for v in Verdict]
    above = " ".join(headlines(comparison))
    reasons = [text for text in comparison.warnings if clean(text) not in above]
    html = render(
        "banner.html.j2",
        title=clean(title) if title else "",
        verdict=verdict.value,
        word=VERDICT_WORDS[verdict],
        symbol=VERDICT_SYMBOLS[verdict],
        colour=VERDICT_COLOURS[verdict],
        sentences=[_unbroken(sentence) for sentence in headlines(comparison)],
        reasons=reasons if verdict is Verdict.INVALID else (),
        next_step=next_step(comparison),
        runs=(len(comparison.baseline.runs), len(comparison.candidate.runs)),
        counts=[f"{count} {word}" for word, count in counts if count],
        rule=comparison.rule,
        alpha=f"{comparison.alpha:g}",
        confidence=f"{comparison.confidence * 100:g}",
    )
    return Html(html, text="\n".join([verdict_text(verdict), *headlines(comparison), next_step(comparison)]))


def _unbroken(text: str) -> str:
    """No line ends between a number and its unit."""
    return re.sub(r"(?<=\d) (?=%|pp\b)", "\N{NO-BREAK SPACE}", text)


def findings_table(comparison: Comparison) -> Html:
    """Every number of every finding, grouped by service; footnotes carry the warnings."""
    notes = list(dict.fromkeys(warning for finding in comparison.findings for warning in finding.warnings))
    groups = {
        service: [_cells(finding, notes) for finding in comparison.findings if finding.label == service]
        for service in dict.fromkeys(finding.label for finding in comparison.findings)
    }
    html = render("findings.html.j2", groups=groups, notes=notes, confidence=f"{comparison.confidence * 100:g}")
    return Html(html, text=f"{len(comparison.findings)} findings")


def _cells(finding: Finding, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "metric": Metric(finding.metric).title,
        "gating": finding.gating,
        "verdict": finding.verdict.value,
        "symbol": VERDICT_SYMBOLS[finding.verdict],
        "word": finding_word(finding),
        "change": format_change(finding),
        "interval": format_interval(finding),
        "baseline": format_value(finding.metric, finding.baseline),
        "candidate": format_value(finding.metric, finding.candidate),
        "limit": limit_text(finding) or UNKNOWN,
        "p": format_p(finding.p_adjusted),
        "detectable": mde_text(finding),
        "settle": settle_short(finding),
        "notes": [notes.index(warning) + 1 for warning in dict.fromkeys(finding.warnings)],
    }


def levels_table(levels: BaselineSummary) -> Html:
    """What is normal: every level with its intervals, grouped by service."""
    groups = {
        service: [_level_cells(level) for level in levels.levels if level.service == service]
        for service in dict.fromkeys(level.service for level in levels.levels)
    }
    return Html(render("levels.html.j2", groups=groups, runs=len(levels.runs)), text=f"{len(levels.levels)} levels")


def _level_cells(level: BaselineLevel) -> dict[str, str]:
    def between(low: float | None, high: float | None) -> str:
        return UNKNOWN if low is None or high is None else f"{format_number(low)} – {format_number(high)}"

    return {
        "metric": Metric(level.metric).title,
        "value": format_value(level.metric, level.value),
        "interval": between(level.low, level.high),
        "next": between(level.next_low, level.next_high),
        "variation": UNKNOWN if level.variation_pct is None else f"{level.variation_pct:.1f} %",
        "range": between(level.lowest, level.highest),
    }


def runs_table(baseline: Sequence[Run], candidate: Sequence[Run] = ()) -> Html:
    """Where the numbers come from: every run, then load, environment and versions of both sides, differences marked."""
    sides = [("baseline", tuple(baseline)), ("candidate", tuple(candidate))]
    sides = [(name, runs) for name, runs in sides if runs]
    facts = {name: dict(_facts(runs)) for name, runs in sides}
    keys = dict.fromkeys(key for side in facts.values() for key in side)
    rows = [(key, [facts[name].get(key, UNKNOWN) for name, _ in sides]) for key in keys]
    shown = [{"key": key, "values": values, "differs": len(set(values)) > 1} for key, values in rows]
    runs = [_run_cells(name, run) for name, members in sides for run in members]
    html = render("runs.html.j2", runs=runs, sides=[name for name, _ in sides], facts=shown)
    return Html(html, text=f"{len(runs)} runs")


def _run_cells(side: str, run: Run) -> dict[str, Any]:
    return {
        "side": side,
        "id": run.id,
        "started": run.started_at.strftime("%Y-%m-%d %H:%M:%S") if run.started_at else UNKNOWN,
        "duration": f"{run.duration_s:.0f} s" if run.duration_s is not None else UNKNOWN,
        "requests": UNKNOWN if run.request_count is None else f"{run.request_count:,}",
        "valid": run.validity.ok,
        "problems": len(run.validity.problems),
    }


def _facts(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """What the runs of one side were made with; several values are listed, so that a mixture shows."""

    def each(values: Sequence[object]) -> str:
        return ", ".join(dict.fromkeys(clean(value) for value in values if value not in (None, ""))) or UNKNOWN

    yield "scenario", each([run.scenario for run in runs])
    yield "load", each([run.profile.describe() for run in runs])
    yield "target", each([run.target for run in runs])
    yield "tool", each([run.tool for run in runs])
    for title, tables in (
        ("", [run.versions for run in runs]),
        ("git ", [run.git for run in runs]),
        ("", [run.environment for run in runs]),
        ("label ", [run.labels for run in runs]),
    ):
        for key in dict.fromkeys(key for table in tables for key in table):
            yield f"{title}{key}", each([table.get(key, "") for table in tables])
