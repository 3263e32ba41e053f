"""Locust in a container of Docker or Podman: the same command, recording and progress, with another process in between.

The engine's client stands for Locust: its standard output is the progress pipe, signals go through it, and its exit
code is Locust's.  The job goes in by standard input, which then stays open: neither the process list nor ``docker
inspect`` shows the scenario's variables, and a container whose caller was killed notices and ends.

The image is pulled, or built from ``docker/Dockerfile.locust``, which installs the checkout or wheel that runs here.
The container's first process is this file too (`main`): it runs Locust as the job says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from perfkit.loadgen.locust_command import ORDERLY_END_S, LocustCommand, start_locust
from perfkit.loadgen.service_under_test import environment_fingerprint, installed_versions
from perfkit.model.errors import LoadError
from perfkit.model.installation import VERSION, installation_source

KINDS = ("docker", "podman")  # in the order in which they are tried
ASK_TIMEOUT_S = 30.0
REMOVE_TIMEOUT_S = 60.0
ENGINE_CODES = (125, 126, 127)  # of docker run and podman run themselves; a container's own are handed through
WORK, RESULTS = PurePosixPath("/work"), PurePosixPath("/results")
FACTS = "container.json"  # environment and versions, as `main` writes them
_ROOTLESS = {"docker": "{{json .SecurityOptions}}", "podman": "{{.Host.Security.Rootless}}"}
_GONE = ("no such container", "already in progress")  # what engines say of a container that --rm removes


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers."""

    path: str
    kind: str = ""  # docker or podman; a `docker` that is Podman in disguise is podman
    is_rootless: bool = False

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
        return subprocess.run(
            [self.path, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )

    def image_id(self, name: str) -> str | None:
        """The id of an image that the engine has, else None."""
        try:
            done = self.ask("image", "inspect", "--format", "{{.Id}}", name)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"{self.path}: does not answer any more. Restart it, or run without --docker.") from error
        return done.stdout.strip().removeprefix("sha256:")[:12] if done.returncode == 0 else None


def find_engine(kind: str | None = None) -> Engine:
    """The engine of that kind, or the first that answers of Docker and Podman; ``LoadError`` says why none does."""
    problems = []
    for name in (kind,) if kind else KINDS:
        path = shutil.which(name)
        if path is None:
            problems.append(f"{name} is not installed")
            continue
        try:
            engine = Engine(path)
            real = "podman" if "podman" in engine.ask("--version").stdout.lower() else "docker"
            done = engine.ask("info", "--format", _ROOTLESS[real])
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


def last_line(text: str) -> str:
    """The last line that says something, without the full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it does not say why"


@dataclass(frozen=True, slots=True)
class Container:
    """Where Locust shall run; ``tree`` is mounted for load scripts that lie in it, else the script's own folder."""

    engine: Engine
    image: str
    image_id: str = ""
    tree: Path | None = None

    def argv(self, name: str, work: Path, results: Path) -> list[str]:
        """Return the engine's command line; nothing can be written there but the results and /tmp."""
        mounts = []
        for source, target, more in ((work, WORK, ",readonly"), (results, RESULTS, "")):
            check_mountable(source)
            mounts.append(f"--mount=type=bind,source={source},target={target}{more}")
        shut = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        # SELinux would hide the mounted folders, and to relabel them would change the caller's files
        shut += ["--security-opt", "label=disable"]
        run = ["run", "--rm", "--interactive", "--name", name, "--network", "host", "--pull", "never"]
        run += ["--log-driver", "none", *self.engine.user_options(), *shut, *mounts, "--workdir", str(WORK)]
        entry = ("-P", "-m", "perfkit.loadgen.container")
        return [self.engine.path, *run, "--entrypoint", "python", self.image, *entry]

    def start(self, command: LocustCommand, log_fd: int, progress_fd: int) -> subprocess.Popen[bytes]:
        """Start Locust in it; whoever calls also calls `remove`, whatever happens."""
        file, folder = command.scenario.locustfile.resolve(), self.tree.resolve() if self.tree is not None else None
        if folder is None or folder not in file.parents or folder == Path(folder.anchor):
            folder = file if file.is_dir() else file.parent
        inside = replace(command, folder=Path(RESULTS))
        job = {
            "perfkit": VERSION,
            "locustfile": str(WORK / file.relative_to(folder)),
            "options": inside.options(),
            "environment": inside.variables(),
        }
        argv = self.argv(container_name(command.folder), folder, command.folder.absolute())
        process = subprocess.Popen(
            argv, bufsize=0, stdin=subprocess.PIPE, stdout=progress_fd, stderr=log_fd, start_new_session=True
        )
        content = json.dumps(job).encode() + b"\n"
        with suppress(BrokenPipeError):  # the engine did not even start; the log says why
            while process.stdin is not None and content:  # an unbuffered pipe may take less at a time
                content = content[os.write(process.stdin.fileno(), content) :]
        return process

    def remove(self, command: LocustCommand, process: subprocess.Popen[bytes]) -> None:
        """Leave nothing of it behind, also when it still runs; ``LoadError`` where it may still make load."""
        if process.stdin is not None:
            process.stdin.close()
        name = container_name(command.folder)
        try:
            done = self.engine.ask("rm", "--force", name, timeout_s=REMOVE_TIMEOUT_S)
            if done.returncode == 0 or any(text in done.stderr.lower() for text in _GONE):
                return
            problem = last_line(done.stderr)
        except subprocess.TimeoutExpired:
            problem = f"no answer within {REMOVE_TIMEOUT_S:g} s"
        raise LoadError(
            f"container {name}: could not be removed ({problem}) and may still make load. "
            f"Say: {self.engine.kind} rm --force {name}"
        )

    def facts(self, folder: Path) -> dict[str, Any]:
        """Environment and versions in a run's container, as fields of `Run`; empty when it did not come that far."""
        try:
            facts: dict[str, Any] = json.loads((folder / "source" / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        environment = {**facts["environment"], "container": self.engine.kind}
        versions = {**facts["versions"], "image": f"{self.image} {self.image_id}".strip()}
        return {"environment": environment, "versions": versions, "tool": f"locust {versions['locust']}"}

    def startup_failure(self, log_path: Path, returncode: int, log: str) -> str | None:
        """Say why a container ended before Locust began; None when it was Locust that ended."""
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        reasons = [line.removeprefix("perfkit: ") for line in lines if line.startswith("perfkit: ")]
        reasons += [line for line in lines if "No module named perfkit" in line or "No module named 'perf" in line]
        if returncode == 0 and not lines:
            reasons.append("an older perfkit is in it, which began nothing")
        if returncode in ENGINE_CODES:
            reasons += [*(line for line in lines if "error" in line.lower()), last_line(log)]
        if not reasons:
            return None
        return (
            f"image {self.image}: {self.engine.kind} could not run Locust in it: {reasons[0].rstrip('.')}. Leave "
            f"--image out, so that one is built, or name one made from {DOCKERFILE}; {log_path} has the rest."
        )


def check_mountable(path: Path) -> None:
    """Check that a path can stand in an option that separates its parts by commas."""
    if bad := next((sign for sign in ',"\n' if sign in str(path)), None):
        raise LoadError(
            f"{path}: has {bad!r} in its path, which a container engine takes for the end of it. Rename it."
        )


def container_name(folder: Path) -> str:
    return "perfkit-" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]


# The image -----------------------------------------------------------------------------------------------------------

PACKAGE = Path(__file__).parents[1]
REPOSITORY = "perfkit-locust"
DOCKERFILE = "docker/Dockerfile.locust"
# See .dockerignore
SOURCES = ("perfkit", "notebooks", "docs", "docker", "dist", "pyproject.toml", "README.md", "LICENSE")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9][^\s]*")


