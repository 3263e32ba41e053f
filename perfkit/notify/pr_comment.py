"""The comment of a pull request: one, changed in place whenever there is a newer result."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from perfkit.model.codec import decode, read_json
from perfkit.model.errors import DeliveryError, ReadError, SettingsError
from perfkit.notify.github_api import Access, Client, Patience
from perfkit.notify.issue_plan import Request
from perfkit.notify.outbox import Outbox, Unsent, digest

_REF = re.compile(r"refs/pull/(\d+)/")
_DUPLICATE = "The other comment of perfkit here is kept current."
_Number = Annotated[int, msgspec.Meta(gt=0)]


class Comment(msgspec.Struct, frozen=True):
    """The comment that a pull request shall have; ``name`` tells comments of perfkit apart where there are several."""

    number: _Number
    name: str
    text: str

    @property
    def marker(self) -> str:
        """The hidden comment by which it is found again."""
        return f"<!-- perfkit-comment {digest(self.name)} -->"

    @property
    def body(self) -> str:
        """As it is sent."""
        return f"{self.marker}\n{self.text.rstrip()}"


class _Pull(msgspec.Struct, frozen=True):
    number: _Number


class _Issue(msgspec.Struct, frozen=True):
    number: _Number
    pull_request: dict[str, Any] | None = None


class _Event(msgspec.Struct, frozen=True):
    """What triggered a workflow: the pull request that it is about, or an issue, which may be one."""

    pull_request: _Pull | None = None
    issue: _Issue | None = None


def pull_request_of(environment: Mapping[str, str] | None = None) -> int:
    """The number of the pull request that a workflow runs for, from `GITHUB_EVENT_PATH` or `GITHUB_REF`.

    Raises
    ------
    SettingsError
        It runs for none.
    """
    variables = os.environ if environment is None else environment
    path, ref = variables.get("GITHUB_EVENT_PATH", ""), variables.get("GITHUB_REF", "")
    if path:
        try:
            event = decode(read_json(Path(path)), _Event, path)
        except FileNotFoundError as error:
            raise SettingsError(f"GITHUB_EVENT_PATH: {path}: cannot be read: {error.strerror}") from error
        except ReadError as error:
            raise SettingsError(f"GITHUB_EVENT_PATH: {error}") from error
        if event.pull_request is not None:
            return event.pull_request.number
        if event.issue is not None and event.issue.pull_request is not None:
            return event.issue.number
    if match := _REF.match(ref):
        return int(match[1])
    job = f" (it is for {ref[:100]!r})" if ref else ""
    raise SettingsError(f"GitHub: this is no job of a pull request{job}; add --pull-request NUMBER")


def post_comment(
    comment: Comment,
    access: Access,
    folder: Path,
    *,
    patience: Patience | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Send a comment, and before it those that earlier calls could not send.

    Parameters
    ----------
    folder
        That of the setting ``delivery``, for what cannot be sent.
    report
        Called with a sentence for each comment that was sent.

    Raises
    ------
    DeliveryError
        A comment could not be sent; it is kept for the next call.
    """
    outbox, client = Outbox(folder, access, "comments"), Client(access, patience)
    newest = outbox.keep(f"{comment.number}\n{comment.name}", msgspec.to_builtins(comment), report)
    errors: list[DeliveryError] = []
    unsent: list[Unsent] = []
    for message in outbox.queue(newest, report):
        try:
            try:
                waiting = decode(dict(message.content), Comment, f"{message.file}: content")
            except ReadError as error:
                raise DeliveryError(f"{error}; it is no comment that waits: remove it") from error
            report(_sync(waiting, client))
            outbox.remove(message)
        except DeliveryError as error:
            errors.append(error)
            unsent.append(message)
    if errors:
        raise outbox.error(errors, unsent)


def planned_comment(comment: Comment, access: Access) -> Request:
    """The request for a pull request that has no comment of perfkit yet."""
    return Request("POST", f"{access.path}/issues/{comment.number}/comments", {"body": comment.body}, comment.marker)


@dataclass(frozen=True, slots=True)
class _Posted:
    id: int
    body: str


def _sync(comment: Comment, client: Client) -> str:
    """Bring the pull request to this comment; says what was done."""
    request, posted = planned_comment(comment, client.access), list[_Posted]()

    def read(item: Any) -> _Posted:
        try:
            return _Posted(int(item["id"]), str(item.get("body") or "").replace("\r\n", "\n"))
        except (KeyError, TypeError, ValueError) as error:
            raise client.malformed("something else than a comment") from error

    def find() -> _Posted | None:
        """The oldest comment with this marker; `posted` has all of them."""
        comments = client.pages(request.path, {})
        marked = [item for item in comments if comment.marker in str(item.get("body")) and client.trusts(item)]
        posted[:] = sorted(map(read, marked), key=lambda found: found.id)
        return posted[0] if posted else None

    def change(old: _Posted, body: str) -> bool:
        if old.body != body:
            client.patch(f"{client.access.path}/issues/comments/{old.id}", {"body": body})
        return old.body != body

    new, is_new = client.post(request.path, request.payload, find, read)
    if is_new:
        find()  # another call may have been at it at the same time
    kept, *duplicates = posted or [new]
    changed = change(kept, comment.body)
    for duplicate in duplicates:
        change(duplicate, f"{comment.marker}\n{_DUPLICATE}")
    done = "updated the comment of" if changed else "commented on" if is_new else "is up to date:"
    return f"{done} pull request #{comment.number}"
