"""Real Locust with load scripts that go wrong, and settings that contradict the order: what the run says of it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from loopback import Loopback, serving
from samples import run as make_run

import perfkit
from perfkit.cli import main
from perfkit.config.settings import Scenario, load_settings
from perfkit.loadgen.locust_command import Distribution
from perfkit.loadgen.run import Execution, run_scenario, run_scenarios
from perfkit.model.codec import decode, encode
from perfkit.model.errors import LoadError, SettingsError
from perfkit.model.records import Run
from perfkit.model.script_errors import (
    ScriptErrors,
    SkippedRequests,
    TaskException,
    merged,
    short_text,
)
from perfkit.runs.store import RunStore

HEAD = """
import os, pathlib, signal, sys, time
import gevent
from locust import FastHttpUser, LoadTestShape, User, constant, events, task
from locust.exception import StopTest, StopUser

pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))

class Caller(FastHttpUser):
    wait_time = constant(0.02)
    asked = 0
"""


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as loopback:
        yield loopback


def measured(folder: Path, server: Loopback, body: str, *, abort=None, distribution=None, **load) -> Run:
    file = folder / "locustfile.py"
    file.write_text(HEAD + dedent(body).replace("\n", "\n    ") if body.startswith("\n@") else HEAD + body)
    scenario = Scenario("s", file, server.url, **({"users": 2, "spawn_rate": 100.0, "duration_s": 2.0} | load))
    return run_scenario(scenario, RunStore(str(folder / "runs")), {}, None, distribution, abort)


def checks(run: Run) -> dict[str, perfkit.model.records.Check]:
    return {check.name: check for check in run.validity.checks}


@pytest.mark.slow
def test_exceptions_after_failed_requests_leave_the_verdict_to_the_error_rate(tmp_path, server):
    body = """
    @task
    def broken(self):
        answer = self.client.get("/ok?status=500", name="/ok")
        assert answer.status_code == 200, "no answer"
"""
    run = measured(tmp_path, server, body)
    assert checks(run)["exceptions"].severity == "warn"
    assert "after a failed request" in checks(run)["exceptions"].advice
    assert run.services["/ok"].failures == run.services["/ok"].count


ALL_AT_ONCE = """
    @task
    def call(self):
        self.client.get("/ok")
        for name, taken in (("negative", -1.0), ("nan", float("nan")), ("inf", float("inf")), ("huge", 1e300)):
            fire = self.environment.events.request.fire
            fire(request_type="X", name=name, response_time=taken, response_length=0, exception=None, context={})
        assert 41 == 42, "wrong total of order 4711471147114711"

@events.test_start.add_listener
def prepare(**_):
    raise ValueError("no test data")

@events.quitting.add_listener
def judge(environment, **_):
    environment.process_exit_code = 7
"""


@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_load_script_gets_wrong_is_counted_and_named_and_the_rest_is_whole(tmp_path, server, workers):
    distribution = Distribution(workers, bind_port=0) if workers else None
    run = measured(tmp_path, server, ALL_AT_ONCE, distribution=distribution)
    made = checks(run)
    count = run.services["/ok"].count
    assert set(run.services) == {"/ok"}
    assert count == server.answered["/ok"] == len(run.requests())
    assert perfkit.read_run(run.source).services == run.services
    assert {name for name in ("interrupted", "recorded", "duration") if made[name].severity != "ok"} == set()

    assert made["exceptions"].severity == "invalid"
    assert "ended with AssertionError: wrong total of order …: " in made["exceptions"].advice
    assert "A listener of the locustfile failed " in made["exceptions"].advice
    assert "4711" not in (Path(run.source) / "source" / "script_errors.json").read_text()

    assert (made["skipped_requests"].severity, made["skipped_requests"].value) == ("warn", 4 * count)
    assert f"negative ({count})" in made["skipped_requests"].advice
    assert (made["exit_code"].value, made["exit_code"].severity) == (7, "warn")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "\n    @task\n    def call(self):\n        self.client.get('/ok' + undefined)\n",
            "NameError: name 'undefined'",
        ),
        pytest.param(
            "\n    def on_start(self):\n        raise KeyError('login')\n    @task\n    def call(self): pass\n",
            "its on_start ended with KeyError: 'login'",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["task", "on_start"],
)
def test_without_a_request_the_exception_is_named(tmp_path, server, body, says):
    with pytest.raises(LoadError, match="no request was made") as caught:
        measured(tmp_path, server, body)
    assert says in str(caught.value)


CALL = """
    @task
    def call(self):
        self.client.get("/ok")
        self.asked += 1
"""
SHAPE = """
class Steps(LoadTestShape):
    def tick(self):
        return (2, 100) if self.get_run_time() < LENGTH else None
