"""Real mail servers on loopback: one with TLS and login that keeps what it gets, and ones that misbehave."""

import socket
import ssl
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from email import message_from_bytes
from email.policy import default

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

USER, PASSWORD = "robot", "s3cr:t$ß\\p w"  # as passwords are: not friendly to shells, headers or logs


class Authority:
    """A certificate authority of one's own, and a certificate of it for ``localhost``."""

    def __init__(self, folder):
        self.file = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.file)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self.context)


class Mailbox:
    """What arrived, and what to answer: ``answers`` to recipients and ``ends`` to messages, each used up in order."""

    def __init__(self):
        self.letters, self.logins, self.asked = [], [], Counter()
        self.answers, self.ends = {}, []

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.asked[address] += 1
        answers = self.answers.get(address, [])
        answer = answers.pop(0) if answers else "250 OK"
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):
        answer = self.ends.pop(0) if self.ends else "250 OK"
        if answer.startswith("250"):
            message = message_from_bytes(envelope.original_content, policy=default)
            self.letters.append((tuple(envelope.rcpt_tos), message, session.ssl is not None))
        return answer

    def authenticate(self, server, session, envelope, mechanism, data):
        given = (data.login.decode(), data.password.decode())
        self.logins.append(given)
        # A server may say anything, even what it was told
        return AuthResult(success=given == (USER, PASSWORD), handled=False)


class _Controller(Controller):
    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def serving(authority=None, *, security="starttls", login=True):
    """A server on a free port of 127.0.0.1; yields its mailbox and port."""
    box = Mailbox()
    options = {}
    if security == "starttls":
        options = {"tls_context": authority.context, "require_starttls": True}
    elif security == "tls":
        options = {"ssl_context": authority.context}
    if login:
        # Within a TLS connection aiosmtpd sees none: it offers the login, and only checks it
        options |= {"authenticator": box.authenticate}
        options |= {"auth_required": True} if security == "starttls" else {"auth_require_tls": False}
    controller = _Controller(box, hostname="127.0.0.1", port=0, **options)
    controller.start()
    try:
        yield box, controller.port
    finally:
        controller.stop()


@contextmanager
def scripted(*scripts):
    """A server that plays one script per connection, the last one again and again; yields its port and a counter.

    A script is called with a file to write lines to and read them from.
    """
    count = Counter()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def play():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                script = scripts[min(count["connections"], len(scripts) - 1)]
                count["connections"] += 1
                # An error: the other side has gone
                with connection, connection.makefile("rwb", buffering=0) as file, suppress(OSError):
                    script(connection, file, count)

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1], count
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def up_to(command):
    """A script that is polite up to a command, then hangs up; ``.`` is the end of a message, taken without a word."""

    def play(connection, file, count):
        file.write(b"220 here\r\n")
        for line in file:
            word = line.strip().upper().split(b" ")[0].split(b":")[0]
            if word == command.encode():
                connection.shutdown(socket.SHUT_RDWR)
                return
            if word == b"DATA":
                file.write(b"354 go on\r\n")
                while (part := file.readline()) not in (b".\r\n", b""):
                    pass
                if command == "." or not part:
                    return
                count["messages"] += 1
            file.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")

    return play


polite = up_to("NOTHING")


def hangs_up(connection, file, count):
    """Not a word."""


def stalls(connection, file, count):
    """Not a word either, but stays until the other side goes."""
    connection.recv(1)
