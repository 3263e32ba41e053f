"""Which commit made a service worse: git chooses the commits, each is compared with the good one until that is settled.

The ends are compared first, under the whole policy.  Their clearest regression becomes the hypothesis: this metric of
this service, and half of its change as the limit.  A commit beyond the limit is bad, one that is shown to be within it
is good, and one that cannot be built, started or settled is skipped.

Git's state lives in a worktree without files, each commit in a worktree of its own; none is left afterwards, also after
Ctrl-C.  What was measured is in the log, with which the same search goes on.  One change is searched for: of two
regressions, the one that crosses half of the total is found.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perfkit.config.policy import Policy
from perfkit.config.settings import Scenario
from perfkit.loadgen.ab_test import ABPlan, ABResult, ABTest, OnMessage, served_targets
from perfkit.loadgen.service_under_test import BuildFailed, Revision, build, checkout, command_words
from perfkit.model.errors import HistoryError, LoadError, LoadStopped, SettingsError, refusals
from perfkit.model.records import Finding, Metric, Scope, Verdict
from perfkit.runs.git import Commit, Git, GitError

EXIT_CODES = {"good": 0, "bad": 1, "skip": 125}  # what `git bisect run` takes them for
VERDICTS = {Verdict.REGRESSION: "bad", Verdict.NO_CHANGE: "good", Verdict.IMPROVEMENT: "good"}
ONLY_SKIPPED_LEFT = 2  # exit code of git bisect


@dataclass(frozen=True, slots=True)
class Step:
    """One commit against the good one: ``good``, ``bad`` or ``skip``; ``change`` is ``None`` if none was measured."""

    commit: str
    verdict: str
    why: str
    service: str = ""
    metric: str = ""
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    limit: float | None = None  # of the hypothesis, on the bad end alone: more than this is bad
    is_final: bool = True  # false: measuring again may settle it


@dataclass(frozen=True, slots=True)
class Bisection:
    """What is searched for, and how."""

    repository: Path  # any folder of the repository of the service
    good: str  # a commit id, an ancestor of the bad one
    bad: str
    scenario: Scenario  # its ``serve`` command starts the service in a worktree
    build: str | None  # command that builds a worktree
    plan: ABPlan
    policy: Policy
    store: str
    log: Path  # one JSON line for each commit that was measured

    @property
    def key(self) -> str:
        """Tells this search from others in the same log: other ends, commands, load, load script or policy."""
        scenario = (self.scenario, self.scenario.host, dict(self.scenario.environment))
        script = self.scenario.locustfile.read_bytes() if self.scenario.locustfile.is_file() else b""
        parts = (self.good, self.bad, scenario, self.build, self.policy)
        return hashlib.sha256(repr(parts).encode() + script).hexdigest()[:16]

    def check(self) -> None:
        """Raise `SettingsError` unless there is something to search and both commands can be started."""
        for command, option in ((self.scenario.serve, "--serve"), (self.build, "--build")):
            if command is not None:
                command_words(command, option)
        if self.good == self.bad:
            raise SettingsError(f"--good and --bad are the same commit {self.good[:9]}; there is nothing to search")
        if not Git(self.repository).is_ancestor(self.good, self.bad):
            raise SettingsError(
                f"--good {self.good[:9]} is no ancestor of --bad {self.bad[:9]}: name a good commit from which it "
                f"descends, such as `git merge-base {self.good[:9]} {self.bad[:9]}`"
            )

    def logged_steps(self) -> dict[str, Step]:
        """Commit -> its last step in the log."""
        try:
            lines = self.log.read_bytes().splitlines() if self.log.exists() else []
        except OSError as error:
            raise HistoryError(f"{self.log}: cannot be read ({error}); remove it to begin anew") from error
        steps: dict[str, Step] = {}
        for line in lines:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # the last line of a search that was killed
                entry = msgspec.json.decode(line, type=dict)
                if entry.get("key") == self.key:
                    steps[entry["commit"]] = msgspec.convert(entry, Step)
        return steps

    def log_step(self, step: Step) -> None:
        entry = {"key": self.key, "time": datetime.now(UTC).isoformat(), **asdict(step)}
        with refusals(f"{self.log}: cannot be written", HistoryError):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


@dataclass(frozen=True, slots=True)
class BisectResult:
    """The commits of which one is the first bad one, newest first; none when the bad end is not shown to be worse."""

    good: str
    bad: str
    suspects: tuple[Commit, ...]
    size: Step  # the newest suspect, else the bad end, against the good commit
    steps: tuple[Step, ...]  # all commits that were measured, in order
    log: Path

    @property
    def found(self) -> bool:
        """Whether one commit alone is left."""
        return len(self.suspects) == 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.bisect/1``."""
        return {"schema": "perfkit.bisect/1", "found": self.found, **asdict(self), "log": str(self.log)}


def find_first_bad_commit(bisection: Bisection, on_message: OnMessage) -> BisectResult:
    """Search between the good and the bad commit; the working tree of the user is not touched.

    ``LoadStopped`` or ``KeyboardInterrupt`` when a signal stopped it, ``LoadError`` when the good commit cannot be
    built, ``GitError``, ``HistoryError`` or ``StoreError`` when git fails, or the log or a run cannot be written.
    """
    good, bad, repository = bisection.good, bisection.bad, bisection.repository
    with _good_build(bisection) as good_tree:
        on_message(f"{good[:9]}: the good commit is built")
        end = judge_commit(bisection, bad, good_tree, None, on_message)
        if end.verdict != "bad" or end.limit is None:
            return BisectResult(good, bad, (), end, (end,), bisection.log)
        steps = {bad: end}
        with Git(repository).worktree(bad, checkout=False) as tree:
            git = Git(tree)
            git.text("bisect", "start", "--no-checkout", bad, good)
            while len(_suspects(git)) > 1:
                commit = git.text("rev-parse", "--verify", "BISECT_HEAD")
                steps[commit] = judge_commit(bisection, commit, good_tree, end, on_message)
                answer = git.ask("bisect", steps[commit].verdict, commit)
                if answer.code == ONLY_SKIPPED_LEFT:
                    break
                if answer.code:
                    raise GitError(f"git bisect failed: {answer.reason}")
            suspects = _suspects(git)
        commits = tuple(Git(repository).log(commit, 1)[0] for commit in suspects)
    return BisectResult(good, bad, commits, steps[suspects[0]], tuple(steps.values()), bisection.log)


