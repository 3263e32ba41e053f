"""Fixed limits: the rule ``threshold``, and absolute limits (SLOs) under either rule.

``threshold`` holds the change of the stated values against limits and knows nothing of noise.  An absolute limit is
tested: the candidate's level against a number, with its uncertainty, whatever the baseline was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from perfkit.analysis.alpha import AlphaAllocation
from perfkit.analysis.hypotheses import Hypothesis, unjudged_finding
from perfkit.analysis.noise_profile import NoiseProfile, failures_of, level_values, noise_of
from perfkit.analysis.power import Power, power_of_level, power_of_rate
from perfkit.config.policy import Limit, Objective, Policy
from perfkit.model.records import Arithmetic, Finding, LevelArithmetic, Metric, RateArithmetic, Verdict
from perfkit.stats.effect import Failures, level_arithmetic, rate_arithmetic, rise_above_limit, wilson
from perfkit.stats.noise import Noise, overdispersion
from perfkit.stats.power import RequestDesign, RunDesign, requests_needed_for_limit


def by_threshold(hypotheses: Sequence[Hypothesis[Limit]]) -> tuple[Finding, ...]:
    """Return a finding for every limited metric that runs of both sides state: the mean of what they state."""
    findings = []
    for hypothesis in hypotheses:
        limit, metric = hypothesis.limit, hypothesis.metric
        stated = [[value for value in values if value is not None] for values in hypothesis.values]
        if not all(stated):
            continue
        finding = unjudged_finding(hypothesis, *(float(np.mean(values)) for values in stated))
        absolute = "pp" if metric.change_unit == "pp" else metric.unit
        finding = replace(finding, change_unit="%" if limit.relative else absolute, tolerance=limit.amount)
        worsening = (finding.change or 0.0) * metric.worse
        # A limit is met when the change equals it: -30 % of 50 rps is 35 rps whatever binary fractions say.
        is_beyond = worsening > limit.amount and not math.isclose(worsening, limit.amount, rel_tol=1e-9)
        verdict = Verdict.REGRESSION if is_beyond else Verdict.NO_CHANGE
        numbers = Arithmetic(*hypothesis.values, verdict.value)
        findings.append(replace(finding, verdict=verdict, arithmetic=numbers))
    return tuple(findings)


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
class ObjectiveTest:
    """An absolute limit, and the level that is held against it: ``None`` where a run cannot say."""

    hypothesis: Hypothesis[Objective]
    level: Level | None


def objective_tests(
    hypotheses: Sequence[Hypothesis[Objective]], confidence: float, profile: NoiseProfile | None
) -> list[ObjectiveTest]:
    """The candidate's level beside each absolute limit."""
    return [
        ObjectiveTest(
            hypothesis,
            _rate(hypothesis, confidence)
            if hypothesis.metric is Metric.ERROR_RATE
            else _level(hypothesis, confidence, profile),
        )
        for hypothesis in hypotheses
    ]


def _level(hypothesis: Hypothesis[Objective], confidence: float, profile: NoiseProfile | None) -> Level | None:
    metric, entry = hypothesis.metric, hypothesis.entry
    if not all(hypothesis.values[1]):
        return None
    baseline = [run for run in hypothesis.baseline if run.services[entry].value(metric)]
    values = level_values(entry, metric, baseline, hypothesis.candidate, profile)
    if values is None:
        return None
    noise, logs = noise_of(metric, values), np.log(values.candidate)
    middle = float(logs.mean())
    means = math.log(hypothesis.limit.amount), middle
    numbers = level_arithmetic(means, noise, (logs.size,), confidence)
    half = numbers.quantile * numbers.error
    p_value = float(stdtr(noise.df, -metric.worse * numbers.shift / numbers.error))
    return Level(math.exp(middle), math.exp(middle - half), math.exp(middle + half), p_value, numbers, noise)


def _rate(hypothesis: Hypothesis[Objective], confidence: float) -> Level | None:
    failures = failures_of(hypothesis.stats[1])
    if failures is None:
        return None
    factor, df = overdispersion((failures.failed,), (failures.counts,))
    n, share = float(failures.counts.sum()) / factor, min(hypothesis.limit.amount / 100, 1.0)
    quantile = float(stdtrit(df, 0.5 + confidence / 2))
    low, high = wilson(failures.rate, n, quantile)
    p_value = rise_above_limit(failures, share, factor, df)
    numbers = rate_arithmetic((failures,), factor, df, quantile, share)
    return Level(100 * failures.rate, 100 * low, 100 * high, p_value, numbers, failures=failures)


