"""Absolute limits (SLOs): the candidate's level against a number, with its uncertainty, whatever the baseline was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from perfkit.coverage import measured
from perfkit.model import Finding, Metric, Run, Verdict
from perfkit.noise_profile import NoiseProfile, level_values, noise_of
from perfkit.policy import Objective, Policy
from perfkit.stats.compare import Failures, wilson
from perfkit.stats.noise import overdispersion

Estimate = tuple[float, tuple[float, float], float]
"""Level of the candidate, its interval (metric's unit), and the one-sided p of "beyond the limit"."""


def by_objective(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    services: Sequence[str],
    policy: Policy,
    profile: NoiseProfile | None = None,
) -> Iterator[Finding]:
    """Yield a finding for every absolute limit; its ``baseline`` is the limit itself.

    The baseline's runs only help to tell the noise.  ``regression`` when the candidate's level is beyond the limit at
    ``alpha`` shared over all limits, ``no_change`` when the interval's bad side keeps it, else ``inconclusive``.
    """
    asked = [(service, limit) for service in services for limit in policy.objectives_of(service)]
    for service, limit in asked:
        sides = measured(service, baseline), measured(service, candidate)
        if limit.metric is Metric.ERROR_RATE:
            found = _share(service, sides[1], limit, policy.confidence)
        else:
            found = _level(service, sides, limit, policy.confidence, profile)
        yield _answer(service, limit, found, policy.alpha / len(asked))


def _answer(service: str, limit: Objective, found: Estimate | None, level: float) -> Finding:
    if found is None:
        return _finding(service, limit, None, None, None, Verdict.INCONCLUSIVE)
    value, interval, p = found
    kept = interval[1] <= limit.amount if limit.metric.worse > 0 else interval[0] >= limit.amount
    verdict = Verdict.REGRESSION if p <= level else Verdict.NO_CHANGE if kept else Verdict.INCONCLUSIVE
    return _finding(service, limit, value, interval, p, verdict)


def _level(
    service: str,
    sides: tuple[Sequence[Run], Sequence[Run]],
    limit: Objective,
    confidence: float,
    profile: NoiseProfile | None,
) -> Estimate | None:
    metric = limit.metric
    if any(not run.services[service].value(metric) for run in sides[1]):
        return None
    known = tuple([run for run in side if run.services[service].value(metric)] for side in sides)
    values = level_values(service, metric, known[0], known[1], profile)
    if values is None:
        return None
    noise, logs = noise_of(metric, values), np.log(values.candidate)
    middle, error = float(logs.mean()), noise.sd / np.sqrt(logs.size)
    half = float(stdtrit(noise.df, 0.5 + confidence / 2)) * error
    low, high = float(np.exp(middle - half)), float(np.exp(middle + half))
    score = metric.worse * (middle - float(np.log(limit.amount))) / error
    return float(np.exp(middle)), (low, high), float(stdtr(noise.df, -score))


def _share(service: str, runs: Sequence[Run], limit: Objective, confidence: float) -> Estimate | None:
    stats = [run.services[service] for run in runs]
    pairs = [(item.failures, item.count) for item in stats if item.failures is not None and item.count]
    if len(pairs) < len(stats) or not pairs:
        return None
    failures = Failures(*np.array(pairs, float).T)
    factor, df = overdispersion((failures.failed,), (failures.counts,))
    n, share = float(failures.counts.sum()) / factor, min(limit.amount / 100, 1.0)
    low, high = wilson(failures.rate, n, float(stdtrit(df, 0.5 + confidence / 2)))
    error = np.sqrt(max(share * (1 - share), 1e-12) / n)  # at the limit, as the score test behind Wilson's interval
    return 100 * failures.rate, (100 * low, 100 * high), float(stdtr(df, -(failures.rate - share) / error))


def _finding(
    service: str,
    limit: Objective,
    value: float | None,
    interval: tuple[float, float] | None,
    p: float | None,
    verdict: Verdict,
) -> Finding:
    metric, amount = limit.metric, limit.amount
    share = 1.0 if metric is Metric.ERROR_RATE else 100.0 / amount
    low, high = (None, None) if interval is None else ((end - amount) * share for end in interval)
    return Finding(
        service=service,
        metric=metric.value,
        unit=metric.unit,
        change_unit=metric.change_unit,
        baseline=amount,
        candidate=value,
        change_pct=None if value is None else 100.0 * (value - amount) / amount,
        change_abs=None if value is None else value - amount,
        ci_low=low,
        ci_high=high,
        p_value=p,
        p_adjusted=p,
        verdict=verdict,
        tolerance=0.0,
        limit=limit.describe(),
        gating=True,
        objective=True,
    )
