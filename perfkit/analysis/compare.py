"""Facts + policy -> verdicts.

Two rules: ``evidence`` (a statistical judgement) and ``threshold`` (percentage change against fixed limits, for teams
that have such limits; it knows nothing of noise and is labelled as what it is).

A policy applied to the past: when would it have fired?

The story in functions, called by notebooks and by the command line alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.analysis.comparability import Comparability, check_sides
from perfkit.analysis.coverage import service_coverage
from perfkit.analysis.disturbance import disturbance
from perfkit.analysis.evidence import allocate, by_evidence, measure, questions, unstated
from perfkit.analysis.limits import by_objective, by_threshold, limit_questions
from perfkit.analysis.noise_profile import NoiseProfile, profile_of
from perfkit.analysis.power import detectable_changes
from perfkit.analysis.stages import by_stage, coverage_of_stages
from perfkit.config.policy import Policy
from perfkit.model.errors import NotComparable, did_you_mean
from perfkit.model.records import (
    ALL_SERVICES,
    Check,
    Comparison,
    Finding,
    Gap,
    Metric,
    Run,
    Severity,
    Side,
    Verdict,
    overall_verdict,
)
from perfkit.runs.read import read_run
from perfkit.runs.service_names import new_name, renamed_runs
from perfkit.runs.validity import without_outages

if TYPE_CHECKING:
    import pandas as pd


def judge(
    baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy, profile: NoiseProfile | None = None
) -> Comparison:
    """Compare two sets of runs under a policy.  Unfit sides end in the verdict ``invalid``, with the reasons."""
    policy = policy.for_scenario(candidate[0].scenario if candidate else "")
    baseline, candidate, policy = by_name(baseline, candidate, policy)
    baseline, candidate = ([without_outages(run) for run in side] for side in (baseline, candidate))
    whole = Side(tuple(baseline)), Side(tuple(candidate))
    coverage = service_coverage(baseline, candidate, policy.alpha)
    asked = policy
    staged = by_stage(baseline, candidate, policy)
    baseline, candidate, policy = staged.baseline, staged.candidate, staged.policy
    if staged.stages:
        of_stages = service_coverage(baseline, candidate, policy.alpha)
        coverage = coverage_of_stages(coverage, of_stages, staged.stages)
    sides = check_sides(baseline, candidate, asked, coverage)
    findings = _findings(baseline, candidate, sides, policy, profile) if sides.services else ()
    findings = tuple(_of_stage(finding, staged.stages) for finding in findings)
    metrics = tuple(unstated(questions(baseline, candidate, sides.services, policy), policy))
    checks = (*sides.checks, *(Check("metrics", None, None, Severity.WARN, text) for text, _ in metrics))
    gaps = (*sides.gaps, *(gap for _, gap in metrics if gap is not None))
    if policy.rule == "evidence" and findings and not any(finding.gating for finding in findings):
        text = f"No gating metric is judged, so nothing can be shown unharmed: gating {_are(policy.gating)}."
        gaps = (*gaps, Gap(text, "Give a gating metric a tolerance, or let gating name a metric that has one."))
    missing = policy.required_runs - min(len(baseline), len(candidate))
    if missing > 0:
        findings = tuple(_too_early(finding, missing) for finding in findings)
    verdict = overall(findings, policy, gaps) if sides.ok and findings else Verdict.INVALID
    if sides.failing and not any(_is_critical(finding, sides.failing) for finding in findings):
        verdict = Verdict.INVALID
    if verdict is Verdict.INVALID:
        findings = tuple(_unjudged(finding) for finding in findings)
    disturbed = disturbance(whole[0].runs, whole[1].runs, findings)
    if disturbed is not None:
        checks = (*checks, disturbed)
    warnings = [*sides.warnings, *(text for text, _ in metrics), *_unknown_services(asked.limited_services, whole)]
    if disturbed is not None:
        warnings.append(disturbed.advice)
    if missing > 0:
        warnings.append(
            f"The policy asks for {policy.required_runs} runs on each side; there are {len(baseline)} and "
            f"{len(candidate)}, so nothing is claimed."
        )
    if sides.ok and not findings:
        warnings.append("Nothing to judge: no metric with a limit is known on both sides.")
    return Comparison(
        verdict=verdict,
        comparable=verdict is not Verdict.INVALID,
        rule=policy.rule,
        alpha=policy.alpha,
        confidence=policy.confidence,
        baseline=whole[0],
        candidate=whole[1],
        findings=findings,
        warnings=tuple(dict.fromkeys(warnings)),
        checks=checks,
        gaps=gaps,
    )


def _of_stage(finding: Finding, stages: Mapping[str, tuple[str, str]]) -> Finding:
    """The finding of an entry of `StagedSides` under its service and stage."""
    service, stage = stages.get(finding.service, (finding.service, None))
    return replace(finding, service=service, stage=stage)


def by_name(
    baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy
) -> tuple[Sequence[Run], Sequence[Run], Policy]:
    """Runs and limits under the names that services have now."""
    names = policy.service_names
    if not names:
        return baseline, candidate, policy
    policy = replace(policy, tolerance=_under(policy.tolerance, names), objectives=_under(policy.objectives, names))
    return renamed_runs(baseline, names), renamed_runs(candidate, names), policy


def _under(limits: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A table of limits under the new names; where two old ones become one, what stands later holds."""
    table: dict[str, Any] = {}
    for name, value in limits.items():
        now = name if name in list(Metric) else new_name(name, names)
        inner = table.get(now)
        table[now] = {**inner, **value} if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return table


