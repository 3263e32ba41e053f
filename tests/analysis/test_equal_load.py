"""Runs in stages are compared stage by stage, never by an average over different loads."""

from dataclasses import replace

import numpy as np
import pytest
from samples import load_profile, plain_stats, run

from perfkit import Policy, Verdict, compare
from perfkit.model.records import ALL_SERVICES, Scope, Stage, StageStats
from perfkit.model.serialization import comparison_from_document

STAGED = load_profile(None, stages=(Stage(60, 10, 10), Stage(60, 50, 50)))


def staged(rng, number, factors=(1.0, 1.0), profile=STAGED):
    def stats(level):
        value = level * np.exp(rng.normal(0, 0.01))
        return replace(plain_stats(value), standard_errors={"avg_latency_ms": 0.009 * value})

    parts = tuple(
        StageStats(profile.stage_name(i), stage, 60.0 * i, 60.0 * i + 60, {"a": stats(100 * (i + 1) * factor)})
        for i, (stage, factor) in enumerate(zip(profile.stages, factors, strict=True))
    )
    return run({"a": stats(150)}, number=number, profile=profile, stages=parts)


def test_a_stage_is_a_field_of_a_finding_and_stands_in_the_service_of_its_document(rng):
    comparison = compare([staged(rng, i) for i in range(3)], [staged(rng, 10 + i) for i in range(3)])
    document = comparison.to_dict()
    first = document["findings"][0]
    assert (first["service"], first["stage"], first["scope"]) == (
        "a, stage 1: 10 users",
        "stage 1: 10 users",
        "service",
    )
    again = comparison_from_document(document, "here")
    assert [(f.service, f.stage, f.label) for f in again.findings] == [
        (f.service, f.stage, f.label) for f in comparison.findings
    ]
    assert set(comparison.to_frame()["service"]) == {"a"}


def test_a_result_of_a_version_without_stages_and_scopes_is_read(rng):
    names = [f"s{k}" for k in range(9)]
    runs = [run({name: plain_stats() for name in names}, number=number) for number in range(4)]
    document = compare(runs[:2], runs[2:]).to_dict()
    for finding in document["findings"]:
        del finding["stage"], finding["scope"]
    again = comparison_from_document(document, "here")
    assert {f.service for f in again.findings if f.scope is Scope.RUN} == {ALL_SERVICES}
    assert {f.label for f in again.findings if f.scope is Scope.SERVICE} == set(names)


def test_a_change_at_high_load_alone_is_found_there(rng):
    before = [staged(rng, i) for i in range(5)]
    after = [staged(rng, 10 + i, (1.0, 1.2)) for i in range(5)]
    comparison = compare(before, after)
    assert {f.label for f in comparison.by_verdict(Verdict.REGRESSION)} == {"a, stage 2: 50 users"}
    assert {(f.service, f.stage, f.scope) for f in comparison.findings} == {
        ("a", "stage 1: 10 users", Scope.SERVICE),
        ("a", "stage 2: 50 users", Scope.SERVICE),
    }
    assert comparison.baseline.runs[0].services.keys() == {"a"}


def test_what_a_policy_says_of_a_service_holds_in_every_stage(rng):
    before = [staged(rng, i) for i in range(5)]
    after = [staged(rng, 10 + i, (1.0, 1.2)) for i in range(5)]
    lenient = Policy(tolerance={"a": {"avg_latency_ms": 50.0}})
    found = [f for f in compare(before, after, policy=lenient).findings if f.metric == "avg_latency_ms"]
    assert [f.tolerance for f in found] == [50.0, 50.0]
    assert not any(f.verdict is Verdict.REGRESSION for f in found)


@pytest.mark.parametrize(
    "other",
    [
        load_profile(None, stages=(Stage(60, 10, 10), Stage(60, 80, 80))),
        load_profile(None, users=50, spawn_rate=50.0, duration_s=120),
        load_profile(None, rate=50.0, duration_s=120),
    ],
)
def test_another_course_of_load_cannot_be_compared(rng, other):
    before = [staged(rng, i) for i in range(3)]
    after = [replace(staged(rng, 10 + i), profile=other, stages=()) for i in range(3)]
    comparison = compare(before, after)
    assert comparison.verdict == "invalid"
    assert any("load differs" in text for text in comparison.warnings)


def test_a_soak_is_one_load(rng):
    soak = load_profile("soak", users=10, duration_s=300)
    runs = [run({"a": plain_stats(100 + i / 10)}, number=i, profile=soak) for i in range(6)]
    assert {f.service for f in compare(runs[:3], runs[3:]).findings} == {"a"}
