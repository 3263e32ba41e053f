"""What a table of percentiles, without the requests behind it, says about the error of its own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfkit.model import Metric
from perfkit.stats.summary import Floats

# Requests follow each other through the same queues; a summary cannot show by how much their effective number is
# smaller.  1.5 on the standard error is what time blocks of recorded closed-loop runs showed in the median.
AUTOCORRELATION_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class PercentileTable:
    """Quantiles in (0, 1] and the latencies in ms at them, both ascending, shape ``(n_points,)``."""

    quantiles: Floats
    latencies_ms: Floats

    @classmethod
    def of(cls, table: Mapping[float, float]) -> PercentileTable:
        """From a mapping of quantile to latency; rounding may leave it uneven, so it is made monotone."""
        points = sorted(table.items())
        values = np.maximum.accumulate(np.array([value for _, value in points], float)) if points else np.array([])
        return cls(np.array([q for q, _ in points], float), values)

    def at(self, quantile: float) -> float:
        """Latency at a quantile, linear between the points of the table."""
        return float(np.interp(quantile, self.quantiles, self.latencies_ms))

    def standard_deviation(self) -> float:
        """Of single requests, in ms: the table's quantile function sampled at 400 even ranks."""
        ranks = (np.arange(400) + 0.5) / 400
        return float(np.interp(ranks, self.quantiles, self.latencies_ms).std())


def errors_from_percentiles(table: PercentileTable, count: int, values: Mapping[str, float]) -> dict[str, float]:
    """Standard errors within the run, in each metric's unit, for those of ``values`` that can be told.

    Rank errors are binomial times `AUTOCORRELATION_FACTOR`; a rate scatters at least like a Poisson count.  The last
    percentile of a table cannot be told: what lies beyond it is not known.
    """
    errors: dict[str, float] = {}
    if count <= 0:
        return errors
    enough = table.quantiles.size >= 3
    for name in values:
        metric = Metric(name)
        if metric is Metric.RPS:
            errors[name] = values[name] / np.sqrt(count)
        elif metric is Metric.ERROR_RATE:
            share = values[name] / 100.0
            errors[name] = 100.0 * float(np.sqrt(share * (1 - share) / count))
        elif metric is Metric.AVG and enough:
            errors[name] = AUTOCORRELATION_FACTOR * table.standard_deviation() / np.sqrt(count)
        elif metric.quantile is not None and enough and metric.quantile < table.quantiles[-1]:
            errors[name] = _quantile_error(table, count, metric.quantile)
    return {name: float(error) for name, error in errors.items()}


def errors_assumed(count: int, values: Mapping[str, float]) -> dict[str, float]:
    """Standard errors of latencies where nothing but the value and the number of requests is known, in ms.

    As if latencies were exponential (their standard deviation is their mean), times `AUTOCORRELATION_FACTOR`: services
    scatter less as a rule, so this errs towards "cannot say".
    """
    errors: dict[str, float] = {}
    for name, value in values.items():
        metric = Metric(name)
        relative = 1.0 if metric is Metric.AVG else None
        if (q := metric.quantile) is not None:
            relative = float(np.sqrt(q / (1 - q)) / -np.log(1 - q))
        if relative is not None:
            errors[name] = AUTOCORRELATION_FACTOR * relative * value / float(np.sqrt(count))
    return errors


def _quantile_error(table: PercentileTable, count: int, q: float) -> float:
    rank_error = AUTOCORRELATION_FACTOR * float(np.sqrt(q * (1 - q) / count))
    return (table.at(min(q + rank_error, 1.0)) - table.at(max(q - rank_error, 0.0))) / 2.0