def _are(metrics: Sequence[str]) -> str:
    return f"{'is' if len(metrics) == 1 else 'are'} {', '.join(metrics)}"


def _findings(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    sides: Comparability,
    policy: Policy,
    profile: NoiseProfile | None,
) -> tuple[Finding, ...]:
    """What the rule says of every metric, then every absolute limit; what is judged by chance shares one budget."""
    limits = limit_questions(baseline, candidate, _with_objectives(sides), policy, profile)
    broken = [question.level.p_value for question in limits if question.level is not None]
    if policy.rule == "evidence":
        evidence = measure(baseline, candidate, sides, policy, profile)
        budget = allocate(policy.alpha, evidence.worse, broken)
        findings = by_evidence(evidence, policy, budget)
    else:
        budget = allocate(policy.alpha, {}, broken)
        findings = by_threshold(baseline, candidate, sides, policy)
    return (*findings, *by_objective(limits, policy, budget))


def _with_objectives(sides: Comparability) -> tuple[str, ...]:
    """The services whose level can be held against a limit: those of the candidate, new ones too."""
    return (*sides.services, *(item.service for item in sides.coverage.absences if item.is_new))


def _unknown_services(limited: Sequence[str], sides: tuple[Side, Side]) -> Iterator[str]:
    """A limit for a service that is not there is a misspelling more often than not."""
    services = dict.fromkeys(name for side in sides for run in side.runs for name in run.services)
    for name in limited:
        if services and name not in (*services, ALL_SERVICES):
            yield f"The policy has limits for {name!r}, which is not compared here{did_you_mean(name, services)}."


def overall(findings: Sequence[Finding], policy: Policy, gaps: Sequence[Gap] = ()) -> Verdict:
    """The verdict of a whole comparison whose sides are fit, from those of its findings and from what is missing."""
    return overall_verdict(findings, policy.rule, gaps)


def _is_critical(finding: Finding, failing: Collection[str | None]) -> bool:
    """A regression of a service that does not fail on both sides."""
    return finding.verdict is Verdict.REGRESSION and finding.label not in failing


def _too_early(finding: Finding, missing: int) -> Finding:
    """Keep the numbers, and claim nothing of so few runs."""
    return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=max(missing, finding.runs_needed or 0))


def _unjudged(finding: Finding) -> Finding:
    """Keep the numbers of an invalid comparison, for people to look at, and judge none of them."""
    return replace(finding, verdict=Verdict.INVALID, runs_needed=None, requests_needed=None)


