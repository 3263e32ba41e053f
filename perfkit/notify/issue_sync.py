"""Results followed by issues, with what earlier calls could not send.

What could not be sent yet, kept in the folder of the setting ``delivery`` and sent with the next call.

It is kept before anything of it is sent, and taken out when all of it was: a call that is cut off loses nothing, and
what it had sent is found on the server, not sent again.

The issues of a repository that bear perfkit's marker, as far as they were looked at.

One issue per worsening: what results want, compared with what the repository has, and carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from perfkit.config.settings import IssueSettings, Settings
from perfkit.history.commits import attribute
from perfkit.history.incidents import Incident, Result, result_of
from perfkit.model.codec import Time, decode, dump_json, read_json, utc
from perfkit.model.errors import DeliveryError, ReadError
from perfkit.model.files import write_whole
from perfkit.model.records import Verdict
from perfkit.notify.github_api import PER_PAGE, Access, Client, GitHubError, Patience
from perfkit.notify.issue_plan import (
    Call,
    Issue,
    Pair,
    Planner,
    Step,
    Wanted,
    digest,
    paired,
    scenario_digest,
    score,
    wanted_of,
)
from perfkit.notify.results import link_template, report_link
from perfkit.report.formatting import clean
from perfkit.report.issue import Story, check_template
from perfkit.report.sentences import bisect_line, judge_lines

SCHEMA = "perfkit.unsent/1"


@dataclass(frozen=True, slots=True)
class Unsent:
    """What waits, and the file that it waits in."""

    file: Path
    kept_at: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outbox:
    """What waits for one repository; ``kind`` is ``issues`` or ``comments``."""

    folder: Path
    access: Access
    kind: str

    def keep(self, key: str, content: Mapping[str, Any]) -> Unsent:
        """Keep something in place of what has the same key; ``OSError`` where it cannot be written."""
        kept = Unsent(self._folder / f"{digest(key)}.json", datetime.now(UTC).isoformat(), content)
        where = {"kind": self.kind, "repository": self.access.repository, "api": self.access.api}
        write_whole(
            kept.file, dump_json({"schema": SCHEMA, **where, "kept_at": kept.kept_at, "content": dict(content)})
        )
        return kept

    def waiting(self) -> tuple[tuple[Unsent, ...], tuple[str, ...]]:
        """What waits, oldest first; and sentences about files that cannot be read, which stay."""
        found, notes = [], []
        for file in sorted(self._folder.glob("*.json")):
            try:
                found.append(_read(file))
            except FileNotFoundError:  # another call has sent it
                continue
            except ReadError as error:
                notes.append(f"{error}; it is left there and not sent")
        return tuple(sorted(found, key=lambda one: one.kept_at)), tuple(notes)

    def sent(self, one: Unsent) -> None:
        """Forget it, unless something newer took its place."""
        try:
            if _read(one.file).kept_at == one.kept_at:
                one.file.unlink()
        except (OSError, ReadError):
            return  # it is gone, or never was there

    def whereabouts(self, unsent: Sequence[Unsent]) -> str:
        """Where what was not sent is: only what is there is said to be kept."""
        kept = sum(one.file.is_file() for one in unsent)
        if kept == len(unsent):
            return f"What was not sent is kept in {self.folder} for the next call"
        lost = f"could not be kept in {self.folder} either: make room there, and call again with the same results"
        return f"{len(unsent) - kept} of {len(unsent)} that were not sent {lost}"

    @property
    def _folder(self) -> Path:
        return self.folder / "github" / f"{self.kind}-{digest(f'{self.access.api} {self.access.repository}')}"


class _Document(msgspec.Struct, frozen=True):
    kept_at: Time
    content: dict[str, Any]


def _read(file: Path) -> Unsent:
    plain = decode(read_json(file), _Document, str(file), schema=SCHEMA, title="message")
    return Unsent(file, utc(plain.kept_at).isoformat(), plain.content)


SURE = 4  # points of `score` from which an issue is that of a worsening, and not a neighbour's


class Tracker:
    """Looks, and remembers; ``label`` is one that its issues bear.

    Only those issues count whose authors are trusted.
    """

    def __init__(self, client: Client, label: str = "") -> None:
        self._client = client
        self._path = f"{client.access.path}/issues"
        self._label = label if "," not in label else ""  # the API would take it for two
        self._known: dict[int, Issue] = {}
        self._seen_all = False

    def followed(self) -> list[Issue]:
        """Those with the label; the others of the repository are not looked at."""
        if not self._seen_all:
            self._look({"labels": self._label} if self._label else {})
            self._seen_all = not self._label
        return list(self._known.values())

    def everything(self) -> list[Issue]:
        """Those without the label too, for somebody may have taken it away."""
        if not self._seen_all:
            self._look({})
            self._seen_all = True
        return list(self._known.values())

    def newest(self) -> list[Issue]:
        """What is known, and what was opened since by others: the newest page is looked at again."""
        query = {"state": "all", "sort": "created", "direction": "desc", "per_page": PER_PAGE}
        found = self._client.get(self._path, query)
        if not isinstance(found, list):
            raise self._client.malformed("something else than a list")
        self._learn(found)
        return list(self._known.values())

    def same(self, wanted: Wanted) -> list[Issue]:
        """The issues that surely follow a worsening, oldest first; the newest page is looked at again."""
        return sorted((one for one in self.newest() if score(wanted, one.marker) >= SURE), key=lambda one: one.number)

    def read(self, plain: Mapping[str, Any]) -> Issue:
        """An issue as the server answered it to a change; it is known from now on."""
        try:
            issue = Issue.read(plain)
        except (KeyError, TypeError, ValueError) as error:
            raise self._client.malformed("something else than an issue") from error
        if issue is None:
            raise self._client.malformed("an issue without what was sent")
        self._known[issue.number] = issue
        return issue

    def says(self, number: int, word: str) -> bool | None:
        """Whether a comment of an issue holds a hidden word; ``None`` if not."""
        for comment in self._client.pages(f"{self._path}/{number}/comments", {}):
            if word in str(comment.get("body")) and self._client.trusts(comment):
                return True
        return None

    def _look(self, parameters: Mapping[str, Any]) -> None:
        # By age, so that what is opened while pages are read shifts none of them
        query = {"state": "all", "sort": "created", "direction": "asc", **parameters}
        self._learn(self._client.pages(self._path, query))

    def _learn(self, found: Iterable[Mapping[str, Any]]) -> None:
        for plain in found:
            try:
                issue = Issue.read(plain)
            except (KeyError, TypeError, ValueError) as error:
                raise self._client.malformed("something else than issues") from error
            if issue is not None and self._client.trusts(plain):
                self._known[issue.number] = issue


Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Parameters
    ----------
    left
        New ones beyond `IssueSettings.most_new`, for the next call.
    lost
        Open issues of events that the history does not hold any more; they are left as they are.
    """

    steps: tuple[Step, ...]
    left: tuple[Step, ...] = ()
    lost: tuple[Issue, ...] = ()


