"""What Locust is asked to do: its command line and environment, a master's workers, and the settings it must not read.

What a run does is set by perfkit's settings and options alone: a variable ``LOCUST_*`` of the shell, a ``locust.conf``
or ``[tool.locust]`` of a ``pyproject.toml`` must neither change the load nor turn Locust into a worker that waits for
ever.  A locustfile's own arguments may still come from there, and so may what changes no load.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfkit.loadgen.container import Container
from perfkit.model.codec import encode
from perfkit.model.records import LoadProfile

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
    """The variables that `without_early` takes out."""
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
    parser.allow_abbrev = False  # --user is no --users, which would be refused
    parser._config_file_parser = _ConfigParser(parser._config_file_parser, keys)


class _ConfigParser:
    """Leaves out of a configuration file what belongs to Locust itself."""

    def __init__(self, original: Any, keys: Iterable[str]) -> None:
        self._original, self._keys = original, frozenset(keys)

    def parse(self, stream: Any) -> dict[str, Any]:
        settings: dict[str, Any] = dict(self._original.parse(stream))
        for key in sorted(self._keys & settings.keys()):
            IGNORED[f"{key} in {getattr(stream, 'name', 'a configuration file')}"] = None
            del settings[key]
        return settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


RECORDER = Path(__file__).with_name("recorder.py")  # not imported: importing Locust patches the standard library
RECORDING_NAME = "requests.arrow"
STOP_TIMEOUT_S = 5  # requests in flight at the end may finish: those that would be cut off are the slow ones
ORDERLY_END_S = 10.0  # from SIGINT to SIGTERM; longer than STOP_TIMEOUT_S
WORKERS_WAIT_S = 120


@dataclass(frozen=True, slots=True)
class Distribution:
    """A master and its workers.

    Parameters
    ----------
    workers
        How many there are; the load begins when all of them are there.
    local
        Whether they are started here; else they come from elsewhere, within `WORKERS_WAIT_S`.
    bind_host, bind_port
        Where the master listens for them.
    """

    workers: int
    local: bool = True
    bind_host: str = "127.0.0.1"
    bind_port: int = 5557  # 0: one that is free

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")

    def argv(self) -> list[str]:
        """Locust's options for a master."""
        wait = ["--expect-workers", str(self.workers), "--expect-workers-max-wait", str(WORKERS_WAIT_S)]
        return ["--master", *wait, "--master-bind-host", self.bind_host, "--master-bind-port", str(self.bind_port)]


@dataclass(frozen=True, slots=True)
class LocustCommand:
    """What Locust is asked to do.

    None leaves the decision to the locustfile (a ``LoadTestShape``, a host of its own) or to Locust's configuration.
    `users` is at least 1, `spawn_rate` (users per second) above 0, `duration_s` a whole number of at least 1, because
    Locust counts whole seconds.  The recording goes to ``folder/requests.arrow``, all else to ``folder/source``.
    """

    locustfile: Path
    host: str | None = field(repr=False)  # handed over in the environment: arguments stand in every process list
    users: int | None
    spawn_rate: float | None
    duration_s: float | None
    folder: Path
    tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    arguments: tuple[str, ...] = ()  # handed on to Locust, after all others
    distribution: Distribution | None = None  # None: one process does all
    profile: LoadProfile | None = None  # stages of users, or arrivals; users and duration are then those of the pool
    container: Container | None = None  # None: on this machine itself

    def __post_init__(self) -> None:
        if self.users is not None and self.users < 1:
            raise ValueError(f"users must be at least 1, not {self.users}")
        if self.spawn_rate is not None and not self.spawn_rate > 0:
            raise ValueError(f"spawn_rate must be above 0 users per second, not {self.spawn_rate}")
        if self.duration_s is not None and not (self.duration_s >= 1 and float(self.duration_s).is_integer()):
            raise ValueError(f"duration_s must be a whole number of seconds, at least 1, not {self.duration_s}")

    @property
    def planned_s(self) -> float | None:
        """How long the load shall last; None where the locustfile decides."""
        return self.profile.duration_s if self.profile is not None else self.duration_s

    @property
    def recording(self) -> Path:
        """Where the requests go."""
        return self.folder / RECORDING_NAME

    @property
    def log(self) -> Path:
        """Where the output of Locust and of the locustfile goes."""
        return self.folder / "source" / "locust.log"

    def argv(self) -> list[str]:
        """Return the command line; -P keeps a ``locust.py`` in the current folder from being taken for Locust."""
        return [sys.executable, "-P", "-m", "locust", "-f", locustfiles(self.locustfile), *self.options()]

    def options(self) -> list[str]:
        """Return what follows the locustfiles on Locust's command line."""
        options: dict[str, float | None] = {"-u": self.users, "-r": self.spawn_rate}
        options["-t"] = None if self.duration_s is None else int(self.duration_s)
        given = [str(part) for option in options.items() if option[1] is not None for part in option]
        for option, tags in (("--tags", self.tags), ("--exclude-tags", self.exclude_tags)):
            given += [option, *tags] if tags else []
        given += self.distribution.argv() if self.distribution is not None else []
        fixed = ["--headless", "--only-summary", "--exit-code-on-error", "0", "--stop-timeout", str(STOP_TIMEOUT_S)]
        csv = ["--csv", str(self.folder.absolute() / "source" / "locust")]
        return [*given, *fixed, *csv, *self.arguments]

    def own_environment(self) -> dict[str, str]:
        """Return the variables of the scenario, and those that tell the recorder what to do."""
        variables = {
            "PERFKIT_RECORDING": str(self.recording.absolute()),
            "PERFKIT_GENERATOR_CSV": str(self.folder.absolute() / "source" / "generator.csv"),
            "PERFKIT_SCRIPT_ERRORS": str(self.folder.absolute() / "source" / "script_errors.json"),
        }
        if self.distribution is not None and self.distribution.local:
            variables["PERFKIT_LOCAL_WORKERS"] = str(self.distribution.workers)
            variables["PERFKIT_ARGUMENTS"] = json.dumps(self.arguments)
        if self.profile is not None:
            variables["PERFKIT_LOAD_PROFILE"] = json.dumps(encode(self.profile))
        if self.host is not None:
            variables["LOCUST_HOST"] = self.host
        return {**without_locust_settings(self.environment), **variables}


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def locustfiles(path: Path) -> str:
    """What Locust loads: the recorder, then the user's own."""
    return f"{RECORDER},{path.absolute()}"
