"""The upkeep of a store: export, verify, copy, and remove.

- `measurements`, `exported`: all runs as one table for other tools, one row per run and service.
- `verify_run`: is a run still what was written?  Its hashes are computed again and compared with its seal.
- `sync`: copy the runs of one store into another; what is there stays, what was interrupted is taken up again.
- `plan_retention`, `plan_removal`, `remove`: what a store may forget: requests first, whole runs last, runs of
  baselines never.
"""

from __future__ import annotations

import errno
import io
import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.model.codec import dump_json, parse_json, read_json
from perfkit.model.errors import ReadError, StoreError
from perfkit.model.records import Metric
from perfkit.model.redaction import public_url, redact, redact_bytes, redact_document
from perfkit.model.serialization import SEAL, parse_run, read_stored
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
    renamed,
    resealed,
)
from perfkit.runs.store import NOISE, RUN_ID, RunStore, candidate_ids
from perfkit.runs.validity import misdated

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.25}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_age(text: str) -> timedelta:
    """``90d``, ``12w``, ``2y`` or ``36h``; ``ValueError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([hdwy])\s*", text.lower())
    if match is None or not float(match[1]):
        raise ValueError(f"expected an age such as 90d, 12w, 2y or 36h, got {text!r}")
    try:
        return timedelta(days=float(match[1]) * _DAYS[match[2]])
    except OverflowError as error:
        raise ValueError(f"expected an age of at most 2,700,000 years, got {text!r}") from error


def parse_size(text: str) -> int:
    """Bytes from ``500MB`` or ``20 GB``, in powers of ten; ``ValueError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b)\s*", text.lower())
    if match is None:
        raise ValueError(f"expected a size such as 500MB or 20GB, got {text!r}")
    return int(float(match[1]) * _BYTES[match[2]])


def size_text(size: int) -> str:
    """``3.4 MB``: three digits at most, in powers of ten."""
    for unit, of in reversed(_BYTES.items()):
        if size >= of and of > 1:
            return f"{size / of:.3g} {unit.upper() if unit != 'kb' else 'kB'}"
    return f"{size} B"


FORMATS = ("csv", "parquet", "json")
RUN_PARTS = ("id", "scenario", "started_at", "duration_s", "users", "tool", "commit", "branch", "valid", "quarantined")

_TEXTS = ("id", "scenario", "tool", "commit", "branch", "service")
_FORMULA = re.compile(r"^(?=[=+@\t\r-])")  # owasp.org/www-community/attacks/CSV_Injection


