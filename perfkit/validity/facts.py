"""What is known of a run besides its numbers, and how a check is graded."""

from __future__ import annotations

from dataclasses import dataclass

from perfkit.model import Check, Severity
from perfkit.script_errors import ScriptErrors, SkippedRequests


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the load generator: CPU in percent of one core, and worst event-loop lag in ms, per second.

    ``stalled_s`` is the time in which its event loop did not run at all, of ``length_s``, and ``stalled_cpu_s`` the CPU
    time that it used meanwhile: none, when the process itself was stopped.
    """

    name: str
    cpu_pct: tuple[float, ...] = ()
    lag_ms: tuple[float, ...] = ()
    stalled_s: float | None = None
    stalled_cpu_s: float = 0.0
    length_s: float = 0.0


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
    script: ScriptErrors | None = None  # None: not known, as of every foreign file
    skipped: tuple[SkippedRequests, ...] = ()  # found when the requests were read
    early_end: str | None = None  # how a run ended before its time by itself; empty when it did not, None: not known
    planned_s: float | None = None
    users_at_end: int | None = None  # when the run was to end; None where that is not known
    exit_code: int | None = None  # Locust's


def graded(name: str, value: float | str | None, limit: float | str | None, bad: Severity | None, advice: str) -> Check:
    """A check that passed when ``bad`` is ``None``; advice is for those that did not."""
    severity = bad if bad is not None else Severity.OK
    return Check(name, value, limit, severity, advice if bad is not None else "")
