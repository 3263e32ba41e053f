"""The story in functions, called by notebooks and by the command line alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.capacity import capacity_of
from perfkit.config import Scenario, Settings, load_settings
from perfkit.deliver.github.following import follow_issues
from perfkit.document import make_run_id
from perfkit.errors import NotComparable, ReadError, did_you_mean
from perfkit.executions import Execution, execution_record, run_scenarios
from perfkit.history.acknowledged import AcknowledgedFile
from perfkit.history.against import judge_history, open_in_history
from perfkit.history.baselines import Baselines
from perfkit.history.selection import Past, in_time
from perfkit.history.service_mix import RECENT
from perfkit.history.timeline import Timeline, load_timeline, timeline_of, under_names
from perfkit.history.trend import known_events, trend_of
from perfkit.history.watching import ScenarioWatch, watch_timeline
from perfkit.judge import judge
from perfkit.levels import levels_of
from perfkit.model import Comparison, Run, Side, Validity
from perfkit.named_runs import (
    choose_runs,
    expand_path,
    first_named,
    found_beside,
    is_selector,
    load_baseline,
    load_runs,
)
from perfkit.noise_profile import NoiseProfile, profile_of
from perfkit.planning import detectable_changes, plan_runs
from perfkit.policy import Policy
from perfkit.readers import read_run
from perfkit.replay import Replay, replay
from perfkit.results import read_result
from perfkit.store import RunStore
from perfkit.validity import duplicate_check

__all__ = [
    "Execution",
    "acknowledged_in",
    "capacity_of",
    "choose_runs",
    "compare",
    "compare_named",
    "detectable",
    "execution_record",
    "expand_path",
    "explain",
    "first_named",
    "follow_issues",
    "import_run",
    "is_selector",
    "judged_or_now",
    "known_history",
    "levels_of",
    "load_baseline",
    "load_runs",
    "newest_against_history",
    "open_regressions",
    "plan",
    "policy_from",
    "replay_history",
    "run_scenarios",
    "simulate",
    "simulate_runs",
    "stored_comparison",
    "timeline",
    "trend_of",
    "watch_of",
]

if TYPE_CHECKING:
    import pandas as pd


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


def stored_comparison(path: str | Path) -> Comparison:
    """The comparison that a result file or report folder holds; ``ReadError`` when it holds none."""
    comparison = read_result(path).comparison
    if comparison is None:
        raise ReadError(f"{path}: is the history of a scenario, and no comparison; name the result of a comparison")
    return comparison


def judged_or_now(judged: str | None, baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy) -> Comparison:
    """What a result file says of these runs, whatever it was judged by; without such a file, `compare`.

    Raises
    ------
    ReadError
        It is no result of a comparison, or one of other runs.
    """
    if judged is None:
        return compare(baseline, candidate, policy=policy)
    read = read_result(judged).comparison
    if read is None or not all(
        {run.id for run in told.runs} == {run.id for run in runs}
        for told, runs in ((read.baseline, baseline), (read.candidate, candidate))
    ):
        raise ReadError(f"{judged}: is not about these runs; name the runs that it was made from")
    return replace(read, baseline=Side(tuple(baseline)), candidate=Side(tuple(candidate)))


def _profile(history: NoiseProfile | Sequence[Run | str | Path] | None) -> NoiseProfile | None:
    if history is None or isinstance(history, NoiseProfile):
        return history
    runs = [run for run in _runs("history", history) if run.validity.ok]
    return profile_of(runs[0].scenario, runs) if runs else None


def replay_history(
    store: str, scenario: str, *, policy: Policy | None = None, window: int = 9, baselines: Path | None = None
) -> tuple[Replay, ...]:
    """When would this policy have fired on the stored runs of a scenario, or on those of a selector?  Oldest first.

    Raises
    ------
    ReadError
        There is no such scenario, or the selector names nothing.
    NotComparable
        There are too few valid runs.
    """
    if is_selector(scenario):
        runs = in_time(load_runs([scenario], store=store, baselines=baselines, policy=policy))
    else:
        known = RunStore(store)
        ids = known.runs(scenario=scenario, ab_test=False)["id"]
        if not len(ids):
            names = list(dict.fromkeys(known.runs()["scenario"]))
            there = f"; there are {', '.join(names)}" if names else "; it has no runs yet"
            raise ReadError(f"{known.url}: no scenario {scenario!r}{did_you_mean(scenario, names)}{there}")
        runs = tuple(known.get(run_id) for run_id in ids)
    return replay(runs, policy or Policy(), window)


def explain(comparison: Comparison, service: str, metric: str) -> str:
    """The arithmetic of one verdict of a comparison, step by step, as it was made; of one from a result file too."""
    from perfkit.judge.explain import explain as steps

    return steps(comparison, service, metric)


def known_history(
    store: str, baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy | None = None
) -> NoiseProfile:
    """The noise profile of the runs' scenario, from the other runs of a store, under the names of the policy."""
    every = (*baseline, *candidate)
    names = policy.service_names if policy is not None else {}
    return RunStore(store).noise_profile(every[0].scenario, without={run.id for run in every}, service_names=names)


