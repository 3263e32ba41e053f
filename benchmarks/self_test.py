"""How often is the self-test of the gate right?  Whole self-tests with real load, and many more with simulated load.

    python benchmarks/self_test.py --real 20
    python benchmarks/self_test.py --simulated 1000

Prints every effect that it saw, so that its distance from the limits can be judged, not only counted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from perfkit import Policy, compare, read_run
from perfkit.cli import selftest
from perfkit.cli.selftest import Task, self_test
from perfkit.loadgen.demo_services import Change
from perfkit.loadgen.simulate import simulate_requests
from perfkit.model.records import Metric, Run, Verdict
from perfkit.runs.requests import run_from_requests

METRICS = (Metric.AVG, Metric.P50, Metric.P95, Metric.RPS)
POLICIES = {"default policy": Policy(), "fixed limits (threshold)": Policy(rule="threshold")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--simulated", type=int, default=0)
    parser.add_argument("--noise", type=float, default=5.0, help="standard deviation between simulated runs, percent")
    given = parser.parse_args()
    if given.real:
        report(real(given.real))
    if given.simulated:
        report(simulated(given.simulated, given.noise))


Sides = dict[str, Sequence[Run]]


def real(count: int) -> list[Sides]:
    """Whole self-tests through the command line; what each said, and the runs of its first look."""
    found = []
    for number in range(count):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            said = self_test(Task(), Path(folder), lambda _: None)
            again = (Path(folder) / "second-runs").exists()
            runs = [read_run(path) for path in sorted((Path(folder) / "runs").iterdir()) if path.name[0] != "."]
        wrong = [f"{trial.name}: {trial.got}. {trial.advice}" for trial in said if not trial.ok]
        print(f"{number + 1}: {time.monotonic() - begun:.0f} s, second look: {again}, wrong: {wrong}", flush=True)
        found.append({name: [run for run in runs if run.labels["build"] == name] for name in selftest.ROUND})
    return found


def simulated(count: int, noise: float) -> list[Sides]:
    """The same load simulated, every run at a level of its own, and no common luck: harder than the real thing."""
    scenario = selftest.scenario()
    found = []
    for number in range(count):
        sides: dict[str, list[Run]] = {name: [] for name in selftest.ROUND}
        for place in range(2 * len(selftest.ROUND)):
            name = selftest.ROUND[place % len(selftest.ROUND)]
            slower = {selftest.SERVICE: Change(slower_pct=100.0)} if name == selftest.SLOWER else {}
            seed = number * 97 + place
            frame = simulate_requests(
                scenario, seed, started_at=datetime.now(UTC), changes=slower, run_to_run_pct=noise
            )
            sides[name].append(run_from_requests(frame, scenario=scenario.name))
        found.append(dict(sides))
    return found


def report(found: list[Sides]) -> None:
    for title, policy in POLICIES.items():
        missed = _told([not _red(sides, selftest.SLOWER, policy) for sides in found])
        alarms = _told([_red(sides, selftest.IDENTICAL, policy) for sides in found])
        print(f"{title}: {len(found)} looks; slowdown missed in {missed}, identical builds called in {alarms}")
    for name in (selftest.SLOWER, selftest.IDENTICAL):
        for metric in METRICS:
            effects = [effect for sides in found if (effect := _effect(sides, name, metric)) is not None]
            if len(effects) > 1:
                mean, sd = statistics.fmean(effects), statistics.stdev(effects)
                low, high = (100 * math.expm1(edge) for edge in (min(effects), max(effects)))
                print(
                    f"{name}, {metric.title}: {100 * math.expm1(mean):+.1f} % "
                    f"(from {low:+.1f} to {high:+.1f}), sd {100 * sd:.2f} % on the log scale"
                )


def _told(wrong: list[bool]) -> str:
    """Of single looks, and of looks two by two, both of which must be wrong before the self-test is."""
    both = sum(one and other for one, other in zip(wrong[::2], wrong[1::2], strict=False))
    return f"{sum(wrong)} (in both of two: {both})"


def _red(sides: Sides, name: str, policy: Policy) -> bool:
    return compare(sides[selftest.BASELINE], sides[name], policy=policy).verdict is Verdict.REGRESSION


def _effect(sides: Sides, name: str, metric: Metric) -> float | None:
    levels = []
    for side in (selftest.BASELINE, name):
        values = [run.services[selftest.SERVICE].value(metric) for run in sides[side]]
        if any(not value for value in values):
            return None
        levels.append(statistics.fmean(math.log(value) for value in values if value))
    return levels[1] - levels[0]


if __name__ == "__main__":
    main()
