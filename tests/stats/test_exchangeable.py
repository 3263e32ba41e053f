"""Histories in which runs only differ in order: the budget holds whatever the distribution of the runs is."""

import json
from itertools import combinations

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom, hypergeom

from perfkit.stats.changepoints import chance_of_few_turns, drawn_in, find_change_points, normal_scores, rarity
from perfkit.stats.sequential import watch_history


def two_kinds(share, gap):
    """Machines of two kinds at random: noise of 2 %, a share of the runs slower by ``gap`` standard deviations."""
    return lambda rng, count: 100.0 + 2.0 * (rng.normal(size=count) + gap * (rng.random(count) < share))


EXCHANGEABLE = {
    "two kinds, 5 %, 12 sd": two_kinds(0.05, 12.0),
    "two kinds, 12 %, 8 sd": two_kinds(0.12, 8.0),
    "two kinds, 20 %, 15 sd": two_kinds(0.2, 15.0),
    "two kinds, 30 %, 10 sd": two_kinds(0.3, 10.0),
    "two kinds, 50 %, 15 sd": two_kinds(0.5, 15.0),
    "two kinds, 25 %, 3 sd": two_kinds(0.25, 3.0),
    "three kinds": lambda rng, count: (
        rng.choice([100.0, 110.0, 130.0], count, p=[0.6, 0.3, 0.1]) + rng.normal(size=count)
    ),
    "rare slow runs": two_kinds(0.02, 10.0),
    "slow runs scatter more": lambda rng, count: rng.normal(np.where(rng.random(count) < 0.25, 120.0, 100.0), 3.0),
    "few values": lambda rng, count: rng.choice([99.0, 100.0, 101.0], count, p=[0.2, 0.7, 0.1]),
    "two values": lambda rng, count: rng.choice([100.0, 120.0], count, p=[0.75, 0.25]),
    "two digits": lambda rng, count: np.round(rng.normal(148.0, 5.0, count), -1),
    "zeros": lambda rng, count: rng.lognormal(0.0, 0.5, count) * (rng.random(count) < 0.15),
    "counts": lambda rng, count: rng.poisson(0.8, count).astype(float),
    "heavy tails": lambda rng, count: 100.0 + rng.standard_cauchy(count),
}


@pytest.mark.parametrize("kind", EXCHANGEABLE)
@pytest.mark.parametrize("count", [40, 120])
def test_few_exchangeable_histories_show_a_change(rng, kind, count):
    histories = 150
    shown = sum(bool(find_change_points(EXCHANGEABLE[kind](rng, count))) for _ in range(histories))
    assert shown <= binom.ppf(0.999, histories, 0.01)


@pytest.mark.slow
def test_one_exchangeable_history_in_a_hundred_shows_a_change(rng):
    lengths = rng.integers(20, 401, 400)
    shown = {
        kind: sum(bool(find_change_points(make(rng, count))) for count in lengths)
        for kind, make in EXCHANGEABLE.items()
    }
    assert max(shown.values()) <= binom.ppf(0.9999, 400, 0.01)
    assert sum(shown.values()) <= binom.ppf(0.999, 400 * len(shown), 0.01)


@pytest.mark.parametrize("kind", ["two kinds, 20 %, 15 sd", "two kinds, 50 %, 15 sd", "two values", "zeros"])
def test_few_exchangeable_histories_raise_an_alarm(rng, kind):
    histories = 25
    raised = sum(bool(watch_history(EXCHANGEABLE[kind](rng, 100), alpha=0.01).alarms) for _ in range(histories))
    assert raised <= binom.ppf(0.999, histories, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXCHANGEABLE)
def test_one_exchangeable_history_in_a_hundred_raises_an_alarm(rng, kind):
    histories = 300
    raised = sum(bool(watch_history(EXCHANGEABLE[kind](rng, 120), alpha=0.01).alarms) for _ in range(histories))
    assert raised <= binom.ppf(0.999, histories, 0.01)


