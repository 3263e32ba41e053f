"""The promises of a verdict, simulated in pairs, false alarms and detection, with fixed seeds and binomial bounds.

What is simulated is not what the judge assumes: run-to-run noise differs from service to service, metrics of one run
move together, failures are overdispersed.
"""

import numpy as np
import pytest
from samples import SERVICES, run, side, stats
from scipy.stats import binom

from perfkit import Metric, Policy, compare

pytestmark = pytest.mark.slow
TRIALS = 600
SIZES = [(5, 3), (9, 1), (3, 1), (1, 1)]
NAMES = tuple(SERVICES)
NO_TOLERANCE = Policy(tolerance={metric.value: 1e-6 for metric in Metric})


def a_pair(rng, sizes, *, slower=1.0, sd=None, **kind):
    """Two sides whose noise is drawn anew: 0.6 % to 2.4 % from run to run, as quiet and as busy machines have it."""
    sd = float(np.exp(rng.uniform(np.log(0.006), np.log(0.024)))) if sd is None else sd
    kind = {"names": NAMES, "sd": sd, **kind}
    return side(rng, sizes[0], **kind), side(rng, sizes[1], first=50, slower=slower, **kind)


def share(rng, sizes, verdict, trials=TRIALS, policy=None, **kind):
    return sum(compare(*a_pair(rng, sizes, **kind), policy=policy).verdict == verdict for _ in range(trials)) / trials


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("errors", [0.0, 0.01])
def test_identical_builds_are_called_a_regression_at_most_once_in_a_hundred(rng, sizes, errors):
    trials = TRIALS // 2 if errors else TRIALS  # counts of errors take twenty times as long
    false_alarms = share(rng, sizes, "regression", trials=trials, policy=NO_TOLERANCE, rate_of_errors=errors)
    assert false_alarms <= binom.ppf(0.999, trials, 0.01) / trials


@pytest.mark.parametrize(
    ("sizes", "slower", "least"),
    [((5, 3), 1.10, 0.95), ((9, 1), 1.10, 0.80), ((3, 1), 1.10, 0.60), ((1, 1), 1.20, 0.75)],
)
def test_a_slower_service_is_called(rng, sizes, slower, least):
    found = share(rng, sizes, "regression", trials=200, slower={"rag_service": slower})
    assert found >= least


@pytest.mark.parametrize("sizes", [(5, 3), (3, 1)])
def test_ten_percent_slower_is_not_called_no_change(rng, sizes):
    assert share(rng, sizes, "no_change", slower=1.10) <= binom.ppf(0.999, TRIALS, 0.001) / TRIALS


def test_identical_builds_are_shown_unharmed(rng):
    assert share(rng, (5, 3), "no_change", trials=200, sd=0.012, rate_of_errors=0.001) >= 0.5


@pytest.mark.parametrize(("sizes", "sd"), [((5, 3), 0.006), ((5, 3), 0.024), ((3, 3), 0.012), ((9, 1), 0.012)])
def test_intervals_cover_the_truth(rng, sizes, sd):
    """Each interval on its own; wider than promised where the noise is below what the prior expects."""
    covered = []
    for _ in range(300):
        comparison = compare(*a_pair(rng, sizes, slower=1.04, sd=sd))
        for finding in comparison.findings:
            if finding.metric in ("avg_latency_ms", "p95_latency_ms", "p99_latency_ms"):
                covered.append(finding.ci_low <= 4.0 <= finding.ci_high)
    assert np.mean(covered) >= 0.92


@pytest.mark.parametrize(("rate", "worse", "least"), [(0.003, 0.02, 0.95), (0.0, 0.01, 0.95)])
def test_errors_are_found(rng, rate, worse, least):
    found = 0
    for _ in range(200):
        before = [run({"a": stats(rng, sd=0.01, rate_of_errors=rate)}, number=n) for n in range(5)]
        after = [run({"a": stats(rng, sd=0.01, rate_of_errors=worse)}, number=50 + n) for n in range(3)]
        errors = next(f for f in compare(before, after).findings if f.metric == "error_rate_pct")
        found += errors.verdict == "regression"
    assert found >= least * 200


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_intervals_of_error_rates_cover_the_truth(rng, spread):
    covered = []
    for _ in range(400):
        before = [run({"a": stats(rng, rate_of_errors=0.005, spread=spread)}, number=n) for n in range(5)]
        after = [run({"a": stats(rng, rate_of_errors=0.008, spread=spread)}, number=50 + n) for n in range(3)]
        errors = next(f for f in compare(before, after).findings if f.metric == "error_rate_pct")
        covered.append(errors.ci_low <= 0.3 <= errors.ci_high)
    assert np.mean(covered) >= 0.92
