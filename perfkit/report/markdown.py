"""Results as Markdown that GitHub and GitLab render well: one comparison, a job's summary, a pull request's comment.

Long tables and lists are folded after `MOST_ROWS`: nobody reads them, and comments have a length limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from perfkit.model.records import Comparison, Verdict
from perfkit.report.findings import Table, finding_row, findings_table, settle, worst_first
from perfkit.report.formatting import UNKNOWN, shorten, verdict_text
from perfkit.report.message import Message, outcome_text
from perfkit.report.report_set import Outcome
from perfkit.report.sentences import LONGEST, headlines, next_step

MOST_ROWS = 10
MOST_BYTES = 1_000_000  # GitHub refuses the summary of a step beyond 1 MiB
MOST_CHARACTERS = 60_000  # of a comment; GitHub takes 65,536
MOST_LINES_IN_CELL = 3
MOST_LINES = 20  # of a result that does not fit
MOST_FINDINGS = 500  # of all results together: a comment with more never fits
_SHORTER = (300, 100, 30, 10)  # findings of all results together, to try until a comment fits
_LEAST = 3  # findings of each result, for a table of them to be worth while
_QUIET = (Verdict.NO_CHANGE, Verdict.IMPROVEMENT, Outcome.DONE)
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


def draw_table(table: Table, names: Sequence[str], *, name_length: int = 60) -> str:
    """Columns of a table by name, with their service escaped; rows after the first `MOST_ROWS` are folded."""
    titles = {column.name: column.title[:1].upper() + column.title[1:] for column in table.columns}
    align = "".join(">" if column.right else "<" for name in names for column in table.columns if column.name == name)
    rows = [
        tuple(escape(row.cells[name], name_length) if name == "service" else row.cells[name] for name in names)
        for row in table.rows
    ]
    return folded([titles[name] for name in names], rows, align)


def folded(header: Sequence[str], rows: Sequence[tuple[str, ...]], align: str) -> str:
    """A table of escaped cells; rows after the first `MOST_ROWS` are folded.  ``align`` has ``<`` or ``>`` a column."""

    def lines(part: Sequence[tuple[str, ...]]) -> str:
        marks = ["--:" if side == ">" else ":--" for side in align]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *part))

    if len(rows) <= MOST_ROWS:
        return lines(rows)
    return f"{lines(rows[:MOST_ROWS])}\n\n{_details(len(rows) - MOST_ROWS, lines(rows[MOST_ROWS:]))}"


def bullets(texts: Iterable[str]) -> str:
    """A list of texts from outside; those after the first `MOST_ROWS` are folded."""
    lines = [f"- {escape(text, 400)}" for text in texts]
    shown = "\n".join(lines[:MOST_ROWS])
    if len(lines) <= MOST_ROWS:
        return shown
    rest = "\n".join(lines[MOST_ROWS:])
    return f"{shown}\n\n{_details(len(lines) - MOST_ROWS, rest)}"


def _details(count: int, text: str) -> str:
    return f"<details><summary>{count} more</summary>\n\n{text}\n\n</details>"


def to_markdown(comparison: Comparison) -> str:
    """The whole comparison: verdict, what changed, tables, warnings, both sides."""
    warnings = [text for text in comparison.warnings if text != comparison.disturbance]
    runs = [
        (
            title,
            escape(run.id),
            escape(run.scenario),
            escape(run.profile.describe()),
            UNKNOWN if run.request_count is None else f"{run.request_count:,}",
            "yes" if run.validity.ok else "no",
        )
        for title, side in (("baseline", comparison.baseline), ("candidate", comparison.candidate))
        for run in side.runs
    ]
    parts = [
        f"# Regression analysis: {verdict_text(comparison.verdict)}",
        bullets(headlines(comparison)),
        f"**Next:** {next_step(comparison, lambda text: escape(text, LONGEST))}",
        _threshold(comparison) if comparison.rule == "threshold" else _evidence(comparison),
        _section("History", bullets(comparison.history.lines if comparison.history is not None else ())),
        _section("Warnings", bullets(warnings)),
        _section("Runs", folded(("Side", "Run", "Scenario", "Load", "Requests", "Valid"), runs, "<<<<><")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _threshold(comparison: Comparison) -> str:
    regressions, passed = (comparison.by_verdict(verdict) for verdict in (Verdict.REGRESSION, Verdict.NO_CHANGE))
    note = "Rule `threshold`: percentage change against fixed limits. It ignores noise between runs."
    counts = (str(len(comparison.findings)), str(len(passed)), str(len(regressions)))
    parts = [note, folded(("Evaluated", "Passed", "Critical"), [counts], ">>>")]
    table = findings_table(comparison)
    for title, findings in (("Critical regressions", regressions), ("Passed", passed)):
        part = replace(table, rows=tuple(map(finding_row, findings)))
        names = ("service", "metric", "before", "after", "change", "tolerance")
        parts.append(_section(title, draw_table(part, names) if findings else "None."))
    return "\n\n".join(parts)


def _evidence(comparison: Comparison) -> str:
    note = (
        f"Rule `evidence`: each run counts as one observation; at most {comparison.alpha:g} chance that a comparison "
        "of identical builds calls any regression."
    )
    names = ("verdict", "service", "metric", "before", "after", "change", "interval", "tolerance", "p", "mde")
    table = draw_table(findings_table(comparison, ranked=True), names) if comparison.findings else ""
    lines = []
    for finding in worst_first(comparison.by_verdict(Verdict.INCONCLUSIVE)):
        text = "; ".join(part for part in (settle(finding), *finding.warnings) if part)
        if text:
            lines.append(f"{finding.label}, {finding_row(finding).cells['metric']}: {text}")
    parts = (note, _section("Findings", table), _section("What would settle it", bullets(lines)))
    return "\n\n".join(part for part in parts if part)


def to_summary(messages: Sequence[Message], report: str = "") -> str:
    """A table of all results, and each one whole; of several, those that need no attention are folded.

    What does not fit into `MOST_BYTES` is left out, and that is said.
    """
    parts = []
    if len(messages) > 1:
        rows = [
            (outcome_text(one.verdict), escape(one.scenario, 60), one.kind, _cell([text for _, text in one.lines]))
            for one in messages
        ]
        parts.append("# Load tests\n\n" + folded(("Verdict", "Scenario", "Report", "What it says"), rows, "<<<<"))
    if report:
        parts.append(f"Report: {escape(report, 300)}")
    parts += [page for one in messages if (page := _page(one, alone=len(messages) == 1))]
    kept: list[str] = []  # whole parts, as many as fit
    room = MOST_BYTES - 200
    for part in parts:
        room -= len(part.encode()) + 2
        if room < 0:
            left = len(parts) - len(kept)
            kept.append(f"{left} more would be too long for this page; the reports have everything.")
            break
        kept.append(part)
    return "\n\n".join(kept) + "\n"


def _cell(texts: Sequence[str]) -> str:
    more = f" And {len(texts) - MOST_LINES_IN_CELL} more." if len(texts) > MOST_LINES_IN_CELL else ""
    return " ".join(escape(text, 200) for text in texts[:MOST_LINES_IN_CELL]) + more


def _page(message: Message, *, alone: bool) -> str:
    if message.result is None:
        return ""
    if message.result.comparison is not None:
        text = to_markdown(message.result.comparison).rstrip()
    else:
        title = f"# History of {escape(message.scenario, 60)}: {outcome_text(message.verdict)}"
        text = f"{title}\n\n{bullets(text for _, text in message.lines)}"
    if alone:
        return text
    title = f"{outcome_text(message.verdict)}: {escape(message.scenario, 60)}, {message.kind}"
    state = "" if message.verdict in _QUIET else " open"
    return f"<details{state}><summary>{title}</summary>\n\n{text}\n\n</details>"


def to_comment(messages: Sequence[Message], report: str = "") -> str:
    """The whole summary, else its most decisive findings, else its headlines.

    ``report`` is the address of the report; what is left out is said to be there.
    """
    link = f"[The report with its charts]({report})\n\n" if report else ""
    count = sum(
        len(one.result.comparison.findings) if one.result is not None and one.result.comparison else len(one.statements)
        for one in messages
    )
    if count <= MOST_FINDINGS:
        page = to_summary(messages)
        if len(link) + len(page) <= MOST_CHARACTERS:
            return link + page
    for most in (together // len(messages) for together in _SHORTER):
        if most < _LEAST:
            break
        note = f"Only the {most} most decisive findings, runs and warnings of each result are shown.\n\n"
        page = to_summary([_shortened(one, most) for one in messages])
        if len(link) + len(note) + len(page) <= MOST_CHARACTERS:
            return link + note + page
    parts: list[str] = []
    for message in messages:
        shown = bullets(text for _, text in message.lines[:MOST_LINES])
        parts.append(f"# {escape(message.scenario, 60)}: {outcome_text(message.verdict)}\n\n{shown}")
        if sum(map(len, parts)) > MOST_CHARACTERS - 1_000:
            parts[-1] = f"{len(messages) - len(parts) + 1} more results do not fit; the report has them."
            break
    return link + "\n\n".join(parts) + "\n"


def _shortened(message: Message, most: int) -> Message:
    message = replace(message, statements=message.statements[:most])
    if message.result is None or message.result.comparison is None:
        return message
    comparison = message.result.comparison
    shorter = replace(
        comparison,
        findings=worst_first(comparison.findings)[:most],
        warnings=comparison.warnings[:most],
        baseline=replace(comparison.baseline, runs=comparison.baseline.runs[-most:]),
        candidate=replace(comparison.candidate, runs=comparison.candidate.runs[-most:]),
    )
    return replace(message, result=replace(message.result, comparison=shorter))
