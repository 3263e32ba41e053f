"""Many services at once: the run as a whole, as one more service.

Sixty endpoints share one alarm budget, and each has few requests.  What all of them have in common (another server,
another runtime) shows in their mean long before it shows in any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perfkit.coverage import measured
from perfkit.model import LATENCY_METRICS, Metric, Run, ServiceStats
from perfkit.stats.noise import PRIOR_SD

NAME = "(all services)"
MANY = 8  # services from which on the run as a whole is judged too
SHARE = 0.5  # of the alarm budget, for the run as a whole
KNOWN = 0.5  # share of the requests whose services must tell a metric
# Times `PRIOR_SD`: what the services of one run have in common does not average out over them.  Chosen on seven repeats
# of one real build (25 services, mean latency 63 to 70 ms): without it 5 of 42 pairs were called, with it none.
SHARED_NOISE = 1.2


def with_whole(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str]
) -> tuple[list[Run], list[Run], tuple[str, ...]]:
    """Both sides with the service `NAME` added, and the names to judge; as they were where services are few.

    The whole is that of the services which all runs have.

    A latency of the whole is the geometric mean over services, weighted by their share of the requests of all runs: a
    change in the mix of requests does not move it, and a factor common to all services moves it by that factor.
    """
    asked, both = tuple(services), [*baseline, *candidate]
    services = [name for name in services if len(measured(name, both)) == len(both)]
    every = [run.services[name] for run in both for name in services]
    if len(services) < MANY or NAME in services or any(not stats.count for stats in every):
        return list(baseline), list(candidate), asked
    counts = {name: sum(run.services[name].count or 0 for run in both) for name in services}
    known = {
        metric: [n for n in services if all(run.services[n].value(metric) for run in both)]
        for metric in LATENCY_METRICS
    }
    sides = [
        [replace(run, services={**run.services, NAME: _whole(run, counts, known)}) for run in side]
        for side in (baseline, candidate)
    ]
    return sides[0], sides[1], (NAME, *asked)


def _whole(run: Run, counts: dict[str, int], known: dict[Metric, list[str]]) -> ServiceStats:
    every = [run.services[name] for name in counts]
    latencies = {
        metric: _latency(metric, [run.services[name] for name in names], [counts[name] for name in names])
        for metric, names in known.items()
        if sum(counts[name] for name in names) >= KNOWN * sum(counts.values())
    }
    rate, rate_error = _rate(every)
    errors = {metric.value: error for metric, (_, error) in latencies.items() if math.isfinite(error)}
    if math.isfinite(rate_error):
        errors[Metric.RPS.value] = rate_error
    total = sum(item.count or 0 for item in every)
    failures = None if any(item.failures is None for item in every) else sum(item.failures or 0 for item in every)
    whole = ServiceStats(
        count=total,
        failures=failures,
        error_rate_pct=100.0 * failures / total if failures is not None else None,
        rps=rate,
        standard_errors=errors,
        assumed=tuple(metric.value for metric in Metric if any(metric in item.assumed for item in every)),
    )
    levels: dict[str, Any] = {metric.value: value for metric, (value, _) in latencies.items()}
    return replace(whole, **levels)


def _latency(metric: Metric, stats: Sequence[ServiceStats], counts: Sequence[int]) -> tuple[float, float]:
    """Weighted geometric mean and its standard error, what the services share included; ``nan`` when unknown."""
    weights = np.array(counts, float) / sum(counts)
    values = np.array([item.value(metric) for item in stats], float)
    relative = np.array([item.standard_error(metric) or math.nan for item in stats]) / values
    mean = float(np.exp(weights @ np.log(values)))
    return mean, mean * float(np.sqrt(((weights * relative) ** 2).sum() + (SHARED_NOISE * PRIOR_SD[metric]) ** 2))


def _rate(stats: Sequence[ServiceStats]) -> tuple[float | None, float]:
    """Sum of the rates and its standard error; ``None`` and ``nan`` when unknown."""
    rates = [item.rps for item in stats if item.rps is not None]
    if len(rates) < len(stats):
        return None, math.nan
    total = math.fsum(rates)
    own = (math.nan if (error := item.standard_error(Metric.RPS)) is None else error for item in stats)
    return total, math.hypot(*own, SHARED_NOISE * PRIOR_SD[Metric.RPS] * total)
