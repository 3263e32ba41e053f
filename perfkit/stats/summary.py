"""Requests of one run and service -> metrics, each with its standard error within the run.

Percentiles are exact order statistics with linear interpolation (Hyndman & Fan type 7, NumPy's default,
doi:10.1080/00031305.1996.10473566).  Requests that follow each other are not independent (they share queues), so
standard errors come from time blocks much longer than a queue's memory (batch means; Law 2015, Simulation Modeling and
Analysis, section 9.5.3), never from the number of requests alone: over 18 sets of identical real runs this foretold how
much the runs scatter among themselves to within a third, but for those whose slow waves persist, which the exponent of
their spectrum tells (`persistence_of`).  Where a source has no single
requests, errors come from its time series (`time_series_errors`), its table of percentiles (`errors_from_percentiles`)
or an assumption (`errors_assumed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfkit.model.records import Metric, ServiceStats, Tail

Floats = NDArray[np.float64]

BLOCKS = 20  # time blocks per run: enough for a variance, long enough to hold the autocorrelation of a queue
MIN_PER_BLOCK = 5.0  # below this many requests per block, fewer blocks are used


@dataclass(frozen=True, slots=True)
class RequestArrays:
    """The requests of one service in one run; all arrays have shape ``(n_requests,)``."""

    start_s: Floats
    response_time_ms: Floats
    failed: NDArray[np.bool_]
    response_bytes: float | None = None


def requests_needed_for(quantile: float) -> int:
    """Requests that a percentile must have behind it, so that a 95 % interval for it ends inside the sample.

    The largest of n values lies below the q-quantile with probability q^n; that must be at most 2.5 % on either side
    (David & Nagaraja, Order Statistics, 2003, section 7.1).

    >>> [requests_needed_for(q) for q in (0.5, 0.95, 0.99, 0.999)]
    [6, 72, 368, 3688]
    """
    return int(np.ceil(np.log(0.025) / np.log(max(quantile, 1.0 - quantile))))


def summarise(requests: RequestArrays, begin_s: float, end_s: float) -> ServiceStats:
    """Counts and error rate of one service from all its requests; latencies and rate from ``begin_s`` to ``end_s``.

    Failed requests count in the latencies, as they do in Locust.  A percentile with too few requests behind it is
    ``None`` with a warning.
    """
    total, size = int(requests.response_time_ms.size), requests.response_bytes
    failures = int(np.count_nonzero(requests.failed))
    duration = end_s - begin_s
    if total == 0:
        return ServiceStats(0, 0, rps=0.0 if duration > 0 else None)
    failed_error = _Blocks.of(requests.start_s, float(requests.start_s.min())).error_of_mean(
        requests.failed.astype(np.float64)
    )
    if requests.start_s.min() < begin_s:
        kept = requests.start_s >= begin_s
        requests = RequestArrays(requests.start_s[kept], requests.response_time_ms[kept], requests.failed[kept])
    count = int(requests.response_time_ms.size)
    if count == 0:
        only_early = ("called during the warm-up only",)
        return ServiceStats(total, failures, error_rate_pct=100.0 * failures / total, warnings=only_early)
    order = np.sort(requests.response_time_ms)
    blocks = _Blocks.of(requests.start_s, begin_s)
    values: dict[Metric, float] = {}
    errors: dict[Metric, float] = {}
    warnings = []
    for metric in Metric:
        if metric.quantile is None:
            continue
        needed = requests_needed_for(metric.quantile)
        if count < needed:
            noun = "request" if count == 1 else "requests"
            warnings.append(f"{metric.title} withheld: {count} {noun}, it needs {needed}")
            continue
        q, values[metric] = metric.quantile, float(np.quantile(order, metric.quantile))
        rank_error = blocks.error_of_mean((requests.response_time_ms <= values[metric]).astype(np.float64))
        low, high = woodruff(order, q, max(rank_error, float(np.sqrt(q * (1 - q) / count))))
        errors[metric] = (high - low) / 2.0
    values[Metric.AVG] = float(order.mean())
    errors[Metric.AVG] = blocks.error_of_mean(requests.response_time_ms)
    values[Metric.ERROR_RATE] = 100.0 * failures / total
    errors[Metric.ERROR_RATE] = 100.0 * failed_error
    if duration > 0 and count > 1:  # one request has no rate
        values[Metric.RPS] = count / duration
        errors[Metric.RPS] = blocks.error_of_count(count) / duration
    named: dict[str, Any] = {metric.value: value for metric, value in values.items()}
    return ServiceStats(
        total,
        failures,
        **named,
        standard_errors={metric.value: error for metric, error in errors.items() if np.isfinite(error)},
        persistence=_persistence(requests, begin_s),
        tail=_tail(requests, order, blocks),
        response_bytes=size,
        warnings=tuple(warnings),
    )


def _tail(requests: RequestArrays, order: Floats, blocks: _Blocks) -> Tail | None:
    """Of so many requests as p95 needs; ``order`` are the sorted latencies, which `numpy.quantile` would sort again."""
    count = order.size
    if count < requests_needed_for(Tail.QUANTILES[0]):
        return None
    ranks = np.array(Tail.QUANTILES) * (count - 1)
    below = ranks.astype(np.intp)
    latencies = order[below] + (ranks - below) * (order[np.minimum(below + 1, count - 1)] - order[below])
    slow = (requests.response_time_ms > latencies[Tail.QUANTILES.index(0.995)]).astype(np.float64)
    share = float(slow.mean())
    independent = share * (1.0 - share) / count
    dispersion = max(blocks.error_of_mean(slow) ** 2 / independent, 1.0) if independent else 1.0
    return Tail(count, tuple(round(float(value), 4) for value in latencies), round(dispersion, 3))


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Equal stretches of time; ``index`` says in which one each request started."""

    index: NDArray[np.intp]
    sizes: Floats

    @classmethod
    def of(cls, start_s: Floats, begin_s: float, blocks: int = BLOCKS) -> _Blocks:
        """From ``begin_s`` to the last start: after it, only answers come in, and no block may be empty for that."""
        most = int(np.clip(start_s.size / MIN_PER_BLOCK, 1, blocks))
        width = max(float(start_s.max()) - begin_s, 1e-9) / most
        index = np.clip(((start_s - begin_s) / width).astype(np.intp), 0, most - 1)
        return cls(index, np.bincount(index, minlength=most).astype(np.float64))

    def error_of_mean(self, values: Floats) -> float:
        """Standard error of the mean of ``values``: a ratio estimate over blocks, never below independence."""
        count = values.size
        mean = float(values.mean())
        independent = float(values.std(ddof=1)) / np.sqrt(count) if count > 1 else float("nan")
        if self.sizes.size < 4:
            return float(independent)
        variance = variance_of_sum(self.residuals(values, mean))
        return float(max(np.sqrt(variance) / count, independent))

    def residuals(self, values: Floats, mean: float) -> Floats:
        """How much the sum of each block exceeds what its size lets expect."""
        sums = np.bincount(self.index, weights=values, minlength=self.sizes.size)
        out: Floats = sums - mean * self.sizes
        return out

    def error_of_count(self, count: int) -> float:
        """Standard error of a number of requests: from the blocks, and at least Poisson."""
        if self.sizes.size < 4:
            return float(np.sqrt(count))
        return float(np.sqrt(max(variance_of_sum(self.sizes - self.sizes.mean()), count)))


