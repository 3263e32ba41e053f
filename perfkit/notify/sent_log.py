"""The sent log: what each recipient was notified of, so that nobody gets the same message twice.

`notify_recipients` sends results through a channel, to each recipient what is new since the last message, and records
it for those who got it.  The log is a small file per channel, scenario and kind of result below ``Settings.delivery``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from perfkit.history.incidents import (
    MissingService,
    NotificationDiff,
    Notified,
    NotifiedIncident,
    Result,
    notification_diff,
)
from perfkit.model.codec import decode, dump_json, read_json
from perfkit.model.errors import DeliveryError, ReadError, StoreError
from perfkit.model.files import atomic_write, file_lock
from perfkit.report.formatting import shorten

SCHEMA = "perfkit.told/1"
FOLDER = "told"  # as 0.1.0 named it


class _Entry(msgspec.Struct, frozen=True):
    """A `Notified`, none of whose fields may be absent from a file."""

    open: tuple[NotifiedIncident, ...]
    over: tuple[NotifiedIncident, ...]
    invalid: bool
    missing: tuple[MissingService, ...] = ()  # 0.1.0 did not keep it


class _Document(msgspec.Struct, frozen=True):
    readers: dict[str, _Entry]


class SentLogFile:
    """What the recipients of a channel were notified of in a scenario, by a name that gives no secret away.

    Comparisons of two builds and histories of a scenario are kept apart: they show different incidents.
    """

    def __init__(self, folder: Path, channel: str, scenario: str, *, watched: bool) -> None:
        kind = "history" if watched else "builds"
        mark = hashlib.sha256(f"{scenario}\n{kind}".encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", scenario)[:40].strip("-")
        self.path = folder / FOLDER / f"{channel}-{name}-{mark}.json"
        self._scenario = scenario

    def read(self) -> dict[str, Notified]:
        """By recipient; empty where nothing was sent.  ``ReadError`` names a file that is no sent log."""
        try:
            document = decode(read_json(self.path), _Document, str(self.path), schema=SCHEMA, title="sent log")
        except FileNotFoundError:
            return {}
        except ReadError as error:
            raise ReadError(f"{error}; without it everything that is open is sent once more") from error
        return {name: Notified(**msgspec.structs.asdict(entry)) for name, entry in document.readers.items()}

    def write(self, recipients: Mapping[str, Notified]) -> None:
        """Keep it; ``StoreError`` when that is not possible."""
        readers = msgspec.to_builtins(dict(recipients))
        try:
            atomic_write(self.path, dump_json({"schema": SCHEMA, "scenario": self._scenario, "readers": readers}))
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: the sent log cannot be written: {error.strerror or error}")


class SentLog:
    """What the recipients of one channel were notified of, over all scenarios."""

    def __init__(self, folder: Path, channel: str) -> None:
        self._folder, self._channel = folder, channel
        self._read: dict[Path, dict[str, Notified]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process sends anything on any channel meanwhile, so that two at once do not send the same."""
        with ExitStack() as held:
            try:
                held.enter_context(file_lock(self._folder / FOLDER / "any"))
            except OSError as error:
                raise _unwritable(self._folder / FOLDER, error) from error
            self._read.clear()
            yield

    def diffs(self, recipient: str, results: Sequence[Result]) -> tuple[NotificationDiff, ...]:
        """What is new for a recipient in each of these results, which are sent in this order."""
        found, since = [], dict[Path, Notified]()
        for result in results:
            file, recipients = self._file(result)
            diff = notification_diff(result, since.get(file.path) or recipients.get(recipient, Notified()))
            since[file.path] = diff.after
            found.append(diff)
        return tuple(found)

    def check_writable(self, results: Sequence[Result]) -> None:
        """Fail now, before anything is sent, where it could not be recorded."""
        for result in results:
            file, recipients = self._file(result)
            file.write(recipients)

    def record(self, recipient: str, results: Sequence[Result], diffs: Sequence[NotificationDiff]) -> None:
        """A recipient got these results."""
        for result, diff in zip(results, diffs, strict=True):
            file, recipients = self._file(result)
            if recipients.get(recipient) != diff.after:
                recipients[recipient] = diff.after
                file.write(recipients)

    def _file(self, result: Result) -> tuple[SentLogFile, dict[str, Notified]]:
        """The file for a result, and what it holds."""
        file = SentLogFile(self._folder, self._channel, result.scenario, watched=result.watched)
        if file.path not in self._read:
            self._read[file.path] = file.read()
        return file, self._read[file.path]


@dataclass(frozen=True, slots=True)
class Batch:
    """One message for several recipients; ``diffs`` is parallel to the results, ``None`` where all of them is sent."""

    recipients: tuple[str, ...]
    results: tuple[Result, ...]
    diffs: tuple[NotificationDiff, ...] | None

    @property
    def contents(self) -> tuple[tuple[Result, NotificationDiff | None], ...]:
        """The results that the message is about: those with anything new."""
        diffs = self.diffs or [None] * len(self.results)
        pairs = zip(self.results, diffs, strict=True)
        return tuple((result, diff) for result, diff in pairs if diff is None or diff)


class Channel(Protocol):
    """A way to recipients; ``failures`` say who was not reached and why, ``reached`` who was."""

    recipients: tuple[str, ...]
    dry_run: bool
    reached: set[str]
    failures: list[str]

    def send(self, batch: Batch) -> Iterator[str]: ...


def notify_recipients(
    messages: Sequence[tuple[Result, ...]], channel: Channel, when: str, log: SentLog
) -> Iterator[str]:
    """Send each message to the channel's recipients; lines say what was done.

    Parameters
    ----------
    messages
        The results that go into one message each.
    when
        ``always``, or ``changes``: to each recipient what is new since the last message.

    Raises
    ------
    DeliveryError
        A recipient was not reached, after all others were.
    """
    for results in messages:
        if when == "always":
            yield from channel.send(Batch(channel.recipients, results, None))
        else:
            with nullcontext() if channel.dry_run else log.locked():
                yield from _send_changes(results, channel, log)
    if channel.failures:
        raise DeliveryError("; ".join(channel.failures))


def _send_changes(results: tuple[Result, ...], channel: Channel, log: SentLog) -> Iterator[str]:
    diffs = {recipient: log.diffs(recipient, results) for recipient in channel.recipients}
    groups: dict[tuple[object, ...], list[str]] = {}  # of recipients who get the same message
    for recipient, new in diffs.items():
        if any(new):
            groups.setdefault(tuple(diff.key for diff in new), []).append(recipient)
    if not groups:
        names = [shorten(result.scenario) for result in results]
        scenarios = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield f"nothing new in {scenarios} since the last message: nothing sent"
    if not channel.dry_run:
        log.check_writable(results)
    channel.reached.clear()
    for recipients in groups.values():
        yield from channel.send(Batch(tuple(recipients), results, diffs[recipients[0]]))
        for recipient in recipients:
            if recipient in channel.reached and not channel.dry_run:
                log.record(recipient, results, diffs[recipient])
    for recipient, new in diffs.items():
        if not any(new) and not channel.dry_run:
            log.record(recipient, results, new)
