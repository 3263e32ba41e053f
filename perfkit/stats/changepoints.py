"""Where the level of a history of runs changed: steps with their size, beside what is no step: spikes and drift.

Candidates come from optimal partitioning (Jackson et al. 2005, doi:10.1109/LSP.2001.838216) with a squared-error cost
on winsorised values.  They are then removed one by one, the weakest first, until each that is left is beyond chance.
How strong one is, is the difference of the levels beside it in standard errors, less ``sqrt(2 log(e n / L))`` for a
shorter side of L runs: short stretches have more places to occur by chance (Dümbgen & Spokoiny 2001,
doi:10.1214/aos/996986504).  The standard error is widened by the lag-1 correlation of the history.

What is left must also be beyond what random orders of the same values show, so that runs on two kinds of machine, rare
slow ones, ties or zeros make no change: a test of exchangeability first of the whole history, then of the parts between
changes (as E-divisive does it; Matteson & James 2014, doi:10.1080/01621459.2013.849605).  Runs whose order says nothing
are exchangeable: a stretch of w of them is a sample of w values drawn without replacement from all, whatever their
distribution is.  The tail of the sum of such a sample (`rarity`) comes from a double saddlepoint approximation
(Robinson 1982, doi:10.1111/j.2517-6161.1982.tb01191.x; Booth & Butler 1990, doi:10.1093/biomet/77.4.787), which is as
good at 1e-8 as at 0.01 and needs no random orders: the same answer each time.  It can be no rarer than one of all
``n! / (w! (n - w)!)`` samples: five runs slower than all of 20 before them are no rarer than 1 in 53,130.

Assumes that the noise is about alike on all levels (on the log scale where all values are positive) and correlated as
in an AR(1) process of at most 0.8, *or* that runs are exchangeable whatever their distribution is.  Its limit: steps of
less than 1.5 noise standard deviations, and stretches of fewer than `LEAST_RUNS` runs, are mostly missed; where runs
are both of two kinds and correlated (the same machine several nights in a row), nothing is promised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, expit, log_ndtr, ndtr, ndtri, ndtri_exp

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats


LEAST_RUNS = 3  # of a level: one or two strange runs are outliers
CLIP = 2.5  # noise standard deviations beyond which a value counts no more than that
HALF_WINDOW = 3  # runs on either side of the running median
OUTLIER = 4.5  # robust standard deviations from its level
LEAST_LEVELS_OF_A_WALK = 5  # fewer may be steps under correlated noise
PENALTY = 2.0  # of a candidate, times log n: one candidate in ten histories without a change; the strength test decides
PRIOR_RUNS = 10.0  # by which the noise of the whole history counts in that of two neighbouring levels
PRIOR_CORRELATION, PRIOR_CORRELATION_RUNS = 0.25, 80.0
MOST_CORRELATION = 0.8
IN_PARTS = 2.5  # times alpha is enough for a change beside another: the history is known to change
MOST_STRETCHES = 4  # of those between changes, held against all orders: the clearest
LONGEST = 20_000  # beyond, blocks of runs are searched first, because the search takes quadratic time
_BLOCKS = 8_000
_CELLS = 1 << 15  # values of histories of one length that are searched together
# p = exp(-(a + b t + t^2 / 2)) of the strongest change in a history without any; test_changepoints.py holds it to
# its word under Gaussian, t3, AR(0.4), log-normal and bimodal noise and outliers
_TAIL = (1.5, 0.45)


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """The first run of a new level.

    Parameters
    ----------
    index
        Of that run, from 0, among the values given (missing ones count).
    before, after
        Levels beside it: means of the winsorised values, in the unit of the values.
    change_pct
        From `before` to `after` in percent of the absolute value of `before`; infinite from zero.
    ci_low, ci_high
        95 % interval of `change_pct`, as if the place had been known beforehand.
    p_value
        Chance of a change this strong anywhere in a history of this length without any.
    """

    index: int
    before: float
    after: float
    change_pct: float
    p_value: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True)
class Drift:
    """A stretch, from the run `begin` up to and without the run `end`, that moves steadily: a line fits it better."""

    begin: int
    end: int
    before: float
    after: float

    @property
    def change_pct(self) -> float:
        """From its begin to its end, in percent."""
        return relative_change_pct(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a history is made of.

    ``outliers`` are indices of single strange runs.  ``levels`` has one value per stretch between changes, oldest
    first: one more than there are changes, none when there are no values.
    """

    changes: tuple[ChangePoint, ...] = ()
    outliers: tuple[int, ...] = ()
    drifts: tuple[Drift, ...] = ()
    levels: tuple[float, ...] = ()
    noise_sd: float = 0.0  # of one run around its level, in the unit of the values
    correlation: float = 0.0  # of neighbouring runs
    wanders: bool = False  # seasons or a walk, which steps would describe worse than each run the next one does


