"""perfkit's own run folders: ``run.json`` with the summary, ``requests.parquet`` with every request.

Read: `read`, and `read_requests` for the requests, which must be the ones that were written: the document holds a seal,
a hash of itself and of the file of requests.  A folder with ``started.json`` and no ``run.json`` is a run that was
killed: what the recorder had flushed is read, and the run is marked ``interrupted``.

What the load generator wrote about itself, once a second and per process, is ``source/generator.csv``; with workers
there is one table each, ``generator.csv.NAME``, besides that of the master, which makes no requests.  A process that
was killed leaves a line that is cut off, which is left out.

Written: `write_requests` and `sealed_document`, by a store (`perfkit.runs.store`), which publishes the folder.

Set aside: a run with a `QuarantineNote`, ``.quarantine/RUN_ID.json`` beside the runs.  A note that cannot be read still
holds: its run stays invalid.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from perfkit.model.codec import decode, dump_json, parse_json, read_bytes
from perfkit.model.errors import ReadError, StoreError, leave_out, refusals
from perfkit.model.files import atomic_path
from perfkit.model.records import Check, LoadProfile, Run, Severity, Validity
from perfkit.model.redaction import redact, redact_document
from perfkit.model.script_errors import LONGEST_MS, ScriptErrors, SkippedRequests
from perfkit.model.serialization import (
    SEAL,
    Seal,
    Stored,
    document_hash,
    parse_run,
    read_stored,
    run_to_document,
)
from perfkit.runs.backends import DOCUMENT, Backend, LocalFolder
from perfkit.runs.requests import (
    REQUIRED,
    RequestColumns,
    RequestLoader,
    Requests,
    RequestStream,
    column_label,
    redact_requests,
    request_columns,
    summarised,
)
from perfkit.runs.validity import ArrivalCounts, GeneratorFacts, Process
from perfkit.stats.stationarity import count_no_server
from perfkit.stats.summary import Floats

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TITLE = "run folders of perfkit (run.json)"
STARTED, REQUESTS, RECORDING = "started.json", "requests.parquet", "requests.arrow"
MOST_HELD = 1_000_000  # requests whose columns are in memory at once when a run is summed up
MEASURED = [*REQUIRED, "error", "response_bytes", "service_time_ms"]  # columns of a recording that are summed up
BYTES_PER_CELL = 16  # of a table of requests in memory, with the copies on the way there
MANY_ROWS, ROWS_PER_BYTE = 1_000_000, 1  # times as measured differ from each other: a request takes several bytes
UNLIKE_MEAN = 10.0  # times: a summary leaves the warm-up out
CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def sniff(path: Path) -> bool:
    """A folder with run.json or started.json, or one of these files itself."""
    if path.name in (DOCUMENT, STARTED):
        return path.is_file()
    return path.is_dir() and any((path / name).is_file() for name in (DOCUMENT, STARTED))


def read(path: Path) -> Run:
    folder = path if path.is_dir() else path.parent
    if not (folder / DOCUMENT).is_file():
        return _read_killed(folder)
    stored = read_stored(read_bytes(folder / DOCUMENT), str(folder / DOCUMENT))
    parquet = folder / REQUESTS
    loader = request_loader(parquet, stored) if parquet.is_file() else None
    top = folder.resolve().parent
    note = note_on(LocalFolder(str(top), top), folder.resolve().name)
    checks = (*stored.run.validity.checks, *count_checks(parquet, stored), *([note.check] if note else []))
    return replace(stored.run, source=str(folder), load_requests=loader, validity=Validity(checks))


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


def read_requests(parquet: Path, run: Run | None = None, seal: Seal | None = None) -> pd.DataFrame:
    """Every request of a run, in the order in which they were recorded.

    A file that is sealed must be the one that was written; of another the requests must be as many, per service and of
    failures, as the summary of ``run`` says.  ``ReadError``: it is damaged, holds other requests, or more than there is
    memory for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_sealed = check_requests(parquet, run, seal)
    counts = [stats.count for stats in run.services.values()] if run is not None else [None]
    with _damage(parquet):
        with pq.ParquetFile(parquet, page_checksum_verification=True) as file:
            rows, size = file.metadata.num_rows, parquet.stat().st_size
            counted = sum(count or 0 for count in counts)
            if None not in counts and rows != counted:
                raise ReadError(f"{parquet}: holds {rows:,} requests; run.json was made of {counted:,}")
            if rows > max(MANY_ROWS, size * ROWS_PER_BYTE):  # a small file may claim to hold more than fits into memory
                raise ReadError(f"{parquet}: holds {rows:,} rows in {size} bytes, which no requests do")
            check_memory(parquet, rows, file.metadata.num_columns)
            table = file.read()
        if not is_sealed:
            table.validate(full=True)
            if "response_time_ms" in table.schema.names:
                kind = table.schema.field("response_time_ms").type
                if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):  # what perfkit writes
                    text = f"expected numbers, got a column of {str(kind)[:100]}"
                    raise ReadError(f"{parquet}: response_time_ms: {text}")
        frame = redact_requests(table.to_pandas())
    if run is not None and not is_sealed:
        _check_counts(parquet, frame, run)
    return frame


