"""`perfkit lab` opens JupyterLab on the notebooks, for real, and says what to install where there is none."""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import invoke

from perfkit.cli.start import JUPYTERLAB
from perfkit.loadgen.service_under_test import free_port
from perfkit.report.notebook import NOTEBOOKS, find_notebook

TOKEN = "a-token-for-this-test"


def asked(request, process):
    """The folder's content; the server says its address a moment before it listens there."""
    while process.poll() is None:
        with (
            suppress(ConnectionError, urllib.error.URLError),
            urllib.request.urlopen(request, timeout=30) as answer,
        ):
            return json.load(answer)["content"]
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_jupyterlab_serves_copies_of_the_notebooks(tmp_path):
    root = ["--allow-root"] if os.geteuid() == 0 else []
    port = free_port()
    words = ["lab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}", *root]
    # Settings and running servers of whoever runs this are none of its business
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    with subprocess.Popen(
        [sys.executable, "-m", "perfkit", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **own, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        try:
            lines = []
            while not lines or f"http://127.0.0.1:{port}/lab" not in lines[-1]:
                lines.append(process.stderr.readline())
                assert lines[-1], "".join(lines)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/contents", headers={"Authorization": f"token {TOKEN}"}
            )
            content = asked(request, process)
        finally:
            process.terminate()
            process.stderr.read()
    assert {item["name"] for item in content} == {f"{kind}.ipynb" for kind in NOTEBOOKS}
    assert lines[0] == "copied baseline.ipynb, compare.ipynb, capacity.ipynb, trend.ipynb, explore.ipynb to notebooks\n"
    assert lines[1] == "data/runs has no runs for the notebooks yet.  Next: perfkit init, then perfkit run shop\n"
    for kind in NOTEBOOKS:
        assert (tmp_path / "notebooks" / f"{kind}.ipynb").read_bytes() == find_notebook(kind).read_bytes()


def test_without_jupyterlab_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "jupyterlab" else found(name))
    code, _, err = invoke("lab")
    assert code == 2
    assert "install perfkit with the extra `lab`: " in err
    assert list(tmp_path.iterdir()) == []


def test_own_notebooks_are_left_alone_and_options_are_handed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.ipynb").write_text("{}")
    asked = []
    monkeypatch.setattr(os, "execv", lambda program, words: asked.append((program, words[1:])))
    assert invoke("lab", "--folder", "mine", "--port", "8899", "--no-browser")[0] == 0
    assert asked == [(sys.executable, ["-c", JUPYTERLAB, "mine", "--port", "8899", "--no-browser"])]
    assert [path.name for path in Path("mine").iterdir()] == ["own.ipynb"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code, _, err = invoke("lab", "--folder", "file/notebooks")
    assert code == 4
    assert "file/notebooks: cannot be written: Not a directory" in err


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(1)", 4), ("sys.exit('no such option')", 4), ("pass", 0), ("1 / 0", 4)]
)
def test_a_failure_of_jupyterlab_is_no_regression(tmp_path, end, code):
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").touch()
    (tmp_path / "jupyterlab" / "__main__.py").write_text(f"import sys\n{end}\n")
    done = subprocess.run([sys.executable, "-c", JUPYTERLAB], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
