"""Results told by e-mail and chat: to whom, what is new for each of them, and who got it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol
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
    yield from _told(units, post, order.when or settings.email.when, Memory(settings.delivery, "email"))


def _read(paths: Sequence[str | Path]) -> tuple[Result, ...]:
    """Each result once, however often it is named."""
    read = [read_result(path) for path in paths]
    return tuple({Path(one.place).resolve(): one for one in read}.values())


@dataclass(frozen=True, slots=True)
class _Batch:
    """The same message for several readers; ``news`` is parallel to the results, ``None`` where all is told."""

    readers: tuple[str, ...]
    results: tuple[Result, ...]
    news: tuple[News, ...] | None

    @property
    def told(self) -> tuple[tuple[Result, News | None], ...]:
        """The results of which there is something to tell."""
        news = self.news or [None] * len(self.results)
        return tuple((one, new) for one, new in zip(self.results, news, strict=True) if new is None or new)


class _Channel(Protocol):
    """A way to readers.  ``failures`` say who was not reached and why; a trial is not to be remembered."""

    readers: tuple[str, ...]
    remembers: bool
    reached: set[str]
    failures: list[str]

    def deliver(self, batch: _Batch) -> Iterator[str]: ...


def _told(units: Sequence[tuple[Result, ...]], channel: _Channel, when: str, memory: Memory) -> Iterator[str]:
    for unit in units:
        if when == "always":
            yield from channel.deliver(_Batch(channel.readers, unit, None))
        else:
            yield from _changes(unit, channel, memory)
    if channel.failures:
        raise DeliveryError("; ".join(channel.failures))


def _changes(unit: tuple[Result, ...], channel: _Channel, memory: Memory) -> Iterator[str]:
    """Tell each reader what is new for him, and remember it of those who were reached."""
    every = {reader: memory.news(reader, unit) for reader in channel.readers}
    groups: dict[tuple[object, ...], list[str]] = {}
    for reader, news in every.items():
        if any(news):
            groups.setdefault(tuple(one.key for one in news), []).append(reader)
    if not groups:
        yield f"nothing new in {_names(unit)} since the last message: nothing sent"
    if channel.remembers:
        memory.prepare(unit)
    channel.reached.clear()
    for same in groups.values():
        yield from channel.deliver(_Batch(tuple(same), unit, every[same[0]]))
        for reader in same if channel.remembers else ():
            if reader in channel.reached:
                memory.remember(reader, unit, every[reader])
    for reader, news in every.items() if channel.remembers else ():
        if not any(news):
            memory.remember(reader, unit, news)


def _names(results: Sequence[Result]) -> str:
    names = [shorten(one.scenario) for one in results]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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

    def deliver(self, batch: _Batch) -> Iterator[str]:
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

    def _letter(self, batch: _Batch) -> EmailMessage:
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
