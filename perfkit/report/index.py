"""The page above many reports: the worst first, each with what it says and where to read on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from perfkit.model.installation import VERSION
from perfkit.model.records import Verdict
from perfkit.report.findings import outcome_text
from perfkit.report.formatting import VERDICT_COLOURS, clean, count_text, shorten
from perfkit.report.html import render
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
    by_scenario = [(name, worst(entries)) for name, entries in overview.scenarios]
    bad, count = worst(overview.entries), count_text(len(by_scenario), "scenario")
    attention = sum(entry.word not in _CALM for _, entry in by_scenario)
    answer = f"{attention} of {count} {'needs' if attention == 1 else 'need'} a look."
    words = Counter(entry.word for _, entry in by_scenario)
    counts = [f"{number} {outcome_text(word).split(' ', 1)[-1]}" for word, number in words.items()]
    done = sum(entry.outcome is Outcome.DONE for entry in overview.entries)
    failed = len(overview.entries) - done
    facts = [
        f"{count_text(done, 'report')}{f', {failed} could not be made' if failed else ''}",
        *([f"store {clean(overview.store)}"] if overview.store else []),
        f"written {overview.made_at:%Y-%m-%d %H:%M:%S} UTC",
        f"perfkit {VERSION}",
    ]
    return render(
        "index_page.html.j2",
        rows=[_row(name, entries) for name, entries in overview.scenarios],
        word=outcome_text(bad.word),
        css=_css(bad),
        colour=VERDICT_COLOURS[bad.word if isinstance(bad.word, Verdict) else Verdict.INVALID],
        answer=answer if attention else f"Nothing to look at in {count}.",
        counts=", ".join(counts) if len(counts) > 1 else "",  # empty when all are alike
        facts=facts,
    )


def _row(scenario: str, entries: Sequence[Entry]) -> Row:
    bad = worst(tuple(entries))
    ordered = sorted(entries, key=lambda entry: entry.rank)
    texts = list(dict.fromkeys(shorten(text, 400) for entry in ordered for text in entry.sentences))
    shown = tuple(texts[:MOST_SENTENCES])
    links = tuple(
        Link(
            QUESTIONS.get(entry.kind, entry.kind),
            entry.kind,
            "" if entry.word is Outcome.DONE else outcome_text(entry.word),
            _css(entry),
            quote(entry.report),
            quote(entry.notebook),
        )
        for entry in entries
    )
    return Row(shorten(scenario, 80), outcome_text(bad.word), _css(bad), shown, len(texts) - len(shown), links)


def _css(entry: Entry) -> str:
    """The verdict's class; what could not be made looks like what cannot be judged."""
    if isinstance(entry.word, Verdict):
        return f"pk-{entry.word.value}"
    return "pk-no_change" if entry.word is Outcome.DONE else "pk-invalid"
