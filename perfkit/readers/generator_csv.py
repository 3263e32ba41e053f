"""What the load generator wrote about itself, second by second: how many users ran."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from perfkit.errors import ReadError
from perfkit.stats.summary import Floats

PATTERN = "source/generator.csv*"  # with several processes one file each, whose users add up


def read_users(folder: Path) -> tuple[Floats, Floats] | None:
    """Seconds since the epoch and the users that ran then, ascending; ``None`` where the run has no such table.

    Raises
    ------
    ReadError
        A cell is not a number; names file and line.
    """
    tables = [table for file in sorted(folder.glob(PATTERN)) if (table := _latest_per_second(file))]
    if not tables:
        return None
    seconds = np.array(sorted({second for table in tables for second in table}), np.float64)
    return seconds, np.sum([_held(table, seconds) for table in tables], axis=0)


def _held(table: dict[int, float], seconds: Floats) -> Floats:
    """The users of one process at every second: it may have skipped one in which another wrote a row."""
    known = np.array(sorted(table), np.float64)
    users = np.array([0.0, *(table[int(second)] for second in known)])
    return users[np.searchsorted(known, seconds, side="right")]


def _latest_per_second(file: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            if not row.get("time") or not row.get("users"):
                continue  # the last line of a process that was killed may be cut off
            try:
                found[int(float(row["time"]))] = float(row["users"])
            except ValueError as error:
                raise ReadError(f"{file}: line {number}: {error}") from error
    return found
