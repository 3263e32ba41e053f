"""Runs set aside by a person: a small file beside the runs, so that the runs themselves stay as they were written."""

from __future__ import annotations

import getpass
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from perfkit.document import dump_json
from perfkit.readers.run_folder import QUARANTINE
from perfkit.store.place import Place

SCHEMA = "perfkit.quarantine/1"


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
    document = {"schema": SCHEMA, "run": run_id, "reason": item.reason, "by": item.by, "at": item.at}
    place.write(_path(run_id), dump_json(document).encode())
    return item


def lift(place: Place, run_id: str) -> None:
    """The run may be used again; nothing happens when it was not set aside."""
    place.remove(_path(run_id))


def quarantined(place: Place) -> dict[str, Quarantined]:
    """Everything that was set aside, by run id.  A note that cannot be read still holds."""
    ids = [name.removesuffix(".json") for name in sorted(place.inside(QUARANTINE)) if name.endswith(".json")]
    ids = [run_id for run_id in ids if not run_id.startswith(".")]
    found = place.read_many([_path(run_id) for run_id in ids])
    return {run_id: _note(run_id, content) for run_id, (_, content) in zip(ids, found, strict=True)}


def _note(run_id: str, content: bytes | OSError) -> Quarantined:
    try:
        document = json.loads(content) if isinstance(content, bytes) else {}
    except ValueError:
        document = {}
    known = document if isinstance(document, dict) else {}
    text = {name: str(known.get(name) or "") for name in ("reason", "by", "at")}
    return Quarantined(run_id, **{**text, "reason": text["reason"] or "no reason can be read"})


def _path(run_id: str) -> str:
    return f"{QUARANTINE}/{run_id}.json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return ""
