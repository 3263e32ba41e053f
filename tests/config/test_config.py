"""perfkit.toml becomes settings, or an error that says which key to look at."""

from pathlib import Path

import pytest

from perfkit import SettingsError
from perfkit.config.settings import (
    BUILT_IN,
    Scenario,
    Settings,
    load_settings,
    nearest_settings,
    override,
    parse_duration,
)
from perfkit.model.errors import UnsetVariable
from perfkit.model.records import LoadProfile

WHOLE = """
store = "runs"
reports = "out"
[scenario.checkout]
locustfile = "load/checkout.py"
host = "http://${SHOP_HOST}:8080"
users = 40
spawn_rate = 4
duration = "5m"
tags = ["fast"]
exclude_tags = ["slow"]
environment = { TOKEN = "${SHOP_TOKEN}", SIZE = 3 }
[scenario.api]
users = 7
[policy]
alpha = 0.02
"""


@pytest.fixture
def settings_file(tmp_path, monkeypatch):
    def write(text):
        file = tmp_path / "perfkit.toml"
        file.write_text(text)
        monkeypatch.chdir(tmp_path)
        return file

    return write


def test_a_whole_file_is_read(settings_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_HOST", "shop")
    monkeypatch.setenv("SHOP_TOKEN", "abc")
    settings = load_settings(settings_file(WHOLE))
    checkout = settings.scenario("checkout")
    assert checkout == Scenario(
        "checkout",
        tmp_path / "load" / "checkout.py",
        "http://shop:8080",
        40,
        4.0,
        300.0,
        ("fast",),
        ("slow",),
        {"TOKEN": "abc", "SIZE": "3"},
    )
    assert settings.store == str(tmp_path / "runs")
    assert settings.reports == tmp_path / "out"
    assert settings.policy.alpha == 0.02


def test_a_built_in_scenario_can_be_changed_in_part(settings_file, monkeypatch):
    monkeypatch.setenv("SHOP_HOST", "shop")
    monkeypatch.setenv("SHOP_TOKEN", "abc")
    api = load_settings(settings_file(WHOLE)).scenario("api")
    assert (api.users, api.spawn_rate, api.duration_s, api.demo) == (7, 10.0, 900.0, True)


def test_built_in_scenarios_are_those_of_the_mission():
    seen = {name: (s.users, s.spawn_rate, s.duration_s) for name, s in BUILT_IN.items()}
    assert seen == {
        "baseline": (1, 1.0, 120.0),
        "api": (100, 10.0, 900.0),
        "rag": (50, 5.0, 900.0),
        "mcp": (20, 2.0, 900.0),
    }


def test_settings_are_found_in_a_folder_above(settings_file, tmp_path):
    file = settings_file("store = 's3://bucket/runs'")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert nearest_settings(deep).path == file
    assert nearest_settings(deep).store == "s3://bucket/runs"


def test_no_file_means_defaults():
    settings = nearest_settings(Path("/"))
    assert dict(settings.scenarios) == BUILT_IN
    assert settings.store == "data/runs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stor = 'x'", "unknown key 'stor' \\(did you mean 'store'\\?\\)"),
        ("store = 5", "store: expected text, got 5"),
        ("reports = 5", "reports: expected text"),
        ("scenario = 5", "perfkit.toml: scenario: expected a table, got 5"),
        ("[scenario]\napi = 5", "\\[scenario.api\\]: expected a table, got 5"),
        ("[scenario.api]\nuser = 5", "\\[scenario.api\\]: unknown key 'user' \\(did you mean 'users'\\?\\)"),
        ("[scenario.mine]\nusers = 5", "\\[scenario.mine\\]: locustfile is missing"),
        ("[scenario.api]\nusers = 'five'", "users: expected a whole number, got 'five'"),
        ("[scenario.api]\nusers = true", "users: expected a whole number, got True"),
        ("[scenario.api]\nusers = 1.5", "users: expected a whole number, got 1.5"),
        ("[scenario.api]\nusers = 0", "users: must be > 0 and finite, got 0"),
        ("[scenario.api]\nspawn_rate = -1", "spawn_rate: must be > 0"),
        ("[scenario.api]\nspawn_rate = nan", "spawn_rate: must be > 0 and finite, got nan"),
        ("[scenario.api]\nspawn_rate = inf", "spawn_rate: must be > 0 and finite"),
        ("[scenario.api]\nduration = 'soon'", "duration: expected a length such as"),
        ("[scenario.api]\nduration = inf", "duration: must be longer than zero and finite"),
        ("[scenario.api]\ntags = 'a'", "tags: expected a list, got 'a'"),
        ("[scenario.api]\ntags = [1]", "tags: expected text, got 1"),
        ("[scenario.api]\nenvironment = 'a'", "environment: expected a table"),
        ("[policy]\nalpa = 1", "\\[policy\\]: unknown key 'alpa'"),
        ("[policy.tolerance]\nrps = '+1%'", "\\[policy\\]: rps: gets worse when it falls"),
        ("x = [", "is not TOML"),
        ("email = 5", r"\[email\]: expected a table, got 5"),
        ("reports = ' '", "reports: expected the name of a file or folder, got ' '"),
        ("[scenario.api]\npeak = [5]", r"peak: expected a number or text, got \[5\]"),
        ("[scenario.api]\nspawn_rate = '4'", "spawn_rate: expected a number, got '4'"),
    ],
)
def test_a_wrong_file_names_the_key(settings_file, text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(settings_file(text))
    assert "perfkit.toml" in str(caught.value)


@pytest.mark.parametrize("line", ["host = '${PERFKIT_NOT_SET}'", "environment = { KEY = 'x${PERFKIT_NOT_SET}' }"])
def test_a_variable_that_is_not_set_stops_its_scenario_and_no_other(settings_file, line):
    other = "[scenario.other]\nlocustfile = 'x.py'\n"
    settings = load_settings(settings_file(f"[scenario.api]\n{line}\n{other}"))
    assert settings.scenario("other").name == "other"
    assert settings.scenario("rag").demo
    assert settings.all_names == ("api", "other")
    for _ in range(2):
        with pytest.raises(
            UnsetVariable, match=r"scenario\.api\]: the environment variable PERFKIT_NOT_SET is not set"
        ):
            settings.scenario("api")  # not the built-in scenario of that name


def test_an_unknown_scenario_names_the_nearest(settings_file):
    with pytest.raises(SettingsError, match="'basline': not known \\(did you mean 'baseline'\\?\\)"):
        load_settings(settings_file("")).scenario("basline")
    with pytest.raises(SettingsError, match=r"no perfkit.toml is in this folder or above.*`perfkit init --host URL`"):
        Settings().scenario("shop")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h", 3600),
        (" 1H 30".replace(" ", ""), 3630),
    ],
)
def test_durations(written, seconds):
    assert parse_duration(written, "here") == seconds


