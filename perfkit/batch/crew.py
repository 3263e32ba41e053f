"""Several processes that make reports at a time, each its own notebook; none outlives the one that started them."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO

from perfkit.batch.orders import Order
from perfkit.overview import Entry, Outcome, entry_from

GRACE_S = 5.0  # for a process to end when it gets no more orders


@dataclass(frozen=True, slots=True)
class Made:
    """An order and what came of it."""

    order: Order
    entry: Entry


def make_all(orders: Sequence[Order], processes: int) -> Generator[Made, None, None]:
    """Make every order, so many at a time; yields each as it is done.

    When the iteration is given up (Ctrl-C, ``close()``), what is under way is ended before it returns.
    """
    workers = [Worker() for _ in range(min(processes, len(orders)))]
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)
    pool = ThreadPoolExecutor(len(workers))
    try:
        under_way: dict[Future[Entry], Order] = {pool.submit(_by_any, free, order): order for order in orders}
        for done in as_completed(under_way):
            yield Made(under_way[done], done.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.end()
        pool.shutdown()
        for worker in workers:
            worker.close()


def _by_any(free: queue.SimpleQueue[Worker], order: Order) -> Entry:
    worker = free.get()
    try:
        return worker.make(order)
    finally:
        free.put(worker)


class Worker:
    """A process that makes one report after another; when it dies, that report has failed and a new one is started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._dismissed = False
        self._lock = threading.Lock()

    def make(self, order: Order) -> Entry:
        """Carry out an order."""
        process = self._running()
        if process is None or process.stdin is None or process.stdout is None:
            return _failed(order, "was not made: all was stopped")
        with suppress(BrokenPipeError, ValueError):  # it died, or was dismissed meanwhile
            process.stdin.write(json.dumps(asdict(order)) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer.endswith("\n"):
            return entry_from(json.loads(answer))
        code = process.wait()
        self._process = None
        _close(process)
        return _failed(order, f"the process that made it ended with code {code}: {self._last_words()}")

    def dismiss(self) -> None:
        """Take no more orders, and end what is under way."""
        with self._lock:
            self._dismissed = True
            process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()

    def end(self) -> None:
        """Wait until the process is gone."""
        process = self._process
        if process is not None:
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process)

    def close(self) -> None:
        """Forget what it said."""
        self._said.close()

    def _running(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._process is None and not self._dismissed:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "perfkit.batch.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C on a terminal reaches whoever started it, and through that this
                )
            return self._process

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read()[-10_000:].splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _failed(order: Order, why: str) -> Entry:
    text = f"notebook {order.kind} of {order.scenario}: {why}"
    return Entry(order.scenario, order.kind, Outcome.FAILED, sentences=(text,))
