"""The search itself: both ends are compared first, then `git bisect run` asks for one commit after another.

Which commit made a service worse: git's bisection, each step a settled comparison of two builds.

What every step of a bisection has in common, and what was found in each: a log with which the next one goes on.

What a bisection asks of git, and the place where git keeps its state: a working tree of its own, without files.

One step of a bisection: a commit is checked out, built, served and compared with the good one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.config.policy import Policy
from perfkit.config.settings import Scenario
from perfkit.loadgen.ab_test import ABPlan, ABResult, ABTest, OnMessage, checkout, command_words, running_service
from perfkit.loadgen.run import run_scenario
from perfkit.model.errors import HistoryError, LoadError, LoadStopped, SettingsError
from perfkit.model.records import Comparison, Finding, Metric, Run, Scope, Verdict
from perfkit.runs.git import Commit, Git, GitError
from perfkit.runs.store import RunStore

CODES = {"good": 0, "bad": 1, "skip": 125}  # what `git bisect run` takes them for
FAILED = 255  # ends `git bisect run`


@dataclass(frozen=True, slots=True)
class Question:
    """The one change that is searched for: a metric of a service, and from where on a commit counts as bad.

    ``limit`` is half of the change between the two ends, a worsening >= 0 in the metric's change unit: what is beyond
    is closer to the bad end than to the good one.
    """

    service: str
    metric: str
    limit: float

    def policy(self, policy: Policy) -> Policy:
        """The policy of a step: this question and no other, so that no other keeps it from being settled."""
        tolerance: dict[str, Any] = {metric.value: "off" for metric in Metric}
        unit = "pp" if self.metric == Metric.ERROR_RATE else "%"
        tolerance[self.service] = {self.metric: f"{self.limit:.6f}{unit}"}
        return Policy(tolerance, (self.metric,), policy.alpha, policy.confidence, required_runs=policy.required_runs)


def question_of(findings: tuple[Finding, ...]) -> Question | None:
    """The clearest regression between the two ends; ``None`` where there is none."""
    bad = [f for f in findings if f.verdict is Verdict.REGRESSION and not f.objective and f.scope is Scope.SERVICE]
    able = [f for f in bad if f.change is not None and math.isfinite(f.change)]
    if not able:
        return None
    first = min(able, key=lambda f: (not f.gating, f.p_adjusted if f.p_adjusted is not None else 1.0, f.metric))
    return Question(first.label, first.metric, abs(first.change or 0.0) / 2.0)


@dataclass(frozen=True, slots=True)
class Step:
    """What was found of one commit, compared with the good one.

    ``verdict`` is ``good``, ``bad`` or ``skip``; ``change`` and its interval are in ``unit``, ``None`` where nothing
    was measured.
    """

    commit: str
    verdict: str
    why: str
    service: str = ""
    metric: str = ""
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    limit: float | None = None
    is_final: bool = True  # false: another try may tell

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def question(self) -> Question | None:
        """Of the bad end: what the bisection is about."""
        return Question(self.service, self.metric, self.limit) if self.limit is not None else None


@dataclass(frozen=True, slots=True)
class Log:
    """One JSON line per step; those of other searches (another key) are left alone."""

    path: Path
    key: str

    def add(self, step: Step) -> None:
        line = {"key": self.key, "time": datetime.now(UTC).isoformat(), **step.to_dict()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise HistoryError(f"{self.path}: cannot be written: {error.strerror}") from error

    def steps(self) -> dict[str, Step]:
        """Commit to what was found of it last."""
        return {step.commit: step for step in self._read()}

    def _read(self) -> Iterator[Step]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise HistoryError(f"{self.path}: cannot be read ({error}); remove it to begin anew") from error
        for line in lines:
            try:
                table = json.loads(line)
                if table.pop("key") == self.key and table.pop("time"):
                    yield Step(**table)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # the last line of a search that was killed while it wrote


@dataclass(frozen=True, slots=True)
class Order:
    """What is searched for, and how.

    Parameters
    ----------
    build
        Command that builds a checkout, run in it; ``None`` where nothing is to be built.
    serve
        Command that starts the service from a checkout, with ``{port}``.
    store
        Where the runs are kept.
    folder
        Where the load is started from, as `perfkit run` would.
    """

    repository: Path
    folder: Path
    good: str
    bad: str
    scenario: Scenario
    serve: str
    build: str | None
    plan: ABPlan
    policy: Policy
    store: str
    log_path: Path
    good_tree: Path | None = None  # the good commit, built
    question: Question | None = None

    @property
    def log(self) -> Log:
        """The log of this search; the same words for another service, load or policy are another search."""
        code = self.scenario.locustfile.read_bytes() if self.scenario.locustfile.is_file() else b""
        own = (self.scenario, self.scenario.host, dict(self.scenario.environment))
        words = (self.good, self.bad, own, self.serve, self.build, self.policy)
        return Log(self.log_path, hashlib.sha256(repr(words).encode() + code).hexdigest()[:16])


def ask(folder: Path, *words: str) -> str:
    """What git says; ``HistoryError`` when it fails."""
    with _as_history_error():
        return Git(folder).text(*words)


@contextmanager
def _as_history_error() -> Iterator[None]:
    try:
        yield
    except GitError as error:
        raise HistoryError(str(error)) from error


def resolve(folder: Path, name: str, what: str) -> str:
    """The id of a commit, branch or tag."""
    with _as_history_error():
        git = Git(folder)
        commit = git.commit(name)
        if commit is None:
            raise SettingsError(f"{what} {name!r}: {git.why_unknown()}; go into the repository of the service")
        return commit


def is_ancestor(folder: Path, older: str, newer: str) -> bool:
    with _as_history_error():
        return Git(folder).is_ancestor(older, newer)


def commit_of(folder: Path, commit: str) -> Commit:
    """Author, date and subject; hostile text."""
    with _as_history_error():
        return Git(folder).log(commit, 1)[0]


def common_folder(folder: Path) -> Path:
    """Where the repository itself is, whichever of its working trees is asked."""
    with _as_history_error():
        return Git(folder).common_folder()


@contextmanager
def bisection(repository: Path, good: str, bad: str) -> Iterator[Path]:
    """A bisection that is begun, in a working tree of its own; nothing of it is left afterwards.

    The tree is without files: commits are checked out elsewhere, each into a folder of its own, so that nothing that
    one build leaves behind can get into another.
    """
    with _as_history_error(), Git(repository).worktree(bad, checkout=False) as tree:
        ask(tree, "bisect", "start", "--no-checkout", bad, good)
        yield tree


def under_test(tree: Path) -> str:
    """The commit that a bisection wants to know about."""
    return ask(tree, "rev-parse", "--verify", "BISECT_HEAD")


def marks(tree: Path) -> dict[str, str]:
    """What git took commits for: id to ``good``, ``bad`` or ``skip``."""
    lines = ask(tree, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/bisect").splitlines()
    return {commit: name.split("-")[0] for name, _, commit in (line.partition(" ") for line in lines)}


def suspects(tree: Path) -> tuple[str, ...]:
    """The commits of which the first bad one is one, newest first; a single one when it is found."""
    goods = [commit for commit, mark in marks(tree).items() if mark == "good"]
    return tuple(ask(tree, "rev-list", "refs/bisect/bad", "--not", *goods, "--").split())


BUILD_S = 3600.0
TAIL = 10  # lines that a failed build is quoted with
_VERDICTS = {Verdict.REGRESSION: "bad", Verdict.NO_CHANGE: "good", Verdict.IMPROVEMENT: "good"}


class _Broken(LoadError):
    """This commit cannot be built or served."""


def judge_commit(order: Order, commit: str, tell: OnMessage) -> Step:
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


def run_step(file: Path, tree: Path, tell: OnMessage) -> int:
    """A step as `git bisect run` asks for it, in the tree of the bisection; returns the exit code that git expects."""
    try:
        order: Order = pickle.loads(file.read_bytes())  # written by `search` into a folder of its own
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise HistoryError(f"{file}: holds no step of a search; `perfkit bisect` makes them") from error
    commit = under_test(tree)
    os.chdir(order.folder)
    return CODES[judge_commit(order, commit, tell).verdict]


def _known(order: Order, commit: str) -> Step | None:
    step = order.log.steps().get(commit)
    return step if step is not None and step.is_final else None


def _measured(order: Order, commit: str, tell: OnMessage) -> Step:
    try:
        with checkout(commit, order.repository) as tree:
            build(order.build, tree)
            return _judged(order, commit, _compared(order, commit, tree, tell))
    except _Broken as error:
        return Step(commit, "skip", str(error))
    except LoadError as error:
        return Step(commit, "skip", str(error), is_final=False)


def _compared(order: Order, commit: str, tree: Path, tell: OnMessage) -> ABResult:
    policy = order.question.policy(order.policy) if order.question is not None else order.policy
    with running_service(order.serve, order.good_tree or tree) as before, running_service(order.serve, tree) as after:
        targets = {
            "baseline": replace(order.scenario, host=before, revision={"commit": order.good, "dirty": "no"}),
            "candidate": replace(order.scenario, host=after, revision={"commit": commit, "dirty": "no"}),
        }
        labels = {"bisect": f"{order.good[:9]}..{order.bad[:9]}", "bisect_commit": commit}
        return ABTest(targets, order.store, policy, order.plan, tell, labels, run_one=_run_one).decide()


def _run_one(scenario: Scenario, store: RunStore, labels: Mapping[str, str], report: Any) -> Run:
    """A run that its user stopped stops the whole search; it says nothing of the commit."""
    try:
        run = run_scenario(scenario, store, labels, report)
    except LoadStopped as error:
        raise KeyboardInterrupt from error
    if any(check.name == "interrupted" and "stopped by" in str(check.value) for check in run.validity.problems):
        raise KeyboardInterrupt
    return run


def _judged(order: Order, commit: str, outcome: ABResult) -> Step:
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
        finding.label,
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
    return next((f for f in comparison.findings if (f.label, f.metric) == (service, metric)), None)


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


def search(order: Order, tell: OnMessage) -> Result:
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
