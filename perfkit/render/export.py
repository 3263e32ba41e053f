"""An executed notebook as one HTML file that opens offline and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbconvert import HTMLExporter
from traitlets.config import Config

import perfkit
from perfkit.errors import RenderError
from perfkit.render.page import PLOTLY
from perfkit.render.theme import clean

if TYPE_CHECKING:
    from nbformat import NotebookNode

_DRAWN = 'class="pk-plot"'
_SCRIPT = "<!-- plotly.js -->"


def export_html(notebook: NotebookNode, *, kind: str, title: object, result: Mapping[str, Any]) -> str:
    """The report: code hidden, charts drawn by one embedded plotly.js, no link to anywhere.

    Raises
    ------
    RenderError
        The page has fewer or more charts than the notebook: nbconvert drops what it cannot show without an error.
    """
    question = _question(notebook)
    name = clean(title) if title else ""
    page = {
        "kind": kind,
        "title": f"{name} – {question}" if name else question,
        "name": name,
        "facts": _facts(result),
        "language": "en",
    }
    priority = [PLOTLY, "text/html", "text/markdown", "text/plain"]
    exporter = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": priority}}),
        template_name="report",
        extra_template_basedirs=[str(Path(__file__).parent / "templates")],
        exclude_anchor_links=True,
    )
    exporter.environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    html, _ = exporter.from_notebook_node(notebook, resources={"perfkit": page})
    expected, drawn = count_charts(notebook), html.count(_DRAWN)
    if drawn != expected:
        raise RenderError(f"notebook {kind}: has {expected} charts, but {drawn} reached the report; none may be lost")
    if html.count(_SCRIPT) != 1:
        raise RenderError("the report template must have one place for plotly.js")
    # Put in last: nbconvert parses the whole page once more, and need not parse 5 MB of script.
    whole: str = html.replace(_SCRIPT, f"<script>{_plotly_js()}</script>")
    return whole


def count_charts(notebook: NotebookNode) -> int:
    """Charts among the outputs of a notebook."""
    return sum(PLOTLY in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


def _question(notebook: NotebookNode) -> str:
    headings = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line[2:].strip() for line in headings if line.startswith("# ")), "perfkit report")


def _facts(result: Mapping[str, Any]) -> list[str]:
    facts = [f"perfkit {perfkit.__version__}", f"written {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"]
    if "rule" in result:
        facts.append(f"rule {result['rule']}")
    if result.get("rule") == "evidence":
        facts.append(f"alpha {result['alpha']:g}")
    return facts


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
