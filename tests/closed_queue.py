"""A closed queue whose truth is known: users think, call a service with a few workers, and wait for the answer.

Thinking and service are exponential, so throughput and the distribution of response times at every number of users have
closed forms (the machine-repairman model; what an arriving user finds is the system with one user less, Reiser &
Lavenberg 1980, doi:10.1145/322186.322195).
"""

from __future__ import annotations

import math
from dataclasses import replace
from heapq import heapify, heapreplace

import numpy as np
import pandas as pd
from samples import EPOCH
from scipy.special import gammaincc, gammaln

from perfkit import LoadProfile, run_from_requests
from perfkit.stats.capacity import LoadPath
from perfkit.stats.summary import RequestArrays

SERVICE_S, WORKERS, THINK_S = 0.1, 8, 0.4


def ramp(rng, *, users=100, seconds=200.0, service_s=SERVICE_S, workers=WORKERS, hold=0.0, think_s=THINK_S):
    """Users added evenly over ``seconds``, then held: (path of the load, requests that ended in time)."""
    spawned = [seconds * user / users for user in range(users)]
    end_s = seconds + hold
    waking = list(spawned)
    heapify(waking)
    free = [0.0] * workers
    starts, ends = [], []
    draws = iter(rng.exponential(size=1_000_000))
    while (now := waking[0]) < end_s:
        done = max(now, free[0]) + service_s * next(draws)
        heapreplace(free, done)
        heapreplace(waking, done + think_s * next(draws))
        if done <= end_s:
            starts.append(now)
            ends.append(done)
    start = np.array(starts)
    clock = np.arange(math.ceil(end_s) + 1.0)
    path = LoadPath(clock, np.searchsorted(spawned, clock, side="right").astype(float))
    latency = 1000.0 * (np.array(ends) - start)
    return path, RequestArrays(start, latency, np.zeros(start.size, bool))


def _states(users, service_s, workers, think_s):
    """Probability of 0, 1 ... ``users`` requests at the service."""
    n = np.arange(users + 1)
    served = np.cumsum(np.log(np.minimum(np.maximum(n, 1), workers)))
    logs = gammaln(users + 1) - gammaln(users - n + 1) - served + n * math.log(service_s / think_s)
    p = np.exp(logs - logs.max())
    return p / p.sum()


def throughput(users, *, service_s=SERVICE_S, workers=WORKERS, think_s=THINK_S):
    """Requests per second of so many users in equilibrium."""
    p = _states(users, service_s, workers, think_s)
    return float(p @ np.minimum(np.arange(users + 1), workers)) / service_s


def share_slower(users, limit_s, *, service_s=SERVICE_S, workers=WORKERS, think_s=THINK_S):
    """Share of requests that take longer than ``limit_s`` in equilibrium."""
    p = _states(users - 1, service_s, workers, think_s)
    own = math.exp(-limit_s / service_s)
    rate = workers / service_s
    total = 0.0
    for n, weight in enumerate(p):
        if n < workers:
            total += weight * own
        else:  # wait of Erlang(n - workers + 1, rate), then the service itself; integrated over the wait
            k = n - workers + 1
            grid = np.linspace(0.0, limit_s, 801)
            density = np.exp(k * math.log(rate) + (k - 1) * np.log(np.maximum(grid, 1e-12)) - rate * grid - gammaln(k))
            inside = np.trapezoid(density * np.exp(-(limit_s - grid) / service_s), grid)
            total += weight * (float(gammaincc(k, rate * limit_s)) + inside)
    return total


def true_capacity(limit_s, share, **queue):
    """The number of users, between two whole ones, at which that share of requests is slower than ``limit_s``."""
    users = np.arange(1, 200)
    slower = [share_slower(int(n), limit_s, **queue) for n in users]
    return float(np.interp(share, slower, users))


def stored_ramp(store, rng, *, begin=EPOCH, users_known=True, name="api", **queue):
    """A ramp kept in a store as perfkit keeps its own; returns the id of the run."""
    path, requests = ramp(rng, **queue)
    frame = pd.DataFrame({"start": begin + requests.start_s, "service": name, "failed": requests.failed})
    run = run_from_requests(frame.assign(response_time_ms=requests.response_time_ms), scenario="ramp")
    run_id = store.add(replace(run, profile=LoadProfile("ramp", int(path.load.max()), None, None)))
    if users_known:
        folder = store.folder / run_id / "source"
        folder.mkdir()
        rows = [f"{begin + t:.3f},{int(n)},5.0,0,0" for t, n in zip(path.time_s, path.load, strict=True)]
        (folder / "generator.csv").write_text("\n".join(["time,users,cpu_pct,requests,failures", *rows, ""]))
    return run_id
