"""What should stand on GitHub, and the requests that bring it there; nothing is sent here.

`perfkit.notify.github_sync` sends them.  There are two kinds of texts:

- An issue for each incident.  `desired_issues` says which incidents should have one and in which state, `match_issues`
  which issue follows which incident, `IssuePlanner` what to request.  An issue remembers its incident in a hidden
  comment, the `Marker`: digests and numbers, at most some 20 kB.  What people write around perfkit's text stays.
- A `Comment` for each pull request, changed in place.

Whatever perfkit posts has a hidden word in it by which it is found again, so that nothing is posted twice when a call
is cut off.  A comment on an issue goes out before the change that it is about; its hidden word is made of the issue's
marker as it was, so the next call finds the comment and sends the change alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from perfkit.config.settings import IssueSettings
from perfkit.history.commits import attribute
from perfkit.history.incidents import Incident, Result, digest, fingerprint
from perfkit.model.records import Verdict
from perfkit.notify.delivery import link_template, report_link
from perfkit.notify.github_api import Access
from perfkit.report.github import (
    acknowledged_comment,
    check_template,
    duplicate_comment,
    headline,
    reopened_comment,
    resolved_comment,
    spread_comment,
    to_body,
    to_title,
)
from perfkit.report.message import ReportLocation, message_of

# States of a marker, as issues have them since 0.1.0
OPEN, RESOLVED, ACKNOWLEDGED, DUPLICATE = "open", "over", "known", "twin"
MOST_SERVICES = 500
MOST_NAMES = 100
MOVED = 0.05  # of its size, by which a change must move before the text is sent anew: every run moves it a little
MOST_BODY = 65_000  # characters; GitHub takes 65,536
Number = Annotated[int, msgspec.Meta(gt=0)]
_BEGIN = re.compile(r"<!-- perfkit-issue (\{[^<>]*\}) -->\n?")
_COMMIT = re.compile("[0-9a-f]{7,64}")
_DUPLICATE = "The other comment of perfkit here is kept current."
_END = "<!-- /perfkit-issue -->"


class Marker(msgspec.Struct, frozen=True, rename={"detected_at": "heard"}):
    """What an issue remembers of its incident."""

    scenario: str  # fingerprint of its name
    # Fingerprints of all places at which any occurrence may have been found; the first is its own name
    names: tuple[str, ...]
    last: tuple[str, ...]  # those of the last occurrence
    detected_at: tuple[str, ...]  # fingerprints of the runs at which its occurrences were first detected
    services: tuple[str, ...]  # digests of the services that were named
    sizes: dict[str, float | None]  # digest of a service and metric to the size of its change that is shown
    # How perfkit left it: open, or closed because it was resolved, acknowledged or a duplicate. An issue in another
    # state was opened or closed by a user.
    state: str
    turn: int  # counts what perfkit did with it
    title: str  # title, text: digests of the title and the text as perfkit wrote them
    text: str

    @classmethod
    def of(cls, incident: Incident, state: str) -> Marker:
        """What is to be remembered of an incident."""
        scenario, last = incident.scenario, incident.last
        sizes = {digest(f"{item.service}\n{item.metric.value}", 8): item.size for item in last.worse[:MOST_SERVICES]}
        return cls(
            fingerprint(scenario, ""),
            incident.fingerprints[:MOST_NAMES],
            last.fingerprints,
            _unique(fingerprint(scenario, item.detected_at) for item in incident.occurrences if item.detected_at),
            tuple(digest(name, 8) for name in last.services[:MOST_SERVICES]),
            {key: float(f"{size:.4g}") if math.isfinite(size) else None for key, size in sorted(sizes.items())},
            state,
            turn=0,
            title="",
            text="",
        )

    def updated(self, new: Marker, title: str, text: str) -> Marker:
        """What is to be remembered once an issue with this marker has another title and text."""
        return msgspec.structs.replace(
            new,
            names=_unique((*new.names, *self.names)),
            detected_at=_unique((*new.detected_at, *self.detected_at)),
            services=_unique((*new.services, *self.services), MOST_SERVICES),
            turn=self.turn + 1,
            title=digest(title),
            text=digest(text),
        )

    def came_back(self, old: Marker) -> bool:
        """Whether its last occurrence is another one than an issue remembers."""
        return not set(self.last) & set(old.last)

    def match_score(self, other: Marker) -> int:
        """How surely both are of one incident; 0: they are of different ones."""
        if other.scenario != self.scenario or not other.names:
            return 0
        points = 8 if self.names[0] == other.names[0] else 0
        points += 4 if self.names[0] in other.names or other.names[0] in self.names else 0
        same_run = set(self.detected_at) & set(other.detected_at)
        points += 3 if same_run and set(self.services) & set(other.services) else 0
        return points + (1 if set(self.names) & set(other.names) else 0)

    def to_text(self) -> str:
        """The hidden comment."""
        return f"<!-- perfkit-issue {msgspec.json.encode(self).decode()} -->"

    def hidden_word(self, kind: str) -> str:
        """A hidden comment for what is said of an issue in this state, so that it is said once."""
        return f"<!-- perfkit-said {kind}-{digest(self.to_text())} -->"


def _unique(names: Iterable[str], most: int = MOST_NAMES) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:most]


def read_marker(body: str) -> Marker | None:
    """The marker in the text of an issue; ``None`` where there is none that could be perfkit's."""
    match = _BEGIN.search(body)
    try:
        return msgspec.json.decode(match[1], type=Marker) if match is not None else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class DesiredIssue:
    """The issue that an incident should have."""

    scenario: str
    marker: Marker  # what it is recognised by, and its state: open, resolved or acknowledged
    # Whether it is a reason to open or reopen an issue: beyond its tolerance, holds, and is not acknowledged
    should_open: bool = False
    incident: Incident | None = None  # ``None`` for the end of an incident that only earlier results show


