"""GitHub issues that follow incidents: one for each, opened, updated, closed and reopened as results come in.

`sync_issues` keeps the result in the `Outbox`, plans the actions for everything that waits there, and applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from perfkit.config.settings import IssueSettings, Settings
from perfkit.history.commits import attribute
from perfkit.history.incidents import Incident, Result, result_of
from perfkit.model.codec import decode
from perfkit.model.errors import DeliveryError, ReadError
from perfkit.model.records import Verdict
from perfkit.notify.github_api import PER_PAGE, Access, Client, GitHubError, Patience
from perfkit.notify.issue_plan import (
    Action,
    ActionPlanner,
    DesiredIssue,
    Issue,
    Request,
    desired_issues,
    match_issues,
)
from perfkit.notify.outbox import Outbox
from perfkit.notify.results import link_template, report_link
from perfkit.report.formatting import clean
from perfkit.report.issue import check_template, to_body
from perfkit.report.message import Message, ReportLocation, message_of

SURE = 4  # `DesiredIssue.match_score` from which an issue follows that incident, and not a neighbour
MOST_GAPS = 5
INVALID_REQUEST = 422  # the only error that is about one action; any other would meet the rest too
_UNDETECTED = "the history has not detected this regression yet: no issue before it does"
_OBJECTIVE = "the regression is of absolute limits ([policy.objectives]) alone, which no issue follows"

Report = Callable[[str], None]


class IssueIndex:
    """The issues of a repository that bear perfkit's marker and whose authors are trusted, as far as they were read.

    ``label`` is one that perfkit gives to its issues.
    """

    def __init__(self, client: Client, label: str = "") -> None:
        self._client = client
        self._path = f"{client.access.path}/issues"
        self._label = label if "," not in label else ""  # the API would take it for two
        self._issues: dict[int, Issue] = {}
        self._complete = False

    def labelled(self) -> list[Issue]:
        """Those with the label; the others of the repository are not read."""
        if not self._complete:
            self._read_pages({"labels": self._label} if self._label else {})
            self._complete = not self._label
        return list(self._issues.values())

    def all(self) -> list[Issue]:
        """Those without the label too, for a user may have taken it away."""
        if not self._complete:
            self._read_pages({})
            self._complete = True
        return list(self._issues.values())

    def following(self, desired: DesiredIssue) -> list[Issue]:
        """The issues that surely follow an incident, oldest first; the newest page is read again."""
        query = {"state": "all", "sort": "created", "direction": "desc", "per_page": PER_PAGE}
        newest = self._client.get(self._path, query)
        if not isinstance(newest, list):
            raise self._client.malformed("something else than a list")
        self._add(newest)
        sure = [issue for issue in self._issues.values() if desired.match_score(issue.marker) >= SURE]
        return sorted(sure, key=lambda issue: issue.number)

    def read(self, item: Mapping[str, Any]) -> Issue:
        """An issue as the server answered it to a change; the index holds it from now on."""
        try:
            issue = Issue.read(item)
        except (KeyError, TypeError, ValueError) as error:
            raise self._client.malformed("something else than an issue") from error
        if issue is None:
            raise self._client.malformed("an issue without what was sent")
        self._issues[issue.number] = issue
        return issue

    def has_comment(self, number: int, hidden_word: str) -> bool | None:
        """Whether a comment of an issue has a hidden word; ``None`` if not."""
        for comment in self._client.pages(f"{self._path}/{number}/comments", {}):
            if hidden_word in str(comment.get("body")) and self._client.trusts(comment):
                return True
        return None

    def _read_pages(self, parameters: Mapping[str, Any]) -> None:
        # By age, so that what is opened while pages are read shifts none of them
        query = {"state": "all", "sort": "created", "direction": "asc", **parameters}
        self._add(self._client.pages(self._path, query))

    def _add(self, items: Iterable[Mapping[str, Any]]) -> None:
        for item in items:
            try:
                issue = Issue.read(item)
            except (KeyError, TypeError, ValueError) as error:
                raise self._client.malformed("something else than issues") from error
            if issue is not None and self._client.trusts(item):
                self._issues[issue.number] = issue


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions for one result.

    Parameters
    ----------
    deferred
        New issues beyond `IssueSettings.most_new`, for the next call.
    orphaned
        Open issues of events that the history does not hold any more; they are left as they are.
    """

    actions: tuple[Action, ...]
    deferred: tuple[Action, ...] = ()
    orphaned: tuple[Issue, ...] = ()


