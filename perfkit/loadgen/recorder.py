"""Keep every request: a locustfile without users, run beside the real one with ``locust -f recorder.py,LOCUSTFILE``.

It comes first in the list, so that it also sees a request whose user's own listener ends the task.  Requests are
gathered in columns of plain numbers and written once a second, to files; a worker sends them to its master over
Locust's own connection, so that no common disk is needed and a worker that dies loses at most a second.  Nothing here
may import pandas, which would pause the load for a second.  Environment:

PERFKIT_RUN_FOLDER
    Gets the recording (`perfkit.runs.recording_stream`) and, in ``source``, a table with one row per second about the
    load generator (`perfkit.loadgen.recording.COLUMNS`) and what the load script gets wrong
    (`perfkit.model.script_errors`).
PERFKIT_PROGRESS_FD
    Number of an open pipe that gets one JSON object per second.  When nobody reads it any more, the run is stopped.
PERFKIT_LOCAL_WORKERS
    Number of workers that a master shall start beside itself.
PERFKIT_ARGUMENTS
    Further arguments of Locust, for these workers, as JSON.
PERFKIT_LOAD_PROFILE
    A `LoadProfile` as JSON, of stages of users or of arrivals; a shape in the locustfile has precedence.
"""

from __future__ import annotations

import atexit
import csv
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import gevent
import locust
import pyarrow as pa
from locust import TaskSet, User, events, stats
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerRunner

