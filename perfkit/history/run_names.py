"""Runs by what people call them: ids, paths, patterns, and selectors such as ``api@rolling``."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.analysis.compare import Replay, compare, replay
from perfkit.analysis.noise_profile import SCHEMA as NOISE_SCHEMA
from perfkit.analysis.noise_profile import NoiseProfile, profile_of
from perfkit.analysis.power import runs_needed
from perfkit.config.policy import Policy
from perfkit.config.settings import Settings
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.change_events import HistoryContext
from perfkit.history.confounders import RECENT
from perfkit.history.gate import judge_history, open_in_history, slow_drifts
from perfkit.history.incidents import Result, read_result, result_of
from perfkit.history.run_selector import misspelt, readings, select
from perfkit.history.timeline import Timeline, load_timeline, timeline_of, under_names
from perfkit.model.codec import decode, dump_json, parse_json
from perfkit.model.errors import NotComparable, NotStored, ReadError, did_you_mean
from perfkit.model.records import (
    Comparison,
    Run,
    Side,
)
from perfkit.model.serialization import slug
from perfkit.runs import locust_csv, run_folder
from perfkit.runs.backends import public_address
from perfkit.runs.collection import in_time
from perfkit.runs.read import read_run
from perfkit.runs.requests import renamed_runs
from perfkit.runs.store import NOISE, RunStore
from perfkit.runs.validity import in_future

if TYPE_CHECKING:
    import pandas as pd


def load_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    settings: Settings | None = None,
    store: str | None = None,
    baselines: Path | None = None,
    alpha: float | None = None,
    policy: Policy | None = None,
    on_left_out: Callable[[str], None] = lambda _: None,
) -> tuple[Run, ...]:
    """Read every run that the paths name, in the order given.

    Parameters
    ----------
    paths
        A path, glob pattern, or folder of run folders; or several, as a sequence or as one text separated by commas or
        line ends.  A relative path in a text that does not exist is tried from the folder above too, so that a
        notebook opened in ``notebooks/`` finds what the command line finds.  Selectors such as ``api@rolling`` too.
    settings
        Say in which store and beside which baselines a selector looks; the defaults when ``None``.
    store
        Folder or URL of a store, whose run ids (and patterns of them) may be named too.
    baselines
        Folder of the pinned baselines; else that of the settings, as is the store of a selector.
    alpha
        Of the policy, by which ``rolling`` finds the last change; else that of the settings.
    policy
        Gives services their new names, and ``alpha``.
    on_left_out
        Called with a sentence for each damaged run of the scenario of a selector: it was not chosen from.

    Raises
    ------
    ReadError
        A path names nothing, or cannot be read.
    """
    if policy is not None:
        alpha = policy.alpha
    from_notebook = isinstance(paths, str)
    texts = split_names(paths) if isinstance(paths, str) else [paths] if isinstance(paths, Path) else paths
    names = [str(text).strip() for text in texts if str(text).strip()]
    found = [_named(name, store, from_notebook, baselines, alpha, settings or Settings()) for name in names]
    for sentence in dict.fromkeys(text for one in found for text in one.left_out):
        on_left_out(sentence)
    return renamed_runs([run for one in found for run in one.runs], policy.service_names if policy is not None else {})


def first_named(name: str, *, store: str, baselines: Path, alpha: float | None = None) -> str:
    """The id of the first run that a selector, path or pattern names; any other text as it is, such as an id."""
    if is_selector(name) or (any(sign in name for sign in "*?[/\\") and name not in RunStore(store).ids()):
        return load_runs([name], store=store, baselines=baselines, alpha=alpha)[0].id
    return name


def choose_runs(
    names: Sequence[str],
    *,
    store: str,
    baselines: Path,
    candidates: Sequence[Run] = (),
    policy: Policy | None = None,
    alpha: float | None = None,
    from_notebook: bool = False,
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """`load_runs` for the baseline of these candidates, with what must be known of what a selector chose.

    Selectors leave the candidates out.  With a policy, slow drift of a rolling baseline is told too.  ``alpha`` as of
    `load_runs`, where there is no policy; else that of the default policy.
    """
    now = policy.service_names if policy is not None else {}
    level = policy.alpha if policy is not None else alpha or Policy().alpha
    renamed = renamed_runs(candidates, now)
    past = HistoryContext(RunStore(store), baselines, candidates=renamed, service_names=now, alpha=level)
    names = [name for name in names if name.strip()]
    chosen = [select(name, past) if is_selector(name) else None for name in names]
    runs = [
        one.runs if one is not None else _named(name, store, from_notebook).runs
        for name, one in zip(names, chosen, strict=True)
    ]
    notes = [note for one in chosen if one is not None for note in one.warnings]
    every = renamed_runs([run for side in runs for run in side], now)
    if policy is not None and any(one is not None and one.selector.kind == "rolling" for one in chosen):
        notes += [drift.sentence for drift in slow_drifts(every, past, policy) if drift.worse]
    return every, tuple(dict.fromkeys(notes))


def is_selector(name: str) -> bool:
    """Whether a name is a selector such as ``api@rolling``; a file or folder of that name comes first."""
    return bool(readings(name)) and not Path(name).exists()


def found_beside(place: str) -> str:
    """The place, or the one of that name in the folder above when only that exists."""
    above = Path("..") / place
    return str(above) if "://" not in place and not Path(place).exists() and above.exists() else place


def split_names(text: str) -> list[str]:
    """One path a line; in a single line also several with commas between them, unless it names something as it is."""
    if "\n" in text or any((root / text.strip()).exists() for root in (Path(), Path(".."))):
        return text.splitlines()
    return text.split(",")


@dataclass(frozen=True, slots=True)
class _Named:
    """The runs of a name, and sentences on damaged ones among which a selector could not choose."""

    runs: Sequence[Run]
    left_out: tuple[str, ...] = ()


def _named(
    name: str,
    store: str | None,
    beside: bool,
    baselines: Path | None = None,
    alpha: float | None = None,
    settings: Settings | None = None,
) -> _Named:
    if is_selector(name):
        settings = settings or Settings()
        place, pins = store or settings.store, str(baselines or settings.baselines)
        if beside:
            place, pins = found_beside(place), found_beside(pins)
        past = HistoryContext(RunStore(place), Path(pins), alpha=alpha or settings.policy.alpha)
        selected = select(name, past)
        return _Named(selected.runs, selected.left_out)
    if store is not None and "://" in store:
        known = RunStore(store)
        found = fnmatch.filter(known.ids(), name)
        if found:
            return _Named([known.get(run_id) for run_id in found])
    if "://" in name:
        place, _, run_id = name.rpartition("/")
        return _Named([RunStore(place).get(run_id)])
    try:
        places = expand_path(name, store, beside=beside)
    except ReadError as error:
        if hint := misspelt(name):
            raise ReadError(f"{error}; {hint}") from error
        raise
    return _Named([read_run(path) for path in places])


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
        if path.is_symlink():
            raise ReadError(f"{path}: is a link that leads nowhere, or in a circle")
        found = sorted(Path(item) for item in glob.glob(text))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if found:
            every = [run for item in found for run in expand_path(str(item))]
            mains = {run: locust_csv.main_file(run) or run for run in every}
            return list({mains[run]: run for run in reversed(every)}.values())[::-1]
    where = f", and no run of that id in {store}" if store else ""
    raise ReadError(f"{name}: there is no such file, folder or pattern of files{where}")


def _holds_a_run(path: Path) -> bool:
    return run_folder.sniff(path) or locust_csv.sniff(path)


def stored_comparison(path: str | Path) -> Comparison:
    """The comparison that a result file or report folder holds; ``ReadError`` when it holds none."""
    comparison = read_result(path).comparison
    if comparison is None:
        raise ReadError(f"{path}: is the history of a scenario, and no comparison; name the result of a comparison")
    return comparison


def judged_comparison(result: str | Path, baseline: Sequence[Run], candidate: Sequence[Run]) -> Comparison:
    """What a result file says of these runs, whatever it was judged by.

    Raises
    ------
    ReadError
        It is no result of a comparison, or one of other runs.
    """
    read = read_result(result).comparison
    if read is None or not all(
        {run.id for run in told.runs} == {run.id for run in runs}
        for told, runs in ((read.baseline, baseline), (read.candidate, candidate))
    ):
        raise ReadError(f"{result}: is not about these runs; name the runs that it was made from")
    return replace(read, baseline=Side(tuple(baseline)), candidate=Side(tuple(candidate)))


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


def stored_profile(
    store: RunStore, scenario: str, *, without: Collection[str] = (), service_names: Mapping[str, str] | None = None
) -> NoiseProfile:
    """What the valid runs of a scenario in a store tell of its noise.

    It is kept in the store, and learned anew when runs were added.  ``without`` names runs to leave out, such as those
    that are to be compared.  With ``service_names`` (see `Policy`) it is learned of the services under their new names,
    and not kept.  `PerfkitError` when there is no run.
    """
    ids = tuple(run_id for run_id in store.valid_ids(scenario) if run_id not in without)
    if not ids:
        raise NotStored(f"{store.url}: every valid run of {scenario!r} is one of those to be compared")
    if service_names:
        return profile_of(scenario, renamed_runs([store.get(run_id) for run_id in ids], service_names))
    path = f"{NOISE}/{slug(scenario)}.json"
    if (content := store.derived(path)) is not None:
        with suppress(ReadError):  # a broken one is learned anew
            plain = parse_json(content, path)
            profile = decode(plain, NoiseProfile, path, schema=NOISE_SCHEMA, title="noise profile")
            if (profile.scenario, profile.runs) == (scenario, ids):
                return profile
    profile = profile_of(scenario, list(store.summaries(ids)))
    if not without:
        store.keep_derived(path, dump_json(profile.to_dict()).encode())
    return profile


def known_history(
    store: str, baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy | None = None
) -> NoiseProfile:
    """The noise profile of the runs' scenario, from the other runs of a store, under the names of the policy."""
    every = (*baseline, *candidate)
    names = policy.service_names if policy is not None else {}
    return stored_profile(RunStore(store), every[0].scenario, without={run.id for run in every}, service_names=names)


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
        profile = stored_profile(known, scenario, service_names=policy.service_names if policy is not None else {})
        past = timeline(store, scenario, policy)
        lengths = known.runs(scenario=scenario, ab_test=False)["duration_s"]
    lengths = lengths.dropna()
    length = float(lengths.median()) if len(lengths) else float("nan")
    usual = {key: float(pd.Series(values).dropna().tail(RECENT).median()) for key, values in past.series.items()}
    rows = runs_needed(profile, policy or Policy(), percent, power, usual)
    columns = ["service", "metric", "variation_pct", "history_runs", "runs_per_side", "tolerance_pct"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in ("runs_per_side", "tolerance_pct")})
    return frame.assign(hours=2 * frame["runs_per_side"].astype(float) * length / 3600)


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
    no reason to object; see `perfkit.history.gate`.

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
        past = HistoryContext(RunStore(store), settings.baselines, candidates=judged)
        known = AcknowledgedFile(settings.acknowledged).read()
        return judge_history(judged, past, policy, acknowledgements=known).comparison.with_warnings(damaged)
    runs, notes = choose_runs(baseline, store=store, baselines=settings.baselines, candidates=judged, policy=policy)
    profile = known_history(store, runs, judged, policy) if learn else None
    if any(map(is_selector, baseline)):
        notes = (*notes, *open_regressions(judged, store=store, settings=settings, policy=policy))
    return compare(runs, judged, policy=policy, history=profile).with_warnings((*notes, *damaged))


