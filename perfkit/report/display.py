"""What public objects show of themselves: one line in a terminal, a piece of HTML in a notebook, and their tables.

`perfkit/__init__` registers these on the objects, so that the rooms which define them know nothing of HTML.  A line has
at most 400 characters; names from outside are made harmless and shortened everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from perfkit.analysis.baseline import BaselineSummary
from perfkit.analysis.capacity import Capacity
from perfkit.history.events import Event
from perfkit.history.monitor import Alert
from perfkit.history.trend import Alarms, Events, History, Plan
from perfkit.model.errors import PerfkitError
from perfkit.model.records import Comparison, Finding, Metric, Run, Verdict
from perfkit.report.formatting import (
    SHORT_METRICS,
    UNKNOWN,
    VERDICT_WORDS,
    clean,
    finding_text,
    format_change,
    format_interval,
    format_number,
    format_p,
    format_value,
    shorten,
)
from perfkit.report.html import Html, inlined, render
from perfkit.runs.collection import Runs
from perfkit.runs.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 400  # characters of a line
MOST_ROWS = 20  # runs of a table; the frames have all
Subject = TypeVar("Subject")


def _line(kind: str, *parts: str) -> str:
    """``<Run a-b-c: 3 services, valid>``, of bounded length."""
    text = f"<{kind}: {'; '.join(part for part in parts if part)}>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}…>"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at is not None else UNKNOWN


def _facts(
    title: object,
    facts: Sequence[tuple[str, object]] = (),
    *,
    note: str = "",
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[object]] = (),
    numbers: Sequence[str] = (),
    more: str = "",
    notes: Sequence[str] = (),
) -> str:
    """A heading, facts, a table and notes, as escaped HTML with inlined style."""
    html = render(
        "facts.html.j2",
        title=shorten(title, 300),
        note=note,
        facts=[(name, shorten(value, 300)) for name, value in facts if value not in (None, "")],
        columns=columns,
        rows=[[shorten(value, 120) for value in row] for row in rows],
        numbers=numbers,
        more=more,
        notes=[clean(text) for text in notes],
    )
    return inlined(html)


# Runs ----------------------------------------------------------------------------------------------------------------


def run_line(run: Run) -> str:
    """A run in one line."""
    requests = "requests unknown" if run.request_count is None else _count(run.request_count, "request")
    return _line(
        "Run",
        shorten(run.id, 80),
        f"{shorten(run.scenario, 60)}, {_time(run.started_at)} UTC, {shorten(run.profile.describe(), 60)}",
        f"{_count(len(run.services), 'service')}, {requests}",
        "valid" if run.validity.ok else f"invalid ({shorten(run.validity.problems[0].name)})",
    )


def run_html(run: Run) -> str:
    """A run: what it was, whether it is fit to be judged, and the metrics of its services."""
    metrics = [metric for metric in Metric if any(stats.value(metric) is not None for stats in run.services.values())]
    commit = run.git.get("commit", "")
    facts = [
        ("scenario", run.scenario),
        ("started (UTC)", _time(run.started_at)),
        ("length", None if run.duration_s is None else f"{run.duration_s:.0f} s"),
        ("load", run.profile.describe()),
        ("target", run.target),
        ("commit", f"{commit[:12]} {run.git.get('branch', '')}".strip()),
        ("labels", ", ".join(f"{name}={value}" for name, value in run.labels.items())),
        ("tool", run.tool),
    ]
    columns = ["service", "requests", "failures", *(f"{SHORT_METRICS[metric]} ({metric.unit})" for metric in metrics)]
    rows = [
        [
            name,
            *(UNKNOWN if value is None else f"{value:,}" for value in (stats.count, stats.failures)),
            *(_number(stats.value(metric)) for metric in metrics),
        ]
        for name, stats in run.services.items()
    ]
    problems = [f"{check.name}: {check.value}; {check.advice}" for check in run.validity.problems]
    fit = "valid" if run.validity.ok else "invalid: not fit to be judged"
    return _facts(run.id, facts, note=fit, columns=columns, rows=rows, numbers=columns[1:], notes=problems)


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else format_number(value)


def runs_html(runs: Runs) -> str:
    """Runs as a table: when, what, and whether they are fit to be judged."""
    columns = ["run", "scenario", "started (UTC)", "commit", "load", "requests", "valid"]
    shown = runs[-MOST_ROWS:]
    rows = [
        [
            run.id,
            run.scenario,
            _time(run.started_at),
            run.git.get("commit", "")[:10] or UNKNOWN,
            run.profile.describe(),
            UNKNOWN if run.request_count is None else f"{run.request_count:,}",
            "yes" if run.validity.ok else "no",
        ]
        for run in shown
    ]
    older = len(runs) - len(shown)
    more = f"{_count(older, 'earlier run')} not shown" if older else ""
    return _facts(_count(len(runs), "run"), columns=columns, rows=rows, numbers=["requests"], more=more)


def store_line(store: RunStore) -> str:
    """A store in one line."""
    try:
        frame = store.runs()
    except (PerfkitError, OSError):  # a line must never fail: debuggers and tracebacks print it
        return _line("RunStore", shorten(store.url, 160), "cannot be read")
    return _line("RunStore", shorten(store.url, 160), _count(len(frame), "run"), _scenarios(frame))


def _scenarios(frame: pd.DataFrame) -> str:
    counts = frame["scenario"].value_counts(sort=False)
    names = [f"{shorten(name)} ({count})" for name, count in list(counts.items())[:5]]
    return ", ".join([*names, *(["…"] if len(counts) > 5 else [])])


def store_html(store: RunStore) -> str:
    """A store: its scenarios, how many runs each has, and from when to when."""
    frame = store.runs()
    columns = ["scenario", "runs", "valid", "first (UTC)", "newest (UTC)", "commits", "services"]
    rows = [
        [
            name,
            len(group),
            int(group["valid"].sum()),
            _day(group["started_at"].min()),
            _day(group["started_at"].max()),
            group["commit"].replace("", None).nunique(),
            int(group["services"].max()),
        ]
        for name, group in frame.groupby("scenario", sort=True)
    ]
    note = _count(len(frame), "run") if len(frame) else "has no runs yet"
    broken = [f"{name} cannot be read: {reason}" for name, reason in list(store.broken().items())[:5]]
    numbers = ["runs", "valid", "commits", "services"]
    return _facts(store.url, note=note, columns=columns if rows else (), rows=rows, numbers=numbers, notes=broken)


def _day(at: Any) -> str:
    return f"{at:%Y-%m-%d}" if at == at and at is not None else UNKNOWN


# Comparisons ---------------------------------------------------------------------------------------------------------


def comparison_line(comparison: Comparison) -> str:
    """A comparison in one line: verdict, sides, and what changed."""
    changed = [f for f in comparison.findings if f.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]
    texts = [f"{shorten(f.label)} {SHORT_METRICS.get(f.metric, f.metric)} {format_change(f)}" for f in changed[:4]]
    more = [f"{len(changed) - 4} more"] if len(changed) > 4 else []
    sides = f"{_count(len(comparison.candidate.runs), 'candidate run')} against {len(comparison.baseline.runs)}"
    findings = _count(len(comparison.findings), "finding")
    return _line("Comparison", VERDICT_WORDS[comparison.verdict], f"{sides}, {findings}", ", ".join([*texts, *more]))


def comparison_html(comparison: Comparison) -> str:
    """A comparison: the verdict, what to do next, and every finding."""
    from perfkit.report.tables import findings_table, verdict_banner

    return inlined(verdict_banner(comparison).html + findings_table(comparison).html)


def finding_line(finding: Finding) -> str:
    """A finding in one line: effect, interval and verdict."""
    title = f"{shorten(finding.label, 80)} {SHORT_METRICS.get(finding.metric, finding.metric)}"
    effect = f"{format_change(finding)} {format_interval(finding)}"
    return _line("Finding", title, f"{finding_text(finding)}, {effect}", f"limit {shorten(finding.limit)}")


def finding_html(finding: Finding) -> str:
    """A finding: everything that was measured and judged."""
    unit = finding.change_unit
    facts = [
        ("verdict", finding_text(finding)),
        ("change", f"{format_change(finding)} {format_interval(finding)}"),
        ("baseline", format_value(finding.metric, finding.baseline)),
        ("candidate", format_value(finding.metric, finding.candidate)),
        ("tolerance", finding.limit),
        ("adjusted p", format_p(finding.p_adjusted)),
        ("minimum detectable", None if finding.min_detectable is None else f"{finding.min_detectable:.3g} {unit}"),
        ("runs needed", finding.runs_needed),
        ("gating", "yes" if finding.gating else "no"),
    ]
    return _facts(f"{finding.label}, {Metric(finding.metric).title}", facts, notes=finding.warnings)


# Histories -----------------------------------------------------------------------------------------------------------


def history_line(history: History) -> str:
    """A history in one line: runs, events, alarms."""
    newest = f"newest event: {shorten(history.events[-1].headline, 160)}" if history.events else ""
    counts = f"{_count(len(history.events), 'event')}, {_count(len(history.alarms), 'alarm')}"
    runs = f"{_count(len(history), 'run')} of {_count(len(history.services), 'service')}"
    return _line("History", shorten(history.scenario, 60), f"{runs}, {counts}", newest)


def history_html(history: History) -> str:
    """A history: how it stands, and its events with their dates and commits."""
    from perfkit.report.trend import Links, trend_banner, trend_events

    return inlined(trend_banner(history).html + trend_events(history, Links(Path())).html)


def event_line(event: Event) -> str:
    """An event in one line."""
    return _line("Event", shorten(event.headline, 300), f"commit {event.first_after.commit[:10] or UNKNOWN}")


def event_html(event: Event) -> str:
    """An event: what changed by how much, and between which runs and commits."""
    from perfkit.report.trend import size  # it imports plotly

    runs = (("last run before", event.last_before), ("first run after", event.first_after))
    facts = [
        (name, f"{run.run_id}, {_time(run.started_at)} UTC, commit {run.commit[:12] or UNKNOWN}") for name, run in runs
    ]
    columns = ["service", "metric", "change", "before", "after", "p"]
    rows = [
        [
            movement.service,
            movement.metric.title,
            size(movement),
            format_value(movement.metric, movement.change.before),
            format_value(movement.metric, movement.change.after),
            format_p(movement.change.p_value),
        ]
        for movement in event.changes
    ]
    return _facts(event.headline, facts, columns=columns, rows=rows, numbers=columns[2:])


def changes_html(changes: Events | Alarms) -> str:
    """Events or alarms as a table: when, where, by how much."""
    from perfkit.report.trend import size  # it imports plotly

    columns = ["date", "run", "commit", "service", "metric", "change"]
    events = [change.event if isinstance(change, Alert) else change for change in changes]
    rows = [
        [
            _day(event.first_after.started_at),
            event.id,
            event.first_after.commit[:10] or UNKNOWN,
            movement.service,
            movement.metric.title,
            size(movement),
        ]
        for event in events
        for movement in event.changes
    ]
    title = _count(len(changes), "event" if isinstance(changes, Events) else "alarm")
    return _facts(title, columns=columns if rows else (), rows=rows, numbers=["change"])


# Baselines, capacity, plans ------------------------------------------------------------------------------------------


def baseline_line(baseline: BaselineSummary) -> str:
    """A baseline summary in one line."""
    services = {level.service for level in baseline.levels}
    return _line(
        "Baseline",
        f"{_count(len(baseline.levels), 'level')} of {_count(len(services), 'service')}",
        f"from {_count(len(baseline.runs), 'run')}",
    )


def baseline_html(baseline: BaselineSummary) -> str:
    """A baseline summary: every level with its intervals."""
    from perfkit.report.tables import levels_table

    return inlined(levels_table(baseline).html)


def capacity_line(capacity: Capacity) -> str:
    """Capacity in one line: its answer."""
    from perfkit.report.capacity import capacity_banner

    answer = " ".join(capacity_banner(capacity).text.splitlines())
    return _line("Capacity", f"from {_count(len(capacity.runs), 'run')}", shorten(answer, 300))


def capacity_html(capacity: Capacity) -> str:
    """Capacity: the answer, and the load that each service takes."""
    from perfkit.report.capacity import capacity_banner, capacity_table

    return inlined(capacity_banner(capacity).html + capacity_table(capacity).html)


def plan_line(plan: Plan) -> str:
    """A plan in one line: the most runs that any service and metric needs."""
    needed = plan.frame["runs_per_side"].dropna()
    runs = f"at most {int(needed.max())} runs on each side" if len(needed) else "no number of runs would do"
    return _line("Plan", shorten(plan.scenario), f"{plan.change_pct:g} % worse, called in {plan.power:.0%}", runs)


def plan_html(plan: Plan) -> str:
    """A plan: how many runs each service and metric needs."""
    columns = ["service", "metric", "runs on each side", "run-to-run variation", "tolerance", "hours of load"]
    rows = [
        [
            row["service"],
            Metric(row["metric"]).title,
            UNKNOWN if row["runs_per_side"] != row["runs_per_side"] else int(row["runs_per_side"]),
            f"{row['variation_pct']:.1f} %",
            UNKNOWN if row["tolerance_pct"] != row["tolerance_pct"] else f"{row['tolerance_pct']:g} %",
            UNKNOWN if row["hours"] != row["hours"] else f"{row['hours']:.1f}",
        ]
        for row in plan.frame.to_dict("records")
    ]
    note = f"runs that call a worsening of {plan.change_pct:g} % in {plan.power:.0%} of comparisons"
    return _facts(plan.scenario, note=note, columns=columns, rows=rows, numbers=columns[2:])


# Tables --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class _Tables(Generic[Subject]):
    """The tables of one object; each is HTML in a notebook and plain words in a terminal."""

    subject: Subject

    def __repr__(self) -> str:
        names = [name for name in dir(self) if not name.startswith("_") and name != "subject"]
        return f"tables: {', '.join(f'.{name}()' for name in names)}"


class ComparisonTables(_Tables[Comparison]):
    """Tables of a comparison: ``comparison.table.findings()``."""

    def summary(self, title: str | None = None) -> Html:
        """The verdict, a sentence per service that changed, and what to do next."""
        from perfkit.report.tables import verdict_banner

        return verdict_banner(self.subject, title)

    def findings(self) -> Html:
        """Every number of every finding."""
        from perfkit.report.tables import findings_table

        return findings_table(self.subject)

    def warnings(self) -> Html:
        """Warnings of the comparison, and the checks of its runs."""
        from perfkit.report.tables import warnings_list

        return warnings_list(self.subject)

    def runs(self) -> Html:
        """Load, environment and versions of both sides, with what differs marked."""
        from perfkit.report.tables import runs_table

        return runs_table(self.subject.baseline.runs, self.subject.candidate.runs)

    def response_times(self) -> Html:
        """Response times of each run, counted from when a request was due and from when it was sent."""
        from perfkit.report.charts import response_times

        return response_times(self.subject.baseline.runs, self.subject.candidate.runs)

    def reproduce(self, policy: str | None = None, rule: str | None = None) -> Html:
        """The command lines that judge these runs again, and that measure again."""
        from perfkit.report.sentences import reproduce

        return reproduce(self.subject, policy, rule)


class BaselineTables(_Tables[BaselineSummary]):
    """Tables of a baseline summary: ``baseline.table.levels()``."""

    def levels(self) -> Html:
        """Every level with its intervals."""
        from perfkit.report.tables import levels_table

        return levels_table(self.subject)

    def warnings(self) -> Html:
        """Warnings, and the checks of the runs."""
        from perfkit.report.tables import warnings_list

        return warnings_list(self.subject)

    def runs(self) -> Html:
        """Load, environment and versions of the runs."""
        from perfkit.report.tables import runs_table

        return runs_table(self.subject.runs)

    def response_times(self) -> Html:
        """Response times of each run, counted from when a request was due and from when it was sent."""
        from perfkit.report.charts import response_times

        return response_times(self.subject.runs)


class HistoryTables(_Tables[History]):
    """Tables of a history: ``history.table.events()``.

    ``beside`` is a file beside which the page will lie, so that runs are linked from there; ``commit_url`` is a
    template such as ``https://git.example/team/api/commit/{commit}``.
    """

    @property
    def _trend(self) -> History:
        return self.subject

    def summary(self, title: str | None = None) -> Html:
        """How the history stands, and since when."""
        from perfkit.report.trend import trend_banner

        return trend_banner(self._trend, title)

    def calendar(self) -> Html:
        """Months with the days on which runs were made and events began; events link to `events`."""
        from perfkit.report.trend import trend_calendar

        return trend_calendar(self._trend)

    def events(self, beside: str | Path = ".", commit_url: str | None = None) -> Html:
        """Every event, newest first, with what changed by how much and between which runs and commits."""
        from perfkit.report.trend import trend_events, trend_links

        return trend_events(self._trend, trend_links(beside, commit_url))

    def levels(self) -> Html:
        """Where each service stands: its newest level, since when, and what led to it."""
        from perfkit.report.trend import trend_levels

        return trend_levels(self._trend)

    def runs(self, beside: str | Path = ".", commit_url: str | None = None) -> Html:
        """The newest runs, and those that stand out."""
        from perfkit.report.trend import trend_links, trend_runs

        return trend_runs(self._trend, trend_links(beside, commit_url))


class CapacityTables(_Tables[Capacity]):
    """Tables of capacity: ``capacity.table.services()``."""

    def summary(self, title: str | None = None) -> Html:
        """The load that it takes, or for two builds the verdict."""
        from perfkit.report.capacity import capacity_banner

        return capacity_banner(self.subject, title)

    def services(self) -> Html:
        """Load and throughput of each service under the objective and at the knee."""
        from perfkit.report.capacity import capacity_table

        return capacity_table(self.subject)

    def differences(self) -> Html:
        """Candidate against baseline at equal load."""
        from perfkit.report.capacity import differences_table

        return differences_table(self.subject)

    def scalability(self) -> Html:
        """The Universal Scalability Law of each service."""
        from perfkit.report.capacity import scalability_table

        return scalability_table(self.subject)

    def warnings(self) -> Html:
        """Warnings, and the checks of the runs."""
        from perfkit.report.tables import warnings_list

        return warnings_list(self.subject)

    def runs(self) -> Html:
        """Load, environment and versions of the runs."""
        from perfkit.report.tables import runs_table

        return runs_table(self.subject.runs, self.subject.candidate)
