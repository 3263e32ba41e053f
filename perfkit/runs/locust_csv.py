"""The files written by ``locust --csv PREFIX``.

``PREFIX_stats.csv`` (or, from old versions, ``PREFIX_requests.csv`` with ``PREFIX_distribution.csv``) is needed;
``_stats_history.csv`` tells start, length, users and how much the run varied within itself.  Locust rounds every
latency to about two digits before it counts it, so a percentile read here is exact to 1 ms below 100 ms, 10 ms below
1 s and 100 ms below 10 s; that rounding is part of each value's standard error.

A spreadsheet changes the separator (and may name it in a first line ``sep=;``), the encoding (UTF-16), the line ends (a
lone carriage return), and writes decimals with a comma.  What has one meaning is read; the rest is refused by cell.

From top to bottom: the run (`sniff`, `read`); its services and their errors; the rows of a stats file, and whether they
contradict each other; the companion files; tables as spreadsheets leave them.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    PercentileTable,
    TimeSeriesErrors,
    errors_from_percentiles,
    requests_needed_for,
    time_series_errors,
)

TITLE = "Locust CSV (PREFIX_stats.csv with its companions)"
MAIN = ("_stats.csv", "_requests.csv")
COMPANIONS = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_distribution.csv")
TOTAL_NAMES = ("Aggregated", "Total")

MOST = 1e15  # of anything that is counted: what is beyond was not measured
NUMBER, WHOLE, TIME, TEXT = (
    f"a number from 0 to {MOST:g}",
    f"a whole number from 0 to {MOST:g}",
    "a number >= 0",
    "text",
)
COLUMNS = {  # what each cell holds, and whether a stats file must have the column
    "type": (TEXT, False),
    "name": (TEXT, True),
    "request count": (WHOLE, True),
    "failure count": (WHOLE, True),
    "average response time": (TIME, True),
    "median response time": (TIME, False),
    "min response time": (TIME, False),
    "max response time": (TIME, False),
    "average content size": (NUMBER, False),
    "requests/s": (NUMBER, True),
}
NEW_TITLES = {"method": "type", "# requests": "request count", "# failures": "failure count"}  # since Locust 1.0
HISTORY_TITLES = {
    **NEW_TITLES,
    "total request count": "request count",
    "total average response time": "average response time",
}
TEXTS = ("type", "name", "error", "message", "traceback", "nodes", "first seen", "last seen")
_PERCENT = re.compile(r"^(\d+(?:[.,]\d+)?)\s?%?$")

MOST_ROUNDED_DIGITS = 2
ABSURD = 20.0  # times too large or small
SAME_RATE = 0.05  # relative; in real files 0 where rates are written in full
SAME_AVERAGE = 0.25  # relative; in 208 of 209 real files below 0.004, in one 0.1
ROUNDING_MS = 1.0  # old versions write whole milliseconds
UNLIKE_LENGTH = 10.0  # times: statistics may be reset after the ramp; 0.95 to 1.23 in real files
MOST_MISSING = 0.01  # of the requests: Locust writes the rows while it counts


def sniff(path: Path) -> bool:
    """A file of a set, a prefix, or a folder that holds a set, with Locust's columns in the main file."""
    return main_file(path) is not None


def main_file(path: Path) -> Path | None:
    """The file of the set that ``path`` belongs to which holds the numbers; ``None`` when it is none of Locust's."""
    return next(_main_files(path), None)


