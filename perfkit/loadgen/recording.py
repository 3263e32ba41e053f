"""Recording: requests gathered in memory -> the Arrow stream of a run -> its Parquet file."""

import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from perfkit.model.files import atomic_path
from perfkit.model.redaction import redact
from perfkit.model.script_errors import LONGEST_MS, time_fault
from perfkit.runs.recording_stream import RECORDING_SCHEMA, Batches

LONGEST_S = LONGEST_MS / 1e3
FLUSH_ROWS = 50_000  # a batch of about 2 MB, if one second brings that much
ROW_GROUP_ROWS = 262_144  # about 10 MB: what is held in memory while a recording is converted


def finish_recording(recording: Path, parquet: Path) -> pa.Table:
    """Turn a recording into a Parquet file and remove the recording, unless a part of it could not be read.

    The recording is read once: what is written is what is returned.  The Parquet file appears whole or not at all;
    until it does, the recording stays.  A row group holds about a quarter of a million rows.

    Returns
    -------
    Table
        The requests that were written (`RECORDING_SCHEMA`); without rows for a recording without a complete batch.

    Raises
    ------
    ReadError
        As `read_recording`.
    """
    from pyarrow import parquet as pq  # here, because the recorder imports this module and needs no Parquet

    groups = [RECORDING_SCHEMA.empty_table()]
    batches = Batches(recording)
    # the recording is removed below: its copy must be on the disk, not in a cache
    with (
        atomic_path(parquet, durable=True) as partial,
        pq.ParquetWriter(partial, RECORDING_SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        for group in _row_groups(iter(batches)):
            writer.write_table(group, row_group_size=len(group))
            groups.append(group)
    if not batches.unread:  # what could not be read is not lost
        recording.unlink()
    return pa.concat_tables(groups).unify_dictionaries()


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Put batches together to tables of at least `ROW_GROUP_ROWS` rows; the last one has what is left."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        if rows >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(held).unify_dictionaries()
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held).unify_dictionaries()


class _Labels(dict[object, int]):
    """Number the labels that are asked for; those that differ by a secret alone have one number."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}

    def __missing__(self, label: object) -> int:
        code = self[label] = self.texts.setdefault(redact(str(label)), len(self.texts))
        return code

    def clear(self) -> None:
        """Begin anew."""
        super().clear()
        self.texts.clear()


class RequestBuffer:
    """The requests that are not yet written, column by column, because arrays cost neither memory nor collections."""

    def __init__(self) -> None:
        self.starts, self.times, self.sizes = array("d"), array("d"), array("q")
        self.service_times = array("d")  # negative: not counted from a schedule
        self.service_codes, self.method_codes, self.error_codes = array("i"), array("i"), array("i")
        self.services, self.methods, self.errors = _Labels(), _Labels(), _Labels()
        self.skipped = 0  # requests whose response time is of no use, or missing, as of asynchronous clients
        self.on_full: Callable[[], None] = lambda: None
        self.on_skipped: Callable[[object, str], None] = lambda *_: None
        self.on_failure: Callable[[], None] = lambda: None
        self.arrival_of: Callable[[], Any] | None = None  # the arrival that is worked for, in the open model

    def on_request(
        self,
        request_type: object = "",
        name: object = "",
        response_time: Any = None,
        response_length: int | None = None,
        exception: object = None,
        start_time: Any = None,
        response: object = None,
        **_: object,
    ) -> None:
        """Take one request; a listener of Locust's ``events.request``, called with any subset of its arguments."""
        try:
            if not 0.0 <= response_time <= LONGEST_MS:
                self._skip(name, response_time)
                return
            now = time.time()
            if start_time is None or not abs(now - start_time) <= LONGEST_S:  # of another clock
                start_time = now - response_time / 1e3
            service, method = self.services[name], self.methods[request_type]
            # Locust, too, asks whether the exception is true, not whether it is None
            error = self.errors[error_kind(exception, response)] if exception else -1
            self.sizes.append(-1 if response_length is None else response_length)
            arrival = self.arrival_of() if self.arrival_of is not None else None
            if arrival is not None and arrival.is_first:
                arrival.is_first, due = False, arrival.due_s + arrival.clock_offset_s
                self.service_times.append(response_time)
                self.times.append(response_time + 1e3 * max(start_time - due, 0.0))
                self.starts.append(min(due, start_time))
            else:
                self.service_times.append(-1.0)
                self.times.append(response_time)
                self.starts.append(start_time)
        except (TypeError, ValueError, ArithmeticError):  # a custom client may hand over anything
            self._take_odd(request_type, name, response_time, response_length, exception, start_time, response)
            return
        self.service_codes.append(service)
        self.method_codes.append(method)
        self.error_codes.append(error)
        if error >= 0:
            self.on_failure()
        if len(self.times) >= FLUSH_ROWS:
            self.on_full()

    def _take_odd(
        self, method: object, name: object, taken: Any, size: Any, exception: object, start: Any, response: object
    ) -> None:
        """Take a request whose values have unexpected types, as far as they can be converted."""
        for column in (self.times, self.starts, self.sizes, self.service_times):
            del column[len(self.error_codes) :]
        taken_ms, start_s = to_number(taken), to_number(start)
        if taken_ms is None:
            self._skip(name, taken)
            return
        size_bytes = to_number(size)
        if not isinstance(exception, str | BaseException | None):
            exception = "error" if _is_true(exception) else None
        whole = int(size_bytes) if size_bytes is not None and abs(size_bytes) < 2**62 else None
        self.on_request(str(method), str(name), taken_ms, whole, exception, start_s, response)

    def _skip(self, service: object, taken: object) -> None:
        self.skipped += 1
        time_ms = to_number(taken)
        self.on_skipped(service, time_fault(time_ms) if taken is None or time_ms is not None else "not a number")

    def take(self) -> pa.RecordBatch:
        """Return what was gathered as one batch of `RECORDING_SCHEMA` and begin anew."""
        rows = len(self.times)
        sizes, times = np.array(self.sizes), np.array(self.times) + 0.0  # not minus zero
        failed = np.packbits(np.array(self.error_codes) >= 0, bitorder="little")
        has_size = pa.py_buffer(np.packbits(sizes >= 0, bitorder="little"))
        service_times = np.array(self.service_times)
        has_service_time = pa.py_buffer(np.packbits(service_times >= 0, bitorder="little"))
        columns = [
            pa.Array.from_buffers(pa.float64(), rows, [None, pa.py_buffer(self.starts.tobytes())]),
            _label_column(self.services, self.service_codes),
            _label_column(self.methods, self.method_codes),
            pa.Array.from_buffers(pa.float64(), rows, [None, pa.py_buffer(times.tobytes())]),
            pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(failed)]),
            _label_column(self.errors, self.error_codes, pa.py_buffer(failed)),
            pa.Array.from_buffers(pa.int64(), rows, [has_size, pa.py_buffer(sizes)]),
            pa.Array.from_buffers(pa.float64(), rows, [has_service_time, pa.py_buffer(service_times)]),
        ]
        floats, codes = (self.starts, self.times, self.service_times), (self.service_codes, self.method_codes)
        for held in (*floats, self.sizes, *codes, self.error_codes):
            del held[:]
        for labels in (self.services, self.methods, self.errors):
            labels.clear()
        return pa.RecordBatch.from_arrays(columns, schema=RECORDING_SCHEMA)


