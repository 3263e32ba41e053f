"""What is normal: intervals of levels and of the next run cover what they promise."""

import numpy as np
import pytest
from samples import plain_stats, run, side

from perfkit.analysis.baseline import summarize_baseline
from perfkit.model.records import Metric
from perfkit.stats.effect import NoisePrior


def level(levels, metric, service="a"):
    return next(item for item in levels.levels if (item.service, item.metric) == (service, metric))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 5])
def test_intervals_cover_the_level_and_the_next_run(rng, n):
    """Services vary as the prior foretells; a scatter that it doubts makes the intervals a little wider."""
    trials, covered, expected, within = 1500, 0, 0, 0.006  # `samples.stats` measures an average that well
    prior = NoisePrior(within**2, measured=True).noise(Metric.AVG)
    for _ in range(trials):
        sd = np.sqrt(max(prior.sd**2 * prior.df / rng.chisquare(prior.df) - within**2, 0.0))
        *known, following = side(rng, n + 1, names=("a",), common=False, sd=sd, rate_of_errors=0.0)
        found = level(summarize_baseline(known), "avg_latency_ms")
        covered += found.low <= 50.0 * 1.08 <= found.high
        expected += found.next_low <= following.services["a"].avg_latency_ms <= found.next_high
    assert 0.93 <= covered / trials <= 0.98
    assert 0.93 <= expected / trials <= 0.98


def test_the_next_run_is_less_certain_than_the_level(rng):
    found = level(summarize_baseline(side(rng, 5, names=("a",))), "p95_latency_ms")
    assert found.next_low < found.low < found.value < found.high < found.next_high
    assert found.lowest <= found.value <= found.highest


def test_no_failures_end_the_interval_at_zero_exactly():
    found = level(
        summarize_baseline([run({"a": plain_stats(count=4000)}, number=i) for i in range(5)]), "error_rate_pct"
    )
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0.0 < found.high < 0.1
    assert found.next_low is None


def test_a_metric_that_one_run_cannot_tell_is_left_out():
    runs = [run({"a": plain_stats()}), run({"a": plain_stats(p95_latency_ms=None)}, number=1)]
    assert {item.metric for item in summarize_baseline(runs).levels} == {
        *("avg_latency_ms", "p50_latency_ms", "p99_latency_ms", "p999_latency_ms", "error_rate_pct", "rps")
    }


def test_services_of_some_runs_only_are_told_from_those_runs():
    runs = [run({"a": plain_stats(), "b": plain_stats(90.0)}), run({"a": plain_stats()}, number=1)]
    assert level(summarize_baseline(runs), "avg_latency_ms", "b").runs == 1


def test_the_document_and_the_frame_hold_every_level(rng):
    levels = summarize_baseline(side(rng, 3))
    assert levels.to_dict()["schema"] == "perfkit.baseline/1"
    assert len(levels.to_dict()["levels"]) == len(levels.to_frame()) == len(levels.levels)
    assert np.isfinite(levels.to_frame()["value"]).all()


def test_no_runs_have_no_levels():
    assert summarize_baseline(()).levels == ()
