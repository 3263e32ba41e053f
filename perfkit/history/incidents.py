"""Incidents: worsenings from their detection until they are over, and through their relapses.

A *result* (a comparison, or the history of a scenario, by any version of perfkit) shows *occurrences*: events in which
something got worse.  Occurrences of the same worsening are one *incident* (`incidents_of`).  What a recipient was
notified of is a `Notified` per scenario; `notification_diff` joins its incidents to those of a newer result and says
what is new.  An incident is recognised by its fingerprints, for more runs may move the place of an event a little.

================  ======================  ============  ==========
notified as       in the newer result     in the diff   kept as
================  ======================  ============  ==========
not at all        open                    ``new`` (1)   open
not at all        over, or acknowledged   nothing       not at all
open              open                    nothing       open
open              acknowledged            nothing       not at all
open              over                    ``resolved``  over
open              absent                  nothing (2)   open
over              open                    ``reopened``  open
over              anything else           nothing       over
================  ======================  ============  ==========

(1) ``reopened`` where it is a relapse by the history itself.
(2) The history at hand may be a part of the one in which it was seen.  A comparison without history has one incident,
what happened since its baseline; it is ``resolved`` when a comparison with the same baseline shows no regression.

Example: the p95 of ``/pay``, watched every night.

=====  ===================================  =============================  ============
night  the history shows                    occurrences of the incident    the diff
=====  ===================================  =============================  ============
43     100 ms to 120 ms at night 40         night 40                       ``new``
44     the same                             night 40                       nothing
53     and back to 101 ms at night 50       night 40, over                 ``resolved``
63     and 100 ms to 119 ms at night 60     night 40, over; night 60       ``reopened``
=====  ===================================  =============================  ============
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from perfkit.history.events import Event, MetricChange, MetricChangeRecord, RunRecord, RunReference
from perfkit.model.codec import Count, Time, decode, read_json
from perfkit.model.errors import Activity, ReadError
from perfkit.model.records import Comparison, ErrorKind, Finding, Gap, Metric, Verdict
from perfkit.model.serialization import comparison_from_document
from perfkit.runs.collection import labels_text

COMPARISON, TREND = "perfkit.comparison/1", "perfkit.trend/1"
RESULT, REPORT = "result.json", "report.html"
AFTER = "after-"  # and the newest run of a baseline: names what happened since it
MOST_KEPT = 200  # incidents that a recipient was notified of: the newest


def digest(text: str, length: int = 12) -> str:
    """Hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def fingerprint(scenario: str, name: str) -> str:
    """What an event of that name is known by elsewhere."""
    return digest(f"{scenario}\n{name}")


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event in which something got worse, as a result shows it."""

    event: Event
    holds: bool = True  # whether what got worse was not taken back since
    acknowledgement: str = ""  # who said that it is known or intended, and why; empty where nobody did
    detected_at: str = ""  # id of the run at which it was first detected; empty where it is not known
    fails: bool = True  # whether it is beyond its tolerance, so that a build with it fails
    # is_open, runs_open: whether it counts as open, and for how many runs; ``None`` where that is not known
    is_open: bool | None = None
    runs_open: int | None = None
    doubt: str = ""  # why it may be none after all; empty where nothing speaks against it

    @property
    def worse(self) -> tuple[MetricChange, ...]:
        """What got worse, strongest first."""
        return tuple(item for item in self.event.changes if item.is_worse)

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item.service for item in self.worse))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the places at which it may have begun, its own first."""
        names = (self.event.id, *self.event.aliases)
        return tuple(dict.fromkeys(fingerprint(self.event.scenario, name) for name in names))


