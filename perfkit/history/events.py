"""What happened in a history: an event is the metrics that changed together between two runs.

Records alone: `perfkit.history.change_events` finds events, results and messages read and show them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from perfkit.config.policy import EVIDENCE_TOLERANCE
from perfkit.model.codec import Share, Time, encode, utc
from perfkit.model.records import LATENCY_METRICS, Metric
from perfkit.stats.changepoints import ChangePoint
from perfkit.stats.summary import unit_factor

NEAR = 2  # runs by which the place of one change may differ between series, however clear it is
MOST_NAMED = 5  # services in a sentence
_WORDS = {"regression": "Worse", "improvement": "Better", "mixed": "Partly worse, partly better"}
Series = tuple[str, Metric]


@dataclass(frozen=True, slots=True)
class RunReference:
    """One run, as a history names it; ``environment`` has the pairs of `perfkit.model.records.environment_of`."""

    run_id: str
    started_at: datetime | None
    valid: bool
    commit: str = ""
    branch: str = ""
    source: str = ""
    why_invalid: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def day(self) -> str:
        """`` (2026-11-02)``, to stand behind its id; empty where unknown."""
        return f" ({self.started_at:%Y-%m-%d})" if self.started_at else ""

    @property
    def json_form(self) -> RunRecord:
        return RunRecord(self.run_id, self.started_at, self.commit, self.branch)


class RunRecord(msgspec.Struct, frozen=True):
    """The JSON of a `RunReference`."""

    run: str
    started_at: Time | None
    commit: str
    branch: str

    def __post_init__(self) -> None:
        self.reference()

    def reference(self) -> RunReference:
        """The run that it names, which was valid."""
        time = utc(self.started_at) if self.started_at is not None else None
        return RunReference(self.run, time, True, self.commit, self.branch)


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of one service that moved."""

    service: str
    metric: Metric
    change: ChangePoint
    reach: int = NEAR  # runs by which its place may be off (95 %)
    # first and last index at which it may have been; ``None``: not looked at
    index_range: tuple[int, int] | None = None

    @property
    def key(self) -> Series:
        return self.service, self.metric

    @property
    def is_worse(self) -> bool:
        return (self.change.after - self.change.before) * self.metric.worse > 0

    @property
    def weight(self) -> float:
        """How large it is in default tolerances of its metric: +33 % of a median weighs more than -3 % of the rate."""
        return abs(self.size) / float(EVIDENCE_TOLERANCE[self.metric])

    @property
    def size(self) -> float:
        """The change in percent of the level before; of the error rate in percentage points."""
        return self._size(self.change.change_pct, self.change.after - self.change.before)

    @property
    def size_low(self) -> float | None:
        """Lower end of the 95 % interval of `size`; ``None`` where it cannot be said."""
        return self._end(self.change.ci_low)

    @property
    def size_high(self) -> float | None:
        """Upper end of it."""
        return self._end(self.change.ci_high)

    def _size(self, percent: float, points: float) -> float:
        return points if self.metric is Metric.ERROR_RATE else percent

    def _end(self, percent: float) -> float | None:
        if not math.isfinite(percent):
            return None
        return self._size(percent, percent * abs(self.change.before) / 100.0)

    @property
    def json_form(self) -> MetricChangeRecord:
        change = self.change
        levels, interval = (change.before, change.after), (change.ci_low, change.ci_high)
        return MetricChangeRecord(
            self.service, self.metric, *levels, change.change_pct, *interval, change.p_value, self.is_worse
        )

    def describe(self) -> str:
        """``p95 latency of checkout +15.2 % [+13.1, +17.3]``."""
        unit = self.metric.change_unit
        size = f"{self.size:+.3g}" if math.isfinite(self.size) else "from zero"
        ends = (self.size_low, self.size_high)
        interval = f" [{ends[0]:+.3g}, {ends[1]:+.3g}]" if ends[0] is not None and ends[1] is not None else ""
        return f"{self.metric.title} of {self.service} {size} {unit}{interval}"


