"""May a single run that looks worse be a stray one?  It may, where earlier runs of its history strayed as far.

A comparison takes the noise of runs for what it is most of the time.  Where single runs now and then lie far from the
level and the next ones do not, whatever the reason, one run more that does is no evidence of a new level, however small
its p.  The history itself tells whether it has such runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from perfkit.history.events import Series, shared_alpha
from perfkit.history.service_mix import in_one_mix
from perfkit.history.timeline import Timeline
from perfkit.model import Finding, Metric, Verdict
from perfkit.policy import Policy
from perfkit.stats.changepoints import Segmentation, segment
from perfkit.stats.summary import Floats

FAR_ENOUGH = 0.5  # of its distance: a run that strayed so far before makes a single run doubtful
AS_FAR = 0.75  # of it: so far even a run that is no outlier does, such as one on the slower of two kinds of machine


@dataclass(frozen=True, slots=True)
class Strays:
    """What strayed for the worse in a history.

    Parameters
    ----------
    runs
        Runs that were looked at.
    farthest
        Of each run with an outlier for the worse in any series: the distance from its level, in standard deviations of
        one run.
    noise
        The standard deviation of one run of each series, in its unit.
    worse
        Of each series: by how much each run was worse than its level, in the unit of the series; ``NaN`` where unknown.
    newest
        How many of the newest runs, without a break, lie far from the level for the worse in any series.  They may
        begin a new level, which nobody can tell yet: too few for a change point.
    """

    runs: int
    farthest: Mapping[int, float]
    noise: Mapping[Series, float]
    worse: Mapping[Series, Floats]
    newest: int

    def like(self, finding: Finding) -> int:
        """How many runs strayed about as far as this finding lies from its baseline.

        Outliers `FAR_ENOUGH` as far, in any series, and runs of the same series `AS_FAR`: but none of the newest that
        all did, which may begin a new level.
        """
        key = (finding.service, Metric(finding.metric))
        sd, change = self.noise.get(key, 0.0), abs(finding.change_abs or 0.0)
        distance = change / sd if sd > 0.0 else 0.0
        runs = {run for run, far in self.farthest.items() if far >= FAR_ENOUGH * distance}
        worse = self.worse.get(key, np.empty(0))
        (ordinary,) = np.nonzero(worse < FAR_ENOUGH * change)
        before = worse[: ordinary[-1]] if ordinary.size else worse[:0]
        return len(runs.union(np.nonzero(before >= AS_FAR * change)[0].tolist()))


def strays_of(timeline: Timeline, policy: Policy) -> Strays:
    """The runs of a history that strayed in any series that the policy judges."""
    timeline, each = in_one_mix(timeline), shared_alpha(timeline, policy.alpha)
    judged = {key: values for key, values in timeline.series.items() if policy.limit(*key) is not None}
    found = {key: segment(values, alpha=each) for key, values in judged.items()}
    farthest: dict[int, float] = {}
    for key, segmentation in found.items():
        for run, distance in _outliers(judged[key], key[1], segmentation):
            farthest[run] = max(distance, farthest.get(run, 0.0))
    worse = {key: _worse(judged[key], key[1], one) for key, one in found.items()}
    newest = max((_newest(judged[key], key[1], one) for key, one in found.items()), default=0)
    return Strays(len(timeline), farthest, {key: one.noise_sd for key, one in found.items()}, worse, newest)


def _worse(values: Floats, metric: Metric, found: Segmentation) -> Floats:
    """By how much each run is worse than its level."""
    if not found.levels:
        return np.full(len(values), np.nan)
    places = [change.index for change in found.changes]
    levels = np.asarray(found.levels)[np.searchsorted(places, np.arange(len(values)), side="right")]
    worse: Floats = (values - levels) * metric.worse
    return worse


def _newest(values: Floats, metric: Metric, found: Segmentation) -> int:
    """How many of the newest runs of a series, without a break, are outliers for the worse."""
    worse, outliers, count = _worse(values, metric, found), set(found.outliers), 0
    for run in np.nonzero(~np.isnan(values))[0].tolist()[::-1]:
        if run not in outliers or worse[run] <= 0.0:
            break
        count += 1
    return count


def _outliers(values: Floats, metric: Metric, found: Segmentation) -> Iterable[tuple[int, float]]:
    worse = _worse(values, metric, found)
    (known,) = np.nonzero(~np.isnan(values))
    ordinary = np.setdiff1d(known, found.outliers)
    last = int(ordinary[-1]) if ordinary.size else 0
    for run in (one for one in found.outliers if one < last):  # the newest may begin a new level
        if worse[run] > 0.0 and found.noise_sd > 0.0:
            yield run, float(worse[run]) / found.noise_sd


def doubted(findings: Sequence[Finding], strays: Strays) -> tuple[Finding, ...]:
    """The findings of a single run: what earlier runs strayed as far as is a question, no regression."""
    return tuple(_doubted(finding, strays) for finding in findings)


def _doubted(finding: Finding, strays: Strays) -> Finding:
    if finding.verdict is not Verdict.REGRESSION or finding.objective:
        return finding
    count = strays.like(finding)
    if not count:
        return finding
    many = f"1 of {strays.runs} earlier runs was" if count == 1 else f"{count} of {strays.runs} earlier runs were"
    warning = f"A single run may be a stray one, as {many}; two more, judged with it, tell."
    return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=2, warnings=(*finding.warnings, warning))
