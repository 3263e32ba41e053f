"""The history of a scenario as reports, messages and analysts see it: each metric of each service over its runs.

`trend_of` lays the levels, events, outliers and drifts of a history beside what its monitor and the acknowledgements
say, all under one alpha.  A message shows excerpts: the series that lead the newest events, the newest runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from perfkit.analysis.error_kinds import error_kinds
from perfkit.history.acknowledgements import Acknowledgement, match
from perfkit.history.change_events import DetectedChanges, HistoryAnalysis, Level, detect_changes, held_worsenings
from perfkit.history.confounders import missing_services
from perfkit.history.events import Event, MetricChange, Series
from perfkit.history.monitor import MOST_EXCERPTS, Alert, MonitorResult, excerpt, leading_series
from perfkit.model.codec import encode
from perfkit.model.errors import PerfkitError, ReadError, did_you_mean
from perfkit.model.records import ErrorKind, Metric
from perfkit.stats.season import days_since_1970, why_no_pattern
from perfkit.stats.summary import Floats

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.history.events import RunReference, ServiceChange
    from perfkit.history.timeline import Timeline
    from perfkit.stats.changepoints import Segmentation
    from perfkit.stats.season import WeekdayPattern

RUNS_BEFORE = 5  # whose errors are compared with those of the newest run
MOST_SHOWN = 1_000  # runs: more dots than that are one grey cloud


@dataclass(frozen=True, slots=True)
class MetricTrend:
    """One metric of one service over the runs of a timeline, in the metric's unit; ``levels`` is never empty.

    Where it has a weekday pattern, its levels, changes and outliers are those of the runs without it.
    """

    service: str
    metric: Metric
    values: Floats
    errors: Floats
    segmentation: Segmentation
    levels: tuple[Level, ...]
    pattern: WeekdayPattern | None = None

    @property
    def now(self) -> Level:
        """The newest level."""
        return self.levels[-1]

    @property
    def level(self) -> float:
        """The newest level, in its unit; of a drift its end."""
        return self.now.value if self.now.drift is None else self.now.drift.after

    @property
    def changes(self) -> tuple[MetricChange, ...]:
        """The changes between its levels, oldest first."""
        return tuple(MetricChange(self.service, self.metric, change) for change in self.segmentation.changes)

    @property
    def last_seen(self) -> int:
        """Index of the newest run that has a value."""
        return int(np.nonzero(~np.isnan(self.values))[0][-1])

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the newest level; ``None`` in a drift, and where runs show no noise to go by.

        Student's t with the noise of the whole history, widened by the correlation of neighbouring runs; on the log
        scale where all values are positive, as the levels.
        """
        plain = self.values[~np.isnan(self.values)]
        segmentation = self.segmentation
        if self.now.drift is not None or plain.size < 3 or segmentation.noise_sd == 0.0:
            return None
        widened = (1.0 + segmentation.correlation) / (1.0 - segmentation.correlation) / self.now.runs
        quantile = float(stdtrit(max(plain.size - len(self.levels), 1), 0.975))
        reach = quantile * segmentation.noise_sd * float(widened**0.5)
        if (plain > 0).all():
            factor = float(np.exp(reach / self.now.value))
            return self.now.value / factor, self.now.value * factor
        return max(self.now.value - reach, min(0.0, float(plain.min()))), self.now.value + reach

    def to_dict(self) -> dict[str, Any]:
        """The newest level, and what is no level: outliers and drifts, by index of run."""
        low, high = self.interval or (None, None)
        drifts = [level.drift for level in self.levels if level.drift is not None]
        return {
            "service": self.service,
            "metric": self.metric.value,
            "level": self.now.value,
            "ci_low": low,
            "ci_high": high,
            "since_index": self.now.begin,
            "runs": self.now.runs,
            "outliers": list(self.segmentation.outliers),
            "drifts": [{**asdict(drift), "change_pct": drift.change_pct} for drift in drifts],
            "weekday_factors": list(self.pattern.factors) if self.pattern is not None else None,
        }


