"""What moved at a place of a history, so that it can be acknowledged, also while the evidence is still young."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from perfkit.errors import ReadError
from perfkit.history.acknowledged import Acknowledgement, KnownMovement
from perfkit.history.baselines import whoever
from perfkit.history.events import NEAR, Event, find_events
from perfkit.history.pinning import stored_run
from perfkit.history.selection import Past, alike
from perfkit.history.timeline import timeline_of
from perfkit.history.watching import watch_timeline
from perfkit.judge import judge
from perfkit.model import Finding, Metric, Run, Verdict
from perfkit.policy import Policy


def acknowledge(
    past: Past,
    event: str,
    policy: Policy,
    *,
    reason: str,
    by: str = "",
    until: date | None = None,
    now: datetime,
) -> Acknowledgement:
    """An acknowledgement of everything that moved at an event, or at a run that begins a new level.

    What moved is what the change points of the history, its watch, and a comparison of the levels beside the place say.

    Raises
    ------
    ReadError
        There is no such run, it is invalid, or nothing moved there.
    """
    first = stored_run(past.store, event)
    if not first.validity.ok:
        raise ReadError(f"{event}: is an invalid run; name the first valid one of the new level")
    runs, _ = alike([run for run in past.runs_of(first.scenario) if run.validity.ok], first)
    timeline = timeline_of(first.scenario, runs)
    policy = policy.for_scenario(first.scenario)
    events = find_events(timeline)
    own = [one for one in events if _is_at(one, event, runs)]
    at = own[0].index if own else _index(runs, event)
    alerts = [alert.event for alert in watch_timeline(timeline, policy).alerts if abs(alert.event.index - at) <= NEAR]
    movements = _strongest(
        (
            *(KnownMovement.of_movement(item) for one in own for item in one.movements),
            *_compared(runs, at, events, policy),
            *(KnownMovement.of_movement(item) for one in alerts for item in one.movements),
        )
    )
    if not movements:
        there = f"; the events of {first.scenario} are {', '.join(one.id for one in events)}" if events else ""
        raise ReadError(f"{event}: nothing is seen to have moved there{there}")
    around = tuple(run.id for run in runs[max(at - NEAR, 0) : at + NEAR + 1])
    if not reason.strip():
        raise ReadError("reason: say why this change is fine, for those who review it")
    return Acknowledgement(
        runs[at].id, first.scenario, around, movements, reason, by or whoever(), now.replace(microsecond=0), until
    )


def _is_at(one: Event, name: str, runs: Sequence[Run]) -> bool:
    return one.answers_to(name) or abs(one.index - _index(runs, name)) <= NEAR


def _index(runs: Sequence[Run], run_id: str) -> int:
    return next(i for i, run in enumerate(runs) if run.id == run_id)


def _compared(runs: Sequence[Run], at: int, events: Sequence[Event], policy: Policy) -> list[KnownMovement]:
    """What a comparison calls between the levels before and after a place.

    The other metrics of a service that moved belong to it where they lean the same way: few runs after a change show it
    in the most exact metric only, and the others follow as runs are added.
    """
    begin = max((one.index for one in events if one.index < at - NEAR), default=0)
    end = min((one.index for one in events if one.index > at + NEAR), default=len(runs))
    before, after = runs[begin:at], runs[at:end]
    if not before or not after:
        return []
    findings = [item for item in judge(before, after, policy).findings if not item.objective]
    called = [item for item in findings if item.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]
    senses = {(item.service, _is_worse(item)) for item in called}
    leaning = [item for item in findings if item.change and (item.service, _is_worse(item)) in senses]
    return [KnownMovement.of_finding(item) for item in dict.fromkeys((*called, *leaning))]


def _is_worse(finding: Finding) -> bool:
    return (finding.change or 0.0) * Metric(finding.metric).worse > 0


def _strongest(movements: Iterable[KnownMovement]) -> tuple[KnownMovement, ...]:
    """One of each series and direction, the first that tells."""
    found: dict[tuple[str, str, bool], KnownMovement] = {}
    for item in movements:
        found.setdefault((item.service, item.metric.value, item.size > 0), item)
    return tuple(found.values())
