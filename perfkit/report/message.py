"""The content of a message about a result: one description for e-mail, chat, issue, comment, summary, annotations.

A `Message` is plain text in short lines, with nothing in it that is escaped for any markup: each outlet escapes what it
shows.  `message_of` makes one of a result (a comparison, or a watched history), `message_of_entry` one of an entry of
an overview.  With a notification diff it says what is new for its recipients; without one it says everything.

Chat and webhook have no markup of their own that could be trusted, so their text is made here as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from perfkit.model.records import Comparison, Verdict
from perfkit.report.findings import (
    NO_EVENTS,
    NOTHING_TO_DO,
    WORST_FIRST,
    Table,
    acknowledge_command,
    bisect_command,
    builds_of,
    changes_table,
    claims,
    errors_line,
    errors_table,
    errors_text,
    event_headline,
    findings_table,
    gap_texts,
    headlines,
    missing_service_texts,
    next_step,
    objectives_table,
    outcome_text,
    reproduce_commands,
    times_of,
)
from perfkit.report.formatting import (
    UNKNOWN,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    and_more,
    at_most,
    clean,
    count_text,
    shorten,
)
from perfkit.report.report_set import Entry, Outcome, rank

if TYPE_CHECKING:
    from perfkit.history.commits import Attribution
    from perfkit.history.incidents import Incident, MissingService, NotificationDiff, Result

NAME = 60  # characters of a name
MOST_STATEMENTS = 5  # of a message that people are sent; the report has all
MOST_COMMITS = 5
MOST_WARNINGS = 5
MOST_REASONS = 3  # why runs are invalid; what else is to be known of them stays among the warnings
LONGEST_STATEMENT = 400  # characters


@dataclass(frozen=True, slots=True)
class ReportLocation:
    """Where the whole report is: in words, and by address where it has one."""

    words: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that is said of a result."""

    verdict: Verdict | Outcome  # what kind of thing it is; an `Outcome` for a report that could not be made
    texts: tuple[str, ...]  # one sentence, or one per service
    tag: str = ""  # ``new``, ``again``, ``over`` or ``reported before``; empty where no account of that is kept
    # between, commits, commands: Of an event: the runs that it lies between, the commits in between, and the commands
    # that deal with it
    between: str = ""
    commits: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(self.texts)


@dataclass(frozen=True, slots=True)
class Detail:
    """What stands behind a result besides its findings, in a sentence and as a table, which may have no rows."""

    title: str
    sentence: str
    table: Table


