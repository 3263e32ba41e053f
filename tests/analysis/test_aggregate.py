"""Many services: what they have in common is judged as one, and what only some runs share is no alarm."""

from dataclasses import replace

import numpy as np
import pytest
from samples import plain_stats, run, side

from perfkit import Metric, Policy, compare
from perfkit.analysis.coverage import MANY, with_aggregate
from perfkit.analysis.explain import explain
from perfkit.analysis.power import RUN_SHARE, alpha_shares
from perfkit.model.records import ALL_SERVICES, Scope

NAMES = tuple(f"GET /{i}" for i in range(12))


def noisy(rng, n, *, first=0, factor=1.0, common=0.012, own=0.15):
    """Runs of twelve services whose averages are little known, with a scatter of their own and one in common."""
    runs = []
    for number in range(first, first + n):
        shared = factor * np.exp(rng.normal(0, common))
        services = {
            name: plain_stats(20.0 * (i + 1) * shared * np.exp(rng.normal(0, own)), error=own, count=200)
            for i, name in enumerate(NAMES)
        }
        runs.append(run(services, number=number, salt=str(rng.random())))
    return runs


def called(comparison):
    return {(f.service, f.metric) for f in comparison.findings if f.verdict in ("regression", "improvement")}


def test_few_services_are_judged_each_by_itself():
    runs = [run({name: plain_stats() for name in NAMES[: MANY - 1]}, number=i) for i in range(4)]
    assert with_aggregate(runs[:2], runs[2:], NAMES[: MANY - 1]) is None
    assert ALL_SERVICES not in {f.service for f in compare(runs[:2], runs[2:]).findings}


def test_a_common_factor_moves_the_whole_by_that_factor_whatever_the_mix():
    before = run({name: plain_stats(10.0 * (i + 1)) for i, name in enumerate(NAMES)})
    after = run({name: plain_stats(12.5 * (i + 1), count=1000 + 90 * i) for i, name in enumerate(NAMES)}, number=1)
    (old,), (new,) = with_aggregate([before], [after], NAMES)
    for metric in (Metric.AVG, Metric.P50, Metric.P95, Metric.P99):
        assert new.services[ALL_SERVICES].value(metric) / old.services[ALL_SERVICES].value(metric) == pytest.approx(
            1.25
        )
    assert old.services[ALL_SERVICES].count == sum(stats.count for stats in before.services.values())
    assert old.services[ALL_SERVICES].rps == pytest.approx(12 * 50.0)


def test_a_change_of_all_is_found_where_none_shows_it_alone(rng):
    found = [called(compare(noisy(rng, 3), noisy(rng, 3, first=50, factor=1.25))) for _ in range(40)]
    assert sum((ALL_SERVICES, "avg_latency_ms") in each for each in found) >= 34
    assert np.mean([len(each - {(ALL_SERVICES, m.value) for m in Metric}) for each in found]) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 3), (1, 1)])
def test_what_the_services_of_a_run_share_is_no_alarm(rng, sizes):
    """Runs that scatter by 1.2 % in common, as the prior expects: at most 1 % of identical pairs are called."""
    trials = 400
    alarms = sum(
        compare(noisy(rng, sizes[0]), noisy(rng, sizes[1], first=50)).verdict == "regression" for _ in range(trials)
    )
    assert alarms <= 0.01 * trials + 3 * np.sqrt(0.01 * trials)


def test_the_whole_takes_its_share_of_alpha_and_no_more():
    scopes = {ALL_SERVICES: Scope.RUN} | dict.fromkeys(NAMES, Scope.SERVICE)
    tests = [(name, metric, scope) for name, scope in scopes.items() for metric in Metric]
    shares = dict(zip(tests, alpha_shares(tests), strict=True))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert sum(share for (_, _, scope), share in shares.items() if scope is Scope.RUN) == pytest.approx(RUN_SHARE)


def test_a_whole_of_other_answers_is_not_judged():
    def runs(avg, size, first):
        services = {name: plain_stats(avg, response_bytes=size) for name in NAMES}
        return [run(services, number=first + i, salt=str(i)) for i in range(3)]

    comparison = compare(runs(20.0, 1000.0, 0), runs(10.0, 400.0, 50))
    assert called(comparison) == set()
    assert comparison.verdict == "inconclusive"


def test_a_service_of_that_name_is_left_as_it_is(rng):
    runs = side(rng, 4, names=(*NAMES, ALL_SERVICES))
    assert {f.scope for f in compare(runs[:2], runs[2:]).findings} == {Scope.SERVICE}
    assert with_aggregate(runs[:2], runs[2:], (*NAMES, ALL_SERVICES)) is None


def test_the_arithmetic_of_the_whole_can_be_redone(rng):
    comparison = compare(noisy(rng, 3), noisy(rng, 3, first=50))
    assert {f.service for f in comparison.findings if f.scope is Scope.RUN} == {ALL_SERVICES}
    text = explain(comparison, ALL_SERVICES, "avg_latency_ms")
    assert "difference d" in text
    assert "30 % of it for this one" in text


def test_its_tolerance_can_be_set(rng):
    before, after = noisy(rng, 3), noisy(rng, 3, first=50)
    policy = Policy(tolerance={ALL_SERVICES: {"avg_latency_ms": 40.0}})
    comparison = compare(before, after, policy=policy)
    assert not [text for text in comparison.warnings if ALL_SERVICES in text]
    finding = next(f for f in comparison.findings if (f.service, f.metric) == (ALL_SERVICES, "avg_latency_ms"))
    assert (finding.tolerance, finding.verdict) == (40.0, "no_change")


def test_an_identical_run_more_never_makes_a_regression_of_no_change(rng):
    for _ in range(30):
        runs = side(rng, 8, sd=0.01)
        before, after = runs[:5], runs[5:]
        first = {(f.service, f.metric): f.verdict for f in compare(before, after).findings}
        copies = [replace(before[0], id="copy", content_hash="copy")], [replace(after[0], id="too", content_hash="too")]
        for pair in ((before + copies[0], after), (before, after + copies[1])):
            for finding in compare(*pair).findings:
                if first[finding.service, finding.metric] == "no_change":
                    assert finding.verdict != "regression"
