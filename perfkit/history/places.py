"""Where else the change of a series may have been: places that its values do not tell from the one that was found."""

from __future__ import annotations

import math

import numpy as np

from perfkit.stats.changepoints import Segmentation
from perfkit.stats.summary import Floats

# The likelihood ratio of the true place of a step against the likeliest one is at most x with (1 - exp(-x / 2))^2
# (Eo & Morley 2015, doi:10.3982/QE186).  Of the many series of an event not one in a hundred shall stand apart
_RATIO = -2.0 * math.log(1.0 - math.sqrt(0.999))
_LEAST = 4  # values on both sides together, without which nothing can be said


def possible_places(values: Floats, found: Segmentation, number: int) -> tuple[int, int]:
    """The first and the last index at which a change may as well have been.

    Parameters
    ----------
    values
        Of the series, shape ``(n_runs,)``, ``NaN`` where there is none.
    found
        What the series is made of; its outliers take no part, and its correlation widens the range.
    number
        Of the change.
    """
    at = found.changes[number].index
    begin = found.changes[number - 1].index if number else 0
    end = found.changes[number + 1].index if number + 1 < len(found.changes) else len(values)
    kept = np.setdiff1d(np.arange(begin, end)[~np.isnan(values[begin:end])], found.outliers)
    if kept.size < _LEAST:
        return at, at
    plain = values[kept]
    left = _squares(np.log(plain) if (plain > 0).all() else plain)
    own = min(max(int(np.searchsorted(kept, at)), 1), kept.size - 1) - 1
    variance = left[own] / (kept.size - 2)
    if variance <= 0.0:
        return at, at
    widened = (1.0 + found.correlation) / (1.0 - found.correlation)
    possible = np.nonzero((left - left[own]) / variance / widened <= _RATIO)[0]
    return min(at, int(kept[possible[0] + 1])), max(at, int(kept[possible[-1] + 1]))


def _squares(values: Floats) -> Floats:
    """What two levels leave of the squares, for each place of the step: from the second value to the last."""
    centred = values - values.mean()
    sums, n = np.cumsum(centred)[:-1], values.size
    first = np.arange(1, n)
    left: Floats = np.sum(centred**2) - sums**2 / first - sums**2 / (n - first)
    return np.maximum(left, 0.0)
