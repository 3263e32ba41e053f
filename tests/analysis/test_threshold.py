"""The known answer of the classic pipeline, under both rules, and the threshold rule by itself."""

import json
import math

import pytest
from samples import known_answer_files, plain_stats, run

from perfkit import Policy, ServiceStats, compare
from perfkit.model.records import Verdict
from perfkit.report.findings import headlines, next_step

THRESHOLD = Policy(rule="threshold")


@pytest.fixture
def known_answer(tmp_path):
    return known_answer_files(tmp_path)


def by_name(comparison):
    return {(finding.service, finding.metric): finding for finding in comparison.findings}


def test_known_answer_under_the_threshold_rule(known_answer):
    comparison = compare(known_answer[:1], known_answer[1:], policy=THRESHOLD)
    found = by_name(comparison)
    assert set(found) == {(s, m) for s in ("api_gateway", "rag_service") for m in ("error_rate_pct", "rps")}
    assert {name: finding.verdict.value for name, finding in found.items()} == {
        ("api_gateway", "error_rate_pct"): "regression",
        ("api_gateway", "rps"): "no_change",
        ("rag_service", "error_rate_pct"): "regression",
        ("rag_service", "rps"): "no_change",
    }
    errors, rate = found["api_gateway", "error_rate_pct"], found["api_gateway", "rps"]
    assert (errors.baseline, errors.candidate, f"{errors.change_pct:+.0f} %") == (0.33, 1.0, "+203 %")
    assert errors.limit == "+0.5 %"
    assert (rate.baseline, rate.candidate, rate.change_pct, rate.limit) == (50.0, 35.0, pytest.approx(-30.0), "-30 %")
    from_zero = found["rag_service", "error_rate_pct"]
    assert from_zero.change_pct == math.inf
    assert any("infinite" in warning for warning in from_zero.warnings)
    assert found["rag_service", "rps"].change_pct == pytest.approx(-4.0)
    assert (comparison.verdict, comparison.rule) == ("regression", "threshold")
    assert all(finding.p_value is None and finding.ci_low is None for finding in comparison.findings)


def test_known_answer_under_the_evidence_rule(known_answer):
    comparison = compare(known_answer[:1], known_answer[1:])
    found = by_name(comparison)
    assert comparison.verdict == "inconclusive"
    assert comparison.comparable
    assert {finding.verdict for finding in comparison.findings} == {"inconclusive"}
    for service in ("api_gateway", "rag_service"):
        errors = found[service, "error_rate_pct"]
        assert errors.p_value > 0.05
        assert errors.ci_low < 0 < errors.ci_high
        assert errors.requests_needed > 1500
        assert errors.runs_needed > 1
        assert found[service, "rps"].verdict == "inconclusive"
        assert any("1 user" in warning for warning in found[service, "rps"].warnings)


def test_the_service_that_only_the_baseline_profiled_is_named_and_hides_nothing(known_answer):
    comparison = compare(known_answer[:1], known_answer[1:], policy=THRESHOLD)
    counts = [len(comparison.by_verdict(Verdict(word))) for word in ("no_change", "regression")]
    assert (len(comparison.findings), *counts, comparison.comparable) == (4, 2, 2, True)
    text = "Not measured in the candidate: mcp_server (17 % of the baseline's requests)."
    assert text in [gap.text for gap in comparison.gaps]
    assert text in comparison.warnings
    assert text in headlines(comparison)
    assert "why mcp_server got no request" in next_step(comparison)


def test_limits_that_both_sides_keep_are_not_green_while_a_service_is_missing(tmp_path):
    files = known_answer_files(tmp_path)
    candidate = json.loads(files[1].read_text())
    candidate = {name: entry | {"error_rate_pct": 0.0, "total_failures": 0} for name, entry in candidate.items()}
    files[1].write_text(json.dumps(candidate))
    comparison = compare(files[:1], files[1:], policy=THRESHOLD)
    assert {finding.verdict.value for finding in comparison.findings} == {"no_change"}
    assert (comparison.verdict, comparison.comparable) == ("inconclusive", True)


