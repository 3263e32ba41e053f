"""What is new in a result for somebody who was told earlier ones: what appeared, what came back, what is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from perfkit.history.episodes import Episode, fingerprint
from perfkit.model import Verdict
from perfkit.results import MissingService, Result

MOST_KNOWN = 200  # worsenings that are remembered: the newest


@dataclass(frozen=True, slots=True)
class Known:
    """A worsening that somebody was told: the fingerprints of all its sightings when last seen, and how it was put."""

    names: tuple[str, ...]
    headline: str

    @classmethod
    def of_episode(cls, episode: Episode) -> Known:
        """As it stands now."""
        return cls(_names(episode), episode.last.event.headline)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"names": list(self.names), "headline": self.headline}

    def shared(self, episode: Episode) -> int:
        """How many names it has in common with an episode; 0: it is another one."""
        return len(set(self.names) & set(_names(episode)))


def _names(episode: Episode) -> tuple[str, ...]:
    """Of every sighting: with few runs a relapse may look like an event of its own, and be told as one."""
    events = [one.event for one in episode.sightings]
    names = [name for event in events for name in (event.id, *event.aliases)]
    return tuple(dict.fromkeys(fingerprint(episode.scenario, name) for name in names))


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody knows of a scenario: worsenings that hold and that are over, and whether its runs were unfit.

    ``missing`` are services without requests, as they were put.
    """

    open: tuple[Known, ...] = ()
    over: tuple[Known, ...] = ()
    invalid: bool = False
    missing: tuple[MissingService, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "open": [one.to_dict() for one in self.open],
            "over": [one.to_dict() for one in self.over],
            "invalid": self.invalid,
            "missing": [msgspec.to_builtins(item) for item in self.missing],
        }


@dataclass(frozen=True, slots=True)
class News:
    """What is new; false when nothing is.

    Parameters
    ----------
    appeared, returned
        Worsenings that hold and were not told: new ones, and those that were over before.
    over
        What was told and does not hold any more.
    invalid
        Whether the runs cannot be judged, for the first time.
    after
        What is known once this is told.
    missing
        Services that have no requests any more, which was not told.
    measured_again
        Those of which it was told, and which have requests again.
    """

    appeared: tuple[Episode, ...]
    returned: tuple[Episode, ...]
    over: tuple[Known, ...]
    invalid: bool
    after: Told
    missing: tuple[MissingService, ...] = ()
    measured_again: tuple[MissingService, ...] = ()

    def __bool__(self) -> bool:
        return self.is_bad or bool(self.over or self.measured_again)

    @property
    def is_bad(self) -> bool:
        """Whether anything in it is no good news."""
        return bool(self.appeared or self.returned or self.invalid or self.missing)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for those who are to hear the same."""
        names = tuple(_names(one) for one in (*self.appeared, *self.returned))
        services = tuple(tuple(item.key for item in items) for items in (self.missing, self.measured_again))
        return names, tuple(one.names for one in self.over), self.invalid, services


def news_of(result: Result, told: Told) -> News:
    """What a result says that was not told.

    An acknowledged worsening is no news, nor is its end.  What was told and is not in the result at all is taken to
    hold still: the history at hand may be a part of the one that it was seen in.
    """
    pairs = [(known, _same(known, result.episodes)) for known in told.open]
    seen = [found for _, found in pairs if found is not None]
    fresh = [one for one in result.news if one not in seen]
    over = tuple(known for known, found in pairs if _is_over(known, found, result))
    open_now = [known for known, found in pairs if found is None and known not in over]
    open_now += [Known.of_episode(one) for one in result.news]
    gone = [known for known in (*told.over, *over) if not any(map(known.shared, result.news))]
    back = [one for one in fresh if one.relapses or any(known.shared(one) for known in told.over)]
    invalid = result.verdict is Verdict.INVALID
    missing = {item.key: item for item in result.missing_services}
    services = {item.service for item in missing.values()}
    before = {item.key: item for item in told.missing}
    measured_again = tuple(item for item in told.missing if item.service not in services and result.has_again(item))
    still = [item for item in told.missing if item not in measured_again and item.key not in missing]
    if result.watched:  # a service that ended anew, since another run
        still = [item for item in still if item.service not in services]
    return News(
        tuple(one for one in fresh if one not in back),
        tuple(back),
        over,
        invalid and not told.invalid,
        Told(
            tuple(open_now[-MOST_KNOWN:]),
            tuple(gone[-MOST_KNOWN:]),
            invalid,
            tuple([*still, *missing.values()][-MOST_KNOWN:]),
        ),
        tuple(item for key, item in missing.items() if key not in before),
        measured_again,
    )


def _same(known: Known, episodes: Sequence[Episode]) -> Episode | None:
    """The episode that was told: of neighbours, whose names may overlap, the one that has most in common with it."""
    best = max(episodes, key=known.shared, default=None)
    return best if best is not None and known.shared(best) else None


def _is_over(known: Known, found: Episode | None, result: Result) -> bool:
    if found is not None:
        return not found.is_open
    fine = result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT)
    return not result.watched and fine and result.fingerprint in known.names
