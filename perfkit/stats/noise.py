"""How much a metric varies from run to run when nothing has changed.

Few runs say little about their own variance, so the sample variance is moderated towards a prior (Smyth 2004,
doi:10.2202/1544-6115.1027): ``s^2 = (d0 s0^2 + SS) / (d0 + df)`` with ``d0 + df`` degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import fdtrc

from perfkit.model.records import Metric
from perfkit.stats.summary import Floats

CONFLICT = 0.5  # p-value of the scatter seen, given the prior, from which on the prior counts for less
LEAST_PRIOR_DF = 0.5
PRIOR_DF = 3.5  # of a within-run error that was measured: it foretells the scatter between runs well
PRIOR_DF_ASSUMED = 3.0  # of one that was merely assumed, with `PRIOR_SD` on top
# Run-to-run standard deviations on the log scale where no run shows its own error.  Source: 18 set-ups of ten identical
# Locust runs each, tuned on nine of them and measured on the other nine.  test_calibration.py guards them.
PRIOR_SD = {
    Metric.AVG: 0.012,
    Metric.P50: 0.022,
    Metric.P95: 0.028,
    Metric.P99: 0.038,
    Metric.P999: 0.060,
    Metric.RPS: 0.006,
}
EXTRA_SD = 0.006  # between runs, beyond a measured error within them: restarts, other tenants
# Chi-square per degree of freedom of failures between identical runs: 0.3 to 1.8 in 13 real sets of ten runs, mean
# 0.96, which is no more scatter than their nine degrees of freedom give by themselves.
PRIOR_OVERDISPERSION = 1.2
PRIOR_OVERDISPERSION_DF = 8.0
HISTORY_SHARE = (
    2.0 / 3.0
)  # degrees of freedom per successive difference (von Neumann 1941, doi:10.1214/aoms/1177731677)
CLIP = 3.0  # robust standard deviations: a step in the history is one large difference, and no noise


@dataclass(frozen=True, slots=True)
class Scatter:
    """From what a variation was estimated.

    ``given`` is what was known beforehand and ``expected`` the noise that it foretells, of which ``weight`` degrees of
    freedom were left; ``squares`` are the sums of squares of each side, with ``df`` degrees of freedom in all.
    """

    given: NoisePrior
    expected: Noise
    weight: float
    squares: tuple[float, ...]
    df: float


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviation (log scale) of one run's value around its level, and the degrees of freedom behind it."""

    sd: float
    df: float
    scatter: Scatter | None = field(default=None, repr=False, compare=False)

    def error_of_difference(self, n_baseline: int, n_candidate: int) -> float:
        """Standard error of the difference of two means of that many runs."""
        return float(self.sd * np.sqrt(1.0 / n_baseline + 1.0 / n_candidate))


@dataclass(frozen=True, slots=True)
class NoisePrior:
    """What is known of a metric's noise before its runs are compared: from inside the runs, and from their history.

    Parameters
    ----------
    within_variance
        Mean variance of one log value within its run, rounding of the source included.
    measured
        Whether that variance was measured inside the runs, and not assumed.
    floor
        Variance below which identical runs cannot scatter (the rounding of the source).
    history
        Sum of squares and degrees of freedom from earlier runs (`scatter_of_history`).
    """

    within_variance: float = 0.0
    measured: bool = False
    floor: float = 0.0
    history: tuple[float, float] = (0.0, 0.0)

    def noise(self, metric: Metric) -> Noise:
        """The noise to expect of a run."""
        extra = EXTRA_SD if self.measured else PRIOR_SD[metric]
        df = PRIOR_DF if self.measured else PRIOR_DF_ASSUMED
        return Noise(float(np.sqrt(self.within_variance + extra**2)), df)


def run_to_run(metric: Metric, sides: Sequence[Floats], prior: NoisePrior) -> Noise:
    """Moderated variation of log values around the mean of their own side.

    Parameters
    ----------
    sides
        Log values, one array of shape ``(n_runs,)`` for each side (or stable stretch of history).
    prior
        What the runs themselves and their scenario's history tell of the noise.
    """
    expected = prior.noise(metric)
    of_sides = tuple(float(((side - side.mean()) ** 2).sum()) for side in sides if side.size)
    df_of_sides = float(sum(side.size - 1 for side in sides if side.size))
    squares, df = sum(of_sides) + prior.history[0], df_of_sides + prior.history[1]
    weight = _prior_weight(expected, squares, df)
    variance = (weight * expected.sd**2 + squares) / (weight + df)
    scatter = Scatter(prior, expected, weight, of_sides, df_of_sides)
    return Noise(float(np.sqrt(max(variance, prior.floor))), weight + df, scatter)


def _prior_weight(prior: Noise, squares: float, df: float) -> float:
    """Degrees of freedom of the prior that are left when the runs scatter more than it foretells.

    A prior that the data contradict is discounted (a power prior: Ibrahim & Chen 2000, doi:10.1214/ss/1009212519), here
    by the p-value of the F test of their variances: without that, intervals cover 80 % instead of 95 % where runs vary
    six times as much among themselves as within.
    """
    if df <= 0:
        return prior.df
    p = float(fdtrc(df, prior.df, squares / df / prior.sd**2))
    return max(prior.df * min(p / CONFLICT, 1.0), LEAST_PRIOR_DF)


def scatter_of_history(logs: Floats) -> tuple[float, float]:
    """Sum of squares and degrees of freedom of a history of log values, oldest first, shape ``(n_runs,)``.

    From successive differences, so that slow drift and steps between stable stretches do not count as noise; a
    difference beyond `CLIP` robust standard deviations counts as that much.
    """
    steps = np.abs(np.diff(logs))
    if steps.size == 0:
        return 0.0, 0.0
    if steps.size >= 5 and (robust := 1.4826 * float(np.median(steps))) > 0:
        steps = np.minimum(steps, CLIP * robust)
    df = max(HISTORY_SHARE * steps.size, 1.0)
    return float(np.mean(steps**2)) / 2.0 * df, df


def overdispersion(failures: Sequence[Floats], counts: Sequence[Floats]) -> tuple[float, float]:
    """How much more the failures of identical runs scatter than chance alone allows: (factor >= 1, degrees of freedom).

    Chi-square of the runs around the error rate of their side, moderated towards `PRIOR_OVERDISPERSION`; a prior that
    the runs contradict counts for less (`_trust`).
    """
    chi_square, df = 0.0, 0
    for failed, count in zip(failures, counts, strict=True):
        rate = failed.sum() / count.sum() if count.sum() else 0.0
        if failed.size < 2 or not 0.0 < rate < 1.0:
            continue
        chi_square += float(((failed - count * rate) ** 2 / (count * rate * (1 - rate))).sum())
        df += failed.size - 1
    weight = _prior_weight(Noise(PRIOR_OVERDISPERSION**0.5, PRIOR_OVERDISPERSION_DF), chi_square, df)
    return max(1.0, (weight * PRIOR_OVERDISPERSION + chi_square) / (weight + df)), weight + df
