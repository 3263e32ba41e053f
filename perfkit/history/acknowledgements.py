"""Changes that are known or intended, in one reviewable JSON file: silent until something new happens.

An acknowledgement names a place in a scenario's history, by run ids, which stay although places move, and what changed
there, by how much.  It covers an event within `NEAR` runs of that place in which nothing else changed, and nothing is
shown to have changed by materially more: beyond the acknowledged interval, and by more than a quarter beyond the
acknowledged size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import msgspec

from perfkit.history.events import NEAR, Event, MetricChange
from perfkit.model.codec import Time, decode, dump_json, encode, read_json, utc
from perfkit.model.errors import ReadError, did_you_mean, refusals
from perfkit.model.files import atomic_write, file_lock
from perfkit.model.records import Finding, Metric, Verdict

SCHEMA = "perfkit.acknowledged/1"
MATERIAL = 1.25  # times the acknowledged size
SLIGHT = 1e-12  # of a direction, and of no size


class AcknowledgedChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far one metric of one service moved."""

    service: str
    metric: str
    # rises, change: direction and `size`; ``change`` is ``None`` for one from zero, whose size is infinite
    rises: bool
    change: float | None
    # low, high: bounds of the 95 % interval of the size; ``None`` where it is not known
    low: float | None
    high: float | None
    unit: str = ""  # of change and bounds, for who reviews the file: percent, or percentage points

    @classmethod
    def of_size(
        cls, service: str, metric: str, size: float, low: float | None = None, high: float | None = None
    ) -> AcknowledgedChange:
        """One of a size in the metric's change unit; infinite from zero."""
        change = size if math.isfinite(size) else None
        return cls(service, metric, size > 0, change, low, high, Metric(metric).change_unit)

    @classmethod
    def of_metric_change(cls, item: MetricChange) -> AcknowledgedChange:
        """What changed at an event."""
        return cls.of_size(item.service, item.metric, item.size, item.size_low, item.size_high)

    def __post_init__(self) -> None:
        Metric(self.metric)
        if self.change is not None and (self.change > 0) != self.rises:
            raise ValueError(f"rises: is {self.rises}, and the change {self.change:g}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high, {self.high:g}")

    @property
    def size(self) -> float:
        """In percent, or in percentage points; infinite from zero."""
        return self.change if self.change is not None else math.inf if self.rises else -math.inf

    @property
    def limit(self) -> float:
        """The size, without its sign, up to which it is the same change."""
        far = self.high if self.size > 0 else self.low
        return max(MATERIAL * abs(self.size), abs(far) if far is not None and far * self.size > 0 else 0.0)

    @property
    def is_worse(self) -> bool:
        return self.size * Metric(self.metric).worse > 0

    def covers(self, service: str, metric: str, size: float) -> bool:
        return (service, metric) == (self.service, self.metric) and size * self.size > 0 and abs(size) <= self.limit


class Acknowledgement(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"changes": "movements"}
):
    """One acknowledged change of a scenario."""

    id: str  # of the first run of the new level: the event's id when it was acknowledged
    scenario: str
    around: tuple[str, ...]  # ids of the runs beside it and of itself, in time order
    reason: str
    by: str
    created: Time
    until: date | None = None  # the last day on which it holds; ``None``: no end
    changes: tuple[AcknowledgedChange, ...]

    def __post_init__(self) -> None:
        if self.id not in self.around:
            raise ValueError(f"around: must hold the run {self.id} itself")
        if not self.changes:
            raise ValueError("movements: an acknowledgement is of at least one")
        if not self.reason.strip():
            raise ValueError("reason: say why this change is fine, for those who review it")
        msgspec.structs.force_setattr(self, "created", utc(self.created))

    def holds_on(self, today: date) -> bool:
        return self.until is None or today <= self.until

    def index_in(self, run_ids: Sequence[str]) -> int | None:
        """Where it lies among runs in time order; ``None`` when it and its neighbours are gone."""
        indices = {run_id: index for index, run_id in enumerate(run_ids)}
        position = self.around.index(self.id)
        for offset in sorted(range(len(self.around)), key=lambda i: abs(i - position)):
            if self.around[offset] in indices:
                return indices[self.around[offset]] + position - offset
        return None

    def covering(self, service: str, metric: str, size: float) -> AcknowledgedChange | None:
        """The acknowledged change that one of that size is part of."""
        return next((item for item in self.changes if item.covers(service, metric, size)), None)

    def describe(self) -> str:
        """Who said why, and how long it holds."""
        until = f", until {self.until}" if self.until else ""
        return f"acknowledged by {self.by or 'unknown'} on {self.created:%Y-%m-%d}{until}: {self.reason}"


