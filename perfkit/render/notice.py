"""What a message says of a result, whoever carries it: what happened, what was measured, what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from perfkit.history.attribution import Attribution
from perfkit.history.episodes import Episode
from perfkit.history.events import Event, Movement
from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.news import Known, News
from perfkit.render.commands import acknowledge_line, bisect_line, judge_lines
from perfkit.render.theme import (
    UNKNOWN,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    format_change,
    format_interval,
    format_signed,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.render.words import headlines, limit_text, next_step
from perfkit.results import Result

MOST_HAPPENINGS = 8  # of each kind; the result has all
MOST_COMMITS = 5
MOST_WARNINGS = 5
MOST_ROWS = 30
NAME = 60  # characters of a name in a sentence
_ORDER = (Verdict.REGRESSION, Verdict.INVALID, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the whole report is: in words, and by address where it has one."""

    words: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Telling:
    """A result to be told.

    Parameters
    ----------
    news
        What is new in it for its reader; ``None``: it is told whole.
    commits
        What lies between the runs of an event, by the event's id.
    """

    result: Result
    place: Place = field(default_factory=Place)
    news: News | None = None
    commits: Mapping[str, Attribution] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Happening:
    """One event: what is said of it, since when, by which commits, and the commands that deal with it.

    ``tag`` is ``new``, ``again``, ``over`` or ``told before``; empty where nobody keeps account of that.
    """

    tag: str
    verdict: Verdict
    texts: tuple[str, ...]
    between: str = ""
    commits: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One effect in a table; all is ready to be read."""

    verdict: Verdict
    service: str
    metric: str
    change: str
    interval: str
    before: str
    after: str
    tolerance: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What is said of one result; every text is on one line and of bounded length, but not escaped for any markup."""

    scenario: str
    verdict: Verdict
    title: str
    happenings: tuple[Happening, ...]
    hidden: int  # events that are not told singly
    remarks: tuple[str, ...]
    next_step: str
    rows: tuple[Row, ...]
    effects: int  # of which `rows` are the first
    level: str
    commands: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    basis: str
    place: Place

    @property
    def lead(self) -> str:
        """The sentence that tells most."""
        texts = [text for one in self.happenings for text in one.texts]
        return (texts or list(self.remarks) or [self.next_step])[0]


def notice_of(telling: Telling) -> Notice:
    """Everything that a message may say of a result, in its order of importance."""
    result, comparison = telling.result, telling.result.comparison
    every = tuple(_happenings(telling))
    verdict, word = _answer(telling)
    rows, effects = _findings(comparison) if comparison is not None else _movements(telling)
    return Notice(
        scenario=shorten(result.scenario, NAME) or "a load test",
        verdict=verdict,
        title=f"{VERDICT_SYMBOLS[verdict]} {word}",
        happenings=every[:MOST_HAPPENINGS],
        hidden=len(every) - len(every[:MOST_HAPPENINGS]),
        remarks=tuple(_remarks(result, comparison))[:MOST_HAPPENINGS],
        next_step=next_step(comparison) if comparison is not None else _after_watching(result),
        rows=rows,
        effects=effects,
        level=f"{comparison.confidence if comparison is not None else 0.95:.0%} interval".replace("%", " %"),
        commands=judge_lines(result),
        warnings=_warnings(comparison),
        basis=_basis(result),
        place=telling.place,
    )


def _answer(telling: Telling) -> tuple[Verdict, str]:
    """The verdict and how it is put; to those who are told only what is new, an end alone is good news."""
    news, verdict = telling.news, telling.result.verdict
    if news is not None and news.over and not (news.appeared or news.returned or news.invalid):
        return Verdict.IMPROVEMENT, "recovered"
    if telling.result.comparison is None and verdict is Verdict.NO_CHANGE:
        return verdict, "no news"
    return verdict, VERDICT_WORDS[verdict]


def _happenings(telling: Telling) -> Iterator[Happening]:
    news, result = telling.news, telling.result
    if news is None:
        yield from (_open("again" if one.relapses else "", one, telling) for one in _newest(result.news))
        return
    yield from (_open("new", one, telling) for one in _newest(news.appeared))
    yield from (_open("again", one, telling) for one in _newest(news.returned))
    yield from (_over(one) for one in reversed(news.over))
    fresh = (*news.appeared, *news.returned)
    yield from (_told(one) for one in _newest(result.news) if one not in fresh)


def _newest(episodes: Sequence[Episode]) -> Iterator[Episode]:
    return reversed(episodes)


def _open(tag: str, episode: Episode, telling: Telling) -> Happening:
    result, event = telling.result, episode.last.event
    found = telling.commits.get(event.id)
    commands = [("If it is intended", acknowledge_line(event.id))] if result.watched else []
    if found is not None and found.total != 1:
        commands += [("To find the commit", line) for line in bisect_line(result.scenario, event)]
    return Happening(
        tag,
        Verdict.REGRESSION,
        (headline(event),) if result.comparison is None or result.watched else _called(result.comparison),
        _between(event),
        _commits(found),
        tuple(commands),
    )


def _called(comparison: Comparison) -> tuple[str, ...]:
    """One sentence per service that got worse."""
    texts = headlines(replace(comparison, history=None, findings=comparison.by_verdict(Verdict.REGRESSION)))
    more = len(texts) - MOST_HAPPENINGS
    return (*texts[:MOST_HAPPENINGS], *((f"And {more} more services got worse.",) if more > 0 else ()))


