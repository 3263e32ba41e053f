"""The runs that a selector names: valid ones of a store, with what must be known of them as a baseline.

Runs named by what they mean: ``api@rolling``, ``api@pinned:v1.4``, ``api@last:5``, ``api@commit:abc123``, ...

::

    SCENARIO@rolling[:BRANCH]       the runs since the last change of the scenario's history
    SCENARIO@pinned:NAME            the runs of a pinned baseline
    SCENARIO@last:N                 the newest N
    SCENARIO@commit:ABC123          those of a commit (its first 4 digits or more)
    SCENARIO@branch:NAME            those of a branch
    SCENARIO@merge-base[:BRANCH]    those of the commit where the current branch left BRANCH, or of the nearest before

Only valid runs are ever chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from perfkit.analysis.comparability import check_sides
from perfkit.history.baselines import Baselines, quality_warnings
from perfkit.history.change_events import find_events
from perfkit.history.commits import ancestry_of
from perfkit.history.confounders import ENOUGH, on_one_machine
from perfkit.history.service_mix import mixes
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import ReadError, did_you_mean
from perfkit.model.omissions import leave_out
from perfkit.model.records import Run, Severity
from perfkit.model.serialization import CHANGED
from perfkit.runs.collection import check_branch, commit_beginning, in_time
from perfkit.runs.index import CHANGED_SINCE
from perfkit.runs.service_names import renamed_runs
from perfkit.runs.store import RunStore
from perfkit.runs.validity import in_future, misdated

# kind -> whether a word must or may follow it
KINDS = {"rolling": "may", "pinned": "must", "last": "must", "commit": "must", "branch": "must", "merge-base": "may"}
_READING = re.compile(rf"@({'|'.join(KINDS)})(?::(.+))?\Z", re.DOTALL)
_EXAMPLES = {"pinned": "v1.4", "last": "5", "commit": "abc123", "branch": "main"}


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

    >>> [str(one) for one in readings("api@last:5")], readings("data/runs/20261101T*")
    (['api@last:5'], ())
    """
    found = []
    for at in (match.start() for match in re.finditer("@", text)):
        match = _READING.match(text, at)
        if match and text[:at].strip() and (KINDS[match[1]] == "may" or match[2]):
            found.append(Selector(text[:at], match[1], match[2] or ""))
    return tuple(found)


def misspelt(text: str) -> str:
    """What may be wrong with a text that looks like a selector and is none; empty when it does not look like one."""
    scenario, at, rest = text.rpartition("@")
    if not at or not scenario:
        return ""
    kind, _, _ = rest.partition(":")
    if kind in KINDS:
        return f"a word must follow, such as {scenario}@{kind}:{_EXAMPLES[kind]}"
    return f"no selector{did_you_mean(kind, KINDS)}; after the @ there may be {', '.join(KINDS)}"


_NEWEST = ("rolling", "last")  # selectors that ask for the newest runs
_OTHER_LOAD = ("load", "load_profile")  # checks that make runs of one history unlike each other


@dataclass(frozen=True, slots=True)
class HistoryContext:
    """Where selectors look.

    Parameters
    ----------
    baselines
        Folder of the pinned baselines.
    repository
        A folder of the checkout that ``merge-base`` asks.
    candidates
        Runs that are to be judged: never chosen, nor are runs that began after the first of them chosen as newest.
    service_names
        Names that services have now, see `Policy`; all runs are read under these.
    alpha
        Chance that a history in which nothing changed shows any change: that of the policy.
    """

    store: RunStore
    baselines: Path = Path("data/baselines")
    repository: Path = field(default_factory=Path)
    candidates: tuple[Run, ...] = ()
    service_names: Mapping[str, str] = field(default_factory=dict)
    alpha: float = 0.01
    _read: dict[tuple[str, bool], tuple[Run, ...]] = field(default_factory=dict, repr=False, compare=False)
    _damaged: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)

    def runs_of(self, scenario: str, *, ab_tests: bool = False) -> tuple[Run, ...]:
        """All runs of a scenario, oldest first, read once; those of A/B tests only if asked for.

        What `left_out` names is not among them.
        """
        if (scenario, ab_tests) not in self._read:
            found, damaged = [], []
            for run_id in self.store.runs(scenario=scenario, **({} if ab_tests else {"ab_test": False}))["id"]:
                try:
                    found.append(self.store.get(run_id))
                except ReadError as error:  # damaged since it was listed
                    damaged.append(f"{run_id} is left out: {error}")
                    leave_out(damaged[-1])
            self._damaged[scenario] = damaged
            self._read[scenario, ab_tests] = in_time(renamed_runs(found, self.service_names))
        return self._read[scenario, ab_tests]

    def left_out(self, scenario: str) -> tuple[str, ...]:
        """A sentence for each damaged run of a scenario: it cannot be read, or was changed after it was stored."""
        changed = [
            f"{run.id} is left out: {CHANGED_SINCE}"
            for run in self.runs_of(scenario)
            if any(check.name == CHANGED for check in run.validity.problems)
        ]
        return (*self.store.left_out(scenario), *self._damaged[scenario], *changed)

    @property
    def until(self) -> datetime | None:
        """When the first candidate began; ``None`` where unknown."""
        times = [run.started_at for run in self.candidates if run.started_at is not None]
        return min(times) if len(times) == len(self.candidates) and times else None

    @property
    def now(self) -> datetime:
        """The time at which a baseline's age is told: that of the candidates, else the present; never the future."""
        present = datetime.now(UTC)
        return min(self.until or present, present)