class Events(tuple[Event, ...]):
    """The events of a history, oldest first: a tuple of `Event` that is also a frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Events: {len(self)}{_days(self)}>"

    def to_frame(self) -> pd.DataFrame:
        """One row per event and metric that changed, oldest event first, in each the strongest change.

        Columns: run (the first of the new level), date (its start, UTC), commit, service, metric, size (percent; of the
        error rate percentage points), unit (``%`` or ``pp``), before and after (levels in the metric's unit), p_value
        (the chance of a change this strong anywhere in such a history without any), kind (``regression``,
        ``improvement`` or ``mixed``), last_before (the last run of the old level).
        """
        rows = [
            {**_change_row(event, item), "kind": event.kind, "last_before": event.last_before.run_id}
            for event in self
            for item in event.changes
        ]
        return _change_frame(rows, "kind", "last_before")


class Alarms(tuple[Alert, ...]):
    """What the sequential monitor alerted of, oldest first: a tuple of `Alert` that is also a frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Alarms: {len(self)}{_days([alert.event for alert in self])}>"

    def to_frame(self) -> pd.DataFrame:
        """One row per alarm and metric that changed; columns of `Events.to_frame`, then detected_at and still_holds.

        ``run`` is where the change began, ``detected_at`` the run at which CI would have been alerted, ``still_holds``
        whether the change was not taken back since.
        """
        rows = [
            {
                **_change_row(alert.event, item),
                "detected_at": alert.detected_at.run_id,
                "still_holds": item in alert.holds,
            }
            for alert in self
            if alert.detected_at is not None
            for item in alert.event.changes
        ]
        return _change_frame(rows, "detected_at", "still_holds")


def _days(events: Sequence[Event]) -> str:
    """The days on which the newest of them began, for one line."""
    newest = [event.first_after.started_at for event in events[-5:]]
    days = ", ".join(f"{at:%Y-%m-%d}" if at is not None else "~" for at in newest)
    return f", since {', '.join(['...'] * (len(events) > 5))}{days}" if days else ""


_CHANGE_COLUMNS = ("run", "date", "commit", "service", "metric", "size", "unit", "before", "after", "p_value")


def _change_row(event: Event, item: MetricChange) -> dict[str, Any]:
    run, change = event.first_after, item.change
    facts = (run.run_id, run.started_at, run.commit or None, item.service, item.metric.value, item.size)
    more = (item.metric.change_unit, change.before, change.after, change.p_value)
    return dict(zip(_CHANGE_COLUMNS, (*facts, *more), strict=True))


def _change_frame(rows: list[dict[str, Any]], *more: str) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[*_CHANGE_COLUMNS, *more])
    return frame.assign(date=pd.to_datetime(frame["date"], utc=True))


