"""Did the load generator do what it was asked to, and was it itself fit to measure?"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from perfkit.load_profile import LoadProfile
from perfkit.model import Check, Severity
from perfkit.validity.facts import ArrivalCounts, GeneratorFacts, Process, graded
from perfkit.validity.script import failed_logins

LOAD_REACHED = 0.9  # share of the asked-for users that must have run
RATE_REACHED = 0.95  # share of the planned arrivals that must have started
CPU_SATURATED_PCT = 90.0  # Locust itself warns from here on: latencies then include waiting for the generator
LAG_MS = 100.0  # an event loop so late adds as much to latencies
LAGGING_PCT = 5.0  # share of the seconds in which it may be so late
ARRIVALS_PCT = 1.0  # share of arrivals that may be late or missed
CLOCK_STEP_S = 0.1  # the monotonic clock is slewed as the time of day is: anything more is a step
STALL_S = 1.0  # time in which the generator's event loop did not run ...
STALLED_PCT = 5.0  # ... and the share of the run above which nothing is left to judge
COUNT_GAP = 0.001  # relative gap between requests counted and kept


def check_generator(profile: LoadProfile, facts: GeneratorFacts) -> Iterator[Check]:
    """Checks of what the generator knows of itself; nothing is said of what is not known."""
    yield from _load_reached(profile, facts)
    yield from _cpu(facts.processes)
    yield from _lag(facts.processes)
    yield from _stalls(facts.processes)
    if facts.arrivals is not None:
        yield from _arrivals(facts.arrivals)
    if facts.clock_step_s is not None:
        yield _clock(facts.clock_step_s)
    if facts.workers_asked is not None:
        yield _workers(facts.workers_asked, facts.workers_lost)
    if facts.counted is not None and facts.recorded is not None:
        yield _recorded(facts.counted, facts.recorded)


def _load_reached(profile: LoadProfile, facts: GeneratorFacts) -> Iterator[Check]:
    """A run that was cut short may have had no time for its load: that is the interruption's doing, and said there."""
    for check in _load_against_plan(profile, facts):
        if check.severity is Severity.OK or not (facts.interrupted or facts.early_end):
            yield check


def _load_against_plan(profile: LoadProfile, facts: GeneratorFacts) -> Iterator[Check]:
    if facts.arrivals is not None:
        planned, started = facts.arrivals.planned, facts.arrivals.started
        limit = RATE_REACHED * planned
        advice = f"Only {started} of {planned} arrivals started: ask for a lower rate, or use more workers."
        yield graded("load_reached", started, limit, Severity.INVALID if started < limit else None, advice)
    elif profile.users is not None and facts.peak_users is not None:
        limit = LOAD_REACHED * profile.users
        bad = Severity.INVALID if facts.peak_users < limit else None
        login = failed_logins(facts.script)
        remedy = (
            f"the others ended in on_start ({login.describe()}); correct that"
            if login is not None
            else "give the run more time or a higher spawn rate"
        )
        advice = f"Only {facts.peak_users} of {profile.users} users ran: {remedy}."
        yield graded("load_reached", facts.peak_users, limit, bad, advice)
        if bad is None and facts.users_at_end is not None and not profile.stages:
            left = facts.users_at_end
            advice = (
                f"Only {left} of {profile.users} users were left at the end of the run: the others had stopped by "
                "themselves (StopUser, or an exception), and the load was not what it should have been."
            )
            yield graded("load_held", left, limit, Severity.INVALID if left < limit else None, advice)


def _cpu(processes: tuple[Process, ...]) -> Iterator[Check]:
    """Half of the seconds of the busiest process: a short peak is no saturation."""
    known = [(median(process.cpu_pct), process.name) for process in processes if process.cpu_pct]
    if not known:
        return
    busy, name = max(known)
    bad = Severity.INVALID if busy > CPU_SATURATED_PCT else None
    advice = (
        f"The load generator ({name}) was saturated, so latencies include its own waiting: use fewer users, "
        "FastHttpUser, or more workers."
    )
    yield graded("generator_cpu", round(busy, 1), CPU_SATURATED_PCT, bad, advice)