@pytest.mark.parametrize(
    "written", ["", " ", "0s", 0, -5, "-5s", "5 parsecs", "s", True, None, float("nan"), float("inf")]
)
def test_durations_that_are_none(written):
    with pytest.raises(ValueError, match=r"^here: "):
        parse_duration(written, "here")


def test_profile_follows_from_users_and_spawn_rate(tmp_path):
    file = tmp_path / "l.py"
    assert Scenario("s", file, users=10, spawn_rate=1.0, duration_s=60.0).profile == LoadProfile("ramp", 10, 1.0, 60.0)
    assert Scenario("s", file, users=10, spawn_rate=10.0).profile.kind == "steady"
    assert Scenario("s", file).profile.kind == "custom"


def test_override_keeps_what_is_not_given(tmp_path):
    scenario = Scenario("s", tmp_path, users=10)
    assert override(scenario, "--users", users=None, host="http://x").users == 10
    with pytest.raises(SettingsError, match="--users: users: must be > 0 and finite, got -1"):
        override(scenario, "--users", users=-1)


def test_channels_are_read(settings_file):
    settings = load_settings(
        settings_file('[email]\nto = ["a@b.example"]\nfrom = "ci@b.example"\nport = 25\n[issues]\nlabels = []\n')
    )
    assert (settings.email.to, settings.email.sender, settings.email.port) == (("a@b.example",), "ci@b.example", 25)
    assert (settings.issues.labels, settings.chat.urls) == ((), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[email]\nsender = "x"', r"\[email\]: unknown key 'sender'.*known are to, from"),
        ('[email]\nto = "x"', r"\[email\]: to: expected a list"),
        ('[email]\nsecurity = "ssl"', r"\[email\]: security: one of starttls, tls, none, got 'ssl'"),
        ("[email]\nport = 99999", r"\[email\]: port: expected a whole number <= 65535, got 99999"),
        ("[issues]\nmost_new = 0", r"\[issues\]: most_new: expected a whole number >= 1, got 0"),
        ('[chat]\nwhen = "change"', r"\[chat\]: when: one of .*did you mean 'changes'"),
    ],
)
def test_a_wrong_channel_names_its_key(settings_file, text, said):
    with pytest.raises(SettingsError, match=said):
        load_settings(settings_file(text))
