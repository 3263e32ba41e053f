"""A comparison as Markdown that GitHub and GitLab render well.

Results as one Markdown page: for the summary of a GitHub job, or a comment of any other system.

Results as the comment of a pull request: as the summary of a job, within the length that GitHub takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from perfkit.model.records import Comparison, Finding, Metric, Side, Verdict
from perfkit.report.formatting import (
    UNKNOWN,
    finding_text,
    format_change,
    format_interval,
    format_p,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.report.report_set import Outcome
from perfkit.report.sentences import LONGEST, Account, detectable, headlines, limit_text, next_step, settle, word_text

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
            lines.append(f"{finding.label}, {Metric(finding.metric).title}: {text}")
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
    return escape(finding.label, 60), Metric(finding.metric).title


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


MOST_BYTES = 1_000_000  # GitHub refuses the summary of a step beyond 1 MiB
MOST_CLAIMS_IN_CELL = 3  # in a table's cell
_QUIET = (Verdict.NO_CHANGE, Verdict.IMPROVEMENT, Outcome.DONE)


def to_summary(told: Sequence[Account], report: str = "") -> str:
    """A table of all results, and each one whole; of several, those that need nobody's eye are folded.

    What does not fit into `MOST_BYTES` is left out, and that is said.
    """
    pages = [_page(one, alone=len(told) == 1) for one in told]
    head = [_summary_table(told)] if len(told) > 1 else []
    if report:
        head.append(f"Report: {escape(report, 300)}")
    return _fitting([*head, *(page for page in pages if page)])


def _summary_table(told: Sequence[Account]) -> str:
    rows = [
        (word_text(one.word), escape(one.scenario, 60), one.kind, _cell([claim.text for claim in one.claims]))
        for one in told
    ]
    return "# Load tests\n\n" + folded(("Verdict", "Scenario", "Report", "What it says"), rows, "<<<<")


def _cell(texts: Sequence[str]) -> str:
    shown = " ".join(escape(text, 200) for text in texts[:MOST_CLAIMS_IN_CELL])
    return f"{shown} And {len(texts) - MOST_CLAIMS_IN_CELL} more." if len(texts) > MOST_CLAIMS_IN_CELL else shown


def _page(one: Account, *, alone: bool) -> str:
    if one.result is None:
        return ""
    comparison = one.result.comparison
    text = to_markdown(comparison).rstrip() if comparison is not None else _history(one)
    if alone:
        return text
    title = f"{word_text(one.word)}: {escape(one.scenario, 60)}, {one.kind}"
    state = "" if one.word in _QUIET else " open"
    return f"<details{state}><summary>{title}</summary>\n\n{text}\n\n</details>"


def _history(one: Account) -> str:
    claims = bullets(claim.text for claim in one.claims)
    return f"# History of {escape(one.scenario, 60)}: {word_text(one.word)}\n\n{claims}"


def _fitting(parts: Sequence[str]) -> str:
    """Whole parts, as many as fit."""
    kept: list[str] = []
    room = MOST_BYTES - 200
    for part in parts:
        room -= len(part.encode()) + 2
        if room < 0:
            left = len(parts) - len(kept)
            kept.append(f"{left} more would be too long for this page; the reports have everything.")
            break
        kept.append(part)
    return "\n\n".join(kept) + "\n"


MOST_CHARACTERS = 60_000  # GitHub takes 65,536
MOST_CLAIMS = 20  # of a result that does not fit
_ALL = 500  # findings: more never fit
_SHORTER = (300, 100, 30, 10)  # findings of all results together
_LEAST = 3  # findings of each result, for a table of them to be worth while
_VERDICT_ORDER = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


def to_comment(told: Sequence[Account], report: str = "") -> str:
    """The whole summary, else its most telling findings, else its headlines.

    ``report`` is the address of the report; what is left out is said to be there.
    """
    link = f"[The report with its charts]({report})\n\n" if report else ""
    if sum(map(_findings, told)) <= _ALL:
        page = to_summary(told)
        if len(link) + len(page) <= MOST_CHARACTERS:
            return link + page
    for most in (together // len(told) for together in _SHORTER):
        if most < _LEAST:
            break
        note = f"Only the {most} most telling findings, runs and warnings of each result are shown.\n\n"
        page = to_summary([_shortened(one, most) for one in told])
        if len(link) + len(note) + len(page) <= MOST_CHARACTERS:
            return link + note + page
    return link + _headlines(told)


def _findings(one: Account) -> int:
    comparison = one.result.comparison if one.result is not None else None
    return len(comparison.findings) if comparison is not None else len(one.claims)


def _shortened(one: Account, most: int) -> Account:
    if one.result is None or one.result.comparison is None:
        return replace(one, claims=one.claims[:most])
    result = replace(one.result, comparison=_telling(one.result.comparison, most))
    return replace(one, claims=one.claims[:most], result=result)


def _telling(comparison: Comparison, most: int) -> Comparison:
    findings = sorted(comparison.findings, key=lambda finding: _VERDICT_ORDER.index(finding.verdict))
    return replace(
        comparison,
        findings=tuple(findings[:most]),
        warnings=comparison.warnings[:most],
        baseline=replace(comparison.baseline, runs=comparison.baseline.runs[-most:]),
        candidate=replace(comparison.candidate, runs=comparison.candidate.runs[-most:]),
    )


def _headlines(told: Sequence[Account]) -> str:
    parts: list[str] = []
    for one in told:
        shown = bullets(claim.text for claim in one.claims[:MOST_CLAIMS])
        parts.append(f"# {escape(one.scenario, 60)}: {word_text(one.word)}\n\n{shown}")
        if sum(map(len, parts)) > MOST_CHARACTERS - 1_000:
            parts[-1] = f"{len(told) - len(parts) + 1} more results do not fit; the report has them."
            break
    return "\n\n".join(parts) + "\n"
