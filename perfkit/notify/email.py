"""Results told by e-mail.

E-mail addresses as people write them, checked so that no header and no SMTP command can come of them.

An e-mail as it travels: plain text, HTML with its pictures, and the reports as attachments.

The server that takes e-mail, as settings and environment name it.

An e-mail handed to a server: verified TLS, login, waits and tries again where that helps, and never twice.

A server that has taken the message is not asked again, whatever happens afterwards.  Where the connection breaks after
the whole message went out and before its answer came, nobody can know; that is said, and it is not sent again.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import smtplib
import socket
import ssl
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses
from pathlib import Path

from perfkit.config.settings import EmailSettings, Settings
from perfkit.config.toml_table import expand
from perfkit.history.incidents import Result
from perfkit.model.errors import ReadError, SettingsError, StoreError
from perfkit.model.files import write_whole
from perfkit.model.redaction import redact
from perfkit.notify.results import MEGABYTE, commits_of, link_template, report_link, report_place
from perfkit.notify.sent_log import Batch, Memory, tell
from perfkit.report.formatting import clean, shorten
from perfkit.report.mail import Mail, mail_of
from perfkit.report.message import Place, Telling

_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")


def addresses_of(texts: Iterable[str], place: str) -> tuple[Address, ...]:
    """Every address in these texts, once; each text may hold several, separated by commas, and ``${NAME}``.

    Raises
    ------
    SettingsError
        One is no address; it is named, with its place.
    """
    found: dict[str, Address] = {}
    for text in texts:
        for address in _several(expand(text, place), place):
            found.setdefault(address.addr_spec.lower(), address)
    return tuple(found.values())


def address_of(text: str, place: str) -> Address:
    """The only address in a text."""
    every = _several(expand(text, place), place)
    if len(every) != 1:
        raise SettingsError(f"{place}: expected one address, got {len(every)}")
    return every[0]


def _several(text: str, place: str) -> list[Address]:
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text):
        raise SettingsError(f"{place}: {text!r:.120} holds a line break or another control character")
    pairs = getaddresses([text])
    if not any(spec for _, spec in pairs):
        raise SettingsError(f"{place}: {text!r:.120} is no address, such as team@example.org")
    for _, spec in pairs:
        if spec not in text:  # the parser puts right what it takes for a slip, and so may write to somebody else
            raise SettingsError(f"{place}: {text!r:.120} is no address, such as team@example.org")
    return [_checked(name, spec, place) for name, spec in pairs]


def _checked(name: str, spec: str, place: str) -> Address:
    local, _, domain = spec.rpartition("@")
    try:
        domain = domain.encode("idna").decode()
    except UnicodeError:
        domain = ""
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise SettingsError(f"{place}: {spec!r:.120} is no address, such as team@example.org")
    return Address(display_name=name, username=local, domain=domain)


# Every line is short ASCII, whatever the servers on its way can do
_POLICY = SMTP.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Attachment:
    """An HTML report, and the name of its file."""

    name: str
    content: bytes


def attachment_name(scenario: str, folder: str) -> str:
    """A file name for the report of a scenario that is one on every system."""
    words = [re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:60].strip("-") for text in (scenario, folder)]
    return f"{'-'.join(word for word in words if word) or 'report'}.html"


def letter_of(
    mail: Mail, sender: Address, recipients: Sequence[Address], attachments: Iterable[Attachment], now: datetime
) -> EmailMessage:
    """The whole message.

    Its id comes of what it says and to whom: a copy that a broken connection let through twice is known as one.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = tuple(recipients)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(now)
    message["Message-ID"] = _id(mail, sender, recipients)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine should answer
    message.set_content(mail.text, cte="quoted-printable")
    message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    html = message.get_body(("html",))
    if html is not None:
        for cid, picture in mail.pictures.items():
            html.add_related(picture.png, "image", "png", cid=f"<{cid}>", disposition="inline", filename=_file(cid))
    for one in attachments:
        message.add_attachment(one.content, "text", "html", filename=one.name)
    return message


