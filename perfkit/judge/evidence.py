"""The rule ``evidence``: effect, interval and p of every metric, corrected over all of them, against its tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from perfkit.arithmetic import Arithmetic, LevelArithmetic, RateArithmetic
from perfkit.comparability import SHARE_DIFFERS, Comparability
from perfkit.coverage import Coverage, measured, percent
from perfkit.judge.budget import Budget
from perfkit.judge.question import Question, blank, questions
from perfkit.judge.whole_run import NAME, with_whole
from perfkit.model import Finding, Metric, Run, ServiceStats, Verdict
from perfkit.noise_profile import NoiseProfile, level_values, paired
from perfkit.policy import Policy
from perfkit.stats.compare import Effect, Failures, compare_error_rates, compare_levels, weighted_holm
from perfkit.stats.power import (
    Design,
    RateDesign,
    min_detectable_log,
    min_detectable_rate,
    requests_needed,
    runs_needed,
)

BEYOND_SIZE = math.log(101.0)  # more than +10,000 %: so few and so unlike runs show no change of any size
FEWEST = 6  # requests of a run behind an average that is judged, as for a median


@dataclass(frozen=True, slots=True)
class Evidence:
    """The questions that a policy asks of two sides, and the effect of each that the runs can answer, by its number."""

    baseline: Sequence[Run]
    candidate: Sequence[Run]
    questions: Sequence[Question]
    effects: Mapping[int, Effect]
    capped: Mapping[str, str]
    coverage: Coverage

    @property
    def worse(self) -> dict[tuple[str, Metric], float]:
        """The one-sided p of a worsening of each effect."""
        asked = [(self.questions[number], effect) for number, effect in self.effects.items()]
        return {(question.service, question.metric): _p_worse(question, effect) for question, effect in asked}


def measure(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    sides: Comparability,
    policy: Policy,
    profile: NoiseProfile | None = None,
) -> Evidence:
    """Measure the effect of every limited metric that can be compared."""
    baseline, candidate, services = with_whole(baseline, candidate, sides.services)
    asked = questions(baseline, candidate, services, policy)
    effects: dict[int, Effect] = {}
    for number, question in enumerate(asked):
        effect = effect_of(question.service, question.metric, baseline, candidate, policy.confidence, profile)
        if effect is not None:
            effects[number] = effect
    return Evidence(baseline, candidate, asked, effects, _capped(sides, baseline, services), sides.coverage)


def by_evidence(evidence: Evidence, policy: Policy, budget: Budget) -> tuple[Finding, ...]:
    """Return a finding for every effect, and for every gating metric that cannot be compared.

    ``budget`` is that of all judgements of the comparison; improvements have one of their own, shared out alike.
    """
    asked, effects = evidence.questions, evidence.effects
    levels: dict[object, float] = dict(zip(effects, budget.shares, strict=True))
    worse = dict(zip(effects, budget.adjusted, strict=True))
    better = weighted_holm({n: _p_better(asked[n], e) for n, e in effects.items()}, levels)
    findings = []
    for number, question in enumerate(asked):
        having = measured(question.service, evidence.baseline), measured(question.service, evidence.candidate)
        if number in effects:
            judgement = _Judgement(effects[number], worse[number], better[number], levels[number], budget.tests, policy)
            finding = _answer(question, having[0], having[1], judgement)
            findings.append(_of_the_mix(_cap(finding, evidence.capped.get(question.service)), evidence.coverage))
        elif question.gating:
            findings.append(_unanswered(question, having[0], having[1]))
    return tuple(findings)


def _p_worse(question: Question, effect: Effect) -> float:
    return effect.p_rise if question.metric.worse > 0 else effect.p_fall


def _p_better(question: Question, effect: Effect) -> float:
    return effect.p_fall if question.metric.worse > 0 else effect.p_rise


def effect_of(
    service: str,
    metric: Metric,
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    confidence: float,
    profile: NoiseProfile | None = None,
) -> Effect | None:
    """Effect of one metric of one service between the runs that have it, or ``None`` where one of them cannot say."""
    baseline, candidate = measured(service, baseline), measured(service, candidate)
    if metric is Metric.ERROR_RATE:
        failures = _failures(service, baseline), _failures(service, candidate)
        if failures[0] is None or failures[1] is None:
            return None
        return compare_error_rates(failures[0], failures[1], confidence)
    if any(_too_few(metric, run.services[service]) for run in (*baseline, *candidate)):
        return None
    values = level_values(service, metric, baseline, candidate, profile)
    return compare_levels(metric, values, confidence) if values is not None else None


def _too_few(metric: Metric, stats: ServiceStats) -> bool:
    """The scatter of so few requests cannot tell their own mean's error (a test measures the false alarms)."""
    return metric is Metric.AVG and stats.count is not None and stats.count < FEWEST


