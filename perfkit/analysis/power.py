"""Power: the smallest worsening that sets of runs can show, and the runs that a worsening of a given size needs.

Of runs at hand (`detectable`), and of comparisons that are planned from a scenario's noise profile (`runs_needed`), by
the designs of `perfkit.stats.power`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfkit.analysis.coverage import MANY, gate_by_shares, gate_of
from perfkit.analysis.noise_profile import (
    NoiseProfile,
    TailVariation,
    failures_of,
    knowing_neighbours,
    level_values,
    noise_of,
    runs_for_tail,
)
from perfkit.config.policy import Policy
from perfkit.model.records import ALL_SERVICES, Gate, Metric, Run, Scope
from perfkit.stats.effect import (
    POOLED_FROM,
    PRIOR_DF,
    PRIOR_OVERDISPERSION_DF,
    Noise,
    overdispersion,
    weighted_holm,
)
from perfkit.stats.power import MOST_RUNS, RequestDesign, RunDesign
from perfkit.stats.summary import runs_enough
from perfkit.stats.tail import SCATTER, TailDesign, is_enough, pooled, scatter_of_tails

if TYPE_CHECKING:
    import pandas as pd


# The metrics of one service move together, so most weight goes to the most exact one (measured: an even split found
# +5 % in 2 % of trials, this one in 85 %, five runs against three).
WEIGHTS = {
    Metric.AVG: 0.60,
    Metric.P95: 0.10,
    Metric.P50: 0.06,
    Metric.P99: 0.08,
    Metric.ERROR_RATE: 0.07,
    Metric.RPS: 0.06,
    Metric.P999: 0.03,
}
# Of p99.9 where it is that of all runs together: what is seen there alone is a tail that single runs are too short for.
# On loopback runs, eight against eight, 0.05, 0.10 and 0.15 found 41, 43 and 43 to 48 % of stalls, without it 31 %.
TAIL_WEIGHT = 0.10
RUN_SHARE = 0.5  # of alpha, for the run as a whole where it is judged
# Where services are watched: of the run as a whole; the rest goes by requests, those of a service that gates count so
# many times.  benchmarks/many_services.py has what is found.
RUN_SHARE_OF_MANY = 0.4
GATING_COUNTS = 3.0
# Of all absolute limits together: the comparison hardly notices it, and a limit that is broken for good is broken by
# many standard errors.  test_calibration.py has what both sides then find.
OBJECTIVES_SHARE = 0.2


def alpha_shares(
    tests: Sequence[tuple[str, Metric, Scope]], gate: Gate | None = None, tails: Collection[str] = ()
) -> list[float]:
    """Share of alpha of each test (service, metric, scope); they sum to one.

    ``tails`` are the services whose p99.9 is that of all runs together.

    >>> tests = [("a", Metric.AVG, Scope.SERVICE), ("a", Metric.P95, Scope.SERVICE), ("b", Metric.AVG, Scope.SERVICE)]
    >>> [round(share, 2) for share in alpha_shares(tests)]
    [0.46, 0.08, 0.46]
    """
    services = dict.fromkeys(service for service, _, scope in tests if scope is Scope.SERVICE)
    run, parts = RUN_SHARE, dict.fromkeys(services, 1.0)
    if gate is not None:
        run = RUN_SHARE_OF_MANY
        usual = 1.0 / len(services) if services else 1.0  # of one whose requests are not counted
        for times, items in ((GATING_COUNTS, (*gate.services, *gate.also)), (1.0, gate.watched)):
            parts |= {item.service: times * (usual if item.share is None else item.share) for item in items}
    total = math.fsum(parts[service] for service in services)
    parts = {service: (1.0 - run) * parts[service] / total for service in services}
    weights = [
        (TAIL_WEIGHT if metric is Metric.P999 and service in tails else WEIGHTS[metric])
        * (run if scope is Scope.RUN else parts[service])
        for service, metric, scope in tests
    ]
    total = sum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True, slots=True)
class AlphaShare:
    """The part of alpha that one test has, and its one-sided p-values of a worsening and of an improvement, adjusted.

    Those of a worsening are adjusted over all tests and absolute limits.  Improvements have an alpha of their own, of
    the same size and shared in the same way; an absolute limit knows none.
    """

    share: float
    p_worse: float
    p_better: float


def allocate_alpha(
    tests: Sequence[tuple[tuple[str, Metric, Scope] | None, float, float]],
    gate: Gate | None = None,
    tails: Collection[str] = (),
) -> list[AlphaShare]:
    """Share alpha and adjust the p-values (getting worse, getting better) of tests; ``None``: of an absolute limit."""
    changes = [test for test, _, _ in tests if test is not None]
    limits = len(tests) - len(changes)
    of_limits = (OBJECTIVES_SHARE if changes else 1.0) if limits else 0.0
    of_changes = iter(alpha_shares(changes, gate, tails))
    shares = {
        n: of_limits / limits if test is None else (1.0 - of_limits) * next(of_changes)
        for n, (test, _, _) in enumerate(tests)
    }
    worse = weighted_holm({n: p_worse for n, (_, p_worse, _) in enumerate(tests)}, shares)
    better = weighted_holm({n: p_better for n, (test, _, p_better) in enumerate(tests) if test is not None}, shares)
    return [AlphaShare(share, worse[n], better.get(n, 1.0)) for n, share in shares.items()]


BEYOND_SIZE = math.log(101.0)  # more than +10,000 %: so few and so unlike runs show no change of any size
PlanRow = tuple[str, str, float | None, int, int | None, float | None]


def log_worsening(metric: Metric, percent: float) -> float:
    """A worsening in percent of the baseline as a positive shift on the log scale."""
    return math.log1p(percent / 100) if metric.worse > 0 else -math.log1p(-min(percent, 99.9) / 100)


def percent_worsening(metric: Metric, shift: float) -> float:
    """The inverse of `log_worsening`; infinite beyond `BEYOND_SIZE`."""
    if shift > BEYOND_SIZE:
        return math.inf
    return 100.0 * math.expm1(shift) if metric.worse > 0 else -100.0 * math.expm1(-shift)


def levels_of_tests(
    services: Sequence[str], policy: Policy, gate: Gate | None, runs_of_tail: Mapping[str, int], most: int
) -> list[dict[tuple[str, Metric], float]]:
    """The level (share of alpha) at which each limited metric of these services is tested with 1 to ``most`` runs.

    It depends on their number because that of p99.9 of all runs together weighs more (`runs_for_tail`).
    """
    entries = [(name, Scope.SERVICE) for name in services]
    if len(services) >= MANY:
        entries.insert(0, (ALL_SERVICES, Scope.RUN))
    tests = [(name, metric, scope) for name, scope in entries for metric in policy.limits(name)]
    levels: list[dict[tuple[str, Metric], float]] = []
    for n in range(1, most + 1):
        if n == 1 or n in runs_of_tail.values():
            tails = {name for name, least in runs_of_tail.items() if n >= least}
            shares = zip(tests, alpha_shares(tests, gate, tails), strict=True)
            of_services = ((test, share) for test, share in shares if test[2] is Scope.SERVICE)
            alphas = {(name, metric): policy.alpha * share for (name, metric, _), share in of_services}
        levels.append(alphas)
    return levels


def detectable(runs: Sequence[Run], *, policy: Policy | None = None, most: int = 10) -> pd.DataFrame:
    """The smallest change that sets of runs like these can show: what is called with probability 0.8.

    Columns: service, metric, runs_per_side (1..``most``), min_detectable (percent of the baseline; pp for the error
    rate), change_unit.  One row per service, metric and number of runs; metrics that some run cannot tell are absent.
    """
    import pandas as pd

    policy = policy or Policy()
    services = [name for name in runs[0].services if all(name in run.services for run in runs)] if runs else []
    rows: list[tuple[str, str, int, float, str]] = []
    stats = {name: [run.services[name] for run in runs] for name in services}
    runs_of_tail = {name: least for name in services if (least := runs_for_tail(stats[name])) is not None}
    levels = levels_of_tests(services, policy, gate_of((runs,), services, policy), runs_of_tail, most)
    tests = [test for test in levels[0] if test[1] is not Metric.ERROR_RATE]
    of_tests = {(name, metric): level_values(name, metric, runs, ()) for name, metric in tests}
    known = knowing_neighbours({test: (test[1], values) for test, values in of_tests.items() if values is not None})
    for service, metric in levels[0]:
        if metric is Metric.ERROR_RATE:
            failures = failures_of(stats[service])
            if failures is None:
                continue
            factor, df = overdispersion((failures.failed,), (failures.counts,))
            for n, of_tests_with_n in enumerate(levels, 1):
                level = of_tests_with_n[service, metric]
                requests = n * float(failures.counts.mean())
                smallest = RequestDesign(requests, requests, level, 0.0, factor, df).min_detectable(failures.rate)
                shown = 100.0 * smallest if math.isfinite(smallest) else math.inf
                rows.append((service, metric.value, n, shown, metric.change_unit))
        elif (service, metric) in known:
            noise = noise_of(metric, known[service, metric])
            for n, of_tests_with_n in enumerate(levels, 1):
                shift = RunDesign.planned(noise, n, of_tests_with_n[service, metric]).min_detectable()
                rows.append((service, metric.value, n, percent_worsening(metric, shift), metric.change_unit))
    return pd.DataFrame(rows, columns=["service", "metric", "runs_per_side", "min_detectable", "change_unit"])


def with_tails(profile: NoiseProfile, runs: Sequence[Run]) -> NoiseProfile:
    """The profile of these runs with p99 and p99.9 where single ones are too short for it, and many tell it."""
    tails = []
    for service in dict.fromkeys(name for run in runs for name in run.services):
        stats = [run.services[service] for run in runs if service in run.services]
        kept = [item.tail for item in stats if item.tail is not None]
        for metric in (metric for metric in Metric if metric.quantile in SCATTER):
            quantile = metric.quantile or 0.0
            is_told = (
                len(kept) == len(stats) and is_enough(kept, quantile) and not any(of.value(metric) for of in stats)
            )
            if is_told and (least := runs_enough(kept, quantile)) is not None:
                (factor, _), _, _ = scatter_of_tails(quantile, (kept,))
                tails.append(TailVariation(service, metric.value, len(kept), pooled(kept), factor, least))
    return replace(profile, tails=tuple(tails))


def runs_needed(
    profile: NoiseProfile, policy: Policy, percent: float, power: float, usual: Mapping[tuple[str, Metric], float]
) -> list[PlanRow]:
    """Service, metric, variation, runs behind it, runs per side that call a worsening of ``percent``, and tolerance.

    Called is what a comparison calls a regression: beyond chance, and seen to be beyond the tolerance (in percent;
    ``None`` where an absolute one cannot be placed).  Runs are ``None`` where `MOST_RUNS` would not do, as where the
    tolerance accepts the worsening; the variation is of a percentile that only all runs of a side tell together.
    ``usual`` are the values that absolute tolerances are seen from, and the rates that say which of many services gate.
    The comparison is planned to know this profile (``history``).
    """
    if not 0 < percent < 1000:
        raise ValueError(f"detect: a worsening in percent, above 0 and below 1000, got {percent!r}")
    if not 0 < power < 1:
        raise ValueError(f"power: a probability between 0 and 1, got {power!r}")
    limited = [v for v in profile.variations if policy.limit(v.service, v.metric) is not None]
    services = list(dict.fromkeys(variation.service for variation in limited))
    rates = {name: usual.get((name, Metric.RPS)) or math.nan for name in services}
    total = math.fsum(rate for rate in rates.values() if math.isfinite(rate))
    shares = {name: rate / total if math.isfinite(rate) else None for name, rate in rates.items()}
    levels = levels_of_tests(services, policy, gate_by_shares(shares, policy), profile.runs_of_tail, MOST_RUNS)
    rows: list[PlanRow] = []
    for variation in limited:
        service, metric = variation.service, Metric(variation.metric)
        limit = policy.limit(service, metric)
        tolerance = limit.in_change_unit(usual.get((service, metric))) if limit is not None else None
        shift = log_worsening(metric, percent)
        bound = log_worsening(metric, tolerance) if tolerance is not None else math.inf
        needed = None
        for n in range(1, MOST_RUNS + 1) if bound < shift else ():
            df = 2 * (n - 1)
            besides = variation.prior_df
            if len(services) >= POOLED_FROM:  # no more than other services will tell of so few runs
                besides = min(besides, PRIOR_DF + 2 * df)
            noise = Noise(variation.variation_pct / 100, variation.df + besides + df)
            if RunDesign(noise, n, n, levels[n - 1][service, metric], bound).min_detectable(power) <= shift:
                needed = n
                break
        rows.append((service, metric.value, variation.variation_pct, variation.runs, needed, tolerance))
    order = {name: number for number, name in enumerate(services)}
    for tail in profile.tails:
        service, metric = tail.service, Metric(tail.metric)
        if (limit := policy.limit(service, metric)) is None:
            continue
        tolerance = limit.in_change_unit(usual.get((service, metric)))
        bound = log_worsening(metric, tolerance) if tolerance is not None else math.inf

        def calls(n: int, tail: TailVariation = tail, bound: float = bound) -> bool:
            """Whether so many runs on each side do."""
            level, df = levels[n - 1][tail.service, Metric(tail.metric)], PRIOR_OVERDISPERSION_DF + 2.0 * (n - 1)
            design = TailDesign(Metric(tail.metric).quantile or 0.0, level, bound, tail.overdispersion, df)
            requests = n * tail.tail.requests / tail.runs
            return design.min_detectable(tail.tail, (requests, requests), power) <= percent

        needed = None
        if service in order and bound < log_worsening(metric, percent) and calls(MOST_RUNS):
            needed = bisect_left(range(tail.least_runs, MOST_RUNS), True, key=calls) + tail.least_runs
        rows.append((service, metric.value, None, tail.runs, needed, tolerance))
    return sorted(rows, key=lambda row: order.get(row[0], len(order)))
