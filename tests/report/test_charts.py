"""The charts hold the numbers of the runs, never raw requests, and nothing from outside is taken as markup."""

from __future__ import annotations

import json
import math
import tempfile
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from samples import requests, side

from perfkit import (
    Comparison,
    Finding,
    LoadProfile,
    Policy,
    Run,
    RunStore,
    ServiceStats,
    Validity,
    Verdict,
    compare,
    run_from_requests,
)
from perfkit.model.records import Side
from perfkit.report import display, plot
from perfkit.report.display import reproduce
from perfkit.report.explore import Explorer, _stretch_of
from perfkit.report.figure import Requests, _by_service, log_density, log_edges, quantiles, requests_of_all, time_series
from perfkit.report.formatting import (
    VERDICT_COLOURS,
    clean,
    format_change,
    format_interval,
    format_signed,
    label,
    shorten,
)
from perfkit.report.plot import forest
from perfkit.runs import run_folder
from perfkit.runs.requests import renamed_runs
from perfkit.stats.streams import Latencies

HOSTILE = "</script><script>alert(1)</script>"


def runs(rng, count, services=None, **changes):
    known = {"services": services} if services else {}
    frames = [requests(rng, begin=1.76e9 + 60 * number, **known, **changes) for number in range(count)]
    return tuple(run_from_requests(frame, scenario="api") for frame in frames)


def summary_run(**values):
    stats = ServiceStats(count=300, failures=1, avg_latency_ms=20.0, error_rate_pct=1 / 3, rps=50.0, **values)
    return Run("r1", "api", None, None, LoadProfile(), Validity(), {"api_gateway": stats})


def finding(service="api_gateway", metric="avg_latency_ms", verdict=Verdict.REGRESSION, **changes):
    unit = "pp" if metric == "error_rate_pct" else "%"
    parts = {
        "service": service,
        "metric": metric,
        "unit": "ms",
        "change_unit": unit,
        "baseline": 20.0,
        "candidate": 24.0,
        "change_pct": 20.0,
        "change_abs": 4.0,
        "ci_low": 18.2,
        "ci_high": 22.1,
        "p_value": 0.001,
        "p_adjusted": 0.003,
        "verdict": verdict,
        "tolerance": 5.0,
        "limit": "+5 %",
        "gating": True,
    }
    return Finding(**{**parts, **changes})


def comparison(*findings, verdict=Verdict.REGRESSION, **changes):
    side = Side((summary_run(),))
    parts = {"comparable": True, "rule": "evidence", "alpha": 0.01, "confidence": 0.95, "warnings": ()}
    return Comparison(verdict=verdict, baseline=side, candidate=side, findings=findings, **{**parts, **changes})


def note_of(figure):
    """The sentence that a figure shows in the place of marks; it is drawn, and nothing else is."""
    assert figure.data == ()
    (drawn,) = figure.layout.annotations
    assert drawn.text.replace("<br>", " ") == label(figure.layout.meta["note"], 500)
    return figure.layout.meta["note"]


def texts_of(figure):
    """Everything that plotly draws; ``meta`` holds the plain description, which the report's template escapes."""
    document = figure.to_plotly_json()
    document["layout"]["meta"] = None
    return json.dumps(document, default=str)


@pytest.mark.parametrize(
    ("changes", "change", "interval"),
    [
        ({}, "+20.0 %", "[+18.2, +22.1]"),
        ({"change_pct": 203.03}, "+203 %", "[+18.2, +22.1]"),
        ({"change_pct": math.inf, "ci_low": None}, "+∞ % (from zero)", "~"),
        ({"change_pct": None, "ci_low": None}, "~", "~"),
        ({"change_pct": -0.04}, "0.0 %", "[+18.2, +22.1]"),
        ({"metric": "error_rate_pct", "change_abs": 0.451}, "+0.45 pp", "[+18.20, +22.10]"),
    ],
)
def test_a_change_is_written_one_way(changes, change, interval):
    assert format_change(finding(**changes)) == change
    assert format_interval(finding(**changes)) == interval


def test_signed_zero_has_no_sign():
    assert format_signed(-0.001, "pp") == "0.00"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /items", "GET /items"),
        ("a\nb\tc\x00d", "a b c d"),
        ("user\u202etxt.exe\u2066", "usertxt.exe"),
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
        ("%{y}", "%&#123;y}"),
        ("a & b", "a &amp; b"),
    ],
)
def test_a_label_is_harmless_to_plotly(text, shown):
    assert label(text) == shown


