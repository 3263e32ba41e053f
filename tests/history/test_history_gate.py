"""Histories night after night: services that come and go, machines, open regressions, pull requests, one judgement."""

import json
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from histories import fails

from perfkit import Metric, Policy, RunStore, Verdict, open_history
from perfkit.cli import main
from perfkit.history import monitor
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.baselines import Baselines
from perfkit.history.change_events import HistoryAnalysis, detect_changes, find_events, stored_timelines
from perfkit.history.confounders import in_one_mix, missing_services, service_changes
from perfkit.history.curation import accept, acknowledge, pin_runs
from perfkit.history.gate import judge_history
from perfkit.history.incidents import result_of
from perfkit.history.monitor import monitor_timeline
from perfkit.history.run_selector import HistoryContext, select
from perfkit.history.timeline import load_timeline, timeline_of, under_names
from perfkit.history.trend import trend_of
from perfkit.model.codec import dump_json
from perfkit.model.records import Check, LoadProfile, Run, ServiceStats, Severity, Validity
from perfkit.report.findings import next_step
from perfkit.report.message import message_of
from perfkit.report.text import messages_to_junit

NOW = datetime(2026, 11, 20, 2, tzinfo=UTC)
FIRST = datetime(2026, 9, 1, 2, tzinfo=UTC)
XEON, EPYC = "Xeon 8370C", "EPYC 7763"
PAY = {"/a": 1.0, "/b": 1.0, "/pay": 1.0}
NO_PAY = {"/a": 1.0, "/b": 1.0}
RATE = 25.0  # requests per second of a run, whatever its services


def night(rng, number, services=NO_PAY, factor=1.0, cpu=XEON, branch="main", **given):
    """A run of 60 s; ``factor`` is of all latencies, or a mapping by service."""
    weights = sum(services.values())
    level, stats = float(np.exp(rng.normal(0.0, 0.015))), {}
    for name, weight in services.items():
        slower = factor.get(name, 1.0) if isinstance(factor, dict) else factor
        latency = 20.0 * slower * level * float(np.exp(rng.normal(0.0, 0.005)))
        count = int(rng.poisson(60 * RATE * weight / weights))
        if count == 0:
            continue
        stats[name] = ServiceStats(
            count=count,
            failures=0,
            avg_latency_ms=latency,
            p50_latency_ms=latency * 0.95,
            p95_latency_ms=latency * 1.6,
            error_rate_pct=0.0,
            rps=count / 60.0,
            standard_errors={"avg_latency_ms": 0.1, "p95_latency_ms": 0.3, "rps": count**0.5 / 60.0},
        )
    started = FIRST + timedelta(days=number)
    run = Run(
        f"{started:%Y%m%dT%H%M%SZ}-shop-{number:04x}",
        "shop",
        started,
        60.0,
        LoadProfile(kind="steady", users=10),
        Validity(),
        stats,
        tool="perfkit",
        environment={"cpu": cpu, "cores": "4", "machine": "x86_64"},
        git={"commit": f"{number:040x}", "branch": branch, "dirty": "no"},
        content_hash=f"{number:064x}",
    )
    return replace(run, **given)


def history(rng, nights):
    """Runs of nights that are described by what is special about each."""
    return [night(rng, number, **given) for number, given in enumerate(nights)]


def stored(folder, runs):
    store = RunStore(folder)
    for run in runs:
        store.add(run)
    return store


def judged(store, run, policy=None, known=(), baselines=None):
    past = HistoryContext(store, *([baselines] if baselines else []), candidates=(run,))
    return judge_history([run], past, policy or Policy(), acknowledgements=known)


