"""The rule ``evidence``: effect, interval and p of every metric, corrected over all of them, against its tolerance.

Read from the top: each hypothesis is tested (`effect_of`), alpha is allocated to the tests, and each becomes a finding
(`_judged`) that carries its arithmetic.  What cannot be tested and gates is a finding too, so that silence never passes
for health.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from perfkit.analysis.alpha import AlphaAllocation, allocate_alpha
from perfkit.analysis.coverage import Coverage, percent
from perfkit.analysis.hypotheses import Hypothesis, unjudged_finding
from perfkit.analysis.limits import ObjectiveTest, by_objective
from perfkit.analysis.noise_profile import NoiseProfile, failures_of, level_values, paired
from perfkit.analysis.power import Power, log_worsening, power_of_level, power_of_rate
from perfkit.config.policy import Limit, Policy
from perfkit.model.records import Arithmetic, Finding, LevelArithmetic, Metric, RateArithmetic, ServiceStats, Verdict
from perfkit.stats.effect import Effect, compare_error_rates, compare_levels
from perfkit.stats.power import RequestDesign, RunDesign, requests_needed

FEWEST = 6  # requests of a run behind an average that is judged, as for a median


def by_evidence(
    hypotheses: Sequence[Hypothesis[Limit]],
    objectives: Sequence[ObjectiveTest],
    policy: Policy,
    profile: NoiseProfile | None,
    not_judged: Mapping[str, str],
    coverage: Coverage,
) -> tuple[Finding, ...]:
    """Judge every hypothesis and every absolute limit under one alpha.

    ``not_judged`` maps services to the reason why their latency and throughput are reported, but not judged.
    """
    effects = [effect_of(hypothesis, policy.confidence, profile) for hypothesis in hypotheses]
    tests = [(h, effect) for h, effect in zip(hypotheses, effects, strict=True) if effect is not None]
    allocation = allocate_alpha(
        policy.alpha,
        [(h.entry, h.metric, h.scope) for h, _ in tests],
        p_worse=[effect.p_rise if h.metric.worse > 0 else effect.p_fall for h, effect in tests],
        p_better=[effect.p_fall if h.metric.worse > 0 else effect.p_rise for h, effect in tests],
        p_broken=[test.level.p_value for test in objectives if test.level is not None],
    )
    findings: list[Finding] = []
    number = 0
    for hypothesis, effect in zip(hypotheses, effects, strict=True):
        if effect is not None:
            finding = _judged(hypothesis, effect, allocation, number, policy)
            reason = not_judged.get(hypothesis.entry) if hypothesis.metric is not Metric.ERROR_RATE else None
            if reason is not None:
                finding = replace(
                    finding,
                    verdict=Verdict.INCONCLUSIVE,
                    runs_needed=None,
                    warnings=(*finding.warnings, reason),
                )
            findings.append(_explained_by_mix(finding, coverage))
            number += 1
        elif hypothesis.gating:
            findings.append(_unknown(hypothesis))
    return (*findings, *by_objective(objectives, policy, allocation))


def effect_of(hypothesis: Hypothesis[Limit], confidence: float, profile: NoiseProfile | None = None) -> Effect | None:
    """The effect between the runs that measured the service; ``None`` where one of them cannot say."""
    baseline, candidate = hypothesis.stats
    metric = hypothesis.metric
    if metric is Metric.ERROR_RATE:
        before, after = failures_of(baseline), failures_of(candidate)
        return compare_error_rates(before, after, confidence) if before is not None and after is not None else None
    if metric is Metric.AVG and _too_few_requests(baseline, candidate):
        return None
    values = level_values(hypothesis.entry, metric, hypothesis.baseline, hypothesis.candidate, profile)
    return compare_levels(metric, values, confidence) if values is not None else None


def _too_few_requests(*sides: Sequence[ServiceStats]) -> bool:
    """The scatter of so few requests cannot tell their own mean's error (a test measures the false alarms)."""
    return any(stats.count is not None and stats.count < FEWEST for side in sides for stats in side)


