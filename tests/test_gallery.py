"""Each set of runs in ``data/gallery`` shows what its name says, and is what its script makes."""

import importlib.util
from types import ModuleType

import pytest
from samples import REPOSITORY

import perfkit
from perfkit.model.records import Verdict

GALLERY = REPOSITORY / "data" / "gallery"
LATENCIES = {"avg_latency_ms", "p50_latency_ms", "p95_latency_ms"}
SHOWN = {  # name -> verdict, metrics of api_gateway that regressed
    "clean": (Verdict.NO_CHANGE, set()),
    "regression": (Verdict.REGRESSION, LATENCIES),
    "tail-only": (Verdict.REGRESSION, {"p99_latency_ms", "p999_latency_ms"}),
    "error-burst": (Verdict.REGRESSION, {"error_rate_pct"}),
    "saturated-generator": (Verdict.INVALID, set()),
}


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gallery", GALLERY / "make_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SHOWN)
def test_each_pair_shows_what_its_name_says(name):
    verdict, metrics = SHOWN[name]
    comparison = perfkit.compare(GALLERY / name / "baseline", GALLERY / name / "candidate")
    worse = {(item.service, item.metric) for item in comparison.findings if item.verdict is Verdict.REGRESSION}
    assert (comparison.verdict, worse) == (verdict, {("api_gateway", metric) for metric in metrics})
    assert (len(comparison.baseline.runs), len(comparison.candidate.runs)) == (5, 3)
    if name == "error-burst":
        assert "error burst in 3 of its 3 runs" in str(comparison.disturbance)
    if name == "saturated-generator":
        advice = [
            check.advice for run in perfkit.read_runs(GALLERY / name / "candidate") for check in run.validity.problems
        ]
        assert len(advice) == 3
        assert all("was saturated" in text for text in advice)


def test_the_history_has_two_events_where_the_truth_has_them():
    history = perfkit.open_history(perfkit.open_store(GALLERY / "history"), "nightly")
    made = maker()
    assert len(history.timeline.runs) == made.NIGHTS == 120
    worse, better = history.events
    assert [abs(event.index - at) <= 2 for event, at in ((worse, made.SLOWER_AT), (better, made.FASTER_AT))] == [
        True,
        True,
    ]
    sizes = [next(item for item in event.changes if item.metric == "avg_latency_ms").size for event in (worse, better)]
    assert sizes == [pytest.approx(12, abs=2), pytest.approx(-9, abs=2)]


def test_a_set_is_made_again_byte_for_byte_and_all_are_small(tmp_path):
    maker().main(tmp_path, "saturated-generator")
    again = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.json")}
    kept = {file.relative_to(GALLERY): file.read_bytes() for file in (GALLERY / "saturated-generator").rglob("*.json")}
    assert again == kept
    assert sum(file.stat().st_size for file in GALLERY.rglob("*") if file.is_file()) < 700_000