def by_objective(tests: Sequence[ObjectiveTest], policy: Policy, allocation: AlphaAllocation) -> tuple[Finding, ...]:
    """Return a finding for every absolute limit; its ``baseline`` is the limit itself.

    ``regression`` when the candidate's level is beyond the limit at this limit's share of alpha, ``no_change`` when the
    interval's bad side keeps it, else ``inconclusive``.
    """
    adjusted = iter(zip(allocation.limit_shares, allocation.limits_broken, strict=True))
    findings = []
    for hypothesis, level in ((test.hypothesis, test.level) for test in tests):
        if level is not None:
            share, p_adjusted = next(adjusted)
            findings.append(_judged(hypothesis, level, share, p_adjusted, policy, allocation.tests))
        else:
            values, verdict = hypothesis.values[1], Verdict.INCONCLUSIVE.value
            findings.append(
                replace(
                    unjudged_finding(hypothesis, hypothesis.limit.amount, None),
                    warnings=("not known for every run of the candidate",),
                    arithmetic=Arithmetic((), values, verdict, alpha=policy.alpha, tests=allocation.tests),
                )
            )
    return tuple(findings)


def _judged(
    hypothesis: Hypothesis[Objective], level: Level, share: float, p_adjusted: float, policy: Policy, tests: int
) -> Finding:
    """The finding of an absolute limit with its share of alpha and its adjusted p."""
    metric, amount = hypothesis.metric, hypothesis.limit.amount
    unit = 1.0 if metric is Metric.ERROR_RATE else 100.0 / amount  # of a gap, in that of a change
    ci_low, ci_high = (level.low - amount) * unit, (level.high - amount) * unit
    is_kept = level.high <= amount if metric.worse > 0 else level.low >= amount
    verdict = Verdict.NO_CHANGE if is_kept else Verdict.INCONCLUSIVE
    if p_adjusted <= policy.alpha:
        verdict = Verdict.REGRESSION
    is_open = verdict is Verdict.INCONCLUSIVE
    power = _power(hypothesis, level, policy.alpha * share, policy.confidence if is_open else None)
    return replace(
        unjudged_finding(hypothesis, amount, level.value),
        ci_low=ci_low,
        ci_high=ci_high,
        p_value=level.p_value,
        p_adjusted=p_adjusted,
        verdict=verdict,
        min_detectable=power.min_detectable,
        runs_needed=power.runs_needed,
        requests_needed=power.requests_needed,
        arithmetic=Arithmetic(
            (),
            hypothesis.values[1],
            verdict.value,
            alpha=policy.alpha,
            share=share,
            tests=tests,
            levels=level.arithmetic if isinstance(level.arithmetic, LevelArithmetic) else None,
            rates=level.arithmetic if isinstance(level.arithmetic, RateArithmetic) else None,
            worsening=(level.value - amount) * unit * metric.worse,
            bad_side=ci_high if metric.worse > 0 else -ci_low,
        ),
    )


def _power(hypothesis: Hypothesis[Objective], level: Level, test_level: float, confidence: float | None) -> Power:
    """The smallest breach that is called in four cases of five, and what would settle an open question."""
    metric, numbers = hypothesis.metric, level.arithmetic
    if level.noise is not None and isinstance(numbers, LevelArithmetic):
        df_per_run = 2 if hypothesis.baseline else 1
        design = RunDesign(level.noise, 0, len(hypothesis.candidate), test_level, df_per_run=df_per_run)
        return power_of_level(metric, design, metric.worse * numbers.shift, confidence)
    if level.failures is None or not isinstance(numbers, RateArithmetic):
        return Power(None)
    limit, requests = numbers.limit or 0.0, None
    if confidence is not None:
        requests = requests_needed_for_limit(level.failures, limit, test_level, confidence)
    rate = RequestDesign(math.inf, numbers.requests[0], test_level, 0.0, numbers.overdispersion, numbers.df)
    return power_of_rate(rate, limit, (level.failures,), requests)
