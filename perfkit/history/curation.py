"""Choosing, moving and judging pinned baselines; building an acknowledgement of what moved at a place of a history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from perfkit.analysis.comparability import check_sides
from perfkit.analysis.compare import judge
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import AcknowledgedChange, Acknowledgement
from perfkit.history.baselines import Baselines, Pinned, pin
from perfkit.history.change_events import HistoryAnalysis
from perfkit.history.events import NEAR
from perfkit.history.monitor import monitor_timeline
from perfkit.history.run_selector import HistoryContext, Selector, comparable_runs, select
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import NoEvent, ReadError, StoreError, did_you_mean
from perfkit.model.files import login
from perfkit.model.records import Run, Severity, Verdict
from perfkit.runs.store import RunStore

NEAREST = 3  # events that are named where none begins
_FOREIGN = ("load", "services", "environment", "tool", "version", "duration", "precision")  # beginnings of checks


@dataclass(frozen=True, slots=True)
class BaselineQuality:
    """A pinned baseline as it stands today: its runs that are still there, and what speaks against it."""

    pinned: Pinned
    runs: tuple[Run, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**self.pinned.to_dict(), "runs_found": [run.id for run in self.runs], "warnings": list(self.warnings)}


def baseline_quality(context: HistoryContext, pinned: Pinned) -> BaselineQuality:
    """What a pinned baseline is worth today; that it is unlike the newest run speaks against it too."""
    name = str(Selector(pinned.scenario, "pinned", pinned.name))
    try:
        selected = select(name, context)
    except (ReadError, StoreError) as error:
        return BaselineQuality(pinned, (), (str(error),))
    newest = ([run for run in context.runs_of(pinned.scenario) if run.validity.ok] or selected.runs)[-1]
    foreign = [
        f"{name} is foreign to the newest run {newest.id}: {check.advice}"
        for check in check_sides(selected.runs, [newest]).checks
        if check.severity is not Severity.OK and check.name.startswith(_FOREIGN)
    ]
    return BaselineQuality(pinned, selected.runs, (*selected.warnings, *foreign))


def pin_runs(
    context: HistoryContext, name: str, runs: Sequence[Run], *, reason: str, by: str = "", expires: date | None = None
) -> tuple[Pinned, tuple[str, ...]]:
    """Pin the valid ones among runs of the store; returns the baseline and notes on what was left out.

    ``ReadError``: there is no valid one, they are of several scenarios, or one is not in the store.  ``StoreError``:
    the name is taken.
    """
    valid = [run for run in runs if run.validity.ok]
    if not valid:
        raise ReadError(
            f"{name}: there is no valid run among the {len(runs)} named; invalid ones never enter a baseline"
        )
    ids = set(context.store.ids())
    for run in valid:  # a baseline names runs, so they must stay findable
        if run.id not in ids:
            raise ReadError(f"{run.source or run.id}: is not in {context.store.url}; `perfkit import` keeps it there")
    notes = tuple(f"{run.id} was left out: {run.validity.problems[0].advice}" for run in runs if not run.validity.ok)
    try:
        pinned = pin(name, tuple({run.id: run for run in valid}.values()), reason=reason, by=by, expires=expires)
    except ValueError as error:
        raise ReadError(f"baseline {name!r}: {error}") from error
    Baselines(context.baselines).keep(pinned)
    return pinned, notes


def accept(
    context: HistoryContext,
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
    ``ReadError``: there is no such run or baseline, no valid run from there on, or no day until which it is good.
    """
    first = _run_of_history(context.store, run_id)
    scenario, baselines = first.scenario, Baselines(context.baselines)
    candidates = baselines.all(scenario) if name is None else (baselines.get(scenario, name),)
    if not candidates:
        raise ReadError(
            f"{baselines.folder}: no pinned baseline of the scenario {scenario!r}; `perfkit baseline pin` makes one. "
            "The rolling baseline follows a change by itself."
        )
    if len(candidates) > 1:
        names = ", ".join(item.name for item in candidates)
        raise ReadError(f"{scenario}: say which baseline, with --name: {names}")
    (pinned,) = candidates
    history = [run for run in context.runs_of(scenario) if run.validity.ok or run.id == first.id]
    runs, _ = comparable_runs(history, first)
    begin = next(i for i, run in enumerate(runs) if run.id == first.id)
    events = context.analysis(runs).events
    end = next((event.index for event in events if event.index > begin + NEAR), len(runs))
    level = tuple(run for run in runs[begin:end] if run.validity.ok)
    if not level:
        raise ReadError(f"{run_id}: no valid run of {scenario!r} from there on; nothing to move to")
    if not reason.strip():
        raise ReadError("reason: say why the change is intended, for those who review it")
    if expires is None and pinned.has_expired(now.date()):
        raise ReadError(
            f"{pinned.name}: expired on {pinned.expires}; say until when it is good where it moves to: --expires 90d"
        )
    moved = pinned.moved(level, reason, by, now, expires)
    baselines.keep(moved, replacing=True)
    return moved


