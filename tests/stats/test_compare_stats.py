"""Our statistics against those of SciPy and statsmodels, and against their own definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import scattered_failures
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from perfkit import Metric
from perfkit.stats import effect
from perfkit.stats.effect import (
    Failures,
    Noise,
    NoisePrior,
    Values,
    compare_error_rates,
    compare_levels,
    overdispersion,
    rise_above_limit,
    rise_of_rates,
    run_to_run,
    scatter_of_steps,
    steps_of_history,
    weighted_holm,
)
from perfkit.stats.power import (
    RequestDesign,
    RunDesign,
    requests_needed,
)


def failures(failed, counts):
    return Failures(np.atleast_1d(np.array(failed, float)), np.atleast_1d(np.array(counts, float)))


@pytest.fixture
def no_prior(monkeypatch):
    monkeypatch.setattr(effect, "_prior_weight", lambda *_: 0.0)


@pytest.fixture
def no_overdispersion(monkeypatch):
    """Chance alone: factor one, and so many degrees of freedom that t is normal."""
    monkeypatch.setattr(effect, "overdispersion", lambda *_: (1.0, 1e9))


@pytest.mark.parametrize(("n1", "n2"), [(5, 3), (2, 2), (9, 1), (10, 10)])
def test_levels_are_students_t_on_logs_when_nothing_is_known_beforehand(rng, no_prior, n1, n2):
    before, after = rng.lognormal(3, 0.05, n1), rng.lognormal(3.03, 0.05, n2)
    effect = compare_levels(Metric.AVG, Values(before, after), 0.95)
    oracle = scipy_stats.ttest_ind(np.log(after), np.log(before), alternative="greater")
    two_sided = scipy_stats.ttest_ind(np.log(after), np.log(before))
    interval = two_sided.confidence_interval(0.95)
    assert effect.p_rise == pytest.approx(oracle.pvalue)
    assert effect.p_fall == pytest.approx(1 - oracle.pvalue)
    assert effect.noise.df == oracle.df
    assert np.log1p(np.array([effect.ci_low, effect.ci_high]) / 100) == pytest.approx([interval.low, interval.high])
    assert effect.change == pytest.approx(100 * (scipy_stats.gmean(after) / scipy_stats.gmean(before) - 1))


LEVEL = 0.87 + 0.6 / 64  # of what the runs foretell, where six degrees of freedom could contradict it


@pytest.mark.parametrize(
    ("known", "prior_sd", "prior_df"),
    [
        (NoisePrior(), effect.PRIOR_SD[Metric.P95], effect.PRIOR_DF_ASSUMED),
        (NoisePrior(0.02**2), math.hypot(0.02, effect.PRIOR_SD[Metric.P95]), effect.PRIOR_DF_ASSUMED),
        (NoisePrior(0.02**2, measured=True), math.hypot(0.02, effect.EXTRA_SD), effect.PRIOR_DF),
        (
            NoisePrior(0.02**2, True, persistence=-0.3),
            math.hypot(0.02 * LEVEL, effect.EXTRA_SD_WAVES),
            effect.MOST_PRIOR_DF,
        ),
        (NoisePrior(0.02**2, True, persistence=0.5), math.hypot(LEVEL * 0.02 * 20**0.25, 0.003), 16 / 11),
        (NoisePrior(0.02**2, persistence=1.7), math.hypot(0.02 * 20**0.5, effect.PRIOR_SD[Metric.P95]), 3 / 21),
    ],
)
def test_moderated_variance_is_smyths(rng, known, prior_sd, prior_df):
    sides = rng.normal(3, prior_sd / 3, 5), rng.normal(3, prior_sd / 3, 3)  # nothing that contradicts the prior
    found = run_to_run(Metric.P95, sides, known)
    squares = sum(side.var(ddof=1) * (side.size - 1) for side in sides)
    assert found.df == prior_df + 6
    assert found.sd**2 == pytest.approx((prior_df * prior_sd**2 + squares) / found.df)


def test_the_rounding_of_the_source_is_a_floor():
    silent = (np.zeros(5), np.zeros(3))
    assert run_to_run(Metric.AVG, silent, NoisePrior(0.04, measured=True, floor=0.04)).sd == pytest.approx(0.2)


def test_a_history_adds_its_squares_and_degrees_of_freedom(rng):
    sides = rng.normal(3, 0.05, 1), rng.normal(3, 0.05, 1)
    found = run_to_run(Metric.AVG, sides, NoisePrior(0.01**2, measured=True, history=(0.01**2 * 20, 20.0)))
    assert found.df == effect.PRIOR_DF + 20
    assert found.sd == pytest.approx(0.01, rel=0.1)


def test_a_prior_that_the_runs_contradict_counts_for_little(rng):
    known = NoisePrior(0.002**2, measured=True)
    sides = rng.normal(3, 0.05, 4), rng.normal(3, 0.05, 4)
    found = run_to_run(Metric.AVG, sides, known)
    plain = math.sqrt(sum(side.var(ddof=1) for side in sides) / 2)
    assert 6 < found.df < 6.001
    assert found.sd == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("df", [0.0, 1.0, 30.0])
def test_calm_runs_are_believed_by_as_much_as_their_scatter_could_contradict_them(df):
    calm = NoisePrior(0.01**2, True, persistence=0.0)
    assert calm.noise(Metric.AVG, df).df == min(7 + 1.75 * df, 16)
    level = 1.47 if df == 0 else 1.17 if df == 1 else 0.87
    assert calm.noise(Metric.AVG, df).sd == pytest.approx(math.hypot(0.01 * level, 0.003))
    wavy = NoisePrior(0.01**2, True, persistence=0.4).noise(Metric.AVG, df)
    assert wavy.df == pytest.approx(calm.noise(Metric.AVG, df).df / 9 if df else 1.0)  # never below one in all
    assert wavy.sd > 1.7 * calm.noise(Metric.AVG, df).sd


def test_one_run_against_one_in_slow_waves_has_an_interval_that_people_can_read():
    wavy = NoisePrior(0.01**2, True, persistence=0.3)
    found = compare_levels(Metric.AVG, Values(np.array([100.0]), np.array([103.0]), wavy), 0.95)
    error = math.sqrt(2 * ((1.47 * 0.01) ** 2 * 20**0.3 + 0.003**2))
    half = scipy_stats.t.ppf(0.975, 1) * error
    assert (found.ci_low, found.ci_high) == pytest.approx(
        tuple(100 * np.expm1(math.log(1.03) + half * np.array([-1, 1])))
    )
    lost = compare_levels(Metric.AVG, Values(np.ones(1), np.ones(1), NoisePrior(1e5, True, persistence=1.0)), 0.95)
    assert (lost.ci_low, lost.ci_high) == (-100.0, math.inf)


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("within", [0.004, 0.013, None])
@pytest.mark.parametrize("sizes", [(3, 3), (5, 3), (10, 10)])
def test_intervals_cover_the_truth_however_much_runs_vary_beyond_what_they_show(rng, sd, within, sizes):
    waves = -0.1 if within == 0.013 else None
    known = NoisePrior() if within is None else NoisePrior(within**2, within is not None, persistence=waves)
    sd = math.hypot(sd, within or 0.0)
    covered = 0
    for _ in range(1500):
        before, after = (np.exp(rng.normal(3, sd, n)) for n in sizes)
        effect = compare_levels(Metric.AVG, Values(before, after, known), 0.95)
        covered += effect.ci_low <= 0.0 <= effect.ci_high
    assert covered / 1500 >= 0.925  # a run that shows nothing of its own errs on the wide side at 1 %
    assert within is None or covered / 1500 <= 0.98


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_scatter_of_a_history_sees_the_noise_and_not_the_step(rng, step):
    variances = []
    for _ in range(300):
        logs = rng.normal(0, 0.03, 30) + np.repeat([0.0, step], 15)
        squares, df = scatter_of_steps(steps_of_history(logs))
        variances.append(squares / df)
    assert np.mean(variances) == pytest.approx(0.03**2, rel=0.3 if step else 0.1)
    assert scatter_of_steps(steps_of_history(np.array([1.0]))) == (0.0, 0.0)


def test_degrees_of_freedom_of_successive_differences_are_honest(rng):
    """Variance of a chi-square share is 2/df: no more precision is claimed than there is."""
    found = np.array([scatter_of_steps(steps_of_history(rng.normal(0, 1, 25))) for _ in range(3000)])
    estimates = found[:, 0] / found[:, 1]
    assert 2 / (estimates / estimates.mean()).var() >= 0.9 * found[0, 1]


def test_error_of_a_difference():
    assert Noise(0.1, 5.0).error(4, 1) == pytest.approx(0.1 * math.sqrt(1.25))


# Error rates ------------------------------------------------------------------------------------------------------

TABLES = [
    (1, 300, 15, 1500),
    (0, 150, 1, 300),
    (0, 100, 0, 100),
    (30, 1000, 60, 1000),
    (5, 20000, 80, 12000),
    (7, 9, 9, 9),
]


@pytest.mark.parametrize(("k1", "n1", "k2", "n2"), TABLES)
def test_p_is_the_mid_p_of_fishers_exact_test(no_overdispersion, k1, n1, k2, n2):
    effect = compare_error_rates(failures(k1, n1), failures(k2, n2), 0.95)
    null = scipy_stats.hypergeom(n1 + n2, k1 + k2, n2)
    mid_p = null.sf(k2) + 0.5 * null.pmf(k2)
    assert effect.p_rise == pytest.approx(mid_p, rel=1e-5)
    assert effect.p_fall == pytest.approx(1 - mid_p, rel=1e-5)


@pytest.mark.parametrize(("k1", "n1", "k2", "n2"), TABLES)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_is_newcombes(no_overdispersion, k1, n1, k2, n2, confidence):
    effect = compare_error_rates(failures(k1, n1), failures(k2, n2), confidence)
    low, high = confint_proportions_2indep(k2, n2, k1, n1, method="newcomb", compare="diff", alpha=1 - confidence)
    assert (effect.ci_low, effect.ci_high) == pytest.approx((100 * low, 100 * high), abs=1e-6)
    assert effect.change == pytest.approx(100 * (k2 / n2 - k1 / n1))


def test_scatter_between_runs_widens_everything():
    even = compare_error_rates(failures([10, 10, 10], [1000] * 3), failures([25, 25, 25], [1000] * 3), 0.95)
    wild = compare_error_rates(failures([0, 2, 28], [1000] * 3), failures([1, 4, 70], [1000] * 3), 0.95)
    assert even.change == pytest.approx(wild.change)
    assert wild.p_rise > 10 * even.p_rise
    assert wild.ci_high - wild.ci_low > 2 * (even.ci_high - even.ci_low)


def test_overdispersion_is_the_moderated_chi_square(rng):
    counts = np.array([1000.0, 1500.0, 800.0])
    failed = np.array([10.0, 31.0, 4.0])
    rate = failed.sum() / counts.sum()
    chi_square = scipy_stats.chisquare(failed, counts * rate).statistic / (1 - rate)
    factor, df = overdispersion((failed, np.array([3.0])), (counts, np.array([1000.0])))
    contradicted = scipy_stats.f.sf(chi_square / 2 / effect.PRIOR_OVERDISPERSION, 2, effect.PRIOR_OVERDISPERSION_DF)
    weight = effect.PRIOR_OVERDISPERSION_DF * min(contradicted / effect.CONFLICT, 1.0)
    assert df == pytest.approx(weight + 2)
    assert factor == pytest.approx((weight * effect.PRIOR_OVERDISPERSION + chi_square) / df)


@pytest.mark.parametrize("failed", [[0, 0, 0], [100, 100, 100]])
def test_overdispersion_learns_nothing_from_runs_without_scatter_to_see(failed):
    side = np.array(failed, float)
    assert overdispersion((side, side), (np.full(3, 100.0),) * 2) == (
        effect.PRIOR_OVERDISPERSION,
        effect.PRIOR_OVERDISPERSION_DF,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_error_rates_of_runs_that_scatter_keep_their_level(rng, sizes, spread):
    trials, level = 3000, 0.01
    alarms = 0
    for _ in range(trials):
        sides = [np.array([scattered_failures(rng, 5000, 0.01, spread) for _ in range(n)], float) for n in sizes]
        pair = [Failures(failed, np.full(failed.size, 5000.0)) for failed in sides]
        alarms += compare_error_rates(*pair, 0.95).p_rise <= level
    assert alarms <= trials * level * 1.25 + 3 * math.sqrt(trials * level)


def test_overdispersion_is_never_below_chance():
    even = np.full(10, 50.0)
    assert overdispersion((even, even), (np.full(10, 1000.0),) * 2)[0] == 1.0


@given(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
)
def test_swapping_the_sides_mirrors_an_error_rate(one, other):
    there = compare_error_rates(failures(*one), failures(*other), 0.95)
    back = compare_error_rates(failures(*other), failures(*one), 0.95)
    assert (there.p_rise, there.p_fall) == pytest.approx((back.p_fall, back.p_rise))
    assert (there.ci_low, there.ci_high) == pytest.approx((-back.ci_high, -back.ci_low), abs=1e-9)
    assert there.ci_low - 1e-9 <= there.change <= there.ci_high + 1e-9
    assert 0 < there.p_rise < 1


# Correction -------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=30))
def test_holm_with_equal_weights_is_statsmodels(p_values):
    ours = weighted_holm(dict(enumerate(p_values)), dict.fromkeys(range(len(p_values)), 0.3))
    assert [ours[i] for i in range(len(p_values))] == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(st.tuples(st.floats(1e-9, 1.0), st.floats(0.01, 10.0)), min_size=1, max_size=12), st.floats(0.001, 0.3))
def test_weighted_holm_rejects_what_its_definition_rejects(pairs, alpha):
    ours = weighted_holm({i: p for i, (p, _) in enumerate(pairs)}, {i: w for i, (_, w) in enumerate(pairs)})
    left, rejected = dict(enumerate(pairs)), set()
    while left:
        total = sum(w for _, w in left.values())
        best = min(left, key=lambda i: left[i][0] / left[i][1])
        if left[best][0] > alpha * left[best][1] / total * (1 + 1e-9):
            break
        rejected.add(best)
        del left[best]
    assert {i for i, p in ours.items() if p <= alpha * (1 + 1e-9)} == rejected


def test_weight_buys_power_at_the_price_of_the_others():
    assert weighted_holm({"a": 0.006, "b": 0.5}, {"a": 9.0, "b": 1.0})["a"] == pytest.approx(0.006 / 0.9)
    assert weighted_holm({}, {}) == {}


def test_weighted_holm_holds_its_level_over_many_findings(rng):
    weights = dict(enumerate([0.5, 0.12, 0.1, 0.1, 0.07, 0.07, 0.04] * 3))
    alarms = 0
    for _ in range(4000):
        p = dict(enumerate(rng.random(len(weights))))
        alarms += min(weighted_holm(p, weights).values()) <= 0.05
    assert alarms <= scipy_stats.binom.ppf(0.999, 4000, 0.05)
    assert alarms >= scipy_stats.binom.ppf(0.001, 4000, 0.045)


# Planning ---------------------------------------------------------------------------------------------------------


def test_the_detectable_change_is_found_four_times_in_five(rng):
    effect = Noise(0.03, 9.0)
    design = RunDesign(effect, 5, 3, 0.002)
    critical = scipy_stats.t.ppf(1 - design.level, effect.df)
    error = effect.error(5, 3)
    draws = 40000
    shifts = rng.normal(design.min_detectable(), error, draws)
    seen = shifts / (error * np.sqrt(rng.chisquare(effect.df, draws) / effect.df))
    assert np.mean(seen >= critical) == pytest.approx(0.8, abs=0.06)


def test_more_runs_show_smaller_changes():
    steps = [RunDesign.planned(Noise(0.03, 9.0), n, 0.002).min_detectable() for n in (1, 2, 5, 20)]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(("shift", "tolerance"), [(0.0, 0.05), (0.03, 0.05), (0.09, 0.05), (-0.03, 0.0), (0.02, 0.0)])
def test_runs_needed_is_the_first_number_that_settles(shift, tolerance):
    design = RunDesign(Noise(0.05, 7.0), 3, 3, 0.002, tolerance)

    def settled(more):
        df = 7.0 + 2 * more
        error = 0.05 * math.sqrt(2 / (3 + more))
        return shift + scipy_stats.t.ppf(0.975, df) * error <= tolerance or (
            tolerance < shift and shift >= scipy_stats.t.ppf(0.998, df) * error
        )

    more = design.runs_needed(shift, 0.95)
    assert settled(more)
    assert not any(settled(fewer) for fewer in range(1, more))


def test_a_change_as_large_as_its_tolerance_needs_endless_runs():
    assert RunDesign(Noise(0.05, 7.0), 3, 3, 0.002, 0.05).runs_needed(0.0499, 0.95) is None


def test_that_many_requests_settle_the_question_four_times_in_five(rng):
    """As the comparison itself would judge them, not as a textbook formula would."""
    seen = failures([3], [1000]), failures([12], [1000])
    needed = requests_needed(*seen, 0.005, 0.001, 0.95)
    called = [
        compare_error_rates(failures([k1], [needed]), failures([k2], [needed]), 0.95).p_rise <= 0.001
        for k1, k2 in zip(rng.binomial(needed, 0.003, 400), rng.binomial(needed, 0.012, 400), strict=True)
    ]
    assert 0.75 <= np.mean(called) <= 0.98


def test_that_many_requests_show_no_change_four_times_in_five(rng):
    needed = requests_needed(failures([10], [1000]), failures([10], [1000]), 0.005, 0.001, 0.95)
    shown = [
        compare_error_rates(failures([k1], [needed]), failures([k2], [needed]), 0.95).ci_high <= 0.5
        for k1, k2 in rng.binomial(needed, 0.01, (400, 2))
    ]
    assert 0.75 <= np.mean(shown) <= 0.98


def test_a_wider_confidence_needs_more_requests():
    """It was 95 % whatever the policy said."""
    same = failures([10], [1000]), failures([10], [1000])
    wide, narrow = (requests_needed(*same, 0.005, 0.001, confidence) for confidence in (0.99, 0.8))
    assert wide > 1.5 * requests_needed(*same, 0.005, 0.001, 0.95) > 1.5 * narrow


def test_a_change_just_beyond_its_tolerance_needs_more_requests_than_one_far_beyond():
    """What is called lies beyond the tolerance too, in four cases of five."""
    near = requests_needed(failures([100], [10000]), failures([160], [10000]), 0.005, 0.001, 0.95)
    assert near > requests_needed(failures([100], [10000]), failures([300], [10000]), 0.005, 0.001, 0.95)
    called = [
        compare_error_rates(failures([k1], [near]), failures([k2], [near]), 0.95).change > 0.5
        for k1, k2 in zip(
            np.random.default_rng(2).binomial(near, 0.01, 300),
            np.random.default_rng(3).binomial(near, 0.016, 300),
            strict=True,
        )
    ]
    assert np.mean(called) >= 0.75


@pytest.mark.parametrize(
    ("rate", "n_baseline", "n_candidate", "level"),
    [
        (0.002, 25000, 15000, 0.0007),
        (0.002, 25000, 15000, 0.01),
        (0.0, 25000, 15000, 0.0007),
        (0.01, 1500, 500, 0.0007),
        (0.05, 3000, 3000, 0.0001),
        (0.01, 400_000, 400_000, 0.0007),
    ],
)
def test_the_detectable_rise_of_an_error_rate_is_called_four_times_in_five(rng, rate, n_baseline, n_candidate, level):
    """At the level at which it is tested, not at one of 0.01 whatever alpha and the number of findings are."""
    design = RequestDesign(n_baseline, n_candidate, level, 0.0, 1.0, 12.0)
    rise = design.min_detectable(rate)
    called = [
        rise_of_rates(failures([k1], [n_baseline]), failures([k2], [n_candidate]), 1.0, 12.0) <= level
        for k1, k2 in zip(rng.binomial(n_baseline, rate, 300), rng.binomial(n_candidate, rate + rise, 300), strict=True)
    ]
    assert 0.8 - 0.1 <= np.mean(called) <= 0.8 + 0.12
    assert replace(design, level=level / 20).min_detectable(rate) > rise
    assert replace(design, tolerance=2 * rise).min_detectable(rate) > 2 * rise


def test_a_rise_that_nothing_could_show_is_unknown():
    assert math.isnan(RequestDesign(3, 3, 0.0001, 0.0, 1.2, 8.0).min_detectable(0.0))


@pytest.mark.parametrize("failed", [0, 3, 40, 4900])
def test_a_rate_above_its_limit_has_the_p_of_the_binomial(failed):
    """Without overdispersion and with normal tails the mid-p is that of the table."""
    at = scipy_stats.binom(5000, 0.002)
    want = at.sf(failed - 1) - 0.5 * at.pmf(failed)
    got = rise_above_limit(failures([failed], [5000]), 0.002, 1.0, 1e9)
    assert got == pytest.approx(want, rel=1e-4, abs=1e-15)


def test_pairs_add_one_degree_of_freedom_each():
    """A pair tells one difference, and not two values."""
    apart, paired = (RunDesign(Noise(0.05, 2.5), 3, 3, 0.002, 0.05, df_per_run=df) for df in (2, 1))
    assert paired.runs_needed(0.0, 0.95) >= apart.runs_needed(0.0, 0.95)
    alone = RunDesign(Noise(0.04, 5.0), 0, 4, 0.002)
    assert alone.error() == pytest.approx(0.02)
    assert alone.error(5) == pytest.approx(0.04 / 3)


def test_requests_needed_where_none_would_do():
    assert requests_needed(failures([0], [1000]), failures([5], [1000]), 0.005, 0.001, 0.95) is None
    same = failures([10], [1000]), failures([10], [1000])
    assert requests_needed(*same, 0.005, 0.001, 0.95) > requests_needed(*same, 0.01, 0.001, 0.95)