def find_change_points(values: ArrayLike, *, alpha: float = 0.01) -> tuple[ChangePoint, ...]:
    """The runs at which the level of a history changed, oldest first; empty when it did not.

    Parameters
    ----------
    values
        One value per run, oldest first, shape ``(n_runs,)``; any unit, ``NaN`` where a run has none.
    alpha
        Chance, in (0, 0.5], that a history without a change shows any.

    Raises
    ------
    ValueError
        ``alpha`` is out of range, or the values are infinite or not one-dimensional.

    Examples
    --------
    >>> [change.index for change in find_change_points([10, 11, 10, 11, 10, 11, 15, 16, 15, 16, 15, 16])]
    [6]
    """
    return segment(values, alpha=alpha).changes


def checked_history(values: ArrayLike, alpha: float) -> tuple[Floats, NDArray[np.intp]]:
    """The values of a history, and the places of those that are known; ``ValueError`` names what is out of range."""
    history = np.asarray(values, float)
    if history.ndim != 1 or np.isinf(history).any():
        raise ValueError(f"values: expected finite numbers in one dimension, got shape {history.shape}")
    if not 0.0 < alpha <= 0.5:
        raise ValueError(f"alpha: must be above 0 and at most 0.5, got {alpha!r}")
    return history, np.nonzero(~np.isnan(history))[0]


def segment(values: ArrayLike, *, alpha: float = 0.01) -> Segmentation:
    """Steps, spikes and drift of a history; parameters as of `find_change_points`."""
    return segment_many([(values, alpha)])[0]


def segment_many(tasks: Sequence[tuple[ArrayLike, float]]) -> list[Segmentation]:
    """`segment` of many histories, each with its alpha: their candidates are found together, in less time."""
    checked = [checked_history(values, alpha) for values, alpha in tasks]
    histories = [_Series.of(history[indices]) for history, indices in checked if indices.size]
    searched = zip(histories, _candidates(histories), strict=True)
    return [
        _segmented(*next(searched), history, indices, alpha) if indices.size else Segmentation()
        for (history, indices), (_, alpha) in zip(checked, tasks, strict=True)
    ]


def _segmented(
    series: _Series, candidates: Sequence[int], history: Floats, places: NDArray[np.intp], alpha: float
) -> Segmentation:
    """A history whose values are at these places."""
    plain = history[places]
    edges, of_order = series.edges(candidates, alpha)
    drifts, edges = _drifts(series, edges)
    wanders = _wanders(series, edges)
    edges = [0, len(plain)] if wanders else edges
    where = [int(place) for place in places] + [len(history)]
    return Segmentation(
        tuple(series.change(edges, i, where[edges[i]], of_order) for i in range(1, len(edges) - 1)),
        tuple(where[i] for i in series.outliers(edges)),
        tuple(Drift(where[begin], where[end], first, last) for begin, end, first, last in drifts),
        tuple(float(series.back(series.mean(a, b))) for a, b in pairwise(edges)),
        float(plain.std() if len(plain) < 3 else series.noise_sd(edges, plain)),
        series.correlation,
        wanders,
    )


def median(values: Floats) -> float:
    """Of values without gaps, at least one: `np.median` in a fifth of the time where they are few hundred."""
    middle = len(values) // 2
    lower = middle - 1 + len(values) % 2
    ordered = np.partition(values, (lower, middle))
    return float(ordered[lower] + ordered[middle]) / 2.0