def table_columns(table: pa.Table) -> RequestColumns | None:
    """The requests of a table as perfkit writes it, in a third of the memory; else ``None``: see `request_columns`."""
    kinds = {name: str(table.schema.field(name).type) for name in table.schema.names}
    if (kinds.get("start"), kinds.get("failed")) != ("double", "bool") or not len(table):
        return None
    if kinds.get("response_time_ms") not in _NUMBERS or any(table[name].null_count for name in REQUIRED):
        return None
    services = _coded(table["service"])
    errors = _coded(table["error"]) if "error" in kinds else None
    errors = errors and (errors[0], [redact(text) for text in errors[1]])
    if services is None or (errors is None and "error" in kinds):
        return None
    start, times = (_values(table[name]) for name in ("start", "response_time_ms"))
    if not (np.isfinite(start).all() and (times >= 0).all() and (times <= LONGEST_MS).all()):
        return None
    codes, texts = services
    used = np.bincount(codes, minlength=len(texts)) > 0
    public = [column_label(redact(text)) for text in texts]
    names = sorted({name for name, is_used in zip(public, used, strict=True) if is_used})
    codes = np.array([names.index(name) if name in names else -1 for name in public], np.int32)[codes]
    no_server = None
    if any(kinds.get(name, "double") not in _NUMBERS for name in ("response_bytes", "service_time_ms")):
        return None
    sizes, service_times = (
        _values(table[name]).astype(np.float64, copy=False) if name in kinds else None
        for name in ("response_bytes", "service_time_ms")
    )
    if errors is not None:
        counts = np.bincount(errors[0][errors[0] >= 0], minlength=len(errors[1])).tolist()
        no_server = sum(count for text, count in zip(errors[1], counts, strict=True) if count_no_server([text]))
    times = times.astype(np.float64, copy=False)
    failed = _values(table["failed"]).astype(bool)
    return RequestColumns(start, codes, names, times, failed, sizes, no_server, errors, service_time_ms=service_times)


_NUMBERS = ("int8", "int16", "int32", "int64", "float", "double")


def _values(column: pa.ChunkedArray, gap: float = math.nan) -> Any:
    """The numbers or truth values of a column as one array, with ``gap`` for those that are not there.

    Arrow's ``to_numpy`` and ``fill_null`` load pandas.
    """
    parts = []
    for chunk in column.chunks:
        values = np.from_dlpack(chunk.drop_null().cast("uint8") if str(chunk.type) == "bool" else chunk.drop_null())
        if chunk.null_count:
            there = np.from_dlpack(chunk.is_valid().cast("uint8")).astype(bool)
            filled = np.full(len(chunk), gap)
            filled[there] = values
            values = filled
        parts.append(values)
    return np.concatenate(parts)