@dataclass(frozen=True, slots=True)
class Replay:
    """One run of the past, judged as a candidate against the runs before it."""

    run: Run
    comparison: Comparison


def replay(runs: Sequence[Run], policy: Policy, window: int) -> tuple[Replay, ...]:
    """Judge each valid run against the ``window`` valid runs before it, as nightly CI would have done.

    Runs come oldest first.  The first ``window`` of them have nothing to be held against and are left out.  A level
    that changed stays in the window for a while, so one step may fire more than once.

    Raises
    ------
    ValueError
        ``window`` is below 1.
    NotComparable
        There are not more valid runs than the window holds.
    """
    if window < 1:
        raise ValueError(f"window: at least 1 run, got {window}")
    fit = [run for run in runs if run.validity.ok]
    if len(fit) <= window:
        raise NotComparable(f"{len(fit)} valid runs; a replay with a window of {window} needs more than that")
    return tuple(Replay(fit[i], judge(fit[i - window : i], fit[i : i + 1], policy)) for i in range(window, len(fit)))


def compare(
    baseline: Sequence[Run | str | Path],
    candidate: Sequence[Run | str | Path],
    *,
    policy: Policy | None = None,
    history: NoiseProfile | Sequence[Run | str | Path] | None = None,
) -> Comparison:
    """Judge the candidate against the baseline.

    Parameters
    ----------
    baseline, candidate
        Runs, or paths that `read_run` takes; at least one on each side.
    policy
        What is accepted; the default policy when ``None``.
    history
        Earlier runs of the same scenario, oldest first, none of which is compared here, or the noise profile learned
        from such.  They tell how much its runs vary, which makes small comparisons sharper; their level is not used.

    Returns
    -------
    Comparison
        Its verdict is ``invalid`` when the sides are unfit or cannot be compared; the warnings say why.

    Raises
    ------
    ReadError
        A path cannot be read.
    NotComparable
        A side is empty.
    """
    sides = [_runs(title, side) for title, side in (("baseline", baseline), ("candidate", candidate))]
    return judge(sides[0], sides[1], policy or Policy(), _profile(history))


def _profile(history: NoiseProfile | Sequence[Run | str | Path] | None) -> NoiseProfile | None:
    if history is None or isinstance(history, NoiseProfile):
        return history
    runs = [run for run in _runs("history", history) if run.validity.ok]
    return profile_of(runs[0].scenario, runs) if runs else None


def explain(comparison: Comparison, service: str, metric: str) -> str:
    """The arithmetic of one verdict of a comparison, step by step, as it was made; of one from a result file too."""
    from perfkit.analysis.explain import explain as steps

    return steps(comparison, service, metric)


def _runs(title: str, side: Sequence[Run | str | Path]) -> tuple[Run, ...]:
    if isinstance(side, Run | str | Path):
        side = (side,)
    if not isinstance(side, Iterable):
        raise TypeError(f"{title}: expected runs or paths, got {side!r}")
    side = tuple(side)
    for item in side:
        if not isinstance(item, Run | str | Path):
            raise TypeError(f"{title}: expected runs or paths, got {item!r}")
    if not side:
        raise NotComparable(f"{title}: has no runs; name at least one run, file or folder")
    return tuple(run if isinstance(run, Run) else read_run(run) for run in side)


def detectable(runs: Sequence[Run], *, policy: Policy | None = None, most: int = 10) -> pd.DataFrame:
    """The smallest change that sets of runs like these can show.

    Returns
    -------
    DataFrame
        Columns service, metric, runs_per_side (1..``most``), min_detectable (percent of the baseline; pp for the error
        rate), change_unit.  One row per service, metric and number of runs; metrics that some run cannot tell are
        absent.
    """
    import pandas as pd

    rows = detectable_changes(runs, policy or Policy(), most)
    return pd.DataFrame(rows, columns=["service", "metric", "runs_per_side", "min_detectable", "change_unit"])
