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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfkit.model.errors import NotComparable
from perfkit.model.records import LoadProfile, Run, ServiceStats, StageStats, Validity
from perfkit.model.redaction import redact
from perfkit.model.script_errors import LONGEST_MS, SkippedRequests, time_fault
from perfkit.model.serialization import make_run_id
from perfkit.runs.validity import GeneratorFacts, check_run, withheld
from perfkit.stats.stationarity import WithinRun, count_no_server, warm_up_s, within_run
from perfkit.stats.streams import Floats, Totals, in_order
from perfkit.stats.summary import summarise

if TYPE_CHECKING:
    import pandas as pd

MOST_WAITING = 64 * 2**20  # bytes of a column in memory, for the hash of the requests
BYTES_KEPT = 256 * 2**20  # of frames of requests that were read, for whoever asks for them again
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


def summarised(run: Run, requests: Requests, facts: GeneratorFacts) -> Run:
    """The run with what its requests say: when it was, metrics, stages, checks; ``ValueError``: no such time."""
    services, within, warm_up_s, totals = _summaries(requests)
    begin, has_requests = totals.begin_s, bool(services)
    try:
        started_at = datetime.fromtimestamp(begin, UTC) if has_requests else run.started_at
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"requests: start must be in seconds since the epoch, got {begin:g}") from error
    facts = replace(facts, warm_up_s=warm_up_s, skipped=requests.skipped)
    return replace(
        run,
        started_at=started_at,
        duration_s=totals.end_s - begin if has_requests else None,
        services=services,
        validity=Validity(check_run(services, run.profile, facts, None, within)),
        content_hash=_digest(requests, totals.part_starts_s),
        stages=stage_stats(requests, run.profile, begin),
    )


@dataclass(slots=True, eq=False)
class RequestColumns:
    """The requests of a run as arrays of shape ``(n_requests,)``, services as integer codes into ``names``."""

    start_s: Floats
    codes: Any
    names: list[str]
    response_time_ms: Floats
    failed: Any
    bytes: Floats | None
    no_server: int | None = None  # requests that met no server; ``None`` where errors are not known by kind
    errors: tuple[Any, list[str]] | None = None  # integer codes into texts, negative for none
    skipped: tuple[SkippedRequests, ...] = ()  # requests that were left out
    is_usable: Any = None  # of each row of the frame, whether it was kept; ``None``: all of them
    service_time_ms: Floats | None = None  # since it was sent; not finite where that is the response time

    def parts(self) -> tuple[RequestColumns]:
        """The requests in one part; a `RequestStream` has more of them."""
        return (self,)

    def where(self, choose: Callable[[RequestColumns], Any]) -> RequestColumns:
        rows = choose(self)
        sizes, service_times = (None if of is None else of[rows] for of in (self.bytes, self.service_time_ms))
        errors = None if self.errors is None else (self.errors[0][rows], self.errors[1])
        times, failed = self.response_time_ms[rows], self.failed[rows]
        of_rows = self.start_s[rows], self.codes[rows], self.names, times, failed, sizes, None, errors
        return RequestColumns(*of_rows, service_time_ms=service_times)

    def renamed(self, names: Mapping[str, str]) -> RequestColumns:
        """Under the names that services have now; several may share one."""
        new = [new_name(name, names) for name in self.names]
        code_of = {name: code for code, name in enumerate(sorted(set(new)))}
        codes = np.array([code_of[name] for name in new], np.int32)[self.codes]
        return replace(self, codes=codes, names=list(code_of))

    def digest(self) -> str:
        """SHA-256 of what was measured; the same requests give the same hash, in whatever order they stand."""
        return _digest(self, np.zeros(1))


@dataclass(frozen=True, slots=True)
class RequestStream:
    """The requests of a run that are too many to be held: parts of one numbering, read anew by each call of `parts`.

    Fields as those of `RequestColumns`.  ``folder`` has room for copies.
    """

    parts: Callable[[], Iterable[RequestColumns]]
    names: list[str]
    no_server: int | None
    skipped: tuple[SkippedRequests, ...]
    folder: Path | None = None

    def where(self, choose: Callable[[RequestColumns], Any]) -> RequestStream:
        return replace(self, parts=lambda: (part.where(choose) for part in self.parts()))

    def renamed(self, names: Mapping[str, str]) -> RequestStream:
        """See `RequestColumns.renamed`; all parts keep one numbering."""
        return replace(
            self,
            parts=lambda: (part.renamed(names) for part in self.parts()),
            names=sorted({new_name(name, names) for name in self.names}),
        )


