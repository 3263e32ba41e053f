"""Runs of some weekday against a history whose runs depend on the weekday: false alarms, and what is found.

    python benchmarks/weekdays.py                       one run against the 40 nights before it
    python benchmarks/weekdays.py --sides 5 1 --nights 60     5 runs of other weekdays against it, with that history

Nightly histories of one service, simulated: latencies vary by ``--sd`` between runs, and by a pattern whose slowest and
fastest weekday are so far apart.  Each row judges the same candidates as perfkit does, without weekdays (the same runs
whose dates nobody knows), and as an oracle that knows pattern and noise would (a z test at the same level).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from noise import WATCHED
from samples import run, stats

from perfkit.analysis.compare import judge
from perfkit.analysis.noise_profile import profile_of
from perfkit.config.policy import Policy
from perfkit.model.records import Comparison, Run, Verdict

BEGIN = datetime(2026, 1, 5, 2, tzinfo=UTC)  # a Monday
STEPS = (1.0, 1.05, 1.10, 1.20)
WITHIN = 0.006  # error of an average within its run, as `stats` has it
PATTERNS = {
    "none": (0, 0, 0, 0, 0, 0, 0),
    "weekday": (0.5, 0.2, -0.1, 0.0, 0.1, -0.5, -0.2),
    "weekend": (2 / 7, 2 / 7, 2 / 7, 2 / 7, 2 / 7, -5 / 7, -5 / 7),
}


def histories(rng: np.random.Generator, given: argparse.Namespace, pattern: np.ndarray) -> Iterator[list[Run]]:
    """Nights of one build, as many as the history and both sides have."""
    nights = given.nights + sum(given.sides[1:])
    for _ in range(given.trials):
        first, noise = int(rng.integers(7)), WATCHED[given.noise](rng, nights)
        runs = []
        for night in range(nights):
            factor = float(np.exp(pattern[(first + night) % 7]))
            service = stats(rng, sd=given.sd, shared=noise[night] / 0.8, slower=factor)
            runs.append(run({"api": service}, number=night, started_at=BEGIN + timedelta(days=first + night)))
        yield runs


def slowed(runs: list[Run], factor: float) -> list[Run]:
    """The same runs with all latencies times a factor."""
    return [replace(one, services={name: _slower(of, factor) for name, of in one.services.items()}) for one in runs]


def _slower(of, factor: float):
    names = [name for name in of.standard_errors if name.endswith("_ms")]
    errors = {name: error * (factor if name in names else 1.0) for name, error in of.standard_errors.items()}
    return replace(of, standard_errors=errors, **{name: getattr(of, name) * factor for name in names})


def undated(runs: list[Run]) -> list[Run]:
    return [replace(one, started_at=None) for one in runs]


def judged(earlier: list[Run], candidate: list[Run], before: list[Run]) -> Comparison:
    """As the gate of a history does, or, with runs ``before`` that are the baseline, `compare --history`."""
    if before:
        return judge(before, candidate, Policy(), profile_of("api", earlier))
    return judge(earlier, candidate, Policy())


def oracle(earlier: list[Run], candidate: list[Run], pattern: np.ndarray, sd: float) -> bool:
    """Whether the average is worse by a test that knows the pattern and the noise, at perfkit's share of alpha."""
    logs = [
        [np.log(one.services["api"].avg_latency_ms) - pattern[one.started_at.weekday()] for one in side]
        for side in (earlier, candidate)
    ]
    error = np.hypot(sd, WITHIN) * np.sqrt(1 / len(earlier) + 1 / len(candidate))
    shift = np.mean(logs[1]) - np.mean(logs[0])
    return bool(norm.sf(shift / error) <= 0.01 * 0.6 and shift > np.log(1.05))


def report(rng: np.random.Generator, given: argparse.Namespace, name: str, size: float) -> None:
    """One row: identical runs, and each step."""
    pattern = size * np.array(PATTERNS[name])
    counts = {step: np.zeros(5) for step in STEPS}
    covered = np.zeros(2)
    for runs in histories(rng, given, pattern):
        earlier, new = runs[: given.nights], runs[given.nights :]
        before, candidate = (new[: given.sides[1]], new[given.sides[1] :]) if len(given.sides) > 2 else ([], new)
        for step in STEPS:
            slower = slowed(candidate, step)
            with_them = judged(earlier, slower, before)
            without = judged(undated(earlier), undated(slower), undated(before))
            of = [with_them, without]
            counts[step] += [
                *(one.verdict is Verdict.REGRESSION for one in of),
                *(bool(one.by_verdict(Verdict.IMPROVEMENT)) for one in of),
                oracle(before or earlier, slower, pattern, given.sd),
            ]
            if step == 1.0:
                averages = [next(f for f in one.findings if f.metric == "avg_latency_ms") for one in of]
                covered += [f.ci_low <= 0.0 <= f.ci_high for f in averages]
    shares = {step: 100 * of / given.trials for step, of in counts.items()}
    called = "".join(f"{of[0]:8.1f} {of[1]:5.1f} {of[4]:5.1f}" for of in shares.values())
    better, cover = shares[1.0][2:4], 100 * covered / given.trials
    rest = f"   |{better[0]:6.1f} {better[1]:5.1f}   |{cover[0]:6.1f} {cover[1]:5.1f}"
    print(f"  {name:<8}{100 * size:4.0f} %{called}{rest}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=40, help="of the history")
    parser.add_argument("--sides", type=int, nargs=2, help="runs of both sides, made after the history")
    parser.add_argument("--trials", type=int, default=300, help="histories of each row")
    parser.add_argument("--noise", choices=WATCHED, default="normal")
    parser.add_argument("--sd", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    what = f"{given.sides[0]} against {given.sides[1]}, with" if given.sides else "1 against"
    given.sides = (0, *given.sides) if given.sides else (0, 1)
    print(f"{what} {given.nights} nights, {given.noise} noise of {100 * given.sd:g} %, {given.trials} histories a row.")
    print("Called a regression in % (perfkit, without weekdays, oracle); of identical runs improved, and covered:")
    print("  pattern      " + "".join(f"{100 * (step - 1):+12.0f} %       " for step in STEPS))
    for name, size in [("none", 0.0), *((of, size) for of in ("weekday", "weekend") for size in (0.05, 0.10, 0.15))]:
        report(np.random.default_rng([given.seed, len(name), round(1000 * size)]), given, name, size)


if __name__ == "__main__":
    main()