def _main_files(path: Path) -> Iterator[Path]:
    """The main files that ``path`` may mean: those that have Locust's columns."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith(MAIN) or p.name in ("stats.csv", "requests.csv"))
    else:
        ending = next((ending for ending in COMPANIONS if path.name.endswith(ending)), None)
        prefix = path if not path.is_file() else str(path).removesuffix(ending) if ending else None
        files = [Path(f"{prefix}{main}") for main in MAIN if prefix is not None]
        if path.is_file() and not any(file.is_file() for file in files):
            files = [path]
    for file in files:
        if file.is_file() and len(COLUMNS.keys() & header_of(file)) >= len(COLUMNS) / 2:
            yield file


def read(path: Path) -> Run:
    """Read the files written by ``locust --csv PREFIX``; ``ReadError`` names file and line."""
    main, *others = _main_files(path)
    if others:
        names = ", ".join(file.name for file in (main, *others))
        raise ReadError(f"{path}: holds several Locust runs ({names}); name one of them")
    ending = next((ending for ending in MAIN if main.name.endswith(ending)), main.suffix)
    prefix = str(main).removesuffix(ending)  # of the names of all files of the set; it may be empty
    history_file = Path(f"{prefix}_stats_history.csv")
    rows, total = stats_rows(main)
    contradictions = check_rows(main, rows, total)
    *rows, total = with_distribution([*rows, total], Path(f"{prefix}_distribution.csv"))
    skipped = [row for row in rows if row.fault]
    if count := sum(row.count for row in skipped):  # rows whose response times are of no use count in no sum
        left, failures = max(total.count - count, 0), total.failures - sum(row.failures for row in skipped)
        rps = total.rps * left / total.count if total.rps and total.count else total.rps
        total = replace(total, count=left, failures=max(failures, 0), rps=rps)
    history = read_history(history_file)
    kinds_of_error = failures_of(Path(f"{prefix}_failures.csv"))
    measured = [row for row in rows if not row.fault]
    services = withheld(service_stats(measured, total, history.errors, kinds_of_error))
    profile = LoadProfile("unknown", users=history.peak_users, duration_s=None)
    sha = hashlib.sha256(main.read_bytes())
    if history_file.is_file():
        sha.update(history_file.read_bytes())
    digest = sha.hexdigest()
    stem = main.name.removesuffix(ending)
    scenario = stem if stem not in ("", "results", "locust") else main.resolve().parent.name or "locust"
    facts = GeneratorFacts(skipped=tuple(SkippedRequests(row.name, row.fault, row.count) for row in skipped))
    counted = count_checks(total, services, history.duration_s, contradictions)
    return Run(
        id=make_run_id(history.started_at, scenario, digest),
        scenario=scenario,
        started_at=history.started_at,
        duration_s=history.duration_s or (total.count / total.rps if total.rps else None),  # until the last request
        profile=profile,
        validity=Validity((*check_run(services, profile, facts, None), *counted)),
        services=services,
        tool="locust csv",
        content_hash=digest,
        source=str(main),
    )


def count_checks(
    total: Row, services: Mapping[str, ServiceStats], history_s: float | None, contradictions: Sequence[str]
) -> Iterator[Check]:
    """Whether the rows add up to the row of all, and whether its rate has the length of the history."""
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
    for text in contradictions:
        yield Check(INCONSISTENT, text, "no contradiction", Severity.WARN, f"{text}: the file contradicts itself.")
    length = total.count / total.rps if total.count and total.rps else None
    if length is not None and history_s and not 1 / UNLIKE_LENGTH <= length / history_s <= UNLIKE_LENGTH:
        advice = (
            f"{total.count} requests at {total.rps:g} per second take {length:.3g} s, and the history of the run "
            f"{history_s:.3g} s: the files contradict each other. Copy them again."
        )
        yield Check("counts", round(length, 3), round(history_s, 3), Severity.INVALID, advice)


# The services ---------------------------------------------------------------------------------------------------------


def service_stats(
    rows: Sequence[Row],
    total: Row,
    course: TimeSeriesErrors | None,
    failures: Mapping[tuple[str, str], Mapping[str, int]],
) -> dict[str, ServiceStats]:
    """The metrics of each service, with the rounding of each value and its error within the run."""
    shared = shared_variance(rows, total, course)
    rate = course.rate * math.sqrt(total.count) if course is not None and total.count else None
    uses = Counter(row.name for row in rows)
    services = {}
    for row in rows:
        # Locust sums up by method and name; the method is only needed where one name has several.
        name = row.name if uses[row.name] == 1 else f"{row.kind} {row.name}"
        values: dict[str, Any] = {}
        warnings = []
        for metric in Metric:
            if metric.quantile is None or metric.quantile not in row.percentiles:
                continue
            needed = requests_needed_for(metric.quantile)
            if row.count < needed:
                warnings.append(f"{metric.title} withheld: {row.count} requests, it needs {needed}")
            else:
                values[metric.value] = row.percentiles[metric.quantile]
        steps = {metric: resolution(value) for metric, value in values.items()}
        if row.average is not None and row.count:
            values[Metric.AVG.value] = row.average
        if row.rps is not None:
            values[Metric.RPS.value] = row.rps
        steps |= {metric: step for metric, step in row.steps.items() if metric in values}
        if row.count:
            values[Metric.ERROR_RATE.value] = min(100.0 * row.failures / row.count, 100.0)
        assumed = errors_from_percentiles(PercentileTable.of(row.percentiles), row.count, values)
        measured: dict[str, float] = {}
        if shared is not None and (independent := row.independent_error) is not None and row.average:
            measured[Metric.AVG.value] = math.hypot(independent, row.average * math.sqrt(shared))
        if rate is not None and row.count and row.rps is not None:
            # A service's share of the run's requests is drawn anew by each user, so its count scatters like a Poisson
            # count in so far as it is a share, and like the run's in so far as it is the whole.
            share = min(row.count / total.count, 1.0)
            factor = math.sqrt((1.0 - share) + share * rate**2)
            measured[Metric.RPS.value] = row.rps / math.sqrt(row.count) * factor
        services[name] = ServiceStats(
            row.count,
            row.failures,
            **values,
            standard_errors=assumed | measured,
            resolutions=steps,
            assumed=tuple(name for name in assumed if name not in measured and name != Metric.ERROR_RATE),
            persistence=None if course is None else course.persistence,
            response_bytes=row.size,
            warnings=tuple(warnings),
            errors=failures.get((row.kind, row.name), {}),
        )
    return services


def resolution(latency_ms: float) -> float:
    """The step in ms to which Locust rounds a latency before it counts it (1 below 100 ms, 10 below 1 s, ...)."""
    return 1.0 if latency_ms < 100 else 10.0 if latency_ms < 1000 else 100.0 if latency_ms < 10000 else 1000.0


def shared_variance(rows: Sequence[Row], total: Row, course: TimeSeriesErrors | None) -> float | None:
    """Relative variance that averages of services share, beyond independent requests; ``None`` where not known."""
    counted = [(row.count, row.independent_error) for row in rows if row.count and row.average]
    if course is None or course.average is None or not (total.count and total.average):
        return None
    if any(error is None for _, error in counted):
        return None
    independent = sum((count * (error or 0.0)) ** 2 for count, error in counted) / (total.count * total.average) ** 2
    return max(course.average**2 - independent, 0.0)


# The rows of a stats file ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a stats file.  ``steps`` holds the rounding of values that the file writes in few digits."""

    line: int
    kind: str
    name: str
    count: int
    failures: int
    average: float | None
    lowest: float | None
    rps: float | None
    size: float | None
    percentiles: Mapping[float, float] = field(default_factory=dict)
    steps: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""  # what is wrong with its response times, which are then left out

    @property
    def independent_error(self) -> float | None:
        """Standard error of the average as if requests were independent, in ms; ``None`` without enough percentiles."""
        values = {Metric.AVG.value: self.average or 0.0}
        errors = errors_from_percentiles(PercentileTable.of(self.percentiles), self.count, values)
        return errors[Metric.AVG.value] / AUTOCORRELATION_FACTOR if errors else None


