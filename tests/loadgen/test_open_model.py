"""Arrivals keep to their schedule, whatever the target does; what that shows and a closed loop hides."""

import csv
import random
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from generator_load import was_starved
from hypothesis import given
from hypothesis import strategies as st
from loopback import command, serving

from perfkit.config.settings import Scenario, parse_rate
from perfkit.loadgen.demo_services import Change, start_services
from perfkit.loadgen.locust_command import arrival_times
from perfkit.loadgen.locust_process import run_locust
from perfkit.loadgen.run import run_scenario
from perfkit.model.records import Stage
from perfkit.runs.recording_stream import read_recording
from perfkit.runs.store import RunStore

LOCUSTFILE = """
from locust import FastHttpUser, constant_throughput, task

class Caller(FastHttpUser):
    wait_time = constant_throughput(10)

    @task
    def call(self):
        self.client.get("/", name="front")
"""

STAGES = st.lists(
    st.builds(
        Stage,
        duration_s=st.floats(0.5, 50),
        begin=st.floats(0, 40),
        end=st.floats(0, 40),
    ),
    min_size=1,
    max_size=4,
)


@given(STAGES, st.integers(1, 5))
def test_processes_share_one_schedule(stages, share):
    whole = list(arrival_times(stages))
    expected = sum((stage.begin + stage.end) / 2 * stage.duration_s for stage in stages)
    assert abs(len(whole) - expected) <= 1
    assert all(0 <= at <= sum(stage.duration_s for stage in stages) for at in whole)
    assert all(before <= after for before, after in pairwise(whole))
    parts = [list(arrival_times(stages, share=share, index=index)) for index in range(share)]
    assert sorted(at for part in parts for at in part) == pytest.approx(whole)


def test_constant_arrivals_are_at_equal_distances():
    assert list(arrival_times([Stage(1.0, 4, 4), Stage(1.0, 2, 2)])) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.5])


def test_a_ramp_gets_denser_as_it_should():
    at = np.array(list(arrival_times([Stage(10.0, 0, 100)])))
    assert len(at) == 500
    assert np.searchsorted(at, 5.0) == pytest.approx(125, abs=1)  # a quarter of the arrivals in the first half


@pytest.mark.parametrize("share", [1, 3])
def test_poisson_arrivals_are_independent(share):
    stages = [Stage(2000.0, 10, 10)]
    parts = [list(arrival_times(stages, share=share, poisson=random.Random(seed))) for seed in range(share)]
    at = np.array(sorted(at for part in parts for at in part))
    gaps = np.diff(at)
    assert len(at) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.04)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


def opened(folder, source, server, rate="30/s", seconds=3, **more):
    """Run a locustfile under the open model; returns its rows and the last row about the generator."""
    asked = command(folder, source, server.url, rate=parse_rate(rate, "rate"), duration_s=seconds, **more)
    begin = time.monotonic()
    outcome = run_locust(asked)
    assert (outcome.interrupted, outcome.reason) == (False, None)
    assert time.monotonic() - begin < seconds + 15
    with (asked.folder / "source" / "generator.csv").open() as file:
        last = {name: float(value or 0) for name, value in list(csv.DictReader(file))[-1].items()}
    return read_recording(asked.recording).to_pandas(), last, asked


def test_every_arrival_is_one_task_at_its_time(tmp_path):
    with serving() as server:
        rows, last, _ = opened(tmp_path, LOCUSTFILE, server, "100/s", 3)
    assert len(rows) == last["scheduled"] == last["started"] == 300
    gaps = np.diff(np.sort(rows["start"]))
    assert np.allclose(gaps, 0.01, atol=1e-3)  # the schedule, not the send, which the machine may delay
    assert (rows["service_time_ms"] <= rows["response_time_ms"] + 1e-6).all()
    assert (rows["response_time_ms"] - rows["service_time_ms"] > 10).sum() == pytest.approx(last["late"], abs=3)


SLOW = """
from locust import FastHttpUser, constant, task

class Caller(FastHttpUser):
    wait_time = constant(100)

    @task
    def call(self):
        self.client.get("/?ms=1000", name="front")
"""


def test_arrivals_do_not_wait_for_answers(tmp_path):
    with serving() as server:
        rows, last, _ = opened(tmp_path, SLOW, server, "40/s", 3)
    assert len(rows) == last["scheduled"] == 120
    assert rows["response_time_ms"].median() < 1500  # forty under way at a time, and nobody queues for them
    assert (last["users"], last["in_flight"]) == (0, 0)


def test_beyond_the_limit_arrivals_wait_and_that_is_counted(tmp_path):
    with serving() as server:
        rows, last, _ = opened(tmp_path, SLOW, server, "20/s", 3, max_in_flight=10)
    assert len(rows) == last["scheduled"] == 60  # ten answers a second for twenty arrivals: the rest came afterwards
    assert rows["service_time_ms"].max() < 1500 < rows["response_time_ms"].max()
    assert last["late"] > 10