# Locust loads this file by its path; perfkit itself may be a checkout that is not installed.
if (_HOME := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.append(_HOME)
from perfkit.loadgen.locust_command import IGNORED, RECORDER, RECORDING_NAME, locust_argv, on_parser
from perfkit.loadgen.recording import FileSink, MasterSink, Meter, RequestBuffer, ResultCollector, usable_time
from perfkit.model.codec import decode, encode
from perfkit.model.files import atomic_path
from perfkit.model.records import LoadProfile
from perfkit.model.redaction import conceal_environment, redact
from perfkit.model.script_errors import ScriptErrors, SkippedRequests, TaskException, merged, short_text

EXIT_DISK = 74  # EX_IOERR of sysexits.h
EXIT_WORKERS = 75  # a worker ended before the load began
FINAL_FLUSH_S = 2.0  # what a process sent before it ended is read within this time
WORKERS_END_S = 10.0  # beyond the stop timeout, for the last requests of the workers to come in
LAG_EVERY_S = 0.05  # how often it is looked how late the event loop is
DRAIN_S = 10.0  # for tasks in flight when the last arrival has been admitted
STALL_S = 0.5  # an event loop so late did not run at all
IDLE_S = 5.0  # without one user, when all of them should run: they have stopped by themselves
ABANDONED_EXIT_S = 4.0  # a user's code can refuse to be stopped; nobody is left who would kill it
LIBRARIES = (str(Path(locust.__file__).parent) + os.sep, str(Path(__file__).resolve().parents[1]) + os.sep)
MOST_KINDS = 50  # of exceptions, and of services with skipped requests, that are counted apart
OTHERS = "(others)"
_UNCAUGHT = "Uncaught exception in "  # begins what Locust logs of a listener or an on_stop
_UNHANDLED = "Unhandled exception in greenlet"


class ScriptCounter:
    """Counts the tasks of this process from its start, and what the load script gets wrong in them.

    Locust raises an event for exceptions in tasks and in ``on_start``; those in listeners and in ``on_stop`` it only
    logs.
    """

    def __init__(self) -> None:
        self.tasks = self.users = 0
        self._exceptions: dict[tuple[str, str], TaskException] = {}
        self._skipped: Counter[tuple[str, str]] = Counter()

    def install(self) -> None:
        """Have Locust count from now on."""
        execute, start, hub = TaskSet.execute_next_task, User.start, gevent.get_hub()
        handle_error = hub.handle_error

        def execute_next_task(task_set: Any) -> None:
            queue = task_set._task_queue
            if not (queue and hasattr(queue[0], "tasks")):  # a nested TaskSet is no task, but its tasks are
                self.tasks += 1
                gevent.getcurrent().perfkit_request_failed = False
            execute(task_set)

        def start_user(user: Any, group: Any) -> Any:
            self.users += 1
            return start(user, group)

        def count_error(context: object, kind: Any, value: Any, tb: TracebackType | None) -> None:
            """Count what ends a user in its ``on_stop``, which nobody in Locust catches."""
            if isinstance(value, Exception) and any(code.co_name == "on_stop" for code in _codes(tb)):
                self.add("on_stop", value)
            handle_error(context, kind, value, tb)

        TaskSet.execute_next_task, User.start, hub.handle_error = execute_next_task, start_user, count_error
        events.user_error.add_listener(self.on_user_error)
        handler = logging.Handler(logging.ERROR)
        handler.emit = self.on_log  # type: ignore[method-assign]
        for logger in (logging.getLogger(), logging.getLogger("locust")):  # the second does not propagate to the first
            logger.addHandler(handler)

    def skip(self, service: object, fault: str) -> None:
        key = (redact(str(service)), fault)
        self._skipped[key if key in self._skipped or len(self._skipped) < MOST_KINDS else (OTHERS, fault)] += 1

    def add(self, raised_in: str, exception: BaseException, *, after_failure: bool = False) -> None:
        key = (raised_in, type(exception).__name__)
        if key not in self._exceptions and len(self._exceptions) >= MOST_KINDS:
            key = (raised_in, OTHERS)
        text = "".join(traceback.format_exception_only(exception))  # str() of the user's own class may fail
        message = short_text(redact(text.partition(": ")[2][:1000]))
        before = self._exceptions.get(key) or TaskException(*key, message, 0)
        after = before.after_failure + after_failure
        self._exceptions[key] = replace(before, count=before.count + 1, after_failure=after)

    def on_user_error(
        self, user_instance: object, exception: BaseException, tb: TracebackType | None, **_: object
    ) -> None:
        """Count what ended a task or an ``on_start``; a listener of Locust's ``events.user_error``."""
        names = {code.co_name for code in _codes(tb)}
        is_start = not isinstance(user_instance, TaskSet) or "on_start" in names
        failed = getattr(gevent.getcurrent(), "perfkit_request_failed", False)
        self.add("on_start" if is_start else "task", exception, after_failure=failed)

    def on_log(self, record: logging.LogRecord) -> None:
        """Count what Locust catches and logs, while it is being handled."""
        text = str(record.msg)
        _, exception, tb = record.exc_info or sys.exc_info()
        if not isinstance(exception, Exception) or not text.startswith((_UNCAUGHT, _UNHANDLED)):
            return
        codes = list(_codes(tb))
        if all(code.co_filename.startswith(LIBRARIES) for code in codes):
            return  # not of the user's code
        is_shape = any(code.co_name == "tick" for code in codes)
        event = "load shape" if is_shape else "listener" if text.startswith(_UNCAUGHT) else "greenlet"
        self.add("on_stop" if text.startswith(f"{_UNCAUGHT}on_stop") else event, exception)

    def snapshot(self) -> ScriptErrors:
        exceptions = sorted(self._exceptions.values(), key=lambda exception: -exception.count)
        skipped = (SkippedRequests(*key, count) for key, count in self._skipped.most_common())
        return ScriptErrors(self.tasks, self.users, tuple(exceptions), tuple(skipped))


def note_failure() -> None:
    """Remember, of the task that is running, that a request of it has failed."""
    gevent.getcurrent().perfkit_request_failed = True


def _codes(tb: TracebackType | None) -> Iterable[Any]:
    return (frame.f_code for frame, _ in traceback.walk_tb(tb))


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
        self.local_workers: list[subprocess.Popen[bytes]] = []
        self.sink: FileSink | MasterSink
        if self.is_worker:
            self.sink = MasterSink(environment.runner, self.worker_state)
        else:
            folder = Path(os.environ["PERFKIT_RUN_FOLDER"])
            self.script_errors, table = folder / "source" / "script_errors.json", folder / "source" / "generator.csv"
            try:
                self.sink = FileSink(folder / RECORDING_NAME, table)
            except OSError as error:
                self.report(problem=str(error))
                sys.exit(EXIT_DISK)
            if self.is_master:
                self._lead(table)
        BUFFER.on_full = self.flush
        atexit.register(self.on_exit)
        log_request = environment.stats.log_request  # Locust's own, which response times of no use would break

        def log_usable(method: Any, name: Any, response_time: Any, size: Any) -> None:
            log_request(method, name, usable_time(response_time), size)

        environment.stats.log_request = log_usable

    def _lead(self, table: Path) -> None:
        """As a master: collect what workers send, start those of this machine, and go after their last message."""
        runner, options = self.environment.runner, self.environment.parsed_options
        self.collector = ResultCollector(runner, self.take, table, self.fail)
        runner.master_bind_port = runner.server.port  # it was bound to a free one, and may be bound anew
        host = options.master_bind_host if options.master_bind_host != "*" else "127.0.0.1"
        address = ("--worker", "--master-host", host, "--master-port", str(runner.server.port))
        arguments = json.loads(os.environ.get("PERFKIT_ARGUMENTS", "[]"))
        argv = locust_argv(options.locustfile.removeprefix(f"{RECORDER},"), *address, *arguments)
        for _ in range(int(os.environ.pop("PERFKIT_LOCAL_WORKERS", "0"))):
            self.local_workers.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))  # they write to this log
        quit_runner = runner.quit

        def quit_after_final_flush() -> None:
            self.note_end()
            if self.has_begun and not self.problem:
                for client in runner.clients.all:
                    runner.server.send_to_client(Message("quit", None, client.id))
                last_change = time.monotonic()
                give_up = last_change + runner.environment.stop_timeout + WORKERS_END_S
                # workers that are gone may still have something on its way
                while (pending := len(collector.pending_workers)) and (now := time.monotonic()) < give_up:
                    if pending > self._missing_workers():
                        last_change = now
                    elif now - last_change > FINAL_FLUSH_S:
                        break
                    gevent.sleep(LAG_EVERY_S)
            quit_runner()

        collector, runner.quit = self.collector, quit_after_final_flush

    def _missing_workers(self) -> int:
        """How many workers are gone without a last message, as far as is known yet."""
        dead = sum(process.poll() is not None for process in self.local_workers)
        gone = max(len(self.environment.runner.clients.missing), dead)
        return max(gone - (self.collector.ended if self.collector is not None else 0), 0)

    def worker_state(self) -> dict[str, object]:
        """What a worker tells its master beside its requests."""
        state = {"script": encode(SCRIPT.snapshot()), "skipped": BUFFER.skipped}
        if (arrivals := self.arrivals) is not None:
            state |= {"late": arrivals.late, "in_flight": arrivals.pending, "is_over": arrivals.is_over}
        return state

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
            now, lag = time.time(), self.lag
            worst_ms, lag.worst_ms = lag.worst_ms, 0.0
            names = ("scheduled", "started", "late", "waiting", "in_flight")
            row = (
                f"{now:.3f}",
                self.users,
                f"{self.meter.cpu_pct:.1f}",
                self.meter.requests,
                self.meter.failures,
                f"{worst_ms:.1f}",
                f"{time.time() - time.monotonic() - self.clock_offset_s:.3f}",
                *(getattr(self.arrivals, name) if self.arrivals else "" for name in names),
                f"{lag.stalled_s:.3f}",
                f"{lag.stalled_cpu_s:.3f}",
            )
            try:
                self.sink.write_row(row)
                self._write_script_errors()
            except OSError as error:
                self.fail(error)
        self._watch_users()
        self.report()
        if self.collector is not None and self.collector.is_over(self._missing_workers()) and not self.is_quitting:
            gevent.spawn(self.end_of_arrivals)
        if not self.has_begun and any(process.poll() is not None for process in self.local_workers):
            self._end_local_workers()
            os._exit(EXIT_WORKERS)  # Locust would wait for it

    def _write_script_errors(self) -> None:
        """Write them when there is something new; the number of tasks is brought up to date at the end."""
        if self.is_worker:
            return
        workers = self.collector.script_errors() if self.collector is not None else []
        now, before = merged([SCRIPT.snapshot(), *workers]), self.script_counts
        if before is None or (now.exceptions, now.skipped) != (before.exceptions, before.skipped) or self.has_ended:
            with atomic_path(self.script_errors) as partial:  # a process may be killed at any time
                partial.write_text(json.dumps(encode(now)), encoding="utf-8")
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
        elif self.users or runner.state != "running":
            self.last_load = now
        elif self.last_load is not None and now - self.last_load > (2 * IDLE_S if self.is_master else IDLE_S):
            self.load_end, self.users_at_end = self.last_load, 0
            self.quit()

    def _is_level(self) -> bool:
        """Whether all users that were started should be there until the end."""
        return self.arrivals is None and self.environment.shape_class is None

    def note_end(self, **_: object) -> None:
        """Users are about to be stopped: when that is, how many there are, and whether the user's shape wants it."""
        if self.load_end is not None or not self.has_begun:
            return
        runner = self.environment.runner
        self.load_end, self.users_at_end = time.monotonic(), self.users
        if not self.users_at_end and self.last_load is not None and self._is_level():
            self.load_end = self.last_load
        self.has_shape_ended = self.has_own_shape and gevent.getcurrent() is runner.shape_greenlet

    def flush(self) -> None:
        if not self.problem and BUFFER.times:
            self.take(BUFFER.take())

    def take(self, batch: pa.RecordBatch) -> None:
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
        """Return one line of progress; a master's figures are those of its workers."""
        late, in_flight = (
            (self.collector.total("late"), self.collector.total("in_flight")) if self.collector else (0, 0)
        )
        if self.arrivals is not None:
            late, in_flight = self.arrivals.late, self.arrivals.pending
        return {
            "time": time.time(),
            "elapsed_s": time.monotonic() - self.started,
            "users": self.users,
            "requests": self.meter.requests,
            "failures": self.meter.failures,
            "skipped": BUFFER.skipped + (self.collector.total("skipped") if self.collector else 0),
            "rps": self.meter.rps(),
            "p95_latency_ms": self.meter.p95_latency_ms(),
            "cpu_pct": self.meter.cpu_pct,
            "state": self.environment.runner.state,
            "late": late,
            "in_flight": in_flight,
            "own_shape": self.has_own_shape,
        }

    @property
    def users(self) -> int:
        return int(self.environment.runner.user_count)

    def on_test_start(self, **_: object) -> None:
        if not self.has_begun:
            self.started, self.has_begun = time.monotonic(), True
        self.load_end, self.last_load = None, time.monotonic()
        if self.arrivals is not None:
            gevent.spawn(self.arrivals.run, self.end_of_arrivals)

    def on_test_stop(self, **_: object) -> None:
        """Of a worker: Locust's message that it has stopped follows, and the master may go."""
        if self.is_worker:
            self.tick()
            self.sink.close()

    def end_of_arrivals(self) -> None:
        """Give tasks in flight their time, then end the run; a worker is ended by its master."""
        give_up = time.monotonic() + DRAIN_S
        while not self.is_worker and self.figures()["in_flight"] and time.monotonic() < give_up:
            gevent.sleep(LAG_EVERY_S)
        if not self.is_worker:
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
        if isinstance(self.sink, MasterSink):
            self.sink.flush()
            return
        self.has_ended = True
        self.tick()
        if not self.problem:
            with suppress(OSError):
                self.sink.close()
        self._end_local_workers()
        self.report(
            exit_code=exit_code,
            interrupted=self.is_interrupted,
            lost_workers=self.collector.pending_workers if self.collector is not None else (),
            ran_s=self.load_end - self.started if self.load_end is not None else None,
            users_at_end=self.users_at_end,
            shape_ended=self.has_shape_ended,
        )
        if self.problem:
            sys.exit(EXIT_DISK)

    def _end_local_workers(self) -> None:
        """Those that did not end with their master."""
        for process in self.local_workers:
            process.terminate()


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


