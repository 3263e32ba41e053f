"""``perfkit changes``.

``perfkit ack``.

``perfkit baseline``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.options import POLICY, SETTINGS, STORE, Number, check_scenario, console, dump, settings_of, tell, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfkit.config.policy import Policy
    from perfkit.config.settings import Settings
    from perfkit.history.acknowledgements import Acknowledgement, KnownMovement
    from perfkit.history.baselines import Pinned
    from perfkit.history.change_events import Happened
    from perfkit.history.changes import Attribute, DetectedChanges
    from perfkit.history.commits import Attribution
    from perfkit.history.context import HistoryContext
    from perfkit.history.curation import BaselineQuality
    from perfkit.history.monitor import ScenarioWatch


@click.command(short_help="Silence a known or intended change.")
@click.argument("event", required=False)
@click.option("--reason", help="Why it is fine; kept for those who review it.")
@click.option("--by", default="", help="Who says so [your login].")
@click.option("--until", metavar="DAY", help="Last day on which it holds: 2027-01-31, or 30d from now.")
@click.option("--list", "list_", is_flag=True, help="What is acknowledged.")
@click.option("--remove", metavar="EVENT", help="Report it again.")
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
    from perfkit.history.acknowledgements import AcknowledgedFile

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

    from perfkit.history.baselines import parse_day
    from perfkit.history.context import HistoryContext
    from perfkit.history.curation import acknowledge
    from perfkit.history.run_names import first_named
    from perfkit.runs.store import RunStore

    known = settings_of(settings)
    chosen = known.policy_of(policy)
    now = datetime.now(UTC)
    try:
        day = parse_day(until, now.date()) if until is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--until") from error
    past = HistoryContext(RunStore(store or known.store), known.baselines, alpha=chosen.alpha)
    first = first_named(event, store=past.store.address, baselines=past.baselines, alpha=chosen.alpha)
    return acknowledge(past, first, chosen, reason=reason, by=by, until=day, now=now)


def _print(every: tuple[Acknowledgement, ...] | list[Acknowledgement], format_: str) -> None:
    from perfkit.report.formatting import clean

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
    from perfkit.report.formatting import format_signed

    unit = item.metric.change_unit
    limit = "" if item.limit == float("inf") else f", silent up to {format_signed(item.limit, unit).lstrip('+')} {unit}"
    return f"{item.metric.title} of {item.service} {format_signed(item.size, unit)} {unit}{limit}"


REASON = click.option("--reason", required=True, help="Why; kept for those who review it.")
BY = click.option("--by", default="", help="Who says so [your login].")
EXPIRES = click.option("--expires", metavar="DAY", help="Last day on which it is good: 2027-01-31, or 90d from now.")
SCENARIO = click.option("--scenario", help="Only baselines of this load test.")
FORMAT = click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group(short_help="Pin, list, move and extract baselines.")
def baseline() -> None:
    """Baselines: runs that others are held against.

    Pinned ones are JSON files under data/baselines, to be reviewed and committed.  Wherever runs are asked for,
    SCENARIO@pinned:NAME names them; SCENARIO@rolling, the runs since the last change, needs no pin.
    """


@baseline.command(short_help="Choose runs as an anchor.")
@click.argument("name")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@REASON
@BY
@EXPIRES
@STORE
@SETTINGS
def pin(
    name: str,
    runs: tuple[str, ...],
    reason: str,
    by: str,
    expires: str | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Pin runs under a name.  Invalid runs are left out, and said.

    \b
    Examples:
      perfkit baseline pin v1.4 api@rolling --reason "release 1.4, measured overnight" --expires 90d
      perfkit baseline pin quiet "20261101T*-api-*" --reason "before the move to the new database"
    """
    from perfkit.history.curation import pin_runs
    from perfkit.history.run_names import load_runs

    past = _past(store, settings)
    chosen = load_runs(runs, store=past.store.address, baselines=past.baselines, alpha=past.alpha)
    pinned, notes = pin_runs(past, name, chosen, reason=reason, by=by, expires=_day(expires))
    _say(past, pinned, notes)