MANY = """
import gevent
from locust import FastHttpUser, TaskSet, SequentialTaskSet, constant, task

class Often(FastHttpUser):
    weight = 3
    wait_time = constant(5)

    def on_start(self):
        self.client.get("/login", name="login")

    @task
    class Inside(TaskSet):
        @task
        def call(self):
            self.client.get("/a", name="often")
            self.client.get("/b", name="then")
            self.interrupt()

class Seldom(FastHttpUser):
    weight = 1

    @task
    def fail(self):
        self.client.get("/c", name="seldom")
        self.wait()
        raise RuntimeError("a task that ends badly is still one arrival")

    def wait_time(self):
        return 0.3
"""


def test_ordinary_tasks_of_every_kind_work(tmp_path):
    with serving() as server:
        rows, last, _ = opened(tmp_path, MANY, server, "60/s", 4)
    counts = rows["service"].value_counts()
    assert counts["often"] == counts["then"]
    assert counts["often"] + counts["seldom"] == last["scheduled"] == 240
    assert counts["seldom"] == pytest.approx(60, abs=27)  # four standard deviations of a binomial
    assert rows.loc[rows["service"] == "often", "service_time_ms"].notna().all()
    assert rows.loc[rows["service"].isin(["then", "login"]), "service_time_ms"].isna().all()
    assert last["in_flight"] == 0


SHAPED = """
from locust import FastHttpUser, LoadTestShape, constant, task

class Caller(FastHttpUser):
    wait_time = constant(0.1)

    @task
    def call(self):
        self.client.get("/", name="front")

class Own(LoadTestShape):
    def tick(self):
        return (3, 3) if self.get_run_time() < 2 else None
"""


@pytest.mark.parametrize("load", [{"rate": 50.0, "duration_s": 30.0}, {"stages": (Stage(30, 9, 9),)}])
def test_a_shape_in_the_locustfile_still_wins(tmp_path, load):
    file = tmp_path / "locustfile.py"
    file.write_text(SHAPED)
    with serving() as server:
        run = run_scenario(Scenario("own", file, server.url, **load), RunStore(str(tmp_path / "runs")), {})
    assert run.profile.kind == "custom"
    assert "load_shape" in {check.name for check in run.validity.problems}
    assert 30 < run.services["front"].count < 75 or was_starved(run)


def test_stages_are_followed_and_summed_up_one_by_one(tmp_path):
    file = tmp_path / "locustfile.py"
    file.write_text(LOCUSTFILE)
    stages = (Stage(3, 2, 2), Stage(3, 8, 8), Stage(3, 1, 1))
    store = RunStore(str(tmp_path / "runs"))
    with serving() as server:
        run = run_scenario(Scenario("staged", file, server.url, stages=stages), store, {})
    assert [stage.name for stage in run.stages] == ["stage 1: 2 users", "stage 2: 8 users", "stage 3: 1 users"]
    rates = [stage.services["front"].rps for stage in run.stages]
    assert rates == pytest.approx([20, 80, 10], rel=0.4) or was_starved(run)
    assert store.get(run.id).stages == run.stages
    assert store.get(run.id).profile == run.profile


def stalled(folder, *, is_open, seconds, stall_s):
    """One run at 50 requests a second against a service that falls silent once, counted from its own start."""
    file = folder / "locustfile.py"
    file.write_text(LOCUSTFILE)
    load = {"rate": 50.0} if is_open else {"users": 5, "spawn_rate": 5.0}
    change = {"api_gateway": Change(stall_s=stall_s, stall_at_s=0.75 * seconds)}
    with start_services(change, seed=1, names=("api_gateway",)) as services:
        scenario = Scenario("stall", file, services.addresses["api_gateway"], duration_s=float(seconds), **load)
        return run_scenario(scenario, RunStore(str(folder / "runs")), {})


@pytest.mark.parametrize(
    ("seconds", "stall_s"), [(20, 2.0), pytest.param(60, 6.0, marks=pytest.mark.slow)], ids=["20s", "60s"]
)
def test_a_stall_shows_in_the_open_model_and_hides_in_the_closed(tmp_path, seconds, stall_s):
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    with ThreadPoolExecutor(2) as both:  # each is mostly waiting, as its users are
        running = [
            both.submit(stalled, tmp_path / name, is_open=name == "open", seconds=seconds, stall_s=stall_s)
            for name in ("open", "closed")
        ]
        opened, closed = (run.result() for run in running)
    share = stall_s / seconds  # of the arrivals meet the stall; of them, the slowest percent of all came first
    analytic_ms = 1000 * stall_s * (1 - 0.01 / share)
    p99 = [np.quantile(run.requests()["response_time_ms"], 0.99) for run in (opened, closed)]
    assert p99[0] == pytest.approx(analytic_ms, rel=0.10) or was_starved(opened)
    assert p99[1] < 150 or was_starved(closed)
    assert opened.requests()["service_time_ms"].notna().all()