def redacting_writer(file: Any) -> Any:
    """A writer of the module `csv` that redacts every text, so that no file of Locust holds a secret at any time."""
    writer, plain = csv.writer(file), (int, float, type(None))

    def writerow(row: Iterable[object]) -> None:
        writer.writerow([cell if isinstance(cell, plain) else redact(str(cell)) for cell in row])

    return SimpleNamespace(writerow=writerow)


def end_with_parent() -> None:
    """Have the kernel send SIGINT when the parent dies, where it can (Linux); elsewhere the broken pipe ends it.

    SIGINT and not SIGTERM, because Locust does not listen to SIGTERM while a load shape runs.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so starts a shell its background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT, 0, 0, 0)  # 1 is PR_SET_PDEATHSIG of linux/prctl.h


def on_init(environment: Any, **_: object) -> None:
    if "PERFKIT_RUN_FOLDER" not in os.environ and not isinstance(environment.runner, WorkerRunner):
        sys.exit("recorder.py: PERFKIT_RUN_FOLDER is not set. Name the folder that shall hold the requests.")
    # Timers start from the loop's last look at the clock, from before the imports: a run would end that much early
    gevent.get_hub().loop.update_now()
    SCRIPT.install()
    recorder = Recorder(environment)
    events.test_start.add_listener(recorder.on_test_start)
    events.test_stopping.add_listener(recorder.note_end)
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
    stats.csv = SimpleNamespace(writer=redacting_writer)  # all that Locust's writer of statistics takes from the module
    BUFFER = events.perfkit_buffer = RequestBuffer()
    SCRIPT = ScriptCounter()
    BUFFER.on_skipped, BUFFER.on_failure = SCRIPT.skip, note_failure
    events.request.add_listener(BUFFER.on_request)
    events.init.add_listener(on_init)
    events.init_command_line_parser.add_listener(on_parser)
    end_with_parent()
if __name__ == "recorder":  # the name under which Locust loads it, and which a user's own module may need
    del sys.modules[__name__]
