"""The normalised metrics and baselines files: a JSON object of service name to its numbers.

``performance-baselines-v2.json`` and the output of ``perfkit metrics`` share this shape::

    {"api_gateway": {"baseline_users": 1, "avg_latency_ms": 21.3, "p95_latency_ms": 38.0, "p99_latency_ms": 52.0,
                     "error_rate_pct": 0.33, "rps": 50.0, "total_requests": 300, "total_failures": 1,
                     "timestamp": "2025-10-17T14:30:04Z"}}

What a source cannot say is absent.  The number of users is declared by the file, not measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit.model.codec import parse_time
from perfkit.model.errors import NotComparable, ReadError, did_you_mean
from perfkit.model.records import LATENCY_METRICS, LoadProfile, Metric, Run, ServiceStats, Severity, Validity
from perfkit.model.serialization import DAY_MS, make_run_id, stats_contradiction
from perfkit.runs.validity import GeneratorFacts, check_run, withheld
from perfkit.stats.summary import PercentileTable, errors_assumed, errors_from_percentiles

TITLE = "metrics or baselines JSON (service name to metrics)"
COUNTS = {"count": "total_requests", "failures": "total_failures"}
KEYS = ("baseline_users", *(metric.value for metric in Metric), *COUNTS.values(), "duration_s", "timestamp")
KNOWN = set(KEYS)
BASELINE_SECONDS = 120.0  # the scenario ``baseline`` lasts two minutes by definition
MAX_SNIFFED = 64 * 1024 * 1024
MOST: dict[str, float] = {  # what is beyond was not measured
    **dict.fromkeys(LATENCY_METRICS, DAY_MS),
    Metric.ERROR_RATE: 100.0,
    **dict.fromkeys(("total_requests", "total_failures"), 1e15),
}
MOST_OTHERS = 1e9  # users, requests per second, seconds


def sniff(path: Path) -> bool:
    """A JSON object of objects, one of which has a key of ours; also a broken file that names our keys."""
    if not path.is_file() or path.stat().st_size > MAX_SNIFFED:
        return False
    content = path.read_bytes()
    try:
        document = json.loads(content)
    except (ValueError, UnicodeDecodeError, RecursionError):
        return path.suffix == ".json" and any(f'"{name}"'.encode() in content[:65536] for name in KNOWN)
    if not isinstance(document, dict) or "schema" in document:
        return False
    return any(isinstance(entry, dict) and KNOWN & set(entry) for entry in document.values())


def read(path: Path) -> Run:
    """Read a metrics or baselines file."""
    content = path.read_bytes()
    document = _parse(content, path)
    services: dict[str, ServiceStats] = {}
    users, times, lengths = [], [], []
    for name, entry in document.items():
        place = f"{path}: {name}"
        services[name] = _stats(entry, place)
        users.append(_number(entry, "baseline_users", place))
        lengths.append(_number(entry, "duration_s", place))
        if (text := entry.get("timestamp")) is not None:
            try:
                times.append(parse_time(text))
            except (TypeError, ValueError) as error:
                raise ReadError(f"{place}: timestamp: expected an ISO 8601 time, got {text!r}") from error
    started_at = min(times, default=None)
    most_users = max((number for number in users if number is not None), default=None)
    profile = LoadProfile("declared", users=int(most_users) if most_users is not None else None)
    is_baseline = "baseline" in path.name
    scenario = "baseline" if is_baseline else path.stem
    length = max((seconds for seconds in lengths if seconds is not None), default=None)
    duration = length or (BASELINE_SECONDS if is_baseline else None)
    digest = hashlib.sha256(content).hexdigest()
    return Run(
        id=make_run_id(started_at, scenario, digest),
        scenario=scenario,
        started_at=started_at,
        duration_s=duration,
        profile=profile,
        validity=Validity(check_run(services, profile, GeneratorFacts(), duration)),
        services=withheld(services),
        tool="metrics file",
        content_hash=digest,
        source=str(path),
    )


def _parse(content: bytes, path: Path) -> dict[str, dict[str, Any]]:
    def refuse_constant(name: str) -> float:
        raise ValueError(f"{name} is not a number; leave out what is not known")

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} stands there twice; which one holds?")
        return dict(pairs)

    try:
        document = json.loads(content, parse_constant=refuse_constant, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        raise ReadError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path}: {error}") from error
    for name, entry in document.items():
        if not isinstance(entry, dict):
            raise ReadError(f"{path}: {name}: expected an object with metrics, got {entry!r}"[:300])
    return dict(document)


def _number(entry: Mapping[str, Any], key: str, place: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ReadError(f"{place}: {key}: expected a number >= 0, got {value!r}"[:300])
    if value > (most := MOST.get(key, MOST_OTHERS)):
        raise ReadError(f"{place}: {key}: expected at most {most:,.0f}, got {value!r}"[:300])
    return float(value)


def _whole(entry: Mapping[str, Any], key: str, place: str) -> int | None:
    value = _number(entry, key, place)
    if value is not None and not value.is_integer():
        raise ReadError(f"{place}: {key}: expected a whole number, got {value!r}")
    return None if value is None else int(value)


def _stats(entry: Mapping[str, Any], place: str) -> ServiceStats:
    for key in entry:
        if key not in KNOWN and (near := did_you_mean(key, KNOWN)):
            raise ReadError(f"{place}: unknown key {key!r}{near}; rename or remove it")
    counts = {ours: _whole(entry, theirs, place) for ours, theirs in COUNTS.items()}
    values: dict[str, Any] = {metric.value: _number(entry, metric.value, place) for metric in Metric}
    duration = _number(entry, "duration_s", place)
    if duration == 0:
        raise ReadError(f"{place}: duration_s: expected a number > 0, got {entry['duration_s']!r}; mend the file")
    _whole(entry, "baseline_users", place)
    count, failures = counts["count"], counts["failures"]
    if (text := stats_contradiction(ServiceStats(count, failures, **values), duration)) is not None:
        raise ReadError(f"{place}: {text}; mend the file")
    error_rate = values["error_rate_pct"]
    if count is not None and failures is None and error_rate is not None:
        failures = round(count * error_rate / 100.0)
    if error_rate is None and count and failures is not None:
        values["error_rate_pct"] = 100.0 * failures / count
    # Standard errors within the run: from the percentiles where there are three, else from an assumed shape
    stated = {name: value for name, value in values.items() if value is not None}
    errors: dict[str, float] = {}
    if count and stated:
        table = {q: stated[metric] for metric in Metric if (q := metric.quantile) is not None and metric in stated}
        errors = {**errors_assumed(count, stated), **errors_from_percentiles(PercentileTable.of(table), count, stated)}
    return ServiceStats(count, failures, **values, standard_errors=errors)


def pooled_metrics(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The normalised metrics of one or several runs, in the shape that `read` takes; what is unknown is absent.

    Counts of one service add up over runs; other values are averages over its runs (those that know them); the error
    rate follows from the counts where they are known.
    """
    check_fit(runs)
    by_service: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for name, stats in run.services.items():
            entry: dict[str, Any] = {
                "baseline_users": run.profile.users,
                **{metric.value: stats.value(metric) for metric in Metric},
                "total_requests": stats.count,
                "total_failures": stats.failures,
                "duration_s": run.duration_s,
                "timestamp": run.started_at.isoformat().replace("+00:00", "Z") if run.started_at else None,
            }
            entry = {key: value for key, value in entry.items() if value is not None}
            by_service.setdefault(name, []).append(entry)
    return {name: _pool(entries) for name, entries in by_service.items()}