def stats_rows(path: Path) -> tuple[list[Row], Row]:
    """The rows of a stats file, and that of all requests; ``ReadError`` for a file that is cut off or edited."""
    table = read_table(path)
    if missing := [title for title, (_, is_needed) in COLUMNS.items() if is_needed and title not in table.titles]:
        raise ReadError(f"{path}: line 1: missing column {', '.join(missing)}")
    percentiles = table.percentiles
    total_key = "", TOTAL_NAMES[0]
    rows: dict[tuple[str, str], Row] = {}
    for line, cells in table.records(is_strict=True):
        row = parse_row(path, line, cells, percentiles)
        key = total_key if row.name in TOTAL_NAMES and row.kind in ("", "None") else (row.kind, row.name)
        if key in rows:
            raise ReadError(
                f"{path}: line {line}: {' '.join(filter(None, key))!r} stands in line {rows[key].line} already; "
                "Locust writes each row once: which of them holds?"
            )
        rows[key] = row
    if not rows:
        raise ReadError(f"{path}: holds a header and no rows; the run measured nothing")
    if total_key not in rows:
        raise ReadError(
            f"{path}: is cut off after line {line}: the row {TOTAL_NAMES[0]}, which Locust writes last, is missing; "
            "copy the whole file"
        )
    total = rows.pop(total_key)
    return list(rows.values()), total


