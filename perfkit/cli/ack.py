"""``perfkit ack``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import POLICY, SETTINGS, STORE, dump, settings_of

if TYPE_CHECKING:
    from perfkit.history.acknowledged import Acknowledgement, KnownMovement


@click.command(short_help="Silence a known or intended change.")
@click.argument("event", required=False)
@click.option("--reason", help="Why it is fine; kept for those who review it.")
@click.option("--by", default="", help="Who says so [your login].")
@click.option("--until", metavar="DAY", help="Last day on which it holds: 2027-01-31, or 30d from now.")
@click.option("--list", "list_", is_flag=True, help="What is acknowledged.")
@click.option("--remove", metavar="EVENT", help="Let it be heard again.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@POLICY
@STORE
@SETTINGS
def ack(
    event: str | None,
    reason: str | None,
    by: str,
    until: str | None,
    list_: bool,
    remove: str | None,
    format_: str,
    policy: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Acknowledge a change: `perfkit compare` without a baseline and `perfkit changes` list it, and stay silent.

    EVENT is the id of an event, or of a run that begins a new level; of several runs, such as api@rolling, the first.
    Silent until something new happens there: another metric or service moves, or one moves by materially more.  Kept in
    data/acknowledged.json, to be reviewed and committed.

    \b
    Examples:
      perfkit ack 20261102T020000Z-api-3f9c --reason "TLS everywhere costs 8 %, decided in #412" --until 90d
      perfkit ack --list
      perfkit ack --remove 20261102T020000Z-api-3f9c
    """
    from perfkit.history.acknowledged import AcknowledgedFile

    known = settings_of(settings)
    file = AcknowledgedFile(known.acknowledged)
    if sum((list_, remove is not None, event is not None)) != 1:
        raise click.UsageError("name an event, or say --list or --remove EVENT")
    if list_:
        _print(file.read(), format_)
    elif remove is not None:
        click.echo(f"removed {file.remove(remove).id} from {file.path}")
    else:
        if reason is None:
            raise click.UsageError("Missing option '--reason'.")
        one = _acknowledge(str(event), reason, by, until, policy, store, settings)
        file.add(one)
        _print([one], format_)
        click.echo(f"wrote {file.path}", err=True)


def _acknowledge(
    event: str,
    reason: str,
    by: str,
    until: str | None,
    policy: Path | None,
    store: str | None,
    settings: Path | None,
) -> Acknowledgement:
    from datetime import UTC, datetime

    from perfkit import workflow
    from perfkit.history.baselines import parse_day
    from perfkit.history.recognising import acknowledge
    from perfkit.history.selection import Past
    from perfkit.store import RunStore

    known = settings_of(settings)
    chosen = known.policy_of(policy)
    now = datetime.now(UTC)
    try:
        day = parse_day(until, now.date()) if until is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--until") from error
    past = Past(RunStore(store or known.store), known.baselines, alpha=chosen.alpha)
    first = workflow.first_named(event, store=past.store.address, baselines=past.baselines, alpha=chosen.alpha)
    return acknowledge(past, first, chosen, reason=reason, by=by, until=day, now=now)


def _print(every: tuple[Acknowledgement, ...] | list[Acknowledgement], format_: str) -> None:
    from perfkit.render.theme import clean

    if format_ == "json":
        click.echo(dump([one.to_dict() for one in every]), nl=False)
        return
    for one in every:
        click.echo(clean(f"{one.id}  {one.scenario}: {one.describe()}"))
        for item in one.movements:
            click.echo(f"  {clean(_words(item))}")
    if not every:
        click.echo("nothing is acknowledged", err=True)


def _words(item: KnownMovement) -> str:
    from perfkit.render.theme import format_signed

    unit = item.metric.change_unit
    limit = "" if item.limit == float("inf") else f", silent up to {format_signed(item.limit, unit).lstrip('+')} {unit}"
    return f"{item.metric.title} of {item.service} {format_signed(item.size, unit)} {unit}{limit}"
