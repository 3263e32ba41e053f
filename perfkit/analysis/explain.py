"""The arithmetic of one verdict, step by step, so that a sceptic can redo it by hand.

Every number is read from the finding and its `Arithmetic`; nothing is judged or computed here.
"""

from __future__ import annotations

from calendar import day_abbr
from collections.abc import Iterator

from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.records import (
    SHORT_NAMES,
    Arithmetic,
    Comparison,
    Finding,
    LevelArithmetic,
    Metric,
    RateArithmetic,
    Verdict,
)


def explain(comparison: Comparison, service: str, metric: str) -> str:
    """Every number between the run values and the verdict, in the order in which it was computed.

    Of a metric with an absolute limit too, both judgements, one after the other; of a service in stages of load, those
    of each stage, unless ``service`` is the label of one.  ``SettingsError``: there is no such finding; names the
    nearest.  Or the result was written before findings kept their arithmetic.
    """
    of_service = [finding for finding in comparison.findings if service in (finding.label, finding.service)]
    if not of_service:
        labels = list(dict.fromkeys(finding.label for finding in comparison.findings))
        raise SettingsError(f"{service!r}: not compared{did_you_mean(service, labels)}; known are {labels}")
    metrics = list(dict.fromkeys(finding.metric for finding in of_service))
    name = SHORT_NAMES.get(metric.lower(), metric)
    if name not in metrics:
        near = did_you_mean(metric.lower(), (*metrics, *SHORT_NAMES))
        raise SettingsError(f"{service}: {metric!r} is not judged{near}; judged are {', '.join(metrics)}")
    findings = (finding for finding in of_service if finding.metric == name)
    return "\n".join("\n".join(_steps(finding, comparison)) + "\n" for finding in findings)


def _steps(finding: Finding, comparison: Comparison) -> Iterator[str]:
    confidence = comparison.confidence
    numbers = finding.arithmetic
    yield f"{finding.label}, {finding.title} ({finding.metric}){', absolute limit' if finding.objective else ''}"
    yield ""
    if numbers is None:
        raise SettingsError(
            f"{finding.label}, {finding.metric}: this result does not hold its arithmetic, an older perfkit wrote it;"
            " compare the runs again"
        )
    for title, values in (
        ("limit" if finding.objective else "baseline", numbers.baseline or (finding.baseline,)),
        ("candidate", numbers.candidate or (finding.candidate,)),
    ):
        shown = ", ".join("unknown" if value is None else f"{value:.6g}" for value in values)
        yield f"{title + ':':<11}{shown} {finding.unit}"
    if numbers.alpha is None:
        yield f"change     {finding.change:+.4g} {finding.change_unit}, limit {finding.limit}: {finding.verdict}"
    elif (numbers.levels or numbers.rates) is None or None in (
        *(finding.p_value, finding.p_adjusted, finding.change),
        *(finding.ci_low, finding.ci_high),
    ):
        yield f"nothing can be computed: {'; '.join(finding.warnings) or 'a value is missing'}"
    else:
        yield ""
        if numbers.levels is not None:
            yield from _levels(finding, numbers.levels, numbers.paired, confidence)
        elif numbers.rates is not None and numbers.rates.beyond_ms is not None:
            yield from _tails(finding, numbers.rates, numbers.rates.beyond_ms, confidence)
        elif numbers.rates is not None:
            yield from _rates(finding, numbers.rates, confidence)
        yield ""
        yield from _verdict(finding, numbers)
        gate = comparison.gate
        watched = () if gate is None else (item.share for item in gate.watched if item.service == finding.label)
        if gate is not None and (share := next(iter(watched), None)) is not None:
            text = f"{100 * share:.2g} % of the requests, below {100 * gate.share:g} %"
            if (smallest := finding.min_detectable) is not None:
                text += f"; a worsening below {smallest:.3g} {finding.change_unit} could not have been seen"
            yield f"  ! watched, does not gate: {text}"


def _step(title: str, text: str) -> str:
    return f"  {title:<28}{text}"


