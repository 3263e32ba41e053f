"""What a comparison tests, and what comes of it: the rule ``evidence``, absolute limits (SLOs), the rule ``threshold``.

A `Hypothesis` is one metric of one service with its limit, and the runs that can answer it.  Each is tested
(`effect_of`), alpha is allocated to the tests, and each becomes a finding that carries its arithmetic.  Of an absolute
limit the candidate's level is tested against a number, whatever the baseline was.  What cannot be tested and gates is a
finding too, so that silence never passes for health.  ``threshold`` holds the change of the stated values against
limits and knows nothing of noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from perfkit.analysis.coverage import Coverage, does_gate, first_names, measured, percent
from perfkit.analysis.noise_profile import (
    PAIR,
    NoiseProfile,
    failures_of,
    knowing_neighbours,
    level_values,
    noise_of,
    paired,
)
from perfkit.analysis.power import AlphaShare, allocate_alpha, log_worsening, percent_worsening
from perfkit.config.policy import Limit, Objective, Policy
from perfkit.model.records import (
    Arithmetic,
    Finding,
    Gap,
    Gate,
    LevelArithmetic,
    Metric,
    RateArithmetic,
    Run,
    Scope,
    ServiceStats,
    Tail,
    Verdict,
    staged_label,
    values_of,
    verdict_of,
)
from perfkit.stats.effect import (
    Effect,
    Values,
    compare_error_rates,
    compare_levels,
    level_arithmetic,
    overdispersion,
    rate_arithmetic,
    rise_above_limit,
    wilson,
)
from perfkit.stats.power import RequestDesign, RunDesign, requests_needed, requests_needed_for_limit
from perfkit.stats.tail import SCATTER, TailDesign, compare_tails, is_enough, is_of_tails, pooled, quantiles_of

FEWEST = 6  # requests of a run behind an average that is judged, as for a median
Stages = Mapping[str, tuple[str, str]]
"""Entries among the services of staged runs, each with its service and stage (`StagedSides`)."""


@dataclass(frozen=True)
class Hypothesis:
    """One metric of one service (in one stage), its limit, and the runs of each side that measured the service."""

    service: str
    stage: str | None
    scope: Scope
    metric: Metric
    limit: Limit | Objective
    gating: bool
    baseline: tuple[Run, ...]
    candidate: tuple[Run, ...]

    @property
    def entry(self) -> str:
        """The name of the service, in its stage, among the services of the runs."""
        return staged_label(self.service, self.stage)

    @cached_property
    def stats(self) -> tuple[list[ServiceStats], list[ServiceStats]]:
        entry = self.entry
        return [run.services[entry] for run in self.baseline], [run.services[entry] for run in self.candidate]

    @cached_property
    def values(self) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
        """The value of each run of baseline and candidate; ``None`` where a run cannot say."""
        baseline, candidate = self.stats
        return tuple(values_of(baseline, self.metric)), tuple(values_of(candidate, self.metric))

    @cached_property
    def tails(self) -> tuple[list[Tail], list[Tail]] | None:
        """Of p99 and p99.9: the tails of both sides, where every run kept its own and they are enough together."""
        quantile = self.metric.quantile
        if quantile not in SCATTER:
            return None
        before, after = ([stats.tail for stats in side if stats.tail is not None] for side in self.stats)
        are_kept = len(before) == len(self.baseline) and len(after) == len(self.candidate)
        is_told = are_kept and is_enough(before, quantile) and is_enough(after, quantile)
        return (before, after) if is_told else None


def hypotheses_of(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    services: Sequence[str],
    policy: Policy,
    stages: Stages,
    scope: Scope = Scope.SERVICE,
    gate: Gate | None = None,
) -> list[Hypothesis]:
    """Every limited metric of the services, in order, by the runs that have them; of throughput all runs must."""
    hypotheses = []
    for entry in services:
        service, stage = stages.get(entry, (entry, None))
        before, after = measured(entry, baseline), measured(entry, candidate)
        is_partial = len(before) + len(after) < len(baseline) + len(candidate)
        for metric, limit in policy.limits(entry).items():
            if metric is not Metric.RPS or not is_partial:
                is_gating = does_gate(policy, gate, entry, metric)
                hypotheses.append(Hypothesis(service, stage, scope, metric, limit, is_gating, before, after))
    return hypotheses


def objectives_of(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str], policy: Policy, stages: Stages
) -> list[Hypothesis]:
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


def unknown_metrics(hypotheses: Sequence[Hypothesis], policy: Policy) -> Iterator[tuple[str, Gap | None]]:
    """Limited metrics that a side, or some of its runs, cannot tell, and the gap where that keeps from a green verdict.

    One sentence for each metric and side.  By evidence only gating metrics must be shown unharmed, and those have a
    finding that says so.  Where neither side knows a metric it is missing only if the policy asks for it by name.
    """
    groups: dict[tuple[Metric, str], list[str]] = {}
    for hypothesis in hypotheses:
        if all(None not in side for side in hypothesis.values):
            continue
        if policy.rule == "evidence" and (hypothesis.metric.value in policy.gating or hypothesis.tails):
            continue
        is_known = [[value is not None for value in side] for side in hypothesis.values]
        kept = [[stats.tail is not None for stats in side] for side in hypothesis.stats]
        if hypothesis.metric.quantile in SCATTER and not any(map(any, is_known)) and not all(map(all, kept)):
            is_known = kept  # no run knows its own, and some lack what the others could tell together
        where = " and ".join(
            f"the {title}" if not any(side) else f"{side.count(False)} of {len(side)} runs of the {title}"
            for title, side in zip(("baseline", "candidate"), is_known, strict=True)
            if not all(side)
        )
        if any(map(any, is_known)) or policy.names_limit(hypothesis.entry, hypothesis.metric):
            groups.setdefault((hypothesis.metric, where), []).append(hypothesis.entry)
    for (metric, where), services in groups.items():
        is_partly = policy.rule == "threshold" and " of " in where
        judged = "judged by the runs that know it" if is_partly else "not judged"
        text = (
            f"{metric.title[0].upper()}{metric.title[1:]} is not known in {where}, so it is {judged}: "
            f"{first_names(services)}."
        )
        advice = f"Measure {metric.title} on both sides, or switch its limit off in the policy."
        yield text, Gap(text, advice) if policy.rule == "threshold" else None


def by_evidence(
    hypotheses: Sequence[Hypothesis],
    policy: Policy,
    profile: NoiseProfile | None,
    not_judged: Mapping[str, str],
    coverage: Coverage,
    gate: Gate | None = None,
) -> list[Finding]:
    """Judge every hypothesis under one alpha; of ``not_judged`` latency and throughput are reported with the reason."""
    levels = _levels(hypotheses, profile)
    effects = [effect_of(h, policy.confidence, profile, levels.get(number)) for number, h in enumerate(hypotheses)]
    tails = {
        h.entry
        for h, effect in zip(hypotheses, effects, strict=True)
        if h.metric is Metric.P999 and effect is not None and is_of_tails(effect)
    }
    tests = [
        (None if isinstance(h.limit, Objective) else (h.entry, h.metric, h.scope), *_by_direction(h.metric, effect))
        for h, effect in zip(hypotheses, effects, strict=True)
        if effect is not None
    ]
    shares = iter(allocate_alpha(tests, gate, tails))
    findings: list[Finding] = []
    for hypothesis, effect in zip(hypotheses, effects, strict=True):
        is_limit = isinstance(hypothesis.limit, Objective)
        if effect is not None:
            finding = _judged(hypothesis, effect, next(shares), policy, len(tests))
            reason = not_judged.get(hypothesis.entry) if hypothesis.metric is not Metric.ERROR_RATE else None
            if reason is not None and not is_limit:
                finding = replace(
                    finding, verdict=Verdict.INCONCLUSIVE, runs_needed=None, warnings=(*finding.warnings, reason)
                )
            findings.append(finding if is_limit else _explained_by_mix(finding, coverage))
        elif isinstance(hypothesis.limit, Objective):
            numbers = Arithmetic(
                (), hypothesis.values[1], Verdict.INCONCLUSIVE.value, alpha=policy.alpha, tests=len(tests)
            )
            finding = unjudged_finding(hypothesis, hypothesis.limit.amount, None)
            warnings = ("not known for every run of the candidate",)
            findings.append(replace(finding, warnings=warnings, arithmetic=numbers))
        elif hypothesis.metric.value in policy.gating:
            sides = zip(("baseline", "candidate"), hypothesis.values, strict=True)
            missing = [title for title, values in sides if None in values]
            what = f"not known for every run of the {' and '.join(missing) or 'baseline or candidate'}"
            if hypothesis.metric is Metric.AVG and _too_few_requests(hypothesis):
                what = f"a run holds fewer than {FEWEST} requests of this service"
            reasons = (text for side in hypothesis.stats for stats in side for text in stats.warnings)
            texts = (what, *(text for text in reasons if text.startswith(hypothesis.metric.title)))
            findings.append(replace(unjudged_finding(hypothesis, None, None), warnings=tuple(dict.fromkeys(texts))))
    return findings


def _by_direction(metric: Metric, effect: Effect) -> tuple[float, float]:
    """The one-sided p-values of getting worse and of getting better."""
    return (effect.p_rise, effect.p_fall) if metric.worse > 0 else (effect.p_fall, effect.p_rise)


def _levels(hypotheses: Sequence[Hypothesis], profile: NoiseProfile | None) -> dict[int, Values]:
    """By the place of each hypothesis on a level that can be compared: its values, with what its neighbours tell."""
    levels: dict[int, Values] = {}
    of_services: dict[int, tuple[Metric, Values]] = {}
    for number, hypothesis in enumerate(hypotheses):
        metric, sides = hypothesis.metric, (hypothesis.baseline, hypothesis.candidate)
        is_short = metric is Metric.AVG and _too_few_requests(hypothesis)
        if isinstance(hypothesis.limit, Objective) or metric is Metric.ERROR_RATE or is_short:
            continue
        if (values := level_values(hypothesis.entry, metric, *sides, profile)) is not None:
            levels[number] = values
            if hypothesis.scope is Scope.SERVICE:
                of_services[number] = metric, values
    return levels | knowing_neighbours(of_services)


def effect_of(
    hypothesis: Hypothesis, confidence: float, profile: NoiseProfile | None, values: Values | None
) -> Effect | None:
    """The effect between the runs that measured the service; ``None`` where one of them cannot say.

    Of an absolute limit: of the candidate's level against it, in percent of the limit (pp for the error rate).
    """
    metric, entry = hypothesis.metric, hypothesis.entry
    before, after = map(failures_of, hypothesis.stats) if metric is Metric.ERROR_RATE else (None, None)
    if not isinstance(hypothesis.limit, Objective):
        if metric is Metric.ERROR_RATE:
            return compare_error_rates(before, after, confidence) if before is not None and after is not None else None
        if values is None and metric.quantile is not None and (tails := hypothesis.tails) is not None:
            return compare_tails(metric.quantile, *tails, confidence)
        return compare_levels(metric, values, confidence) if values is not None else None
    amount, noise = hypothesis.limit.amount, None
    numbers: LevelArithmetic | RateArithmetic
    if metric is Metric.ERROR_RATE:
        if after is None:
            return None
        factor, df = overdispersion((after.failed,), (after.counts,))
        share, quantile = min(amount / 100, 1.0), float(stdtrit(df, 0.5 + confidence / 2))
        ends = wilson(after.rate, float(after.counts.sum()) / factor, quantile)
        level, low, high = (100 * value for value in (after.rate, *ends))
        beyond, unit = rise_above_limit(after, share, factor, df), 1.0
        numbers = rate_arithmetic((after,), factor, df, quantile, share)
    else:
        baseline = [run for run in hypothesis.baseline if run.services[entry].value(metric)]
        values = level_values(entry, metric, baseline, hypothesis.candidate, profile)
        if values is None or not all(hypothesis.values[1]):
            return None
        values = replace(values, prior=replace(values.prior, weekdays=None))  # a limit holds on every weekday
        noise, logs = noise_of(metric, values), np.log(values.candidate)
        numbers = level_arithmetic((math.log(amount), float(logs.mean())), noise, (logs.size,), confidence)
        half = numbers.quantile * numbers.error
        level, low, high = (math.exp(numbers.means[1] + step) for step in (0.0, -half, half))
        beyond, unit = float(stdtr(noise.df, -metric.worse * numbers.shift / numbers.error)), 100.0 / amount
    p_rise, p_fall = (beyond, 1.0) if metric.worse > 0 else (1.0, beyond)
    change, ci_low, ci_high = ((value - amount) * unit for value in (level, low, high))
    return Effect(change, ci_low, ci_high, p_rise, p_fall, noise, numbers)


def _too_few_requests(hypothesis: Hypothesis) -> bool:
    """The scatter of so few requests cannot tell their own mean's error (a test measures the false alarms)."""
    return any(stats.count is not None and stats.count < FEWEST for side in hypothesis.stats for stats in side)


