"""The words and tables of a trend report: where a history stands, its events, its runs, a calendar, and their links.

Names of runs, commits, branches and services come from outside: they are shortened here and escaped by the templates.
Links lead to run folders beside the report, and to commits where the address of a repository is given.
"""

from __future__ import annotations

import os
import re
from calendar import Calendar, day_abbr, month_name
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from perfkit.config.toml_table import url_parts
from perfkit.model.errors import SettingsError
from perfkit.model.records import Metric, Verdict
from perfkit.report.findings import change_row, event_headline, size_text
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    EVENT_COLOURS,
    EVENT_SYMBOLS,
    EVENT_WORDS,
    KEY_METRICS,
    UNKNOWN,
    VERDICT_SYMBOLS,
    and_more,
    commit_text,
    count_text,
    format_day,
    format_number,
    format_signed,
    format_time,
    format_value,
    shorten,
)
from perfkit.report.html import Cell, Html, HtmlRow, banner, empty, html_table, note, render
from perfkit.runs.collection import labels_text
from perfkit.stats.season import LEAST_OF_A_WEEKDAY

if TYPE_CHECKING:
    from perfkit.history.events import Event, RunReference
    from perfkit.history.trend import History, MetricTrend

COMMIT = "{commit}"
MOST_NAMED = 3  # series in a remark
MOST_CHANGES = 8  # of one event in the table
MOST_EVENTS = 60
MOST_LEVELS = 15  # services in the table of levels
MOST_RUNS = 60  # in the table of runs
MOST_PATTERNS = 40  # in the table of weekdays
MOST_MONTHS = 24
NEWEST = 10  # runs that are always in it
LONGEST = 120  # characters of a name in a table
LONGEST_HEADLINE = 400  # with what else changed at the place
LEAST = 4  # valid runs without which nothing can be said
ACKNOWLEDGED, INVALID = VERDICT_SYMBOLS[Verdict.NO_CHANGE], VERDICT_SYMBOLS[Verdict.INVALID]


@dataclass(frozen=True, slots=True)
class Links:
    """Where links lead; ``beside`` is the folder of the report, ``commit_url`` has gone through `read_commit_url`."""

    beside: Path
    commit_url: str | None = None

    @classmethod
    def beside_file(cls, file: str | Path, commit_url: str | None) -> Links:
        """Links of the report that stands beside a file."""
        return cls(Path(file).absolute().parent, read_commit_url(commit_url))

    def run(self, moment: RunReference) -> str:
        """The run's folder, relative to the report; empty where it is not on this machine.

        Everything but letters, digits and ``_.-~/`` is quoted, so that no name can be an address of its own.
        """
        folder = Path(moment.source)
        if not moment.source or "://" in moment.source or not folder.is_dir():
            return ""
        try:
            relative = os.path.relpath(folder.resolve(), self.beside.resolve())
        except ValueError:  # another drive
            return ""
        return quote(Path(relative).as_posix()) + "/"

    def commit(self, moment: RunReference) -> str:
        """The address of the run's commit, empty where either is not known."""
        if not self.commit_url or not moment.commit:
            return ""
        return self.commit_url.replace(COMMIT, quote(moment.commit, safe=""))


def read_commit_url(text: str | None) -> str | None:
    """A template such as ``https://git.example/team/api/commit/{commit}``; ``None`` and empty are none.

    ``SettingsError``: it is not an address of http or https, or has no place for the commit behind its host.
    """
    if not text:
        return None
    if not isinstance(text, str):
        raise SettingsError(f"commit_url: expected a text or None, got {text!r}")
    parts = url_parts(text)
    wrong = "write one such as https://git.example/team/api/commit/{commit}"
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"commit URL {text!r}: is not an address of http or https; {wrong}")
    if "@" in parts.netloc:
        raise SettingsError(f"commit URL {text!r}: names a user, whom every reader of the report would see; {wrong}")
    if text.count(COMMIT) != 1 or COMMIT in parts.netloc or re.search(r"[\s\"'<>\\^`|\x00-\x1f\x7f]", text):
        raise SettingsError(f"commit URL {text!r}: must have {COMMIT} once behind the host, and no spaces; {wrong}")
    return text


