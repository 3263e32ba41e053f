"""Histories of a nightly load test with a known truth: small runs, quickly made, that vary between themselves."""

import numpy as np
from samples import plain_stats, run

from perfkit import RunStore
from perfkit.config.policy import Policy
from perfkit.history.gate import judge_history
from perfkit.history.run_selector import HistoryContext


def nights(rng, n, *, first=0, sd=0.02, factor=1.0, services=("a",), slow=None, **changes):
    """``n`` runs, the first one number ``first``; ``factor`` slows down the services ``slow`` (all, where ``None``)."""
    runs = []
    for number in range(first, first + n):
        by_name = {}
        for name in services:
            slower = factor if slow is None or name in slow else 1.0
            by_name[name] = plain_stats(
                20.0 * slower * np.exp(rng.normal(0, sd)), rps=50.0 * np.exp(rng.normal(0, sd)), count=5000, failures=5
            )
        runs.append(run(by_name, number=number, **changes))
    return runs


def stored(folder, *groups):
    """A store with these runs, and their ids."""
    store = RunStore(folder)
    return store, [store.add(one) for group in groups for one in group]


def against_history(runs, tmp_path):
    store = RunStore(tmp_path)
    for one in runs[:-1]:
        store.add(one)
    return judge_history(runs[-1:], HistoryContext(store, candidates=tuple(runs[-1:])), Policy())


def fails(comparison):
    """Whether an alert of the history is a reason to object."""
    return any(alert["fails"] for alert in comparison.history.document["alerts"])