def robust_scale(rest: Floats) -> float:
    """Median absolute deviation, as that of normal values; 0 of none."""
    return 1.4826 * median(np.abs(rest).ravel()) if rest.size else 0.0


def winsorise(values: Floats) -> tuple[Floats, float]:
    """Values drawn in to `CLIP` noise standard deviations around their running median, and that standard deviation.

    The noise is the median absolute difference of neighbours, which a few steps and spikes leave alone.
    """
    steps = np.diff(values)
    sd = robust_scale(steps) / math.sqrt(2.0)
    if sd == 0.0:  # over half of the neighbours are equal
        sd = math.sqrt(float(np.mean(steps * steps)) / 2.0)
    if sd == 0.0:
        return values, 0.0
    half = min(HALF_WINDOW, (len(values) - 1) // 2)
    padded = np.concatenate([values[half:0:-1], values, values[-2 : -half - 2 : -1]])
    middle = np.partition(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), half, axis=1)[:, half]
    return middle + np.clip(values - middle, -CLIP * sd, CLIP * sd), sd


def lag_one_correlation(values: Floats) -> float:
    """Of neighbouring runs, from differences over one and two runs, on which steps have little hold.

    In an AR(1) process ``var(x[t+2] - x[t]) / var(x[t+1] - x[t]) = 1 + rho``.  Shrunk, because few runs tell little.
    """
    single, double = _clipped_variance(np.diff(values)), _clipped_variance(values[2:] - values[:-2])
    seen = double / single - 1.0 if single > 0 else 0.0
    count = len(values)
    shrunk = (count * seen + PRIOR_CORRELATION_RUNS * PRIOR_CORRELATION) / (count + PRIOR_CORRELATION_RUNS)
    return min(max(shrunk, 0.0), MOST_CORRELATION)


def _clipped_variance(steps: Floats) -> float:
    if not steps.size:
        return 0.0
    size = np.abs(steps - median(steps))
    scale = robust_scale(size)
    return float(np.mean(np.square(np.minimum(size, 2.5 * scale) if scale > 0 else size)))


