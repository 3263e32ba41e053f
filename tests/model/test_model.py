"""The nouns keep their promises: no silent zeros, no naive times, plain JSON."""

import json
import math
from datetime import datetime

import pytest
from samples import plain_stats, run

from perfkit import LoadProfile, Metric, Run, ServiceStats, Validity, compare
from perfkit.model.codec import encode
from perfkit.model.records import Check, Severity

CHECKS = (
    Check("fine", 1, 2, Severity.OK),
    Check("meh", 1, 2, Severity.WARN, "look"),
    Check("bad", 3, 2, Severity.INVALID, "repeat"),
)


def test_metrics_know_unit_direction_and_quantile():
    assert Metric.P95 == "p95_latency_ms"
    assert {m.value: m.unit for m in Metric if m.unit != "ms"} == {"error_rate_pct": "%", "rps": "1/s"}
    assert [m for m in Metric if m.worse < 0] == [Metric.RPS]
    assert [m for m in Metric if m.change_unit == "pp"] == [Metric.ERROR_RATE]
    assert [m.quantile for m in Metric] == [None, 0.5, 0.95, 0.99, 0.999, None, None]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_metric_is_a_finite_number_or_none(value):
    with pytest.raises(ValueError, match="rps: must be a finite number >= 0, got"):
        ServiceStats(1, 0, rps=value)


def test_standard_error_holds_the_rounding_of_the_source():
    stats = ServiceStats(
        9, 0, p50_latency_ms=120.0, standard_errors={"p50_latency_ms": 3.0}, resolutions={"p50_latency_ms": 10.0}
    )
    assert stats.standard_error("p50_latency_ms") == pytest.approx(math.sqrt(9.0 + 100.0 / 12.0))
    assert stats.standard_error("rps") is None
    with pytest.raises(ValueError, match="p51"):
        stats.standard_error("p51")


def test_naive_times_are_refused():
    with pytest.raises(ValueError, match="must be an aware time"):
        Run("x", "s", datetime(2025, 1, 1), 1.0, LoadProfile(), Validity(), {})


def test_validity_is_that_of_the_worst_check():
    assert Validity().ok
    assert Validity(CHECKS[:2]).ok
    assert not Validity(CHECKS).ok
    assert [check.name for check in Validity(CHECKS).problems] == ["bad", "meh"]


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (LoadProfile("ramp", 100, 10.0, 900.0), "ramp to 100 users at 10/s, 900 s"),
        (LoadProfile("steady", 1, None, 120.0), "steady 1 user, 120 s"),
        (LoadProfile("declared", 5), "5 users"),
        (LoadProfile("custom"), "custom load shape"),
        (LoadProfile(), "unknown load"),
    ],
)
def test_a_profile_describes_itself(profile, text):
    assert profile.describe() == text


def test_frames_have_a_row_per_service_and_gaps_where_nothing_is_known():
    frame = run({"a": plain_stats(), "b": ServiceStats(3, 1)}).to_frame()
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["b", "count"] == 3
    assert math.isnan(frame.loc["b", "p95_latency_ms"])
    assert frame.loc["a", "avg_latency_ms_se"] > 0


def test_a_comparison_becomes_strict_json_and_a_frame():
    sides = [
        [run({"a": plain_stats(failures=bad)}, number=n) for n in numbers]
        for bad, numbers in ((0, (1, 2)), (9, (3, 4)))
    ]
    comparison = compare(*sides)
    document = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert document["schema"] == "perfkit.comparison/1"
    assert {"verdict", "comparable", "baseline", "candidate", "warnings", "findings"} <= document.keys()
    assert [r["id"] for r in document["baseline"]["runs"]] == [r.id for r in sides[0]]
    frame = comparison.to_frame()
    assert len(frame) == len(comparison.findings) == len(document["findings"])
    errors = next(f for f in comparison.findings if f.metric == "error_rate_pct")
    assert errors.change_pct == math.inf
    assert encode(errors)["change_pct"] is None
    assert errors.change == errors.change_abs
