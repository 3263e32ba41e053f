"""JSON files of perfkit are typed records: what is wrong is one error with file and field; old files are read."""

import json
import math
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pytest
from samples import REPOSITORY, plain_stats, requests, run, side

from perfkit import ReadError, RunStore, StoreError, compare, read_run, run_from_requests
from perfkit.analysis.baseline import BaselineLevel, summarize_baseline
from perfkit.analysis.capacity import AtLoad, Difference, ServiceCapacity, capacity_of
from perfkit.analysis.noise_profile import NoiseProfile, profile_of
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.baselines import Baselines
from perfkit.history.incidents import read_result, result_of
from perfkit.history.planning import stored_profile
from perfkit.model.codec import MOST_BYTES, decode, dump_json, encode, parse_json, read_json
from perfkit.model.records import Check, LoadProfile, Metric, ServiceStats, Severity, Validity
from perfkit.model.serialization import parse_run, run_to_document
from perfkit.notify.delivery import Outbox, SentLog
from perfkit.notify.github_api import PUBLIC_API
from perfkit.report.report_set import read_overview
from perfkit.runs.maintenance import verify_run
from perfkit.runs.run_folder import resealed

OLD = REPOSITORY / "tests" / "written_by_0_1_0"


# What was written before ----------------------------------------------------------------------------------------------


def test_every_file_that_0_1_0_wrote_is_read(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    old = tmp_path / "old"
    store = RunStore(old / "runs")
    assert (len(store.ids()), store.broken()) == (10, {})
    assert [verify_run(store, run_id).problems for run_id in store.ids()] == [()] * 10
    assert [one.at for one in store.quarantined().values()] == [store.quarantined()[store.ids()[1]].at]
    assert not store.get("20251017T143004Z-shop-1727").validity.ok
    assert len(store.get("20251018T143004Z-shop-be8a").requests()) == 309
    assert (old / "runs" / ".noise" / "shop.json").read_bytes() == (OLD / "runs" / ".noise" / "shop.json").read_bytes()
    assert stored_profile(store, "api").variations
    (pinned,) = Baselines(old / "data" / "baselines").all()
    assert (pinned.name, len(pinned.runs), len(pinned.history)) == ("v1", 4, 1)
    (known,) = AcknowledgedFile(old / "data" / "acknowledged.json").read()
    assert (known.reason, len(known.changes)) == ("known", 6)
    for watched in (True, False):
        assert set(SentLog(old / "delivery", "email", "api", watched=watched).read()) == {"abc"}
    for kind in ("comments", "issues"):
        waiting, notes = Outbox(old / "delivery", kind, "octo/shop", PUBLIC_API).waiting()
        assert (len(waiting), notes) == (1, ())
    assert [entry.scenario for entry in read_overview(old).entries] == ["shop", "shop"]
    for name in ("compare", "history", "trend"):
        assert read_result(old / f"{name}.json").open_incidents


def test_what_is_computed_of_runs_is_written_and_read_by_the_codec(rng):
    """Noise profiles of today and of 0.1.0; the levels of a baseline; the curves and differences of a capacity."""
    path = OLD / "runs" / ".noise" / "api.json"
    for plain in (
        read_json(path),
        profile_of("api", [run({"a": plain_stats()}, number=n) for n in range(3)]).to_dict(),
    ):
        profile = decode(plain, NoiseProfile, str(path), schema="perfkit.noise/1", title="noise profile")
        again = parse_json(dump_json(profile.to_dict()).encode(), "again")
        assert decode(again, NoiseProfile, "again", schema="perfkit.noise/1", title="noise profile") == profile
        assert (again["scenario"], again["runs"]) == (plain["scenario"], plain["runs"])
        for now, then in zip(again["variations"], plain["variations"], strict=True):
            assert {name: now[name] for name in then} == then  # older ones have no `prior_df`
    with pytest.raises(ReadError, match="not a noise profile of schema"):
        decode(
            {**plain, "schema": "perfkit.noise/2"}, NoiseProfile, "new", schema="perfkit.noise/1", title="noise profile"
        )
    levels = summarize_baseline(side(rng, 3))
    assert decode(levels.to_dict()["levels"], tuple[BaselineLevel, ...], "levels") == levels.levels
    runs = [run_from_requests(requests(rng, seconds=60.0, rate=20.0), scenario="api") for _ in range(2)]
    found = capacity_of(runs[:1], runs[1:], "p95 < 300 ms")
    document = json.loads(dump_json(found.to_dict()))
    assert list(document)[:5] == ["schema", "verdict", "load_unit", "slo", "alpha"]
    assert decode(document["curves"], tuple[ServiceCapacity, ...], "curves") == found.curves
    assert decode(document["differences"], tuple[Difference, ...], "differences") == found.differences
    assert decode(document["at_load"], tuple[AtLoad, ...], "at_load") == found.at_load


@dataclass
class Note:
    text: str


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"schema": "thing/4"}, "a.json: not a note of schema 'thing/3' .found 'thing/4'.; it may come from a newer"),
        ({"schema": ["thing/1"]}, "not a note of schema"),
        ([], "not a note of schema 'thing/3' .found None."),
        ({"schema": "thing/3", "text": 3}, "a.json: text: expected str, got int"),
    ],
)
def test_a_document_of_another_schema_is_an_error(plain, message):
    with pytest.raises(ReadError, match=message):
        decode(plain, Note, "a.json", schema="thing/3", title="note")


