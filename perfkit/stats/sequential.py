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

Many series of the same runs tell much better together how neighbouring runs correlate and what shape their noise has
(`shared_noise`, of the runs before those that are looked at), which is most of what one series cannot know.  Half of
the budget then goes to a second test, which weighs a step against none by that noise (`NoiseModel.evidence`).  Which
runs were on another machine they tell almost without error (`machines`); what it makes of a series is taken out.

Assumes that noise is alike over time (on the log scale where all values so far are positive).  Its limits: it may not
speak before `LEARN` runs, nor in the first `LEAST_LEVEL` of a new level; a drift that is slow against thirty runs
moves the level along; and k new runs among n are no rarer than one of all choices of k, so that early in a history
five runs cannot be enough.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from perfkit.stats.changepoints import checked_history, drawn_in, rarity, relative_change_pct, robust_scale, segment
from perfkit.stats.machines import SlowRuns, slow_runs
from perfkit.stats.season import LEAST_DAYS, WEEK, WeekdayPattern, days_since_1970, weekday_patterns
from perfkit.stats.shared_noise import (
    BLOCK,
    LEAST_DEVIATIONS,
    LEAST_SERIES,
    MOST_CORRELATION,
    NoiseModel,
    around_levels,
    means_apart,
    products,
    seen_correlation,
    worth_of_others,
)

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
MEDIAN_EFFICIENCY = 0.64
WANDERS = 2.0  # standard errors by which means of blocks lie further apart than neighbouring runs foretell
OF_FEW = 1.5  # standard errors by which few series correlate more than the others
MEDIAN_OF_SQUARE = 0.455  # of a normal value; its standard error, in its own size, is 2.33 / sqrt(count)
EXCESS = 1.6  # of the variance of the median of blocks, over that of so many runs; held by test_watch.py
DF_OF_SD = 1.0  # as DF_PER_RUN, where the correlation is known from many series; both held by test_watch.py
DF_PER_RUN = 0.6  # degrees of freedom of a winsorised standard deviation, for independent runs
HOPELESS = 2.0  # standard deviations: a window that lies nearer is not rare among all orders, and not looked at closer
LOOKS = 1.3  # windows of a look: the chance that it alarms, in chances of one normal value; held by test_watch.py
RENEWED = 14  # runs after which the weekday pattern is estimated anew
SUSPECT = 3.3  # standard deviations of the mean of a window: what lies nearer is no evidence
RENEWED_SCALE = 8  # runs after which the standard deviation for that is estimated anew
LEAST_DISTINCT = 0.5  # of the runs
RUNS_OF_ORDER = 20.0  # that a shape must be worth to relax the test of all orders
SLACK = 1.5  # nats by which evidence falls short of its bound, in histories without a change; held by test_watch.py
CELLS = 1 << 16  # values of the windows that are looked at together
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
class SharedNoise:
    """What several series of the same runs show together of their noise, by what is known before each run.

    The first two have shape ``(n_runs + 1,)``: the lag-1 correlation, and how many independent runs of one series it is
    worth (0: none is known yet).  ``models`` are those of the noise as a whole after each block of runs, ``None`` where
    too few series or runs show it.  ``machines`` say which runs were on another machine, where all series show it.
    """

    correlation: Floats
    worth: Floats
    models: tuple[NoiseModel | None, ...]
    machines: tuple[SlowRuns, ...] = ()


