"""May this run be judged?  Every answer is a `Check` with its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from perfkit.load_profile import LoadProfile
from perfkit.model import Check, ServiceStats, Severity
from perfkit.stats.within_run import WithinRun
from perfkit.validity.facts import ArrivalCounts, GeneratorFacts, Process, graded
from perfkit.validity.generator import check_generator, longest_stall_s
from perfkit.validity.requests import MANY_ERRORS_PCT, check_requests
from perfkit.validity.script import check_script

__all__ = ["MANY_ERRORS_PCT", "ArrivalCounts", "GeneratorFacts", "Process", "check_run", "duplicate_check"]


def check_run(
    services: Mapping[str, ServiceStats],
    profile: LoadProfile,
    facts: GeneratorFacts,
    duration_s: float | None,
    within: WithinRun | None = None,
) -> tuple[Check, ...]:
    """Every check of one run that its source allows, passed ones too.

    Parameters
    ----------
    duration_s
        Length of the run where a source tells rates and counts independently, so that they can contradict each other.
    within
        What its requests tell of the course of the run; ``None`` for summaries.
    """
    return (
        _interrupted(facts),
        *check_script(facts),
        *check_requests(services, profile, duration_s, within, longest_stall_s(facts.processes)),
        *check_generator(profile, facts),
        *_warm_up(facts),
    )


def duplicate_check(other: str | None) -> Check:
    """Whether a store already holds these measurements, as the run ``other``."""
    bad = Severity.INVALID if other is not None else None
    advice = f"It holds the same measurements as run {other}: copies of one run are not evidence."
    return graded("duplicate", other or "none", "none", bad, advice)


def _interrupted(facts: GeneratorFacts) -> Check:
    bad = Severity.INVALID if facts.interrupted else None
    advice = "The run did not end as planned; what was measured is kept, but repeat the run to judge it."
    return graded("interrupted", facts.interrupted or "no", "no", bad, advice)


def _warm_up(facts: GeneratorFacts) -> tuple[Check, ...]:
    """Not a fault: says what was left out of latencies and rates."""
    if facts.warm_up_s is None:
        return ()
    return (Check("warm_up", f"{facts.warm_up_s:.1f} s cut off", "a quarter of the run", Severity.OK),)
