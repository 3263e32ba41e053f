"""Delivery: which results are sent, to whom, and to nobody twice.

A `Channel` knows its recipients and how to send them a message: `perfkit.notify.email` and `perfkit.notify.chat` are
channels.  `deliver` takes results and a channel, looks up in the sent log what is new for each recipient, hands the
channel one `Batch` for all who get the same, and records who got it.

To add a channel, write a module beside those two with a class that has what `Channel` names; what it sends is a
`perfkit.report.message.Message` (see `message_about`), drawn as the medium needs it.  Then add its table to
`perfkit.config.settings`, and a command to `perfkit.cli.notify`.

An issue or a comment on GitHub is no message but a text that is brought up to date: see `perfkit.notify.github_sync`.
What could not be sent there waits in an `Outbox`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from perfkit.config.toml_table import expand, url_parts
from perfkit.history.commits import attribute
from perfkit.history.incidents import (
    NEVER_NOTIFIED,
    NotificationDiff,
    Notified,
    Result,
    digest,
    notification_diff,
    read_result,
)
from perfkit.model.codec import Time, decode, dump_json, encode, read_json
from perfkit.model.errors import DeliveryError, ReadError, SettingsError, StoreError
from perfkit.model.files import atomic_write, file_lock
from perfkit.report.formatting import and_more, clean, shorten
from perfkit.report.message import MOST_STATEMENTS, Message, ReportLocation, message_of, message_of_entry
from perfkit.report.report_set import is_overview, read_overview

MEGABYTE = 1e6
SENT_SCHEMA, SENT_FOLDER = "perfkit.told/1", "told"  # as 0.1.0 named them
UNSENT_SCHEMA = "perfkit.unsent/1"

# What is sent


@dataclass(frozen=True, slots=True)
class ResultSet:
    """Results to notify about, in the order in which they were named."""

    messages: tuple[Message, ...]  # one for each result, and one for each report of a set that could not be made
    folder: str = ""  # name of the folder of the first result file; empty for results from a store

    @property
    def results(self) -> tuple[Result, ...]:
        """The results of comparisons and histories, each file once; ``ReadError`` when there is none."""
        results = {Path(item.result.source).resolve(): item.result for item in self.messages if item.result is not None}
        if not results:
            raise ReadError("holds no result of a comparison or of a history: each of its reports failed")
        return tuple(results.values())


def collect_results(files: Sequence[Path], judged: Iterable[Result] = ()) -> ResultSet:
    """Results of files, then those that were judged just now from a store; ``ReadError`` for a file that is none.

    Files are report folders, result files, and folders of ``perfkit report --all``.
    """
    messages: list[Message] = []
    for file in files:
        if not is_overview(file):
            messages.append(message_of(read_result(file)))
            continue
        folder = file if file.is_dir() else file.parent
        for entry in read_overview(file).entries:
            result = read_result(folder / entry.result) if entry.result and entry.verdict else None
            messages.append(message_of_entry(entry, result))
    messages += map(message_of, judged)
    first = next(iter(files), None)
    folder_name = "" if first is None else (first if first.is_dir() else first.parent).resolve().name
    return ResultSet(tuple(messages), folder_name)


def link_template(text: str, setting: str) -> str:
    """A web address with ``{report}`` in it, its variables replaced; ``SettingsError`` for any other text."""
    address = expand(text, setting)
    parts = url_parts(address)
    if address and (parts is None or parts.scheme not in ("http", "https") or clean(address) != address):
        example = "https://ci.example/reports/{report}"
        raise SettingsError(f"{setting}: expected an address such as {example}, got {text!r}")
    return address


def report_link(template: str, folder: str) -> str:
    """The address of the report in a folder of that name; empty where there is no address or no such folder."""
    if not template or ("{report}" in template and not folder):
        return ""
    # Escaped whole, so that no part of it ends a link in Markdown
    return quote(template.replace("{report}", quote(folder, safe="")), safe="!#$%&'*+,/:;=?@[]~._-")


def report_location(result: Result, link: str) -> ReportLocation:
    """Where a report is that is not attached to the message."""
    if result.stored or result.report is None:
        words = "Judged from" if result.stored else "The result is in"
        return ReportLocation("Open the report" if link else f"{words} {shorten(result.source, 200)}", link)
    size = f"{result.report.stat().st_size / MEGABYTE:.1f} MB"
    if link:
        return ReportLocation(f"Open the full report ({size})", link)
    return ReportLocation(f"The full report ({size}) is {shorten(result.report.resolve(), 200)}")


def message_about(
    result: Result, diff: NotificationDiff | None, location: ReportLocation, checkout: Path | None
) -> Message:
    """What a message says of a result, with the commits in between, as far as the checkout knows them."""
    events = [incident.last.event for incident in result.open_incidents[-MOST_STATEMENTS:]]
    commits = {event.id: attribute(event, checkout) for event in events}
    return message_of(result, location=location, diff=diff, commits=commits)


# To whom, and once


@dataclass(frozen=True, slots=True)
class Batch:
    """One message for several recipients."""

    recipients: tuple[str, ...]
    # The results that it is about, each with what is new in it; ``None`` where all of it is sent
    contents: tuple[tuple[Result, NotificationDiff | None], ...]
    quiet: tuple[str, ...] = ()  # scenarios that were looked at and have nothing new


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch: sentences on what was done, who got it, and for each of the others why not."""

    lines: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


