"""The history of a scenario as an analyst holds it in the hand: frames, series, events and alarms.

It shows what `perfkit.history.trend` found, under one alpha, and computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.monitor import Alert
from perfkit.history.trend import Course, Trend
from perfkit.model.errors import did_you_mean
from perfkit.model.records import Metric

if TYPE_CHECKING:
    import pandas as pd

_CHANGE_COLUMNS = ("run", "date", "commit", "service", "metric", "size", "unit", "before", "after", "p_value")


class Events(tuple[Event, ...]):
    """The events of a history, oldest first: a tuple of `Event` that is also a frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Events: {len(self)}{_dates(self)}>"

    def to_frame(self) -> pd.DataFrame:
        """One row per event and metric that changed, oldest event first, in each the strongest change.

        Columns: run (the first of the new level), date (its start, UTC), commit, service, metric, size (percent; of the
        error rate percentage points), unit (``%`` or ``pp``), before and after (levels in the metric's unit), p_value
        (the chance of a change this strong anywhere in such a history without any), kind (``regression``,
        ``improvement`` or ``mixed``), last_before (the last run of the old level).
        """
        return _frame(
            [
                {**_change_row(event, movement), "kind": event.kind, "last_before": event.last_before.run_id}
                for event in self
                for movement in event.changes
            ],
            ("kind", "last_before"),
        )


