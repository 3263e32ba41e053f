"""A policy applied to the past: when would it have fired?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfkit.errors import NotComparable
from perfkit.judge import judge
from perfkit.model import Comparison, Run
from perfkit.policy import Policy


@dataclass(frozen=True, slots=True)
class Replay:
    """One run of the past, judged as a candidate against the runs before it."""

    run: Run
    comparison: Comparison


def replay(runs: Sequence[Run], policy: Policy, window: int) -> tuple[Replay, ...]:
    """Judge each valid run against the ``window`` valid runs before it, as nightly CI would have done.

    Runs come oldest first.  The first ``window`` of them have nothing to be held against and are left out.  A level
    that changed stays in the window for a while, so one step may fire more than once.

    Raises
    ------
    ValueError
        ``window`` is below 1.
    NotComparable
        There are not more valid runs than the window holds.
    """
    if window < 1:
        raise ValueError(f"window: at least 1 run, got {window}")
    fit = [run for run in runs if run.validity.ok]
    if len(fit) <= window:
        raise NotComparable(f"{len(fit)} valid runs; a replay with a window of {window} needs more than that")
    return tuple(Replay(fit[i], judge(fit[i - window : i], fit[i : i + 1], policy)) for i in range(window, len(fit)))
