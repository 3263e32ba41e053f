"""How often what moved together comes out as exactly one event, and how often two events stay two.

Simulated histories of 120 runs: ten services of four latency metrics each, which share a part of the luck of their
service; neighbouring runs correlate by 0.3, and 2 % of the runs of a service are 30 % slower.  Sizes are in standard
deviations of one run.

    python benchmarks/grouping.py --histories 60
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from perfkit.history.change_events import find_events
from perfkit.history.events import Event, RunReference
from perfkit.history.timeline import Timeline
from perfkit.model.records import Metric

RUNS, SERVICES, AT, NOISE, CORRELATION, OUTLIERS = 120, 10, 60, 0.02, 0.3, 0.02
METRICS = (Metric.AVG, Metric.P50, Metric.P95, Metric.P99)
SIZES = (1.0, 1.5, 2.0, 3.0, 5.0)
NEAR = 2  # runs by which an event may be off its true place
START = datetime(2026, 1, 1, tzinfo=UTC)
Moves = Callable[[int, float], list[tuple[int, float]]]  # service and size to (run, log of the factor)


def correlated(rng: np.random.Generator, sd: float) -> np.ndarray:
    """First-order autoregression with that standard deviation."""
    shocks = rng.normal(0.0, sd * np.sqrt(1.0 - CORRELATION**2), RUNS)
    values = np.empty(RUNS)
    values[0] = rng.normal(0.0, sd)
    for i in range(1, RUNS):
        values[i] = CORRELATION * values[i - 1] + shocks[i]
    return values


def history(rng: np.random.Generator, moves: Moves, size: float) -> Timeline:
    """A timeline in which every service moves as told."""
    series = {}
    for service in range(SERVICES):
        shared = correlated(rng, NOISE * np.sqrt(0.5)) + np.log(1.3) * (rng.random(RUNS) < OUTLIERS)
        for metric in METRICS:
            values = shared + correlated(rng, NOISE * np.sqrt(0.5))
            for at, change in moves(service, NOISE * size):
                values[at:] += change
            series[f"s{service}", metric] = 100.0 * np.exp(values)
    moments = tuple(RunReference(f"r{i}", START + timedelta(days=i), True) for i in range(RUNS))
    return Timeline("api", moments, series, {})


def is_right(events: tuple[Event, ...], places: tuple[int, ...]) -> bool:
    """Exactly these events, each near its place."""
    return len(events) == len(places) and all(abs(e.index - at) <= NEAR for e, at in zip(events, places, strict=True))


CASES: dict[str, tuple[tuple[int, ...], Moves]] = {
    "all series move once": ((AT,), lambda _, size: [(AT, size)]),
    "half of the services move once": ((AT,), lambda service, size: [(AT, size)] if service % 2 else []),
    "half at run 60, half at run 68": ((AT, AT + 8), lambda service, size: [(AT + 8 * (service % 2), size)]),
    "all at run 60, half again at run 68": (
        (AT, AT + 8),
        lambda service, size: [(AT, size), *([(AT + 8, size)] if service % 2 else [])],
    ),
    "all up at run 60, down at run 68": ((AT, AT + 8), lambda _, size: [(AT, size), (AT + 8, -size)]),
}


def rows(histories: int, seed: int) -> Iterator[str]:
    """One row of a table per case."""
    for name, (places, moves) in CASES.items():
        cells = []
        for size in SIZES:
            rng = np.random.default_rng(seed)
            found = [find_events(history(rng, moves, size)) for _ in range(histories)]
            right = sum(is_right(events, places) for events in found)
            count = sum(len(events) == len(places) for events in found)
            cells.append(f"{100 * right / histories:.0f} % ({100 * count / histories:.0f} %)")
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table: exactly the true events within two runs of their places (the right number of events)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"| {given.histories} histories | {' | '.join(f'{size:g} sd' for size in SIZES)} |")
    print("|---|" + "--:|" * len(SIZES))
    for row in rows(given.histories, given.seed):
        print(row, flush=True)


if __name__ == "__main__":
    main()
