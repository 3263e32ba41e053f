"""The end of a load test: a table of its services, the most frequent errors, and what to do next.

The same table shows a run while it goes on (`perfkit.report.live`).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from perfkit.analysis.error_kinds import error_kinds
from perfkit.loadgen.live import ServiceFigures, by_failures
from perfkit.model.errors import PerfkitError
from perfkit.model.records import Run, ServiceStats
from perfkit.report.formatting import UNKNOWN, and_more, clean, count_text, format_number, shorten

if TYPE_CHECKING:
    from rich.console import Console

    from perfkit.runs.store import RunStore

COLUMNS = ("service", "count", "failures", "avg", "p50", "p95", "p99", "max", "rps")
MOST_LINES = 40
MOST_ERRORS = 5
WIDEST = 80
MOST_IDS = 3  # of runs that are named one by one
ENOUGH_RUNS = 5  # for a baseline


def figures_of(runs: Sequence[Run]) -> tuple[ServiceFigures, ...]:
    """The services of runs of one scenario: sums of counts, the largest ``max``, else the median of the runs."""
    figures = []
    for name in dict.fromkeys(name for run in runs for name in run.services):
        stats = [run.services[name] for run in runs if name in run.services]
        times = {short: _over(stats, f"{short}_latency_ms", median) for short in ("avg", "p50", "p95", "p99")}
        times |= {"max": _over(stats, "max_latency_ms", max), "rps": _over(stats, "rps", median)}
        figures.append(ServiceFigures(name, _over(stats, "count", sum), _over(stats, "failures", sum), **times))
    return by_failures(figures)


def _over(stats: Sequence[ServiceStats], field: str, summed: Callable[[list[Any]], Any]) -> Any:
    """One number of those that are known of a field; ``None`` where none is."""
    numbers = [number for one in stats if (number := getattr(one, field)) is not None]
    return summed(numbers) if numbers else None


def errors_of(runs: Sequence[Run]) -> Counter[tuple[str, str]]:
    """How often requests failed, by kind of error and service, as a run that goes on has them."""
    return Counter({(error.name, error.service): error.baseline for error in error_kinds(runs) if error.baseline})


def cells_of(figures: ServiceFigures) -> list[str]:
    """The cells of a row below `COLUMNS`, as plain text."""
    counts = [UNKNOWN if count is None else f"{count:,}" for count in (figures.count, figures.failures)]
    values = (figures.avg, figures.p50, figures.p95, figures.p99, figures.max, figures.rps)
    return [figures.service, *counts, *(UNKNOWN if value is None else format_number(value) for value in values)]


def basis_of(runs: Sequence[Run]) -> str:
    """What the columns stand for."""
    if len(runs) == 1:
        return "Times in ms. Average, percentiles and rps leave out the warm-up."
    return (
        f"Times in ms. {len(runs)} runs: counts are sums, max is the largest, all else the median of the runs, "
        "without their warm-up."
    )


def next_step(runs: Sequence[Run], store: RunStore, options: str = "") -> tuple[str, str]:
    """What to do after these runs of one scenario, and the command, which may be empty, with ``options`` behind."""
    valid = [run for run in runs if run.validity.ok]
    if not valid:
        return "see why the run may not be judged", f"perfkit runs show {shlex.quote(runs[-1].id)}{options}"
    scenario, ids = valid[0].scenario, {run.id for run in runs}
    try:
        # The list of a large store is made only where there may be something in it
        earlier = sum(run.id not in ids for run in store.select(scenario)) if set(store.ids()) - ids else 0
    except PerfkitError:
        earlier = 0
    names = [run.id for run in valid] if len(valid) <= MOST_IDS else [f"{scenario}@last:{len(valid)}"]
    if earlier:
        command = f"perfkit compare --candidate {shlex.join(names)}{options}"
        return f"compare with the {count_text(earlier, 'run')} before", command
    if (more := ENOUGH_RUNS - len(valid)) > 0:
        again = f"{count_text(more, 'more run')} of this build (--repeat {more})"
        return f"{again}; {ENOUGH_RUNS} are a baseline to compare with", ""
    command = f"perfkit compare --candidate {shlex.quote(f'{scenario}@last:3')}{options}"
    return "these runs are a baseline; of the next build make three runs (--repeat 3), then", command


def print_run_summary(runs: Sequence[Run], step: tuple[str, str], console: Console) -> None:
    """Services, most frequent errors and the next step of runs of one scenario, in at most `MOST_LINES` lines."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    figures, errors = figures_of(runs), errors_of(runs)
    width = min(console.width, WIDEST)
    shown = errors.most_common(MOST_ERRORS)
    # Beside the rows: head, what is left out, two lines of basis, errors with heading and rest, two lines of advice,
    # the command, and the line of the run before all that
    room = MOST_LINES - 8 - (len(shown) + 2 if shown else 0)
    figures, left_out = figures[:room], max(len(figures) - room, 0)
    rows = [cells_of(one) for one in figures]
    numbers = [max(len(row[at]) for row in [list(COLUMNS), *rows]) for at in range(1, len(COLUMNS))]
    for_name = max(width - sum(numbers) - len(numbers), 12)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    for name, size in zip(COLUMNS, [None, *numbers], strict=True):
        table.add_column(name, justify="left" if size is None else "right", no_wrap=True, min_width=size)
    for row in rows:
        name = shorten(row[0], for_name)
        while cell_len(name) > for_name:  # wide letters
            name = shorten(row[0], len(name) - 1)
        table.add_row(Text(name), *row[1:], style="red" if row[2] not in ("0", UNKNOWN) else "")
    console.print(table, width=max(width, for_name + sum(numbers) + len(numbers)))
    if left_out:
        console.print(Text(f"{and_more(left_out, 'services').strip()}: perfkit runs show {clean(runs[-1].id)}"))
    console.print(Text(basis_of(runs), style="dim"), width=width)
    if shown:
        console.print(Text("Most frequent errors", style="bold"))
        size = max(len(f"{count:,}") for _, count in shown)
        for (kind, service), count in shown:
            text = f"{count:>{size},}  {shorten(kind, 30)}  "
            line = Text(text + shorten(service, max(width - len(text), 12)))
            console.print(line, no_wrap=True, crop=True, width=width)
        if rest := len(errors) - len(shown):
            console.print(Text(f"{and_more(rest, 'kinds').strip()} of error and service"))
    advice, command = step
    console.print(Text(f"Next: {advice}{':' if command else '.'}"), width=width)
    if command:
        console.print(Text(f"  {command}"), soft_wrap=True)
