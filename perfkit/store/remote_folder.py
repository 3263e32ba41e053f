"""A store on an object store or any other fsspec file system, where nothing can be renamed at once.

A writer claims the folder by creating a small file that only one writer can create, then writes the requests, then
``run.json``.  Until that is there, the folder is not a run.
"""

from __future__ import annotations

import posixpath
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from perfkit.errors import StoreError
from perfkit.readers.run_folder import DOCUMENT
from perfkit.redaction import public_url
from perfkit.store.place import CLAIM, HIDDEN, Parcel

AT_ONCE = 500  # files asked for in one batch
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # they have no folders that had to be made


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """Run folders below a path of an fsspec file system."""

    url: str
    fs: Any
    root: str
    protocols: tuple[str, ...]
    keeps_requests: bool = True

    @property
    def folder(self) -> Path | None:
        return None

    def where(self, path: str) -> str:
        full = str(self.fs.unstrip_protocol(self._path(path)))
        public = public_url(full)
        return full if public == full else f"{self.url.rstrip('/')}/{path}"

    def _path(self, path: str) -> str:
        return posixpath.join(self.root, path)

    def names(self) -> list[str]:
        found = self._listed(self.root)
        names = (posixpath.basename(item["name"].rstrip("/")) for item in found if item["type"] == "directory")
        return sorted(name for name in names if name and not name.startswith(HIDDEN))

    def _listed(self, path: str) -> list[dict[str, Any]]:
        with self._spoken():
            self.fs.invalidate_cache()
            try:
                found: list[dict[str, Any]] = self.fs.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            except OSError as error:
                raise self._unreadable(error) from error
        own = [item for item in found if item["name"].strip("/") == path.strip("/")]
        if own and own[0]["type"] == "file" and own[0]["size"]:
            raise StoreError(f"{self.url}: is a file; a store is a folder of runs")
        return [item for item in found if item not in own]

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """What goes wrong before a server answers is told like everything else, not as an error of another library."""
        botocore = sys.modules.get("botocore.exceptions")
        foreign: tuple[type[BaseException], ...] = (botocore.BotoCoreError,) if botocore is not None else ()
        try:
            yield
        except foreign as error:
            raise StoreError(f"{self.url}: cannot be reached: {error}") from error

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError(f"{self.url}: cannot be read: {error.strerror or error}")

    def stamps(self) -> dict[str, str]:
        return dict.fromkeys(self.names(), "")

    def inside(self, path: str) -> dict[str, int]:
        top = self._path(path)
        with self._spoken():
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(top, detail=True)
            except FileNotFoundError:
                return {}
            except OSError as error:
                raise self._unreadable(error) from error
        begin = len(top.strip("/")) + 1
        return {name.strip("/")[begin:]: int(facts["size"]) for name, facts in found.items()}

    def read(self, path: str) -> bytes:
        with self._spoken():
            content: bytes = self.fs.cat_file(self._path(path))
        return content

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        for begin in range(0, len(paths), AT_ONCE):
            batch = paths[begin : begin + AT_ONCE]
            with self._spoken():
                found = self.fs.cat([self._path(path) for path in batch], on_error="return")
            by_name = {name.strip("/"): content for name, content in found.items()}
            for path in batch:
                content = by_name.get(self._path(path).strip("/"), FileNotFoundError(path))
                yield path, content if isinstance(content, bytes | OSError) else OSError(str(content))

    def exists(self, path: str) -> bool:
        with self._spoken():
            self.fs.invalidate_cache()
            try:  # isfile() would say no when the server does not answer
                return bool(self.fs.info(self._path(path))["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError as error:
                raise self._unreadable(error) from error

    def fetch(self, path: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._spoken():
            self.fs.get_file(self._path(path), str(to))

    def write(self, path: str, content: bytes) -> None:
        """One PUT, or a move where files have names of their own."""
        target = self._path(path)
        with self._spoken():
            self._make_folder(target)
            if self._is_object_store:
                self.fs.pipe_file(target, content)
                return
            partial = f"{target}.{uuid4().hex[:8]}.partial"
            self.fs.pipe_file(partial, content)
            self.fs.mv(partial, target)

    @property
    def _is_object_store(self) -> bool:
        return bool(OBJECT_STORES.intersection(self.protocols))

    def _make_folder(self, path: str) -> None:
        if not self._is_object_store:
            self.fs.makedirs(posixpath.dirname(path), exist_ok=True)

    def remove(self, path: str) -> None:
        with self._spoken():
            try:
                self.fs.rm_file(self._path(path))
            except FileNotFoundError:
                return

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            self.remove(f"{run_id}/{DOCUMENT}")  # from now on it is not a run
            with self._spoken():
                self.fs.invalidate_cache()
                if self.fs.exists(self._path(run_id)):
                    self.fs.rm(self._path(run_id), recursive=True)

    def leftovers(self, older_than_s: float) -> dict[str, int]:
        """Folders that were claimed so long ago and never finished."""
        found = {}
        for name in self.names():
            if self.exists(f"{name}/{CLAIM}") and not self.exists(f"{name}/{DOCUMENT}"):
                with self._spoken():
                    claimed_at = self.fs.modified(self._path(f"{name}/{CLAIM}"))
                if (datetime.now(UTC) - claimed_at).total_seconds() > older_than_s:
                    found[name] = sum(self.inside(name).values())
        return found

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="perfkit-store-") as name:
            yield Path(name)

    def publish(self, parcels: Sequence[Parcel]) -> list[bool]:
        return [self._publish(parcel) for parcel in parcels]

    def _publish(self, parcel: Parcel) -> bool:
        if not self._claimed(parcel):
            return False
        for file in sorted(item for item in parcel.folder.rglob("*") if item.is_file()):
            name = file.relative_to(parcel.folder).as_posix()
            if name != DOCUMENT:
                target = self._path(f"{parcel.run_id}/{name}")
                with self._spoken():
                    self._make_folder(target)
                    self.fs.put_file(str(file), target)
        self._finish(f"{parcel.run_id}/{DOCUMENT}", (parcel.folder / DOCUMENT).read_bytes())
        return True

    def _finish(self, path: str, content: bytes) -> None:
        """An object appears whole; a file is visible while it is written, and has to be moved to its place."""
        if self._is_object_store:
            self._create(path, content)
        elif not self.exists(path):
            self.write(path, content)

    def _claimed(self, parcel: Parcel) -> bool:
        """Read back what is there: not every server that is asked to create refuses to overwrite."""
        claim, own = f"{parcel.run_id}/{CLAIM}", parcel.identity.encode()
        if self.exists(f"{parcel.run_id}/{DOCUMENT}") and not self.exists(claim):
            return False  # written by something that knows no claims
        self._create(claim, own)
        return self.read(claim) == own

    def _create(self, path: str, content: bytes) -> bool:
        target = self._path(path)
        with self._spoken():
            self._make_folder(target)
            try:
                self.fs.pipe_file(target, content, mode="create")
            except OSError:  # FileExistsError, or what a server says when two create it at the same instant
                if self.exists(path):
                    return False
                raise
        return True
