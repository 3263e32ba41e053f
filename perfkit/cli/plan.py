"""``perfkit plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perfkit.cli.options import POLICY, SETTINGS, STORE, Number, console, dump, settings_of, tell


@click.command(short_help="How many runs show a change of that size?")
@click.option("--scenario", required=True, help="The load test whose runs are in the store, or such as api@rolling.")
@click.option("--detect", required=True, metavar="PERCENT", help="The worsening to be called, such as 5%.")
@click.option(
    "--power",
    type=Number(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Chance that a comparison calls a worsening of that size.",
)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@POLICY
@STORE
@SETTINGS
def plan(
    scenario: str,
    detect: str,
    power: float,
    format_: str,
    policy: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """How many runs on each side, and how long, until a change of that size is called a regression.

    Called is what `perfkit compare --history` calls: what is beyond chance and measured to be beyond its tolerance.  A
    change within the tolerance is never called, one a little above it only by many runs.  Answers from the noise
    profile of the scenario: what the runs in the store tell of its variation.

    \b
    Example:
      perfkit plan --scenario api --detect 5%
    """
    from perfkit import workflow
    from perfkit.render.theme import SHORT_METRICS

    known = settings_of(settings)
    chosen = known.policy_of(policy)
    percent = _percent(detect)
    frame = workflow.plan(
        store or known.store, scenario, percent, power=power, policy=chosen, baselines=known.baselines
    )
    rows: list[dict[str, Any]] = [
        {str(k): None if v != v else v for k, v in row.items()} for row in frame.to_dict("records")
    ]
    if format_ == "json":
        click.echo(dump({"scenario": scenario, "detect_pct": percent, "power": power, "rows": rows}), nl=False)
        return
    click.echo(f"{scenario}: runs on each side that call a worsening of {percent:g} % in {power:.0%} of comparisons")
    console().print(_table(rows))
    accepted = [row for row in rows if row["tolerance_pct"] is not None and row["tolerance_pct"] >= percent]
    if accepted:
        names = ", ".join(dict.fromkeys(SHORT_METRICS.get(row["metric"], row["metric"]) for row in accepted))
        tell(f"the policy accepts {percent:g} % of {names}: no number of runs makes a comparison call it")


def _percent(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError as error:
        raise click.BadParameter(f"expected a percentage such as 5%, got {text!r}", param_hint="--detect") from error
    if not 0 < value < 1000:
        raise click.BadParameter(f"expected a percentage above 0 and below 1000, got {text!r}", param_hint="--detect")
    return value


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from perfkit.render.theme import SHORT_METRICS, shorten

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold")
    table.add_column("metric")
    for title in ("variation", "from runs", "runs per side", "load in all", "tolerance"):
        table.add_column(title, justify="right")
    above = None
    for row in rows:
        needed, hours = row["runs_per_side"], row["hours"]
        table.add_row(
            Text("" if row["service"] == above else shorten(row["service"])),
            SHORT_METRICS.get(row["metric"], row["metric"]),
            f"{row['variation_pct']:.1f} %",
            str(row["history_runs"]),
            "~" if needed is None else str(int(needed)),
            "~" if hours is None else f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h",
            "~" if row["tolerance_pct"] is None else f"{row['tolerance_pct']:.3g} %",
        )
        above = row["service"]
    return table
