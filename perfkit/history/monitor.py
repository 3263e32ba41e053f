"""The sequential monitor of a scenario's history, run after run: all its series under one alpha.

A worsening beyond what the policy accepts is open until it is taken back, acknowledged, or accepted as the baseline,
however old it is.  The monitor may need some runs more than change points do, and cannot alert in a young history.
What only change points show is open too: it fails where it is so strong that its share of the budget for looking again
after every run allows it, and leaves the history inconclusive otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import Acknowledgement, match
from perfkit.history.baselines import Pinned
from perfkit.history.change_events import FAR, LEAST_VALUES, HistoryAnalysis, group, reach_of
from perfkit.history.confounders import (
    by_mix,
    measured_services,
    missing_service_advice,
    missing_services,
    mixes,
)
from perfkit.history.events import NEAR, Event, MetricChange, RunReference, Series, ServiceChange
from perfkit.history.timeline import Timeline
from perfkit.model.codec import encode
from perfkit.model.records import Metric, Verdict
from perfkit.stats.changepoints import ChangePoint
from perfkit.stats.sequential import Alarm, SharedNoise, shared_noise, watch_history
from perfkit.stats.summary import Floats

NEWS = 30  # runs after which a change that the monitor never confirmed is taken for how things are
MOST_EXCERPTS = 3  # series in a message
MOST_RUNS = 200  # of each
MOST_SHARING = 60  # series from which the correlation of runs is learned
SPENDING = 30.0  # runs, after which half of the budget for what change points alone show is spent


@dataclass(frozen=True, slots=True)
class Alert:
    """An event as the monitor detected it, or as change points show it before that.

    Parameters
    ----------
    detected_at
        The run at which it was detected; ``None`` where the monitor has not alerted.
    runs_ago
        Runs since then.
    runs
        Runs since it began, its first one included.
    holds
        Those of its movements that were not taken back since.
    serious
        Those of them that are for the worse by more than the policy accepts.
    acknowledgement
        What covers it; ``None`` when nothing does.
    accepted
        The pinned baseline that was moved to its level; ``None`` when none was.
    is_shown
        Of one that the monitor has not alerted of: whether its share of the budget allows to call it.
    runs_to_learn
        Further runs before the monitor can alert of it.
    """

    event: Event
    detected_at: RunReference | None
    runs_ago: int
    runs: int
    holds: tuple[MetricChange, ...]
    serious: tuple[MetricChange, ...]
    acknowledgement: Acknowledgement | None = None
    accepted: Pinned | None = None
    is_shown: bool = True
    runs_to_learn: int = 0

    @property
    def stands(self) -> bool:
        """Whether the strongest movement of any service, for the worse if any is, still holds."""
        moved = [item for item in self.event.changes if item.is_worse] or self.event.changes
        strongest = {item.service: item for item in reversed(moved)}
        return any(item in self.holds for item in strongest.values())

    @property
    def is_confirmed(self) -> bool:
        """Whether the monitor alerted."""
        return self.detected_at is not None

    @property
    def is_open(self) -> bool:
        """Whether it is worse than accepted, and nobody said that this is fine."""
        return bool(self.serious) and self.acknowledgement is None and self.accepted is None

    @property
    def fails(self) -> bool:
        """Whether it is a reason to object."""
        return self.is_open and self.is_shown

    @property
    def since(self) -> str:
        """``run 20261102T020000Z-api-3f9c (2026-11-02), 12 runs``."""
        first = self.event.first_after
        return f"run {first.run_id}{first.day}, {self.runs} run{'' if self.runs == 1 else 's'}"

    @property
    def open_for(self) -> str:
        """``Open since then, 12 runs.``, behind the event's headline."""
        return f"Open since then, {self.runs} run{'' if self.runs == 1 else 's'}."

    @property
    def doubt(self) -> str:
        """Why what change points show is not confirmed; empty where the monitor alerted."""
        if self.is_confirmed:
            return ""
        more = self.runs_to_learn
        if more:
            return f"Change points show it; history alerts start after {more} more run{'' if more == 1 else 's'}."
        return "Change points show it; the history monitor has not alerted of it yet."

    def to_dict(self) -> dict[str, Any]:
        """The event with what the monitor says of it."""
        acknowledged = encode(self.acknowledgement) if self.acknowledgement else None
        accepted = None
        if (pinned := self.accepted) is not None:  # as an acknowledgement says it: who, when, until when, why
            accepted = {
                "by": pinned.by,
                "created": pinned.created.isoformat(),
                "until": pinned.expires.isoformat() if pinned.expires else None,
                "reason": f"accepted as baseline {pinned.name}: {pinned.reason}",
            }
        return {
            **self.event.to_dict(),
            "raised_at": self.detected_at.run_id if self.detected_at is not None else None,
            "raised_runs_ago": self.runs_ago,
            "runs_open": self.runs,
            "confirmed": self.is_confirmed,
            "doubt": self.doubt or None,
            "runs_to_learn": self.runs_to_learn,
            "holds": self.stands,
            "open": self.is_open,
            "fails": self.fails,
            "acknowledged": acknowledged or accepted,
            "accepted": self.accepted.name if self.accepted else None,
        }


