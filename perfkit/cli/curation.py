"""``perfkit ack`` and ``perfkit baseline``: known changes, and pinned baselines."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.completion import complete_baselines, complete_runs
from perfkit.cli.options import (
    BY,
    DAY,
    FILE,
    FORMAT,
    Workspace,
    check_scenario,
    in_workspace,
    print_table,
    run_names,
    say,
    scenario_option,
    warn,
    write_json,
    write_metrics,
)
from perfkit.model.codec import encode
from perfkit.model.errors import NoEvent
from perfkit.model.records import Metric
from perfkit.report.formatting import clean, count_text, format_signed, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from perfkit.history.acknowledgements import Acknowledgement
    from perfkit.history.baselines import Pinned
    from perfkit.history.run_selector import HistoryContext

REASON = click.option("--reason", required=True, help="Why; kept for those who review it.")
EXPIRES = click.option(
    "--expires", type=DAY, metavar="DAY", help="Last day on which it is valid: 2027-01-31, or 90d from now."
)
SCENARIO = scenario_option("Only baselines of this load test.")


@click.command(short_help="Acknowledge a known or intended change.")
@click.argument("event", required=False, shell_complete=complete_runs)
@click.option("--reason", help="Why it is fine; kept for those who review it.")
@BY
@click.option("--until", type=DAY, metavar="DAY", help="Last day on which it holds: 2027-01-31, or 30d from now.")
@click.option("--list", "list_", is_flag=True, help="List what is acknowledged.")
@click.option("--remove", metavar="EVENT", help="Report it again.")
@click.option("--yes", is_flag=True, help="Do not ask where the run begins no event.")
@FORMAT
@in_workspace(policy=True, labels=True)
def ack(
    workspace: Workspace,
    event: str | None,
    reason: str | None,
    by: str,
    until: date | None,
    list_: bool,
    remove: str | None,
    yes: bool,
    format_: str,
) -> None:
    """Acknowledge a change: `perfkit compare` without a baseline and `perfkit changes` list it, and do not fail.

    EVENT is the id of an event, or of a run that begins a new level; of several runs, such as api@rolling, the first.
    Where the history has no event there, it names the nearest and asks; where nobody can be asked, it ends with 2.
    It is reported again when something new happens there: another metric or service changes, or one by materially more.
    Kept in data/acknowledged.json, to be reviewed and committed.

    \b
    Examples:
      perfkit ack 20261102T020000Z-api-3f9c --reason "TLS everywhere costs 8 %, decided in #412" --until 90d
      perfkit ack --list
      perfkit ack --remove 20261102T020000Z-api-3f9c
    """
    from perfkit.history.acknowledgements import AcknowledgedFile
    from perfkit.history.curation import acknowledge

    file = AcknowledgedFile(workspace.settings.acknowledged)
    if sum((list_, remove is not None, event is not None)) != 1:
        raise click.UsageError("name an event, or say --list or --remove EVENT")
    if workspace.labels and event is None:
        raise click.UsageError("--label chooses among runs, and --list and --remove are about none")
    if list_:
        _print_acknowledgements(file.read(), format_)
    elif remove is not None:
        click.echo(f"removed {file.remove(remove).id} from {file.path}")
    elif reason is None:
        raise click.UsageError("Missing option '--reason'.")
    else:
        history = workspace.history()
        first = workspace.run_ids([str(event)])[0]
        decision: dict[str, Any] = {"reason": reason, "by": by, "until": until, "now": datetime.now(UTC)}
        try:
            added = acknowledge(history, first, workspace.policy, **decision, without_event=yes)
        except NoEvent as error:
            if not sys.stdin.isatty():
                raise NoEvent(
                    f"{error}\nName one of these, or say --yes to acknowledge what changed at this run."
                ) from error
            say(str(error), err=True)
            if not click.confirm("Acknowledge what changed at this run all the same?", err=True):
                click.echo("nothing was acknowledged")
                return
            added = acknowledge(history, first, workspace.policy, **decision)
        file.add(added)
        _print_acknowledgements([added], format_)
        click.echo(f"wrote {file.path}", err=True)


def _print_acknowledgements(acknowledgements: Sequence[Acknowledgement], format_: str) -> None:
    if format_ == "json":
        write_json(encode(list(acknowledgements)))
        return
    for item in acknowledgements:
        say(f"{item.id}  {item.scenario}: {item.describe()}")
        for change in item.changes:
            metric, unit = Metric(change.metric), Metric(change.metric).change_unit
            text = f"{metric.title} of {change.service} {format_signed(change.size, unit)} {unit}"
            if change.limit != float("inf"):
                text += f", acknowledged up to {format_signed(change.limit, unit).lstrip('+')} {unit}"
            click.echo(f"  {clean(text)}")
    if not acknowledgements:
        click.echo("nothing is acknowledged", err=True)


@click.group(short_help="Pin, list, move and extract baselines.")
def baseline() -> None:
    """Baselines: runs that others are compared with.

    Pinned ones are JSON files under data/baselines, to be reviewed and committed.  Wherever runs are asked for,
    SCENARIO@pinned:NAME names them; SCENARIO@rolling, the runs since the last change, needs no pin.

    \b
    Examples:
      perfkit baseline pin v1.4 api@rolling --reason "release 1.4"
      perfkit compare api@pinned:v1.4 --candidate api@last:3
    """


@baseline.command(short_help="Pin runs under a name.")
@click.argument("name")
@run_names()
@REASON
@BY
@EXPIRES
@in_workspace(labels=True)
def pin(workspace: Workspace, name: str, runs: tuple[str, ...], **decision: Any) -> None:
    """Pin runs under a name.  Invalid runs are left out, and named.

    \b
    Examples:
      perfkit baseline pin v1.4 api@rolling --reason "release 1.4, measured overnight" --expires 90d
      perfkit baseline pin v1.5 --label build=1.5 --reason "release 1.5, measured overnight"
      perfkit baseline pin quiet "20261101T*-api-*" --reason "before the move to the new database"
    """
    from perfkit.history.curation import pin_runs

    history = workspace.history()
    pinned, notes = pin_runs(history, name, workspace.load_runs(runs), **decision)
    _report_pinned(history, pinned, notes)


@baseline.command(short_help="Move a baseline to the runs after an intended change.")
@click.argument("event", metavar="EVENT_OR_RUN", shell_complete=complete_runs)
@REASON
@BY
@click.option("--name", help="Which pinned baseline, where the scenario has several.")
@EXPIRES
@in_workspace(policy=True, labels=True)
def accept(workspace: Workspace, event: str, **decision: Any) -> None:
    """Accept a change: its pinned baseline moves to the runs of the level that begins with this run.

    Of several runs, such as api@rolling, the first is meant.  Where the baseline was before stays in its file; one that
    has expired needs a new day.

    \b
    Example:
      perfkit baseline accept 20261102T020000Z-api-3f9c --reason "TLS everywhere costs 8 %, decided in #412"
    """
    from perfkit.history import curation

    history = workspace.history()
    moved = curation.accept(history, workspace.run_ids([event])[0], **decision, now=datetime.now(UTC))
    _report_pinned(history, moved, ())


@baseline.command("list", short_help="The pinned baselines, and their warnings.")
@SCENARIO
@FORMAT
@in_workspace()
def list_(workspace: Workspace, scenario: str | None, format_: str) -> None:
    """List the pinned baselines, with a warning for one that is stale, expired, too small or foreign.

    \b
    Example:
      perfkit baseline list --scenario api
    """
    from perfkit.history.baselines import Baselines
    from perfkit.history.curation import baseline_quality

    history = workspace.history()
    _check_scenario(history, scenario)
    qualities = [baseline_quality(history, pinned) for pinned in Baselines(history.baselines).all(scenario)]
    if format_ == "json":
        write_json([item.to_dict() for item in qualities])
        return
    if not qualities:
        whose = f" of {scenario}" if scenario is not None else ""
        text = f"{history.baselines}: no pinned baselines{whose}; `perfkit baseline pin NAME RUN...` makes one"
        click.echo(text, err=True)
        return
    rows = []
    for item in qualities:
        pinned, count = item.pinned, f"{len(item.runs)}"
        count += "" if len(item.runs) == len(pinned.runs) else f" of {len(pinned.runs)}"
        title, load = clean(f"{pinned.scenario}@pinned:{pinned.name}"), clean(pinned.profile)
        days = f"{pinned.created:%Y-%m-%d}", str(pinned.expires or "")
        rows.append((title, count, load, *days, shorten(pinned.by, 24), shorten(pinned.reason, 60)))
    print_table(("baseline", "runs", "load", "created", "expires", "by", "reason"), rows, right=("runs",))
    warn(*(note for item in qualities for note in item.warnings))


@baseline.command(short_help="One pinned baseline, with its history.")
@click.argument("name", shell_complete=complete_baselines)
@SCENARIO
@FORMAT
@in_workspace()
def show(workspace: Workspace, name: str, scenario: str | None, format_: str) -> None:
    """Show a pinned baseline: its runs, who chose them and why, what it was before, and its warnings.

    \b
    Example:
      perfkit baseline show v1.4
    """
    from perfkit.history.baselines import find_named
    from perfkit.history.curation import baseline_quality

    history = workspace.history()
    _check_scenario(history, scenario)
    quality = baseline_quality(history, find_named(history.baselines, name, scenario))
    if format_ == "json":
        write_json(quality.to_dict())
        return
    pinned, present = quality.pinned, {run.id for run in quality.runs}
    lines = [
        f"{pinned.scenario}@pinned:{pinned.name}: {pinned.reason}",
        f"by {pinned.by or 'unknown'}, {pinned.created:%Y-%m-%d}, good until {pinned.expires or 'further notice'}",
        f"load: {pinned.profile}",
        *(f"{key}: {value}" for key, value in pinned.environment.items()),
        *(f"run {run_id}{'' if run_id in present else ' (gone, or no longer valid)'}" for run_id in pinned.runs),
        *(
            f"before: {len(state.runs)} runs from {state.created:%Y-%m-%d} on, by {state.by}: {state.reason}"
            for state in reversed(pinned.history)
        ),
    ]
    for line in lines:
        say(line)
    warn(*quality.warnings)


@baseline.command("extract", short_help="Result files -> performance-baselines-v2.json.")
@run_names("files", "FILE...")
@click.option(
    "--output",
    type=FILE,
    default=Path("performance-baselines-v2.json"),
    show_default=True,
    help="The baselines file.",
)
@in_workspace(labels=True)
def extract(workspace: Workspace, files: tuple[str, ...], output: Path) -> None:
    """Write the baselines file: service name to users, latencies, error rate, rps, counts and time.

    Several runs of one service are pooled: counts add up, other values are averaged over runs.  A FILE may be whatever
    `perfkit compare` takes as a run.

    \b
    Examples:
      perfkit baseline extract load_results_baseline_*_stats.csv
      perfkit baseline extract api@pinned:v1.4 --output v1.4.json
    """
    write_metrics(workspace, files, output)


def _check_scenario(history: HistoryContext, scenario: str | None) -> None:
    """``SettingsError`` for a scenario that has neither runs nor a pinned baseline."""
    from perfkit.history.baselines import Baselines

    if scenario is not None:
        pinned = [item.scenario for item in Baselines(history.baselines).all()]
        check_scenario(scenario, (*history.store.runs()["scenario"], *pinned), history.store.url)


def _report_pinned(history: HistoryContext, pinned: Pinned, notes: Sequence[str]) -> None:
    from perfkit.history.baselines import Baselines
    from perfkit.history.curation import baseline_quality

    path = Baselines(history.baselines).path_of(pinned.scenario, pinned.name)
    click.echo(f"wrote {path}: {count_text(len(pinned.runs), 'run')}")
    warn(*notes, *baseline_quality(history, pinned).warnings)
