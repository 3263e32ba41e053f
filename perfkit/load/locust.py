"""One run of Locust, as a process of its own, with the recorder beside the user's locustfile.

Locust runs in its own session: Ctrl-C reaches only this process, which then ends Locust in order.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from perfkit.errors import LoadError, PerfkitError, SettingsError
from perfkit.load.container import Container, explain, remove_container, start_contained
from perfkit.load.locust_settings import ignored_early, without_early
from perfkit.load.masked_output import MaskedOutput
from perfkit.load.preflight import check_host, check_locust, check_locustfile
from perfkit.load.progress import Progress
from perfkit.load_profile import LoadProfile
from perfkit.redaction import redact

RECORDER = Path(__file__).with_name("recorder.py")  # not imported: importing Locust patches the standard library
RECORDING_NAME = "requests.arrow"
STOP_TIMEOUT_S = 5  # requests in flight at the end may finish: those that would be cut off are the slow ones
ORDERLY_END_S = 10.0  # from SIGINT to SIGTERM; longer than STOP_TIMEOUT_S
FORCED_END_S = 3.0  # from SIGTERM to SIGKILL
EXIT_USAGE = 2  # of Locust's command line
EXIT_DISK = 74  # the recorder's exit code when the recording cannot be written
LOG_TAIL_LINES = 40
EARLY_S, EARLY_SHARE = (
    0.5,
    0.02,
)  # by the larger of these a run may fall short of its length: Locust's timers are coarse
WORKERS_WAIT_S = 120


@dataclass(frozen=True, slots=True)
class Distribution:
    """A master and its workers.

    Parameters
    ----------
    workers
        How many there are; the load begins when all of them are there.
    local
        Whether they are started here; else they come from elsewhere, within `WORKERS_WAIT_S`.
    bind_host, bind_port
        Where the master listens for them.
    """

    workers: int
    local: bool = True
    bind_host: str = "127.0.0.1"
    bind_port: int = 5557  # 0: one that is free

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")

    def argv(self) -> list[str]:
        """Locust's options for a master."""
        wait = ["--expect-workers", str(self.workers), "--expect-workers-max-wait", str(WORKERS_WAIT_S)]
        return ["--master", *wait, "--master-bind-host", self.bind_host, "--master-bind-port", str(self.bind_port)]


@dataclass(frozen=True, slots=True)
class LocustCommand:
    """What Locust is asked to do.

    None leaves the decision to the locustfile (a ``LoadTestShape``, a host of its own) or to Locust's configuration.
    `users` is at least 1, `spawn_rate` (users per second) above 0, `duration_s` a whole number of at least 1, because
    Locust counts whole seconds.  The recording goes to ``folder/requests.arrow``, all else to ``folder/source``.
    """

    locustfile: Path
    host: str | None = field(repr=False)  # handed over in the environment: arguments stand in every process list
    users: int | None
    spawn_rate: float | None
    duration_s: float | None
    folder: Path
    tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    arguments: tuple[str, ...] = ()  # handed on to Locust, after all others
    distribution: Distribution | None = None  # None: one process does all
    profile: LoadProfile | None = None  # stages of users, or arrivals; users and duration are then those of the pool
    container: Container | None = None  # None: on this machine itself

    def __post_init__(self) -> None:
        if self.users is not None and self.users < 1:
            raise ValueError(f"users must be at least 1, not {self.users}")
        if self.spawn_rate is not None and not self.spawn_rate > 0:
            raise ValueError(f"spawn_rate must be above 0 users per second, not {self.spawn_rate}")
        if self.duration_s is not None and not (self.duration_s >= 1 and float(self.duration_s).is_integer()):
            raise ValueError(f"duration_s must be a whole number of seconds, at least 1, not {self.duration_s}")

    @property
    def planned_s(self) -> float | None:
        """How long the load shall last; None where the locustfile decides."""
        return self.profile.duration_s if self.profile is not None else self.duration_s

    @property
    def recording(self) -> Path:
        """Where the requests go."""
        return self.folder / RECORDING_NAME

    @property
    def log(self) -> Path:
        """Where the output of Locust and of the locustfile goes."""
        return self.folder / "source" / "locust.log"

    def argv(self) -> list[str]:
        """Return the command line; -P keeps a ``locust.py`` in the current folder from being taken for Locust."""
        return [sys.executable, "-P", "-m", "locust", "-f", locustfiles(self.locustfile), *self.options()]

    def options(self) -> list[str]:
        """Return what follows the locustfiles on Locust's command line."""
        options: dict[str, float | None] = {"-u": self.users, "-r": self.spawn_rate}
        options["-t"] = None if self.duration_s is None else int(self.duration_s)
        given = [str(part) for option in options.items() if option[1] is not None for part in option]
        for option, tags in (("--tags", self.tags), ("--exclude-tags", self.exclude_tags)):
            given += [option, *tags] if tags else []
        given += self.distribution.argv() if self.distribution is not None else []
        fixed = ["--headless", "--only-summary", "--exit-code-on-error", "0", "--stop-timeout", str(STOP_TIMEOUT_S)]
        csv = ["--csv", str(self.folder.absolute() / "source" / "locust")]
        return [*given, *fixed, *csv, *self.arguments]

    def own_environment(self) -> dict[str, str]:
        """Return the variables of the scenario, and those that tell the recorder what to do."""
        own = {
            "PERFKIT_RECORDING": str(self.recording.absolute()),
            "PERFKIT_GENERATOR_CSV": str(self.folder.absolute() / "source" / "generator.csv"),
            "PERFKIT_SCRIPT_ERRORS": str(self.folder.absolute() / "source" / "script_errors.json"),
        }
        if self.distribution is not None and self.distribution.local:
            own["PERFKIT_LOCAL_WORKERS"] = str(self.distribution.workers)
            own["PERFKIT_ARGUMENTS"] = json.dumps(self.arguments)
        if self.profile is not None:
            own["PERFKIT_LOAD_PROFILE"] = json.dumps(self.profile.to_dict())
        if self.host is not None:
            own["LOCUST_HOST"] = self.host
        return {**without_early(self.environment), **own}


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def locustfiles(path: Path) -> str:
    """What Locust loads: the recorder, then the user's own."""
    return f"{RECORDER},{path.absolute()}"


