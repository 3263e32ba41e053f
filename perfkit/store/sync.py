"""Copy the runs of one store into another: what is there already stays, what was interrupted is taken up again."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from perfkit.document import parse_run
from perfkit.errors import StoreError
from perfkit.readers.run_folder import DOCUMENT, QUARANTINE, REQUESTS
from perfkit.redaction import redact_bytes
from perfkit.store.place import HIDDEN, Parcel
from perfkit.store.redacted import exposed_runs, redact_run
from perfkit.store.run_store import RunStore
from perfkit.store.sealed import DROPPED, candidate_ids, dropped_note, is_sealed, renamed, run_document
from perfkit.store.verify import MISSING, verify_folder

AT_ONCE = 8  # runs under way; most of the time is spent waiting for a server
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # where a copy is put, not whence it comes
ONE_COMMIT = 200  # runs that a git branch takes in one commit
OnRun = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Synced:
    """What a copy did: ids as they are in the destination, and why some runs were not copied."""

    copied: tuple[str, ...]
    present: int
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Stores:
    source: RunStore
    destination: RunStore


def missing_runs(source: RunStore, destination: RunStore) -> list[tuple[str, str]]:
    """Runs (id, identity) that only the source holds, oldest first."""
    known = set(destination.index().table["identity"].to_pylist())
    rows = source.index().table.select(["id", "identity"]).to_pylist()
    return [(row["id"], row["identity"]) for row in rows if row["identity"] not in known]


def sync(source: RunStore, destination: RunStore, on_run: OnRun | None = None) -> Synced:
    """Copy every run that the destination lacks; each is verified before it leaves and after it has arrived.

    A run that is damaged, or cannot be read, is refused and hinders no other.  Runs stay under their ids unless another
    run has the id there.  Notes of quarantine come along.  ``on_run`` is called with the number of runs done and the
    number of all.

    Raises
    ------
    StoreError
        A store could not be reached or written; what was copied before stays, and the next call goes on from there.
    """
    stores = _Stores(source, destination)
    wanted = missing_runs(source, destination)
    size = 1 if destination.place.keeps_requests else ONE_COMMIT
    batches = [wanted[begin : begin + size] for begin in range(0, len(wanted), size)]
    tell, done = threading.Lock(), 0

    def copy(batch: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        nonlocal done
        found = _copied(stores, batch)
        with tell:
            done += len(batch)
            if on_run is not None:
                on_run(done, len(wanted))
        return found

    with ThreadPoolExecutor(AT_ONCE if size == 1 else 1) as pool:
        found = [item for batch in pool.map(copy, batches) for item in batch]
    names = {old: new for old, new, _ in found if new}
    _copy_notes(stores, names)
    refused = [(old, why) for old, new, why in found if not new]
    refused += [(name, why) for name, why in source.broken().items()]
    return Synced(tuple(names.values()), len(source.index().table) - len(wanted), tuple(refused))


def _copied(stores: _Stores, batch: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Of each run: its id, its id in the destination (empty when it was refused), and why."""
    try:
        with stores.destination.place.staging() as top:
            fetched = [(run_id, mark, _whats_wrong(stores, run_id, top / run_id)) for run_id, mark in batch]
            good = [Parcel(top / run_id, run_id, mark) for run_id, mark, why in fetched if not why]
            sums = {parcel.run_id: _contents(parcel.folder) for parcel in good}
            published = stores.destination.place.publish(good) if good else []
            names = {}
            for parcel, is_new in zip(good, published, strict=True):
                names[parcel.run_id] = parcel.run_id if is_new else _under_another_id(stores, parcel)
            _check_arrival(stores, {names[run_id]: sent for run_id, sent in sums.items()})
    except OSError as error:
        what = batch[0][0] if len(batch) == 1 else f"{len(batch)} runs"
        way = f"{stores.source.url} -> {stores.destination.url}"
        raise StoreError(f"{way}: {what} could not be copied: {error.strerror or error}") from error
    return [(run_id, names.get(run_id, ""), why) for run_id, _, why in fetched]


