"""What a set of runs can show, and how many more would settle a question.

Of a level (latency, throughput) the run counts, of an error rate the request: a `RunDesign` and a `RequestDesign` say
how many there are and how a worsening is judged.  Both answer the same questions: ``min_detectable``, the smallest true
worsening that is called with a given probability, and ``runs_needed`` or ``requests_needed``, how many more would
settle what is open if what was seen is true.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from perfkit.stats.effect import (
    PRIOR_DF,
    Failures,
    Noise,
    difference_of_rates,
    overdispersion,
    rise_above_limit,
    rise_of_rates,
    wilson,
)

POWER = 0.8  # the usual convention: a change of the detectable size is called in four comparisons of five
MOST_REQUESTS = 10**8
FEW_FAILURES = 200  # with more, the score of the exact test of error rates is as good as the test
MOST_RUNS = 200  # beyond this a design is wrong, not merely short of runs


@dataclass(frozen=True, slots=True)
class RunDesign:
    """Runs on each side, how much they vary, and how a shift of their mean is judged (log scale, positive is worse).

    Parameters
    ----------
    noise
        Of one run.
    n_baseline
        0 where the candidate's own level is judged against an absolute limit.
    level
        Of the one-sided test: alpha times the share that this hypothesis has of it.
    tolerance
        What is called must lie beyond it too.
    df_per_run
        Degrees of freedom that one further run on each side adds: 1 where only the differences of pairs, or only the
        candidate's runs, tell the noise.
    """

    noise: Noise
    n_baseline: int
    n_candidate: int
    level: float
    tolerance: float = 0.0
    df_per_run: int = 2

    @classmethod
    def planned(cls, noise: Noise, runs_per_side: int, level: float) -> RunDesign:
        """So many runs on each side, with the degrees of freedom that a comparison of them will have."""
        planned = Noise(noise.sd, max(noise.df, PRIOR_DF + 2 * (runs_per_side - 1)))
        return cls(planned, runs_per_side, runs_per_side, level)

    def error(self, more: int = 0) -> float:
        """Standard error of what is judged, with so many further runs on each side."""
        return self.noise.error(*(n + more for n in (self.n_baseline, self.n_candidate) if n))

    def min_detectable(self, power: float = POWER) -> float:
        """Smallest true shift (> 0) that is called with probability ``power``.

        Uses ``t_level + t_power`` standard errors, the usual approximation to the non-central t.
        """
        error, df = self.error(), self.noise.df
        called = max(float(stdtrit(df, 1.0 - self.level)) * error, self.tolerance)
        return called + float(stdtrit(df, power)) * error

    def runs_needed(self, shift: float, confidence: float) -> int | None:
        """Further runs on *each* side until the question is settled, if the shift seen is the true one.

        Settled means: the interval's bad side within the tolerance, or the shift significant and beyond it.  ``None``
        where `MOST_RUNS` would not do.
        """
        for more in range(1, MOST_RUNS + 1):
            df, error = self.noise.df + self.df_per_run * more, self.error(more)
            if shift + float(stdtrit(df, 0.5 + confidence / 2)) * error <= self.tolerance:
                return more
            if shift > self.tolerance and shift >= float(stdtrit(df, 1.0 - self.level)) * error:
                return more
        return None


@dataclass(frozen=True, slots=True)
class RequestDesign:
    """Requests on each side, and how a rise of the error rate is judged.

    ``n_baseline`` is infinite where the rate is judged against an absolute limit.  ``tolerance`` is a share in [0, 1],
    ``overdispersion`` and ``df`` are those of the runs.
    """

    n_baseline: float
    n_candidate: float
    level: float
    tolerance: float
    overdispersion: float
    df: float

    def min_detectable(self, rate: float, power: float = POWER) -> float:
        """Smallest true rise above ``rate`` (shares in [0, 1]) that is called with probability ``power``; else ``nan``.

        The outcome that is missed in one case of five must still be significant and beyond the tolerance.
        """
        spread = float(stdtrit(self.df, power))
        least = max(self._least_significant(rate), self.tolerance)

        def is_called(rise: float) -> bool:
            after = rate + rise
            chance = rate * (1 - rate) / self.n_baseline + after * (1 - after) / self.n_candidate
            return rise - spread * math.sqrt(self.overdispersion * chance) >= least

        return _bisected(is_called, 1.0 - rate) if is_called(1.0 - rate) else math.nan

    def _least_significant(self, rate: float) -> float:
        """The smallest rise seen that is significant: by the test itself where failures are few, else by its score."""
        n1, n2 = self.n_baseline, self.n_candidate
        t = float(stdtrit(self.df, 1.0 - self.level)) * math.sqrt(self.overdispersion)

        def by_score(rise: float) -> bool:
            pooled = rate + rise * (n2 / (n1 + n2) if math.isfinite(n1) else 0.0)
            return rise >= t * math.sqrt(max(pooled * (1 - pooled), 0.0) * (1 / n1 + 1 / n2))

        def by_test(failures: int) -> bool:
            seen = Failures(np.array([float(failures)]), np.array([n2]))
            if not math.isfinite(n1):
                return rise_above_limit(seen, rate, self.overdispersion, self.df) <= self.level
            before = Failures(np.array([rate * n1]), np.array([n1]))
            return rise_of_rates(before, seen, self.overdispersion, self.df) <= self.level

        rise = _bisected(by_score, 1.0 - rate)
        failures = (rate + rise) * n2
        if failures > FEW_FAILURES:
            return rise
        first, last = math.floor(max(rate * n2, 0.5 * failures)), min(int(n2), math.ceil(2.0 * failures) + 5)
        if not by_test(last):
            return math.inf
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if by_test(middle) else (middle, last)
        return last / n2 - rate


def _bisected(is_enough: Callable[[float], bool], high: float) -> float:
    """The smallest value in [0, ``high``] that is enough, to a part in 2^40; ``high`` where none is."""
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def requests_needed(
    baseline: Failures, candidate: Failures, tolerance: float, level: float, confidence: float
) -> int | None:
    """Requests on *each* side that settle a question of error rates, if the rates seen are the true ones.

    The judgement itself, with the overdispersion that it found, is asked again for growing numbers of requests, with
    the difference as unfavourable as chance makes it in one case of five.  ``tolerance`` is a share in [0, 1]; ``None``
    where `MOST_REQUESTS` would not do.
    """
    factor, df = overdispersion((baseline.failed, candidate.failed), (baseline.counts, candidate.counts))
    before, after = baseline.rate, candidate.rate
    gap = after - before

    def settles(n: int) -> bool:
        chance = float(stdtrit(df, POWER)) * np.sqrt(factor * (before * (1 - before) + after * (1 - after)) / n)
        seen = max(gap - chance, 0.0) if gap > tolerance else max(gap + chance, 0.0)
        first, second = (Failures(np.array([s * n]), np.array([float(n)])) for s in (before, min(before + seen, 1.0)))
        if gap > tolerance:
            return seen > tolerance and rise_of_rates(first, second, factor, df) <= level
        return difference_of_rates(first, second, float(stdtrit(df, 0.5 + confidence / 2)), factor)[1] <= tolerance

    return least_requests(settles, int(min(baseline.counts.sum(), candidate.counts.sum())))


def requests_needed_for_limit(failures: Failures, limit: float, level: float, confidence: float) -> int | None:
    """Requests that settle whether an error rate keeps an absolute ``limit``, in the manner of `requests_needed`."""
    factor, df = overdispersion((failures.failed,), (failures.counts,))
    rate = failures.rate

    def settles(n: int) -> bool:
        chance = float(stdtrit(df, POWER) * np.sqrt(factor * rate * (1 - rate) / n))
        if rate > limit:
            seen = Failures(np.array([max(rate - chance, 0.0) * n]), np.array([float(n)]))
            return rise_above_limit(seen, limit, factor, df) <= level
        return wilson(min(rate + chance, 1.0), n / factor, float(stdtrit(df, 0.5 + confidence / 2)))[1] <= limit

    return least_requests(settles, int(failures.counts.sum()))


def least_requests(settles: Callable[[int], bool], low: int) -> int | None:
    """The number of requests from which on a question is settled, to half a percent."""
    high = MOST_REQUESTS
    if not settles(high):
        return None
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high
