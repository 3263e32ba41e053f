"""What a store needs of the place where it lives, and which place a URL names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from perfkit.errors import MissingExtra, SettingsError, StoreError
from perfkit.installation import extra_advice
from perfkit.redaction import conceal_url, public_url
from perfkit.settings_file import expand

S3 = ("s3://", "s3a://")
HIDDEN = "."  # first letter of the names that are no runs
CLAIM = ".claim"  # file in a folder elsewhere: the identity of the run that may use it; stays, for late writers to see
GIT = "git+branch://"
CREDENTIALS = "PERFKIT_STORE"  # variable: addresses of stores with user info or query, separated by blanks
_ADDRESSES: dict[str, str] = {}  # of this process: public to full


@dataclass(frozen=True, slots=True)
class Parcel:
    """A whole run in a local folder, ready to be published under an id.

    ``identity`` is the same for the same measurements of the same scenario, and for nothing else.
    """

    folder: Path
    run_id: str
    identity: str


class Place(Protocol):
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

    def names(self) -> list[str]:
        """Of all folders in it but hidden ones, sorted; empty while the place does not exist."""

    def stamps(self) -> dict[str, str]:
        """Names of folders that may hold a run, each with what differs when its ``run.json`` does.

        A place that cannot say cheaply which folders are runs names them all, each with the same stamp.
        """

    def inside(self, path: str) -> dict[str, int]:
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

    def publish(self, parcels: Sequence[Parcel]) -> list[bool]:
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


def open_place(url: str) -> Place:
    """The place that a URL names; ``MissingExtra`` when the package that opens it is not installed."""
    import fsspec

    shown = public_address(url)
    if url.startswith(GIT):
        from perfkit.store.git_branch import GitBranch

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
        from perfkit.store.local_folder import LocalFolder

        return LocalFolder(shown, Path(root))
    from perfkit.store.remote_folder import RemoteFolder

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
