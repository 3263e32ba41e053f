"""The files written by ``locust --csv PREFIX``.

``PREFIX_stats.csv`` (or, from old versions, ``PREFIX_requests.csv`` with ``PREFIX_distribution.csv``) is needed;
``_stats_history.csv`` tells start, length, users and how much the run varied within itself.  Locust rounds every
latency to about two digits before it counts it, so a percentile read here is exact to 1 ms below 100 ms, 10 ms below
1 s and 100 ms below 10 s; that rounding is part of each value's standard error.

A spreadsheet changes the separator (and may name it in a first line ``sep=;``), the encoding (UTF-16), the line ends (a
lone carriage return), and writes decimals with a comma.  What has one meaning is read; the rest is refused by cell.

From top to bottom: the rows of a stats file, whatever its age; whether they contradict each other; percentiles and
failures of companion files; the history file; the run that is made of them (`sniff`, `read`).
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from perfkit.model.errors import ReadError
from perfkit.model.records import Check, LoadProfile, Metric, Run, ServiceStats, Severity, Validity
from perfkit.model.script_errors import LONGEST_MS, SkippedRequests, time_fault
from perfkit.model.serialization import make_run_id
from perfkit.runs.requests import most_frequent
from perfkit.runs.validity import INCONSISTENT, GeneratorFacts, check_run, withheld
from perfkit.stats.summary import (
    AUTOCORRELATION_FACTOR,
    Floats,
    PercentileTable,
    TimeSeriesErrors,
    errors_from_percentiles,
    requests_needed_for,
    time_series_errors,
)

TOTAL_NAMES = ("Aggregated", "Total")
# Column titles changed in Locust 1.0; compared without case.
COLUMNS = {
    "type": ("type", "method"),
    "name": ("name",),
    "count": ("request count", "# requests"),
    "failures": ("failure count", "# failures"),
    "average": ("average response time",),
    "median": ("median response time",),
    "lowest": ("min response time",),
    "highest": ("max response time",),
    "size": ("average content size",),
    "rps": ("requests/s",),
}
REQUIRED = ("name", "count", "failures", "average", "rps")
MOST_ROUNDED_DIGITS = 2
NEGATIVE = time_fault(-1.0)
ABSURD = 20.0  # times too large or small
SAME_RATE = 0.05  # relative; in real files 0 where rates are written in full
SAME_AVERAGE = 0.25  # relative; in 208 of 209 real files below 0.004, in one 0.1
ROUNDING_MS = 1.0  # old versions write whole milliseconds
TEXTS = ("type", "method", "name", "error", "message", "traceback", "nodes", "first seen", "last seen")
_PERCENT = re.compile(r"^(\d+(?:[.,]\d+)?)\s?%?$")


def looks_like_locust(main: Path) -> bool:
    """Whether the first line has Locust's columns."""
    titles = header_of(main)
    return sum(any(name in titles for name in names) for names in COLUMNS.values()) >= 5


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a stats file.  ``steps`` holds the rounding of values that the file writes in few digits."""

    kind: str
    name: str
    count: int
    failures: int
    average: float | None
    rps: float | None
    size: float | None
    percentiles: Mapping[float, float] = field(default_factory=dict)
    steps: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""  # what is wrong with its response times, which are then left out
    lowest: float | None = None
    highest: float | None = None
    line: int = 0

    @property
    def is_total(self) -> bool:
        return self.name in TOTAL_NAMES and self.kind in ("", "None")


def table_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table with their numbers, the header first; see `read_table`."""
    return ((line.number, line.cells) for line in read_table(path, TEXTS))


