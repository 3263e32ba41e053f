"""A candidate judged against the history of its scenario: the rolling baseline, and the watch over all its series.

Both are asked run after run, so both spend a budget for the whole history: the watch as `perfkit.stats.watch` says, the
comparison `SPENDING / (n + SPENDING)^2` of alpha when n runs came before (these shares sum to one; alpha spending, Lan
& DeMets 1983, doi:10.1093/biomet/70.3.659).  tests/test_history_budget.py holds it to its word.

Its limit: of a single candidate nobody can tell whether it is an outlier or the first run of a new level.  Where
earlier runs were outliers, it is therefore no regression by itself (`perfkit.history.strays`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from perfkit.errors import NotComparable, ReadError, did_you_mean
from perfkit.history.acknowledged import Acknowledgement, softened
from perfkit.history.creep import Creep, creep_of
from perfkit.history.excerpt import heard_courses
from perfkit.history.holding import Held, held_level
from perfkit.history.selection import Past, Selected, alike, before, select
from perfkit.history.strays import doubted, strays_of
from perfkit.history.timeline import Timeline, timeline_of
from perfkit.history.watching import ScenarioWatch, watch_timeline
from perfkit.judge import judge, overall
from perfkit.model import Comparison, HistoryNote, Run, Verdict
from perfkit.noise_profile import NoiseProfile
from perfkit.policy import Policy
from perfkit.service_names import renamed_runs

SPENDING = 30.0  # runs, after which half of the budget is spent


@dataclass(frozen=True, slots=True)
class AgainstHistory:
    """What the history says of a candidate.

    ``comparison`` is that with the rolling baseline; its verdict takes the watch and what is acknowledged into account.
    """

    comparison: Comparison
    watch: ScenarioWatch
    creep: tuple[Creep, ...]
    known: tuple[Acknowledgement, ...]


def judge_history(
    candidates: Sequence[Run],
    past: Past,
    policy: Policy,
    *,
    known: Sequence[Acknowledgement] = (),
    profile: NoiseProfile | None = None,
) -> AgainstHistory:
    """Judge runs against the runs of their scenario before them.

    Raises
    ------
    NotComparable
        The candidates are of several scenarios, or no valid run is older than they are.
    """
    if policy.service_names:
        candidates = renamed_runs(candidates, policy.service_names)
        past = replace(past, candidates=candidates, service_names=policy.service_names, _read={})
    selected = _rolling(candidates, past)
    policy = policy.for_scenario(candidates[0].scenario)
    earlier = _earlier(candidates, past)
    timeline = _timeline(candidates, past, earlier)
    today = past.now.date()
    watch = watch_timeline(timeline, policy, known, today)
    creep = creep_of(selected.runs, past, policy)
    share = replace(policy, alpha=policy.alpha * SPENDING / (len(earlier) + SPENDING) ** 2)
    held = held_level(earlier, policy, watch, known, today)
    if held is not None:
        selected = replace(selected, runs=held.runs, warnings=(*selected.warnings, held.note))
    near = _in_reach(known, selected.runs, timeline, today)
    comparison = _softened(judge(selected.runs, candidates, share, profile), near, policy)
    if comparison.comparable:
        news = [alert.event.headline for alert in watch.alerts if alert.fails]
        if held is not None and held.is_shown_by(candidates, comparison, share, near):
            news.append(held.unheard.headline)
        if len(candidates) == 1 and policy.rule == "evidence":
            findings = doubted(comparison.findings, strays_of(timeline_of(candidates[0].scenario, earlier), policy))
            comparison = replace(comparison, findings=findings, verdict=overall(findings, policy, comparison.gaps))
        comparison = replace(comparison, verdict=Verdict.REGRESSION if news else comparison.verdict)
    else:
        news = []
    notes = (*selected.warnings, *(one.sentence for one in creep if one.worse))
    document = _document(comparison, watch, creep, selected, held) | {"courses": heard_courses(timeline, watch)}
    lines = (*_lines(watch, selected, comparison), *(one.sentence for one in creep if not one.worse))
    comparison = replace(comparison.with_warnings(notes), history=HistoryNote(tuple(news), lines, document))
    return AgainstHistory(comparison, watch, creep, tuple(near))


def _rolling(candidates: Sequence[Run], past: Past) -> Selected:
    scenarios = sorted({run.scenario for run in candidates})
    if len(scenarios) != 1:
        raise NotComparable(
            f"the candidates are of the scenarios {', '.join(scenarios)}: name a baseline, or one scenario"
        )
    try:
        return select(f"{scenarios[0]}@rolling", past)
    except ReadError as error:
        raise NotComparable(
            f"{scenarios[0]}: {past.store.url} has no earlier valid run of this scenario to judge against"
            f"{_near(scenarios[0], past)}; name a baseline, or keep this run as the first of its history"
        ) from error


def _near(scenario: str, past: Past) -> str:
    names = list(dict.fromkeys(past.store.runs()["scenario"]))
    return "" if scenario in names else did_you_mean(scenario, names)


def _earlier(candidates: Sequence[Run], past: Past) -> tuple[Run, ...]:
    """The valid runs before the candidates that may be held against them, at least one."""
    own = {run.id for run in candidates}
    valid = [run for run in before(past.runs_of(candidates[0].scenario), past.until) if run.validity.ok]
    return alike([run for run in valid if run.id not in own], candidates[0])[0]


def _timeline(candidates: Sequence[Run], past: Past, earlier: Sequence[Run]) -> Timeline:
    """The runs before the candidates, invalid ones, and the candidates."""
    own = {run.id for run in candidates}
    every = before(past.runs_of(candidates[0].scenario), past.until)
    invalid = [run for run in every if not run.validity.ok and run.id not in own]
    return timeline_of(candidates[0].scenario, [*earlier, *invalid, *candidates])


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
    return replace(comparison, findings=findings, verdict=overall(findings, policy, comparison.gaps))


def _document(
    comparison: Comparison, watch: ScenarioWatch, creep: Sequence[Creep], selected: Selected, held: Held | None
) -> dict[str, Any]:
    return {
        "baseline": str(selected.selector),
        "baseline_runs": [run.id for run in selected.runs],
        "held_before": held.unheard.id if held is not None else None,
        "alpha_of_this_comparison": comparison.alpha,
        **watch.to_dict(),
        "anchors": [one.to_dict() for one in creep],
    }


def _lines(watch: ScenarioWatch, selected: Selected, comparison: Comparison) -> list[str]:
    since = f" since {watch.since.started_at:%Y-%m-%d}" if watch.since.started_at else ""
    bad = f" ({watch.invalid} more were invalid)" if watch.invalid else ""
    lines = [
        f"Baseline {selected.selector}: {_runs(len(selected.runs))}, {selected.runs[0].id} to {selected.runs[-1].id}.",
        f"This comparison has {comparison.alpha:.2g} of the chance of {watch.alpha:g} that comparing run after run "
        f"ever raises a false alarm.{_single(comparison)}",
        f"Watching {_runs(watch.runs)} of {watch.scenario}{since}{bad}: {watch.series} series, one budget for all "
        f"(alpha {watch.alpha:g}). {_voice(watch)}",
    ]
    for alert in watch.alerts:
        event = alert.event
        heard = f"{event.headline} Heard at run {alert.raised_at.run_id}, {_runs(alert.runs_ago)} ago."
        lines.append(f"{heard} {_standing(alert.acknowledgement, alert.fails, alert.stands, event.id)}".rstrip())
    return lines


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


def _standing(known: Acknowledgement | None, fails: bool, holds: bool, event_id: str) -> str:
    if known is not None:
        return f"{known.describe()[0].upper()}{known.describe()[1:]}."
    if fails:
        return f"If it is intended: perfkit ack {event_id} --reason ..."
    return "" if holds else "It was taken back since."
