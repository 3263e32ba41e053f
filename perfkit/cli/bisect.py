"""``perfkit bisect``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import SETTINGS, dump, settings_of, write

if TYPE_CHECKING:
    from perfkit.loadgen.bisect import Order, Result, Step

EXIT_NOT_FOUND = 3
MOST_RUNS = 32  # of one commit and the good one together


@click.command(short_help="Which commit made a service worse.")
@click.argument("scenario")
@click.option("--good", required=True, metavar="COMMIT", help="A commit that was still fast; or a branch or tag.")
@click.option("--bad", default="HEAD", show_default=True, metavar="COMMIT", help="A commit that is slow.")
@click.option(
    "--build", metavar="CMD", help="Builds a checkout, run in it without a shell; a failure skips the commit."
)
@click.option("--serve", metavar="CMD", help="Starts the service, with {port} [serve of the scenario].")
@click.option("--users", type=click.IntRange(1), help="Peak number of users.")
@click.option("--duration", help="Length of each run, such as 30s.")
@click.option(
    "--locustfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run this locustfile; SCENARIO is then just a name for it.",
)
@click.option("--max-runs", type=click.IntRange(2), default=MOST_RUNS, show_default=True, help="Per commit, at most.")
@click.option("--max-time", help="Per commit: begin no pair of runs that would end later, such as 20m.")
@click.option("--policy", type=click.Path(path_type=Path, dir_okay=False), help="Policy file (TOML).")
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), help="Log to go on with [inside .git].")
@click.option("--store", metavar="URL", help="Where the runs are kept [beside the log, apart from the history].")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@SETTINGS
def bisect(
    scenario: str,
    good: str,
    bad: str,
    build: str | None,
    serve: str | None,
    users: int | None,
    duration: str | None,
    locustfile: Path | None,
    max_runs: int,
    max_time: str | None,
    policy: Path | None,
    log: Path | None,
    store: str | None,
    dry_run: bool,
    format_: str,
    output: Path | None,
    settings: Path | None,
) -> int:
    """Find the commit that made a service worse.

    First the bad commit is compared with the good one; the clearest regression is what is searched for.  Then `git
    bisect run` goes through the commits in between: each is checked out into a temporary folder, built, served and
    measured beside the good one, pair by pair, until it is settled.  A commit is bad when more than half of the change
    is there, good when it is shown to have less, and skipped when neither is shown or it cannot be built.  The
    working tree is not touched.  Ctrl-C leaves nothing behind but the log, and the same command goes on from there.

    Exit codes: 0 the commit was found, 3 it was not (the ends do not differ, or several commits had to be skipped).

    \b
    Examples:
      perfkit bisect shop --good v1.4 --duration 30s
      perfkit bisect shop --good v1.4 --bad main --build "make release" --serve "./shop --port {port}" --max-time 20m
      perfkit bisect shop --good v1.4 --dry-run
    """
    from perfkit.cli.run import chosen_scenario, plan_of
    from perfkit.config.settings import load_fields
    from perfkit.loadgen.bisect import Order, common_folder, resolve, search
    from perfkit.model.errors import SettingsError
    from perfkit.model.serialization import slug

    known = settings_of(settings)
    changes = load_fields({"users": users, "duration": duration}, "--{}".format)
    chosen = chosen_scenario(scenario, known, locustfile, changes)
    starts = serve or chosen.serve
    if not starts:
        raise SettingsError(
            f'scenario {scenario!r}: say how the service starts: --serve "python app.py --port {{port}}"'
        )
    rules = known.policy_of(policy).for_scenario(chosen.name)
    here = Path.cwd()
    ends = [resolve(here, name, what) for name, what in ((good, "--good"), (bad, "--bad"))]
    place = common_folder(here) / "perfkit" / f"bisect-{slug(chosen.name)}-{ends[0][:9]}-{ends[1][:9]}"
    order = Order(
        here,
        here,
        ends[0],
        ends[1],
        replace(chosen, locustfile=chosen.locustfile.resolve()),
        starts,
        build,
        plan_of(None, True, max_runs, max_time, False),
        rules,
        store if store and "://" in store else str(Path(store or place / "runs").resolve()),
        (log or place / "log.jsonl").resolve(),
    )
    if dry_run:
        write(_steps(order), output)
        return 0
    result = search(order, _tell)
    write(dump(result.to_dict()) if format_ == "json" else _told(result), output)
    return 0 if result.found else EXIT_NOT_FOUND


@click.command("bisect-step", hidden=True)
@click.argument("order", type=click.Path(path_type=Path, dir_okay=False))
def step(order: Path) -> int:
    """One step of `perfkit bisect`, as `git bisect run` calls it."""
    from perfkit.loadgen.bisect import run_step

    return run_step(order, Path.cwd(), _tell)


def code_of_step(code: int) -> int:
    """The exit code for git, which takes 1 to 127 for a verdict: no failure of a step may look like one."""
    from perfkit.loadgen.bisect import CODES, FAILED

    return code if code in CODES.values() or code > 127 else FAILED


def _tell(text: str) -> None:
    """What builds and services wrote is in it."""
    from perfkit.report.formatting import clean

    click.echo(clean(text), err=True)


def _steps(order: Order) -> str:
    from perfkit.loadgen.bisect import outlook

    ahead = outlook(order)
    runs = 2 * order.plan.pairs
    lines = [
        f"1. check out {order.good[:9]} (good)" + (f" and build it: {order.build}" if order.build else ""),
        f"2. the same with {order.bad[:9]} (bad); compare both, {runs} runs of {order.scenario.name} at most "
        f"({order.scenario.profile.describe()}), each side served by: {order.serve}",
        f"3. git bisect run over {ahead.commits} commits: about {ahead.steps - 1} further comparisons",
        f"log: {order.log_path} ({ahead.known} commits known)",
        f"runs: {order.store}",
    ]
    return "\n".join(lines) + "\n"


def _told(result: Result) -> str:
    """The commit or what is left, its size, and each commit that was measured."""
    from perfkit.report.formatting import clean, shorten

    lines = []
    if not result.suspects:
        why = clean(result.step.why)
        lines += [f"not found: {result.bad[:9]} is not shown to be worse than {result.good[:9]}: {why}"]
    elif not result.found:
        lines += [f"not found: one of these {len(result.suspects)} commits; the others could not be told from it:"]
    for commit in result.suspects:
        who = f"({shorten(commit.author, 30)}, {clean(commit.date)[:10]})"
        lines += [
            f"{'first bad commit: ' if result.found else '  '}{commit.id[:9]} {shorten(commit.subject, 90)} {who}"
        ]
    if result.suspects:
        lines += [f"{_size(result.step)} against {result.good[:9]}"]
    lines += [
        f"  {step.commit[:9]} {step.verdict:4} {_size(step)}  {clean(step.why)}".rstrip() for step in result.steps
    ]
    return "\n".join([*lines, f"log: {result.log}"]) + "\n"


def _size(step: Step) -> str:
    from perfkit.model.records import Metric
    from perfkit.report.formatting import format_signed, shorten

    if step.change is None:
        return ""
    change, low, high = (format_signed(value, step.unit) for value in (step.change, step.ci_low, step.ci_high))
    return f"{Metric(step.metric).title} of {shorten(step.service)} {change} {step.unit} [{low}, {high}]"