@baseline.command(short_help="Move an anchor to the runs after an intended change.")
@click.argument("event", metavar="EVENT_OR_RUN")
@REASON
@BY
@click.option("--name", help="Which pinned baseline, where the scenario has several.")
@EXPIRES
@POLICY
@STORE
@SETTINGS
def accept(
    event: str,
    reason: str,
    by: str,
    name: str | None,
    expires: str | None,
    policy: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Accept a change: its pinned baseline moves to the runs of the level that begins with this run.

    Of several runs, such as api@rolling, the first is meant.  Where the baseline was before stays in its file; one that
    has expired needs a new day.

    \b
    Example:
      perfkit baseline accept 20261102T020000Z-api-3f9c --reason "TLS everywhere costs 8 %, decided in #412"
    """
    from datetime import UTC, datetime

    from perfkit.history.curation import accept as move
    from perfkit.history.run_names import first_named

    past = _past(store, settings, policy)
    first = first_named(event, store=past.store.address, baselines=past.baselines, alpha=past.alpha)
    day = _day(expires)
    moved = move(past, first, reason=reason, by=by, name=name, expires=day, now=datetime.now(UTC))
    _say(past, moved, ())


@baseline.command("list", short_help="The pinned baselines, and what speaks against them.")
@SCENARIO
@FORMAT
@STORE
@SETTINGS
def list_(scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
    """List the pinned baselines; one that is stale, expired, too small or foreign says so.

    \b
    Example:
      perfkit baseline list --scenario api
    """
    from perfkit.history.baselines import Baselines
    from perfkit.history.curation import baseline_quality

    past = _past(store, settings)
    _check_scenario(past, scenario)
    every = [baseline_quality(past, pinned) for pinned in Baselines(past.baselines).all(scenario)]
    if format_ == "json":
        click.echo(dump([item.to_dict() for item in every]), nl=False)
        return
    if not every:
        whose = f" of {scenario}" if scenario is not None else ""
        click.echo(
            f"{past.baselines}: no pinned baselines{whose}; `perfkit baseline pin NAME RUN...` makes one", err=True
        )
        return
    console().print(_table(every))
    _notes(note for item in every for note in item.warnings)


@baseline.command(short_help="One pinned baseline, with its history.")
@click.argument("name")
@SCENARIO
@FORMAT
@STORE
@SETTINGS
def show(name: str, scenario: str | None, format_: str, store: str | None, settings: Path | None) -> None:
    """Show a pinned baseline: its runs, who chose them and why, what it was before, what speaks against it.

    \b
    Example:
      perfkit baseline show v1.4
    """
    from perfkit.history.baselines import find_named
    from perfkit.history.curation import baseline_quality

    past = _past(store, settings)
    _check_scenario(past, scenario)
    found = baseline_quality(past, find_named(past.baselines, name, scenario))
    if format_ == "json":
        click.echo(dump(found.to_dict()), nl=False)
        return
    for line in _lines(found):
        click.echo(line)
    _notes(found.warnings)


@baseline.command("extract", short_help="Result files -> performance-baselines-v2.json.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("performance-baselines-v2.json"),
    show_default=True,
    help="The baselines file.",
)
@STORE
@SETTINGS
def extract(files: tuple[str, ...], output: Path, store: str | None, settings: Path | None) -> None:
    """Write the baselines file: service name to users, latencies, error rate, rps, counts and time.

    Several runs of one service are pooled: counts add up, other values are averaged over runs.  A FILE may be whatever
    `perfkit compare` takes as a run.

    \b
    Examples:
      perfkit baseline extract load_results_baseline_*_stats.csv
      perfkit baseline extract api@pinned:v1.4 --output v1.4.json
    """
    from perfkit.cli.runs import write_metrics

    write_metrics(files, output, store, settings)


def _past(store: str | None, settings: Path | None, policy: Path | None = None) -> HistoryContext:
    from perfkit.config.policy import Policy
    from perfkit.history.context import HistoryContext
    from perfkit.runs.store import RunStore

    known = settings_of(settings)
    judging = Policy.from_toml(policy) if policy else known.policy
    return HistoryContext(RunStore(store or known.store), known.baselines, alpha=judging.alpha)


def _check_scenario(past: HistoryContext, scenario: str | None) -> None:
    """``SettingsError`` for a scenario that has neither runs nor a pinned baseline."""
    from perfkit.history.baselines import Baselines

    if scenario is not None:
        pinned = [item.scenario for item in Baselines(past.baselines).all()]
        check_scenario(scenario, (*past.store.runs()["scenario"], *pinned), past.store.url)


def _day(text: str | None) -> Any:
    from datetime import UTC, datetime

    from perfkit.history.baselines import parse_day

    if text is None:
        return None
    try:
        return parse_day(text, datetime.now(UTC).date())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error


def _say(past: HistoryContext, pinned: Pinned, notes: tuple[str, ...]) -> None:
    from perfkit.history.baselines import Baselines
    from perfkit.history.curation import baseline_quality

    count = f"{len(pinned.runs)} run{'' if len(pinned.runs) == 1 else 's'}"
    click.echo(f"wrote {Baselines(past.baselines).place(pinned.scenario, pinned.name)}: {count}")
    _notes((*notes, *baseline_quality(past, pinned).warnings))


def _notes(notes: Iterable[str]) -> None:
    for note in notes:
        tell(note)


def _table(every: list[BaselineQuality]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from perfkit.report.formatting import clean, shorten

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("baseline", "runs", "load", "created", "expires", "by", "reason"):
        table.add_column(title, justify="right" if title == "runs" else "left", overflow="fold")
    for item in every:
        pinned = item.pinned
        table.add_row(
            Text(clean(f"{pinned.scenario}@pinned:{pinned.name}")),
            f"{len(item.runs)}" if len(item.runs) == len(pinned.runs) else f"{len(item.runs)} of {len(pinned.runs)}",
            Text(clean(pinned.profile)),
            f"{pinned.created:%Y-%m-%d}",
            str(pinned.expires or ""),
            Text(shorten(pinned.by, 24)),
            Text(shorten(pinned.reason, 60)),
        )
    return table


def _lines(found: BaselineQuality) -> list[str]:
    from perfkit.report.formatting import clean

    pinned = found.pinned
    here = {run.id for run in found.runs}
    lines = [
        f"{pinned.scenario}@pinned:{pinned.name}: {pinned.reason}",
        f"by {pinned.by or 'unknown'}, {pinned.created:%Y-%m-%d}, good until {pinned.expires or 'further notice'}",
        f"load: {pinned.profile}",
        *(f"{name}: {value}" for name, value in pinned.environment.items()),
        *(f"run {run_id}{'' if run_id in here else ' (gone, or no longer valid)'}" for run_id in pinned.runs),
        *(
            f"before: {len(item.get('runs', ()))} runs from {str(item.get('created', ''))[:10]} on, by "
            f"{item.get('by', '')}: {item.get('reason', '')}"
            for item in reversed(pinned.history)
        ),
    ]
    return [clean(line) for line in lines]


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
    from perfkit.history.changes import detect_changes, stored_timelines
    from perfkit.history.commits import attribute
    from perfkit.history.timeline import under_names
    from perfkit.report.formatting import clean
    from perfkit.runs.store import RunStore

    if all_ and scenarios:
        raise click.UsageError("name scenarios, or say --all")
    if jobs is not None and scheduler is not None:
        raise click.UsageError("--jobs is about this machine, --scheduler about others: say one of them")
    settled = settings_of(settings)
    judging = settled.policy_of(policy)
    known = RunStore(store or settled.store)
    found = detect_changes(
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


def unconfirmed(of: DetectedChanges, store: str, settings: Settings, policy: Policy) -> Sequence[str]:
    """What `perfkit compare` calls a regression of the newest run, among the shown series, before the history shows it.

    A green history beside a red comparison of its newest run would be no answer.
    """
    from perfkit.history.run_names import newest_against_history
    from perfkit.model.records import Metric, Verdict
    from perfkit.report.sentences import headlines

    judged = newest_against_history(of.timeline, store=store, settings=settings, policy=policy)
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


def acknowledged(found: Sequence[DetectedChanges], file: Path) -> frozenset[str]:
    """Ids of the events that somebody called known or intended, and in which nothing new happened since."""
    from datetime import UTC, datetime

    from perfkit.history.acknowledgements import AcknowledgedFile, match

    known, today = AcknowledgedFile(file).read(), datetime.now(UTC).date()
    return frozenset(event_id for of in found for event_id in match(of.events, of.history.run_ids, known, today))


def _progress() -> Callable[[int, int], None] | None:
    """A line that is rewritten, on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if total >= PROGRESS_FROM:
            click.echo(f"\r\033[K{done:,} of {total:,} series", err=True, nl=done == total)

    return show


def _write(
    found: Sequence[DetectedChanges], format_: str, output: Path | None, commits: Attribute, silenced: Collection[str]
) -> None:
    if format_ == "json":
        scenarios = [changes.to_dict(silenced, commits) for changes in found]
        write(dump({"schema": "perfkit.changes/1", "alpha": found[0].alpha, "scenarios": scenarios}), output)
    elif format_ == "markdown":
        from perfkit.report.changes import changes_to_markdown

        write(changes_to_markdown(found, commits, silenced), output)
    else:
        from perfkit.report.changes import print_changes

        screen = console()
        with screen.capture() as captured:
            for number, changes_found in enumerate(found):
                screen.print(*([""] if number else []), end="\n" if number else "")
                print_changes(changes_found, screen, commits, silenced)
        write(captured.get(), output)


def watched(
    found: Sequence[DetectedChanges], policy: Policy, acknowledged_file: Path, baselines: Path
) -> tuple[ScenarioWatch, ...]:
    """What watching these histories came to: the judgement that reports, summaries, issues and mail give too."""
    from datetime import UTC, datetime

    from perfkit.history.acknowledgements import AcknowledgedFile
    from perfkit.history.baselines import Baselines
    from perfkit.history.monitor import watch_timeline

    known, today = AcknowledgedFile(acknowledged_file).read(), datetime.now(UTC).date()
    pinned = Baselines(baselines).all()
    return tuple(watch_timeline(of.history, policy.for_scenario(of.scenario), known, today, pinned) for of in found)


def exit_code(found: Sequence[DetectedChanges], watches: Sequence[ScenarioWatch], fail_on: str) -> int:
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
