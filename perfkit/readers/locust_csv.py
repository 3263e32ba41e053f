"""The files written by ``locust --csv PREFIX``.

``PREFIX_stats.csv`` (or, from old versions, ``PREFIX_requests.csv``) is needed; ``_stats_history.csv`` tells start,
length and users.  Locust rounds every latency to about two digits before it counts it, so a percentile read here is
exact to 1 ms below 100 ms, 10 ms below 1 s and 100 ms below 10 s; that rounding is part of each value's standard error.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from perfkit.document import make_run_id
from perfkit.errors import ReadError
from perfkit.model import Check, LoadProfile, Metric, Run, ServiceStats, Severity, Validity
from perfkit.stats.percentile_table import PercentileTable, errors_from_percentiles
from perfkit.stats.summary import requests_needed_for
from perfkit.validity import GeneratorFacts, check_run

TITLE = "Locust CSV (PREFIX_stats.csv with its companions)"
MAIN = ("_stats.csv", "_requests.csv")
COMPANIONS = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_distribution.csv")
TOTAL_NAMES = ("Aggregated", "Total")
# Column titles changed in Locust 1.0; compared without case.
COLUMNS = {
    "type": ("type", "method"),
    "name": ("name",),
    "count": ("request count", "# requests"),
    "failures": ("failure count", "# failures"),
    "average": ("average response time",),
    "median": ("median response time",),
    "size": ("average content size",),
    "rps": ("requests/s",),
}
REQUIRED = ("name", "count", "failures", "average", "rps")
_PERCENT = re.compile(r"^(\d+(?:\.\d+)?)%?$")


def sniff(path: Path) -> bool:
    """A file of a set, a prefix, or a folder that holds a set, with Locust's columns in the main file."""
    found = _mains(path)
    return any(_looks_like_locust(main) for main in found)


def read(path: Path) -> Run:
    """Read the files written by ``locust --csv PREFIX``.

    Raises
    ------
    ReadError
        A column is missing or a cell is not a number.  Names file and line.
    """
    mains = [main for main in _mains(path) if _looks_like_locust(main)]
    if len(mains) > 1:
        names = ", ".join(main.name for main in mains)
        raise ReadError(f"{path}: holds several Locust runs ({names}); name one of them")
    main = mains[0]
    prefix = _prefix(main)
    rows = list(_rows(main))
    history = _read_history(Path(f"{prefix}_stats_history.csv"))
    services = _services(rows)
    total = next((row for row in rows if row.is_total), None)
    duration = history.duration_s or _length(total, rows)
    profile = LoadProfile("unknown", users=history.users, duration_s=None)
    digest = _digest(main, prefix)
    scenario = prefix.name if prefix.name not in ("", "results", "locust") else prefix.parent.name or "locust"
    checks = (*check_run(services, profile, GeneratorFacts(), None), *_contradictions(total, services))
    return Run(
        id=make_run_id(history.started_at, scenario, digest),
        scenario=scenario,
        started_at=history.started_at,
        duration_s=duration,
        profile=profile,
        validity=Validity(checks),
        services=services,
        tool="locust csv",
        content_hash=digest,
        source=str(main),
    )