def _suspects(git: Git) -> tuple[str, ...]:
    """The commits of which the first bad one is one, newest first."""
    goods = git.text("for-each-ref", "--format=%(objectname)", "refs/bisect/good-*").split()
    return tuple(git.text("rev-list", "refs/bisect/bad", "--not", *goods, "--").split())


def judge_head(bisection: Bisection, on_message: OnMessage) -> int:
    """Compare the bad end alone with the good one, under the whole policy; returns the code for `git bisect run`."""
    with _good_build(bisection) as good_tree:
        return EXIT_CODES[judge_commit(bisection, bisection.bad, good_tree, None, on_message).verdict]


def judge_commit(
    bisection: Bisection, commit: str, good_tree: Path, hypothesis: Step | None, on_message: OnMessage
) -> Step:
    """Compare a commit with the good one, pair by pair until that is settled, unless the log has it.

    ``hypothesis`` is the bad end, whose regression is searched for; without one the whole policy holds.
    """
    step = bisection.logged_steps().get(commit)
    if step is None or not step.is_final:
        labels = {"bisect": f"{bisection.good[:9]}..{bisection.bad[:9]}", "bisect_commit": commit}
        policy = policy_of(hypothesis, bisection.policy) if hypothesis is not None else bisection.policy
        try:
            with checkout(commit, bisection.repository) as tree:
                build(bisection.build, tree)
                commits = (("baseline", good_tree, bisection.good), ("candidate", tree, commit))
                sides = {side: (folder, Revision(id_, "", False)) for side, folder, id_ in commits}
                with served_targets(bisection.scenario, sides) as targets:
                    test = ABTest(targets, bisection.store, policy, bisection.plan, on_message, labels)
                    step = step_of(commit, test.decide(), hypothesis)
        except LoadStopped:
            raise
        except LoadError as error:
            step = Step(commit, "skip", str(error), is_final=isinstance(error, BuildFailed))
        bisection.log_step(step)
    on_message(f"{commit[:9]}: {step.verdict}: {step.why}")
    return step


def policy_of(hypothesis: Step, policy: Policy) -> Policy:
    """The policy that tests this and nothing else, so that nothing else keeps a comparison from being settled."""
    tolerance: dict[str, Any] = {metric.value: "off" for metric in Metric}
    unit = "pp" if hypothesis.metric == Metric.ERROR_RATE else "%"
    tolerance[hypothesis.service] = {hypothesis.metric: f"{hypothesis.limit:.6f}{unit}"}
    return Policy(tolerance, (hypothesis.metric,), policy.alpha, policy.confidence, required_runs=policy.required_runs)


def clearest_regression(findings: tuple[Finding, ...]) -> Finding | None:
    """The regression to search for; ``None`` where there is none."""
    regressions = [
        finding
        for finding in findings
        if finding.verdict is Verdict.REGRESSION and not finding.objective and finding.scope is Scope.SERVICE
        if finding.change is not None and math.isfinite(finding.change)
    ]
    clearness = [(not f.gating, 1.0 if f.p_adjusted is None else f.p_adjusted, f.metric) for f in regressions]
    return regressions[clearness.index(min(clearness))] if regressions else None


def step_of(commit: str, result: ABResult, hypothesis: Step | None) -> Step:
    """What a comparison says of a commit: of the hypothesis, else of its clearest regression, half of which is bad."""
    comparison, why = result.comparison, result.why
    if hypothesis is None:
        finding = clearest_regression(comparison.findings)
    else:
        tested = (hypothesis.service, hypothesis.metric)
        finding = next((f for f in comparison.findings if (f.label, f.metric) == tested), None)
    if comparison.verdict is Verdict.INVALID or (finding is None and hypothesis is None):
        verdict = VERDICTS.get(comparison.verdict, "skip")
        if comparison.verdict is Verdict.INVALID and comparison.warnings:
            why = comparison.warnings[0]
        return Step(commit, verdict, f"{comparison.verdict.value}: {why}", is_final=verdict != "skip")
    if finding is None:  # the service was not called
        return Step(commit, "skip", f"{tested[0]} has no {tested[1]} in these runs", is_final=False)
    verdict = VERDICTS.get(finding.verdict, "skip")
    return Step(
        commit,
        verdict,
        why if verdict != "skip" else f"inconclusive: {why}",
        finding.label,
        finding.metric,
        finding.change,
        finding.ci_low,
        finding.ci_high,
        finding.change_unit,
        limit=abs(finding.change or 0.0) / 2.0 if hypothesis is None else None,
        is_final=verdict != "skip",
    )


@contextmanager
def _good_build(bisection: Bisection) -> Iterator[Path]:
    """The worktree of the good commit, built.

    SIGTERM, and SIGHUP where ``nohup`` does not hold it off, are cleaned up after like Ctrl-C meanwhile.
    """
    bisection.check()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def interrupt(*_: object) -> None:
        for number in handlers:  # a terminal that is closed sends more than one
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        with checkout(bisection.good, bisection.repository) as tree:
            build(bisection.build, tree)
            yield tree
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