def open_regressions(candidate: Sequence[Run], *, store: str, settings: Settings, policy: Policy) -> tuple[str, ...]:
    """Sentences on what is open in the history of the candidate's scenario, for a comparison that judges it alone."""
    past = HistoryContext(RunStore(store), settings.baselines, candidates=tuple(candidate), alpha=policy.alpha)
    return open_in_history(candidate, past, policy, AcknowledgedFile(settings.acknowledged).read())


def newest_against_history(history: Timeline, *, store: str, settings: Settings, policy: Policy) -> Comparison | None:
    """The newest valid run of a history as `compare_named` judges it without a baseline.

    ``None`` where it stands for no history or cannot be judged: it is of an A/B test or of a pull request, or no run
    is older.
    """
    valid = [moment.run_id for moment in history.runs if moment.valid]
    run = RunStore(store).get(valid[-1]) if valid else None
    if run is None or run.in_ab_test:
        return None
    past = HistoryContext(RunStore(store), settings.baselines, candidates=(run,))
    try:
        found = judge_history(
            (run,), past, policy, acknowledgements=AcknowledgedFile(settings.acknowledged).read()
        ).comparison
    except NotComparable:
        return None
    is_pull_request = found.history is not None and "pull_request" in found.history.document
    return None if is_pull_request else found


