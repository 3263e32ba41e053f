"""Numbers that contradict each other: in a service, a run, a finding or a whole comparison.

Every run that is read goes through `run_contradiction`, every result file through `comparison_contradiction`.  Rounding
by a source is no contradiction; the constants say how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise

from perfkit.model.arithmetic import Arithmetic, LevelArithmetic, RateArithmetic
from perfkit.model.records import LATENCY_METRICS, Comparison, Finding, Metric, ServiceStats, Verdict, overall_verdict

DAY_MS = 86_400_000.0
ROUNDED_RATE_PCT = 0.051  # tenths of a percent
ROUNDED_LATENCY = 1.1  # Locust's percentiles are rounded, its averages are not
ROUNDED_RPS = 0.05  # what is shown as 0.0
FEW_REQUESTS = 10  # have a rate that rounds to 0 in runs of a few minutes
ABSURD = 1000.0  # times: warm-up, bursts and services with lengths of their own explain less
CLOSE = 1e-6  # relative; result files hold numbers in full
ACKNOWLEDGED = "acknowledged"  # the limit of a finding whose tolerance an acknowledgement has moved


def stats_contradiction(stats: ServiceStats, duration_s: float | None = None) -> str | None:
    """The first contradiction among the numbers of one service; ``None`` where there is none."""
    return next(_stats_contradictions(stats, duration_s), None)


def run_contradiction(services: Mapping[str, ServiceStats], duration_s: float | None = None) -> str | None:
    """The first contradiction among the numbers of a run; ``None`` where there is none."""
    for name, stats in services.items():
        if (text := stats_contradiction(stats, duration_s)) is not None:
            return f"{name}: {text}"
    if duration_s is None:
        return None
    if not 0 < duration_s < math.inf:
        return f"duration_s: must be > 0, got {duration_s!r}"
    measured = [stats for stats in services.values() if stats.count and stats.rps]
    count, rps = sum(stats.count or 0 for stats in measured), sum(stats.rps or 0.0 for stats in measured)
    if count <= FEW_REQUESTS or 1 / ABSURD <= count / rps / duration_s <= ABSURD:
        return None
    return f"duration_s is {duration_s:g}, and {count:,} requests at {rps:g} rps take {count / rps:.3g} s"


def _stats_contradictions(stats: ServiceStats, duration_s: float | None) -> Iterator[str]:
    count, failures, rate, rps = stats.count, stats.failures, stats.error_rate_pct, stats.rps
    if count is not None and failures is not None and failures > count:
        yield f"{failures} failures of {count} requests"
    if rate is not None and rate > 100.0:
        yield f"error_rate_pct: must be <= 100, got {rate!r}"
    if rate is not None and count and failures is not None:
        rounded = ROUNDED_RATE_PCT + 50.0 / count  # failures are whole, and may be made of the rate
        if abs(rate - 100.0 * failures / count) > rounded:
            yield f"error_rate_pct is {rate:g}, and {failures} of {count} requests failed"
    if count == 0:
        measured = [metric for metric in (*LATENCY_METRICS, Metric.RPS) if stats.value(metric)]
        if measured:
            yield f"{measured[0].value} is {stats.value(measured[0]):g}, and there was no request"
    if count and rps == 0:
        shown = max(ROUNDED_RPS, stats.resolutions.get(Metric.RPS, 0.0))
        if count / duration_s > shown if duration_s else count > FEW_REQUESTS:
            yield f"rps is 0, and there were {count} requests"
    values = {metric: value for metric in LATENCY_METRICS if (value := stats.value(metric)) is not None}
    for metric, value in values.items():
        if value > DAY_MS:
            yield f"{metric.value}: must be <= {DAY_MS:,.0f} ms, a day, got {value!r}"
    rising = [(metric, value) for metric, value in values.items() if metric.quantile is not None]
    for (low, before), (high, after) in pairwise(rising):
        if after < before:
            yield f"{high.value} is {after:g} and {low.value} is {before:g}: percentiles rise"
    average = values.get(Metric.AVG)
    for metric, value in rising:
        # as large a share as lies beyond the percentile takes as long at least, and the average with it
        if average is not None and average * ROUNDED_LATENCY < (1.0 - (metric.quantile or 0.0)) * value:
            yield f"{Metric.AVG.value} is {average:g}, too little for {metric.value} {value:g}"


def comparison_contradiction(comparison: Comparison) -> str | None:
    """The first contradiction between a comparison's verdict, its findings and their numbers."""
    return next(chain(_verdict_contradictions(comparison), _finding_contradictions(comparison)), None)


