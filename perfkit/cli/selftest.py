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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.config.settings import BUILT_IN, Scenario
from perfkit.loadgen.demo_services import Change, start_services
from perfkit.loadgen.run import run_scenario, with_demo_addresses
from perfkit.loadgen.service_under_test import revision_of
from perfkit.loadgen.simulate import SimulatedHistory, simulate_history
from perfkit.model.codec import dump_json, read_json
from perfkit.model.errors import LoadStopped
from perfkit.model.files import atomic_write
from perfkit.model.records import LATENCY_METRICS, Metric, Run, Verdict
from perfkit.runs.backends import DOCUMENT
from perfkit.runs.run_folder import STARTED, resealed
from perfkit.runs.store import RunStore

SERVICE = "rag_service"
SCENARIO = "self-test"
USERS, SECONDS = 20, 3.0  # about 57 requests/s; benchmarks/README.md has what that can tell apart
BASELINE, IDENTICAL, SLOWER = "baseline", "identical", "slower"
ROUND = (BASELINE, IDENTICAL, SLOWER)  # every second one backwards: a machine that drifts does so for all alike
_SEED = 7

Sides = Mapping[str, tuple[Run, ...]]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured: ``rounds`` runs of each build, one of which is slower by ``slower_pct`` percent."""

    rounds: int
    slower_pct: float


def measure(load: Load, store: str, tell: Tell) -> Sides:
    """Run every build ``rounds`` times, in turn.

    Raises
    ------
    LoadStopped
        A signal stopped it; nothing that was started is left.
    LoadError, StoreError
        Load could not be made or kept.
    """
    sides: dict[str, list[Run]] = {name: [] for name in ROUND}
    build = replace(scenario(), revision=revision_of(Path.cwd()).to_dict())
    with ExitStack() as stack:
        addresses = {}
        for name in ROUND:
            changes = {SERVICE: Change(slower_pct=load.slower_pct)} if name == SLOWER else {}
            services = stack.enter_context(start_services(changes, seed=_SEED, names=(SERVICE,)))
            addresses[name] = services.addresses
        for number in range(load.rounds * len(ROUND)):
            turn, place = divmod(number, len(ROUND))
            name = (ROUND if turn % 2 == 0 else ROUND[::-1])[place]
            tell(f"run {number + 1} of {load.rounds * len(ROUND)}: {name} build, {USERS} users for {SECONDS:g} s")
            run = run_scenario(with_demo_addresses(build, addresses[name]), RunStore(store), {"build": name})
            stopped = next((check for check in run.validity.problems if check.name == "interrupted"), None)
            if stopped is not None:
                raise LoadStopped(f"the self-test was {stopped.value}; nothing is said of the gate")
            sides[name].append(run)
    return {name: tuple(runs) for name, runs in sides.items()}


def scenario() -> Scenario:
    """The load of every run: one service, known weights."""
    weights = {"PERFKIT_DEMO_WEIGHTS": f"{SERVICE}=1"}
    return replace(
        BUILT_IN["baseline"], name=SCENARIO, users=USERS, spawn_rate=USERS, duration_s=SECONDS, environment=weights
    )


TIMEOUT_S = 60.0  # of one comparison of a few stored runs, which takes one or two


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gate said.

    Parameters
    ----------
    code
        Its exit code; ``None`` when it had to be ended after `TIMEOUT_S`.
    document
        The comparison that it printed; empty where it printed none.
    said
        What it wrote to standard error.
    """

    code: int | None
    document: Mapping[str, Any]
    said: str
    seconds: float

    @property
    def verdict(self) -> str:
        """The verdict of the comparison; empty where there is none."""
        return str(self.document.get("verdict", ""))

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The findings of the comparison, as its document has them."""
        return list(self.document.get("findings", ()))


@dataclass(frozen=True, slots=True)
class Gate:
    """A command that compares; ``options`` are the words that the pipeline adds: policy, rule, settings, fail-on."""

    options: tuple[str, ...] = ()

    def compare(self, baseline: Sequence[Path], candidate: Sequence[Path], more: Sequence[str] = ()) -> Answer:
        """Ask it; ``more`` are further words, which come last and so count."""
        before, after = ([str(path.absolute()) for path in side] for side in (baseline, candidate))
        sides = [*before, "--candidate", *after]
        command = [sys.executable, "-P", "-m", "perfkit", "compare", *sides, "--format", "json", *self.options, *more]
        begun = time.monotonic()
        try:
            done = subprocess.run(
                command,
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


BEFORE = 12  # runs
HISTORY_RUN_S = 30.0
_HISTORY_SEED, _VARIATION_PCT = 2, 1.0


@dataclass(frozen=True, slots=True)
class Past:
    """A store, and the newest runs in it, which are to be judged against the others."""

    store: Path
    newest: tuple[Path, ...]


def simulated_pasts(newest: int, slower_pct: float, folder: Path) -> Mapping[str, Past]:
    """A past whose last ``newest`` runs are as those before them, and one whose last are slower."""
    changes = {SLOWER: {SERVICE: Change(slower_pct=slower_pct)}, IDENTICAL: {}}
    longer = replace(scenario(), duration_s=HISTORY_RUN_S)
    found = {}
    for name, change in changes.items():
        history = SimulatedHistory(BEFORE + newest, _VARIATION_PCT, changes=change, change_at=BEFORE)
        ids = simulate_history(longer, _HISTORY_SEED, history, RunStore(folder / name))
        found[name] = Past(folder / name, tuple(folder / name / run_id for run_id in ids[BEFORE:]))
    return found


OBJECT = 1  # exit code of a gate that objects
UNREADABLE, UNFIT = 2, 3
CHANCE = 2.0  # times the change that was seen: no fresh runs show one beyond that
_AGAIN = "keep the runs with --keep FOLDER, and compare those that are in there"


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to the gate.

    Parameters
    ----------
    advice
        What it means that the answer was another, and what to do; empty where it was as expected.
    by_chance
        Whether fresh runs may get another answer.
    """

    name: str
    expected: str
    got: str
    ok: bool
    seconds: float
    advice: str = ""
    by_chance: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


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
    ok = answer.code == OBJECT and bool(_called(answer))
    advice = "" if ok else _why_not_red(answer, slower_pct, fail_on)
    name, chance = f"slower by {slower_pct:g} %", not ok and _may_yet_be_red(answer, fail_on)
    return Trial(name, "exit 1, regression", _got(answer), ok, answer.seconds, advice, chance)