def _coded(column: pa.ChunkedArray) -> tuple[Any, list[str]] | None:
    """Codes into texts, negative for none; ``None`` for a column of something else than texts."""
    import pyarrow as pa

    if not str(column.type).startswith(("dictionary<values=string", "dictionary<values=large_string")):
        return None
    chunks = column.unify_dictionaries().chunks
    texts: list[str] = chunks[0].dictionary.to_pylist()
    codes = _values(pa.chunked_array([chunk.indices for chunk in chunks]), -1)
    return None if None in texts else (codes.astype(np.int32, copy=False), texts)


def recorded_requests(parquet: Path) -> Requests:
    """The requests of a file that perfkit wrote, without pandas: taken apart, or in parts where they are many.

    ``ReadError``: it is damaged.
    """
    import pyarrow.parquet as pq

    with _damage(parquet):
        labels = [name for name in ("service", "error") if name in pq.read_schema(parquet).names]
    options: Any = {"page_checksum_verification": True, "read_dictionary": labels}

    def parts() -> Iterator[RequestColumns]:
        with _damage(parquet), pq.ParquetFile(parquet, **options) as file:
            for group in range(file.num_row_groups):
                yield _part(file.read_row_group(group, columns=MEASURED), parquet)

    with _damage(parquet), pq.ParquetFile(parquet, **options) as file:
        if file.metadata.num_rows <= MOST_HELD:
            return _part(file.read(columns=MEASURED), parquet)
    return _in_parts(parts, parquet.parent)


def _in_parts(parts: Callable[[], Iterable[RequestColumns]], folder: Path | None = None) -> RequestStream:
    """The requests of parts that each have a numbering of their own."""
    names: set[str] = set()
    texts: dict[str, int] = {}
    skipped: Counter[tuple[str, str]] = Counter()
    no_server = 0
    for part in parts():
        names.update(part.names)
        for text in part.errors[1] if part.errors else ():
            texts.setdefault(text, len(texts))
        skipped.update({(skip.service, skip.fault): skip.count for skip in part.skipped})
        no_server += part.no_server or 0
    code_of = {name: code for code, name in enumerate(sorted(names))}

    def numbered() -> Iterator[RequestColumns]:
        for part in parts():
            codes = np.array([code_of[name] for name in part.names], np.int32)[part.codes]
            part_errors, kinds = part.errors or (np.full(codes.size, -1), [])
            errors = np.array([*(texts[kind] for kind in kinds), -1], np.int32)[part_errors]
            yield replace(part, codes=codes, names=list(code_of), errors=(errors, list(texts)))

    left_out = tuple(SkippedRequests(*of, count) for of, count in skipped.most_common())
    return RequestStream(numbered, list(code_of), no_server, left_out, folder)


def _part(table: pa.Table, path: Path) -> RequestColumns:
    columns = table_columns(table)
    return request_columns(recorded_frame(table, path)) if columns is None else columns


def request_loader(parquet: Path, stored: Stored) -> RequestLoader:
    """The requests of a stored run, from its file."""
    of = parquet, stored.run, stored.seal
    return RequestLoader(
        lambda: read_requests(*of), lambda: recorded_requests(parquet) if check_requests(*of) else None
    )


def recorded_frame(table: pa.Table, path: Path) -> pd.DataFrame:
    """A recording as a frame of requests; ``path`` names it where it holds more than there is memory for."""
    check_memory(path, table.num_rows, table.num_columns)
    return redact_requests(table.to_pandas())


def check_requests(parquet: Path, run: Run | None, seal: Seal | None) -> bool:
    """Whether the file is sealed; ``ReadError`` when it is, and is not what was written."""
    if run is None or seal is None or seal.requests is None:
        return False
    with refusals(f"{parquet}: cannot be read", ReadError):
        is_written = file_hash(parquet) == seal.requests
    if not is_written:
        raise ReadError(f"{parquet}: is not the file that was written; bring it back from a copy of the store")
    return True


