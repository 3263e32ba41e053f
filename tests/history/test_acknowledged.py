"""A candidate against the history of its scenario; known changes are silent until something new happens."""

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import numpy as np
import pytest
from command_line import invoke
from histories import fails, nights, stored
from samples import side

from perfkit import Policy, ReadError, RunStore
from perfkit.history.acknowledgements import (
    AcknowledgedChange,
    AcknowledgedFile,
    Acknowledgement,
    match,
    with_acknowledgement,
)
from perfkit.history.change_events import find_events
from perfkit.history.curation import acknowledge
from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.gate import judge_history
from perfkit.history.run_selector import HistoryContext, select
from perfkit.history.timeline import timeline_of
from perfkit.model.records import LATENCY_METRICS, Check, Metric, Severity, Validity, Verdict
from perfkit.stats.changepoints import ChangePoint

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATENCIES = [metric for metric in Metric if metric.unit == "ms"]


FIELDS = ("id", "scenario", "around", "changes", "reason", "by", "created", "until")


def acknowledgement(*values):
    return Acknowledgement(**dict(zip(FIELDS, values, strict=False)))


def one_ack(rng, tmp_path, *groups, at, **more):
    store, ids = stored(tmp_path / "runs", *groups)
    return (
        store,
        ids,
        acknowledge(HistoryContext(store), ids[at], Policy(), reason="intended", by="me", now=NOW, **more),
    )


def events_with(rng, store, *more):
    for one in (one for group in more for one in group):
        store.add(one)
    timeline = timeline_of("api", [store.get(run_id) for run_id in store.ids()])
    return find_events(timeline), [moment.run_id for moment in timeline.runs]


# The known movement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acknowledged", "seen", "covered"),
    [
        ((10.0, 8.0, 12.0), 10.0, True),
        ((10.0, 8.0, 12.0), 12.4, True),  # beyond the interval, but not materially
        ((10.0, 8.0, 12.0), 12.6, False),
        ((10.0, 2.0, 18.0), 17.9, True),  # little was known: as far as the interval
        ((10.0, 2.0, 18.0), 18.1, False),
        ((10.0, 8.0, 12.0), 1.0, True),  # smaller is nothing new
        ((10.0, 8.0, 12.0), -1.0, False),  # the other direction is
        ((-10.0, -12.0, -8.0), -12.4, True),
        ((-10.0, -12.0, -8.0), -12.6, False),
        ((10.0, None, None), 12.5, True),
        ((math.inf, None, None), math.inf, True),
        ((10.0, 8.0, 12.0), math.inf, False),
    ],
)
def test_a_movement_is_known_up_to_a_materially_larger_size(acknowledged, seen, covered):
    known = AcknowledgedChange.of_size("a", Metric.P95, *acknowledged)
    assert known.covers("a", "p95_latency_ms", seen) is covered
    assert not known.covers("b", "p95_latency_ms", seen)
    assert not known.covers("a", "p99_latency_ms", seen)


# Events -------------------------------------------------------------------------------------------------------------


def test_an_acknowledged_event_stays_silent_while_runs_are_added_and_indices_move(rng, tmp_path):
    store, _ids, one = one_ack(rng, tmp_path, nights(rng, 20, first=20), nights(rng, 8, first=40, factor=1.3), at=20)
    earlier = nights(rng, 10)  # found later, older: every index moves by ten
    events, now = events_with(rng, store, nights(rng, 20, first=48, factor=1.3), earlier)
    assert [abs(event.index - 30) <= 2 for event in events] == [True]
    assert set(match(events, now, [one], NOW.date())) == {events[0].id}


@pytest.mark.parametrize("what", ["another service", "materially larger", "elsewhere", "other scenario", "run out"])
def test_something_new_is_heard(rng, tmp_path, what):
    two = {"services": ("a", "b")}
    groups = nights(rng, 20, **two), nights(rng, 12, first=20, factor=1.2, slow=("a",), **two)
    store, ids, one = one_ack(rng, tmp_path, *groups, at=20, until=date(2026, 2, 1))
    today = date(2026, 2, 2) if what == "run out" else NOW.date()
    if what == "elsewhere":
        more = nights(rng, 12, first=32, factor=1.5, slow=("a",), **two)
        events, now = events_with(rng, store, more)
        assert len(events) == 2
        assert set(match(events, now, [one], today)) == {events[0].id}
        return
    factor, slow = (1.5, ("a",)) if what == "materially larger" else (1.2, ("a", "b"))
    if what in ("other scenario", "run out"):
        slow = ("a",)
    other, _ = stored(tmp_path / "other", nights(rng, 20, **two))
    for run_id in ids[:20]:
        other.add(store.get(run_id))
    for fresh in nights(rng, 30, first=20, factor=factor, slow=slow, **two):
        other.add(fresh)
    events, now = events_with(rng, other)
    if what == "other scenario":
        one = acknowledgement("x", "web", ("x",), one.changes, "r", "b", NOW)
        now = ["x", *now]
    big = [event for event in events if len(event.changes) >= 3]
    assert len(big) == 1
    assert match(big, now, [one], today) == {}


