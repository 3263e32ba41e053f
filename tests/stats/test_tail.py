"""p99 and p99.9 of all runs of a side together, where single runs are too short to know it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from samples import arrays, summarise

from perfkit import Metric, Policy, compare, run_from_requests
from perfkit.analysis.evidence import hypotheses_of
from perfkit.analysis.explain import explain
from perfkit.analysis.noise_profile import SCHEMA, NoiseProfile, profile_of, runs_for_tail
from perfkit.analysis.power import detectable, levels_of_tests, runs_needed, with_tails
from perfkit.history.planning import Plan
from perfkit.model.codec import decode
from perfkit.model.records import Tail
from perfkit.model.serialization import comparison_from_document, stats_contradiction
from perfkit.report.display import plan_html
from perfkit.report.findings import finding_row, headlines
from perfkit.stats.tail import TailDesign, compare_tails, counted_beyond, is_enough, pooled, quantiles_of

PLANNED = ["service", "metric", "variation_pct", "history_runs", "runs_per_side", "tolerance_pct"]
REQUESTS, LENGTH_S = 800, 60.0


def requests_of(rng, *, stalls=0.0, bursts=0, requests=REQUESTS, drift=0.0):
    """One run: log-normal latencies; ``stalls``: the share that takes 200 ms more; ``bursts`` of slow requests."""
    start = np.sort(rng.uniform(0, LENGTH_S, requests))
    times = rng.lognormal(3 + rng.normal(0, drift), 0.5, requests) + 200.0 * (rng.random(requests) < stalls)
    for begin in rng.uniform(0, LENGTH_S, rng.poisson(bursts)):
        times[(start > begin) & (start < begin + 0.25)] += 100.0
    return arrays(start, times)


def tails(rng, runs, **how):
    return [summarise(requests_of(rng, **how), 0.0, LENGTH_S).tail for _ in range(runs)]


def run(rng, number, **how):
    drawn = requests_of(rng, **how)
    frame = pd.DataFrame({"start": 1.7e9 + 100 * number + drawn.start_s, "service": "api", "failed": False})
    return run_from_requests(frame.assign(response_time_ms=drawn.response_time_ms), scenario="shop", number=str(number))


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(5)
    return compare(
        [run(rng, n, drift=0.05) for n in range(8)], [run(rng, 50 + n, stalls=0.006, drift=0.05) for n in range(8)]
    )


def test_quantiles_of_runs_taken_together_are_those_of_their_requests(rng):
    drawn = [requests_of(rng, requests=size) for size in (800, 2400, 1200)]
    together = np.concatenate([of.response_time_ms for of in drawn])
    kept = [summarise(of, 0.0, LENGTH_S).tail for of in drawn]
    assert [tail.requests for tail in kept] == [800, 2400, 1200]
    for q in (0.96, 0.99, 0.995, 0.999):
        assert quantiles_of(kept, q) == pytest.approx(np.quantile(together, q), rel=0.1)
    assert quantiles_of(kept, 1.0) == pytest.approx(together.max(), rel=1e-6)
    assert quantiles_of(kept[:1], 0.95) == pytest.approx(np.quantile(drawn[0].response_time_ms, 0.95), rel=0.01)


def test_a_tail_says_how_much_slow_requests_come_in_bursts(rng):
    assert np.mean([tail.dispersion for tail in tails(rng, 20)]) < 1.5
    assert np.mean([tail.dispersion for tail in tails(rng, 20, bursts=1)]) > 2.0
    assert summarise(requests_of(rng, requests=71), 0.0, LENGTH_S).tail is None


def test_a_stall_in_one_percent_is_found_and_one_that_went_is_its_mirror_image(rng):
    before, after = tails(rng, 8), tails(rng, 8, stalls=0.01)
    rise, fall = compare_tails(0.999, before, after, 0.95), compare_tails(0.999, after, before, 0.95)
    assert rise.p_rise < 1e-4
    assert rise.p_rise == pytest.approx(fall.p_fall)
    assert rise.ci_low > 25.0
    assert rise.ci_low <= rise.change <= rise.ci_high
    assert fall.change == pytest.approx(100.0 / (1.0 + rise.change / 100.0) - 100.0)
    assert rise.arithmetic.failed[1] > 5 * rise.arithmetic.failed[0]


def test_bursts_within_runs_and_between_them_widen_the_test(rng):
    calm = compare_tails(0.999, tails(rng, 5), tails(rng, 5), 0.95).arithmetic
    bursts = [*tails(rng, 4), *tails(rng, 1, bursts=8)]
    assert compare_tails(0.999, bursts, bursts, 0.95).arithmetic.overdispersion > calm.overdispersion + 1.0
    one = [replace(tail, dispersion=9.0) for tail in tails(rng, 5)]
    assert compare_tails(0.999, one, one, 0.95).arithmetic.overdispersion > 3.0


def test_too_few_requests_tell_no_tail(rng):
    kept = tails(rng, 5)
    assert not is_enough(kept[:4], 0.999)
    assert is_enough(kept, 0.999)
    assert not is_enough([Tail(5000, (0.0,) * len(Tail.QUANTILES))], 0.999)


def test_latencies_all_alike_are_no_change():
    alike = [Tail(5000, (20.0,) * len(Tail.QUANTILES))]
    effect = compare_tails(0.999, alike, alike, 0.95)
    assert (effect.change, effect.ci_low, effect.ci_high) == (0.0, 0.0, 0.0)
    assert effect.p_rise == pytest.approx(0.5)


def test_a_comparison_finds_a_stall_that_averages_do_not_show(comparison):
    (finding,) = (f for f in comparison.findings if f.verdict == "regression")
    assert (finding.metric, finding.gating, comparison.verdict) == (Metric.P999, False, "regression")
    assert finding.candidate > 200 > 1.5 * finding.baseline
    assert finding.arithmetic.rates.beyond_ms < 200
    assert not any("p99.9" in text for text in comparison.warnings)
    assert comparison_from_document(comparison.to_dict(), "test").findings == comparison.findings
    text = explain(comparison, "api", "p999")
    assert "single runs are too short for p99.9: it is that of all runs of a side together" in text
    assert "the p99.5 of both sides together" in text
    assert f"{finding.arithmetic.rates.failed[1]} of {finding.arithmetic.rates.requests[1]} requests = " in text
    assert "failed" not in text
    rows = {f.metric: finding_row(f).cells["metric"] for f in comparison.findings}
    assert (rows[Metric.P999], rows[Metric.P99]) == ("p99.9 of all runs", "p99 latency")
    assert f"p99.9 of all runs +{finding.change_pct:.0f} %" in headlines(comparison)[0]  # of mail, comment and message


def test_what_an_explanation_shows_stands_in_the_result_and_older_ones_do_not_record_it(comparison):
    document = comparison.to_dict()
    assert "0.87 times what the runs foretell, and what is usual" in explain(comparison, "api", "avg")
    for finding in document["findings"]:
        for numbers in filter(None, (finding["arithmetic"]["levels"], finding["arithmetic"]["rates"])):
            numbers.pop("prior_level", None)
            numbers.pop("beyond", None)
    older = comparison_from_document(document, "test")
    assert "what the runs foretell (this result does not record how many times that)" in explain(older, "api", "avg")
    assert "a percentile (this result does not record which) of both sides" in explain(older, "api", "p999")


def test_p99_of_short_runs_is_that_of_all_runs_of_a_side(rng):
    before = [run(rng, n, requests=190) for n in range(8)]
    after = [run(rng, 50 + n, requests=190, stalls=0.03) for n in range(8)]
    comparison = compare(before, after)
    (finding,) = (f for f in comparison.findings if f.metric == Metric.P99)
    assert (finding.verdict, finding_row(finding).cells["metric"]) == ("regression", "p99 of all runs")
    assert finding.candidate > 150 > 1.5 * finding.baseline
    assert finding.arithmetic.share == pytest.approx(0.08 / 0.97)  # as a p99 that single runs know
    rates = finding.arithmetic.rates
    assert rates.requests == (1520, 1520)
    assert sum(rates.failed) == pytest.approx(30, abs=6)
    text = explain(comparison, "api", "p99")
    assert "single runs are too short for p99: it is that of all runs of a side together" in text
    assert "the p99.01 of both sides together" in text
    assert not any("p99 " in warning for warning in comparison.warnings)
    assert Metric.P999 not in {f.metric for f in comparison.findings}
    assert Metric.P99 not in {f.metric for f in compare(before[:1], after).findings}  # 190 requests are not enough
    (named,) = (
        f for f in compare(before, after, policy=Policy(gating=("p99_latency_ms",))).findings if f.metric == Metric.P99
    )
    assert (named.verdict, named.gating, named.warnings) == ("regression", True, ())


def test_the_longest_request_of_a_short_run_is_not_lost():
    start, times = np.linspace(0.0, LENGTH_S, 190), np.append(np.linspace(10.0, 20.0, 188), (500.0, 600.0))
    kept = [summarise(arrays(start, times), 0.0, LENGTH_S).tail] * 8
    assert quantiles_of(kept, 0.99) > 200.0  # 1.05 % take 500 ms and more; p99 of each run is 73 ms


@pytest.mark.parametrize(("requests", "quantile"), [(736, 0.985), (3000, 0.99), (7376, 0.995), (10**9, 0.995)])
def test_about_thirty_requests_are_counted_as_slow(requests, quantile):
    assert counted_beyond(requests) == pytest.approx(quantile)


def test_a_row_of_all_runs_says_what_it_could_have_shown_and_what_would_settle_it(rng, comparison):
    """How often that comes true: `python benchmarks/tails.py --foretold`."""
    (finding,) = (f for f in comparison.findings if f.is_of_tails)
    assert 30 < finding.min_detectable < 70
    assert finding_row(finding).cells["mde"] == f"{finding.min_detectable:.1f} %"
    shape = pooled(tails(rng, 8))
    design = TailDesign(0.999, 0.0003, np.log(1.25), 1.2, 22.0)
    sizes = [design.min_detectable(shape, (n, n)) for n in (6400, 25600, 10**6)]
    assert sizes == sorted(sizes, reverse=True)
    assert 25 < sizes[2] < 27 < sizes[0] < 80
    assert sizes[0] < design.min_detectable(shape, (6400, 6400), 0.95)
    assert np.isnan(design.min_detectable(shape, (300, 300)))  # of so few slow ones no share is beyond chance
    needed = design.requests_needed((shape, shape), (6400, 6400), 0.95)
    assert 6400 < needed < 60_000
    slower = replace(shape, latencies_ms=tuple(1.3 * latency for latency in shape.latencies_ms))
    assert design.requests_needed((shape, slower), (6400, 6400), 0.95) > needed  # nearer to the tolerance
    open_row = compare(
        [run(rng, n, requests=190) for n in range(8)], [run(rng, 50 + n, requests=190) for n in range(8)]
    )
    (finding,) = (f for f in open_row.findings if f.is_of_tails and f.verdict == "inconclusive")
    assert finding.runs_needed == np.ceil((finding.requests_needed - 1520) / 190)
    assert finding_row(finding).cells["settle"] == f"+{finding.runs_needed} runs"


def test_a_plan_has_a_row_for_a_percentile_that_only_all_runs_tell(comparison):
    runs = comparison.baseline.runs
    profile = with_tails(profile_of("shop", runs), runs)
    assert decode(json.loads(json.dumps(profile.to_dict())), NoiseProfile, "here", schema=SCHEMA) == profile
    (tail,) = profile.tails
    assert (tail.metric, tail.runs, tail.tail.requests) == (Metric.P999, 8, 6400)
    rows = {percent: runs_needed(profile, Policy(), percent, 0.8, {})[-1] for percent in (20.0, 50.0, 300.0)}
    assert [row[:4] for row in rows.values()] == [("api", "p999_latency_ms", None, 8)] * 3
    assert rows[20.0][4] is None  # within the tolerance
    assert 5 <= rows[300.0][4] <= rows[50.0][4] <= 20
    plan = Plan(
        "shop",
        50.0,
        0.8,
        pd.DataFrame([rows[50.0]], columns=PLANNED).astype({"variation_pct": float}).assign(hours=1.0),
    )
    assert "of all runs" in plan_html(plan)


def test_a_plan_gives_such_a_tail_the_weight_that_the_comparison_gives_it(comparison):
    runs = comparison.baseline.runs
    least = runs_for_tail([run.services["api"] for run in runs])
    assert profile_of("shop", runs).runs_of_tail == {"api": least}
    assert 1 < least < len(runs)
    policy = Policy()
    levels = levels_of_tests(["api"], policy, None, {"api": least}, len(runs))
    shares = {f.metric: f.arithmetic.share for f in comparison.findings}
    assert shares[Metric.P999] == pytest.approx(0.10 / 0.60 * shares[Metric.AVG])
    assert {metric: level / policy.alpha for (_, metric), level in levels[-1].items()} == pytest.approx(shares)
    assert levels[least - 1] is levels[-1]
    assert levels[least - 2]["api", Metric.P999] == pytest.approx(0.03 * policy.alpha)
    lone = [replace(run, services={"api": replace(run.services["api"], tail=None)}) for run in runs]
    shown, without = (
        detectable(some, most=len(runs)).query("metric == 'avg_latency_ms'")["min_detectable"].to_list()
        for some in (runs, lone)
    )
    assert shown[: least - 1] == without[: least - 1]
    assert all(now > then for now, then in zip(shown[least - 1 :], without[least - 1 :], strict=True))


def test_the_tails_of_a_service_are_looked_at_once(comparison):
    (hypothesis,) = (
        h
        for h in hypotheses_of(comparison.baseline.runs, comparison.candidate.runs, ["api"], Policy(), {})
        if h.metric == Metric.P999
    )
    assert hypothesis.tails is hypothesis.tails is not None


def test_without_tails_p999_is_said_not_to_be_known(comparison):
    def without(runs):
        return [replace(r, services={"api": replace(r.services["api"], tail=None)}) for r in runs]

    old = compare(without(comparison.baseline.runs), comparison.candidate.runs)
    assert Metric.P999 not in {f.metric for f in old.findings}
    assert any(text.startswith("P99.9 latency is not known in the baseline") for text in old.warnings)
    named = Policy(gating=("p999_latency_ms",))
    (missing,) = (
        f
        for f in compare(without(comparison.baseline.runs), comparison.candidate.runs, policy=named).findings
        if f.metric == Metric.P999
    )
    assert "not known for every run" in missing.warnings[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"requests": 10**6}, "tail: 1000000 of 800 requests"),
        ({"latencies_ms": tuple(np.arange(13) + 1e4)}, "tail begins at 10000 ms, and p95_latency_ms is"),
    ],
)
def test_a_tail_that_contradicts_its_run_is_refused(rng, change, text):
    stats = summarise(requests_of(rng), 0.0, LENGTH_S)
    assert stats_contradiction(stats) is None
    assert stats_contradiction(replace(stats, tail=replace(stats.tail, **change))).startswith(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latencies_ms": (1.0,)},
        {"latencies_ms": tuple(range(13, 0, -1))},
        {"latencies_ms": (1.0,) * 12 + (np.inf,)},
        {"dispersion": 0.5},
    ],
)
def test_a_tail_makes_sense(wrong):
    with pytest.raises(ValueError, match="latencies_ms"):
        Tail(**{"requests": 100, "latencies_ms": (1.0,) * 13, **wrong})


@pytest.mark.slow
@pytest.mark.parametrize("bursts", [0, 1])
@pytest.mark.parametrize(("quantile", "requests", "runs"), [(0.999, REQUESTS, 5), (0.99, 190, 8)])
def test_identical_tails_are_called_no_more_often_than_they_say(rng, bursts, quantile, requests, runs):
    drawn = [
        compare_tails(quantile, *(tails(rng, runs, bursts=bursts, requests=requests) for _ in range(2)), 0.95)
        for _ in range(1000)
    ]
    p = np.array([effect.p_rise for effect in drawn])
    assert (p <= 0.05).mean() <= 0.07
    assert (p <= 0.01).mean() <= 0.02
    assert (p <= 0.001).mean() <= 0.004
    assert np.mean([effect.ci_low <= 0.0 <= effect.ci_high for effect in drawn]) >= 0.94
