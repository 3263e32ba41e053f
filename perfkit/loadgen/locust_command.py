"""What Locust is asked to do: its command line and environment, a master's workers, and the settings it must not read.

What a run does is set by perfkit's settings and options alone: a variable ``LOCUST_*`` of the shell, a ``locust.conf``
or ``[tool.locust]`` of a ``pyproject.toml`` must neither change the load nor turn Locust into a worker that waits for
ever.  A locustfile's own arguments may still come from there, and so may what changes no load.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.model.codec import encode
from perfkit.model.records import Stage

if TYPE_CHECKING:
    from perfkit.config.settings import Scenario

RECORDER = Path(__file__).with_name("recorder.py")  # not imported: importing Locust patches the standard library
RECORDING_NAME = "requests.arrow"
STOP_TIMEOUT_S = 5  # requests in flight at the end may finish: those that would be cut off are the slow ones
ORDERLY_END_S = 10.0  # from SIGINT to SIGTERM; longer than STOP_TIMEOUT_S
WORKERS_WAIT_S = 120
LEAST_USERS, FIRST_USERS_S = 10, 0.25  # of the open model's pool: enough for responses within a quarter of a second
ARRIVALS_MARGIN_S = 30.0  # the arrivals themselves end the run; this is for when they cannot
KEPT = ("loglevel", "otel", "html_file", "json_file", "config_users")  # by the names of Locust's options
# Read before the recorder is loaded, or not by the parser at all; the host is perfkit's own to set, which hides it so
EARLY = (
    "LOCUST_HOST",
    "LOCUST_LOCUSTFILE",
    "LOCUST_MODE_MASTER",
    "LOCUST_MODE_WORKER",
    "LOCUST_MASTER_NODE_HOST",
    "LOCUST_MASTER_NODE_PORT",
    "LOCUST_SKIP_MONKEY_PATCH",  # without it one user at a time would run
    "LOCUST_USER_CLASSES",
)
IGNORED: dict[str, None] = {}  # what was set and had no effect, in this process


def without_locust_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of this process for one of Locust."""
    return {name: value for name, value in environment.items() if name not in EARLY}


