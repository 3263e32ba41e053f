"""Requests of a running load test: gathered in memory, summed up, written as an Arrow stream, at the end as Parquet.

Locust's process imports this module: nothing here may import pandas, which would pause the load for a second (much of
pyarrow, ``pa.array`` and ``to_numpy`` among it, does; hence the columns are built from buffers).
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from perfkit.model.codec import decode
from perfkit.model.files import atomic_path
from perfkit.model.redaction import redact
from perfkit.model.script_errors import LONGEST_MS, ScriptErrors, time_fault
from perfkit.runs.recording_stream import RECORDING_SCHEMA, Recording, as_table

LONGEST_S = LONGEST_MS / 1e3
FLUSH_ROWS = 50_000  # a batch of about 2 MB, if one second brings that much
ROW_GROUP_ROWS = 262_144  # about 10 MB
RPS_WINDOW_S, P95_WINDOW_S = 5.0, 10.0
LINGER_S = 10
MESSAGE = "perfkit_requests"
COLUMNS = (  # of the table about the load generator
    "time",  # seconds since the epoch
    "users",
    "cpu_pct",  # of this process, in percent of one core
    "requests",  # so far, as all that follow but lag, clock, waiting and in_flight
    "failures",
    "lag_ms",  # the latest that the event loop was in this second
    "clock_s",  # how far the time of day has moved against the monotonic clock since the start
    "scheduled",  # arrivals of the open model
    "started",
    "late",
    "waiting",
    "in_flight",
    "stalled_s",  # so far, time in which the event loop did not run
    "stalled_cpu_s",  # CPU time that this process used meanwhile
)


def finish_recording(recording: Path, parquet: Path) -> int:
    """Turn a recording into a Parquet file and remove the recording, unless a part of it could not be read.

    Gives the number of requests, 0 for a recording without a complete batch.  A group of rows is in memory at a time.
    The Parquet file appears whole or not at all; until it does, the recording stays.  ``ReadError`` as `Recording`.
    """
    from pyarrow import parquet as pq  # here, because the recorder needs no Parquet

    recorded, held, written = Recording(recording), RECORDING_SCHEMA.empty_table(), 0
    # the recording is removed below: its copy must be on the disk, not in a cache
    with (
        atomic_path(parquet, durable=True) as partial,
        pq.ParquetWriter(partial, RECORDING_SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        batches: list[pa.RecordBatch] = []
        for batch in recorded:
            batches.append(batch)
            written += len(batch)
            if sum(map(len, batches)) >= ROW_GROUP_ROWS - len(held):
                table, batches = pa.concat_tables([held, as_table(batches)]), []
                whole = len(table) - len(table) % ROW_GROUP_ROWS
                writer.write_table(table.slice(0, whole).unify_dictionaries(), row_group_size=ROW_GROUP_ROWS)
                held = table.slice(whole)
        rest = pa.concat_tables([held, as_table(batches)]).unify_dictionaries()
        writer.write_table(rest, row_group_size=ROW_GROUP_ROWS)
    if not recorded.unread:  # what could not be read is not lost
        recording.unlink()
    return written


class _Labels(dict[object, int]):
    """Number the labels that are asked for; those that differ by a secret alone have one number."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}

    def __missing__(self, label: object) -> int:
        code = self[label] = self.texts.setdefault(redact(str(label)), len(self.texts))
        return code

    def clear(self) -> None:
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
        except (TypeError, ValueError, ArithmeticError):  # a custom client may hand over anything: convert what can be
            for column in (self.times, self.starts, self.sizes, self.service_times):
                del column[len(self.error_codes) :]
            taken_ms, size = to_number(response_time), to_number(response_length)
            if taken_ms is None:
                self._skip(name, response_time)
                return
            whole = int(size) if size is not None and abs(size) < 2**62 else None
            if not isinstance(exception, str | BaseException | None):
                is_true = True
                with suppress(TypeError, ValueError):  # an array, say
                    is_true = bool(exception)
                exception = "error" if is_true else None
            self.on_request(str(request_type), str(name), taken_ms, whole, exception, to_number(start_time), response)
            return
        self.service_codes.append(service)
        self.method_codes.append(method)
        self.error_codes.append(error)
        if error >= 0:
            self.on_failure()
        if len(self.times) >= FLUSH_ROWS:
            self.on_full()

    def _skip(self, service: object, taken: object) -> None:
        self.skipped += 1
        time_ms = to_number(taken)
        self.on_skipped(service, time_fault(time_ms) if taken is None or time_ms is not None else "not a number")

    def take(self) -> pa.RecordBatch:
        """Return what was gathered as one batch of `RECORDING_SCHEMA` and begin anew."""
        rows = len(self.times)

        def column(kind: pa.DataType, values: Any, valid: Any = None) -> pa.Array:
            bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
            return pa.Array.from_buffers(kind, rows, [bits, pa.py_buffer(values)])

        def label_column(labels: _Labels, codes: array[int], valid: Any = None) -> pa.DictionaryArray:
            texts = [label.encode("utf-8", "replace") for label in labels.texts]
            ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
            dictionary = pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
            return pa.DictionaryArray.from_arrays(column(pa.int32(), np.array(codes), valid), dictionary)

        sizes, service_times, failed = (
            np.array(self.sizes),
            np.array(self.service_times),
            np.array(self.error_codes) >= 0,
        )
        columns = [
            column(pa.float64(), np.array(self.starts)),
            label_column(self.services, self.service_codes),
            label_column(self.methods, self.method_codes),
            column(pa.float64(), np.array(self.times) + 0.0),  # not minus zero
            column(pa.bool_(), np.packbits(failed, bitorder="little")),
            label_column(self.errors, self.error_codes, failed),
            column(pa.int64(), sizes, sizes >= 0),
            column(pa.float64(), service_times, service_times >= 0),
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


class Meter:
    """Totals, and what the last seconds were like."""

    def __init__(self) -> None:
        self.requests = self.failures = 0
        self.cpu_pct = 0.0
        self._clocks = (time.monotonic(), time.process_time())
        self._totals = deque([(time.monotonic(), 0)])
        self._times: deque[tuple[float, Any]] = deque()
        np.percentile([0.0], 95)  # its first call imports numpy.ma, 50 ms that the load need not meet

    def add(self, batch: pa.RecordBatch) -> None:
        self.requests += len(batch)
        self.failures += len(batch) - batch.column("error").null_count
        _, times = batch.column("response_time_ms").buffers()
        self._times.append((time.monotonic(), np.frombuffer(times)))
        self._forget()

    def measure_cpu(self) -> None:
        """Set `cpu_pct` to the CPU time of this process since the last call, in percent of one core."""
        now, used = time.monotonic(), time.process_time()
        if (span := now - self._clocks[0]) >= 0.2:  # the last call of a run comes early; keep the figure before it
            self.cpu_pct = 100 * (used - self._clocks[1]) / span
            self._clocks = now, used

    def rps(self) -> float:
        """Return requests per second over `RPS_WINDOW_S`."""
        now = time.monotonic()
        while len(self._totals) > 1 and self._totals[0][0] < now - RPS_WINDOW_S - 0.5:
            self._totals.popleft()
        since, before = self._totals[0]
        self._totals.append((now, self.requests))
        return (self.requests - before) / max(now - since, 1e-3)

    def p95_latency_ms(self) -> float | None:
        """Return the exact 95th percentile (linear interpolation) over `P95_WINDOW_S`, None without requests."""
        self._forget()
        return float(np.percentile(np.concatenate([times for _, times in self._times]), 95)) if self._times else None

    def _forget(self) -> None:
        """Batches come once a second from each worker, or more often: time counts here, not their number."""
        while self._times and self._times[0][0] < time.monotonic() - P95_WINDOW_S:
            self._times.popleft()


class FileSink:
    """The recording of a run, and a table with one row per second about this process; ``OSError`` when it is full."""

    def __init__(self, recording: Path, table: Path) -> None:
        self._stream = pa.ipc.new_stream(pa.OSFile(str(recording), "wb"), RECORDING_SCHEMA)
        self._table = FileIO(str(table), "w")
        self.write_row(COLUMNS)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._stream.write_batch(batch)

    def write_row(self, cells: tuple[object, ...]) -> None:
        self._table.write(_line(cells))

    def close(self) -> None:
        """Write the mark of the end, which no reader needs."""
        self._stream.close()


class MasterSink:
    """A worker's: gathers until the second is over, then sends it to the master, with what ``state()`` says."""

    def __init__(self, runner: Any, state: Callable[[], dict[str, object]]) -> None:
        self._runner, self._state = runner, state
        self._batches: list[bytes] = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        target = pa.BufferOutputStream()
        with pa.ipc.new_stream(target, RECORDING_SCHEMA) as stream:
            stream.write_batch(batch)
        self._batches.append(target.getvalue().to_pybytes())

    def write_row(self, cells: tuple[object, ...], *, is_last: bool = False) -> None:
        batches, self._batches = self._batches, []
        message = {"index": self._runner.worker_index, "batches": batches, "is_last": is_last}
        self._runner.send_message(MESSAGE, message | {"row": _line(cells) if cells else b""} | self._state())

    def close(self) -> None:
        """Send the rest, and that it was the last."""
        self.write_row((), is_last=True)

    def flush(self) -> None:
        """Wait until the master's machine has what was sent; nothing can be sent afterwards."""
        socket = self._runner.client.socket
        context = socket.context
        socket.close(linger=1000 * LINGER_S)  # without it, what is still in memory goes with the process
        context.term()


class ResultCollector:
    """The master's: takes what workers send, and knows which of them have sent their last message.

    ``take`` is called with each batch of requests; rows of workers go beside the ``table`` of the master's own, each
    file with `COLUMNS` as its first line; ``on_error`` is called when one cannot be written.
    """

    def __init__(
        self,
        runner: Any,
        take: Callable[[pa.RecordBatch], None],
        table: Path,
        on_error: Callable[[OSError], None],
    ) -> None:
        self._take, self._table, self._on_error = take, table, on_error
        self._tables: dict[str, FileIO] = {}
        self._latest: dict[str, dict[str, Any]] = {}  # the last message of each worker
        self._ended: set[str] = set()
        runner.register_message(MESSAGE, self.on_message)

    def on_message(self, msg: Any, **_: object) -> None:
        name = f"worker{msg.data['index'] + 1}"
        self._latest[name] = msg.data
        try:
            for packed in msg.data["batches"]:
                for batch in pa.ipc.open_stream(packed):
                    self._take(batch)
            if msg.data["row"]:
                if name not in self._tables:
                    self._tables[name] = FileIO(f"{self._table}.{name}", "w")
                    self._tables[name].write(_line(COLUMNS))
                self._tables[name].write(msg.data["row"])
        except OSError as error:
            self._on_error(error)
        if msg.data["is_last"]:
            self._ended.add(name)

    @property
    def pending_workers(self) -> tuple[str, ...]:
        """Workers that have sent something, and not yet their last message."""
        return tuple(sorted(self._latest.keys() - self._ended))

    @property
    def ended(self) -> int:
        return len(self._ended)

    def total(self, name: str) -> int:
        """The sum of a number that workers report, such as ``late`` or ``in_flight``."""
        return sum(message.get(name, 0) for message in self._latest.values())

    def script_errors(self) -> list[ScriptErrors]:
        """What went wrong so far in the load script, of each worker."""
        counts = (message["script"] for message in self._latest.values())
        return [decode(plain, ScriptErrors, "script errors of a worker") for plain in counts]

    def is_over(self, missing: int) -> bool:
        """Whether every worker that is still there has admitted its last arrival."""
        over = [message["is_over"] for message in self._latest.values() if "is_over" in message]
        return bool(over) and sum(over) >= len(over) - missing


def _line(cells: tuple[object, ...]) -> bytes:
    return (",".join(map(str, cells)) + "\n").encode()
