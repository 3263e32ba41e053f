"""Settings that do not mean what their user thinks are told, with what to do; errors are what no further run cures."""

import json
from datetime import UTC, date, datetime

import pytest
from command_line import invoke
from histories import nights, stored
from samples import plain_stats
from samples import run as make_run

from perfkit import Policy, RunStore
from perfkit.cli.audit import Grade, audit_settings
from perfkit.cli.options import Workspace
from perfkit.config.settings import BUILT_IN, Settings, load_settings
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.curation import acknowledge, pin_runs
from perfkit.history.run_selector import HistoryContext
from perfkit.model.records import Check, Severity, Validity

HOSTILE = "</script>![x](javascript:1)|@everyone\r\n\u202e" + "x" * 10_000
LATENCIES = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "p999_latency_ms")
SECRETS = ("PERFKIT_SMTP_HOST", "PERFKIT_SMTP_USER", "PERFKIT_SMTP_PASSWORD", "GITHUB_TOKEN", "GITHUB_REPOSITORY")


@pytest.fixture
def house(tmp_path, monkeypatch, rng):
    """A folder with a store of twelve quiet runs of the scenario api, services a and b; no secrets are set."""
    monkeypatch.chdir(tmp_path)
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "locustfile.py").write_text("")
    stored(tmp_path / "data" / "runs", nights(rng, 12, sd=0.005, services=("a", "b")))
    return tmp_path


def audit(house, text='[scenario.api]\nlocustfile = "locustfile.py"\n', **more):
    (house / "perfkit.toml").write_text(text, encoding="utf-8")
    settings = load_settings(house / "perfkit.toml")
    return audit_settings(Workspace(settings, settings.store, settings.policy), **more)


def told(found, check):
    return [(one.subject, one.grade.value, one.found, one.advice) for one in found.problems if one.check == check]


def test_all_is_well(house):
    found = audit(house)
    assert told(found, "scenario") == []
    assert found.problems == ()
    assert found.ok(strict=True)
    assert {"store", "scenario", "tolerance", "blind"} <= {one.check for one in found.findings}


def test_without_settings_and_runs_there_is_nothing_to_object_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = audit_settings(Workspace(Settings(BUILT_IN, Policy()), "data/runs", Policy()))
    assert found.problems == ()
    assert list(tmp_path.iterdir()) == []


# The store ------------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_read_or_opened_is_an_error_and_the_rest_is_still_told(house):
    (house / "file").write_text("no folder")
    for url in ("file", "nosuch://bucket", "git+branch://perf"):
        found = audit(house, f'store = "{url}"\n[issues]\nrepository = "a/b"\n')
        assert [row[1] for row in told(found, "store")] == ["error"], url
        assert ["GITHUB_TOKEN" in row[2] for row in told(found, "credentials")] == [True]


