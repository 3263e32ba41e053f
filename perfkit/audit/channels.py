"""Can results be sent where the settings want them?  Asked of the code that will send them; secrets are never shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from perfkit.audit.remark import Grade, Remark, fine
from perfkit.channels import ChatSettings, EmailSettings, IssueSettings
from perfkit.config import Settings
from perfkit.deliver import webhook
from perfkit.deliver.addresses import addresses_of
from perfkit.deliver.chat import Room
from perfkit.deliver.github.access import Access
from perfkit.deliver.mail_server import server_of
from perfkit.errors import MissingExtra, SettingsError
from perfkit.settings_file import expand

Missing = Iterator[tuple[str, str]]  # what, and what to do


def credential_remarks(settings: Settings) -> Iterator[Remark]:
    """What is missing for each channel that is configured."""
    channels = {
        "[email]": _email(settings.email) if settings.email != EmailSettings() else None,
        "[issues]": _issues(settings.issues) if settings.issues != IssueSettings() else None,
        "[chat]": _chat(settings.chat) if settings.chat.urls or settings.chat.webhook else None,
    }
    for channel, missing in channels.items():
        if missing is None:
            continue
        found = dict(missing)
        yield from (Remark("credentials", channel, Grade.ERROR, what, advice) for what, advice in found.items())
        if not found:
            yield fine("credentials", channel, "complete")


def _refusal(step: Callable[[], object], advice: str) -> Missing:
    """What the settings lack for a step; nothing is sent by it."""
    try:
        step()
    except (SettingsError, MissingExtra) as error:
        yield str(error), advice


def _email(email: EmailSettings) -> Missing:
    advice = "Correct it, or no mail can be sent."
    yield from _refusal(lambda: server_of(email), advice)
    yield from _refusal(lambda: addresses_of(email.to, "[email]: to"), advice)
    try:
        server = server_of(email)
    except SettingsError:
        return
    if not server.user and server.security != "none":
        yield "PERFKIT_SMTP_USER and PERFKIT_SMTP_PASSWORD are not set", f"Set them where mail is sent by {server}."


def _issues(issues: IssueSettings) -> Missing:
    advice = "Correct it where issues are written."
    yield from _refusal(lambda: Access.from_environment(issues.repository, with_token=False), advice)
    yield from _refusal(lambda: Access.from_environment("any/repository"), advice)


def _chat(chat: ChatSettings) -> Missing:
    advice = "Correct it where messages are sent."
    for number, url in enumerate(chat.urls, 1):
        yield from _refusal(partial(_room, url, number), advice)
    if chat.webhook:
        place = "[chat]: webhook"
        yield from _refusal(lambda: webhook.address(expand(chat.webhook, place), place), advice)


def _room(url: str, number: int) -> Room:
    return Room(expand(url, f"[chat]: urls: number {number}"), number)
