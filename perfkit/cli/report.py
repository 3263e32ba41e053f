"""``perfkit report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.options import CANDIDATE, OPTIONAL_CANDIDATE, POLICY, RULE, SETTINGS, STORE, Variadic, settings_of
from perfkit.cli.report_all import run_all, with_all

if TYPE_CHECKING:
    from perfkit.config import Settings
    from perfkit.model import Run
    from perfkit.policy import Policy

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
    from perfkit.policy import Policy

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
    from perfkit.slo import parse_slo

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
    from perfkit import workflow
    from perfkit.render.moment_links import read_commit_url
    from perfkit.store.place import public_address

    known = settings_of(settings)
    place = store or known.store
    read_commit_url(commit_url)  # what is wrong is told before the notebook starts
    history = workflow.timeline(place, scenario, known.policy_of(policy))
    if service is not None or metric is not None:
        workflow.trend_of(history, service=service, metric=metric)
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
    from perfkit.results import read_result

    comparison = read_result(file).comparison
    if comparison is None:
        raise click.UsageError(f"{file} is no comparison: perfkit report trend draws a history")
    known = settings_of(settings)
    sides = {"baseline": comparison.baseline.runs, "candidate": comparison.candidate.runs}
    parameters = {name: "\n".join(map(_place, runs)) for name, runs in sides.items()}
    judged = file / "result.json" if file.is_dir() else file
    _run("compare", {**parameters, "judged": str(judged.resolve()), "title": title}, reports or known.reports)


def _paths(names: tuple[str, ...], store: str, baselines: Path, alpha: float) -> str:
    """Absolute places of the runs, one a line: the notebook runs in a folder of its own."""
    from perfkit import workflow

    return "\n".join(_place(run) for run in workflow.load_runs(names, store=store, baselines=baselines, alpha=alpha))


def _baseline(
    names: tuple[str, ...], candidate: tuple[str, ...], store: str, known: Settings, policy: Policy
) -> tuple[str, str | None]:
    """`_paths` of a baseline, which selectors choose without the candidate; what is to be known of it, one a line."""
    from perfkit import workflow
    from perfkit.render.theme import clean

    judged = workflow.load_runs(candidate, store=store, baselines=known.baselines, alpha=policy.alpha)
    runs, notes = workflow.choose_runs(
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
    from perfkit.settings_file import read_toml

    if policy is None and (settings is None or not {"policy", "services"} & read_toml(settings).keys()):
        return None
    return str((policy or settings or Path()).resolve())


def _run(kind: str, parameters: Mapping[str, object], reports: Path) -> None:
    from perfkit.render.notebook import run_report

    given = {name: value for name, value in parameters.items() if value is not None}
    made = run_report(kind, given, reports_dir=reports, progress=lambda text: click.echo(text, err=True))
    click.echo(str(made.html))
