"""The requests of a run in parts that fit into memory: totals, order in time, sums over stretches of time, counts.

A run of ordinary size is one part.  A large one is read from its file again for each look at it, so that what is held
of it does not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Part(Protocol):
    """Some of the requests, as arrays of one length; ``codes`` number the services."""

    start_s: Floats
    codes: Any
    response_time_ms: Floats
    failed: Any


Parts = Callable[[], Iterable[Part]]


def ends_s(part: Part) -> Floats:
    """When each request was answered, seconds since the epoch."""
    out: Floats = part.start_s + part.response_time_ms / 1000.0
    return out


def log_ms(part: Part) -> Floats:
    """Logarithm of each response time."""
    out = np.maximum(part.response_time_ms, 1e-3)
    np.log(out, out=out)
    return out


@dataclass(frozen=True, slots=True)
class Totals:
    """One look at all requests: arrays of shape ``(n_services,)``, of the last two ``(n_parts,)``.

    A service without requests has its first start at plus and its last at minus infinity.
    """

    counts: NDArray[np.intp]
    failures: NDArray[np.intp]
    first_s: Floats
    last_s: Floats
    longest_ms: Floats
    mean_logs: Floats
    end_s: float  # of the last answer
    part_starts_s: Floats  # the earliest of each part
    part_ends_s: Floats

    @classmethod
    def of(cls, parts: Parts, services: int) -> Totals:
        """The totals of so many services."""
        counts, failures = (np.zeros(services, np.intp) for _ in range(2))
        first, last = np.full(services, np.inf), np.full(services, -np.inf)
        longest, logs = np.zeros(services), np.zeros(services)
        end, starts, ends = -np.inf, [], []
        for part in parts():
            if not part.start_s.size:
                starts.append(np.inf)
                ends.append(np.inf)
                continue
            counts += np.bincount(part.codes, minlength=services)
            failures += np.bincount(part.codes[part.failed], minlength=services)
            logs += np.bincount(part.codes, weights=log_ms(part), minlength=services)
            np.minimum.at(first, part.codes, part.start_s)
            np.maximum.at(last, part.codes, part.start_s)
            np.maximum.at(longest, part.codes, part.response_time_ms)
            answered = ends_s(part)
            end = max(end, float(answered.max()))
            starts.append(float(part.start_s.min()))
            ends.append(float(answered.min()))
        means = logs / np.maximum(counts, 1)
        return cls(counts, failures, first, last, longest, means, end, np.array(starts), np.array(ends))

    @property
    def begin_s(self) -> float:
        """The first start; infinite without requests."""
        return float(self.first_s.min(initial=np.inf))

    def levels(self, part: Part) -> Floats:
        """Log latency of each request relative to its own service: fast and slow services then speak alike."""
        out = log_ms(part)
        out -= self.mean_logs[part.codes]
        return out


def after(part_values: Floats) -> Floats:
    """The least value of all later parts, infinite after the last, from those of each part."""
    return np.append(np.minimum.accumulate(part_values[::-1])[::-1][1:], np.inf)


def in_order(
    parts: Parts, columns: Callable[[Part], tuple[Any, ...]], part_least: Floats
) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """For each part: the rows that are due, and those that wait because a later part holds some that come before them.

    All rows that are due now have a lower first column than any that come later; among themselves they are in no order.
    Parts are nearly in order, as recorded, so that few rows wait.

    Parameters
    ----------
    columns
        What is needed of each part; the first of the arrays is what is ordered by.
    part_least
        The least value of that of each part.
    """
    held: tuple[Any, ...] | None = None
    for part, later in zip(parts(), after(part_least), strict=True):
        new = columns(part)
        held = new if held is None else tuple(map(np.concatenate, zip(held, new, strict=True)))
        is_due = held[0] < later
        if is_due.all():
            due, held = held, tuple(column[:0] for column in held)
        else:
            due, held = (tuple(column[rows] for column in held) for rows in (is_due, ~is_due))
        yield due, held


class Stretches:
    """Equal stretches of time: how many requests began in each, and the sum of their values."""

    def __init__(self, begin_s: float, end_s: float, number: int) -> None:
        self.begin_s, self.length_s = begin_s, end_s - begin_s
        self.counts, self.sums = np.zeros(number, np.intp), np.zeros(number)

    def add(self, start_s: Floats, values: Any) -> None:
        """Of requests between the two ends."""
        number = self.counts.size
        if not number or not self.length_s > 0:
            return
        index = ((start_s - self.begin_s) / self.length_s * number).astype(np.intp)
        np.clip(index, 0, number - 1, out=index)
        self.counts += np.bincount(index, minlength=number)
        self.sums += np.bincount(index, weights=values, minlength=number)


MOST_WAITING = 2**18  # counts that are not yet merged


@dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies in ms, ascending, and how many requests took each; arrays of shape ``(n,)``."""

    ms: Floats
    counts: NDArray[np.int64]

    @classmethod
    def pooled(cls, several: Sequence[Latencies]) -> Latencies:
        """Those of all, such as of several runs."""
        ms, counts = (np.concatenate([getattr(of, name) for of in several]) for name in ("ms", "counts"))
        order = np.argsort(ms, kind="stable")
        return cls(ms[order], counts[order])

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantiles(self, levels: Any) -> Floats:
        """At levels in 0 to 1, linear between order statistics (Hyndman & Fan type 7)."""
        ends = np.cumsum(self.counts)
        rank = (ends[-1] - 1) * np.asarray(levels, np.float64)
        low, high = (self.ms[np.searchsorted(ends, part(rank), side="right")] for part in (np.floor, np.ceil))
        between: Floats = low + (high - low) * (rank - np.floor(rank))
        return between


