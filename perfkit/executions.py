"""Load tests run one after the other, and the record of how each went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from perfkit.config import Scenario
from perfkit.errors import Activity, LoadStopped, PerfkitError
from perfkit.model import Run
from perfkit.store import RunStore

STOPPED_BY = "stopped by "  # begins the reason of a run that a signal to perfkit ended

if TYPE_CHECKING:
    from perfkit.load.container import Container
    from perfkit.load.locust import Distribution
    from perfkit.load.progress import Progress


@dataclass(frozen=True, slots=True)
class Execution:
    """One attempt to run a scenario: the run, or the error that prevented it."""

    scenario: str
    started_at: datetime
    ended_at: datetime
    run: Run | None = None
    error: PerfkitError | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run was interrupted by its user."""
        if isinstance(self.error, LoadStopped):
            return True
        return self.run is not None and was_stopped(self.run)

    @property
    def status(self) -> str:
        """``ok``, ``invalid`` or ``failed``."""
        return "failed" if self.run is None else "ok" if self.run.validity.ok else "invalid"

    def to_dict(self) -> dict[str, object]:
        """As the execution record keeps it."""
        stats = self.run.services.values() if self.run else ()
        return {
            "scenario": self.scenario,
            "status": self.status,
            "run_id": self.run.id if self.run else None,
            "folder": self.run.source if self.run else None,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "duration_s": round((self.ended_at - self.started_at).total_seconds(), 3),
            "load": self.run.profile.describe() if self.run else None,
            "requests": sum(item.count or 0 for item in stats),
            "failures": sum(item.failures or 0 for item in stats),
            "problems": [check.to_dict() for check in self.run.validity.problems] if self.run else [],
            "error": str(self.error) if self.error else None,
        }


def was_stopped(run: Run) -> bool:
    """Whether a signal to perfkit ended the run; a Locust that was killed is no wish of its user."""
    return any(
        check.name == "interrupted" and str(check.value).startswith(STOPPED_BY) for check in run.validity.problems
    )


def run_scenarios(
    scenarios: Sequence[Scenario],
    store: str,
    *,
    repeat: int = 1,
    labels: Mapping[str, str] | None = None,
    on_progress: Callable[[Scenario, Progress], None] | None = None,
    on_end: Callable[[Execution], None] | None = None,
    distribution: Distribution | None = None,
    abort_on: str | None = None,
    container: Container | None = None,
) -> tuple[Execution, ...]:
    """Run load tests one after the other, ``repeat`` rounds of them; a failing one does not stop the rest.

    A run stopped by Ctrl-C ends the sequence, because its user wants an end.
    """
    from perfkit.load.abort import parse_abort
    from perfkit.load.scenario_run import run_scenario

    if abort_on is not None:
        parse_abort(abort_on)  # a mistake is told before the first run
    done: list[Execution] = []
    for scenario in [one for _ in range(repeat) for one in scenarios]:
        started = datetime.now(UTC)
        report = None if on_progress is None else partial(on_progress, scenario)
        abort = parse_abort(abort_on).reason if abort_on is not None else None
        try:
            with Activity(f"running the scenario {scenario.name}"):
                run = run_scenario(scenario, RunStore(store), labels or {}, report, distribution, abort, container)
            done.append(Execution(scenario.name, started, datetime.now(UTC), run))
        except PerfkitError as error:
            done.append(Execution(scenario.name, started, datetime.now(UTC), error=error))
        if on_end is not None:
            on_end(done[-1])
        if done[-1].stopped:
            break
    return tuple(done)


def execution_record(executions: Sequence[Execution]) -> dict[str, object]:
    """The document ``test_execution_metadata.json`` (schema ``perfkit.execution/1``)."""
    return {
        "schema": "perfkit.execution/1",
        "started_at": executions[0].started_at.isoformat() if executions else None,
        "ended_at": executions[-1].ended_at.isoformat() if executions else None,
        "status": next((s for s in ("failed", "invalid") if any(e.status == s for e in executions)), "ok"),
        "executions": [execution.to_dict() for execution in executions],
    }
