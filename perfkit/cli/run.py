"""``perfkit run``: load tests run, alone or beside a baseline, with their progress and their ends."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.completion import complete_scenarios
from perfkit.cli.exit_codes import EXIT_INVALID, EXIT_STOPPED, exit_code_of, exit_code_of_verdict
from perfkit.cli.options import (
    DURATION,
    FILE,
    LABELS,
    Number,
    Workspace,
    drawn,
    expanded,
    in_workspace,
    key_values,
    warn,
    write,
    write_json,
)
from perfkit.config.settings import ARRIVALS, Scenario, load_fields
from perfkit.model.errors import LoadError, PerfkitError
from perfkit.model.records import KINDS, Comparison, Run
from perfkit.report.formatting import clean, clock, verdict_text

if TYPE_CHECKING:
    from perfkit.loadgen.container import Container
    from perfkit.loadgen.locust_process import Progress
    from perfkit.loadgen.run import Execution, OnProgress
    from perfkit.report.live import LiveView
    from perfkit.runs.store import RunStore

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
    load = f"users {progress.users}/{profile.users}" if profile.users else f"users {progress.users}"
    if profile.is_open:
        load = f"in flight {progress.in_flight}  due {profile.level_at(progress.elapsed_s) or 0:.0f}/s"
    p95 = f"{progress.p95_latency_ms:.0f} ms" if progress.p95_latency_ms is not None else "-"
    share = f" ({100 * progress.failures / progress.requests:.1f} %)" if progress.requests else ""
    length = profile.duration_s
    of = f" of {clock(length)}  {clock(max(length - progress.elapsed_s, 0))} left" if length else ""
    late = f"  late {progress.late}" if progress.late else ""
    return (
        f"{scenario.name}  {clock(progress.elapsed_s)}{of}  {load}  rps {progress.rps:.0f}  p95 {p95}  "
        f"failures {progress.failures}{share}{late}"
    )


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


_COUNT, _RATE, _ENGINE = click.IntRange(1), Number(0, min_open=True), click.Choice(("docker", "podman"))
LOAD = (
    click.Option(["--host"], callback=expanded, help="Base URL of the target: http://127.0.0.1:8000 or '${API_URL}'."),
    click.Option(["--users"], type=_COUNT, help="Peak number of users."),
    click.Option(["--spawn-rate"], type=_RATE, help="Users started per second."),
    click.Option(["--duration"], help="Length, such as 90s, 15m or 1h30m."),
    click.Option(
        ["--profile", "kind"], type=click.Choice(KINDS), help="Course of the load; else from the other options."
    ),
    click.Option(["--stages"], help="Load stage by stage, such as 1m:10,1m:20,30s:20-80 (users) or 1m:50/s,1m:100/s."),
    click.Option(["--rate"], help="Arrivals, such as 200/s: tasks start when due, answered or not (the open model)."),
    click.Option(["--arrivals"], type=click.Choice(ARRIVALS), help="Distances between arrivals [constant]."),
    click.Option(["--max-in-flight"], type=_COUNT, help="Tasks under way at once, at most; others wait."),
    click.Option(["--peak"], help="Height of the spike of --profile spike: users, or a rate."),
)
WORKERS = (
    click.Option(["--workers"], type=_COUNT, help="Make the load with so many processes on this machine."),
    click.Option(["--master"], is_flag=True, help="Wait for workers on other machines, and gather what they record."),
    click.Option(["--expect-workers"], type=_COUNT, help="With --master: begin when so many are there."),
    click.Option(["--master-bind-host"], default="*", show_default=True, help="With --master: address to listen on."),
    click.Option(["--master-bind-port"], type=int, default=5557, show_default=True, help="With --master: port."),
    click.Option(["--worker"], is_flag=True, help="Make load for a master elsewhere, which keeps the run."),
    click.Option(["--master-host"], default="127.0.0.1", show_default=True, help="With --worker: where the master is."),
    click.Option(["--master-port"], type=int, default=5557, show_default=True, help="With --worker: its port."),
)
CONTAINER = (
    click.Option(["--engine"], type=_ENGINE, help="With --docker: which one [the first found]."),
    click.Option(["--image"], help="With --docker: an image that is there or can be pulled [built from this perfkit]."),
    click.Option(
        ["--build-arg", "build_args"],
        multiple=True,
        metavar="KEY=VALUE",
        callback=key_values,
        help="With --docker: such as BASE=....",
    ),
)
COMPARISON = (
    click.Option(["--pairs"], type=_COUNT, help="With --compare-with: runs of each side [5]."),
    click.Option(["--until-settled"], is_flag=True, help="With --compare-with: stop once the verdict is settled."),
    click.Option(["--max-runs"], type=click.IntRange(2), help="With --until-settled: runs in all, at most [64]."),
    click.Option(
        ["--max-time"], type=DURATION, help="With --compare-with: begin no pair that would end later, such as 1h."
    ),
    click.Option(["--confirm"], is_flag=True, help="With --compare-with: repeat a comparison that found a regression."),
    click.Option(["--policy"], type=FILE, help="With --compare-with: policy (TOML)."),
    click.Option(["--result"], type=FILE, help="With --compare-with: the comparison as JSON."),
)
LIVE = (
    click.Option(["--live"], is_flag=True, help="Show the runs on a page while they go on; prints its address."),
    click.Option(["--live-port"], type=click.IntRange(1, 65535), help="With --live: port of the page [a free one]."),
)
OPTIONS = [
    click.Argument(["scenarios"], nargs=-1, metavar="SCENARIO...", shell_complete=complete_scenarios),
    click.Option(["--all", "all_"], is_flag=True, help="Run every scenario in sequence."),
    *LOAD,
    *WORKERS,
    click.Option(["--docker"], is_flag=True, help="Run Locust in a container, of Docker or of Podman."),
    *CONTAINER,
    click.Option(["--locustfile"], type=FILE, help="Run this locustfile; SCENARIO is then just a name for it."),
    click.Option(
        ["--abort-on"], metavar="CONDITION", help='End a hopeless run, such as "p95_latency_ms>2000 for 30s".'
    ),
    click.Option(
        ["--compare-with"],
        callback=expanded,
        metavar="HOST|REF",
        help="Baseline to run beside: another host, or a commit.",
    ),
    *COMPARISON,
    click.Option(["--repeat"], type=_COUNT, default=1, show_default=True, help="Runs of each scenario."),
    *LIVE,
]
SEVERAL = ("workers", "master", "worker", "abort_on", "all_", "repeat", "record")  # do not go with --compare-with


@click.command(cls=_Run, params=OPTIONS, short_help="Run load tests and keep every request.")
@LABELS
@click.option(
    "--record", type=FILE, help="Execution record; with --all test_execution_metadata.json is written in any case."
)
@in_workspace()
def run(
    workspace: Workspace,
    scenarios: tuple[str, ...],
    all_: bool,
    locustfile: Path | None,
    docker: bool,
    compare_with: str | None,
    labels: dict[str, str],
    record: Path | None,
    **given: Any,
) -> int:
    """Run load tests with Locust and keep every request of them.

    Arguments that the locustfile itself declares follow after --.

    SCENARIO is a name from perfkit.toml, or one of the built-in ones: baseline, api, rag, mcp.  Those call three small
    demo services, which are started for the run unless --host says otherwise.

    \b
    Examples:
      perfkit run baseline --duration 30s
      perfkit run shop --repeat 5 --label build=1.4.2
      perfkit run shop --repeat 5 --live
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
    from perfkit.loadgen.container import prepare_container
    from perfkit.loadgen.locust_command import Distribution
    from perfkit.loadgen.run import execution_record, run_scenarios
    from perfkit.loadgen.service_under_test import revision_of

    workers, expect_workers = given["workers"], given["expect_workers"]
    if given["master"] + given["worker"] + (workers is not None) > 1:
        raise click.UsageError("--workers, --master and --worker exclude each other")
    if given["master"] != (expect_workers is not None):
        raise click.UsageError("--master and --expect-workers belong together: --master --expect-workers 2")
    settings = workspace.settings
    names = settings.all_names if all_ else scenarios
    if not names or (all_ and scenarios):
        raise click.UsageError("name a scenario, or say --all: " + ", ".join(settings.scenarios))
    load = {option.name or "": given[option.name or ""] for option in LOAD}
    load["stages"] = load["stages"].split(",") if load["stages"] else None
    changes = load_fields(load, "--{}".format)
    if arguments := click.get_current_context().meta.get(ARGUMENTS):
        changes["arguments"] = arguments
    chosen = [settings.scenario(name, locustfile, **changes) for name in names]
    for is_given, needed, options in (
        (compare_with, "--compare-with", [option.name or "" for option in COMPARISON]),
        (docker, "--docker", [option.name or "" for option in CONTAINER]),
        (given["live"], "--live", ["live_port"]),
        (given["master"], "--master", ["master_bind_host", "master_bind_port"]),
        (given["worker"], "--worker", ["master_host", "master_port"]),
    ):
        if not is_given:
            _refuse(options, f"needs {needed}")
    if compare_with is not None:
        _refuse(SEVERAL, "does not go with --compare-with")
    if given["worker"]:
        _refuse(("docker",), "does not go with --worker")
        _refuse(("repeat", "record", "labels", "abort_on"), "does not go with --worker: the master keeps the run")
        _refuse(("live",), "does not go with --worker: the master shows all workers")
        return _work(chosen, given["master_host"], given["master_port"])
    container = None
    if docker:
        image, build_args = given["image"], tuple(map("=".join, given["build_args"].items()))
        if image is not None and build_args:
            raise click.UsageError("--build-arg is for the image that perfkit builds, and has no effect with --image")
        container = prepare_container(given["engine"], image, build_args, partial(click.echo, err=True))
        container = replace(container, tree=Path.cwd())
    revision = revision_of(Path.cwd())
    for note in revision.notes:  # before any load: no run without a commit says which build was slow
        warn(note)
    for scenario in chosen:
        rising = [stage for stage in scenario.profile.stages if stage.begin < stage.end]
        if scenario.profile.kind == "ramp" and len(rising) < len(scenario.profile.stages):  # a rise, and then one level
            warn(
                f"{scenario.name}: users rise for {clock(sum(stage.duration_s for stage in rising))} of "
                f"{clock(scenario.profile.duration_s or 0.0)}, so the rise and the level after it are judged as "
                f"{len(scenario.profile.stages)} stages; for one level raise --spawn-rate or --duration"
            )
    if compare_with is not None:
        return _compare(chosen, compare_with, workspace, labels, container, given)
    distribution = None
    if workers is not None:
        distribution = Distribution(workers, bind_port=0)
    elif expect_workers is not None:
        bind_host, bind_port = given["master_bind_host"], given["master_bind_port"]
        distribution = Distribution(expect_workers, local=False, bind_host=bind_host, bind_port=bind_port)
    scenarios_run = [replace(scenario, revision=revision.to_dict()) for scenario in chosen]
    with _watched(given, scenarios_run * given["repeat"], workspace) as view:
        done = run_scenarios(
            scenarios_run,
            workspace.store,
            repeat=given["repeat"],
            labels=labels,
            on_progress=_each(show_progress(), view.on_progress if view else None),
            on_end=_each(report_end, view.on_end if view else None),
            abort_on=given["abort_on"],
            distribution=distribution,
            container=container,
        )
        _summarise(done, workspace)
        if view is not None:
            view.finish()
    target = record or (Path("test_execution_metadata.json") if all_ else None)
    if target is not None:
        write_json(execution_record(done), target)
    if any(execution.stopped for execution in done):
        return EXIT_STOPPED
    errors = [exit_code_of(execution.error) for execution in done if execution.error is not None]
    return max([0, *errors, *(EXIT_INVALID for execution in done if execution.status == "invalid")])


