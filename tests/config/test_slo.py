"""A promise as people write it is read, or refused with the nearest known word."""

from __future__ import annotations

import pytest

from perfkit import Metric, SettingsError
from perfkit.config.policy import describe_slo, parse_slo


@pytest.mark.parametrize(
    ("text", "metric", "amount", "words"),
    [
        ("p95 < 300 ms", Metric.P95, 300.0, "p95 latency below 300 ms"),
        ("p99<1s", Metric.P99, 1000.0, "p99 latency below 1000 ms"),
        (" P50 <= 0.25 S ", Metric.P50, 250.0, "median latency below 250 ms"),
        ("avg ≤ 80ms", Metric.AVG, 80.0, "average latency below 80 ms"),
        ("p99.9 < 2 s", Metric.P999, 2000.0, "p99.9 latency below 2000 ms"),
        ("error_rate < 1 %", Metric.ERROR_RATE, 1.0, "error rate below 1 %"),
        ("errors<0.5%", Metric.ERROR_RATE, 0.5, "error rate below 0.5 %"),
        ("p95_latency_ms < 300", Metric.P95, 300.0, "p95 latency below 300 ms"),
    ],
)
def test_what_people_write(text, metric, amount, words):
    slo = parse_slo(text)
    assert (slo.metric, slo.amount, describe_slo(slo)) == (metric, amount, words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p96 < 300 ms", r"unknown metric 'p96' \(did you mean 'p9[59]'\?\); known are avg, average"),
        ("latency < 300 ms", "unknown metric 'latency'"),
        ("eror_rate < 1 %", r"unknown metric 'eror_rate' \(did you mean 'error_rate'\?\)"),
        ("p95 < 300", "p95 latency is in ms or s, got no unit"),
        ("p95 < 3 %", "p95 latency is in ms or s, got %"),
        ("error_rate < 10 ms", "error rate is in %, got ms"),
        ("error_rate < 100 %", "the limit must be above 0 and below 100 %"),
        ("p95 < 0 ms", "the limit must be above 0"),
        ("p95 > 300 ms", "write a metric, <, a number and its unit, such as p95 < 300 ms"),
        ("fast", "write a metric, <"),
        ("", "write a metric, <"),
    ],
)
def test_what_cannot_be_read(text, message):
    with pytest.raises(SettingsError, match=message):
        parse_slo(text)
