"""perfkit's own run folders: ``run.json`` with the summary, ``requests.parquet`` with every request.

A folder with ``started.json`` and no ``run.json`` is a run that was killed: what the recorder had flushed is read, and
the run is marked ``interrupted``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.document import run_from_document
from perfkit.errors import ReadError
from perfkit.model import Check, Run, Severity, Validity
from perfkit.readers.generator import generator_facts
from perfkit.readers.recording import read_recording
from perfkit.readers.requests_frame import request_columns, summarise_columns
from perfkit.readers.stages import stage_stats
from perfkit.validity import check_run

if TYPE_CHECKING:
    import pandas as pd

TITLE = "run folders of perfkit (run.json)"
DOCUMENT, STARTED, REQUESTS, RECORDING = "run.json", "started.json", "requests.parquet", "requests.arrow"
QUARANTINE = ".quarantine"  # folder beside the runs: a note for each run that a person set aside


def sniff(path: Path) -> bool:
    """A folder with run.json or started.json, or one of these files itself."""
    if path.name in (DOCUMENT, STARTED):
        return path.is_file()
    return path.is_dir() and any((path / name).is_file() for name in (DOCUMENT, STARTED))


def read(path: Path) -> Run:
    """Read a run folder."""
    folder = path if path.is_dir() else path.parent
    if not (folder / DOCUMENT).is_file():
        return _read_killed(folder)
    run = run_from_document(_load(folder / DOCUMENT), str(folder / DOCUMENT))
    parquet = folder / REQUESTS
    loader = (lambda: read_requests(parquet)) if parquet.is_file() else None
    return _unless_set_aside(replace(run, source=str(folder), load_requests=loader), folder)


def _unless_set_aside(run: Run, folder: Path) -> Run:
    """A note beside the run makes it invalid; the run itself stays as it was written."""
    folder = folder.resolve()
    note = folder.parent / QUARANTINE / f"{folder.name}.json"
    if not note.is_file():
        return run
    try:
        document = _load(note)
    except ReadError:
        document = {}
    reason = document.get("reason") if isinstance(document, dict) else None
    return replace(run, validity=Validity((*run.validity.checks, quarantine_check(str(reason or "no reason given")))))


def quarantine_check(reason: str) -> Check:
    """What the checks of a run say when a person set it aside."""
    advice = "A person set the run aside; `perfkit runs quarantine --lift` takes it back."
    return Check("quarantined", reason, "no", Severity.INVALID, advice)


def read_requests(parquet: Path) -> pd.DataFrame:
    """Every request of a run, in the order in which they were recorded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        frame: pd.DataFrame = pq.read_table(parquet).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise ReadError(f"{parquet}: cannot be read: {error}") from error
    return frame


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReadError(f"{file}: line {error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ReadError(f"{file}: is not UTF-8 text (byte {error.start})") from error


def _read_killed(folder: Path) -> Run:
    """What a killed run left: its intent, and the requests that had been flushed."""
    run = run_from_document(_load(folder / STARTED), str(folder / STARTED))
    frame = _salvage(folder)
    columns = request_columns(frame)
    summary = summarise_columns(columns)
    killed = "the run was killed before it could be finished"
    facts = replace(generator_facts(folder / "source", run.profile), interrupted=killed, warm_up_s=summary.warm_up_s)
    return replace(
        run,
        started_at=datetime.fromtimestamp(summary.begin_s, UTC) if len(frame) else run.started_at,
        duration_s=summary.end_s - summary.begin_s,
        services=summary.services,
        validity=Validity(check_run(summary.services, run.profile, facts, None, summary.within)),
        content_hash=columns.digest(),
        stages=stage_stats(columns, run.profile),
        source=str(folder),
        load_requests=frame.copy,
    )


def _salvage(folder: Path) -> pd.DataFrame:
    if (folder / RECORDING).is_file():
        frame: pd.DataFrame = read_recording(folder / RECORDING).to_pandas()
        return frame
    if (folder / REQUESTS).is_file():
        return read_requests(folder / REQUESTS)
    from perfkit.readers.recording import RECORDING_SCHEMA

    empty: pd.DataFrame = RECORDING_SCHEMA.empty_table().to_pandas()
    return empty