# What Arrow and pandas raise for damaged files, besides Arrow's own errors
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RuntimeError)


@contextmanager
def _damage(parquet: Path) -> Iterator[None]:
    """What Arrow and pandas raise for a file that cannot be read becomes a `ReadError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, *UNREADABLE) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise ReadError(f"{parquet}: cannot be read: {reason}") from error


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
    run = parse_run(read_bytes(folder / STARTED), str(folder / STARTED))
    unread = 0
    requests: Requests
    load: Callable[[], pd.DataFrame]
    if not (folder / RECORDING).is_file() and (folder / REQUESTS).is_file():
        frame = read_requests(folder / REQUESTS)
        requests, load = request_columns(frame), frame.copy
    else:
        requests, load, unread = _recorded(folder / RECORDING)
    killed = "the run was killed before it could be finished"
    if unread:
        killed += f"; the last {unread:,} bytes of its recording cannot be read"
    try:
        run = measured_run(run, requests, folder, interrupted=killed)
    except ValueError as error:
        raise ReadError(f"{folder}: {error}") from error
    return replace(run, load_requests=load)


def _recorded(recording: Path) -> tuple[Requests, Callable[[], pd.DataFrame], int]:
    """The requests of a recording as it is now (the run may be under way), and how many bytes cannot be read."""
    import pyarrow as pa

    from perfkit.runs.recording_stream import Recording, as_table

    batches, held, count = Recording(recording), list[pa.RecordBatch](), 0
    for batch in batches if recording.is_file() else ():
        count += len(batch)
        if count <= MOST_HELD:
            held.append(batch)
        else:
            held.clear()
    table = as_table(held)
    if count <= MOST_HELD:
        return _part(table, recording), RequestLoader(lambda: recorded_frame(table, recording)), batches.unread

    def tables() -> Iterator[pa.Table]:
        held, rows, left = list[pa.RecordBatch](), 0, count
        for batch in Recording(recording):
            held.append(batch.slice(0, left))
            rows, left = rows + len(held[-1]), left - len(held[-1])
            if rows >= MOST_HELD // 4 or not left:
                yield as_table(held)
                held, rows = [], 0
            if not left:
                return

    def whole() -> pd.DataFrame:
        return recorded_frame(pa.concat_tables(tables()).unify_dictionaries(), recording)

    stream = _in_parts(lambda: (_part(table, recording) for table in tables()))
    return stream, RequestLoader(whole, lambda: stream), batches.unread


def measured_run(run: Run, requests: Requests, folder: Path, more: Iterable[Check] = (), **facts: Any) -> Run:
    """A planned run with what its requests and the tables in its folder say of it.

    ``more`` are further checks; ``facts`` are those of `GeneratorFacts` that stand in no table.
    """
    run = summarised(run, requests, replace(generator_facts(folder / "source", run.profile), **facts))
    return replace(run, source=str(folder), validity=Validity((*run.validity.checks, *more)))


DROPPED = "requests.dropped.json"  # in the folder of a run whose requests were dropped, or left out, on purpose


def write_requests(run: Run, folder: Path) -> None:
    """Every request as ``requests.parquet``; nothing for a run that is only a summary, or when the file is there."""
    target = folder / REQUESTS
    if run.load_requests is None or target.exists():
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pandas(run.load_requests(), preserve_index=False)
        with atomic_path(target) as partial:
            pq.write_table(table, partial, MOST_HELD // 4, compression="zstd", write_page_checksum=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = "; ".join(map(str, error.args))
        raise StoreError(f"{target}: the table of requests cannot be kept: {reason}") from error


def sealed_document(run: Run, requests: Path) -> bytes:
    """``run.json``, with the seal: the hashes of the document without it, and of the file of requests."""
    document = redact_document(run_to_document(run))
    seal: dict[str, Any] = {"document": document_hash(document), "requests": None, "requests_bytes": None}
    if requests.is_file():
        seal |= {"requests": file_hash(requests), "requests_bytes": requests.stat().st_size}
    content = dump_json({**document, SEAL: seal}).encode()
    try:
        read_stored(content, run.id)  # what could not be read again is not written
    except ReadError as error:
        raise StoreError(f"{error}; the run cannot be kept so") from error
    return content


def dropped_note(reason: str) -> bytes:
    return dump_json({"dropped_at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}).encode()


def renamed(content: bytes, run_id: str) -> bytes:
    """A sealed document under another id."""
    document = redact_document(parse_json(content, run_id))
    return dump_json(resealed({**document, "id": run_id})).encode()


def resealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document changed on purpose, sealed as it is now but for its file of requests; without a seal it stays so."""
    if SEAL not in document:
        return dict(document)
    return {**document, SEAL: {**document[SEAL], "document": document_hash(document)}}


