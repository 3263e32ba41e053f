"""What was told to whom, so that nobody is told twice: one small file per channel and scenario.

The files lie in ``Settings.delivery``; each appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from perfkit.codec import decode, read_json
from perfkit.document import dump_json
from perfkit.errors import ReadError, StoreError
from perfkit.news import Known, News, Told, news_of
from perfkit.results import MissingService, Result
from perfkit.whole_file import alone, write_whole

SCHEMA = "perfkit.told/1"
_WITHOUT = "without it everything that holds is told once more"


class _Known(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    headline: str

    def known(self) -> Known:
        return Known(self.names, self.headline)


class _Told(msgspec.Struct, frozen=True):
    open: tuple[_Known, ...]
    over: tuple[_Known, ...]
    invalid: bool
    missing: tuple[MissingService, ...] = ()  # 0.1.0 did not keep it

    def told(self) -> Told:
        is_open, over = (tuple(one.known() for one in group) for group in (self.open, self.over))
        return Told(is_open, over, self.invalid, self.missing)


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

    def read(self) -> dict[str, Told]:
        """By reader; empty where nothing was told.  ``ReadError`` names the file when it is none of ours."""
        try:
            plain = read_json(self.path)
            document = decode(plain, _Document, str(self.path), schema=SCHEMA, title="sent log")
            return {name: told.told() for name, told in document.readers.items()}
        except FileNotFoundError:
            return {}
        except ReadError as error:
            raise ReadError(f"{error}; {_WITHOUT}") from error

    def write(self, readers: Mapping[str, Told]) -> None:
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
        self._known: dict[Path, dict[str, Told]] = {}

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

    def news(self, reader: str, results: Sequence[Result]) -> tuple[News, ...]:
        """What is new for a reader in each of these results, told in this order; what one says, the next need not."""
        found, since = [], dict[Path, Told]()
        for result in results:
            file = self._file(result)
            news = news_of(result, since.get(file.path) or self._readers(file).get(reader, Told()))
            since[file.path] = news.after
            found.append(news)
        return tuple(found)

    def prepare(self, results: Sequence[Result]) -> None:
        """Fail now, before anything is sent, where it could not be remembered."""
        for file in map(self._file, results):
            file.write(self._readers(file))

    def remember(self, reader: str, results: Sequence[Result], news: Sequence[News]) -> None:
        """A reader knows these results now."""
        for result, one in zip(results, news, strict=True):
            file = self._file(result)
            readers = self._readers(file)
            if readers.get(reader) != one.after:
                readers[reader] = one.after
                file.write(readers)

    def _file(self, result: Result) -> ToldFile:
        return ToldFile(self._folder, self._channel, result.scenario, watched=result.watched)

    def _readers(self, file: ToldFile) -> dict[str, Told]:
        if file.path not in self._known:
            self._known[file.path] = file.read()
        return self._known[file.path]