def shared_noise(histories: Sequence[ArrayLike], times: ArrayLike | None = None) -> SharedNoise:
    """What the histories of a scenario, one value per run in each, tell together of their noise.

    Its correlation is the median over all series and blocks of `BLOCK` runs, each around its own level, so that few
    steps have little hold on it.  Series that move together count as fewer: by the participation ratio of their
    correlations.  Where means of half and of whole blocks lie clearly further apart than that foretells (noise that
    wanders), it is the correlation that foretells these.
    """
    every = [np.asarray(values, float) for values in histories]
    if not every:
        return SharedNoise(np.zeros(1), np.zeros(1), (None,))
    models: list[NoiseModel | None] = [None]
    count = len(every[0])
    days = days_since_1970(_checked_times(times, (count,)))
    correlation, worth = np.zeros(count + 1), np.zeros(count + 1)
    seen, together = [list[float]() for _ in every], 0.0
    ends, machines = range(BLOCK, count + 1, BLOCK), list[SlowRuns]()
    patterns = []
    for values in every:
        measured = ~np.isnan(values)
        upto = [int(np.count_nonzero(measured[:end])) for end in ends]
        patterns.append(weekday_patterns(values[measured], days[measured], upto))
    for number_of_block, end in enumerate(ends):
        rows, rests, apart = [], [], []
        usual = [
            values[: end + BLOCK] / (pattern.at(days[: end + BLOCK]) if (pattern := of_ends[number_of_block]) else 1.0)
            for values, of_ends in zip(every, patterns, strict=True)
        ]
        positive = [np.log(np.where(values > 0.0, values, np.nan)) for values in usual if not (values[:end] <= 0).any()]
        found = slow_runs(np.array(positive), end) if len(positive) >= LEAST_SERIES else []
        if machines and machines[-1].are_slow.any() and not found:
            found = [SlowRuns(end, end, np.zeros(len(usual[0]), bool))]
        machines += found
        for own, values in zip(seen, usual, strict=True):
            known = ~np.isnan(values[:end])
            if not known[-BLOCK:].sum() >= LEARN:
                continue
            plain = values[:end][known]
            if found and (plain > 0).all():
                plain = plain / found[0].factors(plain, np.flatnonzero(known))[0]
            plain = np.log(plain) if (plain > 0).all() else plain
            block = plain[-int(known[-BLOCK:].sum()) :]
            rest = block - np.median(block)
            if 0.0 < (sd := _winsorised_sd(rest)) < math.inf:
                rest = np.clip(rest / sd, -CLIP_LEARNED, CLIP_LEARNED)
                rest -= rest.mean()
                own.append(float(seen_correlation(rest[None, :], np.array([len(rest)]))[0]))
                row = np.zeros(BLOCK)
                row[known[-BLOCK:]] = rest / math.sqrt(float(rest @ rest))
                rows.append(row)
                rests.append(around_levels(plain))
                apart.append(means_apart(plain))
        model = None
        if rows:
            of_pairs = np.square(np.asarray(rows) @ np.asarray(rows).T)
            number = len(rows)
            by_chance = number * (number - 1) / (BLOCK - 1)
            together += number * number / (number + max(float(of_pairs.sum()) - number - by_chance, 0.0))
            median = float(np.clip(np.median(np.concatenate(seen)), -MOST_CORRELATION, MOST_CORRELATION))
            worth[end:] = min(MEDIAN_EFFICIENCY * BLOCK * together, _worth_of_all(seen, median))
            # The variance of a long mean over that of independent runs, as it is and as neighbouring runs foretell it
            squares, foretold = np.concatenate(apart), (1.0 + median) / (1.0 - median)
            inflation = float(np.median(squares)) / MEDIAN_OF_SQUARE if squares.size else 0.0
            error = 2.33 / math.sqrt(together * max(squares.size, 1) / sum(map(len, seen)))
            if inflation > foretold * (1.0 + WANDERS * error):
                median = min((inflation - 1.0) / (inflation + 1.0), MOST_CORRELATION)
            correlation[end:] = median
            if together * BLOCK >= LEAST_DEVIATIONS:
                model = NoiseModel.learned(rests, max(median, 0.0), float(worth[end]), models[-1])
        models.append(model if model is not None else models[-1])
    return SharedNoise(correlation, worth, tuple(models), tuple(machines))


