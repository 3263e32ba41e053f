"""Incidents: a worsening from its detection until it is over, and again when it returns.

They are read from result files, of a comparison or of the history of a scenario, whichever version of perfkit wrote
them.  `notification_diff` says what is new in a result for a recipient who was notified of earlier ones: new incidents,
reopened and resolved ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.model.codec import Count, Share, Time, decode, read_json, utc
from perfkit.model.errors import Activity, ReadError
from perfkit.model.records import Comparison, Finding, Gap, Metric, Verdict
from perfkit.model.serialization import comparison_from_document
from perfkit.stats.changepoints import ChangePoint


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event as a result tells it.

    Parameters
    ----------
    holds
        Whether what got worse was not taken back since.
    acknowledged
        Whether it is known or intended.
    detected_at
        Id of the run at which it was first heard; empty where it is not known.
    """

    event: Event
    holds: bool = True
    acknowledged: bool = False
    detected_at: str = ""

    @property
    def worse(self) -> tuple[MetricChange, ...]:
        """What got worse, strongest first."""
        return tuple(item for item in self.event.changes if item.is_worse)

    @property
    def services(self) -> tuple[str, ...]:
        """Where it got worse, the strongest first."""
        return tuple(dict.fromkeys(item.service for item in self.worse))


@dataclass(frozen=True, slots=True)
class Incident:
    """A worsening through all its occurrences: the first, then each relapse, oldest first."""

    occurrences: tuple[Occurrence, ...]

    @property
    def scenario(self) -> str:
        """Whose history it stands in."""
        return self.first.event.scenario

    @property
    def first(self) -> Occurrence:
        """How it began."""
        return self.occurrences[0]

    @property
    def last(self) -> Occurrence:
        """How it is now."""
        return self.occurrences[-1]

    @property
    def relapses(self) -> int:
        """How often it came back."""
        return len(self.occurrences) - 1

    @property
    def is_open(self) -> bool:
        """Whether it still holds."""
        return self.last.holds

    @property
    def names(self) -> tuple[str, ...]:
        """All ids under which its first occurrence may have been known: more runs may move its place a little."""
        return tuple(dict.fromkeys((self.first.event.id, *self.first.event.aliases)))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of scenario and place, under which it is followed elsewhere; see `fingerprints`."""
        return self.fingerprints[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The same for each of its names, for what was followed before its place moved."""
        return tuple(fingerprint(self.scenario, name) for name in self.names)


def fingerprint(scenario: str, name: str) -> str:
    """Under which an event of that name is followed elsewhere."""
    return hashlib.sha256(f"{scenario}\n{name}".encode()).hexdigest()[:12]


def incidents_of(occurrences: Iterable[Occurrence]) -> tuple[Incident, ...]:
    """Sightings of one scenario, oldest first, as incidents, in order of their beginning.

    A worsening in the series that led an earlier incident, between much the same levels, is its relapse: in between it
    must have been over.  What only got better is no incident.
    """
    found: list[Incident] = []
    for one in occurrences:
        if not one.worse:
            continue
        again = next((i for i in reversed(range(len(found))) if is_relapse(one, found[i])), None)
        if again is None:
            found.append(Incident((one,)))
        else:
            found[again] = replace(found[again], occurrences=(*found[again].occurrences, one))
    return tuple(found)


def is_relapse(occurrence: Occurrence, incident: Incident) -> bool:
    """Whether the series that led an incident gets worse again, each level within half the size of the change."""
    lead = incident.last.worse[0]
    half = abs(lead.change.after - lead.change.before) / 2.0
    return any(
        (item.service, item.metric) == (lead.service, lead.metric)
        and abs(item.change.before - lead.change.before) < half
        and abs(item.change.after - lead.change.after) < half
        for item in occurrence.worse
    )


COMPARISON, TREND = "perfkit.comparison/1", "perfkit.trend/1"
RESULT, REPORT = "result.json", "report.html"
AFTER = "after-"  # and the newest run of a baseline: names what happened since it


