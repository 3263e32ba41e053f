"""The upkeep of a store: export, verify, copy, redact, and remove.

- `measurements`, `exported`: all runs as one table for other tools, one row per run and service.
- `verify_run`: is a run still what was written?  Its hashes are computed again and compared with its seal.
- `redact_run`: secrets, which an earlier perfkit or a tool wrote, are taken out of a run, and it is sealed anew.
- `sync`: copy the runs of one store into another; what is there stays, what was interrupted is taken up again.
- `plan_retention`, `plan_removal`, `remove`: what a store may forget: requests first, whole runs last, runs of
  baselines never.

What an action on several runs found or did is one `RunReport` for each of them.
"""

from __future__ import annotations

import errno
import io
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.model.codec import dump_json, parse_json, read_json
from perfkit.model.errors import ReadError, StoreError, refusals
from perfkit.model.records import Metric
from perfkit.model.redaction import public_url, redact, redact_bytes, redact_document
from perfkit.model.serialization import SEAL, read_stored
from perfkit.runs.backends import DOCUMENT, HIDDEN, StagedRun, document_path
from perfkit.runs.index import ERROR
from perfkit.runs.index import FILE as INDEX
from perfkit.runs.recording_stream import read_recording
from perfkit.runs.requests import request_columns
from perfkit.runs.run_folder import (
    DROPPED,
    RECORDING,
    REQUESTS,
    STARTED,
    check_requests,
    dropped_note,
    file_hash,
    is_sealed,
    note_path,
    read_requests,
    resealed,
)
from perfkit.runs.store import NOISE, RUN_ID, RunStore
from perfkit.runs.validity import misdated

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.25}
BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_age(text: str) -> timedelta:
    """``90d``, ``12w``, ``2y`` or ``36h``; ``ValueError`` for anything else."""
    days = _quantity(text, DAYS)
    if not days:
        raise ValueError(f"expected an age such as 90d, 12w, 2y or 36h, got {text!r}")
    try:
        return timedelta(days=days)
    except OverflowError as error:
        raise ValueError(f"expected an age of at most 2,700,000 years, got {text!r}") from error


def parse_size(text: str) -> int:
    """Bytes from ``500MB`` or ``20 GB``, in powers of ten; ``ValueError`` for anything else."""
    size = _quantity(text, BYTES)
    if size is None:
        raise ValueError(f"expected a size such as 500MB or 20GB, got {text!r}")
    return int(size)


def _quantity(text: str, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower())
    return float(match[1]) * units[match[2]] if match is not None and match[2] in units else None


def size_text(size: int) -> str:
    """``3.4 MB``: three digits at most, in powers of ten."""
    for unit, of in reversed(BYTES.items()):
        if size >= of and of > 1:
            return f"{size / of:.3g} {unit.upper() if unit != 'kb' else 'kB'}"
    return f"{size} B"


@dataclass(frozen=True, slots=True)
class RunReport:
    """What an action found on a run: what is wrong, and what to know (of secrets: the parts that hold some)."""

    run_id: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


# Export ---------------------------------------------------------------------------------------------------------------

FORMATS = ("csv", "parquet", "json")
RUN_PARTS = ("id", "scenario", "started_at", "duration_s", "users", "tool", "commit", "branch", "valid", "quarantined")
TEXTS = ("id", "scenario", "tool", "commit", "branch", "service")
FORMULA = re.compile(r"^(?=[=+@\t\r-])")  # owasp.org/www-community/attacks/CSV_Injection


