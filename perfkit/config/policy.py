"""The policy of a comparison: tolerances and objectives, gating metrics, the chance of a false alarm.

A `Limit` bounds a worsening from the baseline, an `Objective` (SLO) the candidate's own level; `parse_slo` reads an
objective as people write it, ``p95 < 300 ms``.  A `Policy` checks itself when it is made, from Python or TOML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from perfkit.config.toml_table import check_keys, explained, finite, read_toml
from perfkit.model.errors import SettingsError, did_you_mean
from perfkit.model.records import RULES, SHORT_NAMES, Metric

MOST_REQUIRED_RUNS = 1000  # of one side; nobody waits for more

_LIMIT = re.compile(r"^\s*([+-]?)\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|pp|ms|rps|/s)\s*$")
_ABSOLUTE_UNITS = {Metric.ERROR_RATE: ("pp",), Metric.RPS: ("rps", "/s")}


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest worsening that is accepted: ``amount`` >= 0, in percent of the baseline or in the metric's own unit.

    ``Limit.parse("p95_latency_ms", "+50%")``, ``("error_rate_pct", "+0.5pp")``, ``("rps", "-30%")``,
    ``("avg_latency_ms", "+20ms")``.  A sign is optional; one that points to the *better* side is an error.  A plain
    number means percent of the baseline, percentage points for the error rate.
    """

    metric: Metric
    amount: float
    relative: bool

    def __post_init__(self) -> None:
        if not 0 <= self.amount < float("inf"):
            raise ValueError(f"{self.metric}: a tolerance must be a finite number >= 0, got {self.amount!r}")

    @classmethod
    def parse(cls, name: str, value: object) -> Limit:
        """Read a tolerance as people write it; ``ValueError`` says what is allowed."""
        metric = Metric(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f'{metric}: a tolerance is a number or text such as "+50%", got {value!r}')
        if isinstance(value, int | float):
            return cls(metric, finite(value), relative=metric is not Metric.ERROR_RATE)
        units = ("%", *_ABSOLUTE_UNITS.get(metric, ("ms",)))
        match = _LIMIT.match(value)
        if match is None or match[3] not in units:
            example = "-30%" if metric is Metric.RPS else "+0.5pp" if metric is Metric.ERROR_RATE else "+50%"
            raise ValueError(
                f'{metric}: a tolerance is a number with {" or ".join(units)}, such as "{example}", got {value!r}'
            )
        if match[1] and (-1 if match[1] == "-" else 1) != metric.worse:
            direction = "falls" if metric is Metric.RPS else "rises"
            raise ValueError(
                f"{metric}: gets worse when it {direction}, so the sign of {value!r} must be turned around"
            )
        return cls(metric, float(match[2]), relative=match[3] == "%")

    def in_change_unit(self, baseline: float | None) -> float | None:
        """The limit in the unit of a change (percent; pp for the error rate), seen from ``baseline``.

        ``None`` when it cannot be said, such as an absolute latency limit without a baseline value.
        """
        is_relative_change = self.metric is not Metric.ERROR_RATE
        if self.relative == is_relative_change:
            return self.amount
        if baseline is None or (is_relative_change and baseline == 0):
            return None
        return self.amount / baseline * 100.0 if is_relative_change else self.amount * baseline / 100.0

    def describe(self) -> str:
        """As it would be written: ``+50 %``, ``-30 %``, ``+0.5 pp``."""
        unit = "%" if self.relative else {"error_rate_pct": "pp", "rps": "rps"}.get(self.metric.value, "ms")
        return f"{'-' if self.metric.worse < 0 else '+'}{self.amount:g} {unit}"


