"""``perfkit runs``: list the store, look at a run, set it aside, take runs away, check them, hand them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.options import SETTINGS, STORE, check_scenario, console, dump, settings_of, write

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.store import RunStore

RUNS = click.argument("runs", nargs=-1, required=True, metavar="RUN...")
FORMAT = click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
SCENARIO = click.option("--scenario", help="Only runs of this load test.")


def placed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where the runs are."""
    return STORE(SETTINGS(command))


def opened(store: str | None, settings: Path | None) -> RunStore:
    """The store of a command, or the one that was named before it (``perfkit runs --store URL show RUN``)."""
    from perfkit.store import RunStore

    return RunStore(store or _before("store") or settings_of(settings or _before("settings")).store)


def _before(option: str) -> Any:
    """What an option was given before the name of the command."""
    parent = click.get_current_context().parent
    return parent.params.get(option) if parent is not None else None


def chosen(store: RunStore, names: tuple[str, ...]) -> list[str]:
    """Run ids from ids, beginnings of ids that only one run has, patterns and selectors such as ``api@last:5``.

    ``SettingsError`` for any other name.
    """
    from fnmatch import fnmatchcase

    from perfkit import workflow
    from perfkit.errors import SettingsError, did_you_mean

    whole, unfinished = store.ids(), store.unfinished()
    known = [*whole, *unfinished]
    found: list[str] = []
    settings = settings_of(click.get_current_context().params.get("settings") or _before("settings"))
    pins, alpha = settings.baselines, settings.policy.alpha
    for name in names:  # a run that may still be under way is meant only by its whole id
        own = [run_id for run_id in whole if fnmatchcase(run_id, name)] + [run_id for run_id in known if run_id == name]
        if not own and workflow.is_selector(name):
            own = [run.id for run in workflow.load_runs([name], store=store.address, baselines=pins, alpha=alpha)]
        begun = [run_id for run_id in whole if run_id.startswith(name)] if name else []
        if not own and len(begun) != 1:
            why = f"{len(begun)} runs begin with it" if begun else f"has no such run{did_you_mean(name, known)}"
            raise SettingsError(f"{store.url}: {name!r}: {why}; `perfkit runs` lists what is there")
        found += own or begun
    return list(dict.fromkeys(found))


