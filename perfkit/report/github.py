"""What GitHub shows: results as the comment of a pull request, an incident as an issue, annotations of a workflow.

Comments and issues are Markdown, in which names from outside are only names.  All is drawn from the `Message` of a
result.  A comment is read between two other things: what matters stands in some twenty lines, the rest is folded.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace

from perfkit.history.commits import Attribution
from perfkit.history.events import MetricChange
from perfkit.history.incidents import Incident
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.records import Verdict
from perfkit.report.findings import (
    Row,
    acknowledge_command,
    bisect_command,
    change_row,
    changes_table,
    footnotes,
    outcome_text,
)
from perfkit.report.formatting import (
    UNKNOWN,
    VERDICT_SYMBOLS,
    and_more,
    at_most,
    clean,
    count_text,
    format_value,
    shorten,
    sparkline,
)
from perfkit.report.message import Message, ReportLocation
from perfkit.report.report_set import Outcome
from perfkit.report.text import bullets, details, escape, folded, markdown_runs, markdown_table, overview, page_title

MOST_TITLE = 250  # GitHub takes 256 characters
MOST_TEXT = 40_000  # GitHub takes 65,536 characters; the rest is for the marker and for what people write around
MOST_CHANGES = 30
MOST_COMMITS = 10
MOST_ERRORS = 20  # rows of a table of errors in an issue
MOST_NAMED = 10  # services in a sentence
FIELDS = ("scenario", "service", "metric", "change")
MOST_OF_A_KIND = 10  # annotations: GitHub shows that many of each kind per step, and drops further ones without a word
LONGEST_ANNOTATION = 1000  # characters of a message; a check shows about so much
_LEVELS: dict[Verdict | Outcome, str] = {
    Verdict.INCONCLUSIVE: "warning",
    Verdict.IMPROVEMENT: "notice",
    Verdict.NO_CHANGE: "notice",
    Outcome.DONE: "notice",
}  # of all others: error


def check_template(template: str) -> None:
    """``SettingsError`` unless a title can be made of it."""
    fields = ", ".join(f"{{{name}}}" for name in FIELDS)
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        template.format(**dict.fromkeys(FIELDS, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise SettingsError(f"[issues]: title: {template!r} is no template ({error}); known are {fields}") from error
    for name in names:
        if name not in FIELDS:
            raise SettingsError(f"[issues]: title: unknown field {name!r}{did_you_mean(name, FIELDS)}; {fields}")


def to_title(incident: Incident, template: str) -> str:
    """One line of plain text that names service, metric and size; ``SettingsError`` for a bad template."""
    check_template(template)
    lead = incident.last.worse[0]
    values = {
        "scenario": shorten(incident.scenario, 60),
        "service": shorten(lead.service, 80),
        "metric": lead.metric.title,
        "change": change_row(lead).cells["change"],
    }
    return shorten(template.format(**values), MOST_TITLE).replace("@", "@\u200b")  # mail and chat pass titles on


def to_body(
    message: Message,
    incident: Incident,
    *,
    status: str = "open",
    commits: Attribution | None = None,
    compare_url: str = "",
) -> str:
    """The text: what changed and by how much, between which commits, how to reproduce it, how to acknowledge it.

    ``message`` is that of the result, with the address of its report; ``status`` is ``open``, ``over``, or ``known``
    (acknowledged), as its marker says; the commits lie between its runs, and ``compare_url`` shows them.
    """
    event, worse, result = incident.last.event, incident.last.worse, message.result
    if result is None:
        raise ValueError("message: has no result")
    notes = {
        "over": "> It is over: the metrics are back at their earlier level.",
        "known": f"> {_reason(incident)}.",
    }
    parts = [
        notes.get(status, ""),
        f"**{headline(incident)}**",
        "\n".join(f"- {escape(text[:1].upper() + text[1:], 300)}" for text in event.coincides),
    ]
    # The newest runs of the leading series, where a trend's result holds them
    lead = worse[0]
    for series in result.document.get("courses", ()) if result.comparison is None else ():
        if (series["service"], series["metric"]) == (lead.service, lead.metric.value):
            blocks, low, high, count = sparkline(series["values"])
            if blocks:
                ends = f"{format_value(lead.metric.value, low)} to {format_value(lead.metric.value, high)}"
                parts.append(f"`{blocks}`  \n{lead.metric.title}, the newest {count} runs: {ends}")
    parts.append(_table(worse))
    parts += _details(message, MOST_ERRORS)

    texts = [escape(" ".join(part for part in (gap.text, gap.advice) if part), 600) for gap in result.gaps]
    gaps = at_most(texts, MOST_NAMED, "and {} more")
    parts.append("\n".join(("### Missing or in doubt", "", *(f"- {gap}" for gap in gaps))) if gaps else "")

    lines = []
    for number, occurrence in enumerate(incident.occurrences):
        before, after = occurrence.event.last_before, occurrence.event.first_after
        day = f" ({after.started_at:%Y-%m-%d})" if after.started_at else ""
        detected = f"; detected at run {escape(occurrence.detected_at)}" if occurrence.detected_at else ""
        what = "It came back" if number else "It began"
        lines.append(f"- {what} between the runs {escape(before.run_id)} and {escape(after.run_id)}{day}{detected}.")
    parts.append("\n".join([f"Scenario {escape(incident.scenario, 80)}.", "", *lines[:1], *lines[1:][-9:]]))

    if commits is not None:
        span = escape(commits.span) or "not known"
        link = f"[{span}]({compare_url})" if compare_url else span
        lines = [
            f"- {escape(item.id[:9])} {escape(item.subject, 120)} ({escape(item.author, 40)})"
            for item in commits.commits[:MOST_COMMITS]
        ]
        more = (commits.total or len(commits.commits)) - len(lines)
        lines += [f"- and {more} more"] if more > 0 and lines else []
        notes_on_git = [escape(note, 400) for note in commits.notes]
        section = (f"### Commits in between: {link}", "\n".join(lines), *notes_on_git)
        parts.append("\n\n".join(text for text in section if text))

    commands = [*message.commands, *(("Find the commit", line) for line in bisect_command(result.scenario, event))]
    evidence = [
        *([f"[The report with its charts]({message.location.link})"] if message.location.link else []),
        *([_code([f"# {what}\n{line}" for what, line in commands])] if commands else []),
    ]
    parts.append("\n\n".join(("### Reproduce it", *evidence)) if evidence else "")

    intended = "Close this issue. It stays closed until the same baseline shows no regression, and then one."
    if result.watched:
        intended = (
            f"Acknowledge it where it is reviewed; this closes the issue:\n\n{_code([acknowledge_command(event.id)])}"
            "\n\nOr close it: it stays closed until it was over and comes back."
        )
    note = "perfkit keeps this text current, and closes the issue when it is over. What is written around it stays."
    parts.append(f"### If it is intended\n\n{intended}\n\n<sub>{note}</sub>")

    kept: list[str] = []  # whole parts, as many as fit; the headline comes first of all
    for part in parts:
        if part and sum(len(text) + 2 for text in kept) + len(part) <= MOST_TEXT:
            kept.append(part)
    return "\n\n".join(kept)


def headline(incident: Incident) -> str:
    """One sentence of Markdown: what changed most, by how much, what else, since when."""
    worse = incident.last.worse
    lead, others, services = worse[0], len(worse) - 1, len(incident.last.services)
    cells = change_row(lead).cells
    interval = f" {cells['interval']}" if cells["interval"] != UNKNOWN else ""
    where = f" in {services} services" if services > 1 else ""
    more = f", and {others} more metric{'s' if others > 1 else ''}{where}" if others else ""
    what = f"{lead.metric.title[:1].upper()}{lead.metric.title[1:]}"
    return f"{what} of {escape(lead.service, 80)} got worse: {cells['change']}{interval}{more}."


def spread_comment(incident: Incident, services: Sequence[str]) -> str:
    """That further services got worse at the same run."""
    names = ", ".join(escape(name, 60) for name in services[:MOST_NAMED])
    more = and_more(len(services) - MOST_NAMED, "services")
    head = f"**It spreads:** {names}{more} got worse at the same place of the history."
    return f"{head}\n\n{_table([item for item in incident.last.worse if item.service in services])}"


def resolved_comment(incident: Incident | None, scenario: str) -> str:
    """That it is over."""
    if incident is None:
        return f"**Over.** {escape(scenario, 60)}, judged against the same baseline, now shows no regression."
    lead = incident.last.worse[0]
    return (
        f"**Over.** {lead.metric.title} of {escape(lead.service, 80)} stands nearer to where it was before "
        f"({format_value(lead.metric.value, lead.change.before)}) than to where it went "
        f"({format_value(lead.metric.value, lead.change.after)})."
    )


def reopened_comment(incident: Incident) -> str:
    """That it holds after all, or again."""
    return f"**It is back.** {headline(incident)}\n\n{_table(incident.last.worse)}"


def acknowledged_comment(incident: Incident) -> str:
    """That it is acknowledged, by whom and why."""
    return f"**{_reason(incident)}.** It is reported again when something new happens there."


def _reason(incident: Incident) -> str:
    text = incident.last.acknowledgement
    return escape(text[:1].upper() + text[1:], 600)


def duplicate_comment(number: int) -> str:
    """That another issue follows the same incident."""
    return f"Duplicate of #{number}: both follow the same worsening."


def _table(changes: Sequence[MetricChange]) -> str:
    table = changes_table(changes[:MOST_CHANGES])
    more = len(changes) - len(table.rows)
    text = markdown_table(table, ("service", "metric", "before", "after", "change", "interval"), name_length=80)
    return text + (f"\n\nAnd {more} more, in the report." if more else "")


def _code(texts: Sequence[str]) -> str:
    """A block of code whose content cannot end it."""
    content = "\n".join(texts)
    fence = "```"
    while fence in content:
        fence += "`"
    return f"{fence}sh\n{content}\n{fence}"


MOST_CHARACTERS = 60_000  # of a comment; GitHub takes 65,536
MOST_VISIBLE = 9  # rows of a comment that are not folded
MOST_SENTENCES = 3
MOST_NEWEST = 2  # commits
_FOLDED = (500, 200, 60, 20, 5)  # folded rows of all results together, to try until a comment fits
_COLUMNS = ("verdict", "service", "metric", "before", "after", "change", "interval", "tolerance", "p")
_CHANGED = (Verdict.REGRESSION, Verdict.IMPROVEMENT)


def to_comment(messages: Sequence[Message], location: ReportLocation | None = None) -> str:
    """The comment of a pull request: the verdict, what changed by how much, the commits, and all else folded.

    ``location`` is that of the report, or of the job that has it.
    """
    link = f"[{escape(location.words)}]({location.link})" if location is not None and location.link else ""
    for most in _FOLDED:
        if len(messages) == 1:
            text = _comment_text(messages[0], most, link)
        else:
            pages = (details(page_title(one), _comment_text(one, most // len(messages))) for one in messages)
            table = overview(messages, (escape(one.lead, 200) for one in messages))
            text = "\n\n".join(part for part in ("### Load tests", link, table, *pages) if part)
        if len(text) <= MOST_CHARACTERS:
            return f"{text}\n"
    # Too many even in brief: only how each ended
    lines = at_most(list(map(page_title, messages)), MOST_CHARACTERS // 1_000, "And {} more, which do not fit.")
    return "\n\n".join(part for part in ("### Load tests", link, *lines) if part) + "\n"


def _comment_text(message: Message, most: int, link: str = "") -> str:
    """One result; of each list at most so many entries."""
    result = message.result
    comparison = result.comparison if result is not None else None
    shown = _visible(message)
    watched = result is not None and result.watched
    sentences, commits = list[str](), list[str]()
    for statement in message.statements:
        listed = [f"- {escape(line, 160)}" for line in statement.commits]
        if not watched:
            commits += listed
            if shown and statement.verdict in _CHANGED:  # the table says it
                continue
        texts = [f"- {escape(text, 400)}" for text in statement.texts]
        if watched and statement.between:
            texts[-1] += "".join(f"\n  {line}" for line in listed[:2]) or f" {escape(statement.between)}"
        sentences += texts
    newest = ", the newest" if len(commits) > MOST_NEWEST else ""
    is_listed = commits and re.match(r"- [0-9a-f]{7}", commits[0])  # else it says why they are not known
    parts = [
        f"### {escape(message.scenario, 60) or 'a load test'}: {message.title}",
        " · ".join(part for part in ("<br>".join(map(escape, message.sides)), link) if part),
        _changes_text(message, shown),
        "\n".join(at_most(sentences, MOST_SENTENCES, "- And {} more, below.")),
        "\n".join((f"Commits in between{newest}:", *commits[:MOST_NEWEST])) if is_listed else "\n".join(commits),
        f"**Next:** {escape(message.next_step, 500)}" if message.next_step else "",
    ]

    parts += _details(message, most)
    for table in message.tables:
        rows = replace(table, rows=table.rows[:most])
        title = table.title or ("Every finding" if comparison is not None else "Every change")
        first = "" if len(rows.rows) == table.total else f"the first {len(rows.rows)} of "
        changed = sum(row.verdict in _CHANGED for row in table.rows)
        services = len({row.cells["service"] for row in table.rows if row.verdict in _CHANGED})
        more = f"; {changed} changed, in {count_text(services, 'service')}" if changed > len(shown) else ""
        parts.append(details(f"{title} ({first}{table.total}{more})", markdown_table(rows, _COLUMNS, most=most)))
    if len(sentences) > MOST_SENTENCES:
        parts.append(details("All that happened", "\n".join(sentences[:most])))
    if comparison is not None:
        notes = footnotes(comparison)
        parts.append(details(f"Warnings ({len(notes)})", bullets(notes[:most], most)) if notes else "")
        baseline, candidate = (
            replace(one, runs=one.runs[-most:]) for one in (comparison.baseline, comparison.candidate)
        )
        runs = markdown_runs(replace(comparison, baseline=baseline, candidate=candidate))
        commands = _code([f"# {what}\n{line}" for what, line in message.commands]) if message.commands else ""
        basis = escape(message.basis, 400)
        parts.append(
            details(
                "Runs, commits, and how to judge them again",
                "\n\n".join(
                    part
                    for part in (basis, runs, "\n".join(commits if len(commits) > MOST_NEWEST else []), commands)
                    if part
                ),
            )
        )
    elif message.commands:
        parts.append(details("How to look again", _code([f"# {what}\n{line}" for what, line in message.commands])))
    return "\n\n".join(part for part in parts if part)


def _details(message: Message, most: int) -> Iterator[str]:
    """Objectives and errors, each a sentence with its table folded below; at most so many rows."""
    for detail in message.details:
        text = f"{detail.title}: {escape(detail.sentence, 240)}"
        names = [column.name for column in detail.table.columns]
        table = replace(detail.table, rows=detail.table.rows[:most])
        yield details(text, markdown_table(table, names, most=most)) if table.rows else text


def _visible(message: Message) -> list[Row]:
    """What changed, regressions first, a fair share of each service."""
    changed: dict[tuple[str, str], Row] = {}  # an event reaches back further than the newest comparison: it counts
    for table in message.tables:
        for row in table.rows:
            if row.verdict in _CHANGED:
                changed.setdefault((row.cells["service"], row.cells["metric"]), row)
    services = dict.fromkeys(service for service, _ in changed)
    share = max(MOST_VISIBLE // max(len(services), 1), 1)
    rows = []
    for verdict in _CHANGED:
        for service in services:
            of_service = [row for (name, _), row in changed.items() if name == service and row.verdict is verdict]
            rows += of_service[:share]
    return rows[:MOST_VISIBLE]


def _changes_text(message: Message, rows: Sequence[Row]) -> str:
    """The visible rows as a table."""
    if not rows:
        return ""
    first = message.tables[0]
    last = (first.chosen(["interval"]) or first.chosen(["tolerance"]))[0]
    cells = [
        (
            f"{VERDICT_SYMBOLS[row.verdict]} {escape(row.cells['service'], 40)}",
            row.cells["metric_short"],
            *(
                text.replace(" ", "\N{NO-BREAK SPACE}")
                for text in (
                    f"**{row.cells['change']}**",  # first: on a telephone the rest is out of sight
                    escape(row.cells[last.name]),
                    f"{row.cells['before']} → {row.cells['after']}",
                )
            ),
        )
        for row in rows
    ]
    titles = ("Service", "Metric", "Change", last.title.capitalize(), "Before → after")
    return folded(titles, cells, "<<>>>")


def annotate(messages: Sequence[Message]) -> tuple[str, ...]:
    """Annotations of a workflow: lines of a job's log that the check of a commit shows.

    At most ten of each kind, errors first; the last of too many says how many more there are.  Form and escapes are
    those of GitHub's "Workflow commands for GitHub Actions"; what a runner reads of a line it reads of any line that a
    step prints, so nothing of a text from outside may begin one.
    """
    annotations: dict[str, list[tuple[str, str]]] = {"error": [], "warning": [], "notice": []}
    subjects = [f"perfkit {message.kind} {shorten(message.scenario, 60)}" for message in messages]
    for subject, message in zip(subjects, messages, strict=True):
        for verdict, text in message.lines:
            level = _LEVELS.get(verdict, "error")
            annotations[level].append((f"{subject}: {outcome_text(verdict)}", text))
    for subject, message in zip(subjects, messages, strict=True):
        comparison = message.result.comparison if message.result is not None else None
        if comparison is not None and comparison.verdict is not Verdict.INVALID:
            annotations["warning"] += [(f"{subject}: to know", text) for text in comparison.warnings]
    lines = []
    for level, texts in annotations.items():
        if (more := len(texts) - MOST_OF_A_KIND) > 0:
            texts[MOST_OF_A_KIND - 1 :] = [("perfkit", f"{more + 1} more: see the summary or the report.")]
        for title, text in texts:
            # What would end a part is escaped; `clean` takes care of what would begin another command
            name = clean(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
            content = clean(shorten(text, LONGEST_ANNOTATION)).replace("%", "%25")
            lines.append(f"::{level} title={name}::{content}")
    return tuple(lines)
