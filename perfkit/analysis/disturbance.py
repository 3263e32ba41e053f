"""Signs that the measurement differed between the sides, and not only the build: said in one sentence.

Runs made one side after the other differ in whatever the machine, the network and the generator went through meanwhile.
No verdict changes: a regression stays one, and its size is in doubt.  Runs made in pairs need none of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perfkit.analysis.noise_profile import PAIR
from perfkit.model.records import DISTURBED, Check, Finding, Metric, Run, Scope, Severity

GENERATOR = ("generator_stalled", "event_loop_lag", "generator_cpu", "clock")
"""Checks of the generator and its machine: what they find is no build's work."""
EITHER = ("silence", "drift", "error_burst", "late_arrivals")
"""Checks of what a build may have done as well as the machine."""
OFTEN = 0.5  # share of a side's runs in which a check warns, and in no run of the other
FEWEST_SERVICES = 3  # that move alike: two may well do so by chance
ALIKE = 0.2  # standard deviation of their shifts (log scale), as a part of the mean shift
MOVED = 0.05  # mean shift (log scale) from which on it is worth a sentence


def disturbance(baseline: Sequence[Run], candidate: Sequence[Run], findings: Sequence[Finding]) -> Check | None:
    """The warning of one sentence, or ``None``: one side alone was disturbed, or independent services moved alike."""
    runs = (*baseline, *candidate)
    if not baseline or not candidate or all(PAIR in run.labels for run in runs):
        return None
    again = f"measure both sides in turn: perfkit run {runs[-1].scenario} --compare-with ..."
    moved = _moved_alike(findings)
    also = f", and {moved}" if moved is not None else ""
    if (sided := _one_sided(GENERATOR, baseline, candidate)) is not None:
        signs = f"{sided[1]}{also}"
        text = f"The {sided[0]} was disturbed ({sided[1]}){also}, so effects are distorted; {again}"
    elif (sided := _one_sided(EITHER, baseline, candidate)) is not None:
        signs = f"{sided[1]}{also}"
        text = f"Unless the build explains it, the {sided[0]} was disturbed ({sided[1]}){also}; {again}"
    elif moved is not None:
        signs = moved
        text = f"{moved[:1].upper()}{moved[1:]}: that speaks for what they share, such as the machine; {again}"
    else:
        return None
    return Check(DISTURBED, signs, "both sides alike", Severity.WARN, text)


def _one_sided(names: Sequence[str], baseline: Sequence[Run], candidate: Sequence[Run]) -> tuple[str, str] | None:
    """The side that a check of the measurement warns about in many runs, and in none of the other; and what it is."""
    sides = (("baseline", baseline, candidate), ("candidate", candidate, baseline))
    for name in names:
        for title, runs, others in sides:
            count = _warned(name, runs)
            if count and count >= OFTEN * len(runs) and not _warned(name, others):
                other = "candidate" if title == "baseline" else "baseline"
                word = name.replace("_", " ")
                return title, f"{word} in {count} of its {len(runs)} runs and in none of the {other}'s"
    return None


def _warned(name: str, runs: Sequence[Run]) -> int:
    return sum(any(check.name == name for check in run.validity.problems) for run in runs)


def _moved_alike(findings: Sequence[Finding]) -> str | None:
    """That the average latencies of all services moved by nearly one factor, each beyond chance."""
    averages = [
        finding
        for finding in findings
        if finding.metric == Metric.AVG and finding.scope is Scope.SERVICE and not finding.objective
    ]
    shifts = [
        float(np.log1p((finding.change_pct or 0.0) / 100))
        for finding in averages
        if finding.ci_low is not None and finding.ci_high is not None and finding.ci_low * finding.ci_high > 0
    ]
    services = {finding.service for finding in averages}
    if len(services) < FEWEST_SERVICES or len(shifts) < len(averages):
        return None
    mean = float(np.mean(shifts))
    if abs(mean) < MOVED or float(np.std(shifts, ddof=1)) > ALIKE * abs(mean) or min(shifts) * max(shifts) <= 0:
        return None
    low, high = (100 * float(np.expm1(end)) for end in (min(shifts), max(shifts)))
    return f"all {len(services)} services moved alike (average latency {low:+.0f} % to {high:+.0f} %)"
