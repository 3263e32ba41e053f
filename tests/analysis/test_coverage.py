"""Absence is not agreement: services that are gone, new, renamed, rare, or missing in some runs only."""

import json
import math
from dataclasses import replace

import pytest
from samples import EPOCH, plain_stats, requests, run

from perfkit import Metric, Policy, RunStore, compare, run_from_requests
from perfkit.analysis.coverage import Absence, listed, plain_name, service_coverage
from perfkit.config.settings import load_settings
from perfkit.history.gate import judge_history
from perfkit.history.incidents import result_of
from perfkit.history.run_selector import HistoryContext
from perfkit.model.errors import NotComparable, SettingsError
from perfkit.model.records import LoadProfile, Stage, StageStats
from perfkit.model.serialization import comparison_from_document
from perfkit.report.findings import headlines, next_step
from perfkit.report.message import message_of
from perfkit.report.text import to_junit, to_markdown

EXACT = (1.0, 1.001, 0.999, 1.0005, 0.9995)
LOAD = {"/a": 20000, "/b": 16000}


def runs(load=LOAD, n=4, *, first=0, factors=None, rps=None):
    """Runs whose services are called so often, and vary by a tenth of a percent."""
    made = []
    for i in range(n):
        services = {
            name: plain_stats(20.0 * EXACT[i % 5] * (factors or {}).get(name, 1.0), count=count, rps=count / 60)
            for name, count in load.items()
        }
        for name, rate in (rps or {}).items():
            services[name] = replace(services[name], rps=rate * EXACT[i % 5])
        made.append(run(services, number=first + i))
    return made


def texts(comparison):
    return [gap.text for gap in comparison.gaps]


# Gone -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
@pytest.mark.parametrize("count", [750, 3900])
def test_a_service_that_is_gone_is_never_green(rule, count):
    comparison = compare(runs(LOAD | {"/pay": count}), runs(first=50), policy=Policy(rule=rule))
    share = round(100 * count / (36000 + count))
    assert (comparison.verdict, comparison.comparable) == ("inconclusive", True)
    assert texts(comparison) == [f"Not measured in the candidate: /pay ({share} % of the baseline's requests)."]
    assert "Find out why /pay got no request" in next_step(comparison)


def test_a_regression_elsewhere_stays_one():
    comparison = compare(runs(LOAD | {"/pay": 3900}), runs(first=50, factors={"/a": 1.3}))
    assert comparison.verdict == "regression"
    assert "/a got worse" in headlines(comparison)[0]
    assert headlines(comparison)[1].startswith("Not measured in the candidate: /pay")
    assert "why /pay got no request" in next_step(comparison)


@pytest.mark.parametrize(("count", "verdict"), [(8000, "inconclusive"), (10000, "invalid")])
def test_by_evidence_most_of_the_load_must_have_been_measured_on_both_sides(count, verdict):
    sides = runs(LOAD | {"/pay": count}), runs(first=50, factors={"/a": 1.3})
    assert compare(*sides).verdict == ("regression" if verdict == "inconclusive" else "invalid")
    assert compare(sides[0], runs(first=50)).verdict == verdict
    assert compare(sides[0], runs(first=50), policy=Policy(rule="threshold")).verdict == "inconclusive"


@pytest.mark.parametrize("of", ["tolerance", "objectives"])
def test_by_evidence_a_limit_for_what_is_gone_cannot_be_kept(of):
    limit = {"p95_latency_ms": {"max": 100.0}} if of == "objectives" else {"p95_latency_ms": 10.0}
    policy = Policy(**{of: {"/pay": limit}})
    comparison = compare(runs(LOAD | {"/pay": 750}), runs(first=50), policy=policy)
    assert comparison.verdict == "invalid"
    assert headlines(comparison)[0] == (
        "The runs cannot be judged. The policy has limits for /pay, of which the candidate has no request."
    )
    fixed = compare(runs(LOAD | {"/pay": 750}), runs(first=50), policy=replace(policy, rule="threshold"))
    assert fixed.verdict == "inconclusive"


