"""Slow drift away from a pinned baseline: many steps, each too small to be called, that together are a regression.

A rolling baseline moves along with a slow change; a pinned one does not.  So the newest runs of the present level are
compared with every pinned baseline of their scenario that has not expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.analysis.compare import judge
from perfkit.config.policy import Policy
from perfkit.history.baselines import Baselines, Pinned
from perfkit.history.context import HistoryContext
from perfkit.history.run_selector import Selector, select
from perfkit.model.codec import encode
from perfkit.model.errors import ReadError, leave_out
from perfkit.model.records import Comparison, Finding, Metric, Run, Verdict

NEWEST = 10  # runs that tell the current level


@dataclass(frozen=True, slots=True)
class SlowDrift:
    """The current level of a scenario compared with one of its pinned baselines."""

    anchor: Pinned
    comparison: Comparison

    @property
    def worse(self) -> tuple[Finding, ...]:
        """What drifted away for the worse, beyond its tolerance."""
        return self.comparison.by_verdict(Verdict.REGRESSION)

    @property
    def sentence(self) -> str:
        """What to know of it, in one sentence."""
        runs = self.comparison.candidate.runs
        current = f"the newest {len(runs)} runs" if len(runs) > 1 else "the newest run"
        of = f"the pinned baseline {self.anchor.name} ({len(self.anchor.runs)} runs, {self.anchor.created:%Y-%m-%d})"
        if self.comparison.verdict is Verdict.INVALID:
            why = self.comparison.warnings[0] if self.comparison.warnings else "nothing in common"
            return f"The current level cannot be compared with {of}: {why}"
        if not self.worse:
            return f"No slow drift: against {of}, the current level ({current}) is not shown to be worse."
        sizes = []
        for finding in self.worse[:4]:
            size = "from zero" if finding.change is None else f"{finding.change:+.1f}"
            has_interval = finding.ci_low is not None and finding.ci_high is not None
            interval = f" [{finding.ci_low:+.1f}, {finding.ci_high:+.1f}]" if has_interval else ""
            title = Metric(finding.metric).title
            sizes.append(f"{title} of {finding.label} {size} {finding.change_unit}{interval}")
        more = f" and {len(self.worse) - 4} more" if len(self.worse) > 4 else ""
        return f"Slow drift: against {of}, the current level ({current}) is worse: {', '.join(sizes)}{more}."

    def to_dict(self) -> dict[str, Any]:
        """Anchor, verdict, sentence and findings."""
        return {
            "baseline": self.anchor.name,
            "verdict": self.comparison.verdict.value,
            "sentence": self.sentence,
            "current_runs": [run.id for run in self.comparison.candidate.runs],
            "findings": encode(self.comparison.findings),
        }


def slow_drifts(level: Sequence[Run], context: HistoryContext, policy: Policy) -> tuple[SlowDrift, ...]:
    """The newest runs of a level compared with every pinned baseline of their scenario that has not expired.

    Anchors whose runs are gone, or are the level itself, are left out.
    """
    drifts = []
    for anchor in Baselines(context.baselines).all(level[-1].scenario) if level else ():
        if anchor.has_expired(context.now.date()):
            continue
        try:
            runs = select(str(Selector(anchor.scenario, "pinned", anchor.name)), context).runs
        except ReadError as error:
            leave_out(f"{error}; it is left out")
            continue
        anchored = {run.id for run in runs}
        current = [run for run in level if run.id not in anchored][-NEWEST:]
        if current:
            drifts.append(SlowDrift(anchor, judge(runs, current, policy)))
    return tuple(drifts)
