"""What a message says of a result, whoever carries it: what happened, what was measured, what to do about it.

Effects as tables of a message: of the events that are told, and of the comparison.

What chat rooms and webhooks are told of a result: a few lines that ping nobody, and a document for programs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perfkit.history.change_events import Event, Movement
from perfkit.history.commits import Attribution
from perfkit.history.incidents import Incident, MissingService, NotificationDiff, Result
from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.formatting import (
    UNKNOWN,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    finding_text,
    format_change,
    format_interval,
    format_signed,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.report.sentences import (
    acknowledge_line,
    bisect_line,
    gap_texts,
    headlines,
    judge_lines,
    limit_text,
    missing_texts,
    next_step,
)

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


def effect_tables(result: Result, news: NotificationDiff | None) -> Iterator[Table]:
    """Effects of the events, which reach back as far as they do, and of the comparison, whose baseline is new."""
    comparison = result.comparison
    events = result.watched and bool(result.open_incidents)
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
        shorten(finding.label, NAME),
        Metric(finding.metric).title,
        format_change(finding),
        "" if interval == UNKNOWN else interval,
        format_value(finding.metric, finding.baseline),
        format_value(finding.metric, finding.candidate),
        clean(limit_text(finding)),
    )


def _movements(result: Result, news: NotificationDiff | None, title: str) -> Table:
    """What moved in the events that are told, new ones first."""
    fresh = (*news.new, *news.reopened) if news is not None else ()
    open_now = sorted(result.open_incidents, key=lambda one: one not in fresh)
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
    news: NotificationDiff | None = None
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
        yield from (_open("again" if one.relapses else "", one, telling) for one in _newest(result.open_incidents))
        yield from _missing("", result.missing_services)
        return
    yield from (_open("new", one, telling) for one in _newest(news.new))
    yield from (_open("again", one, telling) for one in _newest(news.reopened))
    yield from _missing("new", news.missing)
    yield from (_over(one.headline) for one in reversed(news.resolved))
    yield from (_over(item.recovery) for item in news.measured_again)
    fresh = (*news.new, *news.reopened)
    yield from (_told(one) for one in _newest(result.open_incidents) if one not in fresh)
    yield from _missing("told before", [item for item in result.missing_services if item not in news.missing])


def _newest(incidents: Sequence[Incident]) -> Iterator[Incident]:
    return reversed(incidents)


def _open(tag: str, incident: Incident, telling: Telling) -> Happening:
    result, event = telling.result, incident.last.event
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


def _told(incident: Incident) -> Happening:
    return Happening("told before", Verdict.REGRESSION, (headline(incident.last.event),))


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
        if not result.open_incidents and result.verdict is Verdict.INCONCLUSIVE:
            yield "Too few valid runs to tell whether any level got worse."
        elif not result.open_incidents:
            yield "No level got worse, or what got worse is over or acknowledged."
        return
    told = {one.last.event.headline for one in result.incidents}
    unheard = [
        text
        for text in (comparison.history.news if comparison.history is not None else ())
        if not any(text.startswith(headline) for headline in told)
    ]
    yield from (shorten(text, LONGEST_HEADLINE) for text in unheard)
    named = {service for one in result.open_incidents for service in one.last.services}
    findings = tuple(
        one for one in comparison.findings if one.verdict is not Verdict.REGRESSION or one.label not in named
    )
    gaps = comparison.gaps if comparison.verdict is Verdict.INVALID or not (result.open_incidents or unheard) else ()
    missing = [shorten(gap.text, LONGEST_HEADLINE) for gap in comparison.gaps if gap.services]  # told as happenings
    if not gaps:
        yield from (text for text in gap_texts(comparison) if text not in missing)
    texts = headlines(replace(comparison, history=None, findings=findings, gaps=gaps))
    texts = tuple(text for text in texts if text not in missing)
    changed = any(one.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT) for one in findings)
    if changed or comparison.verdict is Verdict.INVALID or not (result.open_incidents or unheard):
        yield from texts


def _next(result: Result) -> str:
    """What its reader should do now."""
    if result.watched and result.open_incidents and result.verdict is not Verdict.INVALID:
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


MOST_LINES = 5  # events and remarks; the report has all
LONGEST = 1_500  # characters: what every chat takes in one piece
LONGEST_LINE = 260
LARGEST = 200_000  # bytes of a document; a larger result is left out of it
SCHEMA = "perfkit.notice/1"

# Signs of which chats make mentions, links and markup, and what looks like them and is none.  No chat's own escapes are
# used: Slack's "&lt;!channel&gt;" is made a mention again by Apprise, and others show escapes as they are.
_LOOKS = str.maketrans(
    {"@": "＠", "<": "‹", ">": "›", "*": "∗", "`": "ˋ", "~": "∼", "|": "¦", "\\": "＼", "#": "＃", "&": "＆"}
)
_MARKUP = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(?<=\])\(|:(?=//)|(?<=www)\.|(?<=^)[-+=:!/](?=\S)", re.IGNORECASE)


def harmless(text: object, limit: int = LONGEST_LINE) -> str:
    """A text from outside as one that every chat shows as it is.

    >>> harmless("<!channel> @here [x](http://evil.example) *b*")
    '‹!channel› ＠here [x] (http ://evil.example) ∗b∗'
    """
    plain = shorten(text, limit).translate(_LOOKS)
    return _LINK.sub(lambda found: f" {found[0]}", _MARKUP.sub("ˍ", plain))


def chat_text(telling: Telling) -> tuple[str, str]:
    """Title and text: verdict, what happened, what to do, where the report is."""
    notice = notice_of(telling)
    lines = [f"• {tag}{harmless(text)}" for tag, text in _sentences(notice)]
    hidden = len(lines) - MOST_LINES + notice.hidden
    lines = [*lines[:MOST_LINES], *([f"• and {hidden} more, in the report"] if hidden > 0 else [])]
    lines.append(f"Next: {harmless(notice.next_step)}")
    lines += [f"{what}: {command}" for what, command in _commands(notice)]
    tail = notice.place.link or harmless(notice.place.words, 200)
    room = LONGEST - len(tail) - 1
    while sum(len(line) + 1 for line in lines) > room:
        lines.pop()
    return _title(notice), "\n".join([*lines, *([tail] if tail else [])])


def _title(notice: Notice) -> str:
    return f"{notice.title}: {harmless(notice.scenario, 60)}"


def _sentences(notice: Notice) -> Iterator[tuple[str, str]]:
    for one in notice.happenings:
        yield from ((f"{one.tag}: " if one.tag else "", text) for text in one.texts)
    yield from (("", text) for text in notice.remarks)


def _commands(notice: Notice) -> Iterator[tuple[str, str]]:
    """Of the first event; only such as a chat shows as they are, for a command that looks right must be right."""
    fresh = [one for one in notice.happenings if one.commands][:1]
    for what, command in (line for one in fresh for line in one.commands):
        if harmless(command, 200) == command:
            yield what, command


def document_of(telling: Telling) -> Mapping[str, Any]:
    """The same for programs, with the whole result; ``text`` is what a chat would show.

    A result that would make it larger than `LARGEST` bytes is ``null``, and ``result_bytes`` says how large it is.
    """
    notice, result = notice_of(telling), telling.result
    title, text = chat_text(telling)
    size = len(json.dumps(result.document).encode())
    return {
        "schema": SCHEMA,
        "scenario": shorten(result.scenario, 200),
        "verdict": result.verdict.value,
        "fails": result.verdict in (Verdict.REGRESSION, Verdict.INVALID),
        "title": title,
        "text": f"{title}\n{text}",
        "headlines": [clean(text) for _, text in _sentences(notice)],
        "link": notice.place.link or None,
        "news": _news(telling.news),
        "result_bytes": size,
        "result": result.document if size <= LARGEST else None,
    }


def _news(news: NotificationDiff | None) -> dict[str, Any] | None:
    if news is None:
        return None
    return {
        "appeared": [one.fingerprint for one in news.new],
        "returned": [one.fingerprint for one in news.reopened],
        "over": [one.names[0] for one in news.resolved],
        "invalid": news.invalid,
        "missing_services": [clean(item.service) for item in news.missing],
        "measured_again": [clean(item.service) for item in news.measured_again],
    }
