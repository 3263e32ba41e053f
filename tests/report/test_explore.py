"""`perfkit.explore`: what is chosen is what is drawn, with widgets, without them, and in a notebook nobody looks at."""

import importlib.util
import json
import shlex
from dataclasses import replace

import nbformat
import pytest
from samples import REPOSITORY

import perfkit
from perfkit.model.records import ALL_SERVICES
from perfkit.report.explore import HEADINGS
from perfkit.report.html import PLOTLY

SIDES = {"baseline": "data/samples/baseline/*", "candidate": "data/samples/candidate/*"}
needs_widgets = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ipywidgets", "anywidget"))), reason="the extra `lab` is not installed"
)


@pytest.fixture
def explorer(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    return perfkit.explore(**SIDES, services=["rag_service", "api_gateway"], metrics="p95", seconds=[2, 6])


def test_it_draws_what_is_chosen(explorer):
    figures = explorer.figures()
    assert list(figures) == list(HEADINGS)
    assert figures["comparison"].layout.meta["alt"].startswith("Effects with intervals for 2 findings")
    assert figures["timeline"].layout.updatemenus[0].buttons[1].label == "api_gateway"
    assert len(explorer.requests()["service"].unique()) == 2
    elapsed = explorer.requests().groupby("run", observed=True)["start"].agg(lambda start: start.max() - start.min())
    assert 3.5 < elapsed.max() <= 4.0
    assert repr(explorer) == "<Explorer: demo; 5 against 3 runs; 2 services>"


def test_a_stretch_that_is_chosen_by_eye_does_not_change_the_verdict(explorer):
    whole = perfkit.compare(*SIDES.values())
    assert explorer.comparison.to_dict()["findings"] == whole.to_dict()["findings"]


def test_a_finding_of_all_services_together_is_no_service_to_choose(explorer):
    judged, names = explorer.comparison, explorer.all_services
    together = replace(judged.findings[0], service=ALL_SERVICES)
    explorer._judged[explorer.baseline, explorer.candidate] = replace(judged, findings=(together, *judged.findings))
    assert explorer.all_services == names


def test_the_commands_give_the_same_again(explorer):
    words = shlex.split(explorer.command())
    assert words[:2] == ["perfkit", "compare"]
    again = perfkit.compare(words[2 : words.index("--candidate")], words[words.index("--candidate") + 1 :])
    assert [run.id for run in again.baseline.runs] == list(explorer.baseline)
    words = shlex.split(explorer.report_command("explore.ipynb"))
    assert words[:3] == ["papermill", "explore.ipynb", "out.ipynb"]
    parameters = {name: value for text in words[4::2] for name, value in json.loads(text).items()}
    twin = perfkit.explore(**parameters | {"scenario": None})
    for name in ("baseline", "candidate", "services", "metrics", "seconds"):
        assert getattr(twin, name) == getattr(explorer, name)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            {"services": ["api_gatway"]},
            r"services: no service 'api_gatway' \(did you mean 'api_gateway'\?\); there are",
        ),
        ({"services": 5}, "services: expected a name, or a list of names, got 5"),
        ({"metrics": ["p59"]}, "metrics: unknown metric 'p59'"),
        ({"seconds": [5]}, r"seconds: expected two numbers, such as \[10, 20\], the second larger, got \[5\]"),
        ({"seconds": [6, 2]}, "seconds: expected two numbers"),
        ({"scenario": "sho"}, "scenario: no runs of 'sho'"),
        ({"candidate": "nothing/*"}, "candidate: nothing"),
    ],
)
def test_what_cannot_be_chosen_is_named(monkeypatch, wrong, text):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(perfkit.PerfkitError, match=rf"\A{text}"):
        perfkit.explore(**SIDES | wrong)


def test_names_from_outside_are_harmless(rng, tmp_path):
    from samples import requests

    hostile = "<img src=x onerror=alert(1)>'; rm -rf / #"
    store = perfkit.RunStore(tmp_path / "runs")
    for number in range(3):
        frame = requests(rng, seconds=5, services={hostile: 20.0}, begin=1.76e9 + 60 * number, errors=0.1)
        store.add(perfkit.run_from_requests(frame, scenario="shop"))
    explorer = perfkit.explore(store)
    page = explorer._still()
    assert "<img" not in page
    assert "onerror" in page
    parameters = shlex.split(explorer.report_command("explore.ipynb"))
    assert json.loads(parameters[-3]) == {"services": [hostile]}


def test_a_side_without_runs_says_what_to_do(explorer):
    explorer.candidate = ()
    assert {repr(drawn) for drawn in explorer.figures().values()} == {"Choose at least one run on each side."}
    assert explorer.figures(["latency"])["latency"].text


@needs_widgets
def test_each_widget_changes_what_follows_from_it(explorer):
    from perfkit.report.explore import _Page

    def shown(name):
        return page.outputs[name].outputs[0]["data"]

    page = _Page(explorer)
    before = {name: shown(name) for name in page.outputs}
    assert before["comparison"].keys() == {PLOTLY, "image/svg+xml", "text/plain"}
    assert page.timeline.layout.xaxis.range == (2.0, 6.0)
    page.seconds.value = (page.seconds.min, page.seconds.max)
    assert explorer.seconds is None
    changed = {name for name in page.outputs if shown(name) != before[name]}
    assert changed == {"latency", "percentiles", "commands"}
    page._zoomed(None, (1.0, 3.0))  # what a drag across the time course calls
    assert explorer.seconds == page.seconds.value == (1.0, 3.0)
    page.services.value = ("mcp_server",)
    assert "mcp_server" in shown("latency")["text/plain"]
    assert page.timeline.layout.meta["alt"].endswith("for mcp_server.")
    page.metrics.value = (perfkit.Metric("errors"), perfkit.Metric("rps"))
    assert "2 findings" in shown("comparison")["text/plain"]
    page.candidate.value = page.candidate.value[:1]
    assert "1 candidate run" in page.heading.value
    assert len(page.services.options) == 3


def test_without_widgets_the_error_names_the_extra(explorer, monkeypatch):
    monkeypatch.setattr("perfkit.report.explore.find_spec", lambda name: None)
    with pytest.raises(perfkit.MissingExtra, match="ipywidgets is not installed in this kernel; install perfkit with"):
        explorer.widget()


@pytest.mark.slow
def test_nobody_before_the_notebook_sees_figures_instead_of_widgets(tmp_path):
    """papermill, then nbconvert as it comes: every figure is there, and no widget that would stay empty."""
    import subprocess
    import sys

    def run(*words):
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    source = str(REPOSITORY / "notebooks" / "explore.ipynb")
    run("papermill", "-k", "python3", source, "out.ipynb", "-y", "services: [api_gateway]", "-y", "metrics: [p95, avg]")
    run("nbconvert", "--to", "html", "out.ipynb")
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    data = [output["data"] for output in outputs if "data" in output]
    assert sum("image/svg+xml" in bundle and PLOTLY in bundle for bundle in data) == 5
    assert not any("widget" in mime for bundle in data for mime in bundle)
    html = (tmp_path / "out.html").read_text("utf-8")
    assert html.count("data:image/svg+xml;base64,") + html.count("<svg") >= 5
