"""One run as the terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from perfkit.model import Metric, Run, ServiceStats
from perfkit.render.theme import clean, format_value

if TYPE_CHECKING:
    from rich.console import Group


def run_page(run: Run) -> Group:
    """What the run was, what its checks found, and a table of its services."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold")
    for title in ("requests", "failures", *(metric.value.removesuffix("_latency_ms") for metric in Metric)):
        table.add_column(title, justify="right")
    for name, stats in run.services.items():
        table.add_row(Text(clean(name)), *_cells(stats))
    facts = [Text(f"{name}: {clean(value)}") for name, value in _facts(run)]
    return Group(Text(clean(run.id), style="bold"), *facts, Text(""), table)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "scenario", run.scenario
    yield "started", run.started_at.isoformat(timespec="seconds") if run.started_at else "not known"
    yield "load", run.profile.describe()
    if run.duration_s is not None:
        yield "length", f"{run.duration_s:.1f} s"
    yield "tool", run.tool
    if run.target:
        yield "target", run.target
    for title, texts in (("git", run.git), ("labels", run.labels), ("environment", run.environment)):
        if texts:
            yield title, ", ".join(f"{name} {value}" for name, value in texts.items())
    yield "requests", "kept" if run.load_requests is not None else "summary only"
    yield "valid", "yes" if run.validity.ok else "no"
    for check in run.validity.problems:
        yield f"  {check.severity}", f"{check.name}: {check.value} (limit {check.limit}). {check.advice}"


def _cells(stats: ServiceStats) -> list[str]:
    counts = ["~" if number is None else f"{number:,}" for number in (stats.count, stats.failures)]
    return [*counts, *(format_value(metric, stats.value(metric)) for metric in Metric)]
