"""Results as annotations of a GitHub workflow: lines of a job's log that the check of a commit shows.

The form and its escapes are those of GitHub's "Workflow commands for GitHub Actions"; what a runner reads of a line it
reads of any line that a step prints, so nothing of a text from outside may begin one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from perfkit.model import Verdict
from perfkit.overview import Outcome
from perfkit.render.claims import Account, word_text
from perfkit.render.theme import clean, shorten

MOST_OF_A_KIND = 10  # GitHub shows that many of each kind per step, and drops further ones without a word
LONGEST = 1000  # characters of a message; a check shows about so much


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
        return f"::{self.level} title={_property(self.title)}::{_data(shorten(self.text, LONGEST))}"


def annotate(told: Sequence[Account]) -> tuple[Annotation, ...]:
    """At most ten of each kind, errors first; the last of too many says how many more there are."""
    found = [*_claims(told), *_warnings(told)]
    return tuple(one for level in Level for one in _most([a for a in found if a.level is level], level))


def _claims(told: Iterable[Account]) -> Iterator[Annotation]:
    for one in told:
        for claim in one.claims:
            yield Annotation(_LEVELS[claim.word], _title(one, word_text(claim.word)), claim.text)


def _warnings(told: Iterable[Account]) -> Iterator[Annotation]:
    for one in told:
        comparison = one.result.comparison if one.result is not None else None
        if comparison is not None and comparison.verdict is not Verdict.INVALID:
            for text in comparison.warnings:
                yield Annotation(Level.WARNING, _title(one, "to know"), text)


def _title(told: Account, what: str) -> str:
    return f"perfkit {told.kind} {shorten(told.scenario, 60)}: {what}"


def _most(found: Sequence[Annotation], level: Level) -> Sequence[Annotation]:
    if len(found) <= MOST_OF_A_KIND:
        return found
    shown = found[: MOST_OF_A_KIND - 1]
    return [*shown, Annotation(level, "perfkit", f"{len(found) - len(shown)} more: see the summary or the report.")]


def _data(text: str) -> str:
    """A message: what would end it is escaped; `clean` takes care of what would begin another command."""
    return clean(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
