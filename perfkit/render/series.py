"""From the requests of runs to the few hundred numbers that a chart draws.  No raw request leaves this module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.model import Run

Floats = NDArray[np.float64]

BEYOND = 10
"""A percentile is drawn when at least this many requests lie above it."""
# Binomial weights: a Gaussian with a standard deviation of 1.4 bins.
_KERNEL = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256.0
_WIDTHS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one service in one run, in order of start.

    ``elapsed_s`` counts from the first request of the run, whatever its service.
    """

    elapsed_s: Floats
    latency_ms: Floats
    failed: NDArray[np.bool_]
    ordered_ms: Floats  # the latencies again, ascending


def service_names(*sides: Sequence[Run]) -> tuple[str, ...]:
    """Every service of the runs, in the order in which they are first seen."""
    return tuple(dict.fromkeys(name for side in sides for run in side for name in run.services))


def requests_of(run: Run, service: str) -> Requests | None:
    """The requests of one service, or ``None`` when the run has none (an imported summary, another service)."""
    if run.load_requests is None:
        return None
    return _by_service(run.load_requests).get(service)


def requests_of_all(runs: Sequence[Run], service: str) -> tuple[Requests, ...]:
    """Of every run that has requests of the service, in the order of ``runs``."""
    found = (requests_of(run, service) for run in runs)
    return tuple(requests for requests in found if requests is not None)


# Several charts draw the same runs; reading and sorting them once is most of the time.
@lru_cache(maxsize=64)
def _by_service(load: Callable[[], pd.DataFrame]) -> dict[str, Requests]:
    frame = load().sort_values("start", kind="stable")
    frame = frame[np.isfinite(frame["response_time_ms"].to_numpy(dtype=float))]
    if frame.empty:
        return {}
    first = float(frame["start"].iloc[0])
    return {str(name): _requests(group, first) for name, group in frame.groupby("service", sort=False, observed=True)}


def _requests(frame: pd.DataFrame, first: float) -> Requests:
    latency = frame["response_time_ms"].to_numpy(dtype=float)
    return Requests(
        elapsed_s=frame["start"].to_numpy(dtype=float) - first,
        latency_ms=latency,
        failed=frame["failed"].to_numpy(dtype=bool),
        ordered_ms=np.sort(latency),
    )


def rounded(values: Any, digits: int = 4) -> list[float | None]:
    """Numbers for a chart: ``digits`` significant digits, ``None`` (a gap) for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def log_edges(samples: Sequence[Requests], bins: int) -> Floats:
    """Bin edges of equal width on a log axis, from the 0.05th to the 99.95th percentile of all samples.

    The outermost 0.1 % would stretch the axis for what nobody can see; `log_density` counts them in the end bins.
    """
    low = min(float(np.quantile(sample.ordered_ms, 0.0005)) for sample in samples)
    high = max(float(np.quantile(sample.ordered_ms, 0.9995)) for sample in samples)
    low, high = max(low, 1e-3), max(high, 2e-3)
    if high < low * 1.2:
        low, high = low / 1.1, low * 1.1
    return np.geomspace(low, high, bins + 1)


def log_density(sample: Requests, edges: Floats) -> Floats:
    """Share of requests in percent per bin, smoothed over its neighbours, one value per bin."""
    inside = np.clip(sample.ordered_ms, edges[0], edges[-1])
    share = np.histogram(inside, bins=edges)[0] / len(inside) * 100.0
    padded = np.pad(share, len(_KERNEL) // 2, mode="reflect")
    smooth: Floats = np.convolve(padded, _KERNEL, mode="valid")
    return smooth


def quantiles(sample: Requests, levels: Floats, beyond: int = BEYOND) -> Floats:
    """Exact quantiles (linear between order statistics); ``nan`` where fewer than ``beyond`` requests lie above."""
    values = np.quantile(sample.ordered_ms, levels)
    return np.where(len(sample.ordered_ms) * (1.0 - levels) >= beyond, values, np.nan)


def pooled(samples: Sequence[Requests]) -> Requests:
    """All requests of several runs as one sample; only its order statistics have a meaning."""
    latency = np.concatenate([sample.latency_ms for sample in samples])
    return Requests(
        elapsed_s=np.concatenate([sample.elapsed_s for sample in samples]),
        latency_ms=latency,
        failed=np.concatenate([sample.failed for sample in samples]),
        ordered_ms=np.sort(latency),
    )


def bin_width(samples: Sequence[Requests], most: int) -> int:
    """Whole seconds per point of a time course, so that the longest run has at most about ``most`` points."""
    longest = max(float(sample.elapsed_s[-1]) for sample in samples)
    return next((width for width in _WIDTHS if longest / width <= most), _WIDTHS[-1])


def course(sample: Requests, width: int, length: int) -> dict[str, Floats]:
    """Throughput (1/s), p50 and p95 (ms) and errors (%) in each of ``length`` bins of ``width`` seconds.

    A bin without requests has throughput 0 and no latency; a percentile needs 5 requests, a p95 needs 20.
    """
    index = (sample.elapsed_s / width).astype(np.int64)
    keep = index < length
    index, latency = index[keep], sample.latency_ms[keep]
    count = np.bincount(index, minlength=length).astype(float)
    failures = np.bincount(index, weights=sample.failed[keep], minlength=length)
    ordered = latency[np.lexsort((latency, index))]
    ends = np.cumsum(count).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = failures / count * 100.0
    return {
        "rps": count / width,
        "p50": _bin_quantile(ordered, ends, count, 0.5, 5),
        "p95": _bin_quantile(ordered, ends, count, 0.95, 20),
        "errors": errors,
    }


def _bin_quantile(ordered: Floats, ends: NDArray[np.int64], count: Floats, level: float, least: int) -> Floats:
    if ordered.size == 0:
        return np.full(len(count), np.nan)
    rank = ends - count.astype(np.int64) + np.maximum(np.ceil(count * level).astype(np.int64) - 1, 0)
    values = ordered[np.minimum(rank, ordered.size - 1)]
    return np.where(count >= least, values, np.nan)


def whole_bins(samples: Sequence[Requests], width: int) -> int:
    """Number of bins that the median run fills to the end."""
    return max(1, int(np.median([sample.elapsed_s[-1] for sample in samples]) // width))


def spread(rows: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Lowest, median and highest over runs at each point; ``nan`` where no run has a value."""
    table = np.vstack(rows)
    empty = np.isnan(table).all(axis=0)
    filled = np.where(empty, 0.0, table)
    bounds = (np.nanmin(filled, axis=0), np.nanmedian(filled, axis=0), np.nanmax(filled, axis=0))
    low, middle, high = (np.where(empty, np.nan, bound) for bound in bounds)
    return low, middle, high
