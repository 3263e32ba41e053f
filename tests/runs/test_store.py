"""Runs are kept whole or not at all, found again, and one bad folder hides no other."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from samples import REPOSITORY, plain_stats, requests, run

from perfkit import MissingExtra, ReadError, RunStore, StoreError, Validity, run_from_requests
from perfkit.model.records import Check, Severity


@pytest.fixture
def kept(rng, tmp_path):
    store = RunStore(tmp_path / "runs")
    one = run_from_requests(requests(rng), scenario="api", build="1")
    store.add(one)
    return store, one


def test_a_run_is_given_back_as_it_was(kept):
    store, one = kept
    again = store.get(one.id)
    assert again.services == one.services
    assert (again.scenario, again.labels, again.content_hash) == (one.scenario, one.labels, one.content_hash)
    pd.testing.assert_frame_equal(again.requests(), one.requests(), check_dtype=False)


def test_the_same_run_twice_is_kept_once(kept):
    store, one = kept
    assert store.add(one) == one.id
    assert store.ids() == [one.id]


def test_two_runs_of_one_id_are_both_kept(kept):
    store, one = kept
    other = replace(one, content_hash="0" * 64)
    name = store.add(other)
    assert name != one.id
    assert sorted(store.ids()) == sorted([one.id, name])
    assert store.get(name).content_hash == other.content_hash


def test_many_writers_lose_nothing(rng, tmp_path):
    store = RunStore(tmp_path)
    runs = [run({"a": plain_stats(20.0 + n)}, number=n) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(store.add, runs))
    assert sorted(ids) == store.ids()
    assert not list(tmp_path.rglob("*.partial*"))


def test_runs_lists_oldest_first_and_filters_by_column_and_label(kept):
    store, one = kept
    store.add(run({"a": plain_stats()}, scenario="rag", labels={"build": "2"}, number=-7))
    frame = store.runs()
    assert list(frame["scenario"]) == ["rag", "api"]
    assert list(store.runs(scenario="api")["id"]) == [one.id]
    assert list(store.runs(build="2")["scenario"]) == ["rag"]
    assert store.runs(build="3").empty


def test_history_holds_valid_runs_of_one_scenario(tmp_path):
    store = RunStore(tmp_path)
    bad = Validity((Check("interrupted", "yes", "no", Severity.INVALID, "run again"),))
    for number, level in enumerate((20.0, 21.0, 22.0)):
        store.add(run({"a": plain_stats(level)}, number=number))
    store.add(run({"a": plain_stats(900.0)}, number=4, validity=bad))
    store.add(run({"a": plain_stats(900.0)}, number=5, scenario="rag"))
    history = store.history("api", "a", "avg_latency_ms")
    assert list(history["value"]) == [20.0, 21.0, 22.0]
    assert list(history.columns) == ["id", "started_at", "value", "standard_error"]
    assert store.history("api", "b", "rps").empty


def test_an_empty_store_is_no_error(tmp_path):
    store = RunStore(tmp_path / "nothing")
    assert (store.ids(), store.unfinished(), store.broken()) == ([], [], {})
    assert list(store.runs().columns)[:2] == ["id", "scenario"]
    with pytest.raises(StoreError, match="has no run 'x'"):
        store.get("x")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", ".."])
def test_a_run_id_is_not_a_path(tmp_path, name):
    with pytest.raises(StoreError, match="is not the name of a run folder"):
        RunStore(tmp_path).get(name)


def test_one_broken_folder_hides_no_other(kept, tmp_path):
    store, one = kept
    (tmp_path / "runs" / "20260101T000000Z-api-dead").mkdir()
    (tmp_path / "runs" / "20260101T000000Z-api-dead" / "run.json").write_text("{")
    (tmp_path / "runs" / "20260101T000000Z-api-half").mkdir()
    (tmp_path / "runs" / "20260101T000000Z-api-half" / "started.json").write_text("{}")
    assert list(store.runs()["id"]) == [one.id]
    assert list(store.broken()) == ["20260101T000000Z-api-dead"]
    assert store.unfinished() == ["20260101T000000Z-api-half"]
    with pytest.raises(ReadError, match="not JSON"):
        store.get("20260101T000000Z-api-dead")


NO_ROOM = """
import resource, signal, sys
from samples import plain_stats, run
from perfkit import RunStore, StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    RunStore(sys.argv[1]).add(run({"a": plain_stats()}))
except StoreError as error:
    sys.exit(str(error))
"""


def test_what_cannot_be_written_leaves_nothing_that_looks_like_a_run(kept, tmp_path):
    """A disk that is full looks to a program like a file that may not grow."""
    store, one = kept
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=REPOSITORY / "tests", capture_output=True, text=True, check=False)
    assert "the run could not be written: File too large" in done.stderr
    assert store.ids() == [one.id]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [one.id]


def test_a_file_where_the_store_should_be(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match="could not be written"):
        RunStore(tmp_path / "runs").add(run({"a": plain_stats()}))


def test_any_fsspec_address_will_do(rng):
    store = RunStore("memory://runs")
    one = run_from_requests(requests(rng), scenario="api")
    store.add(one)
    assert store.ids() == [one.id]
    assert store.folder is None
    assert len(store.get(one.id).requests()) == len(one.requests())


def test_an_address_that_nothing_can_open():
    with pytest.raises(MissingExtra, match="nothing-like-it"):
        RunStore("nothing-like-it://runs")


def test_run_json_is_small_text_that_diffs_well(kept, tmp_path):
    _, one = kept
    text = (tmp_path / "runs" / one.id / "run.json").read_text()
    assert len(text) < 10_000
    assert text.endswith("}\n")
    assert list(json.loads(text))[:3] == ["schema", "id", "scenario"]
