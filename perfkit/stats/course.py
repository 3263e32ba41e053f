"""What the time course of a run says about the error of its own mean and rate.

Requests of a run are not independent; stretches of time much longer than a queue's memory nearly are (batch means, Law
2015, Simulation Modeling and Analysis, section 9.5.3).  Over 18 sets of identical real runs, this error inside each run
foretold how much the runs scatter among themselves to within a third, but for one set that drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit.stats.summary import Floats

BATCHES = 20  # long enough to outlast the memory of a saturated closed loop (means of 10 s in runs of 600 s)
LEAST_BATCHES = 4
START_CUT = 0.1  # share of the run left out here: users start together, which is no noise
MOST_REDUCTION = 0.6
LEAST_PER_BATCH = 5.0  # requests


@dataclass(frozen=True, slots=True)
class CourseErrors:
    """Standard errors of a whole run's average latency and request rate, as shares of their values."""

    average: float | None
    rate: float


def course_errors(at_s: Floats, counts: Floats, averages_ms: Floats | None) -> CourseErrors | None:
    """Errors from batches of time; ``None`` where the course is too short to tell.

    Parameters
    ----------
    at_s
        When the state was written down, seconds, ascending, shape ``(n,)``.
    counts
        Requests from the beginning until then, same shape, never falling.
    averages_ms
        Average latency from the beginning until then, same shape; ``None`` when it is not known well enough.
    """
    seen = np.flatnonzero(counts > 0)
    if seen.size < LEAST_BATCHES + 1:
        return None
    at_s, counts = at_s[seen[0] :], counts[seen[0] :]
    begin = at_s[0] + START_CUT * (at_s[-1] - at_s[0])
    batches = int(min(BATCHES, seen.size - 1, (counts[-1] - counts[0]) / LEAST_PER_BATCH))
    if batches < LEAST_BATCHES or at_s[-1] <= begin:
        return None
    edges = np.linspace(begin, at_s[-1], batches + 1)
    sizes = np.diff(np.interp(edges, at_s, counts))
    total = float(sizes.sum())
    if total <= 0:
        return None
    # A closed loop answers at a steadier pace than independent arrivals would: no Poisson floor here.
    rate = float(np.sqrt(_variance_of_total(sizes - sizes.mean())) / total)
    if averages_ms is None:
        return CourseErrors(None, rate)
    sums = np.diff(np.interp(edges, at_s, counts * averages_ms[seen[0] :]))
    weight = float(sums.sum())
    if weight <= 0:
        return CourseErrors(None, rate)
    return CourseErrors(float(np.sqrt(_variance_of_total(sums - weight / total * sizes)) / weight), rate)


def _variance_of_total(residuals: Floats) -> float:
    """Variance of the sum of batch residuals.

    With the correlation between neighbouring batches, which in a closed loop is negative as often as not; its estimate
    is noisy, so it may not take away more than `MOST_REDUCTION`.
    """
    n = residuals.size
    variance = float(residuals @ residuals) * n / (n - 1)
    return max(variance + 2.0 * float(residuals[:-1] @ residuals[1:]), (1.0 - MOST_REDUCTION) * variance)