def _mains(path: Path) -> list[Path]:
    """The main files that ``path`` may mean."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.name.endswith(MAIN) or p.name in ("stats.csv", "requests.csv"))
    if path.is_file():
        for ending in COMPANIONS:
            if path.name.endswith(ending):
                stem = str(path)[: -len(ending)]
                return [Path(stem + main) for main in MAIN if Path(stem + main).is_file()]
        return [path] if path.suffix.lower() == ".csv" else []
    return [Path(f"{path}{main}") for main in MAIN if Path(f"{path}{main}").is_file()]


def _prefix(main: Path) -> Path:
    for ending in MAIN:
        if main.name.endswith(ending):
            return main.with_name(main.name[: -len(ending)])
    return main.with_suffix("")


def _looks_like_locust(main: Path) -> bool:
    with main.open("rb") as file:
        head = file.readline(8192).decode("utf-8-sig", "replace")
    try:
        titles = {title.strip().lower() for title in next(csv.reader([head]), [])}
    except csv.Error:  # such as a lone carriage return in the first line
        return False
    return sum(any(name in titles for name in names) for names in COLUMNS.values()) >= 5


@dataclass(frozen=True, slots=True)
class _Row:
    kind: str
    name: str
    count: int
    failures: int
    average: float | None
    rps: float | None
    size: float | None
    percentiles: Mapping[float, float] = field(default_factory=dict)

    @property
    def is_total(self) -> bool:
        return self.name in TOTAL_NAMES and self.kind in ("", "None")


def _text(path: Path) -> str:
    # Names in the wild hold bytes of other encodings; a replacement character is better than losing the file.
    return path.read_bytes().decode("utf-8-sig", "replace").replace("\r\r\n", "\n")


def _table(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise ReadError(f"{path}: line {reader.line_num}: {error}") from error


def _columns(path: Path, header: list[str]) -> tuple[dict[str, int], dict[float, int]]:
    titles = [title.strip().lower() for title in header]
    named = {key: next((titles.index(n) for n in names if n in titles), -1) for key, names in COLUMNS.items()}
    missing = [COLUMNS[key][0] for key in REQUIRED if named[key] < 0]
    if missing:
        raise ReadError(f"{path}: line 1: missing column {', '.join(missing)}")
    percents = {float(m[1]) / 100.0: i for i, title in enumerate(titles) if (m := _PERCENT.match(title))}
    return named, percents


def _rows(path: Path) -> Iterator[_Row]:
    table = _table(path)
    first = next(table, None)
    if first is None:
        raise ReadError(f"{path}: is empty")
    named, percents = _columns(path, first[1])
    width = len(first[1])
    found = False
    for line, cells in table:
        if len(cells) != width:
            raise ReadError(
                f"{path}: line {line}: {len(cells)} cells where the header has {width}; is the file cut off?"
            )
        yield _row(f"{path}: line {line}", cells, named, percents)
        found = True
    if not found:
        raise ReadError(f"{path}: holds a header and no rows; the run measured nothing")


def _row(place: str, cells: list[str], named: Mapping[str, int], percents: Mapping[float, int]) -> _Row:
    def number(key: str) -> float | None:
        return _number(place, key, cells[named[key]]) if named[key] >= 0 else None

    table = {q: _number(place, f"{q:.5%}", cells[i]) for q, i in percents.items()}
    table.setdefault(0.5, number("median"))
    return _Row(
        kind=cells[named["type"]].strip() if named["type"] >= 0 else "",
        name=cells[named["name"]],
        count=_whole(place, "request count", number("count")),
        failures=_whole(place, "failure count", number("failures")),
        average=number("average"),
        rps=number("rps"),
        size=number("size"),
        percentiles={q: value for q, value in sorted(table.items()) if value is not None},
    )


def _number(place: str, key: str, text: str) -> float | None:
    if text.strip() in ("", "N/A", "None"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ReadError(f"{place}: {key}: expected a number >= 0, got {text!r}")
    return value


def _whole(place: str, key: str, value: float | None) -> int:
    if value is None or value != int(value):
        raise ReadError(f"{place}: {key}: expected a whole number, got {value!r}")
    return int(value)


def _services(rows: list[_Row]) -> dict[str, ServiceStats]:
    own = [row for row in rows if not row.is_total]
    uses = Counter(row.name for row in own)
    # Locust sums up by method and name; the method is only needed where one name has several.
    return {row.name if uses[row.name] == 1 else f"{row.kind} {row.name}": _stats(row) for row in own}


def resolution(latency_ms: float) -> float:
    """The step in ms to which Locust rounds a latency before it counts it (1 below 100 ms, 10 below 1 s, ...)."""
    return 1.0 if latency_ms < 100 else 10.0 if latency_ms < 1000 else 100.0 if latency_ms < 10000 else 1000.0


def _stats(row: _Row) -> ServiceStats:
    values: dict[str, float] = {}
    warnings = []
    for metric in Metric:
        quantile = metric.quantile
        if quantile is None or quantile not in row.percentiles:
            continue
        needed = requests_needed_for(quantile)
        if row.count < needed:
            warnings.append(f"{metric.title} withheld: {row.count} requests, it needs {needed}")
            continue
        values[metric.value] = row.percentiles[quantile]
    steps = {name: resolution(value) for name, value in values.items()}
    if row.average is not None and row.count:
        values[Metric.AVG.value] = row.average
    if row.count:
        values[Metric.ERROR_RATE.value] = min(100.0 * row.failures / row.count, 100.0)
    if row.rps is not None:
        values[Metric.RPS.value] = row.rps
    errors = errors_from_percentiles(PercentileTable.of(row.percentiles), row.count, values)
    return ServiceStats(
        row.count,
        row.failures,
        **values,
        standard_errors=errors,
        resolutions=steps,
        response_bytes=row.size,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class _History:
    started_at: datetime | None = None
    duration_s: float | None = None
    users: int | None = None


def _read_history(path: Path) -> _History:
    if not path.is_file():
        return _History()
    table = _table(path)
    header = [title.strip().lower() for title in next(table, (0, []))[1]]
    if "timestamp" not in header:
        return _History()
    at, users_at = header.index("timestamp"), header.index("user count") if "user count" in header else -1
    times, users = [], []
    for line, cells in table:
        if len(cells) <= max(at, users_at):
            continue  # Locust was killed while it wrote this line
        times.append(_number(f"{path}: line {line}", "timestamp", cells[at]) or 0.0)
        if users_at >= 0:
            users.append(int(_number(f"{path}: line {line}", "user count", cells[users_at]) or 0))
    if not times:
        return _History()
    length = max(times) - min(times)
    try:
        started = datetime.fromtimestamp(min(times), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ReadError(f"{path}: timestamp: expected seconds since the epoch, got {min(times):g}") from error
    return _History(started, length or None, max(users, default=0) or None)


def _length(total: _Row | None, rows: list[_Row]) -> float | None:
    """Seconds, from the row that saw most: Locust's rate is requests over the time until the last one."""
    row = total or max(rows, key=lambda item: item.count)
    return row.count / row.rps if row.rps else None


def _contradictions(total: _Row | None, services: Mapping[str, ServiceStats]) -> tuple[Check, ...]:
    seen = sum(stats.count or 0 for stats in services.values())
    if total is None or total.count == seen:
        return ()
    advice = f"The row Aggregated counts {total.count} requests, the rows above it {seen}: the file contradicts itself."
    return (Check("counts", total.count, seen, Severity.WARN, advice),)


def _digest(main: Path, prefix: Path) -> str:
    sha = hashlib.sha256(main.read_bytes())
    history = Path(f"{prefix}_stats_history.csv")
    if history.is_file():
        sha.update(history.read_bytes())
    return sha.hexdigest()
