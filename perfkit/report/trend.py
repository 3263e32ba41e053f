"""The words and tables of a trend report: where a history stands, its events, its runs, a calendar, and their links.

Names of runs, commits, branches and services come from outside: they are shortened here and escaped by the templates.
Links lead to run folders beside the report, and to commits where the address of a repository is given.
"""

from __future__ import annotations

import os
import re
from calendar import Calendar, month_name
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perfkit.config.toml_table import url_parts
from perfkit.history.change_events import HistoryChange, held_worsenings, in_order
from perfkit.history.confounders import ServiceChange, missing_services
from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.trend import KEY_METRICS, History, MetricTrend
from perfkit.model.errors import SettingsError
from perfkit.model.records import Metric, Verdict
from perfkit.report.findings import Column, change_row, count_text
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    clean,
    format_number,
    format_signed,
    format_value,
    shorten,
)
from perfkit.report.html import Html, render
from perfkit.report.tables import Cell, HtmlRow, html_table

COMMIT = "{commit}"


@dataclass(frozen=True, slots=True)
class Links:
    """Where links lead; ``beside`` is the folder of the report, ``commit_url`` has gone through `read_commit_url`."""

    beside: Path
    commit_url: str | None = None

    def run(self, moment: RunReference) -> str | None:
        """The run's folder, relative to the report; ``None`` where it is not on this machine.

        Everything but letters, digits and ``_.-~/`` is quoted, so that no name can be an address of its own.
        """
        folder = Path(moment.source)
        if not moment.source or "://" in moment.source or not folder.is_dir():
            return None
        try:
            relative = os.path.relpath(folder.resolve(), self.beside.resolve())
        except ValueError:  # another drive
            return None
        return quote(Path(relative).as_posix()) + "/"

    def commit(self, moment: RunReference) -> str | None:
        """The address of the run's commit, or ``None`` where either is not known."""
        if not self.commit_url or not moment.commit:
            return None
        return self.commit_url.replace(COMMIT, quote(moment.commit, safe=""))


def trend_links(result: str | Path, commit_url: str | None = None) -> Links:
    """Links of the report that stands beside the file ``result``."""
    return Links(Path(result).absolute().parent, read_commit_url(commit_url))


def read_commit_url(text: str | None) -> str | None:
    """A template such as ``https://git.example/team/api/commit/{commit}``; ``None`` and empty are none.

    Raises
    ------
    SettingsError
        It is not an address of http or https, or has no place for the commit behind its host.
    """
    if not text:
        return None
    parts = url_parts(text)
    wrong = "write one such as https://git.example/team/api/commit/{commit}"
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"commit URL {text!r}: is not an address of http or https; {wrong}")
    if "@" in parts.netloc:
        raise SettingsError(f"commit URL {text!r}: names a user, whom every reader of the report would see; {wrong}")
    if text.count(COMMIT) != 1 or COMMIT in parts.netloc or re.search(r"[\s\"'<>\\^`|\x00-\x1f\x7f]", text):
        raise SettingsError(f"commit URL {text!r}: must have {COMMIT} once behind the host, and no spaces; {wrong}")
    return text


MOST_NAMED = 3  # series in a remark
MOST_CHANGES = 8  # of one event in the table
MOST_EVENTS = 60
MOST_LEVELS = 15  # services in the table of levels
MOST_RUNS = 60  # in the table of runs
NEWEST = 10  # runs that are always in it
LONGEST = 120  # characters of a name in a table
LONGEST_HEADLINE = 400  # with what else changed at the place
SERVICES_SYMBOL = "⇄"
LEAST = 4  # valid runs without which nothing can be said

KIND_WORDS: Mapping[str, str] = {"regression": "got worse", "improvement": "got better", "mixed": "changed"}
KIND_VERDICTS = {"regression": Verdict.REGRESSION, "improvement": Verdict.IMPROVEMENT, "mixed": Verdict.INCONCLUSIVE}
KIND_SYMBOLS = {kind: VERDICT_SYMBOLS[verdict] for kind, verdict in KIND_VERDICTS.items()} | {"mixed": "±"}
KIND_COLOURS = {kind: VERDICT_COLOURS[verdict] for kind, verdict in KIND_VERDICTS.items()}


