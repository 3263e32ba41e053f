"""What a comparison means: its findings as one table, its claims in sentences, the commands that reproduce it.

Terminal, Markdown, HTML, mail and issue draw the same `Table`, each in its own way: an outlet picks columns by name,
leaves out the least important ones where there is no room, shortens names, and escapes them for its markup.  Cells
hold names from outside (services, limits) as they are; sentences and commands hold them harmless for a terminal and
shortened.  `claims` says what is claimed, `next_step` what to do.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from perfkit.analysis.comparability import machine_advice
from perfkit.config.settings import load_options
from perfkit.model.records import OTHER_KINDS, Comparison, ErrorKind, Finding, Metric, Run, Severity, Verdict
from perfkit.report.formatting import (
    EVENT_WORDS,
    SHORT_METRICS,
    UNKNOWN,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    and_more,
    at_most,
    clean,
    count_text,
    finding_text,
    format_bounds,
    format_change,
    format_interval,
    format_number,
    format_p,
    format_signed,
    format_time,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.report.report_set import Outcome

if TYPE_CHECKING:
    from perfkit.history.events import Event, MetricChange
    from perfkit.history.incidents import Result

LONGEST = 400  # characters of a sentence with names from outside
LONGEST_COMMAND = 2_000  # characters of a command line in a message: more are many runs, which the result names
MOST_GAPS = 3  # and so many sentences on what is missing
MOST_IN_A_LINE = 3  # kinds of errors
NAME = 60  # characters of a name in a line of text
LARGEST_SHOWN = 1000.0  # percent: runs that show no change below it show none that anybody waits for
MOST_METRICS = 3  # a headline names at most so many metrics; the table has the rest
NOTHING_TO_DO = "Nothing to do."
FIX_AND_REPEAT = "Fix what makes these runs invalid and run again."
NO_EVENTS = {  # what a history says in which nothing happened
    Verdict.INVALID: "None of its runs is valid: there is nothing to judge.",
    Verdict.INCONCLUSIVE: "Too few valid runs to tell whether any level got worse.",
}
OUTCOMES = {Outcome.DONE: "reported", Outcome.INCOMPARABLE: "⊘ nothing to compare with", Outcome.FAILED: "! failed"}
WORST_FIRST = (Verdict.REGRESSION, Verdict.INVALID, Verdict.IMPROVEMENT, Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    title: str
    right: bool = False  # whether it holds numbers, which are aligned at the right
    # Where there is no room, columns go in order of importance, the least first; those with 9 always stay
    importance: int = 9
    hint: str = ""  # what its title means, for places that can show it on demand
    foreign: bool = False  # whether its cells are names from outside, which each outlet escapes and shortens


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the text of each cell by the name of its column; ``UNKNOWN`` where nothing can be said.

    ``line`` is all of it as one line of text, with names that are harmless and short; not every table has it.
    """

    cells: Mapping[str, str]
    verdict: Verdict
    gating: bool = False
    warnings: tuple[str, ...] = ()
    line: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; ``total`` is the number of rows that there are, of which these are the first.

    ``stacked`` says how it is drawn where there is little room: a title (``>``: aligned at the right), the cell above
    and the cell below, which may be none or empty in all rows.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: int
    title: str = ""
    stacked: tuple[tuple[str, str, str], ...] = ()

    def chosen(self, names: Iterable[str]) -> tuple[Column, ...]:
        """The columns of these names that it has, in this order."""
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in names if name in by_name)


def sides_of(measured: Any, candidate: Sequence[Run] = ()) -> tuple[Sequence[Run], Sequence[Run]]:
    """The runs of both sides of a comparison or capacity; of runs and baselines with ``candidate`` as the other.

    >>> sides_of((), ())
    ((), ())
    """
    if isinstance(measured, Comparison):
        sides = measured.baseline.runs, measured.candidate.runs
    elif isinstance(measured, Run):
        sides = (measured,), ()
    elif isinstance(measured, Sequence):
        sides = tuple(measured), ()
    else:
        sides = measured.runs, getattr(measured, "candidate", ())
    if candidate and (isinstance(measured, Comparison) or hasattr(measured, "candidate")):
        raise ValueError("candidate: what is drawn here has both sides already")
    return sides[0], tuple(candidate) or sides[1]


