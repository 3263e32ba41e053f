"""``perfkit.toml`` -> `Settings`.  Unknown keys are errors that name the nearest known key.

Where results are sent, as ``perfkit.toml`` says it: e-mail, issues, chat.  Secrets never stand there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from perfkit.config.load_spec import parse_duration, parse_rate, parse_stages, plan_profile
from perfkit.config.policy import Policy, service_names_of
from perfkit.config.toml_table import expand, known_keys, path_text, read_toml, subtable, texts, typed
from perfkit.model.errors import Activity, SettingsError, UnsetVariable, did_you_mean
from perfkit.model.load_profile import LoadProfile, Stage
from perfkit.model.redaction import conceal_environment, conceal_url

WHEN = ("always", "changes")  # changes: only when something is new since the last message
SECURITY = ("starttls", "tls", "none")


@dataclass(frozen=True, slots=True)
class _Channel:
    """A table of settings: its keys are the fields of the class, but `sender` is called ``from``."""

    @classmethod
    def from_table(cls, table: Mapping[str, Any], place: str) -> Self:
        """The channel that a table describes; ``SettingsError`` names the key that is wrong."""
        defaults = {"from" if part.name == "sender" else part.name: part for part in fields(cls)}
        known_keys(table, tuple(defaults), place)
        given = {
            defaults[key].name: _value(value, defaults[key].default, f"{place}: {key}") for key, value in table.items()
        }
        try:
            return cls(**given)
        except ValueError as error:
            raise SettingsError(f"{place}: {error}") from error


def _value(value: Any, default: Any, place: str) -> Any:
    if isinstance(default, tuple):
        return texts(value, place)
    kind: Any = (int, float) if isinstance(default, float) else type(default)
    return typed(value, kind, place)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: one of {', '.join(known)}, got {value!r}{did_you_mean(value, known)}")


@dataclass(frozen=True, slots=True)
class EmailSettings(_Channel):
    """``[email]``: to whom, from whom, by which server.

    Parameters
    ----------
    sender
        ``from`` in the file.
    host, port, security
        The server; port 0 is the usual one of that security.  Name and password: `PERFKIT_SMTP_USER`,
        `PERFKIT_SMTP_PASSWORD`.
    attach_mb
        A larger report is not attached; the message says where it is.
    link
        Address of a report, with ``{report}`` for the name of its folder.
    """

    to: tuple[str, ...] = ()
    sender: str = ""
    host: str = ""
    port: int = 0
    security: str = "starttls"
    when: str = "always"
    attach_mb: float = 10.0
    link: str = ""

    def __post_init__(self) -> None:
        _one_of("security", self.security, SECURITY)
        _one_of("when", self.when, WHEN)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: from 1 to 65535, got {self.port}")
        if not 0 <= self.attach_mb <= 100:
            raise ValueError(f"attach_mb: from 0 to 100, got {self.attach_mb!r}")


@dataclass(frozen=True, slots=True)
class IssueSettings(_Channel):
    """``[issues]``: the repository, and what its issues look like.

    Parameters
    ----------
    repository
        ``owner/name``; else the environment's `GITHUB_REPOSITORY`.
    title
        With ``{scenario}``, ``{service}``, ``{metric}``, ``{change}``.
    most_new
        Issues that one call may open; further ones wait for the next.
    link
        Address of a report, with ``{report}`` for the name of its folder.
    """

    repository: str = ""
    labels: tuple[str, ...] = ("performance",)
    assignees: tuple[str, ...] = ()
    title: str = "{service}: {metric} {change} ({scenario})"
    most_new: int = 5
    link: str = ""

    def __post_init__(self) -> None:
        if self.most_new < 1:
            raise ValueError(f"most_new: at least 1, got {self.most_new}")


@dataclass(frozen=True, slots=True)
class ChatSettings(_Channel):
    """``[chat]``: addresses of Apprise, whose secrets stand in variables (``"${SLACK_URL}"``), and a plain webhook."""

    urls: tuple[str, ...] = ()
    webhook: str = ""
    when: str = "changes"
    link: str = ""

    def __post_init__(self) -> None:
        _one_of("when", self.when, WHEN)


FILE_NAME = "perfkit.toml"
_PLACES = {
    "reports": "reports",
    "baselines": "data/baselines",
    "acknowledged": "data/acknowledged.json",
    "delivery": "data/delivery",
}
LOAD = ("users", "spawn_rate", "duration_s", "rate", "peak", "stages", "arrivals", "max_in_flight")
# Said anew, one of these replaces what an inherited scenario says of the others
_INSTEAD = {
    "users": ("rate", "stages"),
    "rate": ("users", "spawn_rate", "stages"),
    "stages": ("users", "spawn_rate", "rate", "duration_s", "peak", "kind"),
}
MOST = {"users": 10_000_000, "spawn_rate": 10_000_000.0, "duration_s": 366 * 86_400.0}  # anything above is a mistake
BUILT_IN_LOCUSTFILE = Path(__file__).parents[1] / "loadgen" / "demo_locustfile.py"


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
    kind, rate, peak, arrivals, max_in_flight, stages
        Load over time and by arrivals, see `plan_profile`.
    serve
        Command that starts the service from its sources, with ``{port}``; for comparisons with a commit.
    environment
        Variables set for the locustfile.
    arguments
        Further arguments of Locust: those that the locustfile itself declares, or the names of user classes.
    revision
        Commit, branch and ``dirty`` of the build that is measured, as far as they are known.
    demo
        True for the built-in scenarios, which start the demo services when no host is given.
    """

    name: str
    locustfile: Path
    host: str | None = field(default=None, repr=False)  # may hold a password
    users: int | None = None
    spawn_rate: float | None = None
    duration_s: float | None = None
    tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    demo: bool = False
    kind: str | None = None
    rate: float | None = None
    peak: float | None = None
    arrivals: str | None = None
    max_in_flight: int | None = None
    stages: tuple[Stage, ...] = ()
    serve: str | None = None
    arguments: tuple[str, ...] = field(default=(), repr=False)  # may hold a password
    revision: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: must be > 0 and finite, got {value!r}")
            if value > most:
                raise ValueError(f"{name}: must be at most {most:,.0f}, got {str(value)[:30]}")
        for word in self.arguments:
            check_argument(word)
        conceal_url(self.host)
        conceal_environment(self.environment)
        _ = self.profile  # what contradicts itself is told now, not when the run begins

    @property
    def profile(self) -> LoadProfile:
        """The load profile as asked for."""
        return plan_profile(self.kind, **{name: getattr(self, name) for name in LOAD})


