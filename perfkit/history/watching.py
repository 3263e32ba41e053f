"""A scenario watched run after run, all its series under one budget: what was heard, when, and since when it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from perfkit.history.acknowledged import Acknowledgement, match
from perfkit.history.events import NEAR, Event, Movement, group, movements_of, shared_alpha
from perfkit.history.timeline import Moment, Timeline
from perfkit.model import Metric
from perfkit.policy import Policy
from perfkit.stats.changepoints import ChangePoint, segment
from perfkit.stats.watch import Alarm, watch_history

NEWS = 30  # runs for which an alarm that nobody acknowledged still fails; after that it is how things are


@dataclass(frozen=True, slots=True)
class Alert:
    """An event as watching heard of it.

    Parameters
    ----------
    raised_at
        The run at which it was first heard.
    runs_ago
        Runs since then.
    holds
        Those of its movements that were not taken back since.
    serious
        Those of them that are for the worse by more than the policy accepts.
    acknowledgement
        What covers it; ``None`` when nothing does.
    """

    event: Event
    raised_at: Moment
    runs_ago: int
    holds: tuple[Movement, ...]
    serious: tuple[Movement, ...]
    acknowledgement: Acknowledgement | None = None

    @property
    def stands(self) -> bool:
        """Whether the strongest movement of any service, for the worse if any is, still holds."""
        moved = [item for item in self.event.movements if item.is_worse] or self.event.movements
        strongest = {item.service: item for item in reversed(moved)}
        return any(item in self.holds for item in strongest.values())

    @property
    def fails(self) -> bool:
        """Whether it is a reason to object."""
        return bool(self.serious) and self.runs_ago < NEWS and self.acknowledgement is None

    def to_dict(self) -> dict[str, Any]:
        """The event with what watching knows of it."""
        return {
            **self.event.to_dict(),
            "raised_at": self.raised_at.run_id,
            "raised_runs_ago": self.runs_ago,
            "holds": self.stands,
            "fails": self.fails,
            "acknowledged": self.acknowledgement.to_dict() if self.acknowledgement else None,
        }


@dataclass(frozen=True, slots=True)
class ScenarioWatch:
    """What watching a scenario came to.

    Parameters
    ----------
    runs, invalid
        Runs that were looked at, and invalid ones, which were not.
    series, silent
        Series of one metric of one service, and those of them that may not speak yet.
    runs_to_learn
        Further runs until all of them may (0: they may).
    """

    scenario: str
    runs: int
    invalid: int
    since: Moment
    series: int
    silent: int
    runs_to_learn: int
    alpha: float
    alerts: tuple[Alert, ...]

    @property
    def fails(self) -> bool:
        """Whether any alert is a reason to object."""
        return any(alert.fails for alert in self.alerts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "scenario": self.scenario,
            "runs": self.runs,
            "invalid_runs": self.invalid,
            "since_run": self.since.run_id,
            "since": self.since.started_at.isoformat() if self.since.started_at else None,
            "series": self.series,
            "series_that_may_not_speak_yet": self.silent,
            "runs_to_learn": self.runs_to_learn,
            "alpha": self.alpha,
            "alerts": [alert.to_dict() for alert in self.alerts],
        }


def watch_timeline(
    timeline: Timeline, policy: Policy, known: Sequence[Acknowledgement] = (), today: date | None = None
) -> ScenarioWatch:
    """Watch every series of a timeline that the policy judges; ``policy.alpha`` is shared among them.

    ``policy.alpha`` is the chance that a history in which nothing changes ever raises any alarm.
    """
    judged = {key: values for key, values in timeline.series.items() if policy.limit(*key) is not None}
    each = policy.alpha / max(len(judged), 1)
    watches = {key: watch_history(values, alpha=each) for key, values in judged.items()}
    alarms = {key: watch.alarms for key, watch in watches.items()}
    waits = [watch.runs_to_learn for watch in watches.values()]
    valid = [moment for moment in timeline.moments if moment.valid]
    alerts = _alerts(timeline, alarms, policy)
    return ScenarioWatch(
        timeline.scenario,
        len(valid),
        len(timeline) - len(valid),
        valid[0] if valid else timeline.moments[0],
        len(judged),
        sum(wait > 0 for wait in waits),
        max(waits, default=0),
        policy.alpha,
        _with_known(alerts, timeline, known, today),
    )


def _alerts(
    timeline: Timeline, alarms: Mapping[tuple[str, Metric], Sequence[Alarm]], policy: Policy
) -> tuple[Alert, ...]:
    raised: dict[tuple[str, Metric, int], Alarm] = {}
    for (service, metric), found in alarms.items():
        raised |= {(service, metric, alarm.index): alarm for alarm in found}
    changes = _changes(timeline, alarms, policy)
    movements = [_movement(*key, alarm, changes[key]) for key, every in alarms.items() for alarm in every]
    alerts = []
    for event in group(timeline, movements):
        own = [raised[item.service, item.metric, item.change.index] for item in event.movements]
        at = min(alarm.raised_at for alarm in own)
        holds = tuple(item for item in event.movements if _holds(item, timeline, changes[item.service, item.metric]))
        serious = tuple(item for item in holds if item.is_worse and is_beyond(item, policy))
        alerts.append(Alert(event, timeline.moments[at], len(timeline) - 1 - at, holds, serious))
    return tuple(alerts)


def _movement(service: str, metric: Metric, alarm: Alarm, changes: Sequence[Movement]) -> Movement:
    """What an alarm heard, at the place where it heard it.

    Its size is that of the change point there, which later runs make more exact and give an interval; an alarm alone
    has none, for its place was chosen as the one that shows most.
    """
    same = [
        item
        for item in changes
        if abs(item.change.index - alarm.index) <= NEAR and _rise(item.change) * _rise(alarm) > 0
    ]
    if same:
        nearest = min(same, key=lambda item: abs(item.change.index - alarm.index))
        return replace(nearest, change=replace(nearest.change, index=alarm.index, p_value=alarm.p_value))
    unknown = float("nan")
    change = ChangePoint(alarm.index, alarm.before, alarm.after, alarm.change_pct, alarm.p_value, unknown, unknown)
    return Movement(service, metric, change)


def _rise(step: Alarm | ChangePoint) -> float:
    return step.after - step.before


def _changes(
    timeline: Timeline, alarms: Mapping[tuple[str, Metric], Sequence[Alarm]], policy: Policy
) -> dict[tuple[str, Metric], tuple[Movement, ...]]:
    """The change points of series with an alarm: they see sooner than watching that a change was taken back."""
    each = shared_alpha(timeline, policy.alpha)
    heard = [key for key, every in alarms.items() if every]
    return {key: tuple(movements_of(timeline, key, segment(timeline.series[key], alpha=each))) for key in heard}


def _holds(movement: Movement, timeline: Timeline, changes: Sequence[Movement]) -> bool:
    """Whether its series now stands nearer to the level after it than to the one before it."""
    change = movement.change
    begin = max([change.index, *(item.change.index for item in changes)])
    now = float(np.nanmedian(timeline.series[movement.service, movement.metric][begin:]))
    return 2.0 * (now - change.before) * _rise(change) >= _rise(change) ** 2


def is_beyond(movement: Movement, policy: Policy) -> bool:
    """Whether it moved by more than the policy accepts."""
    limit = policy.limit(movement.service, movement.metric)
    allowed = limit.in_change_unit(movement.change.before) if limit is not None else None
    return allowed is None or abs(movement.size) > allowed


def _with_known(
    alerts: Sequence[Alert], timeline: Timeline, known: Sequence[Acknowledgement], today: date | None
) -> tuple[Alert, ...]:
    if not known or today is None:
        return tuple(alerts)
    ids = [moment.run_id for moment in timeline.moments]
    covered = match([alert.event for alert in alerts], ids, known, today)
    return tuple(replace(alert, acknowledgement=covered.get(alert.event.id)) for alert in alerts)
