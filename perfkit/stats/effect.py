"""Noise, effect, interval and p for one metric of one service; nothing here knows what is acceptable.

The run is the unit.  Few runs say little about their own variance, so the sample variance is moderated towards a prior
(Smyth 2004, doi:10.2202/1544-6115.1027): ``s^2 = (d0 s0^2 + SS) / (d0 + df)`` with ``d0 + df`` degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy.special import betainc, fdtrc, gammaln, ndtri, polygamma, stdtr, stdtrit

from perfkit.model.records import LevelArithmetic, Metric, RateArithmetic
from perfkit.stats.summary import BLOCKS, Floats

Test = TypeVar("Test")
CONFLICT = 0.5  # p-value of the scatter seen, given the prior, from which on the prior counts for less
# How much less: in proportion to that p to a power between these, one less than the degrees of freedom of the scatter:
# the F test of few can hardly tell, and would throw away the prior at random.
SUSPICION = (1.0, 2.5)
PRIOR_DF = 3.5  # of a within-run error that was measured: it foretells the scatter between runs well
# ... and very well where the runs show no slow waves: with so many degrees of freedom, so many more for each one of the
# scatter that could contradict it, up to a most, and divided by 1 + DISTRUST * persistence where there are waves.
LEAST_PRIOR_DF, TRUST, MOST_PRIOR_DF, DISTRUST = 7.0, 1.75, 16.0, 20.0
# Half of such set-ups scatter by less than 0.87 times what their runs foretell (0.41 to 1.0 of 10 calm ones, 0.6 to 1.3
# of 24 endpoints with waves), and nothing inside a run shows what only differs between runs.  So the level expected is
# on the safe side by CAUTION where nothing could contradict it, by half of it with one degree of freedom, and so on.
TYPICAL, CAUTION = 0.87, 0.6
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
EXTRA_SD_WAVES = 0.003  # the same where slow waves are known (maximum of the F likelihood of 12 real set-ups)
# Chi-square per degree of freedom of failures between identical runs: 0.3 to 1.8 in 13 real sets of ten runs, mean
# 0.96, which is no more scatter than their nine degrees of freedom give by themselves.
PRIOR_OVERDISPERSION = 1.2
PRIOR_OVERDISPERSION_DF = 8.0
HISTORY_SHARE = 2.0 / 3.0  # degrees of freedom per successive difference (von Neumann, doi:10.1214/aoms/1177731677)
POOLED_FROM = 21  # services whose scatter tells how alike they are
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
    """Standard deviation (log scale) of one run's value around its level, and the degrees of freedom behind it.

    ``weekday_error``: what the errors of weekdays that were taken out add to the variance of a difference of means, in
    variances of one run.
    """

    sd: float
    df: float
    scatter: Scatter | None = field(default=None, repr=False, compare=False)
    weekday_error: float = 0.0

    def error(self, *runs: int) -> float:
        """Standard error of the mean of that many runs, or of the difference of two such means."""
        return self.sd * math.sqrt(sum(1.0 / n for n in runs) + (self.weekday_error if len(runs) > 1 else 0.0))


@dataclass(frozen=True, slots=True)
class Weekdays:
    """A weekday pattern that was taken out of the values of both sides, all now as on those of the candidate.

    Parameters
    ----------
    factors
        Of each weekday, Monday first (`stats.season.WeekdayPattern`).
    error
        As `Noise.weekday_error`.
    spent_df
        Degrees of freedom of the scatter that went into the pattern: it was estimated from runs of the baseline too.
    """

    factors: tuple[float, ...]
    error: float
    spent_df: float


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How much the ``services`` of the same runs scatter beyond the error within a run, with the df for one of them."""

    extra_sd: float
    df: float
    services: int


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
        Sum of squares and degrees of freedom from earlier runs (`scatter_of_steps`).
    neighbours
        What the other services of the same runs tell (`with_neighbours`).
    weekdays
        What was taken out of the values; ``None`` where nothing was.
    persistence
        Exponent of the slow waves within the runs, their mean less its standard error; ``None`` where a run cannot
        tell.  From a block of a run to the whole run such noise grows by the number of blocks to this power.
    """

    within_variance: float = 0.0
    measured: bool = False
    floor: float = 0.0
    history: tuple[float, float] = (0.0, 0.0)
    persistence: float | None = None
    neighbours: Neighbours | None = None
    weekdays: Weekdays | None = None

    def level(self, df_of_scatter: float) -> float | None:
        """How many times what runs foretell that show their slow waves is expected; ``None`` of others."""
        of_neighbours = self.neighbours is not None and self.neighbours.df > PRIOR_DF
        if of_neighbours or not self.measured or self.persistence is None:
            return None
        return float(TYPICAL + CAUTION * 0.5**df_of_scatter)

    def noise(self, metric: Metric, df_of_scatter: float = 0.0) -> Noise:
        """The noise to expect of a run, where the scatter seen has so many degrees of freedom.

        What neighbours show of the scatter between runs is better known than what the inside of the runs foretells.
        However little that is worth, with the scatter it makes one degree of freedom: of fewer, Student's t has
        intervals that say nothing (at a half, from -100 % to 10^17 %).
        """
        extra, df, waves = PRIOR_SD[metric], PRIOR_DF_ASSUMED, min(max(self.persistence or 0.0, 0.0), 1.0)
        level = self.level(df_of_scatter)
        if self.measured:
            extra, df = EXTRA_SD, PRIOR_DF
        if level is not None:
            extra, df = EXTRA_SD_WAVES, min(LEAST_PRIOR_DF + TRUST * df_of_scatter, MOST_PRIOR_DF)
        elif self.neighbours is not None and self.neighbours.df > df:
            extra, df, waves = self.neighbours.extra_sd, self.neighbours.df, 0.0
        variance = self.within_variance * BLOCKS**waves * (level or 1.0) ** 2 + extra**2
        return Noise(float(np.sqrt(variance)), max(df / (1.0 + DISTRUST * waves), 1.0 - df_of_scatter))


def run_to_run(metric: Metric, sides: Sequence[Floats], prior: NoisePrior) -> Noise:
    """Moderated variation of log values around the mean of their own side.

    Parameters
    ----------
    sides
        Log values, one array of shape ``(n_runs,)`` for each side (or stable stretch of history).
    prior
        What the runs themselves and their scenario's history tell of the noise.
    """
    of_sides = tuple(float(((side - side.mean()) ** 2).sum()) for side in sides if side.size)
    df_of_sides = float(sum(side.size - 1 for side in sides if side.size))
    if prior.weekdays is not None:
        df_of_sides = max(df_of_sides - prior.weekdays.spent_df, 0.0)
    squares, df = sum(of_sides) + prior.history[0], df_of_sides + prior.history[1]
    expected = prior.noise(metric, df)
    weight = _prior_weight(expected, squares, df)
    variance = (weight * expected.sd**2 + squares) / (weight + df)
    scatter = Scatter(prior, expected, weight, of_sides, df_of_sides)
    sd = float(np.sqrt(max(variance, prior.floor)))
    return Noise(sd, weight + df, scatter, prior.weekdays.error if prior.weekdays is not None else 0.0)


def _prior_weight(prior: Noise, squares: float, df: float) -> float:
    """Degrees of freedom of the prior that are left when the runs scatter more than it foretells.

    A prior that the data contradict is discounted (a power prior: Ibrahim & Chen 2000, doi:10.1214/ss/1009212519), here
    by a power of the p-value of the F test of their variances: without that, intervals cover 80 % instead of 95 % where
    runs vary six times as much among themselves as within.
    """
    if df <= 0:
        return prior.df
    p = float(fdtrc(df, prior.df, squares / df / prior.sd**2))
    power = min(max(df - 1.0, SUSPICION[0]), SUSPICION[1])
    return float(prior.df * min(p / CONFLICT, 1.0) ** power)


def steps_of_history(logs: Floats) -> Floats:
    """Successive differences of a history of log values, oldest first, shape ``(n_runs - 1,)``.

    So slow drift and steps between stable stretches do not count as noise; a difference beyond `CLIP` robust standard
    deviations counts as that much.
    """
    steps: Floats = np.diff(logs)
    if steps.size >= 5 and (robust := 1.4826 * float(np.median(np.abs(steps)))) > 0:
        steps = np.clip(steps, -CLIP * robust, CLIP * robust)
    return steps


def scatter_of_steps(steps: Floats) -> tuple[float, float]:
    """Sum of squares and degrees of freedom that `steps_of_history` tell of the noise of one run."""
    if steps.size == 0:
        return 0.0, 0.0
    df = max(HISTORY_SHARE * steps.size, 1.0)
    return float(np.mean(steps**2)) / 2.0 * df, df


def overdispersion(
    failures: Sequence[Floats], counts: Sequence[Floats], expected: float = PRIOR_OVERDISPERSION
) -> tuple[float, float]:
    """How much more the failures of identical runs scatter than chance alone allows: (factor >= 1, degrees of freedom).

    Chi-square of the runs around the error rate of their side, moderated towards what is ``expected``; a prior that
    the runs contradict counts for less.
    """
    chi_square, df = 0.0, 0
    for failed, count in zip(failures, counts, strict=True):
        rate = failed.sum() / count.sum() if count.sum() else 0.0
        if failed.size < 2 or not 0.0 < rate < 1.0:
            continue
        chi_square += float(((failed - count * rate) ** 2 / (count * rate * (1 - rate))).sum())
        df += failed.size - 1
    weight = _prior_weight(Noise(expected**0.5, PRIOR_OVERDISPERSION_DF), chi_square, df)
    return max(1.0, (weight * expected + chi_square) / (weight + df)), weight + df


FAR_OUT = 12.0  # standard deviations: what lies further off adds nothing to a tail, but takes its time


@dataclass(frozen=True, slots=True)
class Effect:
    """Candidate against baseline.

    ``change`` and the interval are in percent of the baseline (pp for the error rate); ``p_rise`` and ``p_fall`` are
    the one-sided p-values of the alternatives "candidate is larger" and "candidate is smaller".  ``noise`` is that of
    one run (``None`` for error rates); ``arithmetic`` has the numbers on the way.
    """

    change: float
    ci_low: float
    ci_high: float
    p_rise: float
    p_fall: float
    noise: Noise | None = None
    arithmetic: LevelArithmetic | RateArithmetic | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Values:
    """One metric of one service: a value per run of each side, shape ``(n_runs,)``, all > 0, and their errors.

    ``prior`` is what the runs and their history tell of the noise besides the values.  ``paired``: the k-th run of one
    side was made beside the k-th of the other, and what disturbed one disturbed both.
    """

    baseline: Floats
    candidate: Floats
    prior: NoisePrior = field(default_factory=NoisePrior)
    paired: bool = False

    @property
    def residuals(self) -> tuple[Floats, ...]:
        """Log values whose scatter around their own mean is noise, for each side, or for the pairs.

        The difference of a pair has twice the variance of a run, so that it is divided by the root of two.
        """
        before, after = np.log(self.baseline), np.log(self.candidate)
        return ((after - before) / np.sqrt(2.0),) if self.paired else (before, after)


def with_neighbours(metric: Metric, services: Sequence[Values]) -> list[Values]:
    """One metric of many services of the same runs: each with what they show together of the scatter between runs.

    Their variance beyond the error within a run is estimated as one (weighted least squares of the squares, iterated).
    Around it the variances of the services scatter more than chance alone allows by how unlike the services are: so
    many degrees of freedom has what they have in common (Smyth 2004, section 6.2).  It has no more than the services
    hold together, given how their runs move together, less its own share: what disturbs all services of a run alike is
    seen once, however many they are.  Fewer than `POOLED_FROM` services, or two runs, tell nothing.
    """
    sides = services[0].residuals if services else ()
    df = sum(side.size - 1 for side in sides if side.size)
    logs = np.array([np.concatenate([side - side.mean() for side in s.residuals if side.size]) for s in services])
    spent = np.array([0.0 if s.prior.weekdays is None else s.prior.weekdays.spent_df for s in services])
    squares = (logs**2).sum(axis=1) if services else np.empty(0)
    variances = squares / np.maximum(df - spent, 1.0)
    is_known = variances > 0  # what was rounded to one value says nothing
    count = int(is_known.sum())
    if df < 2 or count < POOLED_FROM:
        return list(services)
    seen, within = variances[is_known], np.array([s.prior.within_variance for s in services])
    least = (EXTRA_SD if services[0].prior.measured else PRIOR_SD[metric]) ** 2
    extra = least
    for _ in range(20):
        weights = (within[is_known] + extra) ** -2
        extra = max(float((weights * (seen - within[is_known])).sum() / weights.sum()), least)
    expected = within + extra
    weights, scales = expected[is_known] ** -2, expected[is_known] ** -1
    unlike = float(np.log(seen / expected[is_known]).var(ddof=1)) - float(polygamma(1, df / 2))
    units = logs[is_known] / np.sqrt(squares[is_known] / scales)[:, None]
    products = units @ units.T if count < df else units.T @ units  # as large as there are services, or runs
    own = float((scales**2).sum())
    pairs = float(scales.sum()) ** 2 - own
    together = float((products**2).sum() - own) / pairs  # mean squared correlation
    together = max((together - 1.0 / df) / (1.0 - 1.0 / df), 0.0)
    held = df * expected**2 * weights.sum() ** 2 / (own + pairs * together) - df
    most = min(2.0 * _inverse_trigamma(unlike) if unlike > 0 else math.inf, PRIOR_DF + 2.0 * df)
    return [
        replace(s, prior=replace(s.prior, neighbours=Neighbours(math.sqrt(extra), min(most, float(of_service)), count)))
        for s, of_service in zip(services, held, strict=True)
    ]


def _inverse_trigamma(value: float) -> float:
    """The x whose trigamma is ``value`` > 0, by Newton's method."""
    x = 0.5 + 1.0 / value
    for _ in range(20):
        trigamma = float(polygamma(1, x))
        x += trigamma * (1.0 - trigamma / value) / float(polygamma(2, x))
    return x


