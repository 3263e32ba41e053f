"""What is asked: every service x metric that a policy holds to a limit, and the finding that answers it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfkit.coverage import MOST_NAMED, measured
from perfkit.model import Finding, Gap, Metric, Run, Verdict
from perfkit.policy import Limit, Policy


@dataclass(frozen=True, slots=True)
class Question:
    """One service x metric: the limit it is held to and the values of the runs."""

    service: str
    metric: Metric
    limit: Limit
    gating: bool
    baseline: tuple[float | None, ...]
    candidate: tuple[float | None, ...]

    @property
    def answerable(self) -> bool:
        return all(value is not None for value in (*self.baseline, *self.candidate))


def questions(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str], policy: Policy
) -> list[Question]:
    """Every metric of the services that the policy holds to a limit, in the order of services and metrics.

    A service that some runs lack is judged by those that have it; of its throughput those would tell too much.
    """
    found = []
    for service in services:
        having = measured(service, baseline), measured(service, candidate)
        is_partial = len(having[0]) + len(having[1]) < len(baseline) + len(candidate)
        for metric in Metric:
            limit = policy.limit(service, metric)
            if limit is None or (is_partial and metric is Metric.RPS):
                continue
            sides = [tuple(run.services[service].value(metric) for run in runs) for runs in having]
            found.append(Question(service, metric, limit, metric.value in policy.gating, *sides))
    return found


def unstated(asked: Sequence[Question], policy: Policy) -> Iterator[tuple[str, Gap | None]]:
    """Limited metrics that a side, or some of its runs, cannot tell, and the gap where that keeps from a green verdict.

    One sentence for each metric and side.  By evidence only gating metrics must be shown unharmed, and those have a
    finding that says so.  Where neither side knows a metric it is missing only if the policy asks for it by name.
    """
    groups: dict[tuple[Metric, str], list[str]] = {}
    for question in asked:
        known = [[value is not None for value in side] for side in (question.baseline, question.candidate)]
        if all(map(all, known)) or (policy.rule == "evidence" and question.gating):
            continue
        lacking = [title for title, side in zip(("baseline", "candidate"), known, strict=True) if not all(side)]
        where = " and ".join(
            f"the {title}" if not any(side) else f"{side.count(False)} of {len(side)} runs of the {title}"
            for title, side in zip(("baseline", "candidate"), known, strict=True)
            if title in lacking
        )
        if any(map(any, known)) or policy.names_limit(question.service, question.metric):
            groups.setdefault((question.metric, where), []).append(question.service)
    for (metric, where), services in groups.items():
        names = ", ".join(services[:MOST_NAMED]) + (
            f" and {len(services) - MOST_NAMED} more" if len(services) > MOST_NAMED else ""
        )
        partly = policy.rule == "threshold" and " of " in where
        judged = "judged by the runs that know it" if partly else "not judged"
        text = f"{metric.title[0].upper()}{metric.title[1:]} is not known in {where}, so it is {judged}: {names}."
        advice = f"Measure {metric.title} on both sides, or switch its limit off in the policy."
        yield text, Gap(text, advice) if policy.rule == "threshold" else None


def blank(question: Question, before: float | None, after: float | None) -> Finding:
    """Return a finding with its description and sizes filled in and nothing judged yet."""
    change_abs = after - before if before is not None and after is not None else None
    change_pct = _percent(before, after)
    return Finding(
        service=question.service,
        metric=question.metric.value,
        unit=question.metric.unit,
        change_unit=question.metric.change_unit,
        baseline=before,
        candidate=after,
        change_pct=change_pct,
        change_abs=change_abs,
        ci_low=None,
        ci_high=None,
        p_value=None,
        p_adjusted=None,
        verdict=Verdict.INCONCLUSIVE,
        tolerance=question.limit.in_change_unit(before),
        limit=question.limit.describe(),
        gating=question.gating,
        warnings=("the baseline is zero: the relative change is infinite",) if change_pct == math.inf else (),
    )


def _percent(before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    if before == 0:
        return 0.0 if after == 0 else math.inf
    return 100.0 * (after - before) / before
