"""A single run that looks worse, in a history that has outlier runs and in one that has none."""

import numpy as np
import pytest
from histories import nights
from samples import plain_stats, run

from perfkit.config.policy import Policy
from perfkit.history.change_events import HistoryAnalysis
from perfkit.history.gate import judge_history, outlier_runs
from perfkit.history.run_selector import HistoryContext
from perfkit.history.timeline import timeline_of
from perfkit.model.records import Verdict
from perfkit.runs.store import RunStore


def judged(tmp_path, history, candidates, policy=None):
    store = RunStore(tmp_path)
    for one in history:
        store.add(one)
    return judge_history(candidates, HistoryContext(store, candidates=tuple(candidates)), policy or Policy())


def with_outlier(rng, *, factor=1.25):
    """Thirty nights, of which the tenth was slow, and no other."""
    return [*nights(rng, 10), *nights(rng, 1, first=10, factor=factor), *nights(rng, 19, first=11)]


def test_an_outlier_before_makes_a_single_run_a_question(rng, tmp_path):
    comparison = judged(tmp_path, with_outlier(rng), nights(rng, 1, first=30, factor=1.3))
    assert comparison.verdict is Verdict.INCONCLUSIVE
    (finding, *_) = [item for item in comparison.findings if item.runs_needed == 2]
    assert finding.warnings[-1] == (
        "A single run may be an outlier, as 1 of 30 earlier runs was; two more, judged with it, tell."
    )
    assert comparison.history.news == ()


@pytest.mark.parametrize(("outlier", "count", "factor"), [(1.25, 2, 1.3), (1.25, 1, 2.5), (1.0, 1, 1.3), (0.8, 1, 1.3)])
def test_several_runs_much_more_or_no_such_history_are_evidence(rng, tmp_path, outlier, count, factor):
    comparison = judged(tmp_path, with_outlier(rng, factor=outlier), nights(rng, count, first=30, factor=factor))
    assert comparison.verdict is Verdict.REGRESSION


def on_machines(rng, slow, *, first=0, factor=1.2):
    """Nights on two kinds of machine: ``s`` is slower by ``factor``."""
    parts = [nights(rng, 1, first=first + i, factor=factor if kind == "s" else 1.0) for i, kind in enumerate(slow)]
    return [run for part in parts for run in part]


@pytest.mark.parametrize(
    "slow", ["..s.s...ss.s....s.s.s..ss.....", "..s.......s.......s.....s.....", "....s.........................."]
)
def test_a_single_run_as_slow_as_earlier_ones_is_no_regression(rng, tmp_path, slow):
    """Where a third of the runs is slow, the slow ones are no outliers."""
    comparison = judged(tmp_path, on_machines(rng, slow), on_machines(rng, "s", first=len(slow)))
    assert comparison.by_verdict(Verdict.REGRESSION) == ()
    assert comparison.verdict is Verdict.INCONCLUSIVE


def test_a_slow_run_is_doubted_where_the_earlier_ones_were_too_near_to_be_outliers(tmp_path):
    rng = np.random.default_rng([1, 4, 6])
    slow = "".join(".s"[int(kind)] for kind in rng.random(30) < 0.06)
    history = on_machines(rng, slow, factor=float(np.exp(0.08)))
    comparison = judged(tmp_path, history, on_machines(rng, "s", first=30, factor=float(np.exp(0.08))))
    assert slow.count("s") > 0
    assert comparison.by_verdict(Verdict.REGRESSION) == ()


def test_a_run_slower_than_both_kinds_of_machine_is_a_regression(rng, tmp_path):
    history = on_machines(rng, "..s.......s.......s.....s.....")
    assert judged(tmp_path, history, nights(rng, 1, first=30, factor=2.2)).verdict is Verdict.REGRESSION


def test_the_newest_runs_may_begin_a_new_level_and_are_no_outliers(rng, tmp_path):
    runs = [*nights(rng, 30), *nights(rng, 2, first=30, factor=1.3)]
    for count in (30, 31):
        comparison = judged(tmp_path / str(count), runs[:count], runs[count : count + 1])
        assert comparison.verdict is Verdict.REGRESSION


def test_an_absolute_limit_holds_for_a_single_run(rng, tmp_path):
    policy = Policy(objectives={"avg_latency_ms": {"max": 15.0}})
    comparison = judged(tmp_path, with_outlier(rng), [run({"a": plain_stats(26.0)}, number=30)], policy)
    assert [item.objective for item in comparison.by_verdict(Verdict.REGRESSION)] == [True]


def test_outliers_are_counted_by_runs_and_measured_from_their_own_level(rng):
    runs = [*with_outlier(rng), *nights(rng, 15, first=30, factor=1.5), *nights(rng, 1, first=45, factor=2.0)]
    runs += nights(rng, 10, first=46, factor=1.5)
    outliers = outlier_runs(HistoryAnalysis(timeline_of("api", runs)), Policy())
    assert sorted(outliers.farthest) == [10, 45]
    assert outliers.runs == 56
    assert all(5.0 < distance < 40.0 for distance in outliers.farthest.values())
