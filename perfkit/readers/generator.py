"""What the load generator wrote down about itself, once a second and per process: ``source/generator.csv``."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from perfkit.load_profile import LoadProfile
from perfkit.validity import ArrivalCounts, GeneratorFacts, Process

NAME = "generator.csv"
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
        peak_users=_peak_users(makers.values()),
        processes=tuple(_process(name, rows) for name, rows in tables.items()),
        arrivals=_arrivals(list(makers.values()), profile) if profile.is_open else None,
        clock_step_s=max((_step(rows) for rows in tables.values()), key=abs),
        counted=int(sum(max(_column(rows, "requests"), default=0.0) for rows in makers.values())),
    )


def _process(name: str, rows: Sequence[Row]) -> Process:
    return Process(name, _column(rows, "cpu_pct"), _column(rows, "lag_ms"))


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


def _peak_users(tables: Iterable[Sequence[Row]]) -> int | None:
    """The most users at once, over all processes; their seconds are laid over each other."""
    at: dict[int, float] = defaultdict(float)
    for rows in tables:
        by_second = dict(zip(map(int, _column(rows, "time")), _column(rows, "users"), strict=False))
        for second, users in by_second.items():
            at[second] += users
    return int(max(at.values())) if at else None


def _step(rows: Sequence[Row]) -> float:
    return max(_column(rows, "clock_s"), key=abs, default=0.0)


def _arrivals(tables: Sequence[Sequence[Row]], profile: LoadProfile) -> ArrivalCounts:
    def total(name: str) -> int:
        return int(sum(next(iter(_column(rows, name)[-1:]), 0.0) for rows in tables))

    planned = round(sum((stage.begin + stage.end) / 2 * stage.duration_s for stage in profile.course))
    return ArrivalCounts(planned, total("scheduled"), total("started"), total("late"), total("in_flight"))
