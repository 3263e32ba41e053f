"""Keep every request: a locustfile without users, run beside the real one with ``locust -f recorder.py,LOCUSTFILE``.

It comes first in the list, so that it also sees a request whose user's own listener ends the task.  Requests are
gathered in columns of plain numbers and written once a second, to files; a worker sends them to its master over
Locust's own connection, so that no common disk is needed and a worker that dies loses at most a second.  Nothing here
may import pandas, which would pause the load for a second.  Environment:

PERFKIT_RECORDING
    Path of the recording, see `perfkit.loadgen.recording`.
PERFKIT_PROGRESS_FD
    Number of an open pipe that gets one JSON object per second.  When nobody reads it any more, the run is stopped.
PERFKIT_GENERATOR_CSV
    Path of a table with one row per second about the load generator itself, see `COLUMNS`.
PERFKIT_SCRIPT_ERRORS
    Path of a file about what the load script gets wrong, see `perfkit.model.script_errors`.
PERFKIT_LOCAL_WORKERS
    Number of workers that a master shall start beside itself.
PERFKIT_ARGUMENTS
    Further arguments of Locust, for these workers, as JSON.
PERFKIT_LOAD_PROFILE
    A `LoadProfile` as JSON, of stages of users or of arrivals; a shape in the locustfile has precedence.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import gevent
import pyarrow as pa
from locust import events, stats
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerRunner

# Locust loads this file by its path; perfkit itself may be a checkout that is not installed.
if (_HOME := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.append(_HOME)
from perfkit.loadgen.locust_command import IGNORED, on_parser
from perfkit.loadgen.meter import Meter
from perfkit.loadgen.recording import RequestBuffer, usable_time
from perfkit.loadgen.script_counter import ScriptCounter, note_failure, write
from perfkit.model.codec import decode, encode
from perfkit.model.records import LoadProfile
from perfkit.model.redaction import conceal_environment, redact
from perfkit.model.script_errors import ScriptErrors, merged
from perfkit.runs.recording_stream import RECORDING_SCHEMA


class LocalWorkers:
    """Processes of Locust that connect to the master in this process; they write to its log."""

    def __init__(self, count: int, locustfiles: str, host: str, port: int, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-P", "-m", "locust", "-f", locustfiles, "--worker"]
        address = ["--master-host", host, "--master-port", str(port), *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "PERFKIT_LOCAL_WORKERS"}
        self._processes: Sequence[subprocess.Popen[bytes]] = [
            subprocess.Popen([*command, *address], stdin=subprocess.DEVNULL, env=environment) for _ in range(count)
        ]

    @property
    def dead(self) -> int:
        """How many have ended."""
        return sum(process.poll() is not None for process in self._processes)

    def end(self) -> None:
        """End those that did not end with their master."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()


class _RedactedRows:
    """A writer of the module `csv` that redacts every text."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def writerow(self, row: Iterable[object]) -> None:
        plain = (int, float, type(None))
        self._writer.writerow([cell if isinstance(cell, plain) else redact(str(cell)) for cell in row])


class RedactedStatistics(stats.StatsCSVFileWriter):  # type: ignore[misc]
    """Locust's writer of statistics, whose files hold no secrets at any time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, value in list(vars(self).items()):
            if hasattr(value, "writerow"):
                setattr(self, name, _RedactedRows(value))


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


class MasterSink:
    """A worker's: gathers until the second is over, then sends it to the master, with the state of the open model."""

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
        message["script"] = encode(self._script.snapshot())
        if (arrivals := self._arrivals) is not None:
            in_flight = arrivals.in_flight + arrivals.waiting
            message |= {"late": arrivals.late, "in_flight": in_flight, "is_over": arrivals.is_over}
        self._runner.send_message(MESSAGE, message)


