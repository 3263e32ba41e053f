"""``perfkit email``, ``notify``, ``issue``, ``comment`` and ``summary``: results sent to people and pipelines.

Each takes result files, or a store and scenarios whose newest runs are judged first.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfkit.cli.exit_codes import EXIT_INVALID
from perfkit.cli.options import (
    Workspace,
    checkout_option,
    in_workspace,
    scenario_option,
    write,
    write_json,
)
from perfkit.config.settings import Settings
from perfkit.model.errors import DeliveryError, SettingsError, StoreError
from perfkit.model.records import Verdict

if TYPE_CHECKING:
    from perfkit.history.incidents import Result
    from perfkit.notify.delivery import ResultSet

WHEN = click.option(
    "--when",
    type=click.Choice(["always", "changes"]),
    help="changes: only what is new since the last message [when of the settings].",
)
ANY_REPOSITORY = "OWNER/NAME"  # of a dry run that nobody named one for
RESULT = """RESULT is a report folder, a result.json, what `perfkit compare --format json` wrote, or the folder of
    `perfkit report --all`."""


def with_results(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add RESULT, ``--scenario``, ``--label`` and ``--store``; the command gets a `ResultSet` and the settings."""

    @click.argument("files", nargs=-1, metavar="[RESULT...]", type=click.Path(path_type=Path))
    @scenario_option(
        "Judge the newest run of this scenario in the store against its history; may be repeated.",
        "scenarios",
        multiple=True,
        metavar="NAME",
    )
    @in_workspace(policy=True, labels=True)
    @functools.wraps(command)
    def with_collected(
        workspace: Workspace, files: tuple[Path, ...], scenarios: tuple[str, ...], **options: Any
    ) -> Any:
        from perfkit.notify.delivery import collect_results

        if workspace.labels and files and not scenarios:
            raise click.UsageError("--label chooses among the runs of the store, and a RESULT is judged already")
        if workspace.labels and not scenarios:
            scenarios = tuple(workspace.history().scenarios)
        if not files and not scenarios:
            raise click.UsageError("name a RESULT, or a scenario of the store: --scenario NAME")
        judged = [newest_result(workspace, name) for name in scenarios]
        return command(collect_results(files, judged), workspace.settings, **options)

    first, rest = (command.__doc__ or "").split("\n\n", 1)
    with_collected.__doc__ = f"{first}\n\n    {RESULT}\n\n{rest}"
    return with_collected


def newest_result(workspace: Workspace, scenario: str) -> Result:
    """The newest run of a scenario against its history; raises what `judge_history` says."""
    from perfkit.history.gate import judge_history
    from perfkit.history.incidents import result_of
    from perfkit.history.run_selector import newest_runs
    from perfkit.runs.backends import public_address

    context = workspace.history()
    newest, acknowledgements = newest_runs(context, scenario), workspace.acknowledgements()
    comparison = judge_history(newest, context, workspace.policy, acknowledgements=acknowledgements)
    result = result_of(comparison.to_dict(), f"{public_address(workspace.store)}, scenario {scenario}")
    return replace(result, stored=True)


def named_repository(*names: str, checkout: Path = Path(), or_any: bool = False) -> str:
    """The first repository that is named, else that of git's remote; ``or_any`` takes a made-up one for a dry run."""
    from perfkit.notify.github_api import repository_at
    from perfkit.runs.git import Git

    name = next(filter(None, (*names, os.environ.get("GITHUB_REPOSITORY", ""))), "")
    name = name or repository_at(Git(checkout).remote_address(), os.environ.get("GITHUB_SERVER_URL", ""))
    if not name and or_any:
        click.echo(
            f"no repository is named, and git has no remote on GitHub here: shown for {ANY_REPOSITORY}", err=True
        )
        return ANY_REPOSITORY
    return name


