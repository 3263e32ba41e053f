"""One scenario, once: start Locust, keep every request, leave a run folder.

`run_scenario` is the story of a run; what it calls follows in the order of the calls.  `run_scenarios` makes several
runs, one after the other, with a record of how each went.  A run that the store does not take is kept on this machine
(`UNSENT`), from where it can be copied later.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.config.settings import Scenario
from perfkit.loadgen.demo_services import start_services
from perfkit.loadgen.locust_command import Distribution, LocustCommand
from perfkit.loadgen.locust_process import LocustOutcome, Progress, parse_abort_rule, run_locust
from perfkit.loadgen.recording import finish_recording
from perfkit.loadgen.service_under_test import environment_fingerprint, installed_versions
from perfkit.model.codec import dump_json, encode
from perfkit.model.errors import Activity, LoadError, LoadStopped, PerfkitError, ReadError, SettingsError, StoreError
from perfkit.model.files import atomic_write, redact_files
from perfkit.model.records import Check, LoadProfile, Run, Severity, Validity
from perfkit.model.serialization import make_run_id, run_to_document
from perfkit.runs.recording_stream import Recording
from perfkit.runs.requests import RequestLoader
from perfkit.runs.run_folder import (
    RECORDING,
    REQUESTS,
    STARTED,
    generator_facts,
    measured_run,
    read_requests,
    recorded_requests,
)
from perfkit.runs.store import RunStore

if TYPE_CHECKING:
    from perfkit.loadgen.container import Container

UNSENT = Path("data/unsent")
ADDRESSES = "PERFKIT_DEMO_ADDRESSES"  # read by demo_locustfile.py
NO_HOST = "You must specify the base host"  # what Locust writes into its log
IGNORED_SETTINGS = "locust_settings"  # a check that always passes: names settings of Locust that had no effect
STOPPED_BY = "stopped by "  # begins the reason of a run that a signal to perfkit ended
OnProgress = Callable[[Progress], None]


def run_scenario(
    scenario: Scenario,
    store: RunStore,
    labels: Mapping[str, str],
    on_progress: OnProgress | None = None,
    distribution: Distribution | None = None,
    abort: Callable[[Progress], str | None] | None = None,
    container: Container | None = None,
) -> Run:
    """Run a load test and keep it; ``abort`` may end it early.  Returns the run as it was stored.

    With a `Distribution` its workers make the load, with a `Container` Locust runs in that.  A run that was interrupted
    is kept too, marked ``invalid``.

    ``LoadError`` when load could not be run or measured nothing: no folder that looks like a good run is left.
    ``LoadStopped`` when a signal stopped it before its first request.  ``StoreError`` when the run could not be
    written, or not be uploaded; then it is kept here, and the error names the path.
    """
    with ExitStack() as stack:
        parent = store.folder
        if parent is None:  # recorded here, uploaded afterwards; a store that cannot be reached fails before the load
            store.backend.folders()
            parent = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfkit-")))
        if scenario.demo and not scenario.host and ADDRESSES not in scenario.environment:
            scenario = with_demo_addresses(scenario, stack.enter_context(start_services()).addresses)
        run = planned_run(scenario, labels)
        folder = parent / run.id
        try:
            folder.mkdir(parents=True)
            atomic_write(folder / STARTED, dump_json(run_to_document(run)))
        except OSError as error:
            raise StoreError(f"{folder}: cannot be written: {error.strerror or error}; choose another store") from error
        command = LocustCommand(scenario, folder, distribution)
        try:
            try:
                outcome = run_locust(command, on_progress, abort, container)
            finally:
                redact_files(folder / "source")
            if container is not None:
                run = replace(run, **container.facts(folder))
            run = _with_measurements(run, folder, outcome, distribution)
        except (LoadError, SettingsError):
            _remove_unless_recorded(folder)
            raise
        except OSError as error:
            problem = f"{folder}: the run could not be kept whole: {error.strerror or error}"
            raise StoreError(f"{problem}; {what_was_recorded(folder)}") from error
        if store.folder is None:
            return upload(run, folder, store)
        store.add(run)
        (folder / STARTED).unlink()
        return run


def with_demo_addresses(scenario: Scenario, addresses: Mapping[str, str]) -> Scenario:
    """A built-in scenario that calls demo services at these addresses."""
    text = ",".join(f"{name}={address}" for name, address in addresses.items())
    return replace(scenario, environment={**scenario.environment, ADDRESSES: text})


def planned_run(scenario: Scenario, labels: Mapping[str, str]) -> Run:
    """The run before anything is measured: what its folder says of it if perfkit is killed."""
    now = datetime.now(UTC)
    killed = Check("interrupted", "not finished", "no", Severity.INVALID, "The run was killed before it was finished.")
    script = scenario.locustfile.read_bytes() if scenario.locustfile.is_file() else b""
    return Run(
        id=make_run_id(now, scenario.name, secrets.token_hex(2)),
        scenario=scenario.name,
        started_at=now,
        duration_s=None,
        profile=scenario.profile,
        validity=Validity((killed,)),
        services={},
        tool=f"locust {installed_versions()['locust']}",
        target=scenario.host,
        labels=labels,
        environment=environment_fingerprint(),
        git=dict(scenario.revision),
        versions=installed_versions(),
        locustfile_hash=hashlib.sha256(script).hexdigest(),
    )


def _with_measurements(run: Run, folder: Path, outcome: LocustOutcome, distribution: Distribution | None) -> Run:
    """Recording -> Parquet file, summary, validity: ``LoadError`` when there are none."""
    is_begun = (folder / RECORDING).is_file() or not outcome.interrupted
    count = finish_recording(folder / RECORDING, folder / REQUESTS) if is_begun else 0
    if not count:
        raise _nothing_measured(run, folder, outcome)
    checks = []
    if outcome.has_own_shape and run.profile.kind != "custom":
        advice = "The locustfile's LoadTestShape decides the load: what was asked for here had no effect."
        checks += [Check("load_shape", run.profile.describe(), "custom load shape", Severity.WARN, advice)]
    if outcome.has_own_shape:
        run = replace(run, profile=LoadProfile("custom"))
    if outcome.ignored_settings:
        checks += [Check(IGNORED_SETTINGS, ", ".join(outcome.ignored_settings), "ignored", Severity.OK)]
    run = measured_run(
        run,
        recorded_requests(folder / REQUESTS),
        folder,
        checks,
        interrupted=(outcome.reason or "stopped before its time") if outcome.interrupted else None,
        early_end=outcome.early_end,
        planned_s=run.profile.duration_s,
        users_at_end=outcome.users_at_end,
        exit_code=None if outcome.interrupted else outcome.returncode,
        recorded=count,
        workers_asked=distribution.workers if distribution is not None else None,
        workers_lost=outcome.lost_workers,
    )
    parquet = folder / REQUESTS
    return replace(run, load_requests=RequestLoader(lambda: read_requests(parquet), lambda: recorded_requests(parquet)))


def _nothing_measured(run: Run, folder: Path, outcome: LocustOutcome) -> LoadError:
    """Why there is no request: a signal, no host, exceptions of the load script, or unusable response times."""
    if outcome.interrupted:
        kind = LoadStopped if outcome.by_user else LoadError
        return kind(f"scenario {run.scenario!r}: {outcome.reason} before its first request; nothing was measured")
    log = folder / "source" / "locust.log"
    script = generator_facts(folder / "source", run.profile).script
    reason = "do its tasks call the client?"
    if log.is_file() and NO_HOST in log.read_text(errors="replace"):
        reason = "no host is known: name one with --host."
        if "LOCUST_HOST" in outcome.ignored_settings:
            reason += " LOCUST_HOST is set, and perfkit does not read it: the host is to be kept with the run."
    elif script is not None and script.exceptions:
        first = script.exceptions[0]
        source = f"{first.count} of {script.tasks} tasks" if first.raised_in == "task" else f"its {first.raised_in}"
        reason = f"{source} ended with {first.describe().rstrip('.')}. Correct that in the locustfile."
    elif script is not None and script.skipped:
        counts = ", ".join(f"{skip.count} of {skip.service} ({skip.fault})" for skip in script.skipped[:3])
        reason = f"no request had a usable response time: {counts}. Correct the client that reports them."
    elif script is not None and not script.tasks:
        reason = "no task was begun."
    return LoadError(f"scenario {run.scenario!r}: no request was made; {reason} See {log}")


def _recorded_requests(folder: Path) -> int:
    """Requests that can be read of a run that was not finished."""
    try:
        if (folder / RECORDING).is_file():
            return sum(map(len, Recording(folder / RECORDING)))
        return len(read_requests(folder / REQUESTS)) if (folder / REQUESTS).is_file() else 0
    except ReadError:
        return 0


def what_was_recorded(folder: Path) -> str:
    """What can still be read of a run that could not be kept whole."""
    if not (folder / STARTED).is_file() or not (count := _recorded_requests(folder)):
        return "no request was recorded"
    return f"the {count:,} requests that were recorded can be read, as an interrupted run"


def _remove_unless_recorded(folder: Path) -> None:
    """After a failure, keep recorded requests, which are evidence of an interrupted run, and Locust's log."""
    if _recorded_requests(folder):
        return
    if not (folder / "source" / "locust.log").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in (STARTED, RECORDING, REQUESTS):
        (folder / name).unlink(missing_ok=True)


