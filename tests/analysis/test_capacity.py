"""How much load can it take, from stored runs to the words, charts and the report."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from closed_queue import SERVICE_S, THINK_S, WORKERS, stored_ramp, true_capacity
from samples import requests, run, stats

from perfkit import (
    LoadProfile,
    NotComparable,
    ReadError,
    RunStore,
    SettingsError,
    Verdict,
    read_runs,
    run_from_requests,
)
from perfkit.analysis.capacity import ALL, capacity_of
from perfkit.cli import main
from perfkit.report.capacity import (
    capacity_banner,
    capacity_table,
    differences_table,
    format_estimate,
    scalability_table,
)
from perfkit.report.plot import changes_by_load, load
from perfkit.runs.run_folder import read_users
from perfkit.stats.capacity import Estimate

HOSTILE = "</script><script>window.pwned=1</script>"
KNEE = WORKERS / SERVICE_S * (SERVICE_S + THINK_S)


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Three ramps of each build; the candidate's service takes 25 % longer, and its name is hostile."""
    folder = tmp_path_factory.mktemp("ramps")
    rng = np.random.default_rng(20251017)
    for number in range(3):
        for side, slower in (("baseline", 1.0), ("candidate", 1.25)):
            begin = 1.76e9 + 300 * number + (150 if side == "candidate" else 0)
            factor = slower * float(np.exp(0.01 * rng.standard_normal()))
            stored_ramp(RunStore(folder / side), rng, begin=begin, service_s=SERVICE_S * factor, name=HOSTILE)
    return folder


@pytest.fixture(scope="module")
def single(ramps):
    return capacity_of(read_runs(ramps / "baseline"), slo="p95 < 400 ms")


@pytest.fixture(scope="module")
def both(ramps):
    return capacity_of(read_runs(ramps / "baseline"), read_runs(ramps / "candidate"), "p95 < 400 ms")


def test_knee_and_capacity_of_one_build(single):
    (curve,) = single.curves
    assert (single.load_unit, single.verdict, single.slo) == ("users", None, "p95 latency below 400 ms")
    assert curve.knee.low < KNEE < curve.knee.high
    assert curve.knee_throughput.value == pytest.approx(WORKERS / SERVICE_S, rel=0.1)
    assert curve.limit.value == pytest.approx(true_capacity(0.4, 0.05), rel=0.12)
    assert curve.limit_throughput == pytest.approx(79, rel=0.1)
    assert curve.scalability.lam.value > 1.5
    assert single.warnings == ()


def test_points_carry_their_errors(single):
    frame = single.to_frame()
    assert {"side", "service", "run", "load", "throughput_error", "p95_error_ms"} <= set(frame.columns)
    assert frame["run"].nunique() == 3
    assert 90 <= len(frame) <= 180
    line = single.curves[0].line
    assert [point.load for point in line] == sorted(point.load for point in line)


def test_a_slower_build_is_a_regression_at_equal_load(both):
    assert both.verdict is Verdict.REGRESSION
    by_question = {item.question: item for item in both.differences}
    average = by_question["average latency at equal load"]
    assert average.verdict is Verdict.REGRESSION
    assert 20 < average.change_pct < 80
    assert by_question["capacity under the SLO"].change_pct < 0
    assert by_question["load at the knee"].change_pct < 0
    assert by_question["throughput at equal load"].change_pct < 0
    early = [level for level in both.at_load if level.metric == "rps" and level.load < 0.5 * KNEE]
    late = [level for level in both.at_load if level.metric == "rps" and level.load > 1.2 * KNEE]
    assert np.mean([level.change_pct for level in early]) > -10 > np.mean([level.change_pct for level in late])


def test_the_same_runs_on_both_sides_are_no_regression(ramps):
    runs = read_runs(ramps / "baseline")
    same = capacity_of(runs, runs, "p95 < 400 ms")
    assert same.verdict in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE)
    assert all(item.change_pct == pytest.approx(0, abs=1e-6) for item in same.differences)


def test_the_document_is_plain_json(both):
    document = json.loads(json.dumps(both.to_dict()))
    assert document["schema"] == "perfkit.capacity/1"
    assert document["verdict"] == "regression"
    assert set(document["curves"][0]) >= {"service", "side", "points", "line", "knee", "limit", "scalability"}


def test_without_users_load_is_what_is_in_flight(tmp_path, rng):
    store = RunStore(tmp_path)
    stored_ramp(store, rng, users_known=False)
    found = capacity_of(read_runs(tmp_path))
    assert found.load_unit == "requests in flight"
    assert "Little's law" in found.warnings[0]


def test_under_an_arrival_rate_load_is_arrivals(monkeypatch, tmp_path, rng):
    """An open ramp to 100 arrivals a second in front of 8 workers that do 80."""
    count = 15000
    start = 300 * np.sqrt(np.sort(rng.random(count)))
    free, end = [0.0] * WORKERS, []
    for at, seconds in zip(start, SERVICE_S * rng.exponential(size=count), strict=True):
        free.sort()
        free[0] = max(at, free[0]) + seconds
        end.append(free[0])
    frame = pd.DataFrame({"start": 1.76e9 + start, "service": "a", "failed": False})
    run = run_from_requests(frame.assign(response_time_ms=1000 * (np.array(end) - start)))
    monkeypatch.setattr(LoadProfile, "rate", 100.0, raising=False)
    found = capacity_of([run], slo="p95 < 1 s")
    assert found.load_unit == "arrivals/s"
    assert found.curves[0].limit.value == pytest.approx(84, rel=0.1)
    assert found.curves[0].scalability.load_unit == "requests in flight"


