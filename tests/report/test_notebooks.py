"""The notebooks are stripped and thin, and are run by perfkit's own function with checked parameters."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from perfkit import RenderError, SettingsError
from perfkit.report import notebook
from perfkit.report.html import write_result
from perfkit.report.notebook import declared_parameters, find_notebook, run_report

KINDS = notebook.NOTEBOOKS
TOO_MUCH = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.Lambda, ast.ListComp)


def cells(kind, of_type):
    return [cell for cell in nbformat.read(find_notebook(kind), as_version=4).cells if cell.cell_type == of_type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_is_stripped(kind):
    document = nbformat.read(find_notebook(kind), as_version=4)
    nbformat.validate(document)
    assert set(document.metadata) == {"kernelspec", "language_info"}
    assert document.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in document.cells}) == len(document.cells)
    for cell in cells(kind, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_is_thin(kind):
    for cell in cells(kind, "code"):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, TOO_MUCH)]
        assert len(tree.body) <= 12
        shown = [node for node in tree.body if isinstance(node, ast.Expr)]
        assert len(shown) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_title_is_a_question_and_every_picture_has_its_sentence(kind):
    document = nbformat.read(find_notebook(kind), as_version=4)
    assert document.cells[0].source.splitlines()[0].endswith("?")
    headings = [line for cell in cells(kind, "markdown") for line in cell.source.splitlines() if line.startswith("#")]
    assert [line.split()[0] for line in headings] == ["#"] + ["##"] * (len(headings) - 1)
    for cell in cells(kind, "markdown"):
        assert len(cell.source.split("\n\n")) == 2


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("baseline", ("runs", "policy", "title", "notes", "result")),
        ("compare", ("baseline", "candidate", "policy", "rule", "title", "notes", "judged", "result")),
        ("capacity", ("runs", "candidate", "slo", "policy", "title", "result")),
        ("explore", ("store", "scenario", "baseline", "candidate", "services", "metrics", "seconds", "policy")),
        (
            "trend",
            (
                "store",
                "scenario",
                "service",
                "metric",
                "last",
                "labels",
                "commit_url",
                "acknowledged",
                "baselines",
                "policy",
                "title",
                "result",
            ),
        ),
    ],
)
def test_parameters_are_plain_values_in_one_tagged_cell(kind, names):
    document = nbformat.read(find_notebook(kind), as_version=4)
    assert declared_parameters(document, kind) == names
    tagged = next(cell for cell in document.cells if "parameters" in cell.metadata.get("tags", []))
    values = [ast.literal_eval(node.value) for node in ast.parse(tagged.source).body]
    assert all(value is None or isinstance(value, str | int | float | bool) for value in values)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"baselin": "x"}, r"unknown parameter 'baselin' \(did you mean 'baseline'\?\); known are baseline, candidate"),
        (
            {"rule": {"a": 1}},
            "parameter rule must be text, a number, true or false, nothing, or a list of paths, got dict",
        ),
        ({"baseline": ()}, "parameter baseline must be .* got tuple"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_written(tmp_path, parameters, text):
    with pytest.raises(SettingsError, match=text):
        run_report("compare", parameters, reports_dir=tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


def test_an_unknown_notebook_is_named(tmp_path):
    with pytest.raises(RenderError, match=r"there is no notebook 'compar' \(did you mean 'compare'\?\)"):
        run_report("compar", {}, reports_dir=tmp_path)


def test_paths_become_text():
    document = nbformat.read(find_notebook("compare"), as_version=4)
    declared = declared_parameters(document, "compare")
    given = {"baseline": [Path("a"), "b"], "candidate": Path("c"), "rule": None}
    assert notebook._checked("compare", declared, given) == {"baseline": "a\nb", "candidate": "c", "rule": None}


def test_two_reports_of_the_same_second_have_folders_of_their_own(tmp_path):
    folders = {notebook.new_folder(tmp_path, "compare") for _ in range(5)}
    assert len(folders) == 5


def test_a_reports_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "reports").write_text("")
    with pytest.raises(RenderError, match="reports"):
        notebook.new_folder(tmp_path / "reports", "compare")


def test_results_have_null_for_what_json_cannot_say(tmp_path):
    write_result({"a": [float("inf"), float("nan"), 1.5], "b": {"c": -float("inf")}}, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": [None, None, 1.5], "b": {"c": None}}


def test_a_failing_cell_keeps_the_notebook_and_is_named(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(notebook, "SLOW_S", 0.0)
    with pytest.raises(RenderError) as caught:
        run_report(
            "compare", {"baseline": str(tmp_path / "nothing")}, reports_dir=tmp_path / "reports", progress=said.append
        )
    folder = next((tmp_path / "reports").iterdir())
    message = str(caught.value)
    assert "notebook compare, cell 3 under" in message
    assert "(from perfkit import compare, read_comparison, write_result)" in message
    assert "ReadError" in message
    assert "nothing" in message
    assert str(folder / "executed.ipynb") in message
    executed = nbformat.read(folder / "executed.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in executed.cells for output in cell.get("outputs", []))
    assert sorted(file.name for file in folder.iterdir()) == ["executed.ipynb"]
    assert said[0].startswith("executing the notebook compare")
    assert said[-1].startswith("still executing: comparison = compare(baseline")


def test_a_kernel_that_dies_keeps_the_notebook_too(monkeypatch, tmp_path):
    document = nbformat.read(find_notebook("compare"), as_version=4)
    document.cells[2].source = "print('so far')"
    document.cells[4].source = "import os; os._exit(1)"
    nbformat.write(document, tmp_path / "compare.ipynb")
    monkeypatch.setattr(notebook, "find_notebook", lambda _: tmp_path / "compare.ipynb")
    with pytest.raises(RenderError, match=r"notebook compare: could not be executed: .*Kernel died.*executed\.ipynb"):
        run_report("compare", {}, reports_dir=tmp_path / "reports")
    folder = next((tmp_path / "reports").iterdir())
    assert sorted(file.name for file in folder.iterdir()) == ["executed.ipynb"]
    assert "so far" in (folder / "executed.ipynb").read_text()


def test_the_kernel_is_this_interpreter_whatever_is_installed(monkeypatch, tmp_path):
    fake = tmp_path / "kernels" / "python3"
    fake.mkdir(parents=True)
    (fake / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    manager = notebook._current_interpreter()(kernel_name="python3")
    assert manager.kernel_spec.argv[0] == sys.executable


def test_a_notebook_starts_without_the_grammar_of_iris():
    """`rfc3987_syntax` builds it at import, which takes a second, wherever JupyterLab is installed."""
    code = (
        "import sys; from perfkit.report.notebook import _import_jsonschema; _import_jsonschema(); import nbformat\n"
        "print('jsonschema' in sys.modules, 'lark' in sys.modules, 'rfc3987_syntax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "False"]
