"""The nouns of perfkit: metrics, services, runs, findings, comparisons.  No I/O happens here.

Units are in the names.  Times are UTC and aware.  What a source cannot say is ``None``, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from perfkit.model.arithmetic import Arithmetic
from perfkit.model.codec import Count, Share, Size, Time, encode, utc
from perfkit.model.errors import did_you_mean
from perfkit.model.load_profile import LoadProfile, Stage
from perfkit.model.redaction import public_url, redact, redact_names

if TYPE_CHECKING:
    import pandas as pd

COMPARISON_SCHEMA = "perfkit.comparison/1"
RULES = ("evidence", "threshold")  # of a policy: what a verdict rests on


class Metric(StrEnum):
    """One number per run and service.  A ``Metric`` equals its own name as text.

    >>> Metric("p95"), Metric("errors")
    (<Metric.P95: 'p95_latency_ms'>, <Metric.ERROR_RATE: 'error_rate_pct'>)
    """

    AVG = "avg_latency_ms"
    P50 = "p50_latency_ms"
    P95 = "p95_latency_ms"
    P99 = "p99_latency_ms"
    P999 = "p999_latency_ms"
    ERROR_RATE = "error_rate_pct"
    RPS = "rps"

    @classmethod
    def _missing_(cls, value: object) -> Metric | None:
        if metric := SHORT_NAMES.get(str(value).lower()):
            return metric
        known = [metric.value for metric in cls]
        raise ValueError(f"unknown metric {value!r}{did_you_mean(str(value), known)}; known are {', '.join(known)}")

    @property
    def quantile(self) -> float | None:
        """The quantile in (0, 1) of a percentile metric, else ``None``."""
        return _QUANTILES.get(self)

    @property
    def unit(self) -> str:
        """The unit of a value: ``ms``, ``%`` or ``1/s``."""
        return {Metric.ERROR_RATE: "%", Metric.RPS: "1/s"}.get(self, "ms")

    @property
    def change_unit(self) -> str:
        """The unit of a change: percent of the baseline, percentage points for the error rate."""
        return "pp" if self is Metric.ERROR_RATE else "%"

    @property
    def worse(self) -> int:
        """+1 where a larger value is worse, -1 where a smaller one is."""
        return -1 if self is Metric.RPS else 1

    @property
    def title(self) -> str:  # type: ignore[override]  # a metric is a text, but nobody title-cases one
        """How people say it: ``p95 latency``."""
        return _TITLES[self]


SHORT_NAMES: Mapping[str, Metric] = MappingProxyType(
    {
        "avg": Metric.AVG,
        "average": Metric.AVG,
        "mean": Metric.AVG,
        "p50": Metric.P50,
        "median": Metric.P50,
        "p95": Metric.P95,
        "p99": Metric.P99,
        "p99.9": Metric.P999,
        "p999": Metric.P999,
        "error_rate": Metric.ERROR_RATE,
        "errors": Metric.ERROR_RATE,
        "throughput": Metric.RPS,
    }
)
"""Names of metrics as people say them."""
LATENCY_METRICS = (Metric.AVG, Metric.P50, Metric.P95, Metric.P99, Metric.P999)
_QUANTILES = {Metric.P50: 0.5, Metric.P95: 0.95, Metric.P99: 0.99, Metric.P999: 0.999}
_TITLES = {
    Metric.AVG: "average latency",
    Metric.P50: "median latency",
    Metric.P95: "p95 latency",
    Metric.P99: "p99 latency",
    Metric.P999: "p99.9 latency",
    Metric.ERROR_RATE: "error rate",
    Metric.RPS: "throughput",
}


class Verdict(StrEnum):
    """What can be said of a finding or of a whole comparison."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    NO_CHANGE = "no_change"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Severity(StrEnum):
    """What a check means for its run or comparison."""

    OK = "ok"
    WARN = "warn"
    INVALID = "invalid"


class Scope(StrEnum):
    """What a finding is about: one service, or all services of a run together."""

    SERVICE = "service"
    RUN = "run"


ALL_SERVICES = "(all services)"
"""The service of findings whose scope is the run."""

DISTURBED = "disturbed"  # the check of a comparison whose sides were not measured alike