class MissingService(msgspec.Struct, frozen=True):
    """A service that has no requests any more.

    ``since_run`` is the first run without it; between two builds, what names the baseline that has it.
    """

    service: str
    since_run: str
    sentence: str
    advice: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Equal for one and the same end of a service."""
        return self.service, self.since_run

    @property
    def recovery(self) -> str:
        """What is said when it has requests again."""
        since = "" if self.since_run.startswith(AFTER) else f"; it had none since run {self.since_run}"
        return f"Service {self.service} has requests again{since}."


@dataclass(frozen=True, slots=True)
class Result:
    """What a result file says.

    Parameters
    ----------
    place
        Where it was read, for messages.
    comparison
        ``None`` for the history of a scenario.
    incidents
        Worsenings, in order of their beginning: of the history where it is known, else what the comparison calls.
    watched
        Whether `incidents` come of a watched history, which knows every worsening and whether it is over.
    report
        The HTML report beside it, where there is one.
    gaps
        What was not measured, of the comparison and of the watched history, with what to do about it.
    missing_services
        Services that have no requests any more: in the newest runs of the history, or in the candidate.
    measured_services
        Services that have: in the newest run of the history, or on both sides of a comparison.
    stored
        Whether it was judged just now from a store: then no file and no report folder holds it.
    """

    place: str
    document: Mapping[str, Any]
    scenario: str
    verdict: Verdict
    comparison: Comparison | None
    incidents: tuple[Incident, ...]
    watched: bool
    report: Path | None = None
    gaps: tuple[Gap, ...] = ()
    missing_services: tuple[MissingService, ...] = ()
    measured_services: frozenset[str] = frozenset()
    stored: bool = False

    @property
    def report_folder(self) -> str:
        """Name of the folder that holds the report or the result file; empty where there is none."""
        return "" if self.stored else (self.report or Path(self.place)).resolve().parent.name

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """Incidents that hold and that nobody acknowledged."""
        return tuple(one for one in self.incidents if one.is_open and not one.last.acknowledged)

    @property
    def fingerprint(self) -> str:
        """Under which a worsening since the same baseline is followed; empty without two builds to compare."""
        if self.comparison is None or not self.comparison.baseline.runs:
            return ""
        return fingerprint(self.scenario, _after(self.comparison))

    def has_again(self, missing: MissingService) -> bool:
        """Whether a service that was missing has requests: in the same history, or against the same baseline."""
        if missing.service not in self.measured_services:
            return False
        return self.watched or (self.comparison is not None and missing.since_run == _after(self.comparison))


def read_result(path: str | Path) -> Result:
    """Read a report folder, or the ``result.json`` or ``report.html`` in it, or what ``--format json`` wrote.

    Raises
    ------
    ReadError
        There is no such file, or it is not the result of a comparison or of a history.
    """
    file = Path(path)
    if file.is_dir():
        file /= RESULT
    elif file.name == REPORT:
        file = file.with_name(RESULT)
    if not file.is_file():
        raise ReadError(f"{file}: there is no such file; name a report folder, or what --format json wrote")
    document = read_json(file)
    report = file.with_name(REPORT)
    with Activity(f"reading {file}"):
        return result_of(document, str(file), report if report.is_file() else None)


def result_of(document: Any, place: str, report: Path | None = None) -> Result:
    """What a result document says; ``ReadError`` names the place when it is none."""
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if schema == COMPARISON:
        return _of_comparison(document, place, report)
    if schema == TREND:
        return _of_trend(document, place, report)
    raise ReadError(f"{place}: not a result of schema {COMPARISON} or {TREND} (found {str(schema)[:100]!r})")


def _of_comparison(document: Mapping[str, Any], place: str, report: Path | None) -> Result:
    comparison = comparison_from_document(document, place)
    runs = (*comparison.candidate.runs, *comparison.baseline.runs)
    scenario = runs[0].scenario if runs else ""
    history = document.get("history")
    watched = history is not None and not history.get("pull_request")  # a pull request is judged alone
    watch = decode(history, _Watch, f"{place}: history") if watched else None
    occurrences = _called(comparison, scenario)
    if watch is not None:
        occurrences = [one.occurrence() for one in watch.alerts if one.is_notified]
    gaps = (*comparison.gaps, *(watch.gaps if watch is not None else ()))
    return Result(
        place,
        document,
        scenario,
        comparison.verdict,
        comparison,
        incidents_of(occurrences),
        watched,
        report,
        gaps,
        _missing_services(comparison, watch),
        frozenset(watch.services) if watch is not None else _measured_services(comparison),
    )


def _missing_services(comparison: Comparison, watch: _Watch | None) -> tuple[MissingService, ...]:
    """As the history names them, which knows since when; else by what the candidate lacks of the baseline."""
    missing = {item.service: item for item in (watch.missing_services if watch is not None else ())}
    for gap in comparison.gaps:
        for name in gap.services:
            missing.setdefault(name, MissingService(name, _after(comparison), gap.text, gap.advice))
    return tuple(missing.values())


def _measured_services(comparison: Comparison) -> frozenset[str]:
    if comparison.verdict is Verdict.INVALID:
        return frozenset()
    return frozenset(name for finding in comparison.findings for name in (finding.service, finding.label))


def _of_trend(document: Mapping[str, Any], place: str, report: Path | None) -> Result:
    trend = decode(document, _Trend, place)
    watch = trend.watch
    if watch is None:
        raise ReadError(f"{place}: this history was not watched; make the report with `perfkit report trend`")
    incidents = incidents_of(one.occurrence() for one in watch.alerts if one.is_notified)
    return Result(
        place,
        document,
        trend.scenario,
        watch.judgement,
        None,
        incidents,
        True,
        report,
        watch.gaps,
        watch.missing_services,
        frozenset(watch.services),
    )


def _called(comparison: Comparison, scenario: str) -> list[Occurrence]:
    """What a comparison without history calls: one event, for all of it lies between the same two builds."""
    found = [finding for finding in comparison.by_verdict(Verdict.REGRESSION) if not finding.objective]
    if not found or comparison.verdict is Verdict.INVALID:
        return []
    before, after = (
        RunReference(run.id, run.started_at, True, run.git.get("commit", ""), run.git.get("branch", ""))
        for run in (comparison.baseline.runs[-1], comparison.candidate.runs[0])
    )
    movements = tuple(_finding(one) for one in sorted(found, key=lambda f: f.p_adjusted if f.p_adjusted else 0.0))
    return [Occurrence(Event(_after(comparison), scenario, 0, before, after, movements))]


def _after(comparison: Comparison) -> str:
    """The name of what happened since the baseline: other candidates, the same event."""
    return f"{AFTER}{comparison.baseline.runs[-1].id}"


def _finding(finding: Finding) -> MetricChange:
    ends = [_percent(finding, end) for end in (finding.ci_low, finding.ci_high)]
    p_value = finding.p_adjusted if finding.p_adjusted is not None else math.nan
    change = ChangePoint(
        0, _number(finding.baseline), _number(finding.candidate), _change(finding.change_pct), p_value, ends[0], ends[1]
    )
    return MetricChange(finding.label, Metric(finding.metric), change)


def _percent(finding: Finding, end: float | None) -> float:
    """An end of an interval in percent of the baseline."""
    if end is None or finding.change_unit == "%":
        return _number(end)
    return 100.0 * end / finding.baseline if finding.baseline else math.nan


class _Moment(msgspec.Struct, frozen=True):
    run: str
    started_at: Time | None
    commit: str
    branch: str

    def moment(self) -> RunReference:
        time = utc(self.started_at) if self.started_at is not None else None
        return RunReference(self.run, time, True, self.commit, self.branch)


class _Movement(msgspec.Struct, frozen=True):
    service: str
    metric: str
    before: float | None
    after: float | None
    change_pct: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: Share | None

    def __post_init__(self) -> None:
        Metric(self.metric)

    def movement(self, index: int) -> MetricChange:
        change = ChangePoint(
            index,
            _number(self.before),
            _number(self.after),
            _change(self.change_pct),
            _number(self.p_value),
            _number(self.ci_low),
            _number(self.ci_high),
        )
        return MetricChange(self.service, Metric(self.metric), change)


class _Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What a watched history tells of an event."""

    id: str
    scenario: str
    index: Count
    last_before: _Moment
    first_after: _Moment
    movements: tuple[_Movement, ...]
    aliases: tuple[str, ...]
    holds: bool
    fails: bool
    confirmed: bool = True  # as all were that 0.1.0 wrote
    runs_to_learn: Count = 0
    acknowledged: dict[str, Any] | None = None
    raised_at: str | None = None
    coincides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.movements:
            raise ValueError("movements: an event has at least one")
        for moment in (self.last_before, self.first_after):
            moment.moment()

    @property
    def is_notified(self) -> bool:
        """Whether messages are about it: the monitor alerted, or may not do so yet.

        What the monitor has not confirmed is in the verdict and its reasons; a message to take back would cry wolf.
        """
        return self.confirmed or self.runs_to_learn > 0

    def occurrence(self) -> Occurrence:
        event = Event(
            self.id,
            self.scenario,
            self.index,
            self.last_before.moment(),
            self.first_after.moment(),
            tuple(item.movement(self.index) for item in self.movements),
            self.aliases,
            self.coincides,
        )
        return Occurrence(event, self.holds, bool(self.acknowledged), self.raised_at or "")


