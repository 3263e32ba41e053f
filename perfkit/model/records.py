"""The nouns of perfkit: `Metric`, `LoadProfile`, `Run`, `Finding`, `Comparison` and what they are made of.

All are immutable and read no files.  Units are in the names (``_ms``, ``_pct``, ``rps``, ``_s``); times are UTC and
aware; what a source does not know is ``None``, never zero.  A change is relative to the baseline, that of an error rate
is in percentage points (pp).  Each record has one JSON form: its fields, as `perfkit.model.codec.encode` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from perfkit.model.codec import Count, Share, Size, Time, encode, utc
from perfkit.model.errors import did_you_mean
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
        names = [metric.value for metric in cls]
        raise ValueError(f"unknown metric {value!r}{did_you_mean(str(value), names)}; known are {', '.join(names)}")

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


_METRICS = {metric.value: metric.value for metric in Metric}  # by plain names attributes are found in half of the time
_NAMES, _values_of = frozenset(_METRICS), attrgetter(*_METRICS)
SHORT_NAMES: Mapping[str, Metric] = MappingProxyType(
    {
        **dict.fromkeys(("avg", "average", "mean"), Metric.AVG),
        **dict.fromkeys(("p50", "median"), Metric.P50),
        **{"p95": Metric.P95, "p99": Metric.P99},
        **dict.fromkeys(("p99.9", "p999"), Metric.P999),
        **dict.fromkeys(("error_rate", "errors"), Metric.ERROR_RATE),
        "throughput": Metric.RPS,
    }
)
"""Names of metrics as people say them."""
LATENCY_METRICS = (Metric.AVG, Metric.P50, Metric.P95, Metric.P99, Metric.P999)
_QUANTILES = {Metric.P50: 0.5, Metric.P95: 0.95, Metric.P99: 0.99, Metric.P999: 0.999}
_TITLES = {
    **{Metric.AVG: "average latency", Metric.P50: "median latency", Metric.P95: "p95 latency"},
    **{Metric.P99: "p99 latency", Metric.P999: "p99.9 latency"},
    **{Metric.ERROR_RATE: "error rate", Metric.RPS: "throughput"},
}


class Severity(StrEnum):
    """What a check means for its run or comparison."""

    OK = "ok"
    WARN = "warn"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a run's or a comparison's fitness.

    Parameters
    ----------
    name
        Such as ``generator_saturated``; the same for the same check of every run.
    value, limit
        What was measured, and the bound that it must keep; in the unit that the name or the advice says.
    severity
        ``ok``: passed; ``warn``: shown with the result; ``invalid``: the run must not be judged.
    advice
        What to do, in a sentence; empty for a check that passed.
    """

    name: str
    value: int | float | str | None
    limit: int | float | str | None
    severity: Severity
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether a run may be judged: all checks that were made, also those that passed."""

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


KINDS = ("steady", "ramp", "stages", "spike", "soak")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of load that is held, or moves in a straight line from ``begin`` to ``end`` (users, or arrivals/s)."""

    duration_s: float
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not 0 < self.duration_s < math.inf:
            raise ValueError(f"stage: its length must be > 0 s and finite, got {self.duration_s!r}")
        for level in (self.begin, self.end):
            if not 0 <= level < math.inf:
                raise ValueError(f"stage: its load must be >= 0 and finite, got {level!r}")

    def describe(self, unit: str) -> str:
        """``40 users`` or ``10 to 40/s``; ``unit`` is `LoadProfile.unit`."""
        levels = f"{self.end:g}" if self.begin == self.end else f"{self.begin:g} to {self.end:g}"
        return f"{levels}{unit if unit.startswith('/') else ' ' + unit}"


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """Load over time as it was asked for (or, from a foreign file, seen).

    Parameters
    ----------
    kind
        ``steady``, ``ramp``, ``stages``, ``spike``, ``soak``, ``custom`` (the locustfile's own shape), ``declared`` (by
        a file of metrics) or ``unknown``.
    users
        Peak number of concurrent users; ``None`` in the open model.
    spawn_rate
        Users started per second; ``None`` when unknown.
    duration_s
        Planned length in seconds; ``None`` when the locustfile decides or the source cannot say.
    rate
        Peak arrivals per second: the open model; else ``None``.
    arrivals
        ``constant`` or ``poisson`` distances between arrivals; ``None`` in the closed model.
    max_in_flight
        Tasks that may be under way at once in the open model; further arrivals wait, and count as late.
    stages
        The stretches that are summed up by themselves, in order; empty when the load is one level after its rise.
    """

    OMITTED_DEFAULTS: ClassVar = ("rate", "arrivals", "max_in_flight", "stages")  # of the JSON

    kind: str = "unknown"
    users: Count | None = None
    spawn_rate: Size | None = None
    duration_s: Size | None = None
    rate: Size | None = None
    arrivals: str | None = None
    max_in_flight: Count | None = None
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "spike" and not self.stages:
            raise ValueError("stages: a spike has some")

    @property
    def is_open(self) -> bool:
        """Whether arrivals keep to a schedule, whatever the target does."""
        return self.rate is not None

    @property
    def unit(self) -> str:
        """The unit of the levels of its stages."""
        return "/s" if self.is_open else "users"

    @property
    def load_curve(self) -> tuple[Stage, ...]:
        """The whole load in stages: one, where it is a single level."""
        level = self.rate if self.is_open else self.users
        if self.stages or level is None or self.duration_s is None:
            return self.stages
        return (Stage(self.duration_s, level, level),)

    def level_at(self, elapsed_s: float) -> float | None:
        """Users or arrivals per second that are due so long after the start; ``None`` once the load is over."""
        begin = 0.0
        for stage in self.load_curve:
            if elapsed_s < begin + stage.duration_s:
                return stage.begin + (stage.end - stage.begin) * (elapsed_s - begin) / stage.duration_s
            begin += stage.duration_s
        return None

    def stage_name(self, number: int) -> str:
        """``stage 2: 40 users``; numbers count from 0, names from 1."""
        return f"stage {number + 1}: {self.stages[number].describe(self.unit)}"

    def describe(self) -> str:
        """One phrase for people: ``ramp to 100 users at 10/s, 900 s`` or ``steady 50/s (poisson arrivals), 60 s``."""
        if self.users is None and self.rate is None:
            return "custom load shape" if self.kind == "custom" else "unknown load"
        top = f"{self.rate:g}/s" if self.is_open else "1 user" if self.users == 1 else f"{self.users} users"
        load = f"{self.kind} {top}" if self.kind in KINDS else top
        if self.kind == "ramp":
            load = f"ramp to {top}" + (f" at {self.spawn_rate:g}/s" if self.spawn_rate else "")
        elif self.kind == "stages":
            load = f"{len(self.stages)} stages up to {top}"
        elif self.kind == "spike":
            load = f"spike from {self.stages[0].describe(self.unit)} to {top}"
        arrivals = f" ({self.arrivals} arrivals)" if self.is_open else ""
        return load + arrivals + (f", {self.duration_s:g} s" if self.duration_s else "")


