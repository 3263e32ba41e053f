"""A verdict is explained from the arithmetic that its finding carries; nothing is computed again."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from command_line import invoke
from histories import nights
from samples import plain_stats, run, side
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import confint_proportions_2indep

from perfkit import Policy, RunStore, SettingsError, compare
from perfkit.analysis.explain import explain
from perfkit.model.records import LoadProfile, Stage, StageStats
from perfkit.model.serialization import comparison_from_document
from perfkit.stats import effect

POLICY = Policy(objectives={"avg_latency_ms": {"max": 25}, "error_rate_pct": {"max": 1}})


def staged(rng, number, level):
    """A run of two stages of load."""
    stages = tuple(
        StageStats(name, Stage(30.0, users, users), 30.0 * k, 30.0 * (k + 1), one.services)
        for k, (name, users) in enumerate((("10 users", 10), ("40 users", 40)))
        for one in side(rng, 1, first=number, names=("api_gateway",), slower=level)
    )
    profile = LoadProfile("stages", 40, None, 60.0, stages=tuple(of.stage for of in stages))
    return run(stages[0].services, number=number, stages=stages, profile=profile)


def pairs(rng, n, change=0.0):
    both = ([], [])
    for k in range(n):
        shared = np.exp(rng.normal(0, 0.1))
        for number, factor in enumerate((1.0, 1.0 + change)):
            avg = 20 * shared * factor * np.exp(rng.normal(0, 0.01))
            both[number].append(
                run(
                    {"a": plain_stats(avg, error=0.009)},
                    number=2 * k + number,
                    labels={"pair": f"{k}", "side": f"{number}"},
                )
            )
    return both


def designs(rng):
    """Every way in which two sides come to be compared, by name."""
    apart = side(rng, 5), side(rng, 3, first=50, slower=1.2)
    many = tuple(f"s{k}" for k in range(9))
    one = side(rng, 1, names=("a",))
    return {
        "apart": compare(*apart, policy=POLICY),
        "one run against one": compare(one, side(rng, 1, first=9, names=("a",)), policy=POLICY),
        "pairs": compare(*pairs(rng, 6, 0.1), policy=POLICY),
        "stages": compare([staged(rng, k, 1.0) for k in range(3)], [staged(rng, 9 + k, 1.1) for k in range(3)]),
        "many services": compare(side(rng, 3, names=many), side(rng, 3, first=50, names=many)),
        "history": compare(one, side(rng, 1, first=9, names=("a",)), history=side(rng, 12, first=20, names=("a",))),
        "threshold": compare(*apart, policy=replace(POLICY, rule="threshold")),
        "too few runs": compare(*apart, policy=Policy(required_runs=9)),
    }


@pytest.fixture
def compared(rng):
    return designs(rng)


def test_every_finding_of_every_design_is_explained_and_its_arithmetic_adds_up(compared):
    for name, comparison in compared.items():
        assert comparison.findings, name
        for finding in comparison.findings:
            text = explain(comparison, finding.service, finding.metric)
            assert f"{finding.service}, " in text
            numbers = finding.arithmetic
            if numbers.levels is not None:
                of = numbers.levels
                assert 0 <= of.weight <= of.prior_df, (name, finding.metric)  # on pairs it was -3.5
                variance = (of.weight * of.prior_sd**2 + sum(of.squares) + of.history_squares) / of.df
                assert of.sd == pytest.approx(max(math.sqrt(variance), of.floor_sd)), (name, finding.metric)
                assert of.df == pytest.approx(of.weight + of.squares_df + of.history_df)
                assert of.error == pytest.approx(of.sd * math.sqrt(sum(1 / n for n in of.runs)))
                assert 100 * math.expm1(of.shift + of.quantile * of.error) == pytest.approx(finding.ci_high)
                assert 100 * math.expm1(of.shift - of.quantile * of.error) == pytest.approx(finding.ci_low)
            elif numbers.rates is not None:
                assert f"{numbers.rates.failed[-1]} of {numbers.rates.requests[-1]} requests failed" in text


NUMBER = r"([-+]?\d[\d.]*(?:e[-+]\d+)?)"


def printed(text, pattern):
    """The numbers of the one line of an explanation that matches."""
    (groups,) = re.findall(pattern.replace("#", NUMBER), text)
    return [float(number) for number in ([groups] if isinstance(groups, str) else groups)]


def test_every_number_that_is_printed_is_that_of_the_judgement(rng):
    """Redone by hand from the values of the runs, whatever the finding carries."""
    sides = side(rng, 5, names=("a",)), side(rng, 3, first=50, names=("a",), slower=1.2)
    comparison = compare(*sides)
    text = explain(comparison, "a", "p95")
    logs = [np.log([run.services["a"].p95_latency_ms for run in runs]) for runs in sides]
    shift = logs[1].mean() - logs[0].mean()
    mean_squares = [
        np.mean([s.standard_error("p95_latency_ms") ** 2 / s.p95_latency_ms**2 for s in of])
        for of in ([run.services["a"] for run in runs] for runs in sides)
    ]
    within = math.sqrt(np.average(mean_squares, weights=[1 / 5, 1 / 3]))
    prior = math.hypot(within, effect.EXTRA_SD)
    squares = [((side - side.mean()) ** 2).sum() for side in logs]
    assert printed(text, r"means +# and #, difference d = #") == pytest.approx(
        [logs[0].mean(), logs[1].mean(), shift], abs=1e-6
    )
    assert printed(text, r"error within a run +# \(measured") == pytest.approx([within], abs=1e-6)
    assert printed(text, r"prior s0 +#, # df") == pytest.approx([prior, effect.PRIOR_DF], abs=1e-6)
    assert printed(text, r"SS = # \+ #, # df") == pytest.approx([*squares, 6], rel=1e-6)
    (weight, _) = printed(text, r"d0 = # \(less than #")
    sd = math.sqrt((weight * prior**2 + sum(squares)) / (weight + 6))
    error = sd * math.sqrt(1 / 5 + 1 / 3)
    quantile = scipy_stats.t.ppf(0.975, weight + 6)
    assert printed(text, r"= #, # df\n  error of") == pytest.approx([sd, weight + 6], abs=2e-3)
    assert printed(text, r"1/5 \+ 1/3\) = #") == pytest.approx([error], abs=1e-4)
    ends = [shift - quantile * error, shift + quantile * error]
    assert printed(text, r"d -\+ # e = # to #") == pytest.approx([quantile, *ends], abs=1e-3)
    percents = [100 * math.expm1(value) for value in (shift, *ends)]
    assert printed(text, r"in percent +# % \[#, #\]") == pytest.approx(percents, abs=0.1)
    t = shift / error
    p = scipy_stats.t.sf(t, weight + 6)
    assert printed(text, r"t = d / e = #, one-sided p = #") == pytest.approx([t, p], rel=0.01)
    (alpha, tests, share) = printed(text, r"alpha +# over # judgements; # % of it")
    assert (alpha, tests, share) == (0.01, 7, 10)
    assert printed(text, r"worsening # > #\n") == pytest.approx([percents[0], 10], abs=0.1)
    assert printed(text, r"bad side of the interval # <= #\n") == pytest.approx([percents[2], 10], abs=0.1)


def test_every_number_of_an_error_rate_is_that_of_the_judgement(rng):
    sides = side(rng, 3, names=("a",)), side(rng, 2, first=50, names=("a",), rate_of_errors=0.02)
    text = explain(compare(*sides), "a", "errors")
    failed = [sum(run.services["a"].failures for run in runs) for runs in sides]
    counts = [sum(run.services["a"].count for run in runs) for runs in sides]
    rates = [100 * f / n for f, n in zip(failed, counts, strict=True)]
    for title, *numbers in zip(("baseline", "candidate"), failed, counts, rates, strict=True):
        assert printed(text, rf"{title}: +# of # requests failed = #") == pytest.approx(numbers, abs=1e-4)
    (factor, df) = printed(text, "overdispersion  +# with # df")
    quantile = scipy_stats.t.ppf(0.975, df)
    (low, high) = confint_proportions_2indep(
        failed[1] / factor,
        counts[1] / factor,
        failed[0] / factor,
        counts[0] / factor,
        method="newcomb",
        alpha=2 * scipy_stats.norm.sf(quantile),
    )
    assert printed(text, r"difference +# pp \[#, #\], # %, t = #") == pytest.approx(
        [rates[1] - rates[0], 100 * low, 100 * high, 95, quantile], abs=1e-3
    )
    assert printed(text, r"worsening # > #\n") == pytest.approx([rates[1] - rates[0], 0.5], abs=1e-3)


def test_what_a_result_file_explains_is_what_was_explained_when_it_was_made(compared):
    for comparison in compared.values():
        again = comparison_from_document(json.loads(json.dumps(comparison.to_dict())), "here")
        for finding in comparison.findings:
            words = finding.service, finding.metric
            assert explain(again, *words) == explain(comparison, *words)


def test_pairs_are_explained_by_their_differences(compared):
    text = explain(compared["pairs"], "a", "avg_latency_ms").split("absolute limit")[0]
    finding = compared["pairs"].findings[0]
    logs = [np.log(values) for values in (finding.arithmetic.baseline, finding.arithmetic.candidate)]
    differences = (logs[1] - logs[0]) / np.sqrt(2)
    squares = ((differences - differences.mean()) ** 2).sum()
    assert f"SS = {squares:.6e}, 5 df" in text
    assert "the scatter is that of the pairs' differences" in text


def test_an_explanation_names_the_alpha_of_its_comparison_and_not_the_policys(rng, tmp_path):
    """Against a history a comparison has a part of alpha; explained was all of it."""
    store = RunStore(str(tmp_path / "runs"))
    ids = [store.add(one) for one in nights(rng, 12)]
    words = ("compare", "--candidate", ids[-1], "--store", store.url)
    document = json.loads(invoke(*words, "--format", "json")[1])
    text = invoke(*words, "--explain", "a", "avg_latency_ms")[1]
    assert document["alpha"] == pytest.approx(0.01 * 30 / 41**2)
    assert f"{document['alpha']:.4g} over " in text
    assert f"adjusted p <= {document['alpha']:.4g} and" in text
    assert "p <= 0.01 " not in text


def test_a_result_file_is_explained_on_the_command_line(rng, tmp_path):
    comparison = compare(side(rng, 3), side(rng, 3, first=50, slower=1.2), policy=POLICY)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(comparison.to_dict()))
    words = ("rag_service", "avg_latency_ms")
    for place in (file, tmp_path):
        assert invoke("compare", str(place), "--explain", *words)[:2] == (1, explain(comparison, *words))
    document = comparison.to_dict()
    for finding in document["findings"]:
        del finding["arithmetic"]
    file.write_text(json.dumps(document))
    code, _, err = invoke("compare", str(file), "--explain", *words)
    assert (code, "an older perfkit wrote it; compare the runs again" in err) == (2, True)
    code, _, err = invoke("compare", str(file))
    assert (code, "Missing option '--candidate'" in err) == (2, True)


def test_a_verdict_that_is_not_that_of_its_numbers_says_both(compared):
    text = explain(compared["too few runs"], "rag_service", "avg_latency_ms")
    assert re.search(r"by these numbers +regression\n  -> inconclusive", text)


def test_what_is_not_judged_is_named_with_the_nearest(compared):
    with pytest.raises(SettingsError, match=r"'rag_servise': not compared .did you mean 'rag_service'"):
        explain(compared["apart"], "rag_servise", "rps")
    with pytest.raises(SettingsError, match="did you mean 'avg_latency_ms'"):
        explain(compared["apart"], "rag_service", "avg_latenc")