class ResultCollector:
    """The master's: takes what workers send, and knows which of them have sent their last message.

    Parameters
    ----------
    runner
        Locust's ``MasterRunner``.
    take
        Called with each batch of requests.
    table
        Where the master's own rows go; those of workers go beside it, each with `COLUMNS` as its first line.
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
        self._latest: dict[str, dict[str, Any]] = {}  # the last message of each worker
        runner.register_message(MESSAGE, self.on_message)

    def on_message(self, msg: Any, **_: object) -> None:
        """Take one second of one worker."""
        name = f"worker{msg.data['index'] + 1}"
        self._ended.setdefault(name, False)
        try:
            for packed in msg.data["batches"]:
                for batch in pa.ipc.open_stream(packed):
                    self._take(batch)
            if self._table is not None and msg.data["row"]:
                if name not in self._tables:
                    self._tables[name] = FileIO(f"{self._table}.{name}", "w")
                    self._tables[name].write(_line(COLUMNS))
                self._tables[name].write(msg.data["row"])
        except OSError as error:
            self._on_error(error)
        self._ended[name] |= msg.data["is_last"]
        self._latest[name] = msg.data

    @property
    def pending_workers(self) -> tuple[str, ...]:
        """Workers that have sent something, and not yet their last message."""
        return tuple(sorted(name for name, ended in self._ended.items() if not ended))

    @property
    def ended(self) -> int:
        """How many workers have sent their last message."""
        return sum(self._ended.values())

    def arrivals(self) -> tuple[int, int]:
        """Late ones so far, and tasks that are under way or wait for a user, over all workers."""
        messages = self._latest.values()
        return sum(message.get("late", 0) for message in messages), sum(
            message.get("in_flight", 0) for message in messages
        )

    def script_errors(self) -> list[ScriptErrors]:
        """What went wrong so far in the load script, of each worker."""
        counted = [message["script"] for message in self._latest.values() if "script" in message]
        return [decode(plain, ScriptErrors, "script errors of a worker") for plain in counted]

    def skipped(self) -> int:
        """Requests without a usable response time so far, over all workers."""
        return sum(skip.count for errors in self.script_errors() for skip in errors.skipped)

    def is_over(self, missing: int) -> bool:
        """Whether every worker that is still there has admitted its last arrival."""
        over = [message["is_over"] for message in self._latest.values() if "is_over" in message]
        return bool(over) and sum(over) >= len(over) - missing


def _line(cells: tuple[object, ...]) -> bytes:
    return (",".join(map(str, cells)) + "\n").encode()


EXIT_DISK = 74  # EX_IOERR of sysexits.h
EXIT_WORKERS = 75  # a worker ended before the load began
FINAL_FLUSH_S = 2.0  # what a process sent before it ended is read within this time
WORKERS_END_S = 10.0  # beyond the stop timeout, for the last requests of the workers to come in
LAG_EVERY_S = 0.05  # how often it is looked how late the event loop is
DRAIN_S = 10.0  # for tasks in flight when the last arrival has been admitted
STALL_S = 0.5  # an event loop so late did not run at all
IDLE_S = 5.0  # without one user, when all of them should run: they have stopped by themselves
COLUMNS = (
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
ABANDONED_EXIT_S = 4.0  # a user's code can refuse to be stopped; nobody is left who would kill it


class EventLoopLag:
    """How late the event loop is: users that wait for an answer learn of it that much later."""

    def __init__(self) -> None:
        self.worst_ms = self.stalled_s = self.stalled_cpu_s = 0.0

    def run(self) -> None:
        """Look at it, as long as Locust lives."""
        while True:
            due, used = time.monotonic() + LAG_EVERY_S, time.process_time()
            gevent.sleep(LAG_EVERY_S)
            late_s = time.monotonic() - due
            self.worst_ms = max(self.worst_ms, 1000 * late_s)
            if late_s > STALL_S:
                self.stalled_s += late_s
                self.stalled_cpu_s += time.process_time() - used

    def take(self) -> float:
        """Return the worst since the last call, in ms."""
        worst, self.worst_ms = self.worst_ms, 0.0
        return worst


class Recorder:
    """Writes what is buffered once a second, reports progress, and stops the run when either is no longer possible."""

    def __init__(self, environment: Any) -> None:
        self.environment, self.meter, self.lag, self.problem = environment, Meter(), EventLoopLag(), ""
        self.is_quitting = self.is_interrupted = self.has_begun = self.has_ended = False
        self.has_own_shape = environment.shape_class is not None
        self.has_shape_ended = False  # the user's own, by itself
        self.load_end: float | None = None  # when users were stopped, or the last of them stopped by itself
        self.users_at_end: int | None = None
        self.last_load: float | None = None  # when users were last there
        self.script_counts: ScriptErrors | None = None  # as last written
        self.arrivals = _follow_profile(environment)
        self.clock_offset_s = time.time() - time.monotonic()
        self.is_master = isinstance(environment.runner, MasterRunner)
        self.is_worker = isinstance(environment.runner, WorkerRunner)
        self.progress_fd: int | None = None  # the parent's pipe, which is neither inherited further nor waited for
        if not self.is_worker and (number := os.environ.get("PERFKIT_PROGRESS_FD")):
            self.progress_fd = int(number)
            os.set_inheritable(self.progress_fd, False)
            os.set_blocking(self.progress_fd, False)
        self.started = time.monotonic()
        self.collector: ResultCollector | None = None
        self.workers: LocalWorkers | None = None
        try:
            shipped = MasterSink(environment.runner, self.arrivals, SCRIPT) if self.is_worker else None
            self.shipped, self.sink = shipped, shipped or self._open_files()
        except OSError as error:
            self.report(problem=str(error))
            sys.exit(EXIT_DISK)
        BUFFER.on_full = self.flush
        atexit.register(self.on_exit)
        log_request = environment.stats.log_request  # Locust's own, which response times of no use would break

        def log_usable(method: Any, name: Any, response_time: Any, size: Any) -> None:
            log_request(method, name, usable_time(response_time), size)

        environment.stats.log_request = log_usable

    def _open_files(self) -> FileSink:
        table = Path(os.environ["PERFKIT_GENERATOR_CSV"]) if os.environ.get("PERFKIT_GENERATOR_CSV") else None
        sink = FileSink(Path(os.environ["PERFKIT_RECORDING"]), table)
        sink.write_row(COLUMNS)
        if self.is_master:
            runner, options = self.environment.runner, self.environment.parsed_options
            self.collector = ResultCollector(runner, self.take, table, self.fail)
            runner.quit = self._quit_of_a_master(runner.quit)
            runner.master_bind_port = runner.server.port  # it was bound to a free one, and may be bound anew
            if count := int(os.environ.get("PERFKIT_LOCAL_WORKERS", "0")):
                host = options.master_bind_host if options.master_bind_host != "*" else "127.0.0.1"
                arguments = json.loads(os.environ.get("PERFKIT_ARGUMENTS", "[]"))
                self.workers = LocalWorkers(count, options.locustfile, host, runner.server.port, arguments)
        return sink

    def _quit_of_a_master(self, original: Any) -> Any:
        """Locust's own has its workers quit and goes; this one waits for their last requests."""

        def quit_after_final_flush() -> None:
            runner = self.environment.runner
            self.note_end()
            if self.has_begun and not self.problem:
                for client in runner.clients.all:
                    runner.server.send_to_client(Message("quit", None, client.id))
                self._await_final_flush(time.monotonic() + runner.environment.stop_timeout + WORKERS_END_S)
            original()

        return quit_after_final_flush

    def _await_final_flush(self, give_up: float) -> None:
        """Until every worker has sent its last message; those that are gone may still have something on its way."""
        last_change = time.monotonic()
        while self.collector is not None and self.collector.pending_workers and (now := time.monotonic()) < give_up:
            if len(self.collector.pending_workers) > self._missing():
                last_change = now
            elif now - last_change > FINAL_FLUSH_S:
                return
            gevent.sleep(LAG_EVERY_S)

    def _missing(self) -> int:
        """How many workers are gone without a last message, as far as is known yet."""
        gone = max(len(self.environment.runner.clients.missing), self.workers.dead if self.workers else 0)
        return max(gone - (self.collector.ended if self.collector is not None else 0), 0)

    def run(self) -> None:
        """Tick once a second, as long as Locust lives."""
        due = time.monotonic()
        while True:
            due = max(due + 1.0, time.monotonic())
            gevent.sleep(due - time.monotonic())
            self.tick()

    def tick(self) -> None:
        """Write what is buffered, one row about the generator and one line of progress."""
        self.flush()
        self.meter.measure_cpu()
        if not self.problem:
            try:
                self.sink.write_row(self._row())
                self._write_script_errors()
            except OSError as error:
                self.fail(error)
        self._watch_users()
        self.report()
        if self.collector is not None and self.collector.is_over(self._missing()) and not self.is_quitting:
            gevent.spawn(self._end_of_arrivals)
        if self.workers is not None and not self.has_begun and self.workers.dead:
            self.workers.end()
            os._exit(EXIT_WORKERS)  # Locust would wait for it

    def script_errors(self) -> ScriptErrors:
        """Of this process, and of its workers."""
        return merged([SCRIPT.snapshot(), *(self.collector.script_errors() if self.collector is not None else ())])

    def _write_script_errors(self) -> None:
        """Write them when there is something new; the number of tasks is brought up to date at the end."""
        if self.is_worker or not (path := os.environ.get("PERFKIT_SCRIPT_ERRORS")):
            return
        now, before = self.script_errors(), self.script_counts
        if before is None or (now.exceptions, now.skipped) != (before.exceptions, before.skipped) or self.has_ended:
            write(now, Path(path))
            self.script_counts = now

    def _watch_users(self) -> None:
        """End a run that nobody loads any more: all users have stopped by themselves, or the locustfile stopped them.

        A user that calls ``runner.quit()`` may be stopped by it in the middle of it; Locust would then stay for ever.
        """
        if self.is_worker or self.is_quitting:
            return
        now, runner = time.monotonic(), self.environment.runner
        if self.load_end is not None:
            grace = IDLE_S
            if runner.state != "stopped":
                grace += self.environment.stop_timeout + (WORKERS_END_S if self.is_master else 0.0)
            if now - self.load_end > grace:
                self.quit()
        elif not self._is_level():
            return
        elif self.users() or runner.state != "running":
            self.last_load = now
        elif self.last_load is not None and now - self.last_load > (2 * IDLE_S if self.is_master else IDLE_S):
            self.load_end, self.users_at_end = self.last_load, 0
            self.quit()

    def _is_level(self) -> bool:
        """Whether all users that were started should be there until the end."""
        return self.arrivals is None and self.environment.shape_class is None

    def note_end(self) -> None:
        """Users are about to be stopped: when that is, how many there are, and whether the user's shape wants it."""
        if self.load_end is not None or not self.has_begun:
            return
        runner = self.environment.runner
        self.load_end, self.users_at_end = time.monotonic(), self.users()
        if not self.users_at_end and self.last_load is not None and self._is_level():
            self.load_end = self.last_load
        self.has_shape_ended = self.has_own_shape and gevent.getcurrent() is runner.shape_greenlet

    def _row(self) -> tuple[object, ...]:
        """What `COLUMNS` names."""
        now, clock_s = time.time(), time.time() - time.monotonic() - self.clock_offset_s
        names = ("scheduled", "started", "late", "waiting", "in_flight")
        schedule = tuple(getattr(self.arrivals, name) if self.arrivals else "" for name in names)
        cpu, lag = f"{self.meter.cpu_pct:.1f}", f"{self.lag.take():.1f}"
        stalled = (f"{self.lag.stalled_s:.3f}", f"{self.lag.stalled_cpu_s:.3f}")
        return (f"{now:.3f}", self.users(), cpu, *self.totals(), lag, f"{clock_s:.3f}", *schedule, *stalled)

    def flush(self) -> None:
        """Write what is buffered as one batch."""
        if not self.problem and BUFFER.times:
            self.take(BUFFER.take())

    def take(self, batch: pa.RecordBatch) -> None:
        """Keep requests."""
        self.meter.add(batch)
        if self.problem:
            return
        try:
            self.sink.write_batch(batch)
        except OSError as error:
            self.fail(error)

    def fail(self, error: OSError) -> None:
        """Stop a run whose requests can no longer be kept."""
        if not self.problem:
            self.problem = str(error)
            events.request.remove_listener(BUFFER.on_request)
            self.report(problem=self.problem)
            self.quit()

    def stop(self) -> None:
        """End the run in order: what SIGINT means here."""
        self.is_interrupted = True
        self.report()  # finds out whether the parent is still there
        self.quit()

    def quit(self) -> None:
        """Have Locust stop its users and end; the caller may be one of them, so it does not wait."""
        if not self.is_quitting:
            self.is_quitting = True
            gevent.spawn(self.environment.runner.quit)

    def report(self, **more: object) -> None:
        """Write one line of progress; on a broken pipe nobody waits for this run any more, and it is stopped."""
        if self.progress_fd is None:
            return
        line = json.dumps(self.figures() | more) + "\n"
        try:
            os.write(self.progress_fd, line.encode())
        except BlockingIOError:
            pass  # the parent does not read at the moment; the load must not wait for it
        except BrokenPipeError:
            self.progress_fd = None
            self.environment.stop_timeout = 0
            self.quit()
            gevent.spawn_later(ABANDONED_EXIT_S, os._exit, 1)

    def figures(self) -> dict[str, object]:
        """Return one line of progress."""
        requests, failures = self.totals()
        late, in_flight = self.collector.arrivals() if self.collector else (0, 0)
        if self.arrivals is not None:
            late, in_flight = self.arrivals.late, self.arrivals.in_flight + self.arrivals.waiting
        return {
            "time": time.time(),
            "elapsed_s": time.monotonic() - self.started,
            "users": self.users(),
            "requests": requests,
            "failures": failures,
            "skipped": BUFFER.skipped + (self.collector.skipped() if self.collector is not None else 0),
            "rps": self.meter.rps(),
            "p95_latency_ms": self.meter.p95_latency_ms(),
            "cpu_pct": self.meter.cpu_pct,
            "state": self.environment.runner.state,
            "late": late,
            "in_flight": in_flight,
            "own_shape": self.has_own_shape,
        }

    def users(self) -> int:
        return int(self.environment.runner.user_count)

    def totals(self) -> tuple[int, int]:
        """Return requests and failures so far; a master's are those of its workers."""
        return self.meter.requests, self.meter.failures

    def on_test_start(self, **_: object) -> None:
        if not self.has_begun:
            self.started, self.has_begun = time.monotonic(), True
        self.load_end, self.last_load = None, time.monotonic()
        if self.arrivals is not None:
            self.arrivals.divide(self.environment)
            gevent.spawn(self.arrivals.run, self.on_last_arrival)

    def on_test_stop(self, **_: object) -> None:
        """Of a worker: Locust's message that it has stopped follows, and the master may go."""
        if self.is_worker:
            self.tick()
            self.sink.close()

    def on_test_stopping(self, **_: object) -> None:
        self.note_end()

    def on_last_arrival(self) -> None:
        """Give tasks in flight their time, then end the run; a worker is ended by its master."""
        if not self.is_worker:
            self._end_of_arrivals()

    def _end_of_arrivals(self) -> None:
        give_up = time.monotonic() + DRAIN_S
        while self.figures()["in_flight"] and time.monotonic() < give_up:
            gevent.sleep(LAG_EVERY_S)
        self.quit()

    def on_quitting(self, **_: object) -> None:
        """Write what there is; on SIGTERM requests still come in afterwards."""
        self.flush()
        self.is_interrupted |= not self.is_master and self.environment.runner.state != "stopped"
        if self.problem:  # here, because a user's own listener may have set another code
            self.environment.process_exit_code = EXIT_DISK

    def on_exit(self) -> None:
        """Write the rest when Locust did not come to its end: ``sys.exit`` in a task raises no event."""
        if not self.has_ended and not self.is_worker:
            self.has_ended = True
            self.tick()

    def on_quit(self, exit_code: int = 0, **_: object) -> None:
        """Write the rest: after this event Locust only exits."""
        if self.shipped is not None:
            self.shipped.flush()
            return
        self.has_ended = True
        self.tick()
        if not self.problem:
            with suppress(OSError):
                self.sink.close()
        if self.workers is not None:
            self.workers.end()
        lost = self.collector.pending_workers if self.collector is not None else ()
        self.report(
            exit_code=exit_code,
            interrupted=self.is_interrupted,
            lost_workers=lost,
            ran_s=self.load_end - self.started if self.load_end is not None else None,
            users_at_end=self.users_at_end,
            shape_ended=self.has_shape_ended,
        )
        if self.problem:
            sys.exit(EXIT_DISK)


