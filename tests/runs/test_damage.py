"""Damaged files: recordings, tables of requests, links that lead away, full disks.

One bad file stops no command on the others.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from command_line import invoke
from damage import killed_run, recording
from histories import nights
from samples import EPOCH, REPOSITORY, plain_stats, requests, run

from perfkit import ReadError, RunStore, StoreError, read_run, run_from_requests
from perfkit.history.planning import stored_profile
from perfkit.model.codec import dump_json
from perfkit.runs import run_folder
from perfkit.runs.maintenance import measurements, plan_retention, remove, sync, verify_run
from perfkit.runs.recording_stream import Recording


def in_one_line(*texts):
    return " ".join(" ".join(texts).split())


# Recordings -----------------------------------------------------------------------------------------------------------


DRIVER = """
import sys
from pathlib import Path
sys.path.append("runs")
import numpy as np
from damage import damaged
from perfkit import ReadError, read_run
folder, name, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
whole = (folder / "whole").read_bytes()
frame = read_run(folder).requests() if name.endswith("parquet") else None
for number in range(first, last):
    print(number, flush=True)
    (folder / name).write_bytes(damaged(whole, np.random.default_rng(number)))
    try:
        read = read_run(folder)
        table = read.requests()
    except ReadError as error:
        assert str(error).startswith(str(folder)), error
        continue
    if frame is None:
        assert not read.validity.ok
        assert not len(table) or (table["response_time_ms"] >= 0).all()
    else:
        assert table.equals(frame), f"damage {number} gave other data"
