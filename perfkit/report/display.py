"""What public objects show of themselves: one line in a terminal, a piece of HTML in a notebook, and their tables.

`perfkit/__init__` registers these on the objects, so that the rooms which define them know nothing of HTML.  A line has
at most 400 characters; names from outside are made harmless and shortened everywhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from perfkit.analysis.baseline import BaselineSummary
from perfkit.analysis.capacity import Capacity
from perfkit.history.events import Event
from perfkit.history.trend import RUNS_BEFORE
from perfkit.model.errors import PerfkitError
from perfkit.model.records import Check, Comparison, ErrorKind, Finding, Metric, Run, Severity, Verdict
from perfkit.report import capacity, findings, trend
from perfkit.report.formatting import (
    SHORT_METRICS,
    UNKNOWN,
    VERDICT_WORDS,
    and_more,
    at_most,
    clean,
    count_text,
    finding_text,
    format_change,
    format_interval,
    format_number,
    format_p,
    format_time,
    format_value,
    shorten,
    verdict_text,
)
from perfkit.report.html import (
    CANNOT_SAY,
    Accessor,
    Cell,
    Html,
    HtmlRow,
    banner,
    empty,
    html_table,
    inlined,
    note,
    of_subject,
    render,
    verdict_row,
)
from perfkit.runs.collection import labels_text
from perfkit.runs.requests import columns_of
from perfkit.stats.streams import Latencies, LatencyCounts

if TYPE_CHECKING:
    from perfkit.history.planning import Plan
    from perfkit.history.trend import Alarms, Events, History
    from perfkit.report.findings import Column
    from perfkit.runs.collection import Runs
    from perfkit.runs.store import RunStore

LONGEST = 400  # characters of a line
MOST_ROWS = 20  # runs of a table; the frames have all
MOST_RUNS = 24  # of the table of response times
MOST_VALUES = 3  # of a check, where they are not numbers
MOST_SENTENCES = 8  # of an answer
MOST_OPEN = 6  # services whose findings are not folded
MOST_UNFOLDED = 3  # services: so few are shown where none has a change
MOST_UNFOLDED_ROWS = 8  # of errors and objectives
DAY = "%Y-%m-%d"
ERRORS_NOTE = (
    "In brackets: share of the requests of the service. New and gone: seen on one side only; more and fewer: beyond "
    f"what chance does to single requests. Whether the error rate got worse is judged among the findings. {CANNOT_SAY}"
)
GATING = "gating: the overall result is no regression only if this metric is shown to be within its tolerance"
FINDINGS_NOTE = (
    '* gating: the overall result is "no regression" only if this metric is shown to be within its tolerance. '
    f"MDE: minimum detectable effect. {CANNOT_SAY}"
)
QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}
CLOSED = (
    "All of these runs are of the closed model: simulated users wait for each response, so a stalled server receives "
    "fewer requests and the stall is under-reported (coordinated omission). --rate starts requests on a schedule."
)
OPEN = (
    "Response time counts from when a request was due, service time from when it was sent. Where users wait for "
    "answers (the closed model) nothing is due, and only the time since the send is known."
)


def _line(kind: str, *parts: str) -> str:
    """``<Run a-b-c: 3 services, valid>``, of bounded length."""
    text = f"<{kind}: {'; '.join(part for part in parts if part)}>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}…>"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _page(
    title: object,
    facts: Sequence[tuple[str, object]] = (),
    *,
    remark: str = "",
    columns: Sequence[str] = (),
    rows: Iterable[Sequence[object]] = (),
    below: str = "",
    notes: Sequence[str] = (),
) -> str:
    """A heading, facts, a table and notes, as escaped HTML with inlined style."""
    cells = [[shorten(value, 120) for value in row] for row in rows]
    html = render(
        "facts.html.j2",
        title=shorten(title, 300),
        note=remark,
        facts=[(name, shorten(value, 300)) for name, value in facts if value not in (None, "")],
        table=Markup(html_table("table", columns, cells, below=below)),
        notes=notes,
    )
    return inlined(html)


# Runs ----------------------------------------------------------------------------------------------------------------


def run_line(run: Run) -> str:
    """A run in one line."""
    requests = "requests unknown" if run.request_count is None else count_text(run.request_count, "request")
    return _line(
        "Run",
        shorten(run.id, 80),
        f"{shorten(run.scenario, 60)}, {format_time(run.started_at)} UTC, {shorten(run.profile.describe(), 60)}",
        f"{count_text(len(run.services), 'service')}, {requests}",
        "valid" if run.validity.ok else f"invalid ({shorten(run.validity.problems[0].name)})",
    )


def run_html(run: Run) -> str:
    """A run: what it was, whether it is fit to be judged, and the metrics of its services."""
    metrics = [metric for metric in Metric if any(stats.value(metric) is not None for stats in run.services.values())]
    facts = [
        ("scenario", run.scenario),
        ("started (UTC)", format_time(run.started_at)),
        ("length", None if run.duration_s is None else f"{run.duration_s:.0f} s"),
        ("load", run.profile.describe()),
        ("target", run.target),
        ("commit", f"{run.git.get('commit', '')[:12]} {run.git.get('branch', '')}".strip()),
        ("labels", ", ".join(f"{name}={value}" for name, value in run.labels.items())),
        ("tool", run.tool),
    ]
    rows = [
        [
            name,
            *map(_count, (stats.count, stats.failures)),
            *(UNKNOWN if (value := stats.value(metric)) is None else format_number(value) for metric in metrics),
        ]
        for name, stats in run.services.items()
    ]
    return _page(
        run.id,
        facts,
        remark="valid" if run.validity.ok else "invalid: not fit to be judged",
        columns=[
            *("service", ">requests", ">failures"),
            *(f">{SHORT_METRICS[metric]} ({metric.unit})" for metric in metrics),
        ],
        rows=rows,
        notes=[f"{check.name}: {check.value}; {check.advice}" for check in run.validity.problems],
    )


def runs_html(runs: Runs) -> str:
    """Runs as a table: when, what, and whether they are fit to be judged."""
    shown = runs[-MOST_ROWS:]
    older = len(runs) - len(shown)
    return _page(
        count_text(len(runs), "run"),
        columns=("run", "scenario", "started (UTC)", "commit", "load", ">requests", "valid"),
        rows=(
            [
                run.id,
                run.scenario,
                format_time(run.started_at),
                run.git.get("commit", "")[:10] or UNKNOWN,
                run.profile.describe(),
                _count(run.request_count),
                "yes" if run.validity.ok else "no",
            ]
            for run in shown
        ),
        below=f"{count_text(older, 'earlier run')} not shown" if older else "",
    )


def store_line(store: RunStore) -> str:
    """A store in one line."""
    try:
        frame = store.runs()
    except (PerfkitError, OSError):  # a line must never fail: debuggers and tracebacks print it
        return _line("RunStore", shorten(store.url, 160), "cannot be read")
    counts = frame["scenario"].value_counts(sort=False)
    names = [f"{shorten(name)} ({count})" for name, count in counts.head(5).items()]
    scenarios = ", ".join([*names, *(["…"] if len(counts) > 5 else [])])
    return _line("RunStore", shorten(store.url, 160), count_text(len(frame), "run"), scenarios)


def store_html(store: RunStore) -> str:
    """A store: its scenarios, how many runs each has, and from when to when."""
    frame = store.runs()
    rows = [
        [
            name,
            len(group),
            int(group["valid"].sum()),
            format_time(group["started_at"].min(), DAY),
            format_time(group["started_at"].max(), DAY),
            group["commit"].replace("", None).nunique(),
            int(group["services"].max()),
        ]
        for name, group in frame.groupby("scenario", sort=True)
    ]
    return _page(
        store.url,
        remark=count_text(len(frame), "run") if len(frame) else "has no runs yet",
        columns=("scenario", ">runs", ">valid", "first (UTC)", "newest (UTC)", ">commits", ">services"),
        rows=rows,
        notes=[f"{name} cannot be read: {reason}" for name, reason in list(store.broken().items())[:5]],
    )


def runs_table(measured: Any, candidate: Sequence[Run] = ()) -> Html:
    """Where the numbers come from: every run, then load, environment and versions of both sides, differences marked."""
    before, after = findings.sides_of(measured, candidate)
    is_baseline = bool(after) or isinstance(measured, BaselineSummary)
    named = (("baseline" if is_baseline else "value", before), ("candidate", after))
    sides = {name: runs for name, runs in named if runs}
    facts = {name: dict(_facts_of_all(runs)) for name, runs in sides.items()}
    fact_rows = []
    for key in dict.fromkeys(key for side in facts.values() for key in side):
        values = [facts[name].get(key, UNKNOWN) for name in sides]
        differs = len(set(values)) > 1
        cells = [Cell(key, tag="differs" if differs else ""), *(Cell(text, css="pk-wide") for text in values)]
        fact_rows.append(HtmlRow(cells, css="pk-differs" if differs else ""))
    rows: list[Sequence[Cell | str]] = []
    for name, members in sides.items():
        for run in members:
            problems = len(run.validity.problems)
            warnings = f", {count_text(problems, 'warning')}" if problems else ""
            rows.append(
                [
                    Cell(run.id, code=True),
                    *([name] if len(sides) > 1 else []),
                    Cell(format_time(run.started_at, "%Y-%m-%d %H:%M:%S"), css="pk-nowrap"),
                    f"{run.duration_s:.0f} s" if run.duration_s is not None else UNKNOWN,
                    _count(run.request_count),
                    f"{'✓ yes' if run.validity.ok else '⊘ no'}{warnings}",
                ]
            )
    columns = ("run", *(["side"] if len(sides) > 1 else []), "started (UTC)", ">length", ">requests", "valid")
    html = html_table("load and environment", ("what", *sides), fact_rows) + html_table("runs", columns, rows)
    if not any(run.profile.is_open for side in sides.values() for run in side):
        html += f'<p class="pk-small">{CLOSED}</p>'
    return Html(html, text=f"{len(rows)} runs")


def _facts_of_all(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """What the runs of one side were made with; several values are listed, so that a mixture shows."""

    def each(values: Iterable[object]) -> str:
        return ", ".join(dict.fromkeys(clean(value) for value in values if value not in (None, ""))) or UNKNOWN

    yield "scenario", each(run.scenario for run in runs)
    yield "load", each(run.profile.describe() for run in runs)
    yield "target", each(run.target for run in runs)
    yield "tool", each(run.tool for run in runs)
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = (
        ("", [run.versions for run in runs]),
        ("git ", [run.git for run in runs]),
        ("", [run.environment for run in runs]),
        ("label ", [run.labels for run in runs]),
    )
    for title, members in tables:
        for key in dict.fromkeys(key for table in members for key in table):
            yield f"{title}{key}", each(table.get(key, "") for table in members)


def response_times(measured: Any, candidate: Sequence[Run] = ()) -> Html:
    """A row per run with response times over all services, and one with service times where there was a schedule."""
    runs = [run for side in findings.sides_of(measured, candidate) for run in side]
    if not any(run.profile.is_open for run in runs):
        return empty(CLOSED)
    rows = [row for run in runs[:MOST_RUNS] for row in _times_of(run)]
    if not rows:
        return empty("Single requests are not known, so there is nothing to count from a schedule.")
    columns = ("run", ">requests", "time", *(f">{name}" for name in QUANTILES), ">late")
    html = html_table("response and service times of each run", columns, rows)
    left_out = len(runs) - MOST_RUNS
    html += note(f"{left_out} more runs are not shown.").html if left_out > 0 else ""
    return Html(html + note(OPEN).html, text=OPEN)


def _times_of(run: Run) -> Iterator[Sequence[Cell | str]]:
    if run.load_requests is None:
        return
    counted, is_open = LatencyCounts(16), run.profile.is_open
    for part in columns_of(run.load_requests).parts():
        times, sent = part.response_time_ms, part.service_time_ms
        counted.add(np.zeros(times.size), times)
        if is_open and sent is not None:
            counted.add(np.ones(times.size), np.where(np.isfinite(sent), sent, times))
    (_, responses), (_, service) = counted.between(0, 1), counted.between(1, 2)
    if not responses.total:
        return

    def cells(latencies: Latencies) -> list[str]:
        return [format_value(Metric.AVG, float(value)) for value in latencies.quantiles(list(QUANTILES.values()))]

    late = next((check.value for check in run.validity.checks if check.name == "late_arrivals"), None)
    shown = f"{format_number(float(late))} %" if isinstance(late, int | float) else UNKNOWN
    name = Cell(run.id, below=run.profile.describe())
    yield name, f"{responses.total:,}", "response" if is_open else "service", *cells(responses), shown
    if service.total:
        yield "", "", "service", *cells(service), ""


def warnings_list(subject: Comparison | Capacity | BaselineSummary | Sequence[Run]) -> Html:
    """What to know before believing the result: warnings of the comparison, and every check that did not pass."""
    warnings: tuple[str, ...] = () if isinstance(subject, Sequence) else subject.warnings
    checks: list[tuple[str, Check]] = []
    before, after = findings.sides_of(subject)
    sides = {"baseline" if after or isinstance(subject, Comparison) else "run": before, "candidate": after}
    if isinstance(subject, Comparison):  # those of single runs stand with their run, below
        of_both = (check for check in subject.checks if not check.name.startswith("run_"))
        checks = [("both sides", check) for check in of_both if check.severity is not Severity.OK]
    checks += [(f"{name} {run.id}", c) for name, side in sides.items() for run in side for c in run.validity.problems]
    rows = [
        [
            check.name,
            "⊘ unfit" if check.severity is Severity.INVALID else "! warning",
            _check_value(check.value),
            _check_value(check.limit),
            name,
            Cell(check.advice, css="pk-wide"),
        ]
        for name, check in checks
    ]
    columns = ("check", "means", ">value", ">limit", "of", "what to do")
    runs = [run for side in sides.values() for run in side]
    html = render(
        "warnings.html.j2",
        warnings=warnings,
        checks=Markup(html_table("checks that did not pass", columns, rows)),
        all_checks=Markup(_all_checks(runs)),
        runs=len(runs),
        is_clean=not warnings and not checks,
    )
    return Html(html, text="\n".join(warnings))


def _all_checks(runs: Sequence[Run]) -> str:
    """Every check that was made, one row each, over all runs: passed ones too, so that one sees what was checked."""
    by_name: dict[str, list[Check]] = {}
    for check in (check for run in runs for check in run.validity.checks):
        by_name.setdefault(check.name, []).append(check)
    rows = []
    for name, checks in by_name.items():
        numbers = [float(check.value) for check in checks if isinstance(check.value, int | float)]
        texts = list(dict.fromkeys(_check_value(check.value) for check in checks))
        values = " / ".join(texts[:MOST_VALUES]) + (" / ..." if len(texts) > MOST_VALUES else "")
        if len(numbers) == len(checks) and len(set(numbers)) > 1:
            values = f"{format_number(min(numbers))} to {format_number(max(numbers))}"
        limits = list(dict.fromkeys(_check_value(check.limit) for check in checks))
        severities = [check.severity for check in checks]
        symbol = "⊘" if Severity.INVALID in severities else "!" if Severity.WARN in severities else "✓"
        passed = f"{symbol} {severities.count(Severity.OK)} of {len(checks)}"
        rows.append([name, passed, values, " / ".join(limits[:MOST_VALUES])])
    return html_table("every check of the runs", ("check", "passed", ">values", ">limit"), rows)


def _check_value(value: float | str | None) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else format_number(float(value))


# Comparisons ---------------------------------------------------------------------------------------------------------


def comparison_line(comparison: Comparison) -> str:
    """A comparison in one line: verdict, sides, and what changed."""
    changed = [f for f in comparison.findings if f.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]
    texts = [f"{shorten(f.label)} {SHORT_METRICS.get(f.metric, f.metric)} {format_change(f)}" for f in changed[:4]]
    more = [f"{len(changed) - 4} more"] if len(changed) > 4 else []
    sides = f"{count_text(len(comparison.candidate.runs), 'candidate run')} against {len(comparison.baseline.runs)}"
    total = count_text(len(comparison.findings), "finding")
    return _line("Comparison", VERDICT_WORDS[comparison.verdict], f"{sides}, {total}", ", ".join([*texts, *more]))


def comparison_html(comparison: Comparison) -> str:
    """A comparison: the verdict, what to do next, and every finding."""
    return inlined(verdict_banner(comparison).html + findings_table(comparison).html)


def finding_line(finding: Finding) -> str:
    """A finding in one line: effect, interval and verdict."""
    title = f"{shorten(finding.label, 80)} {SHORT_METRICS.get(finding.metric, finding.metric)}"
    effect = f"{format_change(finding)} {format_interval(finding)}"
    return _line("Finding", title, f"{finding_text(finding)}, {effect}", f"limit {shorten(finding.limit)}")


def finding_html(finding: Finding) -> str:
    """A finding: everything that was measured and judged."""
    mde = finding.min_detectable
    facts = [
        ("verdict", finding_text(finding)),
        ("change", f"{format_change(finding)} {format_interval(finding)}"),
        ("baseline", format_value(finding.metric, finding.baseline)),
        ("candidate", format_value(finding.metric, finding.candidate)),
        ("tolerance", finding.limit),
        ("adjusted p", format_p(finding.p_adjusted)),
        ("minimum detectable", None if mde is None else f"{mde:.3g} {finding.change_unit}"),
        ("runs needed", finding.runs_needed),
        ("gating", "yes" if finding.gating else "no"),
    ]
    return _page(f"{finding.label}, {finding.title}", facts, notes=finding.warnings)


def verdict_banner(comparison: Comparison, title: str | None = None) -> Html:
    """The answer: verdict, one sentence per service that changed, what to do next; and what was compared."""
    verdict, texts = comparison.verdict, findings.headlines(comparison)
    counts = findings.verdict_counts(comparison.findings)
    basis = f"{findings.sides_text(comparison)}{f'; findings: {counts}' if counts else ''}"
    rule = "a percentage against fixed limits without regard to noise"
    if comparison.rule == "evidence":
        intervals = f"{comparison.confidence * 100:g}\N{NO-BREAK SPACE}%"
        rule = f"chance of any false alarm {comparison.alpha:g}, intervals {intervals}"
    answer = banner(
        VERDICT_WORDS[verdict],
        at_most(texts, MOST_SENTENCES, "{} more such sentences: the table has them."),
        f"{basis}. Rule: {comparison.rule}, {rule}.",
        verdict=verdict,
        title=title,
        reasons=[text for text in comparison.warnings if clean(text) not in " ".join(texts)]
        if verdict is Verdict.INVALID
        else (),
        next_step=findings.next_step(comparison),
        label="verdict",
        text=verdict_text(verdict),
    )
    before, after = findings.sides_of(comparison)
    return Html(answer.html + sides_table(baseline=before, candidate=after), answer.text)


def sides_table(**sides: Sequence[Run]) -> str:
    """What was measured: scenario, target and load, and of each side its runs, commits and times."""
    runs = [run for side in sides.values() for run in side]
    facts = (
        ("Scenario", [run.scenario for run in runs]),
        ("target", [run.target for run in runs]),
        ("load", [run.profile.describe() for run in runs if run.profile.users or run.profile.rate]),
    )
    about = [f"{name} {_listed(texts)}" for name, texts in facts if any(texts)]
    rows = []
    for name, side in sides.items():
        if side:
            times = findings.times_of(side)
            ends = [format_time(time) for time in times[:1]]
            if len(times) > 1:
                ends.append(
                    format_time(times[-1], "%H:%M" if times[0].date() == times[-1].date() else "%Y-%m-%d %H:%M")
                )
            labels = [
                f"{key}={value}" for run in side for key, value in run.labels.items() if key not in ("side", "pair")
            ]
            cells = (f"{len(side)}", _listed(findings.builds_of(side)), " to ".join(ends) or UNKNOWN, _listed(labels))
            rows.append([Cell(name, strong=True), *(Cell(text, css=_width(text)) for text in cells)])
    columns = ["side", ">runs", "commit", "measured (UTC)", "labels"]
    if all(row[-1].text == UNKNOWN for row in rows):  # nobody labelled anything
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return render("sides.html.j2", about="; ".join(about), table=Markup(html_table("what was measured", columns, rows)))


def _width(text: str) -> str:
    """The class of a cell whose text is too long for one line."""
    return "pk-wide" if len(text) > 32 else ""


def _listed(texts: Iterable[object]) -> str:
    """Different texts from outside, the first few of them."""
    names = list(dict.fromkeys(shorten(text, 80) for text in texts if text not in (None, "")))
    return f"{', '.join(names[:MOST_VALUES])}{and_more(len(names) - MOST_VALUES)}" or UNKNOWN


def findings_table(comparison: Comparison) -> Html:
    """Every number of every finding by service, the worst first; services without a change are folded.

    Absolute limits have a table of their own: `objectives_table`.  Notes below carry the warnings.
    """
    judged = [finding for finding in comparison.findings if not finding.objective]
    table = findings.findings_table(replace(comparison, findings=tuple(judged)))
    names = ("metric", "change", "verdict", "interval", "before", "after", "tolerance", "p", "mde", "settle")
    settles = any(row.cells["settle"] for row in table.rows)
    columns = table.chosen(names if settles else names[:-1])
    services = findings.services_worst_first(judged)
    loud = [name for name, members in services.items() if not findings.is_quiet(comparison, members)][:MOST_OPEN]
    rest = [name for name in services if name not in loud]
    parts = []
    for members, anchor in ((loud, "note"), (rest, "folded")):
        groups = {
            name: [
                verdict_row(findings.finding_row(finding), [column.name for column in columns], mark=GATING)
                for finding in services[name]
            ]
            for name in members
        }
        parts.append(html_table("findings", columns, groups, anchor=anchor, verdicts=True))
    folded = [finding for name in rest for finding in services[name]]
    noun = "more service" if loud else "service"
    if not judged:
        return Html(note("There are no findings: no metric of any service could be compared.").html, "0 findings")
    html = render(
        "findings.html.j2",
        table=Markup(parts[0]),
        folded=Markup(parts[1]),
        summary=f"{count_text(len(rest), noun)}: {findings.verdict_counts(folded)}",
        is_open=not loud and len(rest) <= MOST_UNFOLDED,
        below=FINDINGS_NOTE,
        service_count=len(services),
    )
    return Html(html, text=f"{len(comparison.findings)} findings")


def objectives_table(comparison: Comparison) -> Html:
    """The absolute limits (SLOs), exceeded ones first, each with a symbol and a word."""
    table = findings.objectives_table(comparison)
    if not table.rows:
        return empty("The policy has no absolute limits (objectives).")
    names = ("service", "metric", "verdict", "after", "tolerance")  # the answer is seen on a telephone too
    columns = table.chosen(names)
    rows = [verdict_row(row, names) for row in table.rows]
    objectives = (finding for finding in comparison.findings if finding.objective)
    text = findings.verdict_counts(objectives, findings.OBJECTIVE_WORDS)
    return Html(_folded_after("objectives", columns, rows), text=f"objectives: {text}")


def errors_table(errors: Sequence[ErrorKind] | None, sides: int = 2) -> Html:
    """Kinds of failed requests, what is new first, with counts and times; one sentence where nothing failed."""
    text, table = findings.errors_text(errors, sides), findings.errors_table(errors or (), sides)
    if not table.rows:
        return Html(f'<p class="pk-quiet">{escape(text)}</p>', text=text)
    names = [column.name for column in table.columns]
    rows = [
        [
            Cell(
                row.cells[name],
                strong=name == "changed" and row.verdict is Verdict.INCONCLUSIVE,
                css=_width(row.cells[name]),
            )
            for name in names
        ]
        for row in table.rows
    ]
    below = ERRORS_NOTE if sides == 2 else "In brackets: share of the requests of the service."
    return Html(f"<p>{escape(text)}</p>" + _folded_after("errors", table.columns, rows, below), text=text)


def _folded_after(label: str, columns: Sequence[Column], rows: Sequence[Any], below: str = "") -> str:
    """A table, of which what comes after the first rows is folded."""
    html = html_table(label, columns, rows[:MOST_UNFOLDED_ROWS], below=below)
    if more := rows[MOST_UNFOLDED_ROWS:]:
        table = html_table(f"more {label}", columns, more)
        html += f'<details class="pk-fold"><summary>{len(more)} more</summary>\n{table}\n</details>'
    return html


def reproduce(comparison: Comparison, policy: str | None = None, rule: str | None = None) -> Html:
    """The command lines that judge these runs again, and those that measure again."""
    words = findings.judge_words(comparison, policy, rule)
    judge, report = (shlex.join(["perfkit", *command, *words]) for command in (("compare",), ("report", "compare")))
    sides = findings.sides_of(comparison)
    measure = list(dict.fromkeys(line for side in sides for line in findings.measure_commands(side)))
    return Html(render("reproduce.html.j2", judge=judge, report=report, measure=measure), text=judge)


# Baselines and plans -------------------------------------------------------------------------------------------------


def baseline_line(baseline: BaselineSummary) -> str:
    """A baseline summary in one line."""
    services = count_text(len({level.service for level in baseline.levels}), "service")
    levels = f"{count_text(len(baseline.levels), 'level')} of {services}"
    return _line("Baseline", levels, f"from {count_text(len(baseline.runs), 'run')}")


def baseline_html(baseline: BaselineSummary) -> str:
    """A baseline summary: every level with its intervals."""
    return inlined(levels_table(baseline).html)


def baseline_banner(baseline: BaselineSummary, title: str | None = None) -> Html:
    """Whether the runs serve as a baseline, how much they scatter, and what was measured."""
    invalid = [run for run in baseline.runs if not run.validity.ok]
    runs = count_text(len(baseline.runs), "run")
    scatter = sorted(
        (level for level in baseline.levels if level.variation_pct is not None),
        key=lambda of: -(of.variation_pct or 0.0),
    )
    texts = list(baseline.warnings)
    if scatter:
        largest, middle = scatter[0], scatter[len(scatter) // 2]
        texts.append(
            f"Runs vary by {middle.variation_pct:.1f} % (median over metrics), most by {largest.variation_pct:.1f} %: "
            f"{Metric(largest.metric).title} of {shorten(largest.service, 60)}."
        )
    word = (
        f"{len(invalid)} of {runs} {'is' if len(invalid) == 1 else 'are'} invalid"
        if invalid
        else f"{runs}, {'all ' * (len(baseline.runs) > 1)}valid"
    )
    services = count_text(len({level.service for level in baseline.levels}), "service")
    step = findings.FIX_AND_REPEAT if invalid else findings.NOTHING_TO_DO
    if len(baseline.runs) < 3 and not invalid:
        step = "Repeat the run: fewer than three say little about how much runs differ."
    answer = banner(
        word,
        texts,
        f"{runs}; {services}, {count_text(len(baseline.levels), 'level')}.",
        verdict=Verdict.INVALID if invalid else Verdict.NO_CHANGE,
        title=title,
        next_step=step,
    )
    return Html(answer.html + sides_table(baseline=baseline.runs), answer.text)


def levels_table(baseline: BaselineSummary) -> Html:
    """What is normal: every level with its intervals, grouped by service."""

    def between(low: float | None, high: float | None) -> str:
        return UNKNOWN if low is None or high is None else f"{format_number(low)} – {format_number(high)}"

    groups: dict[str, list[Sequence[Cell | str]]] = {}
    for level in baseline.levels:
        row = (
            Metric(level.metric).title,
            Cell(format_value(level.metric, level.value), strong=True),
            between(level.low, level.high),
            between(level.next_low, level.next_high),
            UNKNOWN if level.variation_pct is None else f"{level.variation_pct:.1f} %",
            between(level.lowest, level.highest),
        )
        groups.setdefault(level.service, []).append(row)
    groups = {f"{name}: {_basis(baseline.runs, name)}": rows for name, rows in groups.items()}
    columns = ("metric", ">level", ">95 % interval", ">next run expected in", ">run-to-run variation")
    html = html_table(
        "levels with intervals",
        (*columns, ">lowest – highest run"),
        groups,
        below=f"From {count_text(len(baseline.runs), 'run')}; each run counts as one observation. {CANNOT_SAY}",
        empty="No metric is known in every run, so no level can be given.",
    )
    return Html(html, text=f"{len(baseline.levels)} levels")


def _basis(runs: Iterable[Run], service: str) -> str:
    """What a service's levels rest on: its requests in all runs, how many failed, and the slowest."""
    parts = [run.services[service] for run in runs if service in run.services]
    counts, failures, slowest = (
        [getattr(part, name) for part in parts] for name in ("count", "failures", "max_latency_ms")
    )
    return ", ".join(
        (
            "requests not counted" if None in counts else count_text(sum(counts), "request"),
            *(() if None in failures else (f"{sum(failures):,} failed",)),
            *(() if None in slowest else (f"slowest {format_value('p999_latency_ms', max(slowest))}",)),
        )
    )