@dataclass(frozen=True, slots=True)
class _Judgement:
    effect: Effect
    p_worse: float  # adjusted
    p_better: float  # adjusted
    share: float
    tests: int
    policy: Policy

    @property
    def level(self) -> float:
        """The level at which this finding is tested first; Holm's steps may add to it."""
        return self.policy.alpha * self.share


def _answer(question: Question, baseline: Sequence[Run], candidate: Sequence[Run], judgement: _Judgement) -> Finding:
    effect = judgement.effect
    blank_finding = blank(question, _level(question, baseline, "baseline"), _level(question, candidate, "candidate"))
    tolerance = blank_finding.tolerance
    rises = effect.change >= 0
    verdict = _verdict(question.metric, judgement, tolerance) if tolerance is not None else Verdict.INCONCLUSIVE
    finding = replace(
        blank_finding,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        p_value=effect.p_rise if rises else effect.p_fall,
        p_adjusted=judgement.p_worse if rises == (question.metric.worse > 0) else judgement.p_better,
        verdict=verdict,
        arithmetic=_arithmetic(question, (baseline, candidate), judgement, verdict),
    )
    if tolerance is None:
        return replace(finding, warnings=(*finding.warnings, "the limit cannot be placed on this baseline"))
    return _with_plan(finding, question, (baseline, candidate), judgement)


def _arithmetic(
    question: Question, sides: tuple[Sequence[Run], Sequence[Run]], judgement: _Judgement, verdict: Verdict
) -> Arithmetic:
    pairs, numbers = paired(*sides), judgement.effect.arithmetic
    before, after = (
        tuple(run.services[question.service].value(question.metric) for run in runs) for runs in pairs or sides
    )
    return Arithmetic(
        before,
        after,
        verdict.value,
        alpha=judgement.policy.alpha,
        share=judgement.share,
        tests=judgement.tests,
        paired=pairs is not None and question.metric is not Metric.ERROR_RATE,
        levels=numbers if isinstance(numbers, LevelArithmetic) else None,
        rates=numbers if isinstance(numbers, RateArithmetic) else None,
    )


def _verdict(metric: Metric, judgement: _Judgement, tolerance: float) -> Verdict:
    effect, alpha = judgement.effect, judgement.policy.alpha
    worsening = effect.change * metric.worse
    worst = effect.ci_high if metric.worse > 0 else -effect.ci_low
    if judgement.p_worse <= alpha and worsening > tolerance:
        return Verdict.REGRESSION
    if judgement.p_better <= alpha and -worsening > tolerance:
        return Verdict.IMPROVEMENT
    return Verdict.NO_CHANGE if worst <= tolerance else Verdict.INCONCLUSIVE


def _with_plan(
    finding: Finding, question: Question, sides: tuple[Sequence[Run], Sequence[Run]], judgement: _Judgement
) -> Finding:
    """Add the minimum detectable change and what would settle an open question."""
    effect, tolerance, confidence = judgement.effect, finding.tolerance or 0.0, judgement.policy.confidence
    open_question = finding.verdict is Verdict.INCONCLUSIVE
    if effect.noise is None:
        before, after = (_failures(finding.service, side) for side in sides)
        rates = effect.arithmetic
        if before is None or after is None or not isinstance(rates, RateArithmetic):
            return finding
        numbers = (*rates.requests, tolerance / 100, rates.overdispersion, rates.df, judgement.level)
        smallest = 100.0 * min_detectable_rate(before.rate, RateDesign(*numbers))
        needed = requests_needed(before, after, tolerance / 100, judgement.level, confidence) if open_question else None
        more = _runs_for(needed, finding, sides)
        finding = replace(finding, requests_needed=needed, runs_needed=more)
    else:
        design = Design(len(sides[0]), len(sides[1]), judgement.level, df_per_run=1 if paired(*sides) else 2)
        shift = question.metric.worse * math.log1p(effect.change / 100)
        bound = log_worsening(question.metric, tolerance)
        smallest = percent_worsening(question.metric, min_detectable_log(effect.noise, design, tolerance=bound))
        more = runs_needed(effect.noise, design, shift, bound, confidence) if open_question else None
        finding = replace(finding, runs_needed=more)
    return replace(finding, min_detectable=smallest if math.isfinite(smallest) else None)