class _Level(msgspec.Struct, frozen=True):
    begin: Count
    end: Count
    value: float


class _Course(msgspec.Struct, frozen=True):
    """A series that a message draws; see `perfkit.history.trend`."""

    service: str
    metric: str
    first_index: Count
    started_at: tuple[Time | None, ...]
    values: tuple[float | None, ...]
    levels: tuple[_Level, ...]

    def __post_init__(self) -> None:
        Metric(self.metric)
        if len(self.started_at) != len(self.values):
            raise ValueError(f"values: there are {len(self.values)}, and {len(self.started_at)} times")


class _Watch(msgspec.Struct, frozen=True):
    alerts: tuple[_Alert, ...]
    runs: Count | None = None
    courses: tuple[_Course, ...] = ()
    verdict: Verdict | None = None
    missing_services: tuple[MissingService, ...] = ()
    services: tuple[str, ...] = ()

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The services that ended, each with what to do about it."""
        return tuple(Gap(item.advice or item.sentence) for item in self.missing_services)

    @property
    def judgement(self) -> Verdict:
        """As `MonitorResult.verdict`; of results of earlier versions, by their alerts."""
        if self.verdict is not None:
            return self.verdict
        if self.runs == 0:
            return Verdict.INVALID  # a history without a valid run says nothing
        return Verdict.REGRESSION if any(one.fails for one in self.alerts) else Verdict.NO_CHANGE


class _Trend(msgspec.Struct, frozen=True):
    """Of the document ``perfkit.trend/1``, what is told elsewhere."""

    scenario: str
    watch: _Watch | None
    courses: tuple[_Course, ...] = ()


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _change(percent: float | None) -> float:
    """What is not told of a change is one from zero."""
    return math.inf if percent is None else float(percent)


MOST_KNOWN = 200  # worsenings that are remembered: the newest


@dataclass(frozen=True, slots=True)
class NotifiedIncident:
    """An incident as a recipient was last notified of it: fingerprints of all its occurrences, and its headline."""

    names: tuple[str, ...]
    headline: str

    @classmethod
    def of_incident(cls, incident: Incident) -> NotifiedIncident:
        """As it stands now."""
        return cls(_names(incident), incident.last.event.headline)

    def shared(self, incident: Incident) -> int:
        """How many names it has in common with an incident; 0: it is another one."""
        return len(set(self.names) & set(_names(incident)))


def _names(incident: Incident) -> tuple[str, ...]:
    """Of every occurrence: with few runs a relapse may look like an event of its own, and be told as one."""
    events = [one.event for one in incident.occurrences]
    names = [name for event in events for name in (event.id, *event.aliases)]
    return tuple(dict.fromkeys(fingerprint(incident.scenario, name) for name in names))


@dataclass(frozen=True, slots=True)
class Notified:
    """What somebody knows of a scenario: worsenings that hold and that are over, and whether its runs were unfit.

    ``missing`` are services without requests, as they were put.
    """

    open: tuple[NotifiedIncident, ...] = ()
    over: tuple[NotifiedIncident, ...] = ()
    invalid: bool = False
    missing: tuple[MissingService, ...] = ()


@dataclass(frozen=True, slots=True)
class NotificationDiff:
    """What is new; false when nothing is.

    Parameters
    ----------
    new, reopened
        Worsenings that hold and were not told: new ones, and those that were resolved before.
    resolved
        What was told and does not hold any more.
    invalid
        Whether the runs cannot be judged, for the first time.
    after
        What is known once this is told.
    missing
        Services that have no requests any more, which was not told.
    measured_again
        Those of which it was told, and which have requests again.
    """

    new: tuple[Incident, ...]
    reopened: tuple[Incident, ...]
    resolved: tuple[NotifiedIncident, ...]
    invalid: bool
    after: Notified
    missing: tuple[MissingService, ...] = ()
    measured_again: tuple[MissingService, ...] = ()

    def __bool__(self) -> bool:
        return self.is_bad or bool(self.resolved or self.measured_again)

    @property
    def is_bad(self) -> bool:
        """Whether anything in it is no good news."""
        return bool(self.new or self.reopened or self.invalid or self.missing)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for those who are to hear the same."""
        names = tuple(_names(one) for one in (*self.new, *self.reopened))
        services = tuple(tuple(item.key for item in items) for items in (self.missing, self.measured_again))
        return names, tuple(one.names for one in self.resolved), self.invalid, services


