"""The arithmetic of one verdict, step by step, so that a sceptic can redo it by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.special import stdtr, stdtrit

from perfkit.coverage import measured
from perfkit.errors import SettingsError, did_you_mean
from perfkit.judge.budget import shares
from perfkit.judge.evidence import effect_of, log_worsening
from perfkit.judge.whole_run import NAME, with_whole
from perfkit.model import Comparison, Finding, Metric, Side
from perfkit.noise_profile import NoiseProfile, level_values
from perfkit.policy import Policy
from perfkit.stats.noise import EXTRA_SD, PRIOR_SD, overdispersion


def explain(
    comparison: Comparison, service: str, metric: str, policy: Policy, profile: NoiseProfile | None = None
) -> str:
    """Every number between the run values and the verdict, in the order in which it is computed.

    Raises
    ------
    SettingsError
        There is no such finding; names the nearest.
    """
    finding = _finding(comparison, service, metric)
    if service == NAME:
        comparison = _with_whole(comparison)
    return "\n".join(_lines(comparison, finding, policy, profile)) + "\n"


def _with_whole(comparison: Comparison) -> Comparison:
    services = [name for name in dict.fromkeys(finding.service for finding in comparison.findings) if name != NAME]
    before, after, _ = with_whole(comparison.baseline.runs, comparison.candidate.runs, services)
    return replace(comparison, baseline=Side(tuple(before)), candidate=Side(tuple(after)))


def _finding(comparison: Comparison, service: str, metric: str) -> Finding:
    services = list(dict.fromkeys(finding.service for finding in comparison.findings))
    if service not in services:
        raise SettingsError(f"{service!r}: not compared{did_you_mean(service, services)}; known are {services}")
    of_service = [finding for finding in comparison.findings if finding.service == service and not finding.objective]
    metrics = [finding.metric for finding in of_service]
    if metric not in metrics:
        raise SettingsError(
            f"{service}: {metric!r} is not judged{did_you_mean(metric, metrics)}; judged are {', '.join(metrics)}"
        )
    return of_service[metrics.index(metric)]


def _lines(comparison: Comparison, finding: Finding, policy: Policy, profile: NoiseProfile | None) -> Iterator[str]:
    metric = Metric(finding.metric)
    yield f"{finding.service}, {metric.title} ({finding.metric})"
    yield ""
    for title, side in (("baseline", comparison.baseline), ("candidate", comparison.candidate)):
        values = [run.services[finding.service].value(metric) for run in measured(finding.service, side.runs)]
        shown = ", ".join("unknown" if value is None else f"{value:.6g}" for value in values)
        yield f"{title + ':':<11}{shown} {finding.unit}"
    if comparison.rule == "threshold":
        yield f"change     {finding.change:+.4g} {finding.change_unit}, limit {finding.limit}: {finding.verdict}"
        return
    sides = comparison.baseline.runs, comparison.candidate.runs
    effect = effect_of(finding.service, metric, *sides, comparison.confidence, profile)
    if effect is None or finding.p_value is None:
        yield f"nothing can be computed: {'; '.join(finding.warnings) or 'a value is missing'}"
        return
    yield from (_errors if effect.noise is None else _levels)(comparison, finding, profile)
    yield from _verdict(comparison, finding, policy)


def _step(title: str, text: str) -> str:
    return f"  {title:<28}{text}"


def _levels(comparison: Comparison, finding: Finding, profile: NoiseProfile | None) -> Iterator[str]:
    metric = Metric(finding.metric)
    sides = measured(finding.service, comparison.baseline.runs), measured(finding.service, comparison.candidate.runs)
    values = level_values(finding.service, metric, *sides, profile)
    effect = effect_of(finding.service, metric, *sides, comparison.confidence, profile)
    if values is None or effect is None or effect.noise is None:
        return
    known, noise = values.known, effect.noise
    logs = [np.log(side) for side in (values.baseline, values.candidate)]
    squares = [float(((side - side.mean()) ** 2).sum()) for side in logs]
    df = sum(side.size - 1 for side in logs) + known.history[1]
    prior = known.prior(metric)
    shift = float(logs[1].mean() - logs[0].mean())
    yield ""
    yield "on the scale of natural logarithms (df: degrees of freedom)"
    yield _step("means", f"{logs[0].mean():.6f} and {logs[1].mean():.6f}, difference d = {shift:+.6f}")
    yield _step(
        "error within a run", f"{math.sqrt(known.within_variance):.6f} ({'measured' if known.measured else 'assumed'})"
    )
    extra = EXTRA_SD if known.measured else PRIOR_SD[metric]
    yield _step("prior s0", f"sqrt({known.within_variance:.3e} + {extra:g}^2) = {prior.sd:.6f}, {prior.df:g} df")
    yield _step("scatter of the runs", f"SS = {squares[0]:.6e} + {squares[1]:.6e}, {sum(s.size - 1 for s in logs)} df")
    if known.history[1]:
        yield _step("scatter of the history", f"SS = {known.history[0]:.6e}, {known.history[1]:.1f} df")
    weight = noise.df - df
    yield _step("weight of the prior", f"d0 = {weight:.3f} (less than {prior.df:g} where the runs contradict it)")
    yield _step("run-to-run deviation", f"s = sqrt((d0 s0^2 + SS) / (d0 + {df:g})) = {noise.sd:.6f}, {noise.df:.3f} df")
    n1, n2 = (side.size for side in logs)
    yield _step("error of the difference", f"e = s sqrt(1/{n1} + 1/{n2}) = {effect.error:.6f}")
    t = float(stdtrit(noise.df, 0.5 + comparison.confidence / 2))
    low, high = shift - t * effect.error, shift + t * effect.error
    yield _step(f"{comparison.confidence * 100:g} % interval", f"d -+ {t:.4f} e = {low:+.6f} to {high:+.6f}")
    yield _step("in percent", f"{effect.change:+.3f} % [{effect.ci_low:+.3f}, {effect.ci_high:+.3f}]")
    statistic = shift / effect.error
    yield _step("test", f"t = d / e = {statistic:+.4f}, one-sided p = {stdtr(noise.df, -abs(statistic)):.4g}")


def _errors(comparison: Comparison, finding: Finding, profile: NoiseProfile | None) -> Iterator[str]:  # noqa: ARG001
    stats = [
        [run.services[finding.service] for run in measured(finding.service, side.runs)]
        for side in (comparison.baseline, comparison.candidate)
    ]
    failed = [np.array([item.failures for item in side], float) for side in stats]
    counts = [np.array([item.count for item in side], float) for side in stats]
    factor, df = overdispersion(failed, counts)
    yield ""
    for title, k, n in zip(("baseline", "candidate"), failed, counts, strict=True):
        yield f"  {title + ':':<28}{k.sum():.0f} of {n.sum():.0f} requests failed = {100 * k.sum() / n.sum():.4f} %"
    yield _step("overdispersion", f"{factor:.4f} with {df:g} df")
    yield _step(
        "difference", f"{finding.change_abs:+.4f} pp [{finding.ci_low:+.4f}, {finding.ci_high:+.4f}] (Newcombe)"
    )
    yield _step(
        "test", f"hypergeometric, mid-p, its normal score / sqrt(overdispersion) as t: p = {finding.p_value:.4g}"
    )


def _verdict(comparison: Comparison, finding: Finding, policy: Policy) -> Iterator[str]:
    metric = Metric(finding.metric)
    judged = [other for other in comparison.findings if other.p_value is not None and not other.objective]
    budget = shares([(other.service, Metric(other.metric)) for other in judged])
    share = next(part for part, other in zip(budget, judged, strict=True) if other is finding)
    worst = finding.ci_high if metric.worse > 0 else -(finding.ci_low or 0.0)
    yield ""
    yield "verdict"
    yield _step("alarm budget", f"{policy.alpha:g} over {len(judged)} findings; {100 * share:.3g} % of it for this one")
    yield _step("p, corrected (Holm)", f"{finding.p_adjusted:.4g}")
    yield f"  tolerance                   {finding.limit}" + (
        f" = {log_worsening(metric, finding.tolerance):.6f} on the log scale"
        if finding.tolerance is not None and finding.change_unit == "%"
        else ""
    )
    worsening = (finding.change or 0.0) * metric.worse
    tolerance = finding.tolerance if finding.tolerance is not None else math.nan
    yield _step("regression?", f"corrected p <= {policy.alpha:g} and worsening {worsening:+.3f} > {tolerance:g}")
    yield _step("no change?", f"bad side of the interval {worst:+.3f} <= {tolerance:g}")
    yield f"  -> {finding.verdict}"
    for warning in finding.warnings:
        yield f"  ! {warning}"
