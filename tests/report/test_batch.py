"""Every notebook of every scenario: in parallel, one failure stops nothing, the worst is the exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_line import invoke
from histories import nights
from object_store import make_bucket, object_store
from samples import REPOSITORY, plain_stats, requests, run

from perfkit import Policy, RunStore, StoreError, read_runs, run_from_requests
from perfkit.cli.report import exit_code
from perfkit.model.errors import SettingsError
from perfkit.model.records import Check, LoadProfile, Severity, Validity, Verdict
from perfkit.report.batch import index_page, report_jobs, run_jobs
from perfkit.report.report_set import Entry, Outcome, Overview, read_overview

HOSTILE = '../<script>alert(1)</script> "@everyone" | \u202e![x](javascript:alert(1))'
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def jobs_of(store, folder, **selection):
    places = {"acknowledged": Path("data/acknowledged.json"), "baselines": Path("data/baselines")}
    selection.setdefault("labels", {})
    return report_jobs(str(store), Path(folder), policy_file=None, policy=Policy(), **places, **selection)


def keep(store, runs):
    return [store.add(one) for one in runs]


# Which jobs there are -----------------------------------------------------------------------------------------------


def test_each_scenario_gets_what_its_runs_are_worth(rng, tmp_path):
    store = RunStore(tmp_path / "runs")
    keep(store, nights(rng, 3))
    keep(store, [run({"a": plain_stats()}, scenario="bad", validity=Validity((Check("x", 1, 0, Severity.INVALID),)))])
    ramp = run_from_requests(requests(np.random.default_rng(1)), scenario="ramp")
    keep(store, [replace(ramp, profile=LoadProfile("ramp", 30, 1.0, 20.0))])
    found = [(job.scenario, job.kind) for job in jobs_of(tmp_path / "runs", tmp_path / "reports")]
    assert found == [
        *(("api", kind) for kind in ("compare", "trend", "baseline")),
        *(("bad", kind) for kind in ("compare", "trend")),
        *(("ramp", kind) for kind in ("compare", "trend", "baseline", "capacity")),
    ]


def test_scenarios_whose_names_make_the_same_file_name_share_no_folder(rng, tmp_path):
    store = RunStore(tmp_path / "runs")
    for name in ("a/b", "a b", "A.B", "..", HOSTILE, HOSTILE + "x" * 100):
        keep(store, nights(rng, 1, scenario=name))
    jobs = jobs_of(tmp_path / "runs", tmp_path / "reports", kinds=("trend",))
    folders = [job.folder for job in jobs]
    assert len({str(folder).lower() for folder in folders}) == 6
    assert {folder.parent for folder in folders} == {tmp_path / "reports"}
    assert all(re.fullmatch(r"[\w.-]+", folder.name) and folder.name != ".." for folder in folders)


def test_a_selection_that_fits_nothing_is_an_error(rng, tmp_path):
    with pytest.raises(StoreError, match="has no run to report on; keep one with perfkit run"):
        jobs_of(tmp_path / "none", tmp_path)
    keep(RunStore(tmp_path / "runs"), nights(rng, 2))
    with pytest.raises(StoreError, match=r"no runs of the scenario 'apl' \(did you mean 'api'\?\)"):
        jobs_of(tmp_path / "runs", tmp_path, scenarios=("apl",))
    with pytest.raises(SettingsError, match="worth none of these reports: capacity"):
        jobs_of(tmp_path / "runs", tmp_path, kinds=("capacity",))


def test_runs_in_quarantine_are_neither_judged_nor_counted(rng, tmp_path):
    store = RunStore(tmp_path / "runs")
    (one,) = keep(store, nights(rng, 1))
    store.quarantine(one, "a broken machine")
    with pytest.raises(StoreError, match="has no run to report on"):
        jobs_of(tmp_path / "runs", tmp_path)


def test_runs_of_a_bucket_are_named_by_their_whole_address(rng, monkeypatch):
    """As a notebook names them, which runs elsewhere and knows no store."""
    with object_store() as keys:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        make_bucket("team")
        (run_id,) = keep(RunStore("s3://team/runs"), nights(rng, 1))
        assert [one.id for one in read_runs(f"s3://team/runs/{run_id}")] == [run_id]
        with pytest.raises(StoreError, match="s3://team/runs: no run 'none'"):
            read_runs("s3://team/runs/none")


# Processes ---------------------------------------------------------------------------------------------------------


class Killer:
    """Kills the process that unpickles it, as a system that is out of memory does."""

    def __reduce__(self):
        return os.kill, (Pid(), signal.SIGKILL)


class Pid(int):
    """The process that unpickles it."""

    def __reduce__(self):
        return os.getpid, ()


def test_a_process_that_dies_fails_its_report_and_no_other(rng, tmp_path):
    keep(RunStore(tmp_path / "runs"), nights(rng, 1))
    (job,) = jobs_of(tmp_path / "runs", tmp_path / "reports", kinds=("compare",))
    fatal = replace(job, scenario="fatal", store=Killer())
    broken = replace(job, scenario="broken", kind="trend", folder=None)
    made = {(done.scenario, done.kind): entry for done, entry in run_jobs([broken, fatal, job], 1)}
    assert made["fatal", "compare"].outcome is made["broken", "trend"].outcome is Outcome.FAILED
    assert made["fatal", "compare"].sentences == (
        "notebook compare of fatal: the process that made it was killed (memory?)",
    )
    assert made["broken", "trend"].sentences[0].startswith("notebook trend of broken: TypeError: ")
    made = {kind: entry for (scenario, kind), entry in made.items() if scenario == "api"}
    assert made["compare"].outcome is Outcome.INCOMPARABLE  # the first run of a history
    assert "has no earlier valid run of this scenario" in made["compare"].sentences[0]


def test_a_history_without_anything_to_judge_against_is_not_green(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep(RunStore(tmp_path / "runs"), nights(rng, 1))
    code, out, err = invoke("report", "--all", "--store", "runs", "--kind", "compare")
    assert code == 3
    assert err.startswith("1/1 api compare: ⊘ nothing to compare with: api: ")
    index = Path(out.strip())
    assert index.parent.parent == tmp_path / "reports"
    assert invoke("summary", index.parent, "--verdict") == (0, "incomparable\n", "")
    code, _, err = invoke("report", "--all", "--store", "runs", "--scenario", "apy")
    assert (code, "'apy'" in err) == (2, True)
    assert list((tmp_path / "reports").iterdir()) == [index.parent]  # what made no report leaves no folder


def test_a_history_without_a_valid_run_is_not_green(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = Validity((Check("x", 1, 0, Severity.INVALID),))
    keep(RunStore(tmp_path / "runs"), [run({"a": plain_stats()}, number=n, validity=broken) for n in range(3)])
    code, _, err = invoke("report", "--all", "--store", "runs", "--kind", "trend")
    assert (code, err.partition(" (")[0]) == (3, "1/1 api trend: ⊘ invalid")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A real batch: one scenario got slower, one did not, one has a notebook that fails; with what was said of it."""
    folder = tmp_path_factory.mktemp("batch")
    rng = np.random.default_rng(20261125)
    store = RunStore(folder / "runs")
    keep(store, nights(rng, 30, scenario="slow"))
    keep(store, nights(rng, 6, first=30, factor=1.3, scenario="slow"))
    keep(store, nights(rng, 30, scenario=HOSTILE))
    made = [run_from_requests(requests(rng, seconds=8, begin=1.7e9 + 900 * n), scenario="torn") for n in range(3)]
    ids = keep(store, made)
    (folder / "runs" / ids[0] / "requests.parquet").write_bytes(b"PAR1 torn")
    words = ["report", "--all", "--store", folder / "runs", "--reports", folder / "reports", "--jobs", "2"]
    return folder, invoke(*words, "--kind", "compare", "--kind", "trend", "--settings", _settings(folder))