@dataclass(frozen=True, slots=True)
class _Series:
    """A history without gaps, ready to be asked for the levels and the noise of its stretches in constant time."""

    values: Floats  # on the scale of the test, winsorised
    raw: Floats  # on the scale of the test
    is_log: bool
    sd: float
    correlation: float
    sums: list[float]
    squares: list[float]

    @classmethod
    def of(cls, plain: Floats) -> _Series:
        is_log = bool((plain > 0).all())
        raw = np.log(plain) if is_log else plain
        drawn, sd = winsorise(raw) if len(raw) > 2 else (raw, 0.0)
        centred = drawn - drawn.mean()
        sums = [0.0, *np.cumsum(centred).tolist()]
        squares = [0.0, *np.cumsum(centred * centred).tolist()]
        return cls(drawn, raw, is_log, sd, lag_one_correlation(drawn) if sd > 0 else 0.0, sums, squares)

    def edges(self, candidates: Sequence[int], alpha: float) -> tuple[list[int], float]:
        """0, the changes that are beyond chance, and the length; the chance that a random order shows as much."""
        count = len(self.values)
        edges = [0, *candidates, count]
        while len(edges) > 2:
            strengths = self.strengths(edges)
            i = int(np.argmin(strengths)) + 1
            a, b, c = edges[i - 1 : i + 2]
            # Without any noise to go by, a step is as unlikely as that order of its values
            has_noise = self.scatter(a, b) + self.scatter(b, c) > 0.0
            is_long = has_noise or math.log(c - a) - float(_log_choose(c - a, b - a)) <= math.log(alpha)
            if is_long and chance(strengths[i - 1], count) <= alpha:
                break
            del edges[i]
        return self._beyond_order(self._past_spikes(edges), alpha, IN_PARTS * alpha)

    def _beyond_order(self, edges: list[int], alpha: float, in_parts: float) -> tuple[list[int], float]:
        """The changes that random orders of the same values would not show, whatever the distribution of these is.

        By binary segmentation: where the whole is beyond chance, its clearest change is kept and both sides are asked.
        """
        if len(edges) == 2:
            return edges, 1.0
        p_value, suspects = self._chance_of_order(edges)
        if p_value > alpha:
            return [edges[0], edges[-1]], p_value
        strengths = self.strengths(edges)
        at = max(suspects, key=lambda i: strengths[i - 1])
        left, _ = self._beyond_order(edges[: at + 1], in_parts, in_parts)
        right, _ = self._beyond_order(edges[at:], in_parts, in_parts)
        return left[:-1] + right, p_value

    def _chance_of_order(self, edges: Sequence[int]) -> tuple[float, list[int]]:
        """Chance that a random order of these values shows as much, and the positions of the edges that show it.

        The rarest stretch between any two edges is held against all stretches of all orders; where many changes leave
        none rare, the number of turns from high values to low ones and back is.
        """
        begin, count, last = edges[0], edges[-1] - edges[0], len(edges) - 1
        scores = drawn_in(self.raw[begin : edges[-1]])
        sums = np.concatenate([[0.0], np.cumsum(scores)])[np.asarray(edges) - begin]
        # A stretch up to the end is the complement of one from the begin
        pairs = np.array([(i, j) for i in range(last) for j in range(i + 1, last)])
        sizes = np.asarray(edges)[pairs[:, 1]] - np.asarray(edges)[pairs[:, 0]]
        totals = sums[pairs[:, 1]] - sums[pairs[:, 0]]
        penalties = np.array([_penalty(count, min(size, count - size)) for size in sizes.tolist()])
        rough = np.abs(totals) / np.sqrt(np.mean(scores * scores) * sizes * (1.0 - sizes / count)) - penalties
        best, suspects = chance_of_few_turns(scores), list(range(1, last))
        kept = np.argsort(-rough)[:MOST_STRETCHES]
        for k, z in zip(kept, np.abs(rarity(scores, sizes[kept], totals[kept])), strict=True):
            i, j = (int(at) for at in pairs[k])
            of_any = 2.0 * float(ndtr(-z)) * rivals(count, float(z), anywhere=i > 0)
            p_value = min(chance(float(z - penalties[k]), count), 2.0 * of_any)
            if p_value < best:
                best, suspects = p_value, [at for at in (i, j) if at > 0]
        return best, suspects

    def _past_spikes(self, edges: list[int]) -> list[int]:
        """A level begins with its first ordinary run, not with a spike that belongs to neither side."""
        moved = list(edges)
        for i in range(1, len(edges) - 1):
            a, b, c = edges[i - 1 : i + 2]
            low, high = sorted((median(self.raw[a:b]), median(self.raw[b:c])))
            reach = max(OUTLIER * self.sd, high - low)
            while c - moved[i] > LEAST_RUNS and not low - reach <= self.raw[moved[i]] <= high + reach:
                moved[i] += 1
        return moved

    def mean(self, a: int, b: int) -> float:
        """Level of a stretch, on the scale of the test."""
        return (self.sums[b] - self.sums[a]) / (b - a) + float(self.values.mean())

    def scatter(self, a: int, b: int) -> float:
        """Sum of squares of a stretch around its level."""
        total = self.sums[b] - self.sums[a]
        return max(self.squares[b] - self.squares[a] - total * total / (b - a), 0.0)

    def variance(self, edges: Sequence[int]) -> float:
        """Of one run around its level, over the whole history."""
        inside = sum(self.scatter(a, b) for a, b in pairwise(edges))
        return inside / max(edges[-1] - len(edges) + 1, 1)

    def error(self, a: int, b: int, c: int, variance: float) -> float:
        """Standard error of the difference of the levels of two neighbouring stretches."""
        left, right = b - a, c - b
        pooled = (PRIOR_RUNS * variance + self.scatter(a, b) + self.scatter(b, c)) / (PRIOR_RUNS + left + right - 2)
        widened = pooled * (1.0 + self.correlation) / (1.0 - self.correlation)
        floor = 1e-12 * float(np.abs(self.raw).max())  # what cancels in sums of squares is no noise
        return max(math.sqrt(widened), floor) * math.sqrt(1.0 / left + 1.0 / right)

    def strengths(self, edges: Sequence[int]) -> list[float]:
        """Of each change, beyond what the length of its shorter side explains."""
        variance = self.variance(edges)
        return [self._strength(edges[i - 1], edges[i], edges[i + 1], variance) for i in range(1, len(edges) - 1)]

    def _strength(self, a: int, b: int, c: int, variance: float) -> float:
        step = (self.sums[c] - self.sums[b]) / (c - b) - (self.sums[b] - self.sums[a]) / (b - a)
        beside = min(b - a, c - b)
        return abs(step) / self.error(a, b, c, variance) - _penalty(len(self.values), beside)

    def change(self, edges: Sequence[int], i: int, index: int, of_order: float) -> ChangePoint:
        a, b, c = edges[i - 1 : i + 2]
        variance = self.variance(edges)
        before, after = self.mean(a, b), self.mean(b, c)
        reach = float(ndtri(0.975)) * self.error(a, b, c, variance)
        levels = [float(self.back(value)) for value in (before, after, after - reach, after + reach)]
        change, *ends = (relative_change_pct(levels[0], value) for value in levels[1:])
        p_value = max(chance(self._strength(a, b, c, variance), len(self.values)), of_order)
        return ChangePoint(index, levels[0], levels[1], change, p_value, min(ends), max(ends))

    def back(self, value: float) -> float:
        """From the scale of the test to the unit of the values."""
        return math.exp(value) if self.is_log else value

    def noise_sd(self, edges: Sequence[int], plain: Floats) -> float:
        """In the unit of the values; on the log scale at the last level."""
        sd = math.sqrt(self.variance(edges))
        return sd * float(self.back(self.mean(edges[-2], edges[-1]))) if self.is_log else sd * (plain.size > 1)

    def outliers(self, edges: Sequence[int]) -> list[int]:
        """Single runs far from their level."""
        if self.sd == 0.0:
            return []
        levels = np.concatenate([np.full(b - a, median(self.raw[a:b])) for a, b in pairwise(edges)])
        rest = np.abs(self.raw - levels)
        scale = max(robust_scale(rest), self.sd)
        return [int(i) for i in np.nonzero(rest > OUTLIER * scale)[0]]


