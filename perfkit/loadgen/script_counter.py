"""Counts the tasks of this Locust process, and what the load script gets wrong in them.

Locust raises an event for exceptions in tasks and in ``on_start``; those in listeners and in ``on_stop`` it only logs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import gevent
import locust
from locust import TaskSet, User, events

from perfkit.model.codec import encode
from perfkit.model.files import atomic_path
from perfkit.model.redaction import redact
from perfkit.model.script_errors import ScriptErrors, SkippedRequests, TaskException, short_text

LOCUST = str(Path(locust.__file__).parent) + os.sep
PERFKIT = str(Path(__file__).resolve().parents[1]) + os.sep
MOST_KINDS = 50  # of exceptions, and of services with skipped requests, that are counted apart
OTHERS = "(others)"
_UNCAUGHT = "Uncaught exception in "  # begins what Locust logs of a listener or an on_stop
_UNHANDLED = "Unhandled exception in greenlet"


class ScriptCounter:
    """Counts from the start of the process; one per process."""

    def __init__(self) -> None:
        self.tasks = self.users = 0
        self._exceptions: dict[tuple[str, str], TaskException] = {}
        self._skipped: Counter[tuple[str, str]] = Counter()

    def install(self) -> None:
        """Have Locust count from now on."""
        execute, start, hub = TaskSet.execute_next_task, User.start, gevent.get_hub()
        handle_error = hub.handle_error

        def execute_next_task(task_set: Any) -> None:
            queue = task_set._task_queue
            if not (queue and hasattr(queue[0], "tasks")):  # a nested TaskSet is no task, but its tasks are
                self.tasks += 1
                gevent.getcurrent().perfkit_request_failed = False
            execute(task_set)

        def start_user(user: Any, group: Any) -> Any:
            self.users += 1
            return start(user, group)

        def count_error(context: object, kind: Any, value: Any, tb: TracebackType | None) -> None:
            """Count what ends a user in its ``on_stop``, which nobody in Locust catches."""
            if isinstance(value, Exception) and any(code.co_name == "on_stop" for code in _codes(tb)):
                self.add("on_stop", value)
            handle_error(context, kind, value, tb)

        TaskSet.execute_next_task, User.start, hub.handle_error = execute_next_task, start_user, count_error
        events.user_error.add_listener(self.on_user_error)
        for logger in (logging.getLogger(), logging.getLogger("locust")):  # the second does not propagate to the first
            logger.addHandler(_UncaughtHandler(self.add))

    def skip(self, service: object, fault: str) -> None:
        """Count a request whose response time is of no use."""
        key = (redact(str(service)), fault)
        self._skipped[key if key in self._skipped or len(self._skipped) < MOST_KINDS else (OTHERS, fault)] += 1

    def add(self, raised_in: str, exception: BaseException, *, after_failure: bool = False) -> None:
        """Count an exception."""
        key = (raised_in, type(exception).__name__)
        if key not in self._exceptions and len(self._exceptions) >= MOST_KINDS:
            key = (raised_in, OTHERS)
        text = "".join(traceback.format_exception_only(exception))  # str() of the user's own class may fail
        message = short_text(redact(text.partition(": ")[2][:1000]))
        before = self._exceptions.get(key) or TaskException(*key, message, 0)
        after = before.after_failure + after_failure
        self._exceptions[key] = replace(before, count=before.count + 1, after_failure=after)

    def on_user_error(
        self, user_instance: object, exception: BaseException, tb: TracebackType | None, **_: object
    ) -> None:
        """Count what ended a task or an ``on_start``; a listener of Locust's ``events.user_error``."""
        names = {code.co_name for code in _codes(tb)}
        is_start = not isinstance(user_instance, TaskSet) or "on_start" in names
        failed = getattr(gevent.getcurrent(), "perfkit_request_failed", False)
        self.add("on_start" if is_start else "task", exception, after_failure=failed)

    def snapshot(self) -> ScriptErrors:
        """What was counted so far."""
        exceptions = sorted(self._exceptions.values(), key=lambda exception: -exception.count)
        skipped = (SkippedRequests(*key, count) for key, count in self._skipped.most_common())
        return ScriptErrors(self.tasks, self.users, tuple(exceptions), tuple(skipped))


def note_failure() -> None:
    """Remember, of the task that is running, that a request of it has failed."""
    gevent.getcurrent().perfkit_request_failed = True


def write(errors: ScriptErrors, path: Path) -> None:
    """Write whole or not at all: a process may be killed at any time; ``OSError`` when that cannot be done."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(encode(errors)), encoding="utf-8")


def _codes(tb: TracebackType | None) -> Iterable[Any]:
    while tb is not None:
        yield tb.tb_frame.f_code
        tb = tb.tb_next


class _UncaughtHandler(logging.Handler):
    """Hears of exceptions that Locust catches and logs, while they are being handled."""

    def __init__(self, add: Callable[[str, BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._add = add

    def emit(self, record: logging.LogRecord) -> None:
        text = str(record.msg)
        _, exception, tb = record.exc_info or sys.exc_info()
        if not isinstance(exception, Exception) or not text.startswith((_UNCAUGHT, _UNHANDLED)):
            return
        codes = list(_codes(tb))
        if all(code.co_filename.startswith((LOCUST, PERFKIT)) for code in codes):
            return  # not of the user's code
        is_shape = any(code.co_name == "tick" for code in codes)
        event = "load shape" if is_shape else "listener" if text.startswith(_UNCAUGHT) else "greenlet"
        self._add("on_stop" if text.startswith(f"{_UNCAUGHT}on_stop") else event, exception)