def _worth_of_all(seen: Sequence[Sequence[float]], median: float) -> float:
    """How many runs of a series the correlation of others is worth: by how much it clearly differs among them.

    Among most, by a robust scale, or of few from the others, by what lies above.
    """
    known = [(float(np.median(own)), len(own)) for own in seen if own]
    apart = np.array([own for own, _ in known]) - median
    by_chance = float(np.mean([EXCESS * (1.0 - median * median) / (BLOCK * blocks) for _, blocks in known]))
    error = math.sqrt(5.4 / max(len(known) - 1, 1))
    of_most, of_few = robust_scale(apart) ** 2, 2.0 * float(np.mean(np.square(np.maximum(apart, 0.0))))
    between = of_most - (1.0 + error) * by_chance
    if of_few > (1.0 + OF_FEW * error) * by_chance:
        between = max(between, of_few - by_chance)
    return (1.0 - median * median) / between if between > 0.0 else math.inf


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
    shared: SharedNoise | None = None,
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
        What all series of these runs show of their noise (see `shared_noise`); else it is known by this one alone.

    Raises
    ------
    ValueError
        ``alpha`` is out of range, the values are infinite or not one-dimensional, or there are not as many times.
    """
    history, indices = checked_history(values, alpha)
    plain = history[indices]
    days = days_since_1970(_checked_times(times, history.shape))[indices]
    known = None
    if shared is not None:
        models = tuple(shared.models[index // BLOCK] for index in indices)
        known = SharedNoise(shared.correlation[indices], shared.worth[indices], models)
    edges, begin, alarms = [0], 0, list[Alarm]()
    if len(plain) >= LEARN + FIRST_WINDOW:  # it does not speak of early changes, but learns the level after them
        edges += (change.index for change in segment(plain[:LEARN], alpha=EARLY_ALPHA).changes)
    machines = shared.machines if shared is not None else ()
    for until, usual, share in _as_usual(plain, days, indices, machines):
        while (alarm := _next_alarm(usual, edges, begin, alpha, share, known)) is not None:
            begin = alarm.raised_at + 1
            edges.append(alarm.index)
            alarms.append(replace(alarm, raised_at=int(indices[alarm.raised_at]), index=int(indices[alarm.index])))
        begin = until
    least = max(LEARN - len(plain), LEAST_LEVEL - (len(plain) - edges[-1])) + FIRST_WINDOW
    first = int(indices[edges[-1]]) if edges[-1] < len(plain) else len(history)
    return Watch(tuple(alarms), len(plain), first, max(least, 0))


def _as_usual(
    plain: Floats, days: Floats, indices: NDArray[np.intp], machines: Sequence[SlowRuns]
) -> Iterator[tuple[int, Floats, float]]:
    """Parts of a history, each up to a run: the values up to there as on a usual day and machine, by what is known
    before that part, and the share of the variance of a run that is in each factor taken out.
    """
    patterns, begin = list(_known_patterns(plain, days)), 0
    begins = np.searchsorted(indices, [machine.begin for machine in machines])
    for until in sorted({*(until for until, _ in patterns), *(at for at in begins.tolist() if 0 < at < len(plain))}):
        pattern = next(pattern for end, pattern in patterns if until <= end)
        usual = plain[:until] if pattern is None else plain[:until] / pattern.at(days[:until])
        share = WEEK / sum(pattern.runs) if pattern is not None else 0.0
        known = int(np.searchsorted(begins, begin, "right"))
        if known and machines[known - 1].are_slow.any() and (usual > 0).all():
            factors, of_machine = machines[known - 1].factors(usual, indices[:until])
            usual, share = usual / factors, share + of_machine
        yield until, usual, share
        begin = until


def _known_patterns(plain: Floats, days: Floats) -> Iterator[tuple[int, WeekdayPattern | None]]:
    """Parts of a history, each up to a run, and the weekday pattern that the runs before that part show."""
    known, count = None, len(plain)
    looks = range(LEAST_DAYS, count, RENEWED) if not np.isnan(days).any() else ()
    for until, pattern in zip(looks, weekday_patterns(plain, days, looks), strict=True):
        if pattern is not None or known is not None:
            yield until, known
        known = pattern
    yield count, known


def _next_alarm(
    plain: Floats, edges: Sequence[int], begin: int, alpha: float, share: float, shared: SharedNoise | None
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
        begins = max(LEARN, edges[-1] + LEAST_LEVEL, first - LAST_WINDOW + 1)
        modelled = _modelled_from(values, first, shared)
        looks = (
            ((*look, False) for look in _looks(values, edges, begins, first, alpha, share, shared)),
            ((*look, True) for look in _modelled_looks(values, edges, modelled, share, shared)),
        )
        for at, split, p_value, by_model in merge(*looks, key=lambda look: look[0]):
            tests = 1.0 if at < modelled else 2.0  # two tests share the budget
            if tests * p_value > alpha:
                continue
            stretches = [values[a:b] for a, b in pairwise([*edges, split])]
            window = values[split : at + 1]
            of_order = float(_spent(_rarity(stretches, window), at))
            if by_model and shared is not None and (model := shared.models[at - FIRST_WINDOW + 1]) is not None:
                of_order /= max(model.concentration / RUNS_OF_ORDER, 1.0)
            p_value = min(tests * max(p_value, of_order), 1.0)
            if p_value <= alpha:
                before, after = (float(np.median(part)) for part in (plain[edges[-1] : split], plain[split : at + 1]))
                sd = _winsorised_sd(np.concatenate([stretch - np.median(stretch) for stretch in stretches]))
                step = abs(float(np.median(window) - np.median(stretches[-1])))
                distance = step / sd if sd > 0.0 else math.inf
                return Alarm(at, split, before, after, relative_change_pct(before, after), p_value, distance)
    return None


def _modelled_from(values: Floats, first: int, shared: SharedNoise | None) -> int:
    """The first look, at ``first`` or later, that goes by the noise of all series; the length where none does.

    Values that are mostly ties have a shape of their own.
    """
    models = shared.models if shared is not None else ()
    for at in range(max(first, LEARN + FIRST_WINDOW - 1), len(values)) if any(models) else ():
        if models[at - FIRST_WINDOW + 1] is not None:
            return at if len(np.unique(values[:at])) > LEAST_DISTINCT * at else len(values)
    return len(values)


def _modelled_looks(
    values: Floats, edges: Sequence[int], begin: int, share: float, shared: SharedNoise | None
) -> Iterator[tuple[int, int, float]]:
    """Looks at ``begin`` or later, as `_looks`, by the noise of all series."""
    edge = edges[-1]
    first = max(LEARN, edge + LEAST_LEVEL)
    ats = np.arange(max(begin, first + FIRST_WINDOW - 1), len(values))
    if shared is None or not len(ats):
        return
    until = ats - FIRST_WINDOW + 1  # runs that may be of the level
    middles = _running_medians(values[edge : until[-1]], int(until[0]) - edge)
    rest = np.concatenate([values[a:b] - np.median(values[a:b]) for a, b in pairwise(edges)] or [values[:0]])
    renewed = np.flatnonzero((until % RENEWED_SCALE == 0) | (ats == ats[0]))
    sizes = np.abs(_rest(values[: until[-1]], edges, middles[renewed], until[renewed]))
    scales = 1.4826 * _medians(sizes, until[renewed])
    sds = scales[np.searchsorted(renewed, np.arange(len(ats)), "right") - 1]
    padded = np.concatenate([np.full(LAST_WINDOW, np.nan), values])
    windows = sliding_window_view(padded, LAST_WINDOW)[ats + 1][:, ::-1] - middles[:, None]
    sds = np.maximum(sds, 1e-12 * np.abs(middles) + 1e-300)
    drawn = np.clip(np.nan_to_num(windows) / sds[:, None], -CLIP_LEARNED, CLIP_LEARNED)
    far = np.abs(np.cumsum(drawn, 1)) / np.sqrt(np.arange(1, LAST_WINDOW + 1))
    lost = math.sqrt((1.0 - share) / (1.0 + share))
    for i in np.flatnonzero(far[:, FIRST_WINDOW - 1 :].max(1) > SUSPECT).tolist():
        at, model = int(ats[i]), shared.models[until[i]]
        assert model is not None
        inflation = (1.0 + model.correlation) / (1.0 - model.correlation)
        if far[i, FIRST_WINDOW - 1 :].max() < SUSPECT * math.sqrt(inflation):
            continue
        begins = max(first, at - LAST_WINDOW + 1)
        here = np.concatenate([rest, values[edge : at + 1] - middles[i]]) / sds[i]
        here[begins:] *= lost
        spending = (LEARN + SPENDING) / (np.arange(begins, at + 1) + SPENDING) ** 2
        found, split = model.evidence(here, edge, begins, FIRST_WINDOW, spending)
        yield at, split, math.exp(-max(found + SLACK, 0.0))


def _looks(
    values: Floats,
    edges: Sequence[int],
    begins: int,
    first: int,
    alpha: float,
    share: float,
    shared: SharedNoise | None,
) -> Iterator[tuple[int, int, float]]:
    """Looks at ``first`` or later, in their order, that alarm by the first test: where, the run with which their
    strongest window begins (at ``begins`` or later), and p.
    """
    best: dict[int, tuple[float, int]] = {}
    last = len(values) - FIRST_WINDOW + 1
    for begin in range(begins, last, step := max(CELLS // len(values), 1)):
        end = min(begin + step, last)
        splits, ats, strengths = _strengths(values, edges, np.arange(begin, end), share, shared)
        clear = (ats >= first) & (LOOKS * _spent(strengths, ats) <= alpha)
        for split, at, strength in zip(*(each[clear].tolist() for each in (splits, ats, strengths)), strict=True):
            if strength > best.get(at, (0.0, 0))[0]:
                best[at] = (strength, split)
        for at in sorted(best) if end == last else sorted(at for at in best if at < end + FIRST_WINDOW - 1):
            strength, split = best.pop(at)  # no window that begins later ends here
            yield at, split, LOOKS * float(_spent(strength, at))


def _strengths(
    values: Floats, edges: Sequence[int], splits: NDArray[np.intp], share: float, shared: SharedNoise | None
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Windows that begin at these runs: the first and last run of each, and its distance from the level before it as a
    normal z.
    """
    edge, end = edges[-1], int(splits[-1])
    middles = _running_medians(values[edge:end], int(splits[0]) - edge)
    windows = sliding_window_view(np.concatenate([values, np.zeros(LAST_WINDOW)]), LAST_WINDOW)[splits]
    windows = windows - middles[:, None]
    length = np.arange(1, LAST_WINDOW + 1)
    is_there = (length >= FIRST_WINDOW) & (length <= (len(values) - splits)[:, None])
    least = 1e-9 * np.maximum(np.abs(middles), 1e-300)  # of equal runs: any other value is far
    lost = math.sqrt(1.0 - share)
    # Most windows of a quiet history are not far, and half of the digits suffice to see that in half of the time
    unit, centre = max(float(np.ptp(values[:end])), float(least.max()), 1e-300), middles[0]
    about, level = (((each - centre) / unit).astype(np.float32) for each in (values[:end], middles))
    rough = np.maximum(_winsorised_sds(_rest(about, edges, level, splits), splits), least / unit) / lost  # at most
    rows = np.flatnonzero((is_there & _are_far(windows, unit * (0.999 * rough - 1e-6))).any(1))
    splits, counts, windows = splits[rows], splits[rows] - edge, windows[rows]
    rest = _rest(values[:end], edges, middles[rows], splits)
    sd = _noise(rest, splits, least[rows]) / lost
    drawn = _clipped(rest, CLIP_LEARNED * sd)
    level = drawn[:, edge:].sum(1) / counts
    drawn = np.where(np.arange(end) < splits[:, None], drawn - (drawn.sum(1) / splits)[:, None], 0.0)
    none = np.zeros(len(rows))
    pool, worth = (none, none) if shared is None else (shared.correlation[splits], shared.worth[splits])
    rho, worth = _correlation(drawn, splits, pool, worth)
    inflation = (1.0 + rho) / (1.0 - rho)
    runs = splits - len(edges) + 1
    df = DF_PER_RUN * runs / inflation
    # What is not known of the standard deviation, and of the correlation
    of_sd = (1.0 + rho * rho) / (1.0 - rho * rho) / (DF_OF_SD * runs)
    df = np.where(worth > 0.0, np.maximum(df, 1.0 / (of_sd + 2.0 / (1.0 - rho * rho) / (splits + worth))), df)
    row, column = np.nonzero(is_there[rows] & _are_far(windows, sd))
    length, means = length[column].astype(float), _means(windows, sd, row, column)
    sd, rho, inflation, df = sd[row], rho[row], inflation[row], df[row]
    of_window = inflation - 2.0 * rho * (1.0 - rho**length) / (length * (1.0 - rho) ** 2)  # mean of so few AR(1) values
    of_window += share * np.maximum(1.0 - length / WEEK, 0.0)  # errors of a pattern cancel over whole weeks
    with np.errstate(over="ignore"):  # after nothing but zeros
        t = (means - level[row]) / (sd * np.sqrt(of_window / length + inflation / counts[row]))
        # The normal value that is as rare as this t (Wallace 1959, doi:10.1214/aoms/1177706093)
        strength = np.sqrt(df * np.log1p(t * t / df)) * (8.0 * df + 1.0) / (8.0 * df + 3.0)
    return splits[row], splits[row] + column, strength


