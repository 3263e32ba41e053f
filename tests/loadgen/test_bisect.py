"""`perfkit bisect` on a real repository: the slow commit is found, and nothing is left behind."""

import json
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from repositories import LOCUSTFILE, SERVICE, git

from perfkit.cli import main
from perfkit.config.policy import Policy
from perfkit.config.settings import Scenario
from perfkit.loadgen import bisect
from perfkit.loadgen.ab_test import ABPlan
from perfkit.loadgen.bisect import (
    Bisection,
    Step,
    clearest_regression,
    find_first_bad_commit,
    judge_commit,
    policy_of,
    step_of,
)
from perfkit.loadgen.service_under_test import build
from perfkit.model.errors import HistoryError, LoadError, StoreError
from perfkit.model.records import Finding, Verdict

SERVE = f"{sys.executable} service.py {{port}}"


def commit(folder, subject, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git(folder, "add", "--", "*.py")
    git(folder, "commit", "-q", "--allow-empty", "-m", subject)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Six commits of a small server, of which the fourth adds 30 ms; the working tree has changes of its own."""
    folder = tmp_path / "my shop"
    folder.mkdir()
    (tmp_path / "t").mkdir()  # temporary folders of its own, by which its processes are told from those of other tests
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    git(folder, "init", "-q", "-b", "main")
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    (tmp_path / "load.toml").write_text(
        '[scenario.shop]\nlocustfile = "locustfile.py"\nusers = 4\nspawn_rate = 4\nduration = "2s"\n'
    )
    fast, slow = SERVICE.replace("SECONDS", "0.010"), SERVICE.replace("SECONDS", "0.040")
    commits = [
        commit(folder, "first", service=fast, build="print('built')"),
        commit(folder, "readme"),
        commit(folder, "docs"),
        commit(folder, "slow\x1b[31m", service=slow),
        commit(folder, "more"),
        commit(folder, "last"),
    ]
    (folder / "service.py").write_text("what I am working on")
    (folder / "notes.txt").write_text("untracked")
    monkeypatch.chdir(folder)
    return folder, commits


def words(folder, good, *more):
    return [
        *("bisect", "shop", "--good", good, "--serve", SERVE, "--settings", str(folder.parent / "load.toml")),
        *("--max-runs", "10", *more),
    ]


def bisection(folder, commits, **changes):
    """The same search, as the library knows it."""
    load = {"users": 4, "spawn_rate": 4.0, "duration_s": 2.0}
    scenario = Scenario("shop", folder.parent / "locustfile.py", serve=SERVE, **load)
    log = folder.parent / "log.jsonl"
    plan = ABPlan(5, until_settled=True)
    store = str(folder.parent / "runs")
    made = Bisection(folder, commits[0], commits[-1], scenario, None, plan, Policy(), store, log)
    return replace(made, **changes)


def assert_nothing_is_left(folder):
    """No working tree, no state of git, no process, and what its user works on is as it was."""
    assert len(git(folder, "worktree", "list").splitlines()) == 1
    assert git(folder, "for-each-ref", "refs/bisect") == ""
    assert not list((folder / ".git").rglob("BISECT*"))
    assert processes(folder) == []
    assert (folder / "service.py").read_text() == "what I am working on"
    assert git(folder, "status", "--porcelain").splitlines() == ["M service.py", "?? notes.txt"]
    assert git(folder, "symbolic-ref", "HEAD") == "refs/heads/main"


def processes(folder):
    """Command lines of processes of a search that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder.parent) in text:
            found.append(text)
    return found


@pytest.mark.slow
def test_the_slow_commit_is_found_and_nothing_is_left(repository, capsys):
    folder, commits = repository
    build = f"{sys.executable} build.py"
    arguments = words(folder, commits[0], "--build", build)
    for _ in range(3):  # where the machine is busy a commit is left open; asked again, it is measured again
        code = main([*arguments, "--format", "json"], sys.stdout, sys.stderr)
        told = capsys.readouterr()
        if code != 3:
            break
    assert code == 0, told.err
    result = json.loads(told.out)
    assert [commit["id"] for commit in result["suspects"]] == [commits[3]]
    assert 0 < result["size"]["ci_low"] < result["size"]["change"] < result["size"]["ci_high"]
    assert result["size"]["verdict"] == "bad"
    # the two ends, and of the four in between those that tell the slow one from its parent
    assert {commits[2], commits[3], commits[5]} <= {step["commit"] for step in result["steps"]}
    assert_nothing_is_left(folder)
    log = Path(result["log"])
    assert folder / ".git" in log.parents

    # Again: what is known is not measured again
    assert main(arguments, sys.stdout, sys.stderr) == 0
    said = capsys.readouterr().out
    assert f"first bad commit: {commits[3][:9]} slow [31m (Ann, " in said
    assert "\x1b" not in said
    settled = [line["commit"] for line in map(json.loads, log.read_text().splitlines()) if line["is_final"]]
    assert len(settled) == len(set(settled))