@dataclass(frozen=True, slots=True)
class Selected:
    """The runs that a selector names, oldest first, and what its reader must know of them.

    ``left_out`` names damaged runs of its scenario, each in a sentence that is among the warnings too.
    """

    selector: Selector
    runs: tuple[Run, ...]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def select(text: str, past: HistoryContext) -> Selected:
    """The runs that a selector names.

    Raises
    ------
    ReadError
        It is no selector, or names nothing; says what there is.
    """
    choices = readings(text)
    if not choices:
        raise ReadError(f"{text}: {misspelt(text) or 'is not a selector such as api@rolling'}")
    frame = past.store.runs()
    known = list(dict.fromkeys(frame["scenario"]))
    selector = next((one for one in choices if one.scenario in known), choices[0])
    if selector.scenario not in known:
        there = f"; there are {', '.join(map(repr, known))}" if known else "; it has no runs yet"
        near = did_you_mean(selector.scenario, known)
        raise ReadError(f"{text}: no scenario {selector.scenario!r} in {past.store.url}{near}{there}")
    candidates = {run.id for run in past.candidates}
    is_pinned = selector.kind == "pinned"  # whoever pinned runs of an A/B test asked for them
    runs = past.runs_of(selector.scenario, ab_tests=is_pinned)
    every = [run for run in runs if run.validity.ok and run.id not in candidates]
    every, late = _dated(every) if selector.kind in _NEWEST else (every, "")
    selected, notes = _CHOOSE[selector.kind](selector, every, past)
    notes = (*notes, late) if late else notes
    if not selected:
        apart = 0 if is_pinned else len(past.runs_of(selector.scenario, ab_tests=True)) - len(runs)
        hint = f"; {apart} runs of A/B tests are in no history: name them by their ids" if apart else ""
        raise ReadError(f"{text}: names no valid run{' besides the candidates' if candidates else ''}{hint}")
    notes = (*notes, *quality_warnings(str(selector), selected, every, past.now, past.alpha))
    left_out = past.left_out(selector.scenario)
    return Selected(selector, selected, tuple(dict.fromkeys((*notes, *left_out))), left_out)


