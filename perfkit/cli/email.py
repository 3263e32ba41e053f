"""``perfkit email``."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.options import SETTINGS

REPOSITORY = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="Where to look the commits up [this folder].",
)
WHEN = click.Choice(["always", "changes"])


@click.command(short_help="Send results by e-mail.")
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option("--to", multiple=True, metavar="ADDRESS", help="Who gets it; may be repeated [to of the settings].")
@click.option("--from", "sender", metavar="ADDRESS", default="", help="Who sends it [from of the settings].")
@click.option("--when", type=WHEN, help="changes: only what is new since the last message [when of the settings].")
@click.option("--digest", is_flag=True, help="All reports in one message.")
@click.option(
    "--dry-run",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.eml",
    help="Write the message to this file; send and remember nothing.",
)
@REPOSITORY
@SETTINGS
def email(
    reports: tuple[str, ...],
    to: tuple[str, ...],
    sender: str,
    when: str | None,
    digest: bool,
    dry_run: Path | None,
    repository: Path,
    settings: Path | None,
) -> None:
    """Send what comparisons and histories came to: the verdict, each event, charts, and the report attached.

    REPORT is a folder that `perfkit report compare` or `perfkit report trend` wrote, or what `perfkit compare
    --format json` wrote.  The server is named in [email] of the settings; name and password come from the environment:
    PERFKIT_SMTP_USER and PERFKIT_SMTP_PASSWORD (PERFKIT_SMTP_HOST, PERFKIT_SMTP_PORT and PERFKIT_SMTP_CA count too).

    With --when changes a message is sent when something got worse, came back or is over, when a service has no requests
    any more or has them again, or when runs cannot be judged any more.  Otherwise nothing is sent, and the exit code
    is 0.

    Exit codes: 0 sent, or nothing to send; 2 wrong settings; 4 somebody did not get it (all others did).

    \b
    Examples:
      perfkit email reports/20261102T020000Z-trend --to team@example.org --when changes
      perfkit email reports/*-trend --digest
      perfkit email reports/20261102T020000Z-compare --to team@example.org --dry-run mail.eml
    """
    from perfkit.cli.options import settings_of
    from perfkit.telling.mail import MailOrder, mail_results

    if dry_run is not None and len(reports) > 1 and not digest:
        raise click.UsageError("--dry-run writes one message: name one report, or say --digest")
    order = MailOrder(to, sender, when or "", digest, dry_run, repository)
    for line in mail_results(reports, settings_of(settings), order):
        click.echo(line)
