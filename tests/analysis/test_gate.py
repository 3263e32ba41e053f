"""Many services: the run as a whole and those that carry the load gate, the others are watched."""

from dataclasses import replace

import numpy as np
import pytest
from samples import plain_stats, run

from perfkit import Metric, Policy, compare
from perfkit.analysis.baseline import summarize_baseline
from perfkit.analysis.explain import explain
from perfkit.analysis.noise_profile import profile_of
from perfkit.analysis.power import GATING_COUNTS, RUN_SHARE_OF_MANY, alpha_shares, detectable, runs_needed
from perfkit.model.records import ALL_SERVICES, Gate, LoadProfile, Scope, ServiceShare, Stage, StageStats
from perfkit.model.serialization import comparison_from_document
from perfkit.report.findings import gate_text, headlines
from perfkit.stats import effect

BIG = tuple(f"GET /big/{i}" for i in range(4))  # 10 to 15 % of the requests each
SMALL = tuple(f"GET /small/{i:02d}" for i in range(50))  # 1 % each
OLD = Policy(gate_share=0.0)


def runs(rng, n, *, first=0, slower=None, names=(*BIG, *SMALL), **changed):
    """Runs whose averages scatter by 1 %, those of the small services by 8 % of their own; ``changed``: their stats."""
    made = []
    for number in range(first, first + n):
        services = {}
        for name in names:
            error, count = (0.008, 5000) if name in BIG else (0.08, 400)
            level = 20.0 * (slower or {}).get(name, 1.0) * np.exp(rng.normal(0, 0.006) + rng.normal(0, error))
            services[name] = replace(plain_stats(level, error=error, count=count), **changed.get(name, {}))
        made.append(run(services, number=number, salt=str(rng.random())))
    return made


def test_identical_runs_of_many_services_are_shown_unharmed_and_what_was_not_seen_is_said(rng):
    comparison = compare(runs(rng, 5), runs(rng, 3, first=50))
    assert comparison.verdict == "no_change"
    assert compare(comparison.baseline.runs, comparison.candidate.runs, policy=OLD).verdict == "inconclusive"
    assert [item.service for item in comparison.gate.services] == list(BIG)
    assert [item.service for item in comparison.gate.watched] == list(SMALL)
    assert all(item.share == pytest.approx(0.01) for item in comparison.gate.watched)
    averages = {f.service: f.min_detectable for f in comparison.findings if f.metric == Metric.AVG}
    assert {item.service: item.min_detectable for item in comparison.gate.watched}.items() <= averages.items()
    text = headlines(comparison)[-1]
    assert text == gate_text(comparison)
    assert text.startswith(
        "The verdict gates on the run as a whole and 4 services that carry at least 5 % of the requests; the other 50 "
        "are watched: changes of average latency below "
    )
    assert {f.service for f in comparison.findings if f.gating} == {ALL_SERVICES, *BIG}
    assert {f.metric for f in comparison.findings if f.gating and f.scope is Scope.SERVICE} == {
        Metric.AVG,
        Metric.ERROR_RATE,
    }
    assert comparison_from_document(comparison.to_dict(), "test") == comparison_from_document(
        comparison_from_document(comparison.to_dict(), "test").to_dict(), "test"
    )
    assert comparison_from_document(comparison.to_dict(), "test").gate == comparison.gate
    assert "! watched, does not gate: 1 % of the requests, below 5 %" in explain(comparison, SMALL[0], "avg")
    assert "watched" not in explain(comparison, BIG[0], "avg")


def test_a_regression_of_a_watched_service_is_one(rng):
    found = compare(runs(rng, 5), runs(rng, 3, first=50, slower={SMALL[7]: 2.0}))
    assert found.verdict == "regression"
    assert {f.service for f in found.by_verdict(found.verdict)} == {SMALL[7]}
    alone = found.for_service(SMALL[8])
    assert alone.verdict in ("inconclusive", "no_change")


def test_what_is_gone_fails_or_answers_otherwise_matters_watched_or_not(rng):
    before = runs(rng, 5)
    gone = compare(before, runs(rng, 3, first=50, names=(*BIG, *SMALL[1:])))
    assert gone.verdict == "inconclusive"
    assert any(SMALL[0] in gap.text for gap in gone.gaps)
    failing = compare(before, runs(rng, 3, first=50, **{SMALL[0]: {"failures": 80, "error_rate_pct": 20.0}}))
    assert failing.verdict == "regression"
    sized = [
        replace(one, services={n: replace(s, response_bytes=900.0) for n, s in one.services.items()}) for one in before
    ]
    bytes_of = {name: {"response_bytes": 900.0} for name in (*BIG, *SMALL)} | {SMALL[0]: {"response_bytes": 90.0}}
    other = compare(sized, runs(rng, 3, first=50, **bytes_of))
    assert other.verdict == "inconclusive"
    assert [item.service for item in other.gate.also] == [SMALL[0]]
    assert f"{SMALL[0]} (with limits of their own, or answers that cannot be compared)" in gate_text(other)


