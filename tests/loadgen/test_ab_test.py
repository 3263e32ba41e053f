"""Pairs: what disturbs both sides disturbs no comparison; looking often costs no false alarms; alarms are confirmed."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loopback import serving
from repositories import LOCUSTFILE, SERVICE, git
from samples import plain_stats
from samples import run as make_run

from perfkit import Policy, compare
from perfkit.analysis.noise_profile import paired
from perfkit.cli import main
from perfkit.config.settings import Scenario
from perfkit.history.incidents import read_result
from perfkit.loadgen.ab_test import ALARMS, ABPlan, ABTest, ab_targets
from perfkit.loadgen.locust_process import Progress, parse_abort_rule
from perfkit.loadgen.run import run_scenario
from perfkit.loadgen.service_under_test import checkout, running_service
from perfkit.model.errors import LoadError, LoadStopped, NotComparable, SettingsError
from perfkit.model.records import Check, Severity, Validity
from perfkit.runs.store import RunStore

POLICY = Policy(tolerance={"avg_latency_ms": 3.0}, gating=("avg_latency_ms",))


def made(rng, number, *, level, side, pair=None, noise=0.02):
    labels = {"side": side} | ({"pair": pair} if pair else {})
    stats = replace(
        plain_stats(level * np.exp(rng.normal(0, noise))), standard_errors={"avg_latency_ms": 0.9 * noise * level}
    )
    return make_run(services={"a": stats}, number=number, labels=labels)


def sides(rng, *, n=6, change=0.0, weather=0.10, pairs=True):
    """Runs that share, pair by pair, what the machine does to both."""
    both = ([], [])
    for k in range(n):
        shared = np.exp(rng.normal(0, weather))
        for side, factor in enumerate((1.0, 1.0 + change)):
            name = str(k) if pairs else None
            both[side].append(made(rng, 2 * k + side, level=100 * shared * factor, side=str(side), pair=name))
    return both


def verdict(pair_of_sides):
    (finding,) = [f for f in compare(*pair_of_sides, policy=POLICY).findings if f.metric == "avg_latency_ms"]
    return finding


def test_pairs_are_found_by_their_labels(rng):
    before, after = sides(rng)
    shuffled = paired(before[::-1], after)
    assert shuffled is not None
    assert [run.labels["pair"] for run in shuffled[0]] == [run.labels["pair"] for run in shuffled[1]]
    assert paired(before[:2], after[:2]) is None
    assert paired(before[1:], after) is None
    assert paired([*before, before[0]], after) is None
    assert paired(*sides(rng, pairs=False)) is None


def test_what_disturbs_both_sides_of_a_pair_disturbs_no_comparison(rng):
    """Weather of 10 % hides a change of 8 % from runs made apart, and not from pairs; false alarms stay rare."""
    trials = 300
    found = {
        (change, pairs): sum(
            verdict(sides(rng, change=change, pairs=pairs)).verdict == "regression" for _ in range(trials)
        )
        for change in (0.0, 0.08)
        for pairs in (True, False)
    }
    assert found[0.0, True] <= 0.01 * trials + 3
    assert found[0.0, False] <= 0.01 * trials + 3
    assert found[0.08, True] >= 0.9 * trials
    assert found[0.08, False] <= 0.3 * trials


def test_intervals_of_pairs_cover_the_truth(rng):
    covered = 0
    for _ in range(400):
        finding = verdict(sides(rng, n=5, change=0.05))
        covered += finding.ci_low <= 5.0 <= finding.ci_high
    assert 0.93 * 400 <= covered <= 0.99 * 400


@pytest.mark.parametrize(
    ("plan", "looks"),
    [(ABPlan(5), (5,)), (ABPlan(2, True), (2,)), (ABPlan(3, True), (3,)), (ABPlan(12, True), (3, 5, 7, 10, 12))],
)
def test_looks_are_few_and_end_with_the_last_pair(plan, looks):
    assert plan.looks == looks
    shared = plan.policy_per_look(POLICY)
    assert shared.alpha * len(looks) == pytest.approx(POLICY.alpha)
    assert (1 - shared.confidence) * len(looks) == pytest.approx(1 - POLICY.confidence)


def simulated(rng, tmp_path, plan, change=0.0, tell=lambda _: None, changes=None):
    """A comparison whose runs come from a distribution instead of a load test; the decisions are the real ones."""
    numbers = iter(range(10_000))
    state = {}

    def run_one(scenario, _store, labels, _report):
        pair = labels["pair"]
        shared = state.setdefault(pair, np.exp(rng.normal(0, 0.05)))
        factor = (changes or {}).get(pair.split(".")[0], change) if labels["side"] == "candidate" else 0.0
        level = 100 * shared * (1 + factor)
        return made(rng, next(numbers), level=level, side=labels["side"], pair=pair)

    targets = {side: Scenario("s", Path("locustfile.py")) for side in ("baseline", "candidate")}
    return ABTest(targets, str(tmp_path), POLICY, plan, tell, run_one=run_one).decide()


@pytest.mark.parametrize(("change", "least", "most"), [(0.0, 0, 6), (0.06, 190, 200)])
def test_looking_until_it_is_settled_keeps_the_level_and_finds(rng, tmp_path, change, least, most):
    plan = ABPlan(16, until_settled=True)
    verdicts = [simulated(rng, tmp_path, plan, change).comparison.verdict for _ in range(200)]
    assert least <= sum(found == "regression" for found in verdicts) <= most
    if change == 0:
        assert sum(found == "no_change" for found in verdicts) >= 150
    else:
        assert sum(found == "no_change" for found in verdicts) <= 3  # what is harmful is not shown unharmed


def test_it_stops_when_it_knows(rng, tmp_path):
    clear = simulated(rng, tmp_path, ABPlan(20, until_settled=True), 0.5)
    assert clear.why == "settled after 3 pairs"
    assert len(clear.comparison.candidate.runs) == 3


def test_order_alternates_and_pairs_are_labelled(rng, tmp_path):
    told = []
    outcome = simulated(rng, tmp_path, ABPlan(4), tell=told.append)
    assert [text.rsplit(" ", 1)[1] for text in told] == ["baseline", "candidate", "candidate", "baseline"] * 2
    assert [run.labels["pair"] for run in outcome.comparison.baseline.runs] == ["1.1", "1.2", "1.3", "1.4"]


def test_an_alarm_is_confirmed_or_cleared_and_logged(rng, tmp_path):
    real = simulated(rng, tmp_path, ABPlan(5, confirm=True), 0.3)
    cleared = simulated(rng, tmp_path, ABPlan(5, confirm=True), changes={"1": 0.3, "2": 0.0})
    assert real.comparison.verdict == "regression"
    assert "confirmed" in real.why
    assert cleared.comparison.verdict != "regression"
    assert cleared.cleared is not None
    assert "not confirmed" in cleared.comparison.warnings[0]
    lines = [json.loads(line) for line in (tmp_path / ALARMS).read_text().splitlines()]
    assert [line["cleared"] for line in lines] == [False, True]
    assert "a avg_latency_ms" in lines[1]["alarms"]


def test_no_pair_is_begun_that_would_end_too_late(rng, tmp_path):
    outcome = simulated(rng, tmp_path, ABPlan(50, until_settled=True, max_time_s=1e-9))
    assert outcome.why == "the time was spent after 1 pair"
    assert outcome.comparison.verdict == "inconclusive"


class Clock:
    """A monotonic clock that a run moves by ten seconds."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("perfkit.loadgen.ab_test.time.monotonic", lambda: self.now)

    def runs(self, rng, change, slow_pair=None):
        numbers, started = iter(range(10_000)), []

        def run_one(_scenario, _store, labels, _report):
            self.now += 60.0 if labels["pair"] == slow_pair else 10.0
            started.append(labels["pair"])
            level = 100 * (1 + change) if labels["side"] == "candidate" else 100
            return made(rng, next(numbers), level=level, side=labels["side"], pair=labels["pair"])

        return run_one, started


