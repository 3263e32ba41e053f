"""A self-test of the gate: does it work here, today, under these settings?

`self_test` loads three builds of a demo service (a baseline, an identical one, a slower one), asks `perfkit compare` in
a process of its own about them, about a simulated history, and about files that it must refuse; each question is a
`Trial`.

The service sleeps for a tenth of a second, which a busy machine makes a little longer and never twice as long.  All
three builds share one seed, so that the identical ones differ by what the machine does alone: a short self-test would
otherwise find differences that the long runs of its user would not have.  The simulated runs are long and vary little;
the same seed gives the same runs everywhere, so that their answers depend on the policy alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.config.settings import BUILT_IN, Scenario
from perfkit.loadgen.demo_services import Change, start_services
from perfkit.loadgen.run import run_scenario, with_demo_addresses
from perfkit.loadgen.service_under_test import revision_of
from perfkit.loadgen.simulate import SimulatedHistory, simulate_history
from perfkit.model.codec import dump_json
from perfkit.model.errors import LoadStopped
from perfkit.model.records import LATENCY_METRICS, Metric, Run, Verdict
from perfkit.runs.backends import DOCUMENT
from perfkit.runs.run_folder import STARTED, resealed
from perfkit.runs.store import RunStore

SERVICE = "rag_service"
SCENARIO = "self-test"
USERS, SECONDS = 20, 3.0  # about 57 requests/s; benchmarks/README.md has what that can tell apart
BASELINE, IDENTICAL, SLOWER = "baseline", "identical", "slower"
ROUND = (BASELINE, IDENTICAL, SLOWER)  # every second one backwards: a machine that drifts does so for all alike
LEAST_ROUNDS = 2  # one run of each build tells what a doubling is, too, but not how such runs vary
BEFORE = 12  # runs of the simulated history
HISTORY_RUN_S = 30.0
TIMEOUT_S = 60.0  # of one comparison of a few stored runs, which takes one or two
AT_ONCE = 2  # comparisons of unfit input
OBJECT, UNREADABLE, UNFIT = 1, 2, 3  # exit codes of `perfkit compare`
CHANCE = 2.0  # times the change that was seen: no fresh runs show one beyond that
_SEED, _HISTORY_SEED, _VARIATION_PCT = 7, 2, 1.0
_AGAIN = "keep the runs with --keep FOLDER, and compare those that are in there"

Sides = Mapping[str, tuple[Run, ...]]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """The gate to test and how."""

    options: tuple[str, ...] = ()  # words that the pipeline gives to `perfkit compare`
    fail_on: str = "regression"  # what of ``--fail-on`` is among them
    required_runs: int = 1  # of its policy: with fewer runs it would claim nothing
    slower_pct: float = 100.0  # percent by which the slower build is slower

    @property
    def rounds(self) -> int:
        return max(LEAST_ROUNDS, self.required_runs)


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to the gate."""

    name: str
    expected: str
    got: str
    ok: bool
    seconds: float
    advice: str = ""  # what it means that the answer was another, and what to do; empty where it was as expected
    by_chance: bool = False  # whether fresh runs may get another answer


def scenario() -> Scenario:
    """The load of every run: one service, known weights."""
    weights = {"PERFKIT_DEMO_WEIGHTS": f"{SERVICE}=1"}
    return replace(
        BUILT_IN["baseline"], name=SCENARIO, users=USERS, spawn_rate=USERS, duration_s=SECONDS, environment=weights
    )


def measure(task: Task, store: str, report: Report) -> Sides:
    """Run every build ``task.rounds`` times, in turn; ``LoadStopped`` when a signal stopped it."""
    sides: dict[str, list[Run]] = {name: [] for name in ROUND}
    build = replace(scenario(), revision=revision_of(Path.cwd()).to_dict())
    with ExitStack() as stack:
        addresses = {}
        for name in ROUND:
            changes = {SERVICE: Change(slower_pct=task.slower_pct)} if name == SLOWER else {}
            services = stack.enter_context(start_services(changes, seed=_SEED, names=(SERVICE,)))
            addresses[name] = services.addresses
        order = [name for number in range(task.rounds) for name in ROUND[:: -1 if number % 2 else 1]]
        for number, name in enumerate(order, 1):
            report(f"run {number} of {len(order)}: {name} build, {USERS} users for {SECONDS:g} s")
            run = run_scenario(with_demo_addresses(build, addresses[name]), RunStore(store), {"build": name})
            stopped = next((check for check in run.validity.problems if check.name == "interrupted"), None)
            if stopped is not None:
                raise LoadStopped(f"the self-test was {stopped.value}; nothing is said of the gate")
            sides[name].append(run)
    return {name: tuple(runs) for name, runs in sides.items()}


