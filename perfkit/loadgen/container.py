"""Locust in a container of Docker or Podman: the same command, recording and progress, with another process in between.

The engine's client stands for Locust: its standard output is the progress pipe, signals go through it, and its exit
code is Locust's.  The job goes in by standard input, which then stays open: neither the process list nor ``docker
inspect`` shows the scenario's variables, and a container whose caller was killed notices and ends.

The image is pulled, or built from ``docker/Dockerfile.locust``, which installs the checkout or wheel that runs here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from perfkit.model.errors import LoadError
from perfkit.model.installation import VERSION, installation_source

if TYPE_CHECKING:
    from perfkit.loadgen.locust_command import LocustCommand

KINDS = ("docker", "podman")  # in the order in which they are tried
ASK_TIMEOUT_S = 30.0
_ROOTLESS = {"docker": "{{json .SecurityOptions}}", "podman": "{{.Host.Security.Rootless}}"}


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers."""

    path: str
    kind: str  # docker or podman; a `docker` that is Podman in disguise is podman
    is_rootless: bool

    def user_options(self) -> list[str]:
        """Options of ``run`` under which files in a mounted folder belong to the caller."""
        me = f"{os.getuid()}:{os.getgid()}"
        if not self.is_rootless:
            return ["--user", me]
        if self.kind == "podman":
            return ["--userns", "keep-id", "--user", me]
        return ["--user", "0:0"]  # rootless Docker maps this user, and no other, to the caller

    def ask(self, *words: str, timeout_s: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine to its end, out of reach of Ctrl-C, with its output kept."""
        return _ask(self.path, *words, timeout_s=timeout_s)


def find_engine(kind: str | None = None) -> Engine:
    """The engine of that kind, or the first that answers of Docker and Podman.

    Raises
    ------
    LoadError
        None answers; says why for each, and what else can be done.
    """
    problems = []
    for name in (kind,) if kind else KINDS:
        path = shutil.which(name)
        if path is None:
            problems.append(f"{name} is not installed")
            continue
        try:
            real = "podman" if "podman" in _ask(path, "--version").stdout.lower() else "docker"
            done = _ask(path, "info", "--format", _ROOTLESS[real])
        except subprocess.TimeoutExpired:
            problems.append(f"{path} does not answer within {ASK_TIMEOUT_S:g} s")
        except OSError as error:
            problems.append(f"{path} cannot be started ({error.strerror})")
        else:
            if done.returncode == 0:
                return Engine(path, real, "rootless" in done.stdout or done.stdout.strip() == "true")
            problems.append(f"{path} does not work ({last_line(done.stderr)})")
    raise LoadError(
        f"no container engine: {'; '.join(problems)}. Install and start Docker or Podman, or run without --docker: "
        "Locust then runs on this machine itself, with --workers on several cores."
    )


def _ask(path: str, *words: str, timeout_s: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [path, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        start_new_session=True,
    )


def last_line(text: str) -> str:
    """The last line that says something, without the full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it does not say why"


WORK, RESULTS = PurePosixPath("/work"), PurePosixPath("/results")
FACTS = "container.json"  # environment and versions, as perfkit.loadgen.container_entry writes them
REMOVE_TIMEOUT_S = 60.0
ENGINE_CODES = (125, 126, 127)  # of docker run and podman run themselves; a container's own are handed through
_GONE = ("no such container", "already in progress")  # what engines say of a container that --rm removes


@dataclass(frozen=True, slots=True)
class Container:
    """Where Locust shall run; ``tree`` is mounted for load scripts that lie in it, else the script's own folder."""

    engine: Engine
    image: str
    image_id: str = ""
    tree: Path | None = None

    def argv(self, name: str, work: Path, results: Path) -> list[str]:
        """Return the engine's command line; nothing can be written there but the results and /tmp."""
        mounts = [_mount(work, WORK, ",readonly"), _mount(results, RESULTS)]
        shut = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        # SELinux would hide the mounted folders, and to relabel them would change the caller's files
        shut += ["--security-opt", "label=disable"]
        run = ["run", "--rm", "--interactive", "--name", name, "--network", "host", "--pull", "never"]
        run += ["--log-driver", "none", *self.engine.user_options(), *shut, *mounts, "--workdir", str(WORK)]
        return [
            self.engine.path,
            *run,
            "--entrypoint",
            "python",
            self.image,
            "-P",
            "-m",
            "perfkit.loadgen.container_entry",
        ]


def container_name(folder: Path) -> str:
    """The name of the container of a run folder."""
    return "perfkit-" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]


