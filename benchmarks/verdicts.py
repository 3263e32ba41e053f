"""How often verdicts are right: on simulated runs, and on sets of identical real runs where some are at hand.

    python benchmarks/verdicts.py
    python benchmarks/verdicts.py --repeats FOLDER      FOLDER/<set-up>/<repeat>/ holds Locust CSV files
    python benchmarks/verdicts.py --repeats FOLDER --redrawn 200
    python benchmarks/verdicts.py --investigations FILE

FILE is JSON, {"pairs": [{"id", "baseline": [glob], "candidate": [glob], "verdict": what people said}]}, with globs
relative to it; a pair without a candidate is a set of repeats of one build, each held against each.

Each row judges the same pairs with perfkit and, in the same run, with what teams use instead: fixed thresholds, "any
metric worse by 5 %", Welch's t-test on run values, and (simulated requests only) Mann-Whitney on single requests.
The oracle is perfkit told the true variation between runs of each set-up (of ten real runs: their own): what nobody can
find who must first learn the noise.  Ten repeats cannot show a rate of 3 %: ``--redrawn`` draws runs from the normal
distribution with the covariance of a set-up's metrics, as many as one likes, also 20 of them as history.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from perfkit import Metric, Policy, Run, Verdict, compare, read_run, run_from_requests
from perfkit.analysis.noise_profile import NoiseProfile, Variation, profile_of
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS

CHANGES = (0.05, 0.10, 0.20)
HISTORY = 20  # earlier runs
SIZES = ((5, 3), (9, 1), (3, 1), (1, 1))
STRICT = Policy(tolerance={metric.value: 3.0 for metric in Metric if metric is not Metric.ERROR_RATE})
WATCHED = (Metric.AVG, Metric.P50, Metric.P95, Metric.P99, Metric.RPS)
Pair = tuple[list[Run], list[Run]]


def slower(run: Run, factor: float) -> Run:
    """The run with all its latencies times ``factor``."""
    services = {}
    for name, found in run.services.items():
        names = [metric.value for metric in LATENCY_METRICS if found.value(metric) is not None]
        errors = {k: v * (factor if k in names else 1.0) for k, v in found.standard_errors.items()}
        changed = {metric: getattr(found, metric) * factor for metric in names}
        services[name] = replace(found, **changed, standard_errors=errors)
    return replace(run, services=services, content_hash=f"{run.content_hash}*{factor}")


def perfkit_rule(policy: Policy | None) -> Callable[[Pair], str]:
    return lambda pair: compare(*pair, policy=policy).verdict.value


KNOWN = 1e6  # degrees of freedom of who knows the truth


def truth_of(runs: Sequence[Run]) -> NoiseProfile:
    """The variation of these runs as if it were known."""
    variations = []
    for name in runs[0].services:
        for metric in WATCHED:
            values = [run.services[name].value(metric) for run in runs]
            if all(values):
                sd = float(np.log(np.array(values, float)).std(ddof=1))
                variations.append(Variation(name, metric.value, len(runs), 100 * sd, 0.0, KNOWN * sd**2, KNOWN))
    return NoiseProfile(runs[0].scenario, (), tuple(variations))


def oracle_rule(truths: dict[str, NoiseProfile]) -> Callable[[Pair], str]:
    """``truths``: the hash of a baseline's first run to what is true of it."""
    return lambda pair: compare(*pair, policy=STRICT, history=truths[pair[0][0].content_hash]).verdict.value


def redrawn(runs: Sequence[Run], n: int, rng: np.random.Generator) -> list[Run]:
    """Runs whose log values have the mean and the covariance of these, and their errors within a run."""
    drawn = []
    weights = rng.standard_normal((n, len(runs))) / np.sqrt(len(runs) - 1)
    for number, mix in enumerate(weights):
        model, services = runs[rng.integers(len(runs))], {}
        for name, found in model.services.items():
            changed, errors = {}, dict(found.standard_errors)
            for metric in (*LATENCY_METRICS, Metric.RPS):
                values = [run.services[name].value(metric) for run in runs]
                if all(values):
                    logs = np.log(np.array(values, float))
                    changed[metric.value] = value = float(np.exp(logs.mean() + mix @ (logs - logs.mean())))
                    if metric.value in errors:
                        errors[metric.value] *= value / (found.value(metric) or value)
            services[name] = replace(found, **changed, standard_errors=errors)
        hashed = f"{model.content_hash}/{number}/{rng.integers(1 << 62)}"
        drawn.append(replace(model, id=f"{model.id}-{hashed}", services=services, content_hash=hashed))
    return drawn