def test_one_load_says_so(rng):
    steady = run_from_requests(requests(rng, seconds=60.0))
    found = capacity_of([steady], slo="p95 < 1 s")
    assert {curve.knee.status for curve in found.curves} == {"unknown"}
    assert "the load hardly chang" in found.curves[0].knee.reason
    assert any("the load hardly changes" in warning for warning in found.warnings)
    assert found.services[0] == ALL
    assert len(found.services) == 4


def test_what_cannot_be_read_is_an_error(ramps, rng):
    runs = read_runs(ramps / "baseline")
    with pytest.raises(NotComparable, match="capacity: has no runs"):
        capacity_of([])
    with pytest.raises(ReadError, match="single requests were not kept; capacity needs"):
        capacity_of([run({"api": stats(rng)})])
    with pytest.raises(SettingsError, match=r"unknown metric 'p94'"):
        capacity_of(runs, slo="p94 < 1 s")
    with pytest.raises(NotComparable, match="no service in common"):
        capacity_of(runs, [run_from_requests(requests(rng))])


def test_users_of_several_processes_add_up(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    assert read_users(tmp_path) is None
    (source / "generator.csv.1").write_text("time,users,extra\n10.2,3,x\n11.2,4,x\n12.3,4,x\n")
    (source / "generator.csv").write_text("time,users\n10.2,7\nodd,odd\n")  # of their master, which makes no load
    assert read_users(tmp_path)[1].tolist() == [3, 4, 4]
    (source / "generator.csv.2").write_text("time,users\n10.9,2\n12.1,5\n12.9")
    times, users = read_users(tmp_path)
    assert (times.tolist(), users.tolist()) == ([10, 11, 12], [5, 6, 9])
    (source / "generator.csv.3").write_text("time,users\n10,many\n")
    with pytest.raises(ReadError, match=r"generator\.csv\.3: line 2: could not convert"):
        read_users(tmp_path)


@pytest.mark.parametrize(("share", "verdict"), [(0.1, "inconclusive"), (0.5, "invalid")])
def test_a_service_that_only_one_build_has_is_named_and_never_green(ramps, share, verdict):
    def parted(runs, other):
        """The same ramps, a share of whose requests goes to a service of another name."""
        for one in runs:
            frame = one.requests()
            frame = frame.assign(service=np.where(np.arange(len(frame)) % 100 < 100 * share, other, "api"))
            services = run_from_requests(frame).services
            yield replace(one, services=services, load_requests=lambda frame=frame: frame)

    runs = read_runs(ramps / "baseline")
    found = capacity_of([*parted(runs, "/pay")], [*parted(runs, "/reports/yearly/of/all")])
    assert found.verdict == verdict
    assert any("/pay" in warning for warning in found.warnings)


# What people see ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate("found", 52.4, 39.2, 71.1), "52 users [39, 71]"),
        (Estimate("found", 5.24, 3.92, None), "5 users [4, ∞]"),
        (Estimate("at_least", low=100.0), "at least 100 users"),
        (Estimate("below", high=18.6), "below 19 users"),
        (Estimate("unknown"), "~"),
    ],
)
def test_an_estimate_in_words(estimate, text):
    assert format_estimate(estimate, "users") == text


def test_the_banner_says_how_much(single, both):
    said = str(capacity_banner(single, "PR 7"))
    assert said.startswith("about 4")
    assert "P95 latency below 400 ms up to 4" in said
    assert "Throughput stops following the load at" in said
    compared = capacity_banner(both)
    assert str(compared).startswith("regression")
    assert "got worse: " in str(compared)
    assert "<script>" not in compared.html
    assert "compared at equal load" in compared.html


def test_a_capacity_without_end_is_a_bound(ramps):
    found = capacity_of(read_runs(ramps / "baseline"), slo="error_rate < 1 %")
    assert found.curves[0].limit.status == "at_least"
    assert str(capacity_banner(found)).startswith("at least ")
    assert "Measure at higher load" in str(capacity_banner(found))


def test_tables_escape_and_explain(single, both):
    for table in (capacity_table(both), differences_table(both), scalability_table(both)):
        assert "<script>" not in table.html
        assert "&lt;/script&gt;" in table.html
    assert "There is one build only" in str(differences_table(single))


def test_charts_hold_both_builds_and_their_marks(single, both):
    figure = load(both)
    assert isinstance(figure, go.Figure)
    names = {trace.name for trace in figure.data}
    assert names >= {"baseline", "candidate", "knee", "scalability law", "SLO", "SLO holds up to"}
    assert "<script>" not in json.dumps(figure.to_plotly_json()["data"], default=str)
    assert {trace.name for trace in load(single).data} >= {"all runs", "knee", "SLO"}
    changes = changes_by_load(both)
    assert [trace.mode for trace in changes.data].count("markers") == 3  # beside each, its intervals as a line
    assert len(changes.data) == 6
    assert "no change to draw" in changes_by_load(single).layout.meta["note"]
    assert all(math.isfinite(value) for trace in changes.data for value in trace.y if value is not None)


def test_the_command_refuses_a_wrong_promise_before_it_starts(ramps, tmp_path):
    out, err = io.StringIO(), io.StringIO()
    words = ["report", "capacity", str(ramps / "baseline"), "--slo", "p59 < 1 s", "--reports", str(tmp_path / "made")]
    assert main(words, out, err) == 2
    assert "unknown metric 'p59' (did you mean" in err.getvalue()
    assert not (tmp_path / "made").exists()
