"""Outages: services, or whole runs, nearly all of whose requests fail.

How fast they fail says nothing of the target: their latencies are withheld, and their error rate is what is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.model.records import LATENCY_METRICS, Run, ServiceStats

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
    outages = []
    for service in dict.fromkeys(name for names in failing for name in names):
        having = [run for run in runs if service is None or service in run.services]
        bad = [run for run, names in zip(runs, failing, strict=True) if service in names]
        stats = [of for run in bad for name, of in run.services.items() if service in (None, name)]
        share = _failed_share(stats) or FAILING
        outages.append(Outage(service, len(bad), len(having), share, most_frequent_error(stats)))
    return tuple(outages)


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
    without = dict(services)
    for name, stats in services.items():
        measured = [metric for metric in LATENCY_METRICS if stats.value(metric) is not None]
        if measured and (None in failing or name in failing):
            kind = most_frequent_error([stats])
            why = f"{_percent(_failed_share([stats]) or 0.0)} of the requests failed{f' ({kind})' if kind else ''}"
            gone: dict[str, Any] = {metric.value: None for metric in measured}
            warnings = (*stats.warnings, *(f"{metric.title} withheld: {why}" for metric in measured))
            without[name] = replace(stats, **gone, warnings=warnings)
    return without


def _failing(services: Mapping[str, ServiceStats]) -> tuple[str | None, ...]:
    """The services of one run that fail; ``None`` alone where the run as a whole does."""
    shares = {name: _failed_share([stats]) for name, stats in services.items()}
    if services and all(share is not None for share in shares.values()):
        whole = _failed_share(list(services.values()))
        if whole is not None and whole >= FAILING:
            return (None,)
    counts = [stats.count for stats in services.values()]
    # Of a service whose part of the run's requests is not known it is assumed that it counts
    least = CARRIES * sum(count or 0 for count in counts) if None not in counts else 0.0
    return tuple(
        name
        for name, share in shares.items()
        if share is not None and share >= FAILING and (services[name].count or 0) >= least
    )


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