def _rest(values: NDArray[Any], edges: Sequence[int], middles: NDArray[Any], splits: NDArray[np.intp]) -> NDArray[Any]:
    """The runs less their level: a row for each split, 0 from there on, the level before it being its middle."""
    edge, first = edges[-1], int(splits[0]) if len(splits) else len(values)
    rest = np.empty((len(splits), len(values)), values.dtype)
    for a, b in pairwise(edges):
        rest[:, a:b] = values[a:b] - np.median(values[a:b])
    np.subtract(values[edge:], middles[:, None], out=rest[:, edge:])
    rest[:, first:] *= np.arange(first, len(values)) < splits[:, None]
    return rest


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


def _means(windows: Floats, sd: Floats, row: NDArray[np.intp], column: NDArray[np.intp]) -> Floats:
    """Of the runs up to a column in a row; each counts no more than `CLIP`, or than what over three quarters reach."""
    limit, count = CLIP * sd, column + 1
    means: Floats = np.cumsum(_clipped(windows, limit), 1)[row, column] / count
    for side in (1.0, -1.0):
        reaching = np.cumsum(side * windows > limit[:, None], 1)[row, column]
        if (further := np.flatnonzero(reaching >= count - column // 4)).size:
            at, size, least = row[further], count[further], -limit[row[further], None]
            part = np.where(np.arange(LAST_WINDOW) < size[:, None], side * windows[at], np.inf)
            reached = np.sort(part, 1)[np.arange(len(part)), (size - 1) // 4]
            total = np.where(part < np.inf, np.clip(part, least, reached[:, None]), 0.0).sum(1)
            means[further] = side * total / size
    return means


def _are_far(windows: Floats, sd: Floats) -> NDArray[np.bool_]:
    """Whether half of the runs up to each lie far on one side."""
    limit = FAR * sd[:, None]
    far = np.maximum(np.cumsum(windows > limit, 1), np.cumsum(windows < -limit, 1))
    are_far: NDArray[np.bool_] = far >= np.maximum(LEAST_FAR, np.arange(1, windows.shape[1] + 1) / 2.0)
    return are_far


def _noise(rest: NDArray[Any], counts: NDArray[np.intp], least: Floats) -> Floats:
    """Standard deviation of the so many values of each row, 0 where there is none; at least so much.

    Heavy tails add to the noise of a window what they add to that of the runs learned from.
    """
    sd = np.maximum(_winsorised_sds(rest, counts), least)
    drawn = _clipped(rest, CLIP * sd)
    off = drawn.sum(1) / counts
    noise: Floats = np.maximum(sd, np.sqrt(np.maximum(products(drawn, drawn) / counts - off * off, 0.0)))
    return noise


def _clipped(rows: Floats, limit: Floats) -> Floats:
    """At most so far from 0, a limit for each row."""
    limit = limit[:, None].astype(rows.dtype)
    clipped: Floats = np.clip(rows, -limit, limit)
    return clipped


def _medians(rows: Floats, counts: NDArray[np.intp]) -> Floats:
    """Of each row the median of so many largest values."""
    ordered, number, width = np.sort(rows, 1), np.arange(len(rows)), rows.shape[1]
    middles: Floats = (ordered[number, width - 1 - counts // 2] + ordered[number, width - (counts + 1) // 2]) / 2.0
    return middles


def _running_medians(values: Floats, first: int) -> Floats:
    """Of so many values, and of each one more."""
    ordered, middles = sorted(values[: first - 1].tolist()), []
    for count, value in enumerate(values[first - 1 :].tolist(), first):
        insort(ordered, value)
        middles.append((ordered[(count - 1) // 2] + ordered[count // 2]) / 2.0)
    return np.array(middles)


def _winsorised_sd(rest: Floats) -> float:
    return float(_winsorised_sds(rest[None, :], np.array([len(rest)]))[0])


def _winsorised_sds(rest: Floats, counts: NDArray[np.intp]) -> Floats:
    """Winsorised standard deviation of the so many values of each row, 0 where there is none; 0.95 is the variance that
    Gaussian values keep.
    """
    size = np.abs(rest)
    scale = 1.4826 * _medians(size, counts)
    drawn = np.minimum(size, np.where(scale > 0.0, 2.5 * scale, np.inf)[:, None])
    sds: Floats = np.sqrt(products(drawn, drawn) / counts / np.where(scale > 0.0, 0.95, 1.0))
    return sds


def _correlation(centred: Floats, counts: NDArray[np.intp], pool: Floats, worth: Floats) -> tuple[Floats, Floats]:
    """Lag-1 correlation of each row, shrunk towards what others show (`pool`, worth so many runs) and a prior.

    With it what others are worth, which is less where a row clearly differs from them.
    """
    seen = seen_correlation(centred, counts)
    worth = worth_of_others(seen, counts, pool, worth)
    total = counts * seen + PRIOR_CORRELATION_RUNS * PRIOR_CORRELATION + worth * pool
    correlation: Floats = np.clip(total / (counts + PRIOR_CORRELATION_RUNS + worth), 0.0, MOST_CORRELATION)
    return correlation, worth


def _spent(strength: Floats | float, at: NDArray[np.intp] | int) -> Floats:
    """The budget for the whole history at which a look at this run alarms at this strength."""
    share = (LEARN + SPENDING) / (at + SPENDING) ** 2  # sums to one over all looks from LEARN on
    spent: Floats = 2.0 * ndtr(-np.asarray(strength)) / share
    return spent
