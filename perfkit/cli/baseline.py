"""``perfkit baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.options import POLICY, SETTINGS, STORE, check_scenario, console, dump, settings_of, tell, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfkit.history.baselines import Pinned
    from perfkit.history.pinning import Standing
    from perfkit.history.selection import Past

REASON = click.option("--reason", required=True, help="Why; kept for those who review it.")
BY = click.option("--by", default="", help="Who says so [your login].")
EXPIRES = click.option("--expires", metavar="DAY", help="Last day on which it is good: 2027-01-31, or 90d from now.")
SCENARIO = click.option("--scenario", help="Only baselines of this load test.")
FORMAT = click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group(short_help="Pin, list, move and extract baselines.")
def baseline() -> None:
    """Baselines: runs that others are held against.

    Pinned ones are JSON files under data/baselines, to be reviewed and committed.  Wherever runs are asked for,
    SCENARIO@pinned:NAME names them; SCENARIO@rolling, the runs since the last change, needs no pin.
    """


@baseline.command(short_help="Choose runs as an anchor.")
@click.argument("name")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@REASON
@BY
@EXPIRES
@STORE
@SETTINGS
def pin(
    name: str,
    runs: tuple[str, ...],
    reason: str,
    by: str,
    expires: str | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Pin runs under a name.  Invalid runs are left out, and said.

    \b
    Examples:
      perfkit baseline pin v1.4 api@rolling --reason "release 1.4, measured overnight" --expires 90d
      perfkit baseline pin quiet "20261101T*-api-*" --reason "before the move to the new database"
    """
    from perfkit import workflow
    from perfkit.history.pinning import pin_runs

    past = _past(store, settings)
    chosen = workflow.load_runs(runs, store=past.store.address, baselines=past.baselines, alpha=past.alpha)
    pinned, notes = pin_runs(past, name, chosen, reason=reason, by=by, expires=_day(expires))
    _say(past, pinned, notes)


