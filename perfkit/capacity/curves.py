"""From the runs of one side to what they say of a service: knee, scalability law, capacity under a promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from perfkit.capacity.course import ARRIVALS, IN_FLIGHT, Course
from perfkit.capacity.points import line_points, window_points
from perfkit.capacity.results import Scalability, ServiceCapacity
from perfkit.model import Metric
from perfkit.policy import Objective
from perfkit.stats.capacity import FOUND, UNKNOWN, Crossing, Estimate, crossing, over_runs, throughput_at
from perfkit.stats.knee import BrokenLine, find_knee
from perfkit.stats.load_windows import Windows, resamples, summed
from perfkit.stats.noise import PRIOR_DF
from perfkit.stats.scalability import ScalabilityFit, fit_scalability
from perfkit.stats.summary import Floats, RequestArrays

REPLICATES = 200
_NONE = Estimate(UNKNOWN)


@dataclass(frozen=True, slots=True)
class Curve:
    """One service on one side, with what a comparison needs: the loads at which each run breaks."""

    result: ServiceCapacity
    knees: tuple[Crossing, ...]
    limits: tuple[Crossing, ...]


def curve_of(service: str, side: str, courses: Sequence[Course], unit: str, slo: Objective | None) -> Curve:
    """The curve of one service over the runs of one side."""
    windows = [course.windows[service] for course in courses]
    drawn = [resamples(item.load.size, REPLICATES, seed) for seed, item in enumerate(windows)]
    lines = [find_knee(w.load, w.throughput, w.seconds, r) for w, r in zip(windows, drawn, strict=True)]
    knees = [line for line in lines if not line.reason]
    knee, knee_throughput = _knee(lines)
    limits = tuple(
        _limit(slo, course.requests[service], w, r)
        for course, w, r in zip(courses, windows, drawn, strict=True)
        if slo is not None
    )
    limit = over_runs(limits) if slo is not None else Estimate(UNKNOWN, reason="no SLO was given")
    result = ServiceCapacity(
        service=service,
        side=side,
        points=tuple(point for course in courses for point in window_points(course, service)),
        line=line_points(courses, service),
        knee=knee,
        knee_throughput=knee_throughput,
        limit=limit,
        limit_throughput=_throughput(limit.value or limit.low, windows) if slo is not None else None,
        scalability=_scalability(windows, drawn, unit),
    )
    return Curve(result, tuple(_break(line.load) for line in knees) if len(knees) == len(lines) else (), limits)


def _break(values: Floats) -> Crossing:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Crossing(FOUND, float(values[0]), float(np.log(high / low) / (2 * 1.96)))


def _knee(lines: Sequence[BrokenLine]) -> tuple[Estimate, Estimate]:
    """Load and throughput at the knee, from the runs that show one; at least half of them must."""
    bent = [line for line in lines if not line.reason]
    reasons = "; ".join(dict.fromkeys(line.reason for line in lines if line.reason))
    if 2 * len(bent) < len(lines) or not bent:
        return Estimate(UNKNOWN, reason=reasons), Estimate(UNKNOWN, reason=reasons)
    partly = f"{len(bent)} of {len(lines)} runs show it; in the others: {reasons}" if reasons else ""
    load, throughput = (over_runs([_break(v) for v in values]) for values in _both(bent))
    return _with_reason(load, partly), _with_reason(throughput, partly)


def _both(bent: Sequence[BrokenLine]) -> tuple[list[Floats], list[Floats]]:
    return [line.load for line in bent], [line.throughput for line in bent]


def _with_reason(estimate: Estimate, reason: str) -> Estimate:
    return Estimate(estimate.status, estimate.value, estimate.low, estimate.high, reason)


def _limit(slo: Objective, requests: RequestArrays, windows: Windows, resampled: Floats) -> Crossing:
    """The load at which one run breaks its promise, as the mean of one number per request."""
    if slo.metric is Metric.ERROR_RATE:
        return crossing(windows.load, windows.failed, windows.started, slo.amount / 100.0, resampled)
    if slo.metric.quantile is None:
        return crossing(windows.load, windows.sum_ms, windows.started, slo.amount, resampled)
    inside = windows.index >= 0
    slow = requests.response_time_ms[inside] > slo.amount
    sums = summed(windows.index[inside], slow, windows.load.size)
    return crossing(windows.load, sums, windows.started, 1.0 - slo.metric.quantile, resampled)


def _throughput(load: float | None, windows: Sequence[Windows]) -> float | None:
    if load is None:
        return None
    return float(np.mean([throughput_at(load, w.load, w.completed, w.seconds) for w in windows]))


def _scalability(windows: Sequence[Windows], drawn: Sequence[Floats], unit: str) -> Scalability:
    """The law fitted to each run; its parameters are means over runs."""
    # Under an arrival rate the law needs what is under way: rate times mean time (Little).
    loads = [w.throughput * np.nan_to_num(w.mean_ms) / 1000.0 if unit == ARRIVALS else w.load for w in windows]
    named = IN_FLIGHT if unit == ARRIVALS else unit
    fits = [fit_scalability(n, w.throughput, w.completed, r) for n, w, r in zip(loads, windows, drawn, strict=True)]
    highest = max(float(load.max()) for load in loads)
    reason = "; ".join(dict.fromkeys(fit.reason for fit in fits if fit.reason))
    if reason:
        nothing = Estimate(UNKNOWN, reason=reason)
        return Scalability(nothing, nothing, nothing, nothing, None, highest, named, reason)
    lam, sigma, kappa = (_parameter([getattr(fit, name) for fit in fits]) for name in ("lam", "sigma", "kappa"))
    fitted = float(np.mean([fit.r_squared for fit in fits]))
    return Scalability(lam, sigma, kappa, _peak(fits), fitted, highest, named)


def _parameter(fitted: Sequence[Floats]) -> Estimate:
    """A parameter >= 0: mean over runs, Student's t; the larger of the errors within runs and between them."""
    values = np.array([values[0] for values in fitted])
    low, high = np.quantile(np.mean(np.stack(fitted)[:, 1:], axis=0), [0.025, 0.975])  # a few replicates may be wild
    within = float(high - low) / (2 * 1.96)
    between = float(values.std(ddof=1) / values.size**0.5) if values.size > 1 else 0.0
    half = float(stdtrit(PRIOR_DF + values.size - 1, 0.975)) * max(within, between)
    middle = float(values.mean())
    return Estimate(FOUND, middle, max(middle - half, 0.0), middle + half)


def _peak(fits: Sequence[ScalabilityFit]) -> Estimate:
    mean = ScalabilityFit(
        *(np.mean([getattr(fit, name) for fit in fits], axis=0) for name in ("lam", "sigma", "kappa"))
    )
    peaks = mean.peak_load
    low, high = np.quantile(peaks[1:], [0.025, 0.975], method="nearest")
    if not math.isfinite(peaks[0]):
        low = float(low) if math.isfinite(low) else None
        return Estimate(UNKNOWN, low=low, reason="kappa is 0: throughput flattens without a peak")
    return Estimate(FOUND, float(peaks[0]), float(low), float(high) if math.isfinite(high) else None)
