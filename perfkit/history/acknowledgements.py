"""Changes that are known or intended, in one reviewable JSON file: silent until something new happens.

An acknowledgement names a place in a scenario's history, by run ids, which stay although places move, and what moved
there, by how much.  It covers an event within `NEAR` runs of that place in which nothing else moved, and nothing is
shown to have moved by materially more: beyond the acknowledged interval, and by more than a quarter beyond the
acknowledged size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from perfkit.history.events import NEAR, Event, MetricChange
from perfkit.model.codec import Time, decode, dump_json, parse_json, read_bytes, utc
from perfkit.model.errors import ReadError, StoreError, did_you_mean
from perfkit.model.files import atomic_write, file_lock
from perfkit.model.records import Finding, Metric, Verdict

SCHEMA = "perfkit.acknowledged/1"
MATERIAL = 1.25  # times the acknowledged size
SLIGHT = 1e-12  # of a direction, and of no size


@dataclass(frozen=True, slots=True)
class AcknowledgedChange:
    """How far one metric of one service moved, in its change unit (percent, or percentage points); infinite from zero.

    ``low`` and ``high`` bound its 95 % interval; ``None`` where it is not known.
    """

    service: str
    metric: Metric
    size: float
    low: float | None
    high: float | None

    @classmethod
    def of_movement(cls, movement: MetricChange) -> AcknowledgedChange:
        return cls(movement.service, movement.metric, movement.size, movement.size_low, movement.size_high)

    @classmethod
    def of_finding(cls, finding: Finding) -> AcknowledgedChange:
        size = math.inf if finding.change is None else finding.change
        return cls(finding.label, Metric(finding.metric), size, finding.ci_low, finding.ci_high)

    @property
    def limit(self) -> float:
        """The size, without its sign, up to which it is the same change."""
        far = self.high if self.size > 0 else self.low
        return max(MATERIAL * abs(self.size), abs(far) if far is not None and far * self.size > 0 else 0.0)

    @property
    def is_worse(self) -> bool:
        """Whether users would mind."""
        return self.size * self.metric.worse > 0

    def covers(self, service: str, metric: str, size: float) -> bool:
        """Whether a change of that size is this one."""
        return (service, metric) == (self.service, self.metric) and size * self.size > 0 and abs(size) <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an infinite size is ``null``, its direction is told by ``rises``."""
        return {
            "service": self.service,
            "metric": self.metric.value,
            "rises": self.size > 0,
            "change": self.size if math.isfinite(self.size) else None,
            "low": self.low,
            "high": self.high,
            "unit": self.metric.change_unit,
        }


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """One known change.

    Parameters
    ----------
    id
        Of the first run of the new level: the event's id when it was acknowledged.
    around
        Ids of the runs beside it and of itself, in time order.
    until
        The last day on which it holds; ``None``: no end.
    """

    id: str
    scenario: str
    around: tuple[str, ...]
    changes: tuple[AcknowledgedChange, ...]
    reason: str
    by: str
    created: datetime
    until: date | None = None

    def __post_init__(self) -> None:
        if self.id not in self.around:
            raise ValueError(f"around: must hold the run {self.id} itself")
        if not self.changes:
            raise ValueError("movements: an acknowledgement is of at least one")
        if not self.reason.strip():
            raise ValueError("reason: say why this change is fine, for those who review it")

    def holds_on(self, today: date) -> bool:
        """Whether it has not run out."""
        return self.until is None or today <= self.until

    def place_in(self, run_ids: Sequence[str]) -> int | None:
        """Where it lies among runs in time order; ``None`` when it and its neighbours are gone."""
        places = {run_id: index for index, run_id in enumerate(run_ids)}
        own = self.around.index(self.id)
        for offset in sorted(range(len(self.around)), key=lambda i: abs(i - own)):
            if self.around[offset] in places:
                return places[self.around[offset]] + own - offset
        return None

    def covering(self, service: str, metric: str, size: float) -> AcknowledgedChange | None:
        """The acknowledged movement that a change of that size is part of."""
        return next((item for item in self.changes if item.covers(service, metric, size)), None)

    def describe(self) -> str:
        """Who said why, and how long it holds."""
        until = f", until {self.until}" if self.until else ""
        return f"acknowledged by {self.by or 'unknown'} on {self.created:%Y-%m-%d}{until}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "id": self.id,
            "scenario": self.scenario,
            "around": list(self.around),
            "reason": self.reason,
            "by": self.by,
            "created": self.created.isoformat(),
            "until": self.until.isoformat() if self.until else None,
            "movements": [movement.to_dict() for movement in self.changes],
        }


