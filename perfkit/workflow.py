"""The story in functions, called by notebooks and by the command line alike."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.capacity import capacity_of
from perfkit.config import Scenario, Settings, load_settings
from perfkit.deliver.github.following import follow_issues
from perfkit.document import make_run_id
from perfkit.errors import LoadStopped, NotComparable, PerfkitError, ReadError, did_you_mean
from perfkit.history.acknowledged import AcknowledgedFile
from perfkit.history.against import judge_history
from perfkit.history.creep import creep_of
from perfkit.history.selection import Past, in_time, select
from perfkit.history.selectors import misspelt, readings
from perfkit.history.timeline import Timeline, load_timeline
from perfkit.history.trend import known_events, trend_of
from perfkit.history.watching import ScenarioWatch, watch_timeline
from perfkit.judge import judge
from perfkit.levels import levels_of
from perfkit.model import Comparison, Run, Side, Validity
from perfkit.noise_profile import NoiseProfile, profile_of
from perfkit.planning import detectable_changes, plan_runs
from perfkit.policy import Policy
from perfkit.readers import locust_csv, read_run, run_folder
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
    "judged_or_now",
    "known_history",
    "levels_of",
    "load_baseline",
    "load_runs",
    "plan",
    "policy_from",
    "replay_history",
    "run_scenarios",
    "simulate",
    "simulate_runs",
    "timeline",
    "trend_of",
    "watch_of",
]

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.load.container import Container
    from perfkit.load.locust import Distribution
    from perfkit.load.progress import Progress


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
        runs = in_time(load_runs([scenario], store=store, baselines=baselines))
    else:
        known = RunStore(store)
        ids = known.runs(scenario=scenario)["id"]
        if not len(ids):
            names = list(dict.fromkeys(known.runs()["scenario"]))
            there = f"; there are {', '.join(names)}" if names else "; it has no runs yet"
            raise ReadError(f"{known.url}: no scenario {scenario!r}{did_you_mean(scenario, names)}{there}")
        runs = tuple(known.get(run_id) for run_id in ids)
    return replay(runs, policy or Policy(), window)


def explain(
    comparison: Comparison,
    service: str,
    metric: str,
    *,
    policy: Policy | None = None,
    history: NoiseProfile | None = None,
) -> str:
    """The arithmetic of one verdict of a comparison, made under that policy and history, step by step."""
    from perfkit.judge.explain import explain as steps

    return steps(comparison, service, metric, policy or Policy(), history)


def known_history(store: str, baseline: Sequence[Run], candidate: Sequence[Run]) -> NoiseProfile:
    """The noise profile of the runs' scenario, from the other runs of a store."""
    every = (*baseline, *candidate)
    return RunStore(store).noise_profile(every[0].scenario, without={run.id for run in every})


def timeline(store: str, scenario: str) -> Timeline:
    """The runs of a scenario in time order, with every metric of every service.

    A folder that does not exist is tried from the folder above too, for a notebook opened in ``notebooks/``.

    Raises
    ------
    StoreError
        The store has no run of the scenario; it names the nearest.
    """
    return load_timeline(RunStore(_beside(store)), scenario)


def acknowledged_in(history: Timeline, file: str | None) -> dict[str, str]:
    """Ids of the events of a history that this file acknowledges today, with who said why; none without a file."""
    known = AcknowledgedFile(Path(_beside(file))).read() if file is not None else ()
    return known_events(history, known, datetime.now(UTC).date())


def watch_of(history: Timeline, file: str | None, policy: Policy) -> ScenarioWatch:
    """What watching a history run after run came to, under the policy of its scenario; ``file`` as above."""
    known = AcknowledgedFile(Path(_beside(file))).read() if file is not None else ()
    return watch_timeline(history, policy.for_scenario(history.scenario), known, datetime.now(UTC).date())


