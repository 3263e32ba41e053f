"""How much load can it take: ramps and stages turned into curves, and two builds compared at equal load.

A run as capacity sees it: its load over time, and the requests of each service cut into windows of load.

What is known of how much load a service takes: plain facts, for reports and programs.

The points of a curve: one per window of each run, and one per stretch of load over all runs.

From the runs of one side to what they say of a service: knee, scalability law, capacity under a promise.

Two builds under ramps: compared at equal load and in the load that they carry, never by averages over the ramp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from perfkit.analysis.comparability import missing_services
from perfkit.analysis.coverage import service_coverage
from perfkit.config.policy import EVIDENCE_TOLERANCE, Limit, Objective, Policy, describe_slo, parse_slo
from perfkit.model.codec import encode
from perfkit.model.errors import NotComparable, ReadError
from perfkit.model.records import Check, Gap, Metric, Run, RunSummary, Severity, Verdict
from perfkit.runs.requests import RequestColumns, request_columns
from perfkit.runs.run_folder import read_users
from perfkit.stats.capacity import (
    AT_LEAST,
    BELOW,
    FOUND,
    METRIC,
    METRICS,
    UNKNOWN,
    Crossing,
    Estimate,
    LevelsAtLoad,
    common_bins,
    crossing,
    crossing_prior,
    isotonic,
    levels_at,
    over_runs,
    throughput_at,
)
from perfkit.stats.effect import Effect, Values, compare_levels, weighted_holm
from perfkit.stats.load_curve import (
    BrokenLine,
    LoadPath,
    ScalabilityFit,
    Windows,
    cut,
    end_of_whole,
    find_knee,
    fit_scalability,
    regrouped,
    resamples,
    summed,
    windows_of,
)
from perfkit.stats.noise import PRIOR_DF, NoisePrior
from perfkit.stats.summary import Floats, RequestArrays

if TYPE_CHECKING:
    import pandas as pd

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


BASELINE, CANDIDATE = "baseline", "candidate"


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One window of one run: load, and what was measured under it; ``None`` where too few requests say.

    ``throughput`` counts requests that ended, per second; its error is that of independent requests.
    """

    run: str
    load: float
    seconds: float
    requests: int
    throughput: float
    throughput_error: float
    avg_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p95_error_ms: float | None
    p99_ms: float | None
    error_rate_pct: float | None