def stats_rows(path: Path) -> Iterator[Row]:
    """The rows of a stats file; ``ReadError`` for a file that is cut off, edited or none, with its line."""
    table = table_of(path)
    first = next(table, None)
    if first is None:
        raise ReadError(f"{path}: is empty")
    titles = [title.strip().lower() for title in first[1]]
    named = {key: next((titles.index(n) for n in names if n in titles), -1) for key, names in COLUMNS.items()}
    if missing := [COLUMNS[key][0] for key in REQUIRED if named[key] < 0]:
        raise ReadError(f"{path}: line 1: missing column {', '.join(missing)}")
    percents = _percents(titles)
    width = len(first[1])
    seen: dict[tuple[str, str], int] = {}
    total = False
    for line, cells in table:
        if cells == first[1]:
            raise ReadError(f"{path}: line {line}: the header again; these are several files in one, split them")
        if len(cells) != width:
            raise ReadError(
                f"{path}: line {line}: {len(cells)} cells where the header has {width}; is the file cut off?"
            )
        row = replace(_row(f"{path}: line {line}", cells, named, percents), line=line)
        key = ("", TOTAL_NAMES[0]) if row.is_total else (row.kind, row.name)
        if key in seen:
            raise ReadError(
                f"{path}: line {line}: {' '.join(filter(None, key))!r} stands in line {seen[key]} already; "
                "Locust writes each row once: which of them holds?"
            )
        seen[key] = line
        total = total or row.is_total
        yield row
    if not seen:
        raise ReadError(f"{path}: holds a header and no rows; the run measured nothing")
    if not total:
        raise ReadError(
            f"{path}: is cut off after line {max(seen.values())}: the row {TOTAL_NAMES[0]}, which Locust writes last, "
            "is missing; copy the whole file"
        )


def _row(place: str, cells: list[str], named: Mapping[str, int], percents: Mapping[float, int]) -> Row:
    def number(key: str) -> float | None:
        return number_of(place, key, cells[named[key]]) if named[key] >= 0 else None

    faults: list[str] = []

    def latency(key: str, text: str) -> float | None:
        value = to_float(text)
        if value is None or 0 <= value <= LONGEST_MS:
            return number_of(place, key, text)
        faults.append(time_fault(value))
        return None

    table = {q: latency(f"{q:.5%}", cells[i]) for q, i in percents.items()}
    table.setdefault(0.5, latency("median", cells[named["median"]]) if named["median"] >= 0 else None)
    average = latency("average", cells[named["average"]]) if named["average"] >= 0 else None
    _check_times(place, cells, named, percents)
    count = _whole(place, "request count", number("count"))
    for key in ("average", "rps"):
        if count and is_absent(cells[named[key]]):
            raise ReadError(
                f"{place}: {COLUMNS[key][0]} is empty, and there were {count} requests; is the file damaged?"
            )
    # Old versions write whole milliseconds and hundredths of a request: a rounding that counts as error
    decimals = {
        name: len(cells[named[key]].strip().partition(".")[2])
        for name, key in ((Metric.AVG, "average"), (Metric.RPS, "rps"))
        if cells[named[key]].strip()
    }
    steps = {str(name): 10.0**-digits for name, digits in decimals.items() if digits <= MOST_ROUNDED_DIGITS}
    return Row(
        kind=cells[named["type"]].strip() if named["type"] >= 0 else "",
        name=cells[named["name"]],
        count=count,
        failures=_whole(place, "failure count", number("failures")),
        average=None if faults else average,
        rps=number("rps"),
        size=number("size"),
        percentiles={} if faults else {q: value for q, value in sorted(table.items()) if value is not None},
        fault=faults[0] if faults else "",
        lowest=to_float(cells[named["lowest"]]) if named["lowest"] >= 0 else None,
        highest=to_float(cells[named["highest"]]) if named["highest"] >= 0 else None,
        steps=steps,
    )


def _check_times(place: str, cells: list[str], named: Mapping[str, int], percents: Mapping[float, int]) -> None:
    """``ReadError`` for response times that no requests have, whatever their client reported.

    Percentiles that fall or that stand there in part, an average outside of what was fastest and slowest.
    """
    texts = [(title_of(q), cells[column]) for q, column in sorted(percents.items())]
    absent = [title for title, text in texts if is_absent(text)]
    if absent and len(absent) < len(texts):
        raise ReadError(f"{place}: {absent[0]} is empty, and other percentiles are not; is the file damaged?")
    values = [(title, to_float(text)) for title, text in texts if not is_absent(text)]
    for (low, before), (high, after) in pairwise(values):
        if before is not None and after is not None and not (before <= after or (before != before and after != after)):
            raise ReadError(
                f"{place}: {high} is {after:g} and {low} is {before:g}: percentiles rise; is the file damaged?"
            )
    median, half = (to_float(cells[at]) if at >= 0 else None for at in (named["median"], percents.get(0.5, -1)))
    if median is not None and half is not None and bool(time_fault_of(median)) != bool(time_fault_of(half)):
        raise ReadError(
            f"{place}: the median is {median:g} and 50% is {half:g}: they are one number; is the file damaged?"
        )
    least, average, most = (
        to_float(cells[named[key]]) if named[key] >= 0 else None for key in ("lowest", "average", "highest")
    )
    if least is None or average is None or most is None or not all(map(math.isfinite, (least, average, most))):
        return
    for title, value in values:
        if value is not None and not least - resolution(value) <= value <= most + resolution(value):
            raise ReadError(
                f"{place}: {title} is {value:g}, the fastest request {least:g}, the slowest {most:g}: no percentile "
                "lies outside; is the file damaged?"
            )
    if not least - ROUNDING_MS <= average <= most + ROUNDING_MS:
        raise ReadError(
            f"{place}: the average is {average:g}, the fastest request {least:g}, the slowest {most:g}: no average "
            "lies outside; is the file damaged?"
        )