def timeline(store: str, scenario: str, policy: Policy | None = None) -> Timeline:
    """The runs of a scenario in time order, with every metric of every service, under the names of the policy.

    A folder that does not exist is tried from the folder above too, for a notebook opened in ``notebooks/``.

    Raises
    ------
    StoreError
        The store has no run of the scenario; it names the nearest.
    """
    names = policy.service_names if policy is not None else {}
    return under_names(load_timeline(RunStore(found_beside(store)), scenario), names)


def acknowledged_in(history: Timeline, file: str | None, policy: Policy | None = None) -> dict[str, str]:
    """Ids of the events of a history that this file acknowledges today, with who said why; none without a file.

    Events are found at the ``alpha`` of the policy, of the default one when ``None``.
    """
    known = AcknowledgedFile(Path(found_beside(file))).read() if file is not None else ()
    return known_events(history, known, datetime.now(UTC).date(), alpha=(policy or Policy()).alpha)


def watch_of(history: Timeline, file: str | None, policy: Policy, baselines: str | Path | None = None) -> ScenarioWatch:
    """What watching a history run after run came to, under the policy of its scenario; ``file`` as above.

    ``baselines`` is the folder of the pinned baselines, which tell what was accepted; none without it.
    """
    known = AcknowledgedFile(Path(found_beside(file))).read() if file is not None else ()
    pinned = Baselines(Path(found_beside(str(baselines)))).all(history.scenario) if baselines is not None else ()
    today = datetime.now(UTC).date()
    return watch_timeline(history, policy.for_scenario(history.scenario), known, today, pinned)


def plan(
    store: str,
    scenario: str,
    percent: float,
    *,
    power: float,
    policy: Policy | None = None,
    baselines: Path | None = None,
) -> pd.DataFrame:
    """How many runs a comparison needs on each side to call a worsening of ``percent``.

    Learned from all runs of a scenario, or from those that a selector such as ``api@rolling`` names.

    Returns
    -------
    DataFrame
        Columns service, metric, variation_pct, history_runs, runs_per_side (``NaN`` where `planning.MOST_RUNS` would
        not do, or where the tolerance accepts such a worsening), tolerance_pct (``NaN`` where it cannot be placed),
        hours (of load, both sides; ``NaN`` where unknown).  One row per service and limited metric but the error rate,
        which depends on requests and not on runs.
    """
    import pandas as pd

    known = RunStore(store)
    if is_selector(scenario):
        runs = load_runs([scenario], store=store, baselines=baselines, policy=policy)
        profile, lengths = profile_of(runs[0].scenario, runs), pd.Series([run.duration_s for run in runs], dtype=float)
        past = timeline_of(runs[0].scenario, in_time(runs))
    else:
        profile = known.noise_profile(scenario, service_names=policy.service_names if policy is not None else {})
        past = timeline(store, scenario, policy)
        lengths = known.runs(scenario=scenario, ab_test=False)["duration_s"]
    lengths = lengths.dropna()
    length = float(lengths.median()) if len(lengths) else float("nan")
    usual = {key: float(pd.Series(values).dropna().tail(RECENT).median()) for key, values in past.series.items()}
    rows = plan_runs(profile, policy or Policy(), percent, power, usual)
    columns = ["service", "metric", "variation_pct", "history_runs", "runs_per_side", "tolerance_pct"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in ("runs_per_side", "tolerance_pct")})
    return frame.assign(hours=2 * frame["runs_per_side"].astype(float) * length / 3600)


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