@dataclass(frozen=True, slots=True)
class Scalability:
    """The Universal Scalability Law of a service; or the ``reason`` why it cannot be fitted.

    ``lam`` is the throughput (1/s) of a load of one, ``sigma`` contention, ``kappa`` coherence (both >= 0).
    ``peak_load`` is unknown where throughput has no peak; beyond ``highest_load`` it is an extrapolation.
    """

    lam: Estimate
    sigma: Estimate
    kappa: Estimate
    peak_load: Estimate
    r_squared: float | None
    highest_load: float
    load_unit: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceCapacity:
    """How much load one service takes on one side: its curve, and what follows from it.

    ``points`` are the windows of each run, ``line`` the same requests in equal stretches of load over all runs, whose
    ``run`` is empty.  ``knee`` and ``limit`` (the capacity under the SLO) are loads; ``knee_throughput`` and
    ``limit_throughput`` are the requests per second there.
    """

    service: str
    side: str
    points: tuple[LoadPoint, ...]
    line: tuple[LoadPoint, ...]
    knee: Estimate
    knee_throughput: Estimate
    limit: Estimate
    limit_throughput: float | None
    scalability: Scalability


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate against baseline in one question, such as the average latency at equal load.

    ``change_pct`` and its 95 % interval are percent of the baseline; ``p_adjusted`` is corrected over all questions.
    ``worse`` is +1 where more is worse; of ``gating`` questions of all requests none may stay open for ``no_change``.
    ``reason`` says what to know, and why there is no number where there is none.
    """

    service: str
    question: str
    unit: str
    worse: int
    tolerance_pct: float
    gating: bool
    baseline: float | None = None
    candidate: float | None = None
    change_pct: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict = Verdict.INCONCLUSIVE
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class AtLoad:
    """One metric of one service at one load: both sides, and the change in percent with its 95 % interval."""

    service: str
    metric: str
    load: float
    baseline: float
    candidate: float
    change_pct: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """The answer to *how much load can it take?*, and for two builds: can it take less than before?

    ``load_unit`` is ``users``, ``arrivals/s`` or ``requests in flight``.  ``verdict`` is ``None`` without a candidate.
    """

    runs: tuple[Run, ...]
    candidate: tuple[Run, ...]
    load_unit: str
    slo_objective: Objective | None
    curves: tuple[ServiceCapacity, ...]
    differences: tuple[Difference, ...] = ()
    at_load: tuple[AtLoad, ...] = ()
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    confidence: float = 0.95
    alpha: float = 0.01

    @property
    def slo(self) -> str | None:
        """The promise in words, ``p95 latency below 300 ms``; ``None`` without one."""
        return describe_slo(self.slo_objective) if self.slo_objective is not None else None

    @property
    def services(self) -> tuple[str, ...]:
        """The services, all requests together first."""
        return tuple(dict.fromkeys(curve.service for curve in self.curves))

    def of(self, service: str) -> tuple[ServiceCapacity, ...]:
        """The curve of each side, the baseline's first."""
        return tuple(curve for curve in self.curves if curve.service == service)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.capacity/1``."""
        return {
            "schema": "perfkit.capacity/1",
            "verdict": self.verdict.value if self.verdict is not None else None,
            "load_unit": self.load_unit,
            "slo": self.slo,
            "alpha": self.alpha,
            "confidence": self.confidence,
            "runs": encode([RunSummary.of(run) for run in self.runs]),
            "candidate": encode([RunSummary.of(run) for run in self.candidate]),
            "warnings": list(self.warnings),
            "curves": [asdict(curve) for curve in self.curves],
            "differences": [difference.to_dict() for difference in self.differences],
            "at_load": [asdict(level) for level in self.at_load],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per side, service and window: the points of the curves."""
        import pandas as pd

        columns = ["side", "service", *LoadPoint.__dataclass_fields__]
        return pd.DataFrame(list(self._rows()), columns=columns)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for curve in self.curves:
            for point in curve.points:
                yield {"side": curve.side, "service": curve.service, **asdict(point)}


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


TOLERANCE_PCT = 10.0  # of a capacity or a knee: the ends of a curve are known less exactly than its middle
CAPACITY, KNEE = "capacity under the SLO", "load at the knee"
# Near saturation a small difference of the runs grows: latency moves two to four times as much as the service time.
# So each metric is expected to vary like one that varies more (test_capacity_calibration.py guards it).
_VARIES_LIKE = {Metric.AVG: Metric.P95, Metric.P95: Metric.P99, Metric.RPS: Metric.AVG}
Sides = tuple[Sequence[Course], Sequence[Course]]


@dataclass(frozen=True, slots=True)
class _Answer:
    difference: Difference
    effect: Effect | None


def compare_service(
    service: str, sides: Sides, curves: tuple[Curve, Curve], confidence: float
) -> tuple[list[_Answer], list[AtLoad]]:
    """Every question of one service, and its levels at each load.

    Knee and throughput are asked of the whole only: users who wait for one service call the others less.
    """
    whole = len(sides[0][0].windows) <= 2 or service == ALL
    answers = [_loads(service, CAPACITY, (curves[0].limits, curves[1].limits), confidence)]
    if whole:
        answers.append(_loads(service, KNEE, (curves[0].knees, curves[1].knees), confidence))
    asked = [answer for answer in answers if answer is not None]
    bins = common_bins([course.windows[service] for side in sides for course in side])
    if bins is None:
        return asked, []
    levels = [
        [levels_at(bins, course.windows[service], course.requests[service].response_time_ms) for course in side]
        for side in sides
    ]
    at_load: list[AtLoad] = []
    for metric in METRICS:
        pair = _EqualLoad.of(metric, [[run[metric] for run in side] for side in levels])
        if whole or metric is not Metric.RPS:
            asked.append(pair.overall(service, confidence))
        at_load += pair.each(service, bins.centres, confidence)
    return asked, at_load


