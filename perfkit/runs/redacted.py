"""Secrets in stored runs: which runs hold some, without printing them, and how they are taken out.

Runs of an earlier perfkit, and files that a tool itself wrote, may hold credentials.  `exposed_runs` says where they
stand; `redact_run` rewrites the files of one run and gives its document a new seal.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.model.codec import dump_json, parse_json
from perfkit.model.errors import ReadError, StoreError
from perfkit.model.redaction import public_url, redact, redact_bytes, redact_document
from perfkit.model.serialization import SEAL
from perfkit.runs.index import FILE as INDEX
from perfkit.runs.quarantine import note_path
from perfkit.runs.recording_stream import read_recording
from perfkit.runs.requests import request_columns
from perfkit.runs.run_folder import (
    DOCUMENT,
    RECORDING,
    REQUESTS,
    STARTED,
    document_path,
    file_hash,
    is_sealed,
    read_requests,
    resealed,
)
from perfkit.runs.store import NOISE, RunStore

if TYPE_CHECKING:
    import pyarrow as pa

PENDING = "redacted.json"  # in a run's folder while its files are replaced: the document that will be its run.json
UNDER_WAY_S = 600.0  # a recording that was written to so lately may still be
_TABLES = (REQUESTS, RECORDING)
_LABELS = ("service", "method", "error")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A stored run with secrets in it: where they stand, never what they are."""

    run_id: str
    where: tuple[str, ...]  # such as "target", "labels", "source/locust.log"


def exposed_runs(store: RunStore, run_ids: Iterable[str] | None = None) -> tuple[Exposed, ...]:
    """The runs of a store (all of them, also those that were killed, unless some are named) whose files hold secrets.

    Known by where they stand (user info and query values of the target; user info, credentials' parameters and headers
    anywhere), or by value, where settings and variables have told this process.
    """
    exposed = []
    for run_id in store.backend.folders() if run_ids is None else run_ids:
        try:
            exposed.append(Exposed(run_id, tuple(_exposed(store, run_id))))
        except OSError as error:
            raise StoreError(f"{store.backend.where(run_id)}: cannot be read: {error.strerror or error}") from error
    return tuple(run for run in exposed if run.where)


def exposed_documents(store: RunStore, most: int) -> tuple[Exposed, ...]:
    """The same from the documents of the newest runs alone, which takes a fraction of the time."""
    exposed = []
    for path, content in store.backend.read_many([document_path(run_id) for run_id in store.ids()[-most:]]):
        if isinstance(content, bytes) and (where := tuple(_exposed_parts(content))):
            exposed.append(Exposed(path.split("/")[0], where))
    return tuple(exposed)


def _exposed_parts(content: bytes) -> Iterator[str]:
    """The parts of a document that hold secrets; none of one that cannot be read, which `runs verify` names."""
    with suppress(ReadError):
        document = parse_json(content, DOCUMENT)
        public = _public(document) if isinstance(document, Mapping) else {}
        if public and public != document:
            yield from (part for part in document if public.get(part) != document[part])


def redact_run(store: RunStore, run_id: str) -> tuple[str, ...]:
    """Take the secrets out of a stored run and seal it anew; returns where they stood, nothing when it holds none.

    Its id stays.  Where the names of services change in its requests, so does the hash of its content.

    Raises
    ------
    StoreError
        The run is under way, or was changed after it was written, which a new seal would hide.  Or it could not be
        written; then the same command goes on from there.
    """
    try:
        where = tuple(_exposed(store, run_id))
        if where:
            with tempfile.TemporaryDirectory(prefix="perfkit-redact-") as folder:
                _rewrite(store, run_id, Path(folder))
    except OSError as error:
        raise StoreError(f"{store.backend.where(run_id)}: cannot be rewritten: {error.strerror or error}") from error
    return where


def _rewrite(store: RunStore, run_id: str, folder: Path) -> None:
    """The document that will be is put there first, then the other files, then the document takes its place.

    The first goes last: as long as it is there, the run is known to be half rewritten.
    """
    backend, names = store.backend, store.backend.files(run_id)
    new: dict[str, bytes] = {}
    for name in names:
        local = _fetched(store, f"{run_id}/{name}", folder)
        if name in _TABLES:
            content = _public_table(local, folder)
        elif name == STARTED:
            content = dump_json(_public(parse_json(local.read_bytes(), str(local)))).encode()
        elif name in (DOCUMENT, PENDING):
            continue
        else:
            content = redact_bytes(local.read_bytes())
        if content is not None and content != local.read_bytes():
            new[name] = content
    if DOCUMENT in names:
        document = _resealed(store, run_id, folder, new.get(REQUESTS))
        backend.write(f"{run_id}/{PENDING}", document)
    elif new and store.folder is not None:  # a run may still be recorded: its files must not be replaced
        recording = store.folder / run_id / RECORDING
        if recording.is_file() and time.time() - recording.stat().st_mtime < UNDER_WAY_S:
            raise StoreError(f"{backend.where(run_id)}: is still under way, or was killed just now; wait ten minutes")
    for name, content in new.items():
        backend.write(f"{run_id}/{name}", content)
    if DOCUMENT in names:
        backend.write(document_path(run_id), document)
    note = note_path(run_id)
    if backend.exists(note) and (public := redact_bytes(content := backend.read(note))) != content:
        backend.write(note, public)
    if DOCUMENT in names:
        backend.remove(INDEX)  # derived, and made anew from what is there now
        for profile in backend.files(NOISE):
            backend.remove(f"{NOISE}/{profile}")
        backend.remove(f"{run_id}/{PENDING}")


