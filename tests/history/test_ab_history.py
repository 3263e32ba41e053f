"""Runs of an A/B test carry the commit of their own side, and stay out of the scenario's history unless asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import invoke
from histories import nights, stored
from repositories import git

from perfkit.config.settings import Scenario
from perfkit.history.change_events import stored_timelines
from perfkit.history.planning import stored_profile
from perfkit.history.run_selector import HistoryContext, select
from perfkit.history.timeline import load_timeline
from perfkit.loadgen.ab_test import ab_targets
from perfkit.loadgen.run import planned_run
from perfkit.loadgen.service_under_test import revision_of_ref
from perfkit.model.errors import ReadError, SettingsError, StoreError

SLOW = 1.6


def in_pairs(runs):
    """Every second run is the baseline of a pair, the one after it its candidate."""
    sides = ("baseline", "candidate")
    return [
        replace(run, labels={**run.labels, "side": sides[i % 2], "pair": f"1.{i // 2 + 1}"})
        for i, run in enumerate(runs)
    ]


@pytest.fixture
def mixed(rng, tmp_path, monkeypatch):
    """Twelve nights of one level, then an A/B test of four pairs of builds that are much slower."""
    monkeypatch.chdir(tmp_path)
    store, usual = stored(tmp_path / "runs", nights(rng, 12))
    _, paired = stored(tmp_path / "runs", in_pairs(nights(rng, 8, first=20, factor=SLOW)))
    return store, usual, paired


def test_histories_leave_them_out_unless_asked_for(mixed):
    store, usual, paired = mixed
    assert [moment.run_id for moment in load_timeline(store, "api").runs] == usual
    assert [moment.run_id for moment in load_timeline(store, "api", ab_tests=True).runs] == [*usual, *paired]
    assert list(store.history("api", "a", "p95_latency_ms")["id"]) == usual
    assert len(store.history("api", "a", "p95_latency_ms", ab_tests=True)) == 20
    assert list(store.runs()["id"]) == [*usual, *paired]
    assert list(store.runs(ab_test=True)["id"]) == paired
    assert stored_profile(store, "api").runs == tuple(usual)


@pytest.mark.parametrize(("selector", "count"), [("api@rolling", 12), ("api@last:20", 12), ("api@last:3", 3)])
def test_selectors_leave_them_out(mixed, selector, count):
    store, usual, _ = mixed
    assert [run.id for run in select(selector, HistoryContext(store)).runs] == usual[-count:]


def test_the_commands_leave_them_out_unless_asked_for(mixed):
    store, _, paired = mixed
    words = ("changes", "api", "--store", store.url)
    assert invoke(*words)[1] == invoke("changes", "--store", store.url)[1]
    assert "regression" not in invoke(*words, "--fail-on", "regression")[1]
    assert invoke(*words, "--fail-on", "regression")[0] == 0
    code, out, _ = invoke(*words, "--ab-tests", "--format", "json")
    assert code == 0
    assert paired[0] in out
    assert invoke("replay", "--scenario", "api", "--window", "5", "--store", store.url)[1].count(f"\n{paired[0]}") == 0
    assert invoke("baseline", "pin", "usual", "api@last:3", "--reason", "x", "--store", store.url)[0] == 0
    for words in (("ack", paired[0], "--reason", "x"), ("baseline", "accept", paired[0], "--reason", "x")):
        code, _, err = invoke(*words, "--store", store.url)
        assert (code, "is of an A/B test, and in no history" in err) == (2, True), err


def test_pinned_by_name_they_are_asked_for(mixed):
    store, _, paired = mixed
    assert invoke("baseline", "pin", "pair", *paired[::2], "--reason", "x", "--store", store.url)[0] == 0
    assert [run.id for run in select("api@pinned:pair", HistoryContext(store)).runs] == paired[::2]


def test_a_scenario_of_nothing_else_is_said_to_be_so(rng, tmp_path):
    store, paired = stored(tmp_path / "runs", in_pairs(nights(rng, 6)))
    with pytest.raises(ReadError, match="6 runs of A/B tests are in no history: name them by their ids"):
        select("api@rolling", HistoryContext(store))
    with pytest.raises(StoreError, match="its 6 runs are of A/B tests"):
        load_timeline(store, "api")
    assert invoke("changes", "api", "--store", store.url)[0] == 2
    with pytest.raises((StoreError, SettingsError), match="A/B tests"):
        stored_timelines(store)
    assert len(stored_timelines(store, ab_tests=True)[0]) == 6
    assert invoke("compare", *paired[::2], "--candidate", *paired[1::2], "--store", store.url)[0] in (0, 1)


def test_a_label_of_one_name_makes_no_ab_test(rng, tmp_path):
    runs = [replace(run, labels={"side": "left", "pair": "1"}) for run in nights(rng, 3)]
    runs += [replace(run, labels={"side": "baseline"}) for run in nights(rng, 3, first=5)]
    store, ids = stored(tmp_path / "runs", runs)
    assert list(store.runs(ab_test=False)["id"]) == ids


# Which commit each side is of -----------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    folder = tmp_path / "service"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "app.py").write_text("x")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "checkout", "-q", "-b", "feature")
    git(folder, "commit", "-q", "--allow-empty", "-m", "second")
    monkeypatch.chdir(folder)
    return folder


SERVE = "python -m http.server {port} --bind 127.0.0.1"


@pytest.mark.parametrize("ref", ["main", "{sha}", "v1"])
def test_each_side_carries_its_own_commit(repository, monkeypatch, ref):
    base, head = (git(repository, "rev-parse", name) for name in ("main", "feature"))
    git(repository, "tag", "v1", "main")
    (repository / "app.py").write_text("changed")
    monkeypatch.setenv("GITHUB_SHA", head)  # of the current folder, and of nothing else
    monkeypatch.setenv("GITHUB_REF_NAME", "feature")
    scenario = Scenario("shop", Path("locustfile.py"), serve=SERVE)
    with ab_targets(scenario, ref.format(sha=base), repository) as targets:
        runs = {side: planned_run(targets[side], {}) for side in targets}
    assert runs["baseline"].git == {"commit": base, "dirty": "no", **({"branch": "main"} if ref == "main" else {})}
    assert runs["candidate"].git == {"commit": head, "branch": "feature", "dirty": "yes"}


def test_the_commit_of_a_host_is_unknown(repository):
    with ab_targets(Scenario("shop", Path("locustfile.py"), host="http://new"), "http://old", repository) as targets:
        runs = {side: planned_run(targets[side], {}) for side in targets}
    assert runs["baseline"].git == {}
    assert runs["candidate"].git["branch"] == "feature"


def test_no_tree_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert revision_of_ref(tmp_path / "x", "main").to_dict() == {}
