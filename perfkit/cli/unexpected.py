"""An exception that nobody foresaw: one sentence for the user, the traceback in a log file."""

from __future__ import annotations

import os
import platform
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from perfkit.model.errors import activities_of
from perfkit.model.redaction import redact
from perfkit.report.formatting import clean, shorten

DEBUG = "PERFKIT_DEBUG"
MOST_TEXT = 300  # characters of an exception's own message
_TRACKERS = ("issues", "bug tracker", "tracker", "bugs")


def report_unexpected(error: BaseException, argv: Sequence[str]) -> str:
    """What to tell about an exception that is no `PerfkitError`; its traceback is kept in a file that the text names.

    The file is readable by its owner only.  It holds source lines and messages without secrets, neither values of
    variables, nor the environment, nor the words of the command line.  With ``PERFKIT_DEBUG`` set the
    text has the traceback itself.
    """
    details = redact("".join(traceback.format_exception(error)))
    sentence = f"perfkit: {_activity(error, argv)}: {_reason(error)}"
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        return f"{details}{sentence}\n"
    return f"{sentence}\n  {_kept(details)} {where_to_report()}\n"


def _activity(error: BaseException, argv: Sequence[str]) -> str:
    """What was being done, on which file: the innermost activity, else the files among the words of the command."""
    done = activities_of(error)
    if done:
        return shorten(done[0], MOST_TEXT)
    command = next((word for word in argv if not word.startswith("-")), "")
    files = []
    for word in argv:
        with suppress(OSError, ValueError):  # it is too long, or has a null character
            if word != command and not word.startswith("-") and Path(word).exists():
                files.append(clean(word))
    files = list(dict.fromkeys(files))
    return " ".join(
        ["while running", f"perfkit {clean(command)}".strip(), *(["on", ", ".join(files[:3])] if files else [])]
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory. Give this machine more memory, or the command fewer and smaller runs."
    if isinstance(error, OSError) and error.strerror:
        file = f"{clean(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        return f"{file}{error.strerror}"
    text = shorten(str(error), MOST_TEXT)
    return f"unexpected error in perfkit ({type(error).__name__}{': ' if text else ''}{text})"


def _kept(details: str) -> str:
    head = f"perfkit {metadata.version('perfkit')}, Python {platform.python_version()}, {platform.platform()}\n"
    try:
        number, name = tempfile.mkstemp(prefix=f"perfkit-error-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(head + details)
    except OSError as problem:
        return f"The traceback could not be kept ({problem.strerror}); {DEBUG}=1 shows it."
    return f"The traceback is in {name} ({DEBUG}=1 shows it here)."


def where_to_report() -> str:
    """Where to report a fault: the issue tracker that this installation names, if it names one."""
    links = [text.partition(", ") for text in metadata.metadata("perfkit").get_all("Project-URL") or []]
    tracker = next((url for label, _, url in links if label.lower() in _TRACKERS), None)
    to = tracker if tracker is not None else "the maintainers of your copy of perfkit"
    return f"Please report it, with that file, to {to}."
