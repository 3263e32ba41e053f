"""May a run be judged?  `check_run` answers with one `Check` per question, each with its value and its limit.

`CHECKS` is the list of all questions: what each means, and how bad it is when the answer is no.  A run with one
``invalid`` check may not be judged, and enters no baseline; ``warn`` is shown beside every result.  The function that
answers a question has its name and stands below, with its limits.  Where the source of a run cannot say, there is no
check: nothing is guessed.  `GeneratorFacts` is what is known of a run besides its numbers.

Below the checks: dates that no run has, and outages, whose latencies are withheld.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from perfkit.model.records import LATENCY_METRICS, Check, LoadProfile, Run, ServiceStats, Severity
from perfkit.model.script_errors import ScriptErrors, SkippedRequests, TaskException
from perfkit.model.serialization import run_contradiction

if TYPE_CHECKING:
    from perfkit.stats.stationarity import WithinRun

WARN, INVALID = Severity.WARN, Severity.INVALID

CHECKS: Mapping[str, tuple[Severity, str]] = {
    # The run and its load script
    "interrupted": (INVALID, "it was stopped, or killed, before its time"),
    "duration": (INVALID, "it ended before its time by itself"),
    "exceptions": (INVALID, "tasks of the load script raised exceptions: half of them is invalid, fewer warn"),
    "skipped_requests": (WARN, "requests had no usable response time, and were left out"),
    "exit_code": (WARN, "Locust ended with an exit code"),
    # What was measured
    "requests": (INVALID, "nothing was measured; few requests warn"),
    "percentiles": (WARN, "percentiles were withheld: too few requests for them"),
    "errors": (WARN, "so many requests failed that latencies describe error pages"),
    "error_burst": (WARN, "errors came in one stretch of the run"),
    "connections": (INVALID, "requests met no server: refused or reset connections"),
    "silence": (WARN, "the target answered nothing for a while"),
    "drift": (WARN, "latency rose or fell over the steady part of a run with level load"),
    "consistency": (INVALID, "its numbers contradict each other"),
    "counts_and_rate": (WARN, "requests counted are not rate times duration"),
    # The load generator
    "load_reached": (INVALID, "fewer users, or arrivals, than planned"),
    "load_held": (INVALID, "users had gone before the end"),
    "generator_cpu": (INVALID, "the load generator was saturated"),
    "event_loop_lag": (INVALID, "the load generator was late: often is invalid, sometimes warns"),
    "generator_stalled": (INVALID, "the load generator stood still: long is invalid, shortly warns"),
    "missed_arrivals": (INVALID, "arrivals never ran, or were not answered before the end"),
    "late_arrivals": (WARN, "arrivals started late"),
    "clock": (INVALID, "the clock of the load generator jumped"),
    "workers": (INVALID, "workers were lost"),
    "recorded": (INVALID, "not every request that was counted was kept"),
    "warm_up": (Severity.OK, "never: it says how much of the beginning was cut off"),
    # Added elsewhere: by a reader that finds damage (`run_folder`, `locust_csv`), a person, or a store
    "counts": (INVALID, "the files of the run contradict each other"),
    "seal": (INVALID, "its document was changed after it was stored"),
    "quarantined": (INVALID, "a person set it aside"),
    "duplicate": (INVALID, "the store holds the same measurements as another run"),
}
"""Name of each check of a run: how bad it is at most, and when it fails."""

FEW_REQUESTS = 100  # a run with fewer says little about anything but its mean
COUNT_MISMATCH = 0.10  # relative gap between requests counted and rate x duration
MANY_ERRORS_PCT = 20.0  # error rate from which latencies describe error pages, on whichever side it is
DRIFT_PCT = 10.0  # change of latency over the steady part of a run
DRIFT_P = 0.001  # a steady run drifts so much by chance once in a thousand runs
BURST_PCT = 20.0  # error rate in a stretch of the run ...
BURST_FACTOR = 4.0  # ... and how many times that of the rest
SILENCE_S = 2.0  # without any answer, while requests were under way ...
SILENCE_GAPS = 20.0  # ... and so many times the usual distance between answers
NO_SERVER_PCT = 1.0  # share of requests that met no server
MOST_EXCEPTIONS = 0.5  # share of the tasks, or of the users, that may end by an exception
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
INCONSISTENT = "consistency"  # name of the check whether the numbers of a run contradict each other
TASK, ON_START, ON_STOP = "task", "on_start", "on_stop"
MOST_NAMED = 3  # services, or kinds of exceptions, that a sentence names


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


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one run when it is checked; see `check_run`."""

    services: Mapping[str, ServiceStats]
    profile: LoadProfile
    facts: GeneratorFacts
    duration_s: float | None
    within: WithinRun | None

    @property
    def request_count(self) -> int:
        return sum(stats.count or 0 for stats in self.services.values())


