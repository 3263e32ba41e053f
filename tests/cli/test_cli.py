"""The command line: output, exit codes, errors by their text."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from samples import KNOWN_BASELINE, KNOWN_CANDIDATE, REPOSITORY, known_answer_files, requests, write_locust

from perfkit import compare
from perfkit.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


def perfkit(*words: str | Path) -> Said:
    out, err = io.StringIO(), io.StringIO()
    return Said(main([str(word) for word in words], out, err), out.getvalue(), err.getvalue())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    known_answer_files(tmp_path)
    return tmp_path


KNOWN_ANSWER = ("compare", "performance-baselines-v2.json", "--candidate", "metrics.json")


def test_known_answer_under_fixed_limits(here: Path) -> None:
    said = perfkit(
        *KNOWN_ANSWER, "--rule", "threshold", "--format", "markdown", "--output", "reports/regression-analysis.md"
    )
    text = (here / "reports" / "regression-analysis.md").read_text()
    assert said.code == 1
    assert "| Evaluated | Passed | Critical |\n| --: | --: | --: |\n| 4 | 2 | 2 |" in text
    critical, passed = text.split("## Passed")
    assert "| api_gateway | error rate | 0.330 % | 1.00 % | +203 % | +0.5 % |" in critical
    assert "| rag_service | error rate | 0 % | 0.330 % | +∞ % (from zero) | +0.5 % |" in critical
    assert "| api_gateway | throughput | 50.0/s | 35.0/s | -30.0 % | -30 % |" in passed
    assert "| rag_service | throughput | 25.0/s | 24.0/s | -4.0 % | -30 % |" in passed


def test_known_answer_under_evidence_claims_no_regression(here: Path) -> None:
    said = perfkit(*KNOWN_ANSWER, "--format", "json")
    document = json.loads(said.out)
    errors = {f["service"]: f for f in document["findings"] if f["metric"] == "error_rate_pct"}
    assert said.code == 0
    assert document["verdict"] == "inconclusive"
    assert all(finding["verdict"] == "inconclusive" for finding in document["findings"])
    assert errors["api_gateway"]["requests_needed"] > 1500
    assert errors["rag_service"]["requests_needed"] > errors["api_gateway"]["requests_needed"]
    assert any("1 user in the baseline, 100 users in the candidate" in text for text in document["warnings"])
    assert any("300 requests in 2 minutes are not 50 rps" in text for text in document["warnings"])


def test_evidence_says_in_words_that_nothing_can_be_claimed(here: Path) -> None:
    said = perfkit(*KNOWN_ANSWER, "--format", "markdown")
    assert "A regression cannot be claimed" in said.out
    assert "requests on each side" in said.out
    assert perfkit(*KNOWN_ANSWER, "--fail-on", "inconclusive").code == 1
    assert perfkit(*KNOWN_ANSWER, "--fail-on", "never", "--rule", "threshold").code == 0


def test_text_and_junit_say_the_same(here: Path) -> None:
    text = perfkit(*KNOWN_ANSWER, "--rule", "threshold")
    junit = ElementTree.fromstring(perfkit(*KNOWN_ANSWER, "--rule", "threshold", "--format", "junit").out)
    assert "✗ regression" in text.out
    assert "+203 %" in text.out
    suite = junit.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "2", "0")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "Usage: perfkit"),
        (("compair",), 2, "No such command 'compair'. Did you mean 'compare'?"),
        (("compare", "performance-baselines-v2.json"), 2, "Missing option '--candidate'"),
        (("compare", "nowhere.csv", "--candidate", "metrics.json"), 2, "nowhere.csv: there is no such file"),
        (("compare", "broken.json", "--candidate", "metrics.json"), 2, "broken.json"),
        (("compare", "note.txt", "--candidate", "metrics.json"), 2, "note.txt: no reader knows this format"),
        (("compare", "metrics.json", "--candidate", "metrics.json"), 3, ""),
        (("compare", "metrics.json", "--candidate", "metrics.json", "--fail-on", "never"), 3, ""),
        ((*KNOWN_ANSWER, "--policy", "policy.toml"), 2, "unknown key 'tolerence' (did you mean 'tolerance'?)"),
        ((*KNOWN_ANSWER, "--policy", "none.toml"), 2, "none.toml: there is no such file"),
        ((*KNOWN_ANSWER, "--output", "/dev/full"), 4, "/dev/full: cannot be written"),
        (("run", "bse"), 2, "did you mean 'baseline'?"),
        (("run",), 2, "name a scenario, or say --all"),
        (("run", "baseline", "--duration", "soon"), 2, 'expected a length such as "90s"'),
        (("run", "baseline", "--users", "0"), 2, "--users"),
        (("run", "x", "--locustfile", "none.py"), 4, "none.py: there is no such locustfile"),
        (("run", "x", "--locustfile", "bad.py"), 4, "bad.py:1: is not valid Python"),
        (("simulate", "baseline"), 2, "Missing option '--seed'"),
        (("metrics", "note.txt"), 2, "note.txt"),
        (("report", "compare", "nowhere", "--candidate", "metrics.json"), 2, "nowhere"),
    ],
)
def test_wrong_use_is_named_and_never_green(here: Path, words: tuple[str, ...], code: int, text: str) -> None:
    (here / "broken.json").write_text(json.dumps(KNOWN_BASELINE)[:100])
    (here / "note.txt").write_text("hello")
    (here / "policy.toml").write_text("[policy]\ntolerence = 3\n")
    (here / "bad.py").write_text("def x(:\n")
    said = perfkit(*words)
    assert said.code == code
    assert text in said.out + said.err


HOSTILE = "</script><img src=x onerror=alert(1)>|`x`\n@everyone ![x](javascript:alert(1)) \u202eabc"


def test_hostile_service_names_stay_text(here: Path) -> None:
    for name, content in (("performance-baselines-v2.json", KNOWN_BASELINE), ("metrics.json", KNOWN_CANDIDATE)):
        (here / name).write_text(json.dumps({HOSTILE: content["api_gateway"]}))
    markdown = perfkit(*KNOWN_ANSWER, "--rule", "threshold", "--format", "markdown").out
    row = next(line for line in markdown.splitlines() if "error rate |" in line and "&#60;" in line)
    assert row.count("|") == 7
    assert not any(bad in markdown for bad in ("<img", "</script", "@everyone", "](", "\u202e", "`x`"))
    junit = ElementTree.fromstring(perfkit(*KNOWN_ANSWER, "--rule", "threshold", "--format", "junit").out)
    assert len(junit.findall(".//testcase")) == 2
    assert "\u202e" not in perfkit(*KNOWN_ANSWER, "--rule", "threshold").out


def test_metrics_and_baseline_extract_write_what_compare_reads(here: Path) -> None:
    assert perfkit("simulate", "baseline", "--seed", "1", "--duration", "60s", "--at", "2026-01-02T03:04:05Z").code == 0
    stats = here / "load_results_baseline_20260102_030405_stats.csv"
    assert stats.is_file()
    assert perfkit("metrics", stats, "--output", "m.json").code == 0
    assert perfkit("baseline", "extract", stats).code == 0
    entry = json.loads((here / "performance-baselines-v2.json").read_text())["api_gateway"]
    assert entry["baseline_users"] == 1
    assert entry["total_requests"] > 20
    assert entry["timestamp"].startswith("2026-01-02T03:04:0")
    assert "p999_latency_ms" not in entry  # too few requests: absent, not invented
    assert entry == json.loads((here / "m.json").read_text())["api_gateway"]


def test_import_keeps_a_file_once(here: Path) -> None:
    perfkit("simulate", "baseline", "--seed", "1", "--duration", "60s", "--at", "2026-01-02T03:04:05Z")
    first = perfkit("import", "load_results_baseline_20260102_030405", "--scenario", "base", "--label", "build=7")
    again = perfkit("import", "load_results_baseline_20260102_030405_stats.csv", "--scenario", "base")
    assert first.code == 0
    assert first.out == again.out
    listed = json.loads(perfkit("runs", "--format", "json").out)
    assert [(row["id"], row["scenario"]) for row in listed] == [(first.out.strip(), "base")]
    assert first.out.strip() in perfkit("runs").out


def test_init_writes_settings_that_load_and_leaves_files_alone(here: Path) -> None:
    assert perfkit("init").code == 0
    assert "did you mean 'shop'" in perfkit("run", "shp").err
    (here / "perfkit.toml").write_text("[scenario.mine]\nlocustfle = 'x.py'\n")
    assert "left alone" in perfkit("init").out
    assert "unknown key 'locustfle' (did you mean 'locustfile'?)" in perfkit("runs").err


def test_help_has_examples_and_costs_little(here: Path) -> None:
    for words in (("run",), ("compare",), ("simulate",), ("metrics",), ("report", "compare"), ("report", "baseline")):
        assert "Example" in perfkit(*words, "--help").out
    script = (
        "import sys; from perfkit.cli import main; main(['--help'], sys.stdout, sys.stderr); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for heavy in ("numpy", "pandas", "scipy", "plotly", "locust", "pyarrow", "rich.console"):
        assert f"'{heavy}'" not in done.stdout


def test_a_closed_pipe_is_no_traceback(here: Path) -> None:
    command = f"{sys.executable} -m perfkit {' '.join(KNOWN_ANSWER)} --format json | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ})
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_a_narrow_terminal_shows_whole_words(tmp_path, columns):
    from rich.console import Console

    from perfkit.report.text import comparison_table

    before, after = known_answer_files(tmp_path)
    comparison = compare([before], [after])
    screen = Console(width=columns, file=io.StringIO(), force_terminal=False)
    screen.print(comparison_table(comparison, screen))
    text = screen.file.getvalue()
    assert "…" not in text
    assert {"service", "metric", "baseline", "candidate", "change", "verdict"} <= set(text.splitlines()[0].split())
    assert ("MDE" in text) == (columns == 160)


# The surroundings of a command ----------------------------------------------------------------------------------------


def outside(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command line as a shell runs it; its exit code is that of perfkit, not of what it is piped to."""
    line = f"set -o pipefail; {sys.executable} -m perfkit {command}"
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("compare performance-baselines-v2.json --candidate metrics.json --rule threshold | true", 1),
        ("compare metrics.json --candidate metrics.json --format json | head -c 1", 3),
        ("--help | true", 0),
    ],
)
def test_the_exit_code_counts_also_when_the_reader_of_the_output_has_gone(here: Path, command: str, code: int) -> None:
    done = outside(here, command)
    assert done.returncode == code
    assert done.stderr == ""


