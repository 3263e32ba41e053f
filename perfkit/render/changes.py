"""The events of histories as text for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from perfkit.history.attribution import Attribution
from perfkit.history.events import Event, Happened, Movement, Series
from perfkit.history.survey import Attribute, Survey
from perfkit.model import Verdict
from perfkit.render.markdown import escape
from perfkit.render.theme import (
    SHORT_METRICS,
    UNKNOWN,
    VERDICT_SYMBOLS,
    clean,
    format_p,
    format_signed,
    format_value,
    shorten,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_MOVEMENTS = 8  # of one event that are listed; JSON has all
MOST_COMMITS = 10
LONGEST_LINE = 400  # characters
MOST_LINES = 10  # outliers, and drifts, that are listed: the newest
LEFT_OUT = ("before", "after", "date", "p")  # on a narrow terminal, in this order
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


def print_survey(survey: Survey, console: Console, attribute: Attribute, silenced: Collection[str] = ()) -> None:
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


def looked_at(survey: Survey) -> str:
    """``120 runs (2 invalid), 21 series, alpha 0.01: 2 events``."""
    runs = _count(len(survey.timeline), "run")
    invalid = f" ({survey.invalid} invalid)" if survey.invalid else ""
    count = len(survey.events) + len(survey.services)
    found = _count(count, "event") if count else "no change found"
    return f"{runs}{invalid}, {survey.series} series, alpha {survey.alpha:g}: {found}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _fitting(survey: Survey, found: Mapping[str, Attribution], silenced: Collection[str], console: Console) -> Table:
    unlimited = console.options.update_width(10_000)  # measured in the real width, nothing is ever too wide
    titles = list(TITLES)
    for out in (None, *LEFT_OUT):
        titles = [title for title in titles if title != out]
        table = _table(survey, found, silenced, titles, gap=2)
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    return _table(survey, found, silenced, titles, gap=1)


def _table(
    survey: Survey, found: Mapping[str, Attribution], silenced: Collection[str], titles: Sequence[str], gap: int
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


def outlier_lines(survey: Survey) -> Iterator[str]:
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


def _newest_in_a_row(survey: Survey) -> frozenset[int]:
    """Indices of the newest valid runs that are all outliers, where they are more than one: perhaps a new level."""
    valid = [at for at, moment in enumerate(survey.timeline.moments) if moment.valid]
    newest = list(takewhile(survey.outliers.__contains__, reversed(valid)))
    return frozenset(newest if len(newest) > 1 else ())


def _series(keys: Sequence[Series]) -> str:
    named = [f"{SHORT_METRICS[metric.value]} of {shorten(service)}" for service, metric in keys[:3]]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(named)}{more}"


def drift_lines(survey: Survey) -> Iterator[str]:
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


def surveys_to_markdown(surveys: Sequence[Survey], attribute: Attribute, silenced: Collection[str] = ()) -> str:
    """The same as Markdown, one section per scenario."""
    return "\n\n".join(("# Changes", *(_section(survey, attribute, silenced) for survey in surveys))) + "\n"


def _section(survey: Survey, attribute: Attribute, silenced: Collection[str]) -> str:
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
