"""The promises of capacity, simulated in pairs on a queue whose truth is known: coverage, false alarms and detection.

Runs of one build differ in their service time by 2 % (standard deviation), which moves latency near saturation by more.
"""

from __future__ import annotations

import numpy as np
import pytest
from closed_queue import SERVICE_S, THINK_S, WORKERS, ramp, true_capacity
from samples import run
from scipy.stats import binom

from perfkit import Verdict
from perfkit.analysis.capacity import (
    ALL,
    CAPACITY,
    KNEE,
    USERS,
    WindowedRun,
    compare_service,
    curve_of,
    judge_differences,
    overall,
)
from perfkit.config.policy import parse_slo
from perfkit.stats.capacity import cut, end_of_whole, find_knee, resamples, windows_of

pytestmark = pytest.mark.slow
SLO = parse_slo("p95 < 400 ms")
RUN = run({})
KNEE_AT = WORKERS / SERVICE_S * (SERVICE_S + THINK_S)


def windowed(rng, *, slower=1.0, sd=0.02, seconds=100.0, **queue):
    factor = slower * float(np.exp(sd * rng.standard_normal()))
    path, requests = ramp(rng, service_s=SERVICE_S * factor, seconds=seconds, **queue)
    end = end_of_whole(requests, 0.0)
    edges = cut(path, 0.0, end, requests.start_s.size)
    return WindowedRun(RUN, {ALL: requests}, {ALL: windows_of(requests, edges, path.means(edges))}, 0.0)


def side(rng, count, **kind):
    runs_of_side = [windowed(rng, **kind) for _ in range(count)]
    return runs_of_side, curve_of(ALL, "baseline", runs_of_side, USERS, SLO)


def compared(rng, sizes, slower=1.0):
    (before, first), (after, second) = side(rng, sizes[0]), side(rng, sizes[1], slower=slower)
    return judge_differences(compare_service(ALL, (before, after), (first, second))[0])


@pytest.mark.parametrize("runs", [1, 3])
def test_intervals_of_knee_and_capacity_cover_the_truth(rng, runs):
    """At least 93 in a hundred; they err on the safe side.  The estimates have no bias to speak of."""
    truth = true_capacity(0.4, 0.05)
    knees, limits = [], []
    for _ in range(100):
        _, curve = side(rng, runs)
        knees.append((curve.result.knee.value, curve.result.knee.low <= KNEE_AT <= curve.result.knee.high))
        if curve.result.limit.status == "found":
            limit = curve.result.limit
            limits.append((limit.value, limit.low <= truth <= limit.high))
    least = binom.ppf(0.001, 100, 0.95) / 100
    assert len(limits) >= 98
    assert np.mean([inside for _, inside in knees]) >= least
    assert np.mean([inside for _, inside in limits]) >= least
    assert np.mean([value for value, _ in knees]) == pytest.approx(KNEE_AT, rel=0.04)
    assert np.mean([value for value, _ in limits]) == pytest.approx(truth, rel=0.04)


def test_a_ramp_that_ends_before_saturation_shows_no_knee(rng):
    """24 users keep 60 % of the workers busy; 60 users saturate them."""

    def knees(users):
        found = 0
        for _ in range(100):
            windows = windowed(rng, users=users, seconds=100.0).windows[ALL]
            drawn = resamples(windows.load.size, 200)
            found += not find_knee(windows.load, windows.throughput, windows.seconds, drawn).reason
        return found

    assert knees(24) <= 5
    assert knees(70) >= 90


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (5, 3)])
def test_identical_builds_are_called_a_regression_at_most_once_in_a_hundred(rng, sizes):
    trials, alarms = 100, 0
    inside: dict[str, list[bool]] = {}
    for _ in range(trials):
        differences = compared(rng, sizes)
        alarms += overall(differences) is Verdict.REGRESSION
        for item in differences:
            if item.ci_low is not None and item.ci_high is not None:
                inside.setdefault(item.question, []).append(item.ci_low <= 0 <= item.ci_high)
    assert alarms <= binom.ppf(0.999, trials, 0.01)
    for question, held in inside.items():
        assert np.mean(held) >= binom.ppf(0.001, trials, 0.95) / trials, question


@pytest.mark.parametrize(("sizes", "slower", "least"), [((3, 3), 1.15, 0.9), ((5, 3), 1.15, 0.95), ((1, 1), 1.5, 0.6)])
def test_a_slower_build_is_called(rng, sizes, slower, least):
    found = [overall(compared(rng, sizes, slower)) is Verdict.REGRESSION for _ in range(50)]
    assert np.mean(found) >= least


def test_the_loss_of_capacity_is_measured(rng):
    """A service that takes 15 % longer carries about 12 % fewer users to its knee, whatever else is asked."""
    losses = {KNEE: [], CAPACITY: []}
    for _ in range(50):
        for item in compared(rng, (3, 3), 1.15):
            if item.question in losses and item.change_pct is not None:
                losses[item.question].append(item.change_pct)
    knee = 100 * ((SERVICE_S * 1.15 + THINK_S) / (SERVICE_S + THINK_S) / 1.15 - 1)
    assert np.median(losses[KNEE]) == pytest.approx(knee, abs=2)
    truth = 100 * (true_capacity(0.4, 0.05, service_s=SERVICE_S * 1.15) / true_capacity(0.4, 0.05) - 1)
    assert np.median(losses[CAPACITY]) == pytest.approx(truth, abs=6)
