"""Files of load-test tools -> `Run`: `read_run` asks the readers of `READERS`, one after the other.

To add a format, write a module here (as `metrics_json` is) with what `Reader` asks for: ``TITLE``, ``sniff(path)``,
cheap and without errors for foreign files, and ``read(path) -> Run``; then name it in `READERS`.  A reader of single
requests makes a table and hands it to `run_from_requests`; one of summaries makes `ServiceStats`, with `check_run` for
the validity and ``None`` for what its source cannot say.  Everything else (import, metrics, compare) takes the `Run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from perfkit.model.errors import Activity, ReadError, UnknownFormat, refusals
from perfkit.model.records import Run
from perfkit.runs import locust_csv, metrics_json, run_folder
from perfkit.runs.requests import run_from_requests

__all__ = ["READERS", "Reader", "read_run", "run_from_requests"]


class Reader(Protocol):
    """What a format module offers."""

    TITLE: str

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` looks like this format.  Opens at most the beginning of a file."""

    def read(self, path: Path) -> Run:
        """Read it; ``ReadError`` names file and line of what is wrong."""


READERS: tuple[Reader, ...] = (run_folder, locust_csv, metrics_json)


def read_run(path: str | Path) -> Run:
    """Read one run: a run folder, a tool's result file, or a folder or prefix of one tool's files.

    Raises
    ------
    ReadError
        The path does not exist, or a file is broken; names file and line.
    UnknownFormat
        Nobody knows the format.
    """
    file = Path(path)
    with refusals(f"{path}: cannot be read", ReadError), Activity(f"reading {path}"):
        for reader in READERS:
            if reader.sniff(file):
                return reader.read(file)
    if not file.exists():
        raise ReadError(f"{path}: there is no such file, folder or prefix of files")
    empty = "is empty: " if file.is_file() and not file.stat().st_size else ""
    titles = "; ".join(reader.TITLE for reader in READERS)
    raise UnknownFormat(f"{path}: {empty}no reader knows this format. Known are: {titles}")
