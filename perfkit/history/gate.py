"""The history gate: a candidate judged against the runs of its scenario before it.

It is compared with the rolling baseline, and the history with it is watched by the sequential monitor.  Both are asked
run after run, so both spend alpha once for the whole history: the monitor as `perfkit.stats.sequential` says, the
comparison `SPENDING / (n + SPENDING)^2` of it when n runs came before (these shares sum to one; alpha spending, Lan &
DeMets 1983, doi:10.1093/biomet/70.3.659).  test_history_budget.py holds it to that.

A pull request is a candidate of another branch than the history.  It is judged alone, against the present level of the
history's branch: what is open there already is reported, and is no reason to object to it.

Limit: of a single candidate nobody can tell whether it is an outlier or the first run of a new level.  Where earlier
runs were outliers, it is therefore no regression by itself (`perfkit.history.outlier_runs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

from perfkit.analysis.compare import judge
from perfkit.analysis.noise_profile import NoiseProfile
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import Acknowledgement, softened
from perfkit.history.baseline_hold import baseline_hold
from perfkit.history.baselines import Baselines
from perfkit.history.confounders import machine_advice
from perfkit.history.context import HistoryAnalysis, HistoryContext
from perfkit.history.monitor import SPENDING, Alert, ScenarioWatch, watch_timeline
from perfkit.history.outlier_runs import outlier_runs
from perfkit.history.run_selector import Selected, before, comparable_runs, select
from perfkit.history.service_mix import missing_service_advice, missing_services
from perfkit.history.slow_drift import SlowDrift, slow_drifts
from perfkit.history.timeline import load_timeline, under_names
from perfkit.history.trend import alert_excerpts
from perfkit.model.errors import NotComparable, ReadError, did_you_mean
from perfkit.model.records import Comparison, Finding, HistoryNote, Run, Verdict, overall_verdict
from perfkit.runs.requests import renamed_runs
from perfkit.stats.changepoints import LEAST_RUNS

BRANCH_RUNS = 30  # the newest runs that tell the branch of a history


@dataclass(frozen=True, slots=True)
class HistoryJudgement:
    """What the history says of a candidate.

    ``comparison`` is that with the rolling baseline; its verdict takes the monitor and what is acknowledged into
    account.
    """

    comparison: Comparison
    watch: ScenarioWatch
    drifts: tuple[SlowDrift, ...]
    acknowledgements: tuple[Acknowledgement, ...]


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A candidate's branch, and the branch of the history that it is judged against."""

    branch: str
    history_branch: str


def pull_request_of(candidates: Sequence[Run], earlier: Iterable[tuple[str, str]]) -> PullRequest | None:
    """Whether candidates are of another branch than the history; ``None`` where they are not, or it is not known.

    ``earlier`` has id and branch of the runs before, oldest first.  The branch of a history is the one that at least
    half of its newest runs are of.
    """
    judged = {run.id for run in candidates}
    named = [branch for run_id, branch in earlier if branch and run_id not in judged][-BRANCH_RUNS:]
    branches = {run.git.get("branch", "") for run in candidates}
    main, count = Counter(named).most_common(1)[0] if named else ("", 0)
    if not main or 2 * count < len(named) or "" in branches or main in branches:
        return None
    return PullRequest(", ".join(sorted(branches)), main)


