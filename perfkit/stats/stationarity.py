"""What happened inside a run: its warm-up, drift, bursts of errors, silence, and requests that met no server.

The warm-up ends where the standard error of what remains is least (MSER; White 1997, doi:10.1177/003754979706900601),
at most a quarter of the run, and only where the part cut off differs from the rest beyond chance.  Drift is a straight
line through the means of time blocks whose error respects their correlation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import special

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats


BINS = 80
LEAST_BINS = 16
PER_BIN = 8.0  # requests: fewer give bins too noisy to see a warm-up in
LONGEST = 0.25  # share of the run that may be cut; a longer "warm-up" is a drift, not a warm-up
BLOCKS = 20
LEAST_PER_BLOCK = 5.0
WINDOWS = 40  # a burst is looked for in stretches of a fortieth of the run
BURST_FAILURES = 10  # fewer failures in a stretch are no burst
NO_SERVER = ("ConnectionRefusedError", "ConnectionResetError", "ConnectionError", "ConnectionAbortedError", "gaierror")
THRESHOLD = 4.0  # standard errors between the part cut off and the rest: a steady run is cut about once in a thousand


def warm_up_s(start_s: Floats, levels: Floats) -> float:
    """Seconds after the first start that are warm-up; 0 when the run is steady from the start or too small to tell.

    Parameters
    ----------
    start_s
        When each request began, seconds, shape ``(n_requests,)``.
    levels
        Log latency of each request relative to its own service, same shape: fast and slow services then speak alike.
    """
    bins = int(min(BINS, start_s.size / PER_BIN))
    if bins < LEAST_BINS:
        return 0.0
    begin = start_s.min()
    width = float(start_s.max() - begin) / bins
    if width == 0:
        return 0.0
    index = np.clip(((start_s - begin) / width).astype(np.intp), 0, bins - 1)
    counts = np.bincount(index, minlength=bins).astype(np.float64)
    sums = np.bincount(index, weights=levels, minlength=bins)
    if (counts == 0).any():
        return 0.0
    return width * max(_cut(sums / counts), _cut(np.sqrt(counts)))  # the root makes the spread of counts even


def _cut(series: Floats) -> int:
    """Number of leading values to drop."""
    n = series.size
    choices = np.arange(int(LONGEST * n) + 1)
    errors = [series[c:].var() / (n - c) for c in choices]
    cut = int(choices[int(np.argmin(errors))])
    if cut == 0:
        return 0
    rest = series[cut:]
    error = rest.std(ddof=1) * np.sqrt(1.0 / cut + 1.0 / rest.size)
    return cut if abs(series[:cut].mean() - rest.mean()) > THRESHOLD * error else 0


@dataclass(frozen=True, slots=True)
class Drift:
    """Change of latency from the beginning of the steady part to its end, percent, and its two-sided p."""

    change_pct: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Burst:
    """The stretch with the highest error rate: seconds after the start, error rate in it and outside, percent."""

    begin_s: float
    end_s: float
    error_rate_pct: float
    elsewhere_pct: float


@dataclass(frozen=True, slots=True)
class WithinRun:
    """What happened inside one run; ``None`` where there were too few requests to tell."""

    drift: Drift | None
    burst: Burst | None
    silence_s: float  # the longest time without an answer while requests were under way
    mean_gap_s: float  # between answers
    no_server: int | None  # requests that met no server; None where errors are not known by kind


def within_run(
    start_s: Floats, response_time_ms: Floats, failed: NDArray[np.bool_], levels: Floats, warm_up_s: float
) -> WithinRun:
    """Look inside a run; ``levels`` is log latency relative to each request's own service, all arrays ``(n,)``."""
    silence = gap = 0.0
    if start_s.size > 1:
        ends = start_s + response_time_ms / 1000.0
        order = np.argsort(ends)
        ends = ends[order]
        gap = float(np.diff(ends).mean())
        # Under way: some request that ended at or after the gap's end had begun before the gap had half passed.
        earliest_start = start_s[order][::-1]
        del order  # runs may have many millions of requests
        np.minimum.accumulate(earliest_start, out=earliest_start)
        waited = np.maximum(earliest_start[::-1][1:], ends[:-1])
        np.subtract(ends[1:], waited, out=waited)
        silence = max(float(waited.max()), 0.0)
    since = start_s.min() + warm_up_s if start_s.size else 0.0
    steady = (start_s >= since) & ~failed
    return WithinRun(drift_of(start_s[steady], levels[steady]), burst_of(start_s, failed), silence, gap, None)