@pytest.mark.parametrize(
    "folder", sorted((REPOSITORY / "data" / "samples").glob("*/*/run.json")), ids=lambda p: p.parent.name
)
def test_the_samples_are_read(folder):
    written, again = json.loads(folder.read_text()), run_to_document(read_run(folder.parent))
    for part in (written, again):
        for stats in part["services"].values():
            stats.pop("assumed", None)  # which the first files did not have
    assert written == again


# Any JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not JSON: it ends in the middle"),
        (b"{", "not JSON: it ends in the middle"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": [' * 50_000, "nested too deeply"),
        (b'\n\n{"a": NaN}', "not JSON: line 3: NaN is not a number"),
        (b'{"a": -Infinity}', "not JSON: line 1: Infinity is not a number"),
        (b'{"a": 1e999}', "number out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' stands there twice in one object"),
        (b'{"a\\u003a": 1, "a:": 1}', "the key 'a:' stands there twice"),
        (b'\xef\xbb\xbf{"a": 1}', "begins with a byte order mark"),
        ('{"a": "ü"}'.encode("latin-1"), r"is not UTF-8 text .byte 7."),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8 text"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"a": 1} x', "not JSON: line 1: trailing characters"),
    ],
)
def test_what_is_no_json_is_named(content, told):
    with pytest.raises(ReadError, match=f"^here: .*{told}"):
        parse_json(content, "here")


def test_what_is_json_is_read():
    text = '{"a:b": [1, -2.5e-3, "x:y \\u003a \\ud83d\\ude00", null, true, {}], "c": {"a:b": ":"}}'
    assert parse_json(text.encode(), "here") == json.loads(text)


def test_a_file_of_any_size_or_kind_is_refused_before_it_is_read(tmp_path):
    import os

    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.json")
    for name, told in (("large.json", "67,108,865 bytes"), ("pipe.json", "no regular file"), (".", "no regular file")):
        with pytest.raises(ReadError, match=told):
            read_json(tmp_path / name)


# Fields ---------------------------------------------------------------------------------------------------------------


def document(**changes):
    plain = json.loads(dump_json(run_to_document(run({"a": plain_stats(), "b": plain_stats(failures=3)}))))
    for path, value in changes.items():
        *steps, last = path.split("__")
        at = plain
        for step in steps:
            at = at[int(step)] if isinstance(at, list) else at[step]
        if value is GONE:
            del at[last]
        else:
            at[last] = value
    return dump_json(plain).encode()


