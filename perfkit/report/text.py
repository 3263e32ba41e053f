"""Results as text: for a terminal, as Markdown (a page, a job's summary, a pull request's comment), as JUnit XML.

Each draws the tables and sentences of `perfkit.report.findings` in its own way.  Markdown renders well on GitHub and
GitLab; long tables and lists are folded after `MOST_ROWS`, because nobody reads them and comments have a length limit.
In JUnit a result is a suite and a finding a test case: a regression is a failure, what is inconclusive is skipped with
its reason, what could not be judged is an error; the form is that of Jenkins (junit-10.xsd), which others read too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from perfkit.model.records import Comparison, Finding, Metric, Run, Verdict
from perfkit.report.findings import (
    LONGEST,
    NO_EVENTS,
    Column,
    Row,
    Table,
    change_row,
    errors_text,
    finding_row,
    findings_table,
    footnotes,
    gap_texts,
    headlines,
    limit_text,
    next_step,
    outcome_text,
    services_worst_first,
    settle,
    sides_of,
    sides_text,
    verdict_counts,
    worst_first,
)
from perfkit.report.formatting import (
    EVENT_VERDICTS,
    SHORT_METRICS,
    UNKNOWN,
    VERDICT_SYMBOLS,
    and_more,
    at_most,
    clean,
    count_text,
    format_signed,
    format_time,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.report.report_set import Outcome

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.table import Table as RichTable

    from perfkit.history.change_events import Attribute, DetectedChanges
    from perfkit.history.commits import Attribution
    from perfkit.history.events import Event, HistoryChange, Series
    from perfkit.history.incidents import Result
    from perfkit.report.message import Message

# Terminal ------------------------------------------------------------------------------------------------------------

MOST_LINES = 40  # of a comparison, unless all of it is asked for
MOST_SENTENCES, MOST_NOTES = 8, 5
VERDICT_WIDTH = 16  # on a narrow terminal: "✓ no regression," and what its interval adds on the next line
METRIC_WIDTH = 8  # and "p99.9 of", "all runs"
STYLES = {
    Verdict.REGRESSION: "bold red",
    Verdict.IMPROVEMENT: "green",
    Verdict.NO_CHANGE: "default",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.INVALID: "magenta",
}
_NO_WIDTHS: Mapping[str, int] = MappingProxyType({})


def terminal_table(
    table: Table,
    console: Console,
    *,
    wrapped: Collection[str] = ("service",),
    narrow_widths: Mapping[str, int] = _NO_WIDTHS,
) -> RichTable:
    """All rows; on a narrow terminal the columns that matter least are left out.

    The text of ``wrapped`` columns may take several lines; ``narrow_widths`` hold on a narrow terminal.
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


