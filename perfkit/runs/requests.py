"""A table of requests -> `Run`: checked columns, the metrics of each service, and of each stage of the load profile.

`request_columns` takes a frame apart and refuses what no requests are; `summarised` is where every latency, rate and
percentile of recorded requests is computed (by `perfkit.stats.summary`), and the run is checked.  Of error texts only
the class of the exception and the HTTP status are kept, as the recorder names them: messages hold ids, addresses and
tokens.

`renamed` gives a run the names of services that the settings say, so that what was renamed is one service before and
after.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from perfkit.model.errors import NotComparable
from perfkit.model.records import LoadProfile, Run, ServiceStats, StageStats, Validity
from perfkit.model.redaction import redact
from perfkit.model.script_errors import LONGEST_MS, SkippedRequests, time_fault
from perfkit.model.serialization import make_run_id
from perfkit.runs.validity import GeneratorFacts, check_run, withheld
from perfkit.stats.stationarity import WithinRun, count_no_server, warm_up_s, within_run
from perfkit.stats.summary import Floats, RequestArrays, summarise

if TYPE_CHECKING:
    import pandas as pd

MOST_KINDS = 5  # kept of each service, the most frequent ones
_CLASS = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w{2,60})(?=$|\(|:| \d{3}$)")
_STATUS = re.compile(r"^(?:[\w.]*\(\s*['\"]|[\w.]+ )?([1-5]\d\d)(?!\d)")


def error_label(text: object) -> str:
    """The kind of an error, ``error`` where its text does not begin with one.

    >>> error_label("HTTPError('500 Server Error: Internal Server Error for url: /pay?token=abc')")
    'HTTPError 500'
    >>> error_label("requests.exceptions.ConnectionError: host 10.0.0.1"), error_label("no stock for user 17")
    ('ConnectionError', 'error')
    """
    message = str(text).strip()
    kind, status = _CLASS.match(message), _STATUS.match(message)
    if status is not None and kind is None:
        return f"HTTP {status[1]}"
    return " ".join(part for part in (kind[1] if kind else "error", status[1] if status else "") if part)


def split_label(label: str) -> tuple[str, int | None]:
    """The class and the HTTP status of a kind of error, as `error_label` puts them together.

    >>> split_label("HTTPError 500"), split_label("ReadTimeout")
    (('HTTPError', 500), ('ReadTimeout', None))
    """
    kind, _, status = label.rpartition(" ")
    return (kind, int(status)) if re.fullmatch(r"[1-5]\d\d", status) else (label, None)


def most_frequent(counts: Iterable[tuple[object, int]]) -> dict[str, int]:
    """Kinds and how often each occurred, the most frequent first, at most `MOST_KINDS`."""
    kinds: Counter[str] = Counter()
    for text, count in counts:
        kinds[error_label(text)] += count
    return dict(kinds.most_common(MOST_KINDS))


NO_NAME = "(no name)"
REQUIRED = ("start", "service", "response_time_ms", "failed")


def run_from_requests(frame: pd.DataFrame, *, scenario: str = "unnamed", **labels: str) -> Run:
    """Make a run of a table with one row per request.

    Parameters
    ----------
    frame
        Columns ``start`` (seconds since the epoch, or aware times), ``service`` (text), ``response_time_ms`` and
        ``failed`` (bool); optional ``response_bytes``.  Any order of rows; other columns are kept.
    scenario
        Name of the load test.
    labels
        Free text stored with the run, such as ``build="1.4.2"``.

    Raises
    ------
    ValueError
        A column is missing, or a value is not what its column holds.  Names column and row.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"start": [0.0, 1.0], "service": "api", "response_time_ms": [20.0, 22.0], "failed": False})
    >>> run_from_requests(frame, scenario="smoke").services["api"].avg_latency_ms
    21.0
    """
    if not isinstance(scenario, str) or not scenario:
        raise ValueError(f"scenario: expected the name of a load test, got {scenario!r}")
    columns = request_columns(frame)
    kept = frame if columns.is_usable is None else frame[columns.is_usable]
    kept = kept.assign(start=columns.start_s, failed=columns.failed, service=redact_column(kept["service"]))
    run = Run(
        id="",
        scenario=scenario,
        started_at=None,
        duration_s=None,
        profile=LoadProfile(),
        validity=Validity(),
        services={},
        tool="requests",
        labels={name: str(value) for name, value in labels.items()},
        load_requests=lambda: kept.copy(),
    )
    run = summarised(run, columns, GeneratorFacts())
    return replace(run, id=make_run_id(run.started_at, scenario, run.content_hash or ""))


def summarised(run: Run, columns: RequestColumns, facts: GeneratorFacts) -> Run:
    """The run with what its requests say: when it was, its metrics, of each stage too, and its checks.

    Raises
    ------
    ValueError
        The requests began at no time of the calendar.
    """
    begin, end = columns.span()
    has_requests = bool(columns.start_s.size)
    try:
        started_at = datetime.fromtimestamp(begin, UTC) if has_requests else run.started_at
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"requests: start must be in seconds since the epoch, got {begin:g}") from error
    services, within, warm_up_s = _summaries(columns)
    facts = replace(facts, warm_up_s=warm_up_s, skipped=columns.skipped)
    return replace(
        run,
        started_at=started_at,
        duration_s=end - begin if has_requests else None,
        services=services,
        validity=Validity(check_run(services, run.profile, facts, None, within)),
        content_hash=columns.digest(),
        stages=stage_stats(columns, run.profile),
    )


@dataclass(slots=True, eq=False)
class RequestColumns:
    """The requests of a run as arrays of shape ``(n_requests,)``, services as integer codes into ``names``.

    ``errors`` are integer codes into texts, negative for none.  ``no_server`` counts the requests that met no server;
    ``None`` where errors are not known by kind.  ``skipped`` counts those that were left out; ``is_usable`` tells of
    each row of the frame whether it was kept, ``None``: all of them.
    """

    start_s: Floats
    codes: Any
    names: list[str]
    response_time_ms: Floats
    failed: Any
    bytes: Floats | None
    no_server: int | None = None
    errors: tuple[Any, list[str]] | None = None
    skipped: tuple[SkippedRequests, ...] = ()
    is_usable: Any = None

    def subset(self, rows: Any) -> RequestColumns:
        """The requests of these rows, and only their services."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        sizes = None if self.bytes is None else self.bytes[rows]
        names = [self.names[code] for code in used]
        errors = None if self.errors is None else (self.errors[0][rows], self.errors[1])
        times, failed = self.response_time_ms[rows], self.failed[rows]
        return RequestColumns(self.start_s[rows], codes, names, times, failed, sizes, None, errors)

    def error_kinds(self, rows: Any) -> dict[str, Any]:
        """Fields ``errors`` and ``error_times`` of the `ServiceStats` of these rows."""
        failed = rows[self.failed[rows]]
        if not failed.size:
            return {}
        if self.errors is None:
            return {"error_times": {"": self._times(failed)}}
        codes, texts = self.errors
        by_kind: dict[str, list[int]] = {}
        for code in np.unique(codes[failed]):
            by_kind.setdefault(error_label(texts[code]) if code >= 0 else "", []).append(code)
        kinds = {kind: failed[np.isin(codes[failed], members)] for kind, members in by_kind.items()}
        counts = most_frequent((kind, members.size) for kind, members in kinds.items() if kind)
        return {"errors": counts, "error_times": {kind: self._times(kinds[kind]) for kind in counts or kinds}}

    def _times(self, rows: Any) -> tuple[datetime, datetime]:
        """When the first and the last of these requests began, to the millisecond."""
        ends = (round(float(end), 3) for end in (self.start_s[rows].min(), self.start_s[rows].max()))
        first, last = (datetime.fromtimestamp(end, UTC) for end in ends)
        return first, last

    def span(self) -> tuple[float, float]:
        """First start and last end, in seconds since the epoch; zeros without requests."""
        if not self.start_s.size:
            return 0.0, 0.0
        return float(self.start_s.min()), float((self.start_s + self.response_time_ms / 1000.0).max())

    def digest(self) -> str:
        """SHA-256 of what was measured; the same requests give the same hash, in whatever order they stand."""
        sha = hashlib.sha256("\0".join(self.names).encode())
        columns = (self.start_s, self.response_time_ms, self.failed, self.codes.astype("<i4"))
        order = np.lexsort(columns[::-1])
        for part in columns:
            sha.update(np.ascontiguousarray(part[order]).tobytes())
        return sha.hexdigest()


