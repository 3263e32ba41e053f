"""How rare a stretch of a history is among all orders of its values.

Runs whose order says nothing are exchangeable: a stretch of w of them is then a sample of w values drawn without
replacement from all, whatever their distribution is: two kinds of machine, rare slow runs, ties, zeros.  The values
enter drawn in to `CLIP` robust standard deviations, so that no single run decides.

The tail of the sum of such a sample comes from a double saddlepoint approximation (Robinson 1982,
doi:10.1111/j.2517-6161.1982.tb01191.x; Booth & Butler 1990, doi:10.1093/biomet/77.4.787), which is as good at 1e-8
as at 0.01 and needs no random orders: the same answer each time.

Its limit: w of n values can be no rarer than one of all ``n! / (w! (n - w)!)`` samples.  Five runs slower than
all of 20 before them are no rarer than 1 in 53,130.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, expit, log_ndtr, ndtri, ndtri_exp

from perfkit.stats.summary import Floats

CLIP = 3.5  # robust standard deviations beyond which a value counts no more than that
_STEPS = 60  # of Newton's method; some eight are the rule
_SAME = 1e-9  # scores nearer than that are equal
_LEAST_SLOPE = 1e-3  # below it both corrections of the approximation cancel to nothing


def normal_scores(values: ArrayLike) -> Floats:
    """Normal quantiles of the ranks, centred; equal values share the quantile of the mean of their ranks."""
    every = np.asarray(values, float)
    if every.size == 0:
        return every
    _, first, same = np.unique(every, return_inverse=True, return_counts=True)
    below = np.cumsum(same) - same
    scores: Floats = ndtri((below + same / 2.0) / every.size)[first]
    scores -= scores.mean()
    return scores


def drawn_in(values: ArrayLike) -> Floats:
    """Centred values in robust standard deviations, none farther than `CLIP`; their normal scores where most are equal.

    It depends on what the values are and not on their order, so that orders can be compared by it.
    """
    every = np.asarray(values, float)
    off = every - np.median(every) if every.size else every
    sd = 1.4826 * float(np.median(np.abs(off))) if every.size else 0.0
    if sd <= 1e-9 * float(np.abs(every).max(initial=0.0)):
        return normal_scores(every)
    scores: Floats = np.clip(off / sd, -CLIP, CLIP)
    scores -= scores.mean()
    return scores


def rarity(scores: Floats, counts: ArrayLike, sums: ArrayLike) -> Floats:
    """Of samples of these sizes and sums: how many standard deviations a normal value as rare lies above its mean.

    Parameters
    ----------
    scores
        All values, centred, shape ``(n,)``; not all equal.
    counts
        Size of each sample, from 1 to n - 1.
    sums
        Its sum; negative ones give negative rarities.

    Notes
    -----
    The values of a sample are independent Bernoulli choices, tilted by ``u + v * score``, given that their number is
    ``count``; u and v are such that number and sum are expected.
    """
    size = len(scores)
    count, total = np.asarray(counts, float), np.abs(np.asarray(sums, float))
    sign = np.where(np.asarray(sums) < 0.0, -1.0, 1.0)
    sided = sign[:, None] * scores[None, :]
    extremes = [_Extreme.of(row, int(w)) for row, w in zip(sided, count, strict=True)]
    highest, rarest = np.array([each.total for each in extremes]), np.array([each.rarity for each in extremes])
    half = _half_step(scores)  # a tail of a discrete sum begins half a step before it
    is_extreme = total >= highest - half
    total = np.where(is_extreme, 0.0, np.maximum(total - half, 0.0))
    u, v = _saddlepoint(sided, count, total)
    share = count / size
    tilt = u[:, None] + v[:, None] * sided
    chosen = expit(tilt)
    spread = chosen * (1.0 - chosen)
    first, mixed, second = spread.sum(1), (spread * sided).sum(1), (spread * sided * sided).sum(1)
    tilted = np.logaddexp(0.0, tilt).sum(1) - u * count - v * total
    plain = -size * (share * np.log(share) + (1.0 - share) * np.log1p(-share))
    root = np.sqrt(np.maximum(2.0 * (plain - tilted), 0.0))
    slope = v * np.sqrt(np.maximum(first * second - mixed * mixed, 0.0) / (size * share * (1.0 - share)))
    usable = (root > _LEAST_SLOPE) & (slope > _LEAST_SLOPE)
    ratio = np.log(np.where(usable, slope, 1.0) / np.where(usable, root, 1.0))
    rare = np.where(usable, root + ratio / np.where(usable, root, 1.0), root)
    return sign * np.where(is_extreme, rarest, np.clip(rare, 0.0, rarest))


def rivals(size: int, z: float, *, anywhere: bool) -> int:
    """How many stretches of ``size`` runs can be as rare as that at all: anywhere, or only from the first run on.

    That many times the chance of one bounds the chance of any.
    """
    lengths = np.arange(1, size)
    able = _log_choose(size, lengths) >= -log_ndtr(-z) - _SAME
    return int((able * (size - lengths - 1)).sum() if anywhere else able.sum())


def chance_of_few_turns(scores: Floats) -> float:
    """Chance that a random order turns from high values to low ones, and back, as seldom as this or more seldom.

    High and low are the two groups that explain most of the scatter (Otsu 1979, doi:10.1109/TSMC.1979.4310076).  Exact
    (Wald & Wolfowitz 1940, doi:10.1214/aoms/1177731909), whatever values are equal.
    """
    ordered = np.sort(scores)
    sizes = np.arange(1, len(scores))
    between = np.square(np.cumsum(ordered - ordered.mean())[:-1]) / (sizes * (len(scores) - sizes))
    above = scores > ordered[int(np.argmax(between))] + _SAME
    high, low = int(above.sum()), int((~above).sum())
    if min(high, low) == 0:
        return 1.0
    runs = 1 + int((above[1:] != above[:-1]).sum())
    half = np.arange(1, runs // 2 + 1)
    even = np.log(2.0) + _log_choose(high - 1, half - 1) + _log_choose(low - 1, half - 1)
    k = np.arange(1, (runs - 1) // 2 + 1)
    odd = np.logaddexp(
        _log_choose(high - 1, k) + _log_choose(low - 1, k - 1), _log_choose(high - 1, k - 1) + _log_choose(low - 1, k)
    )
    return float(np.exp(np.concatenate([even, odd]) - _log_choose(high + low, high)).sum())


def _half_step(scores: Floats) -> float:
    gaps = np.diff(np.sort(scores))
    return float(gaps[gaps > _SAME].min(initial=2.0)) / 2.0


@dataclass(frozen=True, slots=True)
class _Extreme:
    """The largest sum of a sample, and how rare it is: there are as many such samples as ways to choose among ties."""

    total: float
    rarity: float

    @classmethod
    def of(cls, scores: Floats, count: int) -> _Extreme:
        ordered = np.sort(scores)[::-1]
        same = np.abs(ordered - ordered[count - 1]) <= _SAME
        ways = _log_choose(int(same.sum()), int(same[:count].sum())) - _log_choose(len(scores), count)
        return cls(float(ordered[:count].sum()), float(-ndtri_exp(float(ways))))


def _log_choose(size: int, count: ArrayLike) -> Floats:
    """Logarithm of the binomial coefficient; minus infinity where more are to be chosen than there are."""
    chosen = np.asarray(count, float)
    able = chosen <= size
    ways: Floats = -np.log(size + 1.0) - betaln(np.where(able, size - chosen, 0.0) + 1.0, chosen + 1.0)
    return np.where(able, ways, -np.inf)


def _saddlepoint(sided: Floats, count: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Damped Newton: ``u`` and ``v`` of each sample at which its number and its sum are what is expected."""
    size = sided.shape[1]
    share = count / size
    u = np.log(share / (1.0 - share))
    v = total / (size * share * (1.0 - share) * np.mean(sided * sided, axis=1))
    for _ in range(_STEPS):
        chosen = expit(u[:, None] + v[:, None] * sided)
        off, away = chosen.sum(1) - count, (chosen * sided).sum(1) - total
        spread = chosen * (1.0 - chosen)
        first, mixed, second = spread.sum(1), (spread * sided).sum(1), (spread * sided * sided).sum(1)
        area = np.maximum(first * second - mixed * mixed, 1e-300)
        by_u, by_v = (second * off - mixed * away) / area, (first * away - mixed * off) / area
        decrement = np.sqrt(np.maximum(off * by_u + away * by_v, 0.0))
        if float(decrement.max()) < 1e-4:
            break
        damping = np.where(decrement > 0.25, 1.0 + decrement, 1.0)
        u, v = u - by_u / damping, v - by_v / damping
    return u, v
