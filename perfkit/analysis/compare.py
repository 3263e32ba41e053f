"""Two sets of runs and a policy -> a comparison.

`judge` is the whole way from a policy to a verdict, in its order; `replay` applies a policy to the past: when would it
have fired?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.analysis.comparability import SHARE_DIFFERS, Comparability, check_sides, disturbance
from perfkit.analysis.coverage import StagedSides, by_stage, gate_of, with_aggregate
from perfkit.analysis.error_kinds import error_kinds
from perfkit.analysis.evidence import (
    by_evidence,
    by_threshold,
    hypotheses_of,
    objectives_of,
    unknown_metrics,
)
from perfkit.analysis.noise_profile import NoiseProfile, paired, weekdays_of
from perfkit.config.policy import Policy
from perfkit.model.errors import NotComparable, did_you_mean
from perfkit.model.records import (
    ALL_SERVICES,
    Check,
    Comparison,
    Finding,
    Gap,
    Gate,
    Metric,
    Run,
    Scope,
    Severity,
    Side,
    Verdict,
    overall_verdict,
    service_names,
)
from perfkit.runs.requests import new_name, renamed_runs
from perfkit.runs.validity import without_outages


def judge(
    baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy, profile: NoiseProfile | None = None
) -> Comparison:
    """Judge the candidate against the baseline, by what the profile knows of the noise; unfit sides are ``invalid``.

    The weekday is taken out where the profile knows it, or, without one, where the baseline is a nightly history.
    """
    for title, side in (("baseline", baseline), ("candidate", candidate)):
        if not side:
            raise NotComparable(f"{title}: has no runs; name at least one run, file or folder")
    policy = policy.for_scenario(candidate[0].scenario)
    if current := policy.service_names:
        baseline, candidate = renamed_runs(baseline, current), renamed_runs(candidate, current)
        tolerance, objectives = _renamed(policy.tolerance, current), _renamed(policy.objectives, current)
        policy = replace(policy, tolerance=tolerance, objectives=objectives)
    baseline, candidate = (tuple(without_outages(run) for run in side) for side in (baseline, candidate))
    profile = weekdays_of(baseline) if profile is None else profile
    staged = by_stage(baseline, candidate, policy)
    sides = check_sides(staged.baseline, staged.candidate, policy, staged.coverage)
    findings, unknown, gate = _findings(staged, sides, profile)

    checks = [*sides.checks, *(Check("metrics", None, None, Severity.WARN, text) for text, _ in unknown)]
    gaps = [*sides.gaps, *(gap for _, gap in unknown if gap is not None)]
    warnings = [*sides.warnings, *(text for text, _ in unknown)]
    services = service_names(baseline, candidate)
    for name in policy.limited_services:  # a misspelling more often than not
        if services and name not in (*services, ALL_SERVICES):
            near = did_you_mean(name, services)
            warnings.append(f"The policy has limits for {name!r}, which is not compared here{near}.")
    if policy.rule == "evidence" and findings and not any(finding.gating for finding in findings):
        names = f"{'is' if len(policy.gating) == 1 else 'are'} {', '.join(policy.gating)}"
        text = f"No gating metric is judged, so nothing can be shown unharmed: gating {names}."
        gaps.append(Gap(text, "Give a gating metric a tolerance, or let gating name a metric that has one."))
    missing = policy.required_runs - min(len(baseline), len(candidate))
    if missing > 0:  # the numbers are kept, and nothing is claimed of so few runs
        findings = [
            replace(f, verdict=Verdict.INCONCLUSIVE, runs_needed=max(missing, f.runs_needed or 0)) for f in findings
        ]
    verdict = overall_verdict(findings, policy.rule, gaps) if sides.ok and findings else Verdict.INVALID
    critical = (finding for finding in findings if finding.verdict is Verdict.REGRESSION)
    if sides.failing and all(finding.label in sides.failing for finding in critical):
        verdict = Verdict.INVALID
    if verdict is Verdict.INVALID:
        findings = [replace(f, verdict=verdict, runs_needed=None, requests_needed=None) for f in findings]
    if (disturbed := disturbance(baseline, candidate, findings)) is not None:
        checks.append(disturbed)
        warnings.append(disturbed.advice)
    if missing > 0:
        warnings.append(
            f"The policy asks for {policy.required_runs} runs on each side; there are {len(baseline)} and "
            f"{len(candidate)}, so nothing is claimed."
        )
    if text := _weekdays_text(findings, profile):
        warnings.append(text)
    if sides.ok and not findings:
        warnings.append("Nothing to judge: no metric with a limit is known on both sides.")
    return Comparison(
        verdict=verdict,
        comparable=verdict is not Verdict.INVALID,
        rule=policy.rule,
        alpha=policy.alpha,
        confidence=policy.confidence,
        baseline=Side(tuple(baseline)),
        candidate=Side(tuple(candidate)),
        findings=tuple(findings),
        warnings=tuple(dict.fromkeys(warnings)),
        checks=tuple(checks),
        gaps=tuple(gaps),
        errors=error_kinds(baseline, candidate),
        gate=gate,
    )


def _weekdays_text(findings: Sequence[Finding], profile: NoiseProfile) -> str:
    """That weekdays were taken out, and where they matter most; empty where none were."""
    arithmetic = [(finding, finding.arithmetic.levels) for finding in findings if finding.arithmetic is not None]
    without = [(finding, of.weekday_factors) for finding, of in arithmetic if of is not None and of.weekday_error > 0.0]
    shown = [(max(factors) / min(factors), finding, factors) for finding, factors in without if factors]
    if not shown:
        return ""
    _, largest, factors = max(shown, key=lambda item: item[0])
    return (
        f"The weekday is taken out of {len(without)} of {len(findings)} findings, as {len(profile.runs)} runs show it: "
        "their values are as on the candidate's weekdays, charts of single runs as they were measured. It matters most "
        f"for {largest.title} of {largest.label}: {100 * (min(factors) - 1):+.1f} to {100 * (max(factors) - 1):+.1f} %."
    )


def _renamed(limits: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Limits under the names that services have now; where two old names become one, what stands later holds."""
    table: dict[str, Any] = {}
    for name, value in limits.items():
        now = name if name in list(Metric) else new_name(name, names)
        earlier = table.get(now)
        both = isinstance(earlier, Mapping) and isinstance(value, Mapping)
        table[now] = {**earlier, **value} if both else value  # type: ignore[dict-item]
    return table


