"""Made-up load tests whose truth is known: requests, run summaries, and the files of Locust."""

from __future__ import annotations

import csv
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from perfkit.config.settings import Scenario
from perfkit.model.records import LATENCY_METRICS, LoadProfile, Metric, Run, ServiceStats, Validity
from perfkit.model.serialization import make_run_id
from perfkit.runs.requests import RequestColumns
from perfkit.stats.streams import Totals
from perfkit.stats.summary import summarise as summarise_services

EPOCH = 1_760_711_404.0  # 2025-10-17T14:30:04Z
SERVICES = {"api_gateway": 20.0, "rag_service": 90.0, "mcp_server": 240.0}  # medians in ms
REPOSITORY = Path(__file__).parents[1]


def load_profile(kind: str | None = None, **load) -> LoadProfile:
    """The load profile of a scenario that asks for this load."""
    return Scenario("s", Path("locustfile.py"), kind=kind, **load).profile


def requests(rng, *, seconds=20.0, rate=50.0, services=SERVICES, sigma=0.35, slower=1.0, errors=0.0, begin=EPOCH):
    """A frame of requests: Poisson arrivals, log-normal times, ``slower`` a factor (or one for each service)."""
    parts = []
    for name, median in services.items():
        count = max(int(rng.poisson(rate * seconds)), 1)
        factor = slower.get(name, 1.0) if isinstance(slower, dict) else slower
        share = errors.get(name, 0.0) if isinstance(errors, dict) else errors
        parts.append(
            pd.DataFrame(
                {
                    "start": begin + np.sort(rng.uniform(0.0, seconds, count)),
                    "service": name,
                    "response_time_ms": median * factor * rng.lognormal(0.0, sigma, count),
                    "failed": rng.random(count) < share,
                }
            )
        )
    return pd.concat(parts, ignore_index=True).sort_values("start", ignore_index=True)


_SPREAD = {Metric.AVG: 1.08, Metric.P50: 1.0, Metric.P95: 1.78, Metric.P99: 2.26, Metric.P999: 2.95}  # over the median
_WITHIN = {
    Metric.AVG: 0.006,
    Metric.P50: 0.008,
    Metric.P95: 0.012,
    Metric.P99: 0.02,
    Metric.P999: 0.05,
    Metric.RPS: 0.01,
}


def stats(
    rng,
    *,
    level=20.0,
    sd=0.02,
    shared=None,
    rps=50.0,
    rate_of_errors=0.002,
    count=5000,
    slower=1.0,
    spread=1.2,
    **known,
):
    """One service of one run: every metric scatters by ``sd`` from run to run and by its own error within the run.

    ``shared`` is the part of that scatter that all metrics of the run have in common (standard normal; ``None`` draws
    each metric on its own).  Failures are beta-binomial with overdispersion ``spread``.
    """
    values, errors = {}, {}
    for metric in (*LATENCY_METRICS, Metric.RPS):
        z = rng.standard_normal() if shared is None else 0.8 * shared + 0.6 * rng.standard_normal()
        within = _WITHIN[metric]
        noise = float(np.exp(sd * z + within * rng.standard_normal()))
        base = rps if metric is Metric.RPS else level * slower * _SPREAD[metric]
        values[metric.value] = base * noise
        errors[metric.value] = values[metric.value] * within
    failures = scattered_failures(rng, count, rate_of_errors, spread)
    values.update({name: value for name, value in known.items() if name in values})
    return ServiceStats(count, failures, error_rate_pct=100.0 * failures / count, standard_errors=errors, **values)


def scattered_failures(rng, count, rate, spread):
    if rate == 0.0:
        return 0
    if spread <= 1.0:
        return int(rng.binomial(count, rate))
    intraclass = (spread - 1.0) / (count - 1.0)
    a = rate * (1.0 / intraclass - 1.0)
    b = (1.0 - rate) * (1.0 / intraclass - 1.0)
    return int(rng.binomial(count, rng.beta(a, b)))


def run(services, *, number=0, scenario="api", users=30, seconds=60.0, salt="", **changes):
    """A run of given services; ``number`` sets it apart from others in time and content."""
    started = datetime.fromtimestamp(EPOCH, UTC) + timedelta(minutes=5 * number)
    digest = hashlib.sha256(f"{number}{salt}{scenario}{services!r}".encode()).hexdigest()
    parts = {
        "id": make_run_id(started, scenario, digest),
        "scenario": scenario,
        "started_at": started,
        "duration_s": seconds,
        "profile": LoadProfile("steady", users, None, seconds),
        "validity": Validity(),
        "services": services,
        "tool": "perfkit",
        "content_hash": digest,
    }
    return Run(**{**parts, **changes})


def side(rng, n, *, first=0, names=tuple(SERVICES), common=True, slower=1.0, **kind):
    """``n`` runs of the same build with the summary noise of `stats`."""
    runs = []
    for number in range(first, first + n):
        shared = rng.standard_normal() if common else None
        services = {}
        for name in names:
            factor = slower.get(name, 1.0) if isinstance(slower, dict) else slower
            services[name] = stats(rng, level=SERVICES.get(name, 50.0), shared=shared, slower=factor, **kind)
        runs.append(run(services, number=number))
    return runs


def plain_stats(avg=20.0, *, count=1000, failures=0, rps=50.0, error=0.002, **changes):
    """A service without any noise, every metric known; ``error`` is the relative error within the run."""
    values = {metric.value: avg * _SPREAD[metric] / _SPREAD[Metric.AVG] for metric in LATENCY_METRICS}
    values |= {"rps": rps, "error_rate_pct": 100.0 * failures / count if count else None}
    values |= {name: changes.pop(name) for name in list(values) if name in changes}
    errors = {name: value * error for name, value in values.items() if value is not None}
    return ServiceStats(count, failures, **values, **{"standard_errors": errors, **changes})


