"""``perfkit run``: load tests run, alone or beside a baseline, with their progress and their ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.exit_codes import EXIT_INVALID, EXIT_STOPPED, exit_code_of, exit_code_of_verdict
from perfkit.cli.options import (
    DURATION,
    FILE,
    LABELS,
    Number,
    Workspace,
    drawn,
    dump,
    expanded,
    in_workspace,
    warn,
    write,
)
from perfkit.config.load_spec import ARRIVALS
from perfkit.model.errors import LoadError
from perfkit.model.records import KINDS
from perfkit.report.formatting import clean

if TYPE_CHECKING:
    from perfkit.config.policy import Policy
    from perfkit.config.settings import Scenario, Settings
    from perfkit.loadgen.ab_test import ABPlan, ABResult
    from perfkit.loadgen.container import Container
    from perfkit.loadgen.locust_process import Progress
    from perfkit.loadgen.run import Execution
    from perfkit.model.records import Comparison

PLAIN_EVERY_S = 10.0  # seconds between lines when the output is not a terminal


def report_end(execution: Execution) -> None:
    """One line at the end of each run, and what is wrong with it."""
    if sys.stdout.isatty():
        click.echo("\r\033[K", nl=False)
    if execution.run is None:
        click.echo(f"perfkit: {execution.error}", err=True)
        return
    run = execution.run
    requests = sum(stats.count or 0 for stats in run.services.values())
    failures = sum(stats.failures or 0 for stats in run.services.values())
    click.echo(
        f"{run.scenario}: {requests:,} requests, {failures:,} failures in {run.duration_s:.0f} s -> {run.source}"
    )
    ignored = next((check.value for check in run.validity.checks if check.name == "locust_settings"), None)
    if ignored is not None:
        click.echo(clean(f"ignored: {ignored}: the load is what perfkit's settings and options say"), err=True)
    for check in run.validity.problems:
        warn(f"{check.severity.value}: {check.name} ({check.value}): {check.advice}")


def show_progress() -> Callable[[Scenario, Progress], None]:
    """A line that is rewritten every second on a terminal.

    Elsewhere plain lines: at the start, when all users run, and every `PLAIN_EVERY_S` seconds.
    """
    terminal = sys.stdout.isatty()
    last: Progress | None = None

    def show(scenario: Scenario, now: Progress) -> None:
        nonlocal last
        is_next_run = last is None or now.elapsed_s < last.elapsed_s
        is_late = last is not None and now.elapsed_s - last.elapsed_s >= PLAIN_EVERY_S
        is_full = last is not None and now.users == scenario.profile.users and last.users < now.users
        if terminal or is_next_run or is_late or is_full:
            last = now
            text = progress_line(scenario, now)
            click.echo(f"\r\033[K{text}" if terminal else text, nl=not terminal)
            sys.stdout.flush()

    return show


def progress_line(scenario: Scenario, progress: Progress) -> str:
    """``api  0:12 of 15:00  users 40/100  rps 212  p95 38 ms  failures 3 (0.1 %)``."""
    profile = scenario.profile
    users = f"{progress.users}/{profile.users}" if profile.users else str(progress.users)
    load = f"users {users}"
    if profile.is_open:
        due = profile.level_at(progress.elapsed_s)
        load = f"in flight {progress.in_flight}  due {due or 0:.0f}/s"
    p95 = f"{progress.p95_latency_ms:.0f} ms" if progress.p95_latency_ms is not None else "-"
    share = f" ({100 * progress.failures / progress.requests:.1f} %)" if progress.requests else ""
    length = profile.duration_s
    of = f" of {_clock(length)}  {_clock(max(length - progress.elapsed_s, 0))} left" if length else ""
    late = f"  late {progress.late}" if progress.late else ""
    return (
        f"{scenario.name}  {_clock(progress.elapsed_s)}{of}  {load}  rps {progress.rps:.0f}  p95 {p95}  "
        f"failures {progress.failures}{share}{late}"
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


ARGUMENTS = "perfkit.run.arguments"


class _Run(click.Command):
    """Takes what follows ``--`` for arguments of Locust."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[ARGUMENTS], args = tuple(args[at + 1 :]), args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGUMENT...]"]


