"""Results as annotations of a GitHub workflow: lines of a job's log that the check of a commit shows.

The form and its escapes are those of GitHub's "Workflow commands for GitHub Actions"; what a runner reads of a line it
reads of any line that a step prints, so nothing of a text from outside may begin one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from perfkit.model.records import Verdict
from perfkit.report.findings import outcome_text
from perfkit.report.formatting import clean, shorten
from perfkit.report.message import Message
from perfkit.report.report_set import Outcome

MOST_OF_A_KIND = 10  # GitHub shows that many of each kind per step, and drops further ones without a word
LONGEST_ANNOTATION = 1000  # characters of a message; a check shows about so much


class Level(StrEnum):
    """The kinds of annotations, by the name of their command."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


_LEVELS: dict[Verdict | Outcome, Level] = {
    Outcome.FAILED: Level.ERROR,
    Outcome.INCOMPARABLE: Level.ERROR,
    Verdict.INVALID: Level.ERROR,
    Verdict.REGRESSION: Level.ERROR,
    Verdict.INCONCLUSIVE: Level.WARNING,
    Verdict.IMPROVEMENT: Level.NOTICE,
    Verdict.NO_CHANGE: Level.NOTICE,
    Outcome.DONE: Level.NOTICE,
}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One line: how serious, a title, a text."""

    level: Level
    title: str
    text: str

    def __str__(self) -> str:
        # What would end a part is escaped; `clean` takes care of what would begin another command
        title = clean(self.title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
        text = clean(shorten(self.text, LONGEST_ANNOTATION)).replace("%", "%25")
        return f"::{self.level} title={title}::{text}"


def annotate(messages: Sequence[Message]) -> tuple[Annotation, ...]:
    """At most ten of each kind, errors first; the last of too many says how many more there are."""
    annotations = [
        Annotation(_LEVELS[verdict], f"{_subject(message)}: {outcome_text(verdict)}", text)
        for message in messages
        for verdict, text in message.lines
    ]
    for message in messages:
        comparison = message.result.comparison if message.result is not None else None
        if comparison is not None and comparison.verdict is not Verdict.INVALID:
            title = f"{_subject(message)}: to know"
            annotations += [Annotation(Level.WARNING, title, text) for text in comparison.warnings]
    shown: list[Annotation] = []
    for level in Level:
        of_level = [item for item in annotations if item.level is level]
        if len(of_level) > MOST_OF_A_KIND:
            more = len(of_level) - MOST_OF_A_KIND + 1
            text = f"{more} more: see the summary or the report."
            of_level = [*of_level[: MOST_OF_A_KIND - 1], Annotation(level, "perfkit", text)]
        shown += of_level
    return tuple(shown)


def _subject(message: Message) -> str:
    return f"perfkit {message.kind} {shorten(message.scenario, 60)}"
