"""The change points of many series: on one core, on all of this machine, or on a Dask cluster, with the same result."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import as_completed as completed_here
from dataclasses import dataclass
from itertools import islice
from typing import Any

from perfkit.errors import HistoryError, MissingExtra, SettingsError
from perfkit.installation import extra_advice
from perfkit.stats.changepoints import Segmentation, segment
from perfkit.stats.summary import Floats

CHUNK = 40_000  # values that travel together: some 60 ms of work
# Values that each process must get: some 3 s of work (600,000 values a second), against 0.7 s of CPU to start one.
# Where the cores are busy otherwise, a second process does not pay at all
WORTH_A_PROCESS = 2_000_000
CONNECT_S = 10.0
ALIVE_S = 30.0  # without a result after which it is asked whether any worker is left
_ADDRESS = re.compile(r"((tcp|tls|ucx|wss?)://)?[^\s/]+:\d+")  # Dask itself takes 20 s to give up on another
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Task:
    """One series to be looked at: values, shape ``(n_runs,)``, and the chance of a false alarm in it."""

    values: Floats
    alpha: float


def scan(
    tasks: Sequence[Task],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    on_progress: OnProgress | None = None,
) -> list[Segmentation]:
    """The segmentation of every series, in the order given.

    Parameters
    ----------
    jobs
        Processes on this machine; ``None`` takes as many as pay.
    scheduler
        Address of a Dask scheduler, such as ``tcp://10.0.0.5:8786``, whose workers have perfkit; instead of `jobs`.
    on_progress
        Told how many series are done, and how many there are.

    Raises
    ------
    MissingExtra
        A scheduler is named and Dask is not installed.
    SettingsError
        No Dask scheduler answers at that address.
    HistoryError
        The workers failed.
    """
    chunks = list(_chunks(tasks))
    tell = _Progress(on_progress, len(tasks))
    if scheduler is not None:
        return _flat(_on_cluster(scheduler, chunks, tell))
    count = min(jobs or _worthwhile(tasks), max(len(chunks), 1))
    return _flat(_in_processes(chunks, count, tell) if count > 1 else _here(chunks, tell))


def _look(chunk: Sequence[Task]) -> list[Segmentation]:
    return [segment(task.values, alpha=task.alpha) for task in chunk]


def _chunks(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    chunk: list[Task] = []
    size = 0
    for task in tasks:
        chunk.append(task)
        size += len(task.values)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _worthwhile(tasks: Sequence[Task]) -> int:
    values = sum(len(task.values) for task in tasks)
    return max(min(os.cpu_count() or 1, values // WORTH_A_PROCESS), 1)


def _flat(found: Sequence[list[Segmentation]]) -> list[Segmentation]:
    return [item for chunk in found for item in chunk]


@dataclass(slots=True)
class _Progress:
    tell: OnProgress | None
    total: int
    done: int = 0

    def __call__(self, found: Sequence[Segmentation]) -> None:
        self.done += len(found)
        if self.tell is not None:
            self.tell(self.done, self.total)


def _here(chunks: Sequence[list[Task]], tell: _Progress) -> list[list[Segmentation]]:
    found = []
    for chunk in chunks:
        found.append(_look(chunk))
        tell(found[-1])
    return found


def _in_processes(chunks: Sequence[list[Task]], count: int, tell: _Progress) -> list[list[Segmentation]]:
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        futures: list[Future[list[Segmentation]]] = [pool.submit(_look, chunk) for chunk in chunks]
        try:
            for future in completed_here(futures):
                tell(future.result())
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise HistoryError("a process that looked at series was killed (memory?); try fewer with --jobs") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(address: str, chunks: Sequence[list[Task]], tell: _Progress) -> list[list[Segmentation]]:
    """Chunks are sent a few at a time, so that neither this process nor the scheduler holds all of them twice."""
    try:
        from distributed import CancelledError, KilledWorker
    except ImportError as error:
        raise MissingExtra(f"{address}: Dask is not installed; {extra_advice('dask')}") from error
    found: list[list[Segmentation]] = [[] for _ in chunks]
    with _connected(address) as client:
        waiting = enumerate(chunks)
        numbers: dict[Any, int] = {}

        def sent(count: int) -> list[Any]:
            futures = []
            for number, chunk in islice(waiting, count):
                futures.append(client.submit(_look, chunk, pure=False))
                numbers[futures[-1]] = number
            return futures

        try:
            going = set(sent(4 * sum(client.nthreads().values())))
            while going:
                done = _some(client, going)
                for future in done:
                    number = numbers.pop(future)
                    found[number] = future.result()
                    tell(found[number])
                going = going - done | set(sent(len(done)))
        except CancelledError as error:
            raise HistoryError(f"{address}: the connection to the scheduler was lost; begin again") from error
        except (ImportError, OSError, KilledWorker) as error:
            what = f"{address}: the workers failed: {type(error).__name__}: {' '.join(str(error).split())}"
            raise HistoryError(f"{what}; each needs perfkit of this version, and memory") from error
    return found


def _some(client: Any, going: Collection[Any]) -> set[Any]:
    """Those that are done, at least one; ``OSError`` when nobody is left who could do any: Dask would wait for ever."""
    from distributed import wait

    while True:
        try:
            with client.as_current():
                return set(wait(going, timeout=ALIVE_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if not client.nthreads():
                raise OSError("no worker is left") from None


def _connected(address: str) -> Any:
    from distributed import Client

    if not _ADDRESS.fullmatch(address):
        raise SettingsError(f"{address}: no Dask scheduler answers there: write one such as tcp://10.0.0.5:8786")
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{address}: no Dask scheduler answers there ({error}); start one: dask scheduler"
        ) from error
    if not client.nthreads():
        client.close()
        raise SettingsError(f"{address}: this Dask scheduler has no workers; start some: dask worker {address}")
    return client