def thresholds(pair: Pair) -> str:
    """Error rate +0.5 pp, p95 +50 %, rps -30 %, of the mean values."""
    limits = {Metric.P95: 50.0, Metric.RPS: 30.0}
    return _any(pair, lambda m, before, after: m in limits and worsening(m, before, after) > limits[m])


def any_five(pair: Pair) -> str:
    return _any(pair, lambda m, before, after: worsening(m, before, after) > 5.0)


def welch(pair: Pair) -> str:
    """One-sided at 0.01 on run values, each metric by itself; needs two runs on each side."""

    def is_worse(metric: Metric, before: np.ndarray, after: np.ndarray) -> bool:
        if min(before.size, after.size) < 2 or before.std() + after.std() == 0:
            return False
        side = "greater" if metric.worse > 0 else "less"
        return bool(stats.ttest_ind(after, before, equal_var=False, alternative=side).pvalue < 0.01)

    return _any(pair, is_worse)


def mann_whitney(pair: Pair) -> str:
    """One-sided at 0.01 on all single requests."""
    times = [np.concatenate([r.requests()["response_time_ms"].to_numpy() for r in side]) for side in pair]
    return "regression" if stats.mannwhitneyu(times[1], times[0], alternative="greater").pvalue < 0.01 else "no_change"


def worsening(metric: Metric, before: np.ndarray, after: np.ndarray) -> float:
    return metric.worse * 100.0 * (after.mean() / before.mean() - 1.0)


def _any(pair: Pair, is_worse: Callable[[Metric, np.ndarray, np.ndarray], bool]) -> str:
    for service in pair[0][0].services:
        for metric in WATCHED:
            values = [[run.services[service].value(metric) for run in side] for side in pair]
            if all(value for side in values for value in side):
                before, after = (np.array(side, float) for side in values)
                if is_worse(metric, before, after):
                    return "regression"
    return "no_change"


def simulated(rng: np.random.Generator, n: int, sd: float, factor: float = 1.0) -> list[Run]:
    """Runs of two services and 2,000 requests each, that vary by ``sd`` between themselves."""
    runs = []
    for _ in range(n):
        common = rng.normal(0, sd * 0.7)
        parts = []
        for name, median in (("api", 20.0), ("rag", 90.0)):
            level = median * factor * np.exp(common + rng.normal(0, sd * 0.7))
            start = np.sort(rng.uniform(0, 60, 1000))
            parts.append(
                pd.DataFrame(
                    {
                        "start": 1.7e9 + start,
                        "service": name,
                        "response_time_ms": level * rng.lognormal(0, 0.4, 1000),
                        "failed": rng.random(1000) < 0.003,
                    }
                )
            )
        runs.append(run_from_requests(pd.concat(parts), scenario="simulated"))
    return runs


def split(runs: Sequence[Run], sizes: tuple[int, int], rng: np.random.Generator) -> Pair:
    order = rng.permutation(len(runs))[: sum(sizes)]
    chosen = [runs[i] for i in order]
    return chosen[: sizes[0]], chosen[sizes[0] :]


