"""The rule ``threshold``: the change of the stated values against fixed limits.  It knows nothing of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perfkit.comparability import Comparability
from perfkit.judge.question import Question, blank, questions
from perfkit.model import Finding, Run, Verdict
from perfkit.policy import Policy


def by_threshold(
    baseline: Sequence[Run], candidate: Sequence[Run], sides: Comparability, policy: Policy
) -> tuple[Finding, ...]:
    """Return a finding for every limited metric that all runs of both sides state."""
    asked = questions(baseline, candidate, sides.services, policy)
    return tuple(_answer(question) for question in asked if question.answerable)


def _answer(question: Question) -> Finding:
    limit, metric = question.limit, question.metric
    finding = blank(question, _stated(question.baseline), _stated(question.candidate))
    absolute = "pp" if metric.change_unit == "pp" else metric.unit
    finding = replace(finding, change_unit="%" if limit.relative else absolute, tolerance=limit.amount)
    worsening = (finding.change or 0.0) * metric.worse
    # A limit is met when the change equals it: -30 % of 50 rps is 35 rps whatever binary fractions say.
    critical = worsening > limit.amount and not math.isclose(worsening, limit.amount, rel_tol=1e-9)
    return replace(finding, verdict=Verdict.REGRESSION if critical else Verdict.NO_CHANGE)


def _stated(values: Sequence[float | None]) -> float:
    """Return the mean of the values as their sources state them."""
    return float(np.mean(np.array(values, dtype=float)))