def test_an_output_that_cannot_be_written_is_told(here: Path) -> None:
    done = outside(here, "compare performance-baselines-v2.json --candidate metrics.json > /dev/full")
    assert done.returncode == 4
    assert done.stderr == "perfkit: standard output cannot be written: No space left on device\n"


def test_what_init_writes_changes_no_verdict(here: Path) -> None:
    before = perfkit(*KNOWN_ANSWER, "--rule", "threshold").out, perfkit(*KNOWN_ANSWER).out
    assert perfkit("init").code == 0
    assert (perfkit(*KNOWN_ANSWER, "--rule", "threshold").out, perfkit(*KNOWN_ANSWER).out) == before


def test_settings_without_a_policy_are_not_taken_for_a_policy(here: Path) -> None:
    from perfkit.cli.report import policy_file

    (here / "perfkit.toml").write_text('store = "runs"\n')
    assert policy_file(None, here / "perfkit.toml") is None
    (here / "perfkit.toml").write_text("[policy]\nalpha = 0.02\n")
    assert policy_file(None, here / "perfkit.toml") == str(here / "perfkit.toml")


@pytest.mark.parametrize("slower", ["nan", "-200", "99999", "x"])
def test_a_change_that_cannot_be_injected_is_wrong_usage(slower: str) -> None:
    said = perfkit("demo", "--slower", slower)
    assert said.code == 2
    assert "--slower" in said.err


