"""Many processes make one run: nothing is lost, nothing counted twice, and a worker that dies is named."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from generator_load import own_problems, was_starved
from loopback import serving

from perfkit.config.settings import Scenario
from perfkit.loadgen.locust_command import Distribution
from perfkit.loadgen.run import run_scenario
from perfkit.loadgen.service_under_test import free_port
from perfkit.model.errors import LoadError
from perfkit.runs.store import RunStore

LOCUSTFILE = """
import os, pathlib
from locust import FastHttpUser, constant, task

pathlib.Path(__file__).with_name(f"pid.{os.getpid()}").touch()

class Caller(FastHttpUser):
    wait_time = constant(0.02)

    @task
    def call(self):
        self.client.get(f"/{os.getpid()}", name="front")
"""


def distributed(folder, source=LOCUSTFILE, on_progress=None, distribution=None, **load):
    file = folder / "locustfile.py"
    file.write_text(source)
    store = RunStore(str(folder / "runs"))
    distribution = distribution or Distribution(2, bind_port=0)
    with serving() as server:
        scenario = Scenario("many", file, server.url, **load)
        run = run_scenario(scenario, store, {}, on_progress, distribution)
        return run, server


@pytest.mark.parametrize(
    "load",
    [{"users": 8, "spawn_rate": 8.0, "duration_s": 4.0}, {"rate": 80.0, "duration_s": 4.0}],
    ids=["closed", "open"],
)
def test_the_run_is_the_union_of_what_all_workers_measured(tmp_path, load):
    run, server = distributed(tmp_path, **load)
    requests = run.requests()
    assert len(requests) == sum(server.answered.values()) == run.services["front"].count
    assert len(server.answered) == 2  # both processes made requests
    assert min(server.answered.values()) > 0.3 * max(server.answered.values()) or was_starved(run)
    assert own_problems(run) == set()
    checks = {check.name: check for check in run.validity.checks}
    assert checks["workers"].value == 2
    assert checks["recorded"].value == len(requests)
    steady = requests[requests["start"] >= requests["start"].max() - run.duration_s + 1e-3]
    if checks["warm_up"].value.startswith("0.0"):
        assert run.services["front"].p95_latency_ms == pytest.approx(
            np.quantile(steady["response_time_ms"], 0.95),
            rel=0.02,  # the first hundredths of a second may be cut
        )
    if "rate" in load:
        assert len(requests) == 320
        # Each worker begins when its users are ready
        assert np.ptp(requests["start"]) == pytest.approx(4.0, abs=0.8) or was_starved(run)


def test_a_worker_that_dies_is_named_and_the_rest_is_kept(tmp_path):
    killed = []

    def kill_one(progress):
        if progress.requests > 50 and not killed:
            pids = sorted(int(path.suffix[1:]) for path in tmp_path.glob("pid.*"))
            killed.append(pids[-1])  # the master is the first
            os.kill(pids[-1], signal.SIGKILL)

    run, server = distributed(tmp_path, on_progress=kill_one, users=8, spawn_rate=8.0, duration_s=9.0)
    problems = {check.name: check for check in run.validity.problems}
    assert killed
    assert problems["workers"].severity == "invalid"
    assert "worker" in problems["workers"].advice
    survivor = max(server.answered, key=server.answered.get)
    assert len(run.requests()) >= server.answered[survivor]


def test_a_worker_that_cannot_start_ends_the_run_at_once(tmp_path):
    source = LOCUSTFILE + "\nimport sys\nassert '--worker' not in sys.argv, 'no worker today'\n"
    with pytest.raises(LoadError, match="no worker today"):
        distributed(tmp_path, source, users=2, duration_s=5.0)


def test_ctrl_c_keeps_what_all_workers_had_measured(tmp_path):
    asked = []

    def interrupt(progress):
        if progress.requests > 100 and not asked:
            asked.append(progress.requests)
            os.kill(os.getpid(), signal.SIGINT)

    run, server = distributed(tmp_path, on_progress=interrupt, users=8, spawn_rate=8.0, duration_s=60.0)
    assert "interrupted" in {check.name for check in run.validity.problems}
    assert len(run.requests()) == sum(server.answered.values())


def test_workers_of_other_addresses_ship_what_they_record(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "perfkit", "run", "many", "--locustfile", str(tmp_path / "locustfile.py")]
    where = ["--worker", "--master-host", "127.0.0.2", "--master-port", str(port), "--rate", "60/s", "--duration", "3s"]
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    workers = [
        subprocess.Popen([*command, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)
    ]
    watchdog = threading.Timer(240, lambda: [worker.kill() for worker in workers])
    watchdog.start()
    try:
        away = Distribution(2, local=False, bind_host="127.0.0.2", bind_port=port)
        run, server = distributed(tmp_path, distribution=away, rate=60.0, duration_s=3.0)
        codes = [worker.wait(timeout=60) for worker in workers]
    finally:
        watchdog.cancel()
        for worker in workers:
            worker.kill()
    assert len(run.requests()) == sum(server.answered.values()) == 180
    assert codes == [0, 0]
    assert own_problems(run) == set()
