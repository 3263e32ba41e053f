"""Two builds under ramps: compared at equal load and in the load that they carry, never by averages over the ramp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfkit.capacity.course import ALL, Course
from perfkit.capacity.curves import Curve
from perfkit.capacity.results import AtLoad, Difference
from perfkit.model import Metric, Verdict
from perfkit.policy import EVIDENCE_TOLERANCE, Limit
from perfkit.stats.capacity import AT_LEAST, BELOW, FOUND, METRIC, Crossing, knowledge
from perfkit.stats.compare import Effect, Values, compare_levels, weighted_holm
from perfkit.stats.equal_load import METRICS, LevelsAtLoad, common_bins, levels_at
from perfkit.stats.noise import Knowledge
from perfkit.stats.summary import Floats

TOLERANCE_PCT = 10.0  # of a capacity or a knee: the ends of a curve are known less exactly than its middle
CAPACITY, KNEE = "capacity under the SLO", "load at the knee"
# Near saturation a small difference of the runs grows: latency moves two to four times as much as the service time.
# So each metric is expected to vary like one that varies more (tests/test_capacity_calibration.py guards it).
_VARIES_LIKE = {Metric.AVG: Metric.P95, Metric.P95: Metric.P99, Metric.RPS: Metric.AVG}
Sides = tuple[Sequence[Course], Sequence[Course]]


@dataclass(frozen=True, slots=True)
class _Answer:
    difference: Difference
    effect: Effect | None


def compare_service(
    service: str, sides: Sides, curves: tuple[Curve, Curve], confidence: float
) -> tuple[list[_Answer], list[AtLoad]]:
    """Every question of one service, and its levels at each load.

    Knee and throughput are asked of the whole only: users who wait for one service call the others less.
    """
    whole = len(sides[0][0].windows) <= 2 or service == ALL
    answers = [_loads(service, CAPACITY, (curves[0].limits, curves[1].limits), confidence)]
    if whole:
        answers.append(_loads(service, KNEE, (curves[0].knees, curves[1].knees), confidence))
    asked = [answer for answer in answers if answer is not None]
    bins = common_bins([course.windows[service] for side in sides for course in side])
    if bins is None:
        return asked, []
    levels = [
        [levels_at(bins, course.windows[service], course.requests[service].response_time_ms) for course in side]
        for side in sides
    ]
    at_load: list[AtLoad] = []
    for metric in METRICS:
        pair = _EqualLoad.of(metric, [[run[metric] for run in side] for side in levels])
        if whole or metric is not Metric.RPS:
            asked.append(pair.overall(service, confidence))
        at_load += pair.each(service, bins.centres, confidence)
    return asked, at_load


@dataclass(frozen=True, slots=True)
class _EqualLoad:
    """Natural logarithms of one metric, shape ``(n_runs, n_bins)``, and their errors, of both sides."""

    metric: Metric
    logs: tuple[Floats, Floats]
    errors: tuple[Floats, Floats]

    @classmethod
    def of(cls, metric: Metric, sides: Sequence[Sequence[LevelsAtLoad]]) -> _EqualLoad:
        with np.errstate(divide="ignore"):
            logs = [np.log(np.stack([run.values for run in side])) for side in sides]
        errors = [np.stack([run.errors for run in side]) for side in sides]
        return cls(metric, (logs[0], logs[1]), (errors[0], errors[1]))

    @property
    def known(self) -> NDArray[np.intp]:
        """Bins in which every run has a value."""
        return np.flatnonzero(np.isfinite(np.concatenate(self.logs)).all(axis=0))

    def overall(self, service: str, confidence: float) -> _Answer:
        """One value per run: the mean logarithm over the loads that both sides know, each load counted alike."""
        limit = Limit.parse(self.metric.value, EVIDENCE_TOLERANCE[self.metric.value])
        title = f"{self.metric.title} at equal load"
        gating = self.metric is not Metric.P95
        blank = Difference(service, title, self.metric.unit, self.metric.worse, limit.amount, gating)
        known = self.known
        if not known.size:
            return _Answer(replace(blank, reason="too few requests at any load that all runs have"), None)
        before, after = (np.exp(logs[:, known].mean(axis=1)) for logs in self.logs)
        variances = [float(np.mean((errors[:, known] ** 2).sum(axis=1))) / known.size**2 for errors in self.errors]
        effect = _effect(self.metric, (before, after), variances, confidence)
        return _Answer(_filled(blank, effect, _middle(before), _middle(after)), effect)

    def each(self, service: str, centres: Floats, confidence: float) -> Iterator[AtLoad]:
        """The change at each load."""
        for number in self.known.tolist():
            before, after = (np.exp(logs[:, number]) for logs in self.logs)
            variances = [float(np.mean(errors[:, number] ** 2)) for errors in self.errors]
            effect = _effect(self.metric, (before, after), variances, confidence)
            yield AtLoad(
                service,
                self.metric.value,
                float(centres[number]),
                _middle(before),
                _middle(after),
                effect.change,
                effect.ci_low,
                effect.ci_high,
            )


def _effect(metric: Metric, sides: Sequence[Floats], variances: Sequence[float], confidence: float) -> Effect:
    """The change of one value per run; ``variances`` are those of a value within its run, one for each side."""
    within = float(np.average(variances, weights=[1.0 / len(side) for side in sides]))
    return compare_levels(_VARIES_LIKE[metric], Values(sides[0], sides[1], Knowledge(within)), confidence)


def _middle(values: Floats) -> float:
    return float(np.exp(np.log(values).mean()))


def _filled(blank: Difference, effect: Effect, baseline: float, candidate: float) -> Difference:
    return replace(
        blank,
        baseline=baseline,
        candidate=candidate,
        change_pct=effect.change,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        p_value=effect.p_rise if effect.change >= 0 else effect.p_fall,
    )


def _loads(
    service: str, question: str, sides: tuple[Sequence[Crossing], Sequence[Crossing]], confidence: float
) -> _Answer | None:
    """The change of the load at which the runs break; a bound on one side leaves a bound on the change."""
    kinds = [{item.status for item in side} for side in sides]
    if not all(sides) or kinds[0] | kinds[1] == {AT_LEAST}:  # neither build came to its limit: nothing to ask
        return None
    blank = Difference(service, question, "load", -1, TOLERANCE_PCT, question == CAPACITY)
    falls = kinds[0] <= {FOUND, AT_LEAST} and kinds[1] <= {FOUND, BELOW}
    rises = kinds[0] <= {FOUND, BELOW} and kinds[1] <= {FOUND, AT_LEAST}
    if not (falls or rises):
        return _Answer(replace(blank, reason="only bounds are known, which do not tell the builds apart"), None)
    values = [np.array([item.load for item in side]) for side in sides]
    known = knowledge([[replace(item, error=np.nan_to_num(item.error)) for item in side] for side in sides])
    effect = compare_levels(METRIC, Values(values[0], values[1], known), confidence)
    done = _filled(blank, effect, _middle(values[0]), _middle(values[1]))
    if falls and rises:
        return _Answer(done, effect)
    word = "loss" if falls else "gain"
    reason = f"one side is a bound only, so the {word} is at least this"
    bounded = replace(
        done, ci_low=None if falls else done.ci_low, ci_high=done.ci_high if falls else None, reason=reason
    )
    one_way = replace(effect, p_rise=effect.p_rise if not falls else 1.0, p_fall=effect.p_fall if falls else 1.0)
    return _Answer(bounded, one_way)


def judged(answers: Sequence[_Answer], alpha: float) -> tuple[Difference, ...]:
    """A verdict for each question, corrected over all of them (weighted Holm): half of the budget for all requests."""
    asked = {n: answer.effect for n, answer in enumerate(answers) if answer.effect is not None}
    services = max(len({answer.difference.service for answer in answers}) - 1, 1)
    weights: Mapping[object, float] = {
        n: 1.0 if answers[n].difference.service == ALL else 1.0 / services for n in asked
    }
    rise = weighted_holm({n: effect.p_rise for n, effect in asked.items()}, weights)
    fall = weighted_holm({n: effect.p_fall for n, effect in asked.items()}, weights)
    return tuple(
        _verdict(answer.difference, rise[n], fall[n], alpha) if n in asked else answer.difference
        for n, answer in enumerate(answers)
    )


def _verdict(difference: Difference, rise: float, fall: float, alpha: float) -> Difference:
    worse, better = (rise, fall) if difference.worse > 0 else (fall, rise)
    worsening = (difference.change_pct or 0.0) * difference.worse
    bad_end = difference.ci_high if difference.worse > 0 else difference.ci_low
    verdict = Verdict.INCONCLUSIVE
    if worse <= alpha and worsening > difference.tolerance_pct:
        verdict = Verdict.REGRESSION
    elif better <= alpha and -worsening > difference.tolerance_pct:
        verdict = Verdict.IMPROVEMENT
    elif bad_end is not None and bad_end * difference.worse <= difference.tolerance_pct:
        verdict = Verdict.NO_CHANGE
    return replace(difference, p_adjusted=worse if worsening >= 0 else better, verdict=verdict)


def overall(differences: Sequence[Difference]) -> Verdict:
    """Any regression is one; an open question of all requests together that gates leaves it open."""
    verdicts = {difference.verdict for difference in differences}
    first = differences[0].service if differences else ""
    if Verdict.REGRESSION in verdicts:
        return Verdict.REGRESSION
    gating = [difference for difference in differences if difference.gating]
    whole = [difference.verdict for difference in gating if difference.service == first]
    if not whole or Verdict.INCONCLUSIVE in whole:
        return Verdict.INCONCLUSIVE
    return Verdict.IMPROVEMENT if Verdict.IMPROVEMENT in verdicts else Verdict.NO_CHANGE
