"""``perfkit import | metrics | simulate``: the commands about files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from perfkit.cli.options import INJECT, SETTINGS, STORE, Number, dump, settings_of, tell, write

# What speaks against the file, not the load
DATA_CHECKS = ("consistency", "counts", "counts_and_rate", "skipped_requests")
FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...")
OUTPUT = click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")


@click.command("import", short_help="Keep foreign result files as runs.")
@FILES
@click.option("--scenario", help="Name of the load test [from the file name].")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label the runs; may be repeated.")
@STORE
@SETTINGS
def import_(
    files: tuple[str, ...], scenario: str | None, labels: tuple[str, ...], store: str | None, settings: Path | None
) -> int:
    """Read result files of load-test tools and keep them as runs; the same file twice is kept once.

    A run that cannot be judged is kept too: it says why, and ends with 3.

    \b
    Example:
      perfkit import results/nightly_stats.csv --scenario api --label build=1.4.2
    """
    from perfkit import workflow
    from perfkit.cli.run import parse_labels
    from perfkit.model import Severity

    place = store or settings_of(settings).store
    unfit = False
    for run in workflow.load_runs(files):
        run_id = workflow.import_run(run, place, scenario, parse_labels(labels))
        click.echo(run_id)
        for check in run.validity.problems:
            if check.severity is Severity.INVALID or check.name in DATA_CHECKS:
                tell(f"{run_id}: {check.severity.value}: {check.name}: {check.advice}")
        unfit = unfit or not run.validity.ok
    return 3 if unfit else 0


@click.command(short_help="Any result file -> normalised metrics JSON.")
@FILES
@OUTPUT
@STORE
@SETTINGS
def metrics(files: tuple[str, ...], output: Path | None, store: str | None, settings: Path | None) -> None:
    """Detect the format of result files and write their metrics as one JSON object: service name to metrics.

    What a source cannot say is absent.  A FILE may be whatever `perfkit compare` takes as a run.

    \b
    Example:
      perfkit metrics load_results_api_20261017_143004_stats.csv --output metrics.json
    """
    from perfkit import workflow
    from perfkit.readers.metrics_json import pooled_metrics

    known = settings_of(settings)
    runs = workflow.load_runs(files, store=store or known.store, baselines=known.baselines, policy=known.policy)
    write(dump(pooled_metrics(runs)), output)
    for run in runs:
        for check in run.validity.problems:
            if check.name in DATA_CHECKS:
                tell(f"{run.source or run.id}: {check.name}: {check.advice}")


@click.command(short_help="Write simulated Locust result files.")
@click.argument("scenario")
@click.option("--seed", type=int, required=True, help="The same seed gives the same requests.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder [this one].")
@click.option("--at", metavar="TIME", help="When the simulated run starts, ISO 8601 [now].")
@click.option("--duration", help="Such as 90s or 15m [the scenario's].")
@click.option("--users", type=click.IntRange(1), help="Peak users [the scenario's].")
@INJECT
@click.option("--runs", type=click.IntRange(1), help="Write so many run folders into the store, with every request.")
@click.option("--variation", type=Number(), default=2.0, show_default=True, help="Between runs, percent.")
@click.option("--autocorrelation", type=Number(), default=0.0, help="Of neighbouring runs, -1 to 1 [0]; with --runs.")
@click.option(
    "--outliers", type=Number(), default=0.0, help="Percent of the runs that are slower by 30 % [0]; with --runs."
)
@click.option("--drift", type=Number(), default=0.0, help="Percent from the first run to the last [0]; with --runs.")
@click.option(
    "--inject-at", type=click.IntRange(0), default=0, help="Run from which --inject holds, from 0; with --runs."
)
@STORE
@SETTINGS
def simulate(
    scenario: str,
    seed: int,
    output: Path,
    at: str | None,
    duration: str | None,
    users: int | None,
    inject: tuple[str, ...],
    runs: int | None,
    variation: float,
    autocorrelation: float,
    outliers: float,
    drift: float,
    inject_at: int,
    store: str | None,
    settings: Path | None,
) -> None:
    """Write the files that Locust would have written for one of the built-in scenarios, from a simulation.

    Nothing is sent anywhere.  The files are load_results_SCENARIO_TIME_stats.csv with its companions, and a normalised
    .json.  With --runs it writes run folders instead, whose truth is known: how runs vary, and what changes when.

    \b
    Examples:
      perfkit simulate baseline --seed 1
      perfkit simulate api --seed 2 --inject api_gateway:slower_pct=20 --output results
      perfkit simulate api --seed 3 --duration 30s --runs 60 --autocorrelation 0.3 --outliers 3 \\
          --inject api_gateway:slower_pct=10 --inject-at 40 --store data/simulated
    """
    from perfkit import workflow
    from perfkit.config import load_words, override

    known = settings_of(settings)
    chosen = known.scenario(scenario)
    changes = load_words({"users": users, "duration": duration}, "--{}".format)
    chosen = override(chosen, f"scenario {scenario}", **changes)
    if runs is not None:
        truth = {"variation_pct": variation, "autocorrelation": autocorrelation, "outlier_pct": outliers}
        truth |= {"drift_pct": drift, "change_at": inject_at}
        begin = _time(at) if at else None
        try:
            for run_id in workflow.simulate_runs(chosen, seed, runs, store or known.store, begin, inject, truth):
                click.echo(run_id)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        return
    started = _time(at) if at else datetime.now(UTC).replace(microsecond=0)
    for file in workflow.simulate(chosen, seed, output, started, inject):
        click.echo(str(file))


def _time(text: str) -> datetime:
    from perfkit.document import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise click.BadParameter(f"expected an ISO 8601 time, got {text!r}", param_hint="--at") from error
