"""May a run be judged?  `check_run` answers with one `Check` per question, each with its value and its limit.

`CHECKS` is the list of all questions: what each means, and how bad it is when the answer is no.  A run with one
``invalid`` check may not be judged, and enters no baseline; ``warn`` is shown beside every result.  The function that
answers a question has its name and stands below, with its limits.  Where the source of a run cannot say, there is no
check: nothing is guessed.  `GeneratorFacts` is what is known of a run besides its numbers.

Below the checks: dates that no run has, and outages, whose latencies are withheld.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from perfkit.model.records import LATENCY_METRICS, Check, LoadProfile, Run, ServiceStats, Severity
from perfkit.model.script_errors import ScriptErrors, SkippedRequests
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
TASK, ON_START = "task", "on_start"
MOST_NAMED = 3  # services, or kinds of exceptions, that a sentence names


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the load generator."""

    name: str
    cpu_pct: tuple[float, ...] = ()  # of one core, per second
    lag_ms: tuple[float, ...] = ()  # worst event-loop lag, per second
    stalled_s: float | None = None  # in which its event loop did not run at all, of `length_s`
    stalled_cpu_s: float = 0.0  # CPU time used meanwhile: none, when the process itself was stopped
    length_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ArrivalCounts:
    """What became of the arrivals of an open-model run."""

    planned: int  # by the profile
    scheduled: int  # until the end of the run
    started: int
    late: int  # of those that were started
    unfinished: int  # still under way when the run ended


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


Answer = tuple[float | str | None, float | str | None, Severity | bool, str]
"""Value, limit, whether the check failed (``True``: as badly as `CHECKS` says), and advice for a run that did."""


def check_run(
    services: Mapping[str, ServiceStats],
    profile: LoadProfile,
    facts: GeneratorFacts,
    duration_s: float | None,
    within: WithinRun | None = None,
) -> tuple[Check, ...]:
    """Every check of one run that its source allows, passed ones too.

    ``duration_s``: length of the run where a source tells rates and counts independently, so that they can contradict
    each other.  ``within``: what its requests tell of the course of the run; ``None`` for summaries.
    """
    evidence = Evidence(services, profile, facts, duration_s, within)
    return tuple(_check(question.__name__, *answer) for question in ANSWERS for answer in question(evidence))


def duplicate_check(other: str | None) -> Check:
    """Whether a store already holds these measurements, as the run ``other``."""
    advice = f"It holds the same measurements as run {other}: copies of one run are not evidence."
    return _check("duplicate", other or "none", "none", other is not None, advice)


def _check(
    name: str, value: float | str | None, limit: float | str | None, failed: Severity | bool, advice: str
) -> Check:
    severity = failed if isinstance(failed, Severity) else CHECKS[name][0] if failed else Severity.OK
    return Check(name, value, limit, severity, advice if failed else "")


# The run and its load script ----------------------------------------------------------------------------------------


def interrupted(run: Evidence) -> Iterator[Answer]:
    reason = run.facts.interrupted
    advice = "The run did not end as planned; what was measured is kept, but repeat the run to judge it."
    yield reason or "no", "no", bool(reason), advice


def duration(run: Evidence) -> Iterator[Answer]:
    facts = run.facts
    if facts.early_end is not None:
        limit = f"{facts.planned_s:g} s" if facts.planned_s is not None else "as planned"
        advice = (
            "It measured another load than it should. Look in the locustfile for runner.quit(), runner.stop(), "
            "StopUser, StopTest or sys.exit; or ask for the duration that it takes, or let a LoadTestShape decide the "
            "end."
        )
        yield facts.early_end or limit, limit, bool(facts.early_end), advice


EXCEPTION_SENTENCES = {
    TASK: "{count} of {tasks} tasks ({share:.3g} %) ended with {text}{after}: what they had still to ask is missing "
    "from the load. Correct the task, or check answers within catch_response, so that they count as failed.",
    ON_START: "on_start failed {times} for {users} users ({text}), and such a user makes no load: correct on_start "
    "(login, test data); more users do not help.",
    "on_stop": "on_stop failed {times} ({text}): what it should have cleaned up is left.",
    "else": "A {where} of the locustfile failed {times} ({text}): what it should have done is missing.",
}


