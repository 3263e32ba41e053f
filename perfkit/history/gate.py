"""A candidate judged against the history of its scenario: the rolling baseline, and the watch over all its series.

Both are asked run after run, so both spend a budget for the whole history: the watch as `perfkit.stats.sequential`
says, the comparison `SPENDING / (n + SPENDING)^2` of alpha when n runs came before (these shares sum to one; alpha
spending, Lan & DeMets 1983, doi:10.1093/biomet/70.3.659).  test_history_budget.py holds it to its word.

A pull request is a candidate of another branch than the history.  It is judged alone, against the present level of the
history's branch: what is open there already is reported, and is no reason to object to it.

Its limit: of a single candidate nobody can tell whether it is an outlier or the first run of a new level.  Where
earlier runs were outliers, it is therefore no regression by itself (`perfkit.history.gate`).

Slow creep against a fixed anchor: many steps, each too small to be called, that together are a regression.

A rolling baseline moves along with a slow change (the frog in the water that gets warmer); a pinned one does not.

The level that a candidate is held against: it does not move along to a worse one that nobody has heard of.

Change points find a new level within few runs, and the rolling baseline begins there.  The watch, whose false alarms
have a budget, may need some runs more.  In between a regression would be in the baseline, and told by nothing.  So the
level before is held until the watch has heard of the change, or it is acknowledged, or it is `NEWS` runs old.

A single candidate may be too little to tell.  So all runs since the change are held against that level too.  Where the
change began was chosen among `NEWS` places at most, so this comparison has that part of the candidate's budget.

May a single run that looks worse be a stray one?  It may, where earlier runs of its history strayed as far.

A comparison takes the noise of runs for what it is most of the time.  Where single runs now and then lie far from the
level and the next ones do not, whatever the reason, one run more that does is no evidence of a new level, however small
its p.  The history itself tells whether it has such runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from perfkit.analysis.compare import judge
from perfkit.analysis.noise_profile import NoiseProfile
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import Acknowledgement, match, softened
from perfkit.history.baselines import Baselines, Pinned
from perfkit.history.change_events import FAR, Event, Series, find_events, shared_alpha
from perfkit.history.confounders import machine_advice
from perfkit.history.monitor import NEWS, SPENDING, Alert, ScenarioWatch, is_beyond, watch_timeline
from perfkit.history.run_selector import HistoryContext, Selected, Selector, before, comparable_runs, select
from perfkit.history.service_mix import in_one_mix, missing_service_advice, missing_services
from perfkit.history.timeline import Timeline, load_timeline, timeline_of, under_names
from perfkit.history.trend import alert_excerpts
from perfkit.model.codec import encode
from perfkit.model.errors import NotComparable, ReadError, did_you_mean
from perfkit.model.omissions import leave_out
from perfkit.model.records import Comparison, Finding, HistoryNote, Metric, Run, Verdict, overall_verdict
from perfkit.runs.service_names import renamed_runs
from perfkit.stats.changepoints import LEAST_RUNS, Segmentation, segment
from perfkit.stats.summary import Floats

NEWEST = 10  # runs that tell the current level


@dataclass(frozen=True, slots=True)
class SlowDrift:
    """The current level of a scenario against one of its pinned baselines."""

    anchor: Pinned
    comparison: Comparison

    @property
    def worse(self) -> tuple[Finding, ...]:
        """What crept away for the worse, beyond its tolerance."""
        return self.comparison.by_verdict(Verdict.REGRESSION)

    @property
    def sentence(self) -> str:
        """What to know of it, in one sentence."""
        current = self.comparison.candidate.runs
        of = f"the pinned baseline {self.anchor.name} ({len(self.anchor.runs)} runs, {self.anchor.created:%Y-%m-%d})"
        if self.comparison.verdict is Verdict.INVALID:
            why = self.comparison.warnings[0] if self.comparison.warnings else "nothing in common"
            return f"The current level cannot be held against {of}: {why}"
        if not self.worse:
            return f"No creep: against {of}, the current level ({_count(current)}) is not shown to be worse."
        moved = ", ".join(_drift(finding) for finding in self.worse[:4])
        more = f" and {len(self.worse) - 4} more" if len(self.worse) > 4 else ""
        return f"Slow creep: against {of}, the current level ({_count(current)}) is worse: {moved}{more}."

    def to_dict(self) -> dict[str, Any]:
        """Anchor, verdict, sentence and what was found."""
        return {
            "baseline": self.anchor.name,
            "verdict": self.comparison.verdict.value,
            "sentence": self.sentence,
            "current_runs": [run.id for run in self.comparison.candidate.runs],
            "findings": encode(self.comparison.findings),
        }


def _count(runs: Sequence[Run]) -> str:
    return f"the newest {len(runs)} runs" if len(runs) > 1 else "the newest run"


def _drift(finding: Finding) -> str:
    unit = finding.change_unit
    size = "from zero" if finding.change is None else f"{finding.change:+.1f}"
    interval = ""
    if finding.ci_low is not None and finding.ci_high is not None:
        interval = f" [{finding.ci_low:+.1f}, {finding.ci_high:+.1f}]"
    return f"{Metric(finding.metric).title} of {finding.label} {size} {unit}{interval}"


def slow_drifts(level: Sequence[Run], past: HistoryContext, policy: Policy) -> tuple[SlowDrift, ...]:
    """The newest runs of a level against every pinned baseline of their scenario that has not expired.

    Anchors whose runs are gone, or are the level itself, are left out.
    """
    found = []
    for anchor in Baselines(past.baselines).all(level[-1].scenario) if level else ():
        if anchor.has_expired(past.now.date()):
            continue
        try:
            runs = select(str(Selector(anchor.scenario, "pinned", anchor.name)), past).runs
        except ReadError as error:
            leave_out(f"{error}; it is left out")
            continue
        own = {run.id for run in runs}
        current = [run for run in level if run.id not in own][-NEWEST:]
        if current:
            found.append(SlowDrift(anchor, judge(runs, current, policy)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class BaselineHold:
    """Runs of a level and those since, oldest first, and the change between them that nobody has heard of yet."""

    runs: tuple[Run, ...]
    since: tuple[Run, ...]
    unheard: Event

    def is_shown_by(
        self, candidates: Sequence[Run], comparison: Comparison, policy: Policy, known: Sequence[Acknowledgement]
    ) -> bool:
        """Whether all runs since the change show that it is a regression, which the candidates have not left behind.

        ``comparison`` is that of the candidates with this level, under ``policy``; what is ``known`` is no regression.
        """
        whole = judge(self.runs, (*self.since, *candidates), replace(policy, alpha=policy.alpha / NEWS))
        called = [item for item in whole.findings if softened(item, known).verdict is Verdict.REGRESSION]
        worse = {(item.label, item.metric) for item in called}
        return any((item.label, item.metric) in worse and _leans_beyond(item) for item in comparison.findings)

    def is_left_by(self, comparison: Comparison) -> bool:
        """Whether the candidates, compared with this level, are no worse where the change was: it was taken back."""
        moved = {(item.service, item.metric) for item in self.unheard.movements if item.is_worse}
        return not any((item.label, item.metric) in moved and _leans_beyond(item) for item in comparison.findings)

    @property
    def note(self) -> str:
        """What to know of it, in one sentence."""
        return (
            f"The history seems to have changed, and the watch has not heard of it yet: {self.unheard.headline} "
            f"Until it has, or `perfkit ack {self.unheard.id}` says that it is fine, the level before is the baseline: "
            f"{len(self.runs)} runs, {self.runs[0].id} to {self.runs[-1].id}."
        )


def baseline_hold(
    runs: Sequence[Run], policy: Policy, watch: ScenarioWatch, known: Sequence[Acknowledgement], today: date
) -> BaselineHold | None:
    """The level before the first unheard worsening among these runs, which are alike, valid and in time order.

    ``None`` where there is no such worsening: the present level is the baseline.
    """
    ids = [run.id for run in runs]
    events = find_events(timeline_of(runs[0].scenario, runs), alpha=policy.alpha)
    quiet = match(events, ids, known, today)
    begin = 0
    for number, event in enumerate(events):
        news = len(runs) - event.index <= NEWS and event.id not in quiet
        if news and _stays_worse(event, events[number + 1 :], policy) and not _is_heard(event, watch, ids):
            return BaselineHold(tuple(runs[begin : event.index]), tuple(runs[event.index :]), event)
        begin = event.index
    return None


def _leans_beyond(finding: Finding) -> bool:
    """Whether it was seen to be worse by more than is accepted, be it by chance or not."""
    return (finding.change or 0.0) * Metric(finding.metric).worse > (finding.tolerance or 0.0)


def _stays_worse(event: Event, later: Sequence[Event], policy: Policy) -> bool:
    """Whether something got worse by more than is accepted, and did not get better since."""
    better = {(item.service, item.metric) for one in later for item in one.movements if not item.is_worse}
    return any(
        item.is_worse and is_beyond(item, policy) and (item.service, item.metric) not in better
        for item in event.movements
    )


def _is_heard(event: Event, watch: ScenarioWatch, run_ids: Sequence[str]) -> bool:
    """Whether there is an alarm about it that somebody must have seen: one that fails, or that was called fine."""
    places = {run_id: index for index, run_id in enumerate(run_ids)}
    heard = [
        one.event
        for one in watch.alerts
        if one.is_confirmed and (one.fails or one.acknowledgement is not None or one.accepted is not None)
    ]
    return any(
        one.kind != "improvement" and abs(places.get(one.id, len(run_ids)) - event.index) <= FAR for one in heard
    )


FAR_ENOUGH = 0.5  # of its distance: a run that strayed so far before makes a single run doubtful
AS_FAR = 0.75  # of it: so far even a run that is no outlier does, such as one on the slower of two kinds of machine


@dataclass(frozen=True, slots=True)
class OutlierRuns:
    """What strayed for the worse in a history.

    Parameters
    ----------
    runs
        Runs that were looked at.
    farthest
        Of each run with an outlier for the worse in any series: the distance from its level, in standard deviations of
        one run.
    noise
        The standard deviation of one run of each series, in its unit.
    worse
        Of each series: by how much each run was worse than its level, in the unit of the series; ``NaN`` where unknown.
    newest
        How many of the newest runs, without a break, lie far from the level for the worse in any series.  They may
        begin a new level, which nobody can tell yet: too few for a change point.
    """

    runs: int
    farthest: Mapping[int, float]
    noise: Mapping[Series, float]
    worse: Mapping[Series, Floats]
    newest: int

    def like(self, finding: Finding) -> int:
        """How many runs strayed about as far as this finding lies from its baseline.

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