def measurements(store: RunStore, run_ids: Collection[str]) -> pd.DataFrame:
    """One row per run and service, runs oldest first: what the run was, counts, every metric, and its standard error.

    Standard errors (``NAME_se``) are within the run, in the metric's unit.  What a run cannot say is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = store.index().table
    table = table.filter(pc.is_in(table["id"], pa.array(list(run_ids), pa.string()))).combine_chunks()
    is_set_aside = pc.is_in(table["id"], pa.array(list(store.quarantined()), pa.string()))
    runs = pc.list_parent_indices(table["service_service"])
    frame: pd.DataFrame = table.append_column("quarantined", is_set_aside).select(RUN_PARTS).take(runs).to_pandas()
    lists = {"service": "service_service", "count": "service_count", "failures": "service_failed"}
    lists |= {name: f"service_{name}" for metric in Metric for name in (metric.value, f"{metric.value}{ERROR}")}
    return frame.assign(**{title: pc.list_flatten(table[name]).to_pandas() for title, name in lists.items()})


def exported(frame: pd.DataFrame, format_: str) -> bytes:
    """A table as CSV, Parquet or JSON (a list of objects); times are ISO 8601, what is missing is empty or null.

    In CSV, a text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    if format_ == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if format_ == "json":
        plain = frame.assign(started_at=frame["started_at"].map(lambda time: time.isoformat(), na_action="ignore"))
        return dump_json(plain.astype(object).where(frame.notna(), None).to_dict("records")).encode()
    if format_ == "csv":
        safe = frame.assign(**{name: frame[name].str.replace(FORMULA, "'", regex=True) for name in TEXTS})
        return safe.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%f%z").encode()
    raise ValueError(f"format: must be one of {', '.join(FORMATS)}, got {format_!r}")


# Verify ---------------------------------------------------------------------------------------------------------------

MISSING = f"{REQUESTS} is missing"


def verify_runs(store: RunStore, run_ids: Sequence[str] | None) -> list[RunReport]:
    """`verify_run` of some runs, or of all, with what is wrong with the notes on them (or on runs that are gone)."""
    reports = {run_id: verify_run(store, run_id) for run_id in (store.ids() if run_ids is None else run_ids)}
    for run_id, note in store.quarantined().items():
        if note.damage and (run_ids is None or run_id in reports):
            report = reports.get(run_id, RunReport(run_id))
            problem = f"stays set aside: its note cannot be read: {note.damage}"
            reports[run_id] = replace(report, problems=(*report.problems, problem))
    return list(reports.values())


def verify_run(store: RunStore, run_id: str) -> RunReport:
    backend, problems, notes = store.backend, [], []
    with tempfile.TemporaryDirectory(prefix="perfkit-store-") as name:
        try:
            stored = read_stored(backend.read(document_path(run_id)), DOCUMENT)
            there = [file for file in (REQUESTS, DROPPED) if backend.exists(f"{run_id}/{file}")]
            files = {file: _local_file(store, f"{run_id}/{file}", Path(name)) for file in there}
        except ReadError as error:
            return RunReport(run_id, (str(error),))
        except OSError as error:
            return RunReport(run_id, (f"cannot be read: {error.strerror or error}",))
        run, seal = stored.run, stored.seal
        if seal is None:
            notes.append("has no seal: an earlier perfkit wrote it, and changes of its summary cannot be told")
        elif stored.changed:
            problems.append(f"{DOCUMENT} was changed after it was written")
        if date := misdated(run.started_at, datetime.now(UTC)):
            notes.append(f"is {date}: a clock was wrong, and it is never taken for the newest of its history")
        if run.id != run_id:
            notes.append(f"calls itself {run.id}: the folder was renamed or copied")
        if (file := files.get(REQUESTS)) is not None:
            try:
                read_requests(file, run, seal) if seal is None else check_requests(file, run, seal)
            except ReadError as error:
                problems.append(str(error).replace(f"{file}: ", f"{REQUESTS} ", 1))
        elif seal is not None and seal.requests and DROPPED not in files and backend.keeps_requests:
            problems.append(MISSING)
        if DROPPED in files:
            notes.append("its requests were dropped")
    return RunReport(run_id, tuple(problems), tuple(notes))


def _local_file(store: RunStore, path: str, folder: Path) -> Path:
    """A file of a store on this machine: where it is, or a copy below a folder."""
    if store.folder is not None:
        return store.folder / path
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    store.backend.fetch(path, folder / path)
    return folder / path


# Copy -----------------------------------------------------------------------------------------------------------------

AT_ONCE = 8  # runs under way; most of the time is spent waiting for a server
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # where a copy is put, not whence it comes
ONE_COMMIT = 200  # runs that a git branch takes in one commit