@dataclass(frozen=True, slots=True)
class Message:
    """The content of a message about one result, or about a report that could not be made."""

    scenario: str
    kind: str  # the notebook that reports it: ``compare``, ``trend``, ``baseline`` or ``capacity``
    verdict: Verdict | Outcome  # what its recipients should take it for: the verdict, or how making the report ended
    title: str  # symbol and words of it: ``✗ regression``, ``★ recovered``
    # What happened (see `Statement.tag`), then what else the comparison shows; regressions first
    statements: tuple[Statement, ...]
    next_step: str = ""
    tables: tuple[Table, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    basis: str = ""
    # Objectives of a comparison, where it has any, and the errors of both sides; of a history those of its newest valid
    # run and of the runs before it
    details: tuple[Detail, ...] = ()
    sides: tuple[str, ...] = ()  # of a comparison: runs, commits and dates of the baseline, then of the candidate
    location: ReportLocation = field(default_factory=ReportLocation)
    result: Result | None = None  # result, diff: what it was made of, for outlets that show more
    diff: NotificationDiff | None = None

    @property
    def rank(self) -> int:
        """0 for the worst that may happen."""
        return rank(self.verdict)

    @property
    def lines(self) -> tuple[tuple[Verdict | Outcome, str], ...]:
        """Every sentence with its kind, for outlets that show one at a time."""
        lines = [
            (one.verdict, f"{text} It came back." if one.tag == "again" else text)
            for one in self.statements
            for text in one.texts
        ]
        comparison = self.result.comparison if self.result is not None else None
        if comparison is not None and comparison.verdict is Verdict.INCONCLUSIVE:  # what would settle it
            disturbance = clean(comparison.disturbance or "")
            last = max((i for i, (_, text) in enumerate(lines) if text != disturbance), default=None)
            if last is not None:
                lines[last] = (lines[last][0], f"{lines[last][1]} {self.next_step}")
        return tuple(lines)

    def brief(self) -> Message:
        """The same with at most `MOST_STATEMENTS` statements, the last of which says how many are left out."""
        statements = tuple(
            replace(one, texts=at_most(one.texts, MOST_STATEMENTS, "And {} more services got worse."))
            for one in self.statements
        )
        more = len(statements) - MOST_STATEMENTS
        rest = (Statement(self.verdict, (f"And {more} more, in the report.",)),) if more > 0 else ()
        return replace(self, statements=(*statements[:MOST_STATEMENTS], *rest))

    @property
    def lead(self) -> str:
        """The sentence that matters most."""
        return self.lines[0][1] if self.statements else self.next_step


def message_of(
    result: Result,
    *,
    location: ReportLocation | None = None,
    diff: NotificationDiff | None = None,
    commits: Mapping[str, Attribution] | None = None,
) -> Message:
    """Everything that may be said of a result, in order of importance.

    ``diff`` is what is new for its recipients; ``None``: it is said whole.  ``commits`` lie between the runs of
    an event, by the event's id.
    """
    comparison = result.comparison
    verdict, words = _verdict(result, diff)
    warnings: tuple[str, ...] = ()
    if comparison is None:
        runs, invalid = (result.document.get(name, UNKNOWN) for name in ("runs", "invalid"))
        basis = f"Watched: {runs} runs of {shorten(result.subject, NAME)}, {invalid} invalid."
    else:
        counts = [(kind, len(comparison.by_verdict(kind))) for kind in WORST_FIRST]
        findings = ", ".join(f"{count} {VERDICT_WORDS[kind]}" for kind, count in counts if count)
        sides = [count_text(len(side.runs), "run") for side in (comparison.candidate, comparison.baseline)]
        rule = f"chance of any false alarm {comparison.alpha:.2g}"
        if comparison.rule == "threshold":
            rule = "rule threshold, which ignores noise between runs"
        basis = f"{sides[0]} judged against {sides[1]}; {rule}; findings: {findings or 'none'}."
        # Why runs cannot be judged, and a disturbance, are statements already
        above = (
            comparison.warnings[:MOST_REASONS] if comparison.verdict is Verdict.INVALID else (comparison.disturbance,)
        )
        texts = [shorten(text, 300) for text in comparison.warnings if text not in above]
        warnings = at_most(texts, MOST_WARNINGS, "And {} more warnings, in the report.")
    return Message(
        scenario=result.subject,
        kind="compare" if comparison is not None else "trend",
        verdict=verdict,
        title=f"{VERDICT_SYMBOLS[verdict]} {words}",
        statements=(*_events(result, diff, commits or {}), *_remarks(result)),
        next_step=_next_step(result),
        tables=tuple(table for table in _tables(result, diff) if table.rows),
        commands=reproduce_commands(result),
        warnings=warnings,
        basis=basis,
        details=tuple(_details(result)),
        sides=_sides(comparison) if comparison is not None else (),
        location=location or ReportLocation(),
        result=result,
        diff=diff,
    )


def _details(result: Result) -> Iterator[Detail]:
    comparison = result.comparison
    if comparison is not None and (objectives := objectives_table(comparison, title="objectives")).rows:
        kept = sum(row.verdict is Verdict.NO_CHANGE for row in objectives.rows)
        exceeded = sum(row.verdict is Verdict.REGRESSION for row in objectives.rows)
        symbol = VERDICT_SYMBOLS[max((row.verdict for row in objectives.rows), key=lambda one: -WORST_FIRST.index(one))]
        rest = objectives.total - kept - exceeded
        counts = ((kept, "kept"), (exceeded, "exceeded"), (rest, "cannot be judged"))
        text = ", ".join(f"{count} {word}" for count, word in counts if count)
        yield Detail("Objectives", f"{symbol} {text}.", objectives)
    text = errors_text(result.errors)
    if comparison is None and result.errors is not None:
        text += " Counted: the newest valid run (candidate) and up to five before it (baseline)."
    yield Detail("Errors", text, errors_table(result.errors or (), title="errors"))


def _sides(comparison: Comparison) -> tuple[str, ...]:
    """``Candidate: 3 runs of commit d81e0c2ab (feature/cache), 2026-11-24``, for each side that has runs."""
    lines = []
    for title, runs in (("Baseline", comparison.baseline.runs), ("Candidate", comparison.candidate.runs)):
        builds, times = builds_of(runs), times_of(runs)
        text = f"{title}: {count_text(len(runs), 'run')}"
        if builds:
            text += f" of commit{'s' if len(builds) > 1 else ''} {', '.join(builds[-2:])}{and_more(len(builds) - 2)}"
        days = " to ".join(dict.fromkeys(f"{time:%Y-%m-%d}" for time in times))
        lines += [f"{text}, {days}" if days else text] if runs else []
    return tuple(lines)


def message_of_entry(entry: Entry, result: Result | None) -> Message:
    """What an entry of an overview says; ``result`` is its result where it has one that judges."""
    if result is not None:
        return message_of(result)
    statements = tuple(Statement(entry.word, (clean(text),)) for text in entry.sentences)
    return Message(entry.scenario, entry.kind, entry.word, outcome_text(entry.word), statements)


def _verdict(result: Result, diff: NotificationDiff | None) -> tuple[Verdict, str]:
    """The verdict and how it is put; to recipients of what is new alone, the end of a worsening is good news.

    The end of a service leaves the verdict of a history as it is, and is no green message.
    """
    if diff is not None and diff and not diff.is_bad:
        return Verdict.IMPROVEMENT, "recovered"
    missing = result.missing_services if diff is None else diff.missing
    if missing and result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
        return Verdict.INCONCLUSIVE, f"service{'s' if len(missing) > 1 else ''} missing"
    if result.comparison is None and result.verdict is Verdict.NO_CHANGE:
        return result.verdict, "nothing new"
    return result.verdict, VERDICT_WORDS[result.verdict]


def _events(result: Result, diff: NotificationDiff | None, commits: Mapping[str, Attribution]) -> Iterator[Statement]:
    """Incidents, newest first, and services without requests: what is new, what is over, then what holds still."""

    def is_open(tag: str, incidents: Sequence[Incident]) -> list[Statement]:
        """Newest first, but those that fail a build before the others."""
        newest = [_incident(tag or ("again" if one.relapses else ""), one, result, commits) for one in incidents[::-1]]
        return sorted(newest, key=lambda statement: statement.verdict is not Verdict.REGRESSION)

    def missing(tag: str, services: Sequence[MissingService]) -> Iterator[Statement]:
        for text in dict.fromkeys(item.sentence for item in services):  # services that ended together: one statement
            yield Statement(Verdict.INCONCLUSIVE, (shorten(text, LONGEST_STATEMENT),), tag)

    if diff is None:
        yield from is_open("", result.open_incidents)
        yield from missing("", result.missing_services)
        return
    yield from is_open("new", diff.new)
    yield from is_open("again", diff.reopened)
    yield from missing("new", diff.missing)
    for text in (
        *(item.headline for item in reversed(diff.resolved)),
        *(item.recovery for item in diff.measured_again),
    ):
        yield Statement(Verdict.IMPROVEMENT, (shorten(text, LONGEST_STATEMENT),), "over")
    for incident in reversed(result.open_incidents):
        if incident not in (*diff.new, *diff.reopened):
            texts = (event_headline(incident.last.event),)
            yield Statement(Verdict.REGRESSION, texts, "reported before")
    yield from missing("reported before", [item for item in result.missing_services if item not in diff.missing])


def _incident(tag: str, incident: Incident, result: Result, commits: Mapping[str, Attribution]) -> Statement:
    event, attribution = incident.last.event, commits.get(incident.last.event.id)
    between: tuple[str, ...] = ()
    if attribution is not None:  # the newest commits, and what to know of the list
        lines = [
            f"{clean(commit.id)[:9]} {shorten(commit.subject, 80)} ({shorten(commit.author, 30)})"
            for commit in attribution.commits[:MOST_COMMITS]
        ]
        more = (attribution.total or 0) - len(lines)
        notes = [shorten(note, 240) for note in attribution.notes]
        between = (*lines, *((f"and {more} more",) if more > 0 else ()), *notes)
    commands = [("If it is intended", acknowledge_command(event.id))] if result.watched else []
    if attribution is not None and attribution.total != 1:
        commands += [("To find the commit", line) for line in bisect_command(result.scenario, event)]
    ends = [
        shorten(run.run_id, NAME) + (f" (commit {clean(run.commit)[:9]})" if clean(run.commit) else "")
        for run in (event.last_before, event.first_after)
    ]
    verdict = Verdict.REGRESSION
    texts: tuple[str, ...] = (event_headline(event),)
    if result.watched:
        last = incident.last
        if not last.fails:
            verdict = Verdict.NO_CHANGE if last.is_open is False else Verdict.INCONCLUSIVE
        runs = last.runs_open if last.is_open else None
        since = f"Open since then, {count_text(runs, 'run')}." if runs else ""
        texts = (" ".join(text for text in (*texts, since, clean(last.doubt)) if text),)
    elif result.comparison is not None:
        worse = result.comparison.by_verdict(Verdict.REGRESSION)
        texts = headlines(replace(result.comparison, history=None, findings=worse, gaps=()))
    where = f"Between run {ends[0]} and run {ends[1]}." if result.watched else ""  # else both sides are named
    return Statement(verdict, texts, tag, where, between, tuple(commands))


def _remarks(result: Result) -> Iterator[Statement]:
    """What a result says that its events do not: of a comparison what it claims itself, else why nothing happened."""
    comparison = result.comparison
    if comparison is None:
        if result.verdict is Verdict.INVALID or not result.open_incidents:
            text = NO_EVENTS.get(result.verdict, "No level got worse, or what got worse is over or acknowledged.")
            yield Statement(result.verdict, (text,))
        return
    missing = [shorten(gap.text, LONGEST_STATEMENT) for gap in comparison.gaps if gap.services]  # these are events
    if comparison.verdict is Verdict.INVALID:
        texts = dict.fromkeys(clean(text) for text in (*comparison.warnings[:MOST_REASONS], *gap_texts(comparison)))
        first, *others = [text for text in texts if text not in missing] or [""]
        yield Statement(Verdict.INVALID, (f"The runs cannot be judged. {first}".rstrip(), *others))
        return
    headings = {one.last.event.headline for one in result.incidents}
    history = comparison.history.news if comparison.history is not None else ()
    other_events = [text for text in history if not any(text.startswith(heading) for heading in headings)]
    for text in other_events:
        yield Statement(Verdict.REGRESSION, (shorten(text, LONGEST_STATEMENT),))
    named = {service for one in result.open_incidents for service in one.last.services}
    everything = bool(result.open_incidents) and not result.watched  # an incident of two builds names all that is worse
    findings = tuple(
        one
        for one in comparison.findings
        if one.verdict is not Verdict.REGRESSION or not (everything or one.label in named)
    )
    has_events = bool(result.open_incidents or other_events)
    if has_events:
        yield from (Statement(Verdict.INCONCLUSIVE, (text,)) for text in gap_texts(comparison) if text not in missing)
    rest = replace(comparison, history=None, findings=findings, gaps=() if has_events else comparison.gaps)
    changed = any(one.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT) for one in findings)
    if changed or not has_events:
        yield from (Statement(verdict, (text,)) for verdict, text in claims(rest) if text not in missing)
    if changed and comparison.verdict is Verdict.INCONCLUSIVE:
        yield Statement(comparison.verdict, ("Not every gating metric could be shown to be within its tolerance.",))