def check_run(
    services: Mapping[str, ServiceStats],
    profile: LoadProfile,
    facts: GeneratorFacts,
    duration_s: float | None,
    within: WithinRun | None = None,
) -> tuple[Check, ...]:
    """Every check of one run that its source allows, passed ones too.

    Parameters
    ----------
    duration_s
        Length of the run where a source tells rates and counts independently, so that they can contradict each other.
    within
        What its requests tell of the course of the run; ``None`` for summaries.
    """
    evidence = Evidence(services, profile, facts, duration_s, within)
    return tuple(check for answer in ANSWERS for check in answer(evidence))


def duplicate_check(other: str | None) -> Check:
    """Whether a store already holds these measurements, as the run ``other``."""
    advice = f"It holds the same measurements as run {other}: copies of one run are not evidence."
    return graded("duplicate", other or "none", "none", INVALID if other is not None else None, advice)


def graded(name: str, value: float | str | None, limit: float | str | None, bad: Severity | None, advice: str) -> Check:
    """A check that passed when ``bad`` is ``None``; advice is for those that did not."""
    severity = bad if bad is not None else Severity.OK
    return Check(name, value, limit, severity, advice if bad is not None else "")


# The run and its load script ----------------------------------------------------------------------------------------


def interrupted(run: Evidence) -> Iterator[Check]:
    reason = run.facts.interrupted
    advice = "The run did not end as planned; what was measured is kept, but repeat the run to judge it."
    yield graded("interrupted", reason or "no", "no", INVALID if reason else None, advice)


def duration(run: Evidence) -> Iterator[Check]:
    facts = run.facts
    if facts.early_end is None:
        return
    limit = f"{facts.planned_s:g} s" if facts.planned_s is not None else "as planned"
    advice = (
        "It measured another load than it should. Look in the locustfile for runner.quit(), runner.stop(), StopUser, "
        "StopTest or sys.exit; or ask for the duration that it takes, or let a LoadTestShape decide the end."
    )
    yield graded("duration", facts.early_end or limit, limit, INVALID if facts.early_end else None, advice)


def exceptions(run: Evidence) -> Iterator[Check]:
    """Exceptions of tasks whose request had failed come of the target, and its error rate says so."""
    script = run.facts.script
    if script is None:
        return
    raised = script.exceptions
    if not raised:
        yield graded("exceptions", 0, 0, None, "")
        return
    count = sum(error.count for error in raised)
    logins = sum(error.count for error in raised if error.raised_in == ON_START)
    in_tasks = [error for error in raised if error.raised_in in (TASK, ON_START)]
    begun, ended = script.tasks + logins, sum(error.count for error in in_tasks)
    by_script = ended - sum(error.after_failure for error in in_tasks)
    most = by_script > MOST_EXCEPTIONS * begun or (bool(logins) and logins > MOST_EXCEPTIONS * script.users > 0)
    sentences = [_exception_sentence(error, script) for error in raised[:MOST_NAMED]]
    if (more := len(raised) - MOST_NAMED) > 0:
        sentences.append(f"{more} more kinds are in Locust's log.")
    value = f"{count} exceptions" if count > 1 else "1 exception"
    if ended:
        value += f", {100 * ended / max(begun, ended):.3g} % of the tasks"
    limit = f"0; invalid above {MOST_EXCEPTIONS:.0%} of the tasks"
    yield graded("exceptions", value, limit, INVALID if most else WARN, " ".join(sentences))