@dataclass(frozen=True, slots=True)
class Tail:
    """The slowest twentieth of the requests of one service in one run, so that runs can be taken together.

    Parameters
    ----------
    requests
        Requests behind it (the steady part of the run).
    latencies_ms
        Their latencies at `QUANTILES`, the last of which is the longest; milliseconds.
    dispersion
        How much more the share of requests above p99.5 scatters between stretches of the run than that of independent
        requests; 1 where it does not.
    """

    QUANTILES: ClassVar = (0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.9985, 0.999, 0.9995, 1.0)

    requests: Count
    latencies_ms: tuple[Size, ...]
    dispersion: Size = 1.0

    def __post_init__(self) -> None:
        if len(self.latencies_ms) != len(self.QUANTILES) or list(self.latencies_ms) != sorted(self.latencies_ms):
            raise ValueError(f"latencies_ms: must be {len(self.QUANTILES)} ascending latencies")
        if not (self.latencies_ms[0] >= 0 and self.latencies_ms[-1] < math.inf and 1 <= self.dispersion < math.inf):
            raise ValueError("latencies_ms must be finite, and dispersion at least 1")


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """One service in one run: counts, and each metric with its standard error.

    Parameters
    ----------
    count, failures
        Requests and failed requests; ``None`` where the source cannot say.
    avg_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms, p999_latency_ms
        Mean and percentiles of the response times of all requests, failed ones too; milliseconds.
    error_rate_pct
        Failed requests in percent of all, 0 to 100.
    rps
        Throughput: requests per second.
    standard_errors
        Metric name to the standard error of its value *within this run*, in the metric's own unit, respecting
        autocorrelation.  Absent when unknown.
    resolutions
        Metric name to the step to which the source rounded it, same unit.  Absent when it is exact.
    assumed
        Metrics whose standard error rests on an assumption instead of a measurement inside the run.
    response_bytes
        Mean size of a response in bytes.
    warnings
        Limits of these numbers, such as rounding by the source.
    errors
        Kind of error, such as ``HTTPError 500``, to the number of requests that failed with it; the most frequent
        kinds, where the source names them.
    error_times
        The same kinds to when the first and the last such request began, where the source has times; under the empty
        kind those of all failed requests, where it has no kinds.
    max_latency_ms
        The longest response time of all its requests, in milliseconds; no metric, because one request makes it.
    persistence
        How much of the noise within the run is in slow waves: the exponent b of its spectrum ``1 / f^b``.  0: parts of
        the run are independent; above it, runs scatter more among themselves than each foretells.  ``None``: not known.
    tail
        The slowest twentieth of its requests; ``None`` from a summary file, of fewer than 72 requests, and in runs that
        an older perfkit stored.
    """

    OMITTED_DEFAULTS: ClassVar = (*Metric, "errors", "error_times", "max_latency_ms", "persistence", "tail")

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
    error_times: Mapping[str, tuple[Time, Time]] = field(default_factory=dict)
    max_latency_ms: Size | None = None
    persistence: float | None = None
    tail: Tail | None = None

    def __post_init__(self) -> None:
        # Stores of many runs are read through here: only where something is wrong is it looked for one by one
        errors, steps = self.standard_errors, self.resolutions
        values = _values_of(self)
        measured = values if None not in values else [value for value in values if value is not None]
        numbers = (*measured, *errors.values(), *steps.values())
        if not (min(numbers, default=0.0) >= 0 and sum(numbers) < math.inf):
            parts = {"": dict(zip(_METRICS, values, strict=True))}
            for title, table in (parts | {"standard_errors: ": errors, "resolutions: ": steps}).items():
                for name, value in table.items():
                    if value is not None and not 0 <= value < math.inf:
                        raise ValueError(f"{title}{name}: must be a finite number >= 0, got {value!r}")
        for names in (errors, steps, self.assumed):
            if not _NAMES.issuperset(names):
                list(map(Metric, names))
        if self.persistence is not None and not -2.0 <= self.persistence <= 2.0:
            raise ValueError(f"persistence: must be an exponent from -2 to 2, got {self.persistence!r}")

    def value(self, metric: str) -> float | None:
        """The value of ``metric``, or ``None`` where the source cannot say."""
        value: float | None = getattr(self, _METRICS.get(metric) or Metric(metric))
        return value

    @property
    def failures_by_kind(self) -> Mapping[str, int]:
        """All failed requests by kind: those that are kept by name, and the rest; empty where none is known."""
        rest = (self.failures or 0) - sum(self.errors.values())
        return {**self.errors, **({OTHER_KINDS if self.errors else "": rest} if rest > 0 else {})}

    def standard_error(self, metric: str) -> float | None:
        """Standard error of ``metric`` within this run, rounding of the source included (step^2/12)."""
        name = _METRICS.get(metric) or Metric(metric)
        error, step = self.standard_errors.get(name), self.resolutions.get(name)
        return math.hypot(error, step / math.sqrt(12.0)) if step and error is not None else error