@dataclass(frozen=True, slots=True)
class Synced:
    """What a copy did: ids as they are in the destination, and why some runs were not copied."""

    copied: tuple[str, ...]
    present: int
    refused: tuple[tuple[str, str], ...]


def missing_runs(source: RunStore, destination: RunStore) -> list[tuple[str, str]]:
    """Runs (id, identity) that only the source holds, oldest first."""
    there = set(destination.index().table["identity"].to_pylist())
    rows = source.index().table.select(["id", "identity"]).to_pylist()
    return [(row["id"], row["identity"]) for row in rows if row["identity"] not in there]


def sync(source: RunStore, destination: RunStore, on_run: Callable[[int, int], None] | None = None) -> Synced:
    """Copy every run that the destination lacks; each is verified before it leaves and after it has arrived.

    A run that is damaged, or cannot be read, is refused and hinders no other.  Runs stay under their ids unless another
    run has the id there.  Notes of quarantine come along, also for runs that are there under the same id.  ``on_run``
    is called with the number of runs done and the number of all.  ``StoreError``: a store could not be reached or
    written; what was copied before stays, and the next call goes on from there.
    """
    missing = missing_runs(source, destination)
    size = 1 if destination.backend.keeps_requests else ONE_COMMIT
    batches = [missing[begin : begin + size] for begin in range(0, len(missing), size)]
    copies: list[tuple[str, str, str]] = []
    with ThreadPoolExecutor(AT_ONCE if size == 1 else 1) as pool:
        for batch in pool.map(lambda batch: _copy(source, destination, batch), batches):
            copies += batch
            if on_run is not None:
                on_run(len(copies), len(missing))
    names = {old: new for old, new, _ in copies if new}
    there, ids = destination.quarantined(), set(destination.ids())
    for run_id in source.quarantined():
        name = names.get(run_id, run_id)
        if name in ids and name not in there:
            text = f"{destination.url}: the note on {name} could not be copied"
            with refusals(text), suppress(FileNotFoundError):  # taken back meanwhile
                destination.backend.write(note_path(name), redact_bytes(source.backend.read(note_path(run_id))))
    refused = [(old, why) for old, new, why in copies if not new] + list(source.broken().items())
    return Synced(tuple(names.values()), len(source.index().table) - len(missing), tuple(refused))


