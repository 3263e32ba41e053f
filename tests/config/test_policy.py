"""A policy says what it means, and refuses what it cannot mean."""

import math
import os

import pytest

from perfkit import Metric, Policy, SettingsError
from perfkit.config.policy import Limit


@pytest.mark.parametrize(
    ("metric", "written", "amount", "relative", "described"),
    [
        ("p95_latency_ms", 10, 10.0, True, "+10 %"),
        ("p95_latency_ms", 2.5, 2.5, True, "+2.5 %"),
        ("p95_latency_ms", "+50%", 50.0, True, "+50 %"),
        ("p95_latency_ms", " + 50 % ", 50.0, True, "+50 %"),
        ("p95_latency_ms", "50%", 50.0, True, "+50 %"),
        ("p95_latency_ms", ".5%", 0.5, True, "+0.5 %"),
        ("avg_latency_ms", "+20ms", 20.0, False, "+20 ms"),
        ("rps", "-30%", 30.0, True, "-30 %"),
        ("rps", "30%", 30.0, True, "-30 %"),
        ("rps", "-5rps", 5.0, False, "-5 rps"),
        ("rps", "-5/s", 5.0, False, "-5 rps"),
        ("error_rate_pct", 0.5, 0.5, False, "+0.5 pp"),
        ("error_rate_pct", "+0.5pp", 0.5, False, "+0.5 pp"),
        ("error_rate_pct", "+0.5%", 0.5, True, "+0.5 %"),
        ("error_rate_pct", 0, 0.0, False, "+0 pp"),
    ],
)
def test_limit_is_read_as_people_write_it(metric, written, amount, relative, described):
    limit = Limit.parse(metric, written)
    assert (limit.amount, limit.relative, limit.describe()) == (amount, relative, described)


@pytest.mark.parametrize(
    ("metric", "written", "message"),
    [
        ("p95_latency_ms", "-50%", "gets worse when it rises, so the sign of '-50%' must be turned around"),
        ("rps", "+30%", "gets worse when it falls, so the sign of '\\+30%' must be turned around"),
        ("error_rate_pct", "-0.5pp", "gets worse when it rises"),
        ("p95_latency_ms", "+0.5pp", 'a number with % or ms, such as "\\+50%"'),
        ("error_rate_pct", "5ms", "a number with % or pp"),
        ("rps", "5ms", "a number with % or rps or /s"),
        ("rps", "", "got ''"),
        ("rps", "lots", "got 'lots'"),
        ("rps", "5", "got '5'"),
        ("rps", "OFF", "got 'OFF'"),
        ("avg_latency_ms", "1e3%", "got '1e3%'"),
        ("avg_latency_ms", True, "got True"),
        ("avg_latency_ms", None, "got None"),
        ("avg_latency_ms", [5], "got \\[5\\]"),
        ("avg_latency_ms", -1, "finite number >= 0, got -1"),
        ("avg_latency_ms", math.nan, "finite number >= 0, got nan"),
        ("avg_latency_ms", math.inf, "finite number >= 0, got inf"),
        ("p59_latency_ms", 5, "unknown metric 'p59_latency_ms' \\(did you mean 'p99_latency_ms'\\?\\)"),
        ("troughput", 5, "unknown metric 'troughput'"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(metric, written, message):
    with pytest.raises(ValueError, match=message):
        Limit.parse(metric, written)


@pytest.mark.parametrize(
    ("metric", "written", "baseline", "expected"),
    [
        ("avg_latency_ms", "+50%", 20.0, 50.0),
        ("avg_latency_ms", "+5ms", 20.0, 25.0),
        ("avg_latency_ms", "+5ms", 0.0, None),
        ("avg_latency_ms", "+5ms", None, None),
        ("avg_latency_ms", "+5%", None, 5.0),
        ("rps", "-5rps", 50.0, 10.0),
        ("error_rate_pct", "+0.5pp", 0.0, 0.5),
        ("error_rate_pct", "+50%", 2.0, 1.0),
        ("error_rate_pct", "+50%", 0.0, 0.0),
        ("error_rate_pct", "+50%", None, None),
    ],
)
def test_limit_in_the_unit_of_a_change(metric, written, baseline, expected):
    assert Limit.parse(metric, written).in_change_unit(baseline) == expected


def test_default_tolerances_are_those_of_the_design():
    limits = {metric.value: Policy().limit("any", metric).amount for metric in Metric}
    assert limits == {
        "avg_latency_ms": 5.0,
        "p50_latency_ms": 5.0,
        "p95_latency_ms": 10.0,
        "p99_latency_ms": 15.0,
        "p999_latency_ms": 25.0,
        "error_rate_pct": 0.5,
        "rps": 5.0,
    }
    assert Policy().gating == ("avg_latency_ms", "error_rate_pct", "rps")
    assert (Policy().alpha, Policy().confidence, Policy().rule) == (0.01, 0.95, "evidence")


def test_threshold_rule_has_the_classic_limits_and_no_others():
    policy = Policy(rule="threshold")
    limits = {metric.value: limit.describe() for metric in Metric if (limit := policy.limit("any", metric))}
    assert limits == {"p95_latency_ms": "+50 %", "error_rate_pct": "+0.5 %", "rps": "-30 %"}


def test_a_service_has_its_own_table_over_the_common_one():
    policy = Policy(tolerance={"p95_latency_ms": 8, "rag": {"p95_latency_ms": "+20%", "rps": "off"}})
    assert policy.limit("rag", "p95_latency_ms").amount == 20
    assert policy.limit("rag", "rps") is None
    assert policy.limit("rag", "avg_latency_ms").amount == 5
    assert policy.limit("api", "p95_latency_ms").amount == 8
    assert policy.limit("api", "rps").amount == 5


def test_off_stops_judging_a_metric_and_a_service_can_turn_it_on_again():
    policy = Policy(tolerance={"p99_latency_ms": "off", "api": {"p99_latency_ms": 12}})
    assert policy.limit("rag", "p99_latency_ms") is None
    assert policy.limit("api", "p99_latency_ms").amount == 12


def test_with_rule_keeps_own_tolerances_over_the_other_rules_defaults():
    policy = Policy(tolerance={"rps": "-20%"}).with_rule("threshold")
    assert policy.limit("a", "rps").describe() == "-20 %"
    assert policy.limit("a", "avg_latency_ms") is None
    assert policy.with_rule(None) is policy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "treshold"}, "one of evidence, threshold, got 'treshold' \\(did you mean 'threshold'\\?\\)"),
        ({"alpha": 0}, "between 0 and 0.5, got 0"),
        ({"alpha": 0.5}, "between 0 and 0.5, got 0.5"),
        ({"alpha": math.nan}, "got nan"),
        ({"confidence": 0.5}, "between 0.5 and 1, got 0.5"),
        ({"confidence": 1}, "got 1"),
        ({"confidence": 95}, "got 95"),
        ({"gating": ("p97",)}, "unknown metric 'p97'"),
        ({"tolerance": {"p95_latency_mss": 5}}, "did you mean 'p95_latency_ms'"),
        ({"tolerance": {"api": {"p95_latency_mss": 5}}}, "did you mean 'p95_latency_ms'"),
        ({"tolerance": {"api": {"p95_latency_ms": {"deeper": 5}}}}, "an absolute limit is written"),
        ({"tolerance": {"rps": "+5%"}}, "must be turned around"),
    ],
)
def test_a_wrong_argument_names_range_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        Policy(**arguments)


