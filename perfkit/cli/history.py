"""``perfkit changes``: when the level of past runs changed, and by which commits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.exit_codes import EXIT_INVALID
from perfkit.cli.options import (
    OUTPUT,
    POLICY,
    Number,
    Workspace,
    checkout_option,
    drawn,
    fail_on_option,
    format_option,
    in_workspace,
    warn,
    write,
    write_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from perfkit.config.policy import Policy
    from perfkit.history.change_events import HistoryChange
    from perfkit.history.changes import DetectedChanges
    from perfkit.history.commits import Attribution
    from perfkit.history.monitor import MonitorResult

PROGRESS_FROM = 2_000  # series: fewer are done within a second or so


@click.command(short_help="When the level of past runs changed, and by which commits.")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO...]")
@click.option("--all", "all_", is_flag=True, help="Every scenario of the store [without a SCENARIO too].")
@click.option("--service", "services", multiple=True, help="Show only this service; may be repeated.")
@click.option("--metric", "metrics", multiple=True, help="Show only this metric, such as p95; may be repeated.")
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
@in_workspace(POLICY)
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
    from perfkit.history.acknowledgements import AcknowledgedFile, match
    from perfkit.history.changes import detect_changes, stored_timelines
    from perfkit.history.commits import attribute
    from perfkit.history.timeline import under_names

    if all_ and scenarios:
        raise click.UsageError("name scenarios, or say --all")
    if jobs is not None and scheduler is not None:
        raise click.UsageError("--jobs is about this machine, --scheduler about others: say one of them")
    policy, settings = workspace.policy, workspace.settings
    timelines = stored_timelines(workspace.run_store, scenarios, ab_tests=ab_tests)
    found = detect_changes(
        [under_names(timeline, policy.service_names) for timeline in timelines],
        services=services,
        metrics=metrics,
        alpha=alpha or policy.alpha,
        jobs=jobs,
        scheduler=scheduler,
        on_progress=_show_progress if sys.stderr.isatty() else None,
    )
    commits: dict[tuple[str, str], Attribution] = {}

    def commits_of(event: HistoryChange) -> Attribution:
        ends = event.last_before.run_id, event.first_after.run_id
        if ends not in commits:
            commits[ends] = attribute(event, checkout)
        return commits[ends]

    known, today = AcknowledgedFile(settings.acknowledged).read(), datetime.now(UTC).date()
    acknowledged = frozenset(
        event_id for scenario in found for event_id in match(scenario.events, scenario.history.run_ids, known, today)
    )
    if format_ == "json":
        documents = [scenario.to_dict(acknowledged, commits_of) for scenario in found]
        write_json({"schema": "perfkit.changes/1", "alpha": found[0].alpha, "scenarios": documents}, output)
    elif format_ == "markdown":
        from perfkit.report.text import changes_to_markdown

        write(changes_to_markdown(found, commits_of, acknowledged), output)
    else:
        from perfkit.report.text import print_changes

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
    watches = watched(found, policy, settings.acknowledged, settings.baselines)
    for alert in (alert for watch in watches for alert in watch.alerts if alert.is_open):
        warn(f"{alert.event.headline} {alert.open_for} {alert.doubt}".rstrip())
    suspects = [text for pair in zip(found, watches, strict=True) for text in _unconfirmed(*pair, workspace)]
    warn(*suspects)
    return exit_code(found, watches, fail_on) or int(bool(suspects))


def watched(
    found: Sequence[DetectedChanges], policy: Policy, acknowledged: Path, baselines: Path
) -> tuple[MonitorResult, ...]:
    """What watching these histories came to: the judgement that reports, summaries, issues and mail give too."""
    from perfkit.history.acknowledgements import AcknowledgedFile
    from perfkit.history.baselines import Baselines
    from perfkit.history.monitor import monitor_timeline

    known, pinned = AcknowledgedFile(acknowledged).read(), Baselines(baselines).all()
    today = datetime.now(UTC).date()
    return tuple(
        monitor_timeline(item.history, policy.for_scenario(item.scenario), known, today, pinned) for item in found
    )


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


def _show_progress(done: int, total: int) -> None:
    """A line that is rewritten."""
    if total >= PROGRESS_FROM:
        click.echo(f"\r\033[K{done:,} of {total:,} series", err=True, nl=done == total)


def _unconfirmed(scenario: DetectedChanges, watch: MonitorResult, workspace: Workspace) -> Iterator[str]:
    """What `perfkit compare` calls a regression of the newest run, among the shown series, before the history shows it.

    A green history beside a red comparison of its newest run would be no answer.  Where that run stands for no history
    or cannot be judged (it is of an A/B test or a pull request, or no run is older), there is nothing to say.
    """
    from perfkit.history.gate import judge_history
    from perfkit.model.errors import NotComparable
    from perfkit.model.records import Metric, Verdict
    from perfkit.report.findings import headlines

    valid = [run.run_id for run in scenario.timeline.runs if run.valid]
    if watch.fails or not valid or (newest := workspace.run_store.get(valid[-1])).in_ab_test:
        return
    try:
        judged = judge_history(
            (newest,), workspace.history(), workspace.policy, acknowledgements=workspace.acknowledgements()
        ).comparison
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
