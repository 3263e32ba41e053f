"""A function for many tasks: in this process, in several of this machine, or on a Dask cluster, by one interface.

A few tasks are under way at a time, so that neither this process nor a scheduler holds all of them twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from perfkit.model.errors import HistoryError, MissingExtra, SettingsError
from perfkit.model.installation import collect_less_garbage, extra_advice

Task = TypeVar("Task")
Result = TypeVar("Result")

CONNECT_S = 10.0
ALIVE_S = 30.0  # without a result, after which the number of workers is asked
AHEAD = 4  # tasks for each worker that are under way or wait for it
_ADDRESS = re.compile(r"((tcp|tls|ucx|wss?)://)?[^\s/]+:\d+")  # Dask itself takes 20 s to give up on another


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    on_result: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """The result of a function for each task, in their order; ``on_result`` gets each one as it is done.

    Runs in so many processes (1: this one), or on the Dask cluster at an address.  ``MissingExtra``: a scheduler is
    named and Dask is not installed.  ``SettingsError``: no Dask scheduler answers at that address.  ``HistoryError``:
    the workers failed.
    """
    results: dict[int, Result] = {}
    if jobs == 1 and scheduler is None:
        for number, task in enumerate(tasks):
            results[number] = function(task)
            on_result(results[number])
        return list(results.values())
    with _dask(scheduler) if scheduler is not None else _processes(jobs) as (executor, workers):
        waiting, under_way = enumerate(tasks), dict[Future[Result], int]()
        limit = AHEAD * workers()
        while True:
            for number, task in islice(waiting, limit - len(under_way)):
                under_way[executor.submit(function, task)] = number
            if not under_way:
                return [results[number] for number in range(len(tasks))]
            done, _ = wait(under_way, ALIVE_S, FIRST_COMPLETED)
            if not done and not workers():
                raise OSError("no worker is left")  # Dask would wait for ever
            for future in done:
                number = under_way.pop(future)
                results[number] = future.result()
                on_result(results[number])


@contextmanager
def _processes(jobs: int) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """An executor, and how many tasks it can run at a time now; what waits at the end is cancelled."""
    executor = ProcessPoolExecutor(jobs, get_context("spawn"), collect_less_garbage)
    try:
        yield executor, lambda: jobs
    except BrokenProcessPool as error:
        raise HistoryError("a worker process was killed (memory?); try fewer with --jobs") from error
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, Callable[[], int]]]:
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise MissingExtra(f"{address}: Dask is not installed; {extra_advice('dask')}") from error
    if not _ADDRESS.fullmatch(address):
        raise SettingsError(f"{address}: no Dask scheduler answers there: write one such as tcp://10.0.0.5:8786")
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, MemoryError) as error:  # another protocol's bytes are read as an enormous length
        raise SettingsError(
            f"{address}: no Dask scheduler answers there ({error}); start one: dask scheduler"
        ) from error
    with client:
        if not client.nthreads():
            raise SettingsError(f"{address}: this Dask scheduler has no workers; start some: dask worker {address}")
        try:
            yield client.get_executor(pure=False), lambda: sum(client.nthreads().values())
        except CancelledError as error:
            raise HistoryError(f"{address}: the connection to the scheduler was lost; begin again") from error
        except (ImportError, OSError, KilledWorker) as error:
            what = f"{address}: the workers failed: {type(error).__name__}: {' '.join(str(error).split())}"
            raise HistoryError(f"{what}; each needs perfkit of this version, and memory") from error