@dataclass(frozen=True, slots=True)
class LocustOutcome:
    """How a run of Locust ended."""

    returncode: int
    interrupted: bool  # ended before its time; what was recorded until then can be read
    reason: str | None  # of the interruption, or of an exit code that is not 0
    log_tail: str
    started_at: datetime
    ended_at: datetime
    has_own_shape: bool = False  # a LoadTestShape in the locustfile decided the load
    lost_workers: tuple[str, ...] = ()
    by_user: bool = False  # interrupted by a signal to this process
    early_end: str | None = None  # how it ended before its time by itself, empty when it did not; None: interrupted
    users_at_end: int | None = None  # when the load was to end
    ignored_settings: tuple[str, ...] = ()  # of Locust's own, from variables and files


def run_locust(
    command: LocustCommand,
    on_progress: Callable[[Progress], None] | None = None,
    abort: Callable[[Progress], str | None] | None = None,
) -> LocustOutcome:
    """Run a load test to its end.

    On Ctrl-C and SIGTERM Locust is asked to end, and the outcome says so; a second signal is less patient.

    Parameters
    ----------
    on_progress
        Called about once a second and once at the end.
    abort
        Called as often; a reason that it returns ends the run before its time.

    Raises
    ------
    LoadError
        Locust or the host is not there, the locustfile cannot be used, or the recording could not be written.  That no
        request was made is not judged here.
    """
    check_locust()
    check_locustfile(command.locustfile)
    if command.host is not None:
        check_host(command.host)
    started_at = datetime.now(UTC)
    last: dict[str, Any] = {}
    with _signals_forwarded() as stop, _started(command, stop) as (process, pipe, output):
        for line in _lines(process, pipe, stop):
            last |= line
            progress = Progress.from_line(line)
            if on_progress is not None:
                on_progress(progress)
            if abort is not None and stop.signal is None and (reason := abort(progress)) is not None:
                stop.abort(reason)
        _wait(process, stop)
    said = redact(command.log.read_text(errors="replace"))
    returncode = _locusts_own(process.returncode, command)
    interrupted, reason = _judge(command, returncode, stop, last, said)
    tail = "\n".join(said.splitlines()[-LOG_TAIL_LINES:])
    if not output.is_complete:
        tail += "\n(the rest of the log could not be written)"
    return LocustOutcome(
        returncode,
        interrupted,
        reason,
        tail,
        started_at,
        datetime.now(UTC),
        bool(last.get("own_shape")),
        tuple(last.get("lost_workers", ())),
        stop.by_user,
        None if interrupted else _early_end(command, returncode, last),
        last.get("users_at_end"),
        (*ignored_early({**os.environ, **command.environment}), *last.get("ignored_settings", ())),
    )