def check_fit(runs: Sequence[Run]) -> None:
    """Runs that may not be judged do not make a baseline, and copies of one run are not several."""
    seen: dict[str, str] = {}
    for run in runs:
        place = run.source or run.id
        bad = next((check for check in run.validity.problems if check.severity is Severity.INVALID), None)
        if bad is not None:
            raise NotComparable(f"{place}: the run is unfit: {bad.name} ({bad.value}): {bad.advice}")
        if run.content_hash and run.content_hash in seen:
            raise ReadError(f"{place}: holds the same run as {seen[run.content_hash]}; name each run once")
        seen[run.content_hash or run.id] = place


def _pool(entries: list[dict[str, Any]]) -> dict[str, Any]:
    pooled = dict(entries[0])
    for key in {key for entry in entries for key in entry}:
        values = [entry[key] for entry in entries if key in entry]
        if key in COUNTS.values():
            pooled[key] = sum(values)
        elif key == "timestamp":
            pooled[key] = min(values)
        elif key == "baseline_users":
            pooled[key] = max(values)
        else:
            pooled[key] = sum(values) / len(values)
    if len(entries) > 1:
        # A sum of counts over the mean length of one run would contradict the rate.
        lengths = [entry.get("duration_s") for entry in entries]
        pooled["duration_s"] = None if None in lengths else sum(lengths)
    if pooled.get("total_requests") and "total_failures" in pooled:
        pooled["error_rate_pct"] = 100.0 * pooled["total_failures"] / pooled["total_requests"]
    return {name: pooled[name] for name in KEYS if pooled.get(name) is not None}
