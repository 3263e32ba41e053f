"""What a notification is about: result files, sets of reports, and stores, without a kernel."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import invoke
from histories import nights, stored
from samples import plain_stats, run

from perfkit.cli.notify import newest_result
from perfkit.cli.options import Workspace
from perfkit.config.settings import nearest_settings
from perfkit.model.errors import NotStored
from perfkit.model.records import Check, Severity, Validity, Verdict
from perfkit.report.report_set import Entry, Overview

NO_KERNEL = """
import sys
from pathlib import Path
from perfkit.cli import main
code = main(sys.argv[1:], sys.stdout, sys.stderr)
loaded = {name.partition(".")[0] for name in sys.modules}
heavy = loaded & {"papermill", "nbclient", "nbconvert", "nbformat", "jupyter_client", "ipykernel", "IPython", "plotly"}
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.fixture
def store(rng, tmp_path, monkeypatch):
    """Forty nights of a load test, the newest twenty of which are slower."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text('[issues]\nrepository = "octo/shop"\n')
    monkeypatch.setenv("GITHUB_TOKEN", "")
    return stored("runs", nights(rng, 20), nights(rng, 20, first=20, factor=1.3))


def test_from_a_store_to_an_issue_without_a_kernel(store, tmp_path):
    words = ["issue", "--store", "runs", "--scenario", "api", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", NO_KERNEL, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (call,) = json.loads(done.stdout)
    assert (call["method"], call["path"]) == ("POST", "/repos/octo/shop/issues")
    assert "latency +" in call["json"]["title"]
    assert "perfkit ack" in call["json"]["body"]
    assert "The report with its charts" not in call["json"]["body"]  # there is none


def test_a_store_says_what_compare_says(store):
    code, out, _ = invoke("compare", "--candidate", store[1][-1], "--store", "runs", "--format", "json")
    document = json.loads(out)
    settings = nearest_settings(Path())
    result = newest_result(Workspace(settings, "runs", settings.policy), "api")
    assert (code, result.verdict.value) == (1, document["verdict"])
    assert [one["service"] for one in document["findings"]] == [one["service"] for one in result.document["findings"]]
    assert result.watched


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["summary", "--verdict"], "regression"),
        (["email", "--dry-run", "mail.eml", "--to", "ann@example.org", "--when", "always"], "wrote mail.eml"),
        (["notify", "--dry-run", "--when", "always", "--webhook", "http://127.0.0.1:1/x"], '"verdict": "regression"'),
        (["comment", "--dry-run", "--repository", "a/b", "--pull-request", "3"], "### api: ✗ regression"),
    ],
)
def test_every_channel_takes_a_store(store, words, says):
    code, out, err = invoke(words[0], "--store", "runs", "--scenario", "api", *words[1:])
    assert (code, err) == (0, "")
    assert says in out


def test_a_message_from_a_store_has_no_link_to_a_report_that_is_not_there(store, tmp_path):
    link = "https://ci.example/{report}/report.html"
    (tmp_path / "perfkit.toml").write_text(f"[chat]\nlink = '{link}'\nwebhook = 'http://127.0.0.1:1/x'")
    _, out, _ = invoke("notify", "--store", "runs", "--scenario", "api", "--dry-run")
    assert json.loads(out.partition("\n")[2])["link"] is None
    assert "Judged from runs, scenario api" in out


def test_a_file_and_a_store_go_into_one_summary(store, tmp_path):
    invoke("compare", "--candidate", store[1][-1], "--store", "runs", "--format", "json", "--output", "result.json")
    code, out, _ = invoke("summary", "result.json", "--store", "runs", "--scenario", "api")
    assert code == 0
    assert out.count("<summary>✗ regression: api, compare</summary>") == 2


def test_the_newest_run_counts_even_when_it_is_invalid(rng, store, tmp_path):
    unfit = Validity((Check("too_short", "1 s", "10 s", Severity.INVALID, "run for longer"),))
    store[0].add(run({"a": plain_stats()}, number=60, validity=unfit))
    assert invoke("summary", "--store", "runs", "--scenario", "api", "--verdict")[1] == "invalid\n"
    assert invoke("issue", "--store", "runs", "--scenario", "api", "--dry-run")[0] == 3


def test_the_first_run_has_no_history(rng, store):
    stored("young", nights(rng, 1))
    code, _, err = invoke("issue", "--store", "young", "--scenario", "api", "--dry-run")
    assert code == 3
    assert "perfkit: " in err


def test_a_misspelt_scenario_is_named(store):
    code, _, err = invoke("issue", "--store", "runs", "--scenario", "apo", "--dry-run")
    assert code == 2
    assert "runs: no runs of the scenario 'apo' (did you mean 'api'?); there are api" in err
    settings = nearest_settings(Path())
    with pytest.raises(NotStored, match="it has no runs yet"):
        newest_result(Workspace(settings, "nowhere", settings.policy), "api")


@pytest.mark.parametrize("command", ["issue", "email", "notify", "comment", "summary"])
def test_without_a_result_nothing_is_sent(command):
    code, _, err = invoke(command)
    assert code == 2
    assert "name a RESULT, or a scenario of the store: --scenario NAME" in err


def test_a_set_of_reports_goes_to_chats_too(store, tmp_path):
    (tmp_path / "all" / "api").mkdir(parents=True)
    invoke(
        "compare", "--candidate", store[1][-1], "--store", "runs", "--format", "json", "--output", "all/api/result.json"
    )
    entry = Entry("api", "compare", verdict=Verdict.REGRESSION, sentences=("x",), result="api/result.json")
    Overview((entry,), datetime.now(UTC)).write(tmp_path / "all")
    code, out, _ = invoke("notify", "all", "--dry-run", "--webhook", "http://127.0.0.1:1/x")
    assert code == 0
    assert '"verdict": "regression"' in out
