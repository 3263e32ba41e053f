"""Can results be sent where the settings want them?  Variables are named, and never shown."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator

from perfkit.audit.remark import Grade, Remark, fine
from perfkit.channels import ChatSettings, EmailSettings, IssueSettings
from perfkit.config import Settings
from perfkit.errors import SettingsError
from perfkit.settings_file import expand

USER, PASSWORD = "PERFKIT_SMTP_USER", "PERFKIT_SMTP_PASSWORD"
TOKEN, REPOSITORY = "GITHUB_TOKEN", "GITHUB_REPOSITORY"


def credential_remarks(settings: Settings) -> Iterator[Remark]:
    """What is missing for each channel that is configured."""
    for channel, missing in (
        ("email", _email(settings.email)),
        ("issues", _issues(settings.issues)),
        ("chat", _chat(settings.chat)),
    ):
        if missing is None:
            continue
        texts = list(missing)
        for text, advice in texts:
            yield Remark("credentials", f"[{channel}]", Grade.ERROR, text, advice)
        if not texts:
            yield fine("credentials", f"[{channel}]", "complete")


Missing = Iterator[tuple[str, str]]


def _set(name: str) -> bool:
    return bool(os.environ.get(name, "").strip())


def _email(email: EmailSettings) -> Missing | None:
    return _of_email(email) if email.host else None


def _of_email(email: EmailSettings) -> Missing:
    missing = [name for name in (USER, PASSWORD) if not _set(name)]
    # A relay that speaks no TLS takes mail without a name, but not with half of one
    if missing and (email.security != "none" or len(missing) == 1):
        yield f"{' and '.join(missing)} not set", f"{email.host} asks for a login: set them where the mail is sent."


def _issues(issues: IssueSettings) -> Missing | None:
    return _of_issues(issues) if issues != IssueSettings() else None


def _of_issues(issues: IssueSettings) -> Missing:
    if not _set(TOKEN):
        yield f"{TOKEN} not set", "Give the step a token that may write issues."
    repository = issues.repository or os.environ.get(REPOSITORY, "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        found = f"{REPOSITORY} not set" if not repository else f"not a repository: {repository!r}"
        yield found, 'Name it in [issues], repository = "owner/name", or in the environment.'


def _chat(chat: ChatSettings) -> Missing | None:
    return _of_chat(chat) if chat.urls or chat.webhook else None


def _of_chat(chat: ChatSettings) -> Missing:
    for url in filter(None, (*chat.urls, chat.webhook)):
        try:
            expand(url, "an address")
        except SettingsError as error:
            yield str(error), "Set it where messages are sent; it holds the address with its secret."
    if chat.urls and importlib.util.find_spec("apprise") is None:
        yield "apprise is not installed", "It sends the messages: pip install 'perfkit[chat]'."