class Channel(Protocol):
    """A way to recipients."""

    name: str  # of the channel's sent logs; one word
    recipients: tuple[str, ...]  # names that give no secret away; the sent log is on disk
    dry_run: bool  # nothing is sent; `send` says what would be

    def send(self, batch: Batch) -> Sent:
        """Send a message to the recipients of a batch; it is not asked again for those who got it."""


def deliver(messages: Iterable[tuple[Result, ...]], channel: Channel, *, when: str, folder: Path) -> Iterator[str]:
    """Send messages, each of some results, to the channel's recipients; lines say what was done.

    ``when`` is ``always``, or ``changes``: to each recipient what is new since the last message, by the sent log in the
    folder.  ``DeliveryError``, after all others were reached, names who was not.
    """
    failures: list[str] = []
    for results in messages:
        if when == "always":
            sent = channel.send(Batch(channel.recipients, tuple((result, None) for result in results)))
            yield from sent.lines
            failures += sent.failures
        else:
            with nullcontext() if channel.dry_run else _lock(folder):
                yield from _deliver_changes(results, channel, folder, failures)
    if failures:
        raise DeliveryError("; ".join(failures))


def _deliver_changes(results: tuple[Result, ...], channel: Channel, folder: Path, failures: list[str]) -> Iterator[str]:
    logs = [SentLog(folder, channel.name, result.subject, watched=result.watched) for result in results]
    notified = {log.path: log.read() for log in logs}
    diffs, after = dict[str, list[NotificationDiff]](), dict[str, dict[Path, Notified]]()
    for recipient in channel.recipients:
        since = {path: recipients.get(recipient, NEVER_NOTIFIED) for path, recipients in notified.items()}
        diffs[recipient], after[recipient] = [], since
        for log, result in zip(logs, results, strict=True):
            diff = notification_diff(result, since[log.path])
            diffs[recipient].append(diff)
            since[log.path] = diff.after

    def record(recipients: Iterable[str]) -> None:
        for log in logs:
            new = notified[log.path] | {recipient: after[recipient][log.path] for recipient in recipients}
            if new != notified[log.path]:
                log.write(new)
                notified[log.path] = new

    groups: dict[tuple[object, ...], list[str]] = {}  # of recipients who get the same message
    for recipient, new in diffs.items():
        if any(new):
            groups.setdefault(tuple(diff.key for diff in new), []).append(recipient)
    if not groups:
        scenarios = ", ".join(shorten(result.subject) for result in results[:5]) + and_more(len(results) - 5)
        yield f"nothing new in {scenarios} since the last message: nothing sent"
    if not channel.dry_run:  # fail before anything is sent, where it could not be recorded
        for log in logs:
            log.write(notified[log.path])
    for recipients in groups.values():
        pairs = list(zip(results, diffs[recipients[0]], strict=True))
        quiet = tuple(result.subject for result, diff in pairs if not diff)
        sent = channel.send(Batch(tuple(recipients), tuple((result, diff) for result, diff in pairs if diff), quiet))
        yield from sent.lines
        failures += sent.failures
        if not channel.dry_run:
            record(sent.recipients)
    if not channel.dry_run:
        record(recipient for recipient, new in diffs.items() if not any(new))


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """No other process sends anything on any channel meanwhile, so that two at once do not send the same."""
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / SENT_FOLDER / "any"))
        except OSError as error:
            raise _unwritable(folder / SENT_FOLDER, error) from error
        yield


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: the sent log cannot be written: {error.strerror or error}")


class _SentDocument(msgspec.Struct, frozen=True, kw_only=True):
    scenario: str = ""
    readers: dict[str, Notified]


