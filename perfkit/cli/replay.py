"""``perfkit replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import POLICY, RULE, SETTINGS, STORE, dump, settings_of

if TYPE_CHECKING:
    from perfkit.replay import Replay


@click.command(short_help="When would a policy have fired in the past?")
@click.option("--scenario", required=True, help="The load test whose history is judged, or such as api@branch:main.")
@click.option(
    "--window",
    type=click.IntRange(1),
    default=9,
    show_default=True,
    help="Each run is judged against so many before it.",
)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@POLICY
@RULE
@STORE
@SETTINGS
def replay(
    scenario: str,
    window: int,
    format_: str,
    policy: Path | None,
    rule: str | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Judge every stored run of a scenario against the runs before it, and say when the policy would have fired.

    Ends 0: the past is no reason to fail.

    \b
    Example:
      perfkit replay --scenario api --policy stricter.toml
    """
    from perfkit import workflow

    known = settings_of(settings)
    chosen = known.policy_of(policy).with_rule(rule)
    found = workflow.replay_history(
        store or known.store, scenario, policy=chosen, window=window, baselines=known.baselines
    )
    if format_ == "json":
        click.echo(dump([_row(item) for item in found]), nl=False)
        return
    from perfkit.render.theme import verdict_text
    from perfkit.render.words import headlines

    for item in found:
        text = f": {headlines(item.comparison)[0]}" if item.comparison.verdict == "regression" else ""
        click.echo(f"{item.run.id}  {verdict_text(item.comparison.verdict)}{text}")
    counts = {word: sum(item.comparison.verdict == word for item in found) for word in ("regression", "inconclusive")}
    click.echo(f"{len(found)} runs judged: {counts['regression']} fired, {counts['inconclusive']} inconclusive")


def _row(item: Replay) -> dict[str, object]:
    comparison = item.comparison
    return {
        "run": item.run.id,
        "verdict": comparison.verdict.value,
        "regressions": [f"{f.service} {f.metric}" for f in comparison.findings if f.verdict == "regression"],
        "warnings": list(comparison.warnings),
    }
