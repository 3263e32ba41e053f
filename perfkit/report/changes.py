"""The changes that were detected in histories, as text for a terminal and as Markdown: one table of events for both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from perfkit.history.change_events import HistoryChange
from perfkit.history.changes import Attribute, DetectedChanges
from perfkit.history.commits import Attribution
from perfkit.history.events import Event, Series
from perfkit.model.records import Verdict
from perfkit.report.findings import Column, Row, Table, change_row, count_text
from perfkit.report.formatting import SHORT_METRICS, UNKNOWN, VERDICT_SYMBOLS, clean, format_signed, shorten
from perfkit.report.markdown import escape
from perfkit.report.terminal import draw_table

if TYPE_CHECKING:
    from rich.console import Console

MOST_CHANGES = 8  # of one event that are listed; JSON has all
MOST_COMMITS = 10
LONGEST_LINE = 400  # characters
MOST_LINES = 10  # outliers, and drifts, that are listed: the newest
_COLUMNS = (
    Column("date", "date", importance=3),
    Column("since", "since run"),
    Column("commits", "commits"),
    Column("service", "service"),
    Column("metric_short", "metric"),
    Column("before", "before", right=True, importance=1),
    Column("after", "after", right=True, importance=2),
    Column("change", "change", right=True),
    Column("interval", "95 % interval", right=True),
    Column("p", "p", right=True, importance=4),
    Column("event", "event"),
)
_VERDICTS = {
    "regression": Verdict.REGRESSION,
    "improvement": Verdict.IMPROVEMENT,
    "mixed": Verdict.INCONCLUSIVE,
}


def print_changes(
    changes: DetectedChanges, console: Console, attribute: Attribute, acknowledged: Collection[str] = ()
) -> None:
    """What was searched, then a table of events, newest last, their commits, outliers and drifts.

    ``acknowledged`` holds ids of events that are known or intended.
    """
    from rich.text import Text

    console.print(Text(f"{clean(changes.scenario)}: {summary_line(changes)}", style="bold"))
    commits = {event.id: attribute(event) for event in changes.events}
    if changes.events:
        table = events_table(changes.events, commits, acknowledged)
        console.print(draw_table(table, console, wrapped=("service", "since")))
    for event in changes.events:
        for line in _event_lines(event, commits[event.id]):
            console.print(Text(line))
    for change in changes.services_changed:
        console.print(Text(shorten(change.headline, LONGEST_LINE), style="bold"))
        for line in _commit_lines(change, attribute(change)):
            console.print(Text(line))
    for line in (*outlier_lines(changes), *drift_lines(changes)):
        console.print(Text(f"! {line}", style="yellow"))


def changes_to_markdown(
    every: Sequence[DetectedChanges], attribute: Attribute, acknowledged: Collection[str] = ()
) -> str:
    """The same as Markdown, one section per scenario."""
    parts = ["# Changes"]
    for changes in every:
        parts += [f"## {escape(changes.scenario)}", f"{escape(summary_line(changes))}."]
        commits = {event.id: attribute(event) for event in changes.events}
        if changes.events:
            table = events_table(changes.events, commits, acknowledged)
            marks = ["--:" if column.right else ":--" for column in table.columns]
            rows = [[escape(row.cells[column.name]) for column in table.columns] for row in table.rows]
            titles = [column.title for column in table.columns]
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows)))
        lists = [
            *([line.strip() for line in _event_lines(event, commits[event.id])] for event in changes.events),
            *(
                [change.headline, *(line.strip() for line in _commit_lines(change, attribute(change)))]
                for change in changes.services_changed
            ),
            [*outlier_lines(changes), *drift_lines(changes)],
        ]
        parts += ["\n".join(f"- {escape(line, LONGEST_LINE)}" for line in lines) for lines in lists if lines]
    return "\n\n".join(parts) + "\n"


def summary_line(changes: DetectedChanges) -> str:
    """``120 runs (2 invalid), 21 series, alpha 0.01: 2 events``."""
    invalid = f" ({changes.invalid} invalid)" if changes.invalid else ""
    count = len(changes.events) + len(changes.services_changed)
    result = count_text(count, "event") if count else "no change found"
    runs = count_text(len(changes.timeline), "run")
    return f"{runs}{invalid}, {changes.series} series, alpha {changes.alpha:g}: {result}"


def events_table(events: Sequence[Event], commits: Mapping[str, Attribution], acknowledged: Collection[str]) -> Table:
    """One row per metric change; the first of an event says what the event is."""
    empty, rows = {column.name: "" for column in _COLUMNS}, []
    for event in events:
        verdict, kind = _VERDICTS[event.kind], f"{VERDICT_SYMBOLS[Verdict.REGRESSION]} {event.kind}"
        if event.kind == "improvement":
            kind = f"{VERDICT_SYMBOLS[Verdict.IMPROVEMENT]} {event.kind}"
        elif event.kind == "mixed" and not any(item.is_worse for item in event.changes):
            kind = f"{VERDICT_SYMBOLS[Verdict.INCONCLUSIVE]} unit mistake?"  # what only got better
        first = {
            "date": f"{event.first_after.started_at:%Y-%m-%d}" if event.first_after.started_at else UNKNOWN,
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
    return Table(_COLUMNS, tuple(rows), len(rows))


def _event_lines(event: Event, commits: Attribution) -> Iterator[str]:
    """What else changed where an event happened, and its commits."""
    for text in event.coincides:
        yield f"{shorten(event.id, 50)}: {shorten(text, LONGEST_LINE)}"
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


def outlier_lines(changes: DetectedChanges) -> Iterator[str]:
    """Single runs far from their level, newest last."""
    outliers, runs = list(changes.outliers.items()), changes.timeline.runs
    valid = [at for at, run in enumerate(runs) if run.valid]
    newest = list(takewhile(changes.outliers.__contains__, reversed(valid)))  # several in a row: perhaps a new level
    if len(outliers) > MOST_LINES:
        yield f"{len(outliers)} outliers; the newest {MOST_LINES} are listed"
    for at, keys in outliers[-MOST_LINES:]:
        when = f" ({runs[at].started_at:%Y-%m-%d})" if runs[at].started_at else ""
        what = "outlier, no change"
        if at in newest and len(newest) > 1:
            what = "far from the level, too recent to tell a change from outliers"
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        yield f"{what}: run {shorten(runs[at].run_id, 50)}{when}: {', '.join(map(_series_text, keys[:3]))}{more}"


def drift_lines(changes: DetectedChanges) -> Iterator[str]:
    """Series that drifted steadily, strongest last."""
    drifts = sorted(changes.drifts, key=lambda item: abs(item[1].change_pct))
    if len(drifts) > MOST_LINES:
        yield f"{len(drifts)} drifts; the strongest {MOST_LINES} are listed"
    for series, drift in drifts[-MOST_LINES:]:
        first, last = (changes.timeline.runs[at].run_id for at in (drift.begin, drift.end - 1))
        yield (
            f"drift, no step: {_series_text(series)} "
            f"{format_signed(drift.change_pct, '%')} % from run {shorten(first, 50)} to {shorten(last, 50)}"
        )


def _series_text(series: Series) -> str:
    service, metric = series
    return f"{SHORT_METRICS[metric.value]} of {shorten(service)}"
