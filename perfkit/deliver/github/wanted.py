"""What a result wants of the issues: each worsening with its names, whether it holds, and whether it may speak."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perfkit.deliver.github.marker import MOST_NAMES, MOST_SERVICES, digest
from perfkit.history.episodes import Episode, Sighting, fingerprint
from perfkit.model import Verdict
from perfkit.results import Result

HOLDS, OVER, KNOWN = "holds", "over", "known"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worsening that an issue follows, or shall follow.

    Parameters
    ----------
    names, last, heard
        Fingerprints: of all places of all sightings, its own name first; of the last sighting; of the runs at which
        sightings were first heard.
    standing
        ``holds``, ``over`` or ``known``: acknowledged.
    speaks
        Whether it is a reason to open or reopen an issue: beyond its tolerance, news, and not acknowledged.
    reason
        Who acknowledged it, and why.
    episode
        ``None`` for the end of what only earlier results told.
    """

    scenario: str
    names: tuple[str, ...]
    last: tuple[str, ...]
    heard: tuple[str, ...]
    standing: str
    speaks: bool
    reason: str = ""
    episode: Episode | None = None

    @property
    def services(self) -> tuple[str, ...]:
        """Digests of the services in which it stands now, the strongest first."""
        named = self.episode.last.services if self.episode is not None else ()
        return tuple(service_digest(name) for name in named[:MOST_SERVICES])

    @property
    def sizes(self) -> dict[str, float | None]:
        """Digest of a service and metric to the size of its change; ``None`` for one from zero."""
        worse = self.episode.last.worse if self.episode is not None else ()
        sizes = {digest(f"{item.service}\n{item.metric.value}", 8): item.size for item in worse[:MOST_SERVICES]}
        return {key: float(f"{size:.4g}") if math.isfinite(size) else None for key, size in sorted(sizes.items())}


def service_digest(name: str) -> str:
    """What stands for a service in a marker."""
    return digest(name, 8)


def wanted_of(result: Result) -> tuple[Wanted, ...]:
    """What a result wants, oldest first.

    Of a comparison without history that is one worsening since its baseline, or the end of it; what is inconclusive
    or invalid wants nothing.
    """
    if result.verdict is Verdict.INVALID:
        return ()
    alerts = _alerts(result.document)
    if result.watched:
        return tuple(_of_episode(one, alerts.get(one.last.event.id, {})) for one in result.episodes)
    if result.episodes:
        return tuple(_of_episode(one, {"fails": True}) for one in result.episodes)
    if result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT) and result.fingerprint:
        name = (result.fingerprint,)
        return (Wanted(result.scenario, name, name, (), OVER, speaks=False),)
    return ()


def _alerts(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    watch = document.get("history") or document.get("watch") or {}
    return {one["id"]: one for one in watch.get("alerts") or ()}


def _of_episode(episode: Episode, alert: Mapping[str, Any]) -> Wanted:
    known = episode.is_open and episode.last.acknowledged
    return Wanted(
        episode.scenario,
        _unique(name for one in episode.sightings for name in _names(one))[:MOST_NAMES],
        _names(episode.last),
        _unique(fingerprint(episode.scenario, one.heard_at) for one in episode.sightings if one.heard_at)[:MOST_NAMES],
        KNOWN if known else HOLDS if episode.is_open else OVER,
        episode.is_open and not known and bool(alert.get("fails")),
        _reason(alert.get("acknowledged")) if known else "",
        episode,
    )


def _names(one: Sighting) -> tuple[str, ...]:
    """Its own name first."""
    return _unique(fingerprint(one.event.scenario, name) for name in (one.event.id, *one.event.aliases))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _reason(known: Any) -> str:
    """As `Acknowledgement.describe` says it."""
    if not isinstance(known, Mapping):
        return "acknowledged"
    day = f" on {str(known['created'])[:10]}" if known.get("created") else ""  # ISO 8601
    until = f", until {known['until']}" if known.get("until") else ""
    return f"acknowledged by {known.get('by') or 'unknown'}{day}{until}: {known.get('reason') or 'no reason is given'}"
