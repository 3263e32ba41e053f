"""What an audit looks at: settings, the store that they name, the day.  What is read of the store is read once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from perfkit.config import Settings
from perfkit.history.selection import Past, alike, since_last_change
from perfkit.model import Run
from perfkit.policy import Policy
from perfkit.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

NEWEST = 20  # valid runs of a scenario that tell how it varies now


@dataclass(frozen=True)
class Premises:
    """Settings, the policy in force, and the store."""

    settings: Settings
    policy: Policy
    store: RunStore

    @cached_property
    def now(self) -> datetime:
        """When the audit began."""
        return datetime.now(UTC)

    @cached_property
    def past(self) -> Past:
        """Where selectors look."""
        return Past(self.store, self.settings.baselines, alpha=self.policy.alpha)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """All runs of the store, see `RunStore.runs`."""
        return self.store.runs()

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios that have runs in the store."""
        return tuple(dict.fromkeys(self.runs["scenario"]))

    def services(self, scenario: str) -> tuple[str, ...]:
        """Services that any valid run of a scenario has."""
        return tuple(dict.fromkeys(service for service, _ in self.store.series(scenario, ab_tests=True).values))

    @cached_property
    def levels(self) -> dict[str, tuple[Run, ...]]:
        """The newest valid runs of each scenario, of one load and since its last change, oldest first."""
        return {scenario: self._level(scenario) for scenario in self.scenarios}

    def _level(self, scenario: str) -> tuple[Run, ...]:
        frame = self.runs[self.runs["scenario"] == scenario]
        ids = frame[frame["valid"] & ~frame["quarantined"] & ~frame["ab_test"].astype(bool)]["id"][-NEWEST:]
        runs = [self.store.get(run_id) for run_id in ids]
        kept = alike(runs, runs[-1])[0] if runs else ()
        return since_last_change(kept, self.policy.alpha)

    def newest(self, scenario: str) -> Run:
        """The newest run of a scenario, whether it is valid or not."""
        return self.store.get(self.runs[self.runs["scenario"] == scenario]["id"].iloc[-1])
