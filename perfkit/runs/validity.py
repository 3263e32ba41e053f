"""May this run be judged?  Every answer is a `Check` with its numbers.

Can a run have been made when it says?  One dated in the future, or long before there were such tests, cannot.

Its measurements may be fine; its place in a history is not.  It is named wherever runs are looked over, and never taken
for the newest.

What is known of a run besides its numbers, and how a check is graded.

Services, or whole runs, nearly all of whose requests fail: how fast they fail says nothing of the target.

Their latencies are withheld, and their error rate is what is judged.

Do the requests of a run describe the target, all through the run?

Did the load script do its part: did its tasks run to their end, its requests have times, its run last as planned?

Did the load generator do what it was asked to, and was it itself fit to measure?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from perfkit.model.consistency import run_contradiction
from perfkit.model.load_profile import LoadProfile
from perfkit.model.records import LATENCY_METRICS, Check, Run, ServiceStats, Severity
from perfkit.model.script_errors import ScriptErrors, SkippedRequests, TaskException
from perfkit.stats.stationarity import Burst, Drift, WithinRun

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
    found = []
    for service in dict.fromkeys(name for names in failing for name in names):
        having = [run for run in runs if service is None or service in run.services]
        bad = [run for run, names in zip(runs, failing, strict=True) if service in names]
        stats = [of for run in bad for name, of in run.services.items() if service in (None, name)]
        share = _failed_share(stats) or FAILING
        found.append(Outage(service, len(bad), len(having), share, most_frequent_error(stats)))
    return tuple(found)


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
    return {name: _withheld(of) if None in failing or name in failing else of for name, of in services.items()}


def _withheld(stats: ServiceStats) -> ServiceStats:
    known = [metric for metric in LATENCY_METRICS if stats.value(metric) is not None]
    if not known:
        return stats
    kind = most_frequent_error([stats])
    why = f"{_percent(_failed_share([stats]) or 0.0)} of the requests failed{f' ({kind})' if kind else ''}"
    gone: dict[str, Any] = {metric.value: None for metric in known}
    return replace(stats, **gone, warnings=(*stats.warnings, *(f"{m.title} withheld: {why}" for m in known)))


def _failing(services: Mapping[str, ServiceStats]) -> tuple[str | None, ...]:
    """The services of one run that fail; ``None`` alone where the run as a whole does."""
    shares = {name: _failed_share([stats]) for name, stats in services.items()}
    if services and all(share is not None for share in shares.values()):
        whole = _failed_share(list(services.values()))
        if whole is not None and whole >= FAILING:
            return (None,)
    return tuple(n for n, share in shares.items() if share is not None and share >= FAILING and _carries(n, services))


def _carries(name: str, services: Mapping[str, ServiceStats]) -> bool:
    """Whether a service carries a part of the run's requests that counts; so it does where that is not known."""
    counts = [stats.count for stats in services.values()]
    known = [count for count in counts if count is not None]
    return len(known) < len(counts) or (services[name].count or 0) >= CARRIES * sum(known)


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


FEW_REQUESTS = 100  # a run with fewer says little about anything but its mean
COUNT_MISMATCH = 0.10  # relative gap between requests counted and rate x duration
MANY_ERRORS_PCT = 20.0  # error rate from which latencies describe error pages, on whichever side it is
DRIFT_PCT = 10.0  # change of latency over the steady part of a run
DRIFT_P = 0.001  # a steady run drifts so much by chance once in a thousand runs
BURST_PCT = 20.0  # error rate in a stretch of the run ...
BURST_FACTOR = 4.0  # ... and how many times that of the rest
SILENCE_S = 2.0  # without any answer, while requests were under way ...
SILENCE_GAPS = 20.0  # ... and so many times the usual distance between answers
INCONSISTENT = "consistency"  # name of the check whether the numbers of a run contradict each other
NO_SERVER_PCT = 1.0  # share of requests that met no server