def test_a_store_that_cannot_be_written_is_an_error(house, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("perfkit.cli.audit.tempfile.TemporaryFile", refuse)
    ((_, grade, text, advice),) = told(audit(house), "store")
    assert (grade, text) == ("error", "cannot be written: Read-only file system")
    assert "could not keep what it measures" in advice


def test_a_store_elsewhere_is_tried_by_a_write_that_leaves_nothing(rng):
    store, _ = stored("memory://audit", nights(rng, 3))
    found = audit_settings(Workspace(Settings(BUILT_IN, Policy()), "memory://audit", Policy()), skip=["credentials"])
    assert told(found, "store") == []
    assert not store.backend.exists(".noise/audit")


def test_broken_runs_are_a_warning(house):
    folder = house / "data" / "runs"
    broken = next(folder.glob("2*"))
    (broken / "run.json").write_bytes(b"\x00{")
    ((_, grade, text, _),) = told(audit(house), "store")
    assert (grade, text) == ("warn", f"1 broken runs: {broken.name}")


# Scenarios and services -----------------------------------------------------------------------------------------------


def test_scenarios_without_runs_and_without_locustfile(house):
    found = audit(
        house,
        '[scenario.api]\nlocustfile = "gone.py"\n[scenario.shop]\nlocustfile = "locustfile.py"\n'
        "[policy.scenarios.appi]\np95_latency_ms = 20\n",
    )
    rows = {row[0]: row[1:] for row in told(found, "scenario")}
    assert rows["api"][0] == "error"
    assert "gone.py: there is no such locustfile" in rows["api"][1]
    assert rows["shop"] == (
        "warn",
        f"no run in {house / 'data' / 'runs'}",
        "Run it, `perfkit run shop`, or take it out.",
    )
    assert rows["appi"][0] == "warn"
    assert "did you mean 'api'?" in rows["appi"][2]


def test_services_that_no_run_has_are_orphans(house):
    found = audit(
        house,
        "[policy.tolerance.checkuot]\np95_latency_ms = 20\n[policy.tolerance.a]\np95_latency_ms = 20\n"
        "[policy.objectives.bb]\np95_latency_ms = { max = 300 }\n"
        '[policy.scenarios.api.c]\np95_latency_ms = 20\n[policy.tolerance."(all services)"]\np95_latency_ms = 20\n',
    )
    rows = {row[0]: row[3] for row in told(found, "service")}
    assert set(rows) == {"checkuot", "bb", "c"}
    assert "the common tolerances hold" in rows["checkuot"]
    assert "the absolute limit is never checked: correct the name (did you mean 'b'?)" in rows["bb"]
    assert "in api" in rows["c"]
    assert found.ok()
    assert not found.ok(strict=True)


def test_a_weak_generator_and_a_scenario_without_valid_runs_are_warnings(house):
    """An error here would stop the pipeline before it could make the run that cures it."""
    saturated = Validity((Check("generator_cpu", 99.0, 90.0, Severity.INVALID, "Use more workers."),))
    store = RunStore(house / "data" / "runs")
    store.add(make_run({"a": plain_stats()}, number=90, validity=saturated))
    store.add(make_run({"w": plain_stats()}, number=91, scenario="web", validity=saturated))
    found = audit(house)
    assert [(row[0], row[1], row[3]) for row in told(found, "generator")] == [
        ("api", "warn", "Use more workers."),
        ("web", "warn", "Use more workers."),
    ]
    ((subject, grade, text, _),) = told(found, "scenario")
    assert (subject, grade, text) == ("web", "warn", "no valid run")


def test_a_hostile_name_breaks_no_table(house, rng):
    stored(house / "data" / "runs", nights(rng, 4, first=50, services=(HOSTILE,), scenario=HOSTILE))
    (house / "perfkit.toml").write_text(
        "[policy]\ngating = ['avg_latency_ms']\n[policy.tolerance]\navg_latency_ms = 0.01\n"
    )
    code, out, _ = invoke("check", "--settings-only")
    assert code == 0
    assert "\u202e" not in out
    assert "\r" not in out
    assert max(map(len, out.splitlines())) < 700
    assert len(out) < 5000


# Tolerances -----------------------------------------------------------------------------------------------------------


def test_tolerances_below_the_noise_say_what_can_be_shown(house, rng):
    stored(house / "data" / "runs", nights(rng, 12, first=20, sd=0.08, services=("a",), scenario="noisy"))
    found = audit(house, "[policy.tolerance]\navg_latency_ms = 2\n[policy]\ngating = ['avg_latency_ms']\n")
    rows = {row[0]: row[1:] for row in told(found, "tolerance")}
    grade, text, advice = rows["noisy, average latency"]
    assert grade == "warn"
    assert text.startswith("a: the tolerance is 2 %, runs show ")
    assert "Even 10 runs a side seldom call a worsening of that size: run longer" in advice
    assert "api, average latency" not in rows
    loose = audit(house, "[policy.tolerance]\navg_latency_ms = 40\n[policy]\ngating = ['avg_latency_ms']\n")
    assert told(loose, "tolerance") == []


def test_fixed_limits_below_the_noise_alarm_on_identical_builds(house, rng):
    stored(house / "data" / "runs", nights(rng, 12, first=20, sd=0.08, services=("a",), scenario="noisy"))
    found = audit(house, "[policy]\nrule = 'threshold'\n[policy.tolerance]\np95_latency_ms = '+5%'\n")
    advice = {row[0]: row[3] for row in told(found, "tolerance")}["noisy, p95 latency"]
    assert "Fixed limits below the noise alarm on identical builds" in advice


def test_few_runs_do_not_tell(house, rng):
    stored(house / "data" / "runs", nights(rng, 2, first=40, scenario="young"))
    ((subject, grade, _, advice),) = told(audit(house), "tolerance")
    assert (subject, grade) == ("young", "warn")
    assert "perfkit run young --repeat 3" in advice


@pytest.mark.parametrize(
    ("table", "blind"),
    [
        ("", set()),
        ("\n".join(f"{name} = 1000" for name in LATENCIES), {"all services"}),
        ("\n".join(f"{name} = 'off'" for name in LATENCIES), {"all services"}),
        ("\n".join(f"{name} = 99" for name in LATENCIES), set()),
        ("\n".join(f"{name} = '+20ms'" for name in LATENCIES), set()),
        ("[policy.tolerance.a]\n" + "\n".join(f"{name} = 100" for name in LATENCIES), {"a"}),
        ("[policy.scenarios.api]\n" + "\n".join(f"{name} = 200" for name in LATENCIES), {"scenario api"}),
        ("[policy.scenarios.api.b]\n" + "\n".join(f"{name} = 'off'" for name in LATENCIES), {"b in api"}),
    ],
)
def test_a_policy_that_lets_a_doubling_through_is_an_error(house, table, blind):
    found = audit(house, f"[policy.tolerance]\n{table}\n")
    assert {row[0] for row in told(found, "blind")} == blind
    assert found.ok() is not bool(blind)


def test_absolute_limits_alone_are_no_blindness(house):
    off = "\n".join(f"{name} = 'off'" for name in LATENCIES)
    found = audit(house, f"[policy.objectives]\np95_latency_ms = {{ max = 300 }}\n[policy.tolerance]\n{off}\n")
    assert told(found, "blind") == []


# Baselines and acknowledgements ---------------------------------------------------------------------------------------


def pinned(house, name, **more):
    store = RunStore(house / "data" / "runs")
    past = HistoryContext(store, house / "data" / "baselines")
    ids = [run_id for run_id in store.ids() if "-api-" in run_id][:4]
    return pin_runs(past, name, [store.get(one) for one in ids], reason="why", by="me", **more), ids


def test_baselines_that_expired_or_lost_runs(house):
    pinned(house, "old", expires=date(2026, 1, 1))
    _, ids = pinned(house, "whole", expires=date(2999, 1, 1))
    path = house / "data" / "baselines" / "api" / "lost.json"
    document = json.loads((path.parent / "whole.json").read_text())
    path.write_text(json.dumps({**document, "name": "lost", "runs": ["gone-1", "gone-2"]}))
    (path.parent / "part.json").write_text(json.dumps({**document, "name": "part", "runs": [*ids, "gone-1"]}))
    (path.parent / "torn.json").write_text('{"schema":')
    rows = told(audit(house), "baseline")
    by_name = {}
    for subject, grade, text, _ in rows:
        by_name.setdefault(subject.split(":")[-1].split("/")[-1], []).append((grade, text))
    assert any(grade == "warn" and "expired on 2026-01-01" in text for grade, text in by_name["old"])
    assert any("1 of its 5 runs are gone" in text for _, text in by_name["part"])
    assert [grade for grade, _ in by_name["lost"]] == ["error"]
    assert [grade for grade, _ in by_name["torn.json"]] == ["error"]
    assert all("stale" in text for _, text in by_name["whole"])  # the runs of these tests are of 2025


def test_acknowledgements_that_ran_out_or_match_nothing(house, rng):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store, ids = stored(
        house / "data" / "runs",
        nights(rng, 20, first=100, scenario="slow"),
        nights(rng, 12, first=120, scenario="slow", factor=1.4),
    )
    past, file = HistoryContext(store), AcknowledgedFile(house / "data" / "acknowledged.json")
    file.add(acknowledge(past, ids[20], Policy(), reason="intended", by="me", now=now))
    assert told(audit(house), "acknowledged") == []
    good = json.loads(file.path.read_text())
    one = good["acknowledged"][0]
    smaller = [{**item, "change": item["change"] / 4, "low": None, "high": None} for item in one["movements"]]
    for change, text in [
        ({"until": "2026-02-01"}, "ran out on 2026-02-01"),
        ({"scenario": "gone"}, "its scenario has no runs"),
        ({"id": "x", "around": ["x", "y"]}, "its runs are gone"),
        ({"movements": smaller}, "no change that is seen there is covered by it"),
    ]:
        file.path.write_text(json.dumps({**good, "acknowledged": [{**one, **change}]}))
        ((_, grade, found, advice),) = told(audit(house), "acknowledged")
        assert (grade, found) == ("warn", text)
        assert "perfkit ack --remove" in advice
    file.path.write_text("{")
    ((_, grade, _, _),) = told(audit(house), "acknowledged")
    assert grade == "error"


# Channels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ("", []),
        ("[email]\nto = ['a@b.c']", ["[email]: host is missing"]),
        ("[email]\nhost = 'mail'", ["PERFKIT_SMTP_USER and PERFKIT_SMTP_PASSWORD are not set"]),
        ("[email]\nhost = 'mail'\nsecurity = 'none'", []),
        ("[email]\nhost = 'mail'\nsecurity = 'none'\nto = ['nobody']", ["[email]: to: 'nobody' is no address"]),
        ("[issues]\nlabels = ['perf']", ["GitHub: no repository is named", "GITHUB_TOKEN: is not set"]),
        (
            "[issues]\nrepository = 'nonsense'",
            ["GitHub: the repository must be owner/name", "GITHUB_TOKEN: is not set"],
        ),
        ("[chat]\nurls = ['${SLACK_URL}']", ["[chat]: urls: number 1: the environment variable SLACK_URL is not set"]),
        ("[chat]\nurls = ['nosuch://x', 'json://127.0.0.1']", ["[chat]: urls: number 1 is no address that Apprise"]),
        ("[chat]\nwebhook = 'http://x/${HOOK}'", ["[chat]: webhook: the environment variable HOOK is not set"]),
        ("[chat]\nwebhook = 'ftp://hush-hush'", ["[chat]: webhook: expected an address such as"]),
    ],
)
def test_credentials_that_are_missing(house, settings, missing):
    rows = told(audit(house, settings), "credentials")
    assert [row[2][: len(text)] for row, text in zip(rows, missing, strict=True)] == missing
    assert {row[1] for row in rows} <= {"error"}
    assert "hush" not in repr(rows)


