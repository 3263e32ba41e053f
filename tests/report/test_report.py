"""The report as its reader gets it: one file, in a real browser, with the network off."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import LARGEST, Opened, needs_chromium
from closed_queue import stored_ramp
from plotly.offline import get_plotlyjs, get_plotlyjs_version
from samples import requests

from perfkit import RenderError, RunStore, compare, read_runs, run_from_requests
from perfkit.report import page
from perfkit.report.formatting import format_change
from perfkit.report.notebook import run_report
from perfkit.report.page import count_charts, export_html

SERVICES = {
    "api_gateway": 20.0,
    "</script><script>window.pwned=1</script>": 40.0,
    "<img src=x onerror='window.pwned=1'><a href='javascript:window.pwned=1'>x</a>": 60.0,
    "GET /" + "very/long/" * 30 + "end": 90.0,
    "line\nbreak \u202e %{y} $x$ {{ 7*7 }}": 240.0,
}
TITLE = "<script>window.pwned=1</script> PR 7"


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Two folders of stored runs: api_gateway is 30 % slower in the candidate; some service names are hostile."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("runs")
    for number in range(5):
        side, slower = ("baseline", {}) if number < 3 else ("candidate", {"api_gateway": 1.3})
        frame = requests(rng, services=SERVICES, slower=slower, errors=0.01, begin=1.76e9 + 60 * number)
        RunStore(folder / side).add(run_from_requests(frame, scenario="api <i>x</i>"))
    return folder / "baseline", folder / "candidate"


@pytest.fixture(scope="module")
def report(sides, tmp_path_factory):
    """The compare report."""
    given = {"baseline": sides[0], "candidate": sides[1], "title": TITLE}
    return run_report("compare", given, reports_dir=tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def normal(sides, tmp_path_factory):
    """The baseline report."""
    return run_report("baseline", {"runs": sides[0]}, reports_dir=tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """The capacity report of two ramps of two builds; the service has a hostile name."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("ramps")
    for number, (side, slower) in enumerate([("baseline", 1.0), ("candidate", 1.5)] * 2):
        queue = {"begin": 1.76e9 + 120 * number, "service_s": 0.1 * slower, "seconds": 60.0}
        stored_ramp(RunStore(folder / side), rng, name=list(SERVICES)[1], **queue)
    given = {"runs": folder / "baseline", "candidate": folder / "candidate", "slo": "p95 < 400 ms", "title": TITLE}
    return run_report("capacity", given, reports_dir=tmp_path_factory.mktemp("reports"))


def test_a_report_is_three_files(report):
    assert re.fullmatch(r"\d{8}T\d{6}Z-compare", report.folder.name)
    assert sorted(file.name for file in report.folder.iterdir()) == ["executed.ipynb", "report.html", "result.json"]
    assert report.html.stat().st_size <= LARGEST
    assert report.notebook.stat().st_size <= 1_000_000


def test_the_result_is_what_compare_says(report, sides):
    expected = compare(read_runs(sides[0]), read_runs(sides[1]))
    result = json.loads(report.result.read_text())
    assert result["verdict"] == "regression"
    assert result["findings"] == expected.to_dict()["findings"]
    html = report.html.read_text()
    slower = [finding for finding in expected.findings if finding.service == "api_gateway"]
    assert len(slower) >= 5
    for finding in slower:
        assert f"<strong>{format_change(finding)}</strong>" in html


def test_the_page_links_to_nothing(report):
    html = report.html.read_text().split("<script>", 1)[0] + report.html.read_text().rsplit("</script>", 3)[-1]
    assert "http://" not in html
    assert "https://" not in html
    assert "Content-Security-Policy" in html
    assert "default-src 'none'" in html


def test_code_is_hidden_and_the_title_is_text(report):
    html = report.html.read_text()
    assert "workflow.load_runs" not in html
    assert "<title>&lt;script&gt;window.pwned=1&lt;/script&gt; PR 7: regression, api_gateway " in html
    assert "7*7" in html
    assert "49" not in re.findall(r"line break .{0,20}", html)[0]


def test_a_lost_chart_is_an_error(report):
    notebook = nbformat.read(report.notebook, as_version=4)
    assert count_charts(notebook) == 5
    copy = next(cell for cell in notebook.cells if count_charts(nbformat.v4.new_notebook(cells=[cell])))
    copy.outputs[0].data["application/vnd.plotly.v1+json"] = {}
    with pytest.raises(RenderError, match="has 5 charts, but 4 reached the report"):
        export_html(notebook, kind="compare", title=None, result={})


def test_the_words_of_a_report_are_explained_in_it(report):
    page = report.html.read_text("utf-8")
    words = page[page.index('class="pk-words"') :]
    assert "<dt>tolerance</dt><dd>the largest worsening that you accept</dd>" in words
    assert "<dt>acknowledgement</dt>" not in words  # a word that it does not use
    assert "perfkit docs glossary" in words


