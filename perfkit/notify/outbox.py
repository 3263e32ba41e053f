"""Messages to GitHub that wait to be sent: files in the folder of the setting ``delivery``.

A message is kept before any of it is sent and removed once all of it was sent: a call that is cut off loses nothing,
and the next call finds on the server what it had sent already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perfkit.model.codec import Time, decode, dump_json, read_json, utc
from perfkit.model.errors import DeliveryError, ReadError
from perfkit.model.files import atomic_write
from perfkit.notify.github_api import Access

SCHEMA = "perfkit.unsent/1"


def digest(text: str, length: int = 12) -> str:
    """Hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class _Document(msgspec.Struct, frozen=True):
    kept_at: Time
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message that waits, and its file; an empty path where it could not be kept."""

    file: Path
    kept_at: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> Unsent:
        """``ReadError`` for a file that is no message, ``FileNotFoundError`` where there is none any more."""
        document = decode(read_json(file), _Document, str(file), schema=SCHEMA, title="message")
        return cls(file, utc(document.kept_at).isoformat(), document.content)


@dataclass(frozen=True, slots=True)
class Outbox:
    """The messages for one repository; ``kind`` is ``issues`` or ``comments``."""

    folder: Path
    access: Access
    kind: str

    @property
    def _messages(self) -> Path:
        return self.folder / "github" / f"{self.kind}-{digest(f'{self.access.api} {self.access.repository}')}"

    def keep(self, key: str, content: Mapping[str, Any], report: Callable[[str], None]) -> Unsent:
        """Keep a message in place of the one with the same key; reports where that is not possible."""
        message = Unsent(self._messages / f"{digest(key)}.json", datetime.now(UTC).isoformat(), content)
        address = {"kind": self.kind, "repository": self.access.repository, "api": self.access.api}
        try:
            atomic_write(
                message.file,
                dump_json({"schema": SCHEMA, **address, "kept_at": message.kept_at, "content": dict(content)}),
            )
        except OSError as error:
            report(
                f"{self.folder}: cannot be written ({error.strerror}): what cannot be sent now will not be sent later"
            )
            return Unsent(Path(), "", content)
        return message

    def waiting(self) -> tuple[tuple[Unsent, ...], tuple[str, ...]]:
        """The messages that wait, oldest first; and sentences about files that cannot be read, which stay."""
        found, notes = [], []
        for file in sorted(self._messages.glob("*.json")):
            try:
                found.append(Unsent.read(file))
            except FileNotFoundError:  # another call has sent it
                continue
            except ReadError as error:
                notes.append(f"{error}; it is left there and not sent")
        return tuple(sorted(found, key=lambda message: message.kept_at)), tuple(notes)

    def queue(self, newest: Unsent | None, report: Callable[[str], None]) -> list[Unsent]:
        """All messages in the order in which to send them, ``newest`` last; reports files that cannot be read."""
        waiting, notes = self.waiting()
        for note in notes:
            report(note)
        if newest is None:
            return list(waiting)
        return [*(message for message in waiting if message.file != newest.file), newest]

    def remove(self, message: Unsent) -> None:
        """Remove a message that was sent, unless a newer one took its place."""
        try:
            if Unsent.read(message.file).kept_at == message.kept_at:
                message.file.unlink()
        except (OSError, ReadError):
            return  # it is gone, or was never there

    def error(self, errors: Sequence[Exception], unsent: Sequence[Unsent]) -> DeliveryError:
        """What failed, and where the messages are that were not sent."""
        lost = sum(not message.file.is_file() for message in unsent)
        kept = f"What was not sent is kept in {self.folder} for the next call"
        if lost:
            kept = (
                f"{lost} of {len(unsent)} that were not sent could not be kept in {self.folder} either: make room "
                "there, and call again with the same results"
            )
        return DeliveryError(f"{self.access.repository}: {'; '.join(dict.fromkeys(map(str, errors)))}. {kept}")