def exceptions(run: Evidence) -> Iterator[Answer]:
    """Exceptions of tasks whose request had failed come of the target, and its error rate says so."""
    script = run.facts.script
    if script is None:
        return
    raised = script.exceptions
    if not raised:
        yield 0, 0, False, ""
        return
    count = sum(error.count for error in raised)
    logins = sum(error.count for error in raised if error.raised_in == ON_START)
    in_tasks = [error for error in raised if error.raised_in in (TASK, ON_START)]
    begun, ended = script.tasks + logins, sum(error.count for error in in_tasks)
    by_script = ended - sum(error.after_failure for error in in_tasks)
    most = by_script > MOST_EXCEPTIONS * begun or (bool(logins) and logins > MOST_EXCEPTIONS * script.users > 0)
    sentences = [
        EXCEPTION_SENTENCES.get(error.raised_in, EXCEPTION_SENTENCES["else"]).format(
            where=error.raised_in,
            text=error.describe().rstrip("."),
            count=error.count,
            times="once" if error.count == 1 else f"{error.count} times",
            users=script.users,
            tasks=script.tasks,
            share=100 * error.count / max(script.tasks, error.count),
            after=f", {error.after_failure} of them after a failed request" if error.after_failure else "",
        )
        for error in raised[:MOST_NAMED]
    ]
    if (more := len(raised) - MOST_NAMED) > 0:
        sentences.append(f"{more} more kinds are in Locust's log.")
    value = f"{count} exceptions" if count > 1 else "1 exception"
    if ended:
        value += f", {100 * ended / max(begun, ended):.3g} % of the tasks"
    limit = f"0; invalid above {MOST_EXCEPTIONS:.0%} of the tasks"
    yield value, limit, INVALID if most else WARN, " ".join(sentences)


def skipped_requests(run: Evidence) -> Iterator[Answer]:
    script = run.facts.script
    skipped = (*(script.skipped if script is not None else ()), *run.facts.skipped)
    services: Counter[str] = Counter()
    for part in skipped:
        services[part.service] += part.count
    faults = ", ".join(dict.fromkeys(part.fault for part in skipped))
    named = ", ".join(f"{service} ({number})" for service, number in services.most_common(MOST_NAMED))
    more = f" and {len(services) - MOST_NAMED} more services" if len(services) > MOST_NAMED else ""
    advice = (
        f"{services.total()} requests of {named}{more} have no usable response time ({faults}) and were left out: "
        "correct the client that reports them; a response time is a number of milliseconds from 0 to 24 hours."
    )
    if skipped or script is not None:
        yield services.total(), 0, bool(skipped), advice


def exit_code(run: Evidence) -> Iterator[Answer]:
    if (code := run.facts.exit_code) is not None:
        advice = (
            f"Locust ended with exit code {code}: the locustfile set it (environment.process_exit_code), or a listener "
            "failed; source/locust.log in the run's folder says which."
        )
        yield code, 0, bool(code), advice


# What was measured --------------------------------------------------------------------------------------------------


def requests(run: Evidence) -> Iterator[Answer]:
    if not run.services:
        yield 0, FEW_REQUESTS, INVALID, "No service was measured."
        return
    total, is_counted = run.request_count, all(stats.count is not None for stats in run.services.values())
    few = INVALID if total == 0 else WARN if total < FEW_REQUESTS else False
    advice = "No request was measured." if not total else "Run longer or with more users: so few requests say little."
    yield total if is_counted else None, FEW_REQUESTS, is_counted and few, advice


def percentiles(run: Evidence) -> Iterator[Answer]:
    """What was withheld for want of requests; a p99 or p99.9 alone is no fault."""
    warnings = [(name, text) for name, stats in run.services.items() for text in stats.warnings]
    texts = [f"{name}: {text}" for name, text in warnings if "withheld" in text]
    if texts:
        more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
        lacks_p95 = any(stats.count and stats.p95_latency_ms is None for stats in run.services.values())
        yield f"{len(texts)} withheld", "none", lacks_p95, f"{texts[0]}{more}. Run longer, or with more load."


def errors(run: Evidence) -> Iterator[Answer]:
    counted = [stats for stats in run.services.values() if stats.count and stats.failures is not None]
    if total := sum(stats.count or 0 for stats in counted):
        share = 100.0 * sum(min(stats.failures or 0, stats.count or 0) for stats in counted) / total
        advice = "So many requests failed that latencies describe error pages: look at the errors before the times."
        yield round(share, 2), MANY_ERRORS_PCT, share > MANY_ERRORS_PCT, advice


def error_burst(run: Evidence) -> Iterator[Answer]:
    if run.within is None:
        return
    burst = run.within.burst
    if burst is None:
        yield 0.0, BURST_PCT, False, ""
        return
    is_sharp = burst.error_rate_pct > BURST_PCT and not burst.error_rate_pct <= BURST_FACTOR * burst.elsewhere_pct
    elsewhere = 0.0 if math.isnan(burst.elsewhere_pct) else burst.elsewhere_pct
    advice = (
        f"From {burst.begin_s:.0f} s to {burst.end_s:.0f} s {burst.error_rate_pct:.0f} % of the requests failed, "
        f"elsewhere {elsewhere:.1f} %: something happened "
        "then that is not the build's everyday; look at the target's log."
    )
    yield round(burst.error_rate_pct, 1), BURST_PCT, is_sharp, advice


