"""Pinned baselines: runs that somebody chose as an anchor, in a reviewable JSON file that keeps what was before.

One file per baseline, ``data/baselines/SCENARIO/NAME.json`` (setting ``baselines``).  It names runs; the runs
themselves stay in the store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from perfkit.model.codec import Time, decode, dump_json, encode, read_json, utc
from perfkit.model.errors import ReadError, StoreError, leave_out, refusals, what_there_is
from perfkit.model.files import atomic_write, file_lock, login
from perfkit.model.records import Run
from perfkit.model.serialization import slug

SCHEMA = "perfkit.pinned/1"
NONE_PINNED = "; `perfkit baseline pin` makes one"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class BaselineState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pinned baseline is, or was at one time."""

    runs: tuple[str, ...]  # ids of its runs in the store, oldest first
    profile: str  # the load of its runs, in words
    environment: dict[str, str]  # where they were made; a fact that differed among them has all its values
    reason: str
    by: str
    created: Time
    expires: date | None = None  # the last day on which it is good; ``None``: no end


class Pinned(BaselineState, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="schema", tag=SCHEMA):
    """A baseline that stays where it was put, ``perfkit.pinned/1``; ``history``: what it was before, oldest first."""

    name: str
    scenario: str
    history: tuple[BaselineState, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name: letters, digits and . _ + - (at most 64, a letter or digit first), got {self.name!r}"
            )
        if not self.runs:
            raise ValueError("runs: a baseline needs at least one")
        if not self.reason.strip():
            raise ValueError("reason: say why these runs are the baseline, for those who review it")
        msgspec.structs.force_setattr(self, "created", utc(self.created))

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "name": self.name, "scenario": self.scenario, **encode(self)}

    def has_expired(self, today: date) -> bool:
        return self.expires is not None and today > self.expires

    def moved(self, runs: Sequence[Run], reason: str, by: str, now: datetime, expires: date | None = None) -> Pinned:
        """The same baseline on other runs, until another day where one is given; where it was stays in its history."""
        state = {name: getattr(self, name) for name in BaselineState.__struct_fields__}
        moved = pin(self.name, runs, reason=reason, by=by, expires=expires or self.expires, now=now)
        return msgspec.structs.replace(moved, history=(*self.history, BaselineState(**state)))


def pin(
    name: str, runs: Sequence[Run], *, reason: str, by: str, expires: date | None = None, now: datetime | None = None
) -> Pinned:
    """A baseline of these runs, which are valid and of one scenario; ``ValueError`` when they are not."""
    if bad := [run.id for run in runs if not run.validity.ok]:
        raise ValueError(f"runs: invalid ones never enter a baseline: {', '.join(bad)}")
    scenarios = sorted({run.scenario for run in runs})
    if len(scenarios) > 1:
        raise ValueError(f"runs: a baseline is of one scenario, got {', '.join(scenarios)}")
    when = (now or datetime.now(UTC)).replace(microsecond=0)
    loads = sorted({run.profile.describe() for run in runs})
    facts = dict.fromkeys(name for run in runs for name in run.environment)
    values = {name: sorted({run.environment[name] for run in runs if name in run.environment}) for name in facts}
    return Pinned(
        name=name,
        scenario="".join(scenarios),
        runs=tuple(run.id for run in sorted(runs, key=lambda run: (run.started_at or when, run.id))),
        profile="; ".join(loads),
        environment={name: " | ".join(texts) for name, texts in values.items()},
        reason=reason,
        by=by or login(),
        created=when,
        expires=expires,
    )


def parse_day(text: str, today: date) -> date:
    """A day, as ``2027-01-31`` or as ``90d`` from today; ``ValueError`` for anything else, and for one that is over."""
    if match := re.fullmatch(r"(\d{1,5}) ?d(ays?)?", text.strip()):
        return today + timedelta(days=int(match[1]))
    try:
        day = date.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"expected a day such as 2027-01-31, or 90d, got {text!r}") from error
    if day < today:
        raise ValueError(f"{day} is over already; expected today or a later day")
    return day


class Baselines:
    """The pinned baselines in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, scenario: str, name: str) -> Path:
        """The file of a baseline; a scenario whose name is no file name has a digest in it."""
        safe = slug(scenario)
        folder = safe if safe == scenario else f"{safe}-{sha256(scenario.encode()).hexdigest()[:8]}"
        return self.folder / folder / f"{name}.json"

    def all(self, scenario: str | None = None) -> tuple[Pinned, ...]:
        """Every baseline that can be read, by scenario and name; `broken` names the others."""
        return tuple(item for item in self._read()[0] if scenario in (None, item.scenario))

    def broken(self) -> tuple[str, ...]:
        """What is wrong with each file that is no baseline."""
        return self._read()[1]

    def _read(self) -> tuple[tuple[Pinned, ...], tuple[str, ...]]:
        baselines, broken = [], []
        for path in sorted(self.folder.glob("*/*.json")):
            try:
                baselines.append(read_pinned(path))
            except ReadError as error:
                leave_out(f"{path.parent.name}@pinned:{path.stem} is left out: {error}")
                broken.append(str(error))
        return tuple(baselines), tuple(broken)

    def get(self, scenario: str, name: str) -> Pinned:
        """One baseline; ``ReadError`` names the nearest known one."""
        path = self.path_of(scenario, name) if _NAME.fullmatch(name) else None
        if path is not None and path.is_file():
            return read_pinned(path)
        names = what_there_is(name, [item.name for item in self.all(scenario)], NONE_PINNED)
        raise ReadError(f"{self.folder}: no pinned baseline {name!r} of the scenario {scenario!r}{names}")

    def keep(self, pinned: Pinned, *, replacing: bool = False) -> Path:
        """Write a baseline; `StoreError` when there is one of that name, unless ``replacing``."""
        path = self.path_of(pinned.scenario, pinned.name)
        with refusals(f"{path}: cannot be written"), file_lock(path):
            if path.exists() and not replacing:
                advice = "`perfkit baseline accept` moves it, or choose another name"
                raise StoreError(f"{path}: {pinned.name} is pinned already; {advice}")
            atomic_write(path, dump_json(pinned.to_dict()))
        return path


def read_pinned(path: Path) -> Pinned:
    """Read one file; ``ReadError`` names what is wrong."""
    try:
        plain = read_json(path)
    except FileNotFoundError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror}") from error
    return decode(plain, Pinned, str(path), schema=SCHEMA, title="pinned baseline")


def find_named(folder: Path, name: str, scenario: str | None = None) -> Pinned:
    """A baseline by its name alone; ``ReadError`` where that names none, or several."""
    baselines = Baselines(folder)
    candidates = baselines.all(scenario)
    named = [item for item in candidates if name in (item.name, f"{item.scenario}@pinned:{item.name}")]
    if len(named) == 1:
        return named[0]
    if named:
        raise ReadError(f"{name}: is pinned for {', '.join(item.scenario for item in named)}; say --scenario")
    damaged = "".join(f"; {text}" for text in baselines.broken())
    names = what_there_is(name, [item.name for item in candidates], NONE_PINNED)
    raise ReadError(f"{folder}: no pinned baseline {name!r}{names}{damaged}")
