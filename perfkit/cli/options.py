"""Options and small steps that several commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.model.errors import StoreError
from perfkit.model.files import atomic_write
from perfkit.model.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console

    from perfkit.config.settings import Settings

SETTINGS = click.option(
    "--settings",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file; else the nearest perfkit.toml in this folder or above.",
)


def expanded(_context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """An address with its variables looked up: ``'${STORE}'`` keeps a password out of the list of processes."""
    from perfkit.config.toml_table import expand

    return expand(text, parameter.opts[0]) if text else text


STORE = click.option(
    "--store",
    metavar="URL",
    callback=expanded,
    help="Where runs are kept: a folder or any fsspec URL [data/runs].",
)
POLICY = click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Policy file (TOML); else [policy] of the settings.",
)
RULE = click.option("--rule", type=click.Choice(["evidence", "threshold"]), help="How to judge [evidence].")


CANDIDATE = click.option(
    "--candidate", multiple=True, required=True, metavar="CANDIDATE...", help="Runs to judge; several may follow."
)


OPTIONAL_CANDIDATE = click.option(
    "--candidate", multiple=True, metavar="CANDIDATE...", help="Runs of another build; several may follow."
)


INJECT = click.option(
    "--inject",
    multiple=True,
    metavar="SERVICE:NAME=VALUE[,...]",
    help="Change a service: slower_pct, tail_pct with tail_factor, error_rate_pct, stall_s with stall_at_s.",
)


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
        return super().parse_args(ctx, _repeated(args, "--candidate"))


def _repeated(args: Sequence[str], option: str) -> list[str]:
    """``--candidate A B`` as ``--candidate A --candidate B``, which is what click can parse."""
    out: list[str] = []
    after_option = False
    for word in args:
        if word.startswith("-") and word != "-":
            after_option = word == option
            out += [] if after_option else [word]
        else:
            out += [option, word] if after_option else [word]
    return out


def settings_of(path: Path | None) -> Settings:
    """The settings to use; unknown keys and bad values end the command with exit code 2."""
    from perfkit.config.settings import load_settings, nearest_settings

    return load_settings(path) if path is not None else nearest_settings(Path.cwd())


def check_scenario(scenario: str, stored: Iterable[str], place: object) -> None:
    """``SettingsError`` for a scenario that nothing in ``place`` is of; it names the nearest."""
    from perfkit.model.errors import SettingsError, did_you_mean

    names = sorted(set(stored))
    if scenario not in names:
        there = f"there are {', '.join(names)}" if names else "it has no runs yet"
        raise SettingsError(f"{place}: no runs of the scenario {scenario!r}{did_you_mean(scenario, names)}; {there}")


def console() -> Console:
    """A rich console on standard output; without a terminal it writes plain text, 160 columns wide."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else 160, highlight=False, markup=False, emoji=False)


def write(text: str | bytes, output: Path | None) -> None:
    """To a file (its folder is made), or to standard output."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        atomic_write(output, redact(text) if isinstance(text, str) else text)
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}") from error
    click.echo(f"wrote {output}", err=True)


def tell(note: str) -> None:
    """What must be known besides the output, on standard error."""
    from perfkit.report.formatting import clean

    click.echo(f"! {clean(note)}", err=True)


def dump(document: Any) -> str:
    """JSON as perfkit writes it everywhere."""
    from perfkit.model.codec import dump_json

    return dump_json(document)
