"""Runs of a scenario that were on another machine, as all of its series show.

A slower machine makes many metrics and services slower in the same runs, in turns with the others, so that twenty
series tell almost without error which runs those were, where one cannot.  The runs fall in two groups (Otsu 1979,
doi:10.1109/TSMC.1979.4310076) along the first principal component, the same ones by either half of the series, far
apart, and slow ones come at least three times; else no run counts as slow.

A later run is on that machine where the median series lies as far off as it did there.  Its limit: a change of all
series at once by just as much looks the same, until more runs are slow in a row than chance explains (`UNLIKELY`).
From then on none of them counts as slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfkit.stats.changepoints import in_two_groups, robust_scale
from perfkit.stats.shared_noise import BLOCK, LEAST_SERIES

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats

LEAST_RUNS = 40  # of fewer a stretch on one machine looks like a share of the runs
LEAST_SLOW = 3  # runs, and stretches of runs
MISSING = 0.25  # of the runs: a series that lacks more takes no part
AGREE = 0.95  # of the runs are in the same group by either half of the series
CLEAR = 6.0  # standard errors between the groups
NEAR = 3.5  # standard errors within which a run lies where the slow ones do
OF_MEDIAN = 1.57  # its variance over that of the mean
SHOWN = 2.0  # standard errors of what the machine makes of a series, for it to be taken out
UNLIKELY = 1e-5  # chance of so many slow runs in a row


@dataclass(frozen=True, slots=True)
class SlowRuns:
    """Which runs were on the slow machine, as known at the runs from ``begin`` on from those before ``end``."""

    begin: int
    end: int
    are_slow: NDArray[np.bool_]

    def factors(self, values: Floats, runs: NDArray[np.intp]) -> tuple[Floats, float]:
        """What the machine makes of each value of a series, as its runs before ``end`` show, and what share of the
        variance of a run is in that estimate: factors of 1, and 0, where they show nothing.

        ``values`` are positive, and ``runs`` says of which run each is.
        """
        slow, logs = self.are_slow[runs], np.log(values)
        level, known = np.full(len(logs), np.nan), runs < self.end
        for block in np.unique(runs[known] // BLOCK):
            here = known & (runs // BLOCK == block)
            if (fast := here & ~slow).any():
                level[here] = np.median(logs[fast])
        rest = logs - level
        of_slow, of_fast = (rest[(slow == is_slow) & ~np.isnan(rest)] for is_slow in (True, False))
        if len(of_slow) < LEAST_SLOW or len(of_fast) < LEAST_SLOW:
            return np.ones(len(values)), 0.0
        effect, share = float(np.median(of_slow)), OF_MEDIAN * (1.0 / len(of_slow) + 1.0 / len(of_fast))
        if abs(effect) < SHOWN * robust_scale(of_fast) * math.sqrt(share):
            return np.ones(len(values)), 0.0
        return np.exp(effect * slow), share * float(np.mean(slow[known]))


def slow_runs(logs: Floats, end: int) -> list[SlowRuns]:
    """As known from the runs before ``end``, for the looks at the `BLOCK` runs from there on.

    ``logs`` has shape ``(n_series, n_runs)``, ``NaN`` where a run has none.
    """
    if end < LEAST_RUNS:
        return []
    logs = logs[np.isnan(logs[:, :end]).mean(1) < MISSING]
    middles = np.nanmedian(logs[:, :end], axis=1, keepdims=True)
    rest, is_missing = np.nan_to_num(logs - middles), np.isnan(logs)
    scale = np.array([robust_scale(row[:end]) for row in rest])
    rest, is_missing = rest[scale > 0.0] / scale[scale > 0.0, None], is_missing[scale > 0.0]
    if len(rest) < LEAST_SERIES:
        return []
    halves = [_groups(part[:, :end]) for part in (rest[::2], rest[1::2])]
    are_same = float(np.mean(halves[0] == halves[1]))
    slow = _groups(rest[:, :end])
    slow = slow if 2 * slow.sum() <= end else ~slow
    if max(are_same, 1.0 - are_same) < AGREE or np.diff(slow, prepend=False, append=False).sum() < 2 * LEAST_SLOW:
        return []
    of_fast = np.median(rest[:, :end][:, ~slow], axis=1, keepdims=True)
    effect = np.median(rest[:, :end][:, slow], axis=1, keepdims=True) - of_fast
    noise = np.array([robust_scale(row) for row in rest[:, :end] - of_fast - effect * slow])
    shown = np.abs(effect[:, 0]) > noise
    if shown.sum() < LEAST_SERIES:
        return []
    of_slow = np.where(is_missing, np.nan, (rest - of_fast) / np.where(shown, effect[:, 0], 1.0)[:, None])[shown]
    of_slow[:, is_missing[shown].all(0)] = 0.0  # a run that has none is no slow one
    far = np.nanmedian(of_slow[:, : end + BLOCK], axis=0)
    spread = robust_scale(far[:end] - slow)
    if spread * CLEAR > 1.0:
        return []
    are_slow = np.abs(far - 1.0) < NEAR * spread
    again = max((slow.sum() + 1.0) / (end + 2.0), ((slow[1:] & slow[:-1]).sum() + 1.0) / (slow[:-1].sum() + 2.0))
    most = math.ceil(math.log(UNLIKELY) / math.log(again))
    known, begin = [SlowRuns(end, end, are_slow)], 0
    for run in range(len(far)):
        if far[run] < 0.5:
            begin = run + 1
        elif run - begin + 1 >= most and run >= end:
            are_slow = are_slow.copy()
            are_slow[begin : run + 1] = False
            of_stretch = known.pop() if run - begin + 1 > most and run > end else SlowRuns(run, end, are_slow)
            known.append(replace(of_stretch, are_slow=are_slow))
    return known


def _groups(rest: Floats) -> NDArray[np.bool_]:
    return in_two_groups(np.linalg.svd(rest, full_matrices=False)[2][0])
