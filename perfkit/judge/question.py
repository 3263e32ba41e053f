"""What is asked: every service x metric that a policy holds to a limit, and the finding that answers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perfkit.model import Finding, Metric, Run, Verdict
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
    """Every metric of the services that the policy holds to a limit, in the order of services and metrics."""
    found = []
    for service in services:
        for metric in Metric:
            limit = policy.limit(service, metric)
            if limit is None:
                continue
            sides = [tuple(run.services[service].value(metric) for run in runs) for runs in (baseline, candidate)]
            found.append(Question(service, metric, limit, metric.value in policy.gating, *sides))
    return found


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
