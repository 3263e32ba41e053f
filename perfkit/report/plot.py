"""``perfkit.plot``: every figure as a function, and the ``.plot`` accessors through which objects offer them.

Each function takes an object of the public API and always returns a `plotly.graph_objects.Figure` that can be shown,
zoomed, restyled (``figure.update_layout(...)``) and saved.  Where there is nothing to draw, the figure says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from perfkit.analysis.baseline import BaselineSummary
from perfkit.analysis.capacity import Capacity
from perfkit.analysis.power import detectable
from perfkit.config.policy import Policy
from perfkit.model.errors import did_you_mean
from perfkit.model.records import Comparison, Metric, Run, Verdict, service_names
from perfkit.report import charts, trend_charts
from perfkit.report.formatting import KEY_METRICS
from perfkit.report.html import Accessor, of_subject

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from perfkit.history.trend import History

Measured = Comparison | BaselineSummary | Capacity | Run | Sequence[Run]
Services = str | Sequence[str] | None

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
    return charts.forest(comparison)


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
    metric: str | Sequence[str] = KEY_METRICS,
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
    return charts.load_curves(capacity)


def changes_by_load(capacity: Capacity, *, service: Services = None) -> go.Figure:
    """Candidate against baseline at each load, in percent, with 95 % intervals."""
    if service is not None:
        names = _chosen(service, capacity.services)
        capacity = replace(capacity, at_load=tuple(level for level in capacity.at_load if level.service in names))
    return charts.changes_by_load(capacity)


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
    if isinstance(measured, Comparison | Capacity) and candidate:
        raise ValueError("candidate: what is drawn here has both sides already")
    if isinstance(measured, Comparison):
        return measured.baseline.runs, measured.candidate.runs
    if isinstance(measured, Capacity):
        return measured.runs, measured.candidate
    if isinstance(measured, BaselineSummary):
        return measured.runs, tuple(candidate)
    return ((measured,) if isinstance(measured, Run) else tuple(measured)), tuple(candidate)


def _services(measured: Measured, candidate: Sequence[Run], service: Services) -> tuple[str, ...]:
    """The services that are asked for; of a comparison those with a regression first, then with an improvement."""
    names = service_names(*_sides(measured, candidate))
    if isinstance(measured, Comparison):
        order = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE, Verdict.INVALID)
        ranked = sorted(measured.findings, key=lambda finding: order.index(finding.verdict))
        names = tuple(dict.fromkeys([*(finding.service for finding in ranked), *names]))
    return names if service is None else _chosen(service, names)


def _chosen(service: str | Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The services, each of which must be among ``names``; ``ValueError`` names the nearest."""
    chosen = (service,) if isinstance(service, str) else tuple(service)
    for name in chosen:
        if name not in names:
            there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"service: {name!r} is not among these{did_you_mean(name, names)}; there are {there}")
    return chosen


def _part(history: History, service: Services, metric: str | None) -> History:
    shown = history.metric_trends
    if service is not None:
        shown = tuple(c for name in _chosen(service, history.services) for c in shown if c.service == name)
    if metric is None:
        return replace(history, metric_trends=shown)
    only = Metric(metric)
    return replace(history, metric_trends=tuple(c for c in shown if c.metric is only), metric=only)


class RunsPlots(Accessor):
    """Figures of runs: ``runs.plot.latency()``."""

    latency = of_subject(latency)
    percentiles = of_subject(percentiles)
    timeline = of_subject(timeline)
    runs = of_subject(runs)


class ComparisonPlots(RunsPlots):
    """Figures of a comparison: ``comparison.plot.forest()``."""

    forest = of_subject(forest)


class BaselinePlots(RunsPlots):
    """Figures of a baseline: ``perfkit.baseline("shop@rolling").plot.latency()``."""

    detectable_change = of_subject(detectable_change)


class HistoryPlots(Accessor):
    """Figures of a history: ``history.plot.trend()``."""

    trend = of_subject(trend)
    services = of_subject(services)
    calendar = of_subject(calendar)


class CapacityPlots(Accessor):
    """Figures over load: ``perfkit.capacity(...).plot.load()``."""

    load = of_subject(load)
    changes_by_load = of_subject(changes_by_load)
