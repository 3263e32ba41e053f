"""Which issue follows which worsening, although places move and runs are forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.deliver.github.marker import Marker, read_marker
from perfkit.deliver.github.wanted import Wanted
from perfkit.history.episodes import fingerprint


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue that bears perfkit's marker."""

    number: int
    title: str
    body: str
    is_open: bool
    marker: Marker

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Issue | None:
        """From the API; ``None`` for a pull request and for what bears no marker.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is no issue at all.
        """
        number, title, state = int(plain["number"]), str(plain["title"]), str(plain["state"])
        body = str(plain.get("body") or "").replace("\r\n", "\n")  # the web page sends these back
        marker = read_marker(body)
        if marker is None or "pull_request" in plain:
            return None
        return cls(number, title, body, state == "open", marker)


@dataclass(frozen=True, slots=True)
class Pair:
    """A worsening, the issue that follows it, and further issues that follow the same."""

    wanted: Wanted
    issue: Issue | None
    twins: tuple[Issue, ...] = ()


def paired(wanted: Sequence[Wanted], issues: Iterable[Issue]) -> tuple[Pair, ...]:
    """The wanted with their issues, in order; an issue follows one worsening at most.

    The surest pairs come first: the same name, then names that the other may have had, then runs at which both were
    heard.  Of issues alike an open one comes first, then the oldest.
    """
    every = sorted(issues, key=lambda one: one.number)
    scores = {(i, one.number): score(want, one.marker) for i, want in enumerate(wanted) for one in every}
    by_number = {one.number: one for one in every}
    ranked = sorted(
        (key for key, value in scores.items() if value),
        key=lambda key: (-scores[key], not by_number[key[1]].is_open, key[1]),
    )
    chosen: dict[int, int] = {}
    for i, number in ranked:
        if i not in chosen and number not in chosen.values():
            chosen[i] = number
    twins: dict[int, list[Issue]] = {}
    for i, number in ranked:
        if number not in chosen.values() and not any(number == one.number for found in twins.values() for one in found):
            twins.setdefault(i, []).append(by_number[number])
    return tuple(
        Pair(want, by_number[chosen[i]] if i in chosen else None, tuple(twins.get(i, ())))
        for i, want in enumerate(wanted)
    )


def score(wanted: Wanted, marker: Marker) -> int:
    """How surely a worsening is the one of a marker; 0: it is another one."""
    if marker.scenario != scenario_digest(wanted.scenario) or not marker.names:
        return 0
    mine, theirs = set(wanted.names), set(marker.names)
    points = 8 if wanted.names[0] == marker.names[0] else 0
    points += 4 if wanted.names[0] in theirs or marker.names[0] in mine else 0
    points += 3 if set(wanted.heard) & set(marker.heard) and set(wanted.services) & set(marker.services) else 0
    return points + (1 if mine & theirs else 0)


def scenario_digest(scenario: str) -> str:
    """What stands for a scenario in a marker."""
    return fingerprint(scenario, "")