def outlier_runs(timeline: Timeline, policy: Policy) -> OutlierRuns:
    """The runs of a history that strayed in any series that the policy judges."""
    timeline, each = in_one_mix(timeline), shared_alpha(timeline, policy.alpha)
    judged = {key: values for key, values in timeline.series.items() if policy.limit(*key) is not None}
    found = {key: segment(values, alpha=each) for key, values in judged.items()}
    farthest: dict[int, float] = {}
    for key, segmentation in found.items():
        for run, distance in _outliers(judged[key], key[1], segmentation):
            farthest[run] = max(distance, farthest.get(run, 0.0))
    worse = {key: _worse(judged[key], key[1], one) for key, one in found.items()}
    newest = max((_newest(judged[key], key[1], one) for key, one in found.items()), default=0)
    return OutlierRuns(len(timeline), farthest, {key: one.noise_sd for key, one in found.items()}, worse, newest)


def _worse(values: Floats, metric: Metric, found: Segmentation) -> Floats:
    """By how much each run is worse than its level."""
    if not found.levels:
        return np.full(len(values), np.nan)
    places = [change.index for change in found.changes]
    levels = np.asarray(found.levels)[np.searchsorted(places, np.arange(len(values)), side="right")]
    worse: Floats = (values - levels) * metric.worse
    return worse


