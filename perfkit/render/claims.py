"""What results say, one sentence at a time, each with what kind of thing it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perfkit.model import Comparison, Verdict
from perfkit.overview import Entry, Outcome, rank
from perfkit.render.theme import VERDICT_SYMBOLS, VERDICT_WORDS, clean
from perfkit.render.words import claimed, gap_texts, headlines, next_step
from perfkit.results import Result

MOST_REASONS = 3  # of what makes runs invalid; the report has the rest
OUTCOME_WORDS = {
    Outcome.DONE: "reported",
    Outcome.INCOMPARABLE: "nothing to compare with",
    Outcome.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, and what it is about."""

    word: Verdict | Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Account:
    """One report as it is told elsewhere.

    Parameters
    ----------
    kind
        ``compare``, ``trend``, ``baseline`` or ``capacity``.
    claims
        The worst first, never empty for a report that judges.
    result
        All of it, where there is a result that judges.
    """

    scenario: str
    kind: str
    word: Verdict | Outcome
    claims: tuple[Claim, ...]
    result: Result | None = None

    @property
    def rank(self) -> int:
        """0 for the worst that may happen."""
        return rank(self.word)


def account_of(result: Result) -> Account:
    """A result, told."""
    comparison = result.comparison
    claims = _of_comparison(comparison) if comparison is not None else _of_history(result)
    kind = "compare" if comparison is not None else "trend"
    return Account(result.scenario, kind, result.verdict, tuple(claims), result)


def missing_texts(result: Result) -> tuple[str, ...]:
    """What the history behind a result says of services that its newest runs lack."""
    watch = result.document.get("history") or result.document.get("watch") or {}
    return tuple(dict.fromkeys(str(one["sentence"]) for one in watch.get("missing_services") or ()))


def account_in(entry: Entry, result: Result | None) -> Account:
    """An entry of an overview, told; with its result where it has one that judges."""
    if result is not None:
        return account_of(result)
    claims = tuple(Claim(entry.word, clean(text)) for text in entry.sentences)
    return Account(entry.scenario, entry.kind, entry.word, claims)


def word_text(word: Verdict | Outcome) -> str:
    """Symbol and word: ``✗ regression``, ``! failed``."""
    if isinstance(word, Verdict):
        return f"{VERDICT_SYMBOLS[word]} {VERDICT_WORDS[word]}"
    symbol = {Outcome.DONE: "", Outcome.INCOMPARABLE: "⊘ ", Outcome.FAILED: "! "}[word]
    return f"{symbol}{OUTCOME_WORDS[word]}"


def _of_comparison(comparison: Comparison) -> Iterator[Claim]:
    if comparison.verdict is Verdict.INVALID:
        texts = dict.fromkeys(clean(text) for text in (*comparison.warnings[:MOST_REASONS], *gap_texts(comparison)))
        why = " ".join(texts)
        yield Claim(Verdict.INVALID, f"The runs cannot be judged. {why}".rstrip())
        return
    found = claimed(comparison)
    disturbed = clean(comparison.disturbance or "")
    for verdict, text in found:
        yield Claim(verdict, text)
    if not found or comparison.verdict is Verdict.INCONCLUSIVE:
        more = f" {next_step(comparison)}" if comparison.verdict is Verdict.INCONCLUSIVE else ""
        is_open = all(verdict is Verdict.INCONCLUSIVE for verdict, _ in found)
        said = (
            [text for text in headlines(comparison) if text != disturbed][-1]
            if is_open
            else "Not every gating metric could be shown unharmed."
        )
        yield Claim(comparison.verdict, f"{said}{more}".rstrip())
    if disturbed:
        yield Claim(Verdict.INCONCLUSIVE, disturbed)


def _of_history(result: Result) -> Iterator[Claim]:
    alerts = {alert["id"]: alert for alert in result.document["watch"]["alerts"]}
    news = sorted(result.news, key=lambda episode: not alerts[episode.last.event.id]["fails"])
    for episode in news:
        event, alert = episode.last.event, alerts[episode.last.event.id]
        again = " It came back." if episode.relapses else ""
        runs = alert.get("runs_open")
        since = f" Open since then, {runs} run{'' if runs == 1 else 's'}." if runs and alert.get("open") else ""
        doubt = f" {alert['doubt']}" if alert.get("doubt") else ""
        word = Verdict.INCONCLUSIVE if alert.get("open") else Verdict.NO_CHANGE
        yield Claim(Verdict.REGRESSION if alert["fails"] else word, clean(f"{event.headline}{again}{since}{doubt}"))
    yield from (Claim(Verdict.INCONCLUSIVE, clean(text)) for text in missing_texts(result))
    if result.verdict is Verdict.INVALID:
        yield Claim(Verdict.INVALID, "None of its runs is valid: there is nothing to judge.")
    elif not news and result.verdict is Verdict.INCONCLUSIVE:
        yield Claim(result.verdict, "Too few valid runs to tell whether anything got worse.")
    elif not news:
        yield Claim(result.verdict, "Nothing got worse that is not known or over.")