@dataclass(frozen=True, slots=True)
class _EqualLoad:
    """Natural logarithms of one metric, shape ``(n_runs, n_bins)``, and their errors, of both sides."""

    metric: Metric
    logs: tuple[Floats, Floats]
    errors: tuple[Floats, Floats]

    @classmethod
    def of(cls, metric: Metric, sides: Sequence[Sequence[LevelsAtLoad]]) -> _EqualLoad:
        with np.errstate(divide="ignore"):
            logs = [np.log(np.stack([run.values for run in side])) for side in sides]
        errors = [np.stack([run.errors for run in side]) for side in sides]
        return cls(metric, (logs[0], logs[1]), (errors[0], errors[1]))

    @property
    def known(self) -> NDArray[np.intp]:
        """Bins in which every run has a value."""
        return np.flatnonzero(np.isfinite(np.concatenate(self.logs)).all(axis=0))

    def overall(self, service: str, confidence: float) -> _Answer:
        """One value per run: the mean logarithm over the loads that both sides know, each load counted alike."""
        limit = Limit.parse(self.metric.value, EVIDENCE_TOLERANCE[self.metric.value])
        title = f"{self.metric.title} at equal load"
        gating = self.metric is not Metric.P95
        blank = Difference(service, title, self.metric.unit, self.metric.worse, limit.amount, gating)
        known = self.known
        if not known.size:
            return _Answer(replace(blank, reason="too few requests at any load that all runs have"), None)
        before, after = (np.exp(logs[:, known].mean(axis=1)) for logs in self.logs)
        variances = [float(np.mean((errors[:, known] ** 2).sum(axis=1))) / known.size**2 for errors in self.errors]
        effect = _effect(self.metric, (before, after), variances, confidence)
        return _Answer(_filled(blank, effect, _middle(before), _middle(after)), effect)

    def each(self, service: str, centres: Floats, confidence: float) -> Iterator[AtLoad]:
        """The change at each load."""
        for number in self.known.tolist():
            before, after = (np.exp(logs[:, number]) for logs in self.logs)
            variances = [float(np.mean(errors[:, number] ** 2)) for errors in self.errors]
            effect = _effect(self.metric, (before, after), variances, confidence)
            yield AtLoad(
                service,
                self.metric.value,
                float(centres[number]),
                _middle(before),
                _middle(after),
                effect.change,
                effect.ci_low,
                effect.ci_high,
            )


def _effect(metric: Metric, sides: Sequence[Floats], variances: Sequence[float], confidence: float) -> Effect:
    """The change of one value per run; ``variances`` are those of a value within its run, one for each side."""
    within = float(np.average(variances, weights=[1.0 / len(side) for side in sides]))
    return compare_levels(_VARIES_LIKE[metric], Values(sides[0], sides[1], NoisePrior(within)), confidence)


def _middle(values: Floats) -> float:
    return float(np.exp(np.log(values).mean()))


def _filled(blank: Difference, effect: Effect, baseline: float, candidate: float) -> Difference:
    return replace(
        blank,
        baseline=baseline,
        candidate=candidate,
        change_pct=effect.change,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        p_value=effect.p_rise if effect.change >= 0 else effect.p_fall,
    )