def day(moment: RunReference) -> str:
    """``12 Oct 2026``; ``~`` for a run whose time is not known."""
    at = moment.started_at
    return f"{at.day} {at:%b %Y}" if at is not None else UNKNOWN


def commit_text(moment: RunReference) -> str:
    """What fits beside a date; empty where unknown."""
    return clean(moment.commit)[:10]


def size(movement: MetricChange) -> str:
    """The change in percent; of the error rate in percentage points."""
    unit = movement.metric.change_unit
    return f"{format_signed(movement.size, unit)}\N{NO-BREAK SPACE}{unit}"


def headline(event: Event, limit: int = LONGEST_HEADLINE) -> str:
    """What happened in one sentence, harmless and of bounded length."""
    items = tuple(replace(item, service=shorten(item.service, 60)) for item in event.changes)
    return shorten(replace(event, changes=items).headline, limit)


def event_place(event: Event, trend: History) -> str:
    """Between which runs and commits: ``between run 38 (30 Oct 2026, 1ab2) and run 39 (31 Oct 2026, 3cd4)``."""
    before = next(i for i in range(event.index, -1, -1) if trend.runs[i].run_id == event.last_before.run_id)
    return f"between {_run_text(event.last_before, before)} and {_run_text(event.first_after, event.index)}"


def _run_text(moment: RunReference, index: int) -> str:
    known = [part for part in (day(moment) if moment.started_at else "", commit_text(moment)) if part]
    return f"run {index + 1}" + (f" ({', '.join(known)})" if known else "")


def stability(course: MetricTrend, trend: History) -> str:
    """``stable for 22 runs since 1 Nov 2026``, or how it drifts."""
    now = course.now
    since = "" if now.begin == 0 else f" since {day(trend.runs[now.begin])}"
    if now.drift is not None:
        signed = format_signed(now.drift.change_pct, "%")
        return f"drifting, {signed}\N{NO-BREAK SPACE}% over {now.runs} runs{since}"
    last_valid = max((i for i, run in enumerate(trend.runs) if run.valid), default=-1)
    gone = "" if course.last_seen >= last_valid else f", last seen {day(trend.runs[course.last_seen])}"
    return f"stable for {now.runs} run{'s' if now.runs != 1 else ''}{since}{gone}"


def level_text(course: MetricTrend) -> str:
    """``39.4 ms [38.9, 40.0]``; where it drifts, its end."""
    if course.now.drift is not None:
        return format_value(course.metric, course.now.drift.after)
    return f"{format_value(course.metric, course.now.value)} {interval_text(course)}".removesuffix(f" {UNKNOWN}")


def interval_text(course: MetricTrend) -> str:
    """The interval of the newest level; ``~`` when unknown."""
    found = course.interval
    return UNKNOWN if found is None else f"[{format_number(found[0])}, {format_number(found[1])}]"


def trend_banner(trend: History, title: str | None = None) -> Html:
    """The answer: since when it is as it is, how it stands, and the newest event."""
    # An event that nobody acknowledged; one that made worse what is worse still comes before any other
    unknown = [event for event in trend.events if not trend.is_acknowledged(event)]
    held = [event for event in held_worsenings(trend.events) if event in unknown]
    event = next(reversed(held or unknown), None)
    kind = event.kind if event is not None and _valid_runs(trend) >= LEAST else ""
    word = _headline(trend, event)
    sentences = [clean(sentence) for sentence in _sentences(trend, event)]
    count, bad = len(trend.runs), sum(not run.valid for run in trend.runs)
    since = f", since {day(trend.runs[0])}" if trend.runs and trend.runs[0].started_at else ""
    basis = [
        f"{count_text(count, 'run')} of {shorten(trend.timeline.scenario)}{since}",
        f"{bad} invalid" if bad else "all valid",
        *([f"the newest {count - trend.first:,} are shown"] if trend.first else []),
        f"{count_text(len(trend.services), 'service')}, newest and strongest worsening first",
    ]
    html = render(
        "trend_banner.html.j2",
        title=clean(title) if title else "",
        kind=kind or "trend",
        symbol=KIND_SYMBOLS.get(kind, ""),
        colour=KIND_COLOURS.get(kind, CANDIDATE_COLOUR),
        word=word,
        sentences=sentences,
        basis=f"{'; '.join(basis)}.",
        alpha=f"{trend.alpha:g}",
    )
    return Html(html, text="\n".join([word, *sentences]))