def write_log(search, commits, verdicts, *, end=True):
    """A log as an earlier search left it."""
    for commit, verdict in zip(commits, verdicts, strict=True):
        limit = 40.0 if end and commit == commits[-1] else None
        search.log_step(Step(commit, verdict, "settled", "front", "avg_latency_ms", 80.0, 75.0, 85.0, "%", limit))


@pytest.mark.parametrize(
    ("verdicts", "left"),
    [
        (("good", "good", "bad", "bad", "bad"), [3]),
        (("bad", "bad", "bad", "bad", "bad"), [1]),
        (("good", "skip", "bad", "bad", "bad"), [3, 2]),
    ],
)
def test_what_is_in_the_log_is_not_measured_again(repository, verdicts, left):
    folder, commits = repository
    search = bisection(folder, commits)
    write_log(search, commits[1:], verdicts)
    result = find_first_bad_commit(search, lambda _: None)
    assert [commit.id for commit in result.suspects] == [commits[at] for at in left]
    assert result.found == (len(left) == 1)
    assert not (folder.parent / "runs").exists()
    assert_nothing_is_left(folder)


def test_ends_that_do_not_differ_are_told(repository):
    folder, commits = repository
    search = bisection(folder, commits)
    write_log(search, commits[1:], ["good"] * 5, end=False)
    result = find_first_bad_commit(search, lambda _: None)
    assert (result.suspects, result.found, result.size.verdict) == ((), False, "good")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_search_leaves_only_its_log(repository, number):
    folder, commits = repository
    search = bisection(folder, commits)
    write_log(search, commits[-1:], ["bad"])
    code = (
        "import pickle, sys; from perfkit.loadgen.bisect import find_first_bad_commit as search\n"
        "search(pickle.load(sys.stdin.buffer), lambda text: print(text, file=sys.stderr, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, start_new_session=True
    )
    with process:
        process.stdin.write(pickle.dumps(search))
        process.stdin.close()
        assert any(b"pair 1 of" in line for line in process.stderr)
        give_up = time.monotonic() + 60
        while not processes(folder):  # Locust's
            assert time.monotonic() < give_up
            time.sleep(0.05)
        process.send_signal(number)
        if number is signal.SIGHUP:
            process.send_signal(number)  # as when a terminal is closed
        said = process.stderr.read().decode()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said or "LoadStopped" in said
    assert_nothing_is_left(folder)
    assert set(search.logged_steps()) == {commits[-1]}


def test_a_build_that_fails_skips_its_commit_for_good(repository):
    folder, commits = repository
    broken = commit(folder, "broken", build="raise SystemExit('no compiler')")
    search = bisection(folder, [commits[0], broken], build=f"{sys.executable} build.py")
    step = judge_commit(search, broken, folder, Step("", "bad", "", "a", "rps", limit=5.0), lambda _: None)
    assert (step.verdict, step.is_final) == ("skip", True)
    assert "failed with exit code 1: no compiler" in step.why
    assert search.logged_steps()[broken] == step
    with pytest.raises(LoadError, match="cannot be started"):
        build("no-such-command", folder)


def test_a_step_that_fails_itself_is_no_verdict(repository):
    folder, commits = repository
    (folder.parent / "runs").write_text("a file where the store should be")
    search = bisection(folder, commits)
    write_log(search, commits[-1:], ["bad"])
    with pytest.raises(StoreError, match="runs"):
        find_first_bad_commit(search, lambda _: None)
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--good", "nonsense"], "--good 'nonsense': git knows no such commit, branch or tag"),
        (["--good", "--output=x"], "git knows no such commit"),
        (["--good", "HEAD"], "are the same commit"),
        (["--good", "HEAD", "--bad", "HEAD~2"], "is no ancestor of"),
    ],
)
def test_ends_that_make_no_sense_are_refused(repository, capsys, more, said):
    folder, _ = repository
    assert main(words(folder, "HEAD~1", *more), sys.stdout, sys.stderr) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--build", "sh -c 'make"], '--build "sh -c \'make": cannot be taken apart (No closing quotation)'),
        (["--build", " "], "--build ' ': is empty"),
        (["--serve", 'app "{port}'], "--serve 'app \"{port}': cannot be taken apart"),
    ],
)
def test_commands_that_cannot_be_are_refused_before_anything_is_done(repository, capsys, more, said):
    folder, commits = repository
    assert main(words(folder, commits[0], *more), sys.stdout, sys.stderr) == 2
    assert said in capsys.readouterr().err
    assert_nothing_is_left(folder)


