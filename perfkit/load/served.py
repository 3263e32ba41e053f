"""A service started from a commit, to be measured beside the one that is worked on."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perfkit.errors import LoadError, SettingsError
from perfkit.load.locust import free_port

READY_TIMEOUT_S = 60.0
END_S = 5.0


@contextmanager
def checkout(ref: str, repository: Path) -> Iterator[Path]:
    """A temporary working tree of a commit, branch or tag; ``LoadError`` when git does not know it."""
    with tempfile.TemporaryDirectory(prefix="perfkit-ref-") as parent:
        tree = Path(parent) / "tree"
        _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", what=ref)
        _git(repository, "worktree", "add", "--detach", "--quiet", str(tree), ref, what=ref)
        try:
            yield tree
        finally:
            with suppress(LoadError):
                _git(repository, "worktree", "remove", "--force", str(tree), what=ref)


def _git(repository: Path, *words: str, what: str) -> None:
    try:
        done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise LoadError(f"git: cannot be started ({error.strerror}). Install git, or compare with a host.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise LoadError(
            f"{what!r}: git knows no such commit, branch or tag in {repository}. {said[-1] if said else ''}".strip()
        )


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
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in command_words(command, "serve")]
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
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
        try:
            if not _listens(process, port):
                output.seek(0)
                tail = output.read().decode(errors="replace").splitlines()[-10:]
                text = "".join(f"\n  {line}" for line in tail) or " It wrote nothing."
                raise LoadError(f"{command!r} in {folder}: does not listen on port {port}.{text}")
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up = time.monotonic() + READY_TIMEOUT_S
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the service and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return
