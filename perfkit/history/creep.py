"""Slow creep against a fixed anchor: many steps, each too small to be called, that together are a regression.

A rolling baseline moves along with a slow change (the frog in the water that gets warmer); a pinned one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.errors import ReadError
from perfkit.history.baselines import Baselines, Pinned
from perfkit.history.selection import Past, select
from perfkit.history.selectors import Selector
from perfkit.judge import judge
from perfkit.model import Comparison, Finding, Metric, Run, Verdict
from perfkit.omissions import leave_out
from perfkit.policy import Policy

NEWEST = 10  # runs that tell the current level


@dataclass(frozen=True, slots=True)
class Creep:
    """The current level of a scenario against one of its pinned baselines."""

    anchor: Pinned
    comparison: Comparison

    @property
    def worse(self) -> tuple[Finding, ...]:
        """What crept away for the worse, beyond its tolerance."""
        return self.comparison.by_verdict(Verdict.REGRESSION)

    @property
    def sentence(self) -> str:
        """What to know of it, in one sentence."""
        current = self.comparison.candidate.runs
        of = f"the pinned baseline {self.anchor.name} ({len(self.anchor.runs)} runs, {self.anchor.created:%Y-%m-%d})"
        if self.comparison.verdict is Verdict.INVALID:
            why = self.comparison.warnings[0] if self.comparison.warnings else "nothing in common"
            return f"The current level cannot be held against {of}: {why}"
        if not self.worse:
            return f"No creep: against {of}, the current level ({_count(current)}) is not shown to be worse."
        moved = ", ".join(_drift(finding) for finding in self.worse[:4])
        more = f" and {len(self.worse) - 4} more" if len(self.worse) > 4 else ""
        return f"Slow creep: against {of}, the current level ({_count(current)}) is worse: {moved}{more}."

    def to_dict(self) -> dict[str, Any]:
        """Anchor, verdict, sentence and what was found."""
        return {
            "baseline": self.anchor.name,
            "verdict": self.comparison.verdict.value,
            "sentence": self.sentence,
            "current_runs": [run.id for run in self.comparison.candidate.runs],
            "findings": [finding.to_dict() for finding in self.comparison.findings],
        }


def _count(runs: Sequence[Run]) -> str:
    return f"the newest {len(runs)} runs" if len(runs) > 1 else "the newest run"


def _drift(finding: Finding) -> str:
    unit = finding.change_unit
    size = "from zero" if finding.change is None else f"{finding.change:+.1f}"
    interval = ""
    if finding.ci_low is not None and finding.ci_high is not None:
        interval = f" [{finding.ci_low:+.1f}, {finding.ci_high:+.1f}]"
    return f"{Metric(finding.metric).title} of {finding.service} {size} {unit}{interval}"


def creep_of(level: Sequence[Run], past: Past, policy: Policy) -> tuple[Creep, ...]:
    """The newest runs of a level against every pinned baseline of their scenario that has not expired.

    Anchors whose runs are gone, or are the level itself, are left out.
    """
    found = []
    for anchor in Baselines(past.baselines).all(level[-1].scenario) if level else ():
        if anchor.has_expired(past.now.date()):
            continue
        try:
            runs = select(str(Selector(anchor.scenario, "pinned", anchor.name)), past).runs
        except ReadError as error:
            leave_out(f"{error}; it is left out")
            continue
        own = {run.id for run in runs}
        current = [run for run in level if run.id not in own][-NEWEST:]
        if current:
            found.append(Creep(anchor, judge(runs, current, policy)))
    return tuple(found)
