"""``perfkit.toml`` -> `Settings`.  Unknown keys are errors that name the nearest known key."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perfkit.errors import SettingsError, did_you_mean
from perfkit.model import LoadProfile
from perfkit.policy import Policy, read_toml

FILE_NAME = "perfkit.toml"
_DURATION = re.compile(r"^(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?$")
BUILT_IN_LOCUSTFILE = Path(__file__).parent / "load" / "demo_locustfile.py"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named load test: locustfile, load profile, target.

    Parameters
    ----------
    locustfile
        The user's own file, run unchanged.
    host
        Base URL of the target; ``None`` leaves it to the locustfile.
    users, spawn_rate, duration_s
        Peak users, users started per second, seconds.  ``None`` leaves it to the locustfile (its LoadTestShape).
    environment
        Variables set for the locustfile.
    demo
        True for the built-in scenarios, which start the demo services when no host is given.
    """

    name: str
    locustfile: Path
    host: str | None = None
    users: int | None = None
    spawn_rate: float | None = None
    duration_s: float | None = None
    tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    demo: bool = False

    def __post_init__(self) -> None:
        for name in ("users", "spawn_rate", "duration_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: must be > 0 and finite, got {value!r}")

    @property
    def profile(self) -> LoadProfile:
        """The load profile as asked for."""
        if self.users is None:
            return LoadProfile("custom", duration_s=self.duration_s)
        kind = "ramp" if self.spawn_rate is not None and self.spawn_rate < self.users else "steady"
        return LoadProfile(kind, self.users, self.spawn_rate, self.duration_s)


def _mission(name: str, users: int, rate: float, seconds: float, weights: str) -> Scenario:
    environment = {"PERFKIT_DEMO_WEIGHTS": weights}
    return Scenario(name, BUILT_IN_LOCUSTFILE, None, users, rate, seconds, environment=environment, demo=True)