def _judged(hypothesis: Hypothesis, effect: Effect, alpha: AlphaShare, policy: Policy, tests: int) -> Finding:
    """The finding of a hypothesis that is one of so many ``tests``; of a limit its ``baseline`` is the limit itself.

    ``regression``: the worsening is significant and beyond the tolerance; of a limit, the level is beyond it.
    """
    metric, limit, numbers = hypothesis.metric, hypothesis.limit, effect.arithmetic
    is_limit = isinstance(limit, Objective)
    pairs = None if is_limit else paired(hypothesis.baseline, hypothesis.candidate)
    baseline, candidate = hypothesis.stats
    tails = hypothesis.tails if is_of_tails(effect) else None
    if tails is not None and metric.quantile is not None:
        finding = unjudged_finding(hypothesis, *(float(quantiles_of(side, metric.quantile)) for side in tails))
    elif is_limit and isinstance(numbers, LevelArithmetic):
        finding = unjudged_finding(hypothesis, limit.amount, math.exp(numbers.means[1]))
    else:
        level = limit.amount if is_limit else _level(metric, baseline)
        finding = unjudged_finding(hypothesis, level, _level(metric, candidate))
    tolerance = finding.tolerance
    worsening = effect.change * metric.worse
    bad_side = effect.ci_high if metric.worse > 0 else -effect.ci_low
    verdict = Verdict.INCONCLUSIVE
    if tolerance is not None:
        is_significant = alpha.p_worse <= policy.alpha, alpha.p_better <= policy.alpha
        verdict = verdict_of(*is_significant, worsening, bad_side, tolerance)
    p_worse, p_better = _by_direction(metric, effect)
    is_worse = is_limit or (effect.change >= 0) == (metric.worse > 0)
    before, after = hypothesis.values
    if tails is not None:  # no run knows it by itself
        before, after, pairs = (), (), None
    elif pairs is not None:
        before, after = (tuple(run.services[hypothesis.entry].value(metric) for run in runs) for runs in pairs)
    finding = replace(
        finding,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        p_value=p_worse if is_worse else p_better,
        p_adjusted=alpha.p_worse if is_worse else alpha.p_better,
        verdict=verdict,
        arithmetic=Arithmetic(
            () if is_limit else before,
            after,
            verdict.value,
            alpha=policy.alpha,
            share=alpha.share,
            tests=tests,
            paired=pairs is not None and metric is not Metric.ERROR_RATE,
            levels=numbers if isinstance(numbers, LevelArithmetic) else None,
            rates=numbers if isinstance(numbers, RateArithmetic) else None,
            worsening=worsening,
            bad_side=bad_side,
        ),
    )
    if tolerance is None:
        return replace(finding, warnings=(*finding.warnings, "the limit cannot be placed on this baseline"))
    confidence = policy.confidence if verdict is Verdict.INCONCLUSIVE else None
    return replace(finding, **_power(hypothesis, effect, tolerance, policy.alpha * alpha.share, confidence))


