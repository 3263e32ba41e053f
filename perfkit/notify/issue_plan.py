"""The actions that bring a repository's issues to what a result asks for; nothing is sent here.

`desired_issues` says which incidents want an issue and in which state, `match_issues` which issue follows which
incident, `ActionPlanner` what to request.  A comment goes out before the change that it is about, with a hidden word
made of the issue's marker as it was: when a call is cut off, the next one finds the comment and sends the change alone.
An issue remembers its incident in a hidden comment, the `Marker`: digests and numbers, at most some 20 kB.  What people
write before and after perfkit's part of the text stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perfkit.config.settings import IssueSettings
from perfkit.history.incidents import Incident, Occurrence, Result, fingerprint
from perfkit.model.records import Verdict
from perfkit.notify.outbox import digest
from perfkit.report.issue import (
    back_comment,
    headline,
    known_comment,
    over_comment,
    spread_comment,
    to_title,
    twin_comment,
)

OPEN, RESOLVED, ACKNOWLEDGED, DUPLICATE = (
    "open",
    "over",
    "known",
    "twin",
)  # of a marker, as issues have them since 0.1.0
HOLDS = "holds"
MOST_SERVICES = 500
MOST_NAMES = 100
MOVED = 0.05  # of its size, by which a change must move before the text is sent anew: every run moves it a little
MOST_BODY = 65_000  # characters; GitHub takes 65,536
_BEGIN = re.compile(r"<!-- perfkit-issue (\{[^<>]*\}) -->\n?")
_END = "<!-- /perfkit-issue -->"


class Marker(msgspec.Struct, frozen=True, rename={"detected_at": "heard"}):
    """What an issue remembers of its incident.

    Parameters
    ----------
    scenario
        Fingerprint of its name.
    names
        Fingerprints of all places at which any occurrence may have been found; the first is its own name.
    last
        Those of the last occurrence.
    detected_at
        Fingerprints of the runs at which its occurrences were first detected.
    services
        Digests of the services that were named.
    sizes
        Digest of a service and metric to the size of its change that is shown.
    state
        How perfkit left it: open, or closed because it was resolved, acknowledged or a duplicate.  An issue in another
        state was opened or closed by a user.
    turn
        Counts what perfkit did with it.
    title, text
        Digests of the title and the text as perfkit wrote them.
    """

    scenario: str
    names: tuple[str, ...]
    last: tuple[str, ...]
    detected_at: tuple[str, ...]
    services: tuple[str, ...]
    sizes: dict[str, float | None]
    state: str
    turn: int
    title: str
    text: str

    def to_text(self) -> str:
        """The hidden comment."""
        return f"<!-- perfkit-issue {msgspec.json.encode(self).decode()} -->"

    def hidden_word(self, kind: str) -> str:
        """A hidden comment for what is said of an issue in this state, so that it is said once."""
        return f"<!-- perfkit-said {kind}-{digest(self.to_text())} -->"


def read_marker(body: str) -> Marker | None:
    """The marker in the text of an issue; ``None`` where there is none that could be perfkit's."""
    found = _BEGIN.search(body)
    try:
        return msgspec.json.decode(found[1], type=Marker) if found is not None else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class DesiredIssue:
    """The issue that an incident should have.

    Parameters
    ----------
    names, last, detected_at
        Fingerprints: of all places of all occurrences, its own name first; of the last occurrence; of the runs at which
        occurrences were first detected.
    status
        `HOLDS`, `RESOLVED` or `ACKNOWLEDGED`.
    should_open
        Whether it is a reason to open or reopen an issue: beyond its tolerance, holds, and is not acknowledged.
    reason
        Who acknowledged it, and why.
    incident
        ``None`` for the end of an incident that only earlier results show.
    """

    scenario: str
    names: tuple[str, ...]
    last: tuple[str, ...]
    detected_at: tuple[str, ...]
    status: str
    should_open: bool
    reason: str = ""
    incident: Incident | None = None

    @property
    def services(self) -> tuple[str, ...]:
        """Digests of the services in which it holds now, the strongest first."""
        named = self.incident.last.services if self.incident is not None else ()
        return tuple(digest(name, 8) for name in named[:MOST_SERVICES])

    @property
    def sizes(self) -> dict[str, float | None]:
        """Digest of a service and metric to the size of its change; ``None`` for one from zero."""
        worse = self.incident.last.worse if self.incident is not None else ()
        sizes = {digest(f"{item.service}\n{item.metric.value}", 8): item.size for item in worse[:MOST_SERVICES]}
        return {key: float(f"{size:.4g}") if math.isfinite(size) else None for key, size in sorted(sizes.items())}

    @property
    def scenario_digest(self) -> str:
        """What stands for the scenario in a marker."""
        return fingerprint(self.scenario, "")

    def came_back(self, marker: Marker) -> bool:
        """Whether its last occurrence is another one than the issue knows."""
        return not set(self.last) & set(marker.last)

    def match_score(self, marker: Marker) -> int:
        """How surely an issue with this marker follows it; 0: it follows another incident."""
        if marker.scenario != self.scenario_digest or not marker.names:
            return 0
        points = 8 if self.names[0] == marker.names[0] else 0
        points += 4 if self.names[0] in marker.names or marker.names[0] in self.names else 0
        same_run = set(self.detected_at) & set(marker.detected_at)
        points += 3 if same_run and set(self.services) & set(marker.services) else 0
        return points + (1 if set(self.names) & set(marker.names) else 0)


