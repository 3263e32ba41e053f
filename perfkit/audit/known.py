"""Pinned baselines and acknowledged changes: are they still good, and of anything?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from perfkit.audit.premises import Premises
from perfkit.audit.remark import Grade, Remark, fine
from perfkit.errors import ReadError
from perfkit.history.acknowledged import AcknowledgedFile, Acknowledgement, match
from perfkit.history.baselines import Baselines, Pinned, read_pinned
from perfkit.history.events import Event, find_events
from perfkit.history.pinning import standing
from perfkit.history.timeline import load_timeline
from perfkit.history.watching import watch_timeline


def baseline_remarks(premises: Premises) -> Iterator[Remark]:
    """Baselines that expired, went stale or lost their runs."""
    for path in sorted(Baselines(premises.settings.baselines).folder.glob("*/*.json")):
        try:
            pinned = read_pinned(path)
        except ReadError as error:
            advice = "Restore it from version control, or remove it."
            yield Remark("baseline", str(path), Grade.ERROR, f"cannot be read: {error}", advice)
            continue
        yield from _of_baseline(pinned, premises)


def _of_baseline(pinned: Pinned, premises: Premises) -> Iterator[Remark]:
    name = f"{pinned.scenario}@pinned:{pinned.name}"
    found = standing(premises.past, pinned)
    if not found.runs:
        advice = "It names no run, so comparisons with it fail: pin others, or restore its runs."
        yield Remark("baseline", name, Grade.ERROR, "; ".join(found.warnings) or "its runs are gone", advice)
        return
    advice = "Pin newer runs: `perfkit baseline pin`, or `accept` where a change was intended."
    for text in found.warnings:
        yield Remark("baseline", name, Grade.WARN, text, advice)
    if not found.warnings:
        yield fine("baseline", name, f"{len(found.runs)} runs")


def acknowledgement_remarks(premises: Premises) -> Iterator[Remark]:
    """Acknowledgements that ran out, or cover nothing that is seen."""
    file = AcknowledgedFile(premises.settings.acknowledged)
    try:
        every = file.read()
    except ReadError as error:
        advice = "Restore it from version control: comparisons against history fail without it."
        yield Remark("acknowledged", str(file.path), Grade.ERROR, f"cannot be read: {error}", advice)
        return
    seen = {name: _seen(name, premises) for name in {one.scenario for one in every} if name in premises.scenarios}
    for one in every:
        yield _of_acknowledgement(one, seen.get(one.scenario), premises.now.date())


@dataclass(frozen=True, slots=True)
class _Seen:
    """The runs of a scenario, and every change in them that is seen in hindsight or was heard."""

    run_ids: tuple[str, ...]
    events: tuple[Event, ...]


def _seen(scenario: str, premises: Premises) -> _Seen:
    timeline = load_timeline(premises.store, scenario)
    policy = premises.policy.for_scenario(scenario)
    heard = watch_timeline(timeline, policy).alerts
    events = (*find_events(timeline, alpha=policy.alpha), *(alert.event for alert in heard))
    return _Seen(tuple(moment.run_id for moment in timeline.moments), events)


def _of_acknowledgement(one: Acknowledgement, seen: _Seen | None, today: date) -> Remark:
    name, remove = f"{one.scenario} {one.id}", f"`perfkit ack --remove {one.id}` takes it away"
    nothing = f"It matches nothing: {remove}."
    if not one.holds_on(today):
        return Remark(
            "acknowledged", name, Grade.WARN, f"ran out on {one.until}", f"It silences nothing now: {remove}."
        )
    if seen is None:
        return Remark("acknowledged", name, Grade.WARN, "its scenario has no runs", nothing)
    if one.place_in(seen.run_ids) is None:
        return Remark("acknowledged", name, Grade.WARN, "its runs are gone", nothing)
    if not match(seen.events, seen.run_ids, [one], today):
        found = "no change that is seen there is covered by it"
        advice = f"What is there was taken back, or has grown beyond what was acknowledged: {remove}."
        return Remark("acknowledged", name, Grade.WARN, found, advice)
    return fine("acknowledged", name, one.describe())