BUILT_IN = {
    scenario.name: scenario
    for scenario in (
        _mission("baseline", 1, 1.0, 120.0, "api_gateway=1,rag_service=1,mcp_server=1"),
        _mission("api", 100, 10.0, 900.0, "api_gateway=18,rag_service=1,mcp_server=1"),
        _mission("rag", 50, 5.0, 900.0, "api_gateway=1,rag_service=18,mcp_server=1"),
        _mission("mcp", 20, 2.0, 900.0, "api_gateway=1,rag_service=1,mcp_server=18"),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a ``perfkit.toml`` says, laid over the defaults."""

    scenarios: Mapping[str, Scenario]
    policy: Policy
    store: str = "data/runs"
    reports: Path = Path("reports")
    path: Path | None = None
    own: tuple[str, ...] = ()  # the scenarios that the file itself defines

    @property
    def all_names(self) -> tuple[str, ...]:
        """What ``perfkit run --all`` runs: the file's own scenarios, or the built-in ones when it has none."""
        return self.own or tuple(BUILT_IN)

    def scenario(self, name: str) -> Scenario:
        """A scenario by name; ``SettingsError`` names the nearest known one."""
        if name not in self.scenarios:
            known = ", ".join(self.scenarios)
            raise SettingsError(f"scenario {name!r}: not known{did_you_mean(name, self.scenarios)}; known are {known}")
        return self.scenarios[name]


def load_settings(path: Path | None = None) -> Settings:
    """Settings from ``path``, else from the nearest ``perfkit.toml`` in this folder or above it, else the defaults."""
    file = path or find_settings(Path.cwd())
    if file is None:
        return Settings(BUILT_IN, Policy())
    document = read_toml(file)
    _known_keys(document, ("scenario", "policy", "store", "reports"), str(file))
    base = file.resolve().parent
    return Settings(
        scenarios=_scenarios(_table(document, "scenario", str(file)), file, base),
        policy=Policy.from_mapping(_table(document, "policy", str(file)), f"{file}: [policy]"),
        store=_store(document, file, base),
        reports=base / _typed(document.get("reports", "reports"), str, f"{file}: reports"),
        path=file,
        own=tuple(_table(document, "scenario", str(file))),
    )


def find_settings(start: Path) -> Path | None:
    """The nearest ``perfkit.toml`` in ``start`` or a folder above it."""
    return next((p for folder in (start, *start.parents) if (p := folder / FILE_NAME).is_file()), None)


def _store(document: Mapping[str, Any], file: Path, base: Path) -> str:
    url: str = _typed(document.get("store", "data/runs"), str, f"{file}: store")
    return url if "://" in url else str(base / url)


def _scenarios(tables: Mapping[str, Any], file: Path, base: Path) -> dict[str, Scenario]:
    found = dict(BUILT_IN)
    for name, table in tables.items():
        place = f"{file}: [scenario.{name}]"
        if not isinstance(table, Mapping):
            raise SettingsError(f"{place}: must be a table")
        found[name] = _scenario(name, table, place, base, found.get(name))
    return found


_KEYS = ("locustfile", "host", "users", "spawn_rate", "duration", "tags", "exclude_tags", "environment")


def _scenario(name: str, table: Mapping[str, Any], place: str, base: Path, inherited: Scenario | None) -> Scenario:
    _known_keys(table, _KEYS, place)
    if inherited is None and "locustfile" not in table:
        raise SettingsError(f'{place}: locustfile is missing, such as locustfile = "locustfile.py"')
    changes: dict[str, Any] = {}
    if "locustfile" in table:
        changes["locustfile"] = base / _typed(table["locustfile"], str, f"{place}: locustfile")
    if "host" in table:
        changes["host"] = _expand(_typed(table["host"], str, f"{place}: host"), place)
    if "duration" in table:
        changes["duration_s"] = parse_duration(table["duration"], f"{place}: duration")
    if "users" in table:
        changes["users"] = _typed(table["users"], int, f"{place}: users")
    if "spawn_rate" in table:
        changes["spawn_rate"] = float(_typed(table["spawn_rate"], (int, float), f"{place}: spawn_rate"))
    for key in ("tags", "exclude_tags"):
        if key in table:
            changes[key] = tuple(
                _typed(item, str, f"{place}: {key}") for item in _typed(table[key], list, f"{place}: {key}")
            )
    if "environment" in table:
        changes["environment"] = _environment(table["environment"], place)
    return override(inherited or Scenario(name, changes["locustfile"]), place, **changes)


def _environment(value: Any, place: str) -> dict[str, str]:
    table = _typed(value, dict, f"{place}: environment")
    return {name: _expand(str(item), place) for name, item in table.items()}


def _expand(text: str, place: str) -> str:
    """Replace ``${NAME}`` by the variable, so that secrets and addresses stay out of the file."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise SettingsError(f"{place}: the environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)


def override(scenario: Scenario, place: str, **changes: Any) -> Scenario:
    """The scenario with some of its fields replaced; ``SettingsError`` names the place of a bad value."""
    try:
        return replace(scenario, **{name: value for name, value in changes.items() if value is not None})
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from error


def parse_duration(value: Any, place: str) -> float:
    """Seconds from a number or text such as ``"90s"``, ``"15m"``, ``"1h30m"``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.match(str(value).strip().lower()) if str(value).strip() else None
        if match is None:
            raise SettingsError(f'{place}: expected a length such as "90s", "15m" or "1h30m", got {value!r}')
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds < math.inf:
        raise SettingsError(f"{place}: must be longer than zero and finite, got {value!r}")
    return seconds


def _known_keys(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in table:
        if key not in known:
            raise SettingsError(f"{place}: unknown key {key!r}{did_you_mean(key, known)}; known are {', '.join(known)}")


def _table(document: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    table: Mapping[str, Any] = _typed(document.get(key, {}), dict, f"{place}: [{key}]")
    return table


def _typed(value: Any, kind: Any, place: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {str: "text", int: "a whole number", list: "a list", dict: "a table"}
        raise SettingsError(f"{place}: expected {names.get(kind, 'a number')}, got {value!r}")
    return value
