"""The history gate: a candidate judged against the runs of its scenario before it.

It is compared with the rolling baseline, and the history with it goes to the sequential monitor.  Both are asked run
after run, so both spend alpha once for the whole history: the monitor as `perfkit.stats.sequential` says, the
comparison `SPENDING / (n + SPENDING)^2` of it when n runs came before (these shares sum to one; alpha spending, Lan &
DeMets 1983, doi:10.1093/biomet/70.3.659).  test_history_budget.py holds it to that.

A pull request is a candidate of another branch than the history.  It is judged alone, against the present level of the
history's branch: what is open there already is reported, and is no reason to object to it.

Limit: of a single candidate nobody can tell whether it is an outlier or the first run of a new level.  Where earlier
runs were outliers, it is therefore no regression by itself (`OutlierRuns`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from perfkit.analysis.comparability import machine_advice
from perfkit.analysis.compare import judge
from perfkit.analysis.noise_profile import NoiseProfile, weekdays_of
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import Acknowledgement, match, with_acknowledgement
from perfkit.history.baselines import Baselines, Pinned
from perfkit.history.change_events import FAR, HistoryAnalysis
from perfkit.history.confounders import missing_service_advice, missing_services
from perfkit.history.events import Event, Series
from perfkit.history.monitor import (
    MOST_EXCERPTS,
    NEWS,
    SPENDING,
    Alert,
    MonitorResult,
    excerpt,
    is_beyond,
    monitor_timeline,
)
from perfkit.history.run_selector import (
    ChosenRuns,
    HistoryContext,
    Selector,
    before,
    choose_runs,
    comparable_runs,
    select,
)
from perfkit.history.timeline import load_timeline
from perfkit.model.codec import encode
from perfkit.model.errors import NotComparable, NotStored, ReadError, did_you_mean, leave_out
from perfkit.model.records import Comparison, Finding, HistoryNote, Metric, Run, Verdict, overall_verdict
from perfkit.runs.collection import labels_text
from perfkit.runs.requests import renamed_runs
from perfkit.stats.changepoints import LEAST_RUNS
from perfkit.stats.summary import Floats

NEWEST = 10  # runs of the present level that are compared with a pinned baseline
# Of a finding's distance from its baseline: an earlier outlier so far away makes a single run doubtful
FAR_ENOUGH = 0.5
AS_FAR = 0.75  # of it: so far even a run that is no outlier does, such as one on the slower of two kinds of machine
BRANCH_RUNS = 30  # the newest runs that tell the branch of a history


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
    acknowledgements: Sequence[Acknowledgement] = (),
) -> Comparison:
    """The comparison of runs with the rolling baseline of their scenario, and what the history before them says.

    The verdict takes the monitor and what is acknowledged into account; `Comparison.history` has what led there.
    ``NotComparable``: the candidates are of several scenarios, or no valid run is older than they are.
    """
    context = under_policy(replace(context, candidates=tuple(candidates)), policy)
    candidates = context.candidates
    scenarios = sorted({run.scenario for run in candidates})
    if len(scenarios) != 1:
        names = ", ".join(scenarios)
        raise NotComparable(f"the candidates are of the scenarios {names}: name a baseline, or one scenario")
    scenario = scenarios[0]
    policy, today = policy.for_scenario(scenario), context.now.date()
    before_them = before(context.runs_of(scenario), context.until)
    pull = pull_request_of(candidates, [(run.id, run.git.get("branch", "")) for run in before_them])
    try:
        selected = select(f"{scenario}@rolling{f':{pull.history_branch}' if pull else ''}", context)
    except ReadError as error:
        with_labels = f", labelled {labels_text(context.labels)}," if context.labels else ""
        near_name = "" if scenario in context.scenarios else did_you_mean(scenario, context.scenarios)
        raise NotComparable(
            f"{scenario}: {context.store.url} has no earlier valid run of this scenario{with_labels} to judge against"
            f"{near_name}; name a baseline, or keep this run as the first of its history"
        ) from error

    # The runs before the candidates that they may be compared with, of the history's branch; at least one
    judged = {run.id for run in candidates}
    valid = [run for run in before_them if run.validity.ok and run.id not in judged]
    if pull is not None:
        valid = [run for run in valid if run.git.get("branch", "") in ("", pull.history_branch)]
    earlier, _ = comparable_runs(valid, candidates[0])
    invalid = [run for run in before_them if not run.validity.ok and run.id not in judged]
    history = context.analysis([*earlier, *invalid, *(() if pull else candidates)])

    monitor = monitor_timeline(history, policy, acknowledgements, today, Baselines(context.baselines).all(scenario))
    drifts = slow_drifts(selected.runs, context, policy)
    hold = baseline_hold(earlier, context, policy, monitor, acknowledgements, today) if pull is None else None
    outliers = outlier_runs(context.analysis(earlier), policy) if policy.rule == "evidence" else None
    if hold is not None:
        selected = replace(selected, runs=hold.runs, warnings=(*selected.warnings, hold.note))
    elif pull is None and outliers is not None:
        selected = _without_newest_outliers(selected, earlier, outliers.newest)

    share = replace(policy, alpha=policy.alpha * SPENDING / (len(earlier) + SPENDING) ** 2)
    weekdays = weekdays_of(earlier)
    comparison = judge(selected.runs, candidates, share, weekdays)
    # What was acknowledged between the baseline, or most of it, and the candidates
    ids = history.run_ids
    middle = sorted(ids.index(run.id) for run in selected.runs)[len(selected.runs) // 2]
    in_force = (item for item in acknowledgements if item.scenario == scenario and item.holds_on(today))
    near = [item for item in in_force if (at := item.index_in(ids)) is not None and middle < at]
    if near and comparison.comparable:
        comparison = _with_findings(
            comparison, (with_acknowledgement(finding, near) for finding in comparison.findings), policy
        )
    reasons: list[str] = []
    if comparison.comparable:
        if hold is not None and hold.is_left_by(comparison):
            monitor = replace(monitor, alerts=tuple(alert for alert in monitor.alerts if alert.is_confirmed))
        failing = [alert for alert in monitor.alerts if alert.fails and pull is None]
        reasons = [f"{alert.event.headline} {alert.open_for}" for alert in failing]
        is_listed = hold is not None and any(hold.undetected.id == alert.event.id for alert in failing)
        if hold is not None and not is_listed and hold.is_shown_by(candidates, comparison, share, weekdays, near):
            reasons.append(hold.undetected.headline)
        if len(candidates) == 1 and outliers is not None:
            comparison = _with_findings(comparison, map(outliers.doubted, comparison.findings), policy)
        is_pending = pull is None and any(alert.is_open for alert in monitor.alerts)
        if reasons:
            comparison = replace(comparison, verdict=Verdict.REGRESSION)
        elif is_pending and comparison.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
            comparison = replace(comparison, verdict=Verdict.INCONCLUSIVE)

    warnings = [*selected.warnings, *(drift.sentence for drift in drifts if drift.worse)]
    leading = [key for key in monitor.leading_series if key in history.timeline.series]
    document = {
        "labels": dict(context.labels),
        "baseline": str(selected.selectors[0]),
        "baseline_runs": [run.id for run in selected.runs],
        "held_before": hold.undetected.id if hold is not None else None,
        "alpha_of_this_comparison": comparison.alpha,
        **monitor.to_dict(),
        "anchors": [drift.to_dict() for drift in drifts],
        "advice": [
            *filter(None, [machine_advice(comparison)]),
            *(missing_service_advice(name, change) for name, change in missing_services(monitor.services_changed)),
        ],
        "courses": [excerpt(history, key) for key in leading[:MOST_EXCERPTS]],
    }
    if pull is not None:  # what is open belongs to the history: it is no alert of this comparison
        still_open = [alert for alert in monitor.alerts if alert.is_open]
        warnings += map(open_already_sentence, still_open)
        document |= {
            "pull_request": {"branch": pull.branch, "history_branch": pull.history_branch},
            "alerts": [],
            "open_already": [alert.to_dict() for alert in still_open],
            "courses": [],
        }
    labelled = [f"Only runs labelled {labels_text(context.labels)} count as its history."] if context.labels else []
    lines = (
        *labelled,
        *_lines(monitor, selected, comparison, pull),
        *(drift.sentence for drift in drifts if not drift.worse),
    )
    note = HistoryNote(tuple(reasons), lines, document)
    return replace(comparison.with_warnings(warnings), history=note)


def under_policy(context: HistoryContext, policy: Policy) -> HistoryContext:
    """The same histories, and candidates, under the alpha of a policy and its names of services."""
    if (context.alpha, context.service_names) == (policy.alpha, policy.service_names) and not policy.service_names:
        return context
    candidates = renamed_runs(context.candidates, policy.service_names)
    names, analysed = policy.service_names, context.analysed if context.service_names == policy.service_names else None
    return replace(context, candidates=candidates, service_names=names, alpha=policy.alpha, analysed=analysed)


def choose_baseline(names: Iterable[str | Path], context: HistoryContext, policy: Policy) -> ChosenRuns:
    """`choose_runs` for the baseline of the context's candidates, with a warning of slow drift of a rolling one."""
    context = under_policy(context, policy)
    chosen = choose_runs(names, context)
    if not any(selector.kind == "rolling" for selector in chosen.selectors):
        return chosen
    drifts = [drift.sentence for drift in slow_drifts(chosen.runs, context, policy) if drift.worse]
    return replace(chosen, warnings=tuple(dict.fromkeys((*chosen.warnings, *drifts))))


