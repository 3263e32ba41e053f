"""The page above many reports: the worst first, each with what it says and where to read on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from perfkit.model.installation import VERSION
from perfkit.model.records import Verdict
from perfkit.report.formatting import VERDICT_COLOURS, clean, shorten
from perfkit.report.html import render
from perfkit.report.message import outcome_text
from perfkit.report.report_set import Entry, Outcome, Overview, worst

QUESTIONS = {
    "compare": "Did it get slower?",
    "trend": "How has it gone?",
    "baseline": "What is normal?",
    "capacity": "How much load can it take?",
}
MOST_SENTENCES = 3  # of one scenario; its reports have the rest
_CALM = (Verdict.NO_CHANGE, Verdict.IMPROVEMENT, Outcome.DONE)


@dataclass(frozen=True, slots=True)
class Link:
    """A report, or why there is none; ``href`` is empty then."""

    question: str
    kind: str
    word: str
    css: str
    href: str
    notebook: str


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario."""

    scenario: str
    word: str
    css: str
    sentences: tuple[str, ...]
    more: int
    links: tuple[Link, ...]


def index_page(overview: Overview) -> str:
    """A page of HTML that opens offline and whose links are relative to the overview's folder."""
    bad = worst(overview.entries)
    return render(
        "index_page.html.j2",
        rows=[_row(name, entries) for name, entries in overview.scenarios],
        word=outcome_text(bad.word),
        css=_css(bad),
        colour=VERDICT_COLOURS[bad.word if isinstance(bad.word, Verdict) else Verdict.INVALID],
        answer=_answer(overview),
        counts=_counts(overview),
        facts=_facts(overview),
    )


def _answer(overview: Overview) -> str:
    groups = [entries for _, entries in overview.scenarios]
    loud = sum(worst(entries).word not in _CALM for entries in groups)
    if not loud:
        return f"Nothing to look at in {_scenarios(len(groups))}."
    return f"{loud} of {_scenarios(len(groups))} {'needs' if loud == 1 else 'need'} a look."


def _counts(overview: Overview) -> str:
    """Scenarios by the worst that is said of them: ``1 failed, 2 no regression``; empty when all are alike."""
    ranked = Counter(worst(entries).word for _, entries in overview.scenarios)
    parts = [f"{count} {outcome_text(word).split(' ', 1)[-1]}" for word, count in ranked.items()]
    return ", ".join(parts) if len(parts) > 1 else ""


def _scenarios(count: int) -> str:
    return f"{count} scenario{'' if count == 1 else 's'}"


def _facts(overview: Overview) -> list[str]:
    done = sum(entry.outcome is Outcome.DONE for entry in overview.entries)
    missing = len(overview.entries) - done
    return [
        f"{done} report{'' if done == 1 else 's'}{f', {missing} could not be made' if missing else ''}",
        *([f"store {clean(overview.store)}"] if overview.store else []),
        f"written {overview.made_at:%Y-%m-%d %H:%M:%S} UTC",
        f"perfkit {VERSION}",
    ]


def _row(scenario: str, entries: Sequence[Entry]) -> Row:
    bad = worst(tuple(entries))
    ordered = sorted(entries, key=lambda entry: entry.rank)
    texts = list(dict.fromkeys(shorten(text, 400) for entry in ordered for text in entry.sentences))
    shown = tuple(texts[:MOST_SENTENCES])
    links = tuple(_link(entry) for entry in entries)
    return Row(shorten(scenario, 80), outcome_text(bad.word), _css(bad), shown, len(texts) - len(shown), links)


def _link(entry: Entry) -> Link:
    word = "" if entry.word is Outcome.DONE else outcome_text(entry.word)
    question = QUESTIONS.get(entry.kind, entry.kind)
    return Link(question, entry.kind, word, _css(entry), quote(entry.report), quote(entry.notebook))


def _css(entry: Entry) -> str:
    """The verdict's class; what could not be made looks like what cannot be judged."""
    if isinstance(entry.word, Verdict):
        return f"pk-{entry.word.value}"
    return "pk-no_change" if entry.word is Outcome.DONE else "pk-invalid"
