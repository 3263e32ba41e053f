"""``perfkit lab``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import click

from perfkit.errors import MissingExtra, StoreError
from perfkit.installation import extra_advice

# JupyterLab in the process of this command, so that signals reach it; its failures end in 4, as any other step's do
JUPYTERLAB = """
import runpy, sys, traceback
try:
    runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)
except SystemExit as end:
    if isinstance(end.code, str):
        sys.stderr.write(end.code + "\\n")
    sys.exit(4 if end.code else 0)
except Exception:
    traceback.print_exc()
    sys.exit(4)
"""


@click.command(
    short_help="Open the notebooks in JupyterLab.",
    context_settings={"ignore_unknown_options": True},
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("notebooks"),
    show_default=True,
    help="The notebooks; perfkit's own are copied there when it has none.",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF JUPYTERLAB]...")
def lab(folder: Path, options: tuple[str, ...]) -> None:
    """Open the notebooks in JupyterLab, to look further than a report does.

    Everything else is handed on to JupyterLab, which takes the place of this command.  When it fails, the exit
    code is 4.

    \b
    Examples:
      perfkit lab
      perfkit lab --folder investigations/checkout --no-browser --port 8899
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtra(f"JupyterLab is not installed; {extra_advice('lab')}")
    if not any(folder.glob("*.ipynb")):
        _copy_notebooks(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-c", JUPYTERLAB, str(folder), *options])


def _copy_notebooks(folder: Path) -> None:
    from perfkit.render.notebook import KINDS, find_notebook

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            shutil.copy(find_notebook(kind), folder)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
    click.echo(f"copied {', '.join(f'{kind}.ipynb' for kind in KINDS)} to {folder}", err=True)
