"""The project's files: honest dependencies, the top level, and the wheel in an empty environment."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return Requirement(requirement).name.lower().replace("_", "-")


EXTRAS = {
    extra: {name_of(requirement) for requirement in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
}
RUNTIME = {name_of(requirement) for requirement in PROJECT["dependencies"]}
DEVELOPMENT = EXTRAS.pop("dev")

# The distribution that brings an import name, where it has another name
DISTRIBUTIONS = {
    "IPython": "ipython",
    "css_inline": "css-inline",
    "jupyter_client": "jupyter-client",
    "yaml": "pyyaml",
    "check_jsonschema": "check-jsonschema",
    "kubernetes_validate": "kubernetes-validate",
    "openapi_schema_validator": "openapi-schema-validator",
}
CONDA_NAMES = {"css-inline": "css_inline", "jupyter-client": "jupyter_client", "matplotlib": "matplotlib-base"}
# Declared and never imported by name
STARTED_OR_LOADED = {
    "anywidget": "plotly's FigureWidget, which `perfkit.explore` shows, is one",
    "jupyterlab": "started by `perfkit lab`",
    "s3fs": "loaded by fsspec for s3:// URLs",
}


def imported(*folders: str) -> dict[str, set[str]]:
    """Distribution -> files that import it anywhere, also within functions and for type checks alone."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    own = {"perfkit", *(path.stem for path in files if "perfkit" not in path.relative_to(ROOT).parts)}
    users: dict[str, set[str]] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            for module in {name.split(".")[0] for name in modules} - own - sys.stdlib_module_names:
                users.setdefault(DISTRIBUTIONS.get(module, module), set()).add(str(path.relative_to(ROOT)))
    return users


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    users = imported("perfkit")
    declared = RUNTIME.union(*EXTRAS.values())
    assert {name: files for name, files in users.items() if name not in declared} == {}
    assert declared - users.keys() == STARTED_OR_LOADED.keys()


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    declared = RUNTIME.union(DEVELOPMENT, *EXTRAS.values())
    users = imported("tests", "benchmarks")
    assert {name: files for name, files in users.items() if name not in declared} == {}


def test_nothing_of_an_extra_is_imported_with_the_modules_of_perfkit() -> None:
    """Each extra is imported where it is used: whoever does not use it need not have it."""
    names = set().union(*EXTRAS.values()) - RUNTIME
    for path in (ROOT / "perfkit").rglob("*.py"):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert (module or "").split(".")[0] not in names, f"{path.name} imports {module}"


def test_environment_yml_brings_the_same_from_conda_forge_without_the_developers_tools() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"]
    assert pip == {"pip": ["-e ."]}
    written = {re.split("[<>=]", text)[0]: text for text in packages}
    texts = list(PROJECT["dependencies"])
    for extra in EXTRAS:
        texts += PROJECT["optional-dependencies"][extra]
    names = {CONDA_NAMES.get(name_of(text), name_of(text)): text for text in texts}
    assert written.keys() - names.keys() == {"python", "pip"}
    assert names.keys() - written.keys() == set()
    for name, text in names.items():
        assert re.sub("^[A-Za-z0-9_-]+", "", written[name]) == re.sub("^[A-Za-z0-9_-]+", "", text), name


def test_every_dependency_has_a_lower_bound_and_most_an_upper_one() -> None:
    for text in PROJECT["dependencies"]:
        assert re.search(r">=\d", text), text
        assert re.search(r",<\d", text) or text.startswith(("fsspec", "gevent")), text  # their versions are dates


def test_the_top_level_is_as_promised() -> None:
    wanted = "notebooks perfkit data reports tests benchmarks docs environment.yml pyproject.toml Makefile README.md"
    for name in (*wanted.split(), "CHANGELOG.md", "LICENSE", ".ci/run"):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_wheel_reports_in_an_empty_environment_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "env"
    venv.create(home, with_pip=shutil.which("uv") is None)
    python = home / "bin" / "python"
    install = (
        ["uv", "pip", "install", "-q", "--python", str(python)]
        if shutil.which("uv")
        else [str(python), "-m", "pip", "install", "-q"]
    )
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    runs = [str(path.parent) for path in sorted((ROOT / "data" / "samples" / "baseline").glob("*/run.json"))]
    words = ["report", "baseline", *runs, "--reports", "made"]
    done = subprocess.run([home / "bin" / "perfkit", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("made/*/report.html")
    assert report.stat().st_size <= 6_000_000
    page = subprocess.run([home / "bin" / "perfkit", "docs", "glossary"], cwd=tmp_path, capture_output=True, text=True)
    assert (page.returncode, "coordinated omission" in page.stdout) == (0, True), page.stderr
