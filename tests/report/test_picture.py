"""A figure's static picture: what it holds, that plotly draws the same, and that stock tools show it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import needs_chromium
from plotly.offline import get_plotlyjs
from samples import REPOSITORY, requests

import perfkit
from perfkit.report.figure import Figure
from perfkit.report.html import PLOTLY
from perfkit.report.picture import WIDTH, svg_of

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '"><script>window.pwned=1</script>&<b>'
LAYOUT = {"height": 400, "margin": {"l": 60, "r": 40, "t": 50, "b": 50}, "showlegend": False}


def figure(*traces, **layout):
    return Figure({"data": list(traces), "layout": {**LAYOUT, **layout}})


def picture(drawn):
    """The elements of a figure's picture."""
    return ElementTree.fromstring(svg_of(json.loads(drawn.to_json())))


def markers(drawn):
    """Where circles stand: each one of its own, or the dots of a path."""
    alone = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in picture(drawn).iter(f"{SVG}circle")]
    dots = [re.findall(r"M(\S+) ([^Mh]+)h0", path.get("d")) for path in picture(drawn).iter(f"{SVG}path")]
    return alone + [(float(x), float(y)) for path in dots for x, y in path]


def texts(drawn):
    return ["".join(text.itertext()) for text in picture(drawn).iter(f"{SVG}text")]


def dots(x, y, **more):
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": {"size": 6}, **more}


@pytest.mark.parametrize(
    ("x", "xaxis", "places"),
    [
        ([0, 5, 10], {"range": [0, 10]}, [60, 460, 860]),
        ([10, 5, 0], {"range": [10, 0]}, [60, 460, 860]),
        ([1, 10, 100], {"type": "log", "range": [0, 2]}, [60, 460, 860]),
        (["2026-01-01", "2026-01-02", "2026-01-03"], {"range": ["2026-01-01", "2026-01-03"]}, [60, 460, 860]),
        (["a", "b", "c"], {"type": "category", "range": [0, 2]}, [60, 460, 860]),
    ],
)
def test_a_marker_stands_where_its_axes_say(x, xaxis, places):
    drawn = figure(dots(x, [0, 50, 100]), xaxis=xaxis, yaxis={"range": [0, 100]})
    assert markers(drawn) == [(place, height) for place, height in zip(places, [350, 200, 50], strict=True)]


def test_a_tick_between_categories_is_drawn_and_kept_inside():
    axis = {"type": "category", "tickvals": [0.03, 1], "ticktext": ["24 September", "25 Sep"], "range": [0, 1]}
    margin = {"l": 6, "r": 6, "t": 6, "b": 40}
    line = {"type": "scatter", "mode": "lines", "x": ["run 1", "run 2"], "y": [1, 2]}
    drawn = svg_of({"data": [line], "layout": {"xaxis": axis, "margin": margin}})
    (at,) = re.findall(r'x="([\d.]+)"[^>]*>(?:<tspan[^>]*>)?24 September', drawn)
    assert 30 < float(at) < 60
    assert "25 Sep" in drawn


def test_only_what_is_seen_at_first_is_drawn():
    hidden = dots([1], [1], name="hidden", visible=False)
    drawn = figure(dots([1], [1], name="seen"), hidden, dots([1], [1], name="also"), showlegend=True)
    assert len(markers(drawn)) == 4  # two marks, and theirs in the legend
    assert {"seen", "also"} <= set(texts(drawn))
    assert "hidden" not in texts(drawn)


def test_names_from_outside_are_text():
    drawn = figure(
        dots([1], [1], name=HOSTILE),
        dots([1], [2], name="other"),
        showlegend=True,
        annotations=[{"text": "&lt;script&gt;x", "x": 1, "y": 1, "xref": "x", "yref": "y"}],
        meta={"alt": HOSTILE},
        xaxis={"tickvals": [1], "ticktext": [HOSTILE]},
    )
    svg = svg_of(json.loads(drawn.to_json()))
    assert "<script" not in svg
    assert "<script>x" in texts(drawn)
    assert {element.tag for element in picture(drawn).iter()} <= {
        f"{SVG}{t}" for t in ["svg", "rect", "path", "circle", "text", "tspan"]
    }


@pytest.mark.parametrize(("dash", "drawn"), [("dash", "6 4"), ("dot", "2 3"), ("solid", None)])
def test_a_dashed_line_is_dashed_and_so_is_its_entry_in_the_legend(dash, drawn):
    lines = [{"mode": "lines", "x": [0, 1], "y": [0, i], "name": str(i)} for i in (1, 2)]
    lines[0]["line"] = {"dash": dash, "color": "#123456", "width": 3}
    strokes = [p for p in picture(figure(*lines, showlegend=True)).iter(f"{SVG}path") if p.get("stroke") == "#123456"]
    assert [(p.get("stroke-dasharray"), p.get("stroke-width")) for p in strokes] == [(drawn, "3")] * 2


