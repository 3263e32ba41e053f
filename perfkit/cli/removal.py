"""``perfkit runs rm | gc``: take away what is not wanted any more, after saying what that would be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.options import settings_of
from perfkit.cli.runs import RUNS, chosen, opened, placed

if TYPE_CHECKING:
    from datetime import timedelta

    from perfkit.store import RunStore
    from perfkit.store.retention import Removal

YES = click.option("--yes", is_flag=True, help="Do not ask.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would go.")
BASELINES = click.option(
    "--baselines", type=click.Path(path_type=Path, file_okay=False), help="Folder of baselines [the settings']."
)
SHOWN = 20  # removals named one by one


@click.command(short_help="Remove runs, or only their requests.")
@RUNS
@click.option("--only-requests", is_flag=True, help="Keep the summaries, which is all that comparisons need.")
@BASELINES
@DRY_RUN
@YES
@placed
def rm(
    runs: tuple[str, ...],
    only_requests: bool,
    baselines: Path | None,
    dry_run: bool,
    yes: bool,
    store: str | None,
    settings: Path | None,
) -> None:
    """Remove runs for good. A run that a baseline names is refused.

    \b
    Examples:
      perfkit runs rm 20261017T143004Z-api-3f9c
      perfkit runs rm '2026*-demo-*' --dry-run
    """
    from perfkit.store.retention import plan_removal

    known = opened(store, settings)
    needed = _protected(baselines, settings)
    _carry_out(known, plan_removal(known, chosen(known, runs), needed, only_requests=only_requests), dry_run, yes)


def _amount(parse: Callable[[str], Any]) -> Callable[..., Any]:
    def convert(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        try:
            return parse(text) if text is not None else None
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


def _age(text: str) -> timedelta:
    from perfkit.store.amounts import parse_age

    return parse_age(text)


def _size(text: str) -> int:
    from perfkit.store.amounts import parse_size

    return parse_size(text)


@click.command(short_help="Drop old requests, then old runs, and leftovers.")
@click.option(
    "--requests-older-than", "requests_for", metavar="AGE", callback=_amount(_age), help="Drop requests: 90d, 12w, 2y."
)
@click.option("--runs-older-than", "runs_for", metavar="AGE", callback=_amount(_age), help="Drop whole runs.")
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=_amount(_size),
    help="Drop the oldest requests, then the oldest runs, until the store fits, such as 20GB.",
)
@BASELINES
@DRY_RUN
@YES
@placed
def gc(
    requests_for: timedelta | None,
    runs_for: timedelta | None,
    max_size: int | None,
    baselines: Path | None,
    dry_run: bool,
    yes: bool,
    store: str | None,
    settings: Path | None,
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
    from perfkit.store.retention import Retention, plan_retention

    known = opened(store, settings)
    plan = plan_retention(known, Retention(requests_for, runs_for, max_size), _protected(baselines, settings))
    _carry_out(known, plan, dry_run, yes)


def _protected(baselines: Path | None, settings: Path | None) -> dict[str, str]:
    from perfkit.errors import SettingsError
    from perfkit.store.retention import protected_runs

    if baselines is not None and not baselines.is_dir():
        raise SettingsError(f"{baselines}: is not a folder; name the folder of the baselines")
    return protected_runs(baselines or settings_of(settings).baselines)


def _carry_out(store: RunStore, plan: tuple[Removal, ...], dry_run: bool, yes: bool) -> None:
    from perfkit.store.amounts import size_text
    from perfkit.store.retention import remove

    if not plan:
        click.echo("nothing to remove")
        return
    _tell(plan)
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: say --yes, or --dry-run")
        if not click.confirm("Remove this for good?", err=True):
            click.echo("nothing was removed")
            return
    click.echo(f"freed {size_text(remove(store, plan))}")


def _tell(plan: tuple[Removal, ...]) -> None:
    from perfkit.render.theme import clean
    from perfkit.store.amounts import size_text

    for item in plan[:SHOWN]:
        what = f"requests of {clean(item.name)}" if item.what == "requests" else clean(item.name)
        click.echo(f"- {what}: {size_text(item.size)}, {item.reason}")
    if len(plan) > SHOWN:
        click.echo(f"- and {len(plan) - SHOWN} more")
    whole = sum(item.what == "run" for item in plan)
    dropped = sum(item.what == "requests" for item in plan)
    total = size_text(sum(item.size for item in plan))
    click.echo(f"{total} in all: {whole} whole runs, the requests of {dropped} others")