def planner_of(result: Result, settings: IssueSettings, access: Access, checkout: Path | None) -> Planner:
    """How the worsenings of a result are told in a repository.

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
    report = report_link(link_template(settings.link, "[issues]: link"), result.report_folder)
    return Planner(access.path, settings, partial(_story, result, access, report, checkout))


def _story(
    result: Result, access: Access, report: str, checkout: Path | None, wanted: Wanted, incident: Incident
) -> Story:
    event = incident.last.event
    before, after = event.last_before.commit, event.first_after.commit
    lines = judge_lines(result)
    find = bisect_line(result.scenario, event)
    return Story(
        incident,
        result.watched,
        wanted.standing,
        wanted.reason,
        attribute(event, checkout),
        _compare(access, before, after),
        report,
        (*lines, *(("Find the commit", line) for line in find)),
        tuple(one for one in result.document.get("courses") or () if isinstance(one, Mapping)),
        result.gaps,
    )


def _compare(access: Access, before: str, after: str) -> str:
    is_commit = all(7 <= len(one) <= 64 and set(one) <= set("0123456789abcdef") for one in (before, after))
    if not access.web or not is_commit or before == after:
        return ""
    return f"{access.web}/{access.code or access.repository}/compare/{before}...{after}"


def plan(wanted: Sequence[Wanted], tracker: Tracker | None, planner: Planner, most_new: int) -> Plan:
    """What to do for a result; without a tracker as in a repository that has none of the issues."""
    pairs = paired(wanted, tracker.followed() if tracker is not None else ())
    if tracker is not None and any(pair.issue is None and pair.wanted.speaks for pair in pairs):
        pairs = paired(wanted, tracker.everything())
    steps = [step for pair in pairs for step in planner.steps(pair)]
    late = [step for step in steps if step.opens][most_new:]
    lost = _lost(pairs, tracker.followed()) if tracker is not None else ()
    return Plan(tuple(step for step in steps if step not in late), tuple(late), lost)


def _lost(pairs: Sequence[Pair], issues: Sequence[Issue]) -> tuple[Issue, ...]:
    """Open issues of the same watched history that no event of it answers to."""
    scenarios = {scenario_digest(pair.wanted.scenario) for pair in pairs if pair.wanted.heard}
    found = {one.number for pair in pairs for one in (*pair.twins, pair.issue) if one is not None}
    return tuple(
        one
        for one in issues
        if one.number not in found and one.is_open and one.marker.heard and one.marker.scenario in scenarios
    )


class Carrier:
    """Carries plans out; says what was done as it goes."""

    def __init__(self, client: Client, tracker: Tracker, tell: Tell) -> None:
        self._client = client
        self._tracker = tracker
        self._tell = tell

    def carry_out(self, steps: Iterable[Step], planner: Planner) -> tuple[list[Step], list[GitHubError]]:
        """What was done, and what failed; when the server cannot be reached the rest is not tried."""
        done: list[Step] = []
        failed: list[GitHubError] = []
        for step in steps:
            try:
                self._do(step, planner)
                done.append(step)
            except GitHubError as error:
                failed.append(error)
                if error.status != 422:  # that is about this one; anything else would meet the others too
                    break
        return done, failed

    def _do(self, step: Step, planner: Planner) -> None:
        if step.number is None:
            self._open(step, planner)
            return
        for call in step.calls:
            if call.method == "PATCH":
                self._tracker.read(self._client.patch(call.path, call.payload))
            else:
                self._comment(call, step.number)
        self._tell(f"{step.what}: #{step.number} {step.title}")

    def _comment(self, call: Call, number: int) -> None:
        self._client.post(call.path, call.payload, lambda: self._tracker.says(number, call.said), lambda _: True)

    def _open(self, step: Step, planner: Planner) -> None:
        (call,) = step.calls
        issue, is_new = self._posted(call, step.wanted)
        self._tell(f"{'opened' if is_new else 'is there already'}: #{issue.number} {issue.title}")
        first = self._tracker.same(step.wanted)[:1] if is_new else []
        if first and first[0].number < issue.number and first[0].is_open:  # another call was at it at the same time
            self._do(planner.twin(step.wanted, issue, first[0].number), planner)

    def _posted(self, call: Call, wanted: Wanted) -> tuple[Issue, bool]:
        def made() -> Issue | None:
            return next(iter(self._tracker.same(wanted)), None)

        try:
            return self._client.post(call.path, call.payload, made, self._tracker.read)
        except GitHubError as error:
            if error.status != 422 or "assignee" not in str(error) or "assignees" not in call.payload:
                raise
            payload = {name: value for name, value in call.payload.items() if name != "assignees"}
            self._tell(f"nobody is assigned: {error}")
            return self._client.post(call.path, payload, made, self._tracker.read)


@dataclass(frozen=True, slots=True)
class Followed:
    """What following a result came to.

    Parameters
    ----------
    done
        Sentences: what was done, in order.
    left
        New issues beyond `IssueSettings.most_new`, which wait for the next call.
    unfit
        Whether the result is invalid, and therefore changed nothing.
    """

    done: tuple[str, ...]
    left: int = 0
    unfit: bool = False


MOST_GAPS = 5
_UNHEARD = "the history has not heard of this regression yet: no issue before it does"
_OBJECTIVE = "the regression is of absolute limits ([policy.objectives]) alone, which no issue follows"


def _quiet(_: str) -> None:
    """Nobody listens."""


def follow_issues(
    result: Result,
    settings: Settings,
    *,
    repository: str = "",
    checkout: Path | None = None,
    patience: Patience | None = None,
    tell: Callable[[str], None] = _quiet,
) -> Followed:
    """Bring the issues of a repository to what a result says, and what earlier calls could not send before it.

    Parameters
    ----------
    repository
        ``owner/name``; else that of the settings, else `GITHUB_REPOSITORY`.  Server and token come from
        `GITHUB_API_URL` and `GITHUB_TOKEN`.
    checkout
        A folder of the repository that the runs are of, to list the commits in between.
    tell
        Hears each sentence as soon as it is true.

    Raises
    ------
    SettingsError
        Repository, address, token, title or link cannot be right; nothing was sent.
    DeliveryError
        Something could not be sent; it is kept in the folder of the setting ``delivery`` for the next call.
    """
    access = Access.from_environment(repository or settings.issues.repository)
    planner_of(result, settings.issues, access, checkout)  # a mistake in the settings is told before anything is kept
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        tell(text)

    outbox = Outbox(settings.delivery, access, "issues")
    own = _kept(outbox, result, hear) if wanted_of(result) else None
    waiting, notes = outbox.waiting()
    for note in notes:
        hear(note)
    every = [*(one for one in waiting if own is None or one.file != own.file), *([own] if own is not None else [])]
    follower = _Follower(settings, access, checkout, outbox, patience, hear)
    left = follower.send(every)
    if note := untold(result):
        hear(note)
    elif left:
        hear(f"{left} more new issue{'s' if left > 1 else ''} are left for the next call (most_new in [issues])")
    return Followed(tuple(said), left, result.verdict is Verdict.INVALID)


def untold(result: Result) -> str:
    """Why a result that is not green changes no issue, and what it lacks; empty where it does, or is green."""
    if result.verdict is Verdict.INVALID:
        why = "its runs cannot be judged: no issue is changed"
    elif result.verdict is Verdict.REGRESSION and not result.incidents:
        why = _UNHEARD if result.watched else _OBJECTIVE
    elif result.verdict is Verdict.INCONCLUSIVE:
        why = "is inconclusive: no issue is opened"
    else:
        return ""
    lacks = " ".join(part for gap in result.gaps[:MOST_GAPS] for part in (gap.text, gap.advice) if part)
    return clean(f"{result.place}: {why}{f'. {lacks}' if lacks else ''}")


def _kept(outbox: Outbox, result: Result, tell: Tell) -> Unsent:
    """A result waits in place of one that it says the newer of: of a history, of comparisons with one baseline."""
    what = "history" if result.watched else result.fingerprint
    report = str(result.report) if result.report is not None else None
    content = {"place": result.place, "report": report, "stored": result.stored, "result": result.document}
    try:
        return outbox.keep(f"{result.scenario}\n{what}", content)
    except OSError as error:
        tell(f"{outbox.folder}: cannot be written ({error.strerror}): what cannot be sent now will not be sent later")
        return Unsent(Path(), "", content)


def _unpacked(one: Unsent) -> Result:
    """``ReadError`` for what another perfkit kept."""
    kept = decode(dict(one.content), _Kept, f"{one.file}: content")
    result = result_of(kept.result, kept.place, Path(kept.report) if kept.report else None)
    return replace(result, stored=kept.stored)


class _Kept(msgspec.Struct, frozen=True):
    place: str
    result: dict[str, Any]
    report: str | None = None
    stored: bool = False  # 0.1.0 knew result files only


@dataclass(frozen=True, slots=True)
class _Follower:
    settings: Settings
    access: Access
    checkout: Path | None
    outbox: Outbox
    patience: Patience | None
    tell: Tell

    def send(self, every: Sequence[Unsent]) -> int:
        """Send all that waits; how many new issues are left over."""
        client = Client(self.access, self.patience)
        tracker = Tracker(client, next(iter(self.settings.issues.labels), ""))
        carrier = Carrier(client, tracker, self.tell)
        room, left = self.settings.issues.most_new, 0
        failed: list[DeliveryError] = []
        waiting = list(every)
        for one in every:
            try:
                opened, late, errors = self._send_one(one, tracker, carrier, room)
            except ReadError as error:
                failed.append(DeliveryError(f"{one.file}: {error}"))
                continue
            except GitHubError as error:  # not even looking works
                failed.append(error)
                break
            room, left = room - opened, left + late
            failed += errors
            if not errors and not late:
                self.outbox.sent(one)
                waiting.remove(one)
            if any(error.status != 422 for error in errors):
                break
        if failed:
            texts = "; ".join(dict.fromkeys(map(str, failed)))
            raise DeliveryError(f"{self.access.repository}: {texts}. {self.outbox.whereabouts(waiting)}")
        return left

    def _send_one(
        self, one: Unsent, tracker: Tracker, carrier: Carrier, room: int
    ) -> tuple[int, int, list[GitHubError]]:
        result = _unpacked(one)
        planner = planner_of(result, self.settings.issues, self.access, self.checkout)
        found = plan(wanted_of(result), tracker, planner, room)
        done, errors = carrier.carry_out(found.steps, planner)
        for issue in found.lost:
            self.tell(f"left as it is: #{issue.number} {issue.title}: this history does not hold what it follows")
        return sum(step.opens for step in done), len(found.left), errors


def planned_calls(
    result: Result, settings: Settings, *, repository: str = "", checkout: Path | None = None, tell: Tell = _quiet
) -> tuple[dict[str, Any], ...]:
    """The requests that `follow_issues` would send, as method, path and JSON; nothing is changed anywhere.

    With a token the repository's issues are looked at; without one, or where that fails, these are the requests for a
    repository that has none yet.
    """
    access = Access.from_environment(repository or settings.issues.repository, with_token=False)
    planner = planner_of(result, settings.issues, access, checkout)
    wanted, most = wanted_of(result), settings.issues.most_new
    looked: tuple[Call, ...] | None = None
    if access.token and wanted:
        tracker = Tracker(Client(access, Patience(timeout_s=5, tries=1)), next(iter(settings.issues.labels), ""))
        try:
            looked = tuple(call for step in plan(wanted, tracker, planner, most).steps for call in step.calls)
        except GitHubError as error:
            tell(f"{error}: taken for a repository that has none of these issues")
    elif wanted:
        tell("no GITHUB_TOKEN: taken for a repository that has none of these issues")
    if note := untold(result):
        tell(note)
    if looked is None:
        looked = tuple(call for step in plan(wanted, None, planner, most).steps for call in step.calls)
    return tuple(call.to_dict() for call in looked)
