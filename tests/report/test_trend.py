"""The trend report: what it says of a history, that it fits into one file, and that no name can do harm in it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import nbformat
import numpy as np
import pytest
from browser import LARGEST, Opened, needs_chromium
from samples import REPOSITORY

from perfkit import RunStore, SettingsError
from perfkit.cli import main
from perfkit.history.acknowledgements import AcknowledgedChange, AcknowledgedFile, Acknowledgement
from perfkit.history.change_events import HistoryAnalysis
from perfkit.history.events import RunReference
from perfkit.history.timeline import Timeline, load_timeline
from perfkit.history.trend import acknowledged_events, trend_of
from perfkit.model.records import LATENCY_METRICS, Metric
from perfkit.report import plot
from perfkit.report.notebook import Report
from perfkit.report.page import count_charts
from perfkit.report.plot import _drawn_services, _half_intervals
from perfkit.report.trend import (
    Links,
    read_commit_url,
    trend_banner,
    trend_calendar,
    trend_events,
    trend_levels,
    trend_runs,
    trend_weekdays,
)

SAMPLES = REPOSITORY / "data" / "samples" / "history"
COMMITS = "https://git.example/team/api/commit/{commit}"
HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "javascript:window.pwned=1",
    "<img src=x onerror='window.pwned=1'><a href='javascript:window.pwned=1'>x</a>",
    "x" * 10_000,
    "right \u202e to left %{y} ${x} {{ 7*7 }}\nand on",
)


def history(rng, *, runs=60, services=("api",), step=1.15, at=40, bad=(), metrics=tuple(Metric), days=1.0):
    """A timeline in which the first service gets slower at a run; every other one stays as it is."""
    moments = tuple(
        RunReference(
            f"202509{i:04d}-api-{i:04x}",
            datetime(2025, 9, 1, 2, tzinfo=UTC) + timedelta(days=i * days),
            i not in bad,
            commit=f"{i // 2:040x}",
            branch="main",
            why_invalid="generator_saturated: 97.3" if i in bad else "",
        )
        for i in range(runs)
    )
    series, errors = {}, {}
    for name in services:
        level = float(10 ** rng.uniform(0.5, 2.8))
        for metric in metrics:
            noise = np.exp(0.02 * rng.standard_normal(runs))
            values = {Metric.ERROR_RATE: 0.2, Metric.RPS: 50.0}.get(metric, level) * noise
            if name == services[0] and metric in LATENCY_METRICS:
                values[at:] *= step
            values[list(bad)] = np.nan
            series[name, metric], errors[name, metric] = values, values * 0.012
    return Timeline("api", moments, series, errors)


@pytest.fixture(scope="module")
def samples():
    return load_timeline(RunStore(SAMPLES), "nightly")


# What is found ----------------------------------------------------------------------------------------------------


def test_the_sample_history_tells_its_truth(samples):
    """One step of 12 % at run 38, one spike at run 21, one interrupted run: as its maker says."""
    trend = trend_of(samples)
    assert [(event.index, event.kind) for event in trend.events] == [(38, "regression")]
    assert {item.service for item in trend.events[0].changes} == {"api_gateway"}
    course = trend.metric_trend("api_gateway", Metric.AVG)
    assert course.segmentation.outliers == (21,)
    assert course.now.begin == 38
    assert course.interval[0] < course.now.value < course.interval[1]
    assert [i for i, moment in enumerate(samples.runs) if not moment.valid] == [47]
    assert sum(file.stat().st_size for file in SAMPLES.glob("*/run.json")) < 400_000
    assert not list(SAMPLES.glob("*/requests.parquet"))


def test_the_most_telling_service_comes_first(rng):
    line = history(rng, services=("quiet", "other"), step=1.0)
    moved = history(rng, services=("slower",))
    both = Timeline("api", line.runs, {**line.series, **moved.series}, {**line.errors, **moved.errors})
    assert trend_of(both).services == ("slower", "quiet", "other")
    event = trend_of(both).events[-1]
    assert trend_of(both, acknowledged={event.id: ""}).services == ("quiet", "other", "slower")


def test_what_is_worse_still_is_the_headline_whatever_got_better_since(rng):
    lines = [history(rng, services=("faster",), step=0.5, at=50), history(rng, services=("slower",), step=1.2, at=20)]
    both = Timeline("api", lines[0].runs, lines[0].series | lines[1].series, lines[0].errors | lines[1].errors)
    trend = trend_of(both)
    assert [event.kind for event in trend.events] == ["regression", "improvement"]
    said = str(trend_banner(trend)).splitlines()
    assert said[0] == "worse since 21 Sep 2025"
    assert said[1].startswith("Worse: ")
    assert said[2].startswith("Newest event: Better: ")
    known = trend_of(both, acknowledged={trend.events[0].id: ""})
    assert str(trend_banner(known)).startswith("better since 21 Oct 2025\nNewest event: Better: ")


def test_worse_news_come_before_better_ones_however_large(rng):
    lines = [history(rng, services=("faster",), step=0.5, at=20), history(rng, services=("slower",), step=1.1)]
    both = Timeline("api", lines[0].runs, lines[0].series | lines[1].series, lines[0].errors | lines[1].errors)
    trend = trend_of(both)
    assert [event.kind for event in trend.events] == ["improvement", "regression"]
    assert trend.services == ("slower", "faster")


def test_the_menu_changes_the_service_and_leaves_the_marks_of_runs(rng):
    figure = plot.trend(trend_of(history(rng, services=("a", "b"))))
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["a", "b"]
    always = [i for i, trace in enumerate(figure.data) if trace.visible and menu.buttons[1].args[0]["visible"][i]]
    assert 0 in always
    assert len([i for i, trace in enumerate(figure.data) if trace.visible]) < len(figure.data)
    assert not any(figure.data[i].mode == "lines+markers" for i in always)


def test_what_is_shown_does_not_change_what_is_found(rng):
    line = history(rng, services=("a", "b"))
    every, one = trend_of(line), trend_of(line, service="a", metric="p95", last=10)
    assert [event.id for event in one.events] == [event.id for event in every.events]
    assert one.shown_events == ()
    assert {(item.service, item.metric) for event in one.events for item in event.changes} == {("a", Metric.P95)}
    assert one.metric_trend("a", Metric.P95).now == every.metric_trend("a", Metric.P95).now
    assert (one.first, one.metrics, one.services) == (50, (Metric.P95,), ("a",))


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"service": "api_gatway"}, "did you mean 'api_gateway'"),
        ({"metric": "p97"}, "unknown metric 'p97'"),
        ({"metric": "p99.9"}, "no run could tell p999_latency_ms of any service; there are avg_latency_ms"),
    ],
)
def test_what_is_not_there_is_said(samples, wanted, text):
    with pytest.raises(SettingsError, match=re.escape(text)):
        trend_of(samples, **wanted)


def test_the_interval_of_a_level_covers_it(rng):
    hits = 0
    for _ in range(400):
        values = 100.0 * np.exp(0.03 * rng.standard_normal(40))
        line = Timeline("api", history(rng, runs=40).runs, {("a", Metric.P95): values}, {("a", Metric.P95): values})
        low, high = trend_of(line).metric_trends[0].interval
        hits += low <= 100.0 <= high
    assert 0.93 <= hits / 400 <= 0.995  # shrunk correlation widens it a little


def test_a_level_without_noise_has_no_interval(rng):
    values = np.full(20, 5.0)
    line = Timeline("api", history(rng, runs=20).runs, {("a", Metric.P95): values}, {("a", Metric.P95): values})
    assert trend_of(line).metric_trends[0].interval is None


# What is said -----------------------------------------------------------------------------------------------------


def test_the_banner_says_what_is_new_and_where_it_stands(samples):
    trend = trend_of(samples)
    text = str(trend_banner(trend))
    assert text.startswith("worse since 1 Nov 2026\n")
    assert "between run 38 (31 Oct 2026, d4d650d1de) and run 39 (1 Nov 2026, 00e60c8bcd)" in text
    assert re.search(r"api_gateway, p95 latency: 39\.4 ms \[38\.8, 40\.1\], stable for 21 runs since 1 Nov 2026", text)
    html = trend_banner(trend)._repr_html_()
    assert "60 runs of nightly, since 24 Sep 2026; 1 invalid; 2 services" in html
    known = trend_of(samples, acknowledged={trend.events[0].id: ""})
    assert str(trend_banner(known)).startswith("nothing new in 21 runs\nNewest event, acknowledged: ")


def test_a_short_history_says_so(rng):
    line = history(rng, runs=3)
    assert str(trend_banner(trend_of(line))).startswith("3 valid runs: too few to tell")
    empty = replace(line, series={}, errors={}, runs=tuple(replace(m, valid=False) for m in line.runs))
    trend = trend_of(empty)
    assert str(trend_banner(trend)).startswith("0 valid runs: too few to tell")
    assert "nothing to draw" in plot.trend(trend).layout.meta["note"]
    assert "side by side" in plot.services(trend).layout.meta["note"]
    assert "No valid run" in trend_levels(trend)._repr_html_()
    assert "There is no event" in trend_events(trend)._repr_html_()


def test_the_events_table_names_runs_commits_size_and_p(samples, tmp_path):
    trend = trend_of(samples)
    html = trend_events(trend, tmp_path / "result.json", COMMITS).html
    before, after = samples.runs[37:39]
    for moment in (before, after):
        assert moment.run_id in html
        assert f'href="{COMMITS.format(commit=moment.commit)}"' in html
    assert re.search(r"\+1[12]\.\d %</td><td class=\"n\">\[\+\d", html)
    assert "&lt;0.0001" in html
    assert 'id="pk-event-38"' in html


def test_runs_that_stand_out_are_listed_with_their_reason(samples):
    html = trend_runs(trend_of(samples), REPOSITORY / "reports" / "one" / "result.json").html
    rows = re.findall(r'<tr.*?><td class="n">(\d+)</td>.*?</tr>', html)
    assert rows == [*map(str, range(60, 50, -1)), "48", "39", "22"]
    assert "invalid: interrupted: stopped by its user" in html
    assert f'href="../../data/samples/history/{samples.runs[47].run_id}/"' in html
    assert "commit/" not in html


def test_the_calendar_marks_events_and_days_without_a_valid_run(samples):
    trend = trend_of(samples)
    html = trend_calendar(trend).html
    assert html.count("<caption>") == 3
    assert re.search(r'class="pk-day-regression" title="1 Nov 2026: 1 run. Worse: ', html)
    assert '<a href="#pk-event-38"' in html
    assert re.search(r'class="pk-day-unfit" title="10 Nov 2026: 1 run, 1 invalid">⊘', html)
    assert html.count('class="pk-day-runs"') == 58
    known = trend_of(samples, acknowledged={trend.events[0].id: ""})
    assert re.search(r'class="pk-day-known".*?>✓</a>', trend_calendar(known).html)


def test_weekday_patterns_are_shown_and_taken_out_of_levels_and_events(rng):
    line = history(rng, runs=70, at=58, services=(HOSTILE[2], "b"), step=1.06, metrics=(Metric.AVG, Metric.RPS))
    of_day = np.array([1.12, 1.0, 1.0, 1.0, 1.0, 0.94, 0.94])[np.arange(70) % 7]  # the first run is of a Monday
    series = {key: values * of_day if key[1] is Metric.AVG else values for key, values in line.series.items()}
    shown = trend_of(replace(line, series=series))
    weekdays = trend_weekdays(shown)
    assert weekdays.text == "2 weekday patterns"
    assert "<img" not in weekdays.html
    assert re.search(r"<strong>\+1\d\.\d</strong>", weekdays.html)
    assert [abs(event.index - 58) <= 1 for event in shown.events] == [True]
    assert (
        trend_of(replace(line, series=series, runs=tuple(replace(r, started_at=None) for r in line.runs))).events == ()
    )
    course = shown.metric_trend("b", Metric.AVG)
    assert course.segmentation.noise_sd / course.level == pytest.approx(0.02, rel=0.3)
    assert course.to_dict()["weekday_factors"][0] == pytest.approx(1.12, abs=0.03)
    assert shown.metric_trend("b", Metric.RPS).to_dict()["weekday_factors"] is None
    assert "usual weekday" in trend_levels(shown).html


def test_where_no_weekday_pattern_is_looked_for_the_levels_say_why(rng):
    assert (
        "No weekday pattern is looked for: runs are made several times a day."
        in trend_levels(trend_of(history(rng, days=0.25))).html
    )
    assert "weekday pattern" not in trend_levels(trend_of(history(rng))).html
    assert trend_weekdays(trend_of(history(rng))).text == "No metric depends on the weekday."


def test_runs_without_a_date_have_no_calendar_but_a_chart(rng):
    line = history(rng, services=("a", "b"))
    trend = trend_of(replace(line, runs=tuple(replace(moment, started_at=None) for moment in line.runs)))
    assert isinstance(trend_calendar(trend).html, str)
    assert "do not say when" in trend_calendar(trend)._repr_html_()
    assert plot.trend(trend).layout.xaxis.ticktext[0] == "run 1"
    assert len(plot.services(trend).data) >= 4


def test_invalid_runs_are_gaps_in_grey_bands(rng):
    trend = trend_of(history(rng, bad=(10, 11, 30)))
    figure = plot.trend(trend)
    bands = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"]
    assert bands == [(10.5, 12.5), (30.5, 31.5)]
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(lines) == len(Metric)
    for trace in lines:
        assert [i for i, y in enumerate(trace.y) if y is None or np.isnan(y)] == [10, 11, 30]
        assert trace.connectgaps is None


def test_acknowledged_events_are_drawn_hollow_and_grey(rng):
    line = history(rng)
    news = trend_of(line)
    strip = plot.trend(news).data[0]
    known = plot.trend(trend_of(line, acknowledged={news.events[0].id: ""})).data[0]
    at = news.events[0].index
    assert (strip.marker.symbol[at], known.marker.symbol[at]) == ("x", "x-open")
    assert strip.marker.color[at] != known.marker.color[at]
    assert "acknowledged" in known.text[at]


def test_the_hover_of_a_run_tells_commit_date_value_and_interval(samples):
    figure = plot.trend(trend_of(samples))
    assert figure.data[0].text[38].startswith("1 Nov 2026 03:03, commit 00e60c8bcd, main<br>✗ Worse: ")
    p95 = next(trace for trace in figure.data if trace.hovertemplate and "p95" in trace.hovertemplate)
    assert p95.hovertemplate == "p95 latency %{y} ± %{customdata} ms<extra></extra>"
    assert all(isinstance(reach, float) and 0 < reach < p95.y[0] for reach in p95.customdata if reach != "?")
    assert (figure.layout.hovermode, figure.layout.hoversubplots) == ("x unified", "axis")


def test_a_run_without_a_failure_has_no_interval_of_width_nothing(rng):
    line = history(rng)
    line.errors["api", Metric.ERROR_RATE][:2] = [0.0, np.nan]
    (course,) = trend_of(line, metric="error_rate").metric_trends
    assert _half_intervals(course, 0)[:2] == ["?", "?"]
    assert all(reach > 0 for reach in _half_intervals(course, 2))


# Links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("javascript:alert({commit})", "is not an address of http or https"),
        ("//git.example/{commit}", "is not an address of http or https"),
        ("https:///{commit}", "is not an address of http or https"),
        ("https://{commit}.example/", "must have {commit} once behind the host"),
        ("https://git.example/commit/", "must have {commit} once behind the host"),
        ('https://git.example/"onclick="x/{commit}', "must have {commit} once behind the host"),
        ("https://git.example/{commit} x", "must have {commit} once behind the host"),
        ("https://me:secret@git.example/{commit}", "names a user"),
    ],
)
def test_only_an_address_of_http_may_lead_to_commits(text, wrong):
    with pytest.raises(SettingsError, match=re.escape(wrong)):
        read_commit_url(text)


def test_a_commit_cannot_leave_its_place_in_the_address():
    moment = RunReference("r", None, True, commit='../../x?a=b"><script>#')
    assert Links(Path(), COMMITS).commit(moment) == (
        "https://git.example/team/api/commit/..%2F..%2Fx%3Fa%3Db%22%3E%3Cscript%3E%23"
    )
    assert Links(Path(), None).commit(moment) == ""
    assert Links(Path(), COMMITS).commit(RunReference("r", None, True)) == ""


def test_a_run_folder_is_linked_from_beside_the_report_and_only_if_it_is_there(tmp_path):
    hostile = tmp_path / 'javascript:alert(1) "x"'
    hostile.mkdir()
    links = Links(tmp_path)
    assert links.run(RunReference("r", None, True, source=str(hostile))) == "javascript%3Aalert%281%29%20%22x%22/"
    assert links.run(RunReference("r", None, True, source=str(tmp_path / "gone"))) == ""
    assert links.run(RunReference("r", None, True, source="s3://bucket/r")) == ""
    assert links.run(RunReference("r", None, True)) == ""


# The report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report on the sample history, as the command makes it; its event is acknowledged."""
    folder = tmp_path_factory.mktemp("reports")
    timeline = load_timeline(RunStore(SAMPLES), "nightly")
    AcknowledgedFile(folder / "known.json").add(acknowledgement(timeline))
    (folder / "perfkit.toml").write_text('acknowledged = "known.json"\n', encoding="utf-8")
    words = ["report", "trend", "nightly", "--store", str(SAMPLES), "--commit-url", COMMITS, "--title", HOSTILE[0]]
    out, err = io.StringIO(), io.StringIO()
    code = main([*words, "--reports", str(folder), "--settings", str(folder / "perfkit.toml")], out, err)
    assert code == 0, err.getvalue()
    html = Path(out.getvalue().strip())
    return Report(html.parent, html, html.with_name("executed.ipynb"), html.with_name("result.json"))