@baseline.command(short_help="Move an anchor to the runs after an intended change.")
@click.argument("event", metavar="EVENT_OR_RUN")
@REASON
@BY
@click.option("--name", help="Which pinned baseline, where the scenario has several.")
@EXPIRES
@POLICY
@STORE
@SETTINGS
def accept(
    event: str,
    reason: str,
    by: str,
    name: str | None,
    expires: str | None,
    policy: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Accept a change: its pinned baseline moves to the runs of the level that begins with this run.

    Of several runs, such as api@rolling, the first is meant.  Where the baseline was before stays in its file; one that
    has expired needs a new day.

    \b
    Example:
      perfkit baseline accept 20261102T020000Z-api-3f9c --reason "TLS everywhere costs 8 %, decided in #412"
    """
    from datetime import UTC, datetime

    from perfkit import workflow
    from perfkit.history.pinning import accept as move

    past = _past(store, settings, policy)
    first = workflow.first_named(event, store=past.store.address, baselines=past.baselines, alpha=past.alpha)
    day = _day(expires)
    moved = move(past, first, reason=reason, by=by, name=name, expires=day, now=datetime.now(UTC))
    _say(past, moved, ())


@baseline.command("list", short_help="The pinned baselines, and what speaks against them.")
@SCENARIO
@FORMAT
@STORE
@SETTINGS
def list_(scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
    """List the pinned baselines; one that is stale, expired, too small or foreign says so.

    \b
    Example:
      perfkit baseline list --scenario api
    """
    from perfkit.history.baselines import Baselines
    from perfkit.history.pinning import standing

    past = _past(store, settings)
    _check_scenario(past, scenario)
    every = [standing(past, pinned) for pinned in Baselines(past.baselines).all(scenario)]
    if format_ == "json":
        click.echo(dump([item.to_dict() for item in every]), nl=False)
        return
    if not every:
        whose = f" of {scenario}" if scenario is not None else ""
        click.echo(
            f"{past.baselines}: no pinned baselines{whose}; `perfkit baseline pin NAME RUN...` makes one", err=True
        )
        return
    console().print(_table(every))
    _notes(note for item in every for note in item.warnings)


@baseline.command(short_help="One pinned baseline, with its history.")
@click.argument("name")
@SCENARIO
@FORMAT
@STORE
@SETTINGS
def show(name: str, scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
    """Show a pinned baseline: its runs, who chose them and why, what it was before, what speaks against it.

    \b
    Example:
      perfkit baseline show v1.4
    """
    from perfkit.history.baselines import find_named
    from perfkit.history.pinning import standing

    past = _past(store, settings)
    _check_scenario(past, scenario)
    found = standing(past, find_named(past.baselines, name, scenario))
    if format_ == "json":
        click.echo(dump(found.to_dict()), nl=False)
        return
    for line in _lines(found):
        click.echo(line)
    _notes(found.warnings)


@baseline.command("extract", short_help="Result files -> performance-baselines-v2.json.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("performance-baselines-v2.json"),
    show_default=True,
    help="The baselines file.",
)
@STORE
@SETTINGS
def extract(files: tuple[str, ...], output: Path, store: str | None, settings: Path | None) -> None:
    """Write the baselines file: service name to users, latencies, error rate, rps, counts and time.

    Several runs of one service are pooled: counts add up, other values are averaged over runs.  A FILE may be whatever
    `perfkit compare` takes as a run.

    \b
    Examples:
      perfkit baseline extract load_results_baseline_*_stats.csv
      perfkit baseline extract api@pinned:v1.4 --output v1.4.json
    """
    from perfkit import workflow
    from perfkit.readers.metrics_json import pooled_metrics

    known = settings_of(settings)
    runs = workflow.load_runs(files, store=store or known.store, baselines=known.baselines, policy=known.policy)
    write(dump(pooled_metrics(runs)), output)


def _past(store: str | None, settings: Path | None, policy: Path | None = None) -> Past:
    from perfkit.history.selection import Past
    from perfkit.policy import Policy
    from perfkit.store import RunStore

    known = settings_of(settings)
    judging = Policy.from_toml(policy) if policy else known.policy
    return Past(RunStore(store or known.store), known.baselines, alpha=judging.alpha)


def _check_scenario(past: Past, scenario: str | None) -> None:
    """``SettingsError`` for a scenario that has neither runs nor a pinned baseline."""
    from perfkit.history.baselines import Baselines

    if scenario is not None:
        pinned = [item.scenario for item in Baselines(past.baselines).all()]
        check_scenario(scenario, (*past.store.runs()["scenario"], *pinned), past.store.url)


def _day(text: str | None) -> Any:
    from datetime import UTC, datetime

    from perfkit.history.baselines import parse_day

    if text is None:
        return None
    try:
        return parse_day(text, datetime.now(UTC).date())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error


def _say(past: Past, pinned: Pinned, notes: tuple[str, ...]) -> None:
    from perfkit.history.baselines import Baselines
    from perfkit.history.pinning import standing

    count = f"{len(pinned.runs)} run{'' if len(pinned.runs) == 1 else 's'}"
    click.echo(f"wrote {Baselines(past.baselines).place(pinned.scenario, pinned.name)}: {count}")
    _notes((*notes, *standing(past, pinned).warnings))


def _notes(notes: Iterable[str]) -> None:
    for note in notes:
        tell(note)


def _table(every: list[Standing]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from perfkit.render.theme import clean, shorten

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("baseline", "runs", "load", "created", "expires", "by", "reason"):
        table.add_column(title, justify="right" if title == "runs" else "left", overflow="fold")
    for item in every:
        pinned = item.pinned
        table.add_row(
            Text(clean(f"{pinned.scenario}@pinned:{pinned.name}")),
            f"{len(item.runs)}" if len(item.runs) == len(pinned.runs) else f"{len(item.runs)} of {len(pinned.runs)}",
            Text(clean(pinned.profile)),
            f"{pinned.created:%Y-%m-%d}",
            str(pinned.expires or ""),
            Text(shorten(pinned.by, 24)),
            Text(shorten(pinned.reason, 60)),
        )
    return table


def _lines(found: Standing) -> list[str]:
    from perfkit.render.theme import clean

    pinned = found.pinned
    here = {run.id for run in found.runs}
    lines = [
        f"{pinned.scenario}@pinned:{pinned.name}: {pinned.reason}",
        f"by {pinned.by or 'unknown'}, {pinned.created:%Y-%m-%d}, good until {pinned.expires or 'further notice'}",
        f"load: {pinned.profile}",
        *(f"{name}: {value}" for name, value in pinned.environment.items()),
        *(f"run {run_id}{'' if run_id in here else ' (gone, or no longer valid)'}" for run_id in pinned.runs),
        *(
            f"before: {len(item.get('runs', ()))} runs from {str(item.get('created', ''))[:10]} on, by "
            f"{item.get('by', '')}: {item.get('reason', '')}"
            for item in reversed(pinned.history)
        ),
    ]
    return [clean(line) for line in lines]
