"""The files of a run as a store writes them, sealed with hashes, so that damage can be told later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.codec import parse_json
from perfkit.document import SEAL, canonical, document_hash, dump_json, read_stored, run_to_document
from perfkit.errors import ReadError, StoreError
from perfkit.model import Run
from perfkit.readers.run_folder import DOCUMENT, REQUESTS
from perfkit.redaction import redact_document

DROPPED = "requests.dropped.json"  # in the folder of a run whose requests were dropped, or left out, on purpose


def identity(run: Run) -> str:
    """The same for the same measurements of the same scenario, under whatever id, and for nothing else."""
    content = run.content_hash
    if content is None:
        document = json.loads(canonical({**run_to_document(run), "id": None}), parse_int=float)  # 50 and 50.0 are one
        content = hashlib.sha256(canonical(document)).hexdigest()
    return hashlib.sha256(f"{run.scenario}\n{content}".encode()).hexdigest()


def candidate_ids(run: Run, mark: str) -> list[str]:
    """Ids to try in turn: its own, then longer ones, in case another run has taken that in the same second."""
    stem = run.id.rpartition("-")[0] or run.id
    return [run.id, *(f"{stem}-{(run.content_hash or mark)[:digits]}" for digits in (8, 16, 64))]


def write_requests(run: Run, folder: Path) -> None:
    """Every request as ``requests.parquet``; nothing for a run that is only a summary, or when the file is there."""
    target = folder / REQUESTS
    if run.load_requests is None or target.exists():
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = folder / f".{REQUESTS}"
    try:
        table = pa.Table.from_pandas(run.load_requests(), preserve_index=False)
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        partial.replace(target)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = "; ".join(map(str, error.args))
        raise StoreError(f"{target}: the table of requests cannot be kept: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


def document_of(run: Run, requests: Path) -> bytes:
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
    """What stands in a run's folder in place of its requests."""
    return dump_json({"dropped_at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}).encode()


def renamed(content: bytes, run_id: str) -> bytes:
    """A sealed document under another id."""
    document = redact_document(parse_json(content, run_id))
    return dump_json(resealed({**document, "id": run_id})).encode()


def resealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of a run that was changed on purpose, sealed as it is now; one without a seal stays without.

    What stands in the seal of the file of requests is kept: it was not changed.
    """
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
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_document(run_id: str) -> str:
    """The path of a run's document in its place; ``StoreError`` for what cannot be the name of a run folder."""
    if "/" in run_id or "\\" in run_id or "\0" in run_id or run_id.startswith(".") or not run_id:
        raise StoreError(f"run id {run_id!r}: is not the name of a run folder")
    return f"{run_id}/{DOCUMENT}"
