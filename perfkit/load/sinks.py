"""Where a process of Locust puts its requests: into files, or, of a worker, to its master, who puts them into files.

Workers send what they recorded once a second over Locust's own connection, so that they need no common disk, and a
worker that dies takes at most a second of requests with it.
"""

from __future__ import annotations

from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pyarrow as pa

from perfkit.load.script_counter import ScriptCounter
from perfkit.readers.recording import RECORDING_SCHEMA
from perfkit.script_errors import ScriptErrors, from_plain, to_plain

MESSAGE = "perfkit_requests"
LINGER_S = 10


class FileSink:
    """The recording of a run, and a table with one row per second about this process; ``OSError`` when it is full."""

    def __init__(self, recording: Path, table: Path | None) -> None:
        self._stream = pa.ipc.new_stream(pa.OSFile(str(recording), "wb"), RECORDING_SCHEMA)
        self._table = FileIO(str(table), "w") if table is not None else None

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Add requests."""
        self._stream.write_batch(batch)

    def write_row(self, cells: tuple[object, ...]) -> None:
        """Add one second."""
        if self._table is not None:
            self._table.write(_line(cells))

    def close(self) -> None:
        """Write the mark of the end, which no reader needs."""
        self._stream.close()


class ShippedSink:
    """A worker's: gathers until the second is over, then sends; `arrivals` of the open model are told too."""

    def __init__(self, runner: Any, arrivals: Any, script: ScriptCounter) -> None:
        self._runner, self._arrivals, self._script = runner, arrivals, script
        self._batches: list[bytes] = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Add requests to what is sent next."""
        target = pa.BufferOutputStream()
        with pa.ipc.new_stream(target, RECORDING_SCHEMA) as stream:
            stream.write_batch(batch)
        self._batches.append(target.getvalue().to_pybytes())

    def write_row(self, cells: tuple[object, ...]) -> None:
        """Send what there is, and this row."""
        self._send(_line(cells), is_last=False)

    def close(self) -> None:
        """Send the rest, and that it was the last."""
        self._send(b"", is_last=True)

    def flush(self) -> None:
        """Wait until the master's machine has what was sent; nothing can be sent afterwards."""
        socket = self._runner.client.socket
        context = socket.context
        socket.close(linger=1000 * LINGER_S)  # without it, what is still in memory goes with the process
        context.term()

    def _send(self, row: bytes, *, is_last: bool) -> None:
        batches, self._batches = self._batches, []
        message = {"index": self._runner.worker_index, "batches": batches, "row": row, "is_last": is_last}
        message["script"] = to_plain(self._script.snapshot())
        if (known := self._arrivals) is not None:
            message |= {"late": known.late, "in_flight": known.in_flight + known.waiting, "is_over": known.is_over}
        self._runner.send_message(MESSAGE, message)


class Gatherer:
    """The master's: takes what workers send, and knows which of them have told their end.

    Parameters
    ----------
    runner
        Locust's ``MasterRunner``.
    take
        Called with each batch of requests.
    table
        Where the master's own rows go; those of workers go beside it.
    on_error
        Called when a table cannot be written.
    """

    def __init__(
        self,
        runner: Any,
        take: Callable[[pa.RecordBatch], None],
        table: Path | None,
        on_error: Callable[[OSError], None],
    ) -> None:
        self._take, self._table, self._on_error = take, table, on_error
        self._tables: dict[str, FileIO] = {}
        self._ended: dict[str, bool] = {}
        self._told: dict[str, dict[str, Any]] = {}  # of the arrivals, per worker
        runner.register_message(MESSAGE, self.on_message)

    def on_message(self, msg: Any, **_: object) -> None:
        """Take one second of one worker."""
        name = f"worker{msg.data['index'] + 1}"
        self._ended.setdefault(name, False)
        try:
            for packed in msg.data["batches"]:
                for batch in pa.ipc.open_stream(packed):
                    self._take(batch)
            self._write_row(name, msg.data["row"])
        except OSError as error:
            self._on_error(error)
        self._ended[name] |= msg.data["is_last"]
        self._told[name] = msg.data

    @property
    def unheard(self) -> tuple[str, ...]:
        """Workers that were heard of and have not told their end."""
        return tuple(sorted(name for name, ended in self._ended.items() if not ended))

    @property
    def ended(self) -> int:
        """How many workers have told their end."""
        return sum(self._ended.values())

    def arrivals(self) -> tuple[int, int]:
        """Late ones so far, and tasks that are under way or wait for a user, over all workers."""
        told = self._told.values()
        return sum(one.get("late", 0) for one in told), sum(one.get("in_flight", 0) for one in told)

    def script_errors(self) -> list[ScriptErrors]:
        """What went wrong so far in the load script, of each worker."""
        return [from_plain(one["script"]) for one in self._told.values() if "script" in one]

    def skipped(self) -> int:
        """Requests without a usable response time so far, over all workers."""
        return sum(item.count for errors in self.script_errors() for item in errors.skipped)

    def is_over(self, missing: int) -> bool:
        """Whether every worker that is still there has admitted its last arrival."""
        over = [one["is_over"] for one in self._told.values() if "is_over" in one]
        return bool(over) and sum(over) >= len(over) - missing

    def _write_row(self, name: str, row: bytes) -> None:
        if self._table is None or not row:
            return
        if name not in self._tables:
            self._tables[name] = FileIO(f"{self._table}.{name}", "w")
            self._tables[name].write(self._header)
        self._tables[name].write(row)

    _header = b""

    def with_header(self, cells: tuple[object, ...]) -> Gatherer:
        """Set the first line of the workers' tables."""
        self._header = _line(cells)
        return self


def _line(cells: tuple[object, ...]) -> bytes:
    return (",".join(map(str, cells)) + "\n").encode()
