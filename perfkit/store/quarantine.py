"""Runs set aside by a person: a small file beside the runs, so that the runs themselves stay as they were written."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from perfkit.document import dump_json
from perfkit.errors import ReadError
from perfkit.readers.run_folder import NOTE_SCHEMA, QUARANTINE, check_note, read_note
from perfkit.store.place import Place


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Why a run must not be used, who said so, and when (UTC, ISO 8601)."""

    run_id: str
    reason: str
    by: str = ""
    at: str = ""


def set_aside(place: Place, run_id: str, reason: str, by: str | None = None) -> Quarantined:
    """Note that a run must not be used; a later reason takes the place of an earlier one."""
    if not reason.strip():
        raise ValueError("reason: must say why the run is not to be used, got nothing")
    item = Quarantined(run_id, reason.strip(), by or _user(), datetime.now(UTC).isoformat(timespec="seconds"))
    document = {"schema": NOTE_SCHEMA, "run": run_id, "reason": item.reason, "by": item.by, "at": item.at}
    place.write(_path(run_id), dump_json(document).encode())
    return item


def lift(place: Place, run_id: str) -> None:
    """The run may be used again; nothing happens when it was not set aside."""
    place.remove(_path(run_id))


def quarantined(place: Place) -> dict[str, Quarantined]:
    """Everything that was set aside, by run id.  A note that cannot be read still holds."""
    return {run_id: _note(run_id, content) for run_id, content in _notes(place)}


def _notes(place: Place) -> Iterator[tuple[str, bytes | OSError]]:
    ids = [name.removesuffix(".json") for name in sorted(place.inside(QUARANTINE)) if name.endswith(".json")]
    ids = [run_id for run_id in ids if not run_id.startswith(".")]
    for run_id, (_, content) in zip(ids, place.read_many([_path(run_id) for run_id in ids]), strict=True):
        yield run_id, content


def damaged_notes(place: Place) -> dict[str, str]:
    """Runs whose note cannot be read, and why; they stay set aside."""
    found = {}
    for run_id, content in _notes(place):
        try:
            check_note(content, _path(run_id))
        except ReadError as error:
            found[run_id] = str(error)
    return found


def note_on(place: Place, run_id: str) -> Quarantined | None:
    """The note on one run; ``None`` when it was not set aside.  A note that cannot be read still holds."""
    ((_, content),) = place.read_many([_path(run_id)])
    if isinstance(content, FileNotFoundError | NotADirectoryError):
        return None
    if isinstance(content, OSError) and not place.exists(_path(run_id)):
        raise content  # such as a folder of notes that may not be looked into
    return _note(run_id, content)


def _note(run_id: str, content: bytes | OSError) -> Quarantined:
    note = read_note(content, _path(run_id), run_id)
    return Quarantined(run_id, note.reason, note.by, note.at)


def _path(run_id: str) -> str:
    return f"{QUARANTINE}/{run_id}.json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return ""