def match(
    events: Sequence[Event], run_ids: Sequence[str], known: Sequence[Acknowledgement], today: date
) -> dict[str, Acknowledgement]:
    """Which events of a scenario are acknowledged: event id to what covers it.

    ``run_ids`` are those of the timeline in which the events were found, in its order.
    """
    placed = [(one, one.place_in(run_ids)) for one in known if one.holds_on(today)]
    found = {}
    for event in events:
        near = [
            one
            for one, at in placed
            if one.scenario == event.scenario
            and (event.answers_to(one.id) or (at is not None and abs(at - event.index) <= NEAR))
        ]
        if near and all(
            any(one.covering(item.service, item.metric, _mildest(item)) for one in near) for item in event.changes
        ):
            found[event.id] = near[-1]
    return found


def _mildest(movement: MetricChange) -> float:
    """The least that it is shown to be: the near end of its interval, or a quarter less than an alarm tells.

    An alarm has no interval, and rests on few runs.
    """
    end = movement.size_low if movement.size > 0 else movement.size_high
    if end is None:
        return movement.size / MATERIAL
    return end if end * movement.size > 0 else math.copysign(SLIGHT, movement.size)


def with_acknowledgement(finding: Finding, near: Sequence[Acknowledgement]) -> Finding:
    """A regression as it is judged when it is known: its tolerance reaches as far as what was acknowledged.

    It stays a regression when even the mild end of its interval is beyond that.
    """
    if finding.verdict is not Verdict.REGRESSION or finding.change is None or finding.objective:
        return finding
    worse = Metric(finding.metric).worse
    bounds = (finding.ci_low, finding.ci_high) if worse > 0 else (finding.ci_high, finding.ci_low)
    mild, bad = (finding.change if bound is None else bound for bound in bounds)
    size = mild if mild * worse > 0 else math.copysign(SLIGHT, worse)
    for one in reversed(near):
        known = one.covering(finding.label, finding.metric, size)
        if known is not None:
            verdict = Verdict.NO_CHANGE if bad * worse <= known.limit else Verdict.INCONCLUSIVE
            return _acknowledged(finding, verdict, known.limit, one)
    return finding


def _acknowledged(finding: Finding, verdict: Verdict, limit: float, one: Acknowledgement) -> Finding:
    tolerance = limit if math.isfinite(limit) else None
    return replace(
        finding,
        verdict=verdict,
        tolerance=tolerance,
        limit="acknowledged",
        runs_needed=None,
        warnings=(*finding.warnings, f"A known change, {one.describe()}."),
    )


class AcknowledgedFile:
    """The file ``data/acknowledged.json`` (setting ``acknowledged``)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Acknowledgement, ...]:
        """All of them, oldest first; none when there is no file.  ``ReadError`` names what is wrong."""
        try:
            content = read_bytes(self.path)
        except FileNotFoundError:
            return ()
        place = str(self.path)
        document = decode(
            parse_json(content, place), _Document, place, schema=SCHEMA, title="file of acknowledged changes"
        )
        return tuple(item.acknowledgement() for item in document.acknowledged)

    def add(self, one: Acknowledgement) -> None:
        """Keep it; it replaces one of the same event."""
        with self._alone():
            self._write([*(old for old in self.read() if old.id != one.id), one])

    def remove(self, event_id: str) -> Acknowledgement:
        """Take one away; ``ReadError`` names the nearest known one."""
        with self._alone():
            every = self.read()
            found = next((one for one in every if one.id == event_id), None)
            if found is None:
                near = did_you_mean(event_id, [one.id for one in every])
                raise ReadError(
                    f"{self.path}: {event_id} is not acknowledged{near}; `perfkit ack --list` shows what is"
                )
            self._write([one for one in every if one.id != event_id])
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two who change the file at once come one after the other."""
        try:
            with file_lock(self.path):
                yield
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _write(self, every: Sequence[Acknowledgement]) -> None:
        document = {"schema": SCHEMA, "acknowledged": [one.to_dict() for one in every]}
        atomic_write(self.path, dump_json(document))


class _Movement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    metric: str
    rises: bool
    change: float | None
    low: float | None
    high: float | None
    unit: str = ""

    def __post_init__(self) -> None:
        Metric(self.metric)
        if self.change is not None and (self.change > 0) != self.rises:
            raise ValueError(f"rises: is {self.rises}, and the change {self.change:g}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high, {self.high:g}")

    def movement(self) -> AcknowledgedChange:
        size = (math.inf if self.rises else -math.inf) if self.change is None else self.change
        return AcknowledgedChange(self.service, Metric(self.metric), size, self.low, self.high)


class _Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    scenario: str
    around: tuple[str, ...]
    reason: str
    by: str
    created: Time
    movements: tuple[_Movement, ...]
    until: date | None = None

    def __post_init__(self) -> None:
        self.acknowledgement()

    def acknowledgement(self) -> Acknowledgement:
        return Acknowledgement(
            self.id,
            self.scenario,
            self.around,
            tuple(item.movement() for item in self.movements),
            self.reason,
            self.by,
            utc(self.created),
            self.until,
        )


class _Document(msgspec.Struct, frozen=True):
    acknowledged: tuple[_Acknowledgement, ...]
