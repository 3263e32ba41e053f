"""A history watched run after run, as CI does: alarms whose false ones stay within one budget for the whole history.

Each new run is looked at with the runs before it: the mean of the last 4 to 30 of them is held against the level that
the runs since the last change had, in standard errors that respect how few these are, and the noise and lag-1
correlation of all runs around their levels (a windowed generalised likelihood ratio test; Lai 1995,
doi:10.1111/j.2517-6161.1995.tb02052.x).  A run counts no more than `CLIP` noise standard deviations, unless over three
quarters of a window reach further, and half of a window must lie on its far side, so that a single strange run raises
no alarm and two hardly ever do.  The chance of a false alarm is spent over the looks, less and less each time (alpha
spending; Lan & DeMets 1983, doi:10.1093/biomet/70.3.659), so that its sum never exceeds ``alpha`` however long the
history grows.

What looks far by the noise of most runs may have been seen before: two kinds of machine, rare slow runs, zeros.  So the
window must also be rare among all orders of the runs so far, at the same budget (`rarity`).  That
holds whatever the distribution of the runs is, as long as their order says nothing; the first test holds where
neighbouring runs correlate.

Many series of the same runs tell much better together how neighbouring runs correlate (`shared_correlation`, of the
runs before those that are looked at), which is most of what one series cannot know of its noise.

Assumes that noise is alike over time (on the log scale where all values so far are positive).  Its limits: it may not
speak before `LEARN` runs, nor in the first `LEAST_LEVEL` of a new level; a drift that is slow against thirty runs
moves the level along; and k new runs among n are no rarer than one of all choices of k, so that early in a history
five runs cannot be enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from perfkit.stats.changepoints import checked_history, drawn_in, rarity, relative_change_pct, segment
from perfkit.stats.season import LEAST_DAYS, WEEK, WeekdayPattern, days_since_1970, weekday_pattern

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats

LEARN = 15  # runs from which noise and its correlation are learned
LEAST_LEVEL = 6  # runs of a level after a change from which it is learned
EARLY_ALPHA = 0.002  # of a change among the first `LEARN` runs; eight on one side and seven on the other reach it
FIRST_WINDOW, LAST_WINDOW = 4, 30  # runs that an alarm may rest on
CLIP = 3.5
FAR, LEAST_FAR = 1.25, 3  # half of a window, and so many runs, must be so many standard deviations away
CLIP_LEARNED = 2.5  # in the runs that the level is learned from
PRIOR_CORRELATION, PRIOR_CORRELATION_RUNS = 0.1, 30.0
MOST_CORRELATION = 0.8
BLOCK = 20  # runs, each around its own level, from which several series show their correlation together
MEDIAN_EFFICIENCY = 0.64
DF_OF_SD = 1.0  # as DF_PER_RUN, where the correlation is known from many series; both held by test_watch.py
DF_PER_RUN = 0.6  # degrees of freedom of a winsorised standard deviation, for independent runs
HOPELESS = 2.0  # standard deviations: a window that lies nearer is not rare among all orders, and not looked at closer
LOOKS = 1.3  # windows of a look: the chance that it alarms, in chances of one normal value; held by test_watch.py
RENEWED = 14  # runs after which the weekday pattern is estimated anew
SPENDING = 30.0  # runs; half of the budget is spent LEARN + SPENDING runs after the first look


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change as CI would have heard of it.

    ``raised_at`` is the run at which it was raised, ``index`` the run with which it began (both from 0); levels are in
    the unit of the values; ``p_value`` is the chance of a false alarm as strong in this history up to there;
    ``distance`` is that of the levels in standard deviations of one run, which tells how exact ``index`` is.
    """

    raised_at: int
    index: int
    before: float
    after: float
    change_pct: float
    p_value: float
    distance: float


@dataclass(frozen=True, slots=True)
class Watch:
    """What watching a history came to.

    ``runs`` counts the values that were looked at; ``learned_from`` is the first run of the present stretch;
    ``runs_to_learn`` counts further runs before it may speak (0: it may).
    """

    alarms: tuple[Alarm, ...]
    runs: int
    learned_from: int
    runs_to_learn: int


@dataclass(frozen=True, slots=True)
class SharedCorrelation:
    """The lag-1 correlation that several series of the same runs show together, by what is known before each run.

    Both have shape ``(n_runs + 1,)``: the correlation, and how many independent runs of one series it is worth (0: none
    is known yet).
    """

    correlation: Floats
    worth: Floats