def judge_history(
    candidates: Sequence[Run],
    context: HistoryContext,
    policy: Policy,
    *,
    known: Sequence[Acknowledgement] = (),
    profile: NoiseProfile | None = None,
) -> HistoryJudgement:
    """Judge runs against the runs of their scenario before them; ``known`` changes are no reason to object.

    Raises
    ------
    NotComparable
        The candidates are of several scenarios, or no valid run is older than they are.
    """
    if policy.service_names:
        candidates = renamed_runs(candidates, policy.service_names)
        context = replace(context, candidates=candidates, service_names=policy.service_names)
    if context.alpha != policy.alpha:
        context = replace(context, alpha=policy.alpha)
    scenario = _scenario(candidates)
    policy, today = policy.for_scenario(scenario), context.now.date()
    before_them = before(context.runs_of(scenario), context.until)
    pull = pull_request_of(candidates, [(run.id, run.git.get("branch", "")) for run in before_them])
    selected = _rolling(scenario, context, pull)

    # The runs before the candidates that they may be compared with, of the history's branch; at least one
    judged = {run.id for run in candidates}
    valid = [run for run in before_them if run.validity.ok and run.id not in judged]
    if pull is not None:
        valid = [run for run in valid if run.git.get("branch", "") in ("", pull.history_branch)]
    earlier, _ = comparable_runs(valid, candidates[0])
    invalid = [run for run in before_them if not run.validity.ok and run.id not in judged]
    history = context.analysis([*earlier, *invalid, *(() if pull else candidates)])

    watch = watch_timeline(history, policy, known, today, Baselines(context.baselines).all(scenario))
    drifts = slow_drifts(selected.runs, context, policy)
    hold = baseline_hold(earlier, context, policy, watch, known, today) if pull is None else None
    outliers = outlier_runs(context.analysis(earlier), policy) if policy.rule == "evidence" else None
    if hold is not None:
        selected = replace(selected, runs=hold.runs, warnings=(*selected.warnings, hold.note))
    elif pull is None and outliers is not None:
        selected = _without_newest_outliers(selected, earlier, outliers.newest)

    share = replace(policy, alpha=policy.alpha * SPENDING / (len(earlier) + SPENDING) ** 2)
    comparison = judge(selected.runs, candidates, share, profile)
    near = _between(known, selected.runs, history, today)
    if near and comparison.comparable:
        comparison = _with_findings(comparison, (softened(finding, near) for finding in comparison.findings), policy)
    reasons: list[str] = []
    if comparison.comparable:
        if hold is not None and hold.is_left_by(comparison):
            watch = replace(watch, alerts=tuple(alert for alert in watch.alerts if alert.is_confirmed))
        failing = [alert for alert in watch.alerts if alert.fails and pull is None]
        reasons = [f"{alert.event.headline} {alert.open_for}" for alert in failing]
        is_listed = hold is not None and any(hold.undetected.id == alert.event.id for alert in failing)
        if hold is not None and not is_listed and hold.is_shown_by(candidates, comparison, share, near):
            reasons.append(hold.undetected.headline)
        if len(candidates) == 1 and outliers is not None:
            comparison = _with_findings(comparison, map(outliers.doubted, comparison.findings), policy)
        is_pending = pull is None and any(alert.is_open for alert in watch.alerts)
        if reasons:
            comparison = replace(comparison, verdict=Verdict.REGRESSION)
        elif is_pending and comparison.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
            comparison = replace(comparison, verdict=Verdict.INCONCLUSIVE)

    warnings = [*selected.warnings, *(drift.sentence for drift in drifts if drift.worse)]
    document = {
        "baseline": str(selected.selector),
        "baseline_runs": [run.id for run in selected.runs],
        "held_before": hold.undetected.id if hold is not None else None,
        "alpha_of_this_comparison": comparison.alpha,
        **watch.to_dict(),
        "anchors": [drift.to_dict() for drift in drifts],
        "advice": list(_advice(comparison, watch)),
        "courses": alert_excerpts(history, watch),
    }
    if pull is not None:  # what is open belongs to the history: it is no alert of this comparison
        still_open = [alert for alert in watch.alerts if alert.is_open]
        warnings += map(open_already_sentence, still_open)
        document |= {
            "pull_request": {"branch": pull.branch, "history_branch": pull.history_branch},
            "alerts": [],
            "open_already": [alert.to_dict() for alert in still_open],
            "courses": [],
        }
    lines = (*_lines(watch, selected, comparison, pull), *(drift.sentence for drift in drifts if not drift.worse))
    note = HistoryNote(tuple(reasons), lines, document)
    return HistoryJudgement(replace(comparison.with_warnings(warnings), history=note), watch, drifts, tuple(near))


def open_already_sentence(alert: Alert) -> str:
    """How a pull request, or any comparison with a baseline of its own, names an alert of the history."""
    return f"Open already since {alert.since}, and not judged here: {alert.event.headline}"


def open_in_history(
    candidates: Sequence[Run], context: HistoryContext, policy: Policy, known: Sequence[Acknowledgement]
) -> tuple[str, ...]:
    """Sentences on what is open in the history of the candidates' scenario, before them and on its own branch."""
    scenarios = {run.scenario for run in candidates}
    if len(scenarios) != 1 or not len(context.store.runs(scenario=next(iter(scenarios)), ab_test=False)):
        return ()
    scenario, judged, until = next(iter(scenarios)), {run.id for run in candidates}, context.until
    whole = under_names(load_timeline(context.store, scenario), policy.service_names)
    pull = pull_request_of(candidates, [(moment.run_id, moment.branch) for moment in whole.runs])
    kept = [
        number
        for number, moment in enumerate(whole.runs)
        if moment.run_id not in judged
        and (until is None or (moment.started_at is not None and moment.started_at < until))
        and (pull is None or moment.branch in ("", pull.history_branch))
    ]
    if not any(whole.runs[number].valid for number in kept):
        return ()
    baselines = Baselines(context.baselines).all(scenario)
    history = HistoryAnalysis(whole.part(kept), policy.alpha)
    watch = watch_timeline(history, policy.for_scenario(scenario), known, context.now.date(), baselines)
    return tuple(open_already_sentence(alert) for alert in watch.alerts if alert.is_open)


def _scenario(candidates: Sequence[Run]) -> str:
    scenarios = sorted({run.scenario for run in candidates})
    if len(scenarios) != 1:
        raise NotComparable(
            f"the candidates are of the scenarios {', '.join(scenarios)}: name a baseline, or one scenario"
        )
    return scenarios[0]


