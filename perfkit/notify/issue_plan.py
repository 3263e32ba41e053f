"""From what is wanted and what is there to the fewest requests; nothing is sent here.

A comment goes out before the change that it speaks of, and bears a hidden word that belongs to the issue's marker as it
was: when the change was cut off, the next call finds the comment and sends the change alone.

What an issue remembers of the worsening that it follows: a hidden comment at the head of perfkit's part of its text.

It holds nothing but digests and numbers, so that no name can end the comment, and never more than some 20 kB.  The text
before and after that part belongs to people.

What a result wants of the issues: each worsening with its names, whether it holds, and whether it may speak.

Which issue follows which worsening, although places move and runs are forgotten.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from perfkit.config.settings import IssueSettings
from perfkit.history.incidents import Incident, Occurrence, Result, fingerprint
from perfkit.model.records import Verdict
from perfkit.report.issue import (
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

OPEN, TWIN = "open", "twin"
MOST_SERVICES = 500
MOST_NAMES = 100
_BEGIN = re.compile(r"<!-- perfkit-issue (\{[^<>]*\}) -->\n?")
_END = "<!-- /perfkit-issue -->"
_SAID = "<!-- perfkit-said {} -->"


def digest(text: str, length: int = 12) -> str:
    """Hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class Marker:
    """What is known of an issue without reading it as people do.

    Parameters
    ----------
    scenario
        Fingerprint of its name.
    names
        Fingerprints of all places under which any occurrence may have been known; the first is its own name.
    last
        Those of the last occurrence.
    heard
        Fingerprints of the runs at which its occurrences were first heard.
    services
        Digests of the services that were named.
    sizes
        Digest of a service and metric to the size of its change that is shown.
    state
        How perfkit left it: ``open``, or closed because it was ``over``, ``known`` or the ``twin`` of another issue.
        What is open or closed against that was opened or closed by a person.
    turn
        Counts what perfkit did with it.
    title, text
        Digests of the title and the text as perfkit wrote them.
    """

    scenario: str
    names: tuple[str, ...]
    last: tuple[str, ...]
    heard: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    sizes: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    state: str = OPEN
    turn: int = 0
    title: str = ""
    text: str = ""

    def to_text(self) -> str:
        """The comment."""
        plain = {name: _plain(getattr(self, name)) for name in self.__slots__}
        return f"<!-- perfkit-issue {json.dumps(plain, separators=(',', ':'))} -->"


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def read_marker(body: str) -> Marker | None:
    """The marker in the text of an issue; ``None`` where there is none that could be perfkit's."""
    found = _BEGIN.search(body)
    if found is None:
        return None
    try:
        plain = json.loads(found[1])
        sizes = {str(name): None if size is None else float(size) for name, size in plain["sizes"].items()}
        given: dict[str, Any] = {"sizes": sizes, "turn": int(plain["turn"])}
        given |= {name: tuple(map(str, plain[name])) for name in ("names", "last", "heard", "services")}
        given |= {name: str(plain[name]) for name in ("scenario", "state", "title", "text")}
        return Marker(**given)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def wrapped(marker: Marker, text: str) -> str:
    """perfkit's part of the text of an issue."""
    return f"{marker.to_text()}\n{text}\n{_END}"


def replaced(body: str, part: str) -> str:
    """The text of an issue with perfkit's part anew; what people wrote around it stays."""
    found = _BEGIN.search(body)
    if found is None:
        return part
    end = body.find(_END, found.end())
    rest = body[end + len(_END) :] if end >= 0 else ""
    return f"{body[: found.start()]}{part}{rest}"


def marked_anew(body: str, marker: Marker) -> str:
    """The text of an issue with another marker, and else as it is."""
    return _BEGIN.sub(lambda _: f"{marker.to_text()}\n", body, count=1)


def said(kind: str, marker: Marker) -> str:
    """A hidden comment for what is said of an issue in this state: it is said once."""
    return _SAID.format(f"{kind}-{digest(marker.to_text())}")


