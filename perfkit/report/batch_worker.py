"""The process that makes reports: an order per line on its standard input, an entry per line on its standard output.

It ends when its input does, also in the middle of a notebook: so nothing is left behind by whoever started it, however
that ended.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import asdict

import psutil

from perfkit.model.codec import decode
from perfkit.report.batch import Order, make

GRACE_S = 3.0  # for killed kernels to be gone


def main() -> None:
    """Make what is ordered until there are no more orders."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_read_orders, args=(waiting, busy), daemon=True).start()
    while line := waiting.get():
        busy.set()
        entry = make(decode(json.loads(line), Order, "report order"))
        busy.clear()
        try:
            answers.write(json.dumps(asdict(entry)) + "\n")
            answers.flush()
        except BrokenPipeError:
            return


def _read_orders(waiting: queue.SimpleQueue[str], busy: threading.Event) -> None:
    for line in sys.stdin:
        waiting.put(line)
    waiting.put("")
    if busy.is_set():
        # A kernel has a session of its own, and one in the middle of a cell does not listen.
        kernels = psutil.Process().children(recursive=True)
        for kernel in kernels:
            with suppress(psutil.NoSuchProcess):
                kernel.kill()
        psutil.wait_procs(kernels, timeout=GRACE_S)
        os._exit(1)


if __name__ == "__main__":
    main()
