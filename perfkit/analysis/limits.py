"""Absolute limits (SLOs): the candidate's level against a number, with its uncertainty, whatever the baseline was.

The rule ``threshold``: the change of the stated values against fixed limits.  It knows nothing of noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from perfkit.analysis.comparability import Comparability
from perfkit.analysis.coverage import measured
from perfkit.analysis.evidence import Budget, Question, blank, percent_worsening, questions
from perfkit.analysis.noise_profile import PAIR, NoiseProfile, level_values, noise_of
from perfkit.config.policy import Objective, Policy
from perfkit.model.arithmetic import Arithmetic, LevelArithmetic, RateArithmetic
from perfkit.model.records import Finding, Metric, Run, Verdict
from perfkit.stats.effect import Failures, level_arithmetic, rate_arithmetic, rise_above_limit, wilson
from perfkit.stats.noise import Noise, overdispersion
from perfkit.stats.power import (
    Design,
    RateDesign,
    min_detectable_log,
    min_detectable_rate,
    requests_needed_for_limit,
    runs_needed,
)


def by_threshold(
    baseline: Sequence[Run], candidate: Sequence[Run], sides: Comparability, policy: Policy
) -> tuple[Finding, ...]:
    """Return a finding for every limited metric that runs of both sides state."""
    asked = questions(baseline, candidate, sides.services, policy)
    findings = (
        _threshold_finding(question, _stated(question.baseline), _stated(question.candidate)) for question in asked
    )
    return tuple(finding for finding in findings if finding is not None)


def _threshold_finding(question: Question, before: float | None, after: float | None) -> Finding | None:
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


@dataclass(frozen=True, slots=True)
class Level:
    """The candidate's level beside an absolute limit, both in the metric's unit.

    ``p_value`` is the one-sided p of "beyond the limit".  ``noise`` is that of one run, and ``failures`` are the
    counts behind an error rate.
    """

    value: float
    low: float
    high: float
    p_value: float
    arithmetic: LevelArithmetic | RateArithmetic
    noise: Noise | None = None
    failures: Failures | None = None


@dataclass(frozen=True, slots=True)
class LimitQuestion:
    """An absolute limit on one service, and the level that is held against it: ``None`` where a run cannot say."""

    service: str
    limit: Objective
    candidate: tuple[float | None, ...]
    runs_with_baseline: bool
    level: Level | None


def limit_questions(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    services: Sequence[str],
    policy: Policy,
    profile: NoiseProfile | None = None,
) -> tuple[LimitQuestion, ...]:
    """Every absolute limit of these services, with the candidate's level.

    The baseline's runs only help to tell the noise.  Of runs made in pairs they do not: what disturbs both runs of a
    pair is part of the error of a level, and is seen twice in both sides together.
    """
    if any(PAIR in run.labels for run in candidate):
        baseline = ()
    asked = []
    for service in services:
        sides = measured(service, baseline), measured(service, candidate)
        for limit in policy.objectives_of(service):
            if limit.metric is Metric.ERROR_RATE:
                level = _rate(service, sides[1], limit, policy.confidence)
            else:
                level = _level(service, sides, limit, policy.confidence, profile)
            values = tuple(run.services[service].value(limit.metric) for run in sides[1])
            asked.append(LimitQuestion(service, limit, values, bool(sides[0]), level))
    return tuple(asked)


def by_objective(asked: Sequence[LimitQuestion], policy: Policy, budget: Budget) -> tuple[Finding, ...]:
    """Return a finding for every absolute limit; its ``baseline`` is the limit itself.

    ``regression`` when the candidate's level is beyond the limit at this limit's part of the budget, ``no_change`` when
    the interval's bad side keeps it, else ``inconclusive``.
    """
    answered = [question for question in asked if question.level is not None]
    parts = dict(zip(map(id, answered), zip(budget.limit_shares, budget.limits_adjusted, strict=True), strict=True))
    return tuple(_limit_finding(question, parts.get(id(question)), policy, budget) for question in asked)


def _limit_finding(
    question: LimitQuestion, part: tuple[float, float] | None, policy: Policy, budget: Budget
) -> Finding:
    level, limit = question.level, question.limit
    metric, amount = limit.metric, limit.amount
    unit = 1.0 if metric is Metric.ERROR_RATE else 100.0 / amount  # of a gap, in that of a change
    verdict, share, p_adjusted = Verdict.INCONCLUSIVE, None, None
    detectable = more = requests = None
    if level is not None and part is not None:
        share, p_adjusted = part
        kept = level.high <= amount if metric.worse > 0 else level.low >= amount
        verdict = Verdict.REGRESSION if p_adjusted <= policy.alpha else Verdict.NO_CHANGE if kept else verdict
        detectable = _min_detectable(question, level, policy.alpha * share)
        if verdict is Verdict.INCONCLUSIVE:
            more, requests = _needed(question, level, policy.alpha * share, policy.confidence)
    return Finding(
        service=question.service,
        metric=metric.value,
        unit=metric.unit,
        change_unit=metric.change_unit,
        baseline=amount,
        candidate=level.value if level is not None else None,
        change_pct=100.0 * (level.value - amount) / amount if level is not None else None,
        change_abs=level.value - amount if level is not None else None,
        ci_low=(level.low - amount) * unit if level is not None else None,
        ci_high=(level.high - amount) * unit if level is not None else None,
        p_value=level.p_value if level is not None else None,
        p_adjusted=p_adjusted,
        verdict=verdict,
        tolerance=0.0,
        limit=limit.describe(),
        gating=True,
        min_detectable=detectable,
        runs_needed=more,
        requests_needed=requests,
        objective=True,
        warnings=() if level is not None else ("not known for every run of the candidate",),
        arithmetic=Arithmetic(
            (),
            question.candidate,
            verdict.value,
            alpha=policy.alpha,
            share=share,
            tests=budget.tests,
            levels=level.arithmetic if level is not None and isinstance(level.arithmetic, LevelArithmetic) else None,
            rates=level.arithmetic if level is not None and isinstance(level.arithmetic, RateArithmetic) else None,
        ),
    )


def _level(
    service: str,
    sides: tuple[Sequence[Run], Sequence[Run]],
    limit: Objective,
    confidence: float,
    profile: NoiseProfile | None,
) -> Level | None:
    metric = limit.metric
    if any(not run.services[service].value(metric) for run in sides[1]):
        return None
    known = tuple([run for run in side if run.services[service].value(metric)] for side in sides)
    values = level_values(service, metric, known[0], known[1], profile)
    if values is None:
        return None
    noise, logs = noise_of(metric, values), np.log(values.candidate)
    middle = float(logs.mean())
    numbers = level_arithmetic((math.log(limit.amount), middle), noise, values.known, (logs.size,), confidence)
    half = numbers.quantile * numbers.error
    p_value = float(stdtr(noise.df, -metric.worse * numbers.shift / numbers.error))
    return Level(math.exp(middle), math.exp(middle - half), math.exp(middle + half), p_value, numbers, noise)


def _rate(service: str, runs: Sequence[Run], limit: Objective, confidence: float) -> Level | None:
    stats = [run.services[service] for run in runs]
    pairs = [(item.failures, item.count) for item in stats if item.failures is not None and item.count]
    if len(pairs) < len(stats) or not pairs:
        return None
    failures = Failures(*np.array(pairs, float).T)
    factor, df = overdispersion((failures.failed,), (failures.counts,))
    n, share = float(failures.counts.sum()) / factor, min(limit.amount / 100, 1.0)
    quantile = float(stdtrit(df, 0.5 + confidence / 2))
    low, high = wilson(failures.rate, n, quantile)
    p_value = rise_above_limit(failures, share, factor, df)
    numbers = rate_arithmetic((failures,), factor, df, quantile, share)
    return Level(100 * failures.rate, 100 * low, 100 * high, p_value, numbers, failures=failures)


def _design(question: LimitQuestion, alpha: float) -> Design:
    return Design(0, len(question.candidate), alpha, df_per_run=2 if question.runs_with_baseline else 1)


def _min_detectable(question: LimitQuestion, level: Level, alpha: float) -> float | None:
    """The smallest breach of the limit that is called in four cases of five, in the unit of a change."""
    metric, rates = question.limit.metric, level.arithmetic
    if level.noise is not None:
        smallest = percent_worsening(metric, min_detectable_log(level.noise, _design(question, alpha)))
    elif isinstance(rates, RateArithmetic):
        design = RateDesign(math.inf, rates.requests[0], 0.0, rates.overdispersion, rates.df, alpha)
        smallest = 100.0 * min_detectable_rate(rates.limit or 0.0, design)
    return smallest if math.isfinite(smallest) else None


def _needed(question: LimitQuestion, level: Level, alpha: float, confidence: float) -> tuple[int | None, int | None]:
    """Further runs, and requests, that would settle it; ``None`` where none would."""
    metric = question.limit.metric
    if level.noise is not None and isinstance(level.arithmetic, LevelArithmetic):
        shift = metric.worse * level.arithmetic.shift
        return runs_needed(level.noise, _design(question, alpha), shift, 0.0, confidence), None
    if level.failures is None:
        return None, None
    requests = requests_needed_for_limit(level.failures, min(question.limit.amount / 100, 1.0), alpha, confidence)
    if requests is None:
        return None, None
    total = float(level.failures.counts.sum())
    return max(1, math.ceil((requests - total) / (total / level.failures.counts.size))), requests
