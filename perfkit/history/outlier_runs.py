"""May a single run that looks worse be an outlier?  It may, where earlier runs of its history lay as far away.

A comparison takes the noise of runs for what it is most of the time.  Where single runs now and then lie far from the
level and the next ones do not, whatever the reason, one run more that does is no evidence of a new level, however small
its p.  The history itself tells whether it has such runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from perfkit.config.policy import Policy
from perfkit.history.context import HistoryAnalysis
from perfkit.history.events import Series
from perfkit.model.records import Finding, Metric, Verdict
from perfkit.stats.summary import Floats

FAR_ENOUGH = 0.5  # of its distance: an earlier outlier so far away makes a single run doubtful
AS_FAR = 0.75  # of it: so far even a run that is no outlier does, such as one on the slower of two kinds of machine


@dataclass(frozen=True, slots=True)
class OutlierRuns:
    """The runs of a history that lay far from its level for the worse.

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

    def as_far(self, finding: Finding) -> int:
        """How many runs lay about as far from their level as this finding lies from its baseline.

        Outliers `FAR_ENOUGH` as far, in any series, and runs of the same series `AS_FAR`: but none of the newest that
        all did, which may begin a new level.
        """
        key = (finding.label, Metric(finding.metric))
        sd, change = self.noise.get(key, 0.0), abs(finding.change_abs or 0.0)
        distance = change / sd if sd > 0.0 else 0.0
        runs = {run for run, far in self.farthest.items() if far >= FAR_ENOUGH * distance}
        worse = self.worse.get(key, np.empty(0))
        (ordinary,) = np.nonzero(worse < FAR_ENOUGH * change)
        before = worse[: ordinary[-1]] if ordinary.size else worse[:0]
        return len(runs.union(np.nonzero(before >= AS_FAR * change)[0].tolist()))

    def doubted(self, finding: Finding) -> Finding:
        """The finding of a single run: a regression is inconclusive where earlier runs lay as far from the level."""
        if finding.verdict is not Verdict.REGRESSION or finding.objective or not (count := self.as_far(finding)):
            return finding
        many = f"1 of {self.runs} earlier runs was" if count == 1 else f"{count} of {self.runs} earlier runs were"
        warning = f"A single run may be an outlier, as {many}; two more, judged with it, tell."
        return replace(finding, verdict=Verdict.INCONCLUSIVE, runs_needed=2, warnings=(*finding.warnings, warning))


def outlier_runs(history: HistoryAnalysis, policy: Policy) -> OutlierRuns:
    """The outlier runs of a history, in the series that the policy judges."""
    farthest: dict[int, float] = {}
    noise: dict[Series, float] = {}
    worse_of: dict[Series, Floats] = {}
    most_newest = 0
    for key, values in history.aligned.series.items():
        if policy.limit(*key) is None:
            continue
        segmentation = history.segmentation(key)
        worse = np.full(len(values), np.nan)
        if segmentation.levels:
            places = [change.index for change in segmentation.changes]
            level = np.searchsorted(places, np.arange(len(values)), side="right")
            worse = (values - np.asarray(segmentation.levels)[level]) * key[1].worse
        noise[key], worse_of[key] = segmentation.noise_sd, worse
        (measured,) = np.nonzero(~np.isnan(values))
        ordinary = np.setdiff1d(measured, segmentation.outliers)
        last = int(ordinary[-1]) if ordinary.size else 0
        for run in segmentation.outliers:
            if run < last and worse[run] > 0.0 and segmentation.noise_sd > 0.0:  # later ones may begin a new level
                farthest[run] = max(float(worse[run]) / segmentation.noise_sd, farthest.get(run, 0.0))
        newest = 0
        for run in measured.tolist()[::-1]:
            if run not in segmentation.outliers or worse[run] <= 0.0:
                break
            newest += 1
        most_newest = max(most_newest, newest)
    return OutlierRuns(len(history.timeline), farthest, noise, worse_of, most_newest)