@pytest.mark.parametrize(("share", "gap"), [(0.1, 10.0), (0.3, 15.0)])
def test_a_change_of_all_runs_is_seen_beside_two_kinds_of_machine(rng, share, gap):
    histories, seen, heard = 15, 0, 0
    for _ in range(histories):
        values = two_kinds(share, gap)(rng, 100)
        values[60:] *= 1.0 + 0.04 * gap  # the fast machines are then slower than the slow ones were
        seen += any(abs(change.index - 60) <= 2 for change in find_change_points(values))
        heard += any(60 <= alarm.raised_at < 75 for alarm in watch_history(values).alarms)
    assert seen >= 0.9 * histories
    assert heard >= 0.9 * histories


def test_real_histories_in_random_order_show_no_change_and_raise_no_alarm(real_data, rng):
    runs = json.loads((real_data / "histories" / "tigerbeetle.json").read_text())
    series = [[run["metrics"][i]["value"] for run in runs] for i in range(len(runs[0]["metrics"]))]
    orders = [rng.permutation(values) for values in series for _ in range(10)]
    shown = sum(bool(find_change_points(values)) for values in orders)
    raised = sum(bool(watch_history(values[:100]).alarms) for values in orders[::4])
    assert shown <= binom.ppf(0.999, len(orders), 0.01)
    assert raised <= binom.ppf(0.999, len(orders) // 4, 0.01)


@pytest.mark.parametrize("kind", ["normal", "two kinds", "ties", "zeros"])
@pytest.mark.parametrize("count", [3, 6, 9])
def test_rarity_is_that_of_all_samples(rng, kind, count):
    values = {
        "normal": rng.normal(size=18),
        "two kinds": rng.normal(size=18) + 10.0 * (np.arange(18) < 5),
        "ties": np.round(rng.normal(size=18)),
        "zeros": np.concatenate([np.zeros(12), rng.lognormal(size=6)]),
    }[kind]
    for scores in (normal_scores(values), drawn_in(values)):
        sums = np.array([scores[list(chosen)].sum() for chosen in combinations(range(18), count)])
        for total in np.quantile(sums, [0.9, 0.99, 0.999, 1.0]):
            exact = float(np.mean(sums >= total - 1e-9))
            (high,) = rarity(scores, [count], [total])
            assert 0.4 * exact <= ndtr(-high) <= 3.0 * exact
            assert rarity(-scores, [count], [-total]) == pytest.approx(-high)


def test_the_rarest_sample_is_one_of_all():
    (high,) = rarity(normal_scores(np.arange(25.0)), [5], [normal_scores(np.arange(25.0))[20:].sum()])
    assert ndtr(-high) == pytest.approx(1 / 53_130)


def test_two_values_are_hypergeometric():
    scores = normal_scores([0.0] * 30 + [1.0] * 10)
    for ones in (3, 4, 5):
        chosen = np.r_[np.full(5 - ones, scores[0]), np.full(ones, scores[-1])]
        (high,) = rarity(scores, [5], [chosen.sum()])
        assert 0.99 <= ndtr(-high) / hypergeom.sf(ones - 1, 40, 10, 5) < 1.8


def test_few_turns_are_as_rare_as_in_random_orders(rng):
    above = np.repeat([1.0, -1.0], [12, 18])
    turns = [int((np.diff(rng.permutation(above)) != 0).sum()) for _ in range(4000)]
    for seldom in (9, 12, 14):
        order = rng.permutation(above)
        while (np.diff(order) != 0).sum() != seldom:
            order = rng.permutation(above)
        assert chance_of_few_turns(order) == pytest.approx(np.mean(np.array(turns) <= seldom), abs=0.03)
    assert chance_of_few_turns(np.ones(5)) == 1.0


def test_scores_depend_on_values_alone_and_no_unit(rng):
    values = rng.lognormal(size=40)
    order = rng.permutation(40)
    for scores in (normal_scores, drawn_in):
        assert scores(values[order]) == pytest.approx(scores(values)[order])
        assert scores(values * 1e6) == pytest.approx(scores(values))
        assert scores([]).size == 0
        assert not scores([5.0] * 7).any()
