"""What a store may forget: requests first, whole runs last, runs of baselines never."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from perfkit.codec import read_json
from perfkit.errors import ReadError, StoreError
from perfkit.readers.run_folder import DOCUMENT, RECORDING, REQUESTS
from perfkit.store.run_store import RUN_ID, RunStore
from perfkit.store.sealed import DROPPED, dropped_note

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
    return (
        *_leftovers(store),
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
        for path, size in store.place.inside("").items():
            run_id, _, name = path.partition("/")
            self._files.setdefault(run_id, {})[name] = size

    def run(self, run_id: str) -> int:
        return sum(self._files.get(run_id, {}).values())

    def requests(self, run_id: str) -> int:
        return sum(self._files.get(run_id, {}).get(name, 0) for name in (REQUESTS, RECORDING))


def _leftovers(store: RunStore) -> Iterator[Removal]:
    for name, size in store.place.leftovers(LEFTOVER_S).items():
        yield Removal(LEFTOVER_GOES, name, size, "left by a writer that was killed")


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
        return store.place.inside(run_id)
    except OSError:
        return {}


def remove(store: RunStore, plan: Iterable[Removal]) -> int:
    """Carry a plan out; returns the bytes freed.  ``StoreError`` names what could not be removed."""
    freed = 0
    for removal in plan:
        try:
            _remove(store, removal)
        except OSError as error:
            raise StoreError(
                f"{store.place.where(removal.name)}: cannot be removed: {error.strerror or error}"
            ) from error
        freed += removal.size
    return freed


def _remove(store: RunStore, removal: Removal) -> None:
    if removal.what != REQUESTS_GO:
        store.place.remove_runs([removal.name])
        store.lift_quarantine(removal.name)
        return
    if not store.place.inside(removal.name):  # somebody else removed the run since the plan was made
        return
    try:
        store.place.write(f"{removal.name}/{DROPPED}", dropped_note(removal.reason))
        _remove_requests(store, removal.name)
    except OSError:  # such as on a full disk, which has room for the note only when the requests are gone
        _remove_requests(store, removal.name)
        store.place.write(f"{removal.name}/{DROPPED}", dropped_note(removal.reason))


def _remove_requests(store: RunStore, run_id: str) -> None:
    for name in (REQUESTS, RECORDING):
        store.place.remove(f"{run_id}/{name}")