def resolution(latency_ms: float) -> float:
    """The step in ms to which Locust rounds a latency before it counts it (1 below 100 ms, 10 below 1 s, ...)."""
    return 1.0 if latency_ms < 100 else 10.0 if latency_ms < 1000 else 100.0 if latency_ms < 10000 else 1000.0


def time_fault_of(value: float) -> str:
    """What is wrong with a response time, or nothing."""
    return "" if 0 <= value <= LONGEST_MS else time_fault(value)


def check_rows(path: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    """What of the rows the row of all requests contradicts, though both come of the same requests and clock.

    Sentences on what may have been edited; ``ReadError`` for what no edit explains.
    """
    total = next((row for row in rows if row.is_total), None)
    services = [row for row in rows if not row.is_total and row.count]
    if total is None or not total.count or sum(row.count for row in services) != total.count:
        return ()  # rows are missing, which the counts say
    for row in services:
        is_explained = row.fault == NEGATIVE and (total.lowest is None or total.lowest < 0)
        if row.fault and not total.fault and not is_explained:
            text = f"a response time is {row.fault}, and none of all requests is"
            raise ReadError(f"{path}: line {row.line}: {text}, in line {total.line}; is the file damaged?")
    if total.fault and not any(row.fault for row in services):
        text = f"a response time of all is {total.fault}, and of no service"
        raise ReadError(f"{path}: line {total.line}: {text}; is the file damaged?")
    texts = []
    for line, text, factor in disagreements(services, total):
        if factor > ABSURD:
            raise ReadError(f"{path}: line {line}: {text}; is the file damaged?")
        texts.append(f"{path.name}: line {line}: {text}")
    return tuple(texts)


def disagreements(services: Sequence[Row], total: Row) -> Iterator[tuple[int, str, float]]:
    """Rates and averages that do not add up: the line, a sentence, and by which factor."""
    for row in services:
        if row.fault or row.rps is None or total.rps is None:
            continue
        # Locust divides the requests of every row by the same time
        rps = total.rps * row.count / total.count
        step = max(row.steps.get(Metric.RPS, 0.0), total.steps.get(Metric.RPS, 0.0))
        if abs(row.rps - rps) > SAME_RATE * max(rps, row.rps) + step:
            text = f"{row.count} requests at {row.rps:g} per second, and all {total.count} at {total.rps:g}"
            yield row.line, text, _factor(row.rps, rps)
    averages = [(row.count, row.average) for row in services if row.average is not None]
    if total.average is None or len(averages) < len(services):
        return
    mean = sum(count * average for count, average in averages) / total.count
    if abs(mean - total.average) > SAME_AVERAGE * max(mean, total.average) + ROUNDING_MS:
        text = f"the average of all is {total.average:g}, and the rows above make it {mean:g}"
        yield total.line, text, _factor(mean, total.average)


def _factor(first: float, second: float) -> float:
    return max(first, second) / min(first, second) if first and second else math.inf


def title_of(quantile: float) -> str:
    """How Locust names a percentile."""
    return f"{100 * quantile:.6g}%"


def with_distribution(rows: list[Row], path: Path) -> list[Row]:
    """The rows with the percentiles that Locust before 0.12 wrote into a file of their own."""
    if not path.is_file():
        return rows
    table = table_of(path)
    line, header = next(table, (1, []))
    titles = [title.strip().lower() for title in header]
    if "name" not in titles:
        raise ReadError(f"{path}: line {line}: missing column Name; expected Name, # requests, 50%, ...")
    columns = _percents(titles)
    by_name: dict[str, dict[float, float]] = {}  # "GET /items", and "Total"
    for line, cells in table:
        if len(cells) != len(header):
            text = f"{len(cells)} cells where the header has {len(header)}"
            raise ReadError(f"{path}: line {line}: {text}; is the file cut off?")
        percentiles = {q: number_of(f"{path}: line {line}", f"{q:.5%}", cells[i]) for q, i in columns.items()}
        name = cells[titles.index("name")].removeprefix("None ")
        by_name[name] = {q: value for q, value in percentiles.items() if value is not None}
    names = [row.name if row.is_total else f"{row.kind} {row.name}".strip() for row in rows]
    return [
        replace(row, percentiles={**by_name.get(name, {}), **row.percentiles})
        for row, name in zip(rows, names, strict=True)
    ]


def _percents(titles: list[str]) -> dict[float, int]:
    """Quantile -> column."""
    return {float(m[1].replace(",", ".")) / 100.0: i for i, title in enumerate(titles) if (m := _PERCENT.match(title))}


def to_float(text: str) -> float | None:
    """A cell as a number of any kind; ``None`` where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def is_absent(text: str) -> bool:
    """Whether Locust had nothing to say in a cell."""
    return text.strip() in ("", "N/A", "None")


def number_of(place: str, key: str, text: str) -> float | None:
    if is_absent(text):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ReadError(f"{place}: {key}: expected a number >= 0, got {text!r}{spoilt_by_spreadsheet(text)}")
    return value


def _whole(place: str, key: str, value: float | None) -> int:
    if value is None or value != int(value):
        raise ReadError(f"{place}: {key}: expected a whole number, got {value!r}")
    return int(value)


def failures_of(path: Path) -> dict[tuple[str, str], dict[str, int]]:
    """Kinds of error and their counts by method and name, of ``PREFIX_failures.csv``; empty where there is none.

    It only adds names to numbers that stand elsewhere: a line that cannot be understood is passed over.
    """
    if not path.is_file():
        return {}
    lines = table_of(path)
    titles = [title.strip().lower() for title in next(lines, (0, []))[1]]
    if not {"method", "name", "error", "occurrences"} <= set(titles):
        return {}
    at = {title: titles.index(title) for title in ("method", "name", "error", "occurrences")}
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for _, cells in lines:
        if len(cells) == len(titles) and cells[at["occurrences"]].strip().isdecimal():
            key = cells[at["method"]], cells[at["name"]]
            found.setdefault(key, []).append((cells[at["error"]], int(cells[at["occurrences"]])))
    return {key: most_frequent(counts) for key, counts in found.items()}


HISTORY_COLUMNS = {
    "timestamp": ("timestamp",),
    "users": ("user count",),
    "name": ("name",),
    "count": ("total request count", "# requests"),
    "average": ("total average response time", "average response time"),
}


@dataclass(frozen=True, slots=True)
class History:
    """The state of the whole run as Locust wrote it down, about once a second.

    Parameters
    ----------
    at_s
        Seconds since the epoch, ascending, shape ``(n,)``; of one second the last line counts.
    users
        Running users, same shape; ``nan`` where the file does not say (before Locust 1.0).
    counts
        Requests from the beginning until then.
    averages_ms
        Their average latency.
    """

    at_s: Floats
    users: Floats
    counts: Floats
    averages_ms: Floats

    @property
    def started_at(self) -> datetime | None:
        """When the first line was written."""
        return datetime.fromtimestamp(float(self.at_s[0]), UTC) if self.at_s.size else None

    @property
    def duration_s(self) -> float | None:
        """From the first line to the last."""
        return float(self.at_s[-1] - self.at_s[0]) or None if self.at_s.size else None

    @property
    def peak_users(self) -> int | None:
        known = self.users[np.isfinite(self.users)]
        return int(known.max()) or None if known.size else None

    @property
    def errors(self) -> TimeSeriesErrors | None:
        """The errors of the run's average and rate, from its history."""
        known = np.isfinite(self.counts) & np.isfinite(self.averages_ms)
        counts = self.counts[known]
        if counts.size < 2 or (np.diff(counts) < 0).any():
            return None  # statistics were reset in the middle of the run
        averages = self.averages_ms[known]
        # Whole milliseconds (before Locust 2) times all requests so far swamp what happens in one batch.
        rounded = bool((averages == np.round(averages)).all())
        return time_series_errors(self.at_s[known], counts, None if rounded else averages)


NO_HISTORY = History(*(np.zeros(0) for _ in range(4)))


def read_history(path: Path) -> History:
    """Read a history file; `NO_HISTORY` when there is none, or one without times.

    Raises
    ------
    ReadError
        A cell is not a number.  Names file and line.
    """
    if not path.is_file():
        return NO_HISTORY
    table = table_of(path)
    header = [title.strip().lower() for title in next(table, (0, []))[1]]
    at = {key: next((header.index(n) for n in names if n in header), -1) for key, names in HISTORY_COLUMNS.items()}
    if at["timestamp"] < 0:
        return NO_HISTORY
    by_time: dict[float, Mapping[str, float]] = {}
    users: dict[float, float] = {}
    for line, cells in table:
        if len(cells) < len(header):
            continue  # Locust was killed while it wrote this line
        row = {}
        for key in ("timestamp", "users", "count", "average"):
            value = number_of(f"{path}: line {line}", key, cells[at[key]]) if at[key] >= 0 else None
            row[key] = math.nan if value is None else value
        time = row["timestamp"]
        users[time] = max(users.get(time, row["users"]), row["users"])
        if at["name"] < 0 or cells[at["name"]] in TOTAL_NAMES:
            by_time[time] = row
    times = sorted(by_time)
    if not times:
        return NO_HISTORY
    try:
        datetime.fromtimestamp(times[0], UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ReadError(f"{path}: timestamp: expected seconds since the epoch, got {times[0]:g}") from error
    columns = ([by_time[time][key] for time in times] for key in ("count", "average"))
    counts, averages = (np.array(column, float) for column in columns)
    return History(np.array(times, float), np.array([users[time] for time in times], float), counts, averages)


TITLE = "Locust CSV (PREFIX_stats.csv with its companions)"
MAIN = ("_stats.csv", "_requests.csv")
UNLIKE_LENGTH = 10.0  # times: statistics may be reset after the ramp; 0.95 to 1.23 in real files
MOST_MISSING = 0.01  # of the requests: Locust writes the rows while it counts
COMPANIONS = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_distribution.csv")


def sniff(path: Path) -> bool:
    """A file of a set, a prefix, or a folder that holds a set, with Locust's columns in the main file."""
    return any(looks_like_locust(main) for main in _mains(path))


def read(path: Path) -> Run:
    """Read the files written by ``locust --csv PREFIX``.

    Raises
    ------
    ReadError
        A column is missing or a cell is not a number.  Names file and line.
    """
    mains = [main for main in _mains(path) if looks_like_locust(main)]
    if len(mains) > 1:
        names = ", ".join(main.name for main in mains)
        raise ReadError(f"{path}: holds several Locust runs ({names}); name one of them")
    main = mains[0]
    ending = next((ending for ending in MAIN if main.name.endswith(ending)), main.suffix)
    prefix = str(main).removesuffix(ending)  # of the names of all files of the set; it may be empty
    history_file = Path(f"{prefix}_stats_history.csv")
    written = list(stats_rows(main))
    texts = check_rows(main, written)
    rows, skipped = _usable(with_distribution(written, Path(f"{prefix}_distribution.csv")))
    history = read_history(history_file)
    total = next((row for row in rows if row.is_total), None)
    failures = failures_of(Path(f"{prefix}_failures.csv"))
    services = withheld(_services(rows, total, history.errors, failures))
    # Locust's rate is requests over the time until the last one: of the row that saw most
    longest = total or max(rows, key=lambda row: row.count, default=None)
    length = longest.count / longest.rps if longest is not None and longest.rps else None
    profile = LoadProfile("unknown", users=history.peak_users, duration_s=None)
    sha = hashlib.sha256(main.read_bytes())
    if history_file.is_file():
        sha.update(history_file.read_bytes())
    digest = sha.hexdigest()
    stem = main.name.removesuffix(ending)
    scenario = stem if stem not in ("", "results", "locust") else main.resolve().parent.name or "locust"
    checks = (
        *check_run(services, profile, GeneratorFacts(skipped=skipped), None),
        *count_checks(total, services, history.duration_s, texts),
    )
    return Run(
        id=make_run_id(history.started_at, scenario, digest),
        scenario=scenario,
        started_at=history.started_at,
        duration_s=history.duration_s or length,
        profile=profile,
        validity=Validity(checks),
        services=services,
        tool="locust csv",
        content_hash=digest,
        source=str(main),
    )


def _usable(rows: Sequence[Row]) -> tuple[list[Row], tuple[SkippedRequests, ...]]:
    """Rows whose response times can be measured, and what the others held; the sum of all is without those too."""
    left_out = [row for row in rows if row.fault and not row.is_total]
    count, failures = sum(row.count for row in left_out), sum(row.failures for row in left_out)
    kept = []
    for row in rows:
        if row in left_out:
            continue
        if row.is_total and count:
            left = max(row.count - count, 0)
            rps = row.rps * left / row.count if row.rps and row.count else row.rps
            row = replace(row, count=left, failures=max(row.failures - failures, 0), rps=rps)
        kept.append(row)
    return kept, tuple(SkippedRequests(row.name, row.fault, row.count) for row in left_out)


def main_file(path: Path) -> Path | None:
    """The file of the set that ``path`` belongs to which holds the numbers; ``None`` when it is none of Locust's."""
    return next((main for main in _mains(path) if main.is_file() and looks_like_locust(main)), None)


def _mains(path: Path) -> list[Path]:
    """The main files that ``path`` may mean."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.name.endswith(MAIN) or p.name in ("stats.csv", "requests.csv"))
    if path.is_file():
        for ending in COMPANIONS:
            if path.name.endswith(ending):
                stem = str(path)[: -len(ending)]
                return [Path(stem + main) for main in MAIN if Path(stem + main).is_file()] or [path]
        return [path]
    return [Path(f"{path}{main}") for main in MAIN if Path(f"{path}{main}").is_file()]


def _services(
    rows: list[Row],
    total: Row | None,
    course: TimeSeriesErrors | None,
    failures: Mapping[tuple[str, str], Mapping[str, int]],
) -> dict[str, ServiceStats]:
    services = [row for row in rows if not row.is_total]
    dependence = Dependence.of(total, services, course)
    uses = Counter(row.name for row in services)
    # Locust sums up by method and name; the method is only needed where one name has several.
    return {
        row.name if uses[row.name] == 1 else f"{row.kind} {row.name}": replace(
            service_stats(row, dependence), errors=failures.get((row.kind, row.name), {})
        )
        for row in services
    }


def service_stats(row: Row, dependence: Dependence) -> ServiceStats:
    """The metrics of one service, with the rounding of each value and its error within the run."""
    values: dict[str, Any] = {}
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
    for name, value in ((Metric.AVG, row.average), (Metric.RPS, row.rps)):
        if value is not None and (row.count or name is Metric.RPS):
            values[name.value] = value
            steps |= {name.value: row.steps[name]} if name in row.steps else {}
    if row.count:
        values[Metric.ERROR_RATE.value] = min(100.0 * row.failures / row.count, 100.0)
    assumed = errors_from_percentiles(PercentileTable.of(row.percentiles), row.count, values)
    errors, measured = dependence.applied(assumed, row)
    return ServiceStats(
        row.count,
        row.failures,
        **values,
        standard_errors=errors,
        resolutions=steps,
        assumed=tuple(name for name in errors if name not in measured and name != Metric.ERROR_RATE),
        response_bytes=row.size,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class Dependence:
    """What the history of the whole run says about requests that are not independent.

    ``total`` is the number of requests of the run.  ``shared`` is the relative variance of an average that services
    have in common, beyond what independent requests explain; ``rate`` the factor on a count's square root.  ``None``
    where the history cannot say.
    """

    total: int
    shared: float | None = None
    rate: float | None = None

    @classmethod
    def of(cls, total: Row | None, rows: Sequence[Row], course: TimeSeriesErrors | None) -> Dependence:
        if total is None or course is None or not total.count:
            return cls(0)
        independent_errors = [_independent_error(row) for row in rows if row.count and row.average]
        if course.average is None or not total.average or None in independent_errors:
            return cls(total.count, None, course.rate * math.sqrt(total.count))
        counted = [row.count for row in rows if row.count and row.average]
        errors = sum((n * (error or 0.0)) ** 2 for n, error in zip(counted, independent_errors, strict=True))
        independent = errors / (total.count * total.average) ** 2
        shared = max(course.average**2 - independent, 0.0)
        return cls(total.count, shared, course.rate * math.sqrt(total.count))

    def applied(self, errors: Mapping[str, float], row: Row) -> tuple[dict[str, float], tuple[str, ...]]:
        """The errors of one service, and which of them rest on a measurement now.

        A service's share of the run's requests is drawn anew by each user, so its count scatters like a Poisson count
        in so far as it is a share, and like the run's in so far as it is the whole.
        """
        out, measured = dict(errors), []
        own = _independent_error(row)
        if self.shared is not None and own is not None and row.average and Metric.AVG in out:
            out[Metric.AVG.value] = math.hypot(own, row.average * math.sqrt(self.shared))
            measured.append(Metric.AVG.value)
        if self.rate is not None and row.count and row.rps is not None and Metric.RPS in out:
            share = min(row.count / self.total, 1.0)
            factor = math.sqrt((1.0 - share) + share * self.rate**2)
            out[Metric.RPS.value] = row.rps / math.sqrt(row.count) * factor
            measured.append(Metric.RPS.value)
        return out, tuple(measured)


def _independent_error(row: Row) -> float | None:
    """Standard error of the average as if requests were independent, in ms; ``None`` without enough percentiles."""
    values = {Metric.AVG.value: row.average or 0.0}
    errors = errors_from_percentiles(PercentileTable.of(row.percentiles), row.count, values)
    error = errors.get(Metric.AVG.value)
    return None if error is None else error / AUTOCORRELATION_FACTOR


def count_checks(
    total: Row | None, services: Mapping[str, ServiceStats], history_s: float | None, texts: Sequence[str]
) -> Iterator[Check]:
    """Whether the rows add up to the row of all, and whether its rate has the length of the history."""
    if total is None:
        return
    for title, all_of_them, seen in (
        ("requests", total.count, sum(stats.count or 0 for stats in services.values())),
        ("failures", total.failures, sum(stats.failures or 0 for stats in services.values())),
    ):
        if all_of_them == seen:
            continue
        advice = (
            f"The row Aggregated counts {all_of_them} {title}, the rows above it {seen}: the file contradicts itself."
        )
        differs = abs(all_of_them - seen) > MOST_MISSING * total.count
        if differs:
            advice += " Rows are missing; copy the whole file." if all_of_them > seen else " Copy the file again."
        yield Check("counts", all_of_them, seen, Severity.INVALID if differs else Severity.WARN, advice)
        return
    for text in texts:
        yield Check(INCONSISTENT, text, "no contradiction", Severity.WARN, f"{text}: the file contradicts itself.")
    length = total.count / total.rps if total.count and total.rps else None
    if length is not None and history_s and not 1 / UNLIKE_LENGTH <= length / history_s <= UNLIKE_LENGTH:
        advice = (
            f"{total.count} requests at {total.rps:g} per second take {length:.3g} s, and the history of the run "
            f"{history_s:.3g} s: the files contradict each other. Copy them again."
        )
        yield Check("counts", round(length, 3), round(history_s, 3), Severity.INVALID, advice)


SEPARATORS = ",;\t|"
HEAD_BYTES = 8192  # enough for a header line in any encoding
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEP_LINE = re.compile(r"\s*\"?sep=(.)\"?[^\S\n]*(?:\n|$)", re.IGNORECASE)
_WITH_COMMA = re.compile(r"-?[\d.\s]*\d,\d+(?:[eE][+-]?\d+)?")  # 23,4 and 1.234,5
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # 1,234 and 1,234.5
_DATE = re.compile(r"(?i)\d{1,2}[./-]\s?(?:\d{1,2}|[a-z]{3})\w*[./-]?(?:\s?\d{2,4})?|[a-z]{3}\.?[ -]\d{2}")


@dataclass(frozen=True, slots=True)
class Line:
    """One record: the number of the line on which it ends, and its cells."""

    number: int
    cells: list[str]


def decoded(content: bytes) -> str:
    """The text of a file, with line ends as ``\\n``; bytes that its encoding does not have are replaced.

    Names in the wild hold bytes of other encodings: a replacement character is better than losing the file.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:HEAD_BYTES]:  # UTF-16 of a program that writes no mark
        odd, even = content[1:HEAD_BYTES:2].count(0), content[:HEAD_BYTES:2].count(0)
        encoding = "utf-16-le" if odd >= even else "utf-16-be"
    text = content.decode(encoding or "utf-8", "replace").replace("\r\r\n", "\n").replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def header_of(path: Path) -> list[str]:
    """The titles of the first line, lower case and without white space around; empty for what is no table."""
    with path.open("rb") as file:
        text = decoded(file.read(HEAD_BYTES))
    body, separator = _separated(text)
    try:
        return _titles(next(csv.reader([body.split("\n", 1)[0]], delimiter=separator), []))
    except csv.Error:
        return []


def _titles(cells: Sequence[str]) -> list[str]:
    return [title.strip().lower() for title in cells]


def _separated(text: str) -> tuple[str, str]:
    """The text from its header on, and the separator: as ``sep=`` says, else the one that the header has most of."""
    said = _SEP_LINE.match(text)
    if said is not None:
        return text[said.end() :], said[1]
    head = text.lstrip("\n").split("\n", 1)[0]
    return text, max(SEPARATORS, key=head.count)


def read_table(path: Path, texts: Collection[str]) -> Iterator[Line]:
    """The lines of a table that are not empty, the header first; numbers have a decimal point.

    Parameters
    ----------
    texts
        Titles (lower case) of columns that hold text, in which a comma is no decimal comma.

    Raises
    ------
    ReadError
        It is no table, or has numbers that can be read in two ways.  Names file and line.
    """
    body, separator = _separated(decoded(path.read_bytes()))
    skipped = 1 if _SEP_LINE.match(decoded(path.read_bytes()[:64])) else 0
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator)
    lines: list[Line] = []
    try:
        lines += (Line(reader.line_num + skipped, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise ReadError(f"{path}: line {reader.line_num + skipped}: {error}") from error
    if lines:
        yield from _with_points(path, _without_empty_ends(lines), texts)


def _without_empty_ends(lines: list[Line]) -> list[Line]:
    """Without the empty columns that spreadsheets add on the right."""
    width = len("".join("x" if cell.strip() else " " for cell in lines[0].cells).rstrip())
    return [
        Line(line.number, line.cells[:width]) if not any(map(str.strip, line.cells[width:])) else line for line in lines
    ]


def _with_points(path: Path, lines: list[Line], texts: Collection[str]) -> Iterator[Line]:
    """The lines with a point for each decimal comma, and no separators of thousands."""
    kept = {at for at, title in enumerate(_titles(lines[0].cells)) if title in texts}
    numeric = [(line, cell.strip()) for line in lines[1:] for at, cell in enumerate(line.cells) if at not in kept]
    commas = [
        (line, cell)
        for line, cell in numeric
        if "," in cell and (_WITH_COMMA.fullmatch(cell) or _GROUPED.fullmatch(cell))
    ]
    if not commas:
        yield from lines
        return
    grouped = [cell for _, cell in commas if _GROUPED.fullmatch(cell)]
    points = [cell for _, cell in numeric if re.fullmatch(r"-?\d+\.\d+", cell)]
    is_decimal = len(grouped) < len(commas)
    if is_decimal and any(not re.fullmatch(r"-?\d{1,3}(?:\.\d{3})+", cell) for cell in points):
        line, cell = next((line, cell) for line, cell in commas if not _GROUPED.fullmatch(cell))
        raise ReadError(
            f"{path}: line {line.number}: {cell!r} has a decimal comma, {points[0]!r} a decimal point; "
            "save the file again as the tool wrote it"
        )
    if not is_decimal and not points:
        line, cell = commas[0]
        raise ReadError(
            f"{path}: line {line.number}: {cell!r} may have a decimal comma or a separator of thousands; "
            "save the file again as the tool wrote it"
        )
    for line in lines[:1]:
        yield line
    for line in lines[1:]:
        yield Line(
            line.number,
            [cell if at in kept else _with_point(cell, is_decimal=is_decimal) for at, cell in enumerate(line.cells)],
        )


def _with_point(cell: str, *, is_decimal: bool) -> str:
    text = cell.strip()
    if is_decimal and re.fullmatch(r"-?[\d.\s,]+(?:[eE][+-]?\d+)?", text):
        return re.sub(r"[.\s]", "", text).replace(",", ".")
    return text.replace(",", "") if not is_decimal and _GROUPED.fullmatch(text) else cell


def spoilt_by_spreadsheet(text: str) -> str:
    """What may have happened to a cell that is no number, as the end of a sentence; empty where nothing is known."""
    if _DATE.fullmatch(text.strip()):
        return "; a spreadsheet takes such numbers for dates: use the file as the tool wrote it"
    if text.strip().startswith("#"):
        return "; a spreadsheet writes this for what it could not show: use the file as the tool wrote it"
    return ""