@dataclass(frozen=True, slots=True)
class Check:
    """One test of fitness: what was measured, what it was held against, and what to do."""

    name: str
    value: int | float | str | None
    limit: int | float | str | None
    severity: Severity
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Validity:
    """May this run be judged?  ``checks`` holds every check made, passed ones with severity ``ok``."""

    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """True unless a check found the run unfit."""
        return all(check.severity is not Severity.INVALID for check in self.checks)

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that did not pass, worst first."""
        bad = [check for check in self.checks if check.severity is not Severity.OK]
        return tuple(sorted(bad, key=lambda check: check.severity is not Severity.INVALID))


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """One service in one run: counts, and each metric with what is known of its error.

    Parameters
    ----------
    count, failures
        Requests and failed requests; ``None`` where the source cannot say.
    standard_errors
        Metric name to the standard error of its value *within this run*, in the metric's own unit, respecting
        autocorrelation.  Absent when unknown.
    resolutions
        Metric name to the step to which the source rounded it, same unit.  Absent when it is exact.
    assumed
        Metrics whose standard error rests on an assumption instead of a measurement inside the run.
    response_bytes
        Mean size of a response in bytes.
    errors
        Kind of error, such as ``HTTPError 500``, to how many requests failed with it: the most frequent kinds, where
        the source tells them.
    warnings
        What a reader must know before trusting these numbers.
    """

    OMITTED_DEFAULTS: ClassVar = (*Metric, "errors")  # of the JSON

    count: Count | None
    failures: Count | None
    avg_latency_ms: float | None = None
    p50_latency_ms: float | None = None
    p95_latency_ms: float | None = None
    p99_latency_ms: float | None = None
    p999_latency_ms: float | None = None
    error_rate_pct: float | None = None
    rps: float | None = None
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    resolutions: Mapping[str, float] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    response_bytes: Size | None = None
    warnings: tuple[str, ...] = ()
    errors: Mapping[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric in Metric:
            value = self.value(metric)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{metric}: must be a finite number >= 0, got {value!r}")
        for title, table in (("standard_errors", self.standard_errors), ("resolutions", self.resolutions)):
            for name, error in table.items():
                if not (math.isfinite(error) and error >= 0):
                    raise ValueError(f"{title}: {name}: must be a finite number >= 0, got {error!r}")
                Metric(name)
        for name in self.assumed:
            Metric(name)

    def value(self, metric: str) -> float | None:
        """The value of ``metric``, or ``None`` where the source cannot say."""
        value: float | None = getattr(self, Metric(metric).value)
        return value

    def standard_error(self, metric: str) -> float | None:
        """Standard error of ``metric`` within this run, rounding of the source included (step^2/12)."""
        error = self.standard_errors.get(Metric(metric))
        step = self.resolutions.get(Metric(metric), 0.0)
        if error is None:
            return None
        return math.hypot(error, step / math.sqrt(12.0))


@dataclass(frozen=True, slots=True)
class StageStats:
    """One stage of a run: what was asked for, when it was (seconds after the run's start), and its services."""

    name: str
    stage: Stage
    begin_s: float
    end_s: float
    services: Mapping[str, ServiceStats]

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", _public(self.services))


AB_SIDES = ("baseline", "candidate")  # values of the label ``side`` of runs of an A/B test; ``pair`` numbers them


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of one load test: the unit of inference.

    ``requests()`` gives every request as a DataFrame (columns ``start`` in seconds since the epoch, ``service``,
    ``response_time_ms``, ``failed`` and what else was recorded), or ``None`` when only a summary exists.
    """

    id: str
    scenario: str
    started_at: datetime | None
    duration_s: float | None
    profile: LoadProfile
    validity: Validity
    services: Mapping[str, ServiceStats]
    tool: str = "unknown"
    target: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    git: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    locustfile_hash: str | None = None
    content_hash: str | None = None
    stages: tuple[StageStats, ...] = ()  # one per stage of the profile; empty when the load is one level
    source: str | None = None
    summary_requests: int | None = None  # of a run whose services are not at hand, as a result file tells it
    load_requests: Callable[[], pd.DataFrame] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.started_at is not None and self.started_at.tzinfo is None:
            raise ValueError(f"started_at: must be an aware time, got {self.started_at!r}")
        # Here, so that no reader, of older runs either, hands a secret on to what is compared, shown or kept.
        object.__setattr__(self, "target", public_url(self.target) if isinstance(self.target, str) else self.target)
        for name in ("services", "labels", "environment", "git", "versions"):
            object.__setattr__(self, name, _public(getattr(self, name)))

    @property
    def request_count(self) -> int | None:
        """Requests of all services; ``None`` where one of them cannot say."""
        counts = [stats.count for stats in self.services.values()]
        return sum(count or 0 for count in counts) if counts and None not in counts else self.summary_requests

    @property
    def in_ab_test(self) -> bool:
        """Whether the run is one of a pair of an A/B test (`perfkit run --compare-with`): in no history then."""
        return self.labels.get("side") in AB_SIDES and bool(self.labels.get("pair"))

    def requests(self) -> pd.DataFrame | None:
        """Every request of the run, or ``None`` when only a summary was kept."""
        return self.load_requests() if self.load_requests is not None else None

    def to_frame(self) -> pd.DataFrame:
        """One row per service: count, failures, every metric and its standard error (``NaN`` where unknown)."""
        import pandas as pd

        rows = {name: _service_row(stats) for name, stats in self.services.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("service")


def _public(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A table without secrets; the table itself where there are none."""
    public = {name: redact(value) if isinstance(value, str) else value for name, value in redact_names(table).items()}
    return table if public == table else public


def _service_row(stats: ServiceStats) -> dict[str, float | None]:
    row: dict[str, float | None] = {"count": stats.count, "failures": stats.failures}
    for metric in Metric:
        row[metric.value] = stats.value(metric)
        row[f"{metric.value}_se"] = stats.standard_error(metric)
    return row


@dataclass(frozen=True, slots=True)
class Finding:
    """One service x metric (x stage) of a comparison: effect, interval, p and verdict.

    ``stage`` is the stage of the load that was compared, ``None`` where it is the whole run; ``scope`` tells whether
    the finding is about one service or about the run, all services together.
    ``change_pct`` is percent of the baseline (infinite from zero); ``change_abs`` is in the metric's unit.  ``ci_low``
    and ``ci_high`` bound the 95 % interval (or the level asked for) in ``change_unit``: percent of the baseline, or
    percentage points for the error rate (the threshold rule: in the unit of its limit).  ``p_value`` is the one-sided p
    in the direction seen, for this finding alone; ``p_adjusted`` is corrected over all findings.  ``tolerance`` and
    ``min_detectable`` are worsenings >= 0 in ``change_unit``.  ``runs_needed`` counts further runs on each side;
    ``None`` where more runs would not settle it.  Of an ``objective`` (an absolute limit) ``baseline`` is the limit.
    ``arithmetic`` holds the numbers that led to the verdict; ``None`` in results of older versions.
    """

    service: str
    metric: str
    unit: str
    change_unit: str
    baseline: float | None
    candidate: float | None
    change_pct: float | None
    change_abs: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: Share | None
    p_adjusted: Share | None
    verdict: Verdict
    tolerance: Size | None
    limit: str
    gating: bool
    min_detectable: Size | None = None
    runs_needed: Count | None = None
    requests_needed: Count | None = None
    objective: bool = False
    warnings: tuple[str, ...] = ()
    stage: str | None = None
    scope: Scope = Scope.SERVICE
    arithmetic: Arithmetic | None = field(default=None, repr=False)

    @property
    def json_form(self) -> dict[str, Any]:
        """The fields, but ``service`` is the `label`, as in results that knew no field for the stage."""
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "service": self.label}

    @property
    def label(self) -> str:
        """The service as results name it, with its stage: ``checkout, stage 2: 40 users``; unique for each metric."""
        return staged_label(self.service, self.stage)

    @property
    def change(self) -> float | None:
        """The change in ``change_unit``: what the interval and the tolerance are about."""
        return self.change_pct if self.change_unit == "%" else self.change_abs


