"""Panels one below the other, as wide as the page: they read at 400 px as well as at 1280 px."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.model import Run
from perfkit.render.drawing import Drawing
from perfkit.render.series import Floats, rounded
from perfkit.render.theme import BASELINE_COLOUR, CANDIDATE_COLOUR, label

EVERY = "\0"
"""The owner of a trace that is seen whatever service is chosen."""
MOST_SERVICES = 30
"""More services than this make a chart that nobody reads; the tables have them all."""


def points(services: int, most: int) -> int:
    """Points per line: fewer where there are many services, so that a report of any size stays a few MB."""
    return max(20, min(most, 12 * most // services))


@dataclass(frozen=True, slots=True)
class Side:
    """How one side of a comparison is drawn; dashes tell the sides apart where colour does not."""

    name: str
    runs: tuple[Run, ...]
    colour: str
    dash: str

    @property
    def band(self) -> str:
        """The fill of the band from the lowest to the highest run."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.22)"


def sides(baseline: Sequence[Run], candidate: Sequence[Run]) -> tuple[Side, ...]:
    """The sides that have runs; a side that is alone is drawn as the subject, not as a background."""
    if not candidate:
        return (Side("baseline", tuple(baseline), CANDIDATE_COLOUR, "solid"),) if baseline else ()
    both = (
        Side("baseline", tuple(baseline), BASELINE_COLOUR, "dash"),
        Side("candidate", tuple(candidate), CANDIDATE_COLOUR, "solid"),
    )
    return tuple(side for side in both if side.runs)


@dataclass(frozen=True, slots=True)
class Stack:
    """Geometry, in pixels, of ``rows`` panels of equal height under one another, below a strip of ``head``, if any."""

    rows: int
    row: int
    gap: int = 34
    top: int = 52
    bottom: int = 46
    head: int = 0

    @property
    def plot(self) -> int:
        """Height of all panels and the gaps between them."""
        return self.rows * self.row + (self.rows - 1) * self.gap + (self.head + self.gap if self.head else 0)

    @property
    def height(self) -> int:
        """Height of the whole chart."""
        return self.plot + self.top + self.bottom

    def domain(self, index: int) -> list[float]:
        """Where panel ``index`` (0 is at the top) lies, as plotly wants it."""
        start = index * (self.row + self.gap) + (self.head + self.gap if self.head else 0)
        return [max(0.0, 1.0 - (start + self.row) / self.plot), 1.0 - start / self.plot]

    @property
    def strip(self) -> list[float]:
        """Where the strip above the panels lies."""
        return [1.0 - self.head / self.plot, 1.0]

    def title(self, drawing: Drawing, index: int, text: str) -> None:
        """Write ``text`` above panel ``index``; it is plotly's HTML, so names must have gone through `label`."""
        drawing.text(
            x=0,
            xref="paper",
            xanchor="left",
            xshift=-46,
            y=self.domain(index)[1],
            yref="paper",
            yanchor="bottom",
            yshift=6,
            text=text,
            font={"size": 12},
        )


def axis(index: int) -> str:
    """plotly counts axes ``x``, ``x2``, ``x3``."""
    return "" if index == 0 else str(index + 1)


def band(drawing: Drawing, side: Side, x: Sequence[Any], low: Floats, high: Floats, **where: Any) -> None:
    """Draw the stretch from the lowest to the highest run, gaps left out."""
    keep = [i for i in range(len(x)) if math.isfinite(low[i]) and math.isfinite(high[i])]
    xs = [x[i] for i in keep]
    lows, highs = rounded(low[keep]), rounded(high[keep])
    drawing.scatter(
        x=xs + xs[::-1],
        y=highs + lows[::-1],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=side.band,
        hoverinfo="skip",
        showlegend=False,
        **where,
    )


def line(drawing: Drawing, side: Side, x: Sequence[Any], y: Floats, **extra: Any) -> None:
    """Draw the line of one side."""
    style = {"color": side.colour, "width": 2.2, "dash": side.dash}
    drawing.scatter(x=list(x), y=rounded(y), mode="lines", line=style, name=side.name, **extra)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a log axis in milliseconds at 1, 2 and 5 times powers of ten; fewer when the axis is long."""
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    if len(values) < 2:
        values = [low, math.sqrt(low * high), high]
    return {"tickvals": values, "ticktext": [duration(value) for value in values]}


def duration(milliseconds: float) -> str:
    """``5 ms``, ``200 ms``, ``2 s``."""
    return f"{milliseconds / 1000:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def selector(drawing: Drawing, services: Sequence[str], owners: Sequence[str], stack: Stack, below: int = 28) -> None:
    """Let the reader choose the service whose traces are seen.

    ``owners`` names the service of each trace, or `EVERY`; ``below`` is where the menu begins, in pixels from the top.
    """
    for trace, owner in zip(drawing.traces, owners, strict=True):
        trace["visible"] = owner in (services[0], EVERY)
    if len(services) < 2:
        return
    buttons = [
        {"label": label(name, 34), "method": "restyle", "args": [{"visible": [o in (name, EVERY) for o in owners]}]}
        for name in services
    ]
    drawing.arrange(
        updatemenus=[
            {
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1 + (stack.top - below) / stack.plot,
                "yanchor": "top",
                "pad": {"l": -46, "t": 0, "b": 0, "r": 0},
                "bgcolor": "rgba(128,136,150,0.10)",
                "bordercolor": "rgba(128,136,150,0.45)",
                "showactive": True,
            }
        ]
    )
