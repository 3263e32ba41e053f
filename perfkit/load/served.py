"""A service started from a commit, to be measured beside the one that is worked on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from perfkit.errors import LoadError, SettingsError
from perfkit.git import Git, GitError
from perfkit.load.locust import free_port

READY_TIMEOUT_S = 60.0
END_S = 5.0
SETTLED_S = 0.3  # a service whose port is taken ends within this time
PORTS_TRIED = 3  # the service binds the port, not we: somebody may be quicker
IN_USE = re.compile("in use|EADDRINUSE", re.IGNORECASE)


@contextmanager
def checkout(ref: str, repository: Path) -> Iterator[Path]:
    """A temporary working tree of a commit, branch or tag; ``LoadError`` when git does not know it."""
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


def command_words(command: str, what: str) -> list[str]:
    """The words of a command that is started without a shell; ``SettingsError`` where it cannot be taken apart."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"{what} {command!r}: cannot be taken apart ({error}); close what is quoted") from error
    if not words:
        raise SettingsError(f"{what} {command!r}: is empty; leave it out, or write a command")
    return words


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """Start a service in a folder and yield its address once it takes connections.

    Parameters
    ----------
    command
        How to start it, with ``{port}`` for the port that it shall listen on; no shell is involved.

    Raises
    ------
    LoadError
        It cannot be started, ends, or does not listen within a minute; with the last lines that it wrote.
    SettingsError
        The command cannot be taken apart into words.
    """
    for attempt in range(PORTS_TRIED):
        port = free_port()
        with tempfile.TemporaryFile() as output:
            process = _start(command, folder, port, output)
            try:
                if _listens(process, port):
                    yield f"http://127.0.0.1:{port}"
                    return
                output.seek(0)
                said = output.read().decode(errors="replace")
            finally:
                _end(process)
        if attempt == PORTS_TRIED - 1 or not IN_USE.search(said):
            text = "".join(f"\n  {line}" for line in said.splitlines()[-10:]) or " It wrote nothing."
            raise LoadError(f"{command!r} in {folder}: does not listen on port {port}.{text}")


def _start(command: str, folder: Path, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    words = [word.replace("{port}", str(port)) for word in command_words(command, "serve")]
    try:
        return subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PORT": str(port)},
            start_new_session=True,
        )
    except OSError as error:
        raise LoadError(f"{command!r} in {folder}: cannot be started: {error.strerror}.") from error


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


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the service and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return
