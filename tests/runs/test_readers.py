"""Files of other tools and of perfkit itself: recognised, read with what they can say, refused by name and line."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import EPOCH, HISTORY_HEADER, STATS_HEADER, requests, write_locust

from perfkit import PerfkitError, ReadError, RunStore, UnknownFormat, read_run, run_from_requests
from perfkit.history.run_selector import expand_path
from perfkit.model.records import LoadProfile, Run, Stage, Validity
from perfkit.model.serialization import run_to_document
from perfkit.runs import run_folder
from perfkit.runs.metrics_json import pooled_metrics
from perfkit.runs.read import READERS
from perfkit.runs.requests import summarised
from perfkit.runs.validity import GeneratorFacts
from perfkit.stats.summary import time_series_errors

# Locust CSV -------------------------------------------------------------------------------------------------------


@pytest.fixture
def locust_set(rng, tmp_path):
    frame = requests(rng, errors=0.01)
    return frame, write_locust(tmp_path / "load_results_api", frame, users=30)


def test_a_locust_set_is_found_under_each_of_its_names(locust_set, tmp_path):
    _, main = locust_set
    names = [main, tmp_path, tmp_path / "load_results_api", tmp_path / "load_results_api_stats_history.csv"]
    assert {read_run(name).content_hash for name in names} == {read_run(main).content_hash}


def test_what_locust_tells_is_read_and_its_rounding_is_known(locust_set):
    frame, main = locust_set
    run = read_run(main)
    assert (run.scenario, run.profile.users, run.tool) == ("load_results_api", 30, "locust csv")
    assert run.started_at.timestamp() == int(frame["start"].min())
    assert set(run.services) == set(frame["service"])
    stats, part = run.services["rag_service"], frame[frame["service"] == "rag_service"]
    assert (stats.count, stats.failures) == (len(part), int(part["failed"].sum()))
    assert stats.avg_latency_ms == pytest.approx(part["response_time_ms"].mean())
    exact = np.quantile(part["response_time_ms"], 0.95)
    assert stats.p95_latency_ms == pytest.approx(exact, abs=10)
    assert stats.resolutions["p95_latency_ms"] == 10
    assert stats.standard_error("p95_latency_ms") >= 10 / math.sqrt(12)
    assert run.requests() is None


def test_a_percentile_that_the_summary_cannot_carry_is_withheld(rng, tmp_path):
    run = read_run(write_locust(tmp_path / "short", requests(rng, seconds=2.0, rate=20.0)))
    stats = run.services["api_gateway"]
    assert stats.p99_latency_ms is None
    assert any("p99" in warning for warning in stats.warnings)


def test_line_ends_byte_order_marks_and_foreign_bytes(rng, tmp_path):
    main = write_locust(tmp_path / "odd", requests(rng), line_end="\r\r\n")
    text = main.read_bytes()
    main.write_bytes(b"\xef\xbb\xbf" + text.replace(b"mcp_server", b"mcp_\xb3\xc7"))
    assert sorted(read_run(main).services)[0] == "api_gateway"
    assert len(read_run(main).services) == 3


def rewritten(main, change):
    main.write_text(change(main.read_text()), newline="")
    return main


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.splitlines()[0] + "\r\n", "holds a header and no rows"),
        (lambda text: text[: int(len(text) * 0.6)], "line"),
        (lambda text: text.replace("Failure Count", "Whatever"), "line 1: missing column failure count"),
        (
            lambda text: text.replace("GET,api_gateway,", "GET,api_gateway,minus "),
            "line 2: request count: expected a whole number",
        ),
        (
            lambda text: text.replace("GET,api_gateway,", "GET,api_gateway,-"),
            "line 2: request count: expected a whole number",
        ),
    ],
)
def test_a_broken_locust_file_is_refused_by_line(locust_set, change, says):
    main = rewritten(locust_set[1], change)
    with pytest.raises(ReadError) as caught:
        read_run(main)
    assert str(main) in str(caught.value)
    assert says in str(caught.value)


def test_a_folder_with_several_runs_asks_which(rng, tmp_path):
    for name in ("one", "two"):
        write_locust(tmp_path / name, requests(rng))
    with pytest.raises(ReadError, match="several Locust runs"):
        read_run(tmp_path)


def test_a_file_that_contradicts_itself_warns(rng, tmp_path):
    main = write_locust(tmp_path / "odd", requests(rng))
    lines = main.read_text().splitlines()
    cells = lines[-1].split(",")
    lines[-1] = ",".join([*cells[:2], "7", *cells[3:]])
    main.write_text("\n".join(lines))
    assert [check.name for check in read_run(main).validity.problems] == ["counts"]


def test_counts_of_a_history_that_locust_was_killed_while_writing(locust_set, tmp_path):
    history = tmp_path / "load_results_api_stats_history.csv"
    history.write_text(history.read_text()[:-40])
    assert read_run(locust_set[1]).profile.users == 30


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"hello"),
        ("empty.csv", b""),
        ("other_stats.csv", b"name,age\r\nme,7\r\n"),
        ("a_requests.csv", b"\r\r\r"),
        ("binary.csv", bytes(range(256))),
        ("list.json", b"[1, 2]"),
        ("table.parquet", b"PAR1...."),
    ],
)
def test_a_foreign_file_is_refused_and_the_known_formats_are_named(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UnknownFormat, match="no reader knows this format") as caught:
        read_run(file)
    assert "Locust CSV" in str(caught.value)


def test_nothing_at_that_path(tmp_path):
    with pytest.raises(ReadError, match="there is no such file"):
        read_run(tmp_path / "missing")


@given(st.binary(max_size=400), st.sampled_from(["x_stats.csv", "x.json", "run.json", "x_requests.csv", "x"]))
def test_no_bytes_crash_a_reader(tmp_path_factory, content, name):
    file = tmp_path_factory.mktemp("bytes") / name
    file.write_bytes(content)
    with pytest.raises(PerfkitError):
        read_run(file)


@given(st.lists(st.text(max_size=12), min_size=len(STATS_HEADER), max_size=len(STATS_HEADER)))
def test_no_cells_crash_the_locust_reader(tmp_path_factory, cells):
    file = tmp_path_factory.mktemp("cells") / "x_stats.csv"
    row = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    file.write_text(",".join(STATS_HEADER) + "\n" + row + "\n", encoding="utf-8", errors="replace", newline="")
    history = file.with_name("x_stats_history.csv")
    history.write_text(",".join(HISTORY_HEADER) + "\n" + row, encoding="utf-8", errors="replace", newline="")
    try:
        read_run(file)
    except ReadError as error:
        assert str(file) in str(error) or str(history) in str(error)  # noqa: PT017 - the reader may also succeed


# Metrics and baselines JSON ---------------------------------------------------------------------------------------

METRICS = {"api": {"avg_latency_ms": 20.5, "rps": 5.0, "total_requests": 300, "total_failures": 3, "duration_s": 60.0}}


def json_file(folder, document):
    path = folder / "metrics.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_metrics_json(tmp_path):
    stats = read_run(json_file(tmp_path, METRICS)).services["api"]
    assert (stats.count, stats.failures, stats.avg_latency_ms, stats.p95_latency_ms) == (300, 3, 20.5, None)
    assert stats.error_rate_pct == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ('{"api": {"rps": 5.0,', "not JSON"),
        ('{"api": {"rps": NaN}}', "NaN is not a number"),
        ({"api": {"rps": "fast"}}, "api: rps: expected a number >= 0, got 'fast'"),
        ({"api": {"rps": -1}}, "api: rps: expected a number >= 0"),
        ({"api": {"rps": 5.0, "timestamp": "yesterday"}}, "expected an ISO 8601 time"),
        ({"api": {"rps": True}}, "api: rps: expected a number >= 0, got True"),
        ({"api": {"rps": 5.0, "timestamp": ""}}, "expected an ISO 8601 time, got ''"),
        ({"api": {"rps": 5.0, "timestamp": 0}}, "expected an ISO 8601 time, got 0"),
        ({"api": {"p95_latency_ms": 9, "p99_latency_ms": 8}}, "api: p99_latency_ms is 8 and p95_latency_ms is 9: perc"),
        (
            {"api": {"avg_latency_ms": 0.1, "p95_latency_ms": 40}},
            "avg_latency_ms is 0.1, too little for p95_latency_ms",
        ),
        (
            {"api": {"error_rate_pct": 0, "total_requests": 1000, "total_failures": 30}},
            "api: error_rate_pct is 0, and 30 of 1000 requests failed",
        ),
    ],
)
def test_broken_metrics_json_names_the_place(tmp_path, document, says):
    path = json_file(tmp_path, document)
    with pytest.raises(ReadError) as caught:
        read_run(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_pooled_metrics_add_counts_and_average_the_rest(tmp_path):
    entry = METRICS["api"]
    one = read_run(json_file(tmp_path, METRICS))
    two = read_run(json_file(tmp_path, {"api": {**entry, "avg_latency_ms": 22.5, "total_failures": 0}}))
    pooled = pooled_metrics([one, two])["api"]
    assert (pooled["total_requests"], pooled["total_failures"], pooled["duration_s"]) == (600, 3, 120.0)
    assert pooled["avg_latency_ms"] == pytest.approx(21.5)
    assert pooled["error_rate_pct"] == pytest.approx(0.5)
    assert "p95_latency_ms" not in pooled


def test_pooled_metrics_of_runs_of_unknown_length_claim_no_length(tmp_path):
    known = read_run(json_file(tmp_path, METRICS))
    unknown = read_run(json_file(tmp_path, {"api": {"rps": 5.0, "total_requests": 300}}))
    assert "duration_s" not in pooled_metrics([known, unknown])["api"]


def test_what_pooled_metrics_wrote_can_be_read_again(rng, tmp_path):
    run = read_run(write_locust(tmp_path / "api", requests(rng)))
    again = read_run(json_file(tmp_path, pooled_metrics([run])))
    for name, stats in run.services.items():
        assert again.services[name].count == stats.count
        assert again.services[name].p95_latency_ms == stats.p95_latency_ms


# Tables of requests -----------------------------------------------------------------------------------------------


def test_aware_times_and_seconds_mean_the_same(rng):
    frame = requests(rng)
    aware = frame.assign(start=pd.to_datetime(frame["start"], unit="s", utc=True).dt.tz_convert("Asia/Kolkata"))
    one, two = run_from_requests(frame), run_from_requests(aware)
    assert one.started_at.replace(microsecond=0) == two.started_at.replace(microsecond=0)
    assert two.services["api_gateway"].rps == pytest.approx(one.services["api_gateway"].rps, rel=1e-4)


@pytest.mark.parametrize("kind", ["pyarrow", "object"])
def test_aware_times_of_any_make(rng, kind):
    frame = requests(rng)
    times = pd.to_datetime(frame["start"], unit="s", utc=True).dt.floor("us")
    odd = frame.assign(start=times).convert_dtypes(dtype_backend="pyarrow")
    if kind == "object":
        odd = frame.assign(start=pd.Series([time.to_pydatetime() for time in times], dtype=object))
    one, two = run_from_requests(frame).services["api_gateway"], run_from_requests(odd).services["api_gateway"]
    assert two.avg_latency_ms == pytest.approx(one.avg_latency_ms)
    assert two.rps == pytest.approx(one.rps, rel=1e-4)


def test_one_request_has_no_rate(rng):
    assert run_from_requests(requests(rng).head(1)).services.popitem()[1].rps is None


def test_labels_scenario_and_requests_are_kept(rng):
    frame = requests(rng).assign(region="eu")
    run = run_from_requests(frame, scenario="api", build="1.4.2")
    assert (run.scenario, dict(run.labels)) == ("api", {"build": "1.4.2"})
    assert {"start", "service", "response_time_ms", "failed", "region"} <= set(run.requests().columns)
    assert len(run.requests()) == len(frame)


def test_the_order_of_rows_does_not_change_a_number(rng):
    frame = requests(rng)
    shuffled = frame.sample(frac=1.0, random_state=1)
    one, two = run_from_requests(frame).services, run_from_requests(shuffled).services
    for name, stats in one.items():
        assert two[name].p99_latency_ms == pytest.approx(stats.p99_latency_ms)
        assert two[name].avg_latency_ms == pytest.approx(stats.avg_latency_ms)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"drop": "failed"}, "missing column failed"),
        ({"response_time_ms": "slow"}, "column response_time_ms holds something that is not a number"),
        ({"start": pd.Timestamp("2026-01-01")}, "times without a zone"),
        (
            {"response_time_ms": pd.Timedelta("3s")},
            "column response_time_ms holds timedelta64[us]: expected plain numb",
        ),
        ({"response_time_ms": 1j}, "column response_time_ms holds complex128: expected plain numbers"),
        ({"start": 1j}, "column start holds complex128: expected plain numbers"),
        ({"service": [["/a"]]}, "column service holds something that is not a text"),
        ({"error": [{"why": 1}]}, "column error holds something that is not a text"),
        ({"start": 1e18}, "start must be in seconds since the epoch"),
        ({"failed": "no"}, "failed must hold booleans"),
        ({"failed": None}, "failed is missing in row 0"),
        ({"service": None}, "service is missing in row 0"),
    ],
)
def test_a_table_that_is_not_one_of_requests(change, says):
    row = {"start": EPOCH, "service": "api", "response_time_ms": 20.0, "failed": False}
    frame = pd.DataFrame([{**row, **change}, {**row, **change}])
    frame = frame.drop(columns=[change["drop"], "drop"]) if "drop" in change else frame
    with pytest.raises(ValueError, match="requests: ") as caught:
        run_from_requests(frame)
    assert says in str(caught.value)


def test_half_a_character_names_no_service(rng):
    frame = requests(rng)
    frame["service"] = pd.Series(["\ud800"] * len(frame), dtype=object)
    with pytest.raises(ValueError, match=r"requests: column service holds '\\ud800', which is no Unicode text"):
        run_from_requests(frame)


@pytest.mark.parametrize("odd", [-1.0, math.nan, math.inf, -math.inf, 1e300, 86_400_001.0, None])
def test_a_response_time_of_no_use_is_left_out_and_the_rest_is_whole(rng, odd):
    good = requests(rng)
    bad = pd.DataFrame({"start": [EPOCH, EPOCH + 1], "service": "/odd", "response_time_ms": odd, "failed": False})
    run = run_from_requests(pd.concat([bad.head(1), good, bad.tail(1)]))
    assert dict(run.services) == dict(run_from_requests(good).services)
    assert len(run.requests()) == len(good)
    (check,) = run.validity.problems
    assert (check.name, check.value, check.severity) == ("skipped_requests", 2, "warn")
    assert "2 requests of /odd (2) have no usable response time" in check.advice


ODD_ROW = """Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Requests/s,50%,95%
GET,/ok,1000,3,20,21.5,50,20,35
X,/odd,500,1,ODD,ODD,25,ODD,ODD
,Aggregated,1500,4,20,TOTAL,75,20,35
"""


@pytest.mark.parametrize(
    ("odd", "fault"), [("-1", "negative"), ("nan", "not a number"), ("inf", "infinite"), ("1e300", "over 24 h")]
)
def test_a_service_of_a_stats_file_whose_times_are_of_no_use_is_left_out(tmp_path, odd, fault):
    file = tmp_path / "run_stats.csv"
    file.write_text(ODD_ROW.replace("ODD", odd).replace("TOTAL", odd))
    run = read_run(file)
    assert {name: (stats.count, stats.avg_latency_ms) for name, stats in run.services.items()} == {"/ok": (1000, 21.5)}
    assert run.duration_s == pytest.approx(20.0)
    (check,) = run.validity.problems
    assert (check.name, check.value, check.severity) == ("skipped_requests", 500, "warn")
    assert f"500 requests of /odd (500) have no usable response time ({fault})" in check.advice


def test_a_stats_file_with_nothing_of_use_is_invalid(tmp_path):
    lines = ODD_ROW.replace("ODD", "-1").replace("TOTAL", "-1").replace("1500,4", "500,1").splitlines()
    (tmp_path / "run_stats.csv").write_text("\n".join(line for line in lines if "/ok" not in line) + "\n")
    run = read_run(tmp_path / "run_stats.csv")
    assert not run.validity.ok
    assert {"requests", "skipped_requests"} <= {check.name for check in run.validity.problems}


def test_requests_that_are_all_of_no_use_make_an_invalid_run():
    bad = pd.DataFrame({"start": [EPOCH], "service": "/odd", "response_time_ms": -1.0, "failed": False})
    run = run_from_requests(bad)
    assert not run.validity.ok
    assert {"requests", "skipped_requests"} <= {check.name for check in run.validity.problems}


def test_no_requests_at_all_make_an_invalid_run(rng):
    run = run_from_requests(requests(rng).head(0))
    assert not run.validity.ok
    assert dict(run.services) == {}


# Run folders ------------------------------------------------------------------------------------------------------


def test_a_run_folder_says_what_was_kept(rng, tmp_path):
    run = run_from_requests(requests(rng), scenario="api", build="7")
    folder = tmp_path / RunStore(tmp_path).add(run)
    again = read_run(folder)
    assert again.services == run.services
    assert again.validity == run.validity
    assert (again.id, again.labels, again.started_at) == (run.id, run.labels, run.started_at)
    pd.testing.assert_frame_equal(again.requests(), run.requests(), check_dtype=False)
    assert read_run(folder / "run.json").id == run.id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-30], "not JSON"),
        (lambda text: text.replace("perfkit.run/1", "perfkit.run/9"), "newer perfkit"),
        (lambda text: text.replace('"scenario"', '"other"'), "scenario"),
        (lambda text: text.replace('"services": {', '"services": 7, "was": {'), "services"),
    ],
)
def test_a_broken_run_folder_names_its_file(rng, tmp_path, change, says):
    folder = tmp_path / RunStore(tmp_path).add(run_from_requests(requests(rng)))
    file = folder / "run.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ReadError) as caught:
        read_run(folder)
    assert str(file) in str(caught.value)
    assert says in str(caught.value)


def test_requests_that_were_lost_are_named_when_they_are_wanted(rng, tmp_path):
    folder = tmp_path / RunStore(tmp_path).add(run_from_requests(requests(rng)))
    (folder / "requests.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ReadError, match=r"requests\.parquet: is not the file that was written"):
        read_run(folder).requests()


def test_a_run_folder_can_move(rng, tmp_path):
    run_id = RunStore(tmp_path / "here").add(run_from_requests(requests(rng)))
    shutil.move(tmp_path / "here" / run_id, tmp_path / "there")
    run = read_run(tmp_path / "there")
    assert run.source == str(tmp_path / "there")
    assert len(run.requests()) > 0


def test_every_reader_has_what_the_registry_asks_for(tmp_path):
    for reader in READERS:
        assert reader.TITLE
        assert reader.sniff(tmp_path / "missing") is False
        assert reader.sniff(tmp_path) is False


def test_a_folder_of_folders_of_locust_sets_is_all_of_them(rng, tmp_path):
    for name in ("repeat_0", "repeat_1"):
        (tmp_path / name).mkdir()
        write_locust(tmp_path / name / "results", requests(rng))
    assert [path.name for path in expand_path(str(tmp_path))] == ["repeat_0", "repeat_1"]


def test_the_order_of_rows_and_unused_names_do_not_make_another_run(rng):
    frame = requests(rng)
    shuffled = frame.sample(frac=1, random_state=1)
    named = frame.assign(service=pd.Categorical(frame["service"], [*frame["service"].unique(), "unused"]))
    hashes = {run_from_requests(one).content_hash for one in (frame, shuffled, named)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(start=pd.to_timedelta(f["start"], unit="s")), "start holds lengths of time"),
        (lambda f: pd.concat([f, f[["failed"]]], axis=1), "the column 'failed' stands there twice"),
        (lambda f: f.to_dict(), "expected a DataFrame"),
    ],
)
def test_odd_tables_of_requests_are_refused(rng, change, message):
    with pytest.raises(ValueError, match=message):
        run_from_requests(change(requests(rng)))


def test_a_service_without_a_name_gets_one(rng):
    assert set(run_from_requests(requests(rng).assign(service=" ")).services) == {"(no name)"}


# Locust's layouts through the ages --------------------------------------------------------------------------------

OLD_TITLES = (
    '"Method","Name","# requests","# failures","Median response time","Average response time",'
    '"Min response time","Max response time","Average Content Size","Requests/s"'
)
OLD_REQUESTS = f"""{OLD_TITLES}
"GET","/items",1000,3,47,52,15,680,35,20.00
"POST","/items",500,0,90,101,20,900,35,10.00
"None","Total",1500,3,60,68,15,900,35,30.00
"""
OLD_DISTRIBUTION = """"Name","# requests","50%","66%","75%","80%","90%","95%","98%","99%","100%"
"GET /items",1000,47,55,60,66,90,130,200,310,680
"POST /items",500,90,100,110,120,180,250,390,510,900
"None Total",1500,60,70,80,90,130,190,300,400,900
"""
FOURTEEN_TITLES = OLD_TITLES.replace("Method", "Type") + (
    ',"Requests Failed/s","50%","66%","75%","80%","90%","95%","98%","99%","99.9%","99.99%","99.999","100%"'
)
FOURTEEN = f"""{FOURTEEN_TITLES}
"GET","/items",1000,3,47,52,15,680,35,20.00,0.06,47,55,60,66,90,130,200,310,600,680,680,680
"None","Aggregated",1000,3,47,52,15,680,35,20.00,0.06,47,55,60,66,90,130,200,310,600,680,680,680
"""


def test_locust_before_0_12_keeps_percentiles_in_a_file_of_their_own(tmp_path):
    (tmp_path / "old_requests.csv").write_text(OLD_REQUESTS)
    alone = read_run(tmp_path / "old_requests.csv")
    assert alone.services["GET /items"].p95_latency_ms is None
    (tmp_path / "old_distribution.csv").write_text(OLD_DISTRIBUTION)
    for name in ("old_requests.csv", "old_distribution.csv", "old", ""):
        run = read_run(tmp_path / name)
        assert set(run.services) == {"GET /items", "POST /items"}
        assert (run.services["GET /items"].p95_latency_ms, run.services["POST /items"].p99_latency_ms) == (130, 510)
        # Whole milliseconds and hundredths of a request per second are a rounding.
        steps = run.services["GET /items"].resolutions
        assert (steps["avg_latency_ms"], steps["rps"]) == (1.0, 0.01)


def test_a_distribution_file_that_is_cut_off_is_named(tmp_path):
    (tmp_path / "old_requests.csv").write_text(OLD_REQUESTS)
    (tmp_path / "old_distribution.csv").write_text(OLD_DISTRIBUTION[:-40])
    with pytest.raises(ReadError, match=r"old_distribution\.csv: line 4: .* is the file cut off"):
        read_run(tmp_path)


def test_locust_0_14_and_columns_in_any_order(tmp_path):
    (tmp_path / "run_stats.csv").write_text(FOURTEEN)
    lines = [line.split(",") for line in FOURTEEN.splitlines()]
    (tmp_path / "turned_stats.csv").write_text("\n".join(",".join(reversed(cells)) for cells in lines) + "\n")
    for name in ("run_stats.csv", "turned_stats.csv"):
        stats = read_run(tmp_path / name).services["/items"]
        assert (stats.count, stats.failures, stats.p99_latency_ms, stats.rps) == (1000, 3, 310, 20.0)


def history(folder, rows):
    head = "Timestamp,User Count,Type,Name,Requests/s,50%,Total Request Count,Total Average Response Time"
    (folder / "run_stats_history.csv").write_text("\n".join([head, *rows]) + "\n")


def test_the_time_course_tells_the_error_of_the_whole_run(rng, tmp_path):
    """Latency that wanders in the run makes its average less certain than its requests alone would say."""
    (tmp_path / "run_stats.csv").write_text(FOURTEEN)
    plain = read_run(tmp_path / "run_stats.csv").services["/items"]
    assert "avg_latency_ms" in plain.assumed
    errors, waves = [], []
    for swing in (0.0, 0.5):
        levels = 52 * (1 + swing * np.sign(np.sin(np.arange(200) / 15))) * rng.lognormal(0, 0.02, 200)
        counts, means = 5 * np.arange(1, 201), np.cumsum(levels) / np.arange(1, 201)
        rows = [f"{1000 + i},9,,Aggregated,5,N/A,{counts[i]},{means[i]}" for i in range(200)]
        history(tmp_path, ["999,0,,Aggregated,0,N/A,0,0", rows[0], *rows, "1201,0,,Aggr"])
        stats = read_run(tmp_path / "run_stats.csv").services["/items"]
        assert not {"avg_latency_ms", "rps"} & set(stats.assumed)
        errors.append(stats.standard_error("avg_latency_ms") / stats.avg_latency_ms)
        waves.append(stats.persistence)
    assert waves[0] < 0.7 < waves[1]
    assert errors[1] > 2 * errors[0]  # the first is that of independent requests, from the percentiles


def test_the_error_of_a_course_is_what_runs_of_the_same_kind_scatter_by(rng):
    """Calibration: autocorrelated courses; the error claimed inside one run against the scatter between runs."""
    means, claimed = [], []
    for _ in range(300):
        noise = np.zeros(600)
        for i in range(1, 600):
            noise[i] = 0.8 * noise[i - 1] + rng.normal(0, 0.05)
        levels = 100 * np.exp(noise)
        counts = 20.0 * np.arange(1, 601)
        averages = np.cumsum(levels) / np.arange(1, 601)
        means.append(np.log(averages[-1]))
        claimed.append(time_series_errors(np.arange(600.0), counts, averages).average)
    assert np.sqrt(np.mean(np.square(claimed))) == pytest.approx(np.std(means), rel=0.15)


def test_a_course_that_is_too_short_says_nothing():
    few = np.arange(4.0)
    assert time_series_errors(few, 100 * few, 20 + few) is None
    assert time_series_errors(np.arange(60.0), np.zeros(60), np.zeros(60)) is None
    assert time_series_errors(np.arange(119.0), 100.0 * np.arange(1, 120), 20 + np.arange(119.0)).persistence is None


def test_many_requests_are_summed_up_in_parts_to_the_same_digits(tmp_path, rng, monkeypatch):
    """Rows in order of completion, one of them late by most of the run; services and errors that begin in mid-run."""
    n = 20_000
    start = 1.76e9 + np.sort(rng.uniform(0, 120, n))
    times = rng.lognormal(3, 0.5, n) * np.where(start < 1.76e9 + 10, 3, 1)
    times[5] = 110_000.0
    service = np.where(np.arange(n) < n // 2, rng.choice(["a", "c"], n), rng.choice(["a", "b", "c"], n))
    failed = rng.random(n) < 0.03
    kinds = np.where(np.arange(n) < n // 3, "HTTPError 500", rng.choice(["ConnectionRefusedError", "HTTPError 500"], n))
    frame = pd.DataFrame({"start": start, "service": service, "response_time_ms": times, "failed": failed})
    frame = frame.assign(error=np.where(failed, kinds, None), response_bytes=rng.integers(0, 99, n).astype(float))
    frame.loc[frame.index % 7 == 0, "response_bytes"] = np.nan
    frame = frame.iloc[np.argsort(start + times / 1e3)].astype({"service": "category", "error": "category"})
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "requests.parquet", row_group_size=999)
    profile = LoadProfile("stages", stages=(Stage(50.0, 5, 5), Stage(90.0, 9, 9)))

    def document():
        run = Run("x", "x", None, None, profile, Validity(), {}, tool="perfkit")
        requests = run_folder.recorded_requests(tmp_path / "requests.parquet")
        return type(requests).__name__, run_to_document(summarised(run, requests, GeneratorFacts()))

    def leaves(value, path=""):
        if isinstance(value, dict | list):
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from leaves(inner, f"{path}/{name}")
        else:
            yield path, value

    kind, whole = document()
    monkeypatch.setattr(run_folder, "MOST_HELD", 1000)
    monkeypatch.setattr("perfkit.runs.requests.MOST_WAITING", 1000)
    kind_of_many, streamed = document()
    assert (kind, kind_of_many) == ("RequestColumns", "RequestStream")
    assert streamed["content_hash"] == whole["content_hash"]
    assert len(whole["stages"]) == 2
    found, expected = dict(leaves(streamed)), dict(leaves(whole))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["requests.parquet"]
