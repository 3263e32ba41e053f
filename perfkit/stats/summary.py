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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfkit.model.records import Metric, ServiceStats, Tail
from perfkit.stats.streams import Floats as Floats
from perfkit.stats.streams import Part, Parts, Totals

BLOCKS = 20  # time blocks per run: enough for a variance, long enough to hold the autocorrelation of a queue
MIN_PER_BLOCK = 5.0  # below this many requests per block, fewer blocks are used


@dataclass(frozen=True, slots=True)
class RequestArrays:
    """The requests of one service in one run; all arrays have shape ``(n_requests,)``."""

    start_s: Floats
    response_time_ms: Floats
    failed: NDArray[np.bool_]


def requests_needed_for(quantile: float) -> int:
    """Requests that a percentile must have behind it, so that a 95 % interval for it ends inside the sample.

    The largest of n values lies below the q-quantile with probability q^n; that must be at most 2.5 % on either side
    (David & Nagaraja, Order Statistics, 2003, section 7.1).

    >>> [requests_needed_for(q) for q in (0.5, 0.95, 0.99, 0.999)]
    [6, 72, 368, 3688]
    """
    return int(np.ceil(np.log(0.025) / np.log(max(quantile, 1.0 - quantile))))


def summarise(parts: Parts, totals: Totals, begin_s: float, end_s: float) -> list[ServiceStats]:
    """Of each service: counts and error rate from all its requests; latencies and rate from ``begin_s`` to ``end_s``.

    Failed requests count in the latencies, as they do in Locust.  A percentile with too few requests behind it is
    ``None`` with a warning.  Eight bytes are held of each request, its time, for percentiles are exact.
    """
    services = totals.counts.size
    places = np.append(0, np.cumsum(totals.counts))
    filled = places[:-1].copy()
    times = np.empty(places[-1])
    all_blocks = _Blocks(totals.counts, totals.first_s, totals.last_s)
    for part in parts():
        all_blocks.add(part, part.failed)
        part_codes, part_times = _since(begin_s, part)[1:]
        sizes = np.bincount(part_codes, minlength=services)
        # few services have short codes, which are sorted in linear time
        by_service = part_times[np.argsort(part_codes.astype(np.min_scalar_type(services)), kind="stable")]
        for code, own in enumerate(np.split(by_service, np.cumsum(sizes)[:-1])[:services]):
            times[filled[code] : filled[code] + own.size] = own
        filled += sizes
    ordered = [times[begin:end] for begin, end in zip(places, filled, strict=False)]
    for own in ordered:
        own.sort()
    kept = filled - places[:-1]
    nothing = [np.inf] * len(_QUANTILES)
    quantiles = np.array([[quantile_of(own, q) for q in _QUANTILES] if own.size else nothing for own in ordered])
    quantiles = quantiles.reshape(services, len(_QUANTILES))
    blocks = _Blocks(kept, np.full(services, begin_s), totals.last_s, ranks=len(_QUANTILES) + 1)
    waves = _Blocks(kept, np.full(services, begin_s), totals.last_s, blocks=WAVES)
    for part in parts():
        start_s, codes, part_times = _since(begin_s, part)
        rank = np.zeros(codes.size, np.intp)  # the number of quantiles that lie below it
        for column in range(len(_QUANTILES)):
            rank += part_times > quantiles[codes, column]
        blocks.add_rows(start_s, codes, part_times, rank)
        waves.add_rows(start_s, codes, part_times)
    return [
        _stats(
            (int(totals.counts[code]), int(totals.failures[code])),
            ordered[code],
            quantiles[code],
            (all_blocks.of(code), blocks.of(code), waves.of(code)),
            end_s - begin_s,
        )
        for code in range(services)
    ]


SLOW = 0.995  # quantile above which requests are the tail
_PERCENTILES = {metric: metric.quantile for metric in Metric if metric.quantile is not None}
_QUANTILES = sorted({SLOW, *_PERCENTILES.values()})


def _since(begin_s: float, part: Part) -> tuple[Floats, Any, Floats]:
    """Starts, services and times of the requests that began then or later."""
    rows = part.start_s >= begin_s
    if rows.all():
        return part.start_s, part.codes, part.response_time_ms
    return part.start_s[rows], part.codes[rows], part.response_time_ms[rows]


