"""May this run be judged, and may these two sides be compared?  Every answer is a `Check` with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from perfkit.model import Check, LoadProfile, Run, ServiceStats, Severity

FEW_REQUESTS = 100  # a run with fewer says little about anything but its mean
LOAD_REACHED = 0.9  # share of the asked-for users that must have run
CPU_SATURATED_PCT = 90.0  # Locust itself warns from here on: latencies then include waiting for the generator
COUNT_MISMATCH = 0.10  # relative gap between requests counted and rate x duration
LOAD_DIFFERS = 0.10  # relative gap between the users of the two sides
SHARE_DIFFERS = 0.10  # gap between the shares of requests that the common services carry
SIZE_DIFFERS = 0.20  # relative gap between mean response sizes: these are not the same answers
ERRORS_DIFFER_PP = 10.0  # gap between error rates from which latencies describe error pages
MANY_ERRORS_PCT = 20.0  # error rate from which latencies describe error pages, on whichever side it is
DURATION_DIFFERS = 2.0  # factor between run lengths
NAMED_AFTER_FILE = ("locust csv", "metrics file")  # what these tools write does not name its scenario


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


@dataclass(frozen=True, slots=True)
class Comparability:
    """What the two sides have in common, and why some of it may not be claimed.

    ``services`` are those on both sides.  ``capped`` maps a service to the reason why its latency and throughput may be
    reported but not called a regression or an improvement.
    """

    services: tuple[str, ...]
    checks: tuple[Check, ...]
    capped: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """False when any check makes the comparison invalid."""
        return all(check.severity is not Severity.INVALID for check in self.checks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What did not pass, in words."""
        return tuple(check.advice for check in self.checks if check.severity is not Severity.OK)


def check_sides(baseline: Sequence[Run], candidate: Sequence[Run]) -> Comparability:
    """Whether two sets of runs may be compared.

    Invalid: a side without runs, an unfit run, the same run twice, no common service, services that carry different
    shares of the load, and a load that is known to differ.  A load that a summary file merely declares caps the
    verdicts on latency and throughput at ``inconclusive`` instead.
    """
    common = _common_services(baseline, candidate)
    load, cap_all = _load(baseline, candidate)
    capped = dict.fromkeys(common, cap_all) if cap_all else {}
    checks = [
        *_fit(baseline, candidate),
        *_same_run(baseline, candidate),
        *_services(baseline, candidate, common),
        *load,
    ]
    for name in common:
        for check in _same_answers(name, baseline, candidate):
            checks.append(check)
            capped.setdefault(name, check.advice)
    checks += _surroundings(baseline, candidate)
    return Comparability(common, tuple(checks), capped)


def _common_services(baseline: Sequence[Run], candidate: Sequence[Run]) -> tuple[str, ...]:
    every = [run.services for run in (*baseline, *candidate)]
    if not baseline or not candidate:
        return ()
    return tuple(name for name in every[0] if all(name in services for services in every))


