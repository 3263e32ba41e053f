"""The simulator: what it computes is what its models say, and what it writes is what Locust would have written."""

import csv
import json
import math
import re
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from loopback import serving

import perfkit
from perfkit.config.settings import BUILT_IN, Scenario
from perfkit.loadgen import simulate
from perfkit.loadgen.demo_services import MODELS, Change
from perfkit.loadgen.locust_file_writer import ENDINGS
from perfkit.loadgen.simulate import simulate_files, simulate_requests
from perfkit.model.errors import LoadError, SettingsError, StoreError
from perfkit.runs.locust_csv import resolution

START = datetime(2025, 10, 17, 14, 30, 4, tzinfo=UTC)
SMALL = replace(BUILT_IN["baseline"], name="small", users=10, spawn_rate=2.0, duration_s=40.0)
MEAN_OVER_MEDIAN = {name: math.exp(model.sigma**2 / 2) for name, model in MODELS.items()}  # of a log-normal


def steady(users, seconds, weights="api_gateway=1,rag_service=1,mcp_server=1"):
    environment = {"PERFKIT_DEMO_WEIGHTS": weights}
    return replace(SMALL, users=users, spawn_rate=float(users), duration_s=float(seconds), environment=environment)


def simulated(scenario, seed=1, **more):
    return simulate_requests(scenario, seed, started_at=START, **more)


def means(frame):
    return frame.groupby("service")["response_time_ms"].mean()


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(paths):
    """What was written: the prefix of all names, Locust's files, and the metrics."""
    *csvs, metrics = paths
    return SimpleNamespace(prefix=metrics.with_suffix(""), files=csvs, metrics=metrics)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    changes = {"rag_service": Change(error_rate_pct=20.0)}
    return files(simulate_files(SMALL, 1, tmp_path_factory.mktemp("simulated"), started_at=START, changes=changes))


@pytest.fixture(scope="module")
def frame():
    return simulated(SMALL, changes={"rag_service": Change(error_rate_pct=20.0)})


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The prefix of the files of a real Locust run, with failures, of two seconds.

    It ends itself: --run-time counts from when Locust began to import itself.
    """
    folder = tmp_path_factory.mktemp("real")
    source = """
import time
from locust import FastHttpUser, constant, task

class User(FastHttpUser):
    wait_time = constant(0.01)

    def on_start(self):
        self.end = time.monotonic() + 2.2

    @task
    def call(self):
        if time.monotonic() > self.end:
            self.environment.runner.quit()
        self.client.get("/", name="api_gateway")
        self.client.get("/?status=500", name="rag_service")
