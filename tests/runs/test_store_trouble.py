"""A store in trouble: no permission, no room, a server that says no, files that vanish while it looks."""

import errno
import io
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from object_store import KEYS, forget_connections
from samples import EPOCH, plain_stats, requests, run

from perfkit import RunStore, StoreError, run_from_requests
from perfkit.cli import main
from perfkit.runs.backends import LocalFolder, RemoteFolder
from perfkit.runs.maintenance import plan_removal, plan_retention, redact_runs, remove, sync, verify_run

DAY = 86_400.0
NOBODY = 65_534


def fill(store, rng, count=4):
    for number in range(count):
        frame = requests(rng, seconds=2, services={"a": 20.0}, begin=EPOCH + DAY * number)
        store.add(run_from_requests(frame, scenario="api"))
    store.runs()
    return store


@contextmanager
def as_nobody():
    """Root may look everywhere: for these tests it is somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def test_what_may_not_be_read_is_named_and_hides_nothing(rng):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: PTH101
        store = fill(RunStore(f"{name}/runs"), rng)
        ids = store.ids()
        closed = [store.folder / ids[1], store.folder / ids[2] / "run.json", store.folder / ids[3] / "requests.parquet"]
        for path in closed:
            path.chmod(0)
        shutil.rmtree(store.folder / ".index")
        store = RunStore(store.url)
        Path(name, "copies").mkdir(mode=0o777)
        Path(name, "copies").chmod(0o777)
        store.folder.chmod(0o555)  # who is no administrator owns it
        with as_nobody():
            assert list(store.runs()["id"]) == [ids[0], ids[3]]
            assert list(store.broken()) == [ids[2]]
            assert store.no_runs()[1] == [ids[1]]
            assert verify_run(store, ids[3]).problems == ("requests.parquet cannot be read: Permission denied",)
            with pytest.raises(StoreError, match=r"the note on .* could not be written: Permission denied"):
                store.quarantine(ids[0], "odd")
            assert {item.name for item in plan_retention(store, {}, most_bytes=0)} == {ids[0], ids[3]}
            assert [report.run_id for report in redact_runs(store, None, dry_run=True)] == [ids[1], ids[2]]
            found = sync(store, RunStore(f"{name}/copies/runs"))
            assert (len(found.copied), {name for name, _ in found.refused}) == (1, {ids[2], ids[3]})
        for path in (store.folder, *closed):
            path.chmod(0o755)


def test_runs_that_were_set_aside_do_not_count_when_the_notes_cannot_be_read(rng):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: PTH101
        store = fill(RunStore(f"{name}/runs"), rng, 1)
        store.quarantine(store.ids()[0], "odd")
        (store.folder / ".quarantine").chmod(0)
        with as_nobody(), pytest.raises(StoreError, match="the notes on runs cannot be read: Permission denied"):
            store.runs()
        (store.folder / ".quarantine").chmod(0o755)


def test_runs_that_come_and_go_do_not_disturb_who_looks_at_their_files(rng, tmp_path):
    store = fill(RunStore(tmp_path / "runs"), rng, 2)
    one = store.get(store.ids()[0])
    stop = threading.Event()

    def come_and_go():
        number = 0
        while not stop.is_set():
            number += 1
            other = store.add(replace(one, id=f"20260101T000000Z-x-{number:04d}", content_hash=f"{number:064d}"))
            store.backend.remove_runs([other])

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        for _ in range(300):
            plan_retention(store, {}, most_bytes=10**12)
    finally:
        stop.set()
        writer.join()


class FullDisk(LocalFolder):
    """Takes nothing as long as it holds requests."""

    def write(self, path, content):
        if list(self.root.glob("*/requests.parquet")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(path, content)


def test_requests_can_be_dropped_from_a_full_disk(rng, tmp_path):
    store = fill(RunStore(tmp_path / "runs"), rng, 1)
    store.backend = FullDisk(store.url, store.folder)
    remove(store, plan_removal(store, store.ids(), {}, only_requests=True))
    assert verify_run(store, store.ids()[0]).problems == ()
    assert store.get(store.ids()[0]).requests() is None


def test_a_run_that_goes_before_its_requests_leaves_no_note_behind(rng, tmp_path):
    store = fill(RunStore(tmp_path / "runs"), rng, 1)
    plan = plan_removal(store, store.ids(), {}, only_requests=True)
    store.backend.remove_runs(store.ids())
    remove(store, plan)
    assert store.backend.folders() == []


def test_no_run_goes_because_something_else_in_the_folder_is_large(rng, tmp_path):
    store = fill(RunStore(tmp_path / "runs"), rng)
    (store.folder / "photos").mkdir()
    (store.folder / "photos" / "cat.jpg").write_bytes(b"0" * 10**6)
    assert plan_retention(store, {}, most_bytes=10**6) == ()


def test_a_link_to_a_run_is_taken_away_and_what_it_points_to_stays(rng, tmp_path):
    store, other = fill(RunStore(tmp_path / "runs"), rng, 1), fill(RunStore(tmp_path / "other"), rng, 1)
    (store.folder / "linked").symlink_to(other.folder / other.ids()[0])
    remove(store, plan_removal(store, ["linked"], {}))
    assert len(store.ids()) == 1
    assert len(other.ids()) == 1
    assert [path.name for path in store.folder.glob(".outgoing*")] == []


class LineThatBreaks(LocalFileSystem):
    """A file system elsewhere whose connection ends in the middle of each document."""

    def pipe_file(self, path, value, mode="overwrite", **_):
        is_document = "run.json" in path
        super().pipe_file(path, value[: len(value) // 2] if is_document else value, mode=mode)
        if is_document:
            raise OSError(errno.EPIPE, "the line broke")


def test_a_document_elsewhere_is_never_seen_half(tmp_path):
    store = RunStore("memory://unused")
    store.backend = RemoteFolder("far://runs", DirFileSystem(str(tmp_path), LineThatBreaks()), is_object_store=False)
    with pytest.raises(StoreError, match="could not be written: the line broke"):
        store.add(run({"a": plain_stats()}))
    assert store.broken() == {}
    assert len(store.unfinished()) == 1


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def refusing(monkeypatch):
    """An object store that lets nobody in."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
            monkeypatch.setenv(name, value)
        forget_connections()
        yield
        forget_connections()
        server.shutdown()


