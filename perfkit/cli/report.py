"""``perfkit report``.

``perfkit report --all``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from perfkit.cli.options import CANDIDATE, OPTIONAL_CANDIDATE, POLICY, RULE, SETTINGS, STORE, Variadic, settings_of

if TYPE_CHECKING:
    from perfkit.config.policy import Policy
    from perfkit.config.settings import Settings
    from perfkit.model.records import Run
    from perfkit.report.batch import ReportJob
    from perfkit.report.report_set import Entry, Overview

KINDS = ("compare", "trend", "baseline", "capacity")
_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--all", "all_", is_flag=True, help="Every notebook of every scenario of the store, and an index.html."
    ),
    click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="With --all: only this scenario."),
    click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="With --all: only this notebook."),
    click.option(
        "--newest", type=click.IntRange(1), metavar="N", help="With --all: judge so many of the newest runs [1]."
    ),
    click.option("--jobs", type=click.IntRange(1), metavar="N", help="With --all: so many at a time [one per core]."),
    click.option(
        "--fail-on",
        type=click.Choice(["regression", "inconclusive", "never"]),
        help="With --all: what ends with exit code 1 [regression].",
    ),
    click.option("--reports", type=click.Path(path_type=Path, file_okay=False), help="With --all: where reports go."),
    POLICY,
    STORE,
    SETTINGS,
)


def with_all(command: _Command) -> _Command:
    """Add the options of ``--all`` to the group."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def run_all(context: click.Context, all_: bool, **given: Any) -> int | None:
    """Make all reports, or hand on to the command that was named."""
    options = [
        f"--{name.removesuffix('s') if name in ('scenarios', 'kinds') else name.replace('_', '-')}"
        for name, value in given.items()
        if value
    ]
    if context.invoked_subcommand is not None:
        if all_ or options:
            word = "--all" if all_ else options[0]
            raise click.UsageError(f"{word} stands before {context.invoked_subcommand!r}, where only --all may take it")
        return None
    if not all_:
        if options:
            raise click.UsageError(f"{options[0]} needs --all, or a report to make")
        click.echo(context.get_help())
        return 2
    return _make(settings_of(given["settings"]), given)


def _make(known: Settings, given: dict[str, Any]) -> int:
    from perfkit.model.files import atomic_write
    from perfkit.report.batch import Selection, report_jobs
    from perfkit.report.index import index_page
    from perfkit.report.notebook import new_folder
    from perfkit.report.report_set import Overview
    from perfkit.runs.backends import public_address

    store = given["store"] or known.store
    selection = Selection(given["scenarios"], given["kinds"], given["newest"] or 1)
    folder = new_folder((given["reports"] or known.reports).absolute(), "all")
    jobs = report_jobs(
        store,
        folder,
        selection,
        policy_file=policy_file(given["policy"], known.path),
        policy=known.policy_of(given["policy"]),
        acknowledged=known.acknowledged,
        baselines=known.baselines,
    )
    entries = _run_jobs(jobs, given["jobs"] or len(os.sched_getaffinity(0)))
    overview = Overview(entries, datetime.now(UTC), public_address(store))
    overview.write(folder)
    atomic_write(folder / "index.html", index_page(overview))
    click.echo(str(folder / "index.html"))
    return exit_code(overview, given["fail_on"] or "regression")


