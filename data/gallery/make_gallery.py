"""Makes the gallery: six small sets of runs, summaries only, **simulated**, each of which shows one thing.

Nothing in it was measured, and the commits are invented.  The same Python and libraries give the same bytes.

    python data/gallery/make_gallery.py [FOLDER]
"""

import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path

from perfkit import RunStore, run_from_requests
from perfkit.config.settings import BUILT_IN
from perfkit.loadgen.demo_services import Change
from perfkit.loadgen.simulate import TOOL, SimulatedHistory, simulate_requests
from perfkit.model.records import Run, Validity
from perfkit.runs.validity import GeneratorFacts, Process, check_run

FIRST = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
BASELINE, CANDIDATE = 5, 3  # runs, made in turn
SHOP = replace(
    BUILT_IN["baseline"],
    name="shop",
    users=80,
    spawn_rate=80.0,
    duration_s=120.0,
    environment={"PERFKIT_DEMO_WEIGHTS": "api_gateway=2,rag_service=1"},
)
NIGHTLY = replace(
    SHOP,
    name="nightly",
    users=20,
    spawn_rate=20.0,
    duration_s=30.0,
    environment={"PERFKIT_DEMO_WEIGHTS": "api_gateway=1"},
)
NIGHTS, SLOWER_AT, FASTER_AT = 120, 45, 85  # counted from 0: 12 % slower, then 9 % faster
BURST_S = (40.0, 46.0)  # of the run, in which three quarters of api_gateway's answers are errors
PAIRS = {
    "clean": Change(),
    "regression": Change(slower_pct=15.0),
    "tail-only": Change(tail_pct=2.0, tail_factor=3.0),
    "error-burst": Change(),
    "saturated-generator": Change(slower_pct=15.0),
}


def summary(run: Run, commit: str, scenario=SHOP) -> Run:
    """The run without its requests, as one of a commit."""
    digest = sha1(f"perfkit gallery {commit}".encode(), usedforsecurity=False).hexdigest()
    git = {"commit": digest, "branch": "main"}
    return replace(run, tool=TOOL, profile=scenario.profile, git=git, load_requests=None)


def saturated(run: Run) -> Run:
    """The run as one whose load generator had no CPU time left."""
    facts = GeneratorFacts(processes=(Process("locust", cpu_pct=(97.0,) * int(SHOP.duration_s or 0)),))
    checks = check_run(run.services, SHOP.profile, facts, run.duration_s)
    return replace(run, validity=Validity((*run.validity.checks, *(c for c in checks if c.name == "generator_cpu"))))


def make_pair(folder: Path, name: str, change: Change) -> None:
    """Five runs of a build and three of the next one, in turn; only api_gateway differs."""
    for number in range(BASELINE + CANDIDATE):
        side = "candidate" if number % 2 and number < 2 * CANDIDATE else "baseline"
        started = FIRST + timedelta(minutes=5 * number)
        changes = {"api_gateway": change} if side == "candidate" else {}
        seed = 1000 * (1 + list(PAIRS).index(name)) + number
        frame = simulate_requests(SHOP, seed, started_at=started, changes=changes, run_to_run_pct=1.0)
        if name == "error-burst" and side == "candidate":
            since = frame["start"] - started.timestamp()
            burst = since.between(*BURST_S) & (frame["service"] == "api_gateway") & (frame.index % 4 != 0)
            frame["failed"] |= burst
        run = summary(run_from_requests(frame, scenario=SHOP.name, build="1.5" if side == "candidate" else "1.4"), side)
        if name == "saturated-generator" and side == "candidate":
            run = saturated(run)
        RunStore(folder / side).add(run)


def make_history(folder: Path) -> None:
    """A hundred and twenty nights with two events."""
    store, factors = RunStore(folder), SimulatedHistory(NIGHTS, variation_pct=1.5).factors("api_gateway", seed=3)
    for number, factor in enumerate(factors):
        level = (1.12 if number >= SLOWER_AT else 1.0) * (0.91 if number >= FASTER_AT else 1.0)
        started = FIRST + timedelta(days=number, minutes=number % 7)
        changes = {"api_gateway": Change(slower_pct=100.0 * (factor * level - 1.0))}
        frame = simulate_requests(NIGHTLY, 9000 + number, started_at=started, changes=changes, run_to_run_pct=0.0)
        store.add(summary(run_from_requests(frame, scenario=NIGHTLY.name), f"night {number}", NIGHTLY))


def main(folder: Path, *names: str) -> None:
    """Simulate, summarise, keep: all sets, or those that are named."""
    for name in names or (*PAIRS, "history"):
        shutil.rmtree(folder / name, ignore_errors=True)
        if name == "history":
            make_history(folder / name)
        else:
            make_pair(folder / name, name, PAIRS[name])


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]) if sys.argv[1:] else Path(__file__).parent)