def identical_trial(answer: Answer, fail_on: str) -> Trial:
    """Identical builds must not be called a regression.

    Absolute limits of a policy are about its user's services: that the demo service breaks one says nothing.  Under
    ``--fail-on inconclusive`` so few short runs may end with exit code 1 for want of evidence.
    """
    objects = _called(answer)
    excused = answer.verdict == Verdict.REGRESSION or fail_on == "inconclusive"
    ok = bool(answer.verdict) and not objects and (answer.code == 0 or (answer.code == OBJECT and excused))
    advice = ""
    if not ok and not objects:
        advice = _why_not_judged(answer)
    elif not ok:
        worst = objects[0]
        advice = (
            f"THE GATE CALLS IDENTICAL BUILDS A REGRESSION: {Metric(worst['metric']).title} "
            f"{worst['change_pct'] or 0.0:+.1f} %, the limit is {worst.get('limit') or 'less'}. Fixed limits below the "
            "noise do that: raise the limit, or use the rule evidence, which knows the noise."
        )
    expected = "no regression" if fail_on == "inconclusive" else "exit 0, no regression"
    return Trial("identical builds", expected, _got(answer), ok, answer.seconds, advice, not ok)


def unfit_trial(name: str, answer: Answer) -> Trial:
    """What cannot be read or judged must end with exit code 2 or 3."""
    ok = answer.code in (UNREADABLE, UNFIT)
    advice = ""
    if not ok:
        advice = (
            f"The gate did not refuse what it cannot judge: {_last_line(answer) or 'it said nothing'}. A pipeline that "
            "reads such a file would take silence for health. Is this perfkit installed whole? Reinstall it; if that "
            "does not help, report it."
        )
    return Trial(name, "exit 2 or 3", _got(answer), ok, answer.seconds, advice)


def believed(first: Trial, second: Trial) -> Trial:
    """The second look at a trial that failed at first; one that was as expected at first stays so."""
    if first.ok:
        return first
    return Trial(
        first.name,
        first.expected,
        f"{second.got} (at first {first.got})",
        second.ok,
        first.seconds + second.seconds,
        second.advice,
    )


def _may_yet_be_red(answer: Answer, fail_on: str) -> bool:
    if answer.code not in (0, OBJECT) or not answer.verdict:
        return True
    if fail_on == "never" and answer.verdict == Verdict.REGRESSION:
        return False
    relative = [f for f in answer.findings if not f.get("objective") and f.get("tolerance") is not None]
    worsenings = ((f.get("change_pct") or 0.0) * Metric(f["metric"]).worse for f in relative)
    return any(f["tolerance"] < CHANCE * worsening for f, worsening in zip(relative, worsenings, strict=True))