def values_of(stats: Sequence[ServiceStats], metric: Metric) -> list[float | None]:
    """`ServiceStats.value` of many at once, in a fifth of the time."""
    return list(map(attrgetter(metric.value), stats))


def standard_errors_of(stats: Sequence[ServiceStats], metric: Metric) -> list[float | None]:
    """`ServiceStats.standard_error` of many at once."""
    name = metric.value
    return [of.standard_error(name) if of.resolutions else of.standard_errors.get(name) for of in stats]


@dataclass(frozen=True, slots=True)
class StageStats:
    """One stage of a run's load profile: its planned load, its time in seconds after the run's start, its services."""

    name: str
    stage: Stage
    begin_s: float
    end_s: float
    services: Mapping[str, ServiceStats]

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", _public(self.services))


OTHER_KINDS = "other kinds"  # of error: those that a run does not keep by name


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """Failed requests of one kind at one service, over all runs of each side.

    Parameters
    ----------
    kind
        Class of the exception, such as ``HTTPError``; empty where the source names none, `OTHER_KINDS` for what a run
        does not keep by name.
    status
        HTTP status; ``None`` where none came, or none is known.
    baseline, candidate
        Failed requests; ``None`` where the runs of that side cannot say.  Of a single side ``candidate`` is 0.
    baseline_requests, candidate_requests
        All requests of the service on that side; 0 where it was not called.
    first, last
        When the first and the last of them began, over both sides; ``None`` where the source has no times.
    change
        ``new`` and ``gone`` where only one side has any, ``more`` and ``fewer`` where their share of the requests
        differs beyond what chance would do to single requests; else empty.  The verdict on the error rate is that of
        its finding, which knows how much runs scatter.
    """

    service: str
    kind: str
    status: int | None = None
    baseline: Count | None = None
    candidate: Count | None = None
    baseline_requests: Count = 0
    candidate_requests: Count = 0
    first: Time | None = None
    last: Time | None = None
    change: str = ""

    @property
    def name(self) -> str:
        """``HTTPError 500``, as runs hold it; ``kind not recorded`` where the source names none."""
        return " ".join(map(str, filter(None, (self.kind or "kind not recorded", self.status))))


