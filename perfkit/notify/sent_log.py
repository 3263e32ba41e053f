"""What was told to whom, so that nobody is told twice: one small file per channel and scenario.

The files lie in ``Settings.delivery``; each appears whole or not at all.

Messages to servers: e-mail, GitHub, chat; what was told already, and what could not be sent yet.

GitHub: issues that follow worsenings, and the comment of a pull request.

Results told by e-mail and chat: to whom, what is new for each of them, and who got it.

Where the report of a result is, for those who read a message about it, and which commits lie behind its events.

Who is told what: the results of a call, what is new in them for each reader, and who was reached.
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
from perfkit.model.files import alone, write_whole
from perfkit.report.formatting import shorten

SCHEMA = "perfkit.told/1"
_WITHOUT = "without it everything that holds is told once more"


class _Known(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    headline: str

    def known(self) -> NotifiedIncident:
        return NotifiedIncident(self.names, self.headline)


class _Told(msgspec.Struct, frozen=True):
    open: tuple[_Known, ...]
    over: tuple[_Known, ...]
    invalid: bool
    missing: tuple[MissingService, ...] = ()  # 0.1.0 did not keep it

    def told(self) -> Notified:
        is_open, over = (tuple(one.known() for one in group) for group in (self.open, self.over))
        return Notified(is_open, over, self.invalid, self.missing)


class _Document(msgspec.Struct, frozen=True):
    readers: dict[str, _Told]


class ToldFile:
    """What the readers of a channel know of a scenario, by a name for each reader that gives no secret away.

    Comparisons of two builds and histories of a scenario are kept apart: they know different things.
    """

    def __init__(self, folder: Path, channel: str, scenario: str, *, watched: bool) -> None:
        kind = "history" if watched else "builds"
        mark = hashlib.sha256(f"{scenario}\n{kind}".encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", scenario)[:40].strip("-")
        self.path = folder / "told" / f"{channel}-{name}-{mark}.json"
        self._scenario = scenario

    def read(self) -> dict[str, Notified]:
        """By reader; empty where nothing was told.  ``ReadError`` names the file when it is none of ours."""
        try:
            plain = read_json(self.path)
            document = decode(plain, _Document, str(self.path), schema=SCHEMA, title="sent log")
            return {name: told.told() for name, told in document.readers.items()}
        except FileNotFoundError:
            return {}
        except ReadError as error:
            raise ReadError(f"{error}; {_WITHOUT}") from error

    def write(self, readers: Mapping[str, Notified]) -> None:
        """Remember; ``StoreError`` when it cannot be kept."""
        document = {
            "schema": SCHEMA,
            "scenario": self._scenario,
            "readers": {name: told.to_dict() for name, told in readers.items()},
        }
        try:
            write_whole(self.path, dump_json(document))
        except OSError as error:
            raise StoreError(f"{self.path}: what was told cannot be remembered: {error.strerror or error}") from error


class Memory:
    """What the readers of one channel know, over all scenarios."""

    def __init__(self, folder: Path, channel: str) -> None:
        self._folder, self._channel = folder, channel
        self._known: dict[Path, dict[str, Notified]] = {}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts no other process tells anything on any channel, so that two at once do not tell it twice."""
        with ExitStack() as held:
            try:
                held.enter_context(alone(self._folder / "told" / "any"))
            except OSError as error:
                place = self._folder / "told"
                raise StoreError(f"{place}: what was told cannot be remembered: {error.strerror or error}") from error
            self._known.clear()
            yield

    def news(self, reader: str, results: Sequence[Result]) -> tuple[NotificationDiff, ...]:
        """What is new for a reader in each of these results, told in this order; what one says, the next need not."""
        found, since = [], dict[Path, Notified]()
        for result in results:
            file = self._file(result)
            news = notification_diff(result, since.get(file.path) or self._readers(file).get(reader, Notified()))
            since[file.path] = news.after
            found.append(news)
        return tuple(found)

    def prepare(self, results: Sequence[Result]) -> None:
        """Fail now, before anything is sent, where it could not be remembered."""
        for file in map(self._file, results):
            file.write(self._readers(file))

    def remember(self, reader: str, results: Sequence[Result], news: Sequence[NotificationDiff]) -> None:
        """A reader knows these results now."""
        for result, one in zip(results, news, strict=True):
            file = self._file(result)
            readers = self._readers(file)
            if readers.get(reader) != one.after:
                readers[reader] = one.after
                file.write(readers)

    def _file(self, result: Result) -> ToldFile:
        return ToldFile(self._folder, self._channel, result.scenario, watched=result.watched)

    def _readers(self, file: ToldFile) -> dict[str, Notified]:
        if file.path not in self._known:
            self._known[file.path] = file.read()
        return self._known[file.path]


@dataclass(frozen=True, slots=True)
class Batch:
    """The same message for several readers; ``news`` is parallel to the results, ``None`` where all is told."""

    readers: tuple[str, ...]
    results: tuple[Result, ...]
    news: tuple[NotificationDiff, ...] | None

    @property
    def told(self) -> tuple[tuple[Result, NotificationDiff | None], ...]:
        """The results of which there is something to tell."""
        news = self.news or [None] * len(self.results)
        return tuple((one, new) for one, new in zip(self.results, news, strict=True) if new is None or new)


class Channel(Protocol):
    """A way to readers.  ``failures`` say who was not reached and why; a trial is not to be remembered."""

    readers: tuple[str, ...]
    remembers: bool
    reached: set[str]
    failures: list[str]

    def deliver(self, batch: Batch) -> Iterator[str]: ...


def tell(units: Sequence[tuple[Result, ...]], channel: Channel, when: str, memory: Memory) -> Iterator[str]:
    for unit in units:
        if when == "always":
            yield from channel.deliver(Batch(channel.readers, unit, None))
        else:
            with memory.alone() if channel.remembers else nullcontext():
                yield from _changes(unit, channel, memory)
    if channel.failures:
        raise DeliveryError("; ".join(channel.failures))


def _changes(unit: tuple[Result, ...], channel: Channel, memory: Memory) -> Iterator[str]:
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
        yield from channel.deliver(Batch(tuple(same), unit, every[same[0]]))
        for reader in same if channel.remembers else ():
            if reader in channel.reached:
                memory.remember(reader, unit, every[reader])
    for reader, news in every.items() if channel.remembers else ():
        if not any(news):
            memory.remember(reader, unit, news)


def _names(results: Sequence[Result]) -> str:
    names = [shorten(one.scenario) for one in results]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
