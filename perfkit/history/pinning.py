"""Choosing, moving and looking after pinned baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from perfkit.comparability import check_sides
from perfkit.errors import ReadError, StoreError, did_you_mean
from perfkit.history.baselines import Baselines, Pinned, pin
from perfkit.history.events import NEAR, find_events
from perfkit.history.selection import Past, alike, select
from perfkit.history.selectors import Selector
from perfkit.history.timeline import timeline_of
from perfkit.model import Run, Severity
from perfkit.store import RunStore

_FOREIGN = ("load", "services", "environment", "tool", "version", "duration", "precision")  # beginnings of checks


@dataclass(frozen=True, slots=True)
class Standing:
    """A pinned baseline as it stands today: its runs that are still there, and what speaks against it."""

    pinned: Pinned
    runs: tuple[Run, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The pinned document with its warnings."""
        return {**self.pinned.to_dict(), "runs_found": [run.id for run in self.runs], "warnings": list(self.warnings)}


def pin_runs(
    past: Past, name: str, runs: Sequence[Run], *, reason: str, by: str = "", expires: date | None = None
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
    past: Past,
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


def level_from(past: Past, first: Run) -> tuple[Run, ...]:
    """The valid runs of a scenario from one run up to the next change."""
    if first.in_ab_test:
        raise ReadError(f"{first.id}: is of an A/B test, and in no history; name a run of the scenario's history")
    every = [run for run in past.runs_of(first.scenario) if run.validity.ok or run.id == first.id]
    runs, _ = alike(every, first)
    begin = next(i for i, run in enumerate(runs) if run.id == first.id)
    events = find_events(timeline_of(first.scenario, runs), alpha=past.alpha)
    end = next((event.index for event in events if event.index > begin + NEAR), len(runs))
    return tuple(run for run in runs[begin:end] if run.validity.ok)


def standing(past: Past, pinned: Pinned) -> Standing:
    """What a pinned baseline is worth today."""
    name = Selector(pinned.scenario, "pinned", pinned.name)
    try:
        selected = select(str(name), past)
    except (ReadError, StoreError) as error:
        return Standing(pinned, (), (str(error),))
    newest = [run for run in past.runs_of(pinned.scenario) if run.validity.ok] or selected.runs
    return Standing(pinned, selected.runs, (*selected.warnings, *foreign(str(name), selected.runs, newest[-1])))


def foreign(name: str, runs: Sequence[Run], newest: Run) -> tuple[str, ...]:
    """In what a baseline is unlike the newest run: another machine, another load."""
    checks = [c for c in check_sides(runs, [newest]).checks if c.severity is not Severity.OK]
    told = [check.advice for check in checks if check.name.startswith(_FOREIGN)]
    return tuple(f"{name} is foreign to the newest run {newest.id}: {advice}" for advice in told)
