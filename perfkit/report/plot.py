"""``perfkit.plot``: every figure as a function, and the ``.plot`` accessors through which objects offer them.

Each function takes an object of the public API and always returns a `plotly.graph_objects.Figure` that can be shown,
zoomed, restyled (``figure.update_layout(...)``) and saved.  Where there is nothing to draw, the figure says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from perfkit.analysis.baseline import BaselineSummary
from perfkit.analysis.capacity import Capacity
from perfkit.analysis.power import detectable
from perfkit.config.policy import Policy
from perfkit.history.trend import History
from perfkit.model.errors import did_you_mean
from perfkit.model.records import Comparison, Metric, Run, Verdict, service_names
from perfkit.report import capacity_charts, charts, trend_charts
from perfkit.report.forest import forest as forest_plot

if TYPE_CHECKING:
    import plotly.graph_objects as go

Measured = Comparison | BaselineSummary | Capacity | Run | Sequence[Run]
Services = str | Sequence[str] | None
Subject = TypeVar("Subject")
MOST_READ = (Metric.AVG, Metric.P95, Metric.ERROR_RATE, Metric.RPS)

__all__ = [
    "calendar",
    "changes_by_load",
    "detectable_change",
    "forest",
    "latency",
    "load",
    "percentiles",
    "runs",
    "services",
    "timeline",
    "trend",
]


def forest(comparison: Comparison, *, service: Services = None) -> go.Figure:
    """Every effect of a comparison with its interval, its tolerance and its verdict.

    Left of zero is less than the baseline, right of it more.  The tolerance is the shaded stretch on the worse side.

    Parameters
    ----------
    service
        A service, or several; ``None`` draws those nearest to a verdict of change.
    """
    if service is not None:
        names = _chosen(service, tuple(dict.fromkeys(finding.service for finding in comparison.findings)))
        comparison = replace(comparison, findings=tuple(f for f in comparison.findings if f.service in names))
    return forest_plot(comparison)


def latency(measured: Measured, candidate: Sequence[Run] = (), *, service: Services = None) -> go.Figure:
    """How response times are distributed: one panel per service, on a log axis.

    The line is the median over runs, the band goes from the lowest to the highest run: where the bands of two sides
    part, the sides differ by more than runs of one side do.

    Parameters
    ----------
    measured
        A comparison, runs, or a baseline; with ``candidate``, runs to draw over it.
    service
        A service, or several; all of them when ``None``.
    """
    return charts.latency_distribution(*_sides(measured, candidate), services=_services(measured, candidate, service))


def percentiles(measured: Measured, candidate: Sequence[Run] = (), *, service: Services = None) -> go.Figure:
    """Response time against percentile to p99.9, stretched towards the tail; parameters as of `latency`."""
    return charts.percentile_curve(*_sides(measured, candidate), services=_services(measured, candidate, service))


def timeline(measured: Measured, candidate: Sequence[Run] = (), *, service: Services = None) -> go.Figure:
    """Throughput, response times and error rate over the seconds since a run began; parameters as of `latency`."""
    return charts.run_timeline(*_sides(measured, candidate), services=_services(measured, candidate, service))


def runs(
    measured: Measured,
    candidate: Sequence[Run] = (),
    *,
    service: Services = None,
    metric: str | Sequence[str] = MOST_READ,
) -> go.Figure:
    """One mark per run, in the order in which the runs were made; parameters as of `latency`.

    Parameters
    ----------
    metric
        A metric or several, in short too: ``p95``, ``avg``, ``errors``, ``rps``.
    """
    metrics = [Metric(name) for name in ([metric] if isinstance(metric, str) else metric)]
    names = _services(measured, candidate, service)
    return charts.run_values(*_sides(measured, candidate), services=names, metrics=metrics)


def trend(history: History, *, service: Services = None, metric: str | None = None) -> go.Figure:
    """Every metric over the runs of a history, with its levels, events, outliers and invalid runs.

    Parameters
    ----------
    service
        A service, or several to choose from; the most telling ones when ``None``.
    metric
        One metric, in short too; all when ``None``.
    """
    return trend_charts.trend_chart(_part(history, service, metric))


def services(history: History, *, metric: str | None = None) -> go.Figure:
    """One metric of every service over the runs, all around their newest level and on one scale."""
    return trend_charts.trend_sheet(_part(history, None, metric))


def calendar(history: History) -> go.Figure:
    """The days on which there were runs, and those on which an event began."""
    return trend_charts.trend_days(history)


def load(capacity: Capacity, *, service: Services = None) -> go.Figure:
    """Throughput, response time and errors against load, with the knee and the load up to which the objective holds."""
    if service is not None:
        names = _chosen(service, capacity.services)
        capacity = replace(capacity, curves=tuple(curve for curve in capacity.curves if curve.service in names))
    return capacity_charts.load_curves(capacity)


def changes_by_load(capacity: Capacity, *, service: Services = None) -> go.Figure:
    """Candidate against baseline at each load, in percent, with 95 % intervals."""
    if service is not None:
        names = _chosen(service, capacity.services)
        capacity = replace(capacity, at_load=tuple(level for level in capacity.at_load if level.service in names))
    return capacity_charts.changes_by_load(capacity)


def detectable_change(
    measured: Measured, *, service: Services = None, policy: Policy | None = None, most: int = 10
) -> go.Figure:
    """The smallest change that 1 to ``most`` runs on each side can show, from the noise of the runs at hand."""
    frame = detectable(
        _sides(measured, ())[0],
        policy=policy or (measured.policy if isinstance(measured, BaselineSummary) else None),
        most=most,
    )
    if service is not None:
        frame = frame[frame["service"].isin(_chosen(service, tuple(frame["service"].unique())))]
    return charts.detectable(frame)


def _sides(measured: Measured, candidate: Sequence[Run]) -> tuple[Sequence[Run], Sequence[Run]]:
    if isinstance(measured, Comparison):
        return measured.baseline.runs, measured.candidate.runs
    if isinstance(measured, Capacity):
        return measured.runs, measured.candidate
    if isinstance(measured, BaselineSummary):
        return measured.runs, tuple(candidate)
    return ((measured,) if isinstance(measured, Run) else tuple(measured)), tuple(candidate)


def _services(measured: Measured, candidate: Sequence[Run], service: Services) -> tuple[str, ...]:
    """The services that are asked for; those of a comparison come worst first."""
    sides = _sides(measured, candidate)
    names = _worst_first(measured) if isinstance(measured, Comparison) else service_names(*sides)
    return names if service is None else _chosen(service, names)


def _worst_first(comparison: Comparison) -> tuple[str, ...]:
    """Those with a regression, then with an improvement, then with an open question."""
    order = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE, Verdict.INVALID)
    ranked = sorted(comparison.findings, key=lambda finding: order.index(finding.verdict))
    names = service_names(comparison.baseline.runs, comparison.candidate.runs)
    return tuple(dict.fromkeys([*(finding.service for finding in ranked), *names]))


def _chosen(service: str | Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The services, each of which is among ``names``; ``ValueError`` names the nearest."""
    chosen = (service,) if isinstance(service, str) else tuple(service)
    for name in chosen:
        if name not in names:
            there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"service: {name!r} is not among these{did_you_mean(name, names)}; there are {there}")
    return chosen


