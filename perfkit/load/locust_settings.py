"""Locust's settings from elsewhere: variables ``LOCUST_*``, ``locust.conf``, ``[tool.locust]`` of ``pyproject.toml``.

What a run does is said by perfkit's settings and options alone; a variable of the shell or a file in the current folder
must neither change the load nor turn Locust into a worker that waits for ever.  A locustfile's own arguments may still
come from there, and so may what changes no load.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

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


def without_early(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of this process for one of Locust."""
    return {name: value for name, value in environment.items() if name not in EARLY}


def ignored_early(environment: Mapping[str, str]) -> tuple[str, ...]:
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