def event_place(event: Event, trend: History) -> str:
    """Between which runs and commits: ``between run 38 (30 Oct 2026, 1ab2) and run 39 (31 Oct 2026, 3cd4)``."""
    before = next(i for i in range(event.index, -1, -1) if trend.runs[i].run_id == event.last_before.run_id)
    texts = []
    for index, run in ((before, event.last_before), (event.index, event.first_after)):
        parts = [part for part in (format_day(run) if run.started_at else "", commit_text(run)) if part]
        texts.append(f"run {index + 1}" + (f" ({', '.join(parts)})" if parts else ""))
    return f"between {texts[0]} and {texts[1]}"


def stability(course: MetricTrend, trend: History) -> str:
    """``stable for 22 runs since 1 Nov 2026``, or how it drifts."""
    now = course.now
    since = "" if now.begin == 0 else f" since {format_day(trend.runs[now.begin])}"
    if now.drift is not None:
        return f"drifting, {format_signed(now.drift.change_pct, '%')} % over {now.runs} runs{since}"
    last_valid = max((i for i, run in enumerate(trend.runs) if run.valid), default=-1)
    gone = "" if course.last_seen >= last_valid else f", last seen {format_day(trend.runs[course.last_seen])}"
    return f"stable for {count_text(now.runs, 'run')}{since}{gone}"


def interval_text(course: MetricTrend) -> str:
    """The interval of the newest level; ``~`` when unknown."""
    ends = course.interval
    return UNKNOWN if ends is None else f"[{format_number(ends[0])}, {format_number(ends[1])}]"


def trend_banner(trend: History, title: str | None = None) -> Html:
    """The answer: since when it is as it is, how it stands, and the newest event."""
    # An event that nobody acknowledged; one that made worse what is worse still comes before any other
    unknown = [event for event in trend.events if not trend.is_acknowledged(event)]
    event = next(reversed([event for event in trend.held_worsenings if event in unknown] or unknown), None)
    valid, count = sum(run.valid for run in trend.runs), len(trend.runs)
    kind = event.kind if event is not None and valid >= LEAST else ""
    since = f", since {format_day(trend.runs[0])}" if trend.runs and trend.runs[0].started_at else ""
    labels = trend.timeline.labels
    labelled = f" that are labelled {shorten(labels_text(labels))}" if labels else ""
    basis = [
        f"{count_text(count, 'run')} of {shorten(trend.timeline.scenario)}{labelled}{since}",
        f"{count - valid} invalid" if valid < count else "all valid",
        *([f"the newest {count - trend.first:,} are shown"] if trend.first else []),
        f"{count_text(len(trend.services), 'service')}, newest and strongest worsening first",
    ]
    alarms = (
        f"Chance of any false event in a history without a change {trend.alpha:g}, intervals 95\N{NO-BREAK SPACE}%."
    )
    return banner(
        _standing(trend, event, valid),
        list(_sentences(trend, event)),
        f"{'; '.join(basis)}. {alarms}",
        kind=kind or "trend",
        colour=EVENT_COLOURS.get(kind, CANDIDATE_COLOUR),
        symbol=EVENT_SYMBOLS.get(kind, ""),
        title=title,
    )


def _standing(trend: History, event: Event | None, valid: int) -> str:
    """How it stands, in a few words."""
    if valid < LEAST:
        return f"{count_text(valid, 'valid run')}: too few to tell"
    if event is not None:
        return f"{EVENT_WORDS[event.kind].removeprefix('got ')} since {format_day(event.first_after)}"
    if any(course.now.drift is not None for course in trend.metric_trends if course.metric in KEY_METRICS):
        return "drifting"
    if gone := trend.missing_services:
        return f"service{'s' if len(gone) > 1 else ''} gone since {format_day(gone[-1][1].first_after)}"
    settled = max((event.index for event in trend.events), default=0)
    return f"nothing new in {sum(run.valid for run in trend.runs[settled:])} runs"