def acknowledgement(timeline, by="Ada <b>"):
    """That the one event of a history is fine."""
    (event,) = trend_of(timeline).events
    movements = tuple(map(AcknowledgedChange.of_metric_change, event.changes))
    made = datetime(2026, 11, 2, tzinfo=UTC)
    why, around = "TLS everywhere", (event.id,)
    return Acknowledgement(
        id=event.id, scenario=timeline.scenario, around=around, changes=movements, reason=why, by=by, created=made
    )


def test_what_is_acknowledged_is_told_with_its_reason(samples, report):
    (event,) = json.loads(report.result.read_text())["events"]
    assert event["acknowledged"] is True
    html = report.html.read_text(encoding="utf-8")
    assert "acknowledged by Ada &lt;b&gt; on 2026-11-02: TLS everywhere" in html
    assert "nothing new in 21 runs" in html
    known = [acknowledgement(samples)]
    assert list(acknowledged_events(HistoryAnalysis(samples), known, date(2026, 11, 3))) == [event["id"]]
    ended = msgspec.structs.replace(known[0], until=date(2026, 11, 10))
    assert acknowledged_events(HistoryAnalysis(samples), [ended], date(2026, 11, 11)) == {}
    another = msgspec.structs.replace(known[0], scenario="another")
    assert acknowledged_events(HistoryAnalysis(samples), [another], date(2026, 11, 3)) == {}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nightli"], 2, "did you mean 'nightly'"),
        (["nightly", "--service", "api"], 2, "there are api_gateway, rag_service"),
        (["nightly", "--metric", "p97"], 2, "did you mean 'p9"),
        (["nightly", "--commit-url", "javascript:alert({commit})"], 2, "is not an address of http or https"),
        (["nightly", "--last", "0"], 2, "--last"),
    ],
)
def test_a_wrong_word_is_refused_before_the_notebook_starts(tmp_path, words, code, said):
    out, err = io.StringIO(), io.StringIO()
    asked = ["report", "trend", *words, "--store", str(SAMPLES), "--reports", str(tmp_path / "reports")]
    assert main(asked, out, err) == code
    assert said in err.getvalue()
    assert not (tmp_path / "reports").exists()


