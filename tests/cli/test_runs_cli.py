"""``perfkit runs`` and ``perfkit store``: golden words and exit codes."""

import json

import numpy as np
import pytest
from command_line import invoke
from samples import EPOCH, plain_stats, requests, run

from perfkit import RunStore, run_from_requests

DAY = 86_400.0


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, store = np.random.default_rng(1), RunStore("data/runs")
    for number in range(3):
        frame = requests(rng, seconds=2, services={"a": 20.0}, begin=EPOCH + DAY * number)
        store.add(run_from_requests(frame, scenario="api"))
    store.add(run({"GET /\x1b[31m<b>": plain_stats()}, scenario="rag", number=-5))
    return tmp_path


def ids():
    return RunStore("data/runs").ids()


def test_bare_runs_lists_and_so_does_list(here):
    assert invoke("runs", "--scenario", "api") == invoke("runs", "list", "--scenario", "api")
    code, out, err = invoke("runs", "--scenario", "api", "--format", "json")
    assert (code, err) == (0, "")
    assert [row["scenario"] for row in json.loads(out)] == ["api"] * 3
    assert invoke("runs", "--scenario", "apu")[0] == 2


def test_what_is_no_run_is_named_and_hides_nothing(here):
    (here / "data/runs/photos").mkdir()
    (here / "data/runs/20990101T000000Z-api-dead").mkdir()
    (here / "data/runs/20990101T000000Z-api-dead/run.json").write_text("{")
    code, out, err = invoke("runs")
    assert (code, len(out.splitlines())) == (0, 5)
    assert "! 20990101T000000Z-api-dead is left out: " in err
    assert "! skipped, no runs: photos" in err


def test_show_tells_everything_and_no_control_character_of_it(here):
    code, out, _ = invoke("runs", "show", "20251017T140504Z-rag")
    assert code == 0
    assert "\x1b" not in out
    assert "GET / [31m<b>" in out
    assert "requests: summary only" in out
    code, out, _ = invoke("runs", "show", ids()[-1], "--format", "json")
    assert json.loads(out)["id"] == ids()[-1]
    error = invoke("runs", "show", "2025")[2]
    assert "4 runs begin with '2025'" in error
    assert all(name in error for name in ids())
    assert invoke("runs", "show", "nothing")[0] == 2


def test_rm_says_what_goes_and_asks(here):
    one = ids()[-1]
    code, out, err = invoke("runs", "rm", one)
    assert (code, one in out) == (2, True)
    assert "say --yes, or --dry-run" in err
    assert invoke("runs", "rm", one, "--dry-run")[0] == 0
    assert one in ids()
    code, out, _ = invoke("runs", "rm", one, "--yes")
    assert (code, out.splitlines()[-1].startswith("freed ")) == (0, True)
    assert one not in ids()
    assert invoke("runs", "rm", "*-api-*", "--only-requests", "--yes")[0] == 0
    assert len(ids()) == 3


def test_a_run_of_a_baseline_stays(here):
    one = ids()[1]
    (here / "data/baselines").mkdir()
    (here / "data/baselines/api-v1.json").write_text(json.dumps({"schema": "perfkit.baseline/1", "runs": [one]}))
    code, _, err = invoke("runs", "rm", one, "--yes")
    assert (code, "needs it" in err) == (4, True)
    code, out, _ = invoke("runs", "gc", "--max-size", "0B", "--yes")
    assert code == 0
    assert "3 whole runs, the requests of 2 others" in out
    assert ids() == [one]
    (here / "data/baselines/api-v1.json").write_text("{")
    assert invoke("runs", "gc", "--max-size", "0B", "--yes")[0] == 4
    assert ids() == [one]


def test_gc_without_a_limit_has_nothing_to_do(here):
    assert invoke("runs", "gc")[:2] == (0, "nothing to remove\n")
    assert "expected an age such as 90d" in invoke("runs", "gc", "--runs-older-than", "soon")[2]
    assert "is not a folder" in invoke("runs", "gc", "--baselines", "nowhere")[2]


def test_quarantine_and_back(here):
    one = ids()[1]
    assert invoke("runs", "quarantine", one)[0] == 2
    assert invoke("runs", "quarantine", one, "--reason", "backup \x1b[31m", "--by", "ada")[:2] == (0, f"{one}\n")
    assert "quarantined" in invoke("runs")[1]
    assert invoke("runs", "quarantine")[1].startswith(f"{one}: backup [31m (ada, ")
    assert invoke("compare", one, "--candidate", ids()[2])[0] == 3
    invoke("runs", "quarantine", one, "--lift")
    assert invoke("runs", "quarantine")[1] == ""


def test_verify_tells_damage(here):
    assert invoke("runs", "verify") == (0, "4 runs: 4 whole, 0 damaged\n", "")
    (here / "data/runs" / ids()[2] / "requests.parquet").unlink()
    code, out, _ = invoke("runs", "verify")
    assert (code, out.splitlines()[0]) == (2, f"✗ {ids()[2]}: requests.parquet is missing")


def test_export_needs_a_file_for_parquet(here):
    assert len(invoke("runs", "export", "--scenario", "api")[1].splitlines()) == 4
    assert len(json.loads(invoke("runs", "export", "--format", "json")[1])) == 4
    assert invoke("runs", "export", "--format", "parquet")[0] == 2
    code, _, err = invoke("runs", "export", "--format", "parquet", "--output", "out/runs.parquet")
    assert (code, err, (here / "out/runs.parquet").stat().st_size > 1000) == (0, "wrote out/runs.parquet\n", True)


def test_the_store_may_be_named_before_or_behind_the_command(here, monkeypatch):
    monkeypatch.chdir(here / "data")
    assert invoke("runs", "--store", "runs", "verify")[1] == invoke("runs", "verify", "--store", "runs")[1]


def test_sync_copies_once_and_names_what_is_damaged(here):
    assert invoke("store", "sync", "data/runs", "copy", "--dry-run")[1] == "4 runs to copy\n"
    assert invoke("store", "sync", "data/runs", "copy") == (0, "copied 4 runs; 0 were there already\n", "")
    assert invoke("store", "sync", "data/runs", "copy")[1] == "copied 0 runs; 4 were there already\n"
    (here / "copy" / "20990101T000000Z-api-half").mkdir()
    (here / "copy" / "20990101T000000Z-api-half" / "started.json").write_text("{}")
    (here / "copy" / ids()[1] / "requests.parquet").write_bytes(b"")
    code, out, err = invoke("store", "sync", "copy", "other")
    assert (code, out) == (2, "copied 3 runs; 0 were there already\n")
    assert err.splitlines() == [
        f"✗ {ids()[1]}: not copied: requests.parquet is not the file that was written; "
        "bring it back from a copy of the store",
        "! 20990101T000000Z-api-half: not copied: not finished: still running, or killed",
    ]


def test_a_place_without_runs_is_never_green(here):
    for words in (("store", "sync", "data/rums", "copy"), ("runs", "verify", "--store", "data/rums")):
        code, out, err = invoke(*words)
        assert (code, out) == (2, "")
        assert err.startswith("perfkit: data/rums: has no runs to ")
    assert not (here / "copy").exists()
    assert "no runs of the scenario 'apu' (did you mean 'api'?)" in invoke("runs", "export", "--scenario", "apu")[2]


@pytest.mark.parametrize("command", [("runs",), ("store",)])
def test_every_command_has_an_example(command):
    names = [line.split()[0] for line in invoke(*command, "--help")[1].split("Commands:\n")[1].splitlines() if line]
    assert names
    for name in names:
        assert "Example" in invoke(*command, name, "--help")[1]
