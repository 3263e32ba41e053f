"""``perfkit runs``, ``import``, ``metrics``, ``simulate`` and ``store``: runs kept, listed, checked and removed."""

from __future__ import annotations

import functools
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.completion import complete_files, complete_runs, complete_scenarios
from perfkit.cli.exit_codes import EXIT_CODES, EXIT_FAILED, EXIT_INVALID
from perfkit.cli.options import (
    BY,
    DATA_CHECKS,
    DRY_RUN,
    FOLDER,
    FORMAT,
    INJECT,
    LABELS,
    OUTPUT,
    Command,
    Number,
    Parsed,
    Workspace,
    check_scenario,
    console,
    format_option,
    in_workspace,
    progress,
    run_names,
    say,
    scenario_option,
    warn,
    write,
    write_json,
    write_metrics,
)
from perfkit.config.settings import load_fields
from perfkit.model.codec import parse_time
from perfkit.model.errors import ReadError, SettingsError
from perfkit.model.records import Severity
from perfkit.report.formatting import clean

if TYPE_CHECKING:
    import pandas as pd

EXIT_DAMAGED = EXIT_CODES[ReadError]
FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=complete_files)
RUNS = click.argument("runs", nargs=-1, metavar="[RUN...]", shell_complete=complete_runs)
SCENARIO = scenario_option("Only runs of this load test.")
SHOWN = 20  # removals named one by one


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"expected an ISO 8601 time, got {text!r}") from error


AGE = Parsed("AGE", "perfkit.runs.maintenance:parse_age")
SIZE = Parsed("SIZE", "perfkit.runs.maintenance:parse_size")
TIME = Parsed("TIME", _time)


@click.command("import", short_help="Keep foreign result files as runs.")
@FILES
@scenario_option("Name of the load test [from the file name].")
@LABELS
@in_workspace()
def import_(workspace: Workspace, files: tuple[str, ...], scenario: str | None, labels: dict[str, str]) -> int:
    """Read result files of load-test tools and keep them as runs; the same file twice is kept once.

    A run that cannot be judged is kept too: it says why, and ends with 3.

    \b
    Example:
      perfkit import results/nightly_stats.csv --scenario api --label build=1.4.2
    """
    from perfkit.history.run_selector import read_named

    store, invalid = workspace.run_store, False
    for run in (run for file in files for run in read_named(file)):
        run_id = store.import_run(run, scenario, labels)
        click.echo(run_id)
        for check in run.validity.problems:
            if check.severity is Severity.INVALID or check.name in DATA_CHECKS:
                warn(f"{run_id}: {check.severity.value}: {check.name}: {check.advice}")
        invalid = invalid or not run.validity.ok
    return EXIT_INVALID if invalid else 0


@click.command(short_help="Any result file -> normalised metrics JSON.")
@run_names("files", "FILE...")
@OUTPUT
@in_workspace(labels=True)
def metrics(workspace: Workspace, files: tuple[str, ...], output: Path | None) -> None:
    """Detect the format of result files and write their metrics as one JSON object: service name to metrics.

    What a source cannot say is absent.  A FILE may be whatever `perfkit compare` takes as a run.

    \b
    Example:
      perfkit metrics load_results_api_20261017_143004_stats.csv --output metrics.json
    """
    write_metrics(workspace, files, output)