def open_already_sentence(alert: Alert) -> str:
    """How a pull request, or any comparison with a baseline of its own, names an alert of the history."""
    return f"Open already since {alert.since}, and not judged here: {alert.event.headline}"


def open_in_history(
    context: HistoryContext, policy: Policy, acknowledgements: Sequence[Acknowledgement]
) -> tuple[str, ...]:
    """Sentences on what is open in the history of the candidates' scenario, before them and on its own branch."""
    candidates = context.candidates
    scenarios = {run.scenario for run in candidates}
    if len(scenarios) != 1:
        return ()
    scenario, judged, until = next(iter(scenarios)), {run.id for run in candidates}, context.until
    try:
        whole = load_timeline(context.store, scenario, service_names=policy.service_names, labels=context.labels)
    except NotStored:  # none of its runs belongs to a history, or has the labels
        return ()
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
    monitor = monitor_timeline(history, policy.for_scenario(scenario), acknowledgements, context.now.date(), baselines)
    return tuple(open_already_sentence(alert) for alert in monitor.alerts if alert.is_open)


def _without_newest_outliers(selected: ChosenRuns, earlier: Sequence[Run], count: int) -> ChosenRuns:
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


def _lines(
    monitor: MonitorResult, selected: ChosenRuns, comparison: Comparison, pull: PullRequest | None
) -> Iterator[str]:
    """How the comparison was made, and what the history shows, in sentences."""
    first, last = selected.runs[0].id, selected.runs[-1].id
    yield f"Baseline {selected.selectors[0]}: {_runs(len(selected.runs))}, {first} to {last}."
    is_single = len(comparison.candidate.runs) == 1 and comparison.by_verdict(Verdict.REGRESSION)
    single = " A single run may be an outlier: two more, judged together with it, tell." if is_single else ""
    yield (
        f"This comparison has {comparison.alpha:.2g} of the chance of {monitor.alpha:g} that comparing run after run "
        f"ever raises a false alarm.{single}"
    )
    since = f" since {monitor.since.started_at:%Y-%m-%d}" if monitor.since.started_at else ""
    bad = f" ({monitor.invalid} more were invalid)" if monitor.invalid else ""
    more = f"{monitor.runs_to_learn} more run{'' if monitor.runs_to_learn == 1 else 's'}"
    alerting = "Alerts cover all of them."
    if monitor.warming_up:
        which = "History alerts" if monitor.warming_up == monitor.series else f"Alerts of {monitor.warming_up} of them"
        alerting = f"{which} start after {more}."
    yield (
        f"Watching {_runs(monitor.runs)} of {monitor.scenario}{since}{bad}: {monitor.series} series, one alpha for all "
        f"({monitor.alpha:g}). {alerting}"
    )
    if pull is not None:
        yield (
            f"The candidate is of the branch {pull.branch}, the history of {pull.history_branch}: judged as a pull "
            "request, by what it changes itself."
        )
    for alert in monitor.alerts:
        detected, state = alert.doubt, "" if alert.stands else "It was taken back since."
        if alert.detected_at is not None:
            detected = f"Detected at run {alert.detected_at.run_id}, {_runs(alert.runs_ago)} ago."
        if alert.acknowledgement is not None:
            text = alert.acknowledgement.describe()
            state = f"{text[0].upper()}{text[1:]}."
        elif (accepted := alert.accepted) is not None:
            state = f"Accepted as baseline {accepted.name} by {accepted.by or 'unknown'}: {accepted.reason}."
        elif alert.is_open:
            state = f"{alert.open_for} If it is intended: perfkit ack {alert.event.id} --reason ..."
        yield f"{alert.event.headline} {detected} {state}".rstrip()
    yield from (change.headline for change in monitor.services_changed)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


