"""A worsening as an issue: title, text and comments as Markdown, in which names from outside are nothing but names."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.history.change_events import Movement
from perfkit.history.commits import Attribution
from perfkit.history.incidents import Incident, Occurrence
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.records import Gap
from perfkit.report.formatting import UNKNOWN, format_signed, format_value, shorten, sparkline
from perfkit.report.markdown import escape, folded
from perfkit.report.sentences import acknowledge_line

MOST_TITLE = 250  # GitHub takes 256 characters
MOST_TEXT = 40_000  # GitHub takes 65,536 characters; the rest is for the marker and for what people write around
MOST_MOVEMENTS = 30
MOST_COMMITS = 10
MOST_NAMED = 10  # services in a sentence
FIELDS = ("scenario", "service", "metric", "change")


@dataclass(frozen=True, slots=True)
class Story:
    """A worsening, and what is told beside it.

    Parameters
    ----------
    standing
        ``holds``, ``over``, or ``known``: acknowledged.
    reason
        Who acknowledged it, and why.
    compare, report
        Addresses of the commits in between and of the report; empty where there is none.
    lines
        Command lines that come to the result again, each with what it does.
    courses
        Of the trend's result: the newest runs of its leading series.
    gaps
        What the result lacks, such as services without requests.
    """

    incident: Incident
    watched: bool
    standing: str = "holds"
    reason: str = ""
    commits: Attribution | None = None
    compare: str = ""
    report: str = ""
    lines: tuple[tuple[str, str], ...] = ()
    courses: tuple[Mapping[str, Any], ...] = ()
    gaps: tuple[Gap, ...] = ()


def check_template(template: str) -> None:
    """``SettingsError`` unless a title can be made of it."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        template.format(**dict.fromkeys(FIELDS, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise SettingsError(f"[issues]: title: {template!r} is no template ({error}); known are {_fields()}") from error
    for name in names:
        if name not in FIELDS:
            raise SettingsError(f"[issues]: title: unknown field {name!r}{did_you_mean(name, FIELDS)}; {_fields()}")


def _fields() -> str:
    return ", ".join(f"{{{name}}}" for name in FIELDS)


def to_title(incident: Incident, template: str) -> str:
    """One line of plain text that names service, metric and size; ``SettingsError`` for a bad template."""
    check_template(template)
    lead = incident.last.worse[0]
    values = {
        "scenario": shorten(incident.scenario, 60),
        "service": shorten(lead.service, 80),
        "metric": lead.metric.title,
        "change": _size(lead),
    }
    return shorten(template.format(**values), MOST_TITLE).replace("@", "@\u200b")  # mail and chat pass titles on


def to_body(story: Story) -> str:
    """The text: what moved and by how much, between which commits, how to see it again, how to acknowledge it."""
    parts = [
        _status(story),
        f"**{headline(story.incident)}**",
        _beside(story.incident),
        _chart(story),
        _movements(story.incident.last),
        _gaps(story.gaps),
        _times(story.incident),
        _commits(story),
        _evidence(story),
        _acknowledge(story),
    ]
    return _fitting([part for part in parts if part])


def headline(incident: Incident) -> str:
    """One sentence of Markdown: what moved most, by how much, what else, since when."""
    worse = incident.last.worse
    lead, others, services = worse[0], len(worse) - 1, len(incident.last.services)
    where = f" in {services} services" if services > 1 else ""
    more = f", and {others} more metric{'s' if others > 1 else ''}{where}" if others else ""
    what = f"{lead.metric.title[:1].upper()}{lead.metric.title[1:]}"
    return f"{what} of {escape(lead.service, 80)} got worse: {_size(lead)}{_interval(lead, ' ')}{more}."


def spread_comment(incident: Incident, services: Sequence[str]) -> str:
    """That further services got worse at the same place."""
    rows = [item for item in incident.last.worse if item.service in services]
    head = f"**It spreads:** {_named(services)} got worse at the same place of the history."
    return f"{head}\n\n{_table(rows)}"


def over_comment(incident: Incident | None, scenario: str) -> str:
    """That it is over."""
    if incident is None:
        return f"**Over.** {escape(scenario, 60)}, judged against the same baseline, now shows no regression."
    lead = incident.last.worse[0]
    return (
        f"**Over.** {lead.metric.title} of {escape(lead.service, 80)} stands nearer to where it was before "
        f"({format_value(lead.metric.value, lead.change.before)}) than to where it went "
        f"({format_value(lead.metric.value, lead.change.after)})."
    )


def back_comment(incident: Incident) -> str:
    """That it holds after all, or again."""
    return f"**It is back.** {headline(incident)}\n\n{_table(incident.last.worse)}"


def known_comment(reason: str) -> str:
    """That it is acknowledged, by whom and why."""
    return f"**{escape(reason[:1].upper() + reason[1:], 600)}.** It is heard again when something new happens there."


def twin_comment(number: int) -> str:
    """That another issue follows the same worsening."""
    return f"Duplicate of #{number}: both follow the same worsening."


def _status(story: Story) -> str:
    if story.standing == "over":
        return "> It is over: what got worse was taken back since."
    if story.standing == "known":
        return f"> {escape(story.reason[:1].upper() + story.reason[1:], 600)}."
    return ""