def shared_correlation(histories: Sequence[ArrayLike], times: ArrayLike | None = None) -> SharedCorrelation:
    """What the histories of a scenario, one value per run in each, tell together of how neighbouring runs correlate.

    The median over all series and blocks of `BLOCK` runs, each around its own level, so that few steps have little hold
    on it.  Series that move together count as fewer: by the participation ratio of their correlations.
    """
    every = [np.asarray(values, float) for values in histories]
    if not every:
        return SharedCorrelation(np.zeros(1), np.zeros(1))
    count = len(every[0])
    days = days_since_1970(_checked_times(times, (count,)))
    correlation, worth = np.zeros(count + 1), np.zeros(count + 1)
    seen, together, blocks = list[float](), 0.0, 0
    for end in range(BLOCK, count + 1, BLOCK):
        rows = []
        for values in every:
            known = ~np.isnan(values[:end])
            if not known[-BLOCK:].sum() >= LEARN:
                continue
            plain, at = values[:end][known], days[:end][known]
            pattern = weekday_pattern(plain, at)
            plain = plain if pattern is None else plain / pattern.at(at)
            block = (np.log(plain) if (plain > 0).all() else plain)[-int(known[-BLOCK:].sum()) :]
            rest = block - np.median(block)
            if (sd := _robust_sd(rest)) > 0.0:
                rest = np.clip(rest, -CLIP_LEARNED * sd, CLIP_LEARNED * sd)
                rest -= rest.mean()
                seen.append(_seen_correlation(rest))
                row = np.zeros(BLOCK)
                row[known[-BLOCK:]] = rest / math.sqrt(float(rest @ rest))
                rows.append(row)
        if rows:
            of_pairs = np.square(np.asarray(rows) @ np.asarray(rows).T)
            number, blocks = len(rows), blocks + 1
            by_chance = number * (number - 1) / (BLOCK - 1)
            together += number * number / (number + max(float(of_pairs.sum()) - number - by_chance, 0.0))
            correlation[end:], worth[end:] = float(np.median(seen)), MEDIAN_EFFICIENCY * BLOCK * together
    return SharedCorrelation(correlation, worth)


def _checked_times(times: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.datetime64]:
    at = np.full(shape, np.datetime64("NaT")) if times is None else np.asarray(times, "datetime64[ms]")
    if at.shape != shape:
        raise ValueError(f"times: expected one per value, shape {shape}, got {at.shape}")
    return at


def watch_history(
    values: ArrayLike,
    *,
    alpha: float = 0.01,
    times: ArrayLike | None = None,
    shared: SharedCorrelation | None = None,
) -> Watch:
    """Watch a history run after run.

    The outcome for the first k values never depends on later ones.

    Parameters
    ----------
    values
        One value per run, oldest first, shape ``(n_runs,)``; any unit, ``NaN`` where a run has none.
    alpha
        Chance, in (0, 0.5], of any false alarm in this history, however long.  Who watches many histories shares a
        budget among them: ``alpha / count``.
    times
        When each run started (UTC, ``datetime64`` or an index of pandas, ``NaT`` where unknown), same shape.  A weekday
        pattern that earlier runs show, four weeks of about nightly ones or more, is then taken out.
    shared
        How neighbouring runs correlate, by all series of these runs (see `shared_correlation`); else only by this one.

    Raises
    ------
    ValueError
        ``alpha`` is out of range, the values are infinite or not one-dimensional, or there are not as many times.
    """
    history, places = checked_history(values, alpha)
    plain = history[places]
    days = days_since_1970(_checked_times(times, history.shape))[places]
    known = None if shared is None else SharedCorrelation(shared.correlation[places], shared.worth[places])
    edges, begin, alarms = [0], 0, list[Alarm]()
    if len(plain) >= LEARN + FIRST_WINDOW:  # it does not speak of early changes, but learns the level after them
        edges += (change.index for change in segment(plain[:LEARN], alpha=EARLY_ALPHA).changes)
    for until, pattern in _known_patterns(plain, days):
        usual = plain[:until] if pattern is None else plain[:until] / pattern.at(days[:until])
        share = WEEK / sum(pattern.runs) if pattern is not None else 0.0
        while (alarm := _next_alarm(usual, edges, begin, alpha, share, known)) is not None:
            begin = alarm.raised_at + 1
            edges.append(alarm.index)
            alarms.append(replace(alarm, raised_at=int(places[alarm.raised_at]), index=int(places[alarm.index])))
        begin = until
    least = max(LEARN - len(plain), LEAST_LEVEL - (len(plain) - edges[-1])) + FIRST_WINDOW
    first = int(places[edges[-1]]) if edges[-1] < len(plain) else len(history)
    return Watch(tuple(alarms), len(plain), first, max(least, 0))