def test_the_embedded_script_is_small_and_fits_the_figures(report):
    html = report.html.read_text()
    assert len(html) <= 1_200_000
    script = gzip.decompress(base64.b64decode(re.search(r'id="pk-plotly"[^>]*>([^<]*)', html)[1]))
    version = re.search(rb"plotly\.js \(basic - minified\) v(\S+)", script)[1].decode()
    assert version.split(".")[0] == get_plotlyjs_version().split(".")[0], "run `make plotlyjs`"
    assert (Path(page.__file__).parent / "plotlyjs" / "LICENSE").read_text().startswith("MIT License")


def test_a_figure_beyond_the_small_script_brings_the_whole_one(report):
    notebook = nbformat.read(report.notebook, as_version=4)
    chart = next(o for cell in notebook.cells for o in cell.get("outputs", []) if page.PLOTLY in o.get("data", {}))
    chart.data[page.PLOTLY]["data"].append({"type": "heatmap", "z": [[1, 2]]})
    html = export_html(notebook, kind="compare", title=None, result={})
    script = gzip.decompress(base64.b64decode(re.search(r'id="pk-plotly"[^>]*>([^<]*)', html)[1]))
    assert script.decode() == get_plotlyjs()
    assert len(html) <= LARGEST * 1.3


@pytest.mark.usefixtures("browser")
class TestInBrowser:
    """What only a browser can tell."""

    pytestmark = needs_chromium

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
    def test_every_chart_is_drawn_offline_without_a_word(self, browser, report, width, scheme):
        opened = Opened(browser, report.html, width, scheme)
        expected = count_charts(nbformat.read(report.notebook, as_version=4))
        assert expected == 5
        assert opened.count(".js-plotly-plot .svg-container > .main-svg:first-child") == expected
        assert opened.count(".js-plotly-plot .scatterlayer .trace") > 20
        assert opened.said == []
        assert opened.asked == [report.html.as_uri()]
        assert opened.page.evaluate("window.pwned") is None
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        for plot in opened.page.locator(".pk-plot").all():
            assert plot.get_attribute("aria-label")
            assert plot.bounding_box()["width"] >= 0.85 * min(width, 1000)
        assert opened.barriers() == []

    def test_the_baseline_report_is_drawn_too(self, browser, normal):
        opened = Opened(browser, normal.html, 400)
        assert opened.count(".js-plotly-plot") == count_charts(nbformat.read(normal.notebook, as_version=4)) == 5
        assert opened.said == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert json.loads(normal.result.read_text())["schema"] == "perfkit.baseline/1"
        assert opened.page.title() == "api <i>x</i>: what is normal, 3 runs, all valid"
        assert opened.barriers() == []

    @pytest.mark.parametrize("width", [1280, 400])
    def test_the_capacity_report_is_drawn_too(self, browser, ramps, width):
        opened = Opened(browser, ramps.html, width)
        assert opened.count(".js-plotly-plot") == count_charts(nbformat.read(ramps.notebook, as_version=4)) == 2
        assert opened.said == []
        assert opened.page.evaluate("window.pwned") is None
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.count(".pk-scroll:not([tabindex='0'])") == 0
        result = json.loads(ramps.result.read_text())
        assert (result["schema"], result["verdict"]) == ("perfkit.capacity/1", "regression")
        assert opened.page.title().startswith(f"{TITLE}: regression, </script><script>")
        assert len(opened.page.title()) <= 120
        assert width == 400 or opened.barriers() == []

    def test_hostile_names_stay_text_under_the_mouse(self, browser, report):
        opened = Opened(browser, report.html)
        for choice in opened.page.locator(".pk-choice select").all():
            choice.select_option(index=2)
        point = opened.page.locator(".pk-plot").first.locator(".points path").nth(8)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        opened.page.wait_for_selector(".hovertext", timeout=5000)
        assert opened.count("main a[href^='javascript']") == 0
        assert opened.count("main img") == 0
        assert opened.page.evaluate("window.pwned") is None
        assert opened.said == []

    def test_the_page_follows_the_colour_scheme_and_paper_is_light(self, browser, report):
        opened = Opened(browser, report.html, scheme="dark")
        background = "getComputedStyle(document.body).backgroundColor"
        ink = "getComputedStyle(document.querySelector('.pk-plot .main-svg .annotation-text')).fill"
        dark = opened.page.evaluate(background), opened.page.evaluate(ink)
        opened.page.emulate_media(color_scheme="light")
        light = opened.page.evaluate(background), opened.page.evaluate(ink)
        assert dark == ("rgb(20, 23, 28)", "rgb(228, 232, 238)")
        assert light == ("rgb(251, 251, 250)", "rgb(29, 36, 48)")
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.page.evaluate(background) == "rgb(255, 255, 255)"

    def test_on_paper_every_chart_fits_the_page(self, browser, report):
        opened = Opened(browser, report.html)
        opened.page.emulate_media(media="print")
        widths = "[...document.querySelectorAll('.pk-picture svg')].map(s => s.getBoundingClientRect().right)"
        opened.page.evaluate("document.body.style.width = '700px'")
        assert max(opened.page.evaluate(widths)) <= 701

    def test_before_any_script_verdict_and_pictures_are_there(self, browser, report):
        page = browser.new_context(offline=True, java_script_enabled=False).new_page()
        page.goto(report.html.as_uri())
        html = report.html.read_text()
        assert html.index('class="pk-verdict"') < html.index("</table>") < html.index("<script>")
        pictures = page.locator(".pk-picture svg")
        assert pictures.count() > count_charts(nbformat.read(report.notebook, as_version=4))
        for picture in pictures.all():  # every service, for nobody can choose one
            assert picture.bounding_box()["height"] > 100
        assert page.locator(".pk-choice").first.is_hidden()

    def test_a_browser_that_cannot_unpack_keeps_the_pictures(self, browser, report):
        page = browser.new_context(offline=True).new_page()
        page.add_init_script("delete window.DecompressionStream")
        page.goto(report.html.as_uri())
        chart = page.locator(".pk-chart:has(select)").first
        chart.scroll_into_view_if_needed()
        page.wait_for_selector(".pk-chart.pk-still:has(select)")
        assert chart.locator(".pk-picture:visible").count() == len(SERVICES)
        assert chart.locator(".pk-choice").is_hidden()

    def test_paper_shows_every_service_and_no_controls(self, browser, report):
        opened = Opened(browser, report.html)
        opened.page.emulate_media(media="print")
        choices = opened.page.locator(".pk-choice").first.locator("option").all_text_contents()
        assert len(choices) == len(SERVICES)
        chart = opened.page.locator(".pk-chart:has(select)").first
        assert chart.locator(".pk-picture:visible").count() == len(SERVICES)
        for name, picture in zip(choices, chart.locator(".pk-picture").all(), strict=True):
            assert name in " ".join(picture.locator("text").all_text_contents())
        for control in (".pk-choice", ".pk-contents", ".pk-plot", ".pk-hint"):
            assert opened.count(f"{control}:visible") == 0

    def test_a_chart_is_zoomed_reset_asked_and_its_legend_toggles(self, browser, report):
        opened = Opened(browser, report.html)
        plot = opened.page.locator(".pk-plot").nth(1)
        plot.scroll_into_view_if_needed()
        shown = "plot => JSON.stringify([plot._fullLayout.xaxis.range, plot._fullLayout.yaxis.range])"
        box = plot.locator(".nsewdrag").first.bounding_box()
        x, y, mouse = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3, opened.page.mouse
        at_first = plot.evaluate(shown)
        with opened.page.expect_event("console", lambda told: told.text == "zoomed"):
            plot.evaluate("plot => plot.once('plotly_relayout', () => console.log('zoomed'))")
            mouse.move(x, y)
            mouse.down()
            mouse.move(x + 120, y + 60, steps=3)
            mouse.up()
        assert plot.evaluate(shown) != at_first
        with opened.page.expect_event("console", lambda told: told.text == "reset"):
            plot.evaluate("plot => plot.once('plotly_doubleclick', () => console.log('reset'))")
            mouse.dblclick(x + 30, y + 30)
        assert plot.evaluate(shown) == at_first
        mouse.move(x, y, steps=3)
        opened.page.wait_for_selector(".hovertext", timeout=5000)
        seen = "plot => plot._fullData.filter(trace => trace.visible === true).length"
        before = plot.evaluate(seen)
        with opened.page.expect_event("console", lambda told: told.text == "toggled"):
            plot.evaluate("plot => plot.once('plotly_restyle', () => console.log('toggled'))")
            plot.locator(".legendtoggle").first.click()
        assert plot.evaluate(seen) < before

    @pytest.mark.parametrize("width", [1280, 400])
    def test_contents_lead_to_every_section_and_mark_the_one_that_is_read(self, browser, report, width):
        opened = Opened(browser, report.html, width)
        headings = opened.page.locator("main h2").all_text_contents()
        links = opened.page.locator(".pk-contents a")
        assert links.all_text_contents() == headings
        assert len(headings) > 5
        links.nth(3).click()
        opened.page.wait_for_selector(".pk-contents li:nth-child(4) a[aria-current]")
        assert opened.count(".pk-contents [aria-current]") == 1
        nav, heading = links.nth(3).bounding_box(), opened.page.locator("main h2").nth(3).bounding_box()
        assert 0 <= nav["y"] <= 900
        assert 0 <= heading["y"] < 200
        if width == 400:  # the bar stands above the heading that it leads to, and wide tables say that they are wide
            assert heading["y"] >= nav["y"] + nav["height"] - 1
            wide = "[...document.querySelectorAll('.pk-scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
            assert opened.count(".pk-hint:visible") == opened.page.evaluate(wide) > 0

    def test_headings_are_in_order_and_scrolling_parts_can_be_reached_by_keyboard(self, browser, report):
        opened = Opened(browser, report.html, 400)
        levels = opened.page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
        assert levels[0] == "H1"
        assert levels.count("H1") == 1
        assert opened.page.evaluate("document.documentElement.lang") == "en"
        assert opened.count("main") == opened.count("header") == opened.count("footer") == 1
        assert opened.count(".pk-scroll:not([tabindex='0'])") == 0
