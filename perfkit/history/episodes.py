"""Worsenings as people follow them: one episode from when it is heard until it is over, and again when it returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from perfkit.history.events import Event, Movement


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event as a result tells it.

    Parameters
    ----------
    holds
        Whether what got worse was not taken back since.
    acknowledged
        Whether it is known or intended.
    heard_at
        Id of the run at which it was first heard; empty where it is not known.
    """

    event: Event
    holds: bool = True
    acknowledged: bool = False
    heard_at: str = ""

    @property
    def worse(self) -> tuple[Movement, ...]:
        """What got worse, strongest first."""
        return tuple(item for item in self.event.movements if item.is_worse)

    @property
    def services(self) -> tuple[str, ...]:
        """Where it got worse, the strongest first."""
        return tuple(dict.fromkeys(item.service for item in self.worse))


@dataclass(frozen=True, slots=True)
class Episode:
    """A worsening through all its sightings: the first, then each relapse, oldest first."""

    sightings: tuple[Sighting, ...]

    @property
    def scenario(self) -> str:
        """Whose history it stands in."""
        return self.first.event.scenario

    @property
    def first(self) -> Sighting:
        """How it began."""
        return self.sightings[0]

    @property
    def last(self) -> Sighting:
        """How it is now."""
        return self.sightings[-1]

    @property
    def relapses(self) -> int:
        """How often it came back."""
        return len(self.sightings) - 1

    @property
    def is_open(self) -> bool:
        """Whether it still holds."""
        return self.last.holds

    @property
    def names(self) -> tuple[str, ...]:
        """All ids under which its first sighting may have been known: more runs may move its place a little."""
        return tuple(dict.fromkeys((self.first.event.id, *self.first.event.aliases)))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of scenario and place, under which it is followed elsewhere; see `fingerprints`."""
        return self.fingerprints[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The same for each of its names, for what was followed before its place moved."""
        return tuple(fingerprint(self.scenario, name) for name in self.names)


def fingerprint(scenario: str, name: str) -> str:
    """Under which an event of that name is followed elsewhere."""
    return hashlib.sha256(f"{scenario}\n{name}".encode()).hexdigest()[:12]


def episodes_of(sightings: Iterable[Sighting]) -> tuple[Episode, ...]:
    """Sightings of one scenario, oldest first, as episodes, in order of their beginning.

    A worsening in the series that led an earlier episode, between much the same levels, is its relapse: in between it
    must have been over.  What only got better is no episode.
    """
    found: list[Episode] = []
    for one in sightings:
        if not one.worse:
            continue
        again = next((i for i in reversed(range(len(found))) if _comes_back(one, found[i])), None)
        if again is None:
            found.append(Episode((one,)))
        else:
            found[again] = replace(found[again], sightings=(*found[again].sightings, one))
    return tuple(found)


def _comes_back(one: Sighting, known: Episode) -> bool:
    lead = known.last.worse[0]
    return any((item.service, item.metric) == (lead.service, lead.metric) and _alike(item, lead) for item in one.worse)


def _alike(one: Movement, other: Movement) -> bool:
    """Whether both levels are nearer to those of the other than half its size."""
    half = abs(other.change.after - other.change.before) / 2.0
    ends = ((one.change.before, other.change.before), (one.change.after, other.change.after))
    return all(abs(a - b) < half for a, b in ends)
