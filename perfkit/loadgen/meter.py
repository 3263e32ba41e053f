"""What a running load test is like at the moment: totals, and figures over the last seconds."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
import pyarrow as pa

RPS_WINDOW_S, P95_WINDOW_S = 5.0, 10.0


class Meter:
    """Totals, and what the last seconds were like."""

    def __init__(self) -> None:
        self.requests = self.failures = 0
        self.cpu_pct = 0.0
        self._clocks = (time.monotonic(), time.process_time())
        self._totals = deque([(time.monotonic(), 0)])
        self._times: deque[tuple[float, Any]] = deque()
        np.percentile([0.0], 95)  # its first call imports numpy.ma, 50 ms that the load need not meet

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch."""
        self.requests += len(batch)
        self.failures += len(batch) - batch.column("error").null_count
        times = batch.column("response_time_ms").buffers()[
            1
        ]  # not to_numpy(): that imports pandas, a pause of a second
        self._times.append((time.monotonic(), np.frombuffer(times)))
        self._forget()

    def measure_cpu(self) -> None:
        """Set `cpu_pct` to the CPU time of this process since the last call, in percent of one core."""
        now, used = time.monotonic(), time.process_time()
        if (span := now - self._clocks[0]) >= 0.2:  # the last call of a run comes early; keep the figure before it
            self.cpu_pct = 100 * (used - self._clocks[1]) / span
            self._clocks = now, used

    def rps(self) -> float:
        """Return requests per second over `RPS_WINDOW_S`."""
        now = time.monotonic()
        while len(self._totals) > 1 and self._totals[0][0] < now - RPS_WINDOW_S - 0.5:
            self._totals.popleft()
        since, before = self._totals[0]
        self._totals.append((now, self.requests))
        return (self.requests - before) / max(now - since, 1e-3)

    def p95_latency_ms(self) -> float | None:
        """Return the exact 95th percentile (linear interpolation) over `P95_WINDOW_S`, None without requests."""
        self._forget()
        return float(np.percentile(np.concatenate([times for _, times in self._times]), 95)) if self._times else None

    def _forget(self) -> None:
        """Batches come once a second from each worker, or more often: time counts here, not their number."""
        while self._times and self._times[0][0] < time.monotonic() - P95_WINDOW_S:
            self._times.popleft()
