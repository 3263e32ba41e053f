"""Latency and throughput of one run at given loads, so that builds can be compared at equal load.

The average over a ramp mixes an idle system with a saturated one, in a proportion that depends on the ramp; only values
at the same load say anything about the build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from perfkit.model import Metric
from perfkit.stats.load_windows import Windows
from perfkit.stats.summary import Floats, requests_needed_for, variance_of_sum

MOST_BINS = 8
LEAST_COMMON = 0.2  # of the highest common load, that the common loads must span
FEWEST = requests_needed_for(0.5)  # requests behind an average
METRICS = (Metric.AVG, Metric.P95, Metric.RPS)


@dataclass(frozen=True, slots=True)
class LoadBins:
    """Stretches of load that all runs went through: their ``edges``, shape ``(n, 2)``, and mean loads, ``(n,)``."""

    edges: Floats
    centres: Floats

    @property
    def size(self) -> int:
        return int(self.centres.size)


def common_bins(runs: Sequence[Windows]) -> LoadBins | None:
    """Equal stretches of the loads that every run went through, or ``None`` where they have next to none in common."""
    low = max(float(windows.load.min()) for windows in runs)
    high = min(float(windows.load.max()) for windows in runs)
    if high <= 0 or high - low < LEAST_COMMON * high:
        return None
    edges = np.linspace(low, high, MOST_BINS + 1)
    edges[0], edges[-1] = edges[0] - 1e-9, edges[-1] + 1e-9
    kept, centres = [], []
    for left, right in pairwise(edges.tolist()):
        inside = [_inside(windows, left, right) for windows in runs]
        if all(mask.any() for mask in inside):
            loads = [np.average(w.load[mask], weights=w.seconds[mask]) for w, mask in zip(runs, inside, strict=True)]
            centres.append(float(np.mean(loads)))
            kept.append((left, right))
    if not kept:
        return None
    return LoadBins(np.array(kept), np.array(centres))


def _inside(windows: Windows, left: float, right: float) -> NDArray[np.bool_]:
    return (windows.load > left) & (windows.load <= right)


@dataclass(frozen=True, slots=True)
class LevelsAtLoad:
    """One metric of one run in each bin: ``values`` in its unit and standard ``errors`` of their natural logarithms."""

    values: Floats
    errors: Floats


def levels_at(bins: LoadBins, windows: Windows, latency_ms: Floats) -> dict[Metric, LevelsAtLoad]:
    """Average and p95 latency and throughput of one run at the centre of each bin; ``nan`` where it cannot say.

    ``latency_ms`` are the latencies of all requests, in the order of ``windows.index``.
    """
    found: dict[Metric, list[tuple[float, float]]] = {metric: [] for metric in METRICS}
    window_bin = np.full(windows.load.size, -1)
    for number, (left, right) in enumerate(bins.edges):
        window_bin[_inside(windows, left, right)] = number
    request_bin = np.where(windows.index >= 0, window_bin[windows.index], -1)
    for number, centre in enumerate(bins.centres.tolist()):
        mine = window_bin == number
        average = _at(centre, windows.load[mine], windows.sum_ms[mine], windows.started[mine])
        rate = _at(centre, windows.load[mine], windows.completed[mine], (windows.load * windows.seconds)[mine])
        count = float(windows.started[mine].sum())
        found[Metric.AVG].append(average if count >= FEWEST else _NOTHING)
        found[Metric.RPS].append((rate[0] * centre, rate[1]))
        inside = request_bin == number
        found[Metric.P95].append(_p95(windows.index[inside], latency_ms[inside], average[0]))
    return {metric: LevelsAtLoad(*np.array(pairs).T) for metric, pairs in found.items()}


_NOTHING = (float("nan"), float("nan"))


def _at(centre: float, load: Floats, sums: Floats, sizes: Floats) -> tuple[float, float]:
    """A ratio of sums at the centre of a bin, by a weighted straight line over load, and the error of its logarithm."""
    total = float(sizes.sum())
    if total <= 0 or sums.sum() <= 0:
        return _NOTHING
    mean = float(sums.sum()) / total
    ratio = np.divide(sums, sizes, out=np.full(load.size, mean), where=sizes > 0)
    off = load - np.average(load, weights=sizes)
    spread = float(sizes @ off**2)
    steep = float(sizes @ (off * ratio)) / spread if load.size >= 3 and spread > 0 else 0.0
    value = mean + steep * float(centre - np.average(load, weights=sizes))
    if value <= 0:
        value, steep = mean, 0.0
    left = sums - (mean + steep * off) * sizes
    error = float(np.sqrt(variance_of_sum(left))) / total if load.size >= 3 else 0.0
    return value, error / value


def _p95(window: Floats, latency: Floats, at_centre: float) -> tuple[float, float]:
    """p95 of the requests of a bin, moved to its centre as the average is; its error from that of its rank."""
    if latency.size < requests_needed_for(0.95):
        return _NOTHING
    value = float(np.quantile(latency, 0.95))
    sizes = np.unique(window, return_inverse=True)[1]
    counts = np.bincount(sizes).astype(np.float64)
    above = np.bincount(sizes, weights=latency > value)
    left = above - counts * float(above.sum() / counts.sum())
    rank = np.sqrt(variance_of_sum(left)) / counts.sum() if counts.size >= 3 else 0.0
    rank = max(float(rank), float(np.sqrt(0.95 * 0.05 / latency.size)))
    low, high = np.quantile(latency, [0.95 - rank, min(0.95 + rank, 1.0)])
    return value * at_centre / float(latency.mean()), float(np.log(high / low)) / 2.0