@click.command(short_help="Write simulated Locust result files.")
@click.argument("scenario", shell_complete=complete_scenarios)
@click.option("--seed", type=int, required=True, help="The same seed gives the same requests.")
@click.option("--output", type=FOLDER, default=Path(), help="Folder [this one].")
@click.option("--at", "started_at", type=TIME, help="When the simulated run starts, ISO 8601 [now].")
@click.option("--duration", help="Such as 90s or 15m [the scenario's].")
@click.option("--users", type=click.IntRange(1), help="Peak users [the scenario's].")
@INJECT
@click.option("--runs", type=click.IntRange(1), help="Write so many run folders into the store, with every request.")
@click.option("--variation", "variation_pct", type=Number(), default=2.0, help="Between runs, percent [2.0].")
@click.option("--autocorrelation", type=Number(), default=0.0, help="Of neighbouring runs, -1 to 1 [0]; with --runs.")
@click.option(
    "--outliers", "outlier_pct", type=Number(), default=0.0, help="Percent of runs slower by 30 % [0]; with --runs."
)
@click.option(
    "--drift", "drift_pct", type=Number(), default=0.0, help="Percent from first run to last [0]; with --runs."
)
@click.option(
    "--inject-at", "change_at", type=click.IntRange(0), default=0, help="First run with --inject, from 0; with --runs."
)
@in_workspace()
def simulate(
    workspace: Workspace,
    scenario: str,
    seed: int,
    output: Path,
    started_at: datetime | None,
    duration: str | None,
    users: int | None,
    inject: tuple[str, ...],
    runs: int | None,
    **truth: Any,
) -> None:
    """Write the files that Locust would have written for one of the built-in scenarios, from a simulation.

    Nothing is sent anywhere.  The files are load_results_SCENARIO_TIME_stats.csv with its companions, and a normalised
    .json.  With --runs it writes run folders instead, whose truth is known: how runs vary, and what changes when.

    \b
    Examples:
      perfkit simulate baseline --seed 1
      perfkit simulate api --seed 2 --inject api_gateway:slower_pct=20 --output results
      perfkit simulate api --seed 3 --duration 30s --runs 60 --autocorrelation 0.3 --outliers 3 \\
          --inject api_gateway:slower_pct=10 --inject-at 40 --store data/simulated
    """
    from perfkit.loadgen.demo_services import parse_changes
    from perfkit.loadgen.simulate import SimulatedHistory, simulate_files, simulate_history

    changes = load_fields({"users": users, "duration": duration}, "--{}".format)
    config = workspace.settings.scenario(scenario, **changes)
    if runs is not None:
        try:
            history = SimulatedHistory(runs, changes=parse_changes(inject), **truth)
            for run_id in simulate_history(config, seed, history, workspace.run_store, started_at=started_at):
                click.echo(run_id)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        return
    begin = started_at or datetime.now(UTC).replace(microsecond=0)
    for file in simulate_files(config, seed, output, started_at=begin, changes=parse_changes(inject)):
        click.echo(str(file))


@click.group(short_help="Copy stores.")
def store() -> None:
    """Do something with a whole store of runs."""


@store.command(short_help="Copy the runs that another store lacks.")
@click.argument("source")
@click.argument("destination")
@DRY_RUN
def sync(source: str, destination: str, dry_run: bool) -> int:
    """Copy every run of SOURCE that DESTINATION lacks; both are folders or URLs.

    Every run is verified before it is sent and after it has arrived. What was interrupted is taken up again by the same
    command, and a second call copies nothing. A branch of a git repository takes the summaries alone. Exits with 2 when
    a run is damaged and was not copied.

    \b
    Examples:
      perfkit store sync data/runs s3://team/runs
      perfkit store sync data/runs git+branch://perf-history
      perfkit store sync 'git+branch://perf-history?repository=../service' data/runs
    """
    from perfkit.runs import maintenance
    from perfkit.runs.store import RunStore

    stores = RunStore(source), RunStore(destination)
    if not stores[0].ids():
        raise SettingsError(f"{source}: has no runs to copy; is it the place you mean?")
    if dry_run:
        click.echo(f"{len(maintenance.missing_runs(*stores))} runs to copy")
        return 0

    synced = maintenance.sync(*stores, progress("runs", least=1))
    for run_id, reason in synced.refused:
        say(f"✗ {run_id}: not copied: {reason}", err=True)
    for run_id in stores[0].unfinished():
        warn(f"{run_id}: not copied: not finished: still running, or killed")
    click.echo(f"copied {len(synced.copied)} runs; {synced.present} were there already")
    return EXIT_DAMAGED if synced.refused else 0


@click.group(invoke_without_command=True, short_help="List the runs of the store, and look after them.")
@SCENARIO
@FORMAT
@in_workspace(labels=True)
def runs(workspace: Workspace, scenario: str | None, format_: str) -> None:
    """List the runs of the store, oldest first; or do something with some of them.

    A RUN is an id, its beginning where that is enough, a pattern in quotes, or a selector such as api@last:5.

    \b
    Examples:
      perfkit runs --scenario api --label build=1.4.2
      perfkit runs show 20261017T143004Z-api-3f9c
      perfkit runs quarantine 20261017T143004Z-api-3f9c --reason "the database was being backed up"
      perfkit runs gc --requests-older-than 90d --dry-run
      perfkit runs export --format parquet --output runs.parquet
    """
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        context.invoke(list_, scenario=scenario, format_=format_, with_labels=workspace.labels)