def check_requests(
    services: Mapping[str, ServiceStats],
    profile: LoadProfile,
    duration_s: float | None,
    within: WithinRun | None,
    stalled_s: float,
) -> Iterator[Check]:
    """Checks of what was measured; ``within`` is ``None`` where single requests are not known.

    Within ``stalled_s`` the generator itself stood still, and heard no answer.
    """
    yield _requests(services)
    yield from _percentiles(services)
    yield from _errors(services)
    if within is not None:
        yield from _burst(within.burst)
        yield from _no_server(within, services)
        yield _silence(within, stalled_s)
        if within.drift is not None and _is_level(profile):
            yield _drift(within.drift)
    yield from _counts(services, duration_s)


def _requests(services: Mapping[str, ServiceStats]) -> Check:
    total = sum(stats.count or 0 for stats in services.values())
    known = all(stats.count is not None for stats in services.values()) and services
    bad = Severity.INVALID if known and total == 0 else Severity.WARN if known and total < FEW_REQUESTS else None
    advice = "No request was measured." if not total else "Run longer or with more users: so few requests say little."
    if not services:
        bad, advice = Severity.INVALID, "No service was measured."
    return graded("requests", total if known or not services else None, FEW_REQUESTS, bad, advice)


def _errors(services: Mapping[str, ServiceStats]) -> Iterator[Check]:
    """Of a run that mostly fails, latencies describe error pages."""
    known = [stats for stats in services.values() if stats.count and stats.failures is not None]
    total = sum(stats.count or 0 for stats in known)
    if not total:
        return
    share = 100.0 * sum(min(stats.failures or 0, stats.count or 0) for stats in known) / total
    bad = Severity.WARN if share > MANY_ERRORS_PCT else None
    advice = "So many requests failed that latencies describe error pages: look at the errors before the times."
    yield graded("errors", round(share, 2), MANY_ERRORS_PCT, bad, advice)


def _is_level(profile: LoadProfile) -> bool:
    """Whether latency should stay what it is; under a ramp it may not."""
    return len({level for stage in profile.stages for level in (stage.begin, stage.end)}) <= 1


def _percentiles(services: Mapping[str, ServiceStats]) -> Iterator[Check]:
    """What was withheld for want of requests; a p99 or p99.9 alone is no fault."""
    texts = [f"{name}: {text}" for name, stats in services.items() for text in stats.warnings if "withheld" in text]
    if not texts:
        return
    bad = any(stats.count and stats.p95_latency_ms is None for stats in services.values())
    advice = f"{texts[0]}{f' (and {len(texts) - 1} more)' if len(texts) > 1 else ''}. Run longer, or with more load."
    yield graded("percentiles", f"{len(texts)} withheld", "none", Severity.WARN if bad else None, advice)


def _burst(burst: Burst | None) -> Iterator[Check]:
    if burst is None:
        yield graded("error_burst", 0.0, BURST_PCT, None, "")
        return
    sharp = burst.error_rate_pct > BURST_PCT and not burst.error_rate_pct <= BURST_FACTOR * burst.elsewhere_pct
    elsewhere = 0.0 if math.isnan(burst.elsewhere_pct) else burst.elsewhere_pct
    advice = (
        f"From {burst.begin_s:.0f} s to {burst.end_s:.0f} s {burst.error_rate_pct:.0f} % of the requests failed, "
        f"elsewhere {elsewhere:.1f} %: something happened "
        "then that is not the build's everyday; look at the target's log."
    )
    value = round(burst.error_rate_pct, 1)
    yield graded("error_burst", value, BURST_PCT, Severity.WARN if sharp else None, advice)


def _no_server(within: WithinRun, services: Mapping[str, ServiceStats]) -> Iterator[Check]:
    total = sum(stats.count or 0 for stats in services.values())
    if within.no_server is None or not total:
        return
    share = 100.0 * within.no_server / total
    advice = (
        f"{within.no_server} of {total} requests met no server (connection refused or reset): the target was down, "
        "restarting, or out of connections. Make sure that it is up for the whole run, and repeat it."
    )
    bad = Severity.INVALID if share > NO_SERVER_PCT else None
    yield graded("connections", round(share, 2), NO_SERVER_PCT, bad, advice)


