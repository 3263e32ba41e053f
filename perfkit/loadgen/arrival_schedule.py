"""When tasks are due in the open model."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from perfkit.model.records import Stage


def arrival_times(
    stages: Sequence[Stage], *, share: int = 1, index: int = 0, poisson: random.Random | None = None
) -> Iterator[float]:
    """When tasks are due, in seconds after the beginning, in order.

    Parameters
    ----------
    stages
        Levels in arrivals per second.
    share, index
        Of ``share`` processes, the one with this number (from 0) gets every ``share``-th arrival.
    poisson
        A source of chance for arrivals that are independent of each other; ``None``: equal distances.
    """
    expected = float(index) if poisson is None else poisson.expovariate(1.0) * share
    passed, begin = 0.0, 0.0  # arrivals that all processes expect before the stage, and its beginning
    for stage in stages:
        whole = (stage.begin + stage.end) / 2 * stage.duration_s
        while expected < passed + whole - 1e-9:
            yield begin + _time_of(stage, expected - passed)
            expected += share * (1.0 if poisson is None else poisson.expovariate(1.0))
        passed, begin = passed + whole, begin + stage.duration_s


def _time_of(stage: Stage, arrivals: float) -> float:
    """Seconds into a stage at which so many arrivals are due: the root of ``begin*t + slope*t*t/2 = arrivals``."""
    slope = (stage.end - stage.begin) / stage.duration_s
    root = math.sqrt(max(stage.begin**2 + 2 * slope * arrivals, 0.0))
    return 2 * arrivals / (stage.begin + root) if arrivals else 0.0