def _lag(processes: tuple[Process, ...]) -> Iterator[Check]:
    known = [process for process in processes if process.lag_ms]
    if not known:
        return
    shares = [(100.0 * sum(lag > LAG_MS for lag in one.lag_ms) / len(one.lag_ms), one) for one in known]
    share, worst = max(shares, key=lambda pair: pair[0])
    count = sum(lag > LAG_MS for lag in worst.lag_ms)
    late = share > LAGGING_PCT and count >= 2
    bad = None if not late else Severity.INVALID if share > 5 * LAGGING_PCT else Severity.WARN
    advice = (
        f"In {share:.0f} % of the seconds the generator ({worst.name}) was over {LAG_MS:g} ms late (worst "
        f"{max(worst.lag_ms):.0f} ms), and latencies include that: run it on a machine of its own, and let nothing "
        "in a task block (gevent.sleep, not a busy loop)."
    )
    yield graded("event_loop_lag", round(share, 1), LAGGING_PCT, bad, advice)


def longest_stall_s(processes: tuple[Process, ...]) -> float:
    """Time in which the process that stood still longest did, in seconds."""
    return max((process.stalled_s or 0.0 for process in processes), default=0.0)


def _stalls(processes: tuple[Process, ...]) -> Iterator[Check]:
    """A generator that stands still sends nothing and hears nothing: it must not be taken for the target's silence."""
    known = [process for process in processes if process.stalled_s is not None]
    if not known:
        return
    worst = max(known, key=lambda process: process.stalled_s or 0.0)
    stalled = worst.stalled_s or 0.0
    bad = None
    if stalled > STALL_S:
        bad = Severity.INVALID if 100 * stalled > STALLED_PCT * worst.length_s else Severity.WARN
    why = (
        "it was stopped, its container paused, or its CPU taken away. Give it a machine of its own"
        if worst.stalled_cpu_s < stalled / 2
        else "code in a task did not let others run. Move such work out of the tasks"
    )
    advice = (
        f"The load generator itself ({worst.name}) stood still for {stalled:.1f} s of {worst.length_s:.0f} s, and "
        f"response times include that: {why}, and repeat the run."
    )
    yield graded("generator_stalled", round(stalled, 2), STALL_S, bad, advice)


def _arrivals(counts: ArrivalCounts) -> Iterator[Check]:
    missed = max(counts.scheduled - counts.started, 0) + counts.unfinished
    share = 100.0 * missed / max(counts.scheduled, 1)
    advice = (
        f"{missed} of {counts.scheduled} arrivals never ran or were not answered before the end; the slowest are "
        "missing from the latencies: ask for a lower rate, or allow more with max_in_flight."
    )
    bad = Severity.INVALID if share > ARRIVALS_PCT else None
    yield graded("missed_arrivals", round(share, 2), ARRIVALS_PCT, bad, advice)
    share = 100.0 * counts.late / max(counts.started, 1)
    advice = (
        f"{counts.late} of {counts.started} arrivals started more than 10 ms late: no user was free (allow more with "
        "max_in_flight), or the generator was too slow (more workers). Response times count from the schedule."
    )
    yield graded(
        "late_arrivals", round(share, 2), ARRIVALS_PCT, Severity.WARN if share > ARRIVALS_PCT else None, advice
    )


def _clock(step_s: float) -> Check:
    bad = Severity.INVALID if abs(step_s) > CLOCK_STEP_S else None
    advice = (
        f"The clock of the load generator jumped by {step_s:+.1f} s during the run, so nobody knows when "
        "requests began: set the clock before a run, and repeat it."
    )
    return graded("clock", round(step_s, 3), CLOCK_STEP_S, bad, advice)


def _workers(asked: int, lost: tuple[str, ...]) -> Check:
    advice = (
        f"{len(lost)} of {asked} workers were lost ({', '.join(lost)}): the load was not what it should have been. "
        "What the others measured is kept."
    )
    return graded("workers", asked - len(lost), asked, Severity.INVALID if lost else None, advice)


def _recorded(counted: int, recorded: int) -> Check:
    bad = Severity.INVALID if abs(counted - recorded) > max(COUNT_GAP * counted, 1) else None
    advice = f"The load generator counted {counted} requests and {recorded} were kept: some are missing."
    return graded("recorded", recorded, counted, bad, advice)
