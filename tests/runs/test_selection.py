"""A store is a collection of runs; runs are selected, sliced, added and put into tidy frames."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from samples import EPOCH, plain_stats, requests, run

from perfkit import NotStored, ReadError, RunStore, Validity, run_from_requests
from perfkit.model.errors import omissions
from perfkit.model.records import Check, Metric, Severity
from perfkit.runs.collection import Runs
from perfkit.runs.run_folder import read_requests

BAD = Validity((Check("interrupted", "yes", "no", Severity.INVALID, "run again"),))
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path):
    """Six runs of ``api``, one a day, of two commits and branches; the fourth is invalid.  One run of ``rag``."""
    store = RunStore(tmp_path / "runs")
    for day in range(6):
        commit = ("a" if day < 3 else "b") * 40
        start = datetime.fromtimestamp(EPOCH, UTC) + day * DAY
        store.add(
            run(
                {"a": plain_stats(20.0 + day), "b": plain_stats(5.0)},
                number=day * 288,
                started_at=start,
                git={"commit": commit, "branch": "main" if day % 2 == 0 else "fix"},
                labels={"machine": "large" if day > 3 else "small"},
                validity=BAD if day == 3 else Validity(),
            )
        )
    store.add(run({"a": plain_stats()}, scenario="rag", number=2))
    return store


def days(runs):
    return [(one.started_at - datetime.fromtimestamp(EPOCH, UTC)) // DAY for one in runs]


def test_a_store_is_a_collection_of_runs_oldest_first(store):
    assert len(store) == 7
    assert [one.id for one in store] == store.ids() == list(store[:].ids)
    assert store[0].id in store
    assert store[0] in store
    assert "20251017" not in store
    assert isinstance(store[-3:], Runs)
    assert store[-3:].ids == tuple(store.ids()[-3:])


def test_a_run_is_had_by_any_unique_beginning_of_its_id(store):
    whole = store.ids()[-1]
    assert store[whole] == store[whole[:8]] == store[-1] == store[:][whole[:8]]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("2025", r"7 runs begin with '2025': 2025"),
        ("20251017T143004Z-apu-0000", r"no run .*did you mean '202510"),
        ("", "no run ''"),
    ],
)
def test_an_id_that_names_no_run_or_several_is_told(store, key, text):
    with pytest.raises(NotStored, match=text):
        store[key]
    with pytest.raises(NotStored, match=text):
        store[:][key]
    with pytest.raises(IndexError):
        store[99]


def test_a_broken_run_hides_no_other_and_is_told_when_it_is_asked_for(store):
    broken = store.ids()[2]
    (store.folder / broken / "run.json").write_text("{")
    again = RunStore(store.folder)
    assert len(again) == len(list(again)) == 6
    with pytest.raises(ReadError, match=broken):
        again[broken]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [0, 1, 2, 4, 5]),
        ({"valid": None}, [0, 1, 2, 3, 4, 5]),
        ({"valid": False}, [3]),
        ({"last": 2}, [4, 5]),
        ({"last": 99}, [0, 1, 2, 4, 5]),
        ({"since": date(2025, 10, 21)}, [4, 5]),
        ({"since": "2025-10-21T14:30:05Z"}, [5]),
        ({"until": "2025-10-18"}, [0, 1]),
        ({"until": datetime(2025, 10, 18, tzinfo=UTC)}, [0]),
        ({"since": "2025-10-18", "until": "2025-10-19"}, [1, 2]),
        ({"until": "9999-12-31"}, [0, 1, 2, 4, 5]),
        ({"commit": "bbbb"}, [4, 5]),
        ({"branch": "fix", "last": 1}, [5]),
        ({"labels": {"machine": "small"}}, [0, 1, 2]),
        ({"labels": {"machine": "none"}}, []),
    ],
)
def test_runs_are_selected_by_every_condition(store, conditions, expected):
    assert days(store.select("api", **conditions)) == expected


def test_a_selection_without_a_scenario_is_of_all(store):
    assert len(store.select()) == 6
    assert {one.scenario for one in store.select(until=date(2025, 10, 17))} == {"api", "rag"}


def test_quarantined_runs_and_those_of_ab_tests_are_not_selected(store):
    store.quarantine(store.select("api")[0].id, "a backup ran")
    store.add(run({"a": plain_stats(9.0)}, number=9999, labels={"side": "baseline", "pair": "1"}))
    assert days(store.select("api")) == [1, 2, 4, 5]
    assert len(store) == 8


def test_a_run_dated_in_the_future_is_never_the_newest(store):
    store.add(run({"a": plain_stats(9.0)}, started_at=datetime.now(UTC) + 900 * DAY, number=1))
    assert days(store.select("api", last=1)) == [5]


@pytest.mark.parametrize(
    ("conditions", "error", "text"),
    [
        ({"scenario": "apo"}, NotStored, "did you mean 'api'"),
        ({"commit": "cccc"}, ReadError, "no valid run of that commit; the newest with runs are bbbbbbbbbb, aaaaaaaaaa"),
        ({"commit": "xyz"}, ReadError, "at least 4 hexadecimal digits"),
        ({"branch": "mian"}, ReadError, "did you mean 'main'"),
        ({"last": 0}, ValueError, "from 1 on, got 0"),
        ({"since": "yesterday"}, ValueError, "since: expected a time such as 2026-11-01"),
        ({"until": 5}, ValueError, "until: expected a time or a day, got 5"),
    ],
)
def test_a_condition_that_cannot_be_met_is_told(store, conditions, error, text):
    with pytest.raises(error, match=text):
        store.select(conditions.pop("scenario", "api"), **conditions)


def test_only_the_runs_that_are_looked_at_are_read(store, monkeypatch):
    read = []
    get = RunStore.get
    monkeypatch.setattr(RunStore, "get", lambda self, run_id: read.append(run_id) or get(self, run_id))
    chosen = store.select("api")
    assert (len(chosen), len(chosen[-2:].ids), read) == (5, 2, [])
    assert "Runs: 5" in repr(chosen)
    assert read == []
    assert chosen[-1].id == chosen[-2:][-1].id == (chosen[:1] + chosen[-1:])[1].id
    assert read == [chosen.ids[-1]]


def test_runs_are_added_sliced_and_compared(store):
    runs = store.select("api")
    assert isinstance(runs + store.select("rag"), Runs)
    assert (runs[:2] + runs[2:]) == runs
    assert isinstance(list(runs[:1]) + runs[1:], Runs)
    assert list(runs[:1]) + runs[1:] == runs
    assert runs[0] in runs
    assert runs.ids[0] in runs
    with pytest.raises(TypeError):
        runs + 1
    with pytest.raises(TypeError):
        runs[0] = runs[1]


def test_the_frame_of_runs_is_tidy(store):
    frame = store.select("api", last=2).to_frame()
    assert list(frame) == ["run", "started_at", "commit", "service", "metric", "value", "standard_error"]
    assert len(frame) == 2 * 2 * len(Metric)
    averages = frame[(frame["service"] == "a") & (frame["metric"] == "avg_latency_ms")]
    assert averages["value"].tolist() == [24.0, 25.0]
    assert frame["value"].dtype == frame["standard_error"].dtype == float
    assert str(frame["started_at"].dt.tz) == "UTC"
    assert list(Runs().to_frame()) == list(frame)


def test_the_requests_of_runs_are_one_frame(rng, tmp_path):
    store = RunStore(tmp_path)
    frames = [requests(rng, seconds=4), requests(rng, seconds=3, services={"other": 9.0}, begin=EPOCH + 3600)]
    for frame in frames:
        store.add(run_from_requests(frame.assign(service=frame["service"].astype("category")), scenario="api"))
    merged = store[:].requests()
    assert next(iter(merged)) == "run"
    assert merged.groupby("run", observed=True).size().tolist() == list(map(len, frames))
    assert set(merged["service"]) == {service for frame in frames for service in frame["service"]}
    assert merged["service"].dtype == "category"
    summary = replace(store[0], load_requests=None, id="summary")
    with omissions() as sentences:
        assert len((Runs([summary]) + store[1:]).requests()) == len(frames[1])
    assert list(sentences) == ["summary is left out: it is a summary without requests"]
    with pytest.raises(ReadError, match="1 runs: none of them keeps its requests"):
        Runs([summary]).requests()
    assert len((store[:1] + store[:1]).requests()) == 2 * len(frames[0])


def test_requests_are_read_once_and_given_as_copies(rng, tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    for hour in range(3):
        store.add(run_from_requests(requests(rng, seconds=4, begin=EPOCH + 3600 * hour), scenario="api"))
    runs = store[:]
    read = []
    target = "perfkit.runs.run_folder.read_requests"
    monkeypatch.setattr(target, lambda *given: read.append(given) or read_requests(*given))
    first = runs[0].requests()
    whole = first.copy()
    first["response_time_ms"] = 0.0
    assert runs[0].requests().equals(whole)
    assert len(read) == 1
    size = int(whole.memory_usage().sum())
    monkeypatch.setattr("perfkit.runs.requests.BYTES_KEPT", int(2.5 * size))
    sized = []
    measure = pd.DataFrame.memory_usage
    monkeypatch.setattr(pd.DataFrame, "memory_usage", lambda *given: sized.append(given) or measure(*given))
    for one in (*runs, runs[2], runs[0]):  # two frames fit: the third takes the place of the first
        assert len(one.requests())
    assert len(read) == 4
    assert len(sized) == 3  # each frame once, or thousands of runs take a time that grows with their square