def compare_levels(metric: Metric, values: Values, confidence: float) -> Effect:
    """Latency or throughput: difference of mean logs with a moderated variance and Student's t.

    Assumes that run values scatter about alike on both sides on the log scale, and independently; of pairs, that their
    differences do.
    """
    before, after = np.log(values.baseline), np.log(values.candidate)
    noise = run_to_run(metric, values.residuals, values.prior)
    means = float(before.mean()), float(after.mean())
    numbers = level_arithmetic(means, noise, (before.size, after.size), confidence)
    shift, error, half = numbers.shift, numbers.error, numbers.quantile * numbers.error
    with np.errstate(over="ignore"):  # runs that know nothing: infinite
        change, low, high = (100.0 * float(np.expm1(log)) for log in (shift, shift - half, shift + half))
    return Effect(
        change=change,
        ci_low=low,
        ci_high=high,
        p_rise=float(stdtr(noise.df, -shift / error)),
        p_fall=float(stdtr(noise.df, shift / error)),
        noise=noise,
        arithmetic=numbers,
    )


def level_arithmetic(
    means: tuple[float, float], noise: Noise, runs: tuple[int, ...], confidence: float
) -> LevelArithmetic:
    """The numbers of a t test of two mean logs whose difference has the error of so many runs."""
    scatter = noise.scatter or Scatter(NoisePrior(), noise, noise.df, (), 0.0)
    prior, neighbours = scatter.given, scatter.given.neighbours
    return LevelArithmetic(
        means=means,
        shift=means[1] - means[0],
        within_sd=float(np.sqrt(prior.within_variance)),
        measured=prior.measured,
        prior_sd=scatter.expected.sd,
        prior_df=scatter.expected.df,
        weight=scatter.weight,
        squares=scatter.squares,
        squares_df=scatter.df,
        history_squares=float(prior.history[0]),
        history_df=float(prior.history[1]),
        sd=noise.sd,
        df=noise.df,
        runs=runs,
        error=noise.error(*runs),
        quantile=float(stdtrit(noise.df, 0.5 + confidence / 2.0)),
        floor_sd=math.sqrt(prior.floor),
        services=neighbours.services if neighbours is not None and neighbours.df == scatter.expected.df else 0,
        persistence=prior.persistence,
        prior_level=prior.level(scatter.df + prior.history[1]),
        weekday_factors=prior.weekdays.factors if prior.weekdays is not None and len(runs) > 1 else (),
        weekday_error=noise.weekday_error if len(runs) > 1 else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed requests and requests of each run of one side, shape ``(n_runs,)``."""

    failed: Floats
    counts: Floats

    @property
    def rate(self) -> float:
        """Pooled share of failed requests in [0, 1]."""
        return float(self.failed.sum() / self.counts.sum())


def compare_error_rates(baseline: Failures, candidate: Failures, confidence: float) -> Effect:
    """Error rates, zero baselines included: conditional exact test with mid-p, widened by run-to-run overdispersion.

    The interval for the difference is Newcombe's hybrid of two Wilson intervals (doi:10.1002/(SICI)1097-0258(19980430)
    17:8<873::AID-SIM779>3.0.CO;2-I) at the effective number of requests.  Assumes that failures inside one run are
    independent apart from the overdispersion seen between runs.
    """
    factor, df = overdispersion((baseline.failed, candidate.failed), (baseline.counts, candidate.counts))
    p_rise = rise_of_rates(baseline, candidate, factor, df)
    p_fall = rise_of_rates(candidate, baseline, factor, df)
    t = float(stdtrit(df, 0.5 + confidence / 2.0))
    low, high = difference_of_rates(baseline, candidate, t, factor)
    change = candidate.rate - baseline.rate
    return Effect(
        change=100.0 * change,
        ci_low=100.0 * low,
        ci_high=100.0 * high,
        p_rise=p_rise,
        p_fall=p_fall,
        arithmetic=rate_arithmetic((baseline, candidate), factor, df, t),
    )


def rate_arithmetic(
    sides: Sequence[Failures],
    factor: float,
    df: float,
    quantile: float,
    limit: float | None = None,
    beyond_ms: float | None = None,
    beyond: float | None = None,
) -> RateArithmetic:
    """The numbers of a test of error rates, or of the share of requests beyond a latency."""
    failed = tuple(round(float(side.failed.sum())) for side in sides)
    counts = tuple(round(float(side.counts.sum())) for side in sides)
    return RateArithmetic(failed, counts, factor, df, quantile, limit, beyond_ms, beyond)


def _mid_p_larger(lesser: Failures, larger: Failures) -> float:
    """P(this many failures or more on the ``larger`` side | all failures), half of the observed point (mid-p)."""
    n1, n2 = float(lesser.counts.sum()), float(larger.counts.sum())
    seen = float(np.round(larger.failed.sum()))
    total = float(np.round(lesser.failed.sum())) + seen
    if total == 0 or total == n1 + n2:
        return 0.5
    mean, share = total * n2 / (n1 + n2), n2 / (n1 + n2)
    reach = FAR_OUT * (math.sqrt(total * share * (1.0 - share)) + 5.0)
    begin, end = max(seen, math.floor(mean - reach)), min(total, n2, max(seen, mean) + reach)
    k = np.append(seen, np.arange(begin + (begin == seen), end + 1.0))
    k = k[total - k <= n1]
    log_p = _log_choose(n2, k) + _log_choose(n1, total - k) - _log_choose(n1 + n2, np.array([total]))
    peak = float(log_p.max())  # scipy's logsumexp does the same in ten times the time
    tail = math.exp(peak) * float(np.exp(log_p - peak).sum())
    return min(max(tail - 0.5 * float(np.exp(log_p[0])), 1e-300), 1.0)


def _log_choose(n: float, k: Floats) -> Floats:
    out: Floats = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return out


def rise_of_rates(lesser: Failures, larger: Failures, factor: float, df: float) -> float:
    """One-sided p of "the second rate is larger", for a given overdispersion and its degrees of freedom."""
    return _overdispersed(_mid_p_larger(lesser, larger), factor, df)


def rise_above_limit(failures: Failures, limit: float, factor: float, df: float) -> float:
    """One-sided p of "the rate is above ``limit``" (a share in (0, 1)): binomial tail with mid-p, overdispersed."""
    seen, n = float(np.round(failures.failed.sum())), float(failures.counts.sum())
    at_least = float(betainc(seen, n - seen + 1.0, limit)) if seen > 0 else 1.0  # P(this many or more)
    more = float(betainc(seen + 1.0, n - seen, limit)) if seen < n else 0.0
    return _overdispersed(max(0.5 * (at_least + more), 1e-300), factor, df)


def _overdispersed(p: float, factor: float, df: float) -> float:
    """A p-value made honest for scatter between runs: its normal score shrinks by sqrt(factor) and gets t tails."""
    return float(stdtr(df, ndtri(min(p, 1.0 - 1e-16)) / np.sqrt(factor)))


def difference_of_rates(baseline: Failures, candidate: Failures, z: float, factor: float) -> tuple[float, float]:
    """Interval of candidate minus baseline as shares, ``z`` standard scores wide (Newcombe's hybrid)."""
    p1, p2 = baseline.rate, candidate.rate
    l1, u1 = wilson(p1, float(baseline.counts.sum()) / factor, z)
    l2, u2 = wilson(p2, float(candidate.counts.sum()) / factor, z)
    change = p2 - p1
    return change - float(np.hypot(p2 - l2, u1 - p1)), change + float(np.hypot(u2 - p2, p1 - l1))


def wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share ``p`` of ``n`` (doi:10.1080/01621459.1927.10502953), ``z`` standard scores wide."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    # At p = 0 and p = 1 one end is exact, but rounding leaves 1e-17.
    return max(centre - half, 0.0) if p > 0 else 0.0, min(centre + half, 1.0) if p < 1 else 1.0


def weighted_holm(p_values: Mapping[Test, float], weights: Mapping[Test, float]) -> dict[Test, float]:
    """Adjusted p-values of Holm's step-down test with weights (Holm 1979, www.jstor.org/stable/4615733).

    A finding is rejected at level alpha when its adjusted value is <= alpha; the chance of any false rejection is then
    at most alpha, whatever the dependence.  Weights are > 0 and need not sum to one.

    >>> weighted_holm({"a": 0.01, "b": 0.04}, {"a": 1.0, "b": 1.0})
    {'a': 0.02, 'b': 0.04}
    """
    order = sorted(p_values, key=lambda name: p_values[name] / weights[name])
    remaining = sum(weights[name] for name in order)
    adjusted: dict[Test, float] = {}
    floor = 0.0
    for name in order:
        floor = max(floor, min(p_values[name] * remaining / weights[name], 1.0))
        adjusted[name] = floor
        remaining -= weights[name]
    return adjusted