def _stats(
    counted: tuple[int, int], order: Floats, quantiles: Floats, blocks: tuple[_Sums, _Sums, _Sums], duration: float
) -> ServiceStats:
    """Of one service: all its requests and failures, its sorted steady times, and sums over blocks of time.

    The blocks: of failures from its first request on, of times in the steady part, and of times in `WAVES`.
    """
    total, failures = counted
    if total == 0:
        return ServiceStats(0, 0, rps=0.0 if duration > 0 else None)
    of_failures, steady, waves = blocks
    failed_error = of_failures.error_of_mean(total, failures / total)
    count = int(order.size)
    if count == 0:
        only_early = ("called during the warm-up only",)
        return ServiceStats(total, failures, error_rate_pct=100.0 * failures / total, warnings=only_early)
    values: dict[Metric, float] = {}
    errors: dict[Metric, float] = {}
    warnings = []
    below = steady.ranks.cumsum(axis=1)  # requests of each block that are not above each quantile
    for metric, q in _PERCENTILES.items():
        needed = requests_needed_for(q)
        if count < needed:
            noun = "request" if count == 1 else "requests"
            warnings.append(f"{metric.title} withheld: {count} {noun}, it needs {needed}")
            continue
        column = _QUANTILES.index(q)
        values[metric] = float(quantiles[column])
        own = below[:, column].astype(np.float64)
        rank_error = replace(steady, sums=own).error_of_mean(count, float(own.sum()) / count)
        rank_error = max(rank_error, float(np.sqrt(q * (1 - q) / count)))
        low, high = woodruff(order, q, rank_error)
        errors[metric] = (high - low) / 2.0
    mean = values[Metric.AVG] = float(order.mean())
    errors[Metric.AVG] = steady.error_of_mean(count, mean, _scatter(order, mean))
    values[Metric.ERROR_RATE] = 100.0 * failures / total
    errors[Metric.ERROR_RATE] = 100.0 * failed_error
    if duration > 0 and count > 1:  # one request has no rate
        values[Metric.RPS] = count / duration
        errors[Metric.RPS] = steady.error_of_count(count) / duration
    named: dict[str, Any] = {metric.value: value for metric, value in values.items()}
    return ServiceStats(
        total,
        failures,
        **named,
        standard_errors={metric.value: error for metric, error in errors.items() if np.isfinite(error)},
        persistence=persistence_of(waves.residuals(mean)),
        tail=_tail(order, steady, below[:, _QUANTILES.index(SLOW)]),
        warnings=tuple(warnings),
    )


def runs_enough(tails: Sequence[Tail], quantile: float) -> int | None:
    """How many runs like these tell a quantile >= 0.95 together, and how much larger another is; ``None``: none do."""
    requests = sum(tail.requests for tail in tails)
    if not requests or not all(tail.latencies_ms[0] > 0 for tail in tails):
        return None
    return math.ceil(requests_needed_for(quantile) * len(tails) / requests)


def _tail(order: Floats, blocks: _Sums, not_slow: Any) -> Tail | None:
    """Of so many requests as p95 needs; ``not_slow``: how many of each block are up to the quantile `SLOW`."""
    count = order.size
    if count < requests_needed_for(Tail.QUANTILES[0]):
        return None
    latencies = tuple(round(quantile_of(order, q), 4) for q in Tail.QUANTILES)
    share = 1.0 - int(not_slow.sum()) / count
    independent = share * (1.0 - share) / count
    error = replace(blocks, sums=not_slow.astype(np.float64)).error_of_mean(count, 1.0 - share)
    return Tail(count, latencies, round(max(error**2 / independent, 1.0) if independent > 0 else 1.0, 3))


def quantile_of(order: Floats, q: float) -> float:
    """A quantile of sorted values, as ``np.quantile`` has it, without its copy."""
    place = (order.size - 1) * q
    low = int(place)
    share, one, next_one = place - low, float(order[low]), float(order[min(low + 1, order.size - 1)])
    return next_one - (next_one - one) * (1 - share) if share >= 0.5 else one + (next_one - one) * share


def _scatter(values: Floats, mean: float) -> float:
    """Sum of squared distances from the mean, with a megabyte of memory.

    Not by ``@``: of long vectors its last digit depends on how many threads the linear algebra library has.
    """
    pieces = (values[begin : begin + 2**17] - mean for begin in range(0, values.size, 2**17))
    return float(sum(float(np.square(piece).sum()) for piece in pieces))