@pytest.mark.parametrize(("low", "high", "covered"), [(12.0, 20.0, True), (13.0, 19.0, False), (math.nan, math.nan, 0)])
def test_an_event_is_larger_only_where_its_whole_interval_is(low, high, covered):
    """It is 16 % where 10 % are known; an alarm, which has no interval, may tell a quarter too much."""
    known = acknowledgement(
        "r", "api", ("r",), (AcknowledgedChange.of_size("a", Metric.P95, 10.0, 8.0, 12.0),), "why", "me", NOW
    )
    for size, is_covered in ((16.0, covered), (15.0, True)) if math.isnan(low) else ((16.0, covered),):
        change = ChangePoint(5, 100.0, 100.0 + size, size, 1e-6, low, high)
        moment = RunReference("r", NOW, True)
        event = Event("r", "api", 5, moment, moment, (MetricChange("a", Metric.P95, change),))
        assert bool(match([event], ["r"] * 10, [known], NOW.date())) is bool(is_covered)


def test_a_service_is_acknowledged_with_all_that_leans_along_also_where_the_policy_accepts_it(rng, tmp_path):
    """4 % are within tolerance, so no comparison calls them, and the tail is too noisy to be seen yet."""
    kind = {"sd": 0.005, "names": ("a", "b")}
    runs = side(rng, 32, **kind), side(rng, 12, first=32, slower={"a": 1.04}, **kind)
    _, ids, known = one_ack(rng, tmp_path, *runs, at=32)
    sizes = {(item.service, item.metric): item.size for item in known.changes}
    assert sizes["a", Metric.AVG] == pytest.approx(4.0, abs=1.5)
    assert {metric for service, metric in sizes if service == "a"} >= {*LATENCY_METRICS} - {Metric.P999}
    assert {service for service, _ in sizes} == {"a"}
    assert known.id in ids[30:35]


def test_the_same_change_seen_by_more_runs_is_not_new(rng, tmp_path):
    silent = 0
    for seed in range(6):
        group = nights(rng, 30), nights(rng, 6, first=30, factor=1.25)
        store, _, one = one_ack(rng, tmp_path / str(seed), *group, at=30)
        events, now = events_with(rng, store, nights(rng, 30, first=36, factor=1.25))
        main = [event for event in events if abs(event.index - 30) <= 2]
        silent += set(match(main, now, [one], NOW.date())) == {event.id for event in main}
    assert silent >= 5


def test_a_place_is_found_again_when_its_run_is_gone():
    one = acknowledgement(
        "c",
        "api",
        ("a", "b", "c", "d", "e"),
        (AcknowledgedChange.of_size("s", Metric.P95, 1),),
        "r",
        "",
        NOW,
    )
    assert one.index_in(list("xyabcde")) == 4
    assert one.index_in(list("xyabde")) == 4
    assert one.index_in(list("xye")) == 0
    assert one.index_in(list("xyz")) is None


# The file -----------------------------------------------------------------------------------------------------------