def test_credentials_that_are_there_are_fine_and_never_shown(house, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, {"GITHUB_REPOSITORY": "a/b", "PERFKIT_SMTP_HOST": "mail"}.get(name, "hush-hush"))
    monkeypatch.setenv("SLACK_URL", "json://hush-hush")
    (house / "perfkit.toml").write_text(
        "[email]\nto = ['a@b.c']\n[issues]\nlabels = ['perf']\n[chat]\nurls = ['${SLACK_URL}']\n"
    )
    code, out, err = invoke("check", "--settings-only", "--format", "json")
    document = json.loads(out)
    found = [one for one in document["settings"]["remarks"] if one["check"] == "credentials"]
    assert [(one["subject"], one["grade"]) for one in found] == [
        ("[email]", "ok"),
        ("[issues]", "ok"),
        ("[chat]", "ok"),
    ]
    assert code == 0
    assert "hush" not in out + err


def test_half_a_login_is_an_error_without_tls_too(house, monkeypatch):
    monkeypatch.setenv("PERFKIT_SMTP_USER", "me")
    ((_, _, text, _),) = told(audit(house, "[email]\nhost = 'mail'\nsecurity = 'none'\n"), "credentials")
    assert text == "PERFKIT_SMTP_USER is set, and PERFKIT_SMTP_PASSWORD is not"


