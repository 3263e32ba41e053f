"""What many series of the same runs show together of their noise, and how much a step in one of them explains.

The series of a scenario have levels and scales of their own; the *shape* of their noise (outliers, heavy tails, two
kinds of machine) and how neighbouring runs correlate are much alike, and known far better from all of them.  The shape
is a mixture of normal densities of given places and widths, whose weights are the most likely ones (see Wang 2007,
doi:10.1111/j.1467-9868.2007.00583.x), of deviations in robust standard deviations, less what the correlation foretells.

`NoiseModel.evidence` weighs a step of unknown size at each of the last runs against none.  Level and scale of
the series are integrated out on both sides over their invariant prior, so that the ratio is a test martingale whatever
they are: in a history of this noise without a step it ever exceeds ``1 / alpha`` with at most the chance alpha (Ville's
inequality; Pérez-Ortiz et al. 2024, doi:10.1214/24-AOS2394), however long the history is.

Assumes that the series are alike in shape.  How far they are is estimated (a Dirichlet prior around the shape of all),
and a series that differs is held against a shape that its own runs have a say in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from perfkit.stats.changepoints import robust_scale

if TYPE_CHECKING:
    from perfkit.stats.summary import Floats

BLOCK = 20  # runs that are taken together
LEAST_SERIES, LEAST_DEVIATIONS = 8, 200  # from which a shape is learned; deviations as independent ones
CLOSE = 1.0  # standard deviations between the level of a block and that of its series: it is the same
CLOSE_BLOCKS = 1.5  # standard deviations between neighbouring blocks: no step lies between
STEP, LEAST_SIDE = 5.0, 4  # standard errors between the two sides of a block that is left out, as there was a step
PRIOR_DEVIATIONS = 20.0  # what a normal shape is worth
FARTHEST = 0.01  # least weight of runs far off, which bounds what a single run can tell
CONCENTRATIONS = (5.0, 15.0, 50.0, 150.0, 1000.0)  # runs that the shape of all is worth in that of one series
CUTS = (-3.0, -1.5, 1.5, 3.0)  # of deviations, between which series are compared
DOUBT = 1.0  # nats by which runs must be likelier to have shares of their own
FAR_OFF = 1e3  # standard deviations
CLEARLY = 1.5  # standard errors by which a series' own correlation is higher than that of all: it counts alone
WORTH_A_LOOK = 3.0  # nats of evidence
MOST_CORRELATION = 0.8
ROUNDS = 20  # of expectation and maximisation, which begin where they ended a block before
_REACH, _BIN = 16.0, 0.1
_GRID = np.arange(-_REACH, _REACH + _BIN / 2.0, _BIN)
_PARTS = [
    *((place, 0.5) for place in np.arange(-4.0, 4.1, 0.5)),
    *((sign * place, 1.0) for place in range(5, 16) for sign in (1.0, -1.0)),
    *((0.0, width) for width in (2.0, 4.0, 8.0, 1.0)),
]
_DENSITIES = np.array(
    [np.exp(-0.5 * ((_GRID - place) / width) ** 2) / width / math.sqrt(2.0 * math.pi) for place, width in _PARTS]
    + [1.0 / (math.pi * 4.0 * (1.0 + (_GRID / 4.0) ** 2))]
)
_NORMAL = np.r_[np.zeros(len(_PARTS) - 1), 1.0 - FARTHEST, FARTHEST]
_LEVELS, _SCALES = np.linspace(-1.0, 1.0, 11), np.linspace(-1.0, 1.0, 7)
_SIZES = np.array([sign * size for size in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0) for sign in (1.0, -1.0)])


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """The shape of the noise of a scenario's series.

    ``weights`` are those of the parts of the mixture, ``correlation`` that of neighbouring runs, and ``worth`` the runs
    of one series that it is worth; ``shares`` are those of the runs between `CUTS`, ``concentration`` the runs that
    the shape is worth beside those of a single series.
    """

    weights: Floats
    correlation: float
    worth: float
    shares: Floats
    concentration: float

    @classmethod
    def learned(
        cls, rests: Sequence[Floats], correlation: float, worth: float, before: NoiseModel | None
    ) -> NoiseModel | None:
        """From the deviations of each series (see `around_levels`); ``before`` is the model of a block ago."""
        shocks = []
        for rest in rests:
            sd = robust_scale(rest)
            if rest.size and sd > 0.0:
                shocks.append(_whitened(rest / sd, correlation)[:, 1:].ravel())
        if len(shocks) < LEAST_SERIES:
            return None
        start = before.weights if before is not None else np.full(len(_DENSITIES), 1.0 / len(_DENSITIES))
        counts = [_counts(rest) for rest in shocks]
        weights = _weights(np.sum(counts, axis=0), start, PRIOR_DEVIATIONS * _NORMAL, ROUNDS)
        coarse = np.array([_coarse(rest) for rest in shocks])
        share = (coarse.sum(0) + 0.5) / (coarse.sum() + 0.5 * coarse.shape[1])
        return cls(weights, correlation, worth, share, _concentration(coarse, share))

    def evidence(self, rest: Floats, begin: int, first: int, least: int, weights: Floats) -> tuple[float, int]:
        """How much more likely the runs are with a step than without, as a logarithm, and where the step begins.

        Parameters
        ----------
        rest
            All runs, less about the level that they have, in about their standard deviations, shape ``(n_runs,)``.
        begin
            The first run of the present level.
        first, least
            Where a step may begin at the earliest, and how many runs it must have.
        weights
            A priori, of each run from ``first`` on at which it may begin.
        """
        own, rho, spread = self.weights, self.correlation, 0.0
        for is_own in (False, True):
            found, at = _weighed(own, rho, spread, rest, begin, first, least, weights)
            if is_own or found < WORTH_A_LOOK:
                break
            sd = robust_scale(rest[:at])
            if not sd:
                return -math.inf, at
            drawn = np.clip(rest[:at] / sd, -2.5, 2.5)
            seen = float(seen_correlation((drawn - drawn.mean())[None], np.array([at]))[0])
            worth = float(worth_of_others(*np.array([[seen], [at], [rho], [self.worth]]))[0])
            rho = min(max((at * seen + worth * rho) / (at + worth), 0.0), MOST_CORRELATION)
            spread = math.sqrt((1.0 - rho * rho) / (at + worth))
            before = _whitened(np.clip(rest[None, :at] / sd, -FAR_OFF, FAR_OFF), rho)[0, 1:]
            alike = _concentration(_coarse(before)[None], self.shares, self.concentration)
            own = _weights(_counts(before), self.weights, alike * self.weights, 3)
        return found, at


def _weighed(
    shape: Floats, rho: float, spread: float, rest: Floats, begin: int, first: int, least: int, weights: Floats
) -> tuple[float, int]:
    """As `NoiseModel.evidence`, of noise of this shape, the correlation known to a standard error of ``spread``."""
    count, density = len(rest), np.log(shape @ _DENSITIES).astype(np.float32)  # half of the digits, and of the time
    drawn = np.clip(rest, -FAR_OFF, FAR_OFF).astype(np.float32)
    levels = min(4.2 * math.sqrt((1.0 + rho) / (1.0 - rho) / (count - begin)), 1.8) * _LEVELS
    scales = min(3.0 / math.sqrt(count), 0.9) * _SCALES
    level, scale = (each.ravel().astype(np.float32) for each in np.meshgrid(levels, scales))
    off = drawn[:, None] * (narrowed := np.exp(-scale))
    off[begin:] = (drawn[begin:, None] - level) * narrowed
    number, sizes = count - least + 1 - first, _SIZES[:, None].astype(np.float32)
    of_step, of_none = [], []
    for node, share in ((-1.732, 1 / 6), (0.0, 2 / 3), (1.732, 1 / 6)) if spread else ((0.0, 1.0),):
        near = min(max(rho + node * spread, 0.0), MOST_CORRELATION)
        lost = math.sqrt(1.0 - near * near)
        less = scale + math.log(lost)
        shock: NDArray[Any] = np.concatenate([off[:1], (off[1:] - near * off[:-1]) / lost])
        plain = _at(density, shock) - less
        none = plain.sum(0, dtype=float)
        of_none.append(math.log(share) + _log_of_sum(none))
        recent = shock[first:, None]
        gained = _at(density, recent - sizes * (1.0 - near) / lost) - less - plain[first:, None]
        at_first = _at(density, recent[:number] - sizes / lost) - less - plain[first : first + number, None]
        with_step = np.cumsum(gained[::-1], 0)[::-1][:number] - gained[:number] + at_first
        with_step += (none - _log_of_sum(none)).astype(np.float32)
        of_step.append(of_none[-1] + _log_of_sum(with_step).astype(float))
    each = np.logaddexp.reduce(of_step) - np.logaddexp.reduce(of_none) - math.log(len(_SIZES))
    each += np.log(weights[:number])[:, None]
    return float(_log_of_sum(each.ravel())), first + int(each.max(1).argmax())


def around_levels(values: Floats) -> Floats:
    """Deviations of a series from its levels, a row for each block of runs without a step, shape ``(n, BLOCK)``."""
    rows, sd, are_level = _blocks(values)
    own, whole = np.median(rows, 1, keepdims=True), float(np.median(rows)) if rows.size else 0.0
    rest = rows - np.where(np.abs(own - whole) <= CLOSE * sd, whole, own)
    kept: Floats = rest[are_level]
    return kept


def means_apart(values: Floats) -> Floats:
    """Squared differences of the means of halves of blocks, and of whole ones that follow each other, in the variance
    that independent runs foretell: on average the variance of a long mean over that of as many independent runs.
    """
    rows, sd, are_level = _blocks(values)
    own = np.median(rows, 1, keepdims=True)
    drawn = np.clip(rows - own, -2.5 * sd, 2.5 * sd)
    means = drawn.mean(1, keepdims=True)
    of_mean = np.maximum(np.square(drawn - means).sum(1) / (BLOCK - 1), 0.01 * sd * sd + 1e-300) / BLOCK
    within = np.square((drawn[:, : BLOCK // 2] - drawn[:, BLOCK // 2 :]).mean(1)) / 4.0
    between = np.diff((own + means)[:, 0])
    is_pair = are_level[1:] & are_level[:-1] & (np.abs(between) < CLOSE_BLOCKS * sd)
    of_pair = of_mean[1:] + of_mean[:-1]
    found: Floats = np.concatenate([(within / of_mean)[are_level], (between**2 / of_pair)[is_pair]])
    return found


def _blocks(values: Floats) -> tuple[Floats, float, NDArray[np.bool_]]:
    """The last runs in rows of `BLOCK`, their robust standard deviation, and which rows have no step in them."""
    rows = values[len(values) % BLOCK :].reshape(-1, BLOCK)
    rest = rows - np.median(rows, 1, keepdims=True)
    sd = max(robust_scale(rest), 1e-300) if rest.size else 1e-300
    sizes = np.arange(LEAST_SIDE, BLOCK - LEAST_SIDE + 1)
    left = np.cumsum(np.clip(rest, -2.5 * sd, 2.5 * sd), 1)
    apart = left[:, sizes - 1] - left[:, -1:] * sizes / BLOCK
    steps = np.abs(apart) / (sd * np.sqrt(sizes * (BLOCK - sizes) / BLOCK))
    return rows, sd, steps.max(1) < STEP


def products(rows: Floats, others: Floats) -> Floats:
    """The scalar product of each row and the other."""
    found: Floats = np.einsum("ij,ij->i", rows, others)
    return found


def seen_correlation(centred: Floats, counts: NDArray[np.intp]) -> Floats:
    """Lag-1 correlation with its small-sample bias undone (Kendall 1954, doi:10.1093/biomet/41.3-4.403)."""
    power, lagged = products(centred, centred), products(centred[:, 1:], centred[:, :-1])
    seen = np.where(power > 0.0, lagged / np.where(power > 0.0, power, 1.0) + 1.0 / counts, 0.0)
    unbiased: Floats = seen + 3.0 * np.maximum(seen, 0.0) / counts
    return unbiased


def worth_of_others(seen: Floats, counts: NDArray[Any], pool: Floats, worth: Floats) -> Floats:
    """How many runs the correlation of others is worth beside that of so many own runs: none if that is higher."""
    found: Floats = np.where(seen - pool > CLEARLY * np.sqrt((1.0 - pool * pool) / counts), 0.0, worth)
    return found


def _whitened(rows: Floats, rho: float) -> Floats:
    """Of each value what the one before does not foretell; the first of a row as it is."""
    return np.hstack([rows[:, :1], (rows[:, 1:] - rho * rows[:, :-1]) / math.sqrt(1.0 - rho * rho)])


def _bins(values: NDArray[Any]) -> NDArray[np.int32]:
    return np.clip(values * (1.0 / _BIN) + (_REACH / _BIN + 0.5), 0.0, len(_GRID) - 1.0).astype(np.int32)


def _at(density: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    return density.take(_bins(values))


def _counts(values: Floats) -> Floats:
    return np.bincount(_bins(values), minlength=len(_GRID)).astype(float)


def _log_of_sum(logs: Floats) -> Floats:
    """Of the exponentials along the last axis (SciPy's function checks more than what is done here takes)."""
    most = logs.max(-1, keepdims=True)
    found: Floats = most[..., 0] + np.log(np.exp(logs - most).sum(-1))
    return found


def _coarse(values: Floats) -> Floats:
    return np.bincount(np.searchsorted(CUTS, values), minlength=len(CUTS) + 1).astype(float)


def _concentration(seen: Floats, share: Floats, most: float = CONCENTRATIONS[-1]) -> float:
    """How many runs these shares are worth in each row of counts; ``most`` unless the rows clearly show less."""
    able, number = np.array([k for k in CONCENTRATIONS if k <= most])[:, None, None], seen.sum(1)
    likely = (gammaln(able[..., 0]) - gammaln(number + able[..., 0])).sum(1)
    likely += (gammaln(seen + able * share) - gammaln(able * share)).sum((1, 2))
    likely[-1] += DOUBT
    return float(able[int(np.argmax(likely)), 0, 0])


def _weights(counts: Floats, start: Floats, prior: Floats, rounds: int) -> Floats:
    """Most likely weights of the parts, given how many values lie in each bin, and what was seen before."""
    weights = start
    for _ in range(rounds):
        share = weights[:, None] * _DENSITIES
        weights = (share / share.sum(0)) @ counts + prior
        weights /= weights.sum()
        weights[-1] = max(weights[-1], FARTHEST)
        weights /= weights.sum()
    return weights