@pytest.mark.parametrize(("count", "verdict"), [(1, "no_change"), (2, "inconclusive"), (20, "inconclusive")])
def test_chance_explains_the_absence_of_what_is_hardly_ever_called(count, verdict):
    comparison = compare(runs(LOAD | {"/rare": count}), runs(first=50))
    assert comparison.verdict == verdict
    assert any("/rare" in text for text in comparison.warnings)
    assert (texts(comparison) == []) == (verdict == "no_change")


def test_the_chance_is_that_of_a_negative_binomial_count():
    """Two requests per run in four runs, none in four: expected 8, with a factor of 1.2 on the Poisson variance."""
    found = service_coverage(runs(LOAD | {"/rare": 2}), runs(first=50), 0.01).absences
    assert [(item.service, item.side, item.lacking, item.runs) for item in found] == [("/rare", "candidate", 4, 4)]
    # the equal counts of the baseline speak for less scatter than the prior: the factor lies between 1 and 1.2
    assert math.exp(-8.0) <= found[0].p_value <= 1.2 ** (-8.0 / 0.2)


def test_alpha_decides_what_chance_explains():
    sides = runs(LOAD | {"/rare": 2}), runs(first=50)
    assert compare(*sides, policy=Policy(alpha=0.0001)).verdict == "no_change"


# New --------------------------------------------------------------------------------------------------------------


def test_a_new_service_is_named_and_prevents_nothing():
    comparison = compare(runs(), runs(LOAD | {"/new": 2000}, first=50))
    assert (comparison.verdict, comparison.gaps) == ("no_change", ())
    assert "New in the candidate, so left out: /new (5 % of the candidate's requests)." in comparison.warnings
    assert "/new" not in {finding.service for finding in comparison.findings}


@pytest.mark.parametrize(("rule", "verdict"), [("evidence", "invalid"), ("threshold", "inconclusive")])
def test_new_services_that_take_over_the_load_are_another_load(rule, verdict):
    comparison = compare(runs(), runs(LOAD | {"/new": 30000}, first=50), policy=Policy(rule=rule))
    assert comparison.verdict == verdict
    assert "another load was measured" in " ".join(comparison.warnings)


def test_what_the_mix_does_to_the_throughput_of_the_others_is_no_change_of_theirs():
    fewer = {"/a": 20000 * 0.9 / 60, "/b": 16000 * 0.9 / 60}
    comparison = compare(runs(), runs(LOAD | {"/new": 4000}, first=50, rps=fewer))
    rates = [finding for finding in comparison.findings if finding.metric == "rps"]
    assert {finding.verdict.value for finding in rates} == {"inconclusive"}
    assert rates[0].warnings[-1] == "11 % of the candidate's load goes to new services, which may be all of this change"
    assert comparison.verdict == "inconclusive"
    halved = {"/a": 20000 * 0.5 / 60, "/b": 16000 * 0.5 / 60}  # more than the mix explains
    assert compare(runs(), runs(LOAD | {"/new": 4000}, first=50, rps=halved)).verdict == "regression"


def test_what_is_gone_makes_the_others_no_better():
    more = {"/a": 20000 * 1.1 / 60, "/b": 16000 * 1.1 / 60}
    comparison = compare(runs(LOAD | {"/pay": 3900}), runs(first=50, rps=more))
    assert "improvement" not in {finding.verdict.value for finding in comparison.findings}


def test_an_objective_of_a_new_service_is_judged_by_the_candidate_alone():
    policy = Policy(objectives={"/new": {"p95_latency_ms": {"max": 10.0}}})
    comparison = compare(runs(), runs(LOAD | {"/new": 2000}, first=50), policy=policy)
    found = [(f.service, f.metric, f.verdict.value) for f in comparison.findings if f.objective]
    assert found == [("/new", "p95_latency_ms", "regression")]


# In some runs only ------------------------------------------------------------------------------------------------


