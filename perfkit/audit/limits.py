"""Tolerances that runs cannot show, and tolerances that let anything through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from perfkit.audit.premises import Premises
from perfkit.audit.remark import Grade, Remark, fine, listed
from perfkit.model import LATENCY_METRICS, Metric, Run
from perfkit.planning import detectable_changes
from perfkit.policy import Policy

LEAST_RUNS = 3  # fewer do not tell how runs vary
USUAL_RUNS = 5  # on each side of a comparison
MOST_RUNS = 10
DOUBLED_PCT = 100.0


def noise_remarks(premises: Premises) -> Iterator[Remark]:
    """Per scenario and metric: tolerances below what comparisons of runs like the stored ones can show."""
    for scenario in premises.scenarios:
        runs, policy = premises.levels[scenario], premises.policy.for_scenario(scenario)
        if len(runs) >= LEAST_RUNS:
            yield from _of_scenario(scenario, runs, policy)
        elif runs:
            found = f"{len(runs)} valid runs do not tell how they vary"
            advice = f"Make {LEAST_RUNS} or more: `perfkit run {scenario} --repeat {LEAST_RUNS}`."
            yield Remark("tolerance", scenario, Grade.WARN, found, advice)


@dataclass(frozen=True, slots=True)
class _Short:
    """A tolerance that the usual number of runs cannot show."""

    service: str
    tolerance: float
    shown: float
    enough: int | None  # runs per side that could


def _of_scenario(scenario: str, runs: Sequence[Run], policy: Policy) -> Iterator[Remark]:
    table: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for service, metric, count, smallest, _ in detectable_changes(runs, policy, MOST_RUNS):
        table[service, metric][count] = smallest
    usual = 1 if policy.rule == "threshold" else min(max(USUAL_RUNS, policy.required_runs), MOST_RUNS)
    judged = [metric for metric in Metric if policy.rule == "threshold" or metric.value in policy.gating]
    for metric in judged:
        own = {service: shown for (service, name), shown in table.items() if name == metric.value}
        asked = {service: _tolerance(policy, service, metric, runs) for service in own}
        short = [
            _Short(service, limit, own[service][usual], next((n for n, s in own[service].items() if s <= limit), None))
            for service, limit in asked.items()
            if limit is not None and own[service][usual] > limit
        ]
        if short:
            yield _too_short(scenario, metric, short, usual, policy)
        elif any(limit is not None for limit in asked.values()):
            yield fine("tolerance", f"{scenario}, {metric.title}", "can be shown")


def _tolerance(policy: Policy, service: str, metric: Metric, runs: Sequence[Run]) -> float | None:
    limit = policy.limit(service, metric.value)
    values = [value for run in runs if (value := run.services[service].value(metric)) is not None]
    return limit.in_change_unit(fmean(values) if values else None) if limit is not None else None


def _too_short(scenario: str, metric: Metric, short: list[_Short], usual: int, policy: Policy) -> Remark:
    unit = metric.change_unit
    worst = max(short, key=lambda one: one.shown / max(one.tolerance, 1e-9))
    names = listed([one.service for one in sorted(short, key=lambda one: -one.shown)])
    found = f"{names}: {worst.tolerance:.3g} {unit} accepted, runs show {worst.shown:.3g} {unit} at best"
    if policy.rule == "threshold":
        advice = (
            "Fixed limits below the noise alarm on identical builds: raise the limit, run longer, or use the rule "
            "evidence."
        )
    else:
        enough = [one.enough for one in short]
        more = f"compare {max(n or 0 for n in enough)} a side" if all(enough) else "run longer"
        advice = f"With {usual} runs a side such comparisons end inconclusive: {more}, or accept what can be shown."
    return Remark("tolerance", f"{scenario}, {metric.title}", Grade.WARN, found, advice)


def blind_remarks(policy: Policy) -> Iterator[Remark]:
    """Whether a latency may double without any limit being passed: in all services, in one, or in a scenario."""
    yield _blindness(policy, None, "all services")
    for service in policy.services:
        yield _blindness(policy, service, service)
    for scenario, table in policy.scenarios.items():
        own = policy.for_scenario(scenario)
        yield _blindness(own, None, f"scenario {scenario}")
        for service in (name for name, value in table.items() if isinstance(value, Mapping) and name in own.services):
            yield _blindness(own, service, f"{service} in {scenario}")


def _blindness(policy: Policy, service: str | None, subject: str) -> Remark:
    limits = [policy.limit(service or "", metric.value) for metric in LATENCY_METRICS]
    # An absolute limit in ms may be below a doubling, depending on the level: it counts as sharp
    sharp = [limit for limit in limits if limit is not None and (not limit.relative or limit.amount < DOUBLED_PCT)]
    if sharp or policy.objectives_of(service):
        least = min(sharp, key=lambda limit: limit.amount, default=None)
        return fine("blind", subject, f"from {least.describe()} on" if least is not None else "absolute limits only")
    loose = min((limit.amount for limit in limits if limit is not None), default=None)
    found = "no latency is judged" if loose is None else f"{loose:g} % and more accepted of every latency"
    advice = "A service that takes twice as long passes: lower a tolerance of a latency below 100 %."
    return Remark("blind", subject, Grade.ERROR, found, advice)