def _sentences(trend: History, event: Event | None) -> Iterator[str]:
    """What the headline is about, the newest event, then the levels of the service that leads the report."""
    if event is not None and event is not trend.events[-1]:
        yield f"{event_headline(event, LONGEST_HEADLINE)} It came {event_place(event, trend)}."
    if trend.events:
        newest = trend.events[-1]
        name = "Newest event, acknowledged" if trend.is_acknowledged(newest) else "Newest event"
        yield f"{name}: {event_headline(newest, LONGEST_HEADLINE)} It came {event_place(newest, trend)}."
    elif trend.metric_trends:
        yield "No level changed by more than chance explains."
    for name, change in trend.missing_services[:MOST_NAMED]:
        yield f"{shorten(name, 60)} is gone: no requests since {format_day(change.first_after)}."
    for course in _key_courses(trend, trend.services[:1]):
        interval = "" if course.now.drift is not None else f" {interval_text(course)}".removesuffix(f" {UNKNOWN}")
        level = f"{format_value(course.metric, course.level)}{interval}"
        yield f"{shorten(course.service, 60)}, {course.metric.title}: {level}, {stability(course, trend)}."


def _key_courses(trend: History, services: tuple[str, ...]) -> list[MetricTrend]:
    metrics = (trend.metric,) if trend.metric else KEY_METRICS
    courses = (trend.metric_trend(name, metric) for name in services for metric in metrics)
    return [course for course in courses if course is not None]


def trend_levels(trend: History) -> Html:
    """Where each service stands: the newest level with interval, since when, and what runs differ by."""
    services = trend.services[:MOST_LEVELS]
    groups: dict[str, list[list[Cell | str]]] = {}
    for course in _key_courses(trend, services):
        noise, change = course.segmentation.noise_sd, course.changes[-1] if course.changes else None
        css = "" if change is None else f"pk-{'regression' if change.is_worse else 'improvement'}"
        relative = course.level > 0 and course.metric is not Metric.ERROR_RATE
        row: list[Cell | str] = [
            course.metric.title,
            Cell(format_value(course.metric, course.level), strong=True),
            interval_text(course),
            stability(course, trend),
            Cell("" if change is None else size_text(change), css=css),
            f"{100.0 * noise / course.level:.2g} %" if relative else "",
        ]
        groups.setdefault(shorten(course.service, LONGEST), []).append(row)
    below = "Runs differ by: one standard deviation from run to run, in percent of the level. ~ cannot be said."
    if more := len(trend.services) - len(services):
        below += f" {more} more services are in the result file; --service NAME shows one."
    if any(course.pattern is not None for course in trend.metric_trends):
        below += " Levels are those of a usual weekday; see Weekdays."
    elif why := trend.why_no_pattern:
        below += f" No weekday pattern is looked for: {why}."
    columns = ("metric", ">level now", ">95 % interval", "how long", ">last change", ">runs differ by")
    html = html_table("levels", columns, groups, below=below, empty="No valid run measured anything.")
    return Html(html, text=f"{sum(map(len, groups.values()))} levels")


def trend_weekdays(trend: History) -> Html:
    """By how much the runs of each weekday differ from a usual one, where they do beyond chance."""
    groups: dict[str, list[list[Cell | str]]] = {}
    shown = [course for course in trend.metric_trends if course.pattern is not None]
    for course in shown[:MOST_PATTERNS]:
        assert course.pattern is not None
        sizes = [100.0 * (factor - 1.0) for factor in course.pattern.factors]
        largest = max(map(abs, sizes))
        cells = [
            Cell(format_signed(size, "%"), strong=abs(size) > largest / 2.0) if runs >= LEAST_OF_A_WEEKDAY else UNKNOWN
            for size, runs in zip(sizes, course.pattern.runs, strict=True)
        ]
        groups.setdefault(shorten(course.service, LONGEST), []).append([course.metric.title, *cells])
    if not shown:
        why = trend.why_no_pattern
        return empty(f"No weekday pattern is looked for: {why}." if why else "No metric depends on the weekday.")
    below = (
        "In percent: runs of a weekday (UTC) against the mean of all. It is taken out before changes are looked for."
    )
    if (more := len(shown) - MOST_PATTERNS) > 0:
        below += f" {more} more series have a pattern; they are in the result file."
    columns = ("metric", *(f">{name}" for name in day_abbr))
    return Html(html_table("weekdays", columns, groups, below=below), text=f"{len(shown)} weekday patterns")