def _beside(incident: Incident) -> str:
    """What else changed where it began: the machine, versions, the load script, services."""
    return "\n".join(f"- {escape(text[:1].upper() + text[1:], 300)}" for text in incident.last.event.coincides)


def _chart(story: Story) -> str:
    lead = story.incident.last.worse[0]
    for course in story.courses:
        if (course.get("service"), course.get("metric")) == (lead.service, lead.metric.value):
            values = [one if isinstance(one, int | float) else None for one in course.get("values") or ()]
            drawn, low, high, count = sparkline(values)
            if drawn:
                ends = f"{format_value(lead.metric.value, low)} to {format_value(lead.metric.value, high)}"
                return f"`{drawn}`  \n{lead.metric.title}, the newest {count} runs: {ends}"
    return ""


def _gaps(gaps: Sequence[Gap]) -> str:
    """What is missing or in doubt, and what to do about it."""
    lines = [f"- {escape(' '.join(part for part in (gap.text, gap.advice) if part), 600)}" for gap in gaps[:MOST_NAMED]]
    more = [f"- and {len(gaps) - MOST_NAMED} more"] if len(gaps) > MOST_NAMED else []
    return "\n".join(["### Missing or in doubt", "", *lines, *more]) if lines else ""


def _movements(occurrence: Occurrence) -> str:
    return _table(occurrence.worse)


def _table(rows: Sequence[Movement]) -> str:
    header = ("Service", "Metric", "Before", "After", "Change", "95 % interval")
    cells = [
        (
            escape(item.service, 80),
            item.metric.title,
            format_value(item.metric.value, item.change.before),
            format_value(item.metric.value, item.change.after),
            _size(item),
            _interval(item) or UNKNOWN,
        )
        for item in rows[:MOST_MOVEMENTS]
    ]
    left = len(rows) - len(cells)
    return folded(header, cells, "<<>>>>") + (f"\n\nAnd {left} more, in the report." if left else "")


def _size(item: Movement) -> str:
    unit = item.metric.change_unit
    text = format_signed(item.size, unit)
    return f"{text} {unit}{' (from zero)' if text.endswith('∞') else ''}"


def _interval(item: Movement, before: str = "") -> str:
    low, high = item.size_low, item.size_high
    if low is None or high is None:
        return ""
    unit = item.metric.change_unit
    return f"{before}[{format_signed(low, unit)}, {format_signed(high, unit)}]"


def _times(incident: Incident) -> str:
    lines = []
    for number, one in enumerate(incident.occurrences):
        before, after = one.event.last_before, one.event.first_after
        day = f" ({after.started_at:%Y-%m-%d})" if after.started_at else ""
        heard = f"; heard at run {escape(one.detected_at)}" if one.detected_at else ""
        what = "It came back" if number else "It came"
        lines.append(f"- {what} between the runs {escape(before.run_id)} and {escape(after.run_id)}{day}{heard}.")
    return "\n".join([f"Scenario {escape(incident.scenario, 80)}.", "", *lines[:1], *lines[1:][-9:]])


def _commits(story: Story) -> str:
    found = story.commits
    if found is None:
        return ""
    span = escape(found.span) or "not known"
    link = f"[{span}]({story.compare})" if story.compare else span
    lines = [f"- {escape(one.id[:9])} {escape(one.subject, 120)} ({escape(one.author, 40)})" for one in found.commits]
    left = (found.total or len(lines)) - len(lines[:MOST_COMMITS])
    more = [f"- and {left} more"] if left > 0 and lines else []
    listed = "\n".join([*lines[:MOST_COMMITS], *more])
    notes = [escape(note, 400) for note in found.notes]
    return "\n\n".join(part for part in (f"### Commits in between: {link}", listed, *notes) if part)


def _evidence(story: Story) -> str:
    parts = ["### See it again"]
    if story.report:
        parts.append(f"[The report with its charts]({story.report})")
    if story.lines:
        parts.append(_code([f"# {what}\n{line}" for what, line in story.lines]))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _acknowledge(story: Story) -> str:
    if not story.watched:
        text = "Close this issue. It stays closed until the same baseline shows no regression, and then one."
    else:
        line = acknowledge_line(story.incident.last.event.id)
        text = (
            "Say so where it is reviewed, and this issue is closed:\n\n"
            + _code([line])
            + "\n\nOr close it: it stays closed until it was over and comes back."
        )
    note = "perfkit keeps this text current, and closes the issue when it is over. What is written around it stays."
    return f"### If it is intended\n\n{text}\n\n<sub>{note}</sub>"


def _code(texts: Sequence[str]) -> str:
    """A block of code whose content cannot end it."""
    content = "\n".join(texts)
    fence = "```"
    while fence in content:
        fence += "`"
    return f"{fence}sh\n{content}\n{fence}"


def _named(services: Sequence[str]) -> str:
    names = ", ".join(escape(name, 60) for name in services[:MOST_NAMED])
    return names + (f" and {len(services) - MOST_NAMED} more services" if len(services) > MOST_NAMED else "")


def _fitting(parts: Sequence[str]) -> str:
    """Whole parts, as many as fit; the headline comes first of all."""
    kept: list[str] = []
    for part in parts:
        if sum(len(one) + 2 for one in kept) + len(part) <= MOST_TEXT:
            kept.append(part)
    return "\n\n".join(kept)
