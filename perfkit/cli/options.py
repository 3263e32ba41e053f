"""What several commands share: options, the workspace that they load, and output."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.completion import complete_files, complete_labels, complete_runs, complete_scenarios
from perfkit.config.policy import Policy
from perfkit.config.settings import Settings, load_settings, nearest_settings
from perfkit.config.toml_table import expand
from perfkit.model.codec import dump_json
from perfkit.model.errors import SettingsError, did_you_mean, refusals
from perfkit.model.files import atomic_write
from perfkit.model.records import Run
from perfkit.model.redaction import redact
from perfkit.report.formatting import clean

if TYPE_CHECKING:
    from datetime import date

    from rich.console import Console

    from perfkit.history.acknowledgements import Acknowledgement
    from perfkit.history.run_selector import HistoryContext
    from perfkit.runs.store import RunStore

AUDIT_CHECKS = (
    "store",
    "scenario",
    "generator",
    "service",
    "tolerance",
    "blind",
    "baseline",
    "acknowledged",
    "secrets",
    "credentials",
)
DATA_CHECKS = ("consistency", "counts", "counts_and_rate", "skipped_requests")  # against the file, not the load
Command = Callable[..., Any]
PROGRESS_FROM = 2_000  # series or runs: fewer are done within a second or so
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def expanded(_context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """An address with its variables replaced: ``'${STORE}'`` keeps a password out of the list of processes."""

    return expand(text, parameter.opts[0]) if text else text


SETTINGS = click.option(
    "--settings", type=FILE, help="Settings file; else the nearest perfkit.toml in this folder or above."
)
STORE = click.option(
    "--store",
    metavar="URL",
    callback=expanded,
    shell_complete=complete_files,
    help="Where runs are kept: a folder or any fsspec URL [data/runs].",
)
POLICY = click.option("--policy", type=FILE, help="Policy file (TOML); else [policy] of the settings.")
RULE = click.option("--rule", type=click.Choice(["evidence", "threshold"]), help="How to judge [evidence].")


INJECT = click.option(
    "--inject",
    multiple=True,
    metavar="SERVICE:NAME=VALUE[,...]",
    help="Change a service: slower_pct, tail_pct with tail_factor, error_rate_pct, stall_s with stall_at_s.",
)
OUTPUT = click.option("--output", type=FILE, help="Write to this file instead.")
BY = click.option("--by", default="", help="Who decided it [your login].")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only print what would be done.")


def format_option(*formats: str, text: str | None = None) -> Callable[[Command], Command]:
    """The option ``--format``, of which the first is the default; the command gets ``format_``."""
    words = click.Choice(formats)
    return click.option("--format", "format_", type=words, default=formats[0], show_default=True, help=text)


FORMAT = format_option("text", "json")


class Parsed(click.ParamType[Any]):
    """What a function of the library reads from text; its ``ValueError`` is a wrong value of the option.

    A function ``"module:name"`` is imported when it is needed.
    """

    def __init__(self, name: str, parse: Callable[[str], Any] | str) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parse = resolve_name(self._parse) if isinstance(self._parse, str) else self._parse
        try:
            return parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _day(text: str) -> date | None:
    from datetime import UTC, datetime

    from perfkit.history.baselines import parse_day

    return parse_day(text, datetime.now(UTC).date())


DURATION = Parsed("text", "perfkit.config.settings:parse_duration")  # seconds
DAY = Parsed("day", _day)  # 2027-01-31, or 30d from now


def key_values(_context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """``("build=1.4",)`` -> ``{"build": "1.4"}``; a usage error for anything else."""
    from perfkit.runs.collection import parse_labels

    try:
        return parse_labels(texts) if texts else {}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=parameter.opts[0]) from error


def labels_option(name: str, parameter: str, text: str, *, selects: bool = True) -> Callable[[Command], Command]:
    """An option that gathers labels ``KEY=VALUE``, also such as select runs."""
    return click.option(
        name,
        parameter,
        multiple=True,
        metavar="KEY=VALUE",
        callback=key_values,
        is_eager=selects,  # before the arguments that need not be given beside it
        shell_complete=complete_labels if selects else None,
        help=f"{text}; may be repeated{', and all count' if selects else ''}.",
    )


LABELS = labels_option("--label", "labels", "Label the runs", selects=False)
WITH_LABELS = labels_option("--label", "with_labels", "Only runs with this label")
CANDIDATE_LABELS = labels_option("--candidate-label", "candidate_labels", "Only candidates with this label")


def scenario_option(text: str, *parameter: str, **more: Any) -> Callable[[Command], Command]:
    return click.option("--scenario", *parameter, shell_complete=complete_scenarios, help=text, **more)


def run_names(name: str = "runs", metavar: str = "RUN...") -> Callable[[Command], Command]:
    """An argument that names runs; it may be left out where ``--label`` says which."""

    def check(context: click.Context, _: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names and not context.params.get("with_labels") and not context.resilient_parsing:
            raise click.UsageError(f"Missing argument '{metavar}': name runs, or say --label KEY=VALUE.", context)
        return names

    return click.argument(name, nargs=-1, metavar=metavar, callback=check, shell_complete=complete_runs)


def candidate_option(runs: str) -> Callable[[Command], Command]:
    """The option ``--candidate`` of a `Variadic` command."""
    text = f"{runs}; several may follow."
    return click.option("--candidate", multiple=True, metavar="CANDIDATE...", shell_complete=complete_runs, help=text)


def fail_on_option(default: str | None, text: str) -> Callable[[Command], Command]:
    words = click.Choice(["regression", "inconclusive", "never"])
    return click.option("--fail-on", type=words, default=default, show_default=default is not None, help=text)


def checkout_option(name: str) -> Callable[[Command], Command]:
    """An option that names the git checkout from which commits are listed."""
    folder = click.Path(path_type=Path, file_okay=False, exists=True)
    return click.option(
        name, "checkout", type=folder, default=Path(), help="Git checkout to list commits from [this folder]."
    )


@dataclass(frozen=True)
class Workspace:
    """What a command works on."""

    settings: Settings
    store: str  # address of the store
    policy: Policy  # of ``--policy`` or the settings, under the rule of ``--rule``
    policy_file: Path | None = None  # of ``--policy``
    labels: Mapping[str, str] = field(default_factory=dict)  # of ``--label``: runs without them are not there

    @cached_property
    def run_store(self) -> RunStore:
        """The store, opened once."""
        from perfkit.runs.store import RunStore

        return RunStore(self.store, jobs=os.cpu_count() or 1, on_progress=progress("runs read anew"))

    def history(self) -> HistoryContext:
        """The histories in the store, with the pinned baselines."""
        from perfkit.history.run_selector import HistoryContext

        policy = self.policy
        return HistoryContext(
            self.run_store,
            self.settings.baselines,
            service_names=policy.service_names,
            alpha=policy.alpha,
            labels=self.labels,
        )

    def acknowledgements(self) -> tuple[Acknowledgement, ...]:
        """Changes that are known or intended."""
        from perfkit.history.acknowledgements import AcknowledgedFile

        return AcknowledgedFile(self.settings.acknowledged).read()

    def load_runs(self, names: Sequence[str], labels: Mapping[str, str] | None = None) -> tuple[Run, ...]:
        """Runs by id or its beginning, path, pattern or selector; with these labels, or those of ``--label``."""
        from perfkit.history.run_selector import choose_runs

        return choose_runs(names, self.history() if labels is None else replace(self.history(), labels=labels)).runs

    def run_ids(self, names: Sequence[str]) -> list[str]:
        """Ids of runs of the store by the same names, also of unfit ones."""
        from perfkit.history.run_selector import stored_ids

        return stored_ids(names, self.history())


def progress(what: str, least: int = PROGRESS_FROM) -> Callable[[int, int], None]:
    """Says on a terminal, in a line that is rewritten, how many of so many (``least`` or more) are done."""

    def show(done: int, total: int) -> None:
        if total >= least and sys.stderr.isatty():
            click.echo(f"\r\033[K{done:,} of {total:,} {what}", err=True, nl=done == total)

    return show


def in_workspace(*, policy: bool = False, rule: bool = False, labels: bool = False) -> Callable[[Command], Command]:
    """Add ``--store``, ``--settings`` and the options that are asked for; the command gets a `Workspace` first.

    Store and settings may also be named before a command of a group: ``perfkit runs --store URL show RUN``.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def resolved(
            *,
            settings: Path | None,
            store: str | None,
            policy: Path | None = None,
            rule: str | None = None,
            with_labels: Mapping[str, str] | None = None,
            **given: Any,
        ) -> Any:
            parent = click.get_current_context().parent
            before = parent.params if parent is not None else {}
            config = settings_of(settings)
            address = store or before.get("store") or config.store
            return command(
                Workspace(config, address, config.policy_of(policy, rule), policy, with_labels or {}), **given
            )

        decorated: Command = resolved
        options = ((SETTINGS, True), (STORE, True), (WITH_LABELS, labels), (RULE, rule), (POLICY, policy))
        for option in (option for option, is_given in options if is_given):
            decorated = option(decorated)
        return decorated

    return decorate