def test_a_policy_does_not_follow_later_changes_of_the_mapping_it_was_made_of():
    table = {"rps": 5}
    policy = Policy(tolerance=table)
    table["rps"] = 99
    assert policy.limit("a", "rps").amount == 5


POLICY_TOML = """
alpha = 0.02
gating = ["avg_latency_ms", "rps"]
[tolerance]
p95_latency_ms = "+12%"
[tolerance.rag_service]
p95_latency_ms = 30
"""


@pytest.mark.parametrize("nested", [False, True])
def test_from_toml_with_and_without_a_policy_table(tmp_path, nested):
    text = POLICY_TOML.replace("[tolerance", "[policy.tolerance") if nested else POLICY_TOML
    file = tmp_path / "policy.toml"
    file.write_text(("[policy]\n" if nested else "") + text + ("[other]\nx = 1\n" if nested else ""))
    policy = Policy.from_toml(file)
    assert (policy.alpha, policy.gating) == (0.02, ("avg_latency_ms", "rps"))
    assert policy.limit("api", "p95_latency_ms").amount == 12
    assert policy.limit("rag_service", "p95_latency_ms").amount == 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("alpa = 0.01", "unknown key 'alpa' \\(did you mean 'alpha'\\?\\); known are tolerance, gating"),
        ("[policy]\nalpa = 0.01", "policy.toml: \\[policy\\]: unknown key 'alpa'"),
        ("policy = 5", "policy must be a table"),
        ("alpha = ", "is not TOML"),
        ("alpha = true\n[tolerance]\nrps = true", "got True"),
        ("alpha = nan", "alpha: a probability between 0 and 0.5, got nan"),
        ("alpha = 'small'", "policy.toml: "),
        ("gating = 5", "policy.toml: "),
        ("gating = 'rps'", "gating: a list of metrics"),
        ("gating = []", "gating: name at least one metric"),
        ("alpha = 'x'", "alpha: a probability between 0 and 0.5, got 'x'"),
        ("tolerance = 5", "tolerance: a table"),
        ("gating = [5]", "unknown metric 5"),
        ("tolerance = 5", "policy.toml: "),
        ("tolerance = [5]", "policy.toml: "),
        ("[tolerance]\nrps = nan", "rps: a tolerance must be a finite number >= 0, got nan"),
        ("[tolerance.api]\nrps = '+5%'", "must be turned around"),
    ],
)
def test_a_wrong_policy_file_names_itself_and_the_place(tmp_path, content, message):
    file = tmp_path / "policy.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        Policy.from_toml(file)
    assert str(file) in str(caught.value)


def test_a_policy_file_that_cannot_be_read(tmp_path):
    with pytest.raises(SettingsError, match="there is no such file"):
        Policy.from_toml(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="is no regular file but a folder; name the file in it"):
        Policy.from_toml(tmp_path)
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(
        SettingsError, match="is no regular file, and a pipe can be read only once; write it to a file first"
    ):
        Policy.from_toml(tmp_path / "pipe.toml")
    for key in ("a." * 20_000 + "b = 1", "[x" + ".x" * 3000 + "]", "a = {" + "b . " * 5000 + "c = 1}"):
        (tmp_path / "deep.toml").write_text(key)
        with pytest.raises(SettingsError, match="nested too deeply"):
            Policy.from_toml(tmp_path / "deep.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        Policy.from_toml(tmp_path / "latin.toml")


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_a_policy_that_judges_nothing_is_an_error(rule):
    nothing = {metric.value: "off" for metric in Metric}
    with pytest.raises(ValueError, match="every metric is off and there is no objective, so the policy judges nothing"):
        Policy(tolerance=nothing, rule=rule)
    with pytest.raises(ValueError, match="scenarios: api: tolerance: every metric is off"):
        Policy(scenarios={"api": nothing}, rule=rule)
    Policy(tolerance=nothing, rule=rule, objectives={"p95_latency_ms": {"max": 300}})
    Policy(tolerance=nothing | {"/pay": {"p95_latency_ms": 10.0}}, rule=rule)
