"""What a cell shows besides a figure: a piece of escaped HTML.

perfkit's own report has one style sheet for the whole page.  Everywhere else (JupyterLab, a stock nbconvert, mail) the
style is inlined, with colours that can be read on a light and on a dark page, because a front end keeps no style sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from perfkit.report.formatting import VERDICT_COLOURS, clean

if TYPE_CHECKING:
    import css_inline
    import jinja2

PLOTLY = "application/vnd.plotly.v1+json"  # the type under which a cell's output holds a figure


@dataclass(frozen=True, slots=True)
class Html:
    """A piece of finished, escaped HTML, with the same in plain words for a terminal."""

    html: str
    text: str = ""

    def _repr_html_(self) -> str:
        return inlined(self.html)

    def __repr__(self) -> str:
        return self.text

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


@lru_cache(maxsize=1)
def _inliner() -> css_inline.CSSInliner:
    import css_inline

    return css_inline.CSSInliner(load_remote_stylesheets=False)


def inlined(html: str) -> str:
    """The piece with its style in ``style`` attributes, and without its classes' style sheet."""
    piece: str = _inliner().inline_fragment(f'<div class="pk">{html}</div>', _STYLE)
    return piece


# Greys are half-transparent and texts inherit their colour, so that both lie well on a light and on a dark page.
# ``!important`` holds against JupyterLab's own style of tables.
_STYLE = """
.pk { max-width: 70rem; font-size: 13px; line-height: 1.5; }
.pk-banner { border: 1px solid rgba(128,136,150,.35); border-radius: 6px; margin: 8px 0; }
.pk-banner p { margin: 4px 0; }
.pk-banner .pk-verdict { font-size: 22px; line-height: 1.25; margin: 0 0 4px; }
.pk-title { font-weight: 600; }
.pk-overall { font-size: 14px; font-weight: 600; }
.pk-events { margin: 6px 0; padding-left: 20px; }
.pk-basis, .pk-small { opacity: .75; font-size: 12px; margin: 6px 0; }
.pk-note { background: rgba(128,136,150,.12); border-radius: 6px; padding: 8px 12px; margin: 8px 0; }
.pk-heading { font-size: 15px; font-weight: 600; margin: 8px 0 4px; }
.pk-heading .pk-soft, .pk-soft { opacity: .75; font-weight: 400; font-size: 13px; }
.pk-footnotes, .pk-warnings { font-size: 12px; padding-left: 22px; margin: 6px 0; }
.pk-scroll { overflow: auto; max-height: 32rem; border: 1px solid rgba(128,136,150,.35); border-radius: 6px;
  margin: 8px 0; }
.pk-table { border-collapse: collapse; table-layout: auto !important; width: 100%; margin: 0 !important; border: 0;
  font-size: 12px; font-variant-numeric: tabular-nums; }
.pk-table tr { background: transparent !important; }
.pk-table th, .pk-table td { padding: 4px 8px; text-align: left !important; vertical-align: top; white-space: nowrap;
  border: 0; border-bottom: 1px solid rgba(128,136,150,.22); max-width: none; }
.pk-table th { font-weight: 500; }
.pk-fit { display: inline-block; max-width: 100%; box-sizing: border-box; }
.pk-facts { width: auto; }
.pk-table code { white-space: nowrap; background: transparent; padding: 0; }
.pk-table thead th { background: rgba(128,136,150,.12); font-weight: 600; vertical-align: bottom; }
.pk-table .pk-group th { font-weight: 650; padding-top: 8px; white-space: normal; }
.pk-table .n { text-align: right !important; }
.pk-table .pk-wide { white-space: normal; min-width: 10rem; overflow-wrap: anywhere; }
.pk-table .pk-between { font-weight: 400; opacity: .75; }
.pk-table td.pk-v { font-weight: 600; }
.pk-table abbr { text-decoration: none; }
.pk-row-regression th, .pk-row-regression td { background: rgba(209,72,10,.10); }
.pk-differs th, .pk-differs td { background: rgba(184,134,11,.16); }
.pk-unfit th, .pk-unfit td { background: rgba(128,136,150,.12); }
.pk-tag { font-size: 11px; border: 1px solid currentColor; border-radius: 3px; padding: 0 4px; margin-left: 6px; }
.pk-command, .pk-plain { background: rgba(128,136,150,.12); border-radius: 6px; padding: 8px 12px; margin: 4px 0 10px;
  overflow-x: auto; font-size: 12px; white-space: pre-wrap; }
.pk-calendar { line-height: 1; }
.pk-month { display: inline-table; table-layout: auto !important; width: auto; vertical-align: top;
  margin: 0 18px 14px 0 !important; border: 0;
  border-collapse: separate; border-spacing: 2px; font-size: 11px; line-height: 1; }
.pk-month caption { text-align: left; font-weight: 600; padding-bottom: 4px; }
.pk-month tr { background: transparent !important; }
.pk-month th { font-weight: 400; opacity: .75; padding: 0; text-align: center !important; }
.pk-month td { width: 20px; height: 20px; padding: 0; text-align: center !important; vertical-align: middle;
  border-radius: 3px; border: 0; }
.pk-month td a { color: inherit; text-decoration: none; font-weight: 700; }
.pk-month .pk-day-runs { background: rgba(43,127,212,.22); }
.pk-month .pk-day-unfit, .pk-month .pk-day-known { background: rgba(128,136,150,.25); }
""" + "".join(
    f".pk-{verdict.value} .pk-verdict, td.pk-{verdict.value}, .pk-event-kind.pk-{kind} {{ color: {colour}; }}\n"
    f".pk-month .pk-day-{kind} {{ background: {colour}; color: #fff; }}\n"
    for verdict, colour in VERDICT_COLOURS.items()
    for kind in ("mixed" if verdict.value == "inconclusive" else verdict.value,)
)
