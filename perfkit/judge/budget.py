"""How the alarm budget is shared out over everything that can turn a comparison red.

By weight over metrics, alike over services, half of it for the whole run; absolute limits together have a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfkit.judge.whole_run import NAME, SHARE
from perfkit.model import Metric
from perfkit.stats.compare import weighted_holm

# The metrics of one service move together, so most weight goes to the most exact one (measured: an even split found
# +5 % in 2 % of trials, this one in 85 %, five runs against three).
WEIGHTS = {
    Metric.AVG: 0.60,
    Metric.P95: 0.10,
    Metric.P50: 0.06,
    Metric.P99: 0.08,
    Metric.ERROR_RATE: 0.07,
    Metric.RPS: 0.06,
    Metric.P999: 0.03,
}
# Of all absolute limits together: the comparison hardly notices it, and a limit that is broken for good is broken by
# many standard errors.  tests/test_calibration.py has what both sides then find.
OBJECTIVES_SHARE = 0.2


def shares(asked: Sequence[tuple[str, Metric]]) -> list[float]:
    """Share of the budget of each question (service, metric); they sum to one.

    >>> [round(share, 2) for share in shares([("a", Metric.AVG), ("a", Metric.P95), ("b", Metric.AVG)])]
    [0.46, 0.08, 0.46]
    """
    services = len({service for service, _ in asked} - {NAME})
    whole = services * SHARE / (1.0 - SHARE) if services else 1.0
    weights = [WEIGHTS[metric] * (whole if service == NAME else 1.0) for service, metric in asked]
    total = sum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True, slots=True)
class Budget:
    """The alarm budget of one comparison.

    ``shares`` are the parts of ``alpha`` of the findings and ``limit_shares`` those of the absolute limits, together
    one; ``adjusted`` and ``limits_adjusted`` the one-sided p of a worsening, corrected over all of both.
    """

    alpha: float
    shares: tuple[float, ...]
    limit_shares: tuple[float, ...]
    adjusted: tuple[float, ...]
    limits_adjusted: tuple[float, ...]

    @property
    def tests(self) -> int:
        """How many judgements share the budget."""
        return len(self.shares) + len(self.limit_shares)


def allocate(alpha: float, worse: Mapping[tuple[str, Metric], float], broken: Sequence[float]) -> Budget:
    """Share ``alpha`` out, and correct the p-values: of each finding getting worse, of each absolute limit broken."""
    of_limits = (OBJECTIVES_SHARE if worse else 1.0) if broken else 0.0
    findings = tuple((1.0 - of_limits) * share for share in shares(list(worse)))
    limits = (of_limits / len(broken),) * len(broken) if broken else ()
    every: dict[object, float] = dict(enumerate((*worse.values(), *broken)))
    weights: dict[object, float] = dict(enumerate((*findings, *limits)))
    adjusted = weighted_holm(every, weights)
    values = tuple(adjusted[number] for number in every)
    return Budget(alpha, findings, limits, values[: len(findings)], values[len(findings) :])