def _fit(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    for title, runs in (("baseline", baseline), ("candidate", candidate)):
        if not runs:
            yield Check("runs", 0, 1, Severity.INVALID, f"The {title} has no runs.")
        for run in runs:
            for check in run.validity.problems:
                advice = f"{title} run {run.id}: {check.name} ({check.value}). {check.advice}"
                if check.name == "counts_and_rate":
                    advice = f"{title}: {check.advice}"
                yield Check(f"run_{check.name}", check.value, check.limit, check.severity, advice)


def _same_run(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    seen: dict[str, str] = {}
    for run in (*baseline, *candidate):
        key = run.content_hash or run.id
        if key in seen:
            advice = f"Run {run.id} is given twice: copies of one run are not evidence."
            yield Check("same_run", run.id, "each run once", Severity.INVALID, advice)
        seen[key] = run.id


def _services(baseline: Sequence[Run], candidate: Sequence[Run], common: tuple[str, ...]) -> Iterable[Check]:
    if not baseline or not candidate:
        return
    names = {name for run in (*baseline, *candidate) for name in run.services}
    missing = sorted(names - set(common))
    if not common:
        yield Check("services", 0, 1, Severity.INVALID, "The two sides have no service in common.")
    elif missing:
        left_out = f"Not in every run, so left out: {', '.join(missing)}. "
        before, after = (_share(runs, common) for runs in (baseline, candidate))
        if before is None or after is None:
            advice = left_out + "How many requests they carry is not known, so nothing can be claimed for the whole."
            yield Check("services", "unknown share", SHARE_DIFFERS, Severity.INVALID, advice)
            return
        gap = abs(before - after)
        bad = Severity.INVALID if gap > SHARE_DIFFERS else Severity.WARN
        advice = (
            f"{left_out}The common services carry {before:.0%} of the baseline's and {after:.0%} of the candidate's "
            "requests."
        )
        yield Check("services", round(gap, 3), SHARE_DIFFERS, bad, advice)


def _share(runs: Sequence[Run], common: tuple[str, ...]) -> float | None:
    """Share of all requests that the common services carry; ``None`` where a count is not known."""
    if any(stats.count is None for run in runs for stats in run.services.values()):
        return None
    total = sum(stats.count or 0 for run in runs for stats in run.services.values())
    kept = sum(run.services[name].count or 0 for run in runs for name in common)
    return kept / total if total else None


def _load(baseline: Sequence[Run], candidate: Sequence[Run]) -> tuple[list[Check], str | None]:
    users = [{run.profile.users for run in runs if run.profile.users} for runs in (baseline, candidate)]
    declared = any(run.profile.kind == "declared" for run in (*baseline, *candidate))
    checks: list[Check] = []
    if users[0] and users[1]:
        low, high = min(users[0] | users[1]), max(users[0] | users[1])
        if high - low > LOAD_DIFFERS * high:
            texts = ["1 user" if len(u) == 1 and 1 in u else f"{'/'.join(map(str, sorted(u)))} users" for u in users]
            advice = f"The load differs: {texts[0]} in the baseline, {texts[1]} in the candidate. "
            advice += "Latency and throughput at different loads say nothing about the build."
            severity = Severity.WARN if declared else Severity.INVALID
            checks.append(Check("load", f"{texts[0]} / {texts[1]}", LOAD_DIFFERS, severity, advice))
            return checks, advice if declared else None
    checks += _durations(baseline, candidate)
    return checks, None


def _durations(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    known = [[run.duration_s for run in runs if run.duration_s] for runs in (baseline, candidate)]
    if known[0] and known[1]:
        means = [sum(side) / len(side) for side in known]
        factor = max(means) / min(means)
        if factor > DURATION_DIFFERS:
            advice = f"Runs last {means[0]:.0f} s in the baseline and {means[1]:.0f} s in the candidate."
            yield Check("duration", round(factor, 2), DURATION_DIFFERS, Severity.WARN, advice)


def _same_answers(name: str, baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    sizes = [_mean(run.services[name].response_bytes for run in runs) for runs in (baseline, candidate)]
    rates = [_mean(run.services[name].error_rate_pct for run in runs) for runs in (baseline, candidate)]
    if sizes[0] and sizes[1] is not None and abs(sizes[1] / sizes[0] - 1.0) > SIZE_DIFFERS:
        gap = sizes[1] / sizes[0] - 1.0
        advice = f"{name}: mean response size changed by {gap:+.0%} ({sizes[0]:.0f} -> {sizes[1]:.0f} bytes): "
        yield Check("response_size", round(gap, 3), SIZE_DIFFERS, Severity.WARN, advice + "not the same answers.")
    if rates[0] is not None and rates[1] is not None and abs(rates[1] - rates[0]) > ERRORS_DIFFER_PP:
        advice = f"{name}: {rates[0]:.1f} % errors against {rates[1]:.1f} %: latencies partly describe error pages."
        yield Check("error_pages", round(rates[1] - rates[0], 2), ERRORS_DIFFER_PP, Severity.WARN, advice)
    elif (worst := max(rates[0] or 0.0, rates[1] or 0.0)) > MANY_ERRORS_PCT:
        advice = f"{name}: {worst:.1f} % errors: latencies describe error pages, and are not judged."
        yield Check("error_pages", round(worst, 2), MANY_ERRORS_PCT, Severity.WARN, advice)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _surroundings(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    guessed = any(run.tool in NAMED_AFTER_FILE for run in (*baseline, *candidate))
    for name in ("tool",) if guessed else ("scenario", "tool"):
        sides = [
            sorted({str(getattr(run, name)) for run in runs if getattr(run, name)}) for runs in (baseline, candidate)
        ]
        if sides[0] and sides[1] and sides[0] != sides[1]:
            advice = f"Different {name}: {', '.join(sides[0])} in the baseline, {', '.join(sides[1])} in the candidate."
            yield Check(name, " / ".join((sides[0][0], sides[1][0])), "same", Severity.WARN, advice)
    keys = sorted({key for run in (*baseline, *candidate) for key in run.environment})
    for key in keys:
        found = [
            sorted({run.environment[key] for run in runs if key in run.environment}) for runs in (baseline, candidate)
        ]
        if found[0] and found[1] and found[0] != found[1]:
            before, after = (", ".join(values) for values in found)
            advice = f"Environment differs: {key} is {before} in the baseline, {after} in the candidate."
            yield Check(f"environment_{key}", " / ".join((found[0][0], found[1][0])), "same", Severity.WARN, advice)
