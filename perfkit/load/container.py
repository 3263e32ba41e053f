"""Locust in a container: the same command, recording and progress, with another process in between.

The engine's client stands for Locust: its standard output is the progress pipe, signals go through it, and its exit
code is Locust's.  What is to be done goes in by standard input, which then stays open: neither the process list nor
``docker inspect`` shows the scenario's variables, and a container whose caller was killed notices and ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from perfkit.errors import LoadError
from perfkit.load.engine import Engine, last_line

if TYPE_CHECKING:
    from perfkit.load.locust import LocustCommand

WORK, RESULTS = PurePosixPath("/work"), PurePosixPath("/results")
FACTS = "container.json"  # what perfkit.load.contained tells of its surroundings
REMOVE_TIMEOUT_S = 60.0
ENGINE_CODES = (125, 126, 127)  # of docker run and podman run themselves; a container's own are handed through
_GONE = ("no such container", "already in progress")  # what engines say of a container that --rm removes


@dataclass(frozen=True, slots=True)
class Container:
    """Where Locust shall run."""

    engine: Engine
    image: str
    image_id: str = ""

    def argv(self, name: str, work: Path, results: Path) -> list[str]:
        """Return the engine's command line; nothing can be written there but the results and /tmp."""
        mounts = [_mount(work, WORK, ",readonly"), _mount(results, RESULTS)]
        shut = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        # SELinux would hide the mounted folders, and to relabel them would change the caller's files
        shut += ["--security-opt", "label=disable"]
        run = ["run", "--rm", "--interactive", "--name", name, "--network", "host", "--pull", "never"]
        run += ["--log-driver", "none", *self.engine.user_options(), *shut, *mounts, "--workdir", str(WORK)]
        return [self.engine.path, *run, "--entrypoint", "python", self.image, "-P", "-m", "perfkit.load.contained"]


def container_name(folder: Path) -> str:
    """The name of the container of a run folder."""
    return "perfkit-" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]


def start_contained(
    container: Container, command: LocustCommand, log_fd: int, progress_fd: int
) -> subprocess.Popen[bytes]:
    """Start Locust in a container; whoever calls also calls `remove_container`, whatever happens."""
    work, file = _work_folder(command.locustfile)
    argv = container.argv(container_name(command.folder), work, command.folder.absolute())
    process = subprocess.Popen(
        argv, bufsize=0, stdin=subprocess.PIPE, stdout=progress_fd, stderr=log_fd, start_new_session=True
    )
    with suppress(BrokenPipeError):  # the engine did not even start; what it said is in the log
        _write_all(process.stdin, json.dumps(_order(command, WORK / file)).encode() + b"\n")
    return process


def remove_container(container: Container, command: LocustCommand, process: subprocess.Popen[bytes]) -> None:
    """Leave no container behind; also ends one that still runs.

    Raises
    ------
    LoadError
        It may still be there and make load.
    """
    if process.stdin is not None:
        process.stdin.close()
    name = container_name(command.folder)
    try:
        done = container.engine.ask("rm", "--force", name, timeout_s=REMOVE_TIMEOUT_S)
        if done.returncode == 0 or any(text in done.stderr.lower() for text in _GONE):
            return
        problem = last_line(done.stderr)
    except subprocess.TimeoutExpired:
        problem = f"no answer within {REMOVE_TIMEOUT_S:g} s"
    raise LoadError(
        f"container {name}: could not be removed ({problem}) and may still make load. "
        f"Say: {container.engine.kind} rm --force {name}"
    )


def inside_facts(container: Container, folder: Path) -> dict[str, Any]:
    """Environment and versions of the container of a run, as fields of `Run`; empty when it did not come that far."""
    try:
        facts: dict[str, Any] = json.loads((folder / "source" / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    environment = {**facts["environment"], "container": container.engine.kind}
    versions = {**facts["versions"], "image": f"{container.image} {container.image_id}".strip()}
    return {"environment": environment, "versions": versions, "tool": f"locust {versions['locust']}"}


def explain(container: Container, log: Path, returncode: int, said: str) -> str | None:
    """Say why a container ended before Locust began; None when it was Locust that ended."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    mine = next((line.removeprefix("perfkit: ") for line in lines if line.startswith("perfkit: ")), None)
    missing = next(
        (line for line in lines if "No module named perfkit" in line or "No module named 'perf" in line), None
    )
    if mine is None and missing is None and returncode not in ENGINE_CODES:
        return None
    what = mine or missing or next((line for line in lines if "error" in line.lower()), last_line(said))
    return (
        f"image {container.image}: {container.engine.kind} could not run Locust in it: {what.rstrip('.')}. "
        f"Leave --image out, so that one is built, or name one made from docker/Dockerfile.locust; {log} has the rest."
    )


def check_mountable(path: Path) -> None:
    """Check that a path can stand in an option that separates its parts by commas."""
    if bad := next((sign for sign in ',"\n' if sign in str(path)), None):
        raise LoadError(
            f"{path}: has {bad!r} in its path, which a container engine takes for the end of it. Rename it."
        )


def _mount(source: Path, target: PurePosixPath, more: str = "") -> str:
    check_mountable(source)
    return f"--mount=type=bind,source={source},target={target}{more}"


def _work_folder(locustfile: Path) -> tuple[Path, Path]:
    """The folder to mount, and the locustfile in it: the current folder if it is in there, else the file's own."""
    file, here = locustfile.resolve(), Path.cwd().resolve()
    if here in file.parents and here != Path(here.anchor):
        return here, file.relative_to(here)
    return (file, Path()) if file.is_dir() else (file.parent, Path(file.name))


def _order(command: LocustCommand, locustfile: PurePosixPath) -> dict[str, Any]:
    """What `perfkit.load.contained` is to do, in the container's paths."""
    inside = replace(command, locustfile=Path(locustfile), folder=Path(RESULTS), container=None)
    return {
        "perfkit": metadata.version("perfkit"),
        "locustfile": str(locustfile),
        "options": inside.options(),
        "environment": inside.own_environment(),
    }


def _write_all(pipe: IO[bytes] | None, content: bytes) -> None:
    """Write to an unbuffered pipe, which may take less at a time."""
    while pipe is not None and content:
        content = content[os.write(pipe.fileno(), content) :]
