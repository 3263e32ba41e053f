"""A cache of what the documents of all runs say, in one file that can be deleted at any time.

It is held against the place itself before every use: a run that is not there any more, or whose document is another,
is dropped, and runs that it does not know are read.  The file is replaced whole, so writers at once do no harm: the
last one wins, and what it did not know is read again.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfkit.document import CHANGED, parse_run
from perfkit.errors import Activity, ReadError, StoreError
from perfkit.model import Run
from perfkit.omissions import leave_out
from perfkit.store.index_rows import schema, table_of
from perfkit.store.place import Place
from perfkit.store.sealed import run_document

if TYPE_CHECKING:
    import pyarrow as pa

FILE = ".index/runs.arrow"
_TITLE = b"perfkit.index/2"  # also counted up when runs are read in another way
_HEAD = 64  # bytes: title and checksum; Arrow wants its buffers aligned to this
CHANGED_SINCE = "its run.json was changed after it was stored."
UNKNOWN_STAMP = ""  # of what is read anew each time, so that it is told each time
SHARE_UNWRITTEN, MOST_UNWRITTEN = 0.02, 64  # runs read anew each time before the file is written again


@dataclass(frozen=True, slots=True)
class Index:
    """One row per run that can be read, sorted by id; and why the others cannot."""

    table: pa.Table
    broken: Mapping[str, str]
    unwritten: int = 0  # rows by which the file differs

    @property
    def ids(self) -> list[str]:
        """Of all runs that can be read, sorted."""
        ids: list[str] = self.table["id"].to_pylist()
        return ids


def current_index(place: Place, known: Index | None = None) -> Index:
    """What the place holds now; ``known`` is what was found there before, if anything was."""
    before = known or _load(place)
    index = _refreshed(place, before)
    for run_id, reason in index.broken.items():
        leave_out(f"{run_id} is left out: {reason}")
    due = min(MOST_UNWRITTEN, SHARE_UNWRITTEN * len(index.table))
    if index.unwritten and index.unwritten >= due:
        return _saved(place, index)
    return index


def _refreshed(place: Place, before: Index) -> Index:
    import pyarrow as pa

    stamps = place.stamps()
    pairs = zip(before.table["id"].to_pylist(), before.table["stamp"].to_pylist(), strict=True)
    keep = [stamps.get(run_id) == stamp for run_id, stamp in pairs]
    table = before.table if all(keep) else before.table.filter(pa.array(keep, pa.bool_()))
    there = set(table["id"].to_pylist())
    broken: dict[str, str] = {}
    new = table_of(_read(place, {name: stamp for name, stamp in stamps.items() if name not in there}, broken))
    changed = before.unwritten + keep.count(False) + len(new)
    if len(new):
        table = _merged(table, new)
    return Index(table.combine_chunks(), broken, changed)


def _merged(table: pa.Table, new: pa.Table) -> pa.Table:
    """Of two that are sorted by id, in pieces: to sort a table of lists takes 3 s where 100,000 runs are known."""
    import pyarrow as pa

    old_ids, new_ids = table["id"].to_pylist(), new["id"].to_pylist()
    pieces, at, row = [], 0, 0
    while row < len(new_ids):
        to = bisect_left(old_ids, new_ids[row], at)
        end = bisect_left(new_ids, old_ids[to], row) if to < len(old_ids) else len(new_ids)
        pieces += [table.slice(at, to - at), new.slice(row, end - row)]
        at, row = to, end
    return pa.concat_tables([*pieces, table.slice(at)])


def _read(place: Place, stamps: Mapping[str, str], broken: dict[str, str]) -> Iterator[tuple[str, str, Run]]:
    """Runs that the index does not know yet; a folder without a document is not a run, a bad one is broken."""
    paths = {run_document(name): name for name in sorted(stamps)}
    for path, content in place.read_many(list(paths)):
        name = paths[path]
        try:
            if isinstance(content, OSError):
                raise content
            with Activity(f"reading {place.where(path)}"):
                run = parse_run(content, place.where(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            broken[name] = f"{place.where(path)}: cannot be read: {error.strerror or error}"
        except ReadError as error:
            broken[name] = str(error)
        else:
            is_changed = any(check.name == CHANGED for check in run.validity.problems)
            if is_changed:
                leave_out(f"{name} is left out: {CHANGED_SINCE}")
            yield name, UNKNOWN_STAMP if is_changed else stamps[name], run


def _load(place: Place) -> Index:
    """The file, or an empty index when it is not there, damaged, or of another version."""
    import pyarrow as pa

    try:
        buffer = _buffer(place)
        head, body = bytes(buffer.slice(0, _HEAD)), buffer.slice(_HEAD)
        if head != _header(body):
            raise ValueError("damaged")
        table = pa.ipc.open_file(pa.BufferReader(body)).read_all()
        if not table.schema.equals(schema()):
            raise ValueError("of another version")
    except (OSError, StoreError, ValueError, IndexError):  # Arrow's own errors are of these kinds
        return Index(schema().empty_table(), {})
    return Index(table, {})


def _buffer(place: Place) -> pa.Buffer:
    import pyarrow as pa

    if place.folder is not None:  # mapped: only the columns that are asked for are ever copied
        file = pa.memory_map(str(place.folder / FILE))
        return file.read_buffer()
    return pa.py_buffer(place.read(FILE))


def _header(body: pa.Buffer) -> bytes:
    return b"%s %08x" % (_TITLE, zlib.crc32(body)) + b"\n".rjust(_HEAD - len(_TITLE) - 9)


def _saved(place: Place, index: Index) -> Index:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    compression = None if place.folder is not None else "zstd"
    with pa.ipc.new_file(sink, schema(), options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(index.table)
    body = sink.getvalue()
    try:
        place.write(FILE, _header(body) + body.to_pybytes())
    except (OSError, StoreError):
        return index  # a store that may only be read is no reason to fail
    return Index(index.table, index.broken)
