"""A store in a local folder: a run is made ready in a hidden folder, and one rename makes it appear."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from uuid import uuid4

from perfkit.codec import MOST_BYTES
from perfkit.errors import StoreError
from perfkit.readers.run_folder import DOCUMENT
from perfkit.store.place import HIDDEN, Parcel

INCOMING, OUTGOING = ".incoming-", ".outgoing-"
HALF_MADE = (f"{INCOMING}*", f"{OUTGOING}*", ".index/.*", ".noise/.*", ".quarantine/.*")  # `write` makes the latter


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """Run folders below a local folder, which is made when the first is written."""

    url: str
    root: Path
    keeps_requests: bool = True

    @property
    def folder(self) -> Path | None:
        return self.root

    def where(self, path: str) -> str:
        return str(self.root / path)

    def names(self) -> list[str]:
        every = self._entries()  # isdir() follows links, and does not raise where it may not look
        return sorted(item.name for item in every if item.is_dir(follow_symlinks=False) or os.path.isdir(item))  # noqa: PTH112

    def _entries(self) -> list[os.DirEntry[str]]:
        """Of the folder; they know what they are without being asked one by one."""
        try:
            with os.scandir(self.root) as found:
                return [item for item in found if not item.name.startswith(HIDDEN)]
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise StoreError(f"{self.url}: is a file; a store is a folder of runs") from error
        except OSError as error:
            raise StoreError(f"{self.url}: cannot be listed: {error.strerror}") from error

    def stamps(self) -> dict[str, str]:
        found = {}
        prefix = f"{self.root}{os.sep}"
        for item in self._entries():
            try:
                facts = os.stat(f"{prefix}{item.name}{os.sep}{DOCUMENT}")  # noqa: PTH116 - a Path costs ten times as much
            except OSError:
                continue
            found[item.name] = f"{facts.st_mtime_ns:x}.{facts.st_size:x}"
        return found

    def inside(self, path: str) -> dict[str, int]:
        """Files and folders below that go away or may not be read while it looks are left out, as are links."""
        top, found = self._own(path), {}

        def refuse(error: OSError) -> None:
            if error.filename == str(top) and not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for folder, _, names in os.walk(top, onerror=refuse):
            begin = os.path.relpath(folder, top)
            for name in names:
                with suppress(OSError):
                    facts = os.lstat(f"{folder}{os.sep}{name}")
                    if S_ISREG(facts.st_mode):
                        found[name if begin == "." else f"{Path(begin).as_posix()}/{name}"] = facts.st_size
        return found

    def _own(self, path: str) -> Path:
        """A path in the store; ``OSError`` for one that symbolic links lead out of it."""
        whole, text = self.root / path, str(self.root)
        for part in Path(path).parts:
            text = f"{text}{os.sep}{part}"
            if os.path.islink(text) and not whole.resolve().is_relative_to(self.root.resolve()):  # noqa: PTH114 - see above
                raise OSError(errno.EXDEV, "a symbolic link leads out of the store, and is not followed", str(whole))
        return whole

    def read(self, path: str) -> bytes:
        file = self._own(path)
        facts = file.stat()
        if not S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(file))
        if facts.st_size > MOST_BYTES:
            raise OSError(errno.EOVERFLOW, f"holds {facts.st_size:,} bytes; at most {MOST_BYTES:,} are read", str(file))
        return file.read_bytes()

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        for path in paths:
            try:
                yield path, self.read(path)
            except OSError as error:
                yield path, error

    def exists(self, path: str) -> bool:
        return os.path.isfile(self.root / path)  # noqa: PTH113 - a Path raises where it may not look

    def fetch(self, path: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._own(path), to)

    def write(self, path: str, content: bytes) -> None:
        target = self._own(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{HIDDEN}{target.name}.{uuid4().hex[:12]}")
        try:
            partial.write_bytes(content)
            _settle(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        (self._own(folder) / name).unlink(missing_ok=True)

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            gone = self.root / f"{OUTGOING}{uuid4().hex[:12]}"
            try:
                (self.root / run_id).rename(gone)
            except FileNotFoundError:
                continue
            if gone.is_symlink() or gone.is_file():
                gone.unlink()  # what a link points to was never part of the store
            else:
                shutil.rmtree(gone)

    def leftovers(self, older_than_s: float) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in (item for pattern in HALF_MADE for item in self.root.glob(pattern)):
            with suppress(OSError):  # its writer was done meanwhile
                if time.time() - path.lstat().st_mtime > older_than_s:
                    name = path.relative_to(self.root).as_posix()
                    found[name] = sum(self.inside(name).values()) if path.is_dir() else path.lstat().st_size
        return found

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """In the store itself, so that a rename brings it to its place."""
        folder = self.root / f"{INCOMING}{uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, parcels: Sequence[Parcel]) -> list[bool]:
        return [self._publish(parcel) for parcel in parcels]

    def _publish(self, parcel: Parcel) -> bool:
        """A rename onto a folder that is not empty fails: of two writers with one id exactly one gets it."""
        target = self.root / parcel.run_id
        for file in sorted(item for item in parcel.folder.rglob("*") if item.is_file()):
            _settle(file)
        try:
            parcel.folder.rename(target)
        except OSError:
            if target.exists():
                return False
            raise
        _settle(self.root)
        return True


def _settle(path: Path) -> None:
    """To the disk, so that a run which was reported as stored outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