def _settings(folder):
    (folder / "perfkit.toml").write_text("")
    return folder / "perfkit.toml"


@pytest.mark.slow
def test_one_failing_notebook_does_not_stop_the_rest(batch):
    _, (code, out, err) = batch
    assert code == 4, err
    lines = err.splitlines()
    assert [line.split()[0] for line in lines] == [f"{n}/6" for n in range(1, 7)]
    (failed,) = [line for line in lines if "! failed" in line]
    assert "torn compare: ! failed: notebook compare, cell" in failed
    overview = read_overview(Path(out.strip()).parent)
    words = {(entry.scenario, entry.kind): entry.word for entry in overview.entries}
    assert words == {
        ("slow", "compare"): Verdict.REGRESSION,
        ("slow", "trend"): Verdict.REGRESSION,
        (HOSTILE, "compare"): words[HOSTILE, "compare"],
        (HOSTILE, "trend"): Verdict.NO_CHANGE,
        ("torn", "compare"): Outcome.FAILED,
        ("torn", "trend"): Verdict.INCONCLUSIVE,  # of three runs, which could show nothing
    }
    assert words[HOSTILE, "compare"] in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE)


@pytest.mark.slow
def test_reports_and_results_lie_where_the_index_says(batch):
    _, (_, out, _) = batch
    folder = Path(out.strip()).parent
    links = _links((folder / "index.html").read_text(encoding="utf-8"))
    assert len(links) == 6
    assert all((folder / link).is_file() for link in links)
    assert sum(link.endswith("executed.ipynb") for link in links) == 1
    for entry in read_overview(folder).entries:
        assert bool(entry.report) == (entry.outcome is Outcome.DONE)
        if entry.report:
            assert "<!DOCTYPE html>" in (folder / entry.report).read_text(encoding="utf-8")[:100]
            assert json.loads((folder / entry.result).read_text(encoding="utf-8"))["schema"].startswith("perfkit.")