@dataclass(frozen=True, slots=True)
class BaselineHold:
    """The baseline, held at the level before a worsening that the monitor has not detected yet.

    Change points find a new level within few runs, and the rolling baseline begins there.  The monitor, whose false
    alarms have a budget, may need some runs more; in between a regression would be in the baseline, and reported by
    nothing.  So the level before is held until the monitor alerts of the change, or it is acknowledged, or it is `NEWS`
    runs old.

    A single candidate may be too little to tell, so all runs since the change are compared with that level too.  Where
    the change began was chosen among `NEWS` places at most, so this comparison has that part of the candidate's alpha.
    """

    # runs, since: the runs of that level and those since, oldest first
    runs: tuple[Run, ...]
    since: tuple[Run, ...]
    undetected: Event

    def is_shown_by(
        self,
        candidates: Sequence[Run],
        comparison: Comparison,
        policy: Policy,
        weekdays: NoiseProfile,
        acknowledgements: Sequence[Acknowledgement],
    ) -> bool:
        """Whether all runs since the change show that it is a regression, which the candidates have not left behind.

        ``comparison`` is that of the candidates with this level, under ``policy``; what is acknowledged is no
        regression.
        """
        whole = judge(self.runs, (*self.since, *candidates), replace(policy, alpha=policy.alpha / NEWS), weekdays)
        called = (with_acknowledgement(item, acknowledgements) for item in whole.findings)
        worse = {(item.label, item.metric) for item in called if item.verdict is Verdict.REGRESSION}
        return any((item.label, item.metric) in worse and _leans_beyond(item) for item in comparison.findings)

    def is_left_by(self, comparison: Comparison) -> bool:
        """Whether the candidates, compared with this level, are no worse where the change was: it was taken back."""
        moved = {item.key for item in self.undetected.changes if item.is_worse}
        return not any((item.label, item.metric) in moved and _leans_beyond(item) for item in comparison.findings)

    @property
    def note(self) -> str:
        return (
            f"The history seems to have changed, and its monitor has not alerted yet: {self.undetected.headline} "
            f"Until it has, or `perfkit ack {self.undetected.id}` says that it is fine, the level before is the "
            f"baseline: {len(self.runs)} runs, {self.runs[0].id} to {self.runs[-1].id}."
        )