def measurements(store: RunStore, run_ids: Collection[str]) -> pd.DataFrame:
    """One row per run and service, runs oldest first: what the run was, counts, every metric, and its standard error.

    Standard errors (``NAME_se``) are within the run, in the metric's unit.  What a run cannot say is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = store.index().table
    asked, set_aside = set(run_ids), store.quarantined()
    is_asked = pa.array([run_id in asked for run_id in table["id"].to_pylist()], pa.bool_())
    table = table.filter(is_asked).combine_chunks()
    runs = pc.list_parent_indices(table["service_service"])
    is_set_aside = pa.array([name in set_aside for name in table["id"].to_pylist()], pa.bool_())
    table = table.append_column("quarantined", is_set_aside)
    frame: pd.DataFrame = table.select(RUN_PARTS).take(runs).to_pandas()
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
        plain = frame.astype(object).where(frame.notna(), None)
        rows = plain.to_dict("records")
        times = (row["started_at"] for row in rows)
        return dump_json(
            [{**row, "started_at": time and time.isoformat()} for row, time in zip(rows, times, strict=True)]
        ).encode()
    if format_ == "csv":
        safe = frame.assign(**{name: frame[name].str.replace(_FORMULA, "'", regex=True) for name in _TEXTS})
        return safe.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%f%z").encode()
    raise ValueError(f"format: must be one of {', '.join(FORMATS)}, got {format_!r}")


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
            content = store.backend.read(document_path(run_id))
            if store.folder is None:
                for file in {REQUESTS, DROPPED}.intersection(store.backend.files(run_id)):
                    store.backend.fetch(f"{run_id}/{file}", folder / file)
            verified = verify_folder(run_id, content, folder)
        except OSError as error:
            return Verified(run_id, (f"cannot be read: {error.strerror or error}",))
    if store.backend.keeps_requests:
        return verified
    return replace(verified, problems=tuple(problem for problem in verified.problems if problem != MISSING))


def with_notes(store: RunStore, verified: Sequence[Verified], *, others: bool) -> list[Verified]:
    """The same, with what is wrong with the notes on these runs; ``others``: with notes on runs that are gone too."""
    damaged = store.damaged_notes()
    names = {run.run_id for run in verified}
    gone = [Verified(run_id) for run_id in damaged if others and run_id not in names]
    return [
        replace(run, problems=(*run.problems, f"stays set aside: its note cannot be read: {damaged[run.run_id]}"))
        if run.run_id in damaged
        else run
        for run in (*verified, *gone)
    ]


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
    file, is_dropped = folder / REQUESTS, (folder / DROPPED).is_file()
    if file.is_file():
        try:
            read_requests(file, run, seal) if seal is None else check_requests(file, run, seal)
        except ReadError as error:
            problems.append(str(error).replace(f"{file}: ", f"{REQUESTS} ", 1))
    elif seal is not None and seal.requests and not is_dropped:
        problems.append(MISSING)
    if is_dropped:
        notes.append("its requests were dropped")
    return Verified(run_id, tuple(problems), tuple(notes))


AT_ONCE = 8  # runs under way; most of the time is spent waiting for a server
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # where a copy is put, not whence it comes
ONE_COMMIT = 200  # runs that a git branch takes in one commit
OnRun = Callable[[int, int], None]


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
    missing = missing_runs(source, destination)
    size = 1 if destination.backend.keeps_requests else ONE_COMMIT
    batches = [missing[begin : begin + size] for begin in range(0, len(missing), size)]
    lock, done = threading.Lock(), 0

    def copy(batch: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        nonlocal done
        copies = _copied(source, destination, batch)
        with lock:
            done += len(batch)
            if on_run is not None:
                on_run(done, len(missing))
        return copies

    with ThreadPoolExecutor(AT_ONCE if size == 1 else 1) as pool:
        copies = [run for batch in pool.map(copy, batches) for run in batch]
    names = {old: new for old, new, _ in copies if new}
    _copy_notes(source, destination, names)
    refused = [(old, why) for old, new, why in copies if not new]
    refused += [(name, why) for name, why in source.broken().items()]
    return Synced(tuple(names.values()), len(source.index().table) - len(missing), tuple(refused))


def _copied(source: RunStore, destination: RunStore, batch: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Of each run: its id, its id in the destination (empty when it was refused), and why."""
    try:
        with destination.backend.staging() as top:
            refusals = {run_id: _fetched(source, destination, run_id, top / run_id) for run_id, _ in batch}
            good = [
                StagedRun(top / run_id, run_id, run_identity) for run_id, run_identity in batch if not refusals[run_id]
            ]
            sizes = {run.run_id: _sizes(run.folder) for run in good}
            published = destination.backend.publish(good) if good else []
            names = {}
            for run, is_new in zip(good, published, strict=True):
                names[run.run_id] = run.run_id if is_new else _published_under_another_id(destination, run)
            _check_arrival(destination, {names[run_id]: sent for run_id, sent in sizes.items()})
    except OSError as error:
        what = batch[0][0] if len(batch) == 1 else f"{len(batch)} runs"
        way = f"{source.url} -> {destination.url}"
        raise StoreError(f"{way}: {what} could not be copied: {error.strerror or error}") from error
    return [(run_id, names.get(run_id, ""), why) for run_id, why in refusals.items()]


def _fetched(source: RunStore, destination: RunStore, run_id: str, folder: Path) -> str:
    """Bring a run's files here; why it must not be copied, or nothing."""
    backend, with_requests = source.backend, destination.backend.keeps_requests
    try:
        folder.mkdir(parents=True)
        content = backend.read(document_path(run_id))
        names = [name for name in backend.files(run_id) if name != DOCUMENT and not name.startswith(HIDDEN)]
        for name in names if with_requests else []:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            backend.fetch(f"{run_id}/{name}", folder / name)
        (folder / DOCUMENT).write_bytes(content)
        problems = verify_folder(run_id, content, folder).problems
        if not (with_requests and backend.keeps_requests):
            if MISSING in problems and with_requests:
                (folder / DROPPED).write_bytes(dropped_note(f"{source.url} keeps summaries alone"))
            problems = tuple(problem for problem in problems if problem != MISSING)
        if problems:
            return "; ".join(problems)
        # Secrets in a run of an earlier perfkit are not copied.  Its requests are not rewritten: other requests would
        # be another run, which the next copy would not know again.
        copied = RunStore(folder.parent)
        if any(REQUESTS in run.where for run in exposed_runs(copied, [folder.name])):
            return "holds secrets in its requests; `perfkit runs redact` takes them out"
        redact_run(copied, folder.name)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return f"cannot be read: {error.strerror or error}"
    return ""


