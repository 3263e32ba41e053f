"""Nothing that was reported as stored is ever lost, and nothing is ever seen half: killed writers, writers at once."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from samples import REPOSITORY

from perfkit import RunStore

SCRIPT = REPOSITORY / "tests" / "store_writers.py"


def writers(*words):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_writer_killed_200_times_loses_nothing_that_it_reported(tmp_path):
    reported = writers("killed", tmp_path / "runs", 200, 7, 0.06)
    store = RunStore(tmp_path / "runs")
    assert reported  # how many depends on how busy the machine is
    assert Counter(reported).most_common(1)[0][1] == 1
    assert set(reported) <= set(store.ids())
    assert sorted(store.runs()["id"]) == store.ids()
    for run_id in store.ids():
        one = store.get(run_id)
        if one.load_requests is not None:
            assert len(one.requests()) == sum(stats.count for stats in one.services.values())


@pytest.mark.slow
def test_a_writer_to_an_object_store_is_killed_too(s3):
    reported = writers("killed", f"{s3}/killed", 20, 7, 0.5)
    store = RunStore(f"{s3}/killed")
    assert set(reported) <= set(store.ids())
    assert not store.broken()


@pytest.mark.slow
def test_two_stores_written_at_once_by_eight_processes_hold_every_run_once(s3, tmp_path):
    urls = [str(tmp_path / "runs"), f"{s3}/together"]
    writers("together", 8, *urls)
    for url in urls:
        store = RunStore(url)
        assert len(store.ids()) == 24
        hashes = Counter(store.index().table["identity"].to_pylist())
        assert set(hashes.values()) == {1}, url
        assert len(hashes) == 24
        for run_id in store.ids():
            one = store.get(run_id)
            if one.load_requests is not None:
                begin = one.requests()["start"].min()
                assert abs(begin - one.started_at.timestamp()) < 1e-3
    assert not list((tmp_path / "runs").glob(".incoming*"))
