"""Runs whose load changes are compared stage by stage: an average over different loads describes none of them.

Each stage of a service becomes an entry of its own among the services of a run, under the label that findings show;
`StagedSides.stages` says which service and stage an entry is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perfkit.analysis.coverage import Coverage, service_coverage
from perfkit.config.policy import Policy
from perfkit.model.records import Run, staged_label


@dataclass(frozen=True, slots=True)
class StagedSides:
    """Both sides of a comparison with an entry for each stage of each service, and the policy for these entries.

    ``stages`` maps the name of an entry to its service and stage; it is empty where whole runs are compared.
    """

    baseline: Sequence[Run]
    candidate: Sequence[Run]
    policy: Policy
    stages: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def by_stage(baseline: Sequence[Run], candidate: Sequence[Run], policy: Policy) -> StagedSides:
    """Split the runs of both sides into their stages, where all went through the same ones.

    A soak has stages of one and the same load, and stays whole.  What the policy says of a service holds in each stage.
    """
    runs = [*baseline, *candidate]
    profiles = {run.profile.stages for run in runs}
    loads = {load for stages in profiles for stage in stages for load in (stage.begin, stage.end)}
    if len(profiles) != 1 or not all(run.stages for run in runs) or len(loads) == 1:
        return StagedSides(baseline, candidate, policy)
    stages = {
        staged_label(service, part.name): (service, part.name)
        for run in runs
        for part in run.stages
        for service in part.services
    }
    sides = [
        [
            replace(
                run,
                services={
                    staged_label(service, part.name): stats
                    for part in run.stages
                    for service, stats in part.services.items()
                },
            )
            for run in side
        ]
        for side in (baseline, candidate)
    ]
    tolerance, objectives = (_in_each_stage(table, stages) for table in (policy.tolerance, policy.objectives))
    return StagedSides(sides[0], sides[1], replace(policy, tolerance=tolerance, objectives=objectives), stages)


def _in_each_stage(table: Mapping[str, Any], stages: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Limits of the policy, with those of a service moved to each of its stages."""
    services = {service for service, _ in stages.values()}
    common = {name: limits for name, limits in table.items() if name not in services}
    return common | {name: table[service] for name, (service, _) in stages.items() if service in table}


def coverage_by_stage(baseline: Sequence[Run], candidate: Sequence[Run], staged: StagedSides) -> Coverage:
    """The coverage of both sides, in stages where they are.

    A service that whole runs lack is missing once, and not in each stage.
    """
    alpha = staged.policy.alpha
    whole = service_coverage(baseline, candidate, alpha)
    if not staged.stages:
        return whole
    coverage = service_coverage(staged.baseline, staged.candidate, alpha)
    missing = {absence.service for absence in whole.absences}
    more = (
        replace(absence, alias=None)
        for absence in coverage.absences
        if staged.stages[absence.service][0] not in missing
    )
    return replace(whole, services=coverage.services, absences=(*whole.absences, *more))