def print_comparison(comparison: Comparison, console: Console, *, everything: bool = False) -> None:
    """Verdict first, then the table, then warnings and what to do: at most `MOST_LINES` lines, or ``everything``.

    Where not all findings have room, the worst come first, and a line says how many are left out.
    """
    from rich.console import Group
    from rich.text import Text

    rule = "fixed limits, no statistics" if comparison.rule == "threshold" else f"alpha {comparison.alpha:.3g}"
    basis = f" ({sides_text(comparison)}; rule {comparison.rule}: {rule})"
    sentences, notes = headlines(comparison), tuple(map(clean, footnotes(comparison)))
    if not everything:
        sentences = at_most(sentences, MOST_SENTENCES, "{} more such sentences: perfkit compare --all prints them")
        notes = at_most(notes, MOST_NOTES, "{} more warnings: perfkit compare --all prints them")
    history = comparison.history.lines if comparison.history is not None else ()
    above = [Text.assemble((verdict_text(comparison.verdict), STYLES[comparison.verdict]), basis)]
    above += map(Text, sentences)
    below = [Text(f"History: {clean(line)}") for line in history]
    if comparison.errors:
        below.append(Text(f"Errors: {errors_text(comparison.errors)}"))
    below += [Text(f"! {note}", style="yellow") for note in notes]
    below.append(Text(f"Next: {next_step(comparison)}"))

    def middle(shown: Sequence[Finding]) -> Iterator[RenderableType]:
        if shown:
            yield comparison_table(replace(comparison, findings=tuple(shown)), console)
        if hidden := [finding for finding in comparison.findings if finding not in shown]:
            services = count_text(len({finding.label for finding in hidden}), "service")
            counts = f"{count_text(len(hidden), 'finding')} of {services} not shown ({verdict_counts(hidden)})"
            yield Text(f"{counts}: perfkit compare --all prints them", style="dim")

    def lines(*parts: RenderableType) -> int:
        return len(console.render_lines(Group(*parts), pad=False))

    shown: Sequence[Finding] = comparison.findings
    room = MOST_LINES - lines(*above, *below)
    if not everything and len(shown) + 1 > room:  # a row takes a line, or several
        worst = worst_first(finding for finding in shown if finding.verdict is not Verdict.NO_CHANGE)
        rows, shown = min(len(worst), room - 2), ()
        while rows > 0:
            chosen = [finding for members in services_worst_first(worst[:rows]).values() for finding in members]
            if (beyond := lines(*middle(chosen)) - room) <= 0:
                shown = chosen
                break
            rows -= (beyond + 1) // 2
    console.print(Group(*above, *middle(shown), *below))


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
    return terminal_table(shown, console, narrow_widths={"verdict": VERDICT_WIDTH, "metric": METRIC_WIDTH})


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
        counts = [UNKNOWN if number is None else f"{number:,}" for number in (stats.count, stats.failures)]
        table.add_row(Text(clean(name)), *counts, *(format_value(metric, stats.value(metric)) for metric in Metric))
    facts = [
        ("scenario", run.scenario),
        ("started", run.started_at.isoformat(timespec="seconds") if run.started_at else "not known"),
        ("load", run.profile.describe()),
        ("length", "" if run.duration_s is None else f"{run.duration_s:.1f} s"),
        ("tool", run.tool),
        ("target", run.target or ""),
        *(
            (title, ", ".join(f"{name} {value}" for name, value in texts.items()))
            for title, texts in (("git", run.git), ("labels", run.labels), ("environment", run.environment))
        ),
        ("requests", "kept" if run.load_requests is not None else "summary only"),
        ("valid", "yes" if run.validity.ok else "no"),
    ]
    lines = [f"{name}: {clean(value)}" for name, value in facts if value or name in ("scenario", "tool")]
    for check in run.validity.problems:
        why = f"{check.name}: {check.value} (limit {check.limit}). {check.advice}"
        lines.append(f"  {check.severity}: {clean(why)}")
    return Group(Text(clean(run.id), style="bold"), *map(Text, lines), Text(""), table)


# Changes of a history ------------------------------------------------------------------------------------------------

MOST_CHANGES = 8  # of one event that are listed; JSON has all
MOST_COMMITS = 10  # of one event
MOST_LISTED = 10  # outliers, and drifts, that are listed: the newest
EVENT_COLUMNS = (
    Column("date", "date", importance=3),
    Column("since", "since run"),
    Column("commits", "commits", importance=5),  # the lines below list them
    Column("service", "service"),
    Column("metric_short", "metric"),
    Column("before", "before", right=True, importance=1),
    Column("after", "after", right=True, importance=2),
    Column("change", "change", right=True),
    Column("interval", "95 % interval", right=True),
    Column("p", "p", right=True, importance=4),
    Column("event", "event"),
)


def print_changes(
    changes: DetectedChanges, console: Console, attribute: Attribute, acknowledged: Collection[str] = ()
) -> None:
    """What was searched, then a table of events, newest last, their commits, outliers and drifts.

    ``acknowledged`` holds ids of events that are known or intended.
    """
    from rich.text import Text

    console.print(Text(f"{clean(changes.scenario)}: {_summary_line(changes)}", style="bold"))
    commits = {event.id: attribute(event) for event in changes.events}
    if changes.events:
        table, rows, above = _events_table(changes.events, commits, acknowledged), [], None
        for row in table.rows:  # a service is named in its first row
            service = row.cells["service"]
            is_same = service == above and not row.cells["since"]
            rows.append(replace(row, cells={**row.cells, "service": "" if is_same else service}))
            above = service
        shown = replace(table, rows=tuple(rows))
        console.print(
            terminal_table(shown, console, wrapped=("service", "since"), narrow_widths={"event": VERDICT_WIDTH})
        )
    for event in changes.events:
        for line in _event_lines(event, commits[event.id]):
            console.print(Text(line))
    for change in changes.services_changed:
        console.print(Text(shorten(change.headline, LONGEST), style="bold"))
        for line in _commit_lines(change, attribute(change)):
            console.print(Text(line))
    for line in (*_outlier_lines(changes), *_drift_lines(changes)):
        console.print(Text(f"! {line}", style="yellow"))