@click.command(cls=_Run, short_help="Run load tests and keep every request.")
@click.argument("scenarios", nargs=-1, metavar="SCENARIO...")
@click.option("--all", "all_", is_flag=True, help="Run every scenario in sequence.")
@click.option("--host", callback=expanded, help="Base URL of the target: http://127.0.0.1:8000 or '${API_URL}'.")
@click.option("--users", type=click.IntRange(1), help="Peak number of users.")
@click.option("--spawn-rate", type=Number(0, min_open=True), help="Users started per second.")
@click.option("--duration", help="Length, such as 90s, 15m or 1h30m.")
@click.option("--profile", "kind", type=click.Choice(KINDS), help="Course of the load; else from the other options.")
@click.option("--stages", help="Load stage by stage, such as 1m:10,1m:20,30s:20-80 (users) or 1m:50/s,1m:100/s.")
@click.option("--rate", help="Arrivals, such as 200/s: tasks start when due, answered or not (the open model).")
@click.option("--arrivals", type=click.Choice(ARRIVALS), help="Distances between arrivals [constant].")
@click.option("--max-in-flight", type=click.IntRange(1), help="Tasks under way at once, at most; others wait.")
@click.option("--peak", help="Height of the spike of --profile spike: users, or a rate.")
@click.option("--workers", type=click.IntRange(1), help="Make the load with so many processes on this machine.")
@click.option("--master", is_flag=True, help="Wait for workers on other machines, and gather what they record.")
@click.option("--expect-workers", type=click.IntRange(1), help="With --master: begin when so many are there.")
@click.option("--master-bind-host", default="*", show_default=True, help="With --master: address to listen on.")
@click.option("--master-bind-port", type=int, default=5557, show_default=True, help="With --master: port.")
@click.option("--worker", is_flag=True, help="Make load for a master elsewhere, which keeps the run.")
@click.option("--master-host", default="127.0.0.1", show_default=True, help="With --worker: where the master is.")
@click.option("--master-port", type=int, default=5557, show_default=True, help="With --worker: its port.")
@click.option("--docker", is_flag=True, help="Run Locust in a container, of Docker or of Podman.")
@click.option("--engine", type=click.Choice(("docker", "podman")), help="With --docker: which one [the first found].")
@click.option("--image", help="With --docker: an image that is there or can be pulled [built from this perfkit].")
@click.option("--build-arg", "build_args", multiple=True, metavar="KEY=VALUE", help="With --docker: such as BASE=....")
@click.option(
    "--locustfile",
    type=FILE,
    help="Run this locustfile; SCENARIO is then just a name for it.",
)
@click.option("--abort-on", metavar="CONDITION", help='End a hopeless run, such as "p95_latency_ms>2000 for 30s".')
@click.option(
    "--compare-with", callback=expanded, metavar="HOST|REF", help="Baseline to run beside: another host, or a commit."
)
@click.option("--pairs", type=click.IntRange(1), help="With --compare-with: runs of each side [5].")
@click.option("--until-settled", is_flag=True, help="With --compare-with: stop once the verdict is settled.")
@click.option("--max-runs", type=click.IntRange(2), help="With --until-settled: runs in all, at most [64].")
@click.option("--max-time", type=DURATION, help="With --compare-with: begin no pair that would end later, such as 1h.")
@click.option("--confirm", is_flag=True, help="With --compare-with: repeat a comparison that found a regression.")
@click.option("--policy", type=FILE, help="With --compare-with: policy (TOML).")
@click.option("--result", type=FILE, help="With --compare-with: the comparison as JSON.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of each scenario.")
@LABELS
@click.option(
    "--record",
    type=FILE,
    help="Execution record; with --all test_execution_metadata.json is written in any case.",
)
@in_workspace()
def run(
    workspace: Workspace,
    scenarios: tuple[str, ...],
    all_: bool,
    host: str | None,
    users: int | None,
    spawn_rate: float | None,
    duration: str | None,
    kind: str | None,
    stages: str | None,
    rate: str | None,
    arrivals: str | None,
    max_in_flight: int | None,
    peak: str | None,
    workers: int | None,
    master: bool,
    expect_workers: int | None,
    master_bind_host: str,
    master_bind_port: int,
    worker: bool,
    master_host: str,
    master_port: int,
    docker: bool,
    engine: str | None,
    image: str | None,
    build_args: tuple[str, ...],
    locustfile: Path | None,
    abort_on: str | None,
    compare_with: str | None,
    pairs: int | None,
    until_settled: bool,
    max_runs: int | None,
    max_time: float | None,
    confirm: bool,
    result: Path | None,
    repeat: int,
    labels: dict[str, str],
    record: Path | None,
) -> int:
    """Run load tests with Locust and keep every request of them.

    Arguments that the locustfile itself declares follow after --.

    SCENARIO is a name from perfkit.toml, or one of the built-in ones: baseline, api, rag, mcp.  Those call three small
    demo services, which are started for the run unless --host says otherwise.

    \b
    Examples:
      perfkit run baseline --duration 30s
      perfkit run shop --repeat 5 --label build=1.4.2
      perfkit run checkout --locustfile locustfile.py --host http://127.0.0.1:8000 --users 20 --duration 2m
      perfkit run shop --rate 200/s --arrivals poisson --duration 2m
      perfkit run shop --stages 1m:10,1m:20,1m:40
      perfkit run shop --profile spike --users 20 --peak 100 --duration 5m
      perfkit run shop --workers 4 --rate 5000/s --duration 5m
      perfkit run shop --master --expect-workers 2
      perfkit run shop --worker --master-host 10.0.0.5
      perfkit run shop --docker --build-arg BASE=python:3.12-slim
      perfkit run shop --compare-with http://127.0.0.1:8001 --until-settled --max-time 1h
      perfkit run shop --compare-with main --confirm
      perfkit run shop --compare-with main --until-settled --result result.json
      perfkit run shop --duration 2m -- --my-arg 3
      perfkit run --all
    """
    from perfkit.config.settings import load_fields
    from perfkit.loadgen.locust_command import Distribution
    from perfkit.loadgen.run import execution_record, run_scenarios
    from perfkit.loadgen.service_under_test import revision_of
    from perfkit.report.text import print_comparison

    if master + worker + (workers is not None) > 1:
        raise click.UsageError("--workers, --master and --worker exclude each other")
    if master != (expect_workers is not None):
        raise click.UsageError("--master and --expect-workers belong together: --master --expect-workers 2")
    settings = workspace.settings
    names = settings.all_names if all_ else scenarios
    if not names or (all_ and scenarios):
        raise click.UsageError("name a scenario, or say --all: " + ", ".join(settings.scenarios))
    changes = load_fields(
        {
            "host": host,
            "users": users,
            "spawn_rate": spawn_rate,
            "duration": duration,
            "kind": kind,
            "stages": stages.split(",") if stages else None,
            "rate": rate,
            "arrivals": arrivals,
            "max_in_flight": max_in_flight,
            "peak": peak,
        },
        "--{}".format,
    )
    if arguments := click.get_current_context().meta.get(ARGUMENTS):
        changes["arguments"] = arguments
    chosen = [settings.scenario(name, locustfile, **changes) for name in names]
    paired: dict[str, object] = {"--pairs": pairs, "--until-settled": until_settled, "--max-time": max_time}
    paired |= {"--confirm": confirm, "--max-runs": max_runs}
    paired |= {"--policy": workspace.policy_file, "--result": result}
    single: dict[str, object] = {"--workers": workers, "--master": master, "--worker": worker, "--abort-on": abort_on}
    single |= {"--all": all_, "--repeat": repeat > 1, "--record": record}
    contained: dict[str, object] = {"--engine": engine, "--image": image, "--build-arg": build_args}
    if compare_with is None:
        _refuse(paired, "needs --compare-with")
    else:
        _refuse(single, "does not go with --compare-with")
    if not docker:
        _refuse(contained, "needs --docker")
    if worker:
        _refuse({"--docker": docker}, "does not go with --worker")
        return _work(chosen, master_host, master_port)
    container = _container(engine, image, build_args) if docker else None
    revision, notes = revision_of(Path.cwd()), list[str]()
    notes += revision.notes  # before any load: no run without a commit says which build was slow
    if compare_with is not None and "://" in compare_with:
        notes.append("The commit of the baseline is unknown: a host does not say it. Its runs are kept without one.")
    for note in notes:
        warn(note)
    if compare_with is not None:
        plan = plan_of(pairs, until_settled, max_runs, max_time, confirm)
        outcome = _ab_test(chosen, compare_with, plan, workspace, labels, container)
        if result is not None:
            write(dump(outcome.comparison.to_dict()), result)
        write(drawn(partial(print_comparison, outcome.comparison)))
        click.echo(outcome.why)
        return exit_code_of_verdict(outcome.comparison.verdict)
    distribution = None
    if workers is not None:
        distribution = Distribution(workers, bind_port=0)
    elif expect_workers is not None:
        distribution = Distribution(expect_workers, local=False, bind_host=master_bind_host, bind_port=master_bind_port)
    done = run_scenarios(
        [replace(scenario, revision=revision.to_dict()) for scenario in chosen],
        workspace.store,
        repeat=repeat,
        labels=labels,
        on_progress=show_progress(),
        on_end=report_end,
        abort_on=abort_on,
        distribution=distribution,
        container=container,
    )
    target = record or (Path("test_execution_metadata.json") if all_ else None)
    if target is not None:
        write(dump(execution_record(done)), target)
    if any(execution.stopped for execution in done):
        return EXIT_STOPPED
    errors = [exit_code_of(execution.error) for execution in done if execution.error is not None]
    return max([0, *errors, *(EXIT_INVALID for execution in done if execution.status == "invalid")])


