"""Results told by e-mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path

from perfkit.config import Settings
from perfkit.deliver.addresses import address_of, addresses_of
from perfkit.deliver.letter import Attachment, attachment_name, letter_of
from perfkit.deliver.mail_server import MailServer, server_of
from perfkit.deliver.smtp import send
from perfkit.deliver.told import Memory
from perfkit.errors import ReadError, SettingsError, StoreError
from perfkit.render.mail import mail_of
from perfkit.render.notice import Place, Telling
from perfkit.render.theme import clean
from perfkit.results import Result
from perfkit.telling.places import MEGABYTE, commits_of, link_template, report_link, report_place
from perfkit.telling.readers import Batch, read_results, tell
from perfkit.whole_file import write_whole


@dataclass(frozen=True, slots=True)
class MailOrder:
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


def mail_results(paths: Sequence[str | Path], settings: Settings, order: MailOrder) -> Iterator[str]:
    """Send results to people; each line says what was done.

    Everything is read and checked before anything is sent.

    Raises
    ------
    DeliveryError
        Somebody did not get a message, after all others got theirs; it names whom and why.
    """
    results = read_results(paths)
    post = _Post(settings, order)
    units = [results] if order.digest else [(one,) for one in results]
    yield from tell(units, post, order.when or settings.email.when, Memory(settings.delivery, "email"))


class _Post:
    """Hands messages to the server, and keeps account of who got one and who did not."""

    def __init__(self, settings: Settings, order: MailOrder) -> None:
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
            link = report_link(result, self._link)
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
