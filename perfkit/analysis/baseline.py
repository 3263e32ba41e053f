"""What is normal: each metric over a set of runs, with the interval of its level and of the next run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, stdtrit

from perfkit.analysis.error_kinds import error_kinds
from perfkit.analysis.noise_profile import failures_of, knowing_neighbours, noise_of, noise_prior
from perfkit.config.policy import Policy
from perfkit.model.codec import encode
from perfkit.model.records import ErrorKind, Metric, Run, RunSummary
from perfkit.stats.effect import Values, overdispersion

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "perfkit.baseline/1"


@dataclass(frozen=True, slots=True)
class BaselineLevel:
    """One metric of one service over runs, in the metric's unit."""

    service: str
    metric: str
    runs: int
    value: float
    low: float  # 95 % interval of the level, with `high`
    high: float
    # where the next single run is expected (0.95) if nothing changes, with `next_high`; ``None``: not known
    next_low: float | None
    next_high: float | None
    # run-to-run standard deviation, moderated because few runs say little; ``None``: not known
    variation_pct: float | None
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class BaselineSummary:
    """Every level of a set of runs, in the order of services and metrics; what to know of these runs as a baseline."""

    runs: tuple[Run, ...]
    levels: tuple[BaselineLevel, ...]
    warnings: tuple[str, ...] = ()
    errors: tuple[ErrorKind, ...] = ()  # kinds of failed requests of all runs, see `ErrorKind`
    policy: Policy = field(default_factory=Policy, repr=False)  # by which changes against these runs are judged

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.baseline/1``."""
        runs = [RunSummary.of(run) for run in self.runs]
        parts = {"runs": runs, "levels": self.levels, "errors": self.errors, "warnings": self.warnings}
        return {"schema": SCHEMA, **encode(parts)}

    def to_frame(self) -> pd.DataFrame:
        """One row per level."""
        import pandas as pd

        return pd.DataFrame(list(self.levels), columns=list(BaselineLevel.__dataclass_fields__))


def summarize_baseline(
    runs: Sequence[Run], warnings: Sequence[str] = (), *, policy: Policy | None = None
) -> BaselineSummary:
    """The level of each metric and service of ``runs``, with intervals; the run is the unit.

    Latency and throughput: geometric mean over runs, Student's t on the log scale with a moderated variance, which many
    services tell together as in a comparison.  Error rate: all failures over all requests, Wilson interval widened by
    overdispersion between runs.  A metric that some run cannot tell is left out.
    """
    from statsmodels.stats.proportion import proportion_confint

    levels: list[BaselineLevel] = []
    names = dict.fromkeys(name for run in runs for name in run.services)
    of_services = {name: [run.services[name] for run in runs if name in run.services] for name in names}
    stated = {
        (name, metric): (metric, Values(each, each[:0], noise_prior(metric, (stats,))))
        for name, stats in of_services.items()
        for metric in Metric
        if metric is not Metric.ERROR_RATE
        and (each := np.array([item.value(metric) or 0.0 for item in stats])).min() > 0
    }
    moderated = knowing_neighbours(stated)
    for service, stats in of_services.items():
        for metric in Metric:
            if metric is Metric.ERROR_RATE:
                if (failures := failures_of(stats)) is None:
                    continue
                factor, df = overdispersion((failures.failed,), (failures.counts,))
                # Wilson's interval of so many effective requests, as wide as Student's t asks
                requests = float(failures.counts.sum()) / factor
                alpha = 2.0 * float(ndtr(-stdtrit(df, 0.975)))
                ends = proportion_confint(failures.rate * requests, requests, alpha=alpha, method="wilson")
                low, high = (100 * float(end) for end in ends)
                run_rates = 100 * failures.failed / failures.counts
                bounds = float(run_rates.min()), float(run_rates.max())
                rate = 100 * failures.rate
                levels.append(
                    BaselineLevel(service, metric.value, run_rates.size, rate, low, high, None, None, None, *bounds)
                )
                continue
            if (service, metric) not in moderated:
                continue
            of_runs = moderated[service, metric].baseline
            logs, noise = np.log(of_runs), noise_of(metric, moderated[service, metric])
            t, middle = float(stdtrit(noise.df, 0.975)), float(logs.mean())
            half, next_half = t * noise.sd / logs.size**0.5, t * noise.sd * (1 + 1 / logs.size) ** 0.5
            steps = {"value": 0.0, "low": -half, "high": half, "next_low": -next_half, "next_high": next_half}
            values = {name: float(np.exp(middle + step)) for name, step in steps.items()}
            span = {"variation_pct": 100 * noise.sd, "lowest": float(of_runs.min()), "highest": float(of_runs.max())}
            levels.append(BaselineLevel(service, metric.value, logs.size, **values, **span))
    return BaselineSummary(tuple(runs), tuple(levels), tuple(warnings), error_kinds(runs), policy or Policy())
