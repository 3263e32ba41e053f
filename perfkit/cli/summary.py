"""``perfkit summary``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import write
from perfkit.errors import StoreError

if TYPE_CHECKING:
    from perfkit.render.claims import Account


@click.command(short_help="Tell results to a pipeline: summary, annotations, JUnit.")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...", type=click.Path(path_type=Path))
@click.option("--annotations", is_flag=True, help="Print ::error, ::warning and ::notice lines for GitHub's checks.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to this file.")
@click.option("--verdict", is_flag=True, help="Print the worst verdict, one word.")
def summary(results: tuple[Path, ...], annotations: bool, junit: Path | None, verdict: bool) -> None:
    """Tell results to a pipeline.

    RESULT is a report folder, a result.json, what `perfkit compare --format json` wrote, or the folder of
    `perfkit report --all`.  Without options, a page of Markdown is added to the file that $GITHUB_STEP_SUMMARY names,
    else printed.  The exit code tells whether the results could be read; `perfkit compare` judges.

    \b
    Examples:
      perfkit summary reports/20261125T020000Z-compare
      perfkit summary reports/20261125T020000Z-all --annotations --junit junit.xml
    """
    told = [one for path in results for one in told_in(path)]
    if junit is not None:
        from perfkit.render.junit import told_as_junit

        write(told_as_junit(told), junit)
    if annotations:
        from perfkit.render.annotations import annotate

        click.echo("".join(f"{line}\n" for line in annotate(told)), nl=False)
    if verdict:
        click.echo(min(told, key=lambda one: one.rank).word.value)
    if junit is None and not annotations and not verdict:
        _add_page(told)


def told_in(path: Path) -> Iterator[Account]:
    """The results that a path names, as they are told elsewhere."""
    from perfkit.overview import is_overview, read_overview
    from perfkit.render.claims import account_in, account_of
    from perfkit.results import read_result

    if not is_overview(path):
        yield account_of(read_result(path))
        return
    folder = path if path.is_dir() else path.parent
    for entry in read_overview(path).entries:
        yield account_in(entry, read_result(folder / entry.result) if entry.result and entry.verdict else None)


def _add_page(told: list[Account]) -> None:
    """To the job's summary where there is one: GitHub names a file that steps add to."""
    from perfkit.render.summary import to_summary

    page = to_summary(told)
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if not place:
        click.echo(page, nl=False)
        return
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise StoreError(f"{place}: cannot be written: {error.strerror}; it is named by GITHUB_STEP_SUMMARY") from error
    click.echo(f"added to {place}", err=True)