def _next_step(result: Result) -> str:
    """What its recipients should do now."""
    missing = " ".join(missing_service_texts(result))
    why = f"Find out why: {missing}" if missing else ""
    if result.watched and result.open_incidents and result.verdict is not Verdict.INVALID:
        text = "Inspect the commits in between. Acknowledge what is intended, and no more messages are sent about it."
        return shorten(f"{text} {why}".rstrip(), 2 * LONGEST_STATEMENT)
    if result.comparison is not None:
        return next_step(result.comparison)
    return shorten(why, 2 * LONGEST_STATEMENT) or NOTHING_TO_DO


def _tables(result: Result, diff: NotificationDiff | None) -> Iterator[Table]:
    """Metric changes of the events, which reach back as far as they do, and findings, whose baseline is recent."""
    comparison = result.comparison
    has_events = result.watched and bool(result.open_incidents)
    if has_events or comparison is None:
        fresh = (*diff.new, *diff.reopened) if diff is not None else ()
        incidents = sorted(result.open_incidents, key=lambda incident: incident not in fresh)
        changes = [item for incident in incidents for item in incident.last.event.changes]
        yield changes_table(changes, title="What happened" if comparison is not None else "")
    if comparison is not None:
        sides = [count_text(len(side.runs), "run") for side in (comparison.candidate, comparison.baseline)]
        title = f"{sides[0]} against the {sides[1]} before" if has_events else ""
        yield findings_table(comparison, ranked=True, title=title)


