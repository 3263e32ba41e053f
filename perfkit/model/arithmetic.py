"""The numbers between the values of the runs and a verdict, kept with the finding that they led to.

They are filled in where a judgement is made, so that whoever explains it later, from a result file too, computes
nothing.  Logarithms are natural.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfkit.model.codec import Count, Share, Size


@dataclass(frozen=True, slots=True)
class LevelArithmetic:
    """A latency or throughput on the logarithmic scale: how much runs scatter, and the t test.

    Parameters
    ----------
    means
        Mean log value of the baseline, or the logarithm of an absolute limit, and that of the candidate.
    shift
        The second mean less the first.
    within_sd, measured
        Standard deviation of a value within its run, and whether the runs measured it themselves.
    prior_sd, prior_df, weight
        What is expected of the scatter between runs, and the degrees of freedom that are left of it where the runs
        contradict it.
    squares, squares_df
        Sums of squares around the mean of each side, or of the differences of pairs over the root of two.
    history_squares, history_df
        The same of earlier runs; zeros where none are used.
    sd, df, floor_sd
        Run-to-run standard deviation: ``sqrt((weight prior_sd^2 + squares + history_squares) / df)``, not below
        ``floor_sd``, which the rounding of the source leaves.
    runs
        Numbers of runs n of which ``error = sd sqrt(sum(1/n))``.
    error, quantile
        Standard error of ``shift``, and the quantile of Student's t that makes the interval of it.
    """

    means: tuple[float, float]
    shift: float
    within_sd: Size
    measured: bool
    prior_sd: Size
    prior_df: Size
    weight: Size
    squares: tuple[Size, ...]
    squares_df: Size
    history_squares: Size
    history_df: Size
    sd: Size
    df: Size
    runs: tuple[Count, ...]
    error: Size
    quantile: Size
    floor_sd: Size = 0.0

    def __post_init__(self) -> None:
        if not self.error > 0:
            raise ValueError(f"error: must be above 0, got {self.error!r}")

    @property
    def scatter_df(self) -> float:
        """Degrees of freedom of all sums of squares."""
        return self.squares_df + self.history_df

    @property
    def t(self) -> float:
        """The statistic of the test."""
        return self.shift / self.error

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval of `shift`."""
        return self.shift - self.quantile * self.error, self.shift + self.quantile * self.error

    @property
    def change_pct(self) -> float:
        """`shift` in percent of the baseline, or of the absolute limit."""
        return 100.0 * math.expm1(min(self.shift, 700.0))


@dataclass(frozen=True, slots=True)
class RateArithmetic:
    """An error rate: failed requests and requests of each side, and how much more runs scatter than chance allows.

    Of an absolute limit both have the candidate's number only, and ``limit`` is the share that is allowed.
    """

    failed: tuple[Count, ...]
    requests: tuple[Count, ...]
    overdispersion: Size
    df: Size
    quantile: Size
    limit: Share | None = None

    @property
    def rates_pct(self) -> tuple[float, ...]:
        """The error rate of each side in percent; ``nan`` of no request."""
        pairs = zip(self.failed, self.requests, strict=True)
        return tuple(100 * failed / requests if requests else math.nan for failed, requests in pairs)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a verdict was computed from.

    Parameters
    ----------
    baseline, candidate
        Value of each run in the metric's unit, of pairs in their order; ``None`` where a run cannot say.
    verdict
        What these numbers come to by themselves; the finding's own differs where its warnings say why.
    alpha, share, tests
        The alarm budget of the whole comparison, the part of it that this judgement has, and how many judgements share
        it; ``None`` and 0 under fixed limits.
    paired
        Whether the runs were compared pair by pair.
    worsening, bad_side
        What the verdict compared with the tolerance, in the unit of the change: how much worse the candidate is, and
        how much worse it is at the bad end of the interval; ``None`` where neither was computed.
    levels, rates
        The arithmetic of the test; both ``None`` where fixed limits are compared, or nothing could be computed.
    """

    baseline: tuple[float | None, ...]
    candidate: tuple[float | None, ...]
    verdict: str
    alpha: Share | None = None
    share: Share | None = None
    tests: Count = 0
    paired: bool = False
    levels: LevelArithmetic | None = None
    rates: RateArithmetic | None = None
    worsening: float | None = None
    bad_side: float | None = None

    def __post_init__(self) -> None:
        for side in ("baseline", "candidate"):
            values = tuple(None if value is None else float(value) for value in getattr(self, side))
            object.__setattr__(self, side, values)
