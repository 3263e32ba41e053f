"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to a file, making its folder; what was there stays until the new is complete.

    Raises
    ------
    OSError
        It could not be written, such as on a full disk; nothing new is left behind.
    """
    path = path.resolve()  # a link goes on pointing where it did
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode() if isinstance(text, str) else text
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(content)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While this lasts, no other process that asks for the same is at work in the file's folder, which is made.

    For files that are read, changed and written again.  The lock is on the folder, so nothing is left behind, also by
    who is killed.  On Windows there is none.

    Raises
    ------
    OSError
        The folder cannot be made or opened.
    """
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