def _copy(source: RunStore, destination: RunStore, batch: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Of each run: its id, its id in the destination (empty when it was refused), and why."""
    backend, names = destination.backend, dict[str, str]()
    what = batch[0][0] if len(batch) == 1 else f"{len(batch)} runs"
    with refusals(f"{source.url} -> {destination.url}: {what} could not be copied"):
        with backend.staging() as top:
            faults = {run_id: _stage(source, top / run_id, backend.keeps_requests) for run_id, _ in batch}
            good = [StagedRun(top / run_id, run_id, identity) for run_id, identity in batch if not faults[run_id]]
            sizes = {run.run_id: RunStore(top).backend.files(run.run_id) for run in good}
            for run, is_new in zip(good, backend.publish(good) if good else [], strict=True):
                names[run.run_id] = run.run_id if is_new else destination.publish(run)
        contents = backend.read_many([document_path(name) for name in names.values()])
        for (run_id, name), (_, content) in zip(names.items(), contents, strict=True):
            there = backend.files(name)  # every file in full; the document may have become longer with its id
            short = [file for file, size in sizes[run_id].items() if there.get(file, -1) < size]
            if short or not isinstance(content, bytes) or not is_sealed(content):
                files = ", ".join(sorted(short)) or DOCUMENT
                raise StoreError(f"{backend.where(name)}: {files} did not arrive whole; copy again")
    return [(run_id, names.get(run_id, ""), why) for run_id, why in faults.items()]


def _stage(source: RunStore, there: Path, with_requests: bool) -> str:
    """Bring the files of the run of that name into a folder; why it must not be copied, or nothing."""
    backend, run_id, staged = source.backend, there.name, RunStore(there.parent)
    try:
        there.mkdir()
        (there / DOCUMENT).write_bytes(backend.read(document_path(run_id)))
        for name in backend.files(run_id) if with_requests else ():
            if name != DOCUMENT and not name.startswith(HIDDEN):
                (there / name).parent.mkdir(parents=True, exist_ok=True)
                backend.fetch(f"{run_id}/{name}", there / name)
        problems = verify_run(staged, run_id).problems
        if not (with_requests and backend.keeps_requests):
            if MISSING in problems and with_requests:
                (there / DROPPED).write_bytes(dropped_note(f"{source.url} keeps summaries alone"))
            problems = tuple(problem for problem in problems if problem != MISSING)
        if problems:
            return "; ".join(problems)
        # Secrets in a run of an earlier perfkit are not copied.  Its requests are not rewritten: other requests would
        # be another run, which the next copy would not know again.
        if REQUESTS in secret_parts(staged, run_id):
            return "holds secrets in its requests; `perfkit runs redact` takes them out"
        redact_run(staged, run_id)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return f"cannot be read: {error.strerror or error}"
    return ""


# Redact ---------------------------------------------------------------------------------------------------------------

PENDING = "redacted.json"  # in a run's folder while its files are replaced: the document that will be its run.json
UNDER_WAY_S = 600.0  # a recording that was written to so lately may still be
LABELS = ("service", "method", "error")


def redact_runs(store: RunStore, run_ids: Iterable[str] | None, *, dry_run: bool) -> Iterator[RunReport]:
    """`redact_run` of some runs, or of all, killed ones too: those with secrets or errors; ``dry_run`` only looks."""
    for run_id in store.backend.folders() if run_ids is None else run_ids:
        try:
            where = secret_parts(store, run_id) if dry_run else redact_run(store, run_id)
        except StoreError as error:
            yield RunReport(run_id, (str(error),))
        else:
            if where:
                yield RunReport(run_id, notes=where)


def exposed_documents(store: RunStore, most: int) -> list[RunReport]:
    """The newest runs that hold secrets in their documents, which takes a fraction of the time."""
    contents = store.backend.read_many([document_path(run_id) for run_id in store.ids()[-most:]])
    parts = ((path, _document_parts(content)) for path, content in contents if isinstance(content, bytes))
    return [RunReport(path.split("/")[0], notes=where) for path, where in parts if where]


def secret_parts(store: RunStore, run_id: str) -> tuple[str, ...]:
    """The parts of a run that hold secrets: where they stand, never what they are.

    Known by where they stand (user info and query values of the target; user info, credentials' parameters and headers
    anywhere), or by value, where settings and variables have told this process.
    """
    parts: list[str] = []
    with (
        refusals(f"{store.backend.where(run_id)}: cannot be read"),
        tempfile.TemporaryDirectory(prefix="perfkit-redact-") as folder,
    ):
        for name in sorted(store.backend.files(run_id)):
            if name in (DOCUMENT, STARTED):
                parts += _document_parts(store.backend.read(f"{run_id}/{name}"))
            elif name == PENDING:
                parts.append("a rewriting that was cut off")
            elif _public_content(store, f"{run_id}/{name}", Path(folder)) is not None:
                parts.append(name)
        note = note_path(run_id)
        if store.backend.exists(note) and _public_content(store, note, Path(folder)) is not None:
            parts.append("the note of its quarantine")
    return tuple(parts)


def _document_parts(content: bytes) -> tuple[str, ...]:
    """The parts of a document that hold secrets; none of one that cannot be read, which `runs verify` names."""
    with suppress(ReadError):
        document = parse_json(content, DOCUMENT)
        public = _public(document) if isinstance(document, Mapping) else {}
        if public and public != document:
            return tuple(part for part in document if public.get(part) != document[part])
    return ()


def redact_run(store: RunStore, run_id: str) -> tuple[str, ...]:
    """Take the secrets out of a stored run and seal it anew; returns where they stood, nothing when it holds none.

    Its id stays.  Where the names of services change in its requests, so does the hash of its content.  The document
    that will be is put there first, then the other files, then the document takes its place.  The first goes last: as
    long as it is there, the run is known to be half rewritten.  ``StoreError``: the run is under way, or was changed
    after it was written, which a new seal would hide.  Or it could not be read or written; then the same command goes
    on from there.
    """
    if not (where := secret_parts(store, run_id)):
        return ()
    backend, note = store.backend, note_path(run_id)
    with (
        refusals(f"{backend.where(run_id)}: cannot be rewritten"),
        tempfile.TemporaryDirectory(prefix="perfkit-redact-") as name,
    ):
        files, folder = backend.files(run_id), Path(name)
        paths = [f"{run_id}/{file}" for file in files if file not in (DOCUMENT, PENDING)]
        contents = {path: _public_content(store, path, folder) for path in (*paths, note) if backend.exists(path)}
        new = {path: content for path, content in contents.items() if content is not None}
        if DOCUMENT in files:
            document = _resealed(store, run_id, folder, new.get(f"{run_id}/{REQUESTS}"))
            backend.write(f"{run_id}/{PENDING}", document)
        elif new and store.folder is not None:  # a run may still be recorded: its files must not be replaced
            recording = store.folder / run_id / RECORDING
            if recording.is_file() and time.time() - recording.stat().st_mtime < UNDER_WAY_S:
                text = "is still under way, or was killed just now; wait ten minutes"
                raise StoreError(f"{backend.where(run_id)}: {text}")
        for path, content in new.items():
            backend.write(path, content)
        if DOCUMENT in files:
            backend.write(document_path(run_id), document)
            derived = backend.derived
            for path in (INDEX, *(f"{NOISE}/{profile}" for profile in derived.files(NOISE))):
                derived.remove(path)  # made anew from what is there now
            backend.remove(f"{run_id}/{PENDING}")
    return where


def _resealed(store: RunStore, run_id: str, folder: Path, requests: bytes | None) -> bytes:
    """The document of a run without secrets; ``StoreError`` where it or its requests are not what was written."""
    backend, where, pending = store.backend, store.backend.where(run_id), f"{run_id}/{PENDING}"
    content = backend.read(document_path(run_id))
    advice = "and a new seal would hide that; restore the run from a copy, or remove it"
    if not is_sealed(content):
        raise StoreError(f"{where}: {DOCUMENT} was changed after it was written, {advice}")
    document = parse_json(content, where)
    seal: Mapping[str, Any] = document.get(SEAL) or {}
    parquet = (folder if store.folder is None else store.folder) / run_id / REQUESTS
    if parquet.is_file() and seal.get("requests"):
        now = file_hash(parquet)
        if backend.exists(pending) and is_sealed(content := backend.read(pending)):
            planned = parse_json(content, pending)  # what a rewriting that was cut off wanted the document to be
            if SEAL in planned and now == planned[SEAL].get("requests"):
                return dump_json(planned).encode()
        if now != seal["requests"]:
            raise StoreError(f"{where}: {REQUESTS} is not the file that was written, {advice}")
    public = {name: value for name, value in _public(document).items() if name != SEAL}
    if requests is not None:
        replaced = folder / f"new.{REQUESTS}"
        replaced.write_bytes(requests)
        public["content_hash"] = request_columns(read_requests(replaced)).digest()
        seal = {**seal, "requests": file_hash(replaced), "requests_bytes": len(requests)}
    return dump_json(resealed({**public, SEAL: seal} if seal else public)).encode()


def _public(document: Mapping[str, Any]) -> dict[str, Any]:
    public: dict[str, Any] = redact_document(document)
    target = document.get("target")
    return {**public, "target": public_url(target)} if isinstance(target, str) else public


def _public_content(store: RunStore, path: str, folder: Path) -> bytes | None:
    """A file of a run without secrets; ``None`` where it holds none, or is a table that cannot be read."""
    name = "" if path.startswith(HIDDEN) else path.partition("/")[2]
    if name in (REQUESTS, RECORDING):
        return _public_table(_local_file(store, path, folder))
    content = store.backend.read(path)
    if name == STARTED and _document_parts(content):
        return dump_json(_public(parse_json(content, path))).encode()
    public = redact_bytes(content)
    return public if public != content else None


def _public_table(file: Path) -> bytes | None:
    """A table of requests without secrets in its labels; ``None`` where it holds none, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.name == RECORDING:
            table = read_recording(file)
        else:
            labels = pq.read_table(file, columns=[name for name in pq.read_schema(file).names if name in LABELS])
            table = labels if _public_labels(labels) is labels else pq.read_table(file)
    except (pa.ArrowInvalid, OSError, ReadError):
        return None
    public = _public_labels(table)
    if public is table:
        return None
    sink = pa.BufferOutputStream()
    if file.name == RECORDING:
        with pa.ipc.new_stream(sink, public.schema) as writer:
            writer.write_table(public.unify_dictionaries())
    else:
        pq.write_table(public, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def _public_labels(table: pa.Table) -> pa.Table:
    """The same table where no label holds a secret."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in (name for name in LABELS if name in table.column_names):
        field = table.schema.field(name)
        column = table[name].cast(pa.string())
        kinds = pc.unique(column).drop_null()
        public = [redact(kind) for kind in kinds.to_pylist()]
        if public != kinds.to_pylist():
            column = pa.array(public, pa.string()).take(pc.index_in(column, kinds).combine_chunks())
            is_coded = pa.types.is_dictionary(field.type)
            column = column.dictionary_encode().cast(field.type) if is_coded else column.cast(field.type)
            table = table.set_column(table.schema.get_field_index(name), field, column)
    return table


# Remove ---------------------------------------------------------------------------------------------------------------

SCHEMA_BYTES = 2048  # of a recording without a request there are fewer
LEFTOVER_S = 24 * 3600.0  # after which what a writer left half made is not being written any more
REQUESTS_GO, RUN_GOES, LEFTOVER_GOES = "requests", "run", "leftover"


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing to take away: the ``requests`` of a run, a whole ``run``, or a ``leftover`` of a killed writer."""

    what: str
    name: str
    size: int  # bytes
    reason: str


def protected_runs(baselines: Path) -> dict[str, str]:
    """Texts in baseline files, each with its file: runs of such ids are never removed.  ``StoreError``: unreadable."""
    protected: dict[str, str] = {}
    for file in sorted(baselines.rglob("*.json")) if baselines.is_dir() else []:
        try:
            document = read_json(file)
        except FileNotFoundError:  # it was taken away meanwhile
            continue
        except ReadError as error:
            raise StoreError(f"{error}; so the runs that this baseline protects are not known") from error
        protected |= dict.fromkeys(_texts(document), str(file))
    return protected


def _texts(document: Any) -> Iterator[str]:
    """Every text of a document, and the last part of those that are paths."""
    if isinstance(document, str):
        yield document
        yield document.rstrip("/").rpartition("/")[2]
    elif isinstance(document, Mapping | list):
        for value in document.values() if isinstance(document, Mapping) else document:
            yield from _texts(value)


def plan_retention(
    store: RunStore,
    protected: Mapping[str, str],
    *,
    requests_for: timedelta | None = None,
    runs_for: timedelta | None = None,
    most_bytes: int | None = None,
    only: Collection[str] | None = None,
    now: datetime | None = None,
) -> tuple[Removal, ...]:
    """What would go, in the order in which it would: leftovers, requests by age and size, runs by age and size.

    Oldest first.  Ages are of a run's start; undated runs have none, and stay.  ``most_bytes`` counts whole runs: no
    run goes because something else in the folder is large.  Of a run that is too old as a whole the requests are not
    named too.  With ``only``, nothing goes but runs of these ids and their requests.
    """
    now = now or datetime.now(UTC)
    rows = store.index().table.select(["id", "started_at"]).to_pylist()
    requests, others = dict.fromkeys((row["id"] for row in rows), 0), dict.fromkeys((row["id"] for row in rows), 0)
    for path, size in store.backend.files("").items():
        run_id, _, name = path.partition("/")
        if run_id in others:
            (requests if name in (REQUESTS, RECORDING) else others)[run_id] += size
    total = sum(requests.values()) + sum(others.values())
    dated = sorted((row["started_at"], row["id"]) for row in rows if row["started_at"] is not None)
    free = {row["id"] for row in rows if only is None or row["id"] in only} - protected.keys()
    ages = {run_id: now - started_at for started_at, run_id in dated if run_id in free}
    plan: list[Removal] = []
    if only is None:
        leftovers = store.backend.leftovers(LEFTOVER_S).items()
        plan += (Removal(LEFTOVER_GOES, name, size, "left by a writer that was killed") for name, size in leftovers)
        plan += _never_begun(store, now)

    def take(what: str, run_id: str, reason: str) -> None:
        nonlocal total
        size = requests.pop(run_id, 0) + (others.pop(run_id) if what == RUN_GOES else 0)
        total -= size
        plan.append(Removal(what, run_id, size, reason))

    runs_for, requests_for = runs_for or timedelta.max, requests_for or timedelta.max
    for run_id, age in ages.items():
        if requests_for < age <= runs_for and requests[run_id]:
            take(REQUESTS_GO, run_id, "too old")
    for run_id, age in ages.items():
        if age > runs_for:
            take(RUN_GOES, run_id, "too old")
    for what, sizes in ((REQUESTS_GO, requests), (RUN_GOES, others)):
        for run_id in ages:
            if most_bytes is not None and total > most_bytes and sizes.get(run_id):
                take(what, run_id, "the store is too large")
    return tuple(plan)


def _never_begun(store: RunStore, now: datetime) -> Iterator[Removal]:
    """Folders of runs that ended before their first request: all that they hold is old, and none of it is a request."""
    if store.folder is None:
        return
    for name in (name for names in store.no_runs() for name in names if RUN_ID.fullmatch(name)):
        folder = store.folder / name
        files = _files(store, name)
        if folder.is_symlink() or DOCUMENT in files or REQUESTS in files or files.get(RECORDING, 0) > SCHEMA_BYTES:
            continue
        with suppress(OSError):  # it is gone meanwhile
            newest = max(path.lstat().st_mtime for path in (folder, *(folder / file for file in files)))
            if now.timestamp() - newest > LEFTOVER_S:
                yield Removal(LEFTOVER_GOES, name, sum(files.values()), "its load never began")


def plan_removal(
    store: RunStore, run_ids: Sequence[str], protected: Mapping[str, str], *, only_requests: bool = False
) -> tuple[Removal, ...]:
    """The removal of runs by name.  ``StoreError``, before anything is removed, when a baseline needs one of them."""
    for run_id in run_ids:
        if run_id in protected:
            raise StoreError(f"{run_id}: the baseline {protected[run_id]} needs it; take it out of that file first")
    plan, reason = [], "asked for"
    for run_id in run_ids:
        files = _files(store, run_id)
        if not only_requests:
            plan.append(Removal(RUN_GOES, run_id, sum(files.values()), reason))
        elif size := sum(files.get(name, 0) for name in (REQUESTS, RECORDING)):
            plan.append(Removal(REQUESTS_GO, run_id, size, reason))
    return tuple(plan)


def _files(store: RunStore, run_id: str) -> Mapping[str, int]:
    """Of a run; none for a link out of the store, of which only the link is removed."""
    try:
        return store.backend.files(run_id)
    except OSError:
        return {}


def remove(store: RunStore, plan: Iterable[Removal]) -> int:
    """Carry a plan out; returns the bytes freed.  ``StoreError`` names what could not be removed."""
    freed, backend = 0, store.backend

    def remove_requests(run_id: str) -> None:
        for file in (REQUESTS, RECORDING):
            backend.remove(f"{run_id}/{file}")

    for removal in plan:
        name = removal.name
        with refusals(f"{backend.where(name)}: cannot be removed"):
            if removal.what != REQUESTS_GO:
                backend.remove_runs([name])
                store.lift_quarantine(name)
            elif backend.files(name):  # else somebody removed the run since the plan was made
                try:
                    backend.write(f"{name}/{DROPPED}", dropped_note(removal.reason))
                    remove_requests(name)
                except OSError:  # such as on a full disk, which has room for the note only when the requests are gone
                    remove_requests(name)
                    backend.write(f"{name}/{DROPPED}", dropped_note(removal.reason))
        freed += removal.size
    return freed