@dataclass(frozen=True, slots=True)
class Objective:
    """An absolute limit (SLO) on a metric: at most ``amount``, for throughput at least, in the metric's own unit."""

    metric: Metric
    amount: float

    @classmethod
    def parse(cls, name: str, value: Any) -> Objective:
        """Read ``{"max": 300}``, or for throughput ``{"min": 50}``; ``ValueError`` says what is allowed."""
        metric = Metric(name)
        key = "min" if metric.worse < 0 else "max"
        if not isinstance(value, Mapping) or set(value) != {key}:
            raise ValueError(f"{metric}: an absolute limit is written {{{key} = 300}}, got {value!r}")
        amount = value[key]
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < finite(amount) < float("inf"):
            raise ValueError(f"{metric}: {key} must be a finite number > 0, got {amount!r}")
        return cls(metric, float(amount))

    def describe(self) -> str:
        """As people say it: ``at most 300 ms``."""
        return f"{'at least' if self.metric.worse < 0 else 'at most'} {self.amount:g} {self.metric.unit}"


EVIDENCE_TOLERANCE: Mapping[str, float | str] = MappingProxyType(
    {
        **{Metric.AVG: 5.0, Metric.P50: 5.0, Metric.P95: 10.0, Metric.P99: 15.0, Metric.P999: 25.0},
        **{Metric.ERROR_RATE: 0.5, Metric.RPS: 5.0},
    }
)
THRESHOLD_LIMITS: Mapping[str, float | str] = MappingProxyType(
    {Metric.ERROR_RATE: "+0.5%", Metric.RPS: "-30%", Metric.P95: "+50%"}
)
_METRIC_NAMES = tuple(metric.value for metric in Metric)
# Field of a policy -> its type, the range of a number, and what to write
_FIELDS: Mapping[str, tuple[Any, Callable[[Any], bool], str]] = {
    "tolerance": (Mapping, lambda _: True, 'a table such as {"p95_latency_ms": 10}'),
    "gating": (list | tuple, lambda _: True, 'a list of metrics such as ["avg_latency_ms", "rps"]'),
    "gate_share": (int | float, lambda value: 0 <= value <= 1, "a share of the requests from 0 (every service) to 1"),
    "alpha": (int | float, lambda value: 0 < value < 0.5, "a probability between 0 and 0.5"),
    "confidence": (int | float, lambda value: 0.5 < value < 1, "a level between 0.5 and 1"),
    "rule": (str, RULES.__contains__, f"one of {', '.join(RULES)}"),
    "required_runs": (
        int,
        lambda value: 1 <= value <= MOST_REQUIRED_RUNS,
        f"a whole number from 1 to {MOST_REQUIRED_RUNS}",
    ),
    "objectives": (Mapping, lambda _: True, 'a table such as {"p95_latency_ms": {"max": 300}}'),
    "scenarios": (Mapping, lambda _: True, "a table of tables of tolerances"),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What is accepted, and how sure a verdict must be.

    Parameters
    ----------
    tolerance
        Metric name to the largest accepted worsening (see `Limit`), laid over the defaults of the rule; ``"off"`` stops
        judging a metric.  A service name maps to a table of its own, laid over the common one:
        ``{"p95_latency_ms": 10.0, "rag_service": {"p95_latency_ms": 20.0}}``.  An absolute limit stands in
        ``objectives`` or, here, as ``{"p95_latency_ms": {"max": 300}}``, which leaves the tolerance as it is.
    objectives
        Metric name to an absolute limit (SLO), ``{"p95_latency_ms": {"max": 300}}``, ``{"rps": {"min": 50}}``; per
        service as above.  The candidate's level is judged against it, with its uncertainty.
    scenarios
        Scenario name to a tolerance table of its own, laid over the others for runs of that scenario.
    gating
        Metrics that must be shown unharmed before the whole comparison may say ``no_change``: in every service or, of
        many, in those that ``gate_share`` picks.
    gate_share
        Share of the requests in [0, 1] from which on a service gates where there are eight or more, beside the run as a
        whole and the services that have limits of their own; the others are watched.  0: every service gates.
    alpha
        Chance in (0, 0.5) that a whole comparison of identical builds calls any regression.
    confidence
        Level in (0.5, 1) of the reported intervals.
    rule
        ``evidence`` (a statistical judgement) or ``threshold`` (percentage change against fixed limits).
    service_names
        Service name to the name that it has now, ``{"/v1/items": "/v2/items"}``; one ``*`` on both sides stands for the
        same text, ``{"/v1/*": "/v2/*"}``.  Runs and limits are held under the new names.
    required_runs
        Runs that each side must have before anything is claimed of it; with fewer, the verdict is ``inconclusive``.
    """

    tolerance: Mapping[str, Any] = field(default_factory=dict)
    gating: tuple[str, ...] = (Metric.AVG.value, Metric.ERROR_RATE.value, Metric.RPS.value)
    alpha: float = 0.01
    confidence: float = 0.95
    rule: str = "evidence"
    required_runs: int = 1
    objectives: Mapping[str, Any] = field(default_factory=dict)
    scenarios: Mapping[str, Any] = field(default_factory=dict)
    service_names: Mapping[str, str] = field(default_factory=dict)
    gate_share: float = 0.05

    def __post_init__(self) -> None:
        for name, (kind, is_in_range, text) in _FIELDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not is_in_range(value):
                near = did_you_mean(str(value), RULES) if name == "rule" else ""
                raise ValueError(f"{name}: {text}, got {value!r}{near}")
        if not self.gating:
            raise ValueError("gating: name at least one metric; without one nothing could ever be shown unharmed")
        tolerance, moved = _without_objectives(_full_names(self.tolerance, "tolerance"))
        scenarios = {
            name: _full_names(table, f"scenarios: {name}") if isinstance(table, Mapping) else table
            for name, table in self.scenarios.items()
        }
        for name, value in (
            ("gating", tuple(Metric(name).value for name in self.gating)),
            ("tolerance", tolerance),
            ("objectives", _laid_over(_full_names(self.objectives, "objectives"), moved)),
            ("scenarios", scenarios),
            ("service_names", _service_names(self.service_names)),
        ):
            object.__setattr__(self, name, value)
        for service in (None, *self._with_objectives):
            self.objectives_of(service)
        limits = [self.limits(service) for service in (None, *self.services)]
        if not any(limits) and not self.objectives:
            raise ValueError("tolerance: every metric is off and there is no objective, so the policy judges nothing")
        for name in self.scenarios:
            try:
                self.for_scenario(name)
            except ValueError as error:
                raise ValueError(f"scenarios: {name}: {error}") from error

    @property
    def services(self) -> tuple[str, ...]:
        """Services that have tolerances of their own."""
        return tuple(name for name, value in self.tolerance.items() if isinstance(value, Mapping))

    @property
    def _with_objectives(self) -> tuple[str, ...]:
        return tuple(name for name in self.objectives if name not in _METRIC_NAMES)

    @property
    def limited_services(self) -> tuple[str, ...]:
        """Services that have tolerances or objectives of their own."""
        return tuple(dict.fromkeys((*self.services, *self._with_objectives)))

    def limits(self, service: str | None) -> dict[Metric, Limit]:
        """The limits that hold for one service, in the order of metrics; one that is switched off is absent."""
        table: dict[str, Any] = dict(EVIDENCE_TOLERANCE if self.rule == "evidence" else THRESHOLD_LIMITS)
        table |= {name: value for name, value in self.tolerance.items() if not isinstance(value, Mapping)}
        of_service = self.tolerance.get(service) if service is not None else None
        table |= of_service if isinstance(of_service, Mapping) else {}
        values = {Metric(name): value for name, value in table.items()}
        names = (metric for metric in Metric if values.get(metric, "off") != "off")
        return {metric: Limit.parse(metric, values[metric]) for metric in names}

    def limit(self, service: str, metric: str) -> Limit | None:
        """The limit that holds for one service and metric, or ``None`` where it is not judged."""
        return self.limits(service).get(Metric(metric))

    def names_limit(self, service: str, metric: str) -> bool:
        """Whether the policy itself, and not its rule's defaults, sets this limit."""
        table = self.tolerance.get(service)
        return metric in self.tolerance or (isinstance(table, Mapping) and metric in table)

    def objectives_of(self, service: str | None) -> tuple[Objective, ...]:
        """The absolute limits that hold for one service, in the order of metrics."""
        of_service = self.objectives.get(service, {}) if service is not None else {}
        if not isinstance(of_service, Mapping):
            near = did_you_mean(str(service), _METRIC_NAMES)
            raise ValueError(f"objectives: {service}: a table of metrics, got {of_service!r}{near}")
        table = {name: value for name, value in self.objectives.items() if name in _METRIC_NAMES} | dict(of_service)
        objectives = {Metric(name): Objective.parse(name, value) for name, value in table.items()}
        return tuple(objectives[metric] for metric in Metric if metric in objectives)

    def for_scenario(self, scenario: str) -> Policy:
        """The policy for runs of one scenario: its own tolerances laid over the others."""
        table = self.scenarios.get(scenario)
        if table is None:
            return self
        if not isinstance(table, Mapping):
            raise ValueError(f"scenarios: {scenario}: a table of tolerances, got {table!r}")
        return replace(self, tolerance=_laid_over(self.tolerance, table), scenarios={})

    def with_service_names(self, table: Any, source: str) -> Policy:
        """The same policy, with names of the settings (their table ``[services]``) laid under its own."""
        try:
            names = _service_names(table)
            return replace(self, service_names={**names, **self.service_names}) if names else self
        except ValueError as error:
            raise SettingsError(f"{source}: [services]: {str(error).removeprefix('service_names: ')}") from error

    def with_rule(self, rule: str | None) -> Policy:
        """The same policy under another rule; ``None`` keeps it."""
        return self if rule is None else replace(self, rule=rule)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], source: str = "policy") -> Policy:
        """Build from a TOML table; ``SettingsError`` names the source and the key that is wrong."""
        check_keys(table, [item.name for item in fields(cls)], source)
        try:
            return cls(**table)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{source}: {error}") from error

    @classmethod
    def from_toml(cls, path: str | Path) -> Policy:
        """Read a policy file: a TOML file whose ``[policy]`` table, or whose whole content, is the policy."""
        with explained("policy"):
            document = read_toml(Path(path))
            is_settings = "policy" in document or "services" in document  # their other tables mean something too
            table = document.get("policy", {}) if is_settings else document
            if not isinstance(table, Mapping):
                raise SettingsError(f"{path}: policy must be a table, such as [policy]")
            if is_settings:
                policy = cls.from_mapping(table, f"{path}: [policy]")
                return policy.with_service_names(document.get("services", {}), str(path))
            return cls.from_mapping(table, str(path))