def desired_issues(result: Result) -> tuple[DesiredIssue, ...]:
    """The issues that a result asks for, oldest incident first.

    A comparison without history is one incident since its baseline, or the end of it.  Inconclusive and invalid
    results ask for none.
    """
    if result.verdict is Verdict.INVALID:
        return ()
    history = result.document.get("history") or result.document.get("watch") or {}
    alerts = {alert["id"]: alert for alert in history.get("alerts") or ()}
    if result.incidents:
        unwatched = {"fails": True}
        return tuple(
            _desired(incident, alerts.get(incident.last.event.id, {}) if result.watched else unwatched)
            for incident in result.incidents
        )
    if not result.watched and result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT) and result.fingerprint:
        name = (result.fingerprint,)
        return (DesiredIssue(result.scenario, name, name, (), RESOLVED, should_open=False),)
    return ()


def _desired(incident: Incident, alert: Mapping[str, Any]) -> DesiredIssue:
    scenario, occurrences = incident.scenario, incident.occurrences
    acknowledged = incident.is_open and incident.last.acknowledged
    known, reason = alert.get("acknowledged"), "acknowledged"
    if isinstance(known, Mapping):  # as `Acknowledgement.describe` puts it
        day = f" on {str(known['created'])[:10]}" if known.get("created") else ""  # ISO 8601
        until = f", until {known['until']}" if known.get("until") else ""
        why = known.get("reason") or "no reason is given"
        reason = f"acknowledged by {known.get('by') or 'unknown'}{day}{until}: {why}"
    return DesiredIssue(
        scenario,
        _unique(name for occurrence in occurrences for name in _names(occurrence))[:MOST_NAMES],
        _names(incident.last),
        _unique(fingerprint(scenario, item.detected_at) for item in occurrences if item.detected_at)[:MOST_NAMES],
        ACKNOWLEDGED if acknowledged else HOLDS if incident.is_open else RESOLVED,
        incident.is_open and not acknowledged and bool(alert.get("fails")),
        reason if acknowledged else "",
        incident,
    )


def _names(occurrence: Occurrence) -> tuple[str, ...]:
    """Its own name first."""
    event = occurrence.event
    return _unique(fingerprint(event.scenario, name) for name in (event.id, *event.aliases))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue that bears perfkit's marker."""

    number: int
    title: str
    body: str
    is_open: bool
    marker: Marker

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> Issue | None:
        """From the API; ``None`` for a pull request and for what bears no marker.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is no issue at all.
        """
        number, title, state = int(item["number"]), str(item["title"]), str(item["state"])
        body = str(item.get("body") or "").replace("\r\n", "\n")  # the web page sends these back
        marker = read_marker(body)
        if marker is None or "pull_request" in item:
            return None
        return cls(number, title, body, state == "open", marker)

    def with_part(self, part: str) -> str:
        """The text with perfkit's part replaced; what people wrote around it stays."""
        begin = _BEGIN.search(self.body)
        if begin is None:
            return part
        end = self.body.find(_END, begin.end())
        rest = self.body[end + len(_END) :] if end >= 0 else ""
        return f"{self.body[: begin.start()]}{part}{rest}"

    def with_state(self, state: str) -> dict[str, str]:
        """The text as it is, with a marker that says how perfkit leaves it."""
        marker = msgspec.structs.replace(self.marker, state=state, turn=self.marker.turn + 1)
        return {"body": _BEGIN.sub(lambda _: f"{marker.to_text()}\n", self.body, count=1)}


