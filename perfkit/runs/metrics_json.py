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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perfkit.model.codec import MOST_BYTES, parse_json, parse_time
from perfkit.model.errors import NotComparable, ReadError, did_you_mean
from perfkit.model.records import LATENCY_METRICS, LoadProfile, Metric, Run, ServiceStats, Severity, Validity
from perfkit.model.serialization import DAY_MS, make_run_id, stats_contradiction
from perfkit.runs.validity import GeneratorFacts, check_run, withheld
from perfkit.stats.summary import PercentileTable, errors_assumed, errors_from_percentiles

TITLE = "metrics or baselines JSON (service name to metrics)"
MOST_OTHERS = 1e9  # users, requests per second, seconds
NUMBERS: Mapping[str, float] = {  # and the largest that can have been measured
    "baseline_users": MOST_OTHERS,
    **{metric.value: DAY_MS if metric in LATENCY_METRICS else MOST_OTHERS for metric in Metric},
    Metric.ERROR_RATE.value: 100.0,
    "total_requests": 1e15,
    "total_failures": 1e15,
    "duration_s": MOST_OTHERS,
}
WHOLE = ("baseline_users", "total_requests", "total_failures")
KEYS = (*NUMBERS, "timestamp")
BASELINE_SECONDS = 120.0  # the scenario ``baseline`` lasts two minutes by definition


def sniff(path: Path) -> bool:
    """A JSON object of objects, one of which has a key of ours; also a broken file that names our keys."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return False
    content = path.read_bytes()
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return path.suffix == ".json" and any(f'"{name}"'.encode() in content[:65536] for name in KEYS)
    if not isinstance(document, dict) or "schema" in document:
        return False
    return any(isinstance(entry, dict) and not entry.keys().isdisjoint(KEYS) for entry in document.values())


def read(path: Path) -> Run:
    content = decoded = path.read_bytes()
    with suppress(UnicodeDecodeError):  # other programs write UTF-16 too, and byte order marks
        decoded = content.decode(json.detect_encoding(content)).encode()
    services: dict[str, ServiceStats] = {}
    users, times, lengths = [], [], []
    for name, entry in parse_json(decoded, str(path)).items():
        location = f"{path}: {name}"
        values = _numbers(entry, location)
        count, failures, error_rate = (values[key] for key in ("total_requests", "total_failures", "error_rate_pct"))
        of_metrics: dict[str, Any] = {metric.value: values[metric] for metric in Metric}
        if (text := stats_contradiction(ServiceStats(count, failures, **of_metrics), values["duration_s"])) is not None:
            raise ReadError(f"{location}: {text}; mend the file")
        if count is not None and failures is None and error_rate is not None:
            failures = round(count * error_rate / 100.0)
        if error_rate is None and count and failures is not None:
            of_metrics["error_rate_pct"] = 100.0 * failures / count
        # Standard errors within the run: from the percentiles where there are three, else from an assumed shape
        stated = {name: value for name, value in of_metrics.items() if value is not None}
        errors: dict[str, float] = {}
        if count and stated:
            table = {q: stated[metric] for metric in Metric if (q := metric.quantile) is not None and metric in stated}
            percentiles = PercentileTable.of(table)
            errors = errors_assumed(count, stated) | errors_from_percentiles(percentiles, count, stated)
        services[name] = ServiceStats(count, failures, **of_metrics, standard_errors=errors)
        users.append(values["baseline_users"])
        lengths.append(values["duration_s"])
        if (time := entry.get("timestamp")) is not None:
            try:
                times.append(parse_time(time))
            except (TypeError, ValueError) as error:
                raise ReadError(f"{location}: timestamp: expected an ISO 8601 time, got {time!r}") from error
    started_at = min(times, default=None)
    profile = LoadProfile("declared", users=max((number for number in users if number is not None), default=None))
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


def _numbers(entry: Any, location: str) -> dict[str, Any]:
    """The numbers of one service, ``None`` where it has none; ``ReadError`` for what no number of requests is."""
    if not isinstance(entry, dict):
        raise ReadError(f"{location}: expected an object with metrics, got {entry!r}"[:300])
    for key in entry:
        if key not in KEYS and (near := did_you_mean(key, KEYS)):
            raise ReadError(f"{location}: unknown key {key!r}{near}; rename or remove it")
    values: dict[str, Any] = {key: entry.get(key) for key in NUMBERS}
    for key, value in values.items():
        if value is None:
            continue
        expected = ""
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            expected = "a number >= 0"
        elif value > NUMBERS[key]:
            expected = f"at most {NUMBERS[key]:,.0f}"
        elif key in WHOLE and value != int(value):
            expected = "a whole number"
        elif key == "duration_s" and not value:
            expected = "a number > 0"
        if expected:
            raise ReadError(f"{location}: {key}: expected {expected}, got {value!r}"[:300] + "; mend the file")
        values[key] = int(value) if key in WHOLE else float(value)
    return values


def pooled_metrics(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The normalised metrics of one or several runs, in the shape that `read` takes; what is unknown is absent.

    Counts of one service add up over runs; other values are averages over its runs (those that know them); the error
    rate follows from the counts where they are known.  ``NotComparable`` or ``ReadError``: a run may not be judged, or
    is a copy of another: that makes no baseline.
    """
    seen: dict[str, str] = {}
    by_service: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        source = run.source or run.id
        bad = next((check for check in run.validity.problems if check.severity is Severity.INVALID), None)
        if bad is not None:
            raise NotComparable(f"{source}: the run is unfit: {bad.name} ({bad.value}): {bad.advice}")
        if run.content_hash and run.content_hash in seen:
            raise ReadError(f"{source}: holds the same run as {seen[run.content_hash]}; name each run once")
        seen[run.content_hash or run.id] = source
        for name, stats in run.services.items():
            entry: dict[str, Any] = {
                "baseline_users": run.profile.users,
                **{metric.value: stats.value(metric) for metric in Metric},
                "total_requests": stats.count,
                "total_failures": stats.failures,
                "duration_s": run.duration_s,
                "timestamp": run.started_at.isoformat().replace("+00:00", "Z") if run.started_at else None,
            }
            by_service.setdefault(name, []).append(entry)
    pooling: Mapping[str, Callable[[list[Any]], Any]] = {
        **dict.fromkeys(("total_requests", "total_failures", "duration_s"), sum),
        **{"baseline_users": max, "timestamp": min},
    }
    pooled: dict[str, dict[str, Any]] = {}
    for name, entries in by_service.items():
        metrics = pooled[name] = {}
        for key in KEYS:
            values = [entry[key] for entry in entries if entry[key] is not None]
            # Counts of all runs over the length of some would contradict the rate.
            if values and (key != "duration_s" or len(values) == len(entries)):
                metrics[key] = pooling[key](values) if key in pooling else sum(values) / len(values)
        if metrics.get("total_requests") and "total_failures" in metrics:
            metrics["error_rate_pct"] = 100.0 * metrics["total_failures"] / metrics["total_requests"]
    return pooled