def plan_line(plan: Plan) -> str:
    """A plan in one line: the most runs that any service and metric needs."""
    needed = plan.frame["runs_per_side"].dropna()
    runs = f"at most {int(needed.max())} runs on each side" if len(needed) else "no number of runs would do"
    return _line("Plan", shorten(plan.scenario), f"{plan.change_pct:g} % worse, called in {plan.power:.0%}", runs)


def plan_html(plan: Plan) -> str:
    """A plan: how many runs each service and metric needs."""

    def text_of(value: float, form: str) -> str:
        return UNKNOWN if value != value else form.format(value)

    rows = [
        [
            row["service"],
            Metric(row["metric"]).title,
            text_of(row["runs_per_side"], "{:.0f}"),
            "of all runs" if row["variation_pct"] != row["variation_pct"] else f"{row['variation_pct']:.1f} %",
            text_of(row["tolerance_pct"], "{:g} %"),
            text_of(row["hours"], "{:.1f}"),
        ]
        for row in plan.frame.to_dict("records")
    ]
    remark = f"runs that call a worsening of {plan.change_pct:g} % in {plan.power:.0%} of comparisons"
    columns = ("service", "metric", ">runs on each side", ">run-to-run variation", ">tolerance", ">hours of load")
    return _page(plan.scenario, remark=remark, columns=columns, rows=rows)


