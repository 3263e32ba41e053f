"""Notebooks as functions: checked parameters in; an executed notebook, a report and a result out.

The report is one HTML file that opens offline and asks nobody for anything.
"""

from __future__ import annotations

import ast
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.model.errors import Activity, RenderError, SettingsError, did_you_mean
from perfkit.model.files import atomic_write, redact_files
from perfkit.model.installation import shipped_files
from perfkit.model.redaction import redact
from perfkit.report.html import EMPTY
from perfkit.runs.backends import credentials_for_children

if TYPE_CHECKING:
    from nbformat import NotebookNode

KINDS = ("baseline", "compare", "capacity", "trend")
NOTEBOOKS = (*KINDS, "explore")  # that of which there is no report too
_PARAMETERS = "parameters"
SLOW_S = 5.0  # a cell that takes longer is named meanwhile
_AT_START = "--IPKernelApp.exec_lines=from perfkit.report.html import show_as_report; show_as_report()"


@dataclass(frozen=True, slots=True)
class Report:
    """Where a report lies: its folder, and the three files in it."""

    folder: Path
    html: Path
    notebook: Path
    result: Path


def run_report(
    kind: str,
    parameters: Mapping[str, object],
    *,
    reports_dir: Path,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Execute a notebook and write ``reports_dir/<utc>-<kind>/{report.html, executed.ipynb, result.json}``.

    Parameters
    ----------
    kind
        ``baseline``, ``compare``, ``capacity`` or ``trend``: the name of the notebook.
    parameters
        Values for names that the notebook's ``parameters`` cell declares: text, numbers, booleans, paths; a list of
        paths becomes one text with a line each.  ``None``: that of the notebook.
    progress
        Called with a few words at each stage.

    Raises
    ------
    SettingsError
        A parameter is not declared by the notebook, or is of a kind that a notebook cannot take.
    RenderError
        There is no such notebook, a cell failed, or a chart was lost.  When a cell failed, ``executed.ipynb`` is kept.
    """
    _import_jsonschema()
    import nbformat

    source = find_notebook(kind)
    say = progress or (lambda _: None)
    notebook = nbformat.read(source, as_version=4)
    given = {name: value for name, value in parameters.items() if value is not None}
    values = _checked(kind, declared_parameters(notebook, source.name), given)
    folder = new_folder(Path(reports_dir), kind)
    report = Report(folder, folder / "report.html", folder / "executed.ipynb", folder / "result.json")
    values = {name: redact(value) if isinstance(value, str) else value for name, value in values.items()}
    values["result"] = str(report.result.absolute())
    try:
        with Activity(f"executing the notebook {kind} in {folder}"):
            executed = _execute(notebook, kind, report, values, say)
    finally:
        redact_files(folder)
    say("writing the report")
    from perfkit.report.page import export_html

    if not report.result.is_file():
        raise RenderError(f"notebook {kind}: its last cell did not write {report.result.name}; see {report.notebook}")
    result = json.loads(report.result.read_text("utf-8"))
    html = export_html(without_empty_sections(executed), kind=kind, title=values.get("title"), result=result)
    try:
        atomic_write(report.html, html)
    except OSError as error:
        raise RenderError(f"{report.html}: cannot be written: {error.strerror}; the rest is in {folder}") from error
    return report


def _import_jsonschema() -> None:
    """Import what nbformat needs without the parser of IRIs that JupyterLab brings along.

    jsonschema builds its grammar at import, a second of CPU, where the package is there: no notebook has an IRI to be
    checked, and jsonschema does without where it is not installed.
    """
    unneeded = "rfc3987_syntax"
    if "jsonschema" in sys.modules or unneeded in sys.modules:
        return
    sys.modules[unneeded] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        import_module("jsonschema")
    finally:
        del sys.modules[unneeded]


def find_notebook(kind: str) -> Path:
    """The notebook inside the installed package, else in the checkout."""
    if kind not in NOTEBOOKS:
        near, listed = did_you_mean(kind, NOTEBOOKS), ", ".join(NOTEBOOKS)
        raise RenderError(f"there is no notebook {kind!r}{near}; known are {listed}")
    for path in shipped_files("notebooks", f"{kind}.ipynb"):
        return path
    raise RenderError(f"notebook {kind}.ipynb is missing from this installation; install perfkit again")


def declared_parameters(notebook: NotebookNode, name: str) -> tuple[str, ...]:
    """The names that the cell tagged ``parameters`` assigns, in order."""
    cells = [cell for cell in notebook.cells if _PARAMETERS in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise RenderError(f"{name}: has {len(cells)} cells tagged {_PARAMETERS!r}; it must have one")
    return _assigned(cells[0].source)


def check_injected(declared: str, injected: str) -> None:
    """``SettingsError`` where the cell that papermill put behind the declared parameters has another one."""
    names = _assigned(declared)
    for name in _assigned(injected) if names else ():
        if name not in names:
            near, listed = did_you_mean(name, names), ", ".join(names)
            raise SettingsError(f"{name}: this notebook has no such parameter{near}; known are {listed}")


def _assigned(source: str) -> tuple[str, ...]:
    """The names that the source of a cell assigns, in order."""
    targets: list[ast.expr] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


def _checked(kind: str, declared: tuple[str, ...], parameters: Mapping[str, object]) -> dict[str, Any]:
    # papermill runs on with its defaults after a misspelt name, so names are checked here.
    for name in parameters:
        if name not in declared:
            listed = ", ".join(declared)
            nearest = did_you_mean(name, declared)
            raise SettingsError(f"notebook {kind}: unknown parameter {name!r}{nearest}; known are {listed}")
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        texts = value if isinstance(value, list | tuple) and value else [value]
        if value is None or isinstance(value, bool | int | float):
            values[name] = value
        elif all(isinstance(text, str | Path) for text in texts):
            values[name] = "\n".join(map(str, texts))
        else:
            raise SettingsError(
                f"notebook {kind}: parameter {name} must be text, a number, true or false, nothing, or a list of "
                f"paths, got {type(value).__name__}"
            )
    return values


def new_folder(reports: Path, kind: str) -> Path:
    """A folder of our own, also when two reports start in the same second."""
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{kind}"
    for attempt in range(1, 1000):
        folder = reports / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise RenderError(f"{reports}: is not a folder; name another one for the reports") from None
        except OSError as error:
            raise RenderError(f"{folder}: cannot be created: {error.strerror}") from error
        else:
            return folder
    raise RenderError(f"{reports}: a thousand reports began in one second")


def _execute(
    notebook: NotebookNode, kind: str, report: Report, values: Mapping[str, Any], say: Callable[[str], None]
) -> NotebookNode:
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    say(f"executing the notebook {kind}: {total} cells")
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    # What writes the page takes as long to import as a small notebook to run: do both at once.
    modules = ("nbconvert", "perfkit.report.page", "plotly.offline")
    threading.Thread(target=lambda: list(map(import_module, modules)), daemon=True).start()
    running: list[NotebookNode] = []
    slow = threading.Timer(0.0, say)

    def begin(cell: NotebookNode, **_: object) -> None:
        nonlocal slow
        slow.cancel()
        slow = threading.Timer(SLOW_S, say, [f"still executing: {cell.source.splitlines()[-1].strip()}"])
        slow.daemon = True
        slow.start()

    try:
        executed: NotebookNode = papermill.execute_notebook(
            notebook,
            None,  # papermill would write outputs as they are: what is kept is redacted before it is written
            parameters=dict(values),
            kernel_name="python3",
            kernel_manager_class=_current_interpreter(),
            progress_bar=False,
            # Saving checks the whole notebook against its schema: twice per cell that is a second for nothing.
            request_save_on_cell_execute=False,
            on_notebook_start=lambda notebook: running.append(notebook),
            on_cell_start=begin,
        )
    except PapermillExecutionError as error:
        _keep(running[-1], report.notebook)
        raise RenderError(_failure(notebook, kind, report, error)) from error
    except OSError as error:
        raise RenderError(f"{report.folder}: the notebook cannot be executed: {error.strerror or error}") from error
    except (PapermillException, DeadKernelError, RuntimeError) as error:
        text = str(error).strip() or type(error).__name__
        last = text.splitlines()[-1]
        _keep(running[-1] if running else notebook, report.notebook)
        raise RenderError(f"notebook {kind}: could not be executed: {last}; see {report.notebook}") from error
    finally:
        slow.cancel()
    _keep(executed, report.notebook)
    return executed


def _keep(notebook: NotebookNode, path: Path) -> None:
    """Write an executed notebook without secrets, whole or not at all."""
    import nbformat

    try:
        atomic_write(path, redact(nbformat.writes(notebook)))
    except OSError as error:
        raise RenderError(f"{path}: cannot be written: {error.strerror or error}") from error


def _current_interpreter() -> type[Any]:
    """A kernel manager that starts *this* interpreter, whatever kernels are or are not installed.

    A kernel spec named ``python3`` in a user's home may belong to another environment, which has no perfkit.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:  # noqa: ARG002
            # No history file: two reports at once would wait for one another's lock.
            spec = get_kernel_dict(
                extra_arguments=["--HistoryManager.enabled=False", "--log-level=CRITICAL", _AT_START]
            )
            # The notebook, which is kept, gets public addresses; what opens them stands in no file.
            return KernelSpec(resource_dir=RESOURCES, env=credentials_for_children(), **spec)

    class ThisKernel(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(kernel_spec_manager=ThisInterpreter(), **options)

    return ThisKernel


def _failure(notebook: NotebookNode, kind: str, report: Report, error: Any) -> str:
    """Which cell failed, under which heading, and the last line of what it said."""
    source = str(error.source).strip()
    first = next((line for line in source.splitlines() if line.strip()), "")
    position = next((i for i, cell in enumerate(notebook.cells) if cell.source.strip() == source), None)
    before = notebook.cells[: position or 0]
    headings = [line.lstrip("# ") for cell in before for line in cell.source.splitlines() if line.startswith("#")]
    under = f' under "{headings[-1]}"' if position is not None and headings and before else ""
    last = [line for line in str(error.evalue).splitlines() if line.strip()]
    what = f"{error.ename}: {last[-1].strip()}" if last else str(error.ename)
    number = f"cell {position + 1}" if position is not None else f"cell {error.exec_count}"
    kept = "The executed notebook is kept" if report.notebook.is_file() else "The executed notebook could not be kept"
    return f"notebook {kind}, {number}{under} ({first}): {what}. {kept}: {report.notebook}"


def without_empty_sections(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the headings, and all below them, whose outputs have nothing to show."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)

    def has_answer(section: Sequence[NotebookNode]) -> bool:
        outputs = [output for cell in section for output in cell.get("outputs", [])]
        shown = (str(output.get("data", {}).get("text/html", "")) for output in outputs)
        return not outputs or not all(html.startswith(f'<p class="{EMPTY}">') for html in shown)

    kept = notebook.copy()
    kept.cells = [*sections[0], *(cell for section in sections[1:] if has_answer(section) for cell in section)]
    return kept