def test_the_file_keeps_everything_and_names_what_is_wrong(tmp_path):
    file = AcknowledgedFile(tmp_path / "deep" / "acknowledged.json")
    moved = (
        AcknowledgedChange.of_size("sérvice <b>", Metric.P95, 10.0, 8.0, None),
        AcknowledgedChange.of_size("a", Metric.RPS, -math.inf, None, None),
    )
    one = acknowledgement("r1", "api", ("r0", "r1"), moved, "why | `x`", "me", NOW, date(2026, 3, 1))
    assert file.read() == ()
    file.add(one)
    assert file.read() == (one,)
    file.add(acknowledgement("r2", "api", ("r2",), moved, "why", "me", NOW))
    file.add(acknowledgement("r1", "api", ("r1",), moved, "again", "me", NOW))
    assert [(item.id, item.reason) for item in file.read()] == [("r2", "why"), ("r1", "again")]
    with pytest.raises(ReadError, match=r"r3 is not acknowledged .did you mean 'r"):
        file.remove("r3")
    assert file.remove("r1").reason == "again"
    good = json.loads(file.path.read_text())
    for broken, told in (
        ("{", "not JSON"),
        (json.dumps({"schema": "x"}), "not a file of acknowledged changes of schema"),
        (json.dumps({**good, "acknowledged": [{}]}), "acknowledged.0.id: is missing"),
        (json.dumps({**good, "acknowledged": [3]}), "acknowledged.0: expected object, got int"),
        (json.dumps({**good, "acknowledged": 3}), "acknowledged: expected array, got int"),
        (json.dumps({**good, "acknowledged": [{**good["acknowledged"][0], "movements": 3}]}), "movements: expected a"),
        (json.dumps({**good, "acknowledged": [{**good["acknowledged"][0], "untill": None}]}), "unknown field untill"),
        (json.dumps(good).replace("p95_latency_ms", "p95_latency"), "unknown metric 'p95_latency'"),
        (json.dumps(good).replace('"me"', "7"), "acknowledged.0.by: expected str, got int"),
        (json.dumps(good).replace('"rises": true', '"rises": false'), "rises: is False, and the change 10"),
        (json.dumps(good).replace('"change": 10.0', '"change": 1e999'), "number out of range"),
    ):
        file.path.write_text(broken)
        with pytest.raises(ReadError, match=told):
            file.read()


def test_of_those_who_acknowledge_at_once_none_is_lost(tmp_path):
    movement = AcknowledgedChange.of_size("a", Metric.P95, 10.0, 8.0, 12.0)
    every = [acknowledgement(f"r{n}", "api", (f"r{n}",), (movement,), "why", "me", NOW) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: AcknowledgedFile(tmp_path / "data" / "known.json").add(one), every))
    assert {one.id for one in AcknowledgedFile(tmp_path / "data" / "known.json").read()} == {one.id for one in every}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["known.json"]


# Against history ----------------------------------------------------------------------------------------------------


def judged(store, candidates, known=(), **policy):
    return judge_history(
        candidates, HistoryContext(store, candidates=tuple(candidates)), Policy(**policy), acknowledgements=known
    )


def test_a_candidate_like_its_history_passes_and_one_that_is_slower_does_not(rng, tmp_path):
    store, ids = stored(tmp_path, nights(rng, 30))
    good, bad = nights(rng, 1, first=30)[0], nights(rng, 1, first=30, factor=1.3)[0]
    found = judged(store, [good])
    assert found.verdict in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE)
    assert len(found.baseline.runs) == 30
    watch = found.history.document
    assert (watch["runs"], watch["series_that_may_not_speak_yet"], watch["runs_to_learn"]) == (31, 0, 0)
    assert judged(store, [bad]).verdict is Verdict.REGRESSION
    assert ids[0] in json.dumps(found.to_dict()["history"])


def test_watching_says_how_long_it_has_watched_and_when_it_may_speak(rng, tmp_path):
    store, ids = stored(tmp_path, nights(rng, 8))
    found = judged(store, nights(rng, 1, first=8))
    watch = found.history.document
    assert (watch["runs"], watch["runs_to_learn"]) == (9, 10)
    assert watch["series_that_may_not_speak_yet"] == watch["series"] > 4
    text = " ".join(found.history.lines)
    assert "History alerts start after 10 more runs" in text
    assert "Watching 9 runs of api since 2025-10-17" in text
    document = found.to_dict()["history"]
    assert (document["runs_to_learn"], document["since_run"], document["alerts"]) == (10, ids[0], [])


def test_a_change_that_the_rolling_baseline_has_swallowed_is_still_heard_by_the_watch(rng, tmp_path):
    """Ten runs after the step the baseline is the new level: the comparison has nothing to say, the watch has."""
    store, ids = stored(tmp_path, nights(rng, 30), nights(rng, 10, first=30, factor=1.25))
    candidate = nights(rng, 1, first=40, factor=1.25)
    found = judged(store, candidate)
    assert not found.by_verdict(Verdict.REGRESSION)
    assert found.verdict is Verdict.REGRESSION
    (alert,) = (alert for alert in found.history.document["alerts"] if alert["fails"])
    assert alert["first_after"]["run"] in ids[28:33]
    assert 0 < alert["raised_runs_ago"] <= 10
    assert "Worse: " in found.history.news[0]
    assert f"perfkit ack {alert['id']}" in " ".join(found.history.lines)
    past = HistoryContext(store, candidates=tuple(candidate))
    known = acknowledge(past, ids[30], Policy(), reason="intended", by="me", now=NOW)
    quiet = judged(store, candidate, [known])
    assert quiet.verdict is not Verdict.REGRESSION
    assert quiet.history.news == ()
    assert "Acknowledged by me on 2026-01-01: intended." in " ".join(quiet.history.lines)


