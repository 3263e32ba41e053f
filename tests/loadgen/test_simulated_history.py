"""Simulated runs vary as they were told to, and what is injected is there."""

import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

import perfkit
from perfkit.cli import main
from perfkit.config.settings import BUILT_IN
from perfkit.loadgen.demo_services import Change
from perfkit.loadgen.simulate import SimulatedHistory, simulate_history
from perfkit.model.records import Verdict
from perfkit.runs.store import RunStore

SCENARIO = replace(BUILT_IN["baseline"], name="sim", users=20, spawn_rate=20.0, duration_s=10.0)
START = datetime(2026, 1, 1, tzinfo=UTC)


def logs(**truth):
    return np.log(SimulatedHistory(4000, **truth).factors("api_gateway", 7))


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.3, 0.9])
def test_levels_vary_and_follow_each_other_as_asked(phi):
    found = logs(variation_pct=3.0, autocorrelation=phi)
    assert found.std() == pytest.approx(0.03, rel=0.15)
    assert np.corrcoef(found[1:], found[:-1])[0, 1] == pytest.approx(phi, abs=0.06)


def test_outliers_and_drift_come_on_top():
    outliers = logs(variation_pct=1.0, outlier_pct=3.0)
    assert (outliers > 0.15).mean() == pytest.approx(0.03, abs=0.01)
    drifting = logs(variation_pct=0.0, drift_pct=20.0)
    assert np.exp(drifting[[0, -1]]) == pytest.approx([1.0, 1.2])


def test_services_and_seeds_have_their_own_luck():
    history = SimulatedHistory(50)
    assert history.factors("a", 1) == history.factors("a", 1)
    assert history.factors("a", 1) != history.factors("b", 1) != history.factors("b", 2)


@pytest.mark.parametrize(
    "wrong", [{"variation_pct": -1}, {"autocorrelation": 1.0}, {"drift_pct": -95}, {"runs": 0}, {"outlier_factor": 0}]
)
def test_what_cannot_be_is_told(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SimulatedHistory(**{"runs": 5, **wrong})


def test_run_folders_hold_every_request_and_the_change(tmp_path):
    changes = {"api_gateway": Change(slower_pct=30.0)}
    history = SimulatedHistory(8, variation_pct=1.0, changes=changes, change_at=4)
    store = RunStore(str(tmp_path))
    ids = simulate_history(SCENARIO, 5, history, store, started_at=START)
    runs = [store.get(run_id) for run_id in ids]
    assert [run.started_at for run in runs] == sorted(run.started_at for run in runs)
    assert all(len(run.requests()) == sum(stats.count for stats in run.services.values()) for run in runs)
    assert runs[0].profile == SCENARIO.profile
    assert [run.labels.get("changed") for run in runs] == [None] * 4 + ["yes"] * 4
    frame = store.history("sim", "api_gateway", "avg_latency_ms")
    before, after = frame["value"][:4].mean(), frame["value"][4:].mean()
    assert after / before == pytest.approx(1.3, rel=0.05)
    comparison = perfkit.compare(runs[:4], runs[4:])
    assert comparison.verdict == "regression"
    assert {finding.service for finding in comparison.by_verdict(Verdict.REGRESSION)} == {"api_gateway"}


def test_the_same_seed_gives_the_same_measurements(tmp_path):
    stores = [RunStore(str(tmp_path / name)) for name in ("a", "b")]
    ids = [simulate_history(SCENARIO, 5, SimulatedHistory(2), store, started_at=START) for store in stores]
    assert ids[0] == ids[1]


def test_from_the_command_line(tmp_path, capsys):
    words = [
        "simulate",
        "baseline",
        "--seed",
        "1",
        "--duration",
        "5s",
        "--users",
        "10",
        "--runs",
        "3",
        "--at",
        "2026-01-01",
    ]
    assert main([*words, "--drift", "5", "--store", str(tmp_path)], sys.stdout, sys.stderr) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 == len(RunStore(str(tmp_path)).ids())
    assert main([*words, "--autocorrelation", "2", "--store", str(tmp_path)], sys.stdout, sys.stderr) == 2
    assert "autocorrelation: must be from -0.99 to 0.99" in capsys.readouterr().err
    assert main([*words, "--inject", "rag_service:slower_pct=5", "--store", str(tmp_path)], sys.stdout, sys.stderr) == 0
