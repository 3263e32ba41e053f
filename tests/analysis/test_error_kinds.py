"""Kinds of errors: what failed on each side, when, and what of it is new."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from samples import EPOCH, requests

from perfkit import RunStore, baseline, compare, open_history, run_from_requests
from perfkit.analysis.error_kinds import error_kinds
from perfkit.history.incidents import result_of
from perfkit.model.codec import dump_json
from perfkit.model.records import OTHER_KINDS
from perfkit.model.serialization import comparison_from_document, parse_run, run_to_document
from perfkit.report.findings import errors_table, errors_text
from perfkit.report.message import chat_text, message_of
from perfkit.runs.run_folder import resealed


def run_of(seed, kinds, *, begin=EPOCH, service="GET /pay"):
    """A run of about 1,000 requests; ``kinds`` maps what failed to how often."""
    frame = requests(np.random.default_rng(seed), services={service: 20.0}, begin=begin).assign(failed=False)
    texts = [text for text, count in kinds.items() for _ in range(count)]
    at = np.arange(len(texts)) * 3 + 10
    errors = np.full(len(frame), None, dtype=object)
    errors[at] = texts
    return run_from_requests(frame.assign(error=errors, failed=np.isin(np.arange(len(frame)), at)), scenario="shop")


def by_name(kinds):
    return {error.name: error for error in kinds}


def test_new_gone_more_and_as_before():
    before = [run_of(seed, {"HTTPError 500": 4, "ConnectTimeout": 3, "HTTPError 404": 10}) for seed in (1, 2)]
    after = [run_of(seed, {"HTTPError 500": 5, "HTTPError 503": 2, "HTTPError 404": 60}) for seed in (3, 4)]
    kinds = error_kinds(before, after)
    assert [error.change for error in kinds] == ["new", "more", "", "gone"]
    assert {name: (error.baseline, error.candidate, error.status) for name, error in by_name(kinds).items()} == {
        "HTTPError 503": (0, 4, 503),
        "HTTPError 404": (20, 120, 404),
        "HTTPError 500": (8, 10, 500),
        "ConnectTimeout": (6, 0, None),
    }
    assert errors_text(kinds) == (
        "New: HTTPError 503 at GET /pay (4 requests). More: HTTPError 404 at GET /pay (20 -> 120 requests). "
        "Gone: ConnectTimeout at GET /pay (6 before)."
    )


def test_times_are_those_of_the_first_and_the_last_such_request():
    early, late = run_of(1, {"HTTPError 500": 4}), run_of(2, {"HTTPError 500": 4}, begin=EPOCH + 600)
    frames = early.requests(), late.requests()
    (error,) = error_kinds([early], [late])
    starts = [frame.loc[frame["failed"], "start"] for frame in frames]
    assert error.first == datetime.fromtimestamp(round(starts[0].min(), 3), UTC)
    assert error.last == datetime.fromtimestamp(round(starts[1].max(), 3), UTC)
    frame = early.errors()
    assert frame.loc[0, ["service", "kind", "count"]].tolist() == ["GET /pay", "HTTPError 500", 4]
    assert frame.loc[0, "first"] == error.first


def test_kinds_survive_the_store_and_a_result_file():
    before, after = run_of(1, {"HTTPError 500": 4}), run_of(2, {})
    read = parse_run(json.dumps(run_to_document(before)).encode(), "run.json")
    assert read.services["GET /pay"].error_times == before.services["GET /pay"].error_times
    comparison = compare([read], [after])
    document = json.loads(json.dumps(comparison.to_dict()))
    assert comparison_from_document(document, "result.json").errors == comparison.errors != ()
    del document["errors"]
    older = comparison_from_document(document, "result.json")
    assert older.errors is None
    assert "older version" in errors_text(older.errors)


def test_results_of_every_kind_hold_errors_as_a_comparison_does(tmp_path):
    store = RunStore(tmp_path)
    runs = [run_of(seed, {"HTTPError 500": 4}, begin=EPOCH + 3600 * seed) for seed in range(3)]
    ids = [store.add(run) for run in [*runs, run_of(9, {"HTTPError 503": 2}, begin=EPOCH + 36000)]]
    expected = json.loads(dump_json(compare(runs, [store.get(ids[-1])]).to_dict()))["errors"]
    assert [(error["status"], error["change"]) for error in expected] == [(503, "new"), (500, "gone")]
    history = open_history(store, "shop")
    document = json.loads(dump_json(history.to_dict()))
    assert document["errors"] == expected
    message = message_of(result_of(document, "result.json"))
    assert "New: HTTPError 503 at GET /pay (2 requests)." in message.details[-1].sentence
    assert "newest valid run" in message.details[-1].sentence
    assert "• new: 503 on GET /pay, 0 → 2" in chat_text(message)[1]
    (error,) = baseline(runs).to_dict()["errors"]
    assert (error["status"], error["baseline"], error["candidate"], error["change"]) == (500, 12, 0, "")
    alone = RunStore(tmp_path / "alone")
    alone.add(runs[0])
    document = json.loads(dump_json(open_history(alone, "shop").to_dict()))
    assert document["errors"] is None  # nothing to compare with
    assert "not known" in message_of(result_of(document, "result.json")).details[-1].sentence


def test_older_runs_have_kinds_in_their_requests_only():
    run = run_of(1, {"HTTPError 500": 4})
    older = {name: replace(stats, errors={}, error_times={}) for name, stats in run.services.items()}
    assert error_kinds([replace(run, services=older)]) == error_kinds([run])
    (error,) = error_kinds([replace(run, services=older, load_requests=None)])
    assert (error.kind, error.baseline, error.first) == ("", 4, None)


def stored_as_older_versions_did(store, run):
    """The run of a store, sealed, whose document has no kinds of errors."""
    path = store.folder / store.add(run) / "run.json"
    document = json.loads(path.read_bytes())
    for stats in document["services"].values():
        del stats["errors"], stats["error_times"]
    path.write_text(dump_json(resealed(document)))
    return store.get(path.parent.name)


def test_kinds_of_stored_runs_of_older_versions_are_read_without_pandas(tmp_path):
    run = run_of(1, {"HTTPError 500": 4, "ConnectTimeout": 3, "token=hunter2 is wrong": 1})
    older = stored_as_older_versions_did(RunStore(tmp_path), run)
    assert error_kinds([older]) == error_kinds([run]) != ()
    code = (
        "import sys; from perfkit.analysis.error_kinds import error_kinds; from perfkit.runs.store import RunStore\n"
        "runs = [RunStore(sys.argv[1]).get(sys.argv[2])]\n"
        "print(len(error_kinds(runs)), 'pandas' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tmp_path), older.id]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.split() == ["3", "False"]
    (tmp_path / older.id / "requests.parquet").write_bytes(b"PAR1")  # not what was sealed: the summary has to do
    assert [error.kind for error in error_kinds([RunStore(tmp_path).get(older.id)])] == [""]


def test_columns_of_other_kinds_are_read_as_all_requests_are(tmp_path):
    run = run_of(1, {"HTTPError 500": 4})
    frame = run.requests()
    numbered = run_from_requests(frame.assign(service=7), scenario="shop")
    older = stored_as_older_versions_did(RunStore(tmp_path), numbered)
    assert error_kinds([older]) == error_kinds([numbered]) != ()


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({}, "No request failed."),
        ({"HTTPError 500": 3}, "6 requests failed, of the same kinds about as often on both sides."),
        ({None: 3}, "6 requests failed. Some"),
    ],
)
def test_what_cannot_be_said_is_not_called_new(kinds, expected):
    named = [run_of(seed, {kind: count for kind, count in kinds.items() if kind}) for seed in (1, 2)]
    if None in kinds:  # one side has failures without kinds
        (first, second) = (run_of(1, {"HTTPError 500": 3}), run_of(2, {"HTTPError 503": 3}))
        bare = {name: replace(stats, errors={}) for name, stats in second.services.items()}
        named = [first, replace(second, services=bare, load_requests=None)]
    errors = error_kinds(named[:1], named[1:])
    assert errors_text(errors).startswith(expected)
    assert all(error.change == "" for error in errors)


def test_a_source_without_failures_says_so_instead_of_zero():
    run = run_of(1, {})
    silent = replace(run, services={n: replace(s, failures=None) for n, s in run.services.items()}, load_requests=None)
    (error,) = error_kinds([run], [silent])
    assert (error.baseline, error.candidate) == (0, None)
    assert errors_table((error,)).rows == ()
    assert errors_text(error_kinds([silent], [silent])) == "How many requests failed is not known of GET /pay."


def test_messages_and_hostile_kinds_reach_nobody():
    run = run_of(1, {"<script>alert(1)</script> token=hunter2": 5, **{f"Error{i}Kind 50{i}": 9 - i for i in range(8)}})
    kinds = error_kinds([run])
    assert {error.kind for error in kinds} >= {"error", OTHER_KINDS}
    assert sum(error.baseline for error in kinds) == 5 + sum(range(2, 10))
    assert "hunter2" not in repr(kinds)
    assert len(kinds) == 6
    stats = {n: replace(s, errors={"<img src=x> secret 12": 3}, failures=3) for n, s in run.services.items()}
    (forged,) = error_kinds([replace(run, services=stats, load_requests=None)])
    assert forged.name == "error"