# Services that end and begin ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nights", "changes"),
    [
        ([{"services": PAY if i < 35 else NO_PAY} for i in range(45)], [(35, ("/pay",), ())]),
        ([{"services": NO_PAY if i < 35 else PAY} for i in range(45)], [(35, (), ("/pay",))]),
        (
            [{"services": NO_PAY if 20 <= i < 23 else PAY} for i in range(45)],
            [(20, ("/pay",), ()), (23, (), ("/pay",))],
        ),
        (
            [{"services": {"/a": 1.0, "/v1/pay": 1.0} if i < 30 else {"/a": 1.0, "/v2/pay": 1.0}} for i in range(45)],
            [(30, ("/v1/pay",), ("/v2/pay",))],
        ),
        ([{"services": PAY | {"/c": 1.0} if i < 30 else NO_PAY} for i in range(45)], [(30, ("/pay", "/c"), ())]),
        ([{"services": PAY if i != 44 else NO_PAY} for i in range(45)], [(44, ("/pay",), ())]),
        ([{"services": NO_PAY | {"/rare": 0.0015}} for _ in range(45)], []),  # called about twice a run
        ([{"services": PAY if i % 2 else NO_PAY} for i in range(45)], []),  # called every other night
        ([{} for _ in range(45)], []),
    ],
    ids=["ends", "begins", "comes back", "renamed", "two end", "ends tonight", "rare", "every other night", "none"],
)
def test_a_service_that_ends_or_begins_is_an_event_and_the_mix_moves_no_throughput(rng, nights, changes):
    timeline = timeline_of("shop", history(rng, nights))
    found = service_changes(timeline)
    assert [(change.index, set(change.ended), set(change.began)) for change in found] == [
        (index, set(ended), set(began)) for index, ended, began in changes
    ]
    assert find_events(timeline) == ()
    assert monitor_timeline(timeline, Policy()).alerts == ()


def test_the_event_says_what_ended_its_share_and_what_may_be_its_new_name(rng):
    nights = [{"services": {"/a": 1.0, "/v1/pay": 3.0} if i < 10 else {"/a": 1.0, "/v2/pay": 3.0}} for i in range(20)]
    (change,) = service_changes(timeline_of("shop", history(rng, nights)))
    assert change.headline.startswith("Service /v1/pay (75 % of the requests): no requests since run 20260911")
    assert change.renamed == (("/v1/pay", "/v2/pay"),)
    assert "/v1/pay is gone, /v2/pay is new: renamed? [services] of the settings can map them." in change.headline
    assert change.to_dict()["kind"] == "services"
    assert [name for name, _ in missing_services([change])] == ["/v1/pay"]


def test_names_of_the_settings_make_a_renamed_service_one(rng):
    nights = [{"services": {"/a": 1.0, "/v1/pay": 1.0} if i < 10 else {"/a": 1.0, "/v2/pay": 1.0}} for i in range(20)]
    timeline = under_names(timeline_of("shop", history(rng, nights)), {"/v1/*": "/v2/*"})
    assert set(timeline.services) == {"/a", "/v2/pay"}
    assert not np.isnan(timeline.series["/v2/pay", Metric.AVG]).any()
    assert service_changes(timeline) == ()


def test_a_regression_where_a_service_ends_is_found_and_says_so(rng):
    nights = [{"services": PAY} if i < 30 else {"factor": {"/a": 1.4}} for i in range(45)]
    timeline = timeline_of("shop", history(rng, nights))
    (event,) = find_events(timeline)
    assert (event.kind, event.index, set(event.services)) == ("regression", 30, {"/a"})
    assert {item.metric for item in event.changes} == {Metric.AVG, Metric.P50, Metric.P95}
    assert event.coincides == ("service /pay ended here",)
    assert event.headline.endswith("; service /pay ended here.")
    assert monitor_timeline(timeline, Policy()).fails


def test_a_loss_of_throughput_within_one_mix_is_found_on_either_side_of_a_change_of_it(rng):
    runs = history(rng, [{"services": PAY if i < 30 else NO_PAY} for i in range(60)])

    def slowed(at, until):
        lost = {
            i: {name: replace(s, rps=s.rps * 0.7, count=int(s.count * 0.7)) for name, s in run.services.items()}
            for i, run in enumerate(runs)
            if at <= i < until
        }
        return timeline_of("shop", [replace(run, services=lost.get(i, run.services)) for i, run in enumerate(runs)])

    for timeline, at, before in ((slowed(15, 30), 15, RATE / 3), (slowed(45, 60), 45, RATE / 2)):
        (event,) = find_events(timeline)
        assert abs(event.index - at) <= 1
        assert {item.metric for item in event.changes} == {Metric.RPS}
        for item in event.changes:
            assert item.change.before == pytest.approx(before, rel=0.05)  # in the units in which it was measured
            assert item.change.change_pct == pytest.approx(-30.0, abs=4.0)