@click.group(invoke_without_command=True, short_help="List the runs of the store, and look after them.")
@SCENARIO
@FORMAT
@placed
@click.pass_context
def runs(context: click.Context, scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
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
    if context.invoked_subcommand is None:
        _list(opened(store, settings), scenario, format_)


@runs.command("list", short_help="List the runs, oldest first.")
@SCENARIO
@FORMAT
@placed
def list_(scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
    """List the runs of the store, oldest first; the same as `perfkit runs` alone.

    \b
    Example:
      perfkit runs list --scenario api --format json
    """
    _list(opened(store, settings), scenario, format_)


def _list(known: RunStore, scenario: str | None, format_: str) -> None:
    frame = _of(known.runs(), scenario, known.url)
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    if format_ == "json":
        click.echo(dump([{name: _plain(value) for name, value in row.items()} for row in rows]), nl=False)
    elif rows:
        for line in _lines(rows):
            click.echo(line)
    unfinished, foreign = known.no_runs()
    if not rows and not unfinished and format_ == "text":
        click.echo(f"{known.url}: no runs yet; `perfkit run SCENARIO` makes one", err=True)
    _tell_what_is_skipped(unfinished, foreign)


def _of(frame: pd.DataFrame, scenario: str | None, url: str) -> pd.DataFrame:
    """The runs of a scenario, of all without one; ``SettingsError`` for one that no run is of."""
    if scenario is None:
        return frame
    check_scenario(scenario, frame["scenario"], url)
    return frame[frame["scenario"] == scenario]


def _tell_what_is_skipped(unfinished: list[str], foreign: list[str]) -> None:
    from perfkit.render.theme import clean

    for run_id in unfinished:
        click.echo(f"! {clean(run_id)}: not finished: still running, or killed; what it measured can be read", err=True)
    if foreign:
        names = ", ".join(map(clean, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        click.echo(f"! skipped, no runs: {names}", err=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat() if value == value else None
    return None if value != value else value


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A table of runs.  Written by hand, since one of rich takes 0.3 ms per row, which is much for 20,000 of them."""
    from perfkit.render.theme import clean

    width = max(len(clean(row["id"])) for row in rows)
    head = ("users", "seconds", "requests", "failures")
    yield click.style(f"{'run':<{width}}" + "".join(f"  {title:>8}" for title in head) + "  valid", bold=True)
    for row in rows:
        numbers = (_whole(row["users"]), _whole(row["duration_s"]), f"{row['requests']:,}", f"{row['failures']:,}")
        valid = "yes" if row["valid"] else click.style("no", fg="magenta")
        valid = click.style("quarantined", fg="magenta") if row["quarantined"] else valid
        yield f"{clean(row['id']):<{width}}" + "".join(f"  {text:>8}" for text in numbers) + f"  {valid}"


def _whole(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.0f}"


@runs.command(short_help="What is known of one run.")
@click.argument("run")
@FORMAT
@placed
def show(run: str, format_: str, store: str | None, settings: Path | None) -> None:
    """Print one run: what it was, whether it can be judged, and every metric of every service.

    \b
    Example:
      perfkit runs show 20261017T143004Z-api-3f9c --format json
    """
    from perfkit.document import run_to_document
    from perfkit.render.run_page import run_page

    known = opened(store, settings)
    for run_id in chosen(known, (run,)):
        found = known.get(run_id)
        if format_ == "json":
            click.echo(dump(run_to_document(found)), nl=False)
        else:
            console().print(run_page(found))


@runs.command(short_help="Set runs aside: kept, but never used.")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--reason", help="Why; needed to set a run aside.")
@click.option("--by", help="Who says so [the user].")
@click.option("--lift", is_flag=True, help="Take the runs back.")
@placed
def quarantine(
    runs: tuple[str, ...], reason: str | None, by: str | None, lift: bool, store: str | None, settings: Path | None
) -> None:
    """Set runs aside. They stay as they are and count as invalid; without RUN, list those that are.

    \b
    Examples:
      perfkit runs quarantine 20261017T143004Z-api-3f9c --reason "the database was being backed up"
      perfkit runs quarantine 20261017T143004Z-api-3f9c --lift
    """
    from perfkit.render.theme import clean

    known = opened(store, settings)
    if not runs:
        for note in known.quarantined().values():
            click.echo(f"{clean(note.run_id)}: {clean(note.reason)} ({clean(note.by)}, {clean(note.at)})")
        return
    if not lift and not (reason or "").strip():
        raise click.UsageError("say why: --reason TEXT")
    for run_id in chosen(known, runs):
        if lift:
            known.lift_quarantine(run_id)
        else:
            known.quarantine(run_id, reason or "", by)
        click.echo(run_id)


@runs.command(short_help="Recompute the hashes of runs.")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@placed
def verify(runs: tuple[str, ...], store: str | None, settings: Path | None) -> int:
    """Recompute the hashes of runs (all of them without RUN) and tell what was changed, lost or damaged.

    Exits with 2 when something is wrong.

    \b
    Example:
      perfkit runs verify --store s3://team/runs
    """
    from perfkit.errors import SettingsError
    from perfkit.render.theme import clean
    from perfkit.store.verify import verify_run, with_notes

    known = opened(store, settings)
    checked = [verify_run(known, run_id) for run_id in (chosen(known, runs) if runs else known.ids())]
    every = with_notes(known, checked, others=not runs)
    if not every:
        raise SettingsError(f"{known.url}: has no runs to verify; is it the place you mean?")
    for found in every:
        for text in found.problems:
            click.echo(f"✗ {clean(found.run_id)}: {clean(text)}")
        for text in found.notes:
            click.echo(f"! {clean(found.run_id)}: {clean(text)}", err=True)
    damaged = sum(bool(found.problems) for found in every)
    click.echo(f"{len(every)} runs: {len(every) - damaged} whole, {damaged} damaged")
    return 2 if damaged else 0


@runs.command(short_help="Take secrets out of stored runs.")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--all", "all_", is_flag=True, help="Every run of the store, killed ones too.")
@click.option("--dry-run", is_flag=True, help="Only say which runs hold secrets, and where.")
@placed
def redact(runs: tuple[str, ...], all_: bool, dry_run: bool, store: str | None, settings: Path | None) -> int:
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
    from perfkit.errors import StoreError
    from perfkit.render.theme import clean
    from perfkit.store.place import GIT
    from perfkit.store.redacted import exposed_runs, redact_run

    if bool(runs) == all_:
        raise click.UsageError("name runs, or say --all")
    known = opened(store, settings)
    exposed = exposed_runs(known, chosen(known, runs) if runs else None)
    failed = 0
    for run in exposed:
        try:
            where = run.where if dry_run else redact_run(known, run.run_id)
            click.echo(f"{clean(run.run_id)}: {', '.join(map(clean, where))}")
        except StoreError as error:
            failed += 1
            click.echo(f"✗ {clean(str(error))}", err=True)
    if not exposed:
        click.echo("no secret found")
        return 0
    click.echo(f"{len(exposed)} runs {'hold secrets' if dry_run else 'held secrets'}, {failed} could not be rewritten")
    click.echo(
        "! change these secrets where they are in use: what was pushed, sent or copied stays out there", err=True
    )
    if known.url.startswith(GIT) and not dry_run:
        click.echo("! earlier commits of the branch still hold them: rewrite its history, or name a new one", err=True)
    elif known.folder is None and not dry_run:
        click.echo("! a bucket that keeps versions still has the earlier ones: delete them there", err=True)
    return 4 if failed else 2 if dry_run else 0


@runs.command(short_help="All numbers as CSV, Parquet or JSON.")
@SCENARIO
@click.option("--format", "format_", type=click.Choice(["csv", "parquet", "json"]), default="csv", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file; Parquet needs it.")
@placed
def export(scenario: str | None, format_: str, output: Path | None, store: str | None, settings: Path | None) -> None:
    """Write one row per run and service: what the run was, counts, every metric with its standard error.

    \b
    Examples:
      perfkit runs export --scenario api > api.csv
      perfkit runs export --format parquet --output runs.parquet
    """
    from perfkit.store.export import exported, measurements

    known = opened(store, settings)
    if format_ == "parquet" and output is None:
        raise click.UsageError("a Parquet file is no text: name it with --output FILE")
    frame = _of(known.runs(), scenario, known.url)
    content = exported(measurements(known, set(frame["id"])), format_)
    write(content if output is not None else content.decode(), output)