def _service_names(table: Any) -> dict[str, str]:
    """Old name to new one, of ``{"/v1/items": "/v2/items"}`` or ``{"/v2/items": ["/v1/items", "/items"]}``."""
    if not isinstance(table, Mapping):
        raise ValueError(f'service_names: a table such as {{"/v1/items" = "/v2/items"}}, got {table!r}')
    names: dict[str, str] = {}
    for name, value in table.items():
        if not isinstance(value, str | list | tuple):
            raise ValueError(f"service_names: {name}: expected the name of a service, got {value!r}")
        pairs = [(name, value)] if isinstance(value, str) else [(old, name) for old in value]
        for old, new in pairs:
            if not isinstance(old, str) or not old or not isinstance(new, str) or not new:
                raise ValueError(f"service_names: {name}: expected the name of a service, got {value!r}")
            if names.get(old, new) != new:
                raise ValueError(f"service_names: {old!r} is given two names, {names[old]!r} and {new!r}")
            if old.count("*") > 1 or new.count("*") > old.count("*"):
                raise ValueError(f"service_names: {old!r} = {new!r}: one * on both sides, or on the left alone")
            if old != new:
                names[old] = new
    for old, new in names.items():
        if new in names:
            raise ValueError(
                f"service_names: {old!r} becomes {new!r}, and that {names[new]!r}: give both the last name"
            )
    return names


