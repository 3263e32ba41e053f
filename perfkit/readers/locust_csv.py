"""The files written by ``locust --csv PREFIX``.

``PREFIX_stats.csv`` (or, from old versions, ``PREFIX_requests.csv`` with ``PREFIX_distribution.csv``) is needed;
``_stats_history.csv`` tells start, length, users and how much the run varied within itself.  Locust rounds every
latency to about two digits before it counts it, so a percentile read here is exact to 1 ms below 100 ms, 10 ms below
1 s and 100 ms below 10 s; that rounding is part of each value's standard error.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.document import make_run_id
from perfkit.errors import ReadError
from perfkit.load_profile import LoadProfile
from perfkit.model import Check, Metric, Run, ServiceStats, Severity, Validity
from perfkit.readers.locust_history import read_history
from perfkit.readers.locust_tables import (
    Row,
    check_rows,
    failures_of,
    looks_like_locust,
    resolution,
    stats_rows,
    with_distribution,
)
from perfkit.script_errors import SkippedRequests
from perfkit.stats.course import CourseErrors
from perfkit.stats.percentile_table import AUTOCORRELATION_FACTOR, PercentileTable, errors_from_percentiles
from perfkit.stats.summary import requests_needed_for
from perfkit.validity import GeneratorFacts, check_run
from perfkit.validity.outage import withheld
from perfkit.validity.requests import INCONSISTENT

TITLE = "Locust CSV (PREFIX_stats.csv with its companions)"
MAIN = ("_stats.csv", "_requests.csv")
UNLIKE_LENGTH = 10.0  # times: statistics may be reset after the ramp; 0.95 to 1.23 in real files
MOST_MISSING = 0.01  # of the requests: Locust writes the rows while it counts
COMPANIONS = ("_stats_history.csv", "_failures.csv", "_exceptions.csv", "_distribution.csv")


def sniff(path: Path) -> bool:
    """A file of a set, a prefix, or a folder that holds a set, with Locust's columns in the main file."""
    found = _mains(path)
    return any(looks_like_locust(main) for main in found)


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
    prefix = _prefix(main)
    told = list(stats_rows(main))
    unlike = check_rows(main, told)
    rows, skipped = _usable(with_distribution(told, Path(f"{prefix}_distribution.csv")))
    history = read_history(Path(f"{prefix}_stats_history.csv"))
    total = next((row for row in rows if row.is_total), None)
    services = withheld(_services(rows, history.errors, failures_of(Path(f"{prefix}_failures.csv"))))
    duration = history.duration_s or _length(total, rows)
    profile = LoadProfile("unknown", users=history.peak_users, duration_s=None)
    digest = _digest(main, prefix)
    stem = main.name.removesuffix(_ending(main))
    scenario = stem if stem not in ("", "results", "locust") else main.resolve().parent.name or "locust"
    checks = (
        *check_run(services, profile, GeneratorFacts(skipped=skipped), None),
        *_contradictions(total, services, history.duration_s, unlike),
    )
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


def _usable(rows: Sequence[Row]) -> tuple[list[Row], tuple[SkippedRequests, ...]]:
    """Rows whose response times can be measured, and what the others held; the sum of all is without those too."""
    left_out = [row for row in rows if row.fault and not row.is_total]
    count, failures = sum(row.count for row in left_out), sum(row.failures for row in left_out)
    kept = [_without(row, count, failures) if row.is_total and count else row for row in rows if row not in left_out]
    return kept, tuple(SkippedRequests(row.name, row.fault, row.count) for row in left_out)


def _without(total: Row, count: int, failures: int) -> Row:
    left = max(total.count - count, 0)
    rps = total.rps * left / total.count if total.rps and total.count else total.rps
    return replace(total, count=left, failures=max(total.failures - failures, 0), rps=rps)


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


def _ending(main: Path) -> str:
    """What of a file's name comes behind the prefix; the prefix of Locust may be empty."""
    return next((ending for ending in MAIN if main.name.endswith(ending)), main.suffix)


def _prefix(main: Path) -> str:
    """The path that the names of all files of the set begin with."""
    return str(main).removesuffix(_ending(main))


def _services(
    rows: list[Row], course: CourseErrors | None, failures: Mapping[tuple[str, str], Mapping[str, int]]
) -> dict[str, ServiceStats]:
    own = [row for row in rows if not row.is_total]
    dependence = _Dependence.of(next((row for row in rows if row.is_total), None), own, course)
    uses = Counter(row.name for row in own)
    # Locust sums up by method and name; the method is only needed where one name has several.
    return {
        row.name if uses[row.name] == 1 else f"{row.kind} {row.name}": replace(
            _stats(row, dependence), errors=failures.get((row.kind, row.name), {})
        )
        for row in own
    }


def _stats(row: Row, dependence: _Dependence) -> ServiceStats:
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
class _Dependence:
    """What the time course of the whole run says about requests that are not independent.

    ``total`` is the number of requests of the run.  ``shared`` is the relative variance of an average that services
    have in common, beyond what independent requests explain; ``rate`` the factor on a count's square root.  ``None``
    where the course cannot say.
    """

    total: int
    shared: float | None = None
    rate: float | None = None

    @classmethod
    def of(cls, total: Row | None, rows: Sequence[Row], course: CourseErrors | None) -> _Dependence:
        if total is None or course is None or not total.count:
            return cls(0)
        own = [_independent_error(row) for row in rows if row.count and row.average]
        if course.average is None or not total.average or None in own:
            return cls(total.count, None, course.rate * math.sqrt(total.count))
        counted = [row.count for row in rows if row.count and row.average]
        errors = sum((n * (error or 0.0)) ** 2 for n, error in zip(counted, own, strict=True))
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


def _length(total: Row | None, rows: list[Row]) -> float | None:
    """Seconds, from the row that saw most: Locust's rate is requests over the time until the last one."""
    row = total or max(rows, key=lambda item: item.count, default=None)
    return row.count / row.rps if row is not None and row.rps else None


def _contradictions(
    total: Row | None, services: Mapping[str, ServiceStats], history_s: float | None, unlike: Sequence[str]
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
    for text in unlike:
        yield Check(INCONSISTENT, text, "no contradiction", Severity.WARN, f"{text}: the file contradicts itself.")
    length = total.count / total.rps if total.count and total.rps else None
    if length is not None and history_s and not 1 / UNLIKE_LENGTH <= length / history_s <= UNLIKE_LENGTH:
        advice = (
            f"{total.count} requests at {total.rps:g} per second take {length:.3g} s, and the history of the run "
            f"{history_s:.3g} s: the files contradict each other. Copy them again."
        )
        yield Check("counts", round(length, 3), round(history_s, 3), Severity.INVALID, advice)


def _digest(main: Path, prefix: str) -> str:
    sha = hashlib.sha256(main.read_bytes())
    history = Path(f"{prefix}_stats_history.csv")
    if history.is_file():
        sha.update(history.read_bytes())
    return sha.hexdigest()
