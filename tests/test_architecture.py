"""The house keeps its order: imports point one way, only the command line prints, heavy libraries load where used."""

import ast
import subprocess
import sys

import pytest
from samples import REPOSITORY

# Lower first: a module may import modules of a lower level, and its own level within one folder.
LEVELS = [
    "whole_file",
    "redaction",
    "installation",
    "errors",
    "omissions",
    "git",
    "codec",
    "settings_file",
    "arithmetic",
    "load_profile",
    "profile_words",
    "script_errors",
    "model",
    "consistency",
    "policy",
    "document",
    "channels",
    "config",
    "stats",
    "validity",
    "alike",
    "coverage",
    "comparability",
    "noise_profile",
    "readers",
    "service_names",
    "judge",
    "levels",
    "planning",
    "replay",
    "slo",
    "capacity",
    "store",
    "history",
    "named_runs",
    "results",
    "overview",
    "news",
    "load",
    "executions",
    "render",
    "deliver",
    "workflow",
    "telling",
    "side_by_side",
    "batch",
    "bisect",
    "demo",
    "audit",
    "selftest",
    "cli",
    "__main__",
]
MODULES = sorted((REPOSITORY / "perfkit").rglob("*.py"))
NAMED = [path for path in MODULES if path.relative_to(REPOSITORY / "perfkit").parts != ("__init__.py",)]


def room(path):
    """The level's name of a file: ``stats`` for ``perfkit/stats/noise.py``."""
    return path.relative_to(REPOSITORY / "perfkit").parts[0].removesuffix(".py")


def imported_rooms(path):
    """Rooms of perfkit that a file imports anywhere, also within functions (type checks aside)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "perfkit":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (n.name.split(".")[1] for n in node.names if n.name.startswith("perfkit."))


def test_every_module_has_a_level():
    assert {room(path) for path in NAMED} == set(LEVELS)


@pytest.mark.parametrize("path", NAMED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_to_lower_levels_only(path):
    own = LEVELS.index(room(path))
    for name in imported_rooms(path):
        if name in LEVELS:
            assert LEVELS.index(name) <= own, f"{path.name} imports {name}, which is above it"


def test_the_architecture_page_lists_every_room_in_this_order():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = [name.strip(" `/") for row in rows for name in row.split(",")]
    assert named == LEVELS[:-1]


@pytest.mark.parametrize("path", [path for path in NAMED if room(path) != "cli"], ids=lambda path: path.stem)
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if getattr(call.func, "id", "") == "print"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_swallows_every_exception(path):
    handlers = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ExceptHandler)]
    caught = [getattr(handler.type, "id", None if handler.type else "everything") for handler in handlers]
    assert not {"Exception", "BaseException", "everything"} & set(caught)


@pytest.mark.parametrize(
    "code",
    ["import perfkit", "from perfkit.cli import main; import sys; main(['--help'], sys.stdout, sys.stderr)"],
)
def test_heavy_libraries_are_imported_where_they_are_used(code):
    heavy = ("numpy", "pandas", "pyarrow", "plotly", "scipy", "locust", "gevent", "papermill", "nbconvert", "uvicorn")
    check = f"{code}\nimport sys\nsys.exit(', '.join(n for n in {heavy!r} if n in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_only_one_room_imports_scipy_stats_or_statsmodels():
    """They cost seconds of CPU to import and serve as oracles of the tests."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "scipy.stats" not in text, path
        assert "import statsmodels" not in text, path
