"""How decisive and how right verdicts are for runs of sixty services.

    python benchmarks/many_services.py
    python benchmarks/many_services.py --requests 60000 --trials 100 --size 5 3
    python benchmarks/many_services.py --runs FOLDER      identical runs of many services, each a file or folder of it

Six services carry 5 to 10 % of the requests, twenty-two 0.5 %.  Runs differ by 1.2 % in common and by 1 % for each
service, and drift slowly inside; ``--noise 0.5`` halves all three.  Each row judges the same pairs: identical, and with
all latencies of the candidate times 1.1 in one service that carries about 5 %, in one that carries 0.5 %, and in all.
``every service gates`` is what perfkit did before: each must be shown to be within tolerance, alpha in equal parts, the
noise of each from its own runs alone.  The oracle gates as perfkit does and knows the true variation between runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from verdicts import Pair, split, truth_of

from perfkit import Comparison, Metric, Policy, Run, Verdict, compare, read_run, run_from_requests
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS
from perfkit.stats import effect

SHARES = np.array([0.10, 0.08, 0.06, 0.055, 0.053, 0.052] + [0.03] * 8 + [0.015] * 14 + [0.005] * 22 + [0.004] * 10)
NAMES = np.array([f"GET /api/{number:02d}" for number in range(SHARES.size)])
SECONDS = 60


def simulated(rng: np.random.Generator, requests: int, noise: float = 1.0) -> Run:
    """A run of sixty services: Poisson arrivals, log-normal times around levels of the run, its course and service."""
    count = int(rng.poisson(requests))
    service, start = rng.choice(SHARES.size, count, p=SHARES), np.sort(rng.uniform(0, SECONDS, count))
    course = np.zeros(SECONDS)
    for second in range(1, SECONDS):
        course[second] = 0.7 * course[second - 1] + rng.normal(0, noise * 0.03 * np.sqrt(1 - 0.7**2))
    level = np.log(12.0 * (1 + np.arange(SHARES.size) % 7)) + noise * rng.normal(0, 0.012)
    level += noise * rng.normal(0, 0.010, SHARES.size)
    frame = pd.DataFrame(
        {
            "start": 1.7e9 + start,
            "service": NAMES[service],
            "response_time_ms": np.exp(level[service] + course[start.astype(int)] + rng.normal(0, 0.45, count)),
            "failed": rng.random(count) < 0.001,
        }
    )
    return run_from_requests(frame, scenario="sixty")


def slower(run: Run, names: set[str]) -> Run:
    """The run with all latencies of these services times 1.1."""
    services = dict(run.services)
    for name in names & services.keys():
        stats = services[name]
        known = [metric.value for metric in LATENCY_METRICS if stats.value(metric) is not None]
        errors = {key: error * (1.1 if key in known else 1.0) for key, error in stats.standard_errors.items()}
        services[name] = replace(stats, **{k: 1.1 * getattr(stats, k) for k in known}, standard_errors=errors)
    return replace(run, services=services, content_hash=f"{run.content_hash}*{sorted(names)}")


def every_service_gates(pair: Pair) -> Comparison:
    with patch.object(effect, "POOLED_FROM", 1_000_000):
        return compare(*pair, policy=Policy(gate_share=0.0))


def report(title: str, pairs: list[Pair], pool: list[Run]) -> None:
    """Shares of the pairs, in percent."""
    counts = {name: sum(run.services[name].count or 0 for run in pool) for name in pool[0].services}
    total = sum(counts.values())
    large = min((n for n in counts if counts[n] >= 0.05 * total), key=lambda n: counts[n])
    small = min(counts, key=lambda n: abs(counts[n] - 0.005 * total))
    cases = {"identical": set[str](), f"{large} +10 %": {large}, f"{small} +10 %": {small}, "all +10 %": set(counts)}
    truth = truth_of(pool)
    rules: dict[str, Callable[[Pair], Comparison]] = {
        "perfkit": lambda pair: compare(*pair),
        "every service gates": every_service_gates,
        "oracle": lambda pair: compare(*pair, history=truth),
    }
    shares = ", ".join(f"{name} {100 * counts[name] / total:.1f} %" for name in (large, small))
    print(f"\n{title}: {len(pairs)} pairs of {len(counts)} services ({shares})")
    heads = ("regression", "no_change", "found there", "not seen below 10 %")
    print(f"  {'case':<24}{'rule':<22}" + "".join(f"{head:>21}" for head in heads))
    for case, names in cases.items():
        where = names if len(names) == 1 else {ALL_SERVICES}
        moved = [(before, [slower(run, names) for run in after] if names else after) for before, after in pairs]
        for rule, judge in rules.items():
            rows = []
            for found in map(judge, moved):
                called = {finding.service for finding in found.by_verdict(Verdict.REGRESSION)}
                smallest = [f.min_detectable for f in found.findings if f.metric == Metric.AVG and f.service in where]
                unseen = any(size is None or size > 10.0 for size in smallest)
                rows.append((found.verdict == "regression", found.verdict == "no_change", bool(called & where), unseen))
            print(f"  {case:<24}{rule:<22}" + "".join(f"{100 * share:>19.1f} %" for share in np.mean(rows, axis=0)))


def runs_of(folder: Path) -> Iterator[Run]:
    for place in sorted(folder.glob("[!.]*")):
        if (place.is_dir() or place.name.endswith("_stats.csv")) and (run := read_run(place)).validity.ok:
            yield run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of identical runs")
    parser.add_argument("--requests", type=int, default=20_000, help="requests of a simulated run")
    parser.add_argument("--noise", type=float, default=1.0, help="factor of the noise between simulated runs")
    parser.add_argument("--trials", type=int, default=60, help="pairs")
    parser.add_argument("--size", type=int, nargs=2, default=(5, 3), help="runs of baseline and candidate")
    arguments = parser.parse_args()
    rng, size = np.random.default_rng(4), tuple(arguments.size)
    title = f"{size[0]} against {size[1]}"
    if arguments.runs is not None:
        pool = list(runs_of(arguments.runs))
        report(f"real runs, {title}", [split(pool, size, rng) for _ in range(arguments.trials)], pool)
        return
    drawn = [
        [simulated(rng, arguments.requests, arguments.noise) for _ in range(sum(size))] for _ in range(arguments.trials)
    ]
    pairs = [(runs[: size[0]], runs[size[0] :]) for runs in drawn]
    report(
        f"simulated runs of {arguments.requests:,} requests, {title}", pairs, [run for runs in drawn for run in runs]
    )


if __name__ == "__main__":
    main()
