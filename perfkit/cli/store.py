"""``perfkit store``: a store as a whole."""

from __future__ import annotations

import sys

import click


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
    from perfkit.errors import SettingsError
    from perfkit.render.theme import clean
    from perfkit.store import RunStore
    from perfkit.store.sync import missing_runs
    from perfkit.store.sync import sync as copy

    stores = RunStore(source), RunStore(destination)
    if not stores[0].ids():
        raise SettingsError(f"{source}: has no runs to copy; is it the place you mean?")
    if dry_run:
        click.echo(f"{len(missing_runs(*stores))} runs to copy")
        return 0
    found = copy(*stores, _progress if sys.stderr.isatty() else None)
    for run_id, reason in found.refused:
        click.echo(f"✗ {clean(run_id)}: not copied: {clean(reason)}", err=True)
    for run_id in stores[0].unfinished():
        click.echo(f"! {clean(run_id)}: not copied: not finished: still running, or killed", err=True)
    click.echo(f"copied {len(found.copied)} runs; {found.present} were there already")
    return 2 if found.refused else 0


def _progress(done: int, wanted: int) -> None:
    click.echo(f"\r{done} of {wanted} runs" + ("\n" if done == wanted else ""), nl=False, err=True)
