"""``perfkit comment``."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.options import SETTINGS, dump, settings_of
from perfkit.cli.summary import told_in


@click.command(short_help="One comment of a pull request, changed in place.")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...", type=click.Path(path_type=Path))
@click.option("--pull-request", type=click.IntRange(1), metavar="NUMBER", help="Which [that of the workflow's event].")
@click.option("--repository", default="", metavar="OWNER/NAME", help="Where it is [GITHUB_REPOSITORY].")
@click.option("--name", metavar="TEXT", help="Tells it from other comments of perfkit there [the scenarios].")
@click.option("--link", metavar="URL", help="Address of the report, {report} for its folder's name [link of [issues]].")
@click.option("--dry-run", is_flag=True, help="Print the request (method, path, JSON) and send nothing.")
@SETTINGS
def comment(
    results: tuple[Path, ...],
    pull_request: int | None,
    repository: str,
    name: str | None,
    link: str | None,
    dry_run: bool,
    settings: Path | None,
) -> None:
    """Tell a pull request what results say: one comment, changed in place by each further call.

    RESULT is a report folder, a result.json, what `perfkit compare --format json` wrote, or the folder of
    `perfkit report --all`.  The pull request is that of the job (GITHUB_EVENT_PATH, GITHUB_REF) or the one named.  Each
    set of scenarios has a comment of its own.  The exit code tells whether it was sent; `perfkit compare` judges.

    \b
    Examples:
      perfkit comment reports/20261125T020000Z-compare
      perfkit comment result.json --pull-request 412 --repository octo/shop --dry-run
    """
    from perfkit.deliver.github.access import Access
    from perfkit.deliver.github.comments import Comment, planned_comment, post_comment, pull_request_of
    from perfkit.render.issue import report_address
    from perfkit.render.pull_comment import to_comment
    from perfkit.settings_file import expand

    known = settings_of(settings)
    told = [one for path in results for one in told_in(path)]
    folder = (results[0] if results[0].is_dir() else results[0].parent).resolve().name
    address = report_address(expand(link or known.issues.link, "link"), folder)
    names = name or "\n".join(sorted({f"{one.kind} {one.scenario}" for one in told}))
    access = Access.from_environment(repository, with_token=not dry_run)
    what = Comment(pull_request or pull_request_of(), names, to_comment(told, address))
    if dry_run:
        click.echo(dump([planned_comment(what, access).to_dict()]), nl=False)
        return
    post_comment(what, access, known.delivery, tell=click.echo)