def notification_diff(result: Result, told: Notified) -> NotificationDiff:
    """What a result says that was not told.

    An acknowledged worsening is no news, nor is its end.  What was told and is not in the result at all is taken to
    hold still: the history at hand may be a part of the one that it was seen in.
    """
    pairs: list[tuple[NotifiedIncident, Incident | None]] = []
    for known in told.open:  # of neighbours, whose names may overlap, the one that has most in common with it
        nearest = max(result.incidents, key=known.shared, default=None)
        pairs.append((known, nearest if nearest is not None and known.shared(nearest) else None))
    seen = [found for _, found in pairs if found is not None]
    fresh = [one for one in result.open_incidents if one not in seen]
    resolved = tuple(known for known, found in pairs if _is_over(known, found, result))
    open_now = [known for known, found in pairs if found is None and known not in resolved]
    open_now += [NotifiedIncident.of_incident(one) for one in result.open_incidents]
    gone = [known for known in (*told.over, *resolved) if not any(map(known.shared, result.open_incidents))]
    back = [one for one in fresh if one.relapses or any(known.shared(one) for known in told.over)]
    invalid = result.verdict is Verdict.INVALID
    missing = {item.key: item for item in result.missing_services}
    services = {item.service for item in missing.values()}
    before = {item.key: item for item in told.missing}
    measured_again = tuple(item for item in told.missing if item.service not in services and result.has_again(item))
    still = [item for item in told.missing if item not in measured_again and item.key not in missing]
    if result.watched:  # a service that ended anew, since another run
        still = [item for item in still if item.service not in services]
    return NotificationDiff(
        tuple(one for one in fresh if one not in back),
        tuple(back),
        resolved,
        invalid and not told.invalid,
        Notified(
            tuple(open_now[-MOST_KNOWN:]),
            tuple(gone[-MOST_KNOWN:]),
            invalid,
            tuple([*still, *missing.values()][-MOST_KNOWN:]),
        ),
        tuple(item for key, item in missing.items() if key not in before),
        measured_again,
    )


def _is_over(known: NotifiedIncident, found: Incident | None, result: Result) -> bool:
    if found is not None:
        return not found.is_open
    fine = result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT)
    return not result.watched and fine and result.fingerprint in known.names
