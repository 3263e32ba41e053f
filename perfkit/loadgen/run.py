"""One scenario, once: start Locust, keep every request, leave a run folder.

Starting load: Locust processes, request recorder, load profiles, demo services.

A run that the store it was meant for does not take is kept on this machine, where a copy finds it.

A worker of a master on another machine: it makes load, and sends what it records to its master.

Load tests run one after the other, and the record of how each went.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from perfkit.config.settings import Scenario
from perfkit.loadgen import environment
from perfkit.loadgen.container import Container, container_facts
from perfkit.loadgen.demo_services import start_services
from perfkit.loadgen.locust_command import Distribution, LocustCommand, locustfiles, without_locust_settings
from perfkit.loadgen.locust_process import LocustOutcome, Progress, check_locust, check_locustfile, run_locust
from perfkit.loadgen.recording import finish_recording
from perfkit.loadgen.redacted_output import RedactedOutput
from perfkit.model.codec import dump_json, encode
from perfkit.model.errors import Activity, LoadError, LoadStopped, PerfkitError, ReadError, SettingsError, StoreError
from perfkit.model.files import write_whole
from perfkit.model.load_profile import LoadProfile
from perfkit.model.records import Check, Run, Severity, Validity
from perfkit.model.redaction import redact_files
from perfkit.model.script_errors import ScriptErrors
from perfkit.model.serialization import make_run_id, run_to_document
from perfkit.runs.requests import request_columns, stage_stats, summarise_columns
from perfkit.runs.run_folder import (
    RECORDING,
    RECORDING_SCHEMA,
    REQUESTS,
    STARTED,
    RequestLoader,
    generator_facts,
    read_recording,
    read_requests,
    recorded_frame,
)
from perfkit.runs.store import RunStore
from perfkit.runs.validity import check_run

UNSENT = Path("data/unsent")


def upload(run: Run, folder: Path, store: RunStore) -> Run:
    """Put a run, recorded in a folder that is about to go, into a store elsewhere; returns it as it is there.

    Raises
    ------
    StoreError
        The store did not take it.  What was measured is in the store `UNSENT` then, which the error names.
    """
    try:
        return _put(run, folder, store)
    except StoreError as error:
        try:
            _put(run, folder, RunStore(UNSENT))
        except StoreError as another:
            raise StoreError(f"{error}; nor could it be kept here: {another}") from error
        how = shlex.join(["perfkit", "store", "sync", str(UNSENT), store.url])
        raise StoreError(f"{error}; the run is kept in {UNSENT}, `{how}` sends it") from error


def _put(run: Run, folder: Path, store: RunStore) -> Run:
    run_id = store.add(run, requests=folder / REQUESTS)
    store.add_files(run_id, folder / "source")
    return store.get(run_id)


def run_worker(scenario: Scenario, host: str, port: int) -> int:
    """Run Locust as a worker until its master ends it; returns Locust's exit code.

    Users, rate and duration come from the master; the locustfile, and the course of an open model, from here.

    Raises
    ------
    LoadError
        Locust is not there, or the locustfile cannot be used.
    """
    check_locust()
    check_locustfile(scenario.locustfile)
    environment = without_locust_settings({**os.environ, **scenario.environment})
    if scenario.profile.is_open:
        environment["PERFKIT_LOAD_PROFILE"] = json.dumps(encode(scenario.profile))
    command = [sys.executable, "-P", "-m", "locust", "-f", locustfiles(scenario.locustfile), "--worker"]
    given = ["--exit-code-on-error", "0", "--master-host", host, "--master-port", str(port), *scenario.arguments]
    out, err = RedactedOutput(1), RedactedOutput(2)  # the terminal, or a file that the caller has opened
    process = subprocess.Popen([*command, *given], env=environment, stdout=out.fd, stderr=err.fd)
    try:
        for output in (out, err):
            output.close_here()
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal has told the worker too; it says good-bye to its master
    finally:
        for output in (out, err):
            output.finish()


ADDRESSES = "PERFKIT_DEMO_ADDRESSES"  # read by demo_locustfile.py
NO_HOST = "You must specify the base host"  # what Locust writes into its log
LEAST_USERS, FIRST_USERS_S = 10, 0.25
IGNORED_SETTINGS = "locust_settings"  # a check that always passes: says what had no effect
ARRIVALS_MARGIN_S = 30.0  # the arrivals themselves end the run; this is for when they cannot
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
    """Run a load test and keep it; ``abort`` may end it early.

    With a `Distribution` its workers make the load, with a `Container` Locust runs in that.

    Returns
    -------
    Run
        As it was stored.  One that was interrupted is kept too, marked ``invalid``.

    Raises
    ------
    LoadError
        Load could not be run or measured nothing; no folder that looks like a good run is left.
    LoadStopped
        A signal stopped it before its first request.
    StoreError
        The run could not be written, or not be sent; then it is kept here, and the error names the place.
    """
    with _folder(store) as parent, _with_target(scenario) as scenario:
        intent = _intent(scenario, labels)
        folder = parent / intent.id
        _begin(intent, folder)
        try:
            command = replace(_command(scenario, folder, distribution), container=container)
            try:
                outcome = run_locust(command, on_progress, abort)
            finally:
                redact_files(folder / "source")
            if container is not None:
                intent = replace(intent, **container_facts(container, folder))
            run = _finish(intent, folder, outcome, distribution)
        except (LoadError, SettingsError):
            _tidy_up(folder)
            raise
        except OSError as error:
            what = f"{folder}: the run could not be kept whole: {error.strerror or error}"
            raise StoreError(f"{what}; {_what_is_left(folder)}") from error
        if store.folder is None:
            return upload(run, folder, store)
        store.add(run)
        (folder / STARTED).unlink()
        return run


@contextmanager
def _folder(store: RunStore) -> Iterator[Path]:
    """Where to record: in the store itself when it is local, else in a temporary folder that is sent afterwards."""
    if store.folder is not None:
        yield store.folder
        return
    store.backend.folders()  # one that cannot be reached is told before the load, not after it
    with tempfile.TemporaryDirectory(prefix="perfkit-") as name:
        yield Path(name)


def _begin(intent: Run, folder: Path) -> None:
    """Make the folder of a run that is under way."""
    try:
        folder.mkdir(parents=True)
        write_whole(folder / STARTED, dump_json(run_to_document(intent)))
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}; choose another store") from error


@contextmanager
def _with_target(scenario: Scenario) -> Iterator[Scenario]:
    """The built-in scenarios bring their own target unless a host or addresses are given."""
    if not scenario.demo or scenario.host or ADDRESSES in scenario.environment:
        yield scenario
        return
    with start_services() as services:
        yield with_demo_addresses(scenario, services.addresses)


def with_demo_addresses(scenario: Scenario, addresses: Mapping[str, str]) -> Scenario:
    """A built-in scenario that calls demo services at these addresses."""
    text = ",".join(f"{name}={address}" for name, address in addresses.items())
    return replace(scenario, environment={**scenario.environment, ADDRESSES: text})


def _intent(scenario: Scenario, labels: Mapping[str, str]) -> Run:
    """The run as it is asked for, before anything is measured."""
    now = datetime.now(UTC)
    killed = Check("interrupted", "not finished", "no", Severity.INVALID, "The run was killed before it was finished.")
    source = scenario.locustfile.read_bytes() if scenario.locustfile.is_file() else b""
    return Run(
        id=make_run_id(now, scenario.name, secrets.token_hex(2)),
        scenario=scenario.name,
        started_at=now,
        duration_s=None,
        profile=scenario.profile,
        validity=Validity((killed,)),
        services={},
        tool=f"locust {environment.versions()['locust']}",
        target=scenario.host,
        labels=labels,
        environment=environment.environment_fingerprint(),
        git=dict(scenario.revision),
        versions=environment.versions(),
        locustfile_hash=hashlib.sha256(source).hexdigest(),
    )


def _command(scenario: Scenario, folder: Path, distribution: Distribution | None) -> LocustCommand:
    profile = scenario.profile
    users, pace, length = profile.users, profile.spawn_rate, profile.duration_s
    if profile.is_open:
        users = _first_users(profile)
        pace, length = float(users), (length or 0.0) + ARRIVALS_MARGIN_S
    is_shaped = not profile.is_open and profile.kind in ("stages", "spike")
    return LocustCommand(
        locustfile=scenario.locustfile,
        host=scenario.host,
        users=None if is_shaped else users,
        spawn_rate=None if is_shaped else pace,
        duration_s=math.ceil(length) if length and not is_shaped else None,  # Locust counts whole seconds
        folder=folder,
        tags=scenario.tags,
        exclude_tags=scenario.exclude_tags,
        environment=scenario.environment,
        arguments=scenario.arguments,
        profile=profile if profile.is_open or is_shaped else None,
        distribution=distribution,
    )


def _first_users(profile: LoadProfile) -> int:
    """Users to begin with: enough for answers within a quarter of a second; more come when they are needed."""
    wanted = max(LEAST_USERS, math.ceil((profile.rate or 0.0) * FIRST_USERS_S))
    return min(wanted, profile.max_in_flight or wanted)


def _finish(intent: Run, folder: Path, outcome: LocustOutcome, distribution: Distribution | None) -> Run:
    """Recording -> Parquet file, summary and run: the requests are read once."""
    is_begun = (folder / RECORDING).is_file() or not outcome.interrupted
    recorded = finish_recording(folder / RECORDING, folder / REQUESTS) if is_begun else RECORDING_SCHEMA.empty_table()
    if not len(recorded):
        script = generator_facts(folder / "source", intent.profile).script
        raise _nothing_measured(intent.scenario, outcome, folder / "source" / "locust.log", script)
    columns = request_columns(recorded_frame(recorded, folder / REQUESTS))
    summary = summarise_columns(columns)
    profile = intent.profile if not outcome.has_own_shape else LoadProfile("custom")
    facts = replace(
        generator_facts(folder / "source", profile),
        interrupted=(outcome.reason or "stopped before its time") if outcome.interrupted else None,
        warm_up_s=summary.warm_up_s,
        early_end=outcome.early_end,
        planned_s=profile.duration_s,
        users_at_end=outcome.users_at_end,
        exit_code=None if outcome.interrupted else outcome.returncode,
        skipped=columns.skipped,
        recorded=len(recorded),
        workers_asked=distribution.workers if distribution is not None else None,
        workers_lost=outcome.lost_workers,
    )
    shaped: tuple[Check, ...] = ()
    if outcome.has_own_shape and intent.profile.kind != "custom":
        advice = "The locustfile's LoadTestShape decides the load: what was asked for here had no effect."
        shaped = (Check("load_shape", intent.profile.describe(), "custom load shape", Severity.WARN, advice),)
    if outcome.ignored_settings:
        shaped += (Check(IGNORED_SETTINGS, ", ".join(outcome.ignored_settings), "ignored", Severity.OK),)
    checks = check_run(summary.services, profile, facts, None, summary.within)
    return replace(
        intent,
        profile=profile,
        stages=stage_stats(columns, profile),
        started_at=datetime.fromtimestamp(summary.begin_s, UTC),
        duration_s=summary.end_s - summary.begin_s,
        services=summary.services,
        validity=Validity((*checks, *shaped)),
        content_hash=columns.digest(),
        source=str(folder),
        load_requests=RequestLoader(lambda: read_requests(folder / REQUESTS)),
    )


def _nothing_measured(scenario: str, outcome: LocustOutcome, log: Path, script: ScriptErrors | None) -> LoadError:
    """Why there is no request."""
    if outcome.interrupted:
        kind = LoadStopped if outcome.by_user else LoadError
        return kind(f"scenario {scenario!r}: {outcome.reason} before its first request; nothing was measured")
    said = log.read_text(errors="replace") if log.is_file() else ""
    if NO_HOST in said:
        reason = "no host is known: name one with --host."
        if "LOCUST_HOST" in outcome.ignored_settings:
            reason += " LOCUST_HOST is set, and perfkit does not read it: the host is to be kept with the run."
    else:
        reason = _what_failed(script) or "do its tasks call the client?"
    return LoadError(f"scenario {scenario!r}: no request was made; {reason} See {log}")


def _what_failed(script: ScriptErrors | None) -> str:
    """The exception, or the response times, that left a run without a request."""
    if script is None:
        return ""
    if script.exceptions:
        first = script.exceptions[0]
        what = f"{first.count} of {script.tasks} tasks" if first.raised_in == "task" else f"its {first.raised_in}"
        return f"{what} ended with {first.describe().rstrip('.')}. Correct that in the locustfile."
    if script.skipped:
        names = ", ".join(f"{one.count} of {one.service} ({one.fault})" for one in script.skipped[:3])
        return f"no request had a usable response time: {names}. Correct the client that reports them."
    return "" if script.tasks else "no task was begun."


def _recorded(folder: Path) -> int:
    """Requests that can be read of a run that was not finished."""
    try:
        if (folder / RECORDING).is_file():
            return int(read_recording(folder / RECORDING).num_rows)
        return len(read_requests(folder / REQUESTS)) if (folder / REQUESTS).is_file() else 0
    except ReadError:
        return 0


def _what_is_left(folder: Path) -> str:
    """What can still be had of a run that could not be kept whole."""
    if not (folder / STARTED).is_file() or not (count := _recorded(folder)):
        return "no request was recorded"
    return f"the {count:,} requests that were recorded can be read, as an interrupted run"


def _tidy_up(folder: Path) -> None:
    """After a failure, keep recorded requests, which are evidence of an interrupted run, and Locust's log."""
    if _recorded(folder):
        return
    if not (folder / "source" / "locust.log").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in (STARTED, RECORDING, REQUESTS):
        (folder / name).unlink(missing_ok=True)