def test_a_limited_metric_that_one_side_does_not_know_is_said_and_not_green():
    sides = [
        [run({"a": ServiceStats(100, 0, rps=5.0, **more)}, number=n)]
        for n, more in enumerate(({"p95_latency_ms": 10.0}, {}))
    ]
    comparison = compare(*sides, policy=THRESHOLD)
    assert comparison.verdict == "inconclusive"
    assert comparison.gaps[0].text == "P95 latency is not known in the candidate, so it is not judged: a."


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_known_answer_warns_of_what_makes_the_sides_unlike(known_answer, rule):
    warnings = "\n".join(compare(known_answer[:1], known_answer[1:], policy=Policy(rule=rule)).warnings)
    assert "1 user in the baseline, 100 users in the candidate" in warnings
    assert "api_gateway: 300 requests in 2 minutes are not 50 rps" in warnings
    assert "rag_service: 150 requests in 2 minutes are not 25 rps" in warnings


def judged(baseline, candidate, **tolerance):
    sides = [[run({"a": ServiceStats(100, 0, **values)}, number=n)] for n, values in enumerate((baseline, candidate))]
    comparison = compare(*sides, policy=Policy(tolerance=tolerance, rule="threshold"))
    return {finding.metric: finding.verdict.value for finding in comparison.findings}


@pytest.mark.parametrize(
    ("metric", "before", "after", "limit", "verdict"),
    [
        ("p95_latency_ms", 100.0, 150.0, "+50%", "no_change"),
        ("p95_latency_ms", 100.0, 150.001, "+50%", "regression"),
        ("p95_latency_ms", 100.0, 20.0, "+50%", "no_change"),
        ("p95_latency_ms", 0.1, 0.3, "+200%", "no_change"),  # 0.3 / 0.1 is 2.9999... in binary
        ("p95_latency_ms", 100.0, 120.0, "+20ms", "no_change"),
        ("p95_latency_ms", 100.0, 121.0, "+20ms", "regression"),
        ("p95_latency_ms", 0.0, 21.0, "+20ms", "regression"),
        ("p95_latency_ms", 0.0, 1.0, "+50%", "regression"),
        ("p95_latency_ms", 0.0, 0.0, "+50%", "no_change"),
        ("rps", 50.0, 35.0, "-30%", "no_change"),
        ("rps", 50.0, 34.99, "-30%", "regression"),
        ("rps", 50.0, 500.0, "-30%", "no_change"),
        ("rps", 0.0, 5.0, "-30%", "no_change"),
        ("rps", 50.0, 0.0, "-30%", "regression"),
        ("rps", 50.0, 44.9, "-5rps", "regression"),
        ("error_rate_pct", 0.5, 1.0, "+0.5pp", "no_change"),
        ("error_rate_pct", 0.5, 1.01, "+0.5pp", "regression"),
        ("error_rate_pct", 0.0, 0.4, "+0.5pp", "no_change"),
        ("error_rate_pct", 0.0, 0.4, "+0.5%", "regression"),
        ("avg_latency_ms", 10.0, 10.0, 0, "no_change"),
        ("avg_latency_ms", 10.0, 10.1, 0, "regression"),
    ],
)
def test_limits_hold_up_to_and_including_their_amount(metric, before, after, limit, verdict):
    assert judged({metric: before}, {metric: after}, **{metric: limit})[metric] == verdict


def test_only_metrics_with_a_limit_that_both_sides_have_are_evaluated():
    both = {"p95_latency_ms": 10.0, "rps": 5.0, "avg_latency_ms": 3.0}
    assert set(judged(both, {"rps": 5.0, "error_rate_pct": 0.0})) == {"rps"}
    assert set(judged(both, both)) == {"p95_latency_ms", "rps"}


def test_nothing_to_evaluate_is_not_green():
    sides = [
        [run({"a": ServiceStats(100, 0, **v)}, number=n)] for n, v in enumerate(({"rps": 5.0}, {"p95_latency_ms": 5.0}))
    ]
    comparison = compare(*sides, policy=THRESHOLD)
    assert comparison.verdict == "invalid"
    assert any("Nothing to judge" in warning for warning in comparison.warnings)


def test_the_threshold_rule_needs_valid_runs_too():
    good, empty = run({"a": plain_stats()}, number=1), run({"b": plain_stats()}, number=2)
    assert compare([good], [empty], policy=THRESHOLD).verdict == "invalid"
