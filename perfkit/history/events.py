"""Changes that came together are one event: of all metrics and services that moved, between which runs and commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.history.timeline import Moment, Timeline
from perfkit.model import Metric
from perfkit.stats.changepoints import ChangePoint, segment

NEAR = 2  # runs by which the place of one change may differ between series


@dataclass(frozen=True, slots=True)
class Movement:
    """One metric of one service that moved."""

    service: str
    metric: Metric
    change: ChangePoint

    @property
    def is_worse(self) -> bool:
        """Whether users would mind."""
        return (self.change.after - self.change.before) * self.metric.worse > 0


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a scenario at one place of its history.

    Parameters
    ----------
    id
        The id of the first run of the new level: it names the event in commands.
    index
        Of that run in the timeline.
    last_before, first_after
        The valid runs between which it happened.
    movements
        Strongest first; never empty.
    """

    id: str
    scenario: str
    index: int
    last_before: Moment
    first_after: Moment
    movements: tuple[Movement, ...]

    @property
    def kind(self) -> str:
        """``regression``, ``improvement``, or ``mixed`` where some got worse and some better."""
        worse = {movement.is_worse for movement in self.movements}
        return "mixed" if len(worse) == 2 else "regression" if True in worse else "improvement"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        moments = {"last_before": self.last_before, "first_after": self.first_after}
        return {
            "id": self.id,
            "scenario": self.scenario,
            "kind": self.kind,
            "index": self.index,
            **{name: {"run": of.run_id, "commit": of.commit, "branch": of.branch} for name, of in moments.items()},
            "movements": [
                {
                    "service": item.service,
                    "metric": item.metric.value,
                    "before": item.change.before,
                    "after": item.change.after,
                    "change_pct": _finite(item.change.change_pct),
                    "ci_low": _finite(item.change.ci_low),
                    "ci_high": _finite(item.change.ci_high),
                    "p_value": item.change.p_value,
                    "worse": item.is_worse,
                }
                for item in self.movements
            ],
        }


def find_events(timeline: Timeline, *, alpha: float = 0.01) -> tuple[Event, ...]:
    """The events of a scenario's history, oldest first.

    ``alpha`` is shared over all series: the chance that a history in which nothing changed shows any event.
    """
    each = alpha / max(len(timeline.series), 1)
    return group(
        timeline,
        [
            Movement(service, metric, change)
            for (service, metric), values in timeline.series.items()
            for change in segment(values, alpha=each).changes
        ],
    )


def group(timeline: Timeline, movements: Sequence[Movement]) -> tuple[Event, ...]:
    """Movements of all series at about one place are one event; its place is that of the strongest."""
    left = sorted(movements, key=lambda item: (item.change.p_value, item.change.index, item.service, item.metric))
    events = []
    while left:
        at = left[0].change.index
        own = [item for item in left if abs(item.change.index - at) <= NEAR]
        left = [item for item in left if abs(item.change.index - at) > NEAR]
        events.append(_event(timeline, at, tuple(own)))
    return tuple(sorted(events, key=lambda event: event.index))


def _event(timeline: Timeline, at: int, movements: tuple[Movement, ...]) -> Event:
    before = next(moment for moment in reversed(timeline.moments[:at]) if moment.valid)
    after = timeline.moments[at]
    return Event(after.run_id, timeline.scenario, at, before, after, movements)


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None