def ignored_locust_settings(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that `without_locust_settings` takes out."""
    return tuple(name for name in EARLY if environment.get(name))


def on_parser(parser: Any, **_: object) -> None:
    """Let Locust's own options come from the command line only; a listener of ``events.init_command_line_parser``.

    It must be the first listener: the options that are there already are Locust's own.
    """
    keys: set[str] = set()
    for action in parser._actions:
        if action.dest in KEPT:
            continue
        keys.update(parser.get_possible_config_keys(action))
        if (variable := getattr(action, "env_var", None)) and variable not in EARLY:
            action.env_var = None
            if os.environ.get(variable):
                IGNORED[variable] = None
    parse_file = parser._config_file_parser.parse

    def parse_others_settings(stream: Any) -> dict[str, Any]:
        settings: dict[str, Any] = dict(parse_file(stream))
        for key in sorted(keys & settings.keys()):
            IGNORED[f"{key} in {getattr(stream, 'name', 'a configuration file')}"] = None
            del settings[key]
        return settings

    parser._config_file_parser.parse = parse_others_settings
    parser.allow_abbrev = False  # --user is no --users, which would be refused


def locust_argv(locustfile: Path | str, *options: str) -> list[str]:
    """Locust's command line; -P keeps a ``locust.py`` in the current folder from being taken for Locust."""
    return [sys.executable, "-P", "-m", "locust", "-f", f"{RECORDER},{locustfile}", *options]


def start_locust(
    locustfile: Path, options: Sequence[str], variables: Mapping[str, str], output_fd: int, progress_fd: int
) -> subprocess.Popen[bytes]:
    """Start Locust in a session of its own; its recorder reports to `progress_fd`."""
    return subprocess.Popen(
        locust_argv(locustfile, *options),
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=output_fd,
        env={**without_locust_settings(os.environ), **variables, "PERFKIT_PROGRESS_FD": str(progress_fd)},
        pass_fds=(progress_fd,),
        start_new_session=True,
    )


@dataclass(frozen=True, slots=True)
class Distribution:
    """A master and its workers."""

    workers: int  # how many there are, at least 1; the load begins when all of them are there
    local: bool = True  # whether they are started here; else they come from elsewhere, within `WORKERS_WAIT_S`
    bind_host: str = "127.0.0.1"  # where the master listens for them
    bind_port: int = 5557  # 0: one that is free


@dataclass(frozen=True, slots=True)
class LocustCommand:
    """What Locust is asked to do; the recording goes to ``folder/requests.arrow``, all else to ``folder/source``.

    What the scenario leaves open is left to the locustfile (a ``LoadTestShape``, a host of its own) or to Locust.
    """

    scenario: Scenario
    folder: Path
    distribution: Distribution | None = None  # None: one process does all

    @property
    def follows_profile(self) -> bool:
        """Whether the recorder has Locust follow the load profile: arrivals, or stages of users."""
        return self.scenario.profile.is_open or self.scenario.profile.kind in ("stages", "spike")

    @property
    def planned_s(self) -> float | None:
        """How long the load shall last, in whole seconds where Locust counts them; None: the locustfile decides."""
        duration_s = self.scenario.profile.duration_s
        return duration_s if duration_s is None or self.follows_profile else math.ceil(duration_s)

    @property
    def recording(self) -> Path:
        return self.folder / RECORDING_NAME

    @property
    def log(self) -> Path:
        return self.folder / "source" / "locust.log"

    def options(self) -> list[str]:
        profile = self.scenario.profile
        users, spawn_rate, duration_s = profile.users, profile.spawn_rate, self.planned_s
        if profile.is_open:  # the pool to begin with; more users come when they are needed
            pool = max(LEAST_USERS, math.ceil((profile.rate or 0.0) * FIRST_USERS_S))
            users = min(pool, profile.max_in_flight or pool)
            spawn_rate, duration_s = float(users), math.ceil((duration_s or 0.0) + ARRIVALS_MARGIN_S)
        elif self.follows_profile:
            users = spawn_rate = duration_s = None
        load = (("-u", users), ("-r", spawn_rate), ("-t", duration_s))
        words = [word for option, value in load if value is not None for word in (option, str(value))]
        for option, tags in (("--tags", self.scenario.tags), ("--exclude-tags", self.scenario.exclude_tags)):
            words += [option, *tags] if tags else []
        if (workers := self.distribution) is not None:
            wait = ("--expect-workers", str(workers.workers), "--expect-workers-max-wait", str(WORKERS_WAIT_S))
            address = ("--master-bind-host", workers.bind_host, "--master-bind-port", str(workers.bind_port))
            words += ["--master", *wait, *address]
        words += ["--headless", "--only-summary", "--exit-code-on-error", "0", "--stop-timeout", str(STOP_TIMEOUT_S)]
        return [*words, "--csv", str(self.folder.absolute() / "source" / "locust"), *self.scenario.arguments]

    def variables(self) -> dict[str, str]:
        variables = {"PERFKIT_RUN_FOLDER": str(self.folder.absolute())}
        if self.distribution is not None and self.distribution.local:
            variables["PERFKIT_LOCAL_WORKERS"] = str(self.distribution.workers)
            variables["PERFKIT_ARGUMENTS"] = json.dumps(self.scenario.arguments)
        if self.follows_profile:
            variables["PERFKIT_LOAD_PROFILE"] = json.dumps(encode(self.scenario.profile))
        if self.scenario.host is not None:  # arguments stand in every process list
            variables["LOCUST_HOST"] = self.scenario.host
        return {**without_locust_settings(self.scenario.environment), **variables}


def arrival_times(
    stages: Sequence[Stage], *, share: int = 1, index: int = 0, poisson: random.Random | None = None
) -> Iterator[float]:
    """When tasks of the open model are due, in seconds after the beginning, in order.

    Levels of stages are arrivals per second.  Of ``share`` processes, the one with the number ``index`` (from 0) gets
    every ``share``-th arrival.  With ``poisson``, a source of chance, arrivals are independent; else their distances
    are equal.
    """
    due = float(index) if poisson is None else poisson.expovariate(1.0) * share  # as a count of arrivals
    passed, begin_s = 0.0, 0.0  # arrivals of all processes before the stage, and its beginning
    for stage in stages:
        within = (stage.begin + stage.end) / 2 * stage.duration_s
        while due < passed + within - 1e-9:
            arrivals = due - passed  # the root of begin*t + slope*t*t/2 = arrivals
            slope = (stage.end - stage.begin) / stage.duration_s
            root = math.sqrt(max(stage.begin**2 + 2 * slope * arrivals, 0.0))
            yield begin_s + (2 * arrivals / (stage.begin + root) if arrivals else 0.0)
            due += share * (1.0 if poisson is None else poisson.expovariate(1.0))
        passed, begin_s = passed + within, begin_s + stage.duration_s