def _file(cid: str) -> str:
    return f"{cid.partition('@')[0]}.png"


def _id(mail: Mail, sender: Address, recipients: Sequence[Address]) -> str:
    told = "\n".join([mail.subject, mail.text, mail.html, *(one.addr_spec for one in recipients)])
    return f"<perfkit.{hashlib.sha256(told.encode()).hexdigest()[:32]}@{sender.domain}>"


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


PAUSES = (2.0, 10.0, 30.0)  # seconds before each further try
_PARTING_S = 3.0
_TOO_LARGE = 552


@dataclass(frozen=True, slots=True)
class Delivery:
    """Who got it, and why others did not, in the words of the server."""

    accepted: tuple[str, ...]
    failed: Mapping[str, str]


class _Trouble(Exception):
    """Nobody got it; ``passes`` says whether another try may help."""

    def __init__(self, text: str, *, passes: bool) -> None:
        super().__init__(text)
        self.passes = passes


def send(
    message: EmailMessage,
    sender: str,
    recipients: Sequence[str],
    server: MailServer,
    *,
    pauses: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Delivery:
    """Hand the message over for each of these recipients once.

    Recipients that the server wants to have asked again later are asked again, alone; so are all of them when the
    connection failed before the message was out.
    """
    content = _on_the_wire(message)
    accepted: list[str] = []
    failed: dict[str, str] = {}
    waiting = list(recipients)
    for pause in (0.0, *(PAUSES if pauses is None else pauses)):
        if pause:
            sleep(pause)
        try:
            answers = _hand_over(server, content, sender, waiting)
        except _Trouble as error:
            failed |= dict.fromkeys(waiting, str(error))
            if not error.passes:
                break
            continue
        accepted += [one for one in waiting if one not in answers]
        failed = {name: why for name, why in failed.items() if name not in waiting}
        failed |= {name: server.without_secrets(f"{code} {said}") for name, (code, said) in answers.items()}
        waiting = [name for name, (code, _) in answers.items() if 400 <= code < 500]
        if not waiting:
            break
    return Delivery(tuple(accepted), failed)


def _on_the_wire(message: EmailMessage) -> bytes:
    """The message as bytes with CRLF, its leading dots doubled (RFC 5321, 4.5.2)."""
    content = re.sub(rb"(?m)^\.", b"..", message.as_bytes())
    return content if content.endswith(b"\r\n") else content + b"\r\n"


_Answer = tuple[int, str]


def _hand_over(server: MailServer, content: bytes, sender: str, recipients: Sequence[str]) -> dict[str, _Answer]:
    """One conversation: who was refused, with the answer; all others have it.  `_Trouble` when nobody has."""
    try:
        with closing(_connected(server)) as connection:
            refused = _transaction(connection, content, sender, recipients)
            _part(connection)
        return refused
    except ssl.SSLCertVerificationError as error:
        text = (
            f"{server}: its certificate is not trusted: {error.verify_message}; PERFKIT_SMTP_CA may name its authority"
        )
        raise _Trouble(text, passes=False) from None
    except smtplib.SMTPAuthenticationError as error:
        text = f"{server}: the login as {clean(server.user)} was refused: {_said(server, error)}"
        raise _Trouble(text, passes=400 <= error.smtp_code < 500) from None
    except smtplib.SMTPResponseException as error:
        hint = "; attach_mb in [email] says how much is attached" if error.smtp_code == _TOO_LARGE else ""
        raise _Trouble(f"{server}: {_said(server, error)}{hint}", passes=400 <= error.smtp_code < 500) from None
    except smtplib.SMTPNotSupportedError as error:
        raise _Trouble(f"{server}: {server.without_secrets(str(error))}", passes=False) from None
    except (smtplib.SMTPException, OSError) as error:
        raise _Trouble(f"{server}: {_why(server, error)}", passes=_passes(error)) from None


def _said(server: MailServer, error: smtplib.SMTPResponseException) -> str:
    said = error.smtp_error
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return server.without_secrets(f"{error.smtp_code} {text}")


def _why(server: MailServer, error: Exception) -> str:
    if isinstance(error, TimeoutError) or str(error).endswith("timed out"):  # smtplib makes texts of some
        return f"no answer within {server.timeout_s:g} s"
    return server.without_secrets(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _passes(error: Exception) -> bool:
    """Whether another try may help: not where the name is unknown or the server speaks no TLS."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _connected(server: MailServer) -> smtplib.SMTP:
    """A connection on which messages may be sent."""
    context = _trust(server)
    with ExitStack() as opened:
        connection: smtplib.SMTP
        if server.security == "tls":
            connection = smtplib.SMTP_SSL(server.host, server.port, timeout=server.timeout_s, context=context)
        else:
            connection = smtplib.SMTP(server.host, server.port, timeout=server.timeout_s)
        opened.callback(connection.close)
        if server.security == "starttls":
            connection.starttls(context=context)  # an error where the server does not offer it: nothing goes out plain
        if server.user:
            _log_in(connection, server)
        connection.ehlo_or_helo_if_needed()
        opened.pop_all()
    return connection


def _log_in(connection: smtplib.SMTP, server: MailServer) -> None:
    if (server.user + server.password).isascii():
        connection.login(server.user, server.password)
        return
    connection.ehlo_or_helo_if_needed()  # smtplib knows only ASCII here; RFC 4616 is UTF-8
    both = base64.b64encode(f"\0{server.user}\0{server.password}".encode()).decode()
    code, said = connection.docmd("AUTH", f"PLAIN {both}")
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, said)


def _trust(server: MailServer) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.authority:
        try:
            context.load_verify_locations(cafile=server.authority)
        except (OSError, ssl.SSLError) as error:
            text = f"PERFKIT_SMTP_CA: {server.authority}: holds no certificate: {error.strerror or error}"
            raise SettingsError(text) from error
    return context


def _transaction(
    connection: smtplib.SMTP, content: bytes, sender: str, recipients: Sequence[str]
) -> dict[str, _Answer]:
    size = [f"size={len(content)}"] if connection.has_extn("size") else []
    _expect(connection.mail(sender, size), 250)
    answers = {name: connection.rcpt(name) for name in recipients}
    refused = {name: (code, said.decode("utf-8", "replace")) for name, (code, said) in answers.items() if code >= 300}
    if len(refused) == len(answers):
        return refused
    _expect(connection.docmd("DATA"), 354)
    connection.send(content + b".\r\n")  # what breaks here is no whole message, and taken by nobody
    try:
        answer = connection.getreply()
    except (smtplib.SMTPServerDisconnected, OSError) as error:
        raise _Trouble(_UNSURE, passes=False) from error
    _expect(answer, 250)
    return refused


def _part(connection: smtplib.SMTP) -> None:
    """Say good-bye; what it answers changes nothing."""
    with suppress(smtplib.SMTPException, OSError):
        if connection.sock is not None:
            connection.sock.settimeout(_PARTING_S)
        connection.quit()


_UNSURE = (
    "the connection broke after the message was out and before the server said whether it took it; "
    "it may have arrived, and is not sent again"
)


def _expect(answer: tuple[int, bytes], code: int) -> None:
    if answer[0] != code:
        raise smtplib.SMTPResponseException(answer[0], answer[1])


@dataclass(frozen=True, slots=True)
class MailOptions:
    """What the command line says of a mail; what it leaves empty is as the settings say.

    Parameters
    ----------
    digest
        All results in one message.
    dry_run
        Write the message to this file, send and remember nothing.
    repository
        Where the commits of events are looked up.
    """

    to: tuple[str, ...] = ()
    sender: str = ""
    when: str = ""
    digest: bool = False
    dry_run: Path | None = None
    repository: Path | None = None


def send_mail(results: Sequence[Result], settings: Settings, order: MailOptions) -> Iterator[str]:
    """Send results to people; each line says what was done.

    Everything is read and checked before anything is sent.

    Raises
    ------
    DeliveryError
        Somebody did not get a message, after all others got theirs; it names whom and why.
    """
    post = _Post(settings, order)
    units = [tuple(results)] if order.digest else [(one,) for one in results]
    yield from tell(units, post, order.when or settings.email.when, Memory(settings.delivery, "email"))


class _Post:
    """Hands messages to the server, and keeps account of who got one and who did not."""

    def __init__(self, settings: Settings, order: MailOptions) -> None:
        self._settings, self._order = settings.email, order
        place = "--to" if order.to else "[email]: to"
        people = addresses_of(order.to or settings.email.to, place)
        if not people:
            raise SettingsError("[email]: to is missing: say there or with --to who shall get the message")
        self._server = server_of(settings.email) if order.dry_run is None else None
        self._sender = self._sender_of(self._server)
        self._link = link_template(settings.email.link, "[email]: link")
        self._people = {one.addr_spec.lower(): one for one in people}
        self.readers = tuple(self._people)
        self.remembers = self._server is not None
        self.reached: set[str] = set()
        self.failures: list[str] = []

    def _sender_of(self, server: MailServer | None) -> Address:
        text = self._order.sender or self._settings.sender
        if text:
            return address_of(text, "--from" if self._order.sender else "[email]: from")
        if server is not None and "@" in server.user:
            return address_of(server.user, "PERFKIT_SMTP_USER")
        if server is None:
            return Address("perfkit", "perfkit", "localhost")
        raise SettingsError("[email]: from is missing: say there or with --from who sends")

    def deliver(self, batch: Batch) -> Iterator[str]:
        """Send one message, or write it to the file of the trial."""
        letter = self._letter(batch)
        subject = clean(letter["Subject"])
        if self._server is None:
            yield self._write(letter)
            return
        names = [self._people[reader].addr_spec for reader in batch.readers]
        done = send(letter, self._sender.addr_spec, names, self._server)
        self.reached.update(name.lower() for name in done.accepted)
        self.failures += [f"not delivered to {name}: {why}" for name, why in done.failed.items()]
        if done.accepted:
            yield f"sent to {', '.join(done.accepted)}: {subject}"

    def _write(self, letter: EmailMessage) -> str:
        file = self._order.dry_run or Path()
        try:
            write_whole(file, letter.as_bytes())
        except OSError as error:
            raise StoreError(f"{file}: cannot be written: {error.strerror or error}") from error
        return f"wrote {file}, sent nothing: {clean(letter['Subject'])}"

    def _letter(self, batch: Batch) -> EmailMessage:
        enclosed = list(self._enclosed([one for one, _ in batch.told]))
        tellings = [
            Telling(one, place, news, commits_of(one, self._order.repository))
            for (one, news), (place, _) in zip(batch.told, enclosed, strict=True)
        ]
        loud = [id(one) for one, _ in batch.told]
        quiet = [one.scenario for one in batch.results if id(one) not in loud]
        attachments = [attached for _, attached in enclosed if attached is not None]
        people = [self._people[reader] for reader in batch.readers]
        return letter_of(mail_of(tellings, quiet), self._sender, people, attachments, datetime.now(UTC))

    def _enclosed(self, results: Sequence[Result]) -> Iterator[tuple[Place, Attachment | None]]:
        """Where each report is, with those that are small enough to go along."""
        room = self._settings.attach_mb * MEGABYTE
        for result in results:
            link = report_link(self._link, result.report_folder)
            size = result.report.stat().st_size if result.report is not None else 0
            if result.report is None or size > room:
                yield report_place(result, link), None
                continue
            room -= size
            name = attachment_name(result.scenario, result.report.parent.name)
            words = "Open the full report (it is attached, too)" if link else f"The full report is attached: {name}"
            yield Place(words, link), Attachment(name, _content(result.report))


def _content(report: Path) -> bytes:
    try:
        return report.read_bytes()
    except OSError as error:
        raise ReadError(f"{report}: cannot be read: {error.strerror}") from error
