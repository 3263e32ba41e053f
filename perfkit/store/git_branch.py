"""A store on a branch of a git repository: summaries only, for continuous integration that has nothing else.

The branch has a root of its own and is never checked out.  It moves only from the commit that was read, so that of two
writers at once the second tries again on top of the first.  What can be derived again is kept in git's own folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from perfkit.errors import StoreError
from perfkit.readers.run_folder import DOCUMENT
from perfkit.store.git import GitStorage
from perfkit.store.local_folder import LocalFolder
from perfkit.store.place import GIT, HIDDEN, Parcel

DERIVED = (".index/", ".noise/")
ATTEMPTS = 20  # of moving a branch that no other writer moves meanwhile; git itself waits 0.1 s each time
KNOWN = "known is ?repository=PATH"
ANOTHER = "name a branch that nobody works on"
Changes = Callable[[set[str]], Mapping[str, bytes | None]]  # from the names at the branch's root


@dataclass(frozen=True, slots=True)
class GitBranch:
    """Run folders that hold ``run.json`` alone, on a branch of a repository."""

    url: str
    git: GitStorage
    branch: str
    keeps_requests: bool = False

    @classmethod
    def from_url(cls, url: str) -> GitBranch:
        """``git+branch://NAME``, the repository of this folder, or ``git+branch://NAME?repository=PATH``."""
        address, _, query = url.removeprefix(GIT).partition("?")
        part, _, path = query.partition("=")
        if query and (part != "repository" or not path):
            raise StoreError(f"{url}: unknown part {query if part == 'repository' else part!r}; {KNOWN}")
        branch, repository = unquote(address), unquote(path) or "."
        if "\0" in branch + repository:
            raise StoreError(f"{url}: holds the letter NUL, which no name may")
        place = cls(url, GitStorage(url, Path(repository)), branch)
        place.git("rev-parse", "--git-dir")
        if place.git.ask("check-ref-format", place._ref) is None:
            raise StoreError(f"{url}: {branch!r} is not the name of a branch; write {GIT}perf-history")
        return place

    @property
    def folder(self) -> Path | None:
        return None

    @property
    def _ref(self) -> str:
        return f"refs/heads/{self.branch}"

    @property
    def _beside(self) -> LocalFolder:
        shared = os.fsdecode(self.git("rev-parse", "--git-common-dir").rstrip(b"\n"))
        return LocalFolder(self.url, self.git.repository / shared / "perfkit" / "store" / self.branch)

    def _tip(self) -> str | None:
        found = self.git.ask("rev-parse", "--verify", "--quiet", f"{self._ref}^{{commit}}")
        return found.decode().strip() if found is not None else None

    def _blobs(self) -> Mapping[str, tuple[str, int]]:
        tip = self._tip()
        return _files(self.git, tip) if tip is not None else {}

    def where(self, path: str) -> str:
        return f"{self.url}/{path}"

    def names(self) -> list[str]:
        return sorted({path.split("/")[0] for path in self._blobs() if "/" in path and not path.startswith(HIDDEN)})

    def stamps(self) -> dict[str, str]:
        """The hash of each document, as git knows it."""
        every = ((path.split("/"), blob) for path, (blob, _) in self._blobs().items())
        return {parts[0]: blob for parts, blob in every if parts[1:] == [DOCUMENT] and not parts[0].startswith(HIDDEN)}

    def inside(self, path: str) -> dict[str, int]:
        begin = f"{path}/" if path else ""
        if begin.startswith(DERIVED):
            return self._beside.inside(path)
        return {name[len(begin) :]: size for name, (_, size) in self._blobs().items() if name.startswith(begin)}

    def read(self, path: str) -> bytes:
        if path.startswith(DERIVED):
            return self._beside.read(path)
        ((_, content),) = self.read_many([path])
        if isinstance(content, OSError):
            raise content
        return content

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        blobs = self._blobs()
        there = [path for path in paths if path in blobs]
        contents = dict(zip(there, self.git.contents([blobs[path][0] for path in there]), strict=True))
        for path in paths:
            content = contents.get(path, b"") if path in blobs else FileNotFoundError(self.where(path))
            yield path, OSError("git has lost its content; see git fsck") if content is None else content

    def exists(self, path: str) -> bool:
        if path.startswith(DERIVED):
            return self._beside.exists(path)
        return path in self._blobs()

    def fetch(self, path: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(self.read(path))

    def write(self, path: str, content: bytes) -> None:
        if path.startswith(DERIVED):
            self._beside.write(path, content)
        else:
            self._commit(lambda _: {path: content}, f"perfkit: {path}")

    def remove(self, path: str) -> None:
        if path.startswith(DERIVED):
            self._beside.remove(path)
        elif self.exists(path):
            self._commit(lambda _: {path: None}, f"perfkit: without {path}")

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        gone = set(run_ids)
        paths = [path for path in self._blobs() if path.split("/")[0] in gone]
        if paths:
            self._commit(lambda _: dict.fromkeys(paths), f"perfkit: without {_count(len(gone))}")

    def leftovers(self, older_than_s: float) -> dict[str, int]:  # noqa: ARG002 - part of what a place is
        """None: a commit is whole or not there."""
        return {}

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="perfkit-store-") as name:
            yield Path(name)

    def publish(self, parcels: Sequence[Parcel]) -> list[bool]:
        """All of them in one commit."""
        published: dict[str, bool] = {}

        def new_ones(taken: set[str]) -> Mapping[str, bytes | None]:
            published.update({parcel.run_id: parcel.run_id not in taken for parcel in parcels})
            new = [parcel for parcel in parcels if published[parcel.run_id]]
            return {f"{parcel.run_id}/{DOCUMENT}": (parcel.folder / DOCUMENT).read_bytes() for parcel in new}

        self._commit(new_ones, f"perfkit: {parcels[0].run_id if len(parcels) == 1 else _count(len(parcels))}")
        return [published[parcel.run_id] for parcel in parcels]

    def _commit(self, changes: Changes, message: str) -> None:
        """Change files of the branch on top of whatever is there when it succeeds."""
        if (tree := self.git.checked_out_in(self._ref)) is not None:
            raise StoreError(f"{self.url}: is checked out in {tree}, where runs would seem deleted; {ANOTHER}")
        in_vain = 0
        while True:
            tip = self._tip()
            listed = self.git("ls-tree", "--full-tree", "-z", "--name-only", tip) if tip is not None else b""
            wanted = changes(set(os.fsdecode(listed).split("\0")))
            if not wanted:
                return
            commit = self.git.commit(tip, wanted, message)
            try:
                self.git("update-ref", self._ref, commit, tip or "")
                return
            except StoreError:  # another writer was quicker, or is about to be
                in_vain = in_vain + 1 if self._tip() == tip else 0
                if in_vain == ATTEMPTS:
                    raise


@lru_cache(maxsize=4)
def _files(git: GitStorage, commit: str) -> Mapping[str, tuple[str, int]]:
    """Those of a commit never change."""
    return git.blobs(commit)


def _count(runs: int) -> str:
    return f"{runs} run" if runs == 1 else f"{runs} runs"
