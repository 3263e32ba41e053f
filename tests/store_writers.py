"""Writers of a store as processes of their own: killed at random points, or many at once.

``python store_writers.py killed URL KILLS SEED LONGEST`` forks a writer, kills it with SIGKILL after a random time (at
most LONGEST seconds), looks at the store, and forks the next.  ``python store_writers.py together PROCESSES URL...``
lets all of them write the same runs at once.  Every id that was reported as stored is printed.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from dataclasses import replace

import numpy as np
from samples import plain_stats, requests, run

from perfkit import RunStore, run_from_requests

FEW = {"GET /items": 20.0}


def numbered(number: int, frame) -> object:
    """A run of its own; every third is only a summary, and each id is shared by two runs."""
    if number % 3 == 0:
        made = run({"a": plain_stats(20.0 + number)}, number=number)
    else:
        made = replace(run_from_requests(frame.assign(start=frame["start"] + number), scenario="api"))
    return replace(made, id=f"20251017T{number // 2:06d}Z-api-0000")


def killed(url: str, kills: int, seed: int, longest: float) -> None:
    import pyarrow.parquet  # noqa: F401 - once, not in every child

    chance = random.Random(seed)
    frame = requests(np.random.default_rng(seed), seconds=2, services=FEW)
    first = 0
    for _ in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            write_on(url, first, frame, writer)
        os.close(writer)
        after = chance.uniform(0.0, longest)
        begin = time.monotonic()
        while (left := begin + after - time.monotonic()) > 0:
            select.select([], [], [], left)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reader) as lines:
            reported = [line.split() for line in lines if line.endswith("\n")]
        for _, run_id in reported:
            print(run_id)
        first = int(reported[-1][0]) + 1 if reported else first
        look(url)


def write_on(url: str, first: int, frame, writer: int) -> None:
    """Store run after run and report each; never returns."""
    store = RunStore(url)
    number = first
    while True:
        run_id = store.add(numbered(number, frame))
        os.write(writer, f"{number} {run_id}\n".encode())
        number += 1


def look(url: str) -> None:
    """What anybody sees of the store is whole."""
    store = RunStore(url)
    if store.broken() or store.no_runs()[1] or (store.folder is not None and store.unfinished()):
        raise SystemExit(f"half visible: {store.broken()} {store.unfinished()} {store.no_runs()[1]}")
    for run_id in store.ids()[-2:]:
        one = store.get(run_id)
        if one.load_requests is not None and len(one.requests()) != one.services["GET /items"].count:
            raise SystemExit(f"half visible: {run_id}")


def together(processes: int, urls: list[str]) -> None:
    frame = requests(np.random.default_rng(1), seconds=2, services=FEW)
    runs = [numbered(number, frame) for number in range(24)]
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            order = [(url, one) for url in urls for one in runs]
            random.Random(number).shuffle(order)
            stores = {url: RunStore(url) for url in urls}
            for url, one in order:
                print(url, stores[url].add(one), flush=True)
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    raise SystemExit(max(codes))


if __name__ == "__main__":
    if sys.argv[1] == "killed":
        killed(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        together(int(sys.argv[2]), sys.argv[3:])