Requests = RequestColumns | RequestStream


def _digest(requests: Requests, part_starts_s: Floats) -> str:
    """See `RequestColumns.digest`.  Columns follow each other: what comes after the first waits in files."""
    sha = hashlib.sha256("\0".join(requests.names).encode())
    with ExitStack() as stack:
        folder = str(requests.folder) if isinstance(requests, RequestStream) and requests.folder else None
        waiting = [stack.enter_context(SpooledTemporaryFile(MOST_WAITING, dir=folder)) for _ in range(3)]
        in_time = in_order(
            requests.parts,
            lambda part: (part.start_s, part.response_time_ms, part.failed, part.codes.astype("<i4")),
            part_starts_s,
        )
        for columns, _ in in_time:
            order = np.lexsort(columns[::-1])
            sha.update(np.ascontiguousarray(columns[0][order]).data)
            for file, column in zip(waiting, columns[1:], strict=True):
                file.write(np.ascontiguousarray(column[order]).data)
        for file in waiting:
            file.seek(0)
            while piece := file.read(2**20):
                sha.update(piece)
    return sha.hexdigest()


class Tally:
    """Of each service: the mean size of its responses, and its failures by kind."""

    def __init__(self, requests: Requests) -> None:
        services = len(requests.names)
        sized, sizes = np.zeros(services), np.zeros(services)
        self._texts: list[str] | None = []
        self._failed: dict[tuple[int, int], tuple[int, float, float]] = {}  # of service and error, in order of errors
        for part in requests.parts():
            if part.bytes is not None:
                is_sized = np.isfinite(part.bytes)
                sized += np.bincount(part.codes[is_sized], minlength=services)
                sizes += np.bincount(part.codes[is_sized], weights=part.bytes[is_sized], minlength=services)
            self._texts = None if part.errors is None else part.errors[1]
            failed = np.flatnonzero(part.failed)
            start_s, codes = part.start_s[failed], part.codes[failed]
            errors = np.full(failed.size, -1) if part.errors is None else part.errors[0][failed]
            pairs, which = np.unique(np.stack([errors, codes]), axis=1, return_inverse=True)
            counts = np.bincount(which, minlength=pairs.shape[1])
            first, last = np.full(counts.size, np.inf), np.full(counts.size, -np.inf)
            np.minimum.at(first, which, start_s)
            np.maximum.at(last, which, start_s)
            for (error, code), count, begin, end in zip(pairs.T.tolist(), counts.tolist(), first, last, strict=True):
                before = self._failed.get((code, error), (0, np.inf, -np.inf))
                self._failed[code, error] = before[0] + count, min(before[1], float(begin)), max(before[2], float(end))
        self.response_bytes = [
            float(total / count) if count else None for total, count in zip(sizes, sized, strict=True)
        ]

    def error_fields(self, code: int) -> dict[str, Any]:
        """Fields ``errors`` and ``error_times`` of the `ServiceStats` of a service; none without failures."""
        kinds: dict[str, list[tuple[int, float, float]]] = {}
        for (service, error), counted in sorted(self._failed.items()):
            if service == code:
                kind = error_label(self._texts[error]) if self._texts and error >= 0 else ""
                kinds.setdefault(kind, []).append(counted)
        if not kinds:
            return {}
        times = {
            kind: (_to_time(min(first for _, first, _ in counted)), _to_time(max(last for _, _, last in counted)))
            for kind, counted in kinds.items()
        }
        if self._texts is None:
            return {"error_times": times}
        counts = most_frequent((kind, sum(count for count, *_ in counted)) for kind, counted in kinds.items() if kind)
        return {"errors": counts, "error_times": {kind: times[kind] for kind in counts or kinds}}


