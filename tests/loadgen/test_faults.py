"""What goes wrong in real load tests, done on purpose: each fault has its name, and what was measured is kept."""

from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import pytest
from generator_load import STARVED, own_problems, was_starved
from loopback import serving

import perfkit
from perfkit.config.settings import Scenario
from perfkit.loadgen.run import run_scenario
from perfkit.model.errors import LoadError
from perfkit.runs.store import RunStore

START = """
import os, time
import gevent
from locust import FastHttpUser, User, constant, constant_throughput, events, task

BEGUN = float("inf")

@events.test_start.add_listener
def begin(**_):
    global BEGUN
    BEGUN = time.monotonic()

class Caller(FastHttpUser):
    wait_time = constant(0.02)

    @task
    def call(self):
        self.client.get("/", name="front")
"""

FAULTS = {
    "a task that computes instead of waiting": (
        "event_loop_lag",
        "invalid",
        """
        class Busy(User):
            wait_time = constant(0.4)

            @task
            def compute(self):
                until = time.process_time() + 0.25
                while time.process_time() < until:
                    pass
        """,
    ),
    "a generator without a moment to spare": (
        "generator_cpu",
        "invalid",
        """
        class Busy(User):
            wait_time = constant(0)

            @task
            def compute(self):
                until = time.process_time() + 0.05
                while time.process_time() < until:
                    pass
                gevent.sleep(0)
        """,
    ),
    "a clock that is set": (
        "clock",
        "invalid",
        """
        true_time = time.time
        time.time = lambda: true_time() + (30.0 if time.monotonic() > BEGUN + 2 else 0.0)
        """,
    ),
    "a target that takes only seven of ten connections": (
        "connections",
        "invalid",
        """
        import random

        @task
        def call(self):
            dead = random.random() < 0.3
            self.client.get("http://127.0.0.1:9/" if dead else "/", name="front")

        Caller.call = call
        Caller.tasks = [call]
        """,
    ),
    "a target that fails for a while": (
        "error_burst",
        "warn",
        """
        @task
        def call(self):
            bad = 2.0 < time.monotonic() - BEGUN < 2.6
            self.client.get("/?status=500" if bad else "/", name="front")

        Caller.call = call
        Caller.tasks = [call]
        """,
    ),
    "a target that stands still": (
        "silence",
        "warn",
        """
        @task
        def call(self):
            self.client.get("/", name="front")
            if 2.0 < time.monotonic() - BEGUN:
                self.client.get("/?ms=2300", name="front")

        Caller.call = call
        Caller.tasks = [call]
        """,
    ),
    "a target that slows down": (
        "drift",
        "warn",
        """
        @task
        def call(self):
            self.client.get(f"/?ms={10 + int(8 * (time.monotonic() - BEGUN))}", name="front")

        Caller.call = call
        Caller.tasks = [call]
        """,
    ),
    "a process that is killed": (
        "interrupted",
        "invalid",
        """
        made = []

        @events.request.add_listener
        def die(**_):
            made.append(time.monotonic())
            if len(made) > 20 and made[-1] - made[0] > 2.5:  # the recorder writes once a second
                os.kill(os.getpid(), 9)
        """,
    ),
}


# Loads that mostly wait are made at the same time; what computes has the machine to itself
TOGETHER = (
    ("a task that computes instead of waiting",),
    ("a clock that is set", "a target that takes only seven of ten connections", "a process that is killed"),
    ("a target that fails for a while", "a target that stands still", "a target that slows down"),
)
NEEDS_A_PROCESSOR = "a generator without a moment to spare"  # which other tests would take away


def faulty_run(folder, fault):
    """The run of a load test with that fault, as it is stored."""
    folder.mkdir()
    (folder / "locustfile.py").write_text(START + dedent(FAULTS[fault][2]))
    store = RunStore(str(folder / "runs"))
    with serving() as server:
        scenario = Scenario("fault", folder / "locustfile.py", server.url, users=4, spawn_rate=4.0, duration_s=6.0)
        return store.get(run_scenario(scenario, store, {}).id)


def test_every_fault_is_tried():
    assert sorted([*(fault for faults in TOGETHER for fault in faults), NEEDS_A_PROCESSOR]) == sorted(FAULTS)


@pytest.mark.parametrize(
    "faults",
    [*TOGETHER, pytest.param((NEEDS_A_PROCESSOR,), marks=pytest.mark.alone)],
    ids=lambda faults: faults[0].replace(" ", "_"),
)
def test_each_fault_has_its_name_and_keeps_what_was_measured(tmp_path, faults):
    with ThreadPoolExecutor(len(faults)) as at_once:
        runs = [at_once.submit(faulty_run, tmp_path / str(number), fault) for number, fault in enumerate(faults)]
        for fault, run in zip(faults, runs, strict=True):
            check_fault(fault, run.result())


def check_fault(fault, run):
    name, severity, _ = FAULTS[fault]
    problems = {check.name: check for check in run.validity.problems}
    assert len(run.requests()) > 3 or was_starved(run), fault
    if name not in problems:
        # What the target does cannot be told from what the machine did to the generator, and the run says the latter;
        # of two reasons why a generator has too little of a machine it may say the other.
        assert severity == "warn" or name in STARVED, (fault, problems, run.validity.checks)
        assert was_starved(run), (fault, problems, run.validity.checks)
        return
    assert problems[name].severity == severity, fault
    assert problems[name].advice
    if severity == "invalid":
        assert perfkit.compare([run], [run]).verdict == "invalid"


def test_a_full_disk_is_told_and_what_was_written_can_be_read(tmp_path):
    file = tmp_path / "locustfile.py"
    file.write_text(START + "\nimport resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n")
    store = RunStore(str(tmp_path / "runs"))
    with serving() as server, pytest.raises(LoadError, match="could not be written"):
        run_scenario(Scenario("full", file, server.url, users=4, spawn_rate=4.0, duration_s=20.0), store, {})
    (folder,) = (tmp_path / "runs").iterdir()
    run = perfkit.read_run(folder)
    assert "interrupted" in {check.name for check in run.validity.problems}
    assert len(run.requests()) > 20


def test_a_run_without_fault_has_nothing_to_tell(tmp_path):
    file = tmp_path / "locustfile.py"
    file.write_text(START)
    with serving() as server:
        scenario = Scenario("good", file, server.url, users=4, spawn_rate=4.0, duration_s=6.0)
        run = run_scenario(scenario, RunStore(str(tmp_path / "runs")), {})
    assert own_problems(run) == set()
    made = {check.name for check in run.validity.checks}
    assert made >= {"interrupted", "load_reached", "generator_cpu", "event_loop_lag", "clock", "silence", "connections"}
    assert made >= {"requests", "errors", "error_burst", "drift", "recorded", "warm_up"}


ALWAYS_BUSY = """
from locust import FastHttpUser, task

class Caller(FastHttpUser):
    @task
    def call(self):
        self.client.get("/?ms=1500", name="front")
"""


def test_arrivals_that_never_ran_make_a_run_worthless(tmp_path):
    file = tmp_path / "locustfile.py"
    file.write_text(ALWAYS_BUSY)
    with serving() as server:
        scenario = Scenario("missed", file, server.url, rate=20.0, duration_s=2.0, max_in_flight=2)
        run = run_scenario(scenario, RunStore(str(tmp_path / "runs")), {})
    problems = {check.name: check.severity for check in run.validity.problems}
    assert problems["missed_arrivals"] == "invalid"
    assert problems["late_arrivals"] == "warn"
    assert problems["load_reached"] == "invalid"