@dataclass(frozen=True, slots=True)
class MonitorResult:
    """What the monitor says of a scenario.

    Parameters
    ----------
    runs, invalid
        Runs that were looked at, and invalid ones, which were not.
    series, warming_up
        Series of one metric of one service, and those of them that cannot raise an alarm yet.
    runs_to_learn
        Further runs until all of them can (0: they can).
    services_changed
        Services that ended or began, oldest first.
    services
        Those that the newest valid run has requests of.
    """

    scenario: str
    runs: int
    invalid: int
    since: RunReference
    series: int
    warming_up: int
    runs_to_learn: int
    alpha: float
    alerts: tuple[Alert, ...]
    services_changed: tuple[ServiceChange, ...] = ()
    services: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether any alert is a reason to object."""
        return any(alert.fails for alert in self.alerts)

    @property
    def leading_series(self) -> tuple[Series, ...]:
        """The leading series of each alert that holds and that nobody acknowledged, the newest alert first."""
        holding = [alert for alert in self.alerts if alert.holds and alert.acknowledgement is None]
        ranked = sorted(holding, key=lambda alert: alert.runs_ago)
        return tuple(dict.fromkeys(leading_series(alert.event) for alert in ranked))

    @property
    def verdict(self) -> Verdict:
        """What the history says, for every channel alike.

        ``inconclusive`` where a worsening is open that is not confirmed, and where too few runs could show any.
        """
        if not self.runs:
            return Verdict.INVALID
        if self.fails:
            return Verdict.REGRESSION
        is_young = self.runs < LEAST_VALUES
        return Verdict.INCONCLUSIVE if is_young or any(alert.is_open for alert in self.alerts) else Verdict.NO_CHANGE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "scenario": self.scenario,
            "runs": self.runs,
            "invalid_runs": self.invalid,
            "since_run": self.since.run_id,
            "since": self.since.started_at.isoformat() if self.since.started_at else None,
            "series": self.series,
            "series_that_may_not_speak_yet": self.warming_up,
            "runs_to_learn": self.runs_to_learn,
            "alpha": self.alpha,
            "verdict": self.verdict.value,
            "alerts": [alert.to_dict() for alert in self.alerts],
            "services_changed": [change.to_dict() for change in self.services_changed],
            "services": list(self.services),
            "missing_services": [
                {
                    "service": name,
                    "since_run": change.id,
                    "sentence": change.headline,
                    "advice": missing_service_advice(name, change),
                }
                for name, change in missing_services(self.services_changed)
            ],
        }


def leading_series(event: Event) -> Series:
    """The series that changed most clearly, for the worse where there is one."""
    first = next((item for item in event.changes if item.is_worse), event.changes[0])
    return first.service, first.metric


def excerpt(history: HistoryAnalysis, key: Series) -> dict[str, Any]:
    """The newest runs of one series for a message: one value per run, ``None`` where it has none, and its levels.

    ``begin`` of a level and ``first_index`` count runs from the oldest of the history.
    """
    timeline = history.timeline
    first = max(len(timeline) - MOST_RUNS, 0)
    times = [run.started_at for run in timeline.runs[first:]]
    return {
        "service": key[0],
        "metric": key[1].value,
        "first_index": first,
        "started_at": [at.isoformat() if at is not None else None for at in times],
        "values": [None if np.isnan(value) else float(value) for value in timeline.series[key][first:]],
        "levels": [
            {"begin": level.begin, "end": level.end, "value": float(level.value)}
            for level in history.levels(key)
            if level.end > first
        ],
    }


def monitor_timeline(
    history: HistoryAnalysis | Timeline,
    policy: Policy,
    acknowledgements: Sequence[Acknowledgement] = (),
    today: date | None = None,
    baselines: Sequence[Pinned] = (),
) -> MonitorResult:
    """Monitor every series of a history that the policy judges; ``policy.alpha`` is shared among them.

    ``policy.alpha`` is the chance that a history in which nothing changes ever raises any alarm; a history that was
    analysed under another alpha is analysed anew.  ``acknowledgements`` and ``baselines`` hold as of ``today``.
    """
    timeline = history if isinstance(history, Timeline) else history.timeline
    if isinstance(history, Timeline) or history.alpha != policy.alpha:
        history = HistoryAnalysis(timeline, policy.alpha)
    judged = {key: values for key, values in timeline.series.items() if policy.limit(*key) is not None}
    monitored = history.alarms.get(tuple(judged)) or history.alarms.setdefault(tuple(judged), _alarms(history, judged))
    changed = history.services_changed
    gone = {name for name, _ in missing_services(changed)}
    waits = [wait for (service, _), (_, wait) in monitored.items() if service not in gone]
    alerts = _alerts(history, {key: alarms for key, (alarms, _) in monitored.items()}, policy)
    alerts = [*alerts, *_unconfirmed(history, alerts, policy, max(waits, default=0))]
    alerts.sort(key=lambda alert: alert.event.index)
    if today is not None:
        covered = match([alert.event for alert in alerts], history.run_ids, acknowledgements, today)
        places = {run_id: index for index, run_id in enumerate(history.run_ids)}
        pins = [pin for pin in baselines if pin.scenario == timeline.scenario and not pin.has_expired(today)]
        alerts = [
            replace(
                alert,
                acknowledgement=covered.get(alert.event.id),
                accepted=next((pin for pin in pins if _is_moved_past(pin, alert.event.index, places)), None),
            )
            for alert in alerts
        ]
    valid = [run for run in timeline.runs if run.valid]
    return MonitorResult(
        timeline.scenario,
        len(valid),
        len(timeline) - len(valid),
        valid[0] if valid else timeline.runs[0],
        len(judged),
        sum(wait > 0 for wait in waits),
        max(waits, default=0),
        policy.alpha,
        tuple(alerts),
        changed,
        measured_services(timeline),
    )


def _alarms(
    history: HistoryAnalysis, judged: Mapping[Series, Floats]
) -> Mapping[Series, tuple[tuple[Alarm, ...], int]]:
    """See `_monitored`, for each of these series of a history."""
    each, numbers, times = history.alpha / max(len(judged), 1), mixes(history.timeline), history.timeline.times
    shared = shared_noise(list(judged.values())[:: -(-len(judged) // MOST_SHARING) or 1], times)
    return {key: _monitored(key[1], values, numbers, times, each, shared) for key, values in judged.items()}


def _monitored(
    metric: Metric,
    values: Floats,
    numbers: NDArray[np.intp],
    times: NDArray[np.datetime64],
    alpha: float,
    shared: SharedNoise,
) -> tuple[tuple[Alarm, ...], int]:
    """The alarms of one series, and how many runs it lacks before it may raise any.

    Throughput of each mix of services is a series of its own; every further one spends half of the budget of the one
    before.
    """
    if metric is not Metric.RPS or numbers.max(initial=-1) < 1:
        result = watch_history(values, alpha=alpha, times=times, shared=shared)
        return result.alarms, result.runs_to_learn
    parts = enumerate(by_mix(values, numbers).items())
    results = {
        number: watch_history(part, alpha=alpha / 2.0**order, times=times, shared=shared)
        for order, (number, part) in parts
    }
    newest = int(numbers[np.nonzero(~np.isnan(values))[0][-1]])
    alarms = sorted(
        (alarm for result in results.values() for alarm in result.alarms), key=lambda alarm: alarm.raised_at
    )
    return tuple(alarms), results[newest].runs_to_learn


def _alerts(history: HistoryAnalysis, alarms: Mapping[Series, Sequence[Alarm]], policy: Policy) -> list[Alert]:
    """The alarms as events: each joins what was detected before it, so that nothing is reported anew.

    The change points of a series with an alarm see sooner than the monitor that a change was taken back.
    """
    timeline, last = history.timeline, len(history.timeline) - 1
    changes = {key: history.changes_of(key) for key, raised in alarms.items() if raised}
    detected: dict[int, list[MetricChange]] = {}
    for key, raised in alarms.items():
        for alarm in raised:
            detected.setdefault(alarm.raised_at, []).append(_metric_change(*key, alarm, changes[key]))
    raised_at = {(key, alarm.index): alarm.raised_at for key, raised in alarms.items() for alarm in raised}
    alerts = []
    for event in group(timeline, *(detected[at] for at in sorted(detected))):
        at = min(raised_at[item.key, item.change.index] for item in event.changes)
        holds = [item for item in event.changes if _holds(item, history, changes[item.key], alarms[item.key])]
        serious = tuple(item for item in holds if item.is_worse and is_beyond(item, policy))
        alerts.append(Alert(event, timeline.runs[at], last - at, last + 1 - event.index, tuple(holds), serious))
    return alerts


def _unconfirmed(history: HistoryAnalysis, alerts: Sequence[Alert], policy: Policy, wait: int) -> Iterator[Alert]:
    """What change points show to be worse, and the monitor has not alerted of."""
    count = len(history.timeline)
    share = SPENDING / (count + SPENDING) ** 2 / max(len(history.timeline.series), 1)
    detected = [alert.event.index for alert in alerts if alert.event.kind != "improvement"]
    newest = {item.key: event.id for event in history.events for item in event.changes}
    for event in history.worsenings:
        holds = tuple(item for item in event.changes if newest[item.key] == event.id)
        serious = tuple(
            item for item in holds if item.is_worse and policy.limit(*item.key) is not None and is_beyond(item, policy)
        )
        is_shown = any(item.change.p_value <= policy.alpha * share for item in serious)
        is_new = is_shown or count - event.index <= NEWS
        if serious and is_new and all(abs(index - event.index) > FAR for index in detected):
            yield Alert(event, None, 0, count - event.index, holds, serious, is_shown=is_shown, runs_to_learn=wait)


def _metric_change(service: str, metric: Metric, alarm: Alarm, changes: Sequence[MetricChange]) -> MetricChange:
    """What an alarm detected, at the place where it saw it begin.

    Its size is that of the change point there, which later runs make more exact and give an interval; an alarm alone
    has none, for its place was chosen as the one that shows most.
    """
    near = [item.change for item in changes if abs(item.change.index - alarm.index) <= NEAR]
    if same := [change for change in near if _rise(change) * _rise(alarm) > 0]:
        nearest = min(same, key=lambda change: abs(change.index - alarm.index))
        change = replace(nearest, index=alarm.index, p_value=alarm.p_value)
    else:
        unknown = float("nan")
        change = ChangePoint(alarm.index, alarm.before, alarm.after, alarm.change_pct, alarm.p_value, unknown, unknown)
    return MetricChange(service, metric, change, round(reach_of(alarm.distance)))


def _rise(step: Alarm | ChangePoint) -> float:
    return step.after - step.before


def _holds(
    item: MetricChange, history: HistoryAnalysis, changes: Sequence[MetricChange], alarms: Sequence[Alarm]
) -> bool:
    """Whether its series now stands nearer to the level after it than to the one before it.

    What later alarms saw go and come back is over: its return is an event of its own.
    """
    change, key = item.change, item.key
    aligned = history.usual
    scale = aligned.scale_at(key, change.index)
    levels = [
        alarm.after * aligned.scale_at(key, alarm.index) / scale for alarm in alarms if alarm.index > change.index
    ]
    is_there = [_is_nearer_after(change, level) for level in levels]
    if False in is_there and True in is_there[is_there.index(False) :]:
        return False
    begin = max([change.index, *(later.change.index for later in changes)])
    return _is_nearer_after(change, float(np.nanmedian(aligned.series[key][begin:])) / scale)


def _is_nearer_after(change: ChangePoint, level: float) -> bool:
    """Whether a level lies nearer to the one after a change than to the one before it."""
    return 2.0 * (level - change.before) * _rise(change) >= _rise(change) ** 2


def is_beyond(item: MetricChange, policy: Policy) -> bool:
    """Whether it moved by more than its tolerance."""
    limit = policy.limit(*item.key)
    tolerance = limit.in_change_unit(item.change.before) if limit is not None else None
    return tolerance is None or abs(item.size) > tolerance


def _is_moved_past(pinned: Pinned, index: int, places: Mapping[str, int]) -> bool:
    """Whether a baseline was accepted anew (`perfkit baseline accept`) and so moved from before a place to after it.

    One that was pinned there at first was chosen as an anchor; that says nothing of what led there.
    """
    now = [places[run_id] for run_id in pinned.runs if run_id in places]
    before = [places.get(run_id, -1) for state in pinned.history for run_id in state.runs]
    return bool(now) and min(now) >= index - NEAR and any(place < index - NEAR for place in before)