def request_columns(frame: pd.DataFrame) -> RequestColumns:
    """Check a frame of requests and take its columns apart; ``ValueError`` names column and row."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"requests: expected a DataFrame with one row per request, got {type(frame).__name__}")
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"requests: the column {twice!r} stands there twice")
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise ValueError(f"requests: missing column {', '.join(missing)}; found {', '.join(map(str, frame.columns))}")
    for name in ("service", "error"):
        if name in frame:
            _check_labels(name, frame[name])
    times = _numbers("response_time_ms", frame["response_time_ms"])
    usable = (times >= 0) & (times <= LONGEST_MS)  # false for what is not a number
    if not usable.all():
        unusable = (redact(column_label(service)) for service in frame["service"].to_numpy()[~usable])
        counts = Counter(zip(unusable, map(time_fault, times[~usable]), strict=True))
        kept = request_columns(frame[usable])
        kept.skipped = tuple(SkippedRequests(service, fault, count) for (service, fault), count in counts.most_common())
        kept.is_usable = usable
        return kept
    start = _numbers("start", _seconds(frame["start"]))
    bad = ~np.isfinite(start)
    if bad.any():
        raise ValueError(f"requests: start is missing or not finite in row {int(bad.argmax())}")
    if frame["failed"].isna().any():
        raise ValueError(f"requests: failed is missing in row {int(frame['failed'].isna().to_numpy().argmax())}")
    failed = frame["failed"].to_numpy()
    if failed.dtype != bool and not np.isin(failed, (0, 1)).all():
        raise ValueError("requests: failed must hold booleans (or 0 and 1)")
    services = redact_column(frame["service"]).astype("category").cat.remove_unused_categories()
    services = services.cat.reorder_categories(sorted(services.cat.categories, key=str))
    codes, names = pd.factorize(services, sort=True)
    if (codes < 0).any():
        raise ValueError(f"requests: service is missing in row {int((codes < 0).argmax())}")
    sizes = frame["response_bytes"].to_numpy(dtype=float, na_value=np.nan) if "response_bytes" in frame else None
    no_server = errors = None
    if "error" in frame:
        no_server = count_no_server(frame["error"].dropna().map(str).tolist())
        error_codes, error_texts = pd.factorize(frame["error"])
        errors = error_codes, [str(text) for text in error_texts]
    labels = [column_label(name) for name in names]
    return RequestColumns(start, codes, labels, times, failed.astype(bool), sizes, no_server, errors)


def redact_requests(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of requests without secrets in the names of services and errors."""
    return frame.assign(**{name: redact_column(frame[name]) for name in ("service", "error") if name in frame})


