"""``perfkit runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perfkit.cli.options import SETTINGS, STORE, console, dump, settings_of


@click.command(short_help="List the runs of the store.")
@click.option("--scenario", help="Only runs of this load test.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@STORE
@SETTINGS
def runs(scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
    """List the runs of the store, oldest first.

    \b
    Example:
      perfkit runs --scenario api
    """
    from perfkit.errors import SettingsError, did_you_mean
    from perfkit.store import RunStore

    known = RunStore(store or settings_of(settings).store)
    frame = known.runs()
    if scenario and len(frame):
        names = sorted(set(frame["scenario"]))
        if scenario not in names:
            near = did_you_mean(scenario, names)
            raise SettingsError(
                f"{known.url}: no runs of the scenario {scenario!r}{near}; there are {', '.join(names)}"
            )
        frame = frame[frame["scenario"] == scenario]
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    if format_ == "json":
        click.echo(dump([{**row, "started_at": _iso(row["started_at"])} for row in rows]), nl=False)
    elif rows:
        console().print(_table(rows))
    elif not known.unfinished():
        click.echo(f"{known.url}: no runs yet; `perfkit run SCENARIO` makes one", err=True)
    for run_id in known.unfinished():
        click.echo(f"! {run_id}: not finished: still running, or killed; what it measured can be read", err=True)
    for run_id, reason in known.broken().items():
        click.echo(f"! {run_id}: skipped: {reason}", err=True)


def _iso(time: Any) -> str | None:
    return None if time is None or time != time else time.isoformat()


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("run", "left"), ("users", "right"), ("seconds", "right"), ("requests", "right")):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("failures", justify="right")
    table.add_column("valid")
    for row in rows:
        users = "" if row["users"] is None or row["users"] != row["users"] else f"{int(row['users'])}"
        seconds = (
            "" if row["duration_s"] is None or row["duration_s"] != row["duration_s"] else f"{row['duration_s']:.0f}"
        )
        valid = Text("yes") if row["valid"] else Text("no", style="magenta")
        table.add_row(Text(row["id"]), users, seconds, f"{row['requests']:,}", f"{row['failures']:,}", valid)
    return table
