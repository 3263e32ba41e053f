"""``perfkit runs``, ``import``, ``metrics``, ``simulate`` and ``store``: runs kept, listed, checked and removed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.exit_codes import EXIT_INVALID
from perfkit.cli.options import (
    DATA_CHECKS,
    DRY_RUN,
    FILE,
    FOLDER,
    FORMAT,
    INJECT,
    LABELS,
    Number,
    Workspace,
    check_scenario,
    console,
    dump,
    in_workspace,
    warn,
    write,
    write_metrics,
)

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.runs.maintenance import Removal

FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...")
SCENARIO = click.option("--scenario", help="Only runs of this load test.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
BASELINES = click.option("--baselines", type=FOLDER, help="Folder of baselines [the settings'].")
SHOWN = 20  # removals named one by one


@click.command("import", short_help="Keep foreign result files as runs.")
@FILES
@click.option("--scenario", help="Name of the load test [from the file name].")
@LABELS
@in_workspace()
def import_(workspace: Workspace, files: tuple[str, ...], scenario: str | None, labels: dict[str, str]) -> int:
    """Read result files of load-test tools and keep them as runs; the same file twice is kept once.

    A run that cannot be judged is kept too: it says why, and ends with 3.

    \b
    Example:
      perfkit import results/nightly_stats.csv --scenario api --label build=1.4.2
    """
    from perfkit.history.run_names import load_runs
    from perfkit.model.records import Severity

    store, invalid = workspace.run_store, False
    for run in load_runs(files):
        run_id = store.import_run(run, scenario, labels)
        click.echo(run_id)
        for check in run.validity.problems:
            if check.severity is Severity.INVALID or check.name in DATA_CHECKS:
                warn(f"{run_id}: {check.severity.value}: {check.name}: {check.advice}")
        invalid = invalid or not run.validity.ok
    return EXIT_INVALID if invalid else 0


@click.command(short_help="Any result file -> normalised metrics JSON.")
@FILES
@click.option("--output", type=FILE, help="Write to this file.")
@in_workspace()
def metrics(workspace: Workspace, files: tuple[str, ...], output: Path | None) -> None:
    """Detect the format of result files and write their metrics as one JSON object: service name to metrics.

    What a source cannot say is absent.  A FILE may be whatever `perfkit compare` takes as a run.

    \b
    Example:
      perfkit metrics load_results_api_20261017_143004_stats.csv --output metrics.json
    """
    write_metrics(workspace, files, output)


@click.command(short_help="Write simulated Locust result files.")
@click.argument("scenario")
@click.option("--seed", type=int, required=True, help="The same seed gives the same requests.")
@click.option("--output", type=FOLDER, default=Path(), help="Folder [this one].")
@click.option("--at", metavar="TIME", help="When the simulated run starts, ISO 8601 [now].")
@click.option("--duration", help="Such as 90s or 15m [the scenario's].")
@click.option("--users", type=click.IntRange(1), help="Peak users [the scenario's].")
@INJECT
@click.option("--runs", type=click.IntRange(1), help="Write so many run folders into the store, with every request.")
@click.option("--variation", type=Number(), default=2.0, show_default=True, help="Between runs, percent.")
@click.option("--autocorrelation", type=Number(), default=0.0, help="Of neighbouring runs, -1 to 1 [0]; with --runs.")
@click.option(
    "--outliers", type=Number(), default=0.0, help="Percent of the runs that are slower by 30 % [0]; with --runs."
)
@click.option("--drift", type=Number(), default=0.0, help="Percent from the first run to the last [0]; with --runs.")
@click.option(
    "--inject-at", type=click.IntRange(0), default=0, help="Run from which --inject holds, from 0; with --runs."
)
@in_workspace()
def simulate(
    workspace: Workspace,
    scenario: str,
    seed: int,
    output: Path,
    at: str | None,
    duration: str | None,
    users: int | None,
    inject: tuple[str, ...],
    runs: int | None,
    variation: float,
    autocorrelation: float,
    outliers: float,
    drift: float,
    inject_at: int,
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
    from perfkit.config.settings import load_fields
    from perfkit.loadgen.demo_services import parse_changes
    from perfkit.loadgen.simulate import SimulatedHistory, simulate_files, simulate_history
    from perfkit.model.codec import parse_time
    from perfkit.runs.store import RunStore

    changes = load_fields({"users": users, "duration": duration}, "--{}".format)
    chosen = workspace.settings.scenario(scenario, **changes)
    try:
        begin = parse_time(at) if at else None
    except ValueError as error:
        raise click.BadParameter(f"expected an ISO 8601 time, got {at!r}", param_hint="--at") from error
    if runs is not None:
        truth: dict[str, Any] = {
            "variation_pct": variation,
            "autocorrelation": autocorrelation,
            "outlier_pct": outliers,
        }
        truth |= {"drift_pct": drift, "change_at": inject_at}
        try:
            history = SimulatedHistory(runs, changes=parse_changes(inject), **truth)
            for run_id in simulate_history(chosen, seed, history, RunStore(workspace.store), started_at=begin):
                click.echo(run_id)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        return
    started = begin or datetime.now(UTC).replace(microsecond=0)
    written = simulate_files(chosen, seed, output, started_at=started, changes=parse_changes(inject))
    for file in (*written.files, written.metrics):
        click.echo(str(file))


@click.group(short_help="Copy stores.")
def store() -> None:
    """Do something with a whole store of runs."""


@store.command(short_help="Copy the runs that another store lacks.")
@click.argument("source")
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="Only say how many runs would be copied.")
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
    from perfkit.model.errors import SettingsError
    from perfkit.report.formatting import clean
    from perfkit.runs.maintenance import missing_runs
    from perfkit.runs.maintenance import sync as copy
    from perfkit.runs.store import RunStore

    stores = RunStore(source), RunStore(destination)
    if not stores[0].ids():
        raise SettingsError(f"{source}: has no runs to copy; is it the place you mean?")
    if dry_run:
        click.echo(f"{len(missing_runs(*stores))} runs to copy")
        return 0

    def show_progress(done: int, total: int) -> None:
        click.echo(f"\r{done} of {total} runs" + ("\n" if done == total else ""), nl=False, err=True)

    found = copy(*stores, show_progress if sys.stderr.isatty() else None)
    for run_id, reason in found.refused:
        click.echo(f"✗ {clean(run_id)}: not copied: {clean(reason)}", err=True)
    for run_id in stores[0].unfinished():
        warn(f"{run_id}: not copied: not finished: still running, or killed")
    click.echo(f"copied {len(found.copied)} runs; {found.present} were there already")
    return 2 if found.refused else 0


def chosen(workspace: Workspace, names: tuple[str, ...]) -> list[str]:
    """Run ids from ids, unique beginnings of ids, patterns and selectors such as ``api@last:5``.

    ``SettingsError`` for any other name.
    """
    from perfkit.history.run_names import is_selector
    from perfkit.model.errors import SettingsError, did_you_mean

    store = workspace.run_store
    finished = store.ids()
    ids = [*finished, *store.unfinished()]
    found: list[str] = []
    for name in names:  # a run that may still be under way is meant only by its whole id
        matching = [run_id for run_id in finished if fnmatchcase(run_id, name)]
        matching += [run_id for run_id in ids if run_id == name]
        if not matching and is_selector(name):
            matching = [run.id for run in workspace.load_runs([name])]
        beginning = [run_id for run_id in finished if run_id.startswith(name)] if name else []
        if not matching and len(beginning) != 1:
            begun = f"{len(beginning)} runs begin with it"
            reason = begun if beginning else f"has no such run{did_you_mean(name, ids)}"
            raise SettingsError(f"{store.url}: {name!r}: {reason}; `perfkit runs` lists what is there")
        found += matching or beginning
    return list(dict.fromkeys(found))


@click.group(invoke_without_command=True, short_help="List the runs of the store, and look after them.")
@SCENARIO
@FORMAT
@in_workspace()
def runs(workspace: Workspace, scenario: str | None, format_: str) -> None:
    """List the runs of the store, oldest first; or do something with some of them.

    A RUN is an id, its beginning where that is enough, a pattern in quotes, or a selector such as api@last:5.

    \b
    Examples:
      perfkit runs --scenario api
      perfkit runs show 20261017T143004Z-api-3f9c
      perfkit runs quarantine 20261017T143004Z-api-3f9c --reason "the database was being backed up"
      perfkit runs gc --requests-older-than 90d --dry-run
      perfkit runs export --format parquet --output runs.parquet
    """
    if click.get_current_context().invoked_subcommand is None:
        _list(workspace, scenario, format_)


@runs.command("list", short_help="List the runs, oldest first.")
@SCENARIO
@FORMAT
@in_workspace()
def list_(workspace: Workspace, scenario: str | None, format_: str) -> None:
    """List the runs of the store, oldest first; the same as `perfkit runs` alone.

    \b
    Example:
      perfkit runs list --scenario api --format json
    """
    _list(workspace, scenario, format_)


def _list(workspace: Workspace, scenario: str | None, format_: str) -> None:
    """A table written by hand: one of rich takes 0.3 ms per row, which is much for 20,000 of them."""
    from perfkit.report.formatting import clean

    store = workspace.run_store
    frame = _of_scenario(store.runs(), scenario, store.url)
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    unfinished, foreign = store.no_runs()
    if format_ == "json":
        plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]
        times = [{"started_at": row["started_at"] and row["started_at"].isoformat()} for row in plain]
        click.echo(dump([row | time for row, time in zip(plain, times, strict=True)]), nl=False)
    elif rows:
        width = max(len(clean(row["id"])) for row in rows)
        titles = ("users", "seconds", "requests", "failures")
        click.secho(f"{'run':<{width}}" + "".join(f"  {title:>8}" for title in titles) + "  valid", bold=True)
        for row in rows:
            known = (row[name] for name in ("users", "duration_s"))
            users, seconds = ("" if value is None or value != value else f"{value:.0f}" for value in known)
            numbers = (users, seconds, f"{row['requests']:,}", f"{row['failures']:,}")
            valid = "yes" if row["valid"] else click.style("no", fg="magenta")
            valid = click.style("quarantined", fg="magenta") if row["quarantined"] else valid
            click.echo(f"{clean(row['id']):<{width}}" + "".join(f"  {text:>8}" for text in numbers) + f"  {valid}")
    elif not unfinished:
        click.echo(f"{store.url}: no runs yet; `perfkit run SCENARIO` makes one", err=True)
    for run_id in unfinished:
        warn(f"{run_id}: not finished: still running, or killed; what it measured can be read")
    if foreign:
        warn(f"skipped, no runs: {', '.join(map(clean, foreign[:5]))}{', ...' if len(foreign) > 5 else ''}")


def _of_scenario(frame: pd.DataFrame, scenario: str | None, url: str) -> pd.DataFrame:
    """The runs of a scenario, of all without one; ``SettingsError`` for one that no run is of."""
    if scenario is None:
        return frame
    check_scenario(scenario, frame["scenario"], url)
    return frame[frame["scenario"] == scenario]


@runs.command(short_help="What is known of one run.")
@click.argument("run")
@FORMAT
@in_workspace()
def show(workspace: Workspace, run: str, format_: str) -> None:
    """Print one run: what it was, whether it can be judged, and every metric of every service.

    \b
    Example:
      perfkit runs show 20261017T143004Z-api-3f9c --format json
    """
    from perfkit.model.serialization import run_to_document
    from perfkit.report.text import run_page

    for run_id in chosen(workspace, (run,)):
        found = workspace.run_store.get(run_id)
        if format_ == "json":
            click.echo(dump(run_to_document(found)), nl=False)
        else:
            console().print(run_page(found))


@runs.command(short_help="Set runs aside: kept, but never used.")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--reason", help="Why; needed to set a run aside.")
@click.option("--by", help="Who decided it [your login].")
@click.option("--lift", is_flag=True, help="Take the runs back.")
@in_workspace()
def quarantine(workspace: Workspace, runs: tuple[str, ...], reason: str | None, by: str | None, lift: bool) -> None:
    """Set runs aside. They stay as they are and count as invalid; without RUN, list those that are.

    \b
    Examples:
      perfkit runs quarantine 20261017T143004Z-api-3f9c --reason "the database was being backed up"
      perfkit runs quarantine 20261017T143004Z-api-3f9c --lift
    """
    from perfkit.report.formatting import clean

    store = workspace.run_store
    if not runs:
        for note in store.quarantined().values():
            click.echo(f"{clean(note.run_id)}: {clean(note.reason)} ({clean(note.by)}, {clean(note.at)})")
        return
    if not lift and not (reason or "").strip():
        raise click.UsageError("say why: --reason TEXT")
    for run_id in chosen(workspace, runs):
        if lift:
            store.lift_quarantine(run_id)
        else:
            store.quarantine(run_id, reason or "", by)
        click.echo(run_id)


@runs.command(short_help="Recompute the hashes of runs.")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@in_workspace()
def verify(workspace: Workspace, runs: tuple[str, ...]) -> int:
    """Recompute the hashes of runs (all of them without RUN) and print what was changed, lost or damaged.

    Exits with 2 when something is wrong.

    \b
    Example:
      perfkit runs verify --store s3://team/runs
    """
    from perfkit.model.errors import SettingsError
    from perfkit.report.formatting import clean
    from perfkit.runs.maintenance import verify_runs

    store = workspace.run_store
    found = verify_runs(store, chosen(workspace, runs) if runs else None)
    if not found:
        raise SettingsError(f"{store.url}: has no runs to verify; is it the place you mean?")
    for run in found:
        for text in run.problems:
            click.echo(f"✗ {clean(run.run_id)}: {clean(text)}")
        for text in run.notes:
            warn(f"{run.run_id}: {text}")
    damaged = sum(bool(run.problems) for run in found)
    click.echo(f"{len(found)} runs: {len(found) - damaged} whole, {damaged} damaged")
    return 2 if damaged else 0


@runs.command(short_help="Take secrets out of stored runs.")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--all", "all_", is_flag=True, help="Every run of the store, killed ones too.")
@click.option("--dry-run", is_flag=True, help="Only say which runs hold secrets, and where.")
@in_workspace()
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
    from perfkit.report.formatting import clean
    from perfkit.runs.backends import GIT
    from perfkit.runs.maintenance import redact_runs

    if bool(runs) == all_:
        raise click.UsageError("name runs, or say --all")
    store = workspace.run_store
    exposed = list(redact_runs(store, chosen(workspace, runs) if runs else None, dry_run=dry_run))
    for run in exposed:
        for problem in run.problems:
            click.echo(f"✗ {clean(problem)}", err=True)
        if run.notes:
            click.echo(f"{clean(run.run_id)}: {', '.join(map(clean, run.notes))}")
    failed = sum(bool(run.problems) for run in exposed)
    if not exposed:
        click.echo("no secret found")
        return 0
    click.echo(f"{len(exposed)} runs {'hold secrets' if dry_run else 'held secrets'}, {failed} could not be rewritten")
    warn("change these secrets where they are in use: what was pushed, sent or copied stays out there")
    if store.url.startswith(GIT) and not dry_run:
        warn("earlier commits of the branch still hold them: rewrite its history, or name a new one")
    elif store.folder is None and not dry_run:
        warn("a bucket that keeps versions still has the earlier ones: delete them there")
    return 4 if failed else 2 if dry_run else 0


@runs.command(short_help="All numbers as CSV, Parquet or JSON.")
@SCENARIO
@click.option("--format", "format_", type=click.Choice(["csv", "parquet", "json"]), default="csv", show_default=True)
@click.option("--output", type=FILE, help="Write to this file; Parquet needs it.")
@in_workspace()
def export(workspace: Workspace, scenario: str | None, format_: str, output: Path | None) -> None:
    """Write one row per run and service: what the run was, counts, every metric with its standard error.

    \b
    Examples:
      perfkit runs export --scenario api > api.csv
      perfkit runs export --format parquet --output runs.parquet
    """
    from perfkit.runs.maintenance import exported, measurements

    store = workspace.run_store
    if format_ == "parquet" and output is None:
        raise click.UsageError("a Parquet file is no text: name it with --output FILE")
    frame = _of_scenario(store.runs(), scenario, store.url)
    content = exported(measurements(store, set(frame["id"])), format_)
    write(content if output is not None else content.decode(), output)


@runs.command(short_help="Remove runs, or only their requests.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--only-requests", is_flag=True, help="Keep the summaries, which is all that comparisons need.")
@BASELINES
@DRY_RUN
@YES
@in_workspace()
def rm(
    workspace: Workspace,
    runs: tuple[str, ...],
    only_requests: bool,
    baselines: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove runs for good. A run that a baseline names is refused.

    \b
    Examples:
      perfkit runs rm 20261017T143004Z-api-3f9c
      perfkit runs rm '2026*-demo-*' --dry-run
    """
    from perfkit.runs.maintenance import plan_removal

    needed = _protected(workspace, baselines)
    plan = plan_removal(workspace.run_store, chosen(workspace, runs), needed, only_requests=only_requests)
    _remove(workspace, plan, dry_run, yes)