class Number(click.FloatRange):
    """A finite number in a range; click's own lets nan through any range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Variadic(click.Command):
    """A command whose option ``--candidate`` takes all plain words that follow: ``--candidate A B C``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``--candidate A B`` becomes ``--candidate A --candidate B``, which is what click can parse."""
        words: list[str] = []
        after_option = False
        for word in args:
            if word.startswith("-") and word != "-":
                after_option = word == "--candidate"
                words += [] if after_option else [word]
            else:
                words += ["--candidate", word] if after_option else [word]
        return super().parse_args(ctx, words)


def settings_of(path: Path | None) -> Settings:
    """The settings of ``--settings``, also before a command of a group; else the nearest.  Read once per command."""

    context = click.get_current_context()
    if path is None and context.parent is not None:
        path = context.parent.params.get("settings")
    loaded: dict[Path | None, Settings] = context.meta.setdefault("perfkit.settings", {})
    if path not in loaded:
        loaded[path] = load_settings(path) if path is not None else nearest_settings(Path.cwd())
    return loaded[path]


def check_scenario(scenario: str, stored: Iterable[str], store: object) -> None:
    """``SettingsError`` for a scenario that nothing in a ``store`` is of; it names the nearest."""

    names = sorted(set(stored))
    if scenario not in names:
        there = f"there are {', '.join(names)}" if names else "it has no runs yet"
        raise SettingsError(f"{store}: no runs of the scenario {scenario!r}{did_you_mean(scenario, names)}; {there}")


def console() -> Console:
    """A rich console on standard output; without a terminal it writes plain text, 160 columns wide."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else 160, highlight=False, markup=False, emoji=False)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """A table on standard output; the columns in ``right`` are numbers."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        grid.add_column(title, justify="right" if title in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console().print(grid)


