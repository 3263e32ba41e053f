"""The service under test from a commit: its worktree, its build command, and the service itself on a free port.

Commands run without a shell, in a session of their own, and end with all that they started.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from perfkit.loadgen.locust_command import free_port
from perfkit.model.errors import LoadError, SettingsError
from perfkit.runs.git import Git, GitError

BUILD_TIMEOUT_S = 3600.0
READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
SETTLED_S = 0.3  # a service whose port is taken ends within this time
PORTS_TRIED = 3  # the service binds the port, not we: somebody may be quicker
LOG_LINES = 10  # of a command that failed, which its error repeats
PORT_IN_USE = re.compile("in use|EADDRINUSE", re.IGNORECASE)


class BuildFailed(LoadError):
    """A commit cannot be built."""


@contextmanager
def checkout(ref: str, repository: Path) -> Iterator[Path]:
    """A temporary worktree of a commit, branch or tag; ``LoadError`` when git does not know it."""
    git = Git(repository)
    with ExitStack() as stack:
        try:
            commit = git.commit(ref)
            if commit is None:
                raise LoadError(f"{ref!r}: {git.why_unknown()}")
            tree = stack.enter_context(git.worktree(commit))
        except GitError as error:
            raise LoadError(f"{ref!r}: {error}, or compare with a host") from error
        yield tree


def command_words(command: str, option: str) -> list[str]:
    """The words of a command that is started without a shell; ``SettingsError`` where it cannot be taken apart."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"{option} {command!r}: cannot be taken apart ({error}); close what is quoted") from error
    if not words:
        raise SettingsError(f"{option} {command!r}: is empty; leave it out, or write a command")
    return words


def build(command: str | None, tree: Path) -> None:
    """Run a build command in a worktree; `BuildFailed` repeats its last lines."""
    if command is None:
        return
    try:
        with _running(command_words(command, "build"), tree) as (process, output):
            code = process.wait(BUILD_TIMEOUT_S)
            lines = _lines(output)
    except OSError as error:
        raise BuildFailed(f"build {command!r}: cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"build {command!r}: did not end within {BUILD_TIMEOUT_S:g} s") from error
    if code:
        text = " | ".join(lines[-LOG_LINES:]) or "it wrote nothing"
        raise BuildFailed(f"build {command!r}: failed with exit code {code}: {text}")


@contextmanager
def running_service(command: str, folder: Path) -> Iterator[str]:
    """Start a service in a folder and yield its address once it takes connections.

    Parameters
    ----------
    command
        How to start it, with ``{port}`` for the port that it shall listen on; ``PORT`` in its environment is the same.

    Raises
    ------
    LoadError
        It cannot be started, ends, or does not listen within a minute; with the last lines that it wrote.
    SettingsError
        The command cannot be taken apart into words.
    """
    for attempt in range(PORTS_TRIED):
        port = free_port()
        words = [word.replace("{port}", str(port)) for word in command_words(command, "serve")]
        with ExitStack() as stack:
            try:
                process, output = stack.enter_context(_running(words, folder, {"PORT": str(port)}))
            except OSError as error:
                raise LoadError(f"{command!r} in {folder}: cannot be started: {error.strerror}.") from error
            if _listens(process, port):
                yield f"http://127.0.0.1:{port}"
                return
            lines = _lines(output)
        if attempt == PORTS_TRIED - 1 or not any(map(PORT_IN_USE.search, lines)):
            text = "".join(f"\n  {line}" for line in lines[-LOG_LINES:]) or " It wrote nothing."
            raise LoadError(f"{command!r} in {folder}: does not listen on port {port}.{text}")


@contextmanager
def _running(
    words: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process and its output; afterwards it and what it started are ended."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            yield process, output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what outlived it
            process.wait()


def _lines(output: IO[bytes]) -> list[str]:
    output.seek(0)
    return output.read().decode(errors="replace").splitlines()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up = time.monotonic() + READY_TIMEOUT_S
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            with suppress(subprocess.TimeoutExpired):  # it may be another's port: then the service ends
                process.wait(SETTLED_S)
            return process.poll() is None
    return False
