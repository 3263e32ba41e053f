"""The tail of runs that are each too short to know it: p99 and p99.9 of all runs of a side together.

A stall in 1 % of the requests hardly moves an average, and the p99 of one run rests on a handful of requests.  So the
requests beyond a threshold are counted, as failures are: in runs of one build their share is the same on both sides.
The threshold is a percentile of both sides together, below the one that is shown: a stall fills what lies beyond it
almost alone, and one of the baseline's own would scatter by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from perfkit.model.records import RateArithmetic, Tail
from perfkit.stats.effect import (
    PRIOR_OVERDISPERSION,
    Effect,
    Failures,
    overdispersion,
    rate_arithmetic,
    rise_of_rates,
    wilson,
)
from perfkit.stats.power import POWER, least_requests
from perfkit.stats.summary import Floats, runs_enough

# For each quantile that is told so, how much more than by chance the counts of identical runs are expected to scatter;
# runs too short for p99 do not show bursts inside them, so there it is more.
SCATTER = {0.99: 1.5, 0.999: PRIOR_OVERDISPERSION}
SLOWEST = 30  # requests that the threshold leaves, as far as it lies between these quantiles
BEYOND = (0.985, 0.995)
LARGEST = math.log(101.0)  # no rise of more is looked for
_GRID = np.array(Tail.QUANTILES)


def is_enough(tails: Sequence[Tail], quantile: float) -> bool:
    """Whether these runs are as many as tell this quantile of `SCATTER` together."""
    least = runs_enough(tails, quantile)
    return least is not None and len(tails) >= least


def compare_tails(quantile: float, baseline: Sequence[Tail], candidate: Sequence[Tail], confidence: float) -> Effect:
    """A quantile of `SCATTER` from the tails of two sets of runs, each of which `is_enough`.

    The p-values are those of the share of requests beyond the threshold: the conditional exact test of error rates,
    widened by how much that share, or the share beyond the quantile itself, scatters between runs, and by how much it
    scatters inside them.  Change and interval are those of the quantile in percent: Woodruff's interval of each side
    from Wilson's of its rank, joined on the log scale (MOVER, Zou & Donner 2008, doi:10.1002/sim.3095).
    """
    sides = baseline, candidate
    counts = [np.array([tail.requests for tail in side], float) for side in sides]
    (factor, df), slow, threshold = scatter_of_tails(quantile, sides)
    t = float(stdtrit(df, 0.5 + confidence / 2.0))
    shift, below, above = _shift(quantile, sides, [float(of_side.sum()) / factor for of_side in counts], t)
    change, ci_low, ci_high = (100.0 * math.expm1(log) for log in (shift, shift - below, shift + above))
    before, after = (Failures(*of_side) for of_side in zip(slow, counts, strict=True))
    return Effect(
        change,
        ci_low,
        ci_high,
        rise_of_rates(before, after, factor, df),
        rise_of_rates(after, before, factor, df),
        arithmetic=rate_arithmetic(
            (before, after), factor, df, t, None, threshold, counted_beyond(np.concatenate(counts).sum())
        ),
    )


def scatter_of_tails(
    quantile: float, sides: Sequence[Sequence[Tail]]
) -> tuple[tuple[float, float], list[Floats], float]:
    """How much more than by chance slow requests scatter, with df; how many each run has, and from what ms on."""
    tails, scatter = [tail for side in sides for tail in side], []
    counts = [np.array([tail.requests for tail in side], float) for side in sides]
    expected = max(float(np.mean([tail.dispersion for tail in tails])), SCATTER[quantile])
    beyond = counted_beyond(sum(tail.requests for tail in tails))
    for threshold in map(float, quantiles_of(tails, (min(quantile, BEYOND[1]), beyond))):
        slow = [np.floor([tail.requests * _above(tail, threshold) + 0.5 for tail in side]) for side in sides]
        scatter.append(overdispersion(slow, counts, expected))
    return max(scatter), slow, threshold


def _shift(
    quantile: float, sides: Sequence[Sequence[Tail]], requests: Sequence[float], t: float
) -> tuple[float, float, float]:
    """By how much the log of a quantile moved, and how far its interval, ``t`` wide, reaches below and above that."""
    levels, lows, highs = [], [], []
    for side, count in zip(sides, requests, strict=True):
        least_share, most_share = wilson(1.0 - quantile, count, t)
        level, low, high = np.log(quantiles_of(side, (quantile, 1.0 - most_share, 1.0 - least_share)))
        levels.append(level)
        lows.append(level - low)
        highs.append(high - level)
    return float(levels[1] - levels[0]), math.hypot(lows[1], highs[0]), math.hypot(highs[1], lows[0])


@dataclass(frozen=True, slots=True)
class TailDesign:
    """Requests of each side, how slow the slowest are, and how a rise of a quantile of `SCATTER` is judged.

    The tail is asked as `compare_tails` asks it, with an outcome that is as unfavourable as chance makes it in one case
    of five.

    Parameters
    ----------
    level
        Of the one-sided test of the requests beyond the threshold.
    tolerance
        What is called must lie beyond it too; log scale.
    overdispersion, df
        How much more than by chance the slow requests of runs scatter.
    """

    quantile: float
    level: float
    tolerance: float
    overdispersion: float
    df: float

    def min_detectable(self, shape: Tail, requests: Sequence[float], power: float = POWER) -> float:
        """Smallest true rise in percent that is called; ``nan`` where so many requests of each side show none.

        Requests of the baseline take as long as ``shape`` says, those of the candidate so much longer.
        """

        def is_significant(rise: float) -> bool:
            factor = math.exp(rise)
            slower = replace(shape, latencies_ms=tuple(factor * latency for latency in shape.latencies_ms))
            return self._is_significant((shape, slower), requests, power)

        _, below, _ = self._shift((shape, shape), requests, float(stdtrit(self.df, power)))
        least, most = 0.0, self.tolerance + below
        if not is_significant(most):
            least, most = most, LARGEST
            if not is_significant(most):
                return math.nan
            while most - least > 0.005 * most:
                middle = (least + most) / 2.0
                least, most = (least, middle) if is_significant(middle) else (middle, most)
        return 100.0 * math.expm1(most)

    def _is_significant(self, sides: Sequence[Tail], requests: Sequence[float], power: float = POWER) -> bool:
        """Whether so many requests of each side that take as long as these differ at the level."""
        threshold = float(quantiles_of(sides, counted_beyond(sum(requests)), requests))
        slow = [count * float(_above(side, threshold)) for side, count in zip(sides, requests, strict=True)]
        # Their number is fixed: chance only moves some from one side to the other
        error = math.sqrt(self.overdispersion * slow[0] * slow[1] / sum(slow))
        moved = float(stdtrit(self.df, power)) * error
        expected = zip((slow[0] + moved, slow[1] - moved), requests, strict=True)
        before, after = (Failures(np.array([k]), np.array([n], float)) for k, n in expected)
        return after.failed[0] >= 0.0 and rise_of_rates(before, after, self.overdispersion, self.df) <= self.level

    def _shift(self, sides: Sequence[Tail], requests: Sequence[float], t: float) -> tuple[float, float, float]:
        effective = [count / self.overdispersion for count in requests]
        return _shift(self.quantile, [[side] for side in sides], effective, t)

    def requests_needed(self, sides: Sequence[Tail], requests: Sequence[float], confidence: float) -> int | None:
        """Requests of *each* side that settle the question, if the tails seen are the true ones."""
        chance = float(stdtrit(self.df, POWER))
        reach = float(stdtrit(self.df, 0.5 + confidence / 2.0)) + chance

        def settles(n: int) -> bool:
            shift, below, _ = self._shift(sides, (n, n), chance)
            if shift > self.tolerance:
                return shift - below > self.tolerance and self._is_significant(sides, (n, n))
            return shift + self._shift(sides, (n, n), reach)[2] <= self.tolerance

        return least_requests(settles, int(min(requests)))


def pooled(tails: Sequence[Tail]) -> Tail:
    """The tail of the requests of all these runs together."""
    dispersion = float(np.mean([tail.dispersion for tail in tails]))
    return Tail(sum(tail.requests for tail in tails), tuple(quantiles_of(tails, Tail.QUANTILES).tolist()), dispersion)


def counted_beyond(requests: float) -> float:
    """The quantile of so many requests of both sides together above which they are counted as slow."""
    return float(np.clip(1.0 - SLOWEST / requests, *BEYOND))


def is_of_tails(effect: Effect) -> bool:
    """Whether an effect came from `compare_tails`."""
    return isinstance(effect.arithmetic, RateArithmetic) and effect.arithmetic.beyond_ms is not None


def quantiles_of(tails: Sequence[Tail], q: float | Sequence[float], requests: Sequence[float] | None = None) -> Floats:
    """Quantiles ``q`` >= 0.95 of the requests of all these runs together, in ms, of the shape of ``q``.

    ``requests``: how many of each to count, where not its own.
    """
    knots = np.unique([tail.latencies_ms for tail in tails])
    weights = [tail.requests for tail in tails] if requests is None else requests
    shares = np.average([_above(tail, knots) for tail in tails], axis=0, weights=weights)
    return np.asarray(np.interp(np.asarray(q) - 1.0, -shares, knots))


def _above(tail: Tail, latency_ms: Floats | float) -> Floats:
    """The share of the requests of a run that took longer; at most about 0.05, for the rest is not known.

    Of the k-th longest of n it is (k - 1/2) / n (Hazen), so that the longest is not lost where runs are short.
    """
    places = ((tail.requests - 1) * _GRID + 0.5) / tail.requests
    return np.asarray(1.0 - np.interp(latency_ms, tail.latencies_ms, places, right=1.0))
