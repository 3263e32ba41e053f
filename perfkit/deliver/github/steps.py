"""From what is wanted and what is there to the fewest requests; nothing is sent here.

A comment goes out before the change that it speaks of, and bears a hidden word that belongs to the issue's marker as it
was: when the change was cut off, the next call finds the comment and sends the change alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from perfkit.channels import IssueSettings
from perfkit.deliver.github.marker import (
    MOST_NAMES,
    MOST_SERVICES,
    OPEN,
    TWIN,
    Marker,
    digest,
    marked_anew,
    replaced,
    said,
    wrapped,
)
from perfkit.deliver.github.matching import Issue, Pair, scenario_digest
from perfkit.deliver.github.wanted import HOLDS, KNOWN, OVER, Wanted, service_digest
from perfkit.history.episodes import Episode
from perfkit.render.issue import (
    Story,
    back_comment,
    headline,
    known_comment,
    over_comment,
    spread_comment,
    to_body,
    to_title,
    twin_comment,
)

MOVED = 0.05  # of its size, by which a change must move before the text is sent anew: every run moves it a little
MOST_BODY = 65_000  # characters; GitHub takes 65,536


@dataclass(frozen=True, slots=True)
class Call:
    """One request that changes something; ``said`` is the hidden word by which a comment is found again."""

    method: str
    path: str
    payload: Mapping[str, Any]
    said: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As ``--dry-run`` prints it."""
        return {"method": self.method, "path": self.path, "json": dict(self.payload)}


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to one issue, in words and in requests; ``number`` is ``None`` for one that is yet to be opened."""

    what: str
    number: int | None
    title: str
    calls: tuple[Call, ...]
    wanted: Wanted = field(repr=False)

    @property
    def opens(self) -> bool:
        """Whether it makes a new issue."""
        return self.number is None


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for one repository.

    Parameters
    ----------
    path
        Of the repository in the API.
    story_of
        What to tell of a worsening.
    """

    path: str
    settings: IssueSettings
    story_of: Callable[[Wanted, Episode], Story]

    def steps(self, pair: Pair) -> Iterator[Step]:
        """What brings the issues of a pair to where they shall be; nothing where they are there."""
        wanted, issue = pair.wanted, pair.issue
        if issue is None:
            if wanted.speaks and wanted.episode is not None:
                yield self._opened(wanted, wanted.episode)
        elif issue.is_open:
            yield from self._on_open(wanted, issue)
        else:
            yield from self._on_closed(wanted, issue)
        for twin in pair.twins:
            if issue is not None and twin.is_open and twin.marker.state == OPEN:
                yield self.twin(wanted, twin, issue.number)

    def twin(self, wanted: Wanted, twin: Issue, number: int) -> Step:
        """Close an issue that follows the same as another one."""
        calls = (
            self._comment(twin, "twin", twin_comment(number)),
            self._change(twin, self._left(twin, TWIN), state="closed", state_reason="not_planned"),
        )
        return Step(f"closed as a duplicate of #{number}", twin.number, twin.title, calls, wanted)

    def _opened(self, wanted: Wanted, episode: Episode) -> Step:
        title, part = self._part(wanted, episode, None)
        payload: dict[str, Any] = {"title": title, "body": part}
        for name in ("labels", "assignees"):
            if getattr(self.settings, name):
                payload[name] = list(getattr(self.settings, name))
        return Step("opened", None, title, (Call("POST", f"{self.path}/issues", payload),), wanted)

    def _on_open(self, wanted: Wanted, issue: Issue) -> Iterator[Step]:
        by_hand = issue.marker.state != OPEN  # reopened by a person: theirs, until it comes back
        if by_hand and not (wanted.speaks and _came_back(wanted, issue.marker)):
            return
        if wanted.standing == HOLDS and wanted.episode is not None:
            yield from self._updated(wanted, wanted.episode, issue, anyway=by_hand)
        elif wanted.standing == KNOWN:
            yield self._closed(wanted, issue, "acknowledged", known_comment(wanted.reason), "not_planned")
        elif wanted.standing == OVER:
            yield self._closed(wanted, issue, "over", over_comment(wanted.episode, wanted.scenario), "completed")

    def _on_closed(self, wanted: Wanted, issue: Issue) -> Iterator[Step]:
        if wanted.episode is not None and _returns(wanted, issue.marker):
            comment = self._comment(issue, "back", back_comment(wanted.episode))
            change = self._change(
                issue, self._body(wanted, wanted.episode, issue), state="open", state_reason="reopened"
            )
            yield Step("reopened", issue.number, issue.title, (comment, change), wanted)
        elif wanted.standing == OVER and issue.marker.state == OPEN:
            # Closed by a person; from now on it may come back
            change = self._change(issue, self._left(issue, OVER))
            yield Step("noted as over", issue.number, issue.title, (change,), wanted)

    def _updated(self, wanted: Wanted, episode: Episode, issue: Issue, *, anyway: bool) -> Iterator[Step]:
        known = issue.marker.services
        room = len(known) < MOST_SERVICES
        fresh = [name for name in episode.last.services if service_digest(name) not in known] if room else []
        moved = _moved(issue.marker.sizes, wanted.sizes) and self._reads_differently(wanted, episode, issue.marker)
        if not (anyway or fresh or moved or _came_back(wanted, issue.marker)):
            return
        calls = [self._change(issue, self._body(wanted, episode, issue))]
        if fresh:
            calls.insert(0, self._comment(issue, "spread", spread_comment(episode, fresh)))
        what = f"told of {len(fresh)} more service{'s' if len(fresh) > 1 else ''}" if fresh else "updated"
        yield Step(what, issue.number, issue.title, tuple(calls), wanted)

    def _closed(self, wanted: Wanted, issue: Issue, why: str, comment: str, reason: str) -> Step:
        body = self._body(wanted, wanted.episode, issue) if wanted.episode is not None else self._left(issue, OVER)
        calls = (
            self._comment(issue, why, comment),
            self._change(issue, body, state="closed", state_reason=reason),
        )
        return Step(f"closed, {why}", issue.number, issue.title, calls, wanted)

    def _comment(self, issue: Issue, kind: str, text: str) -> Call:
        word = said(kind, issue.marker)
        return Call("POST", f"{self.path}/issues/{issue.number}/comments", {"body": f"{text}\n\n{word}"}, word)

    def _change(self, issue: Issue, content: Mapping[str, str], **state: str) -> Call:
        return Call("PATCH", f"{self.path}/issues/{issue.number}", {**content, **state})

    def _left(self, issue: Issue, state: str) -> dict[str, str]:
        """The text as it is, with a marker that says how it is left."""
        marker = replace(issue.marker, state=state, turn=issue.marker.turn + 1)
        return {"body": marked_anew(issue.body, marker)}

    def _body(self, wanted: Wanted, episode: Episode, issue: Issue) -> dict[str, str]:
        """The text anew, and the title unless a person gave it another."""
        title, part = self._part(wanted, episode, issue.marker)
        body = replaced(issue.body, part)
        if len(body) > MOST_BODY:
            body = replaced(issue.body, self._part(wanted, episode, issue.marker, brief=True)[1])
        ours = digest(issue.title) == issue.marker.title and title != issue.title
        return {"title": title, "body": body} if ours else {"body": body}

    def _reads_differently(self, wanted: Wanted, episode: Episode, old: Marker) -> bool:
        return digest(to_body(self.story_of(wanted, episode))) != old.text

    def _part(self, wanted: Wanted, episode: Episode, old: Marker | None, *, brief: bool = False) -> tuple[str, str]:
        title = to_title(episode, self.settings.title)
        text = headline(episode) if brief else to_body(self.story_of(wanted, episode))
        return title, wrapped(_marker(wanted, old, title, text), text)


