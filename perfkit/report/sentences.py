"""What a comparison means, in sentences, and the commands that reproduce a result: alike in every outlet.

`claims` says what is claimed, each sentence with its kind; `next_step` says what to do.  Names from outside are made
harmless for a terminal (`clean`) and shortened; an outlet with markup escapes them itself.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath

from perfkit.config.load_spec import load_options
from perfkit.history.confounders import machine_advice
from perfkit.history.events import Event
from perfkit.history.incidents import Result
from perfkit.model.records import Comparison, Finding, Metric, Run, Severity, Verdict
from perfkit.report.findings import count_text, settle
from perfkit.report.formatting import clean, format_change, format_interval, format_value, shorten
from perfkit.report.html import Html, render

LONGEST = 400  # characters of a sentence with names from outside
LONGEST_COMMAND = 2_000  # characters of a command line in a message: more are many runs, which the result names
MOST_GAPS = 3  # and so many sentences on what is missing
MOST_METRICS = 3  # a headline names at most so many metrics; the table has the rest


def headlines(comparison: Comparison) -> tuple[str, ...]:
    """What the history shows, one sentence per service that changed, regressions first, and what is missing.

    Where no change is claimed, one says why.
    """
    return tuple(text for _, text in claims(comparison))


def claims(comparison: Comparison) -> tuple[tuple[Verdict, str], ...]:
    """The same, each sentence with what it is about: a regression, an improvement, or what is inconclusive."""
    gaps = gap_texts(comparison)
    if comparison.verdict is Verdict.INVALID:
        reasons = [shorten(check.advice, LONGEST) for check in comparison.checks if check.severity is Severity.INVALID]
        if not gaps:
            return ((Verdict.INVALID, "The runs cannot be judged: see the warnings."),)
        reason = (*reasons, gaps[0])[0]
        texts = (f"The runs cannot be judged. {reason}", *(text for text in gaps if text != reason))
        return tuple((Verdict.INVALID, text) for text in texts)
    news = comparison.history.news if comparison.history is not None else ()
    changes = [
        *((Verdict.REGRESSION, clean(text)) for text in news),
        *_service_changes(comparison, Verdict.REGRESSION),
        *((Verdict.INCONCLUSIVE, text) for text in gaps),
        *_service_changes(comparison, Verdict.IMPROVEMENT),
    ]
    if all(verdict is Verdict.INCONCLUSIVE for verdict, _ in changes):
        changes.append((comparison.verdict, _no_change_text(comparison)))
    if comparison.disturbance is not None:
        changes.append((Verdict.INCONCLUSIVE, clean(comparison.disturbance)))
    return tuple(changes)


def _service_changes(comparison: Comparison, verdict: Verdict) -> Iterator[tuple[Verdict, str]]:
    """One sentence per service with findings of a verdict."""
    by_service: dict[str, list[Finding]] = {}
    for finding in comparison.by_verdict(verdict):
        by_service.setdefault(finding.label, []).append(finding)
    what = "got worse" if verdict is Verdict.REGRESSION else "got better"
    for service, findings in by_service.items():
        effects = []
        for finding in findings[:MOST_METRICS]:
            interval = f" {format_interval(finding)}" if finding.ci_low is not None else ""
            effect = f"{format_change(finding)}{interval}"
            if finding.objective:
                effect = f"{format_value(finding.metric, finding.candidate)}, {finding.limit} allowed"
            effects.append(f"{Metric(finding.metric).title} {effect}")
        more = len(findings) - len(effects)
        yield verdict, f"{shorten(service, 60)} {what}: {', '.join(effects)}{f' and {more} more' if more else ''}."


def _no_change_text(comparison: Comparison) -> str:
    """Why neither a regression nor an improvement is claimed."""
    if comparison.rule == "threshold":
        which = " that both sides state" if comparison.gaps else ""
        return f"Every metric{which} is within its limit."
    if comparison.verdict is Verdict.NO_CHANGE:
        return "Every gating metric is shown to be within its tolerance."
    open_count = len([f for f in comparison.findings if f.gating and f.verdict is Verdict.INCONCLUSIVE])
    total = sum(finding.gating for finding in comparison.findings)
    if comparison.gaps and total and not open_count:
        return "Every gating metric that could be judged is shown to be within its tolerance."
    return (
        f"A regression cannot be claimed: what was seen is within chance or cannot be judged. "
        f"{open_count} of {total} gating metrics could not be shown to be within tolerance either."
    )


def gap_texts(comparison: Comparison) -> tuple[str, ...]:
    """What is missing, as far as a headline has room for it."""
    texts = tuple(shorten(gap.text, LONGEST) for gap in comparison.gaps)
    more = len(texts) - MOST_GAPS
    rest = (f"{more} more such gap{'s' if more > 1 else ''}: see the warnings.",) if more > 0 else ()
    return (*texts[:MOST_GAPS], *rest)


def missing_service_texts(result: Result) -> tuple[str, ...]:
    """What the history behind a result says of services that its newest runs lack."""
    watch = result.document.get("history") or result.document.get("watch") or {}
    return tuple(dict.fromkeys(str(service["sentence"]) for service in watch.get("missing_services") or ()))


def footnotes(comparison: Comparison) -> tuple[str, ...]:
    """Warnings that the headlines do not hold: those of findings, equal ones in one line, then those of the whole."""
    groups: dict[str, list[Finding]] = {}
    for finding in comparison.findings:
        for warning in dict.fromkeys(finding.warnings):
            if warning not in comparison.warnings:
                groups.setdefault(warning, []).append(finding)
    notes = []
    for warning, findings in groups.items():
        metric, count = Metric(findings[0].metric).title, len(findings)
        services, metrics = {finding.label for finding in findings}, {finding.metric for finding in findings}
        subject = f"{count} findings"
        if len(services) == 1:
            subject = f"{findings[0].label}, {metric if count == 1 else f'{count} metrics'}"
        elif len(metrics) == 1:
            subject = f"{metric} of {count} services"
        notes.append(f"{subject}: {warning}")
    above = {*(gap.text for gap in comparison.gaps), comparison.disturbance}
    return tuple(dict.fromkeys((*notes, *(text for text in comparison.warnings if text not in above))))


def next_step(comparison: Comparison, written: Callable[[str], str] = clean) -> str:
    """What to do now; what to do about what is missing comes last, with its names ``written`` for an outlet."""
    step = ""
    if comparison.verdict is Verdict.INVALID and not comparison.gaps:
        step = "Fix what the warnings name and run again."
    elif comparison.verdict is Verdict.REGRESSION:
        step = "Inspect the services named above; repeat the comparison where a second measurement is cheap."
    elif comparison.verdict is Verdict.INCONCLUSIVE:
        step = _to_settle(comparison, written)
    history = comparison.history.advice if comparison.history is not None else ()  # services and machines that changed
    texts = (*(gap.advice for gap in comparison.gaps[:MOST_GAPS]), machine_advice(comparison), *history)
    advice = dict.fromkeys(written(shorten(text, LONGEST)) for text in texts if text)
    again = "Measure both sides in turn before you believe the sizes." if comparison.disturbance is not None else ""
    return " ".join(part for part in (step, *advice, again) if part) or "Nothing to do."


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
    rest = f" {count_text(others, 'more gating question')} {'is' if others == 1 else 'are'} open"
    if not hopeless:
        return f"{advice}{rest}; the table says how many runs would settle {'it' if others == 1 else 'each'}."
    which = "it" if others == 1 else "any of them" if hopeless == others else f"{hopeless} of them"
    return f"{advice}{rest}; more runs like these cannot settle {which} (~ in the table)."


def open_questions(comparison: Comparison) -> list[Finding]:
    """The gating metrics that are inconclusive, the one that matters most first.

    What was seen to be worse than its tolerance comes first, the strongest evidence of it in front; then what has the
    larger part of the alpha allocation: the run as a whole, and the averages.  Of two alike, the one that fewer runs
    settle.
    """

    def rank(finding: Finding) -> tuple[bool, float, float, float]:
        worsening = (finding.change or 0.0) * Metric(finding.metric).worse
        beyond = finding.tolerance is not None and worsening > finding.tolerance
        share = finding.arithmetic.share if finding.arithmetic is not None else None
        evidence = finding.p_value if beyond and finding.p_value is not None else 1.0
        return not beyond, evidence, -(share or 0.0), float(finding.runs_needed or math.inf)

    return sorted((f for f in comparison.findings if f.gating and f.verdict is Verdict.INCONCLUSIVE), key=rank)


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
    measure = list(dict.fromkeys(line for side in sides for line in _measure_commands(side)))
    return Html(render("reproduce.html.j2", judge=judge, report=report, measure=measure), text=judge)


def _common_store(runs: Sequence[Run]) -> str | None:
    """The folder in which all these runs lie under their own ids, so that ids suffice to name them."""
    if any(run.source is None or PurePath(run.source).name != run.id for run in runs):
        return None
    stores = {str(run.source)[: -len(run.id) - 1] for run in runs}
    return stores.pop() if len(stores) == 1 else None


def _measure_commands(runs: Sequence[Run]) -> Iterator[str]:
    """One line per set-up that perfkit itself measured; how other tools were called is not known."""
    setups: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for run in runs:
        if run.locustfile_hash is None:
            continue
        command = ["perfkit", "demo"]  # brings its own services, and both sides
        if run.scenario != "demo":
            options = {"--host": run.target, **load_options(run.profile)}
            command = ["perfkit", "run", run.scenario]
            command += [word for option, value in options.items() if value is not None for word in (option, value)]
            command += [word for name, value in run.labels.items() for word in ("--label", f"{name}={value}")]
        setups[run.git.get("commit", ""), tuple(command)] += 1
    for (commit, words), count in setups.items():
        repeat = ("--repeat", str(count)) if words[1] == "run" else ()
        checkout = f"{shlex.join(['git', 'checkout', clean(commit)])} && " if commit else ""
        yield checkout + shlex.join(clean(word) for word in (*words, *repeat))


def reproduce_commands(result: Result) -> tuple[tuple[str, str], ...]:
    """The command lines that reproduce a result, each with what it does."""
    comparison = result.comparison
    if comparison is None:
        store = clean(result.document.get("store") or "")
        words = [clean(result.scenario), *(("--store", store) if store else ())]
        return (
            ("Write the report again", shlex.join(["perfkit", "report", "trend", *words])),
            ("List the changes", shlex.join(["perfkit", "changes", *words])),
        )
    if result.watched:  # judged without a baseline: against the history of its scenario
        runs = comparison.candidate.runs
        place = _common_store(runs)
        names = [clean(run.id if place else run.source or run.id) for run in runs]
        options = ("--store", clean(place)) if place else ()
        line = shlex.join(["perfkit", "compare", "--candidate", *names, *options])
    else:
        line = reproduce(comparison, rule=comparison.rule if comparison.rule != "evidence" else None).text
    if not comparison.candidate.runs or len(line) > LONGEST_COMMAND:
        return ()
    return (("Judge the same runs again", line),)


def acknowledge_command(event_id: str) -> str:
    """The command that acknowledges an event."""
    return f'{shlex.join(["perfkit", "ack", clean(event_id)])} --reason "..."'


def bisect_command(scenario: str, event: Event) -> tuple[str, ...]:
    """The command that finds the commit of an event; none where its ends are not two commits."""
    good, bad = clean(event.last_before.commit), clean(event.first_after.commit)
    if not good or not bad or good == bad:
        return ()
    return (shlex.join(["perfkit", "bisect", clean(scenario), "--good", good[:12], "--bad", bad[:12]]),)