def _loads(
    service: str, question: str, sides: tuple[Sequence[Crossing], Sequence[Crossing]], confidence: float
) -> _Answer | None:
    """The change of the load at which the runs break; a bound on one side leaves a bound on the change."""
    kinds = [{item.status for item in side} for side in sides]
    if not all(sides) or kinds[0] | kinds[1] == {AT_LEAST}:  # neither build came to its limit: nothing to ask
        return None
    blank = Difference(service, question, "load", -1, TOLERANCE_PCT, question == CAPACITY)
    falls = kinds[0] <= {FOUND, AT_LEAST} and kinds[1] <= {FOUND, BELOW}
    rises = kinds[0] <= {FOUND, BELOW} and kinds[1] <= {FOUND, AT_LEAST}
    if not (falls or rises):
        return _Answer(replace(blank, reason="only bounds are known, which do not tell the builds apart"), None)
    values = [np.array([item.load for item in side]) for side in sides]
    known = crossing_prior([[replace(item, error=np.nan_to_num(item.error)) for item in side] for side in sides])
    effect = compare_levels(METRIC, Values(values[0], values[1], known), confidence)
    done = _filled(blank, effect, _middle(values[0]), _middle(values[1]))
    if falls and rises:
        return _Answer(done, effect)
    word = "loss" if falls else "gain"
    reason = f"one side is a bound only, so the {word} is at least this"
    bounded = replace(
        done, ci_low=None if falls else done.ci_low, ci_high=done.ci_high if falls else None, reason=reason
    )
    one_way = replace(effect, p_rise=effect.p_rise if not falls else 1.0, p_fall=effect.p_fall if falls else 1.0)
    return _Answer(bounded, one_way)


def judged(answers: Sequence[_Answer], alpha: float) -> tuple[Difference, ...]:
    """A verdict for each question, corrected over all of them (weighted Holm): half of the budget for all requests."""
    asked = {n: answer.effect for n, answer in enumerate(answers) if answer.effect is not None}
    services = max(len({answer.difference.service for answer in answers}) - 1, 1)
    weights: Mapping[object, float] = {
        n: 1.0 if answers[n].difference.service == ALL else 1.0 / services for n in asked
    }
    rise = weighted_holm({n: effect.p_rise for n, effect in asked.items()}, weights)
    fall = weighted_holm({n: effect.p_fall for n, effect in asked.items()}, weights)
    return tuple(
        _verdict(answer.difference, rise[n], fall[n], alpha) if n in asked else answer.difference
        for n, answer in enumerate(answers)
    )


def _verdict(difference: Difference, rise: float, fall: float, alpha: float) -> Difference:
    worse, better = (rise, fall) if difference.worse > 0 else (fall, rise)
    worsening = (difference.change_pct or 0.0) * difference.worse
    bad_end = difference.ci_high if difference.worse > 0 else difference.ci_low
    verdict = Verdict.INCONCLUSIVE
    if worse <= alpha and worsening > difference.tolerance_pct:
        verdict = Verdict.REGRESSION
    elif better <= alpha and -worsening > difference.tolerance_pct:
        verdict = Verdict.IMPROVEMENT
    elif bad_end is not None and bad_end * difference.worse <= difference.tolerance_pct:
        verdict = Verdict.NO_CHANGE
    return replace(difference, p_adjusted=worse if worsening >= 0 else better, verdict=verdict)


def overall(differences: Sequence[Difference]) -> Verdict:
    """Any regression is one; an open question of all requests together that gates leaves it open."""
    verdicts = {difference.verdict for difference in differences}
    first = differences[0].service if differences else ""
    if Verdict.REGRESSION in verdicts:
        return Verdict.REGRESSION
    gating = [difference for difference in differences if difference.gating]
    whole = [difference.verdict for difference in gating if difference.service == first]
    if not whole or Verdict.INCONCLUSIVE in whole:
        return Verdict.INCONCLUSIVE
    return Verdict.IMPROVEMENT if Verdict.IMPROVEMENT in verdicts else Verdict.NO_CHANGE


__all__ = ["ALL", "AtLoad", "Capacity", "Difference", "ServiceCapacity", "capacity_of"]

ALPHA, CONFIDENCE = 0.01, 0.95


