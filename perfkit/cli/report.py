"""``perfkit report``: notebooks executed and exported, one or all of a store."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.completion import complete_metrics, complete_scenarios, complete_services
from perfkit.cli.exit_codes import EXIT_FAILED, EXIT_INVALID, exit_code_of_verdict
from perfkit.cli.options import (
    CANDIDATE_LABELS,
    FOLDER,
    SETTINGS,
    Command,
    Variadic,
    Workspace,
    candidate_option,
    fail_on_option,
    in_workspace,
    run_names,
    scenario_option,
    settings_of,
    warn,
)
from perfkit.config.policy import parse_slo
from perfkit.config.toml_table import read_toml
from perfkit.model.errors import PerfkitError
from perfkit.model.files import atomic_write
from perfkit.model.records import Run, Verdict
from perfkit.report.formatting import clean

if TYPE_CHECKING:
    from perfkit.report.batch import ReportJob
    from perfkit.report.report_set import Entry, Overview

KINDS = ("compare", "trend", "baseline", "capacity")
REPORTS = click.option("--reports", type=FOLDER, help="Where reports go [reports].")
TITLE = click.option("--title", help="Title of the report.")


@click.group(short_help="Execute a notebook and write the HTML report.", invoke_without_command=True)
@click.option("--all", "all_", is_flag=True, help="Every notebook of every scenario of the store, and an index.html.")
@scenario_option("With --all: only this scenario.", "scenarios", multiple=True, metavar="NAME")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="With --all: only this notebook.")
@click.option("--newest", type=click.IntRange(1), metavar="N", help="With --all: judge so many of the newest runs [1].")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="With --all: so many at a time [one per core].")
@fail_on_option(None, "With --all: what ends with exit code 1 [regression].")
@click.option("--reports", type=FOLDER, help="With --all: where reports go.")
@in_workspace(policy=True, labels=True)
def report(
    workspace: Workspace,
    all_: bool,
    scenarios: tuple[str, ...],
    kinds: tuple[str, ...],
    newest: int | None,
    jobs: int | None,
    fail_on: str | None,
    reports: Path | None,
) -> int | None:
    """Execute one of perfkit's notebooks and export it as one HTML file that opens offline.

    With --all, the notebooks of every scenario of the store are executed, several at a time: the newest run against its
    history, the trend, what is normal and, for ramps, how much load it takes.  One that fails does not stop the rest.
    The exit code is the worst of all: 4 a notebook failed, 3 runs that cannot be judged, 1 a regression.

    \b
    Examples:
      perfkit report compare api@rolling --candidate api@last:3
      perfkit report --all --newest 3
      perfkit report --all --label machine=ci-4
    """
    context = click.get_current_context()
    given = [parameter.opts[0] for parameter in context.command.params if context.params.get(parameter.name or "")]
    if context.invoked_subcommand is not None:
        if given:
            raise click.UsageError(
                f"{given[0]} stands before {context.invoked_subcommand!r}, where only --all may take it"
            )
        return None
    if not all_:
        if given:
            raise click.UsageError(f"{given[0]} needs --all, or a report to make")
        click.echo(context.get_help())
        return 2
    from perfkit.report.batch import index_page, report_jobs
    from perfkit.report.notebook import new_folder
    from perfkit.report.report_set import Overview
    from perfkit.runs.backends import public_address

    settings = workspace.settings
    folder = new_folder((reports or settings.reports).absolute(), "all")
    try:
        selected = report_jobs(
            workspace.store,
            folder,
            scenarios=scenarios,
            kinds=kinds,
            newest=newest or 1,
            labels=workspace.labels,
            policy_file=policy_file(workspace.policy_file, settings.path),
            policy=workspace.policy,
            acknowledged=settings.acknowledged,
            baselines=settings.baselines,
        )
    except PerfkitError:
        folder.rmdir()  # nothing to report: nothing is left
        raise
    entries = _run_jobs(selected, jobs or len(os.sched_getaffinity(0)))
    overview = Overview(entries, datetime.now(UTC), public_address(workspace.store))
    overview.write(folder)
    atomic_write(folder / "index.html", index_page(overview))
    click.echo(str(folder / "index.html"))
    return exit_code(overview, fail_on or "regression")


def _run_jobs(jobs: Sequence[ReportJob], processes: int) -> tuple[Entry, ...]:
    """The entries of all jobs, in their order; a bar on a terminal, and a line per report on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from perfkit.report.batch import run_jobs
    from perfkit.report.findings import outcome_text

    screen = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    columns = TextColumn("reports"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    entries: dict[tuple[str, str], Entry] = {}
    begun = time.monotonic()
    with (
        closing(run_jobs(jobs, processes)) as done,
        Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar,
    ):
        task = bar.add_task("reports", total=len(jobs))
        for job, entry in done:
            entries[job.scenario, job.kind] = entry
            reason = f": {clean(entry.sentences[0])}" if entry.sentences and not entry.report else ""
            outcome = f"{clean(entry.scenario)} {entry.kind}: {outcome_text(entry.word)}{reason}"
            bar.console.print(f"{len(entries)}/{len(jobs)} {outcome} ({time.monotonic() - begun:.0f} s)")
            bar.advance(task)
    return tuple(entries[job.scenario, job.kind] for job in jobs)


def exit_code(overview: Overview, fail_on: str) -> int:
    """The worst of all: 4 a notebook failed, 3 invalid or nothing to compare with, 1 a regression, else 0."""
    from perfkit.report.report_set import Outcome

    codes = {Outcome.FAILED: EXIT_FAILED, Outcome.INCOMPARABLE: EXIT_INVALID, Outcome.DONE: 0}
    return max(
        exit_code_of_verdict(entry.word, fail_on) if isinstance(entry.word, Verdict) else codes[entry.word]
        for entry in overview.entries
    )


def makes_report(**options: bool) -> Callable[[Callable[..., Mapping[str, object]]], Command]:
    """A command that executes the notebook of its name with the parameters that its function returns.

    Adds ``--title``, ``--reports`` and those of `in_workspace`.
    """

    def decorate(parameters_of: Callable[..., Mapping[str, object]]) -> Command:
        @wraps(parameters_of)
        def command(workspace: Workspace, *, title: str | None, reports: Path | None, **given: object) -> None:
            from perfkit.report.notebook import run_report

            settings = workspace.settings
            parameters = {
                **parameters_of(workspace, **given),
                "title": title,
                "policy": policy_file(workspace.policy_file, settings.path),
            }
            folder, notebook = reports or settings.reports, parameters_of.__name__
            made = run_report(notebook, parameters, reports_dir=folder, progress=partial(click.echo, err=True))
            click.echo(str(made.html))

        return TITLE(REPORTS(in_workspace(**options)(command)))

    return decorate


@report.command(short_help="What is normal?")
@run_names()
@makes_report(policy=True, labels=True)
def baseline(workspace: Workspace, runs: tuple[str, ...]) -> Mapping[str, object]:
    """What is normal: distributions, percentiles, variation from run to run, and what these runs can show.

    \b
    Example:
      perfkit report baseline "data/runs/*-api-*"
    """
    chosen, notes = _baseline_runs(workspace, runs, ())
    return {"runs": chosen, "notes": notes}


@report.command(cls=Variadic, short_help="Did it get slower?")
@run_names("before", "BASELINE...")
@candidate_option("Runs to judge")
@CANDIDATE_LABELS
@makes_report(policy=True, rule=True, labels=True)
def compare(
    workspace: Workspace, before: tuple[str, ...], candidate: tuple[str, ...], candidate_labels: dict[str, str]
) -> Mapping[str, object]:
    """Did it get slower: verdict, effects with intervals, distributions, time course, both sides.

    The report shows whatever the verdict is; `perfkit compare` with the same runs sets the exit code.

    \b
    Examples:
      perfkit report compare "data/runs/*-api-1*" --candidate "data/runs/*-api-2*"
      perfkit report compare --label build=1.4.2 --candidate-label build=1.5.0
    """
    from perfkit.report.batch import run_paths

    if not candidate and not candidate_labels:
        raise click.UsageError("Missing option '--candidate' (or --candidate-label).")
    judged = workspace.load_runs(candidate, candidate_labels)
    chosen, notes = _baseline_runs(workspace, before, judged)
    rule = click.get_current_context().params["rule"]
    return {"baseline": chosen, "candidate": run_paths(judged), "rule": rule, "notes": notes}


@report.command(cls=Variadic, short_help="How much load can it take?")
@run_names()
@candidate_option("Runs of another build")
@CANDIDATE_LABELS
@click.option("--slo", metavar="TEXT", help='What must hold, such as "p95 < 300 ms" or "error_rate < 1 %".')
@makes_report(labels=True)
def capacity(
    workspace: Workspace,
    runs: tuple[str, ...],
    candidate: tuple[str, ...],
    candidate_labels: dict[str, str],
    slo: str | None,
) -> Mapping[str, object]:
    """How much load can it take: curves, knee, scalability law, capacity under an SLO; two builds at equal load.

    The runs are ramps or stages, with their requests.

    \b
    Example:
      perfkit report capacity "data/runs/*-ramp-*" --slo "p95 < 300 ms"
    """
    from perfkit.report.batch import run_paths

    if slo is not None:
        parse_slo(slo)  # a wrong one ends the command before the notebook starts
    loaded = workspace.load_runs(runs)
    other = run_paths(workspace.load_runs(candidate, candidate_labels)) if candidate or candidate_labels else None
    return {"runs": run_paths(loaded), "candidate": other, "slo": slo}


@report.command(short_help="How has it gone, and what changed when?")
@click.argument("scenario", shell_complete=complete_scenarios)
@click.option("--service", metavar="NAME", shell_complete=complete_services, help="Show only this service.")
@click.option("--metric", metavar="NAME", shell_complete=complete_metrics, help="Show only this metric, such as p95.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="Show only so many of the newest runs [1000].")
@click.option(
    "--commit-url",
    metavar="TEMPLATE",
    help="Link commits to this address, such as https://git.example/api/commit/{commit}.",
)
@makes_report(policy=True, labels=True)
def trend(workspace: Workspace, scenario: str, **shown: Any) -> Mapping[str, object]:
    """How a scenario has gone: value per run, levels, events with their commits, a calendar, what stands out.

    Events and levels come of all runs of the scenario, whatever is shown.

    \b
    Examples:
      perfkit report trend api
      perfkit report trend api --label machine=ci-4
      perfkit report trend api --service checkout --last 200 --commit-url "https://git.example/api/commit/{commit}"
    """
    from perfkit.history.timeline import load_timeline
    from perfkit.history.trend import trend_of
    from perfkit.report.trend import read_commit_url
    from perfkit.runs.backends import public_address

    # What is wrong ends the command before the notebook starts
    read_commit_url(shown["commit_url"])
    store, settings = workspace.store, workspace.settings
    names, labels = workspace.policy.service_names, workspace.labels
    history = load_timeline(workspace.run_store, scenario, service_names=names, labels=labels)
    if shown["service"] is not None or shown["metric"] is not None:
        trend_of(history, service=shown["service"], metric=shown["metric"])
    return {
        "store": public_address(store) if "://" in store else str(Path(store).resolve()),
        "scenario": scenario,
        **shown,
        "labels": [f"{key}={value}" for key, value in labels.items()] or None,
        "acknowledged": settings.acknowledged.resolve(),
        "baselines": settings.baselines.resolve(),
    }


@report.command(short_help="What was judged before.")
@click.argument("file", metavar="RESULT", type=click.Path(path_type=Path))
@TITLE
@REPORTS
@SETTINGS
def result(file: Path, title: str | None, reports: Path | None, settings: Path | None) -> None:
    """The report of a comparison that was judged before, with its verdict as it was.

    RESULT is what `perfkit compare --format json` or `perfkit run --compare-with ... --result` wrote.

    \b
    Examples:
      perfkit compare --candidate api@last:1 --format json --output result.json
      perfkit report result result.json
    """
    from perfkit.report.batch import report_result

    folder = reports or settings_of(settings).reports
    click.echo(str(report_result(file, reports_dir=folder, title=title, progress=partial(click.echo, err=True)).html))


def _baseline_runs(workspace: Workspace, names: Sequence[str], candidates: Sequence[Run]) -> tuple[str, str | None]:
    """The paths of a baseline, which selectors choose without the candidates; and notes on it, one a line."""
    from perfkit.history.gate import choose_baseline
    from perfkit.history.run_selector import choose_runs
    from perfkit.report.batch import run_paths

    context = replace(workspace.history(), candidates=tuple(candidates))
    chosen = choose_baseline(names, context, workspace.policy) if candidates else choose_runs(names, context)
    lines = [clean(note) for note in chosen.warnings]
    for line in lines:
        warn(line)
    return run_paths(chosen.runs), "\n".join(lines) or None


def policy_file(policy: Path | None, settings: Path | None) -> str | None:
    """The file that the notebook reads policy and names of services from: settings without either are none."""

    if policy is None and (settings is None or not {"policy", "services"} & read_toml(settings).keys()):
        return None
    return str((policy or settings or Path()).resolve())