def _marker(wanted: Wanted, old: Marker | None, title: str, text: str) -> Marker:
    def with_old(name: str, most: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*getattr(wanted, name), *(getattr(old, name) if old else ()))))[:most]

    return Marker(
        scenario_digest(wanted.scenario),
        with_old("names", MOST_NAMES),
        wanted.last,
        with_old("heard", MOST_NAMES),
        with_old("services", MOST_SERVICES),
        wanted.sizes,
        OPEN if wanted.standing == HOLDS else wanted.standing,
        old.turn + 1 if old is not None else 0,
        digest(title),
        digest(text),
    )


def _returns(wanted: Wanted, marker: Marker) -> bool:
    """Whether a closed issue is to be opened again.

    What was over and holds again does so, however long ago it was first heard; else it needs a reason to object, and,
    when a person closed it, another sighting than the issue knows.
    """
    if marker.state == OVER:
        return wanted.standing == HOLDS
    return wanted.speaks and (marker.state != OPEN or _came_back(wanted, marker))


def _came_back(wanted: Wanted, marker: Marker) -> bool:
    """Whether its last sighting is another one than the issue knows."""
    return not set(wanted.last) & set(marker.last)


def _moved(old: Mapping[str, float | None], new: Mapping[str, float | None]) -> bool:
    """Whether other metrics moved, or one by another size."""
    if old.keys() != new.keys():
        return True
    return any(_differs(old[key], new[key]) for key in old)


def _differs(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > MOVED * max(abs(old), abs(new))