def _newest(values: Floats, metric: Metric, found: Segmentation) -> int:
    """How many of the newest runs of a series, without a break, are outliers for the worse."""
    worse, outliers, count = _worse(values, metric, found), set(found.outliers), 0
    for run in np.nonzero(~np.isnan(values))[0].tolist()[::-1]:
        if run not in outliers or worse[run] <= 0.0:
            break
        count += 1
    return count


def _outliers(values: Floats, metric: Metric, found: Segmentation) -> Iterable[tuple[int, float]]:
    worse = _worse(values, metric, found)
    (known,) = np.nonzero(~np.isnan(values))
    ordinary = np.setdiff1d(known, found.outliers)
    last = int(ordinary[-1]) if ordinary.size else 0
    for run in (one for one in found.outliers if one < last):  # the newest may begin a new level
        if worse[run] > 0.0 and found.noise_sd > 0.0:
            yield run, float(worse[run]) / found.noise_sd


def doubted(findings: Sequence[Finding], strays: OutlierRuns) -> tuple[Finding, ...]:
    """The findings of a single run: what earlier runs strayed as far as is a question, no regression."""
    return tuple(_doubted(finding, strays) for finding in findings)


def _doubted(finding: Finding, strays: OutlierRuns) -> Finding:
    if finding.verdict is not Verdict.REGRESSION or finding.objective:
        return finding
    count = strays.like(finding)
    if not count:
        return finding
    many = f"1 of {strays.runs} earlier runs was" if count == 1 else f"{count} of {strays.runs} earlier runs were"
    warning = f"A single run may be a stray one, as {many}; two more, judged with it, tell."
    return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=2, warnings=(*finding.warnings, warning))


