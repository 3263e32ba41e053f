"""The tail of runs that are each too short to know it: p99.9 of all runs of a side together.

A stall in 1 % of the requests hardly moves an average, and the p99 of one run rests on a handful of requests.  So the
requests beyond a threshold are counted, as failures are: in runs of one build their share is the same on both sides.
The threshold is the 99.5th percentile of both sides together: a stall fills what lies beyond it almost alone, and one
of the baseline's own would scatter by itself.
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
from perfkit.stats.summary import TAIL_QUANTILE, Floats, runs_enough

BEYOND = 0.995  # the quantile of both sides together above which requests are counted
_GRID = np.array(Tail.QUANTILES)


def is_enough(tails: Sequence[Tail]) -> bool:
    """Whether these runs are as many as tell their p99.9 together."""
    least = runs_enough(tails)
    return least is not None and len(tails) >= least


def compare_tails(baseline: Sequence[Tail], candidate: Sequence[Tail], confidence: float) -> Effect:
    """The tails of two sets of runs, each of which `is_enough`.

    The p-values are those of the share of requests beyond the threshold: the conditional exact test of error rates,
    widened by how much that share scatters between runs, and by how much it scatters inside them.  Change and interval
    are those of p99.9 in percent: Woodruff's interval of each side from Wilson's of its rank, joined on the log scale
    (MOVER, Zou & Donner 2008, doi:10.1002/sim.3095).
    """
    sides = (baseline, candidate)
    threshold = float(quantiles_of((*baseline, *candidate), BEYOND))
    counts = [np.array([tail.requests for tail in side], float) for side in sides]
    slow = [np.round([tail.requests * _above(tail, threshold) for tail in side]) for side in sides]
    inside = float(np.mean([tail.dispersion for side in sides for tail in side]))
    factor, df = overdispersion(slow, counts, max(inside, PRIOR_OVERDISPERSION))
    t = float(stdtrit(df, 0.5 + confidence / 2.0))
    levels, ends = [], []
    for side, of_side in zip(sides, counts, strict=True):
        least_share, most_share = wilson(1.0 - TAIL_QUANTILE, float(of_side.sum()) / factor, t)
        level, low, high = np.log(quantiles_of(side, (TAIL_QUANTILE, 1.0 - most_share, 1.0 - least_share)))
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
        arithmetic=rate_arithmetic((before, after), factor, df, t, beyond_ms=threshold),
    )


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
    """The share of the requests of a run that took longer; at most 0.05, for the rest is not known."""
    return np.asarray(1.0 - np.interp(latency_ms, tail.latencies_ms, _GRID))
