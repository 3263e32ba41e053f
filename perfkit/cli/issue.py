"""``perfkit issue``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import SETTINGS, dump, settings_of
from perfkit.cli.summary import told_in
from perfkit.errors import DeliveryError, ReadError

if TYPE_CHECKING:
    from perfkit.config import Settings
    from perfkit.results import Result

EXIT_INVALID = 3


@click.command(short_help="One GitHub issue per worsening, kept current and closed when it is over.")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...", type=click.Path(path_type=Path))
@click.option(
    "--repository", default="", metavar="OWNER/NAME", help="Where the issues are [of [issues], else GITHUB_REPOSITORY]."
)
@click.option(
    "--checkout",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="Where to look the commits up [this folder].",
)
@click.option("--dry-run", is_flag=True, help="Print the requests (method, path, JSON) and change nothing.")
@SETTINGS
def issue(results: tuple[Path, ...], repository: str, checkout: Path, dry_run: bool, settings: Path | None) -> int:
    """Follow what got worse with GitHub issues: one for each event, whatever number of runs sees it.

    RESULT is a report folder of `perfkit report compare` or `trend`, what `perfkit compare --format json` wrote, or the
    folder of `perfkit report --all`.  An issue is opened, updated in place when numbers move, commented when further
    services get worse, closed when it is over or acknowledged (`perfkit ack`), reopened when it comes back.  One that a
    person closed stays closed until then.  What is inconclusive or invalid changes nothing; invalid runs end with exit
    code 3.

    GITHUB_TOKEN, and GITHUB_REPOSITORY and GITHUB_API_URL where they are set, tell where to.  What cannot be sent is
    kept and sent with the next call; exit code 4.

    \b
    Examples:
      perfkit issue reports/20261102T020000Z-trend
      perfkit issue result.json --repository octo/shop --dry-run
    """
    from perfkit.model import Verdict

    known, read = settings_of(settings), _read(results)
    if dry_run:
        _print_requests(read, known, repository, checkout)
    else:
        _follow(read, known, repository, checkout)
    return EXIT_INVALID if any(one.verdict is Verdict.INVALID for one in read) else 0


def _read(paths: Sequence[Path]) -> list[Result]:
    read = [one.result for path in paths for one in told_in(path) if one.result is not None]
    if not read:
        raise ReadError(f"{', '.join(map(str, paths))}: holds no result of a comparison or of a history")
    return read


def _print_requests(results: Sequence[Result], settings: Settings, repository: str, checkout: Path) -> None:
    from perfkit.deliver.github.following import planned_calls

    def tell(text: str) -> None:
        click.echo(text, err=True)

    planned = [planned_calls(one, settings, repository=repository, checkout=checkout, tell=tell) for one in results]
    click.echo(dump([call for calls in planned for call in calls]), nl=False)


def _follow(results: Sequence[Result], settings: Settings, repository: str, checkout: Path) -> None:
    from perfkit.deliver.github.following import follow_issues

    failed, done = [], False
    for one in results:
        try:
            followed = follow_issues(one, settings, repository=repository, checkout=checkout, tell=click.echo)
            done = done or bool(followed.done)
        except DeliveryError as error:  # the others are kept for the next call too
            failed.append(str(error))
    if failed:
        raise DeliveryError("; ".join(dict.fromkeys(failed)))
    if not done:
        click.echo("nothing to do")