def _whats_wrong(stores: _Stores, run_id: str, folder: Path) -> str:
    """Bring a run's files here; what is wrong with them, or nothing."""
    try:
        return _fetched(stores, run_id, folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        return f"cannot be read: {error.strerror or error}"


def _fetched(stores: _Stores, run_id: str, folder: Path) -> str:
    place = stores.source.place
    folder.mkdir(parents=True)
    content = place.read(run_document(run_id))
    names = [name for name in place.inside(run_id) if name != DOCUMENT and not name.startswith(HIDDEN)]
    for name in names if stores.destination.place.keeps_requests else []:
        place.fetch(f"{run_id}/{name}", folder / name)
    (folder / DOCUMENT).write_bytes(content)
    problems = verify_folder(run_id, content, folder).problems
    if not (stores.destination.place.keeps_requests and place.keeps_requests):
        if MISSING in problems and stores.destination.place.keeps_requests:
            (folder / DROPPED).write_bytes(dropped_note(f"{stores.source.url} keeps summaries alone"))
        problems = tuple(problem for problem in problems if problem != MISSING)
    return "; ".join(problems) or _exposed(folder)


def _exposed(folder: Path) -> str:
    """Take the secrets out of a run of an earlier perfkit before it goes anywhere; why it must not go, or nothing.

    Other requests would be another run, which the next copy would not know again.
    """
    here = RunStore(folder.parent)
    if any(REQUESTS in run.where for run in exposed_runs(here, [folder.name])):
        return "holds secrets in its requests; `perfkit runs redact` takes them out"
    redact_run(here, folder.name)
    return ""


def _under_another_id(stores: _Stores, parcel: Parcel) -> str:
    """Another run has its id in the destination, or the same run came there meanwhile."""
    run = parse_run((parcel.folder / DOCUMENT).read_bytes(), parcel.run_id)
    for name in candidate_ids(run, parcel.identity):
        if stores.destination.identity_of(name) == parcel.identity:
            return name
        (parcel.folder / DOCUMENT).write_bytes(renamed((parcel.folder / DOCUMENT).read_bytes(), name))
        if stores.destination.place.publish([Parcel(parcel.folder, name, parcel.identity)])[0]:
            return name
    raise StoreError(f"{stores.destination.url}: another run already has the id {parcel.run_id}")


def _contents(folder: Path) -> dict[str, int]:
    files = (item for item in folder.rglob("*") if item.is_file())
    return {item.relative_to(folder).as_posix(): item.stat().st_size for item in files}


def _check_arrival(stores: _Stores, sent: Mapping[str, Mapping[str, int]]) -> None:
    """Every file is there in full, and the documents are sealed as they were; an id may have become longer."""
    place = stores.destination.place
    documents = place.read_many([run_document(run_id) for run_id in sent])
    for (run_id, sizes), (_, content) in zip(sent.items(), documents, strict=True):
        there = place.inside(run_id)
        short = [name for name, size in sizes.items() if there.get(name, -1) < size]
        is_whole = isinstance(content, bytes) and is_sealed(content)
        if short or not is_whole:
            what = ", ".join(sorted(short)) or DOCUMENT
            raise StoreError(f"{place.where(run_id)}: {what} did not arrive whole; copy again")


def _copy_notes(stores: _Stores, names: dict[str, str]) -> None:
    """Notes of quarantine for the runs that were copied, and for those that are there under the same id."""
    there, ids = stores.destination.quarantined(), set(stores.destination.ids())
    for run_id in stores.source.quarantined():
        name = names.get(run_id, run_id)
        if name in ids and name not in there:
            try:
                content = redact_bytes(stores.source.place.read(f"{QUARANTINE}/{run_id}.json"))
                stores.destination.place.write(f"{QUARANTINE}/{name}.json", content)
            except FileNotFoundError:  # taken back meanwhile
                continue
            except OSError as error:
                why = error.strerror or error
                raise StoreError(f"{stores.destination.url}: the note on {name} could not be copied: {why}") from error
