"""The page of a report: an executed notebook as one HTML file that opens offline and asks nobody for anything.

Verdict, texts and tables stand in the HTML, and each chart as a picture (`perfkit.report.picture`), so that a reader
waits for no script, and paper shows every service.  plotly.js lies at the end, compressed; a script takes it out when
the first chart comes near, and puts the chart that can be zoomed in the place of its picture.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.model.errors import RenderError
from perfkit.model.installation import VERSION, shipped_files
from perfkit.model.records import Metric
from perfkit.model.redaction import mask
from perfkit.model.serialization import comparison_from_document
from perfkit.report.findings import worst_first
from perfkit.report.formatting import clean, count_text, format_change, format_signed, shorten
from perfkit.report.html import PLOTLY
from perfkit.report.picture import svg_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

_DRAWN = 'class="pk-plot"'
_LIBRARY, _CONTENTS, _PICTURES = "<!-- plotly.js -->", "<!-- contents -->", "<!-- pictures {} -->"
_BUNDLE = Path(__file__).parent / "plotlyjs" / "plotly-basic.min.js.gz"
_IN_BUNDLE = {"scatter", "bar", "pie"}
_MENU = 36  # pixels that a figure keeps for plotly's menu of services
_LONGEST_TITLE = 120  # characters


def export_html(notebook: NotebookNode, *, kind: str, title: object, result: Mapping[str, Any]) -> str:
    """The report: code hidden, charts drawn by one embedded plotly.js, no link to anywhere.

    ``RenderError``: the page has fewer or more charts than the notebook; nbconvert drops some in silence.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    facts = [f"perfkit {VERSION}", f"written {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"]
    if "rule" in result:
        facts.append(f"rule {result['rule']}")
    if result.get("rule") == "evidence":
        facts.append(f"alpha {result['alpha']:g}")
    headings = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    question = next((line[2:].strip() for line in headings if line.startswith("# ")), "perfkit report")
    name = clean(title) if title else ""
    page = {"kind": kind, "title": page_title(notebook, result, name) or question, "name": name, "facts": facts}
    page["words"] = _glossary(" ".join(output.get("data", {}).get("text/html", "") for output in _outputs(notebook)))
    charts = [output.data[PLOTLY] for output in _outputs(notebook) if PLOTLY in output.get("data", {})]
    pictures = iter(_PICTURES.format(number) for number in range(len(charts)))
    exporter = HTMLExporter(
        config=Config(
            {"NbConvertBase": {"display_data_priority": [PLOTLY, "text/html", "text/markdown", "text/plain"]}}
        ),
        template_name="report",
        extra_template_basedirs=[str(Path(__file__).parent / "templates")],
        exclude_anchor_links=True,
        filters={"without_menus": _without_menus, "pictures": lambda _: next(pictures)},
    )
    exporter.environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    html, _ = exporter.from_notebook_node(notebook, resources={"perfkit": page})
    expected, drawn = count_charts(notebook), html.count(_DRAWN)
    if drawn != expected:
        raise RenderError(f"notebook {kind}: has {expected} charts, but {drawn} reached the report; none may be lost")
    # What is long is put in last: nbconvert parses the whole page once more.
    for number, chart in enumerate(charts):
        html = html.replace(_PICTURES.format(number), "\n".join(_pictures(chart)))
    html = mask(_with_contents(html))
    if html.count(_LIBRARY) != 1:
        raise RenderError("the report template must have one place for plotly.js")
    whole: str = html.replace(_LIBRARY, base64.b64encode(_library(charts)).decode() if charts else "")
    return whole


def count_charts(notebook: NotebookNode) -> int:
    """Charts among the outputs of a notebook."""
    return sum(PLOTLY in output.get("data", {}) for output in _outputs(notebook))


def _glossary(text: str) -> list[tuple[str, str]]:
    """Words of the glossary that stand in a text, with what they mean."""
    words, text = [], re.sub(r"<[^>]*>", " ", text)
    for path in shipped_files("docs", "glossary.md"):
        for entry, meaning in re.findall(r"^\| (\*\*.*?) \| (.*) \|$", path.read_text(encoding="utf-8"), re.MULTILINE):
            if any(
                re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
                for word in re.findall(r"\*\*(.*?)\*\*", entry)
            ):
                words.append((entry.replace("**", ""), re.sub(r"[*`]", "", meaning)))
    return words