def _leans_beyond(finding: Finding) -> bool:
    """Whether it was seen to be worse by more than the tolerance, be it by chance or not."""
    return (finding.change or 0.0) * Metric(finding.metric).worse > (finding.tolerance or 0.0)


def baseline_hold(
    runs: Sequence[Run],
    context: HistoryContext,
    policy: Policy,
    monitor: MonitorResult,
    acknowledgements: Sequence[Acknowledgement],
    today: date,
) -> BaselineHold | None:
    """The level before the first undetected worsening among comparable, valid runs in time order; else ``None``."""
    ids = [run.id for run in runs]
    events = context.analysis(runs).events
    acknowledged = match(events, ids, acknowledgements, today)
    index_of = {run_id: index for index, run_id in enumerate(ids)}
    # Alerts that somebody must have seen: those that fail, or that were called fine
    detected = [
        index_of.get(alert.event.id, len(ids))
        for alert in monitor.alerts
        if alert.is_confirmed
        and (alert.fails or alert.acknowledgement is not None or alert.accepted is not None)
        and alert.event.kind != "improvement"
    ]
    begin = 0
    for number, event in enumerate(events):
        later = events[number + 1 :]
        better = {item.key for other in later for item in other.changes if not item.is_worse}
        stays_worse = any(
            item.is_worse and is_beyond(item, policy) and item.key not in better for item in event.changes
        )
        is_new = len(runs) - event.index <= NEWS and event.id not in acknowledged
        if is_new and stays_worse and not any(abs(index - event.index) <= FAR for index in detected):
            return BaselineHold(tuple(runs[begin : event.index]), tuple(runs[event.index :]), event)
        begin = event.index
    return None


