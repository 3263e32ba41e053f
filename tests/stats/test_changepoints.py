"""Change points: seldom where nothing changed, mostly where something did, and neither for spikes nor for drift."""

import json
import time
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from noise import NOISE
from scipy.stats import binom

from perfkit.stats.changepoints import (
    LEAST_RUNS,
    _optimal,
    chance,
    find_change_points,
    lag_one_correlation,
    segment,
    segment_many,
    winsorise,
)

CLEAN, CHANGED = 300, 60  # histories of each kind of noise


def indices(values, **options):
    return [change.index for change in find_change_points(values, **options)]


def history(rng, kind, count, steps=()):
    """Runs around 100 whose noise has a standard deviation of 3; steps are (place, size in standard deviations)."""
    noise = NOISE[kind](rng, count)
    for place, size in steps:
        noise[place:] += size
    return 100.0 + 3.0 * noise


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("count", [30, 100, 400])
def test_few_histories_without_a_change_show_one(rng, kind, count):
    alarms = sum(bool(indices(history(rng, kind, count))) for _ in range(CLEAN))
    assert alarms <= binom.ppf(0.999, CLEAN, 0.015)


@pytest.mark.slow
def test_one_in_a_hundred_over_all_kinds_of_noise(rng):
    lengths = rng.integers(30, 501, 1000)
    alarms = sum(bool(indices(history(rng, kind, count))) for kind in NOISE for count in lengths)
    assert alarms <= binom.ppf(0.999, 6000, 0.01)


@pytest.mark.parametrize("kind", NOISE)
def test_two_steps_of_three_standard_deviations_are_found_where_they_are(rng, kind):
    found = 0
    for _ in range(CHANGED):
        first, second = np.sort(rng.choice(np.arange(20, 140), 2, replace=False)) + np.array([0, 20])
        places = indices(history(rng, kind, 180, [(first, 3.0), (second, -3.0)]))
        found += len(places) == 2 and abs(places[0] - first) <= 2 and abs(places[1] - second) <= 2
    assert found >= (0.75 if kind == "ar(0.4)" else 0.88) * CHANGED


@pytest.mark.slow
def test_f1_on_histories_like_those_of_performance_tests(rng):
    hits = false = missed = 0
    for kind in NOISE:
        for _ in range(250):
            count = int(rng.integers(30, 501))
            places = sorted(
                8 + rng.choice(count // 8 - 2, min(int(rng.integers(0, 4)), count // 20), replace=False) * 8
            )
            steps = [(place, rng.uniform(1.5, 4.0) * rng.choice([-1, 1])) for place in places]
            found = indices(history(rng, kind, count, steps))
            near = sum(any(abs(at - place) <= 5 for at in found) for place in places)
            hits, false, missed = hits + near, false + len(found) - near, missed + len(places) - near
    assert 2 * hits / (2 * hits + false + missed) >= 0.95


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1.0], []),
        ([1.0, 2.0], []),
        ([1.0, 2.0, 3.0, 4.0], []),
        ([5.0] * 50, []),
        ([0.0] * 50, []),
        ([0.0] * 30 + [1.0] * 30, [30]),
        ([-5.0, -5.1, -4.9] * 10 + [-8.0, -8.1, -7.9] * 10, [30]),
        ([10, 11, 10, 11, 10, 11, 15, 16, 15, 16, 15, 16], [6]),
        ([100, 101] * 15 + [200] + [100, 101] * 15, []),  # a spike
        ([float("nan"), 10, 11] * 10 + [float("nan"), 20, 21] * 10, [31]),  # missing runs count as runs
        ([float("nan")] * 20, []),
    ],
)
def test_awkward_values(values, expected):
    assert indices(values) == expected


def test_few_orders_of_equal_values_are_no_evidence():
    assert indices([1.0] * 4 + [2.0] * 4) == []


def test_a_spike_is_an_outlier_and_no_change(rng):
    values = history(rng, "normal", 80)
    values[40] += 60.0
    found = segment(values)
    assert found.outliers == (40,)
    assert found.changes == ()


def test_a_level_begins_after_the_spike_before_it(rng):
    values = history(rng, "normal", 60, [(31, 4.0)])
    values[30] = 250.0
    assert indices(values) == [31]


@pytest.mark.parametrize("slope", [0.2, 0.5, -0.5])
def test_drift_is_drift_and_no_stairs(rng, slope):
    found = segment(100.0 + slope * np.arange(100) + rng.normal(0, 2.0, 100))
    assert found.changes == ()
    (drift,) = found.drifts
    assert (drift.begin, drift.end) == (0, 100)
    assert drift.change_pct == pytest.approx(slope * 99, rel=0.25)


def test_seasons_and_walks_are_not_cut_to_pieces(rng):
    assert indices(100.0 + 10.0 * np.sin(np.arange(200) / 6.0) + rng.normal(0, 2.0, 200)) == []
    assert segment(100.0 + 20.0 * np.sin(np.arange(400) / 15.0) + rng.normal(0, 2.0, 400)).wanders
    walks = [len(indices(100.0 + np.cumsum(rng.normal(0, 1.0, 300)))) for _ in range(20)]
    assert np.mean(walks) <= 2.0


def test_many_true_steps_are_no_walk(rng):
    values = np.repeat([10.0, 20.0] * 10, 10) + rng.normal(0, 0.5, 200)
    assert indices(values) == list(range(10, 200, 10))


