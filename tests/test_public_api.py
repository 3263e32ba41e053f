"""What tests and notebooks outside the project rely on is there, under these names, and does what analysts guess."""

import ast
import doctest
import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from samples import REPOSITORY

import perfkit
from perfkit.model import errors
from perfkit.report.notebook import KINDS, find_notebook


def test_all_is_sorted_and_every_name_can_be_had():
    public = [name for name in perfkit.__all__ if name != "__version__"]
    assert public == sorted(public)
    for name in perfkit.__all__:
        assert getattr(perfkit, name) is not None
    assert set(perfkit.__all__) <= set(dir(perfkit))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(perfkit, "no_such_name")


def test_every_public_name_is_documented():
    for name in perfkit.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(perfkit, name)), name


def test_signatures():
    assert str(inspect.signature(perfkit.compare)).startswith("(baseline: ")
    assert inspect.signature(perfkit.compare).parameters["policy"].default is None
    assert list(inspect.signature(perfkit.run_from_requests).parameters) == ["frame", "scenario", "labels"]
    for function in (perfkit.find_change_points, perfkit.watch_history):
        assert str(inspect.signature(function)).startswith("(values: ")
        assert inspect.signature(function).parameters["alpha"].default == 0.01


def test_fields_that_programs_read():
    finding = {field.name for field in fields(perfkit.Finding)}
    assert finding >= {
        *("service", "metric", "unit", "baseline", "candidate", "change_pct", "change_abs", "ci_low", "ci_high"),
        *("p_value", "verdict", "tolerance", "min_detectable", "runs_needed", "warnings"),
    }
    run = {field.name for field in fields(perfkit.Run)}
    assert run >= {"id", "scenario", "started_at", "duration_s", "profile", "validity", "services"}
    assert {verdict.value for verdict in perfkit.Verdict} == {
        *("regression", "improvement", "no_change", "inconclusive", "invalid"),
    }


def test_the_error_tree_has_one_root_and_is_public():
    tree = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]
    assert {item.__name__ for item in tree} <= set(perfkit.__all__)
    assert all(issubclass(item, perfkit.PerfkitError) for item in tree)
    assert issubclass(perfkit.UnknownFormat, perfkit.ReadError)


def test_a_public_name_stays_what_it_is():
    """A module of the same name would replace the function at the second look, when a cell is run again."""
    for name in perfkit.__all__:
        first = getattr(perfkit, name)
        assert getattr(perfkit, name) is first, name
        assert not inspect.ismodule(first) or name == "plot", name
        assert not [path for path in Path(perfkit.__file__).parent.iterdir() if path.stem == name], name


# What analysts type ---------------------------------------------------------------------------------------------------

HOSTILE = "<img src=x onerror='window.pwned=1'>\u202e%{y} " + "x" * 1000