AB_SIDES = ("baseline", "candidate")  # values of the label ``side`` of runs of an A/B test; ``pair`` numbers them


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of one load test: the unit of inference.

    Parameters
    ----------
    id
        ``20251017T143004Z-api-3f9c``: UTC start, scenario and 4 hex digits; unique in its store.
    scenario
        Name of the load test.
    started_at
        Aware time of the start (UTC in stored runs); ``None`` where the source does not say.
    duration_s
        Length of the run in seconds; ``None`` where unknown.
    profile
        The load that was asked for.
    validity
        The checks of the run.
    services
        Name of a service to its metrics, over the run without its warm-up.
    tool
        What made the load, with its version: ``locust 2.41.6``.
    target
        URL of the service under test, without user info and query values.
    labels
        Free pairs of the user; ``side`` and ``pair`` mark a run of an A/B test.
    environment
        Fingerprint of the machine that made the load: ``cpu``, ``cores``, ``machine``, ``os``, ``python``.
    git
        ``commit``, ``branch`` and ``dirty`` (``yes`` or ``no``) of the build that was measured, where known.
    versions
        Package to version, of the load generator: perfkit, Locust, gevent.
    locustfile_hash, content_hash
        SHA-256 of the load script, and of the requests or the summary; equal hashes: the same content.
    stages
        One entry per stage of the profile; empty when the load is one level.
    source
        Path or URL that the run was read from.
    summary_requests
        Number of requests, of a run whose services are not at hand: one of a result file.
    load_requests
        Reads the requests for `requests`; ``None`` when only a summary was kept.
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
    stages: tuple[StageStats, ...] = ()
    source: str | None = None
    summary_requests: int | None = None
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

    if TYPE_CHECKING:

        @property
        def plot(self) -> Any:
            """The figures of the run, which `perfkit/__init__` registers: `perfkit.report.plot.RunsPlots`."""

    def requests(self) -> pd.DataFrame | None:
        """One row per request, or ``None`` when only a summary was kept.

        Columns ``start`` (seconds since the epoch), ``service``, ``response_time_ms``, ``failed``, and whatever else
        was recorded.
        """
        return self.load_requests() if self.load_requests is not None else None

    def to_frame(self) -> pd.DataFrame:
        """One row per service: count, failures, every metric and its standard error (``NaN`` where unknown)."""
        import pandas as pd

        rows: dict[str, dict[str, float | None]] = {}
        for name, stats in self.services.items():
            rows[name] = {"count": stats.count, "failures": stats.failures}
            for metric in Metric:
                rows[name] |= {metric.value: stats.value(metric), f"{metric.value}_se": stats.standard_error(metric)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("service")

    def errors(self) -> pd.DataFrame:
        """Failed requests by service and kind of error, the most frequent first; empty where none failed.

        Columns ``service``, ``kind`` (class of the exception and HTTP status), ``count``, and ``first`` and ``last``,
        when such requests began (UTC; ``NaT`` where the source has no times).
        """
        import pandas as pd

        rows = [
            (name, kind, count, *stats.error_times.get(kind, (None, None)))
            for name, stats in self.services.items()
            for kind, count in stats.failures_by_kind.items()
        ]
        frame = pd.DataFrame(rows, columns=["service", "kind", "count", "first", "last"])
        times = {name: pd.to_datetime(frame[name], utc=True) for name in ("first", "last")}
        return frame.assign(**times).sort_values("count", ascending=False, kind="stable", ignore_index=True)


def _public(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A table without secrets; the table itself where there are none."""
    public = {name: redact(value) if isinstance(value, str) else value for name, value in redact_names(table).items()}
    return table if public == table else public


class Verdict(StrEnum):
    """The result of a finding, or of a whole comparison.

    ``regression``: the worsening is significant and its estimate exceeds the tolerance.  ``improvement``: the mirror
    image.  ``no_change``: the worse end of the interval lies within the tolerance.  ``inconclusive``: none of these.
    ``invalid``: the runs are unfit, or cannot be compared.
    """

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    NO_CHANGE = "no_change"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Scope(StrEnum):
    """What a finding is about: one service, or all services of a run together."""

    SERVICE = "service"
    RUN = "run"


ALL_SERVICES = "(all services)"
"""The service of findings whose scope is the run."""


DISTURBED = "disturbed"  # name of the check that the two sides were measured under the same conditions


@dataclass(frozen=True, slots=True)
class LevelArithmetic:
    """A latency or throughput on the logarithmic scale: how much runs scatter, and the t test."""

    # mean log value of the baseline, or the logarithm of an absolute limit, and that of the candidate
    means: tuple[float, float]
    shift: float  # the second mean less the first
    # within_sd, measured: standard deviation of a value within its run, and whether the runs measured it themselves
    within_sd: Size
    measured: bool
    # prior_sd, prior_df, weight: what is expected of the scatter between runs, and the degrees of freedom that are left
    # of it where the runs contradict it
    prior_sd: Size
    prior_df: Size
    weight: Size
    # squares, squares_df: sums of squares around the mean of each side, or of the differences of pairs over the root of
    # two
    squares: tuple[Size, ...]
    squares_df: Size
    # history_squares, history_df: the same of earlier runs; zeros where none are used
    history_squares: Size
    history_df: Size
    # sd, df, floor_sd: run-to-run standard deviation: ``sqrt((weight prior_sd^2 + squares + history_squares) / df)``,
    # not below ``floor_sd``, which the rounding of the source leaves
    sd: Size
    df: Size
    runs: tuple[Count, ...]  # numbers n of runs: ``error = sd sqrt(sum(1/n) + weekday_error)``
    # error, quantile: standard error of ``shift``, and the quantile of Student's t that makes the interval of it
    error: Size
    quantile: Size
    floor_sd: Size = 0.0
    services: Count = 0  # services of the same runs that told of the prior; 0 where none did
    persistence: float | None = None  # how much of it is in slow waves, where all runs can tell (`NoisePrior`)
    # prior_level: where the prior is what the runs foretell: how many times that is expected; ``None``: it is not, or
    # an older version wrote this
    prior_level: Size | None = None
    # weekday_factors, weekday_error: the factor of each weekday, Monday first, that was taken out of the values, and
    # what its error adds under the root of `error`; empty and 0 where nothing was
    weekday_factors: tuple[Size, ...] = ()
    weekday_error: Size = 0.0

    def __post_init__(self) -> None:
        if not self.error > 0:
            raise ValueError(f"error: must be above 0, got {self.error!r}")

    @property
    def scatter_df(self) -> float:
        """Degrees of freedom of all sums of squares."""
        return self.squares_df + self.history_df

    @property
    def t(self) -> float:
        return self.shift / self.error

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval of `shift`."""
        return self.shift - self.quantile * self.error, self.shift + self.quantile * self.error

    @property
    def change_pct(self) -> float:
        """`shift` in percent of the baseline, or of the absolute limit."""
        return 100.0 * math.expm1(min(self.shift, 700.0))


@dataclass(frozen=True, slots=True)
class RateArithmetic:
    """A share of requests, and how much more runs scatter than chance allows; of a limit the candidate alone."""

    failed: tuple[Count, ...]  # of each side; of a tail those that took longer than `beyond_ms`
    requests: tuple[Count, ...]
    overdispersion: Size
    df: Size
    quantile: Size
    limit: Share | None = None  # the share that is allowed
    # beyond_ms, beyond: of a tail the latency from which on requests are slow, and the quantile of both sides together
    # that it is; ``None`` where no tail is compared (`beyond`: or an older version wrote this)
    beyond_ms: Size | None = None
    beyond: Share | None = None

    @property
    def rates_pct(self) -> tuple[float, ...]:
        """The share of each side in percent; ``nan`` of no request."""
        pairs = zip(self.failed, self.requests, strict=True)
        return tuple(100 * failed / requests if requests else math.nan for failed, requests in pairs)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a verdict was computed from."""

    # baseline, candidate: value of each run in the metric's unit, of pairs in their order; ``None`` where a run cannot
    # say
    baseline: tuple[float | None, ...]
    candidate: tuple[float | None, ...]
    verdict: str  # what these numbers come to by themselves; the finding's own differs where its warnings say why
    # alpha, share, tests: the alarm budget of the whole comparison, the part of it that this judgement has, and how
    # many judgements share it; ``None`` and 0 under fixed limits
    alpha: Share | None = None
    share: Share | None = None
    tests: Count = 0
    paired: bool = False  # whether the runs were compared pair by pair
    # levels, rates: the arithmetic of the test; both ``None`` where fixed limits are compared, or nothing could be
    # computed
    levels: LevelArithmetic | None = None
    rates: RateArithmetic | None = None
    # worsening, bad_side: what the verdict compared with the tolerance, in the unit of the change: how much worse the
    # candidate is, and how much worse it is at the bad end of the interval; ``None`` where neither was computed
    worsening: float | None = None
    bad_side: float | None = None

    def __post_init__(self) -> None:
        for side in ("baseline", "candidate"):
            values = tuple(None if value is None else float(value) for value in getattr(self, side))
            object.__setattr__(self, side, values)


@dataclass(frozen=True, slots=True)
class Finding:
    """One service x metric (x stage) of a comparison: effect, interval, p-value and verdict.

    Parameters
    ----------
    service, metric
        What was compared; all services of the run together are `ALL_SERVICES`.
    unit, change_unit
        Unit of the values (``ms``, ``%``, ``1/s``), and of changes: ``%`` of the baseline, or ``pp`` for the error rate
        (under the threshold rule, the unit of its limit).
    baseline, candidate
        Level of each side in ``unit``; of an objective ``baseline`` is the limit.
    change_pct, change_abs
        Candidate against baseline, in percent of the baseline (infinite from zero) and in ``unit``.
    ci_low, ci_high
        Bounds of the confidence interval of the change, in ``change_unit``, at the comparison's ``confidence``.
    p_value, p_adjusted
        One-sided p-value in the direction of the change, for this finding alone, and corrected over all findings.
    verdict
        What these numbers come to.
    tolerance
        The largest worsening that the policy accepts, >= 0 in ``change_unit``.
    limit
        The same in words: ``+10 %``.
    gating
        Whether the comparison needs this finding to be ``no_change`` to be ``no_change`` itself.
    min_detectable
        The smallest worsening that these runs can show, >= 0 in ``change_unit``.
    runs_needed, requests_needed
        Further runs on each side, or requests, that would settle an inconclusive finding; ``None`` where they would
        not.
    objective
        Whether the candidate was judged against an absolute limit (SLO) instead of the baseline.
    warnings
        What limits this finding.
    stage
        The stage of the load that was compared; ``None``: the whole run.
    scope
        One service, or all services of the run together.
    arithmetic
        The numbers that led to the verdict; ``None`` in results of older versions.
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
    def is_of_tails(self) -> bool:
        """Whether it is about all runs of a side together, because single ones are too short for the percentile."""
        rates = self.arithmetic.rates if self.arithmetic is not None else None
        return rates is not None and rates.beyond_ms is not None

    @property
    def title(self) -> str:
        """What was compared, as people say it: ``p95 latency``, or ``p99 of all runs`` (of a side, together)."""
        title = Metric(self.metric).title
        return f"{title.removesuffix(' latency')} of all runs" if self.is_of_tails else title

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
        return {"runs": [RunSummary.of(run) for run in self.runs]}


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a result file, without metrics; ``checks`` did not pass, ``profile`` is ``load`` in words."""

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
    """What the history of a scenario adds to a comparison."""

    news: tuple[str, ...]  # sentences on new changes, which make the comparison a regression
    lines: tuple[str, ...]  # all sentences on the history
    document: Mapping[str, Any]  # the same as plain JSON values

    @property
    def advice(self) -> tuple[str, ...]:
        """Next steps: services that are gone, another machine."""
        return tuple(map(str, self.document.get("advice") or ()))

    @property
    def json_form(self) -> dict[str, Any]:
        return {**self.document, "news": list(self.news), "lines": list(self.lines)}


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that a comparison lacks, such as a service that the candidate did not call.

    A gap hides no finding, and keeps the verdict from being ``no_change`` or ``improvement``.

    Parameters
    ----------
    text, advice
        What is missing or in doubt, and what to do about it; sentences.
    services
        Services with requests in the baseline and none in the candidate, where the gap is about such.
    """

    text: str
    advice: str = ""
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceShare:
    """What a service carries, and what these runs can show of it."""

    service: str
    share: Share | None  # of the requests, 0 to 1, of the side on which it is larger; ``None``: not counted
    min_detectable: Size | None = None  # worsening of its average latency in percent; ``None``: they cannot show any


@dataclass(frozen=True, slots=True)
class Gate:
    """Which of many services must be shown to be within tolerance, beside the run as a whole, and which are watched.

    Parameters
    ----------
    share
        Part of the requests, 0 to 1, from which on a service gates (`Policy.gate_share`).
    services
        Services that carry so much, on one side or both.
    also
        Services that gate although they carry less: the policy has limits for them, or their answers cannot be
        compared, or their requests are not counted.
    watched
        The others.  A regression there is one, but nothing waits until they are shown to be within tolerance.
    """

    share: Share
    services: tuple[ServiceShare, ...]
    also: tuple[ServiceShare, ...]
    watched: tuple[ServiceShare, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Candidate against baseline: one verdict and its findings.

    Parameters
    ----------
    verdict
        Of the whole comparison; see `overall_verdict`.
    comparable
        False when the verdict is ``invalid``: a side is unfit, or the sides cannot be compared.
    rule
        ``evidence`` (statistical) or ``threshold`` (fixed limits).
    alpha
        Chance that a comparison of identical builds has any regression among its findings.
    confidence
        Level of the findings' intervals, in (0.5, 1).
    baseline, candidate
        The runs of each side.
    gaps
        What is missing or in doubt; while there are any, the verdict is not green.
    warnings
        What limits the whole comparison.
    checks
        Checks of the two sides together.
    findings
        One per service, metric and stage.
    history
        What the history of the scenario adds; ``None`` where it was not asked.
    errors
        Kinds of failed requests, those first that grew; ``None`` in results of older versions.
    gate
        Which of many services gate and which are watched; ``None`` where all gate.
    """

    OMITTED_DEFAULTS: ClassVar = ("history", "errors", "gate")  # of the JSON

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
    errors: tuple[ErrorKind, ...] | None = None
    gate: Gate | None = None

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
        """The same comparison with further warnings; each sentence stands once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *more))))

    @property
    def disturbance(self) -> str | None:
        """Why the sides were not measured under the same conditions, in a sentence; ``None`` where they were."""
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
        gating = {finding.metric for finding in self.findings if finding.gating}  # on its own a watched service gates
        alone = [replace(finding, gating=finding.metric in gating) for finding in findings]
        verdict = overall_verdict(alone, self.rule, gaps) if self.comparable else self.verdict
        errors = None if self.errors is None else tuple(error for error in self.errors if error.service == name)
        return replace(self, verdict=verdict, findings=findings, gaps=gaps, errors=errors)

    def by_verdict(self, verdict: Verdict) -> tuple[Finding, ...]:
        """The findings with that verdict, in order."""
        return tuple(finding for finding in self.findings if finding.verdict is verdict)


def verdict_of(is_worse: bool, is_better: bool, worsening: float, bad_side: float, tolerance: float) -> Verdict:
    """What a test comes to: significant and beyond the tolerance, or its interval's bad side within the tolerance."""
    if is_worse and worsening > tolerance:
        return Verdict.REGRESSION
    if is_better and -worsening > tolerance:
        return Verdict.IMPROVEMENT
    return Verdict.NO_CHANGE if bad_side <= tolerance else Verdict.INCONCLUSIVE


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


def service_names(*sides: Sequence[Run]) -> tuple[str, ...]:
    """Every service of the runs, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for side in sides for run in side for name in run.services))


def environment_of(run: Run) -> dict[str, str]:
    """Environment of a run by name: ``environment: cpu``, ``version of locust``, ``load script``, ``tool``."""
    facts = {"tool": run.tool, "load script": run.locustfile_hash}
    facts |= {f"environment: {key}": value for key, value in run.environment.items()}
    facts |= {f"version of {key}": value for key, value in run.versions.items()}
    return {name: str(value) for name, value in facts.items() if value}
