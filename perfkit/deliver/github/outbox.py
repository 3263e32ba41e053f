"""What could not be sent yet, kept in the folder of the setting ``delivery`` and sent with the next call.

It is kept before anything of it is sent, and taken out when all of it was: a call that is cut off loses nothing, and
what it had sent is found on the server, not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perfkit.codec import Time, decode, read_json, utc
from perfkit.deliver.github.access import Access
from perfkit.deliver.github.marker import digest
from perfkit.document import dump_json
from perfkit.errors import ReadError
from perfkit.whole_file import write_whole

SCHEMA = "perfkit.unsent/1"


@dataclass(frozen=True, slots=True)
class Unsent:
    """What waits, and the file that it waits in."""

    file: Path
    kept_at: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outbox:
    """What waits for one repository; ``kind`` is ``issues`` or ``comments``."""

    folder: Path
    access: Access
    kind: str

    def keep(self, key: str, content: Mapping[str, Any]) -> Unsent:
        """Keep something in place of what has the same key; ``OSError`` where it cannot be written."""
        kept = Unsent(self._folder / f"{digest(key)}.json", datetime.now(UTC).isoformat(), content)
        where = {"kind": self.kind, "repository": self.access.repository, "api": self.access.api}
        write_whole(
            kept.file, dump_json({"schema": SCHEMA, **where, "kept_at": kept.kept_at, "content": dict(content)})
        )
        return kept

    def waiting(self) -> tuple[tuple[Unsent, ...], tuple[str, ...]]:
        """What waits, oldest first; and sentences about files that cannot be read, which stay."""
        found, notes = [], []
        for file in sorted(self._folder.glob("*.json")):
            try:
                found.append(_read(file))
            except FileNotFoundError:  # another call has sent it
                continue
            except ReadError as error:
                notes.append(f"{error}; it is left there and not sent")
        return tuple(sorted(found, key=lambda one: one.kept_at)), tuple(notes)

    def sent(self, one: Unsent) -> None:
        """Forget it, unless something newer took its place."""
        try:
            if _read(one.file).kept_at == one.kept_at:
                one.file.unlink()
        except (OSError, ReadError):
            return  # it is gone, or never was there

    def whereabouts(self, unsent: Sequence[Unsent]) -> str:
        """Where what was not sent is: only what is there is said to be kept."""
        kept = sum(one.file.is_file() for one in unsent)
        if kept == len(unsent):
            return f"What was not sent is kept in {self.folder} for the next call"
        lost = f"could not be kept in {self.folder} either: make room there, and call again with the same results"
        return f"{len(unsent) - kept} of {len(unsent)} that were not sent {lost}"

    @property
    def _folder(self) -> Path:
        return self.folder / "github" / f"{self.kind}-{digest(f'{self.access.api} {self.access.repository}')}"


class _Document(msgspec.Struct, frozen=True):
    kept_at: Time
    content: dict[str, Any]


def _read(file: Path) -> Unsent:
    plain = decode(read_json(file), _Document, str(file), schema=SCHEMA, title="message")
    return Unsent(file, utc(plain.kept_at).isoformat(), plain.content)