GONE = object()
FIELDS = [
    (
        {"schema": "perfkit.run/9"},
        "not a run of schema 'perfkit.run/1' .found 'perfkit.run/9'.; it may come from a newer",
    ),
    ({"id": 3}, "id: expected str, got int"),
    ({"scenario": GONE}, "scenario: is missing"),
    ({"started_at": "yesterday"}, "started_at: invalid RFC3339"),
    ({"started_at": "2025-10-17T14:30:04"}, "started_at: expected datetime with a timezone component"),
    ({"started_at": "0001-01-01T00:00:00+14:00"}, "lies outside the years"),
    ({"started_at": 5}, "started_at: expected datetime"),
    ({"duration_s": 0}, "duration_s: must be > 0"),
    ({"duration_s": -1}, "duration_s: expected float >= 0"),
    ({"duration_s": True}, "duration_s: expected float | null, got bool"),
    ({"profile": []}, "profile: expected object"),
    ({"profile__users": -1}, "profile.users: expected int >= 0"),
    ({"profile__users": "30"}, "profile.users: expected int | null, got str"),
    ({"profile__kind": "spike"}, "stages: a spike has some"),
    ({"profile__stages": [{"duration_s": 0, "begin": 1, "end": 1}]}, "profile.stages.0: stage: its length must be > 0"),
    ({"labels": {"a": 3}}, "labels.a: expected str, got int"),
    ({"validity__ok": False}, "validity: ok: is False, which the checks contradict"),
    ({"validity__checks": [3]}, "validity.checks.0: expected object, got int"),
    ({"services": []}, "services: expected object, got array"),
    ({"services__b": None}, "services.b: expected object, got null"),
    ({"services__b__count": -1}, "services.b.count: expected int >= 0"),
    ({"services__b__count": 10**16}, "services.b.count: expected int <= 1000000000000000"),
    ({"services__b__count": True}, "services.b.count: expected int | null, got bool"),
    ({"services__b__count": 2}, "services: b: 3 failures of 2 requests"),
    ({"services__b__failures": 1.5}, "services.b.failures: expected int | null, got float"),
    ({"services__b__rps": -1.0}, "services.b: rps: must be a finite number >= 0, got -1.0"),
    ({"services__b__error_rate_pct": 101.0}, "services: b: error_rate_pct: must be <= 100, got 101.0"),
    ({"services__b__standard_errors__rps": -1.0}, "services.b: standard_errors: rps: must be a finite number >= 0"),
    ({"services__b__persistence": 1e300}, "services.b: persistence: must be an exponent from -2 to 2, got 1e+300"),
    (
        {"services__b__tail": {"requests": 9, "latencies_ms": [1.0]}},
        "services.b.tail: latencies_ms: must be 13 ascending",
    ),
    ({"services__b__tail": {"requests": 9}}, "services.b.tail.latencies_ms: is missing"),
    ({"services__b__standard_errors__x": 1.0}, "services.b: unknown metric 'x'"),
    ({"services__b__response_bytes": "many"}, "services.b.response_bytes: expected float | null, got str"),
    ({"services__b__warnings": "w"}, "services.b.warnings: expected array, got str"),
    ({"content_hash": 3}, "content_hash: expected str | null, got int"),
    ({"seal": []}, "seal: expected object | null, got array"),
    ({"stages": [{"name": "x"}]}, "stages.0.stage: is missing"),
]


@pytest.mark.parametrize(("changes", "told"), FIELDS, ids=[next(iter(changes)) for changes, _ in FIELDS])
def test_the_field_of_a_run_that_is_wrong_is_named(changes, told):
    with pytest.raises(ReadError) as caught:
        parse_run(document(**changes), "runs/x/run.json")
    text = str(caught.value)
    assert text.startswith("runs/x/run.json: ")
    assert told.replace(".found 'perfkit.run/9'.", "(found 'perfkit.run/9')") in text


def test_a_foreign_file_that_contradicts_itself_is_kept_and_says_so(tmp_path):
    bad = Validity((Check("counts", 1, 0, Severity.INVALID, "contradicts itself"),))
    store = RunStore(tmp_path)
    one = run({"a": plain_stats(count=10, failures=20)}, validity=bad, seconds=0.0)
    assert store.get(store.add(one)).services["a"].failures == 20
    with pytest.raises(StoreError, match=r"services: a: 20 failures of 10 requests; the run cannot be kept so"):
        store.add(run({"a": plain_stats(count=10, failures=20)}, number=2))