def _judged(
    hypothesis: Hypothesis[Limit], effect: Effect, allocation: AlphaAllocation, number: int, policy: Policy
) -> Finding:
    """The finding of a tested hypothesis; ``number`` is that of its test in the allocation."""
    metric, numbers = hypothesis.metric, effect.arithmetic
    share, p_worse, p_better = (part[number] for part in (allocation.shares, allocation.worse, allocation.better))
    pairs = paired(hypothesis.baseline, hypothesis.candidate)
    finding = unjudged_finding(hypothesis, *(_level(metric, stats) for stats in hypothesis.stats))
    tolerance = finding.tolerance
    worsening = effect.change * metric.worse
    bad_side = effect.ci_high if metric.worse > 0 else -effect.ci_low
    verdict = Verdict.INCONCLUSIVE
    if tolerance is not None:
        if p_worse <= policy.alpha and worsening > tolerance:
            verdict = Verdict.REGRESSION
        elif p_better <= policy.alpha and -worsening > tolerance:
            verdict = Verdict.IMPROVEMENT
        elif bad_side <= tolerance:
            verdict = Verdict.NO_CHANGE
    rises = effect.change >= 0
    sides = pairs or (hypothesis.baseline, hypothesis.candidate)
    before, after = (tuple(run.services[hypothesis.entry].value(metric) for run in runs) for runs in sides)
    finding = replace(
        finding,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        p_value=effect.p_rise if rises else effect.p_fall,
        p_adjusted=p_worse if rises == (metric.worse > 0) else p_better,
        verdict=verdict,
        arithmetic=Arithmetic(
            before,
            after,
            verdict.value,
            alpha=policy.alpha,
            share=share,
            tests=allocation.tests,
            paired=pairs is not None and metric is not Metric.ERROR_RATE,
            levels=numbers if isinstance(numbers, LevelArithmetic) else None,
            rates=numbers if isinstance(numbers, RateArithmetic) else None,
            worsening=worsening,
            bad_side=bad_side,
        ),
    )
    if tolerance is None:
        return replace(finding, warnings=(*finding.warnings, "the limit cannot be placed on this baseline"))
    power = _power(hypothesis, effect, finding, policy.alpha * share, policy.confidence)
    return replace(
        finding,
        min_detectable=power.min_detectable,
        runs_needed=power.runs_needed,
        requests_needed=power.requests_needed,
    )


def _power(hypothesis: Hypothesis[Limit], effect: Effect, finding: Finding, level: float, confidence: float) -> Power:
    """The smallest change that this test could have shown, and what would settle an open question."""
    metric, tolerance, numbers = hypothesis.metric, finding.tolerance or 0.0, effect.arithmetic
    is_open = finding.verdict is Verdict.INCONCLUSIVE
    if effect.noise is not None:
        runs = len(hypothesis.baseline), len(hypothesis.candidate)
        df_per_run = 1 if finding.arithmetic is not None and finding.arithmetic.paired else 2
        design = RunDesign(effect.noise, *runs, level, log_worsening(metric, tolerance), df_per_run)
        shift = metric.worse * math.log1p(effect.change / 100)
        return power_of_level(metric, design, shift, confidence if is_open else None)
    before, after = (failures_of(stats) for stats in hypothesis.stats)
    if before is None or after is None or not isinstance(numbers, RateArithmetic):
        return Power(None)
    needed = requests_needed(before, after, tolerance / 100, level, confidence) if is_open else None
    n1, n2 = numbers.requests
    rates = RequestDesign(n1, n2, level, tolerance / 100, numbers.overdispersion, numbers.df)
    return power_of_rate(rates, before.rate, (before, after), needed)


def _level(metric: Metric, stats: Sequence[ServiceStats]) -> float:
    """One side's value: pooled for the error rate where counts are known, else the geometric mean over runs."""
    values = np.array([item.value(metric) for item in stats], dtype=float)
    if metric is Metric.ERROR_RATE:
        failures = failures_of(stats)
        return 100.0 * failures.rate if failures is not None else float(values.mean())
    if (values <= 0).any():
        return float(values.mean())
    return float(np.exp(np.log(values).mean()))


def _explained_by_mix(finding: Finding, coverage: Coverage) -> Finding:
    """Users who call a new service call the others less, and more when one is gone: so much is no change of the others.

    Their throughput is called changed only where its interval leaves out what the mix of requests explains.
    """
    if finding.metric != Metric.RPS or finding.ci_low is None or finding.ci_high is None:
        return finding
    gone, new = coverage.turnover
    if finding.verdict is Verdict.REGRESSION and new and finding.ci_high > -100.0 * new:
        what = f"{percent(new)} of the candidate's load goes to new services"
    elif finding.verdict is Verdict.IMPROVEMENT and 0 < gone < 1 and finding.ci_low < 100.0 * gone / (1.0 - gone):
        what = f"{percent(gone)} of the baseline's load went to services that are gone"
    else:
        return finding
    text = f"{what}, which may be all of this change"
    return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=None, warnings=(*finding.warnings, text))


def _unknown(hypothesis: Hypothesis[Limit]) -> Finding:
    """A gating metric that a run cannot tell, with the reasons that the runs give."""
    sides = hypothesis.stats
    missing = [
        title
        for title, values in zip(("baseline", "candidate"), hypothesis.values, strict=True)
        if any(value is None for value in values)
    ]
    what = f"not known for every run of the {' and '.join(missing) or 'baseline or candidate'}"
    if hypothesis.metric is Metric.AVG and _too_few_requests(*sides):
        what = f"a run holds fewer than {FEWEST} requests of this service"
    reasons = (text for side in sides for stats in side for text in stats.warnings)
    texts = (what, *(text for text in reasons if text.startswith(hypothesis.metric.title)))
    return replace(unjudged_finding(hypothesis, None, None), warnings=tuple(dict.fromkeys(texts)))