def _known_patterns(plain: Floats, days: Floats) -> Iterator[tuple[int, WeekdayPattern | None]]:
    """Parts of a history, each up to a run, and the weekday pattern that the runs before that part show."""
    known, count = None, len(plain)
    for until in range(LEAST_DAYS, count, RENEWED) if not np.isnan(days).any() else ():
        pattern = weekday_pattern(plain[:until], days[:until])
        if pattern is not None or known is not None:
            yield until, known
        known = pattern
    yield count, known


def _next_alarm(
    plain: Floats, edges: Sequence[int], begin: int, alpha: float, share: float, shared: SharedCorrelation | None
) -> Alarm | None:
    """The first alarm raised at ``begin`` or later, in positions among the values; levels change at the edges.

    ``share`` is that of the variance of a run which is in each factor of the weekday pattern that was taken out.
    """
    below = np.nonzero(plain <= 0)[0]
    until = int(below[0]) if below.size else len(plain)  # from there on the log scale is not known
    for scale, first, last in ((np.log, begin, until), (np.asarray, max(begin, until), len(plain))):
        if first >= last:
            continue
        values = np.asarray(scale(plain[:last]), float)
        best: dict[int, tuple[float, int]] = {}  # of each look: its strongest window, and the run at which that begins
        for split in range(max(LEARN, edges[-1] + LEAST_LEVEL, first - LAST_WINDOW + 1), last - FIRST_WINDOW + 1):
            for at, strength in _strengths(values, edges, split, share, shared):
                if at >= first and strength > best.get(at, (0.0, 0))[0]:
                    best[at] = (strength, split)
        for at in sorted(best):
            strength, split = best[at]
            p_value = LOOKS * _spent(strength, at)
            if p_value > alpha:
                continue
            stretches = [values[a:b] for a, b in pairwise([*edges, split])]
            window = values[split : at + 1]
            p_value = min(max(p_value, _spent(_rarity(stretches, window), at)), 1.0)
            if p_value <= alpha:
                before, after = (float(np.median(part)) for part in (plain[edges[-1] : split], plain[split : at + 1]))
                sd = _robust_sd(np.concatenate([stretch - np.median(stretch) for stretch in stretches]))
                step = abs(float(np.median(window) - np.median(stretches[-1])))
                distance = step / sd if sd > 0.0 else math.inf
                return Alarm(at, split, before, after, relative_change_pct(before, after), p_value, distance)
    return None


def _strengths(
    values: Floats, edges: Sequence[int], split: int, share: float, shared: SharedCorrelation | None
) -> Iterator[tuple[int, float]]:
    """Windows that begin at ``split``: the last run of each, and its distance from the level before as a normal z."""
    stretches = [values[a:b] for a, b in pairwise([*edges, split])]
    middles = [_median(stretch) for stretch in stretches]
    rest = np.concatenate([stretch - middle for stretch, middle in zip(stretches, middles, strict=True)])
    sd = max(_robust_sd(rest), 1e-9 * max(abs(middles[-1]), 1e-300))  # of equal runs: any other value is far
    # Heavy tails add to the noise of a window what they add to that of the runs learned from
    sd = max(sd, float(np.std(np.clip(rest, -CLIP * sd, CLIP * sd)))) / math.sqrt(1.0 - share)
    window = values[split : split + LAST_WINDOW] - middles[-1]
    far = np.maximum(np.cumsum(window > FAR * sd), np.cumsum(window < -FAR * sd))
    length = np.arange(1, len(window) + 1, dtype=float)
    ends = np.flatnonzero((far >= np.maximum(LEAST_FAR, length / 2.0)) & (length >= FIRST_WINDOW))
    if not ends.size:  # most windows of a quiet history
        return
    drawn = np.clip(rest, -CLIP_LEARNED * sd, CLIP_LEARNED * sd)
    level = float(drawn[edges[-1] :].mean())
    pool, worth = (0.0, 0.0) if shared is None else (float(shared.correlation[split]), float(shared.worth[split]))
    rho = _correlation(drawn - drawn.mean(), pool, worth)
    inflation = (1.0 + rho) / (1.0 - rho)
    of_window = inflation - 2.0 * rho * (1.0 - rho**length) / (length * (1.0 - rho) ** 2)  # mean of so few AR(1) values
    of_window += share * np.maximum(1.0 - length / WEEK, 0.0)  # errors of a pattern cancel over whole weeks
    error = sd * np.sqrt(of_window / length + inflation / len(stretches[-1]))
    t, df = (_means(window, sd) - level) / error, DF_PER_RUN * (split - len(stretches) + 1) / inflation
    if worth:  # what is not known of the standard deviation, and of the correlation
        of_sd = (1.0 + rho * rho) / (1.0 - rho * rho) / (DF_OF_SD * (split - len(stretches) + 1))
        df = max(df, 1.0 / (of_sd + 2.0 / (1.0 - rho * rho) / (split + worth)))
    # The normal value that is as rare as this t (Wallace 1959, doi:10.1214/aoms/1177706093)
    strength = np.sqrt(df * np.log1p(t * t / df)) * (8.0 * df + 1.0) / (8.0 * df + 3.0)
    for i in ends.tolist():
        yield split + i, float(strength[i])


