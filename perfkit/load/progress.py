"""What a running load test says about itself, once a second."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Progress:
    """A running load test at one moment."""

    time: datetime
    elapsed_s: float  # since the first user was started
    users: int
    requests: int  # all so far
    failures: int  # of them
    skipped: int  # requests without a response time, which are not kept
    rps: float  # over about 5 s
    p95_latency_ms: float | None  # exact, over about 10 s; None without requests
    cpu_pct: float  # of the load generator, in percent of one core, over the last second
    state: str  # Locust's word: ready, spawning, running, cleanup, stopped
    late: int = 0  # arrivals that started late, in the open model
    in_flight: int = 0  # tasks under way, in the open model

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """Take over one line of the recorder; what else it says is for those who started it."""
        values = {part.name: line[part.name] for part in fields(cls)}
        return cls(**{**values, "time": datetime.fromtimestamp(line["time"], UTC)})