def _dated(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """The runs that are not dated in the future, which are never the newest, and a note on the others."""
    now = datetime.now(UTC)
    late = [run for run, flag in zip(runs, in_future([run.started_at for run in runs], now), strict=True) if flag]
    if not late:
        return list(runs), ""
    more = f" and {len(late) - 1} more" if len(late) > 1 else ""
    names = {run.id for run in late}
    note = f"Run {late[0].id}{more} left out: {misdated(late[0].started_at, now)}."
    return [run for run in runs if run.id not in names], note


def before(runs: Sequence[Run], until: datetime | None) -> tuple[Run, ...]:
    """Those that began before that time."""
    return tuple(run for run in runs if until is None or (run.started_at is not None and run.started_at < until))


def comparable_runs(runs: Sequence[Run], reference: Run) -> tuple[tuple[Run, ...], str]:
    """Runs that may be held against the reference, and a note on those left out; all of them if none may."""
    kept = tuple(run for run in runs if not _is_foreign(run, reference))
    if not kept or len(kept) == len(runs):
        return tuple(runs), ""
    gone = len(runs) - len(kept)
    verb = "runs were" if gone > 1 else "run was"
    return (
        kept,
        f"{gone} {verb} left out of {reference.scenario}'s history: made under another load, or of other services.",
    )


def _is_foreign(run: Run, reference: Run) -> bool:
    if not set(run.services) & set(reference.services):
        return True
    checks = check_sides([run], [reference]).checks
    return any(check.name in _OTHER_LOAD and check.severity is Severity.INVALID for check in checks)


_Choice = tuple[tuple[Run, ...], tuple[str, ...]]


def _rolling(selector: Selector, every: Sequence[Run], past: HistoryContext) -> _Choice:
    runs = before(every, past.until)
    if selector.argument:
        runs = _of_branch(selector, runs)
    if not runs:
        return (), ()
    reference = past.candidates[0] if past.candidates else runs[-1]
    runs, note = comparable_runs(runs, reference)
    level, others = like_with_like(since_last_change(runs, past.alpha), reference)
    return level, tuple(text for text in (note, *others) if text)


def since_last_change(runs: Sequence[Run], alpha: float = 0.01) -> tuple[Run, ...]:
    """The runs since a level of the history last changed, of valid ones of one scenario in time order."""
    events = find_events(timeline_of(runs[0].scenario, runs), alpha=alpha) if runs else ()
    return tuple(runs[events[-1].index :]) if events else tuple(runs)


def like_with_like(runs: Sequence[Run], reference: Run) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """The runs of one level that are like the reference in their services and their machine, and notes on the others.

    Where fewer than `ENOUGH` have its services, those that have the services of the newest run.
    """
    if not runs:
        return (), ()
    every = [run for run in runs if run.id != reference.id]
    numbers = mixes(timeline_of(reference.scenario, [*every, reference]))
    order = {run.id: number for run, number in zip([*in_time(every), reference], numbers, strict=True)}
    chosen = [run for run in runs if order[run.id] == order[reference.id]]
    if len(chosen) < ENOUGH:
        chosen = [run for run in runs if order[run.id] == order[runs[-1].id]]
    gone = len(runs) - len(chosen)
    verb = "runs of this level have" if gone > 1 else "run of this level has"
    note = f"{gone} {verb} other services, and other throughput with them: left out." if gone else ""
    level, machines = on_one_machine(chosen, reference)
    return level, (note, machines)


def _pinned(selector: Selector, every: Sequence[Run], past: HistoryContext) -> _Choice:
    pinned = Baselines(past.baselines).get(selector.scenario, selector.argument)
    by_id = {run.id: run for run in every}
    candidates = {run.id for run in past.candidates}
    notes = []
    missing = [run_id for run_id in pinned.runs if run_id not in by_id and run_id not in candidates]
    if missing:
        notes.append(
            f"{selector}: {len(missing)} of its {len(pinned.runs)} runs are gone from {past.store.url} or no longer "
            f"valid: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}."
        )
    if pinned.has_expired(past.now.date()):
        notes.append(
            f"{selector} expired on {pinned.expires}: pin a newer one, or move it with "
            "`perfkit baseline accept --expires DAY`."
        )
    return tuple(by_id[run_id] for run_id in pinned.runs if run_id in by_id), tuple(notes)


def _last(selector: Selector, every: Sequence[Run], past: HistoryContext) -> _Choice:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", selector.argument):
        raise ReadError(f"{selector}: expected a number of runs from 1 on, such as {selector.scenario}@last:5")
    return before(every, past.until)[-int(selector.argument) :], ()


def _of_branch(selector: Selector, runs: Sequence[Run]) -> tuple[Run, ...]:
    check_branch(selector.argument, (run.git.get("branch", "") for run in runs), str(selector))
    return tuple(run for run in runs if run.git.get("branch") == selector.argument)


def _branch(selector: Selector, every: Sequence[Run], _: HistoryContext) -> _Choice:
    return _of_branch(selector, every), ()


def _commit(selector: Selector, every: Sequence[Run], _: HistoryContext) -> _Choice:
    commit = commit_beginning(selector.argument, (run.git.get("commit", "") for run in every), str(selector))
    found = tuple(run for run in every if run.git.get("commit") == commit)
    return found, tuple(_dirty(selector, found))


def _dirty(selector: Selector, runs: Sequence[Run]) -> Iterator[str]:
    changed = sum(run.git.get("dirty") == "yes" for run in runs)
    if changed:
        yield f"{selector}: {changed} of its {len(runs)} runs were made from a tree with uncommitted changes."


def _merge_base(selector: Selector, every: Sequence[Run], past: HistoryContext) -> _Choice:
    ancestry = ancestry_of(past.repository, selector.argument)
    clean = [run for run in every if run.git.get("dirty") != "yes"]
    with_runs = {run.git.get("commit", "") for run in clean}
    at = next((i for i, commit in enumerate(ancestry.commits) if commit in with_runs), None)
    if at is None:
        raise ReadError(
            f"{selector}: {ancestry.left}; neither that commit nor any of the {len(ancestry.commits)} before it has a "
            f"valid run in {past.store.url}"
        )
    commit = ancestry.commits[at]
    notes = []
    if at:
        notes.append(f"{selector}: {ancestry.left}, which has no runs; {commit[:10]}, {at} commits before, stands in.")
    return tuple(run for run in clean if run.git.get("commit") == commit), tuple(notes)


_CHOOSE = {
    "rolling": _rolling,
    "pinned": _pinned,
    "last": _last,
    "commit": _commit,
    "branch": _branch,
    "merge-base": _merge_base,
}
