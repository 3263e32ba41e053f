"""The end of `perfkit run`: services, most frequent errors and the next step, within a terminal's page."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from perfkit import RunStore, run_from_requests
from perfkit.model.records import Check, Severity, Validity
from perfkit.report.run_summary import errors_of, figures_of, next_step, print_run_summary

HOSTILE = "<b>\x1b[31m\u202e::error::" + "GET /very/long" * 20


def made(services, scenario="shop", start=1.7e9, slower=1.0):
    """A run of 200 requests of each service; those of the first fail in two ways."""
    rows = [
        (start + n / 10, name, slower * (10.0 + n % 50), error is not None, error)
        for at, name in enumerate(services)
        for n in range(200)
        for error in [("HTTPError 500" if n % 20 == 0 else "ReadTimeout" if n % 50 == 1 else None) if not at else None]
    ]
    frame = pd.DataFrame(rows, columns=["start", "service", "response_time_ms", "failed", "error"])
    return run_from_requests(frame, scenario=scenario)


def printed(runs, step=("nothing", ""), width=80):
    file = io.StringIO()
    print_run_summary(runs, step, Console(file=file, width=width, highlight=False, markup=False, emoji=False))
    return file.getvalue()


def test_the_service_with_failures_comes_first_and_its_errors_are_counted():
    runs = [made(["b", "a"]), made(["b", "a"], start=1.7e9 + 100, slower=3.0)]
    first, second = figures_of(runs)
    assert (first.service, first.count, first.failures, first.max) == ("b", 400, 28, 177.0)
    averages = [run.services["a"].avg_latency_ms for run in runs]
    assert second.avg == pytest.approx(sum(averages) / 2)  # the median of two
    assert errors_of(runs).most_common() == [(("HTTPError 500", "b"), 20), (("ReadTimeout", "b"), 8)]
    text = printed(runs, ("look", "perfkit runs"))
    assert text.splitlines()[0].split() == ["service", "count", "failures", "avg", "p50", "p95", "p99", "max", "rps"]
    assert "20  HTTPError 500  b" in text
    assert "2 runs: counts are sums" in text
    assert text.rstrip().endswith("Next: look:\n  perfkit runs")


@pytest.mark.parametrize("width", [80, 160])
def test_many_services_fit_a_page_and_the_rest_is_counted(width):
    text = printed([made([HOSTILE, "!" + "宽" * 40, *(f"GET /item/{n}" for n in range(60))])], width=width)
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(cell_len, lines)) <= 80
    shown = sum(line.startswith("GET /item/") for line in lines)
    assert f"and {62 - 2 - shown} more services: perfkit runs show" in text

    assert "\x1b[31m" not in text
    assert "\u202e" not in text


def test_the_next_step_follows_from_what_is_in_the_store(tmp_path):
    store = RunStore(tmp_path)
    first = made(["a"])
    store.add(first)
    assert next_step([first], store)[0].startswith("4 more runs of this build (--repeat 4); 5 are a baseline")
    second = made(["a"], start=1.7e9 + 1000)
    store.add(second)
    step = next_step([second], store, " --store s3://team")
    assert step == ("compare with the 1 run before", f"perfkit compare --candidate {second.id} --store s3://team")
    more = [made(["a"], start=1.7e9 + 1000 * n) for n in range(5)]
    assert next_step(more, RunStore(tmp_path / "none"))[1] == "perfkit compare --candidate shop@last:3"
    bad = Validity((Check("requests", 0, 1, Severity.INVALID, "no"),))
    assert next_step([replace(second, validity=bad)], store)[1] == f"perfkit runs show {second.id}"