def changes_to_markdown(
    histories: Sequence[DetectedChanges], attribute: Attribute, acknowledged: Collection[str] = ()
) -> str:
    """The same as Markdown, one section per scenario."""
    parts = ["# Changes"]
    for changes in histories:
        parts += [f"## {escape(changes.scenario)}", f"{escape(_summary_line(changes))}."]
        commits = {event.id: attribute(event) for event in changes.events}
        if changes.events:
            table = _events_table(changes.events, commits, acknowledged)
            rows = [tuple(escape(row.cells[column.name]) for column in table.columns) for row in table.rows]
            parts.append(_markdown_lines([column.title for column in table.columns], rows, _alignment(table.columns)))
        lists = [
            *([line.strip() for line in _event_lines(event, commits[event.id])] for event in changes.events),
            *(
                [change.headline, *(line.strip() for line in _commit_lines(change, attribute(change)))]
                for change in changes.services_changed
            ),
            [*_outlier_lines(changes), *_drift_lines(changes)],
        ]
        parts += ["\n".join(f"- {escape(line, LONGEST)}" for line in lines) for lines in lists if lines]
    return "\n\n".join(parts) + "\n"


def _summary_line(changes: DetectedChanges) -> str:
    """``120 runs (2 invalid), 21 series, alpha 0.01: 2 events``."""
    invalid = f" ({changes.invalid} invalid)" if changes.invalid else ""
    count = len(changes.events) + len(changes.services_changed)
    result = count_text(count, "event") if count else "no change found"
    runs = count_text(len(changes.timeline), "run")
    return f"{runs}{invalid}, {changes.series} series, alpha {changes.alpha:g}: {result}"


def _events_table(events: Sequence[Event], commits: Mapping[str, Attribution], acknowledged: Collection[str]) -> Table:
    """One row per metric change; the first of an event says what the event is."""
    empty, rows = {column.name: "" for column in EVENT_COLUMNS}, []
    for event in events:
        verdict, kind = EVENT_VERDICTS[event.kind], f"{VERDICT_SYMBOLS[Verdict.REGRESSION]} {event.kind}"
        if event.kind == "improvement":
            kind = f"{VERDICT_SYMBOLS[Verdict.IMPROVEMENT]} {event.kind}"
        elif event.kind == "mixed" and not any(item.is_worse for item in event.changes):
            kind = f"{VERDICT_SYMBOLS[Verdict.INCONCLUSIVE]} unit mistake?"  # what only got better
        first = {
            "date": format_time(event.first_after.started_at, "%Y-%m-%d"),
            "since": shorten(event.id, 50),
            "commits": clean(commits[event.id].span) or UNKNOWN,
            "event": f"{kind}{' (acknowledged)' if any(map(event.answers_to, acknowledged)) else ''}",
        }
        for item in event.changes[:MOST_CHANGES]:
            cells = change_row(item).cells
            rows.append(Row({**empty, **cells, "service": shorten(item.service), **first}, verdict))
            first = {}
        more = len(event.changes) - MOST_CHANGES
        if more > 0:
            rows.append(Row({**empty, "service": f"and {more} more"}, verdict))
    return Table(EVENT_COLUMNS, tuple(rows), len(rows))


def _event_lines(event: Event, commits: Attribution) -> Iterator[str]:
    """What else changed where an event happened, and its commits."""
    for text in event.coincides:
        yield f"{shorten(event.id, 50)}: {shorten(text, LONGEST)}"
    yield from _commit_lines(event, commits)


def _commit_lines(event: HistoryChange, commits: Attribution) -> Iterator[str]:
    """The commits of an event, and what is to be known about them."""
    if commits.commits:
        yield f"{shorten(event.id, 50)}: {count_text(commits.total or 0, 'commit')} in between:"
    for commit in commits.commits[:MOST_COMMITS]:
        who = f"{shorten(commit.author, 30)}, {clean(commit.date)[:10]}"
        yield f"  {commit.id[:9]} {shorten(commit.subject, 90)} ({who})"
    if len(commits.commits) > MOST_COMMITS:
        yield f"  and {(commits.total or 0) - MOST_COMMITS} more"
    for note in commits.notes:
        yield f"{shorten(event.id, 50)}: {clean(note)}"


