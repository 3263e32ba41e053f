"""The level that a candidate is held against: it does not move along to a worse one that nobody has heard of.

Change points find a new level within few runs, and the rolling baseline begins there.  The watch, whose false alarms
have a budget, may need some runs more.  In between a regression would be in the baseline, and told by nothing.  So the
level before is held until the watch has heard of the change, or it is acknowledged, or it is `NEWS` runs old.

A single candidate may be too little to tell.  So all runs since the change are held against that level too.  Where the
change began was chosen among `NEWS` places at most, so this comparison has that part of the candidate's budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from perfkit.history.acknowledged import Acknowledgement, match, softened
from perfkit.history.events import FAR, Event, find_events
from perfkit.history.timeline import timeline_of
from perfkit.history.watching import NEWS, ScenarioWatch, is_beyond
from perfkit.judge import judge
from perfkit.model import Comparison, Finding, Metric, Run, Verdict
from perfkit.policy import Policy


@dataclass(frozen=True, slots=True)
class Held:
    """Runs of a level and those since, oldest first, and the change between them that nobody has heard of yet."""

    runs: tuple[Run, ...]
    since: tuple[Run, ...]
    unheard: Event

    def is_shown_by(
        self, candidates: Sequence[Run], comparison: Comparison, policy: Policy, known: Sequence[Acknowledgement]
    ) -> bool:
        """Whether all runs since the change show that it is a regression, which the candidates have not left behind.

        ``comparison`` is that of the candidates with this level, under ``policy``; what is ``known`` is no regression.
        """
        whole = judge(self.runs, (*self.since, *candidates), replace(policy, alpha=policy.alpha / NEWS))
        called = [item for item in whole.findings if softened(item, known).verdict is Verdict.REGRESSION]
        worse = {(item.service, item.metric) for item in called}
        return any((item.service, item.metric) in worse and _leans_beyond(item) for item in comparison.findings)

    def is_left_by(self, comparison: Comparison) -> bool:
        """Whether the candidates, compared with this level, are no worse where the change was: it was taken back."""
        moved = {(item.service, item.metric) for item in self.unheard.movements if item.is_worse}
        return not any((item.service, item.metric) in moved and _leans_beyond(item) for item in comparison.findings)

    @property
    def note(self) -> str:
        """What to know of it, in one sentence."""
        return (
            f"The history seems to have changed, and the watch has not heard of it yet: {self.unheard.headline} "
            f"Until it has, or `perfkit ack {self.unheard.id}` says that it is fine, the level before is the baseline: "
            f"{len(self.runs)} runs, {self.runs[0].id} to {self.runs[-1].id}."
        )


def held_level(
    runs: Sequence[Run], policy: Policy, watch: ScenarioWatch, known: Sequence[Acknowledgement], today: date
) -> Held | None:
    """The level before the first unheard worsening among these runs, which are alike, valid and in time order.

    ``None`` where there is no such worsening: the present level is the baseline.
    """
    ids = [run.id for run in runs]
    events = find_events(timeline_of(runs[0].scenario, runs), alpha=policy.alpha)
    quiet = match(events, ids, known, today)
    begin = 0
    for number, event in enumerate(events):
        news = len(runs) - event.index <= NEWS and event.id not in quiet
        if news and _stays_worse(event, events[number + 1 :], policy) and not _is_heard(event, watch, ids):
            return Held(tuple(runs[begin : event.index]), tuple(runs[event.index :]), event)
        begin = event.index
    return None


def _leans_beyond(finding: Finding) -> bool:
    """Whether it was seen to be worse by more than is accepted, be it by chance or not."""
    return (finding.change or 0.0) * Metric(finding.metric).worse > (finding.tolerance or 0.0)


def _stays_worse(event: Event, later: Sequence[Event], policy: Policy) -> bool:
    """Whether something got worse by more than is accepted, and did not get better since."""
    better = {(item.service, item.metric) for one in later for item in one.movements if not item.is_worse}
    return any(
        item.is_worse and is_beyond(item, policy) and (item.service, item.metric) not in better
        for item in event.movements
    )


def _is_heard(event: Event, watch: ScenarioWatch, run_ids: Sequence[str]) -> bool:
    """Whether there is an alarm about it that somebody must have seen: one that fails, or that was called fine."""
    places = {run_id: index for index, run_id in enumerate(run_ids)}
    heard = [
        one.event
        for one in watch.alerts
        if one.is_confirmed and (one.fails or one.acknowledgement is not None or one.accepted is not None)
    ]
    return any(
        one.kind != "improvement" and abs(places.get(one.id, len(run_ids)) - event.index) <= FAR for one in heard
    )