def _run_jobs(jobs: Sequence[ReportJob], processes: int) -> tuple[Entry, ...]:
    """The entries of all jobs, in their order; each is shown as it is done."""
    from perfkit.report.batch import run_jobs

    entries: dict[tuple[str, str], Entry] = {}
    with closing(run_jobs(jobs, processes)) as done, _progress(len(jobs)) as show:
        for job, entry in done:
            entries[job.scenario, job.kind] = entry
            show(entry)
    return tuple(entries[job.scenario, job.kind] for job in jobs)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Entry], None]]:
    """A bar on a terminal, and a line per report on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from perfkit.report.formatting import clean
    from perfkit.report.message import outcome_text

    screen = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    columns = TextColumn("reports"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("reports", total=total)
        begun, count = time.monotonic(), 0

        def show(entry: Entry) -> None:
            nonlocal count
            count += 1
            why = f": {clean(entry.sentences[0])}" if entry.sentences and not entry.report else ""
            spent = f"{time.monotonic() - begun:.0f} s"
            line = f"{count}/{total} {clean(entry.scenario)} {entry.kind}: {outcome_text(entry.word)}{why} ({spent})"
            bar.console.print(line)
            bar.advance(task)

        yield show


def exit_code(overview: Overview, fail_on: str) -> int:
    """The worst of all: 4 a notebook failed, 3 invalid or nothing to compare with, 1 a regression, else 0."""
    return max(_code(entry, fail_on) for entry in overview.entries)


def _code(entry: Entry, fail_on: str) -> int:
    from perfkit.model.records import Verdict
    from perfkit.report.report_set import Outcome

    fixed: dict[Verdict | Outcome, int] = {Outcome.FAILED: 4, Outcome.INCOMPARABLE: 3, Verdict.INVALID: 3}
    failing = {"regression": (Verdict.REGRESSION,), "inconclusive": (Verdict.REGRESSION, Verdict.INCONCLUSIVE)}
    return fixed.get(entry.word, int(entry.word in failing.get(fail_on, ())))


REPORTS = click.option(
    "--reports", type=click.Path(path_type=Path, file_okay=False), help="Where reports go [reports]."
)
TITLE = click.option("--title", help="Title of the report.")


@click.group(short_help="Execute a notebook and write the HTML report.", invoke_without_command=True)
@with_all
@click.pass_context
def report(context: click.Context, /, **options: Any) -> int | None:
    """Execute one of perfkit's notebooks and export it as one HTML file that opens offline.

    With --all, the notebooks of every scenario of the store are executed, several at a time: the newest run against its
    history, the trend, what is normal and, for ramps, how much load it takes.  One that fails does not stop the rest.
    The exit code is the worst of all: 4 a notebook failed, 3 runs that cannot be judged, 1 a regression.

    \b
    Examples:
      perfkit report compare api@rolling --candidate api@last:3
      perfkit report --all --newest 3
    """
    return run_all(context, **options)


@report.command(short_help="What is normal?")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@TITLE
@POLICY
@REPORTS
@STORE
@SETTINGS
def baseline(
    runs: tuple[str, ...],
    title: str | None,
    policy: Path | None,
    reports: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """What is normal: distributions, percentiles, variation from run to run, and what these runs can show.

    \b
    Example:
      perfkit report baseline "data/runs/*-api-*"
    """
    from perfkit.config.policy import Policy

    known = settings_of(settings)
    place = store or known.store
    chosen, notes = _baseline(runs, (), place, known, Policy.from_toml(policy) if policy else known.policy)
    parameters = {"runs": chosen, "policy": policy_file(policy, known.path), "title": title, "notes": notes}
    _run("baseline", parameters, reports or known.reports)


@report.command(cls=Variadic, short_help="Did it get slower?")
@click.argument("before", nargs=-1, required=True, metavar="BASELINE...")
@CANDIDATE
@TITLE
@POLICY
@RULE
@REPORTS
@STORE
@SETTINGS
def compare(
    before: tuple[str, ...],
    candidate: tuple[str, ...],
    title: str | None,
    policy: Path | None,
    rule: str | None,
    reports: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """Did it get slower: verdict, effects with intervals, distributions, time course, both sides.

    The report shows whatever the verdict is; `perfkit compare` with the same runs sets the exit code.

    \b
    Example:
      perfkit report compare "data/runs/*-api-1*" --candidate "data/runs/*-api-2*"
    """

    known = settings_of(settings)
    place = store or known.store
    judging = known.policy_of(policy)
    chosen, notes = _baseline(before, candidate, place, known, judging)
    parameters = {
        "baseline": chosen,
        "candidate": _paths(candidate, place, known.baselines, judging.alpha),
        "policy": policy_file(policy, known.path),
        "rule": rule,
        "title": title,
        "notes": notes,
    }
    _run("compare", parameters, reports or known.reports)


@report.command(cls=Variadic, short_help="How much load can it take?")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@OPTIONAL_CANDIDATE
@click.option("--slo", metavar="TEXT", help='What must hold, such as "p95 < 300 ms" or "error_rate < 1 %".')
@TITLE
@REPORTS
@STORE
@SETTINGS
def capacity(
    runs: tuple[str, ...],
    candidate: tuple[str, ...],
    slo: str | None,
    title: str | None,
    reports: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """How much load can it take: curves, knee, scalability law, capacity under an SLO; two builds at equal load.

    The runs are ramps or stages, with their requests.

    \b
    Example:
      perfkit report capacity "data/runs/*-ramp-*" --slo "p95 < 300 ms"
    """
    from perfkit.config.policy import parse_slo

    known = settings_of(settings)
    place = store or known.store
    if slo is not None:
        parse_slo(slo)  # a wrong one is told before the notebook starts
    parameters = {
        "runs": _paths(runs, place, known.baselines, known.policy.alpha),
        "candidate": _paths(candidate, place, known.baselines, known.policy.alpha) if candidate else None,
        "slo": slo,
        "policy": policy_file(None, known.path),
        "title": title,
    }
    _run("capacity", parameters, reports or known.reports)


@report.command(short_help="How has it gone, and what changed when?")
@click.argument("scenario")
@click.option("--service", metavar="NAME", help="Show only this service.")
@click.option("--metric", metavar="NAME", help="Show only this metric, such as p95.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="Show only so many of the newest runs [1000].")
@click.option(
    "--commit-url",
    metavar="TEMPLATE",
    help="Link commits to this address, such as https://git.example/api/commit/{commit}.",
)
@TITLE
@POLICY
@REPORTS
@STORE
@SETTINGS
def trend(
    scenario: str,
    service: str | None,
    metric: str | None,
    last: int | None,
    commit_url: str | None,
    title: str | None,
    policy: Path | None,
    reports: Path | None,
    store: str | None,
    settings: Path | None,
) -> None:
    """How a scenario has gone: value per run, levels, events with their commits, a calendar, what stands out.

    Events and levels come of all runs of the scenario, whatever is shown.

    \b
    Examples:
      perfkit report trend api
      perfkit report trend api --service checkout --last 200 --commit-url "https://git.example/api/commit/{commit}"
    """
    from perfkit.history.run_names import timeline
    from perfkit.history.trend import trend_of
    from perfkit.report.trend import read_commit_url
    from perfkit.runs.backends import public_address

    known = settings_of(settings)
    place = store or known.store
    read_commit_url(commit_url)  # what is wrong is told before the notebook starts
    history = timeline(place, scenario, known.policy_of(policy))
    if service is not None or metric is not None:
        trend_of(history, service=service, metric=metric)
    parameters = {
        "store": public_address(place) if "://" in place else str(Path(place).resolve()),
        "scenario": scenario,
        "service": service,
        "metric": metric,
        "last": last,
        "commit_url": commit_url,
        "acknowledged": str(known.acknowledged.resolve()),
        "baselines": str(known.baselines.resolve()),
        "policy": policy_file(policy, known.path),
        "title": title,
    }
    _run("trend", parameters, reports or known.reports)


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
    made = report_result(file, reports_dir=folder, title=title, progress=lambda text: click.echo(text, err=True))
    click.echo(str(made.html))


def _paths(names: tuple[str, ...], store: str, baselines: Path, alpha: float) -> str:
    """Absolute places of the runs, one a line: the notebook runs in a folder of its own."""
    from perfkit.history.run_names import load_runs

    return "\n".join(_place(run) for run in load_runs(names, store=store, baselines=baselines, alpha=alpha))


def _baseline(
    names: tuple[str, ...], candidate: tuple[str, ...], store: str, known: Settings, policy: Policy
) -> tuple[str, str | None]:
    """`_paths` of a baseline, which selectors choose without the candidate; what is to be known of it, one a line."""
    from perfkit.history.run_names import choose_runs, load_runs
    from perfkit.report.formatting import clean

    judged = load_runs(candidate, store=store, baselines=known.baselines, alpha=policy.alpha)
    runs, notes = choose_runs(
        names,
        store=store,
        baselines=known.baselines,
        candidates=judged,
        policy=policy if judged else None,
        alpha=policy.alpha,
    )
    lines = [" ".join(clean(note).split()) for note in notes]
    for line in lines:
        click.echo(f"! {line}", err=True)
    return "\n".join(_place(run) for run in runs), "\n".join(lines) or None


def _place(run: Run) -> str:
    source = run.source or run.id
    return source if "://" in source else str(Path(source).resolve())


def policy_file(policy: Path | None, settings: Path | None) -> str | None:
    """The file that the notebook reads policy and names of services from: settings without either are none."""
    from perfkit.config.toml_table import read_toml

    if policy is None and (settings is None or not {"policy", "services"} & read_toml(settings).keys()):
        return None
    return str((policy or settings or Path()).resolve())


def _run(kind: str, parameters: Mapping[str, object], reports: Path) -> None:
    from perfkit.report.notebook import run_report

    given = {name: value for name, value in parameters.items() if value is not None}
    made = run_report(kind, given, reports_dir=reports, progress=lambda text: click.echo(text, err=True))
    click.echo(str(made.html))