def capacity_of(runs: Sequence[Run], candidate: Sequence[Run] = (), slo: str | None = None) -> Capacity:
    """How much load the services of these runs take, and whether the candidate takes less.

    Parameters
    ----------
    runs, candidate
        Runs whose load changes (ramps, stages), with their requests; the run is the unit of inference.
    slo
        A promise such as ``p95 < 300 ms`` or ``error_rate < 1 %``.

    Returns
    -------
    Capacity
        For each service, all requests together first: the points of its curve, the knee of throughput, the Universal
        Scalability Law, and the largest load at which the promise holds.  What the runs cannot say has a reason.

    Raises
    ------
    SettingsError
        The promise cannot be read.
    ReadError
        A run has no single requests.
    NotComparable
        There is no run, or the sides have no service in common.
    """
    promise = parse_slo(slo) if slo is not None else None
    if not runs:
        raise NotComparable("capacity: has no runs; name at least one run, file or folder")
    unit, sides = courses_of(runs, candidate)
    services = tuple(sides[0][0].windows)
    if len(services) == 1:
        raise NotComparable("capacity: the runs have no service in common; compare runs of the same scenario")
    services = services[1:] if len(services) == 2 else services  # one service is all requests
    names = (BASELINE, CANDIDATE)[: 2 if candidate else 1]
    pairs = [
        tuple(curve_of(service, name, side, unit, promise) for name, side in zip(names, sides, strict=False))
        for service in services
    ]
    missing = tuple(missing_services(service_coverage(runs, candidate, ALPHA), Policy())) if candidate else ()
    warnings = (*_warnings(unit, sides), *(check.advice for check, _ in missing))
    differences, at_load = _compared(services, sides, pairs) if candidate else ((), ())
    return Capacity(
        runs=tuple(runs),
        candidate=tuple(candidate),
        load_unit=unit,
        slo_objective=promise,
        curves=tuple(curve.result for pair in pairs for curve in pair),
        differences=differences,
        at_load=at_load,
        verdict=_overall(runs, candidate, differences, missing),
        warnings=warnings,
        confidence=CONFIDENCE,
        alpha=ALPHA,
    )


def _compared(
    services: Sequence[str], sides: Sequence[Sequence[Course]], pairs: Sequence[tuple[Curve, ...]]
) -> tuple[tuple[Difference, ...], tuple[AtLoad, ...]]:
    answers, at_load = [], []
    for service, pair in zip(services, pairs, strict=True):
        asked, levels = compare_service(service, (sides[0], sides[1]), (pair[0], pair[1]), CONFIDENCE)
        answers += asked
        at_load += levels
    return judged(answers, ALPHA), tuple(at_load)


def _overall(
    runs: Sequence[Run],
    candidate: Sequence[Run],
    differences: Sequence[Difference],
    missing: Sequence[tuple[Check, Gap | None]],
) -> Verdict | None:
    if not candidate:
        return None
    fit = all(run.validity.ok for run in (*runs, *candidate))
    if not fit or any(check.severity is Severity.INVALID for check, _ in missing):
        return Verdict.INVALID
    verdict = overall(differences)
    is_open = any(gap is not None for _, gap in missing) and verdict is not Verdict.REGRESSION
    return Verdict.INCONCLUSIVE if is_open else verdict


def _warnings(unit: str, sides: Sequence[Sequence[Course]]) -> Iterator[str]:
    every = [course for side in sides for course in side]
    if unit == IN_FLIGHT:
        yield (
            "The number of users is not known in every run. Load is the number of requests in flight instead, by "
            "Little's law; it rises by itself when a service slows down."
        )
    for course in every:
        run, load = course.run, next(iter(course.windows.values())).load
        if not run.validity.ok:
            reasons = "; ".join(check.advice or check.name for check in run.validity.problems)
            yield f"{run.id}: this run is not fit to be judged: {reasons}"
        if load.max() < 1.5 * load.min():
            yield f"{run.id}: the load hardly changes, so it shows one point of the curve; use a ramp or stages."
        if course.left_out_s >= 0.05 * (run.duration_s or float("inf")):
            yield (
                f"{run.id}: {course.left_out_s:.0f} s after the load had fallen are left out: what piled up before "
                f"would count against the lower load."
            )
    if len({course.run.scenario for course in every}) > 1:
        yield "The runs are of different scenarios."
    if len({_speed(course.run) for course in every}) > 1:
        yield "The load did not rise equally fast in all runs: queues had more time to build up in the slower ones."


def _speed(run: Run) -> tuple[str, float | None, float | None]:
    return run.profile.kind, run.profile.spawn_rate, round(run.duration_s, -1) if run.duration_s else None