def _valid_runs(trend: History, first: int = 0) -> int:
    return sum(run.valid for run in trend.runs[first:])


def _headline(trend: History, event: Event | None) -> str:
    valid = _valid_runs(trend)
    if valid < LEAST:
        return f"{count_text(valid, 'valid run')}: too few to tell"
    if event is not None:
        word = {"regression": "worse", "improvement": "better", "mixed": "changed"}[event.kind]
        return f"{word} since {day(event.first_after)}"
    if any(course.now.drift is not None for course in trend.metric_trends if course.metric in KEY_METRICS):
        return "drifting"
    if gone := missing_services(trend.services_changed):
        return f"service{'s' if len(gone) > 1 else ''} gone since {day(gone[-1][1].first_after)}"
    settled = max((event.index for event in trend.events), default=0)
    return f"nothing new in {_valid_runs(trend, settled)} runs"


def _sentences(trend: History, event: Event | None) -> Iterator[str]:
    """What the headline is about, the newest event, then the levels of the service that leads the report."""
    if event is not None and event is not trend.events[-1]:
        yield f"{headline(event)} It came {event_place(event, trend)}."
    if trend.events:
        newest = trend.events[-1]
        acknowledged = ", acknowledged" if trend.is_acknowledged(newest) else ""
        yield f"Newest event{acknowledged}: {headline(newest)} It came {event_place(newest, trend)}."
    elif trend.metric_trends:
        yield "No level changed by more than chance explains."
    for name, change in missing_services(trend.services_changed)[:MOST_NAMED]:
        yield f"{shorten(name, 60)} is gone: no requests since {day(change.first_after)}."
    for metric in ((trend.metric,) if trend.metric else KEY_METRICS) if trend.services else ():
        name = trend.services[0]
        course = trend.metric_trend(name, metric)
        if course is not None:
            yield f"{shorten(name, 60)}, {metric.title}: {level_text(course)}, {stability(course, trend)}."


def trend_levels(trend: History) -> Html:
    """Where each service stands: the newest level with interval, since when, and what runs differ by."""
    columns = (
        Column("metric", "metric"),
        Column("level", "level now", right=True),
        Column("interval", "95 % interval", right=True),
        Column("stable", "how long"),
        Column("change", "last change", right=True),
        Column("noise", "runs differ by", right=True),
    )
    services = trend.services[:MOST_LEVELS]
    metrics = (trend.metric,) if trend.metric else KEY_METRICS
    groups = {
        shorten(name, LONGEST): [
            HtmlRow(_level_cells(course, trend))
            for metric in metrics
            if (course := trend.metric_trend(name, metric)) is not None
        ]
        for name in services
    }
    more = len(trend.services) - len(services)
    below = "Runs differ by: one standard deviation from run to run, in percent of the level. ~ cannot be said."
    if more:
        below += f" {more} more services are in the result file; --service NAME shows one."
    html = html_table("levels", columns, groups, below=below, empty="No valid run measured anything.")
    return Html(html, text=f"{sum(map(len, groups.values()))} levels")


def _level_cells(course: MetricTrend, trend: History) -> dict[str, Cell | str]:
    change = course.segmentation.changes[-1] if course.segmentation.changes else None
    drift, noise = course.now.drift, course.segmentation.noise_sd
    level = drift.after if drift is not None else course.now.value
    last = Cell("")
    if change is not None:
        item = MetricChange(course.service, course.metric, change)
        last = Cell(size(item), css=f"pk-{'regression' if item.is_worse else 'improvement'}")
    return {
        "metric": course.metric.title,
        "level": Cell(format_value(course.metric, level), strong=True),
        "interval": interval_text(course),
        "stable": stability(course, trend),
        "change": last,
        "noise": f"{100.0 * noise / level:.2g} %" if level > 0 and course.metric is not Metric.ERROR_RATE else "",
    }


