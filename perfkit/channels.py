"""Where results are sent, as ``perfkit.toml`` says it: e-mail, issues, chat.  Secrets never stand there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from perfkit.errors import SettingsError, did_you_mean
from perfkit.settings_file import known_keys, texts, typed

WHEN = ("always", "changes")  # changes: only when something is new since the last message
SECURITY = ("starttls", "tls", "none")


@dataclass(frozen=True, slots=True)
class _Channel:
    """A table of settings: its keys are the fields of the class, but `sender` is called ``from``."""

    @classmethod
    def from_table(cls, table: Mapping[str, Any], place: str) -> Self:
        """The channel that a table describes; ``SettingsError`` names the key that is wrong."""
        defaults = {"from" if part.name == "sender" else part.name: part for part in fields(cls)}
        known_keys(table, tuple(defaults), place)
        given = {
            defaults[key].name: _value(value, defaults[key].default, f"{place}: {key}") for key, value in table.items()
        }
        try:
            return cls(**given)
        except ValueError as error:
            raise SettingsError(f"{place}: {error}") from error


def _value(value: Any, default: Any, place: str) -> Any:
    if isinstance(default, tuple):
        return texts(value, place)
    kind: Any = (int, float) if isinstance(default, float) else type(default)
    return typed(value, kind, place)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: one of {', '.join(known)}, got {value!r}{did_you_mean(value, known)}")


@dataclass(frozen=True, slots=True)
class EmailSettings(_Channel):
    """``[email]``: to whom, from whom, by which server.

    Parameters
    ----------
    sender
        ``from`` in the file.
    host, port, security
        The server; port 0 is the usual one of that security.  Name and password: `PERFKIT_SMTP_USER`,
        `PERFKIT_SMTP_PASSWORD`.
    attach_mb
        A larger report is not attached; the message says where it is.
    link
        Address of a report, with ``{report}`` for the name of its folder.
    """

    to: tuple[str, ...] = ()
    sender: str = ""
    host: str = ""
    port: int = 0
    security: str = "starttls"
    when: str = "always"
    attach_mb: float = 10.0
    link: str = ""

    def __post_init__(self) -> None:
        _one_of("security", self.security, SECURITY)
        _one_of("when", self.when, WHEN)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: from 1 to 65535, got {self.port}")
        if not 0 <= self.attach_mb <= 100:
            raise ValueError(f"attach_mb: from 0 to 100, got {self.attach_mb!r}")


@dataclass(frozen=True, slots=True)
class IssueSettings(_Channel):
    """``[issues]``: the repository, and what its issues look like.

    Parameters
    ----------
    repository
        ``owner/name``; else the environment's `GITHUB_REPOSITORY`.
    title
        With ``{scenario}``, ``{service}``, ``{metric}``, ``{change}``.
    most_new
        Issues that one call may open; further ones wait for the next.
    link
        Address of a report, with ``{report}`` for the name of its folder.
    """

    repository: str = ""
    labels: tuple[str, ...] = ("performance",)
    assignees: tuple[str, ...] = ()
    title: str = "{service}: {metric} {change} ({scenario})"
    most_new: int = 5
    link: str = ""

    def __post_init__(self) -> None:
        if self.most_new < 1:
            raise ValueError(f"most_new: at least 1, got {self.most_new}")


@dataclass(frozen=True, slots=True)
class ChatSettings(_Channel):
    """``[chat]``: addresses of Apprise, whose secrets stand in variables (``"${SLACK_URL}"``), and a plain webhook."""

    urls: tuple[str, ...] = ()
    webhook: str = ""
    when: str = "changes"
    link: str = ""

    def __post_init__(self) -> None:
        _one_of("when", self.when, WHEN)
