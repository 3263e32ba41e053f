"""The index answers quickly what the runs say, and is never believed against them."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from samples import plain_stats, run, side

from perfkit import Metric, RunStore, StoreError, Validity
from perfkit.history.planning import stored_profile
from perfkit.history.timeline import load_timeline, timeline_of
from perfkit.model.codec import dump_json
from perfkit.model.errors import omissions
from perfkit.model.records import Check, Severity
from perfkit.model.serialization import read_stored, run_to_document
from perfkit.runs import index
from perfkit.runs.run_folder import sealed_document

BAD = Validity((Check("interrupted", "yes", "no", Severity.INVALID, "run again"),))
HOSTILE = "GET /<b>ü\u202e{}|`'\n"


@pytest.fixture
def store(rng, tmp_path):
    kept = RunStore(tmp_path / "runs")
    for one in side(rng, 6):
        kept.add(one)
    kept.add(run({"late": plain_stats(), HOSTILE: plain_stats(7.0)}, number=9, git={"commit": "abc", "branch": "main"}))
    kept.add(run({"gone": plain_stats()}, number=3, salt="x", validity=BAD))
    kept.add(replace(run({"late": plain_stats()}, number=11, salt="u"), id="undated-api-1234", started_at=None))
    kept.add(run({"a": plain_stats()}, scenario="rag", number=2, labels={"build": "2"}))
    return kept


def file_of(store):
    return store.folder / ".index" / "runs.arrow"


def everything(store):
    """All that the index is asked for."""
    return store.runs(), store.history("api", "rag_service", "p95_latency_ms"), load_timeline(store, "api")


def same(left, right):
    pd.testing.assert_frame_equal(left[0], right[0])
    pd.testing.assert_frame_equal(left[1], right[1])
    assert left[2].runs == right[2].runs
    assert list(left[2].series) == list(right[2].series)
    for name, values in right[2].series.items():
        np.testing.assert_array_equal(left[2].series[name], values)
        np.testing.assert_array_equal(left[2].errors[name], right[2].errors[name])
    assert list(left[2].counts) == list(right[2].counts)
    for name, counts in right[2].counts.items():
        np.testing.assert_array_equal(left[2].counts[name], counts)


def test_a_timeline_is_the_one_that_the_runs_themselves_give(store):
    told = load_timeline(store, "api")
    read = timeline_of("api", [store.get(run_id) for run_id in store.ids()])
    same((*everything(store)[:2], told), (*everything(store)[:2], read))
    assert set(told.services) == {"late", HOSTILE, "api_gateway", "rag_service", "mcp_server"}
    assert np.isnan(told.series["late", Metric.AVG][1:-1]).all()
    assert [moment.why_invalid for moment in told.runs if not moment.valid] == ["interrupted: yes"]
    with pytest.raises(StoreError, match=r"no runs of the scenario 'apu' .did you mean 'api'.*; there are api"):
        load_timeline(store, "apu")


def test_history_from_the_index_is_that_of_the_runs(store):
    every = [store.get(run_id) for run_id in store.ids()]
    own = [one for one in every if "mcp_server" in one.services and one.validity.ok]
    found = store.history("api", "mcp_server", "rps")
    assert list(found["id"]) == [one.id for one in own]
    assert list(found["value"]) == [one.services["mcp_server"].rps for one in own]
    assert list(found["standard_error"]) == [one.services["mcp_server"].standard_error("rps") for one in own]


def test_the_file_can_be_deleted_at_any_time(store):
    before = everything(store)
    assert file_of(store).is_file()
    shutil.rmtree(file_of(store).parent)
    same(everything(store), before)
    shutil.rmtree(file_of(store).parent, ignore_errors=True)
    same(everything(RunStore(store.url)), before)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other version"])
def test_a_damaged_file_is_made_anew(store, damage):
    before = everything(store)
    content = file_of(store).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    bad = {"empty": b"", "text": b"{}" * 99, "cut": content[:-9], "flipped": bytes(flipped)}
    file_of(store).write_bytes(bad.get(damage, content.replace(b"perfkit.index/", b"perfkit.older/", 1)))
    same(everything(RunStore(store.url)), before)
    assert file_of(store).read_bytes() == content


def test_no_run_is_read_twice(store, monkeypatch):
    store.runs()
    reads = []
    monkeypatch.setattr(index, "parse_run", lambda content, place: reads.append(place))
    RunStore(store.url).runs()
    assert reads == []


def test_several_processes_read_what_one_reads(store, monkeypatch):
    ids = store.ids()
    (store.folder / ids[0] / "run.json").write_text("{")
    changed = store.folder / ids[1] / "run.json"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "scenario": "another"}))
    monkeypatch.setattr(index, "AT_ONCE", 4)
    monkeypatch.setattr(index, "WORTH_PROCESSES", 5)
    told, progress = [], []
    for jobs in (1, 2):
        shutil.rmtree(file_of(store).parent, ignore_errors=True)
        opened = RunStore(store.folder, jobs=jobs, on_progress=lambda *numbers: progress.append(numbers))
        with omissions() as sentences:
            told.append((opened.index().table, opened.broken(), list(sentences)))
    assert told[0][0].equals(told[1][0])
    assert told[0][1:] == told[1][1:]
    assert list(told[0][1]) == [ids[0]]
    assert f"{ids[1]} is left out: {index.CHANGED_SINCE}" in told[0][2]
    assert progress.count((len(ids), len(ids))) >= 2


def test_an_index_that_knows_too_much_or_too_little_is_put_right(store, tmp_path):
    store.runs()
    stale = file_of(store).read_bytes()
    gone, edited = store.ids()[:2]
    shutil.rmtree(store.folder / gone)
    new = store.add(run({"a": plain_stats()}, number=50))
    document = json.loads((store.folder / edited / "run.json").read_text())
    document["scenario"] = "another"
    (store.folder / edited / "run.json").write_text(json.dumps(document))
    file_of(store).write_bytes(stale)
    frame = RunStore(store.url).runs()
    assert gone not in set(frame["id"])
    assert new in set(frame["id"])
    assert list(frame.loc[frame["id"] == edited, "scenario"]) == ["another"]


def test_runs_that_come_later_stand_where_they_belong(store, rng):
    store.runs()
    for number in (50, 1, -400, 4, 51):
        store.add(run({"b": plain_stats(7.0 + number / 100)}, number=number, salt="y"))
    told = RunStore(store.url).index()
    assert told.ids == store.ids()
    assert told.unwritten == 0
    shutil.rmtree(file_of(store).parent)
    assert RunStore(store.url).index().table.equals(told.table)


def test_the_index_of_another_store_tells_nothing(store, tmp_path):
    store.runs()
    other = RunStore(tmp_path / "other")
    kept = other.add(run({"b": plain_stats()}, number=77))
    file_of(other).parent.mkdir()
    shutil.copy(file_of(store), file_of(other))
    assert list(other.runs()["id"]) == [kept]


def test_writers_of_the_index_at_once_do_no_harm(store):
    before = everything(store)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: everything(RunStore(store.url)), range(24)):
            same(found, before)
    assert [path.name for path in file_of(store).parent.iterdir()] == ["runs.arrow"]


def test_a_store_that_may_only_be_read_is_listed_too(store, tmp_path):
    file_of(store).parent.parent.joinpath(".index").write_text("no folder can be made here")
    assert len(RunStore(store.url).runs()) == 10


HOSTILE_DOCUMENTS = {
    "array": "[]",
    "deep": "[" * 100_000,
    "not text": b"\xff\xfe",
    "nan": '"duration_s": NaN',
    "huge": '"duration_s": 1e999',
    "words": '"duration_s": "long"',
    "half a letter": '"tool": "\\ud800"',
}


@pytest.mark.parametrize("kind", HOSTILE_DOCUMENTS)
def test_a_document_that_is_none_is_named_and_skipped(store, kind):
    part = HOSTILE_DOCUMENTS[kind]
    folder = store.folder / "20990101T000000Z-api-dead"
    folder.mkdir()
    if isinstance(part, str) and part.startswith('"'):
        name = part.split(":")[0]
        lines = dump_json(run_to_document(run({"a": plain_stats()}))).splitlines()
        part = "\n".join(f"  {part}," if line.startswith(f"  {name}") else line for line in lines)
    (folder / "run.json").write_bytes(part if isinstance(part, bytes) else part.encode())
    (store.folder / "a file").write_text("")
    (store.folder / "photos").mkdir()
    (store.folder / "20990101T000000Z-api-beef" / "run.json").mkdir(parents=True)
    assert len(store.runs()) == 10
    assert "20990101T000000Z-api-dead" in store.broken()
    assert set(store.no_runs()[1]) == {"photos"}
    assert load_timeline(store, "api").runs


def test_counts_that_no_table_can_hold(store):
    document = run_to_document(run({"a": plain_stats()}))
    document["services"]["a"]["count"] = 10**30
    (store.folder / "20990101T000000Z-api-dead").mkdir()
    (store.folder / "20990101T000000Z-api-dead" / "run.json").write_text(json.dumps(document))
    assert "services.a.count: expected int <= 1000000000000000" in store.broken()["20990101T000000Z-api-dead"]


def test_a_run_in_quarantine_counts_as_invalid_and_stays_as_it_was(store):
    one = store.ids()[0]
    content = (store.folder / one / "run.json").read_bytes()
    store.quarantine(one, "the cache <b>was</b> cold", by="ada")
    assert list(store.runs(quarantined=True)["id"]) == [one]
    assert one not in set(store.history("api", "rag_service", "rps")["id"])
    assert load_timeline(store, "api").runs[1].why_invalid == "quarantined: the cache <b>was</b> cold"
    assert one not in stored_profile(store, "api").runs
    from perfkit import read_run

    for again in (store.get(one), read_run(store.folder / one)):
        assert [check.name for check in again.validity.problems] == ["quarantined"]
    assert (store.folder / one / "run.json").read_bytes() == content
    store.lift_quarantine(one)
    assert store.get(one).validity.ok
    with pytest.raises(StoreError, match="has no run 'x'"):
        store.quarantine("x", "why")
    with pytest.raises(ValueError, match="must say why"):
        store.quarantine(one, " ")


def test_runs_are_found_by_label_commit_and_branch(store):
    assert list(store.runs(build="2")["scenario"]) == ["rag"]
    assert len(store.runs(commit="abc", branch="main")) == 1
    with pytest.raises(
        ValueError, match=r"scenarioo: neither a column nor a label of any run .did you mean 'scenario'"
    ):
        store.runs(scenarioo="api")


def test_content_that_has_no_hash_is_told_apart_all_the_same(tmp_path):
    store = RunStore(tmp_path)
    one = replace(run({"a": plain_stats(20.0)}), content_hash=None)
    other = replace(one, services={"a": plain_stats(21.0)})
    ids = [store.add(one), store.add(other), store.add(one)]
    assert ids[0] == ids[2] != ids[1]
    assert len(store.ids()) == 2


def test_scenarios_whose_names_look_alike_in_a_folder_name_are_two(tmp_path):
    store = RunStore(tmp_path)
    one = run({"a": plain_stats()}, scenario="a/b")
    assert len({store.add(one), store.add(replace(one, scenario="a b"))}) == 2


@pytest.mark.parametrize("value", [0.00005, 1e-9, 0.0, 24.495185656490918, 1e16, 123456789012345680.0])
def test_a_seal_holds_however_a_number_is_written(tmp_path, value):
    """Numbers with an exponent have another form in the quick JSON, and the slow one is asked."""
    path = tmp_path / "run.json"
    path.write_bytes(sealed_document(run({"a": plain_stats(response_bytes=value)}), path / "none"))
    assert not read_stored(path.read_bytes(), "run.json").changed
    document = json.loads(path.read_bytes())
    document["services"]["a"]["response_bytes"] = value * 2 + 1
    assert read_stored(json.dumps(document).encode(), "run.json").changed