def test_a_service_that_one_candidate_run_lacks_is_judged_by_the_others_and_said():
    candidate = runs(LOAD | {"/pay": 3900}, first=50, factors={"/pay": 1.5})
    del candidate[2].services["/pay"]
    comparison = compare(runs(LOAD | {"/pay": 3900}), candidate)
    assert comparison.verdict == "regression"
    assert texts(comparison) == ["/pay: no request in 1 of 4 runs of the candidate, so it is judged by the others."]
    assert "rps" not in {finding.metric for finding in comparison.findings if finding.service == "/pay"}
    healthy = runs(LOAD | {"/pay": 3900}, first=50)
    del healthy[2].services["/pay"]
    assert compare(runs(LOAD | {"/pay": 3900}), healthy).verdict == "inconclusive"


def test_a_service_that_some_baseline_runs_lack_is_judged_by_the_others_and_said():
    baseline = runs(LOAD | {"/pay": 3900})
    for one in baseline[:2]:
        del one.services["/pay"]
    comparison = compare(baseline, runs(LOAD | {"/pay": 3900}, first=50))
    assert comparison.verdict == "inconclusive"
    assert texts(comparison) == ["/pay: no request in 2 of 4 runs of the baseline, so it is judged by the others."]


def test_what_the_candidate_lacks_altogether_is_said_once():
    baseline = runs(LOAD | {"/pay": 3900})
    del baseline[3].services["/pay"]
    comparison = compare(baseline, runs(first=50))
    assert comparison.verdict == "inconclusive"
    assert texts(comparison) == ["Not measured in the candidate: /pay (10 % of the baseline's requests)."]


def test_a_rare_service_that_some_runs_lack_is_left_out_and_prevents_nothing():
    baseline, candidate = runs(LOAD | {"/rare": 2}), runs(LOAD | {"/rare": 1}, first=50)
    del candidate[0].services["/rare"]
    comparison = compare(baseline, candidate)
    assert comparison.verdict == "no_change"
    assert any("chance explains runs without them, so left out: /rare" in text for text in comparison.warnings)


def test_a_service_without_a_request_is_as_good_as_none():
    empty = replace(plain_stats(), count=0, failures=0, avg_latency_ms=None, error_rate_pct=None, rps=0.0)
    candidate = [replace(r, services={**r.services, "/pay": empty}) for r in runs(first=50)]
    comparison = compare(runs(LOAD | {"/pay": 3900}), candidate)
    assert comparison.verdict == "inconclusive"
    assert "Not measured in the candidate: /pay" in texts(comparison)[0]


def test_in_stages_what_is_gone_is_named_once():
    stages = (Stage(30.0, 10, 10), Stage(30.0, 20, 20))

    def staged(one):
        of = [StageStats(f"{s.end:g} users", s, 30.0 * k, 30.0 * (k + 1), one.services) for k, s in enumerate(stages)]
        return replace(one, stages=tuple(of), profile=LoadProfile("stages", 20, None, 60.0, stages=stages))

    sides = [[staged(one) for one in side] for side in (runs(LOAD | {"/pay": 3900}), runs(first=50))]
    comparison = compare(*sides)
    assert comparison.verdict == "inconclusive"
    assert texts(comparison) == ["Not measured in the candidate: /pay (10 % of the baseline's requests)."]
    assert len({finding.label for finding in comparison.findings}) == 4
    assert {finding.service for finding in comparison.findings} == set(LOAD)


# Renamed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/v1/items", "/v2/items"),
        ("GET /items", "POST /items"),
        ("/items", "/items/"),
        ("/items", "/Items"),
        ("/items", "/api/v3/items"),
        ("/items/17", "/items/{id}"),
        ("/items?page=1", "/items"),
        ("login", "sign_in"),  # nothing alike but how often it is called
    ],
)
def test_a_rename_is_guessed_and_said(before, after):
    comparison = compare(runs(LOAD | {before: 3900}), runs(LOAD | {after: 3900}, first=50))
    assert comparison.verdict == "inconclusive"
    assert texts(comparison) == [
        f"{before} (10 % of the baseline's requests) is gone, {after} (10 % of the candidate's requests) is new: "
        "renamed? [services] in the settings can map them."
    ]
    assert next_step(comparison) == (
        f"If it was renamed, put {json.dumps(before)} = {json.dumps(after)} under [services] in perfkit.toml."
    )


