"""``perfkit run`` for real: Locust, the demo services, run folders, interruptions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from generator_load import own_problems, was_starved

import perfkit
from perfkit.cli import main

SETTINGS = """
store = "runs"
[scenario.short]
locustfile = "shape.py"
[scenario.broken]
locustfile = "gone.py"
"""

SHAPE = """
from locust import FastHttpUser, LoadTestShape, constant, task
import os

class Caller(FastHttpUser):
    host = os.environ["TARGET"]
    wait_time = constant(0.05)

    @task
    def call(self):
        self.client.get("/", name="front")

class Steps(LoadTestShape):
    def tick(self):
        return (4, 4) if self.get_run_time() < 2 else None
"""


def run(*words: str | Path) -> int:
    return main(["run", *map(str, words)], sys.stdout, sys.stderr)


def test_a_rise_that_makes_stages_of_one_level_is_said_before_the_load(tmp_path, monkeypatch, capsys):
    (tmp_path / "shape.py").write_text(SHAPE)
    monkeypatch.chdir(tmp_path)
    words = ["one", "--locustfile", "shape.py", "--host", "http://127.0.0.1:9", "--users", "20", "--duration", "10s"]
    assert run(*words, "--spawn-rate", "5") == 4  # nobody answers there: after the warning, before any load
    assert "! one: users rise for 0:04 of 0:10" in capsys.readouterr().err
    assert run(*words, "--spawn-rate", "10") == 4
    assert "users rise" not in capsys.readouterr().err


@pytest.fixture
def target() -> Iterator[str]:
    from perfkit.loadgen.demo_services import start_services

    with start_services(names=("api_gateway",), seed=1) as services:
        yield services.addresses["api_gateway"]


def test_a_run_leaves_a_folder_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        "baseline", "--users", "8", "--spawn-rate", "8", "--duration", "4s", "--store", tmp_path, "--label", "b=1"
    )
    said = capsys.readouterr()
    (folder,) = tmp_path.iterdir()
    read = perfkit.read_run(folder)
    requests = read.requests()
    assert code == (0 if read.validity.ok else 3), said.err
    assert f"-> {folder}" in said.out
    assert "users 8/8" in said.out or "users 0/8" in said.out
    assert {"run.json", "requests.parquet", "source"} == {item.name for item in folder.iterdir()}
    assert read.id == folder.name
    assert own_problems(read) == set()
    assert read.labels == {"b": "1"}
    assert read.profile == perfkit.LoadProfile("steady", 8, 8.0, 4.0)
    assert set(read.services) == {"api_gateway", "rag_service", "mcp_server"}
    assert requests is not None
    assert len(requests) == sum(stats.count or 0 for stats in read.services.values())
    assert (requests["response_time_ms"] % 1 > 0).mean() > 0.9  # not rounded
    assert read.services["mcp_server"].p50_latency_ms == pytest.approx(240, rel=0.3) or was_starved(read)
    assert read.services["api_gateway"].response_bytes == 256
    assert read.services["api_gateway"].p999_latency_ms is None
    locusts_own = perfkit.read_run(folder / "source")
    # Locust writes its files once a second, and not once more at the end.
    assert 0 < (locusts_own.services["api_gateway"].count or 0) <= (read.services["api_gateway"].count or 0)


def test_all_runs_the_files_scenarios_and_records_what_failed(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TARGET", target)
    (tmp_path / "perfkit.toml").write_text(SETTINGS)
    (tmp_path / "shape.py").write_text(SHAPE)
    code = run("--all")
    record = json.loads((tmp_path / "test_execution_metadata.json").read_text())
    assert code == 4
    assert "gone.py: there is no such locustfile" in capsys.readouterr().err
    assert record["schema"] == "perfkit.execution/1"
    read = perfkit.read_run(record["executions"][0]["folder"])
    assert own_problems(read) == set()
    status = "ok" if read.validity.ok else "invalid"
    assert [item["status"] for item in record["executions"]] == [status, "failed"]
    assert record["executions"][0]["requests"] > 50
    assert "gone.py" in record["executions"][1]["error"]
    assert read.profile.kind == "custom"
    assert list(read.services) == ["front"]


@contextmanager
def started(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of a minute, caught when it has shown its first progress (so requests are flowing)."""
    words = ["baseline", "--users", "20", "--spawn-rate", "20", "--duration", "60s", "--store", str(store)]
    command = [sys.executable, "-m", "perfkit", "run", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes) as process:
        assert process.stdout is not None
        while "users 20/20" not in (line := process.stdout.readline()):
            assert line, "the run ended before its users ran"
        try:
            yield process
        finally:
            process.kill()


