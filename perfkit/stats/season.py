"""Weekday patterns of nightly histories: whether there is one, how large it is, and the history without it.

Each run is held against the median of the week around it, which steps and drift leave alone.  Where these residuals
depend on the weekday beyond chance (van der Waerden's test, that of Kruskal and Wallis with normal scores, in the F
form of Iman & Davenport 1980, doi:10.1080/03610928008827904), their means by weekday, winsorised, are the pattern.  It
multiplies, so that only positive values can have one.

`weekday_pattern` needs nothing but the runs so far, which is what a monitor may use.  `seasonal_trend` takes the same
pattern from all runs by STL with robust weights (Cleveland et al. 1990, statsmodels), for what looks back.

Assumes one pattern over the whole history, in days of UTC (a day ends twelve hours after the usual time of the runs,
so that nights are not torn apart at midnight).  Its limit: over fewer than `LEAST_DAYS` days, where runs are made
several times a day, or irregularly, no pattern is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, ndtri

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats

WEEK = 7
LEAST_DAYS = 28
LEAST_OF_A_WEEKDAY = 3  # runs; weekdays with fewer take no part
LEAST_COVER, MOST_PER_DAY = 0.6, 1.25  # share of days with a run (five of seven have more), runs on such a day
ALPHA = 0.001  # of a pattern where there is none
CLIP = 2.5  # robust standard deviations beyond which a residual counts no more than that
CELLS = 1 << 15  # runs of the looks that are taken together
MS_A_DAY = 86_400_000.0
THURSDAY = 3  # 1 January 1970


@dataclass(frozen=True, slots=True)
class WeekdayPattern:
    """By what runs of each weekday are multiplied, Monday first; geometric mean 1 over the weekdays that have runs.

    ``shift`` is the time of day, in days, at which a new day begins; ``runs`` counts those of each weekday.
    """

    factors: tuple[float, ...]
    runs: tuple[int, ...]
    p_value: float
    shift: float

    def __post_init__(self) -> None:
        if (
            len(self.factors) != WEEK
            or len(self.runs) != WEEK
            or not 0.0 < min(self.factors) <= max(self.factors) < 1e9
        ):
            raise ValueError(f"factors: must be {WEEK} numbers above 0, and as many counts of runs")

    def at(self, days: Floats) -> Floats:
        """The factor of each run by when it started (days since 1970, UTC); 1 where that is not known (``NaN``)."""
        known = ~np.isnan(days)
        found = np.ones(len(days))
        found[known] = np.asarray(self.factors)[_weekdays(_numbers(days[known], self.shift))]
        return found

    def is_known(self, days: Floats) -> bool:
        """Whether there is a factor for the weekday of each of these runs."""
        if np.isnan(days).any():
            return False
        return bool((np.asarray(self.runs)[_weekdays(_numbers(days, self.shift))] >= LEAST_OF_A_WEEKDAY).all())

    def error(self, before: Floats, after: Floats) -> float:
        """What the factors' own errors add to the variance of a difference of two means, in variances of one run.

        Of runs that started then, whose weekdays are known.  A factor has the error of the mean of its runs; those of
        weekdays that both sides have alike cancel.
        """
        shares = [np.bincount(_weekdays(_numbers(of, self.shift)), minlength=WEEK) / len(of) for of in (before, after)]
        apart = (shares[1] - shares[0])[np.asarray(self.runs) >= LEAST_OF_A_WEEKDAY]
        counts = np.asarray(self.runs)[np.asarray(self.runs) >= LEAST_OF_A_WEEKDAY]
        return float((apart**2 / counts).sum())


def days_since_1970(times: NDArray[np.datetime64]) -> Floats:
    """With their fractions, in UTC; ``NaN`` where a time is unknown (``NaT``)."""
    days: Floats = np.where(np.isnat(times), np.nan, times.astype("datetime64[ms]").astype(float) / MS_A_DAY)
    return days


def why_no_pattern(days: Floats) -> str:
    """Why no weekday pattern is looked for in runs that started then (days since 1970, UTC); empty where one is."""
    return _why_no_pattern(np.asarray(days, float).tobytes())


@lru_cache(maxsize=32)  # all series of a scenario have the same runs
def _why_no_pattern(days_of_runs: bytes) -> str:
    known = np.frombuffer(days_of_runs)
    if np.isnan(known).any() or not known.size:
        return "of some runs it is not known when they started"
    number = _numbers(known, _shift(known))
    span, different = int(np.ptp(number)) + 1, len(np.unique(number))
    if known.size > MOST_PER_DAY * different:
        return "runs are made several times a day"
    if span < LEAST_DAYS:
        return f"runs span {span} days; {LEAST_DAYS} are needed"
    if different < LEAST_COVER * span:
        return f"runs are irregular: on {different} of {span} days"
    return ""


def weekday_pattern(values: Floats, days: Floats) -> WeekdayPattern | None:
    """The weekday pattern of a history; ``None`` where nothing shows one, or none can be looked for.

    Parameters
    ----------
    values
        One value per run, oldest first, shape ``(n_runs,)``, ``NaN`` where a run has none.
    days
        When each run started, in days since 1970 (UTC), same shape.
    """
    measured = ~np.isnan(values)
    return weekday_patterns(values[measured], days[measured], [int(measured.sum())])[0]


def weekday_patterns(values: Floats, days: Floats, ends: Sequence[int]) -> list[WeekdayPattern | None]:
    """`weekday_pattern` of the first so many runs of a history without gaps, for each of these ascending numbers."""
    below = np.flatnonzero(~(values > 0.0))
    able = [end for end in ends if end <= (below[0] if below.size else len(values))]
    found: list[WeekdayPattern | None] = []
    while len(found) < len(able):
        part = able[len(found) : len(found) + max(CELLS // max(able[-1], 1), 1)]
        looks = _looks_of(days[: part[-1]].tobytes(), tuple(part))
        first = len(found)
        found += _patterns(np.log(values[: part[-1]]), looks) if looks.runs.any() else [None] * len(part)
        for at in looks.apart:
            found[first + at] = weekday_patterns(values, days, [part[at]])[0]
    return found + [None] * (len(ends) - len(able))


@dataclass(frozen=True, slots=True)
class _Looks:
    """What looks at the first so many runs of a history have in common for all series: a row each, shape ``(n, runs)``.

    Parameters
    ----------
    number
        The day of each run, shape ``(runs,)``.
    shifts
        ``None`` where no pattern can be looked for.
    apart
        Looks whose days are not these, or end within one.
    week, weekday
        The week around each run, from the first day on, and the day of the week, `WEEK` where a run takes no part.
    runs
        Of each weekday, shape ``(n, WEEK)``.
    scores
        Normal scores by twice the mean rank of equal values, shape ``(n, 2 * runs)``.
    """

    ends: tuple[int, ...]
    number: NDArray[np.intp]
    shifts: tuple[float | None, ...]
    apart: tuple[int, ...]
    week: NDArray[np.intp]
    weekday: NDArray[np.intp]
    runs: NDArray[np.intp]
    scores: Floats


@lru_cache(maxsize=32)  # all series of a scenario have the same runs
def _looks_of(days_of_runs: bytes, ends: tuple[int, ...]) -> _Looks:
    days = np.frombuffer(days_of_runs)
    shape, apart = (len(ends), len(days)), []
    shifts = [None if why_no_pattern(days[:end]) else _shift(days[:end]) for end in ends]
    number = _numbers(np.nan_to_num(days), shifts[-1] or 0.0)
    week, weekday = np.zeros(shape, np.intp), np.full(shape, WEEK)
    runs, scores = np.zeros((len(ends), WEEK), np.intp), np.zeros((len(ends), 2 * len(days)))
    for row, (end, shift) in enumerate(zip(ends, shifts, strict=True)):
        if shift is None:
            continue
        numbers = _numbers(days[:end], shift)
        if (numbers != number[:end]).any() or number[end:].min(initial=numbers.max() + 1) <= numbers.max():
            shifts[row] = None
            apart.append(row)
            continue
        day_of_week, week[row, :end] = _weekdays(numbers), _week_around(numbers)
        runs[row] = np.bincount(day_of_week, minlength=WEEK)
        weekday[row, :end] = np.where(runs[row, day_of_week] >= LEAST_OF_A_WEEKDAY, day_of_week, WEEK)
        ranks = np.arange(1, 2 * np.count_nonzero(weekday[row] < WEEK))
        scores[row, ranks] = ndtri(ranks / (len(ranks) + 1))
    return _Looks(ends, number, tuple(shifts), tuple(apart), week, weekday, runs, scores)


def _patterns(logs: Floats, looks: _Looks) -> Iterator[WeekdayPattern | None]:
    """The pattern that each look shows in a series; none that is apart shows any."""
    level = _middles(logs, looks.number)[looks.week]
    for at in np.flatnonzero(np.isnan(level).any(1)):  # a week without any run
        level[at] = np.where(np.isnan(level[at]), np.median(logs[: looks.ends[at]]), level[at])
    rest = np.where(looks.weekday < WEEK, logs - level, np.inf)
    order = np.argsort(rest, axis=1)
    ordered, day = np.take_along_axis(rest, order, 1), np.take_along_axis(looks.weekday, order, 1)
    place, row, is_new = np.arange(len(logs)), np.arange(len(rest))[:, None], np.ones(rest.shape, bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(is_new, place, 0), axis=1)
    is_new[:, :-1], is_new[:, -1] = is_new[:, 1:].copy(), True
    last = np.minimum.accumulate(np.where(is_new, place, len(logs))[:, ::-1], axis=1)[:, ::-1]
    scores, takes_part = looks.scores[row, first + last + 1], day < WEEK
    size, is_able = takes_part.sum(1), looks.runs >= LEAST_OF_A_WEEKDAY
    scores = np.where(takes_part, scores - (scores.sum(1) / np.maximum(size, 1))[:, None], 0.0)
    sums = np.bincount((row * (WEEK + 1) + day).ravel(), scores.ravel(), len(rest) * (WEEK + 1))
    squares = np.square(sums.reshape(len(rest), -1)[:, :WEEK]) / np.maximum(looks.runs, 1)
    total, between, groups = (scores * scores).sum(1), (squares * is_able).sum(1), is_able.sum(1)
    shows = (groups > 1) & (total > 0.0)
    more, less = np.maximum(size - groups, 1), np.maximum(groups - 1, 1)
    p_values = np.where(shows, fdtrc(less, more, between / less / np.maximum((total - between) / more, 1e-12)), 1.0)
    for p_value, shift, *of_look in zip(p_values.tolist(), looks.shifts, rest, looks.weekday, looks.runs, strict=True):
        yield _pattern(p_value, shift, *of_look) if shift is not None and p_value <= ALPHA else None


def _pattern(
    p_value: float, shift: float, rest: Floats, weekday: NDArray[np.intp], runs: NDArray[np.intp]
) -> WeekdayPattern:
    able, kept = np.flatnonzero(runs >= LEAST_OF_A_WEEKDAY), weekday < WEEK
    rest, weekday = rest[kept], weekday[kept]
    middle = np.zeros(WEEK)
    middle[able] = [np.median(rest[weekday == day]) for day in able]
    off = rest - middle[weekday]
    off = np.clip(off, *(np.array([-CLIP, CLIP]) * 1.4826 * np.median(np.abs(off))))
    middle[able] += [off[weekday == day].mean() for day in able]
    return WeekdayPattern(_factors(middle, able), tuple(runs.tolist()), p_value, shift)


def seasonal_trend(values: Floats, days: Floats, pattern: WeekdayPattern) -> WeekdayPattern:
    """The pattern of a history as STL sees it, from all runs; parameters as of `weekday_pattern`, which found it."""
    from statsmodels.tsa.seasonal import STL

    measured = ~np.isnan(values)
    number = _numbers(days[measured], pattern.shift)
    every = np.arange(number.min(), number.max() + 1)
    # Days without a run: the median of the week around them, and what their weekday adds
    course = _around(np.log(values[measured]), number) + np.log(np.asarray(pattern.factors))[_weekdays(every)]
    course[number - every[0]] = np.log(values[measured])
    periodic = {"seasonal": 10 * len(every) + 1, "seasonal_deg": 0, "seasonal_jump": len(every)}
    found = STL(course, period=WEEK, robust=True, trend_jump=3, low_pass_jump=3, **periodic).fit()
    able = np.flatnonzero(np.asarray(pattern.runs) >= LEAST_OF_A_WEEKDAY)
    of_day = np.array([found.seasonal[_weekdays(every) == day].mean() for day in range(WEEK)])
    return replace(pattern, factors=_factors(of_day, able))


def _factors(effects: Floats, able: NDArray[np.intp]) -> tuple[float, ...]:
    factors = np.ones(WEEK)
    factors[able] = np.exp(effects[able] - effects[able].mean())
    return tuple(factors.tolist())


def _shift(days: Floats) -> float:
    """The time of day that is farthest from the usual one of the runs (their circular mean)."""
    usual = np.angle(np.exp(2j * np.pi * days).mean()) / (2.0 * np.pi)
    return float(round(usual, 6) % 1.0) - 0.5


def _numbers(days: Floats, shift: float) -> NDArray[np.intp]:
    return np.floor(days - shift).astype(np.intp)


def _weekdays(number: NDArray[np.intp]) -> NDArray[np.intp]:
    """0 is Monday."""
    return (number + THURSDAY) % WEEK


def _middles(values: Floats, number: NDArray[np.intp]) -> Floats:
    """For each week from the first day on: the median of its runs, ``NaN`` where it has none."""
    course = np.full(int(np.ptp(number)) + 1, np.nan)
    course[number - number.min()] = values
    weeks = np.sort(np.lib.stride_tricks.sliding_window_view(course, WEEK), axis=1)  # NaN last
    count = np.maximum((~np.isnan(weeks)).sum(axis=1), 1)
    row = np.arange(len(weeks))
    middles: Floats = (weeks[row, (count - 1) // 2] + weeks[row, count // 2]) / 2.0
    return middles


def _around(values: Floats, number: NDArray[np.intp]) -> Floats:
    """For each day from the first to the last: the median of the runs of the week around it."""
    middles = _middles(values, number)
    middles = np.where(np.isnan(middles), float(np.median(values)), middles)
    return middles[_week_around(np.arange(int(np.ptp(number)) + 1))]


def _week_around(number: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first day of the week around each day, counted from the first of all; at both ends the nearest whole one."""
    first: NDArray[np.intp] = np.clip(number - number.min() - WEEK // 2, 0, int(np.ptp(number)) + 1 - WEEK)
    return first