def _findings(
    staged: StagedSides, sides: Comparability, profile: NoiseProfile
) -> tuple[list[Finding], list[tuple[str, Gap | None]], Gate | None]:
    """What the rule says of every metric, then of every absolute limit; what is not known of them; and what gates."""
    baseline, candidate, policy, stages = staged.baseline, staged.candidate, staged.policy, staged.stages
    as_measured = baseline, candidate
    if policy.rule == "evidence" and paired(baseline, candidate) is None:
        baseline, candidate = profile.on_weekdays_of(candidate, baseline)
    aggregated = with_aggregate(baseline, candidate, sides.services) if policy.rule == "evidence" else None
    gate = None
    if aggregated is not None:
        gate = gate_of((baseline, candidate), sides.services, policy, stages, sides.not_judged)
    hypotheses = hypotheses_of(baseline, candidate, sides.services, policy, stages, gate=gate)
    unknown = list(unknown_metrics(hypotheses, policy))
    if not sides.services:
        return [], unknown, None
    new = (absence.service for absence in sides.coverage.absences if absence.is_new)
    limits = objectives_of(*as_measured, (*sides.services, *new), policy, stages)
    if policy.rule == "threshold":
        return [*by_threshold(hypotheses), *by_evidence(limits, policy, profile, {}, sides.coverage)], unknown, None
    not_judged = dict(sides.not_judged)
    if aggregated is not None:
        hypotheses = [*hypotheses_of(*aggregated, (ALL_SERVICES,), policy, {}, Scope.RUN), *hypotheses]
        requests = {
            name: sum(run.services[name].count or 0 for run in aggregated[0] if name in run.services)
            for name in (ALL_SERVICES, *not_judged)
        }
        if sum(requests[name] for name in not_judged) > SHARE_DIFFERS * requests[ALL_SERVICES]:
            not_judged[ALL_SERVICES] = next(iter(not_judged.values()))
    findings = by_evidence([*hypotheses, *limits], policy, profile, not_judged, sides.coverage, gate)
    return findings, unknown, _of_findings(gate, findings) if gate is not None else None


def _of_findings(gate: Gate, findings: Sequence[Finding]) -> Gate | None:
    """The gate of the services that have findings, with the smallest change that these show of each."""
    judged = {finding.label for finding in findings}
    smallest = {f.label: f.min_detectable for f in findings if f.metric == Metric.AVG and not f.objective}
    services, also, watched = (
        tuple(replace(item, min_detectable=smallest.get(item.service)) for item in items if item.service in judged)
        for items in (gate.services, gate.also, gate.watched)
    )
    return Gate(gate.share, services, also, watched) if watched else None


@dataclass(frozen=True, slots=True)
class Replay:
    """One run of the past, judged as a candidate against the runs before it."""

    run: Run
    comparison: Comparison

    @property
    def reasons(self) -> tuple[str, ...]:
        """What made it a regression, invalid or inconclusive: each series or check once; empty for other verdicts."""
        verdict, findings = self.comparison.verdict, self.comparison.findings
        series = (
            f"{item.title} of {item.label}"
            for item in findings
            if item.verdict is verdict and (item.gating or verdict is Verdict.REGRESSION)
        )
        match verdict:
            case Verdict.REGRESSION:
                return tuple(dict.fromkeys(series))
            case Verdict.INCONCLUSIVE:
                return tuple(dict.fromkeys((*series, *(gap.text for gap in self.comparison.gaps))))
            case Verdict.INVALID:
                failed = (check for check in self.comparison.checks if check.severity is Severity.INVALID)
                return tuple(dict.fromkeys(check.name for check in failed))
            case _:
                return ()


def replay(runs: Sequence[Run], policy: Policy, window: int) -> tuple[Replay, ...]:
    """Judge each valid run against the ``window`` valid runs before it, as nightly CI would have done.

    Runs come oldest first.  The first ``window`` of them have nothing to be held against and are left out.  A level
    that changed stays in the window for a while, so one step may fire more than once.  ``ValueError``: ``window`` is
    below 1.  ``NotComparable``: there are not more valid runs than the window holds.
    """
    if window < 1:
        raise ValueError(f"window: at least 1 run, got {window}")
    fit = [run for run in runs if run.validity.ok]
    if len(fit) <= window:
        raise NotComparable(f"{len(fit)} valid runs; a replay with a window of {window} needs more than that")
    return tuple(Replay(fit[i], judge(fit[i - window : i], fit[i : i + 1], policy)) for i in range(window, len(fit)))
