"""A comparison as JUnit XML: one test case per finding; inconclusive is skipped with a reason, invalid is an error."""

from __future__ import annotations

from xml.etree import ElementTree

from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.render.theme import clean, format_change, format_interval
from perfkit.render.words import headlines, limit_text, settle


def to_junit(comparison: Comparison) -> str:
    """An XML document with one suite named ``perfkit compare``."""
    news = len(comparison.history.news) if comparison.history is not None else 0
    counts = {verdict: len(comparison.by_verdict(verdict)) for verdict in Verdict}
    invalid = comparison.verdict is Verdict.INVALID
    suite = ElementTree.Element(
        "testsuite",
        name="perfkit compare",
        tests=str(len(comparison.findings) + invalid + news),
        failures=str(0 if invalid else counts[Verdict.REGRESSION] + news),
        errors=str(int(invalid)),
        skipped=str(len(comparison.findings) if invalid else counts[Verdict.INCONCLUSIVE]),
    )
    if invalid:
        case = ElementTree.SubElement(suite, "testcase", classname="perfkit", name="runs can be judged")
        error = ElementTree.SubElement(case, "error", message=clean(headlines(comparison)[0]))
        error.text = "\n".join(clean(warning) for warning in comparison.warnings)
    for text in comparison.history.news if comparison.history is not None else ():
        case = ElementTree.SubElement(suite, "testcase", classname="perfkit", name="history")
        ElementTree.SubElement(case, "failure", message=clean(text))
    for finding in comparison.findings:
        _case(suite, finding, judged=not invalid)
    notes = [clean(text) for text in (*headlines(comparison), *comparison.warnings)]
    ElementTree.SubElement(suite, "system-out").text = "\n".join(notes)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, finding: Finding, *, judged: bool) -> None:
    name = f"{clean(finding.service)}: {Metric(finding.metric).title}"
    case = ElementTree.SubElement(suite, "testcase", classname="perfkit", name=name)
    interval = f" {format_interval(finding)}" if finding.ci_low is not None else ""
    text = f"{format_change(finding)}{interval}, tolerance {limit_text(finding)}"
    if not judged:
        ElementTree.SubElement(case, "skipped", message="the comparison is invalid")
    elif finding.verdict is Verdict.REGRESSION:
        ElementTree.SubElement(case, "failure", message=text)
    elif finding.verdict is Verdict.INCONCLUSIVE:
        reason = "; ".join(part for part in (settle(finding), *finding.warnings) if part)
        ElementTree.SubElement(case, "skipped", message=clean(f"inconclusive: {text}; {reason}"))
