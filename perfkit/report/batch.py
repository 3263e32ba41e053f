"""All reports of all scenarios of a store, several at a time, and the page above them.

Each `ReportJob` is one notebook of one scenario; one that fails does not stop the rest.  Jobs run in a process pool of
this machine: a notebook has its own kernel beside.  A process that dies (memory, as a rule) breaks its pool; its jobs
are then run again one by one, so that only the one that kills its process fails.  When the caller gives up or is gone
itself, processes and kernels end too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from urllib.parse import quote

import psutil

from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import AcknowledgedFile
from perfkit.history.gate import judge_history
from perfkit.history.incidents import read_result
from perfkit.history.run_selector import HistoryContext, newest_runs, select
from perfkit.model.codec import dump_json
from perfkit.model.errors import NotComparable, NotStored, PerfkitError, RenderError, SettingsError, did_you_mean
from perfkit.model.files import atomic_write
from perfkit.model.installation import VERSION, skip_unused_imports
from perfkit.model.records import Run, Verdict
from perfkit.model.serialization import slug
from perfkit.report.findings import outcome_text
from perfkit.report.formatting import VERDICT_COLOURS, clean, count_text, shorten
from perfkit.report.html import render
from perfkit.report.message import message_of
from perfkit.report.notebook import KINDS, Report, run_report
from perfkit.report.report_set import Entry, Outcome, Overview, worst
from perfkit.runs.backends import public_address
from perfkit.runs.store import RunStore

SHOWN_RUNS = 10  # of a baseline or capacity report: the newest of the present level
GRACE_S = 3.0  # for killed kernels to be gone
QUESTIONS = {
    "compare": "Did it get slower?",
    "trend": "How has it gone?",
    "baseline": "What is normal?",
    "capacity": "How much load can it take?",
}
MOST_SENTENCES = 3  # of one scenario on the page above all reports; its reports have the rest
_CALM = (Verdict.NO_CHANGE, Verdict.IMPROVEMENT, Outcome.DONE)
_VARIED_LOAD = ("ramp", "stages")  # load profiles that show how much a service takes


@dataclass(frozen=True, slots=True)
class ReportJob:
    """One notebook of one scenario; plain values, for it goes to another process."""

    scenario: str
    kind: str
    store: str
    folder: Path  # where its report goes: the scenario's folder, which no other scenario shares
    policy_file: str | None  # file of the policy for the notebook; ``None``: that of the settings
    policy: Policy  # what that file says
    acknowledged: Path
    baselines: Path
    newest: int = 1  # so many of the newest runs are judged
    labels: Mapping[str, str] = field(default_factory=dict)  # only runs with all of these are looked at


def report_jobs(
    store: str,
    folder: Path,
    *,
    scenarios: Collection[str] = (),
    kinds: Collection[str] = (),
    newest: int = 1,
    labels: Mapping[str, str],
    policy_file: str | None,
    policy: Policy,
    acknowledged: Path,
    baselines: Path,
) -> tuple[ReportJob, ...]:
    """Jobs for every scenario of a store, by name: ``compare`` first, then ``trend``, ``baseline``, ``capacity``.

    All of them, unless some ``scenarios`` and ``kinds`` are named.  What cannot be made of a scenario's runs is left
    out: a baseline without a valid run, a capacity without a ramp.

    ``NotStored``: the store has no run, or none with the labels of a scenario that was named.  ``SettingsError``: no
    scenario has runs for any of these kinds.
    """
    run_store = RunStore(store)
    index = HistoryContext(run_store, baselines, labels=labels).index
    index = index[~(index["quarantined"] | index["ab_test"]).astype(bool)]
    names = sorted(set(index["scenario"]))
    if not names:
        raise NotStored(f"{store}: has no run to report on; keep one with perfkit run or perfkit import")
    for name in scenarios:
        if name not in names:
            raise NotStored(f"{store}: no runs of the scenario {name!r}{did_you_mean(name, names)}")
    jobs: list[ReportJob] = []
    folder_names: set[str] = set()
    for name in names:
        if scenarios and name not in scenarios:
            continue
        stem = slug(name)  # two names may look alike as files do, and some disks know no capitals
        numbered = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(folder_names) + 2))
        folder_name = next(text for text in numbered if text not in folder_names)
        folder_names.add(folder_name.lower())
        runs = index[index["scenario"] == name]
        valid = runs["id"][runs["valid"].astype(bool)].tolist()
        possible = ["compare", "trend", *(["baseline"] if valid else [])]
        last = run_store.get(valid[-1]) if valid else None
        if last is not None and last.profile.kind in _VARIED_LOAD and last.load_requests is not None:
            possible.append("capacity")
        for kind in possible:
            if kind in (kinds or KINDS):
                paths = folder / folder_name, policy_file, policy, acknowledged.resolve(), baselines.resolve()
                where = store if "://" in store else str(Path(store).resolve())
                jobs.append(ReportJob(name, kind, where, *paths, newest, labels))
    if not jobs:
        raise SettingsError(f"{store}: its runs are worth none of these reports: {', '.join(kinds)}")
    return tuple(jobs)


def run_jobs(jobs: Sequence[ReportJob], processes: int) -> Generator[tuple[ReportJob, Entry], None, None]:
    """Make reports, so many at a time; each is yielded when it is done.

    When the iteration is given up (Ctrl-C, ``close()``), what is under way is ended before it returns.
    """
    others = set(active_children())
    unfinished: list[ReportJob] = []
    workers = min(processes, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as executor:
        try:
            futures = {executor.submit(build_report, job): job for job in jobs}
            for future in as_completed(futures):
                job, error = futures[future], future.exception()
                if isinstance(error, BrokenProcessPool):
                    unfinished.append(job)
                elif error is not None:
                    yield job, _failed(job, f"{type(error).__name__}: {error}")
                else:
                    yield job, future.result()
        except BrokenProcessPool as error:  # while the jobs were handed out
            raise RenderError("a worker process was killed (memory?); try fewer with --jobs") from error
        finally:
            for process in set(active_children()) - others:
                process.terminate()
            executor.shutdown(cancel_futures=True)
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
    skip_unused_imports()
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
        report = _make(job)
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


def _make(job: ReportJob) -> Report:
    context = HistoryContext(RunStore(job.store), job.baselines, alpha=job.policy.alpha, labels=job.labels)
    if job.kind == "compare":  # the newest runs against the history before them, as `perfkit compare --candidate`
        newest, acknowledgements = (
            newest_runs(context, job.scenario, job.newest),
            AcknowledgedFile(job.acknowledged).read(),
        )
        comparison = judge_history(newest, context, job.policy, acknowledgements=acknowledgements)
        file = job.folder / "comparison.json"
        atomic_write(file, dump_json(comparison.to_dict()))
        return report_result(file, reports_dir=job.folder, title=job.scenario)
    parameters: dict[str, object] = {"policy": job.policy_file, "title": job.scenario}
    if job.kind == "trend":
        parameters |= {"store": public_address(job.store), "scenario": job.scenario}
        parameters |= {"labels": [f"{key}={value}" for key, value in job.labels.items()] or None}
        parameters |= {"acknowledged": job.acknowledged, "baselines": job.baselines}
    else:  # by the newest runs of the present level
        level = select(f"{job.scenario}@rolling", context)
        parameters["runs"] = run_paths(level.runs[-SHOWN_RUNS:])
        if job.kind == "baseline":
            parameters["notes"] = "\n".join(level.warnings) or None
    return run_report(job.kind, parameters, reports_dir=job.folder)


def report_result(
    file: Path, *, reports_dir: Path, title: str | None = None, progress: Callable[[str], None] | None = None
) -> Report:
    """The report of a comparison that was judged before, with its verdict as it was; ``SettingsError`` for another."""
    comparison = read_result(file).comparison
    if comparison is None:
        raise SettingsError(f"{file} is no comparison: perfkit report trend draws a history")
    parameters = {
        "baseline": run_paths(comparison.baseline.runs),
        "candidate": run_paths(comparison.candidate.runs),
        "judged": (file / "result.json" if file.is_dir() else file).resolve(),
        "title": title,
    }
    return run_report("compare", parameters, reports_dir=reports_dir, progress=progress)


def run_paths(runs: Sequence[Run]) -> str:
    """Absolute paths of runs, one a line: a notebook may run in a folder of its own."""
    sources = [run.source or run.id for run in runs]
    return "\n".join(source if "://" in source else str(Path(source).resolve()) for source in sources)


def index_page(overview: Overview) -> str:
    """A page of HTML above many reports, the worst first; it opens offline, its links are relative to its folder."""
    bad, count = worst(overview.entries), count_text(len(overview.scenarios), "scenario")
    words = Counter(worst(entries).word for _, entries in overview.scenarios)
    attention = sum(number for word, number in words.items() if word not in _CALM)
    answer = f"{attention} of {count} {'needs' if attention == 1 else 'need'} a look."
    counts = [f"{number} {outcome_text(word).split(' ', 1)[-1]}" for word, number in words.items()]
    done = sum(entry.outcome is Outcome.DONE for entry in overview.entries)
    failed = len(overview.entries) - done
    facts = [
        f"{count_text(done, 'report')}{f', {failed} could not be made' if failed else ''}",
        *([f"store {clean(overview.store)}"] if overview.store else []),
        f"written {overview.made_at:%Y-%m-%d %H:%M:%S} UTC",
        f"perfkit {VERSION}",
    ]
    rows = []
    for scenario, entries in overview.scenarios:
        ordered = sorted(entries, key=lambda entry: entry.rank)
        texts = list(dict.fromkeys(shorten(text, 400) for entry in ordered for text in entry.sentences))
        links = [
            {
                "question": QUESTIONS.get(entry.kind, entry.kind),
                "word": "" if entry.word is Outcome.DONE else outcome_text(entry.word),
                "css": _css(entry),
                "href": quote(entry.report),
                "notebook": quote(entry.notebook),
            }
            for entry in entries
        ]
        of = {"scenario": shorten(scenario, 80), "word": outcome_text(ordered[0].word), "css": _css(ordered[0])}
        rest = max(len(texts) - MOST_SENTENCES, 0)
        rows.append({**of, "sentences": texts[:MOST_SENTENCES], "more": rest, "links": links})
    return render(
        "index_page.html.j2",
        rows=rows,
        word=outcome_text(bad.word),
        css=_css(bad),
        colour=VERDICT_COLOURS[bad.word if isinstance(bad.word, Verdict) else Verdict.INVALID],
        answer=answer if attention else f"Nothing to look at in {count}.",
        counts=", ".join(counts) if len(counts) > 1 else "",  # empty when all are alike
        facts=facts,
    )


def _css(entry: Entry) -> str:
    if isinstance(entry.word, Verdict):
        return f"pk-{entry.word.value}"
    return "pk-no_change" if entry.word is Outcome.DONE else "pk-invalid"