def test_files_of_one_set_are_one_run_and_copies_make_no_baseline(here: Path) -> None:
    write_locust(here / "load_results_x", requests(np.random.default_rng(1)))
    once = json.loads(perfkit("metrics", "load_results_x_stats.csv").out)
    assert json.loads(perfkit("metrics", "load_results_x*").out) == once
    said = perfkit("baseline", "extract", "load_results_x_stats.csv", "load_results_x_stats_history.csv")
    assert (said.code, "holds the same run as" in said.err) == (2, True)


def test_unfit_runs_make_no_baseline(here: Path) -> None:
    (here / "bad.json").write_text('{"a": {"rps": 0, "total_requests": 0, "total_failures": 0}}')
    said = perfkit("baseline", "extract", "bad.json")
    assert said.code == 3
    assert "the run is unfit: requests" in said.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": {"error_rate_pct": 150}}', "error_rate_pct: expected at most 100, got 150"),
        ('{"a": {"total_requests": 5, "total_failures": 6}}', "6 failures of 5 requests"),
        ('{"a": {"total_requests": 5.5}}', "total_requests: expected a whole number, got 5.5"),
        ('{"a": {"rps": 5}, "a": {"rps": 6}}', "the key 'a' stands there twice"),
        ('{"a": {"rps": 5, "p95_latency": 6}}', "unknown key 'p95_latency' (did you mean 'p95_latency_ms'?)"),
    ],
)
def test_contradictory_metrics_are_refused(here: Path, content: str, message: str) -> None:
    (here / "odd.json").write_text(content)
    said = perfkit("compare", "odd.json", "--candidate", "metrics.json")
    assert said.code == 2
    assert message in said.err
    assert "odd.json" in said.err