@pytest.mark.slow
def test_the_newest_run_is_judged_as_compare_judges_it(batch):
    """Against the history, with one alarm budget for all nights: the report has the watch too."""
    folder, (_, out, _) = batch
    entries = read_overview(Path(out.strip()).parent).entries
    (entry,) = [one for one in entries if (one.scenario, one.kind) == ("slow", "compare")]
    document = json.loads((Path(out.strip()).parent / entry.result).read_text(encoding="utf-8"))
    newest = RunStore(folder / "runs").runs(scenario="slow")["id"].iloc[-1]
    code, told, _ = invoke("compare", "--candidate", newest, "--store", folder / "runs", "--format", "json")
    assert code == 1
    assert document == json.loads(told)
    assert document["history"]["alpha_of_this_comparison"] < 0.01


@pytest.mark.slow
def test_a_judged_comparison_is_reported_as_it_was_judged(batch, tmp_path):
    folder, _ = batch
    newest = RunStore(folder / "runs").runs(scenario="slow")["id"].iloc[-1]
    file = tmp_path / "judged.json"
    invoke("compare", "--candidate", newest, "--store", folder / "runs", "--format", "json", "--output", file)
    code, out, err = invoke("report", "result", file, "--reports", tmp_path)
    assert code == 0, err
    assert json.loads(Path(out.strip()).with_name("result.json").read_text()) == json.loads(file.read_text())