def parse_row(path: Path, line: int, cells: Mapping[str, str], percentiles: Mapping[str, float]) -> Row:
    """A line of a stats file; ``ReadError`` for cells that no requests give."""
    location = f"{path}: line {line}"
    kinds = {title: kind for title, (kind, _) in COLUMNS.items() if kind is not TEXT}
    values = {
        title: cell_value(location, title, cells.get(title, ""), kind)
        for title, kind in (kinds | dict.fromkeys(percentiles, TIME)).items()
    }
    count, average = int(values["request count"] or 0), values["average response time"]
    for fault in impossible_times(values, list(percentiles)):
        raise ReadError(f"{location}: {fault}; is the file damaged?")
    for title in ("average response time", "requests/s"):
        if count and values[title] is None:
            raise ReadError(f"{location}: {title} is empty, and there were {count} requests; is the file damaged?")
    # Old versions write whole milliseconds and hundredths of a request: a rounding that counts as error
    steps = {}
    for metric, title in ((Metric.AVG, "average response time"), (Metric.RPS, "requests/s")):
        digits = len(cells[title].strip().partition(".")[2])
        if cells[title].strip() and digits <= MOST_ROUNDED_DIGITS:
            steps[metric.value] = 10.0**-digits
    table = {quantile: values[title] for title, quantile in percentiles.items()}
    table.setdefault(0.5, values["median response time"])
    times = {quantile: value for quantile, value in sorted(table.items()) if value is not None}
    fault = next((fault for value in (*times.values(), average) if (fault := time_fault_of(value))), "")
    return Row(
        line=line,
        kind=cells.get("type", "").strip(),
        name=cells["name"],
        count=count,
        failures=int(values["failure count"] or 0),
        average=None if fault else average,
        lowest=values["min response time"],
        rps=values["requests/s"],
        size=values["average content size"],
        percentiles={} if fault else times,
        steps=steps,
        fault=fault,
    )


def impossible_times(values: Mapping[str, float | None], percentiles: Sequence[str]) -> Iterator[str]:
    """Times that no requests have: percentiles that fall, or are given in part; an average outside of the extremes."""
    times = [(title, value) for title in percentiles if (value := values[title]) is not None]
    if times and len(times) < len(percentiles):
        absent = next(title for title in percentiles if values[title] is None)
        yield f"{absent} is empty, and other percentiles are not"
    for (low, before), (high, after) in pairwise(times):
        if not (before <= after or (math.isnan(before) and math.isnan(after))):
            yield f"{high} is {after:g} and {low} is {before:g}: percentiles rise"
    median, half = values["median response time"], values.get("50%")
    if median is not None and half is not None and bool(time_fault_of(median)) != bool(time_fault_of(half)):
        yield f"the median is {median:g} and 50% is {half:g}: they are one number"
    least, average, most = (values[f"{kind} response time"] for kind in ("min", "average", "max"))
    if least is None or average is None or most is None or not all(map(math.isfinite, (least, average, most))):
        return
    bounds = f"the fastest request {least:g}, the slowest {most:g}"
    for title, value in times:
        if not least - resolution(value) <= value <= most + resolution(value):
            yield f"{title} is {value:g}, {bounds}: no percentile lies outside"
    if not least - ROUNDING_MS <= average <= most + ROUNDING_MS:
        yield f"the average is {average:g}, {bounds}: no average lies outside"


def cell_value(location: str, title: str, text: str, kind: str) -> float | None:
    """A cell as a number of its kind; ``None`` where Locust had nothing to say.  Any number may be a response time."""
    if text.strip() in ("", "N/A", "None") and kind != WHOLE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or not (kind == TIME or (0 <= value <= MOST and (kind == NUMBER or value.is_integer()))):
        hint = spoilt_by_spreadsheet(text) if value is None else ""
        raise ReadError(f"{location}: {title}: expected {kind}, got {text!r}{hint}")
    return value


def time_fault_of(value: float | None) -> str:
    """What is wrong with a response time, or nothing."""
    return "" if value is None or 0 <= value <= LONGEST_MS else time_fault(value)


