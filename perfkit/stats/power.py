"""What a set of runs can show, and how many more would settle a question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from perfkit.stats.noise import PRIOR_DF, Noise

POWER = 0.8  # the usual convention: a change of the detectable size is called in four comparisons of five
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


def requests_needed(rate_baseline: float, rate_candidate: float, tolerance: float, level: float) -> int | None:
    """Requests on *each* side that settle a question of error rates (shares in [0, 1]); ``None`` where none would.

    A difference beyond the tolerance must become significant with power 0.8; a smaller one must be told from the
    tolerance, both by the normal approximation for two proportions.
    """
    gap = rate_candidate - rate_baseline
    spread = rate_baseline * (1 - rate_baseline) + rate_candidate * (1 - rate_candidate)
    spread = max(spread, tolerance * (1 - min(tolerance, 0.5)))
    distance = gap if gap > tolerance else tolerance - gap
    if distance <= 0:
        return None
    quantile = float(ndtri(1.0 - level) + ndtri(POWER)) if gap > tolerance else float(ndtri(0.975) + ndtri(POWER))
    return int(np.ceil(spread * (quantile / distance) ** 2))