@pytest.mark.parametrize(
    "trace",
    [
        {"type": "bar", "x": [1], "y": [1]},
        dots([1], [1], error_y={"array": [1]}),
        dots([1], [1], marker={"symbol": "hexagon"}),
        {"type": "scatter", "mode": "text", "x": [1], "y": [1], "text": ["a"]},
        {"type": "pie", "values": [1, 2]},
    ],
)
def test_no_picture_is_better_than_a_wrong_one(trace):
    drawn = figure(dots([1], [1]), trace, meta={"alt": "what it shows"})
    bundle = drawn._repr_mimebundle_()
    assert bundle.keys() == {PLOTLY, "text/plain"}
    assert bundle["text/plain"] == "what it shows"


def test_every_figure_of_the_public_api_has_a_picture_and_says_what_it_shows(rng):
    slow, fast = (
        [perfkit.run_from_requests(requests(rng, slower=s, begin=1.76e9 + 60 * i), scenario="api") for i in range(3)]
        for s in (1.3, 1.0)
    )
    comparison = perfkit.compare(fast, slow)
    for name in ("forest", "latency", "percentiles", "timeline", "runs"):
        bundle = getattr(comparison.plot, name)()._repr_mimebundle_()
        assert bundle.keys() == {PLOTLY, "image/svg+xml", "text/plain"}, name
        assert len(bundle["text/plain"]) > 30
        assert len(bundle["image/svg+xml"]) < 60_000
    restyled = comparison.plot.forest().update_layout(title="mine", template="plotly_dark")
    assert restyled._repr_mimebundle_()["image/svg+xml"]


def test_a_renderer_that_the_user_chose_has_precedence(monkeypatch, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        formatter = shell.display_formatter
        assert PLOTLY in formatter.format(figure(dots([1], [1])))[0]
        assert "text/html" not in formatter.format(figure(dots([1], [1])))[0]
        monkeypatch.setenv("PLOTLY_RENDERER", "json")
        monkeypatch.setattr("plotly.io.renderers.default", "json")
        assert formatter.format(figure(dots([1], [1]))) == ({}, {})
    finally:
        InteractiveShell.clear_instance()
    capsys.readouterr()


class TestBesidePlotly:
    pytestmark = needs_chromium

    @pytest.mark.parametrize("rows", [1, 3])
    def test_marks_stand_where_plotly_puts_them(self, browser, tmp_path, rows):
        grid = {
            "rows": rows,
            "columns": 1,
            "subplots": [[f"xy{'' if i == 0 else i + 1}"] for i in range(rows)],
            "ygap": 0.3,
        }
        axes = {f"yaxis{'' if i == 0 else i + 1}": {"range": [0, 10], "anchor": "x"} for i in range(rows)}
        traces = [
            dots([1, 3, 7], [2, 5, 9], xaxis="x", yaxis=f"y{'' if i == 0 else i + 1}", cliponaxis=False)
            for i in range(rows)
        ]
        drawn = figure(*traces, grid=grid, xaxis={"range": [0, 10]}, width=WIDTH, **axes)
        page = browser.new_page()
        script = f'{get_plotlyjs()};Plotly.newPlot("p", {drawn.to_json()})'
        html = f'<meta charset="utf-8"><body style="margin:0"><div id="p"></div><script>{script}</script>'
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(".point")
        boxes = page.eval_on_selector_all(".point", "all => all.map(p => p.getBoundingClientRect().toJSON())")
        theirs = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
        ours = markers(drawn)
        assert len(ours) == len(theirs) == 3 * rows
        for (x, y), (their_x, their_y) in zip(sorted(ours), sorted(theirs), strict=True):
            assert (x, y) == (pytest.approx(their_x, abs=1.0), pytest.approx(their_y, abs=1.0))

    @pytest.mark.slow
    @pytest.mark.parametrize(("kind", "charts"), [("baseline", 5), ("capacity", 1), ("compare", 5), ("trend", 2)])
    def test_stock_nbconvert_shows_every_chart(self, browser, tmp_path, kind, charts):
        """As a user: papermill in a folder of one's own, then nbconvert as it comes."""
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "samples").symlink_to(REPOSITORY / "data" / "samples")

        def run(*words):
            done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]

        run("papermill", "-k", "python3", str(REPOSITORY / "notebooks" / f"{kind}.ipynb"), f"{kind}.ipynb")
        assert (tmp_path / f"{kind}.ipynb").stat().st_size < 1_500_000
        run("nbconvert", "--to", "html", f"{kind}.ipynb")
        run("nbconvert", "--to", "markdown", f"{kind}.ipynb")
        page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
        page.goto((tmp_path / f"{kind}.html").as_uri())
        heights = page.eval_on_selector_all("svg", "all => all.map(s => s.getBoundingClientRect().height)")
        pictures = page.eval_on_selector_all("img", "all => all.map(i => i.complete ? i.naturalHeight : 0)")
        assert sum(height > 150 for height in heights + pictures) == charts
        named = re.findall(r"!\[svg\]\((.*?)\)", (tmp_path / f"{kind}.md").read_text(encoding="utf-8"))
        assert len(named) == charts
        assert all(Path(tmp_path / name).is_file() for name in named)
