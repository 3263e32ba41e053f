"""One `concurrent.futures` interface to whatever computes: this process, processes of this machine, or a Dask cluster.

`open_executor` chooses; `parallel_map` keeps a few tasks under way at a time, so that neither this process nor a
scheduler holds all of them twice, and returns the results in the order of the tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from perfkit.model.errors import HistoryError, MissingExtra, SettingsError
from perfkit.model.installation import extra_advice

Task = TypeVar("Task")
Result = TypeVar("Result")

CONNECT_S = 10.0
ALIVE_S = 30.0  # without a result, after which the number of workers is asked
AHEAD = 4  # tasks for each worker that are under way or wait for it
_ADDRESS = re.compile(r"((tcp|tls|ucx|wss?)://)?[^\s/]+:\d+")  # Dask itself takes 20 s to give up on another


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """An executor, and how many tasks it can run at a time now."""

    executor: Executor
    workers: Callable[[], int]


class InlineExecutor(Executor):
    """Runs each task in this process as it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future is done when it is returned; an exception of the task is raised at once."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def open_executor(
    jobs: int = 1, scheduler: str | None = None, *, initializer: Callable[[], None] | None = None
) -> Iterator[WorkerPool]:
    """An executor of so many processes (1: this one), or of the Dask cluster at an address; what waits is cancelled.

    An ``initializer`` prepares each process; with it, a single job has a process of its own too.

    Raises
    ------
    MissingExtra
        A scheduler is named and Dask is not installed.
    SettingsError
        No Dask scheduler answers at that address.
    HistoryError
        The workers failed.
    """
    if scheduler is not None:
        with _dask(scheduler) as pool:
            yield pool
    elif jobs == 1 and initializer is None:
        yield WorkerPool(InlineExecutor(), lambda: 1)
    else:
        executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=initializer)
        try:
            yield WorkerPool(executor, lambda: jobs)
        except BrokenProcessPool as error:
            raise HistoryError("a worker process was killed (memory?); try fewer with --jobs") from error
        finally:
            executor.shutdown(cancel_futures=True)


@contextmanager
def _dask(address: str) -> Iterator[WorkerPool]:
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise MissingExtra(f"{address}: Dask is not installed; {extra_advice('dask')}") from error
    if not _ADDRESS.fullmatch(address):
        raise SettingsError(f"{address}: no Dask scheduler answers there: write one such as tcp://10.0.0.5:8786")
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{address}: no Dask scheduler answers there ({error}); start one: dask scheduler"
        ) from error
    with client:
        if not client.nthreads():
            raise SettingsError(f"{address}: this Dask scheduler has no workers; start some: dask worker {address}")
        try:
            yield WorkerPool(client.get_executor(pure=False), lambda: sum(client.nthreads().values()))
        except CancelledError as error:
            raise HistoryError(f"{address}: the connection to the scheduler was lost; begin again") from error
        except (ImportError, OSError, KilledWorker) as error:
            what = f"{address}: the workers failed: {type(error).__name__}: {' '.join(str(error).split())}"
            raise HistoryError(f"{what}; each needs perfkit of this version, and memory") from error


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    on_result: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """The result of a function for each task, in their order; ``on_result`` gets each one as it is done.

    ``jobs``, ``scheduler`` and errors are those of `open_executor`.
    """
    results: dict[int, Result] = {}
    with open_executor(jobs, scheduler) as pool:
        waiting, under_way = enumerate(tasks), dict[Future[Result], int]()
        limit = AHEAD * pool.workers() if scheduler is not None or jobs > 1 else 1
        while True:
            for number, task in islice(waiting, limit - len(under_way)):
                under_way[pool.executor.submit(function, task)] = number
            if not under_way:
                return [results[number] for number in range(len(tasks))]
            done, _ = wait(under_way, ALIVE_S, FIRST_COMPLETED)
            if not done and not pool.workers():
                raise OSError("no worker is left")  # Dask would wait for ever
            for future in done:
                number = under_way.pop(future)
                results[number] = future.result()
                on_result(results[number])