def _resealed(store: RunStore, run_id: str, folder: Path, requests: bytes | None) -> bytes:
    """The document of a run without secrets; ``StoreError`` where it or its requests are not what was written."""
    where = store.backend.where(run_id)
    content = store.backend.read(document_path(run_id))
    document = parse_json(content, where)
    advice = "and a new seal would hide that; restore the run from a copy, or remove it"
    if not is_sealed(content):
        raise StoreError(f"{where}: {DOCUMENT} was changed after it was written, {advice}")
    pending = _pending(store, run_id)
    seal: Mapping[str, Any] = document.get(SEAL) or {}
    parquet = folder / run_id / REQUESTS if store.folder is None else store.folder / run_id / REQUESTS
    if parquet.is_file() and seal.get("requests"):
        now = file_hash(parquet)
        if pending is not None and now == pending[SEAL].get("requests"):
            return dump_json(pending).encode()
        if now != seal["requests"]:
            raise StoreError(f"{where}: {REQUESTS} is not the file that was written, {advice}")
    public = {name: value for name, value in _public(document).items() if name != SEAL}
    if requests is not None:
        replaced = folder / f"new.{REQUESTS}"
        replaced.write_bytes(requests)
        public["content_hash"] = request_columns(read_requests(replaced)).digest()
        seal = {**seal, "requests": file_hash(replaced), "requests_bytes": len(requests)}
    return dump_json(resealed({**public, SEAL: seal} if seal else public)).encode()


def _pending(store: RunStore, run_id: str) -> dict[str, Any] | None:
    """What a rewriting that was cut off wanted the document to be."""
    path = f"{run_id}/{PENDING}"
    if not store.backend.exists(path) or not is_sealed(content := store.backend.read(path)):
        return None
    document: dict[str, Any] = parse_json(content, path)
    return document if SEAL in document else None


def _exposed(store: RunStore, run_id: str) -> Iterator[str]:
    """The parts of a run that hold secrets."""
    for name in sorted(store.backend.files(run_id)):
        path = f"{run_id}/{name}"
        if name in (DOCUMENT, STARTED):
            yield from _exposed_parts(store.backend.read(path))
        elif name in _TABLES:
            with tempfile.TemporaryDirectory(prefix="perfkit-redact-") as folder:
                if _public_table(_fetched(store, path, Path(folder)), None) is not None:
                    yield name
        elif name == PENDING:
            yield "a rewriting that was cut off"
        elif redact_bytes(content := store.backend.read(path)) != content:
            yield name
    note = note_path(run_id)
    if store.backend.exists(note) and redact_bytes(content := store.backend.read(note)) != content:
        yield "the note of its quarantine"


def _public(document: Mapping[str, Any]) -> dict[str, Any]:
    public: dict[str, Any] = redact_document(document)
    target = document.get("target")
    return {**public, "target": public_url(target)} if isinstance(target, str) else public


def _fetched(store: RunStore, path: str, folder: Path) -> Path:
    if store.folder is not None:
        return store.folder / path
    store.backend.fetch(path, folder / path)
    return folder / path


def _public_table(file: Path, folder: Path | None) -> bytes | None:
    """A table of requests without secrets in its labels; ``None`` where it holds none, or cannot be read.

    Without a folder to write to, the bytes are empty.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.name == RECORDING:
            table = read_recording(file)
        else:
            labels = [name for name in pq.read_schema(file).names if name in _LABELS]
            table = pq.read_table(file, columns=labels if folder is None else None)
    except (pa.ArrowInvalid, OSError, ReadError):
        return None
    public = _public_labels(table)
    if public is table:
        return None
    if folder is None:
        return b""
    sink = pa.BufferOutputStream()
    if file.name == RECORDING:
        with pa.ipc.new_stream(sink, public.schema) as writer:
            writer.write_table(public.unify_dictionaries())
    else:
        pq.write_table(public, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def _public_labels(table: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in _LABELS:
        if name not in table.column_names:
            continue
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