def builds_of(runs: Iterable[Run]) -> list[str]:
    """The builds that runs measured, each once: ``d81e0c2ab (feature/cache)``; none where no commit is known."""
    builds = []
    for run in runs:
        if commit := clean(run.git.get("commit", ""))[:9]:
            dirty = "uncommitted changes" if run.git.get("dirty") == "yes" else ""
            more = ", ".join(filter(None, (shorten(run.git.get("branch", ""), 40), dirty)))
            builds.append(f"{commit} ({more})" if more else commit)
    return list(dict.fromkeys(builds))


def times_of(runs: Iterable[Run]) -> list[datetime]:
    """When the first and the last of these runs began; one time or none where there are no two."""
    times = sorted({run.started_at for run in runs if run.started_at is not None})
    return [*times[:1], *times[1:][-1:]]


def findings_table(comparison: Comparison, *, ranked: bool = False, title: str = "") -> Table:
    """Every finding of a comparison, in its order, or ``ranked``: the one that decides most first."""
    findings = worst_first(comparison.findings) if ranked else comparison.findings
    numbers = [Column("before", "baseline", right=True), Column("after", "candidate", right=True)]
    numbers.append(Column("change", "change", right=True))
    if comparison.rule == "threshold":
        numbers.append(Column("tolerance", "limit", right=True))
    else:
        mde = "minimum detectable effect: the smallest worsening that these runs could have shown"
        numbers += [
            Column("interval", f"{comparison.confidence * 100:g} % interval", right=True),
            Column("p", "adjusted p", right=True, importance=2, hint="adjusted for the number of findings"),
            Column("tolerance", "tolerance", right=True, importance=4, hint="largest worsening that is accepted"),
            Column("mde", "MDE", right=True, importance=1, hint=mde),
            Column("settle", "to settle", right=True, importance=3, hint="further runs on each side"),
        ]
    names = (Column("service", "service", foreign=True), Column("metric", "metric"))
    columns = (*names, *numbers, Column("verdict", "verdict"))
    return Table(columns, tuple(map(finding_row, findings)), len(findings), title, _stacked(columns))


def _stacked(columns: Sequence[Column]) -> tuple[tuple[str, str, str], ...]:
    interval = next((f", {column.title}" for column in columns if column.name == "interval"), "")
    return (
        ("service, metric", "service", "metric"),
        (f">change{interval}", "change", "interval"),
        (">before, after", "before", "after"),
        ("verdict, tolerance", "verdict", "tolerance"),
    )


def finding_row(finding: Finding) -> Row:
    """What every outlet says of a finding; ``settle`` is ``~`` where more runs would not settle it."""
    mde, unit, runs = finding.min_detectable, finding.change_unit, finding.runs_needed
    cells = {
        "service": finding.label,
        "metric": finding.title,
        "metric_short": finding.title if finding.is_of_tails else SHORT_METRICS.get(finding.metric, finding.metric),
        # What an absolute limit is compared with is the limit, and not what the baseline measured
        "before": ("≤ " if Metric(finding.metric).worse > 0 else "≥ ") * finding.objective
        + format_value(finding.metric, finding.baseline),
        "after": format_value(finding.metric, finding.candidate),
        "change": format_change(finding),
        "interval": format_interval(finding),
        "p": format_p(finding.p_adjusted),
        "tolerance": limit_text(finding) or UNKNOWN,
        "mde": UNKNOWN if mde is None else f"{format_signed(mde, unit).lstrip('+')} {unit}",
        "settle": ""
        if finding.verdict is not Verdict.INCONCLUSIVE
        else f"+{count_text(runs, 'run')}"
        if runs
        else UNKNOWN,
        "verdict": finding_text(finding),
    }
    return Row(cells, finding.verdict, finding.gating, finding.warnings)


OBJECTIVE_WORDS = {
    **VERDICT_WORDS,
    Verdict.REGRESSION: "exceeded",
    Verdict.NO_CHANGE: "kept",
    Verdict.INCONCLUSIVE: "open",
}


def objectives_table(comparison: Comparison, *, title: str = "") -> Table:
    """The absolute limits (SLOs) of a comparison, those first that are exceeded; no rows where the policy has none."""
    columns = (
        Column("service", "service", foreign=True),
        Column("metric", "metric"),
        Column("tolerance", "limit", right=True),
        Column("after", "candidate", right=True),
        Column("verdict", "objective"),
    )
    limits = worst_first(finding for finding in comparison.findings if finding.objective)
    rows = []
    for finding in limits:
        row = finding_row(finding)
        text = f"{VERDICT_SYMBOLS[finding.verdict]} {OBJECTIVE_WORDS[finding.verdict]}"
        what = f"{shorten(finding.label, NAME)}, {row.cells['metric']}: {row.cells['after']}"
        line = f"{text}: {what}, limit {row.cells['tolerance']}"
        rows.append(replace(row, cells={**row.cells, "verdict": text}, line=line))
    stacked = (
        ("service, metric", "service", "metric"),
        (">candidate, limit", "after", "tolerance"),
        ("objective", "verdict", ""),
    )
    return Table(columns, tuple(rows), len(rows), title, stacked)


