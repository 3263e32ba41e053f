"""Results as the comment of a pull request: as the summary of a job, within the length that GitHub takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perfkit.model import Comparison, Verdict
from perfkit.render.claims import Account, word_text
from perfkit.render.markdown import bullets, escape
from perfkit.render.summary import to_summary

MOST_CHARACTERS = 60_000  # GitHub takes 65,536
MOST_CLAIMS = 20  # of a result that does not fit
_ALL = 500  # findings: more never fit
_SHORTER = (300, 100, 30, 10)  # findings of all results together
_LEAST = 3  # findings of each result, for a table of them to be worth while
_ORDER = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


def to_comment(told: Sequence[Account], report: str = "") -> str:
    """The whole summary, else its most telling findings, else its headlines.

    ``report`` is the address of the report; what is left out is said to be there.
    """
    link = f"[The report with its charts]({report})\n\n" if report else ""
    if sum(map(_findings, told)) <= _ALL:
        page = to_summary(told)
        if len(link) + len(page) <= MOST_CHARACTERS:
            return link + page
    for most in (together // len(told) for together in _SHORTER):
        if most < _LEAST:
            break
        note = f"Only the {most} most telling findings, runs and warnings of each result are shown.\n\n"
        page = to_summary([_shortened(one, most) for one in told])
        if len(link) + len(note) + len(page) <= MOST_CHARACTERS:
            return link + note + page
    return link + _headlines(told)


def _findings(one: Account) -> int:
    comparison = one.result.comparison if one.result is not None else None
    return len(comparison.findings) if comparison is not None else len(one.claims)


def _shortened(one: Account, most: int) -> Account:
    if one.result is None or one.result.comparison is None:
        return replace(one, claims=one.claims[:most])
    result = replace(one.result, comparison=_telling(one.result.comparison, most))
    return replace(one, claims=one.claims[:most], result=result)


def _telling(comparison: Comparison, most: int) -> Comparison:
    findings = sorted(comparison.findings, key=lambda finding: _ORDER.index(finding.verdict))
    return replace(
        comparison,
        findings=tuple(findings[:most]),
        warnings=comparison.warnings[:most],
        baseline=replace(comparison.baseline, runs=comparison.baseline.runs[-most:]),
        candidate=replace(comparison.candidate, runs=comparison.candidate.runs[-most:]),
    )


def _headlines(told: Sequence[Account]) -> str:
    parts: list[str] = []
    for one in told:
        shown = bullets(claim.text for claim in one.claims[:MOST_CLAIMS])
        parts.append(f"# {escape(one.scenario, 60)}: {word_text(one.word)}\n\n{shown}")
        if sum(map(len, parts)) > MOST_CHARACTERS - 1_000:
            parts[-1] = f"{len(told) - len(parts) + 1} more results do not fit; the report has them."
            break
    return "\n\n".join(parts) + "\n"
