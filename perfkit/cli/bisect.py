"""``perfkit bisect``."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.completion import complete_scenarios
from perfkit.cli.options import DRY_RUN, DURATION, FILE, FORMAT, OUTPUT, SETTINGS, say, settings_of, write
from perfkit.config.settings import load_fields
from perfkit.model.codec import dump_json
from perfkit.model.errors import SettingsError
from perfkit.model.records import Metric
from perfkit.report.formatting import clean, format_signed, shorten

if TYPE_CHECKING:
    from perfkit.loadgen.bisect import Bisection, BisectResult, Step

EXIT_NOT_FOUND = 3
MOST_RUNS = 32  # of one commit and the good one together


@click.command(short_help="Which commit made a service worse.")
@click.argument("scenario", shell_complete=complete_scenarios)
@click.option("--good", required=True, metavar="COMMIT", help="A commit that was still fast; or a branch or tag.")
@click.option("--bad", default="HEAD", show_default=True, metavar="COMMIT", help="A commit that is slow.")
@click.option(
    "--build", metavar="CMD", help="Builds a checkout, run in it without a shell; a failure skips the commit."
)
@click.option("--serve", metavar="CMD", help="Starts the service, with {port} [serve of the scenario].")
@click.option("--users", type=click.IntRange(1), help="Peak number of users.")
@click.option("--duration", help="Length of each run, such as 30s.")
@click.option("--locustfile", type=FILE, help="Run this locustfile; SCENARIO is then just a name for it.")
@click.option("--max-runs", type=click.IntRange(2), default=MOST_RUNS, show_default=True, help="Per commit, at most.")
@click.option("--max-time", type=DURATION, help="Per commit: begin no pair of runs that would end later, such as 20m.")
@click.option("--policy", type=FILE, help="Policy file (TOML).")
@click.option("--log", type=FILE, help="Log to go on with [inside .git].")
@click.option("--store", metavar="URL", help="Where the runs are kept [beside the log, apart from the history].")
@DRY_RUN
@click.option("--step", is_flag=True, help="Judge --bad alone, with the exit codes that `git bisect run` expects.")
@FORMAT
@OUTPUT
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
    max_time: float | None,
    policy: Path | None,
    log: Path | None,
    store: str | None,
    dry_run: bool,
    step: bool,
    format_: str,
    output: Path | None,
    settings: Path | None,
) -> int:
    """Find the commit that made a service worse.

    First the bad commit is compared with the good one; the clearest regression is what is searched for.  Then git
    bisects the commits in between: each is checked out into a temporary folder, built, served and measured beside the
    good one, pair by pair, until it is settled.  A commit is bad when more than half of the change is there, good when
    it is shown to have less, and skipped when neither is shown or it cannot be built.  The working tree is not
    touched.  Ctrl-C leaves nothing behind but the log, and the same command goes on from there.

    Exit codes: 0 the commit was found, 3 it was not (the ends do not differ, or several commits had to be skipped).
    With --step: 0 good, 1 bad, 125 skip, 255 for any failure.

    \b
    Examples:
      perfkit bisect shop --good v1.4 --duration 30s
      perfkit bisect shop --good v1.4 --bad main --build "make release" --serve "./shop --port {port}" --max-time 20m
      perfkit bisect shop --good v1.4 --dry-run
      git bisect run perfkit bisect shop --good v1.4 --step
    """
    from perfkit.loadgen.ab_test import ABPlan
    from perfkit.loadgen.bisect import Bisection, find_first_bad_commit, judge_head
    from perfkit.model.serialization import slug
    from perfkit.runs.git import Git

    config = settings_of(settings)
    changes = load_fields({"users": users, "duration": duration}, "--{}".format)
    chosen = config.scenario(scenario, locustfile, **changes)
    if not (serve or chosen.serve):
        advice = '--serve "python app.py --port {port}"'
        raise SettingsError(f"scenario {scenario!r}: say how the service starts: {advice}")
    git, commits = Git(Path.cwd()), list[str]()
    for option, name in (("--good", good), ("--bad", bad)):
        if (commit := git.commit(name)) is None:
            raise SettingsError(f"{option} {name!r}: {git.why_unknown()}; go into the repository of the service")
        commits.append(commit)
    good, bad = commits
    folder = git.common_folder() / "perfkit" / f"bisect-{slug(chosen.name)}-{good[:9]}-{bad[:9]}"
    bisection = Bisection(
        git.folder,
        good,
        bad,
        replace(chosen, locustfile=chosen.locustfile.resolve(), serve=serve or chosen.serve),
        build,
        ABPlan(max_runs // 2, True, max_time, False),
        config.policy_of(policy).for_scenario(chosen.name),
        store if store and "://" in store else str(Path(store or folder / "runs").resolve()),
        (log or folder / "log.jsonl").resolve(),
    )

    on_message = partial(say, err=True)  # what builds and services wrote is in it
    if dry_run:
        write(plan_text(bisection), output)
        return 0
    if step:
        return judge_head(bisection, on_message)
    result = find_first_bad_commit(bisection, on_message)
    write(dump_json(result.to_dict()) if format_ == "json" else result_text(result), output)
    return 0 if result.found else EXIT_NOT_FOUND


def plan_text(bisection: Bisection) -> str:
    """What `perfkit bisect` would do."""
    from perfkit.runs.git import Git

    bisection.check()
    good, bad, scenario = bisection.good[:9], bisection.bad[:9], bisection.scenario
    count = Git(bisection.repository).count(f"{bisection.good}..{bisection.bad}")
    return (
        f"1. check out {good} (good){f' and build it: {bisection.build}' if bisection.build else ''}\n"
        f"2. the same with {bad} (bad); compare both, {2 * bisection.plan.pairs} runs of {scenario.name} at most "
        f"({scenario.profile.describe()}), each side served by: {scenario.serve}\n"
        f"3. git bisect over {count} commits: about {math.ceil(math.log2(max(count, 1)))} further comparisons\n"
        f"log: {bisection.log} ({len(bisection.logged_steps())} commits measured)\n"
        f"runs: {bisection.store}\n"
    )


def result_text(result: BisectResult) -> str:
    """The first bad commit or the suspects, the size of the change, and each commit that was measured."""
    lines = []
    if not result.suspects:
        why = clean(result.size.why)
        lines += [f"not found: {result.bad[:9]} is not shown to be worse than {result.good[:9]}: {why}"]
    elif not result.found:
        lines += [f"not found: one of these {len(result.suspects)} commits; the others could not be told from it:"]
    for commit in result.suspects:
        label = "first bad commit: " if result.found else "  "
        author = f"({shorten(commit.author, 30)}, {clean(commit.date)[:10]})"
        lines += [f"{label}{commit.id[:9]} {shorten(commit.subject, 90)} {author}"]
    if result.suspects:
        lines += [f"{_size_text(result.size)} against {result.good[:9]}"]
    for step in result.steps:
        lines += [f"  {step.commit[:9]} {step.verdict:4} {_size_text(step)}  {clean(step.why)}".rstrip()]
    return "\n".join([*lines, f"log: {result.log}"]) + "\n"


def _size_text(step: Step) -> str:
    if step.change is None:
        return ""
    change, low, high = (format_signed(value, step.unit) for value in (step.change, step.ci_low, step.ci_high))
    return f"{Metric(step.metric).title} of {shorten(step.service)} {change} {step.unit} [{low}, {high}]"
