"""The tables that Locust writes: rows of a stats file, whatever its age."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from perfkit.errors import ReadError
from perfkit.model import Metric
from perfkit.readers.csv_text import header_of, read_table, spoilt_by_spreadsheet
from perfkit.readers.error_kinds import most_frequent
from perfkit.script_errors import LONGEST_MS, time_fault

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


def _columns(path: Path, header: list[str]) -> tuple[dict[str, int], dict[float, int]]:
    titles = [title.strip().lower() for title in header]
    named = {key: next((titles.index(n) for n in names if n in titles), -1) for key, names in COLUMNS.items()}
    missing = [COLUMNS[key][0] for key in REQUIRED if named[key] < 0]
    if missing:
        raise ReadError(f"{path}: line 1: missing column {', '.join(missing)}")
    return named, _percents(titles)


def stats_rows(path: Path) -> Iterator[Row]:
    table = table_of(path)
    first = next(table, None)
    if first is None:
        raise ReadError(f"{path}: is empty")
    named, percents = _columns(path, first[1])
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
        steps=_steps({Metric.AVG: cells[named["average"]], Metric.RPS: cells[named["rps"]]}),
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
    own = [row for row in rows if not row.is_total and row.count]
    if total is None or not total.count or sum(row.count for row in own) != total.count:
        return ()  # rows are missing, which the counts say
    for row in own:
        if (text := _contradiction(row, total)) is not None:
            raise ReadError(f"{path}: line {row.line}: {text}, in line {total.line}; is the file damaged?")
    if total.fault and not any(row.fault for row in own):
        what = f"a response time of all is {total.fault}, and of no service"
        raise ReadError(f"{path}: line {total.line}: {what}; is the file damaged?")
    texts = []
    for place, text, factor in _unlike(own, total):
        if factor > ABSURD:
            raise ReadError(f"{path}: {place}: {text}; is the file damaged?")
        texts.append(f"{path.name}: {place}: {text}")
    return tuple(texts)


def _contradiction(row: Row, total: Row) -> str | None:
    """How the response times of a service contradict those of all."""
    if row.fault and not total.fault and not (row.fault == NEGATIVE and (total.lowest is None or total.lowest < 0)):
        return f"a response time is {row.fault}, and none of all requests is"
    return None


def _unlike(own: Sequence[Row], total: Row) -> Iterator[tuple[str, str, float]]:
    """Rates and averages that do not add up: the place, a sentence, and by which factor."""
    for row in own:
        if row.fault or row.rps is None or total.rps is None:
            continue
        # Locust divides the requests of every row by the same time
        rps = total.rps * row.count / total.count
        step = max(row.steps.get(Metric.RPS, 0.0), total.steps.get(Metric.RPS, 0.0))
        if abs(row.rps - rps) > SAME_RATE * max(rps, row.rps) + step:
            text = f"{row.count} requests at {row.rps:g} per second, and all {total.count} at {total.rps:g}"
            yield f"line {row.line}", text, _factor(row.rps, rps)
    averages = [(row.count, row.average) for row in own if row.average is not None]
    if total.average is None or len(averages) < len(own):
        return
    mean = sum(count * average for count, average in averages) / total.count
    if abs(mean - total.average) > SAME_AVERAGE * max(mean, total.average) + ROUNDING_MS:
        text = f"the average of all is {total.average:g}, and the rows above make it {mean:g}"
        yield f"line {total.line}", text, _factor(mean, total.average)


def _factor(first: float, second: float) -> float:
    return max(first, second) / min(first, second) if first and second else math.inf


def title_of(quantile: float) -> str:
    """How Locust names a percentile."""
    return f"{100 * quantile:.6g}%"


def _steps(cells: Mapping[str, str]) -> dict[str, float]:
    """Old versions write whole milliseconds and hundredths of a request: a rounding that counts as error."""
    decimals = {name: len(text.strip().partition(".")[2]) for name, text in cells.items() if text.strip()}
    return {name: 10.0**-digits for name, digits in decimals.items() if digits <= MOST_ROUNDED_DIGITS}


def with_distribution(rows: list[Row], path: Path) -> list[Row]:
    """The rows with the percentiles that Locust before 0.12 wrote into a file of their own."""
    if not path.is_file():
        return rows
    by_name = dict(_distribution(path))
    return [replace(row, percentiles={**by_name.get(_title(row), {}), **row.percentiles}) for row in rows]


def _title(row: Row) -> str:
    """How a distribution file names a row: ``GET /items``, and ``Total``."""
    return row.name if row.is_total else f"{row.kind} {row.name}".strip()


def _distribution(path: Path) -> Iterator[tuple[str, dict[float, float]]]:
    table = table_of(path)
    line, header = next(table, (1, []))
    titles = [title.strip().lower() for title in header]
    if "name" not in titles:
        raise ReadError(f"{path}: line {line}: missing column Name; expected Name, # requests, 50%, ...")
    percents = _percents(titles)
    for line, cells in table:
        if len(cells) != len(header):
            raise ReadError(
                f"{path}: line {line}: {len(cells)} cells where the header has {len(header)}; is the file cut off?"
            )
        found = {q: number_of(f"{path}: line {line}", f"{q:.5%}", cells[i]) for q, i in percents.items()}
        name = cells[titles.index("name")]
        yield name.removeprefix("None "), {q: value for q, value in found.items() if value is not None}


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
