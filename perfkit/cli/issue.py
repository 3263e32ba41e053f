"""``perfkit issue``."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.options import SETTINGS, dump, settings_of

EXIT_INVALID = 3


@click.command(short_help="One GitHub issue per worsening, kept current and closed when it is over.")
@click.argument("result", type=click.Path(path_type=Path))
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
def issue(result: Path, repository: str, checkout: Path, dry_run: bool, settings: Path | None) -> int:
    """Follow what got worse with GitHub issues: one for each event, whatever number of runs sees it.

    RESULT is a report folder of `perfkit report compare` or `trend`, or what `perfkit compare --format json` wrote.  An
    issue is opened, updated in place when numbers move, commented when further services get worse, closed when it is
    over or acknowledged (`perfkit ack`), reopened when it comes back.  One that a person closed stays closed until
    then.  What is inconclusive or invalid changes nothing; invalid runs end with exit code 3.

    GITHUB_TOKEN, and GITHUB_REPOSITORY and GITHUB_API_URL where they are set, tell where to.  What cannot be sent is
    kept and sent with the next call; exit code 4.

    \b
    Examples:
      perfkit issue reports/20261102-020000-trend-api
      perfkit issue result.json --repository octo/shop --dry-run
    """
    from perfkit.deliver.github.following import follow_issues, planned_calls
    from perfkit.model import Verdict
    from perfkit.results import read_result

    known, read = settings_of(settings), read_result(result)
    if dry_run:
        calls = planned_calls(
            read, known, repository=repository, checkout=checkout, tell=lambda text: click.echo(text, err=True)
        )
        click.echo(dump(list(calls)), nl=False)
        return EXIT_INVALID if read.verdict is Verdict.INVALID else 0
    followed = follow_issues(read, known, repository=repository, checkout=checkout, tell=click.echo)
    if not followed.done:
        click.echo("nothing to do")
    return EXIT_INVALID if followed.unfit else 0