# Histories and capacity ----------------------------------------------------------------------------------------------


def history_line(history: History) -> str:
    """A history in one line: runs, events, alarms."""
    newest = f"newest event: {shorten(history.events[-1].headline, 160)}" if history.events else ""
    counts = f"{count_text(len(history.events), 'event')}, {count_text(len(history.alarms), 'alarm')}"
    runs = f"{count_text(len(history), 'run')} of {count_text(len(history.services), 'service')}"
    return _line("History", shorten(history.scenario, 60), f"{runs}, {counts}", newest)


def history_html(history: History) -> str:
    """A history: how it stands, and its events with their dates and commits."""
    return inlined(trend.trend_banner(history).html + trend.trend_events(history, "report.html").html)


def event_line(event: Event) -> str:
    """An event in one line."""
    return _line("Event", shorten(event.headline, 300), f"commit {event.first_after.commit[:10] or UNKNOWN}")


def event_html(event: Event) -> str:
    """An event: what changed by how much, and between which runs and commits."""
    facts = [
        (name, f"{run.run_id}, {format_time(run.started_at)} UTC, commit {run.commit[:12] or UNKNOWN}")
        for name, run in (("last run before", event.last_before), ("first run after", event.first_after))
    ]
    rows = (
        [
            item.service,
            item.metric.title,
            findings.size_text(item),
            format_value(item.metric, item.change.before),
            format_value(item.metric, item.change.after),
            format_p(item.change.p_value),
        ]
        for item in event.changes
    )
    columns = ("service", "metric", ">change", ">before", ">after", ">p")
    return _page(event.headline, facts, columns=columns, rows=rows)


