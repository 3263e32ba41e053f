"""Runs by what people call them: ids, paths, patterns, and selectors, which name runs of a store by what they mean.

`choose_runs` takes all of these; `HistoryContext` is the store, the baselines and the candidates among which selectors
choose.  A selector comes with warnings about its runs as a baseline.

::

    SCENARIO@rolling[:BRANCH]       the runs since the last change of the scenario's history
    SCENARIO@pinned:NAME            the runs of a pinned baseline
    SCENARIO@last:N                 the newest N
    SCENARIO@previous:N             the N before the candidates; where there are none, the N before the newest N
    SCENARIO@commit:ABC123          those of a commit (its first 4 digits or more)
    SCENARIO@branch:NAME            those of a branch
    SCENARIO@label:KEY=VALUE        those with a label
    SCENARIO@merge-base[:BRANCH]    those of the commit where the current branch left BRANCH, or of the nearest before

Only valid runs are ever chosen.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.analysis.comparability import have_other_load
from perfkit.history.baselines import Baselines
from perfkit.history.change_events import HistoryAnalysis
from perfkit.history.commits import ancestry_of
from perfkit.history.confounders import ENOUGH, mixes, on_one_machine
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import NotStored, ReadError, did_you_mean, leave_out, what_there_is
from perfkit.model.records import AB_SIDES, Run
from perfkit.model.serialization import CHANGED
from perfkit.runs import locust_csv, run_folder
from perfkit.runs.collection import check_branch, commit_beginning, id_beginning, in_time, labels_text
from perfkit.runs.index import CHANGED_SINCE
from perfkit.runs.read import read_run
from perfkit.runs.requests import renamed_runs
from perfkit.runs.store import RunStore
from perfkit.runs.validity import in_future, misdated

if TYPE_CHECKING:
    import pandas as pd

NEWEST_RAMPS = 5  # runs from which capacity is read where nobody names any
FEW_RUNS = 3  # below, run-to-run variation is hardly known
STALE_DAYS = 30
STALE_RUNS = 50  # later runs of the scenario
# kind -> whether a word must or may follow it
KINDS = {
    **{"rolling": "may", "pinned": "must", "last": "must", "previous": "must", "commit": "must", "branch": "must"},
    **{"label": "must", "merge-base": "may"},
}
_READING = re.compile(rf"@({'|'.join(KINDS)})(?::(.+))?\Z", re.DOTALL)
NO_RUNS_YET = "; it has no runs yet"
_EXAMPLES = {
    **{"pinned": "v1.4", "last": "5", "previous": "5", "commit": "abc123", "branch": "main"},
    **{"label": "build=1.4"},
}


@dataclass(frozen=True)
class HistoryContext:
    """The runs of a store, and what is known beside them; each run is read once, and the index is asked once."""

    store: RunStore
    baselines: Path = Path("data/baselines")  # folder of the pinned baselines
    repository: Path = field(default_factory=Path)  # A folder of the checkout that the selector ``merge-base`` asks
    # runs that are to be judged: never chosen, nor are runs that began after the first of them chosen as newest
    candidates: tuple[Run, ...] = ()
    # names that services have now, see `Policy`; all runs are read under these
    service_names: Mapping[str, str] = field(default_factory=dict)
    alpha: float = 0.01  # chance that a history in which nothing changed shows any change: that of the policy
    # only runs with all of these are there to be chosen, however they are named
    labels: Mapping[str, str] = field(default_factory=dict)
    # an analysis of runs of the store, under these names of services: it serves for the same runs and alpha
    analysed: HistoryAnalysis | None = None
    _runs: dict[tuple[str, bool], tuple[Run, ...]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _damaged: dict[str, tuple[str, ...]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _analyses: dict[tuple[str, ...], HistoryAnalysis] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per run of the store that has the `labels`, oldest first; see `RunStore.runs`."""
        frame = self.store.runs()
        return frame[frame["id"].isin(self.store.labelled(self.labels))] if self.labels else frame

    @property
    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(self.index["scenario"]))

    def runs_of(self, scenario: str, *, ab_tests: bool = False) -> tuple[Run, ...]:
        """All runs of a scenario, oldest first, but those that `left_out` names; of A/B tests only if asked for."""
        if (scenario, ab_tests) not in self._runs:
            rows = self.index[self.index["scenario"] == scenario]
            runs, damaged = [], []
            for run_id in rows["id"] if ab_tests else rows["id"][~rows["ab_test"].astype(bool)]:
                try:
                    runs.append(self.store.get(run_id))
                except ReadError as error:  # damaged since it was listed
                    damaged.append(f"{run_id} is left out: {error}")
                    leave_out(damaged[-1])
            self._damaged[scenario] = tuple(damaged)
            self._runs[scenario, ab_tests] = in_time(renamed_runs(runs, self.service_names))
        return self._runs[scenario, ab_tests]

    def left_out(self, scenario: str) -> tuple[str, ...]:
        """A sentence for each damaged run of a scenario: it cannot be read, or was changed after it was stored."""
        changed = [
            f"{run.id} is left out: {CHANGED_SINCE}"
            for run in self.runs_of(scenario)
            if any(check.name == CHANGED for check in run.validity.problems)
        ]
        return (*self.store.left_out(scenario), *self._damaged[scenario], *changed)

    def analysis(self, runs: Sequence[Run]) -> HistoryAnalysis:
        """The analysis of some runs of one scenario, of which there must be one at least."""
        ids = tuple(run.id for run in runs)
        if ids not in self._analyses:
            known = self.analysed
            validity = {(run.id, run.validity.ok) for run in runs}
            if known is None or known.alpha != self.alpha or not known.validity >= validity:
                known = HistoryAnalysis(timeline_of(runs[0].scenario, runs), self.alpha)
            elif known.validity != validity:
                kept = [i for i, moment in enumerate(known.timeline.runs) if (moment.run_id, moment.valid) in validity]
                known = HistoryAnalysis(known.timeline.part(kept), self.alpha)
            self._analyses[ids] = known
        return self._analyses[ids]

    @property
    def until(self) -> datetime | None:
        """When the first candidate began; ``None`` where unknown."""
        times = [run.started_at for run in self.candidates if run.started_at is not None]
        return min(times) if len(times) == len(self.candidates) and times else None

    @property
    def now(self) -> datetime:
        """The time at which a baseline's age is judged: that of the candidates, else the present; never the future."""
        present = datetime.now(UTC)
        return min(self.until or present, present)


