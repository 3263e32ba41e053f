"""One run of Locust, as a process of its own, with the recorder beside the user's locustfile.

Locust runs in its own session: Ctrl-C reaches only this process, which then ends Locust in order.  `run_locust` first
checks what is cheaper to know before a load test (`check_host`, `check_locustfile`), follows the `Progress` that the
recorder reports once a second, and may end a hopeless run early (`parse_abort_rule`: ``p95_latency_ms>2000 for 30s``).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec

from perfkit.config.settings import Scenario, parse_duration
from perfkit.loadgen.locust_command import (
    ORDERLY_END_S,
    LocustCommand,
    ignored_locust_settings,
    locust_argv,
    start_locust,
    without_locust_settings,
)
from perfkit.loadgen.redacted_output import RedactedOutput
from perfkit.model.codec import encode
from perfkit.model.errors import LoadError, PerfkitError, SettingsError, did_you_mean
from perfkit.model.redaction import public_url, redact

if TYPE_CHECKING:
    from perfkit.loadgen.container import Container

CONNECT_TIMEOUT_S = 3.0
WINDOW_S = 10.0  # over which an error rate is taken
FORCED_END_S = 3.0  # from SIGTERM to SIGKILL
EXIT_USAGE = 2  # of Locust's command line
EXIT_DISK = 74  # the recorder's exit code when the recording cannot be written
EARLY_S, EARLY_SHARE = 0.5, 0.02  # a run may fall short of its length by the larger: Locust's timers are coarse
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_RAISED = re.compile(r"^[^\W\d][\w.]*(?:: .*)?$", re.MULTILINE)  # the last line of a traceback: KeyError: 'x'


def check_locustfile(path: Path) -> None:
    """Check that Locust is installed, and a locustfile there and Python; a folder of locustfiles is left to Locust."""
    if importlib.util.find_spec("locust") is None:
        raise LoadError(f"Locust is not installed for {sys.executable}. Run: pip install locust")
    if "," in str(path):
        raise LoadError(f"{path}: has a comma in its path, which separates locustfiles for Locust. Rename it.")
    if path.is_dir():
        return
    if not path.is_file():
        raise LoadError(f"{path}: there is no such locustfile. Check the path: it leads to {path.absolute()}.")
    if path.suffix != ".py":
        raise LoadError(f"{path}: Locust takes only files that end with .py. Rename it.")
    try:
        with warnings.catch_warnings(action="ignore"):  # the user's code, the user's warnings
            compile(path.read_bytes(), str(path), "exec")
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
    except SyntaxError as error:
        raise LoadError(f"{path}:{error.lineno}: is not valid Python: {error.msg}. Correct that line.") from error
    except ValueError as error:  # Python 3.11 says so of null bytes
        raise LoadError(f"{path}: is not Python source: {error}. Name a locustfile.") from error


def check_host(url: str) -> None:
    """Check that a host takes TCP connections, by making one.

    Nothing is checked when a proxy is to be used, or when neither the URL nor its scheme says which port.
    ``LoadError`` for a URL without scheme or host, an unknown name, or when nobody answers in `CONNECT_TIMEOUT_S`.
    """
    url = public_url(url)  # user info takes no part here, and no message may repeat it
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise LoadError(f"host {url!r}: is not a URL: {error}. Write it like http://localhost:8080") from error
    if "://" not in url or not parts.hostname:
        raise LoadError(f"host {url!r}: needs a scheme and a name. Write it like http://localhost:8080")
    has_proxy = parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname)
    if port is None or has_proxy:
        return
    address = f"host {parts.hostname}, port {port}"
    try:
        socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT_S).close()
    except socket.gaierror as error:
        raise LoadError(
            f"{address}: the name is not known ({error.strerror}). Check its spelling and the VPN."
        ) from error
    except TimeoutError as error:
        raise LoadError(
            f"{address}: no answer within {CONNECT_TIMEOUT_S:g} s. Check that it is up and no firewall is in between."
        ) from error
    except (OSError, UnicodeError) as error:
        raise LoadError(f"{address}: takes no connection ({error}). Start the service, or correct the host.") from error


@dataclass(frozen=True, slots=True)
class Progress:
    """A running load test at one moment."""

    time: datetime
    elapsed_s: float  # since the first user was started
    users: int
    requests: int  # all so far
    failures: int  # of them
    skipped: int  # requests without a response time, which are not kept
    rps: float  # over about 5 s
    p95_latency_ms: float | None  # exact, over about 10 s; None without requests
    cpu_pct: float  # of the load generator, in percent of one core, over the last second
    state: str  # Locust's word: ready, spawning, running, cleanup, stopped
    late: int = 0  # arrivals that started late, in the open model
    in_flight: int = 0  # tasks under way, in the open model
    recording: Path | None = None  # where the requests are written meanwhile


ABORT_METRICS = ("p95_latency_ms", "error_rate_pct", "rps", "cpu_pct", "in_flight")
_CONDITION = re.compile(r"^\s*(?P<name>\w+)\s*(?P<sign>[<>])\s*(?P<limit>[\d.]+)\s*(?:for\s+(?P<length>\S+))?\s*$")


def parse_abort_rule(text: str) -> Callable[[Progress], str | None]:
    """A condition as people write it, and for how long it must hold without a break (10 s, unless it says).

    The rule is asked once a second, and returns why the run is to end, or ``None``.  Metrics are ``p95_latency_ms``
    (over 10 s), ``error_rate_pct`` (over 10 s), ``rps`` (over 5 s), ``cpu_pct`` of the load generator, ``in_flight``.
    ``SettingsError`` says what is wrong.
    """
    match = _CONDITION.match(text)
    if match is None:
        raise SettingsError(
            f'--abort-on: expected "METRIC>LIMIT for LENGTH", such as "p95_latency_ms>2000 for 30s", got {text!r}'
        )
    name, sign = match["name"], match["sign"]
    if name not in ABORT_METRICS:
        hint = f"{did_you_mean(name, ABORT_METRICS)}; known are {', '.join(ABORT_METRICS)}"
        raise SettingsError(f"--abort-on: unknown metric {name!r}{hint}")
    try:
        limit, for_s = float(match["limit"]), parse_duration(match["length"] or "10s", "--abort-on")
    except ValueError as error:
        raise SettingsError(f"--abort-on: {error}") from error
    since: float | None = None
    totals = deque([(-math.inf, 0, 0)])  # time, requests and failures, over `WINDOW_S`

    def reason(progress: Progress) -> str | None:
        nonlocal since
        if name == "error_rate_pct":
            totals.append((progress.elapsed_s, progress.requests, progress.failures))
            while totals[0][0] < progress.elapsed_s - WINDOW_S and len(totals) > 2:
                totals.popleft()
            made, failed = progress.requests - totals[0][1], progress.failures - totals[0][2]
            value = 100.0 * failed / made if made else None
        else:
            value = getattr(progress, name)
        if value is None or not (value > limit if sign == ">" else value < limit):
            since = None
            return None
        since = progress.elapsed_s if since is None else since
        is_over = progress.elapsed_s - since >= for_s
        return f"aborted because of {name}{sign}{limit:g} for {for_s:g} s" if is_over else None

    return reason


@dataclass(frozen=True, slots=True)
class LocustOutcome:
    """How a run of Locust ended."""

    returncode: int
    interrupted: bool  # ended before its time; what was recorded until then can be read
    reason: str | None  # of the interruption, or of an exit code that is not 0
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
    container: Container | None = None,
) -> LocustOutcome:
    """Run a load test to its end, on this machine or in a container.

    On Ctrl-C and SIGTERM Locust is asked to end, and the outcome says so; a second signal is less patient.  Both
    callbacks are called about once a second; a reason that ``abort`` returns ends the run before its time.

    ``LoadError`` where Locust or the host is not there, the locustfile cannot be used, or the recording could not be
    written.  That no request was made is not judged here.
    """
    check_locustfile(command.scenario.locustfile)
    if command.scenario.host is not None:
        check_host(command.scenario.host)
    last: dict[str, Any] = {}  # what the recorder reported last
    with _StopRequest() as stop, _running_locust(command, container, stop) as (process, pipe):
        for line in _progress_lines(process, pipe, stop):
            last |= line
            progress = msgspec.convert(line, Progress, strict=False)  # what else it says is for this module
            progress = replace(progress, recording=command.recording)
            if on_progress is not None:
                on_progress(progress)
            if abort is not None and stop.signal is None and (reason := abort(progress)) is not None:
                stop(signal.SIGINT)
                stop.reason, stop.by_user = reason, False
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)
            stop.pursue()
    returncode = process.returncode
    if container is not None and returncode - 128 in set(signal.Signals):
        returncode = 128 - returncode  # a container hands through a signal as 128 + N, a process as -N
    log = redact(command.log.read_text(errors="replace"))
    if returncode == EXIT_DISK or "problem" in last:
        raise LoadError(
            f"{command.recording}: could not be written: {last.get('problem', 'see ' + str(command.log))}. "
            "The run was stopped, for it could not be kept. Free disk space, or choose another folder."
        )
    interruption = stop.reason
    if interruption is None and returncode < 0:
        name = signal.Signals(-returncode).name
        interruption = f"Locust was ended by {name} (SIGKILL often means: out of memory)"
    elif interruption is None and last.get("interrupted"):
        interruption = "Locust was asked to end by a signal"
    if interruption is None and "exit_code" not in last and not last.get("requests"):
        raise _failure(command, container, returncode, log)
    reason = interruption
    if interruption is None and "exit_code" in last and returncode:
        reason = f"Locust ended with exit code {returncode}: an error in the locustfile, or its own verdict"
    return LocustOutcome(
        returncode,
        interruption is not None,
        reason,
        bool(last.get("own_shape")),
        tuple(last.get("lost_workers", ())),
        stop.by_user,
        None if interruption is not None else _early_end(command, returncode, last),
        last.get("users_at_end"),
        (*ignored_locust_settings({**os.environ, **command.scenario.environment}), *last.get("ignored_settings", ())),
    )


class _StopRequest:
    """A request to end Locust before its time: SIGINT, and after a while SIGTERM and SIGKILL.

    As a context SIGINT and SIGTERM make it, instead of ending this process, and SIGHUP where the caller cleans up after
    it: an exception out of its handler would come while Locust is being started, and leave it behind.  Only the main
    thread gets signals.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.signal: signal.Signals | None = None
        self.reason: str | None = None
        self.by_user = False
        self._since = 0.0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN and (number is not signal.SIGHUP or handler is not signal.SIG_DFL):
                    self._handlers[number] = signal.signal(number, self)
        return self

    def __exit__(self, *_: object) -> None:
        if self.signal is signal.SIGHUP:  # a terminal that is closed sends more than one
            self._handlers[signal.SIGHUP] = signal.SIG_IGN
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __call__(self, number: int, _: FrameType | None = None) -> None:
        """Ask once, whatever the signal: SIGINT is what ends Locust in order at all times."""
        if self.signal is not None:
            if number != signal.SIGHUP:
                self._since -= ORDERLY_END_S  # asked again: wait no longer
                self.pursue()
            return
        self.signal, self._since, self.by_user = signal.Signals(number), time.monotonic(), True
        self.reason = "stopped by Ctrl-C" if self.signal is signal.SIGINT else f"stopped by {self.signal.name}"
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)

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
def _running_locust(
    command: LocustCommand, container: Container | None, stop: _StopRequest
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start Locust; yield the process and the reading end of its progress pipe; leave no process behind."""
    with ExitStack() as stack:
        try:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            with command.log.open("wb") as log:
                output = stack.enter_context(RedactedOutput(log))
        except OSError as error:
            raise LoadError(f"{error.filename}: {error.strerror}. Choose a folder that can be written.") from error
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        try:
            if container is not None:  # its client stands for Locust
                process = container.start(command, output.fd, writing)
                stack.callback(container.remove, command, process)
            else:
                process = start_locust(
                    command.scenario.locustfile.absolute(), command.options(), command.variables(), output.fd, writing
                )
        except OSError as error:
            raise LoadError(f"{error.filename}: {error.strerror}. Locust cannot be started.") from error
        finally:
            os.close(writing)
        output.close_here()
        stack.callback(process.wait)
        stack.callback(stop.force, signal.SIGKILL)
        stop.process = process
        if stop.signal is not None:  # it came in between
            process.send_signal(signal.SIGINT)
        yield process, reading


def _progress_lines(process: subprocess.Popen[bytes], pipe: int, stop: _StopRequest) -> Iterator[dict[str, Any]]:
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
    cause = "because its workers were lost" if last.get("lost_workers") else "by the locustfile"
    return f"ended after {ran_s:.0f} s of {planned_s:g} s {cause}"


def _failure(command: LocustCommand, container: Container | None, returncode: int, log: str) -> PerfkitError:
    """Why Locust ended before it made any load; arguments that Locust refuses are wrong usage."""
    script = command.scenario.locustfile
    refused = next((line.partition(": error: ")[2] for line in log.splitlines() if ": error: " in line), None)
    if returncode == EXIT_USAGE and refused is not None:
        return SettingsError(
            f"{script}: Locust refuses its arguments: {refused.rstrip('.')}. A locustfile's own arguments "
            "are declared in it (events.init_command_line_parser) and given after --"
        )
    if container is not None and (reason := container.startup_failure(command.log, returncode, log)) is not None:
        return LoadError(reason)
    # Without users Locust looks for pytest functions, which fails in its own way under a strict pytest configuration
    if "No User class found" in log or "load_locustfile_pytest" in log:
        return LoadError(
            f"{script}: has no User class. Define one that is not abstract, for instance as a subclass of "
            f"locust.HttpUser; {command.log} has what Locust says."
        )
    before, traceback, after = log.rpartition("Traceback (most recent call last)")
    if traceback:  # other processes write behind it, before it, and between its lines
        reasons = _RAISED.findall(after) or _RAISED.findall(before)[-1:] or ["see its log"]
        return LoadError(
            f"{script}: could not be loaded: {reasons[0]}. Install what is missing for "
            f"{sys.executable}, or correct the file; {command.log} has the traceback."
        )
    lines = (line for line in reversed(log.splitlines()) if line.strip() and not line.startswith(" "))
    return LoadError(
        f"{script}: Locust ended with exit code {returncode} before it made any load: "
        f"{next(lines, 'it wrote nothing')}. Correct that; {command.log} has the rest."
    )


def run_worker(scenario: Scenario, host: str, port: int) -> int:
    """Run Locust as a worker of a master elsewhere until the master ends it; returns Locust's exit code.

    Users, rate and duration come from the master; the locustfile, and the schedule of an open model, from here.
    """
    check_locustfile(scenario.locustfile)
    environment = without_locust_settings({**os.environ, **scenario.environment})
    if scenario.profile.is_open:
        environment["PERFKIT_LOAD_PROFILE"] = json.dumps(encode(scenario.profile))
    options = ("--worker", "--exit-code-on-error", "0", "--master-host", host, "--master-port", str(port))
    argv = locust_argv(scenario.locustfile.absolute(), *options, *scenario.arguments)
    with RedactedOutput(1) as out, RedactedOutput(2) as err:  # the terminal, or a file that the caller has opened
        process = subprocess.Popen(argv, env=environment, stdout=out.fd, stderr=err.fd)
        for output in (out, err):
            output.close_here()
        while True:
            with suppress(KeyboardInterrupt):  # the terminal sends it to the worker too, which tells its master
                return process.wait()