@pytest.mark.slow
def test_a_summary_of_the_batch(batch, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    _, (_, out, _) = batch
    folder = Path(out.strip()).parent
    assert invoke("summary", folder, "--verdict")[1] == "failed\n"
    page = invoke("summary", folder)[1]
    assert "| ✗ regression | slow | compare |" in page
    assert "<script" not in page


def _links(html):
    found = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "img", "iframe"), tag
            found.extend(value for name, value in attrs if name in ("href", "src"))

    Links().feed(html)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(end, tmp_path):
    words = ["report", "--all", "--store", str(REPOSITORY / "data" / "samples" / "history"), "--jobs", "2"]
    command = [sys.executable, "-m", "perfkit", *words, "--reports", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        begun = _family_with_kernels(process, 2)
        process.send_signal(end)
        _, said_last = process.communicate(timeout=20)
        _, alive = psutil.wait_procs(begun, timeout=20)
    assert alive == []
    assert process.returncode == (130 if end is signal.SIGINT else -end)
    assert said_last.endswith("stopped by Ctrl-C\n") == (end is signal.SIGINT)


def _family_with_kernels(process, count):
    """Everything it started, once so many notebooks run; never more kernels than were allowed."""
    family: set[psutil.Process] = set()
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        family |= set(psutil.Process(process.pid).children(recursive=True))
        kernels = [one for one in family if one.is_running() and "ipykernel_launcher" in " ".join(_words(one))]
        assert len(kernels) <= count
        if len(kernels) == count:
            return family
        time.sleep(0.02)
    raise AssertionError(f"no notebook was begun: {process.stderr.read() if process.poll() else 'in a minute'}")


def _words(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


# The page and the exit code ----------------------------------------------------------------------------------------

CALM = Entry("calm", "compare", verdict=Verdict.NO_CHANGE, sentences=("All is well.",), report="calm/report.html")
SLOW = replace(CALM, scenario="slow", verdict=Verdict.REGRESSION, sentences=("It got worse.",))
UNSURE = replace(CALM, scenario="unsure", verdict=Verdict.INCONCLUSIVE)
INVALID = replace(CALM, scenario="bad", verdict=Verdict.INVALID)
NEW = Entry("new", "compare", Outcome.INCOMPARABLE, sentences=("no earlier run",))
FAILED = Entry("torn", "trend", Outcome.FAILED, sentences=("cell 3 failed",), notebook="torn/executed.ipynb")
PLAIN = Entry("calm", "baseline", report="calm/baseline.html")


@pytest.mark.parametrize(
    ("entries", "fail_on", "code"),
    [
        ((CALM, PLAIN), "regression", 0),
        ((CALM, UNSURE), "regression", 0),
        ((CALM, UNSURE), "inconclusive", 1),
        ((CALM, SLOW), "regression", 1),
        ((CALM, SLOW), "never", 0),
        ((SLOW, INVALID), "never", 3),
        ((SLOW, NEW), "regression", 3),
        ((NEW, FAILED, SLOW), "never", 4),
    ],
)
def test_the_exit_code_is_the_worst(entries, fail_on, code):
    assert exit_code(Overview(entries, NOW), fail_on) == code


def test_the_worst_scenario_comes_first():
    html = index_page(Overview((CALM, PLAIN, UNSURE, SLOW, FAILED), NOW, "data/runs"))
    rows = re.findall(r"<bdi>(.*?)</bdi>", html)
    assert rows == ["torn", "slow", "unsure", "calm"]
    assert "3 of 4 scenarios need a look." in html
    assert "1 failed, 1 regression, 1 inconclusive, 1 no regression" in html
    assert '<a href="torn/executed.ipynb">notebook of the failure</a> <span class="pk-of">! failed</span>' in html
    assert "4 reports, 1 could not be made · store data/runs" in html


def test_a_quiet_page_says_so():
    html = index_page(Overview((CALM, PLAIN), NOW))
    assert "Nothing to look at in 1 scenario." in html
    assert '<a href="calm/baseline.html">What is normal?</a></li>' in html


def test_hostile_names_are_text_on_the_page():
    bad = Entry(HOSTILE, "trend", Outcome.FAILED, sentences=(HOSTILE, "x" * 10_000), notebook='a"><img src=x>/n.ipynb')
    html = index_page(Overview((bad,), NOW, HOSTILE))
    assert _links(html) == ["a%22%3E%3Cimg%20src%3Dx%3E/n.ipynb"]
    assert "<script" not in html
    assert "\u202e" not in html
    assert len(html) < 40_000


# The command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--store", "x"), "--store needs --all, or a report to make"),
        (("report", "--kind", "trend"), "--kind needs --all"),
        (("report", "--all", "trend", "api"), "--all stands before 'trend'"),
        (("report", "--store", "x", "trend", "api"), "--store stands before 'trend'"),
        (("report", "--all", "--scenario", "x", "--store", "none"), "none: has no run to report on"),
    ],
)
def test_mistakes_are_told(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke(*words)
    assert code in (2, 4)
    assert message in err


def test_without_a_report_to_make_the_help_is_shown():
    code, out, _ = invoke("report")
    assert code == 2
    assert "--all" in out


def test_a_trend_is_no_judged_comparison(tmp_path):
    (tmp_path / "result.json").write_text(
        json.dumps({"schema": "perfkit.trend/1", "scenario": "api", "watch": {"alerts": []}})
    )
    code, _, err = invoke("report", "result", tmp_path / "result.json")
    assert code == 2
    assert "is no comparison: perfkit report trend draws a history" in err