def _exception_sentence(error: TaskException, script: ScriptErrors) -> str:
    text = error.describe().rstrip(".")
    times = "once" if error.count == 1 else f"{error.count} times"
    if error.raised_in == ON_START:
        return (
            f"on_start failed {times} for {script.users} users ({text}), and such a user makes no load: correct "
            "on_start (login, test data); more users do not help."
        )
    if error.raised_in == ON_STOP:
        return f"on_stop failed {times} ({text}): what it should have cleaned up is left."
    if error.raised_in != TASK:
        return f"A {error.raised_in} of the locustfile failed {times} ({text}): what it should have done is missing."
    share = 100 * error.count / max(script.tasks, error.count)
    after = f", {error.after_failure} of them after a failed request" if error.after_failure else ""
    return (
        f"{error.count} of {script.tasks} tasks ({share:.3g} %) ended with {text}{after}: what they had still to ask "
        "is missing from the load. Correct the task, or check answers within catch_response, so that they count as "
        "failed."
    )


def skipped_requests(run: Evidence) -> Iterator[Check]:
    script = run.facts.script
    skipped = (*(script.skipped if script is not None else ()), *run.facts.skipped)
    if not skipped:
        yield from () if script is None else [graded("skipped_requests", 0, 0, None, "")]
        return
    count = sum(part.count for part in skipped)
    services: Counter[str] = Counter()
    for part in skipped:
        services[part.service] += part.count
    faults = ", ".join(dict.fromkeys(part.fault for part in skipped))
    named = ", ".join(f"{service} ({number})" for service, number in services.most_common(MOST_NAMED))
    more = f" and {len(services) - MOST_NAMED} more services" if len(services) > MOST_NAMED else ""
    advice = (
        f"{count} requests of {named}{more} have no usable response time ({faults}) and were left out: correct the "
        "client that reports them; a response time is a number of milliseconds from 0 to 24 hours."
    )
    yield graded("skipped_requests", count, 0, WARN, advice)


def exit_code(run: Evidence) -> Iterator[Check]:
    code = run.facts.exit_code
    if code is not None:
        advice = (
            f"Locust ended with exit code {code}: the locustfile set it (environment.process_exit_code), or a listener "
            "failed; source/locust.log in the run's folder says which."
        )
        yield graded("exit_code", code, 0, WARN if code else None, advice)


# What was measured --------------------------------------------------------------------------------------------------


def requests(run: Evidence) -> Iterator[Check]:
    if not run.services:
        yield graded("requests", 0, FEW_REQUESTS, INVALID, "No service was measured.")
        return
    total, is_known = run.request_count, all(stats.count is not None for stats in run.services.values())
    bad = None if not is_known else INVALID if total == 0 else WARN if total < FEW_REQUESTS else None
    advice = "No request was measured." if not total else "Run longer or with more users: so few requests say little."
    yield graded("requests", total if is_known else None, FEW_REQUESTS, bad, advice)


def percentiles(run: Evidence) -> Iterator[Check]:
    """What was withheld for want of requests; a p99 or p99.9 alone is no fault."""
    warnings = [(name, text) for name, stats in run.services.items() for text in stats.warnings]
    texts = [f"{name}: {text}" for name, text in warnings if "withheld" in text]
    if not texts:
        return
    bad = any(stats.count and stats.p95_latency_ms is None for stats in run.services.values())
    advice = f"{texts[0]}{f' (and {len(texts) - 1} more)' if len(texts) > 1 else ''}. Run longer, or with more load."
    yield graded("percentiles", f"{len(texts)} withheld", "none", WARN if bad else None, advice)


def errors(run: Evidence) -> Iterator[Check]:
    counted = [stats for stats in run.services.values() if stats.count and stats.failures is not None]
    total = sum(stats.count or 0 for stats in counted)
    if not total:
        return
    share = 100.0 * sum(min(stats.failures or 0, stats.count or 0) for stats in counted) / total
    advice = "So many requests failed that latencies describe error pages: look at the errors before the times."
    yield graded("errors", round(share, 2), MANY_ERRORS_PCT, WARN if share > MANY_ERRORS_PCT else None, advice)


def error_burst(run: Evidence) -> Iterator[Check]:
    if run.within is None:
        return
    burst = run.within.burst
    if burst is None:
        yield graded("error_burst", 0.0, BURST_PCT, None, "")
        return
    is_sharp = burst.error_rate_pct > BURST_PCT and not burst.error_rate_pct <= BURST_FACTOR * burst.elsewhere_pct
    elsewhere = 0.0 if math.isnan(burst.elsewhere_pct) else burst.elsewhere_pct
    advice = (
        f"From {burst.begin_s:.0f} s to {burst.end_s:.0f} s {burst.error_rate_pct:.0f} % of the requests failed, "
        f"elsewhere {elsewhere:.1f} %: something happened "
        "then that is not the build's everyday; look at the target's log."
    )
    yield graded("error_burst", round(burst.error_rate_pct, 1), BURST_PCT, WARN if is_sharp else None, advice)