def desired_issues(result: Result) -> tuple[DesiredIssue, ...]:
    """The issues that a result asks for, oldest incident first.

    A comparison without history is one incident since its baseline, or the end of it.  Inconclusive and invalid
    results ask for none.
    """
    if result.verdict is Verdict.INVALID:
        return ()
    fine = not result.watched and result.verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT)
    if fine and result.fingerprint and not result.incidents:
        scenario, name = fingerprint(result.subject, ""), (result.fingerprint,)
        return (DesiredIssue(result.subject, Marker(scenario, name, name, (), (), {}, RESOLVED, 0, "", "")),)
    desired = []
    for incident in result.incidents:
        state = RESOLVED if not incident.is_open else ACKNOWLEDGED if incident.last.acknowledgement else OPEN
        marker = Marker.of(incident, state)
        should_open = state == OPEN and incident.last.fails
        desired.append(DesiredIssue(incident.scenario, marker, should_open, incident))
    return tuple(desired)


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

        ``KeyError``, ``TypeError`` or ``ValueError``: it is no issue at all.
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
    by_number = {issue.number: issue for issue in issues}
    scores = {
        (i, number): score
        for i, want in enumerate(desired)
        for number, issue in by_number.items()
        if (score := want.marker.match_score(issue.marker))
    }
    ranked = sorted(scores, key=lambda pair: (-scores[pair], not by_number[pair[1]].is_open, pair[1]))
    chosen, duplicates = dict[int, int](), dict[int, list[Issue]]()
    for i, number in ranked:
        if i not in chosen and number not in chosen.values():
            chosen[i] = number
    left = by_number.keys() - chosen.values()
    for i, number in ranked:
        if number in left:
            duplicates.setdefault(i, []).append(by_number[number])
            left.remove(number)
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


