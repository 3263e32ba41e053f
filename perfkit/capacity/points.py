"""The points of a curve: one per window of each run, and one per stretch of load over all runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from perfkit.capacity.course import Course
from perfkit.capacity.results import LoadPoint
from perfkit.stats.load_windows import Windows, regrouped

MOST_STRETCHES, LEAST_STRETCHES = 20, 5
REQUESTS_PER_STRETCH = 150  # on average: enough for a p95


def window_points(course: Course, service: str) -> tuple[LoadPoint, ...]:
    """The windows of one run, in order of time."""
    return _points(course.run.id, course.windows[service])


def line_points(courses: Sequence[Course], service: str) -> tuple[LoadPoint, ...]:
    """All requests of the runs in equal stretches of load, ascending; stretches without requests are left out."""
    windows = [course.windows[service] for course in courses]
    load = np.concatenate([item.load for item in windows])
    requests = sum(float(item.started.sum()) for item in windows)
    count = int(np.clip(requests / REQUESTS_PER_STRETCH, LEAST_STRETCHES, MOST_STRETCHES))
    edges = np.linspace(load.min(), load.max(), count + 1)
    stretch = np.clip(np.searchsorted(edges, load, side="right") - 1, 0, count - 1)
    latency = [course.requests[service].response_time_ms for course in courses]
    return tuple(point for point in _points("", regrouped(windows, latency, stretch)) if point.requests)


def _points(run: str, w: Windows) -> tuple[LoadPoint, ...]:
    def known(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return tuple(
        LoadPoint(
            run=run,
            load=float(w.load[i]),
            seconds=float(w.seconds[i]),
            requests=int(w.started[i]),
            throughput=float(w.throughput[i]),
            throughput_error=float(np.sqrt(w.completed[i]) / w.seconds[i]),
            avg_ms=known(w.mean_ms[i]),
            p50_ms=known(w.quantile_ms["p50"][i]),
            p95_ms=known(w.quantile_ms["p95"][i]),
            p95_error_ms=known(w.p95_error_ms[i]),
            p99_ms=known(w.quantile_ms["p99"][i]),
            error_rate_pct=100.0 * float(w.failed[i] / w.started[i]) if w.started[i] else None,
        )
        for i in range(w.load.size)
    )