def _run_of_history(store: RunStore, run_id: str) -> Run:
    """A run by its id; ``ReadError`` names the nearest, and one of an A/B test."""
    ids = store.ids()
    if run_id not in ids:
        raise ReadError(f"{run_id}: no run of that id in {store.url}{did_you_mean(run_id, ids)}")
    run = store.get(run_id)
    if run.in_ab_test:
        raise ReadError(f"{run_id}: is of an A/B test, and in no history; name a run of the scenario's history")
    return run


def acknowledge(
    context: HistoryContext,
    event: str,
    policy: Policy,
    *,
    reason: str,
    by: str = "",
    until: date | None = None,
    now: datetime,
    without_event: bool = True,
) -> Acknowledgement:
    """An acknowledgement of everything that changed at an event, or at a run that begins a new level.

    What changed is what the change points of the history, its monitor, and a comparison of the levels before and after
    say.  ``without_event`` says whether that comparison alone is enough where no event of the history begins there.
    ``ReadError``: there is no such run, it is invalid, or nothing changed there.  ``NoEvent``: no event begins there,
    and that is not enough.
    """
    first = _run_of_history(context.store, event)
    if not first.validity.ok:
        raise ReadError(f"{event}: is an invalid run; name the first valid one of the new level")
    runs, _ = comparable_runs([run for run in context.runs_of(first.scenario) if run.validity.ok], first)
    policy = policy.for_scenario(first.scenario)
    history = HistoryAnalysis(timeline_of(first.scenario, runs), policy.alpha)
    named = next(i for i, run in enumerate(runs) if run.id == event)
    events = [item for item in history.events if item.answers_to(event) or abs(item.index - named) <= NEAR]
    at = events[0].index if events else named
    alerts = monitor_timeline(history, policy).alerts
    events += [alert.event for alert in alerts if abs(alert.event.index - at) <= NEAR]
    changes = [AcknowledgedChange.of_metric_change(change) for item in events for change in item.changes]

    compared: list[tuple[Verdict, AcknowledgedChange]] = []
    for index in sorted({at, named}):  # the levels before and after each of these
        begin = max((item.index for item in history.events if item.index < index - NEAR), default=0)
        end = min((item.index for item in history.events if item.index > index + NEAR), default=len(runs))
        if runs[begin:index] and runs[index:end]:
            for finding in judge(runs[begin:index], runs[index:end], policy).findings:
                if not finding.objective:
                    size = math.inf if finding.change is None else finding.change
                    ends = finding.ci_low, finding.ci_high
                    change = AcknowledgedChange.of_size(finding.label, finding.metric, size, *ends)
                    compared.append((finding.verdict, change))
    changes += [change for verdict, change in compared if verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]
    # Few runs show a change in the most exact metric only, and the others follow as runs are added: so the other
    # metrics of these services that lean the same way belong to it
    directions = {(change.service, change.is_worse) for change in changes}
    changes += [change for _, change in compared if change.size and (change.service, change.is_worse) in directions]
    largest: dict[tuple[str, str, bool], AcknowledgedChange] = {}  # of each series and direction
    for change in changes:
        key = (change.service, change.metric, change.rises)
        if key not in largest or abs(change.size) > abs(largest[key].size):
            largest[key] = change
    if not largest:
        ids = ", ".join(item.id for item in history.events)
        there = f"; the events of {first.scenario} are {ids}" if ids else ""
        raise ReadError(f"{event}: nothing is seen to have moved there{there}")
    if not reason.strip():
        raise ReadError("reason: say why this change is fine, for those who review it")
    if not events and not without_event:
        nearest = []
        for item in sorted(history.events, key=lambda item: abs(item.index - named))[:NEAREST]:
            runs_off = abs(item.index - named)
            distance = f"{runs_off} run{'' if runs_off == 1 else 's'} {'later' if item.index > named else 'before'}"
            nearest.append(f"{item.id} ({distance}) {item.headline}")
        there = f"the nearest: {'; '.join(nearest)}" if nearest else "it has none"
        raise NoEvent(f"{event}: begins no event of {first.scenario}'s history; {there}")
    return Acknowledgement(
        id=runs[at].id,
        scenario=first.scenario,
        around=tuple(run.id for run in runs[max(at - NEAR, 0) : at + NEAR + 1]),
        changes=tuple(largest.values()),
        reason=reason,
        by=by or login(),
        created=now.replace(microsecond=0),
        until=until,
    )