def _part(history: History, service: Services, metric: str | None) -> History:
    whole = history
    if service is not None:
        names = _chosen(service, whole.services)
        whole = replace(
            whole, metric_trends=tuple(c for name in names for c in whole.metric_trends if c.service == name)
        )
    if metric is not None:
        only = Metric(metric)
        whole = replace(whole, metric_trends=tuple(c for c in whole.metric_trends if c.metric is only), metric=only)
    return whole


@dataclass(frozen=True, slots=True, repr=False)
class _Plots(Generic[Subject]):
    """The figures of one object."""

    subject: Subject

    def __repr__(self) -> str:
        names = [name for name in dir(self) if not name.startswith("_") and name != "subject"]
        return f"figures: {', '.join(f'.{name}()' for name in names)}"


class RunsPlots(_Plots[Subject]):
    """Figures of runs: ``runs.plot.latency()``."""

    subject: Any

    def latency(self, *, service: Services = None) -> go.Figure:
        """How response times are distributed; see `perfkit.plot.latency`."""
        return latency(self.subject, service=service)

    def percentiles(self, *, service: Services = None) -> go.Figure:
        """Response time against percentile; see `perfkit.plot.percentiles`."""
        return percentiles(self.subject, service=service)

    def timeline(self, *, service: Services = None) -> go.Figure:
        """What happened during the runs; see `perfkit.plot.timeline`."""
        return timeline(self.subject, service=service)

    def runs(self, *, service: Services = None, metric: str | Sequence[str] = MOST_READ) -> go.Figure:
        """One mark per run; see `perfkit.plot.runs`."""
        return runs(self.subject, service=service, metric=metric)


class ComparisonPlots(RunsPlots[Comparison]):
    """Figures of a comparison: ``comparison.plot.forest()``."""

    def forest(self, *, service: Services = None) -> go.Figure:
        """Every effect with its interval; see `perfkit.plot.forest`."""
        return forest(self.subject, service=service)


class BaselinePlots(RunsPlots[BaselineSummary]):
    """Figures of a baseline: ``perfkit.baseline("shop@rolling").plot.latency()``."""

    def detectable_change(self, *, service: Services = None, most: int = 10) -> go.Figure:
        """The smallest change that more runs can show; see `perfkit.plot.detectable_change`."""
        return detectable_change(self.subject, service=service, most=most)


class HistoryPlots(_Plots[History]):
    """Figures of a history: ``history.plot.trend()``."""

    def trend(self, *, service: Services = None, metric: str | None = None) -> go.Figure:
        """Every metric over the runs; see `perfkit.plot.trend`."""
        return trend(self.subject, service=service, metric=metric)

    def services(self, *, metric: str | None = None) -> go.Figure:
        """One metric of every service; see `perfkit.plot.services`."""
        return services(self.subject, metric=metric)

    def calendar(self) -> go.Figure:
        """Days with runs and events; see `perfkit.plot.calendar`."""
        return calendar(self.subject)


class CapacityPlots(_Plots[Capacity]):
    """Figures over load: ``perfkit.capacity(...).plot.load()``."""

    def load(self, *, service: Services = None) -> go.Figure:
        """Throughput and response time against load; see `perfkit.plot.load`."""
        return load(self.subject, service=service)

    def changes_by_load(self, *, service: Services = None) -> go.Figure:
        """Candidate against baseline at each load; see `perfkit.plot.changes_by_load`."""
        return changes_by_load(self.subject, service=service)
