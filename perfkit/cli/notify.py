"""``perfkit notify``."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.email import REPOSITORY, WHEN
from perfkit.cli.options import SETTINGS


@click.command(short_help="Tell results in chats and to a webhook.")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option(
    "--url", "urls", multiple=True, metavar="URL", help="A chat, as Apprise writes it [urls of the settings]."
)
@click.option(
    "--webhook", metavar="URL", default="", help="Where to post the result as JSON [webhook of the settings]."
)
@click.option("--when", type=WHEN, help="changes: only what is new since the last message [when of the settings].")
@click.option("--dry-run", is_flag=True, help="Show what would be said; send and remember nothing.")
@REPOSITORY
@SETTINGS
def notify(
    results: tuple[str, ...],
    urls: tuple[str, ...],
    webhook: str,
    when: str | None,
    dry_run: bool,
    repository: Path,
    settings: Path | None,
) -> None:
    """Tell what comparisons and histories came to in chats (Slack, Teams, Mattermost and others), and to programs.

    RESULT is a folder that `perfkit report compare` or `perfkit report trend` wrote, or what `perfkit compare --format
    json` wrote.  Chats are named in [chat] of the settings, by addresses of Apprise whose secrets stand in variables
    ("${SLACK_URL}"); they need the extra `chat` of perfkit.  A webhook gets a JSON document (perfkit.notice/1).

    Only what is new since the last message is told, unless --when always or the settings say otherwise.

    Exit codes: 0 told, or nothing to tell; 2 wrong settings; 4 somebody was not reached (all others were).

    \b
    Examples:
      perfkit notify reports/20261102T020000Z-trend
      perfkit notify result.json --webhook https://hooks.example/perfkit --when always
      perfkit notify result.json --url "${SLACK_URL}" --dry-run
    """
    from perfkit.cli.options import settings_of
    from perfkit.telling.chat import ChatOrder, notify_results

    order = ChatOrder(urls, webhook, when or "", dry_run, repository)
    for line in notify_results(results, settings_of(settings), order):
        click.echo(line)
