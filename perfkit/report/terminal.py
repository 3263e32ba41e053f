"""A comparison, and live progress, as text for a terminal.

The events of histories as text for a terminal, and as Markdown.

One run as the terminal shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from perfkit.history.change_events import Event, Happened, Movement, Series
from perfkit.history.commits import Attribution
from perfkit.history.trend import Attribute, DetectedChanges
from perfkit.model.records import Comparison, Finding, Metric, Run, ServiceStats, Verdict
from perfkit.report.findings import limit_text, mde_text, settle_short
from perfkit.report.formatting import (
    SHORT_METRICS,
    UNKNOWN,
    VERDICT_SYMBOLS,
    clean,
    finding_text,
    format_change,
    format_interval,
    format_p,
    format_signed,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.report.markdown import escape
from perfkit.report.sentences import footnotes, headlines, next_step

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

MOST_MOVEMENTS = 8  # of one event that are listed; JSON has all
MOST_COMMITS = 10
LONGEST_LINE = 400  # characters
MOST_LINES = 10  # outliers, and drifts, that are listed: the newest
NARROW_CHANGES = ("before", "after", "date", "p")  # on a narrow terminal, in this order
TITLES = (
    "date",
    "since run",
    "commits",
    "service",
    "metric",
    "before",
    "after",
    "change",
    "95 % interval",
    "p",
    "event",
)
_LEFT = ("date", "since run", "commits", "service", "metric", "event")
_STYLES = {"regression": "bold red", "improvement": "green", "mixed": "yellow"}
_VERDICTS = {
    "regression": Verdict.REGRESSION,
    "improvement": Verdict.IMPROVEMENT,
    "mixed": Verdict.REGRESSION,
}


def _kind_text(event: Event) -> str:
    """Symbol and kind; what only got better, by a unit mistake perhaps, is a question."""
    if event.kind == "mixed" and not any(item.is_worse for item in event.movements):
        return f"{VERDICT_SYMBOLS[Verdict.INCONCLUSIVE]} unit mistake?"
    return f"{VERDICT_SYMBOLS[_VERDICTS[event.kind]]} {event.kind}"


def print_survey(
    survey: DetectedChanges, console: Console, attribute: Attribute, silenced: Collection[str] = ()
) -> None:
    """What was looked at, then a table of events, newest last, their commits, outliers and drifts.

    ``silenced`` holds ids of events that are known or intended.
    """
    from rich.text import Text

    console.print(Text(f"{clean(survey.scenario)}: {looked_at(survey)}", style="bold"))
    found = {event.id: attribute(event) for event in survey.events}
    if survey.events:
        console.print(_fitting(survey, found, silenced, console))
    for event in survey.events:
        for line in (*_beside(event), *_commit_lines(event, found[event.id])):
            console.print(Text(line))
    for change in survey.services:
        console.print(Text(shorten(change.headline, LONGEST_LINE), style="bold"))
        for line in _commit_lines(change, attribute(change)):
            console.print(Text(line))
    for line in (*outlier_lines(survey), *drift_lines(survey)):
        console.print(Text(f"! {line}", style="yellow"))


def looked_at(survey: DetectedChanges) -> str:
    """``120 runs (2 invalid), 21 series, alpha 0.01: 2 events``."""
    runs = _count(len(survey.timeline), "run")
    invalid = f" ({survey.invalid} invalid)" if survey.invalid else ""
    count = len(survey.events) + len(survey.services)
    found = _count(count, "event") if count else "no change found"
    return f"{runs}{invalid}, {survey.series} series, alpha {survey.alpha:g}: {found}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _fitting(
    survey: DetectedChanges, found: Mapping[str, Attribution], silenced: Collection[str], console: Console
) -> Table:
    unlimited = console.options.update_width(10_000)  # measured in the real width, nothing is ever too wide
    titles = list(TITLES)
    for out in (None, *NARROW_CHANGES):
        titles = [title for title in titles if title != out]
        table = _changes_table(survey, found, silenced, titles, gap=2)
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    return _changes_table(survey, found, silenced, titles, gap=1)


def _changes_table(
    survey: DetectedChanges,
    found: Mapping[str, Attribution],
    silenced: Collection[str],
    titles: Sequence[str],
    gap: int,
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, collapse_padding=True, padding=(0, gap), header_style="bold")
    for title in titles:
        is_free = title in ("service", "since run")
        justify = "left" if title in _LEFT else "right"
        table.add_column(title, justify=justify, no_wrap=not is_free, overflow="fold")  # type: ignore[arg-type]
    for event in survey.events:
        for row in _rows(event, found[event.id], silenced):
            style = _STYLES[event.kind] if row["event"] else ""
            table.add_row(*(Text(row[title], style=style if title == "event" else "") for title in titles))
    return table


def _rows(event: Event, commits: Attribution, silenced: Collection[str]) -> Iterator[dict[str, str]]:
    """One row per movement; the first says what the event is."""
    quiet = " (acknowledged)" if any(map(event.answers_to, silenced)) else ""
    first = {
        "date": f"{event.first_after.started_at:%Y-%m-%d}" if event.first_after.started_at else UNKNOWN,
        "since run": shorten(event.id, 50),
        "commits": clean(commits.span) or UNKNOWN,
        "event": f"{_kind_text(event)}{quiet}",
    }
    for item in event.movements[:MOST_MOVEMENTS]:
        yield {**dict.fromkeys(TITLES, ""), **first, **_cells(item)}
        first = {}
    more = len(event.movements) - MOST_MOVEMENTS
    if more > 0:
        yield {**dict.fromkeys(TITLES, ""), "service": f"and {more} more"}


def _cells(item: Movement) -> dict[str, str]:
    unit = item.metric.change_unit
    ends = [format_signed(end, unit) for end in (item.size_low, item.size_high)]
    return {
        "service": shorten(item.service),
        "metric": SHORT_METRICS[item.metric.value],
        "before": format_value(item.metric, item.change.before),
        "after": format_value(item.metric, item.change.after),
        "change": f"{format_signed(item.size, unit)} {unit}",
        "95 % interval": UNKNOWN if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]",
        "p": format_p(item.change.p_value),
    }


def _beside(event: Event) -> Iterator[str]:
    """What else changed where an event happened."""
    for text in event.coincides:
        yield f"{shorten(event.id, 50)}: {shorten(text, LONGEST_LINE)}"


def _commit_lines(event: Happened, found: Attribution) -> Iterator[str]:
    """The commits of an event, and what is to be known about them."""
    if found.commits:
        yield f"{shorten(event.id, 50)}: {_count(found.total or 0, 'commit')} in between:"
    for commit in found.commits[:MOST_COMMITS]:
        who = f"{shorten(commit.author, 30)}, {clean(commit.date)[:10]}"
        yield f"  {commit.id[:9]} {shorten(commit.subject, 90)} ({who})"
    if len(found.commits) > MOST_COMMITS:
        yield f"  and {(found.total or 0) - MOST_COMMITS} more"
    for note in found.notes:
        yield f"{shorten(event.id, 50)}: {clean(note)}"


def outlier_lines(survey: DetectedChanges) -> Iterator[str]:
    """Single strange runs, newest last."""
    every = list(survey.outliers.items())
    recent = _newest_in_a_row(survey)
    if len(every) > MOST_LINES:
        yield f"{len(every)} outliers; the newest {MOST_LINES} are listed"
    for at, keys in every[-MOST_LINES:]:
        moment = survey.timeline.moments[at]
        when = f" ({moment.started_at:%Y-%m-%d})" if moment.started_at else ""
        what = "far from the level, too recent to tell a change from outliers" if at in recent else "outlier, no change"
        yield f"{what}: run {shorten(moment.run_id, 50)}{when}: {_series(keys)}"


def _newest_in_a_row(survey: DetectedChanges) -> frozenset[int]:
    """Indices of the newest valid runs that are all outliers, where they are more than one: perhaps a new level."""
    valid = [at for at, moment in enumerate(survey.timeline.moments) if moment.valid]
    newest = list(takewhile(survey.outliers.__contains__, reversed(valid)))
    return frozenset(newest if len(newest) > 1 else ())


def _series(keys: Sequence[Series]) -> str:
    named = [f"{SHORT_METRICS[metric.value]} of {shorten(service)}" for service, metric in keys[:3]]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(named)}{more}"


def drift_lines(survey: DetectedChanges) -> Iterator[str]:
    """Series that moved steadily, strongest last."""
    every = sorted(survey.drifts, key=lambda item: abs(item[1].change_pct))
    if len(every) > MOST_LINES:
        yield f"{len(every)} drifts; the strongest {MOST_LINES} are listed"
    for (service, metric), drift in every[-MOST_LINES:]:
        first, last = (survey.timeline.moments[at].run_id for at in (drift.begin, drift.end - 1))
        yield (
            f"drift, no step: {SHORT_METRICS[metric.value]} of {shorten(service)} "
            f"{format_signed(drift.change_pct, '%')} % from run {shorten(first, 50)} to {shorten(last, 50)}"
        )


def surveys_to_markdown(
    surveys: Sequence[DetectedChanges], attribute: Attribute, silenced: Collection[str] = ()
) -> str:
    """The same as Markdown, one section per scenario."""
    return "\n\n".join(("# Changes", *(_section(survey, attribute, silenced) for survey in surveys))) + "\n"


def _section(survey: DetectedChanges, attribute: Attribute, silenced: Collection[str]) -> str:
    parts = [f"## {escape(survey.scenario)}", f"{escape(looked_at(survey))}."]
    found = {event.id: attribute(event) for event in survey.events}
    if survey.events:
        marks = [":--" if title in _LEFT else "--:" for title in TITLES]
        rows = [
            [escape(row[title]) for title in TITLES] for e in survey.events for row in _rows(e, found[e.id], silenced)
        ]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (TITLES, marks, *rows)))
    for event in survey.events:
        lines = [line.strip() for line in (*_beside(event), *_commit_lines(event, found[event.id]))]
        parts += ["\n".join(f"- {escape(line, LONGEST_LINE)}" for line in lines)] if lines else []
    for change in survey.services:
        lines = [change.headline, *(line.strip() for line in _commit_lines(change, attribute(change)))]
        parts += ["\n".join(f"- {escape(line, LONGEST_LINE)}" for line in lines)]
    notes = [*outlier_lines(survey), *drift_lines(survey)]
    parts += ["\n".join(f"- {escape(line, 400)}" for line in notes)] if notes else []
    return "\n\n".join(parts)


def run_page(run: Run) -> Group:
    """What the run was, what its checks found, and a table of its services."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold")
    for title in ("requests", "failures", *(metric.value.removesuffix("_latency_ms") for metric in Metric)):
        table.add_column(title, justify="right")
    for name, stats in run.services.items():
        table.add_row(Text(clean(name)), *_stats_cells(stats))
    facts = [Text(f"{name}: {clean(value)}") for name, value in _facts(run)]
    return Group(Text(clean(run.id), style="bold"), *facts, Text(""), table)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "scenario", run.scenario
    yield "started", run.started_at.isoformat(timespec="seconds") if run.started_at else "not known"
    yield "load", run.profile.describe()
    if run.duration_s is not None:
        yield "length", f"{run.duration_s:.1f} s"
    yield "tool", run.tool
    if run.target:
        yield "target", run.target
    for title, texts in (("git", run.git), ("labels", run.labels), ("environment", run.environment)):
        if texts:
            yield title, ", ".join(f"{name} {value}" for name, value in texts.items())
    yield "requests", "kept" if run.load_requests is not None else "summary only"
    yield "valid", "yes" if run.validity.ok else "no"
    for check in run.validity.problems:
        yield f"  {check.severity}", f"{check.name}: {check.value} (limit {check.limit}). {check.advice}"


def _stats_cells(stats: ServiceStats) -> list[str]:
    counts = ["~" if number is None else f"{number:,}" for number in (stats.count, stats.failures)]
    return [*counts, *(format_value(metric, stats.value(metric)) for metric in Metric)]


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
        "detectable": mde_text,
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
        service = "" if finding.label == above else shorten(finding.label)
        above = finding.label
        metric = SHORT_METRICS.get(finding.metric, finding.metric)
        verdict = Text(finding_text(finding), style=STYLES[finding.verdict])
        table.add_row(*map(Text, (service, metric, *(cell(finding) for cell in columns.values()))), verdict)
    return table