@runs.command("list", short_help="List the runs, oldest first.")
@SCENARIO
@FORMAT
@in_workspace(labels=True)
def list_(workspace: Workspace, scenario: str | None, format_: str) -> None:
    """List the runs of the store, oldest first; the same as `perfkit runs` alone.

    \b
    Example:
      perfkit runs list --scenario api --format json
    """
    store = workspace.run_store
    frame = _listed(workspace, scenario)
    unfinished, foreign = store.no_runs()
    if format_ == "json":
        from perfkit.runs.maintenance import exported  # loads what a list of lines does without

        click.echo(exported(frame, "json").decode(), nl=False)
    elif len(frame):  # written by hand: a table of rich takes 0.3 ms per row, which is much for 20,000 of them
        names = list(map(clean, frame["id"]))
        width = max(map(len, names))
        titles = ("users", "seconds", "requests", "failures")
        click.secho(f"{'run':<{width}}" + "".join(f"  {title:>8}" for title in titles) + "  valid", bold=True)
        columns = (frame[name].tolist() for name in ("users", "duration_s", *titles[2:], "quarantined", "valid"))
        lines = []
        for name, *sizes, requests, failures, is_quarantined, is_valid in zip(names, *columns, strict=True):
            users, seconds = ("" if size != size else f"{size:.0f}" for size in sizes)
            doubt = "quarantined" if is_quarantined else "" if is_valid else "no"
            valid = click.style(doubt, fg="magenta") if doubt else "yes"
            lines.append(f"{name:<{width}}  {users:>8}  {seconds:>8}  {requests:>8,}  {failures:>8,}  {valid}")
        click.echo("\n".join(lines))
    elif not unfinished:
        click.echo(f"{store.url}: no runs yet; `perfkit run SCENARIO` makes one", err=True)
    for run_id in unfinished:
        warn(f"{run_id}: not finished: still running, or killed; what it measured can be read")
    if foreign:
        warn(f"skipped, no runs: {', '.join(map(clean, foreign[:5]))}{', ...' if len(foreign) > 5 else ''}")


def _listed(workspace: Workspace, scenario: str | None) -> pd.DataFrame:
    """The runs with the labels, of a scenario or, without one, of all; ``SettingsError`` for one that no run is of."""
    store = workspace.run_store  # and no history, which loads statistics
    frame = store.runs()
    if workspace.labels:
        frame = frame[frame["id"].isin(store.labelled(workspace.labels))]
    if scenario is None:
        return frame
    check_scenario(scenario, frame["scenario"], store.url)
    return frame[frame["scenario"] == scenario]


@runs.command(short_help="What is known of one run.")
@run_names()
@FORMAT
@in_workspace(labels=True)
def show(workspace: Workspace, runs: tuple[str, ...], format_: str) -> None:
    """Print a run: what it was, whether it can be judged, and every metric of every service.

    \b
    Example:
      perfkit runs show 20261017T143004Z-api-3f9c --format json
    """
    from perfkit.model.serialization import run_to_document
    from perfkit.report.text import run_page

    for stored in map(workspace.run_store.get, workspace.run_ids(runs)):
        if format_ == "json":
            write_json(run_to_document(stored))
        else:
            console().print(run_page(stored))


@runs.command(short_help="Set runs aside: kept, but never used.")
@RUNS
@click.option("--reason", help="Why; needed to set a run aside.")
@BY
@click.option("--lift", is_flag=True, help="Take the runs back.")
@in_workspace(labels=True)
def quarantine(workspace: Workspace, runs: tuple[str, ...], reason: str | None, by: str, lift: bool) -> None:
    """Set runs aside. They stay as they are and count as invalid; without RUN, list those that are.

    \b
    Examples:
      perfkit runs quarantine 20261017T143004Z-api-3f9c --reason "the database was being backed up"
      perfkit runs quarantine 20261017T143004Z-api-3f9c --lift
    """
    store = workspace.run_store
    if not runs and not workspace.labels:
        for note in store.quarantined().values():
            say(f"{note.run_id}: {note.reason} ({note.by}, {note.at})")
        return
    if not lift and not (reason or "").strip():
        raise click.UsageError("say why: --reason TEXT")
    for run_id in workspace.run_ids(runs):
        if lift:
            store.lift_quarantine(run_id)
        else:
            store.quarantine(run_id, reason or "", by)
        click.echo(run_id)


