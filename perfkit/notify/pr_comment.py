"""The comment of a pull request: one, changed in place whenever there is something newer to say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from perfkit.model.codec import decode, read_json
from perfkit.model.errors import DeliveryError, ReadError, SettingsError
from perfkit.notify.github_api import Access, Client, Patience
from perfkit.notify.issue_plan import Call, digest
from perfkit.notify.issue_sync import Outbox, Unsent

Tell = Callable[[str], None]
_REF = re.compile(r"refs/pull/(\d+)/")
_TWIN = "The other comment of perfkit here is kept current."


@dataclass(frozen=True, slots=True)
class Comment:
    """What a pull request shall be told; ``name`` tells comments of perfkit apart, where there are to be several."""

    number: int
    name: str
    text: str

    @property
    def marker(self) -> str:
        """The hidden word by which it is found again."""
        return f"<!-- perfkit-comment {digest(self.name)} -->"

    @property
    def body(self) -> str:
        """As it is sent."""
        return f"{self.marker}\n{self.text.rstrip()}"


def pull_request_of(environment: Mapping[str, str] | None = None) -> int:
    """The number of the pull request that a workflow runs for, from `GITHUB_EVENT_PATH` or `GITHUB_REF`.

    Raises
    ------
    SettingsError
        It runs for none.
    """
    known = os.environ if environment is None else environment
    number = _in_event(known.get("GITHUB_EVENT_PATH", ""))
    match = _REF.match(known.get("GITHUB_REF", ""))
    if number is None and match is not None:
        number = int(match[1])
    if number is None:
        where = f" (it is for {known['GITHUB_REF'][:100]!r})" if known.get("GITHUB_REF") else ""
        raise SettingsError(f"GitHub: this is no job of a pull request{where}; say --pull-request NUMBER")
    return number


class _Pull(msgspec.Struct, frozen=True):
    number: Annotated[int, msgspec.Meta(gt=0)]


class _Issue(msgspec.Struct, frozen=True):
    number: Annotated[int, msgspec.Meta(gt=0)]
    pull_request: dict[str, Any] | None = None


class _Event(msgspec.Struct, frozen=True):
    """Of what triggered a workflow: the pull request that it is about, or an issue, which may be one."""

    pull_request: _Pull | None = None
    issue: _Issue | None = None


def _in_event(path: str) -> int | None:
    if not path:
        return None
    try:
        event = decode(read_json(Path(path)), _Event, path)
    except FileNotFoundError as error:
        raise SettingsError(f"GITHUB_EVENT_PATH: {path}: cannot be read: {error.strerror}") from error
    except ReadError as error:
        raise SettingsError(f"GITHUB_EVENT_PATH: {error}") from error
    if event.pull_request is not None:
        return event.pull_request.number
    return event.issue.number if event.issue is not None and event.issue.pull_request is not None else None


def post_comment(
    comment: Comment, access: Access, folder: Path, *, patience: Patience | None = None, tell: Tell = lambda _: None
) -> None:
    """Send a comment, and before it those that earlier calls could not send.

    Parameters
    ----------
    folder
        That of the setting ``delivery``, for what cannot be sent.

    Raises
    ------
    DeliveryError
        Something could not be sent; it is kept for the next call.
    """
    outbox = Outbox(folder, access, "comments")
    own = _kept(outbox, comment, tell)
    waiting, notes = outbox.waiting()
    for note in notes:
        tell(note)
    client = Client(access, patience)
    failed: list[DeliveryError] = []
    unsent: list[Unsent] = []
    for one in (*(one for one in waiting if one.file != own.file), own):
        try:
            tell(_sent(_unpacked(one), client))
            outbox.sent(one)
        except DeliveryError as error:
            failed.append(error)
            unsent.append(one)
    if failed:
        texts = "; ".join(dict.fromkeys(map(str, failed)))
        raise DeliveryError(f"{access.repository}: {texts}. {outbox.whereabouts(unsent)}")


def planned_comment(comment: Comment, access: Access) -> Call:
    """The request for a pull request that has no comment of perfkit yet."""
    return Call("POST", f"{access.path}/issues/{comment.number}/comments", {"body": comment.body}, comment.marker)


def _kept(outbox: Outbox, comment: Comment, tell: Tell) -> Unsent:
    content = {"number": comment.number, "name": comment.name, "text": comment.text}
    try:
        return outbox.keep(f"{comment.number}\n{comment.name}", content)
    except OSError as error:
        tell(f"{outbox.folder}: cannot be written ({error.strerror}): what cannot be sent now will not be sent later")
        return Unsent(Path(), "", content)


class _Kept(msgspec.Struct, frozen=True):
    number: Annotated[int, msgspec.Meta(gt=0)]
    name: str
    text: str


def _unpacked(one: Unsent) -> Comment:
    try:
        kept = decode(dict(one.content), _Kept, f"{one.file}: content")
    except ReadError as error:
        raise DeliveryError(f"{error}; it is no comment that waits: remove it") from error
    return Comment(kept.number, kept.name, kept.text)


def _sent(comment: Comment, client: Client) -> str:
    """What was done."""
    where, call = f"pull request #{comment.number}", planned_comment(comment, client.access)
    seen: list[_Posted] = []

    def made() -> _Posted | None:
        seen[:] = _own(comment, client)
        return seen[0] if seen else None

    posted, is_new = client.post(call.path, call.payload, made, _read(client))
    kept, *twins = (_own(comment, client) or [posted]) if is_new else seen
    done = "commented on" if is_new else "is up to date:"
    if kept.body != comment.body:
        client.patch(f"{client.access.path}/issues/comments/{kept.ident}", {"body": comment.body})
        done = "updated the comment of"
    for twin in twins:  # another call was at it at the same time
        body = f"{comment.marker}\n{_TWIN}"
        if twin.body != body:
            client.patch(f"{client.access.path}/issues/comments/{twin.ident}", {"body": body})
    return f"{done} {where}"


@dataclass(frozen=True, slots=True)
class _Posted:
    ident: int
    body: str


def _own(comment: Comment, client: Client) -> Sequence[_Posted]:
    """The comments with its marker, oldest first."""
    read = _read(client)
    found = [
        read(plain)
        for plain in client.pages(f"{client.access.path}/issues/{comment.number}/comments", {})
        if comment.marker in str(plain.get("body")) and client.trusts(plain)
    ]
    return sorted(found, key=lambda one: one.ident)


def _read(client: Client) -> Callable[[Any], _Posted]:
    def reading(plain: Any) -> _Posted:
        try:
            return _Posted(int(plain["id"]), str(plain.get("body") or "").replace("\r\n", "\n"))
        except (KeyError, TypeError, ValueError) as error:
            raise client.malformed("something else than a comment") from error

    return reading
