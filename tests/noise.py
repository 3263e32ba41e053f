"""Kinds of noise that histories of performance tests have: mean about 0, standard deviation about 1."""

import numpy as np


def correlated(rng, count, rho):
    shocks = rng.normal(size=count + 50)
    values = np.zeros(count + 50)
    for i in range(1, count + 50):
        values[i] = rho * values[i - 1] + shocks[i]
    return values[50:] * np.sqrt(1.0 - rho * rho)


def _with_outliers(rng, count):
    spikes = (rng.random(count) < 0.03) * rng.choice([-1.0, 1.0], count) * rng.uniform(5.0, 10.0, count)
    return rng.normal(size=count) + spikes


def _log_normal(rng, count):
    return (rng.lognormal(0.0, 0.5, count) - np.exp(0.125)) / np.sqrt((np.exp(0.25) - 1.0) * np.exp(0.25))


def _bimodal(rng, count):
    values = np.where(rng.random(count) < 0.3, 1.0, -1.0) + rng.normal(0.0, 0.4, count)
    return values + 0.4  # standard deviation of the mixture: sqrt(0.84 + 0.16)


NOISE = {
    "normal": lambda rng, count: rng.normal(size=count),
    "t3": lambda rng, count: rng.standard_t(3, size=count) / np.sqrt(3.0),
    "ar(0.4)": lambda rng, count: correlated(rng, count, 0.4),
    "outliers": _with_outliers,
    "log-normal": _log_normal,
    "bimodal": _bimodal,
}
WATCHED = {name: NOISE[name] for name in ("normal", "t3", "outliers")} | {
    "ar(0.3)": lambda rng, count: correlated(rng, count, 0.3)
}
