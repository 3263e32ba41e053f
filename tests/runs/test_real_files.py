"""Files that others made, outside this repository: read them all, and judge those whose truth is known."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from perfkit import Metric, Policy, ReadError, UnknownFormat, compare, read_run, run_from_requests

# Known to be unreadable, and why: a scheduler's file under a Locust name.
FOREIGN = ("decoy-scheduler",)


@pytest.fixture(scope="module")
def mains(real_data):
    files = sorted((real_data / "locust").rglob("*.csv"))
    companions = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_distribution.csv")
    return [file for file in files if not file.name.endswith(companions)]


def test_every_locust_file_in_the_wild_is_read_or_refused_by_name(mains):
    refused = {}
    for file in mains:
        try:
            run = read_run(file)
        except ReadError as error:
            refused[file] = error
        else:
            assert run.services
            assert all((stats.count or 0) >= (stats.failures or 0) for stats in run.services.values())
    assert all(file.name in str(error) for file, error in refused.items())
    assert all(isinstance(error, UnknownFormat) for file, error in refused.items() if file.parent.name in FOREIGN)
    # What else may be refused holds no measurement at all (a header alone).
    assert all("holds a header and no rows" in str(e) for f, e in refused.items() if f.parent.name not in FOREIGN)
    assert any(file.parent.name in FOREIGN for file in refused)


def test_what_locust_says_is_what_its_requests_say(real_data):
    """Nearly: Locust left out what came before all users had started, perfkit what its own test calls the warm-up."""
    for parquet in sorted((real_data / "loopback").glob("*.parquet"))[:12]:
        exact, rounded = (
            from_parquet(parquet).services,
            read_run(parquet.with_name(f"{parquet.stem}_stats.csv")).services,
        )
        assert set(exact) == set(rounded)
        for name, stats in rounded.items():
            assert 0.9 * exact[name].count <= stats.count <= exact[name].count
            assert stats.avg_latency_ms == pytest.approx(exact[name].avg_latency_ms, rel=0.06)
            step = stats.resolutions["p95_latency_ms"]
            assert stats.p95_latency_ms == pytest.approx(exact[name].p95_latency_ms, rel=0.15, abs=step)


def from_parquet(path, scenario="loopback"):
    frame = pd.read_parquet(path).rename(columns={"name": "service", "rt_ms": "response_time_ms"})
    return run_from_requests(frame, scenario=scenario)


@pytest.fixture(scope="module")
def loopback(real_data):
    """Runs by kind (A unchanged, B slower, C tail, D errors), in the order in which they were made."""
    kinds = {}
    for path in sorted((real_data / "loopback").glob("*.parquet")):
        kinds.setdefault(path.stem.split("_")[1], []).append(from_parquet(path))
    return kinds


def test_what_was_changed_is_found_and_nothing_else(loopback):
    unchanged = loopback["A"]
    baseline, candidate = unchanged[:5], {kind: loopback[kind][:3] for kind in "BCD"}
    assert compare(baseline, unchanged[5:8]).verdict in ("no_change", "inconclusive")
    found = {kind: regressions(compare(baseline, runs)) for kind, runs in candidate.items()}
    assert {service for service, _ in found["B"]} <= {"api_gateway", "rag_service"}
    assert ("rag_service", "avg_latency_ms") in found["B"]
    assert {service for service, _ in found["C"]} <= {"rag_service"}
    assert found["D"] <= {("api_gateway", "error_rate_pct")}


def regressions(comparison):
    return {(f.service, f.metric) for f in comparison.findings if f.verdict == "regression"}


def test_a_comparison_of_real_runs_is_whole_json(loopback):
    document = compare(loopback["A"][:3], loopback["B"][:2]).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.fixture(scope="module")
def topology(real_data):
    folder = real_data / "locust" / "topology"
    return {
        config.name: [read_run(repeat) for repeat in sorted(config.glob("repeat_*"))]
        for config in sorted(folder.glob("config_*"))
    }


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "most"), [((5, 3), 0.005), ((3, 1), 0.01), ((1, 1), 0.01)])
def test_identical_runs_are_not_called_a_regression(topology, sizes, most):
    """Tolerance 3 % everywhere, so that nothing hides behind it: at most 0.5 % (5 against 3) and 1 % of comparisons."""
    rng = np.random.default_rng(7)
    policy = Policy(tolerance={metric.value: 3.0 for metric in Metric if metric is not Metric.ERROR_RATE})
    alarms, trials = 0, 0
    for runs, _ in itertools.product(topology.values(), range(60)):
        picked = rng.permutation(len(runs))[: sum(sizes)]
        sides = [runs[i] for i in picked[: sizes[0]]], [runs[i] for i in picked[sizes[0] :]]
        alarms += compare(*sides, policy=policy).verdict == "regression"
        trials += 1
    assert alarms <= most * trials + 3.1 * np.sqrt(most * trials)  # chance of a false alarm of this test: 0.1 %