@dataclass(frozen=True, slots=True)
class Selector:
    """One reading of a text such as ``api@last:5``."""

    scenario: str
    kind: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.scenario}@{self.kind}{f':{self.argument}' if self.argument else ''}"


def readings(text: str) -> tuple[Selector, ...]:
    """Every way to read a text as a selector; empty when it is none.

    >>> [str(item) for item in readings("api@last:5")], readings("data/runs/20261101T*")
    (['api@last:5'], ())
    """
    selectors = []
    for at in (match.start() for match in re.finditer("@", text)):
        match = _READING.match(text, at)
        if match and text[:at].strip() and (KINDS[match[1]] == "may" or match[2]):
            selectors.append(Selector(text[:at], match[1], match[2] or ""))
    return tuple(selectors)


def misspelt(text: str) -> str:
    """What may be wrong with a text that looks like a selector and is none; empty when it does not look like one."""
    scenario, at, rest = text.rpartition("@")
    if not at or not scenario:
        return ""
    kind, _, _ = rest.partition(":")
    if kind in KINDS:
        return f"a word must follow, such as {scenario}@{kind}:{_EXAMPLES[kind]}"
    return f"no selector{did_you_mean(kind, KINDS)}; after the @ there may be {', '.join(KINDS)}"


_NEWEST = ("rolling", "last", "previous")  # selectors that ask for the newest runs


