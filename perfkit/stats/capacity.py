"""Throughput and latency against load: how much load a service carries, and what it does at a given load.

Windows (`windows_of`): a run is cut at equal steps of time and of load alike, so that a slow ramp, a quick ramp before
a long hold, and stages all give windows within which the load hardly changes.

Knee (`find_knee`): the load at which throughput stops following the load, as the break of a line of two straight parts.
Up to the knee throughput is proportional to the load; beyond it the slope is another one, near zero where a resource is
busy all the time: where the two asymptotes of a closed system meet (Denning & Buzen 1978, doi:10.1145/356733.356735).

Universal Scalability Law (`fit_scalability`): ``X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1))`` with lambda
the throughput of one user, sigma the share of work that waits for its turn (contention) and kappa the cost of keeping
users consistent with one another (coherence); Gunther 2007, Guerrilla Capacity Planning, doi:10.1007/978-3-540-31010-5.

Capacity: an objective such as *p95 below 300 ms* is one on a mean: at most 5 % of the requests may take longer.
Failures and average latency are means already.  So every objective is: the mean of one number per request, which does
not fall as the load rises, stays within a limit; and the capacity is the load at which it no longer does (`crossing`,
from one run; `over_runs`, from several).

Builds are compared at equal load (`common_bins`, `levels_at`): the average over a ramp mixes an idle system with a
saturated one, in a proportion that depends on the ramp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from perfkit.model.records import Metric
from perfkit.stats.effect import PRIOR_SD, NoisePrior, run_to_run
from perfkit.stats.summary import Floats, RequestArrays, requests_needed_for, variance_of_sum, woodruff

# Windows of load ------------------------------------------------------------------------------------------------------

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
        means: Floats = np.diff(np.interp(edges, times, area) + before) / np.diff(edges)
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
    moved = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(np.interp(times, path.time_s, path.load))))])
    measure = (times - begin_s) / (end_s - begin_s)
    if moved[-1] > 0:
        measure = (measure + moved / moved[-1]) / 2.0
    edges = [begin_s]
    for edge in np.interp(np.linspace(0.0, 1.0, count + 1), measure, times)[1:]:
        if edge - edges[-1] >= LEAST_SECONDS:
            edges.append(float(edge))
    if len(edges) == 1:
        return np.array([begin_s, end_s])
    edges[-1] = max(edges[-1], end_s)
    return np.array(edges)


def windows_of(requests: RequestArrays, edges: Floats, load: Floats) -> Windows:
    """The requests of one service, counted in the windows between ``edges`` whose mean loads are ``load``.

    Windows from where the load fell below `FALLEN` of the highest so far are left out: what piled up under the higher
    load would count against the lower one.
    """
    kept = load >= FALLEN * np.maximum.accumulate(load)
    number = np.where(kept, np.cumsum(kept) - 1, -1)

    def window_at(times: Floats) -> NDArray[np.intp]:
        stretch = np.searchsorted(edges, times, side="right") - 1
        inside = (stretch >= 0) & (stretch < number.size)
        return np.where(inside, number[np.clip(stretch, 0, number.size - 1)], -1)

    index = window_at(requests.start_s)
    ended = window_at(requests.start_s + requests.response_time_ms / 1000.0)
    inside = index >= 0
    size, latency = int(kept.sum()), requests.response_time_ms[inside]
    counts = {
        "seconds": np.diff(edges)[kept],
        "started": summed(index[inside], None, size),
        "completed": summed(ended[ended >= 0], None, size),
        "sum_ms": summed(index[inside], latency, size),
        "failed": summed(index[inside], requests.failed[inside], size),
    }
    return _windows(index, index[inside], latency, load[kept], counts)


def regrouped(runs: Sequence[Windows], latency_ms: Sequence[Floats], group: NDArray[np.intp]) -> Windows:
    """The windows of several runs put together by the number in ``group``, one for each window of each run in turn.

    ``latency_ms`` holds the latencies of each run's requests, in the order of its ``index``; that of the result is of
    the requests inside windows, run after run.  Groups without a window are left out.
    """
    group = np.unique(group, return_inverse=True)[1]
    first = np.cumsum([0, *(item.load.size for item in runs)])[:-1]
    index = np.concatenate([group[item.index[item.index >= 0] + at] for item, at in zip(runs, first, strict=True)])
    latency = np.concatenate([values[item.index >= 0] for item, values in zip(runs, latency_ms, strict=True)])

    def total(values: Sequence[Floats]) -> Floats:
        return summed(group, np.concatenate(values), int(group.max()) + 1)

    names = ("seconds", "started", "completed", "sum_ms", "failed")
    counts = {name: total([getattr(item, name) for item in runs]) for name in names}
    load = total([item.load * item.seconds for item in runs]) / counts["seconds"]
    return _windows(index, index, latency, load, counts)


def _windows(
    index: NDArray[np.intp], window: NDArray[np.intp], latency_ms: Floats, load: Floats, counts: Mapping[str, Floats]
) -> Windows:
    """Windows of the requests inside of them, whose ``window`` and latency are given."""
    order = np.lexsort((latency_ms, window))
    parts = np.split(latency_ms[order], np.searchsorted(window[order], np.arange(1, load.size)))
    quantiles = {}
    for name, q in QUANTILES.items():
        enough = requests_needed_for(q)
        quantiles[name] = np.array([float(np.quantile(part, q)) if part.size >= enough else np.nan for part in parts])
    errors, q = np.full(load.size, np.nan), QUANTILES["p95"]
    for number in np.flatnonzero(np.isfinite(quantiles["p95"])).tolist():
        low, high = woodruff(np.sort(parts[number]), q, float(np.sqrt(q * (1 - q) / parts[number].size)))
        errors[number] = (high - low) / 2.0
    return Windows(load=load, quantile_ms=quantiles, p95_error_ms=errors, index=index, **counts)


def summed(index: NDArray[np.intp], values: NDArray[Any] | None, size: int) -> Floats:
    """Sum of the values (``None``: number) with each index from 0 to ``size - 1``."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64)


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