def error_kind(exception: object, response: object = None) -> str:
    """Name an error by its class and HTTP status, ``"HTTPError 500"``: messages hold ids and tokens."""
    kind = "error" if isinstance(exception, str) else type(exception).__name__
    failed = getattr(exception, "response", None)
    failed = response if failed is None else failed  # `or` would drop it: the response of an error is false
    status = getattr(failed, "status_code", None)
    return f"{kind} {status}" if isinstance(status, int) and status else kind


def to_number(value: Any) -> float | None:
    """What somebody handed over as a number, if it is one."""
    try:
        return float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None


def usable_time(value: Any) -> float | None:
    """A response time in ms that can be measured; ``None`` for what is none."""
    time_ms = value if type(value) is float else to_number(value)
    return time_ms if time_ms is not None and 0.0 <= time_ms <= LONGEST_MS else None


def _is_true(value: Any) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):  # an array, say
        return True


def _label_column(labels: _Labels, codes: "array[int]", valid: pa.Buffer | None = None) -> pa.DictionaryArray:
    """Build a dictionary column from its labels and one code per row.

    It goes through buffers because much of pyarrow, ``pa.array`` and ``to_numpy`` among it, imports pandas: a pause of
    a second in the middle of the load.
    """
    texts = [label.encode("utf-8", "replace") for label in labels.texts]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    dictionary = pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
    indices = pa.Array.from_buffers(pa.int32(), len(codes), [valid, pa.py_buffer(codes.tobytes())])
    return pa.DictionaryArray.from_arrays(indices, dictionary)