def _refuse(options: dict[str, object], why: str) -> None:
    """An option that would have no effect is a mistake."""
    given = next((name for name, value in options.items() if value), None)
    if given is not None:
        raise click.UsageError(f"{given} {why}")


def _container(engine: str | None, image: str | None, build_args: tuple[str, ...]) -> Container:
    """The container to run in; what takes long is reported."""
    from perfkit.loadgen.container import prepare_container

    bad = next((text for text in build_args if not text.partition("=")[0] or "=" not in text), None)
    if bad is not None:
        raise click.BadParameter(f"expected KEY=VALUE, got {bad!r}", param_hint="--build-arg")
    if image is not None and build_args:
        raise click.UsageError("--build-arg is for the image that perfkit builds, and has no effect with --image")
    container = prepare_container(engine, image, build_args, partial(click.echo, err=True))
    return replace(container, tree=Path.cwd())


def plan_of(
    pairs: int | None, until_settled: bool, max_runs: int | None, max_time: float | None, confirm: bool
) -> ABPlan:
    """How long to go on comparing two sides, from options."""
    from perfkit.loadgen.ab_test import MOST_PAIRS, ABPlan

    if max_runs is not None and not until_settled:
        raise click.UsageError("--max-runs belongs to --until-settled; --pairs says how many runs there are")
    most = max_runs // 2 if max_runs is not None else pairs or (MOST_PAIRS if until_settled else 5)
    return ABPlan(most, until_settled, max_time, confirm)


