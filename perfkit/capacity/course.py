"""A run as capacity sees it: its load over time, and the requests of each service cut into windows of load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfkit.errors import ReadError
from perfkit.model import Run
from perfkit.readers.generator import read_users
from perfkit.readers.requests_frame import RequestColumns, request_columns
from perfkit.stats.capacity import isotonic
from perfkit.stats.load_windows import LoadPath, Windows, cut, end_of_whole, windows_of
from perfkit.stats.summary import Floats, RequestArrays

ALL = "(all requests)"
MOST_SERVICES = 15  # those with the most requests; nobody reads more curves
USERS, ARRIVALS, IN_FLIGHT = "users", "arrivals/s", "requests in flight"
_NEAR = 5  # steps of it within which a peak of arrivals is looked for
_STEPS = 60  # of a path that is counted from requests: as many as there are windows


@dataclass(frozen=True, slots=True)
class Course:
    """One run: the requests of each service, and their windows.  ``ALL`` holds every request of the run."""

    run: Run
    requests: dict[str, RequestArrays]
    windows: dict[str, Windows]
    left_out_s: float  # of the run, after the load had fallen


@dataclass(frozen=True, slots=True)
class _Raw:
    run: Run
    columns: RequestColumns
    users: tuple[Floats, Floats] | None


def courses_of(*sides: Sequence[Run]) -> tuple[str, list[list[Course]]]:
    """The unit of load that all runs have, and the runs of each side cut into windows of it.

    ``users`` where every run has a table of them, ``arrivals/s`` where every run was made with an arrival rate, else
    ``requests in flight`` (rate times mean time: Little, doi:10.1287/opre.9.3.383).

    Raises
    ------
    ReadError
        A run has no single requests, or its table of users is broken.
    """
    raw = [[_read(run) for run in side] for side in sides]
    every = [item for side in raw for item in side]
    if all(item.run.profile.is_open for item in every):
        unit = ARRIVALS
    else:
        unit = USERS if all(item.users is not None for item in every) else IN_FLIGHT
    names = _services(every)
    return unit, [[_course(item, unit, names) for item in side] for side in raw]


def _read(run: Run) -> _Raw:
    frame = run.requests()
    if frame is None or frame.empty:
        what = "its single requests were not kept" if frame is None else "it has no requests"
        raise ReadError(f"{run.source or run.id}: {what}; capacity needs runs that perfkit made or a log of requests")
    users = read_users(Path(run.source)) if run.source and Path(run.source).is_dir() else None
    return _Raw(run, request_columns(frame), users)


def _services(every: Sequence[_Raw]) -> tuple[str, ...]:
    """Services that all runs have, most requests first."""
    counts = [
        dict(zip(raw.columns.names, np.bincount(raw.columns.codes, minlength=len(raw.columns.names)), strict=True))
        for raw in every
    ]
    common = [name for name in counts[0] if all(name in count for count in counts)]
    return tuple(sorted(common, key=lambda name: -sum(count[name] for count in counts))[:MOST_SERVICES])


def _course(raw: _Raw, unit: str, names: Sequence[str]) -> Course:
    columns = raw.columns
    every = RequestArrays(columns.start_s, columns.response_time_ms, columns.failed)
    begin = float(columns.start_s.min())
    end = max(end_of_whole(every, begin), begin + 1e-3)
    path = _path(raw, unit, begin, end)
    edges = cut(path, begin, end, columns.start_s.size)
    load = path.means(edges)
    requests = {ALL: every}
    for name in names:
        mine = columns.codes == columns.names.index(name)
        requests[name] = RequestArrays(columns.start_s[mine], columns.response_time_ms[mine], columns.failed[mine])
    windows = {name: windows_of(part, edges, load) for name, part in requests.items()}
    return Course(raw.run, requests, windows, float(end - begin - windows[ALL].seconds.sum()))


def _path(raw: _Raw, unit: str, begin_s: float, end_s: float) -> LoadPath:
    if unit == USERS and raw.users is not None:
        return LoadPath(*raw.users)
    edges = np.linspace(begin_s, end_s, _steps(end_s - begin_s) + 1)
    start = raw.columns.start_s
    if unit == ARRIVALS:
        amount = _rise_and_fall(np.histogram(start, edges)[0].astype(np.float64))
    else:
        amount = _in_flight(start, start + raw.columns.response_time_ms / 1000.0, edges)
    return LoadPath(edges[:-1], amount / np.diff(edges))


def _rise_and_fall(counts: Floats) -> Floats:
    """Arrivals without their chance fluctuation: the nearest course that rises to one peak and falls after it."""
    near = np.convolve(counts, np.ones(_NEAR), mode="same") / np.convolve(np.ones(counts.size), np.ones(_NEAR), "same")
    peak = int(near.argmax()) + 1
    ones = np.ones(counts.size)
    rising = isotonic(counts[:peak], ones[:peak])
    return np.concatenate([rising, isotonic(counts[peak:][::-1], ones[peak:])[::-1]])


def _steps(seconds: float) -> int:
    return int(np.clip(seconds, 1, _STEPS))


def _in_flight(start: Floats, end: Floats, edges: Floats) -> Floats:
    """Seconds of all requests under way in each stretch of time."""
    out: Floats = np.diff([np.clip(edge - start, 0.0, end - start).sum() for edge in edges])
    return out