def trend_events(trend: History, beside: str | Path = ".", commit_url: str | None = None) -> Html:
    """Every event, newest first: what moved by how much, or which services changed, between which runs and commits.

    ``beside`` is a file beside which the page will lie, so that runs are linked from there; ``commit_url`` is a
    template such as ``https://git.example/team/api/commit/{commit}``.
    """
    links = Links.beside_file(beside, commit_url)
    rows: list[tuple[int, bool, dict[str, Any]]] = []
    for change in trend.shown_services_changed:
        parts: dict[str, Any] = {"change": change, "anchor": f"services-{change.index}", "kind": "mixed", "symbol": "⇄"}
        parts |= {"headline": shorten(change.headline, LONGEST_HEADLINE), "acknowledged": False, "acknowledgement": ""}
        rows.append((change.index, True, {**parts, "rows": [], "more": 0}))
    for event in trend.shown_events:
        parts = {
            "change": event,
            "anchor": event.index,
            "kind": event.kind,
            "symbol": EVENT_SYMBOLS[event.kind],
            "headline": event_headline(event, LONGEST_HEADLINE),
            "acknowledged": trend.is_acknowledged(event),
            "acknowledgement": shorten(trend.acknowledgement_of(event), 200),
            "rows": [
                (f"{shorten(row.cells['service'], LONGEST)}, {row.cells['metric']}", row.verdict.value, row.cells)
                for row in map(change_row, event.changes[:MOST_CHANGES])
            ],
            "more": max(len(event.changes) - MOST_CHANGES, 0),
        }
        rows.append((event.index, False, parts))
    rows.sort(key=lambda row: row[:2], reverse=True)
    shown = [row for _, _, row in rows[:MOST_EVENTS]]
    for row in shown:
        row["day"] = format_day(row["change"].first_after)
        row["sides"] = [run_cells(run, links) for run in (row["change"].last_before, row["change"].first_after)]
    html = render("trend_events.html.j2", events=shown, hidden=len(rows) - len(shown))
    return Html(html, text=f"{len(rows)} events")


def run_cells(moment: RunReference, links: Links) -> dict[str, str]:
    """A run as tables name it, with its links."""
    return {
        "run": shorten(moment.run_id, LONGEST),
        "run_link": links.run(moment),
        "started": format_time(moment.started_at),
        "commit": commit_text(moment) or UNKNOWN,
        "commit_link": links.commit(moment),
        "branch": shorten(moment.branch, 30),
    }


def trend_runs(trend: History, beside: str | Path = ".", commit_url: str | None = None) -> Html:
    """The newest runs and those that stand out: invalid, far from their level, first of a new one; newest first.

    Links are those of `trend_events`.
    """
    links = Links.beside_file(beside, commit_url)
    notes, count = _notes(trend), len(trend.runs)
    indices = sorted({*notes, *range(max(count - NEWEST, trend.first), count)}, reverse=True)
    rows = []
    for i in indices[:MOST_RUNS]:
        run = run_cells(trend.runs[i], links)
        cells = (
            f"{i + 1}",
            run["started"],
            Cell("; ".join(notes.get(i, [])), css="pk-wide"),
            Cell(run["run"], link=run["run_link"]),
            Cell(run["commit"], link=run["commit_link"]),
            run["branch"],
        )
        rows.append(HtmlRow(cells, css="" if trend.runs[i].valid else "pk-unfit"))
    more = len(indices) - len(rows)
    below = f"{more} older ones are not listed." if more else ""
    columns = (">run", "started, UTC", "to know of it", "folder", "commit", "branch")
    return Html(html_table("runs", columns, rows, below=below, empty="There is no run."), text=f"{len(rows)} runs")