def upload(run: Run, folder: Path, store: RunStore) -> Run:
    """Put a run, recorded in a temporary folder, into a store elsewhere; returns it as it is there.

    ``StoreError`` when the store did not take it: what was measured is in the store `UNSENT` then, which it names.
    """

    def put(target: RunStore) -> Run:
        run_id = target.add(run, requests=folder / REQUESTS)
        target.add_files(run_id, folder / "source")
        return target.get(run_id)

    try:
        return put(store)
    except StoreError as error:
        try:
            put(RunStore(UNSENT))
        except StoreError as another:
            raise StoreError(f"{error}; nor could it be kept here: {another}") from error
        how = shlex.join(["perfkit", "store", "sync", str(UNSENT), store.url])
        raise StoreError(f"{error}; the run is kept in {UNSENT}, `{how}` sends it") from error


@dataclass(frozen=True, slots=True)
class Execution:
    """One attempt to run a scenario: the run, or the error that prevented it."""

    scenario: str
    started_at: datetime
    ended_at: datetime
    run: Run | None = None
    error: PerfkitError | None = None

    @property
    def stopped(self) -> bool:
        return isinstance(self.error, LoadStopped) or (self.run is not None and stopped_by_user(self.run))

    @property
    def status(self) -> str:
        """``ok``, ``invalid`` or ``failed``."""
        return "failed" if self.run is None else "ok" if self.run.validity.ok else "invalid"

    def to_dict(self) -> dict[str, object]:
        stats = self.run.services.values() if self.run else ()
        return {
            "scenario": self.scenario,
            "status": self.status,
            "run_id": self.run.id if self.run else None,
            "folder": self.run.source if self.run else None,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "duration_s": round((self.ended_at - self.started_at).total_seconds(), 3),
            "load": self.run.profile.describe() if self.run else None,
            "requests": sum(service.count or 0 for service in stats),
            "failures": sum(service.failures or 0 for service in stats),
            "problems": encode(self.run.validity.problems) if self.run else [],
            "error": str(self.error) if self.error else None,
        }


