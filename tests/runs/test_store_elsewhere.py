"""Stores that are no local folder: a real S3-compatible server, memory, and what is said when one cannot be reached."""

import functools
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from object_store import forget_connections
from samples import plain_stats, requests, run

from perfkit import ReadError, RunStore, StoreError, run_from_requests
from perfkit.history.timeline import load_timeline


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Silent."""


@pytest.fixture(params=["s3", "memory"])
def url(request, tmp_path):
    place = request.getfixturevalue("s3") if request.param == "s3" else "memory:/"
    return f"{place}/{tmp_path.name}"


def test_runs_are_put_got_listed_and_taken_away(url, rng):
    store = RunStore(url)
    assert store.ids() == []
    one = run_from_requests(requests(rng), scenario="api", build="1")
    assert store.add(one) == store.add(one) == one.id
    other = store.add(replace(one, content_hash="0" * 64))
    assert RunStore(url).ids() == sorted([one.id, other])
    again = RunStore(url).get(one.id)
    assert (again.services, again.labels) == (one.services, one.labels)
    pd.testing.assert_frame_equal(again.requests(), one.requests(), check_dtype=False)
    assert list(store.runs(build="1")["id"]) == store.ids()
    assert store.runs()["source"].str.contains("://").all()
    store.backend.remove_runs([other])
    assert store.ids() == [one.id]
    assert not store.unfinished()


def test_a_store_may_be_a_whole_file_system():
    store = RunStore("memory://")
    run_id = store.add(run({"a": plain_stats()}))
    store.quarantine(run_id, "odd")
    again = RunStore("memory://")
    assert run_id in again.ids()
    assert again.get(run_id).source == f"memory://{run_id}"
    assert list(again.quarantined()) == [run_id]
    store.lift_quarantine(run_id)
    store.backend.remove_runs([run_id, "20260101T000000Z-api-gone"])
    store.backend.remove(".index/runs.arrow")
    assert run_id not in again.ids()


def test_a_web_server_is_a_store_that_may_only_be_read(tmp_path):
    store = RunStore(tmp_path / "runs")
    run_id = store.add(run({"a": plain_stats()}))
    store.quarantine(run_id, "odd")
    serve = functools.partial(QuietFiles, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = RunStore(f"http://127.0.0.1:{server.server_port}/runs")
        assert list(store.runs(quarantined=True)["id"]) == [run_id]
        assert store.get(run_id).source == f"{store.url}/{run_id}"
        with pytest.raises(StoreError, match="cannot be reached: 501"):
            store.add(run({"a": plain_stats(9.0)}))
        server.shutdown()


def test_a_run_that_is_not_whole_is_none(url):
    store = RunStore(url)
    kept = store.add(run({"a": plain_stats()}))
    store.backend.write("20260101T000000Z-api-half/.claim", b"mine")
    store.backend.write("20260101T000000Z-api-dead/run.json", b"{")
    store.backend.write("photos/cat.jpg", b"")
    assert list(store.runs()["id"]) == [kept]
    assert store.no_runs() == (["20260101T000000Z-api-half"], ["photos"])
    assert list(store.broken()) == ["20260101T000000Z-api-dead"]
    assert (
        store.add(replace(run({"a": plain_stats(9.0)}), id="20260101T000000Z-api-half")) != "20260101T000000Z-api-half"
    )


def test_the_index_of_a_store_elsewhere_is_only_a_cache(url):
    store = RunStore(url)
    for number in range(3):
        store.add(run({"a": plain_stats(20.0 + number)}, number=number))
    before = load_timeline(store, "api")
    store.backend.write(".index/runs.arrow", b"broken")
    assert load_timeline(RunStore(url), "api").runs == before.runs
    store.backend.remove(".index/runs.arrow")
    assert load_timeline(RunStore(url), "api").runs == before.runs
    store.quarantine(before.runs[0].run_id, "cold")
    assert not load_timeline(RunStore(url), "api").runs[0].valid


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/runs/.*could not be written: .*bucket does not exist"):
        RunStore("s3://no-such-bucket/runs").add(run({"a": plain_stats()}))


def test_without_keys_the_store_cannot_be_reached(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_connections()
    with pytest.raises(StoreError, match="s3://team/runs: cannot be reached: Unable to locate credentials"):
        RunStore("s3://team/runs").add(run({"a": plain_stats()}))
    forget_connections()


def test_the_extra_that_is_missing_is_named():
    code = "import sys; sys.modules['s3fs'] = None; from perfkit import RunStore; RunStore('s3://team/runs')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra: s3://team/runs: needs the package s3fs" in done.stderr
    assert "install perfkit with the extra `s3`: " in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content[: len(content) // 2], "not JSON: it ends in the middle"),
        (lambda content: b"", "not JSON: it ends in the middle"),
        (
            lambda content: content.replace(b'"seal"', b'"label"').replace(
                b'"error_rate_pct": ', b'"error_rate_pct": 9'
            ),
            "",
        ),
    ],
    ids=["half", "empty", "no seal, other rate"],
)
def test_a_damaged_object_is_named_and_the_others_are_read(url, rng, change, told):
    store = RunStore(url)
    kept = store.add(run_from_requests(requests(rng), scenario="api"))
    bad = store.add(run_from_requests(requests(rng), scenario="api"))
    path = f"{bad}/run.json"
    store.backend.write(path, change(store.backend.read(path)))
    with pytest.raises(ReadError, match=f"{bad}/run.json: .*{told or 'requests failed'}"):
        RunStore(url).get(bad)
    again = RunStore(url)
    assert list(again.runs()["id"]) == [kept]
    assert list(again.broken()) == [bad]


def test_damaged_requests_in_an_object_store_are_refused(url, rng):
    store = RunStore(url)
    run_id = store.add(run_from_requests(requests(rng), scenario="api"))
    path = f"{run_id}/requests.parquet"
    content = bytearray(store.backend.read(path))
    content[len(content) // 2] ^= 1
    store.backend.write(path, bytes(content))
    with pytest.raises(ReadError, match="is not the file that was written"):
        RunStore(url).get(run_id).requests()