_ORDERED = {
    ("-f", "--locustfile"): "say --locustfile, or locustfile in perfkit.toml",
    ("-H", "--host"): "say --host, or host in perfkit.toml",
    ("-u", "--users", "-r", "--spawn-rate"): "say --users and --spawn-rate of perfkit itself",
    ("-t", "--run-time"): "say --duration",
    ("-T", "--tags", "-E", "--exclude-tags"): "say tags or exclude_tags in perfkit.toml",
    (
        "--master",
        "--worker",
        "--processes",
        "--expect-workers",
        "--expect-workers-max-wait",
    ): "say --workers or --master",
    (
        "--master-bind-host",
        "--master-bind-port",
        "--master-host",
        "--master-port",
    ): "they are options of perfkit run too",
    (
        *(
            "--headless",
            "--headful",
            "--autostart",
            "--autoquit",
            "--config",
            "--csv",
            "--csv-full-history",
            "--logfile",
        ),
        *(
            "--print-stats",
            "--only-summary",
            "--skip-log-setup",
            "--exit-code-on-error",
            "--stop-timeout",
            "-l",
            "--list",
        ),
        *("--show-task-ratio", "--show-task-ratio-json", "-h", "--help", "-V", "--version"),
    ): "perfkit decides it, so that every run is kept and ends",
}


