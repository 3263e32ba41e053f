"""The promises of capacity, simulated in pairs on a queue whose truth is known: coverage, false alarms and detection.

Runs of one build differ in their service time by 2 % (standard deviation), which moves latency near saturation by more.
Runs are simulated once for all tests: each asks its own question of them, with trials that are independent of another.
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


@pytest.fixture(scope="module")
def trials():
    """A hundred trials of five and three runs of one build, and fifty of three that are 15 % slower."""
    rng = np.random.default_rng(20251017)
    same = [[windowed(rng) for _ in range(8)] for _ in range(100)]
    return same, [[windowed(rng, slower=1.15) for _ in range(3)] for _ in range(50)]


def compared(before, after):
    curves = [curve_of(ALL, name, runs, USERS, SLO) for name, runs in (("baseline", before), ("candidate", after))]
    return judge_differences(compare_service(ALL, (before, after), (curves[0], curves[1]))[0])


@pytest.fixture(scope="module")
def slower(trials):
    """Three runs against three of a build that takes 15 % longer, fifty times."""
    return [compared(before[:3], after) for before, after in zip(trials[0], trials[1], strict=False)]


@pytest.mark.parametrize("runs", [1, 3])
def test_intervals_of_knee_and_capacity_cover_the_truth(trials, runs):
    """At least 93 in a hundred; they err on the safe side.  The estimates have no bias to speak of."""
    truth = true_capacity(0.4, 0.05)
    knees, limits = [], []
    for of_trial in trials[0]:
        curve = curve_of(ALL, "baseline", of_trial[:runs], USERS, SLO)
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
def test_identical_builds_are_called_a_regression_at_most_once_in_a_hundred(trials, sizes):
    alarms = 0
    inside: dict[str, list[bool]] = {}
    for of_trial in trials[0]:
        differences = compared(of_trial[: sizes[0]], of_trial[8 - sizes[1] :])
        alarms += overall(differences) is Verdict.REGRESSION
        for item in differences:
            if item.ci_low is not None and item.ci_high is not None:
                inside.setdefault(item.question, []).append(item.ci_low <= 0 <= item.ci_high)
    assert alarms <= binom.ppf(0.999, len(trials[0]), 0.01)
    for question, held in inside.items():
        assert np.mean(held) >= binom.ppf(0.001, len(trials[0]), 0.95) / len(trials[0]), question


def test_a_slower_build_is_called(rng, trials, slower):
    same, later = trials
    assert np.mean([overall(differences) is Verdict.REGRESSION for differences in slower]) >= 0.9
    five = [compared(before[:5], after) for before, after in zip(same, later, strict=False)]
    assert np.mean([overall(differences) is Verdict.REGRESSION for differences in five]) >= 0.95
    much = [overall(compared(before[:1], [windowed(rng, slower=1.5)])) for before in same[:50]]
    assert np.mean([verdict is Verdict.REGRESSION for verdict in much]) >= 0.6


def test_the_loss_of_capacity_is_measured(slower):
    """A service that takes 15 % longer carries about 12 % fewer users to its knee, whatever else is asked."""
    losses = {KNEE: [], CAPACITY: []}
    for item in (item for differences in slower for item in differences):
        if item.question in losses and item.change_pct is not None:
            losses[item.question].append(item.change_pct)
    knee = 100 * ((SERVICE_S * 1.15 + THINK_S) / (SERVICE_S + THINK_S) / 1.15 - 1)
    assert np.median(losses[KNEE]) == pytest.approx(knee, abs=2)
    truth = 100 * (true_capacity(0.4, 0.05, service_s=SERVICE_S * 1.15) / true_capacity(0.4, 0.05) - 1)
    assert np.median(losses[CAPACITY]) == pytest.approx(truth, abs=6)