@dataclass(frozen=True, slots=True)
class _Sums:
    """Over the time blocks of one service: number of requests, sum of their values, and how many have each rank."""

    sizes: Floats
    sums: Floats
    ranks: Any

    def error_of_mean(self, count: int, mean: float, scatter: float | None = None) -> float:
        """Standard error of a mean: a ratio estimate over blocks, never below independence.

        ``scatter``: sum of squared distances from it; of values 0 and 1 it follows from the mean.
        """
        scatter = count * mean * (1 - mean) if scatter is None else scatter
        independent = float(np.sqrt(scatter / (count - 1) / count)) if count > 1 else float("nan")
        if self.sizes.size < 4:
            return independent
        return float(max(np.sqrt(variance_of_sum(self.residuals(mean))) / count, independent))

    def residuals(self, mean: float) -> Floats:
        """How much the sum of each block exceeds what its size lets expect."""
        return self.sums - mean * self.sizes

    def error_of_count(self, count: int) -> float:
        """Standard error of a number of requests: from the blocks, and at least Poisson."""
        if self.sizes.size < 4:
            return float(np.sqrt(count))
        return float(np.sqrt(max(variance_of_sum(self.sizes - self.sizes.mean()), count)))


class _Blocks:
    """Equal stretches of time of each service, to its last start: after it, only answers come in, and no block may be
    empty for that."""

    def __init__(self, counts: Any, begin_s: Floats, last_s: Floats, *, blocks: int = BLOCKS, ranks: int = 1) -> None:
        self._begin_s, self._most, self._ranks = begin_s, blocks, ranks
        self._number = np.clip(counts / MIN_PER_BLOCK, 1, blocks).astype(np.intp)
        self._width_s = np.maximum(last_s - begin_s, 1e-9) / self._number
        self._counts = np.zeros(counts.size * blocks * ranks, np.intp)
        self._sums = np.zeros(counts.size * blocks)

    def add(self, part: Part, values: Any) -> None:
        """The values of a part, one of each request."""
        self.add_rows(part.start_s, part.codes, values)

    def add_rows(self, start_s: Floats, codes: Any, values: Any, rank: Any = 0) -> None:
        """The same, of some of its rows."""
        index = ((start_s - self._begin_s[codes]) / self._width_s[codes]).astype(np.intp)
        np.minimum(np.maximum(index, 0, out=index), self._number[codes] - 1, out=index)
        index += codes.astype(np.intp) * self._most
        self._sums += np.bincount(index, weights=values, minlength=self._sums.size)
        self._counts += np.bincount(index * self._ranks + rank, minlength=self._counts.size)

    def of(self, code: int) -> _Sums:
        """Those of one service."""
        number = self._number[code]
        ranks = self._counts.reshape(-1, self._most, self._ranks)[code, :number]
        sums = self._sums.reshape(-1, self._most)[code, :number]
        return _Sums(ranks.sum(axis=1).astype(np.float64), sums, ranks)


def variance_of_sum(residuals: Floats, least: float = 1.0) -> float:
    """Variance of the sum of block residuals, with the lag-1 correlation between neighbouring blocks added.

    The estimate of that is noisy, so that at least so much of the variance stays.
    """
    n = residuals.size
    variance = float((residuals * residuals).sum()) * n / (n - 1)  # @ depends on where in memory they lie
    return max(variance + 2.0 * float((residuals[:-1] * residuals[1:]).sum()), least * variance)


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


def woodruff(order: Floats, q: float, rank_error: float) -> tuple[float, float]:
    """A quantile of sorted values less and plus a standard error, from that of its rank.

    Woodruff 1952, doi:10.1080/01621459.1952.10483443.
    """
    return quantile_of(order, max(q - rank_error, 0.0)), quantile_of(order, min(q + rank_error, 1.0))


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
    least, most = min(factors, default=0.0), max(factors, default=0.0)
    is_usual = least > UNIT_WITHIN / UNIT and most < UNIT / UNIT_WITHIN
    if is_usual or not 0.0 < least <= most <= UNIT_WITHIN * least:
        return None
    factor = fmean(factors)
    return factor if 1 / UNIT_WITHIN <= max(factor, 1 / factor) / UNIT <= UNIT_WITHIN else None