def history_summary(history: History, title: str | None = None) -> Html:
    """How the scenario stands, and from which runs that is known."""
    answer = trend.trend_banner(history, title)
    dated = [run for run in history.runs if run.started_at is not None]
    labels = history.timeline.labels
    about = [f"Scenario {shorten(history.scenario, 80)}", count_text(len(history), "run")]
    about += [f"only those labelled {shorten(labels_text(labels), 80)}"] if labels else []
    if dated:
        about.append(f"{format_time(dated[0].started_at)} to {format_time(dated[-1].started_at)} UTC")
        build = " ".join(filter(None, (dated[-1].commit[:10], dated[-1].branch)))
        about.append(f"newest {shorten(dated[-1].run_id, 80)}{f', commit {shorten(build, 80)}' if build else ''}")
    return Html(answer.html + render("sides.html.j2", about="; ".join(about), table=""), answer.text)


def capacity_summary(of: Capacity, title: str | None = None) -> Html:
    """The load that it takes, and what was measured."""
    answer = capacity.capacity_banner(of, title)
    sides = {"baseline": of.runs, "candidate": of.candidate} if of.candidate else {"runs": of.runs}
    return Html(answer.html + sides_table(**sides), answer.text)


def history_errors(history: History) -> Html:
    """Kinds of failed requests of the newest valid run against those of the runs before it."""
    valid = [run for run in history.runs if run.valid]
    if len(valid) < 2:
        return empty("There are no two valid runs whose errors can be compared.")
    try:
        shown = errors_table(history.newest_errors())
    except PerfkitError as error:
        return Html(note(f"The errors of the newest runs are not known: {shorten(error, 200)}.").html)
    before = count_text(min(len(valid) - 1, RUNS_BEFORE), "run")
    sides = f"Candidate: the newest valid run, {shorten(valid[-1].run_id, 60)}; baseline: {before} before it."
    return Html(f'{shown.html}<p class="pk-small">{escape(sides)}</p>', text=shown.text)


