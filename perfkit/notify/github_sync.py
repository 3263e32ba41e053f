"""Brings issues and the comments of pull requests to what results say, over GitHub's API.

`perfkit.notify.github_plan` says what should stand there.  `sync_issues` and `post_comment` keep their content in the
`Outbox`, then send what waits there and the new one: what an earlier call could not send is made good first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perfkit.config.settings import Settings
from perfkit.history.incidents import Result, result_of
from perfkit.model.codec import decode, encode, read_json
from perfkit.model.errors import DeliveryError, ReadError, SettingsError
from perfkit.model.records import Verdict
from perfkit.notify.delivery import Outbox, StopSending
from perfkit.notify.github_api import PER_PAGE, Access, Client, GitHubError, Patience
from perfkit.notify.github_plan import (
    Action,
    Comment,
    DesiredIssue,
    Issue,
    IssuePlanner,
    Number,
    PostedComment,
    Request,
    desired_issues,
    match_issues,
    plan_issues,
)
from perfkit.report.formatting import clean

SURE = 4  # `Marker.match_score` from which an issue follows that incident, and not a neighbour
MOST_GAPS = 5
INVALID_REQUEST = 422  # the only error that is about one action; any other would meet the rest too
_UNDETECTED = "the history has not detected this regression yet: no issue before it does"
_OBJECTIVE = "the regression is of absolute limits ([policy.objectives]) alone, which no issue follows"
_REF = re.compile(r"refs/pull/(\d+)/")

Report = Callable[[str], None]
Posted = TypeVar("Posted")


class IssueIndex:
    """The issues of a repository that bear perfkit's marker and whose authors are trusted, as far as they were read.

    ``label`` is one that perfkit gives to its issues.
    """

    def __init__(self, client: Client, label: str = "") -> None:
        self._client = client
        self._path = f"{client.access.path}/issues"
        self._label = label if "," not in label else ""  # the API would take it for two
        self._complete = False
        self._issues: dict[int, Issue] = {}

    def issues_for(self, desired: Sequence[DesiredIssue]) -> list[Issue]:
        """Those with the label; where an incident is in none of them all, for a user may have taken the label away."""
        for labels in ({"labels": self._label}, {}) if self._label else ({},):
            if self._complete:
                break
            # By age, so that what is opened while pages are read shifts none of them
            query = {"state": "all", "sort": "created", "direction": "asc", **labels}
            self._add(self._client.pages(self._path, query))
            self._complete = not labels
            matches = match_issues(desired, self._issues.values())
            if not any(match.issue is None and match.desired.should_open for match in matches):
                break
        return list(self._issues.values())

    def following(self, desired: DesiredIssue) -> Issue | None:
        """The oldest issue that surely follows an incident; the newest page is read again."""
        query = {"state": "all", "sort": "created", "direction": "desc", "per_page": PER_PAGE}
        newest = self._client.get(self._path, query)
        if not isinstance(newest, list):
            raise self._client.malformed("something else than a list")
        self._add(newest)
        sure = [number for number, issue in self._issues.items() if desired.marker.match_score(issue.marker) >= SURE]
        return self._issues[min(sure)] if sure else None

    def read(self, item: Mapping[str, Any]) -> Issue:
        """An issue as the server answered it to a change; the index holds it from now on."""
        issue = _read(self._client, Issue.read, item, "an issue")
        if issue is None:
            raise self._client.malformed("an issue without what was sent")
        self._issues[issue.number] = issue
        return issue

    def _add(self, items: Iterable[Mapping[str, Any]]) -> None:
        for item in items:
            issue = _read(self._client, Issue.read, item, "issues")
            if issue is not None and self._client.trusts(item):
                self._issues[issue.number] = issue


def _read(client: Client, reader: Callable[[Mapping[str, Any]], Posted], item: Mapping[str, Any], what: str) -> Posted:
    try:
        return reader(item)
    except (KeyError, TypeError, ValueError) as error:
        raise client.malformed(f"something else than {what}") from error


def marked_comments(client: Client, path: str, marker: str) -> list[PostedComment]:
    """The comments at a path that have a hidden word in them and a trusted author, oldest first."""
    marked = [item for item in client.pages(path, {}) if marker in str(item.get("body")) and client.trusts(item)]
    return sorted(
        (_read(client, PostedComment.read, item, "a comment") for item in marked), key=lambda comment: comment.id
    )


def add_comment(client: Client, request: Request) -> PostedComment:
    """Post a comment, or find the one with its hidden word that is there already."""

    def find() -> PostedComment | None:
        return next(iter(marked_comments(client, request.path, request.hidden_word)), None)

    read = partial(_read, client, PostedComment.read, what="a comment")
    return client.post(request.path, request.payload, find, read)[0]


def apply_actions(
    actions: Iterable[Action], planner: IssuePlanner, index: IssueIndex, client: Client, report: Report
) -> tuple[int, list[GitHubError]]:
    """Apply actions one by one and report each; how many issues were opened, and what failed.

    When the server cannot be reached, the rest is not tried.
    """

    def change(action: Action, number: int) -> None:
        for request in action.requests:
            if request.method == "PATCH":
                index.read(client.patch(request.path, request.payload))
            else:
                add_comment(client, request)
        report(f"{action.summary}: #{number} {action.title}")

    def open_issue(action: Action) -> None:
        (request,) = action.requests

        def find() -> Issue | None:
            return index.following(action.desired)

        try:
            issue, is_new = client.post(request.path, request.payload, find, index.read)
        except GitHubError as error:
            if error.status != INVALID_REQUEST or "assignee" not in str(error) or "assignees" not in request.payload:
                raise
            report(f"nobody is assigned: {error}")
            payload = {name: value for name, value in request.payload.items() if name != "assignees"}
            issue, is_new = client.post(request.path, payload, find, index.read)
        report(f"{'opened' if is_new else 'is there already'}: #{issue.number} {issue.title}")
        oldest = find() if is_new else None
        if oldest is not None and oldest.number < issue.number and oldest.is_open:  # another call opened one just now
            change(planner.close_duplicate(action.desired, issue, oldest.number), issue.number)

    opened, errors = 0, list[GitHubError]()
    for action in actions:
        try:
            if action.number is None:
                open_issue(action)
                opened += 1
            else:
                change(action, action.number)
        except GitHubError as error:
            errors.append(error)
            if error.status != INVALID_REQUEST:
                break
    return opened, errors


class _Kept(msgspec.Struct, frozen=True, rename={"source": "place"}):
    """A result in the outbox."""

    source: str
    result: dict[str, Any]
    report: str | None = None
    stored: bool = False  # 0.1.0 knew result files only


def sync_issues(
    result: Result,
    settings: Settings,
    *,
    repository: str = "",
    checkout: Path | None = None,
    patience: Patience | None = None,
    report: Report = lambda _: None,
) -> tuple[str, ...]:
    """Bring the issues of a repository to what a result says, after what earlier calls could not send.

    The repository (``owner/name``) is else that of the settings, else `GITHUB_REPOSITORY`; server and token come from
    `GITHUB_API_URL` and `GITHUB_TOKEN`.  ``report`` is called with each sentence as soon as it is true; all of them are
    returned.

    Raises
    ------
    SettingsError
        Repository, address, token, title or link cannot be right; nothing was sent.
    DeliveryError
        Something could not be sent; it is kept in the folder of the setting ``delivery`` for the next call.
    """
    access = Access.from_environment(repository or settings.issues.repository)
    IssuePlanner(result, settings.issues, access, checkout)  # a mistake in the settings shows before anything is kept
    done: list[str] = []

    def note(text: str) -> None:
        done.append(text)
        report(text)

    client = Client(access, patience)
    index = IssueIndex(client, next(iter(settings.issues.labels), ""))
    room, deferred = settings.issues.most_new, 0

    def send(content: Mapping[str, Any], source: str) -> bool:
        nonlocal room, deferred
        try:
            kept = decode(dict(content), _Kept, "content")
            waiting = result_of(kept.result, kept.source, Path(kept.report) if kept.report else None)
            planner = IssuePlanner(replace(waiting, stored=kept.stored), settings.issues, access, checkout)
            desired = desired_issues(waiting)
            plan = plan_issues(desired, index.issues_for(desired), planner, room)
        except ReadError as error:
            raise DeliveryError(f"{source}: {error}") from error
        except GitHubError as error:  # not even reading works
            raise StopSending(str(error)) from error
        opened, errors = apply_actions(plan.actions, planner, index, client, note)
        for issue in plan.orphaned:
            note(f"left as it is: #{issue.number} {issue.title}: this history does not hold what it follows")
        room, deferred = room - opened, deferred + plan.deferred
        if errors:
            kind = DeliveryError if all(error.status == INVALID_REQUEST for error in errors) else StopSending
            raise kind("; ".join(dict.fromkeys(map(str, errors))))
        return not plan.deferred

    new = None
    if desired_issues(result):
        # It replaces an older one of the same history, or of comparisons with the same baseline
        subject = "history" if result.watched else result.fingerprint
        path = str(result.report) if result.report is not None else None
        new = f"{result.subject}\n{subject}", encode(_Kept(result.source, dict(result.document), path, result.stored))
    Outbox(settings.delivery, "issues", access.repository, access.api).send(new, send, note)
    if reason := unchanged_reason(result):
        note(reason)
    elif deferred:
        more = f"{deferred} more new issue{'s' if deferred > 1 else ''}"
        note(f"{more} are left for the next call (most_new in [issues])")
    return tuple(done)


def unchanged_reason(result: Result) -> str:
    """Why a result that is not green changes no issue, and what it lacks; empty where it does, or is green."""
    if result.verdict is Verdict.INVALID:
        why = "its runs cannot be judged: no issue is changed"
    elif result.verdict is Verdict.REGRESSION and not result.incidents:
        why = _UNDETECTED if result.watched else _OBJECTIVE
    elif result.verdict is Verdict.INCONCLUSIVE:
        why = "is inconclusive: no issue is opened"
    else:
        return ""
    lacks = " ".join(part for gap in result.gaps[:MOST_GAPS] for part in (gap.text, gap.advice) if part)
    return clean(f"{result.source}: {why}{f'. {lacks}' if lacks else ''}")


def planned_requests(
    result: Result,
    settings: Settings,
    *,
    repository: str = "",
    checkout: Path | None = None,
    report: Report = lambda _: None,
) -> tuple[dict[str, Any], ...]:
    """The requests that `sync_issues` would send, as method, path and JSON; nothing is changed anywhere.

    With a token the repository's issues are read; without one, or where that fails, these are the requests for a
    repository that has none yet.
    """
    access = Access.from_environment(repository or settings.issues.repository, with_token=False)
    planner, desired = IssuePlanner(result, settings.issues, access, checkout), desired_issues(result)
    issues: Sequence[Issue] = ()
    if access.token and desired:
        client = Client(access, Patience(timeout_s=5, tries=1))
        try:
            issues = IssueIndex(client, next(iter(settings.issues.labels), "")).issues_for(desired)
        except GitHubError as error:
            report(f"{error}: taken for a repository that has none of these issues")
    elif desired:
        report("no GITHUB_TOKEN: taken for a repository that has none of these issues")
    if reason := unchanged_reason(result):
        report(reason)
    plan = plan_issues(desired, issues, planner, settings.issues.most_new)
    return tuple(request.to_dict() for action in plan.actions for request in action.requests)


class _Pull(msgspec.Struct, frozen=True):
    number: Number


class _Issue(msgspec.Struct, frozen=True):
    number: Number
    pull_request: dict[str, Any] | None = None


class _Event(msgspec.Struct, frozen=True):
    """What triggered a workflow: the pull request that it is about, or an issue, which may be one."""

    pull_request: _Pull | None = None
    issue: _Issue | None = None


def pull_request_of(environment: Mapping[str, str] | None = None) -> int:
    """The number of the pull request that a workflow runs for, or ``SettingsError``.

    From `GITHUB_EVENT_PATH` or `GITHUB_REF`.
    """
    variables = os.environ if environment is None else environment
    path, ref = variables.get("GITHUB_EVENT_PATH", ""), variables.get("GITHUB_REF", "")
    if path:
        try:
            event = decode(read_json(Path(path)), _Event, path)
        except FileNotFoundError as error:
            raise SettingsError(f"GITHUB_EVENT_PATH: {path}: cannot be read: {error.strerror}") from error
        except ReadError as error:
            raise SettingsError(f"GITHUB_EVENT_PATH: {error}") from error
        if event.pull_request is not None:
            return event.pull_request.number
        if event.issue is not None and event.issue.pull_request is not None:
            return event.issue.number
    if match := _REF.match(ref):
        return int(match[1])
    job = f" (it is for {ref[:100]!r})" if ref else ""
    raise SettingsError(f"GitHub: this is no job of a pull request{job}; add --pull-request NUMBER")


def post_comment(
    comment: Comment,
    access: Access,
    folder: Path,
    *,
    patience: Patience | None = None,
    report: Report = lambda _: None,
) -> None:
    """Bring a pull request to a comment, after what earlier calls could not send; ``report`` is called with sentences.

    ``DeliveryError``: a comment could not be sent; it is kept in the folder for the next call.
    """
    client = Client(access, patience)

    def send(content: Mapping[str, Any], source: str) -> bool:
        try:
            waiting = decode(dict(content), Comment, "content")
        except ReadError as error:
            raise DeliveryError(f"{source}: {error}; it is no comment that waits: remove it") from error
        request, is_new = waiting.request(access.path), False
        posted = marked_comments(client, request.path, waiting.marker)
        if not posted:
            new = add_comment(client, request)
            # Another call may have been at it at the same time
            posted, is_new = marked_comments(client, request.path, waiting.marker) or [new], True
        changed = posted[0].body != request.payload["body"]
        for change in waiting.changes(access.path, posted):
            client.patch(change.path, change.payload)
        done = "updated the comment of" if changed else "commented on" if is_new else "is up to date:"
        report(f"{done} pull request #{waiting.number}")
        return True

    new = f"{comment.number}\n{comment.name}", encode(comment)
    Outbox(folder, "comments", access.repository, access.api).send(new, send, report)