def connections(run: Evidence) -> Iterator[Answer]:
    total = run.request_count
    if run.within is not None and run.within.no_server is not None and total:
        share = 100.0 * run.within.no_server / total
        advice = (
            f"{run.within.no_server} of {total} requests met no server (connection refused or reset): the target was "
            "down, restarting, or out of connections. Make sure that it is up for the whole run, and repeat it."
        )
        yield round(share, 2), NO_SERVER_PCT, share > NO_SERVER_PCT, advice


def silence(run: Evidence) -> Iterator[Answer]:
    """Of a time in which the generator itself stood still nothing can be said: it heard no answer."""
    if run.within is not None:
        silence_s, limit = run.within.silence_s, max(SILENCE_S, SILENCE_GAPS * run.within.mean_gap_s)
        stalled_s = max((process.stalled_s or 0.0 for process in run.facts.processes), default=0.0)
        advice = (
            f"For {silence_s:.1f} s the target answered nothing although requests were waiting: it stood still "
            "(garbage collection, a lock, a restart). With users instead of a rate few requests meet it: see --rate."
        )
        yield round(silence_s, 2), round(limit, 2), silence_s - stalled_s > limit, advice


def drift(run: Evidence) -> Iterator[Answer]:
    """Of a run at one level of load: under a ramp latency may change."""
    levels = {level for stage in run.profile.stages for level in (stage.begin, stage.end)}
    if run.within is not None and run.within.drift is not None and len(levels) <= 1:
        change, p_value = run.within.drift.change_pct, run.within.drift.p_value
        advice = (
            f"Latency changed by {change:+.0f} % from the beginning of the run to its end: its average depends "
            "on how long it ran. Warm up longer, or look for a leak."
        )
        yield round(change, 2), DRIFT_PCT, abs(change) > DRIFT_PCT and p_value < DRIFT_P, advice


def consistency(run: Evidence) -> Iterator[Answer]:
    if (text := run_contradiction(run.services)) is not None:
        advice = f"{text}: the numbers contradict each other. Mend the file, or measure again."
        yield text, "no contradiction", True, advice


def counts_and_rate(run: Evidence) -> Iterator[Answer]:
    for name, stats in run.services.items():
        if not run.duration_s or not stats.count or stats.rps is None:
            continue
        rate = stats.count / run.duration_s
        if abs(rate - stats.rps) > COUNT_MISMATCH * max(rate, stats.rps):
            seconds = run.duration_s
            length = f"{seconds / 60:g} minutes" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g} s"
            text = f"{name}: {stats.count} requests in {length} are not {stats.rps:g} rps (but {rate:.3g} rps)"
            yield text, f"within {COUNT_MISMATCH:.0%}", True, text


# The load generator -------------------------------------------------------------------------------------------------


def load_reached(run: Evidence) -> Iterator[Answer]:
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
        yield value, limit, value < limit, advice


def load_held(run: Evidence) -> Iterator[Answer]:
    """Of a run whose users all ran: how many of them were left at its end."""
    profile, facts = run.profile, run.facts
    left, users, peak = facts.users_at_end, profile.users, facts.peak_users
    if left is None or users is None or peak is None or facts.arrivals is not None or profile.stages:
        return
    limit = LOAD_REACHED * users
    if peak >= limit and (left >= limit or not (facts.interrupted or facts.early_end)):
        advice = (
            f"Only {left} of {users} users were left at the end of the run: the others had stopped by "
            "themselves (StopUser, or an exception), and the load was not what it should have been."
        )
        yield left, limit, left < limit, advice


def generator_cpu(run: Evidence) -> Iterator[Answer]:
    """Half of the seconds of the busiest process: a short peak is no saturation."""
    busy = [(median(process.cpu_pct), process.name) for process in run.facts.processes if process.cpu_pct]
    if busy:
        cpu_pct, name = max(busy)
        advice = (
            f"The load generator ({name}) was saturated, so latencies include its own waiting: use fewer users, "
            "FastHttpUser, or more workers."
        )
        yield round(cpu_pct, 1), CPU_SATURATED_PCT, cpu_pct > CPU_SATURATED_PCT, advice