def job_address() -> str:
    """The page of the job that this is: of GitHub Actions, GitLab CI or Jenkins; empty elsewhere."""
    from perfkit.notify.delivery import link_template

    server, repository, run = (os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    address = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else ""
    try:
        return link_template(address or os.environ.get("CI_JOB_URL") or os.environ.get("BUILD_URL", ""), "job")
    except SettingsError:  # not the user's: a link less
        return ""


@click.command(short_help="Send results by e-mail.")
@click.option("--to", multiple=True, metavar="ADDRESS", help="A recipient; may be repeated [to of the settings].")
@click.option("--from", "sender", metavar="ADDRESS", default="", help="The sender [from of the settings].")
@WHEN
@click.option("--digest", is_flag=True, help="All results in one message.")
@click.option(
    "--dry-run",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="[FILE.eml]",
    is_flag=False,
    flag_value="-",
    help="Print the text of the messages, or write one to this file; send nothing, leave the sent log as it is.",
)
@checkout_option("--repository")
@with_results
def email(
    collected: ResultSet, settings: Settings, when: str | None, digest: bool, dry_run: Path | None, **options: Any
) -> None:
    """Send the results of comparisons and histories: the verdict, each event, charts, and the report attached.

    The server is named in [email] of the settings; name and password come from the environment: PERFKIT_SMTP_USER and
    PERFKIT_SMTP_PASSWORD (PERFKIT_SMTP_HOST, PERFKIT_SMTP_PORT and PERFKIT_SMTP_CA count too).

    With --when changes a message is sent when something got worse, came back or is resolved, when a service has no
    requests any more or has them again, or when runs cannot be judged any more.  Otherwise nothing is sent, and the
    exit code is 0.

    Exit codes: 0 sent, or nothing to send; 2 wrong settings; 4 a recipient did not get it (all others did).

    \b
    Examples:
      perfkit email reports/20261102T020000Z-trend --to team@example.org --when changes
      perfkit email --store data/runs --scenario shop
      perfkit email --scenario shop --label machine=ci-4
      perfkit email reports/*-trend --digest
      perfkit email reports/20261102T020000Z-compare --to team@example.org --dry-run mail.eml
    """
    from perfkit.notify.delivery import deliver
    from perfkit.notify.email import MailChannel

    if dry_run not in (None, Path("-")):
        if len(collected.messages) > 1 and not digest:
            raise click.UsageError("--dry-run writes one message: name one result, or add --digest")
        if dry_run.suffix == ".json" and dry_run.exists():
            raise click.UsageError(f"--dry-run {dry_run}: is a RESULT, and would be overwritten; put --dry-run last")
    messages = [collected.results] if digest else [(result,) for result in collected.results]
    channel = MailChannel(settings.email, dry_run=dry_run, **options)
    for line in deliver(messages, channel, when=when or settings.email.when, folder=settings.delivery):
        click.echo(line)


@click.command(short_help="Send results to chats and to a webhook.")
@click.option(
    "--url", "urls", multiple=True, metavar="URL", help="A chat, as Apprise writes it [urls of the settings]."
)
@click.option(
    "--webhook", metavar="URL", default="", help="Where to post the result as JSON [webhook of the settings]."
)
@WHEN
@click.option("--dry-run", is_flag=True, help="Print the messages; send nothing, and leave the sent log as it is.")
@checkout_option("--repository")
@with_results
def notify(collected: ResultSet, settings: Settings, when: str | None, **options: Any) -> None:
    """Send the results of comparisons and histories to chats (Slack, Teams, Mattermost and others) and to programs.

    Chats are named in [chat] of the settings, by addresses of Apprise whose secrets stand in variables
    ("${SLACK_URL}"); they need the extra `chat` of perfkit.  A webhook gets a JSON document (perfkit.notice/1).

    Only what is new since the last message is sent, unless --when always or the settings say otherwise.

    Exit codes: 0 sent, or nothing to send; 2 wrong settings; 4 a chat was not reached (all others were).

    \b
    Examples:
      perfkit notify reports/20261102T020000Z-trend
      perfkit notify --store data/runs --scenario shop
      perfkit notify result.json --webhook https://hooks.example/perfkit --when always
      perfkit notify result.json --url "${SLACK_URL}" --dry-run
    """
    from perfkit.notify.chat import ChatChannel
    from perfkit.notify.delivery import deliver

    messages = [(result,) for result in collected.results]
    channel = ChatChannel(settings.chat, **options)
    for line in deliver(messages, channel, when=when or settings.chat.when, folder=settings.delivery):
        click.echo(line)


@click.command(short_help="One GitHub issue per regression, kept current and closed when it is resolved.")
@click.option(
    "--repository",
    default="",
    metavar="OWNER/NAME",
    help="Where the issues are [of [issues], else GITHUB_REPOSITORY, else git's remote].",
)
@checkout_option("--checkout")
@click.option("--dry-run", is_flag=True, help="Print the requests (method, path, JSON) and change nothing.")
@with_results
def issue(collected: ResultSet, settings: Settings, dry_run: bool, **options: Any) -> int:
    """Keep one GitHub issue for each event that got worse, however many runs show it.

    An issue is opened, updated in place when its numbers change, commented when further services get worse, closed when
    the event is resolved or acknowledged (`perfkit ack`), reopened when it comes back.  An issue that a person closed
    stays closed until then.  Inconclusive and invalid results change nothing; invalid runs end with exit code 3.

    GITHUB_TOKEN, and GITHUB_REPOSITORY and GITHUB_API_URL where they are set, name the repository.  What cannot be sent
    is kept and sent with the next call; exit code 4.

    \b
    Examples:
      perfkit issue reports/20261102T020000Z-trend
      perfkit issue --store data/runs --scenario shop --dry-run
      perfkit issue result.json --repository octo/shop --dry-run
    """
    from perfkit.notify.github_sync import planned_requests, sync_issues

    options["repository"] = named_repository(
        options["repository"], settings.issues.repository, checkout=options["checkout"], or_any=dry_run
    )
    if dry_run:
        note = functools.partial(click.echo, err=True)
        planned = [
            request
            for result in collected.results
            for request in planned_requests(result, settings, report=note, **options)
        ]
        write_json(planned)
    else:
        failed, done = [], False
        for result in collected.results:
            try:
                done = bool(sync_issues(result, settings, report=click.echo, **options)) or done
            except DeliveryError as error:  # the others are kept for the next call too
                failed.append(str(error))
        if failed:
            raise DeliveryError("; ".join(dict.fromkeys(failed)))
        if not done:
            click.echo("nothing to do")
    return EXIT_INVALID if any(result.verdict is Verdict.INVALID for result in collected.results) else 0


@click.command(short_help="One comment of a pull request, changed in place.")
@click.option("--pull-request", type=click.IntRange(1), metavar="NUMBER", help="Which [that of the workflow's event].")
@click.option(
    "--repository", default="", metavar="OWNER/NAME", help="Where it is [GITHUB_REPOSITORY, else git's remote]."
)
@click.option("--name", metavar="TEXT", help="Distinguishes it from other comments of perfkit there [the scenarios].")
@click.option("--link", metavar="URL", help="Address of the report, {report} for its folder's name [link of [issues]].")
@checkout_option("--checkout")
@click.option("--dry-run", is_flag=True, help="Print the request (method, path, JSON) and send nothing.")
@with_results
def comment(
    collected: ResultSet,
    settings: Settings,
    pull_request: int | None,
    repository: str,
    name: str | None,
    link: str | None,
    checkout: Path,
    dry_run: bool,
) -> None:
    """Show results in a pull request: one comment, changed in place by each further call.

    It shows the verdict, what changed, the commits and a link to the report or the job; the rest is folded.
    The pull request is that of the job (GITHUB_EVENT_PATH, GITHUB_REF) or the one named.  Each set of scenarios has a
    comment of its own.  The exit code says whether it was sent; `perfkit compare` judges.

    \b
    Examples:
      perfkit comment reports/20261125T020000Z-compare
      perfkit comment --store data/runs --scenario shop
      perfkit comment result.json --pull-request 412 --repository octo/shop --dry-run
    """
    from perfkit.notify.delivery import link_template, message_about, report_link
    from perfkit.notify.github_api import Access
    from perfkit.notify.github_plan import Comment
    from perfkit.notify.github_sync import post_comment, pull_request_of
    from perfkit.report.github import to_comment
    from perfkit.report.message import ReportLocation

    template = link_template(link or settings.issues.link, "--link" if link else "[issues]: link")
    names = name or "\n".join(sorted({f"{message.kind} {message.scenario}" for message in collected.messages}))
    access = Access.from_environment(
        named_repository(repository, checkout=checkout, or_any=dry_run), with_token=not dry_run
    )
    location = ReportLocation("The report with its charts", report_link(template, collected.folder))
    if not location.link:
        location = ReportLocation("The job that measured it", report_link(job_address(), ""))
    messages = [
        message if message.result is None else message_about(message.result, None, message.location, checkout)
        for message in collected.messages
    ]
    text = to_comment(messages, location)
    try:
        number = pull_request or pull_request_of()
    except SettingsError as error:
        if not dry_run:
            raise
        number = 0
        click.echo(f"{error}; shown for number 0", err=True)
    message = Comment(number, names, text)
    if dry_run:
        write_json([message.request(access.path).to_dict()])
    else:
        post_comment(message, access, settings.delivery, report=click.echo)


@click.command(short_help="Results for a pipeline: summary page, annotations, JUnit.")
@click.option("--annotations", is_flag=True, help="Print ::error, ::warning and ::notice lines for GitHub's checks.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to this file.")
@click.option("--verdict", is_flag=True, help="Print the worst verdict, one word.")
@with_results
def summary(collected: ResultSet, _settings: Settings, annotations: bool, junit: Path | None, verdict: bool) -> None:
    """Show results in a pipeline.

    Without options, a page of Markdown is added to the file that $GITHUB_STEP_SUMMARY names, else printed.  The exit
    code says whether the results could be read; `perfkit compare` judges.

    \b
    Examples:
      perfkit summary reports/20261125T020000Z-compare
      perfkit summary --store data/runs --scenario shop --verdict
      perfkit summary reports/20261125T020000Z-all --annotations --junit junit.xml
    """
    from perfkit.report.github import annotate
    from perfkit.report.text import messages_to_junit, to_summary

    if junit is not None:
        write(messages_to_junit(collected.messages), junit)
    if annotations:
        click.echo("".join(f"{line}\n" for line in annotate(collected.messages)), nl=False)
    if verdict:
        click.echo(min(collected.messages, key=lambda message: message.rank).verdict.value)
    if junit is not None or annotations or verdict:
        return
    page, path = to_summary(collected.messages), os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        click.echo(page, nl=False)
        return
    file, size = Path(path), 0
    try:
        size = file.stat().st_size if file.exists() else 0
        with file.open("a", encoding="utf-8") as pages:  # the other steps of the job add to it too
            pages.write(page)
    except OSError as error:
        with suppress(OSError):  # half a page would look like all of it
            os.truncate(file, size)
        raise StoreError(f"{path}: cannot be written: {error.strerror}; it is named by GITHUB_STEP_SUMMARY") from error
    click.echo(f"added to {path}", err=True)