def test_a_result_does_not_contradict_itself(rng):
    before = compare([run({"a": plain_stats()}, number=n) for n in range(3)], [run({"a": plain_stats(60.0)}, number=9)])
    plain = json.loads(dump_json(before.to_dict()))
    assert result_of(plain, "x").verdict == "regression"
    for changes, told in (
        ({"verdict": "no_change"}, "x: verdict: is no_change, and a .* a regression"),
        ({"findings": []}, "x: verdict: is regression, and no finding is one"),
        ({"comparable": False}, "x: verdict: is regression, and the runs are not comparable"),
        ({"findings": plain["findings"] * 2}, r"x: findings.\d+: a \w+ stands there twice"),
        ({"findings": [plain["findings"][0] | {"baseline": -3}]}, "findings.0.baseline: must be >= 0, got -3"),
        ({"verdict": "fine"}, "verdict: invalid enum value 'fine'"),
        ({"alpha": 2}, "alpha: expected float <= 1"),
        ({"comparable": 1}, "comparable: expected bool, got int"),
        ({"findings": [plain["findings"][0] | {"p_value": -1}]}, "findings.0.p_value: expected float >= 0"),
        ({"findings": [plain["findings"][0] | {"metric": "p95"}]}, "unknown metric 'p95'"),
        ({"baseline": {"runs": [3]}}, "baseline.runs.0: expected object, got int"),
    ):
        with pytest.raises(ReadError, match=told):
            result_of(plain | changes, "x")


# Records --------------------------------------------------------------------------------------------------------------


def test_a_record_is_written_as_its_fields_and_read_back():
    stats = plain_stats(p95_latency_ms=None, errors={"HTTPError 500": 3})
    plain = encode(stats)
    assert list(plain)[:3] == ["count", "failures", "avg_latency_ms"]
    assert "p95_latency_ms" not in plain  # omitted while it is the default
    assert "response_bytes" in plain
    assert plain["errors"] == {"HTTPError 500": 3}
    assert decode(json.loads(dump_json(plain)), ServiceStats, "here") == stats


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (math.inf, None),
        (math.nan, None),
        (Severity.WARN, "warn"),
        ({Metric.RPS: (1, 2.5)}, {"rps": [1, 2.5]}),
        (datetime(2025, 10, 17, 14, 30, 4, tzinfo=UTC), "2025-10-17T14:30:04+00:00"),
        (date(2025, 10, 17), "2025-10-17"),
        (LoadProfile("steady", 5), {"kind": "steady", "users": 5, "spawn_rate": None, "duration_s": None}),
        ([True, None, 10**20], [True, None, 10**20]),
    ],
)
def test_values_have_one_json_form(value, plain):
    written = encode(value)
    assert written == plain
    assert json.loads(json.dumps(written, allow_nan=False)) == plain


def test_what_is_no_record_is_refused():
    with pytest.raises(TypeError, match="Path has no JSON form"):
        encode({"a": REPOSITORY})


# The seal -------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_changed_after_it_was_stored_is_invalid_everywhere(tmp_path):
    store = RunStore(tmp_path)
    ids = [store.add(run({"a": plain_stats()}, number=n)) for n in range(4)]
    file = tmp_path / ids[3] / "run.json"
    file.write_text(file.read_text().replace('"rps": 50.0', '"rps": 90.0'))
    for one in (store.get(ids[3]), read_run(tmp_path / ids[3])):
        (problem,) = one.validity.problems
        assert (problem.name, problem.value, problem.severity) == ("seal", "changed after it was stored", "invalid")
    found = compare([store.get(run_id) for run_id in ids[:3]], [store.get(ids[3])])
    assert (found.verdict, found.comparable) == ("invalid", False)
    assert list(store.runs(valid=True)["id"]) == ids[:3]
    plain = json.loads(file.read_text())
    file.write_text(dump_json(resealed(plain)))
    assert read_run(tmp_path / ids[3]).validity.ok
    file.write_text(dump_json({name: part for name, part in plain.items() if name != "seal"}))
    assert read_run(tmp_path / ids[3]).validity.ok  # an earlier perfkit wrote no seal


def test_spaces_and_the_order_of_keys_are_not_content(tmp_path):
    store = RunStore(tmp_path)
    file = tmp_path / store.add(run({"a": plain_stats()})) / "run.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(plain.items()))))
    assert read_run(file.parent).validity.ok
    assert datetime.now(UTC) > read_run(file.parent).started_at
