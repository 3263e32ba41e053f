"""The back ends of a store: a local folder, any fsspec file system, or a branch of a git repository.

`Backend` is what a store needs of them; `open_backend` opens the one that a URL names.

- `LocalFolder` prepares a run in a hidden folder, and one rename publishes it.
- `RemoteFolder` cannot rename a folder at once.  A writer claims the run's folder by creating a small file that only
  one writer can create, then writes the requests, then ``run.json``.  Until that is there, the folder is not a run.
- `GitBranch` keeps summaries only, for CI that has no other storage.  The branch has a root of its own and is never
  checked out.  It moves only from the commit that was read: of two writers at once, the second tries again.

The path of a file in a store is relative, with ``/`` between its parts.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from perfkit.model.codec import MOST_BYTES
from perfkit.model.errors import MissingExtra, SettingsError, StoreError, refusals
from perfkit.model.files import atomic_path, sync_to_disk
from perfkit.model.installation import extra_advice
from perfkit.model.redaction import conceal_url, public_url
from perfkit.runs.git import Git, GitError

DOCUMENT = "run.json"  # a folder that holds it is a run
HIDDEN = "."  # first letter of the names that are no runs
CLAIM = ".claim"  # file in a run's remote folder: the identity of the run that may use it; it stays, for late writers
GIT = "git+branch://"
CREDENTIALS = "PERFKIT_STORE"  # variable: addresses of stores with user info or query, separated by blanks
_ADDRESSES: dict[str, str] = {}  # of this process: public to full
Answer = TypeVar("Answer")


def document_path(run_id: str) -> str:
    """The path of a run's document in its store; ``StoreError`` for what cannot be the name of a run folder."""
    if "/" in run_id or "\\" in run_id or "\0" in run_id or run_id.startswith(HIDDEN) or not run_id:
        raise StoreError(f"run id {run_id!r}: is not the name of a run folder")
    return f"{run_id}/{DOCUMENT}"


@dataclass(frozen=True, slots=True)
class StagedRun:
    """A whole run in a local folder, ready to be published; ``identity`` is that of its measurements and scenario."""

    folder: Path
    run_id: str
    identity: str


class Backend(ABC):
    """A flat folder of run folders, somewhere.

    Reading raises `FileNotFoundError` for what is not there and other `OSError` for what cannot be read.
    """

    url: str  # the address of the store, without credentials
    keeps_requests = True  # whether it takes more than the summaries

    @property
    def folder(self) -> Path | None:
        """The local folder; ``None`` when it is elsewhere."""
        return None

    @property
    def derived(self) -> Backend:
        """Where the files are kept that were computed from the runs."""
        return self

    def where(self, path: str) -> str:
        """The full address of a path, for people and for `Run.source`."""
        return posixpath.join(self.url, path)

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of all folders but hidden ones, sorted; empty while the store does not exist."""

    def version_tags(self) -> dict[str, str]:
        """Names of folders that may hold a run, each with a text that differs when its ``run.json`` does.

        A back end that cannot say cheaply which folders are runs names them all, each with the same tag.
        """
        return dict.fromkeys(self.folders(), "")

    @abstractmethod
    def files(self, path: str) -> dict[str, int]:
        """Names and sizes in bytes of all files below a path, relative to it; empty when it is not there."""

    @abstractmethod
    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Whole files in the order given, or why they could not be read."""

    def read(self, path: str) -> bytes:
        ((_, content),) = self.read_many([path])
        if isinstance(content, OSError):
            raise content
        return content

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def fetch(self, path: str, to: Path) -> None:
        """Copy a file to local disk, into a folder that is there."""
        to.write_bytes(self.read(path))

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a file, whole or not at all, in place of what was there."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; nothing happens when it is not there."""

    @abstractmethod
    def remove_runs(self, run_ids: Iterable[str]) -> None:
        """Remove run folders; none is ever seen half."""

    def leftovers(self, older_than_s: float) -> dict[str, int]:  # noqa: ARG002 - none, where a write is whole or not there
        """What a killed writer left half made so long ago, with its bytes; `remove_runs` removes it."""
        return {}

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty local folder in which a run is prepared; gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="perfkit-store-") as name:
            yield Path(name)

    @abstractmethod
    def publish(self, staged: Sequence[StagedRun]) -> list[bool]:
        """Make runs appear, each whole or not at all; False for one whose id another run has."""


INCOMING, OUTGOING = ".incoming-", ".outgoing-"
HALF_MADE = (f"{INCOMING}*", f"{OUTGOING}*", ".index/.*", ".noise/.*", ".quarantine/.*")  # `write` makes the latter


