"""Locust in a container: the same command, recording and progress, with another process in between.

The engine's client stands for Locust: its standard output is the progress pipe, signals go through it, and its exit
code is Locust's.  What is to be done goes in by standard input, which then stays open: neither the process list nor
``docker inspect`` shows the scenario's variables, and a container whose caller was killed notices and ends.

The container engine of this machine: Docker or Podman, asked before it is needed.

perfkit as a wheel of itself, so that a load container runs the very code that started it.

It needs neither a checkout nor a build tool nor a network: the files of the running package are packed as they are.

The image of a load container: built from this very perfkit, or pulled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from perfkit.model.errors import LoadError

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


def find_engine(wanted: str | None = None) -> Engine:
    """The engine of that kind, or the first that answers of Docker and Podman.

    Raises
    ------
    LoadError
        None answers; says why for each, and what else can be done.
    """
    problems = []
    for kind in (wanted,) if wanted else KINDS:
        answer = _try(kind)
        if isinstance(answer, Engine):
            return answer
        problems.append(answer)
    raise LoadError(
        f"no container engine: {'; '.join(problems)}. Install and start Docker or Podman, or run without --docker: "
        "Locust then runs on this machine itself, with --workers on several cores."
    )


def _try(kind: str) -> Engine | str:
    """The engine, or what is wrong with it."""
    path = shutil.which(kind)
    if path is None:
        return f"{kind} is not installed"
    try:
        real = "podman" if "podman" in _ask(path, "--version").stdout.lower() else "docker"
        done = _ask(path, "info", "--format", _ROOTLESS[real])
    except subprocess.TimeoutExpired:
        return f"{path} does not answer within {ASK_TIMEOUT_S:g} s"
    except OSError as error:
        return f"{path} cannot be started ({error.strerror})"
    if done.returncode:
        return f"{path} does not work ({last_line(done.stderr)})"
    is_rootless = "rootless" in done.stdout if real == "docker" else done.stdout.strip() == "true"
    return Engine(path, real, is_rootless)


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


PACKAGE = Path(__file__).parents[1]
_WHEEL = "Wheel-Version: 1.0\nGenerator: perfkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_files() -> dict[str, bytes]:
    """The contents of a wheel but its RECORD, by name, sorted."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    found = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in files}
    distribution = metadata.distribution("perfkit")
    about = {name: distribution.read_text(name) or "" for name in ("METADATA", "entry_points.txt")} | {"WHEEL": _WHEEL}
    found |= {f"{_info(distribution.version)}/{name}": text.encode() for name, text in about.items()}
    return dict(sorted(found.items()))