def _called(answer: Answer) -> list[dict[str, Any]]:
    """Findings that object because of a change, not because of an absolute limit."""
    return [f for f in answer.findings if f.get("verdict") == Verdict.REGRESSION and not f.get("objective")]


def _got(answer: Answer) -> str:
    if answer.code is None:
        return "no end"
    return f"exit {answer.code}{', ' + answer.verdict.replace('_', ' ') if answer.verdict else ''}"


def _why_not_red(answer: Answer, slower_pct: float, fail_on: str) -> str:
    if answer.code not in (0, OBJECT):
        return _why_not_judged(answer)
    lets = "THE GATE LETS SLOWDOWNS THROUGH: "
    if answer.verdict == Verdict.REGRESSION and fail_on == "never":
        return f"{lets}it saw the regression, but --fail-on never ends with 0 whatever is seen; leave it out."
    latencies = [f for f in answer.findings if f.get("metric") in LATENCY_METRICS and not f.get("objective")]
    if not latencies:
        return f"{lets}its policy judges no change of a latency at all; give latencies a tolerance."
    loose = [f for f in latencies if (f.get("tolerance") or 0.0) >= (f.get("change_pct") or 0.0)]
    if len(loose) == len(latencies):
        least = min(loose, key=lambda finding: finding["tolerance"])
        title = Metric(least["metric"]).title
        return (
            f"{lets}the {title} rose by {least['change_pct']:.0f} % ({slower_pct:g} % were injected), and its "
            f"tolerance is {least['tolerance']:g} %, that of no latency is less; lower the tolerance."
        )
    said = answer.verdict.replace("no_change", "no regression") or "nothing"
    return f"{lets}it said {said}, with exit code {answer.code}. Look at alpha and at the gating metrics; {_AGAIN}."


def _why_not_judged(answer: Answer) -> str:
    if answer.code != UNFIT:
        return f"The comparison failed: {_last_line(answer) or 'it said nothing'}; {_AGAIN}."
    checks = [check for check in answer.document.get("checks", ()) if check.get("severity") == "invalid"]
    texts = [check.get("advice", "") for check in checks] or list(answer.document.get("warnings", ()))
    return f"The runs could not be judged: {texts[0] if texts else _last_line(answer) or 'no reason was given'}"


def _last_line(answer: Answer) -> str:
    lines = answer.said.splitlines()
    return lines[-1][:300] if lines else ""


GARBAGE = bytes(range(256)) * 8
MISSPELT = '[policy]\ntolerence = { "p95_latency_ms" = 10 }\n'


@dataclass(frozen=True, slots=True)
class Unfit:
    """A comparison that must be refused: its two sides, and further words of the command."""

    name: str
    baseline: tuple[Path, ...]
    candidate: tuple[Path, ...]
    more: tuple[str, ...] = ()


def unfit_inputs(good: tuple[Path, ...], folder: Path) -> Iterator[Unfit]:
    """Every case, made in ``folder`` from the folders of good runs."""
    for name, spoil in _SPOILT.items():
        place = folder / name.replace(" ", "-").replace(".", "-")
        shutil.copytree(good[-1], place)
        spoil(place)
        yield Unfit(name, good, (place,))
        if spoil is _cut_off:
            yield Unfit(f"{name} in the baseline", (*good[1:], place), good[:1])
    (folder / "empty").mkdir()
    yield Unfit("empty folder", good, (folder / "empty",))
    yield Unfit("nothing there", good, (folder / "no-such-run",))
    (folder / "results_stats.csv").write_bytes(GARBAGE)
    yield Unfit("garbage for results", good, (folder / "results_stats.csv",))
    (folder / "policy.toml").write_text(MISSPELT, encoding="utf-8")
    yield Unfit("misspelt policy", good[:1], good[1:], ("--policy", str((folder / "policy.toml").absolute())))