BRANCH_RUNS = 30  # the newest runs that tell the branch of a history


@dataclass(frozen=True, slots=True)
class HistoryJudgement:
    """What the history says of a candidate.

    ``comparison`` is that with the rolling baseline; its verdict takes the watch and what is acknowledged into account.
    """

    comparison: Comparison
    watch: ScenarioWatch
    creep: tuple[SlowDrift, ...]
    known: tuple[Acknowledgement, ...]


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
    own = {run.id for run in candidates}
    named = [branch for run_id, branch in earlier if branch and run_id not in own][-BRANCH_RUNS:]
    branches = {run.git.get("branch", "") for run in candidates}
    main, count = Counter(named).most_common(1)[0] if named else ("", 0)
    if not main or 2 * count < len(named) or "" in branches or main in branches:
        return None
    return PullRequest(", ".join(sorted(branches)), main)


def judge_history(
    candidates: Sequence[Run],
    past: HistoryContext,
    policy: Policy,
    *,
    known: Sequence[Acknowledgement] = (),
    profile: NoiseProfile | None = None,
) -> HistoryJudgement:
    """Judge runs against the runs of their scenario before them.

    Raises
    ------
    NotComparable
        The candidates are of several scenarios, or no valid run is older than they are.
    """
    if policy.service_names:
        candidates = renamed_runs(candidates, policy.service_names)
        past = replace(past, candidates=candidates, service_names=policy.service_names, _read={})
    past = replace(past, alpha=policy.alpha)
    scenario = _scenario(candidates)
    before_them = [(run.id, run.git.get("branch", "")) for run in before(past.runs_of(scenario), past.until)]
    pull = pull_request_of(candidates, before_them)
    selected = _rolling(scenario, past, pull)
    policy = policy.for_scenario(scenario)
    earlier = _earlier(candidates, past, pull)
    timeline = _timeline(() if pull else candidates, past, earlier)
    today = past.now.date()
    pinned = Baselines(past.baselines).all(scenario)
    watch = watch_timeline(timeline, policy, known, today, pinned)
    creep = slow_drifts(selected.runs, past, policy)
    share = replace(policy, alpha=policy.alpha * SPENDING / (len(earlier) + SPENDING) ** 2)
    held = baseline_hold(earlier, policy, watch, known, today) if pull is None else None
    strays = outlier_runs(timeline_of(scenario, earlier), policy) if policy.rule == "evidence" else None
    if held is not None:
        selected = replace(selected, runs=held.runs, warnings=(*selected.warnings, held.note))
    elif pull is None and strays is not None:
        selected = _without_newest_outliers(selected, earlier, strays.newest)
    near = _in_reach(known, selected.runs, timeline, today)
    comparison = _softened(judge(selected.runs, candidates, share, profile), near, policy)
    if comparison.comparable:
        if held is not None and held.is_left_by(comparison):
            watch = replace(watch, alerts=tuple(one for one in watch.alerts if one.is_confirmed))
        failing = [alert for alert in watch.alerts if alert.fails and pull is None]
        news = [f"{alert.event.headline} {alert.open_for}" for alert in failing]
        is_told = held is not None and any(held.unheard.id == alert.event.id for alert in failing)
        if held is not None and not is_told and held.is_shown_by(candidates, comparison, share, near):
            news.append(held.unheard.headline)
        if len(candidates) == 1 and strays is not None:
            findings = doubted(comparison.findings, strays)
            comparison = replace(
                comparison, findings=findings, verdict=overall_verdict(findings, policy.rule, comparison.gaps)
            )
        is_pending = pull is None and any(alert.is_open for alert in watch.alerts)
        comparison = replace(comparison, verdict=_with_history(comparison.verdict, bool(news), is_pending))
    else:
        news = []
    notes = (*selected.warnings, *(one.sentence for one in creep if one.worse))
    document = _document(comparison, watch, creep, selected, held) | {"courses": alert_excerpts(timeline, watch)}
    if pull is not None:
        notes = (*notes, *(open_already_sentence(alert) for alert in watch.alerts if alert.is_open))
        document |= _of_pull_request(pull, watch)
    lines = (*_lines(watch, selected, comparison, pull), *(one.sentence for one in creep if not one.worse))
    comparison = replace(comparison.with_warnings(notes), history=HistoryNote(tuple(news), lines, document))
    return HistoryJudgement(comparison, watch, creep, tuple(near))


