"""May these two sides be compared?  Every answer is a `Check` with its numbers.

Fitness of each run, services that both sides measured, load, outages, units, answers, and whether all runs were made in
the same environment: between the two sides, and among the runs of each (`check_sides`).  Signs that the measurement
differed between the sides, and not only the build, are one sentence (`disturbance`), and change no verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, median

import numpy as np

from perfkit.analysis.coverage import (
    ENOUGH,
    Coverage,
    first_names,
    listed,
    measured,
    named,
    percent,
    renames,
    service_coverage,
)
from perfkit.analysis.noise_profile import PAIR
from perfkit.config.policy import Policy
from perfkit.model.records import (
    DISTURBED,
    LATENCY_METRICS,
    Check,
    Comparison,
    Finding,
    Gap,
    Metric,
    Run,
    Scope,
    Severity,
    Validity,
    Verdict,
    environment_of,
    values_of,
)
from perfkit.runs.validity import FAILING, MANY_ERRORS_PCT, describe_both, misdated, outages, same_on_both
from perfkit.stats.summary import unit_factor

ANOTHER_LOAD = "Measure both sides with the same load script."
LOAD_DIFFERS = 0.10  # relative gap between the users of the two sides
SHARE_DIFFERS = 0.10  # share of the requests from which on services sway what is said of the whole run
SIZE_DIFFERS = 0.20  # relative gap between mean response sizes: these are not the same answers
ERRORS_DIFFER_PP = 10.0  # gap between error rates from which latencies describe error pages
DURATION_DIFFERS = 2.0  # factor between run lengths
OFFERED_DIFFERS = 2.0  # factor by which both requests per second and requests in flight differ, users unknown
PLANNED = {"steady", "ramp", "stages", "spike", "soak", "custom"}  # kinds of load that were asked for, and not guessed
NAMED_AFTER_FILE = ("locust csv", "metrics file")  # what these tools write does not name its scenario
PRECISION_DIFFERS = 2.0  # factor between the steps to which the two sources round
_ROUNDED = (Metric.AVG, Metric.RPS)  # percentiles are rounded to a step that grows with the value
_TITLES = ("baseline", "candidate")


@dataclass(frozen=True, slots=True)
class Comparability:
    """What the two sides have in common, and why some of it may not be claimed."""

    services: tuple[str, ...]  # those that are judged
    checks: tuple[Check, ...]
    not_judged: Mapping[str, str]  # service -> why its latency and throughput are reported, and called nothing
    gaps: tuple[Gap, ...]  # what is missing or in doubt: it hides no finding, and keeps the comparison from being green
    coverage: Coverage
    failing: frozenset[str | None]  # services nearly all of whose requests fail on both sides; `None`: all of them

    @property
    def ok(self) -> bool:
        return Validity(self.checks).ok

    @property
    def warnings(self) -> tuple[str, ...]:
        """What did not pass, in words; what makes the comparison invalid comes first."""
        return tuple(check.advice for check in Validity(self.checks).problems)


def check_sides(
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    policy: Policy | None = None,
    coverage: Coverage | None = None,
) -> Comparability:
    """Whether two sets of runs may be compared.

    Invalid: an unfit run, the same run twice, no common service, judged services that carry too little of the load of
    either side (by evidence only: fixed limits judge what both sides have), and a load that is known to differ.  Of one
    that a summary file merely declares, or that only rate and latency tell of, latency and throughput are not judged.
    """
    policy = policy or Policy()
    if coverage is None:
        coverage = service_coverage(baseline, candidate, policy.alpha)
    services = coverage.services
    load, another_load = _load(baseline, candidate, services)
    not_judged = dict.fromkeys(services, another_load) if another_load else {}
    checks = [*_fitness("baseline", baseline), *_fitness("candidate", candidate)]
    seen: set[str] = set()
    for run in (*baseline, *candidate):
        if (content := run.content_hash or run.id) in seen:
            advice = f"Run {run.id} is given twice: copies of one run are not evidence."
            checks.append(Check("same_run", run.id, "each run once", Severity.INVALID, advice))
        seen.add(content)
    missing = list(missing_services(coverage, policy))
    missing.sort(key=lambda pair: pair[0].severity is Severity.INVALID)
    failing, outages = _outages(baseline, candidate, policy)
    units = list(_units(services, baseline, candidate))
    checks += [*(check for check, _ in missing), *load, *(check for check, _ in outages)]
    for check, _, faster in units:
        checks.append(check)
        not_judged.update(dict.fromkeys(faster, check.advice))  # slower stays slower: a regression is looked at anyway
    for name in services:
        for check in _answers(name, measured(name, baseline), measured(name, candidate)):
            checks.append(check)
            not_judged.setdefault(name, check.advice)
    checks += same_environment(baseline, candidate)
    gaps = (*(gap for _, gap in missing), *(gap for _, gap in outages), *(gap for _, gap, _ in units))
    known = tuple(gap for gap in gaps if gap is not None)
    return Comparability(services, tuple(checks), not_judged, known, coverage, failing)


def have_other_load(baseline: Sequence[Run], candidate: Sequence[Run]) -> bool:
    """Whether the load of two sets of runs is known to differ, so that they may not be compared (see `check_sides`)."""
    checks, _ = _load(baseline, candidate, ())
    return any(check.severity is Severity.INVALID for check in checks)


def _fitness(title: str, runs: Sequence[Run]) -> Iterator[Check]:
    """What the checks of the runs of one side found, a line each: in how many, over which range, and the worst."""
    problems: dict[tuple[str, Severity, str], list[tuple[Run, Check]]] = {}
    for run in runs:
        for check in run.validity.problems:
            text = check.advice if check.name == "counts_and_rate" else ""  # names the service
            problems.setdefault((check.name, check.severity, text), []).append((run, check))
    for occurrences in problems.values():
        run, check = max(occurrences, key=lambda pair: pair[1].value if isinstance(pair[1].value, int | float) else 0.0)
        where, values = f"run {run.id}", f"{check.value}"
        if len(occurrences) > 1:
            numbers = [check.value for _, check in occurrences if isinstance(check.value, int | float)]
            if len(numbers) == len(occurrences) and len(set(numbers)) > 1:
                values = f"{min(numbers)} to {max(numbers)}"
            where = f"in {len(occurrences)} of {len(runs)} runs"
            if check.severity is Severity.INVALID:
                where = f"{where} ({first_names([run.id for run, _ in occurrences])})"
        advice = f"{title}: {check.advice}"
        if check.name != "counts_and_rate":
            advice = f"{title} {where}: {check.name} ({values}). {check.advice}"
        yield Check(f"run_{check.name}", check.value, check.limit, check.severity, advice)


def missing_services(coverage: Coverage, policy: Policy) -> Iterable[tuple[Check, Gap | None]]:
    """What is not measured on both sides; with the gap, where it keeps the comparison from being green."""

    def missing(
        text: str,
        advice: str | None,
        severity: Severity = Severity.WARN,
        value: float | str | None = None,
        services: Iterable[str] = (),
    ) -> tuple[Check, Gap | None]:
        gap = None if advice is None else Gap(text, advice, tuple(services))
        return Check("services", value, ENOUGH, severity, text), gap

    renamed = tuple(renames(coverage.absences))
    strict = policy.rule == "evidence"
    worst = Severity.INVALID if strict else Severity.WARN
    alone = [item for item in coverage.absences if item.alias is None]
    rare = [item for item in alone if not item.is_new and item.is_chance(policy.alpha)]
    gone = [item for item in alone if item.is_whole and not item.is_new and item not in rare]
    new = [item for item in alone if item.is_new]
    before, after = coverage.shares
    if not coverage.services:
        text = " ".join(("The two sides have no service in common.", *(text for text, _, _ in renamed)))
        yield missing(text, " ".join(advice for _, advice, _ in renamed) or ANOTHER_LOAD, Severity.INVALID, 0.0)
        return
    if (before is None or after is None) and coverage.absences:
        text = f"Not measured on both sides: {listed(coverage.absences)}. How many requests they carry is not known."
        yield missing(text, ANOTHER_LOAD, worst, "unknown share")
    elif before is not None and after is not None and min(before, after) < ENOUGH and (strict or not (renamed or gone)):
        what = "and nothing can be judged" if strict else "which changes the load of the rest"
        text = (
            f"The services that both sides measured carry {percent(before)} of the baseline's and {percent(after)} of "
            f"the candidate's requests: another load was measured, {what}."
        )
        yield missing(text, "" if renamed or gone else ANOTHER_LOAD, worst, round(min(before, after), 3))
    for text, advice, old in renamed:
        yield missing(text, advice, services=old)
    if gone:
        verb = "it was" if len(gone) == 1 else "they were"
        yield missing(
            f"Not measured in the candidate: {listed(gone, 'the baseline')}.",
            f"Find out why {named(gone)} got no request; if {verb} removed on purpose, measure a new baseline.",
            services=(item.service for item in gone),
        )
    for item in alone:
        if not item.is_whole and item not in rare:
            runs = f"{item.lacking} of {item.runs} runs of the {item.side}"
            text = f"{item.service}: no request in {runs}, so it is judged by the others."
            yield missing(text, f"Find out why {item.service} got no request there.")
    whole = [item for item in coverage.absences if item.is_whole and not item.is_new]
    if limited := [item for item in whole if item.service in policy.limited_services]:
        yield missing(f"The policy has limits for {named(limited)}, of which the candidate has no request.", "", worst)
    if new:
        yield missing(f"New in the candidate, so left out: {listed(new, 'the candidate')}.", None)
    if rare:
        yield missing(f"Called so rarely that chance explains runs without them, so left out: {listed(rare)}.", None)


def _load(
    baseline: Sequence[Run], candidate: Sequence[Run], services: tuple[str, ...]
) -> tuple[list[Check], str | None]:
    """Whether both sides had the same load; and why nothing is judged that depends on it, where that is in doubt."""
    sides = (baseline, candidate)
    users = [{run.profile.users for run in runs if run.profile.users} for runs in sides]
    checks: list[Check] = []
    if users[0] and users[1]:
        low, high = min(users[0] | users[1]), max(users[0] | users[1])
        if high - low > LOAD_DIFFERS * high:
            texts = ["1 user" if len(u) == 1 and 1 in u else f"{'/'.join(map(str, sorted(u)))} users" for u in users]
            is_declared = any(run.profile.kind == "declared" for run in (*baseline, *candidate))
            severity = Severity.WARN if is_declared else Severity.INVALID
            why = "Latency and throughput at different loads say nothing about the build."
            check = _differs("load", "The load", texts, why, severity, LOAD_DIFFERS)
            return [check], check.advice if is_declared else None
    else:
        checks += _offered_load(baseline, candidate, services)
    reason = checks[0].advice if checks else None
    kinds: list[set[str]] = [set(), set()]
    for runs, of_side in zip(sides, kinds, strict=True):
        for profile in (run.profile for run in runs if run.profile.kind in PLANNED):
            kind = "steady" if profile.kind == "soak" else profile.kind
            text = f"{kind} at {profile.rate:g}/s" if profile.is_open else kind
            if profile.kind != "soak" and profile.stages:
                text = ", ".join(stage.describe(profile.unit) for stage in profile.stages)
            of_side.add(text)
    if all(kinds) and kinds[0] != kinds[1]:
        why = "Averages over different courses of load say nothing about the build."
        texts = ["/".join(sorted(side)) for side in kinds]
        checks.append(_differs("load_profile", "The load", texts, why, Severity.INVALID))
    lengths = [[run.duration_s for run in runs if run.duration_s] for runs in sides]
    if all(lengths):
        before, after = (sum(side) / len(side) for side in lengths)
        factor = max(before, after) / min(before, after)
        if factor > DURATION_DIFFERS:
            advice = f"Runs last {before:.0f} s in the baseline and {after:.0f} s in the candidate."
            checks.append(Check("duration", round(factor, 2), DURATION_DIFFERS, Severity.WARN, advice))
    return checks, reason


def _differs(
    name: str,
    what: str,
    sides: Sequence[str],
    why: str = "",
    severity: Severity = Severity.WARN,
    limit: float | str = "same",
) -> Check:
    """That something is not the same on both sides, and what that means."""
    advice = f"{what} differs: {sides[0]} in the baseline, {sides[1]} in the candidate. {why}".rstrip()
    return Check(name, " / ".join(sides), limit, severity, advice)


def _offered_load(baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str]) -> Iterable[Check]:
    """Where nobody says how many users there were: requests per second and requests in flight.

    By Little's law (doi:10.1287/opre.9.3.383) a rate times its mean time is the number of requests in flight.  A slower
    build lowers the one and raises the other, or leaves one as it was; only another load moves both alike.
    """
    loads = []
    for runs in (baseline, candidate):
        rate = flight = 0.0
        for stats in (run.services[name] for run in runs for name in services if name in run.services):
            if stats.rps is None or stats.avg_latency_ms is None:
                return
            rate += stats.rps / len(runs)
            flight += stats.rps * stats.avg_latency_ms / 1000 / len(runs)
        if rate <= 0 or flight <= 0:
            return
        loads.append((rate, flight))
    before, after = loads
    factors = [after[i] / before[i] for i in range(2)]
    if min(factors) >= OFFERED_DIFFERS or max(factors) <= 1 / OFFERED_DIFFERS:
        advice = (
            f"The load differs: {before[0]:.3g} requests/s and {before[1]:.2g} in flight in the baseline, "
            f"{after[0]:.3g} requests/s and {after[1]:.2g} in flight in the candidate. A build alone does not change "
            "both this way, so latency and throughput are not judged."
        )
        yield Check("load", round(factors[0], 3), OFFERED_DIFFERS, Severity.WARN, advice)


def _outages(
    baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy
) -> tuple[frozenset[str | None], list[tuple[Check, Gap]]]:
    """What nearly always fails: on one side its error rate is judged; on both there is nothing to compare."""
    before, after = outages(baseline), outages(candidate)
    failing, problems = set[str | None](), []
    for outage, other in same_on_both(before, after):
        failing.add(outage.service)
        # Fixed limits still judge the other services
        is_partly = policy.rule == "threshold" and outage.service is not None
        text = f"{describe_both(outage, other)}: there is nothing to compare."
        advice = "Look at the errors first, and measure both sides again when they are gone."
        problems.append((other.share, Severity.WARN if is_partly else Severity.INVALID, text, advice))
    for title, side in zip(_TITLES, (before, after), strict=True):
        advice = "Look at the errors first." if title == "candidate" else "Measure a baseline that does not fail."
        for outage in (outage for outage in side if outage.service not in failing):
            text = f"{outage.describe(title)}: latencies are withheld."
            problems.append((outage.share, Severity.WARN, text, advice))
    return frozenset(failing), [
        (Check("error_pages", round(100 * share, 2), 100 * FAILING, severity, text), Gap(text, advice))
        for share, severity, text, advice in problems
    ]


def _units(
    services: Sequence[str], baseline: Sequence[Run], candidate: Sequence[Run]
) -> Iterable[tuple[Check, Gap, tuple[str, ...]]]:
    """Runs all of whose latencies are about a thousand times, or a thousandth of, what the baseline usually has.

    Each with the services that seem faster by it, of which nothing is claimed.
    """
    groups: dict[tuple[str, bool], list[tuple[str, float]]] = {}
    for service in services:
        having = [[run.services[service] for run in measured(service, side)] for side in (baseline, candidate)]
        usual: dict[Metric, float] = {}  # the median over runs of each latency that is above zero
        for metric in LATENCY_METRICS:
            if values := [value for value in values_of(having[0], metric) if value]:
                usual[metric] = median(values)
        for title, runs in zip(_TITLES, having, strict=True):
            factors: list[float] = []
            for of_run in zip(*(values_of(runs, metric) for metric in usual), strict=True):
                of_metrics = [value / level for value, level in zip(of_run, usual.values(), strict=True) if value]
                if factor := unit_factor(of_metrics):
                    factors.append(factor)
            for slower in (True, False):
                if off := [factor for factor in factors if (factor > 1) == slower]:
                    partly = f"{len(off)} of {len(runs)} runs of " if len(off) < len(runs) else ""
                    groups.setdefault((f"{partly}the {title}", slower), []).append((service, fmean(off)))
    for (where, slower), affected in groups.items():
        names, mean = [service for service, _ in affected], fmean(factor for _, factor in affected)
        size = f"{mean:,.0f} times" if slower else f"{mean:.2g} times"
        text = (
            f"Every latency of {first_names(names)} in {where} is about {size} that of the baseline: "
            "a unit mistake, seconds or microseconds for milliseconds?"
        )
        advice = "Make sure that both sides are in milliseconds; if the change is real, look at what is measured."
        check = Check("units", float(f"{mean:.3g}"), "a factor of about 1,000", Severity.WARN, text)
        yield check, Gap(text, advice), () if slower else tuple(names)


def _answers(name: str, baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterable[Check]:
    """Whether the answers of a service are the same: their mean size, and how many of them are errors."""

    def mean(attribute: str, runs: Sequence[Run]) -> float | None:
        values = [value for run in runs if (value := getattr(run.services[name], attribute)) is not None]
        return sum(values) / len(values) if values else None

    sizes, rates = ([mean(a, runs) for runs in (baseline, candidate)] for a in ("response_bytes", "error_rate_pct"))
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


def same_environment(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterator[Check]:
    """Warnings where scenario, tool, load script, environment, precision or clocks differ.

    A fact that differs among the runs of one side is a hidden dimension: it is named, with what it does to latency,
    because it widens every interval and may be the whole difference.
    """
    facts = [[_facts(run) for run in runs] for runs in (baseline, candidate)]
    for name in sorted({name for side in facts for of_run in side for name in of_run}):
        mixed = [*_mixed("baseline", name, baseline), *_mixed("candidate", name, candidate)]
        yield from mixed
        before, after = (next((of_run[name] for of_run in side if name in of_run), None) for side in facts)
        if mixed or name.startswith("label ") or before is None or after is None or before == after:
            continue
        yield _differs(
            _check_name(name), f"{name[0].upper()}{name[1:]}", [_short(name, side) for side in (before, after)]
        )
    for metric in _ROUNDED:
        steps = [
            max((stats.resolutions.get(metric, 0.0) for run in runs for stats in run.services.values()), default=0.0)
            for runs in (baseline, candidate)
        ]
        if max(steps) > PRECISION_DIFFERS * min(steps):
            texts = [f"to {step:g} {metric.unit}" if step else "exactly" for step in steps]
            advice = (
                f"Precision differs: {metric.title} is known {texts[0]} in the baseline, {texts[1]} in the candidate. "
                "The rounding is counted as error."
            )
            yield Check(f"precision_{metric}", " / ".join(texts), PRECISION_DIFFERS, Severity.WARN, advice)
    now = datetime.now(UTC)
    if wrong := {run.id: text for run in (*baseline, *candidate) if (text := misdated(run.started_at, now))}:
        first, text = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more such runs)" if len(wrong) > 1 else ""
        advice = f"Run {first} is {text}{more}: a clock was wrong. It is never taken for the newest of its history."
        yield Check("clock", text, "the present", Severity.WARN, advice)


def _facts(run: Run) -> dict[str, str]:
    """How a run was made, by name; labels too, which may differ between the sides."""
    facts = environment_of(run)
    if run.tool not in NAMED_AFTER_FILE:
        facts["scenario"] = run.scenario
    return facts | {f"label {key}": str(value) for key, value in run.labels.items() if value}


def _mixed(title: str, name: str, runs: Sequence[Run]) -> Iterator[Check]:
    """A fact in which the runs of one side differ, with the mean change of latency between its two largest groups."""
    fact_of_run = [(run, facts[name]) for run in runs if name in (facts := _facts(run))]
    counts = Counter(value for _, value in fact_of_run)
    if len(counts) < 2 or (name.startswith("label ") and len(counts) == len(fact_of_run)):
        return  # a label that no two runs share tells them apart and groups nothing
    groups = ", ".join(f"{_short(name, value)} in {count}" for value, count in counts.most_common())
    sides = [[run for run, value in fact_of_run if value == group] for group, _ in counts.most_common(2)]
    services = [name for name in sides[0][0].services if all(name in run.services for side in sides for run in side)]
    # Geometric means of average latencies, services weighing alike
    logs = [
        np.log([run.services[name].avg_latency_ms or np.nan for run in side for name in services]) for side in sides
    ]
    before, after = (float(np.mean(values)) if values.size else np.nan for values in logs)
    change = 100.0 * float(np.expm1(after - before))
    effect = f" (average latency {change:+.1f} % from the first to the second)" if np.isfinite(change) else ""
    advice = (
        f"Runs of the {title} differ among themselves: {name} is {groups}{effect}. "
        "Compare runs that were made alike, or give each kind a comparison of its own."
    )
    yield Check(f"mixed_{_check_name(name)}", groups, "same", Severity.WARN, advice)


def _check_name(name: str) -> str:
    return name.replace(": ", "_").replace(" ", "_")


def _short(name: str, value: str) -> str:
    return value[:12] if name == "load script" else value  # a digest by its beginning


MACHINE = ("environment: cpu", "environment: cores", "environment: machine", "environment: memory")


def machine_text(of: Mapping[str, str], parts: Sequence[str]) -> str | None:
    """Those parts of a machine in words; ``None`` where none of them is known."""
    texts = [f"{of[name]} cores" if name.endswith("cores") else of[name] for name in parts if name in of]
    return ", ".join(texts) or None


def machine_of(run: Run) -> str:
    """Processor, cores and kind of the machine of a run, in words; empty where nothing is known of it."""
    return machine_text(environment_of(run), MACHINE) or ""


def machine_advice(comparison: Comparison) -> str:
    """What to do about a regression of candidates that ran on another machine than the baseline; else empty."""
    machines = [list(dict.fromkeys(map(machine_of, side.runs))) for side in (comparison.baseline, comparison.candidate)]
    if comparison.verdict is not Verdict.REGRESSION or not all(map(all, machines)):
        return ""
    if not set(machines[1]) - set(machines[0]):
        return ""
    return (
        f"The candidate ran on another machine ({', '.join(machines[1][:2])}) than the baseline "
        f"({', '.join(machines[0][:2])}): repeat it there, or measure both on one machine."
    )


# Disturbance ----------------------------------------------------------------------------------------------------------

GENERATOR = ("generator_stalled", "event_loop_lag", "generator_cpu", "clock")
"""Checks of the generator and its machine: what they find is no build's work."""
EITHER = ("silence", "drift", "error_burst", "late_arrivals")
"""Checks of what a build may have done as well as the machine."""
OFTEN = 0.5  # share of a side's runs in which a check warns, and in no run of the other
FEWEST_SERVICES = 3  # that move alike: two may well do so by chance
ALIKE = 0.2  # standard deviation of their shifts (log scale), as a part of the mean shift
MOVED = 0.05  # mean shift (log scale) from which on it is worth a sentence


