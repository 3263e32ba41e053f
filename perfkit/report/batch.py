"""Several processes that make reports at a time, each its own notebook; none outlives the one that started them.

Which notebooks a scenario is worth: an order for each.

One order carried out: the notebook of a scenario, and what its result says.

All notebooks of all scenarios of a store, several at a time; one that fails does not stop the rest.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.context import HistoryContext
from perfkit.history.gate import judge_history
from perfkit.history.incidents import read_result
from perfkit.history.run_names import choose_runs, newest_runs
from perfkit.model.codec import dump_json
from perfkit.model.errors import NotComparable, NotStored, PerfkitError, SettingsError, did_you_mean
from perfkit.model.files import atomic_write
from perfkit.model.records import Run
from perfkit.model.serialization import slug
from perfkit.report.message import message_of
from perfkit.report.notebook import KINDS, Report, run_report
from perfkit.report.report_set import Entry, Outcome, entry_from
from perfkit.runs.backends import public_address
from perfkit.runs.store import RunStore

_VARIED_LOAD = ("ramp", "stages")  # load profiles that tell how much a service takes


@dataclass(frozen=True, slots=True)
class Order:
    """One notebook of one scenario; plain values, for it goes to another process.

    Parameters
    ----------
    folder
        Where its report goes: the scenario's folder, which no other scenario shares.
    policy_file
        File of the policy for the notebook; ``None``: that of the settings.
    policy
        What it says.
    newest
        So many of the newest runs are judged.
    """

    scenario: str
    kind: str
    store: str
    folder: str
    policy_file: str | None
    policy: Policy
    acknowledged: str
    baselines: str
    newest: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for: everything, unless scenarios or kinds are named."""

    scenarios: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    newest: int = 1


def orders_of(
    store: str,
    folder: Path,
    wish: Wish,
    *,
    policy_file: str | None,
    policy: Policy,
    acknowledged: Path,
    baselines: Path,
) -> tuple[Order, ...]:
    """Orders for every scenario of a store, by name: ``compare`` first, then ``trend``, ``baseline``, ``capacity``.

    What cannot be made of a scenario's runs is not ordered: a baseline without a valid run, a capacity without a ramp.

    Raises
    ------
    NotStored
        The store has no run, or none of a scenario that was named.
    """
    known = RunStore(store)
    every = known.runs()
    every = every[~(every["quarantined"] | every["ab_test"]).astype(bool)]
    names = sorted(set(every["scenario"]))
    if not names:
        raise NotStored(f"{store}: has no run to report on; keep one with perfkit run or perfkit import")
    for name in wish.scenarios:
        if name not in names:
            raise NotStored(f"{store}: no runs of the scenario {name!r}{did_you_mean(name, names)}")
    chosen = [name for name in names if not wish.scenarios or name in wish.scenarios]
    place = store if "://" in store else str(Path(store).resolve())
    found = []
    for name, own in zip(chosen, _folders(folder, chosen), strict=True):
        runs = every[every["scenario"] == name]
        for kind in _worth(known, runs["id"].tolist(), runs["valid"].tolist()):
            if kind in (wish.kinds or KINDS):
                where = str(acknowledged.resolve()), str(baselines.resolve())
                found.append(Order(name, kind, place, str(own), policy_file, policy, *where, wish.newest))
    if not found:
        raise SettingsError(f"{store}: its runs are worth none of these reports: {', '.join(wish.kinds)}")
    return tuple(found)


def _worth(store: RunStore, ids: Sequence[str], valid: Sequence[bool]) -> Iterator[str]:
    yield "compare"
    yield "trend"
    if any(valid):
        yield "baseline"
        newest = store.get([run_id for run_id, ok in zip(ids, valid, strict=True) if ok][-1])
        if newest.profile.kind in _VARIED_LOAD and newest.load_requests is not None:
            yield "capacity"


