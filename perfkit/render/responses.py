"""Closed and open model side by side: how long requests took from when they were due, and from when they were sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from perfkit.model import Metric, Run
from perfkit.render.page import Html, render
from perfkit.render.theme import UNKNOWN, format_number, format_value

MOST_RUNS = 24
QUANTILES = (0.5, 0.95, 0.99, 1.0)
COLUMNS = ("median", "p95", "p99", "longest")
CLOSED = (
    "All of these runs are of the closed model: a user waits for its answer before it asks again, so a target that "
    "stands still is asked less, and few requests meet the pause. --rate starts requests on a schedule instead."
)
OPEN = (
    "Response time counts from when a request was due, service time from when it was sent. Where users wait for "
    "answers (the closed model) nothing is due, and only the time since the send is known."
)


def response_times(baseline: Sequence[Run], candidate: Sequence[Run] = ()) -> Html:
    """A row per run with response times over all services, and one with service times where there was a schedule."""
    runs = [*baseline, *candidate]
    rows = [row for run in runs[:MOST_RUNS] for row in _rows(run)]
    note = OPEN if any(run.profile.is_open for run in runs) else CLOSED
    left_out = max(len(runs) - MOST_RUNS, 0)
    html = render("responses.html.j2", rows=rows, columns=COLUMNS, note=note, left_out=left_out)
    return Html(html, text=note)


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    requests = run.requests()
    if requests is None or not len(requests):
        return
    responses = requests["response_time_ms"].to_numpy(dtype=float)
    late = next((check.value for check in run.validity.checks if check.name == "late_arrivals"), None)
    facts = {"run": run.id, "load": run.profile.describe(), "requests": f"{responses.size:,}"}
    shown = f"{format_number(float(late))} %" if isinstance(late, int | float) else UNKNOWN
    what = "response" if run.profile.is_open else "service"
    yield {**facts, "what": what, "cells": _cells(responses), "late": shown}
    if run.profile.is_open and "service_time_ms" in requests:
        own = requests["service_time_ms"].to_numpy(dtype=float, na_value=np.nan)
        own = np.where(np.isfinite(own), own, responses)
        yield {"run": "", "load": "", "requests": "", "what": "service", "cells": _cells(own), "late": ""}


def _cells(times_ms: Any) -> list[str]:
    return [format_value(Metric.AVG, float(value)) for value in np.quantile(times_ms, QUANTILES)]
