"""The house keeps its order: imports point one way, only the command line prints, heavy libraries load where used."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest
from samples import REPOSITORY

# Lower first: a room may import itself and rooms before it.
ROOMS = ["model", "config", "stats", "runs", "analysis", "history", "loadgen", "report", "notify", "cli"]
LONGEST_CHAIN = 14  # files that import each other in a row
PACKAGE = REPOSITORY / "perfkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMED = [path for path in MODULES if path.parent != PACKAGE]


def room(path):
    """The room of a file: ``stats`` for ``perfkit/stats/effect.py``."""
    return path.relative_to(PACKAGE).parts[0]


def imported_files(path, *, types=False):
    """Files of perfkit that a file imports anywhere, also within functions; for type checks alone with ``types``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = (
        {}
        if types
        else {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
    )
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "perfkit":
            for alias in node.names:
                yield file_of(f"{node.module}.{alias.name}") or file_of(node.module)
        elif isinstance(node, ast.Import):
            yield from (file_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "perfkit")


def file_of(module):
    stem = REPOSITORY / module.replace(".", "/")
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.exists()), None)


IMPORTS = {path: {file for file in imported_files(path) if file != path} for path in MODULES}
NEEDED = {path: {file for file in imported_files(path, types=True) if file != path} for path in NAMED}


def test_ten_rooms_and_nothing_else():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert folders == set(ROOMS)
    assert files == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("path", NAMED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_to_lower_rooms_only(path):
    for file in IMPORTS[path]:
        assert file.parent != PACKAGE, f"{path.name} imports the public names; import from the room that has them"
        assert ROOMS.index(room(file)) <= ROOMS.index(room(path)), f"{path.name} imports {file.name}, which is above it"


def test_no_two_files_import_each_other_in_a_circle():
    assert list(graphlib.TopologicalSorter(NEEDED).static_order())
    order = graphlib.TopologicalSorter({path: IMPORTS[path] for path in NAMED}).static_order()
    longest: dict = {}
    for path in order:
        longest[path] = 1 + max((longest[file] for file in IMPORTS[path]), default=0)
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
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if getattr(call.func, "id", "") == "print"]


@pytest.mark.parametrize("path", [path for path in NAMED if room(path) != "cli"], ids=lambda path: path.stem)
def test_only_the_command_line_reads_settings_and_looks_at_the_current_folder(path):
    """Rooms below are handed what they need; so does the facade, ``perfkit/__init__``."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    readers = {"load_settings", "nearest_settings"} if path.name != "settings.py" else set()
    assert not used & {"cwd", "getcwd", "getcwdb", *readers}


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


def test_scipy_stats_is_not_imported_and_statsmodels_by_submodule_where_it_is_used():
    """They cost half a second of CPU to import: a comparison of stored runs does without them."""
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not {"scipy.stats", "statsmodels", "statsmodels.api"} & set(names), path
            assert node in inside or not any(name.startswith("statsmodels.") for name in names), path