def connections(run: Evidence) -> Iterator[Check]:
    total = run.request_count
    if run.within is None or run.within.no_server is None or not total:
        return
    share = 100.0 * run.within.no_server / total
    advice = (
        f"{run.within.no_server} of {total} requests met no server (connection refused or reset): the target was down, "
        "restarting, or out of connections. Make sure that it is up for the whole run, and repeat it."
    )
    yield graded("connections", round(share, 2), NO_SERVER_PCT, INVALID if share > NO_SERVER_PCT else None, advice)


def silence(run: Evidence) -> Iterator[Check]:
    """Of a time in which the generator itself stood still nothing can be said: it heard no answer."""
    if run.within is None:
        return
    silence_s, limit = run.within.silence_s, max(SILENCE_S, SILENCE_GAPS * run.within.mean_gap_s)
    stalled_s = max((process.stalled_s or 0.0 for process in run.facts.processes), default=0.0)
    advice = (
        f"For {silence_s:.1f} s the target answered nothing although requests were waiting: it stood still "
        "(garbage collection, a lock, a restart). With users instead of a rate few requests meet it: see --rate."
    )
    yield graded(
        "silence", round(silence_s, 2), round(limit, 2), WARN if silence_s - stalled_s > limit else None, advice
    )


def drift(run: Evidence) -> Iterator[Check]:
    """Of a run at one level of load: under a ramp latency may change."""
    levels = {level for stage in run.profile.stages for level in (stage.begin, stage.end)}
    if run.within is None or run.within.drift is None or len(levels) > 1:
        return
    change, p_value = run.within.drift.change_pct, run.within.drift.p_value
    bad = WARN if abs(change) > DRIFT_PCT and p_value < DRIFT_P else None
    advice = (
        f"Latency changed by {change:+.0f} % from the beginning of the run to its end: its average depends "
        "on how long it ran. Warm up longer, or look for a leak."
    )
    yield graded("drift", round(change, 2), DRIFT_PCT, bad, advice)


def consistency(run: Evidence) -> Iterator[Check]:
    if (text := run_contradiction(run.services)) is not None:
        advice = f"{text}: the numbers contradict each other. Mend the file, or measure again."
        yield Check(INCONSISTENT, text, "no contradiction", INVALID, advice)


def counts_and_rate(run: Evidence) -> Iterator[Check]:
    for name, stats in run.services.items():
        if not run.duration_s or not stats.count or stats.rps is None:
            continue
        rate = stats.count / run.duration_s
        if abs(rate - stats.rps) > COUNT_MISMATCH * max(rate, stats.rps):
            seconds = run.duration_s
            length = f"{seconds / 60:g} minutes" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g} s"
            text = f"{name}: {stats.count} requests in {length} are not {stats.rps:g} rps (but {rate:.3g} rps)"
            yield Check("counts_and_rate", text, f"within {COUNT_MISMATCH:.0%}", WARN, text)


# The load generator -------------------------------------------------------------------------------------------------


def load_reached(run: Evidence) -> Iterator[Check]:
    """Of a run that was cut short nothing is said: it may have had no time for its load."""
    profile, facts = run.profile, run.facts
    if facts.arrivals is not None:
        planned, started = facts.arrivals.planned, facts.arrivals.started
        limit, value = RATE_REACHED * planned, started
        advice = f"Only {started} of {planned} arrivals started: ask for a lower rate, or use more workers."
    elif profile.users is not None and facts.peak_users is not None:
        limit, value = LOAD_REACHED * profile.users, facts.peak_users
        raised = facts.script.exceptions if facts.script is not None else ()
        login = next((error for error in raised if error.raised_in == ON_START), None)
        remedy = (
            f"the others ended in on_start ({login.describe()}); correct that"
            if login is not None
            else "give the run more time or a higher spawn rate"
        )
        advice = f"Only {facts.peak_users} of {profile.users} users ran: {remedy}."
    else:
        return
    if value >= limit or not (facts.interrupted or facts.early_end):
        yield graded("load_reached", value, limit, INVALID if value < limit else None, advice)