def test_changes_for_the_better_and_those_that_were_taken_back_are_told_and_do_not_fail(rng, tmp_path):
    store, _ = stored(tmp_path, nights(rng, 30), nights(rng, 8, first=30, factor=1.4), nights(rng, 5, first=38))
    found = judged(store, nights(rng, 1, first=43))
    assert found.history.document["alerts"]
    assert not fails(found)
    assert "It was taken back since." in " ".join(found.history.lines)


def test_what_is_within_tolerance_is_told_and_does_not_fail(rng, tmp_path):
    store, _ = stored(tmp_path, nights(rng, 40, sd=0.005), nights(rng, 15, first=40, sd=0.005, factor=1.04))
    found = judged(store, nights(rng, 1, first=55, sd=0.005, factor=1.04))
    assert found.history.document["alerts"]
    assert not fails(found)
    strict = dict.fromkeys(LATENCIES, 1.0)
    assert fails(judged(store, nights(rng, 1, first=55, sd=0.005, factor=1.04), tolerance=strict))


def test_a_regression_that_nobody_acknowledged_fails_for_ever_and_says_since_when(rng, tmp_path):
    store, ids = stored(tmp_path, nights(rng, 30), nights(rng, 50, first=30, factor=1.25))
    found = judged(store, nights(rng, 1, first=80, factor=1.25))
    alert = found.history.document["alerts"][0]
    assert alert["raised_runs_ago"] >= 30
    assert fails(found)
    assert found.verdict is Verdict.REGRESSION
    assert (alert["id"], alert["runs_open"]) == (ids[30], 51)
    assert f"{alert['headline']} Open since then, 51 runs." in found.history.news


def test_an_acknowledged_change_is_silent_from_its_first_run_on_and_a_larger_one_is_not(rng, tmp_path):
    store, ids = stored(tmp_path / "runs", nights(rng, 30), nights(rng, 1, first=30, factor=1.25))
    assert judged(store, [store.get(ids[30])]).verdict is Verdict.REGRESSION
    known = acknowledge(HistoryContext(store), ids[30], Policy(), reason="intended", by="me", now=NOW)
    again = judged(store, [store.get(ids[30])], [known])
    assert again.verdict is not Verdict.REGRESSION
    assert any("A known change, acknowledged by me" in w for f in again.findings for w in f.warnings)
    for number in range(31, 36):
        candidate = nights(rng, 1, first=number, factor=1.25)[0]
        assert judged(store, [candidate], [known]).verdict is not Verdict.REGRESSION
        store.add(candidate)
    assert judged(store, nights(rng, 1, first=36, factor=1.9), [known]).verdict is Verdict.REGRESSION


def test_the_baseline_does_not_move_along_to_a_worse_level_that_nobody_has_heard_of(rng, tmp_path):
    """After 12 runs no alert is possible yet; change points see the new level at once, and rolling begins there."""
    store, ids = stored(tmp_path, nights(rng, 12), nights(rng, 6, first=12, factor=1.3))
    candidate = nights(rng, 1, first=18, factor=1.3)
    assert [one.id for one in select("api@rolling", HistoryContext(store)).runs] == ids[12:]
    found = judged(store, candidate)
    assert [one.id for one in found.baseline.runs] == ids[:12]
    assert found.by_verdict(Verdict.REGRESSION)
    assert found.history.document["held_before"] == ids[12]
    (note,) = (note for note in found.warnings if "its monitor has not alerted yet: Worse" in note)
    assert f"`perfkit ack {ids[12]}`" in note
    known = acknowledge(HistoryContext(store), ids[12], Policy(), reason="intended", by="me", now=NOW)
    quiet = judged(store, candidate, [known])
    assert [one.id for one in quiet.baseline.runs] == ids[12:]
    assert (quiet.history.document["held_before"], quiet.by_verdict(Verdict.REGRESSION)) == (None, ())


