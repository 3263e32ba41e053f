"""Choosing, moving and looking after pinned baselines.

What moved at a place of a history, so that it can be acknowledged, also while the evidence is still young.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from perfkit.analysis.comparability import check_sides
from perfkit.analysis.compare import judge
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import Acknowledgement, KnownMovement
from perfkit.history.baselines import Baselines, Pinned, pin, whoever
from perfkit.history.change_events import NEAR, Event, find_events
from perfkit.history.monitor import watch_timeline
from perfkit.history.run_selector import HistoryContext, Selector, comparable_runs, select
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import ReadError, StoreError, did_you_mean
from perfkit.model.records import Finding, Run, Severity, Verdict
from perfkit.runs.store import RunStore

_FOREIGN = ("load", "services", "environment", "tool", "version", "duration", "precision")  # beginnings of checks


@dataclass(frozen=True, slots=True)
class BaselineQuality:
    """A pinned baseline as it stands today: its runs that are still there, and what speaks against it."""

    pinned: Pinned
    runs: tuple[Run, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The pinned document with its warnings."""
        return {**self.pinned.to_dict(), "runs_found": [run.id for run in self.runs], "warnings": list(self.warnings)}


def pin_runs(
    past: HistoryContext, name: str, runs: Sequence[Run], *, reason: str, by: str = "", expires: date | None = None
) -> tuple[Pinned, tuple[str, ...]]:
    """Pin the valid ones among runs of the store; returns the baseline and notes on what was left out.

    Raises
    ------
    ReadError
        There is no valid one, they are of several scenarios, or one is not in the store.
    StoreError
        The name is taken.
    """
    valid = [run for run in runs if run.validity.ok]
    if not valid:
        raise ReadError(
            f"{name}: there is no valid run among the {len(runs)} named; invalid ones never enter a baseline"
        )
    for run in valid:
        _stored(past.store, run)
    notes = tuple(f"{run.id} was left out: {run.validity.problems[0].advice}" for run in runs if not run.validity.ok)
    try:
        pinned = pin(name, tuple({run.id: run for run in valid}.values()), reason=reason, by=by, expires=expires)
    except ValueError as error:
        raise ReadError(f"baseline {name!r}: {error}") from error
    Baselines(past.baselines).keep(pinned)
    return pinned, notes


def _stored(store: RunStore, run: Run) -> None:
    """A baseline names runs, so they must stay findable."""
    if run.id not in store.ids():
        raise ReadError(f"{run.source or run.id}: is not in {store.url}; `perfkit import` keeps it there")


def accept(
    past: HistoryContext,
    run_id: str,
    *,
    reason: str,
    by: str = "",
    name: str | None = None,
    expires: date | None = None,
    now: datetime,
) -> Pinned:
    """Move a pinned baseline to the runs of the level that begins with this run (an event is named by it).

    ``name`` may be left out where the scenario has one pinned baseline, ``expires`` where that has not run out.

    Raises
    ------
    ReadError
        There is no such run or baseline, no valid run from there on, or no day until which it is good.
    """
    first = stored_run(past.store, run_id)
    known = Baselines(past.baselines)
    pinned = _the_one(known, first.scenario, name)
    runs = level_from(past, first)
    if not runs:
        raise ReadError(f"{run_id}: no valid run of {first.scenario!r} from there on; nothing to move to")
    if not reason.strip():
        raise ReadError("reason: say why the change is intended, for those who review it")
    if expires is None and pinned.has_expired(now.date()):
        raise ReadError(
            f"{pinned.name}: expired on {pinned.expires}; say until when it is good where it moves to: --expires 90d"
        )
    moved = pinned.moved(runs, reason, by, now, expires)
    known.keep(moved, replacing=True)
    return moved


def _the_one(known: Baselines, scenario: str, name: str | None) -> Pinned:
    if name is not None:
        return known.get(scenario, name)
    every = known.all(scenario)
    if len(every) == 1:
        return every[0]
    if not every:
        raise ReadError(
            f"{known.folder}: no pinned baseline of the scenario {scenario!r}; `perfkit baseline pin` makes one. "
            "The rolling baseline follows a change by itself."
        )
    raise ReadError(f"{scenario}: say which baseline, with --name: {', '.join(item.name for item in every)}")


def stored_run(store: RunStore, run_id: str) -> Run:
    """A run by its id; ``ReadError`` names the nearest known one."""
    ids = store.ids()
    if run_id not in ids:
        raise ReadError(f"{run_id}: no run of that id in {store.url}{did_you_mean(run_id, ids)}")
    return store.get(run_id)


def level_from(past: HistoryContext, first: Run) -> tuple[Run, ...]:
    """The valid runs of a scenario from one run up to the next change."""
    if first.in_ab_test:
        raise ReadError(f"{first.id}: is of an A/B test, and in no history; name a run of the scenario's history")
    every = [run for run in past.runs_of(first.scenario) if run.validity.ok or run.id == first.id]
    runs, _ = comparable_runs(every, first)
    begin = next(i for i, run in enumerate(runs) if run.id == first.id)
    events = find_events(timeline_of(first.scenario, runs), alpha=past.alpha)
    end = next((event.index for event in events if event.index > begin + NEAR), len(runs))
    return tuple(run for run in runs[begin:end] if run.validity.ok)


def baseline_quality(past: HistoryContext, pinned: Pinned) -> BaselineQuality:
    """What a pinned baseline is worth today."""
    name = Selector(pinned.scenario, "pinned", pinned.name)
    try:
        selected = select(str(name), past)
    except (ReadError, StoreError) as error:
        return BaselineQuality(pinned, (), (str(error),))
    newest = [run for run in past.runs_of(pinned.scenario) if run.validity.ok] or selected.runs
    return BaselineQuality(pinned, selected.runs, (*selected.warnings, *foreign(str(name), selected.runs, newest[-1])))


def foreign(name: str, runs: Sequence[Run], newest: Run) -> tuple[str, ...]:
    """In what a baseline is unlike the newest run: another machine, another load."""
    checks = [c for c in check_sides(runs, [newest]).checks if c.severity is not Severity.OK]
    told = [check.advice for check in checks if check.name.startswith(_FOREIGN)]
    return tuple(f"{name} is foreign to the newest run {newest.id}: {advice}" for advice in told)


def acknowledge(
    past: HistoryContext,
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
    runs, _ = comparable_runs([run for run in past.runs_of(first.scenario) if run.validity.ok], first)
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
