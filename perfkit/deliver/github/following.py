"""Results followed by issues, with what earlier calls could not send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perfkit.codec import decode
from perfkit.config import Settings
from perfkit.deliver.github.access import Access
from perfkit.deliver.github.client import Client, Patience
from perfkit.deliver.github.issues import Carrier, Tell, plan, planner_of
from perfkit.deliver.github.outbox import Outbox, Unsent
from perfkit.deliver.github.steps import Call
from perfkit.deliver.github.tracker import Tracker
from perfkit.deliver.github.troubles import Trouble
from perfkit.deliver.github.wanted import wanted_of
from perfkit.errors import DeliveryError, ReadError
from perfkit.model import Verdict
from perfkit.render.theme import clean
from perfkit.results import Result, result_of


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
    elif result.verdict is Verdict.REGRESSION and not result.episodes:
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
    content = {"place": result.place, "report": report, "result": result.document}
    try:
        return outbox.keep(f"{result.scenario}\n{what}", content)
    except OSError as error:
        tell(f"{outbox.folder}: cannot be written ({error.strerror}): what cannot be sent now will not be sent later")
        return Unsent(Path(), "", content)


def _unpacked(one: Unsent) -> Result:
    """``ReadError`` for what another perfkit kept."""
    kept = decode(dict(one.content), _Kept, f"{one.file}: content")
    return result_of(kept.result, kept.place, Path(kept.report) if kept.report else None)


class _Kept(msgspec.Struct, frozen=True):
    place: str
    result: dict[str, Any]
    report: str | None = None


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
                opened, late, troubles = self._send_one(one, tracker, carrier, room)
            except ReadError as error:
                failed.append(DeliveryError(f"{one.file}: {error}"))
                continue
            except Trouble as trouble:  # not even looking works
                failed.append(trouble)
                break
            room, left = room - opened, left + late
            failed += troubles
            if not troubles and not late:
                self.outbox.sent(one)
                waiting.remove(one)
            if any(trouble.status != 422 for trouble in troubles):
                break
        if failed:
            texts = "; ".join(dict.fromkeys(map(str, failed)))
            raise DeliveryError(f"{self.access.repository}: {texts}. {self.outbox.whereabouts(waiting)}")
        return left

    def _send_one(self, one: Unsent, tracker: Tracker, carrier: Carrier, room: int) -> tuple[int, int, list[Trouble]]:
        result = _unpacked(one)
        planner = planner_of(result, self.settings.issues, self.access, self.checkout)
        found = plan(wanted_of(result), tracker, planner, room)
        done, troubles = carrier.carry_out(found.steps, planner)
        for issue in found.lost:
            self.tell(f"left as it is: #{issue.number} {issue.title}: this history does not hold what it follows")
        return sum(step.opens for step in done), len(found.left), troubles


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
        except Trouble as trouble:
            tell(f"{trouble}: taken for a repository that has none of these issues")
    elif wanted:
        tell("no GITHUB_TOKEN: taken for a repository that has none of these issues")
    if note := untold(result):
        tell(note)
    if looked is None:
        looked = tuple(call for step in plan(wanted, None, planner, most).steps for call in step.calls)
    return tuple(call.to_dict() for call in looked)
