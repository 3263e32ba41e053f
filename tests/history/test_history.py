"""The past of a scenario: its noise profile, plans made from it, a policy replayed on it, one verdict explained."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from command_line import invoke
from histories import nights

from perfkit import Policy, RunStore, SettingsError, StoreError, compare, plan
from perfkit.analysis.compare import replay
from perfkit.analysis.explain import explain
from perfkit.analysis.noise_profile import profile_of
from perfkit.history.planning import stored_profile


@pytest.fixture
def store(rng, tmp_path):
    kept = RunStore(tmp_path / "runs")
    for one in nights(rng, 20):
        kept.add(one)
    return kept


def test_a_profile_is_kept_and_learned_anew_when_runs_are_added(rng, store):
    first = stored_profile(store, "api")
    (file,) = (store.folder / ".noise").iterdir()
    assert json.loads(file.read_text()) == first.to_dict()
    assert len(first.runs) == 20
    average = next(item for item in first.variations if item.metric == "avg_latency_ms")
    assert 1.2 < average.variation_pct < 3.0
    assert len(store.ids()) == 20
    store.add(nights(rng, 1, first=40)[0])
    assert len(stored_profile(store, "api").runs) == 21
    file.write_text("broken")
    assert len(stored_profile(store, "api").runs) == 21
    with pytest.raises(StoreError, match=r"no valid runs of the scenario 'apu' .did you mean 'api'"):
        stored_profile(store, "apu")


def test_a_profile_does_not_take_a_step_for_noise(rng):
    flat = profile_of("api", nights(rng, 30)).scatter("a", compare_metric())
    stepped = [*nights(rng, 15), *nights(rng, 15, first=50, factor=1.5)]
    squares, df = profile_of("api", stepped).scatter("a", compare_metric())
    assert squares / df < 3 * flat[0] / flat[1]


def compare_metric():
    from perfkit import Metric

    return Metric.AVG


def test_history_sharpens_one_run_against_one_and_keeps_its_promise(rng):
    """Twenty earlier runs tell the noise, of which these runs show little inside: no more false alarms, and power."""
    found = {True: [0, 0], False: [0, 0]}
    for _ in range(120):
        history = profile_of("api", nights(rng, 20, first=100))
        for known in (True, False):
            for slot, factor in enumerate((1.0, 1.12)):
                pair = nights(rng, 1), nights(rng, 1, first=50, factor=factor)
                comparison = compare(*pair, history=history if known else None)
                found[known][slot] += comparison.verdict == "regression"
    assert found[True][0] <= 5
    assert found[True][1] > 60
    assert found[True][0] <= found[False][0]


def test_twenty_runs_of_history_as_baseline_are_as_good_as_nine(rng):
    called = {9: 0, 20: 0}
    for _ in range(150):
        for n in called:
            comparison = compare(nights(rng, n), nights(rng, 1, first=50, factor=1.09))
            called[n] += comparison.verdict == "regression"
    assert called[20] >= called[9] - 8


def test_history_on_the_command_line(rng, store, tmp_path):
    ids = [store.add(one) for one in (*nights(rng, 1, first=50), *nights(rng, 1, first=60))]
    words = ("compare", ids[0], "--candidate", ids[1], "--store", store.url, "--format", "json")
    plain, sharper = (json.loads(invoke(*words, *more)[1]) for more in ((), ("--history",)))
    widths = [f["findings"][0]["ci_high"] - f["findings"][0]["ci_low"] for f in (plain, sharper)]
    assert widths[0] != widths[1]
    code, _, err = invoke(
        "compare", ids[0], "--candidate", ids[1], "--store", store.url, "--explain", "a", "avg_latenc"
    )
    assert (code, "did you mean 'avg_latency_ms'" in err) == (2, True)


def test_an_explanation_can_be_redone_by_hand(rng):
    before, after = nights(rng, 5), nights(rng, 3, first=50, factor=1.2)
    comparison = compare(before, after)
    text = explain(comparison, "a", "avg_latency_ms")
    s = float(re.search(r"\) = ([0-9.]+), [0-9.]+ df\n  error of", text)[1])
    e = float(re.search(r"sqrt\(1/5 \+ 1/3\) = ([0-9.]+)", text)[1])
    d = float(re.search(r"difference d = ([+-][0-9.]+)", text)[1])
    logs = [np.log([r.services["a"].avg_latency_ms for r in side]) for side in (before, after)]
    assert d == pytest.approx(logs[1].mean() - logs[0].mean(), abs=1e-5)
    assert e == pytest.approx(s * np.sqrt(1 / 5 + 1 / 3), rel=1e-3)
    finding = comparison.findings[0]
    assert f"{finding.change_pct:+.3f} % [{finding.ci_low:+.3f}, {finding.ci_high:+.3f}]" in text
    assert f"-> {finding.verdict}" in text
    assert "requests failed" in explain(comparison, "a", "error_rate_pct")
    fixed = compare(before, after, policy=Policy(rule="threshold"))
    assert "limit +50 %" in explain(fixed, "a", "p95_latency_ms")
    with pytest.raises(SettingsError, match="'b': not compared"):
        explain(comparison, "b", "rps")


def test_a_plan_keeps_its_promise(rng, store):
    frame = plan("api", 8.0, store=store).to_frame().set_index("metric")
    needed = int(frame.loc["avg_latency_ms", "runs_per_side"])
    assert 1 <= needed <= 8
    profile = stored_profile(store, "api")
    called = 0
    for _ in range(150):
        pair = nights(rng, needed), nights(rng, needed, first=50, factor=1.08)
        findings = compare(*pair, history=profile).findings
        called += next(f for f in findings if f.metric == "avg_latency_ms").verdict == "regression"
    assert called >= 0.7 * 150
    assert plan("api", 6.0, store=store).to_frame().set_index("metric").loc["avg_latency_ms", "runs_per_side"] > needed


def test_a_plan_counts_the_tolerance_as_a_comparison_does(rng, store):
    """Average latency may get worse by 5 %: what is barely more needs many runs, whatever chance says."""

    def needed(percent, policy=None):
        frame = plan("api", percent, policy=policy, store=store).to_frame().set_index("metric")
        return frame.loc["avg_latency_ms", ["runs_per_side", "tolerance_pct"]].tolist()

    assert np.isnan(needed(4.0)[0])
    assert np.isnan(needed(5.0)[0])
    assert needed(5.0)[1] == 5.0
    strict = Policy(tolerance={"avg_latency_ms": 0.0})
    assert needed(5.5)[0] > 2 * needed(5.5, strict)[0]
    absolute = needed(5.5, Policy(tolerance={"avg_latency_ms": "+1ms"}))
    assert absolute[1] == pytest.approx(5.0, rel=0.05)
    assert absolute[0] > 2 * needed(5.5, strict)[0]
    runs = int(needed(6.0)[0])
    profile = stored_profile(store, "api")
    called = 0
    for _ in range(100):
        pair = nights(rng, runs), nights(rng, runs, first=500, factor=1.06)
        findings = compare(*pair, history=profile).findings
        called += next(f for f in findings if f.metric == "avg_latency_ms").verdict == "regression"
    assert called >= 68  # binomial: fewer than 1 % of plans that keep 80 %
    code, out, err = invoke("plan", "--scenario", "api", "--detect", "5%", "--store", store.url)
    assert (code, "~" in out) == (0, True)
    assert "5 % of average" in err
    assert "is within the tolerance: no number of runs" in err


def test_plan_on_the_command_line(store):
    code, out, _ = invoke("plan", "--scenario", "api", "--detect", "8%", "--store", store.url)
    assert code == 0
    assert re.search(r"^a +average +\d\.\d % +20 +\d+ ", out, re.M)
    document = json.loads(
        invoke("plan", "--scenario", "api", "--detect", "8", "--store", store.url, "--format", "json")[1]
    )
    assert document["detect_pct"] == 8.0
    for wrong in ("x", "0", "-5%", "nan"):
        assert invoke("plan", "--scenario", "api", "--detect", wrong, "--store", store.url)[0] == 2
    assert invoke("plan", "--scenario", "nope", "--detect", "5%", "--store", store.url)[0] == 2


def test_replay_fires_at_the_step_and_hardly_elsewhere(rng, tmp_path):
    kept = RunStore(tmp_path / "runs")
    ids = [kept.add(one) for one in (*nights(rng, 20, sd=0.01), *nights(rng, 2, first=50, sd=0.01, factor=1.3))]
    found = replay(tuple(kept), Policy(), 9)
    assert [item.run.id for item in found] == ids[9:]
    fired = [item.run.id for item in found if item.comparison.verdict == "regression"]
    assert fired[-2:][0] in ids[20:]
    assert len(fired) <= 3
    code, out, _ = invoke("replay", "--scenario", "api", "--store", kept.url)
    assert code == 0
    assert f"{ids[20]}  ✗ regression: a got worse: average latency" in out
    assert invoke("replay", "--scenario", "api", "--store", kept.url, "--window", "30")[0] == 3
    rows = json.loads(invoke("replay", "--scenario", "api", "--store", kept.url, "--format", "json")[1])
    assert rows[-1]["verdict"] in ("regression", "inconclusive")
    for reason in {reason for row in rows for reason in row["reasons"]}:  # summed up by reason
        for verdict in ("regression", "inconclusive"):
            count = sum(row["verdict"] == verdict and reason in row["reasons"] for row in rows)
            assert bool(count) == bool(re.search(rf"{verdict} +{count}  {re.escape(reason)} ", out)), (verdict, reason)


def test_invalid_runs_of_the_past_are_left_out(rng, tmp_path):
    from perfkit.model.records import Check, Severity, Validity

    kept = RunStore(tmp_path / "runs")
    bad = Validity((Check("interrupted", "yes", "no", Severity.INVALID),))
    for i, one in enumerate(nights(rng, 12)):
        kept.add(replace(one, validity=bad) if i == 5 else one)
    assert len(stored_profile(kept, "api").runs) == 11
    assert len(replay(tuple(kept), Policy(), 9)) == 2
