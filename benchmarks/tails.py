"""What a comparison finds of changes in the tail alone, where single runs are too short for p99 or p99.9.

    python benchmarks/tails.py                          simulated runs
    python benchmarks/tails.py --runs FOLDER            identical runs with their requests, each a file or folder of it
    python benchmarks/tails.py --runs FOLDER --slower FOLDER     and runs of another build
    python benchmarks/tails.py --foretold               what such a row foretells against what is then found

Each row judges the same pairs of sides, drawn without replacement: identical, with a share of the requests of one
service slowed down, and with all requests 5 % slower.  Beside perfkit stands perfkit without the tails that runs keep,
and what one would do by hand: a permutation test of the runs' p99 (mean of logs, the runs in other orders), and
Kolmogorov and Smirnov's test of all single requests, each one-sided at 0.01 over the services (Bonferroni).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from perfkit import Finding, Run, Verdict, compare, read_run, run_from_requests
from perfkit.model.records import ServiceStats

ALPHA = 0.01
ORDERS = 2000  # of the runs, of which the permutation test draws
SERVICES = {"api": (1000, 21.0, 0.35), "search": (550, 90.0, 0.45), "export": (200, 240.0, 0.3)}  # requests, ms, sd
SECONDS, RUNS = 22.0, 33
STALLS = ((200.0, 0.01), (500.0, 0.01), (500.0, 0.005), (500.0, 0.02))  # ms, share of the requests of one service
Pair = tuple[Sequence[Run], Sequence[Run]]
Change = Callable[[pd.DataFrame, np.random.Generator], pd.Series]


def simulated(rng: np.random.Generator) -> pd.DataFrame:
    """Requests of one run: log-normal times around levels that vary by 2 % between runs, and now and then a burst."""
    parts = []
    for name, (count, median, sd) in SERVICES.items():
        start = np.sort(rng.uniform(0, SECONDS, count))
        times = median * rng.lognormal(rng.normal(0, 0.02), sd, count)
        for begin in rng.uniform(0, SECONDS, rng.poisson(1)):
            times[(start > begin) & (start < begin + 0.1)] *= 2.0
        parts.append(pd.DataFrame({"start": 1.7e9 + start, "service": name, "response_time_ms": times}))
    return pd.concat(parts).assign(failed=False)


def requests_of(folder: Path) -> dict[str, pd.DataFrame]:
    """The requests of each run in a folder or store, by the name of its file or folder."""
    paths = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    found = {path.name: read_run(path).requests() for path in paths}
    return {name: requests for name, requests in found.items() if requests is not None}


def stall(service: str, ms: float, share: float) -> Change:
    def change(requests: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
        is_slow = (requests["service"] == service) & (rng.random(len(requests)) < share)
        return requests["response_time_ms"] + ms * is_slow

    return change


def run_of(requests: pd.DataFrame, number: str, change: Change | None = None) -> Run:
    """A run of these requests, changed; its time of beginning is its own, and so is its number."""
    rng = np.random.default_rng([*number.encode()])
    times = requests["response_time_ms"] if change is None else change(requests, rng)
    run = run_from_requests(requests.assign(response_time_ms=times), scenario="tails", number=number)
    arrays = {str(name): of.to_numpy() for name, of in times.groupby(requests["service"])}
    TIMES[run.content_hash] = arrays
    return replace(run, load_requests=None)


TIMES: dict[str, dict[str, np.ndarray]] = {}  # of each run by its hash: the times of each service


def with_tails(pair: Pair) -> bool:
    return compare(*pair).verdict is Verdict.REGRESSION


def without_tails(pair: Pair) -> bool:
    before, after = ([replace(run, services=_without(run)) for run in side] for side in pair)
    return compare(before, after).verdict is Verdict.REGRESSION


def _without(run: Run) -> dict[str, ServiceStats]:
    return {name: replace(found, tail=None) for name, found in run.services.items()}


def permutation_of_p99(pair: Pair) -> bool:
    rng, p_values = np.random.default_rng(1), []
    for times in _by_service(pair):
        logs = np.log([np.quantile(run, 0.99) for side in times for run in side])
        first = len(times[0])
        orders = np.vstack([np.arange(logs.size), *(rng.permutation(logs.size) for _ in range(ORDERS - 1))])
        steps = logs[orders][:, first:].mean(axis=1) - logs[orders][:, :first].mean(axis=1)
        p_values.append(np.mean(steps >= steps[0] - 1e-12))
    return bool(min(p_values) <= ALPHA / len(p_values))


def kolmogorov_smirnov(pair: Pair) -> bool:
    p_values = [
        stats.ks_2samp(*(np.concatenate(side) for side in times), alternative="greater", method="asymp").pvalue
        for times in _by_service(pair)
    ]
    return bool(min(p_values) <= ALPHA / len(p_values))


def _by_service(pair: Pair) -> list[list[list[np.ndarray]]]:
    """The times of the runs of each side, for each service."""
    return [[[TIMES[run.content_hash][name] for run in side] for side in pair] for name in pair[0][0].services]


RULES: dict[str, Callable[[Pair], bool]] = {
    "perfkit": with_tails,
    "without tails": without_tails,
    "p99, permuted": permutation_of_p99,
    "K-S": kolmogorov_smirnov,
}


def report(title: str, same: Sequence[Run], changed: Sequence[Run], sizes: tuple[int, int], trials: int) -> None:
    """``changed`` is ``same``, each run changed, or the runs of another build."""
    rng, called = np.random.default_rng(3), dict.fromkeys(RULES, 0)
    for _ in range(trials):
        order = rng.permutation(len(same))[: sum(sizes)]
        before, after = order[: sizes[0]], order[sizes[0] :]
        if len(changed) != len(same):
            after = rng.permutation(len(changed))[: sizes[1]]
        pair = [same[i] for i in before], [changed[i] for i in after]
        for name, rule in RULES.items():
            called[name] += rule(pair)
    print(f"  {title:<44}" + "".join(f"{100 * count / trials:>12.1f} %" for count in called.values()), flush=True)


def of_tails(pair: Pair) -> dict[tuple[str, str], Finding]:
    """The findings that are about all runs of a side together."""
    return {(f.service, f.metric): f for f in compare(*pair).findings if f.is_of_tails}


def called(finding: Finding) -> bool:
    """Whether it is worse by its own share of alpha, whatever else was found (Holm's steps would help it)."""
    numbers = finding.arithmetic
    return finding.p_value <= numbers.alpha * numbers.share and finding.change_pct > finding.tolerance


def foretold(sizes: tuple[int, int], trials: int) -> None:
    """The smallest detectable change of identical sides against how often it is found, and what runs needed settle."""
    rng, pool = np.random.default_rng(11), [simulated(np.random.default_rng([11, i])) for i in range(12 * max(sizes))]
    same = [run_of(requests, str(i)) for i, requests in enumerate(pool)]

    def pairs(changed: Sequence[Run], sizes: tuple[int, int]) -> Iterator[Pair]:
        for _ in range(trials):
            order = rng.permutation(len(same))[: sum(sizes)]
            yield [same[i] for i in order[: sizes[0]]], [changed[i] for i in order[sizes[0] :]]

    seen = [of_tails(pair) for pair in pairs(same, sizes)]
    print(f"{sizes[0]} against {sizes[1]}, {trials} pairs: the smallest change that is foretold to be found in 80 %")
    for service, metric in dict.fromkeys(key for of_pair in seen for key in of_pair):
        of_row = [of_pair[service, metric] for of_pair in seen if (service, metric) in of_pair]
        mde = np.array([np.inf if f.min_detectable is None else f.min_detectable for f in of_row])
        low, middle, high = np.quantile(mde, (0.1, 0.5, 0.9), method="nearest")
        text = f"  {service:>8} {metric:<16} median {middle:4.0f} % (80 % of them {low:.0f} to {high:.0f})"
        if np.isfinite(middle):
            factor = 1.0 + middle / 100
            slower = [
                run_of(of, f"{i} slower", lambda of, _, by=factor: by * of["response_time_ms"])
                for i, of in enumerate(pool)
            ]
            hits = [called(of_tails(pair)[service, metric]) for pair in pairs(slower, sizes)]
            text += f": found in {100 * np.mean(hits):.0f} %"
        needed = [f.runs_needed for f in of_row if f.verdict is Verdict.INCONCLUSIVE]
        if needed and None not in needed and (more := round(float(np.median(needed)))) <= 4 * max(sizes):
            after = (of_tails(pair).get((service, metric)) for pair in pairs(same, (sizes[0] + more, sizes[1] + more)))
            settled = [f.verdict is not Verdict.INCONCLUSIVE for f in after if f is not None]
            text += f"; open in {len(needed)}, +{more} runs settle {100 * np.mean(settled):.0f} %"
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of identical runs that keep their requests")
    parser.add_argument("--slower", type=Path, help="folder of runs of another build")
    parser.add_argument("--size", type=int, nargs=2, default=(8, 8), help="runs on each side")
    parser.add_argument("--trials", type=int, default=100, help="comparisons for each row; ten times as many identical")
    parser.add_argument("--foretold", action="store_true", help="the sizes and runs that rows foretell")
    arguments = parser.parse_args()
    sizes, trials = tuple(arguments.size), arguments.trials
    if arguments.foretold:
        foretold(sizes, trials)
        return
    if arguments.runs is None:
        rng = np.random.default_rng(5)
        pool = [simulated(rng) for _ in range(RUNS)]
    else:
        pool = [*requests_of(arguments.runs).values()]
    same = [run_of(requests, str(i)) for i, requests in enumerate(pool)]
    print(
        f"{len(same)} runs, {sizes[0]} against {sizes[1]}, {trials} pairs, {10 * trials} identical: called a regression"
    )
    print(f"  {'':<44}" + "".join(f"{name:>14}" for name in RULES))
    report("identical", same, same, sizes, 10 * trials)
    for name, found in same[0].services.items():
        for ms, share in STALLS:
            changed = [run_of(requests, f"{i} {name}", stall(name, ms, share)) for i, requests in enumerate(pool)]
            title = f"{100 * share:g} % of {name} ({(found.count or 0) * sizes[1]:,} in all) +{ms:g} ms"
            report(title, same, changed, sizes, trials)
    changed = [
        run_of(requests, f"{i} all", lambda of, _: 1.05 * of["response_time_ms"]) for i, requests in enumerate(pool)
    ]
    report("all requests +5 %", same, changed, sizes, trials)
    if arguments.slower is not None:
        other = [run_of(requests, f"other {name}") for name, requests in requests_of(arguments.slower).items()]
        report(f"{len(other)} runs of {arguments.slower.name}", same, other, sizes, trials)


if __name__ == "__main__":
    main()