def prepare_container(
    kind: str | None = None,
    image: str | None = None,
    build_arguments: tuple[str, ...] = (),
    on_message: Callable[[str], None] = lambda _: None,
) -> Container:
    """Find the engine, and build or pull the image unless it is there; ``LoadError`` where either cannot be had.

    ``kind`` is ``docker`` or ``podman``, else the first that answers; ``image`` an image that is there or can be
    pulled, else one is built from this perfkit.  ``build_arguments`` are ``NAME=VALUE``: ``BASE`` is the image to start
    from, ``PIP_INDEX_URL`` a mirror of PyPI.  ``on_message`` gets one sentence before each step that takes long.
    """
    engine = find_engine(kind)
    if image is None:
        with build_context() as (context, package):
            image = image_name(context, build_arguments)
            if engine.image_id(image) is None:
                on_message(f"building the image {image} with {engine.kind}, once; this takes a minute or two")
                _build(engine, image, context, (f"PACKAGE={package}", *build_arguments))
    elif not _IMAGE_NAME.fullmatch(image):
        raise LoadError(f"image {image!r}: is not a name of an image. Write it like registry.example/perfkit-locust:1")
    elif engine.image_id(image) is None:
        on_message(f"pulling the image {image} with {engine.kind}")
        done = subprocess.run([engine.path, "pull", image], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoadError(
                f"image {image}: is not here and cannot be pulled: {last_line(done.stderr)}. Check the name and the "
                "login, or leave --image out: perfkit then builds one."
            )
    return Container(engine, image, engine.image_id(image) or "")


@contextmanager
def build_context() -> Iterator[tuple[Path, str]]:
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


def image_name(context: Path, build_arguments: tuple[str, ...]) -> str:
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


# Inside --------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run Locust as the job on standard input says; returns its exit code, 128 + N if a signal N ended it.

    Standard output carries the recorder's progress and nothing else; what Locust and the locustfile say goes to
    standard error.  When standard input ends, whoever ordered the run is gone, and the run ends too.
    """
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: nobody may hold it when Python ends
        line = stdin.readline()
    if not line:
        raise SystemExit("perfkit: no job came in. This program is started by: perfkit run --docker")
    job: dict[str, Any] = json.loads(line)
    if job["perfkit"] != VERSION:
        raise SystemExit(f"perfkit: the image has perfkit {VERSION}, its caller {job['perfkit']}")
    if not Path(job["locustfile"]).exists():
        raise SystemExit(
            "perfkit: the locustfile did not come into the container; an engine on another machine (DOCKER_HOST) "
            "cannot mount folders of this one"
        )
    facts = {"environment": environment_fingerprint(), "versions": installed_versions()}
    try:
        folder = Path(RESULTS) / "source"
        folder.mkdir(exist_ok=True)
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"perfkit: the run folder cannot be written from the container: {error}") from error
    progress = os.dup(1)
    with start_locust(Path(job["locustfile"]), job["options"], job["environment"], 2, progress) as locust:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: locust.send_signal(number))
        os.close(progress)
        os.dup2(2, 1)  # the pipe of progress ends with Locust

        def end_when_abandoned() -> None:
            while os.read(0, 4096):
                pass
            locust.send_signal(signal.SIGINT)
            time.sleep(ORDERLY_END_S)
            locust.kill()

        threading.Thread(target=end_when_abandoned, daemon=True).start()
        code = locust.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
