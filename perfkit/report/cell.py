"""What the kernel of a report does beside running cells: figures leave it as data, and the result as a JSON file.

It is light: a kernel imports it at its start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit.model.files import atomic_write
from perfkit.model.redaction import redact_document
from perfkit.report.html import PLOTLY, Html, render


def show_as_report() -> None:
    """Make this kernel hand out figures as data and pieces of HTML without inlined style, as the report needs them.

    The report draws figures with one embedded plotly.js; what plotly itself chooses inside papermill is a renderer
    whose figures nbconvert drops.  `perfkit.report.notebook` calls this when a kernel starts; nobody else needs to.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        formatters = shell.display_formatter
        formatters.ipython_display_formatter.for_type_by_name("plotly.graph_objs._figure", "Figure", _publish)
        formatters.formatters["text/html"].for_type(Html, lambda piece: piece.html)


def _publish(figure: Any) -> None:
    # plotly's own renderer of this kind first imports nbformat, for its version number: 0.5 to 2 s per notebook.
    from IPython.display import publish_display_data

    note = (figure.layout.meta or {}).get("note")
    if note is not None and not figure.data:
        bundle = {"text/html": render("note.html.j2", text=note), "text/plain": note}
    else:
        bundle = {PLOTLY: json.loads(figure.to_json()), "text/plain": "chart"}
    publish_display_data(bundle)  # type: ignore[no-untyped-call]


def write_result(result: Any, path: str | Path) -> None:
    """Write a result as JSON: an object with ``to_dict()``, or a mapping.  What is infinite or unknown is ``null``."""
    document = result if isinstance(result, Mapping) else result.to_dict()
    text = json.dumps(redact_document(_finite(document)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(Path(path), text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
