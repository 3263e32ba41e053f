"""What a set of runs can show, and how many more would settle a question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from perfkit.stats.effect import Failures, difference_of_rates, rise_above_limit, rise_of_rates, wilson
from perfkit.stats.noise import PRIOR_DF, Noise, overdispersion

POWER = 0.8  # the usual convention: a change of the detectable size is called in four comparisons of five
MOST_REQUESTS = 10**8
FEW_FAILURES = 200  # with more, the score of the exact test of error rates is as good as the test
MOST_RUNS = 200  # beyond this a design is wrong, not merely short of runs


@dataclass(frozen=True, slots=True)
class Design:
    """Runs on each side and the level at which one finding is tested (alpha times its weight).

    Parameters
    ----------
    n_baseline
        0 where the candidate's own level is judged against an absolute limit.
    df_per_run
        Degrees of freedom that one further run on each side adds: 1 where only the differences of pairs, or only the
        candidate's runs, tell the noise.
    """

    n_baseline: int
    n_candidate: int
    level: float
    df_per_run: int = 2

    def error(self, noise: Noise) -> float:
        """Standard error of what is judged, on the log scale."""
        return noise.sd * math.sqrt(sum(1.0 / n for n in (self.n_baseline, self.n_candidate) if n))

    def grown(self, runs: int) -> Design:
        """The same with so many further runs on each side."""
        n_baseline = self.n_baseline + runs if self.n_baseline else 0
        return replace(self, n_baseline=n_baseline, n_candidate=self.n_candidate + runs)


def min_detectable_log(noise: Noise, design: Design, power: float = POWER, tolerance: float = 0.0) -> float:
    """Smallest true shift (log scale, > 0) that a one-sided test at ``design.level`` calls with probability ``power``.

    What is called must lie beyond ``tolerance`` too.  Uses ``t_level + t_power`` standard errors, the usual
    approximation to the non-central t.
    """
    error = design.error(noise)
    called = max(float(stdtrit(noise.df, 1.0 - design.level)) * error, tolerance)
    return called + float(stdtrit(noise.df, power)) * error


def runs_needed(noise: Noise, design: Design, shift: float, tolerance: float, confidence: float) -> int | None:
    """Further runs on *each* side until the question is settled, if the shift seen is the true one.

    Settled means: the interval's bad side within ``tolerance``, or the shift significant at ``design.level`` and beyond
    it.  Log scale, positive is worse.  ``None`` where `MOST_RUNS` would not do.
    """
    for more in range(1, MOST_RUNS + 1):
        df = noise.df + design.df_per_run * more
        error = design.grown(more).error(noise)
        if shift + float(stdtrit(df, 0.5 + confidence / 2)) * error <= tolerance:
            return more
        if shift > tolerance and shift >= float(stdtrit(df, 1.0 - design.level)) * error:
            return more
    return None


def planned_noise(noise: Noise, runs_per_side: int) -> Noise:
    """The same variation with the degrees of freedom that a comparison of that many runs on each side will have."""
    return Noise(noise.sd, max(noise.df, PRIOR_DF + 2 * (runs_per_side - 1)))


@dataclass(frozen=True, slots=True)
class RateDesign:
    """Requests on each side, and how a rise of the error rate is judged.

    ``n_baseline`` is infinite where the rate is judged against an absolute limit.  ``tolerance`` is a share in [0, 1],
    ``factor`` and ``df`` are the overdispersion of the runs.
    """

    n_baseline: float
    n_candidate: float
    tolerance: float
    factor: float
    df: float
    level: float


def min_detectable_rate(rate: float, design: RateDesign, power: float = POWER) -> float:
    """Smallest true rise above ``rate`` (shares in [0, 1]) that is called with probability ``power``; ``nan``: none is.

    The outcome that is missed in one case of five must still be significant at ``design.level`` and beyond the
    tolerance.
    """
    spread = float(stdtrit(design.df, power))
    least = max(_least_called(rate, design), design.tolerance)

    def is_called(rise: float) -> bool:
        after = rate + rise
        chance = rate * (1 - rate) / design.n_baseline + after * (1 - after) / design.n_candidate
        return rise - spread * math.sqrt(design.factor * chance) >= least

    low, high = 0.0, 1.0 - rate
    if not is_called(high):
        return math.nan
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_called(middle) else (middle, high)
    return high


def _least_called(rate: float, design: RateDesign) -> float:
    """The smallest rise seen that is significant: by the test itself where failures are few, else by its score."""
    n1, n2 = design.n_baseline, design.n_candidate
    t = float(stdtrit(design.df, 1.0 - design.level)) * math.sqrt(design.factor)

    def scored(rise: float) -> bool:
        pooled = rate + rise * (n2 / (n1 + n2) if math.isfinite(n1) else 0.0)
        return rise >= t * math.sqrt(max(pooled * (1 - pooled), 0.0) * (1 / n1 + 1 / n2))

    def tested(failures: int) -> bool:
        seen = Failures(np.array([float(failures)]), np.array([n2]))
        if not math.isfinite(n1):
            return rise_above_limit(seen, rate, design.factor, design.df) <= design.level
        before = Failures(np.array([rate * n1]), np.array([n1]))
        return rise_of_rates(before, seen, design.factor, design.df) <= design.level

    low, high = 0.0, 1.0 - rate
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if scored(middle) else (middle, high)
    if (rate + high) * n2 > FEW_FAILURES:
        return high
    near = (rate + high) * n2
    first, last = math.floor(max(rate * n2, 0.5 * near)), min(int(n2), math.ceil(2.0 * near) + 5)
    if not tested(last):
        return math.inf
    while last - first > 1:
        middle_count = (first + last) // 2
        first, last = (first, middle_count) if tested(middle_count) else (middle_count, last)
    return last / n2 - rate


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

    return _first_that(settles, int(min(baseline.counts.sum(), candidate.counts.sum())))


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

    return _first_that(settles, int(failures.counts.sum()))


def _first_that(settles: Callable[[int], bool], low: int) -> int | None:
    """The number of requests from which on a question is settled, to half a percent."""
    high = MOST_REQUESTS
    if not settles(high):
        return None
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high