@contextmanager
def _watched(
    given: dict[str, Any], planned: Sequence[Scenario], workspace: Workspace, *, at_most: bool = False
) -> Iterator[LiveView | None]:
    """With --live, a page that shows the runs until their end; it is told of them by the view."""
    if not given["live"]:
        yield None
        return
    from perfkit.report.live import LiveView, serving

    with serving(given["live_port"] or 0) as page:
        click.echo(f"live: {page.url}", err=True)
        view = LiveView(planned, page.publish, workspace.run_store, at_most=at_most, options=_store_option(workspace))
        try:
            yield view
        finally:
            if not view.is_finished:
                view.finish("The test was not finished; the terminal says why.")


def _store_option(workspace: Workspace) -> str:
    """What a command needs to find the same store again."""
    return "" if workspace.store == workspace.settings.store else f" --store {shlex.quote(workspace.run_store.url)}"


def _each(first: Callable[..., None], second: Callable[..., None] | None) -> Callable[..., None]:
    if second is None:
        return first

    def call(*values: Any) -> None:
        first(*values)
        second(*values)

    return call


def _summarise(done: Sequence[Execution], workspace: Workspace) -> None:
    """The services, errors and next step of each scenario."""
    from perfkit.report.run_summary import next_step, print_run_summary

    for name in dict.fromkeys(execution.scenario for execution in done):
        if runs := [execution.run for execution in done if execution.run is not None and execution.scenario == name]:
            step = next_step(runs, workspace.run_store, _store_option(workspace))
            write(drawn(partial(print_run_summary, runs, step)))