def test_services_that_have_nothing_to_do_with_each_other_are_not_taken_for_one():
    comparison = compare(runs(LOAD | {"/pay": 3900}), runs(LOAD | {"/reports/yearly": 700}, first=50))
    assert texts(comparison) == ["Not measured in the candidate: /pay (10 % of the baseline's requests)."]


def test_when_all_services_are_renamed_the_guess_is_the_answer():
    before = {f"/v1/s{k}": 2000 + 300 * k for k in range(8)}
    after = {name.replace("v1", "v2"): count for name, count in before.items()}
    comparison = compare(runs(before), runs(after, first=50))
    assert comparison.verdict == "invalid"
    assert "no service in common. /v1/s7 (27 %" not in headlines(comparison)[0]  # shares are of all requests
    assert "The two sides have no service in common. /v1/s7" in headlines(comparison)[0]
    assert "3 more services look renamed, such as /v1/s2 to /v2/s2." in headlines(comparison)[0]
    assert '"/v1/s7" = "/v2/s7"' in next_step(comparison)


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_a_slower_service_under_another_name_is_never_green(rule):
    """Two thirds of the load move to another name and get three times as slow."""
    before, after = {"/health": 12000, "/v1/items": 24000}, {"/health": 12000, "/v2/items": 24000}
    sides = runs(before), runs(after, first=50, factors={"/v2/items": 3.0})
    comparison = compare(*sides, policy=Policy(rule=rule))
    assert comparison.verdict == ("invalid" if rule == "evidence" else "inconclusive")
    assert any("/v1/items" in text and "/v2/items" in text and "renamed?" in text for text in headlines(comparison))


def test_plain_names_know_ids_and_versions():
    assert plain_name("DELETE /api/v1/users/3fa85f64-5717-4562-b3fc-2c963f66afa6/") == "api/users/*"
    assert plain_name("/v1") == ""
    assert plain_name("checkout") != plain_name("check-in")


# Everywhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_every_output_names_what_is_missing_also_when_read_back(rule):
    comparison = compare(runs(LOAD | {"/pay": 3900}), runs(first=50), policy=Policy(rule=rule))
    back = comparison_from_document(json.loads(json.dumps(comparison.to_dict())), "result.json")
    assert back.gaps == comparison.gaps
    account = message_of(result_of(comparison.to_dict(), "result.json"))
    assert "/pay" in account.lines[0][1]
    assert "/pay" in to_markdown(back).split("## ")[0]
    junit = to_junit(back)
    assert 'skipped="1"' in junit
    assert "/pay" in junit
    assert comparison.to_dict()["gaps"][0]["text"].startswith("Not measured in the candidate: /pay")


def test_hostile_names_stay_text():
    hostile = "</script>|`x`\n@everyone ![x](javascript:alert(1)) \u202e\x1b[31m" + "y" * 5000
    comparison = compare(runs(LOAD | {hostile: 3900}), runs(LOAD | {hostile + "/": 3900}, first=50))
    assert comparison.verdict == "inconclusive"
    markdown = to_markdown(comparison)
    assert not any(bad in markdown for bad in ("</script", "@everyone", "](", "\u202e", "`x`", "\x1b"))
    for text in (*headlines(comparison), next_step(comparison)):
        assert len(text) < 1000
        assert not any(bad in text for bad in ("\u202e", "\x1b", "\n"))


def test_a_long_list_of_names_is_cut_and_counted():
    gone = [Absence(f"/s{k}", "candidate", 1, 1, 0.01 * (k + 1), 0.0) for k in range(7)]
    assert listed(gone, "the baseline") == (
        "/s6 (7 %), /s5 (6 %), /s4 (5 %), /s3 (4 %), /s2 (3 %) and 2 more, together 28 % of the baseline's requests"
    )


