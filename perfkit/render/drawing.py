"""A chart in the making."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go


@dataclass(slots=True)
class Drawing:
    """The parts of a chart, as plotly names them, until `figure` makes one of them.

    plotly checks every part whenever one is added, so a chart with hundreds of marks that grows piece by piece takes
    many seconds; checked as a whole it takes milliseconds.
    """

    traces: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def scatter(self, **trace: Any) -> None:
        """Add marks or a line."""
        self.traces.append({"type": "scatter", **trace})

    def text(self, **annotation: Any) -> None:
        """Add a text; it is plotly's HTML, so names must have gone through `perfkit.render.theme.label`."""
        self.annotations.append({"showarrow": False, **annotation})

    def shape(self, **shape: Any) -> None:
        """Add a rectangle or a stroke."""
        self.shapes.append(shape)

    def arrange(self, **parts: Any) -> None:
        """Set parts of the layout; a part that is there already, such as an axis, is added to."""
        for name, part in parts.items():
            before = self.layout.get(name)
            self.layout[name] = {**before, **part} if isinstance(before, dict) and isinstance(part, dict) else part

    def figure(self) -> go.Figure:
        """The finished chart."""
        layout = {**self.layout, "annotations": self.annotations, "shapes": self.shapes}
        return go.Figure({"data": self.traces, "layout": layout})