# Knee -----------------------------------------------------------------------------------------------------------------

LEAST_WINDOWS = 12
AT_THE_EDGE = 4  # windows that each part of the line must have
BREAKS = 80  # loads at which a break is tried
STILL_FOLLOWS = 0.5  # of the first slope: from here on throughput is said to follow the load no more
SURELY = 0.75  # of the first slope, which the second may not exceed at 97.5 % confidence


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """Breaks of one curve: ``load`` of the break, slope before, and slope after in parts of the first.

    Each has shape ``(n_replicates + 1,)``; the first value is the estimate, the others are its bootstrap replicates.
    ``reason`` says why there is no knee, and is empty where there is one.
    """

    load: Floats
    slope: Floats
    rest: Floats
    reason: str = ""

    @property
    def throughput(self) -> Floats:
        """Throughput at the knee."""
        return self.load * self.slope


def find_knee(load: Floats, throughput: Floats, weight: Floats, resampled: Floats) -> BrokenLine:
    """The break of throughput against load: at every possible break both slopes by least squares, and the best one.

    Parameters
    ----------
    load, throughput, weight
        One value per window, shape ``(n_windows,)``; ``weight`` is the inverse of a variance, up to a factor.
    resampled
        Counts of each window in each replicate (`resamples`), the sample itself first.

    Returns
    -------
    BrokenLine
        With a ``reason`` where the curve cannot tell: too few windows, a load that hardly moves, or no bend.
    """
    nothing = np.full(len(resampled), np.nan)
    if load.size < LEAST_WINDOWS:
        return BrokenLine(nothing, nothing, nothing, f"{load.size} windows of load; a knee needs {LEAST_WINDOWS}")
    ordered = np.sort(load)
    low, high = ordered[AT_THE_EDGE - 1], ordered[-AT_THE_EDGE]
    if low <= 0 or high < 2.0 * low:
        return BrokenLine(nothing, nothing, nothing, "the load hardly changed; a knee needs it at least doubled")
    weights, breaks = resampled * weight, np.linspace(low, high, BREAKS)
    before = np.minimum(load, breaks[:, None])  # (breaks, windows)
    after = load - before
    aa, ab, bb = (weights @ (x * y).T for x, y in ((before, before), (before, after), (after, after)))
    ay, by = weights @ (before * throughput).T, weights @ (after * throughput).T
    determinant = aa * bb - ab**2
    good = determinant > 1e-9 * aa * bb
    safe = np.where(good, determinant, 1.0)
    first, second = (bb * ay - ab * by) / safe, (aa * by - ab * ay) / safe
    explained = np.where(good & (first > 0), first * ay + second * by, -np.inf)
    best = explained.argmax(axis=1)[:, None]
    slope, rest = (np.take_along_axis(values, best, axis=1)[:, 0] for values in (first, second))
    rest = rest / np.where(slope > 0, slope, np.nan)
    broken = BrokenLine(breaks[best[:, 0]], slope, rest)
    if rest[0] <= STILL_FOLLOWS and np.quantile(rest[1:], 0.975) <= SURELY:
        return broken
    why = (
        "throughput still follows the load at the highest load"
        if rest[0] > STILL_FOLLOWS
        else "the bend is not certain"
    )
    return replace(broken, reason=why)