@dataclass(frozen=True, slots=True)
class ChosenRuns:
    """Runs that were named, and what there is to know of them."""

    runs: tuple[Run, ...]  # in the order in which they were named; those of a selector oldest first
    warnings: tuple[str, ...] = ()  # what speaks against them as a baseline, each in a sentence
    # those of the warnings that name damaged runs, among which a selector could not choose
    left_out: tuple[str, ...] = ()
    selectors: tuple[Selector, ...] = ()  # those by which they were chosen


def choose_runs(names: Iterable[str | Path], context: HistoryContext) -> ChosenRuns:
    """The runs that these names name, under the names that services have now; empty names are left out.

    A name is a selector such as ``api@rolling``, or one that `read_named` takes.  Where the context has labels, runs
    without them are left out; without any name, all valid runs with them are meant: those of the scenario of the
    candidates, where there are some.  ``ReadError``: a name names nothing, or what it names cannot be read.
    ``NotStored``: no run has the labels, or those that have are of several scenarios.
    """
    texts, parts = list(map(str, names)), []
    if context.labels and not texts:
        scenarios = list(dict.fromkeys(run.scenario for run in context.candidates)) or context.scenarios
        if len(scenarios) > 1:
            label = next(f"{key}={value}" for key, value in context.labels.items())
            raise NotStored(
                f"{context.store.url}: runs labelled {labels_text(context.labels)} are of {len(scenarios)} scenarios: "
                f"{', '.join(scenarios)}; name one, such as {scenarios[0]}@label:{label}"
            )
        candidates = {run.id for run in context.candidates}
        chosen = [run for name in scenarios for run in context.runs_of(name) if run.validity.ok]
        chosen = [run for run in chosen if run.id not in candidates]
        if not chosen:
            raise NotStored(
                f"{context.store.url}: no valid run of {scenarios[0]} is labelled {labels_text(context.labels)}"
            )
        return ChosenRuns(tuple(chosen), context.left_out(scenarios[0]), context.left_out(scenarios[0]))
    for name in texts:
        if is_selector(name):
            parts.append(select(name, context))
        elif name.strip():
            runs = read_named(name.strip(), context.store)
            if context.labels:
                labelled = tuple(run for run in runs if context.labels.items() <= run.labels.items())
                if not labelled:
                    which = "is not" if len(runs) == 1 else f"none of its {len(runs)} runs is"
                    raise ReadError(f"{name}: {which} labelled {labels_text(context.labels)}")
                runs = labelled
            parts.append(ChosenRuns(renamed_runs(runs, context.service_names)))
    return ChosenRuns(
        tuple(run for part in parts for run in part.runs),
        tuple(dict.fromkeys(text for part in parts for text in part.warnings)),
        tuple(dict.fromkeys(text for part in parts for text in part.left_out)),
        tuple(selector for part in parts for selector in part.selectors),
    )


def history_runs(name: str, context: HistoryContext) -> tuple[Run, ...]:
    """The runs of a scenario, or those that a selector names, oldest first; ``ReadError`` when there are none."""
    if is_selector(name):
        return select(name, context).runs
    if not (runs := context.runs_of(name)):
        there = what_there_is(name, context.scenarios, NO_RUNS_YET)
        raise ReadError(f"{context.store.url}: no scenario {name!r}{there}")
    return runs


def stored_ids(names: Iterable[str], context: HistoryContext) -> list[str]:
    """Ids of runs of the store, also of unfit ones: from whole ids, beginnings, patterns, selectors and paths.

    Where the context has labels, those without them are left out; without any name, all runs with them are meant.
    ``NotStored``: the store has no such run, or several begin so.  ``ReadError``: a selector or path names no run of
    the store.
    """
    store = context.store
    finished = store.ids()
    ids = {*finished, *store.unfinished()}  # a run that may still be under way is meant only by its whole id
    labelled = store.labelled(context.labels) if context.labels else None
    chosen: dict[str, None] = dict.fromkeys([] if (names := list(names)) else labelled or ())
    for name in names:
        if name in ids:
            matching = [name]
        elif not (matching := [run_id for run_id in finished if fnmatch.fnmatchcase(run_id, name)]):
            if is_selector(name):
                matching = [run.id for run in select(name, context).runs]
            elif os.sep in name:
                matching = [run.id for run in read_named(name, store) if run.id in ids]
        matching = matching or [id_beginning(name, finished, store.url)]
        chosen |= dict.fromkeys(run_id for run_id in matching if labelled is None or run_id in labelled)
    if names and not chosen:
        raise NotStored(f"{store.url}: none of these runs is labelled {labels_text(context.labels)}")
    return list(chosen)