def simulated_histories(task: Task, folder: Path) -> dict[str, tuple[Path, tuple[Path, ...]]]:
    """Two stores, and the newest runs in them: of one as those before them, of the other slower."""
    changes = {SLOWER: {SERVICE: Change(slower_pct=task.slower_pct)}, IDENTICAL: {}}
    longer, histories = replace(scenario(), duration_s=HISTORY_RUN_S), {}
    for name, change in changes.items():
        history = SimulatedHistory(BEFORE + task.required_runs, _VARIATION_PCT, changes=change, change_at=BEFORE)
        ids = simulate_history(longer, _HISTORY_SEED, history, RunStore(folder / name))
        histories[name] = folder / name, tuple(folder / name / run_id for run_id in ids[BEFORE:])
    return histories


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gate answered."""

    code: int | None  # its exit code; ``None`` when it had to be ended after `TIMEOUT_S`
    document: Mapping[str, Any]  # the comparison that it printed; empty where it printed none
    errors: str  # what it wrote to standard error
    seconds: float

    @property
    def verdict(self) -> str:
        return str(self.document.get("verdict", ""))

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The findings that are relative to the baseline: an absolute limit is about its user's services."""
        return [finding for finding in self.document.get("findings", ()) if not finding.get("objective")]

    @property
    def regressions(self) -> list[dict[str, Any]]:
        """Those that object."""
        return [finding for finding in self.findings if finding.get("verdict") == Verdict.REGRESSION]

    @property
    def summary(self) -> str:
        """``exit 1, regression``."""
        if self.code is None:
            return "no end"
        return f"exit {self.code}{', ' + self.verdict.replace('_', ' ') if self.verdict else ''}"

    @property
    def last_line(self) -> str:
        lines = self.errors.splitlines()
        return lines[-1][:300] if lines else ""

    @property
    def why_not_judged(self) -> str:
        """Why there is no verdict to speak of."""
        if self.code != UNFIT:
            return f"The comparison failed: {self.last_line or 'it said nothing'}; {_AGAIN}."
        checks = [check for check in self.document.get("checks", ()) if check.get("severity") == "invalid"]
        texts = [check.get("advice", "") for check in checks] or list(self.document.get("warnings", ()))
        return f"The runs could not be judged: {texts[0] if texts else self.last_line or 'no reason was given'}"


def ask_gate(baseline: Sequence[Path], candidate: Sequence[Path], options: Sequence[str] = ()) -> Answer:
    """What `perfkit compare` says of two sides under these options, of which the last ones count."""
    before, after = ([str(path.absolute()) for path in side] for side in (baseline, candidate))
    command = [sys.executable, "-P", "-m", "perfkit", "compare", *before, "--candidate", *after, "--format", "json"]
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # it imports what we import
        )
    except subprocess.TimeoutExpired:
        return Answer(None, {}, f"it did not end within {TIMEOUT_S:g} s", time.monotonic() - begun)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        document = {}
    comparison = document if isinstance(document, Mapping) else {}
    return Answer(done.returncode, comparison, done.stderr.strip(), time.monotonic() - begun)


# What an answer means ------------------------------------------------------------------------------------------------


def load_trial(runs: Sequence[Run], seconds: float) -> Trial:
    """Whether the runs made here may be judged at all."""
    unfit = [run for run in runs if not run.validity.ok]
    if not unfit:
        return Trial("load", "valid runs", f"{len(runs)} valid runs", True, seconds)
    worst = unfit[0].validity.problems[0]
    advice = f"This machine could not make the load of the self-test, so it cannot tell: {worst.advice}"
    got = f"{len(unfit)} of {len(runs)} invalid ({worst.name})"
    return Trial("load", "valid runs", got, False, seconds, advice, by_chance=True)