def _finding_contradictions(comparison: Comparison) -> Iterator[str]:
    for number, finding in enumerate(comparison.findings):
        place = f"findings.{number}: {finding.label} {finding.metric}"
        for text in chain(_effect_contradictions(finding), _judgement_contradictions(finding, comparison)):
            yield f"{place}: {text}"


def _verdict_contradictions(comparison: Comparison) -> Iterator[str]:
    verdict, findings, history = comparison.verdict, comparison.findings, comparison.history
    verdicts = {finding.verdict for finding in findings}
    if verdict is Verdict.INVALID:
        if comparison.comparable:
            yield "verdict: is invalid, and the runs are comparable"
        if judged := verdicts - {Verdict.INVALID}:
            yield f"verdict: is invalid, and a finding is {min(judged).value}"
        return
    if not comparison.comparable:
        yield f"verdict: is {verdict.value}, and the runs are not comparable"
    if not findings and verdict is not Verdict.REGRESSION:
        yield f"verdict: is {verdict.value}, and there is no finding"
    if Verdict.INVALID in verdicts:
        yield f"verdict: is {verdict.value}, and a finding is invalid"
    if verdict is Verdict.REGRESSION and verdict not in verdicts and history is None:
        yield "verdict: is regression, and no finding is one"
    if verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
        for gap in comparison.gaps:
            yield f"verdict: is {verdict.value}, and something is missing: {gap.text}"
        for finding in comparison.by_verdict(Verdict.REGRESSION):
            yield f"verdict: is {verdict.value}, and {finding.label} {finding.metric} a regression"
    of_findings = overall_verdict(findings, comparison.rule, comparison.gaps)
    possible = {of_findings}
    if history is not None:
        if history.news:
            possible = {Verdict.REGRESSION}
        elif of_findings in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
            possible.add(Verdict.INCONCLUSIVE)  # while a worsening is open that is not confirmed
    if verdict not in possible:
        because = "its history is news" if history and history.news else f"its findings come to {of_findings.value}"
        yield f"verdict: is {verdict.value}, and {because}"


def _differ(first: float, second: float, scale: float = 0.0) -> bool:
    return not (first == second or abs(first - second) <= CLOSE * (abs(first) + abs(second) + scale) + 1e-9)


def _effect_contradictions(finding: Finding) -> Iterator[str]:
    """Sizes, interval and p of a finding against each other."""
    before, after, change = finding.baseline, finding.candidate, finding.change
    if before is not None and after is not None:
        if finding.change_abs is None or _differ(finding.change_abs, after - before, abs(before) + abs(after)):
            yield f"change_abs is {finding.change_abs}, from {before:g} to {after:g}"
        percent = 100.0 * (after - before) / before if before else math.inf if after else 0.0
        if finding.change_pct is None or _differ(finding.change_pct, percent, 100.0):
            yield f"change_pct is {finding.change_pct}, from {before:g} to {after:g}"
    low, high = finding.ci_low, finding.ci_high
    if (low is None) != (high is None):
        yield "ci_low and ci_high: one is missing"
    paired = finding.arithmetic is not None and finding.arithmetic.paired  # of the runs that have a partner
    if low is not None and high is not None and change is not None and math.isfinite(change) and not paired:
        slack = CLOSE * (100.0 + abs(change))
        if not low - slack <= change <= high + slack:
            yield f"the change of {change:g} lies outside of its interval, {low:g} to {high:g}"
    p_value, adjusted = finding.p_value, finding.p_adjusted
    if p_value is not None and adjusted is not None and adjusted < p_value * (1.0 - CLOSE):
        yield f"p_adjusted is {adjusted:g}, less than p_value {p_value:g}"


def _judgement_contradictions(finding: Finding, comparison: Comparison) -> Iterator[str]:
    """A finding's verdict against the numbers that it was computed from."""
    arithmetic, verdict = finding.arithmetic, finding.verdict
    if verdict is Verdict.INVALID:
        return
    acknowledged = finding.limit == ACKNOWLEDGED
    if arithmetic is not None:
        yield from _arithmetic_contradictions(finding, arithmetic)
        if arithmetic.alpha is not None and _differ(arithmetic.alpha, comparison.alpha):
            yield f"arithmetic.alpha is {arithmetic.alpha:g}, that of the comparison {comparison.alpha:g}"
        shown = _judged(finding, comparison.rule, arithmetic.alpha)
        if shown is not None and arithmetic.verdict != shown and not acknowledged:
            yield f"arithmetic.verdict is {arithmetic.verdict}, and its numbers say {shown.value}"
        computed: str | None = arithmetic.verdict
    else:
        shown = None if finding.objective or acknowledged else _judged(finding, comparison.rule, comparison.alpha)
        computed = shown.value if shown is not None else None
    if computed is None or verdict.value == computed:
        return
    claims_nothing = all(other.verdict is Verdict.INCONCLUSIVE for other in comparison.findings)
    withdrawn = verdict is Verdict.INCONCLUSIVE and (finding.warnings or claims_nothing)
    if not withdrawn and not (acknowledged and verdict is Verdict.NO_CHANGE):
        yield f"verdict: is {verdict.value}, and its numbers say {computed}"


