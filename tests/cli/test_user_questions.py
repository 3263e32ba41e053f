"""What users ask of the command line, and whether the answer is true in every channel."""

import json
import tomllib
from dataclasses import replace

import pytest
from command_line import invoke
from histories import nights, stored
from samples import plain_stats, run

from perfkit import Metric, Policy, compare
from perfkit.analysis.coverage import renamed_pairs
from perfkit.cli.options import Workspace
from perfkit.cli.run import with_open_regressions
from perfkit.config.settings import Settings
from perfkit.history.confounders import service_changes
from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.timeline import timeline_of
from perfkit.stats.changepoints import ChangePoint


@pytest.fixture
def history(rng, tmp_path, monkeypatch):
    """A store ``runs`` with 12 nights of the scenario api in the current folder."""
    monkeypatch.chdir(tmp_path)
    return stored("runs", nights(rng, 12, sd=0.01))


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--scenario", "apo", "--detect", "5%"),
        ("report", "--all", "--scenario", "apo"),
        ("report", "trend", "apo"),
        ("replay", "--scenario", "apo"),
        ("changes", "apo"),
        ("compare", "apo@rolling", "--candidate", "api@last:1"),
    ],
)
def test_a_scenario_that_is_not_there_is_a_wrong_argument(history, words):
    code, _, err = invoke(*words, "--store", "runs")
    assert code == 2
    assert "did you mean 'api'?" in err


@pytest.mark.parametrize("words", [("runs", "quarantine", "none", "--reason", "x"), ("report", "--all")])
def test_what_a_store_does_not_hold_is_no_failed_step(tmp_path, words):
    assert invoke(*words, "--store", tmp_path)[0] == 2


# Short names of metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "metric"),
    [("avg", "avg_latency_ms"), ("errors", "error_rate_pct"), ("P95", "p95_latency_ms"), ("throughput", "rps")],
)
def test_metrics_are_taken_by_their_short_names(short, metric):
    assert Metric(short) == metric
    limit = {metric: 7}
    named = Policy(tolerance={short.lower(): 7, "/pay": {short.lower(): 3}}, gating=(short,))
    assert (named.tolerance, named.gating) == ({**limit, "/pay": {metric: 3}}, (metric,))


def test_short_names_hold_in_objectives_and_scenarios_too():
    text = 'objectives = {p95 = {max = 300}}\nscenarios = {shop = {avg = 2, "/pay" = {errors = 1}}}'
    policy = Policy.from_mapping(tomllib.loads(text))
    assert policy.objectives == {"p95_latency_ms": {"max": 300}}
    shop = policy.for_scenario("shop")
    assert (shop.limit("/a", "avg").amount, shop.limit("/pay", "errors").amount) == (2, 1)


def test_one_metric_under_two_names_is_refused():
    with pytest.raises(ValueError, match="tolerance: 'p95' and 'p95_latency_ms' are one metric"):
        Policy(tolerance={"p95_latency_ms": 5, "p95": 10})


@pytest.mark.parametrize("metric", ["avg", "errors", "rps"])
def test_explain_takes_short_names(history, metric):
    code, out, err = invoke(
        "compare", "api@last:6", "--candidate", "api@last:2", "--explain", "a", metric, "--store", "runs"
    )
    assert (code, err) == (0, "")
    assert f"({Metric(metric).value})" in out


# Renames ----------------------------------------------------------------------------------------------------------


def test_the_history_guesses_renames_as_a_comparison_does():
    assert renamed_pairs({"GET /v1/Items": 0.4}, {"/search": 0.4, "GET /v2/items/": 0.4}) == {
        "GET /v1/Items": "GET /v2/items/"
    }
    assert renamed_pairs({"/checkout": 0.4}, {"/health": 0.01}) == {}


