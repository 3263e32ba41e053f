"""Results as JUnit XML: one suite per result, one test case per finding.

A regression is a failure, what is inconclusive is skipped with its reason, and what could not be judged is an error.
The form is that of Jenkins (junit-10.xsd), which GitLab, Azure, TeamCity and others read too.

Results as annotations of a GitHub workflow: lines of a job's log that the check of a commit shows.

The form and its escapes are those of GitHub's "Workflow commands for GitHub Actions"; what a runner reads of a line it
reads of any line that a step prints, so nothing of a text from outside may begin one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from xml.etree import ElementTree

from perfkit.history.incidents import Result
from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.formatting import clean, format_change, format_interval, shorten
from perfkit.report.report_set import Outcome
from perfkit.report.sentences import Account, gap_texts, headlines, limit_text, settle, word_text

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
        return f"::{self.level} title={_property(self.title)}::{_data(shorten(self.text, LONGEST_ANNOTATION))}"


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


LONGEST = 1000  # characters of an attribute: servers show them in one line


@dataclass(frozen=True, slots=True)
class _Case:
    """A test case; ``end`` is ``failure``, ``error``, ``skipped``, or empty for one that passed."""

    name: str
    end: str = ""
    kind: str = ""
    message: str = ""
    text: str = ""


def to_junit(comparison: Comparison) -> str:
    """An XML document with one suite named ``perfkit compare``."""
    return _document([_of_comparison(comparison, "perfkit compare", "perfkit")])


def told_as_junit(told: Sequence[Account]) -> str:
    """An XML document with a suite for each result that judges, and for each report that could not be made."""
    return _document([_of_told(one) for one in told if one.result is not None or one.claims])


def _of_told(one: Account) -> ElementTree.Element:
    title, place = f"perfkit {one.kind} {clean(one.scenario)}", f"perfkit.{clean(one.scenario)}.{one.kind}"
    if one.result is None:
        text = "\n".join(claim.text for claim in one.claims)
        return _suite(title, place, [_Case("report was made", "error", str(one.word), text, text)], [])
    if one.result.comparison is not None:
        return _of_comparison(one.result.comparison, title, place)
    return _suite(title, place, list(_history_cases(one.result)), [claim.text for claim in one.claims])


def _of_comparison(comparison: Comparison, title: str, place: str) -> ElementTree.Element:
    return _suite(title, place, list(_cases(comparison)), [*headlines(comparison), *comparison.warnings])


def _cases(comparison: Comparison) -> Iterator[_Case]:
    judged = comparison.verdict is not Verdict.INVALID
    if not judged:
        said = "\n".join(clean(warning) for warning in comparison.warnings)
        yield _Case("runs can be judged", "error", "invalid", headlines(comparison)[0], said)
    if judged and comparison.gaps and comparison.verdict is not Verdict.REGRESSION:  # no case would show it
        yield _Case("everything was measured", "skipped", "", "\n".join(gap_texts(comparison)))
    for text in comparison.history.news if comparison.history is not None else ():
        yield _Case("history", "failure", "regression", text)
    for finding in comparison.findings:
        yield _case(finding) if judged else _Case(_name(finding), "skipped", "", "the comparison is invalid")


def _case(finding: Finding) -> _Case:
    interval = f" {format_interval(finding)}" if finding.ci_low is not None else ""
    text = f"{format_change(finding)}{interval}, tolerance {limit_text(finding)}"
    reason = "; ".join(part for part in (settle(finding), *finding.warnings) if part)
    why = f"{finding.verdict}: {text}; {reason}".removesuffix("; ")
    ends = {Verdict.REGRESSION: "failure", Verdict.INCONCLUSIVE: "skipped", Verdict.INVALID: "error"}
    end = ends.get(finding.verdict, "")
    message = text if end == "failure" else why
    return _Case(_name(finding), end, finding.verdict.value, message) if end else _Case(_name(finding))


def _name(finding: Finding) -> str:
    limit = f" ({finding.limit})" if finding.objective else ""
    return f"{shorten(finding.label, 200)}: {Metric(finding.metric).title}{limit}"


def _history_cases(result: Result) -> Iterator[_Case]:
    """Every worsening that was ever heard of is a case; one that is over or known passes."""
    alerts = {alert["id"]: alert for alert in result.document["watch"]["alerts"]}
    for incident in result.incidents:
        event = incident.last.event
        alert, name = alerts[event.id], f"no regression since run {event.id}"
        if alert["fails"]:
            yield _Case(name, "failure", "regression", event.headline)
        elif alert.get("open"):
            yield _Case(name, "skipped", "inconclusive", f"{event.headline} {alert.get('doubt') or ''}".rstrip())
        else:
            yield _Case(name)
    if result.verdict is Verdict.INVALID:
        yield _Case("runs can be judged", "error", "invalid", "None of the runs is valid.")
    elif not result.incidents and result.verdict is Verdict.INCONCLUSIVE:
        yield _Case("nothing got worse", "skipped", "inconclusive", "Too few valid runs to tell.")
    elif not result.incidents:
        yield _Case("nothing got worse")


def _document(suites: Iterable[ElementTree.Element]) -> str:
    root = ElementTree.Element("testsuites")
    root.extend(suites)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(title: str, place: str, cases: Sequence[_Case], notes: Iterable[str]) -> ElementTree.Element:
    ends = [case.end for case in cases]
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite = ElementTree.Element(
        "testsuite",
        {"name": title, "tests": str(len(cases)), **{name: str(ends.count(end)) for name, end in counts.items()}},
    )
    for case in cases:
        item = ElementTree.SubElement(suite, "testcase", classname=place, name=clean(case.name))
        if case.end:
            said = {"message": shorten(case.message, LONGEST), "type": case.kind}
            ElementTree.SubElement(item, case.end, {k: v for k, v in said.items() if v}).text = case.text or None
    ElementTree.SubElement(suite, "system-out").text = "\n".join(clean(note) for note in notes)
    return suite
