"""The baseline is held at the level before a worsening that the monitor has not detected yet.

Change points find a new level within few runs, and the rolling baseline begins there.  The monitor, whose false alarms
have a budget, may need some runs more.  In between a regression would be in the baseline, and reported by nothing.  So
the level before is held until the monitor alerts of the change, or it is acknowledged, or it is `NEWS` runs old.

A single candidate may be too little to tell.  So all runs since the change are compared with that level too.  Where the
change began was chosen among `NEWS` places at most, so this comparison has that part of the candidate's alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from perfkit.analysis.compare import judge
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import Acknowledgement, match, softened
from perfkit.history.change_events import FAR
from perfkit.history.context import HistoryContext
from perfkit.history.events import Event
from perfkit.history.monitor import NEWS, ScenarioWatch, is_beyond
from perfkit.model.records import Comparison, Finding, Metric, Run, Verdict


@dataclass(frozen=True, slots=True)
class BaselineHold:
    """Runs of a level and those since, oldest first, and the undetected change between them."""

    runs: tuple[Run, ...]
    since: tuple[Run, ...]
    undetected: Event

    def is_shown_by(
        self,
        candidates: Sequence[Run],
        comparison: Comparison,
        policy: Policy,
        acknowledgements: Sequence[Acknowledgement],
    ) -> bool:
        """Whether all runs since the change show that it is a regression, which the candidates have not left behind.

        ``comparison`` is that of the candidates with this level, under ``policy``; what is acknowledged is no
        regression.
        """
        whole = judge(self.runs, (*self.since, *candidates), replace(policy, alpha=policy.alpha / NEWS))
        called = [item for item in whole.findings if softened(item, acknowledgements).verdict is Verdict.REGRESSION]
        worse = {(item.label, item.metric) for item in called}
        return any((item.label, item.metric) in worse and _leans_beyond(item) for item in comparison.findings)

    def is_left_by(self, comparison: Comparison) -> bool:
        """Whether the candidates, compared with this level, are no worse where the change was: it was taken back."""
        moved = {(item.service, item.metric) for item in self.undetected.changes if item.is_worse}
        return not any((item.label, item.metric) in moved and _leans_beyond(item) for item in comparison.findings)

    @property
    def note(self) -> str:
        """What to know of it, in one sentence."""
        return (
            f"The history seems to have changed, and its monitor has not alerted yet: {self.undetected.headline} "
            f"Until it has, or `perfkit ack {self.undetected.id}` says that it is fine, the level before is the "
            f"baseline: {len(self.runs)} runs, {self.runs[0].id} to {self.runs[-1].id}."
        )


def _leans_beyond(finding: Finding) -> bool:
    """Whether it was seen to be worse by more than the tolerance, be it by chance or not."""
    return (finding.change or 0.0) * Metric(finding.metric).worse > (finding.tolerance or 0.0)


def baseline_hold(
    runs: Sequence[Run],
    context: HistoryContext,
    policy: Policy,
    watch: ScenarioWatch,
    acknowledgements: Sequence[Acknowledgement],
    today: date,
) -> BaselineHold | None:
    """The level before the first undetected worsening among these runs, which are comparable, valid and in time order.

    ``None`` where there is no such worsening: the present level is the baseline.
    """
    ids = [run.id for run in runs]
    events = context.analysis(runs).events
    acknowledged = match(events, ids, acknowledgements, today)
    places = {run_id: index for index, run_id in enumerate(ids)}
    # Alerts that somebody must have seen: those that fail, or that were called fine
    detected = [
        places.get(alert.event.id, len(ids))
        for alert in watch.alerts
        if alert.is_confirmed
        and (alert.fails or alert.acknowledgement is not None or alert.accepted is not None)
        and alert.event.kind != "improvement"
    ]
    begin = 0
    for number, event in enumerate(events):
        later = events[number + 1 :]
        better = {(item.service, item.metric) for one in later for item in one.changes if not item.is_worse}
        stays_worse = any(
            item.is_worse and is_beyond(item, policy) and (item.service, item.metric) not in better
            for item in event.changes
        )
        is_new = len(runs) - event.index <= NEWS and event.id not in acknowledged
        if is_new and stays_worse and not any(abs(place - event.index) <= FAR for place in detected):
            return BaselineHold(tuple(runs[begin : event.index]), tuple(runs[event.index :]), event)
        begin = event.index
    return None