def _outlier_lines(changes: DetectedChanges) -> Iterator[str]:
    """Single runs far from their level, newest last."""
    outliers, runs = list(changes.outliers.items()), changes.timeline.runs
    valid = [at for at, run in enumerate(runs) if run.valid]
    newest = list(takewhile(changes.outliers.__contains__, reversed(valid)))  # several in a row: perhaps a new level
    if len(outliers) > MOST_LISTED:
        yield f"{len(outliers)} outliers; the newest {MOST_LISTED} are listed"
    for at, keys in outliers[-MOST_LISTED:]:
        when = f" ({runs[at].started_at:%Y-%m-%d})" if runs[at].started_at else ""
        what = "outlier, no change"
        if at in newest and len(newest) > 1:
            what = "far from the level, too recent to tell a change from outliers"
        names = f"{', '.join(map(_series_text, keys[:3]))}{and_more(len(keys) - 3)}"
        yield f"{what}: run {shorten(runs[at].run_id, 50)}{when}: {names}"


def _drift_lines(changes: DetectedChanges) -> Iterator[str]:
    """Series that drifted steadily, strongest last."""
    drifts = sorted(changes.drifts, key=lambda item: abs(item[1].change_pct))
    if len(drifts) > MOST_LISTED:
        yield f"{len(drifts)} drifts; the strongest {MOST_LISTED} are listed"
    for series, drift in drifts[-MOST_LISTED:]:
        first, last = (changes.timeline.runs[at].run_id for at in (drift.begin, drift.end - 1))
        yield (
            f"drift, no step: {_series_text(series)} "
            f"{format_signed(drift.change_pct, '%')} % from run {shorten(first, 50)} to {shorten(last, 50)}"
        )


def _series_text(series: Series) -> str:
    service, metric = series
    return f"{SHORT_METRICS[metric.value]} of {shorten(service)}"


# Markdown ------------------------------------------------------------------------------------------------------------

MOST_ROWS = 10
MOST_BYTES = 1_000_000  # GitHub refuses the summary of a step beyond 1 MiB
MOST_LINES_IN_CELL = 3
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


def markdown_table(table: Table, names: Sequence[str], *, name_length: int = 60, most: int = MOST_ROWS) -> str:
    """Columns of a table by name, with names from outside escaped; rows after the first ``most`` are folded."""
    columns = table.chosen(names)
    rows = [
        tuple(
            escape(row.cells[column.name], name_length) if column.foreign else row.cells[column.name]
            for column in columns
        )
        for row in table.rows
    ]
    titles = [column.title[:1].upper() + column.title[1:] for column in columns]
    return folded(titles, rows, _alignment(columns), most)


def folded(header: Sequence[str], rows: Sequence[tuple[str, ...]], align: str, most: int = MOST_ROWS) -> str:
    """A table of escaped cells; rows after the first ``most`` are folded.  ``align`` has ``<`` or ``>`` a column."""
    rest = (
        [details(f"{len(rows) - most} more", _markdown_lines(header, rows[most:], align))] if len(rows) > most else []
    )
    return "\n\n".join([_markdown_lines(header, rows[:most], align), *rest])