"""
    (folder / "locustfile.py").write_text(source)
    with serving() as server:
        options = ["--headless", "-u", "1", "-H", server.url, "--csv", "real", "--exit-code-on-error", "0"]
        command = [sys.executable, "-m", "locust", *options]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder / "real"


# What is written


def test_has_the_promised_names_and_leaves_nothing_else(written):
    assert re.fullmatch(r"load_results_small_\d{8}_\d{6}", written.prefix.name)
    assert written.prefix.name == "load_results_small_20251017_143004"
    assert [path.name.removeprefix(written.prefix.name) for path in written.files] == list(ENDINGS)
    assert written.metrics == Path(f"{written.prefix}.json")
    assert set(written.prefix.parent.iterdir()) == {*written.files, written.metrics}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_header_is_that_of_a_real_locust_run(written, real, ending):
    ours, theirs = (
        Path(f"{prefix}{ending}").read_bytes().splitlines(keepends=True)[0] for prefix in (written.prefix, real)
    )
    assert ours == theirs
    assert len(ours.split(b",")) >= 4


VARYING = ("Name", "Median Response Time", "Total Median Response Time")


@pytest.mark.parametrize("ending", ["_stats.csv", "_stats_history.csv", "_failures.csv"])
def test_the_rows_look_like_those_of_a_real_locust_run(written, real, ending):
    ours, theirs = (table(Path(f"{prefix}{ending}")) for prefix in (written.prefix, real))
    for column in ("Type", "Method", "Name", "Error"):
        theirs_here = {row[column] for row in theirs if column in row}
        assert theirs_here <= {row[column] for row in ours if column in row}
    # a median that rounding puts below the minimum is written as the exact minimum, with decimals
    last = [{name: text for name, text in rows[-1].items() if name not in VARYING} for rows in (ours, theirs)]
    shapes = [{name: re.sub(r"\d+", "9", text) for name, text in row.items()} for row in last]
    assert shapes[0] == shapes[1]


def test_the_history_starts_like_that_of_a_real_locust_run(written, real):
    ours, theirs = (table(Path(f"{prefix}_stats_history.csv"))[0] for prefix in (written.prefix, real))
    assert {**ours, "Timestamp": ""} == {**theirs, "Timestamp": ""}


def test_the_history_counts_users_as_they_are_spawned(written):
    rows = table(written.files[0])
    assert [int(row["Timestamp"]) for row in rows] == [int(START.timestamp()) + second for second in range(41)]
    assert [int(row["User Count"]) for row in rows] == [0, 2, 4, 6, 8] + 36 * [10]


def test_the_history_counts_requests_when_they_end(written, frame):
    ends = frame["start"] + frame["response_time_ms"] / 1000 - START.timestamp()
    for second, row in enumerate(table(written.files[0])):
        ended = frame[ends <= second]
        assert int(row["Total Request Count"]) == len(ended)
        assert int(row["Total Failure Count"]) == ended["failed"].sum()


def test_a_slow_spawn_rate_starts_one_user_at_a_time():
    slow = simulated(replace(SMALL, users=3, spawn_rate=0.5))
    seconds = slow["start"] - START.timestamp()
    assert seconds.iloc[0] == 0
    busy = [len(slow[(seconds >= at) & (seconds < at + 2)]) for at in (0, 2, 4)]
    assert busy[0] < busy[1] < busy[2]
    assert simulate.users_per_second(replace(SMALL, users=3, spawn_rate=0.5))[:6] == [0, 1, 1, 2, 2, 3]
    assert simulate.users_per_second(replace(SMALL, users=3, spawn_rate=None))[:5] == [0, 1, 2, 3, 3]


def test_perfkit_reads_back_what_was_simulated(written, frame):
    run = perfkit.read_run(written.files[-1])
    assert (run.profile.users, run.duration_s, run.started_at) == (10, 40.0, START)
    assert set(run.services) == set(MODELS)
    for name, requests in frame.groupby("service"):
        stats, p95 = run.services[name], requests["response_time_ms"].quantile(0.95)
        assert (stats.count, stats.failures) == (len(requests), requests["failed"].sum())
        assert stats.avg_latency_ms == pytest.approx(requests["response_time_ms"].mean(), rel=1e-9)
        assert stats.p95_latency_ms == pytest.approx(p95, abs=resolution(p95))
        assert stats.rps == pytest.approx(len(requests) / 40, rel=0.01)
        assert stats.response_bytes == 256


def test_failures_carry_first_and_last_time(written, frame):
    failed = frame[frame["failed"]]
    (row,) = [row for row in table(written.files[1]) if row["Name"] == "rag_service"]
    ends = (failed["start"] + failed["response_time_ms"] / 1000)[failed["service"] == "rag_service"]
    assert int(row["Occurrences"]) == len(ends)
    seen = [datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (ends.min(), ends.max())]
    assert [row["First Seen"], row["Last Seen"]] == seen


def test_the_json_says_the_same_as_the_files(written):
    run, document = perfkit.read_run(written.files[-1]), json.loads(written.metrics.read_text())
    assert set(document) == set(MODELS)
    for name, entry in document.items():
        stats = run.services[name]
        assert entry["baseline_users"] == 10
        assert entry["duration_s"] == 40.0
        assert entry["timestamp"] == "2025-10-17T14:30:04Z"
        assert (entry["total_requests"], entry["total_failures"]) == (stats.count, stats.failures)
        assert (entry["avg_latency_ms"], entry["rps"]) == (stats.avg_latency_ms, stats.rps)
    assert perfkit.read_run(written.metrics).profile.users == 10


def test_the_same_seed_and_start_give_the_same_bytes(written, tmp_path):
    changes = {"rag_service": Change(error_rate_pct=20.0)}
    local = START.astimezone(timezone(timedelta(hours=2))) + timedelta(milliseconds=700)  # the same second elsewhere
    again = files(simulate_files(SMALL, 1, tmp_path / "new" / "folder", started_at=local, changes=changes))
    assert [p.name for p in again.files] == [p.name for p in written.files]
    for ours, theirs in zip((*again.files, again.metrics), (*written.files, written.metrics), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


# What is left when writing fails


def test_a_run_of_that_name_is_kept(written):
    before = written.metrics.read_bytes()
    with pytest.raises(StoreError, match=r"load_results_small_20251017_143004_\w+\.csv: exists already and is kept"):
        simulate_files(SMALL, 2, written.prefix.parent, started_at=START)
    assert written.metrics.read_bytes() == before


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # the child inherits it: a file stops at 2,000 bytes
    try:
        with pytest.raises(StoreError, match=f"^{re.escape(str(tmp_path))}.*: cannot be written: File too large$"):
            simulate_files(SMALL, 1, tmp_path, started_at=START)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/folder: the files could not be written: Not a directory"):
        simulate_files(SMALL, 1, tmp_path / "file" / "folder", started_at=START)


def test_a_locust_that_does_not_start_gives_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "locust.py").write_text("raise ImportError('no good')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LoadError, match=r"(?s)CSV writer failed with exit code 1:.*ImportError: no good"):
        simulate_files(SMALL, 1, tmp_path / "out", started_at=START)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_set_that_cannot_be_published_whole_is_taken_back(tmp_path):
    partial, prefix = tmp_path / "partial", tmp_path / "out" / "load"
    for folder in (partial, prefix.parent):
        folder.mkdir()
    for ending in ENDINGS[:2]:
        (partial / f"load{ending}").write_text("")
    with pytest.raises(FileNotFoundError):
        simulate.publish(partial, prefix)
    assert list(prefix.parent.iterdir()) == []


# What is simulated


def test_requests_depend_on_seed_only(frame):
    later = simulate_requests(
        SMALL, 1, started_at=START + timedelta(hours=1), changes={"rag_service": Change(error_rate_pct=20.0)}
    )
    kept = ["service", "response_time_ms", "failed"]
    assert later[kept].equals(frame[kept])
    assert (later["start"] - frame["start"]).round(5).eq(3600).all()
    assert not simulated(SMALL, seed=2)[kept].equals(simulated(SMALL)[kept])


def test_requests_make_a_run(frame):
    run = perfkit.run_from_requests(frame, scenario="small")
    assert {name: stats.count for name, stats in run.services.items()} == dict(frame["service"].value_counts())
    assert run.duration_s == pytest.approx(40, abs=1)
    assert list(frame["start"]) == sorted(frame["start"])


def test_requests_that_the_end_cuts_off_are_not_counted():
    longer, shorter = (simulated(replace(SMALL, duration_s=seconds)) for seconds in (40.0, 20.0))
    ended = longer["start"] + longer["response_time_ms"] / 1000 <= START.timestamp() + 20
    assert shorter.equals(longer[ended].reset_index(drop=True))
    assert (longer["start"] < START.timestamp() + 20).sum() > len(shorter)


def test_service_times_errors_and_shares_are_those_of_the_models():
    frame = simulated(steady(10, 2000), run_to_run_pct=0.0)
    grouped = frame.groupby("service")
    for name, model in MODELS.items():
        requests = grouped.get_group(name)
        assert len(requests) / len(frame) == pytest.approx(1 / 3, rel=0.03)
        assert requests["response_time_ms"].median() == pytest.approx(model.median_ms, rel=0.02)
        assert means(frame)[name] == pytest.approx(model.median_ms * MEAN_OVER_MEDIAN[name], rel=0.02)
        assert 100 * requests["failed"].mean() == pytest.approx(model.error_rate_pct, abs=0.15)


def test_a_queue_answers_no_faster_than_its_workers_work():
    model = MODELS["api_gateway"]
    frame = simulated(steady(200, 60, "api_gateway=1"), run_to_run_pct=0.0)
    ends = frame["start"] + frame["response_time_ms"] / 1000 - START.timestamp()
    rps = ((ends > 10) & (ends <= 60)).sum() / 50
    assert rps == pytest.approx(model.workers / (model.median_ms / 1000 * MEAN_OVER_MEDIAN["api_gateway"]), rel=0.02)
    waited_s = frame["response_time_ms"][ends > 10].mean() / 1000
    assert rps * (waited_s + 0.25) == pytest.approx(200, rel=0.02)  # Little's law: calling or thinking


def test_a_slower_service_shows_and_only_it():
    slower = {"api_gateway": Change(slower_pct=20.0)}
    before, after = (means(simulated(steady(10, 1500), changes=changes)) for changes in ({}, slower))
    change_pct = 100 * (after / before - 1)
    assert change_pct["api_gateway"] == pytest.approx(20, abs=1)
    assert change_pct["rag_service"] == pytest.approx(0, abs=1)
    assert change_pct["mcp_server"] == pytest.approx(0, abs=1)


def test_an_error_rate_shows_and_only_there(frame):
    rates = 100 * frame.groupby("service")["failed"].mean()
    assert rates["rag_service"] == pytest.approx(20, abs=6)
    assert rates["api_gateway"] < 3
    assert rates["mcp_server"] == 0


def test_nothing_ends_during_a_stall():
    frame = simulated(steady(10, 30, "api_gateway=1"), changes={"api_gateway": Change(stall_s=5.0, stall_at_s=10.0)})
    ends = frame["start"] + frame["response_time_ms"] / 1000 - START.timestamp()
    assert not ((ends > 10.001) & (ends < 14.999)).any()
    assert ((ends > 15) & (frame["response_time_ms"] > 4000)).sum() == 10  # every user hangs in it once


def test_runs_differ_by_as_much_as_asked():
    def spread_pct(noise_pct):
        logs = [
            math.log(means(simulated(steady(2, 60), seed, run_to_run_pct=noise_pct))["api_gateway"])
            for seed in range(60)
        ]
        mean = sum(logs) / len(logs)
        return 100 * math.sqrt(sum((x - mean) ** 2 for x in logs) / (len(logs) - 1))

    sampling = spread_pct(0.0)
    assert sampling < 5
    assert math.sqrt(spread_pct(20.0) ** 2 - sampling**2) == pytest.approx(20, rel=0.35)  # chi2 of 59, 0.999


# What cannot be simulated

OWN = Scenario("shop", Path("locustfile.py"), users=1, duration_s=10.0)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (OWN, "scenario 'shop': cannot be simulated: nothing is known about the services it calls"),
        (replace(SMALL, locustfile=OWN.locustfile), "scenario 'small': cannot be simulated: nothing is known"),
        (replace(SMALL, environment={}), "PERFKIT_DEMO_WEIGHTS in their environment"),
        (
            steady(1, 1, "api_gatway=1"),
            r"unknown service 'api_gatway' \(did you mean 'api_gateway'\?\); known are api_",
        ),
        (steady(1, 1, "api_gateway=x"), "PERFKIT_DEMO_WEIGHTS: api_gateway: expected a number >= 0, got 'x'"),
        (steady(1, 1, "api_gateway=-1"), "api_gateway: expected a number >= 0, got '-1'"),
        (steady(1, 1, "api_gateway=0"), "at least one weight must be above 0"),
        (replace(SMALL, users=None), "scenario 'small': cannot be simulated without users and duration"),
        (replace(SMALL, duration_s=None), "scenario 'small': cannot be simulated without users and duration"),
    ],
)
def test_a_scenario_that_cannot_be_simulated_says_why(scenario, message):
    with pytest.raises(SettingsError, match=message):
        simulated(scenario)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="changes must be for rag_service, not api_gateway"):
        simulated(steady(1, 1, "rag_service=1"), changes={"api_gateway": Change()})
    with pytest.raises(ValueError, match="run_to_run_pct must be from 0 to 100, not -1"):
        simulated(SMALL, run_to_run_pct=-1)
    with pytest.raises(ValueError, match="started_at must be an aware time"):
        simulate_requests(SMALL, 1, started_at=START.replace(tzinfo=None))


def test_a_run_too_short_for_any_request_is_an_error(tmp_path):
    short = replace(SMALL, duration_s=0.001)
    frame = simulated(short)
    assert frame.empty
    assert frame["failed"].dtype == bool
    with pytest.raises(LoadError, match=r"no request ended in 0\.001 s; simulate longer"):
        simulate_files(short, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []
