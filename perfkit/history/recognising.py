"""What moved at a place of a history, so that it can be acknowledged, also while the evidence is still young."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from perfkit.model import Finding, Run, Verdict
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
    if first.in_ab_test:
        raise ReadError(f"{event}: is of an A/B test, and in no history; name a run of the scenario's history")
    runs, _ = alike([run for run in past.runs_of(first.scenario) if run.validity.ok], first)
    timeline = timeline_of(first.scenario, runs)
    policy = policy.for_scenario(first.scenario)
    events = find_events(timeline, alpha=policy.alpha)
    own = [one for one in events if _is_at(one, event, runs)]
    at = own[0].index if own else _index(runs, event)
    alerts = [alert.event for alert in watch_timeline(timeline, policy).alerts if abs(alert.event.index - at) <= NEAR]
    seen = [KnownMovement.of_movement(item) for one in (*own, *alerts) for item in one.movements]
    places = sorted({at, _index(runs, event)})
    movements = _largest(_with_companions(seen, _compared(runs, places, events, policy)))
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


def _compared(runs: Sequence[Run], places: Iterable[int], events: Sequence[Event], policy: Policy) -> list[Finding]:
    """The levels before and after each of these places, compared."""
    found: list[Finding] = []
    for at in places:
        begin = max((one.index for one in events if one.index < at - NEAR), default=0)
        end = min((one.index for one in events if one.index > at + NEAR), default=len(runs))
        if runs[begin:at] and runs[at:end]:
            found += (item for item in judge(runs[begin:at], runs[at:end], policy).findings if not item.objective)
    return found


def _with_companions(seen: Sequence[KnownMovement], compared: Sequence[Finding]) -> Iterator[KnownMovement]:
    """What was seen to move, what a comparison calls, and the other metrics of these services that lean the same way.

    Few runs show a change in the most exact metric only, and the others follow as runs are added.
    """
    called = [item for item in compared if item.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]
    moved = [*seen, *(KnownMovement.of_finding(item) for item in called)]
    yield from moved
    senses = {(item.service, item.is_worse) for item in moved}
    for other in map(KnownMovement.of_finding, compared):
        if other.size and (other.service, other.is_worse) in senses:
            yield other


def _largest(movements: Iterable[KnownMovement]) -> tuple[KnownMovement, ...]:
    """One of each series and direction."""
    found: dict[tuple[str, str, bool], KnownMovement] = {}
    for item in movements:
        key = (item.service, item.metric.value, item.size > 0)
        if key not in found or abs(item.size) > abs(found[key].size):
            found[key] = item
    return tuple(found.values())
