"""What the load generator wrote about itself, once a second and per process: ``source/generator.csv``.

With workers there is one table each, ``generator.csv.NAME``, besides that of the master, which makes no requests.  A
process that was killed leaves a line that is cut off, which is left out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from perfkit.model.errors import ReadError
from perfkit.model.records import LoadProfile
from perfkit.model.script_errors import ScriptErrors
from perfkit.runs.validity import ArrivalCounts, GeneratorFacts, Process
from perfkit.stats.summary import Floats

NAME = "generator.csv"
SCRIPT_ERRORS = "script_errors.json"
Row = Mapping[str, str]


def generator_facts(source: Path, profile: LoadProfile) -> GeneratorFacts:
    """The facts in a run's ``source`` folder; of a table that is not there or was cut off, what it still tells."""
    tables: dict[str, list[Row]] = {}
    for file in sorted(source.glob(f"{NAME}*")):
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            rows: list[Row] = [row for row in csv.DictReader(lines) if row.get("users") and row.get("cpu_pct")]
        if rows:
            tables[file.name.removeprefix(NAME).lstrip(".") or "generator"] = rows
    if not tables:
        return GeneratorFacts()
    workers = {name: rows for name, rows in tables.items() if name != "generator"}
    if workers:  # the table without a name is that of their master
        tables = {name if name != "generator" else "master": rows for name, rows in tables.items()}
    load_tables = list((workers or tables).values())
    try:
        script = msgspec.json.decode((source / SCRIPT_ERRORS).read_bytes(), type=ScriptErrors)
    except (OSError, msgspec.DecodeError):  # the recorder did not write it, or not to the end
        script = None
    users = read_users(source.parent)
    clock_steps = [max(_column(rows, "clock_s"), key=abs, default=0.0) for rows in tables.values()]
    return GeneratorFacts(
        peak_users=int(users[1].max()) if users is not None else None,
        processes=tuple(_process(name, rows) for name, rows in sorted(tables.items())),
        arrivals=_arrivals(load_tables, profile) if profile.is_open else None,
        clock_step_s=max(clock_steps, key=abs),
        script=script,
        counted=int(sum(max(_column(rows, "requests"), default=0.0) for rows in load_tables)),
    )


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


def _column(rows: Sequence[Row], name: str) -> tuple[float, ...]:
    """The numbers of one column; what was cut off in the middle is left out."""
    values = []
    for row in rows:
        try:
            values.append(float(row.get(name) or "x"))
        except ValueError:
            continue
    return tuple(values)


def _arrivals(tables: Sequence[Sequence[Row]], profile: LoadProfile) -> ArrivalCounts:
    def total(name: str) -> int:
        return int(sum(next(iter(_column(rows, name)[-1:]), 0.0) for rows in tables))

    planned = round(sum((stage.begin + stage.end) / 2 * stage.duration_s for stage in profile.load_curve))
    return ArrivalCounts(planned, total("scheduled"), total("started"), total("late"), total("in_flight"))


def read_users(folder: Path) -> tuple[Floats, Floats] | None:
    """Seconds since the epoch and the users that ran then, ascending; ``None`` where the run has no such table.

    Raises
    ------
    ReadError
        A cell is not a number; names file and line.
    """
    source = folder / "source"
    files = sorted(source.glob(f"{NAME}.*")) or sorted(source.glob(NAME))  # of the workers, where there are some
    tables = []
    for file in files:
        users_by_second: dict[int, float] = {}
        with file.open(newline="", encoding="utf-8") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=2):
                if not row.get("time") or not row.get("users"):
                    continue  # the last line of a process that was killed may be cut off
                try:
                    users_by_second[int(float(row["time"]))] = float(row["users"])
                except ValueError as error:
                    raise ReadError(f"{file}: line {number}: {error}") from error
        if users_by_second:
            tables.append(users_by_second)
    if not tables:
        return None
    seconds = np.array(sorted({second for table in tables for second in table}), np.float64)
    total = np.zeros(len(seconds))
    for table in tables:  # a process may have skipped a second in which another wrote a row: it keeps its users
        written = np.array(sorted(table), np.float64)
        users = np.array([0.0, *(table[int(second)] for second in written)])
        total += users[np.searchsorted(written, seconds, side="right")]
    return seconds, total
