"""perfkit's own run folders: ``run.json`` with the summary, ``requests.parquet`` with every request.

A folder with ``started.json`` and no ``run.json`` is a run that was killed: what the recorder had flushed is read, and
the run is marked ``interrupted``.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from perfkit.codec import decode, parse_json, read_bytes, read_json
from perfkit.document import Seal, Stored, read_stored, run_from_document
from perfkit.errors import ReadError
from perfkit.model import Check, Run, Severity, Validity
from perfkit.omissions import leave_out
from perfkit.readers.generator import generator_facts
from perfkit.readers.recording import salvage
from perfkit.readers.requests_frame import redact_requests, request_columns, summarise_columns
from perfkit.readers.stages import stage_stats
from perfkit.validity import check_run

if TYPE_CHECKING:
    import pandas as pd

TITLE = "run folders of perfkit (run.json)"
DOCUMENT, STARTED, REQUESTS, RECORDING = "run.json", "started.json", "requests.parquet", "requests.arrow"
NOTE_SCHEMA = "perfkit.quarantine/1"
BYTES_PER_CELL = 16  # of a table of requests in memory, with the copies on the way there
MANY_ROWS, ROWS_PER_BYTE = 1_000_000, 1  # times as measured differ from each other: a request takes several bytes
UNLIKE_MEAN = 10.0  # times: a summary leaves the warm-up out
CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
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
    stored = read_stored(read_bytes(folder / DOCUMENT), str(folder / DOCUMENT))
    parquet = folder / REQUESTS
    loader = (lambda: read_requests(parquet, stored.run, stored.seal)) if parquet.is_file() else None
    validity = Validity((*stored.run.validity.checks, *count_checks(parquet, stored)))
    run = replace(stored.run, source=str(folder), load_requests=loader, validity=validity)
    return _unless_set_aside(run, folder)


def count_checks(parquet: Path, stored: Stored) -> tuple[Check, ...]:
    """Of a run without a seal: whether its requests are as many as ``run.json`` says."""
    counts = [stats.count for stats in stored.run.services.values()]
    if stored.seal is not None or None in counts or not parquet.is_file():
        return ()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(parquet).num_rows
    except (pa.ArrowException, *UNREADABLE):
        return ()  # said where requests are needed
    counted = sum(count or 0 for count in counts)
    if rows == counted:
        return ()
    advice = f"{parquet.name} holds {rows:,} requests and {DOCUMENT} was made of {counted:,}: one of them was changed."
    return (Check("counts", counted, rows, Severity.INVALID, f"{advice} Bring both back from a copy of the store."),)


def _unless_set_aside(run: Run, folder: Path) -> Run:
    """A note beside the run makes it invalid; the run itself stays as it was written."""
    folder = folder.resolve()
    file = folder.parent / QUARANTINE / f"{folder.name}.json"
    if not file.is_file():
        return run
    content: bytes | Exception
    try:
        content = read_bytes(file)
    except (ReadError, FileNotFoundError) as error:
        content = error
    check = quarantine_check(read_note(content, str(file), folder.name).reason)
    return replace(run, validity=Validity((*run.validity.checks, check)))


class Note(msgspec.Struct, frozen=True):
    """Why a person set a run aside, who, and when (UTC, ISO 8601)."""

    reason: str = ""
    by: str = ""
    at: str = ""


def check_note(content: bytes | Exception, place: str) -> Note:
    """A note on a run, or why it could not be read; ``ReadError`` says what is wrong with it."""
    if isinstance(content, OSError):
        raise ReadError(f"{place}: cannot be read: {content.strerror or content}")
    if isinstance(content, Exception):
        raise content
    note = decode(parse_json(content, place), Note, place, schema=NOTE_SCHEMA, title="note")
    if not note.reason.strip():
        raise ReadError(f"{place}: reason: must say why the run is not to be used, got nothing")
    return note


def read_note(content: bytes | Exception, place: str, run_id: str) -> Note:
    """A note on a run; one that cannot be read still holds, and says so."""
    try:
        return check_note(content, place)
    except ReadError as error:
        leave_out(f"{run_id} stays set aside: its note cannot be read: {error}")
        return Note("no reason can be read")


def quarantine_check(reason: str) -> Check:
    """What the checks of a run say when a person set it aside."""
    advice = "A person set the run aside; `perfkit runs quarantine --lift` takes it back."
    return Check("quarantined", reason, "no", Severity.INVALID, advice)


def read_requests(parquet: Path, run: Run | None = None, seal: Seal | None = None) -> pd.DataFrame:
    """Every request of a run, in the order in which they were recorded.

    Parameters
    ----------
    run, seal
        What ``run.json`` says of them.  A file that is sealed must be the one that was written; of another the requests
        must be as many, per service and of failures, as were summed up.

    Raises
    ------
    ReadError
        The file is damaged, holds other requests, or more than there is memory for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_sealed = check_requests(parquet, run, seal)
    try:
        with pq.ParquetFile(parquet, page_checksum_verification=True) as file:
            _check_size(parquet, file.metadata, run)
            table = file.read()
        if not is_sealed:
            table.validate(full=True)
            _check_types(parquet, table.schema)
        frame = redact_requests(table.to_pandas())
    except (pa.ArrowException, *UNREADABLE) as error:
        raise ReadError(f"{parquet}: cannot be read: {_first_line(error)}") from error
    if run is not None and not is_sealed:
        _check_counts(parquet, frame, run)
    return frame