# Locust's own files, version 2.47 ---------------------------------------------------------------------------------

PERCENTS = (0.5, 0.66, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.0)
PERCENT_TITLES = [f"{100 * q:g}%" for q in PERCENTS]
STATS_HEADER = [
    *("Type", "Name", "Request Count", "Failure Count", "Median Response Time", "Average Response Time"),
    *("Min Response Time", "Max Response Time", "Average Content Size", "Requests/s", "Failures/s"),
    *PERCENT_TITLES,
]
HISTORY_HEADER = [
    *("Timestamp", "User Count", "Type", "Name", "Requests/s", "Failures/s", *PERCENT_TITLES),
    *("Total Request Count", "Total Failure Count", "Total Median Response Time", "Total Average Response Time"),
    *("Total Min Response Time", "Total Max Response Time", "Total Average Content Size"),
]


def locust_rounded(milliseconds):
    """The value under which Locust counts a latency: whole ms below 100, else two significant digits."""
    if milliseconds < 100:
        return round(milliseconds)
    return round(milliseconds, -1) if milliseconds < 1000 else round(milliseconds, -2)


def locust_row(frame, name, seconds, kind="GET"):
    """One row of ``_stats.csv`` for a frame of requests, percentiles as Locust rounds them."""
    times = frame["response_time_ms"].to_numpy()
    rounded = np.sort([locust_rounded(t) for t in times])
    percentiles = [int(rounded[min(int(q * len(rounded)), len(rounded) - 1)]) for q in PERCENTS]
    failures = int(frame["failed"].sum())
    rest = (float(times.mean()), float(times.min()), float(times.max()), 2.0, len(times) / seconds, failures / seconds)
    return [kind, name, len(times), failures, percentiles[0], *rest, *percentiles]


def write_locust(prefix, frame, *, users=30, kinds=None, line_end="\r\n"):
    """Write the CSV set that Locust 2.47 leaves for these requests; returns the main file."""
    prefix = Path(prefix)
    seconds = float(frame["start"].max() - frame["start"].min())
    rows = [
        locust_row(part, name, seconds, (kinds or {}).get(name, "GET"))
        for name, part in frame.groupby("service", sort=True)
    ]
    rows.append(locust_row(frame, "Aggregated", seconds, ""))
    _write(Path(f"{prefix}_stats.csv"), [STATS_HEADER, *rows], line_end)
    begin = int(frame["start"].min())
    blank = ["", "Aggregated", 0.0, 0.0, *["N/A"] * len(PERCENTS), 0, 0, 0, 0.0, 0, 0, 0]
    history = [[begin + second, users if second else 0, *blank] for second in range(int(seconds) + 1)]
    _write(Path(f"{prefix}_stats_history.csv"), [HISTORY_HEADER, *history], line_end)
    _write(
        Path(f"{prefix}_failures.csv"),
        [["Method", "Name", "Error", "Occurrences", "First Seen", "Last Seen"]],
        line_end,
    )
    _write(
        Path(f"{prefix}_exceptions.csv"),
        [["Count", "Message", "Traceback", "Nodes", "First Seen", "Last Seen"]],
        line_end,
    )
    return Path(f"{prefix}_stats.csv")


def _write(path, rows, line_end):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=line_end).writerows(rows)


# The known answer of issue 3, item 6 ------------------------------------------------------------------------------

KNOWN_BASELINE = {
    "api_gateway": {
        "baseline_users": 1,
        "p95_latency_ms": 38.0,
        "error_rate_pct": 0.33,
        "rps": 50.0,
        "total_requests": 300,
        "total_failures": 1,
        "timestamp": "2025-10-17T14:30:04Z",
    },
    "rag_service": {
        "baseline_users": 1,
        "p95_latency_ms": 180.0,
        "error_rate_pct": 0.0,
        "rps": 25.0,
        "total_requests": 150,
        "total_failures": 0,
        "timestamp": "2025-10-17T14:30:04Z",
    },
    "mcp_server": {
        "baseline_users": 1,
        "p95_latency_ms": 3500.0,
        "error_rate_pct": 0.0,
        "rps": 15.0,
        "total_requests": 90,
        "total_failures": 0,
        "timestamp": "2025-10-17T14:30:04Z",
    },
}
KNOWN_CANDIDATE = {
    "api_gateway": {
        "baseline_users": 100,
        "error_rate_pct": 1.0,
        "rps": 35.0,
        "total_requests": 1500,
        "total_failures": 15,
    },
    "rag_service": {
        "baseline_users": 100,
        "error_rate_pct": 0.33,
        "rps": 24.0,
        "total_requests": 300,
        "total_failures": 1,
    },
}


def known_answer_files(folder):
    """The two files of the known answer: (baseline, candidate)."""
    paths = folder / "performance-baselines-v2.json", folder / "metrics.json"
    for path, document in zip(paths, (KNOWN_BASELINE, KNOWN_CANDIDATE), strict=True):
        path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return paths


def arrays(start, times, failed=None):
    """The requests of one service."""
    failed = np.zeros(times.size, bool) if failed is None else failed
    return RequestColumns(start, np.zeros(times.size, int), ["api"], times, failed, None)


def summarise(requests, begin_s, end_s):
    """Its metrics."""
    (stats,) = summarise_services(requests.parts, Totals.of(requests.parts, 1), begin_s, end_s)
    return stats