def is_selector(name: str) -> bool:
    """Whether a name is a selector such as ``api@rolling``; a file or folder of that name comes first."""
    return bool(readings(name)) and not Path(name).exists()


def read_named(name: str, store: RunStore | None = None) -> tuple[Run, ...]:
    """The runs that an id of the store or its beginning, a path, a pattern, a folder of run folders, or a URL names.

    ``ReadError``: it names nothing, or what it names cannot be read.  ``NotStored``: several runs of the store begin
    so; names them.
    """
    if store is not None and "://" in store.address and (ids := fnmatch.filter(store.ids(), name)):
        return tuple(map(store.get, ids))
    if "://" in name:
        address, _, run_id = name.rpartition("/")
        return (RunStore(address)[run_id],)
    try:
        paths = expand_path(name, store.address if store is not None else None)
    except ReadError as error:
        if store is not None and any(run_id.startswith(name) for run_id in store.ids()):
            return (store[name],)
        hint = misspelt(name)
        if store is not None and any(run_id.split("-", 1)[-1].rpartition("-")[0] == name for run_id in store.ids()):
            hint = f"it is a scenario: name runs of it, such as {name}@last:5"
        if hint:
            raise ReadError(f"{error}; {hint}") from error
        raise
    return tuple(map(read_run, paths))


def expand_path(name: str, store: str | None = None) -> list[Path]:
    """The runs that one path, pattern or folder of runs names, sorted by name; ``ReadError`` when there is none.

    It is looked for in this folder, then in that of the store.  Files of one set that a pattern catches together are
    one run.
    """
    for text in (str(root / name) for root in (Path(), *([Path(store)] if store else []))):
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
        matching = sorted(Path(item) for item in glob.glob(text))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if matching:
            runs = [run for item in matching for run in expand_path(str(item))]
            mains = {run: locust_csv.main_file(run) or run for run in runs}
            return list({mains[run]: run for run in reversed(runs)}.values())[::-1]
    where = f", and no run of that id in {store}" if store else ""
    raise ReadError(f"{name}: there is no such file, folder or pattern of files{where}")


def _holds_a_run(path: Path) -> bool:
    return run_folder.sniff(path) or locust_csv.sniff(path)