def test_a_small_new_service_is_no_rename_of_a_large_one_that_is_gone():
    def night(number, **services):
        return run({name: plain_stats(20.0, count=count) for name, count in services.items()}, number=number)

    runs = [night(i, a=3000, checkout=2000) if i < 6 else night(i, a=3000, health=30) for i in range(12)]
    (change,) = service_changes(timeline_of("api", runs))
    assert (change.ended, change.began, change.renamed) == (("checkout",), ("health",), ())


# Missing services -------------------------------------------------------------------------------------------------


def with_few_payments(runs):
    """Every service with "pay" in its name is called a tenth as often as the others."""
    few = {"count": 500, "rps": 5.0, "failures": 0}
    return [
        replace(one, services={name: replace(of, **few) if "pay" in name else of for name, of in one.services.items()})
        for one in runs
    ]


def gone(rng, services, slow=1.0):
    first = nights(rng, 12, sd=0.01, services=("a", "b", "/v1/pay"))
    later = nights(rng, 12, first=12, sd=0.01, services=services, slow=("b",), factor=slow)
    return with_few_payments([*first, *later])


def test_an_issue_names_the_service_that_is_missing(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    stored("runs", gone(rng, ("a", "b"), slow=1.6))
    assert (
        invoke("compare", "--candidate", "api@last:1", "--store", "runs", "--format", "json", "--output", "r.json")[0]
        == 1
    )
    code, out, _ = invoke("issue", "r.json", "--dry-run", "--repository", "octo/shop")
    (call,) = json.loads(out)
    assert code == 0
    body = call["json"]["body"]
    assert "### Missing or in doubt" in body
    assert "- Not measured in the candidate: /v1/pay (5 % of the baseline's requests). Find out why" in body
    assert "- Service /v1/pay has no requests since run" in body


def test_an_issue_that_is_not_opened_says_why_and_what_is_missing(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    baseline = with_few_payments(nights(rng, 4, services=("a", "/pay")))
    comparison = compare(baseline, nights(rng, 3, first=9))
    assert comparison.verdict == "inconclusive"
    (tmp_path / "r.json").write_text(json.dumps(comparison.to_dict()))
    code, out, err = invoke("issue", "r.json", "--dry-run", "--repository", "octo/shop")
    assert (code, json.loads(out)) == (0, [])
    assert "r.json: is inconclusive: no issue is opened. Not measured in the candidate: /pay" in err


def test_the_next_step_says_how_to_map_a_rename(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored("runs", gone(rng, ("a", "b", "/v2/pay")))
    _, out, _ = invoke("compare", "--candidate", "api@last:1", "--store", "runs")
    assert 'put "/v1/pay" = "/v2/pay" under [services]' in " ".join(out.split())


# Open regressions -------------------------------------------------------------------------------------------------


def test_a_comparison_of_two_builds_tells_what_is_open_in_the_history(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = [*nights(rng, 20, sd=0.01), *nights(rng, 12, first=20, sd=0.01, factor=1.5)]
    store, ids = stored("runs", step)
    pairs = [
        replace(one, labels={"side": side, "pair": f"1.{number}"})
        for side, first in (("baseline", 40), ("candidate", 50))
        for number, one in enumerate(nights(rng, 3, first=first, sd=0.01, factor=1.5), start=1)
    ]
    kept = [store.get(store.add(one)) for one in pairs]
    comparison = compare(kept[:3], kept[3:])
    told = with_open_regressions(comparison, Workspace(Settings(), store.url, Policy()))
    (note,) = (text for text in told.warnings if "Open already since" in text)
    assert ids[20] in note
    assert told.verdict == comparison.verdict


def test_a_store_of_nothing_but_pairs_has_no_open_regressions(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, _ = stored("runs", [replace(one, labels={"side": "baseline", "pair": "1.1"}) for one in nights(rng, 3)])
    kept = [store.get(run_id) for run_id in store.ids()]
    comparison = compare(kept[:1], kept[1:])
    told = with_open_regressions(comparison, Workspace(Settings(), store.url, Policy()))
    assert told.warnings == comparison.warnings


# [services] -------------------------------------------------------------------------------------------------------

SETTINGS = '[services]\n"/v1/*" = "/v2/*"\n'


@pytest.fixture
def renamed(rng, tmp_path, monkeypatch):
    """Runs whose service /v1/pay became /v2/pay, and settings that say so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text(SETTINGS)
    first = nights(rng, 10, sd=0.01, services=("/v1/pay",))
    return stored("runs", first, nights(rng, 10, first=10, sd=0.01, services=("/v2/pay",)))


def test_a_plan_learns_from_runs_under_both_names(renamed):
    rows = json.loads(invoke("plan", "--scenario", "api", "--detect", "5%", "--store", "runs", "--format", "json")[1])[
        "rows"
    ]
    assert {(row["service"], row["history_runs"]) for row in rows} == {("/v2/pay", 20)}


@pytest.mark.parametrize("words", [("metrics",), ("baseline", "extract")])
def test_metrics_and_baselines_are_written_under_the_names_of_the_settings(renamed, tmp_path, words):
    assert invoke(*words, "api@last:20", "--store", "runs", "--output", "m.json")[0] == 0
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["/v2/pay"]


def test_noise_of_the_history_is_known_under_the_new_names(renamed):
    words = ("compare", "api@last:4", "--candidate", "api@last:2", "--history", "--explain", "/v2/pay", "avg")
    _, out, _ = invoke(*words, "--store", "runs")
    assert "scatter of the history" in out


def test_settings_without_a_policy_name_services_too(tmp_path):
    (tmp_path / "s.toml").write_text(SETTINGS)
    assert Policy.from_toml(tmp_path / "s.toml").service_names == {"/v1/*": "/v2/*"}


# What a history shows ---------------------------------------------------------------------------------------------


def test_a_unit_mistake_in_a_history_is_asked_about_and_not_celebrated(rng, tmp_path):
    stored(tmp_path, nights(rng, 20, sd=0.01), nights(rng, 10, first=20, sd=0.01, factor=0.001))
    code, out, _ = invoke("changes", "api", "--store", tmp_path)
    assert code == 0
    text = " ".join(out.split())
    assert "? unit mistake?" in text
    assert "every latency of a is about 0.001 times what it was before: a unit mistake" in text
    assert "improvement" not in text


@pytest.mark.parametrize(("factor", "kind"), [(0.001, "mixed"), (0.5, "improvement"), (1000, "regression")])
def test_the_kind_of_an_event(factor, kind):
    moment = RunReference("r", None, True, "", "")
    change = ChangePoint(5, 20.0, 20.0 * factor, 100 * (factor - 1), 1e-9, 0.0, 0.0)
    event = Event("r", "api", 5, moment, moment, (MetricChange("a", Metric.AVG, change),))
    assert event.kind == kind
    assert event.headline.startswith({"mixed": "Changed", "improvement": "Better", "regression": "Worse"}[kind])


def test_outliers_at_the_end_of_a_history_are_not_called_no_change(rng, tmp_path):
    stored(tmp_path, nights(rng, 20, sd=0.01), nights(rng, 2, first=20, sd=0.01, factor=2.8))
    _, out, _ = invoke("changes", "api", "--store", tmp_path)
    text = " ".join(out.split())
    assert text.count("far from the level, too recent to tell a change from outliers") == 2
    assert "outlier, no change" not in text


def test_the_next_step_of_any_regression_names_another_machine(rng):
    from perfkit.report.findings import next_step

    runs = nights(rng, 8, sd=0.01)
    slow = nights(rng, 4, first=10, sd=0.01, factor=1.5)
    runs = [replace(one, environment={"cpu": "Xeon 8370C"}) for one in runs]
    slow = [replace(one, environment={"cpu": "EPYC 7763"}) for one in slow]
    step = next_step(compare(runs, slow))
    assert "The candidate ran on another machine (EPYC 7763) than the baseline (Xeon 8370C)" in step
