"""Three builds of a demo service under real load: a baseline, an identical one, and one that takes longer.

The service sleeps for a tenth of a second, which a busy machine makes a little longer and never twice as long.  All
three meet the same luck (one seed), so that the identical builds differ by what the machine does and by nothing else:
a short self-test would otherwise find differences that the long runs of its user would not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from perfkit.config import BUILT_IN, Scenario
from perfkit.errors import LoadStopped
from perfkit.load.scenario_run import aimed_at, run_scenario
from perfkit.load.service_model import Change
from perfkit.load.services import start_services
from perfkit.model import Run
from perfkit.store import RunStore

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
            run = run_scenario(aimed_at(scenario(), addresses[name]), RunStore(store), {"build": name})
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