def select(text: str, context: HistoryContext) -> ChosenRuns:
    """The runs that a selector names; ``ReadError``: it is no selector, or names nothing; says what there is."""
    choices = readings(text)
    if not choices:
        raise ReadError(f"{text}: {misspelt(text) or 'is not a selector such as api@rolling'}")
    scenarios = context.scenarios
    selector = next((reading for reading in choices if reading.scenario in scenarios), choices[0])
    if selector.scenario not in scenarios:
        there = f"; there are {', '.join(map(repr, scenarios))}" if scenarios else NO_RUNS_YET
        near = did_you_mean(selector.scenario, scenarios)
        labelled = f" labelled {labels_text(context.labels)}" if context.labels else ""
        raise ReadError(f"{text}: no scenario {selector.scenario!r}{labelled} in {context.store.url}{near}{there}")
    candidates = {run.id for run in context.candidates}
    is_pinned = selector.kind == "pinned"  # whoever pinned runs of an A/B test asked for them
    runs = context.runs_of(selector.scenario, ab_tests=is_pinned)
    valid = [run for run in runs if run.validity.ok and run.id not in candidates]
    late: list[Run] = []
    if selector.kind in _NEWEST:  # what is dated in the future is never the newest
        now = datetime.now(UTC)
        flags = in_future([run.started_at for run in valid], now)
        late = [run for run, flag in zip(valid, flags, strict=True) if flag]
        valid = [run for run, flag in zip(valid, flags, strict=True) if not flag]
    selected, notes = _choose(selector, valid, context)
    if late:
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        notes.append(f"Run {late[0].id}{more} left out: {misdated(late[0].started_at, now)}.")
    if not selected:
        apart = 0 if is_pinned else len(context.runs_of(selector.scenario, ab_tests=True)) - len(runs)
        hint = f"; {apart} runs of A/B tests are in no history: name them by their ids" if apart else ""
        invalid = sum(not run.validity.ok for run in runs)
        there = f"{selector.scenario!r} has {len(runs)} run{'' if len(runs) == 1 else 's'}"
        there += f", {invalid} of them invalid" if invalid else ""
        besides = " besides the candidates" if candidates else ""
        raise ReadError(f"{text}: names no valid run{besides}; {there}: measure more{hint}")
    notes += quality_warnings(str(selector), selected, valid, context)
    left_out = context.left_out(selector.scenario)
    return ChosenRuns(selected, tuple(dict.fromkeys((*notes, *left_out))), left_out, (selector,))


def _choose(selector: Selector, valid: Sequence[Run], context: HistoryContext) -> tuple[tuple[Run, ...], list[str]]:
    """The runs that a selector names among the valid ones of its scenario, and notes on the choice."""
    scenario, argument = selector.scenario, selector.argument
    earlier = before(valid, context.until)
    match selector.kind:
        case "last":
            return earlier[-_count(selector) :], []
        case "previous":
            count = _count(selector)
            runs = (earlier if context.candidates else earlier[:-count])[-count:]
            if runs and len(runs) < count:
                return runs, [f"{selector}: there are only {len(runs)} valid runs before those compared."]
            return runs, []
        case "label":
            key, sign, value = argument.partition("=")
            if not key or not sign:
                raise ReadError(f"{selector}: expected a label and its value, such as {scenario}@label:build=1.4")
            labelled = set(context.store.labelled({key: value}))
            return tuple(run for run in valid if run.id in labelled), []
        case "branch":
            return _of_branch(selector, valid), []
        case "commit":
            commit = commit_beginning(argument, (run.git.get("commit", "") for run in valid), str(selector))
            runs = tuple(run for run in valid if run.git.get("commit") == commit)
            dirty = sum(run.git.get("dirty") == "yes" for run in runs)
            note = f"{selector}: {dirty} of its {len(runs)} runs were made from a tree with uncommitted changes."
            return runs, [note] if dirty else []
        case "merge-base":
            ancestry = ancestry_of(context.repository, argument)
            clean = [run for run in valid if run.git.get("dirty") != "yes"]
            with_runs = {run.git.get("commit", "") for run in clean}
            at = next((i for i, commit in enumerate(ancestry.commits) if commit in with_runs), None)
            if at is None:
                raise ReadError(
                    f"{selector}: {ancestry.left}; neither that commit nor any of the {len(ancestry.commits)} before "
                    f"it has a valid run in {context.store.url}"
                )
            commit = ancestry.commits[at]
            note = f"{selector}: {ancestry.left}, which has no runs; {commit[:10]}, {at} commits before, stands in."
            return tuple(run for run in clean if run.git.get("commit") == commit), [note] if at else []
        case "pinned":
            pinned = Baselines(context.baselines).get(scenario, argument)
            by_id = {run.id: run for run in valid}
            candidates = {run.id for run in context.candidates}
            missing = [run_id for run_id in pinned.runs if run_id not in by_id and run_id not in candidates]
            notes = []
            if missing and not context.labels:
                notes.append(
                    f"{selector}: {len(missing)} of its {len(pinned.runs)} runs are gone from {context.store.url} or "
                    f"no longer valid: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}."
                )
            if pinned.has_expired(context.now.date()):
                notes.append(
                    f"{selector} expired on {pinned.expires}: pin a newer one, or move it with "
                    "`perfkit baseline accept --expires DAY`."
                )
            return tuple(by_id[run_id] for run_id in pinned.runs if run_id in by_id), notes
        case _:  # rolling
            runs = _of_branch(selector, earlier) if argument else earlier
            if not runs:
                return (), []
            reference = context.candidates[0] if context.candidates else runs[-1]
            runs, note = comparable_runs(runs, reference)
            level, notes = like_with_like(since_last_change(runs, context), reference)
            return level, [note, *notes] if note else notes


