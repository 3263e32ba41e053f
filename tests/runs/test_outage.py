"""Nearly every request fails: latencies are withheld, the error is named, and its rate is what is judged."""

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from samples import EPOCH, plain_stats, requests, run, write_locust

from perfkit import Policy, compare, read_run, run_from_requests
from perfkit.loadgen.ab_test import ABPlan, ABTest
from perfkit.model.codec import dump_json
from perfkit.model.serialization import parse_run, run_to_document
from perfkit.report.findings import headlines, next_step
from perfkit.runs.requests import error_label

EXACT = (1.0, 1.001, 0.999, 1.0005, 0.9995)


def runs(failed=None, n=4, *, first=0, kind="HTTPError 500"):
    """Runs of /a (60 % of the requests), /b (28 %) and /c (12 %), with a share of failed requests for each."""
    made = []
    for i in range(n):
        services = {}
        for name, count in (("/a", 6000), ("/b", 2800), ("/c", 1200)):
            share = (failed or {}).get(name, 0.0)
            stats = plain_stats(20.0 * EXACT[i % 5], count=count, failures=round(share * count), rps=count / 60)
            services[name] = replace(stats, errors={kind: stats.failures, "ReadTimeout": 1} if share else {})
        made.append(run(services, number=first + i))
    return made


ALL = {"/a": 0.97, "/b": 0.97, "/c": 0.97}


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
@pytest.mark.parametrize("failed", [ALL, {"/b": 0.99}, {"/c": 0.95}])
def test_a_candidate_that_fails_where_the_baseline_did_not_is_a_regression(rule, failed):
    comparison = compare(runs(), runs(failed, first=50), policy=Policy(rule=rule))
    assert comparison.verdict == "regression"
    found = [f for f in comparison.findings if f.service in failed]
    assert {f.metric for f in found if f.verdict == "regression"} == {"error_rate_pct"}
    assert all(f.candidate is None for f in found if f.metric.endswith("latency_ms"))
    text = " ".join(headlines(comparison))
    assert "of the candidate's requests failed, most often with HTTPError 500: latencies are withheld." in text
    assert "Look at the errors first." in next_step(comparison)


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
@pytest.mark.parametrize("failed", [ALL, {"/b": 0.99}, {"/c": 0.95}])
def test_what_fails_alike_on_both_sides_leaves_nothing_to_compare(rule, failed):
    comparison = compare(runs(failed), runs(failed, first=50), policy=Policy(rule=rule))
    assert (comparison.verdict, comparison.comparable) == ("invalid", False)
    assert "there is nothing to compare" in headlines(comparison)[0]
    assert "HTTPError 500" in headlines(comparison)[0]


def test_fixed_limits_still_judge_what_does_not_fail_on_both_sides():
    sides = runs({"/c": 0.95}), runs({"/c": 0.95, "/a": 0.02}, first=50)
    assert compare(*sides, policy=Policy(rule="threshold")).verdict == "regression"
    assert compare(*sides).verdict == "invalid"


def test_a_baseline_that_fails_is_named_and_the_candidate_is_not_celebrated():
    comparison = compare(runs(ALL), runs(first=50))
    assert comparison.verdict == "inconclusive"
    assert headlines(comparison)[0] == (
        "97 % of the baseline's requests failed, most often with HTTPError 500: latencies are withheld."
    )
    assert "Measure a baseline that does not fail." in next_step(comparison)


def test_one_run_that_fails_is_counted():
    candidate = [*runs(first=50)[:3], *runs({"/b": 1.0}, 1, first=60)]
    comparison = compare(runs(), candidate)
    assert comparison.verdict != "no_change"
    assert headlines(comparison)[-1].startswith("/b: 100 % of the requests of 1 of 4 candidate runs failed") or any(
        text.startswith("/b: 100 % of the requests of 1 of 4 candidate runs failed") for text in headlines(comparison)
    )


def test_a_service_that_carries_little_says_nothing_of_the_run():
    small = [replace(r, services=r.services | {"/d": plain_stats(count=300, failures=300)}) for r in runs()]
    same = [replace(r, services=r.services | {"/d": plain_stats(count=300, failures=300)}) for r in runs(first=50)]
    assert compare(small, same).verdict != "invalid"


def frame(share, error="HTTPError 503", seed=1):
    made = requests(np.random.default_rng(seed), seconds=60, services={"/a": 20.0}, begin=EPOCH + 1000 * seed)
    failed = np.arange(len(made)) < share * len(made)
    return made.assign(failed=failed, error=pd.Series(np.where(failed, error, None)).astype("category"))


def test_kinds_of_errors_come_from_the_requests_and_survive_the_store():
    kept = run_from_requests(frame(0.95), scenario="api")
    stats = kept.services["/a"]
    assert stats.errors == {"HTTPError 503": stats.failures}
    assert stats.avg_latency_ms is None
    assert "average latency withheld: 95 % of the requests failed (HTTPError 503)" in stats.warnings
    assert parse_run(dump_json(run_to_document(kept)).encode(), "run.json").services["/a"] == stats
    assert run_from_requests(frame(0.5), scenario="api").services["/a"].avg_latency_ms is not None


def test_kinds_of_errors_come_from_locusts_file_without_ids_and_tokens(tmp_path):
    main = write_locust(tmp_path / "x", frame(0.95).drop(columns="error"))
    rows = [
        ["Method", "Name", "Error", "Occurrences", "First Seen", "Last Seen"],
        ["GET", "/a", "HTTPError('500 Server Error: boom for url: /a?token=s3cret')", "40", "", ""],
        ["GET", "/a", "HTTPError('500 Server Error: boom for url: /a?token=other')", "30", "", ""],
        ["GET", "/a", "ConnectTimeout('host 10.0.0.1')", "50", "", ""],
        ["GET", "/a", "order 17 of bob@example.org is gone", "2", "", ""],
        ["GET", "/a", "cut off"],
    ]
    with (tmp_path / "x_failures.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    stats = read_run(main).services["/a"]
    assert stats.errors == {"HTTPError 500": 70, "ConnectTimeout": 50, "error": 2}
    assert stats.avg_latency_ms is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("HTTPError 500", "HTTPError 500"),
        ("HTTPError('404 Client Error: Not Found for url: /x/1')", "HTTPError 404"),
        ("CatchResponseError('wrong body: 12345')", "CatchResponseError"),
        ("ConnectionRefusedError(111, 'Connection refused')", "ConnectionRefusedError"),
        ("requests.exceptions.ReadTimeout: 10.0.0.1", "ReadTimeout"),
        ("500 Server Error", "HTTP 500"),
        ("Bob has no money", "error"),
        ("token=abc", "error"),
        ("", "error"),
    ],
)
def test_error_texts_become_kinds(text, kind):
    assert error_label(text) == kind


def test_looking_again_and_again_stops_where_both_sides_fail(tmp_path):
    made = iter(range(100))

    def fails(scenario, store, labels, report):
        number = next(made)
        return replace(runs(ALL, 1, first=number)[0], labels=labels)

    targets = dict.fromkeys(("baseline", "candidate"), type("Target", (), {"name": "api"})())
    plan = ABPlan(12, until_settled=True)
    outcome = ABTest(targets, str(tmp_path), Policy(), plan, lambda _: None, run_one=fails).decide()
    assert outcome.comparison.verdict == "invalid"
    assert next(made) == 6  # three pairs, and no more