def test_what_the_policy_names_gates_and_the_larger_share_counts(rng):
    before, after = runs(rng, 5), runs(rng, 3, first=50)
    named = compare(before, after, policy=Policy(tolerance={SMALL[3]: {"avg_latency_ms": 4.0}}))
    assert [item.service for item in named.gate.also] == [SMALL[3]]
    assert {f.metric for f in named.findings if f.gating and f.service == SMALL[3]} == set(Policy().gating)
    assert compare(before, after, policy=Policy(gate_share=0.2)).gate.services == ()
    grown = compare(before, runs(rng, 3, first=50, **{SMALL[0]: {"count": 4000}})).gate
    shrunk = compare(runs(rng, 5, **{SMALL[0]: {"count": 4000}}), after).gate
    assert SMALL[0] in {item.service for item in grown.services}
    assert SMALL[0] in {item.service for item in shrunk.services}
    assert compare(before, after, policy=Policy(rule="threshold")).gate is None
    for share in (-0.1, 1.1, True, "5 %"):
        with pytest.raises(ValueError, match="gate_share: a share of the requests from 0"):
            Policy(gate_share=share)


def test_few_services_and_services_that_all_carry_enough_gate_as_ever(rng):
    few = (*BIG, *SMALL[:3])  # seven, three of them small
    even = SMALL[:18]
    for names in (few, even):
        before, after = runs(rng, 3, names=names), runs(rng, 3, first=50, names=names)
        comparison = compare(before, after)
        assert comparison.gate is None
        assert gate_text(comparison) == ""
        assert comparison.findings == compare(before, after, policy=OLD).findings


def test_alpha_goes_by_requests_and_those_of_what_gates_count_more():
    shares = [ServiceShare(name, share) for name, share in (("a", 0.6), ("b", None), ("c", 0.05), ("d", 0.1))]
    gate = Gate(0.05, tuple(shares[:1]), tuple(shares[1:2]), tuple(shares[2:]))
    entries = [(ALL_SERVICES, Scope.RUN), *((name, Scope.SERVICE) for name in "abcd")]
    tests = [(name, metric, scope) for name, scope in entries for metric in Metric]
    found = dict(zip(tests, alpha_shares(tests, gate), strict=True))
    of = {name: sum(share for test, share in found.items() if test[0] == name) for name, _ in entries}
    parts = {"a": GATING_COUNTS * 0.6, "b": GATING_COUNTS * 0.25, "c": 0.05, "d": 0.1}
    rest = (1 - RUN_SHARE_OF_MANY) / sum(parts.values())
    assert of == pytest.approx({ALL_SERVICES: RUN_SHARE_OF_MANY, **{n: rest * part for n, part in parts.items()}})


def test_of_what_no_run_can_tell_nothing_could_have_been_seen(rng):
    few = {name: {"count": 4} for name in SMALL[:2]}
    comparison = compare(runs(rng, 3, **few), runs(rng, 3, first=50, **few))
    assert comparison.gate.watched[0].min_detectable is None
    assert gate_text(comparison).endswith(f"of {SMALL[0]}, {SMALL[1]} none could have been.")
    unknown = [f for f in comparison.findings if f.service == SMALL[0] and f.metric == Metric.AVG]
    assert [(f.verdict.value, f.gating) for f in unknown] == [("inconclusive", False)]


def test_a_plan_knows_which_services_carry_the_load(rng):
    """By the rates of the history, as a comparison will by its requests."""
    profile = profile_of("shop", runs(rng, 12))
    usual = {(name, Metric.RPS): 50.0 if name in BIG else 4.0 for name in (*BIG, *SMALL)}

    def needed(usual):
        rows = runs_needed(profile, Policy(), 10.0, 0.8, usual)
        return {service: runs for service, metric, _, _, runs, _ in rows if metric == Metric.AVG}

    known, unknown = needed(usual), needed({})
    assert sum(known[name] for name in BIG) < sum(unknown[name] for name in BIG)
    assert sum(known[name] or 99 for name in SMALL) >= sum(unknown[name] or 99 for name in SMALL)


def test_a_plan_and_a_curve_know_the_noise_of_all_services_as_a_comparison_does(rng, monkeypatch):
    alike = runs(rng, 10, names=SMALL[:24])

    def spread():
        shown = detectable(alike, policy=OLD).query("metric == 'avg_latency_ms' and runs_per_side == 10")
        profile = [v for v in profile_of("shop", alike).variations if v.metric == Metric.AVG]
        return [np.log(sizes).std() for sizes in (shown["min_detectable"], [v.variation_pct for v in profile])], profile

    (curve, plan), known = spread()
    own = summarize_baseline(alike).levels[0].variation_pct
    monkeypatch.setattr(effect, "POOLED_FROM", 99)
    (curve_alone, plan_alone), alone = spread()
    assert own != summarize_baseline(alike).levels[0].variation_pct
    assert curve < 0.9 * curve_alone  # alike services are known to be alike
    assert plan < 0.9 * plan_alone
    assert np.median([v.prior_df for v in known]) > 3.5 >= max(v.prior_df for v in alone)
    assert [(v.service, v.metric) for v in known] == [(v.service, v.metric) for v in alone]


def test_a_service_in_stages_carries_what_it_has_in_all_of_them_and_counts_once(rng):
    steps = LoadProfile(kind="stages", users=20, stages=(Stage(60.0, 10, 10), Stage(60.0, 20, 20)))

    def staged(number):
        (one,) = runs(rng, 1, first=number, names=(*BIG[:1], *SMALL[:9]))
        parts = tuple(
            StageStats(steps.stage_name(i), stage, 60.0 * i, 60.0 * i + 60, one.services)
            for i, stage in enumerate(steps.stages)
        )
        return replace(one, profile=steps, stages=parts)

    comparison = compare([staged(i) for i in range(3)], [staged(10 + i) for i in range(3)])
    assert len(comparison.gate.watched) == 18
    assert [item.share for item in comparison.gate.watched] == pytest.approx([400 / 8600] * 18)
    assert "1 service that carries at least 5 % of the requests; the other 9 are watched" in gate_text(comparison)
