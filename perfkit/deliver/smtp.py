"""An e-mail handed to a server: verified TLS, login, waits and tries again where that helps, and never twice.

A server that has taken the message is not asked again, whatever happens afterwards.  Where the connection breaks after
the whole message went out and before its answer came, nobody can know; that is said, and it is not sent again.
"""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from email.message import EmailMessage

from perfkit.deliver.mail_server import MailServer
from perfkit.errors import SettingsError
from perfkit.render.theme import clean

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
