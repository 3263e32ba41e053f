"""The image of a load container: built from this very perfkit, or pulled."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from perfkit.errors import LoadError
from perfkit.load.container import Container, check_mountable
from perfkit.load.engine import Engine, find_engine, last_line
from perfkit.load.own_wheel import PACKAGE, own_files, write_wheel

REPOSITORY = "perfkit-locust"
BUILD_FILES = ("Dockerfile.locust", "requirements-locust.txt")
_NAME = re.compile(r"[A-Za-z0-9][^\s]*")


@dataclass(frozen=True, slots=True)
class ContainerWish:
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


def provide_container(wish: ContainerWish, on_note: Callable[[str], None] | None = None) -> Container:
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
