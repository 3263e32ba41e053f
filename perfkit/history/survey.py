"""What a scenario's history shows: its events, and beside them outliers and drifts, which are no events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.errors import SettingsError, did_you_mean
from perfkit.history.attribution import Attribution
from perfkit.history.events import Event, Happened, Series, events_of, held_worsenings, in_order, shared_alpha
from perfkit.history.scan import OnProgress, Task, scan
from perfkit.history.service_mix import ServiceChange, in_one_mix, service_changes
from perfkit.history.timeline import Timeline, load_timeline
from perfkit.model import SHORT_NAMES, Metric
from perfkit.stats.changepoints import Drift, Segmentation
from perfkit.store import RunStore

Attribute = Callable[[Happened], Attribution]


@dataclass(frozen=True, slots=True)
class Survey:
    """A scenario's history with all that was found in it.

    Parameters
    ----------
    segmentations
        By service and metric; those that were asked for.
    events
        Oldest first, with those of their movements that were asked for.  They were looked for in all series.
    series
        How many were looked at.
    services
        Services that ended or began, oldest first.
    """

    timeline: Timeline
    segmentations: Mapping[Series, Segmentation]
    events: tuple[Event, ...]
    alpha: float
    series: int
    services: tuple[ServiceChange, ...] = ()

    @property
    def scenario(self) -> str:
        return self.timeline.scenario

    @property
    def invalid(self) -> int:
        """How many runs are unfit to be judged."""
        return sum(not moment.valid for moment in self.timeline.moments)

    @property
    def worsenings(self) -> tuple[Event, ...]:
        """See `held_worsenings`."""
        return held_worsenings(self.events)

    @property
    def outliers(self) -> Mapping[int, tuple[Series, ...]]:
        """Index of each strange run to the series in which it is strange, oldest first."""
        found: dict[int, list[Series]] = {}
        for key, segmentation in self.segmentations.items():
            for at in segmentation.outliers:
                found.setdefault(at, []).append(key)
        return {at: tuple(found[at]) for at in sorted(found)}

    @property
    def drifts(self) -> tuple[tuple[Series, Drift], ...]:
        """Series that moved steadily for a while."""
        return tuple((key, drift) for key, found in self.segmentations.items() for drift in found.drifts)

    def to_dict(self, attribute: Attribute, silenced: Collection[str] = ()) -> dict[str, Any]:
        """Plain JSON values; ``silenced`` holds ids of events that are known or intended."""
        moments = self.timeline.moments
        return {
            "scenario": self.scenario,
            "runs": len(moments),
            "invalid": self.invalid,
            "first_run": moments[0].run_id if moments else None,
            "last_run": moments[-1].run_id if moments else None,
            "series": self.series,
            "events": [
                {
                    **event.to_dict(),
                    "acknowledged": isinstance(event, Event) and any(map(event.answers_to, silenced)),
                    "commits": attribute(event).to_dict(),
                }
                for event in in_order((*self.events, *self.services))
            ],
            "outliers": list(self._outliers()),
            "drifts": list(self._drifts()),
        }

    def _outliers(self) -> Iterator[dict[str, Any]]:
        for at, keys in self.outliers.items():
            of = [
                {"service": service, "metric": metric.value, "value": self.timeline.measured((service, metric), at)}
                for service, metric in keys
            ]
            yield {"run": self.timeline.moments[at].run_id, "index": at, "series": of}

    def _drifts(self) -> Iterator[dict[str, Any]]:
        for (service, metric), drift in self.drifts:
            first, last = (self.timeline.moments[at].run_id for at in (drift.begin, drift.end - 1))
            scale = self.timeline.scale_at((service, metric), drift.end - 1)
            levels = {"before": drift.before / scale, "after": drift.after / scale}
            yield {"service": service, "metric": metric.value, "first_run": first, "last_run": last, **levels}


def stored_timelines(store: RunStore, scenarios: Sequence[str] = (), *, ab_tests: bool = False) -> tuple[Timeline, ...]:
    """The histories of these scenarios of a store, or of all of them, by name; of A/B tests only if asked for.

    Raises
    ------
    SettingsError
        The store has no run, or none of such a scenario; names the nearest.
    """
    frame = store.runs()
    known = sorted(set(frame["scenario"]))
    usual = known if ab_tests else sorted(set(frame["scenario"][~frame["ab_test"].astype(bool)]))
    if not known:
        raise SettingsError(f"{store.url}: has no runs yet; `perfkit run SCENARIO` makes one")
    if not usual:
        raise SettingsError(f"{store.url}: has runs of A/B tests only, which are in no history unless asked for")
    for name in scenarios:
        if name not in known:
            near = did_you_mean(name, known)
            raise SettingsError(f"{store.url}: no runs of the scenario {name!r}{near}; there are {', '.join(known)}")
    return tuple(load_timeline(store, name, ab_tests=ab_tests) for name in dict.fromkeys(scenarios or usual))


def survey(
    timelines: Sequence[Timeline],
    *,
    services: Collection[str] = (),
    metrics: Collection[str] = (),
    alpha: float = 0.01,
    jobs: int | None = None,
    scheduler: str | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Survey, ...]:
    """Look at every series of every history.

    Parameters
    ----------
    services, metrics
        Show only these; metrics by name or as people say it (``p95``).  Events are looked for in all series in any
        case, so that they are the same whatever is shown.
    alpha
        Chance that the history of one scenario in which nothing changed shows any event.
    jobs, scheduler, on_progress
        See `scan`, which raises what it says.

    Raises
    ------
    SettingsError
        No history has such a service; there is no such metric, or no run could tell it.
    """
    _refuse_unknown(timelines, services)
    chosen = [_metric(name) for name in metrics]
    _refuse_untold(timelines, services, chosen)
    each = {timeline.scenario: shared_alpha(timeline, alpha) for timeline in timelines}
    aligned = [in_one_mix(line) for line in timelines]
    tasks = [Task(values, each[line.scenario]) for line in aligned for values in line.series.values()]
    found = iter(scan(tasks, jobs=jobs, scheduler=scheduler, on_progress=on_progress))
    return tuple(_survey(line, {key: next(found) for key in line.series}, services, chosen, alpha) for line in aligned)


def _refuse_unknown(timelines: Sequence[Timeline], services: Collection[str]) -> None:
    known = list(dict.fromkeys(name for line in timelines for name in line.services))
    for name in services:
        if name not in known:
            there = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            raise SettingsError(
                f"service {name!r}: is in no history that is looked at{did_you_mean(name, known)}; "
                f"there are {there or 'none'}"
            )


def _refuse_untold(timelines: Sequence[Timeline], services: Collection[str], metrics: Sequence[Metric]) -> None:
    """What is shown of a metric that no run could tell would read as if nothing had changed."""
    known = {key for line in timelines for key in line.series}
    for metric in metrics:
        if not any(of is metric and (not services or service in services) for service, of in known):
            there = [of.value for of in Metric if any(of is other for _, other in known)]
            whose = ", ".join(services) or "any service"
            raise SettingsError(
                f"no run could tell {metric.value} of {whose}; there are {', '.join(there) or 'no metrics'}"
            )


def _metric(text: str) -> Metric:
    try:
        return Metric(text.lower())
    except ValueError as error:
        known = (*SHORT_NAMES, Metric.RPS.value)
        near = did_you_mean(text.lower(), known)
        raise SettingsError(f"unknown metric {text!r}{near}; known are {', '.join(known)}") from error


def _survey(
    timeline: Timeline,
    every: Mapping[Series, Segmentation],
    services: Collection[str],
    metrics: Collection[Metric],
    alpha: float,
) -> Survey:
    wanted = {key for key in every if (not services or key[0] in services) and (not metrics or key[1] in metrics)}
    events = []
    for event in events_of(timeline, every):
        own = tuple(item for item in event.movements if (item.service, item.metric) in wanted)
        if own:
            events.append(replace(event, movements=own))
    shown = {key: found for key, found in every.items() if key in wanted}
    mix = tuple(
        change
        for change in service_changes(timeline, alpha)
        if not services or not {*change.ended, *change.began}.isdisjoint(services)
    )
    return Survey(timeline, shown, tuple(events), alpha, len(every), mix)