def _silence(within: WithinRun, stalled_s: float) -> Check:
    limit = max(SILENCE_S, SILENCE_GAPS * within.mean_gap_s)
    advice = (
        f"For {within.silence_s:.1f} s the target answered nothing although requests were waiting: it stood still "
        "(garbage collection, a lock, a restart). With users instead of a rate few requests meet it: see --rate."
    )
    bad = Severity.WARN if within.silence_s - stalled_s > limit else None
    return graded("silence", round(within.silence_s, 2), round(limit, 2), bad, advice)


def _drift(drift: Drift) -> Check:
    bad = Severity.WARN if abs(drift.change_pct) > DRIFT_PCT and drift.p_value < DRIFT_P else None
    advice = (
        f"Latency changed by {drift.change_pct:+.0f} % from the beginning of the run to its end: its average depends "
        "on how long it ran. Warm up longer, or look for a leak."
    )
    return graded("drift", round(drift.change_pct, 2), DRIFT_PCT, bad, advice)


def _counts(services: Mapping[str, ServiceStats], duration_s: float | None) -> list[Check]:
    checks = []
    if (text := run_contradiction(services)) is not None:
        advice = f"{text}: the numbers contradict each other. Mend the file, or measure again."
        checks.append(Check(INCONSISTENT, text, "no contradiction", Severity.INVALID, advice))
    for name, stats in services.items():
        text = _rate_contradiction(name, stats, duration_s)
        if text is not None:
            checks.append(Check("counts_and_rate", text, f"within {COUNT_MISMATCH:.0%}", Severity.WARN, text))
    return checks


def _rate_contradiction(name: str, stats: ServiceStats, duration_s: float | None) -> str | None:
    if not duration_s or not stats.count or stats.rps is None:
        return None
    rate = stats.count / duration_s
    if abs(rate - stats.rps) <= COUNT_MISMATCH * max(rate, stats.rps):
        return None
    length = f"{duration_s / 60:g} minutes" if duration_s >= 60 and duration_s % 60 == 0 else f"{duration_s:g} s"
    return f"{name}: {stats.count} requests in {length} are not {stats.rps:g} rps (but {rate:.3g} rps)"


MOST_EXCEPTIONS = 0.5  # share of the tasks, or of the users, that may end by an exception
TASK, ON_START, ON_STOP = "task", "on_start", "on_stop"
MOST_NAMED = 3  # services that a sentence names


def check_script(facts: GeneratorFacts) -> Iterator[Check]:
    """Checks of the user's own code; nothing is said of what is not known."""
    yield from _early_end(facts)
    if facts.script is not None:
        yield _exceptions(facts.script)
    skipped = (*(facts.script.skipped if facts.script is not None else ()), *facts.skipped)
    if skipped or facts.script is not None:
        yield _skipped(skipped)
    if facts.exit_code is not None:
        yield _exit_code(facts.exit_code)


def failed_logins(script: ScriptErrors | None) -> TaskException | None:
    """The most frequent exception in ``on_start``: the users that raised it made no load."""
    raised = script.exceptions if script is not None else ()
    return next((one for one in raised if one.raised_in == ON_START), None)


def _early_end(facts: GeneratorFacts) -> Iterator[Check]:
    if facts.early_end is None:
        return
    limit = f"{facts.planned_s:g} s" if facts.planned_s is not None else "as planned"
    advice = (
        "It measured another load than it should. Look in the locustfile for runner.quit(), runner.stop(), StopUser, "
        "StopTest or sys.exit; or ask for the duration that it takes, or let a LoadTestShape decide the end."
    )
    bad = Severity.INVALID if facts.early_end else None
    yield graded("duration", facts.early_end or limit, limit, bad, advice)