def test_levels_of_throughput_stand_as_they_were_measured(rng):
    timeline = timeline_of("shop", history(rng, [{"services": PAY if i < 30 else NO_PAY} for i in range(45)]))
    course = trend_of(timeline).metric_trend("/a", Metric.RPS)
    assert [(stretch.begin, stretch.end) for stretch in course.levels] == [(0, 30), (30, 45)]
    assert [stretch.value for stretch in course.levels] == pytest.approx([RATE / 3, RATE / 2], rel=0.02)
    assert course.segmentation.changes == ()
    assert in_one_mix(timeline).scale_at(("/a", Metric.RPS), 44) == 1.0


def test_services_that_stay_keep_their_history_and_the_next_step_names_what_is_missing(rng, tmp_path):
    runs = history(rng, [{"services": PAY if i < 35 else NO_PAY} for i in range(46)])
    comparison = judged(stored(tmp_path, runs[:-1]), runs[-1])
    document = comparison.history.document
    assert document["runs"] == 46
    assert document["baseline_runs"] == [run.id for run in runs[35:45]]
    assert [one["service"] for one in document["missing_services"]] == ["/pay"]
    assert comparison.verdict not in (Verdict.REGRESSION, Verdict.INVALID)
    assert any("other services" in text for text in comparison.warnings)
    assert f"Service /pay has no requests since run {runs[35].id}" in next_step(comparison)


def test_a_service_that_is_back_is_held_against_the_runs_that_had_it(rng, tmp_path):
    nights = [{"services": NO_PAY if 20 <= i < 23 else PAY} for i in range(24)]
    runs = history(rng, nights)
    comparison = judged(stored(tmp_path, runs[:-1]), runs[-1])
    assert comparison.history.document["baseline_runs"] == [run.id for run in runs[:20]]
    assert not comparison.by_verdict(Verdict.REGRESSION)


# Machines, versions, load scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        ({"cpu": EPYC}, f"machine changed here: {XEON} -> {EPYC}"),
        ({"versions": {"locust": "2.31"}}, "version of locust changed here: 2.20 -> 2.31"),
        ({"locustfile_hash": "b" * 64}, "load script changed here: aaaaaaaaaaaa -> bbbbbbbbbbbb"),
    ],
)
def test_an_event_that_coincides_with_another_environment_says_so(rng, tmp_path, after, sentence):
    common = {"versions": {"locust": "2.20"}, "locustfile_hash": "a" * 64}
    nights = [common if i < 30 else {"factor": 1.2} | common | after for i in range(45)]
    runs = history(rng, nights)
    for timeline in (timeline_of("shop", runs), load_timeline(stored(tmp_path, runs), "shop")):
        (event,) = find_events(timeline)
        assert event.coincides == (sentence,)
        assert event.headline.endswith(f"; {sentence}.")
    document = trend_of(timeline, monitor=monitor_timeline(timeline, Policy())).to_dict()
    result = result_of(json.loads(dump_json(document)), "result.json")
    assert sentence in message_of(result).statements[0].texts[0]
    assert sentence in message_of(result).lines[0][1]


def test_an_event_on_machines_that_take_turns_names_none(rng):
    nights = [{"cpu": EPYC if rng.random() < 0.4 else XEON, "factor": 1.0 if i < 30 else 1.3} for i in range(60)]
    (event,) = find_events(timeline_of("shop", history(rng, nights)))
    assert event.coincides == ()


