"""Weekday patterns: found where they are, taken out of what is watched, and never looked for where nights are not."""

import numpy as np
import pytest
from noise import WATCHED

from perfkit.stats.season import days_since_1970, seasonal_trend, weekday_pattern, why_no_pattern
from perfkit.stats.sequential import watch_history

MONDAY = np.datetime64("2026-01-05T02:00", "ms")
WEEKEND = np.array([0.0, 0.0, 0.0, 0.0, 0.0, -3.0, -3.0]) + 6.0 / 7.0  # standard deviations


def nightly(rng, count):
    """About two o'clock each night, some an hour and more earlier: the day before, by the calendar."""
    return MONDAY + np.arange(count) * np.timedelta64(1, "D") + rng.normal(0, 60, count).astype("timedelta64[m]")


def history(noise, pattern=WEEKEND, at=None, size=0.0):
    steps = size * (np.arange(len(noise)) >= (len(noise) if at is None else at))
    return 100.0 * np.exp(0.05 * (noise + pattern[np.arange(len(noise)) % 7] + steps))


@pytest.mark.parametrize("kind", WATCHED)
def test_a_pattern_is_found_and_its_size_known_although_the_level_steps(rng, kind):
    days = days_since_1970(nightly(rng, 84))
    values = history(WATCHED[kind](rng, 84), at=50, size=3.0)
    values[[3, 20, 21, 60]] = np.nan
    pattern = weekday_pattern(values, days)
    assert pattern is not None
    for found in (pattern, seasonal_trend(values, days, pattern)):
        assert np.log(found.factors) == pytest.approx(0.05 * WEEKEND, abs=0.06)
        assert np.sum(np.log(found.factors)) == pytest.approx(0.0, abs=1e-9)
        assert found.at(days)[:7] == pytest.approx(found.factors)


def test_no_pattern_is_found_where_there_is_none(rng):
    days = days_since_1970(nightly(rng, 60))
    found = [weekday_pattern(history(WATCHED["normal"](rng, 60), np.zeros(7)), days) for _ in range(300)]
    assert sum(pattern is not None for pattern in found) <= 2  # 0.3 expected
    assert weekday_pattern(np.full(60, 5.0), days) is None
    assert weekday_pattern(np.arange(60.0), days) is None  # zero has no logarithm


def test_a_night_belongs_to_its_day_also_at_midnight(rng):
    midnights = np.arange(56.0)  # from a Thursday on
    values = history(rng.normal(size=56), np.array([4.0, 0, 0, 0, 0, 0, 0]))
    for late in (0.0, 0.001):
        pattern = weekday_pattern(values, midnights + late)
        assert int(np.argmax(pattern.factors)) == 3


def test_runs_of_five_days_a_week_have_a_pattern_of_five_days(rng):
    days = days_since_1970(nightly(rng, 84))
    is_working = np.arange(84) % 7 < 5
    values = history(WATCHED["normal"](rng, 84), np.array([3.0, 0, 0, 0, 0, 0, 0]))[is_working]
    pattern = weekday_pattern(values, days[is_working])
    assert pattern.runs == (12, 12, 12, 12, 12, 0, 0)
    assert pattern.factors[5:] == (1.0, 1.0)
    assert seasonal_trend(values, days[is_working], pattern).factors[0] == pytest.approx(np.exp(0.12), abs=0.05)


@pytest.mark.parametrize(
    ("days", "why"),
    [
        (np.arange(100) / 4.0, "several times a day"),
        (np.arange(20) / 1.0, "runs span 20 days; 28 are needed"),
        (np.arange(40) * 3.0, "irregular: on 40 of 118 days"),
        (np.where(np.arange(40) == 7, np.nan, np.arange(40.0)), "not known when they started"),
        (np.empty(0), "not known"),
        (np.arange(28.0), ""),
    ],
)
def test_why_no_pattern_is_looked_for(days, why):
    assert why in why_no_pattern(days)
    assert bool(why) == bool(why_no_pattern(days))
    if why:
        assert weekday_pattern(np.linspace(1.0, 2.0, len(days)), days) is None


def test_a_step_is_heard_of_in_spite_of_a_pattern_that_would_hide_it(rng):
    heard, hidden, alpha = 0, 0, 0.05 / 20
    for _ in range(12):
        values = history(WATCHED["normal"](rng, 90), at=70, size=2.0)
        alarms = watch_history(values, alpha=alpha, times=nightly(rng, 90)).alarms
        assert all(alarm.raised_at >= 70 for alarm in alarms)
        heard += bool(alarms)
        hidden += not watch_history(values, alpha=alpha).alarms
    assert heard >= 10
    assert hidden >= 10


def test_what_was_said_of_the_first_runs_never_changes(rng):
    values = np.concatenate([history(WATCHED["normal"](rng, 60), at=45, size=6.0), history(rng.normal(size=50))])
    times = nightly(rng, 110)
    whole = watch_history(values, alpha=0.01, times=times).alarms
    assert [alarm.raised_at for alarm in whole[:1]] > [45]
    for until in range(20, 110, 6):
        part = watch_history(values[:until], alpha=0.01, times=times[:until]).alarms
        assert part == tuple(alarm for alarm in whole if alarm.raised_at < until)


def test_times_are_one_for_each_value():
    with pytest.raises(ValueError, match=r"times: expected one per value, shape \(3,\), got \(2,\)"):
        watch_history([1.0, 2.0, 3.0], times=[MONDAY, MONDAY])