def _judged(finding: Finding, rule: str, alpha: float | None) -> Verdict | None:
    """What a finding's own numbers come to; ``None`` where they cannot tell, or lie on the edge."""
    change, tolerance, worse = finding.change, finding.tolerance, Metric(finding.metric).worse
    if change is None or tolerance is None:
        return None
    worsening = change * worse
    slack = CLOSE * (100.0 + abs(tolerance))
    if rule == "threshold" and not finding.objective:
        on_edge = abs(worsening - tolerance) <= slack
        return None if on_edge else Verdict.REGRESSION if worsening > tolerance else Verdict.NO_CHANGE
    if alpha is None or finding.p_adjusted is None or finding.ci_low is None or finding.ci_high is None:
        return None
    worst = finding.ci_high if worse > 0 else -finding.ci_low
    if abs(finding.p_adjusted - alpha) <= CLOSE * alpha or abs(worst - tolerance) <= slack:
        return None
    if not finding.objective and abs(abs(worsening) - tolerance) <= slack:
        return None
    significant = finding.p_adjusted <= alpha
    if significant and (finding.objective or worsening > tolerance):
        return Verdict.REGRESSION
    if significant and -worsening > tolerance:
        return Verdict.IMPROVEMENT
    return Verdict.NO_CHANGE if worst <= tolerance else Verdict.INCONCLUSIVE


def _arithmetic_contradictions(finding: Finding, arithmetic: Arithmetic) -> Iterator[str]:
    """The steps of a judgement against each other, and against what the finding says of them."""
    if isinstance(arithmetic.levels, LevelArithmetic):
        yield from _level_contradictions(finding, arithmetic.levels, arithmetic.paired)
        sides = (("baseline", arithmetic.baseline), ("candidate", arithmetic.candidate))
        for (name, side), mean in zip(sides, arithmetic.levels.means, strict=True):
            values = [value for value in side if value is not None]
            if any(value <= 0 for value in values):
                yield f"arithmetic.{name}: must be > 0"
            elif values and _differ(sum(map(math.log, values)) / len(values), mean, 1.0):
                yield f"arithmetic.{name} and arithmetic.levels.means: another mean"
    if isinstance(arithmetic.rates, RateArithmetic):
        rates = arithmetic.rates
        levels = (finding.baseline, finding.candidate)[-len(rates.requests) :]
        for failed, requests, value in zip(rates.failed, rates.requests, levels, strict=False):
            if failed > requests or not requests:
                yield f"arithmetic.rates: {failed} failures of {requests} requests"
            elif value is not None and _differ(value, 100.0 * failed / requests):
                yield f"an error rate is {value:g}, and {failed} of {requests} requests failed"


def _level_contradictions(finding: Finding, levels: LevelArithmetic, paired: bool) -> Iterator[str]:
    shift = levels.means[1] - levels.means[0]
    if _differ(levels.shift, shift, 1.0):
        yield f"arithmetic.levels.shift is {levels.shift:g}, between means that are {shift:g} apart"
    for name, mean, value in zip(
        ("baseline", "candidate"), levels.means, (finding.baseline, finding.candidate), strict=True
    ):
        if value is not None and not paired and (value <= 0 or _differ(math.log(value), mean, 1.0)):
            yield f"{name} is {value:g}, and the mean of its runs another"
    if not all(levels.runs):
        yield "arithmetic.levels.runs: must be > 0"
        return
    error = levels.sd * math.sqrt(sum(1.0 / count for count in levels.runs))
    if _differ(levels.error, error):
        yield f"arithmetic.levels.error is {levels.error:g}, and its runs make it {error:g}"
    squares = levels.weight * levels.prior_sd**2 + sum(levels.squares) + levels.history_squares
    if levels.df > 0 and _differ(levels.sd, max(math.sqrt(squares / levels.df), levels.floor_sd)):
        yield f"arithmetic.levels.sd is {levels.sd:g}, and its squares make it another"
    half = levels.quantile * levels.error
    for name, end, log in (("ci_low", finding.ci_low, shift - half), ("ci_high", finding.ci_high, shift + half)):
        bound = 100.0 * math.expm1(log) if log < 700.0 else math.inf
        if end is not None and _differ(end, bound, 100.0):
            yield f"{name} is {end:g}, and its arithmetic makes it {bound:g}"