def _candidates(histories: Sequence[_Series]) -> list[list[int]]:
    """Of each history the places of the changes that cost less than they explain; none where it is too short."""
    candidates: list[list[int]] = [[] for _ in histories]
    alike: dict[int, list[int]] = {}
    for number, series in enumerate(histories):
        if len(series.values) >= 4 and series.sd > 0.0:
            alike.setdefault(len(series.values), []).append(number)
    for count, numbers in alike.items():
        size = 1 if count <= LONGEST else math.ceil(count / _BLOCKS)
        for begin in range(0, len(numbers), rows := max(_CELLS // count, 1)):
            part = [histories[number] for number in numbers[begin : begin + rows]]
            sums = np.array([series.sums for series in part])
            scale = np.array([[series.sd * math.sqrt(size)] for series in part])
            # The differences from which sd comes are smaller than the noise by the correlation
            penalties = np.array([PENALTY * math.log(count) * (1.0 + series.correlation) for series in part])
            scale = np.maximum(scale, 1e-100 * np.abs(sums).max(1, keepdims=True))  # squares are finite
            found = _optimal(sums[:, : count // size * size + 1 : size] / scale, penalties)
            for number, of_series, changes in zip(numbers[begin : begin + rows], sums, found, strict=True):
                candidates[number] = _refined(of_series, changes, size)
    return candidates


def _optimal(sums: Floats, penalties: Floats) -> list[list[int]]:
    """The segmentation of each row of cumulative sums that costs least, by the squares around its levels and a penalty
    for each change; levels have `LEAST_RUNS` at least.

    PELT (ruptures) is as fast where nothing changes, and its import takes half a second.
    """
    number, count = sums.shape[0], sums.shape[1] - 1
    least = min(LEAST_RUNS, count // 2)
    # Less the sum of all squares: of the best segmentation up to each run, and where its last level begins
    costs, last = np.full((number, count + 1), np.inf), np.zeros((number, count + 1), np.intp)
    costs[:, 0] = 0.0
    weights, room, row = 1.0 / np.arange(count, 0, -1), np.empty((number, count)), np.arange(number)
    for end in range(least, count + 1):
        begins = end - least + 1
        cost = room[:, :begins]
        np.subtract(sums[:, :begins], sums[:, end : end + 1], out=cost)
        np.multiply(cost, cost, out=cost)
        np.multiply(cost, weights[count - end : count - end + begins], out=cost)
        np.subtract(costs[:, :begins], cost, out=cost)
        last[:, end] = at = cost.argmin(1)
        costs[:, end] = cost[row, at] + penalties
    found = []
    for of_row in last.tolist():
        edges = [of_row[count]]
        while edges[-1] > 0:
            edges.append(of_row[edges[-1]])
        found.append(edges[-2::-1])
    return found


def _refined(sums: Floats, changes: Sequence[int], size: int) -> list[int]:
    """Changes between blocks of so many runs, each moved to the best run between its neighbours."""
    edges = [0, *(at * size for at in changes), len(sums) - 1]
    for i in range(1, len(edges) - 1) if size > 1 else ():
        a, c = edges[i - 1], edges[i + 1]
        at = np.arange(a + LEAST_RUNS, c - LEAST_RUNS + 1)
        if at.size:
            left, right = (sums[at] - sums[a]) / (at - a), (sums[c] - sums[at]) / (c - at)
            edges[i] = int(at[np.argmax(np.square(right - left) * (at - a) * (c - at))])
    return edges[1:-1]


def _penalty(count: int, beside: int) -> float:
    """What the many places of a stretch that short let chance reach, in standard deviations."""
    return math.sqrt(2.0 * math.log(math.e * count / beside))


def chance(strength: float, count: int) -> float:
    """Chance that the strongest change in a history of ``count`` runs without any is this strong or stronger."""
    first, second = _TAIL
    if count < 4 or strength <= -second:  # there the curve has its top
        return 1.0
    return math.exp(-(first + second * strength + strength * strength / 2.0))


def _wanders(series: _Series, edges: Sequence[int]) -> bool:
    """Whether an autoregression of order two explains a history better than that many steps do (Schwarz' criterion)."""
    levels = len(edges) - 1
    if levels < LEAST_LEVELS_OF_A_WALK:
        return False
    centred = series.raw - series.raw.mean()
    past = np.column_stack([centred[1:-1], centred[:-2]])
    weights, *_ = np.linalg.lstsq(past, centred[2:], rcond=None)
    of_walk = float(np.mean(np.square(centred[2:] - past @ weights)))
    steps = np.concatenate([series.raw[a:b] - series.raw[a:b].mean() for a, b in pairwise(edges)])
    count = len(steps)
    return count * math.log(of_walk / float(np.mean(steps * steps))) < (2 * levels - 4) * math.log(count)


def _drifts(series: _Series, edges: list[int]) -> tuple[list[tuple[int, int, float, float]], list[int]]:
    """Stairs in one direction that a line fits better than they fit themselves are drift, and their steps go.

    By Schwarz' criterion (1978, doi:10.1214/aos/1176344136): a line has two parameters, k levels 2 k - 1.
    """
    signs = np.sign(np.diff([series.mean(a, b) for a, b in pairwise(edges)]))
    found, kept, i = [], [0], 0
    while i < len(edges) - 1:
        j = i + 1
        while j <= len(signs) and signs[j - 1] == signs[i]:
            j += 1
        a, b, levels = edges[i], edges[j], j - i
        values = series.values[a:b]
        at = np.arange(a, b, dtype=float)
        at -= at.mean()
        slope = float(at @ values) / float(at @ at) if levels > 1 else 0.0
        rest = values - values.mean() - slope * at
        around_line = float(rest @ rest)
        around_steps = sum(series.scatter(first, last) for first, last in pairwise(edges[i : j + 1]))
        is_line = around_line < around_steps
        if min(around_line, around_steps) > 0.0:
            is_line = (b - a) * math.log(around_line / around_steps) < (2 * levels - 3) * math.log(b - a)
        if levels > 1 and is_line:
            first, last = (series.back(float(values.mean() + slope * at[end])) for end in (0, -1))
            found.append((a, b, first, last))
            kept.append(b)
        else:
            kept += edges[i + 1 : j + 1]
        i = j
    return found, kept


def relative_change_pct(before: float, after: float) -> float:
    """In percent of the absolute value of ``before``; infinite from zero."""
    if before == after:
        return 0.0
    return 100.0 * (after - before) / abs(before) if before else math.copysign(math.inf, after - before)


# Rarity among all orders of the same values ---------------------------------------------------------------------------

ORDER_CLIP = 3.5  # robust standard deviations beyond which a value counts no more than that
_STEPS = 60  # of Newton's method; some eight are the rule
_SAME = 1e-9  # scores nearer than that are equal
_LEAST_SLOPE = 1e-3  # below it both corrections of the approximation cancel to nothing


def normal_scores(values: ArrayLike) -> Floats:
    """Normal quantiles of the ranks, centred; equal values share the quantile of the mean of their ranks."""
    every = np.asarray(values, float)
    if every.size == 0:
        return every
    _, first, same = np.unique(every, return_inverse=True, return_counts=True)
    below = np.cumsum(same) - same
    scores: Floats = ndtri((below + same / 2.0) / every.size)[first]
    scores -= scores.mean()
    return scores


def drawn_in(values: ArrayLike) -> Floats:
    """Centred values in robust standard deviations, at most `ORDER_CLIP`; their normal scores where most are equal.

    It depends on what the values are and not on their order, so that orders can be compared by it.
    """
    every = np.asarray(values, float)
    off = every - median(every) if every.size else every
    sd = robust_scale(off)
    if sd <= 1e-9 * float(np.abs(every).max(initial=0.0)):
        return normal_scores(every)
    scores: Floats = np.clip(off / sd, -ORDER_CLIP, ORDER_CLIP)
    scores -= scores.mean()
    return scores


def rarity(scores: Floats, counts: ArrayLike, sums: ArrayLike) -> Floats:
    """Of samples of these sizes and sums: how many standard deviations a normal value as rare lies above its mean.

    Parameters
    ----------
    scores
        All values, centred, shape ``(n,)``; not all equal.
    counts
        Size of each sample, from 1 to n - 1.
    sums
        Its sum; negative ones give negative rarities.

    Notes
    -----
    The values of a sample are independent Bernoulli choices, tilted by ``u + v * score``, given that their number is
    ``count``; u and v are such that number and sum are expected.
    """
    size = len(scores)
    count, total = np.asarray(counts, float), np.abs(np.asarray(sums, float))
    sign = np.where(np.asarray(sums) < 0.0, -1.0, 1.0)
    sided = sign[:, None] * scores[None, :]
    highest, rarest = np.empty(len(sided)), np.empty(len(sided))
    for k, (row, w) in enumerate(zip(sided, count.astype(int).tolist(), strict=True)):
        # The largest sum is as rare as there are few ways to choose it among ties
        ordered = np.sort(row)[::-1]
        same = np.abs(ordered - ordered[w - 1]) <= _SAME
        ways = _log_choose(int(same.sum()), int(same[:w].sum())) - _log_choose(size, w)
        highest[k], rarest[k] = float(ordered[:w].sum()), -ndtri_exp(float(ways))
    gaps = np.diff(np.sort(scores))
    half = float(gaps[gaps > _SAME].min(initial=2.0)) / 2.0  # a tail of a discrete sum begins half a step before it
    is_extreme = total >= highest - half
    total = np.where(is_extreme, 0.0, np.maximum(total - half, 0.0))
    u, v = _saddlepoint(sided, count, total)
    share = count / size
    tilt = u[:, None] + v[:, None] * sided
    chosen = expit(tilt)
    spread = chosen * (1.0 - chosen)
    first, mixed, second = spread.sum(1), (spread * sided).sum(1), (spread * sided * sided).sum(1)
    tilted = np.logaddexp(0.0, tilt).sum(1) - u * count - v * total
    plain = -size * (share * np.log(share) + (1.0 - share) * np.log1p(-share))
    root = np.sqrt(np.maximum(2.0 * (plain - tilted), 0.0))
    slope = v * np.sqrt(np.maximum(first * second - mixed * mixed, 0.0) / (size * share * (1.0 - share)))
    usable = (root > _LEAST_SLOPE) & (slope > _LEAST_SLOPE)
    ratio = np.log(np.where(usable, slope, 1.0) / np.where(usable, root, 1.0))
    rare = np.where(usable, root + ratio / np.where(usable, root, 1.0), root)
    return sign * np.where(is_extreme, rarest, np.clip(rare, 0.0, rarest))


def rivals(size: int, z: float, *, anywhere: bool) -> int:
    """How many stretches of ``size`` runs can be as rare as that at all: anywhere, or only from the first run on.

    That many times the chance of one bounds the chance of any.
    """
    lengths = np.arange(1, size)
    able = _log_choose(size, lengths) >= -log_ndtr(-z) - _SAME
    return int((able * (size - lengths - 1)).sum() if anywhere else able.sum())


def in_two_groups(scores: Floats) -> NDArray[np.bool_]:
    """Which are high, of the two groups that explain most of the scatter (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    ordered = np.sort(scores)
    sizes = np.arange(1, len(scores))
    between = np.square(np.cumsum(ordered - ordered.mean())[:-1]) / (sizes * (len(scores) - sizes))
    high: NDArray[np.bool_] = scores > ordered[int(np.argmax(between))] + _SAME
    return high


def chance_of_few_turns(scores: Floats) -> float:
    """Chance that a random order turns from high values to low ones, and back, as seldom as this or more seldom.

    High and low are those of `in_two_groups`.  Exact (Wald & Wolfowitz 1940, doi:10.1214/aoms/1177731909), whatever
    values are equal.
    """
    above = in_two_groups(scores)
    high, low = int(above.sum()), int((~above).sum())
    if min(high, low) == 0:
        return 1.0
    runs = 1 + int((above[1:] != above[:-1]).sum())
    half = np.arange(1, runs // 2 + 1)
    even = np.log(2.0) + _log_choose(high - 1, half - 1) + _log_choose(low - 1, half - 1)
    k = np.arange(1, (runs - 1) // 2 + 1)
    odd = np.logaddexp(
        _log_choose(high - 1, k) + _log_choose(low - 1, k - 1), _log_choose(high - 1, k - 1) + _log_choose(low - 1, k)
    )
    return float(np.exp(np.concatenate([even, odd]) - _log_choose(high + low, high)).sum())


def _log_choose(size: int, count: ArrayLike) -> Floats:
    """Logarithm of the binomial coefficient; minus infinity where more are to be chosen than there are."""
    chosen = np.asarray(count, float)
    able = chosen <= size
    ways: Floats = -np.log(size + 1.0) - betaln(np.where(able, size - chosen, 0.0) + 1.0, chosen + 1.0)
    return np.where(able, ways, -np.inf)


def _saddlepoint(sided: Floats, count: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Damped Newton: ``u`` and ``v`` of each sample at which its number and its sum are what is expected."""
    size = sided.shape[1]
    share = count / size
    u = np.log(share / (1.0 - share))
    v = total / (size * share * (1.0 - share) * np.mean(sided * sided, axis=1))
    for _ in range(_STEPS):
        chosen = expit(u[:, None] + v[:, None] * sided)
        off, away = chosen.sum(1) - count, (chosen * sided).sum(1) - total
        spread = chosen * (1.0 - chosen)
        first, mixed, second = spread.sum(1), (spread * sided).sum(1), (spread * sided * sided).sum(1)
        area = np.maximum(first * second - mixed * mixed, 1e-300)
        by_u, by_v = (second * off - mixed * away) / area, (first * away - mixed * off) / area
        decrement = np.sqrt(np.maximum(off * by_u + away * by_v, 0.0))
        if float(decrement.max()) < 1e-4:
            break
        damping = np.where(decrement > 0.25, 1.0 + decrement, 1.0)
        u, v = u - by_u / damping, v - by_v / damping
    return u, v
