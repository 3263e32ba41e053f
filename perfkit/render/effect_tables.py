"""Effects as tables of a message: of the events that are told, and of the comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perfkit.history.events import Movement
from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.news import News
from perfkit.render.theme import (
    UNKNOWN,
    clean,
    finding_text,
    format_change,
    format_interval,
    format_signed,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.render.words import limit_text
from perfkit.results import Result

MOST_ROWS = 30
NAME = 60  # characters of a name
ORDER = (Verdict.REGRESSION, Verdict.INVALID, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


@dataclass(frozen=True, slots=True)
class Row:
    """One effect in a table; all is ready to be read, ``text`` is its verdict."""

    verdict: Verdict
    text: str
    service: str
    metric: str
    change: str
    interval: str
    before: str
    after: str
    tolerance: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The effects that decide; ``total`` is of how many, ``level`` that of the intervals."""

    title: str
    rows: tuple[Row, ...]
    total: int
    level: str


def effect_tables(result: Result, news: News | None) -> Iterator[Table]:
    """Effects of the events, which reach back as far as they do, and of the comparison, whose baseline is new."""
    comparison = result.comparison
    events = result.watched and bool(result.news)
    if events or comparison is None:
        title = "What happened" if comparison is not None else ""
        yield _movements(result, news, title)
    if comparison is not None:
        sides = [count_runs(len(side.runs)) for side in (comparison.candidate, comparison.baseline)]
        yield _findings(comparison, f"{sides[0]} against the {sides[1]} before" if events else "")


def _findings(comparison: Comparison, title: str) -> Table:
    """The findings that decide first."""
    ranked = sorted(
        comparison.findings,
        key=lambda f: (ORDER.index(f.verdict), not f.gating, f.p_adjusted if f.p_adjusted is not None else 2.0),
    )
    level = f"{comparison.confidence:.0%} interval".replace("%", " %")
    return Table(title, tuple(_finding(one) for one in ranked[:MOST_ROWS]), len(ranked), level)


def _finding(finding: Finding) -> Row:
    interval = format_interval(finding)
    return Row(
        finding.verdict,
        finding_text(finding),
        shorten(finding.service, NAME),
        Metric(finding.metric).title,
        format_change(finding),
        "" if interval == UNKNOWN else interval,
        format_value(finding.metric, finding.baseline),
        format_value(finding.metric, finding.candidate),
        clean(limit_text(finding)),
    )


def _movements(result: Result, news: News | None, title: str) -> Table:
    """What moved in the events that are told, new ones first."""
    fresh = (*news.appeared, *news.returned) if news is not None else ()
    open_now = sorted(result.news, key=lambda one: one not in fresh)
    items = [item for one in open_now for item in one.last.event.movements]
    return Table(title, tuple(_movement(item) for item in items[:MOST_ROWS]), len(items), "95 % interval")


def _movement(item: Movement) -> Row:
    unit = item.metric.change_unit
    ends = [format_signed(end, unit) for end in (item.size_low, item.size_high)]
    verdict = Verdict.REGRESSION if item.is_worse else Verdict.IMPROVEMENT
    return Row(
        verdict,
        verdict_text(verdict),
        shorten(item.service, NAME),
        item.metric.title,
        f"{format_signed(item.size, unit)} {unit}",
        "" if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]",
        format_value(item.metric, item.change.before),
        format_value(item.metric, item.change.after),
    )


def count_runs(count: int) -> str:
    """``3 runs``."""
    return "1 run" if count == 1 else f"{count} runs"


def row_verdict(row: Row) -> str:
    """``✗ regression``, ``✓ no regression, likely better``."""
    return row.text