# Under the names that services have now -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "before", "after"),
    [
        ({"/v1/items": "/v2/items"}, "/v1/items", "/v2/items"),
        ({"/v1/*": "/v2/*"}, "/v1/items", "/v2/items"),
        ({"/items": ["/v1/items", "/v2/items"]}, "/v1/items", "/v2/items"),
        ({"GET /a?*": "/a"}, "GET /a?x=1", "/a"),
    ],
)
def test_a_service_that_the_settings_map_is_one_before_and_after(names, before, after):
    load = {"/health": 12000}
    sides = runs(load | {before: 24000}), runs(load | {after: 24000}, first=50, factors={after: 3.0})
    comparison = compare(*sides, policy=Policy(service_names=names))
    assert (comparison.verdict, comparison.gaps) == ("regression", ())
    same = compare(sides[0], runs(load | {after: 24000}, first=50), policy=Policy(service_names=names))
    assert same.verdict == "no_change"


def test_limits_move_with_their_service():
    sides = runs({"/v1/items": 24000}), runs({"/v2/items": 24000}, first=50, factors={"/v2/items": 1.3})
    policy = Policy(tolerance={"/v1/items": {"avg_latency_ms": 50}}, service_names={"/v1/items": "/v2/items"})
    found = {f.metric: f for f in compare(*sides, policy=policy).findings}
    assert found["avg_latency_ms"].tolerance == 50