def test_runs_since_the_unheard_change_tell_together_what_one_of_them_cannot(tmp_path):
    told = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        kind = {"sd": 0.03, "first": 12}
        store, ids = stored(tmp_path / str(seed), nights(rng, 12, sd=0.03), nights(rng, 6, factor=1.2, **kind))
        slow, back = nights(rng, 1, sd=0.03, first=18, factor=1.2), nights(rng, 1, sd=0.03, first=18, factor=0.98)
        found = judged(store, slow)
        assert found.verdict is Verdict.REGRESSION
        assert found.history.news[0].startswith("Worse: ")
        told.append(bool(found.by_verdict(Verdict.REGRESSION)))
        assert judged(store, back).verdict is not Verdict.REGRESSION
        known = acknowledge(HistoryContext(store), ids[12], Policy(), reason="intended", by="me", now=NOW)
        assert judged(store, slow, [known]).history.news == ()
    assert not all(told)


def test_the_baseline_moves_along_to_a_better_level_and_with_what_was_heard_or_taken_back(rng, tmp_path):
    for name, groups in (
        ("better", [(12, 1.0), (6, 0.7)]),
        ("heard", [(30, 1.0), (8, 1.4)]),
        ("taken back", [(12, 1.0), (6, 1.4), (6, 1.0)]),
        ("within tolerance", [(30, 1.0), (20, 1.03)]),
    ):
        first, parts = 0, []
        for count, factor in groups:
            parts.append(nights(rng, count, first=first, factor=factor, sd=0.005 if name[0] == "w" else 0.02))
            first += count
        store, ids = stored(tmp_path / name, *parts)
        document = judged(store, nights(rng, 1, first=first, factor=groups[-1][1])).history.document
        assert (name, document["held_before"]) == (name, None)
        assert document["baseline_runs"] == ids[first - groups[-1][0] :], name


def test_a_known_change_covers_no_other_service(rng, tmp_path):
    two = {"services": ("a", "b")}
    store, ids = stored(tmp_path, nights(rng, 30, **two), nights(rng, 1, first=30, factor=1.25, slow=("a",), **two))
    known = acknowledge(HistoryContext(store), ids[30], Policy(), reason="intended", by="me", now=NOW)
    found = judged(store, nights(rng, 1, first=31, factor=1.25, **two), [known])
    assert {finding.service for finding in found.by_verdict(Verdict.REGRESSION)} == {"b"}


def test_a_softened_finding_keeps_its_numbers(rng, tmp_path):
    store, ids = stored(tmp_path, nights(rng, 30), nights(rng, 1, first=30, factor=1.25))
    known = acknowledge(HistoryContext(store), ids[30], Policy(), reason="intended", by="me", now=NOW)
    for finding in judged(store, [store.get(ids[30])]).by_verdict(Verdict.REGRESSION):
        quiet = with_acknowledgement(finding, [known])
        assert quiet.verdict is not Verdict.REGRESSION
        assert (quiet.change_pct, quiet.ci_low, quiet.limit) == (finding.change_pct, finding.ci_low, "acknowledged")
        assert with_acknowledgement(finding, []) == finding


def test_nothing_is_acknowledged_where_nothing_moved(rng, tmp_path):
    store, ids = stored(tmp_path, nights(rng, 20), nights(rng, 1, first=30, validity=invalid()))
    past = HistoryContext(store)
    for event, told in (
        (ids[10], "nothing is seen to have moved there"),
        (ids[20], "is an invalid run"),
        (ids[3][:-1] + "x", "no run of that id in .*did you mean"),
    ):
        with pytest.raises(ReadError, match=told):
            acknowledge(past, event, Policy(), reason="r", now=NOW)


class Typed(io.StringIO):
    """A terminal at which somebody has typed."""

    def isatty(self):
        return True