"""
BY_SCRIPT = "s of 30 s by the locustfile"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (CALL + "        if self.asked > 30: self.environment.runner.quit()\n", BY_SCRIPT),
        pytest.param(CALL + "        if self.asked > 30: raise StopUser\n", BY_SCRIPT, marks=pytest.mark.slow),
        pytest.param(
            CALL + "        if self.asked > 30: raise StopTest('enough')\n", BY_SCRIPT, marks=pytest.mark.slow
        ),
        pytest.param(
            CALL + "        if self.asked > 30: self.environment.runner.stop()\n", BY_SCRIPT, marks=pytest.mark.slow
        ),
        pytest.param(
            CALL + "        if self.asked > 30: sys.exit(0)\n",
            f"{BY_SCRIPT}, with exit code 0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            CALL + "        if self.asked > 30: self.environment.runner.quit()\n" + SHAPE.replace("LENGTH", "20"),
            "s by the locustfile, before its load shape did",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["quit", "StopUser", "StopTest", "stop", "sys.exit", "in a shape"],
)
def test_a_run_that_ends_itself_before_its_time_is_invalid(tmp_path, server, body, says):
    run = measured(tmp_path, server, body, duration_s=30.0)
    check = checks(run)["duration"]
    assert check.severity == "invalid"
    assert str(check.value).startswith("ended after ")
    assert str(check.value).endswith(says)
    assert server.answered["/ok"] - 2 <= run.services["/ok"].count <= server.answered["/ok"]  # sys.exit waits for none


@pytest.mark.slow
def test_a_shape_of_the_users_own_may_end_the_run(tmp_path, server):
    run = measured(tmp_path, server, CALL + SHAPE.replace("LENGTH", "1.5"), duration_s=30.0)
    assert checks(run)["duration"].severity == "ok"
    assert checks(run)["load_shape"].severity == "warn"


def test_a_frozen_generator_is_not_taken_for_a_silent_target(tmp_path, server):
    """It is stopped when it has made requests, and goes on by itself two seconds later."""
    frozen: list[int] = []

    def freeze(progress):
        if progress.requests > 20 and not frozen:
            frozen.append(int((tmp_path / "pid").read_text()))
            os.kill(frozen[0], signal.SIGSTOP)
            # a child that sleeps, because nobody here is called while Locust stands still
            os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", f"sleep 2; kill -CONT {frozen[0]}")

    run = measured(tmp_path, server, CALL, abort=freeze, duration_s=5.0)
    check = checks(run)["generator_stalled"]
    assert frozen
    assert check.severity == "invalid"
    assert check.value >= 1.9
    assert "The load generator itself (generator) stood still" in check.advice
    assert "stopped, its container paused, or its CPU taken away" in check.advice
    assert checks(run)["silence"].severity == "ok"


def test_a_killed_locust_is_exit_3_and_ends_no_sequence(tmp_path, server, monkeypatch, capsys):
    (tmp_path / "locustfile.py").write_text(
        HEAD + CALL + "        if self.asked > 100: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["run", "s", "--locustfile", "locustfile.py", "--host", server.url, "--users", "1", "--duration", "30s"]
    code = main([*words, "--repeat", "2", "--store", "runs"], sys.stdout, sys.stderr)
    said = capsys.readouterr().err
    assert code == 3
    assert said.count("Locust was ended by SIGKILL (SIGKILL often means: out of memory)") == 2
    assert len(list(Path("runs").glob("2*"))) == 2


CONTRARY = {
    "LOCUST_HOST": "http://127.0.0.1:1",
    "LOCUST_USERS": "9",
    "LOCUST_SPAWN_RATE": "0.1",
    "LOCUST_RUN_TIME": "1h",
    "LOCUST_HEADLESS": "false",
    "LOCUST_HEADFUL": "true",
    "LOCUST_AUTOSTART": "true",
    "LOCUST_MODE_MASTER": "true",
    "LOCUST_MODE_WORKER": "true",
    "LOCUST_PROCESSES": "2",
    "LOCUST_EXPECT_WORKERS": "7",
    "LOCUST_MASTER_NODE_PORT": "none",
    "LOCUST_TAGS": "nothing",
    "LOCUST_CSV": "elsewhere",
    "LOCUST_LOGFILE": "elsewhere.log",
    "LOCUST_LOCUSTFILE": "nowhere.py",
    "LOCUST_USER_CLASSES": "Nobody",
    "LOCUST_STOP_TIMEOUT": "3000",
}
DECLARES = """
@events.init_command_line_parser.add_listener
def declare(parser):
    parser.add_argument("--my-arg", type=int, default=1)
    parser.add_argument("--from-shell", env_var="LOCUST_FROM_SHELL", default="")
    parser.add_argument("--from-file", default="")
"""
NAMED = """
    @task
    def call(self):
        options = self.environment.parsed_options
        self.client.get("/ok", name=f"/{options.my_arg}{options.from_shell}{options.from_file}")
