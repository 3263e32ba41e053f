"""How much load can it take: ramps and stages turned into curves, and two builds compared at equal load.

Each run is cut into windows of load (`windowed_runs`).  The windows of the runs of one side make the curve of a
service: its points, the knee, the scalability law and the capacity under an objective (`curve_of`).  Two builds are
compared at equal load and in the load that they carry (`compare_service`), never by averages over a ramp, which mix an
idle system with a saturated one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from perfkit.analysis.comparability import missing_services
from perfkit.analysis.coverage import service_coverage
from perfkit.analysis.error_kinds import error_kinds
from perfkit.config.policy import EVIDENCE_TOLERANCE, Limit, Objective, Policy, describe_slo, parse_slo
from perfkit.model.codec import encode
from perfkit.model.errors import NotComparable, ReadError
from perfkit.model.records import ErrorKind, Metric, Run, RunSummary, Severity, Verdict, verdict_of
from perfkit.runs.requests import request_columns
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
    LoadPath,
    ScalabilityFit,
    Windows,
    common_bins,
    crossing,
    crossing_prior,
    cut,
    end_of_whole,
    find_knee,
    fit_scalability,
    isotonic,
    levels_at,
    over_runs,
    regrouped,
    resamples,
    summed,
    throughput_at,
    windows_of,
)
from perfkit.stats.effect import PRIOR_DF, Effect, NoisePrior, Values, compare_levels, weighted_holm
from perfkit.stats.summary import Floats, RequestArrays

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ALL", "AtLoad", "Capacity", "Difference", "ServiceCapacity", "capacity_of"]

SCHEMA = "perfkit.capacity/1"
ALL = "(all requests)"
BASELINE, CANDIDATE = "baseline", "candidate"
USERS, ARRIVALS, IN_FLIGHT = "users", "arrivals/s", "requests in flight"
CAPACITY, KNEE = "capacity under the SLO", "load at the knee"
ALPHA, CONFIDENCE = 0.01, 0.95
MOST_SERVICES = 15  # those with the most requests; nobody reads more curves
MOST_STRETCHES, LEAST_STRETCHES = 20, 5
REQUESTS_PER_STRETCH = 150  # on average: enough for a p95
REPLICATES = 200
TOLERANCE_PCT = 10.0  # of a capacity or a knee: the ends of a curve are known less exactly than its middle
# Near saturation a small difference of the runs grows: latency moves two to four times as much as the service time.
# So each metric is expected to vary like one that varies more (test_capacity_calibration.py guards it).
_VARIES_LIKE = {Metric.AVG: Metric.P95, Metric.P95: Metric.P99, Metric.RPS: Metric.AVG}
_NEAR = 5  # steps of it within which a peak of arrivals is looked for
_STEPS = 60  # of a path that is counted from requests: as many as there are windows


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One window of one run: load, and what was measured under it; ``None`` where too few requests say."""

    run: str
    load: float
    seconds: float
    requests: int
    throughput: float  # requests that ended, per second
    throughput_error: float  # of independent requests
    avg_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p95_error_ms: float | None
    p99_ms: float | None
    error_rate_pct: float | None


