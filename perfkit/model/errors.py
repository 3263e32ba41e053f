"""The errors that perfkit raises on purpose, and what a command could not read and went on without.

::

    PerfkitError
    ├── ReadError            a file or folder could not be read
    │   ├── UnknownFormat    no reader recognises it
    │   └── NoEvent          no event of the history begins with that run
    ├── SettingsError        perfkit.toml or a policy file is wrong
    │   └── UnsetVariable    it names an environment variable that is not set
    ├── LoadError            load could not be run, or measured nothing
    │   └── LoadStopped      a signal stopped it
    ├── StoreError           a run could not be written or found
    │   └── NotStored        the store has no run or scenario of that name
    ├── HistoryError         change points or their commit could not be searched for
    ├── NotComparable        the two sides have nothing in common
    ├── RenderError          a notebook or a report failed
    ├── DeliveryError        a message could not be delivered
    └── MissingExtra         an optional package is not installed

Every message says where, what is wrong, and what to do.  A wrong *argument* is a plain ``ValueError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from perfkit.model.redaction import redact


class PerfkitError(Exception):
    """Anything perfkit reports to its user instead of a traceback; no secret is left in its text."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(item) if isinstance(item, str) else item for item in arguments))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows, as IPython asks for it: the sentence, not the calls that led to it."""
        return [f"{type(self).__name__}: {self}"]


class ReadError(PerfkitError):
    """A file was recognised but cannot be read; names file and line."""


class UnknownFormat(ReadError):
    """No reader recognises the path."""


class NoEvent(ReadError):
    """No event of a history begins with the run that was named; names the nearest."""


class SettingsError(PerfkitError):
    """A settings or policy file is wrong; names file and key."""


class UnsetVariable(SettingsError):
    """Settings name an environment variable that is not set here."""


class LoadError(PerfkitError):
    """Load could not be started or measured nothing."""


class LoadStopped(LoadError):
    """Load was stopped by a signal to this process before there was anything to judge."""


class StoreError(PerfkitError):
    """A run could not be written to or found in a store."""


class NotStored(StoreError):
    """A store has no run, or no scenario, of the name that was given; names the nearest."""


class HistoryError(PerfkitError):
    """The change points of a history, or the commit that they come of, could not be searched for."""


class NotComparable(PerfkitError):
    """There is nothing that both sides have in common."""


class RenderError(PerfkitError):
    """A notebook failed or a report could not be written."""


class DeliveryError(PerfkitError):
    """A message could not be delivered; names the server or the recipient, never a secret."""


class MissingExtra(PerfkitError):
    """An optional dependency is missing; names the extra that brings it."""


@contextmanager
def refusals(text: str, kind: type[PerfkitError] = StoreError) -> Iterator[None]:
    """What the system refuses meanwhile is an error of perfkit: the text, and the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{text}: {error.strerror or error}") from error


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of the choices, or nothing when none is near."""
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def what_there_is(word: str, choices: Iterable[str], otherwise: str = "") -> str:
    """`` (did you mean 'x'?); there are x, y``, or ``otherwise`` where there are no choices."""
    names = list(choices)
    return f"{did_you_mean(word, names)}; there are {', '.join(names)}" if names else otherwise


_ACTIVITY = "perfkit: while "


class Activity:
    """What is being done, and on what: a note on every exception that passes and is not perfkit's own.

    >>> try:
    ...     with Activity("reading a.json"):
    ...         {}["p95"]
    ... except KeyError as error:
    ...     activities_of(error)
    ('while reading a.json',)
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not isinstance(error, PerfkitError):
            error.add_note(f"{_ACTIVITY}{self._text}")


def activities_of(error: BaseException) -> tuple[str, ...]:
    """The activities during which an exception was raised, innermost first."""
    notes: list[str] = getattr(error, "__notes__", [])
    return tuple(note.removeprefix("perfkit: ") for note in notes if note.startswith(_ACTIVITY))


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