def _rarity(stretches: Sequence[Floats], window: Floats) -> float:
    """How rare the runs of a window are among all orders of the runs so far, each less its level, as a normal z.

    Whatever the distribution of these runs is: where some of the earlier ones were as far off, a few more are not rare.
    """
    rest = [stretch - np.median(stretch) for stretch in stretches] if len(stretches) > 1 else stretches
    window = window - (np.median(stretches[-1]) if len(stretches) > 1 else 0.0)
    scores = drawn_in(np.concatenate([*rest, window]))
    count, total = len(window), float(scores[-len(window) :].sum())
    if not scores.any():
        return 0.0
    plain = abs(total) / math.sqrt(count * (1.0 - count / len(scores)) * float(np.mean(scores * scores)))
    return abs(float(rarity(scores, [count], [total])[0])) if plain > HOPELESS else plain


def _means(window: Floats, sd: float) -> Floats:
    """Of the first 1, 2, ... runs; each counts no more than `CLIP`, or than what over three quarters of them reach."""
    drawn = np.clip(window, -CLIP * sd, CLIP * sd)
    means: Floats = np.cumsum(drawn) / np.arange(1, len(window) + 1)
    for side in (1.0, -1.0) if (np.abs(window) > CLIP * sd).sum() >= LEAST_FAR else ():
        for count in range(FIRST_WINDOW, len(window) + 1):
            part = side * window[:count]
            reached = float(np.sort(part)[(count - 1) // 4])
            if reached > CLIP * sd:
                means[count - 1] = side * float(np.clip(part, -CLIP * sd, reached).mean())
    return means


def _median(values: Floats) -> float:
    """As NumPy's, to the last bit; on so few values that one spends ten times as long on its own checks."""
    ordered, count = np.sort(values), len(values)
    return float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2.0


def _robust_sd(rest: Floats) -> float:
    """Winsorised standard deviation; 0.95 is the variance that Gaussian values keep."""
    size = np.abs(rest)
    scale = 1.4826 * _median(size)
    if scale == 0.0:
        return math.sqrt(float(np.mean(size * size)))
    return math.sqrt(float(np.mean(np.square(np.minimum(size, 2.5 * scale)))) / 0.95)


def _correlation(centred: Floats, pool: float, worth: float) -> float:
    """Lag-1 correlation of a series, shrunk towards what others show (`pool`, worth so many runs) and a prior."""
    count = len(centred)
    total = count * _seen_correlation(centred) + PRIOR_CORRELATION_RUNS * PRIOR_CORRELATION + worth * pool
    return min(max(total / (count + PRIOR_CORRELATION_RUNS + worth), 0.0), MOST_CORRELATION)


def _seen_correlation(centred: Floats) -> float:
    """Lag-1 correlation with its small-sample bias undone (Kendall 1954, doi:10.1093/biomet/41.3-4.403)."""
    count, power = len(centred), float(centred @ centred)
    seen = float(centred[1:] @ centred[:-1]) / power + 1.0 / count if power > 0 else 0.0
    return seen + 3.0 * max(seen, 0.0) / count


def _spent(strength: float, at: int) -> float:
    """The budget for the whole history at which a look at this run alarms at this strength."""
    share = (LEARN + SPENDING) / (at + SPENDING) ** 2  # sums to one over all looks from LEARN on
    return 2.0 * float(ndtr(-strength)) / share