def _published_under_another_id(destination: RunStore, staged: StagedRun) -> str:
    """Another run has its id in the destination, or the same run came there meanwhile."""
    document = staged.folder / DOCUMENT
    for name in candidate_ids(parse_run(document.read_bytes(), staged.run_id), staged.identity):
        if destination.identity_of(name) == staged.identity:
            return name
        document.write_bytes(renamed(document.read_bytes(), name))
        if destination.backend.publish([replace(staged, run_id=name)])[0]:
            return name
    raise StoreError(f"{destination.url}: another run already has the id {staged.run_id}")


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _check_arrival(destination: RunStore, sent: Mapping[str, Mapping[str, int]]) -> None:
    """Every file is there in full, and the documents are sealed as they were; an id may have become longer."""
    backend = destination.backend
    documents = backend.read_many([document_path(run_id) for run_id in sent])
    for (run_id, sizes), (_, content) in zip(sent.items(), documents, strict=True):
        there = backend.files(run_id)
        short = [name for name, size in sizes.items() if there.get(name, -1) < size]
        is_whole = isinstance(content, bytes) and is_sealed(content)
        if short or not is_whole:
            what = ", ".join(sorted(short)) or DOCUMENT
            raise StoreError(f"{backend.where(run_id)}: {what} did not arrive whole; copy again")


def _copy_notes(source: RunStore, destination: RunStore, names: Mapping[str, str]) -> None:
    """Notes of quarantine for the runs that were copied, and for those that are there under the same id."""
    there, ids = destination.quarantined(), set(destination.ids())
    for run_id in source.quarantined():
        name = names.get(run_id, run_id)
        if name in ids and name not in there:
            try:
                destination.backend.write(note_path(name), redact_bytes(source.backend.read(note_path(run_id))))
            except FileNotFoundError:  # taken back meanwhile
                continue
            except OSError as error:
                why = error.strerror or error
                raise StoreError(f"{destination.url}: the note on {name} could not be copied: {why}") from error


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


@dataclass(frozen=True, slots=True)
class Retention:
    """How much to keep; ``None`` is without limit.  Ages are of a run's start; undated runs have none, and stay.

    ``most_bytes`` counts whole runs: no run goes because something else in the folder is large.
    """

    requests_for: timedelta | None = None
    runs_for: timedelta | None = None
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_for", "runs_for"):
            age = getattr(self, name)
            if age is not None and age <= timedelta(0):
                raise ValueError(f"{name}: must be longer than zero, got {age}")
        if self.most_bytes is not None and self.most_bytes < 0:
            raise ValueError(f"most_bytes: must be >= 0, got {self.most_bytes}")


def protected_runs(baselines: Path) -> dict[str, str]:
    """Texts that stand in any baseline file, each with the file: a run with such an id is never removed.

    ``StoreError`` for a file that cannot be read: what it protects is not known then.
    """
    found: dict[str, str] = {}
    for file in sorted(baselines.rglob("*.json")) if baselines.is_dir() else []:
        try:
            document = read_json(file)
        except FileNotFoundError:  # it was taken away meanwhile
            continue
        except ReadError as error:
            raise StoreError(f"{error}; so the runs that this baseline protects are not known") from error
        found |= dict.fromkeys(_texts(document), str(file))
    return found


def _texts(document: Any) -> Iterator[str]:
    """Every text of a document, and the last part of those that are paths."""
    if isinstance(document, str):
        yield document
        yield document.rstrip("/").rpartition("/")[2]
    elif isinstance(document, Mapping):
        for value in document.values():
            yield from _texts(value)
    elif isinstance(document, list):
        for value in document:
            yield from _texts(value)


def plan_retention(
    store: RunStore, keep: Retention, protected: Mapping[str, str], *, now: datetime | None = None
) -> tuple[Removal, ...]:
    """What would go, in the order in which it would: leftovers, requests by age and size, runs by age and size."""
    now = now or datetime.now(UTC)
    sizes = _Sizes(store)
    rows = store.index().table.select(["id", "started_at"]).to_pylist()
    total = sum(sizes.run(row["id"]) for row in rows)
    dated = sorted((row["started_at"], row["id"]) for row in rows if row["started_at"] is not None)
    free = [(run_id, now - started_at) for started_at, run_id in dated if run_id not in protected]
    aged = tuple(_by_age(sizes, keep, free))
    excess = 0 if keep.most_bytes is None else total - sum(removal.size for removal in aged) - keep.most_bytes
    half_made = [
        Removal(LEFTOVER_GOES, name, size, "left by a writer that was killed")
        for name, size in store.backend.leftovers(LEFTOVER_S).items()
    ]
    return (
        *half_made,
        *_never_begun(store, now),
        *aged,
        *_by_size(sizes, excess, [run_id for run_id, _ in free], aged),
    )


