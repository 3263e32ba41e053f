"""Is this a baseline to lean on?  What makes it weak, in words: too few runs, old, mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from perfkit.history.events import find_events
from perfkit.history.timeline import timeline_of
from perfkit.model import Run

FEW_RUNS = 3  # below, run-to-run variation is hardly known
STALE_DAYS = 30
STALE_RUNS = 50  # later runs of the scenario


def told_of(name: str, runs: Sequence[Run], every: Sequence[Run], now: datetime, alpha: float = 0.01) -> Iterator[str]:
    """Warnings about runs chosen as a baseline from all valid ones of their scenario, as of ``now``."""
    if len(runs) < FEW_RUNS:
        count = "a single run" if len(runs) == 1 else f"{len(runs)} runs"
        yield f"{name} is {count}: too few to know how runs vary; {FEW_RUNS} or more make a baseline."
    yield from _stale(name, runs, every, now)
    yield from _mixed(name, runs, alpha)


def _stale(name: str, runs: Sequence[Run], every: Sequence[Run], now: datetime) -> Iterator[str]:
    times = [run.started_at for run in runs if run.started_at is not None]
    if not times:
        return
    newest = max(times)
    days = (now - newest).days
    later = sum(run.started_at is not None and newest < run.started_at < now for run in every)
    if days > STALE_DAYS:
        yield f"{name} is stale: its newest run is {days} days older ({newest:%Y-%m-%d}); machines and data move on."
    elif later > STALE_RUNS:
        yield f"{name} is stale: {later} runs of this scenario came after its newest ({newest:%Y-%m-%d})."


def _mixed(name: str, runs: Sequence[Run], alpha: float) -> Iterator[str]:
    branches = Counter(branch for run in runs if (branch := run.git.get("branch")))
    if len(branches) > 1:
        parts = ", ".join(f"{branch} {count}" for branch, count in branches.most_common(3))
        yield f"{name} has runs of {len(branches)} branches ({parts}): SCENARIO@rolling:BRANCH takes those of one."
    timeline = timeline_of(runs[0].scenario, runs)
    events = find_events(timeline, alpha=alpha) if len(runs) > 2 * FEW_RUNS else ()
    if events:
        yield (
            f"{name} mixes two levels: the history changed at {events[-1].id}. "
            f"{runs[0].scenario}@rolling begins after the last change."
        )
