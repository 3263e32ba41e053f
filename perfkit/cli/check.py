"""``perfkit check``: an audit of the settings, and a self-test of the gate."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from perfkit.cli.options import (
    AUDIT_CHECKS,
    FOLDER,
    FORMAT,
    Number,
    Workspace,
    fail_on_option,
    in_workspace,
    print_table,
    write_json,
)
from perfkit.model.errors import refusals
from perfkit.report.formatting import shorten

SCHEMA = "perfkit.check/1"
EXIT_SETTINGS, EXIT_GATE = 2, 4
MOST_CELL, MOST_ADVICE = 160, 600  # characters: names may be of any length


def _new_folder(_context: click.Context, _parameter: click.Parameter, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    with refusals(f"{folder}: cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise click.BadParameter(f"{folder} is not empty; name a new folder")
    return folder.absolute()


@click.command(short_help="Does the gate work here?  Its self-test, and an audit of the settings.")
@click.option("--settings-only", is_flag=True, help="Only the audit of the settings, in a second or two; no load.")
@click.option("--strict", is_flag=True, help="Warnings of the audit fail too.")
@click.option(
    "--skip", type=click.Choice(AUDIT_CHECKS), multiple=True, help="Leave this out of the audit; may be repeated."
)
@fail_on_option("regression", "As the pipeline gives it to `perfkit compare`.")
@click.option(
    "--slower",
    type=Number(50, 1000),
    default=100.0,
    show_default=True,
    help="Percent that is injected; so few short runs do not show less than 50.",
)
@click.option(
    "--keep",
    type=FOLDER,
    callback=_new_folder,
    help="Leave the runs and the damaged files of the self-test in this folder, which must be new or empty.",
)
@FORMAT
@in_workspace(policy=True, rule=True)
def check(
    workspace: Workspace,
    settings_only: bool,
    strict: bool,
    skip: tuple[str, ...],
    fail_on: str,
    slower: float,
    keep: Path | None,
    format_: str,
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
    from perfkit.cli.audit import Grade, audit_settings
    from perfkit.cli.selftest import Task, self_test

    audit = audit_settings(workspace, skip=skip)
    gate, works, is_text = None, True, format_ == "text"
    if is_text:
        counts = {grade: len(audit.of(grade)) for grade in Grade}
        errors, warnings = (
            f"{count} {noun}{'' if count == 1 else 's'}"
            for noun, count in (("error", counts[Grade.ERROR]), ("warning", counts[Grade.WARN]))
        )
        click.echo(f"settings: {errors}, {warnings}, {counts[Grade.OK]} as they should be")
        found = [(item.grade.value, item.check, item.subject, item.found) for item in audit.problems]
        _print_rows(("", "check", "of", "found"), found, [(item.subject, item.advice) for item in audit.problems])
    if not settings_only:
        given = click.get_current_context().params
        options = {name: given[name] for name in ("policy", "rule", "fail_on", "settings") if given[name] is not None}
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        task = Task(tuple(words), fail_on, workspace.policy.required_runs, slower)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="perfkit-check-") as name:
            trials = self_test(task, keep or Path(name), lambda text: click.echo(f"self-test: {text}", err=True))
        works = all(trial.ok for trial in trials)
        gate = {"ok": works, "trials": [{**asdict(trial), "seconds": round(trial.seconds, 3)} for trial in trials]}
        if is_text:
            results = [
                ("ok" if trial.ok else "WRONG", trial.name, trial.expected, trial.got, f"{trial.seconds:.1f}")
                for trial in trials
            ]
            advice = [(trial.name, trial.advice) for trial in trials]
            _print_rows(("", "check", "expected", "got", "seconds"), results, advice)
            passed, seconds = sum(trial.ok for trial in trials), time.monotonic() - begun
            sentence = "the gate works" if works else "THE GATE DOES NOT WORK"
            click.echo(f"{sentence}: {passed} of {len(trials)} as expected, {seconds:.0f} s")
    if not is_text:
        write_json({"schema": SCHEMA, "settings": audit.to_dict(), "gate": gate})
    if not works:
        return EXIT_GATE
    return 0 if audit.ok(strict=strict) else EXIT_SETTINGS


def _print_rows(titles: Sequence[str], rows: Sequence[Sequence[str]], advice: Sequence[tuple[str, str]]) -> None:
    """A table, whose first column says how bad each row is, and what to do; nothing without rows."""
    from rich.text import Text

    styles = {"error": "bold red", "WRONG": "bold red", "warn": "yellow"}
    if rows:
        cells = [
            (Text(row[0], styles.get(row[0], "")), *(shorten(cell, MOST_CELL) for cell in row[1:])) for row in rows
        ]
        print_table(titles, cells, right=("seconds",))
    for name, text in dict.fromkeys(advice):
        if text:
            click.echo(f"! {shorten(name, 60)}: {shorten(text, MOST_ADVICE)}")
