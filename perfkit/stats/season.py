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

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from perfkit.stats.changepoints import normal_scores

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats

WEEK = 7
LEAST_DAYS = 28
LEAST_OF_A_WEEKDAY = 3  # runs; weekdays with fewer take no part
LEAST_COVER, MOST_PER_DAY = 0.6, 1.25  # share of days with a run (five of seven have more), runs on such a day
ALPHA = 0.001  # of a pattern where there is none
CLIP = 2.5  # robust standard deviations beyond which a residual counts no more than that
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

    def at(self, days: Floats) -> Floats:
        """The factor of each run by when it started (days since 1970, UTC); 1 where that is not known (``NaN``)."""
        known = ~np.isnan(days)
        found = np.ones(len(days))
        found[known] = np.asarray(self.factors)[_weekdays(_numbers(days[known], self.shift))]
        return found


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
    plain, at = values[measured], days[measured]
    if not plain.size or not (plain > 0).all() or why_no_pattern(at):
        return None
    shift = _shift(at)
    number = _numbers(at, shift)
    rest, weekday = np.log(plain) - _around(np.log(plain), number)[number - number.min()], _weekdays(number)
    runs = np.bincount(weekday, minlength=WEEK)
    able = np.flatnonzero(runs >= LEAST_OF_A_WEEKDAY)
    kept = np.isin(weekday, able)
    rest, weekday = rest[kept], weekday[kept]
    scores = normal_scores(rest)
    total, groups = float(scores @ scores), len(able)
    if groups < 2 or total == 0.0:
        return None
    between = sum(float(scores[weekday == day].sum()) ** 2 / runs[day] for day in able)
    more = len(rest) - groups
    p_value = float(fdtrc(groups - 1, more, between / (groups - 1) / max((total - between) / more, 1e-12)))
    if p_value > ALPHA:
        return None
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


def _around(values: Floats, number: NDArray[np.intp]) -> Floats:
    """For each day from the first to the last: the median of the runs of the week around it."""
    span, half = int(np.ptp(number)) + 1, WEEK // 2
    course = np.full(span, np.nan)
    course[number - number.min()] = values
    weeks = np.sort(np.lib.stride_tricks.sliding_window_view(course, WEEK), axis=1)  # NaN last
    count = np.maximum((~np.isnan(weeks)).sum(axis=1), 1)
    row = np.arange(len(weeks))
    middle = (weeks[row, (count - 1) // 2] + weeks[row, count // 2]) / 2.0
    middle = np.where(np.isnan(middle), float(np.median(values)), middle)  # a week without any run
    return np.concatenate([np.full(half, middle[0]), middle, np.full(half, middle[-1])])