def report(title: str, pairs: list[Pair], rules: dict[str, Callable[[Pair], str]], changes: Sequence[float]) -> None:
    print(f"\n{title}: {len(pairs)} pairs")
    print(f"  {'rule':<34}" + _heads(changes) + "     identical: no_change")
    found: dict[str, list[float]] = {}
    for name, rule in rules.items():
        shares = found[name] = []
        for change in changes:
            moved = pairs if not change else [(b, [slower(r, 1 + change) for r in c]) for b, c in pairs]
            if name == "Mann-Whitney on requests" and change:
                shares.append(float("nan"))
                continue
            counts = Counter(map(rule, moved))
            shares.append(100 * counts["regression"] / len(pairs))
            if not change:
                proved = 100 * counts[Verdict.NO_CHANGE.value] / len(pairs)
        print(f"  {name:<34}{_cells(shares)}     {proved:>8.1f} %")
    of_oracle = [100 * a / b if b else float("nan") for a, b in zip(found[NAME], found[ORACLE], strict=True)]
    print(f"  {'-> of what the oracle finds':<34}{_cells([float('nan'), *of_oracle[1:]])}")


def _cells(shares: Sequence[float]) -> str:
    return "".join("         -" if s != s else f"{s:>8.1f} %" for s in shares)


NAME, ORACLE = "perfkit, tolerance 3 %", "oracle, tolerance 3 %"
RULES: dict[str, Callable[[Pair], str]] = {
    NAME: perfkit_rule(STRICT),
    "perfkit, default policy": perfkit_rule(None),
    "fixed: p95 +50 %, rps -30 %": thresholds,
    "any metric worse by 5 %": any_five,
    "Welch's t on run values, 0.01": welch,
}


def read_setups(folder: Path) -> dict[str, list[Run]]:
    places = (place for place in sorted(folder.iterdir()) if place.is_dir())
    return {place.name: [read_run(run) for run in sorted(place.iterdir()) if run.is_dir()] for place in places}


def real(setups: dict[str, list[Run]], trials: int) -> None:
    truths = {run.content_hash: truth_of(runs) for runs in setups.values() for run in runs}
    for sizes in SIZES:
        rng = np.random.default_rng(7)
        pairs = [split(runs, sizes, rng) for runs in setups.values() if len(runs) >= sum(sizes) for _ in range(trials)]
        title = f"{len(setups)} sets of identical real runs, {sizes[0]} against {sizes[1]}"
        report(title, pairs, {**RULES, ORACLE: oracle_rule(truths)}, (0.0, *CHANGES))


def of_redrawn(setups: dict[str, list[Run]], trials: int) -> None:
    """Each set-up on its own, identical runs and slower ones, with and without a history of 20 runs."""
    for sizes in ((5, 3), (9, 1), (5, 1), (3, 1), (1, 1)):
        print(
            f"\nredrawn runs, {sizes[0]} against {sizes[1]}: {trials} pairs of each set-up, tolerance 3 %, called worse"
        )
        print(
            f"  {'rule':<26}{'identical':>10}  worst set-up (95 % interval)" + _heads(CHANGES) + "   no_change, default"
        )
        rng, counts = (
            np.random.default_rng(23),
            {name: Counter[tuple[str, float]]() for name in ("alone", "history", "oracle")},
        )
        for setup, runs in setups.items():
            truth = truth_of(runs)
            for _ in range(trials):
                earlier = profile_of(setup, redrawn(runs, HISTORY, rng))
                drawn = redrawn(runs, sum(sizes), rng)
                before, after = drawn[: sizes[0]], drawn[sizes[0] :]
                for name, history in (("alone", None), ("history", earlier), ("oracle", truth)):
                    for change in (0.0, *CHANGES):
                        moved = [slower(run, 1 + change) for run in after] if change else after
                        is_called = compare(before, moved, policy=STRICT, history=history).verdict is Verdict.REGRESSION
                        counts[name][setup, change] += is_called
                    shown = compare(before, after, history=history).verdict is Verdict.NO_CHANGE
                    counts[name][setup, -1.0] += shown
        for name, found in counts.items():
            shares = {c: 100 * np.mean([found[setup, c] for setup in setups]) / trials for c in (0.0, *CHANGES, -1.0)}
            worst = max(setups, key=lambda setup: found[setup, 0.0])
            low, high = stats.binomtest(found[worst, 0.0], trials).proportion_ci(method="wilson")
            of_worst = f"{worst} {100 * found[worst, 0.0] / trials:.1f} % ({100 * low:.1f}-{100 * high:.1f})"
            cells = _cells([shares[change] for change in CHANGES])
            print(f"  {name:<26}{shares[0.0]:>8.2f} %  {of_worst:<28}{cells}{shares[-1.0]:>13.1f} %")
        for name in ("alone", "history"):
            of_oracle = [
                100 * sum(counts[name][s, c] for s in setups) / sum(counts["oracle"][s, c] for s in setups)
                for c in CHANGES
            ]
            print(f"  {'-> ' + name + ', of the oracle':<68}{_cells(of_oracle)}")