def drawn(draw: Callable[[Console], object]) -> str:
    """What a function draws on the console, as text."""
    screen = console()
    with screen.capture() as captured:
        draw(screen)
    return captured.get()


def write(text: str | bytes, output: Path | None = None) -> None:
    """To a file (its folder is made), or to standard output."""
    if output is None:
        click.echo(text, nl=False)
        return
    with refusals(f"{output}: cannot be written"):
        atomic_write(output, redact(text) if isinstance(text, str) else text)
    click.echo(f"wrote {output}", err=True)


def write_json(document: Any, output: Path | None = None) -> None:
    """JSON as perfkit writes it everywhere, to a file or to standard output."""
    write(dump_json(document), output)


def write_metrics(workspace: Workspace, files: Sequence[str], output: Path | None) -> None:
    """Write the pooled metrics of runs, with what speaks against their files on standard error."""
    from perfkit.runs.metrics_json import pooled_metrics

    runs = workspace.load_runs(files)
    write_json(pooled_metrics(runs), output)
    for run in runs:
        for check in run.validity.problems:
            if check.name in DATA_CHECKS:
                warn(f"{run.source or run.id}: {check.name}: {check.advice}")


def say(text: str, *, err: bool = False) -> None:
    """Print one line that may hold names from outside."""

    click.echo(clean(text), err=err)


def warn(*notes: str) -> None:
    """Print notes beside the output, on standard error."""
    for note in notes:
        say(f"! {note}", err=True)
