"""What every step of a bisection has in common, and what was found in each: a log with which the next one goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.config import Scenario
from perfkit.errors import HistoryError
from perfkit.model import Finding, Metric, Verdict
from perfkit.policy import Policy
from perfkit.side_by_side import Plan

CODES = {"good": 0, "bad": 1, "skip": 125}  # what `git bisect run` takes them for
FAILED = 255  # ends `git bisect run`


@dataclass(frozen=True, slots=True)
class Question:
    """The one change that is searched for: a metric of a service, and from where on a commit counts as bad.

    ``limit`` is half of the change between the two ends, a worsening >= 0 in the metric's change unit: what is beyond
    is closer to the bad end than to the good one.
    """

    service: str
    metric: str
    limit: float

    def policy(self, policy: Policy) -> Policy:
        """The policy of a step: this question and no other, so that no other keeps it from being settled."""
        tolerance: dict[str, Any] = {metric.value: "off" for metric in Metric}
        unit = "pp" if self.metric == Metric.ERROR_RATE else "%"
        tolerance[self.service] = {self.metric: f"{self.limit:.6f}{unit}"}
        return Policy(tolerance, (self.metric,), policy.alpha, policy.confidence, required_runs=policy.required_runs)


def question_of(findings: tuple[Finding, ...]) -> Question | None:
    """The clearest regression between the two ends; ``None`` where there is none."""
    bad = [f for f in findings if f.verdict is Verdict.REGRESSION and not f.objective and f.service != "(all services)"]
    able = [f for f in bad if f.change is not None and math.isfinite(f.change)]
    if not able:
        return None
    first = min(able, key=lambda f: (not f.gating, f.p_adjusted if f.p_adjusted is not None else 1.0, f.metric))
    return Question(first.service, first.metric, abs(first.change or 0.0) / 2.0)


@dataclass(frozen=True, slots=True)
class Step:
    """What was found of one commit, compared with the good one.

    ``verdict`` is ``good``, ``bad`` or ``skip``; ``change`` and its interval are in ``unit``, ``None`` where nothing
    was measured.
    """

    commit: str
    verdict: str
    why: str
    service: str = ""
    metric: str = ""
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    limit: float | None = None
    is_final: bool = True  # false: another try may tell

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def question(self) -> Question | None:
        """Of the bad end: what the bisection is about."""
        return Question(self.service, self.metric, self.limit) if self.limit is not None else None


@dataclass(frozen=True, slots=True)
class Log:
    """One JSON line per step; those of other searches (another key) are left alone."""

    path: Path
    key: str

    def add(self, step: Step) -> None:
        line = {"key": self.key, "time": datetime.now(UTC).isoformat(), **step.to_dict()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise HistoryError(f"{self.path}: cannot be written: {error.strerror}") from error

    def steps(self) -> dict[str, Step]:
        """Commit to what was found of it last."""
        return {step.commit: step for step in self._read()}

    def _read(self) -> Iterator[Step]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise HistoryError(f"{self.path}: cannot be read ({error}); remove it to begin anew") from error
        for line in lines:
            try:
                table = json.loads(line)
                if table.pop("key") == self.key and table.pop("time"):
                    yield Step(**table)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # the last line of a search that was killed while it wrote


@dataclass(frozen=True, slots=True)
class Order:
    """What is searched for, and how.

    Parameters
    ----------
    build
        Command that builds a checkout, run in it; ``None`` where nothing is to be built.
    serve
        Command that starts the service from a checkout, with ``{port}``.
    store
        Where the runs are kept.
    folder
        Where the load is started from, as `perfkit run` would.
    """

    repository: Path
    folder: Path
    good: str
    bad: str
    scenario: Scenario
    serve: str
    build: str | None
    plan: Plan
    policy: Policy
    store: str
    log_path: Path
    good_tree: Path | None = None  # the good commit, built
    question: Question | None = None

    @property
    def log(self) -> Log:
        """The log of this search; the same words for another service, load or policy are another search."""
        code = self.scenario.locustfile.read_bytes() if self.scenario.locustfile.is_file() else b""
        own = (self.scenario, self.scenario.host, dict(self.scenario.environment))
        words = (self.good, self.bad, own, self.serve, self.build, self.policy)
        return Log(self.log_path, hashlib.sha256(repr(words).encode() + code).hexdigest()[:16])