def _to_time(seconds: float) -> datetime:
    """To the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


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
    sizes, service_times = (
        _numbers(name, frame[name]) if name in frame else None for name in ("response_bytes", "service_time_ms")
    )
    no_server = errors = None
    if "error" in frame:
        no_server = count_no_server(frame["error"].dropna().map(str).tolist())
        error_codes, error_texts = pd.factorize(frame["error"])
        errors = error_codes, [str(text) for text in error_texts]
    labels = [column_label(name) for name in names]
    measured = start, codes, labels, times, failed.astype(bool), sizes, no_server, errors
    return RequestColumns(*measured, service_time_ms=service_times)


class RequestLoader:
    """The requests of one run: taken apart for charts, without pandas, or as a frame for analysts.

    The frames that were used last stay in memory, up to `BYTES_KEPT` in this process.  Each call gives a copy.
    """

    # Each frame with its bytes; the one that was used last is the last
    _kept: ClassVar[dict[RequestLoader, tuple[pd.DataFrame, int]]] = {}
    _lock: ClassVar[Lock] = Lock()

    def __init__(self, read: Callable[[], pd.DataFrame], columns: Callable[[], Requests | None] = lambda: None) -> None:
        self._read, self._columns = read, columns

    def columns(self) -> Requests:
        """The same requests, taken apart and checked; of a sealed file without pandas, in parts where they are many."""
        columns = None if self in self._kept else self._columns()
        return request_columns(self()) if columns is None else columns

    def __call__(self) -> pd.DataFrame:
        with self._lock:
            kept = self._kept.pop(self, None)
        if kept is None:
            frame = self._read()
            kept = frame, int(frame.memory_usage().sum())
        frame, _ = kept
        with self._lock:
            self._kept[self] = kept
            excess = sum(size for _, size in self._kept.values()) - BYTES_KEPT
            while excess > 0:
                excess -= self._kept.pop(next(iter(self._kept)))[1]
            is_kept = self in self._kept
        return frame.copy() if is_kept else frame


def columns_of(load: Callable[[], pd.DataFrame]) -> Requests:
    """The requests of a run, taken apart, from its ``load_requests``; ``ValueError`` where they are none."""
    return load.columns() if isinstance(load, RequestLoader) else request_columns(load())


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


def _summaries(requests: Requests) -> tuple[Mapping[str, ServiceStats], WithinRun, float, Totals]:
    """The metrics of each service that has requests, what happened within the run, and its warm-up in seconds.

    Latencies and rates come from the steady part, which is the same for all services.
    """
    totals, tally = Totals.of(requests.parts, len(requests.names)), Tally(requests)
    warm_up = warm_up_s(requests.parts, totals)
    summaries = summarise(requests.parts, totals, totals.begin_s + warm_up, totals.end_s)
    services = {
        name: replace(
            summaries[code],
            max_latency_ms=float(totals.longest_ms[code]),
            response_bytes=tally.response_bytes[code],
            **tally.error_fields(code),
        )
        for code, name in enumerate(requests.names)
        if totals.counts[code]
    }
    within = within_run(requests.parts, totals, warm_up)
    return withheld(services), replace(within, no_server=requests.no_server), warm_up, totals


def stage_stats(requests: Requests, profile: LoadProfile, begin_s: float) -> tuple[StageStats, ...]:
    """One `StageStats` per stage of the profile in which requests began; stages are counted from the first request.

    The beginning of each stage is cut off by the same test as the warm-up of a run.
    """
    ends = list(accumulate(stage.duration_s for stage in profile.stages))
    begins = [0.0, *ends[:-1]]

    def is_in(part: RequestColumns, number: int) -> Any:
        return np.searchsorted(ends, part.start_s - begin_s, side="right") == number

    stages = []
    for number, stage in enumerate(profile.stages):
        if services := _summaries(requests.where(partial(is_in, number=number)))[0]:
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
    """The run under the names that services have now; ``NotComparable``: two share one, and no requests to sum up."""
    now = {name: new_name(name, names) for name in run.services}
    if all(name == other for name, other in now.items()):
        return run
    if (load := run.load_requests) is not None:

        def requests() -> pd.DataFrame:
            frame = load()
            labels = frame["service"].astype(str)
            return frame.assign(service=labels.map({name: new_name(name, names) for name in labels.unique()}))

        run = replace(run, load_requests=RequestLoader(requests, lambda: columns_of(load).renamed(names)))
    if shared := [name for name, count in Counter(now.values()).items() if count > 1]:
        if run.load_requests is None:
            both = " and ".join(name for name, other in now.items() if other == shared[0])
            raise NotComparable(
                f"run {run.id}: [services] gives {both} one name, {shared[0]}, and the run has no requests to sum them "
                "up from; leave one of them out of [services]"
            )
        columns = columns_of(run.load_requests)
        services, _, _, totals = _summaries(columns)
        return replace(run, services=services, stages=stage_stats(columns, run.profile, totals.begin_s))

    def under(services: Mapping[str, ServiceStats]) -> Mapping[str, ServiceStats]:
        return {new_name(name, names): stats for name, stats in services.items()}

    stages = tuple(replace(stage, services=under(stage.services)) for stage in run.stages)
    return replace(run, services=under(run.services), stages=stages)


def renamed_runs(runs: Sequence[Run], names: Mapping[str, str]) -> tuple[Run, ...]:
    return tuple(renamed(run, names) for run in runs) if names else tuple(runs)
