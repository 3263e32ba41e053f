"""Absolute limits, required runs, tolerances of a scenario: a policy beyond percentages."""

from dataclasses import replace

import numpy as np
import pytest
from samples import SERVICES, plain_stats, run, side

from perfkit import Policy, SettingsError, compare

LEVELS = (1.0, 1.01, 0.99, 1.005, 0.995)


def runs(level, n=5, first=0, **changes):
    return [run({"a": plain_stats(level * LEVELS[i % 5], count=20000, **changes)}, number=first + i) for i in range(n)]


def objective(comparison, metric="avg_latency_ms"):
    return next(f for f in comparison.findings if f.objective and f.metric == metric)


@pytest.mark.parametrize(
    ("limit", "verdict", "overall"),
    [
        ({"avg_latency_ms": {"max": 30}}, "no_change", "no_change"),
        ({"avg_latency_ms": {"max": 20.0}}, "inconclusive", "inconclusive"),
        ({"avg_latency_ms": {"max": 15}}, "regression", "regression"),
        ({"rps": {"min": 40}}, "no_change", "no_change"),
        ({"rps": {"min": 60}}, "regression", "regression"),
        ({"error_rate_pct": {"max": 1}}, "no_change", "no_change"),
        ({"p999_latency_ms": {"max": 1}, "a": {"p999_latency_ms": {"max": 1000}}}, "no_change", "no_change"),
    ],
)
@pytest.mark.parametrize("place", ["objectives", "tolerance"])
def test_an_absolute_limit_is_judged_with_its_uncertainty(limit, verdict, overall, place):
    comparison = compare(runs(20.0), runs(20.0, first=50), policy=Policy(**{place: limit}))
    finding = objective(comparison, next(iter(limit)))
    assert (finding.verdict, comparison.verdict) == (verdict, overall)
    assert finding.limit.startswith("at ")


def test_a_limit_on_errors_is_kept_broken_or_open():
    for failures, verdict in ((20, "no_change"), (100, "inconclusive"), (400, "regression")):
        many = runs(20.0, first=50, failures=failures, error_rate_pct=failures / 200)
        comparison = compare(runs(20.0), many, policy=Policy(objectives={"error_rate_pct": {"max": 0.5}}))
        assert objective(comparison, "error_rate_pct").verdict == verdict


def test_a_limit_exactly_at_the_level_is_called_broken_at_most_once_in_a_hundred(rng):
    broken = 0
    many = side(rng, 3000, names=("api_gateway",))
    level = float(np.exp(np.mean([np.log(r.services["api_gateway"].avg_latency_ms) for r in many])))
    for _ in range(400):
        pair = side(rng, 5, names=("api_gateway",)), side(rng, 5, first=50, names=("api_gateway",))
        comparison = compare(*pair, policy=Policy(objectives={"avg_latency_ms": {"max": level}}))
        broken += objective(comparison).verdict == "regression"
    assert broken <= 12


def test_a_limit_that_a_run_cannot_tell_is_open():
    comparison = compare(
        runs(20.0, p99_latency_ms=None), runs(20.0, first=50), policy=Policy(objectives={"p99_latency_ms": {"max": 9}})
    )
    assert objective(comparison, "p99_latency_ms").verdict == "regression"
    blind = compare(
        runs(20.0), runs(20.0, first=50, p99_latency_ms=None), policy=Policy(objectives={"p99_latency_ms": {"max": 9}})
    )
    assert objective(blind, "p99_latency_ms").verdict == "inconclusive"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"avg_latency_ms": {"min": 5}}, "an absolute limit is written {max = 300}"),
        ({"rps": {"max": 5}}, "an absolute limit is written {min = 300}"),
        ({"avg_latency_ms": 5}, "an absolute limit is written {max = 300}"),
        ({"avg_latency_ms": {"max": -5}}, "max must be a finite number > 0"),
        ({"avg_latencyms": 5}, "a table of metrics, got 5"),
        ({"a": {"avg_latencyms": {"max": 5}}}, "did you mean 'avg_latency_ms'"),
    ],
)
def test_a_wrong_limit_says_what_is_allowed(table, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        Policy(objectives=table)


def test_fewer_runs_than_required_claim_nothing():
    policy = Policy(required_runs=5)
    assert compare(runs(20.0), runs(30.0, first=50), policy=policy).verdict == "regression"
    early = compare(runs(20.0), runs(30.0, n=3, first=50), policy=policy)
    assert early.verdict == "inconclusive"
    assert {finding.verdict for finding in early.findings} == {"inconclusive"}
    assert min(finding.runs_needed for finding in early.findings) >= 2
    assert any("asks for 5 runs on each side; there are 5 and 3" in text for text in early.warnings)
    fixed = compare(runs(20.0, n=1), runs(30.0, n=1, first=50), policy=policy.with_rule("threshold"))
    assert fixed.verdict == "inconclusive"


def test_a_scenario_has_tolerances_of_its_own():
    policy = Policy(scenarios={"api": {"avg_latency_ms": 80, "a": {"p50_latency_ms": "off"}}})
    before, after = runs(20.0), runs(30.0, first=50)
    assert {f.metric: f.tolerance for f in compare(before, after, policy=policy).findings}["avg_latency_ms"] == 80
    assert "p50_latency_ms" not in {f.metric for f in compare(before, after, policy=policy).findings}
    other = [replace(one, scenario="web") for one in (*before, *after)]
    assert compare(other[:5], other[5:], policy=policy).findings[0].tolerance == 5


def test_everything_of_a_policy_can_stand_in_a_file(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text("""
required_runs = 3
[tolerance]
p95_latency_ms = { max = 300 }
[objectives.rag_service]
p95_latency_ms = { max = 500 }
[scenarios.soak]
avg_latency_ms = 8
""")
    policy = Policy.from_toml(file)
    assert policy.required_runs == 3
    assert [item.describe() for item in policy.objectives_of("rag_service")] == ["at most 500 ms"]
    assert [item.describe() for item in policy.objectives_of("other")] == ["at most 300 ms"]
    assert policy.limit("other", "p95_latency_ms").amount == 10
    assert policy.for_scenario("soak").limit("other", "avg_latency_ms").amount == 8
    file.write_text("required_runs = 0")
    with pytest.raises(SettingsError, match="required_runs: a whole number of at least 1, got 0"):
        Policy.from_toml(file)


def test_services_of_the_samples_are_the_demo_services():
    assert set(SERVICES) == {"api_gateway", "rag_service", "mcp_server"}
