"""What the load generator wrote down about itself, once a second and per process: ``source/generator.csv``."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from perfkit.errors import ReadError
from perfkit.load_profile import LoadProfile
from perfkit.script_errors import ScriptErrors
from perfkit.stats.summary import Floats
from perfkit.validity import ArrivalCounts, GeneratorFacts, Process

NAME = "generator.csv"
SCRIPT_ERRORS = "script_errors.json"
Row = Mapping[str, str]


def generator_facts(source: Path, profile: LoadProfile) -> GeneratorFacts:
    """The facts in a run's ``source`` folder; of a table that is not there or was cut off, what it still tells.

    With workers there is one table each, ``generator.csv.NAME``, besides that of the master, which makes no requests.
    """
    tables = {path.name.removeprefix(NAME).lstrip(".") or "generator": _rows(path) for path in source.glob(f"{NAME}*")}
    tables = {name: rows for name, rows in sorted(tables.items()) if rows}
    makers = {name: rows for name, rows in tables.items() if name != "generator"} or tables
    tables = {name if makers is tables or name != "generator" else "master": rows for name, rows in tables.items()}
    if not tables:
        return GeneratorFacts()
    return GeneratorFacts(
        peak_users=int(users[1].max()) if (users := read_users(source.parent)) is not None else None,
        processes=tuple(_process(name, rows) for name, rows in tables.items()),
        arrivals=_arrivals(list(makers.values()), profile) if profile.is_open else None,
        clock_step_s=max((_step(rows) for rows in tables.values()), key=abs),
        script=_script_errors(source / SCRIPT_ERRORS),
        counted=int(sum(max(_column(rows, "requests"), default=0.0) for rows in makers.values())),
    )


def _script_errors(path: Path) -> ScriptErrors | None:
    """What the load script got wrong; ``None`` where the recorder did not write it, or could not to the end."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ScriptErrors)
    except (OSError, msgspec.DecodeError):
        return None


def _process(name: str, rows: Sequence[Row]) -> Process:
    stalled, stalled_cpu = _column(rows, "stalled_s"), _column(rows, "stalled_cpu_s")
    times = _column(rows, "time")
    return Process(
        name,
        _column(rows, "cpu_pct"),
        _column(rows, "lag_ms"),
        stalled[-1] if stalled else None,
        stalled_cpu[-1] if stalled_cpu else 0.0,
        times[-1] - times[0] if times else 0.0,
    )


def _rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8", errors="replace") as lines:
        return [row for row in csv.DictReader(lines) if row.get("users") and row.get("cpu_pct")]


def _column(rows: Sequence[Row], name: str) -> tuple[float, ...]:
    """The numbers of one column; what was cut off in the middle is left out."""
    found = []
    for row in rows:
        try:
            found.append(float(row.get(name) or "x"))
        except ValueError:
            continue
    return tuple(found)


def _step(rows: Sequence[Row]) -> float:
    return max(_column(rows, "clock_s"), key=abs, default=0.0)


def _arrivals(tables: Sequence[Sequence[Row]], profile: LoadProfile) -> ArrivalCounts:
    def total(name: str) -> int:
        return int(sum(next(iter(_column(rows, name)[-1:]), 0.0) for rows in tables))

    planned = round(sum((stage.begin + stage.end) / 2 * stage.duration_s for stage in profile.course))
    return ArrivalCounts(planned, total("scheduled"), total("started"), total("late"), total("in_flight"))


def _makers(source: Path) -> list[Path]:
    """The tables of the processes that make load: of the workers, where there are some, and not of their master."""
    workers = sorted(source.glob(f"{NAME}.*"))
    return workers or sorted(source.glob(NAME))


def read_users(folder: Path) -> tuple[Floats, Floats] | None:
    """Seconds since the epoch and the users that ran then, ascending; ``None`` where the run has no such table.

    Raises
    ------
    ReadError
        A cell is not a number; names file and line.
    """
    tables = [table for file in _makers(folder / "source") if (table := _latest_per_second(file))]
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