HOLDS, OVER, KNOWN = "holds", "over", "known"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worsening that an issue follows, or shall follow.

    Parameters
    ----------
    names, last, heard
        Fingerprints: of all places of all occurrences, its own name first; of the last occurrence; of the runs at which
        occurrences were first heard.
    standing
        ``holds``, ``over`` or ``known``: acknowledged.
    speaks
        Whether it is a reason to open or reopen an issue: beyond its tolerance, news, and not acknowledged.
    reason
        Who acknowledged it, and why.
    incident
        ``None`` for the end of what only earlier results told.
    """

    scenario: str
    names: tuple[str, ...]
    last: tuple[str, ...]
    heard: tuple[str, ...]
    standing: str
    speaks: bool
    reason: str = ""
    incident: Incident | None = None

    @property
    def services(self) -> tuple[str, ...]:
        """Digests of the services in which it stands now, the strongest first."""
        named = self.incident.last.services if self.incident is not None else ()
        return tuple(service_digest(name) for name in named[:MOST_SERVICES])

    @property
    def sizes(self) -> dict[str, float | None]:
        """Digest of a service and metric to the size of its change; ``None`` for one from zero."""
        worse = self.incident.last.worse if self.incident is not None else ()
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
        return tuple(_of_episode(one, alerts.get(one.last.event.id, {})) for one in result.incidents)
    if result.incidents:
        return tuple(_of_episode(one, {"fails": True}) for one in result.incidents)
    if result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT) and result.fingerprint:
        name = (result.fingerprint,)
        return (Wanted(result.scenario, name, name, (), OVER, speaks=False),)
    return ()


def _alerts(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    watch = document.get("history") or document.get("watch") or {}
    return {one["id"]: one for one in watch.get("alerts") or ()}


def _of_episode(incident: Incident, alert: Mapping[str, Any]) -> Wanted:
    known = incident.is_open and incident.last.acknowledged
    return Wanted(
        incident.scenario,
        _unique(name for one in incident.occurrences for name in _names(one))[:MOST_NAMES],
        _names(incident.last),
        _unique(fingerprint(incident.scenario, one.detected_at) for one in incident.occurrences if one.detected_at)[
            :MOST_NAMES
        ],
        KNOWN if known else HOLDS if incident.is_open else OVER,
        incident.is_open and not known and bool(alert.get("fails")),
        _reason(alert.get("acknowledged")) if known else "",
        incident,
    )


def _names(one: Occurrence) -> tuple[str, ...]:
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
    story_of: Callable[[Wanted, Incident], Story]

    def steps(self, pair: Pair) -> Iterator[Step]:
        """What brings the issues of a pair to where they shall be; nothing where they are there."""
        wanted, issue = pair.wanted, pair.issue
        if issue is None:
            if wanted.speaks and wanted.incident is not None:
                yield self._opened(wanted, wanted.incident)
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

    def _opened(self, wanted: Wanted, incident: Incident) -> Step:
        title, part = self._part(wanted, incident, None)
        payload: dict[str, Any] = {"title": title, "body": part}
        for name in ("labels", "assignees"):
            if getattr(self.settings, name):
                payload[name] = list(getattr(self.settings, name))
        return Step("opened", None, title, (Call("POST", f"{self.path}/issues", payload),), wanted)

    def _on_open(self, wanted: Wanted, issue: Issue) -> Iterator[Step]:
        by_hand = issue.marker.state != OPEN  # reopened by a person: theirs, until it comes back
        if by_hand and not (wanted.speaks and _came_back(wanted, issue.marker)):
            return
        if wanted.standing == HOLDS and wanted.incident is not None:
            yield from self._updated(wanted, wanted.incident, issue, anyway=by_hand)
        elif wanted.standing == KNOWN:
            yield self._closed(wanted, issue, "acknowledged", known_comment(wanted.reason), "not_planned")
        elif wanted.standing == OVER:
            yield self._closed(wanted, issue, "over", over_comment(wanted.incident, wanted.scenario), "completed")

    def _on_closed(self, wanted: Wanted, issue: Issue) -> Iterator[Step]:
        if wanted.incident is not None and _returns(wanted, issue.marker):
            comment = self._comment(issue, "back", back_comment(wanted.incident))
            change = self._change(
                issue, self._body(wanted, wanted.incident, issue), state="open", state_reason="reopened"
            )
            yield Step("reopened", issue.number, issue.title, (comment, change), wanted)
        elif wanted.standing == OVER and issue.marker.state == OPEN:
            # Closed by a person; from now on it may come back
            change = self._change(issue, self._left(issue, OVER))
            yield Step("noted as over", issue.number, issue.title, (change,), wanted)

    def _updated(self, wanted: Wanted, incident: Incident, issue: Issue, *, anyway: bool) -> Iterator[Step]:
        known = issue.marker.services
        room = len(known) < MOST_SERVICES
        fresh = [name for name in incident.last.services if service_digest(name) not in known] if room else []
        moved = _moved(issue.marker.sizes, wanted.sizes) and self._reads_differently(wanted, incident, issue.marker)
        if not (anyway or fresh or moved or _came_back(wanted, issue.marker)):
            return
        calls = [self._change(issue, self._body(wanted, incident, issue))]
        if fresh:
            calls.insert(0, self._comment(issue, "spread", spread_comment(incident, fresh)))
        what = f"told of {len(fresh)} more service{'s' if len(fresh) > 1 else ''}" if fresh else "updated"
        yield Step(what, issue.number, issue.title, tuple(calls), wanted)

    def _closed(self, wanted: Wanted, issue: Issue, why: str, comment: str, reason: str) -> Step:
        body = self._body(wanted, wanted.incident, issue) if wanted.incident is not None else self._left(issue, OVER)
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

    def _body(self, wanted: Wanted, incident: Incident, issue: Issue) -> dict[str, str]:
        """The text anew, and the title unless a person gave it another."""
        title, part = self._part(wanted, incident, issue.marker)
        body = replaced(issue.body, part)
        if len(body) > MOST_BODY:
            body = replaced(issue.body, self._part(wanted, incident, issue.marker, brief=True)[1])
        ours = digest(issue.title) == issue.marker.title and title != issue.title
        return {"title": title, "body": body} if ours else {"body": body}

    def _reads_differently(self, wanted: Wanted, incident: Incident, old: Marker) -> bool:
        return digest(to_body(self.story_of(wanted, incident))) != old.text

    def _part(self, wanted: Wanted, incident: Incident, old: Marker | None, *, brief: bool = False) -> tuple[str, str]:
        title = to_title(incident, self.settings.title)
        text = headline(incident) if brief else to_body(self.story_of(wanted, incident))
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
    when a person closed it, another occurrence than the issue knows.
    """
    if marker.state == OVER:
        return wanted.standing == HOLDS
    return wanted.speaks and (marker.state != OPEN or _came_back(wanted, marker))


def _came_back(wanted: Wanted, marker: Marker) -> bool:
    """Whether its last occurrence is another one than the issue knows."""
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
