"""Pictures for messages, as PNG and drawn without a browser.

Mail readers put pictures on light and dark pages and some turn colours round: these bring their own light card.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 500  # CSS pixels; drawn finer
_DPI = 168
_INCH = 96.0  # CSS pixels
CARD, INK, SOFT, GRID = "#fbfbfa", "#24292f", "#5d6570", "#dfe2e6"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.facecolor": CARD,
    "figure.facecolor": CARD,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "axes.unicode_minus": False,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart: PNG bytes, their size in CSS pixels, and in words what they show."""

    png: bytes
    width: int
    height: int
    alt: str


def drawn_picture(height: int, alt: str, draw: Callable[[Figure], None]) -> Picture:
    """What ``draw`` draws on an empty card of that height in CSS pixels."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # names in scripts that the font lacks: boxes do
        figure = Figure(figsize=(WIDTH / _INCH, height / _INCH), dpi=_DPI)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches=None, metadata={"Software": None})
    return Picture(buffer.getvalue(), WIDTH, height, alt)


def tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Lines behind the marks along one axis, and no frame."""
    axes.grid(axis=grid, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
