"""Results by e-mail: addresses, the message (text, HTML with charts, reports attached), and the mail server.

A recipient whose server has taken the message is not sent it again, whatever happens afterwards.  Where the connection
breaks after the whole message went out and before the server answered, nobody can know whether it arrived; that is
reported, and the message is not sent again.
"""

from __future__ import annotations

import base64
import os
import re
import smtplib
import socket
import ssl
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses
from pathlib import Path
from typing import NamedTuple

from perfkit.config.settings import EmailSettings
from perfkit.config.toml_table import expand
from perfkit.history.incidents import digest
from perfkit.model.errors import ReadError, SettingsError, StoreError
from perfkit.model.files import atomic_write
from perfkit.model.redaction import redact
from perfkit.notify.delivery import MEGABYTE, Batch, Sent, link_template, message_about, report_link, report_location
from perfkit.report.formatting import clean, shorten
from perfkit.report.mail import Mail, mail_of
from perfkit.report.message import ReportLocation

TIMEOUT_S = 30.0  # of one answer
PAUSES = (2.0, 10.0, 30.0)  # seconds before each further try
QUIT_TIMEOUT_S = 3.0
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
NOBODY = Address("recipient", "recipient", "example.invalid")  # of a dry run without one (RFC 2606)
_POLICY = SMTP.clone(cte_type="7bit")  # short ASCII lines, which every server on the way can carry
_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
_TRY_LATER = (421, b"not asked")
_MAY_HAVE_ARRIVED = (
    "the connection broke after the message was out and before the server said whether it took it; "
    "it may have arrived, and is not sent again"
)


def addresses_of(texts: Iterable[str], setting: str) -> tuple[Address, ...]:
    """Every address in these texts, once; each text may hold several, separated by commas, and ``${NAME}``.

    No header and no SMTP command can come of one.  ``SettingsError`` names what is no address, and the setting.
    """
    addresses: dict[str, Address] = {}
    for text in texts:
        expanded = expand(text, setting)
        if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in expanded):
            raise SettingsError(f"{setting}: {expanded!r:.120} holds a line break or another control character")
        pairs = getaddresses([expanded])
        # The parser puts right what it takes for a slip, and so may write to somebody else
        if not any(spec for _, spec in pairs) or any(spec not in expanded for _, spec in pairs):
            raise SettingsError(f"{setting}: {expanded!r:.120} is no address, such as team@example.org")
        for name, spec in pairs:
            local, _, domain = spec.rpartition("@")
            try:
                domain = domain.encode("idna").decode()
            except UnicodeError:
                domain = ""
            if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
                raise SettingsError(f"{setting}: {spec!r:.120} is no address, such as team@example.org")
            address = Address(display_name=name, username=local, domain=domain)
            addresses.setdefault(address.addr_spec.lower(), address)
    return tuple(addresses.values())


def attachment_name(scenario: str, folder: str) -> str:
    """A file name for the report of a scenario that is valid on every system."""
    words = [re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:60].strip("-") for text in (scenario, folder)]
    return f"{'-'.join(word for word in words if word) or 'report'}.html"


def email_message(
    mail: Mail, sender: Address, recipients: Sequence[Address], attachments: Iterable[tuple[str, bytes]], now: datetime
) -> EmailMessage:
    """The whole message; attachments are HTML files by name.

    Its Message-ID is a digest of its content and recipients: mail programs recognise a copy that arrived twice.
    """
    content = "\n".join([mail.subject, mail.text, mail.html, *(address.addr_spec for address in recipients)])
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = tuple(recipients)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<perfkit.{digest(content, 32)}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine should answer
    message.set_content(mail.text, cte="quoted-printable")
    message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    html = message.get_body(("html",))
    if html is not None:
        for cid, chart in mail.charts.items():
            file = f"{cid.partition('@')[0]}.png"
            html.add_related(chart.png, "image", "png", cid=f"<{cid}>", disposition="inline", filename=file)
    for name, report in attachments:
        message.add_attachment(report, "text", "html", filename=name)
    return message


