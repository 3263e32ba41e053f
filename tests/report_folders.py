"""Result folders as reports leave them, made without a notebook: of histories and comparisons with a known truth."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np

from perfkit.config.policy import Policy
from perfkit.history.events import RunReference
from perfkit.history.monitor import monitor_timeline
from perfkit.history.timeline import Timeline
from perfkit.history.trend import trend_of
from perfkit.model.records import LATENCY_METRICS, Metric

TODAY = datetime(2026, 11, 25, tzinfo=UTC).date()
HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "![x](javascript:window.pwned=1) <!channel> @everyone <@U1> | `x` *b* [y](http://evil.example)",
    "<img src=x onerror='window.pwned=1'><a href='javascript:window.pwned=1'>x</a>",
    "x" * 10_000,
    "right \u202e to left %{y} ${x} {{ 7*7 }} $\\frac{$ \r\nBcc: eve@example.org\r\n\r\n<script>alert(1)</script>",
)


def nightly(rng, runs, steps, *, scenario="nightly", services=("api", "db"), bad=(), commit="", branch="main"):
    """The history of a nightly load test; ``steps`` are (run, service, factor) and hold until the next of a service."""
    moments = tuple(
        RunReference(
            f"2026{i:04d}T020000Z-{scenario}"[:200],
            datetime(2026, 6, 1, 2, tzinfo=UTC) + timedelta(days=i),
            i not in bad,
            commit=f"{commit}{i:040x}",
            branch=branch,
        )
        for i in range(runs)
    )
    series, errors = {}, {}
    for name in services:
        factors = np.ones(runs)
        for at, service, factor in steps:
            if service == name:
                factors[at:] = factor
        for metric in (Metric.AVG, Metric.P95, Metric.RPS, Metric.ERROR_RATE):
            level = {Metric.AVG: 20.0, Metric.P95: 35.0, Metric.RPS: 50.0, Metric.ERROR_RATE: 0.2}[metric]
            values = level * np.exp(0.02 * rng.standard_normal(runs))
            values = values * factors if metric in LATENCY_METRICS else values
            values[list(bad)] = np.nan
            series[name, metric], errors[name, metric] = values, values * 0.01
    return Timeline(scenario, moments, series, errors)


def until(history, count):
    """The history as it was after so many runs."""
    parts = [{key: values[:count] for key, values in one.items()} for one in (history.series, history.errors)]
    return Timeline(history.scenario, history.runs[:count], *parts)


def trend_document(history, known=()):
    """What the trend report of a history keeps."""
    return trend_of(history, monitor=monitor_timeline(history, Policy(), known, TODAY)).to_dict()


def reported(folder, document, report="<!doctype html><title>r</title><p>the report"):
    """A report folder with that result."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(document, allow_nan=False))
    if report is not None:
        (folder / "report.html").write_text(report)
    return folder
