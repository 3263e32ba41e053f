"""The rule ``evidence``: effect, interval and p of every metric, corrected over all of them, against its tolerance.

What is asked: every service x metric that a policy holds to a limit, and the finding that answers it.

Many services at once: the run as a whole, as one more service.

Sixty endpoints share one alarm budget, and each has few requests.  What all of them have in common (another server,
another runtime) shows in their mean long before it shows in any of them.

How the alarm budget is shared out over everything that can turn a comparison red.

By weight over metrics, alike over services, half of it for the whole run; absolute limits together have a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfkit.analysis.comparability import SHARE_DIFFERS, Comparability
from perfkit.analysis.coverage import MOST_NAMED, Coverage, measured, percent
from perfkit.analysis.noise_profile import NoiseProfile, level_values, paired
from perfkit.config.policy import Limit, Policy
from perfkit.model.arithmetic import Arithmetic, LevelArithmetic, RateArithmetic
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS, Finding, Gap, Metric, Run, Scope, ServiceStats, Verdict
from perfkit.stats.effect import Effect, Failures, compare_error_rates, compare_levels, weighted_holm
from perfkit.stats.noise import PRIOR_SD
from perfkit.stats.power import (
    Design,
    RateDesign,
    min_detectable_log,
    min_detectable_rate,
    requests_needed,
    runs_needed,
)


@dataclass(frozen=True, slots=True)
class Question:
    """One service x metric: the limit it is held to and the values of the runs."""

    service: str
    metric: Metric
    limit: Limit
    gating: bool
    baseline: tuple[float | None, ...]
    candidate: tuple[float | None, ...]
    scope: Scope = Scope.SERVICE


def questions(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str], policy: Policy
) -> list[Question]:
    """Every metric of the services that the policy holds to a limit, in the order of services and metrics.

    A service that some runs lack is judged by those that have it; of its throughput those would tell too much.
    """
    found = []
    for service in services:
        having = measured(service, baseline), measured(service, candidate)
        is_partial = len(having[0]) + len(having[1]) < len(baseline) + len(candidate)
        for metric in Metric:
            limit = policy.limit(service, metric)
            if limit is None or (is_partial and metric is Metric.RPS):
                continue
            sides = [tuple(run.services[service].value(metric) for run in runs) for runs in having]
            found.append(Question(service, metric, limit, metric.value in policy.gating, sides[0], sides[1]))
    return found


def unstated(asked: Sequence[Question], policy: Policy) -> Iterator[tuple[str, Gap | None]]:
    """Limited metrics that a side, or some of its runs, cannot tell, and the gap where that keeps from a green verdict.

    One sentence for each metric and side.  By evidence only gating metrics must be shown unharmed, and those have a
    finding that says so.  Where neither side knows a metric it is missing only if the policy asks for it by name.
    """
    groups: dict[tuple[Metric, str], list[str]] = {}
    for question in asked:
        known = [[value is not None for value in side] for side in (question.baseline, question.candidate)]
        if all(map(all, known)) or (policy.rule == "evidence" and question.gating):
            continue
        lacking = [title for title, side in zip(("baseline", "candidate"), known, strict=True) if not all(side)]
        where = " and ".join(
            f"the {title}" if not any(side) else f"{side.count(False)} of {len(side)} runs of the {title}"
            for title, side in zip(("baseline", "candidate"), known, strict=True)
            if title in lacking
        )
        if any(map(any, known)) or policy.names_limit(question.service, question.metric):
            groups.setdefault((question.metric, where), []).append(question.service)
    for (metric, where), services in groups.items():
        names = ", ".join(services[:MOST_NAMED]) + (
            f" and {len(services) - MOST_NAMED} more" if len(services) > MOST_NAMED else ""
        )
        partly = policy.rule == "threshold" and " of " in where
        judged = "judged by the runs that know it" if partly else "not judged"
        text = f"{metric.title[0].upper()}{metric.title[1:]} is not known in {where}, so it is {judged}: {names}."
        advice = f"Measure {metric.title} on both sides, or switch its limit off in the policy."
        yield text, Gap(text, advice) if policy.rule == "threshold" else None


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
        scope=question.scope,
    )


def _percent(before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    if before == 0:
        return 0.0 if after == 0 else math.inf
    return 100.0 * (after - before) / before


MANY = 8  # services from which on the run as a whole is judged too
SHARE = 0.5  # of the alarm budget, for the run as a whole
KNOWN = 0.5  # share of the requests whose services must tell a metric
# Times `PRIOR_SD`: what the services of one run have in common does not average out over them.  Chosen on seven repeats
# of one real build (25 services, mean latency 63 to 70 ms): without it 5 of 42 pairs were called, with it none.
SHARED_NOISE = 1.2


def with_whole(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str]
) -> tuple[list[Run], list[Run], tuple[str, ...]]:
    """Both sides with the service `ALL_SERVICES` added, and the names to judge; as they were where services are few.

    The whole is that of the services which all runs have.

    A latency of the whole is the geometric mean over services, weighted by their share of the requests of all runs: a
    change in the mix of requests does not move it, and a factor common to all services moves it by that factor.
    """
    asked, both = tuple(services), [*baseline, *candidate]
    services = [name for name in services if len(measured(name, both)) == len(both)]
    every = [run.services[name] for run in both for name in services]
    if len(services) < MANY or ALL_SERVICES in services or any(not stats.count for stats in every):
        return list(baseline), list(candidate), asked
    counts = {name: sum(run.services[name].count or 0 for run in both) for name in services}
    known = {
        metric: [n for n in services if all(run.services[n].value(metric) for run in both)]
        for metric in LATENCY_METRICS
    }
    sides = [
        [replace(run, services={**run.services, ALL_SERVICES: _whole(run, counts, known)}) for run in side]
        for side in (baseline, candidate)
    ]
    return sides[0], sides[1], (ALL_SERVICES, *asked)


def _whole(run: Run, counts: dict[str, int], known: dict[Metric, list[str]]) -> ServiceStats:
    every = [run.services[name] for name in counts]
    latencies = {
        metric: _latency(metric, [run.services[name] for name in names], [counts[name] for name in names])
        for metric, names in known.items()
        if sum(counts[name] for name in names) >= KNOWN * sum(counts.values())
    }
    rate, rate_error = _rate(every)
    errors = {metric.value: error for metric, (_, error) in latencies.items() if math.isfinite(error)}
    if math.isfinite(rate_error):
        errors[Metric.RPS.value] = rate_error
    total = sum(item.count or 0 for item in every)
    failures = None if any(item.failures is None for item in every) else sum(item.failures or 0 for item in every)
    whole = ServiceStats(
        count=total,
        failures=failures,
        error_rate_pct=100.0 * failures / total if failures is not None else None,
        rps=rate,
        standard_errors=errors,
        assumed=tuple(metric.value for metric in Metric if any(metric in item.assumed for item in every)),
    )
    levels: dict[str, Any] = {metric.value: value for metric, (value, _) in latencies.items()}
    return replace(whole, **levels)


def _latency(metric: Metric, stats: Sequence[ServiceStats], counts: Sequence[int]) -> tuple[float, float]:
    """Weighted geometric mean and its standard error, what the services share included; ``nan`` when unknown."""
    weights = np.array(counts, float) / sum(counts)
    values = np.array([item.value(metric) for item in stats], float)
    relative = np.array([item.standard_error(metric) or math.nan for item in stats]) / values
    mean = float(np.exp(weights @ np.log(values)))
    return mean, mean * float(np.sqrt(((weights * relative) ** 2).sum() + (SHARED_NOISE * PRIOR_SD[metric]) ** 2))


def _rate(stats: Sequence[ServiceStats]) -> tuple[float | None, float]:
    """Sum of the rates and its standard error; ``None`` and ``nan`` when unknown."""
    rates = [item.rps for item in stats if item.rps is not None]
    if len(rates) < len(stats):
        return None, math.nan
    total = math.fsum(rates)
    own = (math.nan if (error := item.standard_error(Metric.RPS)) is None else error for item in stats)
    return total, math.hypot(*own, SHARED_NOISE * PRIOR_SD[Metric.RPS] * total)


# The metrics of one service move together, so most weight goes to the most exact one (measured: an even split found
# +5 % in 2 % of trials, this one in 85 %, five runs against three).
WEIGHTS = {
    Metric.AVG: 0.60,
    Metric.P95: 0.10,
    Metric.P50: 0.06,
    Metric.P99: 0.08,
    Metric.ERROR_RATE: 0.07,
    Metric.RPS: 0.06,
    Metric.P999: 0.03,
}
# Of all absolute limits together: the comparison hardly notices it, and a limit that is broken for good is broken by
# many standard errors.  test_calibration.py has what both sides then find.
OBJECTIVES_SHARE = 0.2


def shares(asked: Sequence[tuple[str, Metric]]) -> list[float]:
    """Share of the budget of each question (service, metric); they sum to one.

    >>> [round(share, 2) for share in shares([("a", Metric.AVG), ("a", Metric.P95), ("b", Metric.AVG)])]
    [0.46, 0.08, 0.46]
    """
    services = len({service for service, _ in asked} - {ALL_SERVICES})
    whole = services * SHARE / (1.0 - SHARE) if services else 1.0
    weights = [WEIGHTS[metric] * (whole if service == ALL_SERVICES else 1.0) for service, metric in asked]
    total = sum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True, slots=True)
class Budget:
    """The alarm budget of one comparison.

    ``shares`` are the parts of ``alpha`` of the findings and ``limit_shares`` those of the absolute limits, together
    one; ``adjusted`` and ``limits_adjusted`` the one-sided p of a worsening, corrected over all of both.
    """

    alpha: float
    shares: tuple[float, ...]
    limit_shares: tuple[float, ...]
    adjusted: tuple[float, ...]
    limits_adjusted: tuple[float, ...]

    @property
    def tests(self) -> int:
        """How many judgements share the budget."""
        return len(self.shares) + len(self.limit_shares)


def allocate(alpha: float, worse: Mapping[tuple[str, Metric], float], broken: Sequence[float]) -> Budget:
    """Share ``alpha`` out, and correct the p-values: of each finding getting worse, of each absolute limit broken."""
    of_limits = (OBJECTIVES_SHARE if worse else 1.0) if broken else 0.0
    findings = tuple((1.0 - of_limits) * share for share in shares(list(worse)))
    limits = (of_limits / len(broken),) * len(broken) if broken else ()
    every: dict[object, float] = dict(enumerate((*worse.values(), *broken)))
    weights: dict[object, float] = dict(enumerate((*findings, *limits)))
    adjusted = weighted_holm(every, weights)
    values = tuple(adjusted[number] for number in every)
    return Budget(alpha, findings, limits, values[: len(findings)], values[len(findings) :])


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
    if services is not sides.services:  # the first is the run as a whole
        asked = [replace(one, scope=Scope.RUN) if one.service == services[0] else one for one in asked]
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
    if ALL_SERVICES in services and reasons:
        share = sum(run.services[name].count or 0 for run in runs for name in reasons if name in run.services)
        if share > SHARE_DIFFERS * sum(run.services[ALL_SERVICES].count or 0 for run in runs):
            reasons[ALL_SERVICES] = next(iter(reasons.values()))
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
