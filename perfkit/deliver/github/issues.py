"""One issue per worsening: what results want, compared with what the repository has, and carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perfkit.channels import IssueSettings
from perfkit.deliver.github.access import Access
from perfkit.deliver.github.client import Client
from perfkit.deliver.github.matching import Issue, Pair, paired, scenario_digest
from perfkit.deliver.github.steps import Call, Planner, Step
from perfkit.deliver.github.tracker import Tracker
from perfkit.deliver.github.troubles import Trouble
from perfkit.deliver.github.wanted import Wanted
from perfkit.history.attribution import attribute
from perfkit.history.episodes import Episode
from perfkit.render.commands import bisect_line, judge_lines
from perfkit.render.issue import Story, check_template, report_address
from perfkit.results import Result
from perfkit.settings_file import expand

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
    folder = (result.report or Path(result.place)).resolve().parent.name
    report = report_address(expand(settings.link, "[issues]: link"), folder)
    return Planner(access.path, settings, partial(_story, result, access, report, checkout))


def _story(
    result: Result, access: Access, report: str, checkout: Path | None, wanted: Wanted, episode: Episode
) -> Story:
    event = episode.last.event
    before, after = event.last_before.commit, event.first_after.commit
    lines = judge_lines(result)
    find = bisect_line(result.scenario, event)
    return Story(
        episode,
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

    def carry_out(self, steps: Iterable[Step], planner: Planner) -> tuple[list[Step], list[Trouble]]:
        """What was done, and what failed; when the server cannot be reached the rest is not tried."""
        done: list[Step] = []
        failed: list[Trouble] = []
        for step in steps:
            try:
                self._do(step, planner)
                done.append(step)
            except Trouble as trouble:
                failed.append(trouble)
                if trouble.status != 422:  # that is about this one; anything else would meet the others too
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
        except Trouble as trouble:
            if trouble.status != 422 or "assignee" not in str(trouble) or "assignees" not in call.payload:
                raise
            payload = {name: value for name, value in call.payload.items() if name != "assignees"}
            self._tell(f"nobody is assigned: {trouble}")
            return self._client.post(call.path, payload, made, self._tracker.read)