@pytest.mark.parametrize(
    ("limit", "pairs", "why"),
    [
        (200.0, 10, "confirmed by a second comparison; settled after 5 pairs"),  # 2 x 5 pairs of 20 s
        (160.0, 8, "confirmed by a second comparison; the time was spent after 4 pairs"),
        (130.0, 6, "confirmed by a second comparison; the time was spent after 3 pairs"),
    ],
)
def test_a_confirmation_keeps_within_the_longest_time(rng, tmp_path, monkeypatch, limit, pairs, why):
    clock = Clock(monkeypatch)
    run_one, started = clock.runs(rng, 0.5)
    targets = {side: Scenario("s", Path("locustfile.py")) for side in ("baseline", "candidate")}
    plan = ABPlan(5, max_time_s=limit, confirm=True)
    outcome = ABTest(targets, str(tmp_path), POLICY, plan, lambda _: None, run_one=run_one).decide()
    assert clock.now - 1000.0 <= limit
    assert (len(started), outcome.why) == (2 * pairs, why)


def test_without_time_for_a_confirmation_the_regression_stands_and_says_so(rng, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    run_one, _ = clock.runs(rng, 0.5, slow_pair="1.3")
    targets = {side: Scenario("s", Path("locustfile.py")) for side in ("baseline", "candidate")}
    plan = ABPlan(3, max_time_s=170.0, confirm=True)
    outcome = ABTest(targets, str(tmp_path), POLICY, plan, lambda _: None, run_one=run_one).decide()
    assert outcome.comparison.verdict == "regression"
    assert outcome.why == "settled after 3 pairs; not confirmed, for no time was left for a second comparison"


@pytest.mark.parametrize(("bad_pair", "until_settled", "pairs"), [(1, True, 1), (2, True, 2), (4, False, 4)])
def test_an_invalid_comparison_is_not_settled_and_ends_at_once(rng, tmp_path, bad_pair, until_settled, pairs):
    numbers = iter(range(10_000))
    frozen = Validity((Check("generator_stalled", 3.0, 1.0, Severity.INVALID, "It stood still."),))

    def run_one(_scenario, _store, labels, _report):
        run = made(rng, next(numbers), level=100, side=labels["side"], pair=labels["pair"])
        is_bad = labels["side"] == "candidate" and labels["pair"] == f"1.{bad_pair}"
        return replace(run, validity=frozen) if is_bad else run

    targets = {side: Scenario("s", Path("locustfile.py")) for side in ("baseline", "candidate")}
    plan = ABPlan(6, until_settled=until_settled)
    outcome = ABTest(targets, str(tmp_path), POLICY, plan, lambda _: None, run_one=run_one).decide()
    assert outcome.comparison.verdict == "invalid"
    noun = "pair" if pairs == 1 else "pairs"
    assert outcome.why == f"stopped after {pairs} {noun}: the comparison is invalid"


@pytest.mark.parametrize(("takes", "works"), [(1, True), (2, True), (3, False)])
def test_a_service_whose_port_another_was_quicker_to_take_gets_a_further_one(tmp_path, takes, works):
    (tmp_path / "service.py").write_text(
        f"""
import http.server, pathlib, sys
tries = pathlib.Path("tries")
tries.write_text((tries.read_text() if tries.exists() else "") + sys.argv[1] + " ")
if len(tries.read_text().split()) <= {takes}:
    sys.exit("OSError: [Errno 98] Address already in use")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
"""
    )
    command = f"{sys.executable} service.py {{port}}"
    if not works:
        with pytest.raises(LoadError, match="Address already in use"), running_service(command, tmp_path):
            pass
        return
    with running_service(command, tmp_path) as address:
        assert address.rsplit(":", 1)[1] == (tmp_path / "tries").read_text().split()[takes]


@pytest.mark.parametrize(
    ("reason", "error"),
    [("stopped by Ctrl-C", LoadStopped), ("Locust was ended by SIGKILL (out of memory)", NotComparable)],
)
def test_an_interrupted_run_ends_it(tmp_path, reason, error):
    killed = Validity((Check("interrupted", reason, "no", Severity.INVALID, ""),))
    targets = {side: Scenario("s", Path("locustfile.py")) for side in ("baseline", "candidate")}
    ended = ABTest(
        targets, str(tmp_path), POLICY, ABPlan(3), lambda _: None, run_one=lambda *_: make_run({}, validity=killed)
    )
    with pytest.raises(error, match=f"was interrupted: {re.escape(reason)}"):
        ended.decide()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A service under git, whose working copy is half as fast as its last commit."""
    folder = tmp_path / "my service"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "service.py").write_text(SERVICE.replace("SECONDS", "0.010"))
    (folder / "locustfile.py").write_text(LOCUSTFILE)
    serve = f"{sys.executable} service.py {{port}}"
    (folder / "perfkit.toml").write_text(
        '[scenario.shop]\nlocustfile = "locustfile.py"\nusers = 4\nspawn_rate = 4\nduration = "3s"\n'
        f'serve = "{serve}"\n'
    )
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    (folder / "service.py").write_text(SERVICE.replace("SECONDS", "0.020"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_a_commit_is_served_beside_the_working_copy_and_the_difference_is_found(repository, capsys):
    words = [
        "run",
        "shop",
        "--compare-with",
        "main",
        "--until-settled",
        "--max-runs",
        "8",
        "--result",
        "out/result.json",
    ]
    code = main(words, sys.stdout, sys.stderr)
    said = capsys.readouterr()
    assert code == 1, said
    assert "front got worse" in said.out
    assert re.search(r"settled after [34] pairs", said.out)  # under other load three may not tell
    told = read_result(repository / "out" / "result.json")
    assert (told.verdict, told.scenario) == ("regression", "shop")
    assert len(told.comparison.candidate.runs) in (3, 4)
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(worktrees.stdout.splitlines()) == 1  # none is left behind
    frame = RunStore(str(repository / "data" / "runs")).runs()
    assert len(frame) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pairs", "3"], "--pairs needs --compare-with"),
        (["--confirm"], "--confirm needs --compare-with"),
        (["--compare-with", "main", "--workers", "2"], "--workers does not go with --compare-with"),
        (["--compare-with", "main", "--abort-on", "rps<1"], "--abort-on does not go with --compare-with"),
        (["--compare-with", "main", "--max-runs", "4"], "--max-runs belongs to --until-settled"),
        (["--workers", "2", "--worker"], "exclude each other"),
        (["--master"], "--master and --expect-workers belong together"),
        (["--rate", "5/s", "--users", "3"], "say one of them"),
        (["--abort-on", "p95>3"], "unknown metric"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(repository, capsys, words, said):
    assert main(["run", "shop", *words], sys.stdout, sys.stderr) == 2
    assert said in capsys.readouterr().err
    assert not (repository / "data").exists()


def test_what_cannot_be_served_is_told(repository):
    scenario = Scenario("shop", Path("locustfile.py"))
    with pytest.raises(SettingsError, match="say how the service starts"), ab_targets(scenario, "main", Path()):
        pass
    with pytest.raises(LoadError, match="no such commit"), checkout("--hard; rm -rf", repository):
        pass
    with (
        pytest.raises(LoadError, match="does not listen"),
        running_service(f"{sys.executable} -c 'print(7)'", repository),
    ):
        pass
    with pytest.raises(LoadError, match="cannot be started"), running_service("no-such-program-here", repository):
        pass


def progress(elapsed, **values):
    plain = {"users": 1, "requests": 0, "failures": 0, "skipped": 0, "rps": 1.0, "p95_latency_ms": None, "cpu_pct": 1.0}
    return Progress(time=None, elapsed_s=float(elapsed), state="running", **{**plain, **values})


def test_a_condition_must_hold_without_a_break():
    rule = parse_abort_rule("p95_latency_ms > 2000 for 3s")
    values = [2500, 2500, 1000, 2500, 2500, 2500, 2500]
    reasons = [rule(progress(i, p95_latency_ms=value)) for i, value in enumerate(values)]
    assert reasons == [None] * 6 + ["aborted because of p95_latency_ms>2000 for 3 s"]


def test_an_error_rate_is_that_of_the_last_seconds():
    rule = parse_abort_rule("error_rate_pct>50 for 2s")
    told = [rule(progress(i, requests=100 * i, failures=max(0, 100 * (i - 20)))) for i in range(1, 32)]
    assert next(i for i, reason in enumerate(told, 1) if reason) in range(25, 31)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p95>2", "unknown metric 'p95'"),
        ("p95_latency_ms=2", "expected"),
        ("rps<1 for ever", "expected a length"),
        ("rps<1.2.3", "--abort-on"),
    ],
)
def test_conditions_that_are_none(text, said):
    with pytest.raises(SettingsError, match=said):
        parse_abort_rule(text)


def test_a_hopeless_run_is_ended_and_kept_as_what_it_is(tmp_path):
    file = tmp_path / "locustfile.py"
    file.write_text(LOCUSTFILE.replace('"/"', '"/?ms=300"'))
    with serving() as server:
        scenario = Scenario("slow", file, server.url, users=4, spawn_rate=4.0, duration_s=60.0)
        rule = parse_abort_rule("p95_latency_ms>200 for 2s")
        run = run_scenario(scenario, RunStore(str(tmp_path / "runs")), {}, None, None, rule)
    (check,) = [check for check in run.validity.problems if check.name == "interrupted"]
    assert check.value == "aborted because of p95_latency_ms>200 for 2 s"
    assert run.duration_s < 20
    assert len(run.requests()) > 10
