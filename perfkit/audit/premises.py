"""What an audit looks at: settings, the store that they name, the day."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from perfkit.config import Settings
from perfkit.history.selection import Past, alike, since_last_change
from perfkit.model import Run
from perfkit.policy import Policy
from perfkit.store import RunStore

NEWEST = 20  # valid runs of a scenario that tell how it varies now


@dataclass(slots=True)
class Premises:
    """Settings, the policy in force, and the store; what is read of it is kept."""

    settings: Settings
    policy: Policy
    store: RunStore
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    _newest: dict[str, tuple[Run, ...]] = field(default_factory=dict)

    @property
    def past(self) -> Past:
        """Where selectors look."""
        return Past(self.store, self.settings.baselines)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios that have runs in the store."""
        return tuple(dict.fromkeys(self.store.runs()["scenario"]))

    def services(self, scenario: str) -> tuple[str, ...]:
        """Services that any valid run of a scenario has."""
        return tuple(dict.fromkeys(service for service, _ in self.store.series(scenario).values))

    def level(self, scenario: str) -> tuple[Run, ...]:
        """The newest valid runs of a scenario, of one load and since its last change, oldest first."""
        if scenario not in self._newest:
            frame = self.store.runs(scenario=scenario)
            ids = frame[frame["valid"] & ~frame["quarantined"]]["id"][-NEWEST:]
            runs = [self.store.get(run_id) for run_id in ids]
            kept = alike(runs, runs[-1])[0] if runs else ()
            self._newest[scenario] = since_last_change(kept)
        return self._newest[scenario]

    def newest(self, scenario: str) -> Run:
        """The newest run of a scenario, whether it is valid or not."""
        return self.store.get(self.store.runs(scenario=scenario)["id"].iloc[-1])