# Universal Scalability Law --------------------------------------------------------------------------------------------

LEAST_LEVELS = 6  # distinct loads, as Gunther advises
LEAST_SPAN = 3.0  # highest over lowest load
_DISTINCT = 0.02  # of the highest load: closer ones are one level
# Which of (1/lambda, sigma/lambda, kappa/lambda) are free; the others are zero, their bound.
_FREE = ((0, 1, 2), (0, 1), (0, 2), (0,))


@dataclass(frozen=True, slots=True)
class ScalabilityFit:
    """The three parameters and the load of the peak, each of shape ``(n_replicates + 1,)``, the estimate first.

    ``peak_load`` is ``sqrt((1 - sigma) / kappa)``: infinite where kappa is 0, the curve then only flattens.
    ``r_squared`` is of throughput, not of its inverse.  ``reason`` says why nothing was fitted.
    """

    lam: Floats
    sigma: Floats
    kappa: Floats
    r_squared: float = float("nan")
    reason: str = ""

    @property
    def peak_load(self) -> Floats:
        """Load at which throughput is highest; infinite where it has no peak."""
        has_peak = self.kappa > 0
        square = np.maximum(1.0 - self.sigma, 0.0) / np.where(has_peak, self.kappa, 1.0)
        peak: Floats = np.where(has_peak | np.isnan(self.kappa), np.sqrt(square), np.inf)
        return peak


def scalability_at(load: Floats, lam: float, sigma: float, kappa: float) -> Floats:
    """Throughput that the law foretells at each load."""
    return lam * load / (1.0 + sigma * (load - 1.0) + kappa * load * (load - 1.0))


