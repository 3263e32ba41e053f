"""Judged against its history run after run: hardly any false alarm where nothing changed, and changes are found."""

import pytest
from histories import nights
from samples import side
from scipy.stats import binom

from perfkit.config.policy import Policy
from perfkit.history.gate import judge_history
from perfkit.history.monitor import SPENDING
from perfkit.history.run_selector import HistoryContext
from perfkit.model.records import Verdict
from perfkit.runs.store import RunStore

ALPHA = 0.01


def looks(runs, first, tmp_path):
    """Verdicts of every run from number ``first`` on, each judged against those before it."""
    store = RunStore(tmp_path)
    for run in runs[:first]:
        store.add(run)
    found = []
    for run in runs[first:]:
        found.append(judge_history([run], HistoryContext(store, candidates=(run,)), Policy(alpha=ALPHA)).verdict)
        store.add(run)
    return found


def test_the_shares_of_all_comparisons_sum_to_no_more_than_the_budget():
    assert sum(SPENDING / (earlier + SPENDING) ** 2 for earlier in range(1, 100_000)) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.02, 0.05])
def test_unchanged_histories_raise_no_more_false_alarms_than_promised(rng, tmp_path, sd):
    """Watch and comparisons have a budget each."""
    histories, alarms = 5, 0
    for number in range(histories):
        verdicts = looks(side(rng, 45, sd=sd, names=("a", "b")), 20, tmp_path / str(number))
        alarms += Verdict.REGRESSION in verdicts
    assert alarms <= binom.ppf(0.999, histories, 2 * ALPHA)


@pytest.mark.slow
def test_changes_are_found_soon(rng, tmp_path):
    for factor, within in ((1.10, 10), (1.20, 2)):
        found = 0
        for number in range(5):
            runs = [*nights(rng, 30), *nights(rng, within, first=30, factor=factor)]
            found += Verdict.REGRESSION in looks(runs, 30, tmp_path / f"{factor}-{number}")
        assert found == 5
