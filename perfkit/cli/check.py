"""``perfkit check``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import POLICY, RULE, SETTINGS, STORE, Number, console, dump, settings_of, write
from perfkit.model.errors import StoreError

if TYPE_CHECKING:
    from rich.table import Table

    from perfkit.cli.audit import Audit
    from perfkit.cli.selftest import SelfTest

SCHEMA = "perfkit.check/1"
EXIT_SETTINGS, EXIT_GATE = 2, 4
MOST_CELL, MOST_ADVICE = 160, 600  # characters: names may be of any length
CHECKS = (
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


@click.command(short_help="Does the gate work here?  Its self-test, and an audit of the settings.")
@click.option("--settings-only", is_flag=True, help="Only the audit of the settings, in a second or two; no load.")
@click.option("--strict", is_flag=True, help="Warnings of the audit fail too.")
@click.option(
    "--skip",
    type=click.Choice(CHECKS),
    multiple=True,
    help="Leave this out of the audit; may be repeated.",
)
@POLICY
@RULE
@click.option(
    "--fail-on",
    type=click.Choice(["regression", "inconclusive", "never"]),
    default="regression",
    show_default=True,
    help="As the pipeline gives it to `perfkit compare`.",
)
@click.option(
    "--slower",
    type=Number(50, 1000),
    default=100.0,
    show_default=True,
    help="Percent that is injected; so few short runs do not show less than 50.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the runs and the spoilt files of the self-test in this folder, which must be new or empty.",
)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@STORE
@SETTINGS
def check(
    settings_only: bool,
    strict: bool,
    skip: tuple[str, ...],
    policy: Path | None,
    rule: str | None,
    fail_on: str,
    slower: float,
    keep: Path | None,
    format_: str,
    store: str | None,
    settings: Path | None,
) -> int:
    """Try the gate out before it is trusted: the first step of a pipeline.

    Loads three builds of a small service on this machine: a baseline, an identical one, and one that takes twice as
    long.  `perfkit compare`, with the options given here, must end with 1 for the slow one and with 0 for the identical
    one; what is cut off, garbage, empty or invalid must end with 2 or 3.  About 40 seconds, 75 when it looks twice.
    --settings-only leaves all that out.

    Looks first for settings that do not mean what their user thinks: services and scenarios without runs, tolerances
    below the noise, expired baselines and acknowledgements, secrets in stored runs, missing
    credentials, a store that cannot be written.

    Exit codes: 0 everything as it should be; 2 an error in the settings (with --strict: or a warning); 4 the gate does
    not do what it should, which counts more; 130 stopped by Ctrl-C, and no process is left.

    \b
    Examples:
      perfkit check
      perfkit check --policy strict.toml --fail-on inconclusive
      perfkit check --settings-only --skip credentials
    """
    from perfkit.cli.audit import audit_settings

    known = settings_of(settings)
    chosen = known.policy_of(policy).with_rule(rule)
    audit = audit_settings(known, chosen, store or known.store, skip=skip)
    if format_ == "text":
        _print_audit(audit)
    found = None
    if not settings_only:
        given = {"--policy": policy, "--rule": rule, "--fail-on": fail_on, "--settings": settings}
        found = _try_out(given, chosen.required_runs, slower, keep, quiet=format_ == "json")
    if format_ == "json":
        write(dump({"schema": SCHEMA, "settings": audit.to_dict(), "gate": found.to_dict() if found else None}), None)
    if found is not None and not found.ok:
        return EXIT_GATE
    return 0 if audit.ok(strict=strict) else EXIT_SETTINGS


def _try_out(
    given: Mapping[str, object], required_runs: int, slower: float, keep: Path | None, *, quiet: bool
) -> SelfTest:
    from perfkit.cli.selftest import Task, self_test

    options = tuple(word for name, value in given.items() if value is not None for word in (name, str(value)))
    task = Task(options, str(given["--fail-on"]), required_runs, slower)
    begun = time.monotonic()
    with _folder(keep) as folder:
        found = self_test(task, folder, lambda text: click.echo(f"self-test: {text}", err=True))
    if not quiet:
        _print_self_test(found, time.monotonic() - begun)
    return found


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="perfkit-check-") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise click.BadParameter(f"{keep} is not empty; name a new folder", param_hint="--keep")
    except OSError as error:
        raise StoreError(f"{keep}: cannot be written: {error.strerror}") from error
    yield keep.absolute()


def _print_audit(audit: Audit) -> None:
    from perfkit.cli.audit import Grade

    errors, warnings, fine = (len(audit.of(grade)) for grade in (Grade.ERROR, Grade.WARN, Grade.OK))
    click.echo(f"settings: {_count(errors, 'error')}, {_count(warnings, 'warning')}, {fine} as they should be")
    if audit.problems:
        rows = [(one.grade.value, one.check, one.subject, one.found) for one in audit.problems]
        console().print(_table(("", "check", "of", "found"), rows))
        _print_advice([(one.subject, one.advice) for one in audit.problems])


def _print_self_test(found: SelfTest, seconds: float) -> None:
    rows = [
        ("ok" if trial.ok else "WRONG", trial.name, trial.expected, trial.got, f"{trial.seconds:.1f}")
        for trial in found.trials
    ]
    console().print(_table(("", "check", "expected", "got", "seconds"), rows))
    _print_advice([(trial.name, trial.advice) for trial in found.trials])
    good = sum(trial.ok for trial in found.trials)
    said = "the gate works" if found.ok else "THE GATE DOES NOT WORK"
    click.echo(f"{said}: {good} of {len(found.trials)} as expected, {seconds:.0f} s")


def _print_advice(pairs: Sequence[tuple[str, str]]) -> None:
    from perfkit.report.formatting import shorten

    for name, advice in dict.fromkeys(pairs):
        if advice:
            click.echo(f"! {shorten(name, 60)}: {shorten(advice, MOST_ADVICE)}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from perfkit.report.formatting import shorten

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="right" if title == "seconds" else "left", overflow="fold")
    for row in rows:
        bad = row[0] in ("error", "WRONG")
        cells = [Text(shorten(cell, MOST_CELL)) for cell in row]
        cells[0].stylize("bold red" if bad else "yellow" if row[0] == "warn" else "default")
        table.add_row(*cells)
    return table