def test_size_with_its_interval(rng):
    inside = 0
    for _ in range(200):
        (change, *_) = find_change_points(history(rng, "normal", 60, [(30, 10.0)]))
        inside += change.ci_low <= 30.0 <= change.ci_high
        assert change.ci_low < change.change_pct < change.ci_high
        assert change.before == pytest.approx(100.0, abs=3.0)
    assert inside >= binom.ppf(0.001, 200, 0.93)


def test_a_stricter_level_finds_no_more(rng):
    values = history(rng, "normal", 100, [(50, 1.5)])
    assert set(indices(values, alpha=1e-4)) <= set(indices(values, alpha=0.01)) <= set(indices(values, alpha=0.2))


@given(arrays(float, st.integers(0, 60), elements=st.floats(-1e6, 1e6)))
def test_any_values_give_ordered_changes_and_one_level_more(values):
    found = segment(values)
    places = [change.index for change in found.changes]
    assert places == sorted(set(places))
    assert len(found.levels) == len(places) + bool(len(values))
    assert all(LEAST_RUNS <= place <= len(values) - LEAST_RUNS for place in places)
    assert found == segment(values)


@given(st.floats(1e-3, 1e6), st.integers(0, 5))
def test_the_unit_does_not_matter(factor, seed):
    values = history(np.random.default_rng(seed), "normal", 60, [(30, 4.0)])
    assert indices(values * factor) == indices(values)


@pytest.mark.parametrize("alpha", [0.0, 0.6, -1.0, float("nan")])
def test_a_wrong_level_is_told(alpha):
    with pytest.raises(ValueError, match=r"alpha: must be above 0 and at most 0\.5"):
        find_change_points([1.0, 2.0], alpha=alpha)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [1.0, float("inf")]])
def test_wrong_values_are_told(values):
    with pytest.raises(ValueError, match="values: expected finite numbers in one dimension"):
        find_change_points(values)


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.7])
def test_correlation_is_seen_through_steps(rng, rho):
    walk = np.zeros(3000)
    for i in range(1, 3000):
        walk[i] = rho * walk[i - 1] + rng.normal()
    walk[1000:] += 8.0
    assert lag_one_correlation(winsorise(walk)[0]) == pytest.approx(rho, abs=0.08)


def test_chance_falls_with_strength():
    values = [chance(strength, 100) for strength in np.linspace(-2, 8, 50)]
    assert values == sorted(values, reverse=True)
    assert (values[0], chance(9.0, 3)) == (1.0, 1.0)


def test_a_hundred_thousand_runs(rng):
    values = rng.normal(100.0, 3.0, 100_000)
    values[40_000:] += 3.0
    values[70_000:] -= 6.0
    begun = time.process_time()
    first, second = indices(values)
    assert (abs(first - 40_000) < 50, abs(second - 70_000) < 50) == (True, True)
    assert time.process_time() - begun < 20.0  # quadratic time would be minutes


@pytest.mark.parametrize("name", ["load_accepted", "transfer_p90", "duration", "transfer_p50", "batch_p50"])
def test_the_history_of_tigerbeetle(real_data, name):
    runs = sorted(
        json.loads((real_data / "histories" / "tigerbeetle.json").read_text()), key=lambda run: run["timestamp"]
    )
    values = [next(item["value"] for item in run["metrics"] if item["name"] == name) for run in runs]
    found = segment(values)
    places = [change.index for change in found.changes]
    assert any(abs(place - 15) <= 2 for place in places)
    assert any(abs(place - 71) <= 2 for place in places) or name == "batch_p50"
    assert 10 in found.outliers
    assert 10 not in places


def test_shuffled_real_histories_show_no_change(real_data, rng):
    suites = json.loads((real_data / "histories" / "github-action-benchmark.json").read_text())
    series = {}
    for suite, runs in suites.items():
        for run in runs:
            for bench in run["benches"]:
                series.setdefault((suite, bench["name"]), []).append(bench["value"])
    long = [values for values in series.values() if len(values) >= 25]
    alarms = sum(bool(indices(rng.permutation(values))) for values in long for _ in range(4))
    assert len(long) > 20
    assert alarms <= binom.ppf(0.999, 4 * len(long), 0.02)


def test_many_histories_are_segmented_as_each_of_them(rng):
    histories = [rng.normal(size=count) for count in (0, 1, 3, 4, 40, 40, 40, 41)]
    histories += [np.exp(0.05 * rng.normal(size=40)) for _ in range(3)]
    for step, history in enumerate(histories[4:]):
        history[15:] += step
    gaps = histories[-1].copy()
    gaps[[0, 7, 39]] = np.nan
    tasks = [(history, 0.01) for history in (*histories, gaps, np.full(5, np.nan), np.ones(9))]
    together = segment_many(tasks)
    assert repr(together) == repr([segment(history, alpha=alpha) for history, alpha in tasks])
    assert sum(bool(segmentation.changes) for segmentation in together) > 4


def test_the_candidates_cost_least_of_all_segmentations(rng):
    count, penalty = 11, 3.0
    for _ in range(20):
        values = rng.normal(size=count) + 3.0 * (np.arange(count) >= rng.integers(3, 9))

        def cost(edges, values=values):
            return sum(float(np.var(values[a:b])) * (b - a) for a, b in pairwise(edges)) + penalty * (len(edges) - 2)

        every = [[0, *inner, count] for k in range(3) for inner in combinations(range(3, count - 2), k)]
        best = min((edges for edges in every if min(np.diff(edges)) >= LEAST_RUNS), key=cost)
        sums = np.concatenate([[0.0], np.cumsum(values - values.mean())])
        assert _optimal(sums[None], np.array([penalty])) == [best[1:-1]]
