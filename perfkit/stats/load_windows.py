"""A run whose load changes, cut into windows: one point of the curves of throughput and latency each.

The cuts are at equal steps of time and of load alike, so that a slow ramp, a quick ramp before a long hold, and stages
all give windows within which the load hardly changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfkit.stats.summary import Floats, RequestArrays, requests_needed_for

MOST_WINDOWS = 60
LEAST_SECONDS = 1.0  # the step of the load generator's own table
REQUESTS_PER_WINDOW = 20  # on average; a run with fewer requests gets fewer windows
FALLEN = 0.85  # of the highest load so far: below it the load has come down, and a backlog may still be worked off
LONGEST_TAIL = 0.25  # of a run: so much of its end at most is given up for requests that were never finished
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class LoadPath:
    """Load over the time of a run: ``load[i]`` holds from ``time_s[i]`` (ascending, seconds) on; shape ``(n,)``."""

    time_s: Floats
    load: Floats

    def __post_init__(self) -> None:
        if self.time_s.size == 0 or self.time_s.size != self.load.size:
            raise ValueError(f"load path: {self.time_s.size} times and {self.load.size} loads; both >= 1 and equal")

    def means(self, edges: Floats) -> Floats:
        """Mean load between neighbouring ``edges`` (seconds), shape ``(n_edges - 1,)``."""
        times = np.concatenate([self.time_s, [max(self.time_s[-1], edges[-1]) + 1.0]])
        area = np.concatenate([[0.0], np.cumsum(self.load * np.diff(times))])
        before = np.minimum(edges - times[0], 0.0) * self.load[0]  # the first value holds before it, too
        area_at = np.interp(edges, times, area) + before
        means: Floats = np.diff(area_at) / np.diff(edges)
        return means


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one service in one run, in order of time; every array but ``index`` has shape ``(n_windows,)``.

    ``seconds`` is the length, ``load`` the mean load, ``started`` and ``completed`` count requests by their start and
    by their end, ``sum_ms`` adds up the latencies of those started, ``failed`` counts the failures among them.
    ``quantile_ms`` holds p50, p95 and p99 and ``p95_error_ms`` the standard error of p95 as if requests were
    independent; ``nan`` where too few requests were started.  ``index`` (shape ``(n_requests,)``) is the window in
    which a request started, -1 outside.
    """

    seconds: Floats
    load: Floats
    started: Floats
    completed: Floats
    sum_ms: Floats
    failed: Floats
    quantile_ms: Mapping[str, Floats]
    p95_error_ms: Floats
    index: NDArray[np.intp]

    @property
    def throughput(self) -> Floats:
        """Requests that ended, per second."""
        return self.completed / self.seconds

    @property
    def mean_ms(self) -> Floats:
        """Mean latency of the requests that started; ``nan`` where none did."""
        nothing = np.full(self.load.size, np.nan)
        means: Floats = np.divide(self.sum_ms, self.started, out=nothing, where=self.started > 0)
        return means


def end_of_whole(requests: RequestArrays, begin_s: float) -> float:
    """The time up to which every request that started was also seen to end.

    Requests under way at the end of a run are not counted, the slow ones above all; so the last stretch, as long as
    the p99 of the last tenth of the requests, is left out.
    """
    ends = requests.start_s + requests.response_time_ms / 1000.0
    last = np.argsort(ends)[-max(ends.size // 10, 1) :]
    tail = float(np.quantile(requests.response_time_ms[last], 0.99)) / 1000.0
    end = float(ends.max())
    return end - min(tail, LONGEST_TAIL * (end - begin_s))


def cut(path: LoadPath, begin_s: float, end_s: float, requests: int) -> Floats:
    """Edges of the windows (seconds, ascending); equal steps of time and of load alike, none shorter than a second."""
    count = int(np.clip(requests / REQUESTS_PER_WINDOW, 1, MOST_WINDOWS))
    inside = (path.time_s > begin_s) & (path.time_s < end_s)
    times = np.concatenate([[begin_s], path.time_s[inside], [end_s]])
    load = np.interp(times, path.time_s, path.load)
    moved = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(load)))])
    measure = (times - begin_s) / (end_s - begin_s)
    if moved[-1] > 0:
        measure = (measure + moved / moved[-1]) / 2.0
    wanted = np.interp(np.linspace(0.0, 1.0, count + 1), measure, times)
    edges = [begin_s]
    for edge in wanted[1:]:
        if edge - edges[-1] >= LEAST_SECONDS:
            edges.append(float(edge))
    if edges[-1] < end_s and len(edges) > 1:
        edges[-1] = end_s
    return np.array(edges if len(edges) > 1 else [begin_s, end_s])


