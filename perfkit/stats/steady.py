"""Where the steady part of a run begins: at first, connections are opened and users start together.

The cut is the one that minimises the standard error of what remains (MSER; White 1997, doi:10.1177/003754979706900601),
at most a quarter of the run, and only where the part cut off differs from the rest beyond chance.
"""

from __future__ import annotations

import numpy as np

from perfkit.stats.summary import Floats

BINS = 80
LEAST_BINS = 16
PER_BIN = 8.0  # requests: fewer give bins too noisy to see a warm-up in
LONGEST = 0.25  # share of the run that may be cut; a longer "warm-up" is a drift, not a warm-up
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
