"""Worsenings as people follow them: one episode from when it is heard until it is over, and again when it returns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from perfkit.history.events import Event, Movement

ALIKE = 1.5  # times the size, up or down, within which a worsening of the same series is the earlier one again


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
        return tuple(hashlib.sha256(f"{self.scenario}\n{name}".encode()).hexdigest()[:12] for name in self.names)


def episodes_of(sightings: Iterable[Sighting]) -> tuple[Episode, ...]:
    """Sightings of one scenario, oldest first, as episodes, in order of their beginning.

    A worsening of much the same size in the series that led an earlier episode, after that was over, is its relapse.
    What only got better is no episode.
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
    if known.is_open:
        return False
    lead = known.last.worse[0]
    return any((item.service, item.metric) == (lead.service, lead.metric) and _alike(item, lead) for item in one.worse)


def _alike(one: Movement, other: Movement) -> bool:
    sizes = abs(one.size), abs(other.size)
    return sizes[0] == sizes[1] or (max(sizes) <= ALIKE * min(sizes) and math.isfinite(max(sizes)))
