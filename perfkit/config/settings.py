"""``perfkit.toml`` -> `Settings`.  Unknown keys are errors that name the nearest known key.

Where results are sent, as ``perfkit.toml`` says it: e-mail, issues, chat.  Secrets never stand there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from perfkit.config.load_spec import parse_duration, parse_rate, parse_stages, plan_profile
from perfkit.config.policy import Policy
from perfkit.config.toml_table import PathText, expand, read_table, read_toml
from perfkit.model.errors import Activity, SettingsError, UnsetVariable, did_you_mean
from perfkit.model.records import LoadProfile, Stage
from perfkit.model.redaction import conceal_environment, conceal_url

When = Literal["always", "changes"]  # changes: only when something is new since the last message
WHEN: tuple[str, ...] = get_args(When)


@dataclass(frozen=True, slots=True)
class EmailSettings:
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
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    security: Literal["starttls", "tls", "none"] = "starttls"
    when: When = "always"
    attach_mb: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10.0
    link: str = ""


@dataclass(frozen=True, slots=True)
class IssueSettings:
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
    most_new: Annotated[int, msgspec.Meta(ge=1)] = 5
    link: str = ""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """``[chat]``: addresses of Apprise, whose secrets stand in variables (``"${SLACK_URL}"``), and a plain webhook."""

    urls: tuple[str, ...] = ()
    webhook: str = ""
    when: When = "changes"
    link: str = ""


FILE_NAME = "perfkit.toml"
LOAD = ("users", "spawn_rate", "duration_s", "rate", "peak", "stages", "arrivals", "max_in_flight")
# A scenario that gives one of these does not inherit the others
_REPLACED = {
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
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            why = next((why for names, why in _TAKEN_ARGUMENTS.items() if name in names.split()), None)
            if why is not None:
                raise ValueError(f"Locust's {name} cannot be handed on: {why}")
        conceal_url(self.host)
        conceal_environment(self.environment)
        _ = self.profile  # what contradicts itself is told now, not when the run begins

    @property
    def profile(self) -> LoadProfile:
        """The load profile as asked for."""
        return plan_profile(self.kind, **{name: getattr(self, name) for name in LOAD})


_TAKEN_ARGUMENTS = {  # arguments of Locust -> what to do instead
    "-f --locustfile": "say --locustfile, or locustfile in perfkit.toml",
    "-H --host": "say --host, or host in perfkit.toml",
    "-u --users -r --spawn-rate": "say --users and --spawn-rate of perfkit itself",
    "-t --run-time": "say --duration",
    "-T --tags -E --exclude-tags": "say tags or exclude_tags in perfkit.toml",
    "--master --worker --processes --expect-workers --expect-workers-max-wait": "say --workers or --master",
    "--master-bind-host --master-bind-port --master-host --master-port": "they are options of perfkit run too",
    "--headless --headful --autostart --autoquit --config --csv --csv-full-history --logfile --print-stats "
    "--only-summary --skip-log-setup --exit-code-on-error --stop-timeout -l --list --show-task-ratio "
    "--show-task-ratio-json -h --help -V --version": "perfkit decides it, so that every run is kept and ends",
}


BUILT_IN = {
    name: Scenario(
        name,
        BUILT_IN_LOCUSTFILE,
        users=users,
        spawn_rate=spawn_rate,
        duration_s=duration_s,
        environment={"PERFKIT_DEMO_WEIGHTS": weights},
        demo=True,
    )
    for name, users, spawn_rate, duration_s, weights in (
        ("baseline", 1, 1.0, 120.0, "api_gateway=1,rag_service=1,mcp_server=1"),
        ("api", 100, 10.0, 900.0, "api_gateway=18,rag_service=1,mcp_server=1"),
        ("rag", 50, 5.0, 900.0, "api_gateway=1,rag_service=18,mcp_server=1"),
        ("mcp", 20, 2.0, 900.0, "api_gateway=1,rag_service=1,mcp_server=18"),
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
    own_scenarios: tuple[str, ...] = ()  # those that the file itself defines
    unusable: Mapping[str, UnsetVariable] = field(default_factory=dict)  # of these, each with what keeps it from use

    @property
    def all_names(self) -> tuple[str, ...]:
        """What ``perfkit run --all`` runs: the file's own scenarios, or the built-in ones when it has none."""
        return self.own_scenarios or tuple(BUILT_IN)

    def policy_of(self, file: str | Path | None, rule: str | None = None) -> Policy:
        """The policy of a file, with the service names of these settings; their own where there is no file.

        ``rule`` replaces the rule of either.
        """
        policy = self.policy
        if file is not None:
            policy = Policy.from_toml(file).with_service_names(self.policy.service_names, str(self.path))
        return policy.with_rule(rule)

    def scenario(self, name: str, locustfile: Path | None = None, **changes: Any) -> Scenario:
        """A scenario by name, with some of its fields replaced as by `override`.

        With a ``locustfile`` it runs that one, and may be only a name for it.  ``SettingsError`` names the nearest
        scenario, the variable that it lacks, or the bad value.
        """
        if name in self.unusable:
            raise UnsetVariable(str(self.unusable[name])) from self.unusable[name]
        scenario = self.scenarios.get(name)
        if locustfile is not None:
            scenario = replace(scenario or Scenario(name, locustfile), locustfile=locustfile, demo=False)
        elif scenario is None:
            near, names = did_you_mean(name, self.scenarios), ", ".join(self.scenarios)
            raise SettingsError(f"scenario {name!r}: not known{near}; known are {names}")
        return override(scenario, f"scenario {name}", **changes)


