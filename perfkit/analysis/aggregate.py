"""The aggregate of many services: the run as a whole, judged as one more service.

Sixty endpoints share one alpha, and each has few requests.  What all of them have in common (another server, another
runtime) shows in their mean long before it shows in any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perfkit.analysis.coverage import measured
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS, Metric, Run, ServiceStats
from perfkit.stats.noise import PRIOR_SD

MANY = 8  # services from which on the run as a whole is judged too
KNOWN = 0.5  # share of the requests whose services must tell a metric
# Times `PRIOR_SD`: what the services of one run have in common does not average out over them.  Chosen on seven repeats
# of one real build (25 services, mean latency 63 to 70 ms): without it 5 of 42 pairs were called, with it none.
SHARED_NOISE = 1.2


def with_aggregate(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str]
) -> tuple[list[Run], list[Run]] | None:
    """Both sides with the service `ALL_SERVICES` added; ``None`` where services are few.

    It sums up those services that all runs have.  Its latency is the geometric mean over services, weighted by their
    share of the requests of all runs: a change in the mix of requests does not move it, and a factor common to all
    services moves it by that factor.
    """
    runs = [*baseline, *candidate]
    services = [name for name in services if len(measured(name, runs)) == len(runs)]
    counts = {name: sum(run.services[name].count or 0 for run in runs) for name in services}
    is_counted = all(run.services[name].count for run in runs for name in services)
    if len(services) < MANY or ALL_SERVICES in services or not is_counted:
        return None
    known = {
        metric: [name for name in services if all(run.services[name].value(metric) for run in runs)]
        for metric in LATENCY_METRICS
    }
    enough = {
        metric: names
        for metric, names in known.items()
        if sum(counts[name] for name in names) >= KNOWN * sum(counts.values())
    }
    sides = [
        [replace(run, services={**run.services, ALL_SERVICES: _aggregate(run, counts, enough)}) for run in side]
        for side in (baseline, candidate)
    ]
    return sides[0], sides[1]


def _aggregate(run: Run, counts: dict[str, int], known: dict[Metric, list[str]]) -> ServiceStats:
    services = [run.services[name] for name in counts]
    values: dict[str, Any] = {}
    errors: dict[str, float] = {}
    for metric, names in known.items():
        value, error = _latency(metric, [run.services[name] for name in names], [counts[name] for name in names])
        values[metric.value] = value
        if math.isfinite(error):
            errors[metric.value] = error
    rates = [stats.rps for stats in services if stats.rps is not None]
    if len(rates) == len(services):
        values[Metric.RPS.value] = total = math.fsum(rates)
        rate_errors = [stats.standard_error(Metric.RPS) for stats in services]
        if None not in rate_errors:
            common = SHARED_NOISE * PRIOR_SD[Metric.RPS] * total
            errors[Metric.RPS.value] = math.hypot(*(error or 0.0 for error in rate_errors), common)
    count = sum(stats.count or 0 for stats in services)
    failures = None if any(stats.failures is None for stats in services) else sum(s.failures or 0 for s in services)
    return ServiceStats(
        count=count,
        failures=failures,
        error_rate_pct=100.0 * failures / count if failures is not None else None,
        standard_errors=errors,
        assumed=tuple(metric.value for metric in Metric if any(metric in stats.assumed for stats in services)),
        **values,
    )


def _latency(metric: Metric, stats: Sequence[ServiceStats], counts: Sequence[int]) -> tuple[float, float]:
    """Weighted geometric mean and its standard error, what the services share included; ``nan`` when unknown."""
    weights = np.array(counts, float) / sum(counts)
    values = np.array([item.value(metric) for item in stats], float)
    relative = np.array([item.standard_error(metric) or math.nan for item in stats]) / values
    mean = float(np.exp(weights @ np.log(values)))
    return mean, mean * float(np.sqrt(((weights * relative) ** 2).sum() + (SHARED_NOISE * PRIOR_SD[metric]) ** 2))