def compare_named(
    baseline: Sequence[str],
    candidate: Sequence[str],
    *,
    store: str,
    settings: Settings,
    policy: Policy,
    learn: bool = False,
) -> Comparison:
    """Judge what these names name; without a baseline, against the history of the candidate's scenario.

    With ``learn``, the other runs of the scenario tell the noise too.
    Against history the rolling baseline is used, every series of the scenario is watched, and what is acknowledged is
    no reason to object; see `perfkit.history.against`.

    Raises
    ------
    ReadError
        A name names nothing.
    NotComparable
        There is no history to judge against.
    """
    damaged: list[str] = []
    judged = load_runs(
        candidate, store=store, baselines=settings.baselines, alpha=policy.alpha, on_left_out=damaged.append
    )
    if not baseline:
        past = Past(RunStore(store), settings.baselines, candidates=judged)
        known = AcknowledgedFile(settings.acknowledged).read()
        return judge_history(judged, past, policy, known=known).comparison.with_warnings(damaged)
    runs, notes = choose_runs(baseline, store=store, baselines=settings.baselines, candidates=judged, policy=policy)
    profile = known_history(store, runs, judged, policy) if learn else None
    if any(map(is_selector, baseline)):
        notes = (*notes, *open_regressions(judged, store=store, settings=settings, policy=policy))
    return compare(runs, judged, policy=policy, history=profile).with_warnings((*notes, *damaged))


def newest_against_history(history: Timeline, *, store: str, settings: Settings, policy: Policy) -> Comparison | None:
    """The newest valid run of a history as `compare_named` judges it without a baseline.

    ``None`` where it stands for no history or cannot be judged: it is of an A/B test or of a pull request, or no run
    is older.
    """
    valid = [moment.run_id for moment in history.moments if moment.valid]
    run = RunStore(store).get(valid[-1]) if valid else None
    if run is None or run.in_ab_test:
        return None
    past = Past(RunStore(store), settings.baselines, candidates=(run,))
    try:
        found = judge_history((run,), past, policy, known=AcknowledgedFile(settings.acknowledged).read()).comparison
    except NotComparable:
        return None
    is_pull_request = found.history is not None and "pull_request" in found.history.document
    return None if is_pull_request else found


def open_regressions(candidate: Sequence[Run], *, store: str, settings: Settings, policy: Policy) -> tuple[str, ...]:
    """Sentences on what is open in the history of the candidate's scenario, for a comparison that judges it alone."""
    past = Past(RunStore(store), settings.baselines, candidates=tuple(candidate), alpha=policy.alpha)
    return open_in_history(candidate, past, policy, AcknowledgedFile(settings.acknowledged).read())


def policy_from(path: str | Path | None = None, rule: str | None = None) -> Policy:
    """The policy of a file, else of the nearest ``perfkit.toml``, else the default; optionally under another rule."""
    return load_settings().policy_of(Path(path) if path else None).with_rule(rule)


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


def import_run(run: Run, store: str, scenario: str | None = None, labels: Mapping[str, str] | None = None) -> str:
    """Keep a run that was read from a foreign file; returns its id.

    The same content is kept once.  Under the name of another scenario it is kept again, and marked as a duplicate.
    """
    named = scenario or run.scenario
    run_id = make_run_id(run.started_at, named, run.content_hash or "0000")
    known = RunStore(store)
    others = [other for other in known.with_content(run.content_hash) if other != run_id]
    validity = Validity((*run.validity.checks, duplicate_check(others[0] if others else None)))
    labels = {**run.labels, **(labels or {})}
    return known.add(replace(run, id=run_id, scenario=named, labels=labels, validity=validity))


def simulate(
    scenario: Scenario, seed: int, folder: Path, started_at: datetime, inject: Sequence[str] = ()
) -> tuple[Path, ...]:
    """Write simulated Locust result files; returns their paths, the normalised JSON last.

    ``inject`` holds changes such as ``api_gateway:slower_pct=20``.
    """
    from perfkit.load.service_model import parse_changes
    from perfkit.load.simulate import simulate_files

    written = simulate_files(scenario, seed, folder, started_at=started_at, changes=parse_changes(inject))
    return (*written.files, written.metrics)


def simulate_runs(
    scenario: Scenario,
    seed: int,
    runs: int,
    store: str,
    started_at: datetime | None = None,
    inject: Sequence[str] = (),
    truth: Mapping[str, float] | None = None,
) -> tuple[str, ...]:
    """Write simulated run folders with every request into a store; returns their ids, oldest first.

    ``truth`` holds what else is true of them, by the names of `SimulatedHistory`.
    """
    from perfkit.load.service_model import parse_changes
    from perfkit.load.simulated_history import SimulatedHistory, simulate_history

    given: dict[str, Any] = dict(truth or {})
    history = SimulatedHistory(runs, changes=parse_changes(inject), **given)
    return simulate_history(scenario, seed, history, RunStore(store), started_at=started_at)