"""


def survives(folder, name, count):
    """Read so many damaged copies in another process; it neither dies nor gives other data."""
    shutil.copy(folder / name, folder / "whole")
    command = [sys.executable, "-W", "error", "-c", DRIVER, str(folder), name, "0", str(count)]
    path = os.pathsep.join([str(REPOSITORY / "tests"), str(Path(__file__).parent)])
    given = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    shutil.move(folder / "whole", folder / name)
    assert (done.returncode, done.stderr) == (0, ""), f"damage {done.stdout.split()[-1:]}: {done.stderr[-2000:]}"


@pytest.mark.parametrize("count", [120, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_damage_to_a_recording_takes_the_process_down(tmp_path, rng, count):
    killed_run(tmp_path / "run", rng)
    survives(tmp_path / "run", "requests.arrow", count)
    assert len(read_run(tmp_path / "run").requests()) == 240


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_sealed", [True, False])
def test_no_damage_to_stored_requests_gives_other_data(tmp_path, rng, is_sealed, count):
    store = RunStore(tmp_path)
    folder = tmp_path / store.add(run_from_requests(requests(rng, seconds=4), scenario="api"))
    if not is_sealed:
        plain = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(dump_json({name: plain[name] for name in plain if name != "seal"}))
    survives(folder, "requests.parquet", count)


def test_what_follows_a_damage_is_counted_and_what_came_before_is_kept(tmp_path, rng):
    file = killed_run(tmp_path / "run", rng)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = b"\xff" * len(content[len(content) // 2 :])
    file.write_bytes(content)
    found = Recording(file)
    assert 0 < sum(len(batch) for batch in found) < 240
    assert 0 < found.unread < len(content)
    (check,) = [check for check in read_run(tmp_path / "run").validity.checks if check.name == "interrupted"]
    assert f"the last {found.unread:,} bytes of its recording cannot be read" in check.value


def test_a_killed_run_of_many_requests_is_read_in_parts(tmp_path, rng, monkeypatch):
    killed_run(tmp_path / "run", rng)
    whole = read_run(tmp_path / "run")
    monkeypatch.setattr(run_folder, "MOST_HELD", 100)
    parts = read_run(tmp_path / "run")
    assert parts.content_hash == whole.content_hash
    assert parts.to_frame().to_numpy(float) == pytest.approx(whole.to_frame().to_numpy(float), rel=1e-9, nan_ok=True)
    pd.testing.assert_frame_equal(parts.requests(), whole.requests(), check_categorical=False)


# Tables of requests ---------------------------------------------------------------------------------------------------


def test_a_table_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path, rng, monkeypatch):
    store = RunStore(tmp_path)
    folder = tmp_path / store.add(run_from_requests(requests(rng, seconds=4), scenario="api"))
    rows, groups = 1_000_000, 20
    one = {"start": EPOCH, "service": "a", "response_time_ms": 1.0, "failed": False}
    table = pa.table({name: pa.array([value]).take(np.zeros(rows, np.int64)) for name, value in one.items()})
    with pq.ParquetWriter(tmp_path / "bomb", table.schema, compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(table)
    assert (tmp_path / "bomb").stat().st_size < 2_000_000
    plain = json.loads((folder / "run.json").read_text())
    shutil.copy(tmp_path / "bomb", folder / "requests.parquet")
    with pytest.raises(ReadError, match="is not the file that was written"):
        read_run(folder).requests()
    (folder / "run.json").write_text(dump_json({name: plain[name] for name in plain if name != "seal"}))
    with pytest.raises(ReadError, match=r"holds 20,000,000 requests; run.json was made of"):
        read_run(folder).requests()
    with pytest.raises(ReadError, match=r"holds 20,000,000 rows in \d+ bytes, which no requests do"):
        run_folder.read_requests(folder / "requests.parquet")
    monkeypatch.setattr(run_folder, "free_memory", lambda: 10**8)
    with pytest.raises(ReadError, match=r"holds 3,000,000 rows, which take about 0.2 GB; 0.1 GB of memory are free"):
        run_folder.check_memory(Path("x"), 3_000_000, 4)


# One bad file among others --------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch, rng):
    """A history whose seventh run cannot be read and whose eighth was changed; both are of the scenario ``api``."""
    monkeypatch.chdir(tmp_path)
    Path("perfkit.toml").write_text("")
    found = RunStore("data/runs")
    for one in nights(rng, 14, services=("a",)):
        found.add(one)
    found.runs()
    bad, changed = (found.folder / found.ids()[at] / "run.json" for at in (6, 7))
    bad.write_text(bad.read_text().replace('"count": 5000', '"count": true', 1))
    changed.write_text(changed.read_text().replace('"failures": ', '"failures": 1', 1))
    return RunStore("data/runs")


def test_a_bad_run_is_named_by_every_command_and_stops_none(store, tmp_path):
    ids = store.ids()
    bad, changed = ids[6], ids[7]
    reason = f"{bad}/run.json: services.a.count: expected int"
    for argv in (
        ("runs", "list"),
        ("runs", "export"),
        ("changes", "api"),
        ("compare", "--candidate", ids[-1]),
        ("compare", "api@last:5", "--candidate", ids[-1]),
        ("compare", *ids[:5], "--candidate", "api@last:2"),
        ("baseline", "pin", "v1", "api@last:5", "--reason", "r"),
        ("baseline", "list"),
        ("baseline", "show", "v1"),
        ("baseline", "extract", "api@last:5", "--output", str(tmp_path / "extracted.json")),
        ("metrics", "api@last:5"),
        ("replay", "--scenario", "api"),
        ("plan", "--scenario", "api", "--detect", "5%"),
        ("check", "--settings-only"),
        ("store", "sync", "data/runs", "copies"),
    ):
        code, out, err = invoke(*argv)
        assert code in ((0, 2) if argv[0] in ("store", "check") else (0,)), (argv, code, err)
        assert bad in out + err, argv
        if argv[0] not in ("check", "baseline"):
            assert in_one_line(out, err).count(reason) == 1, (argv, out, err)
    assert len(RunStore("copies").ids()) == 12
    assert stored_profile(store, "api").runs == tuple(one for one in ids if one not in (bad, changed))
    code, out, _ = invoke("runs", "verify")
    assert code == 2
    assert "14 runs: 12 whole, 2 damaged" in out
    assert f"{changed}: run.json was changed after it was written" in out
    _, out, _ = invoke("compare", "--candidate", ids[-1])
    assert f"{changed} is left out: its run.json was changed after it was stored." in in_one_line(out)
    assert invoke("runs", "gc", "--runs-older-than", "90y")[0] == 0
    code, _, err = invoke("compare", *ids[:3], "--candidate", bad)
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err
    code, out, _ = invoke("compare", *ids[:3], "--candidate", changed)
    assert code == 3
    assert "changed after it was stored" in out


def test_what_was_changed_after_it_was_stored_is_named_each_time(store):
    changed = store.ids()[7]
    plan = ("plan", "--scenario", "api", "--detect", "5%")
    for argv in (("runs",), ("changes", "api"), ("replay", "--scenario", "api"), plan) * 2:
        code, _, err = invoke(*argv)
        assert code == 0
        assert f"{changed} is left out: its run.json was changed after it was stored." in in_one_line(err), argv


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": "perfkit.quarantine/1", "reason": 3}'])
def test_a_note_that_cannot_be_read_holds_and_is_named(store, content):
    ids = store.ids()
    store.quarantine(ids[2], "the cache was cold")
    note = store.folder / ".quarantine" / f"{ids[2]}.json"
    note.write_bytes(content)
    sentence = f"{ids[2]} stays set aside: its note cannot be read: .quarantine/{ids[2]}.json: "
    for argv in (
        ("runs",),
        ("runs", "quarantine"),
        ("runs", "show", ids[2]),
        ("runs", "export"),
        ("changes", "api"),
        ("replay", "--scenario", "api"),
        ("plan", "--scenario", "api", "--detect", "5%"),
        ("compare", "--candidate", ids[-1]),
    ):
        code, out, err = invoke(*argv)
        assert (code, in_one_line(err).count(sentence)) == (0, 1), (argv, out, err)
    code, out, _ = invoke("runs", "verify")
    assert code == 2
    assert f"✗ {ids[2]}: stays set aside: its note cannot be read" in out
    code, _, err = invoke("compare", *ids[3:6], "--candidate", str(store.folder / ids[2]))
    assert (code, f"{ids[2]} stays set aside" in err) == (3, True)


def test_a_bad_pin_is_named_and_hides_no_other(store):
    ids = store.ids()
    for name in ("v1", "v2"):
        assert invoke("baseline", "pin", name, *ids[:4], "--reason", "r")[0] == 0
    Path("data/baselines/api/v1.json").write_text("[" * 100_000)
    code, out, err = invoke("baseline", "list")
    assert (code, "v2" in out) == (0, True)
    assert "v1.json: not JSON of perfkit: nested too deeply" in err
    assert invoke("compare", "api@pinned:v2", "--candidate", ids[-1])[0] == 0
    assert invoke("compare", "--candidate", ids[-1])[0] == 0
    code, _, err = invoke("compare", "api@pinned:v1", "--candidate", ids[-1])
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = invoke("runs", "gc", "--max-size", "1kB", "--yes")
    assert code == 4
    assert "so the runs that this baseline protects are not known" in err
    assert len(store.ids()) == 14


def test_a_note_is_read_for_its_run_alone(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    ids = [store.add(run({"a": plain_stats()}, number=n)) for n in range(3)]
    for run_id in ids[:2]:
        store.quarantine(run_id, "odd")
    (tmp_path / ".quarantine" / f"{ids[0]}.json").write_text('{"reason": 3}')
    monkeypatch.setattr(type(store.backend), "files", lambda *_: pytest.fail("lists all notes"))
    checks = [[(check.name, check.value) for check in store.get(run_id).validity.problems] for run_id in ids]
    assert checks == [[("quarantined", "no reason can be read")], [("quarantined", "odd")], []]


# Links, special files -------------------------------------------------------------------------------------------------


def test_no_link_is_followed_out_of_a_store(tmp_path, rng):
    (tmp_path / "secret").write_text("token")
    outside, store = RunStore(tmp_path / "outside"), RunStore(tmp_path / "runs")
    other = outside.add(run({"secret": plain_stats()}, scenario="other", number=9))
    ids = [store.add(run_from_requests(requests(rng, seconds=2), scenario=f"s{n}")) for n in range(2)]
    (store.folder / ids[0] / "notes.txt").symlink_to(tmp_path / "secret")
    (store.folder / ids[0] / "more").symlink_to(tmp_path / "outside")
    (store.folder / other).symlink_to(outside.folder / other)
    os.mkfifo(store.folder / ids[1] / "pipe")
    found = sync(store, RunStore(tmp_path / "copies"))
    assert set(found.copied) == set(ids)
    assert [(name, "leads out of the store" in why) for name, why in found.refused] == [(other, True)]
    files = sorted(
        path.relative_to(tmp_path / "copies" / ids[0]).name for path in (tmp_path / "copies" / ids[0]).iterdir()
    )
    assert files == ["requests.parquet", "run.json"]
    assert set(measurements(store, store.ids())["scenario"]) == {"s0", "s1"}
    assert "leads out of the store" in store.broken()[other]
    (outside.folder / "requests.parquet").write_text("")
    with pytest.raises(OSError, match="leads out of the store"):
        store.backend.write(f"{other}/x", b"")
    (store.folder / ".quarantine").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="leads out of the store"):
        store.runs()


def test_a_link_that_leads_nowhere_or_in_a_circle_is_named(store, tmp_path):
    for name, target in (("nowhere", "gone"), ("one", "two"), ("two", "one")):
        Path(name).symlink_to(target)
    last = store.ids()[-1]
    for name in ("nowhere", "one"):
        for argv in (("metrics", name), ("import", name), ("compare", name, "--candidate", last)):
            assert invoke(*argv) == (2, "", f"perfkit: {name}: is a link that leads nowhere, or in a circle\n")
    code, _, err = invoke("compare", *store.ids()[:3], "--candidate", last, "--format", "json", "--output", "one")
    assert (code in (2, 4), "Traceback" in err, "unexpected error" in err) == (True, False, False)


@pytest.mark.parametrize("key", ["store", "baselines", "acknowledged", "reports"])
def test_an_empty_name_is_no_folder(store, key):
    Path("perfkit.toml").write_text(f'{key} = " "\n')
    code, _, err = invoke("runs")
    assert (code, f"{key}: expected the name of a file or folder, got ' '" in err) == (2, True)


def test_an_imported_run_that_contradicts_itself_says_so(store, tmp_path):
    head = "Type,Name,Request Count,Failure Count,Average Response Time,Requests/s,50%,95%\n"
    Path("night_stats.csv").write_text(f"{head}GET,/a,9000,0,20,50,20,30\n,Aggregated,1000,0,20,50,20,30\n")
    code, out, err = invoke("import", "night_stats.csv")
    assert (code, len(out.split())) == (3, 1)
    assert ": invalid: counts: The row Aggregated counts 1000 requests, the rows above it 9000" in err
    Path("odd_stats.csv").write_text(
        f"{head}GET,/a,1000,0,20,50,20,30\nX,/odd,5,0,-1,50,-1,-1\n,Aggregated,1005,0,20,50,20,30\n"
    )
    for command in ("import", "metrics"):
        code, _, err = invoke(command, "odd_stats.csv")
        assert code == 0
        assert "skipped_requests: 5 requests of /odd (5) have no usable response time (negative)" in err


def test_a_pipe_or_a_huge_file_in_place_of_a_document_is_named(tmp_path):
    store = RunStore(tmp_path)
    store.add(run({"a": plain_stats()}))
    for name in ("pipe", "huge"):
        (tmp_path / f"20990101T000000Z-api-{name}").mkdir()
    os.mkfifo(tmp_path / "20990101T000000Z-api-pipe" / "run.json")
    with (tmp_path / "20990101T000000Z-api-huge" / "run.json").open("wb") as file:
        file.truncate(10**12)
    assert len(store.runs()) == 1
    said_of = dict(store.broken())
    assert "is no regular file" in said_of["20990101T000000Z-api-pipe"]
    assert "holds 1,000,000,000,000 bytes" in said_of["20990101T000000Z-api-huge"]


def test_folders_of_runs_that_never_began_are_collected(tmp_path, rng):
    store = RunStore(tmp_path)
    names = [f"20260101T00000{n}Z-api-00{n}0" for n in range(6)]
    for name in names:
        (tmp_path / name / "source").mkdir(parents=True)
        (tmp_path / name / "source" / "locust.log").write_text("no host")
        (tmp_path / name / "started.json").write_text("{}")
    recording(tmp_path / names[1] / "requests.arrow", rng)  # requests that can be read
    recording(tmp_path / names[2] / "requests.arrow", rng, seconds=0)  # killed before its first request
    (tmp_path / names[3] / "started.json").unlink()  # what is left when no request was made
    (tmp_path / names[4] / "run.json").write_text("{")  # a damaged run
    (tmp_path / "photos").mkdir()
    long_ago = time.time() - 2 * 86_400
    for path in [*tmp_path.rglob("*"), tmp_path / "photos"]:
        if names[5] not in str(path):  # begun a moment ago
            os.utime(path, (long_ago, long_ago))
    plan = plan_retention(store, {})
    assert {(item.what, item.name, item.reason) for item in plan} == {
        ("leftover", names[n], "its load never began") for n in (0, 2, 3)
    }
    remove(store, plan)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        *(names[n] for n in (1, 4, 5)),
        "photos",
    ]


def test_a_tampered_run_is_not_whole(tmp_path):
    store = RunStore(tmp_path)
    one = store.add(run({"a": plain_stats()}))
    file = tmp_path / one / "run.json"
    file.write_text(file.read_text().replace('"tool": "perfkit"', '"tool": "perfkiT"'))
    assert verify_run(store, one).problems == ("run.json was changed after it was written",)


# Full disks -----------------------------------------------------------------------------------------------------------

NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from perfkit.notify.github_api import Access
from perfkit.notify.github_api import Patience
from perfkit.notify.github_plan import Comment
from perfkit.notify.github_sync import post_comment
from perfkit.model.errors import DeliveryError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
notes = []
try:
    access = Access("octo/shop", "http://127.0.0.1:9", "t")
    patience = Patience(timeout_s=1, tries=1)
    post_comment(Comment(7, "x", "hello"), access, Path(sys.argv[1]), patience=patience, report=notes.append)
except DeliveryError as error:
    sys.stderr.write("\\n".join([*notes, str(error)]))
"""