"""


@pytest.mark.parametrize("workers", [None, pytest.param("2", marks=pytest.mark.slow)])
def test_settings_of_locust_from_elsewhere_change_no_order(tmp_path, server, monkeypatch, capsys, workers):
    for name, value in (CONTRARY | {"LOCUST_FROM_SHELL": "s"}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "locustfile.py").write_text(HEAD + NAMED + DECLARES)
    (tmp_path / "locust.conf").write_text("users = 9\nworker = true\nhost = http://127.0.0.1:1\nfrom-file = f\n")
    monkeypatch.chdir(tmp_path)
    words = ["run", "s", "--locustfile", "locustfile.py", "--host", server.url, "--users", "2", "--spawn-rate", "9"]
    words += ["--duration", "2s", "--store", "runs", *(["--workers", workers] if workers else [])]
    code = main([*words, "--", "--my-arg", "3"], sys.stdout, sys.stderr)
    said = capsys.readouterr().err
    (folder,) = Path("runs").glob("2*")
    run = perfkit.read_run(folder)
    assert code == (0 if run.validity.ok else 3)
    assert set(run.services) == {"/3sf"}
    assert run.services["/3sf"].failures == 0
    assert checks(run)["load_reached"].value == 2
    ignored = checks(run)["locust_settings"].value
    assert set(ignored.split(", ")) == {*CONTRARY, *(f"{key} in locust.conf" for key in ("users", "worker", "host"))}
    assert f"ignored: {ignored}" in said
    assert sorted(path.name for path in tmp_path.glob("elsewhere*")) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--users", "3"], "Locust's --users cannot be handed on: say --users"),
        (["-u3"], "Locust's -u cannot be handed on"),
        (["--run-time=3s"], "Locust's --run-time cannot be handed on: say --duration"),
        (["--master"], "Locust's --master cannot be handed on: say --workers or --master"),
        (["--headless"], "Locust's --headless cannot be handed on"),
    ],
)
def test_arguments_that_contradict_the_order_are_refused_by_name(tmp_path, monkeypatch, capsys, arguments, says):
    (tmp_path / "locustfile.py").write_text(HEAD + CALL)
    monkeypatch.chdir(tmp_path)
    words = ["run", "s", "--locustfile", "locustfile.py", "--host", "http://127.0.0.1:1", "--duration", "2s"]
    assert main([*words, "--", *arguments], sys.stdout, sys.stderr) == 2
    assert says in capsys.readouterr().err


def test_arguments_that_locust_does_not_know_are_wrong_usage(tmp_path, server):
    with pytest.raises(SettingsError, match=r"Locust refuses its arguments: unrecognized arguments: --my-ar"):
        measured(tmp_path, server, CALL + DECLARES, arguments=("--my-ar", "3"))
    assert not list((tmp_path / "runs").glob("*/started.json"))


def test_arguments_stand_in_the_settings_too(tmp_path):
    file = tmp_path / "perfkit.toml"
    file.write_text('[scenario.s]\nlocustfile = "l.py"\narguments = ["--my-arg", "3"]\n')
    assert load_settings(file).scenario("s").arguments == ("--my-arg", "3")
    file.write_text('[scenario.s]\nlocustfile = "l.py"\narguments = ["--processes", "3"]\n')
    with pytest.raises(SettingsError, match=r"\[scenario.s\]: Locust's --processes cannot be handed on"):
        load_settings(file)


def test_what_workers_counted_is_one_sum():
    one = ScriptErrors(
        10, 2, (TaskException("task", "KeyError", "first", 3, 1),), (SkippedRequests("m", "negative", 2),)
    )
    two = ScriptErrors(
        20,
        3,
        (TaskException("task", "ValueError", "x", 9), TaskException("task", "KeyError", "second", 4)),
        (SkippedRequests("m", "negative", 5), SkippedRequests("n", "infinite", 1)),
    )
    assert merged([one, decode(json.loads(json.dumps(encode(two))), ScriptErrors, "here")]) == ScriptErrors(
        30,
        5,
        (TaskException("task", "ValueError", "x", 9), TaskException("task", "KeyError", "first", 7, 1)),
        (SkippedRequests("m", "negative", 7), SkippedRequests("n", "infinite", 1)),
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("wrong total 42", "wrong total 42"),
        ("user 1234567: gone", "user …: gone"),
        ("session 3f2b8c9d-11aa-4b3e-9c55-0d1e2f3a4b5c", "session …"),
        ("first\nsecond", "first"),
        ("\x1b[31mred\x07", "[31mred"),
        ("", ""),
        ("word " * 100, ("word " * 100)[:119] + "…"),
    ],
)
def test_a_message_is_one_short_line_without_ids(text, kept):
    assert short_text(text) == kept


def test_only_a_signal_to_perfkit_stops_a_sequence(tmp_path):
    assert run_scenarios((), str(tmp_path)) == ()
    for reason, stopped in (("stopped by Ctrl-C", True), ("Locust was ended by SIGKILL", False), ("aborted", False)):
        bad = perfkit.model.records.Check("interrupted", reason, "no", perfkit.model.records.Severity.INVALID)
        run = make_run({}, validity=perfkit.Validity((bad,)))
        assert Execution("s", run.started_at, run.started_at, run).stopped is stopped