@dataclass(frozen=True, slots=True)
class SlowDrift:
    """The newest runs of the present level, compared with a pinned baseline of their scenario.

    Many steps, each too small to be called, are together a regression.  A rolling baseline moves along with them; a
    pinned one does not.
    """

    anchor: Pinned
    comparison: Comparison

    @property
    def worse(self) -> tuple[Finding, ...]:
        return self.comparison.by_verdict(Verdict.REGRESSION)

    @property
    def sentence(self) -> str:
        runs = self.comparison.candidate.runs
        current = f"the newest {len(runs)} runs" if len(runs) > 1 else "the newest run"
        of = f"the pinned baseline {self.anchor.name} ({len(self.anchor.runs)} runs, {self.anchor.created:%Y-%m-%d})"
        if self.comparison.verdict is Verdict.INVALID:
            why = self.comparison.warnings[0] if self.comparison.warnings else "nothing in common"
            return f"The current level cannot be compared with {of}: {why}"
        if not self.worse:
            return f"No slow drift: against {of}, the current level ({current}) is not shown to be worse."
        sizes = []
        for finding in self.worse[:4]:
            size = "from zero" if finding.change is None else f"{finding.change:+.1f}"
            has_interval = finding.ci_low is not None and finding.ci_high is not None
            interval = f" [{finding.ci_low:+.1f}, {finding.ci_high:+.1f}]" if has_interval else ""
            sizes.append(f"{finding.title} of {finding.label} {size} {finding.change_unit}{interval}")
        more = f" and {len(self.worse) - 4} more" if len(self.worse) > 4 else ""
        return f"Slow drift: against {of}, the current level ({current}) is worse: {', '.join(sizes)}{more}."

    def to_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.anchor.name,
            "verdict": self.comparison.verdict.value,
            "sentence": self.sentence,
            "current_runs": [run.id for run in self.comparison.candidate.runs],
            "findings": encode(self.comparison.findings),
        }


def slow_drifts(level: Sequence[Run], context: HistoryContext, policy: Policy) -> tuple[SlowDrift, ...]:
    """The newest runs of a level against every pinned baseline that has not expired and whose runs are others."""
    drifts = []
    for anchor in Baselines(context.baselines).all(level[-1].scenario) if level else ():
        if anchor.has_expired(context.now.date()):
            continue
        try:
            runs = select(str(Selector(anchor.scenario, "pinned", anchor.name)), context).runs
        except ReadError as error:
            leave_out(f"{error}; it is left out")
            continue
        anchored = {run.id for run in runs}
        current = [run for run in level if run.id not in anchored][-NEWEST:]
        if current:
            drifts.append(SlowDrift(anchor, judge(runs, current, policy)))
    return tuple(drifts)