class SentLog:
    """What the recipients of a channel were notified of in a scenario: a file ``perfkit.told/1``.

    Comparisons of two builds and histories of a scenario are kept apart: they show different incidents.
    """

    def __init__(self, folder: Path, channel: str, scenario: str, *, watched: bool) -> None:
        mark = digest(f"{scenario}\n{'history' if watched else 'builds'}", 8)
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", scenario)[:40].strip("-")
        self.path = folder / SENT_FOLDER / f"{channel}-{name}-{mark}.json"
        self._scenario = scenario

    def read(self) -> dict[str, Notified]:
        """By recipient; empty where nothing was sent.  ``ReadError`` names a file that is no sent log."""
        try:
            plain = read_json(self.path)
            return decode(plain, _SentDocument, str(self.path), schema=SENT_SCHEMA, title="sent log").readers
        except FileNotFoundError:
            return {}
        except ReadError as error:
            raise ReadError(f"{error}; without it everything that is open is sent once more") from error

    def write(self, recipients: dict[str, Notified]) -> None:
        """Keep it; ``StoreError`` when that is not possible."""
        document = _SentDocument(scenario=self._scenario, readers=recipients)
        try:
            atomic_write(self.path, dump_json({"schema": SENT_SCHEMA, **encode(document)}))
        except OSError as error:
            raise _unwritable(self.path, error) from error


# What could not be sent


class StopSending(DeliveryError):
    """Something failed that would meet whatever else waits, too."""


class Unsent(msgspec.Struct, frozen=True, kw_only=True):
    """A message to GitHub that waits to be sent: the document ``perfkit.unsent/1``."""

    kind: str = ""
    repository: str = ""
    api: str = ""
    kept_at: Time
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outbox:
    """The messages of a kind (``issues``, ``comments``) that wait to be sent to a repository, each in a file.

    A message is kept before any of it is sent and removed once all of it was sent: a call that is cut off loses
    nothing, and the next call finds on the server what it had sent already.
    """

    folder: Path
    kind: str
    repository: str
    api: str

    def waiting(self) -> tuple[dict[Path, Unsent], tuple[str, ...]]:
        """The messages that wait, oldest first; and sentences about files that cannot be read, which stay."""
        messages, notes = {}, []
        for file in sorted(self._messages.glob("*.json")):
            try:
                messages[file] = self._read(file)
            except FileNotFoundError:  # another call has sent it
                continue
            except ReadError as error:
                notes.append(f"{error}; it is left there and not sent")
        return dict(sorted(messages.items(), key=lambda item: item[1].kept_at)), tuple(notes)

    def send(
        self,
        new: tuple[str, Mapping[str, Any]] | None,
        send: Callable[[Mapping[str, Any], str], bool],
        report: Callable[[str], None],
    ) -> None:
        """Send what waits, oldest first, then a new message: key, and content that replaces what waits under the key.

        ``send`` takes a content and the name of its file for errors, and says whether all of it is sent; after a
        `StopSending` the rest is not tried.  ``DeliveryError`` says what is kept for the next call.
        """
        file: Path | None = None
        if new is not None:
            key, content = new
            newest = Unsent(
                kind=self.kind,
                repository=self.repository,
                api=self.api,
                kept_at=datetime.now(UTC),
                content=dict(content),
            )
            file = self._messages / f"{digest(key)}.json"
            try:
                atomic_write(file, dump_json({"schema": UNSENT_SCHEMA, **encode(newest)}))
            except OSError as error:
                file = None
                reason = f"cannot be written ({error.strerror}): what cannot be sent now will not be sent later"
                report(f"{self.folder}: {reason}")
        messages, notes = self.waiting()
        for note in notes:
            report(note)
        queue: list[tuple[Path | None, Unsent]] = [pair for pair in messages.items() if pair[0] != file]
        queue += [(file, newest)] if new is not None else []
        errors: list[str] = []
        unsent = list(queue)
        for item in queue:
            path, message = item
            try:
                complete = send(message.content, str(path or self.folder))
            except DeliveryError as error:
                errors.append(str(error))
                if isinstance(error, StopSending):
                    break
                continue
            if complete:
                unsent.remove(item)
                # A newer one may have taken its place meanwhile
                with suppress(OSError, ReadError):
                    if path is not None and self._read(path).kept_at == message.kept_at:
                        path.unlink()
        if errors:
            lost = sum(path is None or not path.is_file() for path, _ in unsent)
            kept = f"What was not sent is kept in {self.folder} for the next call"
            if lost:
                kept = (
                    f"{lost} of {len(unsent)} that were not sent could not be kept in {self.folder} either: make room "
                    "there, and call again with the same results"
                )
            raise DeliveryError(f"{self.repository}: {'; '.join(dict.fromkeys(errors))}. {kept}")

    @property
    def _messages(self) -> Path:
        return self.folder / "github" / f"{self.kind}-{digest(f'{self.api} {self.repository}')}"

    @staticmethod
    def _read(file: Path) -> Unsent:
        return decode(read_json(file), Unsent, str(file), schema=UNSENT_SCHEMA, title="message")
