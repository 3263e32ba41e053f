"""Who is told what: the results of a call, what is new in them for each reader, and who was reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perfkit.deliver.told import Memory
from perfkit.errors import DeliveryError
from perfkit.news import News
from perfkit.render.theme import shorten
from perfkit.results import Result, read_result


def read_results(paths: Sequence[str | Path]) -> tuple[Result, ...]:
    """Each result once, however often it is named."""
    read = [read_result(path) for path in paths]
    return tuple({Path(one.place).resolve(): one for one in read}.values())


@dataclass(frozen=True, slots=True)
class Batch:
    """The same message for several readers; ``news`` is parallel to the results, ``None`` where all is told."""

    readers: tuple[str, ...]
    results: tuple[Result, ...]
    news: tuple[News, ...] | None

    @property
    def told(self) -> tuple[tuple[Result, News | None], ...]:
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
