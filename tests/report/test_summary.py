"""Requests become metrics whose standard errors are true."""

import numpy as np
import pytest
from samples import EPOCH, arrays, requests, summarise
from scipy.signal import lfilter

from perfkit import Metric, run_from_requests
from perfkit.stats.summary import (
    PERSISTENCE_ERROR,
    PercentileTable,
    errors_assumed,
    errors_from_percentiles,
    persistence_of,
    requests_needed_for,
)

QUANTILES = {"p50_latency_ms": 50, "p95_latency_ms": 95, "p99_latency_ms": 99, "p999_latency_ms": 99.9}


def test_values_are_numpys(rng):
    times = rng.lognormal(3, 1, 5000)
    failed = rng.random(5000) < 0.1
    stats = summarise(arrays(np.linspace(0, 99, 5000), times, failed), 0.0, 100.0)
    for name, percent in QUANTILES.items():
        assert stats.value(name) == pytest.approx(np.percentile(times, percent), rel=1e-12)
    assert stats.avg_latency_ms == pytest.approx(times.mean())
    assert stats.error_rate_pct == pytest.approx(100 * failed.mean())
    assert (stats.count, stats.failures, stats.rps) == (5000, failed.sum(), 50.0)
    assert stats.warnings == ()


def test_order_of_rows_does_not_matter(rng):
    frame = requests(rng)
    mixed = frame.sample(frac=1.0, random_state=1)
    one, other = run_from_requests(frame), run_from_requests(mixed)
    for name in one.services:
        for metric in Metric:
            assert one.services[name].value(metric) == pytest.approx(other.services[name].value(metric))
            errors = [r.services[name].standard_error(metric) for r in (one, other)]
            assert errors[0] == pytest.approx(errors[1])


@pytest.mark.parametrize(("quantile", "needed"), [(0.5, 6), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_requests_needed_keep_the_interval_inside_the_sample(quantile, needed):
    assert requests_needed_for(quantile) == needed
    assert quantile**needed <= 0.025 < quantile ** (needed - 1)


def test_a_percentile_without_enough_requests_is_withheld_and_says_so(rng):
    stats = summarise(arrays(np.arange(367.0), rng.lognormal(3, 1, 367)), 0.0, 367.0)
    assert stats.p99_latency_ms is None
    assert stats.p95_latency_ms is not None
    assert "p99 latency withheld: 367 requests, it needs 368" in stats.warnings
    assert stats.standard_error("p99_latency_ms") is None


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_few_requests_give_no_error_that_is_not_a_number(rng, count):
    stats = summarise(arrays(np.arange(float(count)), rng.lognormal(3, 1, count)), 0.0, 10.0)
    assert stats.avg_latency_ms > 0
    assert np.isfinite(list(stats.standard_errors.values())).all()
    assert (stats.standard_error("avg_latency_ms") is None) == (count == 1)


def test_no_request_is_not_a_latency_of_zero():
    stats = summarise(arrays(np.array([]), np.array([])), 0.0, 10.0)
    assert (stats.count, stats.failures, stats.rps, stats.avg_latency_ms, stats.error_rate_pct) == (
        0,
        0,
        0.0,
        None,
        None,
    )


def test_all_at_the_same_moment_has_no_rate():
    stats = summarise(arrays(np.zeros(10), np.ones(10)), 5.0, 5.0)
    assert stats.rps is None


def _independent(rng, n):
    return rng.standard_normal(n)


def _autocorrelated(rng, n):
    return lfilter([np.sqrt(1 - 0.9**2)], [1, -0.9], rng.standard_normal(n + 300))[300:]


@pytest.mark.parametrize(("kind", "noise"), [("independent", _independent), ("AR(1) 0.9", _autocorrelated)])
def test_standard_errors_are_those_of_repeated_runs(rng, kind, noise):
    names = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
    values, errors = [], []
    for _ in range(300):
        times = 20 * np.exp(0.5 * noise(rng, 4000))
        stats = summarise(arrays(np.sort(rng.uniform(0, 80, 4000)), times), 0.0, 80.0)
        values.append([stats.value(name) for name in names])
        errors.append([stats.standard_error(name) for name in names])
    truth = np.std(values, axis=0, ddof=1)
    claimed = np.sqrt(np.mean(np.square(errors), axis=0))
    ratio = dict(zip(names, claimed / truth, strict=True))
    assert all(0.8 <= r <= 1.35 for r in ratio.values()), (kind, ratio)
    inside = np.abs(np.array(values) - np.mean(values, axis=0)) <= 2.1 * np.array(errors)
    assert (inside.mean(axis=0) >= 0.90).all(), (kind, inside.mean(axis=0))


def test_an_independence_formula_would_be_far_too_small(rng):
    times = 20 * np.exp(0.5 * _autocorrelated(rng, 4000))
    stats = summarise(arrays(np.linspace(0, 80, 4000), times), 0.0, 80.0)
    assert stats.standard_error("avg_latency_ms") > 2 * times.std() / np.sqrt(4000)


def long_memory(rng, b, n):
    """Noise whose power spectrum is 1 / f^b, a piece of a course 32 times as long."""
    frequencies = np.fft.rfftfreq(32 * n)
    frequencies[0] = frequencies[1]
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(32 * n)) * frequencies ** (-b / 2))[:n]


@pytest.mark.parametrize("b", [-0.5, 0.0, 0.5, 1.0])
def test_persistence_is_the_exponent_of_the_spectrum(rng, b):
    found = [persistence_of(long_memory(rng, b, 40)) for _ in range(400)]
    assert np.mean(found) == pytest.approx(b, abs=0.12)
    assert np.std(found) == pytest.approx(PERSISTENCE_ERROR, rel=0.2)


