"""Standard output and standard error of the command: of any encoding, closed, full, or without a reader.

What a stream cannot hold never decides the exit code: symbols are replaced by what its encoding has.
"""

from __future__ import annotations

import codecs
import io
import os
import unicodedata
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

RECENT = 1_000_000  # characters of its output that a stream remembers
ERRORS = "perfkit.symbols"  # the error handler, as `codecs` names it
_SYMBOLS = {
    **{"✓": "ok", "✗": "x", "⊘": "-", "★": "*", "→": "->", "±": "+/-", "∞": "inf", "≤": "<=", "≥": ">=", "×": "x"},
    **{"·": "-", "•": "*", "…": "...", "–": "-", "—": "-", "−": "-", "‹": "<", "›": ">", "∼": "~", "∗": "*"},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "„": '"'},
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True)),
}
_BOX = {"HORIZONTAL": "-", "VERTICAL": "|"}


def plain_symbols(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec error handler: what cannot be encoded becomes ASCII that reads alike, or ``?``.

    >>> "p95 ✗ +∞ %".encode("ascii", ERRORS)
    b'p95 x +inf %'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(symbol: str) -> str:
    if symbol in _SYMBOLS:
        return _SYMBOLS[symbol]
    name = unicodedata.name(symbol, "")
    if name.startswith("BOX DRAWINGS"):
        return _BOX.get(name.split()[-1], "+")
    return unicodedata.normalize("NFKD", symbol).encode("ascii", "ignore").decode() or "?"


codecs.register_error(ERRORS, plain_symbols)


def open_descriptors() -> None:
    """Open what the caller closed of the three standard descriptors: the next file opened would get its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


class Output(io.TextIOBase):
    """A standard stream that keeps the command going whatever becomes of it: the exit code still counts.

    A ``stream`` that is closed is ``None``.  One that cannot be written (a full disk) is an error where it is
    ``required``; one whose reader has gone (head, less) never is.
    """

    def __init__(self, stream: TextIO | None, *, required: bool) -> None:
        self._stream = stream
        self._required = required
        self.refusal: OSError | None = None  # why it could not be written
        self._recent: deque[str] = deque()
        self._room = RECENT
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)

    def holds(self, sentence: str) -> bool:
        """Whether a sentence stands in what was written lately, however its lines are broken."""
        return "".join(sentence.split()) in "".join("".join(self._recent).split())

    def write(self, text: str) -> int:
        self._recent.append(text)
        self._room -= len(text)
        while self._room < 0:
            self._room += len(self._recent.popleft())
        self._do(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._do(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding if self._stream is not None else "utf-8"

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _do(self, action: Callable[[TextIO], Any]) -> None:
        if self._stream is None:
            return
        try:
            action(self._stream)
        except OSError as error:
            self._abandon(self._stream)
            if self._required and not isinstance(error, BrokenPipeError):
                self.refusal = error
                raise

    def _abandon(self, stream: TextIO) -> None:
        """Write no more; what is still in its buffer goes nowhere, or the interpreter would complain while it ends."""
        self._stream = None
        with suppress(OSError):  # it has no descriptor
            number = stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
