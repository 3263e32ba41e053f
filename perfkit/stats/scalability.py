"""The Universal Scalability Law: what keeps throughput from growing with the load.

``X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1))`` with lambda the throughput of one user, sigma the share of
work that waits for its turn (contention) and kappa the cost of keeping users consistent with one another (coherence);
Gunther 2007, Guerrilla Capacity Planning, doi:10.1007/978-3-540-31010-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit.stats.summary import Floats

LEAST_LEVELS = 6  # distinct loads, as Gunther advises
LEAST_SPAN = 3.0  # highest over lowest load
_DISTINCT = 0.02  # of the highest load: closer ones are one level
# Which of (1/lambda, sigma/lambda, kappa/lambda) are free; the others are zero, their bound.
_FREE = ((0, 1, 2), (0, 1), (0, 2), (0,))


@dataclass(frozen=True, slots=True)
class ScalabilityFit:
    """The three parameters and the load of the peak, each of shape ``(n_replicates + 1,)``, the estimate first.

    ``peak_load`` is ``sqrt((1 - sigma) / kappa)``: infinite where kappa is 0, the curve then only flattens.
    ``r_squared`` is of throughput, not of its inverse.  ``reason`` says why nothing was fitted.
    """

    lam: Floats
    sigma: Floats
    kappa: Floats
    r_squared: float = float("nan")
    reason: str = ""

    @property
    def peak_load(self) -> Floats:
        """Load at which throughput is highest; infinite where it has no peak."""
        some = self.kappa > 0
        square = np.maximum(1.0 - self.sigma, 0.0) / np.where(some, self.kappa, 1.0)
        peak: Floats = np.where(some | np.isnan(self.kappa), np.sqrt(square), np.inf)
        return peak


def scalability_at(load: Floats, lam: float, sigma: float, kappa: float) -> Floats:
    """Throughput that the law foretells at each load."""
    return lam * load / (1.0 + sigma * (load - 1.0) + kappa * load * (load - 1.0))


def fit_scalability(load: Floats, throughput: Floats, weight: Floats, resampled: Floats) -> ScalabilityFit:
    """Fit the law by least squares of ``N / X(N)``, which is linear in its parameters, with sigma, kappa >= 0.

    Parameters
    ----------
    load, throughput, weight
        One value per window, shape ``(n_windows,)``; ``weight`` is the inverse of the *relative* variance of
        throughput, up to a factor (its number of requests).
    resampled
        Counts of each window in each replicate, the sample itself first.
    """
    nothing = np.full(len(resampled), np.nan)
    known = (throughput > 0) & (load >= 1.0)  # below one user the law says nothing
    n, x, w = load[known], throughput[known], weight[known]
    reason = _unfit(n)
    if reason:
        return ScalabilityFit(nothing, nothing, nothing, reason=reason)
    inverse = n / x
    basis = np.stack([np.ones(n.size), n - 1.0, n * (n - 1.0)])
    weights = resampled[:, known] * w / inverse**2
    theta = _bounded(basis, inverse, weights)
    lam = 1.0 / theta[:, 0]
    sigma, kappa = theta[:, 1] * lam, theta[:, 2] * lam
    left = x - scalability_at(n, float(lam[0]), float(sigma[0]), float(kappa[0]))
    spread = x - np.average(x, weights=w)
    return ScalabilityFit(lam, sigma, kappa, float(1.0 - (w @ left**2) / (w @ spread**2)))


def _unfit(load: Floats) -> str:
    if load.size == 0:
        return "no window with at least one user and a request"
    levels = np.unique(np.round(load / (_DISTINCT * load.max()))).size
    if levels < LEAST_LEVELS:
        return f"{levels} distinct loads; the law needs {LEAST_LEVELS}"
    if load.max() < LEAST_SPAN * load.min():
        span = f"the load goes from {load.min():.3g} to {load.max():.3g} only"
        return f"{span}; the law needs a factor of {LEAST_SPAN:g} or more"
    return ""


def _bounded(basis: Floats, target: Floats, weights: Floats) -> Floats:
    """Weighted least squares with parameters >= 0 for each row of weights: the best of the feasible subsets."""
    scale = basis.max(axis=1)  # the columns differ by orders of magnitude
    basis = basis / scale[:, None]
    gram = np.einsum("bw,iw,jw->bij", weights, basis, basis, optimize=True)
    right = weights @ (basis * target).T
    best, theta = np.full(len(weights), -np.inf), np.full((len(weights), 3), np.nan)
    for free in _FREE:
        part = gram[:, free][:, :, free] + 1e-12 * np.eye(len(free)) * gram[:, :1, :1]
        solved = np.linalg.solve(part, right[:, free, None])[:, :, 0]
        explained = np.einsum("bi,bi->b", solved, right[:, free])
        better = (solved[:, 0] > 0) & (solved[:, 1:] >= 0).all(axis=1) & (explained > best)
        candidate = np.zeros_like(theta)
        candidate[:, free] = solved
        theta[better], best[better] = candidate[better], explained[better]
    result: Floats = theta / scale
    return result