def _exceptions(script: ScriptErrors) -> Check:
    """Exceptions of tasks whose request had failed come of the target, and its error rate says so."""
    if not script.exceptions:
        return graded("exceptions", 0, 0, None, "")
    count = sum(one.count for one in script.exceptions)
    logins = sum(one.count for one in script.exceptions if one.raised_in == ON_START)
    in_tasks = [one for one in script.exceptions if one.raised_in in (TASK, ON_START)]
    begun = script.tasks + logins
    ended = sum(one.count for one in in_tasks)
    by_script = ended - sum(one.after_failure for one in in_tasks)
    most = by_script > MOST_EXCEPTIONS * begun or (bool(logins) and logins > MOST_EXCEPTIONS * script.users > 0)
    sentences = [_sentence(one, script) for one in script.exceptions[:MOST_NAMED]]
    if (more := len(script.exceptions) - MOST_NAMED) > 0:
        sentences.append(f"{more} more kinds are in Locust's log.")
    value = f"{count} exceptions" if count > 1 else "1 exception"
    if ended:
        value += f", {100 * ended / max(begun, ended):.3g} % of the tasks"
    limit = f"0; invalid above {MOST_EXCEPTIONS:.0%} of the tasks"
    return graded("exceptions", value, limit, Severity.INVALID if most else Severity.WARN, " ".join(sentences))


def _sentence(one: TaskException, script: ScriptErrors) -> str:
    text = one.describe().rstrip(".")
    times = "once" if one.count == 1 else f"{one.count} times"
    if one.raised_in == ON_START:
        return (
            f"on_start failed {times} for {script.users} users ({text}), and such a user makes no load: correct "
            "on_start (login, test data); more users do not help."
        )
    if one.raised_in == ON_STOP:
        return f"on_stop failed {times} ({text}): what it should have cleaned up is left."
    if one.raised_in != TASK:
        return f"A {one.raised_in} of the locustfile failed {times} ({text}): what it should have done is missing."
    share = 100 * one.count / max(script.tasks, one.count)
    after = f", {one.after_failure} of them after a failed request" if one.after_failure else ""
    return (
        f"{one.count} of {script.tasks} tasks ({share:.3g} %) ended with {text}{after}: what they had still to ask is "
        "missing from the load. Correct the task, or check answers within catch_response, so that they count as failed."
    )


def _skipped(skipped: Sequence[SkippedRequests]) -> Check:
    if not skipped:
        return graded("skipped_requests", 0, 0, None, "")
    count = sum(one.count for one in skipped)
    services: Counter[str] = Counter()
    for one in skipped:
        services[one.service] += one.count
    faults = ", ".join(dict.fromkeys(one.fault for one in skipped))
    named = ", ".join(f"{service} ({number})" for service, number in services.most_common(MOST_NAMED))
    more = f" and {len(services) - MOST_NAMED} more services" if len(services) > MOST_NAMED else ""
    advice = (
        f"{count} requests of {named}{more} have no usable response time ({faults}) and were left out: correct the "
        "client that reports them; a response time is a number of milliseconds from 0 to 24 hours."
    )
    return graded("skipped_requests", count, 0, Severity.WARN, advice)


def _exit_code(code: int) -> Check:
    advice = (
        f"Locust ended with exit code {code}: the locustfile set it (environment.process_exit_code), or a listener "
        "failed; source/locust.log in the run's folder says which."
    )
    return graded("exit_code", code, 0, Severity.WARN if code else None, advice)


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


__all__ = ["MANY_ERRORS_PCT", "ArrivalCounts", "GeneratorFacts", "Process", "check_run", "duplicate_check"]


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
    return (
        _interrupted(facts),
        *check_script(facts),
        *check_requests(services, profile, duration_s, within, longest_stall_s(facts.processes)),
        *check_generator(profile, facts),
        *_warm_up(facts),
    )


def duplicate_check(other: str | None) -> Check:
    """Whether a store already holds these measurements, as the run ``other``."""
    bad = Severity.INVALID if other is not None else None
    advice = f"It holds the same measurements as run {other}: copies of one run are not evidence."
    return graded("duplicate", other or "none", "none", bad, advice)


def _interrupted(facts: GeneratorFacts) -> Check:
    bad = Severity.INVALID if facts.interrupted else None
    advice = "The run did not end as planned; what was measured is kept, but repeat the run to judge it."
    return graded("interrupted", facts.interrupted or "no", "no", bad, advice)


def _warm_up(facts: GeneratorFacts) -> tuple[Check, ...]:
    """Not a fault: says what was left out of latencies and rates."""
    if facts.warm_up_s is None:
        return ()
    return (Check("warm_up", f"{facts.warm_up_s:.1f} s cut off", "a quarter of the run", Severity.OK),)