def errors_table(errors: Sequence[ErrorKind], sides: int = 2, *, title: str = "") -> Table:
    """Kinds of failed requests, what is new first; of one side of runs without what changed.

    Those of which nothing is counted are left out: `errors_text` says so.
    """
    pair = [Column("before", "baseline", right=True), Column("after", "candidate", right=True)]
    columns = (
        Column("service", "service", foreign=True),
        Column("kind", "error", foreign=True),
        Column("status", "status", right=True, importance=4),
        *(pair if sides == 2 else [Column("before", "requests", right=True)]),
        Column("first", "first (UTC)", importance=2),
        Column("last", "last (UTC)", importance=1),
        *([Column("changed", "what changed")] if sides == 2 else []),
    )
    rows = []
    for error in errors:
        if not error.baseline and not error.candidate:
            continue
        verdict = Verdict.INCONCLUSIVE if error.change in ("new", "more") else Verdict.NO_CHANGE
        same_day = error.first is not None and error.last is not None and error.first.date() == error.last.date()
        days = "%Y-%m-%d %H:%M:%S" if same_day else "%Y-%m-%d %H:%M"
        can_tell = sides == 2 and error.kind not in ("", OTHER_KINDS) and None not in (error.baseline, error.candidate)
        cells = {
            "service": error.service,
            "kind": error.kind or "kind not recorded",
            "name": error.name,
            "status": str(error.status or UNKNOWN),
            "before": _failed_text(error.baseline, error.baseline_requests),
            "after": _failed_text(error.candidate, error.candidate_requests),
            "first": format_time(error.first, days),
            "last": format_time(error.last, "%H:%M:%S" if same_day else days),
            "changed": error.change or ("about as often" if can_tell else UNKNOWN),
        }
        times = f"first {cells['first']}, last {cells['last']} UTC" if error.first is not None else ""
        counts = f"{cells['before']} -> {cells['after']} requests" if sides == 2 else f"{cells['before']} requests"
        facts = [text for text in (counts, times, cells["changed"]) if text not in ("", UNKNOWN)]
        line = f"{shorten(error.name, NAME)} at {shorten(error.service, NAME)}: {', '.join(facts)}"
        rows.append(Row(cells, verdict, line=line))
    stacked = (
        ("error, service", "name", "service"),
        (">baseline, candidate", "before", "after"),
        ("first, last (UTC)", "first", "last"),
        ("change", "changed", ""),
    )
    return Table(columns, tuple(rows), len(rows), title, stacked)


def _failed_text(count: int | None, requests: int) -> str:
    """``36 (0.34 %)``: failed requests, and their share of the requests of the service."""
    if count is None or not requests:
        return UNKNOWN
    return f"{count:,} ({format_number(100.0 * count / requests)} %)" if count else "0"


def errors_text(errors: Sequence[ErrorKind] | None, sides: int = 2) -> str:
    """What failed in a sentence or two, with names that are harmless and short."""
    if errors is None:
        return "Kinds of errors are not known: this result is one of an older version, or its runs could not be read."
    texts = []
    for change in ("new", "more", "fewer", "gone"):
        kinds = [error for error in errors if error.change == change]
        names = []
        for error in kinds[:MOST_METRICS]:
            before, after = error.baseline or 0, error.candidate or 0
            times = f"{before:,} -> {after:,} requests" if before else count_text(after, "request")
            times = f"{before:,} before" if change == "gone" else times
            names.append(f"{shorten(error.name)} at {shorten(error.service, 60)} ({times})")
        if names:
            texts.append(f"{change.capitalize()}: {', '.join(names)}{and_more(len(kinds) - len(names))}.")
    failed = sum((error.baseline or 0) + (error.candidate or 0) for error in errors)
    if failed and not texts:
        same = ", of the same kinds about as often on both sides" if sides == 2 else ""
        tells_kinds = sides == 1 or all(
            error.kind and None not in (error.baseline, error.candidate) for error in errors
        )
        texts.append(f"{count_text(failed, 'request')} failed{same if tells_kinds else ''}.")
    unknown = dict.fromkeys(error.service for error in errors if None in (error.baseline, error.candidate))
    silent = dict.fromkeys(error.service for error in errors if error.baseline is None and error.candidate is None)
    if silent:
        listed = ", ".join(shorten(name) for name in list(silent)[:MOST_METRICS])
        texts.append(f"How many requests failed is not known of {listed}{and_more(len(silent) - MOST_METRICS)}.")
    elif unknown:
        texts.append("Some runs do not name the kinds of their errors, so what changed cannot be said of all (~).")
    return " ".join(texts) or "No request failed."