@runs.command(short_help="Drop old requests, then old runs, and leftovers.")
@click.option("--requests-older-than", "requests_for", metavar="AGE", help="Drop requests: 90d, 12w, 2y.")
@click.option("--runs-older-than", "runs_for", metavar="AGE", help="Drop whole runs.")
@click.option(
    "--max-size",
    metavar="SIZE",
    help="Drop the oldest requests, then the oldest runs, until the store fits, such as 20GB.",
)
@BASELINES
@DRY_RUN
@YES
@in_workspace()
def gc(
    workspace: Workspace,
    requests_for: str | None,
    runs_for: str | None,
    max_size: str | None,
    baselines: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Keep the store small: requests go first, whole runs last, runs that a baseline names never.

    A run without its requests still compares and stays in the history. Without a limit only what killed writers left
    half made goes.

    \b
    Examples:
      perfkit runs gc --requests-older-than 90d --dry-run
      perfkit runs gc --requests-older-than 90d --runs-older-than 3y --yes
      perfkit runs gc --max-size 20GB
    """
    from perfkit.runs.maintenance import Retention, parse_age, parse_size, plan_retention

    def parsed(parse: Callable[[str], Any], text: str | None, option: str) -> Any:
        try:
            return parse(text) if text is not None else None
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option) from error

    limits = Retention(
        parsed(parse_age, requests_for, "--requests-older-than"),
        parsed(parse_age, runs_for, "--runs-older-than"),
        parsed(parse_size, max_size, "--max-size"),
    )
    needed = _protected(workspace, baselines)
    _remove(workspace, plan_retention(workspace.run_store, limits, needed), dry_run, yes)


def _protected(workspace: Workspace, baselines: Path | None) -> dict[str, str]:
    from perfkit.model.errors import SettingsError
    from perfkit.runs.maintenance import protected_runs

    if baselines is not None and not baselines.is_dir():
        raise SettingsError(f"{baselines}: is not a folder; name the folder of the baselines")
    return protected_runs(baselines or workspace.settings.baselines)


def _remove(workspace: Workspace, plan: tuple[Removal, ...], dry_run: bool, yes: bool) -> None:
    """Print what would go, ask, and remove it."""
    from perfkit.report.formatting import clean
    from perfkit.runs.maintenance import remove, size_text

    if not plan:
        click.echo("nothing to remove")
        return
    for item in plan[:SHOWN]:
        what = f"requests of {clean(item.name)}" if item.what == "requests" else clean(item.name)
        click.echo(f"- {what}: {size_text(item.size)}, {item.reason}")
    if len(plan) > SHOWN:
        click.echo(f"- and {len(plan) - SHOWN} more")
    whole = sum(item.what == "run" for item in plan)
    dropped = sum(item.what == "requests" for item in plan)
    total = size_text(sum(item.size for item in plan))
    click.echo(f"{total} in all: {whole} whole runs, the requests of {dropped} others")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: say --yes, or --dry-run")
        if not click.confirm("Remove this for good?", err=True):
            click.echo("nothing was removed")
            return
    click.echo(f"freed {size_text(remove(workspace.run_store, plan))}")