def test_a_candidate_is_held_against_the_runs_on_its_machine(rng, tmp_path):
    nights = [{"cpu": EPYC, "factor": 1.06} if i % 3 == 2 else {} for i in range(30)]
    runs = history(rng, nights)
    store = stored(tmp_path, runs)
    for cpu, factor in ((EPYC, 1.06), (XEON, 1.0)):
        candidate = night(rng, 40, cpu=cpu, factor=factor)
        selected = select("shop@rolling", HistoryContext(store, candidates=(candidate,)))
        assert {run.environment["cpu"] for run in selected.runs} == {cpu}
        assert any("made on another machine" in text for text in selected.warnings)
    unlike = night(rng, 40, cpu="Graviton 4", factor=1.3)
    comparison = judged(store, unlike)
    assert {run.environment["cpu"] for run in comparison.baseline.runs} == {XEON, EPYC}
    assert "The candidate ran on another machine (Graviton 4" in " ".join(comparison.history.advice)


# Open until it ends, is acknowledged or accepted --------------------------------------------------------------------


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    """Thirty nights, and fifty worse ones; with the store."""
    runs = history(np.random.default_rng(1), [{"factor": 1.0 if i < 30 else 1.25} for i in range(80)])
    return stored(tmp_path_factory.mktemp("worse"), runs), runs


def test_a_regression_is_open_until_it_is_acknowledged_or_accepted(worse, tmp_path):
    store, runs = worse
    now = NOW.replace(year=2027)
    past = HistoryContext(store, tmp_path)
    assert judged(store, runs[-1], baselines=tmp_path).verdict is Verdict.REGRESSION
    known = acknowledge(past, runs[30].id, Policy(), reason="meant", by="me", now=now)
    assert not fails(judged(store, runs[-1], known=[known], baselines=tmp_path))

    pin_runs(past, "new", runs[40:50], reason="an anchor that says nothing of what was before")
    assert fails(judged(store, runs[-1], baselines=tmp_path))
    pin_runs(past, "v1", runs[:20], reason="release 1", expires=date(2027, 12, 1))
    accept(past, runs[30].id, reason="TLS everywhere", by="me", name="v1", now=now)
    (alert,) = (found := judged(store, runs[-1], baselines=tmp_path)).history.document["alerts"]
    assert not fails(found)
    assert alert["accepted"] == "v1"
    assert alert["acknowledged"]["reason"] == "accepted as baseline v1: TLS everywhere"
    assert any("Accepted as baseline v1 by me" in line for line in found.history.lines)
    timeline, pinned = load_timeline(store, "shop"), Baselines(tmp_path).all("shop")
    assert not monitor_timeline(timeline, Policy(), (), date(2027, 11, 30), pinned).fails
    assert monitor_timeline(timeline, Policy(), (), date(2027, 12, 2), pinned).fails  # it has run out


@pytest.mark.parametrize(("clean", "factor"), [(22, 1.4), (30, 1.25)])
def test_a_regression_fails_on_each_night_from_its_first_one_on(rng, tmp_path, clean, factor):
    """Also between the first night, which is judged alone, and the night from which the history monitor can tell."""
    runs = history(rng, [{}] * clean + [{"factor": {"/a": factor}}] * 9)
    store, verdicts = stored(tmp_path, runs[:clean]), []
    for run in runs[clean:]:
        store.add(run)
        verdicts.append(judged(store, run).verdict)
    assert verdicts == [Verdict.REGRESSION] * 9


def test_one_slow_night_does_not_fail_the_nights_after_it(rng, tmp_path):
    runs = history(rng, [{}] * 25 + [{"factor": 1.4}] + [{}] * 5)
    store, verdicts = stored(tmp_path, runs[:25]), []
    for run in runs[25:]:
        store.add(run)
        verdicts.append(judged(store, run).verdict)
    assert verdicts[0] is Verdict.REGRESSION
    assert Verdict.REGRESSION not in verdicts[1:]


