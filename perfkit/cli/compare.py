"""``perfkit compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import (
    OPTIONAL_CANDIDATE,
    POLICY,
    RULE,
    SETTINGS,
    STORE,
    Variadic,
    console,
    dump,
    settings_of,
    write,
)

if TYPE_CHECKING:
    from perfkit.model import Comparison

EXIT_INVALID = 3


@click.command(cls=Variadic, short_help="Judge candidate runs against baseline runs.")
@click.argument("baseline", nargs=-1, metavar="[BASELINE...]")
@OPTIONAL_CANDIDATE
@POLICY
@RULE
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "markdown", "junit"]),
    default="text",
    show_default=True,
    help="How to write the result.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@click.option(
    "--fail-on",
    type=click.Choice(["regression", "inconclusive", "never"]),
    default="regression",
    show_default=True,
    help="What ends with exit code 1.  Invalid runs end with 3 in any case.",
)
@click.option("--history", is_flag=True, help="Learn the noise from the other runs of this scenario in the store too.")
@click.option(
    "--explain",
    nargs=2,
    metavar="SERVICE METRIC",
    help="Print the arithmetic of one verdict, step by step; of a result file or report folder too, without CANDIDATE.",
)
@STORE
@SETTINGS
def compare(
    baseline: tuple[str, ...],
    candidate: tuple[str, ...],
    policy: Path | None,
    rule: str | None,
    format_: str,
    output: Path | None,
    fail_on: str,
    history: bool,
    explain: tuple[str, str] | None,
    store: str | None,
    settings: Path | None,
) -> int:
    """Judge candidate runs against baseline runs, or, without a BASELINE, against the history of their scenario.

    Each run is a run folder, a run id of the store, a tool's result file, a folder, prefix or pattern of such, or a
    selector: api@rolling (the runs since the last change), api@pinned:NAME, api@last:5, api@commit:abc123,
    api@branch:main, api@merge-base.

    Against history, the baseline is SCENARIO@rolling without the candidate, every metric of every service is watched
    under one alarm budget, and changes that were acknowledged (`perfkit ack`) are listed but do not fail.

    \b
    Examples:
      perfkit compare data/runs/20261101T*-api-* --candidate data/runs/20261102T*-api-*
      perfkit compare --candidate 20261102T020000Z-api-3f9c
      perfkit compare api@merge-base --candidate api@last:3
      perfkit compare old_stats.csv --candidate new_stats.csv --format markdown --output reports/regression-analysis.md
      perfkit compare "data/runs/*-api-1*" --candidate "data/runs/*-api-2*" --explain api_gateway p95_latency_ms
      perfkit compare reports/20261102-api-compare --explain api_gateway p95_latency_ms
      perfkit compare performance-baselines-v2.json --candidate metrics.json --rule threshold
    """
    from perfkit import workflow

    known = settings_of(settings)
    chosen = known.policy_of(policy).with_rule(rule)
    place = store or known.store
    if history and not baseline:
        raise click.UsageError("--history: without a BASELINE the history is judged against, and learned from, anyway")
    if explain is not None and not candidate and len(baseline) == 1:
        comparison = workflow.stored_comparison(baseline[0])
    elif not candidate:
        raise click.UsageError("Missing option '--candidate'.")
    else:
        comparison = workflow.compare_named(
            baseline, candidate, store=place, settings=known, policy=chosen, learn=history
        )
    if explain is not None:
        write(workflow.explain(comparison, *explain), output)
    else:
        _write(comparison, format_, output)
    return exit_code(comparison, fail_on)


def _write(comparison: Comparison, format_: str, output: Path | None) -> None:
    if format_ == "json":
        write(dump(comparison.to_dict()), output)
    elif format_ == "markdown":
        from perfkit.render.markdown import to_markdown

        write(to_markdown(comparison), output)
    elif format_ == "junit":
        from perfkit.render.junit import to_junit

        write(to_junit(comparison), output)
    else:
        print_text(comparison, output)


def print_text(comparison: Comparison, output: Path | None = None) -> None:
    """A comparison as a terminal shows it."""
    from perfkit.render.terminal import print_comparison

    screen = console()
    with screen.capture() as captured:
        print_comparison(comparison, screen)
    write(captured.get(), output)


def exit_code(comparison: Comparison, fail_on: str = "regression") -> int:
    """0, 1 or 3 as documented; what cannot be judged is never green, whatever ``fail_on`` says."""
    from perfkit.model import Verdict

    if comparison.verdict is Verdict.INVALID:
        return EXIT_INVALID
    failing = {"regression": (Verdict.REGRESSION,), "inconclusive": (Verdict.REGRESSION, Verdict.INCONCLUSIVE)}
    return int(comparison.verdict in failing.get(fail_on, ()))
