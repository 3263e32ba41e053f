"""``perfkit compare``, ``changes``, ``plan`` and ``replay``: runs and histories judged, and what it takes or would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.completion import (
    complete_explained,
    complete_metrics,
    complete_runs,
    complete_scenarios,
    complete_services,
)
from perfkit.cli.exit_codes import EXIT_INVALID, exit_code_of_verdict
from perfkit.cli.options import (
    CANDIDATE_LABELS,
    FORMAT,
    OUTPUT,
    Number,
    Parsed,
    Variadic,
    Workspace,
    candidate_option,
    checkout_option,
    drawn,
    fail_on_option,
    format_option,
    in_workspace,
    print_table,
    progress,
    scenario_option,
    warn,
    write,
    write_json,
)
from perfkit.model.codec import dump_json
from perfkit.model.errors import NotComparable
from perfkit.model.records import Comparison, Metric, Verdict
from perfkit.report.formatting import SHORT_METRICS, clean, shorten, verdict_text

if TYPE_CHECKING:
    from rich.console import Console

    from perfkit.history.change_events import DetectedChanges
    from perfkit.history.commits import Attribution
    from perfkit.history.events import HistoryChange
    from perfkit.history.monitor import MonitorResult
    from perfkit.history.run_selector import ChosenRuns


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
@scenario_option("The load test whose runs are in the store, or such as api@rolling.", required=True)
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
@in_workspace(policy=True, labels=True)
def plan(workspace: Workspace, scenario: str, detect: float, power: float, format_: str) -> None:
    """How many runs on each side, and how long, until a change of that size is called a regression.

    Called is what `perfkit compare --history` calls: what is beyond chance and measured to be beyond its tolerance.  A
    change within the tolerance is never called, one a little above it only by many runs.  Answers from the noise
    profile of the scenario: how the runs in the store vary.

    \b
    Example:
      perfkit plan --scenario api --detect 5%
    """
    from perfkit.history.planning import plan_runs

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
    lines, above = [], None
    for row in rows:
        runs, hours, tolerance = row["runs_per_side"], row["hours"], row["tolerance_pct"]
        cells = (
            "" if row["service"] == above else shorten(row["service"]),
            SHORT_METRICS.get(row["metric"], row["metric"]),
            "of all runs" if row["variation_pct"] is None else f"{row['variation_pct']:.1f} %",
            str(row["history_runs"]),
            "~" if runs is None else str(int(runs)),
            "~" if hours is None else f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h",
            "~" if tolerance is None else f"{tolerance:.3g} %",
        )
        lines.append(cells)
        above = row["service"]
    print_table(("service", "metric", *numbers), lines, right=numbers)
    tolerated = [row["metric"] for row in rows if row["tolerance_pct"] is not None and row["tolerance_pct"] >= detect]
    if tolerated:
        names = ", ".join(dict.fromkeys(SHORT_METRICS.get(metric, metric) for metric in tolerated))
        warn(f"{detect:g} % of {names} is within the tolerance: no number of runs makes a comparison call it")


@click.command(short_help="When would a policy have fired in the past?")
@scenario_option("The load test whose history is judged, or such as api@branch:main.", required=True)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=9,
    show_default=True,
    help="Each run is judged against so many before it.",
)
@FORMAT
@in_workspace(policy=True, rule=True, labels=True)
def replay(workspace: Workspace, scenario: str, window: int, format_: str) -> None:
    """Judge every stored run of a scenario against the runs before it, and say when the policy would have fired.

    Sums up at the end: for each reason, how many runs it made red, and how many it left open.  Ends 0: the past is no
    reason to fail.

    \b
    Example:
      perfkit replay --scenario api --policy stricter.toml
    """
    from perfkit.analysis.compare import replay as replay_policy
    from perfkit.history.run_selector import history_runs
    from perfkit.report.findings import headlines

    severest = (Verdict.REGRESSION, Verdict.INVALID, Verdict.INCONCLUSIVE)

    replayed = replay_policy(history_runs(scenario, workspace.history()), workspace.policy, window)
    if format_ == "json":
        rows = [
            {
                "run": item.run.id,
                "verdict": item.comparison.verdict.value,
                "regressions": [f"{f.label} {f.metric}" for f in item.comparison.findings if f.verdict == "regression"],
                "reasons": list(item.reasons),
                "warnings": list(item.comparison.warnings),
            }
            for item in replayed
        ]
        write_json(rows)
        return
    for item in replayed:
        text = f": {headlines(item.comparison)[0]}" if item.comparison.verdict == "regression" else ""
        click.echo(f"{item.run.id}  {verdict_text(item.comparison.verdict)}{text}")
    by_reason: dict[tuple[Verdict, str], list[str]] = {}
    for item in replayed:
        for reason in item.reasons:
            by_reason.setdefault((item.comparison.verdict, reason), []).append(item.run.id)
    if by_reason:
        ranked = sorted(by_reason.items(), key=lambda pair: (severest.index(pair[0][0]), -len(pair[1])))
        lines = (
            (verdict_text(verdict), str(len(ids)), shorten(reason, 90), clean(ids[0]), clean(ids[-1]))
            for (verdict, reason), ids in ranked
        )
        click.echo()
        print_table(("verdict", "runs", "reason", "first", "last"), lines, right=("runs",))
        click.echo()
    verdicts = [item.comparison.verdict.value for item in replayed]
    fired, inconclusive = map(verdicts.count, ("regression", "inconclusive"))
    click.echo(f"{len(replayed)} runs judged: {fired} fired, {inconclusive} inconclusive")


@click.command(cls=Variadic, short_help="Judge candidate runs against baseline runs.")
@click.argument("baseline", nargs=-1, metavar="[BASELINE...]", shell_complete=complete_runs)
@candidate_option("Runs of another build")
@CANDIDATE_LABELS
@format_option("text", "json", "markdown", "junit", text="How to write the result.")
@OUTPUT
@fail_on_option("regression", "What ends with exit code 1.  Invalid runs end with 3 in any case.")
@click.option(
    "--all", "all_", is_flag=True, help="Print every finding and warning, also where they fill more than 40 lines."
)
@click.option("--history", is_flag=True, help="Learn the noise from the other runs of this scenario in the store too.")
@click.option(
    "--explain",
    nargs=2,
    metavar="SERVICE METRIC",
    shell_complete=complete_explained,
    help="Print the arithmetic of one verdict, step by step; of a result file or report folder too, without CANDIDATE.",
)
@in_workspace(policy=True, rule=True, labels=True)
def compare(
    workspace: Workspace,
    baseline: tuple[str, ...],
    candidate: tuple[str, ...],
    candidate_labels: dict[str, str],
    format_: str,
    output: Path | None,
    fail_on: str,
    all_: bool,
    history: bool,
    explain: tuple[str, str] | None,
) -> int:
    """Judge candidate runs against baseline runs, or, without a BASELINE, against the history of their scenario.

    Each run is a run folder, a run id of the store or its beginning, a tool's result file, a folder, prefix or pattern
    of such, or a selector: api@rolling (the runs since the last change), api@pinned:NAME, api@last:5, api@previous:5
    (the five before those that are judged), api@commit:abc123, api@branch:main, api@label:build=1.4, api@merge-base.
    --label alone means all baseline runs with that label, and --candidate-label alone all candidates.

    Against history, the baseline is SCENARIO@rolling without the candidate, every metric of every service is watched
    under one alarm budget, and changes that were acknowledged (`perfkit ack`) are listed but do not fail.

    \b
    Examples:
      perfkit compare data/runs/20261101T*-api-* --candidate data/runs/20261102T*-api-*
      perfkit compare --candidate 20261102T020000Z-api-3f9c --all
      perfkit compare api@previous:5 --candidate api@last:5
      perfkit compare --label build=1.4.2 --candidate-label build=1.5.0
      perfkit compare api@merge-base --candidate api@last:3
      perfkit compare old_stats.csv --candidate new_stats.csv --format markdown --output reports/regression-analysis.md
      perfkit compare "data/runs/*-api-1*" --candidate "data/runs/*-api-2*" --explain api_gateway p95_latency_ms
      perfkit compare reports/20261102-api-compare --explain api_gateway p95_latency_ms
      perfkit compare performance-baselines-v2.json --candidate metrics.json --rule threshold
    """
    from perfkit.analysis.explain import explain as explain_finding
    from perfkit.history.incidents import read_judged
    from perfkit.history.run_selector import choose_runs
    from perfkit.report.text import print_comparison, to_junit, to_markdown

    is_baseline_named = bool(baseline or workspace.labels)
    if history and not is_baseline_named:
        raise click.UsageError("--history: without a BASELINE the history is judged against, and learned from, anyway")
    if explain is not None and not candidate and not candidate_labels and len(baseline) == 1:
        comparison = read_judged(baseline[0])
    elif not candidate and not candidate_labels:
        raise click.UsageError("Missing option '--candidate'.")
    else:
        named = choose_runs(candidate, replace(workspace.history(), labels=candidate_labels))
        comparison = _judged(workspace, baseline if is_baseline_named else None, named, learn=history)
    texts = {
        "text": lambda: drawn(partial(print_comparison, comparison, everything=all_ or output is not None)),
        "json": lambda: dump_json(comparison.to_dict()),
        "markdown": lambda: to_markdown(comparison),
        "junit": lambda: to_junit(comparison),
    }
    write(explain_finding(comparison, *explain) if explain is not None else texts[format_](), output)
    return exit_code_of_verdict(comparison.verdict, fail_on)


def _judged(workspace: Workspace, baseline: Sequence[str] | None, judged: ChosenRuns, *, learn: bool) -> Comparison:
    """The candidate against the baseline, or against its history; with ``learn`` other runs show the noise too."""
    from perfkit.analysis.compare import judge
    from perfkit.history.gate import choose_baseline, judge_history, open_in_history
    from perfkit.history.planning import stored_profile

    policy = workspace.policy
    context = replace(workspace.history(), candidates=judged.runs)
    if baseline is None:
        acknowledgements = workspace.acknowledgements()
        comparison = judge_history(judged.runs, context, policy, acknowledgements=acknowledgements)
        return comparison.with_warnings(judged.left_out)
    chosen = choose_baseline(baseline, context, policy)
    profile = None
    if learn:
        compared = {run.id for run in (*chosen.runs, *judged.runs)}
        scenario = (*chosen.runs, *judged.runs)[0].scenario
        profile = stored_profile(context.store, scenario, without=compared, service_names=policy.service_names)
    notes = open_in_history(context, policy, workspace.acknowledgements()) if chosen.selectors else ()
    comparison = judge(chosen.runs, judged.runs, policy, profile)
    return comparison.with_warnings((*chosen.warnings, *notes, *judged.left_out))


@click.command(short_help="When the level of past runs changed, and by which commits.")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO...]", shell_complete=complete_scenarios)
@click.option("--all", "all_", is_flag=True, help="Every scenario of the store [without a SCENARIO too].")
@click.option(
    "--service",
    "services",
    multiple=True,
    shell_complete=complete_services,
    help="Show only this service; may be repeated.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    shell_complete=complete_metrics,
    help="Show only this metric, such as p95; may be repeated.",
)
@click.option(
    "--alpha",
    type=Number(0, 0.5, min_open=True),
    help="Chance that a scenario in which nothing changed shows any event [that of the policy].",
)
@format_option("text", "json", "markdown", text="How to write the result.")
@OUTPUT
@fail_on_option(
    "never",
    "Exit with 1 while a worsening beyond its tolerance is open (neither taken back, acknowledged nor accepted), "
    "or while the newest run is a regression against the runs before it.",
)
@checkout_option("--repository")
@click.option("--ab-tests", is_flag=True, help="With the runs of A/B tests (perfkit run --compare-with).")
@click.option("--jobs", type=click.IntRange(1), help="Processes [as many as pay].")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Look at the series on this Dask cluster instead.")
@in_workspace(policy=True, labels=True)
def changes(
    workspace: Workspace,
    scenarios: tuple[str, ...],
    all_: bool,
    services: tuple[str, ...],
    metrics: tuple[str, ...],
    alpha: float | None,
    format_: str,
    output: Path | None,
    fail_on: str,
    checkout: Path,
    ab_tests: bool,
    jobs: int | None,
    scheduler: str | None,
) -> int:
    """Show when the level of past runs changed.

    Changes of all metrics and services at one time are one event, with the commits between the last run before and the
    first run after it.  Single runs far from their level are outliers, and a steady change is drift; neither is an
    event.  A service that ends or begins is one.

    Exit codes: 3 where a history has no valid run; with --fail-on, 1 while a worsening is open, and where `perfkit
    compare --candidate` calls the newest run a regression, also before the history confirms it.

    \b
    Examples:
      perfkit changes api
      perfkit changes api --service api_gateway --metric p95
      perfkit changes --all --format markdown --output reports/changes.md
      perfkit changes --all --scheduler tcp://10.0.0.5:8786
      perfkit changes api --fail-on regression
    """
    from perfkit.history.acknowledgements import match
    from perfkit.history.baselines import Baselines
    from perfkit.history.change_events import detect_changes, stored_timelines
    from perfkit.history.commits import attribute
    from perfkit.history.monitor import monitor_timeline
    from perfkit.history.timeline import under_names
    from perfkit.report.text import changes_to_markdown, print_changes

    if all_ and scenarios:
        raise click.UsageError("name scenarios, or say --all")
    if jobs is not None and scheduler is not None:
        raise click.UsageError("--jobs is about this machine, --scheduler about others: say one of them")
    policy = workspace.policy
    timelines = stored_timelines(workspace.run_store, scenarios, ab_tests=ab_tests, labels=workspace.labels)
    found = detect_changes(
        [under_names(timeline, policy.service_names) for timeline in timelines],
        services=services,
        metrics=metrics,
        alpha=alpha or policy.alpha,
        jobs=jobs,
        scheduler=scheduler,
        on_progress=progress("series"),
    )
    commits: dict[tuple[str, str], Attribution] = {}

    def commits_of(event: HistoryChange) -> Attribution:
        ends = event.last_before.run_id, event.first_after.run_id
        return commits.get(ends) or commits.setdefault(ends, attribute(event, checkout))

    known, today = workspace.acknowledgements(), datetime.now(UTC).date()
    acknowledged = frozenset(
        event_id for scenario in found for event_id in match(scenario.events, scenario.history.run_ids, known, today)
    )
    if format_ == "json":
        documents = [scenario.to_dict(acknowledged, commits_of) for scenario in found]
        write_json({"schema": "perfkit.changes/1", "alpha": found[0].alpha, "scenarios": documents}, output)
    elif format_ == "markdown":
        write(changes_to_markdown(found, commits_of, acknowledged), output)
    else:

        def draw(screen: Console) -> None:
            for number, scenario in enumerate(found):
                screen.print(*([""] if number else []), end="\n" if number else "")
                print_changes(scenario, screen, commits_of, acknowledged)

        write(drawn(draw), output)
    without_runs = [scenario for scenario in found if scenario.invalid == len(scenario.timeline)]
    for scenario in without_runs:
        warn(f"{scenario.scenario}: none of its {scenario.invalid} runs is valid: nothing can be judged")
    if fail_on == "never":
        return EXIT_INVALID if without_runs else 0
    pinned = Baselines(workspace.settings.baselines).all()
    watches = [
        monitor_timeline(item.history, policy.for_scenario(item.scenario), known, today, pinned) for item in found
    ]
    for alert in (alert for watch in watches for alert in watch.alerts if alert.is_open):
        warn(f"{alert.event.headline} {alert.open_for} {alert.doubt}".rstrip())
    suspects = [text for pair in zip(found, watches, strict=True) for text in _unconfirmed(*pair, workspace)]
    warn(*suspects)
    return exit_code(found, watches, fail_on) or int(bool(suspects))


def exit_code(found: Sequence[DetectedChanges], watches: Sequence[MonitorResult], fail_on: str) -> int:
    """3 where a history has no valid run; 1 when it shall fail, and one of the shown series is open."""
    if any(scenario.invalid == len(scenario.timeline) for scenario in found):
        return EXIT_INVALID
    shown = [
        alert
        for scenario, watch in zip(found, watches, strict=True)
        for alert in watch.alerts
        if any((item.service, item.metric) in scenario.segmentations for item in alert.serious)
    ]
    failing = {"regression": [alert.fails for alert in shown], "inconclusive": [alert.is_open for alert in shown]}
    return int(any(failing.get(fail_on, ())))


def _unconfirmed(scenario: DetectedChanges, watch: MonitorResult, workspace: Workspace) -> Iterator[str]:
    """What `perfkit compare` calls a regression of the newest run, among the shown series, before the history shows it.

    A green history beside a red comparison of its newest run would be no answer.  Where that run stands for no history
    or cannot be judged (it is of an A/B test or a pull request, or no run is older), there is nothing to say.
    """
    from perfkit.history.gate import judge_history
    from perfkit.report.findings import headlines

    valid = [run.run_id for run in scenario.timeline.runs if run.valid]
    if watch.fails or not valid or (newest := workspace.run_store.get(valid[-1])).in_ab_test:
        return
    try:
        judged = judge_history(
            (newest,),
            replace(workspace.history(), labels={}, analysed=scenario.history),
            workspace.policy,
            acknowledgements=workspace.acknowledgements(),
        )
    except NotComparable:
        return
    is_pull_request = judged.history is not None and "pull_request" in judged.history.document
    if is_pull_request or judged.verdict is not Verdict.REGRESSION:
        return
    worse = [item for item in judged.by_verdict(Verdict.REGRESSION) if not item.objective]
    shown = tuple(item for item in worse if (item.service, Metric(item.metric)) in scenario.segmentations)
    if worse and not shown:
        return  # of series that were not asked for
    for text in headlines(replace(judged, findings=shown, gaps=())) if shown else headlines(judged):
        yield f"Not confirmed yet, and a regression of the newest run ({newest.id}) against the runs before it: {text}"