@dataclass(frozen=True, slots=True)
class MailServer:
    """The server that takes messages."""

    host: str
    port: int
    security: str  # ``starttls``, ``tls`` or ``none``
    user: str = ""
    password: str = field(default="", repr=False)
    authority: str = ""  # file of a certificate authority to trust beside those of the system
    timeout_s: float = TIMEOUT_S

    @classmethod
    def from_settings(cls, settings: EmailSettings, environment: Mapping[str, str] = os.environ) -> MailServer:
        """The server that settings and environment name; the environment counts more.

        ``SettingsError``: none is named, a port is none, or a password would travel unencrypted.
        """
        host, port, user, password, authority = (
            environment.get(f"PERFKIT_SMTP_{name}", "") for name in ("HOST", "PORT", "USER", "PASSWORD", "CA")
        )
        host = host or settings.host
        if not host:
            raise SettingsError("[email]: host is missing: name the mail server there or in PERFKIT_SMTP_HOST")
        if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,255}", host):
            raise SettingsError(f"[email]: host: {host!r:.80} is no name of a server")
        if host.count(":") == 1:
            raise SettingsError(f"[email]: host: {host!r:.80} holds a port, which has a setting of its own: port")
        if port and not (port.isdecimal() and 1 <= int(port) <= 65535):
            raise SettingsError(f"PERFKIT_SMTP_PORT: from 1 to 65535, got {port!r:.40}")
        if user and not password:
            raise SettingsError("PERFKIT_SMTP_USER is set, and PERFKIT_SMTP_PASSWORD is not")
        if user and settings.security == "none":
            raise SettingsError(
                '[email]: security = "none" would send the password readable to all; use "starttls" or "tls"'
            )
        number = int(port) if port else settings.port or _PORTS[settings.security]
        return cls(host, number, settings.security, user, password, authority)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def answer(self, code: int, text: bytes | str) -> str:
        """An answer of the server as one short line, without the password should it repeat it."""
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self.without_secrets(f"{code} {words}")

    def without_secrets(self, text: str) -> str:
        """A text in which the password does not stand, in one short line."""
        login = f"\0{self.user}\0{self.password}" if self.password else ""
        return shorten(redact(text, self.password, login), 200)


class Delivery(NamedTuple):
    """Who got a message, and why others did not."""

    accepted: tuple[str, ...]
    failed: Mapping[str, str]


class _MailError(Exception):
    """No recipient got it; ``retryable`` says whether another try may help."""

    def __init__(self, text: str, *, retryable: bool) -> None:
        super().__init__(text)
        self.retryable = retryable


class _Connection(smtplib.SMTP):
    """Knows whether the whole content of a message went out: smtplib hands commands as text, content as bytes."""

    content_sent = False

    def send(self, s: object) -> None:
        super().send(s)  # type: ignore[arg-type]
        self.content_sent = self.content_sent or isinstance(s, bytes)


class _TlsConnection(_Connection, smtplib.SMTP_SSL):
    """The same, over TLS from the start."""


