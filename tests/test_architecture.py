"""The house keeps its order: imports point one way, only the command line prints, heavy libraries load where used."""

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache

import pytest
from samples import REPOSITORY

pytestmark = pytest.mark.xdist_group("test_architecture")  # one worker reads all files, and none does to collect

# Lower first: a room may import itself and rooms before it.
ROOMS = ["model", "config", "stats", "runs", "analysis", "history", "loadgen", "report", "notify", "cli"]
LONGEST_CHAIN = 14  # files that import each other in a row
PACKAGE = REPOSITORY / "perfkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMED = [path for path in MODULES if path.parent != PACKAGE]


def room(path):
    """The room of a file: ``stats`` for ``perfkit/stats/effect.py``."""
    return path.relative_to(PACKAGE).parts[0]


@cache
def nodes_of(path):
    """Every node of a file's syntax."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_files(path, *, types=False):
    """Files of perfkit that a file imports anywhere, also within functions; for type checks alone with ``types``."""
    typing_only = {
        inner
        for node in nodes_of(path)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in nodes_of(path):
        if node in typing_only and not types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "perfkit":
            for alias in node.names:
                yield file_of(f"{node.module}.{alias.name}") or file_of(node.module)
        elif isinstance(node, ast.Import):
            yield from (file_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "perfkit")


def file_of(module):
    stem = REPOSITORY / module.replace(".", "/")
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.exists()), None)


@cache
def imports_of(path, *, types=False):
    return {file for file in imported_files(path, types=types) if file != path}


def test_ten_rooms_and_nothing_else():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert folders == set(ROOMS)
    assert files == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("path", NAMED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_to_lower_rooms_only(path):
    for file in imports_of(path):
        assert file.parent != PACKAGE, f"{path.name} imports the public names; import from the room that has them"
        assert ROOMS.index(room(file)) <= ROOMS.index(room(path)), f"{path.name} imports {file.name}, which is above it"


def test_no_two_files_import_each_other_in_a_circle():
    assert list(graphlib.TopologicalSorter({path: imports_of(path, types=True) for path in NAMED}).static_order())
    order = graphlib.TopologicalSorter({path: imports_of(path) for path in NAMED}).static_order()
    longest: dict = {}
    for path in order:
        longest[path] = 1 + max((longest[file] for file in imports_of(path)), default=0)
    assert max(longest.values()) <= LONGEST_CHAIN


def test_the_architecture_page_lists_every_room_in_this_order_and_names_files_that_exist():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" `/") for line in text.splitlines() if line.startswith("| `")]
    assert rows == ROOMS
    named = set(re.findall(r"`((?:perfkit/)?(?:" + "|".join(ROOMS) + r")/\w+\.py)`", text))
    assert len(named) > 20
    assert not [name for name in named if not (PACKAGE / name.removeprefix("perfkit/")).is_file()]


@pytest.mark.parametrize("path", [path for path in NAMED if room(path) != "cli"], ids=lambda path: path.stem)
def test_only_the_command_line_prints(path):
    calls = [node for node in nodes_of(path) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if getattr(call.func, "id", "") == "print"]


@pytest.mark.parametrize("path", [path for path in NAMED if room(path) != "cli"], ids=lambda path: path.stem)
def test_only_the_command_line_reads_settings_and_looks_at_the_current_folder(path):
    """Rooms below are handed what they need; so does the facade, ``perfkit/__init__``."""
    nodes = nodes_of(path)
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    readers = {"load_settings", "nearest_settings"} if path.name != "settings.py" else set()
    assert not used & {"cwd", "getcwd", "getcwdb", *readers}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_swallows_every_exception(path):
    handlers = [node for node in nodes_of(path) if isinstance(node, ast.ExceptHandler)]
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


def test_scipy_stats_is_not_imported_and_statsmodels_by_submodule_where_it_is_used():
    """They cost half a second of CPU to import: a comparison of stored runs does without them."""
    for path in MODULES:
        functions = (node for node in nodes_of(path) if isinstance(node, ast.FunctionDef))
        inside = {inner for node in functions for inner in ast.walk(node)}
        for node in nodes_of(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not {"scipy.stats", "statsmodels", "statsmodels.api"} & set(names), path
            assert node in inside or not any(name.startswith("statsmodels.") for name in names), path