def _with_history(verdict: Verdict, fails: bool, is_pending: bool) -> Verdict:
    """A verdict on candidates, whose history may hold a worsening that is shown, or one that is not confirmed yet."""
    if fails:
        return Verdict.REGRESSION
    return Verdict.INCONCLUSIVE if is_pending and verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT) else verdict


def open_already_sentence(alert: Alert) -> str:
    """What a pull request, or any comparison with a baseline of its own, is told of an alert of the history."""
    return f"Open already since {alert.since}, and not judged here: {alert.event.headline}"


def open_in_history(
    candidates: Sequence[Run], past: HistoryContext, policy: Policy, known: Sequence[Acknowledgement]
) -> tuple[str, ...]:
    """Sentences on what is open in the history of the candidates' scenario, before them and on its own branch."""
    scenarios = {run.scenario for run in candidates}
    if len(scenarios) != 1 or not len(past.store.runs(scenario=next(iter(scenarios)), ab_test=False)):
        return ()
    scenario, own, until = next(iter(scenarios)), {run.id for run in candidates}, past.until
    whole = under_names(load_timeline(past.store, scenario), policy.service_names)
    pull = pull_request_of(candidates, [(moment.run_id, moment.branch) for moment in whole.moments])
    kept = [
        number
        for number, moment in enumerate(whole.moments)
        if moment.run_id not in own
        and (until is None or (moment.started_at is not None and moment.started_at < until))
        and (pull is None or moment.branch in ("", pull.history_branch))
    ]
    if not any(whole.moments[number].valid for number in kept):
        return ()
    baselines = Baselines(past.baselines).all(scenario)
    watch = watch_timeline(whole.part(kept), policy.for_scenario(scenario), known, past.now.date(), baselines)
    return tuple(open_already_sentence(alert) for alert in watch.alerts if alert.is_open)


def _of_pull_request(pull: PullRequest, watch: ScenarioWatch) -> dict[str, Any]:
    """What is open belongs to the history: it is no alert of this comparison."""
    return {
        "pull_request": {"branch": pull.branch, "history_branch": pull.history_branch},
        "alerts": [],
        "open_already": [alert.to_dict() for alert in watch.alerts if alert.is_open],
        "courses": [],
    }


def _scenario(candidates: Sequence[Run]) -> str:
    scenarios = sorted({run.scenario for run in candidates})
    if len(scenarios) != 1:
        raise NotComparable(
            f"the candidates are of the scenarios {', '.join(scenarios)}: name a baseline, or one scenario"
        )
    return scenarios[0]


