"""The time course of a Locust run: ``PREFIX_stats_history.csv``, whatever its age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from perfkit.errors import ReadError
from perfkit.readers.locust_tables import TOTAL_NAMES, number_of, table_of
from perfkit.stats.course import CourseErrors, course_errors
from perfkit.stats.summary import Floats

COLUMNS = {
    "timestamp": ("timestamp",),
    "users": ("user count",),
    "name": ("name",),
    "count": ("total request count", "# requests"),
    "average": ("total average response time", "average response time"),
}


@dataclass(frozen=True, slots=True)
class History:
    """The state of the whole run as Locust wrote it down, about once a second.

    Parameters
    ----------
    at_s
        Seconds since the epoch, ascending, shape ``(n,)``; of one second the last line counts.
    users
        Running users, same shape; ``nan`` where the file does not say (before Locust 1.0).
    counts
        Requests from the beginning until then.
    averages_ms
        Their average latency.
    """

    at_s: Floats
    users: Floats
    counts: Floats
    averages_ms: Floats

    @property
    def started_at(self) -> datetime | None:
        """When the first line was written."""
        return datetime.fromtimestamp(float(self.at_s[0]), UTC) if self.at_s.size else None

    @property
    def duration_s(self) -> float | None:
        """From the first line to the last."""
        return float(self.at_s[-1] - self.at_s[0]) or None if self.at_s.size else None

    @property
    def peak_users(self) -> int | None:
        known = self.users[np.isfinite(self.users)]
        return int(known.max()) or None if known.size else None

    @property
    def errors(self) -> CourseErrors | None:
        """What the course says of the error of the run's average and rate."""
        known = np.isfinite(self.counts) & np.isfinite(self.averages_ms)
        counts = self.counts[known]
        if counts.size < 2 or (np.diff(counts) < 0).any():
            return None  # statistics were reset in the middle of the run
        averages = self.averages_ms[known]
        # Whole milliseconds (before Locust 2) times all requests so far swamp what happens in one batch.
        rounded = bool((averages == np.round(averages)).all())
        return course_errors(self.at_s[known], counts, None if rounded else averages)


NO_HISTORY = History(*(np.zeros(0) for _ in range(4)))


def read_history(path: Path) -> History:
    """Read a history file; `NO_HISTORY` when there is none, or one without times.

    Raises
    ------
    ReadError
        A cell is not a number.  Names file and line.
    """
    if not path.is_file():
        return NO_HISTORY
    table = table_of(path)
    header = [title.strip().lower() for title in next(table, (0, []))[1]]
    at = {key: next((header.index(n) for n in names if n in header), -1) for key, names in COLUMNS.items()}
    if at["timestamp"] < 0:
        return NO_HISTORY
    by_time: dict[float, Mapping[str, float]] = {}
    users: dict[float, float] = {}
    for line, cells in table:
        if len(cells) < len(header):
            continue  # Locust was killed while it wrote this line
        row = _row(f"{path}: line {line}", cells, at)
        time = row["timestamp"]
        users[time] = max(users.get(time, row["users"]), row["users"])
        if at["name"] < 0 or cells[at["name"]] in TOTAL_NAMES:
            by_time[time] = row
    return _history(path, by_time, users)


def _row(place: str, cells: Sequence[str], at: Mapping[str, int]) -> dict[str, float]:
    found = {}
    for key in ("timestamp", "users", "count", "average"):
        value = number_of(place, key, cells[at[key]]) if at[key] >= 0 else None
        found[key] = float("nan") if value is None else value
    return found


def _history(path: Path, by_time: Mapping[float, Mapping[str, float]], users: Mapping[float, float]) -> History:
    times = sorted(by_time)
    if not times:
        return NO_HISTORY
    try:
        datetime.fromtimestamp(times[0], UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ReadError(f"{path}: timestamp: expected seconds since the epoch, got {times[0]:g}") from error
    columns = ([row[key] for row in (by_time[t] for t in times)] for key in ("count", "average"))
    counts, averages = (np.array(column, float) for column in columns)
    return History(np.array(times, float), np.array([users[t] for t in times], float), counts, averages)
