"""The file that holds every request of a run while Locust is still writing it: an Arrow IPC stream.

It has one record batch per second and no footer, so that what was written before the writer was killed can be read.
Each batch brings its own dictionaries (the format allows their replacement): however many services a run meets, the
writer keeps only those of the last second.  Locust's process imports this module, which therefore needs no pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


class Recording:
    """The whole batches of a recording (`RECORDING_SCHEMA`), up to the first damage, also of one cut off at any byte.

    Iterated once, a batch at a time.  Afterwards ``unread`` counts the bytes that follow them: those of a batch that
    was cut off, or all from the first damage on.  ``ReadError`` for a file that is no recording, when it is iterated.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.unread = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        path = self._path
        try:
            self.unread = path.stat().st_size
            if self.unread < len(_CONTINUATION):
                return
            with pa.OSFile(str(path)) as file:
                if file.read(len(_CONTINUATION)) != _CONTINUATION:
                    raise ReadError(f"{path}: not a recording of requests. Name a file that the recorder wrote.")
                file.seek(0)
                yield from self._batches(file)
        except OSError as error:
            raise ReadError(f"{path}: cannot be read: {error}. Check the path and its permissions.") from error

    def _batches(self, file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
        try:
            stream = pa.ipc.open_stream(file)
            if stream.schema != RECORDING_SCHEMA:
                columns = f"its columns are not those of a recording: {stream.schema.names}"
                raise ReadError(f"{self._path}: an Arrow stream, but {columns}.")
            while True:
                self.unread = file.size() - file.tell()
                batch = stream.read_next_batch()
                batch.validate(full=True)
                # What the recorder never writes: no times, requests without a service
                if any(batch.column(name).null_count for name in ("start", "service", "response_time_ms", "failed")):
                    raise ValueError("a request is not whole")
                if batch.column("service").dictionary.null_count:
                    raise ValueError("service: holds a label that is none")
                for name in ("start", "response_time_ms"):
                    values = np.from_dlpack(batch.column(name))
                    if not (np.isfinite(values).all() and (values >= 0).all() and (values < _MOST).all()):
                        raise ValueError(f"{name}: holds what is no time")
                yield batch
        except StopIteration:
            self.unread = file.size() - file.tell()  # the mark of the end is none of the bytes
        except (pa.ArrowException, *_DAMAGE):
            pass  # cut off, or damaged: what came before is whole


def read_recording(path: Path) -> pa.Table:
    """All of a `Recording` as one table, one row per request in order of completion."""
    return as_table(Recording(path))


def as_table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Batches of a recording together, with one dictionary."""
    return pa.Table.from_batches(list(batches), RECORDING_SCHEMA).unify_dictionaries()
