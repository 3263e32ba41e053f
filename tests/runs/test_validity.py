"""Unfit runs and sides that are not alike are named, with the number that says so."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from samples import REPOSITORY, load_profile, plain_stats, run

from perfkit import LoadProfile, RunStore, ServiceStats, Validity, compare, run_from_requests
from perfkit.analysis.comparability import check_sides
from perfkit.model.records import Check, Severity
from perfkit.model.script_errors import ScriptErrors, SkippedRequests, TaskException
from perfkit.runs.requests import RequestColumns
from perfkit.runs.validity import (
    ANSWERS,
    CHECKS,
    DRIFT_P,
    DRIFT_PCT,
    ArrivalCounts,
    GeneratorFacts,
    Process,
    check_run,
)
from perfkit.stats.stationarity import BLOCKS, Burst, Drift, WithinRun, drift_of, within_run
from perfkit.stats.streams import Stretches, Totals

SEVERITIES = list(Severity)
STEADY = LoadProfile("steady", 10, None, 60.0)


def checked(services=None, profile=STEADY, duration=None, within=None, **facts):
    services = {"a": plain_stats()} if services is None else services
    if "cpu_pct" in facts:
        facts["processes"] = (Process("generator", facts.pop("cpu_pct")),)
    checks = check_run(services, profile, GeneratorFacts(**facts), duration, within)
    for check in checks:
        assert SEVERITIES.index(check.severity) <= SEVERITIES.index(CHECKS[check.name][0]), check
    return {check.name: check for check in checks}


def graded(checks):
    return {name: check.severity.value for name, check in checks.items() if check.severity is not Severity.OK}


def test_the_table_names_every_check_in_the_order_in_which_a_run_shows_them():
    assert [answer.__name__ for answer in ANSWERS] == list(CHECKS)[: len(ANSWERS)]


def test_the_table_of_the_documentation_names_every_check():
    page = (REPOSITORY / "docs" / "load.md").read_text()
    assert [name for name in CHECKS if f"`{name}`" not in page] == []


def test_a_good_run_passes_and_shows_what_was_looked_at():
    checks = checked(peak_users=10, cpu_pct=(10.0, 20.0, 30.0), duration=20.0)
    assert graded(checks) == {}
    assert {"interrupted", "requests", "load_reached", "generator_cpu"} <= checks.keys()
    assert all(check.advice == "" for check in checks.values())


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"interrupted": "killed"}, {"interrupted": "invalid"}),
        ({"peak_users": 8}, {"load_reached": "invalid"}),
        ({"peak_users": 8, "interrupted": "by Ctrl-C"}, {"interrupted": "invalid"}),  # it had no time for its load
        ({"peak_users": 9}, {}),
        ({"cpu_pct": (95.0, 95.0, 10.0)}, {"generator_cpu": "invalid"}),
        ({"cpu_pct": (95.0, 50.0, 10.0)}, {}),  # a short peak is not saturation
        ({"cpu_pct": (90.0,)}, {}),
        ({"services": {}}, {"requests": "invalid"}),
        ({"services": {"a": ServiceStats(0, 0)}}, {"requests": "invalid"}),
        ({"services": {"a": plain_stats(count=99)}}, {"requests": "warn"}),
        ({"services": {"a": plain_stats(count=100)}}, {}),
        ({"services": {"a": ServiceStats(None, None, rps=5.0)}}, {}),
        ({"services": {"a": ServiceStats(100, 101)}}, {"consistency": "invalid", "errors": "warn"}),
        ({"services": {"a": ServiceStats(1000, 940)}}, {"errors": "warn"}),
        ({"services": {"a": ServiceStats(1000, 200)}}, {}),
        ({"services": {"a": plain_stats(count=1000, rps=50.0)}, "duration": 20.0}, {}),
        ({"services": {"a": plain_stats(count=1000, rps=50.0)}, "duration": 25.0}, {"counts_and_rate": "warn"}),
    ],
)
def test_each_check_of_a_run(facts, expected):
    assert graded(checked(**facts)) == expected


def many(**changed):
    counts = {"planned": 1000, "scheduled": 1000, "started": 1000, "late": 0, "unfinished": 0} | changed
    return {"arrivals": ArrivalCounts(**counts), "profile": load_profile(None, rate=50.0, duration_s=20)}


def stalled(seconds, cpu, of=20.0):
    return {"processes": (Process("generator", (5.0,), (5.0,), seconds, cpu, of),)}


def raised(where, count, **more):
    return TaskException(where, "KeyError", "x", count, **more)


def script(*exceptions, skipped=()):
    return {"script": ScriptErrors(100, 10, exceptions, skipped)}


def inside(**changed):
    values = {"drift": None, "burst": None, "silence_s": 0.5, "mean_gap_s": 0.01, "no_server": 0} | changed
    return {"within": WithinRun(**values)}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (many(), {}),
        (many(late=10), {}),
        (many(late=11), {"late_arrivals": "warn"}),
        (many(started=989), {"missed_arrivals": "invalid"}),
        (many(unfinished=11), {"missed_arrivals": "invalid"}),
        (many(started=940, scheduled=940), {"load_reached": "invalid"}),
        (many(started=940, scheduled=940) | {"interrupted": "by Ctrl-C"}, {"interrupted": "invalid"}),
        ({"processes": (Process("a", (5.0,), (20.0,) * 20),)}, {}),
        ({"processes": (Process("a", (5.0,), (*(20.0,) * 19, 300.0)),)}, {}),  # one pause is no starving
        ({"processes": (Process("a", (5.0,), (*(20.0,) * 18, 300.0, 101.0)),)}, {"event_loop_lag": "warn"}),
        ({"processes": (Process("a", (5.0,), (20.0, 300.0) * 5),)}, {"event_loop_lag": "invalid"}),
        ({"processes": (Process("a", (5.0,)), Process("b", (99.0,)))}, {"generator_cpu": "invalid"}),
        (stalled(3.0, 0.0), {"generator_stalled": "invalid"}),
        (stalled(0.9, 0.0, of=6.0), {}),
        (stalled(2.0, 2.0, of=60.0), {"generator_stalled": "warn"}),
        (inside(silence_s=3.1) | stalled(3.0, 0.0), {"generator_stalled": "invalid"}),  # the target did not stand still
        (inside(silence_s=6.1) | stalled(3.0, 0.0), {"generator_stalled": "invalid", "silence": "warn"}),
        ({"users_at_end": 10, "peak_users": 10}, {}),
        ({"users_at_end": 8, "peak_users": 10}, {"load_held": "invalid"}),
        ({"users_at_end": 0, "peak_users": 10, "early_end": "ended after 1 s"}, {"duration": "invalid"}),
        ({"early_end": "", "planned_s": 60.0}, {}),
        ({"exit_code": 0}, {}),
        ({"exit_code": 1}, {"exit_code": "warn"}),
        (script(), {}),
        (script(raised("task", 1)), {"exceptions": "warn"}),
        (script(raised("task", 50)), {"exceptions": "warn"}),
        (script(raised("task", 51)), {"exceptions": "invalid"}),
        (script(raised("task", 30), raised("task", 21)), {"exceptions": "invalid"}),
        (
            script(raised("task", 100, after_failure=60)),
            {"exceptions": "warn"},
        ),  # the target failed: its error rate says so
        (script(raised("task", 100, after_failure=40)), {"exceptions": "invalid"}),
        (script(raised("on_start", 5)), {"exceptions": "warn"}),
        (script(raised("on_start", 6)), {"exceptions": "invalid"}),
        (script(raised("on_stop", 90)), {"exceptions": "warn"}),
        (script(raised("listener", 90)), {"exceptions": "warn"}),
        (script(skipped=(SkippedRequests("m", "negative", 3),)), {"skipped_requests": "warn"}),
        ({"skipped": (SkippedRequests("m", "negative", 3),)}, {"skipped_requests": "warn"}),
        ({"clock_step_s": 0.05}, {}),
        ({"clock_step_s": -3.0}, {"clock": "invalid"}),
        ({"workers_asked": 3}, {}),
        ({"workers_asked": 3, "workers_lost": ("w2",)}, {"workers": "invalid"}),
        ({"counted": 1000, "recorded": 1000}, {}),
        ({"counted": 1000, "recorded": 900}, {"recorded": "invalid"}),
        (inside(), {}),
        (inside(drift=Drift(30.0, 1e-6)), {"drift": "warn"}),
        (inside(drift=Drift(30.0, 0.01)), {}),
        (inside(drift=Drift(5.0, 1e-6)), {}),
        (inside(drift=Drift(99.0, 0.0)) | {"profile": load_profile("ramp", users=9, duration_s=60)}, {}),
        (inside(burst=Burst(3.0, 5.0, 60.0, 0.5)), {"error_burst": "warn"}),
        (inside(burst=Burst(3.0, 5.0, 60.0, 40.0)), {}),
        (inside(burst=Burst(3.0, 5.0, 10.0, 0.0)), {}),
        (inside(silence_s=6.0), {"silence": "warn"}),
        (inside(silence_s=6.0, mean_gap_s=0.5), {}),
        (inside(no_server=5), {}),
        (inside(no_server=300), {"connections": "invalid"}),
        ({"services": {"a": plain_stats(warnings=("p99.9 latency withheld: 100 requests, it needs 3688",))}}, {}),
        (
            {"services": {"a": replace(plain_stats(), p95_latency_ms=None, warnings=("p95 latency withheld: 30",))}},
            {"percentiles": "warn"},
        ),
    ],
)
def test_each_check_of_generator_and_course(facts, expected):
    found = checked(**facts)
    assert graded(found) == expected
    assert all(check.advice for check in found.values() if check.severity is not Severity.OK)


def test_each_sentence_names_what_happened_and_the_way_out():
    login = checked(peak_users=5, **script(raised("on_start", 5)))
    assert login["load_reached"].advice == (
        "Only 5 of 10 users ran: the others ended in on_start (KeyError: x); correct that."
    )
    assert "more users do not help" in login["exceptions"].advice
    tasks = checked(**script(raised("task", 99)))["exceptions"]
    assert tasks.value == "99 exceptions, 99 % of the tasks"
    assert tasks.advice.startswith("99 of 100 tasks (99 %) ended with KeyError: x: ")
    assert (
        "stopped, its container paused, or its CPU taken away"
        in checked(**stalled(3.0, 0.1))["generator_stalled"].advice
    )
    assert "code in a task did not let others run" in checked(**stalled(3.0, 2.9))["generator_stalled"].advice
    early = checked(early_end="ended after 4 s of 60 s by the locustfile", planned_s=60.0)["duration"]
    assert (early.value, early.limit) == ("ended after 4 s of 60 s by the locustfile", "60 s")


def test_what_is_not_known_is_not_said_to_be_none():
    assert not {"exceptions", "skipped_requests", "duration", "exit_code", "generator_stalled"} & checked().keys()


def steady_requests(rng, minutes=2, rate=20):
    start = np.sort(rng.uniform(0, 60 * minutes, 60 * minutes * rate))
    slow_wave = 0.1 * np.sin(start / 3 + rng.uniform(0, 6))  # queues remember: requests are not independent
    return start, rng.normal(0.0, 0.4, start.size) + slow_wave


def drift(start, levels):
    course = Stretches(start.min(), start.max(), BLOCKS)
    course.add(start, levels)
    return drift_of(course)


def test_a_steady_run_does_not_seem_to_drift_and_a_leak_does(rng):
    steady = [drift(*steady_requests(rng)) for _ in range(400)]
    assert sum(abs(d.change_pct) > DRIFT_PCT and d.p_value < DRIFT_P for d in steady) <= 2
    leaking = []
    for _ in range(50):
        start, levels = steady_requests(rng)
        leaking.append(drift(start, levels + np.log(1.3) * start / 120))
    assert sum(d.change_pct > DRIFT_PCT and d.p_value < DRIFT_P for d in leaking) >= 40


def test_silence_is_waiting_and_not_a_pause_of_the_load():
    start = np.concatenate([np.arange(0, 10, 0.1), np.arange(16, 26, 0.1)])

    def silence(times):
        codes, failed = np.zeros(start.size, int), np.zeros(start.size, bool)
        whole = RequestColumns(start, codes, ["api"], times, failed, None)
        pieces = [whole.where(lambda _, first=first: slice(first, first + 7)) for first in range(0, start.size, 7)]
        found = [within_run(parts, Totals.of(parts, 1), 0.0).silence_s for parts in (whole.parts, lambda: pieces)]
        assert found[0] == found[1]
        return found[0]

    times = np.full(start.size, 50.0)
    assert silence(times) < 0.2
    assert silence(np.where(np.isclose(start, 9.9), 6100.0, times)) == pytest.approx(6.05, abs=0.1)


def test_the_same_measurements_under_another_name_are_a_duplicate(tmp_path):
    frame = pd.DataFrame({"start": np.arange(200.0), "service": "a", "response_time_ms": 5.0, "failed": False})
    read = run_from_requests(frame, scenario="one")
    store = str(tmp_path / "runs")
    first, again, other = (RunStore(store).import_run(read, name) for name in ("one", "one", "two"))
    assert first == again != other
    checks = {check.name: check for check in RunStore(store).get(other).validity.problems}
    assert (checks["duplicate"].severity, checks["duplicate"].value) == ("invalid", first)


def test_a_contradiction_is_told_in_numbers():
    checks = checked({"api": plain_stats(count=300, rps=50.0)}, duration=120.0)
    assert checks["counts_and_rate"].advice == "api: 300 requests in 2 minutes are not 50 rps (but 2.5 rps)"


# Two sides --------------------------------------------------------------------------------------------------------


def sides(baseline=None, candidate=None, n=2):
    baseline = baseline or {}
    candidate = candidate or {}
    services = {"a": plain_stats(), "b": plain_stats(50.0)}
    make = lambda changes, number: run(**{"services": services, "number": number, **changes})  # noqa: E731
    return [make(baseline, i) for i in range(n)], [make(candidate, 50 + i) for i in range(n)]


def found(baseline, candidate):
    return {check.name: check.severity.value for check in check_sides(baseline, candidate).checks}


def test_like_sides_have_nothing_to_say():
    result = check_sides(*sides())
    assert (result.ok, result.checks, result.warnings, dict(result.not_judged)) == (True, (), (), {})
    assert result.services == ("a", "b")


def test_an_unfit_run_makes_the_comparison_invalid_and_is_named():
    bad = Validity((Check("generator_cpu", 97.0, 90.0, Severity.INVALID, "Use fewer users."),))
    baseline, candidate = sides(candidate={"validity": bad})
    comparison = compare(baseline, candidate)
    assert (comparison.verdict, comparison.comparable) == ("invalid", False)
    assert any(candidate[0].id in text and "generator_cpu" in text for text in comparison.warnings)


def test_a_warning_of_a_run_is_passed_on_and_does_not_forbid():
    meh = Validity((Check("requests", 50, 100, Severity.WARN, "Run longer."),))
    result = check_sides(*sides(baseline={"validity": meh}))
    assert result.ok
    assert any("Run longer." in text for text in result.warnings)


@pytest.mark.parametrize("across", [True, False])
def test_the_same_run_twice_is_no_evidence(across):
    baseline, candidate = sides()
    copy = replace(baseline[0], id="renamed")
    pair = (baseline, [copy, *candidate]) if across else ([*baseline, copy], candidate)
    assert found(*pair) == {"same_run": "invalid"}
    assert compare(*pair).verdict == "invalid"


def test_load_that_is_known_to_differ_is_invalid():
    other = {"profile": LoadProfile("steady", 100, None, 60.0)}
    assert found(*sides(candidate=other)) == {"load": "invalid"}
    assert found(*sides(candidate={"profile": LoadProfile("steady", 33, None, 60.0)})) == {}


def test_load_that_a_file_merely_declares_caps_latency_and_throughput():
    baseline, candidate = sides({"profile": LoadProfile("declared", 1)}, {"profile": LoadProfile("declared", 100)})
    result = check_sides(baseline, candidate)
    assert result.ok
    assert set(result.not_judged) == {"a", "b"}
    slow = [replace(r, services={n: plain_stats(500.0, failures=300) for n in r.services}) for r in candidate]
    findings = compare(baseline, slow).findings
    assert {f.verdict.value for f in findings if f.metric != "error_rate_pct"} == {"inconclusive"}
    assert {f.verdict.value for f in findings if f.metric == "error_rate_pct"} == {"regression"}


def test_unknown_users_are_not_a_difference():
    assert found(*sides({"profile": LoadProfile()}, {"profile": STEADY})) == {}


def test_no_common_service_is_invalid():
    baseline, candidate = sides(candidate={"services": {"c": plain_stats()}})
    assert found(baseline, candidate) == {"services": "invalid"}


@pytest.mark.parametrize(("count", "severity"), [(50, "warn"), (1000, "invalid")])
def test_a_service_on_one_side_only_is_named_and_weighed(count, severity):
    more = {"a": plain_stats(), "b": plain_stats(50.0), "new": plain_stats(count=count)}
    baseline, candidate = sides(candidate={"services": more})
    result = check_sides(baseline, candidate)
    assert found(baseline, candidate) == {"services": severity}
    assert any("left out: new" in text for text in result.warnings)
    assert result.services == ("a", "b")


def test_half_the_bytes_are_not_the_same_answers():
    half = {"a": plain_stats(10.0, response_bytes=500.0), "b": plain_stats(50.0)}
    whole = {"a": plain_stats(20.0, response_bytes=1000.0), "b": plain_stats(50.0)}
    baseline, candidate = sides({"services": whole}, {"services": half}, n=4)
    comparison = compare(baseline, candidate)
    assert found(baseline, candidate) == {"response_size": "warn"}
    assert {f.verdict.value for f in comparison.findings if f.service == "a" and f.metric != "error_rate_pct"} == {
        "inconclusive"
    }
    assert comparison.verdict == "inconclusive"
    assert any("-50% (1000 -> 500 bytes)" in text for text in comparison.warnings)


def test_fast_error_pages_are_not_an_improvement():
    failing = {"a": plain_stats(3.0, failures=940), "b": plain_stats(50.0)}
    baseline, candidate = sides(candidate={"services": failing}, n=4)
    comparison = compare(baseline, candidate)
    assert found(baseline, candidate) == {"error_pages": "warn"}
    assert comparison.verdict == "regression"
    assert not [f for f in comparison.findings if f.verdict == "improvement"]


def test_run_lengths_that_differ_are_told():
    assert found(*sides({"duration_s": 30.0}, {"duration_s": 61.0})) == {"duration": "warn"}
    assert found(*sides({"duration_s": 30.0}, {"duration_s": 59.0})) == {}
    assert found(*sides({"duration_s": None}, {"duration_s": 61.0})) == {}


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("scenario", "api", "rag"),
        ("tool", "perfkit", "other"),
        ("environment", {"cpu": "A"}, {"cpu": "B"}),
        ("versions", {"locust": "2.42"}, {"locust": "2.47"}),
        ("locustfile_hash", "a" * 64, "b" * 64),
    ],
)
def test_surroundings_that_differ_are_told(name, before, after):
    baseline, candidate = sides({name: before}, {name: after})
    (check,) = check_sides(baseline, candidate).checks
    assert check.severity is Severity.WARN
    assert check.name.startswith({"versions": "version", "locustfile_hash": "load_script"}.get(name, name))


def test_the_name_of_a_file_is_not_a_scenario():
    tool = {"tool": "locust csv"}
    assert found(*sides({"scenario": "old", **tool}, {"scenario": "new", **tool})) == {}


def test_an_unknown_environment_is_not_a_difference():
    assert found(*sides({"environment": {"cpu": "A"}}, {"environment": {}})) == {}


def test_a_ramp_and_a_steady_load_are_not_compared():
    ramp = {"profile": LoadProfile("ramp", 10, 1.0, 60.0)}
    assert found(*sides({"profile": STEADY}, ramp)) == {"load_profile": "invalid"}
    assert found(*sides({"profile": STEADY}, {"profile": LoadProfile("declared", 10)})) == {}


@pytest.mark.parametrize(
    ("level", "rps", "load"),
    [
        (20.0, 50.0, False),
        (18.0, 50 / 60, True),  # a sixtieth of the load, and faster for it
        (60.0, 50 / 3, False),  # three times as slow in a closed loop: the same number in flight
        (60.0, 50.0, False),  # three times as slow under open arrivals
        (25.0, 150.0, True),
    ],
)
def test_where_users_are_not_known_rate_and_time_tell_another_load_from_a_slower_build(level, rps, load):
    unknown = {"profile": LoadProfile()}
    service = {"a": plain_stats(level, rps=rps)}
    pair = sides(unknown | {"services": {"a": plain_stats(20.0, rps=50.0)}}, unknown | {"services": service}, n=5)
    assert ("load" in found(*pair)) is load
    verdicts = {f.verdict.value for f in compare(*pair).findings if f.metric != "error_rate_pct"}
    assert (verdicts == {"inconclusive"}) is load


@pytest.mark.parametrize("fact", ["environment", "labels", "versions"])
def test_a_hidden_dimension_of_one_side_is_named_with_what_it_does(fact):
    baseline, candidate = sides(n=4)
    slow = {"a": plain_stats(22.0), "b": plain_stats(55.0)}
    mixed = [
        replace(r, **{fact: {"region": "<b>eu" if i % 2 else "us"}}, services=slow if i % 2 else r.services)
        for i, r in enumerate(baseline)
    ]
    (check,) = check_sides(mixed, candidate).checks
    assert check.severity is Severity.WARN
    assert "region is us in 2, <b>eu in 2 (average latency +10.0 % from the first to the second)" in check.advice
    assert "baseline differ among themselves" in check.advice


def test_labels_tell_the_sides_apart_and_each_run_from_the_others():
    assert found(*sides({"labels": {"build": "1"}}, {"labels": {"build": "2"}})) == {}
    baseline, candidate = sides()
    assert found([replace(r, labels={"night": str(i)}) for i, r in enumerate(baseline)], candidate) == {}


def test_sources_that_round_differently_are_told():
    coarse = {"services": {"a": plain_stats(resolutions={"avg_latency_ms": 1.0}), "b": plain_stats(50.0)}}
    baseline, candidate = sides(coarse)
    assert found(baseline, candidate) == {"precision_avg_latency_ms": "warn"}
    assert "to 1 ms in the baseline, exactly in the candidate" in check_sides(baseline, candidate).warnings[0]


def test_a_run_that_contradicts_itself_is_judged_invalid_and_not_a_crash():
    broken = {"services": {"a": ServiceStats(5, 10, rps=1.0), "b": plain_stats(50.0)}}
    services = broken["services"]
    bad = Validity(check_run(services, STEADY, GeneratorFacts(), None))
    for pair in (sides(broken | {"validity": bad}), sides(candidate=broken | {"validity": bad})):
        assert compare(*pair).verdict == "invalid"
