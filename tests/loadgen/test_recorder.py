"""Every request is kept: counts, values, and what can still be read of a broken recording."""

import csv
import json
import math
import os
import time
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import command, serving
from pyarrow import parquet as pq

from perfkit.loadgen.locust_process import run_locust
from perfkit.loadgen.recording import Meter, RequestBuffer, error_kind, finish_recording, usable_time
from perfkit.model.errors import LoadError, ReadError
from perfkit.runs.recording_stream import RECORDING_SCHEMA, read_recording
from perfkit.runs.requests import Tally, request_columns
from perfkit.runs.run_folder import recorded_frame, table_columns

LATELY = round(time.time()) - 3600.0  # a client may say when a request began
EVERY_KIND = """
    import sys, time
    import gevent
    from locust import FastHttpUser, HttpUser, User, events, task
    from locust.exception import StopUser

    assert "recorder" not in sys.modules, "the name belongs to the user"
    left = {"Plain", "Fast", "Custom"}

    def finish(user):
        left.discard(type(user).__name__)
        if not left:
            # Locust's CSV files are written once a second and not once more at the end
            gevent.spawn_later(1.5, user.environment.runner.quit)
        raise StopUser

    class Plain(HttpUser):
        fixed_count = 1
        @task
        def all(self):
            for n in range(60):
                self.client.get(f"/plain?n={n}", name="/plain")
            self.client.get("/plain?status=500", name="/plain")
            with self.client.get("/plain", catch_response=True, name="/plain") as answer:
                answer.failure("order 4711 of token abc is wrong")
            self.client.get("http://127.0.0.1:1/", name="/nobody")
            finish(self)

    class Fast(FastHttpUser):
        fixed_count = 1
        @task
        def all(self):
            for n in range(90):
                self.client.get("/fast?n=1", name="/fast")
            self.client.get("/fast?status=404", name="/fast")
            self.client.get("http://127.0.0.1:1/", name="/nobody")
            finish(self)

    class Custom(User):
        fixed_count = 1
        @task
        def all(self):
            fire = self.environment.events.request.fire
            fire(request_type="QUEUE", name="put", response_time=0.123456, response_length=0, start_time=LATELY)
            fire(request_type="QUEUE", name="put", response_time=2, response_length=7, exception=KeyError("secret"))
            fire(request_type="QUEUE", name="put", response_time=None, response_length=0)
            with events.request.measure("QUEUE", "take"):
                pass
            finish(self)

    @events.quitting.add_listener
    def no_pandas(environment, **_):
        environment.process_exit_code = 9 if "pandas" in sys.modules else 0
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One run of every kind of user: its command, the server's counts, the outcome, and what was recorded."""
    folder = tmp_path_factory.mktemp("every_kind")
    with serving() as loopback:
        exact = ("--json-file", str(folder / "exact"))
        asked = command(folder, EVERY_KIND.replace("LATELY", str(LATELY)), loopback.url, users=3, arguments=exact)
        outcome = run_locust(asked)
        return asked, loopback.answered, outcome, read_recording(asked.recording).to_pylist()


def test_the_run_ends_well_and_without_pandas_in_the_load_generator(recorded):
    _, _, outcome, _ = recorded
    assert (outcome.returncode, outcome.interrupted, outcome.reason) == (0, False, None), recorded[0].log.read_text()


def test_recorded_are_as_many_as_the_server_answered(recorded):
    _, answered, _, rows = recorded
    counts = Counter(row["service"] for row in rows)
    assert counts == {"/plain": 62, "/fast": 91, "/nobody": 2, "put": 2, "take": 1}
    assert {"/plain": counts["/plain"], "/fast": counts["/fast"]} == answered


def test_recorded_are_as_many_as_locust_counted(recorded):
    asked, _, _, rows = recorded
    counts = Counter((row["method"], row["service"]) for row in rows)
    counts["QUEUE", "put"] += 1  # Locust counts the one without a response time, whose time nobody knows
    exact = json.loads((asked.folder.parent / "exact.json").read_text())
    assert counts == {(entry["method"], entry["name"]): entry["num_requests"] for entry in exact}
    with (asked.folder / "source" / "locust_stats.csv").open() as file:
        table = {(row["Type"], row["Name"]): row for row in csv.DictReader(file) if row["Type"]}
    assert counts == {key: int(row["Request Count"]) for key, row in table.items()}
    failed = Counter((row["method"], row["service"]) for row in rows if row["failed"])
    assert failed == Counter(
        {key: int(row["Failure Count"]) for key, row in table.items() if row["Failure Count"] != "0"}
    )


