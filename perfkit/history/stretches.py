"""The levels of a series over its runs, in the units in which the runs were measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from perfkit.history.events import Series
from perfkit.history.timeline import Timeline
from perfkit.stats.changepoints import Drift, Segmentation


@dataclass(frozen=True, slots=True)
class Stretch:
    """The runs from ``begin`` up to and without ``end``, on one level; ``drift`` where they move steadily instead."""

    begin: int
    end: int
    value: float
    runs: int  # that have a value
    drift: Drift | None = None


def stretches(aligned: Timeline, key: Series, found: Segmentation) -> Iterator[Stretch]:
    """The levels of one series, oldest first; one that lasts through a change of the mix has a part in each mix.

    ``found`` was found in ``aligned``, which is `in_one_mix`.
    """
    edges = [0, *(change.index for change in found.changes), len(aligned)]
    for (begin, end), level in zip(pairwise(edges), found.levels, strict=True):
        drift = next((item for item in found.drifts if begin <= item.begin and item.end <= end), None)
        for first, last in pairwise(_edges_of_mixes(aligned, key, begin, end)):
            runs = [i for i in range(first, last) if not np.isnan(aligned.series[key][i])]
            factor = aligned.scale_at(key, runs[0]) if runs else 1.0
            part = drift if last == end else None
            if part is not None and factor != 1.0:
                part = replace(part, before=part.before / factor, after=part.after / factor)
            yield Stretch(first, last, level / factor, len(runs), part)


def _edges_of_mixes(aligned: Timeline, key: Series, begin: int, end: int) -> list[int]:
    """Where the factor of a series changes within a stretch, with both ends of the stretch."""
    scale = aligned.scale.get(key)
    if scale is None:
        return [begin, end]
    known = [i for i in range(begin, end) if not np.isnan(aligned.series[key][i])]
    return [begin, *(b for a, b in pairwise(known) if scale[a] != scale[b]), end]
