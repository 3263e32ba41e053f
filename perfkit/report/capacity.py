"""How much load it takes: the answer in words, and the tables of a capacity report."""

from __future__ import annotations

from collections.abc import Iterator

from perfkit.analysis.capacity import Capacity, Difference, ServiceCapacity
from perfkit.model.records import Verdict
from perfkit.report.findings import Column
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    UNKNOWN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    VERDICT_WORDS,
    clean,
    format_number,
    format_p,
    format_signed,
    likely_direction,
    shorten,
)
from perfkit.report.html import Html, render
from perfkit.report.tables import CANNOT_SAY, Cell, Footnotes, HtmlRow, html_table, verdict_cell
from perfkit.stats.capacity import AT_LEAST, BELOW, FOUND, Estimate

MOST_SENTENCES = 6  # the table has the rest
_NEXT = {
    Verdict.REGRESSION: "Inspect the services named above; the curves show from which load on the builds differ.",
    Verdict.IMPROVEMENT: "Nothing to do.",
    Verdict.NO_CHANGE: "Nothing to do.",
    Verdict.INCONCLUSIVE: "Repeat the ramps, in turn on both builds: each further run narrows the intervals.",
    Verdict.INVALID: "Fix what the warnings name and run again.",
}


def format_load(value: float | None, unit: str = "") -> str:
    """A load: whole users from ten on, ``52 users``; ``~`` when unknown."""
    if value is None:
        return UNKNOWN
    text = f"{value:,.0f}" if unit == "users" and value >= 10 else format_number(value)
    return f"{text} {unit}".rstrip()


def format_estimate(estimate: Estimate, unit: str = "") -> str:
    """``52 users [39, 71]``, ``at least 100 users``, ``below 19 users``; ``~`` when unknown."""
    if estimate.status == AT_LEAST:
        return f"at least {format_load(estimate.low, unit)}"
    if estimate.status == BELOW:
        return f"below {format_load(estimate.high, unit)}"
    if estimate.status != FOUND:
        return UNKNOWN
    value = format_load(estimate.value, unit)
    if estimate.low is None and estimate.high is None:
        return value
    high = "∞" if estimate.high is None else _bare(estimate.high, unit)
    return f"{value} [{_bare(estimate.low, unit)}, {high}]"


def _bare(value: float | None, unit: str) -> str:
    return format_load(value, unit).removesuffix(unit).rstrip()


def capacity_banner(capacity: Capacity, title: str | None = None) -> Html:
    """The answer: the load that it takes, or for two builds the verdict, and what to do next."""
    verdict = capacity.verdict
    word = VERDICT_WORDS[verdict] if verdict is not None else _headline(capacity)
    sentences = list(_sentences(capacity))
    next_step = _NEXT[verdict] if verdict is not None else _advice(capacity)
    html = render(
        "capacity_banner.html.j2",
        title=clean(title) if title else "",
        kind=verdict.value if verdict is not None else "capacity",
        word=word,
        symbol=VERDICT_SYMBOLS[verdict] if verdict is not None else "",
        colour=VERDICT_COLOURS[verdict] if verdict is not None else CANDIDATE_COLOUR,
        sentences=sentences,
        reasons=capacity.warnings if verdict is Verdict.INVALID else (),
        next_step=next_step,
        runs=(len(capacity.runs), len(capacity.candidate)),
        slo=capacity.slo or "",
        confidence=f"{capacity.confidence * 100:g}",
        alpha=f"{capacity.alpha:g}" if verdict is not None else "",
    )
    return Html(html, text="\n".join([word, *sentences, next_step]))


def _headline(capacity: Capacity) -> str:
    """The load as large as life; without an SLO that of the knee."""
    first, unit = capacity.curves[0], capacity.load_unit
    estimate = first.limit if capacity.slo is not None else first.knee
    if estimate.status == FOUND:
        return f"about {format_load(estimate.value, unit)}"
    if estimate.status in (AT_LEAST, BELOW):
        return format_estimate(estimate, unit)
    highest = format_load(max(point.load for point in first.points), unit)
    return f"no knee up to {highest}" if capacity.slo is None else "cannot be said"


def _advice(capacity: Capacity) -> str:
    first = capacity.curves[0]
    if capacity.slo is None:
        return 'Name what must hold, such as --slo "p95 < 300 ms", to read the capacity under it.'
    if first.limit.status == AT_LEAST:
        return "Measure at higher load to find the limit."
    if first.limit.status == BELOW:
        return "Start the ramp lower or relax the objective."
    one = len(capacity.runs) == 1
    return "Repeat the ramp: one run says little about how much runs differ." if one else "Nothing to do."