def test_a_regression_that_ended_fails_no_more(rng, tmp_path):
    nights = [{"factor": 1.25 if 30 <= i < 50 else 1.0} for i in range(70)]
    runs = history(rng, nights)
    found = judged(stored(tmp_path, runs), runs[-1])
    assert not fails(found)
    assert found.verdict is not Verdict.REGRESSION


def test_a_worsening_that_was_taken_back_and_returned_is_open_once(rng):
    slow = {"factor": 1.3}
    nights = history(rng, [{}] * 30 + [slow] * 9 + [{}] * 10 + [slow] * 8)
    alerts = monitor_timeline(timeline_of("shop", nights), Policy()).alerts
    worse = [alert for alert in alerts if alert.event.kind != "improvement"]
    assert [alert.event.index for alert in worse] == [pytest.approx(30, abs=1), pytest.approx(49, abs=1)]
    assert [(alert.stands, alert.is_open) for alert in worse] == [(False, False), (True, True)]


@pytest.mark.parametrize("slow_again", [3, 4, 5])
def test_a_relapse_that_the_monitor_has_not_heard_yet_is_never_green(rng, slow_again):
    slow = {"factor": 1.3}
    nights = history(rng, [{}] * 40 + [slow] * 6 + [{}] * 5 + [slow] * slow_again)
    watch = monitor_timeline(timeline_of("shop", nights), Policy())
    assert not [alert for alert in watch.alerts if alert.event.kind == "regression" and alert.event.index > 46]
    assert watch.verdict is Verdict.REGRESSION


@pytest.mark.parametrize(("began", "back"), [((24, 27), 33), ((26, 30), 38)])
def test_events_that_were_heard_stay_as_they_were_heard(rng, began, back):
    slow = [
        {"factor": {"/a": 1.2 if began[0] <= n < back else 1.0, "/b": 1.2 if n >= began[1] else 1.0}} for n in range(48)
    ]
    nights, heard = history(rng, slow), {}
    for count in range(28, 48, 2):
        for alert in monitor_timeline(timeline_of("shop", nights[:count]), Policy()).alerts:
            if alert.is_confirmed:
                heard.setdefault(alert.event.id, []).append(alert.event.services)
    assert [set(services) for services in heard.values()] == [{("/a",)}, {("/b",)}, {("/a",)}]


def test_a_pull_request_is_judged_alone_and_told_what_is_open_already(worse, tmp_path):
    store, runs = worse
    rng = np.random.default_rng(5)
    candidates = [night(rng, 81, branch="feature", factor=1.25)]
    found = judged(store, candidates[0], baselines=tmp_path)
    comparison = found
    assert comparison.verdict is not Verdict.REGRESSION
    assert comparison.history.news == ()
    (text,) = [text for text in comparison.warnings if text.startswith("Open already since run ")]
    assert text.startswith(f"Open already since run {runs[30].id} (2026-10-01), 50 runs, and not judged here: Worse: ")
    result = result_of(json.loads(dump_json(comparison.to_dict())), "result.json")
    assert (result.watched, result.incidents) == (False, ())

    slower = judged(store, night(rng, 82, branch="feature", factor=1.25 * 1.4), baselines=tmp_path)
    assert slower.verdict is Verdict.REGRESSION
    assert all(finding.change < 60 for finding in slower.by_verdict(Verdict.REGRESSION))
    scheduled = judged(store, night(rng, 83, branch="main", factor=1.25), baselines=tmp_path)
    assert scheduled.verdict is Verdict.REGRESSION
    assert any("Open since then, 51 runs." in text for text in scheduled.history.news)


def test_a_comparison_with_a_selector_tells_what_is_open_already(worse, tmp_path, monkeypatch, capsys):
    store, runs = worse
    monkeypatch.chdir(tmp_path)
    words = ["compare", "shop@branch:main", "--candidate", runs[-1].id, "--store", str(store.folder)]
    main(words, sys.stdout, sys.stderr)
    assert f"Open already since run {runs[30].id} (2026-10-01), 49 runs" in " ".join(capsys.readouterr().out.split())


# One judgement for every channel ------------------------------------------------------------------------------------