@runs.command(short_help="Recompute the hashes of runs.")
@RUNS
@in_workspace(labels=True)
def verify(workspace: Workspace, runs: tuple[str, ...]) -> int:
    """Recompute the hashes of runs (all of them without RUN) and print what was changed, lost or damaged.

    Exits with 2 when something is wrong.

    \b
    Example:
      perfkit runs verify --store s3://team/runs
    """
    from perfkit.runs.maintenance import verify_runs

    store = workspace.run_store
    reports = verify_runs(store, workspace.run_ids(runs) if runs or workspace.labels else None)
    if not reports:
        raise SettingsError(f"{store.url}: has no runs to verify; is it the place you mean?")
    for report in reports:
        for text in report.problems:
            say(f"✗ {report.run_id}: {text}")
        for text in report.notes:
            warn(f"{report.run_id}: {text}")
    damaged = sum(bool(report.problems) for report in reports)
    click.echo(f"{len(reports)} runs: {len(reports) - damaged} whole, {damaged} damaged")
    return EXIT_DAMAGED if damaged else 0


@runs.command(short_help="Take secrets out of stored runs.")
@RUNS
@click.option("--all", "all_", is_flag=True, help="Every run of the store, killed ones too.")
@DRY_RUN
@in_workspace(labels=True)
def redact(workspace: Workspace, runs: tuple[str, ...], all_: bool, dry_run: bool) -> int:
    """Rewrite runs that hold secrets, and seal them anew; their ids stay. No secret is printed.

    User info and query values of targets are taken out, and from all files of a run user info of addresses,
    parameters and headers of credentials, and the secrets that settings and variables name here.  Whatever was pushed,
    sent or copied before stays out there: change the secrets where they are in use.

    With --dry-run, exits with 2 when there are any; with 4 when one could not be rewritten.

    \b
    Examples:
      perfkit runs redact --all --dry-run
      perfkit runs redact 20261017T143004Z-api-3f9c
    """
    from perfkit.runs.backends import GIT
    from perfkit.runs.maintenance import redact_runs

    is_chosen = bool(runs or workspace.labels)
    if is_chosen == all_:
        raise click.UsageError("name runs, or say --all")
    store = workspace.run_store
    reports = list(redact_runs(store, workspace.run_ids(runs) if is_chosen else None, dry_run=dry_run))
    for report in reports:
        for problem in report.problems:
            say(f"✗ {problem}", err=True)
        if report.notes:
            say(f"{report.run_id}: {', '.join(report.notes)}")
    failed = sum(bool(report.problems) for report in reports)
    if not reports:
        click.echo("no secret found")
        return 0
    click.echo(f"{len(reports)} runs {'hold' if dry_run else 'held'} secrets, {failed} could not be rewritten")
    warn("change these secrets where they are in use: what was pushed, sent or copied stays out there")
    if store.url.startswith(GIT) and not dry_run:
        warn("earlier commits of the branch still hold them: rewrite its history, or name a new one")
    elif store.folder is None and not dry_run:
        warn("a bucket that keeps versions still has the earlier ones: delete them there")
    return EXIT_FAILED if failed else EXIT_DAMAGED if dry_run else 0


