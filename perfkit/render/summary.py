"""Results as one Markdown page: for the summary of a GitHub job, or a comment of any other system."""

from __future__ import annotations

from collections.abc import Sequence

from perfkit.model import Verdict
from perfkit.overview import Outcome
from perfkit.render.claims import Account, word_text
from perfkit.render.markdown import bullets, escape, folded, to_markdown

MOST_BYTES = 1_000_000  # GitHub refuses the summary of a step beyond 1 MiB
MOST_CLAIMS = 3  # in a table's cell
_QUIET = (Verdict.NO_CHANGE, Verdict.IMPROVEMENT, Outcome.DONE)


def to_summary(told: Sequence[Account], report: str = "") -> str:
    """A table of all results, and each one whole; of several, those that need nobody's eye are folded.

    What does not fit into `MOST_BYTES` is left out, and that is said.
    """
    pages = [_page(one, alone=len(told) == 1) for one in told]
    head = [_table(told)] if len(told) > 1 else []
    if report:
        head.append(f"Report: {escape(report, 300)}")
    return _fitting([*head, *(page for page in pages if page)])


def _table(told: Sequence[Account]) -> str:
    rows = [
        (word_text(one.word), escape(one.scenario, 60), one.kind, _cell([claim.text for claim in one.claims]))
        for one in told
    ]
    return "# Load tests\n\n" + folded(("Verdict", "Scenario", "Report", "What it says"), rows, "<<<<")


def _cell(texts: Sequence[str]) -> str:
    shown = " ".join(escape(text, 200) for text in texts[:MOST_CLAIMS])
    return f"{shown} And {len(texts) - MOST_CLAIMS} more." if len(texts) > MOST_CLAIMS else shown


def _page(one: Account, *, alone: bool) -> str:
    if one.result is None:
        return ""
    comparison = one.result.comparison
    text = to_markdown(comparison).rstrip() if comparison is not None else _history(one)
    if alone:
        return text
    title = f"{word_text(one.word)}: {escape(one.scenario, 60)}, {one.kind}"
    state = "" if one.word in _QUIET else " open"
    return f"<details{state}><summary>{title}</summary>\n\n{text}\n\n</details>"


def _history(one: Account) -> str:
    claims = bullets(claim.text for claim in one.claims)
    return f"# History of {escape(one.scenario, 60)}: {word_text(one.word)}\n\n{claims}"


def _fitting(parts: Sequence[str]) -> str:
    """Whole parts, as many as fit."""
    kept: list[str] = []
    room = MOST_BYTES - 200
    for part in parts:
        room -= len(part.encode()) + 2
        if room < 0:
            left = len(parts) - len(kept)
            kept.append(f"{left} more would be too long for this page; the reports have everything.")
            break
        kept.append(part)
    return "\n\n".join(kept) + "\n"