def _by_age(sizes: _Sizes, keep: Retention, free: Sequence[tuple[str, timedelta]]) -> Iterator[Removal]:
    """Requests first, then whole runs; of a run that goes whole the requests are not named too."""
    gone = {run_id for run_id, age in free if keep.runs_for is not None and age > keep.runs_for}
    for run_id, age in free:
        if keep.requests_for is not None and age > keep.requests_for and run_id not in gone and sizes.requests(run_id):
            yield Removal(REQUESTS_GO, run_id, sizes.requests(run_id), "too old")
    for run_id, _ in free:
        if run_id in gone:
            yield Removal(RUN_GOES, run_id, sizes.run(run_id), "too old")


def _by_size(sizes: _Sizes, excess: int, free: Sequence[str], plan: Sequence[Removal]) -> Iterator[Removal]:
    """Requests of the oldest runs, then the oldest runs themselves, until ``excess`` bytes more than the plan go."""
    light = {removal.name for removal in plan}  # runs without requests, or without anything
    whole = {removal.name for removal in plan if removal.what == RUN_GOES}
    for run_id in free:
        size = sizes.requests(run_id)
        if excess > 0 and size and run_id not in light:
            yield Removal(REQUESTS_GO, run_id, size, "the store is too large")
            light.add(run_id)
            excess -= size
    for run_id in free:
        if excess > 0 and run_id not in whole:
            size = sizes.run(run_id) - (sizes.requests(run_id) if run_id in light else 0)
            yield Removal(RUN_GOES, run_id, size, "the store is too large")
            excess -= size


class _Sizes:
    """Bytes of every run folder, from one listing."""

    def __init__(self, store: RunStore) -> None:
        self._files: dict[str, dict[str, int]] = {}
        for path, size in store.backend.files("").items():
            run_id, _, name = path.partition("/")
            self._files.setdefault(run_id, {})[name] = size

    def run(self, run_id: str) -> int:
        return sum(self._files.get(run_id, {}).values())

    def requests(self, run_id: str) -> int:
        return sum(self._files.get(run_id, {}).get(name, 0) for name in (REQUESTS, RECORDING))


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
    files = {run_id: _files(store, run_id) for run_id in run_ids}
    asked = "asked for"
    if not only_requests:
        return tuple(Removal(RUN_GOES, run_id, sum(own.values()), asked) for run_id, own in files.items())
    sizes = {run_id: sum(own.get(name, 0) for name in (REQUESTS, RECORDING)) for run_id, own in files.items()}
    return tuple(Removal(REQUESTS_GO, run_id, size, asked) for run_id, size in sizes.items() if size)


def _files(store: RunStore, run_id: str) -> Mapping[str, int]:
    """Of a run; none for a link out of the store, of which only the link is removed."""
    try:
        return store.backend.files(run_id)
    except OSError:
        return {}


def remove(store: RunStore, plan: Iterable[Removal]) -> int:
    """Carry a plan out; returns the bytes freed.  ``StoreError`` names what could not be removed."""
    freed, backend = 0, store.backend
    for removal in plan:
        name = removal.name
        try:
            if removal.what != REQUESTS_GO:
                backend.remove_runs([name])
                store.lift_quarantine(name)
            elif backend.files(name):  # else somebody removed the run since the plan was made
                try:
                    backend.write(f"{name}/{DROPPED}", dropped_note(removal.reason))
                    _remove_requests(store, name)
                except OSError:  # such as on a full disk, which has room for the note only when the requests are gone
                    _remove_requests(store, name)
                    backend.write(f"{name}/{DROPPED}", dropped_note(removal.reason))
        except OSError as error:
            raise StoreError(f"{backend.where(name)}: cannot be removed: {error.strerror or error}") from error
        freed += removal.size
    return freed


def _remove_requests(store: RunStore, run_id: str) -> None:
    for name in (REQUESTS, RECORDING):
        store.backend.remove(f"{run_id}/{name}")


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
        local = _local_file(store, f"{run_id}/{name}", folder)
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
        derived = backend.derived
        for path in (INDEX, *(f"{NOISE}/{profile}" for profile in derived.files(NOISE))):
            derived.remove(path)  # made anew from what is there now
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
                if _public_table(_local_file(store, path, Path(folder)), None) is not None:
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


def _local_file(store: RunStore, path: str, folder: Path) -> Path:
    if store.folder is not None:
        return store.folder / path
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
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
