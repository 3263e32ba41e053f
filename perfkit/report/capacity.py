"""How much load it takes, as people look at it: the answer in words, the curves, and the tables.

Charts over load: throughput and latency against it, and the change between two builds at each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from perfkit.analysis.capacity import BASELINE, CANDIDATE, Capacity, Difference, ServiceCapacity
from perfkit.model.records import Verdict
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
from perfkit.stats.capacity import AT_LEAST, BELOW, FOUND, Estimate

MOST_SENTENCES = 6  # the table has the rest
_NEXT = {
    Verdict.REGRESSION: "Look at the services named above; the curves show from which load on the builds differ.",
    Verdict.IMPROVEMENT: "Nothing to do.",
    Verdict.NO_CHANGE: "Nothing to do.",
    Verdict.INCONCLUSIVE: "Repeat the ramps, in turn on both builds: each further run narrows the intervals.",
    Verdict.INVALID: "Mend what the warnings name and run again.",
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
    return f"{format_load(estimate.value, unit)} {_interval(estimate, unit)}".rstrip()


def _interval(estimate: Estimate, unit: str = "") -> str:
    if estimate.low is None and estimate.high is None:
        return ""
    ends = [_bare(estimate.low, unit), "∞" if estimate.high is None else _bare(estimate.high, unit)]
    return f"[{ends[0]}, {ends[1]}]"


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
        return "Load further to find where it ends."
    if first.limit.status == BELOW:
        return "Begin with less load, or ask for less."
    one = len(capacity.runs) == 1
    return "Repeat the ramp: one run says little about how much runs differ." if one else "Nothing to do."


def _sentences(capacity: Capacity) -> Iterator[str]:
    """What changed, then for each side what it takes; of all requests together."""
    changed = list(_changes(capacity))
    yield from changed[:MOST_SENTENCES]
    if len(changed) > MOST_SENTENCES:
        yield f"{len(changed) - MOST_SENTENCES} more changes are in the table."
    for curve in capacity.of(capacity.services[0]):
        who = curve.side.capitalize() if capacity.candidate else ""
        if capacity.slo is not None:
            yield _promise(curve, capacity, who)
        yield _knee(curve, capacity, who)


def _changes(capacity: Capacity) -> Iterator[str]:
    """One sentence for each service and direction."""
    for verdict, what in ((Verdict.REGRESSION, "got worse"), (Verdict.IMPROVEMENT, "got better")):
        for service in capacity.services:
            mine = [item for item in capacity.differences if item.service == service and item.verdict is verdict]
            if mine:
                yield f"{shorten(service, 60)} {what}: {', '.join(map(_change, mine))}."


def _change(difference: Difference) -> str:
    bounds = [difference.ci_low, difference.ci_high]
    interval = f" [{', '.join(format_signed(bound, '%') for bound in bounds)}]" if None not in bounds else ""
    most = " or more" if difference.reason else ""
    return f"{difference.question} {format_signed(difference.change_pct, '%')}\N{NO-BREAK SPACE}%{most}{interval}"


def _promise(curve: ServiceCapacity, capacity: Capacity, who: str) -> str:
    unit, limit = capacity.load_unit, curve.limit
    begin = f"{who}: {capacity.slo}" if who else f"{capacity.slo or ''}"[:1].upper() + f"{capacity.slo or ''}"[1:]
    rate = f", at {format_number(curve.limit_throughput)} requests/s" if curve.limit_throughput else ""
    if limit.status == FOUND:
        return f"{begin} up to {format_estimate(limit, unit)}{rate}."
    if limit.status == AT_LEAST:
        return f"{begin} at every load up to {format_load(limit.low, unit)}{rate}; the end was not reached."
    if limit.status == BELOW:
        return f"{begin} does not hold from {format_load(limit.high, unit)} on, perhaps at no load at all."
    return f"{begin}: the runs do not say up to which load."


def _knee(curve: ServiceCapacity, capacity: Capacity, who: str) -> str:
    begin = f"{who}: throughput" if who else "Throughput"
    if curve.knee.status != FOUND:
        highest = format_load(max(point.load for point in curve.points), capacity.load_unit)
        return f"{begin}: no knee up to {highest} ({curve.knee.reason})."
    rate = format_number(curve.knee_throughput.value or 0.0)
    return f"{begin} stops following the load at {format_estimate(curve.knee, capacity.load_unit)}, {rate} requests/s."


def capacity_table(capacity: Capacity) -> Html:
    """Each service and side: load and throughput under the SLO and at the knee."""
    notes = list(dict.fromkeys(r for curve in capacity.curves for r in (curve.limit.reason, curve.knee.reason) if r))
    groups = {
        service: [_cells(curve, capacity, notes) for curve in capacity.of(service)] for service in capacity.services
    }
    html = render(
        "capacity.html.j2",
        groups=groups,
        notes=notes,
        slo=capacity.slo or "",
        unit=capacity.load_unit,
        sides=bool(capacity.candidate),
    )
    return Html(html, text=f"{len(capacity.curves)} curves")


def _cells(curve: ServiceCapacity, capacity: Capacity, notes: Sequence[str]) -> dict[str, Any]:
    def marks(estimate: Estimate) -> list[int]:
        return [notes.index(estimate.reason) + 1] if estimate.reason else []

    unit = capacity.load_unit
    return {
        "side": curve.side if capacity.candidate else "all runs",
        "limit": format_estimate(curve.limit, unit).replace(f" {unit}", ""),
        "limit_notes": marks(curve.limit),
        "limit_rps": f"{format_number(curve.limit_throughput)}/s" if curve.limit_throughput else UNKNOWN,
        "knee": format_estimate(curve.knee, unit).replace(f" {unit}", ""),
        "knee_notes": marks(curve.knee),
        "knee_rps": f"{format_number(curve.knee_throughput.value)}/s" if curve.knee_throughput.value else UNKNOWN,
        "highest": _bare(max(point.load for point in curve.points), unit),
    }


def scalability_table(capacity: Capacity) -> Html:
    """The Universal Scalability Law of each service and side."""
    groups = {service: [_law(curve, capacity) for curve in capacity.of(service)] for service in capacity.services}
    fitted = any(row["r_squared"] != UNKNOWN for rows in groups.values() for row in rows)
    reasons = list(dict.fromkeys(c.scalability.reason for c in capacity.curves if c.scalability.reason))
    unit = capacity.curves[0].scalability.load_unit
    html = render("scalability.html.j2", groups=groups, fitted=fitted, reasons=reasons, unit=unit)
    return Html(html, text="Universal Scalability Law")


def _law(curve: ServiceCapacity, capacity: Capacity) -> dict[str, Any]:
    law = curve.scalability
    peak = UNKNOWN if law.reason else "none" if law.peak_load.value is None else format_estimate(law.peak_load)
    beyond = law.peak_load.value is not None and law.peak_load.value > law.highest_load
    return {
        "side": curve.side if capacity.candidate else "all runs",
        "lam": f"{format_estimate(law.lam)}",
        "sigma": _small(law.sigma),
        "kappa": _small(law.kappa),
        "peak": f"{peak}, extrapolated" if beyond else peak,
        "r_squared": UNKNOWN if law.r_squared is None else f"{law.r_squared:.3f}",
    }


def _small(estimate: Estimate) -> str:
    """A dimensionless parameter, often tiny: three digits, exponents allowed."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return UNKNOWN
    return f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"