def _power(
    hypothesis: Hypothesis, effect: Effect, tolerance: float, level: float, confidence: float | None
) -> dict[str, Any]:
    """The smallest worsening that this test is likely to show, and what would settle it; no ``confidence``: settled."""
    metric, numbers, is_limit = hypothesis.metric, effect.arithmetic, isinstance(hypothesis.limit, Objective)
    if isinstance(numbers, LevelArithmetic) and effect.noise is not None:
        baseline, candidate = len(hypothesis.baseline), len(hypothesis.candidate)
        df_per_run = 1 if not baseline or paired(hypothesis.baseline, hypothesis.candidate) else 2
        bound = log_worsening(metric, tolerance)
        design = RunDesign(effect.noise, 0 if is_limit else baseline, candidate, level, bound, df_per_run)
        smallest = percent_worsening(metric, design.min_detectable())
        needed = None if confidence is None else design.runs_needed(metric.worse * numbers.shift, confidence)
        return {"min_detectable": smallest if math.isfinite(smallest) else None, "runs_needed": needed}
    if not isinstance(numbers, RateArithmetic):
        return {}
    requests, runs = None, None
    if metric.quantile is not None and hypothesis.tails is not None:
        tolerated = log_worsening(metric, tolerance)
        design_of_tail = TailDesign(metric.quantile, level, tolerated, numbers.overdispersion, numbers.df)
        before, after = map(pooled, hypothesis.tails)
        smallest = design_of_tail.min_detectable(before, numbers.requests)
        if confidence is not None:
            requests = design_of_tail.requests_needed((before, after), numbers.requests, confidence)
    else:
        sides = [failures for stats in hypothesis.stats[is_limit:] if (failures := failures_of(stats)) is not None]
        share, rate = tolerance / 100, sides[0].rate if numbers.limit is None else numbers.limit
        if confidence is not None and numbers.limit is not None:
            requests = requests_needed_for_limit(sides[0], numbers.limit, level, confidence)
        elif confidence is not None:
            requests = requests_needed(sides[0], sides[1], share, level, confidence)
        n_before = numbers.requests[0] if numbers.limit is None else math.inf
        design_of_rate = RequestDesign(n_before, numbers.requests[-1], level, share, numbers.overdispersion, numbers.df)
        smallest = 100.0 * design_of_rate.min_detectable(rate)
    if requests is not None:  # so many further runs of the present length bring the poorer side to them
        totals = zip(numbers.requests, map(len, hypothesis.stats[is_limit:]), strict=True)
        runs = max(1, *(math.ceil((requests - total) / (total / size)) for total, size in totals))
    return {
        "min_detectable": smallest if math.isfinite(smallest) else None,
        "runs_needed": runs,
        "requests_needed": requests,
    }


