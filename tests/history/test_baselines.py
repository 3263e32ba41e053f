"""Pinned baselines: kept, moved, checked; slow drift against them is said."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from command_line import invoke
from histories import nights, stored

from perfkit import Policy, ReadError, StoreError
from perfkit.history.baselines import Baselines, find_named, parse_day, pin, read_pinned
from perfkit.history.curation import accept, baseline_quality, pin_runs
from perfkit.history.gate import judge_history, slow_drifts
from perfkit.history.run_selector import HistoryContext, select
from perfkit.model.records import Check, Severity, Validity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BAD = Validity((Check("generator", 99, 80, Severity.INVALID, "The generator was saturated."),))


def past_of(tmp_path, store, **more):
    return HistoryContext(store, tmp_path / "baselines", **more)


@pytest.fixture
def kept(rng, tmp_path):
    """A store of thirty runs whose first ten are pinned as v1."""
    store, ids = stored(tmp_path / "runs", nights(rng, 30))
    past = past_of(tmp_path, store)
    pinned, _ = pin_runs(past, "v1", [store.get(one) for one in ids[:10]], reason="release 1", by="me")
    return past, ids, pinned


def test_a_pinned_baseline_is_a_reviewable_file(kept, tmp_path):
    past, ids, pinned = kept
    path = tmp_path / "baselines" / "api" / "v1.json"
    document = json.loads(path.read_text())
    assert document["schema"] == "perfkit.pinned/1"
    assert document["runs"] == ids[:10]
    assert (document["reason"], document["by"], document["expires"]) == ("release 1", "me", None)
    assert document["profile"] == "steady 30 users, 60 s"
    assert read_pinned(path) == pinned
    assert [one.id for one in select("api@pinned:v1", past).runs] == ids[:10]


def test_names_and_runs_are_checked(rng, kept, tmp_path):
    past, ids, _ = kept
    runs = [past.store.get(one) for one in ids[:3]]
    with pytest.raises(StoreError, match="v1 is pinned already; `perfkit baseline accept` moves it"):
        pin_runs(past, "v1", runs, reason="again")
    for name in ("../x", "", "a/b", ".hidden", "a b", "x" * 65, "naïve"):
        with pytest.raises(ReadError, match="name: letters, digits"):
            pin_runs(past, name, runs, reason="r")
    with pytest.raises(ReadError, match="reason: say why"):
        pin_runs(past, "v2", runs, reason=" ")
    web = past.store.get(past.store.add(nights(rng, 1, scenario="web")[0]))
    with pytest.raises(ReadError, match="a baseline is of one scenario, got api, web"):
        pin_runs(past, "v2", [*runs, web], reason="r")
    with pytest.raises(ReadError, match=r"is not in .*`perfkit import` keeps it there"):
        pin_runs(past, "v2", nights(rng, 1, first=99), reason="r")
    with pytest.raises(ReadError, match=r"no pinned baseline 'v11' .*did you mean 'v1'.*; there are v1"):
        select("api@pinned:v11", past)
    with pytest.raises(ReadError, match=r"no pinned baseline '\.\./v1'"):
        select("api@pinned:../v1", past)
    assert [one.name for one in Baselines(past.baselines).all()] == ["v1"]


def test_invalid_runs_never_enter(rng, tmp_path):
    store, ids = stored(tmp_path / "runs", nights(rng, 4), nights(rng, 1, first=4, validity=BAD))
    past = past_of(tmp_path, store)
    runs = [store.get(one) for one in ids]
    pinned, notes = pin_runs(past, "v1", runs, reason="r")
    assert pinned.runs == tuple(ids[:4])
    assert "was left out: The generator was saturated." in notes[0]
    with pytest.raises(ReadError, match="no valid run among the 1 named; invalid ones never enter a baseline"):
        pin_runs(past, "v2", runs[4:], reason="r")
    with pytest.raises(ValueError, match="invalid ones never enter"):
        pin("v3", runs, reason="r", by="me")


def test_odd_scenarios_have_files_of_their_own(rng, tmp_path):
    names = ("日本", "中国", "a b", "a_b", "../up", "x" * 80)
    for name in names:
        store, ids = stored(tmp_path / "runs", nights(rng, 3, scenario=name))
        pin_runs(past_of(tmp_path, store), "v1", [store.get(one) for one in ids], reason="r")
    past = past_of(tmp_path, store)
    assert {one.scenario for one in Baselines(past.baselines).all()} == set(names)
    assert len(list((tmp_path / "baselines").glob("*/v1.json"))) == len(names)
    for name in names:
        assert {one.scenario for one in select(f"{name}@pinned:v1", past).runs} == {name}
    with pytest.raises(ReadError, match=r"v1: is pinned for .*; say --scenario"):
        find_named(past.baselines, "v1")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: "{", r"v1.json: not JSON: "),
        (lambda d: json.dumps({**d, "schema": "perfkit.pinned/9"}), "may come from a newer perfkit"),
        (lambda d: json.dumps({name: d[name] for name in d if name != "runs"}), "runs: is missing"),
        (lambda d: json.dumps({**d, "runs": "x"}), "runs: expected array, got str"),
        (lambda d: json.dumps({**d, "expires": "soon"}), "expires: invalid RFC3339 encoded date"),
        (lambda d: json.dumps({**d, "by": 3}), "by: expected str, got int"),
        (lambda d: json.dumps({**d, "history": {}}), "history: expected array, got object"),
    ],
)
def test_a_broken_file_is_named(kept, change, told):
    past, _, _ = kept
    path = past.baselines / "api" / "v1.json"
    path.write_text(change(json.loads(path.read_text())))
    pin_runs(past, "v2", [past.store.get(past.store.ids()[0])], reason="r")
    with pytest.raises(ReadError, match=told):
        Baselines(past.baselines).get("api", "v1")
    assert [item.name for item in Baselines(past.baselines).all()] == ["v2"]
    (named,) = Baselines(past.baselines).broken()
    assert re.search(told, named)


def test_days_are_read_as_people_write_them():
    today = date(2026, 1, 1)
    assert parse_day("2026-02-01", today) == date(2026, 2, 1)
    assert parse_day("90d", today) == parse_day("90 days", today) == date(2026, 4, 1)
    for wrong in ("soon", "", "-5d", "2026-13-01"):
        with pytest.raises(ValueError, match="expected a day such as 2027-01-31, or 90d"):
            parse_day(wrong, today)
    assert parse_day("2026-01-01", today) == parse_day("0d", today) == today
    with pytest.raises(ValueError, match="2025-12-31 is over already; expected today or a later day"):
        parse_day("2025-12-31", today)


# What speaks against it ---------------------------------------------------------------------------------------------


def test_a_baseline_that_is_stale_expired_small_gone_or_foreign_says_so(rng, tmp_path):
    store, ids = stored(tmp_path / "runs", nights(rng, 8, environment={"cpu": "old"}))
    past = past_of(tmp_path, store)
    pin_runs(past, "two", [store.get(one) for one in ids[:2]], reason="r", expires=date(2025, 12, 1))
    notes = select("api@pinned:two", past).warnings  # now: long after these runs
    assert any("api@pinned:two expired on 2025-12-01" in note for note in notes)
    assert any("is 2 runs: too few" in note for note in notes)
    assert any("is stale: its newest run is" in note for note in notes)
    store.add(nights(rng, 1, first=9, environment={"cpu": "new"}, users=90)[0])
    (pinned,) = Baselines(past.baselines).all()
    told = " ".join(baseline_quality(past_of(tmp_path, store), pinned).warnings)
    assert "foreign to the newest run" in told
    assert "30 users in the baseline, 90 users in the candidate" in told
    assert "Environment: cpu differs: old in the baseline, new in the candidate" in told
    gone, _ = stored(tmp_path / "other", nights(rng, 3))
    assert "names no valid run" in baseline_quality(past_of(tmp_path, gone), pinned).warnings[0]
    gone.add(store.get(ids[0]))
    assert "1 of its 2 runs are gone" in " ".join(baseline_quality(past_of(tmp_path, gone), pinned).warnings)


def test_a_good_baseline_has_nothing_against_it(kept):
    past, ids, pinned = kept
    fresh = HistoryContext(past.store, past.baselines, candidates=(past.store.get(ids[-1]),))
    assert baseline_quality(fresh, pinned).warnings == ()


# The ratchet --------------------------------------------------------------------------------------------------------


def test_accept_moves_the_anchor_and_keeps_where_it_was(rng, kept):
    past, ids, before = kept
    for one in (*nights(rng, 12, first=30, factor=1.3), *nights(rng, 12, first=42, factor=1.8)):
        ids.append(past.store.add(one))
    past = HistoryContext(past.store, past.baselines)
    moved = accept(past, ids[30], reason="TLS everywhere", by="you", now=NOW)
    assert moved.runs[0] == ids[30]
    assert 40 <= ids.index(moved.runs[-1]) <= 43  # up to the next change, which was not accepted
    assert read_pinned(past.baselines / "api" / "v1.json") == moved
    (old,) = moved.history
    assert (old.runs, old.reason, old.by) == (before.runs, "release 1", "me")
    again = accept(HistoryContext(past.store, past.baselines), ids[42], reason="and that", now=NOW)
    assert [state.reason for state in again.history] == ["release 1", "TLS everywhere"]
    assert again.expires == before.expires


def test_a_baseline_that_has_expired_is_moved_with_a_new_day(rng, tmp_path):
    store, ids = stored(tmp_path / "runs", nights(rng, 20))
    past = past_of(tmp_path, store)
    pin_runs(past, "v1", [store.get(one) for one in ids[:5]], reason="r", expires=NOW.date() - timedelta(days=1))
    with pytest.raises(ReadError, match=r"v1: expired on .*; say until when it is good where it moves to: --expires"):
        accept(past, ids[10], reason="r", now=NOW)
    day = NOW.date() + timedelta(days=90)
    moved = accept(past, ids[10], reason="r", now=NOW, expires=day)
    assert (moved.expires, moved.history[0].expires) == (day, NOW.date() - timedelta(days=1))


def test_of_those_who_pin_one_name_at_once_one_wins(rng, tmp_path):
    store, ids = stored(tmp_path / "runs", nights(rng, 8))
    past = past_of(tmp_path, store)

    def attempt(run_id):
        try:
            return pin_runs(past, "v1", [store.get(run_id)], reason="r")[0].runs
        except StoreError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [runs for runs in pool.map(attempt, ids) if runs]
    assert [read_pinned(tmp_path / "baselines" / "api" / "v1.json").runs] == won


def test_accept_is_refused_where_it_makes_no_sense(rng, kept):
    past, ids, _ = kept
    pin_runs(past, "v2", [past.store.get(one) for one in ids[:5]], reason="r")
    web = past.store.add(nights(rng, 1, scenario="web")[0])
    for run_id, more, told in (
        ("nope", {}, "no run of that id"),
        (ids[3], {}, "say which baseline, with --name: v1, v2"),
        (ids[3], {"name": "v3"}, "no pinned baseline 'v3'"),
        (web, {}, "no pinned baseline of the scenario 'web'.*rolling baseline follows a change by itself"),
    ):
        with pytest.raises(ReadError, match=told):
            accept(past, run_id, reason="r", now=NOW, **more)
    with pytest.raises(ReadError, match="reason: say why"):
        accept(past, ids[3], reason="", name="v2", now=NOW)


# Slow drift ---------------------------------------------------------------------------------------------------------


def drifting(rng, tmp_path, per_run):
    groups = [nights(rng, 1, first=i, sd=0.01, factor=(1 + per_run) ** max(i - 10, 0)) for i in range(60)]
    store, ids = stored(tmp_path / "runs", *groups)
    past = past_of(tmp_path, store)
    pin_runs(past, "v1", [store.get(one) for one in ids[:10]], reason="r")
    candidate = nights(rng, 1, first=60, sd=0.01, factor=(1 + per_run) ** 50)
    return past_of(tmp_path, store, candidates=tuple(candidate)), candidate


def test_a_slow_creep_that_no_step_shows_is_said_against_the_anchor(rng, tmp_path):
    past, candidate = drifting(rng, tmp_path, 0.004)
    found = judge_history(candidate, past, Policy())
    (warning,) = (text for text in found.warnings if text.startswith("Slow drift"))
    assert "against the pinned baseline v1 (10 runs, " in warning
    assert "average latency of a +1" in warning or "average latency of a +2" in warning
    assert "[" in warning
    (anchor,) = found.to_dict()["history"]["anchors"]
    assert anchor["verdict"] == "regression"
    average = next(item for item in anchor["findings"] if item["metric"] == "avg_latency_ms")
    assert average["ci_low"] <= 100 * (1.004**45 - 1) <= average["ci_high"]


def test_without_creep_nothing_is_warned_of(rng, tmp_path):
    past, candidate = drifting(rng, tmp_path, 0.0)
    comparison = judge_history(candidate, past, Policy())
    assert not any("Slow drift" in text for text in comparison.warnings)
    assert any("No slow drift: against the pinned baseline v1" in line for line in comparison.history.lines)


def test_an_anchor_that_is_expired_gone_or_the_level_itself_has_nothing_to_say(rng, kept):
    past, ids, _ = kept
    level = [past.store.get(one) for one in ids]
    assert len(slow_drifts(level, past, Policy())) == 1
    assert slow_drifts(level[:10], past, Policy()) == ()
    assert slow_drifts([], past, Policy()) == ()
    path = past.baselines / "api" / "v1.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "expires": "2025-01-01"}))
    assert slow_drifts(level, past, Policy()) == ()
    path.write_text(json.dumps({**document, "runs": ["gone"]}))
    assert slow_drifts(level, past, Policy()) == ()


# On the command line ------------------------------------------------------------------------------------------------


def test_pin_list_show_and_accept(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text('baselines = "kept"\n')
    _, ids = stored("data/runs", nights(rng, 20), nights(rng, 10, first=20, factor=1.3))
    assert "no pinned baselines" in invoke("baseline", "list")[2]
    hostile = "why | \x1b[31m`x`"
    code, out, err = invoke("baseline", "pin", "v1.4", *ids[:12], "--reason", hostile, "--by", "me", "--expires", "90d")
    assert (code, "kept/api/v1.4.json: 12 runs" in out) == (0, True), err
    code, out, err = invoke("baseline", "list")
    assert code == 0
    assert "api@pinned:v1.4" in out
    assert "\x1b[31m" not in out
    assert "is stale" in err
    assert json.loads(invoke("baseline", "list", "--format", "json")[1])[0]["runs_found"] == ids[:12]
    code, out, _ = invoke("compare", "api@pinned:v1.4", "--candidate", "api@last:5", "--format", "json")
    assert (code, len(json.loads(out)["baseline"]["runs"])) == (1, 12)
    code, out, err = invoke("baseline", "accept", ids[20], "--reason", "intended")
    assert code == 0, err
    out = invoke("baseline", "show", "v1.4")[1]
    assert "before: 12 runs from" in out
    assert f"run {ids[20]}" in out
    assert "\x1b[31m" not in out
    code, out, _ = invoke("compare", "api@pinned:v1.4", "--candidate", "api@last:1")
    assert code == 0
    until = (datetime.now(UTC) + timedelta(days=90)).date()
    assert json.loads((tmp_path / "kept" / "api" / "v1.4.json").read_text())["expires"] == f"{until}"


def test_a_rolling_baseline_named_by_hand_also_tells_of_creep(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = [nights(rng, 1, first=i, sd=0.01, factor=1.004 ** max(i - 10, 0)) for i in range(61)]
    _, ids = stored("data/runs", *groups)
    assert invoke("baseline", "pin", "v1", *ids[:10], "--reason", "r")[0] == 0
    _, out, _ = invoke("compare", "api@rolling", "--candidate", ids[-1], "--format", "json")
    assert any(text.startswith("Slow drift") for text in json.loads(out)["warnings"])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("pin", "v1"), 2, "Missing argument 'RUN...'"),
        (("pin", "v1", "api@last:3"), 2, "Missing option '--reason'"),
        (("pin", "v 1", "api@last:3", "--reason", "r"), 2, "name: letters, digits"),
        (("pin", "v1", "api@last:3", "--reason", "r", "--expires", "soon"), 2, "expected a day"),
        (("pin", "v1", "nowhere", "--reason", "r"), 2, "there is no such file"),
        (("accept", "nowhere", "--reason", "r"), 2, "no run 'nowhere'"),
        (("show", "v1"), 2, "no pinned baseline 'v1'; `perfkit baseline pin` makes one"),
    ],
)
def test_wrong_use_is_told(rng, tmp_path, monkeypatch, words, code, told):
    monkeypatch.chdir(tmp_path)
    stored("data/runs", nights(rng, 4))
    got, out, err = invoke("baseline", *words)
    assert (got, told in out + err) == (code, True), out + err


WITH_A_SCENARIO = {
    "runs list": "runs list --scenario {}",
    "runs export": "runs export --scenario {}",
    "runs show": "runs show {}@last:1",
    "changes": "changes {}",
    "report trend": "report trend {}",
    "report --all": "report --all --scenario {}",
    "report capacity": "report capacity {}@last:3",
    "baseline list": "baseline list --scenario {}",
    "baseline show": "baseline show v1 --scenario {}",
    "baseline pin": "baseline pin v1 {}@rolling --reason x",
    "baseline accept": "baseline accept {}@last:1 --reason x",
    "baseline extract": "baseline extract {}@last:2",
    "plan": "plan --scenario {} --detect 5%",
    "replay": "replay --scenario {}",
    "compare": "compare --candidate {}@last:1",
    "ack": "ack {}@last:1 --reason x",
}


@pytest.mark.parametrize("name", WITH_A_SCENARIO)
def test_a_scenario_that_has_no_runs_is_an_error_that_names_the_nearest(kept, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    words = [*WITH_A_SCENARIO[name].format("apii").split(), "--store", kept[0].store.address]
    code, _, err = invoke(*words)
    assert (code, "(did you mean 'api'?)" in err) == (2, True), err


@pytest.mark.parametrize("name", ["runs list", "runs export", "changes", "baseline list", "baseline show"])
def test_in_an_empty_store_a_scenario_is_an_error_too(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, out, err = invoke(*WITH_A_SCENARIO[name].format("shop").split())
    assert (code, out) == (2, "")
    assert "has no runs yet" in err


def test_a_scenario_without_pins_is_said_to_have_none(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("baseline", "list", "--scenario", "api", "--store", kept[0].store.address)
    assert invoke(*words) == (
        0,
        "",
        "data/baselines: no pinned baselines of api; `perfkit baseline pin NAME RUN...` makes one\n",
    )