def stopped_by_user(run: Run) -> bool:
    """Whether a signal to perfkit ended the run; a Locust that was killed is no wish of its user."""
    return any(
        check.name == "interrupted" and str(check.value).startswith(STOPPED_BY) for check in run.validity.problems
    )


def run_scenarios(
    scenarios: Sequence[Scenario],
    store: str,
    *,
    repeat: int = 1,
    labels: Mapping[str, str] | None = None,
    on_progress: Callable[[Scenario, Progress], None] | None = None,
    on_end: Callable[[Execution], None] | None = None,
    distribution: Distribution | None = None,
    abort_on: str | None = None,
    container: Container | None = None,
) -> tuple[Execution, ...]:
    """Run load tests one after the other, ``repeat`` rounds of them; a failing one does not stop the rest.

    A run stopped by Ctrl-C ends the sequence, because its user wants an end.  ``SettingsError`` for an ``abort_on``
    that is no rule.
    """
    if abort_on is not None:
        parse_abort_rule(abort_on)  # a mistake is found before the first run
    executions: list[Execution] = []
    for scenario in [*scenarios] * repeat:
        started_at = datetime.now(UTC)
        report = None if on_progress is None else partial(on_progress, scenario)
        abort = parse_abort_rule(abort_on) if abort_on is not None else None
        try:
            with Activity(f"running the scenario {scenario.name}"):
                run = run_scenario(scenario, RunStore(store), labels or {}, report, distribution, abort, container)
            execution = Execution(scenario.name, started_at, datetime.now(UTC), run)
        except PerfkitError as error:
            execution = Execution(scenario.name, started_at, datetime.now(UTC), error=error)
        executions.append(execution)
        if on_end is not None:
            on_end(execution)
        if execution.stopped:
            break
    return tuple(executions)


def execution_record(executions: Sequence[Execution]) -> dict[str, object]:
    """The document ``test_execution_metadata.json`` (schema ``perfkit.execution/1``)."""
    return {
        "schema": "perfkit.execution/1",
        "started_at": executions[0].started_at.isoformat() if executions else None,
        "ended_at": executions[-1].ended_at.isoformat() if executions else None,
        "status": next((s for s in ("failed", "invalid") if any(e.status == s for e in executions)), "ok"),
        "executions": [execution.to_dict() for execution in executions],
    }
