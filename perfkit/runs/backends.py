"""What a store needs of the place where it lives, and which place a URL names.

Git's plumbing, as far as a store needs it: blobs in, trees and commits out, a branch moved from a known commit.

A store on a branch of a git repository: summaries only, for continuous integration that has nothing else.

The branch has a root of its own and is never checked out.  It moves only from the commit that was read, so that of two
writers at once the second tries again on top of the first.  What can be derived again is kept in git's own folder.

A store in a local folder: a run is made ready in a hidden folder, and one rename makes it appear.

A store on an object store or any other fsspec file system, where nothing can be renamed at once.

A writer claims the folder by creating a small file that only one writer can create, then writes the requests, then
``run.json``.  Until that is there, the folder is not a run.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from perfkit.config.toml_table import expand
from perfkit.model.codec import MOST_BYTES
from perfkit.model.errors import MissingExtra, SettingsError, StoreError
from perfkit.model.installation import extra_advice
from perfkit.model.redaction import conceal_url, public_url
from perfkit.runs.git import Answer, Git, GitError
from perfkit.runs.run_folder import DOCUMENT

NOBODY = {"NAME": "perfkit", "EMAIL": "perfkit@localhost"}  # commits where git knows no author, as on a fresh runner


@dataclass(frozen=True, slots=True)
class GitStorage:
    """The objects and branches of a repository."""

    place: str  # as errors name it
    repository: Path

    def __call__(self, *words: str, given: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes:
        """What git prints; ``StoreError`` with its own words when it refuses."""
        answer = self._answer(words, given, extra)
        if answer.code:
            raise StoreError(f"{self.place}: git {words[0]}: {answer.errors.strip()}")
        return answer.output

    def ask(self, *words: str) -> bytes | None:
        """What git prints, or ``None`` when it says no."""
        answer = self._answer(words, b"", None)
        return None if answer.code else answer.output

    def _answer(self, words: Sequence[str], given: bytes, extra: Mapping[str, str] | None) -> Answer:
        try:
            return Git(self.repository).ask(*words, stdin=given, environment=extra)
        except GitError as error:
            raise StoreError(f"{self.place}: {error}") from error

    def blobs(self, commit: str) -> dict[str, tuple[str, int]]:
        """Every file of a commit: its hash and its size in bytes, 0 when git has lost it."""
        found = {}
        for line in os.fsdecode(self("ls-tree", "--full-tree", "-r", "-l", "-z", commit)).split("\0"):
            facts, _, path = line.partition("\t")
            if path and facts.split()[1] == "blob":
                _, _, blob, size = facts.split()
                found[path] = blob, int(size) if size.isdigit() else 0
        return found

    def contents(self, blobs: Sequence[str]) -> list[bytes | None]:
        """Of several blobs, from one process; ``None`` for what git has lost."""
        answer = self("cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode())
        found: list[bytes | None] = []
        at = 0
        for _ in blobs:
            begin = answer.index(b"\n", at) + 1
            size = answer[at : begin - 1].split()[-1]
            if size == b"missing":
                at = begin
                found.append(None)
                continue
            at = begin + int(size) + 1
            found.append(answer[begin : at - 1])
        return found

    def checked_out_in(self, ref: str) -> str | None:
        """The working tree that shows a branch, if any does."""
        tree = ""
        for line in os.fsdecode(self("worktree", "list", "--porcelain")).splitlines():
            word, _, rest = line.partition(" ")
            tree = rest if word == "worktree" else tree
            if line == f"branch {ref}":
                return tree
        return None

    def commit(self, tip: str | None, changes: Mapping[str, bytes | None], message: str) -> str:
        """A commit on top of ``tip`` with some files put there and others (``None``) taken away; moves nothing."""
        with tempfile.TemporaryDirectory(prefix="perfkit-git-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if tip is not None:
                self("read-tree", tip, extra=index)
            lines = self._lines(Path(folder), changes, "0" * len(tip or ""))
            self("update-index", "-z", "--index-info", given=os.fsencode("".join(lines)), extra=index)
            tree = self("write-tree", extra=index).decode().strip()
        parents = ["-p", tip] if tip is not None else []
        return self("commit-tree", tree, *parents, "-m", message, extra=self._author()).decode().strip()

    def _lines(self, folder: Path, changes: Mapping[str, bytes | None], nothing: str) -> list[str]:
        """For ``update-index --index-info``, where the mode 0 takes a file away; ``nothing`` is a hash of zeros."""
        new = {path: content for path, content in changes.items() if content is not None}
        for number, content in enumerate(new.values()):
            (folder / str(number)).write_bytes(content)
        files = "".join(f"{folder / str(number)}\n" for number in range(len(new)))
        hashes = self("hash-object", "-w", "--no-filters", "--stdin-paths", given=os.fsencode(files)).decode().split()
        lines = [f"100644 {blob}\t{path}\0" for path, blob in zip(new, hashes, strict=True)]
        return lines + [f"0 {nothing}\t{path}\0" for path in changes if path not in new]

    def _author(self) -> dict[str, str]:
        if self.ask("var", "GIT_COMMITTER_IDENT") is not None:
            return {}
        return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in NOBODY.items()}


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

    def folders(self) -> list[str]:
        return sorted({path.split("/")[0] for path in self._blobs() if "/" in path and not path.startswith(HIDDEN)})

    def version_tags(self) -> dict[str, str]:
        """The hash of each document, as git knows it."""
        every = ((path.split("/"), blob) for path, (blob, _) in self._blobs().items())
        return {parts[0]: blob for parts, blob in every if parts[1:] == [DOCUMENT] and not parts[0].startswith(HIDDEN)}

    def files(self, path: str) -> dict[str, int]:
        begin = f"{path}/" if path else ""
        if begin.startswith(DERIVED):
            return self._beside.files(path)
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

    def publish(self, parcels: Sequence[StagedRun]) -> list[bool]:
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

    def folders(self) -> list[str]:
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

    def version_tags(self) -> dict[str, str]:
        found = {}
        prefix = f"{self.root}{os.sep}"
        for item in self._entries():
            try:
                facts = os.stat(f"{prefix}{item.name}{os.sep}{DOCUMENT}")  # noqa: PTH116 - a Path costs ten times as much
            except OSError:
                continue
            found[item.name] = f"{facts.st_mtime_ns:x}.{facts.st_size:x}"
        return found

    def files(self, path: str) -> dict[str, int]:
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
                    found[name] = sum(self.files(name).values()) if path.is_dir() else path.lstat().st_size
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

    def publish(self, parcels: Sequence[StagedRun]) -> list[bool]:
        return [self._publish(parcel) for parcel in parcels]

    def _publish(self, parcel: StagedRun) -> bool:
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

    def folders(self) -> list[str]:
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

    def version_tags(self) -> dict[str, str]:
        return dict.fromkeys(self.folders(), "")

    def files(self, path: str) -> dict[str, int]:
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
        for name in self.folders():
            if self.exists(f"{name}/{CLAIM}") and not self.exists(f"{name}/{DOCUMENT}"):
                with self._spoken():
                    claimed_at = self.fs.modified(self._path(f"{name}/{CLAIM}"))
                if (datetime.now(UTC) - claimed_at).total_seconds() > older_than_s:
                    found[name] = sum(self.files(name).values())
        return found

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="perfkit-store-") as name:
            yield Path(name)

    def publish(self, parcels: Sequence[StagedRun]) -> list[bool]:
        return [self._publish(parcel) for parcel in parcels]

    def _publish(self, parcel: StagedRun) -> bool:
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

    def _claimed(self, parcel: StagedRun) -> bool:
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


S3 = ("s3://", "s3a://")
HIDDEN = "."  # first letter of the names that are no runs
CLAIM = ".claim"  # file in a folder elsewhere: the identity of the run that may use it; stays, for late writers to see
GIT = "git+branch://"
CREDENTIALS = "PERFKIT_STORE"  # variable: addresses of stores with user info or query, separated by blanks
_ADDRESSES: dict[str, str] = {}  # of this process: public to full


@dataclass(frozen=True, slots=True)
class StagedRun:
    """A whole run in a local folder, ready to be published under an id.

    ``identity`` is the same for the same measurements of the same scenario, and for nothing else.
    """

    folder: Path
    run_id: str
    identity: str


class Backend(Protocol):
    """A flat folder of run folders; paths are relative to it, with ``/`` between their parts.

    Reading raises `FileNotFoundError` for what is not there and other `OSError` for what cannot be read.
    """

    @property
    def url(self) -> str:
        """As it was given."""

    @property
    def keeps_requests(self) -> bool:
        """Whether it takes more than the summaries."""

    @property
    def folder(self) -> Path | None:
        """The local folder, or ``None`` when it is elsewhere."""

    def where(self, path: str) -> str:
        """The full address of a path, for people and for `Run.source`."""

    def folders(self) -> list[str]:
        """Of all folders in it but hidden ones, sorted; empty while the place does not exist."""

    def version_tags(self) -> dict[str, str]:
        """Names of folders that may hold a run, each with what differs when its ``run.json`` does.

        A place that cannot say cheaply which folders are runs names them all, each with the same stamp.
        """

    def files(self, path: str) -> dict[str, int]:
        """Names and sizes in bytes of all files below a path, relative to it; empty when it is not there."""

    def read(self, path: str) -> bytes:
        """A whole file."""

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Files in the order given, or why they could not be read."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def fetch(self, path: str, to: Path) -> None:
        """Copy a file to local disk."""

    def write(self, path: str, content: bytes) -> None:
        """Put a derived file there, whole or not at all, in place of what was there."""

    def remove(self, path: str) -> None:
        """Take away a derived file or one file of a run; nothing happens when it is not there."""

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        """Take run folders away; none is ever seen half."""

    def leftovers(self, older_than_s: float) -> dict[str, int]:
        """What a killed writer left half made so long ago, with its bytes; `remove_runs` takes it away."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local folder in which a run is made ready; gone afterwards."""

    def publish(self, parcels: Sequence[StagedRun]) -> list[bool]:
        """Make runs appear, each whole or not at all; False for one whose id another run has."""


