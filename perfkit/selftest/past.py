"""A simulated past of the service, with the runs that are judged against it: what a nightly pipeline compares.

The same seed gives the same runs everywhere, so these answers depend on the policy and on nothing else.  They are long
and vary little: with this seed the identical runs are within 1 % of the level before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from perfkit.load.service_model import Change
from perfkit.load.simulated_history import SimulatedHistory, simulate_history
from perfkit.selftest.builds import IDENTICAL, SERVICE, SLOWER, scenario
from perfkit.store import RunStore

BEFORE = 12  # runs
SECONDS = 30.0
_SEED, _VARIATION_PCT = 2, 1.0


@dataclass(frozen=True, slots=True)
class Past:
    """A store, and the newest runs in it, which are to be judged against the others."""

    store: Path
    newest: tuple[Path, ...]


def simulated_pasts(newest: int, slower_pct: float, folder: Path) -> Mapping[str, Past]:
    """A past whose last ``newest`` runs are as those before them, and one whose last are slower."""
    changes = {IDENTICAL: {}, SLOWER: {SERVICE: Change(slower_pct=slower_pct)}}
    longer = replace(scenario(), duration_s=SECONDS)
    found = {}
    for name, change in changes.items():
        history = SimulatedHistory(BEFORE + newest, _VARIATION_PCT, changes=change, change_at=BEFORE)
        ids = simulate_history(longer, _SEED, history, RunStore(folder / name))
        found[name] = Past(folder / name, tuple(folder / name / run_id for run_id in ids[BEFORE:]))
    return found
