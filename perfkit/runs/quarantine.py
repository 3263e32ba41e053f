"""The quarantine: runs that a person set aside, each by a small note beside the runs, which stay as they were written.

A note is ``.quarantine/RUN_ID.json``.  One that cannot be read still holds: its run stays invalid.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from perfkit.model.codec import decode, dump_json, parse_json, read_bytes
from perfkit.model.errors import ReadError, leave_out
from perfkit.model.records import Check, Severity

QUARANTINE = ".quarantine"  # folder beside the runs
NOTE_SCHEMA = "perfkit.quarantine/1"


class QuarantineNote(msgspec.Struct, frozen=True):
    """Why a run must not be used, who said so, and when (UTC, ISO 8601)."""

    reason: str = ""
    by: str = ""
    at: str = ""
    run_id: str = msgspec.field(default="", name="run")

    def to_json(self) -> bytes:
        """The content of the note's file."""
        document = {"schema": NOTE_SCHEMA, "run": self.run_id, "reason": self.reason, "by": self.by, "at": self.at}
        return dump_json(document).encode()

    @property
    def check(self) -> Check:
        """What the note adds to the checks of its run."""
        advice = "A person set the run aside; `perfkit runs quarantine --lift` takes it back."
        return Check("quarantined", self.reason, "no", Severity.INVALID, advice)


def note_path(run_id: str) -> str:
    """The path of a run's note in its store."""
    return f"{QUARANTINE}/{run_id}.json"


def parse_note(content: bytes | Exception, path: str, run_id: str) -> QuarantineNote:
    """A note; ``ReadError`` for one that cannot be read, or gives no reason."""
    if isinstance(content, OSError):
        raise ReadError(f"{path}: cannot be read: {content.strerror or content}")
    if isinstance(content, Exception):
        raise content
    note = decode(parse_json(content, path), QuarantineNote, path, schema=NOTE_SCHEMA, title="note")
    if not note.reason.strip():
        raise ReadError(f"{path}: reason: must say why the run is not to be used, got nothing")
    return msgspec.structs.replace(note, run_id=run_id)  # the name of the file is what counts


def note_that_holds(content: bytes | Exception, path: str, run_id: str) -> QuarantineNote:
    """A note; one that cannot be read still holds, and the command says so when it ends."""
    try:
        return parse_note(content, path, run_id)
    except ReadError as error:
        leave_out(f"{run_id} stays set aside: its note cannot be read: {error}")
        return QuarantineNote("no reason can be read", run_id=run_id)


def note_beside(folder: Path) -> QuarantineNote | None:
    """The note on the run of a local folder; ``None`` where there is none."""
    folder = folder.resolve()
    file = folder.parent / note_path(folder.name)
    if not file.is_file():
        return None
    content: bytes | Exception
    try:
        content = read_bytes(file)
    except (ReadError, FileNotFoundError) as error:
        content = error
    return note_that_holds(content, str(file), folder.name)
