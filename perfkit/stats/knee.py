"""The knee: the load at which throughput stops following it, as the break of a line of two straight parts.

Up to the knee throughput is proportional to the load; beyond it the slope is another one, near zero where a resource is
busy all the time.  That is where the two asymptotes of a closed system meet (Denning & Buzen 1978,
doi:10.1145/356733.356735).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit.stats.summary import Floats

LEAST_WINDOWS = 12
AT_THE_EDGE = 4  # windows that each part of the line must have
PLACES = 80  # loads at which a break is tried
STILL_FOLLOWS = 0.5  # of the first slope: from here on throughput is said to follow the load no more
SURELY = 0.75  # of the first slope, which the second may not exceed at 97.5 % confidence


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """Breaks of one curve: ``load`` of the break, slope before, and slope after in parts of the first.

    Each has shape ``(n_replicates + 1,)``; the first value is the estimate, the others are its bootstrap replicates.
    ``reason`` says why there is no knee, and is empty where there is one.
    """

    load: Floats
    slope: Floats
    rest: Floats
    reason: str = ""

    @property
    def throughput(self) -> Floats:
        """Throughput at the knee."""
        return self.load * self.slope


def find_knee(load: Floats, throughput: Floats, weight: Floats, resampled: Floats) -> BrokenLine:
    """The break of throughput against load.

    Parameters
    ----------
    load, throughput, weight
        One value per window, shape ``(n_windows,)``; ``weight`` is the inverse of a variance, up to a factor.
    resampled
        Counts of each window in each replicate (`perfkit.stats.load_windows.resamples`), the sample itself first.

    Returns
    -------
    BrokenLine
        With a ``reason`` where the curve cannot tell: too few windows, a load that hardly moves, or no bend.
    """
    nothing = np.full(len(resampled), np.nan)
    if load.size < LEAST_WINDOWS:
        return BrokenLine(nothing, nothing, nothing, f"{load.size} windows of load; a knee needs {LEAST_WINDOWS}")
    ordered = np.sort(load)
    low, high = ordered[AT_THE_EDGE - 1], ordered[-AT_THE_EDGE]
    if low <= 0 or high < 2.0 * low:
        return BrokenLine(nothing, nothing, nothing, "the load hardly changed; a knee needs it at least doubled")
    broken = _fit(load, throughput, resampled * weight, np.linspace(low, high, PLACES))
    rest, surely = float(broken.rest[0]), float(np.quantile(broken.rest[1:], 0.975))
    if rest <= STILL_FOLLOWS and surely <= SURELY:
        return broken
    why = "throughput still follows the load at the highest load" if rest > STILL_FOLLOWS else "the bend is not certain"
    return BrokenLine(broken.load, broken.slope, broken.rest, why)


def _fit(load: Floats, throughput: Floats, weights: Floats, places: Floats) -> BrokenLine:
    """Least squares of both slopes at every place at once; the place with the least squares wins."""
    before = np.minimum(load, places[:, None])  # (places, windows)
    after = load - before
    aa, ab, bb = (weights @ (x * y).T for x, y in ((before, before), (before, after), (after, after)))
    ay, by = weights @ (before * throughput).T, weights @ (after * throughput).T
    determinant = aa * bb - ab**2
    good = determinant > 1e-9 * aa * bb
    safe = np.where(good, determinant, 1.0)
    first, second = (bb * ay - ab * by) / safe, (aa * by - ab * ay) / safe
    explained = np.where(good & (first > 0), first * ay + second * by, -np.inf)
    best = explained.argmax(axis=1)[:, None]
    slope, rest = (np.take_along_axis(values, best, axis=1)[:, 0] for values in (first, second))
    return BrokenLine(places[best[:, 0]], slope, rest / np.where(slope > 0, slope, np.nan))
