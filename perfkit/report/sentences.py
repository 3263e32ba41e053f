"""What a comparison means, in sentences: used by the terminal, Markdown and the report alike.

The command lines that make a report again.

What results say, one sentence at a time, each with what kind of thing it is.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from perfkit.config.load_spec import load_options
from perfkit.history.change_events import Event
from perfkit.history.confounders import machine_advice
from perfkit.history.incidents import Result
from perfkit.model.records import Comparison, Finding, Metric, Run, Severity, Verdict
from perfkit.report.formatting import (
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    format_change,
    format_interval,
    format_signed,
    format_value,
    shorten,
)
from perfkit.report.html import Html, render
from perfkit.report.report_set import Entry, Outcome, rank

LONGEST_COMMAND = 2_000  # characters of a command line in a message: more are many runs, which the result names


def reproduce(comparison: Comparison, policy: str | None = None, rule: str | None = None) -> Html:
    """The command lines that judge these runs again, and those that measure again."""
    sides = comparison.baseline.runs, comparison.candidate.runs
    store = _common_store([*sides[0], *sides[1]])
    before, after = ([clean(run.id if store else run.source or run.id) for run in side] for side in sides)
    options = [
        *(("--store", clean(store)) if store else ()),
        *(("--policy", clean(policy)) if policy else ()),
        *(("--rule", clean(rule)) if rule else ()),
    ]
    judge = shlex.join(["perfkit", "compare", *before, "--candidate", *after, *options])
    report = shlex.join(["perfkit", "report", "compare", *before, "--candidate", *after, *options])
    measure = list(dict.fromkeys(line for side in sides for line in _measure(side)))
    return Html(render("reproduce.html.j2", judge=judge, report=report, measure=measure), text=judge)


def _common_store(runs: Sequence[Run]) -> str | None:
    """The folder in which all these runs lie under their own ids, so that ids suffice to name them."""
    if any(run.source is None or PurePath(run.source).name != run.id for run in runs):
        return None
    stores = {str(run.source)[: -len(run.id) - 1] for run in runs}
    return stores.pop() if len(stores) == 1 else None


def _measure(runs: Sequence[Run]) -> Iterator[str]:
    """One line per set-up that perfkit itself measured; how other tools were called is not known."""
    measured = [run for run in runs if run.locustfile_hash is not None]
    by_setup = Counter((run.git.get("commit", ""), tuple(_run_words(run))) for run in measured)
    for (commit, words), count in by_setup.items():
        command = [*words, "--repeat", str(count)] if words[1] == "run" else list(words)
        checkout = f"{shlex.join(['git', 'checkout', clean(commit)])} && " if commit else ""
        yield checkout + shlex.join(clean(word) for word in command)


def _run_words(run: Run) -> Iterator[str]:
    if run.scenario == "demo":  # brings its own services, and both sides
        yield from ("perfkit", "demo")
        return
    options = {"--host": run.target, **load_options(run.profile)}
    yield from ("perfkit", "run", run.scenario)
    yield from (word for option, value in options.items() if value is not None for word in (option, value))
    yield from (word for name, value in run.labels.items() for word in ("--label", f"{name}={value}"))


def judge_lines(result: Result) -> tuple[tuple[str, str], ...]:
    """The command lines that come to this result again, each with what it does."""
    comparison = result.comparison
    if comparison is None:
        words = [clean(result.scenario), *_store_of(result)]
        return (
            ("Write the report again", shlex.join(["perfkit", "report", "trend", *words])),
            ("List the changes", shlex.join(["perfkit", "changes", *words])),
        )
    rule = comparison.rule if comparison.rule != "evidence" else None
    line = _against_history(comparison) if result.watched else reproduce(comparison, rule=rule).text
    if not comparison.candidate.runs or len(line) > LONGEST_COMMAND:
        return ()
    return (("Judge the same runs again", line),)


def _store_of(result: Result) -> tuple[str, ...]:
    store = clean(result.document.get("store") or "")
    return ("--store", store) if store else ()


def _against_history(comparison: Comparison) -> str:
    """Judged without a baseline, a candidate is held against the history of its scenario."""
    runs = comparison.candidate.runs
    store = _common_store(runs)
    names = [clean(run.id if store else run.source or run.id) for run in runs]
    return shlex.join(["perfkit", "compare", "--candidate", *names, *(("--store", clean(store)) if store else ())])


def acknowledge_line(event_id: str) -> str:
    """The command that silences an event."""
    return f'{shlex.join(["perfkit", "ack", clean(event_id)])} --reason "..."'


def bisect_line(scenario: str, event: Event) -> tuple[str, ...]:
    """The command that finds the commit of an event; none where its ends are not two commits."""
    good, bad = clean(event.last_before.commit), clean(event.first_after.commit)
    if not good or not bad or good == bad:
        return ()
    return (shlex.join(["perfkit", "bisect", clean(scenario), "--good", good[:12], "--bad", bad[:12]]),)


LONGEST = 400  # characters of a sentence with names from outside
MOST_GAPS = 3  # and so many sentences on what is missing
MOST_METRICS = 3  # a headline names at most so many metrics; the table has the rest


def headlines(comparison: Comparison) -> tuple[str, ...]:
    """What the history shows, one sentence per service that changed, regressions first, and what is missing.

    Where no change is claimed, one says why.
    """
    if comparison.verdict is Verdict.INVALID:
        return _why_invalid(comparison)
    found = claimed(comparison)
    texts = tuple(text for _, text in found)
    is_open = all(verdict is Verdict.INCONCLUSIVE for verdict, _ in found)
    disturbed = (clean(comparison.disturbance),) if comparison.disturbance is not None else ()
    return (*texts, *([_nothing_to_claim(comparison)] if is_open else []), *disturbed)


def footnotes(comparison: Comparison) -> tuple[str, ...]:
    """Warnings that the headlines do not hold: those of findings, equal ones in one line, then those of the whole."""
    above = {*(gap.text for gap in comparison.gaps), comparison.disturbance}
    groups: dict[str, list[Finding]] = {}
    for finding in comparison.findings:
        for warning in dict.fromkeys(finding.warnings):
            if warning not in comparison.warnings:
                groups.setdefault(warning, []).append(finding)
    notes = [f"{_whom(findings)}: {warning}" for warning, findings in groups.items()]
    return tuple(dict.fromkeys((*notes, *(text for text in comparison.warnings if text not in above))))


def _whom(findings: Sequence[Finding]) -> str:
    """``a, p95 latency``; of several ``a, 3 metrics``, ``p95 latency of 12 services``, or ``30 findings``."""
    first, count = findings[0], len(findings)
    services, metrics = {finding.label for finding in findings}, {finding.metric for finding in findings}
    if count == 1:
        return f"{first.label}, {Metric(first.metric).title}"
    if len(services) == 1:
        return f"{first.label}, {count} metrics"
    return f"{Metric(first.metric).title} of {count} services" if len(metrics) == 1 else f"{count} findings"


def claimed(comparison: Comparison) -> tuple[tuple[Verdict, str], ...]:
    """The same, without that last one, each with what it is: a regression, an improvement, or inconclusive."""
    news = comparison.history.news if comparison.history is not None else ()
    events = [(findings[0].verdict, _event(service, findings)) for service, findings in _events(comparison)]
    worse = [event for event in events if event[0] is Verdict.REGRESSION]
    better = [event for event in events if event[0] is not Verdict.REGRESSION]
    missing = ((Verdict.INCONCLUSIVE, text) for text in gap_texts(comparison))
    return (*((Verdict.REGRESSION, clean(text)) for text in news), *worse, *missing, *better)


def gap_texts(comparison: Comparison) -> tuple[str, ...]:
    """What is missing, as far as a headline has room for it."""
    texts = tuple(shorten(gap.text, LONGEST) for gap in comparison.gaps)
    more = len(texts) - MOST_GAPS
    rest = (f"{more} more such {_plural(more, 'gap')}: see the warnings.",) if more > 0 else ()
    return (*texts[:MOST_GAPS], *rest)


def _why_invalid(comparison: Comparison) -> tuple[str, ...]:
    """The first reason, and what is missing."""
    reasons = [shorten(check.advice, LONGEST) for check in comparison.checks if check.severity is Severity.INVALID]
    gaps = gap_texts(comparison)
    if not gaps:
        return ("The runs cannot be judged: see the warnings.",)
    reason = (*reasons, gaps[0])[0]
    return (f"The runs cannot be judged. {reason}", *(text for text in gaps if text != reason))


def _events(comparison: Comparison) -> list[tuple[str, list[Finding]]]:
    found: list[tuple[str, list[Finding]]] = []
    for verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT):
        by_service: dict[str, list[Finding]] = {}
        for finding in comparison.by_verdict(verdict):
            by_service.setdefault(finding.label, []).append(finding)
        found += by_service.items()
    return found


def _event(service: str, findings: Sequence[Finding]) -> str:
    worse = findings[0].verdict is Verdict.REGRESSION
    what = "got worse" if worse else "got better"
    parts = [_effect(finding) for finding in findings[:MOST_METRICS]]
    more = len(findings) - len(parts)
    return f"{shorten(service, 60)} {what}: {', '.join(parts)}{f' and {more} more' if more else ''}."


def _effect(finding: Finding) -> str:
    if finding.objective:
        return (
            f"{Metric(finding.metric).title} {format_value(finding.metric, finding.candidate)}, {finding.limit} allowed"
        )
    interval = f" {format_interval(finding)}" if finding.ci_low is not None else ""
    return f"{Metric(finding.metric).title} {format_change(finding)}{interval}"


def _nothing_to_claim(comparison: Comparison) -> str:
    if comparison.rule == "threshold":
        return (
            "Every metric that both sides state is within its limit."
            if comparison.gaps
            else "Every metric is within its limit."
        )
    if comparison.verdict is Verdict.NO_CHANGE:
        return "Every gating metric is shown to be within its tolerance."
    open_questions = [f for f in comparison.findings if f.gating and f.verdict is Verdict.INCONCLUSIVE]
    total = sum(finding.gating for finding in comparison.findings)
    if comparison.gaps and total and not open_questions:
        return "Every gating metric that could be judged is shown to be within its tolerance."
    return (
        f"A regression cannot be claimed: what was seen is within chance or cannot be judged. "
        f"{len(open_questions)} of {total} gating metrics could not be shown to be within tolerance either."
    )


def next_step(comparison: Comparison, written: Callable[[str], str] = clean) -> str:
    """What its reader should do now; what to do about what is missing comes last, its names ``written`` so."""
    history = comparison.history.advice if comparison.history is not None else ()  # services and machines that changed
    texts = (*(gap.advice for gap in comparison.gaps[:MOST_GAPS]), machine_advice(comparison), *history)
    advice = dict.fromkeys(written(shorten(text, LONGEST)) for text in texts if text)
    again = "Measure both sides in turn before you believe the sizes." if comparison.disturbance is not None else ""
    return " ".join(part for part in (_own_step(comparison, written), *advice, again) if part) or "Nothing to do."


def _own_step(comparison: Comparison, written: Callable[[str], str]) -> str:
    if comparison.verdict is Verdict.INVALID:
        return "" if comparison.gaps else "Mend what the warnings name and run again."
    if comparison.verdict is Verdict.REGRESSION:
        return "Look at the services named above; repeat the comparison when a second opinion is cheap."
    if comparison.verdict is Verdict.INCONCLUSIVE:
        return _to_settle(comparison, written)
    return ""


def _to_settle(comparison: Comparison, written: Callable[[str], str]) -> str:
    """What would settle the open question that matters most, and how many others stay open."""
    questions = open_questions(comparison)
    if not questions:
        return ""
    first = questions[0]
    name = f"{Metric(first.metric).title} of {written(shorten(first.label, 60))}"
    gaps = gap_texts(comparison)  # what stands in the headline is not said again
    why = next((f" ({written(text)})" for text in first.warnings if text not in gaps), "")
    text = settle(first)
    advice = f"About {text} would settle {name}." if text else f"More runs like these cannot settle {name}{why}."
    if len(questions) == 1:
        return advice
    others, hopeless = len(questions) - 1, sum(not settle(finding) for finding in questions[1:])
    rest = f" {others} more gating {_plural(others, 'question')} {'is' if others == 1 else 'are'} open"
    if not hopeless:
        return f"{advice}{rest}; the table says how many runs would settle {'it' if others == 1 else 'each'}."
    which = "it" if others == 1 else "any of them" if hopeless == others else f"{hopeless} of them"
    return f"{advice}{rest}; more runs like these cannot settle {which} (~ in the table)."


def open_questions(comparison: Comparison) -> list[Finding]:
    """The gating questions that are open, the one that matters most first.

    What was seen to be worse than is accepted comes first, the strongest evidence of it in front; then what has the
    larger part of the alarm budget: the run as a whole, and the averages.  Of two alike, the one that fewer runs
    settle.
    """

    def rank(finding: Finding) -> tuple[bool, float, float, float]:
        worsening = (finding.change or 0.0) * Metric(finding.metric).worse
        beyond = finding.tolerance is not None and worsening > finding.tolerance
        share = finding.arithmetic.share if finding.arithmetic is not None else None
        evidence = finding.p_value if beyond and finding.p_value is not None else 1.0
        return not beyond, evidence, -(share or 0.0), float(finding.runs_needed or math.inf)

    return sorted((f for f in comparison.findings if f.gating and f.verdict is Verdict.INCONCLUSIVE), key=rank)


def settle(finding: Finding) -> str:
    """What would settle an inconclusive finding; empty for any other."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return ""
    parts = []
    if finding.requests_needed:
        parts.append(f"{finding.requests_needed:,} requests on each side")
    if finding.runs_needed:
        parts.append(f"{finding.runs_needed} further {_plural(finding.runs_needed, 'run')} on each side")
    return " or ".join(parts)


def settle_short(finding: Finding) -> str:
    """`settle` for a table cell: ``+29 runs``; ``~`` where more runs would not settle it; empty for a verdict."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return ""
    return f"+{finding.runs_needed} {_plural(finding.runs_needed, 'run')}" if finding.runs_needed else "~"


def detectable(finding: Finding) -> str:
    """The smallest change that this comparison would have called: ``5.2 %``; ``~`` when unknown."""
    if finding.min_detectable is None:
        return "~"
    return f"{format_signed(finding.min_detectable, finding.change_unit).lstrip('+')} {finding.change_unit}"


def limit_text(finding: Finding) -> str:
    """The tolerance, as a signed change in the unit that is judged: ``+5 %``, ``-30 %``, ``+0.5 pp``."""
    if finding.tolerance is None or finding.objective:
        return finding.limit
    sign = "-" if Metric(finding.metric).worse < 0 else "+"
    return f"{sign}{finding.tolerance:.3g} {finding.change_unit}"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


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
    news = sorted(result.open_incidents, key=lambda incident: not alerts[incident.last.event.id]["fails"])
    for incident in news:
        event, alert = incident.last.event, alerts[incident.last.event.id]
        again = " It came back." if incident.relapses else ""
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
