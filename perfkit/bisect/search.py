"""The search itself: both ends are compared first, then `git bisect run` asks for one commit after another."""

from __future__ import annotations

import math
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.bisect.order import Order, Step
from perfkit.bisect.repository import ask, bisection, commit_of, is_ancestor, marks, suspects
from perfkit.bisect.step import build, judge_commit
from perfkit.errors import HistoryError, SettingsError
from perfkit.git import Commit, Git
from perfkit.load.served import checkout, command_words
from perfkit.side_by_side import Tell

STEP_COMMAND = "bisect-step"
PATIENCE = ((signal.SIGINT, 40.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))  # seconds to end after each


@dataclass(frozen=True, slots=True)
class Result:
    """What a search came to.

    Parameters
    ----------
    suspects
        One of these is the first bad commit; a single one when it was found, none when the ends do not differ.
    step
        What was measured of the (newest) suspect against the good commit.
    steps
        Every commit that was measured, in the order of measuring.
    """

    good: str
    bad: str
    suspects: tuple[Commit, ...]
    step: Step
    steps: tuple[Step, ...]
    log: Path

    @property
    def found(self) -> bool:
        return len(self.suspects) == 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.bisect/1``."""
        return {
            "schema": "perfkit.bisect/1",
            "good": self.good,
            "bad": self.bad,
            "found": self.found,
            "suspects": [commit.to_dict() for commit in self.suspects],
            "size": self.step.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
            "log": str(self.log),
        }


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a search would do."""

    commits: int  # of which one is the first bad one
    steps: int  # about so many comparisons, the one of both ends included
    known: int  # commits of which the log knows already


def outlook(order: Order) -> Outlook:
    """Look at a search before it begins.

    Raises
    ------
    SettingsError
        The good commit is no ancestor of the bad one, or both are the same; a command cannot be taken apart.
    """
    for command, what in ((order.serve, "--serve"), (order.build, "--build")):
        if command is not None:
            command_words(command, what)
    if order.good == order.bad:
        raise SettingsError(f"--good and --bad are the same commit {order.good[:9]}; there is nothing to search")
    if not is_ancestor(order.repository, order.good, order.bad):
        raise SettingsError(
            f"--good {order.good[:9]} is no ancestor of --bad {order.bad[:9]}: name a good commit from which it "
            f"descends, such as `git merge-base {order.good[:9]} {order.bad[:9]}`"
        )
    count = int(ask(order.repository, "rev-list", "--count", f"{order.good}..{order.bad}"))
    return Outlook(count, 1 + math.ceil(math.log2(max(count, 1))), len(order.log.steps()))


def search(order: Order, tell: Tell) -> Result:
    """Find the first bad commit between a good and a bad one.

    The working tree of the user is not touched: commits are checked out and built in temporary folders.  Nothing of
    them, of git's state or of a process is left, also after Ctrl-C or with its terminal gone; the log is, and the same
    search goes on with it.

    Raises
    ------
    SettingsError
        See `outlook`.
    LoadError
        The good commit cannot be built.
    HistoryError
        Git failed.
    """
    outlook(order)
    with _termination_as_interrupt(), checkout(order.good, order.repository) as good_tree:
        tell(f"{order.good[:9]}: the good commit is built")
        build(order.build, good_tree)
        order = replace(order, good_tree=good_tree)
        end = judge_commit(order, order.bad, tell)
        if end.verdict != "bad" or end.question is None:
            return Result(order.good, order.bad, (), end, (end,), order.log_path)
        order = replace(order, question=end.question)
        return _searched(order, end)


def _searched(order: Order, end: Step) -> Result:
    with bisection(order.repository, order.good, order.bad) as tree:
        file = tree.parent / "order"
        file.write_bytes(pickle.dumps(order))
        # -P: a package of the same name in the project under test is not this one
        step = [sys.executable, "-P", "-m", "perfkit", STEP_COMMAND, str(file)]
        _to_the_end(Git(tree), "bisect", "run", *step)
        steps = order.log.steps()
        _agree(marks(tree), steps, order)
        left = suspects(tree)
        commits = tuple(commit_of(order.repository, commit) for commit in left)
    known = tuple(step for step in steps.values() if step.commit != end.commit)
    return Result(order.good, order.bad, commits, steps[left[0]], (end, *known), order.log_path)


def _agree(seen: dict[str, str], steps: dict[str, Step], order: Order) -> None:
    """Git takes any crash of a step for a verdict: each that it counts must have been measured."""
    odd = [commit for commit, mark in seen.items() if commit != order.good and mark != _verdict(steps.get(commit))]
    if odd:
        raise HistoryError(
            f"{odd[0][:9]}: the step failed; see what it said above.  The same command goes on from there"
        )


def _verdict(step: Step | None) -> str:
    return step.verdict if step is not None else ""


def _to_the_end(git: Git, *words: str) -> None:
    """Run a git command; Ctrl-C ends it and all that it started, in order, before it is raised."""
    ended, holder = os.pipe()  # held open by git and the step: when nobody holds it any more, both have ended
    try:
        process = git.start(*words, pass_fds=(holder,))
        os.close(holder)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            _end(process, ended)
            raise
    finally:
        os.close(ended)
    if code not in (0, 2):  # 2: only commits that were skipped are left
        raise HistoryError("`git bisect run` failed; see what it said above.  The same command goes on from there")


def _end(process: subprocess.Popen[bytes], ended: int) -> None:
    for number, seconds in PATIENCE:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if select.select([ended], [], [], seconds)[0]:
            break
    process.wait()


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, and SIGHUP where ``nohup`` does not hold it off, are cleaned up after like Ctrl-C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def stop(*_: object) -> None:
        for number in before:  # a terminal that is closed says so more than once
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