STOPPED_BY = "stopped by "  # begins the reason of a run that a signal to perfkit ended


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
        """Whether the run was interrupted by its user."""
        if isinstance(self.error, LoadStopped):
            return True
        return self.run is not None and stopped_by_user(self.run)

    @property
    def status(self) -> str:
        """``ok``, ``invalid`` or ``failed``."""
        return "failed" if self.run is None else "ok" if self.run.validity.ok else "invalid"

    def to_dict(self) -> dict[str, object]:
        """As the execution record keeps it."""
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
            "requests": sum(item.count or 0 for item in stats),
            "failures": sum(item.failures or 0 for item in stats),
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

    A run stopped by Ctrl-C ends the sequence, because its user wants an end.
    """
    from perfkit.loadgen.locust_process import parse_abort_rule

    pass

    if abort_on is not None:
        parse_abort_rule(abort_on)  # a mistake is told before the first run
    done: list[Execution] = []
    for scenario in [one for _ in range(repeat) for one in scenarios]:
        started = datetime.now(UTC)
        report = None if on_progress is None else partial(on_progress, scenario)
        abort = parse_abort_rule(abort_on).reason if abort_on is not None else None
        try:
            with Activity(f"running the scenario {scenario.name}"):
                run = run_scenario(scenario, RunStore(store), labels or {}, report, distribution, abort, container)
            done.append(Execution(scenario.name, started, datetime.now(UTC), run))
        except PerfkitError as error:
            done.append(Execution(scenario.name, started, datetime.now(UTC), error=error))
        if on_end is not None:
            on_end(done[-1])
        if done[-1].stopped:
            break
    return tuple(done)


def execution_record(executions: Sequence[Execution]) -> dict[str, object]:
    """The document ``test_execution_metadata.json`` (schema ``perfkit.execution/1``)."""
    return {
        "schema": "perfkit.execution/1",
        "started_at": executions[0].started_at.isoformat() if executions else None,
        "ended_at": executions[-1].ended_at.isoformat() if executions else None,
        "status": next((s for s in ("failed", "invalid") if any(e.status == s for e in executions)), "ok"),
        "executions": [execution.to_dict() for execution in executions],
    }
