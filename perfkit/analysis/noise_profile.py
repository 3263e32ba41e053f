"""What a set of runs, and the history of their scenario, tell of the noise of each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from perfkit.model.codec import Count, Size, encode
from perfkit.model.records import ALL_SERVICES, Metric, Run, ServiceStats, Tail, standard_errors_of, values_of
from perfkit.stats.effect import (
    PRIOR_DF_ASSUMED,
    Failures,
    Noise,
    NoisePrior,
    Values,
    Weekdays,
    run_to_run,
    scatter_of_steps,
    steps_of_history,
    with_neighbours,
)
from perfkit.stats.season import WEEK, WeekdayPattern, weekday_pattern, why_no_pattern
from perfkit.stats.summary import PERSISTENCE_ERROR, runs_enough

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.stats.summary import Floats

SCHEMA = "perfkit.noise/1"
Key = TypeVar("Key")
PAIR = "pair"  # label of runs that were made beside each other
LEAST_PAIRS = 3  # of fewer, the scatter of differences tells less than that of the sides


@dataclass(frozen=True, slots=True)
class Variation:
    """How one metric of one service varied over the history of a scenario.

    ``variation_pct`` is the moderated run-to-run standard deviation in percent, ``within_pct`` the part of it that the
    runs show inside themselves; ``sum_of_squares`` (log scale) and ``df`` are what the history adds to a comparison,
    and ``prior_df`` the degrees of freedom of what was known besides: from inside the runs, and from other services.
    """

    service: str
    metric: str
    runs: Count
    variation_pct: Size
    within_pct: Size
    sum_of_squares: Size
    df: Size
    prior_df: Size = PRIOR_DF_ASSUMED

    def __post_init__(self) -> None:
        Metric(self.metric)


@dataclass(frozen=True, slots=True)
class TailVariation:
    """A percentile of one service that single runs are too short for, but so many together tell.

    ``tail`` is that of all ``runs`` together; the slow requests of single ones scatter by ``overdispersion`` times what
    chance alone allows.  ``least_runs`` of them tell the percentile.
    """

    service: str
    metric: str
    runs: Count
    tail: Tail
    overdispersion: Size
    least_runs: Count

    def __post_init__(self) -> None:
        if Metric(self.metric).quantile is None or self.runs < 1:
            raise ValueError(f"metric, runs: expected a percentile of some runs, got {self.metric!r} of {self.runs}")


@dataclass(frozen=True)
class NoiseProfile:
    """The variation of every metric of a scenario, and the ids of the runs that it was learned from.

    ``runs_of_tail``: of each service whose single runs are too short for p99.9, how many of them tell it together.
    ``weekdays``: of each service and metric that depends on it, the weekday pattern; ``None`` where an older version
    did not look for it.  ``tails``: percentiles that single runs are too short for (`with_tails`).
    """

    scenario: str
    runs: tuple[str, ...]
    variations: tuple[Variation, ...]
    runs_of_tail: dict[str, Count] = field(default_factory=dict)
    weekdays: dict[str, dict[str, WeekdayPattern]] | None = None
    tails: tuple[TailVariation, ...] = ()

    def pattern(self, service: str, metric: Metric, *days: Floats) -> WeekdayPattern | None:
        """The weekday pattern of a metric, where it has one and knows the weekday of all runs that started then."""
        pattern = (self.weekdays or {}).get(service, {}).get(metric)
        return pattern if pattern is not None and all(map(pattern.is_known, days)) else None

    def weekdays_taken_out(
        self, service: str, metric: Metric, baseline: Sequence[Run], candidate: Sequence[Run]
    ) -> Weekdays | None:
        """What `on_weekdays_of` took out of a metric; of all services together what it took out of any of them."""
        if not self.weekdays or not baseline or not candidate:
            return None
        services = self.weekdays if service == ALL_SERVICES else (service,)
        names = [name for name in services if metric in self.weekdays.get(name, {})]
        days = (days_of(baseline), days_of(candidate)) if names else ()
        learned_from = sum(run.id in self.run_ids for run in baseline) / len(baseline)
        taken_out = [
            Weekdays(
                pattern.factors if service != ALL_SERVICES else (),
                pattern.error(*days),
                learned_from * (np.count_nonzero(pattern.runs) - 1) * (len(baseline) - 1) / (sum(pattern.runs) - 1),
            )
            for name in names
            if (pattern := self.pattern(name, metric, *days)) is not None
        ]
        return max(taken_out, key=lambda weekdays: weekdays.error, default=None)

    def on_weekdays_of(self, candidate: Sequence[Run], baseline: Sequence[Run]) -> tuple[list[Run], list[Run]]:
        """Baseline and candidate as if all had been made on the candidate's weekdays, as far as patterns are known."""
        days = days_of(baseline), days_of(candidate)
        of_baseline: dict[str, dict[str, Floats]] = {}
        of_candidate: dict[str, dict[str, Floats]] = {}
        for service, metrics in (self.weekdays or {}).items():
            for metric in map(Metric, metrics):
                if (pattern := self.pattern(service, metric, *days)) is not None:
                    before, after = map(pattern.at, days)
                    usual = float(np.exp(np.log(after).mean()))
                    of_baseline.setdefault(service, {})[metric.value] = usual / before
                    of_candidate.setdefault(service, {})[metric.value] = usual / after
        return _scaled(baseline, of_baseline), _scaled(candidate, of_candidate)

    @cached_property
    def run_ids(self) -> frozenset[str]:
        return frozenset(self.runs)

    @cached_property
    def index(self) -> dict[tuple[str, str], Variation]:
        """The variations by service and metric."""
        return {(item.service, item.metric): item for item in self.variations}

    def scatter(self, service: str, metric: Metric) -> tuple[float, float]:
        """Sum of squares and degrees of freedom that the history knows of a metric; zeros where it knows nothing."""
        known = self.index.get((service, metric.value))
        return (known.sum_of_squares, known.df) if known is not None else (0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.noise/1``."""
        return {"schema": SCHEMA, **encode(self)}

    def to_frame(self) -> pd.DataFrame:
        """One row per service and metric."""
        import pandas as pd

        return pd.DataFrame(list(self.variations), columns=list(Variation.__dataclass_fields__))


def profile_of(scenario: str, runs: Sequence[Run]) -> NoiseProfile:
    """Learn the noise of a scenario from its valid runs, oldest first.

    Metrics that fewer than two of the runs can tell are left out, and so is the error rate, whose scatter a comparison
    learns from the counts.
    """
    histories: dict[tuple[str, Metric], tuple[Metric, Values]] = {}
    runs_of_tail, days, weekdays = {}, days_of(runs), weekday_patterns_of(runs)
    for service in dict.fromkeys(name for run in runs for name in run.services):
        of_service = [run.services[service] for run in runs if service in run.services]
        if (least := runs_for_tail(of_service)) is not None:
            runs_of_tail[service] = least
        for metric in Metric:
            measured = [i for i, run in enumerate(runs) if (of := run.services.get(service)) and of.value(metric)]
            if metric is Metric.ERROR_RATE or len(measured) < 2:
                continue
            stats = [runs[i].services[service] for i in measured]
            logs = np.log([item.value(metric) or np.nan for item in stats])
            pattern, spent = weekdays.get(service, {}).get(metric.value), 0.0
            if pattern is not None:
                logs -= np.log(pattern.at(days[measured]))
                spent = WEEK / sum(pattern.runs)
            steps = steps_of_history(logs) / np.sqrt(1.0 - spent)
            prior = noise_prior(metric, (stats,), scatter_of_steps(steps))
            # Of the services together too, differences of neighbouring runs: drift and steps are no noise
            histories[service, metric] = metric, Values(np.ones(steps.size), np.exp(steps), prior, paired=True)
    with_others, variations = knowing_neighbours(histories), []
    for service, metric in histories:
        values = with_others[service, metric]
        noise, (squares, df) = run_to_run(metric, (), values.prior), values.prior.history
        sizes = 100 * noise.sd, 100 * float(np.sqrt(values.prior.within_variance))
        variations.append(
            Variation(service, metric.value, values.baseline.size + 1, *sizes, squares, df, noise.df - df)
        )
    return NoiseProfile(scenario, tuple(run.id for run in runs), tuple(variations), runs_of_tail, weekdays)


def _scaled(runs: Sequence[Run], factors: Mapping[str, Mapping[str, Floats]]) -> list[Run]:
    """Runs whose values of services and metrics are multiplied by factors, shape ``(n_runs,)``, with their errors."""

    def scaled(stats: ServiceStats, of_metrics: Mapping[str, Floats], number: int) -> ServiceStats:
        by = {metric: float(of_runs[number]) for metric, of_runs in of_metrics.items()}
        values: dict[str, Any] = {metric: getattr(stats, metric) for metric in by}
        return replace(
            stats,
            standard_errors={name: error * by.get(name, 1.0) for name, error in stats.standard_errors.items()},
            resolutions={name: step * by.get(name, 1.0) for name, step in stats.resolutions.items()},
            **{metric: value * by[metric] for metric, value in values.items() if value is not None},
        )

    def services(run: Run, number: int) -> dict[str, ServiceStats]:
        return {name: scaled(stats, factors.get(name, {}), number) for name, stats in run.services.items()}

    return [replace(run, services=services(run, number)) for number, run in enumerate(runs)] if factors else list(runs)


def weekdays_of(runs: Sequence[Run]) -> NoiseProfile:
    """What these runs tell of the weekday, and nothing else: no noise."""
    return NoiseProfile("", tuple(run.id for run in runs), (), weekdays=weekday_patterns_of(runs))


def days_of(runs: Sequence[Run]) -> Floats:
    """When runs started, in days since 1970 (UTC); ``NaN`` where that is not known."""
    starts = (run.started_at for run in runs)
    return np.array([np.nan if at is None else at.timestamp() / 86_400.0 for at in starts])


def weekday_patterns_of(runs: Sequence[Run]) -> dict[str, dict[str, WeekdayPattern]]:
    """Of each service and metric of a history that depends on the weekday beyond chance: its pattern."""
    days = days_of(runs)
    if why_no_pattern(days):
        return {}
    patterns: dict[str, dict[str, WeekdayPattern]] = {}
    for service in dict.fromkeys(name for run in runs for name in run.services):
        for metric in Metric:
            values = [run.services[service].value(metric) if service in run.services else None for run in runs]
            pattern = weekday_pattern(np.array(values, float), days)
            if pattern is not None and metric is not Metric.ERROR_RATE:
                patterns.setdefault(service, {})[metric.value] = pattern
    return patterns


def noise_prior(
    metric: Metric, sides: Sequence[Sequence[ServiceStats]], history: tuple[float, float] = (0.0, 0.0)
) -> NoisePrior:
    """The error inside the runs of each side, whether it was measured, and how much of it is in slow waves.

    Each side weighs as it does in the difference of means: nine long runs do not make up for a short one.
    """
    sides = [side for side in sides if side]
    weights = [1.0 / len(side) for side in sides]

    values = [np.array(known_values(side, metric)) for side in sides]

    def mean_variance(errors: Sequence[Sequence[float | None]]) -> float:
        """Of log values, over the runs of each side and over the sides; 0 where an error is not known."""
        known = [np.array([error or 0.0 for error in side]) for side in errors]
        means = [np.mean(np.square(error / level)) for error, level in zip(known, values, strict=True)]
        return float(np.average(means, weights=weights))

    errors = [standard_errors_of(side, metric) for side in sides]
    steps = [[stats.resolutions.get(metric.value, 0.0) / math.sqrt(12.0) for stats in side] for side in sides]
    within, floor = mean_variance(errors), mean_variance(steps)
    every = [stats for side in sides for stats in side]
    measured = all(None not in side for side in errors) and all(metric not in stats.assumed for stats in every)
    waves = [stats.persistence for stats in every if stats.persistence is not None]
    # Of all runs alike: the only run of a side may be the one whose slow wave is longer than itself
    known = len(waves) == len(every) > 0
    persistence = float(np.mean(waves)) - PERSISTENCE_ERROR / len(waves) ** 0.5 if known else None
    return NoisePrior(within, measured, floor, history, persistence)


def known_values(stats: Sequence[ServiceStats], metric: Metric) -> list[float]:
    """The values; one that its source rounded to zero lies somewhere in the first half step."""
    values = zip(stats, values_of(stats, metric), strict=True)
    return [value or of.resolutions.get(metric.value, 0.0) / 2.0 for of, value in values]


def level_values(
    service: str,
    metric: Metric,
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    profile: NoiseProfile | None = None,
) -> Values | None:
    """Run values of a latency or throughput metric with what is known of their noise; ``None`` where a run has none."""
    pairs = paired(baseline, candidate)
    baseline, candidate = pairs or (baseline, candidate)
    stats = [[run.services[service] for run in runs] for runs in (baseline, candidate)]
    values: list[Floats] = [np.array(known_values(side, metric), float) for side in stats]
    if any((side <= 0).any() for side in values):
        return None
    # The history tells how runs scatter that were made apart: more than those of a pair do
    history = profile.scatter(service, metric) if profile is not None and pairs is None else (0.0, 0.0)
    prior = noise_prior(metric, stats, history)
    if profile is not None and pairs is None:
        prior = replace(prior, weekdays=profile.weekdays_taken_out(service, metric, baseline, candidate))
    return Values(values[0], values[1], prior, pairs is not None)


def knowing_neighbours(levels: Mapping[Key, tuple[Metric, Values]]) -> dict[Key, Values]:
    """The values of many services (each with its metric), with what the services of the same runs tell together.

    Neighbours are those of one metric whose error was measured, or assumed, alike, and that as many runs measured.
    """
    alike: dict[tuple[Metric, bool, int, int], list[Key]] = {}
    for key, (metric, values) in levels.items():
        group = metric, values.prior.measured, values.baseline.size, values.candidate.size
        alike.setdefault(group, []).append(key)
    return {
        key: values
        for (metric, *_), keys in alike.items()
        for key, values in zip(keys, with_neighbours(metric, [levels[key][1] for key in keys]), strict=True)
    }


def paired(baseline: Sequence[Run], candidate: Sequence[Run]) -> tuple[list[Run], list[Run]] | None:
    """Both sides in the order of their pairs, where every run has a label ``pair`` and every pair one run of each."""
    if not baseline or PAIR not in baseline[0].labels:
        return None
    sides = [{run.labels.get(PAIR, ""): run for run in runs} for runs in (baseline, candidate)]
    names = sorted(sides[0])
    if len(names) < LEAST_PAIRS or "" in names or sides[1].keys() != sides[0].keys():
        return None
    if any(len(side) != len(runs) for side, runs in zip(sides, (baseline, candidate), strict=True)):
        return None
    return [sides[0][name] for name in names], [sides[1][name] for name in names]


def runs_for_tail(stats: Sequence[ServiceStats]) -> int | None:
    """How many runs like these tell p99.9 together; ``None`` where each tells its own, or one kept no tail."""
    tails = [item.tail for item in stats if item.tail is not None]
    if len(tails) < len(stats) or all(item.value(Metric.P999) for item in stats):
        return None
    return runs_enough(tails, 0.999)


def failures_of(stats: Sequence[ServiceStats]) -> Failures | None:
    """Failed requests and requests of each run; ``None`` where a run cannot say, or has no request."""
    counts = [(item.failures, item.count) for item in stats if item.count and item.failures is not None]
    if len(counts) < len(stats) or not counts or any(failed > count for failed, count in counts):
        return None
    return Failures(*np.array(counts, float).T)


def noise_of(metric: Metric, values: Values) -> Noise:
    """The variation of a metric between runs like these."""
    return run_to_run(metric, [side for side in values.residuals if side.size], values.prior)
