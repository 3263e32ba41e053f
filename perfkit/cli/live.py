"""What `perfkit run` says while load is made, and at the end of each run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from perfkit.render.theme import clean

if TYPE_CHECKING:
    from perfkit.config import Scenario
    from perfkit.executions import Execution
    from perfkit.load.progress import Progress

PLAIN_EVERY_S = 10.0  # seconds between lines when the output is not a terminal


def tell_end(execution: Execution) -> None:
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
        click.echo(clean(f"! {check.severity.value}: {check.name} ({check.value}): {check.advice}"), err=True)


def show_progress() -> Callable[[Scenario, Progress], None]:
    """A line that is rewritten every second on a terminal.

    Elsewhere plain lines: at the start, when all users run, and every `PLAIN_EVERY_S` seconds.
    """
    terminal = sys.stdout.isatty()
    last: Progress | None = None

    def show(scenario: Scenario, progress: Progress) -> None:
        nonlocal last
        if not terminal and not _is_news(scenario, last, progress):
            return
        last = progress
        text = progress_line(scenario, progress)
        click.echo(f"\r\033[K{text}" if terminal else text, nl=not terminal)
        sys.stdout.flush()

    return show


def _is_news(scenario: Scenario, last: Progress | None, now: Progress) -> bool:
    if last is None or now.elapsed_s < last.elapsed_s or now.elapsed_s - last.elapsed_s >= PLAIN_EVERY_S:
        return True
    return now.users == scenario.profile.users and last.users < now.users


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
