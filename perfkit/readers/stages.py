"""The stages of a load profile, each summed up by itself: averages over different loads describe none of them."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from perfkit.load_profile import LoadProfile
from perfkit.model import StageStats
from perfkit.readers.requests_frame import RequestColumns, summarise_columns


def stage_stats(columns: RequestColumns, profile: LoadProfile) -> tuple[StageStats, ...]:
    """One `StageStats` per stage of the profile in which requests began; stages are counted from the first request.

    The beginning of each stage is cut off by the same test as the warm-up of a run.
    """
    if not profile.stages or not columns.start_s.size:
        return ()
    ends = list(accumulate(stage.duration_s for stage in profile.stages))
    begins = [0.0, *ends[:-1]]
    index = np.searchsorted(ends, columns.start_s - columns.start_s.min(), side="right")
    found = []
    for number, stage in enumerate(profile.stages):
        part = columns.subset(np.flatnonzero(index == number))
        if part.start_s.size:
            services = summarise_columns(part).services
            found.append(StageStats(profile.stage_name(number), stage, begins[number], ends[number], services))
    return tuple(found)
