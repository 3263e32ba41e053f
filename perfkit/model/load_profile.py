"""Load over time, as it was asked for: held, ramped, in stages, with a spike; by users or by arrival rate.

With users (the closed model) every user waits for an answer before it asks again, so a slow target is asked less.  With
an arrival rate (the open model) tasks begin when they are due, whether or not earlier ones have been answered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from perfkit.model.codec import Count, Size

KINDS = ("steady", "ramp", "stages", "spike", "soak")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of load that is held, or moves in a straight line from ``begin`` to ``end`` (users, or arrivals/s)."""

    duration_s: float
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not 0 < self.duration_s < math.inf:
            raise ValueError(f"stage: its length must be > 0 s and finite, got {self.duration_s!r}")
        for level in (self.begin, self.end):
            if not 0 <= level < math.inf:
                raise ValueError(f"stage: its load must be >= 0 and finite, got {level!r}")

    def describe(self, unit: str) -> str:
        """``40 users`` or ``10 to 40/s``; ``unit`` is `LoadProfile.unit`."""
        levels = f"{self.end:g}" if self.begin == self.end else f"{self.begin:g} to {self.end:g}"
        return f"{levels}{unit if unit.startswith('/') else ' ' + unit}"


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """Load over time as it was asked for (or, from a foreign file, seen).

    Parameters
    ----------
    kind
        ``steady``, ``ramp``, ``stages``, ``spike``, ``soak``, ``custom`` (the locustfile's own shape), ``declared`` (by
        a file of metrics) or ``unknown``.
    users
        Peak number of concurrent users; ``None`` in the open model.
    spawn_rate
        Users started per second; ``None`` when unknown.
    duration_s
        Planned length in seconds; ``None`` when the locustfile decides or the source cannot say.
    rate
        Peak arrivals per second: the open model; else ``None``.
    arrivals
        ``constant`` or ``poisson`` distances between arrivals; ``None`` in the closed model.
    max_in_flight
        Tasks that may be under way at once in the open model; further arrivals wait, and count as late.
    stages
        The stretches that are summed up by themselves, in order; empty when the load is one level after its rise.
    """

    OMITTED_DEFAULTS: ClassVar = ("rate", "arrivals", "max_in_flight", "stages")  # of the JSON

    kind: str = "unknown"
    users: Count | None = None
    spawn_rate: Size | None = None
    duration_s: Size | None = None
    rate: Size | None = None
    arrivals: str | None = None
    max_in_flight: Count | None = None
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "spike" and not self.stages:
            raise ValueError("stages: a spike has some")

    @property
    def is_open(self) -> bool:
        """Whether arrivals keep to a schedule, whatever the target does."""
        return self.rate is not None

    @property
    def unit(self) -> str:
        """The unit of the levels of its stages."""
        return "/s" if self.is_open else "users"

    @property
    def load_curve(self) -> tuple[Stage, ...]:
        """The whole load in stages: one, where it is a single level."""
        level = self.rate if self.is_open else self.users
        if self.stages or level is None or self.duration_s is None:
            return self.stages
        return (Stage(self.duration_s, level, level),)

    def level_at(self, elapsed_s: float) -> float | None:
        """Users or arrivals per second that are due so long after the start; ``None`` once the load is over."""
        begin = 0.0
        for stage in self.load_curve:
            if elapsed_s < begin + stage.duration_s:
                return stage.begin + (stage.end - stage.begin) * (elapsed_s - begin) / stage.duration_s
            begin += stage.duration_s
        return None

    def stage_name(self, number: int) -> str:
        """``stage 2: 40 users``; numbers count from 0, names from 1."""
        return f"stage {number + 1}: {self.stages[number].describe(self.unit)}"

    def describe(self) -> str:
        """One phrase for people: ``ramp to 100 users at 10/s, 900 s`` or ``steady 50/s (poisson arrivals), 60 s``."""
        if self.users is None and self.rate is None:
            return "custom load shape" if self.kind == "custom" else "unknown load"
        return self._levels() + (f", {self.duration_s:g} s" if self.duration_s else "")

    def _levels(self) -> str:
        people = f"{self.rate:g}/s" if self.is_open else "1 user" if self.users == 1 else f"{self.users} users"
        model = f" ({self.arrivals} arrivals)" if self.is_open else ""
        if self.kind == "ramp":
            return f"ramp to {people}" + (f" at {self.spawn_rate:g}/s" if self.spawn_rate else "") + model
        if self.kind == "stages":
            return f"{len(self.stages)} stages up to {people}{model}"
        if self.kind == "spike":
            return f"spike from {self.stages[0].describe(self.unit)} to {people}{model}"
        return (f"{self.kind} {people}" if self.kind in KINDS else people) + model
