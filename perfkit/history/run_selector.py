"""Selectors: runs of a store named by what they mean, with warnings about them as a baseline.

Examples are ``api@rolling``, ``api@pinned:v1.4``, ``api@last:5``, ``api@commit:abc123``, ...

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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from perfkit.analysis.comparability import check_sides
from perfkit.history.baselines import Baselines
from perfkit.history.change_events import HistoryContext
from perfkit.history.commits import ancestry_of
from perfkit.history.confounders import ENOUGH, mixes, on_one_machine
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import ReadError, did_you_mean
from perfkit.model.records import Run, Severity
from perfkit.runs.collection import check_branch, commit_beginning, in_time
from perfkit.runs.validity import in_future, misdated

FEW_RUNS = 3  # below, run-to-run variation is hardly known
STALE_DAYS = 30
STALE_RUNS = 50  # later runs of the scenario
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
class Selected:
    """The runs that a selector names, oldest first, and what its reader must know of them.

    ``left_out`` names damaged runs of its scenario, each in a sentence that is among the warnings too.
    """

    selector: Selector
    runs: tuple[Run, ...]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def select(text: str, context: HistoryContext) -> Selected:
    """The runs that a selector names.

    Raises
    ------
    ReadError
        It is no selector, or names nothing; says what there is.
    """
    choices = readings(text)
    if not choices:
        raise ReadError(f"{text}: {misspelt(text) or 'is not a selector such as api@rolling'}")
    scenarios = context.scenarios
    selector = next((reading for reading in choices if reading.scenario in scenarios), choices[0])
    if selector.scenario not in scenarios:
        there = f"; there are {', '.join(map(repr, scenarios))}" if scenarios else "; it has no runs yet"
        near = did_you_mean(selector.scenario, scenarios)
        raise ReadError(f"{text}: no scenario {selector.scenario!r} in {context.store.url}{near}{there}")
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
        raise ReadError(f"{text}: names no valid run{' besides the candidates' if candidates else ''}{hint}")
    notes += quality_warnings(str(selector), selected, valid, context)
    left_out = context.left_out(selector.scenario)
    return Selected(selector, selected, tuple(dict.fromkeys((*notes, *left_out))), left_out)


def _choose(selector: Selector, valid: Sequence[Run], context: HistoryContext) -> tuple[tuple[Run, ...], list[str]]:
    """The runs that a selector names among the valid ones of its scenario, and notes on the choice."""
    scenario, argument = selector.scenario, selector.argument
    earlier = before(valid, context.until)
    match selector.kind:
        case "last":
            if not re.fullmatch(r"[1-9][0-9]{0,5}", argument):
                raise ReadError(f"{selector}: expected a number of runs from 1 on, such as {scenario}@last:5")
            return earlier[-int(argument) :], []
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
            if missing:
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


def _of_branch(selector: Selector, runs: Sequence[Run]) -> tuple[Run, ...]:
    check_branch(selector.argument, (run.git.get("branch", "") for run in runs), str(selector))
    return tuple(run for run in runs if run.git.get("branch") == selector.argument)


def quality_warnings(name: str, runs: Sequence[Run], every: Sequence[Run], context: HistoryContext) -> Iterator[str]:
    """What makes runs a weak baseline: too few, old, mixed; chosen from all valid ones of their scenario."""
    if len(runs) < FEW_RUNS:
        count = "a single run" if len(runs) == 1 else f"{len(runs)} runs"
        yield f"{name} is {count}: too few to know how runs vary; {FEW_RUNS} or more make a baseline."
    if times := [run.started_at for run in runs if run.started_at is not None]:
        newest, now = max(times), context.now
        days = (now - newest).days
        later = sum(run.started_at is not None and newest < run.started_at < now for run in every)
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
    """Those that began before that time."""
    return tuple(run for run in runs if until is None or (run.started_at is not None and run.started_at < until))


def comparable_runs(runs: Sequence[Run], reference: Run) -> tuple[tuple[Run, ...], str]:
    """Runs that may be compared with the reference, and a note on those left out; all of them if none may."""

    def is_comparable(run: Run) -> bool:
        if not set(run.services) & set(reference.services):
            return False
        checks = check_sides([run], [reference]).checks
        return not any(check.name in _OTHER_LOAD and check.severity is Severity.INVALID for check in checks)

    kept = tuple(filter(is_comparable, runs))
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
    """The runs of one level that are like the reference in their services and their machine, and notes on the others.

    Where fewer than `ENOUGH` have its services, those that have the services of the newest run.
    """
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
