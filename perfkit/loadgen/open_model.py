"""The open model inside Locust: tasks begin when they are due, whether or not earlier ones have been answered.

Locust's users become a pool: each waits for an arrival, runs one of its tasks for it, and waits again; ``wait_time`` is
not used.  When no user is free, more are started, up to a limit; arrivals beyond it wait for one, and are late.  One
arrival is one task: its first request counts from when the task was due, requests that follow from their own send.

Times of the schedule are of the monotonic clock, in seconds.
Stages of users are a shape of Locust (`ProfileShape`).
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import AsyncResult
from locust import LoadTestShape, TaskSet
from locust.exception import StopUser
from locust.runners import WorkerRunner
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from perfkit.loadgen.locust_command import arrival_times
from perfkit.model.records import LoadProfile

MOST_SPAWN_RATE = 100.0  # users per second: Locust warns of more
LATE_S = 0.010  # a start later than this is counted
GROWTH = 0.1  # share of the pool that is added at a time
READY_TIMEOUT_S = 10.0  # for the first users to be started; their logins may take their time


class ProfileShape(LoadTestShape):  # type: ignore[misc]  # Locust is not seen by the type check
    """Follows a `LoadProfile` of users, second by second."""

    def __init__(self, profile: LoadProfile) -> None:
        super().__init__()
        self.profile, self._users, self._pace = profile, 0, 1.0

    def tick(self) -> tuple[int, float] | None:
        """Users that are due now and the rate at which to get there; ``None`` at the end."""
        due = self.profile.level_at(self.get_run_time())
        if due is None:
            return None
        if (users := round(due)) != self._users:
            self._pace = self.profile.spawn_rate or min(max(abs(users - self._users), 1), MOST_SPAWN_RATE)
            self._users = users
        return users, self._pace


@dataclass(slots=True)
class Arrival:
    """One arrival: when it was due, and what to add to the monotonic clock for the time of day."""

    due_s: float
    clock_offset_s: float
    is_first: bool = True  # whether its first request is still to come


class Arrivals:
    """The schedule of this process, its pool of users, and what became of each arrival."""

    def __init__(self, profile: LoadProfile, environment: Any) -> None:
        self.profile, self.environment = profile, environment
        self.share = 1  # of so many processes this is one
        self.scheduled = self.started = self.late = self.in_flight = 0
        self.is_over = False
        self._idle: dict[type, deque[AsyncResult]] = {}
        self._waiting: dict[type, deque[float]] = {}
        self._random = random.Random()
        self._growing = False

    @property
    def waiting(self) -> int:
        """Arrivals that are due and have no user yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def pending(self) -> int:
        """Tasks that are under way, or wait for a user."""
        return self.in_flight + self.waiting

    def run(self, on_end: Callable[[], None]) -> None:
        """Keep to the schedule, from when the first users are ready; `on_end` is called after the last arrival."""
        runner = self.environment.runner
        index = max(runner.worker_index, 0)  # a worker knows its own once its master has started the run
        if isinstance(runner, WorkerRunner):
            self.share = max(self.environment.parsed_options.expect_workers, index + 1)
        classes = list(self.environment.user_classes)
        weights = [max(cls.fixed_count, cls.weight) for cls in classes]
        for cls in classes:
            self._idle[cls], self._waiting[cls] = deque(), deque()
        give_up = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < give_up:  # until the users that Locust started wait for arrivals
            idle = sum(map(len, self._idle.values()))
            if idle and idle >= runner.target_user_count:
                break
            gevent.sleep(0.05)
        origin = time.monotonic()
        poisson = self._random if self.profile.arrivals == "poisson" else None
        for at_s in arrival_times(self.profile.load_curve, share=self.share, index=index, poisson=poisson):
            due = origin + at_s
            gevent.sleep(max(due - time.monotonic(), 0.0))  # also when behind: users need their turn
            self.scheduled += 1
            user_class = self._random.choices(classes, weights)[0] if len(classes) > 1 else classes[0]
            if free := self._idle[user_class]:
                free.popleft().set(due)
                continue
            self._waiting[user_class].append(due)
            if not self._growing:
                self._growing = True
                gevent.spawn(self._grow, user_class)
        end = origin + sum(stage.duration_s for stage in self.profile.load_curve)
        gevent.sleep(max(end - time.monotonic(), 0.0))
        self.is_over = True
        on_end()

    def _grow(self, user_class: type) -> None:
        """Start more users, off the path of the arrivals."""
        try:
            runner = self.environment.runner
            here, limit = len(runner.user_greenlets), math.ceil((self.profile.max_in_flight or 1) / self.share)
            more = min(max(len(self._waiting[user_class]), math.ceil(GROWTH * here)), max(limit, 1) - here)
            if more > 0 and not self.is_over:
                runner.spawn_users({user_class.__name__: more})
        finally:
            self._growing = False

    def next_arrival(self, user: Any) -> Arrival:
        """Block until an arrival is there for this user; ``StopUser`` when it is to stop."""
        if user._state == LOCUST_STATE_STOPPING:
            raise StopUser
        if waiting := self._waiting.setdefault(type(user), deque()):
            due = waiting.popleft()
        else:
            call, idle = AsyncResult(), self._idle.setdefault(type(user), deque())
            idle.append(call)
            user._state = LOCUST_STATE_WAITING
            try:
                due = call.get()
            finally:
                if not call.ready() and call in idle:
                    idle.remove(call)
            if user._state == LOCUST_STATE_STOPPING:
                raise StopUser
            user._state = LOCUST_STATE_RUNNING
        now = time.monotonic()
        self.started += 1
        self.late += now - due > LATE_S
        self.in_flight += 1
        return Arrival(due, time.time() - now)


def current_arrival() -> Arrival | None:
    """The arrival that the running greenlet works for."""
    return getattr(gevent.getcurrent(), "perfkit_arrival", None)


def gate_tasks(arrivals: Arrivals) -> None:
    """Have every task of every user wait for its arrival; a nested TaskSet is no task itself, but its tasks are.

    What a task waits for itself is its own affair; between tasks the schedule says when to go on.
    """
    execute, wait = TaskSet.execute_next_task, TaskSet.wait

    def execute_next_task(task_set: Any) -> None:
        if hasattr(task_set._task_queue[0], "tasks"):  # a nested TaskSet
            execute(task_set)
            return
        here = gevent.getcurrent()
        here.perfkit_arrival = arrivals.next_arrival(task_set.user)
        try:
            execute(task_set)
        finally:
            here.perfkit_arrival = None
            arrivals.in_flight -= 1

    def wait_within_task(task_set: Any) -> None:
        if current_arrival() is not None:
            wait(task_set)
        elif task_set.user._state == LOCUST_STATE_STOPPING:
            raise StopUser

    TaskSet.execute_next_task, TaskSet.wait = execute_next_task, wait_within_task
