"""May these two sides be compared?  Every answer is a `Check` with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from perfkit.alike import check_alike
from perfkit.model import Check, Run, Severity
from perfkit.validity import MANY_ERRORS_PCT

LOAD_DIFFERS = 0.10  # relative gap between the users of the two sides
SHARE_DIFFERS = 0.10  # gap between the shares of requests that the common services carry
SIZE_DIFFERS = 0.20  # relative gap between mean response sizes: these are not the same answers
ERRORS_DIFFER_PP = 10.0  # gap between error rates from which latencies describe error pages
DURATION_DIFFERS = 2.0  # factor between run lengths
OFFERED_DIFFERS = 2.0  # factor by which both requests per second and requests in flight differ, users unknown
PLANNED = {
    "steady",
    "ramp",
    "stages",
    "spike",
    "soak",
    "custom",
}  # kinds of load that were asked for, and not guessed from a file


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
    shares of the load, and a load that is known to differ.  A load that a summary file merely declares, or that only
    rate and latency tell of, caps the verdicts on latency and throughput at ``inconclusive`` instead.
    """
    common = _common_services(baseline, candidate)
    load, cap_all = _load(baseline, candidate, common)
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
    checks += check_alike(baseline, candidate)
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


def _load(baseline: Sequence[Run], candidate: Sequence[Run], common: tuple[str, ...]) -> tuple[list[Check], str | None]:
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
            check = Check("load", f"{texts[0]} / {texts[1]}", LOAD_DIFFERS, severity, advice)
            return [check], advice if declared else None
    elif not (users[0] and users[1]):
        checks += _offered_load(baseline, candidate, common)
    reason = checks[0].advice if checks else None
    checks += _kind_of_load(baseline, candidate)
    checks += _durations(baseline, candidate)
    return checks, reason


def _offered_load(baseline: Sequence[Run], candidate: Sequence[Run], common: tuple[str, ...]) -> Iterable[Check]:
    """Where nobody says how many users there were: requests per second and requests in flight.

    By Little's law (doi:10.1287/opre.9.3.383) a rate times its mean time is the number of requests in flight.  A slower
    build lowers the one and raises the other, or leaves one as it was; only another load moves both alike.
    """
    before, after = (_in_flight(runs, common) for runs in (baseline, candidate))
    if before is None or after is None:
        return
    factors = [after[i] / before[i] for i in range(2)]
    if min(factors) >= OFFERED_DIFFERS or max(factors) <= 1 / OFFERED_DIFFERS:
        advice = (
            f"The load differs: {before[0]:.3g} requests/s and {before[1]:.2g} in flight in the baseline, "
            f"{after[0]:.3g} requests/s and {after[1]:.2g} in flight in the candidate. A build alone does not change "
            "both this way, so latency and throughput are not judged."
        )
        yield Check("load", round(factors[0], 3), OFFERED_DIFFERS, Severity.WARN, advice)


def _in_flight(runs: Sequence[Run], common: tuple[str, ...]) -> tuple[float, float] | None:
    """Requests per second and in flight over the common services, mean over runs; ``None`` where not known."""
    rate = flight = 0.0
    for stats in (run.services[name] for run in runs for name in common):
        if stats.rps is None or stats.avg_latency_ms is None:
            return None
        rate += stats.rps / len(runs)
        flight += stats.rps * stats.avg_latency_ms / 1000 / len(runs)
    return (rate, flight) if rate > 0 and flight > 0 else None


def _course(run: Run) -> str:
    """What kind of load it was: closed or open, its kind, and where the load changes its whole course."""
    profile = run.profile
    if profile.kind == "soak" or not profile.stages:
        kind = "steady" if profile.kind == "soak" else profile.kind
        return f"{kind} at {profile.rate:g}/s" if profile.is_open else kind
    return ", ".join(stage.describe(profile.unit) for stage in profile.stages)


def _kind_of_load(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    kinds = [sorted({_course(run) for run in runs if run.profile.kind in PLANNED}) for runs in (baseline, candidate)]
    if kinds[0] and kinds[1] and set(kinds[0]) != set(kinds[1]):
        words = ["/".join(side) for side in kinds]
        advice = f"The load differs: {words[0]} in the baseline, {words[1]} in the candidate. "
        advice += "Averages over different courses of load say nothing about the build."
        yield Check("load_profile", " / ".join(words), "same", Severity.INVALID, advice)


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
