"""The server that takes e-mail, as settings and environment name it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from perfkit.channels import EmailSettings
from perfkit.errors import SettingsError
from perfkit.redaction import redact
from perfkit.render.theme import shorten

TIMEOUT_S = 30.0  # of one answer
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


@dataclass(frozen=True, slots=True)
class MailServer:
    """Who takes messages, and how to speak with it.

    Parameters
    ----------
    authority
        File of a certificate authority of one's own, beside those of the system.
    """

    host: str
    port: int
    security: str
    user: str = ""
    password: str = field(default="", repr=False)
    authority: str = ""
    timeout_s: float = TIMEOUT_S

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def without_secrets(self, text: str) -> str:
        """What it said, harmless, and without the password should it repeat it."""
        both = f"\0{self.user}\0{self.password}" if self.password else ""
        return shorten(redact(text, self.password, both), 200)


def server_of(settings: EmailSettings, environment: Mapping[str, str] = os.environ) -> MailServer:
    """The server that settings and environment name; the environment counts more.

    Raises
    ------
    SettingsError
        No server is named, a port is none, or a password would travel unencrypted.
    """
    said = {name: environment.get(f"PERFKIT_SMTP_{name}", "") for name in ("HOST", "PORT", "USER", "PASSWORD", "CA")}
    host = said["HOST"] or settings.host
    if not host:
        raise SettingsError("[email]: host is missing: name the mail server there or in PERFKIT_SMTP_HOST")
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,255}", host):
        raise SettingsError(f"[email]: host: {host!r:.80} is no name of a server")
    if host.count(":") == 1:
        raise SettingsError(f"[email]: host: {host!r:.80} holds a port, which has a place of its own: port")
    port = _port(said["PORT"]) if said["PORT"] else settings.port
    if said["USER"] and not said["PASSWORD"]:
        raise SettingsError("PERFKIT_SMTP_USER is set, and PERFKIT_SMTP_PASSWORD is not")
    if said["USER"] and settings.security == "none":
        raise SettingsError(
            '[email]: security = "none" would send the password readable to all; use "starttls" or "tls"'
        )
    return MailServer(
        host, port or _PORTS[settings.security], settings.security, said["USER"], said["PASSWORD"], said["CA"]
    )


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise SettingsError(f"PERFKIT_SMTP_PORT: from 1 to 65535, got {text!r:.40}")
    return int(text)