def send(
    message: EmailMessage,
    sender: str,
    recipients: Sequence[str],
    server: MailServer,
    *,
    pauses: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Delivery:
    """Hand a message to the server, once for each of these recipients.

    Recipients that the server refuses for now are tried again, alone; so are all of them when the connection failed
    before the message was out.
    """
    accepted: list[str] = []
    failed: dict[str, str] = {}
    waiting = list(recipients)
    for pause in (0.0, *(PAUSES if pauses is None else pauses)):
        if pause:
            sleep(pause)
        try:
            refused = _hand_over(message, sender, waiting, server)
        except _MailError as error:
            failed |= dict.fromkeys(waiting, str(error))
            if not error.retryable:
                break
            continue
        accepted += [name for name in waiting if name not in refused]
        failed = {name: reason for name, reason in failed.items() if name not in waiting}
        failed |= {name: server.answer(code, text) for name, (code, text) in refused.items()}
        waiting = [name for name, (code, _) in refused.items() if 400 <= code < 500]
        if not waiting:
            break
    return Delivery(tuple(accepted), failed)


def _hand_over(
    message: EmailMessage, sender: str, recipients: Sequence[str], server: MailServer
) -> dict[str, tuple[int, bytes]]:
    """One session: the refused recipients with their answers; all others have it.  `_MailError` when nobody has."""
    connection: _Connection | None = None
    try:
        with closing(_connect(server)) as connection:
            try:
                refused = connection.send_message(message, sender, recipients)
            except smtplib.SMTPRecipientsRefused as error:
                refused = {name: error.recipients.get(name, _TRY_LATER) for name in recipients}
            with suppress(smtplib.SMTPException, OSError):  # the message is out, whatever comes of the good-bye
                if connection.sock is not None:
                    connection.sock.settimeout(QUIT_TIMEOUT_S)
                connection.quit()
        return refused
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not trusted: {error.verify_message}; PERFKIT_SMTP_CA may name its authority"
        raise _MailError(f"{server}: {reason}", retryable=False) from None
    except smtplib.SMTPResponseException as error:
        reason = server.answer(error.smtp_code, error.smtp_error)
        if isinstance(error, smtplib.SMTPAuthenticationError):
            reason = f"the login as {clean(server.user)} was refused: {reason}"
        elif error.smtp_code == 552:
            reason = f"{reason}; attach_mb in [email] says how much is attached"
        raise _MailError(f"{server}: {reason}", retryable=400 <= error.smtp_code < 500) from None
    except (smtplib.SMTPException, OSError) as error:
        if connection is not None and connection.content_sent:
            raise _MailError(_MAY_HAVE_ARRIVED, retryable=False) from None
        retryable = not isinstance(error, smtplib.SMTPNotSupportedError)
        if isinstance(error, socket.gaierror):  # an unknown name stays unknown
            retryable = error.errno == socket.EAI_AGAIN
        elif isinstance(error, ssl.SSLError):  # a server without TLS has none later
            retryable = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, TimeoutError) or text.endswith("timed out"):  # smtplib makes texts of some
            text = f"no answer within {server.timeout_s:g} s"
        raise _MailError(f"{server}: {server.without_secrets(text)}", retryable=retryable) from None


def _connect(server: MailServer) -> _Connection:
    """A connection on which messages may be sent: encrypted as the settings ask, and logged in."""
    context = ssl.create_default_context()
    if server.authority:
        try:
            context.load_verify_locations(cafile=server.authority)
        except (OSError, ssl.SSLError) as error:
            text = f"PERFKIT_SMTP_CA: {server.authority}: holds no certificate: {error.strerror or error}"
            raise SettingsError(text) from error
    with ExitStack() as opened:
        if server.security == "tls":
            connection: _Connection = _TlsConnection(
                server.host, server.port, timeout=server.timeout_s, context=context
            )
        else:
            connection = _Connection(server.host, server.port, timeout=server.timeout_s)
        opened.callback(connection.close)
        if server.security == "starttls":
            connection.starttls(context=context)  # an error where the server does not offer it: nothing goes out plain
        if server.user and (server.user + server.password).isascii():
            connection.login(server.user, server.password)
        elif server.user:  # smtplib knows only ASCII here; RFC 4616 is UTF-8
            connection.ehlo_or_helo_if_needed()
            login = base64.b64encode(f"\0{server.user}\0{server.password}".encode()).decode()
            code, answer = connection.docmd("AUTH", f"PLAIN {login}")
            if code != 235:
                raise smtplib.SMTPAuthenticationError(code, answer)
        opened.pop_all()
    return connection