def _notes(trend: History) -> dict[int, list[str]]:
    """What there is to say of single runs, by index."""
    notes: dict[int, list[str]] = defaultdict(list)
    for i, moment in enumerate(trend.runs):
        if i >= trend.first and not moment.valid:
            notes[i].append(f"invalid: {moment.why_invalid or 'unfit'}")
    for event in trend.shown_events:
        remark = ", acknowledged" if trend.is_acknowledged(event) else ""
        notes[event.index].append(f"{EVENT_WORDS[event.kind]} from here on{remark}")
    for change in trend.shown_services_changed:
        notes[change.index].append(shorten("; ".join(change.brief), 200).replace(" here", ""))
    for i, series in trend.outliers.items():
        names = [f"{shorten(service)} {metric.title}" for service, metric in series]
        notes[i].append(f"far from its level: {', '.join(names[:MOST_NAMED])}{and_more(len(names) - MOST_NAMED)}")
    return notes


def by_day(trend: History) -> tuple[Mapping[date, Sequence[int]], Mapping[date, Sequence[Event]]]:
    """The days of the shown runs, with their indices, and those on which an event began."""
    runs: dict[date, list[int]] = defaultdict(list)
    events: dict[date, list[Event]] = defaultdict(list)
    for index in range(trend.first, len(trend.runs)):
        if (at := trend.runs[index].started_at) is not None:
            runs[at.date()].append(index)
    for event in trend.shown_events:
        if (at := event.first_after.started_at) is not None:
            events[at.date()].append(event)
    return runs, events


def trend_calendar(trend: History) -> Html:
    """When there were runs, and when something happened; an event leads to its row in the table."""
    days, events = by_day(trend)
    if not days:
        return note("The runs do not say when they were made, so there is no calendar.")
    first, last = (day.year * 12 + day.month - 1 for day in (min(days), max(days)))
    months = range(first, last + 1)[-MOST_MONTHS:]
    rows = [
        {
            "name": f"{month_name[number % 12 + 1]} {number // 12}",
            "weeks": [
                [
                    _day_cell(day, days.get(day, ()), events.get(day, ()), trend)
                    if day.month == number % 12 + 1
                    else None
                    for day in week
                ]
                for week in Calendar().monthdatescalendar(number // 12, number % 12 + 1)
            ],
        }
        for number in months
    ]
    hidden = last + 1 - first - len(months)
    html = render("trend_calendar.html.j2", months=rows, hidden=hidden, acknowledged=ACKNOWLEDGED, unfit=INVALID)
    return Html(html, text=f"{len(months)} months")


def _day_cell(
    day: date, runs: Sequence[int], events: Sequence[Event], trend: History
) -> tuple[str, str, str, int | None]:
    """Number or symbol of a day, its kind, what it says under the mouse, and the row that it leads to."""
    name, number = f"{day.day} {day:%b %Y}", str(day.day)
    if not runs:
        return number, "none", f"{name}: no run", None
    bad = sum(not trend.runs[index].valid for index in runs)
    text = f"{name}: {count_text(len(runs), 'run')}{f', {bad} invalid' if bad else ''}"
    news = [event for event in events if not trend.is_acknowledged(event)]
    if not events:
        return (INVALID, "unfit", text, None) if bad == len(runs) else (number, "runs", text, None)
    text = f"{text}. {' '.join(event_headline(event, LONGEST_HEADLINE) for event in events)}"
    if not news:
        return ACKNOWLEDGED, "known", text, events[-1].index
    return EVENT_SYMBOLS[news[-1].kind], news[-1].kind, text, news[-1].index
