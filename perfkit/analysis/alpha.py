"""Alpha allocation: how the chance of a false alarm is shared by all that can turn a comparison red.

By weight over metrics, alike over services, half of it for the run as a whole; absolute limits together have a part of
it.  P-values are corrected over all of them by Holm's weighted step-down test, whatever their dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfkit.model.records import Metric, Scope
from perfkit.stats.effect import weighted_holm

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
RUN_SHARE = 0.5  # of alpha, for the run as a whole where it is judged
# Of all absolute limits together: the comparison hardly notices it, and a limit that is broken for good is broken by
# many standard errors.  test_calibration.py has what both sides then find.
OBJECTIVES_SHARE = 0.2


def alpha_shares(tests: Sequence[tuple[str, Metric, Scope]]) -> list[float]:
    """Share of alpha of each test (service, metric, scope); they sum to one.

    >>> tests = [("a", Metric.AVG, Scope.SERVICE), ("a", Metric.P95, Scope.SERVICE), ("b", Metric.AVG, Scope.SERVICE)]
    >>> [round(share, 2) for share in alpha_shares(tests)]
    [0.46, 0.08, 0.46]
    """
    services = len({service for service, _, scope in tests if scope is Scope.SERVICE})
    run = services * RUN_SHARE / (1.0 - RUN_SHARE) if services else 1.0
    weights = [WEIGHTS[metric] * (run if scope is Scope.RUN else 1.0) for _, metric, scope in tests]
    total = sum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True, slots=True)
class AlphaAllocation:
    """How alpha is shared over one comparison, and what that makes of its p-values.

    ``shares`` are the parts of ``alpha`` of the tests for a change and ``limit_shares`` those of the absolute limits,
    together one.  ``worse`` and ``limits_broken`` are the one-sided p-values of a worsening, adjusted over all of both;
    ``better`` those of an improvement, which have an alpha of their own, shared in the same way.
    """

    alpha: float
    shares: tuple[float, ...]
    limit_shares: tuple[float, ...]
    worse: tuple[float, ...]
    better: tuple[float, ...]
    limits_broken: tuple[float, ...]

    @property
    def tests(self) -> int:
        """How many judgements share alpha."""
        return len(self.shares) + len(self.limit_shares)


def allocate_alpha(
    alpha: float,
    tests: Sequence[tuple[str, Metric, Scope]],
    p_worse: Sequence[float],
    p_better: Sequence[float],
    p_broken: Sequence[float],
) -> AlphaAllocation:
    """Share alpha and adjust the p-values: of each test (getting worse, getting better), of each limit broken."""
    of_limits = (OBJECTIVES_SHARE if tests else 1.0) if p_broken else 0.0
    shares = tuple((1.0 - of_limits) * share for share in alpha_shares(tests))
    limit_shares = (of_limits / len(p_broken),) * len(p_broken) if p_broken else ()
    worse = _adjusted((*p_worse, *p_broken), (*shares, *limit_shares))
    better = _adjusted(p_better, shares)
    return AlphaAllocation(alpha, shares, limit_shares, worse[: len(shares)], better, worse[len(shares) :])


def _adjusted(p_values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    adjusted = weighted_holm(dict(enumerate(p_values)), dict(enumerate(weights)))
    return tuple(adjusted[number] for number in range(len(p_values)))