def test_errors_are_kinds_and_hold_no_message(recorded):
    kinds = {(row["service"], row["error"]) for row in recorded[3] if row["failed"]}
    assert kinds == {
        ("/plain", "HTTPError 500"),
        ("/plain", "CatchResponseError 200"),
        ("/fast", "LocustBadStatusCode 404"),
        ("/nobody", "ConnectionRefusedError"),
        ("put", "KeyError"),
    }
    assert all((row["error"] is not None) == row["failed"] for row in recorded[3])


def test_values_are_kept_as_they_were_measured(recorded):
    first, second = (row for row in recorded[3] if row["service"] == "put")
    assert first == {
        "start": LATELY,
        "service": "put",
        "method": "QUEUE",
        "response_time_ms": 0.123456,
        "failed": False,
        "error": None,
        "response_bytes": 0,
        "service_time_ms": None,
    }
    assert (second["response_time_ms"], second["response_bytes"]) == (2.0, 7)
    times = [row["response_time_ms"] for row in recorded[3] if row["service"] == "/fast"]
    assert sum(round(time, 5) != round(time, 3) for time in times) > 0.9 * len(times)


def test_starts_lie_within_the_run(recorded):
    asked, _, _, rows = recorded
    begun, ended = asked.scenario.locustfile.stat().st_mtime, asked.log.stat().st_mtime
    starts = [row["start"] for row in rows if row["start"] != LATELY]
    assert begun < min(starts) <= max(starts) < ended