@dataclass(frozen=True, slots=True)
class Match:
    """An incident, the issue that follows it, and further issues that follow the same."""

    desired: DesiredIssue
    issue: Issue | None
    duplicates: tuple[Issue, ...] = ()


def match_issues(desired: Sequence[DesiredIssue], issues: Iterable[Issue]) -> tuple[Match, ...]:
    """Each incident with its issue, in order; an issue follows one incident at most.

    The surest pairs come first: the same name, then names that the other may have had, then runs at which both were
    detected.  Of issues alike an open one comes first, then the oldest.
    """
    by_number = {issue.number: issue for issue in sorted(issues, key=lambda issue: issue.number)}
    scores = {
        (i, number): want.match_score(issue.marker)
        for i, want in enumerate(desired)
        for number, issue in by_number.items()
    }
    ranked = sorted(
        (key for key, score in scores.items() if score),
        key=lambda key: (-scores[key], not by_number[key[1]].is_open, key[1]),
    )
    chosen: dict[int, int] = {}
    for i, number in ranked:
        if i not in chosen and number not in chosen.values():
            chosen[i] = number
    duplicates: dict[int, list[Issue]] = {}
    taken = set(chosen.values())
    for i, number in ranked:
        if number not in taken:
            duplicates.setdefault(i, []).append(by_number[number])
            taken.add(number)
    return tuple(
        Match(want, by_number[chosen[i]] if i in chosen else None, tuple(duplicates.get(i, ())))
        for i, want in enumerate(desired)
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One request that changes something; ``hidden_word`` is what a comment is found again by."""

    method: str
    path: str
    payload: Mapping[str, Any]
    hidden_word: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As ``--dry-run`` prints it."""
        return {"method": self.method, "path": self.path, "json": dict(self.payload)}


@dataclass(frozen=True, slots=True)
class Action:
    """What is done to one issue, in words and in requests; ``number`` is ``None`` for one that is to be opened."""

    summary: str
    number: int | None
    title: str
    requests: tuple[Request, ...]
    desired: DesiredIssue = field(repr=False)


@dataclass(frozen=True, slots=True)
class ActionPlanner:
    """Plans the actions of one result in one repository.

    Parameters
    ----------
    path
        Of the repository in the API.
    body_of
        The text of the issue of an incident.
    """

    path: str
    settings: IssueSettings
    body_of: Callable[[DesiredIssue, Incident], str]

    def actions(self, match: Match) -> Iterator[Action]:
        """What brings the issues of an incident to their desired state; nothing where they are in it."""
        desired, issue, incident = match.desired, match.issue, match.desired.incident
        if issue is None:
            if desired.should_open and incident is not None:
                title, part = self._part(desired, incident, None)
                payload: dict[str, Any] = {"title": title, "body": part}
                for name in ("labels", "assignees"):
                    if getattr(self.settings, name):
                        payload[name] = list(getattr(self.settings, name))
                yield Action("opened", None, title, (Request("POST", f"{self.path}/issues", payload),), desired)
            return
        if issue.is_open:
            yield from self._update(desired, issue)
        elif incident is not None and _should_reopen(desired, issue.marker):
            comment = self._comment(issue, "back", back_comment(incident))
            change = self._change(issue, self._body(desired, incident, issue), state="open", state_reason="reopened")
            yield Action("reopened", issue.number, issue.title, (comment, change), desired)
        elif desired.status == RESOLVED and issue.marker.state == OPEN:  # closed by a user; now it may come back
            change = self._change(issue, issue.with_state(RESOLVED))
            yield Action("noted as resolved", issue.number, issue.title, (change,), desired)
        for duplicate in match.duplicates:
            if duplicate.is_open and duplicate.marker.state == OPEN:
                yield self.close_duplicate(desired, duplicate, issue.number)

    def close_duplicate(self, desired: DesiredIssue, duplicate: Issue, number: int) -> Action:
        """Close an issue that follows the same incident as another one."""
        requests = (
            self._comment(duplicate, "twin", twin_comment(number)),
            self._change(duplicate, duplicate.with_state(DUPLICATE), state="closed", state_reason="not_planned"),
        )
        return Action(f"closed as a duplicate of #{number}", duplicate.number, duplicate.title, requests, desired)

    def _update(self, desired: DesiredIssue, issue: Issue) -> Iterator[Action]:
        incident, marker = desired.incident, issue.marker
        came_back = desired.came_back(marker)
        reopened_by_user = marker.state != OPEN
        if reopened_by_user and not (desired.should_open and came_back):
            return  # it is theirs, until the incident comes back
        if desired.status != HOLDS:
            acknowledged = desired.status == ACKNOWLEDGED
            kind, reason = ("acknowledged", "not_planned") if acknowledged else ("over", "completed")
            text = known_comment(desired.reason) if acknowledged else over_comment(incident, desired.scenario)
            body = self._body(desired, incident, issue) if incident is not None else issue.with_state(RESOLVED)
            change = self._change(issue, body, state="closed", state_reason=reason)
            summary = f"closed, {'acknowledged' if acknowledged else 'resolved'}"
            yield Action(summary, issue.number, issue.title, (self._comment(issue, kind, text), change), desired)
        elif incident is not None:
            has_room = len(marker.services) < MOST_SERVICES
            services = [name for name in incident.last.services if has_room and digest(name, 8) not in marker.services]
            moved = _sizes_moved(marker.sizes, desired.sizes) and (
                digest(self.body_of(desired, incident)) != marker.text
            )
            if not (reopened_by_user or services or moved or came_back):
                return
            change = self._change(issue, self._body(desired, incident, issue))
            if services:
                summary = f"added {len(services)} more service{'s' if len(services) > 1 else ''}"
                comment = self._comment(issue, "spread", spread_comment(incident, services))
                yield Action(summary, issue.number, issue.title, (comment, change), desired)
            else:
                yield Action("updated", issue.number, issue.title, (change,), desired)

    def _comment(self, issue: Issue, kind: str, text: str) -> Request:
        word = issue.marker.hidden_word(kind)
        return Request("POST", f"{self.path}/issues/{issue.number}/comments", {"body": f"{text}\n\n{word}"}, word)

    def _change(self, issue: Issue, content: Mapping[str, str], **state: str) -> Request:
        return Request("PATCH", f"{self.path}/issues/{issue.number}", {**content, **state})

    def _body(self, desired: DesiredIssue, incident: Incident, issue: Issue) -> dict[str, str]:
        """The text anew, and the title unless a user gave it another."""
        title, part = self._part(desired, incident, issue.marker)
        body = issue.with_part(part)
        if len(body) > MOST_BODY:
            body = issue.with_part(self._part(desired, incident, issue.marker, brief=True)[1])
        own_title = digest(issue.title) == issue.marker.title
        return {"title": title, "body": body} if own_title and title != issue.title else {"body": body}

    def _part(
        self, desired: DesiredIssue, incident: Incident, old: Marker | None, *, brief: bool = False
    ) -> tuple[str, str]:
        """The title, and perfkit's part of the text with its marker."""
        title = to_title(incident, self.settings.title)
        text = headline(incident) if brief else self.body_of(desired, incident)
        marker = Marker(
            desired.scenario_digest,
            _unique((*desired.names, *(old.names if old is not None else ())))[:MOST_NAMES],
            desired.last,
            _unique((*desired.detected_at, *(old.detected_at if old is not None else ())))[:MOST_NAMES],
            _unique((*desired.services, *(old.services if old is not None else ())))[:MOST_SERVICES],
            desired.sizes,
            OPEN if desired.status == HOLDS else desired.status,
            old.turn + 1 if old is not None else 0,
            digest(title),
            digest(text),
        )
        return title, f"{marker.to_text()}\n{text}\n{_END}"


def _should_reopen(desired: DesiredIssue, marker: Marker) -> bool:
    """Whether a closed issue is to be opened again.

    A resolved incident that holds again is, however long ago it was first detected.  Else it must be a reason to open
    an issue and, where a user closed the issue, have another occurrence than the issue knows.
    """
    if marker.state == RESOLVED:
        return desired.status == HOLDS
    return desired.should_open and (marker.state != OPEN or desired.came_back(marker))


def _sizes_moved(old: Mapping[str, float | None], new: Mapping[str, float | None]) -> bool:
    """Whether other metrics changed, or one by another size."""
    if old.keys() != new.keys():
        return True
    for key, before in old.items():
        after = new[key]
        if before is None or after is None:
            if before is not after:
                return True
        elif abs(after - before) > MOVED * max(abs(before), abs(after)):
            return True
    return False
