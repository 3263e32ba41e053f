"""What a comparison tests: a hypothesis for each metric of a service that a policy holds to a limit.

From here on the policy's limits are needed no more: a hypothesis knows its limit and the runs that can answer it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from perfkit.analysis.coverage import MOST_NAMED, measured
from perfkit.analysis.noise_profile import PAIR
from perfkit.config.policy import Limit, Objective, Policy
from perfkit.model.records import Finding, Gap, Metric, Run, Scope, ServiceStats, Verdict, staged_label

AnyLimit = TypeVar("AnyLimit", Limit, Objective)
Stages = Mapping[str, tuple[str, str]]
"""Entries among the services of staged runs, each with its service and stage (`stages.StagedSides`)."""


@dataclass(frozen=True, slots=True)
class Hypothesis(Generic[AnyLimit]):
    """One metric of one service (in one stage), its limit, and the runs of each side that measured the service."""

    service: str
    stage: str | None
    scope: Scope
    metric: Metric
    limit: AnyLimit
    gating: bool
    baseline: tuple[Run, ...]
    candidate: tuple[Run, ...]

    @property
    def entry(self) -> str:
        """The name of the service, in its stage, among the services of the runs."""
        return staged_label(self.service, self.stage)

    @property
    def stats(self) -> tuple[list[ServiceStats], list[ServiceStats]]:
        """The summary of each run of baseline and candidate."""
        entry = self.entry
        return [run.services[entry] for run in self.baseline], [run.services[entry] for run in self.candidate]

    @property
    def values(self) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
        """The value of each run of baseline and candidate; ``None`` where a run cannot say."""
        baseline, candidate = self.stats
        metric = self.metric
        return tuple(stats.value(metric) for stats in baseline), tuple(stats.value(metric) for stats in candidate)


def hypotheses_of(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    services: Sequence[str],
    policy: Policy,
    stages: Stages,
    scope: Scope = Scope.SERVICE,
) -> list[Hypothesis[Limit]]:
    """Every metric of the services that the policy holds to a tolerance, in the order of services and metrics.

    A service that some runs lack is judged by those that have it; of its throughput those would tell too much.
    """
    hypotheses = []
    for entry in services:
        service, stage = stages.get(entry, (entry, None))
        before, after = measured(entry, baseline), measured(entry, candidate)
        is_partial = len(before) + len(after) < len(baseline) + len(candidate)
        for metric, limit in policy.limits(entry).items():
            if metric is not Metric.RPS or not is_partial:
                is_gating = metric.value in policy.gating
                hypotheses.append(Hypothesis(service, stage, scope, metric, limit, is_gating, before, after))
    return hypotheses


def objectives_of(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str], policy: Policy, stages: Stages
) -> list[Hypothesis[Objective]]:
    """Every absolute limit of these services.

    The baseline's runs only help to tell the noise.  Of runs made in pairs they do not: what disturbs both runs of a
    pair is part of the error of a level, and is seen twice in both sides together.
    """
    if any(PAIR in run.labels for run in candidate):
        baseline = ()
    hypotheses = []
    for entry in services:
        service, stage = stages.get(entry, (entry, None))
        before, after = measured(entry, baseline), measured(entry, candidate)
        for limit in policy.objectives_of(entry):
            hypotheses.append(Hypothesis(service, stage, Scope.SERVICE, limit.metric, limit, True, before, after))
    return hypotheses


def unknown_metrics(hypotheses: Sequence[Hypothesis[Limit]], policy: Policy) -> Iterator[tuple[str, Gap | None]]:
    """Limited metrics that a side, or some of its runs, cannot tell, and the gap where that keeps from a green verdict.

    One sentence for each metric and side.  By evidence only gating metrics must be shown unharmed, and those have a
    finding that says so.  Where neither side knows a metric it is missing only if the policy asks for it by name.
    """
    groups: dict[tuple[Metric, str], list[str]] = {}
    for hypothesis in hypotheses:
        known = [[value is not None for value in side] for side in hypothesis.values]
        if all(map(all, known)) or (policy.rule == "evidence" and hypothesis.gating):
            continue
        where = " and ".join(
            f"the {title}" if not any(side) else f"{side.count(False)} of {len(side)} runs of the {title}"
            for title, side in zip(("baseline", "candidate"), known, strict=True)
            if not all(side)
        )
        if any(map(any, known)) or policy.names_limit(hypothesis.entry, hypothesis.metric):
            groups.setdefault((hypothesis.metric, where), []).append(hypothesis.entry)
    for (metric, where), services in groups.items():
        more = f" and {len(services) - MOST_NAMED} more" if len(services) > MOST_NAMED else ""
        is_partly = policy.rule == "threshold" and " of " in where
        judged = "judged by the runs that know it" if is_partly else "not judged"
        text = (
            f"{metric.title[0].upper()}{metric.title[1:]} is not known in {where}, so it is {judged}: "
            f"{', '.join(services[:MOST_NAMED])}{more}."
        )
        advice = f"Measure {metric.title} on both sides, or switch its limit off in the policy."
        yield text, Gap(text, advice) if policy.rule == "threshold" else None


def unjudged_finding(hypothesis: Hypothesis[Any], before: float | None, after: float | None) -> Finding:
    """A finding of what a hypothesis is about and of the sizes, with nothing judged; ``before`` may be a limit."""
    limit = hypothesis.limit
    change_abs = change_pct = None
    if before is not None and after is not None:
        change_abs = after - before
        change_pct = 100.0 * (after - before) / before if before else math.inf if after else 0.0
    return Finding(
        service=hypothesis.service,
        stage=hypothesis.stage,
        scope=hypothesis.scope,
        metric=hypothesis.metric.value,
        unit=hypothesis.metric.unit,
        change_unit=hypothesis.metric.change_unit,
        baseline=before,
        candidate=after,
        change_pct=change_pct,
        change_abs=change_abs,
        ci_low=None,
        ci_high=None,
        p_value=None,
        p_adjusted=None,
        verdict=Verdict.INCONCLUSIVE,
        tolerance=limit.in_change_unit(before) if isinstance(limit, Limit) else 0.0,
        limit=limit.describe(),
        gating=hypothesis.gating,
        objective=isinstance(limit, Objective),
        warnings=("the baseline is zero: the relative change is infinite",) if change_pct == math.inf else (),
    )