def _refuse(names: Iterable[str], why: str) -> None:
    """An option that would have no effect is a mistake."""
    context = click.get_current_context()
    options = {option.name or "": option for option in context.command.params}
    for name in names:
        if (value := context.params[name]) and value != options[name].default:
            raise click.UsageError(f"{options[name].opts[0]} {why}")


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


def _compare(
    chosen: list[Scenario],
    other: str,
    workspace: Workspace,
    labels: dict[str, str],
    container: Container | None,
    given: dict[str, Any],
) -> int:
    """Measure both sides alternately, and judge them."""
    from perfkit.loadgen.ab_test import MOST_PAIRS, ABPlan, ABTest, ab_targets
    from perfkit.loadgen.run import Execution, run_scenario
    from perfkit.report.text import print_comparison

    if len(chosen) != 1:
        raise click.UsageError("--compare-with takes one scenario")
    max_runs, until_settled = given["max_runs"], given["until_settled"]
    if max_runs is not None and not until_settled:
        raise click.UsageError("--max-runs belongs to --until-settled; --pairs says how many runs there are")
    if "://" in other:
        warn("The commit of the baseline is unknown: a host does not say it. Its runs are kept without one.")
    most = max_runs // 2 if max_runs is not None else given["pairs"] or (MOST_PAIRS if until_settled else 5)
    plan = ABPlan(most, until_settled, given["max_time"], given["confirm"])
    most_runs = 2 * most * (2 if plan.confirm else 1)
    is_open_end = until_settled or plan.confirm or plan.max_time_s is not None
    with (
        _watched(given, chosen * most_runs, workspace, at_most=is_open_end) as view,
        ab_targets(chosen[0], other, Path.cwd()) as targets,
    ):

        def run_one(scenario: Scenario, store: RunStore, labels: dict[str, str], progress: OnProgress | None) -> Run:
            if view is None:
                return run_scenario(scenario, store, labels, progress, container=container)
            view.label = f"{labels['side']}, pair {labels['pair']}"
            begun = datetime.now(UTC)
            run = run_scenario(scenario, store, labels, progress, container=container)
            view.on_end(Execution(scenario.name, begun, datetime.now(UTC), run))
            return run

        report, show = partial(click.echo, err=True), _each(show_progress(), view.on_progress if view else None)
        result = ABTest(targets, workspace.store, workspace.policy, plan, report, labels, show, run_one).decide()
        if view is not None:
            view.finish(f"{verdict_text(result.comparison.verdict)}: {result.why}.")
    comparison = with_open_regressions(result.comparison, workspace)
    if given["result"] is not None:
        write_json(comparison.to_dict(), given["result"])
    write(drawn(partial(print_comparison, comparison)))
    click.echo(result.why)
    return exit_code_of_verdict(comparison.verdict)


def with_open_regressions(comparison: Comparison, workspace: Workspace) -> Comparison:
    """With what is open in the scenario's history; a history that cannot be read takes no verdict away."""
    from perfkit.history.gate import open_in_history

    context = replace(workspace.history(), candidates=tuple(comparison.candidate.runs))
    try:
        notes = open_in_history(context, workspace.policy, workspace.acknowledgements())
    except PerfkitError as error:
        notes = (f"Whether a regression is open already in the history is not known: {error}",)
    return comparison.with_warnings(notes)