class _Stop:
    """The wish to end Locust before its time, pursued with growing firmness."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.signal: signal.Signals | None = None
        self.reason = ""
        self.by_user = False
        self._since = 0.0

    def __call__(self, number: int, _: FrameType | None = None) -> None:
        """Ask once, whatever the signal: SIGINT is what ends Locust in order at all times."""
        if self.signal is not None:
            self._since -= ORDERLY_END_S  # asked again: wait no longer
            self.pursue()
            return
        self.signal, self._since, self.by_user = signal.Signals(number), time.monotonic(), True
        self.reason = "stopped by Ctrl-C" if self.signal is signal.SIGINT else f"stopped by {self.signal.name}"
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)

    def abort(self, reason: str) -> None:
        """Ask for an end that nobody sent a signal for."""
        self(signal.SIGINT)
        self.reason, self.by_user = reason, False

    def pursue(self) -> None:
        """Terminate, then kill, when asking did not help in time."""
        waited = time.monotonic() - self._since
        if self.signal is not None and waited > ORDERLY_END_S:
            self.force(signal.SIGTERM if waited <= ORDERLY_END_S + FORCED_END_S else signal.SIGKILL)

    def force(self, number: signal.Signals) -> None:
        """Send a signal to Locust and the processes that it started, unless it has ended."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


@contextmanager
def _signals_forwarded() -> Iterator[_Stop]:
    """Have SIGINT and SIGTERM stop Locust instead of this process; only the main thread gets signals."""
    stop = _Stop()
    mine = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in mine if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _started(command: LocustCommand, stop: _Stop) -> Iterator[tuple[subprocess.Popen[bytes], int, MaskedOutput]]:
    """Start Locust; yield the process, the reading end of its progress pipe and its log; leave no process behind."""
    reading, writing = os.pipe()
    try:
        try:
            process, output = _start(command, writing)
        finally:
            os.close(writing)
        stop.process = process
        if stop.signal is not None:  # it came in between
            process.send_signal(signal.SIGINT)
        try:
            yield process, reading, output
        finally:
            stop.force(signal.SIGKILL)
            process.wait()
            try:
                if command.container is not None:
                    remove_container(command.container, command, process)
            finally:
                output.finish()
    finally:
        os.close(reading)


def _start(command: LocustCommand, progress_fd: int) -> tuple[subprocess.Popen[bytes], MaskedOutput]:
    try:
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("wb") as log:
            output = MaskedOutput(log)
    except OSError as error:
        raise LoadError(f"{error.filename}: {error.strerror}. Choose a folder that can be written.") from error
    with ExitStack() as without_locust:
        without_locust.callback(output.finish)
        try:
            process = _process(command, output.fd, progress_fd)
        except OSError as error:
            raise LoadError(f"{error.filename}: {error.strerror}. Locust cannot be started.") from error
        without_locust.pop_all()
    output.close_here()
    return process, output


def _process(command: LocustCommand, output_fd: int, progress_fd: int) -> subprocess.Popen[bytes]:
    """Locust itself, or the client of the container that it runs in."""
    if command.container is not None:
        return start_contained(command.container, command, output_fd, progress_fd)
    environment = {**without_early(os.environ), **command.own_environment()}
    return subprocess.Popen(
        command.argv(),
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=subprocess.STDOUT,
        env={**environment, "PERFKIT_PROGRESS_FD": str(progress_fd)},
        pass_fds=(progress_fd,),
        start_new_session=True,
    )


def _lines(process: subprocess.Popen[bytes], pipe: int, stop: _Stop) -> Iterator[dict[str, Any]]:
    """Yield what the recorder reports, until the pipe is closed.

    A process that the locustfile forked may hold the pipe open: every second it is checked whether Locust still lives.
    """
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            is_ready = selector.select(timeout=1.0)
            stop.pursue()
            if is_ready:
                if not (chunk := os.read(pipe, 65536)):
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
            elif process.poll() is not None:
                return


