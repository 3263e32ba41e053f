"""The project's files: dependencies told twice, top level, and the wheel in an empty environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_names_the_dependencies_of_pyproject() -> None:
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    assert sorted(item for item in packages if item != "-e .") == sorted([*PROJECT["dependencies"], *extras])


def test_every_dependency_has_a_lower_bound_and_most_an_upper_one() -> None:
    for text in PROJECT["dependencies"]:
        assert re.search(r">=\d", text), text
        assert re.search(r",<\d", text) or text.startswith("fsspec"), text  # its versions are dates


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