def slowdown_trial(answer: Answer, slower_pct: float, fail_on: str) -> Trial:
    """A service that takes so much longer must end with exit code 1, for a reason that is relative to the baseline."""
    trial = Trial(f"slower by {slower_pct:g} %", "exit 1, regression", answer.summary, True, answer.seconds)
    if answer.code == OBJECT and answer.regressions:
        return trial
    if answer.code not in (0, OBJECT) or not answer.verdict:
        advice = answer.why_not_judged if answer.code not in (0, OBJECT) else _let_through(answer, slower_pct)
        return replace(trial, ok=False, advice=advice, by_chance=True)
    if answer.verdict == Verdict.REGRESSION and fail_on == "never":
        why = "it saw the regression, but --fail-on never ends with 0 whatever is seen; leave it out."
        return replace(trial, ok=False, advice=f"{_LETS_THROUGH}{why}")
    by_chance = any(
        finding["tolerance"] < CHANCE * (finding.get("change_pct") or 0.0) * Metric(finding["metric"]).worse
        for finding in answer.findings
        if finding.get("tolerance") is not None
    )
    return replace(trial, ok=False, advice=_let_through(answer, slower_pct), by_chance=by_chance)


_LETS_THROUGH = "THE GATE LETS SLOWDOWNS THROUGH: "


def _let_through(answer: Answer, slower_pct: float) -> str:
    latencies = [finding for finding in answer.findings if finding.get("metric") in LATENCY_METRICS]
    if not latencies:
        return f"{_LETS_THROUGH}its policy judges no change of a latency at all; give latencies a tolerance."
    if all((finding.get("tolerance") or 0.0) >= (finding.get("change_pct") or 0.0) for finding in latencies):
        least = min(latencies, key=lambda finding: finding["tolerance"])
        return (
            f"{_LETS_THROUGH}the {Metric(least['metric']).title} rose by {least['change_pct']:.0f} % ({slower_pct:g} % "
            f"were injected), and its tolerance is {least['tolerance']:g} %, that of no latency is less; lower the "
            "tolerance."
        )
    verdict = answer.verdict.replace("no_change", "no regression") or "nothing"
    why = f"it said {verdict}, with exit code {answer.code}. Look at alpha and at the gating metrics"
    return f"{_LETS_THROUGH}{why}; {_AGAIN}."


def identical_trial(answer: Answer, fail_on: str) -> Trial:
    """Identical builds must not be called a regression.

    Absolute limits of a policy are about its user's services: that the demo service breaks one says nothing.  Under
    ``--fail-on inconclusive`` so few short runs may end with exit code 1 for want of evidence.
    """
    regressions = answer.regressions
    is_excused = answer.verdict == Verdict.REGRESSION or fail_on == "inconclusive"
    ok = bool(answer.verdict) and not regressions and (answer.code == 0 or (answer.code == OBJECT and is_excused))
    advice = "" if ok else answer.why_not_judged
    if regressions:
        worst = regressions[0]
        advice = (
            f"THE GATE CALLS IDENTICAL BUILDS A REGRESSION: {Metric(worst['metric']).title} "
            f"{worst['change_pct'] or 0.0:+.1f} %, the limit is {worst.get('limit') or 'less'}. Fixed limits below the "
            "noise do that: raise the limit, or use the rule evidence, which knows the noise."
        )
    expected = "no regression" if fail_on == "inconclusive" else "exit 0, no regression"
    return Trial("identical builds", expected, answer.summary, ok, answer.seconds, advice, not ok)


def build_trial(build: str, answer: Answer, task: Task) -> Trial:
    """What the gate says of the slower or of the identical build."""
    is_slower = build == SLOWER
    return slowdown_trial(answer, task.slower_pct, task.fail_on) if is_slower else identical_trial(answer, task.fail_on)


def unfit_trial(name: str, answer: Answer) -> Trial:
    """What cannot be read or judged must end with exit code 2 or 3."""
    ok = answer.code in (UNREADABLE, UNFIT)
    advice = (
        f"The gate did not refuse what it cannot judge: {answer.last_line or 'it said nothing'}. A pipeline that "
        "reads such a file would take silence for health. Is this perfkit installed whole? Reinstall it; if that "
        "does not help, report it."
    )
    return Trial(name, "exit 2 or 3", answer.summary, ok, answer.seconds, "" if ok else advice)


def believed(first: Trial, second: Trial) -> Trial:
    """The second look at a trial that failed at first; one that was as expected at first stays so."""
    got, seconds = f"{second.got} (at first {first.got})", first.seconds + second.seconds
    return first if first.ok else replace(second, got=got, seconds=seconds, by_chance=False)


# What must be refused ------------------------------------------------------------------------------------------------

GARBAGE = bytes(range(256)) * 8
MISSPELT = '[policy]\ntolerence = { "p95_latency_ms" = 10 }\n'


