"""Is a run still what was written?  Its hashes are computed again and held against its seal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from perfkit.document import Seal, read_stored
from perfkit.errors import ReadError
from perfkit.model import Run
from perfkit.readers.run_folder import DOCUMENT, REQUESTS, check_requests, read_requests
from perfkit.store.run_store import RunStore
from perfkit.store.sealed import DROPPED, run_document
from perfkit.validity.clock import misdated

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


def with_notes(store: RunStore, every: Sequence[Verified], *, others: bool) -> list[Verified]:
    """The same, with what is wrong with the notes on these runs; ``others``: with notes on runs that are gone too."""
    damaged = store.damaged_notes()
    names = {item.run_id for item in every}
    gone = [Verified(run_id) for run_id in damaged if others and run_id not in names]
    return [
        replace(item, problems=(*item.problems, f"stays set aside: its note cannot be read: {damaged[item.run_id]}"))
        if item.run_id in damaged
        else item
        for item in (*every, *gone)
    ]


def _fetch(store: RunStore, run_id: str, folder: Path) -> None:
    for name in store.place.inside(run_id):
        if name in (REQUESTS, DROPPED):
            store.place.fetch(f"{run_id}/{name}", folder / name)


def verify_folder(run_id: str, content: bytes, folder: Path) -> Verified:
    """The same of a document and of the other files of its run in a local folder."""
    try:
        stored = read_stored(content, DOCUMENT)
    except ReadError as error:
        return Verified(run_id, (str(error),))
    run, seal = stored.run, stored.seal
    problems, notes = [], []
    if seal is None:
        notes.append("has no seal: an earlier perfkit wrote it, and changes of its summary cannot be told")
    elif stored.changed:
        problems.append(f"{DOCUMENT} was changed after it was written")
    if date := misdated(run.started_at, datetime.now(UTC)):
        notes.append(f"is {date}: a clock was wrong, and it is never taken for the newest of its history")
    if run.id != run_id:
        notes.append(f"calls itself {run.id}: the folder was renamed or copied")
    problems += _requests(folder, seal, run)
    if (folder / DROPPED).is_file():
        notes.append("its requests were dropped")
    return Verified(run_id, tuple(problems), tuple(notes))


def _requests(folder: Path, seal: Seal | None, run: Run) -> Iterator[str]:
    file = folder / REQUESTS
    if not file.is_file():
        if seal is not None and seal.requests and not (folder / DROPPED).is_file():
            yield MISSING
        return
    try:
        read_requests(file, run, seal) if seal is None else check_requests(file, run, seal)
    except ReadError as error:
        yield str(error).replace(f"{file}: ", f"{REQUESTS} ", 1)