def test_runs_scatter_by_what_persistence_adds_to_their_own_error(rng):
    """A block's variance times the number of blocks to the power of b: what no run shows, for it is longer than it."""
    courses = [long_memory(rng, 0.6, 400) for _ in range(300)]
    b = np.mean([persistence_of(c.reshape(40, 10).sum(1)) for c in courses])
    within = np.mean([c.reshape(20, 20).mean(1).var(ddof=1) / 20 for c in courses])
    scatter = np.var([c.mean() for c in courses])
    assert scatter > 2.5 * within
    assert 0.6 * scatter < within * 20**b < 1.6 * scatter


def test_requests_tell_their_slow_waves_and_too_few_do_not(rng):
    def of(waves, n=4000):
        times = 20 * np.exp(0.3 * rng.standard_normal(n) + 0.2 * np.repeat(waves, n // waves.size))
        return summarise(arrays(np.linspace(0, 80, n), times), 0.0, 80.0).persistence

    assert np.mean([of(np.zeros(40)) for _ in range(20)]) == pytest.approx(0.0, abs=0.2)
    assert np.mean([of(np.linspace(-1, 1, 40)) for _ in range(5)]) > 0.6
    assert of(np.zeros(1), n=199) is None
    assert persistence_of(np.zeros(40)) is None


def test_error_of_a_rate_is_at_least_poisson_and_grows_with_bursts(rng):
    even = summarise(arrays(np.linspace(0, 99.9, 2000), np.ones(2000)), 0.0, 100.0)
    assert even.standard_error("rps") == pytest.approx(np.sqrt(2000) / 100.0)
    burst = np.sort(np.concatenate([rng.uniform(0, 10, 1500), rng.uniform(0, 100, 500)]))
    assert summarise(arrays(burst, np.ones(2000)), 0.0, 100.0).standard_error("rps") > 3 * even.standard_error("rps")


def test_error_of_an_error_rate_holds_a_burst_of_failures(rng):
    start = np.linspace(0, 99.9, 5000)
    spread = summarise(arrays(start, np.ones(5000), rng.random(5000) < 0.02), 0.0, 100.0)
    burst = summarise(arrays(start, np.ones(5000), np.arange(5000) < 100), 0.0, 100.0)
    assert burst.standard_error("error_rate_pct") > 3 * spread.standard_error("error_rate_pct")


def test_unit_scale(rng):
    start, times = np.linspace(0, 79.9, 4000), rng.lognormal(3, 0.5, 4000)
    milliseconds, seconds = (
        summarise(arrays(start, times), 0.0, 80.0),
        summarise(arrays(start, times / 1000), 0.0, 80.0),
    )
    for metric in ("avg_latency_ms", *QUANTILES):
        assert seconds.value(metric) == pytest.approx(milliseconds.value(metric) / 1000)
        assert seconds.standard_error(metric) == pytest.approx(milliseconds.standard_error(metric) / 1000)


# Without the requests ---------------------------------------------------------------------------------------------

POINTS = (0.5, 0.66, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.0)


@pytest.mark.parametrize("sigma", [0.3, 0.8])
@pytest.mark.parametrize("points", [POINTS, (0.5, 0.95, 0.99)])
def test_errors_from_a_percentile_table_are_near_the_truth_and_not_below(rng, sigma, points):
    values, errors = [], []
    for _ in range(300):
        times = 20 * rng.lognormal(0, sigma, 1000)
        known = {name: float(np.percentile(times, p)) for name, p in list(QUANTILES.items())[:3]}
        known["avg_latency_ms"] = float(times.mean())
        if 0.999 not in points:
            del known["p99_latency_ms"]
        table = PercentileTable.of({q: float(np.quantile(times, q)) for q in points})
        told = errors_from_percentiles(table, 1000, known)
        values.append([known[name] for name in known])
        errors.append([told[name] for name in known])
    ratio = np.median(errors, axis=0) / np.std(values, axis=0, ddof=1)
    # 1.5 is the allowance for autocorrelation, which these requests do not have.
    assert ((ratio > 0.75) & (ratio < 2.5)).all(), dict(zip(known, ratio, strict=True))


def test_assumed_errors_are_exact_for_exponential_latencies(rng):
    values, names = [], ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms")
    for _ in range(500):
        times = rng.exponential(20, 2000)
        values.append([times.mean(), *np.percentile(times, [50, 95])])
    told = errors_assumed(2000, dict(zip(names, np.mean(values, axis=0), strict=True)))
    ratio = np.array([told[name] for name in names]) / np.std(values, axis=0, ddof=1)
    assert ratio == pytest.approx([1.5] * 3, rel=0.15)


def test_the_last_percentile_of_a_table_cannot_be_told():
    table = {0.5: 20.0, 0.95: 40.0, 0.99: 60.0}
    told = errors_from_percentiles(PercentileTable.of(table), 1000, {"p95_latency_ms": 40.0, "p99_latency_ms": 60.0})
    assert list(told) == ["p95_latency_ms"]


def test_rate_and_share_need_no_table():
    told = errors_from_percentiles(
        PercentileTable.of({}), 400, {"rps": 40.0, "error_rate_pct": 10.0, "avg_latency_ms": 5.0}
    )
    assert told == pytest.approx({"rps": 2.0, "error_rate_pct": 1.5})
    assert errors_from_percentiles(PercentileTable.of({}), 0, {"rps": 40.0}) == {}


def test_span_of_a_run_ends_with_the_last_answer(rng):
    run = run_from_requests(requests(rng, seconds=20.0))
    assert 19 < run.duration_s < 22
    assert run.started_at.timestamp() == pytest.approx(EPOCH, abs=1.0)
