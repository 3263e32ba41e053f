"""How much a metric varies from run to run when nothing has changed.

Few runs say little about their own variance, so the sample variance is moderated towards a prior (Smyth 2004,
doi:10.2202/1544-6115.1027): ``s^2 = (d0 s0^2 + SS) / (d0 + df)`` with ``d0 + df`` degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfkit.model import Metric
from perfkit.stats.summary import Floats

PRIOR_DF = 3.0
# Run-to-run standard deviations on the log scale.  Source: 18 set-ups of ten identical Locust runs each, tuned on nine
# of them and measured on the other nine.  The false-alarm tests in tests/test_calibration.py guard them.
PRIOR_SD = {
    Metric.AVG: 0.012,
    Metric.P50: 0.022,
    Metric.P95: 0.028,
    Metric.P99: 0.038,
    Metric.P999: 0.060,
    Metric.RPS: 0.006,
}
PRIOR_OVERDISPERSION = 1.2  # chi-square per degree of freedom of failures between identical runs
PRIOR_OVERDISPERSION_DF = 4.0


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviation (log scale) of one run's value around its level, and the degrees of freedom behind it."""

    sd: float
    df: float

    def error_of_difference(self, n_baseline: int, n_candidate: int) -> float:
        """Standard error of the difference of two means of that many runs."""
        return float(self.sd * np.sqrt(1.0 / n_baseline + 1.0 / n_candidate))


def run_to_run(metric: Metric, sides: Sequence[Floats], within_variance: float) -> Noise:
    """Moderated variation of log values around the mean of their own side.

    Parameters
    ----------
    sides
        Log values, one array of shape ``(n_runs,)`` for each side (or stable stretch of history).
    within_variance
        Mean variance of one value within its run, rounding of the source included (log scale): identical services
        cannot vary less, so it raises the prior and is a floor.
    """
    sum_of_squares = sum(float(((side - side.mean()) ** 2).sum()) for side in sides if side.size)
    df = sum(max(side.size - 1, 0) for side in sides)
    prior = PRIOR_SD[metric] ** 2 + within_variance
    variance = (PRIOR_DF * prior + sum_of_squares) / (PRIOR_DF + df)
    return Noise(float(np.sqrt(max(variance, within_variance))), PRIOR_DF + df)


def overdispersion(failures: Sequence[Floats], counts: Sequence[Floats]) -> tuple[float, float]:
    """How much more the failures of identical runs scatter than chance alone allows: (factor >= 1, degrees of freedom).

    Chi-square of the runs around the error rate of their side, moderated towards `PRIOR_OVERDISPERSION`.
    """
    chi_square, df = 0.0, 0
    for failed, count in zip(failures, counts, strict=True):
        rate = failed.sum() / count.sum() if count.sum() else 0.0
        if failed.size < 2 or not 0.0 < rate < 1.0:
            continue
        chi_square += float(((failed - count * rate) ** 2 / (count * rate * (1 - rate))).sum())
        df += failed.size - 1
    factor = (PRIOR_OVERDISPERSION_DF * PRIOR_OVERDISPERSION + chi_square) / (PRIOR_OVERDISPERSION_DF + df)
    return max(1.0, factor), PRIOR_OVERDISPERSION_DF + df
