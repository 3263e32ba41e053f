"""Windows of a ramp, knee, scalability law, the load under a promise: pure functions against known truths."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from closed_queue import SERVICE_S, THINK_S, WORKERS, ramp, share_slower, throughput, true_capacity
from hypothesis import given
from hypothesis import strategies as st

from perfkit.stats.capacity import (
    AT_LEAST,
    BELOW,
    FOUND,
    UNKNOWN,
    Crossing,
    LoadPath,
    ScalabilityFit,
    common_bins,
    crossing,
    cut,
    end_of_whole,
    find_knee,
    fit_scalability,
    isotonic,
    levels_at,
    over_runs,
    regrouped,
    resamples,
    scalability_at,
    summed,
    windows_of,
)
from perfkit.stats.summary import RequestArrays

LIMIT_S = 0.4


def windows_of_ramp(rng, **queue):
    path, requests = ramp(rng, **queue)
    end = end_of_whole(requests, 0.0)
    edges = cut(path, 0.0, end, requests.start_s.size)
    return windows_of(requests, edges, path.means(edges)), requests


def test_the_queue_of_these_tests_has_the_throughput_of_theory(rng):
    path, requests = ramp(rng, users=40, seconds=1.0, hold=400.0)
    steady = requests.start_s > 20
    assert steady.sum() / (path.time_s[-1] - 20) == pytest.approx(throughput(40), rel=0.02)
    slower = (requests.response_time_ms[steady] > 1000 * LIMIT_S).mean()
    assert slower == pytest.approx(share_slower(40, LIMIT_S), abs=0.01)


def test_a_path_knows_its_mean_between_any_two_times():
    path = LoadPath(np.array([0.0, 10.0, 20.0]), np.array([1.0, 3.0, 5.0]))
    assert path.means(np.array([-5.0, 0.0, 5.0, 15.0, 40.0])).tolist() == pytest.approx([1.0, 1.0, 2.0, 4.6])
    with pytest.raises(ValueError, match="load path: 2 times and 1 loads"):
        LoadPath(np.zeros(2), np.zeros(1))


@pytest.mark.parametrize(
    ("load", "most_within"),
    [
        (np.arange(100.0), 3.0),  # a ramp
        (np.repeat([20.0, 40.0, 60.0, 80.0, 100.0], 20), 20.0),  # stages
        (np.minimum(np.arange(400.0) * 5, 100.0), 10.0),  # a quick ramp and a long hold
    ],
)
def test_the_load_hardly_changes_within_a_window(load, most_within):
    path = LoadPath(np.arange(load.size, dtype=float), load)
    edges = cut(path, 0.0, float(load.size), 100_000)
    assert 20 <= edges.size - 1 <= 60
    assert np.diff(edges).min() >= 1.0
    assert (edges[0], edges[-1]) == (0.0, load.size)
    for left, right in pairwise(edges):
        inside = load[int(np.floor(left)) : int(np.ceil(right))]
        assert np.ptp(inside) <= most_within


def test_every_request_of_the_rising_part_is_in_one_window(rng):
    windows, requests = windows_of_ramp(rng, users=50, seconds=60.0)
    assert windows.started.sum() == (windows.index >= 0).sum()
    assert requests.start_s.size - windows.started.sum() < 0.05 * requests.start_s.size
    assert windows.completed.sum() <= windows.started.sum()
    where = windows.index == 30
    assert windows.mean_ms[30] == pytest.approx(requests.response_time_ms[where].mean())


def test_what_follows_a_peak_is_left_out():
    path = LoadPath(np.arange(60.0), np.concatenate([np.arange(30.0), np.full(30, 5.0)]))
    start = np.linspace(0.0, 59.0, 600)
    requests = RequestArrays(start, np.full(600, 10.0), np.zeros(600, bool))
    edges = cut(path, 0.0, 60.0, 600)
    windows = windows_of(requests, edges, path.means(edges))
    assert windows.load.max() >= 25
    assert start[windows.index >= 0].max() < 32


def test_windows_of_several_runs_are_put_together(rng):
    both = [windows_of_ramp(rng, users=40, seconds=40.0) for _ in range(2)]
    windows = [one for one, _ in both]
    group = np.concatenate([np.minimum(one.load // 10, 3) for one in windows]).astype(int)
    merged = regrouped(windows, [requests.response_time_ms for _, requests in both], group)
    assert merged.load.size == 4
    assert merged.started.sum() == sum(one.started.sum() for one in windows)
    assert np.all(np.diff(merged.load) > 0)
    known = np.isfinite(merged.quantile_ms["p95"])
    assert known.sum() >= 3
    assert (merged.quantile_ms["p95"] > merged.quantile_ms["p50"])[known].all()


def test_resamples_keep_the_number_of_windows_and_begin_with_the_sample():
    drawn = resamples(30, 50, seed=1)
    assert drawn.shape == (51, 30)
    assert (drawn.sum(axis=1) == 30).all()
    assert (drawn[0] == 1).all()
    assert (drawn[1:] != 1).any(axis=1).all()
    assert (drawn == resamples(30, 50, seed=1)).all()


# Knee ---------------------------------------------------------------------------------------------------------------


def test_the_knee_of_a_broken_line():
    load = np.linspace(1, 100, 50)
    line = find_knee(load, np.minimum(2 * load, 120.0), np.ones(50), resamples(50, 100))
    assert line.reason == ""
    assert line.load[0] == pytest.approx(60, abs=1.5)
    assert line.throughput[0] == pytest.approx(120, rel=0.03)
    assert line.rest[0] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("load", "shape", "reason"),
    [
        (np.linspace(1, 100, 50), lambda n: 2 * n, "throughput still follows the load at the highest load"),
        (np.linspace(1, 100, 50), lambda n: np.minimum(2 * n, 35 + 1.3 * n), "throughput still follows the load"),
        (np.linspace(90, 100, 50), lambda n: 2 * n, "the load hardly changed"),
        (np.linspace(1, 100, 8), lambda n: np.minimum(n, 50), "8 windows of load; a knee needs 12"),
    ],
)
def test_where_there_is_no_knee_the_reason_is_given(load, shape, reason):
    assert find_knee(load, shape(load), np.ones(load.size), resamples(load.size, 100)).reason.startswith(reason)


def test_the_knee_of_a_queue_is_where_its_asymptotes_meet(rng):
    windows, _ = windows_of_ramp(rng, users=100, seconds=300.0)
    line = find_knee(windows.load, windows.throughput, windows.seconds, resamples(windows.load.size, 200))
    assert line.load[0] == pytest.approx(WORKERS / SERVICE_S * (SERVICE_S + THINK_S), rel=0.1)
    assert line.throughput[0] == pytest.approx(WORKERS / SERVICE_S, rel=0.1)


# Scalability law ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "kappa"), [(0.05, 1e-4), (0.02, 0.0), (0.0, 3e-4), (0.0, 0.0)])
def test_the_law_is_found_again(rng, sigma, kappa):
    load = np.linspace(1, 120, 60)
    x = scalability_at(load, 25.0, sigma, kappa) * np.exp(0.01 * rng.standard_normal(60))
    fit = fit_scalability(load, x, np.ones(60), resamples(60, 200))
    assert fit.lam[0] == pytest.approx(25.0, rel=0.03)
    assert fit.sigma[0] == pytest.approx(sigma, abs=0.004)
    assert fit.kappa[0] == pytest.approx(kappa, abs=3e-5)
    assert fit.r_squared > 0.95
    assert fit.sigma.min() >= 0
    assert fit.kappa.min() >= 0
    if kappa > 0:
        assert fit.peak_load[0] == pytest.approx(math.sqrt((1 - sigma) / kappa), rel=0.1)


def test_without_coherence_there_is_no_peak():
    none = np.zeros(3)
    fit = ScalabilityFit(none + 1.0, np.array([0.5, 1.0, 2.0]), np.array([0.0, 0.0, 1e-4]))
    assert fit.peak_load.tolist() == [math.inf, math.inf, 0.0]


def test_the_bounded_fit_is_that_of_scipy(rng):
    from scipy.optimize import nnls

    load = np.linspace(1, 80, 40)
    for _ in range(20):
        x = scalability_at(load, 10.0, 0.001, 1e-6) * np.exp(0.05 * rng.standard_normal(40))
        fit = fit_scalability(load, x, np.ones(40), np.ones((2, 40)))
        root = x / load  # square root of the weights
        basis = np.stack([np.ones(40), load - 1, load * (load - 1)], axis=1) * root[:, None]
        theta, _ = nnls(basis, (load / x) * root)
        assert 1 / fit.lam[0] == pytest.approx(theta[0], rel=1e-4)
        assert fit.sigma[0] == pytest.approx(theta[1] / theta[0], abs=1e-6)
        assert fit.kappa[0] == pytest.approx(theta[2] / theta[0], abs=1e-8)


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (np.repeat([10.0, 20.0, 40.0, 80.0], 5), "4 distinct loads; the law needs 6"),
        (np.linspace(60, 100, 30), "the load goes from 60 to 100 only; the law needs a factor of 3 or more"),
        (np.zeros(20), "no window with at least one user and a request"),
    ],
)
def test_the_law_is_not_fitted_to_what_cannot_tell(load, reason):
    fit = fit_scalability(load, 2 * load, np.ones(load.size), resamples(load.size, 10))
    assert fit.reason == reason
    assert np.isnan(fit.lam).all()


# The load under a promise -------------------------------------------------------------------------------------------


def slow_definition(values, weights):
    """Isotonic regression by its min-max formula."""
    n = len(values)
    return [
        max(min(np.average(values[a : b + 1], weights=weights[a : b + 1]) for b in range(k, n)) for a in range(k + 1))
        for k in range(n)
    ]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5)), min_size=1, max_size=12))
def test_isotonic_regression_is_its_definition(pairs):
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    assert isotonic(values, weights) == pytest.approx(slow_definition(values, weights), abs=1e-9)


def promise(windows, requests, limit_s, share, replicates=200):
    inside = windows.index >= 0
    slow = summed(windows.index[inside], requests.response_time_ms[inside] > 1000 * limit_s, windows.load.size)
    return crossing(windows.load, slow, windows.started, share, resamples(windows.load.size, replicates))


def test_the_load_under_a_promise_is_that_of_theory(rng):
    windows, requests = windows_of_ramp(rng, users=100, seconds=600.0)
    found = promise(windows, requests, LIMIT_S, 0.05)
    assert found.status == FOUND
    assert found.load == pytest.approx(true_capacity(LIMIT_S, 0.05), rel=0.1)
    assert 0.01 < found.error < 0.15


@pytest.mark.parametrize(("limit_s", "status"), [(30.0, AT_LEAST), (0.0001, BELOW)])
def test_a_promise_that_is_never_or_always_broken_gives_a_bound(rng, limit_s, status):
    windows, requests = windows_of_ramp(rng, users=60, seconds=60.0)
    found = promise(windows, requests, limit_s, 0.05)
    assert found.status == status
    assert found.load == pytest.approx(windows.load.max() if status == AT_LEAST else windows.load.min(), rel=0.2)


def test_one_window_says_nothing():
    one = np.ones(1)
    assert crossing(one, one, one, 0.05, np.ones((3, 1))).status == UNKNOWN


@pytest.mark.parametrize(
    ("each", "status"),
    [
        ([Crossing(FOUND, 50.0, 0.02), Crossing(FOUND, 52.0, 0.02)], FOUND),
        ([Crossing(FOUND, 50.0, 0.02), Crossing(AT_LEAST, 100.0)], AT_LEAST),
        ([Crossing(FOUND, 50.0, 0.02), Crossing(BELOW, 20.0)], BELOW),
        ([Crossing(AT_LEAST, 50.0), Crossing(BELOW, 20.0)], UNKNOWN),
        ([Crossing(UNKNOWN, math.nan)], UNKNOWN),
        ([], UNKNOWN),
    ],
)
def test_what_several_runs_say_together(each, status):
    estimate = over_runs(each)
    assert estimate.status == status
    assert (estimate.value is not None) == (status == FOUND)
    if status == FOUND:
        assert estimate.low < 50.99 < estimate.high
    else:
        assert estimate.reason


def test_more_runs_narrow_the_interval():
    one, five = over_runs([Crossing(FOUND, 50.0, 0.05)]), over_runs([Crossing(FOUND, 50.0, 0.05)] * 5)
    assert five.high - five.low < 0.5 * (one.high - one.low)


# Equal load ---------------------------------------------------------------------------------------------------------


def test_levels_at_equal_load_are_those_of_theory(rng):
    windows, requests = windows_of_ramp(rng, users=100, seconds=600.0)
    bins = common_bins([windows])
    levels = levels_at(bins, windows, requests.response_time_ms)
    expected = np.interp(bins.centres, range(1, 101), [throughput(n) for n in range(1, 101)])
    assert levels["rps"].values == pytest.approx(expected, rel=0.1)
    waited = [n / x - THINK_S for n, x in zip(bins.centres, expected, strict=True)]  # Little's law
    assert levels["avg_latency_ms"].values[4:] == pytest.approx(1000 * np.array(waited)[4:], rel=0.12)


def test_ramps_of_other_length_are_the_same_at_equal_load(rng):
    """Their averages over the ramp are not: this ramp of 200 users is longer in saturation."""
    short, long = (windows_of_ramp(rng, users=users, seconds=6.0 * users) for users in (60, 200))
    bins = common_bins([short[0], long[0]])
    pair = [levels_at(bins, one, requests.response_time_ms)["avg_latency_ms"].values for one, requests in (short, long)]
    assert np.exp(np.mean(np.log(pair[1] / pair[0]))) == pytest.approx(1.0, abs=0.1)
    assert long[1].response_time_ms.mean() > 3 * short[1].response_time_ms.mean()


def test_loads_without_anything_in_common_have_no_bins(rng):
    windows, _ = windows_of_ramp(rng, users=50, seconds=50.0)
    assert common_bins([windows]) is not None
    far = LoadPath(np.arange(50.0), np.linspace(200.0, 300.0, 50))
    edges = cut(far, 0.0, 50.0, 1000)
    start = np.linspace(0, 49, 1000)
    other = windows_of(RequestArrays(start, np.full(1000, 5.0), np.zeros(1000, bool)), edges, far.means(edges))
    assert common_bins([windows, other]) is None