def test_where_there_is_no_repository_or_a_shallow_one(repository, tmp_path, capsys, monkeypatch):
    folder, commits = repository
    monkeypatch.chdir(tmp_path)
    assert main(words(folder, commits[0]), sys.stdout, sys.stderr) == 2
    assert f"{tmp_path} is not a git repository" in capsys.readouterr().err
    git(tmp_path, "clone", "-q", "--depth", "2", folder.as_uri(), "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    assert main(words(folder, commits[0]), sys.stdout, sys.stderr) == 2
    assert "`git fetch --unshallow` may bring it" in capsys.readouterr().err


def test_what_a_service_wrote_is_harmless_on_the_terminal(repository, capsys):
    folder, commits = repository
    serve = f"{sys.executable} -c \"print('\\x1b]0;owned\\x07')\""
    assert main([*words(folder, commits[0]), "--serve", serve], sys.stdout, sys.stderr) == 3
    said = capsys.readouterr()
    assert "owned" in said.out
    assert "owned" in said.err
    assert "\x1b" not in said.out + said.err
    assert said.out.startswith(f"not found: {commits[-1][:9]} is not shown to be worse than")


def test_it_must_know_how_the_service_starts(repository, capsys):
    _, commits = repository
    code = main(["bisect", "shop", "--good", commits[0], "--locustfile", "l.py"], sys.stdout, sys.stderr)
    assert (code, "say how the service starts" in capsys.readouterr().err) == (2, True)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(repository, capsys):
    folder, commits = repository
    assert main(words(folder, commits[0], "--build", "make", "--dry-run"), sys.stdout, sys.stderr) == 0
    said = capsys.readouterr().out
    assert f"check out {commits[0][:9]} (good) and build it: make" in said
    assert "git bisect over 5 commits: about 3 further comparisons" in said
    assert not (folder / ".git" / "perfkit").exists()
    assert_nothing_is_left(folder)


def test_the_hypothesis_is_the_clearest_regression_and_half_of_it():
    def finding(service, metric, change, p, verdict=Verdict.REGRESSION, gating=True):
        rest = (10.0, 12.0, change, 2.0, change - 1, change + 1, p, p, verdict, 5.0, "", gating)
        return Finding(service, metric, "ms", "%", *rest)

    findings = (
        finding("a", "p99_latency_ms", 90.0, 1e-9, gating=False),
        finding("a", "avg_latency_ms", 20.0, 1e-4),
        finding("b", "avg_latency_ms", 30.0, 1e-6),
        finding("b", "rps", -30.0, 1e-5),
        finding("b", "p50_latency_ms", float("inf"), 1e-12),
        finding("c", "avg_latency_ms", 50.0, 1e-12, Verdict.INCONCLUSIVE),
    )
    assert clearest_regression(findings) is findings[2]
    assert clearest_regression(findings[-1:]) is None
    comparison = SimpleNamespace(findings=findings, verdict=Verdict.REGRESSION)
    hypothesis = step_of("c0", SimpleNamespace(comparison=comparison, why="settled"), None)
    assert (hypothesis.service, hypothesis.metric, hypothesis.limit) == ("b", "avg_latency_ms", 15.0)
    policy = policy_of(hypothesis, Policy(alpha=0.02))
    assert policy.limit("b", "avg_latency_ms").amount == 15.0
    assert (policy.limit("a", "avg_latency_ms"), policy.limit("b", "rps")) == (None, None)
    assert (policy.gating, policy.alpha) == (("avg_latency_ms",), 0.02)
    errors = Step("", "bad", "", "b", "error_rate_pct", limit=0.7)
    assert policy_of(errors, Policy()).limit("b", "error_rate_pct").describe() == "+0.7 pp"


def test_a_log_survives_a_killed_writer_and_knows_its_own(repository):
    folder, commits = repository
    search = bisection(folder, commits)
    search.log_step(Step("c0", "skip", "not settled", is_final=False))
    search.log_step(Step("c0", "good", "settled"))
    replace(search, scenario=replace(search.scenario, serve="another")).log_step(Step("c1", "bad", "settled"))
    with search.log.open("ab") as file:
        file.write(b'\xff\n{"key": "one", "time"')
    assert search.logged_steps() == {"c0": Step("c0", "good", "settled")}
    search.log.unlink()
    search.log.mkdir()
    with pytest.raises(HistoryError, match="remove it to begin anew"):
        search.logged_steps()


def test_a_step_alone_has_the_exit_codes_of_git_bisect_run(repository, capsys, monkeypatch):
    folder, commits = repository
    for verdict, code in (("good", 0), ("bad", 1), ("skip", 125)):
        monkeypatch.setattr(bisect, "judge_commit", lambda *_, verdict=verdict: Step(commits[-1], verdict, "measured"))
        assert main(words(folder, commits[0], "--step"), sys.stdout, sys.stderr) == code, capsys.readouterr().err
    assert main(words(folder, commits[0], "--step", "--build", "false"), sys.stdout, sys.stderr) == 255
    assert_nothing_is_left(folder)