def _beside(place: str) -> str:
    """The place, or the one of that name in the folder above when only that exists."""
    above = Path("..") / place
    return str(above) if "://" not in place and not Path(place).exists() and above.exists() else place


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
        not do), hours (of load, both sides; ``NaN`` where unknown).  One row per service and limited metric but the
        error rate, which depends on requests and not on runs.
    """
    import pandas as pd

    known = RunStore(store)
    if is_selector(scenario):
        runs = load_runs([scenario], store=store, baselines=baselines)
        profile, lengths = profile_of(runs[0].scenario, runs), pd.Series([run.duration_s for run in runs], dtype=float)
    else:
        profile, lengths = known.noise_profile(scenario), known.runs(scenario=scenario)["duration_s"]
    lengths = lengths.dropna()
    length = float(lengths.median()) if len(lengths) else float("nan")
    rows = plan_runs(profile, policy or Policy(), percent, power)
    frame = pd.DataFrame(rows, columns=["service", "metric", "variation_pct", "history_runs", "runs_per_side"])
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


def load_runs(
    paths: str | Path | Sequence[str | Path], *, store: str | None = None, baselines: Path | None = None
) -> tuple[Run, ...]:
    """Read every run that the paths name, in the order given.

    Parameters
    ----------
    paths
        A path, glob pattern, or folder of run folders; or several, as a sequence or as one text separated by commas or
        line ends.  A relative path in a text that does not exist is tried from the folder above too, so that a
        notebook opened in ``notebooks/`` finds what the command line finds.  Selectors such as ``api@rolling`` too.
    store
        Folder or URL of a store, whose run ids (and patterns of them) may be named too.
    baselines
        Folder of the pinned baselines; else that of the settings, as is the store of a selector.

    Raises
    ------
    ReadError
        A path names nothing, or cannot be read.
    """
    from_notebook = isinstance(paths, str)
    texts = _split(paths) if isinstance(paths, str) else [paths] if isinstance(paths, Path) else paths
    names = [str(text).strip() for text in texts if str(text).strip()]
    return tuple(run for name in names for run in _named(name, store, beside=from_notebook, baselines=baselines))


def first_named(name: str, *, store: str, baselines: Path) -> str:
    """The id of the first run that a selector, path or pattern names; any other text as it is, such as an id."""
    if is_selector(name) or (any(sign in name for sign in "*?[/\\") and name not in RunStore(store).ids()):
        return load_runs([name], store=store, baselines=baselines)[0].id
    return name


def load_baseline(
    paths: str, notes: str | None = None, *, candidate: Sequence[Run] = (), policy: Policy | None = None
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """`load_runs` for the baseline of a notebook, with what must be known of it: ``notes``, one a line, and more.

    What selectors choose is looked for where the settings say, and leaves the candidate out.
    """
    settings = load_settings()
    place, baselines = _beside(settings.store), Path(_beside(str(settings.baselines)))
    names = [name.strip() for name in _split(paths)]
    runs, more = choose_runs(
        names, store=place, baselines=baselines, candidates=candidate, policy=policy, from_notebook=True
    )
    return runs, tuple(dict.fromkeys((*(notes or "").splitlines(), *more)))


def choose_runs(
    names: Sequence[str],
    *,
    store: str,
    baselines: Path,
    candidates: Sequence[Run] = (),
    policy: Policy | None = None,
    from_notebook: bool = False,
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """`load_runs` for the baseline of these candidates, with what must be known of what a selector chose.

    Selectors leave the candidates out.  With a policy, slow creep of a rolling baseline is told too.
    """
    past = Past(RunStore(store), baselines, candidates=tuple(candidates))
    names = [name for name in names if name.strip()]
    chosen = [select(name, past) if is_selector(name) else None for name in names]
    runs = [
        one.runs if one is not None else _named(name, store, beside=from_notebook)
        for name, one in zip(names, chosen, strict=True)
    ]
    notes = [note for one in chosen if one is not None for note in one.warnings]
    every = tuple(run for side in runs for run in side)
    if policy is not None and any(one is not None and one.selector.kind == "rolling" for one in chosen):
        notes += [creep.sentence for creep in creep_of(every, past, policy) if creep.worse]
    return every, tuple(dict.fromkeys(notes))


def compare_named(
    baseline: Sequence[str],
    candidate: Sequence[str],
    *,
    store: str,
    settings: Settings,
    policy: Policy,
    learn: bool = False,
) -> tuple[Comparison, NoiseProfile | None]:
    """Judge what these names name; without a baseline, against the history of the candidate's scenario.

    With ``learn``, the other runs of the scenario tell the noise too; the profile learned from them comes second.
    Against history the rolling baseline is used, every series of the scenario is watched, and what is acknowledged is
    no reason to object; see `perfkit.history.against`.

    Raises
    ------
    ReadError
        A name names nothing.
    NotComparable
        There is no history to judge against.
    """
    judged = load_runs(candidate, store=store, baselines=settings.baselines)
    if not baseline:
        past = Past(RunStore(store), settings.baselines, candidates=judged)
        known = AcknowledgedFile(settings.acknowledged).read()
        return judge_history(judged, past, policy, known=known).comparison, None
    runs, notes = choose_runs(baseline, store=store, baselines=settings.baselines, candidates=judged, policy=policy)
    profile = known_history(store, runs, judged) if learn else None
    return compare(runs, judged, policy=policy, history=profile).with_warnings(notes), profile


def is_selector(name: str) -> bool:
    """Whether a name is a selector such as ``api@rolling``; a file or folder of that name comes first."""
    return bool(readings(name)) and not Path(name).exists()


def _split(text: str) -> list[str]:
    """One path a line; in a single line also several with commas between them, unless it names something as it is."""
    if "\n" in text or any((root / text.strip()).exists() for root in (Path(), Path(".."))):
        return text.splitlines()
    return text.split(",")


def _named(name: str, store: str | None, *, beside: bool, baselines: Path | None = None) -> list[Run]:
    if is_selector(name):
        settings = load_settings()
        place, pins = store or settings.store, str(baselines or settings.baselines)
        if beside:
            place, pins = _beside(place), _beside(pins)
        return [*select(name, Past(RunStore(place), Path(pins))).runs]
    if store is not None and "://" in store:
        known = RunStore(store)
        found = fnmatch.filter(known.ids(), name)
        if found:
            return [known.get(run_id) for run_id in found]
    try:
        places = expand_path(name, store, beside=beside)
    except ReadError as error:
        if hint := misspelt(name):
            raise ReadError(f"{error}; {hint}") from error
        raise
    return [read_run(path) for path in places]


def expand_path(name: str, store: str | None = None, *, beside: bool = False) -> list[Path]:
    """The runs that one path, pattern or folder of runs names, sorted by name; ``ReadError`` when there is none.

    Files of one set that a pattern catches together are one run.  ``beside``: try the folder above too.
    """
    roots = [Path(), *([Path("..")] if beside else []), *([Path(store)] if store else [])]
    for text in (str(root / name) for root in roots):
        path = Path(text)
        if _holds_a_run(path):
            return [path]
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.is_dir() and _holds_a_run(item))
            if inside:
                return inside
        if path.exists():
            return [path]
        found = sorted(Path(item) for item in glob.glob(text))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if found:
            every = [run for item in found for run in expand_path(str(item))]
            mains = {run: locust_csv.main_file(run) or run for run in every}
            return list({mains[run]: run for run in reversed(every)}.values())[::-1]
    where = f", and no run of that id in {store}" if store else ""
    raise ReadError(f"{name}: there is no such file, folder or pattern of files{where}")


def _holds_a_run(path: Path) -> bool:
    return run_folder.sniff(path) or locust_csv.sniff(path)


def policy_from(path: str | Path | None = None, rule: str | None = None) -> Policy:
    """The policy of a file, else of the nearest ``perfkit.toml``, else the default; optionally under another rule."""
    policy = Policy.from_toml(path) if path else load_settings().policy
    return policy.with_rule(rule)


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


def run_scenarios(
    scenarios: Sequence[Scenario],
    store: str,
    *,
    repeat: int = 1,
    labels: Mapping[str, str] | None = None,
    on_progress: Callable[[Scenario, Progress], None] | None = None,
    on_end: Callable[[Execution], None] | None = None,
    distribution: Distribution | None = None,
    abort_on: str | None = None,
    container: Container | None = None,
) -> tuple[Execution, ...]:
    """Run load tests one after the other, ``repeat`` rounds of them; a failing one does not stop the rest.

    A run stopped by Ctrl-C ends the sequence, because its user wants an end.
    """
    from perfkit.load.abort import parse_abort
    from perfkit.load.scenario_run import run_scenario

    if abort_on is not None:
        parse_abort(abort_on)  # a mistake is told before the first run
    done: list[Execution] = []
    for scenario in [one for _ in range(repeat) for one in scenarios]:
        started = datetime.now(UTC)
        report = None if on_progress is None else partial(on_progress, scenario)
        abort = parse_abort(abort_on).reason if abort_on is not None else None
        try:
            run = run_scenario(scenario, RunStore(store), labels or {}, report, distribution, abort, container)
            done.append(Execution(scenario.name, started, datetime.now(UTC), run))
        except PerfkitError as error:
            done.append(Execution(scenario.name, started, datetime.now(UTC), error=error))
        if on_end is not None:
            on_end(done[-1])
        if done[-1].stopped:
            break
    return tuple(done)


@dataclass(frozen=True, slots=True)
class Execution:
    """One attempt to run a scenario: the run, or the error that prevented it."""

    scenario: str
    started_at: datetime
    ended_at: datetime
    run: Run | None = None
    error: PerfkitError | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run was interrupted by its user."""
        if isinstance(self.error, LoadStopped):
            return True
        checks = self.run.validity.problems if self.run is not None else ()
        return any(check.name == "interrupted" and "aborted" not in str(check.value) for check in checks)

    @property
    def status(self) -> str:
        """``ok``, ``invalid`` or ``failed``."""
        return "failed" if self.run is None else "ok" if self.run.validity.ok else "invalid"

    def to_dict(self) -> dict[str, object]:
        """As the execution record keeps it."""
        stats = self.run.services.values() if self.run else ()
        return {
            "scenario": self.scenario,
            "status": self.status,
            "run_id": self.run.id if self.run else None,
            "folder": self.run.source if self.run else None,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "duration_s": round((self.ended_at - self.started_at).total_seconds(), 3),
            "load": self.run.profile.describe() if self.run else None,
            "requests": sum(item.count or 0 for item in stats),
            "failures": sum(item.failures or 0 for item in stats),
            "problems": [check.to_dict() for check in self.run.validity.problems] if self.run else [],
            "error": str(self.error) if self.error else None,
        }


def execution_record(executions: Sequence[Execution]) -> dict[str, object]:
    """The document ``test_execution_metadata.json`` (schema ``perfkit.execution/1``)."""
    return {
        "schema": "perfkit.execution/1",
        "started_at": executions[0].started_at.isoformat() if executions else None,
        "ended_at": executions[-1].ended_at.isoformat() if executions else None,
        "status": next((s for s in ("failed", "invalid") if any(e.status == s for e in executions)), "ok"),
        "executions": [execution.to_dict() for execution in executions],
    }
