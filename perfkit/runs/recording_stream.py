"""The file that holds every request of a run while Locust is still writing it: an Arrow IPC stream.

It has one record batch per second and no footer, so that what was written before the writer was killed can be read.
Each batch brings its own dictionaries (the format allows their replacement): however many services a run meets, the
writer keeps only those of the last second.  Locust's process imports this module, which therefore needs no pandas.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from perfkit.model.errors import ReadError

_LABEL = pa.dictionary(pa.int32(), pa.string())

RECORDING_SCHEMA = pa.schema(
    [
        pa.field("start", pa.float64(), nullable=False),  # seconds since the epoch; in the open model: when it was due
        pa.field("service", _LABEL, nullable=False),  # the name Locust sums up under
        pa.field("method", _LABEL, nullable=False),  # "GET", or whatever a custom client calls it
        pa.field("response_time_ms", pa.float64(), nullable=False),  # since `start`, as measured, not rounded
        pa.field("failed", pa.bool_(), nullable=False),
        pa.field("error", _LABEL),  # class of the exception and HTTP status, null for a success
        pa.field("response_bytes", pa.int64()),  # null when the client did not say
        pa.field("service_time_ms", pa.float64()),  # since it was sent; null where that is the response time
    ]
)
"""One row is one request, in the order in which the requests ended."""

_MOST = 1e11  # seconds since the epoch: the year 5138
_CONTINUATION = b"\xff\xff\xff\xff"  # opens every message of the Arrow IPC format since 0.15


# What Arrow raises for damaged bytes, besides its own errors
_DAMAGE = (OSError, ValueError, TypeError, LookupError, NotImplementedError, MemoryError, OverflowError)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The whole batches of a recording, one row per request in order of completion (`RECORDING_SCHEMA`).

    ``unread`` counts the bytes after them: those of a batch that was cut off, or all from the first damage on.
    """

    table: pa.Table
    unread: int = 0


def read_recording(path: Path) -> pa.Table:
    """The table of `salvage`."""
    return salvage(path).table


def salvage(path: Path) -> Recorded:
    """Read the whole batches of a recording up to the first damage, also of one that was cut off at any byte.

    Parameters
    ----------
    path
        An Arrow IPC stream written by the recorder, finished or not.

    Raises
    ------
    ReadError
        The file cannot be opened, or is something else than a recording.
    """
    batches: list[pa.RecordBatch] = []
    try:
        unread = path.stat().st_size
        if unread < len(_CONTINUATION):
            return Recorded(RECORDING_SCHEMA.empty_table(), unread)
        # Mapped into memory, a damaged length reaches beyond the file, and reserves nothing
        with pa.memory_map(str(path)) as file:
            if file.read(len(_CONTINUATION)) != _CONTINUATION:
                raise ReadError(f"{path}: not a recording of requests. Name a file that the recorder wrote.")
            file.seek(0)
            try:
                stream = pa.ipc.open_stream(file)
                names = stream.schema.names
                if stream.schema != RECORDING_SCHEMA:
                    raise ReadError(f"{path}: an Arrow stream, but its columns are not those of a recording: {names}.")
                while True:
                    unread = file.size() - file.tell()
                    batch = stream.read_next_batch()
                    batch.validate(full=True)
                    _check_sense(batch)
                    batches.append(batch)
            except StopIteration:
                unread = file.size() - file.tell()  # the mark of the end is none of the bytes
            except (pa.ArrowException, *_DAMAGE):
                pass  # cut off, or damaged: what came before is whole
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error}. Check the path and its permissions.") from error
    return Recorded(pa.Table.from_batches(batches, RECORDING_SCHEMA).unify_dictionaries(), unread)


def _check_sense(batch: pa.RecordBatch) -> None:
    """``ValueError`` for what the recorder never writes: no times, requests without a service."""
    if any(batch.column(name).null_count for name in ("start", "service", "response_time_ms", "failed")):
        raise ValueError("a request is not whole")
    if batch.column("service").dictionary.null_count:
        raise ValueError("service: holds a label that is none")
    for name in ("start", "response_time_ms"):
        values = np.frombuffer(batch.column(name).buffers()[1], np.float64)[batch.column(name).offset :][: len(batch)]
        if not (np.isfinite(values).all() and (values >= 0).all() and (values < _MOST).all()):
            raise ValueError(f"{name}: holds what is no time")
