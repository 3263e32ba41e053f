"""The file that holds every request of a run while Locust is still writing it.

It is an Arrow IPC stream of one record batch per second.  A stream has no footer, so what was written before the writer
was killed can be read.  Each batch brings its own dictionaries (the format allows their replacement): however many
services a run meets, the writer keeps only those of the last second.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from perfkit.errors import ReadError

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

_CONTINUATION = b"\xff\xff\xff\xff"  # opens every message of the Arrow IPC format since 0.15


def read_recording(path: Path) -> pa.Table:
    """Read all complete batches of a recording, also of one that was cut off at any byte.

    Parameters
    ----------
    path
        An Arrow IPC stream written by the recorder, finished or not.

    Returns
    -------
    pyarrow.Table
        `RECORDING_SCHEMA`; one row per request in order of completion; no rows when no batch is complete.

    Raises
    ------
    ReadError
        The file cannot be opened, or is something else than a recording.
    """
    return pa.Table.from_batches(list(complete_batches(path)), RECORDING_SCHEMA).unify_dictionaries()


def complete_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a stream until it ends or breaks off."""
    try:
        with pa.OSFile(str(path)) as file:
            if file.size() < len(_CONTINUATION):
                return
            if file.read(len(_CONTINUATION)) != _CONTINUATION:
                raise ReadError(f"{path}: not a recording of requests. Name a file that the recorder wrote.")
            file.seek(0)
            yield from _until_cut(file, path)
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error}. Check the path and its permissions.") from error


def _until_cut(file: pa.NativeFile, path: Path) -> Iterator[pa.RecordBatch]:
    try:
        stream = pa.ipc.open_stream(file)
    except (pa.ArrowInvalid, OSError):  # cut off within the schema
        return
    if stream.schema != RECORDING_SCHEMA:
        raise ReadError(
            f"{path}: an Arrow stream, but its columns are not those of a recording: {stream.schema.names}."
        )
    while True:
        try:
            batch = stream.read_next_batch()
        except (StopIteration, pa.ArrowInvalid, OSError):  # the end, or a batch that was cut off
            return
        yield batch
