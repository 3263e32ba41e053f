"""Baseline and candidate measured alternately on one machine: what disturbs both disturbs no comparison.

Pairs are run in the order ABBA, so that a machine that slowly drifts does so for both sides alike, and compared pair by
pair.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from perfkit.analysis.compare import judge
from perfkit.config.policy import Policy
from perfkit.config.settings import Scenario
from perfkit.loadgen.locust_process import Progress
from perfkit.loadgen.run import run_scenario, stopped_by_user
from perfkit.loadgen.service_under_test import Revision, checkout, revision_of, revision_of_ref, running_service
from perfkit.model.errors import LoadStopped, NotComparable, SettingsError
from perfkit.model.records import Comparison, Run, Verdict
from perfkit.runs.store import RunStore

SIDES = ("baseline", "candidate")
FIRST_LOOK = 3  # pairs: two tell next to nothing of their own scatter
LOOK_FACTOR = 1.35  # each look has so many times the pairs of the one before
MOST_PAIRS = 32  # where nobody says how many
ALARMS = "alarms.jsonl"
OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ABPlan:
    """How long to go on."""

    pairs: int = 5  # pairs to run; with `until_settled`, the most
    until_settled: bool = False  # look at the verdict now and then, and stop once it is not inconclusive
    max_time_s: float | None = None  # no pair is begun that would end later, judged by the longest so far
    confirm: bool = False  # repeat a comparison that found a regression, once, and believe the second

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"pairs: must be at least 1, got {self.pairs!r}")

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs after which the verdict is looked at, ascending; the last is `pairs`.

        >>> ABPlan(12, until_settled=True).looks
        (3, 5, 7, 10, 12)
        """
        if not self.until_settled:
            return (self.pairs,)
        looks: list[int] = []
        at = min(FIRST_LOOK, self.pairs)
        while at < self.pairs:
            looks.append(at)
            at = math.ceil(at * LOOK_FACTOR)
        return (*looks, self.pairs)

    def policy_per_look(self, policy: Policy) -> Policy:
        """The policy of each single look.

        All looks share alpha, and the error of the intervals, in equal parts (Bonferroni's inequality; equal levels for
        all looks after Pocock 1977, doi:10.1093/biomet/64.2.191): whatever the dependence of the looks, the chance that
        any of them calls a change that is none is at most alpha, and that any shows harm unharmed at most half of
        1 - confidence.
        """
        count = len(self.looks)
        return replace(policy, alpha=policy.alpha / count, confidence=1.0 - (1.0 - policy.confidence) / count)


@dataclass(frozen=True, slots=True)
class ABResult:
    """The comparison, and why no more was measured."""

    comparison: Comparison
    why: str
    cleared: Comparison | None = None  # an alarm that the repetition did not confirm