MOST_LINES = 5  # statements of a chat text; the report has all
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
    return _LINK.sub(lambda match: f" {match[0]}", _MARKUP.sub("ˍ", plain))


def chat_text(message: Message) -> tuple[str, str]:
    """Title and text for a chat channel: verdict, what happened, what to do, where the report is."""
    lines = [
        f"• {f'{one.tag}: ' if one.tag else ''}{harmless(text)}" for one in message.statements for text in one.texts
    ]
    errors = errors_line(message.result.errors) if message.result is not None else ""
    lines = [*at_most(lines, MOST_LINES, "• and {} more, in the report")]
    lines += [f"• {harmless(errors)}"] if errors else []
    lines += [f"Next: {harmless(message.next_step)}"]
    commands = next((one.commands for one in message.statements if one.commands), ())
    # Only such as a chat shows as they are, for a command that looks right must be right
    lines += [f"{what}: {command}" for what, command in commands if harmless(command, 200) == command]
    tail = message.location.link or harmless(message.location.words, 200)
    while sum(len(line) + 1 for line in lines) > LONGEST - len(tail) - 1:
        lines.pop()
    name = shorten(message.scenario, NAME) or "a load test"
    return f"{message.title}: {harmless(name, 60)}", "\n".join([*lines, *([tail] if tail else [])])