class LatencyCounts:
    """How many requests took how long in each cell, such as a service: a histogram whose bins are as fine as asked for.

    Latencies are rounded to ``bits`` binary digits after the first, so by at most 2^-(bits + 1) of themselves; 23 are
    those of a number in single precision.  What is held grows with the latencies that differ, not with the requests.
    """

    def __init__(self, bits: int) -> None:
        self._dropped = 23 - bits
        nothing = np.empty(0, np.int64)
        self._parts = [(nothing, nothing)]  # keys, ascending, and counts

    def add(self, cells: Any, latency_ms: Floats) -> None:
        """Count requests; ``cells`` are numbers from 0 to 2^31 of shape ``(n_requests,)``."""
        patterns = np.abs(latency_ms.astype(np.float32)).view(np.uint32)  # which rise as the numbers do
        patterns = (patterns + np.uint32((1 << self._dropped) >> 1)) >> np.uint32(self._dropped)
        keys, counts = np.unique(cells.astype(np.int64) << 32 | patterns, return_counts=True)
        self._parts.append((keys, counts))
        if sum(keys.size for keys, _ in self._parts[1:]) > max(self._parts[0][0].size, MOST_WAITING):
            self._merge()

    def _merge(self) -> None:
        keys, counts = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        begins = np.flatnonzero(np.diff(keys, prepend=-1))
        self._parts = [(keys[begins], np.add.reduceat(counts, begins))]

    def between(self, first: int, end: int) -> tuple[NDArray[np.int64], Latencies]:
        """Of the cells from ``first`` to before ``end``: the cell of each count, and the latencies of each cell."""
        if len(self._parts) != 1:
            self._merge()
        ((keys, counts),) = self._parts
        low, high = np.searchsorted(keys, [first << 32, end << 32])
        keys, counts = keys[low:high], counts[low:high]
        patterns = (keys & 0xFFFFFFFF).astype(np.uint32) << np.uint32(self._dropped)
        return keys >> 32, Latencies(patterns.view(np.float32).astype(np.float64), counts)