def is_sealed(content: bytes) -> bool:
    """Whether a document is what was written; one without a seal, of an earlier perfkit, is when it can be read."""
    try:
        return not read_stored(content, DOCUMENT).changed
    except ReadError:
        return False


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


GENERATOR_CSV = "generator.csv"
SCRIPT_ERRORS = "script_errors.json"


def generator_facts(source: Path, profile: LoadProfile) -> GeneratorFacts:
    """The facts in a run's ``source`` folder; of a table that is not there or was cut off, what it still tells."""
    tables = generator_tables(source)
    if not tables:
        return GeneratorFacts()
    try:
        script = msgspec.json.decode((source / SCRIPT_ERRORS).read_bytes(), type=ScriptErrors)
    except (OSError, msgspec.DecodeError):  # the recorder did not write it, or not to the end
        script = None

    def last(table: Mapping[str, Sequence[float]], column: str) -> float:
        return next(reversed(table.get(column, ())), 0.0)

    loading = [table for name, table in tables.items() if name != MASTER]
    arrivals = (int(sum(last(table, of) for table in loading)) for of in ("scheduled", "started", "late", "in_flight"))
    planned = round(sum((stage.begin + stage.end) / 2 * stage.duration_s for stage in profile.load_curve))
    return GeneratorFacts(
        peak_users=int(_total_users(tables)[1].max()),
        processes=tuple(
            Process(
                name,
                cpu_pct=tuple(table.get("cpu_pct", ())),
                lag_ms=tuple(table.get("lag_ms", ())),
                stalled_s=last(table, "stalled_s") if "stalled_s" in table else None,
                stalled_cpu_s=last(table, "stalled_cpu_s"),
                length_s=last(table, "time") - table.get("time", [0.0])[0],
            )
            for name, table in sorted(tables.items())
        ),
        arrivals=ArrivalCounts(planned, *arrivals) if profile.is_open else None,
        clock_step_s=max((step for table in tables.values() for step in table.get("clock_s", [0.0])), key=abs),
        script=script,
        counted=int(sum(max(table.get("requests", [0.0])) for table in loading)),
    )


MASTER = "master"  # of workers: its table has no name, and it makes no requests


def generator_tables(source: Path) -> dict[str, dict[str, list[float]]]:
    """The columns of numbers of each process by its name, without what was cut off; one ``generator`` has no workers.

    ``ReadError`` names file and line of a time or a number of users of whoever makes load that is not a number.
    """
    tables: dict[str, dict[str, list[float]]] = {}
    files = sorted(source.glob(f"{GENERATOR_CSV}*"))
    for file in files:
        needed = ("time", "users") if file.name != GENERATOR_CSV or len(files) == 1 else ()
        columns: dict[str, list[float]] = {}
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=2):
                if not row.get("time") or not row.get("users"):
                    continue  # the last line of a process that was killed may be cut off
                for name, text in row.items():
                    try:
                        value = float(text or "nothing")
                        if not math.isfinite(value):
                            raise ValueError(f"could not convert {text!r} to a finite number")
                    except (TypeError, ValueError) as error:
                        if name in needed:
                            raise ReadError(f"{file}: line {number}: {error}") from error
                    else:
                        columns.setdefault(name, []).append(value)
        if columns:
            tables[file.name.removeprefix(GENERATOR_CSV).lstrip(".")] = columns
    unnamed = MASTER if len(tables) > 1 else "generator"
    return {name or unnamed: table for name, table in tables.items()}