def errors_line(errors: Sequence[ErrorKind] | None) -> str:
    """What is new or more, for a line of a chat: ``new: 503 on /cart, 0 → 120``; empty where nothing is."""
    if errors is None:
        return "errors: their kinds are not known"
    worse = [error for error in errors if error.change in ("new", "more")]
    texts = [
        f"{error.change}: {error.status or shorten(error.name, 30)} on {shorten(error.service, 40)}, "
        + (
            f"{error.baseline or 0:,} → {error.candidate or 0:,}"
            if error.change == "new"
            else f"{_failed_text(error.baseline, error.baseline_requests)} → "
            f"{_failed_text(error.candidate, error.candidate_requests)}"
        )
        for error in worse[:MOST_IN_A_LINE]
    ]
    return "; ".join(texts) + and_more(len(worse) - len(texts))


def changes_table(items: Iterable[MetricChange], *, title: str = "") -> Table:
    """The metric changes of events: what is known of each without a comparison."""
    columns = (
        Column("service", "service", foreign=True),
        Column("metric", "metric"),
        Column("before", "before", right=True, importance=1),
        Column("after", "after", right=True, importance=2),
        Column("change", "change", right=True),
        Column("interval", "95 % interval", right=True),
        Column("p", "p", right=True, importance=4, hint="chance of such a change in a history without any"),
        Column("verdict", "verdict"),
    )
    rows = tuple(map(change_row, items))
    return Table(columns, rows, len(rows), title, _stacked(columns))


def change_row(item: MetricChange) -> Row:
    """What every outlet says of a metric change."""
    size = size_text(item)
    verdict = Verdict.REGRESSION if item.is_worse else Verdict.IMPROVEMENT
    cells = {
        "service": item.service,
        "metric": item.metric.title,
        "metric_short": SHORT_METRICS[item.metric.value],
        "before": format_value(item.metric, item.change.before),
        "after": format_value(item.metric, item.change.after),
        "change": f"{size} (from zero)" if "∞" in size else size,
        "interval": format_bounds(item.size_low, item.size_high, item.metric.change_unit),
        "p": format_p(item.change.p_value),
        "verdict": verdict_text(verdict),
    }
    return Row(cells, verdict)


def size_text(item: MetricChange) -> str:
    """The change in percent; of the error rate in percentage points."""
    return f"{format_signed(item.size, item.metric.change_unit)} {item.metric.change_unit}"


