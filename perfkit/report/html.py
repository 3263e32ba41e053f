"""What a cell shows besides a chart: a piece of HTML, or one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from perfkit.report.formatting import clean

if TYPE_CHECKING:
    import jinja2

PLOTLY = "application/vnd.plotly.v1+json"  # the type under which a cell's output holds a chart


@dataclass(frozen=True, slots=True)
class Html:
    """A piece of finished, escaped HTML, with the same in plain words for a terminal."""

    html: str
    text: str = ""

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence in the place of a chart: why there is none."""

    text: str

    def _repr_html_(self) -> str:
        return render("note.html.j2", text=self.text)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perfkit.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template of ``perfkit/report/templates``; every value is escaped."""
    return _environment().get_template(template).render(**values)
