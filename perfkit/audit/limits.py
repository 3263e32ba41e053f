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
MOST_RUNS = 10  # on each side of a comparison: few teams make more
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
class _Asked:
    """A tolerance, and the smallest worsening that 1, 2, ... runs on each side show, all in the change unit."""

    service: str
    tolerance: float
    shown: Mapping[int, float]

    @property
    def runs(self) -> int | None:
        """Runs on each side from which on a worsening of the tolerance's size is called."""
        return next((count for count, smallest in self.shown.items() if smallest <= self.tolerance), None)


def _of_scenario(scenario: str, runs: Sequence[Run], policy: Policy) -> Iterator[Remark]:
    table: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    most = 1 if policy.rule == "threshold" else max(MOST_RUNS, policy.required_runs)
    for service, metric, count, smallest, _ in detectable_changes(runs, policy, most):
        table[service, metric][count] = smallest
    for metric in (metric for metric in Metric if policy.rule == "threshold" or metric.value in policy.gating):
        asked = [
            _Asked(service, tolerance, shown)
            for (service, name), shown in table.items()
            if name == metric.value and (tolerance := _tolerance(policy, service, metric, runs)) is not None
        ]
        if asked:
            yield _of_metric(f"{scenario}, {metric.title}", metric.change_unit, asked, most, policy)


def _tolerance(policy: Policy, service: str, metric: Metric, runs: Sequence[Run]) -> float | None:
    limit = policy.limit(service, metric.value)
    values = [value for run in runs if (value := run.services[service].value(metric)) is not None]
    return limit.in_change_unit(fmean(values) if values else None) if limit is not None else None


def _of_metric(subject: str, unit: str, asked: Sequence[_Asked], most: int, policy: Policy) -> Remark:
    short = sorted((one for one in asked if one.runs is None), key=lambda one: -one.shown[most])
    if not short:
        needed = max(one.runs or 0 for one in asked)
        return fine("tolerance", subject, f"a worsening beyond it shows from {needed} runs a side on")
    worst = max(short, key=lambda one: one.shown[most] / max(one.tolerance, 1e-9))
    names = listed([one.service for one in short])
    found = f"{names}: {worst.tolerance:.3g} {unit} accepted, runs show {worst.shown[most]:.3g} {unit} at best"
    advice = (
        "Fixed limits below the noise alarm on identical builds: raise the limit, run longer, or use the rule evidence."
        if policy.rule == "threshold"
        else f"Even {most} runs a side seldom call a worsening of that size: run longer, or accept what can be shown."
    )
    return Remark("tolerance", subject, Grade.WARN, found, advice)


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
