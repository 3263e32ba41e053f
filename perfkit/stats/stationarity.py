"""What happened inside a run: its warm-up, drift, bursts of errors, silence, and requests that met no server.

The warm-up ends where the standard error of what remains is least (MSER; White 1997, doi:10.1177/003754979706900601),
at most a quarter of the run, and only where the part cut off differs from the rest beyond chance.  Drift is a straight
line through the means of time blocks whose error respects their correlation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfkit.stats.streams import Floats, Parts, Stretches, Totals, after, ends_s, in_order

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


def warm_up_s(parts: Parts, totals: Totals) -> float:
    """Seconds after the first start that are warm-up; 0 when the run is steady from the start or too small to tell."""
    bins = int(min(BINS, totals.counts.sum() / PER_BIN))
    if bins < LEAST_BINS:
        return 0.0
    course = Stretches(totals.begin_s, float(totals.last_s.max()), bins)
    for part in parts():
        course.add(part.start_s, totals.levels(part))
    if (course.counts == 0).any():
        return 0.0
    spread = np.sqrt(course.counts)  # the root makes the spread of counts even
    return course.length_s / bins * max(_cut(course.sums / course.counts), _cut(spread))


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


def within_run(parts: Parts, totals: Totals, warm_up_s: float) -> WithinRun:
    """Look inside a run."""
    count, since = int(totals.counts.sum()), totals.begin_s + warm_up_s
    first, last, answered = np.inf, -np.inf, 0
    failures = Stretches(totals.begin_s, float(totals.last_s.max(initial=-np.inf)), WINDOWS)
    for part in parts():
        failures.add(part.start_s, part.failed)
        steady = part.start_s[(part.start_s >= since) & ~part.failed]
        answered += steady.size
        first, last = float(steady.min(initial=first)), float(steady.max(initial=last))
    course = Stretches(first, last, BLOCKS if answered / LEAST_PER_BLOCK >= BLOCKS else 0)
    for part in parts() if course.counts.size else ():
        steady = (part.start_s >= since) & ~part.failed
        course.add(part.start_s[steady], totals.levels(part)[steady])
    gap = (totals.end_s - float(totals.part_ends_s.min())) / (count - 1) if count > 1 else 0.0
    return WithinRun(drift_of(course), burst_of(failures), _silence(parts, totals), gap, None)


def _silence(parts: Parts, totals: Totals) -> float:
    """The longest time without an answer while requests were under way.

    Under way: some request that ended at or after the gap's end had begun before the gap had half passed.
    """
    longest, before = 0.0, -np.inf  # the last answer so far
    in_time = in_order(parts, lambda part: (ends_s(part), part.start_s), totals.part_ends_s)
    for ((ends, starts), (_, waiting)), later in zip(in_time, after(totals.part_starts_s), strict=True):
        if not ends.size:
            continue
        order = np.argsort(ends)
        ends, since = ends[order], starts[order][::-1]
        since[0] = min(since[0], waiting.min(initial=later))
        np.minimum.accumulate(since, out=since)
        previous = np.append(before, ends[:-1])
        waited = ends - np.maximum(since[::-1], previous)
        longest = max(longest, float(waited[1 if before == -np.inf else 0 :].max(initial=0.0)))
        before = float(ends[-1])
    return longest


def drift_of(course: Stretches) -> Drift | None:
    """Linear trend of the mean levels of stretches of time, ``None`` with too few requests.

    The slope's error is widened by the lag-1 correlation of the blocks (Santer et al. 2000, doi:10.1029/1999JD901105):
    queues remember, and a wave is no drift.  What is left is taken from a parabola, so that a drift that levels off
    does not hide itself.  (HAC errors, such as those of statsmodels, are too small with twenty blocks: at p = 0.001
    they call 0.9 % of independent and 9 % of AR(0.6) series, these 0.1 % and 5 %.)
    """
    blocks = course.counts.size
    if not blocks or (course.counts == 0).any():
        return None
    means = course.sums / course.counts
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
    from scipy.special import stdtr  # here: lists of runs, which load this file, do without it

    p = 2 * float(stdtr(effective - 2, -abs(slope) / error))
    return Drift(100 * math.expm1(slope), p)


def burst_of(course: Stretches) -> Burst | None:
    """The stretch of time in which most requests failed, ``None`` without `BURST_FAILURES` failures in one stretch."""
    counts, failures, length = course.counts, course.sums, course.length_s
    if not failures.any():
        return None
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
