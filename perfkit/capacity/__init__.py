"""How much load can it take: ramps and stages turned into curves, and two builds compared at equal load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perfkit.capacity.comparison import compare_service, judged, overall
from perfkit.capacity.course import ALL, IN_FLIGHT, Course, courses_of
from perfkit.capacity.curves import Curve, curve_of
from perfkit.capacity.results import BASELINE, CANDIDATE, AtLoad, Capacity, Difference, ServiceCapacity
from perfkit.comparability import missing_services
from perfkit.coverage import service_coverage
from perfkit.errors import NotComparable
from perfkit.model import Check, Gap, Run, Severity, Verdict
from perfkit.policy import Policy
from perfkit.slo import parse_slo

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