class IssuePlanner:
    """Plans what to request for the incidents of a result in a repository.

    Commits are looked up in ``checkout``, a folder of the repository that the runs are of.  ``SettingsError``: the
    title's template or the link cannot be right.
    """

    def __init__(self, result: Result, settings: IssueSettings, access: Access, checkout: Path | None) -> None:
        check_template(settings.title)
        link = report_link(link_template(settings.link, "[issues]: link"), result.report_folder)
        self._message = message_of(result, location=ReportLocation(link=link))
        self._settings, self._access, self._checkout = settings, access, checkout
        self._path = f"{access.path}/issues"

    def actions(self, match: Match) -> Iterator[Action]:
        """What brings the issues of an incident to their desired state; nothing where they are in it."""
        desired, issue, incident = match.desired, match.issue, match.desired.incident
        if issue is None:
            if desired.should_open and incident is not None:
                title, part = self._part(desired, incident, None)
                payload: dict[str, Any] = {"title": title, "body": part}
                for name in ("labels", "assignees"):
                    if getattr(self._settings, name):
                        payload[name] = list(getattr(self._settings, name))
                yield Action("opened", None, title, (Request("POST", self._path, payload),), desired)
            return
        if issue.is_open:
            yield from self._update(desired, issue)
        elif incident is not None and _should_reopen(desired, issue.marker):
            comment = self._comment(issue, "back", reopened_comment(incident))
            change = self._change(issue, self._body(desired, incident, issue), state="open", state_reason="reopened")
            yield Action("reopened", issue.number, issue.title, (comment, change), desired)
        elif desired.marker.state == RESOLVED and issue.marker.state == OPEN:  # closed by a user; now it may come back
            change = self._change(issue, issue.with_state(RESOLVED))
            yield Action("noted as resolved", issue.number, issue.title, (change,), desired)
        for duplicate in match.duplicates:
            if duplicate.is_open and duplicate.marker.state == OPEN:
                yield self.close_duplicate(desired, duplicate, issue.number)

    def close_duplicate(self, desired: DesiredIssue, duplicate: Issue, number: int) -> Action:
        """Close an issue that follows the same incident as another one."""
        requests = (
            self._comment(duplicate, "twin", duplicate_comment(number)),
            self._change(duplicate, duplicate.with_state(DUPLICATE), state="closed", state_reason="not_planned"),
        )
        return Action(f"closed as a duplicate of #{number}", duplicate.number, duplicate.title, requests, desired)

    def _update(self, desired: DesiredIssue, issue: Issue) -> Iterator[Action]:
        incident, marker = desired.incident, issue.marker
        came_back = desired.marker.came_back(marker)
        reopened_by_user = marker.state != OPEN
        if reopened_by_user and not (desired.should_open and came_back):
            return  # it is theirs, until the incident comes back
        if desired.marker.state != OPEN:
            kind, reason, done, text = "over", "completed", "resolved", resolved_comment(incident, desired.scenario)
            if incident is not None and desired.marker.state == ACKNOWLEDGED:
                kind, reason, done, text = "acknowledged", "not_planned", "acknowledged", acknowledged_comment(incident)
            body = self._body(desired, incident, issue) if incident is not None else issue.with_state(RESOLVED)
            change = self._change(issue, body, state="closed", state_reason=reason)
            requests = (self._comment(issue, kind, text), change)
            yield Action(f"closed, {done}", issue.number, issue.title, requests, desired)
        elif incident is not None:
            has_room = len(marker.services) < MOST_SERVICES
            services = [name for name in incident.last.services if has_room and digest(name, 8) not in marker.services]
            moved = (
                _sizes_moved(marker.sizes, desired.marker.sizes)
                and digest(self._text(desired, incident)) != marker.text
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
        return Request("POST", f"{self._path}/{issue.number}/comments", {"body": f"{text}\n\n{word}"}, word)

    def _change(self, issue: Issue, content: Mapping[str, str], **state: str) -> Request:
        return Request("PATCH", f"{self._path}/{issue.number}", {**content, **state})

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
        title = to_title(incident, self._settings.title)
        text = headline(incident) if brief else self._text(desired, incident)
        marker = (old or msgspec.structs.replace(desired.marker, turn=-1)).updated(desired.marker, title, text)
        return title, f"{marker.to_text()}\n{text}\n{_END}"

    def _text(self, desired: DesiredIssue, incident: Incident) -> str:
        event, access = incident.last.event, self._access
        before, after = event.last_before.commit, event.first_after.commit
        address = ""
        if access.web and before != after and _COMMIT.fullmatch(before) and _COMMIT.fullmatch(after):
            address = f"{access.web}/{access.code or access.repository}/compare/{before}...{after}"
        commits = attribute(event, self._checkout)
        status = desired.marker.state
        return to_body(self._message, incident, status=status, commits=commits, compare_url=address)


def _should_reopen(desired: DesiredIssue, marker: Marker) -> bool:
    """Whether a closed issue is to be opened again.

    A resolved incident that holds again is, however long ago it was first detected.  Else it must be a reason to open
    an issue and, where a user closed the issue, have another occurrence than the issue knows.
    """
    if marker.state == RESOLVED:
        return desired.marker.state == OPEN
    return desired.should_open and (marker.state != OPEN or desired.marker.came_back(marker))


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


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions for one result."""

    actions: tuple[Action, ...]
    deferred: int  # how many new issues beyond `IssueSettings.most_new` are left for the next call
    # Open issues of events that the history does not hold any more; they are left as they are
    orphaned: tuple[Issue, ...]


def plan_issues(desired: Sequence[DesiredIssue], issues: Sequence[Issue], planner: IssuePlanner, most_new: int) -> Plan:
    """What to do for a result in a repository that has these issues."""
    matches = match_issues(desired, issues)
    actions = [action for match in matches for action in planner.actions(match)]
    deferred = [action for action in actions if action.number is None][most_new:]
    matched = {issue.number for match in matches for issue in (*match.duplicates, match.issue) if issue is not None}
    scenarios = {want.marker.scenario for want in desired if want.marker.detected_at}
    orphaned = (
        issue
        for issue in issues
        if issue.number not in matched
        and issue.is_open
        and issue.marker.detected_at
        and issue.marker.scenario in scenarios
    )
    return Plan(tuple(action for action in actions if action not in deferred), len(deferred), tuple(orphaned))


class Comment(msgspec.Struct, frozen=True):
    """The comment that a pull request should have; ``name`` tells comments of perfkit apart where there are several."""

    number: Number
    name: str
    text: str

    @property
    def marker(self) -> str:
        """The hidden comment by which it is found again."""
        return f"<!-- perfkit-comment {digest(self.name)} -->"

    def request(self, path: str) -> Request:
        """What posts it; ``path`` is that of the repository."""
        body = f"{self.marker}\n{self.text.rstrip()}"
        return Request("POST", f"{path}/issues/{self.number}/comments", {"body": body}, self.marker)

    def changes(self, path: str, posted: Sequence[PostedComment]) -> Iterator[Request]:
        """What brings comments with its marker, oldest first, to its text: the oldest has it, the others say so."""
        for number, comment in enumerate(posted):
            body = f"{self.marker}\n{_DUPLICATE}" if number else self.request(path).payload["body"]
            if comment.body != body:
                yield Request("PATCH", f"{path}/issues/comments/{comment.id}", {"body": body})


@dataclass(frozen=True, slots=True)
class PostedComment:
    """A comment as it stands on GitHub."""

    id: int
    body: str

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> PostedComment:
        """From the API; ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        return cls(int(item["id"]), str(item.get("body") or "").replace("\r\n", "\n"))  # the web page sends these back
