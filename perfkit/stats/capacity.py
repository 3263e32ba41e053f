"""How much load a service carries while it keeps an objective, and what it does at a given load.

An objective such as *p95 below 300 ms* is one on a mean: at most 5 % of the requests may take longer.  Failures and
average latency are means already.  So every objective is: the mean of one number per request, which does not fall as
the load rises, stays within a limit; and the capacity is the load at which it no longer does (`crossing`, from one run;
`over_runs`, from several).

Builds are compared at equal load (`common_bins`, `levels_at`): the average over a ramp mixes an idle system with a
saturated one, in a proportion that depends on the ramp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from perfkit.model.records import Metric
from perfkit.stats.load_curve import Windows
from perfkit.stats.noise import PRIOR_SD, NoisePrior, run_to_run
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
    levels: dict[Metric, list[tuple[float, float]]] = {metric: [] for metric in METRICS}
    window_bin = np.full(windows.load.size, -1)
    for number, (left, right) in enumerate(bins.edges):
        window_bin[_inside(windows, left, right)] = number
    request_bin = np.where(windows.index >= 0, window_bin[windows.index], -1)
    for number, centre in enumerate(bins.centres.tolist()):
        mine = window_bin == number
        average = _at(centre, windows.load[mine], windows.sum_ms[mine], windows.started[mine])
        rate = _at(centre, windows.load[mine], windows.completed[mine], (windows.load * windows.seconds)[mine])
        count = float(windows.started[mine].sum())
        levels[Metric.AVG].append(average if count >= FEWEST else _NOTHING)
        levels[Metric.RPS].append((rate[0] * centre, rate[1]))
        inside = request_bin == number
        levels[Metric.P95].append(_p95(windows.index[inside], latency_ms[inside], average[0]))
    return {metric: LevelsAtLoad(*np.array(pairs).T) for metric, pairs in levels.items()}


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


FOUND, AT_LEAST, BELOW, UNKNOWN = "found", "at_least", "below", "unknown"


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where one run breaks its objective.

    ``status`` is ``found``, ``at_least`` (it may never have been broken: ``load`` is a lower bound, 97.5 %) or
    ``below`` (it may have been broken from the start: an upper bound).  ``error`` is the standard error of the natural
    logarithm of ``load``, ``nan`` unless found.
    """

    status: str
    load: float
    error: float = float("nan")


def isotonic(values: Floats, weights: Floats) -> Floats:
    """The non-decreasing sequence nearest to ``values`` by weighted least squares (doi:10.1214/aoms/1177728423).

    >>> isotonic(np.array([0.0, 2.0, 1.0, 3.0]), np.ones(4)).tolist()
    [0.0, 1.5, 1.5, 3.0]
    """
    from scipy.optimize import isotonic_regression

    fitted: Floats = isotonic_regression(values, weights=weights).x
    return fitted


def crossing(load: Floats, sums: Floats, counts: Floats, limit: float, resampled: Floats) -> Crossing:
    """The load up to which the mean of a quantity keeps its limit.

    Parameters
    ----------
    load
        Of each window, shape ``(n_windows,)``.
    sums, counts
        The quantity added up over the requests of each window, and their number.
    limit
        The largest mean that keeps the objective.
    resampled
        Counts of each window in each replicate, the sample itself first.
    """
    order = np.argsort(load, kind="stable")
    order = order[counts[order] > 0]
    if order.size < 2:
        return Crossing(UNKNOWN, float("nan"))
    load, means = load[order], sums[order] / counts[order]
    crossings = np.array([_break(load, means, row[order] * counts[order], limit) for row in resampled])
    low, high = np.quantile(np.clip(crossings[1:], load[0], load[-1]), [0.025, 0.975])
    never, always = np.mean(crossings[1:] > load[-1]), np.mean(crossings[1:] < load[0])
    if crossings[0] > load[-1] or never > 0.025:
        return Crossing(UNKNOWN, float("nan")) if always > 0.025 else Crossing(AT_LEAST, float(min(low, crossings[0])))
    if crossings[0] < load[0] or always > 0.025:
        return Crossing(BELOW, float(max(high, crossings[0])))
    return Crossing(FOUND, float(crossings[0]), float(np.log(high / low) / (2 * 1.96)))


def _break(load: Floats, means: Floats, weights: Floats, limit: float) -> float:
    """Where the isotonic mean crosses the limit, linear between neighbours; infinite when it never does, 0 at once."""
    drawn = weights > 0
    load = load[drawn]
    fit = isotonic(means[drawn], weights[drawn])
    broken = int(np.searchsorted(fit, limit, side="right"))
    if broken == fit.size:
        return float("inf")
    if broken == 0:
        return 0.0
    share = (limit - fit[broken - 1]) / (fit[broken] - fit[broken - 1])
    return float(load[broken - 1] + share * (load[broken] - load[broken - 1]))


def throughput_at(at: float, load: Floats, completed: Floats, seconds: Floats) -> float:
    """Throughput at one load: that of the five windows nearest to it, per unit of load, times the load."""
    near = np.argsort(np.abs(load - at), kind="stable")[:5]
    return float(at * completed[near].sum() / (load[near] * seconds[near]).sum())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A load or throughput of a set of runs, with its 95 % interval.

    ``status``: ``found``, ``at_least`` (``low`` is the bound), ``below`` (``high`` is the bound) or ``unknown``;
    ``reason`` says why it is not simply found.  What cannot be said is ``None``.
    """

    status: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def over_runs(crossings: Sequence[Crossing], confidence: float = 0.95) -> Estimate:
    """What several runs of one build say together; the run is the unit.

    Where every run has found its capacity: geometric mean, Student's t, a variance moderated as in
    `perfkit.stats.noise`.  Else a bound, the geometric mean of what each run says.
    """
    kinds = {item.status for item in crossings}
    if kinds == {FOUND}:
        logs = np.log([item.load for item in crossings])
        noise = run_to_run(METRIC, (logs,), crossing_prior((crossings,)))
        half = float(stdtrit(noise.df, 0.5 + confidence / 2.0)) * noise.sd / logs.size**0.5
        value, low, high = (float(np.exp(logs.mean() + step)) for step in (0.0, -half, half))
        return Estimate(FOUND, value, low, high)
    if not kinds or UNKNOWN in kinds or {AT_LEAST, BELOW} <= kinds:
        return Estimate(UNKNOWN, reason="the runs do not say")
    bounds = sum(item.status != FOUND for item in crossings)
    of = f"in {bounds} of {len(crossings)} runs " if len(crossings) > 1 else ""
    bound = float(np.exp(np.mean(np.log([item.load for item in crossings]))))
    if AT_LEAST in kinds:
        return Estimate(AT_LEAST, low=bound, reason=f"{of}the highest load may still keep it")
    return Estimate(BELOW, high=bound, reason=f"{of}the lowest load may already break it")


METRIC = Metric.P50  # whose run-to-run variation (2.2 %) is expected of a capacity, on top of its error within the run
WITHIN_DF = 6.0  # that the bootstrap within the runs adds: it errs on the safe side (test_capacity_calibration.py)


def crossing_prior(sides: Sequence[Sequence[Crossing]]) -> NoisePrior:
    """The error of capacities within their runs; a short run on one side is not made up for by many on the other."""
    sides = [side for side in sides if side]
    means = [float(np.mean([item.error**2 for item in side])) for side in sides]
    within = float(np.average(means, weights=[1.0 / len(side) for side in sides]))
    expected = within + PRIOR_SD[METRIC] ** 2
    return NoisePrior(within, history=(WITHIN_DF * expected, WITHIN_DF))
