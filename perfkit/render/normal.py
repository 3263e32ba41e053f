"""What is normal: each metric of a set of runs with the interval of its level and of the next run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri, stdtrit

from perfkit.model import Metric, Run, run_summary
from perfkit.render.page import Html, render
from perfkit.render.series import service_names
from perfkit.render.theme import UNKNOWN, format_number, format_value
from perfkit.stats.noise import overdispersion, run_to_run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Level:
    """One metric of one service over runs, in the metric's unit.

    ``low`` and ``high`` bound the 95 % interval of the level; ``next_low`` and ``next_high`` bound where the next
    single run is expected, with probability 0.95, if nothing changes.  ``variation_pct`` is the run-to-run standard
    deviation in percent, moderated because few runs say little about it.  ``None`` where it cannot be said.
    """

    service: str
    metric: str
    runs: int
    value: float
    low: float
    high: float
    next_low: float | None
    next_high: float | None
    variation_pct: float | None
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Levels:
    """Every level of a set of runs, in the order of services and metrics."""

    runs: tuple[Run, ...]
    levels: tuple[Level, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.baseline/1``."""
        return {
            "schema": "perfkit.baseline/1",
            "runs": [run_summary(run) for run in self.runs],
            "levels": [asdict(level) for level in self.levels],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per level."""
        import pandas as pd

        return pd.DataFrame([asdict(level) for level in self.levels], columns=list(Level.__dataclass_fields__))

    def _repr_html_(self) -> str:
        return self.table().html

    def table(self) -> Html:
        """The levels as a table, grouped by service."""
        groups = {name: [_cells(e) for e in self.levels if e.service == name] for name in service_names(self.runs)}
        shown = {name: rows for name, rows in groups.items() if rows}
        return Html(render("levels.html.j2", groups=shown, runs=len(self.runs)), text=f"{len(self.levels)} levels")


def percentiles(runs: Sequence[Run]) -> Levels:
    """The level of each metric and service of ``runs``, with intervals; the run is the unit.

    Latency and throughput: geometric mean over runs, Student's t on the log scale with a moderated variance.  Error
    rate: all failures over all requests, Wilson interval widened by overdispersion between runs.  A metric that some
    run cannot tell is left out.
    """
    return Levels(tuple(runs), tuple(_levels(tuple(runs))))


def _levels(runs: tuple[Run, ...]) -> Iterator[Level]:
    for service in service_names(runs):
        present = [run.services[service] for run in runs if service in run.services]
        for metric in Metric:
            values = [stats.value(metric) for stats in present]
            known = np.array([value for value in values if value is not None], float)
            if known.size < len(present):
                continue
            if metric is Metric.ERROR_RATE:
                level = _error_level(service, runs)
            else:
                level = _log_level(service, metric, runs, known) if (known > 0).all() else None
            if level is not None:
                yield level


def _log_level(service: str, metric: Metric, runs: Sequence[Run], values: np.ndarray[Any, Any]) -> Level:
    stats = [run.services[service] for run in runs if service in run.services]
    errors = [(item.standard_error(metric) or 0.0) / (item.value(metric) or 1.0) for item in stats]
    logs = np.log(values)
    noise = run_to_run(metric, (logs,), float(np.mean(np.square(errors))))
    t, n, middle = float(stdtrit(noise.df, 0.975)), logs.size, float(logs.mean())
    half, next_half = t * noise.sd / n**0.5, t * noise.sd * (1 + 1 / n) ** 0.5
    low, high, next_low, next_high = (float(np.exp(middle + d)) for d in (-half, half, -next_half, next_half))
    return Level(
        service=service,
        metric=metric.value,
        runs=n,
        value=float(np.exp(middle)),
        low=low,
        high=high,
        next_low=next_low,
        next_high=next_high,
        variation_pct=100 * noise.sd,
        lowest=float(values.min()),
        highest=float(values.max()),
    )


def _error_level(service: str, runs: Sequence[Run]) -> Level | None:
    stats = [run.services[service] for run in runs if service in run.services]
    pairs = [(s.failures, s.count) for s in stats if s.failures is not None and s.count]
    if len(pairs) < len(stats):
        return None
    failed, counts = np.array(pairs, float).T
    factor, _ = overdispersion((failed,), (counts,))
    rate, n, z = failed.sum() / counts.sum(), counts.sum() / factor, float(ndtri(0.975))
    centre, half = (rate + z * z / (2 * n)), z * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    low, high = max(0.0, (centre - half) / (1 + z * z / n)), (centre + half) / (1 + z * z / n)
    each = failed / counts * 100
    return Level(
        service=service,
        metric=Metric.ERROR_RATE.value,
        runs=len(pairs),
        value=float(rate * 100),
        low=float(low * 100),
        high=float(high * 100),
        next_low=None,
        next_high=None,
        variation_pct=None,
        lowest=float(each.min()),
        highest=float(each.max()),
    )


def _cells(level: Level) -> dict[str, str]:
    def between(low: float | None, high: float | None) -> str:
        return UNKNOWN if low is None or high is None else f"{format_number(low)} – {format_number(high)}"

    return {
        "metric": Metric(level.metric).title,
        "value": format_value(level.metric, level.value),
        "interval": between(level.low, level.high),
        "next": between(level.next_low, level.next_high),
        "variation": UNKNOWN if level.variation_pct is None else f"{level.variation_pct:.1f} %",
        "range": between(level.lowest, level.highest),
    }