def _cut_off(place: Path) -> None:
    content = (place / DOCUMENT).read_bytes()
    (place / DOCUMENT).write_bytes(content[: len(content) // 2])


def _garble(place: Path) -> None:
    (place / DOCUMENT).write_bytes(GARBAGE)


def _kill(place: Path) -> None:
    """As a run that was killed leaves its folder."""
    (place / DOCUMENT).rename(place / STARTED)


def _invalidate(place: Path) -> None:
    """As a run is kept whose generator was saturated."""
    document = read_json(place / DOCUMENT)
    check = {"name": "generator_cpu", "value": 100.0, "limit": 90.0, "severity": "invalid", "advice": "saturated"}
    document["validity"] = {"ok": False, "checks": [check]}
    atomic_write(place / DOCUMENT, dump_json(resealed(document)))


def _forge(place: Path) -> None:
    """As a run is found whose numbers somebody made better."""
    document = read_json(place / DOCUMENT)
    stats = next(iter(document["services"].values()))
    atomic_write(place / DOCUMENT, dump_json({**document, "services": {"forged": stats, **document["services"]}}))


_SPOILT: dict[str, Callable[[Path], None]] = {
    "run.json cut off": _cut_off,
    "garbage for run.json": _garble,
    "killed run": _kill,
    "invalid run": _invalidate,
    "run.json changed afterwards": _forge,
}


LEAST_ROUNDS = 2  # one run of each build tells what a doubling is, too, but not how such runs vary
AT_ONCE = 2  # comparisons of unfit input


@dataclass(frozen=True, slots=True)
class Task:
    """The gate to test and how.

    Parameters
    ----------
    options
        Words that the pipeline gives to `perfkit compare`.
    fail_on
        What of ``--fail-on`` is among them.
    required_runs
        Of its policy: with fewer runs it would claim nothing.
    slower_pct
        Percent by which the slower build is slower.
    """

    options: tuple[str, ...] = ()
    fail_on: str = "regression"
    required_runs: int = 1
    slower_pct: float = 100.0

    @property
    def load(self) -> Load:
        """What is measured."""
        return Load(max(LEAST_ROUNDS, self.required_runs), self.slower_pct)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the gate answered to each trial."""

    trials: tuple[Trial, ...]

    @property
    def ok(self) -> bool:
        """Whether every answer was as expected."""
        return all(trial.ok for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok, "trials": [trial.to_dict() for trial in self.trials]}


def self_test(
    task: Task, folder: Path, tell: Tell, *, measured: Callable[[Load, str, Tell], Sides] = measure
) -> SelfTest:
    """Try the gate out; runs and spoilt files are left in ``folder``.

    What is not as expected, and may be chance, is measured once more, with fresh runs, before it is believed: a
    self-test that cries wolf gets switched off.

    Raises
    ------
    LoadError, StoreError
        Load could not be made or kept.
    """
    gate = Gate(task.options)
    sides, trials = _look(task, gate, folder / "runs", tell, measured)
    if any(trial.by_chance for trial in trials):
        names = ", ".join(trial.name for trial in trials if not trial.ok)
        tell(f"not as expected: {names}; measured once more with fresh runs")
        sides, again = _look(task, gate, folder / "second-runs", tell, measured)
        trials = [believed(first, second) for first, second in zip(trials, again, strict=True)]
    tell("runs against a history, and files that must be refused")
    good = tuple(Path(run.source or run.id) for run in sides[BASELINE])
    pasts = simulated_pasts(task.required_runs, task.slower_pct, folder / "history")
    for name, past in pasts.items():
        answer = gate.compare((), past.newest, ("--store", str(past.store)))
        trial = (
            slowdown_trial(answer, task.slower_pct, task.fail_on)
            if name == SLOWER
            else identical_trial(answer, task.fail_on)
        )
        trials.append(replace(trial, name=f"{trial.name}, against history", by_chance=False))
    return SelfTest((*trials, *_refusals(gate, good, folder / "unfit")))


def _look(
    task: Task, gate: Gate, folder: Path, tell: Tell, measured: Callable[[Load, str, Tell], Sides]
) -> tuple[Sides, list[Trial]]:
    begun = time.monotonic()
    sides = measured(task.load, str(folder), tell)
    spent = time.monotonic() - begun
    tell("comparing")
    places = {name: [Path(run.source or run.id) for run in sides[name]] for name in ROUND}
    trials = [
        load_trial([run for runs in sides.values() for run in runs], spent),
        slowdown_trial(gate.compare(places[BASELINE], places[SLOWER]), task.slower_pct, task.fail_on),
        identical_trial(gate.compare(places[BASELINE], places[IDENTICAL]), task.fail_on),
    ]
    return sides, trials


def _refusals(gate: Gate, good: tuple[Path, ...], folder: Path) -> Iterator[Trial]:
    folder.mkdir(parents=True)
    cases = list(unfit_inputs(good, folder))

    def ask(case: Unfit) -> Trial:
        return unfit_trial(case.name, gate.compare(case.baseline, case.candidate, case.more))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(ask, cases)
