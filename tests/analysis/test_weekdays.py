"""The weekday is taken out of a comparison with a history; benchmarks/weekdays.py has what is then found."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from histories import against_history
from samples import plain_stats, run

from perfkit import Metric, Policy, RunStore, compare
from perfkit.analysis.compare import judge
from perfkit.analysis.explain import explain
from perfkit.analysis.noise_profile import SCHEMA, NoiseProfile, days_of, profile_of, weekdays_of
from perfkit.history.planning import stored_profile
from perfkit.model.codec import decode
from perfkit.model.serialization import comparison_from_document
from perfkit.report.findings import footnotes
from perfkit.stats.season import weekday_pattern

MONDAY = datetime(2026, 1, 5, 2, tzinfo=UTC)
PATTERN = np.log([1.06, 1.01, 1.0, 1.0, 1.01, 0.90, 0.97])
PATTERN -= PATTERN.mean()


def nights(rng, count, *, first=0, pattern=PATTERN, days=range(7), slower=1.0, names=("api",), sd=0.02):
    """Runs of so many nights of these weekdays, whose average depends on the weekday and whose throughput does not."""
    dates = [day for day in range(first, first + 3 * count + 7) if day % 7 in days][:count]
    return [
        run(
            {
                name: plain_stats(
                    20.0 * slower * np.exp(pattern[day % 7] + rng.normal(0, sd)),
                    rps=50.0 * np.exp(rng.normal(0, sd)),
                    error=0.004,
                )
                for name in names
            },
            number=day,
            started_at=MONDAY + timedelta(days=day),
        )
        for day in dates
    ]


def finding(comparison, service="api"):
    return next(f for f in comparison.findings if (f.service, f.metric) == (service, Metric.AVG))


@pytest.fixture(scope="module")
def history():
    return nights(np.random.default_rng(4), 40)


@pytest.fixture(scope="module")
def saturday():
    (one,) = nights(np.random.default_rng(5), 1, first=40, days=(5,))
    return one


def test_a_saturday_is_compared_with_what_the_history_would_be_on_saturdays(history, saturday):
    plain = judge(history, [saturday], Policy(), NoiseProfile("api", (), ()))
    without = judge(history, [saturday], Policy())
    assert finding(plain).change_pct < -7
    found = finding(without)
    assert abs(found.change_pct) < 5
    assert found.candidate == pytest.approx(saturday.services["api"].avg_latency_ms)  # as it was measured
    numbers = found.arithmetic.levels
    assert numbers.sd < 0.6 * finding(plain).arithmetic.levels.sd
    assert np.log(numbers.weekday_factors) == pytest.approx(PATTERN, abs=0.03)
    assert numbers.error == pytest.approx(numbers.sd * np.sqrt(1 / 40 + 1 + numbers.weekday_error))
    assert 0.10 < numbers.weekday_error < 0.25
    assert numbers.squares_df == 39 - 6
    rps = [next(f for f in of.findings if f.metric == Metric.RPS) for of in (plain, without)]
    assert rps[0] == rps[1]  # which has no pattern
    assert (
        judge(
            history,
            nights(np.random.default_rng(5), 1, first=40, days=(5,), slower=1.2),
            Policy(),
            weekdays_of(history),
        ).verdict
        == "regression"
    )


def test_what_was_taken_out_is_told_and_kept(history, saturday):
    comparison = judge(history, [saturday], Policy(), weekdays_of(history))
    text = explain(comparison, "api", "avg")
    assert "weekdays taken out          Mon +" in text
    assert "Sat -" in text
    error = finding(comparison).arithmetic.levels.weekday_error
    assert f"s sqrt(1/40 + 1/1 + {error:.4f})" in text
    (note,) = (note for note in footnotes(comparison) if "weekday" in note)
    assert note.startswith("The weekday is taken out of 5 of 7 findings, as 40 runs show it")
    again = comparison_from_document(json.loads(json.dumps(comparison.to_dict())), "here")
    assert again.findings == comparison.findings


def test_without_pattern_dates_or_weeks_nothing_changes(history, saturday, rng):
    flat = nights(rng, 40, pattern=np.zeros(7))
    undated = [run(one.services, number=n, started_at=None) for n, one in enumerate(history)]
    weekdays = nights(rng, 40, days=range(5))  # that know no Saturday
    for earlier in (flat, undated, weekdays, history[-27:]):
        assert judge(earlier, [saturday], Policy(), weekdays_of(earlier)) == judge(
            earlier, [saturday], Policy(), NoiseProfile("api", (), ())
        )
    assert weekdays_of(weekdays).weekdays["api"].keys() == weekdays_of(history).weekdays["api"].keys()


def test_runs_of_several_weekdays_are_compared_as_on_those_of_the_candidate(history, rng):
    before, after = nights(rng, 5, first=42), nights(rng, 1, first=47)  # Monday to Friday, Saturday
    plain, known = compare(before, after), compare(before, after, history=history)
    assert finding(plain).change_pct < -7
    assert abs(finding(known).change_pct) < 5
    assert (
        finding(known).arithmetic.levels.history_squares
        < finding(
            compare(
                before, after, history=[run(one.services, number=n, started_at=None) for n, one in enumerate(history)]
            )
        ).arithmetic.levels.history_squares
    )
    limit = Policy(objectives={"avg_latency_ms": {"max": 25}})
    kept = compare(before, after, history=history, policy=limit).findings[-1].arithmetic.levels
    assert (kept.weekday_factors, kept.weekday_error) == ((), 0.0)  # a limit holds on every weekday


def test_many_services_together_are_compared_without_their_weekdays(rng):
    names = tuple(f"s{n}" for n in range(8))
    earlier, after = nights(rng, 36, names=names), nights(rng, 1, first=36, names=names, days=(5,))
    comparison = judge(earlier, after, Policy(), weekdays_of(earlier))
    whole = finding(comparison, "(all services)")
    assert abs(whole.change_pct) < 3
    assert whole.arithmetic.levels.weekday_error > 0.1
    assert "weekdays taken out          of each service" in explain(comparison, "(all services)", "avg")


def test_the_error_of_a_pattern_is_what_it_is_said_to_be(rng):
    days = days_of(nights(rng, 42))
    off, expected = [], []
    for _ in range(150):
        pattern = weekday_pattern(np.exp(PATTERN[np.arange(42) % 7] + rng.normal(0, 0.02, 42)), days)
        off.append((np.log(pattern.factors) - PATTERN)[5] / 0.02)
        expected.append(pattern.error(days, days[5:6]))
    assert np.mean(expected) == pytest.approx(6 / 42)
    assert np.var(off) == pytest.approx(np.mean(expected), rel=0.35)


def test_the_gate_takes_the_weekday_out_and_a_profile_that_never_looked_is_learned_anew(history, saturday, tmp_path):
    comparison = against_history([*history[-30:], saturday], tmp_path)
    assert abs(finding(comparison).change_pct) < 5
    assert any(text.startswith("The weekday is taken out of") for text in comparison.warnings)
    store = RunStore(tmp_path)
    profile = stored_profile(store, "api")
    assert profile.weekdays == profile_of("api", [*history[-30:]]).weekdays
    kept = tmp_path / ".noise" / "api.json"
    document = json.loads(kept.read_text())
    assert decode(document, NoiseProfile, "here", schema=SCHEMA, title="noise profile") == profile
    broken = json.loads(json.dumps(document))
    broken["weekdays"]["api"]["avg_latency_ms"]["factors"] = [1.0, 0.0]
    del document["weekdays"]
    for other in (document, broken):
        kept.write_text(json.dumps(other))
        assert stored_profile(store, "api") == profile