def plan_issues(
    desired: Sequence[DesiredIssue], index: IssueIndex | None, planner: ActionPlanner, most_new: int
) -> Plan:
    """What to do for a result; without an index as in a repository that has none of the issues."""
    matches = match_issues(desired, index.labelled() if index is not None else ())
    if index is not None and any(match.issue is None and match.desired.should_open for match in matches):
        matches = match_issues(desired, index.all())
    actions = [action for match in matches for action in planner.actions(match)]
    deferred = [action for action in actions if action.number is None][most_new:]
    matched = {issue.number for match in matches for issue in (*match.duplicates, match.issue) if issue is not None}
    scenarios = {want.scenario_digest for want in desired if want.detected_at}
    orphaned = (
        issue
        for issue in (index.labelled() if index is not None else ())
        if issue.number not in matched
        and issue.is_open
        and issue.marker.detected_at
        and issue.marker.scenario in scenarios
    )
    return Plan(tuple(action for action in actions if action not in deferred), tuple(deferred), tuple(orphaned))


def planner_of(result: Result, settings: IssueSettings, access: Access, checkout: Path | None) -> ActionPlanner:
    """What issues say of the incidents of a result.

    Parameters
    ----------
    checkout
        A folder of the repository that the runs are of, where commits are looked up.

    Raises
    ------
    SettingsError
        The title's template or the link cannot be right.
    """
    check_template(settings.title)
    link = report_link(link_template(settings.link, "[issues]: link"), result.report_folder)
    message = message_of(result, location=ReportLocation(link=link))
    return ActionPlanner(access.path, settings, partial(_body, message, access, checkout))


def _body(message: Message, access: Access, checkout: Path | None, desired: DesiredIssue, incident: Incident) -> str:
    event = incident.last.event
    before, after = event.last_before.commit, event.first_after.commit
    are_commits = all(7 <= len(text) <= 64 and set(text) <= set("0123456789abcdef") for text in (before, after))
    compare = ""
    if access.web and are_commits and before != after:
        compare = f"{access.web}/{access.code or access.repository}/compare/{before}...{after}"
    return to_body(
        message,
        incident,
        status=desired.status,
        reason=desired.reason,
        commits=attribute(event, checkout),
        compare_url=compare,
    )