def _full_names(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A table of limits with its short names of metrics (``p95``) as full ones; ``ValueError`` for one named twice.

    >>> _full_names({"p95": 10, "checkout": {"errors": 1}}, "tolerance")
    {'p95_latency_ms': 10, 'checkout': {'error_rate_pct': 1}}
    """
    full: dict[str, Any] = {}
    for name, value in table.items():
        is_service = isinstance(value, Mapping) and not (value and set(value) <= {"min", "max"})
        now = name if is_service else SHORT_NAMES.get(str(name), name)
        if now in full:
            raise ValueError(f"{source}: {name!r} and {str(now)!r} are one metric; keep one of them")
        full[str(now)] = _full_names(value, f"{source}: {name}") if is_service else value
    return full


def _without_objectives(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tolerance table parted into tolerances and absolute limits."""
    tolerances: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for name, value in table.items():
        if name in _METRIC_NAMES:
            (limits if isinstance(value, Mapping) else tolerances)[name] = value
        elif isinstance(value, Mapping):
            tolerances[name], inner = _without_objectives(value)
            limits |= {name: inner} if inner else {}
        else:
            tolerances[name] = value
    return tolerances, limits


def _laid_over(table: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables; where both speak of a service, its tables are laid over each other too."""
    merged = dict(table)
    for name, value in upper.items():
        inner = merged.get(name)
        both = name not in _METRIC_NAMES and isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[name] = {**inner, **value} if both else value  # type: ignore[dict-item]
    return merged


_SLO_METRICS = {**SHORT_NAMES, **{metric.value: metric for metric in Metric}}
_UNITS = {"ms": 1.0, "s": 1000.0}
_SLO = re.compile(r"\s*([a-z][\w.]*)\s*(<=|<|≤)\s*(\d+(?:\.\d+)?)\s*(ms|s|%)?\s*", re.IGNORECASE)
EXAMPLES = "p95 < 300 ms, p99 < 1 s, avg < 80 ms or error_rate < 1 %"


def parse_slo(text: str) -> Objective:
    """Read an objective: one metric, ``<``, a number and its unit.

    Raises
    ------
    SettingsError
        It has another form, names an unknown metric (the nearest is named), or lacks its unit.

    Examples
    --------
    >>> parse_slo("p99<1s"), describe_slo(parse_slo("error_rate < 1 %"))
    (Objective(metric=<Metric.P99: 'p99_latency_ms'>, amount=1000.0), 'error rate below 1 %')
    """
    match = _SLO.fullmatch(text)
    if match is None:
        raise SettingsError(f"SLO {text!r}: write a metric, <, a number and its unit, such as {EXAMPLES}")
    word, _, number, unit = match.groups()
    metric = _SLO_METRICS.get(word.lower(), Metric.RPS)
    if metric is Metric.RPS:
        names = [name for name, metric in SHORT_NAMES.items() if metric is not Metric.RPS]
        raise SettingsError(
            f"SLO {text!r}: unknown metric {word!r}{did_you_mean(word.lower(), names)}; known are {', '.join(names)}"
        )
    units = ("%",) if metric is Metric.ERROR_RATE else tuple(_UNITS)
    unit = (unit or (metric.unit if word.lower() == metric.value else "")).lower()
    if unit not in units:
        raise SettingsError(f"SLO {text!r}: {metric.title} is in {' or '.join(units)}, got {unit or 'no unit'}")
    amount = float(number) * _UNITS.get(unit, 1.0)
    if amount <= 0 or (unit == "%" and amount >= 100):
        allowed = "above 0 and below 100 %" if unit == "%" else "above 0"
        raise SettingsError(f"SLO {text!r}: the limit must be {allowed}")
    return Objective(metric, amount)


def describe_slo(slo: Objective) -> str:
    """As a sentence says it: ``p95 latency below 300 ms``."""
    return f"{slo.metric.title} below {slo.amount:g} {slo.metric.unit}"
