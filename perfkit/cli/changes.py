"""``perfkit changes``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import POLICY, SETTINGS, STORE, Number, console, dump, settings_of, write

if TYPE_CHECKING:
    from perfkit.config import Settings
    from perfkit.history.attribution import Attribution
    from perfkit.history.events import Happened
    from perfkit.history.survey import Attribute, Survey
    from perfkit.history.watching import ScenarioWatch
    from perfkit.policy import Policy

EXIT_INVALID = 3
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
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="How to write the result.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@click.option(
    "--fail-on",
    type=click.Choice(["regression", "inconclusive", "never"]),
    default="never",
    show_default=True,
    help="Exit with 1 while a worsening beyond its tolerance is open (neither taken back, acknowledged nor accepted), "
    "or while the newest run is a regression against the runs before it.",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="Where to look the commits up [this folder].",
)
@click.option("--ab-tests", is_flag=True, help="With the runs of A/B tests (perfkit run --compare-with).")
@click.option("--jobs", type=click.IntRange(1), help="Processes [as many as pay].")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Look at the series on this Dask cluster instead.")
@POLICY
@STORE
@SETTINGS
def changes(
    scenarios: tuple[str, ...],
    all_: bool,
    services: tuple[str, ...],
    metrics: tuple[str, ...],
    alpha: float | None,
    format_: str,
    output: Path | None,
    fail_on: str,
    repository: Path,
    ab_tests: bool,
    jobs: int | None,
    scheduler: str | None,
    policy: Path | None,
    store: str | None,
    settings: Path | None,
) -> int:
    """Show when the level of past runs changed.

    Changes of all metrics and services at one time are one event, with the commits between the last run before and the
    first run after it.  Single strange runs are outliers and steady movement is drift; neither is an event.  A service
    that ends or begins is one.

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
    from perfkit.history.attribution import attribute
    from perfkit.history.survey import stored_timelines, survey
    from perfkit.history.timeline import under_names
    from perfkit.render.theme import clean
    from perfkit.store import RunStore

    if all_ and scenarios:
        raise click.UsageError("name scenarios, or say --all")
    if jobs is not None and scheduler is not None:
        raise click.UsageError("--jobs is about this machine, --scheduler about others: say one of them")
    settled = settings_of(settings)
    judging = settled.policy_of(policy)
    known = RunStore(store or settled.store)
    found = survey(
        [under_names(line, judging.service_names) for line in stored_timelines(known, scenarios, ab_tests=ab_tests)],
        services=services,
        metrics=metrics,
        alpha=alpha or judging.alpha,
        jobs=jobs,
        scheduler=scheduler,
        on_progress=_progress(),
    )

    looked_up: dict[tuple[str, str], Attribution] = {}

    def commits(event: Happened) -> Attribution:
        ends = event.last_before.run_id, event.first_after.run_id
        if ends not in looked_up:
            looked_up[ends] = attribute(event, repository)
        return looked_up[ends]

    silenced = acknowledged(found, settled.acknowledged)
    _write(found, format_, output, commits, silenced)
    for of in found:
        if of.invalid == len(of.timeline):
            click.echo(f"! {of.scenario}: none of its {of.invalid} runs is valid: nothing can be judged", err=True)
    watches = watched(found, judging, settled.acknowledged, settled.baselines) if fail_on != "never" else ()
    for alert in (alert for watch in watches for alert in watch.alerts if alert.is_open):
        click.echo(f"! {clean(alert.event.headline)} {alert.open_for} {alert.doubt}".rstrip(), err=True)
    code = exit_code(found, watches, fail_on)
    suspects = [
        sentence
        for of, watch in zip(found, watches, strict=False)
        if not watch.fails
        for sentence in unconfirmed(of, store or settled.store, settled, judging)
    ]
    for sentence in suspects:
        click.echo(f"! {sentence}", err=True)
    return code or int(bool(suspects))