@dataclass(frozen=True, slots=True)
class LocalFolder(Backend):
    """Run folders below a local folder, which is made when the first is written."""

    url: str
    root: Path

    @property
    def folder(self) -> Path | None:
        return self.root

    def where(self, path: str) -> str:
        return f"{self.root}{os.sep}{path}"  # asked for each run of a list: a Path costs ten times as much

    def _entries(self) -> list[os.DirEntry[str]]:
        """The visible entries of the folder, which know their kind without a call for each."""
        try:
            with os.scandir(self.root) as entries:
                return [entry for entry in entries if not entry.name.startswith(HIDDEN)]
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise StoreError(f"{self.url}: is a file; a store is a folder of runs") from error
        except OSError as error:
            raise StoreError(f"{self.url}: cannot be listed: {error.strerror}") from error

    def folders(self) -> list[str]:
        # isdir() follows links, and does not raise where it may not look
        entries = self._entries()
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) or os.path.isdir(entry))  # noqa: PTH112

    def version_tags(self) -> dict[str, str]:
        tags = {}
        prefix = f"{self.root}{os.sep}"
        for entry in self._entries():
            try:
                facts = os.stat(f"{prefix}{entry.name}{os.sep}{DOCUMENT}")  # noqa: PTH116 - a Path costs ten times as much
            except OSError:
                continue
            tags[entry.name] = f"{facts.st_mtime_ns:x}.{facts.st_size:x}"
        return tags

    def files(self, path: str) -> dict[str, int]:
        """Files and folders below that go away or may not be read while it looks are left out, as are links."""
        top, sizes = self._path(path), {}

        def refuse(error: OSError) -> None:
            if error.filename == str(top) and not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for folder, _, names in os.walk(top, onerror=refuse):
            begin = os.path.relpath(folder, top)
            for name in names:
                with suppress(OSError):
                    facts = os.lstat(f"{folder}{os.sep}{name}")
                    if S_ISREG(facts.st_mode):
                        sizes[name if begin == "." else f"{Path(begin).as_posix()}/{name}"] = facts.st_size
        return sizes

    def _path(self, path: str) -> Path:
        """A path in the store; ``OSError`` for one that symbolic links lead out of it."""
        whole, text = self.root / path, str(self.root)
        for part in Path(path).parts:
            text = f"{text}{os.sep}{part}"
            if os.path.islink(text) and not whole.resolve().is_relative_to(self.root.resolve()):  # noqa: PTH114 - see above
                raise OSError(errno.EXDEV, "a symbolic link leads out of the store, and is not followed", str(whole))
        return whole

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        for path in paths:
            try:
                file = self._path(path)
                facts = file.stat()
                if not S_ISREG(facts.st_mode):
                    raise OSError(errno.EINVAL, "is no regular file", str(file))
                if facts.st_size > MOST_BYTES:
                    text = f"holds {facts.st_size:,} bytes; at most {MOST_BYTES:,} are read"
                    raise OSError(errno.EOVERFLOW, text, str(file))
                yield path, file.read_bytes()
            except OSError as error:
                yield path, error

    def exists(self, path: str) -> bool:
        return os.path.isfile(self.root / path)  # noqa: PTH113 - a Path raises where it may not look

    def fetch(self, path: str, to: Path) -> None:
        shutil.copyfile(self._path(path), to)

    def write(self, path: str, content: bytes) -> None:
        target = self._path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target, durable=True) as partial:
            partial.write_bytes(content)

    def remove(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        (self._path(folder) / name).unlink(missing_ok=True)

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
        sizes: dict[str, int] = {}
        for path in (path for pattern in HALF_MADE for path in self.root.glob(pattern)):
            with suppress(OSError):  # its writer was done meanwhile
                if time.time() - path.lstat().st_mtime > older_than_s:
                    name = path.relative_to(self.root).as_posix()
                    sizes[name] = sum(self.files(name).values()) if path.is_dir() else path.lstat().st_size
        return sizes

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """In the store itself, so that a rename publishes it."""
        folder = self.root / f"{INCOMING}{uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Sequence[StagedRun]) -> list[bool]:
        """A rename onto a folder that is not empty fails: of two writers with one id exactly one gets it."""
        published = []
        for run in staged:
            target = self.root / run.run_id
            for file in run.folder.rglob("*"):
                if file.is_file():
                    sync_to_disk(file)
            try:
                run.folder.rename(target)
            except OSError:
                if not target.exists():
                    raise
                published.append(False)
            else:
                sync_to_disk(self.root)
                published.append(True)
        return published


AT_ONCE = 500  # files asked for in one batch
FOREIGN = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # they have no folders that had to be made


@dataclass(frozen=True, slots=True)
class RemoteFolder(Backend):
    """Run folders below a path of an fsspec file system: ``fs`` is a ``DirFileSystem``."""

    url: str
    fs: Any
    is_object_store: bool

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """What these packages raise before a server answers, or when it refuses, is no ``OSError``."""
        foreign = tuple(getattr(sys.modules[module], name) for module, name in FOREIGN if module in sys.modules)
        try:
            yield
        except foreign as error:
            raise StoreError(f"{self.url}: cannot be reached: {error}") from error

    def _look(self, ask: Callable[[], Answer], absent: Answer) -> Answer:
        """What there is now: a server that does not say is an error, also where fsspec would take it for a no."""
        self.fs.fs.invalidate_cache()
        with self._calling(), refusals(f"{self.url}: cannot be read"):
            try:
                return ask()
            except (FileNotFoundError, NotADirectoryError):
                return absent

    def folders(self) -> list[str]:
        # Of the whole file system: a web server may list what lies elsewhere, which DirFileSystem takes for a mistake
        entries: list[dict[str, Any]] = self._look(lambda: self.fs.fs.ls(self.fs.path, detail=True), [])
        root, kinds = self.fs.path.strip("/"), {entry["name"].strip("/"): entry for entry in entries}
        if root in kinds and kinds[root]["type"] == "file" and kinds[root]["size"]:
            raise StoreError(f"{self.url}: is a file; a store is a folder of runs")
        folders = (
            posixpath.basename(name) for name, kind in kinds.items() if name != root and kind["type"] == "directory"
        )
        return sorted(name for name in folders if name and not name.startswith(HIDDEN))

    def files(self, path: str) -> dict[str, int]:
        entries: dict[str, Any] = self._look(lambda: self.fs.find(path, detail=True), {})
        begin = f"{path}/" if path else ""
        return {name.strip("/").removeprefix(begin): int(facts["size"] or 0) for name, facts in entries.items()}

    def read(self, path: str) -> bytes:
        with self._calling():
            content: bytes = self.fs.cat_file(path)
        return content

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        for begin in range(0, len(paths), AT_ONCE):
            batch = list(paths[begin : begin + AT_ONCE])
            with self._calling():
                contents = self.fs.cat(batch, on_error="return")
            by_name = {name.strip("/"): content for name, content in contents.items()}
            for path in batch:
                content = by_name.get(path, FileNotFoundError(path))
                yield path, content if isinstance(content, bytes | OSError) else OSError(str(content))

    def exists(self, path: str) -> bool:
        return self._look(lambda: bool(self.fs.info(path)["type"] == "file"), False)

    def fetch(self, path: str, to: Path) -> None:
        with self._calling():
            self.fs.get_file(path, str(to))

    def write(self, path: str, content: bytes) -> None:
        """One PUT, or a move where files have names of their own."""
        partial = path if self.is_object_store else f"{path}.{uuid4().hex[:8]}.partial"
        with self._calling():
            self._make_parent(path)
            self.fs.pipe_file(partial, content)
            if partial != path:
                self.fs.mv(partial, path)

    def _make_parent(self, path: str) -> None:
        if not self.is_object_store:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    def remove(self, path: str) -> None:
        with self._calling(), suppress(FileNotFoundError):
            self.fs.rm_file(path)

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            self.remove(f"{run_id}/{DOCUMENT}")  # from now on it is not a run
            with self._calling(), suppress(FileNotFoundError):
                self.fs.fs.invalidate_cache()
                self.fs.rm(run_id, recursive=True)

    def leftovers(self, older_than_s: float) -> dict[str, int]:
        """Folders that were claimed so long ago and never finished."""
        sizes = {}
        for name in self.folders():
            if self.exists(f"{name}/{CLAIM}") and not self.exists(f"{name}/{DOCUMENT}"):
                with self._calling():
                    claimed_at = self.fs.modified(f"{name}/{CLAIM}")
                if (datetime.now(UTC) - claimed_at).total_seconds() > older_than_s:
                    sizes[name] = sum(self.files(name).values())
        return sizes

    def publish(self, staged: Sequence[StagedRun]) -> list[bool]:
        return [self._publish(run) for run in staged]

    def _publish(self, staged: StagedRun) -> bool:
        document, claim = f"{staged.run_id}/{DOCUMENT}", f"{staged.run_id}/{CLAIM}"
        if self.exists(document) and not self.exists(claim):
            return False  # written by something that knows no claims
        self._create(claim, staged.identity.encode())
        # Read back: not every server that is asked to create refuses to overwrite
        if self.read(claim) != staged.identity.encode():
            return False
        for file in sorted(path for path in staged.folder.rglob("*") if path.is_file() and path.name != DOCUMENT):
            target = f"{staged.run_id}/{file.relative_to(staged.folder).as_posix()}"
            with self._calling():
                self._make_parent(target)
                self.fs.put_file(str(file), target)
        content = (staged.folder / DOCUMENT).read_bytes()
        if self.is_object_store:  # an object appears whole
            self._create(document, content)
        elif not self.exists(document):  # a file is visible while it is written, and has to be moved to its name
            self.write(document, content)
        return True

    def _create(self, path: str, content: bytes) -> None:
        """Write a file unless there is one of that name."""
        with self._calling():
            self._make_parent(path)
            try:
                self.fs.pipe_file(path, content, mode="create")
            except OSError:  # FileExistsError, or what a server says when two create it at the same instant
                if not self.exists(path):
                    raise


ATTEMPTS = 20  # of moving a branch that no other writer moves meanwhile; git itself waits 0.1 s each time


@dataclass(frozen=True, slots=True)
class GitBranch(Backend):
    """Run folders that hold ``run.json`` alone, on a branch of a repository."""

    url: str
    git: Git
    branch: str
    keeps_requests = False

    @classmethod
    def from_url(cls, url: str) -> GitBranch:
        """``git+branch://NAME``, the repository of this folder, or ``git+branch://NAME?repository=PATH``."""
        address, _, query = url.removeprefix(GIT).partition("?")
        part, _, path = query.partition("=")
        if query and (part != "repository" or not path):
            unknown = query if part == "repository" else part
            raise StoreError(f"{url}: unknown part {unknown!r}; known is ?repository=PATH")
        branch, repository = unquote(address), unquote(path) or "."
        if "\0" in branch + repository:
            raise StoreError(f"{url}: holds the letter NUL, which no name may")
        backend = cls(url, Git(Path(repository)), branch)
        with backend._calling():
            backend.git.output("rev-parse", "--git-dir")
            is_name = backend.git.ask("check-ref-format", backend._ref).code == 0
        if not is_name:
            raise StoreError(f"{url}: {branch!r} is not the name of a branch; write {GIT}perf-history")
        return backend

    @contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            yield
        except GitError as error:
            raise StoreError(f"{self.url}: {error}") from error

    @property
    def _ref(self) -> str:
        return f"refs/heads/{self.branch}"

    @property
    def derived(self) -> Backend:
        """A folder in git's own folder: what can be computed again is not committed."""
        with self._calling():
            return LocalFolder(self.url, self.git.common_folder() / "perfkit" / "store" / self.branch)

    def _blobs(self) -> Mapping[str, tuple[str, int]]:
        """Every file of the branch: its hash and its size."""
        with self._calling():
            tip = self.git.commit(self._ref)
            return _blobs_of(self.git, tip) if tip is not None else {}

    def folders(self) -> list[str]:
        return sorted({path.split("/")[0] for path in self._blobs() if "/" in path and not path.startswith(HIDDEN)})

    def version_tags(self) -> dict[str, str]:
        """The hash of each document, as git knows it."""
        parts = [(path.split("/"), blob) for path, (blob, _) in self._blobs().items()]
        return {run: blob for (run, *rest), blob in parts if rest == [DOCUMENT] and not run.startswith(HIDDEN)}

    def files(self, path: str) -> dict[str, int]:
        begin = f"{path}/" if path else ""
        return {name[len(begin) :]: size for name, (_, size) in self._blobs().items() if name.startswith(begin)}

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        blobs = self._blobs()
        there = [path for path in paths if path in blobs]
        with self._calling():
            contents = dict(zip(there, self.git.contents([blobs[path][0] for path in there]), strict=True))
        for path in paths:
            content = contents.get(path, b"") if path in blobs else FileNotFoundError(self.where(path))
            yield path, OSError("git has lost its content; see git fsck") if content is None else content

    def exists(self, path: str) -> bool:
        return path in self._blobs()

    def write(self, path: str, content: bytes) -> None:
        self._commit(lambda _: {path: content}, f"perfkit: {path}")

    def remove(self, path: str) -> None:
        if self.exists(path):
            self._commit(lambda _: {path: None}, f"perfkit: without {path}")

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        gone = set(run_ids)
        paths = [path for path in self._blobs() if path.split("/")[0] in gone]
        if paths:
            text = f"{len(gone)} run{'' if len(gone) == 1 else 's'}"
            self._commit(lambda _: dict.fromkeys(paths), f"perfkit: without {text}")

    def publish(self, staged: Sequence[StagedRun]) -> list[bool]:
        """All of them in one commit."""
        published: dict[str, bool] = {}

        def new_documents(taken: set[str]) -> Mapping[str, bytes | None]:
            published.update({run.run_id: run.run_id not in taken for run in staged})
            new = [run for run in staged if published[run.run_id]]
            return {f"{run.run_id}/{DOCUMENT}": (run.folder / DOCUMENT).read_bytes() for run in new}

        self._commit(new_documents, f"perfkit: {staged[0].run_id if len(staged) == 1 else f'{len(staged)} runs'}")
        return [published[run.run_id] for run in staged]

    def _commit(self, changes: Callable[[set[str]], Mapping[str, bytes | None]], message: str) -> None:
        """Change files of the branch on top of whatever is there when it succeeds.

        ``changes`` makes them from the names at the branch's root; ``None`` removes a file.
        """
        with self._calling():
            if (tree := self.git.worktree_of(self._ref)) is not None:
                problem = f"is checked out in {tree}, where runs would seem deleted"
                raise StoreError(f"{self.url}: {problem}; name a branch that nobody works on")
            failures = 0
            while True:
                tip = self.git.commit(self._ref)
                taken = _blobs_of(self.git, tip) if tip is not None else {}
                changed = changes({path.split("/")[0] for path in taken})
                if not changed:
                    return
                commit = self.git.write_commit(tip, changed, message)
                try:
                    self.git.output("update-ref", self._ref, commit, tip or "")
                    return
                except GitError:  # another writer was quicker, or is about to be
                    failures = failures + 1 if self.git.commit(self._ref) == tip else 0
                    if failures == ATTEMPTS:
                        raise


@lru_cache(maxsize=4)
def _blobs_of(git: Git, commit: str) -> Mapping[str, tuple[str, int]]:
    """The files of a commit, which never change."""
    return git.blobs(commit)


def full_address(url: str) -> str:
    """The address of a store with its credentials, from the variable `CREDENTIALS` or used by this process before."""
    conceal_url(url)
    for address in (*os.environ.get(CREDENTIALS, "").split(), url):
        public = public_address(address)
        if public != address:
            conceal_url(address)
            _ADDRESSES[public] = address
    return _ADDRESSES.get(url, url)


def credentials_for_children() -> dict[str, str]:
    """The variable from which a child process opens the stores that this one opened."""
    return {CREDENTIALS: "\n".join(_ADDRESSES.values())} if _ADDRESSES else {}


def public_address(url: str) -> str:
    """The address of a store as it may be shown; the path of a folder holds no password."""
    return public_url(url) if "://" in url else url


def open_backend(url: str) -> Backend:
    """The back end that a URL names; ``MissingExtra`` when the package that opens it is not installed."""
    if url.startswith(GIT):
        return GitBranch.from_url(url)
    if ":" not in url:  # a plain path does not need the library of file systems, which takes 0.1 s to load
        return LocalFolder(url, Path(os.path.expanduser(url)).absolute())  # noqa: PTH111  # of nobody's home too
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem

    shown, options = public_address(url), {}
    try:
        parts = urlsplit(url) if "://" in url else None
        if parts is not None:
            _ = parts.port  # file systems look at host and port only when they are used
    except ValueError as error:
        raise SettingsError(f"{shown}: is not the URL of a store: {error}") from error
    is_s3 = parts is not None and parts.scheme in ("s3", "s3a")
    if parts is not None and is_s3 and parts.username is not None:  # s3fs takes key and secret as options
        options = {"key": unquote(parts.username), "secret": unquote(parts.password or "")}
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{rest.rpartition('@')[2]}"
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        needed = f"needs the package s3fs; {extra_advice('s3')}" if is_s3 else None
        raise MissingExtra(f"{shown}: {needed or f'a package that opens it is not installed: {error}'}") from error
    except ValueError as error:
        raise MissingExtra(f"{shown}: {error}") from error
    except OSError as error:
        raise StoreError(f"{shown}: cannot be reached: {error.strerror or error}") from error
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if "file" in protocols:
        return LocalFolder(shown, Path(root))
    folder = DirFileSystem(root or "/", fs)
    folder.path = root.rstrip("/")  # may be empty, which the constructor refuses
    return RemoteFolder(shown, folder, bool(OBJECT_STORES & protocols))