def check_requests(parquet: Path, run: Run | None, seal: Seal | None) -> bool:
    """Whether the file is sealed; ``ReadError`` when it is, and is not what was written."""
    if run is None or seal is None or seal.requests is None:
        return False
    try:
        with parquet.open("rb") as file:
            mark = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReadError(f"{parquet}: cannot be read: {error.strerror or error}") from error
    if mark != seal.requests:
        raise ReadError(f"{parquet}: is not the file that was written; bring it back from a copy of the store")
    return True


# What Arrow and pandas raise for damaged files, besides Arrow's own errors
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RuntimeError)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _check_size(parquet: Path, metadata: Any, run: Run | None) -> None:
    """Before anything is read: a small file may claim to hold more than fits into memory."""
    counts = [stats.count for stats in run.services.values()] if run is not None else [None]
    counted = sum(count or 0 for count in counts)
    if None not in counts and metadata.num_rows != counted:
        raise ReadError(f"{parquet}: holds {metadata.num_rows:,} requests; run.json was made of {counted:,}")
    size = parquet.stat().st_size
    if metadata.num_rows > max(MANY_ROWS, size * ROWS_PER_BYTE):
        raise ReadError(f"{parquet}: holds {metadata.num_rows:,} rows in {size} bytes, which no requests do")
    check_memory(parquet, metadata.num_rows, metadata.num_columns)


def check_memory(path: Path, rows: int, columns: int) -> None:
    """``ReadError`` for a table whose columns would not fit into the memory that is free."""
    needed, free = rows * max(columns, 1) * BYTES_PER_CELL, free_memory()
    if needed > free:
        raise ReadError(
            f"{path}: holds {rows:,} rows, which take about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB of memory are "
            "free"
        )


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group where that has a limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # no such group, or "max"
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(free, 0)


def _check_types(parquet: Path, schema: Any) -> None:
    """Times are numbers: what reads as one (text, decimals, booleans) was not written by perfkit."""
    import pyarrow as pa

    if "response_time_ms" in schema.names:
        kind = schema.field("response_time_ms").type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ReadError(f"{parquet}: response_time_ms: expected numbers, got a column of {str(kind)[:100]}")


def _check_counts(parquet: Path, frame: pd.DataFrame, run: Run) -> None:
    """Of a file without a seal: the requests that were summed up, or as many."""
    try:
        columns = request_columns(frame)
    except ValueError as error:
        raise ReadError(f"{parquet}: {error}") from error
    if run.content_hash is None or columns.digest() == run.content_hash:
        return
    # The first versions hashed requests in another way; then their numbers have to do.
    size = len(columns.names)
    counts = np.bincount(columns.codes, minlength=size)
    failures = np.bincount(columns.codes, columns.failed, minlength=size)
    there = {name: (int(counts[code]), int(failures[code])) for code, name in enumerate(columns.names)}
    if there != {name: (stats.count, stats.failures) for name, stats in run.services.items()}:
        raise ReadError(f"{parquet}: holds other requests than the summary was made of")
    means = np.bincount(columns.codes, columns.response_time_ms, minlength=size) / np.maximum(counts, 1)
    for name, mean in zip(columns.names, means.tolist(), strict=True):
        average = run.services[name].avg_latency_ms
        if average and not 1 / UNLIKE_MEAN <= mean / average <= UNLIKE_MEAN:
            raise ReadError(
                f"{parquet}: the requests of {name} take {mean:g} ms on average, and {DOCUMENT} says {average:g} ms"
            )


def _read_killed(folder: Path) -> Run:
    """What a killed run left: its intent, and the requests that had been flushed."""
    run = run_from_document(read_json(folder / STARTED), str(folder / STARTED))
    frame, unread = _salvage(folder)
    try:
        columns = request_columns(frame)
    except ValueError as error:
        raise ReadError(f"{folder}: {error}") from error
    summary = summarise_columns(columns)
    killed = "the run was killed before it could be finished"
    if unread:
        killed += f"; the last {unread:,} bytes of its recording cannot be read"
    facts = replace(
        generator_facts(folder / "source", run.profile),
        interrupted=killed,
        warm_up_s=summary.warm_up_s,
        skipped=columns.skipped,
    )
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


def _salvage(folder: Path) -> tuple[pd.DataFrame, int]:
    """The requests of a run that was killed, and how many bytes of its recording cannot be read."""
    if (folder / RECORDING).is_file():
        recorded = salvage(folder / RECORDING)
        return redact_requests(recorded.table.to_pandas()), recorded.unread
    if (folder / REQUESTS).is_file():
        return read_requests(folder / REQUESTS), 0
    from perfkit.readers.recording import RECORDING_SCHEMA

    empty: pd.DataFrame = RECORDING_SCHEMA.empty_table().to_pandas()
    return empty, 0