def disturbance(baseline: Sequence[Run], candidate: Sequence[Run], findings: Sequence[Finding]) -> Check | None:
    """The warning of one sentence, or ``None``: one side alone was disturbed, or independent services moved alike.

    Runs made one side after the other differ in whatever the machine, the network and the generator went through
    meanwhile.  A regression stays one, and its size is in doubt.  Runs made in pairs need none of it.
    """
    runs = (*baseline, *candidate)
    if all(PAIR in run.labels for run in runs):
        return None
    again = f"measure both sides in turn: perfkit run {runs[-1].scenario} --compare-with ..."
    moved = _moved_alike(findings)
    also = f", and {moved}" if moved is not None else ""
    for names, begin, end in (
        (GENERATOR, "The {} was disturbed", ", so effects are distorted"),
        (EITHER, "Unless the build explains it, the {} was disturbed", ""),
    ):
        for name in names:  # warns in many runs of one side, and in none of the other
            counts = [
                sum(any(check.name == name for check in run.validity.problems) for run in runs)
                for runs in (baseline, candidate)
            ]
            for i, count, size in ((0, counts[0], len(baseline)), (1, counts[1], len(candidate))):
                if count and count >= OFTEN * size and not counts[1 - i]:
                    what = (
                        f"{name.replace('_', ' ')} in {count} of its {size} runs and in none of the {_TITLES[1 - i]}'s"
                    )
                    text = f"{begin.format(_TITLES[i])} ({what}){also}{end}; {again}"
                    return Check(DISTURBED, f"{what}{also}", "both sides alike", Severity.WARN, text)
    if moved is None:
        return None
    text = f"{moved[:1].upper()}{moved[1:]}: that speaks for what they share, such as the machine; {again}"
    return Check(DISTURBED, moved, "both sides alike", Severity.WARN, text)


def _moved_alike(findings: Sequence[Finding]) -> str | None:
    """That the average latencies of all services moved by nearly one factor, each beyond chance."""
    averages = [
        finding
        for finding in findings
        if finding.metric == Metric.AVG and finding.scope is Scope.SERVICE and not finding.objective
    ]
    shifts = [
        float(np.log1p((finding.change_pct or 0.0) / 100))
        for finding in averages
        if finding.ci_low is not None and finding.ci_high is not None and finding.ci_low * finding.ci_high > 0
    ]
    services = {finding.service for finding in averages}
    if len(services) < FEWEST_SERVICES or len(shifts) < len(averages):
        return None
    mean = float(np.mean(shifts))
    if abs(mean) < MOVED or float(np.std(shifts, ddof=1)) > ALIKE * abs(mean) or min(shifts) * max(shifts) <= 0:
        return None
    low, high = (100 * float(np.expm1(end)) for end in (min(shifts), max(shifts)))
    return f"all {len(services)} services moved alike (average latency {low:+.0f} % to {high:+.0f} %)"