def event_headline(event: Event, limit: int = 2_000) -> str:
    """What happened in one sentence, harmless, with names that are short enough to leave the numbers in it."""
    changes = tuple(replace(item, service=shorten(item.service, 60)) for item in event.changes)
    return shorten(replace(event, id=shorten(event.id, 60), changes=changes).headline, limit)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By verdict, gating metrics first, the strongest evidence first; equals stay in their order.

    Among many findings most adjusted p-values are 1: what got worse is then in the order of the plain ones.
    """

    def rank(finding: Finding) -> tuple[int, bool, float, float]:
        adjusted = 2.0 if finding.p_adjusted is None else finding.p_adjusted
        is_worse = (finding.change or 0.0) * Metric(finding.metric).worse > 0
        p_value = finding.p_value if is_worse and finding.p_value is not None else 1.0
        return WORST_FIRST.index(finding.verdict), not finding.gating, adjusted, p_value

    return tuple(sorted(findings, key=rank))


def services_worst_first(findings: Iterable[Finding]) -> dict[str, tuple[Finding, ...]]:
    """Findings by service, with its stage: the service whose finding decides most comes first, its own in their order.

    >>> services_worst_first(())
    {}
    """
    findings = tuple(findings)
    names = dict.fromkeys(finding.label for finding in worst_first(findings))
    return {name: tuple(finding for finding in findings if finding.label == name) for name in names}


def is_quiet(comparison: Comparison, findings: Iterable[Finding]) -> bool:
    """Whether the findings of a service need not be read: none changed, or keeps the whole from an answer."""
    loud = {Verdict.REGRESSION, Verdict.IMPROVEMENT}
    if comparison.verdict is Verdict.INVALID:
        loud.add(Verdict.INVALID)
    is_open = comparison.verdict is Verdict.INCONCLUSIVE
    return not any(f.verdict in loud or (is_open and f.gating and f.verdict is Verdict.INCONCLUSIVE) for f in findings)


def verdict_counts(findings: Iterable[Finding], words: Mapping[Verdict, str] = VERDICT_WORDS) -> str:
    """``5 regression, 15 no regression``: findings by verdict, in words."""
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {words[verdict]}" for verdict in Verdict if counts[verdict])


def limit_text(finding: Finding) -> str:
    """The tolerance, as a signed change in the unit that is judged: ``+5 %``, ``-30 %``, ``+0.5 pp``."""
    if finding.tolerance is None or finding.objective:
        return finding.limit
    sign = "-" if Metric(finding.metric).worse < 0 else "+"
    return f"{sign}{finding.tolerance:.3g} {finding.change_unit}"


def sides_text(comparison: Comparison) -> str:
    """``5 baseline runs, 3 candidate runs``."""
    sides = zip(("baseline", "candidate"), sides_of(comparison), strict=True)
    return ", ".join(count_text(len(runs), f"{name} run") for name, runs in sides)


def settle(finding: Finding) -> str:
    """What would settle an inconclusive finding; empty for any other."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return ""
    parts = []
    if finding.requests_needed:
        parts.append(f"{finding.requests_needed:,} requests on each side")
    if finding.runs_needed:
        parts.append(f"{count_text(finding.runs_needed, 'further run')} on each side")
    return " or ".join(parts)


def outcome_text(word: Verdict | Outcome) -> str:
    """Symbol and word: ``✗ regression``, ``! failed``."""
    return verdict_text(word) if isinstance(word, Verdict) else OUTCOMES[word]


def headlines(comparison: Comparison) -> tuple[str, ...]:
    """The sentences of `claims`."""
    return tuple(text for _, text in claims(comparison))


def claims(comparison: Comparison) -> tuple[tuple[Verdict, str], ...]:
    """What the history shows, one sentence per service that changed, regressions first, and what is missing.

    Where no change is claimed, one says why.  Each comes with what it is about: a regression, an improvement, or what
    is inconclusive.
    """
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
    if text := gate_text(comparison):
        changes.append((Verdict.INCONCLUSIVE, text))
    return tuple(changes)


def _service_changes(comparison: Comparison, verdict: Verdict) -> Iterator[tuple[Verdict, str]]:
    """One sentence per service with findings of a verdict, the strongest evidence first."""
    for service, findings in services_worst_first(comparison.by_verdict(verdict)).items():
        effects = []
        for finding in findings[:MOST_METRICS]:
            interval = f" {format_interval(finding)}" if finding.ci_low is not None else ""
            effect = f"{format_change(finding)}{interval}"
            if finding.objective:
                effect = f"{format_value(finding.metric, finding.candidate)}, {finding.limit} allowed"
            effects.append(f"{finding.title} {effect}")
        change = "misses its objective" if all(f.objective for f in findings) else EVENT_WORDS[verdict.value]
        what = f"{shorten(service, 60)} {change}"
        yield verdict, f"{what}: {', '.join(effects)}{and_more(len(findings) - len(effects))}."


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
        "A regression cannot be claimed: what was seen is within chance or cannot be judged. "
        f"{open_count} of {total} gating metrics could not be shown to be within tolerance either."
    )