def unconfirmed(of: Survey, store: str, settings: Settings, policy: Policy) -> Sequence[str]:
    """What `perfkit compare` calls a regression of the newest run, among the shown series, before the history shows it.

    A green history beside a red comparison of its newest run would be no answer.
    """
    from perfkit import workflow
    from perfkit.model import Metric, Verdict
    from perfkit.render.words import headlines

    judged = workflow.newest_against_history(of.timeline, store=store, settings=settings, policy=policy)
    if judged is None or judged.verdict is not Verdict.REGRESSION:
        return ()
    worse = [item for item in judged.by_verdict(Verdict.REGRESSION) if not item.objective]
    shown = tuple(item for item in worse if (item.service, Metric(item.metric)) in of.segmentations)
    if worse and not shown:
        return ()  # of series that were not asked for
    run = judged.candidate.runs[-1].id
    why = headlines(replace(judged, findings=shown, gaps=())) if shown else headlines(judged)
    return [
        f"Not confirmed yet, and a regression of the newest run ({run}) against the runs before it: {text}"
        for text in why
    ]


def acknowledged(found: Sequence[Survey], file: Path) -> frozenset[str]:
    """Ids of the events that somebody called known or intended, and in which nothing new happened since."""
    from datetime import UTC, datetime

    from perfkit.history.acknowledged import AcknowledgedFile, match

    known, today = AcknowledgedFile(file).read(), datetime.now(UTC).date()
    ids = {of.scenario: [moment.run_id for moment in of.timeline.moments] for of in found}
    return frozenset(event_id for of in found for event_id in match(of.events, ids[of.scenario], known, today))


def _progress() -> Callable[[int, int], None] | None:
    """A line that is rewritten, on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if total >= PROGRESS_FROM:
            click.echo(f"\r\033[K{done:,} of {total:,} series", err=True, nl=done == total)

    return show


def _write(
    found: Sequence[Survey], format_: str, output: Path | None, commits: Attribute, silenced: Collection[str]
) -> None:
    if format_ == "json":
        scenarios = [survey.to_dict(commits, silenced) for survey in found]
        write(dump({"schema": "perfkit.changes/1", "alpha": found[0].alpha, "scenarios": scenarios}), output)
    elif format_ == "markdown":
        from perfkit.render.changes import surveys_to_markdown

        write(surveys_to_markdown(found, commits, silenced), output)
    else:
        from perfkit.render.changes import print_survey

        screen = console()
        with screen.capture() as captured:
            for number, survey in enumerate(found):
                screen.print(*([""] if number else []), end="\n" if number else "")
                print_survey(survey, screen, commits, silenced)
        write(captured.get(), output)


def watched(
    found: Sequence[Survey], policy: Policy, acknowledged_file: Path, baselines: Path
) -> tuple[ScenarioWatch, ...]:
    """What watching these histories came to: the judgement that reports, summaries, issues and mail give too."""
    from datetime import UTC, datetime

    from perfkit.history.acknowledged import AcknowledgedFile
    from perfkit.history.baselines import Baselines
    from perfkit.history.watching import watch_timeline

    known, today = AcknowledgedFile(acknowledged_file).read(), datetime.now(UTC).date()
    pinned = Baselines(baselines).all()
    return tuple(
        watch_timeline(of.timeline.unscaled(), policy.for_scenario(of.scenario), known, today, pinned) for of in found
    )


def exit_code(found: Sequence[Survey], watches: Sequence[ScenarioWatch], fail_on: str) -> int:
    """3 where a history has no valid run; 1 when it shall fail, and one of the shown series is open."""
    if any(of.invalid == len(of.timeline) for of in found):
        return EXIT_INVALID
    shown = [
        alert
        for of, watch in zip(found, watches, strict=False)
        for alert in watch.alerts
        if any((item.service, item.metric) in of.segmentations for item in alert.serious)
    ]
    failing = {"regression": [alert.fails for alert in shown], "inconclusive": [alert.is_open for alert in shown]}
    return int(any(failing.get(fail_on, ())))