def _follow_profile(environment: Any) -> Any:
    """Have Locust follow the profile, if there is one and no shape of the user; returns the arrivals of an open one."""
    if environment.shape_class is not None or not (text := os.environ.get("PERFKIT_LOAD_PROFILE")):
        return None
    profile = decode(json.loads(text), LoadProfile, "load profile")
    if not profile.is_open:
        from perfkit.loadgen.open_model import ProfileShape

        environment.shape_class = ProfileShape(profile)
        environment.shape_class.runner = environment.runner
        return None
    from perfkit.loadgen.open_model import Arrivals, current_arrival, gate_tasks

    if isinstance(environment.runner, MasterRunner):  # it has no users
        return None
    arrivals = Arrivals(profile, environment)
    gate_tasks(arrivals)
    BUFFER.arrival_of = current_arrival
    return arrivals


def end_with_parent() -> None:
    """Have the kernel send SIGINT when the parent dies, where it can (Linux); elsewhere the broken pipe ends it.

    SIGINT and not SIGTERM, because Locust does not listen to SIGTERM while a load shape runs.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so starts a shell its background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT, 0, 0, 0)  # 1 is PR_SET_PDEATHSIG of linux/prctl.h


def on_init(environment: Any, **_: object) -> None:
    """Open the recording; Locust's ``events.init``."""
    if "PERFKIT_RECORDING" not in os.environ and not isinstance(environment.runner, WorkerRunner):
        sys.exit("recorder.py: PERFKIT_RECORDING is not set. Name the file that shall hold the requests.")
    # Timers start from the loop's last look at the clock, from before the imports: a run would end that much early
    gevent.get_hub().loop.update_now()
    SCRIPT.install()
    recorder = Recorder(environment)
    events.test_start.add_listener(recorder.on_test_start)
    events.test_stopping.add_listener(recorder.on_test_stopping)
    events.test_stop.add_listener(recorder.on_test_stop)
    events.quitting.add_listener(recorder.on_quitting)
    events.quit.add_listener(recorder.on_quit)
    if getattr(environment.parsed_options, "headless", False) and not isinstance(environment.runner, WorkerRunner):
        # Python would raise KeyboardInterrupt wherever it happens to be, also between two columns of one request
        gevent.signal_handler(signal.SIGINT, recorder.stop)
    recorder.report(ignored_settings=list(IGNORED))
    gevent.spawn(recorder.run)
    gevent.spawn(recorder.lag.run)


if not hasattr(events, "perfkit_buffer"):  # Locust loads it again when it looks for pytest functions
    conceal_environment()  # the host, and what the scenario sets: none of it belongs into the name of a service
    stats.StatsCSVFileWriter = RedactedStatistics  # Locust looks for its writer when it begins
    BUFFER = events.perfkit_buffer = RequestBuffer()
    SCRIPT = ScriptCounter()
    BUFFER.on_skipped, BUFFER.on_failure = SCRIPT.skip, note_failure
    events.request.add_listener(BUFFER.on_request)
    events.init.add_listener(on_init)
    events.init_command_line_parser.add_listener(on_parser)
    end_with_parent()
if __name__ == "recorder":  # the name under which Locust loads it, and which a user's own module may need
    del sys.modules[__name__]