def _over(known: Known) -> Happening:
    return Happening("over", Verdict.IMPROVEMENT, (shorten(known.headline, 260),))


def _told(episode: Episode) -> Happening:
    return Happening("told before", Verdict.REGRESSION, (headline(episode.last.event),))


def headline(event: Event) -> str:
    """What happened in one sentence, harmless, with names that are short enough to leave the numbers in it."""
    items = tuple(replace(item, service=shorten(item.service, NAME)) for item in event.movements)
    return clean(replace(event, id=shorten(event.id, NAME), movements=items).headline)


def _between(event: Event) -> str:
    ends = (event.last_before, event.first_after)
    texts = [
        shorten(one.run_id, NAME) + (f" (commit {clean(one.commit)[:9]})" if clean(one.commit) else "") for one in ends
    ]
    return f"Between run {texts[0]} and run {texts[1]}."


def _commits(found: Attribution | None) -> tuple[str, ...]:
    """The newest commits in between, and what to know of the list."""
    if found is None:
        return ()
    lines = [
        f"{clean(one.id)[:9]} {shorten(one.subject, 80)} ({shorten(one.author, 30)})"
        for one in found.commits[:MOST_COMMITS]
    ]
    more = (found.total or 0) - len(lines)
    notes = [shorten(note, 240) for note in found.notes]
    return (*lines, *((f"and {more} more",) if more > 0 else ()), *notes)


def _remarks(result: Result, comparison: Comparison | None) -> Iterator[str]:
    """What the comparison itself says that the events do not."""
    if comparison is None:
        if not result.news:
            yield "No level got worse, or what got worse is over or acknowledged."
        return
    named = {service for one in result.news for service in one.last.services}
    findings = tuple(
        one for one in comparison.findings if one.verdict is not Verdict.REGRESSION or one.service not in named
    )
    texts = headlines(replace(comparison, history=None, findings=findings))
    changed = any(one.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT) for one in findings)
    if changed or not result.news:
        yield from texts


def _after_watching(result: Result) -> str:
    if not result.news:
        return "Nothing to do."
    return "Look at the commits in between; acknowledge what is intended, and it stays silent."


def _findings(comparison: Comparison) -> tuple[tuple[Row, ...], int]:
    """The findings that decide, first, and how many there are."""
    ranked = sorted(
        comparison.findings,
        key=lambda f: (_ORDER.index(f.verdict), not f.gating, f.p_adjusted if f.p_adjusted is not None else 2.0),
    )
    return tuple(_finding(one) for one in ranked[:MOST_ROWS]), len(ranked)


def _finding(finding: Finding) -> Row:
    interval = format_interval(finding)
    return Row(
        finding.verdict,
        shorten(finding.service, NAME),
        Metric(finding.metric).title,
        format_change(finding),
        "" if interval == UNKNOWN else interval,
        format_value(finding.metric, finding.baseline),
        format_value(finding.metric, finding.candidate),
        clean(limit_text(finding)),
    )


def _movements(telling: Telling) -> tuple[tuple[Row, ...], int]:
    """What moved in the events that are told, new ones first, and how much did."""
    news = telling.news
    fresh = (*news.appeared, *news.returned) if news is not None else ()
    open_now = sorted(telling.result.news, key=lambda one: one not in fresh)
    items = [item for one in open_now for item in one.last.event.movements]
    return tuple(_movement(item) for item in items[:MOST_ROWS]), len(items)


def _movement(item: Movement) -> Row:
    unit = item.metric.change_unit
    ends = [format_signed(end, unit) for end in (item.size_low, item.size_high)]
    return Row(
        Verdict.REGRESSION if item.is_worse else Verdict.IMPROVEMENT,
        shorten(item.service, NAME),
        item.metric.title,
        f"{format_signed(item.size, unit)} {unit}",
        "" if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]",
        format_value(item.metric, item.change.before),
        format_value(item.metric, item.change.after),
    )


def _warnings(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return ()
    texts = [shorten(text, 300) for text in comparison.warnings]
    more = len(texts) - MOST_WARNINGS
    return (*texts[:MOST_WARNINGS], *((f"And {more} more warnings, in the report.",) if more > 0 else ()))


def _basis(result: Result) -> str:
    """On what it rests."""
    comparison = result.comparison
    if comparison is None:
        document = result.document
        return f"Watched: {document['runs']} runs of {shorten(result.scenario, NAME)}, {document['invalid']} invalid."
    counts = [(verdict, len(comparison.by_verdict(verdict))) for verdict in _ORDER]
    found = ", ".join(f"{count} {VERDICT_WORDS[verdict]}" for verdict, count in counts if count)
    sides = f"{_runs(len(comparison.candidate.runs))} judged against {_runs(len(comparison.baseline.runs))}"
    rule = (
        "rule threshold, which knows nothing of noise"
        if comparison.rule == "threshold"
        else f"chance of any false alarm {comparison.alpha:.2g}"
    )
    return f"{sides}; {rule}; findings: {found or 'none'}."


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def row_verdict(row: Row) -> str:
    """``✗ regression``."""
    return verdict_text(row.verdict)
