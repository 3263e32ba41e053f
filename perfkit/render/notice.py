"""What a message says of a result, whoever carries it: what happened, what was measured, what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from perfkit.history.attribution import Attribution
from perfkit.history.episodes import Episode
from perfkit.history.events import Event
from perfkit.model import Comparison, Verdict
from perfkit.news import News
from perfkit.render.claims import missing_texts
from perfkit.render.commands import acknowledge_line, bisect_line, judge_lines
from perfkit.render.effect_tables import NAME, ORDER, Table, count_runs, effect_tables
from perfkit.render.theme import (
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    shorten,
)
from perfkit.render.words import gap_texts, headlines, next_step
from perfkit.results import MissingService, Result

MOST_HAPPENINGS = 8  # of each kind; the result has all
MOST_COMMITS = 5
LONGEST_HEADLINE = 400  # characters, with what else changed at the place
MOST_WARNINGS = 5


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
class Notice:
    """What is said of one result; every text is on one line and of bounded length, but not escaped for any markup."""

    scenario: str
    verdict: Verdict
    title: str
    happenings: tuple[Happening, ...]
    hidden: int  # events that are not told singly
    remarks: tuple[str, ...]
    next_step: str
    tables: tuple[Table, ...]
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
    return Notice(
        scenario=shorten(result.scenario, NAME) or "a load test",
        verdict=verdict,
        title=f"{VERDICT_SYMBOLS[verdict]} {word}",
        happenings=every[:MOST_HAPPENINGS],
        hidden=len(every) - len(every[:MOST_HAPPENINGS]),
        remarks=tuple(_remarks(result, comparison))[:MOST_HAPPENINGS],
        next_step=_next(result),
        tables=tuple(table for table in effect_tables(result, telling.news) if table.rows),
        commands=judge_lines(result),
        warnings=_warnings(comparison),
        basis=_basis(result),
        place=telling.place,
    )


def _answer(telling: Telling) -> tuple[Verdict, str]:
    """The verdict and how it is put; to those who are told only what is new, an end alone is good news.

    The end of a service leaves the verdict of a history as it is, and is no green message.
    """
    news, verdict = telling.news, telling.result.verdict
    if news is not None and news and not news.is_bad:
        return Verdict.IMPROVEMENT, "recovered"
    missing = telling.result.missing_services if news is None else news.missing
    if missing and verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
        return Verdict.INCONCLUSIVE, f"service{'s' if len(missing) > 1 else ''} missing"
    if telling.result.comparison is None and verdict is Verdict.NO_CHANGE:
        return verdict, "no news"
    return verdict, VERDICT_WORDS[verdict]


def _happenings(telling: Telling) -> Iterator[Happening]:
    news, result = telling.news, telling.result
    if news is None:
        yield from (_open("again" if one.relapses else "", one, telling) for one in _newest(result.news))
        yield from _missing("", result.missing_services)
        return
    yield from (_open("new", one, telling) for one in _newest(news.appeared))
    yield from (_open("again", one, telling) for one in _newest(news.returned))
    yield from _missing("new", news.missing)
    yield from (_over(one.headline) for one in reversed(news.over))
    yield from (_over(item.recovery) for item in news.measured_again)
    fresh = (*news.appeared, *news.returned)
    yield from (_told(one) for one in _newest(result.news) if one not in fresh)
    yield from _missing("told before", [item for item in result.missing_services if item not in news.missing])


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
    worse = comparison.by_verdict(Verdict.REGRESSION)
    texts = headlines(replace(comparison, history=None, findings=worse, gaps=()))
    more = len(texts) - MOST_HAPPENINGS
    return (*texts[:MOST_HAPPENINGS], *((f"And {more} more services got worse.",) if more > 0 else ()))


def _missing(tag: str, services: Sequence[MissingService]) -> Iterator[Happening]:
    """Services that ended together are one happening."""
    for text in dict.fromkeys(item.sentence for item in services):
        yield Happening(tag, Verdict.INCONCLUSIVE, (shorten(text, LONGEST_HEADLINE),))


def _over(text: str) -> Happening:
    return Happening("over", Verdict.IMPROVEMENT, (shorten(text, LONGEST_HEADLINE),))


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
        if not result.news and result.verdict is Verdict.INCONCLUSIVE:
            yield "Too few valid runs to tell whether any level got worse."
        elif not result.news:
            yield "No level got worse, or what got worse is over or acknowledged."
        return
    told = {one.last.event.headline for one in result.episodes}
    unheard = [
        text
        for text in (comparison.history.news if comparison.history is not None else ())
        if not any(text.startswith(headline) for headline in told)
    ]
    yield from (shorten(text, LONGEST_HEADLINE) for text in unheard)
    named = {service for one in result.news for service in one.last.services}
    findings = tuple(
        one for one in comparison.findings if one.verdict is not Verdict.REGRESSION or one.service not in named
    )
    gaps = comparison.gaps if comparison.verdict is Verdict.INVALID or not (result.news or unheard) else ()
    missing = [shorten(gap.text, LONGEST_HEADLINE) for gap in comparison.gaps if gap.services]  # told as happenings
    if not gaps:
        yield from (text for text in gap_texts(comparison) if text not in missing)
    texts = headlines(replace(comparison, history=None, findings=findings, gaps=gaps))
    texts = tuple(text for text in texts if text not in missing)
    changed = any(one.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT) for one in findings)
    if changed or comparison.verdict is Verdict.INVALID or not (result.news or unheard):
        yield from texts


def _next(result: Result) -> str:
    """What its reader should do now."""
    if result.watched and result.news and result.verdict is not Verdict.INVALID:
        missing = " ".join(f"Find out why: {text}" for text in missing_texts(result))
        text = "Look at what came in between; acknowledge what is intended, and it stays silent."
        return shorten(f"{text} {missing}".rstrip(), 2 * LONGEST_HEADLINE)
    if result.comparison is not None:
        return next_step(result.comparison)
    missing = " ".join(missing_texts(result))
    return shorten(f"Find out why: {missing}", 2 * LONGEST_HEADLINE) if missing else "Nothing to do."


def _warnings(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return ()
    texts = [shorten(text, 300) for text in comparison.warnings if text != comparison.disturbance]
    more = len(texts) - MOST_WARNINGS
    return (*texts[:MOST_WARNINGS], *((f"And {more} more warnings, in the report.",) if more > 0 else ()))


def _basis(result: Result) -> str:
    """On what it rests."""
    comparison = result.comparison
    if comparison is None:
        document = result.document
        return f"Watched: {document['runs']} runs of {shorten(result.scenario, NAME)}, {document['invalid']} invalid."
    counts = [(verdict, len(comparison.by_verdict(verdict))) for verdict in ORDER]
    found = ", ".join(f"{count} {VERDICT_WORDS[verdict]}" for verdict, count in counts if count)
    sides = f"{count_runs(len(comparison.candidate.runs))} judged against {count_runs(len(comparison.baseline.runs))}"
    rule = (
        "rule threshold, which knows nothing of noise"
        if comparison.rule == "threshold"
        else f"chance of any false alarm {comparison.alpha:.2g}"
    )
    return f"{sides}; {rule}; findings: {found or 'none'}."