def windows_of(requests: RequestArrays, edges: Floats, load: Floats) -> Windows:
    """The requests of one service, counted in the windows between ``edges`` whose mean loads are ``load``.

    Windows from where the load fell below `FALLEN` of the highest so far are left out: what piled up under the higher
    load would count against the lower one.
    """
    kept = load >= FALLEN * np.maximum.accumulate(load)
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    index = _window_at(edges, requests.start_s, number)
    ended = _window_at(edges, requests.start_s + requests.response_time_ms / 1000.0, number)
    size = int(kept.sum())
    inside = index >= 0
    latency = requests.response_time_ms[inside]
    parts = _parts(index[inside], latency, size)
    started = np.bincount(index[inside], minlength=size).astype(np.float64)
    return Windows(
        seconds=np.diff(edges)[kept],
        load=load[kept],
        started=started,
        completed=np.bincount(ended[ended >= 0], minlength=size).astype(np.float64),
        sum_ms=summed(index[inside], latency, size),
        failed=summed(index[inside], requests.failed[inside], size),
        quantile_ms={name: _each(parts, q) for name, q in QUANTILES.items()},
        p95_error_ms=np.array([_woodruff(part, 0.95) for part in parts]),
        index=index,
    )


def summed(index: NDArray[np.intp], values: NDArray[Any], size: int) -> Floats:
    """Sum of the values with each index from 0 to ``size - 1``."""
    sums: Floats = np.bincount(index, weights=values, minlength=size).astype(np.float64)
    return sums


def _window_at(edges: Floats, times: Floats, number: NDArray[np.intp]) -> NDArray[np.intp]:
    place = np.searchsorted(edges, times, side="right") - 1
    inside = (place >= 0) & (place < number.size)
    return np.where(inside, number[np.clip(place, 0, number.size - 1)], -1)


def _parts(index: NDArray[np.intp], latency: Floats, size: int) -> list[Floats]:
    """The latencies of each window, ascending."""
    order = np.lexsort((latency, index))
    return np.split(latency[order], np.searchsorted(index[order], np.arange(1, size)))


def _each(parts: list[Floats], q: float) -> Floats:
    least = requests_needed_for(q)
    return np.array([float(np.quantile(part, q)) if part.size >= least else np.nan for part in parts])


def _woodruff(ordered: Floats, q: float) -> float:
    """Standard error of a quantile of independent requests (doi:10.1080/01621459.1952.10483443)."""
    if ordered.size < requests_needed_for(q):
        return float("nan")
    rank = float(np.sqrt(q * (1 - q) / ordered.size))
    low, high = np.quantile(ordered, [q - rank, min(q + rank, 1.0)])
    return float(high - low) / 2.0


def regrouped(runs: Sequence[Windows], latency_ms: Sequence[Floats], group: NDArray[np.intp]) -> Windows:
    """The windows of several runs put together by the number in ``group``, one for each window of each run in turn.

    ``latency_ms`` holds the latencies of each run's requests, in the order of its ``index``; that of the result is of
    the requests inside windows, run after run.  Groups without a window are left out.
    """
    group = np.unique(group, return_inverse=True)[1]
    size = int(group.max()) + 1
    first = np.cumsum([0, *(item.load.size for item in runs)])[:-1]
    index = np.concatenate([group[item.index[item.index >= 0] + at] for item, at in zip(runs, first, strict=True)])
    latency = np.concatenate([values[item.index >= 0] for item, values in zip(runs, latency_ms, strict=True)])

    def total(name: str) -> Floats:
        return summed(group, np.concatenate([getattr(item, name) for item in runs]), size)

    seconds, parts = total("seconds"), _parts(index, latency, size)
    load = np.concatenate([item.load * item.seconds for item in runs])
    return Windows(
        seconds=seconds,
        load=summed(group, load, size) / seconds,
        started=total("started"),
        completed=total("completed"),
        sum_ms=total("sum_ms"),
        failed=total("failed"),
        quantile_ms={name: _each(parts, q) for name, q in QUANTILES.items()},
        p95_error_ms=np.array([_woodruff(part, 0.95) for part in parts]),
        index=index,
    )


def resamples(count: int, replicates: int, seed: int = 0) -> Floats:
    """How often each of ``count`` windows stands in each replicate of a moving-block bootstrap.

    Blocks of about ``count ** (1/3)`` neighbours keep the correlation of a queue (Künsch 1989,
    doi:10.1214/aos/1176347265); blocks wrap around the end.  The first replicate is the sample itself.

    Returns
    -------
    array of shape ``(replicates + 1, count)``
    """
    length = max(1, round(count ** (1.0 / 3.0)))
    rng = np.random.default_rng(seed)
    begins = rng.integers(0, count, size=(replicates, int(np.ceil(count / length))))
    drawn = ((begins[:, :, None] + np.arange(length)) % count).reshape(replicates, -1)[:, :count]
    weights = np.ones((replicates + 1, count))
    for row, windows in enumerate(drawn, start=1):
        weights[row] = np.bincount(windows, minlength=count)
    return weights
