"""``perfkit notify``.

``perfkit email``.

``perfkit summary``.

``perfkit comment``.

``perfkit issue``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfkit.cli.options import SETTINGS, dump, settings_of, write
from perfkit.model.errors import DeliveryError, ReadError, StoreError

if TYPE_CHECKING:
    from perfkit.config.settings import Settings
    from perfkit.history.incidents import Result
    from perfkit.report.sentences import Account

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
    from perfkit.notify.email import MailOrder, mail_results

    if dry_run is not None and len(reports) > 1 and not digest:
        raise click.UsageError("--dry-run writes one message: name one report, or say --digest")
    order = MailOrder(to, sender, when or "", digest, dry_run, repository)
    for line in mail_results(reports, settings_of(settings), order):
        click.echo(line)


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
        from perfkit.report.junit import told_as_junit

        write(told_as_junit(told), junit)
    if annotations:
        from perfkit.report.junit import annotate

        click.echo("".join(f"{line}\n" for line in annotate(told)), nl=False)
    if verdict:
        click.echo(min(told, key=lambda one: one.rank).word.value)
    if junit is None and not annotations and not verdict:
        _add_page(told)


def told_in(path: Path) -> Iterator[Account]:
    """The results that a path names, as they are told elsewhere."""
    from perfkit.history.incidents import read_result
    from perfkit.report.report_set import is_overview, read_overview
    from perfkit.report.sentences import account_in, account_of

    if not is_overview(path):
        yield account_of(read_result(path))
        return
    folder = path if path.is_dir() else path.parent
    for entry in read_overview(path).entries:
        yield account_in(entry, read_result(folder / entry.result) if entry.result and entry.verdict else None)


def _add_page(told: list[Account]) -> None:
    """To the job's summary where there is one: GitHub names a file that steps add to."""
    from perfkit.report.markdown import to_summary

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
    from perfkit.config.toml_table import expand
    from perfkit.notify.github_api import Access
    from perfkit.notify.pr_comment import Comment, planned_comment, post_comment, pull_request_of
    from perfkit.report.issue import report_address
    from perfkit.report.markdown import to_comment

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
    from perfkit.model.records import Verdict

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
    from perfkit.notify.issue_sync import planned_calls

    def tell(text: str) -> None:
        click.echo(text, err=True)

    planned = [planned_calls(one, settings, repository=repository, checkout=checkout, tell=tell) for one in results]
    click.echo(dump([call for calls in planned for call in calls]), nl=False)


def _follow(results: Sequence[Result], settings: Settings, repository: str, checkout: Path) -> None:
    from perfkit.notify.issue_sync import follow_issues

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
    from perfkit.notify.chat import ChatOrder, notify_results

    order = ChatOrder(urls, webhook, when or "", dry_run, repository)
    for line in notify_results(results, settings_of(settings), order):
        click.echo(line)
