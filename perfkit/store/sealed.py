"""The files of a run as a store writes them, sealed with hashes, so that damage can be told later."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.document import dump_json, run_from_document, run_to_document
from perfkit.errors import ReadError, StoreError
from perfkit.model import Run
from perfkit.readers.run_folder import DOCUMENT, REQUESTS

SEAL = "seal"
DROPPED = "requests.dropped.json"  # in the folder of a run whose requests were dropped, or left out, on purpose
MOST_REQUESTS = 10**15  # of one service; also their sum fits into 64 bits


def identity(run: Run) -> str:
    """The same for the same measurements of the same scenario, under whatever id, and for nothing else."""
    content = run.content_hash
    if content is None:
        document = {**run_to_document(run), "id": None}
        content = hashlib.sha256(_canonical(document)).hexdigest()
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
        pq.write_table(table, partial, compression="zstd")
        partial.replace(target)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = "; ".join(map(str, error.args))
        raise StoreError(f"{target}: the table of requests cannot be kept: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


def document_of(run: Run, requests: Path) -> bytes:
    """``run.json``, with the seal: the hashes of the document without it, and of the file of requests."""
    document = run_to_document(run)
    seal: dict[str, Any] = {"document": document_hash(document), "requests": None, "requests_bytes": None}
    if requests.is_file():
        seal |= {"requests": file_hash(requests), "requests_bytes": requests.stat().st_size}
    return dump_json({**document, SEAL: seal}).encode()


def dropped_note(reason: str) -> bytes:
    """What stands in a run's folder in place of its requests."""
    return dump_json({"dropped_at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}).encode()


def renamed(content: bytes, run_id: str) -> bytes:
    """A sealed document under another id."""
    document = json.loads(content)
    document["id"] = run_id
    if SEAL in document:
        document[SEAL]["document"] = document_hash(document)
    return dump_json(document).encode()


def document_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document without its seal, whatever its spaces and the order of its keys."""
    return hashlib.sha256(_canonical({key: value for key, value in document.items() if key != SEAL})).hexdigest()


def is_sealed(content: bytes) -> bool:
    """Whether a document is what was written; one without a seal, of an earlier perfkit, is when it can be read."""
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return SEAL not in document or document[SEAL].get("document") == document_hash(document)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_run(content: bytes, place: str) -> Run:
    """A run from its ``run.json``; ``ReadError`` for whatever else stands there."""
    document = parse_document(content, place)
    try:
        run = run_from_document(document, place)
        _check_plain(run)
    except (OverflowError, TypeError, ValueError) as error:
        raise ReadError(f"{place}: {error}") from error
    return run


def _check_plain(run: Run) -> None:
    """What a table of many runs relies on: numbers that fit, text that is text."""
    if run.duration_s is not None and (isinstance(run.duration_s, bool | str) or not math.isfinite(run.duration_s)):
        raise ValueError(f"duration_s: expected a number, got {run.duration_s!r}")
    users = run.profile.users
    if users is not None and (not isinstance(users, int | float) or not 0 <= users < MOST_REQUESTS):
        raise ValueError(f"users: expected a number, got {users!r}")
    if not isinstance(run.content_hash, str | None):
        raise ValueError(f"content_hash: expected text, got {run.content_hash!r}")
    counts = [number for stats in run.services.values() for number in (stats.count, stats.failures)]
    if any(number is not None and number > MOST_REQUESTS for number in counts):
        raise ValueError(f"a service has more than {MOST_REQUESTS:,} requests")


def parse_document(content: bytes, place: str) -> Any:
    """JSON, however broken; ``ReadError`` names the place."""
    try:
        if b"\\ud" in content.lower():  # half of a letter may be escaped in JSON, and then cannot be written anywhere
            json.dumps(json.loads(content), ensure_ascii=False).encode()
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{place}: not JSON: {error}") from error


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def run_document(run_id: str) -> str:
    """The path of a run's document in its place; ``StoreError`` for what cannot be the name of a run folder."""
    if "/" in run_id or "\\" in run_id or "\0" in run_id or run_id.startswith(".") or not run_id:
        raise StoreError(f"run id {run_id!r}: is not the name of a run folder")
    return f"{run_id}/{DOCUMENT}"