class Alarms(tuple[Alert, ...]):
    """What the sequential monitor alerted of, oldest first: a tuple of `Alert` that is also a frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Alarms: {len(self)}{_dates([alert.event for alert in self])}>"

    def to_frame(self) -> pd.DataFrame:
        """One row per alarm and metric that changed; columns of `Events.to_frame`, then detected_at and still_holds.

        ``run`` is where the change began, ``detected_at`` the run at which CI would have been alerted, ``still_holds``
        whether the change was not taken back since.
        """
        return _frame(
            [
                {
                    **_change_row(alert.event, movement),
                    "detected_at": alert.detected_at.run_id,
                    "still_holds": movement in alert.holds,
                }
                for alert in self
                if alert.detected_at is not None
                for movement in alert.event.changes
            ],
            ("detected_at", "still_holds"),
        )


def _dates(events: Sequence[Event]) -> str:
    """The days on which the newest of them began, for one line."""
    newest = [event.first_after.started_at for event in events[-5:]]
    days = ", ".join(f"{at:%Y-%m-%d}" if at is not None else "~" for at in newest)
    return f", since {', '.join(['...'] * (len(events) > 5))}{days}" if days else ""


def _change_row(event: Event, movement: MetricChange) -> dict[str, Any]:
    return {
        "run": event.first_after.run_id,
        "date": event.first_after.started_at,
        "commit": event.first_after.commit or None,
        "service": movement.service,
        "metric": movement.metric.value,
        "size": movement.size,
        "unit": movement.metric.change_unit,
        "before": movement.change.before,
        "after": movement.change.after,
        "p_value": movement.change.p_value,
    }


def _frame(rows: list[dict[str, Any]], more: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[*_CHANGE_COLUMNS, *more])
    return frame.assign(date=pd.to_datetime(frame["date"], utc=True))


@dataclass(frozen=True, slots=True)
class History:
    """The runs of one scenario in time order, with the events and alarms found in them.

    Parameters
    ----------
    trend
        Levels, events, drifts and outlier runs, as the trend report shows them.
    """

    trend: Trend

    @property
    def scenario(self) -> str:
        """The name of the scenario."""
        return self.trend.timeline.scenario

    def __len__(self) -> int:
        """How many runs there are, invalid ones included."""
        return len(self.trend.runs)

    @property
    def services(self) -> tuple[str, ...]:
        """The services, most telling first: those with newest and strongest worsenings."""
        return self.trend.services

    @property
    def events(self) -> Events:
        """Changes of the level: of several metrics and services at one time one event, oldest first.

        They look back over the whole history; the chance of any event in a history without a change is ``alpha``.
        """
        return Events(self.trend.events)

    @property
    def alarms(self) -> Alarms:
        """What watching the history run after run alerted of, oldest first: each at the run that raised it."""
        alerts = self.trend.watch.alerts if self.trend.watch is not None else ()
        return Alarms(alert for alert in alerts if alert.detected_at is not None)

    @property
    def alpha(self) -> float:
        """The chance of any event in a history in which nothing changed."""
        return self.trend.alpha

    def to_frame(self) -> pd.DataFrame:
        """One row per run, service and metric, runs oldest first.

        Columns: run, started_at (UTC), commit (``None`` where unknown), valid, service, metric, value (in the metric's
        unit), standard_error (within the run), level (of the stretch between changes to which the run belongs).
        ``NaN`` where a run is invalid or cannot say.
        """
        import pandas as pd

        runs = self.trend.runs
        times = _times(runs)
        parts = [
            pd.DataFrame(
                {
                    "position": range(len(runs)),
                    "run": [run.run_id for run in runs],
                    "started_at": times,
                    "commit": [run.commit or None for run in runs],
                    "valid": [run.valid for run in runs],
                    "service": course.service,
                    "metric": course.metric.value,
                    "value": course.values,
                    "standard_error": course.errors,
                    "level": _levels(course, len(runs)),
                }
            )
            for course in self.trend.courses
        ]
        columns = ["run", "started_at", "commit", "valid", "service", "metric", "value", "standard_error", "level"]
        if not parts:
            return pd.DataFrame(columns=columns)
        return pd.concat(parts).sort_values("position", kind="stable", ignore_index=True)[columns]

    def series(self, service: str, metric: str) -> pd.Series[float]:
        """One metric of one service over the runs, indexed by the time at which each run started (UTC).

        In the metric's unit; ``NaN`` where a run is invalid or cannot say.  ``metric`` in short too: ``p95``.

        Raises
        ------
        ValueError
            There is no such service or metric; names the nearest.
        """
        import pandas as pd

        course = self.trend.course(service, Metric(metric))
        if course is None:
            metrics = [course.metric.value for course in self.trend.courses if course.service == service]
            if metrics:
                raise ValueError(f"metric: no run measured {metric!r} of {service!r}; there are {', '.join(metrics)}")
            near = did_you_mean(service, self.services)
            raise ValueError(f"service: {service!r} is not in this history{near}; there are {', '.join(self.services)}")
        return pd.Series(course.values, index=_times(self.trend.runs), name=f"{service} {course.metric.value}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of the trend report."""
        return self.trend.to_dict()


def _times(runs: Sequence[RunReference]) -> pd.DatetimeIndex:
    import pandas as pd

    times = [pd.NaT if run.started_at is None else pd.Timestamp(run.started_at) for run in runs]
    return pd.DatetimeIndex(pd.Series(times, dtype="datetime64[ns, UTC]"), name="started_at")


def _levels(course: Course, runs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    levels = np.full(runs, np.nan)
    for stretch in course.stretches:
        levels[stretch.begin : stretch.end] = stretch.value
    return levels


@dataclass(frozen=True, slots=True)
class Plan:
    """How many runs a comparison needs on each side to call a worsening.

    Parameters
    ----------
    scenario
        Whose history tells the noise.
    change_pct
        The worsening to be called, in percent of the baseline.
    power
        Chance that a comparison of so many runs calls it.
    frame
        One row per service and metric; see `to_frame`.
    """

    scenario: str
    change_pct: float
    power: float
    frame: pd.DataFrame = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per service and metric that has a tolerance.

        Columns: service, metric, variation_pct (run-to-run standard deviation in percent), history_runs (behind it),
        runs_per_side (``NaN`` where no number of runs would do), tolerance_pct, hours (of load, both sides).
        """
        return self.frame.copy()
