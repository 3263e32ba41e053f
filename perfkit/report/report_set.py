"""What several reports came to, in one place: an entry for each, the worst of them, and `index.json` and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from perfkit.model.codec import Time, decode, dump_json, encode, read_json, utc
from perfkit.model.errors import ReadError
from perfkit.model.files import atomic_write
from perfkit.model.records import Verdict

SCHEMA = "perfkit.overview/1"
INDEX = "index.json"


class Outcome(StrEnum):
    """How making a report ended."""

    DONE = "done"
    INCOMPARABLE = "incomparable"  # there is nothing that could be judged, such as at the first run of a scenario
    FAILED = "failed"


_WORST_FIRST = (
    Outcome.FAILED,
    Verdict.INVALID,
    Outcome.INCOMPARABLE,
    Verdict.REGRESSION,
    Verdict.INCONCLUSIVE,
    Verdict.IMPROVEMENT,
    Verdict.NO_CHANGE,
    Outcome.DONE,
)


def rank(word: Verdict | Outcome) -> int:
    """0 for the worst that may happen."""
    return _WORST_FIRST.index(word)


@dataclass(frozen=True, slots=True)
class Entry:
    """One report."""

    scenario: str
    kind: str  # the notebook: ``compare``, ``trend``, ``baseline``, ``capacity``
    outcome: Outcome = Outcome.DONE
    verdict: Verdict | None = None  # ``None`` for a report that judges nothing, and where there is none
    sentences: tuple[str, ...] = ()  # what it says, or why there is none
    # report, result: The HTML and the JSON, relative to the overview's folder; empty where there is none
    report: str = ""
    result: str = ""
    notebook: str = ""  # the executed notebook, where it failed

    @property
    def word(self) -> Verdict | Outcome:
        """The verdict, or how it ended where there is none."""
        return self.verdict if self.outcome is Outcome.DONE and self.verdict is not None else self.outcome

    @property
    def rank(self) -> int:
        """0 for the worst that may happen."""
        return rank(self.word)


class Overview(msgspec.Struct, frozen=True):
    """Reports of several scenarios: the document ``perfkit.overview/1``."""

    entries: tuple[Entry, ...]
    made_at: Time
    store: str = ""
    worst: str | None = None  # as a document says it; it must be that of the entries

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("entries: holds no report at all")
        if self.worst not in (None, worst(self.entries).word.value):
            raise ValueError(f"worst: is {self.worst}, and the entries say {worst(self.entries).word.value}")
        msgspec.structs.force_setattr(self, "made_at", utc(self.made_at))

    @property
    def scenarios(self) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
        """The entries of each scenario, the scenario with the worst one first."""
        names = dict.fromkeys(entry.scenario for entry in self.entries)
        groups = [(name, tuple(entry for entry in self.entries if entry.scenario == name)) for name in names]
        return tuple(sorted(groups, key=lambda group: worst(group[1]).rank))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        head = {"schema": SCHEMA, "worst": worst(self.entries).word.value}
        return {**head, **encode(self), **head}

    def write(self, folder: Path) -> Path:
        """Write ``index.json`` into a folder."""
        atomic_write(folder / INDEX, dump_json(self.to_dict()))
        return folder / INDEX


def worst(entries: tuple[Entry, ...]) -> Entry:
    """The entry that needs attention most, the first of equals; ``ValueError`` when there is none."""
    return min(entries, key=lambda entry: entry.rank)


def is_overview(path: Path) -> bool:
    """Whether it is an `index.json`, or a folder with one."""
    return path.name == INDEX if path.is_file() else (path / INDEX).is_file()


def read_overview(path: Path) -> Overview:
    """Read what `Overview.write` wrote: the file, or its folder; ``ReadError`` for anything else."""
    file = path / INDEX if path.is_dir() else path
    try:
        plain = read_json(file)
    except FileNotFoundError as error:
        raise ReadError(f"{file}: cannot be read: {error.strerror}") from error
    return decode(plain, Overview, str(file), schema=SCHEMA, title="overview of reports")