def test_rows_that_share_a_name_are_summed_up_from_the_requests(rng):
    sides = []
    for k in range(2):
        made = [
            requests(rng, seconds=30, services={"/v1/a": 20.0, "/v1/b": 30.0}, begin=EPOCH + 999 * k + 99 * i)
            for i in range(2)
        ]
        sides.append([run_from_requests(frame, scenario="shop") for frame in made])
    policy = Policy(service_names={"both": ["/v1/a", "/v1/b"]})
    comparison = compare(*sides, policy=policy)
    assert {finding.service for finding in comparison.findings} == {"both"}
    total = sum(stats.count for stats in sides[0][0].services.values())
    assert comparison.baseline.runs[0].services["both"].count == total
    assert set(comparison.baseline.runs[0].requests()["service"]) == {"both"}
    without = [[replace(r, load_requests=None) for r in side] for side in sides]
    with pytest.raises(NotComparable, match=r"gives /v1/a and /v1/b one name, both, and the run has no requests"):
        compare(*without, policy=policy)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("'/a' = 3", "[services]: /a: expected the name of a service, got 3"),
        ("'/a' = '/b'\n'/b' = '/c'", "[services]: '/a' becomes '/b', and that '/c': give both the last name"),
        ("'/x' = ['/a']\n'/y' = ['/a']", "[services]: '/a' is given two names, '/x' and '/y'"),
        ("'/a' = '/*'", "one * on both sides, or on the left alone"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said_with_its_place(tmp_path, table, text):
    (tmp_path / "perfkit.toml").write_text(f"[services]\n{table}\n")
    with pytest.raises(SettingsError) as raised:
        load_settings(tmp_path / "perfkit.toml")
    assert str(raised.value).startswith(str(tmp_path / "perfkit.toml"))
    assert text in str(raised.value)


def test_a_policy_file_of_its_own_keeps_the_names_of_the_settings(tmp_path):
    (tmp_path / "perfkit.toml").write_text("[services]\n'/v1/*' = '/v2/*'\n")
    (tmp_path / "policy.toml").write_text("alpha = 0.02\n")
    policy = load_settings(tmp_path / "perfkit.toml").policy_of(tmp_path / "policy.toml")
    assert (policy.alpha, policy.service_names) == (0.02, {"/v1/*": "/v2/*"})


def test_against_its_history_a_renamed_service_keeps_it(tmp_path):
    store = RunStore(tmp_path / "runs")
    for one in runs({"/health": 12000, "/v1/items": 24000}, 6):
        store.add(one)
    candidate = runs({"/health": 12000, "/v2/items": 24000}, 1, first=50, factors={"/v2/items": 3.0})
    past = HistoryContext(store, tmp_path, candidates=tuple(candidate))
    policy = Policy(service_names={"/v1/items": "/v2/items"})
    comparison = judge_history(candidate, past, policy)
    assert len(comparison.baseline.runs) == 6
    assert comparison.verdict == "regression"
    assert judge_history(candidate, past, Policy()).verdict == "invalid"


# Units --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
@pytest.mark.parametrize("factor", [0.001, 0.0012, 0.0007])
def test_a_thousandth_of_every_latency_is_asked_about_and_not_celebrated(rule, factor):
    comparison = compare(runs(), runs(first=50, factors={"/a": factor}), policy=Policy(rule=rule))
    assert comparison.verdict == "inconclusive"
    assert not [finding for finding in comparison.findings if finding.verdict == "improvement"]
    text = f"Every latency of /a in the candidate is about {factor:.2g} times that of the baseline: a unit mistake, "
    assert headlines(comparison)[0] == text + "seconds or microseconds for milliseconds?"
    assert "Make sure that both sides are in milliseconds" in next_step(comparison)


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_a_thousand_times_every_latency_is_asked_about_and_stays_a_regression(rule):
    comparison = compare(runs(), runs(first=50, factors={"/a": 1000.0, "/b": 1000.0}), policy=Policy(rule=rule))
    assert comparison.verdict == "regression"
    assert texts(comparison) == [
        "Every latency of /a, /b in the candidate is about 1,000 times that of the baseline: a unit mistake, seconds "
        "or microseconds for milliseconds?"
    ]


@pytest.mark.parametrize("factor", [0.01, 0.1, 3.0, 100.0])
def test_other_changes_are_changes(factor):
    comparison = compare(runs(), runs(first=50, factors={"/a": factor}))
    assert comparison.gaps == ()
    assert comparison.verdict == ("improvement" if factor < 1 else "regression")


def test_latencies_that_change_by_unlike_factors_are_no_unit_mistake():
    candidate = runs(first=50, factors={"/a": 1000.0})
    for one in candidate:
        one.services["/a"] = replace(one.services["/a"], p50_latency_ms=25.0)
    assert compare(runs(), candidate).gaps == ()


def test_single_runs_in_another_unit_are_counted():
    candidate = [*runs(first=50)[:3], *runs(n=1, first=60, factors={"/a": 0.001})]
    comparison = compare(runs(), candidate)
    assert comparison.verdict == "inconclusive"
    assert texts(comparison)[0].startswith("Every latency of /a in 1 of 4 runs of the candidate is about 0.001 times")


# Limits that hold nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["tolerance", "objectives"])
def test_a_limit_for_a_service_that_neither_side_has_is_said_with_the_nearest_name(of):
    limit = {"p95_latency_ms": {"max": 100.0}} if of == "objectives" else {"p95_latency_ms": 10.0}
    sides = runs(LOAD | {"/checkout": 4000}), runs(LOAD | {"/checkout": 4000}, first=50)
    comparison = compare(*sides, policy=Policy(**{of: {"/chekout": limit}}))
    assert "The policy has limits for '/chekout', which is not compared here (did you mean '/checkout'?)." in (
        comparison.warnings
    )


def test_limits_that_hold_none_of_the_services_judge_nothing():
    off = {metric.value: "off" for metric in Metric}
    comparison = compare(runs(), runs(first=50), policy=Policy(tolerance=off | {"/c": {"avg_latency_ms": 5}}))
    assert comparison.verdict == "invalid"
    assert any("Nothing to judge" in text for text in comparison.warnings)


def test_without_a_gating_metric_the_reason_is_said():
    policy = Policy(tolerance=dict.fromkeys(Policy().gating, "off"))
    comparison = compare(runs(), runs(first=50), policy=policy)
    assert comparison.verdict == "inconclusive"
    assert "No gating metric is judged" in headlines(comparison)[0]
    assert "Give a gating metric a tolerance" in next_step(comparison)


def test_a_metric_that_one_side_withheld_is_said_and_does_not_gate():
    candidate = runs(first=50)
    for one in candidate[:2]:
        one.services["/a"] = replace(one.services["/a"], p999_latency_ms=None)
    comparison = compare(runs(), candidate)
    assert comparison.verdict == "no_change"
    assert "P99.9 latency is not known in 2 of 4 runs of the candidate, so it is not judged: /a." in comparison.warnings