def check_argument(word: str) -> None:
    """``ValueError`` for an argument that tells Locust what perfkit tells it already."""
    name = word.partition("=")[0] if word.startswith("--") else word[:2]
    why = next((why for names, why in _ORDERED.items() if name in names), None)
    if why is not None:
        raise ValueError(f"Locust's {name} cannot be handed on: {why}")


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

    scenarios: Mapping[str, Scenario] = field(default_factory=lambda: BUILT_IN)
    policy: Policy = field(default_factory=Policy)
    store: str = field(default="data/runs", repr=False)  # may hold a password
    reports: Path = Path("reports")
    baselines: Path = Path("data/baselines")
    acknowledged: Path = Path("data/acknowledged.json")
    delivery: Path = Path("data/delivery")  # what was told already, and what could not be sent yet
    email: EmailSettings = field(default_factory=EmailSettings)
    issues: IssueSettings = field(default_factory=IssueSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    path: Path | None = None
    own: tuple[str, ...] = ()  # the scenarios that the file itself defines
    unusable: Mapping[str, UnsetVariable] = field(default_factory=dict)  # of these, each with what keeps it from use

    @property
    def all_names(self) -> tuple[str, ...]:
        """What ``perfkit run --all`` runs: the file's own scenarios, or the built-in ones when it has none."""
        return self.own or tuple(BUILT_IN)

    def policy_of(self, file: str | Path | None, rule: str | None = None) -> Policy:
        """The policy of a file, with the service names of these settings; their own where there is no file.

        ``rule`` replaces the rule of either.
        """
        policy = self.policy
        if file is not None:
            policy = Policy.from_toml(file).with_service_names(self.policy.service_names)
        return policy.with_rule(rule)

    def scenario(self, name: str) -> Scenario:
        """A scenario by name; ``SettingsError`` names the nearest known one, or the variable that it lacks."""
        if name in self.unusable:
            raise UnsetVariable(str(self.unusable[name])) from self.unusable[name]
        if name not in self.scenarios:
            known = ", ".join(self.scenarios)
            raise SettingsError(f"scenario {name!r}: not known{did_you_mean(name, self.scenarios)}; known are {known}")
        return self.scenarios[name]


def nearest_settings(folder: Path) -> Settings:
    """The settings of the nearest ``perfkit.toml`` in ``folder`` or above it; the defaults where there is none."""
    files = (parent / FILE_NAME for parent in (folder, *folder.parents))
    file = next((file for file in files if file.is_file()), None)
    return load_settings(file) if file is not None else Settings()


def load_settings(file: Path) -> Settings:
    """The settings of a file; ``SettingsError`` names the file and the key of what is wrong."""
    with Activity(f"reading {file}"):
        return _settings(read_toml(file), file)


def _settings(document: Mapping[str, Any], file: Path) -> Settings:
    known_keys(document, ("scenario", "policy", "services", "store", "email", "issues", "chat", *_PLACES), str(file))
    base = file.resolve().parent
    scenarios, unusable = _scenarios(subtable(document, "scenario", str(file)), file, base)
    return Settings(
        scenarios=scenarios,
        unusable=unusable,
        policy=Policy.from_mapping(subtable(document, "policy", str(file)), f"{file}: [policy]").with_service_names(
            service_names_of(document, str(file))
        ),
        store=_store(document, file, base),
        **{name: base / path_text(document.get(name, usual), f"{file}: {name}") for name, usual in _PLACES.items()},
        email=EmailSettings.from_table(subtable(document, "email", str(file)), f"{file}: [email]"),
        issues=IssueSettings.from_table(subtable(document, "issues", str(file)), f"{file}: [issues]"),
        chat=ChatSettings.from_table(subtable(document, "chat", str(file)), f"{file}: [chat]"),
        path=file,
        own=tuple(subtable(document, "scenario", str(file))),
    )


def _store(document: Mapping[str, Any], file: Path, base: Path) -> str:
    url = path_text(document.get("store", "data/runs"), f"{file}: store")
    with suppress(SettingsError):  # a variable that is not set is told when the store is opened, and only then
        url = expand(url, f"{file}: store")
    if "${" in url:
        return url
    return url if "://" in url else str(base / url)


def _scenarios(
    tables: Mapping[str, Any], file: Path, base: Path
) -> tuple[dict[str, Scenario], dict[str, UnsetVariable]]:
    """All scenarios, and those that lack a variable of the environment: they stop only what needs them."""
    found, unusable = dict(BUILT_IN), {}
    for name, table in tables.items():
        place = f"{file}: [scenario.{name}]"
        if not isinstance(table, Mapping):
            raise SettingsError(f"{place}: must be a table")
        try:
            found[name] = _scenario(name, table, place, base, found.get(name))
        except UnsetVariable as error:
            found.pop(name, None)
            unusable[name] = error
    return found, unusable


_NUMBERS = {"users": int, "spawn_rate": (int, float), "peak": (int, float, str), "max_in_flight": int}
_TEXTS = {"host": "host", "profile": "kind", "arrivals": "arrivals", "serve": "serve"}
_KEYS = (
    "locustfile",
    *_TEXTS,
    *_NUMBERS,
    "rate",
    "stages",
    "duration",
    "tags",
    "exclude_tags",
    "arguments",
    "environment",
)


def _scenario(name: str, table: Mapping[str, Any], place: str, base: Path, inherited: Scenario | None) -> Scenario:
    known_keys(table, _KEYS, place)
    if inherited is None and "locustfile" not in table:
        raise SettingsError(f'{place}: locustfile is missing, such as locustfile = "locustfile.py"')
    changes: dict[str, Any] = _load_of(table, place)
    if "locustfile" in table:
        changes["locustfile"] = base / path_text(table["locustfile"], f"{place}: locustfile")
    for key in ("tags", "exclude_tags", "arguments"):
        if key in table:
            changes[key] = texts(table[key], f"{place}: {key}")
    if "environment" in table:
        changes["environment"] = _environment(table["environment"], place)
    return override(inherited or Scenario(name, changes["locustfile"]), place, **changes)


def _load_of(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What a table says of target and load, by the names of `Scenario`."""
    said: dict[str, Any] = {}
    for key, name in _TEXTS.items():
        if key in table:
            said[name] = expand(typed(table[key], str, f"{place}: {key}"), place)
    for key, kind in _NUMBERS.items():
        if key in table:
            said[key] = typed(table[key], kind, f"{place}: {key}")
    for key in ("rate", "duration", "stages"):
        if key in table:
            said[key] = table[key]
    if "stages" in said:
        typed(said["stages"], list, f"{place}: stages")
    return load_words(said, lambda key: f"{place}: {key}")


def load_words(said: Mapping[str, Any], place_of: Callable[[str], str]) -> dict[str, Any]:
    """Fields of `Scenario` from the words ``rate``, ``duration``, ``stages`` and ``peak``; others are handed on.

    ``SettingsError`` names the place of what cannot be understood.
    """
    fields: dict[str, Any] = {k: v for k, v in said.items() if k not in ("rate", "duration", "stages", "peak")}
    try:
        if said.get("rate") is not None:
            fields["rate"] = parse_rate(said["rate"], place_of("rate"))
        if said.get("peak") is not None:
            fields["peak"] = parse_rate(said["peak"], place_of("peak"))
        if said.get("duration") is not None:
            fields["duration_s"] = parse_duration(said["duration"], place_of("duration"))
        if said.get("stages"):
            fields["stages"], are_rates = parse_stages(said["stages"], place_of("stages"))
            fields |= {"rate": max(stage.end for stage in fields["stages"])} if are_rates else {}
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return fields


def _environment(value: Any, place: str) -> dict[str, str]:
    table = typed(value, dict, f"{place}: environment")
    return {name: expand(str(item), place) for name, item in table.items()}


def override(scenario: Scenario, place: str, **changes: Any) -> Scenario:
    """The scenario with some of its fields replaced; ``SettingsError`` names the place of a bad value.

    Another kind of load replaces the inherited one: users a rate, stages both.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    gone = {other for name in given for other in _INSTEAD.get(name, ()) if other not in given}
    gone |= {"arrivals", "max_in_flight"} - given.keys() if "rate" in gone else set()
    cleared: dict[str, Any] = {name: () if name == "stages" else None for name in gone}
    try:
        return replace(scenario, **cleared, **given)
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from error
