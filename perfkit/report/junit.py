"""Results as JUnit XML: one suite per result, one test case per finding.

A regression is a failure, what is inconclusive is skipped with its reason, and what could not be judged is an error.
The form is that of Jenkins (junit-10.xsd), which GitLab, Azure, TeamCity and others read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from perfkit.history.incidents import Result
from perfkit.model.records import Comparison, Finding, Metric, Verdict
from perfkit.report.findings import finding_row, limit_text, settle
from perfkit.report.formatting import UNKNOWN, clean, shorten
from perfkit.report.message import Message, alert_of
from perfkit.report.sentences import gap_texts, headlines

LONGEST = 1000  # characters of an attribute: servers show them in one line


@dataclass(frozen=True, slots=True)
class _Case:
    """A test case; ``status`` is ``failure``, ``error``, ``skipped``, or empty for one that passed."""

    name: str
    status: str = ""
    kind: str = ""
    message: str = ""
    text: str = ""


def to_junit(comparison: Comparison) -> str:
    """An XML document with one suite named ``perfkit compare``."""
    return _document([_comparison_suite(comparison, "perfkit compare", "perfkit")])


def messages_to_junit(messages: Sequence[Message]) -> str:
    """An XML document with a suite for each result that judges, and for each report that could not be made."""
    suites = []
    for message in messages:
        scenario, result = clean(message.scenario), message.result
        title, class_name = f"perfkit {message.kind} {scenario}", f"perfkit.{scenario}.{message.kind}"
        texts = [text for _, text in message.lines]
        if result is not None and result.comparison is not None:
            suites.append(_comparison_suite(result.comparison, title, class_name))
        elif result is not None:
            suites.append(_suite(title, class_name, list(_history_cases(result)), texts))
        elif texts:
            text = "\n".join(texts)
            case = _Case("report was made", "error", str(message.verdict), text, text)
            suites.append(_suite(title, class_name, [case], []))
    return _document(suites)


def _comparison_suite(comparison: Comparison, title: str, class_name: str) -> ElementTree.Element:
    notes = [*headlines(comparison), *comparison.warnings]
    return _suite(title, class_name, list(_cases(comparison)), notes)


def _cases(comparison: Comparison) -> Iterator[_Case]:
    judged = comparison.verdict is not Verdict.INVALID
    if not judged:
        text = "\n".join(clean(warning) for warning in comparison.warnings)
        yield _Case("runs can be judged", "error", "invalid", headlines(comparison)[0], text)
    if judged and comparison.gaps and comparison.verdict is not Verdict.REGRESSION:  # no case would show it
        yield _Case("everything was measured", "skipped", "", "\n".join(gap_texts(comparison)))
    for text in comparison.history.news if comparison.history is not None else ():
        yield _Case("history", "failure", "regression", text)
    for finding in comparison.findings:
        limit = f" ({finding.limit})" if finding.objective else ""
        name = f"{shorten(finding.label, 200)}: {Metric(finding.metric).title}{limit}"
        yield _case(name, finding) if judged else _Case(name, "skipped", "", "the comparison is invalid")


def _case(name: str, finding: Finding) -> _Case:
    cells = finding_row(finding).cells
    interval = f" {cells['interval']}" if cells["interval"] != UNKNOWN else ""
    text = f"{cells['change']}{interval}, tolerance {limit_text(finding)}"
    reason = "; ".join(part for part in (settle(finding), *finding.warnings) if part)
    why = f"{finding.verdict}: {text}; {reason}".removesuffix("; ")
    status = {Verdict.REGRESSION: "failure", Verdict.INCONCLUSIVE: "skipped", Verdict.INVALID: "error"}
    if finding.verdict not in status:
        return _Case(name)
    message = text if finding.verdict is Verdict.REGRESSION else why
    return _Case(name, status[finding.verdict], finding.verdict.value, message)


def _history_cases(result: Result) -> Iterator[_Case]:
    """Every worsening that was ever detected is a case; one that is over or acknowledged passes."""
    for incident in result.incidents:
        event = incident.last.event
        alert, name = alert_of(result, event.id), f"no regression since run {event.id}"
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


def _suite(title: str, class_name: str, cases: Sequence[_Case], notes: Iterable[str]) -> ElementTree.Element:
    statuses = [case.status for case in cases]
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite = ElementTree.Element(
        "testsuite",
        {"name": title, "tests": str(len(cases)), **{name: str(statuses.count(one)) for name, one in counts.items()}},
    )
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", classname=class_name, name=clean(case.name))
        if case.status:
            attributes = {"message": shorten(case.message, LONGEST), "type": case.kind}
            given = {name: text for name, text in attributes.items() if text}
            ElementTree.SubElement(element, case.status, given).text = case.text or None
    ElementTree.SubElement(suite, "system-out").text = "\n".join(clean(note) for note in notes)
    return suite
