"""A history watched run after run: one budget for all of it, and changes heard of in time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise import NOISE, WATCHED, correlated
from scipy.stats import binom

from perfkit.stats.sequential import FIRST_WINDOW, LEARN, shared_noise, watch_history

RUNS, METRICS = 100, 20
EACH = 0.05 / METRICS  # of a joint budget of 5 %


def history(rng, noise, count, at=None, size=0.0):
    """Runs around 100 with noise of 5 %; ``size`` in its standard deviations, so that 2 are 10 %."""
    values = noise(rng, count)
    if at is not None:
        values[at:] += size
    return 100.0 * np.exp(0.05 * values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WATCHED)
def test_false_alarms_stay_within_the_budget(rng, kind):
    """A share of it and all of it, on the same histories; where 5 % is silent, a share of it is (seen below)."""
    count = 1000
    histories = [history(rng, WATCHED[kind], RUNS) for _ in range(count)]
    for alpha in (0.05, EACH):
        histories = [values for values in histories if watch_history(values, alpha=alpha).alarms]
        assert len(histories) <= binom.ppf(0.999, count, alpha)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size", "within", "share"),
    [
        ("normal", 2.0, 20, 0.92),
        ("t3", 2.0, 20, 0.97),
        ("outliers", 2.0, 20, 0.80),
        ("ar(0.3)", 2.0, 20, 0.58),
        ("normal", 4.0, 5, 0.95),
        ("t3", 4.0, 5, 0.95),
        ("outliers", 4.0, 5, 0.82),
        ("ar(0.3)", 4.0, 5, 0.55),
    ],
)
def test_changes_are_heard_of_in_time(rng, kind, size, within, share):
    heard, count = 0, 200
    for _ in range(count):
        at = int(rng.integers(40, 80))
        alarms = watch_history(history(rng, WATCHED[kind], at + within, at, size), alpha=EACH).alarms
        heard += any(alarm.raised_at >= at for alarm in alarms)
    assert heard >= binom.ppf(0.01, count, share)


def scenario(rng, noise, count, at=None, size=0.0, metrics=METRICS):
    """The histories of one scenario, one row per metric; the first one steps."""
    sds = np.exp(rng.uniform(np.log(0.02), np.log(0.08), metrics))
    values = np.array([noise(rng, count) for _ in range(metrics)])
    if at is not None:
        values[0, at:] += size
    return 100.0 * np.exp(sds[:, None] * values)


@pytest.mark.slow
def test_many_series_together_keep_the_joint_budget_under_correlation(rng):
    count = raised = 0
    for _ in range(100):
        every = scenario(rng, WATCHED["ar(0.3)"], RUNS)
        shared = shared_noise(every)
        raised += any(watch_history(values, alpha=EACH, shared=shared).alarms for values in every)
        count += 1
    assert raised <= binom.ppf(0.99, count, 0.05)


def test_series_that_tell_together_how_runs_correlate_hear_of_more(rng):
    alone, together, count = 0, 0, 40
    for _ in range(count):
        at = int(rng.integers(40, 80))
        every = scenario(rng, WATCHED["ar(0.3)"], at + 5, at, 4.0)
        shared = shared_noise(every)
        alone += any(alarm.raised_at >= at for alarm in watch_history(every[0], alpha=EACH).alarms)
        together += any(alarm.raised_at >= at for alarm in watch_history(every[0], alpha=EACH, shared=shared).alarms)
    assert together >= binom.ppf(0.01, count, 0.85)
    assert together > alone + 0.1 * count


@pytest.mark.parametrize(("kind", "rho"), [("normal", 0.0), ("outliers", 0.0), ("ar(0.3)", 0.3)])
def test_the_correlation_of_many_series_is_known_although_all_step(rng, kind, rho):
    every = scenario(rng, WATCHED[kind], 100)
    every[:, 70:] *= 1.5
    every[3, 10:30] = np.nan
    times = np.datetime64("1970-01-01T02:00") + np.arange(100) * np.timedelta64(1, "D")
    shared = shared_noise(every, times)
    assert shared.correlation[-1] == pytest.approx(rho, abs=0.12)
    assert shared.worth[19] == 0.0 < shared.worth[20] < 300.0
    assert 700.0 < shared.worth[-1] < 1400.0
    before = shared_noise(every[:, :70], times[:70])
    assert before.correlation.tolist() == shared.correlation[:71].tolist()
    one = shared_noise(np.repeat(every[:1], 20, axis=0), times)
    assert one.worth[-1] == pytest.approx(shared_noise(every[:1], times).worth[-1], rel=0.06)  # no more than one


def test_a_machine_that_all_series_show_hides_no_step(rng):
    """Of one series, and of all of them by as much as the machine makes of them."""

    def of_run(count):
        slow = 3.0 * (rng.random(count) < 0.2)
        return lambda rng, count: rng.normal(size=count) + slow

    one = every = before = 0
    for at in (40, 54, 61, 68, 75, 79):
        histories = scenario(rng, of_run(at + 12), at + 12, at, 3.0)
        shared = shared_noise(histories)
        one += any(at <= alarm.raised_at < at + 6 for alarm in watch_history(histories[0], shared=shared).alarms)
        before += bool(watch_history(histories[1], shared=shared).alarms)
        histories[1:, at:] *= histories[0, at:].mean() / histories[0, :at].mean()
        until = shared_noise(histories[:, : at + 5])
        whole, part = (
            watch_history(histories[1, :end], shared=known).alarms
            for end, known in ((at + 12, shared_noise(histories)), (at + 5, until))
        )
        assert part == tuple(alarm for alarm in whole if alarm.raised_at < at + 5)
        every += any(alarm.raised_at >= at for alarm in whole)
    assert one >= 5
    assert every >= 4
    assert before <= 1


def test_noise_that_wanders_and_few_series_that_correlate_more_are_respected(rng):
    def wanders(rng, count):
        return np.sqrt(0.7) * rng.normal(size=count) + np.sqrt(0.3) * correlated(rng, count, 0.9)

    assert shared_noise(scenario(rng, wanders, 100)).correlation[-1] > 0.35  # of neighbours in a block: 0.15
    every = scenario(rng, WATCHED["normal"], 100)
    alike = shared_noise(every).worth[-1]
    every[:2] = scenario(rng, lambda rng, count: correlated(rng, count, 0.6), 100, metrics=2)
    assert shared_noise(every).worth[-1] < 0.2 * alike


def test_outliers_of_all_series_do_not_hide_a_step_of_one(rng):
    alone, together, count = 0, 0, 30
    for _ in range(count):
        at = int(rng.integers(40, 80))
        every = scenario(rng, WATCHED["outliers"], at + 5, at, 4.0)
        alone += any(alarm.raised_at >= at for alarm in watch_history(every[0], alpha=EACH).alarms)
        alarms = watch_history(every[0], alpha=EACH, shared=shared_noise(every)).alarms
        together += any(alarm.raised_at >= at and abs(alarm.index - at) <= 3 for alarm in alarms)
    assert together >= binom.ppf(0.01, count, 0.95)
    assert together > alone


def test_a_series_that_is_mostly_zero_is_no_evidence_by_the_noise_of_others(rng):
    model = shared_noise(scenario(rng, WATCHED["normal"], 60)).models[-1]
    for far in (8.0, 1e300):  # in standard deviations, of which zeros have none
        rest = far * np.concatenate([np.tile([0.0, 0.0, 0.5], 30), np.full(20, 2.0)])
        assert model.evidence(rest, 0, 80, 4, np.ones(31))[0] < 3.0


def test_what_a_scenario_was_told_never_depends_on_later_runs(rng):
    every = scenario(rng, WATCHED["outliers"], 80)
    every[:8, 60:] *= 1.2
    every[:, 25] = np.nan
    every[5, 10:30] = np.nan
    raised = 0
    for until in (33, 57, 66, 72):
        shared = shared_noise(every), shared_noise(every[:, :until])
        for values in every[:8]:
            whole, part = (
                watch_history(values[:end], alpha=0.05, shared=known).alarms
                for end, known in zip((80, until), shared, strict=True)
            )
            assert part == tuple(alarm for alarm in whole if alarm.raised_at < until)
            raised += len(part)
    assert raised >= 4


def test_strange_series_beside_ordinary_ones_are_watched(rng):
    every = scenario(rng, WATCHED["normal"], 80)
    every[1], every[2, 40:], every[3], every[4] = 5.0, 0.0, np.nan, np.round(every[4], -1)
    every[5, ::2], every[6], every[7, 50:] = 1e-300, -every[6], every[7, 50:] * 1e6
    shared = shared_noise(every)
    steps = shared_noise(np.linspace(1.0, 90.0, 80) + 0.01 * rng.normal(size=(3, 80)))
    assert steps.worth.min() >= 0.0
    assert np.abs(steps.correlation).max() < 1.0
    heard = [bool(watch_history(values, shared=shared).alarms) for values in every]
    assert heard[:8] == [False, False, True, False, False, False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["two kinds, 20 %", "two kinds, 10 %", "t3"])
def test_series_unlike_the_others_keep_to_the_budget(rng, odd):
    kinds = {
        "two kinds, 20 %": lambda: rng.normal(size=RUNS) + 3.0 * (rng.random(RUNS) < 0.2),
        "two kinds, 10 %": lambda: rng.normal(size=RUNS) + 6.0 * (rng.random(RUNS) < 0.1),
        "t3": lambda: NOISE["t3"](rng, RUNS),
    }
    raised, count = 0, 100
    for _ in range(count):
        every = scenario(rng, WATCHED["normal"], RUNS)
        every[:2] = 100.0 * np.exp(0.05 * np.array([kinds[odd](), kinds[odd]()]))
        shared = shared_noise(every)
        raised += sum(bool(watch_history(values, alpha=EACH, shared=shared).alarms) for values in every[:2])
    assert raised <= binom.ppf(0.999, 2 * count, 0.005)


def test_an_alarm_says_when_it_began_and_how_large_it_is(rng):
    for _ in range(20):
        (alarm, *_) = watch_history(history(rng, NOISE["normal"], 80, 50, 5.0), alpha=EACH).alarms
        assert abs(alarm.index - 50) <= 3
        assert 50 < alarm.raised_at < 60
        assert alarm.change_pct == pytest.approx(100 * np.expm1(0.25), abs=9.0)
        assert alarm.before == pytest.approx(100.0, abs=4.0)
        assert alarm.p_value <= EACH


def test_an_alarm_says_how_far_apart_the_levels_are(rng):
    values = 100.0 * np.exp(rng.normal(0.0, 0.02, 400) + 0.1 * (np.arange(400) >= 300))
    (alarm,) = watch_history(values).alarms
    assert alarm.distance == pytest.approx(5.0, abs=1.5)  # few runs are slow when it is raised


def test_after_an_alarm_the_new_level_is_learned_and_watched(rng):
    values = history(rng, NOISE["normal"], 150, 50, 6.0)
    values[100:] *= np.exp(-0.3)
    watch = watch_history(values)
    assert [abs(alarm.index - at) <= 3 for alarm, at in zip(watch.alarms, (50, 100), strict=True)] == [True, True]
    assert watch.learned_from == watch.alarms[-1].index


@pytest.mark.parametrize(("at", "back"), [(20, 27), (40, 52), (60, 68)])
def test_a_change_is_heard_when_it_comes_and_when_it_goes(rng, at, back):
    heard = 0
    for _ in range(20):
        values = history(rng, NOISE["normal"], back + 8, at, 8.0)
        values[back:] *= np.exp(-0.4)
        alarms = watch_history(values, alpha=EACH).alarms
        heard += [round((alarm.index - place) / 5) for alarm, place in zip(alarms, (at, back), strict=False)] == [0, 0]
    assert heard >= 18


def test_a_change_among_the_first_runs_does_not_deafen(rng):
    heard = 0
    for _ in range(20):
        values = history(rng, NOISE["normal"], 40, 34, 6.0)
        values[:8] *= np.exp(0.5)
        alarms = watch_history(values, alpha=EACH).alarms
        heard += [abs(alarm.index - 34) <= 2 for alarm in alarms] == [True]
    assert heard >= 18


@given(st.integers(0, 10_000), st.integers(20, 79), st.floats(-6, 6))
def test_what_was_heard_never_depends_on_later_runs(seed, until, size):
    rng = np.random.default_rng(seed)
    values = history(rng, NOISE["t3"], 80, int(rng.integers(20, 70)), size)
    whole = watch_history(values, alpha=0.05).alarms
    part = watch_history(values[:until], alpha=0.05).alarms
    assert part == tuple(alarm for alarm in whole if alarm.raised_at < until)
    assert whole or not watch_history(values, alpha=EACH).alarms


@pytest.mark.parametrize("spike", [2.0, 10.0, 0.01])
@pytest.mark.parametrize(("places", "most"), [([40], 0), ([40, 41], 2)])
def test_a_spike_raises_no_alarm_and_two_hardly_do(rng, spike, places, most):
    alarms = 0
    for _ in range(30):
        values = history(rng, NOISE["normal"], 60)
        values[places] *= spike
        alarms += bool(watch_history(values, alpha=EACH).alarms)
    assert alarms <= most


@pytest.mark.parametrize(
    ("count", "missing"),
    [(0, LEARN + FIRST_WINDOW), (10, LEARN + FIRST_WINDOW - 10), (LEARN + FIRST_WINDOW, 0), (40, 0)],
)
def test_it_says_how_many_runs_it_needs_before_it_may_speak(rng, count, missing):
    watch = watch_history(history(rng, NOISE["normal"], count))
    assert (watch.runs, watch.runs_to_learn, watch.alarms) == (count, missing, ())


def test_it_is_silent_while_it_learns():
    values = [100.0] * 5 + [200.0] * (LEARN + FIRST_WINDOW - 6)
    assert watch_history(values).alarms == ()


@pytest.mark.parametrize(
    "values",
    [[5.0] * 60, [0.0] * 60, [0.0, 1.0] * 30, [float("nan")] * 60, [-5.0, -5.1, -4.9] * 20, [1.0, 2.0]],
)
def test_nothing_is_heard_of_steady_histories_of_any_make(values):
    assert watch_history(values).alarms == ()


def test_missing_runs_count_as_runs(rng):
    values = np.insert(history(rng, NOISE["normal"], 80, 50, 6.0), range(0, 80, 2), np.nan)
    (alarm,) = watch_history(values).alarms
    assert abs(alarm.index - 75) <= 3
    assert not np.isnan(values[alarm.index])


def test_a_change_to_zero_and_below_is_heard_of(rng):
    values = np.concatenate([rng.normal(3.0, 0.3, 40), rng.normal(-3.0, 0.3, 20)])
    (alarm,) = watch_history(values).alarms
    assert abs(alarm.index - 40) <= 1


def test_a_constant_level_that_moves_is_heard_of():
    (alarm,) = watch_history([5.0] * 40 + [6.0] * 10).alarms
    assert alarm.index == 40


@pytest.mark.parametrize("alpha", [0.0, 0.6, float("nan")])
def test_a_wrong_level_is_told(alpha):
    with pytest.raises(ValueError, match=r"alpha: must be above 0 and at most 0\.5"):
        watch_history([1.0], alpha=alpha)
