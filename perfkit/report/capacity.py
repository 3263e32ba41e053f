"""How much load it takes: the answer in words, and the tables of a capacity report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from perfkit.analysis.capacity import Capacity, Difference, ServiceCapacity
from perfkit.model.records import Verdict
from perfkit.report.findings import FIX_AND_REPEAT, NOTHING_TO_DO, Row
from perfkit.report.formatting import (
    EVENT_WORDS,
    UNKNOWN,
    VERDICT_WORDS,
    clean,
    count_text,
    format_bounds,
    format_load,
    format_number,
    format_p,
    format_signed,
    likely_direction,
    shorten,
    verdict_text,
)
from perfkit.report.html import CANNOT_SAY, Cell, Html, HtmlRow, banner, empty, html_table, note, verdict_row
from perfkit.stats.capacity import AT_LEAST, BELOW, FOUND, Estimate

MOST_SENTENCES = 6  # the table has the rest
_NEXT = {
    Verdict.REGRESSION: "Inspect the services named above; the curves show from which load on the builds differ.",
    Verdict.IMPROVEMENT: NOTHING_TO_DO,
    Verdict.NO_CHANGE: NOTHING_TO_DO,
    Verdict.INCONCLUSIVE: "Repeat the ramps, in turn on both builds: each further run narrows the intervals.",
    Verdict.INVALID: FIX_AND_REPEAT,
}


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
    low, high = (format_load(end, unit).removesuffix(unit).rstrip() for end in (estimate.low, estimate.high))
    return f"{value} [{low}, {high if estimate.high is not None else '∞'}]"


def capacity_banner(capacity: Capacity, title: str | None = None) -> Html:
    """The answer: the load that it takes, or for two builds the verdict, and what to do next."""
    verdict = capacity.verdict
    word, next_step = _answer(capacity) if verdict is None else (VERDICT_WORDS[verdict], _NEXT[verdict])
    slo = f"Asked for: {capacity.slo}. " if capacity.slo else ""
    alarms = f"Chance of any false alarm {capacity.alpha:g}, intervals" if verdict is not None else "Intervals"
    runs = count_text(len(capacity.runs), "run")
    if capacity.candidate:
        sides = count_text(len(capacity.runs), "baseline run"), count_text(len(capacity.candidate), "candidate run")
        runs = f"{', '.join(sides)}, compared at equal load"
    return banner(
        word,
        list(_sentences(capacity)),
        f"{runs}. {slo}{alarms} {capacity.confidence * 100:g}\N{NO-BREAK SPACE}%.",
        verdict=verdict,
        kind="capacity",
        title=title,
        reasons=capacity.warnings if verdict is Verdict.INVALID else (),
        next_step=next_step,
    )


def _answer(capacity: Capacity) -> tuple[str, str]:
    """Of one build: the load as large as life, without an SLO that of the knee; and what to do next."""
    first, unit = capacity.curves[0], capacity.load_unit
    estimate = first.limit if capacity.slo is not None else first.knee
    highest = format_load(max(point.load for point in first.points), unit)
    word = f"no knee up to {highest}" if capacity.slo is None else "cannot be said"
    if estimate.status == FOUND:
        word = f"about {format_load(estimate.value, unit)}"
    elif estimate.status in (AT_LEAST, BELOW):
        word = format_estimate(estimate, unit)
    if capacity.slo is None:
        return word, 'Name what must hold, such as --slo "p95 < 300 ms", to read the capacity under it.'
    if estimate.status == AT_LEAST:
        return word, "Measure at higher load to find the limit."
    if estimate.status == BELOW:
        return word, "Start the ramp lower or relax the objective."
    if len(capacity.runs) == 1:
        return word, "Repeat the ramp: one run says little about how much runs differ."
    return word, NOTHING_TO_DO


def _sentences(capacity: Capacity) -> Iterator[str]:
    """What changed, one sentence for each service and direction, then the load that each side takes in all."""
    changed = []
    for verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT):
        for service in capacity.services:
            changes = []
            for item in capacity.differences:
                if item.service == service and item.verdict is verdict:
                    interval = f" {format_bounds(item.ci_low, item.ci_high, '%')}".removesuffix(f" {UNKNOWN}")
                    more = " or more" if item.reason else ""
                    changes.append(f"{item.question} {format_signed(item.change_pct, '%')} %{more}{interval}")
            if changes:
                changed.append(f"{shorten(service, 60)} {EVENT_WORDS[verdict.value]}: {', '.join(changes)}.")
    yield from changed[:MOST_SENTENCES]
    if len(changed) > MOST_SENTENCES:
        yield f"{len(changed) - MOST_SENTENCES} more changes are in the table."
    unit, slo = capacity.load_unit, capacity.slo or ""
    for curve in capacity.of(capacity.services[0]):
        side = curve.side.capitalize() if capacity.candidate else ""
        if slo:
            rate = f", at {format_number(curve.limit_throughput)} requests/s" if curve.limit_throughput else ""
            low, high = (format_load(end, unit) for end in (curve.limit.low, curve.limit.high))
            held = {
                FOUND: f" up to {format_estimate(curve.limit, unit)}{rate}.",
                AT_LEAST: f" at every load up to {low}{rate}; the end was not reached.",
                BELOW: f" fails from {high} on; the lowest measured load may already exceed it.",
            }
            begin = f"{side}: {slo}" if side else slo[:1].upper() + slo[1:]
            yield begin + held.get(curve.limit.status, ": the runs do not say up to which load.")
        begin = f"{side}: throughput" if side else "Throughput"
        if curve.knee.status != FOUND:
            highest = format_load(max(point.load for point in curve.points), unit)
            yield f"{begin}: no knee up to {highest} ({curve.knee.reason})."
            continue
        rate, knee = format_number(curve.knee_throughput.value or 0.0), format_estimate(curve.knee, unit)
        yield f"{begin} stops following the load at {knee}, {rate} requests/s."


def capacity_table(capacity: Capacity) -> Html:
    """Each service and side: load and throughput under the SLO and at the knee."""
    unit = capacity.load_unit
    under_slo = (f">{capacity.slo} up to", ">throughput there") if capacity.slo is not None else ()

    def load(estimate: Estimate) -> Cell:
        return Cell(format_estimate(estimate, unit).replace(f" {unit}", ""), strong=True, notes=[estimate.reason])

    def throughput(value: float | None) -> str:
        return f"{format_number(value)}/s" if value else UNKNOWN

    groups = _by_service(
        capacity,
        lambda curve: (
            *((load(curve.limit), throughput(curve.limit_throughput)) if under_slo else ()),
            *(load(curve.knee), throughput(curve.knee_throughput.value)),
            format_load(max(point.load for point in curve.points), unit).removesuffix(unit).rstrip(),
        ),
    )
    columns = ("runs", *under_slo, ">knee at", ">throughput there", ">highest load")
    below = f"Loads in {unit}, of the whole test; intervals 95 %. {CANNOT_SAY}"
    return Html(
        html_table("capacity", columns, groups, below=below, anchor="capacity"), text=f"{len(capacity.curves)} curves"
    )


def _by_service(
    capacity: Capacity, cells_of: Callable[[ServiceCapacity], Sequence[Cell | str]]
) -> dict[str, list[Sequence[Cell | str]]]:
    """A row for each side of each service: which runs, then the cells."""
    groups: dict[str, list[Sequence[Cell | str]]] = {}
    for service in capacity.services:
        for curve in capacity.of(service):
            side = curve.side if capacity.candidate else "all runs"
            groups.setdefault(service, []).append((side, *cells_of(curve)))
    return groups


def scalability_table(capacity: Capacity) -> Html:
    """The Universal Scalability Law of each service and side."""

    def small(estimate: Estimate) -> str:  # dimensionless, often tiny: exponents are allowed
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return UNKNOWN
        return f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"

    def cells(curve: ServiceCapacity) -> Sequence[str]:
        law = curve.scalability
        peak = UNKNOWN if law.reason else "none" if law.peak_load.value is None else format_estimate(law.peak_load)
        beyond = law.peak_load.value is not None and law.peak_load.value > law.highest_load
        fit = UNKNOWN if law.r_squared is None else f"{law.r_squared:.3f}"
        parameters = format_estimate(law.lam), small(law.sigma), small(law.kappa)
        return *parameters, f"{peak}, extrapolated" if beyond else peak, fit

    below = (
        f"Load in {capacity.curves[0].scalability.load_unit}; intervals 95 %. A low R² means much noise, or that the "
        "law does not describe these runs: a queue in front of a fixed number of workers bends more sharply than it "
        "can, and its peak is then no forecast."
    )
    columns = ("runs", ">throughput of one, λ", ">contention, σ", ">coherence, κ", ">throughput peaks at", ">R²")
    fitted = any(curve.scalability.r_squared is not None for curve in capacity.curves)
    html = html_table("scalability", columns, _by_service(capacity, cells), below=below) if fitted else ""
    for reason in dict.fromkeys(c.scalability.reason for c in capacity.curves if c.scalability.reason):
        html += note(f"No fit: {clean(reason)}.").html
    return Html(html, text="Universal Scalability Law")


def differences_table(capacity: Capacity) -> Html:
    """Every difference of the two builds, grouped by service."""
    if not capacity.candidate:
        return empty(
            "There is one build only. Name the runs of another one as the candidate to compare them at equal load."
        )
    names = ("metric", "change", "verdict", "interval", "before", "after", "tolerance", "p")
    interval = f">{capacity.confidence * 100:g} % interval"
    columns = ("question", ">change", "verdict", interval, ">baseline", ">candidate", ">tolerance", ">adjusted p")
    groups: dict[str, list[HtmlRow]] = {}
    for difference in capacity.differences:
        groups.setdefault(difference.service, []).append(verdict_row(_difference_row(difference), names))
    html = html_table(
        "differences of the builds",
        columns,
        groups,
        below=(
            "At equal load: geometric mean over the loads that all runs went through, each load counted alike. "
            + CANNOT_SAY
        ),
        anchor="difference",
        verdicts=True,
        empty="The builds have no load in common, so nothing can be compared.",
    )
    return Html(html, text=f"{len(capacity.differences)} questions")


def _difference_row(difference: Difference) -> Row:
    unit = {"load": "", "1/s": "/s"}.get(difference.unit, f" {difference.unit}")
    values = (difference.baseline, difference.candidate)
    before, after = (UNKNOWN if value is None else f"{format_number(value)}{unit}" for value in values)
    low = "-∞" if difference.ci_low is None else format_signed(difference.ci_low, "%")
    high = "+∞" if difference.ci_high is None else format_signed(difference.ci_high, "%")
    unbounded = difference.ci_low is None and difference.ci_high is None
    word = verdict_text(difference.verdict)
    if difference.verdict in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE):  # as `finding_word`
        direction = likely_direction(difference.worse, difference.ci_low, difference.ci_high)
        word = f"{word}, likely {direction}" if direction else word
    cells = {
        "metric": difference.question,
        "verdict": word,
        "change": UNKNOWN if difference.change_pct is None else f"{format_signed(difference.change_pct, '%')} %",
        "interval": UNKNOWN if unbounded else f"[{low}, {high}]",
        "before": before,
        "after": after,
        "tolerance": f"{'-' if difference.worse < 0 else '+'}{difference.tolerance_pct:g} %",
        "p": format_p(difference.p_adjusted),
    }
    return Row(cells, difference.verdict, warnings=(difference.reason,))