def fit_scalability(load: Floats, throughput: Floats, weight: Floats, resampled: Floats) -> ScalabilityFit:
    """Fit the law by least squares of ``N / X(N)``, which is linear in its parameters, with sigma, kappa >= 0.

    Parameters
    ----------
    load, throughput, weight
        One value per window, shape ``(n_windows,)``; ``weight`` is the inverse of the *relative* variance of
        throughput, up to a factor (its number of requests).
    resampled
        Counts of each window in each replicate, the sample itself first.
    """
    known = (throughput > 0) & (load >= 1.0)  # below one user the law says nothing
    n, x, w = load[known], throughput[known], weight[known]
    levels = np.unique(np.round(n / (_DISTINCT * n.max(initial=1.0)))).size
    reason = ""
    if n.size == 0:
        reason = "no window with at least one user and a request"
    elif levels < LEAST_LEVELS:
        reason = f"{levels} distinct loads; the law needs {LEAST_LEVELS}"
    elif n.max() < LEAST_SPAN * n.min():
        span = f"the load goes from {n.min():.3g} to {n.max():.3g} only"
        reason = f"{span}; the law needs a factor of {LEAST_SPAN:g} or more"
    if reason:
        nothing = np.full(len(resampled), np.nan)
        return ScalabilityFit(nothing, nothing, nothing, reason=reason)
    inverse = n / x
    basis = np.stack([np.ones(n.size), n - 1.0, n * (n - 1.0)])
    theta = _non_negative(basis, inverse, resampled[:, known] * w / inverse**2)
    lam = 1.0 / theta[:, 0]
    sigma, kappa = theta[:, 1] * lam, theta[:, 2] * lam
    left = x - scalability_at(n, float(lam[0]), float(sigma[0]), float(kappa[0]))
    spread = x - np.average(x, weights=w)
    return ScalabilityFit(lam, sigma, kappa, float(1.0 - (w @ left**2) / (w @ spread**2)))


def _non_negative(basis: Floats, target: Floats, weights: Floats) -> Floats:
    """Weighted least squares with parameters >= 0 for each row of weights: the best of the feasible subsets."""
    scale = basis.max(axis=1)  # the columns differ by orders of magnitude
    basis = basis / scale[:, None]
    gram = np.einsum("bw,iw,jw->bij", weights, basis, basis, optimize=True)
    right = weights @ (basis * target).T
    best, theta = np.full(len(weights), -np.inf), np.full((len(weights), 3), np.nan)
    for free in _FREE:
        part = gram[:, free][:, :, free] + 1e-12 * np.eye(len(free)) * gram[:, :1, :1]
        solved = np.linalg.solve(part, right[:, free, None])[:, :, 0]
        explained = np.einsum("bi,bi->b", solved, right[:, free])
        better = (solved[:, 0] > 0) & (solved[:, 1:] >= 0).all(axis=1) & (explained > best)
        candidate = np.zeros_like(theta)
        candidate[:, free] = solved
        theta[better], best[better] = candidate[better], explained[better]
    result: Floats = theta / scale
    return result


# Equal load -----------------------------------------------------------------------------------------------------------

