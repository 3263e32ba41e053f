"""Makes ``data/samples/history``: sixty simulated nightly runs, summaries only, whose truth is known.

Nothing in it was measured, and the commits are invented.  From run 38 (counted from 0) on api_gateway is 12 % slower;
run 21 is a spike of 35 %; run 47 was interrupted after 12 seconds, so that it is invalid.

    python data/samples/make_history.py
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path

from perfkit import RunStore, run_from_requests
from perfkit.config.settings import BUILT_IN
from perfkit.loadgen.demo_services import Change
from perfkit.loadgen.simulate import TOOL, SimulatedHistory, simulate_requests
from perfkit.model.records import Check, Run, Severity, Validity

RUNS, STEP, SPIKE, BAD = 60, 38, 21, 47
SERVICE = "api_gateway"
FIRST = datetime(2026, 9, 24, 3, 0, tzinfo=UTC)
WEIGHTS = {"PERFKIT_DEMO_WEIGHTS": "api_gateway=2,rag_service=1"}
SCENARIO = replace(
    BUILT_IN["baseline"], name="nightly", users=20, spawn_rate=20.0, duration_s=40.0, environment=WEIGHTS
)


def change(number: int, factor: float) -> Change:
    """What is true of api_gateway in one run."""
    truth = (1.12 if number >= STEP else 1.0) * (1.35 if number == SPIKE else 1.0)
    return Change(slower_pct=100.0 * (factor * truth - 1.0))


def cut_short(run: Run) -> Run:
    """The run as one that its user stopped."""
    check = Check("interrupted", "stopped by its user", "no", Severity.INVALID, "Repeat the run to judge it.")
    return replace(run, validity=Validity((check, *run.validity.checks[1:])))


def main() -> None:
    """Simulate, summarise, keep."""
    store = RunStore(Path(__file__).parent / "history")
    factors = SimulatedHistory(RUNS, variation_pct=1.5).factors(SERVICE, seed=6)
    for number in range(RUNS):
        started = FIRST + timedelta(days=number, minutes=number % 7)
        changes = {SERVICE: change(number, factors[number])}
        frame = simulate_requests(SCENARIO, 600 + number, started_at=started, changes=changes)
        if number == BAD:
            frame = frame[frame["start"] < started.timestamp() + 12.0]
        run = run_from_requests(frame, scenario=SCENARIO.name)
        run = cut_short(run) if number == BAD else run
        commit = sha1(f"perfkit sample {number // 2}".encode(), usedforsecurity=False).hexdigest()
        git = {"commit": commit, "branch": "main"}
        store.add(replace(run, tool=TOOL, profile=SCENARIO.profile, git=git, load_requests=None))


if __name__ == "__main__":
    main()
