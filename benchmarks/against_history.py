"""A candidate judged against its history, run after run, as CI does: false alarms, and how soon a step is told.

Whole histories through `judge_history`, which is what `perfkit compare --candidate RUN` calls: three services with all
their metrics, each run judged against those before it and then kept.  "Comparison" is the candidate against the rolling
baseline, "watch" the alarms over all series; each has the budget alpha for the whole history.

    python benchmarks/against_history.py --histories 40          # some 4 s of CPU each
    python benchmarks/against_history.py --machines 0.2 10 --first 20     # two kinds of machine at random
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from noise import WATCHED
from samples import run, stats

from perfkit.config.policy import Policy
from perfkit.history.change_events import find_events
from perfkit.history.gate import judge_history
from perfkit.history.run_selector import HistoryContext
from perfkit.history.timeline import timeline_of
from perfkit.model.records import Run, Verdict
from perfkit.runs.store import RunStore

SERVICES = {"api_gateway": 20.0, "rag_service": 90.0, "mcp_server": 240.0}


@dataclass
class Heard:
    """Runs at which each part of the answer first objected, and how many verdicts of each kind there were."""

    comparison: int | None = None
    watch: int | None = None
    first: int | None = None
    verdicts: Counter[str] = field(default_factory=Counter)


def history(
    rng: np.random.Generator, kind: str, count: int, sd: float, at: int, step: float, machines: tuple[float, float]
) -> list[Run]:
    """Runs whose services each vary on their own; from run ``at`` on the first service is slower by ``step``.

    ``machines``: a share of the runs lands on a machine that is slower by so many standard deviations, at random.
    """
    slow = machines[1] * (rng.random(count) < machines[0])
    noise = {name: WATCHED[kind](rng, count) + slow for name in SERVICES}
    runs = []
    for number in range(count):
        slower = {name: 1.0 + step if number >= at and name == next(iter(SERVICES)) else 1.0 for name in SERVICES}
        services = {
            name: stats(rng, level=level, sd=sd, shared=noise[name][number] / 0.8, slower=slower[name])
            for name, level in SERVICES.items()
        }
        runs.append(run(services, number=number))
    return runs


def listen(runs: Sequence[Run], begin: int, alpha: float) -> Heard:
    """What is said of each run from number ``begin`` on."""
    heard = Heard()
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(folder)
        for number, one in enumerate(runs):
            if number >= begin:
                said = judge_history([one], HistoryContext(store, candidates=(one,)), Policy(alpha=alpha))
                heard.verdicts[said.verdict.value] += 1
                if heard.comparison is None and said.by_verdict(Verdict.REGRESSION):
                    heard.comparison = number
                if heard.watch is None and any(alert["fails"] for alert in said.history.document["alerts"]):
                    heard.watch = number
                if heard.first is None and said.verdict is Verdict.REGRESSION:
                    heard.first = number
            store.add(one)
    return heard


def print_part(title: str, heard: Sequence[int | None], at: int | None) -> None:
    """In how many histories it objected, and how many runs after the step."""
    told = sorted(number - (at or 0) for number in heard if number is not None)
    print(f"{title:>10}: objected in {len(told)}" + (f", runs after the step: {told}" if at is not None else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=40)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--noise", choices=WATCHED, default="normal")
    parser.add_argument("--sd", type=float, default=0.02, help="of runs, as a share")
    parser.add_argument(
        "--machines",
        type=float,
        nargs=2,
        default=(0.0, 0.0),
        metavar=("SHARE", "GAP"),
        help="slow ones, such as 0.2 10",
    )
    parser.add_argument("--first", type=int, default=1, help="run from which every one is judged, without a step")
    parser.add_argument("--step", type=float, default=0.0, help="slow-down of one service, such as 0.2")
    parser.add_argument("--at", type=int, default=40, help="run from which the step holds")
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng, begun = np.random.default_rng(given.seed), time.process_time()
    at = given.at if given.step else given.runs
    begin = at if given.step else given.first
    every, shown = [], 0
    for _ in range(given.histories):
        runs = history(rng, given.noise, given.runs, given.sd, at, given.step, tuple(given.machines))
        every.append(listen(runs, begin, given.alpha))
        shown += bool(find_events(timeline_of(runs[0].scenario, runs), alpha=given.alpha))
    print(f"{given.histories} histories of {given.runs} runs, {given.noise} noise of {100 * given.sd:g} %, ", end="")
    print(f"step {100 * given.step:+g} % at run {at}" if given.step else "unchanged")
    print(f"slow machines: {given.machines[0]:.0%} of the runs, {given.machines[1]:g} sd") if given.machines[
        0
    ] else None
    print_part("comparison", [one.comparison for one in every], at if given.step else None)
    print_part("watch", [one.watch for one in every], at if given.step else None)
    print_part("either", [one.first for one in every], at if given.step else None)
    print(f"`perfkit changes` shows an event in {shown}")
    print("verdicts:", dict(sum((one.verdicts for one in every), Counter())))
    print(f"{time.process_time() - begun:.0f} s of CPU")


if __name__ == "__main__":
    main()