def event_loop_lag(run: Evidence) -> Iterator[Answer]:
    late = [(sum(lag > LAG_MS for lag in process.lag_ms), process) for process in run.facts.processes if process.lag_ms]
    if not late:
        return
    count, worst = max(late, key=lambda pair: pair[0] / len(pair[1].lag_ms))
    share = 100.0 * count / len(worst.lag_ms)
    failed = share > LAGGING_PCT and count > 1
    advice = (
        f"In {share:.0f} % of the seconds the generator ({worst.name}) was over {LAG_MS:g} ms late (worst "
        f"{max(worst.lag_ms):.0f} ms), and latencies include that: run it on a machine of its own, and let nothing "
        "in a task block (gevent.sleep, not a busy loop)."
    )
    yield round(share, 1), LAGGING_PCT, WARN if failed and share <= 5 * LAGGING_PCT else failed, advice


def generator_stalled(run: Evidence) -> Iterator[Answer]:
    """A generator that stands still sends nothing and hears nothing: it must not be taken for the target's silence."""
    measured = [(process.stalled_s, process) for process in run.facts.processes if process.stalled_s is not None]
    if not measured:
        return
    stalled, worst = max(measured, key=lambda pair: pair[0])
    is_short = 100 * stalled <= STALLED_PCT * worst.length_s
    why = (
        "it was stopped, its container paused, or its CPU taken away. Give it a machine of its own"
        if worst.stalled_cpu_s < stalled / 2
        else "code in a task did not let others run. Move such work out of the tasks"
    )
    advice = (
        f"The load generator itself ({worst.name}) stood still for {stalled:.1f} s of {worst.length_s:.0f} s, and "
        f"response times include that: {why}, and repeat the run."
    )
    yield round(stalled, 2), STALL_S, stalled > STALL_S and (WARN if is_short else INVALID), advice


def missed_arrivals(run: Evidence) -> Iterator[Answer]:
    if (counts := run.facts.arrivals) is not None:
        missed = max(counts.scheduled - counts.started, 0) + counts.unfinished
        share = 100.0 * missed / max(counts.scheduled, 1)
        advice = (
            f"{missed} of {counts.scheduled} arrivals never ran or were not answered before the end; the slowest are "
            "missing from the latencies: ask for a lower rate, or allow more with max_in_flight."
        )
        yield round(share, 2), ARRIVALS_PCT, share > ARRIVALS_PCT, advice


def late_arrivals(run: Evidence) -> Iterator[Answer]:
    if (counts := run.facts.arrivals) is not None:
        share = 100.0 * counts.late / max(counts.started, 1)
        advice = (
            f"{counts.late} of {counts.started} arrivals started more than 10 ms late: no user was free (allow more "
            "with max_in_flight), or the generator was too slow (more workers). Response times count from the schedule."
        )
        yield round(share, 2), ARRIVALS_PCT, share > ARRIVALS_PCT, advice


def clock(run: Evidence) -> Iterator[Answer]:
    if (step_s := run.facts.clock_step_s) is not None:
        advice = (
            f"The clock of the load generator jumped by {step_s:+.1f} s during the run, so nobody knows when "
            "requests began: set the clock before a run, and repeat it."
        )
        yield round(step_s, 3), CLOCK_STEP_S, abs(step_s) > CLOCK_STEP_S, advice


def workers(run: Evidence) -> Iterator[Answer]:
    asked, lost = run.facts.workers_asked, run.facts.workers_lost
    if asked is not None:
        advice = (
            f"{len(lost)} of {asked} workers were lost ({', '.join(lost)}): the load was not what it should have been. "
            "What the others measured is kept."
        )
        yield asked - len(lost), asked, bool(lost), advice


def recorded(run: Evidence) -> Iterator[Answer]:
    counted, kept = run.facts.counted, run.facts.recorded
    if counted is not None and kept is not None:
        advice = f"The load generator counted {counted} requests and {kept} were kept: some are missing."
        yield kept, counted, abs(counted - kept) > max(COUNT_GAP * counted, 1), advice


def warm_up(run: Evidence) -> Iterator[Answer]:
    """Not a fault: says what was left out of latencies and rates."""
    if run.facts.warm_up_s is not None:
        yield f"{run.facts.warm_up_s:.1f} s cut off", "a quarter of the run", False, ""


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


# Outages: services, or whole runs, nearly all of whose requests fail.  How fast they fail says nothing of the target:
# their latencies are withheld, and their error rate is what is judged -------------------------------------------------

FAILING = 0.90  # share of the requests of a service, or of a run, that fail
CARRIES = 0.10  # share of a run's requests from which on a service counts


