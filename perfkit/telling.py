"""Results told by e-mail and chat: to whom, what is new for each of them, and who got it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import quote, urlsplit

from perfkit.config import Settings
from perfkit.deliver.addresses import address_of, addresses_of
from perfkit.deliver.letter import Attachment, attachment_name, letter_of
from perfkit.deliver.smtp import MailServer, send, server_of
from perfkit.deliver.told import Memory
from perfkit.errors import DeliveryError, ReadError, SettingsError, StoreError
from perfkit.history.attribution import Attribution, attribute
from perfkit.news import News
from perfkit.render.mail import mail_of
from perfkit.render.notice import MOST_HAPPENINGS, Place, Telling
from perfkit.render.theme import clean, shorten
from perfkit.results import Result, read_result
from perfkit.settings_file import expand
from perfkit.whole_file import write_whole

MEGABYTE = 1e6


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
    results = _read(paths)
    post = _Post(settings, order)
    units = [results] if order.digest else [(one,) for one in results]
    if (order.when or settings.email.when) == "always":
        for unit in units:
            yield from post.deliver(_Batch(post.recipients, unit, None))
    else:
        yield from _mail_changes(units, post, Memory(settings.delivery, "email"))
    if post.failures:
        raise DeliveryError("; ".join(post.failures))


def _read(paths: Sequence[str | Path]) -> tuple[Result, ...]:
    """Each result once, however often it is named."""
    read = [read_result(path) for path in paths]
    return tuple({Path(one.place).resolve(): one for one in read}.values())


@dataclass(frozen=True, slots=True)
class _Batch:
    """The same message for several people; ``news`` is parallel to the results, ``None`` where all is told."""

    recipients: tuple[Address, ...]
    results: tuple[Result, ...]
    news: tuple[News, ...] | None


def _mail_changes(units: Sequence[tuple[Result, ...]], post: _Post, memory: Memory) -> Iterator[str]:
    for unit in units:
        every = {one: memory.news(_reader(one), unit) for one in post.recipients}
        groups: dict[tuple[object, ...], list[Address]] = {}
        for address, news in every.items():
            if any(news):
                groups.setdefault(tuple(one.key for one in news), []).append(address)
        if not groups:
            yield f"nothing new in {_names(unit)} since the last message: nothing sent"
        if post.remembers:
            memory.prepare(unit)
        for same in groups.values():
            yield from post.deliver(_Batch(tuple(same), unit, every[same[0]]))
        for address, news in every.items() if post.remembers else ():
            if not any(news) or address.addr_spec in post.reached:
                memory.remember(_reader(address), unit, news)
        post.reached.clear()


def _reader(address: Address) -> str:
    return address.addr_spec.lower()


def _names(results: Sequence[Result]) -> str:
    names = [shorten(one.scenario) for one in results]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class _Post:
    """Hands messages to the server, and keeps account of who got one and who did not."""

    def __init__(self, settings: Settings, order: MailOrder) -> None:
        self._settings, self._order = settings.email, order
        place = "--to" if order.to else "[email]: to"
        self.recipients = addresses_of(order.to or settings.email.to, place)
        if not self.recipients:
            raise SettingsError("[email]: to is missing: say there or with --to who shall get the message")
        self._server = server_of(settings.email) if order.dry_run is None else None
        self._sender = self._sender_of(self._server)
        self._link = link_template(settings.email.link, "[email]: link")
        self.reached: set[str] = set()
        self.failures: list[str] = []

    @property
    def remembers(self) -> bool:
        """A trial is not remembered."""
        return self._server is not None

    def _sender_of(self, server: MailServer | None) -> Address:
        text = self._order.sender or self._settings.sender
        if text:
            return address_of(text, "--from" if self._order.sender else "[email]: from")
        if server is not None and "@" in server.user:
            return address_of(server.user, "PERFKIT_SMTP_USER")
        if server is None:
            return Address("perfkit", "perfkit", "localhost")
        raise SettingsError("[email]: from is missing: say there or with --from who sends")

    def deliver(self, batch: _Batch) -> Iterator[str]:
        """Send one message, or write it to the file of the trial."""
        letter = self._letter(batch)
        subject = clean(letter["Subject"])
        if self._server is None:
            yield self._write(letter)
            return
        names = [one.addr_spec for one in batch.recipients]
        done = send(letter, self._sender.addr_spec, names, self._server)
        self.reached.update(done.accepted)
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

    def _letter(self, batch: _Batch) -> EmailMessage:
        told = batch.news or [None] * len(batch.results)
        wanted = [(one, news) for one, news in zip(batch.results, told, strict=True) if news is None or news]
        enclosed = list(self._enclosed([one for one, _ in wanted]))
        tellings = [
            Telling(one, place, news, commits_of(one, self._order.repository))
            for (one, news), (place, _) in zip(wanted, enclosed, strict=True)
        ]
        quiet = [one.scenario for one in batch.results if all(one is not other for other, _ in wanted)]
        attachments = [attached for _, attached in enclosed if attached is not None]
        return letter_of(mail_of(tellings, quiet), self._sender, batch.recipients, attachments, datetime.now(UTC))

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


def report_place(result: Result, link: str) -> Place:
    """Where a report is that does not go along with the message."""
    if result.report is None:
        return Place("Open the report" if link else f"The result is in {shorten(result.place, 200)}", link)
    size = f"{result.report.stat().st_size / MEGABYTE:.1f} MB"
    if link:
        return Place(f"Open the full report ({size})", link)
    return Place(f"The full report ({size}) is {shorten(result.report.resolve(), 200)}")


def link_template(text: str, place: str) -> str:
    """An address with ``{report}``; ``SettingsError`` when it is none of the web."""
    address = expand(text, place)
    if address and (urlsplit(address).scheme not in ("http", "https") or clean(address) != address):
        raise SettingsError(f"{place}: expected an address such as https://ci.example/reports/{{report}}, got {text!r}")
    return address


def report_link(result: Result, template: str) -> str:
    """The address of a report; empty where there is none."""
    if not template:
        return ""
    folder = (result.report or Path(result.place)).resolve().parent.name
    return template.replace("{report}", quote(folder, safe=""))


def commits_of(result: Result, repository: Path | None) -> dict[str, Attribution]:
    """What lies between the runs of the events that are told."""
    events = [one.last.event for one in result.news[-MOST_HAPPENINGS:]]
    return {event.id: attribute(event, repository) for event in events}