def events_html(events: Events | Alarms) -> str:
    """Events or alarms as a table: when, where, by how much."""
    rows = [
        [
            format_time(event.first_after.started_at, DAY),
            event.id,
            event.first_after.commit[:10] or UNKNOWN,
            item.service,
            item.metric.title,
            findings.size_text(item),
        ]
        for event in (item if isinstance(item, Event) else item.event for item in events)
        for item in event.changes
    ]
    title = count_text(len(events), type(events).__name__.lower().removesuffix("s"))
    return _page(title, columns=("date", "run", "commit", "service", "metric", ">change"), rows=rows)


def capacity_line(of: Capacity) -> str:
    """Capacity in one line: its answer."""
    answer = " ".join(capacity.capacity_banner(of).text.splitlines())
    return _line("Capacity", f"from {count_text(len(of.runs), 'run')}", shorten(answer, 300))


def capacity_html(of: Capacity) -> str:
    """Capacity: the answer, and the load that each service takes."""
    return inlined(capacity.capacity_banner(of).html + capacity.capacity_table(of).html)


# Tables: each is HTML in a notebook and plain words in a terminal -----------------------------------------------------


class RunTables(Accessor):
    """Tables of what was measured."""

    runs = of_subject(runs_table)
    warnings = of_subject(warnings_list)

    def errors(self) -> Html:
        """Kinds of failed requests on each side, when they came, and what changed."""
        sides = 2 if isinstance(self.subject, Comparison) or findings.sides_of(self.subject)[1] else 1
        return errors_table(self.subject.errors, sides)


class ComparisonTables(RunTables):
    """Tables of a comparison: ``comparison.table.findings()``."""

    summary = of_subject(verdict_banner)
    findings = of_subject(findings_table)
    objectives = of_subject(objectives_table)
    reproduce = of_subject(reproduce)
    response_times = of_subject(response_times)


class BaselineTables(RunTables):
    """Tables of a baseline summary: ``baseline.table.levels()``."""

    summary = of_subject(baseline_banner)
    levels = of_subject(levels_table)
    response_times = of_subject(response_times)


class HistoryTables(Accessor):
    """Tables of a history: ``history.table.events()``."""

    summary = of_subject(history_summary)
    errors = of_subject(history_errors)
    calendar = of_subject(trend.trend_calendar)
    levels = of_subject(trend.trend_levels)
    weekdays = of_subject(trend.trend_weekdays)
    events = of_subject(trend.trend_events)
    runs = of_subject(trend.trend_runs)


class CapacityTables(RunTables):
    """Tables of capacity: ``capacity.table.services()``."""

    summary = of_subject(capacity_summary)
    services = of_subject(capacity.capacity_table)
    differences = of_subject(capacity.differences_table)
    scalability = of_subject(capacity.scalability_table)
