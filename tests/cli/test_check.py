"""The self-test of the gate passes where the gate works, and fails where it is broken: it was seen to do both."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke
from samples import requests

from perfkit import Policy, RunStore, read_run, run_from_requests
from perfkit.cli import selftest
from perfkit.cli.check import SCHEMA
from perfkit.cli.selftest import (
    BASELINE,
    IDENTICAL,
    ROUND,
    SERVICE,
    SLOWER,
    Answer,
    Task,
    ask_gate,
    believed,
    identical_trial,
    load_trial,
    self_test,
    simulated_histories,
    slowdown_trial,
    unfit_trial,
)
from perfkit.history.gate import judge_history
from perfkit.history.run_selector import HistoryContext as HistoryPast
from perfkit.model.records import Check, LoadProfile, Severity, Validity

LATENCIES = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "p999_latency_ms")
LOOSE = "[policy.tolerance]\nrps = 99\n" + "".join(f"{name} = 1000\n" for name in LATENCIES)
BUILDS = ("slower by 100 %", "identical builds")
HISTORY = ("slower by 100 %, against history", "identical builds, against history")
REFUSED = (
    *("run.json cut off", "run.json cut off in the baseline", "garbage for run.json", "killed run", "invalid run"),
    "run.json changed afterwards",
    *("empty folder", "nothing there", "garbage for results", "misspelt policy"),
)


def made(task: Task, store: str, report, *, invalid=False, factor=None):
    """What `measure` gives, without the load: runs whose truth is known, in a store on disk."""
    rng = np.random.default_rng(len(store))
    sides = {}
    for place, name in enumerate(ROUND):
        slower = {SLOWER: 1 + task.slower_pct / 100, **(factor or {})}.get(name, 1.0)
        sides[name] = []
        for number in range(task.rounds):
            frame = requests(rng, seconds=3.0, services={SERVICE: 90.0}, slower=slower, begin=1e9 + 60 * place + number)
            run = replace(
                run_from_requests(frame, scenario="self-test", build=name), profile=LoadProfile("steady", 20, 20, 3)
            )
            if invalid:
                bad = Check("generator_cpu", 99.0, 90.0, Severity.INVALID, "Use more workers.")
                run = replace(run, validity=Validity((bad,)))
            known = RunStore(store)
            sides[name].append(known.get(known.add(run)))
    return sides


def answer(code=0, verdict="no_change", findings=(), said="", **more):
    document = {"verdict": verdict, "findings": list(findings), **more} if verdict else {}
    return Answer(code, document, said, 0.1)


def finding(verdict="regression", *, change=98.0, tolerance=5.0, objective=False, metric="avg_latency_ms"):
    return {
        "service": SERVICE,
        "metric": metric,
        "verdict": verdict,
        "change_pct": change,
        "tolerance": tolerance,
        "limit": f"+{tolerance:g} %",
        "objective": objective,
    }


# What an answer means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fail_on", "ok", "advice", "by_chance"),
    [
        (answer(1, "regression", [finding()]), "regression", True, "", False),
        (
            answer(0, "no_change", [finding("no_change", tolerance=1000)]),
            "regression",
            False,
            "is 1000 %",
            False,
        ),
        (answer(0, "inconclusive", [finding("inconclusive", tolerance=95)]), "regression", False, "it said", True),
        (answer(0, "regression", [finding()]), "never", False, "--fail-on never", False),
        (answer(0, "inconclusive", [finding(metric="rps")]), "regression", False, "no change of a latency", False),
        (answer(0, "inconclusive", [finding(metric="rps", change=-24.0)]), "regression", False, "of a latency", True),
        (answer(1, "regression", [finding(objective=True)]), "regression", False, "LETS SLOWDOWNS THROUGH", False),
        (answer(3, "invalid", warnings=["Too few."]), "regression", False, "could not be judged: Too few.", True),
        (answer(2, "", said="perfkit: x\nperfkit: no such file"), "regression", False, "no such file", True),
        (answer(None, "", said="it did not end"), "regression", False, "it did not end", True),
    ],
)
def test_only_a_relative_regression_with_exit_code_1_answers_a_slowdown(given, fail_on, ok, advice, by_chance):
    trial = slowdown_trial(given, 100, fail_on)
    assert trial.ok is ok
    assert advice in trial.advice
    assert trial.by_chance is by_chance


@pytest.mark.parametrize(
    ("given", "fail_on", "ok"),
    [
        (answer(0, "no_change"), "regression", True),
        (answer(0, "inconclusive"), "regression", True),
        (answer(1, "inconclusive"), "inconclusive", True),
        (answer(1, "inconclusive"), "regression", False),
        (answer(1, "regression", [finding(change=6.0)]), "regression", False),
        (answer(0, "regression", [finding(change=6.0)]), "never", False),
        (answer(1, "regression", [finding(objective=True)]), "regression", True),  # the user's SLO, not this service's
        (answer(3, "invalid"), "regression", False),
        (answer(0, ""), "regression", False),
        (answer(None, ""), "regression", False),
    ],
)
def test_identical_builds_must_not_be_called(given, fail_on, ok):
    trial = identical_trial(given, fail_on)
    assert trial.ok is ok
    assert bool(trial.advice) is not ok


@pytest.mark.parametrize(("code", "ok"), [(0, False), (1, False), (2, True), (3, True), (4, False), (None, False)])
def test_what_cannot_be_judged_must_be_refused(code, ok):
    trial = unfit_trial("empty folder", answer(code, "", said="perfkit: says why"))
    assert trial.ok is ok
    assert ("did not refuse" in trial.advice) is not ok


def test_the_second_look_is_believed_and_the_first_is_told():
    wrong, right = (identical_trial(answer(*said), "regression") for said in ((1, "inconclusive"), (0, "no_change")))
    assert believed(right, wrong) == right
    both = believed(wrong, right)
    assert (both.ok, both.got) == (True, "exit 0, no change (at first exit 1, inconclusive)")
    assert not believed(wrong, wrong).ok


def test_runs_that_may_not_be_judged_say_that_the_machine_is_too_weak(tmp_path):
    sides = made(Task(), str(tmp_path), None, invalid=True)
    trial = load_trial([run for runs in sides.values() for run in runs], 9.0)
    assert (trial.ok, trial.by_chance) == (False, True)
    assert trial.got == "6 of 6 invalid (generator_cpu)"
    assert "Use more workers." in trial.advice


def test_as_many_runs_are_made_as_the_policy_asks_for():
    assert Task().rounds == 2
    assert Task(required_runs=5).rounds == 5


# The gate itself ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    found = made(Task(), str(tmp_path_factory.mktemp("runs")), None)
    return {name: [Path(run.source) for run in runs] for name, runs in found.items()}


def test_the_command_line_refuses_the_slow_build_and_passes_the_identical_one(sides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slow = slowdown_trial(ask_gate(sides[BASELINE], sides[SLOWER]), 100, "regression")
    same = identical_trial(ask_gate(sides[BASELINE], sides[IDENTICAL]), "regression")
    assert (slow.ok, slow.got) == (True, "exit 1, regression")
    assert (same.ok, same.seconds > 0) == (True, True)


@pytest.mark.parametrize(
    ("policy", "options", "advice"),
    [
        (LOOSE, (), "and its tolerance is 1000 %"),
        (LOOSE, ("--rule", "threshold"), "and its tolerance is 1000 %"),
        ("", ("--fail-on", "never"), "--fail-on never ends with 0 whatever is seen"),
        ("required_runs = 9", (), "it said inconclusive"),
        ("[tolerance]\n" + "".join(f"{name} = 'off'\n" for name in LATENCIES), (), "judges no change of a latency"),
    ],
)
def test_a_broken_gate_is_found_out(sides, tmp_path, monkeypatch, policy, options, advice):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(policy)
    answer = ask_gate(sides[BASELINE], sides[SLOWER], (*options, "--policy", "policy.toml"))
    fail_on = "never" if "never" in options else "regression"
    trial = slowdown_trial(answer, 100, fail_on)
    assert not trial.ok
    assert "THE GATE LETS SLOWDOWNS THROUGH" in trial.advice
    assert advice in trial.advice


@pytest.mark.parametrize("required_runs", [1, 3])
@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_against_a_history_it_does_the_same(tmp_path, monkeypatch, required_runs, rule):
    """The simulated runs are the same everywhere: the identical ones are within 1 % of the level before them."""
    monkeypatch.chdir(tmp_path)
    histories = simulated_histories(Task(required_runs=required_runs), tmp_path / "history")
    comparisons = {}
    for name, (store, newest) in histories.items():
        runs = [read_run(path) for path in newest]
        before = HistoryPast(RunStore(store), candidates=tuple(runs))
        policy = Policy(rule=rule, required_runs=required_runs)
        comparisons[name] = judge_history(runs, before, policy)
    assert comparisons[SLOWER].verdict == "regression"
    assert comparisons[IDENTICAL].verdict == "no_change"
    changes = [
        f.change_pct for f in comparisons[IDENTICAL].findings if f.metric in ("avg_latency_ms", "p95_latency_ms")
    ]
    assert max(map(abs, changes)) < 1.0


def test_the_settings_of_the_folder_hold_as_they_do_in_a_pipeline(sides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text(LOOSE)
    assert ask_gate(sides[BASELINE], sides[SLOWER]).code == 0


def test_a_gate_that_alarms_on_identical_builds_is_found_out(tmp_path, monkeypatch):
    """Fixed limits of a fraction of a percent are below any noise."""
    monkeypatch.chdir(tmp_path)
    tight = "".join(f"{name} = 0.01\n" for name in LATENCIES)
    (tmp_path / "policy.toml").write_text(f"rule = 'threshold'\n[tolerance]\n{tight}")
    found = made(Task(), "runs", None, factor={IDENTICAL: 1.02})
    places = [[Path(run.source) for run in found[name]] for name in (BASELINE, IDENTICAL)]
    trial = identical_trial(ask_gate(*places, ("--policy", "policy.toml")), "regression")
    assert not trial.ok
    assert "CALLS IDENTICAL BUILDS A REGRESSION" in trial.advice


@pytest.mark.slow
def test_a_whole_self_test_on_runs_of_known_truth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    monkeypatch.setattr(selftest, "measure", made)
    found = self_test(Task(), tmp_path / "good", told.append)
    assert [trial.name for trial in found] == ["load", *BUILDS, *HISTORY, *REFUSED]
    assert [trial.name for trial in found if not trial.ok] == []
    assert not any("once more" in text for text in told)


@pytest.mark.slow
def test_what_may_be_chance_is_measured_again_before_it_is_believed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looks = []

    def measured(task, store, report):
        looks.append(store)
        return made(task, store, report, factor={IDENTICAL: 1.5} if len(looks) == 1 else None)

    told = []
    monkeypatch.setattr(selftest, "measure", measured)
    found = self_test(Task(), tmp_path / "work", told.append)
    assert len(looks) == 2
    assert any("not as expected: identical builds; measured once more" in text for text in told)
    assert all(trial.ok for trial in found)
    same = next(trial for trial in found if trial.name == "identical builds")
    assert "(at first exit 1, regression)" in same.got


# The command, with real load ------------------------------------------------------------------------------------------


def started(folder, *words):
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "perfkit", "check", *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PERFKIT_TEST_MARK": mark},
    )
    return process, mark


def marked(mark):
    """Command lines of all processes that inherited the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_the_whole_thing_with_real_load(tmp_path):
    process, mark = started(tmp_path, "--format", "json", "--keep", "kept")
    out, err = process.communicate(timeout=180)
    document = json.loads(out)
    assert process.returncode == 0, (out, err)
    assert document["schema"] == SCHEMA
    assert document["gate"]["ok"]
    assert [trial["name"] for trial in document["gate"]["trials"]] == [
        *("load", *BUILDS, *HISTORY, *REFUSED),
    ]
    assert "self-test: run 6 of 6: baseline build, 20 users for 3 s" in err
    assert marked(mark) == []
    assert len(list((tmp_path / "kept" / "runs").glob("2*"))) == 6