def start_container(
    container: Container, command: LocustCommand, log_fd: int, progress_fd: int
) -> subprocess.Popen[bytes]:
    """Start Locust in a container; whoever calls also calls `remove_container`, whatever happens."""
    file, folder = command.locustfile.resolve(), container.tree.resolve() if container.tree is not None else None
    if folder is None or folder not in file.parents or folder == Path(folder.anchor):
        folder = file if file.is_dir() else file.parent
    inside = replace(command, locustfile=Path(WORK / file.relative_to(folder)), folder=Path(RESULTS), container=None)
    job = {
        "perfkit": VERSION,
        "locustfile": str(inside.locustfile),
        "options": inside.options(),
        "environment": inside.own_environment(),
    }
    argv = container.argv(container_name(command.folder), folder, command.folder.absolute())
    process = subprocess.Popen(
        argv, bufsize=0, stdin=subprocess.PIPE, stdout=progress_fd, stderr=log_fd, start_new_session=True
    )
    content = json.dumps(job).encode() + b"\n"
    with suppress(BrokenPipeError):  # the engine did not even start; the log says why
        while process.stdin is not None and content:  # an unbuffered pipe may take less at a time
            content = content[os.write(process.stdin.fileno(), content) :]
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


def container_facts(container: Container, folder: Path) -> dict[str, Any]:
    """Environment and versions of the container of a run, as fields of `Run`; empty when it did not come that far."""
    try:
        facts: dict[str, Any] = json.loads((folder / "source" / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    environment = {**facts["environment"], "container": container.engine.kind}
    versions = {**facts["versions"], "image": f"{container.image} {container.image_id}".strip()}
    return {"environment": environment, "versions": versions, "tool": f"locust {versions['locust']}"}


def startup_failure(container: Container, log_path: Path, returncode: int, log: str) -> str | None:
    """Say why a container ended before Locust began; None when it was Locust that ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reasons = [line.removeprefix("perfkit: ") for line in lines if line.startswith("perfkit: ")]
    reasons += [line for line in lines if "No module named perfkit" in line or "No module named 'perf" in line]
    if returncode in ENGINE_CODES:
        reasons += [*(line for line in lines if "error" in line.lower()), last_line(log)]
    if not reasons:
        return None
    return (
        f"image {container.image}: {container.engine.kind} could not run Locust in it: {reasons[0].rstrip('.')}. Leave "
        f"--image out, so that one is built, or name one made from docker/Dockerfile.locust; {log_path} has the rest."
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


PACKAGE = Path(__file__).parents[1]
REPOSITORY = "perfkit-locust"
DOCKERFILE = "docker/Dockerfile.locust"
SOURCES = ("perfkit", "notebooks", "docker", "dist", "pyproject.toml", "README.md", "LICENSE")  # see .dockerignore
_IMAGE_NAME = re.compile(r"[A-Za-z0-9][^\s]*")


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """Which container a load test runs in; ``None`` is perfkit's own choice.

    Parameters
    ----------
    engine
        ``docker`` or ``podman``; else the first that answers.
    image
        Name of an image that is there or can be pulled; else one is built from this perfkit.
    build_arguments
        ``NAME=VALUE`` for the build: ``BASE`` is the image to start from, ``PIP_INDEX_URL`` a mirror of PyPI.
    """

    engine: str | None = None
    image: str | None = None
    build_arguments: tuple[str, ...] = ()


def prepare_container(options: ContainerOptions, on_message: Callable[[str], None] | None = None) -> Container:
    """Find the engine, and build or pull the image unless it is there.

    Parameters
    ----------
    on_message
        Gets one sentence before each step that takes long.

    Raises
    ------
    LoadError
        There is no engine, or no image could be had.
    """
    notify = on_message or (lambda _: None)
    engine = find_engine(options.engine)
    if options.image is None:
        with _build_context() as (context, package):
            name = _image_name(context, options.build_arguments)
            if _image_id(engine, name) is None:
                notify(f"building the image {name} with {engine.kind}, once; this takes a minute or two")
                _build(engine, name, context, (f"PACKAGE={package}", *options.build_arguments))
        return Container(engine, name, _image_id(engine, name) or "")
    name = options.image
    if not _IMAGE_NAME.fullmatch(name):
        raise LoadError(f"image {name!r}: is not a name of an image. Write it like registry.example/perfkit-locust:1")
    if _image_id(engine, name) is None:
        notify(f"pulling the image {name} with {engine.kind}")
        done = subprocess.run([engine.path, "pull", name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoadError(
                f"image {name}: is not here and cannot be pulled: {last_line(done.stderr)}. Check the name and the "
                "login, or leave --image out: perfkit then builds one."
            )
    return Container(engine, name, _image_id(engine, name) or "")


def _image_id(engine: Engine, name: str) -> str | None:
    """The id of an image that the engine has, else None."""
    try:
        done = engine.ask("image", "inspect", "--format", "{{.Id}}", name)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{engine.path}: does not answer any more. Restart it, or run without --docker.") from error
    return done.stdout.strip().removeprefix("sha256:")[:12] if done.returncode == 0 else None


@contextmanager
def _build_context() -> Iterator[tuple[Path, str]]:
    """The folder to build from, and what pip installs there: this checkout, or the wheel that perfkit came from."""
    source = PACKAGE.parent if (PACKAGE.parent / DOCKERFILE).is_file() else installation_source()
    if source is not None and (source / DOCKERFILE).is_file():
        yield source, "."
    elif source is not None and source.suffix == ".whl" and source.is_file():
        with tempfile.TemporaryDirectory(prefix="perfkit-image-") as folder:
            shutil.copytree(PACKAGE / "docker", Path(folder) / "docker")
            (Path(folder) / "dist").mkdir()
            shutil.copy(source, Path(folder) / "dist")
            yield Path(folder), f"dist/{source.name}"
    else:
        raise LoadError(
            "no image can be built here: neither a checkout of perfkit nor the wheel that it was installed from is on "
            f"this machine{f' ({source} is gone)' if source else ''}. Build one in a clone, as {DOCKERFILE} says, and "
            "name it with --image."
        )


def _image_name(context: Path, build_arguments: tuple[str, ...]) -> str:
    """A name that changes with everything that is built in, so that an image of that name need not be built again."""
    digest = hashlib.sha256("\0".join(build_arguments).encode())
    roots = [context / name for name in SOURCES if name != "dist" or not (context / "pyproject.toml").is_file()]
    files = {file for root in roots for file in (root, *root.rglob("*")) if file.is_file()}
    for file in sorted(files):
        if "__pycache__" not in file.parts:
            content = file.read_bytes()
            digest.update(f"\0{file.relative_to(context).as_posix()}\0{len(content)}\0".encode() + content)
    return f"{REPOSITORY}:{re.sub(r'[^A-Za-z0-9_.-]', '-', VERSION)}-{digest.hexdigest()[:12]}"


def _build(engine: Engine, name: str, context: Path, build_arguments: tuple[str, ...]) -> None:
    argv = [engine.path, "build", "--file", str(context / DOCKERFILE), "--tag", name]
    argv += [part for argument in build_arguments for part in ("--build-arg", argument)]
    if pip_configuration := os.environ.get("PIP_CONFIG_FILE"):
        check_mountable(Path(pip_configuration))
        argv += ["--secret", f"id=pip.conf,src={pip_configuration}"]
    done = subprocess.run(
        [*argv, str(context)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise LoadError(
            f"image {name}: {engine.kind} could not build it:\n{output}\nWithout the internet name a base and a mirror "
            "with --build-arg BASE=... and --build-arg PIP_INDEX_URL=..., or an image that is there with --image."
        )