class MailChannel:
    """E-mail as a channel; everything is checked before anything is sent.

    ``to`` and ``sender`` are those of the settings where empty.  ``dry_run`` is a file to write the message to, instead
    of sending it; ``-``: its text is what `send` says.  Commits of events are looked up in ``checkout``.
    """

    name = "email"

    def __init__(
        self,
        settings: EmailSettings,
        *,
        to: Sequence[str] = (),
        sender: str = "",
        dry_run: Path | None = None,
        checkout: Path | None = None,
    ) -> None:
        addresses = addresses_of(to or settings.to, "--to" if to else "[email]: to")
        self._unnamed = ""
        if not addresses and dry_run is not None:
            addresses = (NOBODY,)
            self._unnamed = "; no recipient is named yet, in [email]: to or with --to"
        if not addresses:
            raise SettingsError("[email]: to is missing: name the recipients there or with --to")
        self._addresses = {address.addr_spec.lower(): address for address in addresses}
        self._server = MailServer.from_settings(settings) if dry_run is None else None
        senders = [(sender, "--from"), (settings.sender, "[email]: from")]
        if self._server is not None and "@" in self._server.user:
            senders.append((self._server.user, "PERFKIT_SMTP_USER"))
        text, setting = next(((text, setting) for text, setting in senders if text), ("", ""))
        if not text and self._server is not None:
            raise SettingsError("[email]: from is missing: name the sender there or with --from")
        named = addresses_of([text], setting) if text else (Address("perfkit", "perfkit", "localhost"),)
        if len(named) != 1:
            raise SettingsError(f"{setting}: expected one address, got {len(named)}")
        self._sender = named[0]
        self._link = link_template(settings.link, "[email]: link")
        self._attach_mb, self._file, self._checkout = settings.attach_mb, dry_run, checkout
        self.recipients = tuple(self._addresses)
        self.dry_run = dry_run is not None

    def send(self, batch: Batch) -> Sent:
        """Send one message, or write it to the file of the dry run."""
        message = self._message(batch)
        subject = clean(message["Subject"])
        if self._server is None:
            file = self._file or Path()
            if file == Path("-"):
                body = message.get_body(("plain",))
                to = f"To: {clean(message['To'])}{self._unnamed}"
                lines = (body.get_content() if body is not None else "").splitlines()
                return Sent(("\n".join((to, f"Subject: {subject}", "", *map(clean, lines))),))
            try:
                atomic_write(file, message.as_bytes())
            except OSError as error:
                raise StoreError(f"{file}: cannot be written: {error.strerror or error}") from error
            return Sent((f"wrote {file}, sent nothing{self._unnamed}: {subject}",))
        names = [self._addresses[recipient].addr_spec for recipient in batch.recipients]
        accepted, failed = send(message, self._sender.addr_spec, names, self._server)
        return Sent(
            (f"sent to {', '.join(accepted)}: {subject}",) if accepted else (),
            tuple(name.lower() for name in accepted),
            tuple(f"not delivered to {name}: {reason}" for name, reason in failed.items()),
        )

    def _message(self, batch: Batch) -> EmailMessage:
        """The message, with the reports attached that are small enough."""
        room, messages, attachments = self._attach_mb * MEGABYTE, [], list[tuple[str, bytes]]()
        for result, diff in batch.contents:
            link = report_link(self._link, result.report_folder)
            size = result.report.stat().st_size if result.report is not None else 0
            location = report_location(result, link)
            if size > room:
                limit = f"more than the {self._attach_mb:g} MB that attach_mb of [email] allows for a message"
                location = ReportLocation(f"{location.words}. It is not attached: {limit}.", location.link)
            if result.report is not None and size <= room:
                room -= size
                name = attachment_name(result.scenario, result.report.parent.name)
                try:
                    attachments.append((name, result.report.read_bytes()))
                except OSError as error:
                    raise ReadError(f"{result.report}: cannot be read: {error.strerror}") from error
                words = "Open the full report (it is attached, too)" if link else f"The full report is attached: {name}"
                location = ReportLocation(words, link)
            messages.append(message_about(result, diff, location, self._checkout))
        recipients = [self._addresses[name] for name in batch.recipients]
        return email_message(mail_of(messages, batch.quiet), self._sender, recipients, attachments, datetime.now(UTC))