def _ab_test(
    chosen: list[Scenario],
    other: str,
    plan: ABPlan,
    workspace: Workspace,
    labels: dict[str, str],
    container: Container | None,
) -> ABResult:
    """Measure both sides alternately."""
    from perfkit.loadgen.ab_test import ABTest, ab_targets
    from perfkit.loadgen.run import run_scenario

    if len(chosen) != 1:
        raise click.UsageError("--compare-with takes one scenario")
    store, policy = workspace.store, workspace.policy
    with ab_targets(chosen[0], other, Path.cwd()) as targets:
        report = partial(click.echo, err=True)
        run_one = partial(run_scenario, container=container)
        outcome = ABTest(targets, store, policy, plan, report, labels, show_progress(), run_one).decide()
    comparison = _with_open_regressions(outcome.comparison, store, workspace.settings, policy)
    return replace(outcome, comparison=comparison)


def _with_open_regressions(comparison: Comparison, store: str, known: Settings, policy: Policy) -> Comparison:
    """With what is open in the scenario's history; a history that cannot be read takes no verdict away."""
    from perfkit.history.run_names import open_regressions
    from perfkit.model.errors import PerfkitError

    try:
        notes = open_regressions(comparison.candidate.runs, store=store, settings=known, policy=policy)
    except PerfkitError as error:
        notes = (f"Whether a regression is open already in the history is not known: {error}",)
    return comparison.with_warnings(notes)


def _work(chosen: list[Scenario], host: str, port: int) -> int:
    """Be a worker until the master says that it is over."""
    from perfkit.loadgen.locust_process import run_worker

    if len(chosen) != 1:
        raise click.UsageError("a worker makes the load of one scenario: name one")
    click.echo(f"{chosen[0].name}: worker of {host}, port {port}")
    code = run_worker(chosen[0], host, port)
    if code in (-signal.SIGINT, EXIT_STOPPED):
        return EXIT_STOPPED
    if code:
        raise LoadError(f"scenario {chosen[0].name!r}: the worker's Locust ended with exit code {code}; see above")
    return 0