def load_held(run: Evidence) -> Iterator[Check]:
    """Of a run whose users all ran: how many of them were left at its end."""
    profile, facts = run.profile, run.facts
    left, users, peak = facts.users_at_end, profile.users, facts.peak_users
    if left is None or users is None or peak is None or facts.arrivals is not None or profile.stages:
        return
    limit = LOAD_REACHED * users
    if peak < limit or (left < limit and (facts.interrupted or facts.early_end)):
        return
    advice = (
        f"Only {left} of {users} users were left at the end of the run: the others had stopped by "
        "themselves (StopUser, or an exception), and the load was not what it should have been."
    )
    yield graded("load_held", left, limit, INVALID if left < limit else None, advice)


def generator_cpu(run: Evidence) -> Iterator[Check]:
    """Half of the seconds of the busiest process: a short peak is no saturation."""
    busy = [(median(process.cpu_pct), process.name) for process in run.facts.processes if process.cpu_pct]
    if not busy:
        return
    cpu_pct, name = max(busy)
    advice = (
        f"The load generator ({name}) was saturated, so latencies include its own waiting: use fewer users, "
        "FastHttpUser, or more workers."
    )
    bad = INVALID if cpu_pct > CPU_SATURATED_PCT else None
    yield graded("generator_cpu", round(cpu_pct, 1), CPU_SATURATED_PCT, bad, advice)


def event_loop_lag(run: Evidence) -> Iterator[Check]:
    measured = [process for process in run.facts.processes if process.lag_ms]
    if not measured:
        return
    late = [sum(lag > LAG_MS for lag in process.lag_ms) for process in measured]
    shares = [100.0 * count / len(process.lag_ms) for count, process in zip(late, measured, strict=True)]
    share = max(shares)
    worst, count = measured[shares.index(share)], late[shares.index(share)]
    bad = None if share <= LAGGING_PCT or count < 2 else INVALID if share > 5 * LAGGING_PCT else WARN
    advice = (
        f"In {share:.0f} % of the seconds the generator ({worst.name}) was over {LAG_MS:g} ms late (worst "
        f"{max(worst.lag_ms):.0f} ms), and latencies include that: run it on a machine of its own, and let nothing "
        "in a task block (gevent.sleep, not a busy loop)."
    )
    yield graded("event_loop_lag", round(share, 1), LAGGING_PCT, bad, advice)


def generator_stalled(run: Evidence) -> Iterator[Check]:
    """A generator that stands still sends nothing and hears nothing: it must not be taken for the target's silence."""
    measured = [process for process in run.facts.processes if process.stalled_s is not None]
    if not measured:
        return
    worst = max(measured, key=lambda process: process.stalled_s or 0.0)
    stalled = worst.stalled_s or 0.0
    bad = None
    if stalled > STALL_S:
        bad = INVALID if 100 * stalled > STALLED_PCT * worst.length_s else WARN
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


def missed_arrivals(run: Evidence) -> Iterator[Check]:
    counts = run.facts.arrivals
    if counts is None:
        return
    missed = max(counts.scheduled - counts.started, 0) + counts.unfinished
    share = 100.0 * missed / max(counts.scheduled, 1)
    advice = (
        f"{missed} of {counts.scheduled} arrivals never ran or were not answered before the end; the slowest are "
        "missing from the latencies: ask for a lower rate, or allow more with max_in_flight."
    )
    yield graded("missed_arrivals", round(share, 2), ARRIVALS_PCT, INVALID if share > ARRIVALS_PCT else None, advice)


def late_arrivals(run: Evidence) -> Iterator[Check]:
    counts = run.facts.arrivals
    if counts is None:
        return
    share = 100.0 * counts.late / max(counts.started, 1)
    advice = (
        f"{counts.late} of {counts.started} arrivals started more than 10 ms late: no user was free (allow more with "
        "max_in_flight), or the generator was too slow (more workers). Response times count from the schedule."
    )
    yield graded("late_arrivals", round(share, 2), ARRIVALS_PCT, WARN if share > ARRIVALS_PCT else None, advice)