def check_rows(path: Path, rows: Sequence[Row], total: Row) -> list[str]:
    """What of the rows the row of all requests contradicts, though both come of the same requests and clock.

    Sentences on what may have been edited; ``ReadError`` for what no edit explains.
    """
    services = [row for row in rows if row.count]
    if not total.count or sum(row.count for row in services) != total.count:
        return []  # rows are missing, which the counts say
    damage: list[tuple[int, str, float]] = []  # line, sentence, and by which factor
    for row in services:
        is_explained = row.fault == time_fault(-1.0) and (total.lowest is None or total.lowest < 0)
        if row.fault and not total.fault and not is_explained:
            text = f"a response time is {row.fault}, and none of all requests is, in line {total.line}"
            damage.append((row.line, text, math.inf))
    if total.fault and not any(row.fault for row in services):
        damage.append((total.line, f"a response time of all is {total.fault}, and of no service", math.inf))
    for row in services:
        if row.fault or row.rps is None or total.rps is None:
            continue
        rps = total.rps * row.count / total.count  # Locust divides the requests of every row by the same time
        step = max(row.steps.get(Metric.RPS, 0.0), total.steps.get(Metric.RPS, 0.0))
        if abs(row.rps - rps) > SAME_RATE * max(rps, row.rps) + step:
            text = f"{row.count} requests at {row.rps:g} per second, and all {total.count} at {total.rps:g}"
            damage.append((row.line, text, _factor(row.rps, rps)))
    averages = [(row.count, row.average) for row in services if row.average is not None]
    if total.average is not None and len(averages) == len(services):
        mean = sum(count * average for count, average in averages) / total.count
        if abs(mean - total.average) > SAME_AVERAGE * max(mean, total.average) + ROUNDING_MS:
            text = f"the average of all is {total.average:g}, and the rows above make it {mean:g}"
            damage.append((total.line, text, _factor(mean, total.average)))
    for line, text, factor in damage:
        if factor > ABSURD:
            raise ReadError(f"{path}: line {line}: {text}; is the file damaged?")
    return [f"{path.name}: line {line}: {text}" for line, text, _ in damage]


def _factor(first: float, second: float) -> float:
    return max(first, second) / min(first, second) if first and second else math.inf


# The companion files --------------------------------------------------------------------------------------------------


def with_distribution(rows: list[Row], path: Path) -> list[Row]:
    """The rows with the percentiles that Locust before 0.12 wrote into a file of their own."""
    if not path.is_file():
        return rows
    table = read_table(path)
    if "name" not in table.titles:
        raise ReadError(f"{path}: line 1: missing column Name; expected Name, # requests, 50%, ...")
    by_name: dict[str, dict[float, float]] = {}  # "GET /items", and "Total"
    for line, cells in table.records(is_strict=True):
        values = {
            q: cell_value(f"{path}: line {line}", title, cells[title], NUMBER) for title, q in table.percentiles.items()
        }
        name = cells["name"].removeprefix("None ")
        by_name[name] = {quantile: value for quantile, value in values.items() if value is not None}
    names = [f"{row.kind} {row.name}".strip().removeprefix("None ") for row in rows]
    return [
        replace(row, percentiles={**by_name.get(name, {}), **row.percentiles})
        for row, name in zip(rows, names, strict=True)
    ]


def failures_of(path: Path) -> dict[tuple[str, str], dict[str, int]]:
    """Kinds of error and their counts by method and name, of ``PREFIX_failures.csv``, as far as it is understood."""
    table = read_table(path) if path.is_file() else Table(path)
    counts: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for _, cells in table.lines:
        line = dict(zip(table.titles, cells, strict=False))
        is_whole = len(cells) == len(table.titles) and line.keys() >= {"type", "name", "error", "occurrences"}
        if is_whole and (count := line["occurrences"].strip()).isdecimal():
            counts.setdefault((line["type"], line["name"]), []).append((line["error"], int(count)))
    return {key: most_frequent(errors) for key, errors in counts.items()}