def _sentences(capacity: Capacity) -> Iterator[str]:
    """What changed, one sentence for each service and direction, then the load that each side takes in all."""
    changed = []
    for verdict, what in ((Verdict.REGRESSION, "got worse"), (Verdict.IMPROVEMENT, "got better")):
        for service in capacity.services:
            changes = []
            for item in capacity.differences:
                if item.service == service and item.verdict is verdict:
                    bounds = [item.ci_low, item.ci_high]
                    interval = (
                        f" [{', '.join(format_signed(end, '%') for end in bounds)}]" if None not in bounds else ""
                    )
                    more = " or more" if item.reason else ""
                    change = format_signed(item.change_pct, "%")
                    changes.append(f"{item.question} {change}\N{NO-BREAK SPACE}%{more}{interval}")
            if changes:
                changed.append(f"{shorten(service, 60)} {what}: {', '.join(changes)}.")
    yield from changed[:MOST_SENTENCES]
    if len(changed) > MOST_SENTENCES:
        yield f"{len(changed) - MOST_SENTENCES} more changes are in the table."
    for curve in capacity.of(capacity.services[0]):
        side = curve.side.capitalize() if capacity.candidate else ""
        if capacity.slo is not None:
            yield _objective_text(curve, capacity, side)
        begin = f"{side}: throughput" if side else "Throughput"
        if curve.knee.status != FOUND:
            highest = format_load(max(point.load for point in curve.points), capacity.load_unit)
            yield f"{begin}: no knee up to {highest} ({curve.knee.reason})."
            continue
        rate, knee = format_number(curve.knee_throughput.value or 0.0), format_estimate(curve.knee, capacity.load_unit)
        yield f"{begin} stops following the load at {knee}, {rate} requests/s."


def _objective_text(curve: ServiceCapacity, capacity: Capacity, side: str) -> str:
    """Up to which load the objective holds."""
    unit, limit, slo = capacity.load_unit, curve.limit, capacity.slo or ""
    begin = f"{side}: {slo}" if side else slo[:1].upper() + slo[1:]
    rate = f", at {format_number(curve.limit_throughput)} requests/s" if curve.limit_throughput else ""
    if limit.status == FOUND:
        return f"{begin} up to {format_estimate(limit, unit)}{rate}."
    if limit.status == AT_LEAST:
        return f"{begin} at every load up to {format_load(limit.low, unit)}{rate}; the end was not reached."
    if limit.status == BELOW:
        return f"{begin} fails from {format_load(limit.high, unit)} on; the lowest measured load may already exceed it."
    return f"{begin}: the runs do not say up to which load."


def capacity_table(capacity: Capacity) -> Html:
    """Each service and side: load and throughput under the SLO and at the knee."""
    under_slo = (
        Column("limit", f"{capacity.slo} up to", right=True),
        Column("limit_throughput", "throughput there", right=True),
    )
    columns = (
        Column("runs", "runs"),
        *(under_slo if capacity.slo is not None else ()),
        Column("knee", "knee at", right=True),
        Column("knee_throughput", "throughput there", right=True),
        Column("highest", "highest load", right=True),
    )
    footnotes, unit = Footnotes(), capacity.load_unit

    def load(estimate: Estimate) -> Cell:
        text = format_estimate(estimate, unit).replace(f" {unit}", "")
        return Cell(text, strong=True, notes=footnotes.numbers([estimate.reason]))

    groups: dict[str, list[HtmlRow]] = {}
    for service in capacity.services:
        for curve in capacity.of(service):
            cells: dict[str, Cell | str] = {
                "runs": curve.side if capacity.candidate else "all runs",
                "limit": load(curve.limit),
                "limit_throughput": f"{format_number(curve.limit_throughput)}/s" if curve.limit_throughput else UNKNOWN,
                "knee": load(curve.knee),
                "knee_throughput": f"{format_number(curve.knee_throughput.value)}/s"
                if curve.knee_throughput.value
                else UNKNOWN,
                "highest": _bare(max(point.load for point in curve.points), unit),
            }
            groups.setdefault(service, []).append(HtmlRow(cells))
    below = f"Loads in {unit}, of the whole test; intervals 95 %. {CANNOT_SAY}"
    html = html_table("capacity", columns, groups, below=below, footnotes=footnotes, anchor="capacity")
    return Html(html, text=f"{len(capacity.curves)} curves")