def _count(selector: Selector) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", selector.argument):
        raise ReadError(
            f"{selector}: expected a number of runs from 1 on, such as {selector.scenario}@{selector.kind}:5"
        )
    return int(selector.argument)


def _of_branch(selector: Selector, runs: Sequence[Run]) -> tuple[Run, ...]:
    check_branch(selector.argument, (run.git.get("branch", "") for run in runs), str(selector))
    return tuple(run for run in runs if run.git.get("branch") == selector.argument)


def quality_warnings(name: str, runs: Sequence[Run], valid: Sequence[Run], context: HistoryContext) -> Iterator[str]:
    """What makes runs a weak baseline: too few, old, mixed; chosen from all valid ones of their scenario."""
    if len(runs) < FEW_RUNS:
        count = "a single run" if len(runs) == 1 else f"{len(runs)} runs"
        yield f"{name} is {count}: too few to know how runs vary; {FEW_RUNS} or more make a baseline."
    if times := [run.started_at for run in runs if run.started_at is not None]:
        newest, now = max(times), context.now
        days = (now - newest).days
        later = sum(run.started_at is not None and newest < run.started_at < now for run in valid)
        if days > STALE_DAYS:
            age = f"its newest run is {days} days older ({newest:%Y-%m-%d})"
            yield f"{name} is stale: {age}; machines and data move on."
        elif later > STALE_RUNS:
            yield f"{name} is stale: {later} runs of this scenario came after its newest ({newest:%Y-%m-%d})."
    branches = Counter(branch for run in runs if (branch := run.git.get("branch")))
    if len(branches) > 1:
        parts = ", ".join(f"{branch} {count}" for branch, count in branches.most_common(3))
        yield f"{name} has runs of {len(branches)} branches ({parts}): SCENARIO@rolling:BRANCH takes those of one."
    if len(runs) > 2 * FEW_RUNS and (events := context.analysis(runs).events):
        yield (
            f"{name} mixes two levels: the history changed at {events[-1].id}. "
            f"{runs[0].scenario}@rolling begins after the last change."
        )


def before(runs: Sequence[Run], until: datetime | None) -> tuple[Run, ...]:
    return tuple(run for run in runs if until is None or (run.started_at is not None and run.started_at < until))


def comparable_runs(runs: Sequence[Run], reference: Run) -> tuple[tuple[Run, ...], str]:
    """Runs that may be compared with the reference, and a note on those left out; all of them if none may."""
    services = set(reference.services)
    kept = tuple(run for run in runs if services & set(run.services) and not have_other_load([run], [reference]))
    if not kept or len(kept) == len(runs):
        return tuple(runs), ""
    gone = len(runs) - len(kept)
    verb = "runs were" if gone > 1 else "run was"
    return (
        kept,
        f"{gone} {verb} left out of {reference.scenario}'s history: made under another load, or of other services.",
    )


def since_last_change(runs: Sequence[Run], context: HistoryContext) -> tuple[Run, ...]:
    """The runs since a level of the history last changed, of valid ones of one scenario in time order."""
    events = context.analysis(runs).events if runs else ()
    return tuple(runs[events[-1].index :]) if events else tuple(runs)