@dataclass(frozen=True, slots=True)
class Incident:
    """A worsening through all its occurrences: the first, then each relapse, oldest first."""

    occurrences: tuple[Occurrence, ...]

    @property
    def scenario(self) -> str:
        return self.first.event.scenario

    @property
    def first(self) -> Occurrence:
        return self.occurrences[0]

    @property
    def last(self) -> Occurrence:
        return self.occurrences[-1]

    @property
    def relapses(self) -> int:
        return len(self.occurrences) - 1

    @property
    def is_open(self) -> bool:
        return self.last.holds

    @property
    def fingerprint(self) -> str:
        """What it is known by elsewhere: twelve hex digits of scenario and place."""
        return self.first.fingerprints[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of all its occurrences, for with few runs a relapse may look like an event of its own."""
        return tuple(dict.fromkeys(name for item in self.occurrences for name in item.fingerprints))


def incidents_of(occurrences: Iterable[Occurrence]) -> tuple[Incident, ...]:
    """Occurrences of one scenario, oldest first, as incidents, in order of their beginning.

    A worsening in the series that led an earlier incident, each level within half the size of the change, is a relapse
    of that: in between it must have been over.  What only got better is no incident.
    """

    def is_relapse(occurrence: Occurrence, incident: Incident) -> bool:
        lead = incident.last.worse[0]
        half = abs(lead.change.after - lead.change.before) / 2.0
        return any(
            (item.service, item.metric) == (lead.service, lead.metric)
            and abs(item.change.before - lead.change.before) < half
            and abs(item.change.after - lead.change.after) < half
            for item in occurrence.worse
        )

    incidents: list[Incident] = []
    for occurrence in occurrences:
        if not occurrence.worse:
            continue
        relapsed = (i for i in reversed(range(len(incidents))) if is_relapse(occurrence, incidents[i]))
        if (i := next(relapsed, None)) is None:
            incidents.append(Incident((occurrence,)))
        else:
            incidents[i] = Incident((*incidents[i].occurrences, occurrence))
    return tuple(incidents)


class MissingService(msgspec.Struct, frozen=True):
    """A service that has no requests any more, since a run; between two builds, since what names the baseline."""

    service: str
    since_run: str
    sentence: str
    advice: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.service, self.since_run

    @property
    def recovery(self) -> str:
        """What is said when it has requests again."""
        since = "" if self.since_run.startswith(AFTER) else f"; it had none since run {self.since_run}"
        return f"Service {self.service} has requests again{since}."


@dataclass(frozen=True, slots=True)
class Result:
    """What a result file says."""

    source: str  # where it was read, for messages
    document: Mapping[str, Any]
    scenario: str
    verdict: Verdict
    comparison: Comparison | None  # ``None`` for the history of a scenario
    # worsenings, in order of their beginning: of the history where it is known, else what the comparison calls
    incidents: tuple[Incident, ...]
    watched: bool  # whether `incidents` come of a watched history, which knows every worsening and whether it is over
    report: Path | None = None  # the HTML report beside it, where there is one
    # what was not measured, of the comparison and of the watched history, with what to do about it
    gaps: tuple[Gap, ...] = ()
    # services that have no requests any more: in the newest runs of the history, or in the candidate
    missing_services: tuple[MissingService, ...] = ()
    # services that have: in the newest run of the history, or on both sides of a comparison
    measured_services: frozenset[str] = frozenset()
    stored: bool = False  # whether it was judged just now from a store: then no file and no report folder holds it
    # those that runs must have to be in the history; empty where all runs of the scenario are
    labels: Mapping[str, str] = field(default_factory=dict)
    # kinds of failed requests of both sides, of a history those of its newest valid run and of the runs before;
    # ``None`` where they are not known
    errors: tuple[ErrorKind, ...] | None = None

    @property
    def subject(self) -> str:
        """What it is about: the scenario, and the labels that its runs have where the history has no others.

        Histories of one scenario under other labels are others: what is open in one is not over in another.
        """
        return _subject(self.scenario, self.labels)

    @property
    def report_folder(self) -> str:
        """Name of the folder that holds the report or the result file; empty where there is none."""
        return "" if self.stored else (self.report or Path(self.source)).resolve().parent.name

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """Incidents that hold and that nobody acknowledged."""
        return tuple(item for item in self.incidents if item.is_open and not item.last.acknowledgement)

    @property
    def fingerprint(self) -> str:
        """What a worsening since the same baseline is known by; empty without two builds to compare."""
        name = _after(self.comparison)
        return fingerprint(self.subject, name) if name else ""

    def has_again(self, missing: MissingService) -> bool:
        """Whether a service that was missing has requests: in the same history, or against the same baseline."""
        if missing.service not in self.measured_services:
            return False
        return self.watched or missing.since_run == _after(self.comparison)


def read_result(path: str | Path) -> Result:
    """Read a report folder, the ``result.json`` or ``report.html`` in it, or what ``--format json`` wrote."""
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


def read_judged(path: str | Path) -> Comparison:
    """The comparison in a result file or report folder, as it was judged; ``ReadError`` when it holds none."""
    comparison = read_result(path).comparison
    if comparison is None:
        raise ReadError(f"{path}: is the history of a scenario, and no comparison; name the result of a comparison")
    return comparison


def result_of(document: Any, source: str, report: Path | None = None) -> Result:
    """What a result document says; ``ReadError`` names the source when it is none."""
    schema = document.get("schema") if isinstance(document, Mapping) else None
    comparison: Comparison | None = None
    labels: Mapping[str, str] = {}
    if schema == COMPARISON:
        comparison = comparison_from_document(document, source)
        runs = (*comparison.candidate.runs, *comparison.baseline.runs)
        scenario, verdict, gaps = runs[0].scenario if runs else "", comparison.verdict, comparison.gaps
        history, watch = document.get("history"), None
        if history is not None and not history.get("pull_request"):  # a pull request is judged alone
            watch = decode(history, _Watch, f"{source}: history")
            labels = watch.labels
    elif schema == TREND:
        trend = decode(document, _Trend, source)
        scenario, labels, watch, gaps = trend.scenario, trend.labels, trend.watch, ()
        if watch is None:
            raise ReadError(f"{source}: this history was not watched; make the report with `perfkit report trend`")
        verdict = watch.judgement
    else:
        raise ReadError(f"{source}: not a result of schema {COMPARISON} or {TREND} (found {str(schema)[:100]!r})")
    # A history knows since when a service is missing; without one, it is missing since the baseline
    missing = {item.service: item for item in (watch.missing_services if watch is not None else ())}
    for gap in gaps:
        for name in gap.services:
            missing.setdefault(name, MissingService(name, _after(comparison), gap.text, gap.advice))
    findings = comparison.findings if comparison is not None and verdict is not Verdict.INVALID else ()
    measured = watch.services if watch is not None else [n for item in findings for n in (item.service, item.label)]
    return Result(
        source,
        document,
        scenario,
        verdict,
        comparison,
        incidents_of(watch.occurrences(labels)) if watch is not None else _since_baseline(comparison, scenario),
        watch is not None,
        report,
        (*gaps, *(watch.gaps if watch is not None else ())),
        tuple(missing.values()),
        frozenset(measured),
        labels=labels,
        errors=comparison.errors if comparison is not None else trend.errors,
    )


def _subject(scenario: str, labels: Mapping[str, str]) -> str:
    return f"{scenario} ({labels_text(labels)})" if labels else scenario


def _since_baseline(comparison: Comparison | None, scenario: str) -> tuple[Incident, ...]:
    """What a comparison without history calls: one event, for all of it lies between the same two builds."""
    if comparison is None or comparison.verdict is Verdict.INVALID:
        return ()
    worse = [finding for finding in comparison.by_verdict(Verdict.REGRESSION) if not finding.objective]
    if not worse:
        return ()
    before, after = (
        RunReference(run.id, run.started_at, True, run.git.get("commit", ""), run.git.get("branch", ""))
        for run in (comparison.baseline.runs[-1], comparison.candidate.runs[0])
    )

    def percent(finding: Finding, end: float | None) -> float | None:
        """An end of an interval in percent of the baseline."""
        if end is None or finding.change_unit == "%":
            return end
        return 100.0 * end / finding.baseline if finding.baseline else None

    worse.sort(key=lambda finding: finding.p_adjusted or 0.0)
    records = (
        MetricChangeRecord(
            finding.label,
            Metric(finding.metric),
            finding.baseline,
            finding.candidate,
            finding.change_pct,
            percent(finding, finding.ci_low),
            percent(finding, finding.ci_high),
            finding.p_adjusted,
        )
        for finding in worse
    )
    changes = tuple(item.change(0) for item in records)
    return incidents_of([Occurrence(Event(_after(comparison), scenario, 0, before, after, changes))])


def _after(comparison: Comparison | None) -> str:
    """The name of what happened since the baseline: other candidates, the same event; empty without one."""
    return f"{AFTER}{comparison.baseline.runs[-1].id}" if comparison is not None and comparison.baseline.runs else ""


# The parts of a watched history that results are made of; what else stands in the document is for readers of reports


class _Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a watched history."""

    id: str
    scenario: str
    index: Count
    last_before: RunRecord
    first_after: RunRecord
    movements: tuple[MetricChangeRecord, ...]
    aliases: tuple[str, ...]
    holds: bool
    fails: bool
    confirmed: bool = True  # as all were that 0.1.0 wrote
    runs_to_learn: Count = 0
    acknowledged: dict[str, Any] | None = None
    raised_at: str | None = None
    coincides: tuple[str, ...] = ()
    open: bool | None = None
    runs_open: Count | None = None
    doubt: str | None = None

    def __post_init__(self) -> None:
        if not self.movements:
            raise ValueError("movements: an event has at least one")

    def occurrence(self, labels: Mapping[str, str]) -> Occurrence:
        before, after = self.last_before.reference(), self.first_after.reference()
        changes = tuple(item.change(self.index) for item in self.movements)
        subject = _subject(self.scenario, labels)
        event = Event(self.id, subject, self.index, before, after, changes, self.aliases, self.coincides)
        why = ""
        if given := self.acknowledged:  # as `Acknowledgement.describe` puts it
            day = f" on {str(given['created'])[:10]}" if given.get("created") else ""  # ISO 8601
            until = f", until {given['until']}" if given.get("until") else ""
            reason = given.get("reason") or "no reason is given"
            why = f"acknowledged by {given.get('by') or 'unknown'}{day}{until}: {reason}"
        state = self.fails, self.open, self.runs_open, self.doubt or ""
        return Occurrence(event, self.holds, why, self.raised_at or "", *state)


class _Level(msgspec.Struct, frozen=True):
    begin: Count
    end: Count
    value: float


class _Course(msgspec.Struct, frozen=True):
    """A series that a message draws; see `perfkit.history.trend`."""

    service: str
    metric: Metric
    first_index: Count
    started_at: tuple[Time | None, ...]
    values: tuple[float | None, ...]
    levels: tuple[_Level, ...]

    def __post_init__(self) -> None:
        if len(self.started_at) != len(self.values):
            raise ValueError(f"values: there are {len(self.values)}, and {len(self.started_at)} times")


class _Watch(msgspec.Struct, frozen=True):
    alerts: tuple[_Alert, ...]
    runs: Count | None = None
    courses: tuple[_Course, ...] = ()
    verdict: Verdict | None = None
    missing_services: tuple[MissingService, ...] = ()
    services: tuple[str, ...] = ()
    labels: dict[str, str] = {}

    def occurrences(self, labels: Mapping[str, str]) -> Iterator[Occurrence]:
        """Of the alerts that are notified: the monitor confirmed them, or is still in its warm-up.

        What the monitor has not confirmed is in the verdict and its reasons; a message to take back would cry wolf.
        """
        return (item.occurrence(labels) for item in self.alerts if item.confirmed or item.runs_to_learn > 0)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The services that ended, each with what to do about it."""
        return tuple(Gap(item.advice or item.sentence) for item in self.missing_services)

    @property
    def judgement(self) -> Verdict:
        """The verdict; of results of earlier versions, by their alerts."""
        if self.verdict is not None:
            return self.verdict
        if self.runs == 0:
            return Verdict.INVALID  # a history without a valid run says nothing
        return Verdict.REGRESSION if any(item.fails for item in self.alerts) else Verdict.NO_CHANGE


class _Trend(msgspec.Struct, frozen=True):
    scenario: str
    watch: _Watch | None
    courses: tuple[_Course, ...] = ()
    labels: dict[str, str] = {}
    errors: tuple[ErrorKind, ...] | None = None


@dataclass(frozen=True, slots=True)
class NotifiedIncident:
    """An incident as a recipient was last notified of it: fingerprints of all its occurrences, and its headline."""

    names: tuple[str, ...]
    headline: str

    def shared(self, incident: Incident) -> int:
        """Number of fingerprints shared with an incident; 0 means a different incident."""
        return len(set(self.names) & set(incident.fingerprints))


@dataclass(frozen=True, slots=True)
class Notified:
    """What somebody was notified of in a scenario: worsenings that hold or are over, unfit runs, missing services."""

    open: tuple[NotifiedIncident, ...]
    over: tuple[NotifiedIncident, ...]
    invalid: bool
    missing: tuple[MissingService, ...] = ()  # 0.1.0 did not keep it


NEVER_NOTIFIED = Notified((), (), invalid=False)


@dataclass(frozen=True, slots=True)
class NotificationDiff:
    """What is new in a result; false when nothing is."""

    # new, reopened, resolved: worsenings, as the table of `perfkit.history.incidents` has them
    new: tuple[Incident, ...]
    reopened: tuple[Incident, ...]
    resolved: tuple[NotifiedIncident, ...]
    invalid: bool  # whether the runs cannot be judged, for the first time
    after: Notified  # what the recipient is notified of once this is sent
    # services that have no requests any more, of which nobody was notified yet
    missing: tuple[MissingService, ...] = ()
    # services of whose end the recipient was notified, and which have requests again
    measured_again: tuple[MissingService, ...] = ()

    def __bool__(self) -> bool:
        return self.is_bad or bool(self.resolved or self.measured_again)

    @property
    def is_bad(self) -> bool:
        return bool(self.new or self.reopened or self.invalid or self.missing)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for those who get the same message."""
        incidents = tuple(item.fingerprints for item in (*self.new, *self.reopened))
        services = tuple(tuple(item.key for item in items) for items in (self.missing, self.measured_again))
        return incidents, tuple(item.names for item in self.resolved), self.invalid, services


def notification_diff(result: Result, before: Notified) -> NotificationDiff:
    """What is new in a result for a recipient who was notified of earlier ones; the table above has the cases."""
    followed: dict[NotifiedIncident, Incident | None] = {}
    for notified in before.open:  # of neighbours, whose fingerprints may overlap, the one that shares most
        nearest = max(result.incidents, key=notified.shared, default=None)
        followed[notified] = nearest if nearest is not None and notified.shared(nearest) else None
    fine = not result.watched and result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT)
    resolved = tuple(
        notified
        for notified, incident in followed.items()
        if (fine and result.fingerprint in notified.names if incident is None else not incident.is_open)
    )
    absent = [item for item, incident in followed.items() if incident is None and item not in resolved]
    fresh = [item for item in result.open_incidents if item not in followed.values()]
    reopened = [item for item in fresh if item.relapses or any(notified.shared(item) for notified in before.over)]
    now = [NotifiedIncident(item.fingerprints, item.last.event.headline) for item in result.open_incidents]
    over = [item for item in (*before.over, *resolved) if not any(map(item.shared, result.open_incidents))]

    invalid = result.verdict is Verdict.INVALID
    missing = {item.key: item for item in result.missing_services}
    services = {item.service for item in missing.values()}
    measured_again = [item for item in before.missing if item.service not in services and result.has_again(item)]
    still = [item for item in before.missing if item not in measured_again and item.key not in missing]
    if result.watched:  # a service that ended anew, since another run
        still = [item for item in still if item.service not in services]
    after = Notified(
        tuple([*absent, *now][-MOST_KEPT:]),
        tuple(over[-MOST_KEPT:]),
        invalid,
        tuple([*still, *missing.values()][-MOST_KEPT:]),
    )
    keys = {item.key for item in before.missing}
    return NotificationDiff(
        tuple(item for item in fresh if item not in reopened),
        tuple(reopened),
        resolved,
        invalid and not before.invalid,
        after,
        tuple(item for item in missing.values() if item.key not in keys),
        tuple(measured_again),
    )
