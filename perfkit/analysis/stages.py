"""Runs whose load changes are compared stage by stage: an average over different loads describes none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perfkit.analysis.coverage import Coverage
from perfkit.config.policy import Policy
from perfkit.model.records import Run, ServiceStats

MARK = ", "  # between a service and its stage


def by_stage(
    baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy
) -> tuple[Sequence[Run], Sequence[Run], Policy]:
    """Both sides with a service of each stage in place of the service, where all runs went through the same stages.

    A soak has stages of one and the same load, and stays whole.  What the policy says of a service holds in each stage.
    """
    every = [*baseline, *candidate]
    stages = {run.profile.stages for run in every}
    if len(stages) != 1 or not all(run.stages for run in every) or _is_level(every[0]):
        return baseline, candidate, policy
    names: dict[str, list[str]] = {}
    for run in every:
        for of in run.stages:
            for service in of.services:
                names.setdefault(service, []).append(f"{service}{MARK}{of.name}")
    sides = [[replace(run, services=_staged(run)) for run in side] for side in (baseline, candidate)]
    tolerance, objectives = _spread(policy.tolerance, names), _spread(policy.objectives, names)
    return sides[0], sides[1], replace(policy, tolerance=tolerance, objectives=objectives)


def _is_level(run: Run) -> bool:
    return len({level for stage in run.profile.stages for level in (stage.begin, stage.end)}) == 1


def _staged(run: Run) -> dict[str, ServiceStats]:
    return {f"{service}{MARK}{of.name}": stats for of in run.stages for service, stats in of.services.items()}


def _spread(table: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A table of the policy, with what it says of a service said of each of its stages."""
    staged = {name: table[service] for service in names if service in table for name in names[service]}
    return {key: value for key, value in table.items() if key not in names} | staged


def of_stages(whole: Coverage, staged: Coverage, runs: Sequence[Run]) -> Coverage:
    """The coverage of the stages, where a service that whole runs lack is missing once, and not in each stage."""
    missing = {item.service for item in whole.absences}
    more = (item for item in staged.absences if service_of(item.service, runs) not in missing)
    absences = (*whole.absences, *(replace(item, alias=None) for item in more))
    return replace(whole, services=staged.services, absences=absences)


def service_of(name: str, runs: Sequence[Run]) -> str:
    """The service of a finding's name, which may stand for one of its stages."""
    if any(name in run.services for run in runs):
        return name
    stages = {of.name for run in runs for of in run.stages}
    return next((name.removesuffix(MARK + stage) for stage in stages if name.endswith(MARK + stage)), name)
