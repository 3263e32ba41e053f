"""``perfkit.toml`` -> `Settings`: scenarios and their load, where results are sent.  Secrets never stand there.

Load is parsed as people write it there or on the command line, durations (``"15m"``), rates (``"200/s"``), stages
(``"2m:40"``); `plan_profile` checks that they fit together.  Their errors are a ``ValueError`` that names the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from perfkit.config.policy import Policy
from perfkit.config.toml_table import PathText, expand, explained, finite, read_table, read_toml
from perfkit.model.errors import Activity, SettingsError, UnsetVariable, did_you_mean
from perfkit.model.records import KINDS, LoadProfile, Stage
from perfkit.model.redaction import conceal_environment, conceal_url

FILE_NAME = "perfkit.toml"
ARRIVALS = ("constant", "poisson")
SOAK_S = 3600.0
PARTS = 5  # stages of a ramp or a soak that are summed up by themselves
SPIKE_FROM, SPIKE_TO = 0.4, 0.6  # of the duration
SHORT_RAMP = 0.25  # share of the run: a shorter rise to a level is warm-up and is cut off as such
IN_FLIGHT_S = 10.0  # the default limit of tasks in flight: what arrives during so long a silence of the target
LEAST_IN_FLIGHT, MOST_IN_FLIGHT = 100, 5000
AT_ONCE = 100.0  # users per second: Locust warns of more
_PER_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_DURATION = re.compile(r"^(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?$")
_STAGE = re.compile(r"^\s*(?P<length>[^:]+):\s*(?:(?P<begin>[\d.]+)\s*-\s*)?(?P<end>[\d.]+)\s*(?P<unit>/\s*\w+)?\s*$")


def plan_profile(load: Scenario) -> LoadProfile:
    """The load profile that a scenario asks for; ``ValueError`` says what to write instead.

    Its kind is one of `KINDS`, else it follows from the rest.  The peak is the load at the height of a spike, users or
    arrivals per second; the spike lasts the fifth of the run after 40 %.
    """
    kind, users, spawn_rate, duration_s = load.kind, load.users, load.spawn_rate, load.duration_s
    rate, peak, stages, arrivals, max_in_flight = load.rate, load.peak, load.stages, load.arrivals, load.max_in_flight
    if kind is not None and kind not in KINDS:
        raise ValueError(f"profile: unknown kind {kind!r}{did_you_mean(kind, KINDS)}; known are {', '.join(KINDS)}")
    if arrivals is not None and arrivals not in ARRIVALS:
        raise ValueError(f"arrivals: expected {' or '.join(ARRIVALS)}, got {arrivals!r}")
    if rate is None and (arrivals is not None or max_in_flight is not None):
        raise ValueError('arrivals and max_in_flight belong to an arrival rate, such as rate = "50/s"')
    if rate is not None and users is not None:
        raise ValueError("users and rate: say one of them; a rate starts as many users as it needs")
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"rate: must be > 0 and finite, got {rate!r}")
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"max_in_flight: must be at least 1, got {max_in_flight!r}")
    if peak is not None and (kind not in (None, "spike") or stages):
        raise ValueError("peak: belongs to a spike; leave it out")
    if stages and kind not in (None, "stages"):
        raise ValueError(f"stages: belong to the profile 'stages', not to {kind!r}")
    if kind == "stages" and not stages:
        raise ValueError('stages: are missing, such as ["1m:10", "1m:20", "1m:40"]')
    if kind == "spike" and peak is None:
        raise ValueError("peak: is missing, the load at the height of the spike")
    if kind is not None and kind != "stages" and users is None and rate is None:
        raise ValueError(f"users or rate: is missing, the load of the profile {kind!r}")
    kind = kind or ("stages" if stages else "spike" if peak is not None else None)
    level = rate if rate is not None else users
    if kind == "soak":
        duration_s = duration_s or SOAK_S
    planned = _planned_stages(load, kind, level, duration_s)
    top = max((edge for stage in planned for edge in (stage.begin, stage.end)), default=level)
    if rate is None and users is None and not stages:
        return LoadProfile("custom", duration_s=duration_s)
    length = sum(stage.duration_s for stage in planned) if stages else duration_s
    if rate is not None:
        if length is None:
            raise ValueError("duration: an arrival rate needs one, such as 2m")
        limit = max_in_flight or int(min(max(IN_FLIGHT_S * (top or 0), LEAST_IN_FLIGHT), MOST_IN_FLIGHT))
        return LoadProfile(kind or "steady", None, None, length, top, arrivals or "constant", limit, planned)
    peak_users = math.ceil(top) if top is not None and (stages or peak is not None) else users
    pace = spawn_rate  # users started per second; None leaves it to Locust, or to the stages
    if pace is None and peak_users is not None and kind is not None:
        is_rise = kind == "ramp" and duration_s is not None
        pace = peak_users / duration_s if is_rise and duration_s else min(float(peak_users), AT_ONCE)
    rises = pace is not None and peak_users is not None and pace < peak_users
    return LoadProfile(kind or ("ramp" if rises else "steady"), peak_users, pace, length, stages=planned)


def _planned_stages(
    load: Scenario, kind: str | None, level: float | None, duration_s: float | None
) -> tuple[Stage, ...]:
    """The stages that are summed up by themselves; none for one level after a short rise."""
    if load.stages:
        if max(edge for stage in load.stages for edge in (stage.begin, stage.end)) <= 0:
            raise ValueError("stages: at least one must have a load above 0")
        return load.stages
    if level is None or duration_s is None:
        if kind in ("spike", "ramp"):
            raise ValueError(f"duration: the profile {kind!r} needs one, such as 5m")
        return ()
    if kind == "spike":
        height = float(load.peak if load.peak is not None else level)
        edges = (SPIKE_FROM, SPIKE_TO - SPIKE_FROM, 1 - SPIKE_TO)
        levels = (float(level), height, float(level))
        return tuple(Stage(share * duration_s, at, at) for share, at in zip(edges, levels, strict=True))
    if kind == "soak":
        return (Stage(duration_s / PARTS, level, level),) * PARTS
    spawn_rate = load.spawn_rate
    at_once = spawn_rate is None or spawn_rate >= level  # Locust starts the users of the first second together
    rise_s = duration_s if kind == "ramp" and not spawn_rate else 0.0 if at_once else level / (spawn_rate or level)
    if rise_s <= SHORT_RAMP * duration_s:
        return ()
    seen_rise_s = min(rise_s, duration_s)
    top, held_s = level * seen_rise_s / rise_s, duration_s - seen_rise_s
    parts = [Stage(seen_rise_s / PARTS, top * part / PARTS, top * (part + 1) / PARTS) for part in range(PARTS)]
    return (*parts, *([Stage(held_s, float(level), float(level))] if held_s > 0 else []))


def parse_duration(value: Any, source: str = "") -> float:
    """Seconds from a number or text such as ``"90s"``, ``"15m"``, ``"1h30m"``; ``ValueError`` names the source."""
    where = f"{source}: " if source else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = finite(value)
    else:
        match = _DURATION.match(str(value).strip().lower()) if str(value).strip() else None
        if match is None:
            raise ValueError(f'{where}expected a length such as "90s", "15m" or "1h30m", got {value!r}')
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds < math.inf:
        raise ValueError(f"{where}must be longer than zero and finite, got {value!r}")
    return seconds


def parse_rate(value: Any, source: str) -> float:
    """Arrivals per second from a number or text such as ``"200/s"`` or ``"12000/min"``."""
    text = str(value).replace(" ", "")
    number, slash, unit = text.partition("/")
    if isinstance(value, bool) or (slash and unit not in _PER_S):
        raise ValueError(f'{source}: expected a rate such as "200/s" or "600/min", got {value!r}')
    try:
        rate = float(number) / _PER_S.get(unit, 1.0)
    except ValueError as error:
        raise ValueError(f'{source}: expected a rate such as "200/s" or "600/min", got {value!r}') from error
    if not 0 < rate < math.inf:
        raise ValueError(f"{source}: must be > 0 and finite, got {value!r}")
    return rate


def parse_stages(values: Sequence[Any], source: str) -> tuple[tuple[Stage, ...], bool]:
    """Stages, and whether their levels are arrivals per second.

    Each is text such as ``"2m:40"`` (40 users for two minutes), ``"30s:0-40"`` (from 0 to 40) or ``"1m:50/s"``, or a
    table with ``duration``, ``users`` or ``rate``, and perhaps ``from``.
    """
    parsed = [_parse_stage(value, f"{source} {number}") for number, value in enumerate(values, 1)]
    kinds = {is_rate for _, is_rate in parsed}
    if len(kinds) > 1:
        raise ValueError(f"{source}: some have users and some a rate; say the same of all")
    return tuple(stage for stage, _ in parsed), kinds == {True}


def _parse_stage(value: Any, source: str) -> tuple[Stage, bool]:
    if isinstance(value, Mapping):
        keys = ("duration", "users", "rate", "from")
        for key in value:
            if key not in keys:
                raise ValueError(f"{source}: unknown key {key!r}{did_you_mean(key, keys)}; known are {', '.join(keys)}")
        if "duration" not in value or ("users" in value) == ("rate" in value):
            example = '{duration = "1m", users = 20}'
            raise ValueError(f"{source}: needs duration and either users or rate, such as {example}")
        is_rate, levels = "rate" in value, []
        for key in ("from", "users", "rate"):
            if (level := value.get(key)) is None:
                continue
            if is_rate and level != 0:
                levels.append(parse_rate(level, f"{source}: {key}"))
            elif isinstance(level, bool) or not isinstance(level, int | float):
                raise ValueError(f"{source}: {key}: expected a number, got {level!r}")
            else:
                levels.append(finite(level))
        return Stage(parse_duration(value["duration"], f"{source}: duration"), levels[0], levels[-1]), is_rate
    match = _STAGE.match(str(value))
    if match is None:
        raise ValueError(f'{source}: expected LENGTH:LOAD such as "2m:40", "30s:0-40" or "1m:50/s", got {value!r}')
    unit = (match["unit"] or "").replace(" ", "").removeprefix("/")
    if unit and unit not in _PER_S:
        raise ValueError(f"{source}: unknown unit /{unit}; write /s, /min or /h")
    try:
        levels = [float(match[name]) / _PER_S.get(unit, 1.0) for name in ("begin", "end") if match[name] is not None]
    except ValueError as error:
        raise ValueError(f"{source}: the load is not a number in {value!r}") from error
    return Stage(parse_duration(match["length"], source), levels[0], levels[-1]), bool(unit)


def load_options(profile: LoadProfile) -> dict[str, str]:
    """The options of ``perfkit run`` that ask for this load."""
    options: dict[str, str] = {}
    if profile.kind == "stages":
        texts = [
            f"{stage.duration_s:g}s:{'' if stage.begin == stage.end else f'{stage.begin:g}-'}{stage.end:g}"
            for stage in profile.stages
        ]
        options["--stages"] = ",".join(f"{text}/s" if profile.is_open else text for text in texts)
    else:
        level = profile.rate if profile.is_open else profile.users
        if profile.kind == "spike":
            options["--peak"] = f"{level:g}"
            level = profile.stages[0].begin
        if level is not None:
            options |= {"--rate": f"{level:g}/s"} if profile.is_open else {"--users": f"{level:g}"}
        rises = (profile.spawn_rate or math.inf) < (profile.users or 0)  # a steady load would be taken for a ramp
        if {"soak": True, "ramp": profile.is_open, "steady": rises}.get(profile.kind):
            options["--profile"] = profile.kind
        if profile.spawn_rate:
            options["--spawn-rate"] = f"{profile.spawn_rate:g}"
        if profile.duration_s:
            options["--duration"] = f"{profile.duration_s:g}s"
    if profile.is_open:
        options |= {"--arrivals": profile.arrivals or "constant", "--max-in-flight": str(profile.max_in_flight)}
    return options


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
    """A named load test: locustfile, load profile, target."""

    name: str
    locustfile: Path  # the user's own file, run unchanged
    host: str | None = field(default=None, repr=False)  # base URL of the target, which may hold a password
    users: int | None = None  # at the peak; ``None``, here and above, leaves it to the locustfile (its LoadTestShape)
    spawn_rate: float | None = None  # users started per second
    duration_s: float | None = None
    tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # variables set for the locustfile
    demo: bool = False  # built-in scenarios start the demo services when no host is given
    kind: str | None = None  # this and what follows up to the stages: see `plan_profile`
    rate: float | None = None
    peak: float | None = None
    arrivals: str | None = None
    max_in_flight: int | None = None
    stages: tuple[Stage, ...] = ()
    serve: str | None = None  # command that starts the service from its sources, with ``{port}``
    arguments: tuple[str, ...] = field(default=(), repr=False)  # further ones of Locust, which may hold a password
    revision: Mapping[str, str] = field(default_factory=dict, repr=False)  # of the build: commit, branch, ``dirty``

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
        _ = self.profile  # what contradicts itself is an error now, not when the run begins

    @property
    def profile(self) -> LoadProfile:
        return plan_profile(self)


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


When = Literal["always", "changes"]  # changes: only when something is new since the last message
WHEN: tuple[str, ...] = get_args(When)


@dataclass(frozen=True, slots=True)
class EmailSettings:
    """``[email]``: to whom, from whom, by which server."""

    to: tuple[str, ...] = ()
    sender: str = ""  # ``from`` in the file
    host: str = ""  # of the server; name and password: `PERFKIT_SMTP_USER`, `PERFKIT_SMTP_PASSWORD`
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0  # 0: the usual one of that security
    security: Literal["starttls", "tls", "none"] = "starttls"
    when: When = "always"
    attach_mb: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10.0  # a larger report is not attached
    link: str = ""  # address of a report, with ``{report}`` for the name of its folder


@dataclass(frozen=True, slots=True)
class IssueSettings:
    """``[issues]``: the repository, and what its issues look like."""

    repository: str = ""  # ``owner/name``; else the environment's `GITHUB_REPOSITORY`
    labels: tuple[str, ...] = ("performance",)
    assignees: tuple[str, ...] = ()
    title: str = "{service}: {metric} {change} ({scenario})"
    most_new: Annotated[int, msgspec.Meta(ge=1)] = 5  # issues that one call may open; further ones wait for the next
    link: str = ""  # address of a report, with ``{report}`` for the name of its folder


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """``[chat]``: addresses of Apprise, whose secrets stand in variables (``"${SLACK_URL}"``), and a plain webhook."""

    urls: tuple[str, ...] = ()
    webhook: str = ""
    when: When = "changes"
    link: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a ``perfkit.toml`` says, laid over the defaults."""

    scenarios: Mapping[str, Scenario] = field(default_factory=lambda: BUILT_IN)
    policy: Policy = field(default_factory=Policy)
    store: str = field(default="data/runs", repr=False)  # may hold a password
    reports: Path = Path("reports")
    baselines: Path = Path("data/baselines")
    acknowledged: Path = Path("data/acknowledged.json")
    delivery: Path = Path("data/delivery")  # what was sent already, and what could not be sent yet
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
            with explained("secrets"):
                raise UnsetVariable(str(self.unusable[name])) from self.unusable[name]
        scenario = self.scenarios.get(name)
        if locustfile is not None:
            scenario = replace(scenario or Scenario(name, locustfile), locustfile=locustfile, demo=False)
        elif scenario is None:
            near, names = did_you_mean(name, self.scenarios), ", ".join(self.scenarios)
            with explained("scenarios"):
                if self.path is None:
                    raise SettingsError(
                        f"scenario {name!r}: not known{near}: no perfkit.toml is in this folder or above, and the "
                        f"built-in ones are {names}. `perfkit init --host URL` writes one; or add --locustfile FILE "
                        "--host URL"
                    )
                raise SettingsError(f"scenario {name!r}: not known{near}; known are {names} (in {self.path})")
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
    with Activity(f"reading {file}"), explained("perfkittoml"):
        table = read_table(read_toml(file), _SettingsTable, str(file))
        folder = file.resolve().parent
        scenarios, unusable = dict(BUILT_IN), {}
        with explained("scenarios"):
            for name, values in table.scenario.items():
                try:
                    scenarios[name] = _scenario(name, values, f"{file}: [scenario.{name}]", folder)
                except UnsetVariable as error:  # stops only what needs this scenario
                    scenarios.pop(name, None)
                    unusable[name] = error
        store = table.store
        with suppress(UnsetVariable):  # is named when the store is opened, and only then
            store = expand(store, f"{file}: store")
        with explained("policy"):
            policy = Policy.from_mapping(table.policy, f"{file}: [policy]")
        with explained("services"):
            policy = policy.with_service_names(table.services, str(file))
        with explained("messages"):
            email = read_table(table.email, EmailSettings, f"{file}: [email]", keys={"from": "sender"})
            issues = read_table(table.issues, IssueSettings, f"{file}: [issues]")
            chat = read_table(table.chat, ChatSettings, f"{file}: [chat]")
        return Settings(
            scenarios=scenarios,
            unusable=unusable,
            policy=policy,
            store=store if "${" in store or "://" in store else str(folder / store),
            reports=folder / table.reports,
            baselines=folder / table.baselines,
            acknowledged=folder / table.acknowledged,
            delivery=folder / table.delivery,
            email=email,
            issues=issues,
            chat=chat,
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