def apply_actions(
    actions: Iterable[Action], planner: ActionPlanner, index: IssueIndex, client: Client, report: Report
) -> tuple[int, list[GitHubError]]:
    """Apply actions one by one and report each; how many issues were opened, and what failed.

    When the server cannot be reached, the rest is not tried.
    """

    def comment(request: Request, number: int) -> None:
        client.post(
            request.path, request.payload, lambda: index.has_comment(number, request.hidden_word), lambda _: True
        )

    def change(action: Action, number: int) -> None:
        for request in action.requests:
            if request.method == "PATCH":
                index.read(client.patch(request.path, request.payload))
            else:
                comment(request, number)
        report(f"{action.summary}: #{number} {action.title}")

    def open_issue(action: Action) -> None:
        (request,) = action.requests

        def find() -> Issue | None:
            return next(iter(index.following(action.desired)), None)

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


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What `sync_issues` did: sentences in order, and how many new issues wait for the next call."""

    done: tuple[str, ...]
    deferred: int = 0


class _Kept(msgspec.Struct, frozen=True):
    """A result in the outbox."""

    place: str
    result: dict[str, Any]
    report: str | None = None
    stored: bool = False  # 0.1.0 knew result files only

    def to_result(self) -> Result:
        """``ReadError`` for what another perfkit kept."""
        result = result_of(self.result, self.place, Path(self.report) if self.report else None)
        return replace(result, stored=self.stored)


def sync_issues(
    result: Result,
    settings: Settings,
    *,
    repository: str = "",
    checkout: Path | None = None,
    patience: Patience | None = None,
    report: Report = lambda _: None,
) -> SyncReport:
    """Bring the issues of a repository to what a result says, after what earlier calls could not send.

    Parameters
    ----------
    repository
        ``owner/name``; else that of the settings, else `GITHUB_REPOSITORY`.  Server and token come from
        `GITHUB_API_URL` and `GITHUB_TOKEN`.
    checkout
        A folder of the repository that the runs are of, to list the commits in between.
    report
        Called with each sentence as soon as it is true.

    Raises
    ------
    SettingsError
        Repository, address, token, title or link cannot be right; nothing was sent.
    DeliveryError
        Something could not be sent; it is kept in the folder of the setting ``delivery`` for the next call.
    """
    access = Access.from_environment(repository or settings.issues.repository)
    planner_of(result, settings.issues, access, checkout)  # a mistake in the settings shows before anything is kept
    done: list[str] = []

    def note(text: str) -> None:
        done.append(text)
        report(text)

    outbox, newest = Outbox(settings.delivery, access, "issues"), None
    if desired_issues(result):
        # It replaces an older one of the same history, or of comparisons with the same baseline
        subject = "history" if result.watched else result.fingerprint
        path = str(result.report) if result.report is not None else None
        kept = _Kept(result.place, dict(result.document), path, result.stored)
        newest = outbox.keep(f"{result.scenario}\n{subject}", msgspec.structs.asdict(kept), note)
    messages = outbox.queue(newest, note)
    client = Client(access, patience)
    index = IssueIndex(client, next(iter(settings.issues.labels), ""))
    room, deferred, errors, unsent = settings.issues.most_new, 0, list[DeliveryError](), list(messages)
    for message in messages:
        try:
            waiting = decode(dict(message.content), _Kept, f"{message.file}: content").to_result()
            planner = planner_of(waiting, settings.issues, access, checkout)
            plan = plan_issues(desired_issues(waiting), index, planner, room)
        except ReadError as error:
            errors.append(DeliveryError(f"{message.file}: {error}"))
            continue
        except GitHubError as error:  # not even reading works
            errors.append(error)
            break
        opened, failed = apply_actions(plan.actions, planner, index, client, note)
        for issue in plan.orphaned:
            note(f"left as it is: #{issue.number} {issue.title}: this history does not hold what it follows")
        room, deferred = room - opened, deferred + len(plan.deferred)
        errors += failed
        if not failed and not plan.deferred:
            outbox.remove(message)
            unsent.remove(message)
        if any(error.status != INVALID_REQUEST for error in failed):
            break
    if errors:
        raise outbox.error(errors, unsent)
    if reason := unchanged_reason(result):
        note(reason)
    elif deferred:
        note(
            f"{deferred} more new issue{'s' if deferred > 1 else ''} are left for the next call (most_new in [issues])"
        )
    return SyncReport(tuple(done), deferred)


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
    return clean(f"{result.place}: {why}{f'. {lacks}' if lacks else ''}")


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
    planner = planner_of(result, settings.issues, access, checkout)
    desired, most_new, plan = desired_issues(result), settings.issues.most_new, None
    if access.token and desired:
        client = Client(access, Patience(timeout_s=5, tries=1))
        try:
            plan = plan_issues(desired, IssueIndex(client, next(iter(settings.issues.labels), "")), planner, most_new)
        except GitHubError as error:
            report(f"{error}: taken for a repository that has none of these issues")
    elif desired:
        report("no GITHUB_TOKEN: taken for a repository that has none of these issues")
    if reason := unchanged_reason(result):
        report(reason)
    if plan is None:
        plan = plan_issues(desired, None, planner, most_new)
    return tuple(request.to_dict() for action in plan.actions for request in action.requests)