def test_long_names_keep_both_ends():
    name = shorten("GET /very/long/" + "segment/" * 30 + "end?q=1", 40)
    assert len(name) == 40
    assert name.startswith("GET /very/long/")
    assert name.endswith("end?q=1")
    assert clean("  a  b ") == "a b"


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("page", ["#ffffff", "#1b1f26"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_verdict_colours_can_be_seen_on_light_and_dark(verdict, page):
    light, dark = sorted((luminance(VERDICT_COLOURS[verdict]), luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def test_the_forest_draws_every_finding_with_its_interval_and_verdict():
    figure = forest(
        comparison(
            finding(),
            finding(metric="p95_latency_ms", verdict=Verdict.INCONCLUSIVE, change_pct=3.0, ci_low=-4.0, ci_high=10.0),
            finding(metric="error_rate_pct", verdict=Verdict.NO_CHANGE, change_abs=0.1, ci_low=-0.1, ci_high=0.3),
        )
    )
    marks = [trace for trace in figure.data if trace.hovertext is not None]
    assert [list(trace.x) for trace in marks] == [[20.0], [3.0], [0.1]]
    assert [list(trace.marker.symbol) for trace in marks[:2]] == [["x"], ["diamond-open"]]
    assert [trace.legendgroup for trace in marks] == ["regression", "inconclusive", "no regression"]
    assert [18.2, 22.1] in [list(trace.x)[:2] for trace in figure.data]
    assert "✗ regression: +20.0 % [+18.2, +22.1]" in marks[0].hovertext[0]
    assert "1 regression" in figure.layout.meta["alt"]


def test_no_button_of_a_chart_lies_on_its_legend_or_uploads_it():
    removed = forest(comparison(finding())).layout.template.layout.modebar.remove
    assert {"zoom2d", "pan2d", "select2d", "lasso2d", "sendChartToCloud"} <= set(removed)


def test_the_forest_grows_with_its_rows():
    small, large = (
        forest(comparison(*(finding(service=f"s{i}") for i in range(count)))).layout.height for count in (1, 20)
    )
    assert small < 300
    assert large > 900


def test_the_forest_survives_what_cannot_be_said():
    figure = forest(
        comparison(
            finding(change_pct=math.inf, ci_low=None, ci_high=None, tolerance=None),
            finding(metric="rps", change_pct=None, ci_low=None, ci_high=None, verdict=Verdict.INVALID),
            finding(metric="p99_latency_ms", ci_low=-900.0, ci_high=math.inf),
        )
    )
    reach = figure.layout.xaxis.range[1]
    assert all(abs(x) <= reach for trace in figure.data for x in trace.x if x is not None)
    assert "no estimate" in [trace.name for trace in figure.data]


def test_no_findings_are_a_sentence_not_an_empty_plot():
    figure = forest(comparison())
    assert figure.data == ()
    assert "no effect to draw" in note_of(figure)


@pytest.mark.parametrize(
    "draw", [forest, display.findings_table, display.verdict_banner, display.warnings_list, reproduce]
)
def test_hostile_names_are_never_markup(draw):
    shown = draw(comparison(finding(service=HOSTILE), warnings=(HOSTILE,)))
    text = texts_of(shown) if isinstance(shown, go.Figure) else shown._repr_html_()
    assert "<script" not in text
    assert "</script" not in text


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("chart", [plot.latency, plot.percentiles, plot.timeline, plot.runs])
def test_every_chart_takes_one_three_and_twenty_services(rng, chart, count):
    services = {f"service {i} <b>": 20.0 + i for i in range(count)}
    before, after = runs(rng, 3, services, rate=5.0), runs(rng, 2, services, rate=5.0, slower=1.2)
    figure = chart(before, after)
    document = texts_of(figure)
    assert figure.layout.meta["alt"]
    assert "<b> " not in document
    assert len(document) < 40_000 * count + 40_000


def test_charts_never_hold_raw_requests(rng):
    before = runs(rng, 1, {"a": 20.0}, seconds=100.0, rate=200.0)
    for figure in (plot.latency(before), plot.percentiles(before), plot.timeline(before)):
        assert max(len(trace.y) for trace in figure.data) < 200


def test_summaries_get_a_sentence_where_requests_are_needed_and_dots_where_not():
    imported = (summary_run(),)
    for chart in (plot.latency, plot.percentiles, plot.timeline):
        assert "not kept" in note_of(chart(imported))
    dots = plot.runs(imported)
    assert [list(t.y) for t in dots.data if t.mode == "markers"] == [[20.0], [0.33333], [50.0]]
    assert "nothing to draw" in note_of(plot.runs((summary_run(),), metric=("p99_latency_ms",)))


def test_detectable_has_a_line_per_metric(rng):
    figure = plot.detectable_change(runs(rng, 3, {"a": 20.0}, errors=0.05), most=3)
    assert [trace.name for trace in figure.data] == ["average", "median", "p95", "p99", "rps", "errors"]
    assert all(list(trace.x) == [1, 2, 3] and list(trace.y) == sorted(trace.y)[::-1] for trace in figure.data)
    assert {trace.name for trace in figure.data if trace.yaxis == "y2"} == {"errors"}
    assert "not known" in note_of(plot.detectable_change((replace(summary_run(), services={}),)))


def sample(latency, elapsed=None):
    latency = np.asarray(latency, float)
    elapsed = np.arange(latency.size, dtype=float) if elapsed is None else np.asarray(elapsed, float)
    once = np.ones(latency.size, np.int64)
    counted = Latencies(np.sort(latency), once)
    return Requests(elapsed, latency, np.zeros(latency.size, bool), once, counted, float(elapsed.max()))


def test_a_percentile_without_enough_requests_above_is_not_drawn(rng):
    values = quantiles(sample(rng.lognormal(3, 1, 500)).latencies, np.array([0.5, 0.95, 0.99, 0.999]))
    assert np.isfinite(values).tolist() == [True, True, False, False]


def test_density_is_a_share_of_all_requests(rng):
    drawn = sample(rng.lognormal(3, 0.5, 5000))
    assert log_density(drawn, log_edges([drawn], 80)).sum() == pytest.approx(100, abs=1.0)


def test_a_time_series_matches_the_slow_definition(rng):
    drawn = sample(rng.lognormal(3, 0.5, 3000), np.sort(rng.uniform(0, 30, 3000)))
    result = time_series(drawn, 2, 15)
    for index in range(15):
        inside = np.sort(drawn.latency_ms[(drawn.elapsed_s >= 2 * index) & (drawn.elapsed_s < 2 * index + 2)])
        assert result["rps"][index] == inside.size / 2
        assert result["p95"][index] == inside[math.ceil(0.95 * inside.size) - 1]


def test_a_clock_that_was_wrong_by_years_makes_no_chart_of_a_million_points(rng):
    start = np.append(1.0e9, 1.7e9 + rng.uniform(0, 60, 500))
    frame = pd.DataFrame({"start": start, "service": "a", "response_time_ms": 20.0, "failed": False})
    drawn = plot.timeline([run_from_requests(frame)])
    assert max(len(trace.x) for trace in drawn.data) <= 2 * 60


def test_a_report_of_many_requests_holds_a_part_of_them_at_a_time_and_draws_the_same(rng, tmp_path, monkeypatch):
    n = 160_000
    times, start = rng.lognormal(3, 0.5, n), 1.76e9 + np.sort(rng.uniform(0, 600, n))
    service = pd.Categorical.from_codes(rng.integers(0, 3, n), ["v1/a", "v2/a", "b"])
    frame = pd.DataFrame({"start": start, "service": service, "response_time_ms": times, "failed": times > 90})
    frame["service_time_ms"] = np.where(times > 60, 60.0, np.nan)
    monkeypatch.setattr(run_folder, "MOST_HELD", 40_000)
    monkeypatch.setattr("perfkit.runs.store.MOST_FETCHED", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store, load = RunStore("memory://many"), LoadProfile(rate=500.0)
    run_id = store.add(replace(run_from_requests(frame, scenario="many"), profile=load))
    table_columns, columns, rows, held = run_folder.table_columns, [], [], []

    def counted(table):
        part = table_columns(table)
        columns.append(weakref.ref(part.start_s))
        rows.append(len(table))
        held.append(sum(column() is not None for column in columns))
        return part

    monkeypatch.setattr(run_folder, "table_columns", counted)

    def drawn():
        (run,) = renamed_runs([store.get(run_id)], {"v1/*": "v2/*"})
        figures = [draw([run]).to_json() for draw in (plot.latency, plot.percentiles, plot.timeline)]
        explorer = Explorer((store,), Policy(), "many", (run_id,), (run_id,), seconds=(100.0, 200.0))
        stretch = explorer.figures(["latency"])["latency"].to_json(), explorer.summary().to_csv()
        return run, [*figures, *stretch, display.response_times([run]).html]

    run, in_parts = drawn()
    assert (max(rows), max(held)) == (10_000, 3), "each of three loops names its part until it has the next"
    monkeypatch.setattr(run_folder, "MOST_HELD", n)
    assert drawn()[1] == in_parts
    assert max(rows) == n
    (shown,) = requests_of_all([run], "v2/a")
    levels = np.array([0.5, 0.9, 0.99, 0.999])
    exact = np.quantile(times[service != "b"], levels)
    assert shown.latencies.quantiles(levels) == pytest.approx(exact, rel=2**-13)
    seconds = start - start[0]
    course = time_series(shown, 15, 40)["p95"]
    inside = (seconds >= 30) & (seconds < 45) & (service != "b")
    assert course[2] == pytest.approx(np.quantile(times[inside], 0.95, method="inverted_cdf"), rel=2**-10)
    assert in_parts[-1].count("60.0 ms") == 2
    assert len(list(tmp_path.iterdir())) == 2, "a copy of the file for each way to draw it"
    for kept in (_by_service, _stretch_of):
        kept.cache_clear()
    del run
    assert not list(tmp_path.iterdir())


def test_runs_of_one_store_are_named_by_their_ids():
    before, after = (
        Run(
            name,
            "api",
            None,
            None,
            LoadProfile(),
            Validity(),
            {},
            labels={"build": name},
            locustfile_hash="12",
            source=f"/data/my runs/{name}",
        )
        for name in ("r1", "r2")
    )
    shown = reproduce(replace(comparison(finding()), baseline=Side((before,)), candidate=Side((after,))))
    assert shown.text == "perfkit compare r1 --candidate r2 --store '/data/my runs'"
    assert "perfkit run api --label build=r2 --repeat 1" in shown.html


def test_reproduce_quotes_what_the_shell_would_read():
    run = Run(
        "r 1; rm -rf ~",
        "my api",
        None,
        None,
        LoadProfile(),
        Validity(),
        {},
        git={"commit": "abc"},
        locustfile_hash="12",
    )
    both = replace(comparison(finding()), baseline=Side((run,)))
    shown = reproduce(both)
    assert shown.text == "perfkit compare 'r 1; rm -rf ~' --candidate r1"
    assert "git checkout abc &amp;&amp; perfkit run &#39;my api&#39; --repeat 1" in shown.html


def test_reproduce_names_load_and_target_and_says_nothing_of_what_perfkit_did_not_run():
    load = LoadProfile("ramp", 20, 5.0, 90.0)
    run = Run("r1", "shop", None, None, load, Validity(), {}, target="http://127.0.0.1:1", locustfile_hash="12")
    shown = reproduce(replace(comparison(finding()), baseline=Side((run, run))))
    words = "perfkit run shop --host http://127.0.0.1:1 --users 20 --spawn-rate 5 --duration 90s --repeat 2"
    assert words in shown.html
    foreign = replace(run, locustfile_hash=None)
    assert "perfkit run" not in reproduce(replace(comparison(finding()), baseline=Side((foreign,)))).html


def test_what_differs_between_the_sides_is_marked():
    profiles = (LoadProfile("steady", users) for users in (1, 100))
    one, other = (Run("r", "api", None, None, p, Validity(), {}, environment={"cpu": "4"}) for p in profiles)
    html = display.runs_table((one,), (other,)).html
    assert html.count("differs</span>") == 1
    assert "steady 100 users" in html


def test_of_many_services_the_most_telling_are_drawn_and_the_rest_counted(rng):
    names = tuple(f"GET /{i}" for i in range(40))
    comparison = compare(side(rng, 3, names=names), side(rng, 3, first=50, names=names, slower={"GET /33": 2.0}))
    figure = forest(comparison)
    texts = [annotation.text or "" for annotation in figure.layout.annotations]
    named = [text for text in texts if "GET /" in text]
    assert "GET /33" in named[0], "the worst comes first"
    assert sum(text.count("GET /") for text in texts) <= 2 * 15
    assert any("quieter services are in the table" in text for text in texts)


def test_run_values_skip_what_no_run_holds():
    figure = plot.runs([summary_run()], [summary_run()])
    assert figure.layout.updatemenus == ()
    assert any(trace.y is not None and len(trace.y) for trace in figure.data)