def read_users(folder: Path) -> tuple[Floats, Floats] | None:
    """Seconds since the epoch and users then, ascending; ``None`` without a table.  ``ReadError`` names the cell."""
    tables = generator_tables(folder / "source")
    return _total_users(tables) if tables else None


def _total_users(tables: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[Floats, Floats]:
    by_second = [
        {int(time): users for time, users in zip(table["time"], table["users"], strict=True)}
        for name, table in tables.items()
        if name != MASTER
    ]
    seconds = np.array(sorted({second for table in by_second for second in table}), np.float64)
    total = np.zeros(len(seconds))
    for table in by_second:  # a process may have skipped a second in which another wrote a row: it keeps its users
        written = np.array(sorted(table), np.float64)
        users = np.array([0.0, *(table[int(second)] for second in written)])
        total += users[np.searchsorted(written, seconds, side="right")]
    return seconds, total


# Quarantine: a person set a run aside, by a note beside the runs, which stay as they were written -------------------

QUARANTINE = ".quarantine"  # folder beside the runs
NOTE_SCHEMA = "perfkit.quarantine/1"


class QuarantineNote(msgspec.Struct, frozen=True):
    """Why a run must not be used, who said so, and when (UTC, ISO 8601); ``damage``: why the note cannot be read."""

    reason: str = ""
    by: str = ""
    at: str = ""
    run_id: str = msgspec.field(default="", name="run")
    damage: str = ""

    def to_json(self) -> bytes:
        """The content of the note's file."""
        document = {"schema": NOTE_SCHEMA, "run": self.run_id, "reason": self.reason, "by": self.by, "at": self.at}
        return dump_json(document).encode()

    @property
    def check(self) -> Check:
        """What the note adds to the checks of its run."""
        advice = "A person set the run aside; `perfkit runs quarantine --lift` takes it back."
        return Check("quarantined", self.reason, "no", Severity.INVALID, advice)


def note_path(run_id: str) -> str:
    """The path of a run's note in its store."""
    return f"{QUARANTINE}/{run_id}.json"


def parse_note(content: bytes | OSError, run_id: str) -> QuarantineNote:
    """A note; one that cannot be read still holds, and the command says so when it ends."""
    path = note_path(run_id)
    try:
        if isinstance(content, OSError):
            raise ReadError(f"{path}: cannot be read: {content.strerror or content}")
        note = decode(parse_json(content, path), QuarantineNote, path, schema=NOTE_SCHEMA, title="note")
        if not note.reason.strip():
            raise ReadError(f"{path}: reason: must say why the run is not to be used, got nothing")
    except ReadError as error:
        leave_out(f"{run_id} stays set aside: its note cannot be read: {error}")
        return QuarantineNote("no reason can be read", run_id=run_id, damage=str(error))
    return msgspec.structs.replace(note, run_id=run_id, damage="")  # the name of the file is what counts


def note_on(backend: Backend, run_id: str) -> QuarantineNote | None:
    """The note on a run of a store; ``StoreError`` where it cannot be known whether there is one."""
    path = note_path(run_id)
    ((_, content),) = backend.read_many([path])
    if isinstance(content, FileNotFoundError | NotADirectoryError):
        return None
    if isinstance(content, OSError) and not backend.exists(path):  # a folder of notes that may not be looked into
        raise StoreError(f"{backend.url}: the note on {run_id} cannot be read: {content.strerror or content}")
    return parse_note(content, run_id)
