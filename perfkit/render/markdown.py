"""A comparison as Markdown that GitHub and GitLab render well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from perfkit.model import Comparison, Finding, Metric, Side, Verdict
from perfkit.render.theme import (
    UNKNOWN,
    finding_text,
    format_change,
    format_interval,
    format_p,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.render.words import LONGEST, detectable, headlines, limit_text, next_step, settle

MOST_ROWS = 10  # longer tables are folded: nobody reads them, and comments have a length limit
_SAFE = re.compile(
    r"[^\w\s./:%,+=?()'…±×∞✗★✓⊘\[\]-]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])\(|://|^\s*[-+=\[]"
    r"|(?<=[wW]{3})\.|^\d+[.)](?=\s)"
)
# GitHub and GitLab look for these in the finished text, where a character reference is the character again
_FOUND_LATER = re.compile(r"@|[#!&%~$](?=\w)|(?<=\bgh)-(?=\d)|:(?=[a-z_+-][\w+-]*:)", re.IGNORECASE)
_BREAK = "\u200b"


def escape(text: object, limit: int = 120) -> str:
    """A text from outside as Markdown that shows it: no markup, mention, link or table cell can come of it."""
    broken = _FOUND_LATER.sub(lambda match: match[0] + _BREAK, shorten(text, limit))
    return _SAFE.sub(lambda match: "".join(f"&#{ord(char)};" for char in match[0]), broken)


def to_markdown(comparison: Comparison) -> str:
    """The whole comparison: verdict, what changed, tables, warnings, both sides."""
    parts = [
        f"# Regression analysis: {verdict_text(comparison.verdict)}",
        bullets(headlines(comparison)),
        f"**Next:** {next_step(comparison, lambda text: escape(text, LONGEST))}",
        _threshold(comparison) if comparison.rule == "threshold" else _evidence(comparison),
        _list("History", comparison.history.lines if comparison.history is not None else ()),
        _list("Warnings", (text for text in comparison.warnings if text != comparison.disturbance)),
        _sides(comparison),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _threshold(comparison: Comparison) -> str:
    critical = comparison.by_verdict(Verdict.REGRESSION)
    passed = comparison.by_verdict(Verdict.NO_CHANGE)
    counts = _table(
        ("Evaluated", "Passed", "Critical"),
        [(str(len(comparison.findings)), str(len(passed)), str(len(critical)))],
        ">>>",
    )
    note = "Rule `threshold`: percentage change against fixed limits. It knows nothing of noise between runs."
    return "\n\n".join((note, counts, _limits("Critical regressions", critical), _limits("Passed", passed))).rstrip()


def _limits(title: str, findings: Sequence[Finding]) -> str:
    rows = [(*_name(f), *_values(f), format_change(f), f.limit) for f in findings]
    header = ("Service", "Metric", "Baseline", "Current", "Change", "Limit")
    return f"## {title}\n\n{folded(header, rows, '<<>>>>')}" if rows else f"## {title}\n\nNone."


def _evidence(comparison: Comparison) -> str:
    level = f"{comparison.confidence:.0%} interval".replace("%", " %")
    header = (
        "Verdict",
        "Service",
        "Metric",
        "Baseline",
        "Candidate",
        "Change",
        level,
        "Tolerance",
        "p (corrected)",
        "Detectable",
    )
    rows = [
        (
            finding_text(f),
            *_name(f),
            *_values(f),
            format_change(f),
            format_interval(f),
            limit_text(f),
            format_p(f.p_adjusted),
            detectable(f),
        )
        for f in sorted(comparison.findings, key=lambda f: _ORDER.index(f.verdict))
    ]
    note = (
        f"Rule `evidence`: the run is the unit; at most {comparison.alpha:g} chance that a comparison of identical "
        "builds calls any regression."
    )
    table = f"## Findings\n\n{folded(header, rows, '<<<>>>>>>>')}" if rows else ""
    return "\n\n".join(part for part in (note, table, _open_questions(comparison)) if part)


_ORDER = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


def _open_questions(comparison: Comparison) -> str:
    lines = []
    for finding in comparison.by_verdict(Verdict.INCONCLUSIVE):
        parts = [settle(finding), *finding.warnings]
        text = "; ".join(part for part in parts if part)
        if text:
            lines.append(f"{finding.service}, {Metric(finding.metric).title}: {text}")
    return _list("What would settle it", lines)


def _sides(comparison: Comparison) -> str:
    rows = []
    for title, side in (("baseline", comparison.baseline), ("candidate", comparison.candidate)):
        rows += _side_rows(title, side)
    return "## Runs\n\n" + folded(("Side", "Run", "Scenario", "Load", "Requests", "Valid"), rows, "<<<<><")


def _side_rows(title: str, side: Side) -> list[tuple[str, ...]]:
    return [
        (
            title,
            escape(run.id),
            escape(run.scenario),
            escape(run.profile.describe()),
            UNKNOWN if run.request_count is None else f"{run.request_count:,}",
            "yes" if run.validity.ok else "no",
        )
        for run in side.runs
    ]


def _name(finding: Finding) -> tuple[str, str]:
    return escape(finding.service, 60), Metric(finding.metric).title


def _values(finding: Finding) -> tuple[str, str]:
    return format_value(finding.metric, finding.baseline), format_value(finding.metric, finding.candidate)


def _list(title: str, texts: Iterable[str]) -> str:
    lines = bullets(texts)
    return f"## {title}\n\n{lines}" if lines else ""


def bullets(texts: Iterable[str]) -> str:
    """A list of texts from outside; those after the first `MOST_ROWS` are folded."""
    lines = [f"- {escape(text, 400)}" for text in texts]
    shown = "\n".join(lines[:MOST_ROWS])
    if len(lines) <= MOST_ROWS:
        return shown
    rest = "\n".join(lines[MOST_ROWS:])
    return f"{shown}\n\n<details><summary>{len(lines) - MOST_ROWS} more</summary>\n\n{rest}\n\n</details>"


def folded(header: Sequence[str], rows: Sequence[tuple[str, ...]], align: str) -> str:
    """A table of escaped cells; rows after the first `MOST_ROWS` are folded.  ``align`` has ``<`` or ``>`` a column."""
    table = _table(header, rows[:MOST_ROWS], align)
    if len(rows) <= MOST_ROWS:
        return table
    rest = _table(header, rows[MOST_ROWS:], align)
    return f"{table}\n\n<details><summary>{len(rows) - MOST_ROWS} more</summary>\n\n{rest}\n\n</details>"


def _table(header: Sequence[str], rows: Sequence[tuple[str, ...]], align: str) -> str:
    marks = ["--:" if side == ">" else ":--" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))
