"""``perfkit compare``.

``perfkit plan``.

``perfkit replay``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.options import (
    OPTIONAL_CANDIDATE,
    POLICY,
    RULE,
    SETTINGS,
    STORE,
    Number,
    Variadic,
    console,
    dump,
    settings_of,
    tell,
    write,
)

if TYPE_CHECKING:
    from perfkit.analysis.compare import Replay
    from perfkit.model.records import Comparison


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
    from perfkit.history.run_names import plan as plan_runs
    from perfkit.report.formatting import SHORT_METRICS

    known = settings_of(settings)
    chosen = known.policy_of(policy)
    percent = _percent(detect)
    frame = plan_runs(store or known.store, scenario, percent, power=power, policy=chosen, baselines=known.baselines)
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

    from perfkit.report.formatting import SHORT_METRICS, shorten

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
    from perfkit.history.run_names import replay_history

    known = settings_of(settings)
    chosen = known.policy_of(policy).with_rule(rule)
    found = replay_history(store or known.store, scenario, policy=chosen, window=window, baselines=known.baselines)
    if format_ == "json":
        click.echo(dump([_row(item) for item in found]), nl=False)
        return
    from perfkit.report.formatting import verdict_text
    from perfkit.report.sentences import headlines

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
        "regressions": [f"{f.label} {f.metric}" for f in comparison.findings if f.verdict == "regression"],
        "warnings": list(comparison.warnings),
    }


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
    from perfkit.analysis.compare import explain as explain_runs
    from perfkit.history.run_names import compare_named, stored_comparison

    known = settings_of(settings)
    chosen = known.policy_of(policy).with_rule(rule)
    place = store or known.store
    if history and not baseline:
        raise click.UsageError("--history: without a BASELINE the history is judged against, and learned from, anyway")
    if explain is not None and not candidate and len(baseline) == 1:
        comparison = stored_comparison(baseline[0])
    elif not candidate:
        raise click.UsageError("Missing option '--candidate'.")
    else:
        comparison = compare_named(baseline, candidate, store=place, settings=known, policy=chosen, learn=history)
    if explain is not None:
        write(explain_runs(comparison, *explain), output)
    else:
        _write(comparison, format_, output)
    return exit_code(comparison, fail_on)


def _write(comparison: Comparison, format_: str, output: Path | None) -> None:
    if format_ == "json":
        write(dump(comparison.to_dict()), output)
    elif format_ == "markdown":
        from perfkit.report.markdown import to_markdown

        write(to_markdown(comparison), output)
    elif format_ == "junit":
        from perfkit.report.junit import to_junit

        write(to_junit(comparison), output)
    else:
        print_text(comparison, output)


def print_text(comparison: Comparison, output: Path | None = None) -> None:
    """A comparison as a terminal shows it."""
    from perfkit.report.terminal import print_comparison

    screen = console()
    with screen.capture() as captured:
        print_comparison(comparison, screen)
    write(captured.get(), output)


def exit_code(comparison: Comparison, fail_on: str = "regression") -> int:
    """0, 1 or 3 as documented; what cannot be judged is never green, whatever ``fail_on`` says."""
    from perfkit.model.records import Verdict

    if comparison.verdict is Verdict.INVALID:
        return EXIT_INVALID
    failing = {"regression": (Verdict.REGRESSION,), "inconclusive": (Verdict.REGRESSION, Verdict.INCONCLUSIVE)}
    return int(comparison.verdict in failing.get(fail_on, ()))
