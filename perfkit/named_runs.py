"""Runs by what people call them: ids, paths, patterns, and selectors such as ``api@rolling``."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.config import load_settings
from perfkit.errors import ReadError
from perfkit.history.creep import creep_of
from perfkit.history.selection import Past, select
from perfkit.history.selectors import misspelt, readings
from perfkit.model import Run
from perfkit.policy import Policy
from perfkit.readers import locust_csv, read_run, run_folder
from perfkit.service_names import renamed_runs
from perfkit.store import RunStore


def load_runs(
    paths: str | Path | Sequence[str | Path],
    *,
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
    texts = _split(paths) if isinstance(paths, str) else [paths] if isinstance(paths, Path) else paths
    names = [str(text).strip() for text in texts if str(text).strip()]
    found = [_named(name, store, from_notebook, baselines, alpha) for name in names]
    for sentence in dict.fromkeys(text for one in found for text in one.left_out):
        on_left_out(sentence)
    return renamed_runs([run for one in found for run in one.runs], policy.service_names if policy is not None else {})


def first_named(name: str, *, store: str, baselines: Path, alpha: float | None = None) -> str:
    """The id of the first run that a selector, path or pattern names; any other text as it is, such as an id."""
    if is_selector(name) or (any(sign in name for sign in "*?[/\\") and name not in RunStore(store).ids()):
        return load_runs([name], store=store, baselines=baselines, alpha=alpha)[0].id
    return name


def load_baseline(
    paths: str, notes: str | None = None, *, candidate: Sequence[Run] = (), policy: Policy | None = None
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """`load_runs` for the baseline of a notebook, with what must be known of it: ``notes``, one a line, and more.

    What selectors choose is looked for where the settings say, and leaves the candidate out.
    """
    settings = load_settings()
    place, baselines = found_beside(settings.store), Path(found_beside(str(settings.baselines)))
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
    alpha: float | None = None,
    from_notebook: bool = False,
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """`load_runs` for the baseline of these candidates, with what must be known of what a selector chose.

    Selectors leave the candidates out.  With a policy, slow creep of a rolling baseline is told too.  ``alpha`` as of
    `load_runs`, where there is no policy.
    """
    now = policy.service_names if policy is not None else {}
    level = policy.alpha if policy is not None else alpha or load_settings().policy.alpha
    renamed = renamed_runs(candidates, now)
    past = Past(RunStore(store), baselines, candidates=renamed, service_names=now, alpha=level)
    names = [name for name in names if name.strip()]
    chosen = [select(name, past) if is_selector(name) else None for name in names]
    runs = [
        one.runs if one is not None else _named(name, store, from_notebook).runs
        for name, one in zip(names, chosen, strict=True)
    ]
    notes = [note for one in chosen if one is not None for note in one.warnings]
    every = renamed_runs([run for side in runs for run in side], now)
    if policy is not None and any(one is not None and one.selector.kind == "rolling" for one in chosen):
        notes += [creep.sentence for creep in creep_of(every, past, policy) if creep.worse]
    return every, tuple(dict.fromkeys(notes))


def is_selector(name: str) -> bool:
    """Whether a name is a selector such as ``api@rolling``; a file or folder of that name comes first."""
    return bool(readings(name)) and not Path(name).exists()


def found_beside(place: str) -> str:
    """The place, or the one of that name in the folder above when only that exists."""
    above = Path("..") / place
    return str(above) if "://" not in place and not Path(place).exists() and above.exists() else place


def _split(text: str) -> list[str]:
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
    name: str, store: str | None, beside: bool, baselines: Path | None = None, alpha: float | None = None
) -> _Named:
    if is_selector(name):
        settings = load_settings()
        place, pins = store or settings.store, str(baselines or settings.baselines)
        if beside:
            place, pins = found_beside(place), found_beside(pins)
        past = Past(RunStore(place), Path(pins), alpha=alpha or settings.policy.alpha)
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
