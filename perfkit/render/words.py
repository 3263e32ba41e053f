"""What a comparison means, in sentences: used by the terminal, Markdown and the report alike."""

from __future__ import annotations

from collections.abc import Sequence

from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.render.theme import clean, format_change, format_interval, format_signed, format_value, shorten

MOST_METRICS = 3  # a headline names at most so many metrics; the table has the rest


def headlines(comparison: Comparison) -> tuple[str, ...]:
    """What the history shows, and one sentence per service that changed, regressions first.

    Where there is none of either: one that says why there is nothing to claim.
    """
    return tuple(text for _, text in claimed(comparison)) or (_nothing_to_claim(comparison),)


def claimed(comparison: Comparison) -> tuple[tuple[Verdict, str], ...]:
    """The same, without that last one, each with what it is: a regression or an improvement."""
    news = comparison.history.news if comparison.history is not None else ()
    events = [(findings[0].verdict, _event(service, findings)) for service, findings in _events(comparison)]
    return (*((Verdict.REGRESSION, clean(text)) for text in news), *events)


def _events(comparison: Comparison) -> list[tuple[str, list[Finding]]]:
    found: list[tuple[str, list[Finding]]] = []
    for verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT):
        by_service: dict[str, list[Finding]] = {}
        for finding in comparison.by_verdict(verdict):
            by_service.setdefault(finding.service, []).append(finding)
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
    if comparison.verdict is Verdict.INVALID:
        return "The runs cannot be judged: see the warnings."
    if comparison.rule == "threshold":
        return "Every metric is within its limit."
    if comparison.verdict is Verdict.NO_CHANGE:
        return "Every gating metric is shown to be within its tolerance."
    open_questions = [f for f in comparison.findings if f.gating and f.verdict is Verdict.INCONCLUSIVE]
    total = sum(finding.gating for finding in comparison.findings)
    return (
        f"No regression can be claimed: what was seen is within chance or cannot be judged. "
        f"{len(open_questions)} of {total} gating metrics could not be shown to be within tolerance either."
    )


def next_step(comparison: Comparison) -> str:
    """What its reader should do now."""
    if comparison.verdict is Verdict.INVALID:
        return "Mend what the warnings name and run again."
    if comparison.verdict is Verdict.REGRESSION:
        return "Look at the services named above; repeat the comparison when a second opinion is cheap."
    if comparison.verdict is Verdict.INCONCLUSIVE:
        return _to_settle(comparison)
    return "Nothing to do."


def _to_settle(comparison: Comparison) -> str:
    """The most demanding gating question decides; what no number of runs would settle is said."""
    gating = [f for f in comparison.findings if f.gating and f.verdict is Verdict.INCONCLUSIVE]
    hardest = max(gating, key=lambda f: f.runs_needed or 0, default=None)
    text = settle(hardest) if hardest is not None else ""
    hopeless = sum(not settle(finding) for finding in gating)
    rest = (
        f" {hopeless} open {_plural(hopeless, 'question')} cannot be settled by more runs like these (~ in the table)."
        if hopeless
        else ""
    )
    return f"About {text} would settle it.{rest}" if text else rest.strip()


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