def differences_table(capacity: Capacity) -> Html:
    """Every question about the two builds, grouped by service."""
    if not capacity.candidate:
        text = "There is one build only. Name the runs of another one as the candidate to compare them at equal load."
        return Html(render("note.html.j2", text=text), text=text)
    notes = list(dict.fromkeys(item.reason for item in capacity.differences if item.reason))
    groups: dict[str, list[dict[str, Any]]] = {service: [] for service in capacity.services}
    for difference in capacity.differences:
        groups[difference.service].append(_difference_cells(difference, notes))
    html = render(
        "differences.html.j2",
        groups={service: rows for service, rows in groups.items() if rows},
        notes=notes,
        confidence=f"{capacity.confidence * 100:g}",
    )
    return Html(html, text=f"{len(capacity.differences)} questions")


def _word(difference: Difference) -> str:
    """As `finding_word`: no row says that nothing changed beside an interval that leaves out zero."""
    word = VERDICT_WORDS[difference.verdict]
    if difference.verdict not in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE):
        return word
    direction = likely_direction(difference.worse, difference.ci_low, difference.ci_high)
    return f"{word}, likely {direction}" if direction else word


def _difference_cells(difference: Difference, notes: Sequence[str]) -> dict[str, Any]:
    def value(number: float | None) -> str:
        unit = {"load": "", "1/s": "/s"}.get(difference.unit, f" {difference.unit}")
        return UNKNOWN if number is None else f"{format_number(number)}{unit}"

    ends = [difference.ci_low, difference.ci_high]
    known = any(end is not None for end in ends)
    low, high = ("∞" if end is None else format_signed(end, "%") for end in ends)
    return {
        "question": difference.question,
        "gating": difference.gating,
        "verdict": difference.verdict.value,
        "symbol": VERDICT_SYMBOLS[difference.verdict],
        "word": _word(difference),
        "change": UNKNOWN if difference.change_pct is None else f"{format_signed(difference.change_pct, '%')} %",
        "interval": f"[{'-∞' if low == '∞' else low}, {'+∞' if high == '∞' else high}]" if known else UNKNOWN,
        BASELINE: value(difference.baseline),
        CANDIDATE: value(difference.candidate),
        "limit": f"{'-' if difference.worse < 0 else '+'}{difference.tolerance_pct:g} %",
        "p": format_p(difference.p_adjusted),
        "notes": [notes.index(difference.reason) + 1] if difference.reason else [],
    }