def test_a_run_that_begins_no_event_is_asked_about(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = nights(rng, 20), nights(rng, 20, first=20, factor=1.3), nights(rng, 1, first=40, factor=1.9)
    _, ids = stored("data/runs", *groups)
    words = ("ack", ids[40], "--reason", "a loan of the machine")
    code, _, err = invoke(*words)
    assert code == 2
    assert f"{ids[40]}: begins no event of api's history; the nearest: {ids[20]} (20 runs before) " in err
    assert "say --yes" in err
    for typed, count in (("n\n", 0), ("y\n", 1)):
        monkeypatch.setattr("sys.stdin", Typed(typed))
        code, _, err = invoke(*words)
        assert (code, f"{ids[20]} (20 runs before)" in err, "all the same?" in err) == (0, True, True)
        assert len(json.loads(invoke("ack", "--list", "--format", "json")[1])) == count
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert invoke("ack", ids[20], "--reason", "r")[0] == 0  # an event needs no question
    assert invoke("ack", "--remove", ids[40][:-3])[0] == 0  # the beginning is enough
    assert invoke(*words, "--yes")[0] == 0


def invalid():
    return Validity((Check("generator", 99, 80, Severity.INVALID, "The generator was saturated."),))


# On the command line ------------------------------------------------------------------------------------------------


def test_compare_without_a_baseline_judges_against_history(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _store, ids = stored("data/runs", nights(rng, 30), nights(rng, 12, first=30, factor=1.25))
    code, out, err = invoke("compare", "--candidate", ids[-1], "--format", "json")
    assert code == 1, err
    document = json.loads(out)
    assert document["verdict"] == "regression"
    assert document["history"]["baseline"] == "api@rolling"
    assert ids[-1] not in document["history"]["baseline_runs"]
    (alert,) = (item for item in document["history"]["alerts"] if item["fails"])
    code, out, _ = invoke("compare", "--candidate", ids[-1])
    assert code == 1
    assert out.startswith("✗ regression")
    assert "History: Worse: " in out
    assert f"since run {alert['id']}" in out
    assert "## History" in invoke("compare", "--candidate", ids[-1], "--format", "markdown")[1]
    assert (
        '<testcase classname="perfkit" name="history">'
        in invoke("compare", "--candidate", ids[-1], "--format", "junit")[1]
    )
    code, out, err = invoke("ack", alert["id"], "--reason", "TLS | <b>", "--by", "me", "--until", "2099-01-01")
    assert code == 0, err
    assert "acknowledged up to" in out
    code, out, _ = invoke("compare", "--candidate", ids[-1], "--format", "json")
    assert (code, json.loads(out)["history"]["alerts"][0]["acknowledged"]["reason"]) == (0, "TLS | <b>")
    assert "&#60;b&#62;" in invoke("compare", "--candidate", ids[-1], "--format", "markdown")[1]
    assert invoke("changes", "api", "--fail-on", "regression")[0] == 0
    code, out, _ = invoke("ack", "--list")
    assert "acknowledged by me on" in out
    assert len(json.loads(invoke("ack", "--list", "--format", "json")[1])) == 1
    shown = json.loads((tmp_path / "data" / "acknowledged.json").read_text())["acknowledged"][0]["id"]
    assert invoke("ack", "--remove", shown)[0] == 0
    assert invoke("compare", "--candidate", ids[-1])[0] == 1
    assert invoke("changes", "api", "--fail-on", "regression")[0] == 1


def test_wrong_use_is_told(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _store, ids = stored("data/runs", nights(rng, 3), nights(rng, 2, first=5, scenario="web"))
    for words, code, told in (
        (("compare", "--candidate", ids[0]), 3, "has no earlier valid run of this scenario"),
        (("compare", "--candidate", ids[0], ids[-1]), 3, "the candidates are of the scenarios api, web"),
        (("compare", "--candidate", ids[2], "--history"), 2, "--history: without a BASELINE"),
        (("ack",), 2, "name an event, or say --list or --remove"),
        (("ack", ids[0], "--list"), 2, "name an event, or say --list or --remove"),
        (("ack", ids[0]), 2, "Missing option '--reason'"),
        (("ack", ids[0], "--reason", "x", "--until", "soon"), 2, "expected a day such as 2027-01-31, or 90d"),
        (("ack", ids[1], "--reason", "x"), 2, "nothing is seen to have moved there"),
        (("ack", "--remove", ids[0]), 2, "is not acknowledged"),
    ):
        got, out, err = invoke(*words)
        assert (got, told in out + err) == (code, True), (words, got, out, err)
    assert RunStore("data/runs").ids() == sorted(ids)


def test_the_file_is_where_the_settings_say(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text('acknowledged = "review/known.json"\n')
    _, ids = stored("data/runs", nights(rng, 20), nights(rng, 8, first=20, factor=1.3))
    assert invoke("ack", ids[20], "--reason", "intended")[0] == 0
    assert json.loads((tmp_path / "review" / "known.json").read_text())["acknowledged"][0]["reason"] == "intended"