def _rolling(scenario: str, past: HistoryContext, pull: PullRequest | None) -> Selected:
    try:
        return select(f"{scenario}@rolling{f':{pull.history_branch}' if pull else ''}", past)
    except ReadError as error:
        raise NotComparable(
            f"{scenario}: {past.store.url} has no earlier valid run of this scenario to judge against"
            f"{_near(scenario, past)}; name a baseline, or keep this run as the first of its history"
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


def _near(scenario: str, past: HistoryContext) -> str:
    names = list(dict.fromkeys(past.store.runs()["scenario"]))
    return "" if scenario in names else did_you_mean(scenario, names)


def _earlier(candidates: Sequence[Run], past: HistoryContext, pull: PullRequest | None) -> tuple[Run, ...]:
    """The valid runs before the candidates that may be held against them, at least one; of the history's branch."""
    own = {run.id for run in candidates}
    valid = [run for run in before(past.runs_of(candidates[0].scenario), past.until) if run.validity.ok]
    if pull is not None:
        valid = [run for run in valid if run.git.get("branch", "") in ("", pull.history_branch)]
    return comparable_runs([run for run in valid if run.id not in own], candidates[0])[0]


def _timeline(candidates: Sequence[Run], past: HistoryContext, earlier: Sequence[Run]) -> Timeline:
    """The runs before the candidates, invalid ones, and the candidates."""
    own = {run.id for run in past.candidates}
    every = before(past.runs_of(earlier[0].scenario), past.until)
    invalid = [run for run in every if not run.validity.ok and run.id not in own]
    return timeline_of(earlier[0].scenario, [*earlier, *invalid, *candidates])


def _in_reach(
    known: Sequence[Acknowledgement], baseline: Sequence[Run], timeline: Timeline, today: date
) -> list[Acknowledgement]:
    """What was acknowledged between the baseline, or most of it, and the candidates."""
    ids = [moment.run_id for moment in timeline.moments]
    places = sorted(ids.index(run.id) for run in baseline)
    middle = places[len(places) // 2]
    found = []
    for one in known:
        at = one.place_in(ids) if one.scenario == timeline.scenario and one.holds_on(today) else None
        if at is not None and middle < at:
            found.append(one)
    return found


def _softened(comparison: Comparison, near: Sequence[Acknowledgement], policy: Policy) -> Comparison:
    if not near or not comparison.comparable:
        return comparison
    findings = tuple(softened(finding, near) for finding in comparison.findings)
    return replace(comparison, findings=findings, verdict=overall_verdict(findings, policy.rule, comparison.gaps))


def _document(
    comparison: Comparison,
    watch: ScenarioWatch,
    creep: Sequence[SlowDrift],
    selected: Selected,
    held: BaselineHold | None,
) -> dict[str, Any]:
    return {
        "baseline": str(selected.selector),
        "baseline_runs": [run.id for run in selected.runs],
        "held_before": held.unheard.id if held is not None else None,
        "alpha_of_this_comparison": comparison.alpha,
        **watch.to_dict(),
        "anchors": [one.to_dict() for one in creep],
        "advice": list(_advice(comparison, watch)),
    }


def _lines(watch: ScenarioWatch, selected: Selected, comparison: Comparison, pull: PullRequest | None) -> list[str]:
    since = f" since {watch.since.started_at:%Y-%m-%d}" if watch.since.started_at else ""
    bad = f" ({watch.invalid} more were invalid)" if watch.invalid else ""
    lines = [
        f"Baseline {selected.selector}: {_runs(len(selected.runs))}, {selected.runs[0].id} to {selected.runs[-1].id}.",
        f"This comparison has {comparison.alpha:.2g} of the chance of {watch.alpha:g} that comparing run after run "
        f"ever raises a false alarm.{_single(comparison)}",
        f"Watching {_runs(watch.runs)} of {watch.scenario}{since}{bad}: {watch.series} series, one budget for all "
        f"(alpha {watch.alpha:g}). {_voice(watch)}",
    ]
    if pull is not None:
        lines.append(
            f"The candidate is of the branch {pull.branch}, the history of {pull.history_branch}: judged as a pull "
            "request, by what it changes itself."
        )
    for alert in watch.alerts:
        heard = alert.doubt
        if alert.raised_at is not None:
            heard = f"Heard at run {alert.raised_at.run_id}, {_runs(alert.runs_ago)} ago."
        lines.append(f"{alert.event.headline} {heard} {_standing(alert)}".rstrip())
    lines += [change.headline for change in watch.services_changed]
    return lines


def _advice(comparison: Comparison, watch: ScenarioWatch) -> Iterator[str]:
    """What the next step names beside the findings."""
    if advice := machine_advice(comparison):
        yield advice
    for name, change in missing_services(watch.services_changed):
        yield missing_service_advice(name, change)


def _single(comparison: Comparison) -> str:
    """A single run may be an outlier."""
    if len(comparison.candidate.runs) > 1 or not comparison.by_verdict(Verdict.REGRESSION):
        return ""
    return " A single run may be an outlier: two more, judged together with it, tell."


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _voice(watch: ScenarioWatch) -> str:
    if watch.silent == 0:
        return "All of them may speak."
    who = "It" if watch.silent == watch.series else f"{watch.silent} of them"
    count = watch.runs_to_learn
    return f"{who} may not speak before {count} more run{'' if count == 1 else 's'}."


def _standing(alert: Alert) -> str:
    known, accepted = alert.acknowledgement, alert.accepted
    if known is not None:
        return f"{known.describe()[0].upper()}{known.describe()[1:]}."
    if accepted is not None:
        return f"Accepted as baseline {accepted.name} by {accepted.by or 'unknown'}: {accepted.reason}."
    if alert.is_open:
        return f"{alert.open_for} If it is intended: perfkit ack {alert.event.id} --reason ..."
    return "" if alert.stands else "It was taken back since."
