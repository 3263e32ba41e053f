"""The monitor of a scenario beside an oracle that knows level, noise and correlation, and under weekday patterns.

Scenarios of 20 metrics whose noise is of one kind and of 2 to 8 %; one metric gets slower at run 40 to 79.  The oracle
is the CUSUM of log-likelihood ratios for the true size and kind of noise, of whitened values, on the same draws, with a
threshold that the same share of 100 unchanged runs exceeds.  A slower machine is drawn for each metric of its own, as
no real run has it, and once for all metrics of a run, where the oracle knows which runs were on it.

    python benchmarks/watching.py --each 400
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.special import ndtr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from noise import WATCHED

from perfkit.stats.sequential import Watch, shared_noise, watch_history

METRICS, RUNS = 20, 100
LEVEL = 0.05 / METRICS
WAYS = {"+10 % (2 sd) within 20 runs": (2.0, 20), "+20 % (4 sd) within 5": (4.0, 5)}
MONDAY, DAY = np.datetime64("2026-01-05T02:00"), np.timedelta64(1, "D")
NORMAL = "normal"
SLOW, GAP = 0.2, 3.0  # share of runs on a slower machine, in standard deviations


def two_machines(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count) + GAP * (rng.random(count) < SLOW)


def normal(x: np.ndarray) -> np.ndarray:
    return np.exp(-x * x / 2.0) / np.sqrt(2.0 * np.pi)


KINDS = {**WATCHED, "two machines": two_machines}
OF_RUN = "two machines, one for all metrics of a run"


def draws(kind: str, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The noise of each metric, shape ``(METRICS, count)``, and what of it the oracle knows, shape ``(count,)``."""
    slow = GAP * (rng.random(count) < SLOW) * (kind == OF_RUN)
    return np.array([KINDS[NORMAL if kind == OF_RUN else kind](rng, count) for _ in range(METRICS)]) + slow, slow


DENSITY = {
    "normal": normal,
    "t3": lambda x: (1.0 + x * x) ** -2.0,
    "outliers": lambda x: 0.97 * normal(x) + 0.003 * (ndtr(np.abs(x) - 5.0) - ndtr(np.abs(x) - 10.0)) + 1e-12,
    "two machines": lambda x: (1.0 - SLOW) * normal(x) + SLOW * normal(x - GAP),
}


def oracle(kind: str, values: np.ndarray, size: float) -> np.ndarray:
    """The statistic after each run, shape ``(n_histories, n_runs)``."""
    if kind in DENSITY:
        first = later = np.log(DENSITY[kind](values - size) / DENSITY[kind](values))
    else:
        rho = float(kind.removeprefix("ar(").removesuffix(")"))
        shock, variance = values.copy(), 1.0 - rho * rho
        shock[:, 1:] -= rho * values[:, :-1]
        first = size * (shock - size / 2.0) / variance
        later = size * (1.0 - rho) * (shock - size * (1.0 - rho) / 2.0) / variance
    found, best = np.empty(values.shape), np.full(len(values), -np.inf)
    for run in range(values.shape[1]):
        best = np.maximum(best + later[:, run], first[:, run])
        found[:, run] = best
    return found


def beside_the_oracle(each: int, rng: np.random.Generator) -> None:
    print(f"{METRICS} metrics x {RUNS} runs, joint budget 5 %; shares of {each} histories heard of in time\n")
    print("| noise | any false alarm in a scenario | way | one series alone | scenario | oracle |")
    print("|---|--:|---|--:|--:|--:|")
    for kind in (*KINDS, OF_RUN):
        false, of_oracle = 0, NORMAL if kind == OF_RUN else kind
        for _ in range(each // 4):
            every = scenario(rng, draws(kind, rng, RUNS)[0])
            shared = shared_noise(every)
            false += any(watch_history(values, alpha=LEVEL, shared=shared).alarms for values in every)
        for way, (size, within) in WAYS.items():
            quiet = np.array([KINDS[of_oracle](rng, RUNS) for _ in range(20_000)])
            limit = np.quantile(oracle(of_oracle, quiet, size).max(axis=1), 1.0 - LEVEL)
            heard = np.zeros(3)
            for _ in range(each):
                at = int(rng.integers(40, 80))
                series, known = draws(kind, rng, at + within)
                series[0, at:] += size
                every = scenario(rng, series)
                heard += [
                    is_heard(watch_history(every[0], alpha=LEVEL), at),
                    is_heard(watch_history(every[0], alpha=LEVEL, shared=shared_noise(every)), at),
                    bool((oracle(of_oracle, series[:1] - known, size)[0, at:] > limit).any()),
                ]
            shares = " | ".join(f"{share:.1%}" for share in heard / each)
            print(f"| {kind} | {4 * false / each:.1%} | {way} | {shares} |", flush=True)


def scenario(rng: np.random.Generator, series: np.ndarray) -> np.ndarray:
    return np.array([100.0 * np.exp(np.exp(rng.uniform(np.log(0.02), np.log(0.08))) * values) for values in series])


def is_heard(watch: Watch, at: int) -> bool:
    return any(alarm.raised_at >= at for alarm in watch.alarms)


def weekdays(each: int, rng: np.random.Generator) -> None:
    print("\nnightly runs with a weekday pattern, noise of 5 %: shares heard of with / without dates\n")
    print(f"| noise | pattern | false alarms | {' | '.join(WAYS)} |\n|---|---|--:|--:|--:|")
    patterns = {"Monday": np.array([1.0, 0, 0, 0, 0, 0, 0]), "weekend": np.array([0, 0, 0, 0, 0, -1.0, -1.0])}
    for kind in ("normal", "ar(0.3)"):
        for name, pattern in patterns.items():
            for share in (0.05, 0.15):
                of_day = np.resize(share * (pattern - pattern.mean()), 2 * RUNS)
                false, heard = 0, []
                for _ in range(2 * each):
                    values = 100.0 * np.exp(0.05 * KINDS[kind](rng, RUNS) + of_day[:RUNS])
                    false += bool(watch_history(values, alpha=LEVEL, times=MONDAY + np.arange(RUNS) * DAY).alarms)
                for size, within in WAYS.values():
                    hits = np.zeros(2)
                    for _ in range(each // 2):
                        at = int(rng.integers(40, 80))
                        noise = KINDS[kind](rng, at + within)
                        noise[at:] += size
                        values = 100.0 * np.exp(0.05 * noise + of_day[: at + within])
                        times = MONDAY + np.arange(at + within) * DAY
                        hits += [is_heard(watch_history(values, alpha=LEVEL, times=t), at) for t in (times, None)]
                    heard.append(f"{hits[0] / (each // 2):.0%} / {hits[1] / (each // 2):.0%}")
                print(f"| {kind} | {name}, {share:.0%} | {false / (2 * each):.2%} | {' | '.join(heard)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=400, help="histories of each kind of noise")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    beside_the_oracle(given.each, rng)
    weekdays(given.each, rng)


if __name__ == "__main__":
    main()
