"""Absolute limits, required runs, tolerances of a scenario: a policy beyond percentages."""

from dataclasses import replace

import numpy as np
import pytest
from samples import SERVICES, plain_stats, run, side
from scipy.stats import binom

from perfkit import Metric, Policy, SettingsError, compare

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
    with pytest.raises(SettingsError, match="required_runs: a whole number from 1 to 1000, got 0"):
        Policy.from_toml(file)


def test_services_of_the_samples_are_the_demo_services():
    assert set(SERVICES) == {"api_gateway", "rag_service", "mcp_server"}


# One alarm budget, and the error of an absolute level ----------------------------------------------------------------

NO_TOLERANCE = {metric.value: 1e-6 for metric in Metric}


def in_pairs(rng, n, *, weather=0.05, factor=1.0):
    """Runs of two services that share, pair by pair, what the machine does to both sides."""
    both = ([], [])
    for pair in range(n):
        shared = float(np.exp(rng.normal(0, weather)))
        for number, level in enumerate((1.0, factor)):
            services = {}
            for name in ("a", "b"):
                avg = 100 * shared * level * float(np.exp(rng.normal(0, 0.006)))
                services[name] = plain_stats(avg, count=5000, failures=int(rng.binomial(5000, 0.002)), error=0.006)
            labels = {"pair": str(pair), "side": str(number)}
            both[number].append(run(services, number=2 * pair + number, labels=labels))
    return both


def test_a_limit_at_the_level_is_not_broken_by_what_disturbs_both_runs_of_a_pair(rng):
    """The noise of the differences of pairs knows nothing of it: it called 46 in a hundred broken."""
    policy = Policy(objectives={"avg_latency_ms": {"max": 100.0}})
    broken = sum(
        any(f.objective and f.verdict == "regression" for f in compare(*in_pairs(rng, 6), policy=policy).findings)
        for _ in range(150)
    )
    found = sum(
        all(
            f.verdict == "regression"
            for f in compare(*in_pairs(rng, 6, factor=1.3), policy=policy).findings
            if f.objective
        )
        for _ in range(40)
    )
    assert broken <= binom.ppf(0.999, 150, 0.01)
    assert found >= 30


def test_the_error_of_a_level_is_that_of_the_candidate_alone_where_runs_were_paired(rng):
    before, after = in_pairs(rng, 6)
    finding = objective(compare(before, after, policy=Policy(objectives={"avg_latency_ms": {"max": 100.0}})))
    numbers = finding.arithmetic.levels
    logs = np.log([one.services["a"].avg_latency_ms for one in after])
    assert numbers.squares == pytest.approx((((logs - logs.mean()) ** 2).sum(),))
    assert (numbers.runs, numbers.squares_df) == ((6,), 5)
    assert numbers.error == pytest.approx(numbers.sd / np.sqrt(6))


def test_everything_that_can_turn_a_comparison_red_shares_one_budget():
    policy = Policy(objectives={"avg_latency_ms": {"max": 20.0}, "rps": {"min": 50}}, alpha=0.02)
    comparison = compare(runs(20.0), runs(20.0, first=50), policy=policy)
    shares = [f.arithmetic.share for f in comparison.findings]
    assert sum(shares) == pytest.approx(1.0)
    assert {f.arithmetic.alpha for f in comparison.findings} == {0.02}
    assert {f.arithmetic.tests for f in comparison.findings} == {len(comparison.findings)}
    assert [f.arithmetic.share for f in comparison.findings if f.objective] == pytest.approx([0.1, 0.1])
    alone = compare(runs(20.0), runs(20.0, first=50), policy=replace(policy, rule="threshold"))
    assert [f.arithmetic.share for f in alone.findings if f.objective] == pytest.approx([0.5, 0.5])


def test_the_adjusted_p_of_a_limit_is_corrected_over_findings_and_limits():
    """By hand: Holm's steps over all raw p-values, weighted by their shares."""
    policy = Policy(objectives={"avg_latency_ms": {"max": 19.8}, "p95_latency_ms": {"max": 33.0}})
    findings = compare(runs(20.0), runs(20.1, first=50), policy=policy).findings
    worse = dict(enumerate(findings))
    p = {
        n: f.p_value if f.objective or (f.change >= 0) == (f.metric != "rps") else 1 - f.p_value
        for n, f in worse.items()
    }
    left, floor, adjusted = 1.0, 0.0, {}
    for n in sorted(p, key=lambda n: p[n] / worse[n].arithmetic.share):
        floor = adjusted[n] = max(floor, min(p[n] * left / worse[n].arithmetic.share, 1.0))
        left -= worse[n].arithmetic.share
    limits = [n for n, f in worse.items() if f.objective]
    assert [worse[n].p_adjusted for n in limits] == pytest.approx([adjusted[n] for n in limits], rel=1e-6)
    assert all(worse[n].p_adjusted > worse[n].p_value for n in limits)


def test_limits_at_the_true_level_alarm_with_all_findings_at_most_once_in_a_hundred(rng):
    """No finding has any tolerance: identical builds, and limits that are exactly met, by chance only."""
    levels = {"avg_latency_ms": {"max": 21.6}, "p95_latency_ms": {"max": 35.6}, "error_rate_pct": {"max": 0.2}}
    policy = Policy(tolerance=NO_TOLERANCE, objectives=levels)
    trials = 120
    red = 0
    for _ in range(trials):
        pair = side(rng, 5, names=("api_gateway",)), side(rng, 3, first=50, names=("api_gateway",))
        red += compare(*pair, policy=policy).verdict == "regression"
    assert red <= binom.ppf(0.999, trials, 0.01)


@pytest.mark.parametrize(("limit", "level"), [({"avg_latency_ms": {"max": 20.0}}, 20.0), ({"rps": {"min": 50}}, 20.0)])
def test_an_open_limit_says_how_many_runs_would_settle_it(limit, level):
    finding = objective(compare(runs(level), runs(level, first=50), policy=Policy(objectives=limit)), next(iter(limit)))
    assert finding.verdict == "inconclusive"
    assert finding.runs_needed is None  # a level exactly at its limit: none would
    near = objective(
        compare(runs(19.9), runs(19.9, first=50), policy=Policy(objectives={"avg_latency_ms": {"max": 20.0}}))
    )
    assert (near.verdict, near.runs_needed) == ("inconclusive", near.runs_needed)
    assert near.runs_needed >= 1


def test_an_open_limit_on_errors_says_how_many_requests_would_settle_it():
    many = runs(20.0, first=50, failures=76, error_rate_pct=0.38)
    finding = objective(
        compare(runs(20.0), many, policy=Policy(objectives={"error_rate_pct": {"max": 0.4}})), "error_rate_pct"
    )
    assert finding.verdict == "inconclusive"
    assert finding.requests_needed > 100_000
    assert finding.runs_needed >= 1
    assert finding.min_detectable > 0