def test_the_generator_is_watched(recorded):
    with (recorded[0].folder / "source" / "generator.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"time", "users", "cpu_pct", "requests", "failures", "lag_ms", "clock_s"} <= rows[0].keys()
    assert all(row["scheduled"] == "" for row in rows)  # arrivals belong to the open model
    assert all(abs(float(row["clock_s"])) < 1 for row in rows)
    assert all(0 <= float(row["lag_ms"]) < 5000 for row in rows)
    assert int(rows[-1]["requests"]) == len(recorded[3])
    assert int(rows[-1]["failures"]) == sum(row["failed"] for row in recorded[3])
    assert all(0 <= float(row["cpu_pct"]) <= 800 for row in rows)


FILLING = """
    import resource
    import gevent
    from locust import User, task

    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))

    class Filling(User):
        @task
        def fire(self):
            for _ in range(40):
                self.environment.events.request.fire(request_type="X", name="x", response_time=1.5, response_length=1)
            gevent.sleep(0.01)
"""


def test_a_recording_that_cannot_grow_stops_the_run(tmp_path):
    asked = command(tmp_path, FILLING)
    with pytest.raises(LoadError, match=r"requests\.arrow: could not be written: .*File too large.*Free disk space"):
        run_locust(asked)
    assert read_recording(asked.recording).num_rows > 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")  # noqa: PTH110
def test_a_full_disk_stops_the_run_before_it_starts(tmp_path):
    asked = command(tmp_path, FILLING)
    asked.folder.mkdir()
    asked.recording.symlink_to("/dev/full")
    with pytest.raises(LoadError, match=r"could not be written: .*No space left on device"):
        run_locust(asked)


def written(path, *batches):
    """Write batches as the recorder does, but without the mark at the end."""
    with pa.OSFile(str(path), "wb") as sink:
        stream = pa.ipc.new_stream(sink, RECORDING_SCHEMA)
        ends = [sink.tell()]
        for batch in batches:
            stream.write_batch(batch)
            ends.append(sink.tell())
    return ends


def batch_of(*requests):
    buffer = RequestBuffer()
    for request in requests:
        buffer.on_request(**request)
    return buffer.take()


def three_batches():
    return [
        batch_of(*({"name": f"/{n}-{m}", "request_type": "GET", "response_time": m + 0.25} for m in range(5)))
        for n in range(3)
    ]


def test_a_recording_cut_anywhere_gives_its_whole_batches(tmp_path):
    path = tmp_path / "r.arrow"
    ends = written(path, *three_batches())
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        table = read_recording(path)
        assert table.num_rows == 5 * max(sum(end <= length for end in ends) - 1, 0), length
        assert table.schema == RECORDING_SCHEMA


def test_each_batch_may_know_other_services(tmp_path):
    written(tmp_path / "r.arrow", *three_batches())
    services = read_recording(tmp_path / "r.arrow")["service"].to_pylist()
    assert services == [f"/{n}-{m}" for n in range(3) for m in range(5)]


@pytest.mark.parametrize("content", [b"start,service\n", b"PAR1" * 100])
def test_another_file_is_not_taken_for_an_empty_recording(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ReadError, match="not a recording"):
        read_recording(tmp_path / "other")


def test_another_arrow_stream_is_named_as_such(tmp_path):
    table = pa.table({"a": [1]})
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(ReadError, match=r"columns are not those of a recording: \['a'\]"):
        read_recording(tmp_path / "other")


def test_a_missing_recording_is_an_error(tmp_path):
    with pytest.raises(ReadError, match="cannot be read"):
        read_recording(tmp_path / "nowhere")


def test_finishing_keeps_every_row_in_bounded_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("perfkit.loadgen.recording.ROW_GROUP_ROWS", 8)
    source, target = tmp_path / "r.arrow", tmp_path / "requests.parquet"
    written(source, *three_batches())
    before = read_recording(source).to_pylist()
    assert finish_recording(source, target) == len(before)
    assert pq.read_table(target).to_pylist() == before
    assert [pq.ParquetFile(target).metadata.row_group(n).num_rows for n in range(2)] == [8, 7]
    assert [file.name for file in tmp_path.iterdir()] == ["requests.parquet"]


def test_an_empty_recording_becomes_an_empty_file(tmp_path):
    written(tmp_path / "r.arrow")
    assert finish_recording(tmp_path / "r.arrow", tmp_path / "p") == 0
    assert pq.read_table(tmp_path / "p").schema.names == RECORDING_SCHEMA.names


def test_what_cannot_be_finished_stays(tmp_path):
    written(tmp_path / "r.arrow", *three_batches())
    (tmp_path / "p").mkdir()  # a file cannot take the place of a folder
    with pytest.raises(IsADirectoryError):
        finish_recording(tmp_path / "r.arrow", tmp_path / "p")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p", "r.arrow"]


ODD = st.sampled_from([None, 0, -1, 3, 2**70, True, 1.5, float("nan"), float("inf"), "", "12", "é\ud800", b"x", [], {}])


@given(st.lists(st.fixed_dictionaries({}, optional={
    "request_type": ODD, "name": ODD, "response_time": ODD, "response_length": ODD, "exception": ODD, "start_time": ODD,
    "response": ODD, "something_else": ODD,
}), max_size=8))  # fmt: skip
def test_whatever_is_fired_columns_stay_aligned(requests):
    buffer = RequestBuffer()
    good = {"name": "good", "request_type": "GET", "response_time": 1.5, "start_time": LATELY, "response_length": 3}
    for request in requests:
        buffer.on_request(**request)
        buffer.on_request(**good)
    batch = buffer.take()
    batch.validate(full=True)
    assert len(batch) + buffer.skipped == 2 * len(requests)
    rows = [row for row in batch.to_pylist() if row["service"] == "good"]
    expected = {"start": LATELY, "service": "good", "method": "GET", "response_time_ms": 1.5, "response_bytes": 3}
    assert rows == [expected | {"failed": False, "error": None, "service_time_ms": None}] * len(requests)


@pytest.mark.parametrize(
    ("taken", "fault"),
    [
        (None, "missing"),
        (-1.0, "negative"),
        (-(10**400), "not a number"),
        (float("nan"), "not a number"),
        (np.float32("nan"), "not a number"),
        (float("inf"), "infinite"),
        (1e300, "over 24 h"),
        (86_400_000.5, "over 24 h"),
        ("soon", "not a number"),
        ("-3", "negative"),
        (Decimal("NaN"), "not a number"),
        (Decimal("sNaN"), "not a number"),
        (np.array([1.0, 2.0]), "not a number"),
        (1j, "not a number"),
        (timedelta(seconds=1), "not a number"),
    ],
)
def test_a_response_time_of_no_use_is_counted_with_its_service_and_kept_out(taken, fault):
    buffer, skipped = RequestBuffer(), []
    buffer.on_skipped = lambda service, why: skipped.append((service, why))
    buffer.on_request("X", "odd", taken)
    buffer.on_request("X", "good", 20.0)
    assert skipped == [("odd", fault)]
    assert buffer.skipped == 1
    assert usable_time(taken) is None
    assert buffer.take()["service"].to_pylist() == ["good"]


@pytest.mark.parametrize(
    ("taken", "kept"),
    [
        (0.0, 0.0),
        (86_400_000.0, 86_400_000.0),
        ("12", 12.0),
        (np.float64(3.5), 3.5),
        (np.int16(7), 7.0),
        (Decimal("20.5"), 20.5),
        (True, 1.0),
    ],
)
def test_a_number_of_any_make_is_a_response_time(taken, kept):
    assert batch_of({"response_time": taken})["response_time_ms"].to_pylist() == [kept] == [usable_time(taken)]


def test_a_minus_zero_is_a_zero():
    (kept,) = batch_of({"response_time": -0.0})["response_time_ms"].to_pylist()
    assert math.copysign(1.0, kept) == 1.0


@pytest.mark.parametrize("start", [6685.2, float("nan"), float("inf"), -1e18, 1e18, "noon"])
def test_a_start_of_another_clock_is_taken_for_none(start):
    (row,) = batch_of({"response_time": 2000.0, "start_time": start}).to_pylist()
    assert abs(time.time() - 2.0 - row["start"]) < 5.0


@pytest.mark.parametrize(("workers", "per_second"), [(1, 1), (8, 8)])
def test_the_live_p95_is_over_seconds_however_many_batches_they_bring(monkeypatch, workers, per_second):
    now = [100.0]
    monkeypatch.setattr("perfkit.loadgen.recording.time.monotonic", lambda: now[0])
    meter = Meter()
    for second in range(20):  # ten seconds at 100 ms, then ten at 10 ms
        for _ in range(per_second):
            meter.add(batch_of(*[{"response_time": 100.0 if second < 10 else 10.0}] * 10))
        now[0] += 1.0
        if second == 14:  # half of the last ten seconds were slow
            assert meter.p95_latency_ms() == 100.0
    now[0] += 0.5
    assert meter.p95_latency_ms() == 10.0


def test_a_request_without_a_start_started_its_response_time_ago():
    row = batch_of({"response_time": 2000.0}).to_pylist()[0]
    assert abs(time.time() - 2.0 - row["start"]) < 1.0


class Answer:
    """A response that is false, as those of requests are when the status is an error."""

    status_code = 503

    def __bool__(self):
        return False


@pytest.mark.parametrize(
    ("exception", "response", "kind"),
    [
        (ValueError("token abc"), None, "ValueError"),
        (ValueError(), Answer(), "ValueError 503"),
        ("token abc", None, "error"),
        (TimeoutError(), object(), "TimeoutError"),
    ],
)
def test_error_kind(exception, response, kind):
    assert error_kind(exception, response) == kind


def test_a_recording_is_taken_apart_as_its_frame_would_be():
    """Without pandas, and from several batches with dictionaries of their own."""
    buffer, batches = RequestBuffer(), []
    for number in range(300):
        name = f"GET /{number % 7}?token=abc{number % 3}" if number < 200 else "POST /only/late"
        error = ConnectionRefusedError() if number % 11 == 0 else ValueError("no") if number % 13 == 0 else None
        size = None if number % 5 == 0 else number
        buffer.on_request("GET", name, 1.0 + number % 17, size, error, 1.76e9 + number / 10)
        if number % 97 == 0:
            batches.append(buffer.take())
    table = pa.Table.from_batches([*batches, buffer.take()], RECORDING_SCHEMA)
    for part in (table, table.unify_dictionaries(), table.slice(3, 150)):
        quick, whole = table_columns(part), request_columns(recorded_frame(part, Path("x")))
        assert quick.names == whole.names
        assert quick.digest() == whole.digest()
        assert quick.no_server == whole.no_server > 0
        for name in ("start_s", "codes", "response_time_ms", "failed", "bytes"):
            np.testing.assert_array_equal(getattr(quick, name), getattr(whole, name), strict=name != "codes")
        for code in range(len(quick.names)):
            assert Tally(quick).error_fields(code) == Tally(whole).error_fields(code)
    raw = table.set_column(
        table.schema.get_field_index("error"),
        "error",
        pa.array(["http://me:hidden@host"] * len(table)).dictionary_encode(),
    )
    assert table_columns(raw).errors[1] == ["http://host"]  # an earlier version may have written it
    assert table_columns(RECORDING_SCHEMA.empty_table()) is None
    assert table_columns(table.set_column(3, "response_time_ms", pa.array([-1.0] * len(table)))) is None
