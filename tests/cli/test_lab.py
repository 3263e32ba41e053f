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
from browser import CHROMIUM
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


# Opens a notebook, runs all of its cells as the menu does, and comes back when the last one has ended
RUN_ALL = """async path => {
  await jupyterapp.restored;
  const panel = await jupyterapp.commands.execute("docmanager:open", {path, factory: "Notebook"});
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  await jupyterapp.commands.execute("notebook:run-all-cells");
}"""
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
CHARTS = {"baseline": 5, "compare": 5, "capacity": 2, "trend": 2, "explore": 5}
# Cells have ended before their charts are drawn: plotly names its element first and gives it a layout later
DRAWN = f"""count => [...document.querySelectorAll("{PANEL} .js-plotly-plot")]
  .filter(chart => chart.querySelector(".main-svg") && chart.layout?.meta?.alt).length >= count"""
# Plotly's widgets are 700 pixels wide until they have a place, and measure then
AS_WIDE = """() => [...document.querySelectorAll(".perfkit-explorer .js-plotly-plot")]
  .every(chart => Math.abs(chart._fullLayout.width - chart.clientWidth) < 2)"""
DENSITY = """() => JSON.stringify([...document.querySelectorAll(".perfkit-explorer .js-plotly-plot")]
  .find(chart => chart.layout?.meta?.alt?.startsWith("Distribution"))?.data[1].y)"""


def run_notebooks(browser, address):
    """Every notebook as a person runs it, unedited; then a drag across the explorer's time course."""
    page = browser.new_context(viewport={"width": 1280, "height": 2400}).new_page()
    elsewhere, failed, charts = [], [], {}
    page.on("request", lambda request: elsewhere.append(request.url) if "://127.0.0.1" not in request.url else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address)
    page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
    page.set_default_timeout(300_000)
    for kind in NOTEBOOKS:
        page.evaluate(RUN_ALL, f"{kind}.ipynb")
        page.wait_for_function(DRAWN, arg=CHARTS[kind])
        charts[kind] = page.locator(f"{PANEL} .js-plotly-plot").count()
        assert page.locator(f"{PANEL} [data-mime-type='application/vnd.jupyter.error']").count() == 0, kind
    page.wait_for_function(AS_WIDE)
    before = page.wait_for_function(DENSITY).json_value()
    explorer = page.locator(f"{PANEL} .perfkit-explorer .js-plotly-plot")
    course = explorer.filter(has_text="seconds since the run began").locator(".nsewdrag").first
    course.scroll_into_view_if_needed()
    box = course.bounding_box()
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], height)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], height, steps=6)
    page.mouse.up()
    page.wait_for_function(f"before => {{ const now = ({DENSITY})(); return now && now !== before }}", arg=before)
    assert (failed, [url for url in elsewhere if url.startswith("http")]) == ([], [])
    return charts


@pytest.fixture
def browser_of_machine(request):
    """Chromium, where there is one."""
    return request.getfixturevalue("browser") if CHROMIUM.exists() else None


@pytest.mark.slow
def test_jupyterlab_runs_copies_of_the_notebooks(tmp_path, browser_of_machine):
    root = ["--allow-root"] if os.geteuid() == 0 else []
    port = free_port()
    words = [
        "lab",
        "--no-browser",
        "--expose-app-in-browser",
        f"--port={port}",
        "--ip=127.0.0.1",
        f"--IdentityProvider.token={TOKEN}",
        *root,
    ]
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
            copies = {kind: (tmp_path / "notebooks" / f"{kind}.ipynb").read_bytes() for kind in NOTEBOOKS}
            address = f"http://127.0.0.1:{port}/lab?token={TOKEN}"
            charts = run_notebooks(browser_of_machine, address) if browser_of_machine else None
        finally:
            process.terminate()
            process.stderr.read()
    assert {item["name"] for item in content} == {f"{kind}.ipynb" for kind in NOTEBOOKS}
    assert lines[0] == "copied baseline.ipynb, compare.ipynb, capacity.ipynb, trend.ipynb, explore.ipynb to notebooks\n"
    assert lines[1] == "data/runs has no runs for the notebooks yet.  Next: perfkit init, then perfkit run shop\n"
    assert charts is None or charts == CHARTS
    assert copies == {kind: find_notebook(kind).read_bytes() for kind in NOTEBOOKS}


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
