"""What people say of a load, and the course that it stands for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import load_profile

from perfkit.config.settings import (
    Scenario,
    load_fields,
    load_options,
    override,
    parse_rate,
    parse_stages,
)
from perfkit.model.codec import decode, encode
from perfkit.model.errors import SettingsError
from perfkit.model.records import LoadProfile, Stage


def levels(profile, *seconds):
    return [profile.level_at(second) for second in seconds]


@pytest.mark.parametrize(
    ("kind", "words", "described", "seconds", "expected"),
    [
        (None, {"users": 10, "spawn_rate": 10, "duration_s": 60}, "steady 10 users, 60 s", (0, 59, 60), [10, 10, None]),
        ("steady", {"users": 10, "duration_s": 60}, "steady 10 users, 60 s", (0, 60), [10, None]),
        (None, {"rate": 50.0, "duration_s": 60}, "steady 50/s (constant arrivals), 60 s", (0, 60), [50, None]),
        ("ramp", {"users": 100, "duration_s": 100}, "ramp to 100 users at 1/s, 100 s", (0, 50, 99), [0, 50, 99]),
        ("ramp", {"rate": 100.0, "duration_s": 100}, "ramp to 100/s (constant arrivals), 100 s", (0, 50), [0, 50]),
        (None, {"users": 60, "spawn_rate": 1, "duration_s": 120}, "ramp to 60 users at 1/s, 120 s", (30, 90), [30, 60]),
        (
            "spike",
            {"users": 10, "peak": 50, "duration_s": 100},
            None,
            (0, 39, 41, 59, 61, 99),
            [10, 10, 50, 50, 10, 10],
        ),
        ("soak", {"users": 5}, "soak 5 users, 3600 s", (0, 3599, 3600), [5, 5, None]),
    ],
)
def test_a_profile_has_a_course_and_a_phrase(kind, words, described, seconds, expected):
    profile = load_profile(kind, **words)
    assert levels(profile, *seconds) == pytest.approx(expected)
    assert described is None or profile.describe() == described
    assert decode(encode(profile), LoadProfile, "here") == profile


def test_a_spike_tells_its_three_stages():
    profile = load_profile("spike", rate=20.0, peak=80.0, duration_s=300, arrivals="poisson")
    assert profile.describe() == "spike from 20/s to 80/s (poisson arrivals), 300 s"
    assert [profile.stage_name(i) for i in range(3)] == ["stage 1: 20/s", "stage 2: 80/s", "stage 3: 20/s"]
    assert (profile.rate, profile.users, profile.max_in_flight) == (80.0, None, 800)


def test_a_rise_that_is_short_is_warm_up_and_no_stage():
    assert load_profile(None, users=100, spawn_rate=10, duration_s=900).stages == ()
    assert len(load_profile(None, users=100, spawn_rate=1, duration_s=300).stages) == 6  # five of the rise, one held
    assert len(load_profile("soak", users=5, duration_s=600).stages) == 5


@pytest.mark.parametrize(
    ("text", "stages", "are_rates"),
    [
        (["2m:40"], [Stage(120, 40, 40)], False),
        (["30s:0-40", "1m:40"], [Stage(30, 0, 40), Stage(60, 40, 40)], False),
        (["1m:50/s", "1m: 60 / min"], [Stage(60, 50, 50), Stage(60, 1, 1)], True),
        ([{"duration": "1m", "users": 20}], [Stage(60, 20, 20)], False),
        ([{"duration": 30, "rate": "10/s", "from": 0}], [Stage(30, 0, 10)], True),
    ],
)
def test_stages_are_read(text, stages, are_rates):
    assert parse_stages(text, "stages") == (tuple(stages), are_rates)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (["40"], "stages 1: expected LENGTH:LOAD"),
        (["1m:20", "2x:40"], "stages 2: expected a length"),
        (["1m:4.4.4"], "stages 1: the load is not a number"),
        (["1m:40/fortnight"], "stages 1: unknown unit /fortnight"),
        (["1m:40", "1m:40/s"], "stages: some have users and some a rate"),
        ([{"duration": "1m"}], "stages 1: needs duration and either users or rate"),
        ([{"duration": "1m", "user": 3}], "stages 1: unknown key 'user'; did you mean 'users'?"),
        ([{"duration": "1m", "users": True}], "stages 1: users: expected a number, got True"),
        (["0s:3"], "stages 1: must be longer than zero"),
    ],
)
def test_stages_that_are_none_are_told_where(text, said):
    with pytest.raises(ValueError, match=re.escape(said.split(";")[0])):
        parse_stages(text, "stages")


@pytest.mark.parametrize(
    ("text", "rate"), [("200/s", 200), (50, 50), ("1200/min", 20), ("3600 / hour", 1), ("0.5", 0.5)]
)
def test_rates_are_read(text, rate):
    assert parse_rate(text, "rate") == rate


@pytest.mark.parametrize("text", ["", "fast", "0/s", "-3", "nan", "inf", "5/week", True, "/s"])
def test_rates_that_are_none(text):
    with pytest.raises(ValueError, match=r"^here: "):
        parse_rate(text, "here")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"kind": "stedy"}, "unknown kind 'stedy' (did you mean 'steady'?)"),
        ({"users": 3, "rate": 5.0}, "say one of them"),
        ({"rate": 5.0}, "an arrival rate needs one, such as 2m"),
        ({"users": 5, "arrivals": "poisson"}, "belong to an arrival rate"),
        ({"rate": 5.0, "arrivals": "even"}, "expected constant or poisson"),
        ({"rate": 5.0, "duration_s": 5, "max_in_flight": 0}, "at least 1"),
        ({"kind": "stages", "users": 5}, "stages: are missing"),
        ({"kind": "spike", "users": 5, "duration_s": 50}, "peak: is missing"),
        ({"kind": "ramp", "users": 5}, "the profile 'ramp' needs one"),
        ({"kind": "soak"}, "users or rate: is missing"),
        ({"kind": "ramp", "users": 5, "peak": 9, "duration_s": 5}, "peak: belongs to a spike"),
        ({"kind": "soak", "users": 5, "stages": (Stage(1, 2, 2),)}, "stages: belong to the profile 'stages'"),
        ({"stages": (Stage(1, 0, 0),)}, "at least one must have a load"),
    ],
)
def test_words_that_contradict_each_other_say_the_way_out(words, said):
    kind = words.pop("kind", None)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_profile(kind, **words)


def scenario(**load):
    from pathlib import Path

    return Scenario("s", Path("locustfile.py"), **load)


def test_another_kind_of_load_replaces_the_inherited_one():
    of_users = scenario(users=20, spawn_rate=2.0, duration_s=60.0)
    by_rate = override(of_users, "--rate", rate=50.0)
    assert by_rate.profile.describe() == "steady 50/s (constant arrivals), 60 s"
    assert override(by_rate, "--users", users=7).profile.users == 7
    staged = override(by_rate, "--stages", **load_fields({"stages": ["1m:10", "2m:20"]}, "--{}".format))
    assert staged.profile.describe() == "2 stages up to 20 users, 180 s"
    assert override(staged, "--rate", rate=3.0, duration_s=9.0).profile.stages == ()


def test_words_from_the_command_line_name_their_option():
    with pytest.raises(SettingsError, match=r"^--rate: expected a rate"):
        load_fields({"rate": "many"}, "--{}".format)


PROFILES = st.one_of(
    st.builds(lambda u, d: load_profile("steady", users=u, duration_s=d), st.integers(1, 500), st.integers(1, 5000)),
    st.builds(lambda u, d: load_profile("ramp", users=u, duration_s=d), st.sampled_from([10, 50, 100]), st.just(1000)),
    st.builds(
        lambda u, p: load_profile("spike", users=u, peak=p, duration_s=100), st.integers(1, 9), st.integers(10, 90)
    ),
    st.builds(lambda r, d: load_profile("ramp", rate=r, duration_s=d), st.integers(1, 90), st.integers(1, 900)),
    st.builds(lambda r: load_profile("soak", rate=r, arrivals="poisson"), st.integers(1, 90)),
    st.builds(
        lambda parts: load_profile(None, stages=tuple(Stage(d, b, e) for d, b, e in parts)),
        st.lists(st.tuples(st.integers(1, 99), st.integers(0, 9), st.integers(1, 99)), min_size=1, max_size=4),
    ),
)


@given(PROFILES)
def test_the_options_that_a_report_shows_ask_for_the_same_load(profile):
    said = {name.removeprefix("--"): value for name, value in load_options(profile).items()}
    numbers = {"users": int, "spawn-rate": float, "max-in-flight": int}
    words = {name.replace("-", "_"): numbers.get(name, str)(value) for name, value in said.items()}
    if "stages" in words:
        words["stages"] = words["stages"].split(",")
    words["kind"] = words.pop("profile", None)
    assert scenario(**load_fields(words, "--{}".format)).profile == profile