def trend_events(trend: History, links: Links) -> Html:
    """Every event, newest first: what moved by how much, or which services changed, between which runs and commits."""
    shown = in_order((*trend.shown_events, *trend.shown_services_changed))[::-1]
    rows = [_event_cells(event, trend, links) for event in shown[:MOST_EVENTS]]
    html = render("trend_events.html.j2", events=rows, hidden=len(shown) - len(rows))
    return Html(html, text=f"{len(shown)} events")


def _event_cells(event: HistoryChange, trend: History, links: Links) -> dict[str, Any]:
    sides = [run_cells(run, links) for run in (event.last_before, event.first_after)]
    cells = {"day": day(event.first_after), "sides": sides}
    if isinstance(event, ServiceChange):
        return cells | {
            "anchor": f"services-{event.index}",
            "kind": "mixed",
            "symbol": SERVICES_SYMBOL,
            "headline": shorten(event.headline, LONGEST_HEADLINE),
            "acknowledged": False,
            "acknowledgement": "",
            "changes": [],
            "more": 0,
        }
    return cells | {
        "anchor": event.index,
        "kind": event.kind,
        "symbol": KIND_SYMBOLS[event.kind],
        "headline": headline(event),
        "acknowledged": trend.is_acknowledged(event),
        "acknowledgement": shorten(trend.acknowledgement_of(event), 200),
        "changes": [
            {
                **change_row(item).cells,
                "service": shorten(item.service, LONGEST),
                "kind": "regression" if item.is_worse else "improvement",
            }
            for item in event.changes[:MOST_CHANGES]
        ],
        "more": max(len(event.changes) - MOST_CHANGES, 0),
    }


def run_cells(moment: RunReference, links: Links) -> dict[str, Any]:
    """A run as tables name it, with its links."""
    at = moment.started_at
    return {
        "run": shorten(moment.run_id, LONGEST),
        "run_link": links.run(moment),
        "started": f"{at:%Y-%m-%d %H:%M}" if at is not None else UNKNOWN,
        "commit": commit_text(moment) or UNKNOWN,
        "commit_link": links.commit(moment),
        "branch": shorten(moment.branch, 30),
    }


def trend_runs(trend: History, links: Links) -> Html:
    """The newest runs and those that stand out: invalid, far from their level, first of a new one; newest first."""
    notes, count = _notes(trend), len(trend.runs)
    indices = sorted({*notes, *range(max(count - NEWEST, trend.first), count)}, reverse=True)
    columns = (
        Column("number", "run", right=True),
        Column("started", "started, UTC"),
        Column("notes", "to know of it"),
        Column("run", "folder"),
        Column("commit", "commit"),
        Column("branch", "branch"),
    )
    rows = []
    for i in indices[:MOST_RUNS]:
        run = run_cells(trend.runs[i], links)
        cells: dict[str, Cell | str] = {
            "number": f"{i + 1}",
            "started": run["started"],
            "notes": Cell("; ".join(notes.get(i, [])), css="pk-wide"),
            "run": Cell(run["run"], link=run["run_link"] or ""),
            "commit": Cell(run["commit"], link=run["commit_link"] or ""),
            "branch": run["branch"],
        }
        rows.append(HtmlRow(cells, css="" if trend.runs[i].valid else "pk-unfit"))
    more = len(indices) - len(rows)
    below = f"{more} older ones are not listed." if more else ""
    html = html_table("runs", columns, {"": rows}, below=below, empty="There is no run.")
    return Html(html, text=f"{len(rows)} runs")