@dataclass(frozen=True, slots=True)
class Outage:
    """Nearly every request of a service fails, in ``failing`` of the ``runs`` runs of a side that have it."""

    service: str | None  # ``None``: the run as a whole
    failing: int
    runs: int
    share: float  # of the requests of the failing runs, 0 to 1, that failed
    error: str | None  # the most frequent one by kind, where kinds are known

    @property
    def is_whole(self) -> bool:
        """In every run of the side."""
        return self.failing == self.runs

    def describe(self, side: str) -> str:
        """As the beginning of a sentence: ``/pay: 97 % of the candidate's requests failed, most often with ...``."""
        runs = f"the requests of {self.failing} of {self.runs} {side} runs"
        whose = f"the {side}'s requests" if self.is_whole else runs
        return _outage_sentence(self.service, f"{_percent(self.share)} of {whose}", [self.error])


def describe_both(before: Outage, after: Outage) -> str:
    """One outage of both sides, as the beginning of a sentence."""
    shares = f"{_percent(before.share)} of the baseline's and {_percent(after.share)} of the candidate's requests"
    return _outage_sentence(before.service, shares, [before.error, after.error])


def _outage_sentence(service: str | None, shares: str, errors: Sequence[str | None]) -> str:
    name = f"{service}: " if service is not None else ""
    kinds = " and ".join(dict.fromkeys(filter(None, errors)))
    return f"{name}{shares} failed{f', most often with {kinds}' if kinds else ''}"


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
        outages.append(Outage(service, len(bad), len(having), share, _most_frequent_error(stats)))
    return tuple(outages)


def same_on_both(before: Sequence[Outage], after: Sequence[Outage]) -> Iterator[tuple[Outage, Outage]]:
    """Outages of all runs of both sides: there is nothing to compare."""
    whole = {outage.service: outage for outage in before if outage.is_whole}
    yield from ((whole[outage.service], outage) for outage in after if outage.is_whole and outage.service in whole)


def without_outages(run: Run) -> Run:
    """The run without the latencies of what fails in it."""
    services, of_stages = withheld(run.services), [withheld(stage.services) for stage in run.stages]
    if services is run.services and all(map(operator.is_, of_stages, (stage.services for stage in run.stages))):
        return run
    stages = tuple(replace(stage, services=of) for stage, of in zip(run.stages, of_stages, strict=True))
    return replace(run, services=services, stages=stages)


def withheld(services: Mapping[str, ServiceStats]) -> Mapping[str, ServiceStats]:
    """The services of one run; those that fail have no latencies, and a warning that says why."""
    if not (failing := _failing(services)):
        return services
    without = dict(services)
    for name, stats in services.items():
        measured = [metric for metric in LATENCY_METRICS if stats.value(metric) is not None]
        if measured and (None in failing or name in failing):
            kind = _most_frequent_error([stats])
            why = f"{_percent(_failed_share([stats]) or 0.0)} of the requests failed{f' ({kind})' if kind else ''}"
            gone: dict[str, Any] = {metric.value: None for metric in measured}
            warnings = (*stats.warnings, *(f"{metric.title} withheld: {why}" for metric in measured))
            without[name] = replace(stats, **gone, tail=None, warnings=warnings)
    return without


def _failing(services: Mapping[str, ServiceStats]) -> tuple[str | None, ...]:
    """The services of one run that fail; ``None`` alone where the run as a whole does."""
    shares = {name: _failed_share([stats]) for name, stats in services.items()}
    if None not in shares.values() and (_failed_share(list(services.values())) or 0.0) >= FAILING:
        return (None,)
    counts = [stats.count for stats in services.values()]
    # Of a service whose part of the run's requests is not known it is assumed that it counts
    least = CARRIES * sum(count or 0 for count in counts) if None not in counts else 0.0
    failing = (name for name, share in shares.items() if share is not None and share >= FAILING)
    return tuple(name for name in failing if (services[name].count or 0) >= least)


def _failed_share(stats: Sequence[ServiceStats]) -> float | None:
    """Failed requests over all of them, where anything is known of them."""
    failed = total = 0
    for of in stats:
        if of.count is None or of.failures is None:
            break
        failed, total = failed + of.failures, total + of.count
    else:
        return min(failed / total, 1.0) if total else None
    rates = [of.error_rate_pct for of in stats if of.error_rate_pct is not None]
    return sum(rates) / len(rates) / 100.0 if len(rates) == len(stats) else None


def _most_frequent_error(stats: Sequence[ServiceStats]) -> str | None:
    """The kind of error that most requests of these services failed with, such as ``HTTPError 500``."""
    counts = sum((Counter(of.errors) for of in stats), Counter[str]())
    return next((kind for kind, _ in counts.most_common(1)), None)
