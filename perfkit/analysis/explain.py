"""The arithmetic of one verdict, step by step, so that a sceptic can redo it by hand.  It is read, not computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from perfkit.model.arithmetic import Arithmetic, LevelArithmetic, RateArithmetic
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.records import SHORT_NAMES, Comparison, Finding, Metric, Verdict


def explain(comparison: Comparison, service: str, metric: str) -> str:
    """Every number between the run values and the verdict, in the order in which it was computed.

    Of a metric with an absolute limit too, both judgements, one after the other.

    Raises
    ------
    SettingsError
        There is no such finding; names the nearest.  Or the result was written before findings kept their arithmetic.
    """
    findings = _findings(comparison, service, metric)
    return "\n".join("\n".join(_lines(finding, comparison.confidence)) + "\n" for finding in findings)


def _findings(comparison: Comparison, service: str, metric: str) -> list[Finding]:
    of_service = [finding for finding in comparison.findings if service in (finding.label, finding.service)]
    if not of_service:
        labels = list(dict.fromkeys(finding.label for finding in comparison.findings))
        raise SettingsError(f"{service!r}: not compared{did_you_mean(service, labels)}; known are {labels}")
    metrics = list(dict.fromkeys(finding.metric for finding in of_service))
    asked = SHORT_NAMES.get(metric.lower(), metric)
    if asked not in metrics:
        near = did_you_mean(metric.lower(), (*metrics, *SHORT_NAMES))
        raise SettingsError(f"{service}: {metric!r} is not judged{near}; judged are {', '.join(metrics)}")
    return [finding for finding in of_service if finding.metric == asked]


def _lines(finding: Finding, confidence: float) -> Iterator[str]:
    metric, numbers = Metric(finding.metric), finding.arithmetic
    yield f"{finding.label}, {metric.title} ({finding.metric}){', absolute limit' if finding.objective else ''}"
    yield ""
    if numbers is None:
        raise SettingsError(
            f"{finding.label}, {finding.metric}: this result does not hold its arithmetic, an older perfkit wrote it;"
            " compare the runs again"
        )
    yield _values("limit" if finding.objective else "baseline", numbers.baseline or (finding.baseline,), finding.unit)
    yield _values("candidate", numbers.candidate, finding.unit)
    if numbers.alpha is None:
        yield f"change     {finding.change:+.4g} {finding.change_unit}, limit {finding.limit}: {finding.verdict}"
        return
    complete = None not in (finding.p_value, finding.p_adjusted, finding.change, finding.ci_low, finding.ci_high)
    if numbers.levels is not None and complete:
        yield from _levels(finding, numbers.levels, numbers.paired, confidence)
    elif numbers.rates is not None and complete:
        yield from _rates(finding, numbers.rates, confidence)
    else:
        yield f"nothing can be computed: {'; '.join(finding.warnings) or 'a value is missing'}"
        return
    yield from _verdict(finding, numbers, numbers.alpha)


def _values(title: str, values: Sequence[float | None], unit: str) -> str:
    shown = ", ".join("unknown" if value is None else f"{value:.6g}" for value in values)
    return f"{title + ':':<11}{shown} {unit}"


def _step(title: str, text: str) -> str:
    return f"  {title:<28}{text}"


def _levels(finding: Finding, of: LevelArithmetic, paired: bool, confidence: float) -> Iterator[str]:
    yield ""
    yield "on the scale of natural logarithms (df: degrees of freedom)"
    first = "limit and mean" if finding.objective else "means"
    yield _step(first, f"{of.means[0]:.6f} and {of.means[1]:.6f}, difference d = {of.shift:+.6f}")
    if paired:
        yield _step("pairs", "the scatter is that of the pairs' differences, divided by sqrt(2) to be that of one run")
    yield _step("error within a run", f"{of.within_sd:.6f} ({'measured' if of.measured else 'assumed'})")
    yield _step(
        "prior s0", f"{of.prior_sd:.6f}, {of.prior_df:g} df: the error within a run, and what is usual beyond it"
    )
    squares = " + ".join(f"{part:.6e}" for part in of.squares) or "0"
    yield _step("scatter of the pairs" if paired else "scatter of the runs", f"SS = {squares}, {of.squares_df:g} df")
    if of.history_df:
        yield _step("scatter of the history", f"SS = {of.history_squares:.6e}, {of.history_df:.1f} df")
    yield _step("weight of the prior", f"d0 = {of.weight:.3f} (less than {of.prior_df:g} where the runs contradict it)")
    of_scatter = of.squares_df + of.history_df
    yield _step(
        "run-to-run deviation", f"s = sqrt((d0 s0^2 + SS) / (d0 + {of_scatter:g})) = {of.sd:.6f}, {of.df:.3f} df"
    )
    if of.floor_sd >= of.sd:
        yield _step("rounding of the source", f"s is not below {of.floor_sd:.6f}, which is used")
    root = " + ".join(f"1/{n}" for n in of.runs)
    yield _step("error of the difference", f"e = s sqrt({root}) = {of.error:.6f}")
    low, high = of.shift - of.quantile * of.error, of.shift + of.quantile * of.error
    yield _step(f"{confidence * 100:g} % interval", f"d -+ {of.quantile:.4f} e = {low:+.6f} to {high:+.6f}")
    against = " of the limit" if finding.objective else ""
    yield _step(
        "in percent", f"{_level_change(finding, of):+.3f} %{against} [{finding.ci_low:+.3f}, {finding.ci_high:+.3f}]"
    )
    side = ' of "beyond the limit"' if finding.objective else ""
    yield _step("test", f"t = d / e = {of.shift / of.error:+.4f}, one-sided p{side} = {finding.p_value:.4g}")


def _level_change(finding: Finding, of: LevelArithmetic) -> float:
    """The change of geometric means; that of a finding whose baseline is zero after rounding is infinite."""
    change = finding.change_pct
    return change if change is not None and math.isfinite(change) else 100.0 * math.expm1(min(of.shift, 700.0))


def _rates(finding: Finding, of: RateArithmetic, confidence: float) -> Iterator[str]:
    yield ""
    titles = ("candidate",) if finding.objective else ("baseline", "candidate")
    for title, failed, requests in zip(titles, of.failed, of.requests, strict=True):
        share = 100 * failed / requests if requests else math.nan
        yield f"  {title + ':':<28}{failed} of {requests} requests failed = {share:.4f} %"
    yield _step("overdispersion", f"{of.overdispersion:.4f} with {of.df:g} df")
    how = "Newcombe's hybrid of Wilson's intervals" if of.limit is None else "Wilson"
    interval = f"{finding.change_abs:+.4f} pp [{finding.ci_low:+.4f}, {finding.ci_high:+.4f}]"
    title = "difference" if of.limit is None else "from the limit"
    yield _step(title, f"{interval}, {confidence * 100:g} %, t = {of.quantile:.4f} ({how})")
    tail = "hypergeometric" if of.limit is None else f"binomial at {100 * of.limit:g} %"
    yield _step("test", f"{tail}, mid-p, its normal score / sqrt(overdispersion) as t: p = {finding.p_value:.4g}")


def _verdict(finding: Finding, numbers: Arithmetic, alpha: float) -> Iterator[str]:
    metric = Metric(finding.metric)
    share = numbers.share if numbers.share is not None else math.nan
    yield ""
    yield "verdict"
    yield _step("alarm budget", f"{alpha:.4g} over {numbers.tests} judgements; {100 * share:.3g} % of it for this one")
    yield _step("p, corrected (Holm)", f"{finding.p_adjusted:.4g}")
    worst = finding.ci_high if metric.worse > 0 else -(finding.ci_low or 0.0)
    worsening = (finding.change or 0.0) * metric.worse
    tolerance = finding.tolerance if finding.tolerance is not None else math.nan
    if finding.objective:
        yield _step("limit", finding.limit)
        yield _step("regression?", f"corrected p <= {alpha:.4g}")
        yield _step("no regression?", f"bad side of the interval {worst:+.3f} <= 0")
    else:
        yield _step("tolerance", finding.limit)
        yield _step("regression?", f"corrected p <= {alpha:.4g} and worsening {worsening:+.3f} > {tolerance:g}")
        yield _step("no regression?", f"bad side of the interval {worst:+.3f} <= {tolerance:g}")
    if numbers.verdict != finding.verdict:
        yield _step("by these numbers", _word(numbers.verdict))
    yield f"  -> {_word(finding.verdict.value)}"
    for warning in finding.warnings:
        yield f"  ! {warning}"


def _word(verdict: str) -> str:
    return "no regression" if verdict == Verdict.NO_CHANGE else verdict
