"""One step of a bisection: a commit is checked out, built, served and compared with the good one."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfkit.bisect.order import CODES, Order, Step, question_of
from perfkit.bisect.repository import under_test
from perfkit.config import Scenario
from perfkit.errors import HistoryError, LoadError, LoadStopped
from perfkit.load.scenario_run import run_scenario
from perfkit.load.served import checkout, command_words, served
from perfkit.model import Comparison, Finding, Run, Verdict
from perfkit.side_by_side import Outcome, SideBySide, Tell
from perfkit.store import RunStore

BUILD_S = 3600.0
TAIL = 10  # lines that a failed build is quoted with
_VERDICTS = {Verdict.REGRESSION: "bad", Verdict.NO_CHANGE: "good", Verdict.IMPROVEMENT: "good"}


class _Broken(LoadError):
    """This commit cannot be built or served."""


def judge_commit(order: Order, commit: str, tell: Tell) -> Step:
    """Compare a commit with the good one and keep what was found in the log.

    Without a question the two ends are compared under the whole policy, and the clearest regression becomes it.

    Raises
    ------
    StoreError
        A run could not be kept.
    HistoryError
        The log could not be written.
    """
    step = _known(order, commit)
    if step is None:
        step = _measured(order, commit, tell)
        order.log.add(step)
    tell(f"{commit[:9]}: {step.verdict}: {step.why}")
    return step


def run_step(file: Path, tell: Tell) -> int:
    """A step as `git bisect run` asks for it, in the tree of the bisection; returns the exit code that git expects."""
    try:
        order: Order = pickle.loads(file.read_bytes())  # written by `search` into a folder of its own
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise HistoryError(f"{file}: holds no step of a search; `perfkit bisect` makes them") from error
    commit = under_test(Path.cwd())
    os.chdir(order.folder)
    return CODES[judge_commit(order, commit, tell).verdict]


def _known(order: Order, commit: str) -> Step | None:
    step = order.log.steps().get(commit)
    return step if step is not None and step.is_final else None


def _measured(order: Order, commit: str, tell: Tell) -> Step:
    try:
        with checkout(commit, order.repository) as tree:
            build(order.build, tree)
            return _judged(order, commit, _compared(order, commit, tree, tell))
    except _Broken as error:
        return Step(commit, "skip", str(error))
    except LoadError as error:
        return Step(commit, "skip", str(error), is_final=False)


def _compared(order: Order, commit: str, tree: Path, tell: Tell) -> Outcome:
    policy = order.question.policy(order.policy) if order.question is not None else order.policy
    with served(order.serve, order.good_tree or tree) as before, served(order.serve, tree) as after:
        targets = {
            "baseline": replace(order.scenario, host=before, revision={"commit": order.good, "dirty": "no"}),
            "candidate": replace(order.scenario, host=after, revision={"commit": commit, "dirty": "no"}),
        }
        labels = {"bisect": f"{order.good[:9]}..{order.bad[:9]}", "bisect_commit": commit}
        return SideBySide(targets, order.store, policy, order.plan, tell, labels, run_one=_run_one).decide()


def _run_one(scenario: Scenario, store: RunStore, labels: Mapping[str, str], report: Any) -> Run:
    """A run that its user stopped stops the whole search; it says nothing of the commit."""
    try:
        run = run_scenario(scenario, store, labels, report)
    except LoadStopped as error:
        raise KeyboardInterrupt from error
    if any(check.name == "interrupted" and "stopped by" in str(check.value) for check in run.validity.problems):
        raise KeyboardInterrupt
    return run


def _judged(order: Order, commit: str, outcome: Outcome) -> Step:
    comparison = outcome.comparison
    question = order.question or question_of(comparison.findings)
    finding = _finding(comparison, question.service, question.metric) if question is not None else None
    if question is None or finding is None:
        verdict = "good" if comparison.verdict in _VERDICTS else "skip"
        why = comparison.warnings[0] if comparison.verdict is Verdict.INVALID and comparison.warnings else outcome.why
        return Step(commit, verdict, f"{comparison.verdict.value}: {why}", is_final=verdict != "skip")
    verdict = _VERDICTS.get(finding.verdict, "skip")
    return Step(
        commit,
        verdict,
        outcome.why if verdict != "skip" else f"inconclusive: {outcome.why}",
        finding.service,
        finding.metric,
        finding.change,
        finding.ci_low,
        finding.ci_high,
        finding.change_unit,
        question.limit if order.question is None else None,
        is_final=verdict != "skip",
    )


def _finding(comparison: Comparison, service: str, metric: str) -> Finding | None:
    if comparison.verdict is Verdict.INVALID:
        return None
    return next((f for f in comparison.findings if (f.service, f.metric) == (service, metric)), None)


def build(command: str | None, tree: Path) -> None:
    """Run a build command in a checkout; no shell is involved.  ``LoadError`` with its last lines when it fails."""
    if command is None:
        return
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command_words(command, "build"),
                cwd=tree,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise _Broken(f"build {command!r}: cannot be started: {error.strerror}") from error
        try:
            code = process.wait(BUILD_S)
        except subprocess.TimeoutExpired as error:
            raise _Broken(f"build {command!r}: did not end within {BUILD_S:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            process.wait()
        if code:
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines()[-TAIL:]
            raise _Broken(f"build {command!r}: failed with exit code {code}: {' | '.join(lines) or 'it wrote nothing'}")
