"""The rule ``evidence``: effect, interval and p of every metric, corrected over all of them, against its tolerance.

Read from the top: each hypothesis is tested (`effect_of`), alpha is allocated to the tests, and each becomes a finding
(`_judged`) that carries its arithmetic.  What cannot be tested and gates is a finding too, so that silence never passes
for health.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from scipy.special import stdtr, stdtrit

from perfkit.analysis.coverage import MOST_NAMED, Coverage, measured, percent
from perfkit.analysis.noise_profile import PAIR, NoiseProfile, failures_of, level_values, noise_of, paired
from perfkit.analysis.power import AlphaAllocation, Power, allocate_alpha, log_worsening, power_of_level, power_of_rate
from perfkit.config.policy import Limit, Objective, Policy
from perfkit.model.records import (
    Arithmetic,
    Finding,
    Gap,
    LevelArithmetic,
    Metric,
    RateArithmetic,
    Run,
    Scope,
    ServiceStats,
    Verdict,
    staged_label,
)
from perfkit.stats.effect import (
    Effect,
    Failures,
    Noise,
    compare_error_rates,
    compare_levels,
    level_arithmetic,
    overdispersion,
    rate_arithmetic,
    rise_above_limit,
    wilson,
)
from perfkit.stats.power import RequestDesign, RunDesign, requests_needed, requests_needed_for_limit

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
            _rate_test(hypothesis, confidence)
            if hypothesis.metric is Metric.ERROR_RATE
            else _level_test(hypothesis, confidence, profile),
        )
        for hypothesis in hypotheses
    ]


def _level_test(hypothesis: Hypothesis[Objective], confidence: float, profile: NoiseProfile | None) -> Level | None:
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


def _rate_test(hypothesis: Hypothesis[Objective], confidence: float) -> Level | None:
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
            findings.append(_judged_objective(hypothesis, level, share, p_adjusted, policy, allocation.tests))
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


def _judged_objective(
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
    power = _power_of_objective(hypothesis, level, policy.alpha * share, policy.confidence if is_open else None)
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


def _power_of_objective(
    hypothesis: Hypothesis[Objective], level: Level, test_level: float, confidence: float | None
) -> Power:
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