@dataclass(frozen=True, slots=True)
class History:
    """The runs of one scenario in time order, with the events and alarms found in them.

    Parameters
    ----------
    changes
        Events, services that ended or began, and levels, of what was asked for.
    metric_trends
        One per service and metric that was asked for; services with the newest and strongest worsenings first.
    acknowledged
        Ids of events that are known or intended, with who said why.
    first
        Index of the first run that is shown.
    metric
        The one metric that was asked for, else ``None``.
    monitor
        What the sequential monitor says; ``None`` where nobody asked.
    """

    changes: DetectedChanges
    metric_trends: tuple[MetricTrend, ...]
    acknowledged: Mapping[str, str]
    first: int
    metric: Metric | None = None
    monitor: MonitorResult | None = None

    def __len__(self) -> int:
        """How many runs there are, invalid ones included."""
        return len(self.runs)

    @property
    def scenario(self) -> str:
        """The name of the scenario."""
        return self.timeline.scenario

    @property
    def timeline(self) -> Timeline:
        """Its runs, as they were measured."""
        return self.changes.timeline

    @property
    def runs(self) -> tuple[RunReference, ...]:
        """All runs, oldest first."""
        return self.timeline.runs

    @property
    def alpha(self) -> float:
        """The chance of any event in a history in which nothing changed."""
        return self.changes.alpha

    @property
    def events(self) -> Events:
        """Changes of the level: of several metrics and services at one time one event, oldest first.

        Those in which what is shown moved; looked for in the whole history and in all its series.  The chance of any
        event in a history without a change is ``alpha``.
        """
        return Events(self.changes.events)

    @property
    def alarms(self) -> Alarms:
        """What the monitor alerted of, run after run, oldest first: each at the run that raised it."""
        alerts = self.monitor.alerts if self.monitor is not None else ()
        return Alarms(alert for alert in alerts if alert.detected_at is not None)

    @property
    def services_changed(self) -> tuple[ServiceChange, ...]:
        """Services that ended or began, oldest first."""
        return self.changes.services_changed

    @property
    def store(self) -> str | None:
        """Where its runs are kept; ``None`` where they are in no store."""
        newest = self.runs[-1] if self.runs else None
        if newest is None or not newest.source.endswith(f"/{newest.run_id}"):
            return None
        return newest.source[: -len(newest.run_id) - 1]

    @property
    def services(self) -> tuple[str, ...]:
        """The services that are shown: those with the newest and strongest worsenings first."""
        return tuple(dict.fromkeys(item.service for item in self.metric_trends))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that are shown, in the usual order."""
        shown = {item.metric for item in self.metric_trends}
        return tuple(metric for metric in Metric if metric in shown)

    @property
    def shown_events(self) -> tuple[Event, ...]:
        """The events among the runs that are shown."""
        return tuple(event for event in self.events if event.index >= self.first)

    @property
    def shown_services_changed(self) -> tuple[ServiceChange, ...]:
        """The services that ended or began among the runs that are shown."""
        return tuple(change for change in self.services_changed if change.index >= self.first)

    @property
    def held_worsenings(self) -> tuple[Event, ...]:
        """The events for the worse that no later one took back; see `perfkit.history.change_events`."""
        return held_worsenings(self.events)

    @property
    def missing_services(self) -> tuple[tuple[str, ServiceChange], ...]:
        """The services that are gone from the newest runs, each with the change at which it ended."""
        return missing_services(self.services_changed)

    @property
    def why_no_pattern(self) -> str:
        """Why no weekday pattern is looked for in these runs; empty where one is."""
        return why_no_pattern(days_since_1970(self.timeline.times))

    @property
    def outliers(self) -> Mapping[int, Sequence[Series]]:
        """Single runs far from their level among those that are shown, by index, with the series in which they are."""
        outliers: dict[int, list[Series]] = {}
        for item in self.metric_trends:
            for index in item.segmentation.outliers:
                if index >= self.first:
                    outliers.setdefault(index, []).append((item.service, item.metric))
        return outliers

    def is_acknowledged(self, event: Event) -> bool:
        """Whether the event was acknowledged."""
        return any(map(event.answers_to, self.acknowledged))

    def acknowledgement_of(self, event: Event) -> str:
        """Who acknowledged it, and why; empty where nobody did, or did not say."""
        return next((why for name, why in self.acknowledged.items() if event.answers_to(name)), "")

    def metric_trend(self, service: str, metric: Metric) -> MetricTrend | None:
        """One metric of one service, or ``None`` where no run could tell."""
        return next((item for item in self.metric_trends if (item.service, item.metric) == (service, metric)), None)

    def to_frame(self) -> pd.DataFrame:
        """One row per run, service and metric, runs oldest first.

        Columns: run, started_at (UTC), commit (``None`` where unknown), valid, service, metric, value (in the metric's
        unit), standard_error (within the run), level (between changes, of the runs to which the run belongs).
        ``NaN`` where a run is invalid or cannot say.
        """
        import pandas as pd

        shared = pd.DataFrame(
            {
                "run": [run.run_id for run in self.runs],
                "started_at": _times(self.runs),
                "commit": [run.commit or None for run in self.runs],
                "valid": [run.valid for run in self.runs],
            }
        )
        parts = []
        for item in self.metric_trends:
            level = np.full(len(self), np.nan)
            for part in item.levels:
                level[part.begin : part.end] = part.value
            names = {"service": item.service, "metric": item.metric.value}
            parts.append(shared.assign(**names, value=item.values, standard_error=item.errors, level=level))
        if not parts:
            return shared.iloc[:0].reindex(columns=[*shared, "service", "metric", "value", "standard_error", "level"])
        return pd.concat(parts).sort_index(kind="stable", ignore_index=True)

    def series(self, service: str, metric: str) -> pd.Series[float]:
        """One metric of one service over the runs, indexed by the time at which each run started (UTC).

        In the metric's unit; ``NaN`` where a run is invalid or cannot say.  ``metric`` in short too: ``p95``.

        Raises
        ------
        ValueError
            There is no such service or metric; names the nearest.
        """
        import pandas as pd

        item = self.metric_trend(service, Metric(metric))
        if item is None:
            metrics = [item.metric.value for item in self.metric_trends if item.service == service]
            if metrics:
                raise ValueError(f"metric: no run measured {metric!r} of {service!r}; there are {', '.join(metrics)}")
            near = did_you_mean(service, self.services)
            raise ValueError(f"service: {service!r} is not in this history{near}; there are {', '.join(self.services)}")
        return pd.Series(item.values, index=_times(self.runs), name=f"{service} {item.metric.value}")

    def newest_errors(self) -> tuple[ErrorKind, ...]:
        """Kinds of failed requests of the newest valid run (candidate) and of up to five valid runs before (baseline).

        Raises
        ------
        ReadError
            There are no two valid runs, or one of these cannot be read.
        """
        valid = tuple(run for run in self.runs if run.valid)[-1 - RUNS_BEFORE :]
        if len(valid) < 2:
            raise ReadError("there are no two valid runs whose errors can be compared")
        return _errors_of(valid)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.trend/1``, that of the trend report."""
        errors = None
        with suppress(PerfkitError):  # not known
            errors = encode(self.newest_errors())
        return {
            "schema": "perfkit.trend/1",
            "store": self.store,
            **self.changes.to_dict(self.acknowledged),
            "levels": [item.to_dict() for item in self.metric_trends],
            "courses": self._excerpts(),
            "errors": errors,
            "watch": self.monitor.to_dict() if self.monitor is not None else None,
        }

    def _excerpts(self) -> list[dict[str, Any]]:
        """At most `MOST_EXCERPTS` series: those that lead alerts that hold, then the newest events, then the first."""
        shown = [(item.service, item.metric) for item in self.metric_trends]
        alerted = self.monitor.leading_series if self.monitor is not None else ()
        alerted_services = {service for service, _ in alerted}  # the same event, whichever of its metrics leads here
        events = [event for event in reversed(self.shown_events) if not self.is_acknowledged(event)]
        of_events = [key for key in map(leading_series, events) if key[0] not in alerted_services]
        keys = dict.fromkeys([*alerted, *of_events] or shown[:1])
        return [excerpt(self.changes.history, key) for key in keys if key in shown][:MOST_EXCERPTS]


