"""What is known of a run besides its numbers, and how a check is graded."""

from __future__ import annotations

from dataclasses import dataclass

from perfkit.model import Check, Severity


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the load generator: CPU in percent of one core, and worst event-loop lag in ms, per second."""

    name: str
    cpu_pct: tuple[float, ...] = ()
    lag_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ArrivalCounts:
    """What became of the arrivals of an open-model run.

    ``planned`` by the profile, ``scheduled`` until its end, ``started``, of these ``late`` ones; ``unfinished`` tasks
    were still under way when the run ended.
    """

    planned: int
    scheduled: int
    started: int
    late: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """What the load generator saw of itself."""

    peak_users: int | None = None
    processes: tuple[Process, ...] = ()
    interrupted: str | None = None
    warm_up_s: float | None = None  # cut off the beginning of the run; None where requests are not known
    arrivals: ArrivalCounts | None = None
    clock_step_s: float | None = None  # the largest move of the time of day against the monotonic clock
    workers_asked: int | None = None
    workers_lost: tuple[str, ...] = ()
    counted: int | None = None  # requests that the generator counted
    recorded: int | None = None  # requests that were kept


def graded(name: str, value: float | str | None, limit: float | str | None, bad: Severity | None, advice: str) -> Check:
    """A check that passed when ``bad`` is ``None``; advice is for those that did not."""
    severity = bad if bad is not None else Severity.OK
    return Check(name, value, limit, severity, advice if bad is not None else "")