def _folders(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """One for each name, also where two names look alike as files do."""
    taken: set[str] = set()
    for name in names:
        stem = slug(name)
        own = next(text for n in range(1, len(taken) + 2) if (text := stem if n == 1 else f"{stem}-{n}") not in taken)
        taken.add(own.lower())  # some disks know no capitals
        yield folder / own


SHOWN = 10  # runs in a picture of what is normal: the newest of the present level
JUDGING = ("compare", "trend")
JUDGED = "judged.json"


def make(order: Order) -> Entry:
    """Make a report and say what is in it, or why there is none; paths are relative to the folder above the order's."""
    entry = Entry(order.scenario, order.kind)
    try:
        report = _MAKERS[order.kind](order)
    except NotComparable as error:
        return replace(entry, outcome=Outcome.INCOMPARABLE, sentences=(str(error),))
    except PerfkitError as error:
        return replace(entry, outcome=Outcome.FAILED, sentences=(str(error),), notebook=_kept(order))
    entry = replace(entry, report=_relative(report.html, order), result=_relative(report.result, order))
    if order.kind not in JUDGING:
        return entry
    result = read_result(report.result)
    return replace(entry, verdict=result.verdict, sentences=tuple(text for _, text in message_of(result).lines))


def _compare(order: Order) -> Report:
    """The newest runs against the history before them, as ``perfkit compare --candidate`` judges them."""
    store = RunStore(order.store)
    candidates = newest_runs(store, order.scenario, order.newest)
    past = HistoryContext(store, Path(order.baselines), candidates=candidates)
    known = AcknowledgedFile(Path(order.acknowledged)).read()
    comparison = judge_history(candidates, past, order.policy, known=known).comparison
    judged = Path(order.folder) / JUDGED
    atomic_write(judged, dump_json(comparison.to_dict()))
    parameters = {
        "baseline": places(comparison.baseline.runs),
        "candidate": places(comparison.candidate.runs),
        "judged": str(judged.absolute()),
    }
    return _run("compare", parameters, order)


def _trend(order: Order) -> Report:
    parameters = {"store": public_address(order.store), "scenario": order.scenario, "acknowledged": order.acknowledged}
    return _run("trend", {**parameters, "baselines": order.baselines, "policy": order.policy_file}, order)


def _baseline(order: Order) -> Report:
    runs, notes = choose_runs(
        [f"{order.scenario}@rolling"], store=order.store, baselines=Path(order.baselines), alpha=order.policy.alpha
    )
    parameters = {"runs": places(runs[-SHOWN:]), "policy": order.policy_file, "notes": "\n".join(notes) or None}
    return _run("baseline", parameters, order)


def _capacity(order: Order) -> Report:
    runs, _ = choose_runs(
        [f"{order.scenario}@rolling"], store=order.store, baselines=Path(order.baselines), alpha=order.policy.alpha
    )
    return _run("capacity", {"runs": places(runs[-SHOWN:]), "policy": order.policy_file}, order)


_MAKERS: Mapping[str, Callable[[Order], Report]] = {
    "compare": _compare,
    "trend": _trend,
    "baseline": _baseline,
    "capacity": _capacity,
}


def places(runs: tuple[Run, ...]) -> str:
    """Absolute places of runs, one a line: a notebook may run in a folder of its own."""
    sources = [run.source or run.id for run in runs]
    return "\n".join(source if "://" in source else str(Path(source).resolve()) for source in sources)


def _run(kind: str, parameters: Mapping[str, object], order: Order) -> Report:
    given = {name: value for name, value in parameters.items() if value is not None}
    return run_report(kind, {**given, "title": order.scenario}, reports_dir=Path(order.folder))


def _kept(order: Order) -> str:
    """The executed notebook of a failure, where it came that far."""
    found = sorted(Path(order.folder).glob(f"*-{order.kind}*/executed.ipynb"))
    return _relative(found[-1], order) if found else ""


def _relative(path: Path, order: Order) -> str:
    return Path(os.path.relpath(path, Path(order.folder).parent)).as_posix()


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
                    [sys.executable, "-P", "-m", "perfkit.report.batch_worker"],
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


__all__ = ["Made", "Order", "make_all", "orders_of"]