def test_a_scenario_that_the_store_does_not_know_is_told(here: Path) -> None:
    said = perfkit("runs", "--store", REPOSITORY / "data" / "samples" / "baseline", "--scenario", "dmo")
    assert (said.code, "did you mean 'demo'?" in said.err) == (2, True)
    assert "is a file" in perfkit("runs", "--store", here / "metrics.json").err


def test_the_classic_pipeline_from_the_simulator_to_the_issue(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline profiles three services, the progressive run two of them, with errors that the baseline has not."""
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/shop")
    (here / "perfkit.toml").write_text(
        '[scenario.api]\nenvironment = { PERFKIT_DEMO_WEIGHTS = "api_gateway=3,rag_service=1" }\n'
        '[issues]\nrepository = "acme/shop"\n'
    )
    assert perfkit("simulate", "baseline", "--seed", "1", "--at", "2026-01-02T03:04:05Z", "--output", "base").code == 0
    api = ("simulate", "api", "--seed", "2", "--users", "3", "--duration", "60s", "--at", "2026-01-02T04:00:00Z")
    assert perfkit(*api, "--inject", "rag_service:error_rate_pct=4", "--output", "new").code == 0
    base, new = (next((here / name).glob("*_stats.csv")) for name in ("base", "new"))
    assert perfkit("baseline", "extract", base).code == 0
    assert perfkit("metrics", new, "--output", "metrics.json").code == 0
    assert set(json.loads((here / "performance-baselines-v2.json").read_text())) == {
        "api_gateway",
        "rag_service",
        "mcp_server",
    }
    document = json.loads(perfkit(*KNOWN_ANSWER, "--rule", "threshold", "--format", "json").out)
    assert {f["service"] for f in document["findings"]} == {"api_gateway", "rag_service"}
    assert [f["service"] for f in document["findings"] if f["verdict"] == "regression"] == ["rag_service"]
    said = perfkit(
        *KNOWN_ANSWER, "--rule", "threshold", "--format", "markdown", "--output", "reports/regression-analysis.md"
    )
    text = (here / "reports" / "regression-analysis.md").read_text()
    assert (said.code, document["verdict"]) == (1, "regression")
    assert "| 6 | 5 | 1 |" in text
    assert "Not measured in the candidate: mcp_server (" in text
    (here / "result.json").write_text(json.dumps(document))
    issue = perfkit("issue", "result.json", "--dry-run")
    assert issue.code == 0
    assert "rag_service" in issue.out