def write_wheel(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write ``perfkit-VERSION-py3-none-any.whl`` into a folder and return its path."""
    version = metadata.version("perfkit")
    record = f"{_info(version)}/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    wheel = folder / f"perfkit-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, record: "\n".join([*lines, f"{record},,\n"]).encode()}.items():
            entry = zipfile.ZipInfo(name)  # without a time: the same files make the same wheel
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return wheel


def _info(version: str) -> str:
    return f"perfkit-{version}.dist-info"


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


WORK, RESULTS = PurePosixPath("/work"), PurePosixPath("/results")
FACTS = "container.json"  # what perfkit.loadgen.container_entry tells of its surroundings
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
    work, file = _work_folder(command.locustfile, container.tree)
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


def container_facts(container: Container, folder: Path) -> dict[str, Any]:
    """Environment and versions of the container of a run, as fields of `Run`; empty when it did not come that far."""
    try:
        facts: dict[str, Any] = json.loads((folder / "source" / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    environment = {**facts["environment"], "container": container.engine.kind}
    versions = {**facts["versions"], "image": f"{container.image} {container.image_id}".strip()}
    return {"environment": environment, "versions": versions, "tool": f"locust {versions['locust']}"}


def startup_failure(container: Container, log: Path, returncode: int, said: str) -> str | None:
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


def _work_folder(locustfile: Path, tree: Path | None) -> tuple[Path, Path]:
    """The folder to mount, and the locustfile in it: ``tree`` if it is in there, else the file's own."""
    file, tree = locustfile.resolve(), tree.resolve() if tree is not None else None
    if tree in file.parents and tree is not None and tree != Path(tree.anchor):
        return tree, file.relative_to(tree)
    return (file, Path()) if file.is_dir() else (file.parent, Path(file.name))


def _order(command: LocustCommand, locustfile: PurePosixPath) -> dict[str, Any]:
    """What `perfkit.loadgen.container_entry` is to do, in the container's paths."""
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


REPOSITORY = "perfkit-locust"
BUILD_FILES = ("Dockerfile.locust", "requirements-locust.txt")
_NAME = re.compile(r"[A-Za-z0-9][^\s]*")


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """In what a load test shall run; ``None`` is perfkit's own choice.

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


def prepare_container(wish: ContainerOptions, on_note: Callable[[str], None] | None = None) -> Container:
    """Find the engine and see to it that it has the image.

    Parameters
    ----------
    on_note
        Is told, in one sentence, of what takes long.

    Raises
    ------
    LoadError
        There is no engine, or no image could be had.
    """
    note = on_note or (lambda _: None)
    engine = find_engine(wish.engine)
    if wish.image is not None:
        return _pulled(engine, wish.image, note)
    files = _build_files() | own_files()
    name = _tag(files, wish.build_arguments)
    if (known := _image_id(engine, name)) is None:
        note(f"building the image {name} with {engine.kind}, once; this takes a minute or two")
        _build(engine, name, files, wish.build_arguments)
        known = _image_id(engine, name) or ""
    return Container(engine, name, known)


def _pulled(engine: Engine, name: str, note: Callable[[str], None]) -> Container:
    if not _NAME.fullmatch(name):
        raise LoadError(f"image {name!r}: is not a name of an image. Write it like registry.example/perfkit-locust:1")
    if (known := _image_id(engine, name)) is None:
        note(f"pulling the image {name} with {engine.kind}")
        done = subprocess.run([engine.path, "pull", name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoadError(
                f"image {name}: is not here and cannot be pulled: {last_line(done.stderr)}. Check the name and the "
                "login, or leave --image out: perfkit then builds one."
            )
        known = _image_id(engine, name) or ""
    return Container(engine, name, known)


def _image_id(engine: Engine, name: str) -> str | None:
    """The id of an image that the engine has, else None."""
    try:
        done = engine.ask("image", "inspect", "--format", "{{.Id}}", name)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{engine.path}: does not answer any more. Restart it, or run without --docker.") from error
    return done.stdout.strip().removeprefix("sha256:")[:12] if done.returncode == 0 else None


def _build_files() -> dict[str, bytes]:
    """The Dockerfile and what it copies: in the package when it was installed, beside it in a checkout."""
    for folder in (PACKAGE / "docker", PACKAGE.parent / "docker"):
        if (folder / BUILD_FILES[0]).is_file():
            return {f"docker/{name}": (folder / name).read_bytes() for name in BUILD_FILES}
    raise LoadError(f"{PACKAGE / 'docker'}: the Dockerfile is missing. Install perfkit again, or name an image.")


def _tag(files: Mapping[str, bytes], build_arguments: tuple[str, ...]) -> str:
    """A name that changes with everything that is built in, so that an image of that name need not be built again."""
    digest = hashlib.sha256("\0".join(build_arguments).encode())
    for name, content in files.items():
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    version = re.sub(r"[^A-Za-z0-9_.-]", "-", metadata.version("perfkit"))
    return f"{REPOSITORY}:{version}-{digest.hexdigest()[:12]}"


def _build(engine: Engine, name: str, files: Mapping[str, bytes], build_arguments: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="perfkit-image-") as folder:
        context = _context(files, Path(folder))
        argv = [engine.path, "build", "--file", str(context / "docker" / BUILD_FILES[0]), "--tag", name]
        argv += [part for argument in build_arguments for part in ("--build-arg", argument)]
        if pip_configuration := os.environ.get("PIP_CONFIG_FILE"):
            check_mountable(Path(pip_configuration))
            argv += ["--secret", f"id=pip.conf,src={pip_configuration}"]
        done = subprocess.run(
            [*argv, str(context)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise LoadError(
            f"image {name}: {engine.kind} could not build it:\n{said}\nWithout the internet name a base and a mirror "
            "with --build-arg BASE=... and --build-arg PIP_INDEX_URL=..., or an image that is there with --image."
        )


def _context(files: Mapping[str, bytes], folder: Path) -> Path:
    for part in ("docker", "dist"):
        (folder / part).mkdir()
    package = {}
    for name, content in files.items():
        if name.startswith("docker/"):
            (folder / name).write_bytes(content)
        else:
            package[name] = content
    write_wheel(package, folder / "dist")
    return folder