def test_kill_nine_keeps_the_requests_and_no_comparison_takes_the_run(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        process.kill()
        process.wait()
    (folder,) = tmp_path.iterdir()
    read = perfkit.read_run(folder)
    requests = read.requests()
    assert not (folder / "run.json").exists()
    assert requests is not None
    assert len(requests) > 20
    # The demo services die with the run, so Locust may have met no server before it noticed
    bad = {check.name for check in read.validity.problems if check.severity == "invalid"}
    assert "interrupted" in bad
    assert own_problems(read) <= {"interrupted", "connections"}
    assert perfkit.compare([folder], [folder]).verdict is perfkit.Verdict.INVALID
    assert perfkit.RunStore(tmp_path).ids() == []
    assert perfkit.RunStore(tmp_path).unfinished() == [folder.name]


def test_ctrl_c_ends_in_order_and_marks_the_run(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    (folder,) = tmp_path.iterdir()
    read = perfkit.read_run(folder)
    assert process.returncode == 130
    assert "interrupted" in err
    assert (folder / "run.json").is_file()
    assert not read.validity.ok
    assert read.requests() is not None


def test_ctrl_c_before_the_first_request_ends_the_sequence(tmp_path: Path) -> None:
    words = ["run", "baseline", "--duration", "5s", "--repeat", "3", "--store", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "perfkit", *words], stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("*/source/locust.log")):  # Locust is starting, and takes a second or two for it
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped by Ctrl-C before its first request; nothing was measured" in err
    assert perfkit.RunStore(tmp_path).ids() == []
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_measures_nothing_leaves_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "idle.py").write_text(
        "from locust import User, constant, task\n"
        "class Idle(User):\n    wait_time = constant(0.1)\n    @task\n    def nothing(self): pass\n"
    )
    words = (
        "idle",
        "--locustfile",
        tmp_path / "idle.py",
        "--users",
        "1",
        "--duration",
        "1s",
        "--store",
        tmp_path / "runs",
    )
    assert run(*words) == 4
    assert "no request was made" in capsys.readouterr().err
    store = perfkit.RunStore(tmp_path / "runs")
    assert store.ids() == store.unfinished() == []


def test_a_remote_store_gets_the_whole_run(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGET", target)
    (tmp_path / "shape.py").write_text(SHAPE)
    assert run("short", "--locustfile", tmp_path / "shape.py", "--store", "memory://perfkit-test") == 0
    store = perfkit.RunStore("memory://perfkit-test")
    (run_id,) = store.ids()
    requests = store.get(run_id).requests()
    assert requests is not None
    assert len(requests) == store.get(run_id).services["front"].count


def test_a_store_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("")
    assert run("baseline", "--duration", "2s", "--store", tmp_path / "runs") == 4
    assert "cannot be written: Not a directory; choose another store" in capsys.readouterr().err


def test_a_disk_that_fills_up_at_the_end_loses_no_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perfkit.loadgen.run.finish_recording", full)
    assert run("baseline", "--users", "8", "--spawn-rate", "8", "--duration", "3s", "--store", tmp_path) == 4
    assert re.search(
        r"No space left on device; the \d+ requests that were recorded can be read", capsys.readouterr().err
    )
    (folder,) = tmp_path.iterdir()
    kept = perfkit.read_run(folder)
    assert len(kept.requests()) > 10
    assert "interrupted" in [check.name for check in kept.validity.problems]


def test_the_demo_services_serve_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "perfkit", "demo", "--serve", "--inject", "api_gateway:error_rate_pct=100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        addresses = dict(serving.stdout.readline().split() for _ in range(3))
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            urllib.request.urlopen(addresses["api_gateway"])
        caught.value.close()
        with urllib.request.urlopen(addresses["rag_service"]) as answer:
            assert json.load(answer)["service"] == "rag_service"
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=20)
    assert serving.returncode == 0
    assert set(addresses) == {"api_gateway", "rag_service", "mcp_server"}


@pytest.mark.slow
@pytest.mark.alone
def test_the_demo_finds_what_was_injected(tmp_path: Path) -> None:
    """Real load on a machine that others use too: a second attempt is allowed, a third would hide a fault."""
    command = [sys.executable, "-m", "perfkit", "demo"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert "api_gateway (as injected, and nothing else)" in done.stdout
    report = sorted(tmp_path.glob("reports/*-compare"))[-1]
    assert json.loads((report / "result.json").read_text())["verdict"] == "regression"
    assert (report / "report.html").stat().st_size <= 6_000_000


@pytest.mark.parametrize("url", ["runs", "memory://perfkit-once"])
def test_requests_are_read_once_on_the_way_to_a_report(
    target: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`perfkit run` reads its recording once, and the file that it wrote once; so does a report."""
    import pyarrow.parquet

    from perfkit.report.display import response_times
    from perfkit.report.figure import requests_of_all

    read: list[str] = []

    class CountedFile(pyarrow.parquet.ParquetFile):
        def __init__(self, source: object, **options: object) -> None:
            read.append("requests.parquet")
            super().__init__(source, **options)

    opened = pyarrow.OSFile

    def counted_file(path: str, *mode: str) -> object:
        read.extend(name for name in ["requests.arrow"] if path.endswith(name))
        return opened(path, *mode)

    monkeypatch.setattr(pyarrow, "OSFile", counted_file)
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", CountedFile)
    monkeypatch.setenv("TARGET", target)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shape.py").write_text(SHAPE)
    assert run("short", "--locustfile", tmp_path / "shape.py", "--store", url) == 0
    assert read == ["requests.arrow", "requests.parquet"]
    stored = perfkit.RunStore(url)[0]
    assert response_times([stored]) is not None
    assert requests_of_all([stored], "front")
    assert requests_of_all([stored], "back") == ()
    assert read == ["requests.arrow", "requests.parquet", "requests.parquet"]
    assert len(stored.requests()) == len(stored.requests())  # a frame is for analysts
    assert read.count("requests.parquet") == (3 if url == "runs" else 2)  # from elsewhere it was one already
