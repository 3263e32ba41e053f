"""Services under the names that the settings give them, so that what was renamed is one service before and after."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from perfkit.model.errors import NotComparable
from perfkit.model.records import Run

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


def new_name(service: str, names: Mapping[str, str]) -> str:
    """The name that a service has now.

    >>> new_name("/v1/items", {"/v1/*": "/v2/*"}), new_name("/pay", {"/v1/*": "/v2/*"})
    ('/v2/items', '/pay')
    """
    if service in names:
        return names[service]
    for pattern, target in names.items():
        if "*" in pattern and (match := _compiled(pattern).fullmatch(service)):
            return target.replace("*", match[1], 1)
    return service


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*", 1))), re.DOTALL)


def renamed(run: Run, names: Mapping[str, str]) -> Run:
    """The run with its services under the names that they have now; services that share one are summed up anew.

    Raises
    ------
    NotComparable
        Two of its services share a name, and the run has no requests to sum them up from.
    """
    now = {name: new_name(name, names) for name in run.services}
    if all(name == other for name, other in now.items()):
        return run
    loader = run.load_requests
    requests: Callable[[], pd.DataFrame] | None = None if loader is None else lambda: _relabelled(loader(), names)
    if len(set(now.values())) < len(now):
        return _summed_up(replace(run, load_requests=requests), now)
    stages = tuple(replace(stage, services=_under(stage.services, names)) for stage in run.stages)
    return replace(run, services=_under(run.services, names), stages=stages, load_requests=requests)


def renamed_runs(runs: Sequence[Run], names: Mapping[str, str]) -> tuple[Run, ...]:
    """All of the runs, renamed."""
    return tuple(renamed(run, names) for run in runs) if names else tuple(runs)


def _under(table: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    return {new_name(name, names): value for name, value in table.items()}


def _relabelled(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    labels = frame["service"].astype(str)
    return frame.assign(service=labels.map({name: new_name(name, names) for name in labels.unique()}))


def _summed_up(run: Run, now: Mapping[str, str]) -> Run:
    from perfkit.runs.requests import request_columns, stage_stats, summarise_columns

    frame = run.requests()
    if frame is None:
        shared = next(name for name in now.values() if list(now.values()).count(name) > 1)
        both = " and ".join(name for name, other in now.items() if other == shared)
        raise NotComparable(
            f"run {run.id}: [services] gives {both} one name, {shared}, and the run has no requests to sum them up "
            "from; leave one of them out of [services]"
        )
    columns = request_columns(frame)
    summary = summarise_columns(columns)
    return replace(run, services=summary.services, stages=stage_stats(columns, run.profile))