@dataclass(frozen=True, slots=True)
class OutlierRuns:
    """The runs of a history that lay far from its level for the worse.

    A comparison takes the noise of runs for what it is most of the time.  Where single runs now and then lie far from
    the level and the next ones do not, one run more that does is no evidence of a new level, however small its p.
    """

    runs: int  # runs that were looked at
    # of each run with an outlier for the worse in any series: the distance from its level, in standard deviations of
    # one run
    farthest: Mapping[int, float]
    noise: Mapping[Series, float]  # the standard deviation of one run of each series, in its unit
    # of each series: by how much each run was worse than its level, in the unit of the series; ``NaN`` where unknown
    worse: Mapping[Series, Floats]
    # how many of the newest runs, without a break, lie far from the level for the worse in any series.  They may begin
    # a new level, which nobody can tell yet: too few for a change point
    newest: int

    def as_far(self, finding: Finding) -> int:
        """How many runs lay about as far from their level as this finding lies from its baseline.

        Outliers `FAR_ENOUGH` as far, in any series, and runs of the same series `AS_FAR`: but none of the newest that
        all did, which may begin a new level.
        """
        key = (finding.label, Metric(finding.metric))
        sd, change = self.noise.get(key, 0.0), abs(finding.change_abs or 0.0)
        distance = change / sd if sd > 0.0 else 0.0
        runs = {run for run, far in self.farthest.items() if far >= FAR_ENOUGH * distance}
        worse = self.worse.get(key, np.empty(0))
        (ordinary,) = np.nonzero(worse < FAR_ENOUGH * change)
        before = worse[: ordinary[-1]] if ordinary.size else worse[:0]
        return len(runs.union(np.nonzero(before >= AS_FAR * change)[0].tolist()))

    def doubted(self, finding: Finding) -> Finding:
        """The finding of a single run: a regression is inconclusive where earlier runs lay as far from the level."""
        if finding.verdict is not Verdict.REGRESSION or finding.objective or not (count := self.as_far(finding)):
            return finding
        many = f"1 of {self.runs} earlier runs was" if count == 1 else f"{count} of {self.runs} earlier runs were"
        warning = f"A single run may be an outlier, as {many}; two more, judged with it, tell."
        return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=2, warnings=(*finding.warnings, warning))


def outlier_runs(history: HistoryAnalysis, policy: Policy) -> OutlierRuns:
    """The outlier runs of a history, in the series that the policy judges."""
    farthest: dict[int, float] = {}
    noise: dict[Series, float] = {}
    worse_of: dict[Series, Floats] = {}
    most_newest = 0
    for key, values in history.usual.series.items():
        if policy.limit(*key) is None:
            continue
        segmentation = history.segmentation(key)
        worse = np.full(len(values), np.nan)
        if segmentation.levels:
            edges = [change.index for change in segmentation.changes]
            level = np.searchsorted(edges, np.arange(len(values)), side="right")
            worse = (values - np.asarray(segmentation.levels)[level]) * key[1].worse
        noise[key], worse_of[key] = segmentation.noise_sd, worse
        (measured,) = np.nonzero(~np.isnan(values))
        ordinary = np.setdiff1d(measured, segmentation.outliers)
        last = int(ordinary[-1]) if ordinary.size else 0
        for run in segmentation.outliers:
            if run < last and worse[run] > 0.0 and segmentation.noise_sd > 0.0:  # later ones may begin a new level
                farthest[run] = max(float(worse[run]) / segmentation.noise_sd, farthest.get(run, 0.0))
        newest = 0
        for run in measured.tolist()[::-1]:
            if run not in segmentation.outliers or worse[run] <= 0.0:
                break
            newest += 1
        most_newest = max(most_newest, newest)
    return OutlierRuns(len(history.timeline), farthest, noise, worse_of, most_newest)
