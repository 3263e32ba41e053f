"""One thing that was looked at in the settings, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Grade(StrEnum):
    """How bad it is.

    An error makes the gate fail or lie until somebody mends it.  A warning makes it weaker than its user thinks; so is
    all that the next runs may cure, because a pipeline that stops at its first step makes none.
    """

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Remark:
    """What was found of one subject.

    Parameters
    ----------
    check
        What was looked at, one of `CHECKS`.
    subject
        What it is about: a scenario, a service, a file.
    advice
        What to do; empty where nothing is to be done.
    """

    check: str
    subject: str
    grade: Grade
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "grade": self.grade.value}


def fine(check: str, subject: str, found: str) -> Remark:
    """Nothing to object to."""
    return Remark(check, subject, Grade.OK, found)


def listed(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
