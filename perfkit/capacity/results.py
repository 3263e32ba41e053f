"""What is known of how much load a service takes: plain facts, for reports and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from perfkit.model import Run, Verdict, run_summary
from perfkit.policy import Objective
from perfkit.slo import describe_slo
from perfkit.stats.capacity import Estimate

if TYPE_CHECKING:
    import pandas as pd

BASELINE, CANDIDATE = "baseline", "candidate"


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One window of one run: load, and what was measured under it; ``None`` where too few requests say.

    ``throughput`` counts requests that ended, per second; its error is that of independent requests.
    """

    run: str
    load: float
    seconds: float
    requests: int
    throughput: float
    throughput_error: float
    avg_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p95_error_ms: float | None
    p99_ms: float | None
    error_rate_pct: float | None


@dataclass(frozen=True, slots=True)
class Scalability:
    """The Universal Scalability Law of a service; or the ``reason`` why it cannot be fitted.

    ``lam`` is the throughput (1/s) of a load of one, ``sigma`` contention, ``kappa`` coherence (both >= 0).
    ``peak_load`` is unknown where throughput has no peak; beyond ``highest_load`` it is an extrapolation.
    """

    lam: Estimate
    sigma: Estimate
    kappa: Estimate
    peak_load: Estimate
    r_squared: float | None
    highest_load: float
    load_unit: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceCapacity:
    """How much load one service takes on one side: its curve, and what follows from it.

    ``points`` are the windows of each run, ``line`` the same requests in equal stretches of load over all runs, whose
    ``run`` is empty.  ``knee`` and ``limit`` (the capacity under the SLO) are loads; ``knee_throughput`` and
    ``limit_throughput`` are the requests per second there.
    """

    service: str
    side: str
    points: tuple[LoadPoint, ...]
    line: tuple[LoadPoint, ...]
    knee: Estimate
    knee_throughput: Estimate
    limit: Estimate
    limit_throughput: float | None
    scalability: Scalability


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate against baseline in one question, such as the average latency at equal load.

    ``change_pct`` and its 95 % interval are percent of the baseline; ``p_adjusted`` is corrected over all questions.
    ``worse`` is +1 where more is worse; of ``gating`` questions of all requests none may stay open for ``no_change``.
    ``reason`` says what to know, and why there is no number where there is none.
    """

    service: str
    question: str
    unit: str
    worse: int
    tolerance_pct: float
    gating: bool
    baseline: float | None = None
    candidate: float | None = None
    change_pct: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict = Verdict.INCONCLUSIVE
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class AtLoad:
    """One metric of one service at one load: both sides, and the change in percent with its 95 % interval."""

    service: str
    metric: str
    load: float
    baseline: float
    candidate: float
    change_pct: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """The answer to *how much load can it take?*, and for two builds: can it take less than before?

    ``load_unit`` is ``users``, ``arrivals/s`` or ``requests in flight``.  ``verdict`` is ``None`` without a candidate.
    """

    runs: tuple[Run, ...]
    candidate: tuple[Run, ...]
    load_unit: str
    slo_objective: Objective | None
    curves: tuple[ServiceCapacity, ...]
    differences: tuple[Difference, ...] = ()
    at_load: tuple[AtLoad, ...] = ()
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    confidence: float = 0.95
    alpha: float = 0.01

    @property
    def slo(self) -> str | None:
        """The promise in words, ``p95 latency below 300 ms``; ``None`` without one."""
        return describe_slo(self.slo_objective) if self.slo_objective is not None else None

    @property
    def services(self) -> tuple[str, ...]:
        """The services, all requests together first."""
        return tuple(dict.fromkeys(curve.service for curve in self.curves))

    def of(self, service: str) -> tuple[ServiceCapacity, ...]:
        """The curve of each side, the baseline's first."""
        return tuple(curve for curve in self.curves if curve.service == service)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.capacity/1``."""
        return {
            "schema": "perfkit.capacity/1",
            "verdict": self.verdict.value if self.verdict is not None else None,
            "load_unit": self.load_unit,
            "slo": self.slo,
            "alpha": self.alpha,
            "confidence": self.confidence,
            "runs": [run_summary(run) for run in self.runs],
            "candidate": [run_summary(run) for run in self.candidate],
            "warnings": list(self.warnings),
            "curves": [asdict(curve) for curve in self.curves],
            "differences": [difference.to_dict() for difference in self.differences],
            "at_load": [asdict(level) for level in self.at_load],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per side, service and window: the points of the curves."""
        import pandas as pd

        columns = ["side", "service", *LoadPoint.__dataclass_fields__]
        return pd.DataFrame(list(self._rows()), columns=columns)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for curve in self.curves:
            for point in curve.points:
                yield {"side": curve.side, "service": curve.service, **asdict(point)}
