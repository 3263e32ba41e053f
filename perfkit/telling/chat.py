"""Results told in chats and to programs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.config import Settings
from perfkit.deliver import webhook
from perfkit.deliver.chat import Room
from perfkit.deliver.told import Memory
from perfkit.document import dump_json
from perfkit.errors import SettingsError
from perfkit.render.chat import chat_text, document_of
from perfkit.render.notice import Telling
from perfkit.settings_file import expand
from perfkit.telling.places import commits_of, link_template, report_link, report_place
from perfkit.telling.readers import Batch, read_results, tell


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """What the command line says of messages to chats; what it leaves empty is as the settings say."""

    urls: tuple[str, ...] = ()
    webhook: str = ""
    when: str = ""
    dry_run: bool = False
    repository: Path | None = None


def notify_results(paths: Sequence[str | Path], settings: Settings, order: ChatOrder) -> Iterator[str]:
    """Tell results in chats and to a webhook; each line says what was done, in a trial what would be said.

    Everything is read and checked before anything is sent.

    Raises
    ------
    DeliveryError
        A chat was not reached, after all others were; it names which and why.
    """
    results = read_results(paths)
    rooms = _Rooms(settings, order)
    units = [(one,) for one in results]
    yield from tell(units, rooms, order.when or settings.chat.when, Memory(settings.delivery, "chat"))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Somebody to tell: under which name people know it, and how."""

    name: str
    say: Callable[[Telling], str]
    shows: Callable[[Telling], str]


class _Rooms:
    """All chats and the webhook, each told by itself: what one does not take, the others get."""

    def __init__(self, settings: Settings, order: ChatOrder) -> None:
        self._order = order
        own = order.urls or order.webhook
        urls, hook = (order.urls, order.webhook) if own else (settings.chat.urls, settings.chat.webhook)
        self._link = link_template(settings.chat.link, "[chat]: link")
        self._readers = dict(_readers(urls, hook, "--url" if own else "[chat]: urls"))
        if not self._readers:
            raise SettingsError("[chat]: urls is missing: name chats or a webhook there, or say --url or --webhook")
        self.readers = tuple(self._readers)
        self.remembers = not order.dry_run
        self.reached: set[str] = set()
        self.failures: list[str] = []

    def deliver(self, batch: Batch) -> Iterator[str]:
        """Tell every reader, one by one."""
        ((result, news),) = batch.told
        place = report_place(result, report_link(result, self._link))
        telling = Telling(result, place, news, commits_of(result, self._order.repository))
        for key in batch.readers:
            reader = self._readers[key]
            if self._order.dry_run:
                yield f"{reader.name}, not sent:\n{reader.shows(telling)}"
                continue
            why = reader.say(telling)
            if why:
                self.failures.append(f"{reader.name} was not reached: {why}")
                continue
            self.reached.add(key)
            yield f"told {reader.name}: {chat_text(telling)[0]}"


def _readers(urls: Sequence[str], hook: str, place: str) -> Iterator[tuple[str, _Reader]]:
    """By a key that gives no secret away."""
    for number, text in enumerate(urls, start=1):
        room = Room(expand(text, place), number)
        yield room.key, _Reader(room.name, _to_room(room), lambda telling: "\n".join(chat_text(telling)))
    if hook:
        url = webhook.address(expand(hook, "[chat]: webhook"), "[chat]: webhook")
        key = f"webhook-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        yield key, _Reader(f"webhook {webhook.name_of(url)}", _to_hook(url), lambda telling: _json(telling).rstrip())


def _to_room(room: Room) -> Callable[[Telling], str]:
    def say(telling: Telling) -> str:
        return room.say(*chat_text(telling), telling.result.verdict)

    return say


def _to_hook(url: str) -> Callable[[Telling], str]:
    def say(telling: Telling) -> str:
        return webhook.post(url, document_of(telling))

    return say


def _json(telling: Telling) -> str:
    document: dict[str, Any] = dict(document_of(telling))
    return dump_json(document)
