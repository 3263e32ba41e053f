"""What a command could not read and went on without: collected where it is read, and named when the command ends.

No command has to think of it, so none can forget.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_collecting: list[dict[str, None]] = []  # the innermost command is the last


def leave_out(sentence: str) -> None:
    """Say what is left out, and why; nothing happens where nobody collects, as in a notebook."""
    if _collecting:
        _collecting[-1][sentence] = None


@contextmanager
def omissions() -> Iterator[dict[str, None]]:
    """The sentences of what is left out meanwhile, each once, in their order.

    >>> with omissions() as sentences:
    ...     leave_out("a.json is left out: not JSON")
    >>> list(sentences)
    ['a.json is left out: not JSON']
    """
    sentences: dict[str, None] = {}
    _collecting.append(sentences)
    try:
        yield sentences
    finally:
        _collecting.pop()