def full_address(url: str) -> str:
    """The address of a store with what opens it: variables looked up, credentials of a public address found again.

    They stand in `CREDENTIALS`, or were used by this process before.
    """
    if "${" in url:
        url = expand(url, "store")
    conceal_url(url)
    for address in os.environ.get(CREDENTIALS, "").split():
        _remember(address)
    _remember(url)
    return _ADDRESSES.get(url, url)


def _remember(address: str) -> None:
    public = public_address(address)
    if public != address:
        conceal_url(address)
        _ADDRESSES[public] = address


def credentials_for_children() -> dict[str, str]:
    """The variable from which another process of ours opens the stores that this one did."""
    return {CREDENTIALS: "\n".join(_ADDRESSES.values())} if _ADDRESSES else {}


def public_address(url: str) -> str:
    """The address of a store as it may be shown; the path of a folder is none that could hold a password."""
    return public_url(url) if "://" in url else url


def open_backend(url: str) -> Backend:
    """The place that a URL names; ``MissingExtra`` when the package that opens it is not installed."""
    import fsspec

    shown = public_address(url)
    if url.startswith(GIT):
        pass

        return GitBranch.from_url(url)
    try:
        if "://" in url:
            _ = urlsplit(url).port  # file systems look at host and port only when they are used
    except ValueError as error:
        raise SettingsError(f"{shown}: is not the URL of a store: {error}") from error
    try:
        fs, root = fsspec.core.url_to_fs(_without_keys(url), **_keys(url))
    except ImportError as error:
        raise MissingExtra(f"{shown}: {_how_to_install(shown, error)}") from error
    except ValueError as error:
        raise MissingExtra(f"{shown}: {error}") from error
    except OSError as error:
        raise StoreError(f"{shown}: cannot be reached: {error.strerror or error}") from error
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    if "file" in protocols:
        pass

        return LocalFolder(shown, Path(root))
    pass

    return RemoteFolder(shown, fs, root.rstrip("/"), protocols)


def _keys(url: str) -> dict[str, str]:
    """Key and secret in the address of a bucket, which s3fs takes as options."""
    parts = urlsplit(url) if url.startswith(S3) else None
    if parts is None or parts.username is None:
        return {}
    return {"key": unquote(parts.username), "secret": unquote(parts.password or "")}


def _without_keys(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if _keys(url) else url


def _how_to_install(url: str, error: ImportError) -> str:
    if url.split("://")[0] in ("s3", "s3a"):
        return f"needs the package s3fs; {extra_advice('s3')}"
    return f"a package that opens it is not installed: {error}"