MOST_BINS = 8
LEAST_COMMON = 0.2  # of the highest common load, that the common loads must span
FEWEST = requests_needed_for(0.5)  # requests behind an average
METRICS = (Metric.AVG, Metric.P95, Metric.RPS)
_NOTHING = (float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class LoadBins:
    """Stretches of load that all runs went through: their ``edges``, shape ``(n, 2)``, and mean loads, ``(n,)``."""

    edges: Floats
    centres: Floats


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
        inside = [(windows.load > left) & (windows.load <= right) for windows in runs]
        if all(mask.any() for mask in inside):
            loads = [np.average(w.load[mask], weights=w.seconds[mask]) for w, mask in zip(runs, inside, strict=True)]
            centres.append(float(np.mean(loads)))
            kept.append((left, right))
    return LoadBins(np.array(kept), np.array(centres)) if kept else None


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
    for (left, right), centre in zip(bins.edges, bins.centres.tolist(), strict=True):
        mine = (windows.load > left) & (windows.load <= right)
        average = _ratio_at(centre, windows.load[mine], windows.sum_ms[mine], windows.started[mine])
        work = (windows.load * windows.seconds)[mine]
        rate = _ratio_at(centre, windows.load[mine], windows.completed[mine], work)
        inside = (windows.index >= 0) & mine[windows.index]
        levels[Metric.AVG].append(average if float(windows.started[mine].sum()) >= FEWEST else _NOTHING)
        levels[Metric.RPS].append((rate[0] * centre, rate[1]))
        levels[Metric.P95].append(_p95_at(windows.index[inside], latency_ms[inside], average[0]))
    return {metric: LevelsAtLoad(*np.array(pairs).T) for metric, pairs in levels.items()}


def _ratio_at(centre: float, load: Floats, sums: Floats, sizes: Floats) -> tuple[float, float]:
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


def _p95_at(window: Floats, latency: Floats, at_centre: float) -> tuple[float, float]:
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
    low, high = woodruff(np.sort(latency), 0.95, rank)
    return value * at_centre / float(latency.mean()), float(np.log(high / low)) / 2.0


# Capacity under an objective ------------------------------------------------------------------------------------------

FOUND, AT_LEAST, BELOW, UNKNOWN = "found", "at_least", "below", "unknown"
METRIC = Metric.P50  # whose run-to-run variation (2.2 %) is expected of a capacity, on top of its error within the run
WITHIN_DF = 6.0  # that the bootstrap within the runs adds: it errs on the safe side (test_capacity_calibration.py)


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

    @classmethod
    def found(cls, estimate: float, replicates: Floats) -> Crossing:
        """An estimate whose error is seen from its bootstrap replicates."""
        low, high = np.quantile(replicates, [0.025, 0.975])
        return cls(FOUND, float(estimate), float(np.log(high / low) / (2 * 1.96)))


def isotonic(values: Floats, weights: Floats) -> Floats:
    """The non-decreasing sequence nearest to ``values`` by weighted least squares (doi:10.1214/aoms/1177728423)."""
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
    inside = np.clip(crossings[1:], load[0], load[-1])
    never, always = np.mean(crossings[1:] > load[-1]), np.mean(crossings[1:] < load[0])
    if crossings[0] > load[-1] or never > 0.025:
        if always > 0.025:
            return Crossing(UNKNOWN, float("nan"))
        return Crossing(AT_LEAST, float(min(np.quantile(inside, 0.025), crossings[0])))
    if crossings[0] < load[0] or always > 0.025:
        return Crossing(BELOW, float(max(np.quantile(inside, 0.975), crossings[0])))
    return Crossing.found(crossings[0], inside)


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


def over_runs(crossings: Sequence[Crossing]) -> Estimate:
    """What several runs of one build say together; the run is the unit.

    Where every run has found its capacity: geometric mean, Student's t, a variance moderated as in
    `perfkit.stats.effect`.  Else a bound, the geometric mean of what each run says.
    """
    kinds = {item.status for item in crossings}
    if not kinds or UNKNOWN in kinds or {AT_LEAST, BELOW} <= kinds:
        return Estimate(UNKNOWN, reason="the runs do not say")
    logs = np.log([item.load for item in crossings])
    middle = float(np.exp(logs.mean()))
    if kinds == {FOUND}:
        noise = run_to_run(METRIC, (logs,), crossing_prior((crossings,)))
        half = float(stdtrit(noise.df, 0.975)) * noise.sd / logs.size**0.5
        return Estimate(FOUND, middle, float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half)))
    bounds = sum(item.status != FOUND for item in crossings)
    of = f"in {bounds} of {len(crossings)} runs " if len(crossings) > 1 else ""
    if AT_LEAST in kinds:
        return Estimate(AT_LEAST, low=middle, reason=f"{of}the highest load may still keep it")
    return Estimate(BELOW, high=middle, reason=f"{of}the lowest load may already break it")


def crossing_prior(sides: Sequence[Sequence[Crossing]]) -> NoisePrior:
    """The error of capacities within their runs; a short run on one side is not made up for by many on the other."""
    sides = [side for side in sides if side]
    means = [float(np.mean([item.error**2 for item in side])) for side in sides]
    within = float(np.average(means, weights=[1.0 / len(side) for side in sides]))
    expected = within + PRIOR_SD[METRIC] ** 2
    return NoisePrior(within, history=(WITHIN_DF * expected, WITHIN_DF))


def throughput_at(at: float, load: Floats, completed: Floats, seconds: Floats) -> float:
    """Throughput at one load: that of the five windows nearest to it, per unit of load, times the load."""
    near = np.argsort(np.abs(load - at), kind="stable")[:5]
    return float(at * completed[near].sum() / (load[near] * seconds[near]).sum())
