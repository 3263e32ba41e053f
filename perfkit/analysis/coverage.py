"""What of two sides is compared: the services that both measured, in their stages, and the run as a whole.

A service that is gone is not agreement: it keeps a comparison from being green unless chance explains it.  One that is
new is named and not judged.  One that is gone beside one that is new may be the same under another name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from perfkit.config.policy import Policy
from perfkit.model.records import (
    ALL_SERVICES,
    LATENCY_METRICS,
    Gate,
    Metric,
    Run,
    ServiceShare,
    ServiceStats,
    staged_label,
    standard_errors_of,
    values_of,
)
from perfkit.stats.effect import PRIOR_SD, overdispersion

ENOUGH = 0.80  # share of the requests of either side that the judged services must carry
MOST_NAMED = 5  # services in a sentence
LONGEST_NAME = 80  # characters of a name in a sentence
MOST_COMPARED = 60  # names whose likeness is worked out letter by letter
ALIKE = 0.60  # likeness of two names from which on one may be the other
SAME_SHARE = 0.75  # of two services, the smaller share over the larger one: called about as often as each other


@dataclass(frozen=True, slots=True)
class Absence:
    """A service that ``lacking`` of the ``runs`` runs of one ``side`` (``baseline`` or ``candidate``) do not have."""

    service: str
    side: str
    lacking: int
    runs: int
    # of the requests of the runs that have it, 0 to 1; ``None`` where counts are not known, as the next
    share: float | None
    # chance that the lacking runs hold no request of it, were it called as often as in the others
    p_value: float | None
    alias: str | None = None  # the service of the other side that may be the same under another name

    @property
    def is_whole(self) -> bool:
        """No run of its side has the service."""
        return self.lacking == self.runs

    @property
    def is_new(self) -> bool:
        """Only the candidate has the service."""
        return self.is_whole and self.side == "baseline"

    def is_chance(self, alpha: float) -> bool:
        """So rarely called that its absence is no less likely than ``alpha``."""
        return self.p_value is not None and self.p_value >= alpha


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of two sides can be compared."""

    services: tuple[str, ...]  # those that are judged: measured on both sides, perhaps not in every run
    absences: tuple[Absence, ...]  # in the order of the names in the runs
    # of the requests of each side, 0 to 1, that these carry; ``None``: not known
    shares: tuple[float | None, float | None]
    # shares of the baseline's load that is gone and of the candidate's that is new: so much may throughput move
    turnover: tuple[float, float] = (0.0, 0.0)