def _wait(process: subprocess.Popen[bytes], stop: _Stop) -> None:
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
            return
        stop.pursue()


def _locusts_own(returncode: int, command: LocustCommand) -> int:
    """A container hands through a signal as 128 + N, a process as -N."""
    ended_by = returncode - 128
    return -ended_by if command.container is not None and ended_by in set(signal.Signals) else returncode


def _judge(
    command: LocustCommand, returncode: int, stop: _Stop, last: Mapping[str, Any], said: str
) -> tuple[bool, str | None]:
    """Return whether the run was interrupted, and why; raise when it failed."""
    if returncode == EXIT_DISK or "problem" in last:
        raise LoadError(
            f"{command.recording}: could not be written: {last.get('problem', 'see ' + str(command.log))}. "
            "The run was stopped, for it could not be kept. Free disk space, or choose another folder."
        )
    if stop.signal is not None:
        return True, stop.reason
    if returncode < 0:
        return True, f"Locust was ended by {signal.Signals(-returncode).name} (SIGKILL often means: out of memory)"
    if last.get("interrupted"):
        return True, "Locust was asked to end by a signal"
    if "exit_code" not in last:
        if last.get("requests"):
            return False, None  # see `_early_end`
        raise _failure(command, returncode, said)
    if returncode:
        return False, f"Locust ended with exit code {returncode}: an error in the locustfile, or its own verdict"
    return False, None


def _early_end(command: LocustCommand, returncode: int, last: Mapping[str, Any]) -> str:
    """``ended after 4 s of 60 s by the locustfile``; empty for a run that lasted as long as it should."""
    if "exit_code" not in last:  # it did not come to its end in order
        planned = f" of {command.planned_s:g} s" if command.planned_s and not last.get("own_shape") else ""
        return f"ended after {last['elapsed_s']:.0f} s{planned} by the locustfile, with exit code {returncode}"
    ran_s = last.get("ran_s")
    if ran_s is None:
        return ""
    if last.get("own_shape"):
        early = not last.get("shape_ended")
        return f"ended after {ran_s:.0f} s by the locustfile, before its load shape did" if early else ""
    planned_s = command.planned_s
    if planned_s is None or ran_s >= planned_s - max(EARLY_S, EARLY_SHARE * planned_s):
        return ""
    whom = "because its workers were lost" if last.get("lost_workers") else "by the locustfile"
    return f"ended after {ran_s:.0f} s of {planned_s:g} s {whom}"


def _raised(said: str) -> str:
    """What the last traceback of a log says; other processes may have written behind it."""
    after = said.rpartition("Traceback (most recent call last)")[2].splitlines()[1:]
    return next((line for line in after if line.strip() and not line.startswith((" ", "["))), "see its log")


def _failure(command: LocustCommand, returncode: int, said: str) -> PerfkitError:
    """Why there is no load: arguments that Locust refuses are wrong usage."""
    refused = next((line.partition(": error: ")[2] for line in said.splitlines() if ": error: " in line), None)
    if returncode == EXIT_USAGE and refused is not None:
        return SettingsError(
            f"{command.locustfile}: Locust refuses its arguments: {refused.rstrip('.')}. A locustfile's own arguments "
            "are declared in it (events.init_command_line_parser) and given after --"
        )
    return LoadError(_explain(command, returncode, said))


def _explain(command: LocustCommand, returncode: int, said: str) -> str:
    """Say why Locust ended before it made any load."""
    if command.container is not None:
        reason = explain(command.container, command.log, returncode, said)
        if reason is not None:
            return reason
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(" ")] or ["it said nothing"]
    # Without users Locust looks for pytest functions, which fails in its own way under a strict pytest configuration
    if "No User class found" in said or "load_locustfile_pytest" in said:
        return (
            f"{command.locustfile}: has no User class. Define one that is not abstract, for instance as a subclass of "
            f"locust.HttpUser; {command.log} has what Locust says."
        )
    if "Traceback (most recent call last)" in said:
        return (
            f"{command.locustfile}: could not be loaded: {_raised(said)}. Install what is missing for "
            f"{sys.executable}, or correct the file; {command.log} has the traceback."
        )
    return (
        f"{command.locustfile}: Locust ended with exit code {returncode} before it made any load: {lines[-1]}. "
        f"Correct that; {command.log} has the rest."
    )