@dataclass(frozen=True, slots=True)
class Scalability:
    """The Universal Scalability Law of a service; or the ``reason`` why it cannot be fitted."""

    lam: Estimate  # throughput (1/s) of a load of one
    sigma: Estimate  # contention, >= 0
    kappa: Estimate  # coherence, >= 0
    peak_load: Estimate  # unknown where throughput has no peak
    r_squared: float | None
    highest_load: float  # beyond it `peak_load` is an extrapolation
    load_unit: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceCapacity:
    """How much load one service takes on one side: its curve, and what follows from it."""

    service: str
    side: str
    points: tuple[LoadPoint, ...]  # the windows of each run
    line: tuple[LoadPoint, ...]  # the same requests in equal stretches of load over all runs; its ``run`` is empty
    knee: Estimate  # a load
    knee_throughput: Estimate  # requests per second there
    limit: Estimate  # the capacity under the SLO, a load
    limit_throughput: float | None  # requests per second there
    scalability: Scalability


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate against baseline in one question, such as the average latency at equal load."""

    service: str
    question: str
    unit: str
    worse: int  # +1 where more is worse
    tolerance_pct: float
    gating: bool  # of all requests together none of these may stay open for ``no_change``
    baseline: float | None = None
    candidate: float | None = None
    change_pct: float | None = None  # percent of the baseline, as its 95 % interval
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None  # corrected over all questions
    verdict: Verdict = Verdict.INCONCLUSIVE
    reason: str = ""  # what to know, and why there is no number where there is none


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
    errors: tuple[ErrorKind, ...] = ()  # kinds of failed requests of both sides
    confidence: float = CONFIDENCE
    alpha: float = ALPHA

    @property
    def slo(self) -> str | None:
        """The objective in words, ``p95 latency below 300 ms``; ``None`` without one."""
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
        parts = {name: getattr(self, name) for name in _DOCUMENT}
        runs = {name: [RunSummary.of(run) for run in parts[name]] for name in ("runs", "candidate")}
        return {"schema": SCHEMA, **encode(parts | runs)}

    def to_frame(self) -> pd.DataFrame:
        """One row per side, service and window: the points of the curves."""
        import pandas as pd

        rows = [(curve.side, curve.service, *astuple(point)) for curve in self.curves for point in curve.points]
        return pd.DataFrame(rows, columns=["side", "service", *LoadPoint.__dataclass_fields__])


_DOCUMENT = (
    *("verdict", "load_unit", "slo", "alpha", "confidence", "runs", "candidate"),
    *("warnings", "curves", "differences", "at_load", "errors"),
)


def capacity_of(runs: Sequence[Run], candidate: Sequence[Run] = (), slo: str | None = None) -> Capacity:
    """How much load the services of these runs take, and whether the candidate takes less.

    The load of the runs changes (ramps, stages); ``slo`` is such as ``p95 < 300 ms``.  For each service, all requests
    together first: the points of its curve, the knee of throughput, the Universal Scalability Law, and the largest load
    at which the objective holds; what the runs cannot say has a reason.  ``NotComparable``: there is no run, or no
    service in common; ``SettingsError``: the objective cannot be read; ``ReadError``: a run has no single requests.
    """
    objective = parse_slo(slo) if slo is not None else None
    if not runs:
        raise NotComparable("capacity: has no runs; name at least one run, file or folder")
    unit, sides = windowed_runs(runs, candidate)
    services = tuple(sides[0][0].windows)
    if len(services) == 1:
        raise NotComparable("capacity: the runs have no service in common; compare runs of the same scenario")
    services = services[1:] if len(services) == 2 else services  # one service is all requests
    names = (BASELINE, CANDIDATE)[: 2 if candidate else 1]
    curves = [
        [curve_of(service, name, side, unit, objective) for name, side in zip(names, sides, strict=False)]
        for service in services
    ]
    warnings = list(_warnings(unit, [run for side in sides for run in side]))
    differences: tuple[Difference, ...] = ()
    at_load: list[AtLoad] = []
    verdict = None
    if candidate:
        missing = tuple(missing_services(service_coverage(runs, candidate, ALPHA), Policy()))
        warnings += [check.advice for check, _ in missing]
        tests: list[Test] = []
        for service, (before, after) in zip(services, curves, strict=True):
            of_service, levels = compare_service(service, (sides[0], sides[1]), (before, after))
            tests += of_service
            at_load += levels
        differences = judge_differences(tests)
        verdict = overall(differences)
        if not all(run.validity.ok for run in (*runs, *candidate)) or any(
            check.severity is Severity.INVALID for check, _ in missing
        ):
            verdict = Verdict.INVALID
        elif verdict is not Verdict.REGRESSION and any(gap is not None for _, gap in missing):
            verdict = Verdict.INCONCLUSIVE
    return Capacity(
        runs=tuple(runs),
        candidate=tuple(candidate),
        load_unit=unit,
        slo_objective=objective,
        curves=tuple(curve.result for pair in curves for curve in pair),
        differences=differences,
        at_load=tuple(at_load),
        verdict=verdict,
        warnings=tuple(warnings),
        errors=error_kinds(runs, candidate),
    )


def _warnings(unit: str, runs: Sequence[WindowedRun]) -> Iterator[str]:
    if unit == IN_FLIGHT:
        yield (
            "The number of users is not known in every run. Load is the number of requests in flight instead, by "
            "Little's law; it rises by itself when a service slows down."
        )
    for windowed in runs:
        run, load = windowed.run, next(iter(windowed.windows.values())).load
        if not run.validity.ok:
            reasons = "; ".join(check.advice or check.name for check in run.validity.problems)
            yield f"{run.id}: this run is not fit to be judged: {reasons}"
        if load.max() < 1.5 * load.min():
            yield f"{run.id}: the load hardly changes, so it shows one point of the curve; use a ramp or stages."
        if windowed.left_out_s >= 0.05 * (run.duration_s or float("inf")):
            yield (
                f"{run.id}: {windowed.left_out_s:.0f} s after the load had fallen are left out: what piled up before "
                f"would count against the lower load."
            )
    if len({windowed.run.scenario for windowed in runs}) > 1:
        yield "The runs are of different scenarios."
    profiles = [(item.run.profile, item.run.duration_s) for item in runs]
    if len({(profile.kind, profile.spawn_rate, round(s, -1) if s else None) for profile, s in profiles}) > 1:
        yield "The load did not rise equally fast in all runs: queues had more time to build up in the slower ones."


# Runs in windows of load ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WindowedRun:
    """One run: the requests of each service, and their windows.  ``ALL`` holds every request of the run."""

    run: Run
    requests: dict[str, RequestArrays]
    windows: dict[str, Windows]
    left_out_s: float  # of the run, after the load had fallen


def windowed_runs(*sides: Sequence[Run]) -> tuple[str, list[list[WindowedRun]]]:
    """The unit of load that all runs have, and the runs of each side cut into windows of it.

    ``users`` where every run has a table of them, ``arrivals/s`` where every run was made with an arrival rate, else
    ``requests in flight`` (rate times mean time: Little, doi:10.1287/opre.9.3.383).  ``ReadError``: a run has no single
    requests, or its table of users is broken.
    """
    columns, users, counts = [], [], []
    runs = [run for side in sides for run in side]
    for run in runs:
        frame = run.requests()
        if frame is None or frame.empty:
            what = "its single requests were not kept" if frame is None else "it has no requests"
            where = run.source or run.id
            raise ReadError(f"{where}: {what}; capacity needs runs that perfkit made or a log of requests")
        users.append(read_users(Path(run.source)) if run.source and Path(run.source).is_dir() else None)
        columns.append(request_columns(frame))
        names = columns[-1].names
        counts.append(dict(zip(names, np.bincount(columns[-1].codes, minlength=len(names)), strict=True)))
    if all(run.profile.is_open for run in runs):
        unit = ARRIVALS
    else:
        unit = USERS if all(table is not None for table in users) else IN_FLIGHT
    common = [name for name in counts[0] if all(name in count for count in counts)]
    services = sorted(common, key=lambda name: -sum(count[name] for count in counts))[:MOST_SERVICES]
    windowed = []
    for run, of_run, table in zip(runs, columns, users, strict=True):
        whole = RequestArrays(of_run.start_s, of_run.response_time_ms, of_run.failed)
        begin = float(of_run.start_s.min())
        end = max(end_of_whole(whole, begin), begin + 1e-3)
        path = LoadPath(*table) if unit == USERS and table is not None else _counted_path(whole, unit, begin, end)
        edges = cut(path, begin, end, of_run.start_s.size)
        requests, load = {ALL: whole}, path.means(edges)
        for name in services:
            mine = of_run.codes == of_run.names.index(name)
            requests[name] = RequestArrays(of_run.start_s[mine], of_run.response_time_ms[mine], of_run.failed[mine])
        windows = {name: windows_of(part, edges, load) for name, part in requests.items()}
        windowed.append(WindowedRun(run, requests, windows, float(end - begin - windows[ALL].seconds.sum())))
    of_side = iter(windowed)
    return unit, [[next(of_side) for _ in side] for side in sides]


def _counted_path(requests: RequestArrays, unit: str, begin_s: float, end_s: float) -> LoadPath:
    """The load over time as the requests tell it."""
    edges = np.linspace(begin_s, end_s, int(np.clip(end_s - begin_s, 1, _STEPS)) + 1)
    start = requests.start_s
    if unit == IN_FLIGHT:  # seconds of all requests under way in each step of time
        end = start + requests.response_time_ms / 1000.0
        busy = np.diff([np.clip(edge - start, 0.0, end - start).sum() for edge in edges])
        return LoadPath(edges[:-1], busy / np.diff(edges))
    # Arrivals without their chance fluctuation: the nearest path that rises to one peak and falls after it
    counts = np.histogram(start, edges)[0].astype(np.float64)
    ones = np.ones(counts.size)
    smooth = np.convolve(counts, np.ones(_NEAR), mode="same") / np.convolve(np.ones(_NEAR), ones, "same")
    peak = int(smooth.argmax()) + 1
    rising = isotonic(counts[:peak], ones[:peak])
    falling = isotonic(counts[peak:][::-1], ones[peak:])[::-1] if peak < counts.size else counts[peak:]
    return LoadPath(edges[:-1], np.concatenate([rising, falling]) / np.diff(edges))


# The curve of one service ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """One service on one side, with what a comparison needs: the loads at which each run breaks."""

    result: ServiceCapacity
    knees: tuple[Crossing, ...]
    limits: tuple[Crossing, ...]


def curve_of(service: str, side: str, runs: Sequence[WindowedRun], unit: str, slo: Objective | None) -> Curve:
    """The curve of one service over the runs of one side."""
    windows = [run.windows[service] for run in runs]
    drawn = [resamples(item.load.size, REPLICATES, seed) for seed, item in enumerate(windows)]
    lines = [find_knee(w.load, w.throughput, w.seconds, r) for w, r in zip(windows, drawn, strict=True)]
    # The load at which each run breaks the objective, as the mean of one number per request
    limits: tuple[Crossing, ...] = ()
    limit, limit_throughput = Estimate(UNKNOWN, reason="no SLO was given"), None
    if slo is not None:
        for run, w, resampled in zip(runs, windows, drawn, strict=True):
            sums, counts, amount = w.sum_ms, w.started, slo.amount
            if slo.metric is Metric.ERROR_RATE:
                sums, amount = w.failed, slo.amount / 100.0
            elif slo.metric.quantile is not None:
                inside, amount = w.index >= 0, 1.0 - slo.metric.quantile
                slow = run.requests[service].response_time_ms[inside] > slo.amount
                sums = summed(w.index[inside], slow, w.load.size)
            limits += (crossing(w.load, sums, counts, amount, resampled),)
        limit = over_runs(limits)
        if (at := limit.value or limit.low) is not None:
            limit_throughput = float(np.mean([throughput_at(at, w.load, w.completed, w.seconds) for w in windows]))
    # All requests of the runs in equal stretches of load, ascending
    load = np.concatenate([w.load for w in windows])
    count = sum(float(w.started.sum()) for w in windows) / REQUESTS_PER_STRETCH
    edges = np.linspace(load.min(), load.max(), int(np.clip(count, LEAST_STRETCHES, MOST_STRETCHES)) + 1)
    stretch = np.clip(np.searchsorted(edges, load, side="right") - 1, 0, edges.size - 2)
    line = regrouped(windows, [run.requests[service].response_time_ms for run in runs], stretch)
    # The knee is that of the runs that show one; at least half of them must
    bent = [line for line in lines if not line.reason]
    reasons = "; ".join(dict.fromkeys(line.reason for line in lines if line.reason))
    knee = knee_throughput = Estimate(UNKNOWN, reason=reasons)
    knees = tuple(Crossing.found(line.load[0], line.load[1:]) for line in bent)
    if bent and 2 * len(bent) >= len(lines):
        partly = f"{len(bent)} of {len(lines)} runs show it; in the others: {reasons}" if reasons else ""
        rates = [Crossing.found(line.throughput[0], line.throughput[1:]) for line in bent]
        knee, knee_throughput = (replace(over_runs(crossings), reason=partly) for crossings in (knees, rates))
    result = ServiceCapacity(
        service=service,
        side=side,
        points=tuple(point for run, w in zip(runs, windows, strict=True) for point in _points(run.run.id, w)),
        line=tuple(point for point in _points("", line) if point.requests),
        knee=knee,
        knee_throughput=knee_throughput,
        limit=limit,
        limit_throughput=limit_throughput,
        scalability=_scalability(windows, drawn, unit),
    )
    return Curve(result, () if reasons else knees, limits)


def _points(run: str, w: Windows) -> Iterator[LoadPoint]:
    """The windows of one run, in order of time."""
    for i in range(w.load.size):
        latencies = {
            "avg_ms": w.mean_ms[i],
            "p95_error_ms": w.p95_error_ms[i],
            **{f"{name}_ms": values[i] for name, values in w.quantile_ms.items()},
        }
        yield LoadPoint(
            run=run,
            load=float(w.load[i]),
            seconds=float(w.seconds[i]),
            requests=int(w.started[i]),
            throughput=float(w.throughput[i]),
            throughput_error=float(np.sqrt(w.completed[i]) / w.seconds[i]),
            error_rate_pct=100.0 * float(w.failed[i] / w.started[i]) if w.started[i] else None,
            **{name: float(value) if math.isfinite(value) else None for name, value in latencies.items()},
        )


def _scalability(windows: Sequence[Windows], drawn: Sequence[Floats], unit: str) -> Scalability:
    """The law fitted to each run; its parameters are means over runs."""
    # Under an arrival rate the law needs what is under way: rate times mean time (Little).
    loads = [w.throughput * np.nan_to_num(w.mean_ms) / 1000.0 if unit == ARRIVALS else w.load for w in windows]
    load_unit = IN_FLIGHT if unit == ARRIVALS else unit
    fits = [fit_scalability(n, w.throughput, w.completed, r) for n, w, r in zip(loads, windows, drawn, strict=True)]
    highest = max(float(load.max()) for load in loads)
    if reason := "; ".join(dict.fromkeys(fit.reason for fit in fits if fit.reason)):
        nothing = Estimate(UNKNOWN, reason=reason)
        return Scalability(nothing, nothing, nothing, nothing, None, highest, load_unit, reason)
    parameters = [np.stack([getattr(fit, name) for fit in fits]) for name in ("lam", "sigma", "kappa")]
    peaks = ScalabilityFit(*(np.mean(values, axis=0) for values in parameters)).peak_load
    low, high = (float(end) for end in np.quantile(peaks[1:], [0.025, 0.975], method="nearest"))
    if math.isfinite(peaks[0]):
        peak = Estimate(FOUND, float(peaks[0]), low, high if math.isfinite(high) else None)
    else:
        bound = low if math.isfinite(low) else None
        peak = Estimate(UNKNOWN, low=bound, reason="kappa is 0: throughput flattens without a peak")
    means = []
    for values in parameters:  # Student's t; the larger of the errors within runs and between them
        low, high = np.quantile(np.mean(values[:, 1:], axis=0), [0.025, 0.975])  # a few replicates may be wild
        of_runs, n = values[:, 0], len(fits)
        between = float(of_runs.std(ddof=1) / n**0.5) if n > 1 else 0.0
        half = float(stdtrit(PRIOR_DF + n - 1, 0.975)) * max(float(high - low) / (2 * 1.96), between)
        middle = float(of_runs.mean())
        means.append(Estimate(FOUND, middle, max(middle - half, 0.0), middle + half))
    r_squared = float(np.mean([fit.r_squared for fit in fits]))
    return Scalability(means[0], means[1], means[2], peak, r_squared, highest, load_unit)


# Two builds -----------------------------------------------------------------------------------------------------------

Sides = tuple[Sequence[WindowedRun], Sequence[WindowedRun]]
Test = tuple[Difference, Effect | None]
"""A difference before it is judged, and its effect; ``None`` where nothing could be computed."""


def compare_service(service: str, sides: Sides, curves: tuple[Curve, Curve]) -> tuple[list[Test], list[AtLoad]]:
    """Every difference of one service, and its levels at each load.

    Knee and throughput are compared for the whole only: users who wait for one service call the others less.
    """
    whole = len(sides[0][0].windows) <= 2 or service == ALL
    tests = _compare_loads(service, CAPACITY, (curves[0].limits, curves[1].limits))
    if whole:
        tests += _compare_loads(service, KNEE, (curves[0].knees, curves[1].knees))
    at_load: list[AtLoad] = []
    bins = common_bins([run.windows[service] for side in sides for run in side])
    if bins is None:
        return tests, at_load
    levels = [
        [levels_at(bins, run.windows[service], run.requests[service].response_time_ms) for run in side]
        for side in sides
    ]
    for metric in METRICS:
        with np.errstate(divide="ignore"):
            logs = [np.log(np.stack([run[metric].values for run in side])) for side in levels]
        errors = [np.stack([run[metric].errors for run in side]) for side in levels]
        shared_bins = np.flatnonzero(np.isfinite(np.concatenate(logs)).all(axis=0)).tolist()
        if whole or metric is not Metric.RPS:
            tolerance = Limit.parse(metric.value, EVIDENCE_TOLERANCE[metric.value]).amount
            title = f"{metric.title} at equal load"
            gating = metric is not Metric.P95
            unjudged = Difference(service, title, metric.unit, metric.worse, tolerance, gating)
            if shared_bins:
                tests.append(_filled(unjudged, *_change_at(metric, shared_bins, logs, errors)))
            else:
                tests.append((replace(unjudged, reason="too few requests at any load that all runs have"), None))
        for number in shared_bins:
            effect, before, after = _change_at(metric, [number], logs, errors)
            interval = effect.change, effect.ci_low, effect.ci_high
            at_load.append(AtLoad(service, metric.value, float(bins.centres[number]), before, after, *interval))
    return tests, at_load


def _change_at(
    metric: Metric, bins: list[int], logs: Sequence[Floats], errors: Sequence[Floats]
) -> tuple[Effect, float, float]:
    """The change over some bins, each load counted alike, and the level of each side.

    One value per run: the mean of ``logs``, shape ``(n_runs, n_bins)`` of each side; ``errors`` are theirs.
    """
    before, after = (np.exp(side[:, bins].mean(axis=1)) for side in logs)
    variances = [float(np.mean((side[:, bins] ** 2).sum(axis=1))) / len(bins) ** 2 for side in errors]
    within = float(np.average(variances, weights=[1.0 / before.size, 1.0 / after.size]))
    effect = compare_levels(_VARIES_LIKE[metric], Values(before, after, NoisePrior(within)), CONFIDENCE)
    return effect, _middle(before), _middle(after)


def _middle(values: Floats) -> float:
    return float(np.exp(np.log(values).mean()))


def _filled(unjudged: Difference, effect: Effect, baseline: float, candidate: float) -> tuple[Difference, Effect]:
    filled = replace(
        unjudged,
        baseline=baseline,
        candidate=candidate,
        change_pct=effect.change,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        p_value=effect.p_rise if effect.change >= 0 else effect.p_fall,
    )
    return filled, effect


def _compare_loads(service: str, question: str, sides: tuple[Sequence[Crossing], Sequence[Crossing]]) -> list[Test]:
    """The change of the load at which the runs break; a bound on one side leaves a bound on the change."""
    kinds = [{item.status for item in side} for side in sides]
    if not all(sides) or kinds[0] | kinds[1] == {AT_LEAST}:  # neither build came to its limit: nothing to ask
        return []
    unjudged = Difference(service, question, "load", -1, TOLERANCE_PCT, question == CAPACITY)
    falls = kinds[0] <= {FOUND, AT_LEAST} and kinds[1] <= {FOUND, BELOW}
    rises = kinds[0] <= {FOUND, BELOW} and kinds[1] <= {FOUND, AT_LEAST}
    if not (falls or rises):
        return [(replace(unjudged, reason="only bounds are known, which do not tell the builds apart"), None)]
    before, after = (np.array([item.load for item in side]) for side in sides)
    prior = crossing_prior([[replace(item, error=np.nan_to_num(item.error)) for item in side] for side in sides])
    effect = compare_levels(METRIC, Values(before, after, prior), CONFIDENCE)
    done, _ = _filled(unjudged, effect, _middle(before), _middle(after))
    if falls and rises:
        return [(done, effect)]
    reason = f"one side is a bound only, so the {'loss' if falls else 'gain'} is at least this"
    if falls:
        return [(replace(done, ci_low=None, reason=reason), replace(effect, p_rise=1.0))]
    return [(replace(done, ci_high=None, reason=reason), replace(effect, p_fall=1.0))]


def judge_differences(tests: Sequence[Test]) -> tuple[Difference, ...]:
    """A verdict for each difference, corrected over all of them (weighted Holm): half of alpha for all requests."""
    effects = {n: effect for n, (_, effect) in enumerate(tests) if effect is not None}
    services = max(len({difference.service for difference, _ in tests}) - 1, 1)
    weights = {n: 1.0 if tests[n][0].service == ALL else 1.0 / services for n in effects}
    rise = weighted_holm({n: effect.p_rise for n, effect in effects.items()}, weights)
    fall = weighted_holm({n: effect.p_fall for n, effect in effects.items()}, weights)
    differences = []
    for n, (difference, _) in enumerate(tests):
        if n in effects:
            worse, better = (rise[n], fall[n]) if difference.worse > 0 else (fall[n], rise[n])
            worsening = (difference.change_pct or 0.0) * difference.worse
            bad_end = difference.ci_high if difference.worse > 0 else difference.ci_low
            bad_side = math.inf if bad_end is None else bad_end * difference.worse
            verdict = verdict_of(worse <= ALPHA, better <= ALPHA, worsening, bad_side, difference.tolerance_pct)
            difference = replace(difference, p_adjusted=worse if worsening >= 0 else better, verdict=verdict)
        differences.append(difference)
    return tuple(differences)


def overall(differences: Sequence[Difference]) -> Verdict:
    """Any regression is one; an open difference of all requests together that gates leaves it open."""
    verdicts = {difference.verdict for difference in differences}
    if Verdict.REGRESSION in verdicts:
        return Verdict.REGRESSION
    whole = [item.verdict for item in differences if item.gating and item.service == differences[0].service]
    if not whole or Verdict.INCONCLUSIVE in whole:
        return Verdict.INCONCLUSIVE
    return Verdict.IMPROVEMENT if Verdict.IMPROVEMENT in verdicts else Verdict.NO_CHANGE
