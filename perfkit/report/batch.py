"""All reports of all scenarios of a store, several at a time; one that fails does not stop the rest.

Each `ReportJob` is one notebook of one scenario.  Jobs run in a process pool: a notebook has its own kernel beside.  A
process that dies (memory, as a rule) breaks its pool; its jobs are then run again one by one, so that only the one
that kills its process fails.  When the caller gives up or is gone itself, processes and kernels end too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import active_children, parent_process
from multiprocessing.connection import wait
from pathlib import Path

import psutil

from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.gate import judge_newest
from perfkit.history.incidents import read_result
from perfkit.history.run_selector import HistoryContext, select
from perfkit.model.codec import dump_json
from perfkit.model.errors import NotComparable, NotStored, PerfkitError, SettingsError, did_you_mean
from perfkit.model.executors import open_executor
from perfkit.model.files import atomic_write
from perfkit.model.records import Run
from perfkit.model.serialization import slug
from perfkit.report.message import message_of
from perfkit.report.notebook import KINDS, Report, run_report
from perfkit.report.report_set import Entry, Outcome
from perfkit.runs.backends import public_address
from perfkit.runs.store import RunStore

SHOWN_RUNS = 10  # of a baseline or capacity report: the newest of the present level
GRACE_S = 3.0  # for killed kernels to be gone
_VARIED_LOAD = ("ramp", "stages")  # load profiles that show how much a service takes


@dataclass(frozen=True, slots=True)
class ReportJob:
    """One notebook of one scenario; plain values, for it goes to another process.

    Parameters
    ----------
    folder
        Where its report goes: the scenario's folder, which no other scenario shares.
    policy_file
        File of the policy for the notebook; ``None``: that of the settings.
    policy
        What that file says.
    newest
        So many of the newest runs are judged.
    """

    scenario: str
    kind: str
    store: str
    folder: Path
    policy_file: str | None
    policy: Policy
    acknowledged: Path
    baselines: Path
    newest: int = 1


@dataclass(frozen=True, slots=True)
class Selection:
    """The scenarios and kinds of reports that are made: all of them, unless some are named."""

    scenarios: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    newest: int = 1


def report_jobs(
    store: str,
    folder: Path,
    selection: Selection,
    *,
    policy_file: str | None,
    policy: Policy,
    acknowledged: Path,
    baselines: Path,
) -> tuple[ReportJob, ...]:
    """Jobs for every scenario of a store, by name: ``compare`` first, then ``trend``, ``baseline``, ``capacity``.

    What cannot be made of a scenario's runs is left out: a baseline without a valid run, a capacity without a ramp.

    Raises
    ------
    NotStored
        The store has no run, or none of a scenario that was named.
    SettingsError
        No scenario has runs for any of these kinds.
    """
    run_store = RunStore(store)
    index = run_store.runs()
    index = index[~(index["quarantined"] | index["ab_test"]).astype(bool)]
    names = sorted(set(index["scenario"]))
    if not names:
        raise NotStored(f"{store}: has no run to report on; keep one with perfkit run or perfkit import")
    for name in selection.scenarios:
        if name not in names:
            raise NotStored(f"{store}: no runs of the scenario {name!r}{did_you_mean(name, names)}")
    jobs: list[ReportJob] = []
    folder_names: set[str] = set()
    for name in names:
        if selection.scenarios and name not in selection.scenarios:
            continue
        stem = slug(name)  # two names may look alike as files do, and some disks know no capitals
        numbered = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(folder_names) + 2))
        folder_name = next(text for text in numbered if text not in folder_names)
        folder_names.add(folder_name.lower())
        runs = index[index["scenario"] == name]
        for kind in _possible_kinds(run_store, runs["id"][runs["valid"].astype(bool)].tolist()):
            if kind in (selection.kinds or KINDS):
                job = ReportJob(
                    name,
                    kind,
                    store if "://" in store else str(Path(store).resolve()),
                    folder / folder_name,
                    policy_file,
                    policy,
                    acknowledged.resolve(),
                    baselines.resolve(),
                    selection.newest,
                )
                jobs.append(job)
    if not jobs:
        raise SettingsError(f"{store}: its runs are worth none of these reports: {', '.join(selection.kinds)}")
    return tuple(jobs)


def _possible_kinds(store: RunStore, valid_ids: Sequence[str]) -> Iterator[str]:
    yield from ("compare", "trend")
    if valid_ids:
        yield "baseline"
        newest = store.get(valid_ids[-1])
        if newest.profile.kind in _VARIED_LOAD and newest.load_requests is not None:
            yield "capacity"


def run_jobs(jobs: Sequence[ReportJob], processes: int) -> Generator[tuple[ReportJob, Entry], None, None]:
    """Make reports, so many at a time; each is yielded when it is done.

    When the iteration is given up (Ctrl-C, ``close()``), what is under way is ended before it returns.
    """
    others = set(active_children())
    unfinished: list[ReportJob] = []
    with open_executor(min(processes, len(jobs)), initializer=_start_worker) as pool:
        try:
            futures = {pool.executor.submit(build_report, job): job for job in jobs}
            for future in as_completed(futures):
                job, error = futures[future], future.exception()
                if isinstance(error, BrokenProcessPool):
                    unfinished.append(job)
                elif error is not None:
                    yield job, _failed(job, f"{type(error).__name__}: {error}")
                else:
                    yield job, future.result()
        finally:
            for process in set(active_children()) - others:
                process.terminate()
    if len(jobs) == 1:
        yield from ((job, _failed(job, "the process that made it was killed (memory?)")) for job in unfinished)
        return
    for job in unfinished:
        yield from run_jobs([job], 1)


def _failed(job: ReportJob, reason: str) -> Entry:
    text = f"notebook {job.kind} of {job.scenario}: {reason}"
    return Entry(job.scenario, job.kind, Outcome.FAILED, sentences=(text,))


def _start_worker() -> None:
    """Prepare a worker process: nothing that a library prints gets out, and it ends with its kernels.

    It ends when it is told to (SIGTERM) and when the process that started it is gone, however that ended.  Ctrl-C on a
    terminal does not reach it; a kernel has a session of its own, and one in the middle of a cell does not listen.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)

    def end(*_: object) -> None:
        kernels = psutil.Process().children(recursive=True)
        for kernel in kernels:
            with suppress(psutil.NoSuchProcess):
                kernel.kill()
        psutil.wait_procs(kernels, timeout=GRACE_S)
        os._exit(1)

    def end_with_parent() -> None:
        parent = parent_process()
        if parent is not None:
            wait([parent.sentinel])
            end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=end_with_parent, daemon=True).start()