def clock(run: Evidence) -> Iterator[Check]:
    step_s = run.facts.clock_step_s
    if step_s is not None:
        advice = (
            f"The clock of the load generator jumped by {step_s:+.1f} s during the run, so nobody knows when "
            "requests began: set the clock before a run, and repeat it."
        )
        bad = INVALID if abs(step_s) > CLOCK_STEP_S else None
        yield graded("clock", round(step_s, 3), CLOCK_STEP_S, bad, advice)


def workers(run: Evidence) -> Iterator[Check]:
    asked, lost = run.facts.workers_asked, run.facts.workers_lost
    if asked is not None:
        advice = (
            f"{len(lost)} of {asked} workers were lost ({', '.join(lost)}): the load was not what it should have been. "
            "What the others measured is kept."
        )
        yield graded("workers", asked - len(lost), asked, INVALID if lost else None, advice)


def recorded(run: Evidence) -> Iterator[Check]:
    counted, kept = run.facts.counted, run.facts.recorded
    if counted is not None and kept is not None:
        bad = INVALID if abs(counted - kept) > max(COUNT_GAP * counted, 1) else None
        advice = f"The load generator counted {counted} requests and {kept} were kept: some are missing."
        yield graded("recorded", kept, counted, bad, advice)


def warm_up(run: Evidence) -> Iterator[Check]:
    """Not a fault: says what was left out of latencies and rates."""
    if run.facts.warm_up_s is not None:
        yield Check("warm_up", f"{run.facts.warm_up_s:.1f} s cut off", "a quarter of the run", Severity.OK)


ANSWERS = (
    *(interrupted, duration, exceptions, skipped_requests, exit_code),
    *(requests, percentiles, errors, error_burst, connections, silence, drift, consistency, counts_and_rate),
    *(load_reached, load_held, generator_cpu, event_loop_lag, generator_stalled, missed_arrivals, late_arrivals),
    *(clock, workers, recorded, warm_up),
)
"""In the order in which a run shows its checks."""


# The date of a run --------------------------------------------------------------------------------------------------

SKEW = timedelta(minutes=10)  # by which the clocks of two machines may differ
EARLIEST = datetime(2005, 1, 1, tzinfo=UTC)  # before it, a clock that was never set: 1970, 1980, 2000


def misdated(started_at: datetime | None, now: datetime) -> str:
    """What is wrong with the date of a run, in words; empty where nothing is, or it is not known.

    >>> misdated(datetime(2031, 5, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))
    'dated 2031-05-01 00:00 UTC, in the future'
    """
    if started_at is None:
        return ""
    when = f"dated {started_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if started_at > now + SKEW:
        return f"{when}, in the future"
    return f"{when}, far in the past" if started_at < EARLIEST else ""


def in_future(times: Sequence[datetime | None], now: datetime) -> tuple[bool, ...]:
    """Which of the runs of a history are dated in the future.

    None where all whose time is known are: then it is the clock here that is wrong.
    """
    late = tuple(time is not None and time > now + SKEW for time in times)
    dated = sum(time is not None for time in times)
    return late if sum(late) < dated else (False,) * len(late)


# Outages: services, or whole runs, nearly all of whose requests fail -------------------------------------------------
#
# How fast they fail says nothing of the target: their latencies are withheld, and their error rate is what is judged.

FAILING = 0.90  # share of the requests of a service, or of a run, that fail
CARRIES = 0.10  # share of a run's requests from which on a service counts


@dataclass(frozen=True, slots=True)
class Outage:
    """Nearly every request of a service fails, in ``failing`` of the ``runs`` runs of a side that have it.

    Parameters
    ----------
    service
        ``None`` for the run as a whole.
    share
        Of the requests of the failing runs that failed, 0 to 1.
    error
        The most frequent error by kind, where kinds are known.
    """

    service: str | None
    failing: int
    runs: int
    share: float
    error: str | None

    @property
    def is_whole(self) -> bool:
        """In every run of the side."""
        return self.failing == self.runs

    def describe(self, side: str) -> str:
        """As the beginning of a sentence: ``/pay: 97 % of the candidate's requests failed, most often with ...``."""
        whose = (
            f"the {side}'s requests" if self.is_whole else f"the requests of {self.failing} of {self.runs} {side} runs"
        )
        name = f"{self.service}: " if self.service is not None else ""
        error = f", most often with {self.error}" if self.error else ""
        return f"{name}{_percent(self.share)} of {whose} failed{error}"


def _percent(share: float) -> str:
    return "100 %" if share >= 1.0 else f"{min(100 * share, 99.9):.3g} %"