def _notes(trend: History) -> dict[int, list[str]]:
    """What there is to say of single runs, by index."""
    notes: dict[int, list[str]] = {}
    for i, moment in enumerate(trend.runs):
        if i >= trend.first and not moment.valid:
            notes.setdefault(i, []).append(f"invalid: {moment.why_invalid or 'unfit'}")
    for event in trend.shown_events:
        known = ", acknowledged" if trend.is_acknowledged(event) else ""
        notes.setdefault(event.index, []).append(f"{KIND_WORDS[event.kind]} from here on{known}")
    for change in trend.shown_services_changed:
        notes.setdefault(change.index, []).append(shorten("; ".join(change.brief), 200).replace(" here", ""))
    for i, names in outliers(trend).items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        notes.setdefault(i, []).append(f"far from its level: {', '.join(names[:MOST_NAMED])}{more}")
    return notes


def outliers(trend: History) -> dict[int, list[str]]:
    """Single runs far from their level, by index, with the series in which they are."""
    found: dict[int, list[str]] = {}
    for course in trend.metric_trends:
        for i in course.segmentation.outliers:
            if i >= trend.first:
                found.setdefault(i, []).append(f"{shorten(course.service)} {course.metric.title}")
    return found


MOST_MONTHS = 24
ACKNOWLEDGED_SYMBOL = VERDICT_SYMBOLS[Verdict.NO_CHANGE]  # of an event that was acknowledged
INVALID_SYMBOL = VERDICT_SYMBOLS[Verdict.INVALID]


@dataclass(slots=True)
class _Day:
    runs: Counter[bool] = field(default_factory=Counter)  # valid or not -> how many
    events: list[Event] = field(default_factory=list)


def trend_calendar(trend: History) -> Html:
    """When there were runs, and when something happened; an event leads to its row in the table."""
    days: dict[date, _Day] = defaultdict(_Day)
    for run in trend.runs[trend.first :]:
        if run.started_at is not None:
            days[run.started_at.date()].runs[run.valid] += 1
    for event in trend.shown_events:
        if event.first_after.started_at is not None:
            days[event.first_after.started_at.date()].events.append(event)
    if not days:
        text = "The runs do not say when they were made, so there is no calendar."
        return Html(render("note.html.j2", text=text), text=text)
    first, last = min(days), max(days)
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)[-MOST_MONTHS:]
    rows = [
        {
            "name": f"{month_name[number % 12 + 1]} {number // 12}",
            "weeks": [
                [_cell(day, days.get(day), trend) if day.month == number % 12 + 1 else None for day in week]
                for week in Calendar().monthdatescalendar(number // 12, number % 12 + 1)
            ],
        }
        for number in months
    ]
    hidden = (last.year - first.year) * 12 + last.month - first.month + 1 - len(months)
    html = render(
        "trend_calendar.html.j2", months=rows, hidden=hidden, acknowledged=ACKNOWLEDGED_SYMBOL, unfit=INVALID_SYMBOL
    )
    return Html(html, text=f"{len(months)} months")


def _cell(day: date, of: _Day | None, trend: History) -> dict[str, Any]:
    """Number or symbol of a day, its kind, what it says under the mouse, and the row that it leads to."""
    name = f"{day.day} {day:%b %Y}"
    if of is None:
        return {"text": str(day.day), "kind": "none", "says": f"{name}: no run", "leads_to": None}
    runs, bad = sum(of.runs.values()), of.runs[False]
    counted = f"{name}: {runs} run{'s' if runs != 1 else ''}" + (f", {bad} invalid" if bad else "")
    news = next((event for event in reversed(of.events) if not trend.is_acknowledged(event)), None)
    event = news or (of.events[-1] if of.events else None)
    if event is None:
        unfit = bad == runs
        return {"text": INVALID_SYMBOL if unfit else str(day.day), "kind": "unfit" if unfit else "runs"} | {
            "says": counted,
            "leads_to": None,
        }
    said = " ".join(headline(item) for item in of.events)
    return {
        "text": KIND_SYMBOLS[event.kind] if news else ACKNOWLEDGED_SYMBOL,
        "kind": event.kind if news else "known",
        "says": f"{counted}. {said}",
        "leads_to": event.index,
    }
