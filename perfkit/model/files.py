"""Files that appear whole or not at all, and a lock for those that are read, changed and written again.

A file is written under a hidden name beside its own and renamed, which POSIX and NTFS do in one step within a folder.
A process that is killed leaves the hidden file behind and the old content in place.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from perfkit.model.redaction import redact_bytes


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to a file; creates its folder.  The old content stays until the new is complete.

    A link stays a link, and a device is written to.  ``OSError``: it could not be written, such as on a full disk;
    nothing new is left behind.
    """
    path = path.resolve()
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A hidden path in the same folder, to write to; it becomes ``path`` at the end, or is removed after an exception.

    ``durable`` waits until the file is on the disk before it gets its name.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        yield partial
        if durable:
            sync_to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that it outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder of ``path``, which is created; it ends with its process.  Not on Windows."""
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def login() -> str:
    """The name of who runs this; empty where there is none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def redact_files(folder: Path) -> tuple[str, ...]:
    """`redact` every text file of a folder, each whole or not at all; returns the names of those that were changed."""
    changed = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        before = file.read_bytes()
        after = redact_bytes(before)
        if after != before:
            atomic_write(file, after)
            changed.append(file.relative_to(folder).as_posix())
    return tuple(changed)