def match(
    events: Sequence[Event], run_ids: Sequence[str], acknowledgements: Sequence[Acknowledgement], today: date
) -> dict[str, Acknowledgement]:
    """The events that are acknowledged, by id, and by what; ``run_ids`` are those of their timeline, in its order."""

    def mildest(change: MetricChange) -> float:
        """The least that it is shown to be: the near end of its interval, or a quarter less where it has none.

        The changes of an alarm have none, and rest on few runs.
        """
        end = change.size_low if change.size > 0 else change.size_high
        if end is None:
            return change.size / MATERIAL
        return end if end * change.size > 0 else math.copysign(SLIGHT, change.size)

    placed = [(item, item.index_in(run_ids)) for item in acknowledgements if item.holds_on(today)]
    covered = {}
    for event in events:
        near = [
            item
            for item, at in placed
            if item.scenario == event.scenario
            and (event.answers_to(item.id) or (at is not None and abs(at - event.index) <= NEAR))
        ]
        if near and all(
            any(item.covering(change.service, change.metric, mildest(change)) for item in near)
            for change in event.changes
        ):
            covered[event.id] = near[-1]
    return covered


def with_acknowledgement(finding: Finding, near: Sequence[Acknowledgement]) -> Finding:
    """A regression whose tolerance reaches as far as was acknowledged, unless all of its interval is beyond that."""
    if finding.verdict is not Verdict.REGRESSION or finding.change is None or finding.objective:
        return finding
    worse = Metric(finding.metric).worse
    bounds = (finding.ci_low, finding.ci_high) if worse > 0 else (finding.ci_high, finding.ci_low)
    mild, bad = (finding.change if bound is None else bound for bound in bounds)
    size = mild if mild * worse > 0 else math.copysign(SLIGHT, worse)
    for acknowledgement in reversed(near):
        change = acknowledgement.covering(finding.label, finding.metric, size)
        if change is not None:
            return replace(
                finding,
                verdict=Verdict.NO_CHANGE if bad * worse <= change.limit else Verdict.INCONCLUSIVE,
                tolerance=change.limit if math.isfinite(change.limit) else None,
                limit="acknowledged",
                runs_needed=None,
                warnings=(*finding.warnings, f"A known change, {acknowledgement.describe()}."),
            )
    return finding


class _Document(msgspec.Struct, frozen=True):
    acknowledged: tuple[Acknowledgement, ...]


class AcknowledgedFile:
    """The file ``data/acknowledged.json`` (setting ``acknowledged``)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Acknowledgement, ...]:
        """All of them, oldest first; none when there is no file.  ``ReadError`` names what is wrong."""
        try:
            plain = read_json(self.path)
        except FileNotFoundError:
            return ()
        title = "file of acknowledged changes"
        return decode(plain, _Document, str(self.path), schema=SCHEMA, title=title).acknowledged

    def add(self, acknowledgement: Acknowledgement) -> None:
        """Keep it; it replaces one of the same event."""
        with self._changed() as kept:
            kept[:] = [*(old for old in kept if old.id != acknowledgement.id), acknowledgement]

    def remove(self, event_id: str) -> Acknowledgement:
        """Take one away, by its event's id or the beginning of it; ``ReadError`` names the nearest."""
        with self._changed() as kept:
            begin_so = [item for item in kept if event_id and item.id.startswith(event_id)]
            matching = [item for item in begin_so if item.id == event_id] or begin_so
            if len({item.id for item in matching}) == 1:
                kept.remove(matching[0])
                return matching[0]
            if matching:
                listed = ", ".join(item.id for item in matching)
                raise ReadError(f"{self.path}: {len(matching)} of its events begin with {event_id!r}: {listed}")
            near = did_you_mean(event_id, [item.id for item in kept])
            raise ReadError(f"{self.path}: {event_id} is not acknowledged{near}; `perfkit ack --list` shows what is")

    @contextmanager
    def _changed(self) -> Iterator[list[Acknowledgement]]:
        """Its content, which is written at the end; two who change the file at once come one after the other."""
        with refusals(f"{self.path}: cannot be written"), file_lock(self.path):
            acknowledged = list(self.read())
            yield acknowledged
            document = _Document(tuple(acknowledged))
            atomic_write(self.path, dump_json({"schema": SCHEMA, **encode(document)}))