def gate_text(comparison: Comparison) -> str:
    """Which of many services gate, and what could not have been seen of the others; empty where all gate."""
    gate = comparison.gate
    if gate is None:
        return ""
    names = {finding.label: finding.service for finding in comparison.findings}  # each once, in however many stages
    carrying, also, watched = (
        list(dict.fromkeys(names.get(item.service, item.service) for item in items))
        for items in (gate.services, gate.also, gate.watched)
    )
    parts = ["the run as a whole"]
    if carrying:
        number = f"{len(carrying)} services that carry" if len(carrying) > 1 else "1 service that carries"
        parts.append(f"{number} at least {gate.share * 100:g} % of the requests")
    if also:
        parts.append(f"{_first(also)} (with limits of their own, or answers that cannot be compared)")
    gating = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    others = f"the other {len(watched)} are" if len(watched) > 1 else "the other one is"
    text = f"The verdict gates on {gating}; {others} watched"
    averages = {item.label for item in comparison.findings if item.metric == Metric.AVG and not item.objective}
    sizes = [(item.min_detectable or math.inf, item.service) for item in gate.watched if item.service in averages]
    detectable = [(size, service) for size, service in sizes if size < LARGEST_SHOWN]
    unknown = [service for size, service in sizes if size >= LARGEST_SHOWN]
    if detectable:
        (least, _), (most, service) = min(detectable), max(detectable)
        text += f": changes of average latency below {format_number(least)} % could not have been seen there"
        text += f", of {shorten(service)} below {format_number(most)} %" if most > least else ""
    return f"{text}; of {_first(unknown)} none could have been." if unknown else f"{text}."


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(shorten, names[:MOST_METRICS])) + and_more(len(names) - MOST_METRICS)


def gap_texts(comparison: Comparison) -> tuple[str, ...]:
    """What is missing, as far as a headline has room for it."""
    rest = f"{{}} more such gap{'s' if len(comparison.gaps) > MOST_GAPS + 1 else ''}: see the warnings."
    return at_most([shorten(gap.text, LONGEST) for gap in comparison.gaps], MOST_GAPS, rest)


def missing_service_texts(result: Result) -> tuple[str, ...]:
    """What the history behind a result says of services that its newest runs lack."""
    history: Mapping[str, Any] = result.document.get("history") or result.document.get("watch") or {}
    return tuple(dict.fromkeys(str(service["sentence"]) for service in history.get("missing_services") or ()))


def footnotes(comparison: Comparison) -> tuple[str, ...]:
    """Warnings that the headlines do not hold: those of findings, equal ones in one line, then those of the whole."""
    groups: dict[str, list[Finding]] = {}
    for finding in comparison.findings:
        for warning in dict.fromkeys(finding.warnings):
            if warning not in comparison.warnings:
                groups.setdefault(warning, []).append(finding)
    notes = []
    for warning, findings in groups.items():
        metric, count = findings[0].title, len(findings)
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
        step = FIX_AND_REPEAT
    elif comparison.verdict is Verdict.REGRESSION:
        step = "Inspect the services named above; repeat the comparison where a second measurement is cheap."
    elif comparison.verdict is Verdict.INCONCLUSIVE:
        step = _to_settle(comparison, written)
    history = comparison.history.advice if comparison.history is not None else ()  # services and machines that changed
    texts = (*(gap.advice for gap in comparison.gaps[:MOST_GAPS]), machine_advice(comparison), *history)
    advice = dict.fromkeys(written(shorten(text, LONGEST)) for text in texts if text)
    again = "Measure both sides in turn before you believe the sizes." if comparison.disturbance is not None else ""
    return " ".join(part for part in (step, *advice, again) if part) or NOTHING_TO_DO


def _to_settle(comparison: Comparison, written: Callable[[str], str]) -> str:
    """What would settle the open question that matters most, and how many others stay open."""
    questions = open_questions(comparison)
    if not questions:
        return ""
    first = questions[0]
    name = f"{first.title} of {written(shorten(first.label, 60))}"
    why = next((f" ({written(text)})" for text in first.warnings if text not in gap_texts(comparison)), "")
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


def judge_words(comparison: Comparison, policy: str | None = None, rule: str | None = None) -> list[str]:
    """The arguments of ``perfkit compare`` that judge these runs again; by their history where no baseline is left."""
    sides = sides_of(comparison)
    # The folder in which all of them lie under their own ids: then ids suffice to name them
    sources = [(str(run.source or ""), run.id) for side in sides for run in side]
    folders = {source[: -len(name) - 1] if PurePath(source).name == name else None for source, name in sources}
    store = next(iter(folders)) if len(folders) == 1 else None
    before, after = ([clean(run.id if store else run.source or run.id) for run in side] for side in sides)
    options = (("--store", store), ("--policy", policy), ("--rule", rule))
    return [*before, "--candidate", *after, *(word for name, text in options if text for word in (name, clean(text)))]


def measure_commands(runs: Sequence[Run]) -> Iterator[str]:
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
    rule = comparison.rule if comparison.rule != "evidence" else None
    if result.watched:  # judged without a baseline: against the history of its scenario
        comparison, rule = replace(comparison, baseline=replace(comparison.baseline, runs=())), None
    line = shlex.join(["perfkit", "compare", *judge_words(comparison, rule=rule)])
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