def _outputs(notebook: NotebookNode) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def page_title(notebook: NotebookNode, result: Mapping[str, Any], name: str = "") -> str:
    """What a tab or a list of files shows of a report: ``shop: regression, GET /search p50 +14 %``.

    It says what the banner of the executed notebook answers, and what got worse most by the result; ``name`` stands for
    the scenario.
    """
    schema = str(result.get("schema", "")).partition("/")[0].removeprefix("perfkit.")
    html = " ".join(str(output.get("data", {}).get("text/html", "")) for output in _outputs(notebook))
    banner = re.search(r'<section class="pk-banner pk-(\w+)".*?<strong>(.*?)</strong>', html, re.DOTALL)
    kind, word = (banner[1], unescape(banner[2])) if banner else ("", "")
    runs, worst = result.get("runs") or (), ""
    if schema == "comparison":
        runs = result["candidate"]["runs"] or result["baseline"]["runs"]
        first = next(iter(worst_first(comparison_from_document(result, "result").findings)), None)
        if first is not None and first.verdict == kind and kind in ("regression", "improvement"):
            worst = _named(first.service, Metric(first.metric), format_change(first))
    elif schema == "trend":
        runs = (result,)
        worse = [item for event in reversed(result["events"]) for item in event["movements"] if item["worse"]]
        if kind == "regression" and worse:  # the newest event, and in it what hurts most
            first, metric = worse[0], Metric(worse[0]["metric"])
            size = first["after"] - first["before"] if metric.change_unit == "pp" else first["change_pct"]
            change = f"{format_signed(size, metric.change_unit)} {metric.change_unit}"
            worst = _named(first["service"], metric, change)
    elif schema == "capacity":
        changes = [item for item in result["differences"] if item["verdict"] == kind == "regression"]
        if changes:
            first = max(changes, key=lambda item: abs(item["change_pct"] or 0.0))
            change = f" {format_signed(first['change_pct'], '%')} %" if first["change_pct"] is not None else ""
            worst = f"{shorten(first['service'])} {first['question']}{change}"
    elif schema == "baseline":
        word, worst = "what is normal", word or count_text(len(runs), "run")
    subject = name or (runs[0]["scenario"] if runs else "")
    answer = ", ".join(filter(None, (word, worst)))
    return shorten(": ".join(filter(None, (shorten(subject, 60), answer))), _LONGEST_TITLE)


def _named(service: str, metric: Metric, change: str) -> str:
    short = metric.value.removesuffix("_latency_ms") if metric.unit == "ms" else metric.title
    return f"{shorten(service)} {short} {change}"


def _with_contents(html: str) -> str:
    """The page with a name for each of its sections, and links to them."""
    links: dict[str, str] = {}

    def named(heading: re.Match[str]) -> str:
        text = re.sub("<[^>]*>", "", heading[1])
        anchor = stem = re.sub(r"\W+", "-", unescape(text).lower()).strip("-")
        while anchor in links:
            anchor += f"-{stem}"
        links[anchor] = f'<li><a href="#{anchor}">{text}</a></li>'
        return f'<h2 id="{anchor}">{heading[1]}</h2>'

    html = re.sub(r"<h2>(.*?)</h2>", named, html, flags=re.DOTALL)
    return html.replace(_CONTENTS, "\n".join(links.values()))


def _without_menus(chart: Mapping[str, Any]) -> dict[str, Any]:
    """A figure without plotly's menus: the page has one that a keyboard and a screen reader can use."""
    layout = dict(chart["layout"])
    if layout.pop("updatemenus", None):
        layout["height"] -= _MENU
        layout["margin"] = {**layout["margin"], "t": layout["margin"]["t"] - _MENU}
    return {"data": chart["data"], "layout": layout}


def _pictures(chart: Mapping[str, Any]) -> Iterator[str]:
    """The picture of a figure, then one for each further choice of its menu, which only paper shows."""

    # In a page of HTML, SVG needs no name of its language
    def drawn(figure: Mapping[str, Any]) -> str | None:
        picture = svg_of(figure)
        return picture and picture.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)

    shown = drawn(chart)
    if shown is None:
        yield '<p class="pk-picture pk-note">This chart has no picture: it needs JavaScript.</p>'
        return
    yield f'<div class="pk-picture">{shown}</div>'
    for menu in chart["layout"].get("updatemenus") or ():
        for number, button in enumerate(menu["buttons"]):
            if number != (menu.get("active") or 0):
                seen = button["args"][0]["visible"]
                data = [{**trace, "visible": is_seen} for trace, is_seen in zip(chart["data"], seen, strict=True)]
                layout = {**chart["layout"], "updatemenus": [{**menu, "active": number}]}
                picture = drawn({"data": data, "layout": layout})
                yield f'<div class="pk-picture pk-on-paper">{picture or ""}</div>'


def _library(charts: list[Mapping[str, Any]]) -> bytes:
    """plotly.js, compressed: its small edition, or all of it where a figure was restyled beyond that.

    The small edition is that of one version; a plotly of another major version brings its own.
    """
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    with gzip.open(_BUNDLE) as bundle:
        version = re.search(rb"plotly\.js [^\n]*v(\d+)\.", bundle.read(200))
    same = version is not None and version[1].decode() == get_plotlyjs_version().partition(".")[0]
    if same and all(trace.get("type", "scatter") in _IN_BUNDLE for chart in charts for trace in chart["data"]):
        return _BUNDLE.read_bytes()
    return gzip.compress(get_plotlyjs().encode(), mtime=0)
