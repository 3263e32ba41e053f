"""``perfkit compare``, ``plan`` and ``replay``: runs judged now, how many it takes, and what would have been judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.exit_codes import exit_code_of_verdict
from perfkit.cli.options import (
    FORMAT,
    OPTIONAL_CANDIDATE,
    OUTPUT,
    POLICY,
    RULE,
    Number,
    Parsed,
    Variadic,
    Workspace,
    console,
    drawn,
    fail_on_option,
    format_option,
    in_workspace,
    table,
    warn,
    write,
    write_json,
)

if TYPE_CHECKING:
    from perfkit.model.records import Comparison


def _percent(text: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent < 1000:
        raise ValueError(f"expected a percentage above 0 and below 1000, such as 5%, got {text!r}")
    return percent


PERCENT = Parsed("percent", _percent)


@click.command(short_help="How many runs show a change of that size?")
@click.option("--scenario", required=True, help="The load test whose runs are in the store, or such as api@rolling.")
@click.option(
    "--detect", required=True, type=PERCENT, metavar="PERCENT", help="The worsening to be called, such as 5%."
)
@click.option(
    "--power",
    type=Number(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Chance that a comparison calls a worsening of that size.",
)
@FORMAT
@in_workspace(POLICY)
def plan(workspace: Workspace, scenario: str, detect: float, power: float, format_: str) -> None:
    """How many runs on each side, and how long, until a change of that size is called a regression.

    Called is what `perfkit compare --history` calls: what is beyond chance and measured to be beyond its tolerance.  A
    change within the tolerance is never called, one a little above it only by many runs.  Answers from the noise
    profile of the scenario: how the runs in the store vary.

    \b
    Example:
      perfkit plan --scenario api --detect 5%
    """
    from rich.text import Text

    from perfkit.history.planning import plan_runs
    from perfkit.report.formatting import SHORT_METRICS, shorten

    frame = plan_runs(workspace.history(), scenario, detect, power=power, policy=workspace.policy).to_frame()
    rows: list[dict[str, Any]] = [
        {str(name): None if value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    if format_ == "json":
        write_json({"scenario": scenario, "detect_pct": detect, "power": power, "rows": rows})
        return
    click.echo(f"{scenario}: runs on each side that call a worsening of {detect:g} % in {power:.0%} of comparisons")
    numbers = ("variation", "from runs", "runs per side", "load in all", "tolerance")
    grid, above = table(("service", "metric", *numbers), right=numbers), None
    for row in rows:
        runs, hours, tolerance = row["runs_per_side"], row["hours"], row["tolerance_pct"]
        grid.add_row(
            Text("" if row["service"] == above else shorten(row["service"])),
            SHORT_METRICS.get(row["metric"], row["metric"]),
            f"{row['variation_pct']:.1f} %",
            str(row["history_runs"]),
            "~" if runs is None else str(int(runs)),
            "~" if hours is None else f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h",
            "~" if tolerance is None else f"{tolerance:.3g} %",
        )
        above = row["service"]
    console().print(grid)
    tolerated = [row["metric"] for row in rows if row["tolerance_pct"] is not None and row["tolerance_pct"] >= detect]
    if tolerated:
        names = ", ".join(dict.fromkeys(SHORT_METRICS.get(metric, metric) for metric in tolerated))
        warn(f"{detect:g} % of {names} is within the tolerance: no number of runs makes a comparison call it")


@click.command(short_help="When would a policy have fired in the past?")
@click.option("--scenario", required=True, help="The load test whose history is judged, or such as api@branch:main.")
@click.option(
    "--window",
    type=click.IntRange(1),
    default=9,
    show_default=True,
    help="Each run is judged against so many before it.",
)
@FORMAT
@in_workspace(POLICY, RULE)
def replay(workspace: Workspace, scenario: str, window: int, format_: str) -> None:
    """Judge every stored run of a scenario against the runs before it, and say when the policy would have fired.

    Ends 0: the past is no reason to fail.

    \b
    Example:
      perfkit replay --scenario api --policy stricter.toml
    """
    from perfkit.analysis.compare import replay as replay_policy
    from perfkit.history.run_selector import history_runs
    from perfkit.report.findings import headlines
    from perfkit.report.formatting import verdict_text

    found = replay_policy(history_runs(scenario, workspace.history()), workspace.policy, window)
    if format_ == "json":
        rows = [
            {
                "run": item.run.id,
                "verdict": item.comparison.verdict.value,
                "regressions": [f"{f.label} {f.metric}" for f in item.comparison.findings if f.verdict == "regression"],
                "warnings": list(item.comparison.warnings),
            }
            for item in found
        ]
        write_json(rows)
        return
    for item in found:
        text = f": {headlines(item.comparison)[0]}" if item.comparison.verdict == "regression" else ""
        click.echo(f"{item.run.id}  {verdict_text(item.comparison.verdict)}{text}")
    counts = {word: sum(item.comparison.verdict == word for item in found) for word in ("regression", "inconclusive")}
    click.echo(f"{len(found)} runs judged: {counts['regression']} fired, {counts['inconclusive']} inconclusive")


@click.command(cls=Variadic, short_help="Judge candidate runs against baseline runs.")
@click.argument("baseline", nargs=-1, metavar="[BASELINE...]")
@OPTIONAL_CANDIDATE
@format_option("text", "json", "markdown", "junit", text="How to write the result.")
@OUTPUT
@fail_on_option("regression", "What ends with exit code 1.  Invalid runs end with 3 in any case.")
@click.option("--history", is_flag=True, help="Learn the noise from the other runs of this scenario in the store too.")
@click.option(
    "--explain",
    nargs=2,
    metavar="SERVICE METRIC",
    help="Print the arithmetic of one verdict, step by step; of a result file or report folder too, without CANDIDATE.",
)
@in_workspace(POLICY, RULE)
def compare(
    workspace: Workspace,
    baseline: tuple[str, ...],
    candidate: tuple[str, ...],
    format_: str,
    output: Path | None,
    fail_on: str,
    history: bool,
    explain: tuple[str, str] | None,
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
    from perfkit.analysis.explain import explain as explain_finding
    from perfkit.history.incidents import read_judged

    if history and not baseline:
        raise click.UsageError("--history: without a BASELINE the history is judged against, and learned from, anyway")
    if explain is not None and not candidate and len(baseline) == 1:
        comparison = read_judged(baseline[0])
    elif not candidate:
        raise click.UsageError("Missing option '--candidate'.")
    else:
        comparison = _judged(workspace, baseline, candidate, learn=history)
    if explain is not None:
        write(explain_finding(comparison, *explain), output)
    elif format_ == "json":
        write_json(comparison.to_dict(), output)
    elif format_ == "markdown":
        from perfkit.report.text import to_markdown

        write(to_markdown(comparison), output)
    elif format_ == "junit":
        from perfkit.report.text import to_junit

        write(to_junit(comparison), output)
    else:
        from perfkit.report.text import print_comparison

        write(drawn(partial(print_comparison, comparison)), output)
    return exit_code_of_verdict(comparison.verdict, fail_on)


def _judged(workspace: Workspace, baseline: Sequence[str], candidate: Sequence[str], *, learn: bool) -> Comparison:
    """The candidate against the baseline, or against its history; with ``learn`` other runs show the noise too."""
    from perfkit.analysis.compare import compare as compare_runs
    from perfkit.history.gate import choose_baseline, judge_history, open_in_history
    from perfkit.history.planning import stored_profile
    from perfkit.history.run_selector import choose_runs

    policy = workspace.policy
    judged = choose_runs(candidate, workspace.history())
    context = replace(workspace.history(), candidates=judged.runs)
    if not baseline:
        acknowledgements = workspace.acknowledgements()
        against_history = judge_history(judged.runs, context, policy, acknowledgements=acknowledgements)
        return against_history.comparison.with_warnings(judged.left_out)
    chosen = choose_baseline(baseline, context, policy)
    profile = None
    if learn:
        compared = {run.id for run in (*chosen.runs, *judged.runs)}
        scenario = (*chosen.runs, *judged.runs)[0].scenario
        profile = stored_profile(context.store, scenario, without=compared, service_names=policy.service_names)
    notes = open_in_history(context, policy, workspace.acknowledgements()) if chosen.selectors else ()
    comparison = compare_runs(chosen.runs, judged.runs, policy=policy, history=profile)
    return comparison.with_warnings((*chosen.warnings, *notes, *judged.left_out))