def _levels(finding: Finding, of: LevelArithmetic, paired: bool, confidence: float) -> Iterator[str]:
    yield "on the scale of natural logarithms (df: degrees of freedom)"
    first = "limit and mean" if finding.objective else "means"
    yield _step(first, f"{of.means[0]:.6f} and {of.means[1]:.6f}, difference d = {of.shift:+.6f}")
    if of.weekday_error:
        sizes = (f"{day} {100 * (f - 1):+.1f}" for day, f in zip(day_abbr, of.weekday_factors, strict=False) if f != 1)
        what = f"{', '.join(sizes)} %" if of.weekday_factors else "of each service"
        yield _step("weekdays taken out", f"{what}; all values are as on the candidate's weekdays")
    if paired:
        yield _step("pairs", "the scatter is that of the pairs' differences, divided by sqrt(2) to be that of one run")
    yield _step("error within a run", f"{of.within_sd:.6f} ({'measured' if of.measured else 'assumed'})")
    if of.persistence is not None:
        what = "none seen" if of.persistence <= 0 else "the noise grows with the length of time"
        yield _step("slow waves within the runs", f"exponent {of.persistence:+.3f}: {what}")
    beyond = f"what {of.services} services of these runs scatter" if of.services else "what is usual"
    error = "the error within a run"
    if of.prior_level is not None:
        error = f"{of.prior_level:.3g} times what the runs foretell"
    elif of.persistence is not None and of.measured and not of.services:
        error = "what the runs foretell (this result does not record how many times that)"
    yield _step("prior s0", f"{of.prior_sd:.6f}, {of.prior_df:.4g} df: {error}, and {beyond} beyond it")
    squares = " + ".join(f"{part:.6e}" for part in of.squares) or "0"
    yield _step("scatter of the pairs" if paired else "scatter of the runs", f"SS = {squares}, {of.squares_df:g} df")
    if of.history_df:
        yield _step("scatter of the history", f"SS = {of.history_squares:.6e}, {of.history_df:.1f} df")
    yield _step("weight of the prior", f"d0 = {of.weight:.3f} (less than {of.prior_df:g} where the runs contradict it)")
    yield _step(
        "run-to-run deviation", f"s = sqrt((d0 s0^2 + SS) / (d0 + {of.scatter_df:g})) = {of.sd:.6f}, {of.df:.3f} df"
    )
    if of.floor_sd >= of.sd:
        yield _step("rounding of the source", f"s is not below {of.floor_sd:.6f}, which is used")
    parts = [*(f"1/{n}" for n in of.runs), *([f"{of.weekday_error:.4f}"] if of.weekday_error else [])]
    why = ", the last for the error of the weekdays" if of.weekday_error else ""
    yield _step("error of the difference", f"e = s sqrt({' + '.join(parts)}) = {of.error:.6f}{why}")
    low, high = of.interval
    yield _step(f"{confidence * 100:g} % interval", f"d -+ {of.quantile:.4f} e = {low:+.6f} to {high:+.6f}")
    against = " of the limit" if finding.objective else ""
    yield _step("in percent", f"{of.change_pct:+.3f} %{against} [{finding.ci_low:+.3f}, {finding.ci_high:+.3f}]")
    side = ' of "beyond the limit"' if finding.objective else ""
    yield _step("test", f"t = d / e = {of.t:+.4f}, one-sided p{side} = {finding.p_value:.4g}")


def _rates(finding: Finding, of: RateArithmetic, confidence: float) -> Iterator[str]:
    titles = ("candidate",) if finding.objective else ("baseline", "candidate")
    for title, failed, requests, rate in zip(titles, of.failed, of.requests, of.rates_pct, strict=True):
        yield f"  {title + ':':<28}{failed} of {requests} requests failed = {rate:.4f} %"
    yield _step("overdispersion", f"{of.overdispersion:.4f} with {of.df:g} df")
    how = "Newcombe's hybrid of Wilson's intervals" if of.limit is None else "Wilson"
    interval = f"{finding.change_abs:+.4f} pp [{finding.ci_low:+.4f}, {finding.ci_high:+.4f}]"
    title = "difference" if of.limit is None else "from the limit"
    yield _step(title, f"{interval}, {confidence * 100:g} %, t = {of.quantile:.4f} ({how})")
    tail = "hypergeometric" if of.limit is None else f"binomial at {100 * of.limit:g} %"
    yield _step("test", f"{tail}, mid-p, its normal score / sqrt(overdispersion) as t: p = {finding.p_value:.4g}")


def _tails(finding: Finding, of: RateArithmetic, beyond_ms: float, confidence: float) -> Iterator[str]:
    name = Metric(finding.metric).title.removesuffix(" latency")
    yield f"single runs are too short for {name}: it is that of all runs of a side together"
    beyond = "a percentile (this result does not record which)" if of.beyond is None else f"the p{100 * of.beyond:.4g}"
    interval = f"{finding.change:+.3f} % [{finding.ci_low:+.3f}, {finding.ci_high:+.3f}]"
    yield _step("change", f"{interval}, {confidence * 100:g} %, t = {of.quantile:.4f} (Woodruff's intervals, joined)")
    yield _step("slow requests", f"those above {beyond_ms:.6g} ms, {beyond} of both sides together")
    for title, slow, requests, rate in zip(
        ("baseline", "candidate"), of.failed, of.requests, of.rates_pct, strict=True
    ):
        yield f"  {title + ':':<28}{slow} of {requests} requests = {rate:.4f} %"
    yield _step("overdispersion", f"{of.overdispersion:.4f} with {of.df:g} df, of the share of slow requests")
    test = "hypergeometric, mid-p, its normal score / sqrt(overdispersion) as t"
    yield _step("test of that share", f"{test}: p = {finding.p_value:.4g}")


def _verdict(finding: Finding, numbers: Arithmetic) -> Iterator[str]:
    yield "verdict"
    alpha = f"{numbers.alpha:.4g}"
    share = "" if numbers.share is None else f"; {100 * numbers.share:.3g} % of it for this one"
    yield _step("alpha", f"{alpha} over {numbers.tests} judgements{share}")
    yield _step("adjusted p (Holm)", f"{finding.p_adjusted:.4g}")
    # Results of a version that did not keep what the verdict compared say what was compared without the numbers
    worsening = "" if numbers.worsening is None else f" {numbers.worsening:+.3f}"
    bad_side = "" if numbers.bad_side is None else f" {numbers.bad_side:+.3f}"
    tolerance = "unknown" if finding.tolerance is None else f"{finding.tolerance:g}"
    yield _step("limit" if finding.objective else "tolerance", finding.limit)
    beyond = "" if finding.objective else f" and worsening{worsening} > {tolerance}"
    yield _step("regression?", f"adjusted p <= {alpha}{beyond}")
    yield _step("no regression?", f"bad side of the interval{bad_side} <= {tolerance}")
    if numbers.verdict != finding.verdict:
        yield _step("by these numbers", _word(numbers.verdict))
    yield f"  -> {_word(finding.verdict)}"
    for warning in finding.warnings:
        yield f"  ! {warning}"


def _word(verdict: str) -> str:
    return "no regression" if verdict == Verdict.NO_CHANGE else str(verdict)
