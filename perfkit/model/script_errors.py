"""Errors of the load script itself: tasks that end by an exception, requests without a usable response time.

They are no failed requests, which Locust counts among the measurements.  Cheap to import, for the recorder counts them
inside Locust's process; they travel from workers to their master, and into the run folder, as JSON.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

LONGEST_MS = 24 * 3600 * 1000.0  # no load test waits longer for an answer; what is beyond is another unit, or a mistake
LONGEST_TEXT = 120  # characters of a message that are kept
_ID = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?:[\w-]{16,}|\d{5,})(?![\w-])")  # of a session, an order, a trace


@dataclass(frozen=True, slots=True)
class TaskException:
    """Exceptions of one kind."""

    raised_in: str  # ``task``, ``on_start``, ``on_stop``, ``listener``, ``load shape`` or ``greenlet``
    kind: str
    message: str  # of the first
    count: int
    after_failure: int = 0  # raised by a task whose request had failed

    def describe(self) -> str:
        """``AssertionError: wrong total``."""
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, slots=True)
class SkippedRequests:
    """Requests of one service that cannot be measured, and what is wrong with their response time."""

    service: str
    fault: str
    count: int


@dataclass(frozen=True, slots=True)
class ScriptErrors:
    """Tasks and users that were started, over all processes, and what went wrong; most frequent first."""

    tasks: int = 0
    users: int = 0
    exceptions: tuple[TaskException, ...] = ()
    skipped: tuple[SkippedRequests, ...] = ()


def time_fault(response_time_ms: float | None) -> str:
    """What is wrong with a response time that cannot be kept."""
    if response_time_ms is None:
        return "missing"
    if math.isnan(response_time_ms):
        return "not a number"
    if math.isinf(response_time_ms):
        return "infinite"
    return "negative" if response_time_ms < 0 else "over 24 h"


def short_text(text: str) -> str:
    """The first line of a message, without what identifies a session, an order or a person, and not too long.

    >>> short_text("order 20017734 of 3f2b8c9d-11aa-4b3e-9c55-0d1e2f3a4b5c: wrong total 42")
    'order … of …: wrong total 42'
    """
    line = next((line.strip() for line in text[:1000].splitlines() if line.strip()), "")
    line = _ID.sub("…", "".join(sign for sign in line if sign.isprintable()))
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def merged(parts: Iterable[ScriptErrors]) -> ScriptErrors:
    exceptions: dict[tuple[str, str], TaskException] = {}
    skipped: Counter[tuple[str, str]] = Counter()
    tasks = users = 0
    for part in parts:
        tasks, users = tasks + part.tasks, users + part.users
        for raised in part.exceptions:
            key = raised.raised_in, raised.kind
            first = exceptions.get(key, replace(raised, count=0, after_failure=0))
            exceptions[key] = replace(
                first,
                count=first.count + raised.count,
                after_failure=first.after_failure + raised.after_failure,
            )
        for requests in part.skipped:
            skipped[requests.service, requests.fault] += requests.count
    return ScriptErrors(
        tasks,
        users,
        tuple(sorted(exceptions.values(), key=lambda raised: -raised.count)),
        tuple(SkippedRequests(*key, count) for key, count in skipped.most_common()),
    )
