"""The story in functions, called by notebooks and by the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perfkit.errors import NotComparable
from perfkit.judge import judge
from perfkit.model import Comparison, Run
from perfkit.policy import Policy
from perfkit.readers import read_run


def compare(
    baseline: Sequence[Run | str | Path], candidate: Sequence[Run | str | Path], *, policy: Policy | None = None
) -> Comparison:
    """Judge the candidate against the baseline.

    Parameters
    ----------
    baseline, candidate
        Runs, or paths that `read_run` takes; at least one on each side.
    policy
        What is accepted; the default policy when ``None``.

    Returns
    -------
    Comparison
        Its verdict is ``invalid`` when the sides are unfit or cannot be compared; the warnings say why.

    Raises
    ------
    ReadError
        A path cannot be read.
    NotComparable
        A side is empty.
    """
    sides = [tuple(run if isinstance(run, Run) else read_run(run) for run in side) for side in (baseline, candidate)]
    for title, side in zip(("baseline", "candidate"), sides, strict=True):
        if not side:
            raise NotComparable(f"{title}: has no runs; name at least one run, file or folder")
    return judge(sides[0], sides[1], policy or Policy())
