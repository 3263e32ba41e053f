"""``perfkit report --all``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from perfkit.cli.options import POLICY, SETTINGS, STORE, settings_of

if TYPE_CHECKING:
    from perfkit.batch import Made, Order
    from perfkit.config import Settings
    from perfkit.overview import Entry, Overview

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
    from perfkit.batch import orders_of
    from perfkit.batch.orders import Wish
    from perfkit.cli.report import policy_file
    from perfkit.overview import Overview
    from perfkit.render.index_page import index_page
    from perfkit.render.notebook import new_folder
    from perfkit.store.place import public_address
    from perfkit.whole_file import write_whole

    store = given["store"] or known.store
    wish = Wish(given["scenarios"], given["kinds"], given["newest"] or 1)
    folder = new_folder((given["reports"] or known.reports).absolute(), "all")
    policy = policy_file(given["policy"], known.path)
    orders = orders_of(store, folder, wish, policy=policy, acknowledged=known.acknowledged, baselines=known.baselines)
    entries = _made(orders, given["jobs"] or len(os.sched_getaffinity(0)))
    overview = Overview(entries, datetime.now(UTC), public_address(store))
    overview.write(folder)
    write_whole(folder / "index.html", index_page(overview))
    click.echo(str(folder / "index.html"))
    return exit_code(overview, given["fail_on"] or "regression")


def _made(orders: Sequence[Order], jobs: int) -> tuple[Entry, ...]:
    """All of them, in the order of the orders; told one by one as they are done."""
    from perfkit.batch import make_all

    done: dict[Order, Entry] = {}
    with closing(make_all(orders, jobs)) as every, _progress(len(orders)) as tell:
        for made in every:
            done[made.order] = made.entry
            tell(made)
    return tuple(done[order] for order in orders)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Made], None]]:
    """A bar on a terminal, and a line per report on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from perfkit.render.claims import word_text
    from perfkit.render.theme import clean

    screen = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    columns = TextColumn("reports"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("reports", total=total)
        begun, count = time.monotonic(), 0

        def tell(made: Made) -> None:
            nonlocal count
            count += 1
            entry = made.entry
            why = f": {clean(entry.sentences[0])}" if entry.sentences and not entry.report else ""
            spent = f"{time.monotonic() - begun:.0f} s"
            line = f"{count}/{total} {clean(entry.scenario)} {entry.kind}: {word_text(entry.word)}{why} ({spent})"
            bar.console.print(line)
            bar.advance(task)

        yield tell


def exit_code(overview: Overview, fail_on: str) -> int:
    """The worst of all: 4 a notebook failed, 3 invalid or nothing to compare with, 1 a regression, else 0."""
    return max(_code(entry, fail_on) for entry in overview.entries)


def _code(entry: Entry, fail_on: str) -> int:
    from perfkit.model import Verdict
    from perfkit.overview import Outcome

    fixed: dict[Verdict | Outcome, int] = {Outcome.FAILED: 4, Outcome.INCOMPARABLE: 3, Verdict.INVALID: 3}
    failing = {"regression": (Verdict.REGRESSION,), "inconclusive": (Verdict.REGRESSION, Verdict.INCONCLUSIVE)}
    return fixed.get(entry.word, int(entry.word in failing.get(fail_on, ())))