@dataclass(slots=True)
class ABTest:
    """Runs pairs of a scenario and compares them.

    ``targets`` maps ``baseline`` and ``candidate`` to the scenario that measures that side.
    """

    targets: dict[str, Scenario]
    store: str
    policy: Policy
    plan: ABPlan
    on_message: OnMessage
    labels: dict[str, str] = field(default_factory=dict)
    on_progress: Callable[[Scenario, Progress], None] | None = None
    run_one: Callable[..., Run] = run_scenario
    _longest_s: float = 0.0

    def decide(self) -> ABResult:
        """Measure and compare as planned; ``LoadError`` and ``StoreError`` as `run_scenario`.

        A run that a signal to perfkit ended raises ``LoadStopped``, one that was interrupted otherwise
        ``NotComparable``.
        """
        begun, limit = time.monotonic(), self.plan.max_time_s
        share = 0.5 if self.plan.confirm else 1.0  # what the first comparison leaves is for the second
        first = self._measure(1, None if limit is None else begun + share * limit)
        if not self.plan.confirm or first.comparison.verdict is not Verdict.REGRESSION:
            return first
        give_up = None if limit is None else begun + limit
        if self._is_late(give_up):
            return replace(first, why=f"{first.why}; not confirmed, for no time was left for a second comparison")
        self.on_message("a regression was found; the comparison is repeated with fresh runs before it is called one")
        second = self._measure(2, give_up)
        is_confirmed = second.comparison.verdict is Verdict.REGRESSION
        if (folder := RunStore(self.store).folder) is not None:  # how often a gate raises false alarms should be known
            line: dict[str, object] = {
                "time": datetime.now(UTC).isoformat(),
                "scenario": self.targets["candidate"].name,
            }
            line["cleared"] = not is_confirmed
            for name, comparison in (("first", first.comparison), ("second", second.comparison)):
                line[name] = {side: [run.id for run in getattr(comparison, side).runs] for side in SIDES}
            line["alarms"] = [f"{f.label} {f.metric}" for f in first.comparison.by_verdict(Verdict.REGRESSION)]
            with (folder / ALARMS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if is_confirmed:
            return replace(second, why=f"confirmed by a second comparison; {second.why}")
        text = "An alarm of a first comparison was not confirmed by a second one with fresh runs."
        cleared = replace(second.comparison, warnings=(text, *second.comparison.warnings))
        return ABResult(cleared, f"an alarm was cleared; {second.why}", first.comparison)

    def _measure(self, round_: int, give_up: float | None) -> ABResult:
        """Measure until the verdict is settled, the pairs are made or the time is over, on the monotonic clock."""
        runs: dict[str, list[Run]] = {side: [] for side in SIDES}
        looks, policy = self.plan.looks, self.plan.policy_per_look(self.policy)
        for pair in range(1, looks[-1] + 1):
            is_late = pair > 1 and self._is_late(give_up)
            if not is_late:
                self._run_pair(pair, round_, runs)
                if pair not in looks and all(side[-1].validity.ok for side in runs.values()):
                    continue
            comparison = judge(runs["baseline"], runs["candidate"], policy)
            made = len(runs["baseline"])
            pairs = f"{made} pair{'s' if made > 1 else ''}"
            if is_late:
                return ABResult(comparison, f"the time was spent after {pairs}")
            if comparison.verdict is Verdict.INVALID:  # a bad run stays: no further one would mend that
                return ABResult(comparison, f"stopped after {pairs}: the comparison is invalid")
            if pair not in looks:
                continue
            if comparison.verdict is not Verdict.INCONCLUSIVE:
                return ABResult(comparison, f"settled after {pairs}")
            if pair == looks[-1]:
                return ABResult(comparison, f"all planned runs were made after {pairs}")
            self.on_message(f"after {pairs}: inconclusive")
        raise AssertionError("the last look ends the loop")

    def _is_late(self, give_up: float | None) -> bool:
        """Whether a further pair would end too late, judged by the longest so far."""
        return give_up is not None and time.monotonic() + self._longest_s > give_up

    def _run_pair(self, pair: int, round_: int, runs: dict[str, list[Run]]) -> None:
        begun = time.monotonic()
        for side in SIDES if pair % 2 else SIDES[::-1]:
            self.on_message(f"pair {pair} of at most {self.plan.looks[-1]}: {side}")
            scenario = self.targets[side]
            labels = {**self.labels, "side": side, "pair": f"{round_}.{pair}"}
            report = None if self.on_progress is None else partial(self.on_progress, scenario)
            run = self.run_one(scenario, RunStore(self.store), labels, report)
            interrupted = next((check for check in run.validity.problems if check.name == "interrupted"), None)
            if interrupted is not None:
                kind = LoadStopped if stopped_by_user(run) else NotComparable
                raise kind(
                    f"run {run.id} was interrupted: {interrupted.value}. The runs made until then are kept in "
                    f"{RunStore(self.store).url}"
                )
            runs[side].append(run)
        self._longest_s = max(self._longest_s, time.monotonic() - begun)


@contextmanager
def ab_targets(scenario: Scenario, other: str, folder: Path) -> Iterator[dict[str, Scenario]]:
    """The scenario aimed at either side; each side's runs carry the commit of that side.

    ``other`` is the baseline: the URL of a host, whose commit is unknown, or a commit, branch or tag of the repository
    that holds ``folder``, from which the scenario's ``serve`` command starts the service.  The candidate is then served
    from ``folder``, a working tree.
    """
    if "://" in other:
        candidate = replace(scenario, revision=revision_of(folder).to_dict())
        yield {"baseline": replace(scenario, host=other, revision={}), "candidate": candidate}
        return
    if not scenario.serve:
        raise SettingsError(
            f"scenario {scenario.name!r}: to compare with the commit {other!r}, say how the service starts, such as "
            'serve = "python app.py --port {port}"; or compare with a host, such as http://127.0.0.1:8001'
        )
    with checkout(other, folder) as tree:
        trees = {"baseline": (tree, revision_of_ref(tree, other)), "candidate": (folder, revision_of(folder))}
        with served_targets(scenario, trees) as targets:
            yield targets


@contextmanager
def served_targets(scenario: Scenario, trees: Mapping[str, tuple[Path, Revision]]) -> Iterator[dict[str, Scenario]]:
    """The scenario aimed at the service as each side's folder has it, started by the scenario's ``serve`` command."""
    with ExitStack() as stack:
        yield {
            side: replace(
                scenario,
                host=stack.enter_context(running_service(scenario.serve or "", folder)),
                revision=revision.to_dict(),
            )
            for side, (folder, revision) in trees.items()
        }