@runs.command(short_help="All numbers as CSV, Parquet or JSON.")
@RUNS
@SCENARIO
@format_option("csv", "parquet", "json")
@OUTPUT
@in_workspace(labels=True)
def export(
    workspace: Workspace, runs: tuple[str, ...], scenario: str | None, format_: str, output: Path | None
) -> None:
    """Write one row per run and service: what the run was, counts, every metric with its standard error.

    Of all runs, or of those that are named.

    \b
    Examples:
      perfkit runs export --scenario api > api.csv
      perfkit runs export api@last:20 --label build=1.4.2
      perfkit runs export --format parquet --output runs.parquet
    """
    from perfkit.runs.maintenance import exported, measurements

    store = workspace.run_store
    if format_ == "parquet" and output is None:
        raise click.UsageError("a Parquet file is no text: name it with --output FILE")
    ids = set(_listed(workspace, scenario)["id"])
    if runs and not (ids := ids & set(workspace.run_ids(runs))):
        raise SettingsError(f"{store.url}: none of these runs is of the scenario {scenario!r}")
    content = exported(measurements(store, ids), format_)
    write(content if output is not None else content.decode(), output)


def removal(plan_of: Command) -> Command:
    """A command that removes what a function plans: it prints the plan and asks.

    The function gets the workspace, the ids that baselines protect, and its own options.
    """

    @click.option("--baselines", type=FOLDER, help="Folder of baselines [the settings'].")
    @DRY_RUN
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @in_workspace(labels=True)
    @functools.wraps(plan_of)
    def command(workspace: Workspace, baselines: Path | None, dry_run: bool, yes: bool, **given: Any) -> None:
        from perfkit.runs.maintenance import protected_runs, remove, size_text

        if baselines is not None and not baselines.is_dir():
            raise SettingsError(f"{baselines}: is not a folder; name the folder of the baselines")
        plan = plan_of(workspace, protected_runs(baselines or workspace.settings.baselines), **given)
        if not plan:
            click.echo("nothing to remove")
            return
        for item in plan[:SHOWN]:
            name = f"requests of {item.name}" if item.what == "requests" else item.name
            say(f"- {name}: {size_text(item.size)}, {item.reason}")
        if len(plan) > SHOWN:
            click.echo(f"- and {len(plan) - SHOWN} more")
        kinds = [item.what for item in plan]
        total = size_text(sum(item.size for item in plan))
        dropped = f"the requests of {kinds.count('requests')} others"
        click.echo(f"{total} in all: {kinds.count('run')} whole runs, {dropped}")
        if dry_run:
            return
        if not yes and not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: say --yes, or --dry-run")
        if yes or click.confirm("Remove this for good?", err=True):
            click.echo(f"freed {size_text(remove(workspace.run_store, plan))}")
        else:
            click.echo("nothing was removed")

    return command


@runs.command(short_help="Remove runs, or only their requests.")
@run_names()
@click.option("--only-requests", is_flag=True, help="Keep the summaries, which is all that comparisons need.")
@removal
def rm(workspace: Workspace, protected: dict[str, str], runs: tuple[str, ...], only_requests: bool) -> Any:
    """Remove runs for good. A run that a baseline names is refused.

    \b
    Examples:
      perfkit runs rm 20261017T143004Z-api-3f9c
      perfkit runs rm '2026*-demo-*' --dry-run
    """
    from perfkit.runs.maintenance import plan_removal

    run_ids = workspace.run_ids(runs)
    return plan_removal(workspace.run_store, run_ids, protected, only_requests=only_requests)


@runs.command(short_help="Drop old requests, then old runs, and leftovers.")
@click.option("--requests-older-than", "requests_for", type=AGE, help="Drop requests: 90d, 12w, 2y.")
@click.option("--runs-older-than", "runs_for", type=AGE, help="Drop whole runs.")
@click.option(
    "--max-size",
    "most_bytes",
    type=SIZE,
    help="Drop the oldest requests, then the oldest runs, until the store fits, such as 20GB.",
)
@removal
def gc(workspace: Workspace, protected: dict[str, str], **limits: Any) -> Any:
    """Keep the store small: requests go first, whole runs last, runs that a baseline names never.

    A run without its requests still compares and stays in the history. Without a limit only what killed writers left
    half made goes. With --label nothing goes but runs with the label.

    \b
    Examples:
      perfkit runs gc --requests-older-than 90d --dry-run
      perfkit runs gc --requests-older-than 90d --runs-older-than 3y --yes
      perfkit runs gc --max-size 20GB
    """
    from perfkit.runs.maintenance import plan_retention

    only = workspace.run_ids(()) if workspace.labels else None
    return plan_retention(workspace.run_store, protected, only=only, **limits)