def build_report(job: ReportJob) -> Entry:
    """Make a report and say what is in it, or why there is none; paths are relative to the folder above the job's."""

    def relative(path: Path) -> str:
        return Path(os.path.relpath(path, job.folder.parent)).as_posix()

    entry = Entry(job.scenario, job.kind)
    try:
        report = _NOTEBOOKS[job.kind](job)
    except NotComparable as error:
        return replace(entry, outcome=Outcome.INCOMPARABLE, sentences=(str(error),))
    except PerfkitError as error:
        executed = sorted(job.folder.glob(f"*-{job.kind}*/executed.ipynb"))  # where it came that far
        notebook = relative(executed[-1]) if executed else ""
        return replace(entry, outcome=Outcome.FAILED, sentences=(str(error),), notebook=notebook)
    entry = replace(entry, report=relative(report.html), result=relative(report.result))
    if job.kind not in ("compare", "trend"):
        return entry  # judges nothing
    result = read_result(report.result)
    return replace(entry, verdict=result.verdict, sentences=tuple(text for _, text in message_of(result).lines))


def _compare(job: ReportJob) -> Report:
    """The newest runs against the history before them, as ``perfkit compare --candidate`` judges them."""
    comparison = judge_newest(
        RunStore(job.store),
        job.scenario,
        job.policy,
        baselines=job.baselines,
        acknowledgements=AcknowledgedFile(job.acknowledged).read(),
        count=job.newest,
    )
    file = job.folder / "comparison.json"
    atomic_write(file, dump_json(comparison.to_dict()))
    return report_result(file, reports_dir=job.folder, title=job.scenario)


def report_result(
    file: Path, *, reports_dir: Path, title: str | None = None, progress: Callable[[str], None] | None = None
) -> Report:
    """The report of a comparison that was judged before, with its verdict as it was.

    Raises
    ------
    SettingsError
        The file is the result of something else.
    """
    comparison = read_result(file).comparison
    if comparison is None:
        raise SettingsError(f"{file} is no comparison: perfkit report trend draws a history")
    parameters = {
        "baseline": run_paths(comparison.baseline.runs),
        "candidate": run_paths(comparison.candidate.runs),
        "judged": str((file / "result.json" if file.is_dir() else file).resolve()),
    }
    return _run("compare", parameters, reports_dir, title, progress)


def _trend(job: ReportJob) -> Report:
    parameters = {
        "store": public_address(job.store),
        "scenario": job.scenario,
        "acknowledged": str(job.acknowledged),
        "baselines": str(job.baselines),
        "policy": job.policy_file,
    }
    return _run("trend", parameters, job.folder, job.scenario)


def _newest_level(job: ReportJob) -> Report:
    """What is normal, or how much load it takes, by the newest runs of the present level."""
    context = HistoryContext(RunStore(job.store), job.baselines, alpha=job.policy.alpha)
    level = select(f"{job.scenario}@rolling", context)
    parameters = {"runs": run_paths(level.runs[-SHOWN_RUNS:]), "policy": job.policy_file}
    if job.kind == "baseline":
        parameters["notes"] = "\n".join(level.warnings) or None
    return _run(job.kind, parameters, job.folder, job.scenario)


_NOTEBOOKS: Mapping[str, Callable[[ReportJob], Report]] = {
    "compare": _compare,
    "trend": _trend,
    "baseline": _newest_level,
    "capacity": _newest_level,
}


def run_paths(runs: Sequence[Run]) -> str:
    """Absolute paths of runs, one a line: a notebook may run in a folder of its own."""
    sources = [run.source or run.id for run in runs]
    return "\n".join(source if "://" in source else str(Path(source).resolve()) for source in sources)


def _run(
    kind: str,
    parameters: Mapping[str, str | None],
    reports_dir: Path,
    title: str | None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    given = {name: value for name, value in {**parameters, "title": title}.items() if value is not None}
    return run_report(kind, given, reports_dir=reports_dir, progress=progress)