def _heads(changes: Sequence[float]) -> str:
    return "".join(f"{f'+{100 * c:.0f} %':>10}" for c in changes)


def investigations(file: Path) -> None:
    """What people said of their A/B tests beside what perfkit says."""
    print("\ninvestigations: what people said | overall verdict | findings called | the run as a whole")
    for item in json.loads(file.read_text(encoding="utf-8"))["pairs"]:
        sides = [[read_run(path) for glob in item[k] for path in _files(file, glob)] for k in ("baseline", "candidate")]
        if all(sides):
            found = compare(*sides)
            called = Counter(f.verdict.value for f in found.findings if f.verdict in ("regression", "improvement"))
            whole = [f.verdict.value for f in found.findings if (f.service, f.metric) == (ALL_SERVICES, Metric.AVG)]
            print(f"  {item['id']:<16}{item['verdict'][:44]:<46}{found.verdict:<14}{dict(called)} {' '.join(whole)}")
        elif len(sides[0]) > 1:
            verdicts = [compare([a], [b]).verdict for a, b in permutations(sides[0], 2)]
            print(f"  {item['id']:<16}{item['verdict'][:44]:<46}{dict(Counter(v.value for v in verdicts))}")


def _files(file: Path, glob: str) -> list[Path]:
    return sorted(path for path in file.parent.glob(glob) if not path.name.endswith("_history.csv"))


def coverage(trials: int) -> None:
    print("\nnominal 95 % intervals that hold the truth (+4 %), simulated requests")
    rng = np.random.default_rng(11)
    for sd in (0.01, 0.03, 0.05):
        cells = []
        for sizes in ((3, 3), (5, 3), (10, 10)):
            hits = []
            for _ in range(trials):
                pair = simulated(rng, sizes[0], sd), simulated(rng, sizes[1], sd, 1.04)
                for finding in compare(*pair).findings:
                    if finding.metric in (Metric.AVG, Metric.P50, Metric.P95):
                        hits.append(finding.ci_low <= 4.0 <= finding.ci_high)
            cells.append(f"{sizes}: {100 * np.mean(hits):.1f} %")
        print(f"  run-to-run {100 * sd:.0f} %   " + "   ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=Path, help="folder of set-ups, each a folder of identical runs")
    parser.add_argument("--investigations", type=Path, help="JSON file of A/B tests and what people said of them")
    parser.add_argument("--trials", type=int, default=40, help="pairs per set-up and size")
    parser.add_argument("--redrawn", type=int, default=0, help="pairs drawn per set-up and size, and nothing else")
    arguments = parser.parse_args()
    if arguments.repeats is not None:
        setups = read_setups(arguments.repeats)
        if arguments.redrawn:
            of_redrawn(setups, arguments.redrawn)
            return
        real(setups, arguments.trials)
    if arguments.investigations is not None:
        investigations(arguments.investigations)
    rng = np.random.default_rng(3)
    truth = truth_of(simulated(rng, 300, 0.02))
    for sizes in SIZES:
        pool = [simulated(rng, sum(sizes), 0.02) for _ in range(arguments.trials)]
        pairs = [(runs[: sizes[0]], runs[sizes[0] :]) for runs in pool]
        truths = {before[0].content_hash: truth for before, _ in pairs}
        rules = {**RULES, ORACLE: oracle_rule(truths), "Mann-Whitney on requests": mann_whitney}
        report(f"simulated, 2 % run to run, {sizes[0]} against {sizes[1]}", pairs, rules, (0.0, *CHANGES))
    coverage(arguments.trials)


if __name__ == "__main__":
    main()