def measured(service: str, runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs that hold requests of a service, as far as is known."""
    having = [run for run in runs if (stats := run.services.get(service)) is not None and stats.count != 0]
    return tuple(having)


def service_coverage(baseline: Sequence[Run], candidate: Sequence[Run], alpha: float) -> Coverage:
    """Which services to judge (by the runs that have them, unless chance explains it) and which are missing where."""
    runs = (*baseline, *candidate)
    names = tuple(dict.fromkeys(name for run in runs for name in run.services))
    having = {name: tuple(measured(name, side) for side in (baseline, candidate)) for name in names}
    # How much load each run carried: requests of the services that all runs have, else its length, else one run
    complete = [name for name in names if sum(map(len, having[name])) == len(runs)]
    counts = [[run.services[name].count for name in complete] for run in runs]
    carried = [run.duration_s or 1.0 for run in runs] if all(run.duration_s for run in runs) else [1.0] * len(runs)
    if complete and all(None not in of_run for of_run in counts):
        carried = [float(sum(count or 0 for count in of_run)) for of_run in counts]
    loads = {id(run): load for run, load in zip(runs, carried, strict=True)}
    judged: list[str] = []
    absences: list[Absence] = []
    for name in names:
        before, after = having[name]
        missing = []
        for title, side, have, other in (
            ("baseline", baseline, before, candidate),
            ("candidate", candidate, after, baseline),
        ):
            if len(have) < len(side) and (before or after) and (not have or (before and after)):
                # Of a service that its side has nowhere, the other side tells the rate, runs without a request included
                reference = (*before, *after) if have else other
                lacking = [run for run in side if not any(run is having_it for having_it in have)]
                share = _share(measured(name, reference), (name,))
                chance = _chance_of_none(name, reference, lacking, loads)
                missing.append(Absence(name, title, len(lacking), len(side), share, chance))
        absences += missing
        if before and after and not (missing and all(item.is_chance(alpha) for item in missing)):
            judged.append(name)
    shares = _share(baseline, judged, ("count",)), _share(candidate, judged, ("count",))
    gone = {item.service: item for item in absences if item.is_whole and not item.is_new}
    new = {item.service: item.share for item in absences if item.is_new}
    turnover = _load_share(baseline, gone), _load_share(candidate, new)
    pairs = renamed_pairs({name: item.share for name, item in gone.items() if not item.is_chance(alpha)}, new)
    aliases = pairs | {now: before for before, now in pairs.items()}
    absences = [replace(a, alias=aliases.get(a.service)) if a.is_whole else a for a in absences]
    return Coverage(tuple(judged), tuple(absences), shares, turnover)


def _chance_of_none(
    name: str, reference: Sequence[Run], lacking: Sequence[Run], loads: Mapping[int, float]
) -> float | None:
    """Chance that the lacking runs hold no request of a service that is called as often as in the reference.

    Counts of runs scatter more than a Poisson count; with ``factor`` times its variance (negative binomial), none come
    of ``expected`` with probability ``factor ** (-expected / (factor - 1))``.
    """
    counts = []
    for run in reference:
        stats = run.services.get(name)
        count = 0.0 if stats is None else stats.count
        if count is None and stats is not None and stats.rps is not None and run.duration_s:
            count = stats.rps * run.duration_s
        if count is None:
            return None
        counts.append(float(count))
    called, load = np.array(counts), np.array([loads[id(run)] for run in reference])
    if not called.sum() or not load.sum():
        return None
    expected = float(called.sum() / load.sum()) * sum(loads[id(run)] for run in lacking)
    factor, _ = overdispersion((called,), (called + load,))
    slowing = math.log(factor) / (factor - 1.0) if factor > 1.0 + 1e-9 else 1.0
    return math.exp(-expected * slowing)


def _share(runs: Sequence[Run], services: Sequence[str], by: Sequence[str] = ("count", "rps")) -> float | None:
    """Share of all requests that services carry, by counts, else by rates; ``None`` where neither is known."""
    for value in by:
        numbers = [{name: getattr(stats, value) for name, stats in run.services.items()} for run in runs]
        if any(number is None for of_run in numbers for number in of_run.values()):
            continue
        total = sum(sum(of_run.values()) for of_run in numbers)
        return sum(of_run.get(name, 0) for of_run in numbers for name in services) / total if total else None
    return None


def _load_share(runs: Sequence[Run], services: Iterable[str]) -> float:
    """Share of the requests of runs, or of their requests in flight, whichever is more, that services carry."""
    flight: dict[str, float] = {}
    for run in runs:
        for name, stats in run.services.items():
            flight[name] = flight.get(name, 0.0) + (stats.rps or 0.0) * (stats.avg_latency_ms or 0.0)
    names = tuple(services)
    busy = sum(flight.get(name, 0.0) for name in names) / total if (total := sum(flight.values())) else 0.0
    return max(busy, _share(runs, names) or 0.0)


# Another name -----------------------------------------------------------------------------------------------------

_METHOD = re.compile(r"^(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS)\s+", re.IGNORECASE)
_VERSION = re.compile(r"^v\d+([._]\d+)*(alpha|beta)?\d*$")
_ID = re.compile(r"^(\d+|[0-9a-f]{8,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[{<\[(].*[}>\])]|:\w+|\*|%[sd])$")
_WORDS = re.compile(r"[a-z0-9]+|\*")


def plain_name(service: str) -> str:
    """A service's name without what renames change most: method, case, query, slashes at the end, versions, ids.

    >>> plain_name("GET /v1/Items/42/?page=2") == plain_name("/v2/items/{id}")
    True
    """
    path = _METHOD.sub("", service.strip()).lower().partition("?")[0].partition("#")[0]
    parts = [part for part in path.split("/") if part and not _VERSION.match(part)]
    return "/".join("*" if _ID.match(part) else ".".join(_WORDS.findall(part)) or part for part in parts)


def renamed_pairs(gone: Mapping[str, float | None], new: Mapping[str, float | None]) -> dict[str, str]:
    """Services that are gone, each with the new one that may be it under another name, by names and shares of requests.

    >>> renamed_pairs({"/v1/items": 0.4, "/pay": 0.1}, {"/search": 0.4, "/v2/items": 0.4})
    {'/v1/items': '/v2/items'}
    """
    plain = {name: plain_name(name) for name in (*gone, *new)}
    same_plain: dict[str, list[str]] = {}
    for name in new:
        same_plain.setdefault(plain[name], []).append(name)
    # Alike but for what renames change: no letters need to be compared
    likely = [(old, name) for old in gone for name in same_plain.get(plain[old], ())]
    if gone and new and max(len(gone), len(new)) <= MOST_COMPARED:
        scores = []
        for old, name in product(gone, new):
            shares = gone[old], new[name]
            share = SAME_SHARE / 2  # of shares that are not known: says nothing for or against
            if shares[0] is not None and shares[1] is not None:
                share = min(shares[0], shares[1]) / max(shares[0], shares[1]) if max(shares[0], shares[1]) > 0 else 1.0
            letters = SequenceMatcher(None, plain[old], plain[name], autojunk=False).ratio()
            is_only_pair = len(gone) == len(new) == 1 and share >= SAME_SHARE
            if is_only_pair or (letters >= ALIKE and share >= SAME_SHARE / 3):
                scores.append((letters + share, old, name))
        likely += [(old, name) for _, old, name in sorted(scores, key=lambda score: -score[0])]
    pairs: dict[str, str] = {}
    for old, name in likely:
        if old not in pairs and name not in pairs.values():
            pairs[old] = name
    return pairs


# In words ---------------------------------------------------------------------------------------------------------


def renames(absences: Sequence[Absence]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """For services that may be one under two names: a sentence, what to do, and the old names; many are counted."""
    of_side = {item.service: item for item in absences if item.is_new}
    pairs = [(item, of_side[item.alias]) for item in absences if not item.is_new and item.alias is not None]
    pairs.sort(key=lambda pair: -(pair[0].share or 0.0))
    for before, after in pairs[:MOST_NAMED]:
        text = (
            f"{listed([before], 'the baseline')} is gone, {listed([after], 'the candidate')} is new: "
            "renamed? [services] in the settings can map them."
        )
        yield text, rename_advice(before.service, after.service), (before.service,)
    if more := pairs[MOST_NAMED:]:
        noun = "service looks" if len(more) == 1 else "services look"
        text = f"{len(more)} more {noun} renamed, such as {more[0][0].service} to {more[0][1].service}."
        yield text, "", tuple(before.service for before, _ in more)


def rename_advice(old: str, new: str) -> str:
    """How the settings say that two names are one service."""
    return f"If it was renamed, put {json.dumps(old)} = {json.dumps(new)} under [services] in perfkit.toml."


def named(absences: Sequence[Absence]) -> str:
    """Names alone, in the order of `listed`."""
    ranked = sorted(absences, key=lambda item: -(item.share or 0.0))
    return first_names([_short(item.service) for item in ranked])


def first_names(names: Sequence[str]) -> str:
    """The first `MOST_NAMED` of these, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def percent(share: float) -> str:
    """A share as people say it: ``67 %``, ``0.4 %``."""
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def listed(absences: Sequence[Absence], side: str = "") -> str:
    """Names with their shares of the requests, of ``side`` where it is given, the largest first.

    What is more than `MOST_NAMED` is counted.

    >>> pay, a = Absence("/pay", "candidate", 3, 3, 0.09, 0.0), Absence("/a", "candidate", 3, 3, 0.02, 0.0)
    >>> listed([a, pay], "the baseline")
    "/pay (9 %), /a (2 %), together 11 % of the baseline's requests"
    >>> listed([pay], "the baseline")
    "/pay (9 % of the baseline's requests)"
    """
    ranked = sorted(absences, key=lambda item: -(item.share or 0.0))
    shares = [item.share for item in ranked if item.share is not None]
    whose = f" of {side}'s requests" if side else ""
    inside = whose if len(ranked) == 1 else ""
    names = [
        _short(item.service) if item.share is None else f"{_short(item.service)} ({percent(item.share)}{inside})"
        for item in ranked
    ]
    text = first_names(names)
    if whose and len(ranked) > 1 and len(shares) == len(ranked):
        text += f", together {percent(sum(shares))}{whose}"
    return text


# Stages and the run as a whole ----------------------------------------------------------------------------------------

MANY = 8  # services from which on the run as a whole is judged too
KNOWN = 0.5  # share of the requests whose services must tell a metric
# Times `PRIOR_SD`: what the services of one run have in common does not average out over them.  Chosen on seven repeats
# of one real build (25 services, mean latency 63 to 70 ms): without it 5 of 42 pairs were called, with it none.
SHARED_NOISE = 1.2


@dataclass(frozen=True, slots=True)
class StagedSides:
    """Both sides with an entry for each stage of each service; the policy and coverage of the entries."""

    baseline: Sequence[Run]
    candidate: Sequence[Run]
    policy: Policy
    coverage: Coverage
    # name of an entry -> service and stage; empty for whole runs
    stages: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def by_stage(baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy) -> StagedSides:
    """Split the runs of both sides into their stages, where all went through the same ones.

    An average over different loads describes none of them.  A soak has stages of one and the same load, and stays
    whole.  What the policy says of a service holds in each stage; a service that whole runs lack is missing once.
    """
    runs = [*baseline, *candidate]
    whole = service_coverage(baseline, candidate, policy.alpha)
    profiles = {run.profile.stages for run in runs}
    loads = {load for stages in profiles for stage in stages for load in (stage.begin, stage.end)}
    if len(profiles) != 1 or not all(run.stages for run in runs) or len(loads) == 1:
        return StagedSides(baseline, candidate, policy, whole)
    stages: dict[str, tuple[str, str]] = {}
    staged = []
    for run in runs:
        services = {}
        for part in run.stages:
            for service, stats in part.services.items():
                entry = staged_label(service, part.name)
                stages[entry], services[entry] = (service, part.name), stats
        staged.append(replace(run, services=services))
    before, after = staged[: len(baseline)], staged[len(baseline) :]
    limits: list[dict[str, Any]] = []
    for table in (policy.tolerance, policy.objectives):
        in_stages = {entry: table[service] for entry, (service, _) in stages.items() if service in table}
        of_services = {service for service, _ in stages.values()}
        limits.append({name: value for name, value in table.items() if name not in of_services} | in_stages)
    policy = replace(policy, tolerance=limits[0], objectives=limits[1])
    coverage = service_coverage(before, after, policy.alpha)
    missing = {absence.service for absence in whole.absences}
    more = (replace(a, alias=None) for a in coverage.absences if stages[a.service][0] not in missing)
    coverage = replace(whole, services=coverage.services, absences=(*whole.absences, *more))
    return StagedSides(before, after, policy, coverage, stages)


def with_aggregate(
    baseline: Sequence[Run], candidate: Sequence[Run], services: Sequence[str]
) -> tuple[list[Run], list[Run]] | None:
    """Both sides with the service `ALL_SERVICES` added; ``None`` where services are few.

    Sixty endpoints share one alpha, and each has few requests.  What all of them have in common (another server,
    another runtime) shows in their mean long before it shows in any of them.  It sums up those services that all runs
    have.  Its latency is the geometric mean over services, weighted by their share of the requests of all runs: a
    change in the mix of requests does not move it, and a factor common to all services moves it by that factor.
    """
    runs = [*baseline, *candidate]
    services = [name for name in services if len(measured(name, runs)) == len(runs)]
    stats = {name: [run.services[name] for run in runs] for name in services}
    counts = {name: sum(of.count or 0 for of in of_runs) for name, of_runs in stats.items()}
    is_counted = all(of.count for of_runs in stats.values() for of in of_runs)
    if len(services) < MANY or ALL_SERVICES in services or not is_counted:
        return None
    measured_by = {m: [name for name in services if all(values_of(stats[name], m))] for m in LATENCY_METRICS}
    total = sum(counts.values())
    enough = {m: names for m, names in measured_by.items() if sum(counts[name] for name in names) >= KNOWN * total}
    before, after = (
        [replace(run, services={**run.services, ALL_SERVICES: _aggregate(run, counts, enough)}) for run in side]
        for side in (baseline, candidate)
    )
    return before, after


def gate_of(
    sides: Sequence[Sequence[Run]],
    services: Sequence[str],
    policy: Policy,
    stages: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    not_judged: Iterable[str] = (),
) -> Gate | None:
    """Which of many services gate, beside the run as a whole, and which are watched; ``None`` where all gate.

    The larger share of the sides counts: neither a service that is called less because it got slow nor one that grew
    may slip out of sight.  What cannot be compared (``not_judged``) gates: absence is not agreement.
    """
    service_of = {entry: stages.get(entry, (entry, ""))[0] for side in sides for run in side for entry in run.services}
    shares: dict[str, float | None] = dict.fromkeys(services, 0.0)
    for side in sides:
        counts: dict[str, float] = {}  # of each service, over all its stages
        unknown = set()
        for entry, stats in ((entry, stats) for run in side for entry, stats in run.services.items()):
            service = service_of[entry]
            counts[service] = counts.get(service, 0.0) + (stats.count or 0)
            if stats.count is None:
                unknown.add(service)
        total, measured_entries = sum(counts.values()) or 1.0, {entry for run in side for entry in run.services}
        for entry, largest in shares.items():
            service = service_of.get(entry, entry)
            is_known = largest is not None and entry in measured_entries and service not in unknown
            shares[entry] = max(largest or 0.0, counts[service] / total) if is_known else None
    return gate_by_shares(shares, policy, stages, not_judged)


def gate_by_shares(
    shares: Mapping[str, float | None],
    policy: Policy,
    stages: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    not_judged: Iterable[str] = (),
) -> Gate | None:
    """The same of services whose shares of the requests are known, or ``None`` where they are not counted."""
    if len({stages.get(entry, (entry, ""))[0] for entry in shares}) < MANY:
        return None
    named = {*policy.limited_services, *not_judged}
    items = [ServiceShare(name, share) for name, share in shares.items()]
    carrying = tuple(item for item in items if item.share is not None and item.share >= policy.gate_share)
    rest = [item for item in items if item not in carrying]
    also = tuple(item for item in rest if item.share is None or item.service in named)
    watched = tuple(item for item in rest if item not in also)
    return Gate(policy.gate_share, carrying, also, watched) if watched else None


def does_gate(policy: Policy, gate: Gate | None, service: str, metric: Metric) -> bool:
    """Whether a metric of a service must be shown to be within its tolerance.

    Where some services are merely watched, of throughput only that of the run as a whole gates, and that of what the
    policy names: which service its users call next is the load script's choice.
    """
    if metric.value not in policy.gating or gate is None:
        return metric.value in policy.gating
    if metric is Metric.RPS and service not in policy.limited_services:
        return False
    return all(item.service != service for item in gate.watched)


def _aggregate(run: Run, counts: dict[str, int], measured_by: dict[Metric, list[str]]) -> ServiceStats:
    services = [run.services[name] for name in counts]
    values: dict[Metric, Any] = {}
    errors: dict[Metric, float] = {}
    for metric, names in measured_by.items():  # with the error of what the services share
        weights = np.array([counts[name] for name in names], float) / sum(counts[name] for name in names)
        stats = [run.services[name] for name in names]
        latencies = np.array(values_of(stats, metric), float)
        relative = np.array([error or math.nan for error in standard_errors_of(stats, metric)]) / latencies
        values[metric] = mean = float(np.exp(weights @ np.log(latencies)))
        error = mean * float(np.sqrt(((weights * relative) ** 2).sum() + (SHARED_NOISE * PRIOR_SD[metric]) ** 2))
        if math.isfinite(error):
            errors[metric] = error
    rates = [stats.rps for stats in services if stats.rps is not None]
    if len(rates) == len(services):
        values[Metric.RPS] = total = math.fsum(rates)
        rate_errors = [stats.standard_error(Metric.RPS) for stats in services]
        if None not in rate_errors:
            common = SHARED_NOISE * PRIOR_SD[Metric.RPS] * total
            errors[Metric.RPS] = math.hypot(*(error or 0.0 for error in rate_errors), common)
    waves = [stats.persistence for stats in services if stats.persistence is not None]
    count = sum(stats.count or 0 for stats in services)
    failures = None if any(stats.failures is None for stats in services) else sum(s.failures or 0 for s in services)
    return ServiceStats(
        count=count,
        failures=failures,
        error_rate_pct=100.0 * failures / count if failures is not None else None,
        standard_errors={metric.value: error for metric, error in errors.items()},
        assumed=tuple(metric.value for metric in Metric if any(metric in stats.assumed for stats in services)),
        persistence=max(waves) if len(waves) == len(services) else None,
        **{metric.value: value for metric, value in values.items()},
    )
