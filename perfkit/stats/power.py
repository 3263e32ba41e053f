"""What a set of runs can show, and how many more would settle a question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from perfkit.stats.compare import Failures, difference_of_rates, rise_of_rates
from perfkit.stats.noise import PRIOR_DF, Noise, overdispersion

POWER = 0.8  # the usual convention: a change of the detectable size is called in four comparisons of five
MOST_REQUESTS = 10**8
MOST_RUNS = 200  # beyond this a design is wrong, not merely short of runs


@dataclass(frozen=True, slots=True)
class Design:
    """Runs on each side and the level at which one finding is tested (alpha times its weight)."""

    n_baseline: int
    n_candidate: int
    level: float


def min_detectable_log(noise: Noise, design: Design, power: float = POWER) -> float:
    """Smallest true shift (log scale, > 0) that a one-sided test at ``design.level`` calls with probability ``power``.

    Uses ``t_level + t_power`` standard errors, the usual approximation to the non-central t.
    """
    quantiles = stdtrit(noise.df, 1.0 - design.level) + stdtrit(noise.df, power)
    return float(quantiles) * noise.error_of_difference(design.n_baseline, design.n_candidate)


def runs_needed(noise: Noise, design: Design, shift: float, tolerance: float, confidence: float) -> int | None:
    """Further runs on *each* side until the question is settled, if the shift seen is the true one.

    Settled means: the interval's bad side within ``tolerance``, or the shift significant at ``design.level`` and beyond
    it.  Log scale, positive is worse.  ``None`` where `MOST_RUNS` would not do.
    """
    for more in range(1, MOST_RUNS + 1):
        grown = Noise(noise.sd, noise.df + 2 * more)
        error = grown.error_of_difference(design.n_baseline + more, design.n_candidate + more)
        if shift + float(stdtrit(grown.df, 0.5 + confidence / 2)) * error <= tolerance:
            return more
        if shift > tolerance and shift >= float(stdtrit(grown.df, 1.0 - design.level)) * error:
            return more
    return None


def planned_noise(noise: Noise, runs_per_side: int) -> Noise:
    """The same variation with the degrees of freedom that a comparison of that many runs on each side will have."""
    return Noise(noise.sd, max(noise.df, PRIOR_DF + 2 * (runs_per_side - 1)))


def requests_needed(baseline: Failures, candidate: Failures, tolerance: float, level: float) -> int | None:
    """Requests on *each* side that settle a question of error rates, if the rates seen are the true ones.

    The judgement itself, with the overdispersion that it found, is asked again for growing numbers of requests, with
    the difference as unfavourable as chance makes it in one case of five.  ``tolerance`` is a share in [0, 1]; ``None``
    where `MOST_REQUESTS` would not do.
    """
    factor, df = overdispersion((baseline.failed, candidate.failed), (baseline.counts, candidate.counts))
    low, high = int(min(baseline.counts.sum(), candidate.counts.sum())), MOST_REQUESTS

    def settles(n: int) -> bool:
        return _settles_rates(baseline.rate, candidate.rate, n, factor, df, tolerance, level)

    if not settles(high):
        return None
    while high - low > max(1, high // 200):  # to half a percent
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high


def _settles_rates(
    before: float, after: float, n: int, factor: float, df: float, tolerance: float, level: float
) -> bool:
    gap = after - before
    chance = float(stdtrit(df, POWER)) * np.sqrt(factor * (before * (1 - before) + after * (1 - after)) / n)
    seen = max(gap - chance, 0.0) if gap > tolerance else max(gap + chance, 0.0)
    baseline, candidate = (Failures(np.array([s * n]), np.array([float(n)])) for s in (before, min(before + seen, 1.0)))
    if gap > tolerance:
        return rise_of_rates(baseline, candidate, factor, df) <= level
    return difference_of_rates(baseline, candidate, float(stdtrit(df, 0.975)), factor)[1] <= tolerance