def _rolling(scenario: str, context: HistoryContext, pull: PullRequest | None) -> Selected:
    try:
        return select(f"{scenario}@rolling{f':{pull.history_branch}' if pull else ''}", context)
    except ReadError as error:
        near = "" if scenario in context.scenarios else did_you_mean(scenario, context.scenarios)
        raise NotComparable(
            f"{scenario}: {context.store.url} has no earlier valid run of this scenario to judge against"
            f"{near}; name a baseline, or keep this run as the first of its history"
        ) from error


def _without_newest_outliers(selected: Selected, earlier: Sequence[Run], count: int) -> Selected:
    """The baseline without the newest runs that lie far from the level for the worse.

    Too few for a change point, they would make the baseline so wide that a regression of the night before passes for
    chance: it would fail once, and never again until it is confirmed.
    """
    doubtful = {run.id for run in earlier[len(earlier) - count :]}
    kept = tuple(run for run in selected.runs if run.id not in doubtful)
    if not doubtful or len(kept) < LEAST_RUNS or len(kept) == len(selected.runs):
        return selected
    which = (
        f"run before, {earlier[-1].id}, lies"
        if count == 1
        else f"{count} runs before, from {earlier[-count].id} on, lie"
    )
    note = f"The {which} far from the level before, for the worse, and may begin a new one: left out of the baseline."
    return replace(selected, runs=kept, warnings=(*selected.warnings, note))


def _with_findings(comparison: Comparison, findings: Iterable[Finding], policy: Policy) -> Comparison:
    """The comparison with other findings and the verdict that follows from them."""
    findings = tuple(findings)
    return replace(comparison, findings=findings, verdict=overall_verdict(findings, policy.rule, comparison.gaps))


def _between(
    known: Sequence[Acknowledgement], baseline: Sequence[Run], history: HistoryAnalysis, today: date
) -> list[Acknowledgement]:
    """What was acknowledged between the baseline, or most of it, and the candidates."""
    ids = history.run_ids
    places = sorted(ids.index(run.id) for run in baseline)
    middle = places[len(places) // 2]
    own = [item for item in known if item.scenario == history.scenario and item.holds_on(today)]
    return [item for item in own if (at := item.place_in(ids)) is not None and middle < at]


def _advice(comparison: Comparison, watch: ScenarioWatch) -> Iterator[str]:
    """What the next step names beside the findings."""
    if advice := machine_advice(comparison):
        yield advice
    for name, change in missing_services(watch.services_changed):
        yield missing_service_advice(name, change)


def _lines(watch: ScenarioWatch, selected: Selected, comparison: Comparison, pull: PullRequest | None) -> Iterator[str]:
    """How the comparison was made, and what the history shows, in sentences."""
    yield f"Baseline {selected.selector}: {_runs(len(selected.runs))}, {selected.runs[0].id} to {selected.runs[-1].id}."
    is_single = len(comparison.candidate.runs) == 1 and comparison.by_verdict(Verdict.REGRESSION)
    single = " A single run may be an outlier: two more, judged together with it, tell." if is_single else ""
    yield (
        f"This comparison has {comparison.alpha:.2g} of the chance of {watch.alpha:g} that comparing run after run "
        f"ever raises a false alarm.{single}"
    )
    since = f" since {watch.since.started_at:%Y-%m-%d}" if watch.since.started_at else ""
    bad = f" ({watch.invalid} more were invalid)" if watch.invalid else ""
    more = f"{watch.runs_to_learn} more run{'' if watch.runs_to_learn == 1 else 's'}"
    alerting = "Alerts cover all of them."
    if watch.warming_up:
        which = "History alerts" if watch.warming_up == watch.series else f"Alerts of {watch.warming_up} of them"
        alerting = f"{which} start after {more}."
    yield (
        f"Watching {_runs(watch.runs)} of {watch.scenario}{since}{bad}: {watch.series} series, one alpha for all "
        f"({watch.alpha:g}). {alerting}"
    )
    if pull is not None:
        yield (
            f"The candidate is of the branch {pull.branch}, the history of {pull.history_branch}: judged as a pull "
            "request, by what it changes itself."
        )
    for alert in watch.alerts:
        detected = alert.doubt
        if alert.detected_at is not None:
            detected = f"Detected at run {alert.detected_at.run_id}, {_runs(alert.runs_ago)} ago."
        yield f"{alert.event.headline} {detected} {_state(alert)}".rstrip()
    yield from (change.headline for change in watch.services_changed)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _state(alert: Alert) -> str:
    """Whether an alert is acknowledged, accepted, open or taken back."""
    if alert.acknowledgement is not None:
        text = alert.acknowledgement.describe()
        return f"{text[0].upper()}{text[1:]}."
    if (accepted := alert.accepted) is not None:
        return f"Accepted as baseline {accepted.name} by {accepted.by or 'unknown'}: {accepted.reason}."
    if alert.is_open:
        return f"{alert.open_for} If it is intended: perfkit ack {alert.event.id} --reason ..."
    return "" if alert.stands else "It was taken back since."