def drift_of(start_s: Floats, levels: Floats) -> Drift | None:
    """Linear trend of the means of time blocks, ``None`` with too few requests.

    The slope's error is widened by the lag-1 correlation of the blocks (Santer et al. 2000, doi:10.1029/1999JD901105):
    queues remember, and a wave is no drift.  What is left is taken from a parabola, so that a drift that levels off
    does not hide itself.  (HAC errors, such as those of statsmodels, are too small with twenty blocks: at p = 0.001
    they call 0.9 % of independent and 9 % of AR(0.6) series, these 0.1 % and 5 %.)
    """
    blocks = int(min(BLOCKS, start_s.size / LEAST_PER_BLOCK))
    if blocks < BLOCKS or (length := float(np.ptp(start_s))) <= 0:
        return None
    index = np.minimum(((start_s - start_s.min()) / length * blocks).astype(np.intp), blocks - 1)
    counts = np.bincount(index, minlength=blocks)
    if (counts == 0).any():
        return None
    means = np.bincount(index, weights=levels, minlength=blocks) / counts
    at = (np.arange(blocks) + 0.5) / blocks
    centred = at - at.mean()
    slope = float(centred @ means / (centred @ centred))
    bend = centred**2 - (centred**2).mean()
    rest = means - means.mean() - slope * centred
    rest -= bend * float(bend @ rest / (bend @ bend))
    scatter = float(rest @ rest)
    if scatter == 0:
        return Drift(100 * math.expm1(slope), 0.0 if slope else 1.0)
    lag_one = min(max(float(rest[1:] @ rest[:-1]) / scatter, 0.0), 0.9)
    effective = max(blocks * (1 - lag_one) / (1 + lag_one), 4.0)
    error = math.sqrt(scatter / (effective - 2) / float(centred @ centred))
    p = 2 * float(special.stdtr(effective - 2, -abs(slope) / error))
    return Drift(100 * math.expm1(slope), p)


def burst_of(start_s: Floats, failed: NDArray[np.bool_]) -> Burst | None:
    """The stretch of time in which most requests failed, ``None`` without `BURST_FAILURES` failures in one stretch."""
    length = float(np.ptp(start_s)) if start_s.size else 0.0
    if not length or not failed.any():
        return None
    index = np.minimum(((start_s - start_s.min()) / length * WINDOWS).astype(np.intp), WINDOWS - 1)
    counts = np.bincount(index, minlength=WINDOWS)
    failures = np.bincount(index, weights=failed, minlength=WINDOWS)
    rates = np.where(failures >= BURST_FAILURES, failures / np.maximum(counts, 1), 0.0)
    peak = int(rates.argmax())
    if rates[peak] == 0:
        return None
    low = high = peak
    while low > 0 and rates[low - 1] >= rates[peak] / 2:
        low -= 1
    while high < WINDOWS - 1 and rates[high + 1] >= rates[peak] / 2:
        high += 1
    inside = slice(low, high + 1)
    others = int(counts.sum() - counts[inside].sum())
    elsewhere = 100.0 * float(failures.sum() - failures[inside].sum()) / others if others else math.nan
    rate = 100.0 * float(failures[inside].sum() / counts[inside].sum())
    return Burst(low * length / WINDOWS, (high + 1) * length / WINDOWS, rate, elsewhere)


def count_no_server(kinds: Sequence[str | None]) -> int:
    """How many of these errors, named as the recorder names them, mean that no server took the request."""
    return sum(kind is not None and kind.split(" ")[0] in NO_SERVER for kind in kinds)