def staged_label(service: str, stage: str | None) -> str:
    """A service and its stage in one text, as `Finding.label`."""
    return service if stage is None else f"{service}, {stage}"


@dataclass(frozen=True, slots=True)
class Side:
    """The runs of one side of a comparison; its JSON holds their summaries."""

    runs: tuple[Run, ...]

    @property
    def json_form(self) -> dict[str, Any]:
        """What a result file keeps of the side."""
        return {"runs": [RunSummary.of(run) for run in self.runs]}


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a result file: identity, load, fitness and number of requests; no metrics.

    ``checks`` are those that did not pass, ``profile`` is ``load`` in words.
    """

    id: str
    scenario: str
    started_at: Time | None
    duration_s: Size | None
    profile: str = ""
    load: LoadProfile = LoadProfile()
    requests: Count | None = None
    tool: str
    target: str | None
    labels: Mapping[str, str]
    git: Mapping[str, str]
    environment: Mapping[str, str]
    valid: bool = True
    checks: tuple[Check, ...]
    source: str | None

    def __post_init__(self) -> None:
        if self.started_at is not None:
            msgspec.structs.force_setattr(self, "started_at", utc(self.started_at))

    @classmethod
    def of(cls, run: Run) -> RunSummary:
        """The summary of a run."""
        return cls(
            profile=run.profile.describe(),
            load=run.profile,
            requests=run.request_count,
            valid=run.validity.ok,
            checks=run.validity.problems,
            **{name: getattr(run, name) for name in _SUMMARISED},
        )

    def run(self) -> Run:
        """A run without services, which the summary does not hold."""
        return Run(
            profile=self.load,
            validity=Validity(self.checks),
            services={},
            summary_requests=self.requests,
            **{name: getattr(self, name) for name in _SUMMARISED},
        )


_SUMMARISED = (
    *("id", "scenario", "started_at", "duration_s", "tool", "target"),
    *("labels", "git", "environment", "source"),
)


@dataclass(frozen=True, slots=True)
class HistoryNote:
    """What the history of a scenario adds to a comparison.

    ``news`` are sentences on changes that are reason to object, told first; ``lines`` say everything; ``document``
    holds it as plain JSON values.
    """

    news: tuple[str, ...]
    lines: tuple[str, ...]
    document: Mapping[str, Any]

    @property
    def advice(self) -> tuple[str, ...]:
        """What its next step names: services that are gone, another machine."""
        return tuple(map(str, self.document.get("advice") or ()))

    @property
    def json_form(self) -> dict[str, Any]:
        """The document, with the sentences."""
        return {**self.document, "news": list(self.news), "lines": list(self.lines)}


@dataclass(frozen=True, slots=True)
class Gap:
    """What a comparison lacks or doubts, such as a service that the candidate did not call, and what to do about it.

    It hides no finding, and keeps the verdict from being ``no_change`` or ``improvement``.  ``services`` are those of
    which the baseline has requests and the candidate has none, where it is about such.
    """

    text: str
    advice: str = ""
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Candidate against baseline: one verdict, its findings, and what to know about them.

    While there are ``gaps`` it is not green: they say what is missing or in doubt.
    """

    OMITTED_DEFAULTS: ClassVar = ("history",)  # of the JSON

    verdict: Verdict
    comparable: bool
    rule: str
    alpha: float
    confidence: float
    baseline: Side
    candidate: Side
    gaps: tuple[Gap, ...] = ()
    warnings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    history: HistoryNote | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document ``perfkit.comparison/1``."""
        return {"schema": COMPARISON_SCHEMA, **encode(self)}

    def to_frame(self) -> pd.DataFrame:
        """One row per finding, in the order of ``findings``."""
        import pandas as pd

        names = [name for name in Finding.__dataclass_fields__ if name != "arithmetic"]
        rows = [
            {**{n: getattr(f, n) for n in names}, "verdict": f.verdict.value, "scope": f.scope.value}
            for f in self.findings
        ]
        return pd.DataFrame(rows, columns=names)

    def with_warnings(self, more: Iterable[str]) -> Comparison:
        """The same comparison with what else must be known of it."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *more))))

    @property
    def disturbance(self) -> str | None:
        """The sentence that says that the sides were not measured alike; ``None`` where nothing speaks for it."""
        return next((check.advice for check in self.checks if check.name == DISTURBED), None)

    def for_service(self, name: str) -> Comparison:
        """The comparison of one service: its findings, and the verdict that they come to on their own.

        Its p-values stay corrected over all findings of the whole comparison.

        Raises
        ------
        ValueError
            The service is not compared; names the nearest.
        """
        findings = tuple(finding for finding in self.findings if finding.service == name)
        if not findings:
            names = tuple(dict.fromkeys(finding.service for finding in self.findings))
            near = did_you_mean(name, names)
            raise ValueError(f"service: {name!r} is not compared{near}; compared are {', '.join(names) or 'none'}")
        gaps = tuple(gap for gap in self.gaps if not gap.services or name in gap.services)
        verdict = overall_verdict(findings, self.rule, gaps) if self.comparable else self.verdict
        return replace(self, verdict=verdict, findings=findings, gaps=gaps)

    def by_verdict(self, verdict: Verdict) -> tuple[Finding, ...]:
        """The findings with that verdict, in order."""
        return tuple(finding for finding in self.findings if finding.verdict is verdict)


