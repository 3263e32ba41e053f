"""The tail of runs that are each too short to know it: p99 and p99.9 of all runs of a side together.

A stall in 1 % of the requests hardly moves an average, and the p99 of one run rests on a handful of requests.  So the
requests beyond a threshold are counted, as failures are: in runs of one build their share is the same on both sides.
The threshold is a percentile of both sides together, below the one that is shown: a stall fills what lies beyond it
almost alone, and one of the baseline's own would scatter by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from perfkit.stats.summary import Floats, runs_enough

# For each quantile that is told so, how much more than by chance the counts of identical runs are expected to scatter;
# runs too short for p99 do not show bursts inside them, so there it is more.
SCATTER = {0.99: 1.5, 0.999: PRIOR_OVERDISPERSION}
SLOWEST = 30  # requests that the threshold leaves, as far as it lies between these quantiles
BEYOND = (0.985, 0.995)
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
    sides, scatter = (baseline, candidate), []
    counts = [np.array([tail.requests for tail in side], float) for side in sides]
    beyond = counted_beyond(np.concatenate(counts).sum())
    expected = max(float(np.mean([tail.dispersion for side in sides for tail in side])), SCATTER[quantile])
    thresholds = quantiles_of((*baseline, *candidate), (min(quantile, BEYOND[1]), beyond))
    for threshold in map(float, thresholds):
        slow = [np.floor([tail.requests * _above(tail, threshold) for tail in side]) for side in sides]
        scatter.append(overdispersion(slow, counts, expected))
    factor, df = max(scatter)
    t = float(stdtrit(df, 0.5 + confidence / 2.0))
    levels, ends = [], []
    for side, of_side in zip(sides, counts, strict=True):
        least_share, most_share = wilson(1.0 - quantile, float(of_side.sum()) / factor, t)
        level, low, high = np.log(quantiles_of(side, (quantile, 1.0 - most_share, 1.0 - least_share)))
        levels.append(level)
        ends.append((level - low, high - level))
    shift = levels[1] - levels[0]
    (below, above), (below_candidate, above_candidate) = ends
    logs = shift, shift - math.hypot(below_candidate, above), shift + math.hypot(above_candidate, below)
    change, ci_low, ci_high = (100.0 * float(math.expm1(log)) for log in logs)
    before, after = (Failures(*of_side) for of_side in zip(slow, counts, strict=True))
    return Effect(
        change,
        ci_low,
        ci_high,
        rise_of_rates(before, after, factor, df),
        rise_of_rates(after, before, factor, df),
        arithmetic=rate_arithmetic((before, after), factor, df, t, beyond_ms=threshold, beyond=beyond),
    )


def counted_beyond(requests: float) -> float:
    """The quantile of so many requests of both sides together above which they are counted as slow."""
    return float(np.clip(1.0 - SLOWEST / requests, *BEYOND))


def is_of_tails(effect: Effect) -> bool:
    """Whether an effect came from `compare_tails`."""
    return isinstance(effect.arithmetic, RateArithmetic) and effect.arithmetic.beyond_ms is not None


def quantiles_of(tails: Sequence[Tail], q: float | Sequence[float]) -> Floats:
    """Quantiles ``q`` >= 0.95 of the requests of all these runs together, in ms, of the shape of ``q``."""
    knots = np.unique([tail.latencies_ms for tail in tails])
    weights = [tail.requests for tail in tails]
    shares = np.average([_above(tail, knots) for tail in tails], axis=0, weights=weights)
    return np.asarray(np.interp(np.asarray(q) - 1.0, -shares, knots))


def _above(tail: Tail, latency_ms: Floats | float) -> Floats:
    """The share of the requests of a run that took longer; at most about 0.05, for the rest is not known.

    Of the k-th longest of n it is (k - 1/2) / n (Hazen), so that the longest is not lost where runs are short.
    """
    places = ((tail.requests - 1) * _GRID + 0.5) / tail.requests
    return np.asarray(1.0 - np.interp(latency_ms, tail.latencies_ms, places, right=1.0))