@pytest.fixture
def beside_samples(monkeypatch, tmp_path):
    """An empty folder that has the sample data, and no settings."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "samples").symlink_to(REPOSITORY / "data" / "samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["open_store", "read_runs", "compare", "open_history", "baseline", "capacity", "plan", "find_change_points"]
)
def test_the_examples_of_the_public_functions_run(beside_samples, name):
    function = getattr(perfkit, name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs={name: function})
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0


@pytest.fixture(scope="module")
def shown():
    """One of each public object."""
    samples = REPOSITORY / "data" / "samples"
    store = perfkit.open_store(samples / "history")
    comparison = perfkit.compare(f"{samples}/baseline/*", f"{samples}/candidate/*")
    history = perfkit.open_history(store, "nightly")
    return {
        "store": store,
        "run": store[-1],
        "runs": store[-3:],
        "comparison": comparison,
        "finding": comparison.findings[0],
        "history": history,
        "events": history.events,
        "alarms": history.alarms,
        "event": history.events[0],
        "baseline": perfkit.baseline(f"{samples}/baseline/*"),
        "capacity": perfkit.capacity(f"{samples}/ramp/*"),
        "plan": perfkit.plan("nightly", 10, store=store),
        "table": comparison.table.summary(),
    }


def test_every_object_shows_itself_in_a_line_and_in_a_notebook(shown):
    for name, thing in shown.items():
        assert 0 < len(repr(thing)) <= 400, name
        html = thing._repr_html_()
        assert 'style="' in html, name
        assert "<style" not in html, name
        assert "<script" not in html, name


def test_every_figure_is_a_figure_of_plotly_that_zooms_and_whose_legend_hides(shown):
    accessors = {name: thing.plot for name, thing in shown.items() if hasattr(thing, "plot")}
    assert set(accessors) == {"run", "runs", "comparison", "history", "baseline", "capacity"}
    drawn = 0
    for name, accessor in accessors.items():
        for method in (m for m in dir(accessor) if not m.startswith("_") and m != "subject"):
            figure = getattr(accessor, method)()
            assert isinstance(figure, go.Figure), (name, method)
            assert figure.layout.meta["alt"], (name, method)
            if figure.data:
                drawn += 1
                assert figure.layout.dragmode is None, (name, method)
                assert figure.layout.xaxis.fixedrange is None, (name, method)
                assert figure.update_layout(title="restyled").layout.title.text == "restyled"
    assert drawn >= 14
    assert {name for name in perfkit.plot.__all__ if not hasattr(perfkit.plot, name)} == set()


def test_figures_and_tables_take_a_service_and_short_names_of_metrics(shown):
    comparison, history = shown["comparison"], shown["history"]
    forest = comparison.plot.forest(service="api_gateway")
    assert not any("rag_service" in (text.text or "") for text in forest.layout.annotations)
    assert len(comparison.plot.runs(service="api_gateway", metric="p95").layout.annotations) == 1
    assert history.plot.trend(service="api_gateway", metric="errors").layout.meta["alt"].count("error rate") == 1
    alone = history.plot.trend(metric="p95").layout
    assert alone.yaxis.domain[1] < alone.yaxis2.domain[0]  # the strip of runs lies above the only panel
    assert history.series("api_gateway", "p95").index.is_monotonic_increasing
    for wrong in (
        lambda: comparison.plot.latency(service="api_gatewai"),
        lambda: comparison.for_service("api_gatewai"),
        lambda: history.series("api_gatewai", "p95"),
    ):
        with pytest.raises(ValueError, match=r"did you mean 'api_gateway'"):
            wrong()


def test_hostile_names_do_no_harm_where_objects_show_themselves(shown):
    comparison, run = shown["comparison"], shown["run"]
    hostile = replace(shown["finding"], service=HOSTILE, limit=HOSTILE, warnings=(HOSTILE,))
    stats = next(iter(run.services.values()))
    for thing in (
        hostile,
        replace(comparison, findings=(hostile,), warnings=(HOSTILE,)),
        replace(run, scenario=HOSTILE, services={HOSTILE: stats}, labels={HOSTILE: HOSTILE}, git={"commit": HOSTILE}),
        replace(shown["event"], changes=(replace(shown["event"].changes[0], service=HOSTILE),)),
        perfkit.Runs([replace(run, id=HOSTILE, scenario=HOSTILE)]),
    ):
        assert "<img" not in thing._repr_html_()
        assert len(repr(thing)) <= 400
        assert "\u202e" not in repr(thing) or isinstance(thing, perfkit.Runs)


def test_a_comparison_of_one_service_is_judged_by_its_own_findings(shown):
    comparison = shown["comparison"]
    assert comparison.verdict == "regression"
    assert comparison.for_service("api_gateway").verdict == "regression"
    other = comparison.for_service("mcp_server")
    assert {finding.service for finding in other.findings} == {"mcp_server"}
    assert other.verdict != "regression"
    assert replace(comparison, comparable=False, verdict=perfkit.Verdict.INVALID).for_service("mcp_server").verdict == (
        "invalid"
    )


def test_names_mean_what_they_mean_on_the_command_line(beside_samples, shown):
    store = perfkit.open_store("data/samples/history")
    last = perfkit.read_runs("nightly@last:3", store=store)
    assert last.ids == store[-3:].ids
    assert perfkit.read_runs([store[-1], str(store[-2].id)], store=store).ids == (store[-1].id, store[-2].id)
    comparison = perfkit.compare("nightly@last:8", "nightly@last:1", store=store)
    assert [run.id for run in comparison.candidate.runs] == [store[-1].id]
    assert store[-1].id not in {run.id for run in comparison.baseline.runs}
    (beside_samples / "perfkit.toml").write_text('store = "data/samples/history"\n[policy]\nalpha = 0.02\n')
    assert perfkit.compare("nightly@last:8", "nightly@last:1").alpha == 0.02
    assert perfkit.compare("nightly@last:8", "nightly@last:1", policy=perfkit.Policy(alpha=0.03)).alpha == 0.03
    assert len(perfkit.open_store()) == 60
    with pytest.raises(perfkit.ReadError, match="no scenario 'nighty'"):
        perfkit.compare("nighty@last:3", "nightly@last:1")
    with pytest.raises(perfkit.NotComparable, match="baseline"):
        perfkit.compare([], "nightly@last:1")
    with pytest.raises(TypeError, match="expected runs or paths, got 3"):
        perfkit.compare([3], "nightly@last:1")


def test_a_stored_result_is_a_comparison_again(beside_samples, shown):
    perfkit.write_result(shown["comparison"], "result.json")
    read = perfkit.read_comparison("result.json")
    assert read.to_dict() == shown["comparison"].to_dict()
    assert "not kept" in read.plot.latency().layout.meta["note"]
    drawn = perfkit.read_comparison("result.json", "data/samples/baseline/*", "data/samples/candidate/*")
    assert len(drawn.plot.latency().data) > 6
    with pytest.raises(perfkit.ReadError, match="is not about these runs"):
        perfkit.read_comparison("result.json", "data/samples/candidate/*", "data/samples/baseline/*")


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_uses_nothing_but_the_public_names(kind):
    for cell in nbformat.read(find_notebook(kind), as_version=4).cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.ImportFrom):
                    assert node.module == "perfkit"
                    assert {alias.name for alias in node.names} <= set(perfkit.__all__)
                elif isinstance(node, ast.Import):
                    assert [alias.name for alias in node.names] == ["perfkit"]
                elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "perfkit":
                    assert node.attr in perfkit.__all__


def test_an_object_shows_itself_without_importing_plotly():
    code = (
        "import sys, perfkit; runs = perfkit.read_runs('data/samples/baseline/*'); repr(runs[0]); runs._repr_html_();"
        "sys.exit('plotly' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
