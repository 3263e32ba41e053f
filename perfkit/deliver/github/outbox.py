"""What could not be sent yet: whole results, kept in the folder of the setting ``delivery``, sent with the next call.

A result is kept before anything of it is sent, and taken out when all of it was: a call that is cut off loses nothing,
and what it had sent is found on the server, not sent again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.deliver.github.access import Access
from perfkit.deliver.github.marker import digest
from perfkit.document import dump_json
from perfkit.errors import ReadError
from perfkit.results import Result, result_of
from perfkit.whole_file import write_whole

SCHEMA = "perfkit.unsent/1"


@dataclass(frozen=True, slots=True)
class Unsent:
    """A result that waits, and the file that it waits in."""

    file: Path
    result: Result
    kept_at: str
    number: int = 0  # of the pull request, for a comment


@dataclass(frozen=True, slots=True)
class Outbox:
    """The results that wait for one repository; ``kind`` is ``issues`` or ``comments``."""

    folder: Path
    access: Access
    kind: str

    def keep(self, result: Result, number: int = 0) -> Unsent:
        """Keep a result in place of an older one that told less; ``OSError`` where it cannot be written."""
        kept_at = datetime.now(UTC).isoformat()
        document = {
            "schema": SCHEMA,
            "kind": self.kind,
            "repository": self.access.repository,
            "api": self.access.api,
            "number": number,
            "kept_at": kept_at,
            "place": result.place,
            "report": str(result.report) if result.report is not None else None,
            "result": result.document,
        }
        file = self._folder / f"{self._key(result, number)}.json"
        write_whole(file, dump_json(document))
        return Unsent(file, result, kept_at, number)

    def waiting(self) -> tuple[tuple[Unsent, ...], tuple[str, ...]]:
        """What waits, oldest first; and sentences about files that cannot be read, which stay."""
        found, notes = [], []
        for file in sorted(self._folder.glob("*.json")):
            try:
                found.append(_read(file))
            except FileNotFoundError:  # another call has sent it
                continue
            except (OSError, ValueError, KeyError, TypeError, ReadError) as error:
                notes.append(f"{file}: cannot be read and is left there: {error}")
        return tuple(sorted(found, key=lambda one: one.kept_at)), tuple(notes)

    def sent(self, one: Unsent) -> None:
        """Forget it, unless a newer one took its place."""
        try:
            if _read(one.file).kept_at == one.kept_at:
                one.file.unlink()
        except (OSError, ValueError, KeyError, TypeError, ReadError):
            return  # it is gone already

    @property
    def _folder(self) -> Path:
        return self.folder / "github" / f"{self.kind}-{digest(f'{self.access.api} {self.access.repository}')}"

    def _key(self, result: Result, number: int) -> str:
        """The same for results of which the newer says all: of a history, of comparisons with one baseline."""
        what = "history" if result.watched else result.fingerprint
        return digest(f"{result.scenario}\n{what}\n{number}")


def _read(file: Path) -> Unsent:
    plain: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    if plain["schema"] != SCHEMA:
        raise ValueError(f"not of schema {SCHEMA!r}; it may come from a newer perfkit")
    report = Path(plain["report"]) if plain["report"] is not None else None
    result = result_of(plain["result"], str(plain["place"]), report)
    return Unsent(file, result, str(plain["kept_at"]), int(plain["number"]))