def variance_of_sum(residuals: Floats, least: float = 1.0) -> float:
    """Variance of the sum of block residuals, with the lag-1 correlation between neighbouring blocks added.

    The estimate of that is noisy, so that at least so much of the variance stays.
    """
    n = residuals.size
    variance = float(residuals @ residuals) * n / (n - 1)
    return max(variance + 2.0 * float(residuals[:-1] @ residuals[1:]), least * variance)


WAVES = 40  # time blocks whose spectrum is looked at
PERSISTENCE_ERROR = 0.31  # standard error of the exponent of so many independent blocks (simulated)
_EXPONENTS = np.linspace(-1.0, 1.5, 101)


def persistence_of(residuals: Floats) -> float | None:
    """Exponent b of a power spectrum ``1 / f^b`` of block residuals; ``None`` of fewer than `WAVES`.

    0: blocks are independent.  Above it: slow waves, of which a run sees a part only, so that runs scatter more among
    themselves than each foretells; 1 for noise that is as large over a week as over a minute.  Local Whittle estimate
    (Robinson 1995, doi:10.1214/aos/1176324317) from all frequencies.
    """
    if residuals.size < WAVES or not residuals.any():
        return None
    power = np.abs(np.fft.rfft(residuals)[1:]) ** 2
    logs = np.log(np.arange(1, power.size + 1))
    misfits = np.log(np.exp(np.outer(_EXPONENTS, logs)) @ power) - _EXPONENTS * logs.mean()
    return round(float(_EXPONENTS[int(misfits.argmin())]), 3)