def like_with_like(runs: Sequence[Run], reference: Run) -> tuple[tuple[Run, ...], list[str]]:
    """The runs of a level with the services (or those of the newest run) and machine of the reference; and notes."""
    if not runs:
        return (), []
    others = [run for run in runs if run.id != reference.id]
    numbers = mixes(timeline_of(reference.scenario, [*others, reference]))
    mix = {run.id: number for run, number in zip([*in_time(others), reference], numbers, strict=True)}
    chosen = [run for run in runs if mix[run.id] == mix[reference.id]]
    if len(chosen) < ENOUGH:
        chosen = [run for run in runs if mix[run.id] == mix[runs[-1].id]]
    gone = len(runs) - len(chosen)
    verb = "runs of this level have" if gone > 1 else "run of this level has"
    note = f"{gone} {verb} other services, and other throughput with them: left out." if gone else ""
    level, machines = on_one_machine(chosen, reference)
    return level, [text for text in (note, machines) if text]


def newest_runs(context: HistoryContext, scenario: str, count: int = 1) -> tuple[Run, ...]:
    """The newest runs of a scenario, oldest first, whether they are valid or not.

    Runs in quarantine, of A/B tests and dated in the future are left out.  ``NotStored``: the store has no such run;
    names the nearest scenario.
    """
    frame = context.index
    frame = frame[~(frame["quarantined"] | frame["ab_test"]).astype(bool)]
    scenarios = sorted(set(frame["scenario"]))
    ids = _not_late(frame[frame["scenario"] == scenario])["id"].tail(count)
    if not len(ids):
        there = what_there_is(scenario, scenarios, NO_RUNS_YET)
        labelled = f" labelled {labels_text(context.labels)}" if context.labels else ""
        raise NotStored(f"{context.store.url}: no runs of the scenario {scenario!r}{labelled}{there}")
    return tuple(context.store.get(run_id) for run_id in ids)


def _not_late(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs that are not dated in the future."""
    late = in_future([None if at != at else at for at in frame["started_at"]], datetime.now(UTC))
    return frame.loc[[not flag for flag in late]]  # of no rows, a list without ``loc`` would name columns


def newest_scenario(context: HistoryContext) -> str:
    """The scenario of the newest valid run of the store, A/B tests too; ``NotStored`` where there is none."""
    names = list(_not_late(context.index[context.index["valid"].astype(bool)])["scenario"])
    if not names:
        invalid = len(context.index)
        why = f"none of its {invalid} runs is valid (`perfkit runs` says why)" if invalid else "has no runs yet"
        raise NotStored(f"{context.store.url}: {why}")
    return str(names[-1])


def default_sides(context: HistoryContext, scenario: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the runs that are compared where nobody names any: baseline and candidate.

    Those of the newest A/B test, where the newest run of the scenario is of one; else the newest run against the level
    of the history before it.  ``NotStored``: the scenario has no two valid runs.
    """
    runs = [run for run in context.runs_of(scenario, ab_tests=True) if run.validity.ok]
    test: dict[tuple[str, str], str] = {}  # side and pair -> id; pairs are counted anew in each test
    for run in reversed(runs):
        side_and_pair = run.labels.get("side", ""), run.labels.get("pair", "")
        if not run.in_ab_test or side_and_pair in test:
            break
        test[side_and_pair] = run.id
    baseline, candidate = (tuple(name for (of, _), name in test.items() if of == side) for side in AB_SIDES)
    if baseline and candidate:
        return baseline[::-1], candidate[::-1]
    if sum(not run.in_ab_test for run in runs) < 2:
        raise NotStored(f"{context.store.url}: {scenario} has one valid run, and a comparison needs two")
    return (f"{scenario}@rolling",), (f"{scenario}@last:1",)


def runs_under_changing_load(context: HistoryContext) -> tuple[str, ...]:
    """Ids of the newest runs of the store whose load changes (ramps, stages), of one scenario; empty without any."""
    for scenario in dict.fromkeys(reversed(context.index["scenario"].to_list())):
        runs = [run for run in context.runs_of(scenario) if run.validity.ok and run.profile.kind in ("ramp", "stages")]
        if runs:
            return tuple(run.id for run in runs[-NEWEST_RAMPS:])
    return ()
