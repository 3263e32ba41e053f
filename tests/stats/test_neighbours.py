"""What many services of the same runs tell of the noise of each."""

import numpy as np
import pytest

from perfkit import Metric
from perfkit.stats import effect
from perfkit.stats.effect import NoisePrior, Values, compare_levels, with_neighbours

WITHIN = np.linspace(0.01, 0.05, 60)


def services(rng, *, common=0.0, own=0.02, sizes=(5, 3), measured=True):
    """One value per run of sixty services; ``own`` is the scatter between runs of each, or one for all."""
    scatter = np.hypot(own, WITHIN) * rng.standard_normal((sum(sizes), 60))
    values = 20.0 * np.exp(common * rng.standard_normal((sum(sizes), 1)) + scatter)
    return [
        Values(of_service[: sizes[0]], of_service[sizes[0] :], NoisePrior(within**2, measured))
        for of_service, within in zip(values.T, WITHIN, strict=True)
    ]


def neighbours(many):
    return [values.prior.neighbours for values in with_neighbours(Metric.AVG, many)]


def test_they_tell_together_how_much_runs_scatter_beyond_their_own_error(rng):
    found = [neighbours(services(rng))[0] for _ in range(20)]
    assert np.mean([item.extra_sd for item in found]) == pytest.approx(0.02, rel=0.1)
    assert all(item.services == 60 for item in found)
    assert min(item.df for item in found) > effect.PRIOR_DF
    assert max(item.df for item in found) <= effect.PRIOR_DF + 2 * 6
    calm = neighbours(services(rng, own=0.0))[0]
    assert calm.extra_sd == pytest.approx(effect.EXTRA_SD, rel=0.5)
    assert neighbours(services(rng, own=0.0, measured=False))[0].extra_sd == effect.PRIOR_SD[Metric.AVG]


def test_what_disturbs_all_services_alike_is_seen_once(rng):
    """Nothing is learned from a run's own disturbance that sixty services repeat."""
    assert np.median([neighbours(services(rng, common=0.3, own=0.0))[0].df for _ in range(20)]) < 1.0


def test_services_that_are_unlike_tell_little_of_each_other(rng):
    unlike = np.where(np.arange(60) % 4 == 0, 0.3, 0.02)
    assert np.median([neighbours(services(rng, own=unlike))[59].df for _ in range(20)]) < effect.PRIOR_DF


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1)])
def test_of_too_few_services_or_runs_nothing_is_learned(rng, sizes):
    assert neighbours(services(rng, sizes=sizes)) == [None] * 60
    few = services(rng)[: effect.POOLED_FROM - 1]
    assert with_neighbours(Metric.AVG, few) == few
    assert with_neighbours(Metric.AVG, []) == []


def test_values_that_were_rounded_to_one_are_left_out(rng):
    many = services(rng)
    many[:5] = [Values(np.full(5, 20.0), np.full(3, 20.0), NoisePrior(0.01**2, measured=True))] * 5
    assert neighbours(many)[0].services == 55
    still = [Values(np.full(5, 20.0), np.full(3, 20.0), NoisePrior(0.01**2, measured=True))] * 60
    assert with_neighbours(Metric.AVG, still) == still


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 3), (3, 1)])
@pytest.mark.parametrize(
    "noise",
    [{"common": 0.05, "own": 0.005}, {"own": "unlike"}, {"common": 0.01, "own": "few"}],
    ids=["common", "unlike", "few"],
)
def test_no_more_is_called_of_identical_runs_than_each_service_alone_would_call(rng, sizes, noise):
    trials, called, alone, inside = 200, 0, 0, []
    for _ in range(trials):
        own = noise["own"]
        if own == "unlike":
            own = 0.012 * np.exp(rng.normal(0, 0.7, 60))
        elif own == "few":
            own = np.where(rng.permutation(60) < 5, 0.08, 0.01)
        many = services(rng, common=noise.get("common", 0.0), own=own, sizes=sizes)
        effects = [compare_levels(Metric.AVG, values, 0.95) for values in with_neighbours(Metric.AVG, many)]
        called += min(item.p_rise for item in effects) < 0.01 / 60
        alone += min(compare_levels(Metric.AVG, values, 0.95).p_rise for values in many) < 0.01 / 60
        inside += [item.ci_low <= 0.0 <= item.ci_high for item in effects]
    assert called <= max(alone, 0.01 * trials) + 2.5 * np.sqrt(0.01 * trials)
    assert np.mean(inside) > 0.9