def channels(store, folder, capsys, monkeypatch, **policy):
    """Exit code of ``changes``, verdict of the trend's result, and what JUnit, mail and the summary make of it."""
    monkeypatch.chdir(folder)
    (timeline,) = stored_timelines(store, ["shop"])
    watch = monitor_timeline(timeline, Policy(**policy))
    document = json.loads(dump_json(trend_of(timeline, monitor=watch).to_dict()))
    result = result_of(document, "result.json")
    account = message_of(result)
    code = main(["changes", "shop", "--store", str(store.folder), "--fail-on", "regression"], sys.stdout, sys.stderr)
    capsys.readouterr()
    return code, account.verdict, messages_to_junit([account]), message_of(result), account


def test_an_open_event_of_a_young_history_is_told_by_every_channel(rng, tmp_path, capsys, monkeypatch):
    runs = history(rng, [{"factor": 1.0 if i < 8 else 2.85} for i in range(16)])
    store = stored(tmp_path / "runs", runs)
    code, word, junit, notice, account = channels(store, tmp_path, capsys, monkeypatch)
    assert monitor_timeline(load_timeline(store, "shop"), Policy()).runs_to_learn == 3
    assert word in (Verdict.REGRESSION, Verdict.INCONCLUSIVE)
    assert code == 1  # as the comparison of the newest run ends
    assert ("<failure" in junit) is (word is Verdict.REGRESSION)
    assert "<failure" in junit or "<skipped" in junit
    assert notice.verdict is word
    assert notice.statements[0].texts[0].startswith("Worse: ")
    assert "history alerts start after 3 more runs" in account.lines[0][1]
    assert account.lines[0][0] is word
    assert judged(store, runs[-1]).verdict is Verdict.REGRESSION


def test_what_is_open_and_not_confirmed_is_never_green(rng, tmp_path, capsys, monkeypatch):
    """A step that change points see and that its share of the budget does not allow to call."""
    monkeypatch.setattr(monitor, "SPENDING", -1.0)
    store = stored(tmp_path / "runs", history(rng, [{"factor": 1.0 if i < 8 else 1.5} for i in range(16)]))
    code, word, junit, notice, _ = channels(store, tmp_path, capsys, monkeypatch)
    assert (code, word, notice.verdict) == (1, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)  # 1: as its newest run
    assert "<skipped" in junit
    words = ["changes", "shop", "--store", str(store.folder), "--fail-on", "inconclusive"]
    assert main(words, sys.stdout, sys.stderr) == 1


def test_a_quiet_history_is_green_and_one_of_two_runs_is_not(rng, tmp_path, capsys, monkeypatch):
    store = stored(tmp_path / "quiet", history(rng, [{}] * 16))
    code, word, junit, notice, _ = channels(store, tmp_path, capsys, monkeypatch)
    assert (code, word, notice.verdict) == (0, Verdict.NO_CHANGE, Verdict.NO_CHANGE)
    assert "<failure" not in junit
    store = stored(tmp_path / "short", history(rng, [{}] * 2))
    assert channels(store, tmp_path, capsys, monkeypatch)[1] is Verdict.INCONCLUSIVE


def test_changes_of_a_history_without_a_valid_run_exit_3(rng, tmp_path, capsys):
    unfit = Validity((Check("generator", "busy", "idle", Severity.INVALID, ""),))
    store = stored(tmp_path, [night(rng, number, validity=unfit) for number in range(3)])
    for fail_on in ("never", "regression"):
        assert (
            main(["changes", "shop", "--store", str(store.folder), "--fail-on", fail_on], sys.stdout, sys.stderr) == 3
        )
    assert "none of its 3 runs is valid" in capsys.readouterr().err


# One alpha ------------------------------------------------------------------------------------------------------------