def scalability_table(capacity: Capacity) -> Html:
    """The Universal Scalability Law of each service and side."""
    columns = (
        Column("runs", "runs"),
        Column("lambda", "throughput of one, λ", right=True),
        Column("sigma", "contention, σ", right=True),
        Column("kappa", "coherence, κ", right=True),
        Column("peak", "throughput peaks at", right=True),
        Column("r_squared", "R²", right=True),
    )
    groups: dict[str, list[HtmlRow]] = {}
    for service in capacity.services:
        for curve in capacity.of(service):
            law = curve.scalability
            peak = UNKNOWN if law.reason else "none" if law.peak_load.value is None else format_estimate(law.peak_load)
            beyond = law.peak_load.value is not None and law.peak_load.value > law.highest_load
            cells = {
                "runs": curve.side if capacity.candidate else "all runs",
                "lambda": format_estimate(law.lam),
                "sigma": _small(law.sigma),
                "kappa": _small(law.kappa),
                "peak": f"{peak}, extrapolated" if beyond else peak,
                "r_squared": UNKNOWN if law.r_squared is None else f"{law.r_squared:.3f}",
            }
            groups.setdefault(service, []).append(HtmlRow(cells))
    below = (
        f"Load in {capacity.curves[0].scalability.load_unit}; intervals 95 %. A low R² means much noise, or that the "
        "law does not describe these runs: a queue in front of a fixed number of workers bends more sharply than it "
        "can, and its peak is then no forecast."
    )
    fitted = any(curve.scalability.r_squared is not None for curve in capacity.curves)
    html = html_table("scalability", columns, groups, below=below) if fitted else ""
    for reason in dict.fromkeys(c.scalability.reason for c in capacity.curves if c.scalability.reason):
        html += render("note.html.j2", text=f"No fit: {clean(reason)}.")
    return Html(html, text="Universal Scalability Law")


def _small(estimate: Estimate) -> str:
    """A dimensionless parameter, often tiny: three digits, exponents allowed."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return UNKNOWN
    return f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"


def differences_table(capacity: Capacity) -> Html:
    """Every difference of the two builds, grouped by service."""
    if not capacity.candidate:
        text = "There is one build only. Name the runs of another one as the candidate to compare them at equal load."
        return Html(render("note.html.j2", text=text), text=text)
    columns = (
        Column("question", "question"),
        Column("verdict", "verdict"),
        Column("change", "change", right=True),
        Column("interval", f"{capacity.confidence * 100:g} % interval", right=True),
        Column("before", "baseline", right=True),
        Column("after", "candidate", right=True),
        Column("tolerance", "tolerance", right=True),
        Column("p", "adjusted p", right=True),
    )
    footnotes = Footnotes()
    groups: dict[str, list[HtmlRow]] = {service: [] for service in capacity.services}
    for difference in capacity.differences:
        groups[difference.service].append(_difference_row(difference, footnotes))
    html = html_table(
        "differences of the builds",
        columns,
        groups,
        below=(
            "At equal load: geometric mean over the loads that all runs went through, each load counted alike. "
            + CANNOT_SAY
        ),
        footnotes=footnotes,
        anchor="difference",
        verdicts=True,
        empty="The builds have no load in common, so nothing can be compared.",
    )
    return Html(html, text=f"{len(capacity.differences)} questions")


def _difference_row(difference: Difference, footnotes: Footnotes) -> HtmlRow:
    def value(number: float | None) -> str:
        unit = {"load": "", "1/s": "/s"}.get(difference.unit, f" {difference.unit}")
        return UNKNOWN if number is None else f"{format_number(number)}{unit}"

    low = "-∞" if difference.ci_low is None else format_signed(difference.ci_low, "%")
    high = "+∞" if difference.ci_high is None else format_signed(difference.ci_high, "%")
    unbounded = difference.ci_low is None and difference.ci_high is None
    word = VERDICT_WORDS[difference.verdict]
    if difference.verdict in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE):  # as `finding_word`
        direction = likely_direction(difference.worse, difference.ci_low, difference.ci_high)
        word = f"{word}, likely {direction}" if direction else word
    change = UNKNOWN if difference.change_pct is None else f"{format_signed(difference.change_pct, '%')} %"
    cells: dict[str, Cell | str] = {
        "question": Cell(difference.question, notes=footnotes.numbers([difference.reason])),
        "verdict": verdict_cell(difference.verdict, word),
        "change": Cell(change, strong=True),
        "interval": UNKNOWN if unbounded else f"[{low}, {high}]",
        "before": value(difference.baseline),
        "after": value(difference.candidate),
        "tolerance": f"{'-' if difference.worse < 0 else '+'}{difference.tolerance_pct:g} %",
        "p": format_p(difference.p_adjusted),
    }
    return HtmlRow(cells, css=f"pk-row-{difference.verdict.value}")