def test_a_server_that_says_no(refusing):
    store = RunStore("s3://team/runs")
    for ask in (store.runs, store.ids, store.no_runs, store.quarantined, lambda: store.quarantine("x", "odd")):
        with pytest.raises(StoreError, match="s3://team/runs: cannot be read: "):
            ask()
    with pytest.raises(StoreError, match="could not be written: "):
        store.add(run({"a": plain_stats()}))


def test_a_store_that_does_not_answer_is_told_before_the_load(refusing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = io.StringIO(), io.StringIO()
    assert main(["run", "baseline", "--store", "s3://team/runs"], out, err) == 4
    assert err.getvalue().splitlines()[-1] == "perfkit: s3://team/runs: cannot be read: Access Denied"
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_nobody_answers():
    with pytest.raises(StoreError, match=r"ftp://127.0.0.1:1/runs: cannot be reached: "):
        RunStore("ftp://127.0.0.1:1/runs")


def test_a_note_that_cannot_be_written(rng, tmp_path):
    store = fill(RunStore(tmp_path / "runs"), rng, 1)
    (store.folder / ".quarantine").write_text("no folder can be made here")
    with pytest.raises(StoreError, match=r"runs: the note on .* could not be written: "):
        store.quarantine(store.ids()[0], "odd")


def test_a_note_that_cannot_be_copied(rng, tmp_path):
    store, there = fill(RunStore(tmp_path / "runs"), rng, 1), fill(RunStore(tmp_path / "there"), rng, 1)
    store.quarantine(store.ids()[0], "odd")
    (there.folder / ".quarantine").write_text("no folder can be made here")
    with pytest.raises(StoreError, match=r"there: the note on .* could not be copied: "):
        sync(store, there)


def test_a_run_that_goes_while_others_are_copied_is_named(rng, tmp_path):
    store, there = fill(RunStore(tmp_path / "runs"), rng, 3), RunStore(tmp_path / "there")
    gone = store.ids()[1]
    known = store.index()
    shutil.rmtree(store.folder / gone)
    store.index = lambda: known  # as a store is seen that changes after it was listed
    found = sync(store, there)
    assert len(found.copied) == 2
    assert [name for name, why in found.refused if "No such file" in why] == [gone]