SATURATED = {"name": "generator_cpu", "value": 100.0, "limit": 90.0, "severity": "invalid", "advice": "saturated"}


def _invalid(content: bytes) -> bytes:
    document = {**json.loads(content), "validity": {"ok": False, "checks": [SATURATED]}}
    return dump_json(resealed(document)).encode()


def _forged(content: bytes) -> bytes:
    document = json.loads(content)
    better = {"forged": next(iter(document["services"].values())), **document["services"]}
    return dump_json({**document, "services": better}).encode()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {  # name -> the only document of the run, and what is in it
    "run.json cut off": (DOCUMENT, lambda content: content[: len(content) // 2]),
    "garbage for run.json": (DOCUMENT, lambda _: GARBAGE),
    "killed run": (STARTED, lambda content: content),
    "invalid run": (DOCUMENT, _invalid),
    "run.json changed afterwards": (DOCUMENT, _forged),
}
Comparison = tuple[str, Sequence[Path], Sequence[Path], tuple[str, ...]]  # name, both sides, further options


def unfit_comparisons(good: tuple[Path, ...], folder: Path) -> Iterator[Comparison]:
    """Every comparison that must be refused, made in ``folder`` from the folders of good runs."""
    for name, (file, damage) in DAMAGE.items():
        damaged = folder / name.replace(" ", "-").replace(".", "-")
        shutil.copytree(good[-1], damaged)
        content = (damaged / DOCUMENT).read_bytes()
        (damaged / DOCUMENT).unlink()
        (damaged / file).write_bytes(damage(content))
        yield name, good, (damaged,), ()
        if name == "run.json cut off":
            yield f"{name} in the baseline", (*good[1:], damaged), good[:1], ()
    (folder / "empty").mkdir()
    (folder / "results_stats.csv").write_bytes(GARBAGE)
    (folder / "policy.toml").write_text(MISSPELT, encoding="utf-8")
    for name, file in (("empty folder", "empty"), ("nothing there", "no-such-run")):
        yield name, good, (folder / file,), ()
    yield "garbage for results", good, (folder / "results_stats.csv",), ()
    yield "misspelt policy", good[:1], good[1:], ("--policy", str((folder / "policy.toml").absolute()))


# The whole -----------------------------------------------------------------------------------------------------------


def self_test(task: Task, folder: Path, report: Report) -> tuple[Trial, ...]:
    """Try the gate out, by one trial after the other; runs and damaged files are left in ``folder``.

    What is not as expected, and may be chance, is measured once more, with fresh runs, before it is believed: a
    self-test with false alarms gets switched off.  ``LoadError`` and ``StoreError`` as `run_scenario`.
    """
    good, trials = _load_trials(task, folder / "runs", report)
    if any(trial.by_chance for trial in trials):
        names = ", ".join(trial.name for trial in trials if not trial.ok)
        report(f"not as expected: {names}; measured once more with fresh runs")
        good, again = _load_trials(task, folder / "second-runs", report)
        trials = [believed(first, second) for first, second in zip(trials, again, strict=True)]
    report("runs against a history, and files that must be refused")
    for name, (store, newest) in simulated_histories(task, folder / "history").items():
        trial = build_trial(name, ask_gate((), newest, (*task.options, "--store", str(store))), task)
        trials.append(replace(trial, name=f"{trial.name}, against history", by_chance=False))
    (folder / "unfit").mkdir(parents=True)

    def refused(comparison: Comparison) -> Trial:
        name, baseline, candidate, more = comparison
        return unfit_trial(name, ask_gate(baseline, candidate, (*task.options, *more)))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        trials += pool.map(refused, list(unfit_comparisons(good, folder / "unfit")))
    return tuple(trials)


def _load_trials(task: Task, folder: Path, report: Report) -> tuple[tuple[Path, ...], list[Trial]]:
    """The folders of the baseline's runs, and what real load shows."""
    begun = time.monotonic()
    sides = measure(task, str(folder), report)
    seconds = time.monotonic() - begun
    report("comparing")
    folders = {name: tuple(Path(run.source or run.id) for run in sides[name]) for name in ROUND}
    trials = [load_trial([run for runs in sides.values() for run in runs], seconds)]
    for name in (SLOWER, IDENTICAL):
        trials.append(build_trial(name, ask_gate(folders[BASELINE], folders[name], task.options), task))
    return folders[BASELINE], trials
