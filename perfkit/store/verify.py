"""Is a run still what was written?  Its hashes are computed again and held against its seal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ReadError
from perfkit.model import Run
from perfkit.readers.requests_frame import request_columns
from perfkit.readers.run_folder import DOCUMENT, REQUESTS, read_requests
from perfkit.store.run_store import RunStore
from perfkit.store.sealed import DROPPED, SEAL, document_hash, file_hash, parse_document, parse_run, run_document

MISSING = f"{REQUESTS} is missing"


@dataclass(frozen=True, slots=True)
class Verified:
    """What is wrong with a stored run (nothing, when it is whole), and what is worth knowing."""

    run_id: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def verify_run(store: RunStore, run_id: str) -> Verified:
    """Recompute the hashes of a run."""
    with tempfile.TemporaryDirectory(prefix="perfkit-store-") as name:
        folder = store.folder / run_id if store.folder is not None else Path(name)
        try:
            content = store.place.read(run_document(run_id))
            if store.folder is None:
                _fetch(store, run_id, folder)
            found = verify_folder(run_id, content, folder)
        except OSError as error:
            return Verified(run_id, (f"cannot be read: {error.strerror or error}",))
    if not store.place.keeps_requests:
        kept = tuple(problem for problem in found.problems if problem != MISSING)
        return Verified(run_id, kept, found.notes)
    return found


def _fetch(store: RunStore, run_id: str, folder: Path) -> None:
    for name in store.place.inside(run_id):
        if name in (REQUESTS, DROPPED):
            store.place.fetch(f"{run_id}/{name}", folder / name)


def verify_folder(run_id: str, content: bytes, folder: Path) -> Verified:
    """The same of a document and of the other files of its run in a local folder."""
    try:
        document = parse_document(content, DOCUMENT)
        run = parse_run(content, DOCUMENT)
    except ReadError as error:
        return Verified(run_id, (str(error),))
    sealed = document.get(SEAL)
    seal: Mapping[str, Any] = sealed if isinstance(sealed, Mapping) else {}
    problems, notes = [], []
    if not seal:
        notes.append("has no seal: an earlier perfkit wrote it, and changes of its summary cannot be told")
    elif seal.get("document") != document_hash(document):
        problems.append(f"{DOCUMENT} was changed after it was written")
    if run.id != run_id:
        notes.append(f"calls itself {run.id}: the folder was renamed or copied")
    problems += _requests(folder, seal, run)
    if (folder / DROPPED).is_file():
        notes.append("its requests were dropped")
    return Verified(run_id, tuple(problems), tuple(notes))


def _requests(folder: Path, seal: Mapping[str, Any], run: Run) -> Iterator[str]:
    file = folder / REQUESTS
    if not file.is_file():
        if seal.get("requests") and not (folder / DROPPED).is_file():
            yield MISSING
        return
    if seal:
        if seal.get("requests") != file_hash(file):
            yield f"{REQUESTS} is not the file that was written"
        return
    try:
        columns = request_columns(read_requests(file))
    except (ReadError, ValueError) as error:
        yield f"{REQUESTS}: {error}"
        return
    counts = [sum(getattr(stats, name) or 0 for stats in run.services.values()) for name in ("count", "failures")]
    # The first versions hashed requests in another way; then their number has to do.
    if columns.digest() != run.content_hash and [len(columns.failed), int(columns.failed.sum())] != counts:
        yield f"{REQUESTS} holds other requests than the summary was made of"