class MetricChangeRecord(msgspec.Struct, frozen=True):
    """The JSON of a `MetricChange`: ``None`` is a number that is not known, for `change_pct` a change from zero."""

    service: str
    metric: Metric
    before: float | None
    after: float | None
    change_pct: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: Share | None
    worse: bool = False

    def change(self, index: int) -> MetricChange:
        """The change, at an index of its history."""
        before, after, low, high, p_value = (
            math.nan if value is None else value
            for value in (self.before, self.after, self.ci_low, self.ci_high, self.p_value)
        )
        size = math.inf if self.change_pct is None else self.change_pct
        return MetricChange(self.service, self.metric, ChangePoint(index, before, after, size, p_value, low, high))


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
        The runs between which it happened: the last that measured the old level, the first of the new one.
    changes
        What hurts most first: worsenings before the rest, by `MetricChange.weight`; never empty.
    aliases
        Ids of all runs at which it may as well have begun, `id` included.  More runs may move the place of an event by
        one or two: a name that was given to it before then still stands here.
    coincides
        What else changed there, in words: the machine, a version, the load script, a service that ended or began.
    """

    id: str
    scenario: str
    index: int
    last_before: RunReference
    first_after: RunReference
    changes: tuple[MetricChange, ...]
    aliases: tuple[str, ...] = ()
    coincides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranked = sorted(self.changes, key=lambda change: (not change.is_worse, -change.weight))
        object.__setattr__(self, "changes", tuple(ranked))

    @property
    def kind(self) -> str:
        """``regression``, ``improvement``, or ``mixed``: some got worse and some better, or the unit is in doubt."""
        worse = {change.is_worse for change in self.changes}
        if True not in worse and any(unit_questions(self.changes)):
            return "mixed"  # no improvement before the question is answered
        return "mixed" if len(worse) == 2 else "regression" if True in worse else "improvement"

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services that moved, the strongest first."""
        return tuple(dict.fromkeys(change.service for change in self.changes))

    @property
    def reach(self) -> int:
        """By how many runs its place may be off (95 %)."""
        return min(change.reach for change in self.changes)

    @property
    def headline(self) -> str:
        """What moved most, by how much, since when, and what else changed there.  Names are as they came."""
        first, others = self.changes[0], len(self.changes) - 1
        services = len(self.services)
        more = f", and {others} more" if others else ""
        of = f" in {services} services" if others and services > 1 else ""
        beside = "".join(f"; {text}" for text in self.coincides)
        word = "Changed" if self.kind == "mixed" and not any(m.is_worse for m in self.changes) else _WORDS[self.kind]
        return f"{word}: {first.describe()}{more}{of}, since run {self.id}{self.first_after.day}{beside}."

    def answers_to(self, name: str) -> bool:
        """Whether that is its id, or was before more runs moved its place a little."""
        return name == self.id or name in self.aliases

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **change_head(self, self.aliases),
            "coincides": list(self.coincides),
            "movements": encode(self.changes),
        }


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """Services that ended or began at one run of a history."""

    id: str  # of the first run with the new set of services
    scenario: str
    index: int  # of that run in the timeline
    # last_before, first_after: the last valid run with the old set, the first with the new one
    last_before: RunReference
    first_after: RunReference
    # ended, began: names of the services, those with most requests first
    ended: tuple[str, ...]
    began: tuple[str, ...]
    # of each of them: its share of the requests, in (0, 1], where counts are known
    shares: tuple[tuple[str, float], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()  # pairs of old and new name that are alike

    kind: ClassVar[str] = "services"  # beside the kinds of an `Event`
    reach: ClassVar[int] = 0  # as that of an `Event`: by how many runs its place may be off

    @property
    def headline(self) -> str:
        """What ended and what began, and since when.  Names are as they came."""
        shares = {name: f" ({100.0 * share:.2g} % of the requests)" for name, share in self.shares}
        parts = []
        for names, text in ((self.ended, "no requests since"), (self.began, "first requests in")):
            if names:
                named = ", ".join(f"{name}{shares.get(name, '')}" for name in names)
                services = f"service{'s' if len(names) > 1 else ''} {named}"
                parts.append(f"{services}: {text} run {self.id}{self.first_after.day}")
        pairs = [f"{old} is gone, {new} is new: renamed?" for old, new in self.renamed]
        advice = f" {' '.join(pairs)} [services] of the settings can map them." if pairs else ""
        return f"S{'; '.join(parts)[1:]}.{advice}"

    @property
    def brief(self) -> Iterator[str]:
        """``service /pay ended here``, for an event at the same place."""
        for names, word in ((self.ended, "ended"), (self.began, "began")):
            if names:
                yield f"service{'s' if len(names) > 1 else ''} {', '.join(names)} {word} here"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the keys of an `Event`; nothing moved, so ``movements`` is empty."""
        return {
            **change_head(self, [self.id]),
            "ended": list(self.ended),
            "began": list(self.began),
            "shares": dict(self.shares),
            "renamed": [list(pair) for pair in self.renamed],
            "movements": [],
        }


HistoryChange = Event | ServiceChange


def change_head(change: HistoryChange, aliases: Sequence[str]) -> dict[str, Any]:
    """The keys with which the document of every change of a history begins."""
    return {
        "id": change.id,
        "scenario": change.scenario,
        "kind": change.kind,
        "headline": change.headline,
        "index": change.index,
        "reach": change.reach,
        "aliases": list(aliases),
        "last_before": encode(change.last_before),
        "first_after": encode(change.first_after),
    }


def unit_questions(changes: Sequence[MetricChange]) -> Iterator[str]:
    """A question for each direction in which all latencies of services moved by a factor of about a thousand."""
    factors: dict[str, list[float]] = {}
    for item in changes:
        if item.metric in LATENCY_METRICS:
            factors.setdefault(item.service, []).append(item.change.after / item.change.before)
    mistaken = {service: factor for service, ratios in factors.items() if (factor := unit_factor(ratios)) is not None}
    for slower in (True, False):
        names = [service for service, factor in mistaken.items() if (factor > 1.0) == slower]
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            yield (
                f"every latency of {', '.join(names[:MOST_NAMED])}{more} is about {'1,000' if slower else '0.001'} "
                "times what it was before: a unit mistake, seconds or microseconds for milliseconds?"
            )