def _level(metric: Metric, stats: Sequence[ServiceStats]) -> float:
    """One side's value: pooled for the error rate where counts are known, else the geometric mean over runs."""
    values = np.array(values_of(stats, metric), dtype=float)
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


def by_threshold(hypotheses: Sequence[Hypothesis]) -> list[Finding]:
    """A finding for every limited metric that runs of both sides state: the mean of what they state."""
    findings = []
    for hypothesis in hypotheses:
        limit, metric = hypothesis.limit, hypothesis.metric
        stated = [[value for value in values if value is not None] for values in hypothesis.values]
        if not isinstance(limit, Limit) or not all(stated):
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
    return findings


def unjudged_finding(hypothesis: Hypothesis, before: float | None, after: float | None) -> Finding:
    """A finding of what a hypothesis is about and of the sizes, with nothing judged; ``before`` may be a limit."""
    limit, metric = hypothesis.limit, hypothesis.metric
    change_abs = change_pct = None
    if before is not None and after is not None:
        change_abs = after - before
        change_pct = 100.0 * (after - before) / before if before else math.inf if after else 0.0
    return Finding(
        service=hypothesis.service,
        stage=hypothesis.stage,
        scope=hypothesis.scope,
        metric=metric.value,
        unit=metric.unit,
        change_unit=metric.change_unit,
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
