"""The rule ``threshold``: the change of the stated values against fixed limits.  It knows nothing of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perfkit.arithmetic import Arithmetic
from perfkit.comparability import Comparability
from perfkit.judge.question import Question, blank, questions
from perfkit.model import Finding, Run, Verdict
from perfkit.policy import Policy


def by_threshold(
    baseline: Sequence[Run], candidate: Sequence[Run], sides: Comparability, policy: Policy
) -> tuple[Finding, ...]:
    """Return a finding for every limited metric that runs of both sides state."""
    asked = questions(baseline, candidate, sides.services, policy)
    findings = (_answer(question, _stated(question.baseline), _stated(question.candidate)) for question in asked)
    return tuple(finding for finding in findings if finding is not None)


def _answer(question: Question, before: float | None, after: float | None) -> Finding | None:
    if before is None or after is None:
        return None
    limit, metric = question.limit, question.metric
    finding = blank(question, before, after)
    absolute = "pp" if metric.change_unit == "pp" else metric.unit
    finding = replace(finding, change_unit="%" if limit.relative else absolute, tolerance=limit.amount)
    worsening = (finding.change or 0.0) * metric.worse
    # A limit is met when the change equals it: -30 % of 50 rps is 35 rps whatever binary fractions say.
    critical = worsening > limit.amount and not math.isclose(worsening, limit.amount, rel_tol=1e-9)
    verdict = Verdict.REGRESSION if critical else Verdict.NO_CHANGE
    numbers = Arithmetic(question.baseline, question.candidate, verdict.value)
    return replace(finding, verdict=verdict, arithmetic=numbers)


def _stated(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that their sources state; ``None`` where none is."""
    stated = [value for value in values if value is not None]
    return float(np.mean(stated)) if stated else None
