"""Do the requests of a run describe the target, all through the run?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from perfkit.consistency import run_contradiction
from perfkit.load_profile import LoadProfile
from perfkit.model import Check, ServiceStats, Severity
from perfkit.stats.within_run import Burst, Drift, WithinRun
from perfkit.validity.facts import graded

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