def log_worsening(metric: Metric, percent: float) -> float:
    """A worsening in percent of the baseline as a positive shift on the log scale."""
    return math.log1p(percent / 100) if metric.worse > 0 else -math.log1p(-min(percent, 99.9) / 100)


def percent_worsening(metric: Metric, shift: float) -> float:
    """The inverse of `log_worsening`; infinite beyond `BEYOND_SIZE`."""
    if shift > BEYOND_SIZE:
        return math.inf
    return 100.0 * math.expm1(shift) if metric.worse > 0 else -100.0 * math.expm1(-shift)


def _runs_for(requests: int | None, finding: Finding, sides: tuple[Sequence[Run], Sequence[Run]]) -> int | None:
    """Further runs of the present length that bring the poorer side to that many requests."""
    if requests is None:
        return None
    more = 1
    for runs in sides:
        total = sum(run.services[finding.service].count or 0 for run in runs)
        more = max(more, math.ceil((requests - total) / (total / len(runs))))
    return more


def _capped(sides: Comparability, runs: Sequence[Run], services: Sequence[str]) -> dict[str, str]:
    """Why a service's latency may not be judged; the whole run's, when such services carry much of its load."""
    reasons = dict(sides.capped)
    if NAME in services and reasons:
        share = sum(run.services[name].count or 0 for run in runs for name in reasons if name in run.services)
        if share > SHARE_DIFFERS * sum(run.services[NAME].count or 0 for run in runs):
            reasons[NAME] = next(iter(reasons.values()))
    return reasons


def _cap(finding: Finding, reason: str | None) -> Finding:
    if reason is None or finding.metric == Metric.ERROR_RATE:
        return finding
    return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=None, warnings=(*finding.warnings, reason))


def _of_the_mix(finding: Finding, coverage: Coverage) -> Finding:
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


def _unanswered(question: Question, baseline: Sequence[Run], candidate: Sequence[Run]) -> Finding:
    """A gating metric that a run cannot tell: shown as unknown, so that silence never passes for health."""
    missing = [
        title
        for title, values in (("baseline", question.baseline), ("candidate", question.candidate))
        if any(value is None for value in values)
    ]
    reasons = [
        warning
        for run in (*baseline, *candidate)
        for warning in run.services[question.service].warnings
        if warning.startswith(question.metric.title)
    ]
    where = " and ".join(missing) or "baseline or candidate"
    what = f"not known for every run of the {where}"
    if any(_too_few(question.metric, run.services[question.service]) for run in (*baseline, *candidate)):
        what = f"a run holds fewer than {FEWEST} requests of this service"
    texts = dict.fromkeys((what, *reasons))
    return replace(blank(question, None, None), warnings=tuple(texts))


def _level(question: Question, runs: Sequence[Run], side: str) -> float:
    """One side's value: pooled for the error rate where counts are known, else the geometric mean over runs."""
    values = np.array(getattr(question, side), dtype=float)
    if question.metric is Metric.ERROR_RATE:
        failures = _failures(question.service, runs)
        return 100.0 * failures.rate if failures is not None else float(values.mean())
    if (values <= 0).any():
        return float(values.mean())
    return float(np.exp(np.log(values).mean()))


def _failures(service: str, runs: Sequence[Run]) -> Failures | None:
    stats = [run.services[service] for run in runs]
    if any(item.count is None or item.failures is None or item.failures > item.count for item in stats):
        return None
    failures = Failures(np.array([s.failures for s in stats], float), np.array([s.count for s in stats], float))
    return failures if failures.counts.sum() else None