def overall_verdict(findings: Sequence[Finding], rule: str, gaps: Sequence[Gap] = ()) -> Verdict:
    """The verdict of a whole comparison whose sides are fit, from those of its findings and from what is missing."""
    if any(finding.verdict is Verdict.REGRESSION for finding in findings):
        return Verdict.REGRESSION
    if gaps or any(finding.gating and finding.verdict is Verdict.INCONCLUSIVE for finding in findings):
        return Verdict.INCONCLUSIVE
    if findings and all(finding.verdict is Verdict.INCONCLUSIVE for finding in findings):
        return Verdict.INCONCLUSIVE
    if rule == "evidence" and not any(finding.gating for finding in findings):
        return Verdict.INCONCLUSIVE
    if any(finding.verdict is Verdict.IMPROVEMENT for finding in findings):
        return Verdict.IMPROVEMENT
    return Verdict.NO_CHANGE


def environment_of(run: Run) -> dict[str, str]:
    """Environment of a run by name: ``environment: cpu``, ``version of locust``, ``load script``, ``tool``."""
    facts = {"tool": run.tool, "load script": run.locustfile_hash}
    facts |= {f"environment: {key}": value for key, value in run.environment.items()}
    facts |= {f"version of {key}": value for key, value in run.versions.items()}
    return {name: str(value) for name, value in facts.items() if value}
