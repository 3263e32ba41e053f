"""Stop a hopeless run early: ``p95_latency_ms>2000 for 30s``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from perfkit.errors import SettingsError, did_you_mean
from perfkit.load.progress import Progress
from perfkit.profile_words import parse_duration

WINDOW_S = 10.0  # over which an error rate is taken
_CONDITION = re.compile(r"^\s*(?P<name>\w+)\s*(?P<sign>[<>])\s*(?P<limit>[\d.]+)\s*(?:for\s+(?P<length>\S+))?\s*$")


@dataclass(slots=True)
class AbortRule:
    """A condition on what a run says of itself once a second, and for how long it must hold without a break.

    Metrics are ``p95_latency_ms`` (over 10 s), ``error_rate_pct`` (over 10 s), ``rps`` (over 5 s), ``cpu_pct`` of the
    load generator, and ``in_flight``.
    """

    metric: str
    is_above: bool
    limit: float
    for_s: float
    _since: float | None = None
    _seen: deque[tuple[float, int, int]] = field(default_factory=deque)

    def __str__(self) -> str:
        return f"{self.metric}{'>' if self.is_above else '<'}{self.limit:g} for {self.for_s:g} s"

    def reason(self, progress: Progress) -> str | None:
        """Why the run is to end, or ``None``; called once a second."""
        value = _METRICS[self.metric](self, progress)
        holds = value is not None and (value > self.limit if self.is_above else value < self.limit)
        if not holds:
            self._since = None
            return None
        self._since = progress.elapsed_s if self._since is None else self._since
        return f"aborted because of {self}" if progress.elapsed_s - self._since >= self.for_s else None

    def _error_rate(self, progress: Progress) -> float | None:
        self._seen.append((progress.elapsed_s, progress.requests, progress.failures))
        while self._seen[0][0] < progress.elapsed_s - WINDOW_S:
            self._seen.popleft()
        _, requests, failures = self._seen[0] if len(self._seen) > 1 else (0.0, 0, 0)
        made = progress.requests - requests
        return 100.0 * (progress.failures - failures) / made if made else None


_METRICS: dict[str, Callable[[AbortRule, Progress], float | None]] = {
    "p95_latency_ms": lambda _, progress: progress.p95_latency_ms,
    "error_rate_pct": AbortRule._error_rate,
    "rps": lambda _, progress: progress.rps,
    "cpu_pct": lambda _, progress: progress.cpu_pct,
    "in_flight": lambda _, progress: float(progress.in_flight),
}


def parse_abort(text: str) -> AbortRule:
    """A rule as people write it; without ``for`` it must hold for 10 s.  ``SettingsError`` says what is wrong."""
    match = _CONDITION.match(text)
    if match is None:
        raise SettingsError(
            f'--abort-on: expected "METRIC>LIMIT for LENGTH", such as "p95_latency_ms>2000 for 30s", got {text!r}'
        )
    name = match["name"]
    if name not in _METRICS:
        known = ", ".join(_METRICS)
        raise SettingsError(f"--abort-on: unknown metric {name!r}{did_you_mean(name, _METRICS)}; known are {known}")
    try:
        limit, length = float(match["limit"]), parse_duration(match["length"] or "10s", "--abort-on")
    except ValueError as error:
        raise SettingsError(f"--abort-on: {error}") from error
    return AbortRule(name, match["sign"] == ">", limit, length)