def test_the_alpha_of_the_policy_is_that_of_every_part(rng, tmp_path, monkeypatch):
    asked = []
    real = HistoryAnalysis.__init__

    def spy(self, timeline, alpha=0.01, *given):
        asked.append((sys._getframe(1).f_code.co_name, alpha))
        real(self, timeline, alpha, *given)

    monkeypatch.setattr(HistoryAnalysis, "__init__", spy)
    runs = history(rng, [{"factor": 1.0 if i < 20 else 1.3} for i in range(30)])
    store, policy = stored(tmp_path / "runs", runs), Policy(alpha=0.003)
    past = HistoryContext(store, tmp_path, alpha=policy.alpha)
    judged(store, runs[-1], policy, baselines=tmp_path)
    acknowledge(past, runs[20].id, policy, reason="meant", by="me", now=NOW)
    pin_runs(past, "v1", runs[:10], reason="release 1")
    accept(past, runs[20].id, reason="meant", by="me", now=NOW)
    timeline = load_timeline(store, "shop")
    AcknowledgedFile(tmp_path / "known.json").add(
        acknowledge(past, runs[20].id, policy, reason="meant", by="me", now=NOW)
    )
    open_history(store, "shop", policy=policy, acknowledged=tmp_path / "known.json", baselines=tmp_path)
    assert {name for name, _ in asked} == {"analysis", "acknowledge", "open_history"}
    assert {alpha for _, alpha in asked} == {0.003}
    assert detect_changes([timeline], alpha=policy.alpha)[0].alpha == 0.003


def test_changes_takes_the_alpha_of_the_settings(rng, tmp_path, monkeypatch, capsys):
    store = stored(tmp_path / "runs", history(rng, [{}] * 6))
    (tmp_path / "perfkit.toml").write_text("[policy]\nalpha = 0.002\n")
    monkeypatch.chdir(tmp_path)
    for extra, alpha in (([], 0.002), (["--alpha", "0.05"], 0.05)):
        assert main(["changes", "--store", str(store.folder), "--format", "json", *extra], sys.stdout, sys.stderr) == 0
        assert json.loads(capsys.readouterr().out)["alpha"] == alpha


# Dates ----------------------------------------------------------------------------------------------------------------


def test_a_run_dated_in_the_future_is_named_and_never_the_newest(rng, tmp_path, capsys, monkeypatch):
    runs = history(rng, [{}] * 12)
    late = night(rng, 20000, factor=3.0)
    assert late.started_at > datetime.now(UTC) + timedelta(days=1000)
    ancient = night(rng, -20000)
    date = f"dated {late.started_at:%Y-%m-%d} 02:00 UTC, in the future"
    store = stored(tmp_path / "runs", [*runs, late, ancient])
    monkeypatch.chdir(tmp_path)
    for selector, newest in (("shop@last:1", runs[-1]), ("shop@rolling", runs[-1])):
        selected = select(selector, HistoryContext(store))
        assert selected.runs[-1].id == newest.id
        assert f"Run {late.id} left out: {date}." in selected.warnings
    for timeline in (load_timeline(store, "shop"), timeline_of("shop", [store.get(name) for name in store.ids()])):
        assert [(one.run_id, one.why_invalid) for one in timeline.runs if not one.valid] == [(late.id, date)]
    url = str(store.folder)
    main(["compare", "shop@last:5", "--candidate", late.id, "--store", url], sys.stdout, sys.stderr)
    assert f"Run {late.id} is {date}" in " ".join(capsys.readouterr().out.split())
    assert main(["runs", "verify", "--store", url], sys.stdout, sys.stderr) == 0
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert date in said
    assert "far in the past" in said
    main(["check", "--settings-only", "--format", "json", "--store", url], sys.stdout, sys.stderr)
    found = [one["found"] for one in json.loads(capsys.readouterr().out)["settings"]["remarks"]]
    dates = f"{late.id} ({late.started_at:%Y-%m-%d}), {ancient.id} ({ancient.started_at:%Y-%m-%d})"
    assert f"2 runs have a wrong date: {dates}" in found


def test_a_history_that_is_all_in_the_future_means_that_the_clock_here_is_wrong(rng):
    runs = [night(rng, 20000 + number) for number in range(5)]
    assert all(moment.valid for moment in timeline_of("shop", runs).runs)