def _persistence(requests: RequestArrays, begin_s: float) -> float | None:
    """Of the latencies of one service."""
    blocks, mean = _Blocks.of(requests.start_s, begin_s, WAVES), float(requests.response_time_ms.mean())
    return persistence_of(blocks.residuals(requests.response_time_ms, mean))


def woodruff(values: Floats, q: float, rank_error: float) -> tuple[float, float]:
    """A quantile less and plus a standard error, from that of its rank (doi:10.1080/01621459.1952.10483443)."""
    low, high = np.quantile(values, [max(q - rank_error, 0.0), min(q + rank_error, 1.0)])
    return float(low), float(high)


BATCHES = 20  # long enough to outlast the memory of a saturated closed loop (means of 10 s in runs of 600 s)
LEAST_BATCHES = 4
START_CUT = 0.1  # share of the run left out here: users start together, which is no noise
LEAST_LEFT = 0.4  # of a variance: neighbouring batches of a closed loop correlate negatively as often as not
LEAST_PER_BATCH = 5.0  # requests
LINES_PER_WAVE = 3  # of the history file: what is interpolated between two looks as persistent as can be


@dataclass(frozen=True, slots=True)
class TimeSeriesErrors:
    """Standard errors of a whole run's average latency and request rate, as shares of their values.

    ``persistence`` is that of the latency (`persistence_of`); ``None`` where the course is too short or too coarse.
    """

    average: float | None
    rate: float
    persistence: float | None = None


def time_series_errors(at_s: Floats, counts: Floats, averages_ms: Floats | None) -> TimeSeriesErrors | None:
    """Errors from batches of time; ``None`` where the run is too short to tell.

    Parameters
    ----------
    at_s
        When the state was written down, seconds, ascending, shape ``(n,)``.
    counts
        Requests from the beginning until then, same shape, never falling.
    averages_ms
        Average latency from the beginning until then, same shape; ``None`` when it is not known well enough.
    """
    seen = np.flatnonzero(counts > 0)
    if seen.size < LEAST_BATCHES + 1:
        return None
    at_s, counts = at_s[seen[0] :], counts[seen[0] :]
    begin = at_s[0] + START_CUT * (at_s[-1] - at_s[0])
    batches = int(min(BATCHES, seen.size - 1, (counts[-1] - counts[0]) / LEAST_PER_BATCH))
    if batches < LEAST_BATCHES or at_s[-1] <= begin:
        return None

    def per_batch(totals: Floats, batches: int) -> Floats:
        out: Floats = np.diff(np.interp(np.linspace(begin, at_s[-1], batches + 1), at_s, totals))
        return out

    sizes = per_batch(counts, batches)
    total = float(sizes.sum())
    if total <= 0:
        return None
    # A closed loop answers at a steadier pace than independent arrivals would: no Poisson floor here.
    rate = float(np.sqrt(variance_of_sum(sizes - sizes.mean(), LEAST_LEFT)) / total)
    if averages_ms is None:
        return TimeSeriesErrors(None, rate)
    spent = counts * averages_ms[seen[0] :]
    sums = per_batch(spent, batches)
    weight = float(sums.sum())
    if weight <= 0:
        return TimeSeriesErrors(None, rate)
    average = float(np.sqrt(variance_of_sum(sums - weight / total * sizes, LEAST_LEFT)) / weight)
    if at_s.size < LINES_PER_WAVE * WAVES or counts[-1] - counts[0] < LEAST_PER_BATCH * WAVES:
        return TimeSeriesErrors(average, rate)
    waves = per_batch(spent, WAVES) - weight / total * per_batch(counts, WAVES)
    return TimeSeriesErrors(average, rate, persistence_of(waves))


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
            q = metric.quantile
            rank_error = AUTOCORRELATION_FACTOR * float(np.sqrt(q * (1 - q) / count))
            errors[name] = (table.at(min(q + rank_error, 1.0)) - table.at(max(q - rank_error, 0.0))) / 2.0
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


UNIT = 1000.0  # between seconds and milliseconds, milliseconds and microseconds ...
UNIT_WITHIN = 2.0  # ... within this factor, for the build may have changed too


def unit_factor(factors: Sequence[float]) -> float | None:
    """The mean of factors that are alike and about `UNIT`, or about its inverse; ``None`` for any others.

    >>> unit_factor([0.001, 0.0011]), unit_factor([0.001, 0.9])
    (0.00105, None)
    """
    if not factors or not 0.0 < min(factors) <= max(factors) <= UNIT_WITHIN * min(factors):
        return None
    factor = fmean(factors)
    return factor if 1 / UNIT_WITHIN <= max(factor, 1 / factor) / UNIT <= UNIT_WITHIN else None