def outages(runs: Sequence[Run]) -> tuple[Outage, ...]:
    """What fails in any of these runs: the run as a whole, else single services of it."""
    failing = [_failing(run.services) for run in runs]
    outages = []
    for service in dict.fromkeys(name for names in failing for name in names):
        having = [run for run in runs if service is None or service in run.services]
        bad = [run for run, names in zip(runs, failing, strict=True) if service in names]
        stats = [of for run in bad for name, of in run.services.items() if service in (None, name)]
        share = _failed_share(stats) or FAILING
        outages.append(Outage(service, len(bad), len(having), share, most_frequent_error(stats)))
    return tuple(outages)


def without_outages(run: Run) -> Run:
    """The run without the latencies of what fails in it."""
    services = withheld(run.services)
    stages = tuple(replace(stage, services=withheld(stage.services)) for stage in run.stages)
    if services is run.services and all(a.services is b.services for a, b in zip(stages, run.stages, strict=True)):
        return run
    return replace(run, services=services, stages=stages)


def withheld(services: Mapping[str, ServiceStats]) -> Mapping[str, ServiceStats]:
    """The services of one run; those that fail have no latencies, and a warning that says why."""
    failing = _failing(services)
    if not failing:
        return services
    without = dict(services)
    for name, stats in services.items():
        measured = [metric for metric in LATENCY_METRICS if stats.value(metric) is not None]
        if measured and (None in failing or name in failing):
            kind = most_frequent_error([stats])
            why = f"{_percent(_failed_share([stats]) or 0.0)} of the requests failed{f' ({kind})' if kind else ''}"
            gone: dict[str, Any] = {metric.value: None for metric in measured}
            warnings = (*stats.warnings, *(f"{metric.title} withheld: {why}" for metric in measured))
            without[name] = replace(stats, **gone, warnings=warnings)
    return without


def _failing(services: Mapping[str, ServiceStats]) -> tuple[str | None, ...]:
    """The services of one run that fail; ``None`` alone where the run as a whole does."""
    shares = {name: _failed_share([stats]) for name, stats in services.items()}
    if services and all(share is not None for share in shares.values()):
        whole = _failed_share(list(services.values()))
        if whole is not None and whole >= FAILING:
            return (None,)
    counts = [stats.count for stats in services.values()]
    # Of a service whose part of the run's requests is not known it is assumed that it counts
    least = CARRIES * sum(count or 0 for count in counts) if None not in counts else 0.0
    return tuple(
        name
        for name, share in shares.items()
        if share is not None and share >= FAILING and (services[name].count or 0) >= least
    )


def _failed_share(stats: Sequence[ServiceStats]) -> float | None:
    """Failed requests over all of them, where anything is known of them."""
    if all(of.count is not None and of.failures is not None for of in stats):
        total = sum(of.count or 0 for of in stats)
        return min(sum(of.failures or 0 for of in stats) / total, 1.0) if total else None
    rates = [of.error_rate_pct for of in stats if of.error_rate_pct is not None]
    return sum(rates) / len(rates) / 100.0 if len(rates) == len(stats) and rates else None


def most_frequent_error(stats: Sequence[ServiceStats]) -> str | None:
    """The kind of error that most requests of these services failed with, such as ``HTTPError 500``."""
    counts: Counter[str] = Counter()
    for of in stats:
        counts.update(of.errors)
    return max(counts, key=lambda kind: counts[kind]) if counts else None


def describe_both(before: Outage, after: Outage) -> str:
    """One outage of both sides, as the beginning of a sentence."""
    name = f"{before.service}: " if before.service is not None else ""
    kinds = [outage.error for outage in (before, after) if outage.error]
    error = f", most often with {' and '.join(dict.fromkeys(kinds))}" if kinds else ""
    shares = f"{_percent(before.share)} of the baseline's and {_percent(after.share)} of the candidate's requests"
    return f"{name}{shares} failed{error}"


def same_on_both(before: Sequence[Outage], after: Sequence[Outage]) -> Iterator[tuple[Outage, Outage]]:
    """Outages of all runs of both sides: there is nothing to compare."""
    whole = {outage.service: outage for outage in before if outage.is_whole}
    yield from ((whole[outage.service], outage) for outage in after if outage.is_whole and outage.service in whole)