@dataclass(frozen=True, slots=True)
class History:
    """What the state of the whole run says, which Locust wrote down about once a second; ``None`` where it cannot.

    Start and length are those of its lines; ``errors`` are those of the run's average and rate.
    """

    started_at: datetime | None = None
    duration_s: float | None = None
    peak_users: int | None = None
    errors: TimeSeriesErrors | None = None


def read_history(path: Path) -> History:
    """Read a history file; nothing is known of one without times.  ``ReadError`` names the cell that is no number."""
    table = read_table(path, HISTORY_TITLES) if path.is_file() else Table(path)
    if "timestamp" not in table.titles:
        return History()
    columns = ("user count", "request count", "average response time")
    users: dict[float, float] = {}  # before Locust 1.0 the file does not say
    by_time: dict[float, tuple[float, float]] = {}  # requests from the beginning until then, and their average
    for line, cells in table.records():  # a line that is cut off: Locust was killed while it wrote it
        location = f"{path}: line {line}"
        time, *values = (
            math.nan if (value := cell_value(location, title, cells.get(title, ""), NUMBER)) is None else value
            for title in ("timestamp", *columns)
        )
        users[time] = max(users.get(time, values[0]), values[0])
        if cells.get("name", TOTAL_NAMES[0]) in TOTAL_NAMES:
            by_time[time] = values[1], values[2]  # of one second the last line counts
    times = sorted(by_time)
    if not times:
        return History()
    try:
        started_at = datetime.fromtimestamp(times[0], UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ReadError(f"{path}: timestamp: expected seconds since the epoch, got {times[0]:g}") from error
    peak = max((users[time] for time in times if math.isfinite(users[time])), default=0.0)
    at_s, (counts, averages) = np.array(times), np.array([by_time[time] for time in times]).T
    is_known = np.isfinite(counts) & np.isfinite(averages)
    at_s, counts, averages = at_s[is_known], counts[is_known], averages[is_known]
    errors = None
    if counts.size > 1 and not (np.diff(counts) < 0).any():  # else statistics were reset in the middle of the run
        # Whole milliseconds (before Locust 2) times all requests so far swamp what happens in one batch.
        is_rounded = bool((averages == np.round(averages)).all())
        errors = time_series_errors(at_s, counts, None if is_rounded else averages)
    return History(started_at, times[-1] - times[0] or None, int(peak) or None, errors)


# Tables as Locust writes them, and as spreadsheets and editors write them again ---------------------------------------

SEPARATORS = ",;\t|"
HEAD_BYTES = 8192  # enough for a header line in any encoding
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEP_LINE = re.compile(r"\s*\"?sep=([^\s\"]|\t)\"?[^\S\n]*(?:\n|$)", re.IGNORECASE)
_WITH_COMMA = re.compile(r"-?[\d.\s]*\d,\d+(?:[eE][+-]?\d+)?")  # 23,4 and 1.234,5
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # 1,234 and 1,234.5
_GROUPED_BY_POINTS = re.compile(r"-?\d{1,3}(?:\.\d{3})+")
_DECIMAL_COMMA = re.compile(r"-?[\d.\s,]+(?:[eE][+-]?\d+)?")
_DATE = re.compile(r"(?i)\d{1,2}[./-]\s?(?:\d{1,2}|[a-z]{3})\w*[./-]?(?:\s?\d{2,4})?|[a-z]{3}\.?[ -]\d{2}")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: titles as Locust 1.0 names them, in lower case, and lines with the number on which each ends."""

    path: Path
    titles: Sequence[str] = ()
    header: Sequence[str] = ()
    lines: Sequence[tuple[int, list[str]]] = ()

    @property
    def percentiles(self) -> dict[str, float]:
        """Titles such as ``95%``, and the quantiles that they hold, ascending."""
        quantiles = {title: float(title[:-1]) / 100.0 for title in self.titles if _PERCENT.match(title)}
        return dict(sorted(quantiles.items(), key=lambda pair: pair[1]))

    def records(self, *, is_strict: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
        """The cells of each line by title; a line that is cut off is passed over where that is no error."""
        for line, cells in self.lines:
            if is_strict and cells == self.header:
                text = "the header again; these are several files in one, split them"
                raise ReadError(f"{self.path}: line {line}: {text}")
            if is_strict and len(cells) != len(self.titles):
                text = f"{len(cells)} cells where the header has {len(self.titles)}"
                raise ReadError(f"{self.path}: line {line}: {text}; is the file cut off?")
            if len(cells) >= len(self.titles):
                yield line, dict(zip(self.titles, cells, strict=False))


def read_table(path: Path, new_titles: Mapping[str, str] = NEW_TITLES) -> Table:
    """The lines that are not empty, with decimal points.  ``ReadError``: no table, or numbers with two readings."""
    reader, skipped = _csv_reader(decoded(path.read_bytes()))
    lines: list[tuple[int, list[str]]] = []
    try:
        lines += ((reader.line_num + skipped, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise ReadError(f"{path}: line {reader.line_num + skipped}: {error}") from error
    if not lines:
        return Table(path)
    # Spreadsheets add empty columns on the right
    width = max((at for at, cell in enumerate(lines[0][1], start=1) if cell.strip()))
    lines = [(line, cells if any(map(str.strip, cells[width:])) else cells[:width]) for line, cells in lines]
    header = lines.pop(0)[1]
    titles = _titles(header, new_titles)
    _put_points(path, lines, [at for at, title in enumerate(titles) if title not in TEXTS])
    return Table(path, titles, header, lines)


def header_of(path: Path) -> list[str]:
    """The titles of the first line, as a `Table` names them; empty for what is no table."""
    with path.open("rb") as file:
        reader, _ = _csv_reader(decoded(file.read(HEAD_BYTES)))
    try:
        return _titles(next(reader, []), NEW_TITLES)
    except csv.Error:
        return []


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


def _csv_reader(text: str) -> tuple[Any, int]:
    """A reader with the separator that ``sep=`` names, else the most frequent one; and the lines before the header."""
    sep_line = _SEP_LINE.match(text)
    body = text[sep_line.end() :] if sep_line else text
    head = body.lstrip("\n").split("\n", 1)[0]
    separator = sep_line[1] if sep_line else max(SEPARATORS, key=head.count)
    return csv.reader(io.StringIO(body, newline=""), delimiter=separator), int(sep_line is not None)


def _titles(cells: Sequence[str], new_titles: Mapping[str, str]) -> list[str]:
    return [
        f"{percent[1].replace(',', '.')}%" if (percent := _PERCENT.match(title)) else new_titles.get(title, title)
        for title in (cell.strip().lower() for cell in cells)
    ]


def _put_points(path: Path, lines: Sequence[tuple[int, list[str]]], columns: Sequence[int]) -> None:
    """Write a point for each decimal comma of these columns, and no separators of thousands."""
    numbers = [(line, cells[at].strip()) for line, cells in lines for at in columns if at < len(cells)]
    commas = [(line, cell) for line, cell in numbers if _WITH_COMMA.fullmatch(cell) or _GROUPED.fullmatch(cell)]
    if not commas:
        return
    points = [cell for _, cell in numbers if re.fullmatch(r"-?\d+\.\d+", cell)]
    line, cell = next(((line, cell) for line, cell in commas if not _GROUPED.fullmatch(cell)), commas[0])
    is_decimal = not _GROUPED.fullmatch(cell)
    fault = ""
    if is_decimal and not all(map(_GROUPED_BY_POINTS.fullmatch, points)):
        fault = f"has a decimal comma, {points[0]!r} a decimal point"
    elif not is_decimal and not points:
        fault = "may have a decimal comma or a separator of thousands"
    if fault:
        raise ReadError(f"{path}: line {line}: {cell!r} {fault}; save the file again as the tool wrote it")
    for _, cells in lines:
        for at in columns:
            text = cells[at].strip() if at < len(cells) else ""
            if is_decimal and _DECIMAL_COMMA.fullmatch(text):
                cells[at] = re.sub(r"[.\s]", "", text).replace(",", ".")
            elif not is_decimal and _GROUPED.fullmatch(text):
                cells[at] = text.replace(",", "")


def spoilt_by_spreadsheet(text: str) -> str:
    """What may have happened to a cell that is no number, as the end of a sentence; empty where nothing is known."""
    if _DATE.fullmatch(text.strip()):
        return "; a spreadsheet takes such numbers for dates: use the file as the tool wrote it"
    if text.strip().startswith("#"):
        return "; a spreadsheet writes this for what it could not show: use the file as the tool wrote it"
    return ""