@pytest.mark.slow
@pytest.mark.alone
def test_a_tolerance_of_1000_percent_is_reported_as_a_gate_that_lets_slowdowns_through(tmp_path):
    (tmp_path / "loose.toml").write_text(LOOSE)
    process, _ = started(tmp_path, "--policy", "loose.toml")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 4
    assert "once more" not in err  # fresh runs would not help
    assert re.search(r"WRONG +slower by 100 % +exit 1, regression +exit 0", out)
    assert "THE GATE LETS SLOWDOWNS THROUGH: the average latency rose by" in out
    trials = len(("load", *BUILDS, *HISTORY, *REFUSED))
    assert f"THE GATE DOES NOT WORK: {trials - 2} of {trials} as expected" in out
    assert "error  blind  all services" in out


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_no_process_is_left(tmp_path, stop):
    process, mark = started(tmp_path)
    assert process.stderr is not None
    while "run 1 of 6" not in (line := process.stderr.readline()):
        assert line, "it ended before its first run"
    while not any("locust" in line for line in marked(mark)):
        assert process.poll() is None
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in err
    assert marked(mark) == []


def test_a_folder_to_keep_must_be_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    code, _, err = invoke("check", "--keep", "full")
    assert code == 2
    assert "full is not empty; name a new folder" in err


def test_a_self_test_is_as_good_as_its_worst_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good, bad = (unfit_trial("x", answer(code, "")) for code in (2, 0))
    for trials, code in (((good, good), 0), ((good, bad), 4)):
        monkeypatch.setattr(selftest, "self_test", lambda *_, trials=trials: trials)
        assert invoke("check")[0] == code
        assert json.loads(invoke("check", "--format", "json")[1])["gate"]["ok"] == (code == 0)