def webhook_document(message: Message) -> Mapping[str, Any]:
    """The same for programs, with the whole result; ``text`` is what a chat would show.

    A result that would make it larger than `LARGEST` bytes is ``null``, and ``result_bytes`` says how large it is.
    """
    result, diff = message.result, message.diff
    if result is None:
        raise ValueError("message: has no result")
    title, text = chat_text(message)
    size = len(json.dumps(result.document).encode())
    difference = None
    if diff is not None:
        difference = {
            "appeared": [one.fingerprint for one in diff.new],
            "returned": [one.fingerprint for one in diff.reopened],
            "over": [one.names[0] for one in diff.resolved],
            "invalid": diff.invalid,
            "missing_services": [clean(item.service) for item in diff.missing],
            "measured_again": [clean(item.service) for item in diff.measured_again],
        }
    return {
        "schema": SCHEMA,
        "scenario": shorten(result.scenario, 200),
        "verdict": result.verdict.value,
        "fails": result.verdict in (Verdict.REGRESSION, Verdict.INVALID),
        "title": title,
        "text": f"{title}\n{text}",
        "headlines": [clean(text) for one in message.brief().statements for text in one.texts],
        "link": message.location.link or None,
        "news": difference,
        "result_bytes": size,
        "result": result.document if size <= LARGEST else None,
    }