def redact_column(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of texts without the secrets in it; the column itself where there are none."""
    kinds = _kinds(column)
    changed = {name: public for name in kinds if isinstance(name, str) and (public := redact(name)) != name}
    if not changed:
        return column
    return column.astype(object).map(lambda name: changed.get(name, name)).astype("category")


def _check_labels(name: str, column: pd.Series[Any]) -> None:
    """``ValueError`` for what is no text and names nothing, and for texts that no file can hold."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return
    try:
        kinds = _kinds(column)
    except TypeError as error:  # lists, tables
        raise ValueError(f"requests: column {name} holds something that is not a text: {error}") from error
    for kind in kinds:
        try:
            str(kind).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"requests: column {name} holds {kind!a}, which is no Unicode text") from error


def _kinds(column: pd.Series[Any]) -> Iterable[Any]:
    return column.cat.categories if column.dtype == "category" else column.dropna().unique()


def column_label(service: Any) -> str:
    return text if (text := str(service)).strip() else NO_NAME


def _seconds(column: pd.Series[Any]) -> Any:
    """Aware times of any make as seconds since the epoch; numbers are left alone."""
    import pandas as pd

    if pd.api.types.is_timedelta64_dtype(column.dtype):
        raise ValueError("requests: start holds lengths of time; use aware times or seconds since the epoch")
    is_object = column.dtype == object and len(column) > 0 and isinstance(column.iloc[0], datetime)
    if not (is_object or pd.api.types.is_datetime64_any_dtype(column.dtype)):
        return column
    if pd.isna(column).any():
        raise ValueError(f"requests: start is missing in row {int(column.isna().to_numpy().argmax())}")
    if any(time.tzinfo is None for time in (column.iloc[[0]] if column.dtype != object else column)):
        raise ValueError("requests: start holds times without a zone; use aware times or seconds since the epoch")
    times = pd.to_datetime(column.astype(object) if column.dtype == object else column, utc=True)
    return (times.astype("datetime64[ns, UTC]") - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def _numbers(name: str, column: Any) -> Floats:
    import pandas as pd

    if pd.api.types.is_complex_dtype(column.dtype) or pd.api.types.is_timedelta64_dtype(column.dtype):
        raise ValueError(f"requests: column {name} holds {column.dtype}: expected plain numbers")
    try:
        values = np.asarray(column if isinstance(column, np.ndarray) else column.to_numpy(na_value=np.nan), np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"requests: column {name} holds something that is not a number: {error}") from error
    return values


def _summaries(columns: RequestColumns) -> tuple[Mapping[str, ServiceStats], WithinRun, float]:
    """The metrics of each service, what happened within the run, and its warm-up in seconds.

    Latencies and rates come from the steady part, which is the same for all services.
    """
    begin, end = columns.span()
    order = np.argsort(columns.codes, kind="stable")
    count = len(columns.names)
    groups = np.split(order, np.searchsorted(columns.codes[order], np.arange(1, count)))[:count]
    levels = np.maximum(columns.response_time_ms, 1e-3)  # then as a logarithm, relative to the mean of the service
    np.log(levels, out=levels)
    for rows in groups:
        levels[rows] -= levels[rows].mean()
    warm_up = warm_up_s(columns.start_s, levels)
    services = {}
    for name, rows in zip(columns.names, groups, strict=True):
        sizes = columns.bytes[rows] if columns.bytes is not None else np.zeros(0)
        size = float(np.nanmean(sizes)) if np.isfinite(sizes).any() else None
        arrays = RequestArrays(columns.start_s[rows], columns.response_time_ms[rows], columns.failed[rows], size)
        longest = float(arrays.response_time_ms.max()) if rows.size else None
        stats = summarise(arrays, begin + warm_up, end)
        services[name] = replace(stats, max_latency_ms=longest, **columns.error_kinds(rows))
    within = within_run(columns.start_s, columns.response_time_ms, columns.failed, levels, warm_up)
    return withheld(services), replace(within, no_server=columns.no_server), warm_up


def stage_stats(columns: RequestColumns, profile: LoadProfile) -> tuple[StageStats, ...]:
    """One `StageStats` per stage of the profile in which requests began; stages are counted from the first request.

    The beginning of each stage is cut off by the same test as the warm-up of a run.
    """
    if not profile.stages or not columns.start_s.size:
        return ()
    ends = list(accumulate(stage.duration_s for stage in profile.stages))
    begins = [0.0, *ends[:-1]]
    index = np.searchsorted(ends, columns.start_s - columns.start_s.min(), side="right")
    stages = []
    for number, stage in enumerate(profile.stages):
        part = columns.subset(np.flatnonzero(index == number))
        if part.start_s.size:
            services = _summaries(part)[0]
            stages.append(StageStats(profile.stage_name(number), stage, begins[number], ends[number], services))
    return tuple(stages)


def new_name(service: str, names: Mapping[str, str]) -> str:
    """The name that a service has now.

    >>> new_name("/v1/items", {"/v1/*": "/v2/*"}), new_name("/pay", {"/v1/*": "/v2/*"})
    ('/v2/items', '/pay')
    """
    if service in names:
        return names[service]
    for pattern, target in names.items():
        if "*" in pattern and (match := _compiled(pattern).fullmatch(service)):
            return target.replace("*", match[1], 1)
    return service


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*", 1))), re.DOTALL)


def renamed(run: Run, names: Mapping[str, str]) -> Run:
    """The run with its services under the names that they have now; services that share one are summed up anew.

    Raises
    ------
    NotComparable
        Two of its services share a name, and the run has no requests to sum them up from.
    """
    now = {name: new_name(name, names) for name in run.services}
    if all(name == other for name, other in now.items()):
        return run
    if (load := run.load_requests) is not None:

        def requests() -> pd.DataFrame:
            frame = load()
            labels = frame["service"].astype(str)
            return frame.assign(service=labels.map({name: new_name(name, names) for name in labels.unique()}))

        run = replace(run, load_requests=requests)
    if shared := [name for name, count in Counter(now.values()).items() if count > 1]:
        frame = run.requests()
        if frame is None:
            both = " and ".join(name for name, other in now.items() if other == shared[0])
            raise NotComparable(
                f"run {run.id}: [services] gives {both} one name, {shared[0]}, and the run has no requests to sum them "
                "up from; leave one of them out of [services]"
            )
        columns = request_columns(frame)
        return replace(run, services=_summaries(columns)[0], stages=stage_stats(columns, run.profile))

    def under(services: Mapping[str, ServiceStats]) -> Mapping[str, ServiceStats]:
        return {new_name(name, names): stats for name, stats in services.items()}

    stages = tuple(replace(stage, services=under(stage.services)) for stage in run.stages)
    return replace(run, services=under(run.services), stages=stages)


def renamed_runs(runs: Sequence[Run], names: Mapping[str, str]) -> tuple[Run, ...]:
    """All of the runs, renamed."""
    return tuple(renamed(run, names) for run in runs) if names else tuple(runs)
