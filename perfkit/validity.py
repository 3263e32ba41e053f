"""May this run be judged?  Every answer is a `Check` with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perfkit.load_profile import LoadProfile
from perfkit.model import Check, ServiceStats, Severity

FEW_REQUESTS = 100  # a run with fewer says little about anything but its mean
LOAD_REACHED = 0.9  # share of the asked-for users that must have run
CPU_SATURATED_PCT = 90.0  # Locust itself warns from here on: latencies then include waiting for the generator
COUNT_MISMATCH = 0.10  # relative gap between requests counted and rate x duration
MANY_ERRORS_PCT = 20.0  # error rate from which latencies describe error pages, on whichever side it is


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """What the load generator saw of itself: peak users, and CPU in percent of one core, a value per second."""

    peak_users: int | None = None
    cpu_pct: tuple[float, ...] = ()
    interrupted: str | None = None
    warm_up_s: float | None = None  # cut off the beginning of the run; None where requests are not known


def check_run(
    services: Mapping[str, ServiceStats], profile: LoadProfile, facts: GeneratorFacts, duration_s: float | None
) -> tuple[Check, ...]:
    """Every check of one run, passed ones too."""
    checks = [
        _interrupted(facts),
        _requests(services),
        _load_reached(profile, facts),
        _generator_cpu(facts),
        _warm_up(facts),
        _errors(services),
        *_counts(services, duration_s),
    ]
    return tuple(check for check in checks if check is not None)


def _graded(
    name: str, value: float | str | None, limit: float | str | None, bad: Severity | None, advice: str
) -> Check:
    severity = bad if bad is not None else Severity.OK
    return Check(name, value, limit, severity, advice if bad is not None else "")


def _interrupted(facts: GeneratorFacts) -> Check:
    bad = Severity.INVALID if facts.interrupted else None
    advice = "The run did not end as planned; what was measured is kept, but repeat the run to judge it."
    return _graded("interrupted", facts.interrupted or "no", "no", bad, advice)


def _requests(services: Mapping[str, ServiceStats]) -> Check:
    total = sum(stats.count or 0 for stats in services.values())
    known = all(stats.count is not None for stats in services.values()) and services
    bad = Severity.INVALID if known and total == 0 else Severity.WARN if known and total < FEW_REQUESTS else None
    advice = "No request was measured." if not total else "Run longer or with more users: so few requests say little."
    if not services:
        bad, advice = Severity.INVALID, "No service was measured."
    return _graded("requests", total if known or not services else None, FEW_REQUESTS, bad, advice)


def _errors(services: Mapping[str, ServiceStats]) -> Check | None:
    """Of a run that mostly fails, latencies describe error pages."""
    known = [stats for stats in services.values() if stats.count and stats.failures is not None]
    total = sum(stats.count or 0 for stats in known)
    if not total:
        return None
    share = 100.0 * sum(min(stats.failures or 0, stats.count or 0) for stats in known) / total
    bad = Severity.WARN if share > MANY_ERRORS_PCT else None
    advice = "So many requests failed that latencies describe error pages: look at the errors before the times."
    return _graded("errors", round(share, 2), MANY_ERRORS_PCT, bad, advice)


def _load_reached(profile: LoadProfile, facts: GeneratorFacts) -> Check | None:
    if profile.users is None or facts.peak_users is None:
        return None
    limit = LOAD_REACHED * profile.users
    bad = Severity.INVALID if facts.peak_users < limit else None
    advice = f"Only {facts.peak_users} of {profile.users} users ran: give the run more time or a higher spawn rate."
    return _graded("load_reached", facts.peak_users, limit, bad, advice)


def _generator_cpu(facts: GeneratorFacts) -> Check | None:
    if not facts.cpu_pct:
        return None
    busy = sorted(facts.cpu_pct)[len(facts.cpu_pct) // 2]
    bad = Severity.INVALID if busy > CPU_SATURATED_PCT else None
    advice = "The load generator was saturated, so latencies include its own waiting: use fewer users or FastHttpUser."
    return _graded("generator_cpu", round(busy, 1), CPU_SATURATED_PCT, bad, advice)


def _warm_up(facts: GeneratorFacts) -> Check | None:
    """Not a fault: says what was left out of latencies and rates."""
    if facts.warm_up_s is None:
        return None
    return Check("warm_up", f"{facts.warm_up_s:.1f} s cut off", "a quarter of the run", Severity.OK)


def _counts(services: Mapping[str, ServiceStats], duration_s: float | None) -> list[Check]:
    bad = [name for name, stats in services.items() if (stats.failures or 0) > (stats.count or 0)]
    checks = []
    if bad:
        advice = "More failures than requests: the file contradicts itself."
        checks.append(Check("counts", bad[0], "failures <= requests", Severity.INVALID, advice))
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