def test_only_what_is_kept_is_said_to_be_kept(tmp_path):
    """What is kept is said to be in test_github_comment."""
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert [path for path in tmp_path.rglob("*.json") if path.stat().st_size] == []
    assert "is kept in" not in done.stderr
    assert "1 of 1 that were not sent could not be kept in" in done.stderr


def test_a_run_of_which_nothing_was_recorded_is_not_said_to_be_readable(tmp_path, rng):
    from perfkit.loadgen.run import what_was_recorded

    folder = tmp_path / "run"
    folder.mkdir()
    assert what_was_recorded(folder) == "no request was recorded"
    (folder / "started.json").write_text("{}")
    recording(folder / "requests.arrow", rng)
    assert what_was_recorded(folder) == "the 240 requests that were recorded can be read, as an interrupted run"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda column: column.cast(pa.string()), "response_time_ms: expected numbers, got a column of string"),
        (lambda column: pa.array([True] * len(column)), "response_time_ms: expected numbers, got a column of bool"),
        (lambda column: pa.compute.multiply(column, 1000.0), "ms on average, and run.json says"),
        (lambda column: pa.nulls(len(column), pa.float64()), "holds other requests than the summary was made of"),
        (lambda column: None, "missing column response_time_ms"),
    ],
)
def test_requests_of_other_types_or_sizes_are_refused(tmp_path, rng, change, told):
    store = RunStore(tmp_path)
    folder = tmp_path / store.add(run_from_requests(requests(rng, seconds=4), scenario="api"))
    plain = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(dump_json({name: plain[name] for name in plain if name != "seal"}))
    table = pq.read_table(folder / "requests.parquet")
    at = table.column_names.index("response_time_ms")
    column = change(table["response_time_ms"])
    table = table.remove_column(at) if column is None else table.set_column(at, "response_time_ms", column)
    pq.write_table(table, folder / "requests.parquet")
    for opened in (read_run(folder), store.get(folder.name)):
        with pytest.raises(ReadError, match=f"requests.parquet: .*{told}"):
            opened.requests()
