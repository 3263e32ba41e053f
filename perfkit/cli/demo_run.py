"""The demonstration: real load on three small services, one of which gets slower in the candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from perfkit.analysis.compare import compare
from perfkit.config.policy import Policy
from perfkit.config.settings import BUILT_IN
from perfkit.loadgen.demo_services import Change, start_services
from perfkit.loadgen.run import run_scenario, with_demo_addresses
from perfkit.loadgen.service_under_test import revision_of
from perfkit.model.records import Comparison, Run, Verdict
from perfkit.runs.store import RunStore

# Interleaved, so that a machine that drifts does so for both sides alike.
ORDER = ("baseline", "candidate", "baseline", "candidate", "baseline", "candidate", "baseline", "baseline")
SECONDS = 10.0
USERS = 50
INJECTED = "api_gateway"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration found."""

    comparison: Comparison
    report: Path
    slower_pct: float

    @property
    def changed(self) -> tuple[str, ...]:
        """Services with a regression or an improvement, in order."""
        claims = (Verdict.REGRESSION, Verdict.IMPROVEMENT)
        return tuple(dict.fromkeys(f.service for f in self.comparison.findings if f.verdict in claims))

    @property
    def as_injected(self) -> bool:
        """Whether the injected change, and only it, was found."""
        if self.comparison.verdict is Verdict.INVALID:
            return False
        if self.slower_pct == 0:
            return not self.changed
        expected = Verdict.REGRESSION if self.slower_pct > 0 else Verdict.IMPROVEMENT
        verdicts = {f.verdict for f in self.comparison.findings if f.service == INJECTED}
        return self.changed == (INJECTED,) and expected in verdicts

    @property
    def summary(self) -> str:
        """One line: which services changed, and whether that is the truth."""
        names = ", ".join(self.changed) or "nothing"
        return f"{names} ({'as injected, and nothing else' if self.as_injected else 'not what was injected'})"


def run_demo(slower_pct: float, store: str, reports: Path, report: Callable[[str], None]) -> DemoResult:
    """Run five baseline and three candidate runs, compare them, and write the report."""
    from perfkit.report.notebook import run_report

    weights = {"PERFKIT_DEMO_WEIGHTS": "api_gateway=2,rag_service=1,mcp_server=1"}
    scenario = replace(
        BUILT_IN["baseline"],
        name="demo",
        users=USERS,
        spawn_rate=USERS,
        duration_s=SECONDS,
        environment=weights,
        revision=revision_of(Path.cwd()).to_dict(),
    )
    changes = {INJECTED: Change(slower_pct=slower_pct)}
    sides: dict[str, list[Run]] = {"baseline": [], "candidate": []}
    with start_services(seed=1) as before, start_services(changes, seed=2) as after:
        targets = {"baseline": before.addresses, "candidate": after.addresses}
        for number, side in enumerate(ORDER, 1):
            report(f"run {number} of {len(ORDER)}: {side}, {USERS} users for {SECONDS:.0f} s")
            run = run_scenario(with_demo_addresses(scenario, targets[side]), RunStore(store), {"side": side})
            sides[side].append(run)
    comparison = compare(sides["baseline"], sides["candidate"], policy=Policy())
    parameters: dict[str, object] = {
        side: "\n".join(str(Path(run.source or run.id).resolve()) for run in runs) for side, runs in sides.items()
    }
    parameters["title"] = f"Demo: did api_gateway get slower? ({slower_pct:+g} % injected)"
    made = run_report("compare", parameters, reports_dir=reports, progress=report)
    return DemoResult(comparison, made.html, slower_pct)