class _SettingsTable(msgspec.Struct):
    """``perfkit.toml``."""

    scenario: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    services: Any = {}
    store: PathText = "data/runs"
    email: Any = {}
    issues: Any = {}
    chat: Any = {}
    reports: PathText = "reports"
    baselines: PathText = "data/baselines"
    acknowledged: PathText = "data/acknowledged.json"
    delivery: PathText = "data/delivery"


class _ScenarioTable(msgspec.Struct, omit_defaults=True):
    """``[scenario.NAME]``; times, rates and stages as `load_fields` takes them."""

    locustfile: PathText | None = None
    host: str | None = None
    profile: str | None = None
    arrivals: str | None = None
    serve: str | None = None
    users: int | None = None
    spawn_rate: float | None = None
    peak: float | str | None = None
    max_in_flight: int | None = None
    rate: Any = None
    stages: list[Any] | None = None
    duration: Any = None
    tags: tuple[str, ...] | None = None
    exclude_tags: tuple[str, ...] | None = None
    arguments: tuple[str, ...] | None = None
    environment: dict[str, Any] | None = None


def nearest_settings(folder: Path) -> Settings:
    """The settings of the nearest ``perfkit.toml`` in ``folder`` or above it; the defaults where there is none."""
    files = (parent / FILE_NAME for parent in (folder, *folder.parents))
    file = next((file for file in files if file.is_file()), None)
    return load_settings(file) if file is not None else Settings()


def load_settings(file: Path) -> Settings:
    """The settings of a file; ``SettingsError`` names the file and the key of what is wrong."""
    with Activity(f"reading {file}"):
        table = read_table(read_toml(file), _SettingsTable, str(file))
        folder = file.resolve().parent
        scenarios, unusable = dict(BUILT_IN), {}
        for name, values in table.scenario.items():
            try:
                scenarios[name] = _scenario(name, values, f"{file}: [scenario.{name}]", folder)
            except UnsetVariable as error:  # stops only what needs this scenario
                scenarios.pop(name, None)
                unusable[name] = error
        store = table.store
        with suppress(UnsetVariable):  # is named when the store is opened, and only then
            store = expand(store, f"{file}: store")
        policy = Policy.from_mapping(table.policy, f"{file}: [policy]")
        return Settings(
            scenarios=scenarios,
            unusable=unusable,
            policy=policy.with_service_names(table.services, str(file)),
            store=store if "${" in store or "://" in store else str(folder / store),
            reports=folder / table.reports,
            baselines=folder / table.baselines,
            acknowledged=folder / table.acknowledged,
            delivery=folder / table.delivery,
            email=read_table(table.email, EmailSettings, f"{file}: [email]", keys={"from": "sender"}),
            issues=read_table(table.issues, IssueSettings, f"{file}: [issues]"),
            chat=read_table(table.chat, ChatSettings, f"{file}: [chat]"),
            path=file,
            own_scenarios=tuple(table.scenario),
        )


def _scenario(name: str, values: Any, source: str, folder: Path) -> Scenario:
    """The scenario of a table; one with the name of a built-in scenario inherits what it does not say."""
    table = read_table(values, _ScenarioTable, source)
    inherited = BUILT_IN.get(name)
    if inherited is None and table.locustfile is None:
        raise SettingsError(f'{source}: locustfile is missing, such as locustfile = "locustfile.py"')
    given = {key: value for key, value in msgspec.structs.asdict(table).items() if value is not None}
    for key in ("host", "profile", "arrivals", "serve"):
        if key in given:
            given[key] = expand(given[key], source)
    if "profile" in given:
        given["kind"] = given.pop("profile")
    if "locustfile" in given:
        given["locustfile"] = folder / given["locustfile"]
    if "environment" in given:
        given["environment"] = {key: expand(str(value), source) for key, value in given["environment"].items()}
    changes = load_fields(given, lambda key: f"{source}: {key}")
    return override(inherited or Scenario(name, changes["locustfile"]), source, **changes)


def load_fields(given: Mapping[str, Any], source_of: Callable[[str], str]) -> dict[str, Any]:
    """Fields of `Scenario`, from what people write as ``rate``, ``peak``, ``duration`` and ``stages``.

    Other keys are handed on.  ``SettingsError`` names the source of what cannot be understood.
    """
    fields: dict[str, Any] = {k: v for k, v in given.items() if k not in ("rate", "duration", "stages", "peak")}
    try:
        for key in ("rate", "peak"):
            if given.get(key) is not None:
                fields[key] = parse_rate(given[key], source_of(key))
        if given.get("duration") is not None:
            fields["duration_s"] = parse_duration(given["duration"], source_of("duration"))
        if given.get("stages"):
            fields["stages"], are_rates = parse_stages(given["stages"], source_of("stages"))
            fields |= {"rate": max(stage.end for stage in fields["stages"])} if are_rates else {}
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return fields


def override(scenario: Scenario, source: str, **changes: Any) -> Scenario:
    """The scenario with some of its fields replaced; ``SettingsError`` names the source of a bad value.

    Another kind of load replaces the inherited one: users a rate, stages both.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    gone = {other for name in given for other in _REPLACED.get(name, ()) if other not in given}
    gone |= {"arrivals", "max_in_flight"} - given.keys() if "rate" in gone else set()
    cleared: dict[str, Any] = {name: () if name == "stages" else None for name in gone}
    try:
        return replace(scenario, **cleared, **given)
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from error