def page(trend, file):
    """The report as the notebook makes it, without a kernel."""
    from perfkit import History
    from perfkit.report.html import PLOTLY
    from perfkit.report.notebook import find_notebook
    from perfkit.report.page import export_html

    assert isinstance(trend, History)  # asking for the class gives it its figures
    notebook = nbformat.read(find_notebook("trend"), as_version=4)
    names = {"history": trend, "commit_url": COMMITS, "title": None, "result": str(file)}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("history."):
            shown = eval(cell.source, names)
            is_chart = hasattr(shown, "to_json")
            data = {PLOTLY: json.loads(shown.to_json())} if is_chart else {"text/html": shown.html}
            cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
    file.write_text(export_html(notebook, kind="trend", title=None, result={}), encoding="utf-8")
    return notebook


def test_the_result_is_for_programs(report):
    result = json.loads(report.result.read_text())
    assert result["schema"] == "perfkit.trend/1"
    assert (result["scenario"], result["runs"], result["invalid"]) == ("nightly", 60, 1)
    (event,) = result["events"]
    assert (event["index"], event["kind"]) == (38, "regression")
    levels = {(item["service"], item["metric"]): item for item in result["levels"]}
    assert levels["api_gateway", "avg_latency_ms"]["outliers"] == [21]


def test_a_year_of_fifty_services_fits_into_the_report(rng, tmp_path):
    names = (*HOSTILE, *(f"GET /api/v1/orders/{{id}}/items/{i}" for i in range(45)))
    trend = trend_of(history(rng, runs=365, services=names, at=300, bad=(5, 6, 7)))
    page(trend, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size <= 2 * LARGEST  # of which 1.6 MB are pictures for paper
    assert 10 <= len(_drawn_services(trend)) < 50
    assert len([note for note in plot.services(trend).layout.annotations if note.xanchor == "left"]) >= 50


@pytest.mark.usefixtures("browser")
class TestInBrowser:
    """What only a browser can tell."""

    pytestmark = needs_chromium

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
    def test_both_charts_are_drawn_offline_without_a_word(self, browser, report, width, scheme):
        opened = Opened(browser, report.html, width, scheme)
        assert opened.count(".js-plotly-plot .svg-container > .main-svg:first-child") == 2
        assert count_charts(nbformat.read(report.notebook, as_version=4)) == 2
        assert opened.said == []
        assert opened.asked == [report.html.as_uri()]
        assert opened.page.evaluate("window.pwned") is None
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.count(".pk-scroll:not([tabindex='0'])") == 0
        assert opened.count(".pk-calendar .pk-month") == 3
        assert opened.page.title().endswith("1</script>: nothing new in 21 runs")
        assert width == 1280 or opened.barriers() == []

    def test_one_hover_tells_every_value_of_a_run(self, browser, report):
        opened = Opened(browser, report.html)
        point = opened.page.locator(".pk-plot").first.locator(".subplot.xy .points path").nth(30)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        opened.page.wait_for_selector(".hoverlayer .legend", timeout=5000)
        text = " ".join(opened.page.locator(".hoverlayer .legend text").all_text_contents())
        assert re.search(r"run \d+ \d+ \w+ 2026 \d\d:\d\d, commit [0-9a-f]{10}, main", text)
        assert text.count("±") == 6

    def test_hostile_names_stay_text(self, browser, rng, tmp_path):
        line = history(rng, services=(HOSTILE[3], *HOSTILE[:3], HOSTILE[4], "<b>bold</b>"))
        moments = [replace(m, run_id=HOSTILE[0], branch=HOSTILE[2], commit=HOSTILE[2]) for m in line.runs]
        moments[3] = replace(moments[3], valid=False, why_invalid=HOSTILE[0])
        page(trend_of(replace(line, scenario=HOSTILE[4], runs=tuple(moments))), tmp_path / "report.html")
        opened = Opened(browser, tmp_path / "report.html", 400)
        assert opened.count(".js-plotly-plot") == 2
        opened.page.locator(".pk-choice select").select_option(index=2)
        assert opened.said == []
        assert opened.page.evaluate("window.pwned") is None
        assert opened.count("main a[href^='javascript' i]") == opened.count("main img") == 0
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "\u202e" not in html
        assert "x" * 200 not in re.sub(r"(?s)<script.*?</script>", "", html)
        texts = opened.page.locator(".pk-plot").nth(1).locator(".annotation-text").all_text_contents()
        assert "<b>bold</b>" in texts
