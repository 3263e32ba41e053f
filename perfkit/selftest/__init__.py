"""Does the gate work here, today, under these settings?  It is tried out before it is trusted.

A known slowdown must be refused through the command line that a pipeline uses, identical builds must pass it, and what
cannot be read must be refused; `self_test` says what it found of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.selftest.builds import BASELINE, IDENTICAL, ROUND, SLOWER, Load, Sides, Tell, measure
from perfkit.selftest.gate import Gate
from perfkit.selftest.past import Past, simulated_pasts
from perfkit.selftest.trials import Trial, believed, identical_trial, load_trial, slowdown_trial, unfit_trial
from perfkit.selftest.unfit import Unfit, unfit_inputs

__all__ = ["SelfTest", "Task", "Trial", "self_test"]

LEAST_ROUNDS = 2  # one run of each build tells what a doubling is, too, but not how such runs vary
AT_ONCE = 2  # comparisons of unfit input


@dataclass(frozen=True, slots=True)
class Task:
    """The gate to test and how.

    Parameters
    ----------
    options
        Words that the pipeline gives to `perfkit compare`.
    fail_on
        What of ``--fail-on`` is among them.
    required_runs
        Of its policy: with fewer runs it would claim nothing.
    slower_pct
        Percent by which the slower build is slower.
    """

    options: tuple[str, ...] = ()
    fail_on: str = "regression"
    required_runs: int = 1
    slower_pct: float = 100.0

    @property
    def load(self) -> Load:
        """What is measured."""
        return Load(max(LEAST_ROUNDS, self.required_runs), self.slower_pct)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the gate answered to each trial."""

    trials: tuple[Trial, ...]

    @property
    def ok(self) -> bool:
        """Whether every answer was as expected."""
        return all(trial.ok for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok, "trials": [trial.to_dict() for trial in self.trials]}


def self_test(
    task: Task, folder: Path, tell: Tell, *, measured: Callable[[Load, str, Tell], Sides] = measure
) -> SelfTest:
    """Try the gate out; runs and spoilt files are left in ``folder``.

    What is not as expected, and may be chance, is measured once more, with fresh runs, before it is believed: a
    self-test that cries wolf gets switched off.

    Raises
    ------
    LoadError, StoreError
        Load could not be made or kept.
    """
    gate = Gate(task.options)
    sides, trials = _look(task, gate, folder / "runs", tell, measured)
    if any(trial.by_chance for trial in trials):
        names = ", ".join(trial.name for trial in trials if not trial.ok)
        tell(f"not as expected: {names}; measured once more, with fresh runs, before it is believed")
        sides, again = _look(task, gate, folder / "second-runs", tell, measured)
        trials = [believed(first, second) for first, second in zip(trials, again, strict=True)]
    tell("runs against a history, and files that must be refused")
    good = tuple(Path(run.source or run.id) for run in sides[BASELINE])
    pasts = simulated_pasts(task.required_runs, task.slower_pct, folder / "history")
    return SelfTest((*trials, *_against_history(task, gate, pasts), *_refusals(gate, good, folder / "unfit")))


def _look(
    task: Task, gate: Gate, folder: Path, tell: Tell, measured: Callable[[Load, str, Tell], Sides]
) -> tuple[Sides, list[Trial]]:
    begun = time.monotonic()
    sides = measured(task.load, str(folder), tell)
    spent = time.monotonic() - begun
    tell("comparing")
    places = {name: [Path(run.source or run.id) for run in sides[name]] for name in ROUND}
    trials = [
        load_trial([run for runs in sides.values() for run in runs], spent),
        slowdown_trial(gate.compare(places[BASELINE], places[SLOWER]), task.slower_pct, task.fail_on),
        identical_trial(gate.compare(places[BASELINE], places[IDENTICAL]), task.fail_on),
    ]
    return sides, trials


def _against_history(task: Task, gate: Gate, pasts: Mapping[str, Past]) -> Iterator[Trial]:
    answers = {name: gate.compare((), past.newest, ("--store", str(past.store))) for name, past in pasts.items()}
    slow = slowdown_trial(answers[SLOWER], task.slower_pct, task.fail_on)
    same = identical_trial(answers[IDENTICAL], task.fail_on)
    for trial in (slow, same):
        yield replace(trial, name=f"{trial.name}, against history", by_chance=False)


def _refusals(gate: Gate, good: tuple[Path, ...], folder: Path) -> Iterator[Trial]:
    folder.mkdir(parents=True)
    cases = list(unfit_inputs(good, folder))

    def ask(case: Unfit) -> Trial:
        return unfit_trial(case.name, gate.compare(case.baseline, case.candidate, case.more))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(ask, cases)