def newest_runs(store: RunStore, scenario: str, count: int = 1) -> tuple[Run, ...]:
    """The newest runs of a scenario, oldest first, whether they are valid or not.

    Runs in quarantine, of A/B tests and dated in the future are left out.

    Raises
    ------
    NotStored
        The store has no such run; names the nearest scenario.
    """
    frame = store.runs()
    frame = frame[~(frame["quarantined"] | frame["ab_test"]).astype(bool)]
    scenarios = sorted(set(frame["scenario"]))
    frame = frame[frame["scenario"] == scenario]
    late = in_future([None if at != at else at for at in frame["started_at"]], datetime.now(UTC))
    ids = frame["id"][[not flag for flag in late]].tail(count)
    if not len(ids):
        there = f"; there are {', '.join(scenarios)}" if scenarios else "; it has no runs yet"
        near = did_you_mean(scenario, scenarios)
        raise NotStored(f"{store.url}: no runs of the scenario {scenario!r}{near}{there}")
    return tuple(store.get(run_id) for run_id in ids)


def newest_result(store: str, scenario: str, *, settings: Settings, policy: Policy) -> Result:
    """The newest run of a scenario against its history, as ``perfkit compare --candidate`` judges it.

    Raises
    ------
    NotStored
        The store has no run of the scenario.
    NotComparable
        No valid run is older than the newest one.
    """
    runs = newest_runs(RunStore(store), scenario)
    past = HistoryContext(RunStore(store), settings.baselines, candidates=runs)
    acknowledged = AcknowledgedFile(settings.acknowledged).read()
    comparison = judge_history(runs, past, policy, acknowledgements=acknowledged).comparison
    return replace(result_of(comparison.to_dict(), f"{public_address(store)}, scenario {scenario}"), stored=True)
