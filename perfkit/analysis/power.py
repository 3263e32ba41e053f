"""What sets of runs can show: the smallest detectable change, from the variation of the runs at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtri

from perfkit.analysis.evidence import MANY, log_worsening, percent_worsening, shares
from perfkit.analysis.noise_profile import NoiseProfile, level_values, noise_of
from perfkit.config.policy import Policy
from perfkit.model.records import ALL_SERVICES, Metric, Run
from perfkit.stats.noise import PRIOR_DF_ASSUMED, Noise, overdispersion
from perfkit.stats.power import MOST_RUNS, POWER, Design, min_detectable_log, planned_noise

Row = tuple[str, str, int, float, str]
PlanRow = tuple[str, str, float, int, int | None, float | None]


def plan_runs(
    profile: NoiseProfile, policy: Policy, percent: float, power: float, usual: Mapping[tuple[str, Metric], float]
) -> list[PlanRow]:
    """Service, metric, variation, runs behind it, runs per side that call a worsening of ``percent``, and tolerance.

    Called is what a comparison calls a regression: beyond chance, and seen to be beyond the tolerance (in percent;
    ``None`` where an absolute one cannot be placed).  Runs are ``None`` where `MOST_RUNS` would not do, as where the
    tolerance accepts the worsening.  ``usual`` are the values that absolute tolerances are seen from.  The comparison
    is planned to know this profile (``history``).
    """
    if not 0 < percent < 1000:
        raise ValueError(f"detect: a worsening in percent, above 0 and below 1000, got {percent!r}")
    if not 0 < power < 1:
        raise ValueError(f"power: a probability between 0 and 1, got {power!r}")
    asked = [v for v in profile.variations if policy.limit(v.service, v.metric) is not None]
    levels = _levels(list(dict.fromkeys(item.service for item in asked)), policy)
    rows: list[PlanRow] = []
    for item in asked:
        metric = Metric(item.metric)
        level = levels[item.service, metric]
        noise = Noise(item.variation_pct / 100, item.df + PRIOR_DF_ASSUMED)
        shift = log_worsening(metric, percent)
        limit = policy.limit(item.service, item.metric)
        tolerance = limit.in_change_unit(usual.get((item.service, metric))) if limit is not None else None
        bound = log_worsening(metric, tolerance) if tolerance is not None else np.inf
        counts = range(1, MOST_RUNS + 1) if bound < shift else ()
        needed = next((n for n in counts if _shows(noise, n, level, power, shift, bound)), None)
        rows.append((item.service, item.metric, item.variation_pct, item.runs, needed, tolerance))
    return rows


def _levels(services: Sequence[str], policy: Policy) -> dict[tuple[str, Metric], float]:
    """The level at which a comparison of these services will judge each metric that has a limit."""
    judged = [ALL_SERVICES, *services] if len(services) >= MANY else list(services)
    asked = [(name, metric) for name in judged for metric in Metric if policy.limit(name, metric) is not None]
    of_all = dict(zip(asked, shares(asked), strict=True))
    return {question: policy.alpha * share for question, share in of_all.items() if question[0] != ALL_SERVICES}


def _shows(noise: Noise, n: int, level: float, power: float, shift: float, tolerance: float) -> bool:
    grown = Noise(noise.sd, noise.df + 2 * (n - 1))
    return min_detectable_log(grown, Design(n, n, level), power, tolerance) <= shift


def detectable_changes(runs: Sequence[Run], policy: Policy, most: int) -> list[Row]:
    """Service, metric, runs per side, smallest worsening called with probability 0.8, its unit; 1 to ``most`` runs."""
    if not runs:
        return []
    services = [name for name in runs[0].services if all(name in run.services for run in runs)]
    rows: list[Row] = []
    for (service, metric), level in _levels(services, policy).items():
        rows += (
            _of_errors(service, runs, level, most)
            if metric is Metric.ERROR_RATE
            else _of_level(service, metric, runs, level, most)
        )
    return rows


def _of_level(service: str, metric: Metric, runs: Sequence[Run], level: float, most: int) -> list[Row]:
    values = level_values(service, metric, runs, ())
    if values is None:
        return []
    noise = noise_of(metric, values)
    rows = []
    for n in range(1, most + 1):
        shift = min_detectable_log(planned_noise(noise, n), Design(n, n, level))
        rows.append((service, metric.value, n, percent_worsening(metric, shift), metric.change_unit))
    return rows


def _of_errors(service: str, runs: Sequence[Run], level: float, most: int) -> list[Row]:
    """Two proportions by the normal approximation, widened by overdispersion; a zero rate counts as half a failure."""
    stats = [run.services[service] for run in runs]
    if any(not item.count or item.failures is None for item in stats):
        return []
    counts = np.array([item.count for item in stats], float)
    failed = np.array([item.failures for item in stats], float)
    rate = max(failed.sum(), 0.5) / counts.sum()
    factor, _ = overdispersion((failed,), (counts,))
    spread = np.sqrt(2.0 * rate * (1 - rate) * factor / counts.mean())
    step = float((ndtri(1 - level) + ndtri(POWER)) * spread)
    return [(service, Metric.ERROR_RATE.value, n, 100 * step / np.sqrt(n), "pp") for n in range(1, most + 1)]