def test_services_are_audited_under_the_names_that_they_have_now(house):
    text = (
        "[services]\na = 'shop'\n[policy.tolerance.{}]\navg_latency_ms = 0.1\n[policy]\ngating = ['avg_latency_ms']\n"
    )
    found = audit(house, text.format("shop"))
    assert told(found, "service") == []
    assert "shop: the tolerance is 0.1 %" in told(found, "tolerance")[0][2]
    ((name, grade, _, advice),) = told(audit(house, text.format("a")), "service")
    assert (name, grade) == ("a", "warn")
    assert advice.startswith("Orphaned")


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_fails_on_errors_and_with_strict_on_warnings(house):
    (house / "perfkit.toml").write_text("[policy.tolerance.nobody]\np95_latency_ms = 20\n")
    code, out, _ = invoke("check", "--settings-only")
    assert code == 0
    assert out.startswith("settings: 0 errors, 1 warning, ")
    assert "! nobody: Orphaned, so the common tolerances hold" in out
    assert invoke("check", "--settings-only", "--strict")[0] == 2
    assert invoke("check", "--settings-only", "--strict", "--skip", "service")[0] == 0
    (house / "perfkit.toml").write_text("[email]\nhost = 'mail'\n")
    assert invoke("check", "--settings-only")[0] == 2
    assert invoke("check", "--settings-only", "--skip", "credentials")[0] == 0


def test_the_document_of_the_command(house):
    code, out, _ = invoke("check", "--settings-only", "--format", "json")
    document = json.loads(out)
    assert code == 0
    assert (document["schema"], document["gate"], document["settings"]["ok"]) == ("perfkit.check/1", None, True)
    assert set(document["settings"]["remarks"][0]) == {"check", "subject", "grade", "found", "advice"}


def test_wrong_usage_and_broken_settings_end_with_2(house):
    assert invoke("check", "--settings-only", "--skip", "everything")[0] == 2
    assert invoke("check", "--settings-only", "--policy", "gone.toml")[0] == 2
    assert invoke("check", "--slower", "10")[0] == 2
    (house / "perfkit.toml").write_text("[policy]\nalhpa = 1\n")
    code, _, err = invoke("check", "--settings-only")
    assert code == 2
    assert "did you mean 'alpha'?" in err


def test_an_audit_has_three_grades():
    assert {grade.value for grade in Grade} == {"ok", "warn", "error"}