def _markdown_lines(header: Sequence[str], rows: Sequence[tuple[str, ...]], align: str) -> str:
    marks = ["--:" if side == ">" else ":--" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


def _alignment(columns: Iterable[Column]) -> str:
    return "".join(">" if column.right else "<" for column in columns)


def bullets(texts: Iterable[str], most: int = MOST_ROWS) -> str:
    """A list of texts from outside; those after the first ``most`` are folded."""
    lines = [f"- {escape(text, 400)}" for text in texts]
    first, rest = "\n".join(lines[:most]), "\n".join(lines[most:])
    return f"{first}\n\n{details(f'{len(lines) - most} more', rest)}" if rest else first


def details(summary: str, text: str) -> str:
    """Markdown that is folded below a summary, which is HTML."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def to_markdown(comparison: Comparison) -> str:
    """The whole comparison: verdict, what changed, tables, warnings, both sides."""
    warnings = [text for text in comparison.warnings if text != comparison.disturbance]
    parts = [
        f"# Regression analysis: {verdict_text(comparison.verdict)}",
        bullets(headlines(comparison)),
        f"**Next:** {next_step(comparison, lambda text: escape(text, LONGEST))}",
        _threshold(comparison) if comparison.rule == "threshold" else _evidence(comparison),
        _section("History", bullets(comparison.history.lines if comparison.history is not None else ())),
        _section("Warnings", bullets(warnings)),
        _section("Runs", markdown_runs(comparison)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_runs(comparison: Comparison) -> str:
    """A table of the runs of both sides."""
    rows = [
        (
            title,
            escape(run.id),
            escape(run.scenario),
            escape(run.profile.describe()),
            UNKNOWN if run.request_count is None else f"{run.request_count:,}",
            "yes" if run.validity.ok else "no",
        )
        for title, runs in zip(("baseline", "candidate"), sides_of(comparison), strict=True)
        for run in runs
    ]
    return folded(("Side", "Run", "Scenario", "Load", "Requests", "Valid"), rows, "<<<<><")


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
        parts.append(_section(title, markdown_table(part, names) if findings else "None."))
    return "\n\n".join(parts)


def _evidence(comparison: Comparison) -> str:
    note = (
        f"Rule `evidence`: each run counts as one observation; at most {comparison.alpha:g} chance that a comparison "
        "of identical builds calls any regression."
    )
    names = ("verdict", "service", "metric", "before", "after", "change", "interval", "tolerance", "p", "mde")
    table = markdown_table(findings_table(comparison, ranked=True), names) if comparison.findings else ""
    lines = []
    for finding in worst_first(comparison.by_verdict(Verdict.INCONCLUSIVE)):
        text = "; ".join(part for part in (settle(finding), *finding.warnings) if part)
        if text:
            lines.append(f"{finding.label}, {finding_row(finding).cells['metric']}: {text}")
    parts = (note, _section("Findings", table), _section("What would settle it", bullets(lines)))
    return "\n\n".join(part for part in parts if part)


def overview(messages: Sequence[Message], says: Iterable[str]) -> str:
    """A table of results; ``says`` are escaped cells of what each says."""
    heads = ((outcome_text(one.verdict), escape(one.scenario, 60), one.kind) for one in messages)
    rows = [(*head, text) for head, text in zip(heads, says, strict=True)]
    return folded(("Verdict", "Scenario", "Report", "What it says"), rows, "<<<<")


def page_title(message: Message) -> str:
    """The summary, which is HTML, below which a result is folded."""
    return f"{outcome_text(message.verdict)}: {escape(message.scenario, 60)}, {message.kind}"


def to_summary(messages: Sequence[Message], report: str = "") -> str:
    """A table of all results, and each one whole; of several, those that need no attention are folded.

    What does not fit into `MOST_BYTES` is left out, and that is said.
    """
    parts = []
    if len(messages) > 1:
        says = []
        for one in messages:
            texts = [escape(text, 200) for _, text in one.lines]
            says.append(" ".join(at_most(texts, MOST_LINES_IN_CELL, "And {} more.")))
        parts.append(f"# Load tests\n\n{overview(messages, says)}")
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
    state = "" if message.verdict in _QUIET else " open"
    return f"<details{state}><summary>{page_title(message)}</summary>\n\n{text}\n\n</details>"


# JUnit ---------------------------------------------------------------------------------------------------------------

_STATUSES = {Verdict.REGRESSION: "failure", Verdict.INCONCLUSIVE: "skipped", Verdict.INVALID: "error"}
LONGEST_ATTRIBUTE = 1000  # characters of an attribute: servers show them in one line


class _Case(NamedTuple):
    """A test case; ``status`` is ``failure``, ``error``, ``skipped``, or empty for one that passed."""

    name: str
    status: str = ""
    kind: str = ""
    message: str = ""
    text: str = ""


def to_junit(comparison: Comparison) -> str:
    """An XML document with one suite named ``perfkit compare``."""
    return _document([_comparison_suite(comparison, "perfkit compare", "perfkit")])


def messages_to_junit(messages: Sequence[Message]) -> str:
    """An XML document with a suite for each result that judges, and for each report that could not be made."""
    suites = []
    for message in messages:
        scenario, result = clean(message.scenario), message.result
        title, class_name = f"perfkit {message.kind} {scenario}", f"perfkit.{scenario}.{message.kind}"
        texts = [text for _, text in message.lines]
        if result is not None and result.comparison is not None:
            suites.append(_comparison_suite(result.comparison, title, class_name))
        elif result is not None:
            suites.append(_suite(title, class_name, list(_history_cases(result)), texts))
        elif texts:
            text = "\n".join(texts)
            case = _Case("report was made", "error", str(message.verdict), text, text)
            suites.append(_suite(title, class_name, [case], []))
    return _document(suites)


def _comparison_suite(comparison: Comparison, title: str, class_name: str) -> ElementTree.Element:
    notes = [*headlines(comparison), *comparison.warnings]
    return _suite(title, class_name, list(_cases(comparison)), notes)


def _cases(comparison: Comparison) -> Iterator[_Case]:
    judged = comparison.verdict is not Verdict.INVALID
    if not judged:
        text = "\n".join(clean(warning) for warning in comparison.warnings)
        yield _Case("runs can be judged", "error", "invalid", headlines(comparison)[0], text)
    if judged and comparison.gaps and comparison.verdict is not Verdict.REGRESSION:  # no case would show it
        yield _Case("everything was measured", "skipped", "", "\n".join(gap_texts(comparison)))
    for text in comparison.history.news if comparison.history is not None else ():
        yield _Case("history", "failure", "regression", text)
    for finding in comparison.findings:
        limit = f" ({finding.limit})" if finding.objective else ""
        name = f"{shorten(finding.label, 200)}: {Metric(finding.metric).title}{limit}"
        status = _STATUSES.get(finding.verdict, "")
        if not judged or not status:
            yield _Case(name) if judged else _Case(name, "skipped", "", "the comparison is invalid")
            continue
        cells = finding_row(finding).cells
        interval = f" {cells['interval']}" if cells["interval"] != UNKNOWN else ""
        text = f"{cells['change']}{interval}, tolerance {limit_text(finding)}"
        if finding.verdict is not Verdict.REGRESSION:
            reason = "; ".join(part for part in (settle(finding), *finding.warnings) if part)
            text = f"{finding.verdict}: {text}; {reason}".removesuffix("; ")
        yield _Case(name, status, finding.verdict.value, text)


def _history_cases(result: Result) -> Iterator[_Case]:
    """Every worsening that was ever detected is a case; one that is over or acknowledged passes."""
    for incident in result.incidents:
        last, event = incident.last, incident.last.event
        name = f"no regression since run {event.id}"
        if last.fails:
            yield _Case(name, "failure", "regression", event.headline)
        elif last.is_open:
            yield _Case(name, "skipped", "inconclusive", f"{event.headline} {last.doubt}".rstrip())
        else:
            yield _Case(name)
    judged = "nothing got worse" if result.verdict is not Verdict.INVALID else "runs can be judged"
    if text := NO_EVENTS.get(result.verdict, ""):
        status = "error" if result.verdict is Verdict.INVALID else "skipped"
        if status == "error" or not result.incidents:
            yield _Case(judged, status, result.verdict.value, text)
    elif not result.incidents:
        yield _Case(judged)


def _document(suites: Iterable[ElementTree.Element]) -> str:
    root = ElementTree.Element("testsuites")
    root.extend(suites)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(title: str, class_name: str, cases: Sequence[_Case], notes: Iterable[str]) -> ElementTree.Element:
    statuses = [case.status for case in cases]
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite = ElementTree.Element(
        "testsuite",
        {"name": title, "tests": str(len(cases)), **{name: str(statuses.count(one)) for name, one in counts.items()}},
    )
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", classname=class_name, name=clean(case.name))
        if case.status:
            attributes = {"message": shorten(case.message, LONGEST_ATTRIBUTE), "type": case.kind}
            given = {name: text for name, text in attributes.items() if text}
            ElementTree.SubElement(element, case.status, given).text = case.text or None
    ElementTree.SubElement(suite, "system-out").text = "\n".join(clean(note) for note in notes)
    return suite