@lru_cache(maxsize=8)  # for the table and the document of one report
def _errors_of(runs: tuple[RunReference, ...]) -> tuple[ErrorKind, ...]:
    """The errors of the last of these runs against those of the others."""
    from perfkit.runs.store import RunStore

    try:
        read = [RunStore(run.source.rpartition("/")[0]).get(run.run_id) for run in runs]
    except OSError as error:
        raise ReadError(f"{runs[-1].run_id} or a run before it cannot be read: {error}") from error
    return error_kinds(read[:-1], read[-1:])


def _times(runs: Sequence[RunReference]) -> pd.DatetimeIndex:
    import pandas as pd

    times = [pd.NaT if run.started_at is None else pd.Timestamp(run.started_at) for run in runs]
    return pd.DatetimeIndex(pd.Series(times, dtype="datetime64[ns, UTC]"), name="started_at")


def trend_of(
    history: HistoryAnalysis | Timeline,
    *,
    service: str | None = None,
    metric: str | None = None,
    last: int | None = None,
    acknowledged: Mapping[str, str] = MappingProxyType({}),
    alpha: float = 0.01,
    monitor: MonitorResult | None = None,
) -> History:
    """Levels, events, outliers and drift of a history.

    Parameters
    ----------
    service, metric
        Show only these; ``metric`` by its name or in short (``p95``).
    last
        Show only so many of the newest runs, `MOST_SHOWN` when ``None``; what is known of them comes from all.
    acknowledged
        Ids of events that are known or intended, with who said why; see `acknowledged_events`.
    alpha
        Chance that a history in which nothing changed shows any event; a history that is analysed already has its own.
    monitor
        What its monitor says, to stand in the result.

    Raises
    ------
    SettingsError
        There is no such service or metric, or no run could tell it.
    """
    services, metrics = ([name] if name is not None else [] for name in (service, metric))
    (changes,) = detect_changes([history], services=services, metrics=metrics, alpha=alpha, jobs=1)
    timeline, aligned = changes.timeline, changes.history.aligned
    trends = []
    for key, segmentation in changes.segmentations.items():
        measured = tuple(aligned.unscale(key, change, change.index) for change in segmentation.changes)
        levels = tuple(changes.history.levels(key))
        segmentation = replace(segmentation, changes=measured)
        pattern = changes.history.patterns.get(key)
        trends.append(MetricTrend(*key, timeline.series[key], timeline.errors[key], segmentation, levels, pattern))
    first = max(len(timeline) - (last or MOST_SHOWN), 0)
    only = trends[0].metric if metric is not None and trends else None
    unordered = History(changes, tuple(trends), acknowledged, first, only, monitor)

    # Services with worse news come first, then better news, then drift, then the rest
    order: dict[str, tuple[float, ...]] = {}
    for position, name in enumerate(unordered.services):
        drifts = any(item.now.drift is not None for item in trends if item.service == name)
        order[name] = (2.0 if drifts else 3.0, position)
    events = [event for event in unordered.shown_events if not unordered.is_acknowledged(event)]
    for change in (change for event in events for change in event.changes):
        rank = (0.0 if change.is_worse else 1.0, change.change.p_value, -abs(change.change.change_pct))
        order[change.service] = min(order[change.service], rank)
    return replace(unordered, metric_trends=tuple(sorted(trends, key=lambda item: order[item.service])))


def acknowledged_events(
    history: HistoryAnalysis, acknowledgements: Sequence[Acknowledgement], today: date
) -> dict[str, str]:
    """Ids of the events of a history that are acknowledged on that day, with who said why."""
    own = [item for item in acknowledgements if item.scenario == history.scenario]
    covered = match(history.events, history.run_ids, own, today) if own else {}
    return {event_id: item.describe() for event_id, item in covered.items()}
