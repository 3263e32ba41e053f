"""A load test while it runs, in bounded memory: what its requests say so far, read from the recording as it grows.

The recorder writes the recording anyway, once a second; here, in perfkit's own process, only what was added is read.
So watching a run costs Locust nothing.  Percentiles come from bins that are 2 % wide: they are exact to 1 %.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from perfkit.runs.recording_stream import as_table
from perfkit.runs.requests import RequestColumns
from perfkit.runs.run_folder import table_columns
from perfkit.stats.streams import ends_s

LOWEST_MS, GROWTH, BINS = 0.01, 1.02, 1160  # to 24 hours
MOST_SERVICES = 200  # that are followed apart
MOST_KINDS = 500  # of errors and services
MOST_POINTS = 240  # of the course; then two become one
OTHERS = "(others)"
RECENT_S = 10.0


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """One service of a run, or of several; times in ms, ``rps`` per second, ``None`` where it cannot be said."""

    service: str
    count: int | None
    failures: int | None
    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    rps: float | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """A run over time: arrays of shape ``(n_points,)``, one point per ``width_s`` seconds; ``NaN`` without requests."""

    width_s: float
    users: Any
    rps: Any
    failures: Any  # per second
    p50: Any
    p95: Any


class LiveRequests:
    """The requests of one recording so far; call `read` now and then."""

    def __init__(self, recording: Path | None) -> None:
        self.recording = recording
        self.errors: Counter[tuple[str, str]] = Counter()  # kind and service
        self.begun: float | None = None  # seconds since the epoch, of the first request
        self._file: FileIO | None = None
        self._stream: pa.RecordBatchReader | None = None
        self._names: dict[str, int] = {}
        self._bins = np.zeros((1, BINS), np.int64)  # of each service
        self._failures, self._sums, self._largest = (np.zeros(1) for _ in range(3))
        self._width_s = 1.0
        self._course = np.zeros((MOST_POINTS, BINS), np.int32)
        self._failed, self._users = np.zeros(MOST_POINTS), np.full(MOST_POINTS, np.nan)

    def read(self, users: int) -> None:
        """Take what was written since the last call; ``users`` is how many there are now.

        What is not whole yet is left for the next call; a recording that is gone or damaged adds nothing.
        """
        for batch in self._new_batches():
            if (part := table_columns(as_table([batch]))) is not None:
                self._add(part)
        if self.begun is not None:
            (now,) = self._points([time.time()])
            known = np.flatnonzero(~np.isnan(self._users[:now]))  # a look may come late: the seconds since the last one
            self._users[known[-1] + 1 if known.size else now : now + 1] = users

    def _new_batches(self) -> Iterable[pa.RecordBatch]:
        try:
            if self._file is None:
                self._file = FileIO(str(self.recording))
            begin = self._file.tell()
            messages = pa.BufferReader(self._file.read())
            self._file.seek(begin)
            whole: Counter[str] = Counter()
            try:
                while True:
                    whole[pa.ipc.read_message(messages).type] += 1
            except (EOFError, OSError, pa.ArrowInvalid):  # the last one is not whole yet
                pass
            if self._stream is None and whole["record batch"]:
                self._stream = pa.ipc.open_stream(self._file)
            return [self._stream.read_next_batch() for _ in range(whole["record batch"])] if self._stream else []
        except (OSError, pa.ArrowException, StopIteration):
            return []

    def _add(self, part: RequestColumns) -> None:
        times, failed = part.response_time_ms, part.failed
        services = np.array([self._row(name) for name in part.names])[part.codes]
        exponents = np.log(np.maximum(times, LOWEST_MS) / LOWEST_MS) / math.log(GROWTH)
        bins = np.minimum(exponents.astype(np.int64), BINS - 1)
        np.add.at(self._bins, (services, bins), 1)
        size = len(self._bins)
        self._failures += np.bincount(services[failed], minlength=size)
        self._sums += np.bincount(services, times, minlength=size)
        np.maximum.at(self._largest, services, times)
        ends = ends_s(part)
        if self.begun is None:
            self.begun = float(ends.min())
        points = self._points(ends)
        np.add.at(self._course, (points, bins), 1)
        self._failed += np.bincount(points[failed], minlength=MOST_POINTS)
        codes, kinds = part.errors or (part.codes, [])
        pairs = zip(codes[failed].tolist(), part.codes[failed].tolist(), strict=True)
        for (kind, service), count in Counter(pairs).items():
            key = (kinds[kind], part.names[service])
            self.errors[key if key in self.errors or len(self.errors) < MOST_KINDS else (OTHERS, OTHERS)] += count

    def _row(self, name: str) -> int:
        if name not in self._names and len(self._names) >= MOST_SERVICES:
            name = OTHERS
        row = self._names.setdefault(name, len(self._names))
        if row >= len(self._bins):
            self._bins = np.vstack([self._bins, np.zeros_like(self._bins)])
            for column in ("_failures", "_sums", "_largest"):
                held = getattr(self, column)
                setattr(self, column, np.concatenate([held, np.zeros_like(held)]))
        return row

    def _points(self, at: Any) -> Any:
        """The points of these times; where there are too many, each two become one first."""
        begun = self.begun or 0.0
        since = np.clip(np.asarray(at) - begun, 0.0, time.time() + 1.0 - begun)
        while since.max() >= self._width_s * MOST_POINTS:
            half, rest = MOST_POINTS // 2, (0, MOST_POINTS - MOST_POINTS // 2)
            self._course = np.pad(self._course[0::2] + self._course[1::2], (rest, (0, 0)))
            self._failed = np.pad(self._failed[0::2] + self._failed[1::2], rest)
            users = np.fmax(self._users[0::2], self._users[1::2])
            self._users = np.concatenate([users, np.full(half, np.nan)])
            self._width_s *= 2
        return (since / self._width_s).astype(np.int64)

    def services(self) -> tuple[ServiceFigures, ...]:
        """Each service so far, the one with most failures first, then by requests."""
        counts = self._bins.sum(axis=1)
        largest = self._largest
        p50, p95, p99 = (np.minimum(_quantiles(self._bins, q), largest) for q in (0.5, 0.95, 0.99))
        length_s = max(time.time() - self.begun, 1.0) if self.begun is not None else math.nan
        return by_failures(
            ServiceFigures(
                name,
                int(counts[row]),
                int(self._failures[row]),
                float(self._sums[row] / counts[row]),
                float(p50[row]),
                float(p95[row]),
                float(p99[row]),
                float(largest[row]),
                float(counts[row] / length_s),
            )
            for name, row in self._names.items()
        )

    def course(self) -> Course:
        """The run so far; the last second, of which more will come, is left out."""
        now = 0 if self.begun is None else int((time.time() - 1.0 - self.begun) / self._width_s)
        points = slice(0, min(max(now, 0), MOST_POINTS))
        bins = self._course[points]
        p50, p95 = (_quantiles(bins, q) for q in (0.5, 0.95))
        rps, failures = bins.sum(axis=1) / self._width_s, self._failed[points] / self._width_s
        return Course(self._width_s, self._users[points], rps, failures, p50, p95)

    def recent(self, quantile: float) -> float | None:
        """A quantile of the response times of the last `RECENT_S` seconds, ms; ``None`` without requests."""
        if self.begun is None:
            return None
        now = int((time.time() - self.begun) / self._width_s)
        first = max(now - math.ceil(RECENT_S / self._width_s), 0)
        value = float(_quantiles(self._course[first : now + 1].sum(axis=0)[None], quantile)[0])
        return None if math.isnan(value) else value

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _quantiles(bins: Any, quantile: float) -> Any:
    """A quantile of each row of bins: the middle of the bin that holds it; ``NaN`` for a row without requests."""
    counts = bins.sum(axis=1)
    at = (bins.cumsum(axis=1) < np.maximum(np.ceil(quantile * counts), 1)[:, None]).sum(axis=1)
    return np.where(counts > 0, LOWEST_MS * GROWTH ** (at + 0.5), np.nan)


def by_failures(figures: Iterable[ServiceFigures]) -> tuple[ServiceFigures, ...]:
    """The service with most failures first, then by requests."""
    return tuple(sorted(figures, key=lambda one: (-(one.failures or 0), -(one.count or 0), one.service)))
